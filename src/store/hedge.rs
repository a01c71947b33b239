//! When a read that nothing comes of is asked for a second time. No I/O and no clock.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Reads whose waits are remembered: enough for a percentile of 99, few enough to follow a service within seconds.
const REMEMBERED: usize = 512;

/// Waits that must be known before any is called long.
const LEAST: usize = 64;

/// After how many new waits the percentile is found anew; finding it takes some microseconds.
const RENEWED: usize = 32;

/// Shortest wait that is called long: timers know no less.
const SHORTEST: Duration = Duration::from_millis(1);

/// Requests over which the share of second ones is held.
const WINDOW: u64 = 1_000;

/// Second requests for what a read misses when nothing comes for long: they cut the slow tail of a service that answers
/// one request in a hundred late, and cost their share in calls. Off unless asked for.
///
/// A read is asked for again once it has waited for its first or next bytes longer than all but a few recent reads
/// waited for their first; whichever request brings bytes first goes on, the other is dropped.
///
/// ```
/// use dataflux::store::Hedge;
///
/// // The slowest twentieth, but never more than one call in a hundred.
/// let hedge = Hedge::percentile(95.0).max_share(0.01);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hedge {
    percentile: f64,
    share: f64,
}

impl Hedge {
    /// Asks again where a read waits longer than `percentile` per cent of recent ones did: from 50 to 99.9, and what is
    /// beyond is taken for these. At most 2% of calls are second ones, unless [`max_share`](Self::max_share) says otherwise.
    pub fn percentile(percentile: f64) -> Self {
        // What is no number is taken for the median.
        let percentile = if percentile.is_nan() { 50.0 } else { percentile.clamp(50.0, 99.9) };
        Self { percentile, share: 0.02 }
    }

    /// The most second requests, from 0 to 1 for each first one; held for any 1,000 reads in a row.
    #[must_use]
    pub fn max_share(mut self, share: f64) -> Self {
        self.share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
        self
    }
}

/// What reads have come to so far.
#[derive(Debug)]
pub(super) struct Hedging {
    hedge: Hedge,
    seen: Mutex<HedgeTotals>,
}

#[derive(Debug, Default)]
struct HedgeTotals {
    /// A ring.
    waits: Vec<Duration>,
    next: usize,
    /// Waits since the percentile was found.
    fresh: usize,
    percentile: Option<Duration>,
    /// Requests so far, without second ones.
    asked: u64,
    /// Their number at each second request of the window.
    again: VecDeque<u64>,
}

impl Hedging {
    pub(super) fn new(hedge: Hedge) -> Self {
        Self { hedge, seen: Mutex::default() }
    }

    /// Counts a request.
    pub(super) fn asked(&self) {
        self.seen().asked += 1;
    }

    /// Learns how long a request waited for its first bytes, or for those of its second.
    pub(super) fn waited(&self, wait: Duration) {
        let mut seen = self.seen();
        if seen.waits.len() < REMEMBERED {
            seen.waits.push(wait);
        } else {
            let next = seen.next;
            seen.waits[next] = wait;
            seen.next = (next + 1) % REMEMBERED;
        }
        seen.fresh += 1;
        if seen.waits.len() >= LEAST && (seen.fresh >= RENEWED || seen.percentile.is_none()) {
            seen.fresh = 0;
            let mut waits = seen.waits.clone();
            let at = (waits.len() as f64 * self.hedge.percentile / 100.0) as usize;
            let at = at.min(waits.len() - 1);
            seen.percentile = Some((*waits.select_nth_unstable(at).1).max(SHORTEST));
        }
    }

    /// How long a read waits before it is asked for again; `None` while that isn't known.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.seen().percentile
    }

    /// Whether the share has room for a second request, which it then counts.
    pub(super) fn may_ask_again(&self) -> bool {
        let mut seen = self.seen();
        let asked = seen.asked;
        while seen.again.front().is_some_and(|&at| at + WINDOW <= asked) {
            seen.again.pop_front();
        }
        let most = asked.min(WINDOW) as f64 * self.hedge.share;
        let room = (seen.again.len() + 1) as f64 <= most;
        if room {
            seen.again.push_back(asked);
        }
        room
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HedgeTotals> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_long_follows_the_waits() {
        let hedging = Hedging::new(Hedge::percentile(90.0));
        let wait = |millis: u64| (0..100).for_each(|n| hedging.waited(Duration::from_millis(millis + n)));
        (0..LEAST - 1).for_each(|_| hedging.waited(Duration::from_millis(5)));
        assert_eq!(hedging.patience(), None, "too few to tell");
        (0..10).for_each(|_| wait(100));
        let patience = hedging.patience().unwrap();
        assert!((185..=195).contains(&patience.as_millis()), "{patience:?}");
        (0..10).for_each(|_| wait(1_000));
        assert!(hedging.patience().unwrap() > Duration::from_millis(1_080));
        (0..REMEMBERED).for_each(|_| hedging.waited(Duration::ZERO));
        assert_eq!(hedging.patience(), Some(SHORTEST));
    }

    #[test]
    fn settings_beyond_reason_are_taken_for_the_nearest() {
        for (given, taken) in [(f64::NAN, 50.0), (-1.0, 50.0), (95.0, 95.0), (f64::INFINITY, 99.9)] {
            assert!((Hedge::percentile(given).percentile - taken).abs() < 1e-9, "{given}");
        }
        assert_eq!(Hedge::percentile(95.0).max_share(f64::NAN), Hedge::percentile(95.0).max_share(0.0));
    }

    proptest! {
        #[test]
        fn the_share_holds_for_any_thousand_in_a_row(share in 0.0f64..0.3, again in prop::collection::vec(any::<bool>(), 1..4_000)) {
            let hedging = Hedging::new(Hedge::percentile(95.0).max_share(share));
            let granted: Vec<u64> = again
                .into_iter()
                .map(|again| {
                    hedging.asked();
                    u64::from(again && hedging.may_ask_again())
                })
                .collect();
            for window in granted.windows(WINDOW as usize) {
                prop_assert!(window.iter().sum::<u64>() as f64 <= WINDOW as f64 * share);
            }
            prop_assert!(granted.iter().sum::<u64>() as f64 <= granted.len() as f64 * share + 1e-9 || granted.len() as u64 > WINDOW);
        }
    }
}
