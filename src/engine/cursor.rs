//! The position of an epoch in its order, from which batches are planned one after the other.

use std::ops::Range;

use super::stages::{PlannerState, PlannerStatus};
use crate::Result;
use crate::manifest::{KnownSamples, Manifest};
use crate::sample::{BatchSpan, BatchSpans, DeliveredBatches, EpochOrder, RemainingPositions, SampleId};

/// Iterates over the batches of an epoch, also while the data set is still being listed.
pub(crate) struct EpochCursor {
    pub(crate) order: EpochOrder,
    pub(crate) spans: BatchSpans,
    pub(crate) world_size: u64,
    /// The positions, and the batches, that an earlier run left.
    pub(crate) remaining: RemainingPositions,
    pub(crate) delivered: DeliveredBatches,
    /// Index of the next batch.
    pub(crate) next_number: u64,
    /// Where the next batch begins among the remaining positions.
    pub(crate) next_position: u64,
}

/// A batch that is to be read.
pub(crate) struct PlannedBatch {
    /// Index of the batch in its epoch.
    pub(crate) number: u64,
    pub(crate) ids: Vec<SampleId>,
    /// The positions of its samples in the order of the epoch.
    pub(crate) own_positions: Vec<Range<u64>>,
    /// Number of samples at the end that only fill the batch up.
    pub(crate) padding: usize,
    /// The positions of the global batch, of all ranks.
    pub(crate) global_positions: Range<u64>,
    /// Most samples that this rank has behind the batch.
    pub(crate) samples_left: u64,
}

impl EpochCursor {
    /// Checks, at the end of a whole epoch without any batch, that the data set has enough samples for one. An epoch
    /// that was resumed had batches before.
    pub(crate) fn check_batches(&mut self, manifest: &Manifest) -> Result<()> {
        let is_whole =
            (self.next_number, self.next_position) == (0, 0) && self.remaining == RemainingPositions::default();
        if !is_whole || self.spans.are_over() {
            return Ok(());
        }
        match self.order.positions(manifest.known())? {
            KnownSamples::All(samples) => self.spans.sharding.check_samples(samples),
            KnownSamples::AtLeast(_) => Ok(()),
        }
    }

    /// The next batch, once its samples are listed; `None` at the end of the epoch, or when it is cancelled. Blocks.
    ///
    /// # Errors
    /// The listing failed, and the batches before were all that it reached; the sampler failed.
    pub(crate) fn next(
        &mut self,
        manifest: &Manifest,
        planner: &PlannerStatus,
        is_cancelled: impl Fn() -> bool,
    ) -> Result<Option<PlannedBatch>> {
        loop {
            let known = manifest.known();
            if let Some(next) = self.next_known(known)? {
                return Ok(Some(next));
            }
            let KnownSamples::AtLeast(samples) = known else { return Ok(None) };
            if self.spans.are_over() {
                return Ok(None);
            }
            planner.enter(PlannerState::Listing);
            let has_more = manifest.wait_beyond(samples, &is_cancelled)?;
            planner.enter(PlannerState::Planning);
            if !has_more {
                return Ok(None);
            }
        }
    }

    /// The next batch, if its samples are listed.
    ///
    /// # Errors
    /// The sampler failed.
    pub(crate) fn next_known(&mut self, listed: KnownSamples) -> Result<Option<PlannedBatch>> {
        let known = self.remaining.known(self.order.positions(listed)?);
        loop {
            let Some(BatchSpan { positions, padding, end }) = self.spans.next(known) else { return Ok(None) };
            let (number, start) = (self.next_number, self.next_position);
            (self.next_number, self.next_position) = (number + 1, end);
            if self.delivered.has(number) {
                continue;
            }

            let samples_left = match known {
                KnownSamples::All(all) => (all - end) / self.world_size,
                KnownSamples::AtLeast(_) => u64::MAX,
            };
            let own_positions: Vec<_> = self.remaining.ranges(positions).collect();
            let mut ids = Vec::new();
            for range in &own_positions {
                ids.extend(self.order.ids(range.clone(), listed)?);
            }
            return Ok(Some(PlannedBatch {
                number,
                ids,
                own_positions,
                padding: padding as usize,
                global_positions: self.remaining.global_position(start)..self.remaining.global_position(end),
                samples_left: samples_left.min(self.spans.max_samples()),
            }));
        }
    }
}
