//! Proved samples on local disk, for later epochs and for other processes of the machine.
//!
//! Samples lie behind one another in *segments*, files that grow up to a 64th of the cache: a file for each of 10^8 small
//! samples would cost an inode each and three system calls a read instead of one. A segment is written by one process at
//! a time and read by all. When there is no room, the oldest segment that no living process uses goes, whole.
//!
//! - **Found** by a hash of bucket, name and generation, in memory (`index.rs`: 20 to 39 bytes a sample and process), which is
//!   read from the segments when a cache is opened. What others write is learnt from the ends of their segments.
//! - **Proved** at every read: the record must name the same object, generation, size and CRC32C, and its bytes must have
//!   that CRC32C, which is the listing's. So whatever happens to the files, what comes of it is a read from the bucket.
//! - **Killed at any point**: records are only ever added, and known once they are whole; a head is one sector. Locks are the
//!   system's, which end with the process that holds them (`folder.rs`). Nothing is synced: after a power cut what didn't get
//!   to the disk doesn't have its CRC.
//! - **Read once**: who reads a sample from the bucket claims it first (`claims.rs`); others wait for it, for a time.
//! - **What isn't kept**: empty objects, objects without a CRC in the listing, those larger than half a segment, and what
//!   comes in faster than the disk takes it.

mod claims;
mod folder;
mod format;
mod index;
mod learn;
mod segment;
mod stats;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;

use crate::suspension::{RETRIAL_INTERVAL, Suspension};
use crate::{Error, ErrorKind, Result, os};
use claims::ClaimTable;
pub(crate) use claims::{ClaimOutcome, ClaimWaits, WaitDecision};
use folder::CacheFolder;
pub(crate) use format::CacheKey;
use format::UNIT;
use index::Index;
pub(crate) use index::RecordLocation;
use segment::{CacheSegment, OpenSegments};
pub(crate) use stats::CacheCounts;
pub use stats::CacheStats;
use writer::WriteQueue;

/// Segments that a cache is divided into, up to 256 GiB: so much of it goes at once.
const SEGMENTS: u64 = 64;

/// The largest segment in bytes, which is walked along within seconds when whoever wrote it was killed: 1 TiB are 256 files.
const MOST_SEGMENT: u64 = 4 << 30;

/// Segments that may be open however few files the process may have.
const LEAST_OPEN: usize = 4;

/// The smallest cache in bytes: less holds no sample worth it.
const LEAST: u64 = 1 << 20;

/// Threads that read: what keeps a disk busy that does many things at once, and few where memory is what is read.
const READERS: Range<usize> = 4..32;

/// How long a segment that somebody has locked is waited for: about what a read from the bucket takes. Who looks whether
/// it can be gone on with reads it once.
const MOMENT: Duration = Duration::from_millis(100);
/// How often is looked meanwhile.
const LOOK: Duration = Duration::from_millis(1);

/// A cache of samples in a folder on local disk.
///
/// Give it to [`DataLoaderBuilder::cache`](crate::DataLoaderBuilder::cache). Clones, loaders and processes of one machine
/// share it. Samples are kept by bucket, name and generation, so that any number of data sets fit into one cache, and one
/// that is overwritten is read anew; the bytes are proved against the listing whenever they are read.
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use dataflux::{Cache, DataLoader, DatafluxDataset};
/// # let store = MemoryStore::new();
/// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n:03}.txt"), "sample"));
/// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
/// # let folder = std::env::temp_dir().join(format!("dataflux-doc-{}", std::process::id()));
///
/// let cache = Cache::open(&folder, 1 << 30)?;
/// let loader = DataLoader::builder(dataset).batch_size(32).shuffle(42).cache(cache).build()?;
/// for epoch in 0..2 {
///     let mut batches = loader.epoch(epoch)?;
///     batches.by_ref().try_for_each(|batch| batch.map(drop))?;
///     let cache = batches.stats().cache;
///     assert_eq!((cache.hits, cache.misses), if epoch == 0 { (0, 100) } else { (100, 0) });
/// }
/// # drop(loader);
/// # std::fs::remove_dir_all(folder).unwrap();
/// # Ok::<(), dataflux::Error>(())
/// ```
///
/// When it is full, samples go that no living process has used: a data set larger than the cache keeps the part in it that
/// was there first, since throwing out what every epoch comes back to would only wear the disk. When the disk is full, or
/// fails, one warning says so and the bucket is read instead; every five minutes the disk is tried again.
///
/// Every open cache holds an index in memory, of 20 to 39 bytes a sample in it, and has files open: a 64th of its bytes
/// each, or 4 GiB, and at most an eighth of those that the process may have open (`ulimit -n`). Beyond these, files are
/// opened and closed as they are read from, and what this process uses may go when another one wants room.
#[derive(Clone)]
pub struct Cache(Arc<CacheHandle>);

