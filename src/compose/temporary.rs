//! Temporary objects: recorded before they exist, deleted behind the reader's back, struck off when they are gone.
//!
//! A name is in the ledger from before the call that may create it until its deletion is confirmed. The call itself
//! runs in a task of its own, so that nobody's cancellation can cut it off between "created" and "known": when it ends
//! and nobody waits for it any more, its object goes straight to the reaper.
//!
//! The ledger is one for the process, because a signal and the end of the process concern all loaders in it. It has room
//! for so many and no more: where deletions can't keep up, composing waits for them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot, watch};

use super::process;
use crate::io::Io;
use crate::list::TEMPORARY_PREFIX;
use crate::pacing::throttle::Throttle;
use crate::store::{CallObserver, Client, ComposeRequest, ObjectId};
use crate::suspension::RETRIAL_INTERVAL;
use crate::{Error, ErrorKind, Result};

/// What a fetch is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadStep {
    /// Leave to read.
    Queued,
    /// Leave to compose.
    ComposeQueued,
    /// Objects to be composed.
    Composing,
    /// Bytes.
    Reading,
}

/// Who is told of each step.
pub(crate) type StepObserver<'a> = &'a (dyn Fn(ReadStep) + Sync);

/// Metadata keys of a temporary object.
pub(crate) mod key {
    /// The run that made it.
    pub(crate) const RUN: &str = "dataflux-run";
    /// The process that made it: see [`process_identity`](crate::compose::process::identity).
    pub(crate) const PROCESS: &str = "dataflux-process";
    /// How long after its last change, by the service's clock, the object may be in use, in seconds: what those go by who
    /// can't see the process.
    pub(crate) const LEASE: &str = "dataflux-lease-seconds";
    /// How often the lease has been renewed. A new value makes sure that the service takes it for a change.
    pub(crate) const RENEWALS: &str = "dataflux-renewals";
}

/// How long a temporary may be in use after its lease was last renewed, or its compose has ended. Long enough for a renewal, due at a
/// third of it, to fail a few times; whoever cleans up after a run elsewhere waits this long.
const LEASE: Duration = Duration::from_secs(300);

/// What a lease that can't be renewed has beyond the time that calls may take, for the queue between them.
const LEASE_SLACK: Duration = Duration::from_secs(600);

/// Temporaries there may be at once, their deletions included. A bucket takes some 1,000 writes a second, which makes 500
/// temporaries a second at most, so that this many are eight seconds' worth: more can only mean that deletions don't keep
/// up, and each is a task, a place in the ledger, and storage that is billed.
const MOST: usize = 4_096;

/// The slowest transfer that a call's deadline allows for, in bytes a second; see [`Client::read`].
const SLOWEST: u64 = 64 << 10;

/// When to delete once more what wasn't there, but whose compose may still be under way: an answer that never came says
/// nothing of what the service does. Composes take about a second.
const AGAIN: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

static LEDGER: LazyLock<Ledger> = LazyLock::new(|| {
    process::at_exit(|| drop(close(AT_EXIT)));
    Ledger {
        entries: Mutex::default(),
        room: Arc::new(Semaphore::new(MOST)),
        changed: Condvar::new(),
        closing: watch::Sender::new(false),
        closing_deletions: Semaphore::new(CLOSING_DELETIONS),
        undeleted: Mutex::default(),
    }
});

/// How long the end of the process waits for temporaries that are still being deleted.
const AT_EXIT: Duration = Duration::from_secs(20);

/// Deletions at once while the process shuts down, where no throttle holds them back: those of [`MOST`] temporaries
/// take five seconds of the 20 at 80 ms each, and the process has this many connections in any case.
const CLOSING_DELETIONS: usize = 64;

struct Ledger {
    entries: Mutex<HashMap<Arc<str>, LedgerEntry>>,
    room: Arc<Semaphore>,
    changed: Condvar,
    /// Holds true once the process shuts down.
    closing: watch::Sender<bool>,
    /// The only limit on deletions while the process shuts down.
    closing_deletions: Semaphore,
    /// Temporaries whose deletion failed for good, and was not made up for since.
    undeleted: Mutex<Vec<Undeleted>>,
}

