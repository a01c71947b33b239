//! Whether the training loop wants more than it gets: only then is a bucket worth trying beyond what it is known to take,
//! since calls that it refuses are made again a second later, and the batches they are for come late.

use std::time::Duration;

/// A loop that waits for less of its time than a fiftieth has what it wants.
const SHARE: u32 = 50;

/// So much more than that is hunger: more than a few slow reads at the start, when little is ahead, and soon reached by a
/// loop that does nothing but wait.
const HUNGRY: Duration = Duration::from_millis(300);

/// What is remembered at most: a loop that has what it wants again is known for one after 5 s.
const MOST: Duration = Duration::from_millis(400);

/// What a loop has waited beyond its share.
#[derive(Debug, Default)]
pub(super) struct Hunger(Duration);

impl Hunger {
    /// The loop got a batch after it `waited`, and so long after the one before.
    pub(super) fn fed(&mut self, waited: Duration, since: Duration) {
        self.0 = (self.0 + waited).saturating_sub(since / SHARE).min(MOST);
    }

    pub(super) fn is_felt(&self) -> bool {
        self.0 > HUNGRY
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
        let mut hunger = Hunger::default();
        assert!(!after(&mut hunger, 1_000, STEP / 60));
        assert!(!after(&mut hunger, 4, STEP), "a few late batches are none");
        assert!(after(&mut hunger, 1, STEP));
        assert!(after(&mut hunger, 100, STEP), "still");
        assert!(after(&mut hunger, 60, Duration::ZERO), "not forgotten at once");
        assert!(!after(&mut hunger, 30, Duration::ZERO));
        // A twentieth, for long.
        assert!(after(&mut hunger, 200, STEP / 20));
    }
}
