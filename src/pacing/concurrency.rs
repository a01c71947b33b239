//! Limit on the calls in flight: as many as bring more work a second, and fewer when the service asks to slow down.
//!
//! This module is pure: callers hand in the clock. Calls are judged in *windows* of as many calls as may be in flight,
//! about one round trip. The limit doubles as long as each doubling brings more work a second. Then it returns to the
//! last limit that did, and doubles again now and then. A window with many refusals halves the limit. If answers become
//! slow while no more work is done, a lower limit is tried, and kept only if it makes the answers faster.

use std::time::Duration;

/// The first limit. At the 50 ms of a small listing this is a quarter of the 5,000 reads a second that a bucket serves
/// before it has ramped up, and the tens of calls of a common listing leave no time to search upwards from 1.
const INITIAL_LIMIT: usize = 64;

/// Lower bound of the limit after refusals: refused calls already wait before they are made again.
const MIN_AFTER_REFUSALS: usize = 4;

/// One refusal in so many calls is bad luck; more are a service that asks to slow down.
const CALLS_PER_TOLERATED_REFUSAL: usize = 4;

/// Factor in work a second that a doubled limit must bring to be kept. Half of the ideal would be 1.5; noise between
/// windows is some 10%.
const MIN_GAIN: f64 = 1.15;

/// Factor in waits for answers, at a doubled limit, from which the additional calls only queue. Twice as long if all of
/// them do; the first calls on new connections, networks and services vary by some tens of percent.
const QUEUED: f64 = 1.6;

/// Share of the limit that is tried when answers are slow.
const LOWER_TRIAL: f64 = 0.7;

/// Windows between two trials, since the service's ceilings rise over minutes.
const SETTLED_WINDOWS: u32 = 16;

/// Windows until the next trial after refusals and after a lower limit.
const RECOVERY_WINDOWS: u32 = 2;

/// Shortest window. Calls that take less than a millisecond would else be judged by noise.
const MIN_WINDOW: Duration = Duration::from_millis(25);

/// The limit on calls in flight.
#[derive(Debug)]
pub(crate) struct ConcurrencyLimit {
    max: usize,
    limit: usize,
    /// The limit to start with, whatever the upper bound.
    first: usize,
    /// The shortest mean wait of a window, and the most work a second of a window since then.
    shortest_wait: Option<Duration>,
    best_rate: f64,
    /// What the current limit is judged against, while it is on trial.
    trial: Option<LimitTrial>,
    /// Windows until a higher limit is tried.
    settled: u32,
    window: CallWindow,
}

/// The limit before a trial, with its results.
#[derive(Debug)]
struct LimitTrial {
    limit: usize,
    rate: f64,
    wait: Option<Duration>,
}

#[derive(Debug, Default)]
struct CallWindow {
    began: Duration,
    calls: usize,
    refusals: usize,
    work: u64,
    /// Calls during which the limit was reached.
    at_limit: usize,
    answers: u32,
    waited: Duration,
}

impl CallWindow {
    fn starting(now: Duration) -> Self {
        Self { began: now, ..Self::default() }
    }

    fn mean_wait(&self) -> Option<Duration> {
        (self.answers > 0).then(|| self.waited / self.answers)
    }
}

impl ConcurrencyLimit {
    /// Limit of at least one call and at most `max` calls.
    pub(crate) fn new(max: usize, now: Duration) -> Self {
        let max = max.max(1);
        Self {
            max,
            limit: max.min(INITIAL_LIMIT),
            first: INITIAL_LIMIT,
            shortest_wait: None,
            best_rate: 0.0,
            trial: None,
            settled: 0,
            window: CallWindow::starting(now),
        }
    }

    /// Sets the first limit.
    pub(crate) fn start_at(mut self, calls: usize) -> Self {
        (self.limit, self.first) = (calls.clamp(1, self.max), calls);
        self
    }

    /// Replaces the upper bound. A trial with a limit above it ends. A limit that only the bound held down rises to the
    /// first one.
    pub(super) fn set_max(&mut self, max: usize) {
        let before = std::mem::replace(&mut self.max, max.max(1));
        if self.trial.is_none() && self.limit == before {
            self.limit = self.limit.max(self.first.min(self.max));
        }
        if self.trial.as_ref().map_or(self.limit, |before| before.limit.max(self.limit)) > self.max {
            (self.limit, self.trial) = (self.limit.min(self.max), None);
        }
    }

    /// The number of calls that may be in flight now.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Records the end of a call that did `work`, in any unit, while `in_flight` calls were under way, itself included.
    pub(crate) fn record_call(&mut self, now: Duration, work: u64, in_flight: usize) {
        self.window.calls += 1;
        self.window.work += work;
        self.window.at_limit += usize::from(in_flight >= self.limit);
        if self.window.calls >= self.limit && now.saturating_sub(self.window.began) >= MIN_WINDOW {
            self.judge(now);
        }
    }

