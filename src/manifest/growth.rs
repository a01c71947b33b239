//! What a manifest holds, while it grows and when it is whole.
//!
//! One thread adds chunks, any number read those that are there, without a lock. Who needs what only the end of the
//! listing tells waits for it.

use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::chunk::{CLASSES, WRITTEN_HERE};
use super::digest::ObjectsDigest;
use super::table::{ChunkTable, Labels, LabelsWriter};
use super::{Digest, LeftOut};
use crate::{Error, Result};

/// How often someone who waits looks whether that was called off.
const LOOK: Duration = Duration::from_millis(20);

/// How many samples a listing has, as far as it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// So many, and perhaps more; that is all there will ever be of a listing that failed.
    AtLeast(u64),
    /// So many.
    All(u64),
}

#[derive(Debug)]
pub(super) struct Growth {
    /// Shared by manifests that number the same folders otherwise.
    pub(super) objects: Arc<ChunkTable>,
    end: OnceLock<ListingEnd>,
    /// Told of each chunk and of the end.
    turn: (Mutex<()>, Condvar),
}

/// What is known once the listing has ended.
#[derive(Debug)]
pub(super) struct ListingEnd {
    pub(super) labels: Labels,
    pub(super) left_out: LeftOut,
    /// Objects and bytes by class, in the order of [`CLASSES`].
    pub(super) classes: [(u64, u64); CLASSES.len()],
    pub(super) digest: Digest,
    /// Why it is not whole.
    pub(super) failed: Option<Error>,
}

impl Growth {
    /// Without an object.
    pub(super) fn new() -> Self {
        Self { objects: Arc::new(ChunkTable::empty()), end: OnceLock::new(), turn: Default::default() }
    }

    /// Whole from the start.
    pub(super) fn whole(objects: Arc<ChunkTable>, end: ListingEnd) -> Self {
        Self { objects, end: end.into(), turn: Default::default() }
    }

    /// Adds a chunk, one thread at a time.
    pub(super) fn push(&self, chunk: Box<[u8]>) {
        self.objects.push(chunk).expect(WRITTEN_HERE);
        self.tell();
    }

    /// Nothing comes after this; of several ends the first counts.
    pub(super) fn end(&self, end: ListingEnd) {
        let _ = self.end.set(end);
        self.tell();
    }

    /// Ends it with an error alone.
    pub(super) fn fail(&self, error: Error) {
        self.end(ListingEnd {
            labels: LabelsWriter::default().finish(),
            left_out: LeftOut::default(),
            classes: [(0, 0); CLASSES.len()],
            digest: ObjectsDigest::default().finish(),
            failed: Some(error),
        });
    }

    fn tell(&self) {
        // Whoever has looked and not yet gone to sleep holds the lock.
        drop(self.turn.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.turn.1.notify_all();
    }

    /// What the end of the listing tells, if it has ended.
    pub(super) fn ended(&self) -> Option<&ListingEnd> {
        self.end.get()
    }

    /// As [`ended`](Self::ended), waited for.
    pub(super) fn wait(&self) -> &ListingEnd {
        self.end.wait()
    }

    pub(super) fn known(&self) -> Known {
        // First the end: after it nothing is added.
        let whole = self.ended().is_some_and(|end| end.failed.is_none());
        let rows = self.objects.rows();
        if whole { Known::All(rows) } else { Known::AtLeast(rows) }
    }

    /// Waits until more than `samples` are there, or no more come. False where it was called off before.
    pub(super) fn wait_beyond(&self, samples: u64, called_off: impl Fn() -> bool) -> Result<bool> {
        let mut turn = self.turn.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            // As in `known`.
            let end = self.ended();
            if self.objects.rows() > samples {
                return Ok(true);
            }
            if let Some(end) = end {
                return end.failed.clone().map_or(Ok(true), Err);
            }
            if called_off() {
                return Ok(false);
            }
            turn = self.turn.1.wait_timeout(turn, LOOK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
