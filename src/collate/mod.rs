//! Collators: from samples to a batch; and what moves a batch to a device.

mod buffers;
mod context;
mod device;
mod tuples;

use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};

use crate::Error;
use crate::manifest::Manifest;
use crate::sample::SampleId;

pub use buffers::BatchBuffer;
pub(crate) use buffers::{BatchPool, BufferSource};
pub use context::CollateContext;
pub use device::{TensorDevice, ToDevice};
pub(crate) use device::{conversion_error, not_converted};

/// A sample that could not be read or decoded, and that the loader [continued](crate::OnError) without.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LostSample {
    /// The sample.
    pub id: SampleId,
    /// Its object's name.
    pub name: Arc<str>,
    /// The position in the global order of the epoch that it was read for, counted from 0.
    pub position: u64,
    /// What is wrong with the sample. [`Error::at_stage`] returns the stage that found it.
    pub error: Error,
    /// The sample that was delivered at this position in the end, if there was one.
    pub substitute: Option<SampleId>,
}

/// The samples of one training step, collated.
///
/// It derefs to the collated data: a `Vec` for raw samples, [`Images`](crate::Images) for an
/// [`ImageFolder`](crate::ImageFolder).
#[derive(Clone, Debug)]
pub struct Batch<T> {
    ids: Vec<SampleId>,
    manifest: Arc<Manifest>,
    /// Looked up by the first call of `names()`.
    names: OnceLock<Vec<Arc<str>>>,
    positions: Range<u64>,
    padding: usize,
    lost: Vec<LostSample>,
    data: T,
}

impl<T> Batch<T> {
    /// `lost` are either all skipped or all substituted.
    pub(crate) fn new(
        ids: Vec<SampleId>,
        manifest: Arc<Manifest>,
        positions: Range<u64>,
        padding: usize,
        lost: Vec<LostSample>,
        data: T,
    ) -> Self {
        Self { ids, manifest, names: OnceLock::new(), positions, padding, lost, data }
    }

    /// The same batch with other data.
    ///
    /// # Errors
    /// The error of `change`.
    pub(crate) fn try_map<U, E>(self, change: impl FnOnce(T) -> Result<U, E>) -> Result<Batch<U>, E> {
        let Self { ids, manifest, names, positions, padding, lost, data } = self;
        Ok(Batch { ids, manifest, names, positions, padding, lost, data: change(data)? })
    }

    /// The collated data, and the batch without them.
    pub(crate) fn take_data(self) -> (T, Batch<()>) {
        let Self { ids, manifest, names, positions, padding, lost, data } = self;
        (data, Batch { ids, manifest, names, positions, padding, lost, data: () })
    }

    /// The indices of the samples in the manifest, in order.
    pub fn ids(&self) -> &[SampleId] {
        &self.ids
    }

    /// The names of the samples' objects, in order. The first call looks them up. A name is empty if the manifest's
    /// file was modified after the sample was read.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        let name = |id: &SampleId| self.manifest.location(*id).map(|location| location.object.name).unwrap_or_default();
        self.names.get_or_init(|| self.ids.iter().map(name).collect()).iter().map(|name| &**name)
    }

    /// From the position of the first sample in the global order of the epoch to behind that of the last.
    /// Skipped samples have positions, and padding has those behind the end of the order. It is `0..0` if no sample was
    /// planned. After a resume of an unordered epoch, positions that were delivered before may lie in between.
    pub fn positions(&self) -> Range<u64> {
        self.positions.clone()
    }

    /// Samples that this batch lacks, in order. There are none unless [`OnError::Skip`](crate::OnError::Skip) was set.
    pub fn skipped(&self) -> &[LostSample] {
        if self.is_substituted() { &[] } else { &self.lost }
    }

    /// Samples that were replaced by others, in order. There are none unless
    /// [`OnError::Substitute`](crate::OnError::Substitute) was set. If a substitute could not be read or decoded
    /// either, it follows the sample that it was to replace.
    pub fn substituted(&self) -> &[LostSample] {
        if self.is_substituted() { &self.lost } else { &[] }
    }

    /// Either all lost samples have a substitute or none has.
    fn is_substituted(&self) -> bool {
        self.lost.first().is_some_and(|lost| lost.substitute.is_some())
    }

    /// Number of samples. It is 0 only if the last global batch has fewer samples than there are ranks, or if all
    /// samples were [skipped](Self::skipped).
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there is no sample; see [`len`](Self::len).
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// How many samples at the end of this batch are padding, which are also delivered at their own positions. It is 0
    /// except in the last batch with [`pad_last`](crate::DataLoaderBuilder::pad_last). A measurement should leave them
    /// out.
    pub fn padding(&self) -> usize {
        self.padding
    }

    /// The collated data.
    pub fn into_inner(self) -> T {
        self.data
    }
}