    /// Records how long a call waited for the first sign of an answer.
    pub(crate) fn record_answer(&mut self, wait: Duration) {
        self.window.answers += 1;
        self.window.waited += wait;
    }

    /// Records calls whose first try was refused (429, 503).
    pub(crate) fn record_refusals(&mut self, now: Duration, calls: usize) {
        self.window.refusals += calls;
        // Refused calls sleep, so the window might not fill for long.
        if self.window.refusals > (self.limit / CALLS_PER_TOLERATED_REFUSAL).max(1) {
            self.limit = (self.limit / 2).max(MIN_AFTER_REFUSALS.min(self.max));
            (self.trial, self.settled) = (None, RECOVERY_WINDOWS);
            self.window = CallWindow::starting(now);
        }
    }

    fn judge(&mut self, now: Duration) {
        let window = std::mem::replace(&mut self.window, CallWindow::starting(now));
        // Nothing shows that a higher limit would help while calls are too few or refused.
        if window.at_limit * 2 < window.calls || window.refusals > 0 {
            return;
        }
        let rate = window.work as f64 / now.saturating_sub(window.began).as_secs_f64().max(1e-9);
        let wait = window.mean_wait();

        match self.trial.take() {
            Some(before) if before.limit > self.limit => return self.judge_lower(&before, rate, wait),
            Some(before) if !has_helped(&before, self.limit, rate, wait) => {
                self.limit = before.limit;
                self.settled = SETTLED_WINDOWS;
            }
            Some(_) => self.raise(rate, wait),
            None if self.is_queueing(rate, wait) => {
                self.trial = Some(LimitTrial { limit: self.limit, rate, wait });
                self.limit = ((self.limit as f64 * LOWER_TRIAL) as usize).max(INITIAL_LIMIT);
                self.best_rate = self.best_rate.min(rate);
                return;
            }
            None if self.settled == 0 => self.raise(rate, wait),
            None => self.settled -= 1,
        }
        self.best_rate = self.best_rate.max(rate);
        self.shortest_wait = self.shortest_wait.into_iter().chain(wait).min();
    }

    /// Tries a doubled limit.
    fn raise(&mut self, rate: f64, wait: Option<Duration>) {
        let limit = self.limit.saturating_mul(2).min(self.max);
        if limit > self.limit {
            self.trial = Some(LimitTrial { limit: self.limit, rate, wait });
            self.limit = limit;
        }
    }

    /// Whether answers are slow while no more work is done. Up to the initial limit the queue is hardly ours, but that
    /// of a busy machine, say.
    fn is_queueing(&self, rate: f64, wait: Option<Duration>) -> bool {
        let is_slow = self.shortest_wait.zip(wait).is_some_and(|(shortest, wait)| wait > shortest.mul_f64(QUEUED));
        is_slow && self.limit > INITIAL_LIMIT && rate < self.best_rate * MIN_GAIN
    }

    /// Keeps a lower limit if it made answers faster: calls wait for each other, so that they would at best wait as
    /// much less as the limit is lower.
    fn judge_lower(&mut self, before: &LimitTrial, rate: f64, wait: Option<Duration>) {
        let is_faster = |(before, wait): (Duration, Duration)| wait <= before.mul_f64(f64::midpoint(1.0, LOWER_TRIAL));
        if !before.wait.zip(wait).is_some_and(is_faster) {
            // Answers take this long now, whatever the limit.
            (self.limit, self.shortest_wait, self.best_rate) = (before.limit, wait, rate);
        }
        self.settled = RECOVERY_WINDOWS;
    }
}

