//! The end of an epoch or a loader before its time.
//!
//! Whoever ends an epoch says so and goes on. All that works for it listens: its thread, its reads, and the batches in the
//! making each hold a receiver of the word, and let go of it when they end. What is left then finishes behind: batches
//! that are done are dropped by the decode threads, temporary objects are deleted by the network's. Each of these is
//! bounded by the deadline of a call, or by the one sample that user code has at hand. So that there is none left to wait
//! for is when nobody holds a receiver, and the run has no temporary; and to wait for that is all that closing adds.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::compose::TemporaryRun;

/// How often someone who waits looks. What it waits for takes milliseconds, or else the time of a call.
const LOOK: Duration = Duration::from_millis(2);

/// What closing a loader or an epoch came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// Reads and batches in the making that were under way and have ended.
    pub tasks_ended: u64,
    /// Those that haven't.
    pub tasks_left: u64,
    /// Threads that have ended.
    pub threads_joined: u64,
    /// Those that haven't: user code that takes its time, usually.
    pub threads_left: u64,
    /// Temporary objects deleted meanwhile.
    pub temporaries_deleted: u64,
    /// Those that could not be deleted, or not yet.
    pub temporaries_left: u64,
}

impl Closed {
    /// Whether nothing is left: no task, no thread, no temporary object.
    pub fn is_clean(&self) -> bool {
        self.tasks_left + self.threads_left + self.temporaries_left == 0
    }

    /// Of both.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            tasks_ended: self.tasks_ended + other.tasks_ended,
            tasks_left: self.tasks_left + other.tasks_left,
            threads_joined: self.threads_joined + other.threads_joined,
            threads_left: self.threads_left + other.threads_left,
            temporaries_deleted: self.temporaries_deleted + other.temporaries_deleted,
            temporaries_left: self.temporaries_left + other.temporaries_left,
        }
    }

    fn tell(self) -> Self {
        if !self.is_clean() {
            tracing::warn!(
                tasks = self.tasks_left,
                threads = self.threads_left,
                temporaries = self.temporaries_left,
                "closed, but not all of it has ended in the time allowed"
            );
        }
        self
    }
}

/// The word that ends an epoch, and what has to end with it.
#[derive(Debug)]
pub(crate) struct EpochShutdown {
    word: watch::Sender<bool>,
    /// Whether the training loop has let go of its batches.
    released: AtomicBool,
    run: Arc<TemporaryRun>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    on_end: OnceLock<EndCallback>,
}

/// What makes those let go that wait for something else than the word.
struct EndCallback(Box<dyn Fn() + Send + Sync>);

impl fmt::Debug for EndCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OnEnd")
    }
}

impl EpochShutdown {
    /// The ending of an epoch of these temporaries, and what listens to it.
    pub(crate) fn new(run: &Arc<TemporaryRun>) -> (Arc<Self>, watch::Receiver<bool>) {
        let (word, listener) = watch::channel(false);
        let ending = Self {
            word,
            released: AtomicBool::new(false),
            run: Arc::clone(run),
            threads: Mutex::default(),
            on_end: OnceLock::new(),
        };
        (Arc::new(ending), listener)
    }

    pub(crate) fn run(&self) -> &TemporaryRun {
        &self.run
    }

    pub(crate) fn listen(&self) -> watch::Receiver<bool> {
        self.word.subscribe()
    }

    /// A thread of this epoch alone.
    pub(crate) fn has(&self, thread: JoinHandle<()>) {
        lock(&self.threads).push(thread);
    }

    /// Has `call` called whenever the epoch is ended, once the word is said. To be set once.
    pub(crate) fn on_end(&self, call: impl Fn() + Send + Sync + 'static) {
        // One that is set already stays.
        let _ = self.on_end.set(EndCallback(Box::new(call)));
    }

    /// Ends the epoch, if it goes on. Returns at once.
    pub(crate) fn end(&self) {
        self.word.send_replace(true);
        if let Some(EndCallback(call)) = self.on_end.get() {
            call();
        }
        self.run.end();
    }

