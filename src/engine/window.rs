//! A window: batches that are planned together. The server composes up to 32 objects into one, and a composed object
//! costs the same however few they are. The samples of one batch alone may leave such a group nearly empty.
//!
//! Within a window a sample is known by its *slot*, its index among all samples of the window. Groups, stages, batches
//! and reads all use this one number.

use std::sync::Arc;

use super::assembly::BatchAssembly;
use super::stages::{SampleStage, WindowStages};
use crate::budget::Permit;
use crate::plan::Group;
use crate::read::RawSample;

/// Batches that are planned together and are being assembled.
pub(crate) struct BatchWindow {
    /// In the order of their slots.
    pub(crate) batches: Vec<Arc<BatchAssembly>>,
    pub(crate) stages: Arc<WindowStages>,
}

impl BatchWindow {
    /// The batch that a sample belongs to.
    pub(crate) fn batch(&self, slot: usize) -> &Arc<BatchAssembly> {
        // A batch without samples starts at the same slot as the next one.
        let index = self.batches.partition_point(|batch| batch.place.slots.start <= slot) - 1;
        &self.batches[index]
    }

    /// The batches that samples of a group belong to.
    pub(crate) fn batches_of(&self, group: &Group) -> impl Iterator<Item = &Arc<BatchAssembly>> {
        let has_slice =
            move |batch: &BatchAssembly| group.slices.iter().any(|slice| batch.place.slots.contains(&slice.slot));
        self.batches.iter().filter(move |batch| has_slice(batch))
    }

    /// Hands samples that were read to their batches, which decode them. `until_decoded` is given back once all samples
    /// of the group are decoded.
    pub(crate) fn decode(&self, mut samples: Vec<(usize, RawSample)>, until_decoded: Option<&Arc<Permit>>) {
        self.stages.set(samples.iter().map(|(slot, _)| *slot), SampleStage::Read);
        while let Some((slot, _)) = samples.first() {
            let batch = self.batch(*slot);
            let of_batch = samples.iter().take_while(|(slot, _)| batch.place.slots.contains(slot)).count();
            let rest = samples.split_off(of_batch);
            batch.receive(std::mem::replace(&mut samples, rest), until_decoded);
        }
    }
}
