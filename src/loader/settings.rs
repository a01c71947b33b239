//! Settings of a loader, and what can be checked or derived from them alone.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::dataset::DatasetSource;
use super::limits::{Cost, Limits};
use crate::budget::memory_limit;
use crate::cache::Cache;
use crate::engine::OnError;
use crate::manifest::Digest;
use crate::observe::Subscription;
use crate::pacing::MIN_RATE;
use crate::plan::Strategy;
use crate::sample::{LastBatch, Sampler, Sharding, Shuffle, State, WindowShuffle};
use crate::{Error, ErrorKind, Result, Stage};

/// Default memory budget in bytes: enough for composed objects of 100 MB to overlap, and little beside the memory of a
/// training process.
const MEMORY_BUDGET: u64 = 1 << 30;

/// The default memory budget is at most this part of the memory that the process may use: the model and the rest of the
/// program need the others.
const MEMORY_LIMIT_PARTS: u64 = 4;

/// Samples to have ahead by default, where the budget has room for them: what a bucket's 1,000 writes a second can
/// compose in 4 s, since a slow compose takes nearly 3 s. A sample that is held costs some 200 bytes beside its own.
const SAMPLES_AHEAD: usize = 65_536;

/// The same of files of this machine: what 16 jobs of 64 files read, twice. Files come at once, and more ahead is
/// memory that is written and read while it is in no cache of the processor.
const LOCAL_SAMPLES_AHEAD: usize = 2_048;

/// Most batches ahead, whatever is set: the channel for them is allocated at once.
const MAX_BATCHES_AHEAD: usize = 65_536;

/// What a program sets; `None` stands for the default.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) batch_size: Option<usize>,
    pub(crate) global_batch_size: Option<usize>,
    pub(crate) shuffle: Option<Shuffle>,
    pub(crate) windows: Option<WindowShuffle>,
    pub(crate) sampler: Option<Box<dyn Sampler>>,
    pub(crate) drop_last: Option<bool>,
    pub(crate) pad_last: Option<bool>,
    /// Rank and world size, or why a launcher did not set them.
    pub(crate) shard: Option<Result<(usize, usize), String>>,
    pub(crate) memory_budget: Option<u64>,
    pub(crate) strategy: Strategy,
    pub(crate) io_threads: Option<usize>,
    pub(crate) decode_threads: Option<usize>,
    pub(crate) prefetch: Option<usize>,
    pub(crate) stall_report: Option<Duration>,
    pub(crate) unordered: bool,
    pub(crate) limits: Limits,
    pub(crate) cost: Cost,
    pub(crate) on_error: OnError,
    pub(crate) audit: Option<PathBuf>,
    pub(crate) observers: Vec<Subscription>,
    pub(crate) cache: Option<Cache>,
    /// The digest that the manifest must have.
    pub(crate) manifest_digest: Option<String>,
    pub(crate) resume: Option<ResumeFrom>,
}

/// The states of an earlier run that a loader resumes from.
#[derive(Debug)]
pub(crate) struct ResumeFrom {
    pub(crate) states: Vec<State>,
    /// Whether there is a state of each rank.
    pub(crate) are_all: bool,
}

