//! The batches of an epoch for asynchronous code.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_util::Stream;

use super::ahead::AheadDelivery;
use super::running_epoch::RunningEpoch;
use super::stats::EpochStats;
use crate::Result;
use crate::collate::Batch;
use crate::engine::sample_code::restore_type;
use crate::sample::State;

/// The batches of one epoch for asynchronous code, as [`Batches`](super::Batches).
#[derive(Debug)]
pub struct BatchStream<B> {
    delivery: AheadDelivery,
    data: PhantomData<fn() -> B>,
}

impl<B> BatchStream<B> {
    /// Starts the thread that waits for batches.
    pub(crate) fn new(epoch: RunningEpoch) -> Result<Self> {
        Ok(Self { delivery: AheadDelivery::start(epoch)?, data: PhantomData })
    }

    /// The number of the epoch; see [`Batches::epoch`](super::Batches::epoch).
    pub fn epoch(&self) -> u64 {
        self.delivery.plain_state().epoch
    }

    /// The state after the batches that were delivered so far; see [`Batches::state`](super::Batches::state), which
    /// blocks in the same cases.
    pub fn state(&self) -> State {
        self.delivery.state()
    }

    /// The statistics of the epoch so far; see [`Batches::stats`](super::Batches::stats).
    pub fn stats(&self) -> EpochStats {
        self.delivery.stats()
    }
}

impl<B: 'static> Stream for BatchStream<B> {
    type Item = Result<Batch<B>>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.delivery.poll_next(context).map(|batch| Some(batch?.and_then(restore_type)))
    }
}