/// A temporary that could not be deleted.
struct Undeleted {
    id: ObjectId,
    run: Arc<TemporaryRun>,
    /// When the deletion is to be tried again, if its loader still runs.
    due: Instant,
}

struct LedgerEntry {
    client: Client,
    io: Arc<Io>,
    run: Arc<TemporaryRun>,
    bucket: Arc<str>,
    writes: Arc<Throttle>,
    /// The number of the group it is of: deletions go in this order.
    number: u64,
    condition: EntryState,
    #[expect(dead_code, reason = "held for its drop")]
    room: OwnedSemaphorePermit,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum EntryState {
    /// The call that creates it is under way.
    Composing,
    /// It exists at this generation, and somebody reads it.
    InUse(i64),
    /// Its deletion is under way.
    Reaping,
}

impl Ledger {
    fn entries(&self) -> MutexGuard<'_, HashMap<Arc<str>, LedgerEntry>> {
        // No code that can panic runs under the lock.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, name: &Arc<str>, entry: LedgerEntry) -> Result<()> {
        let mut entries = self.entries();
        // Under the lock, so that none is recorded after the closing one has looked.
        if self.is_closing() {
            return Err(closing());
        }
        if *entry.run.over.borrow() {
            return Err(Error::new(ErrorKind::Cancelled, "the epoch was ended"));
        }
        entry.run.outstanding.fetch_add(1, Ordering::SeqCst);
        entries.insert(Arc::clone(name), entry);
        Ok(())
    }

    /// Notes that the object exists. False when the ledger closes, so that it has to be deleted unread.
    fn exists(&self, name: &Arc<str>, generation: i64) -> bool {
        let mut entries = self.entries();
        if let Some(entry) = entries.get_mut(name) {
            entry.condition = EntryState::InUse(generation);
        }
        !self.is_closing()
    }

    fn is_closing(&self) -> bool {
        *self.closing.borrow()
    }

    fn strike_off(&self, name: &Arc<str>) {
        let mut entries = self.entries();
        if let Some(entry) = entries.remove(name) {
            // Under the lock, or a waiter could look in between and then sleep through the call below.
            entry.run.outstanding.fetch_sub(1, Ordering::SeqCst);
            self.changed.notify_all();
            drop(entries);
            // The last to hold a runtime may be the entry, so that goes without the lock.
            drop(entry);
        }
    }

    /// Starts the deletion of an object, unless that has been done.
    fn reap(&'static self, name: &Arc<str>) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(name) else { return };
        let generation = match entry.condition {
            EntryState::Reaping => return,
            EntryState::Composing => None,
            EntryState::InUse(generation) => Some(generation),
        };
        entry.condition = EntryState::Reaping;
        // Without a generation when the answer to the compose never came: the name is random and nobody else's.
        let id = ObjectId::new(Arc::clone(&entry.bucket), Arc::clone(name), generation);
        let (client, io, run) = (entry.client.clone(), Arc::clone(&entry.io), Arc::clone(&entry.run));
        let (writes, number) = (Arc::clone(&entry.writes), entry.number);
        drop(entries);
        let (handle, name) = (io.handle().clone(), Arc::clone(name));
        handle.spawn(async move {
            if let Err(error) = delete(&client, &writes, number, &id, LEDGER.closing.subscribe()).await {
                tracing::warn!(object = %id, %error, "a temporary object could not be deleted; `dataflux clean` may");
                LEDGER.note_undeleted(id, run);
            }
            LEDGER.strike_off(&name);
            // The last to hold the runtime may be this very task.
            drop(io);
        });
    }

    fn undeleted(&self) -> MutexGuard<'_, Vec<Undeleted>> {
        self.undeleted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note_undeleted(&self, id: ObjectId, run: Arc<TemporaryRun>) {
        run.failed.fetch_add(1, Ordering::SeqCst);
        run.of.undeleted.fetch_add(1, Ordering::SeqCst);
        self.undeleted().push(Undeleted { id, run, due: Instant::now() + RETRIAL_INTERVAL });
    }

