//! The retry policy, a pure value: the caller supplies clock and randomness.

use std::time::Duration;

use crate::{Error, ErrorKind};

/// How often and for how long a failed call is retried: exponential back-off with full jitter.
///
/// Before attempt `n + 1` the client waits a random time between zero and `initial * multiplier^(n-1)`, at most `max`.
/// If the service asked for a wait in `Retry-After`, the random time is added to that. If a wait would end after
/// `deadline`, counted from the start of the call, the client returns the last error at once.
///
/// ```
/// use std::time::Duration;
/// use dataflux::store::RetryPolicy;
///
/// let impatient = RetryPolicy::default().deadline(Duration::from_secs(20));
/// assert_eq!(impatient.initial, Duration::from_secs(1));
/// assert_eq!(RetryPolicy::never().deadline, Duration::ZERO);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Longest wait before the second attempt: 1 s, as in the service's own clients.
    pub initial: Duration,
    /// Growth of the longest wait from attempt to attempt: 2.
    pub multiplier: f64,
    /// Limit to which the longest wait grows: 60 s.
    pub max: Duration,
    /// How long a call may take in all, attempts and waits together: 300 s. Waiting in the client's own queue doesn't
    /// count, up to as much again, and the first attempt always gets the client's stall timeout. Zero allows one
    /// attempt only. A read or an upload gets more time in proportion to its size (see
    /// [`Client::read`](crate::store::Client::read)).
    pub deadline: Duration,
    /// Whether a call is retried that the service refused because there are too many (429, 503).
    pub(crate) retries_refused: bool,
}

/// Longest time of a call that is an optional speed-up. It suffices to look a lost answer up several times; by then the
/// caller has turned to its alternative.
const OPTIONAL_DEADLINE: Duration = Duration::from_secs(10);

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            initial: Duration::from_secs(1),
            multiplier: 2.0,
            max: Duration::from_secs(60),
            deadline: Duration::from_secs(300),
            retries_refused: true,
        }
    }
}

/// What to do after a failed attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Make another attempt after this time.
    Wait(Duration),
    /// Return the error.
    GiveUp,
}

/// The facts about a failed attempt and its call on which the decision depends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    /// The service refused the token itself; a new one may be accepted.
    pub(crate) token_refused: bool,
    /// The service refused the call because there are too many calls, or could not serve it for now.
    pub(crate) refused: bool,
    pub(crate) retry_after: Option<Duration>,
    /// Whether making the call twice has the same effect as making it once.
    pub(crate) idempotent: bool,
}

impl Failure {
    pub(crate) fn of(error: &Error, idempotent: bool) -> Self {
        Self {
            kind: error.kind(),
            // If no token was sent, the error of a 401 is a lack of permission.
            token_refused: error.http_status() == Some(401) && error.kind() == ErrorKind::Unauthenticated,
            refused: error.asks_for_fewer_calls(),
            retry_after: error.wait_asked(),
            idempotent,
        }
    }
}

impl RetryPolicy {
    /// The policy that makes one attempt only.
    pub fn never() -> Self {
        Self { deadline: Duration::ZERO, ..Self::default() }
    }

    /// The policy for calls that are an optional speed-up, derived from this one for necessary calls. A refused call is
    /// not retried, since its caller has an alternative, and other failures are retried for 10 s at most.
    pub(crate) fn for_optional_calls(self) -> Self {
        Self { deadline: self.deadline.min(OPTIONAL_DEADLINE), retries_refused: false, ..self }
    }

    /// Sets the longest wait before the second attempt.
    #[must_use]
    pub fn initial(mut self, wait: Duration) -> Self {
        self.initial = wait;
        self
    }

    /// Sets the factor by which the longest wait grows; a value below 1 counts as 1.
    #[must_use]
    pub fn multiplier(mut self, factor: f64) -> Self {
        self.multiplier = factor;
        self
    }

    /// Sets the limit of the longest wait.
    #[must_use]
    pub fn max(mut self, wait: Duration) -> Self {
        self.max = wait;
        self
    }

