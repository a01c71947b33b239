//! The ledger of this process's temporary objects, and the counts of them by epoch and by loader.
//!
//! A name is in the ledger from before the call that may create the object until its deletion has succeeded or
//! failed; a failed one is listed apart and tried again later. There is one ledger for the process, because a signal
//! and the end of the process concern all of its loaders. The ledger holds a limited number of names: where deletions
//! don't keep up, composing waits for them.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::deletion::delete;
use super::process;
use crate::io::Io;
use crate::list::TEMPORARY_PREFIX;
use crate::lock::lock;
use crate::observe::{Event, EventKind};
use crate::pacing::CallGate;
use crate::store::{Client, ObjectId, Version};
use crate::suspension::RETRIAL_INTERVAL;
use crate::{Error, ErrorKind, Result};

/// Temporaries there may be at once, including those that are being deleted. A bucket takes some 1,000 writes a second,
/// which makes 500 temporaries a second at most (a compose and a deletion each), so this is eight seconds' worth: more
/// would mean that deletions don't keep up, and each temporary costs a task, an entry here, and billed storage.
const MAX_TEMPORARIES: usize = 4_096;

/// How long the end of the process waits for temporaries that are still being deleted.
const EXIT_WAIT: Duration = Duration::from_secs(20);

/// The ledger of this process.
pub(super) static LEDGER: LazyLock<Ledger> = LazyLock::new(|| {
    process::at_exit(|| drop(close(EXIT_WAIT)));
    Ledger {
        entries: Mutex::default(),
        room: Arc::new(Semaphore::new(MAX_TEMPORARIES)),
        changed: Condvar::new(),
        closing: watch::Sender::new(false),
        undeleted: Mutex::default(),
    }
});

/// Temporary objects that exist or may come to exist, and those that could not be deleted.
pub(super) struct Ledger {
    entries: Mutex<HashMap<Arc<str>, LedgerEntry>>,
    room: Arc<Semaphore>,
    /// Notified when an entry is removed.
    changed: Condvar,
    /// Holds true once the process shuts down.
    closing: watch::Sender<bool>,
    /// Temporaries whose deletion failed after all tries. A later deletion removes them from here.
    undeleted: Mutex<Vec<UndeletedTemporary>>,
}

/// A temporary that could not be deleted.
struct UndeletedTemporary {
    id: ObjectId,
    run: Arc<TemporaryRun>,
    /// Whether observers know that it was made.
    was_reported: bool,
    /// When the deletion is to be tried again, if the loader still runs.
    due: Instant,
}

/// What the ledger needs to know of a temporary in order to delete it.
pub(super) struct LedgerEntry {
    pub(super) client: Client,
    pub(super) io: Arc<Io>,
    pub(super) run: Arc<TemporaryRun>,
    pub(super) bucket: Arc<str>,
    /// The gate that composes and deletions of this bucket go through.
    pub(super) writes: Arc<CallGate>,
    /// Number of the group stored in the temporary. Deletions that wait for `writes` go in this order.
    pub(super) group_number: u64,
    pub(super) state: TemporaryState,
    /// When the temporary came to be in this state.
    pub(super) since: Instant,
    #[expect(dead_code, reason = "held for its drop")]
    pub(super) room: OwnedSemaphorePermit,
}

/// Where a temporary is between its compose and its deletion.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum TemporaryState {
    /// The call that creates it is under way.
    Composing,
    /// It exists at this version and may be read.
    InUse(Version),
    /// Its deletion is under way.
    Deleting,
}

impl LedgerEntry {
    fn enter(&mut self, state: TemporaryState) {
        (self.state, self.since) = (state, Instant::now());
    }

    fn id(&self, name: &Arc<str>, version: Version) -> ObjectId {
        ObjectId::new(Arc::clone(&self.bucket), Arc::clone(name), version).with_scheme(self.client.scheme())
    }
}

impl fmt::Display for TemporaryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Composing => "being composed",
            Self::InUse(_) => "in use",
            Self::Deleting => "being deleted",
        })
    }
}

