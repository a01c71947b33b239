//! The gates of one bucket, and how its documented call rates are shared among ranks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::concurrency::ConcurrencyLimit;
use super::demand::{Demand, DemandHandle};
use super::gate::{CallGate, Ceiling};
use super::rate::RateLimit;
use crate::lock::lock;
use crate::os;

/// Reads and lists a second that a bucket takes before it has grown with its use, as documented.
pub(super) const DOCUMENTED_READS: f64 = 5_000.0;

/// Writes a second that such a bucket takes, composes and deletions among them, as documented.
pub(super) const DOCUMENTED_WRITES: f64 = 1_000.0;

/// Share of the documented rates that gates begin with. At the full rate each call that comes a little early is refused
/// and made again a second later; a little below it the service forgives bursts.
const INITIAL_SHARE: f64 = 0.97;

/// Upper bound of the calls of a kind in flight: 12,800 reads of 80 ms in a second, more than a few threads can
/// receive.
const MAX_CALLS: usize = 1_024;

/// Duration of a read, and of a compose, until there are answers.
const DOCUMENTED_READ: Duration = Duration::from_millis(100);
pub(super) const DOCUMENTED_COMPOSE: Duration = Duration::from_secs(1);

/// The user's limits on the calls to a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct CallCaps {
    /// Calls of a kind in flight.
    pub(crate) at_once: Option<usize>,
    pub(crate) reads_per_second: Option<f64>,
    pub(crate) writes_per_second: Option<f64>,
}

/// State of the calls to a bucket, and what is known of the number that it takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ceilings {
    /// Reads of objects and of composed ones.
    pub reads: Ceiling,
    /// Composes and deletions of composed objects.
    pub writes: Ceiling,
}

/// The gates of one bucket.
#[derive(Debug)]
pub(crate) struct BucketGates {
    pub(crate) reads: Arc<CallGate>,
    /// Composes and deletions, which the service counts together.
    pub(crate) writes: Arc<CallGate>,
    /// The largest number of a call so far. The numbers of the next epoch begin there, so that its calls neither wait
    /// for all calls of other epochs nor start before them.
    latest_number: AtomicU64,
    demand: Arc<Demand>,
    /// Upper bound of the calls of a kind in flight, by the user's limit and by the files that the process may open.
    max_calls: usize,
    /// Bounds on connections, each with the number of loaders that have it.
    bounds: Mutex<BTreeMap<usize, usize>>,
    /// The ranks that use these gates, by the number of ranks that share the bucket.
    ranks: Mutex<BTreeMap<u64, BTreeSet<u64>>>,
}

impl BucketGates {
    pub(crate) fn new(caps: CallCaps) -> Arc<Self> {
        let max_calls = MAX_CALLS.min(os::file_shares().requests).min(caps.at_once.unwrap_or(MAX_CALLS)).max(1);
        let demand = Arc::<Demand>::default();
        let gate = |calls, concurrency, documented: f64, cap: Option<f64>, typical_latency| {
            let rate = RateLimit::new(INITIAL_SHARE * documented, cap.unwrap_or(f64::INFINITY), Duration::ZERO, 0.0);
            CallGate::new(calls, concurrency, rate, typical_latency, &demand)
        };

        let reads = ConcurrencyLimit::new(max_calls, Duration::ZERO);
        // A compose takes so long that finding a limit of hundreds would take the first seconds. For writes the rate
        // alone is the limit.
        let writes = ConcurrencyLimit::new(max_calls, Duration::ZERO).start_at(max_calls);

        Arc::new(Self {
            reads: gate("reads", reads, DOCUMENTED_READS, caps.reads_per_second, DOCUMENTED_READ),
            writes: gate("writes", writes, DOCUMENTED_WRITES, caps.writes_per_second, DOCUMENTED_COMPOSE),
            latest_number: AtomicU64::new(0),
            demand,
            max_calls,
            bounds: Mutex::default(),
            ranks: Mutex::default(),
        })
    }

    /// Adds one of `world_size` ranks that share the bucket.
    ///
    /// The documented rates are divided by that number, so that ranks that start together don't exceed them; a rank
    /// looks for more once its part is served. Each rank of this process adds a part. If loaders of one data set belong
    /// to worlds of several sizes, the smallest part counts: a loader that one process has for itself, for validation
    /// say, still shares the bucket with the other ranks.
    pub(crate) fn add_rank(&self, rank: u64, world_size: u64) {
        let mut ranks = lock(&self.ranks);
        ranks.entry(world_size).or_default().insert(rank);
        let share = share(&ranks);
        self.reads.start_at_rate(INITIAL_SHARE * DOCUMENTED_READS * share);
        self.writes.start_at_rate(INITIAL_SHARE * DOCUMENTED_WRITES * share);
    }

