//! The queues between those who send events and the threads of observers.

use std::iter;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::event::{Event, EventKind, KindSet};
use super::observer::{Observer, Subscription};
use crate::error::panic_message;
use crate::{Error, ErrorKind, Result};

/// Most events that wait for one observer. Each takes 64 bytes here, so all take one MiB. For an observer that wants
/// one event for each object they are half a second of a loader that reads 30,000 objects a second.
const QUEUE_EVENTS: usize = 16_384;

/// How long the thread of an observer sleeps after it was woken, while events gather. Waking a thread costs the sender
/// some microseconds, more than the event itself; with this pause it happens at most a hundred times a second. During
/// the pause a queue fills up only at more than 1.6 million events a second.
const REST: Duration = Duration::from_millis(10);

/// Sends events to observers. Where there are none, sending takes one branch.
#[derive(Clone, Debug, Default)]
pub(crate) struct Events(Option<Arc<Subscribers>>);

#[derive(Debug)]
struct Subscribers {
    /// The kinds that anybody wants.
    kinds: KindSet,
    subscribers: Vec<Subscriber>,
}

/// The sending end of an observer's queue.
#[derive(Clone, Debug)]
struct Subscriber {
    kinds: KindSet,
    /// `None` ends the thread.
    queue: Sender<Option<Event>>,
    /// Events for which there was no room.
    lost: Arc<AtomicU64>,
}

impl Events {
    /// Starts the thread of another observer. Returns a handle that sends to it and to all observers of `self`; `self`
    /// and its clones don't send to it. The thread ends by [`ObserverThread::end`], or when all handles are dropped.
    ///
    /// # Errors
    /// The system refuses the thread.
    pub(crate) fn subscribe(&self, subscription: Subscription) -> Result<(Self, ObserverThread)> {
        let (queue, events) = crossbeam_channel::bounded(QUEUE_EVENTS);
        let kinds = subscription.kinds;
        let run = move || run(subscription.into_observer(), events);
        let thread = thread::Builder::new().name("dataflux-events".into()).spawn(run).map_err(|error| {
            Error::new(ErrorKind::Io, "the thread of an observer could not be started")
                .hint("raise the limit on threads (ulimit -u)")
                .with_source(error)
        })?;

        let thread = ObserverThread { queue: queue.clone(), thread };
        let (mut all, mut subscribers) = (kinds, vec![Subscriber { kinds, queue, lost: Arc::default() }]);
        if let Some(others) = &self.0 {
            all = all.union(others.kinds);
            subscribers.extend(others.subscribers.iter().cloned());
        }
        Ok((Self(Some(Arc::new(Subscribers { kinds: all, subscribers }))), thread))
    }

    /// Whether anybody wants events of this kind.
    pub(crate) fn wants(&self, kind: EventKind) -> bool {
        self.0.as_ref().is_some_and(|all| all.kinds.contains(kind))
    }

    /// Sends an event of this kind. It is made only if anybody wants it. Never waits.
    pub(crate) fn send(&self, kind: EventKind, event: impl FnOnce() -> Event) {
        if let Some(all) = &self.0
            && all.kinds.contains(kind)
        {
            let event = event();
            debug_assert_eq!(event.kind(), kind);
            all.send(kind, event);
        }
    }

    /// Number of events that observers have lost so far. One that two observers have lost counts twice.
    pub(crate) fn lost(&self) -> u64 {
        let subscribers = self.0.iter().flat_map(|all| &all.subscribers);
        subscribers.map(|subscriber| subscriber.lost.load(Ordering::Relaxed)).sum()
    }
}

impl Subscribers {
    fn send(&self, kind: EventKind, event: Event) {
        let mut wanting = self.subscribers.iter().filter(|subscriber| subscriber.kinds.contains(kind));
        let Some(first) = wanting.next() else { return };
        wanting.for_each(|subscriber| subscriber.send(event.clone()));
        first.send(event);
    }
}

