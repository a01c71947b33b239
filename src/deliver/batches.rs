//! The iterator over an epoch.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crossbeam_channel::Receiver;
use futures_util::Stream;
use tokio::sync::{mpsc, watch};

use super::auto::Auto;
use super::cached::Kept;
use super::cost::Spent;
use super::pipeline::Ticket;
use crate::budget::Permit;
use crate::cache::CacheStats;
use crate::collate::Batch;
use crate::fetch::Run;
use crate::manifest::Manifest;
use crate::metrics::Counts;
use crate::plan::{Bill, GroupCounts, Groups};
use crate::sample::State;
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
    /// From the start of the epoch to its first batch.
    pub first_batch: Duration,
    /// Time that the training loop waited for the batches after the first.
    pub waited: Duration,
    /// From the first batch to the last.
    pub running: Duration,
    /// Temporary objects not yet known to be deleted when the epoch ended.
    pub temporaries_left: u64,
    /// How what was begun so far is read; some of it may not be delivered yet.
    pub groups: Groups,
    /// What this epoch asked of the service, retries and what is still ahead of the training loop included; nothing of
    /// other epochs, nor of the listing.
    pub ops: Counts,
    /// What that costs, on this rank: the same parts as in a [forecast](crate::plan::Forecast).
    pub bill: Bill,
    /// What came from the [cache](super::DataLoaderBuilder::cache), and what went there.
    pub cache: CacheStats,
}

impl EpochStats {
    /// Share of the time since the first batch that the training loop waited for data: 0 is perfect.
    pub fn wait_fraction(&self) -> f64 {
        if self.running.is_zero() { 0.0 } else { self.waited.as_secs_f64() / self.running.as_secs_f64() }
    }
}

/// The batches of one epoch, in order.
///
/// After an error the epoch is over. Dropping it returns at once; what is under way is called off, and temporary
/// objects are deleted behind it.
#[derive(Debug)]
pub struct Batches<B> {
    tickets: Receiver<Ticket<B>>,
    cancel: Arc<watch::Sender<bool>>,
    run: Arc<Run>,
    groups: Arc<GroupCounts>,
    auto: Option<Arc<Auto>>,
    kept: Option<Kept>,
    spent: Spent,
    manifest: Arc<Manifest>,
    /// Without the digest, which may not be known yet.
    state: State,
    stats: EpochStats,
    started: Instant,
    first: Option<Instant>,
    over: bool,
    /// Bytes of the batch that the training loop has: they count until it asks for the next.
    in_hand: Vec<Arc<Permit>>,
}

impl<B> Batches<B> {
    pub(super) fn new(
        tickets: Receiver<Ticket<B>>,
        cancel: watch::Sender<bool>,
        (groups, auto, kept): (Arc<GroupCounts>, Option<Arc<Auto>>, Option<Kept>),
        run: Arc<Run>,
        spent: Spent,
        manifest: Arc<Manifest>,
        state: State,
    ) -> Self {
        Self {
            tickets,
            cancel: Arc::new(cancel),
            run,
            groups,
            auto,
            kept,
            spent,
            manifest,
            state,
            stats: EpochStats::default(),
            started: Instant::now(),
            first: None,
            over: false,
            in_hand: Vec::new(),
        }
    }

    /// Where to go on after what was delivered so far; see [`DataLoaderBuilder::resume`](super::DataLoaderBuilder). It names
    /// the data by its digest: of a data set that is [streaming](crate::DatasetBuilder::streaming) this blocks until the
    /// listing has ended, and after one that failed no run can go on from it.
    pub fn state(&self) -> State {
        of_manifest(&self.state, &self.manifest)
    }

    /// What the epoch has come to so far.
    pub fn stats(&self) -> EpochStats {
        let cache = self.kept.as_ref().map(Kept::stats).unwrap_or_default();
        EpochStats { groups: self.groups.groups(), ops: self.spent.ops(), cache, bill: self.spent.bill(), ..self.stats }
    }

