//! Optional features that are suspended after a failure and tried again minutes later, so that a passing failure
//! doesn't disable a feature for the rest of a long run.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::lock::lock;

/// How long a feature that failed stays suspended. A permission that was granted takes effect within minutes, and a
/// person needs minutes to make room on a disk. A trial costs a call or two: at 3 s a month of failures would take
/// 864,000 trials, and at 30,000 s a repaired feature would stay unused for up to 8 hours.
pub(crate) const RETRIAL_INTERVAL: Duration = Duration::from_secs(300);

/// The state of a feature: active until it is suspended, and to be tried again after each [`RETRIAL_INTERVAL`]. If only
/// one trial may run at a time, users take a [`pass`](Self::pass). If concurrent trials do no harm, as reads of a
/// cache, they ask [`may_try`](Self::may_try) and report the outcome.
#[derive(Debug)]
pub(crate) struct Suspension {
    /// Whether `state` is `Active`; readable without the lock.
    is_active: AtomicBool,
    state: Mutex<SuspensionState>,
    is_reported: AtomicBool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SuspensionState {
    Active,
    Suspended { until: Instant },
    OnTrial,
    Off,
}

/// Permission to use the feature once. If a trial's pass is dropped without an outcome, the next trial is due at once.
#[derive(Debug)]
pub(crate) struct Pass<'a> {
    suspension: &'a Suspension,
    is_trial: bool,
}

impl Suspension {
    pub(crate) fn new() -> Self {
        Self {
            is_active: AtomicBool::new(true),
            state: Mutex::new(SuspensionState::Active),
            is_reported: AtomicBool::new(false),
        }
    }

    fn set(&self, state: &mut SuspensionState, to: SuspensionState) {
        *state = to;
        self.is_active.store(to == SuspensionState::Active, Ordering::Relaxed);
    }

    /// Whether the feature may be used now: it is active, or a trial is due and not under way.
    pub(crate) fn may_try(&self, now: Instant) -> bool {
        self.is_active.load(Ordering::Relaxed)
            || match *lock(&self.state) {
                SuspensionState::Active => true,
                SuspensionState::Suspended { until } => now >= until,
                SuspensionState::OnTrial | SuspensionState::Off => false,
            }
    }

    /// Permission to use the feature: for every caller while it is active, for one at a time when a trial is due.
    pub(crate) fn pass(&self, now: Instant) -> Option<Pass<'_>> {
        let mut state = lock(&self.state);
        let is_trial = match *state {
            SuspensionState::Active => false,
            SuspensionState::Suspended { until } if now >= until => true,
            SuspensionState::Suspended { .. } | SuspensionState::OnTrial | SuspensionState::Off => return None,
        };
        if is_trial {
            *state = SuspensionState::OnTrial;
        }
        Some(Pass { suspension: self, is_trial })
    }

    /// Suspends the feature from now on.
    pub(crate) fn suspend(&self, now: Instant) {
        let mut state = lock(&self.state);
        if *state != SuspensionState::Off {
            self.set(&mut state, SuspensionState::Suspended { until: now + RETRIAL_INTERVAL });
        }
    }

    /// Turns the feature off for good.
    pub(crate) fn turn_off(&self) {
        self.set(&mut lock(&self.state), SuspensionState::Off);
    }

    /// Records that the feature worked. Returns whether it was suspended until now.
    pub(crate) fn restore(&self) -> bool {
        if self.is_active.load(Ordering::Relaxed) {
            return false;
        }
        let mut state = lock(&self.state);
        if matches!(*state, SuspensionState::Active | SuspensionState::Off) {
            return false;
        }
        self.set(&mut state, SuspensionState::Active);
        true
    }

    /// Whether this is the first report of a failure. Later reports say nothing new, and a month of them would fill the
    /// log.
    pub(crate) fn is_first_report(&self) -> bool {
        !self.is_reported.swap(true, Ordering::Relaxed)
    }

    /// Makes a trial due at once.
    #[cfg(test)]
    pub(crate) fn end_interval(&self) {
        let mut state = lock(&self.state);
        if matches!(*state, SuspensionState::Suspended { .. }) {
            *state = SuspensionState::Suspended { until: Instant::now() };
        }
    }
}

impl Pass<'_> {
    /// Whether the feature is suspended except for this one use.
    pub(crate) fn is_trial(&self) -> bool {
        self.is_trial
    }

    /// Records that the feature worked. Returns whether it was suspended until now. A use that began before the
    /// suspension doesn't end it.
    pub(crate) fn succeeded(self) -> bool {
        self.is_trial && self.suspension.restore()
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.is_trial {
            let mut state = lock(&self.suspension.state);
            if *state == SuspensionState::OnTrial {
                *state = SuspensionState::Suspended { until: Instant::now() };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_trial_at_a_time_after_the_interval() {
        let suspension = Suspension::new();
        let (start, later) = (Instant::now(), Instant::now() + RETRIAL_INTERVAL);
        let (one, other) = (suspension.pass(start).unwrap(), suspension.pass(start).unwrap());
        assert!(!one.is_trial() && !other.is_trial());
        suspension.suspend(start);
        assert!(!other.succeeded(), "it began before the suspension");
        drop(one);
        assert!(!suspension.may_try(start) && suspension.pass(start).is_none());
        let trial = suspension.pass(later).unwrap();
        assert!(trial.is_trial() && !suspension.may_try(later) && suspension.pass(later).is_none());
        suspension.suspend(later);
        drop(trial);
        assert!(!suspension.may_try(later), "it failed");
        let again = later + RETRIAL_INTERVAL;
        assert!(suspension.pass(again).unwrap().succeeded());
        assert!(suspension.may_try(start) && !suspension.restore());
    }

    #[test]
    fn after_a_trial_without_an_outcome_another_is_due() {
        let suspension = Suspension::new();
        let start = Instant::now();
        suspension.suspend(start);
        let later = start + RETRIAL_INTERVAL;
        drop(suspension.pass(later).unwrap());
        assert!(suspension.pass(Instant::now()).is_some_and(|pass| pass.is_trial()));
        suspension.turn_off();
        suspension.suspend(start);
        assert!(!suspension.restore() && suspension.pass(later).is_none() && !suspension.may_try(later));
        assert!(suspension.is_first_report() && !suspension.is_first_report());
    }
}