impl Settings {
    /// The one sampler that was set, if one was.
    ///
    /// # Errors
    /// Several samplers were set; the window of a shuffle is empty.
    pub(crate) fn take_sampler(&mut self) -> Result<Option<Box<dyn Sampler>>> {
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

    pub(crate) fn sharding(&self) -> Result<Sharding> {
        let (rank, world_size) = self.shard.clone().unwrap_or(Ok((0, 1))).map_err(|reason| {
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

    /// Checks that the data are those that were expected. Without an expectation, warns of ranks that may have
    /// different data.
    pub(crate) fn check_digest(&self, source: &DatasetSource, sharding: &Sharding) -> Result<()> {
        let manifest = &source.manifest;
        let Some(expected) = &self.manifest_digest else {
            let may_differ = sharding.world_size() > 1 && manifest.is_listed();
            if may_differ && !source.notices.ranks.swap(true, Ordering::Relaxed) {
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
        let digest = manifest.digest();
        let (reason, cause) = match Digest::parse(expected).map(|expected| expected.difference(&digest)) {
            Some(None) => return Ok(()),
            Some(Some(difference)) => (difference.to_string(), difference.cause()),
            None => ("no digest was given".to_owned(), "a digest has 64 digits in hex"),
        };
        Err(Error::new(ErrorKind::Config, format!("the data are not those that were expected: {reason}"))
            .stage(Stage::Manifest)
            .object(manifest.prefix())
            .mismatch(format_args!("a manifest of digest {expected}"), digest)
            .hint(format!("{cause}: give all ranks one saved manifest")))
    }

    /// Number of batches to have ahead of the training loop, by the setting or by default, which is less for files of
    /// this machine.
    pub(crate) fn batches_ahead(&self, batch_size: u64, is_local: bool) -> usize {
        let samples = if is_local { LOCAL_SAMPLES_AHEAD } else { SAMPLES_AHEAD };
        let default = || (samples / batch_size as usize).clamp(4, 16_384);
        self.prefetch.unwrap_or_else(default).min(MAX_BATCHES_AHEAD)
    }

    /// Threads that decode, by the setting or by default.
    pub(crate) fn decode_threads(&self) -> usize {
        self.decode_threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(2, usize::from))
    }

    /// The memory budget in bytes, by the setting or by default.
    pub(crate) fn memory_budget(&self) -> u64 {
        self.memory_budget.unwrap_or_else(default_memory_budget)
    }

    /// Checks numbers that no loader can work with.
    ///
    /// # Errors
    /// The first of them, by its name.
    pub(crate) fn check_numbers(&self) -> Result<()> {
        let zero = |what: &str, wanted: &str, got: &str, hint: &str| {
            Err(Error::new(ErrorKind::Config, format!("{what} can't be 0")).mismatch(wanted, got).hint(hint))
        };
        let Limits { caps, ranges, stall_timeout, hedge: _ } = &self.limits;
        let part_size = usize::try_from(ranges.min_part_size).unwrap_or(usize::MAX);
        for (what, value) in [
            ("io_threads", self.io_threads),
            ("decode_threads", self.decode_threads),
            ("prefetch", self.prefetch),
            ("concurrency", caps.at_once),
            ("min_part_size", Some(part_size)),
            ("max_streams", Some(ranges.max_streams)),
        ] {
            if value == Some(0) {
                return zero(what, "at least 1", "0", "leave it out for a value that suits this machine");
            }
        }
        for (what, rate) in [("reads_per_second", caps.reads_per_second), ("writes_per_second", caps.writes_per_second)]
        {
            if rate.is_some_and(|rate| rate.is_nan() || rate < MIN_RATE) {
                return Err(Error::new(ErrorKind::Config, format!("{what} is too little to get on with"))
                    .mismatch(format_args!("at least {MIN_RATE}"), format_args!("{rate:?}"))
                    .hint("leave it out for what the service takes"));
            }
        }
        for (what, duration, wanted, hint) in [
            ("stall_timeout", *stall_timeout, "the longest wait for bytes", "leave it out for 10 s"),
            ("stall_report", self.stall_report, "the longest wait without a log message", "leave it out for 30 s"),
        ] {
            if duration.is_some_and(|duration| duration.is_zero()) {
                return zero(what, wanted, "none at all", hint);
            }
        }
        if self.memory_budget == Some(0) {
            let hint = "give it the bytes that loading may take, such as 1 << 30";
            return zero("memory_budget", "at least 1", "0", hint);
        }
        Ok(())
    }
}

/// The memory budget where none is set.
fn default_memory_budget() -> u64 {
    let Some(limit) = memory_limit() else { return MEMORY_BUDGET };
    let share = (limit.bytes / MEMORY_LIMIT_PARTS).max(1);
    if share < MEMORY_BUDGET {
        tracing::info!(
            memory_budget = share,
            limit = limit.bytes,
            "the memory budget is a quarter of {}; set another by memory_budget",
            limit.source
        );
    }
    share.min(MEMORY_BUDGET)
}