impl Subscriber {
    fn send(&self, event: Event) {
        // The queue is closed if the observer has panicked or its loader was closed. Deletions may outlive a loader.
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Some(event)) {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The thread of an observer, and an end of its queue. Once this is dropped, the thread runs until all [`Events`] are
/// dropped.
#[derive(Debug)]
pub(crate) struct ObserverThread {
    queue: Sender<Option<Event>>,
    thread: JoinHandle<()>,
}

impl ObserverThread {
    /// Tells the thread to end after the events in its queue, and returns it for joining. If the queue is full, waits
    /// up to `within` for room. If there is still none, the thread ends when all senders are dropped. Never waits when
    /// the observer itself calls this, because only its own thread can make room.
    pub(crate) fn end(self, within: Duration) -> JoinHandle<()> {
        let is_own = self.thread.thread().id() == thread::current().id();
        let within = if is_own { Duration::ZERO } else { within };
        // The queue is closed if the observer has panicked.
        let _ = self.queue.send_timeout(None, within);
        self.thread
    }
}

/// Hands events to an observer until the end of its queue, or its first panic.
fn run(observer: Box<dyn Observer>, queue: Receiver<Option<Event>>) {
    let outcome = catch_unwind(AssertUnwindSafe(|| observe(observer, &queue)));
    if let Err(panic) = outcome {
        // Closes the queue before anything else, so that no event is counted as lost.
        drop(queue);
        tracing::error!(panic = panic_message(&*panic), "an observer of events panicked, and gets no more of them");
    }
}

fn observe(mut observer: Box<dyn Observer>, queue: &Receiver<Option<Event>>) {
    while let Ok(first) = queue.recv() {
        thread::sleep(REST);
        for event in iter::once(first).chain(queue.try_iter()) {
            let Some(event) = event else { return };
            observer.on_event(&event);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    fn epoch(epoch: u64) -> impl FnOnce() -> Event {
        move || Event::EpochBegun { epoch }
    }

    fn send(events: &Events, numbers: std::ops::Range<u64>) {
        numbers.for_each(|number| events.send(EventKind::EpochBegun, epoch(number)));
    }

    /// An observer that passes on the numbers of epochs, and a receiver that ends after its last event.
    fn recorder() -> (impl Observer, mpsc::Receiver<u64>) {
        let (sender, receiver) = mpsc::channel();
        let observer = move |event: &Event| {
            if let Event::EpochBegun { epoch } = event {
                sender.send(*epoch).unwrap();
            }
        };
        (observer, receiver)
    }

    #[test]
    fn without_an_observer_no_event_is_made() {
        let never = || unreachable!("nobody wants it");
        Events::default().send(EventKind::EpochBegun, never);
        let subscription = Subscription::new([EventKind::BatchDelivered], |_: &Event| ());
        let (events, _thread) = Events::default().subscribe(subscription).unwrap();
        events.send(EventKind::EpochBegun, never);
        assert!(events.wants(EventKind::BatchDelivered) && !events.wants(EventKind::EpochBegun));
    }

    #[test]
    fn each_observer_gets_each_event_that_it_wants_once_and_in_order() {
        let (all, received) = recorder();
        let (other, nothing) = recorder();
        let (events, first) = Events::default().subscribe(Subscription::new(EventKind::all(), all)).unwrap();
        let (both, second) = events.subscribe(Subscription::new([EventKind::EpochEnded], other)).unwrap();
        send(&events, 0..10);
        send(&both, 10..1_000);
        for thread in [first, second] {
            thread.end(PATIENCE).join().unwrap();
        }
        assert_eq!(received.iter().collect::<Vec<_>>(), (0..1_000).collect::<Vec<_>>());
        assert_eq!(nothing.iter().count(), 0);
        // Nobody listens any more.
        send(&both, 0..QUEUE_EVENTS as u64 * 2);
        assert_eq!(both.lost(), 0);
    }

    #[test]
    fn the_thread_ends_with_the_last_sender_and_its_queue_is_handed_over_before() {
        let (observer, received) = recorder();
        let (events, thread) = Events::default().subscribe(Subscription::new(EventKind::all(), observer)).unwrap();
        let other = events.clone();
        send(&events, 0..100);
        drop((events, thread));
        send(&other, 100..200);
        drop(other);
        assert_eq!(received.iter().count(), 200);
    }

    #[test]
    fn a_slow_observer_loses_events_and_holds_up_nobody() {
        let (release, wait) = mpsc::channel::<()>();
        let (mut observer, received) = recorder();
        let slow = move |event: &Event| {
            let _ = wait.recv();
            observer.on_event(event);
        };
        let (events, thread) = Events::default().subscribe(Subscription::new(EventKind::all(), slow)).unwrap();
        let sent = 3 * QUEUE_EVENTS as u64;
        send(&events, 0..sent);
        let lost = events.lost();
        // The observer itself may have taken one from the queue.
        assert!((sent - QUEUE_EVENTS as u64 - 1..=sent - QUEUE_EVENTS as u64).contains(&lost), "{lost} of {sent}");

        drop(release);
        thread.end(PATIENCE).join().unwrap();
        assert_eq!(received.iter().count() as u64 + lost, sent);
    }

    #[test]
    fn an_observer_that_panics_gets_no_more_events_and_others_do() {
        let (observer, received) = recorder();
        let mut seen = 0;
        let panics = move |_: &Event| {
            seen += 1;
            assert!(seen < 3, "a defect of the observer");
        };
        let (events, panicking) = Events::default().subscribe(Subscription::new(EventKind::all(), panics)).unwrap();
        let (events, thread) = events.subscribe(Subscription::new(EventKind::all(), observer)).unwrap();
        send(&events, 0..10);
        panicking.end(PATIENCE).join().expect("the thread has caught the panic");
        send(&events, 10..100);
        thread.end(PATIENCE).join().unwrap();
        assert_eq!((received.iter().count(), events.lost()), (100, 0));
    }

    #[test]
    fn user_code_runs_on_the_threads_of_observers_alone() {
        let (sender, names) = mpsc::channel();
        let name = move || thread::current().name().map(str::to_owned);
        let observer = move |_: &Event| sender.send(name()).unwrap();
        let (events, thread) = Events::default().subscribe(Subscription::new(EventKind::all(), observer)).unwrap();
        send(&events, 0..2);
        thread.end(PATIENCE).join().unwrap();
        assert_eq!(names.iter().collect::<Vec<_>>(), vec![Some("dataflux-events".to_owned()); 2]);
    }

    /// The observer waited for room that it alone could have made.
    #[test]
    fn an_observer_that_ends_itself_with_a_full_queue_waits_for_nothing() {
        let (give, take) = mpsc::channel::<(Events, ObserverThread)>();
        let (done, wait) = mpsc::channel();
        let observer = move |_: &Event| {
            if let Ok((events, thread)) = take.recv() {
                send(&events, 0..2 * QUEUE_EVENTS as u64);
                drop(thread.end(PATIENCE * 60));
                done.send(()).unwrap();
            }
        };
        let (events, thread) = Events::default().subscribe(Subscription::new(EventKind::all(), observer)).unwrap();
        send(&events, 0..1);
        give.send((events, thread)).unwrap();
        drop(give);
        wait.recv_timeout(PATIENCE).expect("it waits for itself");
    }
}
