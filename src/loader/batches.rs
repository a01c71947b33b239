//! The iterator over an epoch.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::Stream;
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::cost::EpochSpending;
use crate::cache::CacheStats;
use crate::collate::Batch;
use crate::engine::arrivals::{Arrival, Arrivals};
use crate::engine::cached::CacheSession;
use crate::engine::loss::LossTotals;
use crate::engine::pool::HeldBytes;
use crate::engine::shutdown::{Closed, EpochShutdown, close_epoch};
use crate::engine::wait_report::{WaitTotals, WaitWatcher, WaitedFor};
use crate::manifest::Manifest;
use crate::metrics::Counts;
use crate::observe::audit::EpochAudit;
use crate::pacing::auto::Auto;
use crate::pacing::starvation::WaitReporter;
use crate::plan::{Bill, GroupCounts, Groups};
use crate::sample::{DeliveredBatches, State};
use crate::{Error, ErrorKind, Result, Stage};

/// How long the end of an epoch waits for temporary objects that are still being deleted.
const AT_END: Duration = Duration::from_secs(30);

/// What an epoch has come to so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct EpochStats {
    /// Batches delivered.
    pub batches: u64,
    /// Samples delivered.
    pub samples: u64,
    /// Bytes of those, as stored.
    pub bytes: u64,
    /// Samples delivered whose bytes were proved by a CRC.
    pub verified: u64,
    /// Samples that batches delivered go without: [`Batch::skipped`] of all of them.
    pub skipped: u64,
    /// Samples that others came in the place of: [`Batch::substituted`] of all batches delivered.
    pub substituted: u64,
    /// From the start of the epoch to its first batch.
    pub first_batch: Duration,
    /// Time that the training loop waited for the batches after the first.
    pub waited: Duration,
    /// Time that it waited for any, the first included, by what these were waiting for: what makes the loader faster where
    /// [`wait_fraction`](Self::wait_fraction) is high. What a batch waits for is looked at when the loop comes for it, and
    /// again every 64 ms at most.
    pub waited_for: WaitedFor,
    /// How often a wait was so long that it was told in the log; see
    /// [`stall_report`](crate::loader::DataLoaderBuilder::stall_report).
    pub stalls: u64,
    /// From the first batch to the last.
    pub running: Duration,
    /// Temporary objects not known to be deleted when the epoch ended, which waits for them, 30 s at most. In
    /// [a series](crate::loader::DataLoader::epochs) only the last does; those of the others are deleted while the next is delivered.
    pub temporaries_left: u64,
    /// How what was begun so far is read; some of it may not be delivered yet.
    pub groups: Groups,
    /// What this epoch asked of the service, retries and what is still ahead of the training loop included; nothing of
    /// other epochs, nor of the listing.
    pub ops: Counts,
    /// What that costs, on this rank: the same parts as in a [forecast](crate::plan::Forecast).
    pub bill: Bill,
    /// What came from the [cache](crate::loader::DataLoaderBuilder::cache), and what went there.
    pub cache: CacheStats,
}

impl EpochStats {
    /// Share of the time since the first batch that the training loop waited for data: 0 is perfect.
    pub fn wait_fraction(&self) -> f64 {
        if self.running.is_zero() { 0.0 } else { self.waited.as_secs_f64() / self.running.as_secs_f64() }
    }
}

/// Has batches that nobody wants dropped elsewhere, since that may take long.
pub(crate) type Discard<B> = Box<dyn Fn(Arrivals<B>) + Send + Sync>;

