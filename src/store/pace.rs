//! How many calls to have in flight: as many as help, fewer when the service asks to slow down.
//!
//! Pure: the clock is handed in. Calls are looked at in *windows* of as many as may be in flight, about one round trip.
//! While each wider limit brings more work a second, the limit doubles; once it doesn't, it goes back to the last that
//! did and from there on tries a little more now and then. A window with many refusals halves it. Answers that have
//! become slow while no more work is done lower it, and if that doesn't make them quicker, it wasn't what slowed them.

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

/// How much longer answers take, at a doubled limit, where the calls that came on top only wait in a queue. Twice as long
/// if all of them do; the first calls on new connections take some tens of percent longer by themselves.
const QUEUED: f64 = 1.6;

/// How many times the least wait for an answer is slow. Networks and services vary by some tens of percent.
const SLOW: f64 = 1.6;

/// How the least wait fades from window to window, so that a lucky moment isn't the measure for good.
const FADING: f64 = 1.01;

/// Answers that take no longer than this times the least wait come without a queue.
const FLAT: f64 = 1.25;

/// Windows to stay with a limit that more was of no help to, although there is no queue.
const FLAT_SETTLED: u32 = 4;

/// What slow answers leave of the limit, for a window.
const EASED: f64 = 0.7;

/// A wait for an answer that is this much of an earlier one has become shorter.
const QUICKER: f64 = 0.85;

/// The limit on calls in flight.
#[derive(Debug)]
pub(crate) struct Pace {
    ceiling: usize,
    limit: usize,
    /// Shortest window, so that work a second isn't noise where calls take less than a millisecond.
    shortest: Duration,
    /// The least mean wait for an answer in a window, and work a second of the best window since then.
    quickest: Option<Duration>,
    best: f64,
    /// Limit and mean wait before the limit was lowered for slow answers.
    eased: Option<(usize, Duration)>,
    /// Limit, work a second and mean wait of the window before the limit was raised.
    before: Option<(usize, f64, Option<Duration>)>,
    /// Windows since the limit was settled on.
    settled: Option<u32>,
    window: PaceWindow,
}

#[derive(Debug, Default)]
struct PaceWindow {
    began: Duration,
    calls: usize,
    refusals: usize,
    work: u64,
    /// Calls that the limit held others back with.
    full: usize,
    answers: u32,
    waited: Duration,
}

impl PaceWindow {
    fn wait(&self) -> Option<Duration> {
        (self.answers > 0).then(|| self.waited / self.answers)
    }
}

impl Pace {
    /// Never more than `ceiling` calls, never less than one.
    pub(crate) fn new(ceiling: usize, now: Duration) -> Self {
        let ceiling = ceiling.max(1);
        Self {
            ceiling,
            limit: ceiling.min(START),
            shortest: Duration::ZERO,
            quickest: None,
            best: 0.0,
            eased: None,
            before: None,
            settled: None,
            window: PaceWindow { began: now, ..PaceWindow::default() },
        }
    }

    /// Begins with `calls` instead.
    pub(crate) fn start_with(mut self, calls: usize) -> Self {
        self.limit = calls.clamp(1, self.ceiling);
        self
    }

    /// Looks at calls for at least so long, however many they are.
    pub(crate) fn windows_of(mut self, shortest: Duration) -> Self {
        self.shortest = shortest;
        self
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
        if self.window.calls >= self.limit && now.saturating_sub(self.window.began) >= self.shortest {
            self.judge(now);
        }
    }

    /// The first sign of an answer came after this long.
    pub(crate) fn answered(&mut self, wait: Duration) {
        self.window.answers += 1;
        self.window.waited += wait;
    }

    /// Calls were refused at their first try: 429, or 503.
    pub(crate) fn refused(&mut self, now: Duration, calls: usize) {
        self.window.refusals += calls;
        // Waiting for the window to fill would mean waiting for calls that sleep.
        if self.window.refusals > (self.limit / FEW).max(1) {
            self.limit = (self.limit / 2).max(LEAST.min(self.ceiling));
            (self.before, self.settled) = (None, Some(SETTLED - RECOVERY));
            self.window = PaceWindow { began: now, ..PaceWindow::default() };
        }
    }

