//! Limit on the calls that start in a second: what the service is known to take, learned from its refusals.
//!
//! This module is pure: callers hand in the clock. The rate begins at what a bucket is documented to take. Time is cut
//! into *windows*. A window in which that many calls started and hardly any was refused *proves* the rate, and a higher
//! one is tried: twice the rate, or halfway to the lowest rate that was refused, whichever is less. Refusals of a rate
//! on trial lead back to the rate before. Once no refusal has set the rate for a while, a quarter more is tried after
//! each window that is served, in case the ceiling has risen.
//!
//! Refusals of a rate that is not on trial mean that the service takes less than before: the rate is cut to a little
//! below what was served. But a service that is down for a moment refuses everything, which says nothing of its
//! ceiling. So the rate then *recovers*: it doubles after each window that is served, up to what it was, until a
//! doubled rate is refused. It never falls below two calls a second, or a twentieth of the first rate if that is less.
//!
//! Many processes may share a bucket, each with a rate far below one call a second. So a window has a minimum of calls,
//! tolerates fewer refusals if it has few calls, and refusals are a *debt* that calls pay off: a higher rate is tried
//! only if all but one in 50 of the recent calls were served. So the search of thousands of ranks costs the bucket
//! little, and a random first debt keeps ranks that start together from trying together.

use std::time::Duration;

/// Refusals that a window tolerates, because a few occur at every rate. A trial of too high a rate costs one more.
const TOLERATED_REFUSALS: u64 = 7;

/// Largest share of refusals that can be unrelated to the rate. A larger share means that the service asks to slow
/// down.
const MAX_UNRELATED_SHARE: f64 = 0.1;

/// Calls that prove a rate. With fewer, a single refusal would change the result by more than the usual noise.
const MIN_WINDOW_CALLS: f64 = 16.0;

/// Shortest window before anything was refused. With windows this short, a bucket that takes far more than the
/// documented rate is used to the full within a second or two.
const FIRST_WINDOW: Duration = Duration::from_millis(250);

/// Shortest window once calls were refused: the ceiling is near, and each trial above it costs some refusals.
const LEARNED_WINDOW: Duration = Duration::from_secs(2);

/// Longest window, however few calls it has: a rate that fell low would else take many minutes to recover.
const MAX_WINDOW: Duration = Duration::from_secs(30);

/// A window younger than this is not measured, because a burst at its start would dominate.
const MIN_MEASURED: Duration = Duration::from_millis(50);

/// Share of the rate that must have been used for a window to prove it.
const USED: f64 = 0.85;

/// Debt that each call pays off. In the long run trials of higher rates have at most this share of calls refused.
const DEBT_PER_CALL: f64 = 0.02;

/// A cut sets the rate to this share of the served rate. The rest is for retries and uneven arrival.
const CUT: f64 = 0.97;

/// Smallest step of a trial. When half the way to the ceiling is less, the ceiling is known well enough.
const MIN_STEP: f64 = 0.02;

/// Time since refusals last set the rate, after which each window that is served adds a quarter: the ceiling may have
/// risen.
const RETRIAL_INTERVAL: Duration = Duration::from_secs(20);

/// How late a call may start without a delay of those after it: timers are right to a millisecond or two, and a thread
/// may be busy for some. The service lets a tenth of a second's calls come at once.
const SLACK: Duration = Duration::from_millis(20);

/// Lowest rate: with a call in 100 s each, 10,000 ranks make 100 calls a second, a tenth of what a bucket takes.
pub(crate) const MIN_RATE: f64 = 0.01;

/// Lower bound of a rate that is a small part of a bucket's, as a share of the first rate: five doublings lead back.
const MIN_SHARE: f64 = 0.05;

/// Lower bound of all other rates: 500 processes that don't know of each other just fill the 1,000 writes a second of a
/// bucket at this rate. A dozen doublings lead from there to 5,000 calls a second, in windows of eight seconds at first
/// and two later.
const MAX_MIN_RATE: f64 = 2.0;

