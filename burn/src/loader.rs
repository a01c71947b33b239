//! A loader of dataflux as burn's `Learner` takes it.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use burn_core::data::dataloader::batcher::Batcher;
use burn_core::data::dataloader::{DataLoader as LoaderOfBurn, DataLoaderIterator, Progress};
use burn_core::data::dataset::DatasetError;
use burn_core::tensor::Device;
use dataflux::{Batch, BatchOf, Batches, Collate, DataLoader, Decode, Result, State, TensorDevice, ToDevice};

use crate::device::{BatcherDevice, BurnDevice};
use crate::refused::RefusedLoader;

/// A loader of dataflux that burn's `SupervisedTraining` takes for training or validation: it implements
/// [`DataLoader`](burn_core::data::dataloader::DataLoader) of burn. `O` is a batch on the device.
///
/// A thread of the loader converts each batch, one ahead of the training loop.
///
/// **Epochs.** Each call of `iter` begins the next epoch. The first call begins epoch 0, or the one that the loader
/// [resumes](dataflux::DataLoaderBuilder::resume), unless [`begin_at`](Self::begin_at) sets another. The order of an
/// epoch depends on the data, the loader's seed and the number of the epoch alone. An epoch that is left early counts,
/// so the next call begins the one after it. A loader that `to_device` returns shares the count of epochs with this
/// one.
///
/// **Errors.** The iterator returns the error of a batch in its place and then ends. `SupervisedTraining` stops with
/// it, and returns it as `LearningResult::error`. The [`state`](Self::state) is that before the batch. A batch all of
/// whose samples were [skipped](dataflux::OnError::Skip) is left out.
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
    /// The state after the last batch.
    fn state(&self) -> State;

    /// How many batches were taken, those without samples included.
    fn taken(&self) -> u64;
}

type BeginEpoch<O> = dyn Fn(u64, &Device) -> Result<Box<dyn TensorBatches<O>>> + Send + Sync;

/// What loaders on several devices share.
struct EpochSource<O> {
    begin: Box<BeginEpoch<O>>,
    /// Samples and batches of a whole epoch.
    samples: u64,
    batches: u64,
    position: Mutex<LoaderPosition>,
}

#[derive(Debug)]
struct LoaderPosition {
    /// The epoch that the next iterator has.
    next_epoch: u64,
    /// The state after the last batch that was delivered.
    state: Option<State>,
}

impl<O> EpochSource<O> {
    fn position(&self) -> MutexGuard<'_, LoaderPosition> {
        self.position.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Finish<T, O> = dyn Fn(Batch<T>) -> O + Send + Sync;

/// Batches with the last step of their conversion, which the training loop's thread makes.
struct FinishedBatches<T, O> {
    batches: Batches<T>,
    finish: Arc<Finish<T, O>>,
    taken: u64,
}

impl<T: 'static, O> Iterator for FinishedBatches<T, O> {
    type Item = std::result::Result<O, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let batch = match self.batches.next()? {
                Ok(batch) => batch,
                Err(error) => return Some(Err(DatasetError::new(error))),
            };
            self.taken += 1;
            if !batch.is_empty() {
                return Some(Ok((self.finish)(batch)));
            }
            // Networks of burn panic at a batch without samples. If all were skipped, the next one takes its place. But
            // where other ranks have samples and this one has none, they would wait for it.
            if batch.skipped().is_empty() {
                return Some(Err(DatasetError::new(EmptyBatchError)));
            }
        }
    }
}

/// The error of a batch for which no samples were left, since the epoch's last global batch has fewer samples than
/// there are ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EmptyBatchError;

impl fmt::Display for EmptyBatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "the last batch of the epoch has no samples: wanted one at least, as other ranks have, got none; set \
             drop_last or pad_last of DataLoader::builder(..)",
        )
    }
}

impl std::error::Error for EmptyBatchError {}