    /// The temporary is gone after all.
    fn forget_undeleted(&self, id: &ObjectId) {
        let mut undeleted = self.undeleted();
        let Some(at) = undeleted.iter().position(|one| one.id == *id) else { return };
        // In order, since the next to be tried is the first.
        let Undeleted { run, .. } = undeleted.remove(at);
        run.failed.fetch_sub(1, Ordering::SeqCst);
        run.of.undeleted.fetch_sub(1, Ordering::SeqCst);
    }

    /// All others are tried before this one is again.
    fn put_last(&self, id: &ObjectId) {
        let mut undeleted = self.undeleted();
        if let Some(at) = undeleted.iter().position(|one| one.id == *id) {
            undeleted[at..].rotate_left(1);
        }
    }

    /// Waits until it is done, or the deadline; the entries are those of that moment.
    fn wait(
        &self,
        deadline: Instant,
        done: impl Fn(&HashMap<Arc<str>, LedgerEntry>) -> bool,
    ) -> MutexGuard<'_, HashMap<Arc<str>, LedgerEntry>> {
        let mut entries = self.entries();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() || done(&entries) {
                return entries;
            }
            entries = self.changed.wait_timeout(entries, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Deletes an object that exists, or, without a generation, one that may come to exist.
///
/// Once `closing` holds true it needs no slot any more.
async fn delete(
    client: &Client,
    writes: &Arc<Throttle>,
    number: u64,
    id: &ObjectId,
    mut closing: watch::Receiver<bool>,
) -> Result<()> {
    let (mut client, mut again) = (client.clone(), AGAIN.iter());
    loop {
        // When the process shuts down, other calls may hold all slots for longer than there is time.
        let slot = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => None,
            slot = writes.acquire_behind(number) => Some(slot),
        };
        let outcome = if let Some(slot) = slot {
            let outcome = client.with_observer(slot.watch()).with_cancellation(closing.clone()).delete(id).await;
            slot.done(0);
            if *closing.borrow() && outcome.as_ref().is_err_and(|error| !error.is_not_found()) {
                // It may have been given up for that alone. To repeat it is safe: nobody else uses the name.
                client = client.repeating();
                continue;
            }
            outcome
        } else {
            let place = ClosingSlot::take().await;
            client.with_observer(place).delete(id).await
        };
        match outcome {
            Err(error) if error.is_not_found() => match again.next() {
                Some(wait) if id.generation.is_none() => {
                    tokio::time::sleep(*wait).await;
                    client = client.repeating();
                }
                _ => return Ok(()),
            },
            outcome => return outcome,
        }
    }
}

/// One of the [`CLOSING_DELETIONS`]; others have it while the deletion waits to be made again.
#[derive(Debug)]
struct ClosingSlot(Mutex<Option<SemaphorePermit<'static>>>);

impl ClosingSlot {
    async fn take() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(Self::permit().await))))
    }

    async fn permit() -> SemaphorePermit<'static> {
        LEDGER.closing_deletions.acquire().await.expect("it is never closed")
    }

    fn set(&self, permit: Option<SemaphorePermit<'static>>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}

impl CallObserver for ClosingSlot {
    fn refused(&self, _first: bool) {}

    fn answered(&self, _wait: Duration) {}

    fn again(self: Arc<Self>, wait: Duration) -> BoxFuture<'static, Duration> {
        Box::pin(async move {
            self.set(None);
            tokio::time::sleep(wait).await;
            let queued = tokio::time::Instant::now();
            self.set(Some(Self::permit().await));
            queued.elapsed()
        })
    }
}

/// What waiting for temporaries came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leftover {
    /// Temporaries that are still there or whose deletion isn't confirmed, as far as this process knows.
    pub objects: Vec<String>,
}

/// Waits until every temporary object of this process is deleted, `timeout` at most, and tells what is left.
///
/// Objects that a batch in the making still reads are waited for, too. The end of the process does this by itself, with
/// a bound of 20 seconds, and then waits for no reader.
pub fn wait_for_temporaries(timeout: Duration) -> Leftover {
    // Not what others have begun since.
    let entries = LEDGER.wait(after(timeout), HashMap::is_empty);
    let mut objects: Vec<_> = entries.iter().map(|(name, entry)| format!("gs://{}/{name}", entry.bucket)).collect();
    drop(entries);
    objects.extend(LEDGER.undeleted().iter().map(|one| one.id.to_string()));
    Leftover { objects }
}

