//! A loader of dataflux as burn's `Learner` takes it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn_core::data::dataloader::batcher::Batcher;
use burn_core::data::dataloader::{self, DataLoaderIterator, Progress};
use burn_core::data::dataset::DatasetError;
use burn_core::tensor::Device;
use dataflux::{Batch, BatchOf, Batches, Collate, DataLoader, Decode, Result, State, TensorDevice, ToDevice};

use crate::device::{BurnDevice, DeviceBatcher};
use crate::refused::RefusedLoader;

/// A loader of dataflux that burn's `SupervisedTraining` takes for training or validation: it implements
/// [`DataLoader`](burn_core::data::dataloader::DataLoader) of burn. `O` is a batch on the device.
///
/// A thread of the loader converts each batch, one ahead of the training loop.
///
/// **Epochs.** Each call of `iter` begins the next epoch. The first call begins epoch 0, or the one that the loader
/// [resumes](dataflux::DataLoaderBuilder::resume), unless [`set_next_epoch`](Self::set_next_epoch) sets another. The
/// order of an epoch depends on the data, the loader's seed and the number of the epoch alone. An epoch that is left
/// early counts, so the next call begins the one after it. A loader that `to_device` returns shares the count of epochs
/// with this one. Nothing of an epoch is read before `iter` is called, so the training loop waits for the first batches
/// of each.
///
/// **Errors.** The iterator returns the error of a batch in its place and then ends. `SupervisedTraining` stops with
/// it, and returns it as `LearningResult::error`. The [`state`](Self::state) is that before the batch. A batch all of
/// whose samples were [skipped](dataflux::OnError::Skip) is left out; on one of several
/// [shards](dataflux::DataLoaderBuilder::shard), whose peers have as many batches, it is an [error](EmptyBatchError).
///
/// **Several devices.** burn divides a loader among the devices of a process by `slice`. The iterator of a slice of
/// this one returns an error. Make a [`ShardedBurnLoader`](crate::ShardedBurnLoader) instead.
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use burn_core::data::dataloader::DataLoader as _;
/// use burn_core::tensor::Device;
/// use dataflux::{DataLoader, DatafluxDataset, RawSample};
/// use dataflux_burn::BurnDataLoader;
/// # let store = MemoryStore::new();
/// # (0..5).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n}.txt"), "12"));
/// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
///
/// let numbers = |sample: RawSample| -> anyhow::Result<f32> { Ok(std::str::from_utf8(sample.bytes())?.parse()?) };
/// let loader = DataLoader::builder(dataset.decode(numbers)).batch_size(2).shuffle(42).build()?;
/// let loader = BurnDataLoader::new(loader, &Device::default())?;
/// for epoch in 0..2 {
///     for batch in loader.iter() {
///         println!("epoch {epoch}: {}", batch.unwrap());
///     }
/// }
/// assert_eq!(loader.num_items(), 5);
/// # Ok::<(), dataflux::Error>(())
/// ```
pub struct BurnDataLoader<O> {
    epochs: Arc<EpochSource<O>>,
    device: Device,
}

impl<O> BurnDataLoader<O> {
    /// The same loader, with its batches on another device.
    pub(crate) fn moved_to(&self, device: &Device) -> Self {
        Self { epochs: Arc::clone(&self.epochs), device: device.clone() }
    }
}

impl<O> Clone for BurnDataLoader<O> {
    /// The same loader: both count the same epochs.
    fn clone(&self) -> Self {
        self.moved_to(&self.device)
    }
}

/// The batches of an epoch as tensors.
trait TensorBatches<O>: Iterator<Item = std::result::Result<O, DatasetError>> {
    /// The state after the last batch, or after that before the one whose place an error took.
    fn state(&self) -> State;

    /// Number of batches still to come.
    fn left(&self) -> u64;
}

type BeginEpoch<O> = dyn Fn(u64, &Device) -> Result<Box<dyn TensorBatches<O>>> + Send + Sync;

