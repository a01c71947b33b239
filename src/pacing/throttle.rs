//! Calls of one kind on one bucket, let through as the service takes them: so many at once, so many a second.
//!
//! Whoever wants to make a call waits for a [`CallSlot`]. Waiters are served in the order of their numbers, the smallest
//! first, whenever they came, so that the batch that is needed first is read first. Those *behind*, for which nobody waits, have
//! every other turn where both kinds wait, all where no others do, and all while they are too many. No task drives this: whoever is let
//! through, leaves or gives up lets the next ones through, and where only time is missing, the first waiter keeps the
//! clock. So it works from any runtime, and for as long as anybody waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::rate::Rate;
use crate::os;
use crate::store::{CallObserver, Pace};

/// What is asked at first of what a bucket takes. At all of it each call that comes a little early is refused, and made
/// again a second later, when little is ahead of the training loop; a little below it the service forgives bursts.
const AT_FIRST: f64 = 0.97;

/// Reads and lists a second that a bucket takes before it has grown with its use, as documented.
const READS: f64 = AT_FIRST * 5_000.0;

/// Writes a second that it takes, composes and deletions among them, as documented.
const WRITES: f64 = AT_FIRST * 1_000.0;

/// Most calls of a kind in flight: 12,800 reads of 80 ms in a second, more than a few threads can receive.
pub(crate) const MOST_CALLS: usize = 1_024;

/// Open files for each of reads and writes, in eighths of what the process may have. Both are never at their most at
/// once, and the program has files of its own.
const EIGHTHS: u64 = 3;

/// Open files where the system tells no limit.
const USUAL_FILES: u64 = 1_024;

/// Shortest time by which the number of calls at once is judged: some tens of the shortest calls there are.
const WINDOW: Duration = Duration::from_millis(25);

/// Most calls that wait behind others; those beyond go before them. Some 500 wait from the first second on, where a compose
/// takes about one: until the first is back, all of the bucket's writes are composes, and then half of them. Where the
/// rate is lower, as many as start in the same time: else deletions would last for minutes after an epoch.
const MOST_BEHIND: usize = 768;
const MOST_BEHIND_SECONDS: f64 = MOST_BEHIND as f64 / WRITES;

/// How long an answer takes where none has come yet: a read, and a compose, as documented.
const USUAL_READ: Duration = Duration::from_millis(100);
const USUAL_COMPOSE: Duration = Duration::from_secs(1);

/// The part of the usual wait for an answer that each answer makes up: some ten answers show a change.
const FRESH: u32 = 8;

/// What a call weighs beside the bytes it brings, when calls at once are judged by the work they do.
const CALL: u64 = 64 << 10;

/// What its user allows a bucket's throttles.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct CallCaps {
    /// Calls of a kind at once.
    pub(crate) at_once: Option<usize>,
    pub(crate) reads_per_second: Option<f64>,
    pub(crate) writes_per_second: Option<f64>,
}

/// The throttles of one bucket.
#[derive(Debug)]
pub(crate) struct Throttles {
    pub(crate) reads: Arc<Throttle>,
    /// Composes and deletions, which the service counts together.
    pub(crate) writes: Arc<Throttle>,
    /// The largest number that anybody had: where the numbers of the next epoch begin, so that it neither waits for all
    /// of those that are under way nor goes before them.
    latest: AtomicU64,
    loops: Arc<TrainingLoops>,
    /// The ranks that read through these, by the number of ranks that share the bucket.
    ranks: Mutex<BTreeMap<u64, BTreeSet<u64>>>,
}

/// The training loops that a bucket feeds.
#[derive(Debug, Default)]
struct TrainingLoops {
    all: AtomicUsize,
    /// Those that want more than they get.
    hungry: AtomicUsize,
}

impl TrainingLoops {
    /// Whether it is worth some refusals to find out if the bucket takes more than is known. It is where nobody says.
    fn want_more(&self) -> bool {
        self.hungry.load(Ordering::Relaxed) > 0 || self.all.load(Ordering::Relaxed) == 0
    }
}

