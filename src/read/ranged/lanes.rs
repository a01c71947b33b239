//! Limits that several downloads share.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::budget::{Budget, Gauge};
use crate::pacing::{CallGate, CallSlot};
use crate::store::Client;

/// Streams and bytes that several downloads share.
#[derive(Clone, Debug)]
pub struct Lanes {
    gate: StreamGate,
    pub(super) budget: Budget,
}

/// What a stream waits for before it starts.
#[derive(Clone, Debug)]
enum StreamGate {
    /// One of so many streams.
    Streams(Arc<Semaphore>),
    /// A slot for a read call, in the order of group numbers.
    Calls { gate: Arc<CallGate>, group_number: u64 },
}

/// Permission for one stream, for as long as it is held.
pub(super) enum StreamSlot {
    Stream(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit),
    Call(CallSlot),
}

impl StreamSlot {
    /// A client whose calls belong to this stream.
    pub(super) fn client(&self, client: &Client) -> Client {
        match self {
            Self::Stream(_) => client.clone(),
            Self::Call(slot) => client.with_pacer(slot.pacer()),
        }
    }

    /// Ends the stream, which received this many bytes.
    pub(super) fn finish(self, bytes: u64) {
        if let Self::Call(slot) = self {
            slot.finish(bytes);
        }
    }
}

impl Lanes {
    /// At most `streams` streams at once, which hold at most `bytes` bytes; at least 1 of each.
    pub fn new(streams: usize, bytes: u64) -> Self {
        let streams = streams.clamp(1, Semaphore::MAX_PERMITS);
        let gate = StreamGate::Streams(Arc::new(Semaphore::new(streams)));
        Self { gate, budget: Budget::new(bytes, Gauge::default()) }
    }

    /// Lanes for a download into memory whose bytes are counted elsewhere: each stream waits for a slot of `gate`.
    pub(crate) fn gated(gate: Arc<CallGate>, group_number: u64) -> Self {
        Self { gate: StreamGate::Calls { gate, group_number }, budget: Budget::new(0, Gauge::default()) }
    }

    /// Waits for permission for one stream.
    pub(super) async fn stream(&self) -> StreamSlot {
        match &self.gate {
            StreamGate::Streams(streams) => {
                StreamSlot::Stream(Arc::clone(streams).acquire_owned().await.expect("the semaphore is never closed"))
            }
            StreamGate::Calls { gate, group_number } => StreamSlot::Call(gate.acquire(*group_number).await),
        }
    }
}
