//! Settings of a loader, and what is checked before it is made.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::cost::CostEstimator;
use super::data_loader::{DataLoader, batches_ahead};
use super::dataset::{DatafluxDataset, DatasetSource};
use crate::budget::{Budget, Gauge, memory_limit};
use crate::cache::Cache;
use crate::collate::Collate;
use crate::decode::Decode;
use crate::engine::cached::CacheSession;
use crate::engine::item_sizes::ItemSizes;
use crate::engine::loss::OnError;
use crate::engine::pipeline::Engine;
use crate::engine::pool::{self, UserCode};
use crate::engine::wait_report;
use crate::io::Io;
use crate::manifest::Known;
use crate::observe::audit;
use crate::pacing::ChooserConfig;
use crate::pacing::auto::Auto;
use crate::pacing::{CallCaps, LEAST_RATE, MOST_CALLS, Throttles};
use crate::plan::{Affordable, Layout, MAX_COMPOSED_BYTES, Planner, PriceTable, Strategy, never_compose};
use crate::read::{Fetcher, RangeSettings};
use crate::sample::{
    DeliveredBatches, LastBatch, RankProgress, RemainingPositions, Sampler, Sampling, Sequential, Sharding, Shuffle,
    State, WindowShuffle, identity, merge, shard, told,
};
use crate::store::Hedge;
use crate::{Error, ErrorKind, Result, Stage};

/// Bytes from socket to batch unless told otherwise: enough for 100 MB composites to overlap, little beside what a
/// training process takes.
const MEMORY_BUDGET: u64 = 1 << 30;

/// Of so many parts of the memory that a process may use, the memory budget is at most one unless told otherwise: the
/// model and the rest of the program need the others.
const LIMIT_PARTS: u64 = 4;

/// Longest wait for bytes unless told otherwise. The service answers within tenths of a second, and by then a packet that
/// was lost has been sent six times more: what is still silent is dead, and a batch waits for it.
const STALL: Duration = Duration::from_secs(10);

/// The largest read buffer that a connection comes to, in bytes: it grows with the bodies, and no setting bounds it.
const READ_BUFFER: u64 = 400 << 10;

/// The least that a connection takes: a buffer for the head of an answer, and what is known of the connection.
const CONNECTION: u64 = 16 << 10;

/// Reads at once that any budget leaves: fewer would make a small budget a slow loader.
const LEAST_AT_ONCE: usize = 32;

/// Share of the memory budget that the connections' own buffers may come to beside it.
const BUFFERS: u64 = 8;

/// What composing needs beyond reading.
const COMPOSING: [&str; 2] = ["storage.objects.create", "storage.objects.delete"];

/// What renewing the lease of a temporary needs.
const RENEWING: &str = "storage.objects.update";

#[derive(Debug)]
pub(crate) struct Settings {
    batch_size: Option<usize>,
    pub(crate) global_batch_size: Option<usize>,
    shuffle: Option<Shuffle>,
    windows: Option<WindowShuffle>,
    sampler: Option<Box<dyn Sampler>>,
    drop_last: Option<bool>,
    pad_last: Option<bool>,
    /// Rank and world size, or why they could not be had.
    shard: Result<(usize, usize), String>,
    memory_budget: Option<u64>,
    strategy: Strategy,
    pub(crate) io_threads: Option<usize>,
    decode_threads: Option<usize>,
    pub(crate) prefetch: Option<usize>,
    caps: CallCaps,
    ranges: RangeSettings,
    stall: Option<Duration>,
    pub(crate) stall_report: Duration,
    pub(crate) unordered: bool,
    hedge: Option<Hedge>,
    prices: Option<PriceTable>,
    epoch_budget_usd: Option<f64>,
    on_error: OnError,
    audit: Option<PathBuf>,
    cache: Option<Cache>,
    /// What the data must be.
    manifest_digest: Option<String>,
}

impl Settings {
    /// The one sampler that was set, if one was.
    fn take_sampler(&mut self) -> Result<Option<Box<dyn Sampler>>> {
        let (shuffle, windows, sampler) = (self.shuffle.take(), self.windows.take(), self.sampler.take());
        let set =
            [("shuffle", shuffle.is_some()), ("shuffle_window", windows.is_some()), ("sampler", sampler.is_some())];
        let set: Vec<_> = set.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect();
        if set.len() > 1 {
            return Err(Error::new(ErrorKind::Config, "an epoch can't be ordered in two ways")
                .stage(Stage::Sample)
                .mismatch("one of shuffle, shuffle_window and sampler", set.join(" and "))
                .hint("leave out all but one"));
        }
        if let Some(windows) = &windows {
            windows.check()?;
        }
        let shuffle = shuffle.map(|shuffle| Box::new(shuffle) as Box<dyn Sampler>);
        let windows = windows.map(|windows| Box::new(windows) as Box<dyn Sampler>);
        Ok(shuffle.or(windows).or(sampler))
    }