/// A moment from now, however far; 30 years if it is further than clocks go.
fn after(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_secs(30 * 365 * 86_400))
}

/// Lets no temporary begin any more and deletes those there are, in use or not.
pub(crate) fn close(timeout: Duration) -> Leftover {
    let names: Vec<_> = {
        let entries = LEDGER.entries();
        LEDGER.closing.send_replace(true);
        entries
            .iter()
            // Nobody wants what is being composed any more.
            .inspect(|(_, entry)| _ = entry.run.over.send_replace(true))
            .filter(|(_, entry)| entry.condition != EntryState::Composing)
            .map(|(name, _)| Arc::clone(name))
            .collect()
    };
    for name in &names {
        LEDGER.reap(name);
    }
    wait_for_temporaries(timeout)
}

/// What the epochs of one loader share about their temporaries.
#[derive(Debug)]
pub(crate) struct LoaderTemporaries {
    /// Whether leases can be renewed, as far as is known: not for want of the right, or of the token's scope for it.
    renewable: AtomicBool,
    /// Temporaries that could not be deleted, and still are there.
    undeleted: AtomicU64,
}

impl LoaderTemporaries {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { renewable: AtomicBool::new(true), undeleted: AtomicU64::new(0) })
    }

    /// Gives new temporaries leases that last for all that may be done with them. Returns whether leases were renewed
    /// until now.
    pub(crate) fn never_renew(&self) -> bool {
        self.renewable.swap(false, Ordering::Relaxed)
    }

    fn is_renewable(&self) -> bool {
        self.renewable.load(Ordering::Relaxed)
    }

    /// Temporaries that could not be deleted, and still are there.
    pub(crate) fn undeleted(&self) -> u64 {
        self.undeleted.load(Ordering::SeqCst)
    }

    /// Tries again to delete what could not be deleted some minutes ago. Returns at once.
    pub(crate) fn delete_again(self: &Arc<Self>, client: &Client, io: &Io, writes: &Arc<Throttle>, number: u64) {
        let now = Instant::now();
        let mut undeleted = LEDGER.undeleted();
        let due = undeleted.iter_mut().filter(|one| Arc::ptr_eq(&one.run.of, self) && one.due <= now);
        let due: Vec<_> = due
            .map(|one| {
                one.due = now + RETRIAL_INTERVAL;
                one.id.clone()
            })
            .collect();
        drop(undeleted);
        if due.is_empty() {
            return;
        }
        // One by one: there may be thousands, and the reason that the first can't be deleted is usually that of all.
        let (client, writes) = (client.clone(), Arc::clone(writes));
        io.handle().spawn(async move {
            for id in due {
                if let Err(error) = delete(&client, &writes, number, &id, LEDGER.closing.subscribe()).await {
                    tracing::debug!(object = %id, %error, "a temporary object still can't be deleted");
                    LEDGER.put_last(&id);
                    return;
                }
                LEDGER.forget_undeleted(&id);
            }
        });
    }

    #[cfg(test)]
    pub(crate) fn end_interval(self: &Arc<Self>) {
        let mut undeleted = LEDGER.undeleted();
        undeleted.iter_mut().filter(|one| Arc::ptr_eq(&one.run.of, self)).for_each(|one| one.due = Instant::now());
    }
}

/// The temporaries of one epoch.
#[derive(Debug)]
pub(crate) struct TemporaryRun {
    id: String,
    /// Those of all epochs of its loader.
    of: Arc<LoaderTemporaries>,
    outstanding: AtomicU64,
    /// Those that could not be deleted, and still are there.
    failed: AtomicU64,
    /// Holds true once no more may begin, and failed composes are not to be tried again.
    over: watch::Sender<bool>,
}

impl TemporaryRun {
    pub(crate) fn new(of: &Arc<LoaderTemporaries>) -> Arc<Self> {
        Arc::new(Self {
            id: format!("{:016x}", rand::random::<u64>()),
            of: Arc::clone(of),
            outstanding: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            over: watch::Sender::new(false),
        })
    }

