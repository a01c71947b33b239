//! The builder of a loader: one method for each setting.

use std::fmt;
use std::marker::PhantomData;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::data_loader::DataLoader;
use super::dataset::DatafluxDataset;
use super::limits::{Cost, Limits};
use super::resume::build_or_resume;
use super::settings::{ResumeFrom, Settings};
use super::transfer::{Transfer, transfer_to};
use crate::Result;
use crate::cache::Cache;
use crate::collate::{TensorDevice, ToDevice};
use crate::decode::{BatchOf, Decode};
use crate::engine::OnError;
use crate::engine::sample_code::UserCode;
use crate::observe::{EventKind, Observer, Subscription};
use crate::plan::Strategy;
use crate::sample::{Sampler, Shuffle, State, WindowShuffle, rank_from_environment};

/// Settings of a [`DataLoader`]. How samples are decoded and collated is set on the data set, by
/// [`DatafluxDataset::decode`] and [`DatafluxDataset::collate`].
#[derive(Debug)]
#[must_use = "a builder does nothing until build() is called"]
pub struct DataLoaderBuilder<D: Decode, B = BatchOf<D>> {
    dataset: DatafluxDataset<D>,
    settings: Settings,
    /// Moves batches to a device.
    transfer: Option<Arc<dyn Transfer>>,
    data: PhantomData<fn() -> B>,
}

impl<D: Decode> DataLoader<D> {
    /// A builder for a loader of `dataset`. By default the loader makes batches of one sample, in the order of names,
    /// for one rank.
    pub fn builder(dataset: DatafluxDataset<D>) -> DataLoaderBuilder<D> {
        DataLoaderBuilder { dataset, settings: Settings::default(), transfer: None, data: PhantomData }
    }
}

impl<D: Decode> DataLoaderBuilder<D> {
    /// Delivers batches as tensors on `device`: candle's or tch's, with the feature of that name, burn's as
    /// `dataflux_burn::BurnDevice`, or a [device of your own](TensorDevice). A thread of the loader converts them, one
    /// batch ahead of the training loop, so that the loop waits neither for the conversion nor for the copy to the
    /// device. The data of a batch are what `to_candle` or `to_tch` returns; its names, positions and lost samples
    /// stay. The [guide](crate::guide::tensors) has an example.
    ///
    /// A batch is delivered, for a [`State`], the audit log and observers, when the training loop gets it. On a device
    /// with memory of its own, there are at most two batches of the loader: the one that the training loop has, and the
    /// one ahead, which count for the memory budget only until they are converted. On the CPU both count.
    ///
    /// An error of the conversion takes the place of its batch and ends the epoch, and so does a panic.
    pub fn device<V>(self, device: V) -> DataLoaderBuilder<D, <BatchOf<D> as ToDevice<V>>::Tensors>
    where
        V: TensorDevice,
        BatchOf<D>: ToDevice<V>,
    {
        let Self { dataset, settings, .. } = self;
        let transfer = Some(transfer_to::<BatchOf<D>, V>(device));
        DataLoaderBuilder { dataset, settings, transfer, data: PhantomData }
    }
}

impl<D: Decode, B> DataLoaderBuilder<D, B> {
    /// Samples in a batch of one rank; 1 by default. With more ranks a step has more samples;
    /// [`global_batch_size`](Self::global_batch_size) sets the samples of a step instead.
    pub fn batch_size(mut self, samples: usize) -> Self {
        self.settings.batch_size = Some(samples);
        self
    }

    /// Samples in a batch over all ranks together, at least as many as there are ranks. Steps then are the same at any
    /// number of ranks, as in a run that must not change when machines come or go. Each rank gets its share of each
    /// step, rounded up or down where it isn't whole. Instead of [`batch_size`](Self::batch_size).
    pub fn global_batch_size(mut self, samples: usize) -> Self {
        self.settings.global_batch_size = Some(samples);
        self
    }

