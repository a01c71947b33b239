//! One segment: a file of records that grows until it is full, and goes as a whole.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::format::{self, ENTRY, FoundRecord, HEAD, MOST_BEFORE, SegmentHead, UNIT, record_at};
use crate::os::{self, FileLock};

/// Read at once while walking along small records, in bytes; and along large ones, of which only the head is wanted.
const WALK: u64 = 256 << 10;
const HOP: u64 = 4 << 10;

/// A segment as one process knows it.
#[derive(Debug)]
pub(super) struct CacheSegment {
    pub(super) number: u32,
    pub(super) path: PathBuf,
    /// Open, and locked with all others who use it: what is locked is not removed.
    file: Mutex<Option<Arc<File>>>,
    /// When it was last used, by the cache's count of epochs; 0 when it isn't in use here.
    used: AtomicU64,
    /// When it was last read from, by the count of reads.
    read: AtomicU64,
    pub(super) walk: Mutex<SegmentScan>,
    /// Whether it was waited for in vain since it was last to be had.
    pub(super) in_vain: AtomicBool,
}

/// The segments that are open here: so many at most, whatever there is, since connections need descriptors, too. Beyond
/// these, which was read from longest ago is closed. Whoever reads from that one still holds its file for itself.
#[derive(Debug)]
pub(super) struct OpenSegments {
    most: usize,
    reads: AtomicU64,
    segments: Mutex<Vec<Arc<CacheSegment>>>,
}

impl OpenSegments {
    pub(super) fn new(most: usize) -> Self {
        Self { most, reads: AtomicU64::new(0), segments: Mutex::default() }
    }

    /// The file of a segment, to be read from.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] where it is gone; [`io::ErrorKind::WouldBlock`] where somebody is about to remove it, or
    /// looks whether it can be gone on with.
    pub(super) fn file(&self, segment: &Arc<CacheSegment>, now: u64) -> io::Result<Arc<File>> {
        segment.used.store(now, Ordering::Relaxed);
        let (file, is_new) = segment.open()?;
        if is_new {
            self.add(segment);
        } else {
            self.touch(segment);
        }
        Ok(file)
    }

    fn touch(&self, segment: &CacheSegment) {
        segment.read.store(self.reads.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Counts a segment that is open.
    pub(super) fn add(&self, segment: &Arc<CacheSegment>) {
        self.touch(segment);
        let mut open = self.segments.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|other| other.is_open() && !Arc::ptr_eq(other, segment));
        while open.len() >= self.most
            && let Some(oldest) = (0..open.len()).min_by_key(|&at| open[at].read.load(Ordering::Relaxed))
        {
            open.swap_remove(oldest).close();
        }
        open.push(Arc::clone(segment));
    }
}

/// How far a segment is known.
#[derive(Debug, Default)]
pub(super) struct SegmentScan {
    /// Up to where; 0 before its head was read.
    pub(super) end: u64,
    /// Nothing more will come, or this process is who writes it.
    pub(super) over: bool,
}

impl CacheSegment {
    pub(super) fn new(number: u32, path: PathBuf) -> Arc<Self> {
        let (used, read) = (AtomicU64::new(0), AtomicU64::new(0));
        let (walk, in_vain) = (Mutex::default(), AtomicBool::new(false));
        Arc::new(Self { number, path, file: Mutex::default(), used, read, walk, in_vain })
    }

    /// One that this process writes.
    pub(super) fn own(number: u32, path: PathBuf, file: Arc<File>, now: u64) -> Arc<Self> {
        let (used, read) = (AtomicU64::new(now), AtomicU64::new(0));
        let walk = SegmentScan { over: true, ..SegmentScan::default() };
        let (walk, in_vain) = (Mutex::new(walk), AtomicBool::new(false));
        Arc::new(Self { number, path, file: Mutex::new(Some(file)), used, read, walk, in_vain })
    }