    /// Lets no temporary of this run begin any more, so that whoever waits for those there are, waits for all. Composes
    /// under way end, but none that fails is tried again: it would hold a slot that deletions need.
    pub(crate) fn end(&self) {
        self.over.send_replace(true);
        // Whoever records one and has looked before holds the lock.
        drop(LEDGER.entries());
    }

    /// Temporaries there are, their deletions included.
    pub(crate) fn outstanding(&self) -> u64 {
        self.outstanding.load(Ordering::SeqCst)
    }

    /// A name that nobody else makes. The random part comes first, so that writes spread over the service's index. No
    /// `/` follows the prefix: where folders are real, one would stay behind for every name, and whether they are can't
    /// always be found out. Older versions wrote `/` in place of `-`.
    pub(crate) fn temporary_name(&self) -> Arc<str> {
        format!("{TEMPORARY_PREFIX}{:016x}-{}", rand::random::<u64>(), self.id).into()
    }

    /// Whether a temporary of this run could not be deleted.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst) > 0
    }

    /// Waits until none of this run's temporaries is left; false if some still are after `timeout`.
    pub(crate) async fn settled(&self, timeout: Duration) -> bool {
        let settled = async {
            while self.outstanding.load(Ordering::SeqCst) > 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(timeout, settled).await.is_ok()
    }

    /// The lease of a new temporary of `size` bytes. Nobody renews it while the compose is under way, which may take the
    /// calls' time, and that of another call where its answer was lost; the first renewal makes it shorter. Where it can't
    /// be renewed it outlasts all calls.
    fn lease(&self, client: &Client, size: u64) -> Duration {
        let compose = client.deadline().saturating_mul(2);
        let after = if self.of.is_renewable() {
            LEASE
        } else {
            Duration::from_secs(size / SLOWEST).saturating_add(LEASE_SLACK)
        };
        compose.saturating_add(after)
    }

    /// Composes a temporary object, once there is room for one and `writes` lets the call with this number through. To wait
    /// for room can't be for ever: what has room needs no more of it, and gives it back when its deletion has succeeded or
    /// failed. So nothing that deletions or reads need, such as a slot of theirs, may be held while this is called.
    ///
    /// # Cancel safety
    /// The call goes on behind a dropped future, and what it makes is deleted.
    pub(crate) async fn compose(
        self: &Arc<Self>,
        client: &Client,
        io: &Arc<Io>,
        writes: &Arc<Throttle>,
        number: u64,
        mut request: ComposeRequest,
        told: StepObserver<'_>,
    ) -> Result<Temporary> {
        let room = Arc::clone(&LEDGER.room).acquire_owned().await.expect("it is never closed");
        let lease = self.lease(client, request.size);
        request.metadata = BTreeMap::from([
            (key::RUN.to_owned(), self.id.clone()),
            (key::PROCESS.to_owned(), process::identity().to_owned()),
            (key::LEASE.to_owned(), lease.as_secs().to_string()),
        ]);
        // Before anything is recorded: what waits here has nothing to clean up.
        let slot = writes.acquire(number).await;
        told(ReadStep::Composing);
        let started = tokio::time::Instant::now();
        let name = Arc::clone(&request.destination);
        let entry = LedgerEntry {
            client: client.clone(),
            io: Arc::clone(io),
            run: Arc::clone(self),
            bucket: Arc::clone(&request.bucket),
            writes: Arc::clone(writes),
            number,
            condition: EntryState::Composing,
            room,
        };
        LEDGER.record(&name, entry)?;
        // From here on the guard sees to it that the name is reaped or struck off, panic or not.
        let id = ObjectId::new(Arc::clone(&request.bucket), Arc::clone(&name), None);
        let renew = self.of.is_renewable().then(|| started + LEASE / 3);
        let guard = Temporary { id, of: Arc::clone(&self.of), renew };
        let (done, wait) = oneshot::channel();
        // The group's objects can be read without it.
        let client = client.for_optional_calls().with_observer(slot.watch()).with_cancellation(self.over.subscribe());
        io.handle().spawn(async move {
            let mut guard = guard;
            let outcome = client.compose(&request).await;
            // Before the reading and deleting that follow, which wait for slots themselves.
            slot.done(0);
            let outcome = match outcome {
                Ok(meta) if LEDGER.exists(&name, meta.generation) => {
                    guard.id.generation = Some(meta.generation);
                    Ok(guard)
                }
                Ok(_) => Err(closing()),
                Err(error) => {
                    // A clear refusal made nothing. After any other end the object may be there, or come yet.
                    if error.did_nothing() {
                        LEDGER.strike_off(&name);
                    }
                    drop(guard);
                    Err(error)
                }
            };
            // If nobody waits any more, the guard comes back in the error and is dropped here.
            drop(done.send(outcome));
        });
        wait.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Cancelled, "the loader was dropped")))
    }

    /// Waits until none of this run's temporaries is left, `timeout` at most; tells how many are, those that could not
    /// be deleted among them.
    pub(crate) fn wait(&self, timeout: Duration) -> u64 {
        let outstanding = || self.outstanding.load(Ordering::SeqCst);
        drop(LEDGER.wait(after(timeout), |_| outstanding() == 0));
        outstanding() + self.failed.load(Ordering::SeqCst)
    }
}