impl<T> Deref for Batch<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

/// Makes one batch of samples. Runs on the decode threads, or for a batch without samples on the planning thread.
///
/// Any `Fn(Vec<T>) -> `[`anyhow::Result<B>`](anyhow::Result) is a collator. A decoder has a
/// default one; [`DatafluxDataset::collate`](crate::DatafluxDataset::collate) sets another.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not make batches of `{T}`",
    label = "not a collate function for these samples",
    note = "a collate function is `Samples`, `StackImages`, `MixImages` or `PadImages` (for images), `StackArrays` or \
            `PadArrays` (for arrays), a type that implements `Collate<{T}>`, or a closure \
            `|samples: Vec<{T}>| -> anyhow::Result<B>` that is `Send + Sync + 'static`"
)]
pub trait Collate<T>: Send + Sync + 'static {
    /// Type of the collated data.
    type Output: Send + 'static;

    /// Makes a batch of `samples`, which are in order. There are none if the last global batch has fewer samples than
    /// there are ranks, see [`drop_last`](crate::DataLoaderBuilder::drop_last), or if all were
    /// [skipped](crate::OnError::Skip).
    ///
    /// # Errors
    /// The samples don't fit together.
    fn collate(&self, samples: Vec<T>) -> anyhow::Result<Self::Output>;

    /// Makes a batch as [`collate`](Self::collate) does, and receives which batch it is. A loader calls this one.
    /// Implement it for what is random about a batch, such as [`MixImages`](crate::MixImages); a collator that wraps
    /// another one must pass the context on.
    ///
    /// # Errors
    /// The samples don't fit together.
    fn collate_with(&self, samples: Vec<T>, context: &CollateContext) -> anyhow::Result<Self::Output> {
        let _ = context;
        self.collate(samples)
    }

    /// Bytes of memory that collating allocates for one sample of `item_bytes` bytes while the samples still exist, for
    /// the memory budget. As many by default, since most batches are copies; 0 if samples are moved.
    fn copied_bytes(&self, item_bytes: u64) -> u64 {
        item_bytes
    }

    /// Bytes of memory that the batch's data take for one sample of `item_bytes` bytes once the samples are gone, for
    /// the memory budget, which counts at most the item and what is [copied](Self::copied_bytes) together. The larger
    /// of the two by default.
    fn batch_bytes(&self, item_bytes: u64) -> u64 {
        self.copied_bytes(item_bytes).max(item_bytes)
    }

    /// Whether each sample takes as much of the batch as the largest one does, because the others are padded: the memory
    /// budget then counts the padding. False by default. A collator whose [`batch_bytes`](Self::batch_bytes) include
    /// the padding, such as [`PadArrays`](crate::PadArrays), leaves it so.
    fn pads_to_largest(&self) -> bool {
        false
    }
}

impl<F, T, B> Collate<T> for F
where
    F: Fn(Vec<T>) -> anyhow::Result<B> + Send + Sync + 'static,
    B: Send + 'static,
{
    type Output = B;

    fn collate(&self, samples: Vec<T>) -> anyhow::Result<B> {
        self(samples)
    }
}

impl<T, C: Collate<T> + ?Sized> Collate<T> for Arc<C> {
    type Output = C::Output;

    fn collate(&self, samples: Vec<T>) -> anyhow::Result<C::Output> {
        (**self).collate(samples)
    }

    fn collate_with(&self, samples: Vec<T>, context: &CollateContext) -> anyhow::Result<C::Output> {
        (**self).collate_with(samples, context)
    }

    fn copied_bytes(&self, item_bytes: u64) -> u64 {
        (**self).copied_bytes(item_bytes)
    }

    fn batch_bytes(&self, item_bytes: u64) -> u64 {
        (**self).batch_bytes(item_bytes)
    }

    fn pads_to_largest(&self) -> bool {
        (**self).pads_to_largest()
    }
}

/// A [`Collate`] that keeps the samples in a `Vec`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Samples;

impl<T: Send + 'static> Collate<T> for Samples {
    type Output = Vec<T>;

    fn collate(&self, samples: Vec<T>) -> anyhow::Result<Vec<T>> {
        Ok(samples)
    }

    fn copied_bytes(&self, _: u64) -> u64 {
        0
    }
}
