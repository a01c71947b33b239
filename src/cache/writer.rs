//! The thread that writes: samples into the segment of this process, and room for them.

use std::fs::File;
use std::io;
use std::mem;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::folder::FolderLock;
use super::format::{ENTRY, HEAD, SegmentHead, UNIT};
use super::segment::{self, CacheSegment, OrphanedSegment};
use super::{CacheCounts, CacheShared, is_passing};
use crate::os::{self, FileLock};

/// Bytes that wait to be written, at most, unless one sample alone has more; as many again are being written. Some
/// hundredths of a second for the slowest of disks that are worth it, and little beside the memory budget.
const WAITING: usize = 16 << 20;

/// Bytes that are written at once, unless a record has more: so many that a call is nothing beside them.
const TOGETHER: usize = 1 << 20;

/// How long room is waited for that others make or take at the time, which takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long until claims are tried again to be given up, for which there was no lock or no descriptor.
const AGAIN: Duration = Duration::from_millis(100);

/// Epochs that nothing of a segment was read in, after which it is not in use any more: loops that train and validate
/// come back to each of their data sets sooner.
const UNUSED: u64 = 8;

/// What is to be written and released.
#[derive(Debug, Default)]
pub(super) struct WriteQueue {
    batch: WriteBatch,
    /// Bytes of records that are in the batch, or are being copied for it.
    waiting: usize,
    /// Batches that were begun to be filled, and that are done.
    begun: u64,
    done: u64,
    closed: bool,
}

#[derive(Debug, Default)]
struct WriteBatch {
    records: Vec<QueuedRecord>,
    /// Claims to be given up once the records are there.
    released: Vec<u64>,
}

#[derive(Debug)]
struct QueuedRecord {
    hash: u64,
    bytes: Vec<u8>,
    counts: Arc<CacheCounts>,
}

impl WriteQueue {
    /// Whether there is room for a record, which is to be pushed then.
    pub(super) fn reserve(&mut self, bytes: usize) -> bool {
        let has_room = self.waiting == 0 || self.waiting + bytes <= WAITING;
        self.waiting += if has_room { bytes } else { 0 };
        has_room
    }

    /// Puts in a record that room was reserved for.
    pub(super) fn push(&mut self, hash: u64, bytes: Vec<u8>, counts: &Arc<CacheCounts>) {
        self.batch.records.push(QueuedRecord { hash, bytes, counts: Arc::clone(counts) });
    }

    /// Takes all there is, and its number.
    fn take(&mut self) -> (WriteBatch, u64) {
        let batch = mem::take(&mut self.batch);
        self.waiting -= batch.records.iter().map(|record| record.bytes.len()).sum::<usize>();
        self.begun += 1;
        (batch, self.begun)
    }

    pub(super) fn release(&mut self, hash: u64) {
        self.batch.released.push(hash);
    }

    pub(super) fn close(&mut self) {
        self.closed = true;
    }
}

impl WriteBatch {
    fn is_empty(&self) -> bool {
        self.records.is_empty() && self.released.is_empty()
    }
}

/// The segment that this process writes.
struct ActiveSegment {
    segment: Arc<CacheSegment>,
    file: Arc<File>,
    /// Where the next record begins.
    end: u64,
    entries: Vec<(u64, u32)>,
}

impl ActiveSegment {
    /// Bytes that records may still have, with `more` of them and the index.
    fn has_room(&self, segment_bytes: u64, bytes: u64, more: u64) -> bool {
        let index = (self.entries.len() as u64 + more) * ENTRY as u64;
        self.end + bytes + index <= segment_bytes
    }
}

/// Writes until the cache is closed and all is written.
pub(super) fn run(shared: &CacheShared) {
    let (mut active, mut buffer) = (None, Vec::new());
    // Claims that could not be given up: others wait for them as long as this process lives.
    let mut held: Vec<u64> = Vec::new();
    loop {
        let mut queue = shared.queue();
        while queue.batch.is_empty() {
            if queue.closed {
                return;
            }
            if held.is_empty() {
                queue = shared.turn.wait(queue).unwrap_or_else(PoisonError::into_inner);
            } else {
                queue = shared.turn.wait_timeout(queue, AGAIN).unwrap_or_else(PoisonError::into_inner).0;
                break;
            }
        }
        let (mut batch, number) = queue.take();
        drop(queue);
        let has_news = !batch.is_empty();
        if !shared.is_read_only()
            && let Err(error) = write(shared, &mut active, &mut buffer, &batch.records)
        {
            shared.failed_to_write(&error);
        }
        held.append(&mut batch.released);
        match shared.claims.release(&shared.folder, &held) {
            Ok(true) => held.clear(),
            Err(error) if !is_passing(&error) => {
                shared.suspend_writing(&error);
                held.clear();
            }
            Ok(false) | Err(_) => {}
        }
        // Not for what is tried again in vain.
        if has_news {
            shared.folder.set_mark();
        }
        shared.queue().done = number;
        shared.turn.notify_all();
    }
}

