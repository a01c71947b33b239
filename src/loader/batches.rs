//! The iterator over the batches of an epoch.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use super::running_epoch::{RunningEpoch, with_digest};
use super::stats::EpochStats;
use crate::Result;
use crate::collate::Batch;
use crate::engine::Closed;
use crate::engine::sample_code::restore_type;
use crate::sample::State;

/// The batches of one epoch, in order, or [as they are finished](crate::loader::DataLoaderBuilder::unordered).
///
/// After an error the epoch is over. Dropping this returns at once: reads are cancelled, the decode threads drop the
/// batches that are ahead, and temporary objects are deleted in the background. [`close`](Self::close) waits for that.
pub struct Batches<B> {
    epoch: RunningEpoch,
    data: PhantomData<fn() -> B>,
}

impl<B> Batches<B> {
    pub(crate) fn new(epoch: RunningEpoch) -> Self {
        Self { epoch, data: PhantomData }
    }

    /// The state after the batches that were delivered so far, from which a loader
    /// [resumes](crate::loader::DataLoaderBuilder::resume). It names the data by their digest. If the data set is
    /// [streaming](crate::DatasetBuilder::streaming), this blocks until the listing has ended; after a listing that
    /// failed, no run can resume from the state.
    pub fn state(&self) -> State {
        with_digest(&self.epoch.state(), &self.epoch.manifest)
    }

    /// The number of the epoch, counted from 0.
    pub fn epoch(&self) -> u64 {
        self.epoch.epoch()
    }

    /// The statistics of the epoch so far.
    pub fn stats(&self) -> EpochStats {
        self.epoch.stats()
    }

    /// Ends the epoch and waits until nothing of it is left, or `within` is over. Returns what is left. Blocks.
    pub fn close(self, within: Duration) -> Closed {
        self.epoch.close(within)
    }

    /// Gives back the bytes of the batch that was delivered last.
    pub(crate) fn release_batch(&mut self) {
        self.epoch.release_batch();
    }
}

impl<B: 'static> Iterator for Batches<B> {
    type Item = Result<Batch<B>>;

    fn next(&mut self) -> Option<Self::Item> {
        Some(self.epoch.next_batch()?.and_then(restore_type))
    }
}

impl<B: 'static> std::iter::FusedIterator for Batches<B> {}

impl<B> fmt::Debug for Batches<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batches")
            .field("state", &self.epoch.state())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
