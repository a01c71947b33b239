//! The early end of an epoch or a loader.
//!
//! Whoever ends an epoch sets a flag and returns at once. Every thread, task and batch that works for the epoch holds
//! an [`EpochSignal`], and drops it when it ends. What is left then finishes in the background: the decode threads drop
//! finished batches, and the network threads delete temporary objects. Each of these has a bound: the deadline of a
//! call, the one sample that user code is working on, or the one file that is being read. So nothing is left of an
//! epoch once nobody holds a signal and its run has no temporary object. Closing adds only the wait for that.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::epoch_events::EpochEvents;
use crate::compose::{TemporaryRun, deadline_after};
use crate::lock::lock;

/// How often a thread that closes looks whether it is done. What it waits for takes milliseconds, or as long as a call.
const LOOK: Duration = Duration::from_millis(2);

/// The cancellation signal of an epoch, as all that works for the epoch holds it.
#[derive(Clone)]
pub(crate) struct EpochSignal {
    cancelled: watch::Receiver<bool>,
    tasks: Arc<AtomicU64>,
}

impl EpochSignal {
    /// Whether the epoch is cancelled. It also is if its iterator was dropped, which closes the channel.
    pub(crate) fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow() || self.cancelled.has_changed().is_err()
    }

    /// Waits until the epoch is cancelled.
    pub(crate) async fn cancelled(&mut self) {
        // An error means that the iterator was dropped.
        let _ = self.cancelled.wait_for(|&cancelled| cancelled).await;
    }

    /// Counts a read or an unfinished batch until the returned value is dropped.
    pub(crate) fn track_task(&self) -> EpochTask {
        self.tasks.fetch_add(1, Ordering::Relaxed);
        EpochTask(Arc::clone(&self.tasks))
    }
}

/// One read or unfinished batch of an epoch, which counts in [`Closed`].
pub(crate) struct EpochTask(Arc<AtomicU64>);

impl Drop for EpochTask {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Release);
    }
}

/// The result of closing a loader or an epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Closed {
    /// Reads and unfinished batches that have ended.
    pub tasks_ended: u64,
    /// Reads and unfinished batches that have not ended yet; 1 if there is none and other work of the epoch continues,
    /// such as user code on the thread that plans it.
    pub tasks_left: u64,
    /// Threads that have ended.
    pub threads_joined: u64,
    /// Threads that have not ended yet, usually because user code is still running.
    pub threads_left: u64,
    /// Temporary objects that were deleted meanwhile.
    pub temporaries_deleted: u64,
    /// Temporary objects that could not be deleted, or are not deleted yet.
    pub temporaries_left: u64,
}

impl Closed {
    /// Whether nothing is left: no task, no thread, no temporary object.
    pub fn is_clean(&self) -> bool {
        self.tasks_left + self.threads_left + self.temporaries_left == 0
    }

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

    fn log(self) -> Self {
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

/// Cancellation signal for one epoch, with the threads to join.
pub(crate) struct EpochShutdown {
    cancelled: watch::Sender<bool>,
    /// Number of reads and unfinished batches.
    tasks: Arc<AtomicU64>,
    /// Whether the training loop holds no batch of the epoch any more.
    is_released: AtomicBool,
    run: Arc<TemporaryRun>,
    events: EpochEvents,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Wakes what waits for something else than the signal.
    on_cancel: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl fmt::Debug for EpochShutdown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EpochShutdown").finish_non_exhaustive()
    }
}

/// What is left of an epoch.
#[derive(Clone, Copy)]
struct Leftovers {
    tasks: u64,
    temporaries: u64,
}

impl EpochShutdown {
    /// The shutdown of an epoch whose temporary objects belong to `run`, and its first signal.
    pub(crate) fn new(run: &Arc<TemporaryRun>, events: EpochEvents) -> (Arc<Self>, EpochSignal) {
        let (cancelled, receiver) = watch::channel(false);
        let signal = EpochSignal { cancelled: receiver, tasks: Arc::default() };
        let shutdown = Self {
            cancelled,
            tasks: Arc::clone(&signal.tasks),
            is_released: AtomicBool::new(false),
            run: Arc::clone(run),
            events,
            threads: Mutex::default(),
            on_cancel: OnceLock::new(),
        };
        (Arc::new(shutdown), signal)
    }

    pub(crate) fn run(&self) -> &TemporaryRun {
        &self.run
    }

    pub(crate) fn events(&self) -> &EpochEvents {
        &self.events
    }

    pub(crate) fn subscribe(&self) -> EpochSignal {
        EpochSignal { cancelled: self.cancelled.subscribe(), tasks: Arc::clone(&self.tasks) }
    }

    /// Adds a thread that works for this epoch alone.
    pub(crate) fn track_thread(&self, thread: JoinHandle<()>) {
        lock(&self.threads).push(thread);
    }

    /// Sets the function that is called after each cancellation. Only the first one set counts.
    pub(crate) fn on_cancel(&self, callback: impl Fn() + Send + Sync + 'static) {
        let _ = self.on_cancel.set(Box::new(callback));
    }

    /// Cancels the epoch if it still runs. Returns at once.
    pub(crate) fn cancel(&self) {
        self.cancelled.send_replace(true);
        if let Some(callback) = self.on_cancel.get() {
            callback();
        }
        self.run.end();
    }

    /// Cancels the epoch, and reports its end to observers: no batch is delivered any more. Returns at once.
    pub(crate) fn end(&self) {
        self.events.end(false);
        self.cancel();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        *self.cancelled.borrow()
    }

