//! The loader: what epochs share, and how they begin.

use std::ops::Range;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use super::batches::{BatchStream, Batches};
use super::builder::Settings;
use super::cost::EpochSpending;
use super::dataset::DatafluxDataset;
use super::epochs::{self, EpochSeries, Epochs};
use crate::budget::Gauge;
use crate::collate::Collate;
use crate::decode::{Decode, Raw};
use crate::engine::pipeline::Engine;
use crate::engine::pool::DecodeJob;
use crate::engine::shutdown::{Closed, LiveEpochs, close_loader};
use crate::metrics::Counts;
use crate::observe::audit;
use crate::pacing::Ceilings;
use crate::pacing::Choice;
use crate::plan::Bill;
use crate::sample::{Sampling, Sharding, State};
use crate::{Error, ErrorKind, Result, Stage};

/// Samples to have ahead, where the budget has room for them: what a bucket's 1,000 writes a second can join in 4 s,
/// since a slow compose takes nearly 3 s. A sample held costs some 200 bytes beside its own.
const SAMPLES_AHEAD: usize = 65_536;

/// Batches ahead that no setting goes beyond: the channel for them is allocated at once.
const MOST_AHEAD: usize = 65_536;

/// Batches of so many samples to have ahead, by what is set or else by default.
pub(crate) fn batches_ahead(prefetch: Option<usize>, batch_size: u64) -> usize {
    prefetch.unwrap_or_else(|| (SAMPLES_AHEAD / batch_size as usize).clamp(4, 16_384)).min(MOST_AHEAD)
}

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
pub struct DataLoader<D: Decode = Raw, C: Collate<<D as Decode>::Item> = <D as Decode>::Collate> {
    pub(crate) engine: Engine<D, C>,
    pub(crate) decoders: Vec<JoinHandle<()>>,
    pub(crate) live: Arc<LiveEpochs>,
    pub(crate) held: Gauge,
    pub(crate) dataset: DatafluxDataset<D>,
    pub(crate) sharding: Sharding,
    pub(crate) settings: Settings,
    pub(crate) sampling: Arc<Sampling>,
    pub(crate) audit: Option<Arc<audit::AuditWriter>>,
    /// Where to go on.
    pub(crate) resumed: Option<State>,
    /// The first epoch of which something is left.
    pub(crate) first_epoch: u64,
}

impl<D: Decode, C: Collate<D::Item>> DataLoader<D, C> {
    /// Starts `epoch`, counted from 0: its order depends on the data, the sampler and this number alone.
    ///
    /// Of a data set that is [streaming](crate::loader::DatasetBuilder::streaming) each batch comes as soon as its samples are
    /// listed, where the order is by name or shuffled by windows; a full shuffle begins when all is listed. A listing that
    /// fails is an error in the place of the first batch that isn't known.
    ///
    /// Of a loader that was [resumed](crate::DataLoaderBuilder::resume), the epoch of the state has what is left of it,
    /// later ones are whole, and earlier ones are refused: they were delivered already.
    ///
    /// # Errors
    /// An epoch before that of the state which the loader was resumed from; a thread that the system refuses.
    pub fn epoch(&self, epoch: u64) -> Result<Batches<C::Output>> {
        if let Some(state) = self.resumed.as_ref().filter(|state| epoch < state.epoch) {
            return Err(before_state(format_args!("epoch {epoch}"), state.epoch));
        }
        let (batches, begun) = self.series().begin(epoch, (false, false))?;
        let ending = Arc::clone(&begun.ending);
        ending.has(epochs::thread(move || _ = begun.run(0))?);
        Ok(batches)
    }

    /// Epochs one after the other, each of which begins to be read while the one before is still being delivered, as soon as
    /// all reads of that are under way: so that the training loop doesn't wait at the start of an epoch as it does at the
    /// start of a run. They share one thread, and one memory budget, so that no more bytes are ahead of the loop than within
    /// an epoch. Batches may be: towards the end of an epoch, as many of the next as [`prefetch`] says beside its own.
    ///
    /// At most the beginning of one epoch is read in vain, as far ahead as the budget and [`prefetch`] allow: where this is
    /// dropped before its end. It is on the [`bill`](Self::bill) all the same. [`epoch`](Self::epoch) reads nothing ahead of
    /// what was asked for.
    ///
    /// The batches of an epoch have to be taken to their end, or dropped, before the next is asked for; else that is an error.
    ///
    /// A loader that was [resumed](crate::DataLoaderBuilder::resume) begins where its state is, so that the range is
    /// that of the whole run: epochs of the range that were delivered before are left out, and the first that comes has
    /// what is left of it. [`Batches::epoch`] says which one it is.
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
    /// A range that ends before the epoch of the state which the loader was resumed from; a thread that the system
    /// refuses.
    pub fn epochs(&self, epochs: Range<u64>) -> Result<Epochs<C::Output>> {
        if let Some(state) = self.resumed.as_ref().filter(|state| !epochs.is_empty() && epochs.end <= state.epoch) {
            return Err(before_state(format_args!("the range {epochs:?}"), state.epoch));
        }
        self.series().start(epochs.start.max(self.first_epoch)..epochs.end)
    }