    /// Shuffles each epoch as a whole, by `seed` and the epoch's number. Without this, samples come in the order of
    /// names.
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.settings.shuffle = Some(Shuffle::new(seed));
        self
    }

    /// Orders each epoch by `sampler`: by weights, in proportion of labels, some samples only, in blocks, or by a
    /// sampler [of your own](Sampler). See [`sample`](crate::sample) for the samplers of this crate.
    pub fn sampler(mut self, sampler: impl Sampler) -> Self {
        self.settings.sampler = Some(Box::new(sampler));
        self
    }

    /// Shuffles each window of `samples` samples, by `seed` and the epoch's number, instead of the whole epoch. So the
    /// epochs of a [streaming](crate::loader::DatasetBuilder::streaming) data set start before it is listed. Windows
    /// are cut in byte order of names, and the order is the same whether the data set is streaming or not.
    ///
    /// Samples of a window stay near each other. If the data are sorted by class and windows are smaller than a class,
    /// samples come nearly class by class, which is bad for training. Choose windows much larger than a class, or list
    /// first and use [`shuffle`](Self::shuffle).
    pub fn shuffle_window(mut self, seed: u64, samples: u64) -> Self {
        self.settings.windows = Some(WindowShuffle::new(seed, samples));
        self
    }

    /// Whether samples that fill no whole batch on all ranks are left out; by default the last batch is just smaller.
    pub fn drop_last(mut self, drop: bool) -> Self {
        self.settings.drop_last = Some(drop);
        self
    }

    /// Whether the last batch, if it isn't full, is filled up on all ranks with the first samples of the same order. It
    /// is for programs that need batches of one size and may leave out no sample.
    /// [`Batch::padding`](crate::Batch::padding) returns how many samples fill a batch up, at its end. These samples
    /// are delivered again, several times if the epoch has fewer samples than a batch over all ranks, and are read and
    /// counted by [`EpochStats`](crate::loader::EpochStats) each time. A [`State`] doesn't count them. With this
    /// setting a batch has at most 16,777,216 samples on each rank.
    pub fn pad_last(mut self, pad: bool) -> Self {
        self.settings.pad_last = Some(pad);
        self
    }

    /// Makes this process `rank` (from 0) of `world_size` processes that train together. It gets its slice of each
    /// global batch, and as many batches as every other rank. It starts with its share of the calls that a bucket is
    /// documented to take, and makes more if the service answers them.
    ///
    /// All ranks must have the same data. If each lists for itself while somebody writes, their orders differ, and
    /// samples are lost and repeated. So give all ranks one saved manifest, or confirm what each has listed by
    /// [`manifest_digest`](Self::manifest_digest). A warning is logged if neither is done.
    pub fn shard(mut self, rank: usize, world_size: usize) -> Self {
        self.settings.shard = Some(Ok((rank, world_size)));
        self
    }

    /// Takes rank and world size from the variables of a launcher, the first pair that is set: `RANK` and `WORLD_SIZE`
    /// (torchrun), `OMPI_COMM_WORLD_RANK` and `OMPI_COMM_WORLD_SIZE` (Open MPI), `SLURM_PROCID` and `SLURM_NTASKS`
    /// (srun), or `JOB_COMPLETION_INDEX` and `WORLD_SIZE` (an indexed job of Kubernetes, which sets only the first: set
    /// the other to the job's `completions` in the env of its pod template, or call [`shard`](Self::shard)). Without
    /// any of these pairs `build` returns an error: a program of a single process leaves this call out.
    pub fn shard_from_env(mut self) -> Self {
        self.settings.shard = Some(rank_from_environment(|name| std::env::var(name).ok()));
        self
    }

    /// Makes [`build`](Self::build) fail unless the data set has the data of this [digest](crate::Manifest::digest), in
    /// hex: that of another rank, or of an earlier run. Checksums are compared where both listings have them. Read the
    /// digest of a data set after [`decode`](DatafluxDataset::decode), since an image decoder may leave objects out.
    /// Waits for the end of the listing.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dataflux::store::{Client, MemoryStore};
    /// use dataflux::{DataLoader, DatafluxDataset};
    /// # let store = MemoryStore::new();
    /// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n:03}.txt"), "sample"));
    /// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
    ///
    /// // What rank 0 prints, or broadcasts to the others.
    /// let digest = dataset.manifest().digest().to_string();
    /// let loader = DataLoader::builder(dataset).batch_size(32).shard(1, 2).manifest_digest(&digest).build()?;
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    pub fn manifest_digest(mut self, expected: impl fmt::Display) -> Self {
        self.settings.manifest_digest = Some(expected.to_string());
        self
    }

    /// Limit on the bytes that the loader counts, from the socket to the delivered batch, which counts until the
    /// training loop asks for the next one. By default 1 GiB, or a quarter of the memory that the process may use, if
    /// that is less: of the limit of its control group (version 1 or 2), or of the machine's memory. An object that
    /// alone is larger than the budget, or than an eighth of it where its item is counted later, is held beside it, one
    /// at a time. The epochs of one call of [`epochs`](DataLoader::epochs) share the budget; each call of
    /// [`epoch`](DataLoader::epoch) and each other loader has its own.
    ///
    /// Decoded samples and batches count, and so does the memory that a decoder works with, as far as that is known;
    /// see [`ItemMemory`](crate::ItemMemory). Of the decoders of this crate except [`Raw`](crate::Raw) and
    /// [`Json`](crate::Json), and of closures that make what they make, or vectors of numbers, an eighth of the budget
    /// is for bytes that are read and wait for their decoder, and one batch may have three quarters: its samples, the
    /// batch that is made of them, and the memory to decode the largest. A batch that needs more is an error that says
    /// so. Substitutes for samples that can't be had wait for no memory, so that they may come to a little more. Of
    /// closures that make something else **only the bytes read are counted**, and about four batches are decoded ahead,
    /// unless [`item_bytes`](crate::DatafluxDataset::item_bytes) says what an item takes.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.settings.memory_budget = Some(bytes);
        self
    }

    /// How small objects are read; [`Strategy::Auto`] by default.
    ///
    /// If soft delete or replication make composing more expensive than direct reads, a warning says so, with what to
    /// do about it, once for each data set: always if composing was set, and for [`Strategy::Auto`] from a cent an
    /// epoch on. If the data set is still [streaming](crate::loader::DatasetBuilder::streaming) when the loader is
    /// built, this isn't known yet; ask `dataflux plan`.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.settings.strategy = strategy;
        self
    }

    /// Whether batches are delivered as they are finished instead of in order, which is the default. Each batch has the
    /// same samples as in order, and each is delivered once. A slow batch holds up no other, but the sequence of
    /// batches differs from run to run and from rank to rank.
    ///
    /// A [`state`](crate::loader::Batches::state) is exact nevertheless. With several ranks, it describes what its own
    /// rank was given. [`resume_all`](Self::resume_all) takes the states of all ranks, each of which may have stopped
    /// after another number of batches, and resumes at any number of ranks. [`resume`](Self::resume) takes the state of
    /// this rank alone, at the same number of ranks; ranks then have equally many batches left only if all of them
    /// stopped after the same number.
    pub fn unordered(mut self, unordered: bool) -> Self {
        self.settings.unordered = unordered;
        self
    }

    /// Network threads for this loader alone. By default all loaders share one thread per core, at most four.
    pub fn io_threads(mut self, threads: usize) -> Self {
        self.settings.io_threads = Some(threads);
        self
    }

    /// Threads that decode and collate; by default one per core.
    pub fn decode_threads(mut self, threads: usize) -> Self {
        self.settings.decode_threads = Some(threads);
        self
    }

    /// Batches to have ahead of the training loop, if the memory budget has room. By default as many as hold 65,536
    /// samples (of files of this machine 2,048, so that their memory is used again while it is in the processor's
    /// caches), at least 4 and at most 16,384.
    pub fn prefetch(mut self, batches: usize) -> Self {
        self.settings.prefetch = Some(batches);
        self
    }

    /// Longest wait of the training loop for a batch without a log message; 30 s by default. Then a warning says what
    /// the batch is waiting for, with the figures that show why, and again each time that the wait has doubled.
    /// [`EpochStats::waited_for`](crate::loader::EpochStats::waited_for) has the sums.
    pub fn stall_report(mut self, after: Duration) -> Self {
        self.settings.stall_report = Some(after);
        self
    }

    /// Limits the calls of this loader; see [`Limits`]. A second call replaces all limits of the first.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.settings.limits = limits;
        self
    }

    /// Limits what an epoch may cost, or sets the prices; see [`Cost`]. A second call replaces all that the first one
    /// set.
    pub fn cost(mut self, cost: Cost) -> Self {
        self.settings.cost = cost;
        self
    }

    /// What happens when a sample can't be read or decoded: by default the batch fails; with [`OnError`] the loader
    /// leaves the sample out, or replaces it with another one, up to a limit.
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.settings.on_error = on_error;
        self
    }

    /// Writes to the file at `path` which samples each delivered batch has: some 150 bytes a batch, chained by hashes
    /// so that a change shows. [`AuditLog`](crate::audit::AuditLog) and `dataflux replay` read the file. If it
    /// exists, records are appended. A line is written before its batch is delivered; it survives a kill of the
    /// process, though not a crash of the machine. Each rank, and each loader that lives at the same time, needs a log
    /// of its own.
    ///
    /// [`build`](Self::build) then waits for the end of the listing, and refuses a file that is no log of this rank. If
    /// the log can't be written, the next batch is an error, which ends the epoch. The setting excludes
    /// [`unordered`](Self::unordered).
    pub fn audit(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.audit = Some(path.into());
        self
    }

    /// Has `observer` get the events of these `kinds` of the loader's epochs; see [`Observer`]. May be called more than
    /// once. [`close`](DataLoader::close) ends all epochs, then waits, within its time, until observers have their last
    /// events.
    /// [`Client::observe`](crate::store::Client::observe) also covers the listing.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dataflux::store::{Client, MemoryStore};
    /// use std::time::Duration;
    ///
    /// use dataflux::{DataLoader, DatafluxDataset, Event, EventKind};
    /// # let store = MemoryStore::new();
    /// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n:03}.txt"), "sample"));
    /// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
    ///
    /// let slow = Duration::from_secs(2);
    /// let print_slow = move |event: &Event| match event {
    ///     Event::ObjectReceived { object, took, .. } if *took > slow => println!("{object} took {took:.1?}"),
    ///     _ => {}
    /// };
    /// let loader = DataLoader::builder(dataset).observe([EventKind::ObjectReceived], print_slow).build()?;
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    pub fn observe(mut self, kinds: impl IntoIterator<Item = EventKind>, observer: impl Observer) -> Self {
        self.settings.observers.push(Subscription::new(kinds, observer));
        self
    }

    /// Keeps samples on local disk, where later epochs, later runs and other processes of this machine find them; see
    /// [`Cache`]. Samples in the cache need no call, and are verified like those from the bucket. The cache's index,
    /// and samples that wait to be written to it (32 MiB at most, or twice the largest object), are no part of the
    /// memory budget.
    pub fn cache(mut self, cache: Cache) -> Self {
        self.settings.cache = Some(cache);
        self
    }

    /// Resumes where `state` was taken: the loader's first epoch begins with the first sample not delivered then.
    /// [`epochs`](DataLoader::epochs) begins there; an [`epoch`](DataLoader::epoch) before that of the state is
    /// refused.
    ///
    /// A state is a position in the order of all ranks together. So all ranks must stop after the same step, and resume
    /// from the same state, which may be that of any of them: after an all-reduce of "stop now" in each step, or at
    /// fixed steps. Ranks that can't agree on a step train on [`unordered`](Self::unordered) batches and use
    /// [`resume_all`](Self::resume_all).
    ///
    /// The state sets `drop_last` and `pad_last`, the batch size unless another is set here, and the order if that is
    /// by name or by `shuffle` or `shuffle_window`. Set all else again as it was: any other [`sampler`](Self::sampler),
    /// [`unordered`](Self::unordered), the decoder, filters and classes. A changed decoder setting, such as another
    /// size of images, is not detected. Rank and world size may differ, and are set by [`shard`](Self::shard); without
    /// it this process receives all samples. `batch_size` is that of one rank: four ranks of 256 that resume as three
    /// take steps of 768, where [`global_batch_size`](Self::global_batch_size) of 1,024 stays what it is.
    ///
    /// [`build`](Self::build) then waits for the end of the listing, since only that tells whether the data are the
    /// same. It fails if the state is of other data, or if another sampler, `drop_last` or `pad_last` than the state's
    /// is set here.
    pub fn resume(mut self, state: State) -> Self {
        self.settings.resume = Some(ResumeFrom { states: vec![state], are_all: false });
        self
    }

    /// Resumes from the states of all ranks, at any number of ranks; see [`resume`](Self::resume), which this replaces.
    /// Each rank passes all of these states.
    ///
    /// If batches were [`unordered`](Self::unordered), each rank may have stopped after another number of batches of
    /// the same epoch, or at its end. Samples that any rank was given are not delivered again, and all others are. If
    /// batches were in order, all states must be of the same step, which is checked. Pass one state for each rank,
    /// because with `drop_last` their number decides where the epoch ends.
    ///
    /// [`build`](Self::build) fails as for [`resume`](Self::resume), and if the states are of different runs, or of
    /// epochs that don't follow each other; if they are of unordered batches and some ranks are missing; and if they
    /// are of ordered batches and of different steps.
    pub fn resume_all(mut self, states: impl IntoIterator<Item = State>) -> Self {
        self.settings.resume = Some(ResumeFrom { states: states.into_iter().collect(), are_all: true });
        self
    }

    /// Builds the loader and starts its threads.
    ///
    /// # Errors
    /// A setting that can't work, named with what would; a state that can't be [resumed](Self::resume) from; threads
    /// that the system refuses.
    pub fn build(self) -> Result<DataLoader<D, B>> {
        let Self { dataset, settings, transfer, data: _ } = self;
        if dataset.decode.wants_labels() {
            dataset.source.warn_of_labels();
        }
        // From here on, the types of decoder and collate function are erased, so that all else is compiled once, in
        // this crate.
        let code = Arc::new(UserCode::new(Arc::clone(&dataset.decode), dataset.item_bytes));
        let mut core = build_or_resume(settings, &dataset.source, code)?;
        core.series.transfer = transfer;
        Ok(DataLoader::new(dataset, core))
    }
}
