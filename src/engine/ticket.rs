//! What the planning thread hands to the training loop: a ticket for each batch, with a channel for the finished batch.

use std::any::Any;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam_channel::{Receiver, Sender};

use super::sample_code::BatchData;
use super::wait_report::BatchTrace;
use crate::Result;
use crate::collate::Batch;

/// What the planning thread hands out, in the order of delivery. No batch follows an error.
pub(crate) type Ticket = Result<PendingBatch>;

/// A batch that is being assembled.
pub(crate) struct PendingBatch {
    pub(crate) receiver: BatchReceiver,
    /// As [`FinishedBatch::number`].
    pub(crate) number: u64,
    pub(crate) trace: BatchTrace,
}

/// A part of the memory budget; dropping it gives the part back.
pub(crate) type HeldBytes = Arc<dyn Any + Send + Sync>;

/// A finished batch.
pub(crate) struct FinishedBatch {
    pub(crate) batch: Batch<BatchData>,
    /// Index of the batch in its epoch.
    pub(crate) number: u64,
    /// Positions of the global batch, of all ranks, in the order of the epoch.
    pub(crate) positions: Range<u64>,
    /// Bytes of its samples, as they are stored.
    pub(crate) bytes: u64,
    /// Number of its samples whose bytes were verified.
    pub(crate) verified: u64,
    /// Given back when the training loop asks for the next batch, unless another batch holds the same part.
    pub(crate) held: Vec<HeldBytes>,
}

/// Receives the finished batch, or its error. The channel closes if every task that could finish the batch has ended,
/// so that nobody waits for it forever.
pub(crate) type BatchReceiver = Receiver<Result<FinishedBatch>>;

/// Sends the finished batch, or its error.
pub(crate) struct BatchSender {
    sender: Sender<Result<FinishedBatch>>,
    /// Where batches are unordered: receives the number of each batch whose channel has a value, or is closed.
    bell: Option<Sender<u64>>,
    number: u64,
    has_rung: AtomicBool,
}

/// The channel of the batch with this number.
pub(crate) fn batch_channel(number: u64, bell: Option<&Sender<u64>>) -> (BatchSender, BatchReceiver) {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    (BatchSender { sender, bell: bell.cloned(), number, has_rung: AtomicBool::new(false) }, receiver)
}

impl BatchSender {
    /// Sends the batch or its error. Only the first call counts.
    pub(crate) fn send(&self, finished: Result<FinishedBatch>) {
        // The channel is full after the first call, and closed if nobody waits for the batch.
        if self.sender.try_send(finished).is_ok() {
            self.ring();
        }
    }

    fn ring(&self) {
        if let Some(bell) = &self.bell
            && !self.has_rung.swap(true, Ordering::Relaxed)
        {
            // The bell is gone where the training loop wants no more batches.
            let _ = bell.send(self.number);
        }
    }
}

impl Drop for BatchSender {
    fn drop(&mut self) {
        self.ring();
    }
}
