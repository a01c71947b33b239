//! One call of a [`Client`]: its attempts and its time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::{Client, transfer_time};
use crate::metrics::{Counter, count};
use crate::observe::{Event, EventKind};
use crate::store::Attempt;
use crate::store::reach::SILENCE;
use crate::store::retry::{Decision, Failure};
use crate::{Error, ErrorKind, Result};

/// One call: its attempts and its time.
pub(super) struct ClientCall<'a> {
    pub(super) client: &'a Client,
    /// Name of the object or the bucket that the call is about, for events.
    object: Arc<str>,
    pub(super) attempt: Attempt,
    idempotent: bool,
    /// Attempts since the last progress, the present one included: how many have failed if it fails.
    failures: u32,
    /// Whether an earlier attempt may have done what the call asks for, though it failed. Only an answer that
    /// [is a refusal](Error::is_refusal) rules this out; a 503 doesn't.
    left_open: bool,
    /// Attempts whose access token was refused.
    token_refusals: u32,
    pub(super) started: Instant,
    /// When attempts after the first one must be over, from the start of the call. Zero allows one attempt only.
    limit: Duration,
    /// How much waiting in this program's own queue has added to `limit`.
    queue_time_added: Duration,
    /// As `limit`, for the body of the first attempt. It is not zero where nothing is to be retried.
    first_limit: Duration,
    /// Longest wait for the head of an answer.
    head_timeout: Duration,
    /// Longest wait for the next bytes of a body.
    stall: Duration,
    /// When the present attempt began.
    attempt_started: Instant,
    /// Where it is counted that the first attempt was refused with 429 or 503.
    refusal_counter: Option<&'a Counter>,
}

impl<'a> ClientCall<'a> {
    /// A call about an object or a bucket with the name `object`, which moves `bytes` of it. It counts as a retry if
    /// the client is [repeating](Client::repeating) failed calls.
    pub(super) fn new(client: &'a Client, object: &Arc<str>, idempotent: bool, bytes: u64) -> Self {
        let deadline = client.retry.deadline;
        if client.repeats {
            client.record_retry(object, None, 1);
        }
        Self {
            client,
            object: Arc::clone(object),
            attempt: Attempt::first(),
            idempotent,
            failures: 1,
            left_open: false,
            token_refusals: 0,
            started: Instant::now(),
            limit: if deadline.is_zero() { deadline } else { deadline.saturating_add(transfer_time(bytes)) },
            queue_time_added: Duration::ZERO,
            first_limit: deadline.max(client.stall).saturating_add(transfer_time(bytes)),
            head_timeout: client.stall,
            stall: client.stall,
            attempt_started: Instant::now(),
            refusal_counter: None,
        }
    }

    /// Counts in `counter` if the first attempt is refused with 429 or 503.
    pub(super) fn with_refusal_counter(mut self, counter: &'a Counter) -> Self {
        self.refusal_counter = Some(counter);
        self
    }

    /// Sets the longest wait for an answer and for the next bytes.
    pub(super) fn with_stall(mut self, wait: Duration) -> Self {
        (self.head_timeout, self.stall) = (wait, wait);
        self
    }

    /// Allows more time for the head of the answer: that of an upload of `bytes` comes after its last byte was sent.
    pub(super) fn with_upload_of(mut self, bytes: u64) -> Self {
        self.head_timeout = self.head_timeout.saturating_add(transfer_time(bytes));
        self
    }

    /// Doubles the timeouts after an attempt that brought nothing. A service that is slow but not dead would otherwise
    /// run into the same timeout on each attempt.
    pub(super) fn wait_longer(&mut self) {
        self.stall = self.stall.saturating_mul(2);
        self.head_timeout = self.head_timeout.saturating_mul(2);
    }

    /// The message for a body of which nothing came for `patience`. Where that is less than the stall timeout, the time
    /// of the whole call is over, and the message says how long that was.
    pub(super) fn silence(&self, patience: Duration) -> String {
        if patience < self.stall {
            format!("the body was incomplete after {:.1?}", self.started.elapsed())
        } else {
            format!("no bytes for {patience:.1?}")
        }
    }

    /// Reports to the client's pacer that an answer has begun, and how long it took. Reads and writes report this;
    /// listings and look-ups don't. Also records the answer in `reach`, for hedged reads, which don't use
    /// [`within`](Self::within).
    pub(super) fn report_answer<T>(&self, answer: Result<T>) -> Result<T> {
        if answer.is_ok() {
            self.client.reach.record_answer();
            if let Some(pacer) = &self.client.pacer {
                pacer.answered(self.attempt_started.elapsed());
            }
        }
        answer
    }

