//! Calls of one kind on one bucket, let through as the service takes them: so many at once, so many a second.
//!
//! Whoever wants to make a call waits for a [`Slot`]. Waiters are served in the order of their numbers, the smallest
//! first, whenever they came, so that the batch that is needed first is read first. Those *behind*, for which nobody waits, have
//! every other turn where both kinds wait, all where no others do, and all while they are too many. No task drives this: whoever is let
//! through, leaves or gives up lets the next ones through, and where only time is missing, the first waiter keeps the
//! clock. So it works from any runtime, and for as long as anybody waits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::rate::Rate;
use crate::os;
use crate::store::{Pace, Watch};

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
/// takes about one: until the first is back, all of the bucket's writes are composes, and then half of them.
pub(crate) const MOST_BEHIND: usize = 768;

/// What a call weighs beside the bytes it brings, when calls at once are judged by the work they do.
const CALL: u64 = 64 << 10;

/// What its user allows a bucket's throttles.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Caps {
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
    loops: Arc<Loops>,
}

/// The training loops that a bucket feeds.
#[derive(Debug, Default)]
struct Loops {
    all: AtomicUsize,
    /// Those that want more than they get.
    hungry: AtomicUsize,
}

impl Loops {
    /// Whether it is worth some refusals to find out if the bucket takes more than is known. It is where nobody says.
    fn want_more(&self) -> bool {
        self.hungry.load(Ordering::Relaxed) > 0 || self.all.load(Ordering::Relaxed) == 0
    }
}

/// What one training loop says, for as long as it is fed.
#[derive(Debug)]
pub(crate) struct Appetite {
    loops: Arc<Loops>,
    hungry: bool,
}

