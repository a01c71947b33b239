//! The delivery of one epoch, whatever the type of its batches: [`Batches`](super::Batches) and
//! [`BatchStream`](super::BatchStream) give the data its type back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cost::EpochSpending;
use super::stats::EpochStats;
use crate::audit::EpochAudit;
use crate::collate::Batch;
use crate::engine::arrivals::{Arrival, Arrivals, ArrivedBatch};
use crate::engine::cache_session::CacheSession;
use crate::engine::loss::LossTotals;
use crate::engine::sample_code::BatchData;
use crate::engine::shutdown::{Closed, EpochShutdown, close_epoch};
use crate::engine::ticket::HeldBytes;
use crate::engine::wait_report::{WaitTotals, WaitWatcher};
use crate::manifest::Manifest;
use crate::observe::{Event, EventKind, Events};
use crate::pacing::{SharedChooser, WaitReporter};
use crate::plan::GroupCounts;
use crate::sample::{DeliveredBatches, State};
use crate::{Error, ErrorKind, Result, Stage};

/// How long the end of an epoch waits for temporary objects that are still being deleted.
const DELETION_PATIENCE: Duration = Duration::from_secs(30);

/// Drops batches that nobody needs any more on another thread, since that may take long.
pub(crate) type Discard = Box<dyn Fn(Arrivals) + Send + Sync>;

/// What the delivery of an epoch is made of.
pub(crate) struct EpochParts {
    pub(crate) arrivals: Arrivals,
    pub(crate) watcher: WaitWatcher,
    pub(crate) shutdown: Arc<EpochShutdown>,
    /// Keeps the decode threads alive. `None` once the epoch is over.
    pub(crate) discard: Option<Discard>,
    pub(crate) groups: Arc<GroupCounts>,
    pub(crate) auto: Option<Arc<SharedChooser>>,
    pub(crate) cache: Option<CacheSession>,
    pub(crate) spending: EpochSpending,
    pub(crate) manifest: Arc<Manifest>,
    /// The state at the start, without the digest of the manifest, which may not be known yet.
    pub(crate) state: State,
    pub(crate) delivered: DeliveredBatches,
    pub(crate) losses: LossTotals,
    pub(crate) audit: Option<EpochAudit>,
    pub(crate) events: Events,
    /// Whether another epoch of the series follows, which waits for nothing of this one.
    pub(crate) has_next: bool,
}

/// Delivers the batches of one epoch, and keeps its statistics and its state.
pub(crate) struct RunningEpoch {
    parts: EpochParts,
    waits: WaitTotals,
    reporter: WaitReporter,
    stats: EpochStats,
    /// Events that observers had lost before the epoch.
    lost_before: u64,
    started: Instant,
    first_batch: Option<Instant>,
    is_over: bool,
    /// Bytes of the batch that the training loop has. They count until it asks for the next one.
    in_hand: Vec<HeldBytes>,
}

impl RunningEpoch {
    pub(crate) fn new(parts: EpochParts) -> Self {
        // Nothing is reported before the loop is known to wait: at the start few batches are ahead, which could make up
        // for calls that are refused.
        let reporter = WaitReporter::new(parts.auto.clone(), parts.watcher.gates.add_loop());
        let (epoch, lost_before) = (parts.state.epoch, parts.events.lost());
        parts.events.send(EventKind::EpochBegun, || Event::EpochBegun { epoch });
        Self {
            parts,
            waits: WaitTotals::default(),
            reporter,
            stats: EpochStats::default(),
            lost_before,
            started: Instant::now(),
            first_batch: None,
            is_over: false,
            in_hand: Vec::new(),
        }
    }

    pub(crate) fn manifest(&self) -> &Arc<Manifest> {
        &self.parts.manifest
    }

    pub(crate) fn shutdown(&self) -> &Arc<EpochShutdown> {
        &self.parts.shutdown
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.parts.state.epoch
    }

    /// The state after what was delivered so far, without the digest of the manifest.
    pub(crate) fn state(&self) -> State {
        let (position, beyond) = self.parts.delivered.state();
        State { position, beyond, ..self.parts.state.clone() }
    }

    pub(crate) fn stats(&self) -> EpochStats {
        EpochStats {
            groups: self.parts.groups.groups(),
            ops: self.parts.spending.ops(),
            bill: self.parts.spending.bill(),
            cache: self.parts.cache.as_ref().map(CacheSession::stats).unwrap_or_default(),
            waited_for: self.waits.waited_for,
            stalls: self.waits.stalls,
            events_lost: self.parts.events.lost() - self.lost_before,
            ..self.stats
        }
    }

    /// Notes that the training loop has begun the epoch, which may be long after its reads began.
    pub(crate) fn begin_delivery(&mut self, now: Instant) {
        self.started = now;
    }

    /// Notes that the first batches may wait for composes, because nothing is ahead of the loop.
    pub(crate) fn expect_composes(&mut self) {
        self.reporter.expect_composes();
    }

    /// Gives back the bytes of the batch that was delivered last.
    pub(crate) fn release_batch(&mut self) {
        self.in_hand.clear();
    }

    /// Takes over the bytes of the batch that was delivered last.
    pub(crate) fn take_held_bytes(&mut self) -> Vec<HeldBytes> {
        std::mem::take(&mut self.in_hand)
    }

    pub(crate) fn take_audit(&mut self) -> Option<EpochAudit> {
        self.parts.audit.take()
    }

