//! The gates that calls to a bucket pass, and how its documented call rates are shared among ranks.

use std::collections::BTreeMap;
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

/// How long a read, and a compose, is taken to last until the service has answered some.
const DOCUMENTED_READ: Duration = Duration::from_millis(100);
pub(super) const DOCUMENTED_COMPOSE: Duration = Duration::from_secs(1);

/// The user's limits on the calls of one loader. A loader with any of them has gates of its own.
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

/// The gates that all loaders of one data set share, or those of one loader with limits of its own. Other data sets of
/// the same bucket have others.
#[derive(Debug)]
pub(crate) struct BucketGates {
    pub(crate) reads: Arc<CallGate>,
    /// Composes and deletions, which the service counts together.
    pub(crate) writes: Arc<CallGate>,
    /// The largest number of a group whose calls have begun. The numbers of the next series of epochs begin there, so
    /// that its calls neither wait for all calls of other series nor start before them.
    latest_number: AtomicU64,
    /// Demand of the training loops of all loaders with these gates.
    demand: Arc<Demand>,
    /// Upper bound of the calls of a kind in flight, by the user's limit and by the files that the process may open.
    max_calls: usize,
    users: Mutex<GateUsers>,
}

/// The loaders with the same gates.
#[derive(Debug)]
struct GateUsers {
    /// Bounds on connections, each with the number of loaders that have it.
    bounds: BTreeMap<usize, usize>,
    /// Ranks, by their world size, each with the number of its loaders.
    ranks: BTreeMap<u64, BTreeMap<u64, usize>>,
    /// Share of the documented rates.
    share: f64,
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
            users: Mutex::new(GateUsers { bounds: BTreeMap::new(), ranks: BTreeMap::new(), share: 1.0 }),
        })
    }

    /// Adds a loader, until the returned value is dropped.
    ///
    /// The documented rates are divided by the `world_size`, so that ranks that start together don't exceed them; a
    /// rank looks for more once its part is served. Each rank of this process adds a part. If loaders of one data set
    /// belong to worlds of several sizes, the smallest part counts: a loader that one process has for itself, for
    /// validation say, still shares the bucket with the other ranks. Rates that calls have proven stay.
    ///
    /// The calls of a kind in flight are bounded by the `connections` that the loader's memory has room for. If there
    /// are several loaders, the largest bound counts, since the calls of all of them pass these gates. A loader without
    /// a bound passes `usize::MAX`.
    pub(crate) fn add_loader(self: &Arc<Self>, rank: u64, world_size: u64, connections: usize) -> GateUse {
        self.change_users(|users| {
            *users.bounds.entry(connections).or_default() += 1;
            *users.ranks.entry(world_size).or_default().entry(rank).or_default() += 1;
        });
        GateUse { gates: Arc::clone(self), rank, world_size, connections }
    }

    fn change_users(&self, change: impl FnOnce(&mut GateUsers)) {
        let mut users = lock(&self.users);
        change(&mut users);

        let largest = users.bounds.last_key_value().map_or(usize::MAX, |(largest, _)| *largest);
        for gate in [&self.reads, &self.writes] {
            gate.set_max_calls(self.max_calls.min(largest));
        }

        // Without any loader the share stays: temporary objects are still deleted, and other ranks are still there.
        if !users.ranks.is_empty() {
            let part = |(world_size, ranks): (&u64, &BTreeMap<_, _>)| ranks.len() as f64 / (*world_size).max(1) as f64;
            let share = users.ranks.iter().map(part).fold(1.0, f64::min);
            // A rate that is still being proven begins anew with another share only.
            if share.total_cmp(&users.share).is_ne() {
                users.share = share;
                self.reads.start_at_rate(INITIAL_SHARE * DOCUMENTED_READS * share);
                self.writes.start_at_rate(INITIAL_SHARE * DOCUMENTED_WRITES * share);
            }
        }
    }

    /// This process's share of the documented rates.
    pub(crate) fn share(&self) -> f64 {
        lock(&self.users).share
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

/// Keeps a loader's rank and its bound on connections in effect until it is dropped. The fetchers of the loader and of
/// its epochs share it.
#[derive(Debug)]
pub(crate) struct GateUse {
    gates: Arc<BucketGates>,
    rank: u64,
    world_size: u64,
    connections: usize,
}

impl Drop for GateUse {
    fn drop(&mut self) {
        self.gates.change_users(|users| {
            remove_one(&mut users.bounds, &self.connections);
            if let Some(ranks) = users.ranks.get_mut(&self.world_size) {
                remove_one(ranks, &self.rank);
                if ranks.is_empty() {
                    users.ranks.remove(&self.world_size);
                }
            }
        });
    }
}

/// Removes one of several equal elements, each of which is counted.
fn remove_one<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rank_has_its_part_of_what_is_documented_while_its_loader_lives() {
        let gates = BucketGates::new(CallCaps::default());
        let add = |rank, world_size| gates.add_loader(rank, world_size, usize::MAX);
        let writes = || (gates.writes.per_second(), gates.share());
        let expected = |share| (INITIAL_SHARE * DOCUMENTED_WRITES * share, share);
        assert_eq!(writes(), expected(1.0));
        let first = add(0, 1_000);
        assert_eq!(writes(), expected(0.001));
        let same_rank = add(0, 1_000);
        assert_eq!(writes(), expected(0.001));
        let others = [add(1, 1_000), add(0, 1)];
        assert_eq!(writes(), expected(0.002), "two ranks in one process, and a loader of its own");
        drop((first, others));
        assert_eq!(writes(), expected(0.001));
        drop(same_rank);
        assert_eq!(writes(), expected(0.001), "the other ranks are still there");
        let _world_of_8 = add(3, 8);
        assert_eq!(writes(), expected(0.125));

        // A call before the loader, as of `DatafluxDataset::get`, changes nothing.
        let called = BucketGates::new(CallCaps::default());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        drop(runtime.block_on(called.reads.acquire(0)));
        let _loader = called.add_loader(0, 1_000, usize::MAX);
        assert!((called.reads.per_second() - INITIAL_SHARE * DOCUMENTED_READS / 1_000.0).abs() < 1e-9);

        let all = BucketGates::new(CallCaps::default());
        let _ranks: Vec<_> = (0..8).map(|rank| all.add_loader(rank, 8, usize::MAX)).collect();
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
            loaders.push(gates.add_loader(0, 1, bound));
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
