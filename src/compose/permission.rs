//! Whether composing works in a bucket. The outcomes of composed reads show it, and after failures it is tried again
//! every few minutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use super::ledger::{LoaderTemporaries, TemporaryRun};
use crate::io::Io;
use crate::store::BucketInfo;
use crate::suspension::{Pass, Suspension};
use crate::{Error, ErrorKind, Result};

/// What to do where the right to compose is missing.
const GRANT: &str =
    "grant storage.objects.create and storage.objects.delete, which are in the role Storage Object User";

/// How many composed reads in a row may fail, for any reason, before composing is suspended.
const MAX_FAILURES: u32 = 32;

/// How many failures one failure counts for while only one compose may run at a time: if they ran in parallel, about as
/// many would have failed meanwhile.
const SINGLE_FAILURE_WEIGHT: u32 = 8;

/// How long other reads wait for the first compose in a bucket whose retention policy is unknown: twice what composing,
/// reading and deleting take if all is well.
const PROOF_WAIT: Duration = Duration::from_secs(2);

/// How long the first deletion in a bucket whose retention policy is unknown may take.
const FIRST_DELETION: Duration = Duration::from_secs(60);

/// What is known about composing in one bucket. The epochs of a loader share it.
#[derive(Debug)]
pub(crate) struct ComposePermission {
    bucket: Arc<str>,
    suspension: Suspension,
    /// Composed reads that failed since the last success.
    failures: AtomicU32,
    /// Whether temporaries are known to be deletable. Until then only one compose runs at a time, and its object is
    /// deleted before the next: objects that a retention policy keeps would be billed until it lets them go.
    is_deletable: AtomicBool,
    /// Held by the read that finds out whether temporaries are deletable.
    proof: Arc<Mutex<()>>,
    /// Whether other reads wait for the proof. They stop doing so once it has taken long or failed.
    waits_for_proof: AtomicBool,
    /// The temporaries of all epochs. While some could not be deleted, nothing is composed.
    temporaries: Arc<LoaderTemporaries>,
}

/// Permission for one composed read.
#[derive(Debug)]
pub(crate) struct ComposePermit<'a> {
    pass: Pass<'a>,
    /// Held by the read that finds out whether temporaries are deletable.
    proof: Option<OwnedMutexGuard<()>>,
}

/// The outcome of a composed read, from the compose to the proof of each sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ComposeOutcome<'a> {
    /// The error, if the read failed.
    pub(crate) error: Option<&'a Error>,
    /// Whether the compose call was started. A failure before it is no evidence about composing.
    pub(crate) is_started: bool,
}

impl ComposePermission {
    pub(crate) fn new(bucket: Arc<str>, info: &BucketInfo, temporaries: &Arc<LoaderTemporaries>) -> Arc<Self> {
        Arc::new(Self {
            bucket,
            suspension: Suspension::new(),
            failures: AtomicU32::new(0),
            is_deletable: AtomicBool::new(info.retention.is_some()),
            proof: Arc::default(),
            waits_for_proof: AtomicBool::new(true),
            temporaries: Arc::clone(temporaries),
        })
    }

    /// Whether a compose may be tried now.
    pub(crate) fn may_compose(&self) -> bool {
        self.suspension.may_try(Instant::now()) && self.temporaries.undeleted() == 0
    }

    /// Whether composed objects are known to be deletable.
    pub(crate) fn is_proven(&self) -> bool {
        self.is_deletable.load(Ordering::Relaxed)
    }

    /// Permits one composed read. While it isn't known whether temporaries are deletable, only one read at a time is
    /// permitted; the others wait for a moment only, since a compose may fail slowly.
    ///
    /// # Errors
    /// Composing is suspended, or another read is finding out whether it works. Neither counts as a failure.
    pub(crate) async fn admit(&self) -> Result<ComposePermit<'_>> {
        let refused = |message: &str| Error::new(ErrorKind::Unavailable, message);
        let proof = if self.is_deletable.load(Ordering::Acquire) {
            None
        } else {
            let proof = self.lock_proof().await;
            Some(proof.ok_or_else(|| refused("another compose shows whether temporaries can be deleted"))?)
        };
        // Another read may have shown it meanwhile.
        let proof = proof.filter(|_| !self.is_deletable.load(Ordering::Acquire));

