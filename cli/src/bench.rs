//! `dataflux bench`: runs epochs over a data set and measures them.

mod epochs;
mod report;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Result;
use dataflux::list::Prefix;
use dataflux::plan::PriceTable;
use dataflux::store::Client;
use dataflux::{Cache, DataLoader, DatafluxDataset, Decode, ImageFolder, OnError, Raw, Strategy, compose};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::access::AccessArgs;
use crate::failure;
use crate::filter::FilterArgs;
use crate::value::Decoding;
use crate::{output, source, value};

use epochs::Epochs;
use report::{Report, Usage};

/// Run epochs over a data set as a training loop would, and measure them
///
/// Lists the prefix, then reads, proves and decodes every sample. `order_digest` is a hash of the delivered names in
/// order. It doesn't depend on the threads and the strategy. For one epoch without --shuffle it equals the digest of
/// `ls --summary` if that finds nothing but samples.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dataflux bench gs://bucket/train/
  dataflux bench gs://bucket/train/ --shuffle 42 --decode image:224x224 --step-ms 100
  dataflux bench gs://bucket/train/ --strategy direct --limit 10000 --json

Measurements:
  seconds               time of the epochs, without the listing, until no temporary object is left
  epoch_seconds         time of each epoch, clean-up included; the first epoch learns how to read, and each later one
                        begins to be read while the one before it is still being delivered
  first_batch_seconds   from the start of the first epoch to its first batch
  wait_fraction         fraction of the time from the first batch to the last that was spent waiting for data; best is 0
  waited_for            seconds of all waits, including that for the first batch, by what the batch was waiting for
  cpu_seconds           user and system time of this process, the listing included
  peak_rss_bytes        maximum resident memory; unknown on systems without /proc
  skipped, substituted  samples that were lost, with --on-error
  verified              samples whose bytes were proved by the listed CRC
  groups                reads that were started: of single objects, of large ones in ranges, of many composed ones
  choice                how auto reads small objects at the end, and why
  ops, retries          attempts sent to the service, the listing and retries included
  cost_usd              their cost by the price table, without traffic that leaves the location
  bill                  parts of the cost: calls of class A and B, retrieval, temporary objects and their replication
  cache                 with --cache: samples read from the cache and from the bucket, bytes read and written
  leftover_temporaries  temporary objects of this run that are in the bucket at the end

SIGINT and SIGTERM delete the temporary objects and end the program with exit code 130 or 143.")]
pub(crate) struct Args {
    /// The prefix of the samples' names, as gs://BUCKET or gs://BUCKET/PREFIX; it need not be a whole folder
    uri: Prefix,

    /// Load the samples from this manifest, saved by `dataflux ls --save`, instead of listing
    #[arg(long, value_name = "FILE", conflicts_with_all = FilterArgs::OPTIONS)]
    manifest: Option<PathBuf>,

    /// Number of samples in a batch
    #[arg(long, value_name = "N", default_value = "256", value_parser = value::at_least_one)]
    batch_size: usize,

    /// Number of epochs to run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    epochs: u64,

    /// Shuffle each epoch with this seed; without it samples are in order of names
    #[arg(long, value_name = "SEED")]
    shuffle: Option<u64>,

    /// How small objects are read
    #[arg(long, value_enum, default_value_t)]
    strategy: StrategyName,

    /// How samples are decoded: raw, or image:HxW for PNG and JPEG in folders, resized to H by W pixels
    #[arg(long, value_name = "HOW", default_value = "raw")]
    decode: Decoding,

    /// Maximum number of pixels of an image, width times height, with --decode image:HxW [default: 178956970]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_pixels: Option<u64>,

    /// Number of network threads [default: one for each core, at most 4]
    #[arg(long, value_name = "N", value_parser = value::at_least_one)]
    io_threads: Option<usize>,

    /// Number of decode threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = value::at_least_one)]
    decode_threads: Option<usize>,

    /// Maximum number of bytes of samples to hold, decoded ones included, such as 512MiB, 2GB or 1073741824 [default:
    /// 1GiB, or a quarter of the memory that this process may use, if that is less]
    #[arg(long, value_name = "BYTES", value_parser = value::bytes)]
    memory_budget: Option<u64>,

