//! A loader as a part of a mixture: its batches counted through all its epochs, and read from any of them on.

use std::sync::Arc;

use super::batches::Batches;
use super::data_loader::DataLoader;
use super::epochs::{Epochs, PartialEpoch};
use super::loader_core::LoaderCore;
use super::running_epoch::with_digest;
use crate::collate::Batch;
use crate::decode::Decode;
use crate::manifest::Manifest;
use crate::metrics::Metrics;
use crate::sample::State;
use crate::{Error, ErrorKind, Result, Stage};

/// A loader as a part of a mixture, without the type of its decoder.
pub(super) struct MixedPart {
    pub(super) core: LoaderCore,
    /// The counts of all calls through its client.
    pub(super) client_metrics: Arc<Metrics>,
}

/// The batches that an epoch of the mixture takes from one part.
pub(super) struct PartBatches<B> {
    /// `None` if it takes none.
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
    /// The position of a batch that is counted through all epochs of `per_epoch` batches each, which can't be 0. The
    /// epoch is `u64::MAX` if a `u64` can't count it; the mixture refuses such a position.
    pub(super) fn new(batch: u128, per_epoch: u64) -> Self {
        let per_epoch = u128::from(per_epoch);
        Self { epoch: u64::try_from(batch / per_epoch).unwrap_or(u64::MAX), batch: (batch % per_epoch) as u64 }
    }
}

pub(super) fn config_error(message: &str) -> Error {
    Error::new(ErrorKind::Config, message).stage(Stage::Sample)
}

impl MixedPart {
    pub(super) fn new<D: Decode, B>(loader: DataLoader<D, B>) -> Self {
        Self { client_metrics: Arc::clone(loader.dataset().client().metrics()), core: loader.core }
    }

    fn manifest(&self) -> &Manifest {
        &self.core.series.engine.bucket.manifest
    }

    /// The name of the part in errors: the URI of its prefix.
    pub(super) fn object(&self) -> String {
        self.manifest().prefix().to_string()
    }

    /// Checks that the loader can be a part, and returns the number of batches of each of its epochs, which is the same
    /// on every rank. Waits for the end of the listing.
    pub(super) fn checked_length(&self) -> Result<u64> {
        let refuse = |wanted, got| Err(config_error("this loader can't be a part of a mixture").mismatch(wanted, got));
        if self.core.series.resumed.is_some() {
            let got = "one that resumes from a state: give MixedLoaderBuilder::resume the state of the mixture";
            return refuse("one that starts at its first epoch", got);
        }
        if self.core.series.unordered {
            return refuse("batches in order", "unordered ones, whose state is no position: leave unordered out");
        }
        self.core.batches_per_epoch()
    }

    /// The state at the start of its epoch 0. Waits for the end of the listing.
    pub(super) fn initial_state(&self) -> State {
        with_digest(&self.core.series.state(0, None), self.manifest())
    }

    /// Checks that a state is one of this part.
    pub(super) fn check(&self, state: &State) -> Result<()> {
        state.check(self.manifest().digest())?;
        let describe = |state: &State| format!("order {}, last batch {:?}", state.identity(), state.last_batch());
        let (saved, built) = (describe(state), describe(&self.initial_state()));
        if saved != built {
            return Err(config_error("the state was taken with other settings")
                .mismatch(saved, built)
                .hint("build the part as it was"));
        }
        Ok(())
    }

    /// Starts `count` batches from batch `first`, which is counted through all epochs of the part.
    pub(super) fn start<B>(&self, first: u128, count: u64) -> Result<PartBatches<B>> {
        let Some(last) = count.checked_sub(1).map(|more| first + u128::from(more)) else {
            return Ok(PartBatches { epochs: None, current: None });
        };
        let per_epoch = self.core.batches_per_epoch()?;
        let (first, last) = (PartPosition::new(first, per_epoch), PartPosition::new(last, per_epoch));

        let mut series = self.core.new_series();
        let position = first.batch * series.sharding.global_batch_size();
        series.resumed = Some(State { position, ..series.state(first.epoch, None) });
        // How many batches to take of the last epoch. If it is also the first, those before `first` don't count.
        let skipped = if last.epoch == first.epoch { first.batch } else { 0 };
        series.last = Some(PartialEpoch { epoch: last.epoch, batches: last.batch + 1 - skipped });
        Ok(PartBatches { epochs: Some(series.start(first.epoch..last.epoch + 1)?), current: None })
    }
}

impl<B: 'static> PartBatches<B> {
    /// Releases the batch that was returned last, so that it takes no memory while other parts deliver theirs.
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
