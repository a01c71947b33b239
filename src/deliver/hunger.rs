//! Whether the training loop wants more than it gets: only then is a bucket worth trying beyond what it is known to take,
//! since calls that it refuses are made again a second later, and the batches they are for come late.

use std::time::Duration;

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

    #[test]
    fn the_first_compose_is_waited_for_with_patience() {
        let mut hunger = Hunger::after_composes();
        hunger.fed(Duration::from_secs(1), Duration::from_secs(1));
        assert!(!hunger.is_felt());
        assert!(after(&mut hunger, 20, STEP), "but for one");
    }
}