/// A deletion under way. Dropping it takes the name off the ledger, even if a store or a log subscriber panics: a name
/// that stayed would be waited for at the end of every epoch and of the process.
struct Deletion {
    ledger: &'static Ledger,
    name: Arc<str>,
    run: Arc<TemporaryRun>,
    /// Whether observers know that the temporary was made.
    was_reported: bool,
    /// The object, unless it is known to be deleted.
    unconfirmed: Option<ObjectId>,
}

impl Drop for Deletion {
    fn drop(&mut self) {
        if let Some(id) = self.unconfirmed.take() {
            self.ledger.note_undeleted(id, Arc::clone(&self.run), self.was_reported);
        }
        self.ledger.remove(&self.name);
    }
}

impl Ledger {
    /// Waits for room for one more temporary. The room is free again when the permit is dropped.
    pub(super) async fn reserve(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.room).acquire_owned().await.expect("the semaphore is never closed")
    }

    /// Adds a name before the call that may create its object.
    ///
    /// # Errors
    /// The process shuts down, or the epoch was ended.
    pub(super) fn record(&self, name: &Arc<str>, entry: LedgerEntry) -> Result<()> {
        let mut entries = lock(&self.entries);
        // Checked under the lock, so that nothing is recorded after `close` has looked at the entries.
        if self.is_closing() {
            return Err(shutting_down());
        }
        if *entry.run.is_over.borrow() {
            return Err(Error::new(ErrorKind::Cancelled, "the epoch was ended"));
        }

        entry.run.outstanding.fetch_add(1, Ordering::SeqCst);
        entries.insert(Arc::clone(name), entry);
        Ok(())
    }

    /// Notes that the object exists. Returns false if the ledger closes: then the caller must delete the object unread,
    /// by dropping its guard.
    pub(super) fn note_composed(&self, name: &Arc<str>, version: &Version) -> bool {
        let mut entries = lock(&self.entries);
        if let Some(entry) = entries.get_mut(name) {
            entry.enter(TemporaryState::InUse(version.clone()));
        }
        !self.is_closing()
    }

    pub(super) fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    /// Removes a name whose object is gone, was never created, or can't be deleted.
    pub(super) fn remove(&self, name: &Arc<str>) {
        let mut entries = lock(&self.entries);
        if let Some(entry) = entries.remove(name) {
            // Under the lock, because a waiter could otherwise miss the notification.
            entry.run.outstanding.fetch_sub(1, Ordering::SeqCst);
            self.changed.notify_all();
            drop(entries);
            // The entry may hold the last handle of a runtime, so it is dropped without the lock.
            drop(entry);
        }
    }

    /// Starts the deletion of an object on the network's threads, unless it has been started. Returns at once.
    pub(super) fn start_deletion(&'static self, name: &Arc<str>) {
        let mut entries = lock(&self.entries);
        let Some(entry) = entries.get_mut(name) else { return };
        let was_reported = matches!(entry.state, TemporaryState::InUse(_));
        let version = match &entry.state {
            TemporaryState::Deleting => return,
            // The version is unknown: the compose had no answer, or an error. The name is random and used by nobody
            // else, so the deletion goes by name alone.
            TemporaryState::Composing => Version::None,
            TemporaryState::InUse(version) => version.clone(),
        };
        entry.enter(TemporaryState::Deleting);
        let id = entry.id(name, version);
        let (client, io, run) = (entry.client.clone(), Arc::clone(&entry.io), Arc::clone(&entry.run));
        let (writes, group_number) = (Arc::clone(&entry.writes), entry.group_number);
        drop(entries);

        let (handle, name) = (io.handle().clone(), Arc::clone(name));
        handle.spawn(async move {
            let mut deletion = Deletion { ledger: self, name, run, was_reported, unconfirmed: Some(id.clone()) };
            match delete(&client, &writes, group_number, &id, self.closing.subscribe()).await {
                Ok(()) => {
                    deletion.unconfirmed = None;
                    if was_reported {
                        report_removed(&client, &id);
                    }
                }
                Err(error) => {
                    tracing::warn!(object = %id, %error, "a temporary object could not be deleted; `dataflux clean` may");
                }
            }
            drop(deletion);
            // This task may hold the last handle of the runtime.
            drop(io);
        });
    }

    fn note_undeleted(&self, id: ObjectId, run: Arc<TemporaryRun>, was_reported: bool) {
        run.loader.undeleted.fetch_add(1, Ordering::SeqCst);
        lock(&self.undeleted).push(UndeletedTemporary {
            id,
            run,
            was_reported,
            due: Instant::now() + RETRIAL_INTERVAL,
        });
    }

    /// Removes a temporary that a later deletion has deleted after all.
    fn forget_undeleted(&self, id: &ObjectId) {
        let mut undeleted = lock(&self.undeleted);
        let Some(index) = undeleted.iter().position(|temporary| temporary.id == *id) else { return };
        // Keeps the order, since the first one is tried next.
        let UndeletedTemporary { run, .. } = undeleted.remove(index);
        run.loader.undeleted.fetch_sub(1, Ordering::SeqCst);
    }

    /// Moves a temporary to the end, so that all others are tried before it.
    fn move_undeleted_to_end(&self, id: &ObjectId) {
        let mut undeleted = lock(&self.undeleted);
        if let Some(index) = undeleted.iter().position(|temporary| temporary.id == *id) {
            undeleted[index..].rotate_left(1);
        }
    }

    /// Waits until `is_done` or the deadline, and returns the entries of that moment, still locked.
    fn wait_until(
        &self,
        deadline: Instant,
        is_done: impl Fn(&HashMap<Arc<str>, LedgerEntry>) -> bool,
    ) -> MutexGuard<'_, HashMap<Arc<str>, LedgerEntry>> {
        let mut entries = lock(&self.entries);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || is_done(&entries) {
                return entries;
            }
            entries = self.changed.wait_timeout(entries, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Reports that a temporary is gone, which must have been reported when it was made. One whose compose got no answer
/// may never have existed and was not.
fn report_removed(client: &Client, id: &ObjectId) {
    let event = || Event::TemporaryRemoved { object: Arc::clone(&id.name) };
    client.events().send(EventKind::TemporaryRemoved, event);
}

/// The outcome of waiting for temporary objects to be deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leftover {
    /// URIs of temporaries that still exist or whose deletion isn't confirmed, as far as this process knows.
    pub objects: Vec<String>,
    /// The state of each of them, and how long it has been in that state, such as `being deleted for 12.0s`.
    pub states: Vec<String>,
}

