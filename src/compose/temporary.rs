//! Composing a temporary object, and the guard that renews its lease and deletes it.
//!
//! The compose call runs in a task of its own, so that a cancelled caller can't cut it off between "created" and "in
//! the ledger". If nobody waits for the object when the call ends, its deletion starts at once.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::ledger::{LEDGER, LedgerEntry, LoaderTemporaries, TemporaryRun, TemporaryState, shutting_down};
use super::step::{ReadStep, StepObserver};
use super::{metadata, process};
use crate::io::Io;
use crate::observe::{Event, EventKind};
use crate::pacing::CallGate;
use crate::store::{Client, ComposeRequest, ObjectId};
use crate::{Error, ErrorKind, Result};

/// How long a temporary may be in use after its lease was renewed, or after its compose has ended. Renewals are due at
/// a third of it, so that a few may fail. `clean` on another machine waits this long before it deletes what a dead run
/// left.
const LEASE: Duration = Duration::from_secs(300);

/// What a lease that can't be renewed has in addition to the time that calls may take: the wait between them.
const UNRENEWED_LEASE_SLACK: Duration = Duration::from_secs(600);

/// The slowest transfer that a call's deadline allows for, in bytes a second; see [`Client::read`].
const MIN_BYTES_PER_SECOND: u64 = 64 << 10;

impl TemporaryRun {
    /// The lease of a new temporary of `size` bytes. Nobody renews it during the compose, which may take the time of
    /// one call, or of two if an answer was lost; the first renewal shortens it. A lease that can't be renewed outlasts
    /// all calls.
    fn lease(&self, client: &Client, size: u64) -> Duration {
        let compose = client.deadline().saturating_mul(2);
        let after = if self.loader.is_renewable() {
            LEASE
        } else {
            Duration::from_secs(size / MIN_BYTES_PER_SECOND).saturating_add(UNRENEWED_LEASE_SLACK)
        };
        compose.saturating_add(after)
    }

