//! Gate for the calls of one kind on one bucket: it limits how many calls are in flight and how many start in a second.
//!
//! A caller waits for a [`CallSlot`] before each call. The gate serves waiters by the numbers of their groups, the
//! smallest first. Groups are numbered in the order of delivery, so the batch that is needed first is read first.
//! *Background* calls are those that no batch waits for; the others are *foreground* calls. While both wait, each get
//! every other slot. While too many background calls wait, these get every slot.
//!
//! No task drives the gate. Each waiter that arrives or gives up and each call that ends serves those who may start.
//! Where only the rate holds calls back, the first waiter is the *timekeeper*, which sleeps until the next call may
//! start. So the gate works on any runtime, and for as long as somebody waits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::concurrency::ConcurrencyLimit;
use super::demand::Demand;
use super::rate::RateLimit;
use crate::lock::lock;
use crate::store::CallPacer;

/// Processor time of one call, as the number of bytes that take as long to receive.
pub(super) const CALL_BYTES: u64 = 64 << 10;

/// Background calls that may wait while foreground calls do, in seconds of the current rate; if more wait, they go
/// first. Each compose needs a deletion, and where the rate is low, deletions would otherwise last for minutes after an
/// epoch.
const MAX_BACKGROUND_SECONDS: f64 = 0.8;

/// Weight of the old average against one new answer in the typical latency. About ten answers replace it.
const LATENCY_MEMORY: u32 = 7;

/// Limits and counts of the calls of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Ceiling {
    /// The current limit on calls in flight.
    pub at_once: usize,
    /// Calls in flight.
    pub in_flight: usize,
    /// Calls that wait to start, without background calls.
    pub waiting: usize,
    /// Background calls that wait to start: deletions, which no batch waits for.
    #[serde(default)]
    pub background_waiting: usize,
    /// The current limit on calls a second; `None` until refusals have lowered it.
    pub per_second: Option<f64>,
    /// Calls whose first try the service refused (429, 503).
    pub refused: u64,
}

/// Lets calls of one kind start.
#[derive(Debug)]
pub(crate) struct CallGate {
    /// What the log calls these calls.
    label: &'static str,
    created: Instant,
    demand: Arc<Demand>,
    state: Mutex<CallGateState>,
}

/// Priority of a waiter among foreground or background calls, smallest first. `arrival` makes it unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct WaiterKey {
    background: bool,
    number: u64,
    arrival: u64,
}

#[derive(Debug)]
struct CallGateState {
    concurrency: ConcurrencyLimit,
    rate: RateLimit,
    in_flight: usize,
    refused: u64,
    /// Foreground waiters, then background waiters.
    waiters: [BTreeMap<WaiterKey, Arc<Notify>>; 2],
    /// Whether a background waiter comes next, if there is one.
    background_next: bool,
    /// The first waiter, while only the rate holds it back.
    timekeeper: Option<WaiterKey>,
    arrivals: u64,
    /// How long a foreground call typically waits for its answer to begin.
    typical_latency: Duration,
}

/// The result of a waiter's look at the gate.
enum SlotDecision {
    Granted,
    /// Wait for a notification; the timekeeper also waits for this moment.
    Wait(Option<Duration>),
}

impl CallGate {
    /// Gate with these limits. `typical_latency` holds until there are answers.
    pub(super) fn new(
        label: &'static str,
        concurrency: ConcurrencyLimit,
        rate: RateLimit,
        typical_latency: Duration,
        demand: &Arc<Demand>,
    ) -> Arc<Self> {
        let state = CallGateState {
            concurrency,
            rate,
            in_flight: 0,
            refused: 0,
            waiters: Default::default(),
            background_next: false,
            timekeeper: None,
            arrivals: 0,
            typical_latency,
        };
        Arc::new(Self { label, created: Instant::now(), demand: Arc::clone(demand), state: Mutex::new(state) })
    }

    fn now(&self) -> Duration {
        self.created.elapsed()
    }

    /// Waits until a call may start. Calls with smaller numbers start first.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the queue, and a slot that was already granted.
    pub(crate) async fn acquire(self: &Arc<Self>, number: u64) -> CallSlot {
        self.acquire_slot(false, number).await
    }

    /// Waits like [`acquire`](Self::acquire) for the start of a background call.
    pub(crate) async fn acquire_background(self: &Arc<Self>, number: u64) -> CallSlot {
        self.acquire_slot(true, number).await
    }

    async fn acquire_slot(self: &Arc<Self>, background: bool, number: u64) -> CallSlot {
        self.wait_for_start(background, number).await;
        CallSlot::new(self, background, number)
    }

