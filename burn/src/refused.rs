//! Loaders without batches, for slices that don't exist. burn asks for slices by methods that return no error, so the
//! iterator of the slice returns it.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;

use burn_core::data::dataloader::{DataLoader, DataLoaderIterator, Progress};
use burn_core::data::dataset::DatasetError;
use burn_core::tensor::Device;

/// Why a loader can't be used on these devices.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DeviceSplitError {
    /// burn asked for these samples of a [`BurnDataLoader`](crate::BurnDataLoader), to train on several devices.
    Sliced(Range<usize>),
    /// burn asked for these samples of a [`ShardedBurnLoader`](crate::ShardedBurnLoader), whose shards are others.
    OtherSlices {
        /// The samples that burn asked for.
        slice: Range<usize>,
        /// Number of the loader's shards.
        shards: usize,
    },
    /// A [`ShardedBurnLoader`](crate::ShardedBurnLoader) of this number of shards was used on one device.
    NotSliced(usize),
}

impl fmt::Display for DeviceSplitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sliced(Range { start, end }) => write!(
                f,
                "a BurnDataLoader can't be sliced: wanted the samples {start} to {end}, as for several devices; make a \
                 ShardedBurnLoader of a loader for each device: DataLoader::builder(..).shard(rank, world_size)"
            ),
            Self::OtherSlices { slice: Range { start, end }, shards } => write!(
                f,
                "a loader of {shards} shards has no slice of the samples {start} to {end}: wanted one of {shards} \
                 equal slices; train on {shards} devices, or make as many shards as there are devices"
            ),
            Self::NotSliced(shards) => write!(
                f,
                "a loader of {shards} shards has no batches for one device; train on {shards} devices by the strategy \
                 MultiDevice or DistributedDataParallel of burn, or pass a BurnDataLoader"
            ),
        }
    }
}

impl std::error::Error for DeviceSplitError {}

/// A loader whose iterator returns an error and no batches.
#[derive(Clone, Debug)]
pub(crate) struct RefusedLoader {
    error: DeviceSplitError,
    items: usize,
}

impl RefusedLoader {
    /// The slice of a loader that has none.
    pub(crate) fn slice(range: Range<usize>) -> Self {
        Self { items: range.len(), error: DeviceSplitError::Sliced(range) }
    }

    pub(crate) fn new(error: DeviceSplitError, items: usize) -> Self {
        Self { error, items }
    }

    /// The iterator that returns the error.
    pub(crate) fn batches<O: 'static>(&self) -> Box<dyn DataLoaderIterator<O>> {
        Box::new(RefusedIterator { error: Some(self.error.clone()), items: self.items, batches: PhantomData })
    }
}

impl<O: Send + 'static> DataLoader<O> for RefusedLoader {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<O> + 'a> {
        self.batches()
    }

    fn num_items(&self) -> usize {
        self.items
    }

    fn to_device(&self, _: &Device) -> Arc<dyn DataLoader<O>> {
        Arc::new(self.clone())
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<O>> {
        Arc::new(Self { items: end.saturating_sub(start), ..self.clone() })
    }
}

/// Returns an error in the place of batches.
struct RefusedIterator<O> {
    error: Option<DeviceSplitError>,
    items: usize,
    batches: PhantomData<fn() -> O>,
}

impl<O> Iterator for RefusedIterator<O> {
    type Item = Result<O, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.error.take().map(|error| Err(DatasetError::new(error)))
    }
}

impl<O> DataLoaderIterator<O> for RefusedIterator<O> {
    fn progress(&self) -> Progress {
        Progress::new(0, self.items, Some("items".to_owned()))
    }
}
