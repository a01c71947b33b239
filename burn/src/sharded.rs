//! A loader for several devices of one process.

use std::fmt;
use std::sync::Arc;

use burn_core::data::dataloader::{DataLoader, DataLoaderIterator};
use burn_core::tensor::Device;
use dataflux::State;

use crate::loader::{BurnDataLoader, LoaderEpochs, LoaderFacts};
use crate::refused::{DeviceSplitError, RefusedLoader};

/// A loader for burn's training on several devices of one process: of a loader for each device, made of the same data
/// set with the same settings but for its [shard](dataflux::DataLoaderBuilder::shard).
///
/// burn slices it into as many equal parts as there are devices, and each slice is a shard. So each global batch is
/// divided among the devices, all devices have as many batches, and each sample of an epoch is on one of them. A device
/// without a sample of a global batch gets an [error](crate::EmptyBatchError): set `drop_last` or `pad_last`, unless
/// the last global batch has a sample for each device, and set [`OnError::Substitute`](dataflux::OnError::Substitute)
/// instead of `Skip`. Each shard reads for itself, with a memory budget of its own.
///
/// Any error of a shard ends the training by burn's `MultiDevice`, as on one device. With burn 0.22, don't use
/// `DistributedDataParallel` where samples may be missing or corrupt: a device whose loader returns an error stops, and
/// the others wait for its gradients and never return.
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
/// let train = ShardedBurnLoader::new(shards)?; // for SupervisedTraining::new, with these devices
/// # Ok::<(), Box<dyn std::error::Error>>(())
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
    ///
    /// # Errors
    /// There is no loader, one is not of its rank, or they differ in their epochs.
    pub fn new(shards: Vec<BurnDataLoader<O>>) -> Result<Self, ShardError> {
        let facts: Vec<LoaderFacts> = shards.iter().map(BurnDataLoader::facts).collect();
        let first = facts.first().ok_or(ShardError::None)?;
        for (wanted, shard) in facts.iter().enumerate() {
            if (shard.rank, shard.world_size) != (wanted, facts.len()) {
                let (rank, world_size) = (shard.rank, shard.world_size);
                return Err(ShardError::Rank { wanted, rank, world_size, shards: facts.len() });
            }
            if shard.epochs != first.epochs {
                return Err(ShardError::Epochs { rank: wanted, wanted: first.epochs, got: shard.epochs });
            }
        }
        Ok(Self { shards })
    }

    /// The states from which loaders of any number of shards resume, by
    /// [`resume_all`](dataflux::DataLoaderBuilder::resume_all): those of all shards if batches are
    /// [unordered](dataflux::DataLoaderBuilder::unordered); otherwise the one of the shard that has delivered least,
    /// since the others may be a batch ahead, which a resume then repeats. `None` before the first epoch of a shard.
    pub fn states(&self) -> Option<Vec<State>> {
        let states: Vec<State> = self.shards.iter().map(BurnDataLoader::state).collect::<Option<_>>()?;
        let is_of_one_rank = |state: &State| state.beyond.as_ref().is_some_and(|beyond| beyond.share.is_some());
        if states.iter().any(is_of_one_rank) {
            return Some(states);
        }
        Some(states.into_iter().min_by_key(|state| (state.epoch, state.position)).into_iter().collect())
    }

    /// Sets the epoch that the next iterators of all shards have; see
    /// [`BurnDataLoader::set_next_epoch`].
    pub fn set_next_epoch(&self, epoch: u64) {
        self.shards.iter().for_each(|shard| shard.set_next_epoch(epoch));
    }
}

/// Why loaders don't make a [`ShardedBurnLoader`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ShardError {
    /// There is none.
    None,
    /// One is not of the rank of its place, so that devices would train on the same samples.
    Rank {
        /// The rank of the place.
        wanted: usize,
        /// The rank of the loader.
        rank: usize,
        /// Number of ranks of which the loader is one.
        world_size: usize,
        /// Number of loaders.
        shards: usize,
    },
    /// One has other epochs than the first, so that a device would wait for another one's batch.
    Epochs {
        /// The rank that differs from rank 0.
        rank: usize,
        /// The epochs of rank 0.
        wanted: LoaderEpochs,
        /// The epochs of this rank.
        got: LoaderEpochs,
    },
}

impl fmt::Display for ShardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str(
                "a ShardedBurnLoader has no shards: wanted a loader for each device, got none; make them with \
                 DataLoader::builder(..).shard(rank, world_size)",
            ),
            Self::Rank { wanted, rank, world_size, shards } => write!(
                f,
                "a loader is not the shard of its place: wanted rank {wanted} of {shards}, as there are {shards} \
                 loaders, got rank {rank} of {world_size}; make each with DataLoader::builder(..).shard(rank, \
                 {shards}), and pass them in the order of ranks"
            ),
            Self::Epochs { rank, wanted, got } => write!(
                f,
                "the shard of rank {rank} has other epochs than that of rank 0: wanted {wanted}, got {got}; make all \
                 shards of one data set with the same settings, and resume them by resume_all() with the same states"
            ),
        }
    }
}

impl std::error::Error for ShardError {}

impl<O: Send + 'static> DataLoader<O> for ShardedBurnLoader<O> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<O> + 'a> {
        // burn doesn't slice a loader for one device.
        if let [shard] = &self.shards[..] {
            return shard.iter();
        }
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
