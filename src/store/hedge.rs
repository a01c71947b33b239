//! Second requests for reads of which nothing arrives. No I/O and no clock.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use crate::lock::lock;

/// Number of waits that are remembered: enough for the 99th percentile, few enough to follow a service within seconds.
const MAX_WAITS: usize = 512;

/// Number of waits that must be known before a read is hedged.
const MIN_WAITS: usize = 64;

/// Number of new waits after which the percentile is computed again, which takes some microseconds.
const RECOMPUTE_AFTER: usize = 32;

/// Shortest threshold, the resolution of timers.
const MIN_THRESHOLD: Duration = Duration::from_millis(1);

/// Number of requests in a row over which the share of second requests is limited.
const WINDOW: u64 = 1_000;

/// Second requests for reads of which nothing arrives for long. They cut the slow tail of a service that answers one
/// request in a hundred late, and cost their share in calls. Off by default.
///
/// A read sends a second request once it has waited for its first or next bytes longer than all but a few recent reads
/// waited for their first. Whichever request brings bytes first is kept, and the other is dropped.
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
    /// Sends a second request if a read waits longer than `percentile` per cent of recent reads. The value is clamped
    /// to 50 to 99.9. At most 2% of calls are second requests, unless [`max_share`](Self::max_share) sets another
    /// limit.
    pub fn percentile(percentile: f64) -> Self {
        // NaN means the median.
        let percentile = if percentile.is_nan() { 50.0 } else { percentile.clamp(50.0, 99.9) };
        Self { percentile, share: 0.02 }
    }

    /// Sets the maximum number of second requests for each first one, from 0 to 1, over any 1,000 reads in a row.
    #[must_use]
    pub fn max_share(mut self, share: f64) -> Self {
        self.share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
        self
    }
}

/// Decides which reads of a client and its clones are hedged, from the waits of earlier ones.
#[derive(Debug)]
pub(super) struct Hedging {
    hedge: Hedge,
    totals: Mutex<HedgeTotals>,
}

#[derive(Debug, Default)]
struct HedgeTotals {
    /// The latest waits, as a ring buffer.
    waits: Vec<Duration>,
    next: usize,
    /// Number of waits since the percentile was computed.
    new_waits: usize,
    threshold: Option<Duration>,
    /// Number of requests so far, without second ones.
    requests: u64,
    /// The value of `requests` at each second request in the window.
    hedged_at: VecDeque<u64>,
}

impl Hedging {
    pub(super) fn new(hedge: Hedge) -> Self {
        Self { hedge, totals: Mutex::default() }
    }

    /// Counts a first request.
    pub(super) fn record_request(&self) {
        lock(&self.totals).requests += 1;
    }

    /// Records how long a read waited for its first bytes, from either request.
    pub(super) fn record_wait(&self, wait: Duration) {
        let mut totals = lock(&self.totals);
        if totals.waits.len() < MAX_WAITS {
            totals.waits.push(wait);
        } else {
            let next = totals.next;
            totals.waits[next] = wait;
            totals.next = (next + 1) % MAX_WAITS;
        }
        totals.new_waits += 1;
        if totals.waits.len() >= MIN_WAITS && (totals.new_waits >= RECOMPUTE_AFTER || totals.threshold.is_none()) {
            totals.new_waits = 0;
            let mut waits = totals.waits.clone();
            let at = (waits.len() as f64 * self.hedge.percentile / 100.0) as usize;
            let at = at.min(waits.len() - 1);
            totals.threshold = Some((*waits.select_nth_unstable(at).1).max(MIN_THRESHOLD));
        }
    }

    /// How long a read waits before it sends a second request; `None` until enough waits are known.
    pub(super) fn threshold(&self) -> Option<Duration> {
        lock(&self.totals).threshold
    }

    /// Whether a second request is within the share. If so, it is counted.
    pub(super) fn try_hedge(&self) -> bool {
        let mut totals = lock(&self.totals);
        let requests = totals.requests;
        while totals.hedged_at.front().is_some_and(|&at| at + WINDOW <= requests) {
            totals.hedged_at.pop_front();
        }
        let limit = requests.min(WINDOW) as f64 * self.hedge.share;
        let is_allowed = (totals.hedged_at.len() + 1) as f64 <= limit;
        if is_allowed {
            totals.hedged_at.push_back(requests);
        }
        is_allowed
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_threshold_follows_the_waits() {
        let hedging = Hedging::new(Hedge::percentile(90.0));
        let wait = |millis: u64| (0..100).for_each(|n| hedging.record_wait(Duration::from_millis(millis + n)));
        (0..MIN_WAITS - 1).for_each(|_| hedging.record_wait(Duration::from_millis(5)));
        assert_eq!(hedging.threshold(), None, "too few waits are known");
        (0..10).for_each(|_| wait(100));
        let threshold = hedging.threshold().unwrap();
        assert!((185..=195).contains(&threshold.as_millis()), "{threshold:?}");
        (0..10).for_each(|_| wait(1_000));
        assert!(hedging.threshold().unwrap() > Duration::from_millis(1_080));
        (0..MAX_WAITS).for_each(|_| hedging.record_wait(Duration::ZERO));
        assert_eq!(hedging.threshold(), Some(MIN_THRESHOLD));
    }

    #[test]
    fn settings_out_of_range_are_clamped() {
        for (given, taken) in [(f64::NAN, 50.0), (-1.0, 50.0), (95.0, 95.0), (f64::INFINITY, 99.9)] {
            assert!((Hedge::percentile(given).percentile - taken).abs() < 1e-9, "{given}");
        }
        assert_eq!(Hedge::percentile(95.0).max_share(f64::NAN), Hedge::percentile(95.0).max_share(0.0));
    }

    proptest! {
        #[test]
        fn the_share_holds_for_any_thousand_in_a_row(share in 0.0f64..0.3, hedges in prop::collection::vec(any::<bool>(), 1..4_000)) {
            let hedging = Hedging::new(Hedge::percentile(95.0).max_share(share));
            let granted: Vec<u64> = hedges
                .into_iter()
                .map(|hedge| {
                    hedging.record_request();
                    u64::from(hedge && hedging.try_hedge())
                })
                .collect();
            for window in granted.windows(WINDOW as usize) {
                prop_assert!(window.iter().sum::<u64>() as f64 <= WINDOW as f64 * share);
            }
            prop_assert!(granted.iter().sum::<u64>() as f64 <= granted.len() as f64 * share + 1e-9 || granted.len() as u64 > WINDOW);
        }
    }
}