fn closing() -> Error {
    Error::new(ErrorKind::Cancelled, "the process is shutting down")
}

/// A temporary object that exists; dropping it has it deleted behind the caller's back.
#[derive(Debug)]
pub(crate) struct Temporary {
    id: ObjectId,
    of: Arc<LoaderTemporaries>,
    /// When its lease is first to be renewed, if it can be.
    renew: Option<tokio::time::Instant>,
}

impl Temporary {
    pub(crate) fn id(&self) -> &ObjectId {
        &self.id
    }

    /// Does `work` with the object, and renews its lease for as long as that takes: not at all within the first 100
    /// seconds, and one call of class A for each 100 seconds after.
    pub(crate) async fn hold<T>(&self, client: &Client, work: impl Future<Output = T>) -> T {
        let renewals = async {
            if let Some(first) = self.renew {
                self.renew(client, first).await;
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            done = work => done,
            never = renewals => never,
        }
    }

    /// Renews the lease again and again, until that can't be done any more.
    async fn renew(&self, client: &Client, mut due: tokio::time::Instant) {
        for renewals in 1u64.. {
            tokio::time::sleep_until(due).await;
            // Then it is being deleted.
            if LEDGER.is_closing() {
                return;
            }
            due = tokio::time::Instant::now() + LEASE / 3;
            let metadata = [(key::LEASE, LEASE.as_secs()), (key::RENEWALS, renewals)];
            let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_string())).into();
            match client.update_metadata(&self.id, &metadata).await {
                Ok(_) => {}
                // Whoever took it believed this run dead: the work will fail, or has all it needs.
                Err(error) if error.is_not_found() => return,
                // The right may be there and the token's scope not: of machines with default scopes, say.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    if self.of.never_renew() {
                        tracing::warn!(object = %self.id, %error, "the lease of a temporary object could not be renewed, \
                            so that from here on each is given a longer one");
                    }
                    return;
                }
                Err(error) => {
                    tracing::warn!(object = %self.id, %error, "the lease of a temporary object could not be renewed, so \
                        that `dataflux clean` elsewhere may take it");
                }
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        LEDGER.reap(&self.id.name);
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::store::{Fault, FaultStore, MemoryStore, StoreCall};

    struct TestBucket {
        memory: MemoryStore,
        faults: FaultStore,
        client: Client,
        temporary: Temporary,
    }

    /// A temporary object that was made now; the ledger knows nothing of it.
    fn world() -> TestBucket {
        let memory = MemoryStore::new();
        let generation = memory.insert("bucket", "temporary", "meow");
        let faults = FaultStore::new(Arc::new(memory.clone()));
        let client = Client::new(Arc::new(faults.clone()));
        let renew = Some(tokio::time::Instant::now() + LEASE / 3);
        let id = ObjectId::new("bucket", "temporary", generation);
        let temporary = Temporary { id, of: LoaderTemporaries::new(), renew };
        TestBucket { memory, faults, client, temporary }
    }