    /// No batch of it is held any more.
    pub(crate) fn release(&self) {
        self.released.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_released(&self) -> bool {
        self.released.load(Ordering::SeqCst)
    }

    pub(crate) fn is_said(&self) -> bool {
        *self.word.borrow()
    }

    fn tasks(&self) -> u64 {
        self.word.receiver_count() as u64
    }

    /// What there is of it: tasks and temporaries.
    fn there(&self) -> (u64, u64) {
        (self.tasks(), self.run.outstanding())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a loader has started, so that it can see the end of it.
#[derive(Debug, Default)]
pub(crate) struct LiveEpochs {
    epochs: Mutex<Vec<Arc<EpochShutdown>>>,
    /// Those that go through several epochs.
    threads: Mutex<Vec<JoinHandle<()>>>,
    closing: AtomicBool,
}

impl LiveEpochs {
    pub(crate) fn add(&self, epoch: &Arc<EpochShutdown>) {
        let mut epochs = lock(&self.epochs);
        epochs.retain(|epoch| epoch.there() != (0, 0));
        epochs.push(Arc::clone(epoch));
        drop(epochs);
        // Whoever closes says so first and then looks at them.
        if self.is_closing() {
            epoch.end();
        }
    }

    pub(crate) fn has(&self, thread: JoinHandle<()>) {
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Ends all epochs, and lets none begin.
    pub(crate) fn end(&self) {
        self.closing.store(true, Ordering::SeqCst);
        for epoch in lock(&self.epochs).iter() {
            epoch.end();
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::SeqCst)
    }
}

/// Ends one epoch by `end`, and waits for all that is left of it.
pub(crate) fn close_epoch(epoch: &EpochShutdown, end: impl FnOnce(), within: Duration) -> Closed {
    let mut closing = ShutdownWait::new(within);
    let there = epoch.there();
    end();
    closing.epoch(epoch, there);
    closing.closed.tell()
}

/// Ends a loader: its epochs, and then, once `let_go` has been called, its decode threads.
pub(crate) fn close_loader(
    live: &LiveEpochs,
    decoders: Vec<JoinHandle<()>>,
    let_go: impl FnOnce(),
    end_io: impl FnOnce(Duration) -> (u64, u64),
    within: Duration,
) -> Closed {
    let mut closing = ShutdownWait::new(within);
    live.closing.store(true, Ordering::SeqCst);
    let epochs = std::mem::take(&mut *lock(&live.epochs));
    let there: Vec<_> = epochs.iter().map(|epoch| epoch.there()).collect();
    // All of them, before any is waited for.
    for epoch in &epochs {
        epoch.end();
    }
    for (epoch, there) in epochs.iter().zip(there) {
        closing.epoch(epoch, there);
    }
    closing.join(std::mem::take(&mut *lock(&live.threads)));
    let_go();
    closing.join(decoders);
    let (ended, left) = end_io(closing.left());
    closing.closed.threads_joined += ended;
    closing.closed.threads_left += left;
    closing.closed.tell()
}

struct ShutdownWait {
    deadline: Instant,
    closed: Closed,
}

impl ShutdownWait {
    fn new(within: Duration) -> Self {
        let now = Instant::now();
        // Further than clocks go: a day is for ever here.
        let deadline = now.checked_add(within).unwrap_or_else(|| now + Duration::from_secs(86_400));
        Self { deadline, closed: Closed::default() }
    }

    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits for what is left of an epoch that was ended when there was so much.
    fn epoch(&mut self, epoch: &EpochShutdown, (tasks, temporaries): (u64, u64)) {
        self.until(|| epoch.tasks() == 0);
        let left = epoch.tasks();
        self.closed.tasks_left += left;
        self.closed.tasks_ended += tasks.saturating_sub(left);
        self.join(std::mem::take(&mut *lock(&epoch.threads)));
        // Last, since no task can begin another now.
        let left = epoch.run.wait(self.left());
        self.closed.temporaries_left += left;
        self.closed.temporaries_deleted += temporaries.saturating_sub(left);
    }

    fn join(&mut self, threads: Vec<JoinHandle<()>>) {
        let own = std::thread::current().id();
        for thread in threads {
            // A decoder or a batch of its own may be what closes the loader.
            if thread.thread().id() == own {
                continue;
            }
            self.until(|| thread.is_finished());
            if thread.is_finished() {
                // It has said on stderr what it panicked of, and those who waited for it were told.
                let _ = thread.join();
                self.closed.threads_joined += 1;
            } else {
                self.closed.threads_left += 1;
            }
        }
    }

    fn until(&self, done: impl Fn() -> bool) {
        while !done() && !self.left().is_zero() {
            std::thread::sleep(LOOK.min(self.left()));
        }
    }
}
