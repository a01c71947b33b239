//! How many calls may start in a second: what the service is known to take, learned from what it refuses.
//!
//! Pure: the clock is handed in. A rate begins at what a bucket is documented to take. Time is cut into *windows*: one in
//! which that many calls started and none was refused *proves* the rate, and a higher one is tried. The first refusals of
//! a rate that was tried lead back to the proven one, and the next try is half as bold, until what is left is the ramp
//! that the service asks for. Refusals of a proven rate say that the service takes less than before: then the rate is
//! a little below what was served.
//!
//! Many processes may share a bucket, each with a rate far below one call a second. So a window lasts for a number of
//! calls at least, the refusals it bears are fewer where it has few calls, and refusals are *paid for*: a higher rate
//! is tried only when all but one in 50 of the calls of late were served. What thousands of ranks find out so costs the
//! bucket little, and a random first moment keeps ranks that start together from trying together.
//!
//! A service that is down for a moment refuses everything, which says nothing of its ceiling. So a rate that was cut is
//! doubled after each window that is served, whatever is to be paid for, up to what it was before. This ends with the
//! first doubled rate that is refused: then it was a lower ceiling. The rate never falls below a small share of the
//! first.

use std::time::Duration;

/// Refusals in a window that are bad luck at any rate; more are looked at. It is also what a try of too high a rate
/// costs. In a window of few calls it is this share of them.
const FEW: u64 = 7;
const FEW_SHARE: f64 = 0.1;

/// Calls that a window has at least where all were served: with fewer, one refusal more or less is more than noise.
const WINDOW_CALLS: f64 = 16.0;

/// The longest window, however few calls it has: a rate that fell low would else take many minutes to recover.
const LONGEST: Duration = Duration::from_secs(30);

/// Refusals that each call pays for. Ranks that all look for a higher rate are refused no larger share of their calls.
const PAYS: f64 = 0.02;

/// The most refusals that are still to be paid for: what a second of calls pays, and never less than what a try or two
/// cost. A bucket that refused much for a while is else left unused for long after.
const MOST_OWED_SECONDS: f64 = 1.0;
const LEAST_OWED: f64 = 4.0;

/// What is left of the rate that was served when it is cut. The rest is for calls made again and for uneven arrival.
const BELOW: f64 = 0.97;

/// A larger share of refusals than this is never bad luck, but a service that asks to slow down.
const MOST_LUCK: f64 = 0.1;

/// What is left of the belief in bad luck after a window: others who share the bucket can look like it for a while.
const LUCK_FADES: f64 = 0.8;

/// After so long without many refusals, what was served at some time is tried again, in steps of a quarter.
const RETRY: Duration = Duration::from_secs(20);
const RETRY_STEP: f64 = 0.25;

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

/// Least rate: with a call in 100 s each, 10,000 ranks make 100 calls a second, a tenth of what a bucket takes.
pub(crate) const LEAST: f64 = 0.01;

/// The share of its first rate that a process always has: from there five doublings lead back.
const LEAST_SHARE: f64 = 0.05;

/// The most that this share comes to in calls a second. Processes that know nothing of each other each begin with all
/// of a bucket, and some 500 of them have room in the 1,000 writes that it takes.
const MOST_LEAST: f64 = 2.0;

/// The rate at which calls may start.
#[derive(Debug)]
pub(crate) struct Rate {
    most: f64,
    /// The rate never falls below this.
    least: f64,
    /// Calls a second now.
    per_second: f64,
    /// The highest of late that was served for a window; 0 for none.
    proven: f64,
    /// The highest that ever was served for a window, less what time has taken from it.
    best: f64,
    /// When a rate was last given up.
    refused: Duration,
    /// How much more than the proven is tried next.
    step: f64,
    /// Whether anything was refused that was no bad luck.
    learned: bool,
    /// The share of calls that is refused whatever their rate.
    luck: f64,
    /// Refusals that calls have not paid for yet; while there are any, no higher rate is tried, except to recover.
    owed: f64,
    cut: Option<RateCut>,
    /// Whether the rate was cut, and no doubled one was refused since.
    recovers: bool,
    /// What it recovers to: a little less than before it was cut, and less with each try in vain. The service may be
    /// down again before it was reached.
    before: f64,
    window: RateWindow,
    /// When the next call starts if those before keep to the rate.
    next: Duration,
}

