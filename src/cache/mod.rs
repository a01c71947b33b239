//! A cache of samples on local disk, for later epochs and for other processes of the machine.
//!
//! Samples are stored one after another in *segments*, files that grow up to a 64th of the cache. A file for each of
//! 10^8 small samples would cost an inode each, and three system calls a read instead of one. A segment is written by
//! one process at a time and read by all. If there is no room, the oldest segment that no living process uses is
//! removed as a whole.
//!
//! - **Lookup**: by a hash of bucket, name, version, and range in the object, in an index in memory (`index.rs`: 20 to
//!   39 bytes for each sample in each process), which is read from the segments when a cache is opened. What other
//!   processes write is read from the ends of their segments.
//! - **Every read is proved**: the record must name the same object, version, range, size and CRC32C, and its bytes
//!   must have that CRC32C, which is the listing's. So whatever happens to the files, the worst outcome is a read from
//!   the bucket.
//! - **The cache survives SIGKILL**: records are only ever appended, and used only once they are whole; a head is one
//!   sector. Locks are the system's and end with the process that holds them (`folder.rs`). Nothing is synced: after a
//!   power cut, data that didn't get to the disk don't have their CRC.
//! - **Read once**: a process that is about to read a sample from the bucket claims it first (`claims.rs`); others wait
//!   for it, for a time.
//! - **Not cached**: empty objects, objects without a CRC in the listing, objects larger than half a segment, and
//!   whatever comes faster than the disk can write it.

mod claims;
mod folder;
mod format;
mod index;
mod learn;
mod segment;
mod shared;
mod stats;
#[cfg(test)]
mod tests;
mod write_queue;
mod writer;

use std::ops::Range;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use crossbeam_channel::Sender;

pub(crate) use claims::{ClaimOutcome, ClaimWaits, WaitDecision};
pub(crate) use format::CacheKey;
pub(crate) use index::RecordLocation;
pub(crate) use shared::CacheRequest;
use shared::CacheShared;
pub(crate) use stats::CacheCounts;
pub use stats::CacheStats;

use crate::io::spawn_thread;
use crate::lock::lock;
use crate::{Error, ErrorKind, Result, os};

/// How many segments a cache up to 256 GiB is divided into. Eviction removes a whole segment.
const SEGMENTS: u64 = 64;

/// The largest segment in bytes, so that a segment whose writer was killed is scanned within seconds. 1 TiB takes 256
/// files.
const MAX_SEGMENT_BYTES: u64 = 4 << 30;

/// How many segments may be open, however few files the process may have.
const MIN_OPEN_SEGMENTS: usize = 4;

/// The smallest cache in bytes.
const MIN_CACHE_BYTES: u64 = 1 << 20;

/// Number of threads that read: enough to keep a disk busy that serves many reads at once, and few in case the files
/// are in memory.
const READERS: Range<usize> = 4..32;

/// A cache of samples in a folder on local disk.
///
/// Give it to [`DataLoaderBuilder::cache`](crate::DataLoaderBuilder::cache). Clones, loaders and the processes of one
/// machine share it. Samples are stored by bucket, name and version, so that any number of data sets fit into one
/// cache, and overwriting an object invalidates its cached copy. The bytes are proved against the listing at every
/// read.
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
/// When the cache is full, samples are evicted that no living process has used. So of a data set larger than the cache,
/// the part that came first stays: every epoch comes back to all samples, and evicting them would only wear out the
/// disk. If the disk is full or fails, one warning is logged and the bucket is read instead; the disk is tried again
/// every five minutes.
///
/// Every open cache holds an index in memory, of 20 to 39 bytes for each sample in the cache. It also keeps files open:
/// each has a 64th of the cache's bytes, or 4 GiB, and at most an eighth of the files that the process may have open
/// (`ulimit -n`) are used. If there are more, files are opened and closed as they are read, and other processes may
/// evict samples that this process uses.
#[derive(Clone)]
pub struct Cache(Arc<CacheHandle>);

type CacheJob = Box<dyn FnOnce() + Send>;

struct CacheHandle {
    shared: Arc<CacheShared>,
    jobs: Sender<CacheJob>,
}

impl Cache {
    /// Opens a cache of at most `max_bytes` bytes, and creates the folder if it doesn't exist, readable for this user
    /// alone. The folder must be on a local disk, and must hold nothing but the cache. Processes that share it should
    /// all give the same `max_bytes`; a table of claims of 4 MiB comes on top. Objects of more than a 128th of
    /// `max_bytes`, or 2 GiB, are not cached.
    ///
    /// This reads the index, 12 bytes a sample, and scans the segments that have none yet.
    ///
    /// # Errors
    /// The folder holds something else, or a cache of another version; it can't be written to; `max_bytes` is less than
    /// 1 MiB; the system refuses a thread.
    pub fn open(folder: impl AsRef<Path>, max_bytes: u64) -> Result<Self> {
        let folder = folder.as_ref();
        if max_bytes < MIN_CACHE_BYTES {
            return Err(Error::new(ErrorKind::Config, "a cache of so few bytes is of no use")
                .object(folder.display())
                .mismatch(format_args!("at least {MIN_CACHE_BYTES} bytes"), max_bytes)
                .hint("give it the bytes that the disk can spare, such as 100 << 30"));
        }
        // With the usual limit of 1,024 files these are 128, so 512 GiB stay open.
        let max_open = os::file_shares().cached_segments.max(MIN_OPEN_SEGMENTS);
        Self::of_segments(folder, max_bytes, (max_bytes / SEGMENTS).min(MAX_SEGMENT_BYTES), max_open)
    }

