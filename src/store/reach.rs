//! What the calls of a client have seen of the way to its service: whether it ever answered, and what was logged of it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::Error;

/// How long a call may bring nothing before a warning says so. Shorter waits are usual: the back-off after two refusals
/// takes up to three seconds, and the service's slowest answers some seconds.
pub(super) const SILENCE: Duration = Duration::from_secs(10);

/// How long a host that never answered is tried when its name doesn't resolve or it refuses connections. A server that is
/// started at the same moment, or the network of a new container, is there within seconds; a typing error never is.
pub(super) const FIRST_CONTACT: Duration = Duration::from_secs(5);

/// Shortest time between two warnings. Thousands of calls may be waiting for the same host.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// What a client and its clones know of the way to their service.
#[derive(Debug, Default)]
pub(super) struct Reach {
    answered: AtomicBool,
    warned: Mutex<Option<Instant>>,
}

impl Reach {
    /// The service has answered a call, if only by refusing it.
    pub(super) fn record_answer(&self) {
        // Nearly always set: reading it keeps the line in every core's cache.
        if !self.answered.load(Ordering::Relaxed) {
            self.answered.store(true, Ordering::Relaxed);
        }
    }

    /// Whether trying again is in vain: the host can't be reached `after` that long, and never could.
    pub(super) fn is_hopeless(&self, error: &Error, after: Duration) -> bool {
        after >= FIRST_CONTACT && error.is_unreachable() && !self.answered.load(Ordering::Relaxed)
    }

    /// Logs that calls to `host` keep failing.
    pub(super) fn warn_of_retries(&self, host: &str, error: &Error, tried_for: Duration, left: Duration) {
        if self.may_warn() {
            warn!(%error, "calls to {host} have failed for {tried_for:.0?} and are retried for up to {left:.0?} more");
        }
    }

    /// Logs that a call to `host` gets no answer.
    pub(super) fn warn_of_silence(&self, host: &str, left: Duration) {
        if self.may_warn() {
            warn!(
                "{host} has not answered a call for {SILENCE:?}; it is waited for up to {left:.0?} more, then asked again"
            );
        }
    }

    fn may_warn(&self) -> bool {
        let now = Instant::now();
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        let due = warned.is_none_or(|last| now.duration_since(last) >= WARNING_INTERVAL);
        if due {
            *warned = Some(now);
        }
        due
    }
}