impl<T: 'static, O> TensorBatches<O> for FinishedBatches<T, O> {
    fn state(&self) -> State {
        self.batches.state()
    }

    fn taken(&self) -> u64 {
        self.taken
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
        Self::mapped(loader, device, Batch::into_inner)
    }

    /// As [`new`](Self::new), with the batches that `finish` makes of the tensors, such as a struct of your program. A
    /// [`Batch`] also has the names, ids and positions of the samples.
    ///
    /// `finish` runs on the thread that trains, so conversions that take long belong into a type that implements
    /// [`ToDevice`].
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn mapped<D, T>(
        loader: impl Into<Arc<DataLoader<D>>>,
        device: &Device,
        finish: impl Fn(Batch<T>) -> O + Send + Sync + 'static,
    ) -> Result<Self>
    where
        D: Decode,
        BatchOf<D>: ToDevice<BurnDevice, Tensors = T>,
        T: Send + 'static,
    {
        Self::of(loader.into(), device, |device| BurnDevice::from(device), Arc::new(finish))
    }

    /// A loader whose batches `batcher` makes, a [`Batcher`] of burn. The decoder's batches are to be a `Vec` of
    /// samples, as those of a closure are. A thread of the loader runs the batcher, one batch ahead of the training
    /// loop; a panic of it becomes an error of that batch.
    ///
    /// # Errors
    /// As for [`new`](Self::new).
    pub fn with_batcher<D, I>(
        loader: impl Into<Arc<DataLoader<D>>>,
        batcher: impl Batcher<I, O> + 'static,
        device: &Device,
    ) -> Result<Self>
    where
        D: Decode<Collate: Collate<<D as Decode>::Item, Output = Vec<I>>>,
        I: 'static,
    {
        let batcher: Arc<dyn Batcher<I, O>> = Arc::new(batcher);
        let on_device = move |device: &Device| BatcherDevice { batcher: Arc::clone(&batcher), device: device.clone() };
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
        let (samples, batches) = (loader.samples_per_epoch()?, loader.batches_per_epoch()?);
        let position = Mutex::new(LoaderPosition { next_epoch: loader.first_epoch(), state: None });
        let begin = move |epoch: u64, device: &Device| {
            let batches = loader.epoch_on(epoch, on_device(device))?;
            let finish = Arc::clone(&finish);
            Ok(Box::new(FinishedBatches { batches, finish, taken: 0 }) as Box<dyn TensorBatches<O>>)
        };
        let epochs = Arc::new(EpochSource { begin: Box::new(begin), samples, batches, position });
        Ok(Self { epochs, device: device.clone() })
    }
}

impl<O> BurnDataLoader<O> {
    /// Begins with this epoch, counted from 0: for a run that begins with a checkpoint of burn instead of a
    /// [state](dataflux::DataLoaderBuilder::resume). After `SupervisedTraining::checkpoint(n)`, which has trained `n`
    /// epochs, it is `n`.
    #[must_use]
    pub fn begin_at(self, epoch: u64) -> Self {
        self.epochs.position().next_epoch = epoch;
        self
    }

    /// The state after the batches that were delivered so far, of the epoch that began last, on whatever device: a
    /// loader [resumes](dataflux::DataLoaderBuilder::resume) from it. `None` before the first epoch.
    pub fn state(&self) -> Option<State> {
        self.epochs.position().state.clone()
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

impl<O: Send + 'static> LoaderOfBurn<O> for BurnDataLoader<O> {
    fn iter<'a>(&'a self) -> Box<dyn DataLoaderIterator<O> + 'a> {
        let mut position = self.epochs.position();
        let epoch = position.next_epoch;
        position.next_epoch += 1;
        let batches = (self.epochs.begin)(epoch, &self.device);
        let mut start = 0;
        if let Ok(batches) = &batches {
            let state = batches.state();
            start = state.position;
            position.state = Some(state);
        }
        drop(position);
        Box::new(EpochIterator { source: &self.epochs, batches: Some(batches), start, step: None, delivered: 0 })
    }

    fn num_items(&self) -> usize {
        self.epochs.samples as usize
    }

    fn to_device(&self, device: &Device) -> Arc<dyn LoaderOfBurn<O>> {
        Arc::new(self.moved_to(device))
    }

    fn slice(&self, start: usize, end: usize) -> Arc<dyn LoaderOfBurn<O>> {
        Arc::new(RefusedLoader::slice(start..end))
    }
}

/// The iterator over an epoch.
struct EpochIterator<'a, O> {
    source: &'a EpochSource<O>,
    /// `None` once the epoch is over.
    batches: Option<Result<Box<dyn TensorBatches<O>>>>,
    /// The position at which the epoch was begun: 0, or that of a resume.
    start: u64,
    /// How far the first batch took the position.
    step: Option<u64>,
    /// Batches of the epoch that are done, those before a resume included.
    delivered: u64,
}

impl<O> Iterator for EpochIterator<'_, O> {
    type Item = std::result::Result<O, DatasetError>;

    fn next(&mut self) -> Option<Self::Item> {
        let Ok(batches) = self.batches.as_mut()? else {
            let error = self.batches.take()?.err()?;
            return Some(Err(DatasetError::new(error)));
        };
        let batch = batches.next();
        let (state, taken) = (batches.state(), batches.taken());
        if !matches!(batch, Some(Ok(_))) {
            // Nothing of the epoch is left once this is dropped.
            self.batches = None;
        } else if self.start == 0 {
            self.delivered = taken;
        } else {
            let step = *self.step.get_or_insert(state.position.saturating_sub(self.start).max(1));
            self.delivered = state.position.div_ceil(step).min(self.source.batches);
        }
        self.source.position().state = Some(state);
        batch
    }
}

impl<O> DataLoaderIterator<O> for EpochIterator<'_, O> {
    /// Samples are counted by whole batches, so that the last batch makes them complete, whatever was skipped.
    fn progress(&self) -> Progress {
        let EpochSource { samples, batches, .. } = self.source;
        let processed = u128::from(*samples) * u128::from(self.delivered) / u128::from((*batches).max(1));
        Progress::new(processed as usize, *samples as usize, Some("items".to_owned()))
    }
}