    fn judge(&mut self, now: Duration) {
        let window = std::mem::replace(&mut self.window, PaceWindow { began: now, ..PaceWindow::default() });
        // Too little to do, or refusals: no reason to allow more.
        if window.full * 2 < window.calls || window.refusals > 0 {
            return;
        }
        let rate = window.work as f64 / now.saturating_sub(window.began).as_secs_f64().max(1e-9);
        if let Some(wait) = window.wait()
            && self.ease(wait, rate)
        {
            return;
        }
        if let Some(windows) = &mut self.settled {
            *windows += 1;
            // Answers as quick as ever are no sign of a queue, and it may have been a bad window that was judged.
            let quick = window.wait().zip(self.quickest).is_some_and(|(wait, quickest)| wait < quickest.mul_f64(FLAT));
            let (enough, by) = if quick { (FLAT_SETTLED, self.limit) } else { (SETTLED, (self.limit / 4).max(1)) };
            if *windows >= enough {
                self.settled = None;
                self.raise(rate, window.wait(), by);
            }
            return;
        }
        match self.before {
            // The first calls on new connections are slower, so the limit itself is the share that must be gained.
            Some((limit, earlier, waited))
                if !helped(gain(limit, self.limit), (earlier, waited), (rate, window.wait())) =>
            {
                self.limit = limit;
                (self.before, self.settled) = (None, Some(0));
            }
            _ => self.raise(rate, window.wait(), self.limit),
        }
    }

    /// Lowers the limit for slow answers, or takes that back. True if it did.
    fn ease(&mut self, wait: Duration, rate: f64) -> bool {
        if let Some((limit, before)) = self.eased.take() {
            if wait > before.mul_f64(QUICKER) {
                // Answers take this long now, however many are waited for.
                (self.limit, self.quickest, self.best) = (limit, Some(wait), rate);
            }
            (self.before, self.settled) = (None, Some(SETTLED - RECOVERY));
            return true;
        }
        let quickest = self.quickest.map_or(wait, |quickest| quickest.mul_f64(FADING).min(wait));
        self.quickest = Some(quickest);
        // Half of the tries to go up are slow windows, too, and are judged by what they brought.
        // Up to START the queue is hardly ours, but that of a busy machine, say.
        if self.limit > START && self.before.is_none() && wait > quickest.mul_f64(SLOW) && rate < self.best * HELPS {
            self.eased = Some((self.limit, wait));
            self.limit = ((self.limit as f64 * EASED) as usize).max(START);
            self.best = self.best.min(rate);
            return true;
        }
        self.best = self.best.max(rate);
        false
    }

    fn raise(&mut self, rate: f64, wait: Option<Duration>, by: usize) {
        let limit = self.limit.saturating_add(by).min(self.ceiling);
        if limit > self.limit {
            self.before = Some((self.limit, rate, wait));
            self.limit = limit;
        }
    }
}

/// Whether a limit raised by this gain did more work, and not by a lucky window: work and waits tell of one thing, by
/// different calls.
fn helped(gain: f64, before: (f64, Option<Duration>), now: (f64, Option<Duration>)) -> bool {
    let queued = before.1.zip(now.1).is_some_and(|(before, now)| now > before.mul_f64(1.0 + (QUEUED - 1.0) * gain));
    now.0 >= before.0 * (1.0 + (HELPS - 1.0) * gain) && !queued
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

    /// Windows with `limit` calls that each take `wait`.
    fn windows(pace: &mut Pace, now: &mut Duration, rounds: usize, wait: impl Fn(usize) -> Duration) {
        for _ in 0..rounds {
            let limit = pace.limit();
            let each = wait(limit) / u32::try_from(limit).unwrap();
            for _ in 0..limit {
                *now += each;
                pace.answered(wait(limit));
                pace.done(*now, 1_000, limit);
            }
        }
    }

    #[test]
    fn a_lucky_window_does_not_raise_the_limit_while_calls_queue() {
        let (mut now, mut pace) = (Duration::ZERO, Pace::new(1_024, Duration::ZERO));
        // Every other window the machine is a fifth quicker; each call waits for all others.
        for round in 0..200 {
            let each = Duration::from_micros(if round % 2 == 0 { 200 } else { 165 });
            windows(&mut pace, &mut now, 1, |limit| each * limit as u32);
            assert!(pace.limit() <= 2 * START, "{round}: {}", pace.limit());
        }
    }

    #[test]
    fn a_queue_lowers_the_limit_and_mere_slowness_does_not() {
        let mut now = Duration::ZERO;
        let mut pace = Pace::new(512, now).start_with(512);
        windows(&mut pace, &mut now, 4, |_| Duration::from_millis(80));
        assert_eq!(pace.limit(), 512);
        // Served one after the other, 100 at once in 80 ms: all beyond them only wait.
        windows(&mut pace, &mut now, 6, |limit| Duration::from_micros(800 * limit as u64));
        assert!(pace.limit() < 300, "{}", pace.limit());
        // As quick as before, then slower for whatever reason.
        windows(&mut pace, &mut now, 40, |_| Duration::from_millis(80));
        assert_eq!(pace.limit(), 512);
        windows(&mut pace, &mut now, 12, |_| Duration::from_millis(240));
        assert_eq!(pace.limit(), 512);
    }
}
