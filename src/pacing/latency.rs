//! The shortest of the recent times that composes took.

use std::time::Duration;

use super::bucket_gates::DOCUMENTED_COMPOSE;

/// Length of a window. A measured time counts for one to two windows, and longer if no compose ends after them. In much
/// shorter windows all composes may have waited in a queue, which would then count as the time of a compose. With
/// windows ten times as long, a service that became slower for good would pass for the faster one during most of a run.
const WINDOW: Duration = Duration::from_secs(60);

/// The shortest recent time of a composed read, from when it began to wait for its compose to the last byte of its
/// object. The others include longer waits, for the gates and for this machine.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ShortestLatency {
    /// The shortest of the previous window.
    previous: Option<Duration>,
    current: Option<Duration>,
    /// When the current window ends.
    ends: Duration,
}

impl ShortestLatency {
    /// Shortens a time that is long past to the documented one. Otherwise a long time would prevent the composes that
    /// could replace it.
    pub(super) fn shorten_if_old(&mut self, now: Duration) {
        if now >= self.ends + WINDOW {
            let shortest = self.get().map(|shortest| shortest.min(DOCUMENTED_COMPOSE));
            (self.previous, self.current) = (None, shortest);
        }
    }

    /// Records a time. Recent ones are forgotten only where newer ones replace them.
    pub(super) fn record(&mut self, now: Duration, took: Duration) {
        if now >= self.ends {
            let was_recent = now < self.ends + WINDOW;
            *self = Self { previous: self.current.filter(|_| was_recent), current: None, ends: now + WINDOW };
        }
        self.current = Some(self.current.map_or(took, |shortest| shortest.min(took)));
    }

    /// The shortest recent time; `None` if there is none yet.
    pub(super) fn get(&self) -> Option<Duration> {
        self.previous.into_iter().chain(self.current).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The shortest time ever counted for as long as the loader lived.
    #[test]
    fn a_service_that_became_slower_is_known_to_be_slower() {
        let seconds = Duration::from_secs;
        let mut latency = ShortestLatency::default();
        assert_eq!(latency.get(), None);
        latency.record(seconds(1), seconds(2));
        latency.record(seconds(2), seconds(1));
        latency.record(seconds(3), seconds(9));
        assert_eq!(latency.get(), Some(seconds(1)), "waits don't count");
        latency.record(seconds(70), seconds(5));
        assert_eq!(latency.get(), Some(seconds(1)), "the window before");
        latency.record(seconds(131), seconds(6));
        assert_eq!(latency.get(), Some(seconds(5)));
        // Nothing was composed for long, as while direct reads were better.
        latency.record(seconds(1_000), seconds(8));
        assert_eq!(latency.get(), Some(seconds(8)));
    }

    /// After a slow minute small epochs were read directly for as long as the loader lived.
    #[test]
    fn a_slow_spell_is_not_remembered_for_ever() {
        let seconds = Duration::from_secs;
        let mut latency = ShortestLatency::default();
        latency.shorten_if_old(seconds(500));
        assert_eq!(latency.get(), None);
        for (took, later) in
            [(15.0, 1.0), (0.3, 0.3)].map(|(a, b)| (Duration::from_secs_f64(a), Duration::from_secs_f64(b)))
        {
            let mut latency = latency;
            latency.record(seconds(1), took);
            latency.shorten_if_old(seconds(120));
            assert_eq!(latency.get(), Some(took), "it is recent");
            latency.shorten_if_old(seconds(121));
            assert_eq!(latency.get(), Some(later));
            latency.record(seconds(122), took);
            assert_eq!(latency.get(), Some(took), "measured anew");
        }
    }
}
