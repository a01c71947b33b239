//! The queue of samples that wait to be written.

use std::mem;
use std::sync::Arc;

use super::stats::CacheCounts;

/// Bytes that may wait to be written, unless one sample alone has more; as many again are being written. This is some
/// hundredths of a second for the slowest of disks that are worth it, and little compared with a memory budget.
const MAX_WAITING_BYTES: usize = 16 << 20;

/// Samples to be written, and claims to be released.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    batch: WriteBatch,
    /// Bytes of the records in the batch, and of those that are being copied for it.
    waiting_bytes: usize,
    /// Number of batches that were taken.
    taken: u64,
    /// Number of the last batch that was written.
    done: u64,
    is_closed: bool,
}

/// Samples that are written together.
#[derive(Debug, Default)]
pub(super) struct WriteBatch {
    pub(super) records: Vec<QueuedRecord>,
    /// Claims to be released once the records are written.
    pub(super) released: Vec<u64>,
}

#[derive(Debug)]
pub(super) struct QueuedRecord {
    pub(super) hash: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) counts: Arc<CacheCounts>,
}

impl WriteQueue {
    /// Reserves room for a record, which the caller must then push. Returns whether there was room.
    pub(super) fn reserve(&mut self, bytes: usize) -> bool {
        let has_room = self.waiting_bytes == 0 || self.waiting_bytes + bytes <= MAX_WAITING_BYTES;
        self.waiting_bytes += if has_room { bytes } else { 0 };
        has_room
    }

    /// Adds a record for which room was reserved.
    pub(super) fn push(&mut self, hash: u64, bytes: Vec<u8>, counts: &Arc<CacheCounts>) {
        self.batch.records.push(QueuedRecord { hash, bytes, counts: Arc::clone(counts) });
    }

    /// Takes everything in the queue, with the number of this batch.
    pub(super) fn take(&mut self) -> (WriteBatch, u64) {
        let batch = mem::take(&mut self.batch);
        self.waiting_bytes -= batch.records.iter().map(|record| record.bytes.len()).sum::<usize>();
        self.taken += 1;
        (batch, self.taken)
    }

    pub(super) fn release(&mut self, hash: u64) {
        self.batch.released.push(hash);
    }

    pub(super) fn close(&mut self) {
        self.is_closed = true;
    }

    pub(super) fn is_closed(&self) -> bool {
        self.is_closed
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batch.is_empty()
    }

    /// Number of the batch that has everything that is in the queue now.
    pub(super) fn last_number(&self) -> u64 {
        self.taken + u64::from(!self.is_empty())
    }

    /// Records that a batch was written.
    pub(super) fn finish(&mut self, number: u64) {
        self.done = number;
    }

    /// Number of the last batch that was written.
    pub(super) fn done(&self) -> u64 {
        self.done
    }
}

impl WriteBatch {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.released.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_bytes_include_records_that_are_being_copied() {
        let mut queue = WriteQueue::default();
        let half = MAX_WAITING_BYTES / 2;
        assert!(queue.reserve(half) && queue.reserve(half));
        // Neither record is in the queue yet, but both count.
        assert!(!queue.reserve(1));
        queue.push(1, vec![0; half], &Arc::default());
        let (batch, number) = queue.take();
        assert_eq!((batch.records.len(), number), (1, 1));
        assert!(queue.reserve(half) && !queue.reserve(1));
        for hash in [2, 3] {
            queue.push(hash, vec![0; half], &Arc::default());
        }
        assert_eq!(queue.take().0.records.len(), 2);
        // A record larger than the limit is queued alone.
        assert!(queue.reserve(2 * MAX_WAITING_BYTES) && !queue.reserve(1));
    }
}
