//! Tracks whether a client's service has ever answered, and limits warnings about it.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::Error;
use crate::lock::lock;

/// How long a call may wait for the beginning of an answer before a warning is logged. Shorter waits are usual: the
/// back-off after two refusals takes up to three seconds, and the service's slowest answers some seconds.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// How long a host that never answered is tried when its name doesn't resolve or it refuses connections. A server that
/// is started at the same moment, or the network of a new container, is there within seconds; a typing error never is.
pub(super) const FIRST_CONTACT: Duration = Duration::from_secs(5);

/// Shortest time between two warnings. Thousands of calls may be waiting for the same host.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// What a client and its clones know about whether their service can be reached.
#[derive(Debug, Default)]
pub(super) struct Reach {
    answered: AtomicBool,
    warned: Mutex<Option<Instant>>,
}

impl Reach {
    /// The service has answered a call, if only by refusing it.
    pub(super) fn record_answer(&self) {
        // Usually set already. Looking first avoids a write that would invalidate the cache line on other cores.
        if !self.answered.load(Ordering::Relaxed) {
            self.answered.store(true, Ordering::Relaxed);
        }
    }

    /// Whether retrying is pointless: the host has been unreachable for `after` and has never answered.
    pub(super) fn is_hopeless(&self, error: &Error, after: Duration) -> bool {
        after >= FIRST_CONTACT && error.is_unreachable() && !self.answered.load(Ordering::Relaxed)
    }

    /// Logs that calls to `host` keep failing.
    pub(super) fn warn_of_retries(&self, host: &str, error: &Error, tried_for: Duration, left: Duration) {
        if self.may_warn() {
            warn!(%error, "a call to {host} that began {tried_for:.0?} ago has failed and is retried for up to {left:.0?} more");
        }
    }

    /// Logs that a call to `host` gets no answer.
    pub(super) fn warn_of_silence(&self, host: &str, left: Duration) {
        if self.may_warn() {
            warn!("{host} has not answered a call for {SILENCE:?}; this attempt ends if it doesn't within {left:.0?}");
        }
    }

    fn may_warn(&self) -> bool {
        let now = Instant::now();
        let mut warned = lock(&self.warned);
        let due = warned.is_none_or(|last| now.duration_since(last) >= WARNING_INTERVAL);
        if due {
            *warned = Some(now);
        }
        due
    }
}