    fn of_segments(folder: &Path, max_bytes: u64, segment_bytes: u64, max_open: usize) -> Result<Self> {
        let shared = Arc::new(CacheShared::open(folder, max_bytes, segment_bytes, max_open)?);
        shared.refresh();
        let (jobs, work) = crossbeam_channel::unbounded::<CacheJob>();
        let readers = std::thread::available_parallelism().map_or(READERS.start, |cores| 2 * cores.get());
        // From here on, dropping the cache ends the threads that were started.
        let cache = Self(Arc::new(CacheHandle { shared: Arc::clone(&shared), jobs }));
        for _ in 0..readers.clamp(READERS.start, READERS.end) {
            let work = work.clone();
            // A job may run the user's code, which may panic. Whoever waits for the job sees that, and the thread
            // continues.
            let run = |job: CacheJob| drop(std::panic::catch_unwind(AssertUnwindSafe(job)));
            spawn_thread("dataflux-cache", "a thread of the cache", move || work.into_iter().for_each(run))?;
        }
        spawn_thread("dataflux-cache", "a thread of the cache", move || writer::run(&shared))?;

        let samples = cache.0.shared.index.len();
        tracing::debug!(folder = %folder.display(), samples, "a cache is open");
        Ok(cache)
    }

    /// Number of samples in the cache, as far as this process knows.
    pub fn samples(&self) -> u64 {
        self.0.shared.index.len()
    }

    /// Whether an object of this size is cached at all.
    pub(crate) fn keeps(&self, size: u64) -> bool {
        size > 0 && size <= self.0.shared.segment_bytes / 2
    }

    /// Counts a new epoch.
    pub(crate) fn begin_epoch(&self) {
        self.0.shared.epochs.fetch_add(1, Ordering::Relaxed);
        self.0.shared.is_full.store(false, Ordering::Relaxed);
    }

    /// Learns what other processes have written.
    pub(crate) fn refresh(&self) {
        self.0.shared.refresh();
    }

    /// As [`refresh`](Self::refresh), unless that was done less than `age` ago, or another thread is doing it.
    pub(crate) fn refresh_after(&self, age: Duration) {
        self.0.shared.refresh_after(age);
    }

    /// Locations of samples by the hashes of their keys.
    pub(crate) fn find(&self, hashes: impl IntoIterator<Item = u64>) -> Vec<Option<RecordLocation>> {
        if self.0.shared.is_off() {
            return hashes.into_iter().map(|_| None).collect();
        }
        hashes.into_iter().map(|hash| self.0.shared.index.get(hash)).collect()
    }

    /// Reads the records of samples, one after another, into a buffer of their total length. Returns where in the
    /// buffer each object is, proved; `None` for samples that turned out not to be there. Blocks.
    pub(crate) fn read(&self, requests: &[CacheRequest<'_>], into: &mut [u8]) -> Vec<Option<Range<usize>>> {
        let mut end = 0;
        let each = requests.iter().map(|request| {
            let start = end;
            end += request.bytes();
            let range = self.0.shared.read(request, &mut into[start..end])?;
            Some(range.start + start..range.end + start)
        });
        each.collect()
    }

    /// Claims samples that are about to be read from the bucket, by the hashes of their keys. The caller must
    /// [release](Self::release) each claim that it gets. Waits for the lock for two seconds at most.
    pub(crate) fn claim(&self, hashes: &[u64]) -> Vec<ClaimOutcome> {
        let shared = &self.0.shared;
        let claimed = if shared.is_read_only() { Ok(Vec::new()) } else { shared.claims.claim(&shared.folder, hashes) };
        let mut claimed = claimed.unwrap_or_else(|error| {
            shared.failed_to_write(&error);
            Vec::new()
        });
        claimed.resize(hashes.len(), ClaimOutcome::Unrecorded);
        claimed
    }

    /// Gives up a claim, after all samples that were put before are written and visible to other processes.
    pub(crate) fn release(&self, hash: u64) {
        lock(&self.0.shared.queue).release(hash);
        self.0.shared.queue_changed.notify_all();
    }

    /// When a process last wrote a sample or gave up a claim; `None` if it is dead. Asks the file system.
    pub(crate) fn last_progress(&self, member: u64) -> Option<SystemTime> {
        self.0.shared.folder.last_progress(member)
    }

    /// Ignores for a minute the claims of a process that was waited for in vain.
    pub(crate) fn ignore_claims_of(&self, member: u64) {
        self.0.shared.claims.ignore(member);
    }

    /// Adds a sample whose bytes have this CRC32C, unless the cache has it. Copies the bytes and returns; a thread
    /// writes them later, or they are left out if the disk doesn't keep up.
    pub(crate) fn put(&self, key: &CacheKey<'_>, crc32c: u32, bytes: &[u8], counts: &Arc<CacheCounts>) {
        let shared = &self.0.shared;
        if shared.is_read_only() || shared.is_full.load(Ordering::Relaxed) || !self.keeps(bytes.len() as u64) {
            return;
        }
        let size = key.record_bytes(bytes.len() as u32) as usize;
        if shared.index.get(key.hash()).is_some() || !lock(&shared.queue).reserve(size) {
            return;
        }
        // Copied without the lock, so that others who add a sample or give up a claim don't wait for the copy.
        let mut record = Vec::with_capacity(size);
        key.write_record(bytes, crc32c, &mut record);
        lock(&shared.queue).push(key.hash(), record, counts);
        shared.queue_changed.notify_all();
    }

    /// Waits until everything put so far is written, but no longer than `max_wait`.
    pub(crate) fn flush(&self, max_wait: Duration) {
        writer::flush(&self.0.shared, max_wait);
    }

    /// Runs a job on a thread of the cache.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        // This can't fail, since the threads live as long as `self`.
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
        lock(&self.shared.queue).close();
        self.shared.queue_changed.notify_all();
    }
}
