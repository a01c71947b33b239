//! Samples that can't be had: which errors are a sample's own, what is done about them, and how they are told.

use crate::collate::{Batch, LostSample};
use crate::{Error, ErrorKind, Result, Stage};

/// What a loader does about a sample that can't be had, when all retries are through.
///
/// A sample's own error is one of these; nothing else is skipped or substituted:
///
/// | [`ErrorKind`] | |
/// |---|---|
/// | `Decode` | the decoder refused it, or panicked |
/// | `Changed`, `Precondition` | it was overwritten after it was listed |
/// | `NotFound` | it was deleted after it was listed |
/// | `PermissionDenied` | this object may not be read |
/// | `Integrity` | its bytes don't match their CRC or their length, at the third try still |
/// | `Config` | decoded, this sample alone is too large for the memory budget |
///
/// A batch whose samples are too large for the memory budget together, a service that is down or slow (`Unavailable`, `Timeout`, `RateLimited`), credentials, settings, local
/// files, samples that make no batch, answers that make no sense and bugs end the epoch whatever is set here, since they'd
/// hit every other sample as well. A whole bucket that is gone or closed looks like many objects that are: that is what
/// `limit` is for. It counts by epoch and rank, anew where an epoch is resumed, in the order of delivery, so that it
/// is met at the same batch in every run. The batch that goes beyond it is an error, which ends the epoch.
///
/// What was lost is told by [`Batch::skipped`] and [`Batch::substituted`], in the log, and at the end of the epoch by
/// [`EpochStats`](crate::loader::EpochStats).
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use dataflux::{DataLoader, DatafluxDataset, OnError, RawSample};
///
/// # let store = MemoryStore::new();
/// # (0..10).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n}.txt"), format!("{n}")));
/// # let client = Client::new(Arc::new(store));
/// let odd = |sample: RawSample| -> anyhow::Result<u64> {
///     let number = std::str::from_utf8(sample.bytes())?.parse()?;
///     anyhow::ensure!(number != 3, "3 is out of order");
///     Ok(number)
/// };
/// let dataset = DatafluxDataset::open_with(client, "gs://my-bucket/train/")?.decode(odd);
/// let loader = DataLoader::builder(dataset).batch_size(10).on_error(OnError::Skip { limit: 5 }).build()?;
/// let batch = loader.epoch(0)?.next().unwrap()?;
/// assert_eq!(*batch, [0, 1, 2, 4, 5, 6, 7, 8, 9]);
/// assert_eq!(&*batch.skipped()[0].name, "train/3.txt");
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnError {
    /// The batch is an error, which ends the epoch.
    #[default]
    Fail,
    /// The batch goes without it. Ranks have equally many batches all the same, but not equally many samples; a batch of which
    /// all are skipped is an empty one.
    Skip {
        /// Most samples of an epoch to lose, on this rank.
        limit: u64,
    },
    /// Another sample of the epoch comes in its place, which then comes twice. Which one hangs on the place in the order and
    /// the epoch alone, so batches stay full and the global order is the same at any number of ranks, though no rank asks
    /// another. Where that one can't be had either, a third comes, and so on, 16 times at most.
    ///
    /// Where the data set is [streaming](crate::loader::DatasetBuilder::streaming), a substitute waits for the end of the listing.
    Substitute {
        /// Most samples of an epoch to lose, on this rank, substitutes included.
        limit: u64,
    },
}

/// Losses that are logged one by one in an epoch: enough to see what is wrong, few enough to read.
const LOGGED: u64 = 20;

/// Whether an error is that of the one sample that was read or decoded. The table stands at [`OnError`].
pub(crate) fn is_of_one_sample(error: &Error) -> bool {
    use ErrorKind::{Changed, Decode, Integrity, NotFound, PermissionDenied, Precondition};
    let kind = matches!(error.kind(), Changed | Decode | Integrity | NotFound | PermissionDenied | Precondition);
    // A manifest that is damaged is no matter of one sample.
    kind && error.at_stage() != Some(Stage::Manifest)
}

/// The error of a place for which no substitute could be had.
pub(crate) fn in_vain(last: &LostSample, tried: usize) -> Error {
    of_lost(last, format!("of {tried} samples none could be had for one place of a batch, and this was the last"))
        .hint("most of the data is bad or out of reach: see the cause")
}

/// An error that one more loss has brought about.
fn of_lost(last: &LostSample, message: impl Into<String>) -> Error {
    let cause = &last.error;
    Error::new(cause.kind(), message)
        .stage(cause.at_stage().unwrap_or(Stage::Deliver))
        .object(cause.about().unwrap_or(&last.name))
        .with_source(cause.clone())
}

/// What an epoch has lost so far of what was delivered.
#[derive(Debug)]
pub(crate) struct LossTotals {
    on_error: OnError,
    skipped: u64,
    substituted: u64,
}

impl LossTotals {
    pub(crate) fn new(on_error: OnError) -> Self {
        Self { on_error, skipped: 0, substituted: 0 }
    }

    /// Skipped and substituted so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.skipped, self.substituted)
    }

    /// Counts and logs what a batch has lost.
    ///
    /// # Errors
    /// The limit is passed, and the batch is not to be delivered.
    pub(crate) fn count<B>(&mut self, batch: &Batch<B>) -> Result<()> {
        let limit = match self.on_error {
            OnError::Fail => return Ok(()),
            OnError::Skip { limit } | OnError::Substitute { limit } => limit,
        };
        for lost in batch.skipped().iter().chain(batch.substituted()) {
            let before = self.skipped + self.substituted;
            if before == limit {
                return Err(of_lost(lost, "too many samples can't be had")
                    .mismatch(format_args!("at most {limit} in an epoch on this rank"), format_args!("{}", before + 1))
                    .hint("the log names them: mend them, or raise the limit of .on_error(..)"));
            }
            let (id, position, error) = (lost.id.0, lost.position, &lost.error);
            match lost.substitute {
                _ if before > LOGGED => {}
                _ if before == LOGGED => {
                    tracing::warn!("more samples can't be had; the end of the epoch tells how many");
                }
                None => tracing::warn!(id, position, %error, "a sample is skipped"),
                Some(by) => tracing::warn!(id, position, by = by.0, %error, "another sample comes in the place of one"),
            }
            *(if lost.substitute.is_none() { &mut self.skipped } else { &mut self.substituted }) += 1;
        }
        Ok(())
    }

    /// Tells, at the end of the epoch, what was lost.
    pub(crate) fn summarize(&self, epoch: u64) {
        let Self { skipped, substituted, .. } = *self;
        if skipped + substituted > 0 {
            tracing::warn!(epoch, skipped, substituted, "samples of this epoch could not be had");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hits_every_sample_is_no_error_of_one() {
        use ErrorKind::*;
        let of_one = [Changed, Decode, Integrity, NotFound, PermissionDenied, Precondition];
        let of_all =
            [Config, Unauthenticated, RateLimited, Unavailable, Timeout, Protocol, Collate, Cancelled, Io, Internal];
        assert!(of_one.into_iter().all(|kind| is_of_one_sample(&Error::new(kind, "").stage(Stage::Fetch))));
        assert!(!of_all.into_iter().any(|kind| is_of_one_sample(&Error::new(kind, "").stage(Stage::Fetch))));
        assert!(!is_of_one_sample(&Error::new(Integrity, "the manifest changed").stage(Stage::Manifest)));
    }
}