    /// Ends the epoch, and waits until nothing of it is left, or `within` is over.
    pub(crate) fn close(mut self, within: Duration) -> Closed {
        let shutdown = Arc::clone(&self.parts.shutdown);
        close_epoch(&shutdown, || self.cancel(), within)
    }

    /// Cancels the epoch. Returns at once; what is left finishes in the background.
    pub(crate) fn cancel(&mut self) {
        self.end(false);
        self.reporter.end();
        self.parts.shutdown.cancel();
        // Finished batches hold bytes of the budget, so they are dropped though this value may live on.
        if let Some(discard) = self.parts.discard.take() {
            discard(self.parts.arrivals.take());
        }
        self.in_hand.clear();
        self.parts.shutdown.release();
    }

    /// Marks the epoch as over, unless it is.
    fn end(&mut self, is_complete: bool) {
        if !std::mem::replace(&mut self.is_over, true) {
            let (epoch, EpochStats { batches, samples, .. }) = (self.epoch(), self.stats);
            let event = || Event::EpochEnded { epoch, batches, samples, is_complete };
            self.parts.events.send(EventKind::EpochEnded, event);
        }
    }

    /// Waits for the next batch; `None` at the end of the epoch, and after an error. Blocks.
    pub(crate) fn next_batch(&mut self) -> Option<Result<Batch<BatchData>>> {
        if self.is_over {
            return None;
        }
        // Before the wait, because the next batch may need these bytes.
        self.in_hand.clear();
        let asked = Instant::now();
        let received = self.receive(asked);
        self.measure(asked);
        match received {
            Ok(Some(batch)) => Some(Ok(batch)),
            Ok(None) => {
                self.finish();
                None
            }
            Err(error) => {
                self.cancel();
                Some(Err(error))
            }
        }
    }

    /// Receives the batch that the training loop `asked` for at that time.
    fn receive(&mut self, asked: Instant) -> Result<Option<Batch<BatchData>>> {
        let on_slice = |time| self.reporter.record_wait(time);
        let arrival = self.parts.watcher.wait(&mut self.waits, self.stats.batches, &mut self.parts.arrivals, on_slice);
        let ArrivedBatch { finished, number, positions } = match arrival {
            Arrival::Batch(batch) => batch,
            Arrival::End => return Ok(None),
            Arrival::Failed(error) => return Err(error),
            Arrival::Lost if self.parts.shutdown.is_cancelled() => return Err(ended_early()),
            Arrival::Lost => {
                return Err(Error::new(ErrorKind::Internal, "a worker ended before its batch was done")
                    .stage(Stage::Deliver)
                    .hint("its panic message is on stderr; please report it"));
            }
        };
        let finished = finished?;
        self.parts.losses.count(&finished.batch)?;
        if let Some(audit) = &mut self.parts.audit {
            audit.record(&finished.batch, positions.end)?;
        }

        self.in_hand = finished.held;
        self.parts.delivered.add(number, positions);
        self.parts.events.send(EventKind::BatchDelivered, || Event::BatchDelivered {
            epoch: self.epoch(),
            batch: number,
            samples: finished.batch.len() as u64,
            bytes: finished.bytes,
            waited: asked.elapsed(),
        });
        self.stats.batches += 1;
        self.stats.samples += finished.batch.len() as u64;
        self.stats.bytes += finished.bytes;
        self.stats.verified += finished.verified;
        (self.stats.skipped, self.stats.substituted) = self.parts.losses.counts();
        Ok(Some(finished.batch))
    }

    /// Measures the wait that began when the training loop `asked` for a batch.
    fn measure(&mut self, asked: Instant) {
        let now = Instant::now();
        let waited = now - asked;
        let since_last = self.first_batch.map_or(waited, |first| (now - first).saturating_sub(self.stats.running));
        self.reporter.record_batch(waited, since_last);
        if let Some(first) = self.first_batch {
            self.stats.waited += waited;
            self.stats.running = now - first;
        } else {
            self.first_batch = Some(now);
            self.stats.first_batch = now - self.started;
        }
    }

    /// Does what is left to do when all batches are delivered.
    fn finish(&mut self) {
        self.end(true);
        self.parts.losses.summarize(self.parts.state.epoch);
        if let Some(cache) = &self.parts.cache {
            cache.flush();
        }
        let patience = if self.parts.has_next { Duration::ZERO } else { DELETION_PATIENCE };
        self.stats.temporaries_left = self.parts.shutdown.run().wait(patience);
        if self.stats.temporaries_left > 0 && !self.parts.has_next {
            tracing::warn!(
                count = self.stats.temporaries_left,
                "temporary objects are still being deleted at the end of the epoch"
            );
        }
        self.parts.shutdown.release();
        self.parts.discard = None;
        self.reporter.end();
    }
}

impl Drop for RunningEpoch {
    fn drop(&mut self) {
        self.cancel();
    }
}

pub(crate) fn ended_early() -> Error {
    Error::new(ErrorKind::Cancelled, "the loader was closed before the epoch was over").stage(Stage::Deliver)
}

/// The state with the digest of the manifest. Waits for the end of the listing.
pub(crate) fn with_digest(state: &State, manifest: &Manifest) -> State {
    // The digest of what was listed before a failure would look like the digest of other data.
    let digest =
        manifest.complete().map_or_else(|_| "none: its listing failed".to_owned(), |()| manifest.digest().to_string());
    State { manifest: digest, ..state.clone() }
}