    /// Notes that the training loop holds no batch of the epoch any more.
    pub(crate) fn release(&self) {
        self.is_released.store(true, Ordering::SeqCst);
    }

    pub(crate) fn is_released(&self) -> bool {
        self.is_released.load(Ordering::SeqCst)
    }

    fn tasks(&self) -> u64 {
        self.tasks.load(Ordering::Acquire)
    }

    /// Whether nothing works for the epoch any more. Its temporary objects may not be deleted yet.
    fn is_idle(&self) -> bool {
        self.cancelled.receiver_count() == 0 && self.tasks() == 0
    }

    fn leftovers(&self) -> Leftovers {
        Leftovers { tasks: self.tasks(), temporaries: self.run.outstanding() }
    }
}

/// The epochs and threads that a loader has started, so that it can end them.
#[derive(Debug, Default)]
pub(crate) struct LiveEpochs {
    epochs: Mutex<Vec<Arc<EpochShutdown>>>,
    /// Threads that go through several epochs.
    threads: Mutex<Vec<JoinHandle<()>>>,
    is_closing: AtomicBool,
}

impl LiveEpochs {
    pub(crate) fn add(&self, epoch: &Arc<EpochShutdown>) {
        let mut epochs = lock(&self.epochs);
        // An epoch whose batches are all read still has to report its end.
        epochs.retain(|epoch| !epoch.is_idle() || epoch.run.outstanding() > 0 || !epoch.events.is_over());
        epochs.push(Arc::clone(epoch));
        drop(epochs);
        // A thread that closes sets the flag before it looks at the epochs.
        if self.is_closing() {
            epoch.end();
        }
    }

    pub(crate) fn track_thread(&self, thread: JoinHandle<()>) {
        let mut threads = lock(&self.threads);
        threads.retain(|thread| !thread.is_finished());
        threads.push(thread);
    }

    /// Cancels all epochs, and every epoch that begins later.
    pub(crate) fn cancel(&self) {
        self.is_closing.store(true, Ordering::SeqCst);
        for epoch in lock(&self.epochs).iter() {
            epoch.end();
        }
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::SeqCst)
    }
}

/// Ends one epoch by `end`, and waits until nothing is left of it.
pub(crate) fn close_epoch(epoch: &EpochShutdown, end: impl FnOnce(), within: Duration) -> Closed {
    let mut wait = ShutdownWait::new(within);
    let before = epoch.leftovers();
    end();
    wait.for_epoch(epoch, before);
    wait.finish()
}

/// Waits for the parts of a loader or an epoch to end, and counts them.
pub(crate) struct ShutdownWait {
    deadline: Instant,
    closed: Closed,
}

impl ShutdownWait {
    pub(crate) fn new(within: Duration) -> Self {
        Self { deadline: deadline_after(within), closed: Closed::default() }
    }

    /// Cancels the epochs of a loader, and waits until nothing is left of them and of their threads.
    pub(crate) fn end_epochs(&mut self, live: &LiveEpochs) {
        live.is_closing.store(true, Ordering::SeqCst);
        let epochs = std::mem::take(&mut *lock(&live.epochs));
        let before: Vec<_> = epochs.iter().map(|epoch| epoch.leftovers()).collect();
        // All epochs are cancelled before the first one is waited for.
        for epoch in &epochs {
            epoch.end();
        }
        for (epoch, before) in epochs.iter().zip(before) {
            self.for_epoch(epoch, before);
        }
        self.join(std::mem::take(&mut *lock(&live.threads)));
    }

    /// Counts threads that were ended elsewhere, or could not be.
    pub(crate) fn count_threads(&mut self, threads: usize, have_ended: bool) {
        let counter = if have_ended { &mut self.closed.threads_joined } else { &mut self.closed.threads_left };
        *counter += threads as u64;
    }

    /// What has ended, and what is left, which is logged.
    pub(crate) fn finish(self) -> Closed {
        self.closed.log()
    }

    pub(crate) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Waits until nothing is left of a cancelled epoch that had `before` when it was cancelled.
    fn for_epoch(&mut self, epoch: &EpochShutdown, before: Leftovers) {
        self.until(|| epoch.is_idle());
        // Whatever holds a signal works for the epoch, even if it isn't counted: the planning thread, a local read.
        let tasks_left = epoch.tasks().max(u64::from(!epoch.is_idle()));
        self.closed.tasks_left += tasks_left;
        self.closed.tasks_ended += before.tasks.saturating_sub(tasks_left);
        self.join(std::mem::take(&mut *lock(&epoch.threads)));
        // Temporary objects come last, because no task can begin another one now.
        let temporaries_left = epoch.run.wait(self.time_left());
        self.closed.temporaries_left += temporaries_left;
        self.closed.temporaries_deleted += before.temporaries.saturating_sub(temporaries_left);
    }

    /// Waits for threads that are about to end.
    pub(crate) fn join(&mut self, threads: Vec<JoinHandle<()>>) {
        let own = std::thread::current().id();
        for thread in threads {
            // User code on a thread of the loader may be what closes it.
            if thread.thread().id() == own {
                continue;
            }
            self.until(|| thread.is_finished());
            if thread.is_finished() {
                // The message of a panic is on stderr, and the training loop got an error.
                let _ = thread.join();
                self.closed.threads_joined += 1;
            } else {
                self.closed.threads_left += 1;
            }
        }
    }

    fn until(&self, is_done: impl Fn() -> bool) {
        while !is_done() && !self.time_left().is_zero() {
            std::thread::sleep(LOOK.min(self.time_left()));
        }
    }
}