        if self.temporaries.undeleted() > 0 {
            return Err(refused("a temporary object could not be deleted"));
        }
        let pass = self.suspension.pass(Instant::now());
        let pass = pass.ok_or_else(|| refused("composing was found not to work here"))?;
        Ok(ComposePermit { pass, proof })
    }

    async fn lock_proof(&self) -> Option<OwnedMutexGuard<()>> {
        if let Ok(proof) = Arc::clone(&self.proof).try_lock_owned() {
            return Some(proof);
        }
        if !self.waits_for_proof.load(Ordering::Relaxed) {
            return None;
        }
        let proof = timeout(PROOF_WAIT, Arc::clone(&self.proof).lock_owned()).await.ok();
        if proof.is_none() {
            self.waits_for_proof.store(false, Ordering::Relaxed);
        }
        proof
    }

    /// Learns from the outcome of a composed read, and suspends composing if it doesn't work.
    pub(crate) fn note(
        self: &Arc<Self>,
        permit: ComposePermit<'_>,
        outcome: ComposeOutcome<'_>,
        run: &Arc<TemporaryRun>,
        io: &Io,
    ) {
        let ComposePermit { pass, proof } = permit;
        match outcome.error {
            None => {
                self.failures.store(0, Ordering::Relaxed);
                if pass.succeeded() {
                    tracing::info!(bucket = &*self.bucket, "composing works again");
                }
            }
            // The epoch was ended.
            Some(error) if error.is_cancelled() => {}
            Some(error) if error.kind() == ErrorKind::PermissionDenied => {
                self.suspend(&format!("composing is refused ({error}; {GRANT})"));
            }
            // For any reason: without an outcome the next window would try again, and wait as long.
            Some(error) if pass.is_trial() => {
                self.suspend(&format!("composing did not work when it was tried again: {error}"));
            }
            // A refusal of too many calls is no evidence about the next call.
            Some(error) if error.asks_for_fewer_calls() || !outcome.is_started => {}
            Some(error) if self.count_failure() => {
                self.suspend(&format!("composing failed again and again, last with: {error}"));
            }
            Some(_) => {}
        }

        let Some(proof) = proof else { return };
        let (works, permission, run) = (outcome.error.is_none(), Arc::clone(self), Arc::clone(run));
        // In a task, so that the samples don't wait for the deletion.
        io.handle().spawn(async move {
            if works && run.wait_until_settled(FIRST_DELETION).await && run.undeleted() == 0 {
                permission.is_deletable.store(true, Ordering::Release);
            } else {
                permission.waits_for_proof.store(false, Ordering::Relaxed);
            }
            drop(proof);
        });
    }

    /// Counts a failure, and returns whether there were too many in a row.
    fn count_failure(&self) -> bool {
        let weight = if self.is_proven() { 1 } else { SINGLE_FAILURE_WEIGHT };
        self.failures.fetch_add(weight, Ordering::Relaxed) + weight >= MAX_FAILURES
    }

    /// Suspends composing for some minutes.
    fn suspend(&self, reason: &str) {
        self.suspension.suspend(Instant::now());
        self.report(reason);
    }

    /// Turns composing off for good, because this permission is missing.
    pub(crate) fn turn_off(&self, missing: &str) {
        self.suspension.turn_off();
        self.report(&format!("{missing} is not granted ({GRANT})"));
    }

    /// Logs why nothing is composed: the first time as a warning.
    pub(crate) fn report(&self, reason: &str) {
        if self.suspension.is_first_report() {
            tracing::warn!(
                bucket = &*self.bucket,
                "{reason}, so every object is read by itself: slower and dearer for small objects; choose \
                 Strategy::Direct (--strategy direct) to silence this"
            );
        } else {
            tracing::debug!(bucket = &*self.bucket, reason, "composing is suspended");
        }
    }

    #[cfg(test)]
    pub(crate) fn end_interval(&self) {
        self.suspension.end_interval();
    }
}
