//! The delivery of one epoch, whatever the type of its batches: [`Batches`](super::Batches) and
//! [`BatchStream`](super::BatchStream) give the data its type back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cost::EpochSpending;
use super::stats::{DeliveryTimes, EpochStats};
use super::transfer::Transfer;
use crate::audit::EpochAudit;
use crate::collate::Batch;
use crate::engine::arrivals::{Arrival, Arrivals};
use crate::engine::cache_session::CacheSession;
use crate::engine::epoch_events::BatchDelivery;
use crate::engine::last_request::LastRequest;
use crate::engine::loss::LossTotals;
use crate::engine::sample_code::BatchData;
use crate::engine::shutdown::{Closed, EpochShutdown, close_epoch};
use crate::engine::ticket::{FinishedBatch, HeldBytes};
use crate::engine::wait_report::WaitTotals;
use crate::manifest::{KnownSamples, Manifest};
use crate::observe::{EventKind, Events};
use crate::pacing::WaitReporter;
use crate::plan::GroupCounts;
use crate::sample::{DeliveredBatches, Sampling, Sharding, State};
use crate::{Error, ErrorKind, Result, Stage};

/// How long the end of an epoch waits for temporary objects that are still being deleted.
const DELETION_PATIENCE: Duration = Duration::from_secs(30);

/// How long the end of an epoch waits until samples are written to the cache. The cache's queue bounds what is left to
/// write: some 32 MiB, unless single samples are larger.
const FLUSH_PATIENCE: Duration = Duration::from_secs(10);

/// Delivers the batches of one epoch, and keeps its statistics and its state.
pub(crate) struct RunningEpoch {
    /// `None` once the epoch is over.
    pub(super) arrivals: Option<Arrivals>,
    pub(super) shutdown: Arc<EpochShutdown>,
    pub(super) groups: Arc<GroupCounts>,
    pub(super) cache: Option<CacheSession>,
    pub(super) spending: EpochSpending,
    pub(super) manifest: Arc<Manifest>,
    /// The state at the start, without the digest of the manifest, which may not be known yet.
    pub(super) state: State,
    pub(super) sharding: Sharding,
    pub(super) sampling: Arc<Sampling>,
    pub(super) delivered: DeliveredBatches,
    pub(super) losses: LossTotals,
    pub(super) audit: Option<EpochAudit>,
    /// Whether another epoch of the series follows. Then the end of this one doesn't wait for deletions.
    pub(super) has_next: bool,
    pub(super) waits: WaitTotals,
    pub(super) reporter: WaitReporter,
    pub(super) stats: EpochStats,
    pub(super) events: Events,
    /// Events that observers had lost before the epoch.
    pub(super) lost_before: u64,
    /// Set if a thread hands the batches over, ahead of the training loop. Then whoever delivers them reports them, and
    /// the end of the epoch.
    pub(super) handed_over: Option<HandedOver>,
    /// Moves batches to a device, if the loader has one.
    pub(super) transfer: Option<Arc<dyn Transfer>>,
    /// When batches came here. Where a thread hands them over, the training loop has times of its own.
    pub(super) times: DeliveryTimes,
    /// Bytes of the batch that the training loop has. They count until it asks for the next one.
    pub(super) in_hand: Vec<HeldBytes>,
}

/// What a thread that hands batches over shares with the training loop.
#[derive(Debug, Default)]
pub(super) struct HandedOver {
    /// What is to be reported of the batch that `next_batch` returned last.
    pub(super) delivery: Option<BatchDelivery>,
    /// When the loop asked for the batch.
    pub(super) last_request: Arc<LastRequest>,
}

impl RunningEpoch {
    pub(crate) fn epoch(&self) -> u64 {
        self.state.epoch
    }

    /// The state after what was delivered so far, without the digest of the manifest.
    pub(crate) fn state(&self) -> State {
        let (position, beyond) = self.delivered.state();
        State { position, beyond, ..self.state.clone() }
    }

    pub(crate) fn stats(&self) -> EpochStats {
        self.times.complete(&EpochStats {
            groups: self.groups.groups(),
            ops: self.spending.ops(),
            bill: self.spending.bill(),
            cache: self.cache.as_ref().map(CacheSession::stats).unwrap_or_default(),
            waited_for: self.waits.waited_for,
            stalls: self.waits.stalls,
            events_lost: self.events.lost() - self.lost_before,
            ..self.stats
        })
    }

    /// For how much of the time since `start` the training loop has waited for the batch behind `batches_before`
    /// others.
    pub(super) fn waited_since(&self, start: Instant, batches_before: u64) -> Duration {
        waited_since(self.handed_over.as_ref(), start, batches_before)
    }

    /// Gives back the bytes of the batch that was delivered last.
    pub(crate) fn release_batch(&mut self) {
        self.in_hand.clear();
    }

    /// Ends the epoch, and waits until nothing of it is left, or `within` is over.
    pub(crate) fn close(mut self, within: Duration) -> Closed {
        let shutdown = Arc::clone(&self.shutdown);
        close_epoch(&shutdown, || self.cancel(), within)
    }