    /// Bounds the calls of a kind in flight by the connections that the memory of a loader has room for, until the
    /// returned value is dropped. If several loaders use these gates, the largest bound counts, since they use the same
    /// connections; a loader without a bound has `usize::MAX`.
    pub(crate) fn bound_connections(self: &Arc<Self>, connections: usize) -> ConnectionBound {
        let bound = ConnectionBound { gates: Arc::clone(self), connections };
        self.change_bounds(|bounds| *bounds.entry(connections).or_default() += 1);
        bound
    }

    fn change_bounds(&self, change: impl FnOnce(&mut BTreeMap<usize, usize>)) {
        let mut bounds = lock(&self.bounds);
        change(&mut bounds);
        let largest = bounds.last_key_value().map_or(usize::MAX, |(largest, _)| *largest);
        for gate in [&self.reads, &self.writes] {
            gate.set_max_calls(self.max_calls.min(largest));
        }
    }

    /// This process's share of the documented rates.
    pub(crate) fn share(&self) -> f64 {
        share(&lock(&self.ranks))
    }

    /// Demand of one more training loop, which isn't starved until it says so.
    pub(crate) fn add_loop(&self) -> DemandHandle {
        self.demand.add_loop()
    }

    #[cfg(test)]
    pub(super) fn wants_more(&self) -> bool {
        self.demand.wants_more()
    }

    /// The number at which those of a new epoch begin.
    pub(crate) fn latest_number(&self) -> u64 {
        self.latest_number.load(Ordering::Relaxed)
    }

    /// Records that a call with this number is under way.
    pub(crate) fn record_number(&self, number: u64) {
        self.latest_number.fetch_max(number, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Ceilings {
        Ceilings { reads: self.reads.snapshot(), writes: self.writes.snapshot() }
    }
}

/// One loader's bound on connections, in effect until this is dropped.
#[derive(Debug)]
pub(crate) struct ConnectionBound {
    gates: Arc<BucketGates>,
    connections: usize,
}

impl Drop for ConnectionBound {
    fn drop(&mut self) {
        self.gates.change_bounds(|bounds| {
            if let Some(loaders) = bounds.get_mut(&self.connections) {
                *loaders -= 1;
                if *loaders == 0 {
                    bounds.remove(&self.connections);
                }
            }
        });
    }
}

fn share(ranks: &BTreeMap<u64, BTreeSet<u64>>) -> f64 {
    ranks.iter().map(|(world_size, ranks)| ranks.len() as f64 / (*world_size).max(1) as f64).fold(1.0, f64::min)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rank_has_its_part_of_what_is_documented() {
        let gates = BucketGates::new(CallCaps::default());
        gates.add_rank(0, 1_000);
        assert_eq!((gates.writes.per_second(), gates.share()), (INITIAL_SHARE * DOCUMENTED_WRITES / 1_000.0, 0.001));
        gates.add_rank(0, 1_000);
        gates.add_rank(1, 1_000);
        gates.add_rank(0, 1);
        assert!((gates.share() - 0.002).abs() < 1e-9, "two ranks in one process, and a loader of its own");
        let all = BucketGates::new(CallCaps::default());
        (0..8).for_each(|rank| all.add_rank(rank, 8));
        assert!((all.share() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn of_several_bounds_on_connections_the_largest_counts_while_its_loader_lives() {
        let gates = BucketGates::new(CallCaps { at_once: Some(80), ..CallCaps::default() });
        let at_once = || {
            let Ceilings { reads, writes } = gates.snapshot();
            (reads.at_once, writes.at_once)
        };
        let mut loaders = Vec::new();
        for (bound, expected) in [(32, (32, 32)), (48, (48, 48)), (40, (48, 48)), (1_000, (64, 80)), (48, (64, 80))] {
            loaders.push(gates.bound_connections(bound));
            assert_eq!(at_once(), expected, "{bound}");
        }
        // The largest is gone, one of 48 as well, and all.
        for (index, expected) in [(3, (48, 48)), (1, (48, 48)), (2, (40, 40))] {
            loaders.remove(index);
            assert_eq!(at_once(), expected, "without {index}");
        }
        loaders.clear();
        assert_eq!(at_once(), (64, 80));
    }
}