type CacheJob = Box<dyn FnOnce() + Send>;

struct CacheHandle {
    shared: Arc<CacheShared>,
    jobs: Sender<CacheJob>,
}

/// What its threads share.
#[derive(Debug)]
struct CacheShared {
    folder: CacheFolder,
    max_bytes: u64,
    segment_bytes: u64,
    index: Index,
    segments: RwLock<HashMap<u32, Arc<CacheSegment>>>,
    open: OpenSegments,
    /// When the folder had last changed when it was last looked through.
    looked: Mutex<Option<SystemTime>>,
    /// When it was last learnt what others have written.
    learnt: Mutex<Option<Instant>>,
    claims: ClaimTable,
    queue: Mutex<WriteQueue>,
    /// Told of what is to be written, and of what has been.
    turn: Condvar,
    /// Counts epochs, by which segments are told that are no longer used.
    epochs: AtomicU64,
    /// There is no room, and nothing that may go.
    full: AtomicBool,
    /// Suspended after a write failed: what is there is still read.
    writing: Suspension,
    /// Suspended after a read failed, and writing with it.
    reading: Suspension,
    #[cfg(test)]
    fault: Mutex<Option<io::Error>>,
}

/// A sample to read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CacheRequest<'a> {
    pub(crate) key: CacheKey<'a>,
    pub(crate) place: RecordLocation,
    pub(crate) size: u64,
    pub(crate) crc32c: u32,
}

impl CacheRequest<'_> {
    /// Bytes that reading it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.key.record_bytes(self.size as u32) as usize
    }
}

impl Cache {
    /// Opens a cache of at most `max_bytes` bytes, and makes the folder if it isn't there; readable for this user alone. It has
    /// to be on a local disk, and holds nothing but the cache. Processes that share it better all say the same of
    /// `max_bytes`; a claims table of 4 MiB comes on top. Objects of more than a 128th of it, or 2 GiB, are not kept.
    ///
    /// Reads the index of what is there, 12 bytes a sample, and of segments that nobody has closed the records.
    ///
    /// # Errors
    /// The folder holds something else, or a cache of a newer version; it can't be written to; `max_bytes` is less than 1
    /// MiB; a thread that the system refuses.
    pub fn open(folder: impl AsRef<Path>, max_bytes: u64) -> Result<Self> {
        let folder = folder.as_ref();
        if max_bytes < LEAST {
            return Err(Error::new(ErrorKind::Config, "a cache of so few bytes is of no use")
                .object(folder.display())
                .mismatch(format_args!("at least {LEAST} bytes"), max_bytes)
                .hint("give it the bytes that the disk can spare, such as 100 << 30"));
        }
        // At the usual 1,024 files these are 128, or 512 GiB that need no opening.
        let most_open = os::file_shares().cached_segments.max(LEAST_OPEN);
        Self::of_segments(folder, max_bytes, (max_bytes / SEGMENTS).min(MOST_SEGMENT), most_open)
    }

    fn of_segments(folder: &Path, max_bytes: u64, segment_bytes: u64, most_open: usize) -> Result<Self> {
        let shared = Arc::new(CacheShared {
            folder: CacheFolder::open(folder)?,
            max_bytes,
            segment_bytes,
            index: Index::default(),
            segments: RwLock::default(),
            open: OpenSegments::new(most_open),
            looked: Mutex::default(),
            learnt: Mutex::default(),
            claims: ClaimTable::default(),
            queue: Mutex::default(),
            turn: Condvar::new(),
            epochs: AtomicU64::new(1),
            full: AtomicBool::new(false),
            writing: Suspension::new(),
            reading: Suspension::new(),
            #[cfg(test)]
            fault: Mutex::default(),
        });
        shared.refresh();
        let (jobs, work) = crossbeam_channel::unbounded::<CacheJob>();
        let readers = std::thread::available_parallelism().map_or(READERS.start, |cores| 2 * cores.get());
        let refused = |error: io::Error| {
            Error::new(ErrorKind::Io, "a thread of the cache could not be started")
                .object(folder.display())
                .hint("raise the limit on threads (ulimit -u)")
                .with_source(error)
        };
        // From here on, dropping it ends the threads that there are.
        let cache = Self(Arc::new(CacheHandle { shared: Arc::clone(&shared), jobs }));
        let thread = || std::thread::Builder::new().name("dataflux-cache".into());
        for _ in 0..readers.clamp(READERS.start, READERS.end) {
            let work = work.clone();
            // A job may run what a user wrote, which may panic: whoever waits for it sees that, and the thread goes on.
            let run = |job: CacheJob| drop(std::panic::catch_unwind(AssertUnwindSafe(job)));
            thread().spawn(move || work.into_iter().for_each(run)).map_err(refused)?;
        }
        thread().spawn(move || writer::run(&shared)).map_err(refused)?;
        let samples = cache.0.shared.index.len();
        tracing::debug!(folder = %folder.display(), samples, "a cache is open");
        Ok(cache)
    }

