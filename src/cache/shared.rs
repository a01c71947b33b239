//! The state that the threads of a cache share, reads of single samples, and suspension after failures.

use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime};

use super::claims::ClaimTable;
use super::folder::CacheFolder;
use super::format::{self, CacheKey, UNIT};
use super::index::{Index, RecordLocation};
use super::segment::{CacheSegment, OpenSegments};
use super::write_queue::WriteQueue;
use crate::Result;
use crate::os::LockedFile;
use crate::suspension::{RETRIAL_INTERVAL, Suspension};

/// How long a read waits for a segment that another process has locked: about what a read from the bucket takes. Such a
/// lock is held while the process scans a segment to continue it.
const SEGMENT_LOCK_WAIT: Duration = Duration::from_millis(100);
/// Time between two tries to open such a segment.
const SEGMENT_POLL_INTERVAL: Duration = Duration::from_millis(1);

/// What the threads of a cache share.
#[derive(Debug)]
pub(super) struct CacheShared {
    pub(super) folder: CacheFolder,
    pub(super) max_bytes: u64,
    pub(super) segment_bytes: u64,
    pub(super) index: Index,
    pub(super) segments: RwLock<HashMap<u32, Arc<CacheSegment>>>,
    pub(super) open: OpenSegments,
    /// The folder's time of change when it was last read; `None` if the folder is to be read again.
    pub(super) folder_changed: Mutex<Option<SystemTime>>,
    /// When this process last learned what others have written.
    pub(super) refreshed: Mutex<Option<Instant>>,
    pub(super) claims: ClaimTable,
    pub(super) queue: Mutex<WriteQueue>,
    /// Notified when the queue gets work, and when work is done.
    pub(super) queue_changed: Condvar,
    /// Number of the current epoch, by which unused segments are recognized.
    pub(super) epochs: AtomicU64,
    /// Whether there is no room and nothing that may be evicted.
    pub(super) is_full: AtomicBool,
    /// Suspended after a failed write. The cache is still read.
    pub(super) writing: Suspension,
    /// Suspended after a failed read, together with writing.
    pub(super) reading: Suspension,
    #[cfg(test)]
    pub(super) fault: Mutex<Option<io::Error>>,
}

/// A read of one sample from the cache.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheRequest<'a> {
    pub(crate) key: CacheKey<'a>,
    pub(crate) location: RecordLocation,
    pub(crate) size: u64,
    pub(crate) crc32c: u32,
}

impl CacheRequest<'_> {
    /// Bytes of the record.
    pub(crate) fn bytes(&self) -> usize {
        self.key.record_bytes(self.size as u32) as usize
    }
}

impl CacheShared {
    /// Opens the folder. The index is empty until the first [`refresh`](Self::refresh).
    pub(super) fn open(folder: &Path, max_bytes: u64, segment_bytes: u64, max_open: usize) -> Result<Self> {
        Ok(Self {
            folder: CacheFolder::open(folder)?,
            max_bytes,
            segment_bytes,
            index: Index::default(),
            segments: RwLock::default(),
            open: OpenSegments::new(max_open),
            folder_changed: Mutex::default(),
            refreshed: Mutex::default(),
            claims: ClaimTable::default(),
            queue: Mutex::default(),
            queue_changed: Condvar::new(),
            epochs: AtomicU64::new(1),
            is_full: AtomicBool::new(false),
            writing: Suspension::new(),
            reading: Suspension::new(),
            #[cfg(test)]
            fault: Mutex::default(),
        })
    }

