//! A segment: a file of records that grows until it is full, and is evicted as a whole.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::format::{self, ENTRY, FoundRecord, HEAD, IndexEntry, MAX_RECORD_HEAD, SegmentHead, UNIT, record_at};
use crate::lock::lock;
use crate::os::{FileLock, LockedFile};

/// Bytes of one read while scanning small records, and while scanning large ones, of which only the heads are needed.
const SMALL_RECORDS_READ: u64 = 256 << 10;
const LARGE_RECORDS_READ: u64 = 4 << 10;

/// A segment, as one process uses it.
#[derive(Debug)]
pub(super) struct CacheSegment {
    pub(super) number: u32,
    pub(super) path: PathBuf,
    /// The open file, which holds a shared lock. A locked segment is not removed.
    file: Mutex<Option<Arc<LockedFile>>>,
    /// The epoch in which this process last used the segment; 0 if it doesn't use it.
    last_used: AtomicU64,
    /// When it was last read, by the count of reads.
    last_read: AtomicU64,
    pub(super) scan: Mutex<SegmentScan>,
    /// Whether a read waited in vain for the segment after it was opened last.
    pub(super) waited_in_vain: AtomicBool,
}

/// The segments that are open in this process. Their number is limited, because connections need descriptors, too.
/// Above the limit, the segment that was read least recently is closed; a thread that still reads it holds the file
/// itself.
#[derive(Debug)]
pub(super) struct OpenSegments {
    max_open: usize,
    reads: AtomicU64,
    segments: Mutex<Vec<Arc<CacheSegment>>>,
}

impl OpenSegments {
    pub(super) fn new(max_open: usize) -> Self {
        Self { max_open, reads: AtomicU64::new(0), segments: Mutex::default() }
    }

    /// Opens a segment for reading in the current epoch.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] if it is gone; [`io::ErrorKind::WouldBlock`] if another process is about to remove
    /// it, or scans it to continue it.
    pub(super) fn file(&self, segment: &Arc<CacheSegment>, epoch: u64) -> io::Result<Arc<LockedFile>> {
        segment.last_used.store(epoch, Ordering::Relaxed);
        let (file, is_new) = segment.open()?;
        if is_new {
            self.add(segment);
        } else {
            self.touch(segment);
        }
        Ok(file)
    }