    /// The file, and whether it was opened for this.
    fn open(&self) -> io::Result<(Arc<File>, bool)> {
        let mut open = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = &*open {
            return Ok((Arc::clone(file), false));
        }
        let file = File::open(&self.path)?;
        if !os::try_lock(&file, FileLock::Shared)? {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // Removed between the one and the other.
        if !self.path.try_exists()? {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok((Arc::clone(open.insert(Arc::new(file))), true))
    }

    pub(super) fn is_open(&self) -> bool {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// Whether this process is to find it again, open or not.
    pub(super) fn is_in_use(&self) -> bool {
        self.used.load(Ordering::Relaxed) > 0
    }

    pub(super) fn close(&self) {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Lets go of it where nobody here has used it since `then`; whether it did.
    pub(super) fn let_go_since(&self, then: u64) -> bool {
        let used = self.used.load(Ordering::Relaxed);
        let let_go = used > 0
            && used < then
            && self.used.compare_exchange(used, 0, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if let_go {
            self.close();
        }
        let_go
    }

    /// Takes it for removal or to go on writing: the file, locked, if nobody alive uses it.
    pub(super) fn take(&self) -> io::Result<Option<File>> {
        let file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        Ok(os::try_lock(&file, FileLock::Exclusive)?.then_some(file))
    }
}

impl SegmentScan {
    /// Goes on along what was added: hash and place of each record.
    ///
    /// Its writer may add to it and close it between any two of the calls here. So the size is asked for behind the head: a
    /// head that says that nothing more comes is believed with all that there is, and not with less.
    pub(super) fn follow(&mut self, file: &impl SegmentSource) -> io::Result<Vec<(u64, u32)>> {
        let Some(head) = head(file)? else { return Ok(Vec::new()) };
        let size = file.size()?;
        let closed = head.index_at != 0;
        if closed
            && self.end == 0
            && let Some(entries) = index(file, &head, size)?
        {
            (self.end, self.over) = (head.index_at, true);
            return Ok(entries);
        }
        let mut entries = Vec::new();
        let to = if closed { head.index_at.min(size) } else { size };
        // Where it ends before the file does, it is begun there again: what is there may be the half of a record, or the
        // index of somebody who has closed it since.
        self.end = walk(file, self.end.max(HEAD), to, |hash, at| entries.push((hash, at)))?.0;
        self.over = closed;
        Ok(entries)
    }
}

/// What the bytes of a segment are read from: a file, but for tests.
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

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ScanEnd {
    /// Right behind a record.
    Clean,
    /// Where a record begins that isn't all there.
    Short,
    /// Before something that is no record.
    Damaged,
}

/// Walks along records from `from` to `to`, and hands out hash and place of each. Returns where it ended, and how.
fn walk(file: &impl SegmentSource, from: u64, to: u64, mut each: impl FnMut(u64, u32)) -> io::Result<(u64, ScanEnd)> {
    let mut at = from;
    let (mut held, mut held_from, mut chunk) = (Vec::new(), from, WALK);
    while at < to {
        let left = to - at;
        let have = (held_from + held.len() as u64).saturating_sub(at);
        if have < left.min(MOST_BEFORE as u64) {
            let count = left.min(chunk) as usize;
            held.resize(count, 0);
            held_from = at;
            file.read_exact_at(&mut held, at)?;
        }
        let (hash, bytes) = match record_at(&held[(at - held_from) as usize..], left) {
            FoundRecord::Record { hash, bytes } => (hash, bytes),
            FoundRecord::Short => return Ok((at, ScanEnd::Short)),
            FoundRecord::Damaged => return Ok((at, ScanEnd::Damaged)),
        };
        let Ok(place) = u32::try_from(at / UNIT) else { return Ok((at, ScanEnd::Damaged)) };
        each(hash, place);
        chunk = if bytes > WALK / 4 { HOP } else { WALK };
        at += bytes;
    }
    Ok((at, ScanEnd::Clean))
}

/// The head of a segment; `None` where there is none, or none of this version.
fn head(file: &impl SegmentSource) -> io::Result<Option<SegmentHead>> {
    let mut bytes = [0; HEAD as usize];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(SegmentHead::decode(&bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

/// The entries of a closed segment's index; `None` where there is no right one.
fn index(file: &impl SegmentSource, head: &SegmentHead, size: u64) -> io::Result<Option<Vec<(u64, u32)>>> {
    let bytes = head.entries.checked_mul(ENTRY as u64).filter(|bytes| Some(*bytes) == size.checked_sub(head.index_at));
    let Some(bytes) = bytes else { return Ok(None) };
    let mut index = vec![0; bytes as usize];
    file.read_exact_at(&mut index, head.index_at)?;
    Ok((crc32c::crc32c(&index) == head.index_crc32c).then(|| format::entries(&index).collect()))
}

/// Writes the index behind the records, then says so in the head: whoever is killed in between leaves a segment that is
/// still open, with something behind its records that is none.
pub(super) fn close(file: &File, end: u64, entries: &[(u64, u32)]) -> io::Result<()> {
    let index = format::index(entries);
    file.write_all_at(&index, end)?;
    let head = SegmentHead { index_at: end, entries: entries.len() as u64, index_crc32c: crc32c::crc32c(&index) };
    file.write_all_at(&head.encode(), 0)
}

/// What is left to do with a segment of somebody dead.
pub(super) enum OrphanedSegment {
    /// Nothing: it is closed, and others may read it.
    Closed,
    /// It goes on behind its last record.
    Open { end: u64, entries: Vec<(u64, u32)> },
    /// It holds nothing of use.
    Nothing,
}

/// Looks at a segment that nobody alive uses, and makes it fit for more. What stands behind the last whole record is cut
/// off where it is the beginning of one, since nobody can have read it. Where it is something else, which takes a power
/// cut or a damaged disk, the segment is closed there: behind it may be records that others know.
pub(super) fn inherit(file: &File) -> io::Result<OrphanedSegment> {
    let Some(at) = head(file)? else { return Ok(OrphanedSegment::Nothing) };
    if at.index_at != 0 {
        return Ok(OrphanedSegment::Closed);
    }
    let size = file.metadata()?.len();
    let mut entries = Vec::new();
    let (end, tail) = walk(file, HEAD, size, |hash, at| entries.push((hash, at)))?;
    match tail {
        ScanEnd::Clean => {}
        ScanEnd::Short => file.set_len(end)?,
        ScanEnd::Damaged => {
            close(file, size, &entries)?;
            return Ok(OrphanedSegment::Closed);
        }
    }
    Ok(OrphanedSegment::Open { end, entries })
}
