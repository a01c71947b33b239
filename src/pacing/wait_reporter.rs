//! Reports of one training loop's waits to the choice of a read mode and to the gates.

use std::sync::Arc;
use std::time::Duration;

use super::demand::{COMPOSE_ALLOWANCE, DemandHandle, StarvationTracker};
use super::shared_chooser::SharedChooser;

/// Reports the waits of one training loop. It reports during a wait, so that a blocked loop isn't taken for a satisfied
/// one.
pub(crate) struct WaitReporter {
    chooser: Option<Arc<SharedChooser>>,
    /// `None` once the epoch has ended.
    demand: Option<DemandHandle>,
    tracker: StarvationTracker,
    has_batch: bool,
    /// Allowance of the tracker that replaces the first one when the first batch arrives.
    allowance_after_first: Duration,
    /// The part of the current wait that has already been reported.
    reported: Duration,
}

impl WaitReporter {
    /// `expects_composes` says that nothing is ahead of the loop at the start, and that some of its first batches may
    /// be composed.
    pub(crate) fn new(chooser: Option<Arc<SharedChooser>>, demand: DemandHandle, expects_composes: bool) -> Self {
        Self {
            chooser,
            demand: Some(demand),
            tracker: StarvationTracker::new(COMPOSE_ALLOWANCE),
            has_batch: false,
            allowance_after_first: if expects_composes { COMPOSE_ALLOWANCE } else { Duration::ZERO },
            reported: Duration::ZERO,
        }
    }

    /// Records another part of a wait that has not ended.
    pub(crate) fn record_wait(&mut self, time: Duration) {
        self.reported += time;
        self.record(time, time);
    }

    /// Records the arrival of a batch. `waited` is the whole wait, including the parts already reported; `since` is the
    /// time since the batch before.
    pub(crate) fn record_batch(&mut self, waited: Duration, since: Duration) {
        let reported = std::mem::take(&mut self.reported);
        self.record(waited.saturating_sub(reported), since.saturating_sub(reported));

        // At the start nothing was ahead, so the wait for the first batch shows nothing.
        if !std::mem::replace(&mut self.has_batch, true) {
            self.tracker = StarvationTracker::new(self.allowance_after_first);
            self.record(Duration::ZERO, Duration::ZERO);
        }
    }

    /// Ends the reports: the loop wants no more of this epoch.
    pub(crate) fn end(&mut self) {
        self.demand = None;
    }

    fn record(&mut self, waited: Duration, since: Duration) {
        if let Some(chooser) = &self.chooser {
            chooser.record_wait(waited);
        }
        self.tracker.record_wait(waited, since);
        if let Some(demand) = &mut self.demand {
            demand.set_starved(self.tracker.is_starved());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pacing::{BucketGates, CallCaps};

    const STEP: Duration = Duration::from_millis(64);

    /// A wait of 278 s was reported only when it was over, so the loop counted as satisfied meanwhile.
    #[test]
    fn a_wait_counts_while_it_lasts() {
        let gates = BucketGates::new(CallCaps::default());
        let mut report = WaitReporter::new(None, gates.add_loop(), false);
        let wait = |report: &mut WaitReporter, steps| (0..steps).for_each(|_| report.record_wait(STEP));
        wait(&mut report, 10);
        assert!(!gates.wants_more(), "the first batch may take a while");
        wait(&mut report, 20);
        assert!(gates.wants_more(), "but not for ever");
        report.record_batch(30 * STEP, 30 * STEP);
        assert!(!gates.wants_more(), "at the start nothing was ahead");
        wait(&mut report, 6);
        assert!(gates.wants_more());
        report.end();
        assert!(gates.wants_more(), "there is no loop");
    }
}