/// What loaders on several devices share.
struct EpochSource<O> {
    begin: Box<BeginEpoch<O>>,
    facts: LoaderFacts,
    position: Mutex<LoaderPosition>,
}

/// What a loader says of itself before an epoch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LoaderFacts {
    pub(crate) rank: usize,
    pub(crate) world_size: usize,
    /// Samples of this rank in a whole epoch.
    pub(crate) samples: u64,
    pub(crate) epochs: LoaderEpochs,
}

/// How many batches a loader has, for the error of [shards](crate::ShardError) that differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LoaderEpochs {
    /// Batches of a whole epoch.
    pub batches: u64,
    /// The first epoch with anything left: 0, or that of a resume.
    pub first_epoch: u64,
    /// Batches of that epoch that are left.
    pub first_batches: u64,
}

impl fmt::Display for LoaderEpochs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { batches, first_epoch, first_batches } = self;
        write!(f, "{batches} batches in an epoch and {first_batches} of them left in epoch {first_epoch}")
    }
}

impl LoaderFacts {
    fn of<D: Decode>(loader: &DataLoader<D>) -> Result<Self> {
        let first_epoch = loader.first_epoch();
        Ok(Self {
            rank: loader.rank(),
            world_size: loader.world_size(),
            samples: loader.samples_per_epoch()?,
            epochs: LoaderEpochs {
                batches: loader.batches_per_epoch()?,
                first_epoch,
                first_batches: loader.batches_left(first_epoch)?,
            },
        })
    }
}

#[derive(Debug)]
struct LoaderPosition {
    /// The epoch that the next iterator has.
    next_epoch: u64,
    /// Number of iterators that were begun.
    iterators: u64,
    /// The state after the last batch that the newest iterator delivered.
    state: Option<State>,
}

impl<O> EpochSource<O> {
    fn position(&self) -> MutexGuard<'_, LoaderPosition> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes of a batch what the iterator returns; `None` if the batch has no samples.
type Finish<T, O> = dyn Fn(Batch<T>) -> Option<O> + Send + Sync;

/// Batches with the last step of their conversion, which the training loop's thread makes.
struct FinishedBatches<T, O> {
    batches: Batches<T>,
    finish: Arc<Finish<T, O>>,
    world_size: usize,
    left: u64,
    /// The state before the batch that was refused, which the loader itself has delivered.
    before_refused: Option<State>,
}

impl<T: 'static, O> Iterator for FinishedBatches<T, O> {
    type Item = std::result::Result<O, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let before = self.batches.state();
            let batch = match self.batches.next()? {
                Ok(batch) => batch,
                Err(error) => return Some(Err(DatasetError::new(error))),
            };
            let were_skipped = !batch.skipped().is_empty();
            let finished = if batch.is_empty() { None } else { (self.finish)(batch) };

            // Networks of burn panic at a batch without samples. One rank alone takes the next batch instead. If there
            // are others, this rank would have a batch less, and the others would wait for its gradients.
            if finished.is_none() && (self.world_size > 1 || !were_skipped) {
                let error = if were_skipped { EmptyBatchError::AllSkipped } else { EmptyBatchError::TooFewSamples };
                self.before_refused = Some(before);
                return Some(Err(DatasetError::new(error)));
            }
            self.left = self.left.saturating_sub(1);
            if let Some(batch) = finished {
                return Some(Ok(batch));
            }
        }
    }
}

/// The error of a batch without samples on one of several ranks, whose peers have samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EmptyBatchError {
    /// The last global batch of the epoch has fewer samples than there are ranks.
    TooFewSamples,
    /// All samples that this rank has of a global batch were [skipped](dataflux::OnError::Skip).
    AllSkipped,
}

impl fmt::Display for EmptyBatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooFewSamples => {
                "the last batch of the epoch has no samples: wanted one at least, as other ranks have, got none; set \
                 drop_last or pad_last of DataLoader::builder(..)"
            }
            Self::AllSkipped => {
                "all samples of a batch were skipped: wanted one at least, as each rank needs for each step, got none; \
                 set OnError::Substitute instead of OnError::Skip, or larger batches"
            }
        })
    }
}