/// The batches of one epoch, in order, unless they are to come [as they are done](crate::loader::DataLoaderBuilder::unordered).
///
/// After an error the epoch is over. Dropping it returns at once; what is under way is called off, batches that are ahead
/// are dropped by the decode threads, and temporary objects are deleted behind it. [`close`](Self::close) waits for that.
pub struct Batches<B> {
    arrivals: Arrivals<B>,
    watch: WaitWatcher,
    waits: WaitTotals,
    report: WaitReporter,
    ending: Arc<EpochShutdown>,
    /// Until the epoch is over: it keeps the decode threads alive.
    discard: Option<Discard<B>>,
    groups: Arc<GroupCounts>,
    kept: Option<CacheSession>,
    spent: EpochSpending,
    manifest: Arc<Manifest>,
    /// As it was at the start, and without the digest, which may not be known yet.
    state: State,
    delivered: DeliveredBatches,
    stats: EpochStats,
    losses: LossTotals,
    audit: Option<EpochAudit>,
    started: Instant,
    first: Option<Instant>,
    over: bool,
    /// Whether another epoch is to be delivered, which waits for nothing of this one.
    followed: bool,
    /// Bytes of the batch that the training loop has: they count until it asks for the next.
    in_hand: Vec<HeldBytes>,
}

impl<B> Batches<B> {
    pub(crate) fn new(
        (arrivals, watch): (Arrivals<B>, WaitWatcher),
        (ending, discard): (Arc<EpochShutdown>, Discard<B>),
        (groups, auto, kept): (Arc<GroupCounts>, Option<Arc<Auto>>, Option<CacheSession>),
        spent: EpochSpending,
        manifest: Arc<Manifest>,
        (state, delivered): (State, DeliveredBatches),
        (losses, audit): (LossTotals, Option<EpochAudit>),
    ) -> Self {
        // None until it is known to wait: at the start little is ahead to make up for what is refused.
        let report = WaitReporter::new(auto, watch.throttles.appetite());
        Self {
            arrivals,
            watch,
            waits: WaitTotals::default(),
            report,
            ending,
            discard: Some(discard),
            groups,
            kept,
            spent,
            manifest,
            state,
            delivered,
            stats: EpochStats::default(),
            losses,
            audit,
            started: Instant::now(),
            first: None,
            over: false,
            followed: false,
            in_hand: Vec::new(),
        }
    }

    /// Where to go on after what was delivered so far; see [`DataLoaderBuilder::resume`](crate::loader::DataLoaderBuilder). It names
    /// the data by its digest: of a data set that is [streaming](crate::DatasetBuilder::streaming) this blocks until the
    /// listing has ended, and after one that failed no run can go on from it.
    pub fn state(&self) -> State {
        of_manifest(&self.bare_state(), &self.manifest)
    }

    /// The number of the epoch, counted from 0.
    pub fn epoch(&self) -> u64 {
        self.state.epoch
    }

    fn bare_state(&self) -> State {
        let (position, beyond) = self.delivered.state();
        State { position, beyond, ..self.state.clone() }
    }

    /// What the epoch has come to so far.
    pub fn stats(&self) -> EpochStats {
        EpochStats {
            groups: self.groups.groups(),
            ops: self.spent.ops(),
            bill: self.spent.bill(),
            cache: self.kept.as_ref().map(CacheSession::stats).unwrap_or_default(),
            waited_for: self.waits.waited_for,
            stalls: self.waits.stalls,
            ..self.stats
        }
    }

    /// Ends the epoch, wherever it is, and waits until nothing of it is left, `within` this time; tells what is. As when it
    /// is dropped, but for the waiting. Blocks.
    pub fn close(mut self, within: Duration) -> Closed {
        let ending = Arc::clone(&self.ending);
        close_epoch(&ending, || self.end(), within)
    }

    pub(crate) fn ending(&self) -> &Arc<EpochShutdown> {
        &self.ending
    }

    /// The training loop has got it, which may be long after it began to be read.
    pub(crate) fn is_taken(&mut self, now: Instant) {
        self.started = now;
    }

    /// Nothing is ahead of it, and some of it may be composed.
    pub(crate) fn waits_for_composes(&mut self) {
        self.report.waits_for_composes();
    }

