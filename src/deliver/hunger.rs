//! Whether the training loop wants more than it gets: only then is a bucket worth trying beyond what it is known to take,
//! since calls that it refuses are made again a second later, and the batches they are for come late.

use std::sync::Arc;
use std::time::Duration;

use super::auto::Auto;
use crate::fetch::Appetite;

/// A loop that waits for less of its time than a fiftieth has what it wants.
const SHARE: u32 = 50;

/// So much more than that is hunger: more than a few slow reads at the start, when little is ahead, and soon reached by a
/// loop that does nothing but wait.
const HUNGRY: Duration = Duration::from_millis(300);

/// What a loop waits for at the start is forgiven for so long: a compose takes most of it whatever the rate, and a refused call
/// would make it longer.
const FORGIVEN: Duration = Duration::from_millis(1_200);

/// What is remembered at most: a loop that has what it wants again is known for one after 5 s.
const MOST: Duration = Duration::from_millis(400);

/// What a loop has waited beyond its share.
#[derive(Debug)]
pub(super) struct Hunger {
    felt: Duration,
    forgiven: Duration,
}

impl Hunger {
    /// Of a loop for which nothing is ahead yet, and composes are to come.
    pub(super) fn after_composes() -> Self {
        Self { felt: Duration::ZERO, forgiven: FORGIVEN }
    }

    /// Of one for which reads come at once, or came ahead.
    pub(super) fn at_once() -> Self {
        Self { felt: Duration::ZERO, forgiven: Duration::ZERO }
    }

    /// The loop got a batch after it `waited`, and so long after the one before.
    pub(super) fn fed(&mut self, waited: Duration, since: Duration) {
        let counts = waited.saturating_sub(self.forgiven);
        self.forgiven = self.forgiven.saturating_sub(waited);
        self.felt = (self.felt + counts).saturating_sub(since / SHARE).min(MOST);
    }

    pub(super) fn is_felt(&self) -> bool {
        self.felt > HUNGRY
    }
}

/// What one training loop has waited, for those who go by it: the choice between ways to read, and the throttles. They know
/// while a wait lasts, so that a loop that is blocked doesn't count as one that has what it wants.
pub(super) struct WaitReport {
    auto: Option<Arc<Auto>>,
    /// Until the end.
    appetite: Option<Appetite>,
    hunger: Hunger,
    /// For the first batch, for which nothing was ahead.
    first: Option<Hunger>,
    /// What of the present wait was reported.
    reported: Duration,
}

impl WaitReport {
    pub(super) fn new(auto: Option<Arc<Auto>>, appetite: Appetite) -> Self {
        let (hunger, first) = (Hunger::at_once(), Some(Hunger::after_composes()));
        Self { auto, appetite: Some(appetite), hunger, first, reported: Duration::ZERO }
    }

    /// Nothing is ahead of the loop, and some of it may be composed.
    pub(super) fn waits_for_composes(&mut self) {
        self.hunger = Hunger::after_composes();
    }

    /// The loop has waited for so much longer, and still waits.
    pub(super) fn record_wait(&mut self, time: Duration) {
        self.reported += time;
        self.record(time, time);
    }

    /// The loop got a batch after it `waited`, what was reported of that included, and so long after the one before.
    pub(super) fn record_batch(&mut self, waited: Duration, since: Duration) {
        let reported = std::mem::take(&mut self.reported);
        self.record(waited.saturating_sub(reported), since.saturating_sub(reported));
        if self.first.take().is_some() {
            self.record(Duration::ZERO, Duration::ZERO);
        }
    }

    /// The epoch is over, and the loop wants no more of it.
    pub(super) fn end(&mut self) {
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

    fn after(hunger: &mut Hunger, steps: u32, waited: Duration) -> bool {
        (0..steps).for_each(|_| hunger.fed(waited, STEP));
        hunger.is_felt()
    }

    #[test]
    fn waits_beyond_their_share_are_felt_and_forgotten() {
        let mut hunger = Hunger::at_once();
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
        let throttles = crate::fetch::Throttles::new(crate::fetch::Caps::default());
        let mut report = WaitReport::new(None, throttles.appetite());
        let slices = |report: &mut WaitReport, slices| (0..slices).for_each(|_| report.record_wait(STEP));
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
        let mut hunger = Hunger::after_composes();
        hunger.fed(Duration::from_secs(1), Duration::from_secs(1));
        assert!(!hunger.is_felt());
        assert!(after(&mut hunger, 20, STEP), "but for one");
    }
}