    /// Reports that all bytes that the call asked for have arrived.
    pub(super) fn report_received(&self, bytes: u64) {
        self.client.events.send(EventKind::ObjectReceived, || Event::ObjectReceived {
            object: Arc::clone(&self.object),
            bytes,
            attempts: self.attempt.number,
            took: self.started.elapsed(),
        });
    }

    fn time_left(&self) -> Duration {
        self.limit.saturating_sub(self.started.elapsed())
    }

    /// Longest wait for the next bytes. No wait ends after the call's time, however slowly a body arrives.
    pub(super) fn patience(&self) -> Duration {
        let limit = if self.attempt.number == 1 { self.first_limit } else { self.limit };
        self.stall.min(limit.saturating_sub(self.started.elapsed()))
    }

    /// Makes one attempt, within its time.
    pub(super) async fn within<T>(&self, attempt: impl Future<Output = Result<T>>) -> Result<T> {
        let patience =
            if self.attempt.number == 1 { self.head_timeout } else { self.head_timeout.min(self.time_left()) };
        let mut attempt = std::pin::pin!(attempt);
        let mut answer = timeout(patience.min(SILENCE), &mut attempt).await;
        if answer.is_err() && patience > SILENCE {
            let left = patience.saturating_sub(SILENCE);
            self.client.reach.warn_of_silence(self.client.host(), left);
            answer = timeout(left, attempt).await;
        }
        let answer =
            answer.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, format!("no answer for {patience:.1?}"))));
        if answer.as_ref().map_or_else(|error| error.http_status().is_some(), |_| true) {
            self.client.reach.record_answer();
        }
        answer
    }

    /// Makes attempts until one succeeds or the policy gives up. Each is counted in `counter`. The error names `about`.
    pub(super) async fn run<T, F>(
        mut self,
        about: &(dyn fmt::Display + Sync),
        counter: &Counter,
        attempt: impl Fn(Attempt) -> F,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let outcome = loop {
            count(counter);
            let error = match self.within(attempt(self.attempt)).await {
                Ok(value) => break Ok(value),
                Err(error) => error,
            };
            if let Err(error) = self.recover(error, about).await {
                break Err(error);
            }
        };
        self.finish(outcome)
    }

    /// Whether what a failed precondition found may be the result of an earlier attempt of this call. If the answers to
    /// all earlier attempts were refusals, nothing was written: then the object is another writer's, even if it has the
    /// same bytes.
    pub(super) fn may_be_own(&self, error: &Error) -> bool {
        error.kind() == ErrorKind::Precondition && self.left_open
    }

    /// Begins the next step of a call that takes several requests. It gets a new [`Attempt::call`], because the service
    /// must not take it for a repetition of the last step.
    pub(super) fn begin_step(&mut self) {
        self.attempt = Attempt::first();
        self.attempt_started = Instant::now();
        (self.failures, self.token_refusals) = (1, 0);
    }

    /// Starts the back-off anew, since the call made progress.
    pub(super) fn record_progress(&mut self) {
        self.failures = 1;
    }

    /// Waits until the next attempt may be made, or returns the error.
    pub(super) async fn recover(&mut self, error: Error, about: &(dyn fmt::Display + Sync)) -> Result<()> {
        let error = error.object(about);
        self.report_overload(&error);

        let failure = Failure::of(&error, self.idempotent);
        self.token_refusals += u32::from(failure.token_refused);
        let left = self.time_left();
        let decision = self.client.retry.decide(&failure, self.failures, self.token_refusals, left, rand::random());
        let wait = match decision {
            Decision::Wait(wait) if !self.client.reach.is_hopeless(&error, self.started.elapsed() + wait) => wait,
            _ => return Err(error),
        };

        if self.started.elapsed() + wait >= SILENCE {
            let (elapsed, left) = (self.started.elapsed(), self.time_left());
            self.client.reach.warn_of_retries(self.client.host(), &error, elapsed, left);
        }
        debug!(%error, ?wait, attempt = self.attempt.number, "trying again");
        let Some(queued) = self.client.wait_to_try_again(wait).await else { return Err(error) };

        // The queue for the next attempt is this program's own, so it takes nothing from the call's time. But the queue
        // is long where the service refuses much, and a service that stays down must become an error.
        let added = queued.min(self.client.retry.deadline.saturating_sub(self.queue_time_added));
        self.queue_time_added += added;
        self.limit = self.limit.saturating_add(added);
        if self.time_left().is_zero() {
            return Err(error);
        }

        self.left_open |= !error.is_refusal();
        self.attempt = self.attempt.next();
        self.attempt_started = Instant::now();
        self.failures += 1;
        self.client.record_retry(&self.object, Some(error.kind()), self.attempt.number);
        Ok(())
    }

    /// Reports a 429 or 503 to the pacer, and counts it if it is that of the first attempt.
    fn report_overload(&self, error: &Error) {
        if !error.asks_for_fewer_calls() {
            return;
        }
        let first = self.attempt.number == 1;
        if let Some(counter) = self.refusal_counter.filter(|_| first) {
            count(counter);
        }
        if let Some(pacer) = &self.client.pacer {
            pacer.refused(first);
        }
    }

    /// Returns the outcome of the call. Every error of a call leaves through here, so that each reports how many
    /// attempts there were, and whether one before the last may have done what was asked for.
    pub(super) fn finish<T>(&self, outcome: Result<T>) -> Result<T> {
        let tries = self.attempt.number;
        outcome.map_err(|error| {
            let error = error.with_left_open(self.left_open);
            if tries == 1 {
                return error;
            }
            // The look-up for an adoption may have reported its own attempts already.
            let error = if error.tries() == 1 {
                error.append(&format!(", on try {tries} after {:.1?}", self.started.elapsed()))
            } else {
                error
            };
            error.tried(tries)
        })
    }
}

