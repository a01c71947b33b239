//! Whether composing works in a bucket: found out by what comes of it, and looked at again after some minutes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use super::temporary::{LoaderTemporaries, TemporaryRun};
use crate::io::Io;
use crate::store::BucketInfo;
use crate::suspension::{Pass, Suspension};
use crate::{Error, ErrorKind, Result};

/// How many composed reads in a row may fail, of whatever, before no more are tried.
const FAILURES: u32 = 32;

/// How many failures one counts for while composes go one by one: in parallel, that many would have failed meanwhile.
const UNPROVEN: u32 = 8;

/// How long others wait for the first compose in a bucket that tells nothing of itself: twice what making, reading and
/// deleting takes where all is well.
const PROOF: Duration = Duration::from_secs(2);

/// How long the first deletion in a bucket that tells nothing of itself may take.
const FIRST_DELETION: Duration = Duration::from_secs(60);

/// What is known of composing in one bucket; the epochs of a loader share it.
#[derive(Debug)]
pub(crate) struct ComposePermission {
    bucket: Arc<str>,
    suspension: Suspension,
    /// Composed reads that failed since the last that worked.
    failures: AtomicU32,
    /// Whether a temporary is known to be deletable. Until then composes go one by one, each deleted before the next:
    /// what a retention policy keeps would be billed for as long as that lasts.
    deletable: AtomicBool,
    proving: Arc<Mutex<()>>,
    /// Whether to wait for that: no more, once it has taken long or failed.
    patient: AtomicBool,
    /// The temporaries of all epochs, of which some could not be deleted.
    temporaries: Arc<LoaderTemporaries>,
}

/// Leave for one composed read.
#[derive(Debug)]
pub(crate) struct ComposePermit<'a> {
    pass: Pass<'a>,
    /// Held by the one that shows whether temporaries can be deleted.
    proving: Option<OwnedMutexGuard<()>>,
}

impl ComposePermission {
    pub(crate) fn new(bucket: Arc<str>, info: &BucketInfo, temporaries: &Arc<LoaderTemporaries>) -> Arc<Self> {
        Arc::new(Self {
            bucket,
            suspension: Suspension::new(),
            failures: AtomicU32::new(0),
            deletable: AtomicBool::new(info.retention.is_some()),
            proving: Arc::default(),
            patient: AtomicBool::new(true),
            temporaries: Arc::clone(temporaries),
        })
    }

    /// Whether composing is worth a try now.
    pub(crate) fn may_compose(&self) -> bool {
        self.suspension.may_try(Instant::now()) && self.temporaries.undeleted() == 0
    }

    /// Whether what is composed is known to be deletable.
    pub(crate) fn is_proven(&self) -> bool {
        self.deletable.load(Ordering::Relaxed)
    }

    /// Leave for one composed read. While it isn't known whether temporaries can be deleted it is given to one at a
    /// time; others wait for that for a moment only, since a compose may fail slowly.
    ///
    /// # Errors
    /// Composing is suspended, or another read finds out whether it works. Neither counts as a failure.
    pub(crate) async fn admit(&self) -> Result<ComposePermit<'_>> {
        let refused = |what: &str| Error::new(ErrorKind::Unavailable, what);
        let proving = if self.deletable.load(Ordering::Acquire) {
            None
        } else {
            let turn = self.turn_to_prove().await;
            Some(turn.ok_or_else(|| refused("another compose shows whether temporaries can be deleted"))?)
        };
        // Another may have shown it meanwhile.
        let proving = proving.filter(|_| !self.deletable.load(Ordering::Acquire));
        if self.temporaries.undeleted() > 0 {
            return Err(refused("a temporary object could not be deleted"));
        }
        let pass = self.suspension.pass(Instant::now());
        let pass = pass.ok_or_else(|| refused("composing was found not to work here"))?;
        Ok(ComposePermit { pass, proving })
    }

    async fn turn_to_prove(&self) -> Option<OwnedMutexGuard<()>> {
        if let Ok(turn) = Arc::clone(&self.proving).try_lock_owned() {
            return Some(turn);
        }
        if !self.patient.load(Ordering::Relaxed) {
            return None;
        }
        let turn = timeout(PROOF, Arc::clone(&self.proving).lock_owned()).await.ok();
        if turn.is_none() {
            self.patient.store(false, Ordering::Relaxed);
        }
        turn
    }

    /// Notes what came of a composed read, from the compose to the proof of each sample. What failed before the compose
    /// had `begun` says nothing of composing.
    pub(crate) fn note(
        self: &Arc<Self>,
        admission: ComposePermit<'_>,
        failure: Option<&Error>,
        begun: bool,
        run: &Arc<TemporaryRun>,
        io: &Io,
    ) {
        let ComposePermit { pass, proving } = admission;
        match failure {
            None => {
                self.failures.store(0, Ordering::Relaxed);
                if pass.succeeded() {
                    tracing::info!(bucket = &*self.bucket, "composing works again");
                }
            }
            // The epoch was ended.
            Some(error) if error.is_cancelled() => {}
            Some(error) if error.kind() == ErrorKind::PermissionDenied => {
                self.suspend(&format!("composing is refused ({error})"));
            }
            // Whatever the reason: were it no outcome, the next window would try again, and wait as long.
            Some(error) if pass.is_trial() => {
                self.suspend(&format!("composing did not work when it was tried again: {error}"));
            }
            // What is refused because there are too many calls says nothing of the next one.
            Some(error) if error.asks_for_fewer_calls() || !begun => {}
            Some(error) if self.has_failed() => {
                self.suspend(&format!("composing failed again and again, last with: {error}"));
            }
            Some(_) => {}
        }
        let Some(proving) = proving else { return };
        let (works, composing, run) = (failure.is_none(), Arc::clone(self), Arc::clone(run));
        // Behind the reader's back: the samples are there, however long the deletion takes.
        io.handle().spawn(async move {
            if works && run.settled(FIRST_DELETION).await && !run.has_failed() {
                composing.deletable.store(true, Ordering::Release);
            } else {
                composing.patient.store(false, Ordering::Relaxed);
            }
            drop(proving);
        });
    }

    /// Counts a failure; true when there were too many in a row.
    fn has_failed(&self) -> bool {
        let weight = if self.is_proven() { 1 } else { UNPROVEN };
        self.failures.fetch_add(weight, Ordering::Relaxed) + weight >= FAILURES
    }

    /// Composes no more for some minutes.
    fn suspend(&self, why: &str) {
        self.suspension.suspend(Instant::now());
        self.report(why);
    }

    /// Composes no more, for want of a right that was asked for.
    pub(crate) fn turn_off(&self, why: &str) {
        self.suspension.turn_off();
        self.report(why);
    }

    /// Says once why nothing is composed.
    pub(crate) fn report(&self, why: &str) {
        if self.suspension.is_first_report() {
            tracing::warn!(
                bucket = &*self.bucket,
                "{why}, so every object is read by itself: slower and dearer for small objects; grant \
                 storage.objects.create and storage.objects.delete (role Storage Object User), or choose \
                 Strategy::Direct (--strategy direct) to silence this"
            );
        } else {
            tracing::debug!(bucket = &*self.bucket, why, "composing is suspended");
        }
    }

    #[cfg(test)]
    pub(crate) fn end_interval(&self) {
        self.suspension.end_interval();
    }
}