/// What one training loop says, for as long as it is fed.
#[derive(Debug)]
pub(crate) struct DemandHandle {
    loops: Arc<TrainingLoops>,
    hungry: bool,
}

impl DemandHandle {
    /// Whether the loop wants more than it gets.
    pub(crate) fn set(&mut self, hungry: bool) {
        if hungry != self.hungry {
            if hungry {
                self.loops.hungry.fetch_add(1, Ordering::Relaxed);
            } else {
                self.loops.hungry.fetch_sub(1, Ordering::Relaxed);
            }
            self.hungry = hungry;
        }
    }
}

impl Drop for DemandHandle {
    fn drop(&mut self) {
        self.set(false);
        self.loops.all.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Throttles {
    pub(crate) fn new(caps: CallCaps) -> Arc<Self> {
        let files = os::open_files().unwrap_or(USUAL_FILES) / 8 * EIGHTHS;
        let most = usize::try_from(files).unwrap_or(MOST_CALLS).min(MOST_CALLS);
        let most = caps.at_once.map_or(most, |cap| cap.min(most)).max(1);
        // A compose takes so long that to feel one's way up to hundreds at once would take the first seconds; here the
        // rate alone holds back.
        let writes = Pace::new(most, Duration::ZERO).start_with(most);
        let loops = Arc::<TrainingLoops>::default();
        let reads = Pace::new(most, Duration::ZERO);
        Arc::new(Self {
            reads: Throttle::new("reads", reads, (READS, caps.reads_per_second), USUAL_READ, &loops),
            writes: Throttle::new("writes", writes, (WRITES, caps.writes_per_second), USUAL_COMPOSE, &loops),
            latest: AtomicU64::new(0),
            loops,
            ranks: Mutex::default(),
        })
    }

    /// Notes that one of `world_size` ranks reads through these. What a bucket is documented to take is divided by that
    /// number, so that ranks that start together don't ask for more than all of it; more is asked for when that is
    /// served. Ranks of one process have a part each. Where loaders of one data set are of worlds of several sizes, the
    /// smallest part counts: a loader that a process has for itself, to validate say, shares the bucket with the other
    /// ranks all the same.
    pub(crate) fn add_rank(&self, rank: u64, world_size: u64) {
        let mut ranks = self.ranks.lock().unwrap_or_else(PoisonError::into_inner);
        ranks.entry(world_size).or_default().insert(rank);
        let share = share(&ranks);
        self.reads.begin_with(READS * share);
        self.writes.begin_with(WRITES * share);
    }

    /// The part of the bucket's documented rates that falls to this process.
    pub(crate) fn share(&self) -> f64 {
        share(&self.ranks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Of one more training loop, which has all it wants until it says otherwise.
    pub(crate) fn appetite(&self) -> DemandHandle {
        self.loops.all.fetch_add(1, Ordering::Relaxed);
        DemandHandle { loops: Arc::clone(&self.loops), hungry: false }
    }

    /// Whether any training loop wants more than it gets, or none says.
    #[cfg(test)]
    pub(crate) fn want_more(&self) -> bool {
        self.loops.want_more()
    }

    /// Where the numbers of a new epoch begin.
    pub(crate) fn now_serving(&self) -> u64 {
        self.latest.load(Ordering::Relaxed)
    }

    /// Notes that the call with this number is under way.
    pub(crate) fn serves(&self, number: u64) {
        self.latest.fetch_max(number, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Ceilings {
        Ceilings { reads: self.reads.snapshot(), writes: self.writes.snapshot() }
    }
}

fn share(ranks: &BTreeMap<u64, BTreeSet<u64>>) -> f64 {
    ranks.iter().map(|(world_size, ranks)| ranks.len() as f64 / (*world_size).max(1) as f64).fold(1.0, f64::min)
}

/// What is known now of how many calls a bucket takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ceilings {
    /// Reads of objects and of composed ones.
    pub reads: Ceiling,
    /// Composes and deletions of composed objects.
    pub writes: Ceiling,
}

/// How calls of one kind are let through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ceiling {
    /// Most calls at once, as it stands now.
    pub at_once: usize,
    /// Calls under way.
    pub in_flight: usize,
    /// Calls that wait to be let through.
    pub waiting: usize,
    /// Calls that wait beside them and for which no batch does: deletions.
    #[serde(default)]
    pub behind: usize,
    /// Calls a second that the service takes, as far as its refusals told; `None` where it never refused.
    pub per_second: Option<f64>,
    /// Calls whose first try the service refused (429, 503).
    pub refused: u64,
}

/// Lets calls of one kind through.
#[derive(Debug)]
pub(crate) struct Throttle {
    what: &'static str,
    began: Instant,
    loops: Arc<TrainingLoops>,
    state: Mutex<ThrottleState>,
}

/// Whether a waiter is one behind, its number, and which one it was to come: those before others of their kind are served first.
type WaiterKey = (bool, u64, u64);

#[derive(Debug)]
struct ThrottleState {
    pace: Pace,
    rate: Rate,
    in_flight: usize,
    refused: u64,
    waiters: BTreeMap<WaiterKey, Arc<Notify>>,
    /// Of the waiters.
    behind: usize,
    /// Most waiters behind before they go first.
    most_behind: usize,
    /// Whether the next turn is of one behind, if there is any; else it is of one of the others.
    behind_next: bool,
    /// The waiter that looks again when the rate allows the next call.
    keeper: Option<WaiterKey>,
    tickets: u64,
    /// How long an answer usually takes.
    usual: Duration,
    /// The ceiling that was last told in the log.
    told: f64,
}

/// What a look at the state says to a waiter.
enum SlotDecision {
    Granted,
    /// Until something changes; the first waiter also until then.
    Wait(Option<Duration>),
}

impl Throttle {
    fn new(
        what: &'static str,
        pace: Pace,
        (per_second, most_per_second): (f64, Option<f64>),
        usual: Duration,
        loops: &Arc<TrainingLoops>,
    ) -> Arc<Self> {
        let most_per_second = most_per_second.unwrap_or(f64::INFINITY);
        let rate = Rate::new(per_second, most_per_second, Duration::ZERO, 0.0);
        let state = ThrottleState {
            pace: pace.windows_of(WINDOW),
            rate,
            in_flight: 0,
            refused: 0,
            waiters: BTreeMap::new(),
            behind: 0,
            most_behind: MOST_BEHIND,
            behind_next: false,
            keeper: None,
            tickets: 0,
            usual,
            told: 0.0,
        };
        Arc::new(Self { what, began: Instant::now(), loops: Arc::clone(loops), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, ThrottleState> {
        // No code that can panic runs under the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until a call may be made; those of smaller numbers come first.
    ///
    /// # Cancel safety
    /// Dropping the future gives the place up, and a slot that was on its way to the next.
    pub(crate) async fn acquire(self: &Arc<Self>, number: u64) -> CallSlot {
        self.slot(false, number).await
    }

    /// Waits as [`acquire`](Self::acquire) does until a call may be made that no batch waits for.
    pub(crate) async fn acquire_behind(self: &Arc<Self>, number: u64) -> CallSlot {
        self.slot(true, number).await
    }

    async fn slot(self: &Arc<Self>, behind: bool, number: u64) -> CallSlot {
        self.pass(behind, number).await;
        CallSlot::new(self, behind, number)
    }

    /// Waits until a call may be made, which is then counted as one in flight.
    async fn pass(self: &Arc<Self>, behind: bool, number: u64) {
        let mut waiter = Waiter::enter(self, behind, number);
        loop {
            match waiter.look(self.now()) {
                SlotDecision::Granted => return,
                SlotDecision::Wait(None) => waiter.turn.notified().await,
                SlotDecision::Wait(Some(until)) => {
                    tokio::select! {
                        () = waiter.turn.notified() => {}
                        () = sleep_until(self.began + until) => {}
                    }
                }
            }
        }
    }

    pub(crate) fn snapshot(&self) -> Ceiling {
        let state = self.state();
        let behind = state.behind;
        Ceiling {
            at_once: state.pace.limit(),
            in_flight: state.in_flight,
            waiting: state.waiters.len() - behind,
            behind,
            per_second: state.rate.learned(),
            refused: state.refused,
        }
    }

    /// Begins with so many calls a second instead, unless calls have already shown what the service takes.
    fn begin_with(&self, per_second: f64) {
        let now = self.now();
        self.state().rate.begin_with(per_second, now, rand::random());
    }

    /// How long an answer usually takes.
    pub(crate) fn usual_wait(&self) -> Duration {
        self.state().usual
    }

    /// How long so many calls take about, where no others are made meanwhile.
    pub(crate) fn time_for(&self, calls: usize) -> Duration {
        let state = self.state();
        let by_rate = calls as f64 / state.rate.per_second();
        let by_limit = state.usual.as_secs_f64() * calls as f64 / state.pace.limit() as f64;
        state.usual + Duration::try_from_secs_f64(by_rate.max(by_limit)).unwrap_or(Duration::MAX / 2)
    }

    /// Calls a second that are let through now.
    pub(crate) fn per_second(&self) -> f64 {
        self.state().rate.per_second()
    }

    /// Calls that wait behind others and don't go before them.
    pub(crate) fn most_behind(&self) -> usize {
        self.state().most_behind()
    }

    /// A try of a call, which began then, was refused.
    fn refused(&self, started: Duration, first: bool) {
        let now = self.now();
        let mut state = self.state();
        state.refused += u64::from(first);
        state.rate.refused(now, started);
        let Some(rate) = state.rate.learned() else { return };
        if (rate / state.told.max(1.0) - 1.0).abs() > MOVED {
            state.told = rate;
            drop(state);
            tracing::info!(calls = self.what, per_second = rate.round(), "the bucket's ceiling, by what it refuses");
        }
    }
}

/// A ceiling that moved by less than this share since it was told is no news.
const MOVED: f64 = 0.2;

impl ThrottleState {
    /// Who is next.
    fn first(&self) -> Option<(WaiterKey, &Arc<Notify>)> {
        let other = || self.waiters.first_key_value().filter(|(key, _)| !key.0);
        let behind = || self.waiters.range((true, 0, 0)..).next();
        let first = if self.behind_next || self.behind > self.most_behind() {
            behind().or_else(other)
        } else {
            other().or_else(behind)
        };
        first.map(|(key, turn)| (*key, turn))
    }

    /// See [`MOST_BEHIND`].
    fn most_behind(&self) -> usize {
        self.most_behind.min((MOST_BEHIND_SECONDS * self.rate.per_second()) as usize)
    }

    fn take_out(&mut self, key: WaiterKey) -> Option<Arc<Notify>> {
        let turn = self.waiters.remove(&key)?;
        self.behind -= usize::from(key.0);
        Some(turn)
    }

    /// Lets through whoever may start now, and wakes who keeps the clock for the rest.
    fn dispatch(&mut self, now: Duration, more: bool) {
        while self.in_flight < self.pace.limit() {
            if self.rate.due() > now {
                if let Some((key, first)) = self.first()
                    && self.keeper != Some(key)
                {
                    first.notify_one();
                }
                return;
            }
            let Some((key, _)) = self.first() else { return };
            let Some(first) = self.take_out(key) else { return };
            self.behind_next = !key.0;
            self.in_flight += 1;
            self.rate.start(now, more);
            first.notify_one();
        }
    }
}

/// A place among the waiters.
struct Waiter<'a> {
    throttle: &'a Arc<Throttle>,
    key: WaiterKey,
    turn: Arc<Notify>,
    /// The slot is taken out.
    done: bool,
}

impl<'a> Waiter<'a> {
    fn enter(throttle: &'a Arc<Throttle>, behind: bool, number: u64) -> Self {
        let turn = Arc::new(Notify::new());
        let mut state = throttle.state();
        state.tickets += 1;
        state.behind += usize::from(behind);
        let key = (behind, number, state.tickets);
        state.waiters.insert(key, Arc::clone(&turn));
        drop(state);
        Self { throttle, key, turn, done: false }
    }

    fn look(&mut self, now: Duration) -> SlotDecision {
        let mut state = self.throttle.state();
        let is_first = |state: &ThrottleState| state.first().is_some_and(|(key, _)| key == self.key);
        if is_first(&state) {
            // A waiter that looks by itself needs no wake-up.
            state.keeper = Some(self.key);
        } else if state.keeper == Some(self.key) {
            state.keeper = None;
        }
        // Also by a waiter that is not first, or not first any more: when it came, or was woken in vain, another may
        // have become first without looking, and only a wake-up has that one keep the clock.
        state.dispatch(now, self.throttle.loops.want_more());
        if !state.waiters.contains_key(&self.key) {
            self.done = true;
            return SlotDecision::Granted;
        }
        if !is_first(&state) {
            return SlotDecision::Wait(None);
        }
        if state.in_flight < state.pace.limit() {
            state.keeper = Some(self.key);
            return SlotDecision::Wait(Some(state.rate.due()));
        }
        state.keeper = None;
        SlotDecision::Wait(None)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.done {
            return;
        }
        let now = self.throttle.now();
        let mut state = self.throttle.state();
        if state.keeper == Some(self.key) {
            state.keeper = None;
        }
        if state.take_out(self.key).is_none() {
            // It was let through and never knew.
            state.in_flight -= 1;
        }
        state.dispatch(now, self.throttle.loops.want_more());
    }
}

/// A call under way; dropping it ends it.
#[derive(Debug)]
pub(crate) struct CallSlot {
    call: Arc<CallReport>,
    bytes: u64,
}

/// What the client tells of a call.
#[derive(Debug)]
struct CallReport {
    throttle: Arc<Throttle>,
    behind: bool,
    number: u64,
    /// When the present try began, in nanoseconds of the throttle's clock.
    began: AtomicU64,
    /// Whether it counts as one in flight: not while it waits to be made again.
    in_flight: AtomicBool,
    refused: AtomicBool,
    /// Nanoseconds to the first sign of an answer; 0 for none.
    wait: AtomicU64,
}

impl CallSlot {
    fn new(throttle: &Arc<Throttle>, behind: bool, number: u64) -> Self {
        let call = CallReport {
            throttle: Arc::clone(throttle),
            behind,
            number,
            began: nanoseconds(throttle.now()).into(),
            in_flight: true.into(),
            refused: false.into(),
            wait: 0.into(),
        };
        Self { call: Arc::new(call), bytes: 0 }
    }

    /// What the client of this call tells how it fares.
    pub(crate) fn watch(&self) -> Arc<dyn CallObserver> {
        Arc::clone(&self.call) as Arc<dyn CallObserver>
    }

    /// The call brought so many bytes, and is over.
    pub(crate) fn done(mut self, bytes: u64) {
        self.bytes = bytes;
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

impl CallObserver for CallReport {
    fn refused(&self, first: bool) {
        self.refused.store(true, Ordering::Relaxed);
        self.throttle.refused(Duration::from_nanos(self.began.load(Ordering::Relaxed)), first);
    }

    fn answered(&self, wait: Duration) {
        self.wait.store(nanoseconds(wait), Ordering::Relaxed);
    }

    /// Others may be made meanwhile, and the next try waits for its turn as the first did: by its number it goes before
    /// those that are needed later.
    fn again(self: Arc<Self>, wait: Duration) -> BoxFuture<'static, Duration> {
        Box::pin(async move {
            self.leave(|_, _| {});
            sleep(wait).await;
            let queued = Instant::now();
            self.throttle.pass(self.behind, self.number).await;
            // Nothing is waited for from here on: a future that is dropped earlier has no place that it could keep.
            self.in_flight.store(true, Ordering::Relaxed);
            self.began.store(nanoseconds(self.throttle.now()), Ordering::Relaxed);
            queued.elapsed()
        })
    }
}

impl CallReport {
    /// It is no longer in flight, and lets others through; `note` is what it leaves to know.
    fn leave(&self, note: impl FnOnce(&mut ThrottleState, Duration)) {
        if !self.in_flight.swap(false, Ordering::Relaxed) {
            return;
        }
        let throttle = &self.throttle;
        let now = throttle.now();
        let mut state = throttle.state();
        note(&mut state, now);
        state.in_flight -= 1;
        state.dispatch(now, throttle.loops.want_more());
    }
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        let CallReport { refused, wait, .. } = &*self.call;
        let (refused, wait) = (refused.load(Ordering::Relaxed), wait.load(Ordering::Relaxed));
        self.call.leave(|state, now| {
            let in_flight = state.in_flight;
            if wait > 0 {
                let wait = Duration::from_nanos(wait);
                state.pace.answered(wait);
                state.usual = (state.usual * (FRESH - 1) + wait) / FRESH;
            }
            // A call that waited to be made again says nothing of how many at once are good.
            if !refused {
                state.pace.done(now, CALL + self.bytes, in_flight);
            }
        });
    }
}

#[cfg(test)]
mod interleavings;

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::advance;

    use super::*;
    use crate::store::{self, Client, Fault, FaultStore, MemoryStore, ObjectId, RetryPolicy};

    #[test]
    fn more_is_wanted_where_any_loop_is_hungry_or_none_says() {
        let throttles = Throttles::new(CallCaps::default());
        let wanted = || throttles.loops.want_more();
        assert!(wanted());
        let (mut one, mut other) = (throttles.appetite(), throttles.appetite());
        assert!(!wanted());
        one.set(true);
        one.set(true);
        other.set(false);
        assert!(wanted(), "whoever speaks last");
        one.set(false);
        assert!(!wanted());
        one.set(true);
        drop(one);
        assert!(!wanted(), "it is fed no more");
        drop(other);
        assert!(wanted());
    }

    fn throttle(at_once: usize, per_second: f64) -> Arc<Throttle> {
        let pace = Pace::new(at_once, Duration::ZERO).start_with(at_once);
        Throttle::new("reads", pace, (per_second, Some(per_second)), USUAL_READ, &Arc::default())
    }

    #[tokio::test(start_paused = true)]
    async fn the_smallest_number_is_served_first_whenever_it_came() {
        let throttle = throttle(1, 1e6);
        let first = throttle.acquire(9).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let waiters: Vec<_> = [5, 7, 3, 7, 1]
            .map(|number| {
                let (throttle, order) = (Arc::clone(&throttle), Arc::clone(&order));
                tokio::spawn(async move {
                    let slot = throttle.acquire(number).await;
                    order.lock().unwrap().push(number);
                    sleep(Duration::from_millis(1)).await;
                    slot.done(1);
                })
            })
            .into();
        sleep(Duration::from_millis(1)).await;
        assert_eq!(throttle.snapshot().waiting, 5);
        drop(first);
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [1, 3, 5, 7, 7]);
        let end = throttle.snapshot();
        assert_eq!((end.in_flight, end.waiting, end.refused, end.per_second), (0, 0, 0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn those_behind_have_every_other_turn_and_what_nobody_else_wants() {
        let throttle = throttle(1, 1e6);
        let first = throttle.acquire(0).await;
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut waiters = Vec::new();
        for (behind, number) in [(true, 1), (true, 2), (true, 3), (true, 4), (false, 12), (false, 11), (false, 13)] {
            let (throttle, order) = (Arc::clone(&throttle), Arc::clone(&order));
            waiters.push(tokio::spawn(async move {
                let slot = throttle.slot(behind, number).await;
                order.lock().unwrap().push(number);
                slot.done(0);
            }));
        }
        sleep(Duration::from_millis(1)).await;
        let told = throttle.snapshot();
        assert_eq!((told.waiting, told.behind), (3, 4));
        first.done(0);
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), [1, 11, 2, 12, 3, 13, 4]);
        let told = throttle.snapshot();
        assert_eq!((told.waiting, told.behind, told.in_flight), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn too_many_behind_go_first() {
        let throttle = throttle(1, 1e6);
        let first = throttle.acquire(0).await;
        let mut behind: Vec<_> = (0..MOST_BEHIND + 10).map(|_| Box::pin(throttle.acquire_behind(0))).collect();
        for waiter in &mut behind {
            assert!(waiter.now_or_never().is_none());
        }
        let mut other = Box::pin(throttle.acquire(1));
        assert!((&mut other).now_or_never().is_none());
        sleep(Duration::from_millis(1)).await;
        first.done(0);
        let mut turns = 0;
        while (&mut other).now_or_never().is_none() {
            let slot = behind[turns].as_mut().now_or_never().unwrap();
            turns += 1;
            sleep(Duration::from_millis(1)).await;
            slot.done(0);
        }
        // Ten too many, and the turn of one.
        assert!((10..=11).contains(&turns), "{turns}");
    }

    /// So many deletions that they go first take the first place from the compose that waits for the rate. It found
    /// itself not first any more when it woke, and woke nobody; with no call under way nobody was ever served again.
    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_is_not_first_any_more_passes_the_clock_on() {
        let throttle = throttle(2_000, 2.0);
        // The rate allows the next call in half a second, and no call is under way that would look when it ends. The
        // next turn is not of one behind.
        throttle.acquire_behind(0).await.done(0);
        let enter = |behind| {
            let throttle = Arc::clone(&throttle);
            tokio::spawn(async move { throttle.slot(behind, u64::from(behind)).await.done(0) })
        };
        let mut calls = vec![enter(false)];
        tokio::task::yield_now().await;
        calls.extend((0..=MOST_BEHIND).map(|_| enter(true)));
        tokio::time::timeout(Duration::from_secs(600), async {
            for call in calls {
                call.await.unwrap();
            }
        })
        .await
        .expect("nobody keeps the clock");
        let end = throttle.snapshot();
        assert_eq!((end.in_flight, end.waiting, end.behind), (0, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn calls_keep_to_the_rate() {
        let throttle = throttle(1_000, 100.0);
        let began = Instant::now();
        let calls = (0..300).map(|number| {
            let throttle = Arc::clone(&throttle);
            tokio::spawn(async move { throttle.acquire(number).await.done(0) })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        let took = began.elapsed().as_secs_f64();
        assert!((2.9..3.1).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_leaves_no_hole_and_keeps_no_slot() {
        for (at_once, per_second) in [(2, 1e6), (1_000, 50.0)] {
            let throttle = throttle(at_once, per_second);
            let waiters: Vec<_> = (0..200u64)
                .map(|number| {
                    let throttle = Arc::clone(&throttle);
                    tokio::spawn(async move {
                        let slot = throttle.acquire(number).await;
                        sleep(Duration::from_millis(3)).await;
                        drop(slot);
                    })
                })
                .collect();
            sleep(Duration::from_millis(10)).await;
            // The first of those that wait keeps the clock, so that it goes, too.
            waiters.iter().enumerate().filter(|(n, _)| n % 3 != 1).for_each(|(_, waiter)| waiter.abort());
            let all = async {
                for waiter in waiters {
                    let _ = waiter.await;
                }
            };
            tokio::time::timeout(Duration::from_secs(60), all).await.unwrap();
            let end = throttle.snapshot();
            assert_eq!((end.in_flight, end.waiting), (0, 0));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_slot_on_its_way_to_one_who_gave_up_goes_to_the_next() {
        let throttle = throttle(1, 1e6);
        let held = throttle.acquire(0).await;
        let mut second = Box::pin(throttle.acquire(1));
        let mut third = Box::pin(throttle.acquire(2));
        assert!((&mut second).now_or_never().is_none() && (&mut third).now_or_never().is_none());
        advance(Duration::from_millis(1)).await;
        drop(held);
        assert_eq!(throttle.snapshot().in_flight, 1, "it is the second's, who doesn't know yet");
        drop(second);
        advance(Duration::from_millis(1)).await;
        assert!(third.now_or_never().is_some());
        assert_eq!(throttle.snapshot().in_flight, 0);
    }

    /// It kept its slot, so that refused composes kept deletions out, and went out at no rate.
    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_made_again_waits_for_its_turn_as_the_first_time() {
        let throttle = throttle(1, 10.0);
        let slot = throttle.acquire(3).await;
        let mut again = slot.watch().again(Duration::from_secs(1));
        assert!((&mut again).now_or_never().is_none());
        assert_eq!(throttle.snapshot().in_flight, 0, "others may be made meanwhile");
        let other = throttle.acquire(9).await;
        sleep(Duration::from_secs(2)).await;
        let mut later = Box::pin(throttle.acquire(9));
        assert!((&mut later).now_or_never().is_none() && (&mut again).now_or_never().is_none());
        let queued = Instant::now();
        drop(other);
        again.await;
        assert!(queued.elapsed() <= Duration::from_millis(110), "before the one that is needed later");
        assert_eq!((throttle.snapshot().in_flight, throttle.snapshot().waiting), (1, 1));
        drop((slot, later));
        assert_eq!((throttle.snapshot().in_flight, throttle.snapshot().waiting), (0, 0));
    }

    /// All time in the queue was given back to the call, and the queue is long where a service is down: what was to be
    /// an error after 300 s was one after tens of minutes.
    #[tokio::test(start_paused = true)]
    async fn a_service_that_stays_down_becomes_an_error_however_long_the_queue() {
        let faults = FaultStore::new(Arc::new(MemoryStore::new().with_bucket("bucket")));
        faults.fail_next(store::StoreCall::Delete, Fault::RetryAfter(Duration::ZERO), 1_000);
        let policy = RetryPolicy::default();
        let throttle = throttle(1, 0.01);
        let slot = throttle.acquire(0).await;
        let client = Client::new(Arc::new(faults.clone())).with_retry(policy).with_observer(slot.watch());
        let began = Instant::now();
        client.delete(&ObjectId::new("bucket", "temporary", 1)).await.unwrap_err();
        // The last try may wait for its turn, which comes once in 100 s.
        let longest = 2 * policy.deadline + Duration::from_secs(100);
        assert!(began.elapsed() > policy.deadline && began.elapsed() <= longest, "{:?}", began.elapsed());
        assert!(faults.calls(store::StoreCall::Delete) > 3);
        drop(slot);
        assert_eq!((throttle.snapshot().in_flight, throttle.snapshot().waiting), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_is_given_up_while_it_waits_to_be_made_again_keeps_nothing() {
        let throttle = throttle(1, 1e6);
        for wait in [0, 5] {
            let slot = throttle.acquire(0).await;
            let mut again = slot.watch().again(Duration::from_secs(wait));
            assert!((&mut again).now_or_never().is_none() || wait == 0);
            drop((again, slot));
            assert_eq!((throttle.snapshot().in_flight, throttle.snapshot().waiting), (0, 0));
        }
    }

    #[test]
    fn each_rank_has_its_part_of_what_is_documented() {
        let throttles = Throttles::new(CallCaps::default());
        let rate = || throttles.writes.state().rate.per_second();
        throttles.add_rank(0, 1_000);
        assert_eq!((rate(), throttles.share()), (WRITES / 1_000.0, 0.001));
        throttles.add_rank(0, 1_000);
        throttles.add_rank(1, 1_000);
        throttles.add_rank(0, 1);
        assert!((throttles.share() - 0.002).abs() < 1e-9, "two ranks in one process, and a loader of its own");
        let all = Throttles::new(CallCaps::default());
        (0..8).for_each(|rank| all.add_rank(rank, 8));
        assert!((all.share() - 1.0).abs() < 1e-9);
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_teach_a_ceiling() {
        let throttle = throttle(1_000, 1_000.0);
        for number in 0..2_000 {
            let slot = throttle.acquire(number).await;
            if number % 2 == 0 {
                slot.watch().refused(true);
            }
            drop(slot);
        }
        let ceiling = throttle.snapshot();
        assert_eq!(ceiling.refused, 1_000);
        assert!(ceiling.per_second.is_some_and(|rate| rate < 600.0), "{ceiling:?}");
    }
}
