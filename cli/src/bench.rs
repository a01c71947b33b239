//! `dataflux bench`: runs epochs over a data set and measures them.

mod args;
mod epochs;
mod report;

use std::time::{Duration, Instant};

use anyhow::Result;
use dataflux::list::Prefix;
use dataflux::plan::PriceTable;
use dataflux::store::Client;
use dataflux::{Cache, Cost, DataLoader, DatafluxDataset, Decode, ImageFolder, Raw, compose};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

use crate::failure;
use crate::value::Decoding;
use crate::{output, source};

pub(crate) use args::Args;
use args::DEFAULT_CACHE_BYTES;
use epochs::Epochs;
use report::{Report, Usage};

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
    let client = args.access.writer(&args.uri)?;
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
    let cost = prices.into_iter().fold(Cost::default(), Cost::prices);
    builder = builder.cost(args.epoch_budget.into_iter().fold(cost, Cost::epoch_budget_usd));
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