    /// Milliseconds to sleep on each batch, as a training step would take
    #[arg(long, value_name = "MS", default_value_t = 0)]
    step_ms: u64,

    /// Stop after the batch with which all epochs together have delivered this many samples
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,

    /// Use the prices in this file, in the format of `dataflux plan --print-prices`, instead of the built-in ones
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,

    /// Maximum cost of an epoch in US dollars, over all ranks; strategies that cost more are ruled out
    #[arg(long, value_name = "USD")]
    epoch_budget: Option<f64>,

    /// The number of this process among --world-size processes, from 0
    #[arg(long, value_name = "R", requires = "world_size")]
    rank: Option<usize>,

    /// Number of processes that share each epoch; each gets its part of every batch of --batch-size times this number
    #[arg(long, value_name = "W", requires = "rank", value_parser = value::at_least_one)]
    world_size: Option<usize>,

    /// What to do about lost samples: fail, skip:N or substitute:N, with at most N lost samples in an epoch
    #[arg(long, value_name = "HOW", default_value = "fail", value_parser = value::on_error)]
    on_error: OnError,

    /// Record the samples of each batch in this file, for `dataflux replay`; an existing file is appended to
    #[arg(long, value_name = "FILE")]
    audit: Option<PathBuf>,

    /// Cache samples in this folder on local disk: DIR or DIR:BYTES, such as /mnt/cache:1TiB, with the maximum number
    /// of bytes it may take [default: 16GiB]
    #[arg(long, value_name = "DIR[:BYTES]", value_parser = value::folder_and_bytes)]
    cache: Option<(PathBuf, Option<u64>)>,

    #[command(flatten)]
    filter: FilterArgs,

    #[command(flatten)]
    access: AccessArgs,
}

/// Default size of a cache in bytes: enough for some hundred thousand images, and less than most disks have free.
const DEFAULT_CACHE_BYTES: u64 = 16 << 30;

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum StrategyName {
    /// The faster method by measurement, or the cheaper one if the training loop needn't wait
    #[default]
    Auto,
    /// One read for each object
    Direct,
    /// Compose up to 32 objects in the bucket, read the result, delete it
    Compose,
}

impl From<StrategyName> for Strategy {
    fn from(name: StrategyName) -> Self {
        match name {
            StrategyName::Auto => Self::Auto,
            StrategyName::Direct => Self::Direct,
            StrategyName::Compose => Self::compose(),
        }
    }
}

/// How long the end waits for temporary objects that are still being deleted.
const DELETION_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    if let (Some(rank), Some(world_size)) = (args.rank, args.world_size)
        && rank >= world_size
    {
        let message = format!("--rank {rank} must be below --world-size {world_size}: ranks count from 0");
        return Err(failure::Usage(message).into());
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
        builder = builder.cache(Cache::open(folder, bytes.unwrap_or(DEFAULT_CACHE_BYTES))?);
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
    let undeleted = dataflux::wait_for_temporaries(DELETION_TIMEOUT).objects;
    let seconds = started.elapsed().as_secs_f64();
    let usage = Usage { seconds, cpu_seconds: cpu_seconds()?, peak_rss_bytes: peak_rss_bytes() };
    let counts = client.metrics().snapshot();
    let mut report = Report::new(epochs, usage, counts, loader.bill());
    report.choice = loader.choice().map(|choice| choice.to_string());
    if args.cache.is_none() {
        report.cache = None;
    }
    // Counted last, so that the look-up is not part of the measurements.
    report.leftover_temporaries = leftover_temporaries(client, &args.uri, undeleted.len() as u64)?;
    if json { output::json(&report) } else { output::table(&report.rows()) }
}

/// Number of temporary objects of this process in the bucket, or `known` if they can't be listed.
fn leftover_temporaries(client: &Client, prefix: &Prefix, known: u64) -> Result<u64> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let counted = runtime.block_on(compose::count_own_temporaries(client, &prefix.bucket));
    Ok(counted.unwrap_or_else(|error| {
        tracing::warn!(%error, "the remaining temporary objects could not be listed");
        known
    }))
}

/// User and system time of this process, including threads that have ended.
fn cpu_seconds() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6)
}

/// Maximum resident memory of this process. Unlike `ru_maxrss`, it doesn't include that of the process it was forked
/// from.
fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1_024)
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