/// The rate at which calls may start.
#[derive(Debug)]
pub(crate) struct RateLimit {
    max: f64,
    min: f64,
    /// Calls a second now.
    per_second: f64,
    /// The rate that trials start from and return to: the first one, one that was served for a window, or one that
    /// refusals have set.
    base: f64,
    /// The lowest rate that was refused recently, and which trials stay below.
    ceiling: f64,
    /// When refusals last set the rate.
    last_set_by_refusals: Duration,
    /// Whether the rate was cut, and doubles until it is what it was or a doubled rate is refused.
    is_recovering: bool,
    /// The rate to recover, less 10% for each trial that was refused since: the service may be down again before the
    /// rate is reached, or take less for good.
    recovery_rate: f64,
    /// Whether refusals have shown what the service takes.
    is_learned: bool,
    /// Whether the rate is still the first one: not served for a window yet, nor changed by refusals.
    is_unproven: bool,
    /// Share of calls that is refused whatever the rate.
    unrelated_share: f64,
    /// Refusals that calls have not paid off. While there are any, a higher rate is tried only to recover.
    debt: f64,
    cut: Option<RateCut>,
    window: RateWindow,
    /// When the next call starts if the calls before keep to the rate.
    next_start: Duration,
}

#[derive(Debug, Default)]
struct RateWindow {
    began: Duration,
    started: u64,
    refused: u64,
}

impl RateWindow {
    fn starting(now: Duration) -> Self {
        Self { began: now, ..Self::default() }
    }
}

/// A cut of a rate that was not on trial.
#[derive(Clone, Copy, Debug)]
struct RateCut {
    at: Duration,
    /// The rate before, and the share of its calls that was refused.
    rate: f64,
    refused_share: f64,
}

impl RateLimit {
    /// Limit that starts at `first` calls a second and never exceeds `max`. `random` in `[0, 1)` sets the moment of the
    /// first call within the first interval, and the first debt.
    pub(crate) fn new(first: f64, max: f64, now: Duration, random: f64) -> Self {
        let max = max.max(MIN_RATE);
        let first = first.clamp(MIN_RATE, max);
        Self {
            max,
            min: (MIN_SHARE * first).clamp(MIN_RATE, MAX_MIN_RATE),
            per_second: first,
            base: first,
            ceiling: f64::INFINITY,
            last_set_by_refusals: now,
            is_recovering: false,
            recovery_rate: 0.0,
            is_learned: false,
            is_unproven: true,
            unrelated_share: 0.0,
            // Paid off by 25 to 100 calls.
            debt: 0.5 + 1.5 * random,
            cut: None,
            window: RateWindow::starting(now),
            next_start: now + Duration::from_secs_f64(random / first),
        }
    }

    /// Replaces the first rate, unless it was served for a window or changed by refusals.
    pub(crate) fn start_at(&mut self, first: f64, now: Duration, random: f64) {
        if self.is_unproven && !self.is_learned {
            *self = Self::new(first, self.max, now, random);
        }
    }

    /// Calls a second now.
    pub(crate) fn per_second(&self) -> f64 {
        self.per_second
    }

    /// The current rate in calls a second; `None` until refusals have changed it.
    pub(crate) fn learned(&self) -> Option<f64> {
        self.is_learned.then_some(self.per_second)
    }

    /// When the next call may start.
    pub(crate) fn next_start(&self) -> Duration {
        self.next_start
    }

    /// Records the start of a call. A higher rate is tried only if `wants_more`.
    pub(crate) fn record_start(&mut self, now: Duration, wants_more: bool) {
        if now.saturating_sub(self.window.began) >= self.window_length() {
            self.judge(now, wants_more);
        }
        self.window.started += 1;
        self.debt = (self.debt - DEBT_PER_CALL - self.unrelated_share).max(0.0);
        let interval = Duration::from_secs_f64(1.0 / self.per_second);
        self.next_start = self.next_start.max(now.saturating_sub(SLACK)) + interval;
    }