/// Whether a limit that was raised to `limit` brought more work a second, and not by a lucky window: if the additional
/// calls only queue, waits are longer.
fn has_helped(before: &LimitTrial, limit: usize, rate: f64, wait: Option<Duration>) -> bool {
    // 1 for a doubled limit.
    let raised_by = limit as f64 / before.limit as f64 - 1.0;
    let at_raise = |factor: f64| 1.0 + (factor - 1.0) * raised_by;
    let is_queued = |(before, wait): (Duration, Duration)| wait > before.mul_f64(at_raise(QUEUED));
    rate >= before.rate * at_raise(MIN_GAIN) && !before.wait.zip(wait).is_some_and(is_queued)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service that serves `most` calls at once, each in 100 ms, and queues the rest. Returns the limit after
    /// `rounds` windows, and the highest one until then.
    fn run(limiter: &mut ConcurrencyLimit, most: f64, rounds: usize) -> usize {
        let mut now = Duration::from_secs(1);
        let mut highest = 0;
        for _ in 0..rounds {
            let limit = limiter.limit();
            let each = Duration::from_secs_f64(0.1 / most.min(limit as f64));
            for _ in 0..limit {
                now += each;
                limiter.record_call(now, 1_000, limit);
            }
            highest = highest.max(limiter.limit());
        }
        highest
    }

    #[test]
    fn it_grows_while_that_helps() {
        let mut limiter = ConcurrencyLimit::new(512, Duration::ZERO);
        assert_eq!(limiter.limit(), INITIAL_LIMIT);
        run(&mut limiter, 1e9, 6);
        assert_eq!(limiter.limit(), 512);
    }

    #[test]
    fn it_stays_where_more_does_not_help() {
        let mut limiter = ConcurrencyLimit::new(4_096, Duration::ZERO);
        let highest = run(&mut limiter, 100.0, 40);
        assert!((64..=160).contains(&limiter.limit()), "{}", limiter.limit());
        assert!(highest <= 256, "{highest}");
    }

    #[test]
    fn the_ceiling_and_one_hold() {
        let mut limiter = ConcurrencyLimit::new(3, Duration::ZERO);
        run(&mut limiter, 1e9, 50);
        assert_eq!(limiter.limit(), 3);
        assert_eq!(ConcurrencyLimit::new(0, Duration::ZERO).limit(), 1);
        for _ in 0..100 {
            limiter.record_refusals(Duration::from_secs(9), 3);
        }
        assert_eq!(limiter.limit(), 3, "the least is no more than the ceiling");
    }

    #[test]
    fn refusals_halve_it_and_a_few_faults_do_not() {
        let mut limiter = ConcurrencyLimit::new(64, Duration::ZERO);
        limiter.record_refusals(Duration::from_secs(1), 9);
        assert_eq!(limiter.limit(), 64);
        limiter.record_refusals(Duration::from_secs(1), 9);
        assert_eq!(limiter.limit(), 32);
        for _ in 0..100 {
            limiter.record_refusals(Duration::from_secs(1), 9);
        }
        assert_eq!(limiter.limit(), MIN_AFTER_REFUSALS);
        // The limit rises again when they end.
        run(&mut limiter, 1e9, 12);
        assert_eq!(limiter.limit(), 64);
    }

    #[test]
    fn idleness_is_no_reason_to_grow() {
        let mut limiter = ConcurrencyLimit::new(512, Duration::ZERO);
        for call in 0..1_000 {
            limiter.record_call(Duration::from_millis(call), 1, 1);
        }
        assert_eq!(limiter.limit(), INITIAL_LIMIT);
    }

    /// Windows with `limit` calls that each take `wait`.
    fn windows(limiter: &mut ConcurrencyLimit, now: &mut Duration, rounds: usize, wait: impl Fn(usize) -> Duration) {
        for _ in 0..rounds {
            let limit = limiter.limit();
            let each = wait(limit) / u32::try_from(limit).unwrap();
            for _ in 0..limit {
                *now += each;
                limiter.record_answer(wait(limit));
                limiter.record_call(*now, 1_000, limit);
            }
        }
    }

    #[test]
    fn a_lucky_window_does_not_raise_the_limit_while_calls_queue() {
        let (mut now, mut limiter) = (Duration::ZERO, ConcurrencyLimit::new(1_024, Duration::ZERO));
        // Every other window the machine is a fifth quicker; each call waits for all others.
        for round in 0..200 {
            let each = Duration::from_micros(if round % 2 == 0 { 200 } else { 165 });
            windows(&mut limiter, &mut now, 1, |limit| each * limit as u32);
            assert!(limiter.limit() <= 2 * INITIAL_LIMIT, "{round}: {}", limiter.limit());
        }
    }

    #[test]
    fn a_queue_lowers_the_limit_and_mere_slowness_does_not() {
        let mut now = Duration::ZERO;
        let mut limiter = ConcurrencyLimit::new(512, now).start_at(512);
        windows(&mut limiter, &mut now, 4, |_| Duration::from_millis(80));
        assert_eq!(limiter.limit(), 512);
        // Served in a row, 100 at once in 80 ms: all calls above them only wait.
        windows(&mut limiter, &mut now, 6, |limit| Duration::from_micros(800 * limit as u64));
        assert!(limiter.limit() < 300, "{}", limiter.limit());
        // As quick as before, then slower for whatever reason.
        windows(&mut limiter, &mut now, 40, |_| Duration::from_millis(80));
        assert_eq!(limiter.limit(), 512);
        windows(&mut limiter, &mut now, 12, |_| Duration::from_millis(240));
        assert_eq!(limiter.limit(), 512);
    }
}