impl std::error::Error for EmptyBatchError {}

impl<T: 'static, O> TensorBatches<O> for FinishedBatches<T, O> {
    fn state(&self) -> State {
        self.before_refused.clone().unwrap_or_else(|| self.batches.state())
    }

    fn left(&self) -> u64 {
        self.left
    }
}

impl<O: Send + 'static> BurnDataLoader<O> {
    /// A loader whose batches are what `loader`'s [convert to](dataflux::ToDevice): tensors, or several in a tuple.
    /// Pass an `Arc` of the loader to keep it for its [bill](dataflux::DataLoader::bill) and the like. Waits for the
    /// end of the listing.
    ///
    /// `device` is where batches go until `to_device` names another, as `SupervisedTraining` does.
    ///
    /// # Errors
    /// The listing failed, or the sampler can't order what was listed.
    pub fn new<D>(loader: impl Into<Arc<DataLoader<D>>>, device: &Device) -> Result<Self>
    where
        D: Decode,
        BatchOf<D>: ToDevice<BurnDevice, Tensors = O>,
    {
        Self::new_mapped(loader, device, Batch::into_inner)
    }

    /// As [`new`](Self::new), with the batches that `finish` makes of the tensors, such as a struct of your program. A
    /// [`Batch`] also has the names, ids and positions of the samples.
    ///
    /// `finish` runs on the thread that trains, so conversions that take long belong into a type that implements
    /// [`ToDevice`].
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn new_mapped<D, T>(
        loader: impl Into<Arc<DataLoader<D>>>,
        device: &Device,
        finish: impl Fn(Batch<T>) -> O + Send + Sync + 'static,
    ) -> Result<Self>
    where
        D: Decode,
        BatchOf<D>: ToDevice<BurnDevice, Tensors = T>,
        T: Send + 'static,
    {
        let finish = Arc::new(move |batch| Some(finish(batch)));
        Self::of(loader.into(), device, |device| BurnDevice::from(device), finish)
    }

    /// A loader whose batches `batcher` makes, a [`Batcher`] of burn. The decoder's batches are to be a `Vec` of
    /// samples, as those of a closure are. A thread of the loader runs the batcher, one batch ahead of the training
    /// loop; a panic of it becomes an error of that batch.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn from_batcher<D, I>(
        loader: impl Into<Arc<DataLoader<D>>>,
        batcher: impl Batcher<I, O> + 'static,
        device: &Device,
    ) -> Result<Self>
    where
        D: Decode<Collate: Collate<<D as Decode>::Item, Output = Vec<I>>>,
        I: 'static,
    {
        let batcher: Arc<dyn Batcher<I, O>> = Arc::new(batcher);
        let on_device = move |device: &Device| DeviceBatcher { batcher: Arc::clone(&batcher), device: device.clone() };
        Self::of(loader.into(), device, on_device, Arc::new(Batch::into_inner))
    }

    fn of<D, V, T>(
        loader: Arc<DataLoader<D>>,
        device: &Device,
        on_device: impl Fn(&Device) -> V + Send + Sync + 'static,
        finish: Arc<Finish<T, O>>,
    ) -> Result<Self>
    where
        D: Decode,
        V: TensorDevice,
        BatchOf<D>: ToDevice<V, Tensors = T>,
        T: Send + 'static,
    {
        let facts = LoaderFacts::of(&loader)?;
        let position = LoaderPosition { next_epoch: facts.epochs.first_epoch, iterators: 0, state: None };
        let begin = move |epoch: u64, device: &Device| {
            let (left, world_size) = (loader.batches_left(epoch)?, facts.world_size);
            let (batches, finish) = (loader.epoch_on(epoch, on_device(device))?, Arc::clone(&finish));
            let batches = FinishedBatches { batches, finish, world_size, left, before_refused: None };
            Ok(Box::new(batches) as Box<dyn TensorBatches<O>>)
        };
        let epochs = Arc::new(EpochSource { begin: Box::new(begin), facts, position: Mutex::new(position) });
        Ok(Self { epochs, device: device.clone() })
    }
}