    fn last_batch(&self) -> Result<LastBatch> {
        match (self.drop_last.unwrap_or(false), self.pad_last.unwrap_or(false)) {
            (false, false) => Ok(LastBatch::Short),
            (true, false) => Ok(LastBatch::Drop),
            (false, true) => Ok(LastBatch::Pad),
            (true, true) => Err(Error::new(ErrorKind::Config, "a last batch can't be left out and filled up")
                .stage(Stage::Sample)
                .mismatch("drop_last or pad_last", "both")
                .hint("leave out one of them")),
        }
    }

    fn sharding(&self) -> Result<Sharding> {
        let (rank, world_size) = self.shard.clone().map_err(|reason| {
            Error::new(ErrorKind::Config, "this process's rank can't be told")
                .mismatch("a launcher's variables", reason)
                .hint("start it with torchrun, srun or mpirun, or call .shard(rank, world_size)")
        })?;
        let sharding = match (self.batch_size, self.global_batch_size) {
            (Some(_), Some(_)) => {
                return Err(Error::new(ErrorKind::Config, "a batch can't have two sizes")
                    .stage(Stage::Sample)
                    .mismatch("batch_size or global_batch_size", "both")
                    .hint("give batch_size the samples of one rank, or global_batch_size those of all ranks"));
            }
            (_, Some(samples)) => Sharding::global(samples, rank, world_size)?,
            (batch_size, None) => Sharding::new(batch_size.unwrap_or(1), rank, world_size)?,
        };
        let sharding = sharding.last(self.last_batch()?);
        sharding.check()?;
        Ok(sharding)
    }

    /// Refuses other data than those expected; without an expectation, warns of ranks that may have different data.
    fn check_digest(&self, source: &DatasetSource, sharding: &Sharding) -> Result<()> {
        let manifest = &source.manifest;
        let Some(expected) = &self.manifest_digest else {
            let may_differ = sharding.world_size() > 1 && manifest.is_listed();
            if may_differ && !source.told.ranks.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    prefix = %manifest.prefix(),
                    ranks = sharding.world_size(),
                    "each rank lists for itself: if anything is written in between, ranks order different data, and samples \
                     are lost and repeated; load one saved manifest in all ranks (Manifest::save, Manifest::load), or confirm \
                     each by .manifest_digest(..)"
                );
            }
            return Ok(());
        };
        manifest.complete()?;
        let digest = manifest.digest().to_string();
        if !expected.trim().eq_ignore_ascii_case(&digest) {
            return Err(Error::new(ErrorKind::Config, "the data are not those that were expected")
                .stage(Stage::Manifest)
                .object(manifest.prefix())
                .mismatch(format_args!("a manifest of digest {expected}"), digest)
                .hint("something was added, removed, overwritten or filtered otherwise: give all ranks one saved manifest"));
        }
        Ok(())
    }
}

/// Settings of a [`DataLoader`].
#[derive(Debug)]
#[must_use = "a builder does nothing until build() is called"]
pub struct DataLoaderBuilder<D: Decode, C: Collate<D::Item> = <D as Decode>::Collate> {
    dataset: DatafluxDataset<D>,
    collate: C,
    settings: Settings,
}

/// A log that tells of steps by their place in the order has none for batches out of it.
fn unordered_audit(path: &Path) -> Error {
    Error::new(ErrorKind::Config, "the audit log is of batches in order")
        .stage(Stage::Deliver)
        .object(path.display())
        .mismatch("ordered batches, from an ordered epoch", "unordered ones")
        .hint("leave out .unordered(true) or .audit(..), and end an unordered epoch before a log is begun")
}

/// Most connections whose read buffers stay small beside `budget` bytes, where objects have `mean` bytes. At the default
/// budget they are no fewer than the throttle allows, but for objects of some 50 KiB and more, of which so many at once
/// are more than a machine receives.
fn connections(budget: u64, mean: u64) -> usize {
    let each = mean.saturating_mul(2).saturating_add(CONNECTION).min(READ_BUFFER);
    usize::try_from(budget / BUFFERS / each).unwrap_or(usize::MAX).max(LEAST_AT_ONCE)
}

/// The memory budget where none is set.
fn default_memory_budget() -> u64 {
    let Some((limit, of)) = memory_limit() else { return MEMORY_BUDGET };
    let share = (limit / LIMIT_PARTS).max(1);
    if share < MEMORY_BUDGET {
        tracing::info!(
            memory_budget = share,
            limit,
            "the memory budget is a quarter of {of}; set another by memory_budget"
        );
    }
    share.min(MEMORY_BUDGET)
}

impl<D: Decode> DataLoader<D> {
    /// A loader of `dataset`: batches of one sample, in order of names, for one rank, unless told otherwise.
    pub fn builder(dataset: DatafluxDataset<D>) -> DataLoaderBuilder<D> {
        let collate = dataset.decode.collate();
        let settings = Settings {
            batch_size: None,
            global_batch_size: None,
            shuffle: None,
            windows: None,
            sampler: None,
            drop_last: None,
            pad_last: None,
            shard: Ok((0, 1)),
            memory_budget: None,
            strategy: Strategy::default(),
            io_threads: None,
            decode_threads: None,
            prefetch: None,
            caps: CallCaps::default(),
            ranges: RangeSettings::default(),
            stall: None,
            stall_report: wait_report::BOUND,
            unordered: false,
            hedge: None,
            prices: None,
            epoch_budget_usd: None,
            on_error: OnError::default(),
            audit: None,
            cache: None,
            manifest_digest: None,
        };
        DataLoaderBuilder { dataset, collate, settings }
    }
}

