//! The loader that a training program holds.

use std::marker::PhantomData;
use std::ops::Range;
use std::time::Duration;

use super::batches::Batches;
use super::dataset::DatafluxDataset;
use super::epochs::{Epochs, spawn_planner};
use super::loader_core::LoaderCore;
use super::running_epoch::RunningEpoch;
use super::stream::BatchStream;
use super::transfer::transfer_to;
use crate::collate::{TensorDevice, ToDevice};
use crate::decode::{BatchOf, Decode, Raw};
use crate::engine::Closed;
use crate::pacing::{Ceilings, Choice, NeighbourEpochs};
use crate::plan::Bill;
use crate::{Error, ErrorKind, Result, Stage};

/// Feeds a training loop. Made by [`DataLoader::builder`]; used for any number of epochs.
///
/// ```no_run
/// use dataflux::{DataLoader, DatafluxDataset};
///
/// let dataset = DatafluxDataset::open("gs://my-bucket/train/")?;
/// let loader = DataLoader::builder(dataset).batch_size(256).shuffle(42).drop_last(true).build()?;
/// for epoch in 0..90 {
///     for batch in loader.epoch(epoch)? {
///         println!("{} samples", batch?.len());
///     }
/// }
/// # Ok::<(), dataflux::Error>(())
/// ```
///
/// `B` is the data of a batch: what the collate function returns, or with
/// [`device`](crate::DataLoaderBuilder::device) the tensors that it is converted to.
pub struct DataLoader<D: Decode = Raw, B = BatchOf<D>> {
    dataset: DatafluxDataset<D>,
    /// The loader without the types of its decoder and its batches.
    pub(crate) core: LoaderCore,
    data: PhantomData<fn() -> B>,
}

impl<D: Decode, B> DataLoader<D, B> {
    pub(crate) fn new(dataset: DatafluxDataset<D>, core: LoaderCore) -> Self {
        Self { dataset, core, data: PhantomData }
    }

    /// Starts `epoch`, counted from 0. Its order depends only on the data, the sampler and this number.
    ///
    /// If the data set is [streaming](crate::loader::DatasetBuilder::streaming) and the order is by name or shuffled by
    /// windows, each batch comes as soon as its samples are listed; a full shuffle begins at the end of the listing. If
    /// the listing fails, the first batch that isn't listed is an error.
    ///
    /// If the loader was [resumed](crate::DataLoaderBuilder::resume), the epoch of the state has what is left of it,
    /// and later ones are whole. Earlier ones are an error, because they were delivered already.
    ///
    /// # Errors
    /// The epoch lies before that of the state which the loader was resumed from; the system refuses a thread.
    pub fn epoch(&self, epoch: u64) -> Result<Batches<B>> {
        Batches::new(self.begin(epoch)?)
    }

    /// Refuses an epoch before that of the state which the loader was resumed from.
    fn check_epoch(&self, epoch: u64) -> Result<()> {
        match self.core.series.resumed.as_ref().filter(|state| epoch < state.epoch) {
            Some(state) => Err(before_state(format_args!("epoch {epoch}"), state.epoch)),
            None => Ok(()),
        }
    }

    /// Begins an epoch that isn't part of a series.
    pub(super) fn begin(&self, epoch: u64) -> Result<RunningEpoch> {
        self.check_epoch(epoch)?;
        let (running, planner) = self.core.new_series().begin(epoch, NeighbourEpochs::default())?;
        running.shutdown.track_thread(spawn_planner(move || _ = planner.run(0))?);
        Ok(running)
    }

