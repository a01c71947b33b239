//! `dataflux bench`: epochs over a data set, and what they took.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use dataflux::list::Prefix;
use dataflux::manifest::NamesDigest;
use dataflux::plan::{Bill, Groups, PriceTable};
use dataflux::store::Client;
use dataflux::{
    Cache, CacheStats, Collate, DataLoader, DatafluxDataset, Decode, EpochStats, ImageFolder, OnError, Raw, Strategy,
    compose,
};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use serde::Serialize;

use crate::access::AccessArgs;
use crate::failure::Usage;
use crate::filter::FilterArgs;
use crate::value::Decoding;
use crate::{output, progress, source, value};

/// Run epochs over a data set as a training loop would, and measure them
///
/// Lists the prefix, then reads, proves and decodes every sample. `order_digest` is a hash of the delivered names in
/// order: equal whatever the threads and the strategy, and of one epoch without --shuffle equal to the digest of
/// `ls --summary`, where that finds nothing but samples.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dataflux bench gs://bucket/train/
  dataflux bench gs://bucket/train/ --shuffle 42 --decode image:224x224 --step-ms 100
  dataflux bench gs://bucket/train/ --strategy direct --limit 10000 --json

What is measured:
  seconds               the epochs, without the listing, until nothing temporary is left
  epoch_seconds         of each epoch, its clean-up included: the first learns what the later ones know, and each
                        later one began to be read while the one before it was still being delivered
  first_batch_seconds   from the start of the first epoch to its first batch
  wait_fraction         of the time from the first batch to the last, spent waiting for data; best is 0
  waited_for            seconds of all waits, that for the first batch included, by what the batch was waiting for
  cpu_seconds           user and system time of this process, the listing included
  peak_rss_bytes        most memory resident; unknown where there is no /proc
  skipped, substituted  samples that could not be had, with --on-error
  verified              samples whose bytes were proved by the CRC that was listed
  groups                reads that were begun: of one object, of a large one in ranges, of many that were joined
  choice                how auto reads small objects at the end, and why
  ops, retries          attempts sent to the service, the listing and retries included
  cost_usd              those by the price table, without traffic that leaves the location
  bill                  its parts: calls of class A and B, retrieval, temporary objects and their replication
  cache                 with --cache: samples read from it and from the bucket, bytes read and written
  leftover_temporaries  temporary objects of this run that are in the bucket at the end

SIGINT and SIGTERM delete what is temporary, then end it with exit code 130 or 143.")]
pub(crate) struct Args {
    /// What names of samples begin with, as gs://BUCKET or gs://BUCKET/PREFIX; not only whole folders
    uri: Prefix,

    /// Take the samples from this manifest, saved by `dataflux ls --save`, instead of listing
    #[arg(long, value_name = "FILE", conflicts_with_all = FilterArgs::OPTIONS)]
    manifest: Option<PathBuf>,

    /// Samples in a batch
    #[arg(long, value_name = "N", default_value = "256", value_parser = value::at_least_one)]
    batch_size: usize,

    /// Epochs to run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    epochs: u64,

    /// Shuffle each epoch by this seed; without, samples come in order of names
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,

    /// How small objects are read
    #[arg(long, value_enum, default_value_t)]
    strategy: Reading,

    /// What samples become: raw, or image:HxW for PNG and JPEG in folders, resized to H by W pixels
    #[arg(long, value_name = "HOW", default_value = "raw")]
    decode: Decoding,

    /// Most pixels of an image, width times height, with --decode image:HxW [default: 178956970]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_pixels: Option<u64>,

    /// Threads for the network [default: one for each core, 4 at most]
    #[arg(long, value_name = "N", value_parser = value::at_least_one)]
    io_threads: Option<usize>,

    /// Threads that decode [default: one for each core]
    #[arg(long, value_name = "N", value_parser = value::at_least_one)]
    decode_threads: Option<usize>,

    /// Most bytes of samples to hold, decoded ones included, such as 512MiB, 2GB or 1073741824 [default: 1GiB, or a
    /// quarter of the memory that this process may use, if that is less]
    #[arg(long, value_name = "BYTES", value_parser = value::bytes)]
    memory_budget: Option<u64>,

    /// Milliseconds to sleep on each batch, as a training step would take
    #[arg(long, value_name = "MS", default_value_t = 0)]
    step_ms: u64,

    /// Stop with the batch that brings the samples of all epochs to this many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    /// Go by the prices in this file, as `dataflux plan --print-prices` prints them, instead of the built-in ones
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,

    /// The most that an epoch may cost in US dollars, over all ranks; ways of reading that cost more are ruled out
    #[arg(long, value_name = "USD")]
    epoch_budget: Option<f64>,