/// Waits until every temporary object of this process is deleted, but no longer than `timeout`, and returns what is
/// left.
///
/// This waits for reads of such objects, too. The end of the process waits by itself, for 20 seconds at most, and
/// deletes objects that are being read.
pub fn wait_for_temporaries(timeout: Duration) -> Leftover {
    // The lock is still held, so this is the state at the end of the wait.
    let entries = LEDGER.wait_until(deadline_after(timeout), HashMap::is_empty);
    let describe = |(name, entry): (&Arc<str>, &LedgerEntry)| {
        let id = entry.id(name, Version::None);
        (id.to_string(), format!("{} for {:.1?}", entry.state, entry.since.elapsed()))
    };
    let (mut objects, mut states): (Vec<_>, Vec<_>) = entries.iter().map(describe).unzip();
    drop(entries);
    for temporary in lock(&LEDGER.undeleted).iter() {
        objects.push(temporary.id.to_string());
        states.push("its deletion failed".to_owned());
    }
    Leftover { objects, states }
}

/// The moment `timeout` from now; in 30 years if `timeout` is longer than the clock can count.
pub(crate) fn deadline_after(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(30 * 365 * 86_400))
}

/// Lets no temporary begin any more, deletes all there are, in use or not, and waits for that.
pub(super) fn close(timeout: Duration) -> Leftover {
    let names: Vec<_> = {
        let entries = lock(&LEDGER.entries);
        LEDGER.closing.send_replace(true);
        // Composes under way are not retried, since nobody wants their objects any more.
        entries.values().for_each(|entry| _ = entry.run.is_over.send_replace(true));
        // A compose under way deletes its own object when it ends, through its guard.
        let composed = entries.iter().filter(|(_, entry)| entry.state != TemporaryState::Composing);
        composed.map(|(name, _)| Arc::clone(name)).collect()
    };
    for name in &names {
        LEDGER.start_deletion(name);
    }
    wait_for_temporaries(timeout)
}

