//! The wait of a training loop, as seen by the thread that waits for batches in place of the loop.
//!
//! Such a thread is ahead of the loop, so that its own waits say little: while it waits for a batch, or converts one,
//! the loop may still train on the batch before. Only the time in which the loop has asked for that batch is a wait.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lock::lock;

/// The batch that a training loop last asked for. Loop and thread share it, and both number batches by how many were
/// delivered before them, so that a request which the thread has answered never counts for the next batch.
#[derive(Debug, Default)]
pub(crate) struct LastRequest(Mutex<Option<BatchRequest>>);

#[derive(Clone, Copy, Debug)]
struct BatchRequest {
    batches_before: u64,
    at: Instant,
}

impl LastRequest {
    /// Notes that the loop asks for the batch that follows `batches_before` others.
    pub(crate) fn record_request(&self, batches_before: u64, at: Instant) {
        *lock(&self.0) = Some(BatchRequest { batches_before, at });
    }

    /// How much of the time from `start` to `end` the loop waited for the batch that follows `batches_before` others.
    /// Only valid until the loop has that batch.
    pub(crate) fn waited_between(&self, start: Instant, end: Instant, batches_before: u64) -> Duration {
        let request = lock(&self.0).filter(|request| request.batches_before == batches_before);
        request.map_or(Duration::ZERO, |request| end.saturating_duration_since(request.at.max(start)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_time_after_the_request_for_that_batch_counts() {
        let request = LastRequest::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let waited = |from, to, batch| request.waited_between(at(from), at(to), batch).as_secs();
        assert_eq!(waited(0, 9, 0), 0, "nothing is asked for");
        request.record_request(0, at(4));
        assert_eq!([waited(0, 3, 0), waited(0, 9, 0), waited(6, 9, 0)], [0, 5, 3]);
        assert_eq!(waited(6, 9, 1), 0, "the next batch isn't asked for yet");
        request.record_request(1, at(12));
        assert_eq!([waited(10, 15, 1), waited(10, 15, 0)], [3, 0]);
    }
}
