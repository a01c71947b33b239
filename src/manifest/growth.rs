//! What a manifest holds, while its listing runs and after its end.
//!
//! One thread adds chunks, and any number of threads read the chunks that are there, without a lock. Readers that need
//! what is only known at the end of the listing wait for that.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::chunk::WRITTEN_HERE;
use super::table::{ChunkTable, LabelTexts, LabelsWriter};
use super::{ClassTotal, Digest, LeftOut};
use crate::lock::lock;
use crate::store::StorageClass;
use crate::{Error, Result};

/// How often waiting threads check whether their wait was cancelled.
const CANCEL_INTERVAL: Duration = Duration::from_millis(20);

/// How many samples of a listing are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownSamples {
    /// This many, and the listing may find more. A listing that failed stays at this.
    AtLeast(u64),
    /// Exactly this many.
    All(u64),
}

#[derive(Debug)]
pub(super) struct Growth {
    /// Shared by manifests of the same objects with other labels.
    pub(super) objects: Arc<ChunkTable>,
    end: OnceLock<ListingEnd>,
    /// Held by threads between their check of `objects` and `end` and their wait for `changed`.
    checking: Mutex<()>,
    /// Notified of each chunk and of the end.
    changed: Condvar,
}

/// What is known when the listing has ended.
#[derive(Debug)]
pub(super) struct ListingEnd {
    pub(super) labels: LabelTexts,
    pub(super) left_out: LeftOut,
    pub(super) totals: ClassTotals,
    pub(super) digest: Digest,
    /// Why the manifest is incomplete, if so.
    pub(super) failed: Option<Error>,
}

/// Objects and bytes of each storage class, in the order of [`StorageClass::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClassTotals([ClassTotal; StorageClass::ALL.len()]);

impl Default for ClassTotals {
    fn default() -> Self {
        Self(StorageClass::ALL.map(|storage_class| ClassTotal { storage_class, objects: 0, bytes: 0 }))
    }
}

impl ClassTotals {
    pub(super) fn add(&mut self, class: StorageClass, bytes: u64) {
        let total = &mut self.0[class as usize];
        total.objects += 1;
        total.bytes = total.bytes.saturating_add(bytes);
    }

    /// Adds the totals of `other`.
    pub(super) fn merge(&mut self, other: &Self) {
        for (total, more) in self.0.iter_mut().zip(other.0) {
            total.objects += more.objects;
            total.bytes = total.bytes.saturating_add(more.bytes);
        }
    }

    /// The totals of all classes, also of those without objects.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &ClassTotal> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut ClassTotal> {
        self.0.iter_mut()
    }
}

impl Growth {
    /// A running listing without an object yet.
    pub(super) fn new() -> Self {
        Self {
            objects: Arc::new(ChunkTable::empty()),
            end: OnceLock::new(),
            checking: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// A listing that has ended.
    pub(super) fn whole(objects: Arc<ChunkTable>, end: ListingEnd) -> Self {
        Self { objects, end: end.into(), ..Self::new() }
    }

    /// Adds a chunk. Only one thread may do so at a time.
    pub(super) fn push(&self, chunk: Box<[u8]>) {
        self.objects.push(chunk).expect(WRITTEN_HERE);
        self.notify();
    }

    /// Ends the listing. No chunk may be added after this. If this is called repeatedly, the first end counts.
    pub(super) fn end(&self, end: ListingEnd) {
        let _ = self.end.set(end);
        self.notify();
    }

    /// Ends the listing with nothing but an error.
    pub(super) fn fail(&self, error: Error) {
        self.end(ListingEnd {
            labels: LabelsWriter::default().finish(),
            left_out: LeftOut::default(),
            totals: ClassTotals::default(),
            digest: Digest::of_bytes([0; 32]),
            failed: Some(error),
        });
    }

    fn notify(&self) {
        // A thread that has checked but doesn't wait yet holds the lock, so it can't miss the notification.
        drop(lock(&self.checking));
        self.changed.notify_all();
    }

    /// What is known at the end of the listing, if it has ended.
    pub(super) fn ended(&self) -> Option<&ListingEnd> {
        self.end.get()
    }

    /// Waits for the end of the listing.
    pub(super) fn wait(&self) -> &ListingEnd {
        self.end.wait()
    }

    pub(super) fn known(&self) -> KnownSamples {
        // The end is read first, since nothing is added after it.
        let is_whole = self.ended().is_some_and(|end| end.failed.is_none());
        let rows = self.objects.rows();
        if is_whole { KnownSamples::All(rows) } else { KnownSamples::AtLeast(rows) }
    }

    /// As [`Manifest::wait_beyond`](super::Manifest::wait_beyond).
    pub(super) fn wait_beyond(&self, samples: u64, is_cancelled: impl Fn() -> bool) -> Result<bool> {
        let mut checking = lock(&self.checking);
        loop {
            // The end is read first, as in `known`.
            let end = self.ended();
            if self.objects.rows() > samples {
                return Ok(true);
            }
            if let Some(end) = end {
                return end.failed.clone().map_or(Ok(true), Err);
            }
            if is_cancelled() {
                return Ok(false);
            }
            let waited = self.changed.wait_timeout(checking, CANCEL_INTERVAL);
            checking = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