    /// Which of --world-size processes this is, from 0
    #[arg(long, value_name = "R", requires = "world_size")]
    rank: Option<usize>,

    /// Processes that share each epoch; each gets its part of every batch of --batch-size times this
    #[arg(long, value_name = "W", requires = "rank", value_parser = value::at_least_one)]
    world_size: Option<usize>,

    /// What to do about samples that can't be had: fail, skip:N or substitute:N, where no more than N of an epoch are lost
    #[arg(long, value_name = "HOW", default_value = "fail", value_parser = value::on_error)]
    on_error: OnError,

    /// Write to this file which samples each batch has, for `dataflux replay`; what is there is added to
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,

    /// Keep samples in this folder on local disk, and read from it what is there: DIR or DIR:BYTES, such as /mnt/cache:1TiB, for
    /// the most bytes it may take [default: 16GiB]
    #[arg(long, value_name = "DIR[:BYTES]", value_parser = value::folder_and_bytes)]
    cache: Option<(PathBuf, Option<u64>)>,

    #[command(flatten)]
    filter: FilterArgs,

    #[command(flatten)]
    access: AccessArgs,
}

/// Bytes of a cache unless told otherwise: some hundred thousand images, and less than most disks have free.
const CACHE: u64 = 16 << 30;

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Reading {
    /// By measurement: whichever is faster, and the cheaper where the loop has all it wants
    #[default]
    Auto,
    /// One read an object
    Direct,
    /// Join up to 32 objects in the bucket, read the result, delete it
    Compose,
}

impl From<Reading> for Strategy {
    fn from(reading: Reading) -> Self {
        match reading {
            Reading::Auto => Self::Auto,
            Reading::Direct => Self::Direct,
            Reading::Compose => Self::compose(),
        }
    }
}

#[derive(Serialize)]
struct Report {
    samples: u64,
    bytes: u64,
    seconds: f64,
    epoch_seconds: Vec<f64>,
    samples_per_second: f64,
    bytes_per_second: f64,
    first_batch_seconds: f64,
    wait_fraction: f64,
    waited_for: BTreeMap<&'static str, f64>,
    cpu_seconds: f64,
    peak_rss_bytes: Option<u64>,
    order_digest: String,
    verified: u64,
    skipped: u64,
    substituted: u64,
    retries: u64,
    groups: Groups,
    choice: Option<String>,
    ops: Ops,
    cost_usd: f64,
    bill: Bill,
    cache: Option<Kept>,
    leftover_temporaries: u64,
}

#[derive(Clone, Copy, Default, Serialize)]
struct Kept {
    hits: u64,
    misses: u64,
    bytes_read: u64,
    bytes_written: u64,
}

impl std::ops::AddAssign<CacheStats> for Kept {
    fn add_assign(&mut self, of_epoch: CacheStats) {
        self.hits += of_epoch.hits;
        self.misses += of_epoch.misses;
        self.bytes_read += of_epoch.bytes_read;
        self.bytes_written += of_epoch.bytes_written;
    }
}

#[derive(Serialize)]
struct Ops {
    list: u64,
    get: u64,
    compose: u64,
    delete: u64,
    put: u64,
}

/// How long the end waits for temporary objects that are still being deleted.
const AT_END: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    if let (Some(rank), Some(world_size)) = (args.rank, args.world_size)
        && rank >= world_size
    {
        let message = format!("--rank {rank} must be below --world-size {world_size}: ranks count from 0");
        return Err(Usage(message).into());
    }
    let prices = args.prices.as_ref().map(PriceTable::load).transpose()?;
    dataflux::clean_up_on_signals()?;
    tracing::info!(prefix = %args.uri, "listing");
    let client = args.access.writer()?;
    let dataset = source::open(&client, &args.uri, args.manifest.as_deref(), &args.filter)?;
    match args.decode {
        Decoding::Raw => measure(args, &client, prices, dataset.decode(Raw), json),
        Decoding::Image { height, width } => {
            let folder = ImageFolder::new().resize(height, width);
            let folder = args.max_pixels.into_iter().fold(folder, ImageFolder::max_pixels);
            measure(args, &client, prices, dataset.decode(folder), json)
        }
    }
}