/// Waits until what is in the queue now is written, or `patience` is over.
pub(super) fn flush(shared: &CacheShared, patience: Duration) {
    let until = Instant::now() + patience;
    let mut queue = shared.queue();
    let last = queue.begun + u64::from(!queue.batch.is_empty());
    while queue.done < last
        && let Some(left) = until.checked_duration_since(Instant::now())
    {
        queue = shared.turn.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn write(
    shared: &CacheShared,
    active: &mut Option<ActiveSegment>,
    buffer: &mut Vec<u8>,
    records: &[QueuedRecord],
) -> io::Result<()> {
    let mut rest = records;
    while let Some(next) = rest.first() {
        let segment_bytes = shared.segment_bytes;
        if !active.as_ref().is_some_and(|active| active.has_room(segment_bytes, next.bytes.len() as u64, 1)) {
            *active = room(shared, active.take())?;
        }
        let Some(to) = active else { return Ok(()) };
        let (mut bytes, mut count) = (0, 0);
        for record in rest {
            let more = bytes + record.bytes.len() as u64;
            // At least one: a new segment has room for two of the largest.
            if count > 0 && !to.has_room(segment_bytes, more, count as u64 + 1) {
                break;
            }
            (bytes, count) = (more, count + 1);
        }
        let (records, others) = rest.split_at(count);
        if let Err(error) = append(shared, to, buffer, records) {
            // What is of no use to anybody may be what fills the disk.
            let _ = to.file.set_len(to.end);
            return Err(error);
        }
        let known = to.entries.len();
        for record in records {
            to.entries.push((record.hash, (to.end / UNIT) as u32));
            record.counts.written(record.bytes.len() as u64);
            to.end += record.bytes.len() as u64;
        }
        shared.add(to.segment.number, &to.entries[known..]);
        shared.wrote();
        rest = others;
    }
    Ok(())
}

/// Writes records behind the last one: small ones together, for which the buffer is.
#[cfg_attr(not(test), expect(unused_variables, reason = "only tests have faults"))]
fn append(shared: &CacheShared, to: &ActiveSegment, buffer: &mut Vec<u8>, records: &[QueuedRecord]) -> io::Result<()> {
    #[cfg(test)]
    if let Some(error) = shared.fault.lock().unwrap_or_else(PoisonError::into_inner).take() {
        to.file.write_all_at(&records[0].bytes[..records[0].bytes.len() / 2], to.end)?;
        return Err(error);
    }
    let mut at = to.end;
    let mut put = |bytes: &[u8]| -> io::Result<()> {
        to.file.write_all_at(bytes, at)?;
        at += bytes.len() as u64;
        Ok(())
    };
    buffer.clear();
    for QueuedRecord { bytes, .. } in records {
        if buffer.len() + bytes.len() > TOGETHER {
            put(buffer)?;
            buffer.clear();
        }
        if bytes.len() > TOGETHER {
            put(bytes)?;
        } else {
            buffer.extend(bytes);
        }
    }
    put(buffer)
}

/// A segment to write to: one that somebody dead has left, or a new one, if there is room or what is there may go.
fn room(shared: &CacheShared, full: Option<ActiveSegment>) -> io::Result<Option<ActiveSegment>> {
    if let Some(full) = full {
        segment::close(&full.file, full.end, &full.entries)?;
    }
    let Some(guard) = shared.folder.lock(PATIENCE)? else { return Ok(None) };
    shared.learn()?;
    let mut segments: Vec<_> = shared.segments().values().cloned().collect();
    segments.sort_unstable_by_key(|segment| segment.number);
    for segment in segments.iter().rev() {
        if let Some(active) = take_over(shared, segment)? {
            return Ok(Some(active));
        }
    }
    let mut total = shared.segment_bytes;
    for segment in &segments {
        total += taken(shared, segment)?;
    }
    let mut let_go = false;
    while total > shared.max_bytes {
        let mut removed = 0;
        for segment in &segments {
            if total - removed > shared.max_bytes && !segment.is_in_use() {
                removed += remove(shared, segment)?;
            }
        }
        total -= removed;
        if total <= shared.max_bytes {
            break;
        }
        let then = shared.now().saturating_sub(UNUSED);
        if let_go || segments.iter().filter(|segment| segment.let_go_since(then)).count() == 0 {
            if !shared.full.swap(true, Ordering::Relaxed) {
                tracing::info!(
                    folder = %shared.folder.path().display(),
                    bytes = shared.max_bytes,
                    "the cache is full of what is in use: what doesn't fit is read from the bucket in each epoch"
                );
            }
            return Ok(None);
        }
        let_go = true;
    }
    create(shared, &guard).map(Some)
}

fn create(shared: &CacheShared, guard: &FolderLock) -> io::Result<ActiveSegment> {
    let (number, file) = shared.folder.create(guard)?;
    // Nobody else can have it: removing takes the same right as making.
    os::try_lock(&file, FileLock::Shared)?;
    file.write_all_at(&SegmentHead::default().encode(), 0)?;
    Ok(active(shared, number, file, HEAD, Vec::new()))
}

fn active(shared: &CacheShared, number: u32, file: File, end: u64, entries: Vec<(u64, u32)>) -> ActiveSegment {
    let file = Arc::new(file);
    let segment = CacheSegment::own(number, shared.folder.segment(number), Arc::clone(&file), shared.now());
    shared.segments_mut().insert(number, Arc::clone(&segment));
    shared.open.add(&segment);
    ActiveSegment { segment, file, end, entries }
}

/// Goes on with a segment that nobody alive uses, if it has room.
fn take_over(shared: &CacheShared, segment: &CacheSegment) -> io::Result<Option<ActiveSegment>> {
    let known = {
        let walk = segment.walk.lock().unwrap_or_else(PoisonError::into_inner);
        if walk.over {
            return Ok(None);
        }
        walk.end
    };
    // A lock of one's own is in the way, too; whoever reads here takes it again.
    segment.close();
    let Some(file) = present(segment.take())?.flatten() else { return Ok(None) };
    match segment::inherit(&file)? {
        OrphanedSegment::Closed => Ok(None),
        OrphanedSegment::Nothing => {
            std::fs::remove_file(&segment.path)?;
            shared.forget(segment.number);
            Ok(None)
        }
        OrphanedSegment::Open { end, entries } => {
            os::try_lock(&file, FileLock::Shared)?;
            let active = active(shared, segment.number, file, end, entries);
            // Not those that were learnt before: of these, damaged ones were taken out, and may be elsewhere by now.
            let first = active.entries.partition_point(|(_, at)| u64::from(*at) * UNIT < known);
            shared.add(segment.number, &active.entries[first..]);
            if active.has_room(shared.segment_bytes, shared.segment_bytes / 2, 1) {
                return Ok(Some(active));
            }
            segment::close(&active.file, active.end, &active.entries)?;
            Ok(None)
        }
    }
}

/// Bytes of the bound that a segment takes: all that it may grow to, as long as it grows.
fn taken(shared: &CacheShared, segment: &CacheSegment) -> io::Result<u64> {
    let Some(size) = present(segment.path.metadata())?.map(|data| data.len()) else { return Ok(0) };
    let over = segment.walk.lock().unwrap_or_else(PoisonError::into_inner).over;
    Ok(if over { size } else { size.max(shared.segment_bytes) })
}

/// Removes a segment unless somebody alive uses it; bytes of the bound that are free then.
fn remove(shared: &CacheShared, segment: &CacheSegment) -> io::Result<u64> {
    let bytes = taken(shared, segment)?;
    let Some(_locked) = present(segment.take())?.flatten() else { return Ok(0) };
    std::fs::remove_file(&segment.path)?;
    shared.forget(segment.number);
    Ok(bytes)
}

/// What isn't there is no failure.
fn present<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_and_what_is_copied_for_it_is_bounded() {
        let mut queue = WriteQueue::default();
        let half = WAITING / 2;
        assert!(queue.reserve(half) && queue.reserve(half));
        // Neither is there yet, and both count.
        assert!(!queue.reserve(1));
        queue.push(1, vec![0; half], &Arc::default());
        let (batch, number) = queue.take();
        assert_eq!((batch.records.len(), number), (1, 1));
        assert!(queue.reserve(half) && !queue.reserve(1));
        for hash in [2, 3] {
            queue.push(hash, vec![0; half], &Arc::default());
        }
        assert_eq!(queue.take().0.records.len(), 2);
        // One that is larger than all that may wait goes alone.
        assert!(queue.reserve(2 * WAITING) && !queue.reserve(1));
    }
}
