//! A loader for several devices of one process.

use std::sync::Arc;

use burn_core::data::dataloader::{DataLoader, DataLoaderIterator};
use burn_core::tensor::Device;
use dataflux::State;

use crate::loader::BurnDataLoader;
use crate::refused::{DeviceSplitError, RefusedLoader};

/// A loader for burn's training on several devices of one process: of a loader for each device, made of the same data
/// set with the same settings but for its [shard](dataflux::DataLoaderBuilder::shard).
///
/// burn slices it into as many equal parts as there are devices, and each slice is a shard. So each global batch is
/// divided among the devices, all devices have as many batches, and each sample of an epoch is on one of them. Set
/// `drop_last` or `pad_last`, unless the last global batch has a sample for each device; a device without one gets an
/// error. Each shard reads for itself, with a memory budget of its own.
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use burn_core::tensor::Device;
/// use dataflux::{DataLoader, DatafluxDataset, RawSample};
/// use dataflux_burn::{BurnDataLoader, ShardedBurnLoader};
/// # let store = MemoryStore::new();
/// # (0..5).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n}.txt"), "12"));
/// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
///
/// let numbers = |sample: RawSample| -> anyhow::Result<f32> { Ok(std::str::from_utf8(sample.bytes())?.parse()?) };
/// let dataset = dataset.decode(numbers);
/// let devices = [Device::default(), Device::default()];
/// let mut shards = Vec::new();
/// for (rank, device) in devices.iter().enumerate() {
///     let loader = DataLoader::builder(dataset.clone()).batch_size(2).shuffle(42).shard(rank, devices.len());
///     shards.push(BurnDataLoader::new(loader.build()?, device)?);
/// }
/// let train = ShardedBurnLoader::new(shards); // for SupervisedTraining::new, with these devices
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Debug)]
pub struct ShardedBurnLoader<O> {
    shards: Vec<BurnDataLoader<O>>,
}

impl<O> Clone for ShardedBurnLoader<O> {
    /// The same loader: both count the same epochs.
    fn clone(&self) -> Self {
        Self { shards: self.shards.clone() }
    }
}

impl<O: Send + 'static> ShardedBurnLoader<O> {
    /// A loader of the shards of all ranks, from rank 0 on.
    pub fn new(shards: Vec<BurnDataLoader<O>>) -> Self {
        Self { shards }
    }

    /// The state of the shard that has delivered least, from which loaders of any number of shards
    /// [resume](dataflux::DataLoaderBuilder::resume): the others may be a batch ahead, which a resume then repeats.
    /// `None` before the first epoch of a shard.
    pub fn state(&self) -> Option<State> {
        let states: Option<Vec<State>> = self.shards.iter().map(BurnDataLoader::state).collect();
        states?.into_iter().min_by_key(|state| (state.epoch, state.position))
    }
}

impl<O: Send + 'static> DataLoader<O> for ShardedBurnLoader<O> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<O> + 'a> {
        RefusedLoader::new(DeviceSplitError::NotSliced(self.shards.len()), self.num_items()).batches()
    }

    fn num_items(&self) -> usize {
        self.shards.iter().map(BurnDataLoader::num_items).sum()
    }

    fn to_device(&self, device: &Device) -> Arc<dyn DataLoader<O>> {
        Arc::new(Self { shards: self.shards.iter().map(|shard| shard.moved_to(device)).collect() })
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn DataLoader<O>> {
        // As `split_dataloader` of burn divides: all slices have the same length, and the last one also what is left.
        let (items, shards) = (self.num_items(), self.shards.len());
        let step = items / shards.max(1);
        let bounds = |rank: usize| rank * step..if rank + 1 == shards { items } else { (rank + 1) * step };
        let Some(rank) = (0..shards).find(|rank| bounds(*rank) == (start..end)) else {
            let error = DeviceSplitError::OtherSlices { slice: start..end, shards };
            return Arc::new(RefusedLoader::new(error, end.saturating_sub(start)));
        };
        Arc::new(self.shards[rank].clone())
    }
}