    /// The batch that was given last is done with.
    pub(crate) fn let_go(&mut self) {
        self.in_hand.clear();
    }

    /// Another epoch comes behind it.
    pub(crate) fn is_followed(&mut self) {
        self.followed = true;
    }

    /// Returns at once; what is left finishes behind.
    fn end(&mut self) {
        self.over = true;
        self.report.end();
        self.ending.end();
        // Batches that are done hold bytes of the budget: let go of them, though this iterator may live on.
        if let Some(discard) = self.discard.take() {
            discard(self.arrivals.take());
        }
        self.in_hand.clear();
        self.ending.release();
    }

    fn receive(&mut self) -> Result<Option<Batch<B>>> {
        let report = |time| self.report.record_wait(time);
        let (ready, (number, positions)) =
            match self.watch.wait(&mut self.waits, self.stats.batches, &mut self.arrivals, report) {
                Arrival::Batch(ready, number, positions) => (ready?, (number, positions)),
                Arrival::End => return Ok(None),
                Arrival::Failed(error) => return Err(error),
                Arrival::Lost if self.ending.is_said() => {
                    return Err(ended_early());
                }
                Arrival::Lost => {
                    return Err(Error::new(ErrorKind::Internal, "a worker ended before its batch was done")
                        .stage(Stage::Deliver)
                        .hint("its panic message is on stderr; please report it"));
                }
            };
        self.losses.count(&ready.batch)?;
        if let Some(audit) = &mut self.audit {
            audit.record(&ready.batch, positions.end)?;
        }
        self.in_hand = ready.kept;
        self.delivered.add(number, positions);
        self.stats.batches += 1;
        self.stats.samples += ready.batch.len() as u64;
        self.stats.bytes += ready.bytes;
        self.stats.verified += ready.verified;
        (self.stats.skipped, self.stats.substituted) = self.losses.counts();
        Ok(Some(ready.batch))
    }
}

impl<B> Iterator for Batches<B> {
    type Item = Result<Batch<B>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        // Before the wait: the next batch may need them.
        self.in_hand.clear();
        let asked = Instant::now();
        let received = self.receive();
        let now = Instant::now();
        let since = self.first.map_or(now - asked, |first| (now - first).saturating_sub(self.stats.running));
        self.report.record_batch(now - asked, since);
        if let Some(first) = self.first {
            self.stats.waited += now - asked;
            self.stats.running = now - first;
        } else {
            self.first = Some(now);
            self.stats.first_batch = now - self.started;
        }
        match received {
            Ok(Some(batch)) => Some(Ok(batch)),
            Ok(None) => {
                self.over = true;
                self.losses.summarize(self.state.epoch);
                if let Some(kept) = &self.kept {
                    kept.flush();
                }
                let patience = if self.followed { Duration::ZERO } else { AT_END };
                self.stats.temporaries_left = self.ending.run().wait(patience);
                if self.stats.temporaries_left > 0 && !self.followed {
                    tracing::warn!(
                        count = self.stats.temporaries_left,
                        "temporary objects are still being deleted at the end of the epoch"
                    );
                }
                self.ending.release();
                self.discard = None;
                self.report.end();
                None
            }
            Err(error) => {
                self.end();
                Some(Err(error))
            }
        }
    }
}

impl<B> std::iter::FusedIterator for Batches<B> {}

impl<B> fmt::Debug for Batches<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches").field("state", &self.bare_state()).field("stats", &self.stats).finish_non_exhaustive()
    }
}

impl<B> Drop for Batches<B> {
    fn drop(&mut self) {
        self.end();
    }
}

pub(crate) fn ended_early() -> Error {
    Error::new(ErrorKind::Cancelled, "the loader was closed before the epoch was over").stage(Stage::Deliver)
}

pub(crate) fn of_manifest(state: &State, manifest: &Manifest) -> State {
    // The digest of what came before a failure would look like that of other data.
    let digest =
        manifest.complete().map_or_else(|_| "none: its listing failed".to_owned(), |()| manifest.digest().to_string());
    State { manifest: digest, ..state.clone() }
}