    /// Waits until a call may start, which then counts as in flight.
    async fn wait_for_start(self: &Arc<Self>, background: bool, number: u64) {
        let mut waiter = Waiter::enter(self, background, number);
        loop {
            match waiter.look(self.now()) {
                SlotDecision::Granted => return,
                SlotDecision::Wait(None) => waiter.wake.notified().await,
                SlotDecision::Wait(Some(until)) => {
                    tokio::select! {
                        () = waiter.wake.notified() => {}
                        () = sleep_until(self.created + until) => {}
                    }
                }
            }
        }
    }

    pub(crate) fn snapshot(&self) -> Ceiling {
        let state = lock(&self.state);
        let [waiting, background_waiting] = [0, 1].map(|kind| state.waiters[kind].len());
        Ceiling {
            at_once: state.concurrency.limit(),
            in_flight: state.in_flight,
            waiting,
            background_waiting,
            per_second: state.rate.learned(),
            refused: state.refused,
        }
    }

    /// Replaces the initial rate, unless calls have proven or refusals changed it.
    pub(super) fn start_at_rate(&self, per_second: f64) {
        let now = self.now();
        lock(&self.state).rate.start_at(per_second, now, rand::random());
    }

    /// Replaces the upper bound of calls in flight.
    pub(super) fn set_max_calls(&self, calls: usize) {
        let (now, wants_more) = (self.now(), self.demand.wants_more());
        let mut state = lock(&self.state);
        state.concurrency.set_max(calls);
        state.serve(now, wants_more);
    }

    /// How long a foreground call typically waits for its answer to begin. For writes that is the time of a compose:
    /// deletions, which are much faster, don't count.
    pub(crate) fn typical_latency(&self) -> Duration {
        lock(&self.state).typical_latency
    }

    /// Estimated time for `calls` calls when no others are made meanwhile.
    pub(crate) fn time_for(&self, calls: usize) -> Duration {
        let state = lock(&self.state);
        let by_rate = calls as f64 / state.rate.per_second();
        let by_concurrency = state.typical_latency.as_secs_f64() * calls as f64 / state.concurrency.limit() as f64;
        state.typical_latency + Duration::try_from_secs_f64(by_rate.max(by_concurrency)).unwrap_or(Duration::MAX / 2)
    }

    /// The current limit on calls that start in a second.
    pub(crate) fn per_second(&self) -> f64 {
        lock(&self.state).rate.per_second()
    }

    /// Records that the service refused a try that began at `started`.
    fn record_refusal(&self, started: Duration, first_try: bool) {
        let now = self.now();
        let mut state = lock(&self.state);
        state.refused += u64::from(first_try);
        let was_known = state.rate.learned().is_some();
        state.rate.record_refusal(now, started);

        if let Some(rate) = state.rate.learned().filter(|_| !was_known) {
            drop(state);
            tracing::info!(calls = self.label, per_second = rate.round(), "the bucket refuses calls above a ceiling");
        }
    }
}

impl CallGateState {
    /// The waiter that is served next.
    fn first(&self) -> Option<(WaiterKey, Arc<Notify>)> {
        let first = |background| self.waiters[usize::from(background)].first_key_value();
        let has_backlog = self.waiters[1].len() as f64 > MAX_BACKGROUND_SECONDS * self.rate.per_second();
        let background_next = self.background_next || has_backlog;
        let (key, wake) = first(background_next).or_else(|| first(!background_next))?;
        Some((*key, Arc::clone(wake)))
    }

    fn remove(&mut self, key: WaiterKey) -> bool {
        if self.timekeeper == Some(key) {
            self.timekeeper = None;
        }
        self.waiters[usize::from(key.background)].remove(&key).is_some()
    }

    /// Lets all waiters start that may. Where the rate holds back the first one, makes that one the timekeeper.
    fn serve(&mut self, now: Duration, wants_more: bool) {
        while let Some((key, wake)) = self.first() {
            // The next call that ends serves again.
            if self.in_flight >= self.concurrency.limit() {
                self.timekeeper = None;
                return;
            }
            if self.rate.next_start() > now {
                if self.timekeeper != Some(key) {
                    self.timekeeper = Some(key);
                    wake.notify_one();
                }
                return;
            }
            self.remove(key);
            self.background_next = !key.background;
            self.in_flight += 1;
            self.rate.record_start(now, wants_more);
            wake.notify_one();
        }
    }
}

/// A place in the queue.
struct Waiter<'a> {
    gate: &'a Arc<CallGate>,
    key: WaiterKey,
    wake: Arc<Notify>,
    /// Whether the slot was granted and the waiter knows.
    is_granted: bool,
}

