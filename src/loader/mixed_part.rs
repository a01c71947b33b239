//! A loader as a part of a mixture: its batches counted through all its epochs, and read from any of them on.

use std::sync::Arc;
use std::time::Duration;

use super::batches::Batches;
use super::cost::EpochSpending;
use super::data_loader::DataLoader;
use super::epochs::{Epochs, PartialEpoch};
use super::running_epoch::with_digest;
use crate::collate::Batch;
use crate::decode::{BatchOf, Decode};
use crate::engine::shutdown::Closed;
use crate::metrics::Metrics;
use crate::sample::{Sharding, State};
use crate::{Error, ErrorKind, Result, Stage};

/// A loader as a part of a mixture, whatever its decoder is.
pub(super) trait MixedPart<B>: Send + Sync {
    /// The name of the part in errors: the URI of its prefix.
    fn object(&self) -> String;
    /// What the mixture requires and this loader isn't, if it can't be a part.
    fn mismatch(&self) -> Option<PartMismatch>;
    fn batches_per_epoch(&self) -> Result<u64>;
    /// The state at the start of its epoch 0.
    fn initial_state(&self) -> State;
    /// How its samples are divided among ranks and steps.
    fn sharding(&self) -> &Sharding;
    /// Checks that a state is one of this part.
    fn check(&self, state: &State) -> Result<()>;
    /// Starts `count` batches from batch `first`, which is counted through all epochs of the part.
    fn start(&self, first: u128, count: u64) -> Result<PartBatches<B>>;
    /// The spending of its epochs.
    fn spending(&self) -> EpochSpending;
    /// The counts of all calls through its client.
    fn client_metrics(&self) -> &Arc<Metrics>;
    /// Ends its epochs wherever they are.
    fn end(&self);
    fn close(self: Box<Self>, within: Duration) -> Closed;
}

/// Why a loader can't be a part of a mixture.
pub(super) struct PartMismatch {
    pub(super) wanted: &'static str,
    pub(super) got: &'static str,
}

/// The batches that an epoch of the mixture takes from one part.
pub(super) struct PartBatches<B> {
    epochs: Option<Epochs<B>>,
    current: Option<Batches<B>>,
}

/// A batch of a part by its epoch and its number there.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartPosition {
    pub(super) epoch: u64,
    pub(super) batch: u64,
}

impl PartPosition {
    /// The position of a batch that is counted through all epochs. Past the last epoch that a `u64` can count, the
    /// epoch is `u64::MAX`.
    pub(super) fn new(batch: u128, per_epoch: u64) -> Self {
        let per_epoch = u128::from(per_epoch);
        Self { epoch: u64::try_from(batch / per_epoch).unwrap_or(u64::MAX), batch: (batch % per_epoch) as u64 }
    }
}

pub(super) fn config_error(message: &str) -> Error {
    Error::new(ErrorKind::Config, message).stage(Stage::Sample)
}

impl<D: Decode> MixedPart<BatchOf<D>> for DataLoader<D> {
    fn object(&self) -> String {
        self.dataset().manifest().prefix().to_string()
    }

    fn mismatch(&self) -> Option<PartMismatch> {
        if self.core.resumed.is_some() {
            Some(PartMismatch {
                wanted: "one that starts at its first epoch",
                got: "one that resumes from a state: give MixedLoaderBuilder::resume the state of the mixture",
            })
        } else if self.core.settings.unordered {
            Some(PartMismatch {
                wanted: "batches in order",
                got: "unordered ones, whose state is no position: leave unordered out",
            })
        } else {
            None
        }
    }

    fn batches_per_epoch(&self) -> Result<u64> {
        DataLoader::batches_per_epoch(self)
    }

    fn initial_state(&self) -> State {
        with_digest(&self.core.series().state(0, None), self.dataset().manifest())
    }

    fn sharding(&self) -> &Sharding {
        &self.core.sharding
    }

    fn check(&self, state: &State) -> Result<()> {
        state.check(self.dataset().manifest().digest())?;
        let describe = |state: &State| format!("order {}, last batch {:?}", state.identity(), state.last_batch());
        let (saved, built) = (describe(state), describe(&self.initial_state()));
        if saved != built {
            return Err(config_error("the state was taken with other settings")
                .mismatch(saved, built)
                .hint("build the part as it was"));
        }
        Ok(())
    }

    fn start(&self, first: u128, count: u64) -> Result<PartBatches<BatchOf<D>>> {
        let Some(last) = count.checked_sub(1).map(|more| first + u128::from(more)) else {
            return Ok(PartBatches { epochs: None, current: None });
        };
        let per_epoch = DataLoader::batches_per_epoch(self)?;
        let (first, last) = (PartPosition::new(first, per_epoch), PartPosition::new(last, per_epoch));

        let mut series = self.core.series();
        series.resumed = Some(State {
            position: first.batch * self.core.sharding.global_batch_size(),
            ..series.state(first.epoch, None)
        });
        // The number of batches to take of the last epoch, which may also be the first.
        let skipped = if last.epoch == first.epoch { first.batch } else { 0 };
        series.last = Some(PartialEpoch { epoch: last.epoch, batches: last.batch + 1 - skipped });
        Ok(PartBatches { epochs: Some(series.start(first.epoch..last.epoch + 1)?), current: None })
    }

    fn spending(&self) -> EpochSpending {
        self.core.spending()
    }

    fn client_metrics(&self) -> &Arc<Metrics> {
        self.dataset().client().metrics()
    }

    fn end(&self) {
        self.core.live.cancel();
    }

    fn close(self: Box<Self>, within: Duration) -> Closed {
        DataLoader::close(*self, within)
    }
}

impl<B: 'static> PartBatches<B> {
    /// Releases the batch that was returned last, although batches of other parts come before the next of this one.
    pub(super) fn release_batch(&mut self) {
        if let Some(current) = &mut self.current {
            current.release_batch();
        }
    }

    /// The next batch, or `None` after the last one.
    pub(super) fn next(&mut self) -> Option<Result<Batch<B>>> {
        loop {
            if let Some(batch) = self.current.as_mut().and_then(Iterator::next) {
                return Some(batch);
            }
            // Dropped before the next epoch is requested, so that it doesn't wait for this one.
            self.current = None;
            match self.epochs.as_mut()?.next()? {
                Ok(batches) => self.current = Some(batches),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}
