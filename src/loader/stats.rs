//! The statistics of an epoch.

use std::time::{Duration, Instant};

use crate::cache::CacheStats;
use crate::engine::WaitedFor;
use crate::metrics::Counts;
use crate::plan::{Bill, Groups};

/// The statistics of an epoch so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct EpochStats {
    /// Batches delivered.
    pub batches: u64,
    /// Samples delivered.
    pub samples: u64,
    /// Bytes of the delivered samples, as stored.
    pub bytes: u64,
    /// Delivered samples whose bytes were verified by a CRC.
    pub verified: u64,
    /// Samples that delivered batches lack: the sum of [`Batch::skipped`](crate::Batch::skipped).
    pub skipped: u64,
    /// Samples that others replaced: the sum of [`Batch::substituted`](crate::Batch::substituted) over all delivered
    /// batches.
    pub substituted: u64,
    /// From the start of the epoch to the delivery of its first batch.
    pub first_batch: Duration,
    /// Time that the training loop waited for the batches after the first, also where a thread of the loader waits in
    /// its place: for a [device](crate::loader::DataLoaderBuilder::device), or a [stream](crate::BatchStream).
    pub waited: Duration,
    /// Time that the training loop waited for all batches, the first included, by what these were waiting for. Where
    /// [`wait_fraction`](Self::wait_fraction) is high, it shows what would make the loader faster. The loader looks at
    /// what a batch waits for when the loop asks for the batch, and then at least every 64 ms.
    pub waited_for: WaitedFor,
    /// How many log messages reported a long wait; see
    /// [`stall_report`](crate::loader::DataLoaderBuilder::stall_report).
    pub stalls: u64,
    /// From the first batch to the last.
    pub running: Duration,
    /// Temporary objects not known to be deleted when the epoch ended, which waits for them for at most 30 s. In [a
    /// series](crate::loader::DataLoader::epochs) only the last epoch waits; those of the others are deleted while the
    /// next epoch is delivered.
    pub temporaries_left: u64,
    /// How the samples that were started so far are read; some of them may not be delivered yet.
    pub groups: Groups,
    /// The calls of this epoch, with retries and with those that are ahead of the training loop. Neither other epochs
    /// nor the listing are included.
    pub ops: Counts,
    /// The price of these calls on this rank, in the same parts as a [forecast](crate::plan::Forecast).
    pub bill: Bill,
    /// Events that [observers](crate::Observer) of this loader or its client have lost since the epoch began.
    pub events_lost: u64,
    /// What was read from the [cache](crate::loader::DataLoaderBuilder::cache), and what was written there.
    pub cache: CacheStats,
}

impl EpochStats {
    /// The share of the time since the first batch that the training loop waited for data: 0 is perfect.
    pub fn wait_fraction(&self) -> f64 {
        if self.running.is_zero() { 0.0 } else { self.waited.as_secs_f64() / self.running.as_secs_f64() }
    }
}

/// When the training loop got the batches of an epoch, and how long it waited for them: the only source of these figures.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeliveryTimes {
    /// When the training loop began the epoch, which may be long after its reads began.
    pub(super) started: Instant,
    /// When the first batch was delivered, and the last one so far.
    span: Option<(Instant, Instant)>,
    waited: Duration,
}

impl DeliveryTimes {
    pub(super) fn new(started: Instant) -> Self {
        Self { started, span: None, waited: Duration::ZERO }
    }

    /// When the last batch was delivered.
    pub(super) fn last(&self) -> Option<Instant> {
        self.span.map(|(_, last)| last)
    }

    /// Notes that a batch, or the end of the epoch, came at `now` after the loop had `waited` for it.
    pub(super) fn record(&mut self, now: Instant, waited: Duration) {
        let Some((_, last)) = &mut self.span else {
            self.span = Some((now, now));
            return;
        };
        *last = now;
        self.waited += waited;
    }

    /// These statistics with the times.
    pub(super) fn complete(&self, stats: &EpochStats) -> EpochStats {
        let Some((first, last)) = self.span else { return *stats };
        let (first_batch, running) = (first - self.started, last - first);
        EpochStats { first_batch, running, waited: self.waited, ..*stats }
    }
}