    fn touch(&self, segment: &CacheSegment) {
        segment.last_read.store(self.reads.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Adds a segment that is open, and closes others above the limit.
    pub(super) fn add(&self, segment: &Arc<CacheSegment>) {
        self.touch(segment);
        let mut open = lock(&self.segments);
        open.retain(|other| other.is_open() && !Arc::ptr_eq(other, segment));
        while open.len() >= self.max_open
            && let Some(oldest) = (0..open.len()).min_by_key(|&at| open[at].last_read.load(Ordering::Relaxed))
        {
            open.swap_remove(oldest).close();
        }
        open.push(Arc::clone(segment));
    }
}

/// How far this process has scanned a segment.
#[derive(Debug, Default)]
pub(super) struct SegmentScan {
    /// End of the records that were scanned; 0 before the head was read.
    pub(super) end: u64,
    /// Whether no other process will add records: the segment is closed, or this process writes it.
    pub(super) is_complete: bool,
}

impl CacheSegment {
    pub(super) fn new(number: u32, path: PathBuf) -> Arc<Self> {
        let (last_used, last_read) = (AtomicU64::new(0), AtomicU64::new(0));
        let (scan, waited_in_vain) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { number, path, file: Mutex::default(), last_used, last_read, scan, waited_in_vain })
    }

    /// A segment that this process writes.
    pub(super) fn own(number: u32, path: PathBuf, file: Arc<LockedFile>, epoch: u64) -> Arc<Self> {
        let (last_used, last_read) = (AtomicU64::new(epoch), AtomicU64::new(0));
        let scan = Mutex::new(SegmentScan { is_complete: true, ..SegmentScan::default() });
        let (file, waited_in_vain) = (Mutex::new(Some(file)), AtomicBool::new(false));
        Arc::new(Self { number, path, file, last_used, last_read, scan, waited_in_vain })
    }

    /// Opens the file if it isn't open. Returns it, and whether it was opened now.
    fn open(&self) -> io::Result<(Arc<LockedFile>, bool)> {
        let mut open = lock(&self.file);
        if let Some(file) = &*open {
            return Ok((Arc::clone(file), false));
        }
        let file = LockedFile::try_lock(File::open(&self.path)?, FileLock::Shared)?.ok_or(io::ErrorKind::WouldBlock)?;
        // It may have been removed between opening and locking.
        if !self.path.try_exists()? {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok((Arc::clone(open.insert(Arc::new(file))), true))
    }

    pub(super) fn is_open(&self) -> bool {
        lock(&self.file).is_some()
    }

    /// Whether this process uses the segment, open or not.
    pub(super) fn is_in_use(&self) -> bool {
        self.last_used.load(Ordering::Relaxed) > 0
    }

    pub(super) fn close(&self) {
        lock(&self.file).take();
    }

    /// Ends the use of a segment that this process last used before `epoch`, and closes it. Returns whether it did.
    pub(super) fn release_if_unused_since(&self, epoch: u64) -> bool {
        let last_used = self.last_used.load(Ordering::Relaxed);
        let is_released = last_used > 0
            && last_used < epoch
            && self.last_used.compare_exchange(last_used, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if is_released {
            self.close();
        }
        is_released
    }

    /// Opens and locks the file, in order to remove the segment or to continue it. `None` if a living process uses it.
    pub(super) fn lock_exclusively(&self) -> io::Result<Option<LockedFile>> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        LockedFile::try_lock(file, FileLock::Exclusive)
    }
}

impl SegmentScan {
    /// Scans the records that were added since the last scan.
    ///
    /// The writer may add records and close the segment between any two of the calls here. The size is therefore read
    /// after the head: if the head says that the segment is closed, all of its records are there.
    pub(super) fn resume(&mut self, file: &impl SegmentSource) -> io::Result<Vec<IndexEntry>> {
        let Some(head) = read_head(file)? else { return Ok(Vec::new()) };
        let size = file.size()?;
        let is_closed = head.index_at != 0;
        if is_closed
            && self.end == 0
            && let Some(entries) = read_index(file, &head, size)?
        {
            (self.end, self.is_complete) = (head.index_at, true);
            return Ok(entries);
        }

        let to = if is_closed { head.index_at.min(size) } else { size };
        // If the scan ends before the file does, the next one starts there again: what follows may be the first part of
        // a record, or the index of a segment that was closed meanwhile.
        let ScannedRecords { entries, end, .. } = scan_records(file, self.end.max(HEAD), to)?;
        (self.end, self.is_complete) = (end, is_closed);
        Ok(entries)
    }
}

/// The bytes of a segment: a file, except in tests.
pub(super) trait SegmentSource {
    fn read_exact_at(&self, into: &mut [u8], at: u64) -> io::Result<()>;
    fn size(&self) -> io::Result<u64>;
}

impl SegmentSource for File {
    fn read_exact_at(&self, into: &mut [u8], at: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, into, at)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }
}

/// The records that a scan found.
struct ScannedRecords {
    entries: Vec<IndexEntry>,
    /// Where the scan ended, and why.
    end: u64,
    tail: ScanTail,
}

/// What stands behind the last record of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ScanTail {
    /// Nothing.
    Clean,
    /// The first part of a record.
    Short,
    /// Bytes that are no record.
    Damaged,
}

