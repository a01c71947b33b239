//! The choice of a read mode, shared by the epochs of a loader: a [`ReadModeChooser`] with a lock, a clock, and a wait
//! for admission.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::chooser::{Admission, ReadModeChooser, ReadOutcome};
use super::estimates::{ChooserConfig, GroupSize, NeighbourEpochs, ServiceState};
use super::read_mode::Choice;
use crate::lock::lock;

/// How often a waiting group asks again. The end of a read wakes it, but nothing reports that fewer calls wait in the
/// gates.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// A [`ReadModeChooser`] that several threads use.
#[derive(Debug)]
pub(crate) struct SharedChooser {
    chooser: Mutex<ReadModeChooser>,
    has_changed: Condvar,
    created: Instant,
}

impl SharedChooser {
    pub(crate) fn new(config: ChooserConfig) -> Arc<Self> {
        let chooser = Mutex::new(ReadModeChooser::new(config));
        Arc::new(Self { chooser, has_changed: Condvar::new(), created: Instant::now() })
    }

    pub(crate) fn choice(&self) -> Choice {
        lock(&self.chooser).choice()
    }

    pub(crate) fn start_epoch(&self, neighbours: NeighbourEpochs) {
        lock(&self.chooser).start_epoch(neighbours);
    }

    pub(crate) fn record_wait(&self, time: Duration) {
        lock(&self.chooser).record_wait(time);
    }

    /// Waits until a group may be read, behind which `left` samples of the epoch are to come. `None` once the epoch is
    /// cancelled. Blocks.
    pub(crate) fn admit(
        &self,
        group: GroupSize,
        left: u64,
        service: impl Fn() -> ServiceState,
        is_cancelled: impl Fn() -> bool,
    ) -> Option<Admission> {
        let mut chooser = lock(&self.chooser);
        while !is_cancelled() {
            if let Some(admission) = chooser.admit(self.created.elapsed(), group, left, &service()) {
                return Some(admission);
            }
            let wait = self.has_changed.wait_timeout(chooser, POLL_INTERVAL);
            chooser = wait.unwrap_or_else(PoisonError::into_inner).0;
        }
        None
    }

    /// Tracks one read of an admitted group: the only one of a composed group, or that of one sample of another.
    pub(crate) fn track(self: &Arc<Self>, admission: Admission) -> InFlightRead {
        InFlightRead { chooser: Arc::clone(self), admission, began: None, samples: None }
    }
}

/// An admitted read. It is under way until this is dropped, however the read ends.
#[derive(Debug)]
pub(crate) struct InFlightRead {
    chooser: Arc<SharedChooser>,
    admission: Admission,
    began: Option<Instant>,
    samples: Option<u64>,
}

impl InFlightRead {
    /// Records that the read begins to wait for its call.
    pub(crate) fn begin(&mut self) {
        self.began = Some(Instant::now());
        lock(&self.chooser.chooser).begin_read(self.admission);
        self.chooser.has_changed.notify_all();
    }

    /// Ends a read whose compose, or the read of its object, failed. `was_sent` says whether the compose was sent. The
    /// reads that replace the group are not tracked.
    pub(crate) fn record_failed_compose(self, was_sent: bool) {
        let now = self.chooser.created.elapsed();
        lock(&self.chooser.chooser).record_failed_compose(now, self.admission, was_sent);
    }

    /// Records the success of the read.
    pub(crate) fn succeed(&mut self, samples: usize) {
        self.samples = Some(samples as u64);
    }
}

impl Drop for InFlightRead {
    fn drop(&mut self) {
        let outcome =
            self.began.zip(self.samples).map(|(began, samples)| ReadOutcome { samples, took: began.elapsed() });
        let now = self.chooser.created.elapsed();
        let mut chooser = lock(&self.chooser.chooser);
        if self.began.is_none() {
            chooser.begin_read(self.admission);
        }
        chooser.end_read(now, self.admission, outcome);
        drop(chooser);
        self.chooser.has_changed.notify_all();
    }
}