impl Client {
    /// The host that calls go to, for messages.
    fn host(&self) -> &str {
        self.store.endpoint().unwrap_or("the store")
    }

    /// Counts an attempt that is made because an earlier one failed, by `error`, or brought wrong bytes.
    fn record_retry(&self, object: &Arc<str>, error: Option<ErrorKind>, attempt: u32) {
        let event = || Event::CallRetried { object: Arc::clone(object), error, attempt };
        self.record(&self.metrics.retries, 1, EventKind::CallRetried, event);
    }

    /// Waits for `wait`, then until the next attempt may be made, and returns the time that the second wait took.
    /// Returns `None` as soon as nobody wants the results of this client any more.
    async fn wait_to_try_again(&self, wait: Duration) -> Option<Duration> {
        let again = async {
            if let Some(pacer) = &self.pacer {
                Arc::clone(pacer).again(wait).await
            } else {
                sleep(wait).await;
                Duration::ZERO
            }
        };
        let Some(mut cancelled) = self.cancelled.clone() else { return Some(again.await) };
        tokio::select! {
            biased;
            _ = cancelled.wait_for(|cancelled| *cancelled) => None,
            queued = again => Some(queued),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::store::{Fault, FaultStore, ListRequest, MemoryStore, ObjectId, StoreCall};

    /// Retries named the bucket and the version, so that nobody could match them with the requests of an object.
    #[tokio::test(start_paused = true)]
    async fn retries_name_the_object_as_other_events_do() {
        let store = MemoryStore::new();
        let id = ObjectId::new("cats", "tom", store.insert("cats", "tom", "meow"));
        let faults = FaultStore::new(Arc::new(store));
        for call in [StoreCall::Get, StoreCall::List] {
            faults.fail_next(call, Fault::Error(ErrorKind::Unavailable), 1);
        }
        let (sender, objects) = mpsc::channel();
        let observer = move |event: &Event| match event {
            Event::ObjectRequested { object, .. } | Event::CallRetried { object, .. } => {
                sender.send(object.to_string()).unwrap();
            }
            _ => {}
        };
        let client = Client::new(Arc::new(faults)).observe(EventKind::all(), observer).unwrap();
        client.read(&id, None, 4).await.unwrap();
        client.list(&ListRequest::new("cats", "")).await.unwrap();
        drop(client);
        assert_eq!(objects.iter().collect::<Vec<_>>(), ["tom", "tom", "tom", "cats"]);
    }

    #[tokio::test]
    async fn a_look_up_after_a_repeated_read_is_no_retry() {
        let store = MemoryStore::new();
        let id = ObjectId::new("cats", "tom", store.insert("cats", "tom", "meow"));
        store.insert("cats", "tom", "purr");
        let client = Client::new(Arc::new(store)).repeating();
        assert_eq!(client.read(&id, None, 4).await.unwrap_err().kind(), ErrorKind::Changed);
        let counts = client.metrics().snapshot();
        assert_eq!((counts.get, counts.stat, counts.retries), (1, 1, 1));
    }
}
