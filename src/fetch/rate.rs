//! How many calls may start in a second: what the service is known to take, learned from what it refuses.
//!
//! Pure: the clock is handed in. A rate begins at what a bucket is documented to take. Time is cut into *windows*: one in
//! which that many calls started and none was refused *proves* the rate, and a higher one is tried. The first refusals of
//! a rate that was tried lead back to the proven one, and the next try is half as bold, until what is left is the ramp
//! that the service asks for. Refusals of a proven rate say that the service takes less than before: then the rate is
//! a little below what was served.

use std::time::Duration;

/// Refusals in a window that are bad luck at any rate; more are looked at. It is also what a try of too high a rate
/// costs.
const FEW: u64 = 7;

/// What is left of the rate that was served when it is cut. The rest is for calls made again and for uneven arrival.
const BELOW: f64 = 0.97;

/// A larger share of refusals than this is never bad luck, but a service that asks to slow down.
const MOST_LUCK: f64 = 0.25;

/// How long a rate is to be served until a higher one is tried, before anything was refused. A bucket that has served
/// far more than the documented rate before is so used to the full in a second or two.
const WINDOW: Duration = Duration::from_millis(250);

/// The same once calls were refused: then the ceiling is near, and each try above it costs some refusals.
const LEARNED_WINDOW: Duration = Duration::from_secs(2);

/// Shortest time from which a rate is read, for bursts at its beginning.
const SHORTEST: Duration = Duration::from_millis(100);

/// The least that is tried beyond a proven rate in one step; when half a step would be less, the ceiling is known well
/// enough, and what is left is the ramp.
const LEAST_STEP: f64 = 0.02;

/// In how many seconds the service asks for no more than a doubled rate.
const DOUBLING: f64 = 1_200.0;

/// The share of a rate that must have been used for its window to prove it.
const USED: f64 = 0.85;

/// How late a call may start and still not delay those after it: timers are right to a millisecond or two, and a
/// thread may be busy for some. The service lets a tenth of a second's calls come at once.
const SLACK: Duration = Duration::from_millis(20);

/// Least rate; below it waiting would outlast the deadline of calls.
const LEAST: f64 = 1.0;

/// The rate at which calls may start.
#[derive(Debug)]
pub(super) struct Rate {
    most: f64,
    /// Calls a second now.
    rate: f64,
    /// The highest of late that was served for a window; 0 for none.
    proven: f64,
    /// How much more than the proven is tried next.
    step: f64,
    /// Whether anything was refused that was no bad luck.
    learned: bool,
    /// The share of calls that is refused whatever their rate.
    luck: f64,
    cut: Option<Cut>,
    window: Window,
    /// When the next call starts if those before keep to the rate.
    next: Duration,
}

#[derive(Debug, Default)]
struct Window {
    began: Duration,
    started: u64,
    refused: u64,
}

/// What a proven rate was cut for.
#[derive(Clone, Copy, Debug)]
struct Cut {
    at: Duration,
    /// The rate before, and whether it was learned.
    rate: f64,
    learned: bool,
    /// Calls a second that really were sent, and the share of them that was refused.
    sent: f64,
    share: f64,
}

impl Rate {
    /// Begins with `first` calls a second, never more than `most`.
    pub(super) fn new(first: f64, most: f64, now: Duration) -> Self {
        let most = most.max(LEAST);
        Self {
            most,
            rate: first.clamp(LEAST, most),
            proven: 0.0,
            step: 1.0,
            learned: false,
            luck: 0.0,
            cut: None,
            window: Window { began: now, ..Window::default() },
            next: now,
        }
    }

    /// The ceiling in calls a second; `None` before anything was refused.
    pub(super) fn learned(&self) -> Option<f64> {
        self.learned.then_some(self.rate)
    }

    /// When the next call may start.
    pub(super) fn due(&self) -> Duration {
        self.next
    }

    /// A call starts.
    pub(super) fn start(&mut self, now: Duration) {
        let length = if self.learned { LEARNED_WINDOW } else { WINDOW };
        if now.saturating_sub(self.window.began) >= length {
            self.judge(now);
        }
        self.window.started += 1;
        self.next = self.next.max(now.saturating_sub(SLACK)) + Duration::from_secs_f64(1.0 / self.rate);
    }

    /// A window is over without more refusals than bad luck explains.
    fn judge(&mut self, now: Duration) {
        let Window { began, started, refused } =
            std::mem::replace(&mut self.window, Window { began: now, ..Window::default() });
        let elapsed = now.saturating_sub(began).as_secs_f64();
        if started as f64 > 16.0 * FEW as f64 {
            self.luck = self.luck.min(1.5 * refused as f64 / started as f64);
        }
        if (started as f64) < USED * self.rate * elapsed {
            return;
        }
        self.proven = self.rate;
        let more = if self.step < LEAST_STEP { elapsed / DOUBLING } else { self.step };
        self.rate = (self.rate * (1.0 + more)).min(self.most);
    }

    /// The first try of a call that started then was refused: 429, or 503.
    pub(super) fn refused(&mut self, now: Duration, started: Duration) {
        // Of a rate that was given up since.
        if started < self.window.began {
            return;
        }
        self.window.refused += 1;
        let Window { began, started, refused } = self.window;
        let share = refused as f64 / started.max(refused) as f64;
        if refused <= FEW || share <= 2.0 * self.luck {
            return;
        }
        if self.proven > 0.0 && self.rate > self.proven * 1.000_1 {
            self.step /= 2.0;
            // With nothing bolder to try, some room above the rate keeps refusals rare.
            self.set(now, if self.step < LEAST_STEP { self.proven * BELOW } else { self.proven });
            return;
        }
        let elapsed = now.saturating_sub(began);
        if elapsed < SHORTEST {
            return;
        }
        let sent = (started as f64 / elapsed.as_secs_f64()).min(self.rate);
        if let Some(cut) = self.cut.take().filter(|cut| now.saturating_sub(cut.at) < 2 * LEARNED_WINDOW) {
            // What would be refused still, if the service took as much as then and no more.
            let expected = (1.0 - (1.0 - cut.share) * cut.sent / sent).max(0.0);
            if share < MOST_LUCK && share - expected > cut.share / 2.0 {
                self.luck = self.luck.max(share);
                self.set(now, cut.rate);
                self.learned = cut.learned;
                return;
            }
        }
        self.cut = Some(Cut { at: now, rate: self.rate, learned: self.learned, sent, share });
        let rate = (sent * (1.0 - share) * BELOW).max(sent / 2.0);
        // What was lost is tried again, in case it was for a moment.
        self.step = (sent / rate.max(LEAST) - 1.0).min(1.0);
        self.set(now, rate);
    }

    fn set(&mut self, now: Duration, rate: f64) {
        self.learned = true;
        self.rate = rate.clamp(LEAST, self.most);
        self.proven = self.rate;
        self.window = Window { began: now, ..Window::default() };
    }
}