fn loader<D: Decode>(
    args: &Args,
    prices: Option<PriceTable>,
    dataset: DatafluxDataset<D>,
) -> dataflux::Result<DataLoader<D>> {
    let mut builder =
        DataLoader::builder(dataset).batch_size(args.batch_size).strategy(args.strategy.into()).on_error(args.on_error);
    if let Some(seed) = args.shuffle {
        builder = builder.shuffle(seed);
    }
    if let Some(threads) = args.io_threads {
        builder = builder.io_threads(threads);
    }
    if let Some(threads) = args.decode_threads {
        builder = builder.decode_threads(threads);
    }
    if let Some(bytes) = args.memory_budget {
        builder = builder.memory_budget(bytes);
    }
    if let (Some(rank), Some(world_size)) = (args.rank, args.world_size) {
        builder = builder.shard(rank, world_size);
    }
    if let Some(prices) = prices {
        builder = builder.prices(prices);
    }
    if let Some(dollars) = args.epoch_budget {
        builder = builder.epoch_budget_usd(dollars);
    }
    if let Some(log) = &args.audit {
        builder = builder.audit(log);
    }
    if let Some((folder, bytes)) = &args.cache {
        builder = builder.cache(Cache::open(folder, bytes.unwrap_or(CACHE))?);
    }
    builder.build()
}

fn measure<D: Decode>(
    args: &Args,
    client: &Client,
    prices: Option<PriceTable>,
    dataset: DatafluxDataset<D>,
    json: bool,
) -> Result<()> {
    let loader = loader(args, prices, dataset)?;
    let started = Instant::now();
    let epochs = Epochs::run(args, &loader)?;
    let left = dataflux::wait_for_temporaries(AT_END).objects;
    let seconds = started.elapsed().as_secs_f64();
    let (counts, bill) = (client.metrics().snapshot(), loader.bill());
    let report = Report {
        samples: epochs.samples,
        bytes: epochs.bytes,
        seconds,
        samples_per_second: per_second(epochs.samples, seconds),
        bytes_per_second: per_second(epochs.bytes, seconds),
        first_batch_seconds: epochs.waits.first_batch().as_secs_f64(),
        wait_fraction: epochs.waits.fraction(),
        waited_for: epochs.waited_for.into_iter().map(|(stage, time)| (stage, time.as_secs_f64())).collect(),
        epoch_seconds: epochs.seconds,
        cpu_seconds: cpu_seconds()?,
        peak_rss_bytes: peak_rss_bytes(),
        order_digest: epochs.digest.finish(),
        verified: epochs.verified,
        skipped: epochs.skipped,
        substituted: epochs.substituted,
        retries: counts.retries,
        groups: epochs.groups,
        choice: loader.choice().map(|choice| choice.to_string()),
        ops: Ops {
            list: counts.list,
            get: counts.get,
            compose: counts.compose,
            delete: counts.delete,
            put: counts.put,
        },
        cost_usd: bill.total(),
        bill,
        cache: args.cache.as_ref().map(|_| epochs.kept),
        // Last, so that this look is no part of what is measured.
        leftover_temporaries: leftover(client, &args.uri, left.len() as u64)?,
    };
    if json { output::json(&report) } else { output::table(&report.rows()) }
}

/// What the epochs came to together.
#[derive(Default)]
struct Epochs {
    samples: u64,
    bytes: u64,
    verified: u64,
    skipped: u64,
    substituted: u64,
    waits: Waits,
    waited_for: BTreeMap<&'static str, Duration>,
    groups: Groups,
    /// Of each epoch.
    seconds: Vec<f64>,
    digest: NamesDigest,
    kept: Kept,
}

impl Epochs {
    fn run<D: Decode, C: Collate<D::Item>>(args: &Args, loader: &DataLoader<D, C>) -> Result<Self> {
        let per_epoch = loader.dataset().len() / args.world_size.unwrap_or(1) as u64;
        let total = per_epoch.saturating_mul(args.epochs).min(args.limit.unwrap_or(u64::MAX));
        let bar = progress::samples("epochs", total);
        let step = Duration::from_millis(args.step_ms);
        let mut all = Self::default();
        let mut epochs = loader.epochs(0..args.epochs)?;
        let mut started = Instant::now();
        while let Some(batches) = all.waits.during(|| epochs.next()) {
            let mut batches = batches?;
            let before = all.samples;
            while let Some(batch) = all.waits.during(|| batches.next()) {
                let batch = batch?;
                all.waits.batch();
                batch.names().for_each(|name| all.digest.push(name));
                all.samples += batch.len() as u64;
                bar.set_position(all.samples);
                drop(batch);
                std::thread::sleep(step);
                if args.limit.is_some_and(|limit| all.samples >= limit) {
                    break;
                }
            }
            let stats = batches.stats();
            debug_assert_eq!(stats.samples, all.samples - before, "what is counted here and there is the same");
            all.add(&stats);
            drop(batches);
            let ended = Instant::now();
            all.seconds.push((ended - started).as_secs_f64());
            started = ended;
            if args.limit.is_some_and(|limit| all.samples >= limit) {
                break;
            }
        }
        Ok(all)
    }

    fn add(&mut self, stats: &EpochStats) {
        self.bytes += stats.bytes;
        self.verified += stats.verified;
        self.skipped += stats.skipped;
        self.substituted += stats.substituted;
        self.kept += stats.cache;
        self.groups += stats.groups;
        for (stage, time) in stats.waited_for.by_stage() {
            *self.waited_for.entry(stage).or_default() += time;
        }
    }
}