    /// Composes a temporary object, once the ledger has room for it and `writes` lets the call with this number
    /// through.
    ///
    /// The wait for room always ends: a temporary that has room needs no more, and gives it back when its deletion has
    /// succeeded or failed. Therefore the caller must not hold anything that deletions or reads need, such as one of
    /// their slots.
    ///
    /// # Cancel safety
    /// If the future is dropped, the call continues in its own task, and the object that it creates is deleted.
    pub(crate) async fn compose(
        self: &Arc<Self>,
        client: &Client,
        io: &Arc<Io>,
        writes: &Arc<CallGate>,
        group_number: u64,
        mut request: ComposeRequest,
        on_step: StepObserver<'_>,
    ) -> Result<Temporary> {
        let room = LEDGER.reserve().await;
        let lease = self.lease(client, request.size);
        request.metadata = BTreeMap::from([
            (metadata::RUN.to_owned(), self.id.clone()),
            (metadata::PROCESS.to_owned(), process::identity().to_owned()),
            (metadata::LEASE.to_owned(), lease.as_secs().to_string()),
        ]);

        // Nothing is recorded yet, so a caller that is cancelled while it waits here leaves nothing to clean up.
        let slot = writes.acquire(group_number).await;
        on_step(ReadStep::Composing);
        let started = Instant::now();
        let name = Arc::clone(&request.destination);
        let entry = LedgerEntry {
            client: client.clone(),
            io: Arc::clone(io),
            run: Arc::clone(self),
            bucket: Arc::clone(&request.bucket),
            writes: Arc::clone(writes),
            group_number,
            state: TemporaryState::Composing,
            since: started.into_std(),
            room,
        };
        LEDGER.record(&name, entry)?;

        // From here on the guard deletes the object or removes its name, even after a panic.
        let id = ObjectId::live(Arc::clone(&request.bucket), Arc::clone(&name)).with_scheme(client.scheme());
        let first_renewal = self.loader.is_renewable().then(|| started + LEASE / 3);
        let guard = Temporary { id, loader: Arc::clone(&self.loader), first_renewal };
        let (done, wait) = oneshot::channel();
        // The call is optional, since the objects of the group can be read without it.
        let client = client.for_optional_calls().with_pacer(slot.pacer()).with_cancellation(self.is_over.subscribe());
        io.handle().spawn(async move {
            let mut guard = guard;
            let outcome = client.compose(&request).await;
            if outcome.is_ok() {
                client.events().send(EventKind::TemporaryMade, || Event::TemporaryMade {
                    object: Arc::clone(&name),
                    bytes: request.size,
                    took: started.elapsed(),
                });
            }
            // Before the read and the deletion that follow, which wait for slots themselves.
            slot.finish(0);
            let outcome = match outcome {
                Ok(meta) if LEDGER.note_composed(&name, &meta.version) => {
                    guard.id.version = meta.version;
                    Ok(guard)
                }
                Ok(_) => Err(shutting_down()),
                Err(error) => {
                    // A clear refusal created nothing. After any other error the object may exist, or appear later.
                    if error.did_nothing() {
                        LEDGER.remove(&name);
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
}

/// A temporary object that exists. Dropping it starts the deletion and returns at once.
#[derive(Debug)]
pub(crate) struct Temporary {
    id: ObjectId,
    loader: Arc<LoaderTemporaries>,
    /// When the lease is to be renewed for the first time, if it can be renewed.
    first_renewal: Option<Instant>,
}

impl Temporary {
    pub(crate) fn id(&self) -> &ObjectId {
        &self.id
    }

    /// Runs `work` on the object, and renews the lease for as long as that takes: not at all within the first 100
    /// seconds, and one call of class A for each 100 seconds after.
    pub(crate) async fn hold<T>(&self, client: &Client, work: impl Future<Output = T>) -> T {
        let renewals = async {
            if let Some(first) = self.first_renewal {
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

    /// Renews the lease until that isn't possible any more.
    async fn renew(&self, client: &Client, mut due: Instant) {
        for renewals in 1u64.. {
            tokio::time::sleep_until(due).await;
            // The object is being deleted then.
            if LEDGER.is_closing() {
                return;
            }

            due = Instant::now() + LEASE / 3;
            let changes = [(metadata::LEASE, LEASE.as_secs()), (metadata::RENEWALS, renewals)];
            let changes = changes.map(|(key, value)| (key.to_owned(), value.to_string())).into();
            match client.update_metadata(&self.id, &changes).await {
                Ok(_) => {}
                // A `clean` elsewhere took this process for dead. The read fails by itself if it still needs the
                // object.
                Err(error) if error.is_not_found() => return,
                // The permission may be granted and missing from the token's scope, as on machines with default scopes.
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    if self.loader.disable_renewal() {
                        tracing::warn!(object = %self.id, %error, "the lease of a temporary object could not be renewed, \
                            so new temporary objects get longer ones");
                    }
                    return;
                }
                Err(error) => {
                    tracing::warn!(object = %self.id, %error, "the lease of a temporary object could not be renewed, so \
                        that `dataflux clean` elsewhere may delete it");
                }
            }
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        LEDGER.start_deletion(&self.id.name);
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

    /// A temporary object that was created just now and is not in the ledger.
    fn test_bucket() -> TestBucket {
        let memory = MemoryStore::new();
        let version = memory.insert("bucket", "temporary", "meow");
        let faults = FaultStore::new(Arc::new(memory.clone()));
        let client = Client::new(Arc::new(faults.clone()));
        let first_renewal = Some(Instant::now() + LEASE / 3);
        let id = ObjectId::new("bucket", "temporary", version);
        let temporary = Temporary { id, loader: LoaderTemporaries::new(), first_renewal };
        TestBucket { memory, faults, client, temporary }
    }

    async fn seconds(n: u64) {
        tokio::time::sleep(Duration::from_secs(n)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_renewed_while_the_object_is_held_and_no_longer() {
        let TestBucket { client, temporary, faults, .. } = test_bucket();
        temporary.hold(&client, seconds(99)).await;
        assert_eq!(faults.calls(StoreCall::UpdateMetadata), 0, "an object that lives for seconds costs nothing");
        let before = SystemTime::now();
        temporary.hold(&client, seconds(901)).await;
        assert_eq!(faults.calls(StoreCall::UpdateMetadata), 9);
        let meta = client.stat(temporary.id()).await.unwrap();
        assert_eq!(
            (meta.details.metadata[metadata::LEASE].as_str(), &*meta.details.metadata[metadata::RENEWALS]),
            ("300", "9")
        );
        assert!(meta.updated.is_some_and(|updated| updated >= before));
        seconds(10_000).await;
        assert_eq!(faults.calls(StoreCall::UpdateMetadata), 9);
        assert_eq!(client.metrics().snapshot().update, 9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_fails_for_a_while_or_for_good() {
        let TestBucket { client, temporary, faults, .. } = test_bucket();
        // More faults than one call has tries.
        faults.fail_next(StoreCall::UpdateMetadata, Fault::Stall, 15);
        temporary.hold(&client, seconds(1_000)).await;
        assert_eq!(faults.faults_left(), 0);
        assert!(client.stat(temporary.id()).await.unwrap().details.metadata.contains_key(metadata::RENEWALS));
        let TestBucket { client, temporary, faults, .. } = test_bucket();
        faults.fail_next(StoreCall::UpdateMetadata, Fault::Error(ErrorKind::PermissionDenied), 1);
        temporary.hold(&client, seconds(1_000)).await;
        assert_eq!(faults.calls(StoreCall::UpdateMetadata), 1, "a missing permission is not tried again");
    }

    /// The permission was granted but the token lacked the scope, so every lease ended while its object was read.
    #[tokio::test(start_paused = true)]
    async fn after_a_renewal_was_refused_leases_outlast_all_calls() {
        let TestBucket { client, temporary, faults, .. } = test_bucket();
        let (before, after) = (TemporaryRun::new(&temporary.loader), TemporaryRun::new(&temporary.loader));
        let renewed = before.lease(&client, 1_000);
        faults.fail_next(StoreCall::UpdateMetadata, Fault::Error(ErrorKind::PermissionDenied), 1);
        temporary.hold(&client, seconds(1_000)).await;
        let lengthened = after.lease(&client, 1_000);
        assert!(lengthened >= client.deadline() * 2 + UNRENEWED_LEASE_SLACK && lengthened > renewed, "{lengthened:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_deleted_object_is_not_renewed() {
        let TestBucket { client, temporary, faults, memory } = test_bucket();
        assert!(memory.contains("bucket", "temporary"));
        client.delete(temporary.id()).await.unwrap();
        let done = temporary.hold(&client, async {
            seconds(1_000).await;
            "the work continues"
        });
        assert_eq!(done.await, "the work continues");
        assert_eq!(faults.calls(StoreCall::UpdateMetadata), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn without_the_permission_to_renew_nothing_is_tried() {
        let TestBucket { client, mut temporary, faults, .. } = test_bucket();
        temporary.first_renewal = None;
        temporary.hold(&client, seconds(1_000)).await;
        assert_eq!(faults.calls(StoreCall::UpdateMetadata), 0);
        let (once, many) = (TemporaryRun::new(&LoaderTemporaries::new()), TemporaryRun::new(&LoaderTemporaries::new()));
        assert!(once.loader.disable_renewal());
        assert_eq!(many.lease(&client, 100_000_000), client.deadline() * 2 + LEASE, "no renewal during the compose");
        assert!(once.lease(&client, 100_000_000) > 4 * LEASE + Duration::from_secs(1_000));
    }
}