    fn receive(&mut self) -> Result<Option<Batch<B>>> {
        let lost = || {
            Error::new(ErrorKind::Internal, "a worker ended before its batch was done")
                .stage(Stage::Deliver)
                .hint("its panic message is on stderr; please report it")
        };
        let (promise, end) = match self.tickets.recv().map_err(|_| lost())? {
            Ticket::End => return Ok(None),
            Ticket::Failed(error) => return Err(error),
            Ticket::Batch(promise, end) => (promise, end),
        };
        let ready = promise.recv().map_err(|_| lost())??;
        self.in_hand = ready.kept;
        self.state.position = end;
        self.stats.batches += 1;
        self.stats.samples += ready.batch.len() as u64;
        self.stats.bytes += ready.bytes;
        self.stats.verified += ready.verified;
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
        if let Some(auto) = &self.auto {
            auto.waited(now - asked);
        }
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
                if let Some(kept) = &self.kept {
                    kept.flush();
                }
                self.stats.temporaries_left = self.run.wait(AT_END);
                if self.stats.temporaries_left > 0 {
                    tracing::warn!(
                        count = self.stats.temporaries_left,
                        "temporary objects are still being deleted at the end of the epoch"
                    );
                }
                None
            }
            Err(error) => {
                self.over = true;
                self.cancel.send_replace(true);
                // Batches that are done hold bytes of the budget: let go of them, though this iterator may live on.
                self.tickets = crossbeam_channel::never();
                Some(Err(error))
            }
        }
    }
}

impl<B> std::iter::FusedIterator for Batches<B> {}

impl<B> Drop for Batches<B> {
    fn drop(&mut self) {
        self.cancel.send_replace(true);
    }
}

fn of_manifest(state: &State, manifest: &Manifest) -> State {
    // The digest of what came before a failure would look like that of other data.
    let digest =
        manifest.complete().map_or_else(|_| "none: its listing failed".to_owned(), |()| manifest.digest().to_string());
    State { manifest: digest, ..state.clone() }
}

/// The batches of one epoch, in order, for asynchronous code.
#[derive(Debug)]
pub struct BatchStream<B> {
    batches: mpsc::Receiver<Step<B>>,
    manifest: Arc<Manifest>,
    /// As in [`Batches`].
    state: State,
    stats: EpochStats,
    cancel: Arc<watch::Sender<bool>>,
    /// As in [`Batches`], which is a batch or two ahead.
    in_hand: Vec<Arc<Permit>>,
}

/// What the iterator gave, the bytes of that, and where it stood then.
type Step<B> = (Option<Result<Batch<B>>>, Vec<Arc<Permit>>, u64, EpochStats);

impl<B: Send + 'static> BatchStream<B> {
    pub(super) fn new(mut batches: Batches<B>) -> Result<Self> {
        let (cancel, state) = (Arc::clone(&batches.cancel), batches.state.clone());
        let manifest = Arc::clone(&batches.manifest);
        let (sender, receiver) = mpsc::channel(1);
        std::thread::Builder::new()
            .name("dataflux-stream".into())
            .spawn(move || {
                loop {
                    let batch = batches.next();
                    let last = batch.is_none();
                    let step = (batch, std::mem::take(&mut batches.in_hand), batches.state.position, batches.stats());
                    if sender.blocking_send(step).is_err() || last {
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
        Ok(Self { batches: receiver, manifest, state, stats: EpochStats::default(), cancel, in_hand: Vec::new() })
    }
}

impl<B> BatchStream<B> {
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
        self.batches.poll_recv(context).map(|step| {
            let (batch, in_hand, position, stats) = step?;
            (self.in_hand, self.state.position, self.stats) = (in_hand, position, stats);
            batch
        })
    }
}

impl<B> Drop for BatchStream<B> {
    fn drop(&mut self) {
        self.cancel.send_replace(true);
    }
}