    /// Cancels the epoch. Returns at once; what is left finishes in the background. After the end of the epoch, this
    /// changes nothing.
    pub(crate) fn cancel(&mut self) {
        if self.handed_over.is_none() {
            self.shutdown.events().end(false);
        }
        self.reporter.end();
        self.shutdown.cancel();
        // Finished batches hold bytes of the budget, so they are dropped though this value may live on.
        if let Some(arrivals) = self.arrivals.take() {
            arrivals.discard();
        }
        self.in_hand.clear();
        self.release();
    }

    /// Notes that the training loop holds no batch any more, unless another thread hands the batches over.
    fn release(&self) {
        if self.handed_over.is_none() {
            self.shutdown.release();
        }
    }

    /// The number of batches of the whole epoch. `None` if it isn't known yet, or if nobody wants to know how the epoch
    /// ends.
    fn batch_count(&self) -> Option<u64> {
        // What follows would wait for the end of the listing.
        if !self.events.wants(EventKind::EpochEnded) || !matches!(self.manifest.known(), KnownSamples::All(_)) {
            return None;
        }
        let samples = self.sampling.orders().ok()?.len();
        Some(self.delivered.batch_count(&self.sharding, samples, self.state.position))
    }

    /// Whether all batches of the epoch are known to be delivered. It is for events only: if no observer wants to know
    /// how the epoch ends, this is always false.
    pub(super) fn is_complete(&self) -> bool {
        self.batch_count().is_some_and(|count| self.delivered.has_first(count))
    }

    /// Waits for the next batch; `None` at the end of the epoch, and after an error. Blocks.
    pub(crate) fn next_batch(&mut self) -> Option<Result<Batch<BatchData>>> {
        let mut arrivals = self.arrivals.take()?;
        // Before the wait, because the next batch may need these bytes.
        self.in_hand.clear();
        let asked = Instant::now();
        let batches_before = self.stats.batches;
        let on_slice = |time| self.reporter.record_wait(time);
        let waited = |start| waited_since(self.handed_over.as_ref(), start, batches_before);
        let number = self.sharding.batches_before(self.state.position) + batches_before;
        let arrival = arrivals.next(&mut self.waits, number, waited, on_slice);
        self.arrivals = Some(arrivals);
        let received = self.receive(arrival, asked);
        self.measure(asked, batches_before);
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

    /// Logs, reports and counts what arrived after the training loop had `asked` for a batch. The audit log comes
    /// first, so that it has every batch that is delivered.
    fn receive(&mut self, arrival: Arrival, asked: Instant) -> Result<Option<Batch<BatchData>>> {
        let FinishedBatch { batch, number, positions, bytes, verified, held } = match arrival {
            Arrival::Batch(finished) => finished?,
            Arrival::End => return Ok(None),
            Arrival::Lost if self.shutdown.is_cancelled() => return Err(ended_early()),
            Arrival::Lost => {
                return Err(Error::new(ErrorKind::Internal, "a worker ended before its batch was done")
                    .stage(Stage::Deliver)
                    .hint("its panic message is on stderr; please report it"));
            }
        };
        self.losses.count(&batch)?;
        if let Some(audit) = &mut self.audit {
            audit.record(&batch, positions.end)?;
        }

        let is_last = self.batch_count().is_some_and(|count| self.delivered.lacks_only(number, count));
        let delivery = BatchDelivery { batch: number, samples: batch.len() as u64, bytes, is_last };
        if let Some(handed_over) = &mut self.handed_over {
            handed_over.delivery = Some(delivery);
        } else if !self.shutdown.events().deliver(delivery, asked.elapsed()) {
            return Err(ended_early());
        }
        self.in_hand = held;
        self.delivered.add(number, positions);
        self.stats.batches += 1;
        self.stats.samples += batch.len() as u64;
        self.stats.bytes += bytes;
        self.stats.verified += verified;
        (self.stats.skipped, self.stats.substituted) = self.losses.counts();
        Ok(Some(batch))
    }

    /// Measures the wait for the batch behind `batches_before` others, which was `asked` for here at that time.
    fn measure(&mut self, asked: Instant, batches_before: u64) {
        let now = Instant::now();
        let waited = self.waited_since(asked, batches_before);
        self.reporter.record_batch(waited, now - self.times.last().unwrap_or(asked));
        self.times.record(now, waited);
    }

    /// Does what is left to do when all batches are delivered.
    fn finish(&mut self) {
        if self.handed_over.is_none() {
            self.shutdown.events().end(self.is_complete());
        }
        self.losses.summarize(self.state.epoch);
        if let Some(cache) = &self.cache {
            cache.cache.flush(FLUSH_PATIENCE);
        }
        let patience = if self.has_next { Duration::ZERO } else { DELETION_PATIENCE };
        self.stats.temporaries_left = self.shutdown.run().wait(patience);
        if self.stats.temporaries_left > 0 && !self.has_next {
            tracing::warn!(
                count = self.stats.temporaries_left,
                "temporary objects are still being deleted at the end of the epoch"
            );
        }
        self.release();
        self.arrivals = None;
        self.reporter.end();
    }
}

/// As [`RunningEpoch::waited_since`]. Where batches aren't handed over, it is the loop that waits for them here.
fn waited_since(handed_over: Option<&HandedOver>, start: Instant, batches_before: u64) -> Duration {
    let now = Instant::now();
    handed_over.map_or_else(|| now - start, |shared| shared.last_request.waited_between(start, now, batches_before))
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
