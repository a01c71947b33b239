//! How far a listing is.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::Prefix;

/// How long a listing takes before its progress is logged for the first time; shorter listings aren't worth a line.
const FIRST_REPORT: Duration = Duration::from_secs(10);

/// Counts of a running listing. All only grow, except [`in_flight`](Self::in_flight).
#[derive(Debug, Default)]
pub struct Progress {
    objects: AtomicU64,
    calls: AtomicU64,
    in_flight: AtomicUsize,
}

impl Progress {
    /// Objects listed.
    pub fn objects(&self) -> u64 {
        self.objects.load(Ordering::Relaxed)
    }

    /// Calls answered.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Calls in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn add_objects(&self, objects: u64) {
        self.objects.fetch_add(objects, Ordering::Relaxed);
    }

    /// Raises the number of objects to `objects`, where it is lower.
    pub(super) fn raise_objects(&self, objects: u64) {
        self.objects.fetch_max(objects, Ordering::Relaxed);
    }

    pub(super) fn count_call(&self) {
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn set_in_flight(&self, calls: usize) {
        self.in_flight.store(calls, Ordering::Relaxed);
    }
}

/// Logs the progress of a long listing: after ten seconds, and each time that it has taken twice as long.
#[derive(Debug)]
pub(super) struct ProgressLog {
    started: Instant,
    due: Duration,
}

impl ProgressLog {
    pub(super) fn new(started: Instant) -> Self {
        Self { started, due: FIRST_REPORT }
    }

    pub(super) fn update(&mut self, prefix: &Prefix, progress: &Progress) {
        let elapsed = self.started.elapsed();
        if elapsed < self.due {
            return;
        }
        while self.due <= elapsed {
            self.due *= 2;
        }
        // Programs can show this target alone.
        tracing::info!(
            target: "dataflux::progress",
            "listing {prefix}: {} objects by {} calls after {elapsed:.0?}", progress.objects(), progress.calls()
        );
    }
}
