//! The epochs of a `bench`, and their measurements.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Result;
use dataflux::manifest::NamesDigest;
use dataflux::plan::Groups;
use dataflux::{CacheStats, DataLoader, Decode, EpochStats};
use serde::Serialize;

use super::args::Args;
use crate::progress;

/// The use of the cache by all epochs.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct CacheTotals {
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) bytes_read: u64,
    pub(super) bytes_written: u64,
}

impl std::ops::AddAssign<CacheStats> for CacheTotals {
    fn add_assign(&mut self, epoch: CacheStats) {
        self.hits += epoch.hits;
        self.misses += epoch.misses;
        self.bytes_read += epoch.bytes_read;
        self.bytes_written += epoch.bytes_written;
    }
}

/// The measurements of all epochs together.
#[derive(Default)]
pub(super) struct Epochs {
    pub(super) samples: u64,
    pub(super) bytes: u64,
    pub(super) verified: u64,
    pub(super) skipped: u64,
    pub(super) substituted: u64,
    pub(super) waits: Waits,
    pub(super) waited_for: BTreeMap<&'static str, Duration>,
    pub(super) groups: Groups,
    /// The time of each epoch.
    pub(super) seconds: Vec<f64>,
    pub(super) digest: NamesDigest,
    pub(super) cache: CacheTotals,
}

impl Epochs {
    /// Runs the epochs.
    pub(super) fn run<D: Decode>(args: &Args, loader: &DataLoader<D>) -> Result<Self> {
        let per_epoch = loader.dataset().len() / args.world_size.unwrap_or(1) as u64;
        let total = per_epoch.saturating_mul(args.epochs).min(args.limit.unwrap_or(u64::MAX));
        let bar = progress::samples("epochs", total);
        let step = Duration::from_millis(args.step_ms);
        let mut all = Self::default();
        let mut epochs = loader.epochs(0..args.epochs)?;
        let mut started = Instant::now();
        while let Some(batches) = all.waits.measure(|| epochs.next()) {
            let mut batches = batches?;
            let before = all.samples;
            while let Some(batch) = all.waits.measure(|| batches.next()) {
                let batch = batch?;
                all.waits.record_batch();
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
            debug_assert_eq!(stats.samples, all.samples - before, "the loader counts the same samples");
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
        self.cache += stats.cache;
        self.groups += stats.groups;
        for (stage, time) in stats.waited_for.by_stage() {
            *self.waited_for.entry(stage).or_default() += time;
        }
    }
}

/// The time that the loop waits for batches, also between epochs.
pub(super) struct Waits {
    started: Instant,
    first_batch: Option<Instant>,
    last_batch: Option<Instant>,
    /// Waits between the first batch and the last.
    waited: Duration,
    /// Waits since the last batch.
    waiting: Duration,
}

impl Default for Waits {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            first_batch: None,
            last_batch: None,
            waited: Duration::ZERO,
            waiting: Duration::ZERO,
        }
    }
}

impl Waits {
    /// Measures a wait for a batch.
    fn measure<T>(&mut self, wait: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let batch = wait();
        self.waiting += started.elapsed();
        batch
    }

    /// Records the arrival of a batch.
    fn record_batch(&mut self) {
        let (now, waiting) = (Instant::now(), std::mem::take(&mut self.waiting));
        if self.first_batch.is_some() {
            self.waited += waiting;
        }
        self.first_batch.get_or_insert(now);
        self.last_batch = Some(now);
    }

    /// Time from the start to the first batch.
    pub(super) fn until_first_batch(&self) -> Duration {
        self.first_batch.map(|first| first - self.started).unwrap_or_default()
    }

    /// Fraction of the time from the first batch to the last that was spent waiting.
    pub(super) fn fraction(&self) -> f64 {
        let running = self.last_batch.zip(self.first_batch).map(|(last, first)| last - first).unwrap_or_default();
        if running.is_zero() { 0.0 } else { self.waited.as_secs_f64() / running.as_secs_f64() }
    }
}