    /// How long a rate must be served to be proven.
    fn window_length(&self) -> Duration {
        let shortest = if self.is_learned { LEARNED_WINDOW } else { FIRST_WINDOW };
        shortest.max(Duration::from_secs_f64(MIN_WINDOW_CALLS / self.per_second).min(MAX_WINDOW))
    }

    /// Refusals that a window tolerates: at least one, which may be unrelated to the rate.
    fn tolerated_refusals(&self) -> u64 {
        ((MAX_UNRELATED_SHARE * self.per_second * self.window_length().as_secs_f64()) as u64)
            .clamp(1, TOLERATED_REFUSALS)
    }

    /// Ends a window that had only tolerated refusals.
    fn judge(&mut self, now: Duration, wants_more: bool) {
        let RateWindow { began, started, refused } = std::mem::replace(&mut self.window, RateWindow::starting(now));
        let elapsed = now.saturating_sub(began).as_secs_f64();
        let refused_share = refused as f64 / started.max(1) as f64;
        // The share may be too high, because others used the bucket for a while.
        self.unrelated_share = self.unrelated_share.min(1.5 * refused_share);
        // The call that is about to start counts, too.
        if ((started + 1) as f64) < USED * self.per_second * elapsed {
            return;
        }

        // A window of few calls tolerates one refusal, which may be all that came of them. That proves nothing, and
        // during an outage it would lead to a trial, whose refusal ends the recovery.
        if refused_share > MAX_UNRELATED_SHARE.max(self.unrelated_share) {
            return;
        }

        self.base = self.per_second;
        self.is_unproven = false;
        if !wants_more {
            return;
        }
        if self.base >= self.recovery_rate {
            (self.is_recovering, self.recovery_rate) = (false, 0.0);
        }
        if self.is_recovering {
            self.per_second = (2.0 * self.base).min(self.recovery_rate);
            return;
        }
        if self.debt > 0.0 {
            return;
        }

        if now.saturating_sub(self.last_set_by_refusals) > RETRIAL_INTERVAL {
            // Halved below: a quarter more is tried.
            self.ceiling = self.ceiling.max(1.5 * self.base);
        }
        let halfway = (self.ceiling / self.base - 1.0) / 2.0;
        if halfway > MIN_STEP {
            self.per_second = (self.base * (1.0 + halfway.min(1.0))).min(self.max);
        }
    }

    /// Records that a call that started at `started` was refused (429, 503).
    pub(crate) fn record_refusal(&mut self, now: Duration, started: Duration) {
        // Grows to the cost of one trial at most: otherwise a bucket that refused much for a while would be left unused
        // for long after.
        self.debt = (self.debt + 1.0).min(self.debt.max(self.tolerated_refusals() as f64 + 1.0));
        // The call belongs to an earlier window.
        if started < self.window.began {
            return;
        }
        self.window.refused += 1;
        let RateWindow { began, started, refused } = self.window;
        let refused_share = refused as f64 / started.max(refused) as f64;
        if refused <= self.tolerated_refusals() || refused_share <= 1.5 * self.unrelated_share {
            return;
        }

        if self.per_second > self.base {
            self.end_trial(now);
            return;
        }
        let elapsed = now.saturating_sub(began);
        if elapsed >= MIN_MEASURED {
            let sent = (started as f64 / elapsed.as_secs_f64()).min(self.per_second);
            self.cut(now, sent, refused_share);
        }
    }

    /// Returns from a refused trial to the rate before.
    fn end_trial(&mut self, now: Duration) {
        self.is_recovering = false;
        self.recovery_rate *= 0.9;
        self.ceiling = self.per_second;
        // If no trial is left, some room above the rate keeps refusals rare.
        let is_close = self.ceiling < self.base * (1.0 + 2.0 * MIN_STEP);
        self.set_by_refusals(now, if is_close { self.base * CUT } else { self.base });
    }

