//! From samples to a batch.

use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};

use crate::Error;
use crate::manifest::Manifest;
use crate::sample::SampleId;

/// A sample that could not be had, where the loader was told to [go on](crate::OnError) without it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LostSample {
    /// The sample.
    pub id: SampleId,
    /// Its object's name.
    pub name: Arc<str>,
    /// Where in the global order of the epoch it was to come, counted from 0.
    pub position: u64,
    /// What is wrong with it. [`Error::at_stage`] tells where that was found.
    pub error: Error,
    /// The sample that came in its place, where one did.
    pub substitute: Option<SampleId>,
}

/// Samples that one training step takes, and what was made of them.
///
/// Derefs to what was made: of raw samples a `Vec` of them, of an [`ImageFolder`](crate::ImageFolder) an
/// [`Images`](crate::Images).
#[derive(Clone, Debug)]
pub struct Batch<T> {
    ids: Vec<SampleId>,
    manifest: Arc<Manifest>,
    /// Looked up when they are asked for.
    names: OnceLock<Vec<Arc<str>>>,
    positions: Range<u64>,
    padding: usize,
    lost: Vec<LostSample>,
    data: T,
}

impl<T> Batch<T> {
    /// `lost` are either skipped or substituted, all of them.
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

    /// Which samples these are, in order.
    pub fn ids(&self) -> &[SampleId] {
        &self.ids
    }

    /// Their objects' names, in order; the first call looks them up. Empty where the manifest's file was written to since
    /// they were read.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        let name = |id: &SampleId| self.manifest.get(id.0).map(|entry| entry.name).unwrap_or_default();
        self.names.get_or_init(|| self.ids.iter().map(name).collect()).iter().map(|name| &**name)
    }

    /// Where in the global order of the epoch these samples stand, those that were skipped included.
    pub fn positions(&self) -> Range<u64> {
        self.positions.clone()
    }

    /// Samples that this batch goes without, in order; none unless [`OnError::Skip`](crate::OnError::Skip) was asked for.
    pub fn skipped(&self) -> &[LostSample] {
        if self.is_substituted() { &[] } else { &self.lost }
    }

    /// Samples that others came in the place of, in order; none unless
    /// [`OnError::Substitute`](crate::OnError::Substitute) was asked for. Where a substitute could not be had either, it
    /// is among them, behind the one it was to replace.
    pub fn substituted(&self) -> &[LostSample] {
        if self.is_substituted() { &self.lost } else { &[] }
    }

    /// What is true of one that was lost is of all.
    fn is_substituted(&self) -> bool {
        self.lost.first().is_some_and(|lost| lost.substitute.is_some())
    }

    /// Number of samples. 0 only where the last global batch has fewer samples than there are ranks, or where all were
    /// [skipped](Self::skipped).
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether this rank has no sample of this step.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// How many samples at the end of this batch fill it up, and were or will be delivered in their own place, too; 0
    /// but with [`pad_last`](crate::DataLoaderBuilder::pad_last), in the last batch. A measurement leaves them out.
    pub fn padding(&self) -> usize {
        self.padding
    }

    /// What was made of the samples.
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

/// Makes one batch of samples. Runs on the decode threads.
///
/// Any `Fn(Vec<T>) -> anyhow::Result<B>` is one.
pub trait Collate<T>: Send + Sync + 'static {
    /// The batch.
    type Output: Send + 'static;

    /// Makes a batch of `samples`, which are in order. There are none where the last global batch has fewer samples than
    /// there are ranks, see [`drop_last`](crate::DataLoaderBuilder::drop_last), or where all were
    /// [skipped](crate::OnError::Skip).
    ///
    /// # Errors
    /// They don't fit together.
    fn collate(&self, samples: Vec<T>) -> anyhow::Result<Self::Output>;

    /// Bytes of memory that collating allocates for one sample of `item_bytes` bytes while the samples are still there:
    /// as many by default, since most batches are copies; 0 where samples are moved. The memory budget counts by it.
    fn copied_bytes(&self, item_bytes: u64) -> u64 {
        item_bytes
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

/// Keeps the samples as they are, in a `Vec`.
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