impl<O> BurnDataLoader<O> {
    /// Sets the epoch that the next iterator has, counted from 0, also for clones of this loader: for a run that begins
    /// with a checkpoint of burn instead of a [state](dataflux::DataLoaderBuilder::resume). After
    /// `SupervisedTraining::checkpoint(n)`, which has trained `n` epochs, it is `n`.
    pub fn set_next_epoch(&self, epoch: u64) {
        self.epochs.position().next_epoch = epoch;
    }

    /// The state after the batches that were delivered so far, of the iterator that was begun last, on whatever device:
    /// a loader [resumes](dataflux::DataLoaderBuilder::resume) from it. `None` before the first epoch.
    pub fn state(&self) -> Option<State> {
        self.epochs.position().state.clone()
    }

    pub(crate) fn facts(&self) -> LoaderFacts {
        self.epochs.facts
    }
}

impl<O> fmt::Debug for BurnDataLoader<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BurnDataLoader")
            .field("device", &self.device)
            .field("position", &*self.epochs.position())
            .finish_non_exhaustive()
    }
}

impl<O: Send + 'static> dataloader::DataLoader<O> for BurnDataLoader<O> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<O> + 'a> {
        let mut position = self.epochs.position();
        let epoch = position.next_epoch;
        position.next_epoch += 1;
        position.iterators += 1;
        let number = position.iterators;
        let batches = (self.epochs.begin)(epoch, &self.device);
        let mut left = self.epochs.facts.epochs.batches;
        if let Ok(batches) = &batches {
            left = batches.left();
            position.state = Some(batches.state());
        }
        drop(position);
        Box::new(EpochIterator { source: &self.epochs, number, batches: Some(batches), left })
    }

    fn num_items(&self) -> usize {
        self.epochs.facts.samples as usize
    }

    fn to_device(&self, device: &Device) -> Arc<dyn dataloader::DataLoader<O>> {
        Arc::new(self.moved_to(device))
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn dataloader::DataLoader<O>> {
        Arc::new(RefusedLoader::slice(start..end))
    }
}

/// The iterator over an epoch.
struct EpochIterator<'a, O> {
    source: &'a EpochSource<O>,
    /// How many iterators had been begun with this one.
    number: u64,
    /// `None` once the epoch is over.
    batches: Option<Result<Box<dyn TensorBatches<O>>>>,
    /// Number of batches still to come.
    left: u64,
}

impl<O> Iterator for EpochIterator<'_, O> {
    type Item = std::result::Result<O, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Ok(batches) = self.batches.as_mut()? else {
            let error = self.batches.take()?.err()?;
            return Some(Err(DatasetError::new(error)));
        };
        let batch = batches.next();
        let state = batches.state();
        self.left = batches.left();
        if !matches!(batch, Some(Ok(_))) {
            // Nothing of the epoch is left once this is dropped.
            self.batches = None;
        }

        // An earlier iterator that lives on must not take the state back.
        let mut position = self.source.position();
        if position.iterators == self.number {
            position.state = Some(state);
        }
        batch
    }
}

impl<O> DataLoaderIterator<O> for EpochIterator<'_, O> {
    /// Samples are counted by whole batches, so that the last batch makes them complete, whatever was skipped before.
    fn progress(&self) -> Progress {
        let LoaderFacts { samples, epochs: LoaderEpochs { batches, .. }, .. } = self.source.facts;
        let done = batches.saturating_sub(self.left);
        let processed = u128::from(samples) * u128::from(done) / u128::from(batches.max(1));
        Progress::new(processed as usize, samples as usize, Some("items".to_owned()))
    }
}