    async fn seconds(n: u64) {
        tokio::time::sleep(Duration::from_secs(n)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_renewed_while_the_object_is_held_and_no_longer() {
        let TestBucket { client, temporary, faults, .. } = world();
        temporary.hold(&client, seconds(99)).await;
        assert_eq!(faults.calls(StoreCall::UpdateMetadata), 0, "what lives for seconds costs nothing");
        let before = SystemTime::now();
        temporary.hold(&client, seconds(901)).await;
        assert_eq!(faults.calls(StoreCall::UpdateMetadata), 9);
        let meta = client.stat(temporary.id()).await.unwrap();
        assert_eq!((meta.details.metadata[key::LEASE].as_str(), &*meta.details.metadata[key::RENEWALS]), ("300", "9"));
        assert!(meta.updated.is_some_and(|updated| updated >= before));
        seconds(10_000).await;
        assert_eq!(faults.calls(StoreCall::UpdateMetadata), 9);
        assert_eq!(client.metrics().snapshot().update, 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_fails_for_a_while_or_for_good() {
        let TestBucket { client, temporary, faults, .. } = world();
        // Longer than one call tries.
        faults.fail_next(StoreCall::UpdateMetadata, Fault::Stall, 15);
        temporary.hold(&client, seconds(1_000)).await;
        assert_eq!(faults.faults_left(), 0);
        assert!(client.stat(temporary.id()).await.unwrap().details.metadata.contains_key(key::RENEWALS));
        let TestBucket { client, temporary, faults, .. } = world();
        faults.fail_next(StoreCall::UpdateMetadata, Fault::Error(ErrorKind::PermissionDenied), 1);
        temporary.hold(&client, seconds(1_000)).await;
        assert_eq!(faults.calls(StoreCall::UpdateMetadata), 1, "a right that isn't there won't come");
    }

    /// The right was there, and the scope of the token was not: every lease ended while its object was read.
    #[tokio::test(start_paused = true)]
    async fn after_a_renewal_was_refused_leases_outlast_all_calls() {
        let TestBucket { client, temporary, faults, .. } = world();
        let (before, after) = (TemporaryRun::new(&temporary.of), TemporaryRun::new(&temporary.of));
        let renewed = before.lease(&client, 1_000);
        faults.fail_next(StoreCall::UpdateMetadata, Fault::Error(ErrorKind::PermissionDenied), 1);
        temporary.hold(&client, seconds(1_000)).await;
        let lengthened = after.lease(&client, 1_000);
        assert!(lengthened >= client.deadline() * 2 + LEASE_SLACK && lengthened > renewed, "{lengthened:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_taken_is_not_renewed() {
        let TestBucket { client, temporary, faults, memory } = world();
        assert!(memory.contains("bucket", "temporary"));
        client.delete(temporary.id()).await.unwrap();
        let done = temporary.hold(&client, async {
            seconds(1_000).await;
            "the work goes on"
        });
        assert_eq!(done.await, "the work goes on");
        assert_eq!(faults.calls(StoreCall::UpdateMetadata), 1);
    }

    /// The delete was tried twice, the second try found nothing, and that was taken for success.
    #[tokio::test(start_paused = true)]
    async fn what_comes_after_a_delete_that_was_retried_is_deleted_too() {
        let TestBucket { client, faults, memory, .. } = world();
        faults.fail_next(StoreCall::Delete, Fault::Error(ErrorKind::Unavailable), 1);
        let writes = Arc::clone(&crate::pacing::Throttles::new(crate::pacing::CallCaps::default()).writes);
        let id = ObjectId::new("bucket", "late", None);
        let compose = async {
            seconds(5).await;
            memory.insert("bucket", "late", "meow");
        };
        let (deleted, ()) = tokio::join!(delete(&client, &writes, 0, &id, LEDGER.closing.subscribe()), compose);
        deleted.unwrap();
        assert!(!memory.contains("bucket", "late"));
    }

    /// What waited to be made again when the process began to shut down went on waiting, for its turn among other calls
    /// at last; and those that waited in the 64 places of the end kept all others out.
    #[tokio::test(start_paused = true)]
    async fn at_the_end_no_deletion_waits_for_one_that_is_made_again() {
        let memory = MemoryStore::new();
        let faults = FaultStore::new(Arc::new(memory.clone()));
        let client = Client::new(Arc::new(faults.clone()));
        let writes = Arc::clone(&crate::pacing::Throttles::new(crate::pacing::CallCaps::default()).writes);
        let closing = watch::Sender::new(false);
        let deletion = |name: &str| {
            let id = ObjectId::new("bucket", name, memory.insert("bucket", name, "meow"));
            let (client, writes, closing) = (client.clone(), Arc::clone(&writes), closing.subscribe());
            tokio::spawn(async move { delete(&client, &writes, 0, &id, closing).await.unwrap() })
        };
        let soon = |deletion: tokio::task::JoinHandle<()>| async {
            tokio::time::timeout(Duration::from_secs(5), deletion).await.expect("it waits for its turn").unwrap();
        };
        let minute = Fault::RetryAfter(Duration::from_secs(60));
        faults.fail_next(StoreCall::Delete, minute, 1);
        let refused = deletion("refused before");
        seconds(2).await;
        closing.send_replace(true);
        soon(refused).await;
        assert_eq!(faults.calls(StoreCall::Delete), 2);
        faults.fail_next(StoreCall::Delete, minute, CLOSING_DELETIONS as u64);
        let refused: Vec<_> = (0..CLOSING_DELETIONS).map(|n| deletion(&format!("refused {n}"))).collect();
        seconds(1).await;
        soon(deletion("not refused")).await;
        for deletion in refused {
            deletion.await.unwrap();
        }
        assert_eq!(memory.names("bucket"), [""; 0]);
    }

    /// The first one that could not be deleted was tried first every time, and kept all others from being tried.
    #[test]
    fn one_that_can_never_be_deleted_keeps_no_other() {
        let memory = MemoryStore::new();
        let faults = FaultStore::new(Arc::new(memory.clone()));
        let client = Client::new(Arc::new(faults.clone()));
        let writes = Arc::clone(&crate::pacing::Throttles::new(crate::pacing::CallCaps::default()).writes);
        let io = Io::shared().unwrap();
        let of = LoaderTemporaries::new();
        let run = TemporaryRun::new(&of);
        for name in ["held", "free", "also free"] {
            let id = ObjectId::new("bucket", name, memory.insert("bucket", name, "meow"));
            LEDGER.note_undeleted(id, Arc::clone(&run));
        }
        let until = |done: &dyn Fn() -> bool| {
            let began = Instant::now();
            while !done() {
                assert!(began.elapsed() < Duration::from_secs(60), "{:?}", memory.names("bucket"));
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        // The service refuses the first call, and with it the first object.
        faults.fail_next(StoreCall::Delete, Fault::Error(ErrorKind::PermissionDenied), 1);
        of.end_interval();
        of.delete_again(&client, &io, &writes, 0);
        let last = || LEDGER.undeleted().iter().rfind(|one| Arc::ptr_eq(&one.run, &run)).map(|one| one.id.name.clone());
        until(&|| last().as_deref() == Some("held"));
        assert_eq!(of.undeleted(), 3);
        of.end_interval();
        of.delete_again(&client, &io, &writes, 0);
        until(&|| of.undeleted() == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_right_to_renew_nothing_is_tried() {
        let TestBucket { client, mut temporary, faults, .. } = world();
        temporary.renew = None;
        temporary.hold(&client, seconds(1_000)).await;
        assert_eq!(faults.calls(StoreCall::UpdateMetadata), 0);
        let (once, many) = (TemporaryRun::new(&LoaderTemporaries::new()), TemporaryRun::new(&LoaderTemporaries::new()));
        assert!(once.of.never_renew());
        assert_eq!(
            many.lease(&client, 100_000_000),
            client.deadline() * 2 + LEASE,
            "nobody renews while it is composed"
        );
        assert!(once.lease(&client, 100_000_000) > 4 * LEASE + Duration::from_secs(1_000));
    }
}