    pub(super) fn segments(&self) -> RwLockReadGuard<'_, HashMap<u32, Arc<CacheSegment>>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn segments_mut(&self) -> RwLockWriteGuard<'_, HashMap<u32, Arc<CacheSegment>>> {
        self.segments.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn current_epoch(&self) -> u64 {
        self.epochs.load(Ordering::Relaxed)
    }

    pub(super) fn is_off(&self) -> bool {
        !self.reading.may_try(Instant::now())
    }

    pub(super) fn is_read_only(&self) -> bool {
        !self.writing.may_try(Instant::now())
    }

    /// Suspends writing for some minutes. The first time, a warning is logged.
    pub(super) fn suspend_writing(&self, error: &io::Error) {
        self.writing.suspend(Instant::now());
        let advice = "until then what is not in it is read from the bucket: make room on its disk, or start again with \
                      fewer bytes or another folder";
        self.report(error, "can't be written to", advice);
    }

    /// Records a successful write.
    pub(super) fn note_written(&self) {
        if self.writing.restore() {
            tracing::info!(folder = %self.folder.path().display(), "the cache is written to again");
        }
    }

    /// Handles a failed write: suspends writing, unless the next write may succeed.
    pub(super) fn failed_to_write(&self, error: &io::Error) {
        if is_transient(error) {
            tracing::debug!(folder = %self.folder.path().display(), %error, "something was left out of the cache");
        } else {
            self.suspend_writing(error);
        }
    }

    /// Suspends the use of the cache for some minutes. A warning is logged, unless one was logged before.
    pub(super) fn turn_off(&self, error: &io::Error) {
        let now = Instant::now();
        self.reading.suspend(now);
        self.writing.suspend(now);
        let advice = "until then every sample is read from the bucket: look after its disk, or start again with another \
                      folder";
        self.report(error, "can't be read", advice);
    }

    fn report(&self, error: &io::Error, fault: &str, advice: &str) {
        let (folder, minutes) = (self.folder.path().display(), RETRIAL_INTERVAL.as_secs() / 60);
        if self.writing.is_first_report() {
            tracing::warn!(%folder, %error, "the cache {fault}, which is tried again every {minutes} minutes; {advice}");
        } else {
            tracing::debug!(%folder, %error, "the cache still {fault}");
        }
    }

    /// Opens a segment. If another process has it locked, in order to scan it and continue it, this waits for a moment.
    /// For a segment of many small samples the scan takes longer, so after one wait in vain no other read waits until
    /// the segment was opened again.
    fn file(&self, segment: &Arc<CacheSegment>) -> io::Result<Arc<LockedFile>> {
        let deadline = Instant::now() + SEGMENT_LOCK_WAIT;
        loop {
            let file = self.open.file(segment, self.current_epoch());
            let is_locked = file.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            let may_wait = is_locked && !segment.waited_in_vain.load(Ordering::Relaxed);
            if !may_wait || Instant::now() >= deadline {
                segment.waited_in_vain.store(is_locked, Ordering::Relaxed);
                return file;
            }
            std::thread::sleep(SEGMENT_POLL_INTERVAL);
        }
    }

    /// Reads and proves one record; `None` if the sample turned out not to be there.
    pub(super) fn read(&self, request: &CacheRequest<'_>, into: &mut [u8]) -> Option<Range<usize>> {
        let segment = self.segments().get(&request.location.segment).cloned()?;
        let offset = u64::from(request.location.at_unit) * UNIT;
        let read = self.file(&segment).and_then(|file| file.read_exact_at(into, offset));
        let proved = match read {
            Ok(()) => {
                if self.reading.restore() {
                    tracing::info!(folder = %self.folder.path().display(), "the cache is read again");
                }
                proved(request, into)
            }
            Err(error) => {
                if is_transient(&error) {
                    return None;
                }
                if !is_gone(&error) {
                    self.turn_off(&error);
                }
                None
            }
        };
        if proved.is_none() {
            // The process that reads it from the bucket adds it again.
            self.index.remove(request.key.hash(), request.location);
        }
        proved
    }
}

/// Whether the next try may succeed: too many files are open, or another process holds a lock.
pub(super) fn is_transient(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Whether a file, or the end of it, doesn't exist any more.
pub(super) fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
}

/// Where in a record the object is, if the record is the requested one and its bytes are right.
fn proved(request: &CacheRequest<'_>, record: &[u8]) -> Option<Range<usize>> {
    let mut head = Vec::with_capacity(format::MAX_RECORD_HEAD);
    request.key.write_record_head(request.size as u32, request.crc32c, &mut head);
    let range = head.len()..head.len() + request.size as usize;
    let is_right = record.starts_with(&head) && crc32c::crc32c(record.get(range.clone())?) == request.crc32c;
    is_right.then_some(range)
}