/// The batches of one epoch, as [`Batches`], for asynchronous code.
#[derive(Debug)]
pub struct BatchStream<B> {
    batches: mpsc::Receiver<StreamStep<B>>,
    manifest: Arc<Manifest>,
    /// As in [`Batches`].
    state: State,
    stats: EpochStats,
    /// That of [`Batches`], since these are not yet delivered when they come from there.
    audit: Option<EpochAudit>,
    ending: Arc<EpochShutdown>,
    over: bool,
    /// As in [`Batches`], which is a batch or two ahead.
    in_hand: Vec<HeldBytes>,
}

/// What the iterator gave, the bytes of that, and where it stood then.
type StreamStep<B> = (Option<Result<Batch<B>>>, Vec<HeldBytes>, State, EpochStats);

impl<B: Send + 'static> BatchStream<B> {
    pub(crate) fn new(mut batches: Batches<B>, io: &Handle) -> Result<Self> {
        let (ending, state) = (Arc::clone(&batches.ending), batches.bare_state());
        let (manifest, audit) = (Arc::clone(&batches.manifest), batches.audit.take());
        let (sender, receiver) = mpsc::channel(1);
        let (mut word, io) = (ending.listen(), io.clone());
        let thread = std::thread::Builder::new()
            .name("dataflux-stream".into())
            .spawn(move || {
                loop {
                    let batch = batches.next();
                    let last = batch.is_none();
                    let step = (batch, std::mem::take(&mut batches.in_hand), batches.bare_state(), batches.stats());
                    let sent = io.block_on(async {
                        tokio::select! {
                            biased;
                            sent = sender.send(step) => sent.is_ok(),
                            _ = word.wait_for(|&ended| ended) => false,
                        }
                    });
                    if !sent || last {
                        return;
                    }
                }
            })
            .map_err(|error| {
                Error::new(ErrorKind::Io, "the thread of a stream could not be started")
                    .stage(Stage::Deliver)
                    .hint("raise the limit on threads (ulimit -u)")
                    .with_source(error)
            })?;
        ending.has(thread);
        let (stats, in_hand) = (EpochStats::default(), Vec::new());
        Ok(Self { batches: receiver, manifest, state, stats, audit, ending, over: false, in_hand })
    }
}

impl<B> BatchStream<B> {
    /// The number of the epoch; as [`Batches::epoch`].
    pub fn epoch(&self) -> u64 {
        self.state.epoch
    }

    /// Where to go on after what was delivered so far; as [`Batches::state`], and blocks where that does.
    pub fn state(&self) -> State {
        of_manifest(&self.state, &self.manifest)
    }

    /// What the epoch has come to so far; as [`Batches::stats`].
    pub fn stats(&self) -> EpochStats {
        self.stats
    }
}

impl<B> Stream for BatchStream<B> {
    type Item = Result<Batch<B>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // Before the wait: the next batch may need them.
        self.in_hand.clear();
        if self.over {
            return Poll::Ready(None);
        }
        self.batches.poll_recv(context).map(|step| {
            let Some((batch, in_hand, state, stats)) = step else {
                // The thread said nothing of an end: the loader was closed.
                let ended = !std::mem::replace(&mut self.over, true);
                return ended.then(|| Err(ended_early()));
            };
            if let (Some(audit), Some(Ok(batch))) = (&mut self.audit, &batch)
                && let Err(error) = audit.record(batch, state.position)
            {
                self.over = true;
                self.ending.end();
                return Some(Err(error));
            }
            self.over |= !matches!(batch, Some(Ok(_)));
            (self.in_hand, self.state, self.stats) = (in_hand, state, stats);
            batch
        })
    }
}

impl<B> Drop for BatchStream<B> {
    fn drop(&mut self) {
        self.ending.end();
    }
}