    /// Samples in the cache, as far as this process knows.
    pub fn samples(&self) -> u64 {
        self.0.shared.index.len()
    }

    /// Whether an object of this size is kept at all.
    pub(crate) fn keeps(&self, size: u64) -> bool {
        size > 0 && size <= self.0.shared.segment_bytes / 2
    }

    /// An epoch begins.
    pub(crate) fn begin_epoch(&self) {
        self.0.shared.epochs.fetch_add(1, Ordering::Relaxed);
        self.0.shared.full.store(false, Ordering::Relaxed);
    }

    /// Learns what others have written.
    pub(crate) fn refresh(&self) {
        self.0.shared.refresh();
    }

    /// As [`refresh`](Self::refresh), unless somebody has just done it, or is at it.
    pub(crate) fn refresh_after(&self, age: Duration) {
        self.0.shared.refresh_after(age);
    }

    /// Where samples are, by the hashes of their keys.
    pub(crate) fn find(&self, hashes: impl IntoIterator<Item = u64>) -> Vec<Option<RecordLocation>> {
        if self.0.shared.is_off() {
            return hashes.into_iter().map(|_| None).collect();
        }
        hashes.into_iter().map(|hash| self.0.shared.index.get(hash)).collect()
    }

    /// Reads the records of samples, one behind the other, into as many bytes as they have, and returns where among these
    /// the bytes of each sample are, proved; `None` for what turned out not to be there. Blocks.
    pub(crate) fn read(&self, wanted: &[CacheRequest<'_>], into: &mut [u8]) -> Vec<Option<Range<usize>>> {
        let mut end = 0;
        let each = wanted.iter().map(|wanted| {
            let start = end;
            end += wanted.bytes();
            let range = self.0.shared.read(wanted, &mut into[start..end])?;
            Some(range.start + start..range.end + start)
        });
        each.collect()
    }

    /// Claims samples that are about to be read from the bucket, by the hashes of their keys. Each that is this process's
    /// now is to be [released](Self::release). Waits for others for two seconds at most.
    pub(crate) fn claim(&self, hashes: &[u64]) -> Vec<ClaimOutcome> {
        let shared = &self.0.shared;
        let claimed = if shared.is_read_only() { Ok(Vec::new()) } else { shared.claims.claim(&shared.folder, hashes) };
        let mut claimed = claimed.unwrap_or_else(|error| {
            shared.failed_to_write(&error);
            Vec::new()
        });
        claimed.resize(hashes.len(), ClaimOutcome::Unmarked);
        claimed
    }

    /// Gives up a claim, once all that was put in before is there for others to see.
    pub(crate) fn release(&self, hash: u64) {
        self.0.shared.queue().release(hash);
        self.0.shared.turn.notify_all();
    }

    /// What changes whenever `who` has written something or given up claims. Asks the file system.
    pub(crate) fn mark(&self, who: u64) -> Option<SystemTime> {
        self.0.shared.folder.mark(who)
    }

    /// Takes no heed for a minute of what `who` claims, who was waited for in vain.
    pub(crate) fn pass_by(&self, who: u64) {
        self.0.shared.claims.pass_by(who);
    }

    /// Puts in a sample whose bytes have that CRC, unless it is there. Copies it, and returns; it is written behind, or left
    /// out where the disk doesn't keep up.
    pub(crate) fn put(&self, key: &CacheKey<'_>, crc32c: u32, bytes: &[u8], counts: &Arc<CacheCounts>) {
        let shared = &self.0.shared;
        if shared.is_read_only() || shared.full.load(Ordering::Relaxed) || !self.keeps(bytes.len() as u64) {
            return;
        }
        let size = key.record_bytes(bytes.len() as u32) as usize;
        if shared.index.get(key.hash()).is_some() || !shared.queue().reserve(size) {
            return;
        }
        // Copied by itself: whoever else puts something in, or gives up a claim, has not to wait for that.
        let mut record = Vec::with_capacity(size);
        key.record(bytes, crc32c, &mut record);
        shared.queue().push(key.hash(), record, counts);
        shared.turn.notify_all();
    }

    /// Waits until what was put in so far is written, or `patience` is over.
    pub(crate) fn flush(&self, patience: Duration) {
        writer::flush(&self.0.shared, patience);
    }

    /// Runs `job` on a thread of the cache.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        // They live as long as this does.
        let _ = self.0.jobs.send(Box::new(job));
    }
}

impl std::fmt::Debug for Cache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let CacheShared { folder, max_bytes, .. } = &*self.0.shared;
        f.debug_struct("Cache").field("folder", &folder.path()).field("max_bytes", max_bytes).finish_non_exhaustive()
    }
}