impl<D: Decode, C: Collate<D::Item>> DataLoaderBuilder<D, C> {
    /// Samples in a batch of one rank; 1 by default. With more ranks a step has more samples: see
    /// [`global_batch_size`](Self::global_batch_size) for the other way.
    pub fn batch_size(mut self, samples: usize) -> Self {
        self.settings.batch_size = Some(samples);
        self
    }

    /// Samples in a batch over all ranks together, at least as many as there are ranks: the same steps at any number of
    /// ranks, as a run needs that must not change its course when machines come or go. Each rank gets its share of each,
    /// rounded up or down where it isn't whole. Instead of [`batch_size`](Self::batch_size).
    pub fn global_batch_size(mut self, samples: usize) -> Self {
        self.settings.global_batch_size = Some(samples);
        self
    }

    /// Shuffles each epoch, all of it, by `seed` and the epoch's number. Without this, samples come in order of names.
    pub fn shuffle(mut self, seed: u64) -> Self {
        self.settings.shuffle = Some(Shuffle::new(seed));
        self
    }

    /// Orders each epoch by `sampler`: by weights, in proportion of labels, some samples only, in blocks, or in a way
    /// [of your own](Sampler). See [`sample`](crate::sample) for those there are.
    pub fn sampler(mut self, sampler: impl Sampler) -> Self {
        self.settings.sampler = Some(Box::new(sampler));
        self
    }

    /// Shuffles each window of `samples` within itself, by `seed` and the epoch's number, instead of all of an epoch: what
    /// makes a data set that is [streaming](crate::loader::DatasetBuilder::streaming) start before it is listed. Windows are cut in
    /// byte order of names, and the order is the same whether the data set is streaming or not.
    ///
    /// Samples of a window stay near each other: with windows smaller than a class, data sorted by class comes nearly
    /// class by class, which is bad to train on. Choose windows much larger than a class, or list first and use
    /// [`shuffle`](Self::shuffle).
    pub fn shuffle_window(mut self, seed: u64, samples: u64) -> Self {
        self.settings.windows = Some(WindowShuffle::new(seed, samples));
        self
    }

    /// Whether the samples that fill no whole batch on all ranks are left out, as some training loops want; by default
    /// the last batch is just smaller.
    pub fn drop_last(mut self, drop: bool) -> Self {
        self.settings.drop_last = Some(drop);
        self
    }

    /// Whether the last batch is filled up on all ranks, where it isn't full, with the first samples of the same order:
    /// for programs that need batches of one size and may leave out no sample. [`Batch::padding`](crate::Batch::padding)
    /// tells how many fill a batch up, at its end; such samples are delivered once more in an epoch, or several times where
    /// it has fewer samples than a batch over all ranks, and are read, and counted by [`EpochStats`](crate::loader::EpochStats), each
    /// time. A [`State`] doesn't count them. With this a batch has at most 16,777,216 samples on each rank.
    pub fn pad_last(mut self, pad: bool) -> Self {
        self.settings.pad_last = Some(pad);
        self
    }

    /// This process is `rank` (from 0) of `world_size` that train together: it gets its slice of each global batch, and
    /// as many batches as every other. It begins with its part of the calls that a bucket is documented to take, and
    /// makes more where these are served.
    ///
    /// All ranks must have the same data: where each lists for itself, and somebody writes meanwhile, their orders have
    /// nothing to do with each other, and samples are lost and repeated. So give all ranks one saved manifest, or
    /// confirm what each has listed by [`manifest_digest`](Self::manifest_digest). Where neither is done a warning says
    /// so.
    pub fn shard(mut self, rank: usize, world_size: usize) -> Self {
        self.settings.shard = Ok((rank, world_size));
        self
    }

    /// Takes rank and world size from what a launcher sets, the first pair that is there: `RANK` and `WORLD_SIZE`
    /// (torchrun), `OMPI_COMM_WORLD_RANK` and `OMPI_COMM_WORLD_SIZE` (Open MPI), `SLURM_PROCID` and `SLURM_NTASKS`
    /// (srun), or `JOB_COMPLETION_INDEX` and `WORLD_SIZE` (an indexed job of Kubernetes, which sets only the first: set
    /// the other to the job's `completions` in the env of its pod template, or call [`shard`](Self::shard)). Without
    /// any of these pairs `build` returns an error: a program of a single process leaves this call out.
    pub fn shard_from_env(mut self) -> Self {
        self.settings.shard = shard(|name| std::env::var(name).ok());
        self
    }

