//! How many calls to have in flight: as many as help, fewer when the service asks to slow down.
//!
//! Pure: the clock is handed in. Calls are looked at in *windows* of as many as may be in flight, about one round trip.
//! While each wider limit brings more work a second, the limit doubles; once it doesn't, it goes back to the last that
//! did and from there on tries a little more now and then. A window with many refusals halves it.

use std::time::Duration;

/// Calls in flight at first. At the 50 ms of a small listing this is a quarter of the 5,000 reads a second that a bucket
/// serves before it has ramped up, and the tens of calls of a common listing leave no time to feel one's way from 1.
const START: usize = 64;

/// How much more work a second a doubled limit must bring to count as help. Half of it would be 1.5; noise between
/// windows is some 10%.
const HELPS: f64 = 1.15;

/// One refusal in so many calls is a bad day, more are a service that asks to slow down.
const FEW: usize = 4;

/// What refusals leave of the limit at least: calls that are refused wait by themselves before they are made again.
const LEAST: usize = 4;

/// Clean windows after refusals until more is tried again.
const RECOVERY: u32 = 2;

/// Windows to stay with a limit before more is tried again, since the service's ceilings rise over minutes.
const SETTLED: u32 = 16;

/// The limit on calls in flight.
#[derive(Debug)]
pub(crate) struct Pace {
    ceiling: usize,
    limit: usize,
    /// Limit and work a second of the window before the limit was raised.
    before: Option<(usize, f64)>,
    /// Windows since the limit was settled on.
    settled: Option<u32>,
    window: Window,
}

#[derive(Debug, Default)]
struct Window {
    began: Duration,
    calls: usize,
    refusals: usize,
    work: u64,
    /// Whether the limit was what held calls back, in most of it.
    full: usize,
}

impl Pace {
    /// Never more than `ceiling` calls, never less than one.
    pub(crate) fn new(ceiling: usize, now: Duration) -> Self {
        let ceiling = ceiling.max(1);
        let window = Window { began: now, ..Window::default() };
        Self { ceiling, limit: ceiling.min(START), before: None, settled: None, window }
    }

    /// Calls to have in flight now.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// A call is done and brought `work`, in whatever unit; `in_flight` calls were under way with it.
    pub(crate) fn done(&mut self, now: Duration, work: u64, in_flight: usize) {
        self.window.calls += 1;
        self.window.work += work;
        self.window.full += usize::from(in_flight >= self.limit);
        if self.window.calls >= self.limit {
            self.judge(now);
        }
    }

    /// Calls were refused at their first try: 429, or 503.
    pub(crate) fn refused(&mut self, now: Duration, calls: usize) {
        self.window.refusals += calls;
        // Waiting for the window to fill would mean waiting for calls that sleep.
        if self.window.refusals > (self.limit / FEW).max(1) {
            self.limit = (self.limit / 2).max(LEAST.min(self.ceiling));
            (self.before, self.settled) = (None, Some(SETTLED - RECOVERY));
            self.window = Window { began: now, ..Window::default() };
        }
    }

    fn judge(&mut self, now: Duration) {
        let window = std::mem::replace(&mut self.window, Window { began: now, ..Window::default() });
        // Too little to do, or refusals: no reason to allow more.
        if window.full * 2 < window.calls || window.refusals > 0 {
            return;
        }
        let rate = window.work as f64 / now.saturating_sub(window.began).as_secs_f64().max(1e-9);
        if let Some(windows) = &mut self.settled {
            *windows += 1;
            if *windows < SETTLED {
                return;
            }
            self.settled = None;
            self.raise(rate, (self.limit / 4).max(1));
            return;
        }
        match self.before {
            // The first calls on new connections are slower, so the limit itself is the share that must be gained.
            Some((limit, earlier)) if rate < earlier * (1.0 + (HELPS - 1.0) * gain(limit, self.limit)) => {
                self.limit = limit;
                (self.before, self.settled) = (None, Some(0));
            }
            _ => self.raise(rate, self.limit),
        }
    }

    fn raise(&mut self, rate: f64, by: usize) {
        let limit = self.limit.saturating_add(by).min(self.ceiling);
        if limit > self.limit {
            self.before = Some((self.limit, rate));
            self.limit = limit;
        }
    }
}

/// How far a limit was raised: 1 where it was doubled.
fn gain(from: usize, to: usize) -> f64 {
    to as f64 / from as f64 - 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that serves `most` calls at once, each in 100 ms, and queues the rest. Returns the limit after `rounds`
    /// windows, and the highest on the way.
    fn run(pace: &mut Pace, most: f64, rounds: usize) -> usize {
        let mut now = Duration::from_secs(1);
        let mut highest = 0;
        for _ in 0..rounds {
            let limit = pace.limit();
            let each = Duration::from_secs_f64(0.1 / most.min(limit as f64));
            for _ in 0..limit {
                now += each;
                pace.done(now, 1_000, limit);
            }
            highest = highest.max(pace.limit());
        }
        highest
    }

    #[test]
    fn it_grows_while_that_helps() {
        let mut pace = Pace::new(512, Duration::ZERO);
        assert_eq!(pace.limit(), START);
        run(&mut pace, 1e9, 6);
        assert_eq!(pace.limit(), 512);
    }

    #[test]
    fn it_stays_where_more_does_not_help() {
        let mut pace = Pace::new(4_096, Duration::ZERO);
        let highest = run(&mut pace, 100.0, 40);
        assert!((64..=160).contains(&pace.limit()), "{}", pace.limit());
        assert!(highest <= 256, "{highest}");
    }

    #[test]
    fn the_ceiling_and_one_hold() {
        let mut pace = Pace::new(3, Duration::ZERO);
        run(&mut pace, 1e9, 50);
        assert_eq!(pace.limit(), 3);
        assert_eq!(Pace::new(0, Duration::ZERO).limit(), 1);
        for _ in 0..100 {
            pace.refused(Duration::from_secs(9), 3);
        }
        assert_eq!(pace.limit(), 3, "the least is no more than the ceiling");
    }

    #[test]
    fn refusals_halve_it_and_a_few_faults_do_not() {
        let mut pace = Pace::new(64, Duration::ZERO);
        pace.refused(Duration::from_secs(1), 9);
        assert_eq!(pace.limit(), 64);
        pace.refused(Duration::from_secs(1), 9);
        assert_eq!(pace.limit(), 32);
        for _ in 0..100 {
            pace.refused(Duration::from_secs(1), 9);
        }
        assert_eq!(pace.limit(), LEAST);
        // It finds its way back when they end.
        run(&mut pace, 1e9, 12);
        assert_eq!(pace.limit(), 64);
    }

    #[test]
    fn idleness_is_no_reason_to_grow() {
        let mut pace = Pace::new(512, Duration::ZERO);
        for call in 0..1_000 {
            pace.done(Duration::from_millis(call), 1, 1);
        }
        assert_eq!(pace.limit(), START);
    }
}