pub(super) fn shutting_down() -> Error {
    Error::new(ErrorKind::Cancelled, "the process is shutting down")
}

/// What the epochs of one loader share about their temporaries.
#[derive(Debug)]
pub(crate) struct LoaderTemporaries {
    /// Whether leases can be renewed, as far as is known. They can't without the permission, or if the token's scope
    /// doesn't include it.
    is_renewable: AtomicBool,
    /// Temporaries that could not be deleted and still exist.
    undeleted: AtomicU64,
}

impl LoaderTemporaries {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { is_renewable: AtomicBool::new(true), undeleted: AtomicU64::new(0) })
    }

    /// Notes that leases can't be renewed, so new temporaries get longer ones. Returns whether they could be renewed
    /// before.
    pub(crate) fn disable_renewal(&self) -> bool {
        self.is_renewable.swap(false, Ordering::Relaxed)
    }

    pub(super) fn is_renewable(&self) -> bool {
        self.is_renewable.load(Ordering::Relaxed)
    }

    /// Number of temporaries that could not be deleted and still exist.
    pub(crate) fn undeleted(&self) -> u64 {
        self.undeleted.load(Ordering::SeqCst)
    }

    /// Starts another try to delete the temporaries that are due, one after another up to the first failure. Each is
    /// due again after [`RETRIAL_INTERVAL`], whether it was tried or not. Returns at once.
    pub(crate) fn delete_again(self: &Arc<Self>, client: &Client, io: &Io, writes: &Arc<CallGate>, group_number: u64) {
        let now = Instant::now();
        let mut undeleted = lock(&LEDGER.undeleted);
        let is_due =
            |temporary: &&mut UndeletedTemporary| Arc::ptr_eq(&temporary.run.loader, self) && temporary.due <= now;
        let due: Vec<_> = undeleted
            .iter_mut()
            .filter(is_due)
            .map(|temporary| {
                temporary.due = now + RETRIAL_INTERVAL;
                (temporary.id.clone(), temporary.was_reported)
            })
            .collect();
        drop(undeleted);
        if due.is_empty() {
            return;
        }

        // There may be thousands, and the reason why the first can't be deleted usually holds for all.
        let (client, writes) = (client.clone(), Arc::clone(writes));
        io.handle().spawn(async move {
            for (id, was_reported) in due {
                if let Err(error) = delete(&client, &writes, group_number, &id, LEDGER.closing.subscribe()).await {
                    tracing::debug!(object = %id, %error, "a temporary object still can't be deleted");
                    LEDGER.move_undeleted_to_end(&id);
                    return;
                }
                LEDGER.forget_undeleted(&id);
                if was_reported {
                    report_removed(&client, &id);
                }
            }
        });
    }

    #[cfg(test)]
    pub(crate) fn end_interval(self: &Arc<Self>) {
        let mut undeleted = lock(&LEDGER.undeleted);
        let mine = undeleted.iter_mut().filter(|temporary| Arc::ptr_eq(&temporary.run.loader, self));
        mine.for_each(|temporary| temporary.due = Instant::now());
    }
}

/// The temporaries of one epoch.
#[derive(Debug)]
pub(crate) struct TemporaryRun {
    /// A random name of this epoch's run. It is part of the name of each temporary, and in its metadata.
    pub(super) id: String,
    pub(super) loader: Arc<LoaderTemporaries>,
    /// Temporaries that are in the ledger.
    outstanding: AtomicU64,
    /// Holds true once no temporary may begin and no failed compose is to be retried.
    pub(super) is_over: watch::Sender<bool>,
}