/// What the loop waits for batches, from one epoch to the next too.
struct Waits {
    started: Instant,
    /// When the first batch came, and the last.
    first: Option<Instant>,
    last: Option<Instant>,
    /// Between these.
    waited: Duration,
    /// Since the last batch.
    waiting: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self { started: Instant::now(), first: None, last: None, waited: Duration::ZERO, waiting: Duration::ZERO }
    }
}

impl Waits {
    fn during<T>(&mut self, wait: impl FnOnce() -> T) -> T {
        let asked = Instant::now();
        let got = wait();
        self.waiting += asked.elapsed();
        got
    }

    /// A batch has come.
    fn batch(&mut self) {
        let (now, waiting) = (Instant::now(), std::mem::take(&mut self.waiting));
        if self.first.is_some() {
            self.waited += waiting;
        }
        self.first.get_or_insert(now);
        self.last = Some(now);
    }

    fn first_batch(&self) -> Duration {
        self.first.map(|first| first - self.started).unwrap_or_default()
    }

    fn fraction(&self) -> f64 {
        let running = self.last.zip(self.first).map(|(last, first)| last - first).unwrap_or_default();
        if running.is_zero() { 0.0 } else { self.waited.as_secs_f64() / running.as_secs_f64() }
    }
}

/// Temporary objects of this process that are in the bucket; what the library knows where they can't be listed.
fn leftover(client: &Client, prefix: &Prefix, known: u64) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let counted = runtime.block_on(compose::count_own_temporaries(client, &prefix.bucket));
    Ok(counted.unwrap_or_else(|error| {
        tracing::warn!(%error, "what is left of temporary objects could not be listed");
        known
    }))
}

fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// Those of a millisecond and more, longest first.
fn waits(waited_for: &BTreeMap<&'static str, f64>) -> String {
    let mut waits: Vec<_> = waited_for.iter().filter(|(_, seconds)| **seconds >= 0.001).collect();
    waits.sort_by(|a, b| b.1.total_cmp(a.1));
    let waits: Vec<_> = waits.iter().map(|(stage, seconds)| format!("{seconds:.3} s for {stage}")).collect();
    if waits.is_empty() { "none".to_owned() } else { waits.join(", ") }
}

/// User and system time of this process, threads that ended included.
fn cpu_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}

/// The most memory this process had resident. Not `ru_maxrss`, which begins with that of the process it was forked
/// from.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
}

impl Report {
    fn rows(&self) -> Vec<(&'static str, String)> {
        let Ops { list, get, compose, delete, put } = self.ops;
        let mut rows = vec![
            (
                "samples",
                format!("{} ({:.0}/s), {} of them verified", self.samples, self.samples_per_second, self.verified),
            ),
            ("lost", format!("{} skipped, {} substituted", self.skipped, self.substituted)),
            (
                "bytes",
                format!("{} ({}/s)", output::bytes(self.bytes), indicatif::HumanBytes(self.bytes_per_second as u64)),
            ),
            ("seconds", format!("{:.3}, {:.3} to the first batch", self.seconds, self.first_batch_seconds)),
            (
                "waited for data",
                format!("{:.1}% of the time from the first batch to the last", 100.0 * self.wait_fraction),
            ),
            ("waits in all", waits(&self.waited_for)),
            ("cpu seconds", format!("{:.3}", self.cpu_seconds)),
            ("peak memory", self.peak_rss_bytes.map_or_else(|| "unknown".to_owned(), output::bytes)),
            (
                "groups",
                format!(
                    "{} objects by themselves, {} in ranges, {} joined groups",
                    self.groups.direct, self.groups.ranged, self.groups.composed
                ),
            ),
            ("way of small objects", self.choice.clone().unwrap_or_else(|| "as was asked for".to_owned())),
            (
                "calls",
                format!(
                    "{list} list, {get} get, {compose} compose, {delete} delete, {put} put; {} retries",
                    self.retries
                ),
            ),
            ("cost", self.bill.to_string()),
            ("leftover temporaries", self.leftover_temporaries.to_string()),
            ("order digest", self.order_digest.clone()),
        ];
        if let Some(Kept { hits, misses, bytes_read, bytes_written }) = self.cache {
            let (read, written) = (output::bytes(bytes_read), output::bytes(bytes_written));
            rows.push(("cache", format!("{hits} samples from it ({read}), {misses} not; {written} written")));
        }
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_taken_time_and_memory() {
        assert!(cpu_seconds().unwrap() >= 0.0);
        if cfg!(target_os = "linux") {
            assert!(peak_rss_bytes().unwrap() > 1 << 20);
        }
    }
}