    /// Refuses to be built unless the data set's manifest has this [digest](crate::Manifest::digest), in hex: that of
    /// another rank, or of an earlier run. Read the digest of a data set after [`decode`](DatafluxDataset::decode),
    /// since an image decoder may leave objects out. Waits for the end of the listing.
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

    /// Limit on the bytes that the loader counts, from the socket to the batch that is handed over, that one included
    /// until the next is asked for. By default 1 GiB, or a quarter of the memory that the process may use, if that is
    /// less: of the limit of its control group (version 1 or 2), or of the machine's memory. An object that alone is
    /// larger than the budget, or than an eighth of it where its item is counted later, is held beside it, one at a
    /// time. The epochs of one call of [`epochs`](DataLoader::epochs) share the budget; each call of
    /// [`epoch`](DataLoader::epoch) and each other loader has its own.
    ///
    /// Decoded samples and batches count, and so does the memory that a decoder works with, as far as that is known;
    /// see [`ItemMemory`](crate::ItemMemory). Of an [`ImageFolder`](crate::ImageFolder), and of closures that make
    /// images or vectors of numbers, an eighth of the budget is for bytes that are read and wait for their decoder, and
    /// one batch may have three quarters: its samples, the batch that is made of them, and the memory to decode the
    /// largest. A batch that needs more is an error that says so. Substitutes for samples that can't be had wait for no
    /// memory, so that they may come to a little more. Of closures that make something else **only the bytes read are
    /// counted**, and about four batches are decoded ahead, unless [`item_bytes`](crate::DatafluxDataset::item_bytes)
    /// says what an item takes.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.settings.memory_budget = Some(bytes);
        self
    }

    /// How small objects are read; [`Strategy::Auto`] by default.
    ///
    /// Where soft delete or replication make composing dearer than reading one by one, a warning says so with the way out,
    /// once for a data set: of what was asked for always, and of [`Strategy::Auto`] from a cent an epoch on. Of a data set
    /// that is still [streaming](crate::loader::DatasetBuilder::streaming) when the loader is built nothing is said, since nobody
    /// knows yet; ask `dataflux plan`.
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.settings.strategy = strategy;
        self
    }

    /// Whether batches come as they are done instead of in order; by default in order. Each batch has the samples that it
    /// would have, and each comes once; but a slow one holds up no other, and which comes when is another each time, and
    /// another on each rank.
    ///
    /// A [`state`](crate::loader::Batches::state) is exact all the same. Where there are several ranks, it says what its own
    /// rank was given. [`resume_all`](Self::resume_all) takes the states of all ranks, each of which may have stopped
    /// after another number of batches, and resumes at any number of ranks. [`resume`](Self::resume) takes the state of
    /// this rank alone, at the same number of ranks; these then have equally many batches left only if all of them
    /// stopped after the same number.
    pub fn unordered(mut self, unordered: bool) -> Self {
        self.settings.unordered = unordered;
        self
    }

    /// Threads of its own for the network; by default all loaders share one for each core, four at most.
    pub fn io_threads(mut self, threads: usize) -> Self {
        self.settings.io_threads = Some(threads);
        self
    }

    /// Threads that decode and collate; by default one for each core.
    pub fn decode_threads(mut self, threads: usize) -> Self {
        self.settings.decode_threads = Some(threads);
        self
    }

    /// Batches to have ahead of the training loop, where the memory budget has room; by default as many as hold 65,536
    /// samples, 4 at least and 16,384 at most, and no more than 4 MiB where they are in this process's memory and the decoder
    /// [is light](Decode::is_light).
    pub fn prefetch(mut self, batches: usize) -> Self {
        self.settings.prefetch = Some(batches);
        self
    }

    /// Most reads at once, and most composes and deletions of composed objects at once; by default 1,024 of each, fewer
    /// where the process may not have so many files open. Below this, as many are made as help: that is found out, and
    /// calls that the service refuses (429, 503) teach how many it takes in a second.
    ///
    /// What one loader learns holds for all of its data set. A loader with a limit of its own, of whatever kind, learns
    /// for itself.
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.settings.caps.at_once = Some(calls);
        self
    }

    /// Least bytes of a large object that are worth a read of their own; 8 MiB by default. Objects of 32 MiB and more are
    /// read in several ranges at once.
    pub fn min_part_size(mut self, bytes: u64) -> Self {
        self.settings.ranges.min_part_size = bytes;
        self
    }

    /// Most ranges of one large object to read at once; 8 by default. Each counts as a read.
    pub fn max_streams(mut self, streams: usize) -> Self {
        self.settings.ranges.max_streams = streams;
        self
    }

    /// Most reads to start in a second, for those who share a bucket with others; by default as many as the service
    /// takes, beginning with the 5,000 that are documented, divided by the world size. At least 0.01.
    pub fn max_reads_per_second(mut self, reads: f64) -> Self {
        self.settings.caps.reads_per_second = Some(reads);
        self
    }

    /// Most composes and deletions of composed objects to start in a second; by default as many as the service takes,
    /// beginning with the 1,000 writes that are documented, divided by the world size. At least 0.01.
    pub fn max_writes_per_second(mut self, writes: f64) -> Self {
        self.settings.caps.writes_per_second = Some(writes);
        self
    }

    /// Longest wait for the first or the next bytes of a read, before it is made again; by default 10 s, or that of the
    /// data set's [`Client`](crate::store::Client) where that is less. Each try of a read
    /// that brings nothing doubles it, so that a service that is slow, and not dead, is waited for in the end.
    pub fn stall_timeout(mut self, wait: Duration) -> Self {
        self.settings.stall = Some(wait);
        self
    }

    /// Longest wait of the training loop for a batch that goes by without a word; 30 s by default. Then a warning says what
    /// the batch is waiting for, with the figures that show why, and again each time that twice as much has passed.
    /// [`EpochStats::waited_for`](crate::loader::EpochStats::waited_for) has the sums.
    pub fn stall_report(mut self, after: Duration) -> Self {
        self.settings.stall_report = after;
        self
    }

    /// Asks a second time for what a read misses, where nothing comes for longer than is usual; off by default. Each
    /// second request is a call of class B more. Objects that are read in several ranges are not asked for twice.
    pub fn hedge(mut self, hedge: Hedge) -> Self {
        self.settings.hedge = Some(hedge);
        self
    }

    /// Prices to go by instead of the built-in ones: those of a contract, of a location, of another day.
    pub fn prices(mut self, table: PriceTable) -> Self {
        self.settings.prices = Some(table);
        self
    }

    /// The most that a whole epoch may cost in US dollars, **over all ranks together**, by the price table. Ways of reading
    /// that cost more are ruled out when the loader is built, which walks through the manifest once (a second for 18
    /// million objects), and waits for the end of its listing. Where a [`sampler`](Self::sampler) may leave samples out, or
    /// give them several times, it walks through epoch 0 instead, in its order, which takes some times longer; of an epoch
    /// that is longer than the manifest, and than a million samples, it takes as much as the longer of these for a share of
    /// the whole. Other epochs may draw other samples. It goes by the [`Forecast`](crate::plan::Forecast): retries, and what is
    /// read object by object because composing fails, come on top; so does the listing, and what groups that aren't full cost
    /// more, where the batches of an epoch end with such.
    ///
    /// [`Strategy::Auto`] goes by measurement if whatever it may come to fits. If not, one way for all is taken, or each
    /// group is read in the way that costs less, and [`choice`](DataLoader::choice) is `None`.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dataflux::store::{Client, MemoryStore};
    /// use dataflux::{DataLoader, DatafluxDataset, Strategy};
    /// # let store = MemoryStore::new();
    /// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n:03}.txt"), "sample"));
    /// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
    ///
    /// // 100 reads at $0.0004 a thousand cost $0.00004.
    /// let builder = DataLoader::builder(dataset).strategy(Strategy::Direct).epoch_budget_usd(0.00003);
    /// assert!(builder.build().unwrap_err().to_string().contains("$0.0000400"));
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    pub fn epoch_budget_usd(mut self, dollars: f64) -> Self {
        self.settings.epoch_budget_usd = Some(dollars);
        self
    }

    /// What to do about a sample that can't be had: fail by default, or [go on](OnError) without it, or with another one
    /// in its place, up to a limit.
    pub fn on_error(mut self, on_error: OnError) -> Self {
        self.settings.on_error = on_error;
        self
    }

    /// Writes to the file at `path` which samples each batch that is delivered has: some 150 bytes a batch, chained by hashes
    /// so that a change shows, for [`AuditLog`](crate::observe::AuditLog) and `dataflux replay` to read. A log that is there is gone on
    /// with. A line is written before its batch is handed over, and is safe from a kill of the process, though not of the
    /// machine. Each rank, and each loader that lives at the same time, needs a log of its own.
    ///
    /// [`build`](Self::build) then waits for the end of the listing, and refuses a file that is no log of this rank. A log
    /// that can't be written is an error in the place of the batch, which ends the epoch. Not with
    /// [`unordered`](Self::unordered) batches.
    pub fn audit(mut self, path: impl Into<PathBuf>) -> Self {
        self.settings.audit = Some(path.into());
        self
    }

    /// Keeps samples on local disk, where later epochs, later runs and other processes of this machine find them; see
    /// [`Cache`]. What is in the cache is no call, and is proved as what is read from the bucket. Its index and what waits to
    /// be written to it, 32 MiB at most or twice the largest object, are no part of the memory budget.
    pub fn cache(mut self, cache: Cache) -> Self {
        self.settings.cache = Some(cache);
        self
    }

    /// Makes batches with `collate` instead of the decoder's own way.
    pub fn collate<E: Collate<D::Item>>(self, collate: E) -> DataLoaderBuilder<D, E> {
        DataLoaderBuilder { dataset: self.dataset, collate, settings: self.settings }
    }

    /// Builds a loader that resumes where `state` was taken: its epoch begins with the first sample not delivered then.
    /// [`epochs`](DataLoader::epochs) begins there; an [`epoch`](DataLoader::epoch) before that of the state is
    /// refused.
    ///
    /// A state is a position in the order of all ranks together. So all ranks must stop after the same step, and resume
    /// from the same state, which may be that of any of them: after an all-reduce of "stop now" in each step, or at
    /// fixed steps. Ranks that can't agree on a step train on [`unordered`](Self::unordered) batches and use
    /// [`resume_all`](Self::resume_all).
    ///
    /// drop_last and pad_last are the state's; so is the batch size, unless another is set here, and the order, where
    /// it is that of names or of `shuffle` or `shuffle_window`. Set all else again, as it was: any other
    /// [`sampler`](Self::sampler), [`unordered`](Self::unordered), the decoder, filters and classes. A changed decoder
    /// setting, such as another size of images, is not detected. Rank and world size may differ, and are set by
    /// [`shard`](Self::shard); without it this process receives all samples. `batch_size` is that of one rank: four
    /// ranks of 256 that resume as three take steps of 768, where [`global_batch_size`](Self::global_batch_size) of
    /// 1,024 stays what it is. Waits for the end of the listing, since only that tells whether the data are the same.
    ///
    /// # Errors
    /// A state of other data; another sampler, drop_last or pad_last than the state's set here; a listing that failed; all
    /// that [`build`](Self::build) refuses.
    pub fn resume(self, state: State) -> Result<DataLoader<D, C>> {
        self.go_on(&[state], false)
    }

    /// As [`resume`](Self::resume), from the states of all ranks, at any number of ranks. Each rank gives all of these
    /// states.
    ///
    /// Where batches were [`unordered`](Self::unordered), each rank may have stopped after another number of batches of
    /// the same epoch, or at its end: samples that any of them was given are not delivered again, and all others are.
    /// Where batches were in order, all states must be of the same step, which is then checked; give one state for each
    /// rank, since with drop_last their number decides where the epoch ends.
    ///
    /// # Errors
    /// States of different runs, or of epochs that don't follow each other; of unordered batches, those of some ranks
    /// alone; of ordered ones, those of different steps; all that [`resume`](Self::resume) refuses.
    pub fn resume_all(self, states: impl IntoIterator<Item = State>) -> Result<DataLoader<D, C>> {
        self.go_on(&states.into_iter().collect::<Vec<_>>(), true)
    }

    /// From one state, or from those of `all` ranks.
    fn go_on(mut self, states: &[State], all: bool) -> Result<DataLoader<D, C>> {
        let manifest = self.dataset.manifest();
        manifest.complete()?;
        let Some(state) = states.first().cloned() else {
            return Err(Error::new(ErrorKind::Config, "there is no state to go on from")
                .stage(Stage::Sample)
                .mismatch("the states of all ranks", "none"));
        };
        for state in states {
            state.check(manifest.digest())?;
        }
        state.check(manifest.digest())?;
        let differs = |what: &str, here: String, there: &str, hint: String| {
            Error::new(ErrorKind::Config, format!("the state was taken with another {what}"))
                .stage(Stage::Sample)
                .mismatch(format_args!("{what} {there}"), here)
                .hint(hint)
        };
        let there = state.identity();
        let here = self.settings.take_sampler()?;
        let found = here.as_ref().map_or_else(|| Ok("none".to_owned()), |here| identity(&**here))?;
        let sampler =
            here.map_or_else(|| told(&there), |here| Some(here).filter(|_| found == there)).ok_or_else(|| {
                let hint = "set the same one as the run that took the state, or begin the epoch anew";
                differs("sampler", found, &there, hint.to_owned())
            })?;
        let Settings { batch_size, global_batch_size, drop_last, pad_last, .. } = &mut self.settings;
        let last = state.last_batch();
        for (what, here, there) in
            [("drop_last", drop_last, last == LastBatch::Drop), ("pad_last", pad_last, last == LastBatch::Pad)]
        {
            if let Some(here) = here.replace(there).filter(|here| *here != there) {
                let hint = format!("leave {what} to the state, or begin the epoch anew");
                return Err(differs(what, here.to_string(), &there.to_string(), hint));
            }
        }
        // A batch size of one's own is no danger: the position counts samples.
        if batch_size.is_none() && global_batch_size.is_none() {
            *global_batch_size = state.global_batch_size;
            *batch_size = Some(state.batch_size).filter(|_| state.global_batch_size.is_none());
        }
        self.settings.sampler = Some(sampler);
        // It was checked above, so nobody needs to be told that ranks may differ.
        self.settings.manifest_digest.get_or_insert_with(|| state.manifest.clone());
        let mut loader = self.build()?;
        let samples = loader.sampling.orders()?.len();
        for state in states {
            state.check_position(samples)?;
        }
        let cut = |rank, world_size| {
            let cut = match state.global_batch_size {
                Some(samples) => Sharding::global(samples, rank, world_size),
                None => Sharding::new(state.batch_size, rank, world_size),
            };
            Ok(cut?.last(last))
        };
        let share = if all { None } else { state.beyond.as_ref().and_then(|beyond| beyond.share.as_ref()) };
        let hint = "give resume_all() the states of all ranks: unordered batches leave each of them somewhere else";
        if let Some(RankProgress { rank, world_size, .. }) = share {
            if (*rank as u64, *world_size as u64) != (loader.sharding.rank(), loader.sharding.world_size()) {
                let here = format!("rank {} of {}", loader.sharding.rank(), loader.sharding.world_size());
                return Err(differs("rank", here, &format!("{rank} of {world_size}"), hint.to_owned()));
            }
            if loader.sharding != cut(*rank, *world_size)? {
                let here = loader.sharding.batch_size().to_string();
                return Err(differs("batch_size", here, &state.batch_size.to_string(), hint.to_owned()));
            }
            // A damaged one is told now, and not when its epoch begins.
            DeliveredBatches::from(&state, false, &loader.sharding)?;
            loader.resumed = Some(state);
        } else {
            loader.resumed = Some(merge(states, samples, cut)?);
        }
        if let Some(state) = &loader.resumed {
            let left = RemainingPositions::of(state)?.known(Known::All(samples));
            let is_over = loader.sharding.spans(state.position).next(left).is_none();
            loader.first_epoch = state.epoch.saturating_add(u64::from(is_over));
        }
        match (&loader.settings.audit, &loader.resumed) {
            (Some(path), Some(state)) if state.beyond.is_some() => Err(unordered_audit(path)),
            _ => Ok(loader),
        }
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// A setting that can't work, named with what would; threads that the system refuses.
    pub fn build(self) -> Result<DataLoader<D, C>> {
        let Self { dataset, collate, mut settings } = self;
        let wrong = |what: &str, got: usize, hint: &str| {
            Err(Error::new(ErrorKind::Config, format!("{what} can't be 0")).mismatch("at least 1", got).hint(hint))
        };
        let sharding = settings.sharding()?;
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let decode_threads = settings.decode_threads.unwrap_or(cores);
        for (what, value) in [
            ("io_threads", settings.io_threads.unwrap_or(1)),
            ("decode_threads", decode_threads),
            ("prefetch", settings.prefetch.unwrap_or(1)),
            ("concurrency", settings.caps.at_once.unwrap_or(1)),
            ("min_part_size", usize::try_from(settings.ranges.min_part_size).unwrap_or(usize::MAX)),
            ("max_streams", settings.ranges.max_streams),
        ] {
            if value == 0 {
                return wrong(what, value, "leave it out for a value that suits this machine");
            }
        }
        for (what, rate) in [
            ("max_reads_per_second", settings.caps.reads_per_second),
            ("max_writes_per_second", settings.caps.writes_per_second),
        ] {
            if rate.is_some_and(|rate| rate.is_nan() || rate < LEAST_RATE) {
                return Err(Error::new(ErrorKind::Config, format!("{what} is too little to get on with"))
                    .mismatch(format_args!("at least {LEAST_RATE}"), format_args!("{rate:?}"))
                    .hint("leave it out for what the service takes"));
            }
        }
        if settings.stall.is_some_and(|wait| wait.is_zero()) {
            return Err(Error::new(ErrorKind::Config, "stall_timeout can't be 0")
                .mismatch("the longest wait for bytes", "none at all")
                .hint("leave it out for 10 s"));
        }
        if settings.stall_report.is_zero() {
            return Err(Error::new(ErrorKind::Config, "stall_report can't be 0")
                .mismatch("the longest wait without a word", "none at all")
                .hint("leave it out for 30 s"));
        }
        if settings.memory_budget == Some(0) {
            return wrong("memory_budget", 0, "give it the bytes that loading may take, such as 1 << 30");
        }
        let memory_budget = settings.memory_budget.unwrap_or_else(default_memory_budget);
        let sizes = ItemSizes::new(&*dataset.decode, dataset.item_bytes);
        // Where items are counted after reading, a part of the budget is for what is read.
        let (read_budget, decoding) = sizes.divide(memory_budget, sharding.batch_size(), decode_threads);
        let source = &dataset.source;
        let manifest = Arc::clone(&source.manifest);
        if let Some(error) = manifest.failure() {
            return Err(error);
        }
        let sampler = settings.take_sampler()?.unwrap_or_else(|| Box::new(Sequential));
        let sampling = Sampling::new(sampler, Arc::clone(&manifest))?;
        sampling.check()?;
        settings.check_digest(source, &sharding)?;
        if let Known::All(_) = manifest.known() {
            let samples = sampling.orders()?.len();
            sharding.check_samples(samples)?;
            if samples < sharding.world_size() && sharding.last_batch() != LastBatch::Pad {
                tracing::warn!(
                    prefix = %manifest.prefix(),
                    samples,
                    ranks = sharding.world_size(),
                    "there are fewer samples than ranks, so some ranks get empty batches; train on fewer ranks, or use pad_last"
                );
            }
        }
        let (io, client) = match settings.io_threads {
            None => (Io::shared()?, source.client.clone()),
            Some(threads) => (Io::new(threads)?, source.client.reconnected()?),
        };
        let mut caps = settings.caps;
        if let Known::All(samples) = manifest.known() {
            let most = connections(read_budget, manifest.bytes() / samples.max(1));
            if most < MOST_CALLS {
                caps.at_once = Some(caps.at_once.map_or(most, |cap| cap.min(most)));
            }
        }
        let throttles = match caps {
            caps if caps == CallCaps::default() => Arc::clone(&source.throttles),
            caps => Throttles::new(caps),
        };
        throttles.add_rank(sharding.rank(), sharding.world_size());
        let share = throttles.share();
        let client = client.with_read_stall(settings.stall, STALL);
        let client = match settings.hedge {
            Some(hedge) => client.with_hedge(hedge),
            None => client,
        };
        let fetcher = Fetcher::new(&client, Arc::clone(&manifest), Arc::clone(&io), &source.bucket, throttles)
            .with_ranges(settings.ranges);
        if let Strategy::Compose { .. } = settings.strategy
            && let Some(reason) = never_compose(&source.bucket)
        {
            tracing::warn!(prefix = %manifest.prefix(), reason, "not composing here; reading every object by itself");
        }
        if settings.strategy != Strategy::Direct && never_compose(&source.bucket).is_none() {
            let bucket = Arc::clone(&manifest.prefix().bucket);
            let asked = [COMPOSING[0], COMPOSING[1], RENEWING];
            let held = io.run(async move { client.test_permissions(&bucket, &asked).await });
            // Where the question has no answer, the first compose gives it.
            if let Ok(held) = held {
                let lacks = |one: &str| !held.iter().any(|held| held == one);
                if let Some(lacking) = COMPOSING.iter().find(|one| lacks(one)) {
                    fetcher.stop_composing(&format!("{lacking} is not granted"));
                }
                if lacks(RENEWING) {
                    fetcher.never_renew();
                }
            }
        }
        let prices = settings.prices.as_ref().unwrap_or_else(|| PriceTable::built_in()).of(&source.bucket);
        // A composed download is one allocation: a few must fit at once, or reading would stop for each.
        let most_bytes = read_budget / 4;
        let cap = if let Strategy::Compose { max_bytes } = settings.strategy { max_bytes } else { MAX_COMPOSED_BYTES };
        let means = CostEstimator {
            manifest: &manifest,
            sampling: &sampling,
            prices: &prices,
            layout: Layout::default().most_bytes(most_bytes.min(cap)).ranges(settings.ranges),
            strategy: settings.strategy,
            no_compose: never_compose(&source.bucket).or_else(|| {
                (!fetcher.may_compose()).then(|| "the right to create or delete objects is missing".into())
            }),
        };
        let allowed = settings.epoch_budget_usd.map(|budget| means.within(budget)).transpose()?;
        let strategy = match allowed {
            Some(Affordable::Direct) => Strategy::Direct,
            Some(Affordable::Composed) => Strategy::Compose { max_bytes: cap },
            Some(Affordable::Cheapest | Affordable::All) | None => settings.strategy,
        };
        CostEstimator { strategy, ..means }.warn(&source.told.dollars);
        let held = Gauge::default();
        let planner = Planner::new(Arc::clone(&manifest), strategy, most_bytes, &source.bucket).with_prices(prices);
        let by_price = allowed == Some(Affordable::Cheapest);
        let planner = if by_price { planner.by_price() } else { planner };
        let ahead =
            (batches_ahead(settings.prefetch, sharding.batch_size()) as u64).saturating_mul(sharding.batch_size());
        let auto = (strategy == Strategy::Auto && !by_price).then(|| {
            Auto::new(ChooserConfig {
                max_bytes: if fetcher.may_compose() { planner.max_bytes() } else { 0 },
                budget: read_budget,
                ahead,
                share,
                prices: *planner.prices(),
                pay_for_speed: !source.bucket.replicates(),
            })
        });
        let (jobs, decoders) = pool::start(decode_threads)?;
        let engine = Engine {
            planner,
            auto,
            fetcher,
            kept: settings.cache.clone().map(CacheSession::new),
            proved: Arc::default(),
            budget: Budget::new(read_budget, held.clone()),
            memory_budget,
            decoding,
            gate: None,
            code: Arc::new(UserCode {
                manifest: Arc::clone(&manifest),
                decode: Arc::clone(&dataset.decode),
                collate,
                sizes,
            }),
            jobs,
            on_error: settings.on_error,
            groups: Arc::default(),
            manifest,
            io,
        };
        let audit = match &settings.audit {
            None => None,
            Some(path) if settings.unordered => return Err(unordered_audit(path)),
            Some(path) => {
                engine.manifest.complete()?;
                Some(audit::AuditWriter::open(path, sharding.rank())?)
            }
        };
        let live = Arc::default();
        Ok(DataLoader {
            engine,
            decoders,
            live,
            held,
            dataset,
            sharding,
            settings,
            sampling,
            audit,
            resumed: None,
            first_epoch: 0,
        })
    }
}
