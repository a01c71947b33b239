//! The arguments of `bench`.

use std::path::PathBuf;

use dataflux::list::Prefix;
use dataflux::{OnError, Strategy};

use crate::access::AccessArgs;
use crate::filter::FilterArgs;
use crate::value;
use crate::value::Decoding;

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
    /// The prefix of the samples' names, as gs://BUCKET/PREFIX or file:///PREFIX; it need not be a whole folder
    pub(super) uri: Prefix,

    /// Load the samples from this manifest, saved by `dataflux ls --save`, instead of listing
    #[arg(long, value_name = "FILE", conflicts_with_all = FilterArgs::OPTIONS)]
    pub(super) manifest: Option<PathBuf>,

    /// Number of samples in a batch
    #[arg(long, value_name = "N", default_value = "256", value_parser = value::at_least_one)]
    pub(super) batch_size: usize,

    /// Number of epochs to run
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) epochs: u64,

    /// Shuffle each epoch with this seed; without it samples are in order of names
    #[arg(long, value_name = "SEED")]
    pub(super) shuffle: Option<u64>,

    /// How small objects are read
    #[arg(long, value_enum, default_value_t)]
    pub(super) strategy: StrategyName,

    /// How samples are decoded: raw, or image:HxW for images in folders, resized to H by W pixels
    #[arg(long, value_name = "HOW", default_value = "raw")]
    pub(super) decode: Decoding,

    /// Maximum number of pixels of an image, width times height, with --decode image:HxW [default: 178956970]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) max_pixels: Option<u64>,

    /// Number of network threads [default: one for each core, at most 4]
    #[arg(long, value_name = "N", value_parser = value::at_least_one)]
    pub(super) io_threads: Option<usize>,

    /// Number of decode threads [default: one for each core]
    #[arg(long, value_name = "N", value_parser = value::at_least_one)]
    pub(super) decode_threads: Option<usize>,

    /// Maximum number of bytes of samples to hold, decoded ones included, such as 512MiB, 2GB or 1073741824 [default:
    /// 1GiB, or a quarter of the memory that this process may use, if that is less]
    #[arg(long, value_name = "BYTES", value_parser = value::bytes)]
    pub(super) memory_budget: Option<u64>,

    /// Milliseconds to sleep on each batch, as a training step would take
    #[arg(long, value_name = "MS", default_value_t = 0)]
    pub(super) step_ms: u64,

    /// Stop after the batch with which all epochs together have delivered this many samples
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: Option<u64>,

    /// Use the prices in this file, in the format of `dataflux plan --print-prices`, instead of the built-in ones
    #[arg(long, value_name = "FILE")]
    pub(super) prices: Option<PathBuf>,

    /// Maximum cost of an epoch in US dollars, over all ranks; strategies that cost more are ruled out
    #[arg(long, value_name = "USD")]
    pub(super) epoch_budget: Option<f64>,

    /// The number of this process among --world-size processes, from 0
    #[arg(long, value_name = "R", requires = "world_size")]
    pub(super) rank: Option<usize>,

    /// Number of processes that share each epoch; each gets its part of every batch of --batch-size times this number
    #[arg(long, value_name = "W", requires = "rank", value_parser = value::at_least_one)]
    pub(super) world_size: Option<usize>,

    /// What to do about lost samples: fail, skip:N or substitute:N, with at most N lost samples in an epoch
    #[arg(long, value_name = "HOW", default_value = "fail", value_parser = value::on_error)]
    pub(super) on_error: OnError,

    /// Record the samples of each batch in this file, for `dataflux replay`; an existing file is appended to
    #[arg(long, value_name = "FILE")]
    pub(super) audit: Option<PathBuf>,

    /// Cache samples in this folder on local disk: DIR or DIR:BYTES, such as /mnt/cache:1TiB, with the maximum number
    /// of bytes it may take [default: 16GiB]
    #[arg(long, value_name = "DIR[:BYTES]", value_parser = value::folder_and_bytes)]
    pub(super) cache: Option<(PathBuf, Option<u64>)>,

    #[command(flatten)]
    pub(super) filter: FilterArgs,

    #[command(flatten)]
    pub(super) access: AccessArgs,
}

/// Default size of a cache in bytes: enough for some hundred thousand images, and less than most disks have free.
pub(super) const DEFAULT_CACHE_BYTES: u64 = 16 << 30;

#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
pub(super) enum StrategyName {
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