impl Drop for CacheHandle {
    fn drop(&mut self) {
        self.shared.queue().close();
        self.shared.turn.notify_all();
    }
}

impl CacheShared {
    fn segments(&self) -> RwLockReadGuard<'_, HashMap<u32, Arc<CacheSegment>>> {
        self.segments.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn segments_mut(&self) -> RwLockWriteGuard<'_, HashMap<u32, Arc<CacheSegment>>> {
        self.segments.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, WriteQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        self.epochs.load(Ordering::Relaxed)
    }

    fn is_off(&self) -> bool {
        !self.reading.may_try(Instant::now())
    }

    fn is_read_only(&self) -> bool {
        !self.writing.may_try(Instant::now())
    }

    /// Writes nothing for some minutes; says so once.
    fn suspend_writing(&self, error: &io::Error) {
        self.writing.suspend(Instant::now());
        if self.writing.is_first_report() {
            tracing::warn!(
                folder = %self.folder.path().display(),
                %error,
                "the cache can't be written to, which is tried again every {} minutes; until then what is not in it is \
                 read from the bucket: make room on its disk, or start again with fewer bytes or another folder",
                RETRIAL_INTERVAL.as_secs() / 60
            );
        } else {
            tracing::debug!(folder = %self.folder.path().display(), %error, "the cache still can't be written to");
        }
    }

    /// Notes that something was written.
    fn wrote(&self) {
        if self.writing.restore() {
            tracing::info!(folder = %self.folder.path().display(), "the cache is written to again");
        }
    }

    /// Goes on after what could not be written: with writing, if that may be otherwise the next time.
    fn failed_to_write(&self, error: &io::Error) {
        if is_passing(error) {
            tracing::debug!(folder = %self.folder.path().display(), %error, "something was left out of the cache");
        } else {
            self.suspend_writing(error);
        }
    }

    /// Uses nothing of the cache for some minutes; says so if nothing was said.
    fn turn_off(&self, error: &io::Error) {
        let now = Instant::now();
        self.reading.suspend(now);
        self.writing.suspend(now);
        if self.writing.is_first_report() {
            tracing::warn!(
                folder = %self.folder.path().display(),
                %error,
                "the cache can't be read, which is tried again every {} minutes; until then every sample is read from \
                 the bucket: look after its disk, or start again with another folder",
                RETRIAL_INTERVAL.as_secs() / 60
            );
        } else {
            tracing::debug!(folder = %self.folder.path().display(), %error, "the cache can't be read");
        }
    }

    /// The file of a segment, waited for while somebody looks whether it can be gone on with. Where that takes longer, as of a
    /// large segment of small samples, only the first who come wait.
    fn file(&self, segment: &Arc<CacheSegment>) -> io::Result<Arc<File>> {
        let until = Instant::now() + MOMENT;
        loop {
            let file = self.open.file(segment, self.now());
            let is_locked = file.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
            if !is_locked || segment.in_vain.load(Ordering::Relaxed) {
                segment.in_vain.store(is_locked, Ordering::Relaxed);
                return file;
            }
            if Instant::now() >= until {
                segment.in_vain.store(true, Ordering::Relaxed);
                return file;
            }
            std::thread::sleep(LOOK);
        }
    }

    fn read(&self, wanted: &CacheRequest<'_>, into: &mut [u8]) -> Option<Range<usize>> {
        let segment = self.segments().get(&wanted.place.segment).cloned()?;
        let at = u64::from(wanted.place.at) * UNIT;
        let read = self.file(&segment).and_then(|file| file.read_exact_at(into, at));
        let proved = match read {
            Ok(()) => {
                if self.reading.restore() {
                    tracing::info!(folder = %self.folder.path().display(), "the cache is read again");
                }
                proved(wanted, into)
            }
            Err(error) => {
                if is_passing(&error) {
                    return None;
                }
                if !is_gone(&error) {
                    self.turn_off(&error);
                }
                None
            }
        };
        if proved.is_none() {
            // Whoever reads it from the bucket puts it in again.
            self.index.remove(wanted.key.hash(), wanted.place);
        }
        proved
    }
}

/// Whether it is a matter of the moment: no room for another open file, or somebody else has the lock.
fn is_passing(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE))
}

/// Whether a file, or the end of it, isn't there any more.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof)
}

/// Where in a record the bytes of the object are, if they are those that are wanted.
fn proved(wanted: &CacheRequest<'_>, record: &[u8]) -> Option<Range<usize>> {
    let mut before = Vec::with_capacity(format::MOST_BEFORE);
    wanted.key.begin_record(wanted.size as u32, wanted.crc32c, &mut before);
    let range = before.len()..before.len() + wanted.size as usize;
    let right = record.starts_with(&before) && crc32c::crc32c(record.get(range.clone())?) == wanted.crc32c;
    right.then_some(range)
}