    /// Cuts a rate of which `refused_share` was refused, or takes back a cut that didn't help.
    fn cut(&mut self, now: Duration, sent: f64, refused_share: f64) {
        if let Some(cut) = self.cut.take().filter(|cut| now.saturating_sub(cut.at) < 2 * LEARNED_WINDOW)
            && refused_share < MAX_UNRELATED_SHARE
            && refused_share > cut.refused_share / 2.0
        {
            self.unrelated_share = self.unrelated_share.max(refused_share);
            return self.set_by_refusals(now, cut.rate);
        }
        self.cut = Some(RateCut { at: now, rate: self.per_second, refused_share });

        self.recovery_rate = self.recovery_rate.max(CUT * self.per_second);
        self.is_recovering = true;
        // If the process was idle for most of the window, `sent` is too low, so the rate is halved at most.
        self.set_by_refusals(now, (sent * (1.0 - refused_share) * CUT).max(self.per_second / 2.0));
    }

    /// Sets the rate by what refusals have shown.
    fn set_by_refusals(&mut self, now: Duration, rate: f64) {
        self.is_learned = true;
        self.last_set_by_refusals = now;
        self.base = rate.clamp(self.min, self.max);
        self.per_second = self.base;
        self.window = RateWindow::starting(now);
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

    /// A rank that shares the bucket with others.
    struct SimulatedRank {
        rate: RateLimit,
        begins: Duration,
        most_in_flight: usize,
        in_flight: usize,
        started: u64,
        /// Refused calls that wait to be made again.
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
                while now >= rank.begins && rank.in_flight < rank.most_in_flight && rank.rate.next_start() <= now {
                    rank.rate.record_start(now, true);
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
                        ranks[answer.rank].rate.record_refusal(now, answer.began);
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
        let rate = RateLimit::new(first, f64::INFINITY, begins, 0.5);
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
        let mut rate = RateLimit::new(5_000.0, f64::INFINITY, Duration::ZERO, 0.5);
        let mut seconds = |from: u64, to: u64, more| {
            let mut now = Duration::from_secs(from);
            while now < Duration::from_secs(to) {
                now = now.max(rate.next_start());
                rate.record_start(now, more);
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
        rank.rate = RateLimit::new(5_000.0, 300.0, Duration::ZERO, 0.5);
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
            (0.97, 10..130, 0, 300),
            (0.97, 10..150, 0, 300),
            (0.97, 10..165, 0, 300),
            (0.97, 10..180, 0, 300),
        ] {
            // Down, up for a moment, and down again.
            let up = down.end / 2..down.end / 2 + up_between;
            let mut ranks = [rank(first, 0, 512)];
            let over = down.end + within;
            let is_down = |second| down.contains(&second) && !up.contains(&second);
            let capacity = |second| if is_down(second) { 0.0 } else { 1.1 * first };
            let seconds = run(&mut ranks, over + 20, READ, 0.0, capacity);
            let (served, refused) = mean(&seconds[over as usize..]);
            // A trial costs a refusal or two, which are more than that share of the few calls of a low rate.
            let refusals: u64 = seconds[over as usize..].iter().map(|second| second.refused).sum();
            let is_rarely_refused = refused < 0.05 || refusals <= 2;
            assert!(served > 0.8 * first && is_rarely_refused, "{first}, {down:?}, {up:?}: {served} {refused}");
            let at_first = 0.2 * first;
            let asked: u64 = seconds[down.start as usize..down.end as usize].iter().map(|second| second.refused).sum();
            let most = at_first + 5.0 * (down.end - down.start) as f64;
            assert!(asked as f64 <= most, "{first}, {down:?}, {up:?}: what is down is asked {asked} times");
        }
    }
}