impl Appetite {
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

impl Drop for Appetite {
    fn drop(&mut self) {
        self.set(false);
        self.loops.all.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Throttles {
    pub(crate) fn new(caps: Caps) -> Arc<Self> {
        let files = os::open_files().unwrap_or(USUAL_FILES) / 8 * EIGHTHS;
        let most = usize::try_from(files).unwrap_or(MOST_CALLS).min(MOST_CALLS);
        let most = caps.at_once.map_or(most, |cap| cap.min(most)).max(1);
        // A compose takes so long that to feel one's way up to hundreds at once would take the first seconds; here the
        // rate alone holds back.
        let writes = Pace::new(most, Duration::ZERO).start_with(most);
        let loops = Arc::<Loops>::default();
        let reads = Pace::new(most, Duration::ZERO);
        Arc::new(Self {
            reads: Throttle::new("reads", reads, (READS, caps.reads_per_second), &loops),
            writes: Throttle::new("writes", writes, (WRITES, caps.writes_per_second), &loops),
            latest: AtomicU64::new(0),
            loops,
        })
    }

    /// Of one more training loop, which has all it wants until it says otherwise.
    pub(crate) fn appetite(&self) -> Appetite {
        self.loops.all.fetch_add(1, Ordering::Relaxed);
        Appetite { loops: Arc::clone(&self.loops), hungry: false }
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
    loops: Arc<Loops>,
    state: Mutex<State>,
}

/// Whether a waiter is one behind, its number, and which one it was to come: those before others of their kind are served first.
type Key = (bool, u64, u64);

#[derive(Debug)]
struct State {
    pace: Pace,
    rate: Rate,
    in_flight: usize,
    refused: u64,
    waiters: BTreeMap<Key, Arc<Notify>>,
    /// Of the waiters.
    behind: usize,
    /// Most waiters behind before they go first.
    most_behind: usize,
    /// Whether the next turn is of one behind, if there is any; else it is of one of the others.
    behind_next: bool,
    /// The waiter that looks again when the rate allows the next call.
    keeper: Option<Key>,
    tickets: u64,
    /// The ceiling that was last told in the log.
    told: f64,
}

/// What a look at the state says to a waiter.
enum Look {
    Granted,
    /// Until something changes; the first waiter also until then.
    Wait(Option<Duration>),
}

impl Throttle {
    fn new(
        what: &'static str,
        pace: Pace,
        (per_second, most_per_second): (f64, Option<f64>),
        loops: &Arc<Loops>,
    ) -> Arc<Self> {
        let rate = Rate::new(per_second, most_per_second.unwrap_or(f64::INFINITY), Duration::ZERO);
        let state = State {
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
            told: 0.0,
        };
        Arc::new(Self { what, began: Instant::now(), loops: Arc::clone(loops), state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
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
    pub(crate) async fn acquire(self: &Arc<Self>, number: u64) -> Slot {
        self.slot(false, number).await
    }

    /// Waits as [`acquire`](Self::acquire) does until a call may be made that no batch waits for.
    pub(crate) async fn acquire_behind(self: &Arc<Self>, number: u64) -> Slot {
        self.slot(true, number).await
    }

    async fn slot(self: &Arc<Self>, behind: bool, number: u64) -> Slot {
        let mut waiter = Waiter::enter(self, behind, number);
        loop {
            match waiter.look(self.now()) {
                Look::Granted => return Slot::new(self),
                Look::Wait(None) => waiter.turn.notified().await,
                Look::Wait(Some(until)) => {
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

    /// The first try of a call that began then was refused.
    fn refused(&self, started: Duration) {
        let now = self.now();
        let mut state = self.state();
        state.refused += 1;
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

impl State {
    /// Who is next.
    fn first(&self) -> Option<(Key, &Arc<Notify>)> {
        let other = || self.waiters.first_key_value().filter(|(key, _)| !key.0);
        let behind = || self.waiters.range((true, 0, 0)..).next();
        let first = if self.behind_next || self.behind > self.most_behind {
            behind().or_else(other)
        } else {
            other().or_else(behind)
        };
        first.map(|(key, turn)| (*key, turn))
    }

    fn take_out(&mut self, key: Key) -> Option<Arc<Notify>> {
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
    key: Key,
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

    fn look(&mut self, now: Duration) -> Look {
        let mut state = self.throttle.state();
        let is_first = |state: &State| state.first().is_some_and(|(key, _)| key == self.key);
        let kept_clock = state.keeper == Some(self.key);
        if is_first(&state) {
            // A waiter that looks by itself needs no wake-up.
            state.keeper = Some(self.key);
            state.dispatch(now, self.throttle.loops.want_more());
        } else if kept_clock {
            // Another waiter came before this one meanwhile, and nobody has woken it: now it keeps the clock.
            state.keeper = None;
            state.dispatch(now, self.throttle.loops.want_more());
        }
        if !state.waiters.contains_key(&self.key) {
            self.done = true;
            return Look::Granted;
        }
        if !is_first(&state) {
            return Look::Wait(None);
        }
        if state.in_flight < state.pace.limit() {
            state.keeper = Some(self.key);
            return Look::Wait(Some(state.rate.due()));
        }
        state.keeper = None;
        Look::Wait(None)
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
pub(crate) struct Slot {
    call: Arc<Call>,
    bytes: u64,
}

/// What the client tells of a call.
#[derive(Debug)]
struct Call {
    throttle: Arc<Throttle>,
    began: Duration,
    refused: AtomicBool,
    /// Nanoseconds to the first sign of an answer; 0 for none.
    wait: AtomicU64,
}

impl Slot {
    fn new(throttle: &Arc<Throttle>) -> Self {
        let (throttle, began) = (Arc::clone(throttle), throttle.now());
        Self { call: Arc::new(Call { throttle, began, refused: false.into(), wait: 0.into() }), bytes: 0 }
    }

    /// What the client of this call tells how it fares.
    pub(crate) fn watch(&self) -> Arc<dyn Watch> {
        Arc::clone(&self.call) as Arc<dyn Watch>
    }

    /// The call brought so many bytes, and is over.
    pub(crate) fn done(mut self, bytes: u64) {
        self.bytes = bytes;
    }
}

impl Watch for Call {
    fn refused(&self) {
        self.refused.store(true, Ordering::Relaxed);
        self.throttle.refused(self.began);
    }

    fn answered(&self, wait: Duration) {
        self.wait.store(u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let Call { throttle, refused, wait, .. } = &*self.call;
        let (now, wait) = (throttle.now(), wait.load(Ordering::Relaxed));
        let mut state = throttle.state();
        let in_flight = state.in_flight;
        if wait > 0 {
            state.pace.answered(Duration::from_nanos(wait));
        }
        // A call that waited to be made again says nothing of how many at once are good.
        if !refused.load(Ordering::Relaxed) {
            state.pace.done(now, CALL + self.bytes, in_flight);
        }
        state.in_flight -= 1;
        state.dispatch(now, throttle.loops.want_more());
    }
}

#[cfg(test)]
mod interleavings;

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::time::{advance, sleep};

    use super::*;

    #[test]
    fn more_is_wanted_where_any_loop_is_hungry_or_none_says() {
        let throttles = Throttles::new(Caps::default());
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
        Throttle::new("reads", pace, (per_second, Some(per_second)), &Arc::default())
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

    /// So many deletions that they go first take the first place from the compose that waits for the rate. It found itself
    /// not first any more when it woke, and woke nobody; with no call under way nobody was ever served again.
    #[tokio::test(start_paused = true)]
    async fn a_waiter_that_is_not_first_any_more_passes_the_clock_on() {
        let throttle = throttle(2_000, 2.0);
        // The rate allows the next call in half a second, and no call is under way that would look when it ends.
        throttle.acquire(0).await.done(0);
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

    #[tokio::test(start_paused = true)]
    async fn refusals_teach_a_ceiling() {
        let throttle = throttle(1_000, 1_000.0);
        for number in 0..2_000 {
            let slot = throttle.acquire(number).await;
            if number % 2 == 0 {
                slot.watch().refused();
            }
            drop(slot);
        }
        let ceiling = throttle.snapshot();
        assert_eq!(ceiling.refused, 1_000);
        assert!(ceiling.per_second.is_some_and(|rate| rate < 600.0), "{ceiling:?}");
    }
}