/// Scans the records from offset `from` to `to`.
fn scan_records(file: &impl SegmentSource, from: u64, to: u64) -> io::Result<ScannedRecords> {
    let mut entries = Vec::new();
    let mut at = from;
    let (mut buffer, mut buffer_from, mut read_bytes) = (Vec::new(), from, SMALL_RECORDS_READ);
    let tail = loop {
        let left = to.saturating_sub(at);
        if left == 0 {
            break ScanTail::Clean;
        }
        let buffered = (buffer_from + buffer.len() as u64).saturating_sub(at);
        if buffered < left.min(MAX_RECORD_HEAD as u64) {
            buffer.resize(left.min(read_bytes) as usize, 0);
            buffer_from = at;
            file.read_exact_at(&mut buffer, at)?;
        }

        let (hash, bytes) = match record_at(&buffer[(at - buffer_from) as usize..], left) {
            FoundRecord::Record { hash, bytes } => (hash, bytes),
            FoundRecord::Short => break ScanTail::Short,
            FoundRecord::Damaged => break ScanTail::Damaged,
        };
        let Ok(at_unit) = u32::try_from(at / UNIT) else { break ScanTail::Damaged };
        entries.push(IndexEntry { hash, at_unit });
        read_bytes = if bytes > SMALL_RECORDS_READ / 4 { LARGE_RECORDS_READ } else { SMALL_RECORDS_READ };
        at += bytes;
    };
    Ok(ScannedRecords { entries, end: at, tail })
}

/// The head of a segment; `None` if it has none of this version.
fn read_head(file: &impl SegmentSource) -> io::Result<Option<SegmentHead>> {
    let mut bytes = [0; HEAD as usize];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(SegmentHead::decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// The entries of a closed segment's index; `None` if the index is damaged.
fn read_index(file: &impl SegmentSource, head: &SegmentHead, size: u64) -> io::Result<Option<Vec<IndexEntry>>> {
    let bytes = head.entries.checked_mul(ENTRY as u64).filter(|bytes| Some(*bytes) == size.checked_sub(head.index_at));
    let Some(bytes) = bytes else { return Ok(None) };
    let mut index = vec![0; bytes as usize];
    file.read_exact_at(&mut index, head.index_at)?;
    Ok((crc32c::crc32c(&index) == head.index_crc32c).then(|| format::decode_index(&index).collect()))
}

/// Writes the index behind the records, and then its place into the head. If the process is killed in between, the
/// segment is still open, and bytes that are no record stand behind its records.
pub(super) fn close(file: &File, end: u64, entries: &[IndexEntry]) -> io::Result<()> {
    let index = format::encode_index(entries);
    file.write_all_at(&index, end)?;
    let head = SegmentHead { index_at: end, entries: entries.len() as u64, index_crc32c: crc32c::crc32c(&index) };
    file.write_all_at(&head.encode(), 0)
}

/// The state of a segment that a dead process left.
pub(super) enum OrphanedSegment {
    /// It is closed, and others may read it.
    Closed,
    /// Records may be added from `end` on.
    Open { end: u64, entries: Vec<IndexEntry> },
    /// It has no head of this version, and is of no use.
    Useless,
}

/// Prepares a segment that no living process uses for more records.
///
/// If the first part of a record stands behind the last whole record, it is truncated, because no process can know it.
/// If something else stands there, which takes a power cut or a damaged disk, the segment is closed: other processes
/// may know records further behind.
pub(super) fn inherit(file: &File) -> io::Result<OrphanedSegment> {
    let Some(head) = read_head(file)? else { return Ok(OrphanedSegment::Useless) };
    if head.index_at != 0 {
        return Ok(OrphanedSegment::Closed);
    }
    let size = file.metadata()?.len();
    let ScannedRecords { entries, end, tail } = scan_records(file, HEAD, size)?;
    match tail {
        ScanTail::Clean => {}
        ScanTail::Short => file.set_len(end)?,
        ScanTail::Damaged => {
            close(file, size, &entries)?;
            return Ok(OrphanedSegment::Closed);
        }
    }
    Ok(OrphanedSegment::Open { end, entries })
}