#[derive(Debug, Default)]
struct RateWindow {
    began: Duration,
    started: u64,
    refused: u64,
}

/// What a proven rate was cut for.
#[derive(Clone, Copy, Debug)]
struct RateCut {
    at: Duration,
    /// The rate before, and whether it was learned.
    rate: f64,
    learned: bool,
    /// Calls a second that really were sent, and the share of them that was refused.
    sent: f64,
    share: f64,
}

impl Rate {
    /// Begins with `first` calls a second, never more than `most`; `random` in `[0, 1)` sets the moment of the first
    /// call within the first interval, and that of the first try of a higher rate.
    pub(crate) fn new(first: f64, most: f64, now: Duration, random: f64) -> Self {
        let most = most.max(LEAST);
        let first = first.clamp(LEAST, most);
        Self {
            most,
            least: (LEAST_SHARE * first).clamp(LEAST, MOST_LEAST),
            per_second: first,
            proven: 0.0,
            best: 0.0,
            refused: now,
            step: 1.0,
            learned: false,
            luck: 0.0,
            // 25 to 100 calls: ranks that start together don't all try a higher rate in the same moment.
            owed: 0.5 + 1.5 * random,
            cut: None,
            recovers: false,
            before: 0.0,
            window: RateWindow { began: now, ..RateWindow::default() },
            next: now + Duration::from_secs_f64(random / first),
        }
    }

    /// Begins with `first` calls a second instead, unless calls have already shown what is served.
    pub(crate) fn begin_with(&mut self, first: f64, now: Duration, random: f64) {
        if !self.learned && self.proven == 0.0 && self.window.started == 0 {
            *self = Self::new(first, self.most, now, random);
        }
    }

    /// Calls a second now.
    pub(crate) fn per_second(&self) -> f64 {
        self.per_second
    }

    /// How long the rate is to be served until a higher one is tried.
    fn window(&self) -> Duration {
        let length = if self.learned { LEARNED_WINDOW } else { WINDOW };
        length.max(Duration::from_secs_f64(WINDOW_CALLS / self.per_second).min(LONGEST))
    }

    /// Refusals that a window bears: one at least, which may be bad luck.
    fn few(&self) -> u64 {
        ((FEW_SHARE * self.per_second * self.window().as_secs_f64()) as u64).clamp(1, FEW)
    }

    /// The ceiling in calls a second; `None` before anything was refused.
    pub(crate) fn learned(&self) -> Option<f64> {
        self.learned.then_some(self.per_second)
    }

    /// When the next call may start.
    pub(crate) fn due(&self) -> Duration {
        self.next
    }

    /// A call starts. With `more` higher rates than the proven are tried.
    pub(crate) fn start(&mut self, now: Duration, more: bool) {
        if now.saturating_sub(self.window.began) >= self.window() {
            self.judge(now, more);
        }
        self.window.started += 1;
        self.owed = (self.owed - PAYS - self.luck).max(0.0);
        self.next = self.next.max(now.saturating_sub(SLACK)) + Duration::from_secs_f64(1.0 / self.per_second);
    }

    /// A window is over without more refusals than bad luck explains.
    fn judge(&mut self, now: Duration, more: bool) {
        let RateWindow { began, started, refused } =
            std::mem::replace(&mut self.window, RateWindow { began: now, ..RateWindow::default() });
        let elapsed = now.saturating_sub(began).as_secs_f64();
        if started as f64 > 16.0 * FEW as f64 {
            self.luck = (self.luck * LUCK_FADES).min(1.5 * refused as f64 / started as f64);
        }
        if ((started + 1) as f64) < USED * self.per_second * elapsed {
            return;
        }
        self.proven = self.per_second;
        self.best = self.best.max(self.per_second);
        if !more {
            return;
        }
        if self.recovers && self.per_second < self.before {
            // In a window of few calls a refusal may be all that came of them.
            if refused as f64 <= FEW_SHARE.max(self.luck) * started as f64 {
                self.per_second = (2.0 * self.per_second).min(self.before);
            }
            return;
        }
        if self.recovers {
            (self.recovers, self.before) = (false, 0.0);
        }
        if self.owed > 0.0 {
            return;
        }
        if self.step < RETRY_STEP
            && now.saturating_sub(self.refused) > RETRY
            && self.per_second < BELOW * BELOW * self.best
        {
            self.step = RETRY_STEP;
        }
        let more = if self.step < LEAST_STEP { elapsed / DOUBLING } else { self.step };
        self.per_second = (self.per_second * (1.0 + more)).min(self.most);
    }

