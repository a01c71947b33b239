//! Lost samples: which errors are a sample's own, what a loader does about them, and how they are reported.

use crate::collate::{Batch, LostSample};
use crate::{Error, ErrorKind, Result, Stage};

/// What a loader does about a sample that can't be read or decoded after all retries.
///
/// Only a sample's own error is skipped or substituted. It is one of these:
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
/// All other errors end the epoch whatever is set here, since they would hit every other sample as well: a batch whose
/// samples together are too large for the memory budget, a service that is down or slow (`Unavailable`, `Timeout`,
/// `RateLimited`), credentials, settings, local files, samples that make no batch, answers that make no sense, and
/// bugs. If a whole bucket is deleted or closed, that looks like many lost objects, which is why there is a `limit`. It
/// counts per epoch and rank, from 0 again when an epoch is resumed, in the order of delivery, so that every run
/// reaches it at the same batch. The batch that exceeds it is an error, which ends the epoch.
///
/// [`Batch::skipped`], [`Batch::substituted`], the log, and [`EpochStats`](crate::loader::EpochStats) report lost
/// samples.
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
    /// The batch is delivered without the sample. All ranks still have the same number of batches, but not of samples.
    /// A batch whose samples are all skipped is empty.
    Skip {
        /// Most samples of an epoch to lose, on this rank.
        limit: u64,
    },
    /// Another sample of the epoch replaces it, and is then delivered twice. The choice depends only on the epoch and
    /// on the place in its order, so batches stay full, and the global order is the same at any number of ranks without
    /// a word between them. If that sample can't be read either, a third one is tried, and so on, 16 times at most.
    ///
    /// If the data set is [streaming](crate::loader::DatasetBuilder::streaming), a substitute waits for the end of the
    /// listing.
    Substitute {
        /// Most samples of an epoch to lose, on this rank, substitutes included.
        limit: u64,
    },
}

/// Losses of an epoch that are logged individually: enough to see what is wrong, few enough to read.
const MAX_LOGGED_LOSSES: u64 = 20;

/// Whether an error is the sample's own. [`OnError`] has the table.
pub(crate) fn is_of_one_sample(error: &Error) -> bool {
    use ErrorKind::{Changed, Decode, Integrity, NotFound, PermissionDenied, Precondition};
    let kind = matches!(error.kind(), Changed | Decode | Integrity | NotFound | PermissionDenied | Precondition);
    // A damaged manifest concerns all samples.
    kind && error.at_stage() != Some(Stage::Manifest)
}

/// The error of a batch that found no substitute after so many tries.
pub(crate) fn in_vain(last: &LostSample, tried: usize) -> Error {
    of_lost(
        last,
        format!("none of {tried} samples tried for one place of a batch could be read and decoded; this was the last"),
    )
    .hint("most of the data is bad or out of reach: see the cause")
}

/// An error whose cause is this loss.
fn of_lost(last: &LostSample, message: impl Into<String>) -> Error {
    let cause = &last.error;
    Error::new(cause.kind(), message)
        .stage(cause.at_stage().unwrap_or(Stage::Deliver))
        .object(cause.about().unwrap_or(&last.name))
        .with_source(cause.clone())
}

/// The losses among the delivered samples of an epoch.
pub(crate) struct LossTotals {
    on_error: OnError,
    skipped: u64,
    substituted: u64,
}

impl LossTotals {
    pub(crate) fn new(on_error: OnError) -> Self {
        Self { on_error, skipped: 0, substituted: 0 }
    }

    /// Number of skipped and of substituted samples so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.skipped, self.substituted)
    }

    /// Counts and logs the losses of a batch.
    ///
    /// # Errors
    /// The limit is exceeded, and the batch must not be delivered.
    pub(crate) fn count<B>(&mut self, batch: &Batch<B>) -> Result<()> {
        let limit = match self.on_error {
            OnError::Fail => return Ok(()),
            OnError::Skip { limit } | OnError::Substitute { limit } => limit,
        };
        for lost in batch.skipped().iter().chain(batch.substituted()) {
            let before = self.skipped + self.substituted;
            if before == limit {
                return Err(of_lost(lost, "too many samples can't be read or decoded")
                    .mismatch(format_args!("at most {limit} in an epoch on this rank"), format_args!("{}", before + 1))
                    .hint("the log names them: repair them, or raise the limit of .on_error(..)"));
            }
            let (id, position, error) = (lost.id.0, lost.position, &lost.error);
            match lost.substitute {
                _ if before > MAX_LOGGED_LOSSES => {}
                _ if before == MAX_LOGGED_LOSSES => {
                    tracing::warn!("more samples can't be read or decoded; the end of the epoch logs how many");
                }
                None => tracing::warn!(id, position, %error, "a sample is skipped"),
                Some(by) => tracing::warn!(id, position, by = by.0, %error, "a sample is replaced by another"),
            }
            *(if lost.substitute.is_none() { &mut self.skipped } else { &mut self.substituted }) += 1;
        }
        Ok(())
    }

    /// Logs, at the end of the epoch, what was lost.
    pub(crate) fn summarize(&self, epoch: u64) {
        let Self { skipped, substituted, .. } = *self;
        if skipped + substituted > 0 {
            tracing::warn!(epoch, skipped, substituted, "samples of this epoch could not be read or decoded");
        }
    }
}
