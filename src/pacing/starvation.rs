//! Whether the training loop is starved. Only then is it worth exceeding the call rate that a bucket is known to take:
//! refused calls are made again about a second later and delay their batches.

use std::sync::Arc;
use std::time::Duration;

use super::DemandHandle;
use super::auto::Auto;

/// A loop that waits for less than `1 / SHARE` of its time is not starved.
const SHARE: u32 = 50;

/// Waiting time above the tolerated share at which a loop counts as starved: more than a few slow reads at the start
/// cause, and soon reached by a loop that does nothing but wait.
const HUNGRY: Duration = Duration::from_millis(300);

/// The first 1.2 s of waiting are ignored where composes come first. One compose takes most of that time at any call
/// rate, and a refused call would only lengthen the wait.
const FORGIVEN: Duration = Duration::from_millis(1_200);

/// Upper bound of the waiting time that is remembered: a loop that no longer waits stops counting as starved after 5 s.
const MOST: Duration = Duration::from_millis(400);

/// Time that a loop has waited beyond the tolerated share.
#[derive(Debug)]
pub(crate) struct StarvationTracker {
    felt: Duration,
    forgiven: Duration,
}

impl StarvationTracker {
    /// Tracker of a loop whose first batches must be composed.
    pub(crate) fn after_composes() -> Self {
        Self { felt: Duration::ZERO, forgiven: FORGIVEN }
    }

    /// Tracker of a loop without that allowance.
    pub(crate) fn at_once() -> Self {
        Self { felt: Duration::ZERO, forgiven: Duration::ZERO }
    }

    /// Adds `waited`, and takes off the tolerated share of the time `since` the last call. Called for parts of a wait
    /// while it lasts, and for the rest when the batch arrives.
    pub(crate) fn fed(&mut self, waited: Duration, since: Duration) {
        let counts = waited.saturating_sub(self.forgiven);
        self.forgiven = self.forgiven.saturating_sub(waited);
        self.felt = (self.felt + counts).saturating_sub(since / SHARE).min(MOST);
    }

    pub(crate) fn is_felt(&self) -> bool {
        self.felt > HUNGRY
    }
}

/// Reports one training loop's waiting time to the choice between read methods and to the throttles. It reports during
/// a wait, so that a blocked loop isn't taken for a satisfied one.
pub(crate) struct WaitReporter {
    auto: Option<Arc<Auto>>,
    /// `None` once the epoch has ended.
    appetite: Option<DemandHandle>,
    hunger: StarvationTracker,
    /// Tracker that is used until the first batch arrives; then `hunger` takes over.
    first: Option<StarvationTracker>,
    /// The part of the current wait that has already been reported.
    reported: Duration,
}

impl WaitReporter {
    pub(crate) fn new(auto: Option<Arc<Auto>>, appetite: DemandHandle) -> Self {
        let (hunger, first) = (StarvationTracker::at_once(), Some(StarvationTracker::after_composes()));
        Self { auto, appetite: Some(appetite), hunger, first, reported: Duration::ZERO }
    }

    /// Nothing is ahead of the loop, and some of it may be composed.
    pub(crate) fn waits_for_composes(&mut self) {
        self.hunger = StarvationTracker::after_composes();
    }

    /// The loop has waited for so much longer, and still waits.
    pub(crate) fn record_wait(&mut self, time: Duration) {
        self.reported += time;
        self.record(time, time);
    }

    /// Records the arrival of a batch. `waited` is the whole wait, including the parts already reported; `since` is the
    /// time since the batch before.
    pub(crate) fn record_batch(&mut self, waited: Duration, since: Duration) {
        let reported = std::mem::take(&mut self.reported);
        self.record(waited.saturating_sub(reported), since.saturating_sub(reported));
        // Publishes the state of `hunger`, which counts from here on.
        if self.first.take().is_some() {
            self.record(Duration::ZERO, Duration::ZERO);
        }
    }

    /// The epoch is over, and the loop wants no more of it.
    pub(crate) fn end(&mut self) {
        self.appetite = None;
    }

    fn record(&mut self, waited: Duration, since: Duration) {
        if let Some(auto) = &self.auto {
            auto.waited(waited);
        }
        let hunger = self.first.as_mut().unwrap_or(&mut self.hunger);
        hunger.fed(waited, since);
        let is_felt = hunger.is_felt();
        if let Some(appetite) = &mut self.appetite {
            appetite.set(is_felt);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(64);

    fn after(hunger: &mut StarvationTracker, steps: u32, waited: Duration) -> bool {
        (0..steps).for_each(|_| hunger.fed(waited, STEP));
        hunger.is_felt()
    }

    #[test]
    fn waits_beyond_their_share_are_felt_and_forgotten() {
        let mut hunger = StarvationTracker::at_once();
        assert!(!after(&mut hunger, 1_000, STEP / 60));
        assert!(!after(&mut hunger, 4, STEP), "a few late batches are none");
        assert!(after(&mut hunger, 1, STEP));
        assert!(after(&mut hunger, 100, STEP), "still");
        assert!(after(&mut hunger, 60, Duration::ZERO), "not forgotten at once");
        assert!(!after(&mut hunger, 30, Duration::ZERO));
        // A twentieth, for long.
        assert!(after(&mut hunger, 200, STEP / 20));
    }

    /// A wait of 278 s was reported when it was over, so that meanwhile the loop "had all it wanted".
    #[test]
    fn a_wait_is_felt_while_it_lasts() {
        let throttles = crate::pacing::Throttles::new(crate::pacing::CallCaps::default());
        let mut report = WaitReporter::new(None, throttles.appetite());
        let slices = |report: &mut WaitReporter, slices| (0..slices).for_each(|_| report.record_wait(STEP));
        slices(&mut report, 10);
        assert!(!throttles.want_more(), "the first batch is waited for with patience");
        slices(&mut report, 20);
        assert!(throttles.want_more(), "but not for ever");
        report.record_batch(30 * STEP, 30 * STEP);
        assert!(!throttles.want_more(), "at the start nothing was ahead");
        slices(&mut report, 6);
        assert!(throttles.want_more());
        report.end();
        assert!(throttles.want_more(), "where no loop says, as there is none");
    }

    #[test]
    fn the_first_compose_is_waited_for_with_patience() {
        let mut hunger = StarvationTracker::after_composes();
        hunger.fed(Duration::from_secs(1), Duration::from_secs(1));
        assert!(!hunger.is_felt());
        assert!(after(&mut hunger, 20, STEP), "but for one");
    }
}
