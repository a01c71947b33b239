//! The iterator over the batches of an epoch.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use super::ahead::AheadDelivery;
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
    delivery: Delivery,
    data: PhantomData<fn() -> B>,
}

/// Who waits for the batches.
enum Delivery {
    /// The training loop.
    Direct(Box<RunningEpoch>),
    /// A thread, which also moves them to a device.
    Ahead(Box<AheadDelivery>),
}

impl<B> Batches<B> {
    /// The batches of an epoch that has begun.
    ///
    /// # Errors
    /// They are to be moved to a device, and the system refuses the thread for that.
    pub(crate) fn new(epoch: RunningEpoch) -> Result<Self> {
        let delivery = match &epoch.transfer {
            Some(_) => Delivery::Ahead(Box::new(AheadDelivery::start(epoch)?)),
            None => Delivery::Direct(Box::new(epoch)),
        };
        Ok(Self { delivery, data: PhantomData })
    }

    /// The state after the batches that were delivered so far, from which a loader
    /// [resumes](crate::loader::DataLoaderBuilder::resume). It names the data by their digest. If the data set is
    /// [streaming](crate::DatasetBuilder::streaming), this blocks until the listing has ended; after a listing that
    /// failed, no run can resume from the state.
    pub fn state(&self) -> State {
        match &self.delivery {
            Delivery::Direct(epoch) => with_digest(&epoch.state(), &epoch.manifest),
            Delivery::Ahead(ahead) => ahead.state(),
        }
    }

    /// The number of the epoch, counted from 0.
    pub fn epoch(&self) -> u64 {
        match &self.delivery {
            Delivery::Direct(epoch) => epoch.epoch(),
            Delivery::Ahead(ahead) => ahead.plain_state().epoch,
        }
    }

    /// The statistics of the epoch so far.
    pub fn stats(&self) -> EpochStats {
        match &self.delivery {
            Delivery::Direct(epoch) => epoch.stats(),
            Delivery::Ahead(ahead) => ahead.stats(),
        }
    }

    /// Ends the epoch and waits until nothing of it is left, or `within` is over. Returns what is left. Blocks.
    pub fn close(self, within: Duration) -> Closed {
        match self.delivery {
            Delivery::Direct(epoch) => epoch.close(within),
            Delivery::Ahead(ahead) => ahead.close(within),
        }
    }

    /// Gives back the bytes of the batch that was delivered last.
    pub(crate) fn release_batch(&mut self) {
        match &mut self.delivery {
            Delivery::Direct(epoch) => epoch.release_batch(),
            Delivery::Ahead(ahead) => ahead.release_batch(),
        }
    }
}

impl<B: 'static> Iterator for Batches<B> {
    type Item = Result<Batch<B>>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = match &mut self.delivery {
            Delivery::Direct(epoch) => epoch.next_batch(),
            Delivery::Ahead(ahead) => ahead.next(),
        };
        Some(batch?.and_then(restore_type))
    }
}

impl<B: 'static> std::iter::FusedIterator for Batches<B> {}

impl<B> fmt::Debug for Batches<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.delivery {
            Delivery::Direct(epoch) => epoch.state(),
            Delivery::Ahead(ahead) => ahead.plain_state().clone(),
        };
        f.debug_struct("Batches").field("state", &state).field("stats", &self.stats()).finish_non_exhaustive()
    }
}