    /// The first epoch of which something is left: 0, or where the state stands that this loader was
    /// [resumed](crate::DataLoaderBuilder::resume) from. For loops that begin each epoch by themselves.
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
        self.first_epoch
    }

    pub(crate) fn series(&self) -> EpochSeries<D, C> {
        let batch_size = self.sharding.batch_size();
        let ahead = batches_ahead(self.settings.prefetch, batch_size);
        // Where more are of no use, unless they were asked for.
        let most = self.engine.most_ahead(batch_size).filter(|_| self.settings.prefetch.is_none());
        EpochSeries {
            engine: self.engine.for_epochs(&self.held),
            live: Arc::clone(&self.live),
            held: self.held.clone(),
            sharding: self.sharding,
            sampling: Arc::clone(&self.sampling),
            global_batch_size: self.settings.global_batch_size,
            ahead: most.map_or(ahead, |most| ahead.min(most.max(4))),
            bound: self.settings.stall_report,
            unordered: self.settings.unordered,
            audit: self.audit.clone(),
            resumed: self.resumed.clone(),
            last: None,
        }
    }

    /// As [`epoch`](Self::epoch), for asynchronous code.
    ///
    /// # Errors
    /// As for [`epoch`](Self::epoch).
    pub fn stream(&self, epoch: u64) -> Result<BatchStream<C::Output>> {
        BatchStream::new(self.epoch(epoch)?, self.engine.io.handle())
    }

    /// Ends all epochs, wherever they are, and the threads of this loader, and waits for that, `within` this time. Dropping
    /// the loader ends its threads, too, once its epochs are over, and waits for nothing. Blocks.
    ///
    /// What still asks for a batch gets an error. Threads that all loaders share stay.
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
        let Self { engine, decoders, live, settings, .. } = self;
        let (jobs, io) = (engine.jobs.clone(), Arc::clone(&engine.io));
        drop(engine);
        let threads = decoders.len();
        let let_go = move || {
            for _ in 0..threads {
                // All have ended already.
                let _ = jobs.send(DecodeJob::End);
            }
        };
        let end_io = |within| match settings.io_threads.map(|threads| (threads as u64, io.close(within))) {
            None => (0, 0),
            Some((threads, true)) => (threads, 0),
            Some((threads, false)) => (0, threads),
        };
        close_loader(&live, decoders, let_go, end_io, within)
    }

    /// Batches that a whole epoch has, equally on every rank. Waits for the end of the listing.
    ///
    /// # Errors
    /// The listing failed, or the sampler can't order what was listed.
    pub fn batches_per_epoch(&self) -> Result<u64> {
        Ok(self.sharding.batch_count(self.sampling.orders()?.len(), 0))
    }

    /// The data set this loads.
    pub fn dataset(&self) -> &DatafluxDataset<D> {
        &self.dataset
    }

    /// What the calls made so far through this data set's client cost by the price table, the listing included. Those of
    /// this loader's epochs go by the storage class of their object, the others by that of the bucket.
    pub fn bill(&self) -> Bill {
        let spent = self.spent();
        let others: Counts = self.dataset.client().metrics().snapshot().since(&spent.ops());
        spent.bill() + spent.prices.bill(&others)
    }

    pub(crate) fn spent(&self) -> EpochSpending {
        EpochSpending { clients: self.engine.fetcher.clients().clone(), prices: *self.engine.planner.prices() }
    }

    /// How samples that could be joined are read now, and why, where that is chosen by measurement
    /// ([`Strategy::Auto`](crate::Strategy::Auto)).
    pub fn choice(&self) -> Option<Choice> {
        self.engine.auto.as_ref().map(|auto| auto.choice())
    }

    /// How many calls are made at once and in a second now, and what the bucket takes by what it refused. For logs and
    /// for finding out what holds a loader back.
    pub fn ceilings(&self) -> Ceilings {
        self.engine.fetcher.ceilings()
    }

    /// Bytes of the [memory budget](crate::loader::DataLoaderBuilder::memory_budget) that all live epochs of this loader hold
    /// now: what is read, what decoders were granted to work with, and items and batches until they are given back.
    /// Items of a closure whose size [isn't known](crate::ItemMemory::FromItems) are not among these.
    pub fn bytes_held(&self) -> u64 {
        self.held.bytes()
    }
}

/// The error of epochs that were delivered before a state was taken.
pub(crate) fn before_state(asked: impl std::fmt::Display, epoch: u64) -> Error {
    Error::new(ErrorKind::Config, "this loader was resumed from a state of a later epoch")
        .stage(Stage::Deliver)
        .mismatch(format_args!("epoch {epoch}, where the state stands, or a later one"), asked)
        .hint("begin with first_epoch(), or give epochs() the range of the whole run; build() without a state runs all anew")
}

impl<D: Decode, C: Collate<D::Item>> std::fmt::Debug for DataLoader<D, C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataLoader")
            .field("prefix", self.dataset.manifest().prefix())
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}