    /// Sets how long a call may take in all; zero allows one attempt only.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Longest jittered wait after so many failed attempts, at least 1.
    fn max_wait(&self, failures: u32) -> Duration {
        let exponent = i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX);
        let factor = self.multiplier.max(1.0).powi(exponent);
        // Infinite and NaN factors result in `max`, too.
        Duration::try_from_secs_f64(self.initial.as_secs_f64() * factor).map_or(self.max, |wait| wait.min(self.max))
    }

    /// Decides what to do after a failure. `failures` counts the failed attempts since the last progress,
    /// `token_refusals` those of the whole call whose token was refused. `left` is what is left of the call's time, and
    /// `random` a number in `[0, 1)`.
    pub(crate) fn decide(
        &self,
        failure: &Failure,
        failures: u32,
        token_refusals: u32,
        left: Duration,
        random: f64,
    ) -> Decision {
        if failure.token_refused {
            // The service did nothing, so any call may be repeated. The store has dropped the token.
            return if token_refusals <= 1 && !left.is_zero() {
                Decision::Wait(Duration::ZERO)
            } else {
                Decision::GiveUp
            };
        }
        let retryable = matches!(failure.kind, ErrorKind::RateLimited | ErrorKind::Unavailable | ErrorKind::Timeout);
        if !retryable || !failure.idempotent || (failure.refused && !self.retries_refused) {
            return Decision::GiveUp;
        }
        let asked = failure.retry_after.unwrap_or_default();
        // Thousands of clients may have been asked for the same wait, and must not return at the same moment. The
        // jitter alone is no reason to give up.
        let spread = self.max_wait(failures).max(asked / 4);
        let spread = if asked.is_zero() { spread } else { spread.min(left.saturating_sub(asked)) };
        let wait = asked + spread.mul_f64(random.clamp(0.0, 1.0));
        if wait < left { Decision::Wait(wait) } else { Decision::GiveUp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(300);

    fn failure(kind: ErrorKind) -> Failure {
        let refused = kind == ErrorKind::RateLimited;
        Failure { kind, token_refused: false, refused, retry_after: None, idempotent: true }
    }

    #[test]
    fn waits_double_to_the_maximum() {
        let policy = RetryPolicy::default();
        let waits: Vec<u64> = (1..=9).map(|failures| policy.max_wait(failures).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(policy.max_wait(u32::MAX), policy.max);
        assert_eq!(policy.multiplier(f64::NAN).max_wait(3), Duration::from_secs(1));
        assert_eq!(policy.multiplier(f64::INFINITY).max_wait(3), policy.max);
    }

    #[test]
    fn jitter_is_full() {
        let policy = RetryPolicy::default();
        let busy = failure(ErrorKind::Unavailable);
        assert_eq!(policy.decide(&busy, 3, 0, LONG, 0.0), Decision::Wait(Duration::ZERO));
        assert_eq!(policy.decide(&busy, 3, 0, LONG, 0.5), Decision::Wait(Duration::from_secs(2)));
    }

    #[test]
    fn only_passing_failures_of_idempotent_calls_are_retried() {
        let policy = RetryPolicy::default();
        for kind in [ErrorKind::RateLimited, ErrorKind::Unavailable, ErrorKind::Timeout] {
            assert!(matches!(policy.decide(&failure(kind), 1, 0, LONG, 0.5), Decision::Wait(_)), "{kind:?}");
            let once = Failure { idempotent: false, ..failure(kind) };
            assert_eq!(policy.decide(&once, 1, 0, LONG, 0.5), Decision::GiveUp, "{kind:?}");
        }
        for kind in [
            ErrorKind::Config,
            ErrorKind::NotFound,
            ErrorKind::Changed,
            ErrorKind::Precondition,
            ErrorKind::PermissionDenied,
            ErrorKind::Unauthenticated,
            ErrorKind::Integrity,
            ErrorKind::Protocol,
        ] {
            assert_eq!(policy.decide(&failure(kind), 1, 0, LONG, 0.5), Decision::GiveUp, "{kind:?}");
        }
    }

    /// A refused compose was once retried for 300 s, while its objects could have been read at once.
    #[test]
    fn an_optional_call_that_is_refused_is_given_up() {
        let policy = RetryPolicy::default().for_optional_calls();
        let limited = failure(ErrorKind::RateLimited);
        assert_eq!(policy.decide(&limited, 1, 0, LONG, 0.5), Decision::GiveUp);
        let unavailable = Failure { refused: true, ..failure(ErrorKind::Unavailable) };
        assert_eq!(policy.decide(&unavailable, 1, 0, LONG, 0.5), Decision::GiveUp);
        let lost = failure(ErrorKind::Unavailable);
        assert!(matches!(policy.decide(&lost, 1, 0, LONG, 0.5), Decision::Wait(_)), "a lost answer is looked up");
        assert_eq!(policy.deadline, Duration::from_secs(10));
        let short = RetryPolicy::default().deadline(Duration::from_secs(2)).for_optional_calls();
        assert_eq!(short.deadline, Duration::from_secs(2));
    }

    #[test]
    fn a_refused_token_is_replaced_once() {
        let policy = RetryPolicy::default();
        let refused = Failure { token_refused: true, idempotent: false, ..failure(ErrorKind::Unauthenticated) };
        assert_eq!(policy.decide(&refused, 1, 1, LONG, 0.9), Decision::Wait(Duration::ZERO));
        assert_eq!(policy.decide(&refused, 2, 2, LONG, 0.9), Decision::GiveUp);
    }

    #[test]
    fn retry_after_is_honoured_within_the_deadline() {
        let policy = RetryPolicy::default();
        let asked = |secs| Failure { retry_after: Some(Duration::from_secs(secs)), ..failure(ErrorKind::RateLimited) };
        let decide = |secs, tries, random| policy.decide(&asked(secs), tries, 0, LONG, random);
        let wait = |seconds| Decision::Wait(Duration::from_secs_f64(seconds));
        assert_eq!(decide(7, 1, 0.0), wait(7.0), "never less than was asked for");
        assert_eq!(decide(7, 1, 0.5), wait(7.875));
        assert_eq!(decide(40, 1, 0.5), wait(45.0), "a long wait is spread in proportion");
        assert_eq!(decide(1, 6, 0.5), wait(17.0), "the usual back-off is added");
        assert_eq!(decide(290, 1, 0.5), wait(295.0), "jitter ends with the deadline");
        assert_eq!(decide(301, 1, 0.5), Decision::GiveUp);
    }

    #[test]
    fn no_wait_begins_that_would_end_past_the_deadline() {
        let policy = RetryPolicy::default();
        let busy = failure(ErrorKind::Unavailable);
        assert_eq!(policy.decide(&busy, 7, 0, Duration::from_secs(10), 0.9), Decision::GiveUp);
        assert_eq!(policy.decide(&busy, 1, 0, Duration::ZERO, 0.0), Decision::GiveUp);
    }
}