    /// Starts several epochs, one after the other. The loader begins to read an epoch while the one before is still
    /// being delivered, as soon as all reads of that one are under way. So the training loop doesn't wait at the start
    /// of an epoch as it does at the start of a run. The epochs share one thread and one memory budget, so no more
    /// bytes are ahead of the loop than within an epoch. More batches may be: towards the end of an epoch, as many of
    /// the next as [`prefetch`] says.
    ///
    /// If this is dropped before its end, the beginning of one epoch may have been read in vain, as far ahead as the
    /// budget and [`prefetch`] allow. The [`bill`](Self::bill) includes it. [`epoch`](Self::epoch) reads no other epoch
    /// ahead.
    ///
    /// All batches of an epoch must be taken, or dropped, before the next epoch is requested; otherwise that is an
    /// error.
    ///
    /// A loader that was [resumed](crate::DataLoaderBuilder::resume) begins where its state is, so pass the range of
    /// the whole run: epochs that were delivered before are left out, and the first one has what is left of it.
    /// [`Batches::epoch`] returns its number.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dataflux::store::{Client, MemoryStore};
    /// use dataflux::{DataLoader, DatafluxDataset};
    /// # let store = MemoryStore::new();
    /// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n:03}.txt"), "sample"));
    /// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
    ///
    /// let loader = DataLoader::builder(dataset).batch_size(32).shuffle(42).build()?;
    /// for batches in loader.epochs(0..3)? {
    ///     for batch in batches? {
    ///         println!("{} samples", batch?.len());
    ///     }
    /// }
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// [`prefetch`]: crate::DataLoaderBuilder::prefetch
    ///
    /// # Errors
    /// The range ends before the epoch of the state which the loader was resumed from; the system refuses a thread.
    pub fn epochs(&self, epochs: Range<u64>) -> Result<Epochs<B>> {
        if let Some(state) =
            self.core.series.resumed.as_ref().filter(|state| !epochs.is_empty() && epochs.end <= state.epoch)
        {
            return Err(before_state(format_args!("the range {epochs:?}"), state.epoch));
        }
        self.core.new_series().start(epochs.start.max(self.core.first_epoch)..epochs.end)
    }

    /// The first epoch with anything left to deliver: 0, or as the state says from which this loader was
    /// [resumed](crate::DataLoaderBuilder::resume). It is for loops that start each epoch themselves.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dataflux::store::{Client, MemoryStore};
    /// # use dataflux::{DataLoader, DatafluxDataset};
    /// # let store = MemoryStore::new();
    /// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n:03}.txt"), "sample"));
    /// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
    /// # let loader = DataLoader::builder(dataset).batch_size(32).build()?;
    /// for epoch in loader.first_epoch()..3 {
    ///     for batch in loader.epoch(epoch)? {
    ///         println!("{} samples", batch?.len());
    ///     }
    /// }
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    pub fn first_epoch(&self) -> u64 {
        self.core.first_epoch
    }

    /// Starts an epoch for asynchronous code; see [`epoch`](Self::epoch).
    ///
    /// # Errors
    /// As for [`epoch`](Self::epoch).
    pub fn stream(&self, epoch: u64) -> Result<BatchStream<B>> {
        BatchStream::new(self.begin(epoch)?)
    }

    /// Ends all epochs and the threads of this loader, and waits until they have ended or `within` is over. Blocks.
    /// Dropping the loader also ends its threads, once its epochs are over, but doesn't wait.
    ///
    /// An iterator of an epoch that is not over returns an error. Threads that all loaders share stay.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dataflux::store::{Client, MemoryStore};
    /// use std::time::Duration;
    ///
    /// use dataflux::{DataLoader, DatafluxDataset};
    /// # let store = MemoryStore::new();
    /// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n:03}.txt"), "sample"));
    /// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
    ///
    /// let loader = DataLoader::builder(dataset).batch_size(32).build()?;
    /// let first = loader.epoch(0)?.next();
    /// let closed = loader.close(Duration::from_secs(30));
    /// assert!(closed.is_clean(), "{closed:?}");
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    pub fn close(self, within: Duration) -> Closed {
        self.core.close(within)
    }

    /// Number of batches of a whole epoch, which is the same on every rank. Waits for the end of the listing.
    ///
    /// # Errors
    /// The listing failed, or the sampler can't order what was listed.
    pub fn batches_per_epoch(&self) -> Result<u64> {
        self.core.batches_per_epoch()
    }