    /// A call that started then was refused: 429, or 503.
    pub(crate) fn refused(&mut self, now: Duration, started: Duration) {
        self.owed = (self.owed + 1.0).min((PAYS * MOST_OWED_SECONDS * self.per_second).max(LEAST_OWED));
        // Of a rate that was given up since.
        if started < self.window.began {
            return;
        }
        self.window.refused += 1;
        let RateWindow { began, started, refused } = self.window;
        let share = refused as f64 / started.max(refused) as f64;
        if refused <= self.few() || share <= 1.5 * self.luck {
            return;
        }
        if self.proven > 0.0 && self.per_second > self.proven * 1.000_1 {
            self.recovers = false;
            self.step /= 2.0;
            // Each try in vain makes it less likely that the best comes back.
            self.best = self.best.mul_add(0.9, 0.1 * self.proven).max(self.proven);
            self.before *= 0.9;
            // With nothing bolder to try, some room above the rate keeps refusals rare.
            self.set(now, if self.step < LEAST_STEP { self.proven * BELOW } else { self.proven });
            return;
        }
        let elapsed = now.saturating_sub(began);
        if elapsed < SHORTEST {
            return;
        }
        let sent = (started as f64 / elapsed.as_secs_f64()).min(self.per_second);
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
        self.cut = Some(RateCut { at: now, rate: self.per_second, learned: self.learned, sent, share });
        // Few were sent where there was little to do for most of the window, which says nothing of what is taken.
        let rate = (sent * (1.0 - share) * BELOW).max(sent / 2.0).max(self.per_second / 2.0);
        // What was lost is tried again, in case it was for a moment.
        self.step = (sent / rate.max(LEAST) - 1.0).min(1.0);
        self.recovers = true;
        self.before = self.before.max(BELOW * self.per_second);
        self.set(now, rate);
    }