impl TemporaryRun {
    pub(crate) fn new(loader: &Arc<LoaderTemporaries>) -> Arc<Self> {
        Arc::new(Self {
            id: format!("{:016x}", rand::random::<u64>()),
            loader: Arc::clone(loader),
            outstanding: AtomicU64::new(0),
            is_over: watch::Sender::new(false),
        })
    }

    /// Lets no temporary of this run begin any more, so that a wait for those there are is a wait for all. Composes
    /// under way finish, but a failed one is not retried, since it would hold a slot that deletions need.
    pub(crate) fn end(&self) {
        self.is_over.send_replace(true);
        // A call of `record` that has already passed the check holds the lock until its entry is in the ledger.
        drop(lock(&LEDGER.entries));
    }

    /// Number of temporaries that exist or may come to exist, including those that are being deleted.
    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::SeqCst)
    }

    /// A new name that no other process makes. The random part comes first, so that writes spread over the service's
    /// index. No `/` follows the prefix: in a bucket with real folders, which can't always be detected, each name would
    /// leave a folder behind. Older versions wrote `/` in place of `-`.
    pub(crate) fn temporary_name(&self) -> Arc<str> {
        format!("{TEMPORARY_PREFIX}{:016x}-{}", rand::random::<u64>(), self.id).into()
    }

    /// Number of temporaries of this run that could not be deleted and still exist.
    pub(crate) fn undeleted(&self) -> usize {
        lock(&LEDGER.undeleted).iter().filter(|temporary| std::ptr::eq(Arc::as_ptr(&temporary.run), self)).count()
    }

    /// Waits until the ledger holds no temporary of this run; false if it still does after `timeout`.
    pub(crate) async fn wait_until_settled(&self, timeout: Duration) -> bool {
        let settled = async {
            while self.outstanding() > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(timeout, settled).await.is_ok()
    }

    /// Waits until the ledger holds no temporary of this run, but no longer than `timeout`. Returns how many are left,
    /// including those that could not be deleted. Blocks.
    pub(crate) fn wait(&self, timeout: Duration) -> u64 {
        drop(LEDGER.wait_until(deadline_after(timeout), |_| self.outstanding() == 0));
        self.outstanding() + self.undeleted() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pacing::{BucketGates, CallCaps};
    use crate::store::{Fault, FaultStore, MemoryStore, StoreCall};

    /// The first one that could not be deleted was tried first every time, and kept all others from being tried.
    #[test]
    fn a_temporary_that_can_never_be_deleted_does_not_block_others() {
        let memory = MemoryStore::new();
        let faults = FaultStore::new(Arc::new(memory.clone()));
        let client = Client::new(Arc::new(faults.clone()));
        let writes = Arc::clone(&BucketGates::new(CallCaps::default()).writes);
        let io = Io::shared().unwrap();
        let loader = LoaderTemporaries::new();
        let run = TemporaryRun::new(&loader);
        for name in ["held", "free", "also free"] {
            let id = ObjectId::new("bucket", name, memory.insert("bucket", name, "meow"));
            LEDGER.note_undeleted(id, Arc::clone(&run), true);
        }
        let wait_until = |is_done: &dyn Fn() -> bool| {
            let started = Instant::now();
            while !is_done() {
                assert!(started.elapsed() < Duration::from_secs(60), "{:?}", memory.names("bucket"));
                std::thread::sleep(Duration::from_millis(1));
            }
        };

        // The service refuses the first call, and with it the first object.
        faults.fail_next(StoreCall::Delete, Fault::Error(ErrorKind::PermissionDenied), 1);
        loader.end_interval();
        loader.delete_again(&client, &io, &writes, 0);
        let last = || {
            let undeleted = lock(&LEDGER.undeleted);
            undeleted.iter().rfind(|temporary| Arc::ptr_eq(&temporary.run, &run)).map(|last| last.id.name.clone())
        };
        wait_until(&|| last().as_deref() == Some("held"));
        assert_eq!(loader.undeleted(), 3);

        loader.end_interval();
        loader.delete_again(&client, &io, &writes, 0);
        wait_until(&|| loader.undeleted() == 0);
    }
}