    /// Number of batches that [`epoch`](Self::epoch) delivers if it is called with this number: those of a whole epoch,
    /// or, in the epoch that this loader [resumes](crate::DataLoaderBuilder::resume), those that are left. Waits for the
    /// end of the listing.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dataflux::store::{Client, MemoryStore};
    /// # use dataflux::{DataLoader, DatafluxDataset};
    /// # let store = MemoryStore::new();
    /// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n:03}.txt"), "sample"));
    /// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
    /// let loader = DataLoader::builder(dataset.clone()).batch_size(10).build()?;
    /// let mut batches = loader.epoch(2)?;
    /// batches.by_ref().take(3).for_each(drop);
    ///
    /// let resumed = DataLoader::builder(dataset).resume(batches.state()).build()?;
    /// assert_eq!((resumed.batches_left(2)?, resumed.batches_left(3)?), (7, 10));
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`batches_per_epoch`](Self::batches_per_epoch); the epoch lies before that of the state which the loader
    /// was resumed from.
    pub fn batches_left(&self, epoch: u64) -> Result<u64> {
        self.check_epoch(epoch)?;
        self.core.batches_left(epoch)
    }

    /// Number of samples of this rank in a whole epoch: of all its batches, padding included. Waits for the end of the
    /// listing.
    ///
    /// # Errors
    /// As for [`batches_per_epoch`](Self::batches_per_epoch).
    pub fn samples_per_epoch(&self) -> Result<u64> {
        self.core.samples_per_epoch()
    }

    /// The rank of this loader, counted from 0, if it is one of several
    /// [shards](crate::DataLoaderBuilder::shard); otherwise 0.
    pub fn rank(&self) -> usize {
        self.core.series.sharding.rank() as usize
    }

    /// Number of ranks that share each global batch: 1 without [shards](crate::DataLoaderBuilder::shard).
    pub fn world_size(&self) -> usize {
        self.core.series.sharding.world_size() as usize
    }

    /// The data set.
    pub fn dataset(&self) -> &DatafluxDataset<D> {
        &self.dataset
    }

    /// The price of all calls that this data set's client has made so far, the listing included. Calls of this loader's
    /// epochs have the price of their object's storage class, and all others that of the bucket's.
    pub fn bill(&self) -> Bill {
        self.core.bill(&self.dataset.client().metrics().snapshot())
    }

    /// How samples that could be composed are read now, and why, if measurement decides that
    /// ([`Strategy::Auto`](crate::Strategy::Auto)).
    pub fn choice(&self) -> Option<Choice> {
        self.core.series.engine.bucket.auto.as_ref().map(|auto| auto.choice())
    }

    /// How many calls are made at once and per second now, and how many the bucket takes, as far as its refusals show.
    /// It is for logs, and for finding out what limits a loader.
    pub fn ceilings(&self) -> Ceilings {
        self.core.series.engine.bucket.fetcher.ceilings()
    }

    /// Bytes of the [memory budget](crate::loader::DataLoaderBuilder::memory_budget) that all live epochs of this
    /// loader hold now: bytes that were read, memory that was granted to decoders, and items and batches until they are
    /// given back. Items of a closure whose size [isn't known](crate::ItemMemory::FromItems) are not included.
    pub fn bytes_held(&self) -> u64 {
        self.core.series.held.bytes()
    }
}

impl<D: Decode> DataLoader<D> {
    /// Starts an epoch whose batches are moved to `device`, if that is known only now; otherwise see
    /// [`DataLoaderBuilder::device`](crate::DataLoaderBuilder::device), which does the same for all epochs.
    ///
    /// # Errors
    /// As for [`epoch`](Self::epoch).
    pub fn epoch_on<V>(&self, epoch: u64, device: V) -> Result<Batches<<BatchOf<D> as ToDevice<V>>::Tensors>>
    where
        V: TensorDevice,
        BatchOf<D>: ToDevice<V>,
    {
        let mut running = self.begin(epoch)?;
        running.transfer = Some(transfer_to::<BatchOf<D>, V>(device));
        Batches::new(running)
    }
}

/// The error of epochs that were delivered before the state was taken.
pub(crate) fn before_state(asked: impl std::fmt::Display, epoch: u64) -> Error {
    Error::new(ErrorKind::Config, "this loader was resumed from a state of a later epoch")
        .stage(Stage::Deliver)
        .mismatch(format_args!("epoch {epoch}, where the state stands, or a later one"), asked)
        .hint(
            "begin with first_epoch(), or give epochs() the range of the whole run; leave out resume() to run all anew",
        )
}

impl<D: Decode, B> std::fmt::Debug for DataLoader<D, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataLoader")
            .field("prefix", self.dataset.manifest().prefix())
            .field("settings", &self.core.settings)
            .finish_non_exhaustive()
    }
}