    fn set(&mut self, now: Duration, rate: f64) {
        self.learned = true;
        self.refused = now;
        self.per_second = rate.clamp(self.least, self.most);
        self.proven = self.per_second;
        self.window = RateWindow { began: now, ..RateWindow::default() };
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    /// The service's side: tokens that come back at a rate, up to a tenth of a second's worth.
    struct TokenBucket {
        left: f64,
        last: Duration,
    }

    impl TokenBucket {
        fn take(&mut self, now: Duration, rate: f64) -> bool {
            self.left = (self.left + now.saturating_sub(self.last).as_secs_f64() * rate).min((rate / 10.0).max(1.0));
            self.last = now;
            let fits = self.left >= 1.0;
            if fits {
                self.left -= 1.0;
            }
            fits
        }
    }

    /// One of those that share a bucket.
    struct SimulatedRank {
        rate: Rate,
        begins: Duration,
        most_in_flight: usize,
        in_flight: usize,
        started: u64,
        /// Refused calls that wait for their turn.
        again: u64,
    }

    /// What happens to a call: whose it is, when it began, and what the service said.
    struct CallAnswer {
        rank: usize,
        began: Duration,
        refused: bool,
    }

    /// What came of a run, a second each.
    #[derive(Clone, Copy, Debug, Default)]
    struct SecondTotals {
        served: u64,
        refused: u64,
    }

    /// Ranks for so many seconds against a service that takes `capacity(second)` calls a second, answers after
    /// `latency` and refuses after 5 ms. What is refused waits for half a second, and then for its turn before new
    /// calls, as in the client. Of all calls a share `unlucky` is refused whatever their rate.
    fn run(
        ranks: &mut [SimulatedRank],
        seconds: u64,
        latency: Duration,
        unlucky: f64,
        capacity: impl Fn(u64) -> f64,
    ) -> Vec<SecondTotals> {
        const STEP: Duration = Duration::from_micros(200);
        const REFUSAL: Duration = Duration::from_millis(5);
        const AGAIN: Duration = Duration::from_millis(500);
        let mut tokens = TokenBucket { left: 0.0, last: Duration::ZERO };
        let mut out = vec![SecondTotals::default(); seconds as usize];
        let (mut answers, mut refusals) =
            (VecDeque::<(Duration, CallAnswer)>::new(), VecDeque::<(Duration, CallAnswer)>::new());
        let mut again = VecDeque::<(Duration, usize)>::new();
        let mut now = Duration::ZERO;
        let (mut draw, mut turn) = (0u64, 0);
        while now < Duration::from_secs(seconds) {
            let second = now.as_secs();
            let mut call = |now: Duration, rank: usize, out: &mut Vec<SecondTotals>| {
                draw = draw.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let lucky = (draw >> 11) as f64 / (1u64 << 53) as f64 >= unlucky;
                let refused = !lucky || !tokens.take(now, capacity(second));
                out[second as usize].refused += u64::from(refused);
                out[second as usize].served += u64::from(!refused);
                if refused {
                    refusals.push_back((now + REFUSAL, CallAnswer { rank, began: now, refused }));
                } else {
                    answers.push_back((now + latency, CallAnswer { rank, began: now, refused }));
                }
            };
            while again.front().is_some_and(|(at, _)| *at <= now) {
                let (_, rank) = again.pop_front().unwrap();
                ranks[rank].again += 1;
            }
            turn += 1;
            for offset in 0..ranks.len() {
                let index = (turn + offset) % ranks.len();
                let rank = &mut ranks[index];
                while now >= rank.begins && rank.in_flight < rank.most_in_flight && rank.rate.due() <= now {
                    rank.rate.start(now, true);
                    rank.in_flight += 1;
                    // Those made again go first.
                    if rank.again > 0 {
                        rank.again -= 1;
                    } else {
                        rank.started += 1;
                    }
                    call(now, index, &mut out);
                }
            }
            for queue in [&mut answers, &mut refusals] {
                while queue.front().is_some_and(|(at, _)| *at <= now) {
                    let (_, answer) = queue.pop_front().unwrap();
                    ranks[answer.rank].in_flight -= 1;
                    if answer.refused {
                        ranks[answer.rank].rate.refused(now, answer.began);
                        again.push_back((now + AGAIN, answer.rank));
                    }
                }
            }
            now += STEP;
        }
        out
    }

    fn rank(first: f64, begins: u64, most_in_flight: usize) -> SimulatedRank {
        let begins = Duration::from_secs(begins);
        let rate = Rate::new(first, f64::INFINITY, begins, 0.5);
        SimulatedRank { rate, begins, most_in_flight, in_flight: 0, started: 0, again: 0 }
    }

    fn mean(seconds: &[SecondTotals]) -> (f64, f64) {
        let (served, refused) =
            seconds.iter().fold((0, 0), |(served, refused), second| (served + second.served, refused + second.refused));
        (served as f64 / seconds.len() as f64, refused as f64 / (served + refused).max(1) as f64)
    }

    const READ: Duration = Duration::from_millis(80);

    #[test]
    fn the_documented_rate_is_used_from_the_first_second_on_and_little_is_refused() {
        let seconds = run(&mut [rank(5_000.0, 0, 512)], 60, READ, 0.0, |_| 5_000.0);
        let (served, refused) = mean(&seconds);
        assert!(served > 0.95 * 5_000.0 && refused < 0.005, "{served} {refused}");
        let (served, refused) = mean(&seconds[20..]);
        assert!(served > 0.96 * 5_000.0 && refused < 0.002, "{served} {refused}");
        // Composes take ten times as long.
        let (served, refused) =
            mean(&run(&mut [rank(1_000.0, 0, 1_024)], 60, Duration::from_millis(800), 0.0, |_| 1_000.0));
        assert!(served > 0.94 * 1_000.0 && refused < 0.02, "{served} {refused}");
    }

    #[test]
    fn a_bucket_that_takes_more_is_used_within_seconds() {
        let mut ranks = [rank(5_000.0, 0, 4_096)];
        let seconds = run(&mut ranks, 20, READ, 0.0, |_| 23_000.0);
        let (served, refused) = mean(&seconds[8..]);
        assert!(served > 0.9 * 23_000.0 && refused < 0.01, "{served} {refused}");
        assert!(ranks[0].rate.learned().is_some());
        // What isn't used is no reason to believe in more.
        let mut ranks = [rank(5_000.0, 0, 64)];
        run(&mut ranks, 20, READ, 0.0, |_| 1e9);
        assert_eq!((ranks[0].rate.per_second, ranks[0].rate.learned()), (5_000.0, None));
    }

    #[test]
    fn a_ceiling_that_falls_is_followed_down_and_up_again() {
        let capacity = |second| if (30..60).contains(&second) { 1_500.0 } else { 5_000.0 };
        let seconds = run(&mut [rank(5_000.0, 0, 512)], 120, READ, 0.0, capacity);
        let (served, refused) = mean(&seconds[40..60]);
        assert!(served > 0.85 * 1_500.0 && refused < 0.05, "{served} {refused}");
        let (served, refused) = mean(&seconds[90..]);
        assert!(served > 0.85 * 5_000.0 && refused < 0.01, "{served} {refused}");
    }

    #[test]
    fn eight_ranks_share_a_bucket() {
        let mut ranks: Vec<_> = (0..8).map(|n| rank(5_000.0, n / 2, 512)).collect();
        let seconds = run(&mut ranks, 120, READ, 0.0, |_| 5_000.0);
        let (served, refused) = mean(&seconds[10..]);
        assert!(served > 0.8 * 5_000.0 && refused < 0.05, "{served} {refused}");
        let least = ranks.iter().map(|rank| rank.started).min().unwrap();
        assert!(least as f64 > 5_000.0 / 8.0 * 120.0 * 0.1, "{least}");
    }

    #[test]
    fn a_rate_that_is_enough_is_left_alone() {
        let mut rate = Rate::new(5_000.0, f64::INFINITY, Duration::ZERO, 0.5);
        let mut seconds = |from: u64, to: u64, more| {
            let mut now = Duration::from_secs(from);
            while now < Duration::from_secs(to) {
                now = now.max(rate.due());
                rate.start(now, more);
            }
            rate.per_second
        };
        assert!((4_999.0..5_001.0).contains(&seconds(0, 10, false)));
        assert!(seconds(10, 11, true) > 10_000.0);
    }

    #[test]
    fn refusals_that_come_at_any_rate_do_not_stop_it() {
        let seconds = run(&mut [rank(5_000.0, 0, 512)], 60, READ, 0.05, |_| 1e9);
        let (served, _) = mean(&seconds[10..]);
        assert!(served > 4_000.0, "{served}");
    }

    #[test]
    fn a_service_that_refuses_everything_is_hardly_asked() {
        let mut ranks = [rank(5_000.0, 0, 1_000_000)];
        run(&mut ranks, 60, READ, 1.0, |_| 1e9);
        assert!(ranks[0].rate.per_second < 100.0, "{}", ranks[0].rate.per_second);
    }

    #[test]
    fn the_users_cap_holds() {
        let mut rank = rank(5_000.0, 0, 512);
        rank.rate = Rate::new(5_000.0, 300.0, Duration::ZERO, 0.5);
        let seconds = run(&mut [rank], 20, READ, 0.0, |_| 1e9);
        assert!(seconds.iter().all(|second| second.served <= 310), "{seconds:?}");
        assert!(mean(&seconds).0 > 295.0);
    }

    /// Refusals of a few seconds left reads nearly stopped for minutes, and those of a minute for hours.
    #[test]
    fn a_short_outage_is_made_up_for_soon() {
        // One of a thousand ranks has a small rate, and so few calls from which to learn anything.
        for (first, down, up_between, within) in [
            (4_850.0, 10..15, 0, 60),
            (4_850.0, 10..70, 0, 60),
            (4_850.0, 0..5, 0, 60),
            (4_850.0, 10..70, 10, 60),
            (1_000.0, 10..70, 0, 60),
            (4.85, 10..70, 0, 150),
            (0.5, 0..20, 0, 150),
        ] {
            // Down, up for a moment, and down again.
            let up = down.end / 2..down.end / 2 + up_between;
            let mut ranks = [rank(first, 0, 512)];
            let over = down.end + within;
            let is_down = |second| down.contains(&second) && !up.contains(&second);
            let capacity = |second| if is_down(second) { 0.0 } else { 1.1 * first };
            let seconds = run(&mut ranks, over + 20, READ, 0.0, capacity);
            let (served, refused) = mean(&seconds[over as usize..]);
            assert!(served > 0.8 * first && refused < 0.05, "{first}, {down:?}, {up:?}: {served} {refused}");
            let at_first = 0.2 * first;
            let asked: u64 = seconds[down.start as usize..down.end as usize].iter().map(|second| second.refused).sum();
            let most = at_first + 5.0 * (down.end - down.start) as f64;
            assert!(asked as f64 <= most, "{first}, {down:?}, {up:?}: what is down is asked {asked} times");
        }
    }
}