impl<'a> Waiter<'a> {
    fn enter(gate: &'a Arc<CallGate>, background: bool, number: u64) -> Self {
        let wake = Arc::new(Notify::new());
        let mut state = lock(&gate.state);
        state.arrivals += 1;
        let key = WaiterKey { background, number, arrival: state.arrivals };
        state.waiters[usize::from(background)].insert(key, Arc::clone(&wake));
        drop(state);
        Self { gate, key, wake, is_granted: false }
    }

    fn look(&mut self, now: Duration) -> SlotDecision {
        let mut state = lock(&self.gate.state);
        state.serve(now, self.gate.demand.wants_more());

        self.is_granted = !state.waiters[usize::from(self.key.background)].contains_key(&self.key);
        if self.is_granted {
            SlotDecision::Granted
        } else {
            SlotDecision::Wait((state.timekeeper == Some(self.key)).then(|| state.rate.next_start()))
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if self.is_granted {
            return;
        }
        let now = self.gate.now();
        let mut state = lock(&self.gate.state);
        if !state.remove(self.key) {
            // The slot was granted, and the waiter gave up before it knew.
            state.in_flight -= 1;
        }
        state.serve(now, self.gate.demand.wants_more());
    }
}

/// Permission for one call. The call is in flight until this is dropped.
#[derive(Debug)]
pub(crate) struct CallSlot {
    call: Arc<CallRecord>,
    bytes: u64,
}

/// A call as its client sees it: the client reports refusals and answers here, and waits here before a retry.
#[derive(Debug)]
struct CallRecord {
    gate: Arc<CallGate>,
    background: bool,
    number: u64,
    /// When the current try began, on the gate's clock. `None` while the call waits for a retry, and is not in flight.
    began: Mutex<Option<Duration>>,
    was_refused: AtomicBool,
}

impl CallSlot {
    fn new(gate: &Arc<CallGate>, background: bool, number: u64) -> Self {
        let began = Mutex::new(Some(gate.now()));
        let was_refused = AtomicBool::default();
        let call = CallRecord { gate: Arc::clone(gate), background, number, began, was_refused };
        Self { call: Arc::new(call), bytes: 0 }
    }

    /// The pacer of this call, for its client.
    pub(crate) fn pacer(&self) -> Arc<dyn CallPacer> {
        Arc::clone(&self.call) as Arc<dyn CallPacer>
    }

    /// Ends a call that brought `bytes`.
    pub(crate) fn finish(mut self, bytes: u64) {
        self.bytes = bytes;
    }
}

impl CallPacer for CallRecord {
    fn refused(&self, first: bool) {
        self.was_refused.store(true, Ordering::Relaxed);
        let began = *lock(&self.began);
        if let Some(began) = began {
            self.gate.record_refusal(began, first);
        }
    }

    fn answered(&self, wait: Duration) {
        if self.background {
            return;
        }
        let mut state = lock(&self.gate.state);
        state.concurrency.record_answer(wait);
        state.typical_latency = (state.typical_latency * LATENCY_MEMORY + wait) / (LATENCY_MEMORY + 1);
    }

    /// Other calls may start meanwhile. The next try waits in the queue as the first did, and by its number it starts
    /// before calls that are needed later.
    fn again(self: Arc<Self>, wait: Duration) -> BoxFuture<'static, Duration> {
        Box::pin(async move {
            self.end_flight(|_, _| {});
            sleep(wait).await;

            let queued = Instant::now();
            self.gate.wait_for_start(self.background, self.number).await;
            // No await follows, so the future cannot be dropped between the grant and this mark.
            *lock(&self.began) = Some(self.gate.now());
            queued.elapsed()
        })
    }
}

impl CallRecord {
    /// Ends the flight of the call after `record` has updated the limits, and serves the next waiters.
    fn end_flight(&self, record: impl FnOnce(&mut CallGateState, Duration)) {
        if lock(&self.began).take().is_none() {
            return;
        }
        let now = self.gate.now();
        let mut state = lock(&self.gate.state);
        record(&mut state, now);
        state.in_flight -= 1;
        state.serve(now, self.gate.demand.wants_more());
    }
}

impl Drop for CallSlot {
    fn drop(&mut self) {
        self.call.end_flight(|state, now| {
            // A refused call that brought nothing, such as a compose that isn't retried, is no work.
            if self.bytes > 0 || !self.call.was_refused.load(Ordering::Relaxed) {
                state.concurrency.record_call(now, CALL_BYTES + self.bytes, state.in_flight);
            }
        });
    }
}

#[cfg(test)]
mod interleavings;
#[cfg(test)]
mod tests;
