//! Whether training loops want data faster than they get it. Only then is it worth exceeding the call rate that a
//! bucket is known to take: refused calls are made again about a second later and delay their batches.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// A loop that waits for less than one part in so many of its time is not starved.
const TOLERATED_PART: u32 = 50;

/// Waiting time above the tolerated part from which a loop is starved: more than a few slow reads at the start cause,
/// and soon reached by a loop that does nothing but wait.
const STARVED_FROM: Duration = Duration::from_millis(300);

/// Upper bound of the waiting time that is remembered: a loop that no longer waits stops being starved after 5 s.
const MAX_REMEMBERED: Duration = Duration::from_millis(400);

/// Waiting time that is ignored where composes come first. One compose takes most of it at any call rate, and a refused
/// call would only lengthen the wait.
pub(super) const COMPOSE_ALLOWANCE: Duration = Duration::from_millis(1_200);

/// The demand of all training loops that one bucket feeds.
#[derive(Debug, Default)]
pub(crate) struct Demand {
    loops: AtomicUsize,
    starved: AtomicUsize,
}

impl Demand {
    /// Whether some refusals are an acceptable price for finding out if the bucket takes more than is known. They are
    /// if a loop is starved, and if there is no loop.
    pub(super) fn wants_more(&self) -> bool {
        self.starved.load(Ordering::Relaxed) > 0 || self.loops.load(Ordering::Relaxed) == 0
    }

    /// Handle of one more training loop, which isn't starved until it says so.
    pub(super) fn add_loop(self: &Arc<Self>) -> DemandHandle {
        self.loops.fetch_add(1, Ordering::Relaxed);
        DemandHandle { demand: Arc::clone(self), is_starved: false }
    }
}

/// The demand of one training loop, which counts until this is dropped.
#[derive(Debug)]
pub(crate) struct DemandHandle {
    demand: Arc<Demand>,
    is_starved: bool,
}

impl DemandHandle {
    pub(crate) fn set_starved(&mut self, is_starved: bool) {
        match (self.is_starved, is_starved) {
            (false, true) => _ = self.demand.starved.fetch_add(1, Ordering::Relaxed),
            (true, false) => _ = self.demand.starved.fetch_sub(1, Ordering::Relaxed),
            _ => {}
        }
        self.is_starved = is_starved;
    }
}

impl Drop for DemandHandle {
    fn drop(&mut self) {
        self.set_starved(false);
        self.demand.loops.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Decides from the waits of one training loop whether it is starved.
#[derive(Debug)]
pub(super) struct StarvationTracker {
    /// Waiting time above the tolerated part.
    remembered: Duration,
    /// Waiting time that is still to be ignored.
    allowance: Duration,
}

impl StarvationTracker {
    /// Tracker that ignores waits up to `allowance` in all.
    pub(super) fn new(allowance: Duration) -> Self {
        Self { remembered: Duration::ZERO, allowance }
    }

    /// Records that the loop waited for `waited` of the time `since` the last call. Callers record parts of a wait
    /// while it lasts, and the rest when the batch arrives.
    pub(super) fn record_wait(&mut self, waited: Duration, since: Duration) {
        let counted = waited.saturating_sub(self.allowance);
        self.allowance = self.allowance.saturating_sub(waited);
        self.remembered = (self.remembered + counted).saturating_sub(since / TOLERATED_PART).min(MAX_REMEMBERED);
    }

    pub(super) fn is_starved(&self) -> bool {
        self.remembered > STARVED_FROM
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(64);

    #[test]
    fn more_is_wanted_if_any_loop_is_starved_or_there_is_none() {
        let demand = Arc::<Demand>::default();
        assert!(demand.wants_more());
        let (mut one, mut other) = (demand.add_loop(), demand.add_loop());
        assert!(!demand.wants_more());
        one.set_starved(true);
        one.set_starved(true);
        other.set_starved(false);
        assert!(demand.wants_more(), "whichever reports last");
        one.set_starved(false);
        assert!(!demand.wants_more());
        one.set_starved(true);
        drop(one);
        assert!(!demand.wants_more(), "the loop has ended");
        drop(other);
        assert!(demand.wants_more());
    }

    fn is_starved_after(tracker: &mut StarvationTracker, steps: u32, waited: Duration) -> bool {
        (0..steps).for_each(|_| tracker.record_wait(waited, STEP));
        tracker.is_starved()
    }

    #[test]
    fn waits_above_the_tolerated_part_are_remembered_for_a_while() {
        let mut tracker = StarvationTracker::new(Duration::ZERO);
        assert!(!is_starved_after(&mut tracker, 1_000, STEP / 60));
        assert!(!is_starved_after(&mut tracker, 4, STEP), "a few late batches are no starvation");
        assert!(is_starved_after(&mut tracker, 1, STEP));
        assert!(is_starved_after(&mut tracker, 100, STEP), "still");
        assert!(is_starved_after(&mut tracker, 60, Duration::ZERO), "not forgotten at once");
        assert!(!is_starved_after(&mut tracker, 30, Duration::ZERO));
        // A twentieth of the time, for long.
        assert!(is_starved_after(&mut tracker, 200, STEP / 20));
    }

    #[test]
    fn the_wait_for_the_first_compose_is_no_starvation() {
        let mut tracker = StarvationTracker::new(COMPOSE_ALLOWANCE);
        tracker.record_wait(Duration::from_secs(1), Duration::from_secs(1));
        assert!(!tracker.is_starved());
        assert!(is_starved_after(&mut tracker, 20, STEP), "a longer wait is");
    }
}
