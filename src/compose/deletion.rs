//! Deletion of one temporary object, repeated where a single call may not be enough.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use crate::Result;
use crate::lock::lock;
use crate::pacing::CallGate;
use crate::store::{CallPacer, Client, ObjectId};

/// Waits before an object that was not found is deleted again. If the answer to its compose was lost, the service may
/// still be composing, which takes about a second.
const LATE_COMPOSE_WAITS: [Duration; 4] =
    [Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(4)];

/// Deletions at once while the process shuts down, where no gate limits them. At 80 ms each, 4,096 of them take
/// five of the 20 seconds there are, and the process has this many connections in any case.
const MAX_CLOSING_DELETIONS: usize = 64;

static CLOSING_SLOTS: Semaphore = Semaphore::const_new(MAX_CLOSING_DELETIONS);

/// Deletes an object that exists, or, if `id` has no version, one that may come to exist. `group_number` orders the
/// call among those that wait for `writes`. Once `closing` holds true, the call needs no slot of `writes` any more.
pub(super) async fn delete(
    client: &Client,
    writes: &Arc<CallGate>,
    group_number: u64,
    id: &ObjectId,
    mut closing: watch::Receiver<bool>,
) -> Result<()> {
    let (mut client, mut waits) = (client.clone(), LATE_COMPOSE_WAITS.iter());
    loop {
        // When the process shuts down, other calls may hold all slots for longer than there is time.
        let slot = tokio::select! {
            biased;
            _ = closing.wait_for(|closing| *closing) => None,
            slot = writes.acquire_background(group_number) => Some(slot),
        };

        let outcome = if let Some(slot) = slot {
            let outcome = client.with_pacer(slot.pacer()).with_cancellation(closing.clone()).delete(id).await;
            slot.finish(0);
            if *closing.borrow() && outcome.as_ref().is_err_and(|error| !error.is_not_found()) {
                // The client may have given up only because the process closes. The name is used by nobody else, so
                // repeating the deletion is safe.
                client = client.repeating();
                continue;
            }
            outcome
        } else {
            client.with_pacer(ClosingSlot::take().await).delete(id).await
        };

        match outcome {
            Err(error) if error.is_not_found() => match waits.next() {
                Some(wait) if id.version.is_none() => {
                    tokio::time::sleep(*wait).await;
                    client = client.repeating();
                }
                _ => return Ok(()),
            },
            outcome => return outcome,
        }
    }
}

/// One of the [`MAX_CLOSING_DELETIONS`] slots. A deletion gives its slot to others while it waits for its next try.
#[derive(Debug)]
struct ClosingSlot(Mutex<Option<SemaphorePermit<'static>>>);

impl ClosingSlot {
    async fn take() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Some(Self::permit().await))))
    }

    async fn permit() -> SemaphorePermit<'static> {
        CLOSING_SLOTS.acquire().await.expect("the semaphore is never closed")
    }

    fn set(&self, permit: Option<SemaphorePermit<'static>>) {
        *lock(&self.0) = permit;
    }
}

impl CallPacer for ClosingSlot {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::pacing::{BucketGates, CallCaps};
    use crate::store::{Fault, FaultStore, MemoryStore, StoreCall};

    async fn seconds(n: u64) {
        tokio::time::sleep(Duration::from_secs(n)).await;
    }

    /// The delete was tried twice, the second try found nothing, and the loader took that for success.
    #[tokio::test(start_paused = true)]
    async fn an_object_that_appears_after_a_retried_delete_is_deleted_too() {
        let memory = MemoryStore::new().with_bucket("bucket");
        let faults = FaultStore::new(Arc::new(memory.clone()));
        let client = Client::new(Arc::new(faults.clone()));
        faults.fail_next(StoreCall::Delete, Fault::Error(ErrorKind::Unavailable), 1);
        let writes = Arc::clone(&BucketGates::new(CallCaps::default()).writes);
        let closing = watch::Sender::new(false);
        let id = ObjectId::live("bucket", "late");
        let compose = async {
            seconds(5).await;
            memory.insert("bucket", "late", "meow");
        };
        let (deleted, ()) = tokio::join!(delete(&client, &writes, 0, &id, closing.subscribe()), compose);
        deleted.unwrap();
        assert!(!memory.contains("bucket", "late"));
    }

    /// A deletion that waited for its next try when the process began to shut down kept waiting, at last for its turn
    /// among other calls; and those that waited in the 64 closing slots kept all others out.
    #[tokio::test(start_paused = true)]
    async fn while_closing_no_deletion_waits_for_one_that_is_retried() {
        let memory = MemoryStore::new();
        let faults = FaultStore::new(Arc::new(memory.clone()));
        let client = Client::new(Arc::new(faults.clone()));
        let writes = Arc::clone(&BucketGates::new(CallCaps::default()).writes);
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

        faults.fail_next(StoreCall::Delete, minute, MAX_CLOSING_DELETIONS as u64);
        let refused: Vec<_> = (0..MAX_CLOSING_DELETIONS).map(|n| deletion(&format!("refused {n}"))).collect();
        seconds(1).await;
        soon(deletion("not refused")).await;
        for deletion in refused {
            deletion.await.unwrap();
        }
        assert_eq!(memory.names("bucket"), [""; 0]);
    }
}
