//! The thread that writes samples into this process's segment, and makes room for them by eviction.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::format::{ENTRY, HEAD, IndexEntry, SegmentHead, UNIT};
use super::segment::{self, CacheSegment, OrphanedSegment};
use super::shared::{CacheShared, is_transient};
use super::write_queue::QueuedRecord;
use crate::lock::lock;
use crate::os::{FileLock, LockedFile};

/// Bytes for one write call, unless a record has more: enough that the call itself costs nothing in comparison.
const WRITE_BYTES: usize = 1 << 20;

/// How long to wait for the lock under which others create and remove segments, which takes milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// How long until claims are released again if the lock was not free or no descriptor was left.
const RELEASE_INTERVAL: Duration = Duration::from_millis(100);

/// A segment that was not read for this many epochs is not in use any more. A loop that trains and validates comes back
/// to each of its data sets sooner.
const UNUSED_EPOCHS: u64 = 8;

/// The segment that this process writes.
struct ActiveSegment {
    segment: Arc<CacheSegment>,
    file: Arc<LockedFile>,
    /// Where the next record begins.
    end: u64,
    entries: Vec<IndexEntry>,
}

impl ActiveSegment {
    /// Whether `count` more records of `bytes` bytes fit, with their part of the index.
    fn has_room(&self, segment_bytes: u64, bytes: u64, count: u64) -> bool {
        let index = (self.entries.len() as u64 + count) * ENTRY as u64;
        self.end + bytes + index <= segment_bytes
    }
}

/// Writes until the cache is closed and the queue is empty.
pub(super) fn run(shared: &CacheShared) {
    let (mut active, mut buffer) = (None, Vec::new());
    // Claims that could not be released. Others wait for them as long as this process lives.
    let mut unreleased: Vec<u64> = Vec::new();
    loop {
        let mut queue = lock(&shared.queue);
        while queue.is_empty() {
            if queue.is_closed() {
                return;
            }
            if unreleased.is_empty() {
                queue = shared.queue_changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
            } else {
                let waited = shared.queue_changed.wait_timeout(queue, RELEASE_INTERVAL);
                queue = waited.unwrap_or_else(PoisonError::into_inner).0;
                break;
            }
        }
        let (mut batch, number) = queue.take();
        drop(queue);

        let has_work = !batch.is_empty();
        if !shared.is_read_only()
            && let Err(error) = write(shared, &mut active, &mut buffer, &batch.records)
        {
            shared.failed_to_write(&error);
        }
        unreleased.append(&mut batch.released);
        match shared.claims.release(&shared.folder, &unreleased) {
            Ok(true) => unreleased.clear(),
            Err(error) if !is_transient(&error) => {
                shared.suspend_writing(&error);
                unreleased.clear();
            }
            Ok(false) | Err(_) => {}
        }
        // Releasing claims again in vain is no progress.
        if has_work {
            shared.folder.record_progress();
        }
        lock(&shared.queue).finish(number);
        shared.queue_changed.notify_all();
    }
}

/// Waits until what is in the queue now is written, but no longer than `max_wait`.
pub(super) fn flush(shared: &CacheShared, max_wait: Duration) {
    let deadline = Instant::now() + max_wait;
    let mut queue = lock(&shared.queue);
    let last = queue.last_number();
    while queue.done() < last
        && let Some(left) = deadline.checked_duration_since(Instant::now())
    {
        queue = shared.queue_changed.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Appends records to this process's segment, or to a new one when that is full. Records are left out if there is no
/// room.
fn write(
    shared: &CacheShared,
    active: &mut Option<ActiveSegment>,
    buffer: &mut Vec<u8>,
    records: &[QueuedRecord],
) -> io::Result<()> {
    let mut left = records;
    while let Some(next) = left.first() {
        let segment_bytes = shared.segment_bytes;
        if !active.as_ref().is_some_and(|active| active.has_room(segment_bytes, next.bytes.len() as u64, 1)) {
            *active = next_segment(shared, active.take())?;
        }
        let Some(segment) = active else { return Ok(()) };

        let (mut bytes, mut count) = (0, 0);
        for record in left {
            let more = bytes + record.bytes.len() as u64;
            // At least one record fits, since a new segment has room for two of the largest.
            if count > 0 && !segment.has_room(segment_bytes, more, count as u64 + 1) {
                break;
            }
            (bytes, count) = (more, count + 1);
        }
        let (records, others) = left.split_at(count);
        if let Err(error) = append(shared, segment, buffer, records) {
            // The part that was written may be what fills the disk.
            let _ = segment.file.set_len(segment.end);
            return Err(error);
        }

        let first_new = segment.entries.len();
        for record in records {
            segment.entries.push(IndexEntry { hash: record.hash, at_unit: (segment.end / UNIT) as u32 });
            record.counts.add_written(record.bytes.len() as u64);
            segment.end += record.bytes.len() as u64;
        }
        shared.add(segment.segment.number, &segment.entries[first_new..]);
        shared.note_written();
        left = others;
    }
    Ok(())
}

/// Writes records at the end of the segment. Small records are collected in `buffer` and written together.
#[cfg_attr(not(test), expect(unused_variables, reason = "only tests have faults"))]
fn append(
    shared: &CacheShared,
    segment: &ActiveSegment,
    buffer: &mut Vec<u8>,
    records: &[QueuedRecord],
) -> io::Result<()> {
    #[cfg(test)]
    if let Some(error) = lock(&shared.fault).take() {
        segment.file.write_all_at(&records[0].bytes[..records[0].bytes.len() / 2], segment.end)?;
        return Err(error);
    }
    let mut at = segment.end;
    let mut put = |bytes: &[u8]| -> io::Result<()> {
        segment.file.write_all_at(bytes, at)?;
        at += bytes.len() as u64;
        Ok(())
    };
    buffer.clear();
    for QueuedRecord { bytes, .. } in records {
        if buffer.len() + bytes.len() > WRITE_BYTES {
            put(buffer)?;
            buffer.clear();
        }
        if bytes.len() > WRITE_BYTES {
            put(bytes)?;
        } else {
            buffer.extend(bytes);
        }
    }
    put(buffer)
}

/// Closes a full segment and returns the next one: one that a dead process left, or a new one. `None` if there is no
/// room and nothing may be evicted.
fn next_segment(shared: &CacheShared, full: Option<ActiveSegment>) -> io::Result<Option<ActiveSegment>> {
    if let Some(full) = full {
        segment::close(&full.file, full.end, &full.entries)?;
    }
    let Some(guard) = shared.folder.lock(LOCK_WAIT)? else { return Ok(None) };
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
        total += reserved_bytes(shared, segment)?;
    }
    let mut has_released = false;
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

        // Segments that this process has not used for some epochs are released, and then the loop tries again, once.
        let unused_since = shared.current_epoch().saturating_sub(UNUSED_EPOCHS);
        let release = || segments.iter().filter(|segment| segment.release_if_unused_since(unused_since)).count();
        if has_released || release() == 0 {
            if !shared.is_full.swap(true, Ordering::Relaxed) {
                tracing::info!(
                    folder = %shared.folder.path().display(),
                    bytes = shared.max_bytes,
                    "the cache is full of what is in use: what doesn't fit is read from the bucket in each epoch"
                );
            }
            return Ok(None);
        }
        has_released = true;
    }
    create(shared, &guard).map(Some)
}

fn create(shared: &CacheShared, guard: &LockedFile) -> io::Result<ActiveSegment> {
    let (number, file) = shared.folder.create_segment(guard)?;
    file.write_all_at(&SegmentHead::default().encode(), 0)?;
    Ok(active(shared, number, file, HEAD, Vec::new()))
}

/// Registers a segment that this process writes.
fn active(shared: &CacheShared, number: u32, file: LockedFile, end: u64, entries: Vec<IndexEntry>) -> ActiveSegment {
    let file = Arc::new(file);
    let path = shared.folder.segment_path(number);
    let segment = CacheSegment::own(number, path, Arc::clone(&file), shared.current_epoch());
    shared.segments_mut().insert(number, Arc::clone(&segment));
    shared.open.add(&segment);
    ActiveSegment { segment, file, end, entries }
}

/// Continues a segment that no living process uses, if it has room.
fn take_over(shared: &CacheShared, segment: &CacheSegment) -> io::Result<Option<ActiveSegment>> {
    let scanned_to = {
        let scan = lock(&segment.scan);
        if scan.is_complete {
            return Ok(None);
        }
        scan.end
    };
    // This process's own shared lock would be in the way, too. The next read takes it again.
    segment.close();
    let Some(file) = if_found(segment.lock_exclusively())?.flatten() else { return Ok(None) };
    match segment::inherit(&file)? {
        OrphanedSegment::Closed => Ok(None),
        OrphanedSegment::Useless => {
            std::fs::remove_file(&segment.path)?;
            shared.forget(segment.number);
            Ok(None)
        }
        OrphanedSegment::Open { end, entries } => {
            file.try_change(FileLock::Shared)?;
            let active = active(shared, segment.number, file, end, entries);
            // Not the records that were learned before: damaged ones among them were removed from the index, and may be
            // in another segment by now.
            let first_new = active.entries.partition_point(|entry| u64::from(entry.at_unit) * UNIT < scanned_to);
            shared.add(segment.number, &active.entries[first_new..]);
            if active.has_room(shared.segment_bytes, shared.segment_bytes / 2, 1) {
                return Ok(Some(active));
            }
            segment::close(&active.file, active.end, &active.entries)?;
            Ok(None)
        }
    }
}

/// Bytes of the cache's limit that a segment takes: as long as it may grow, all that it may grow to.
fn reserved_bytes(shared: &CacheShared, segment: &CacheSegment) -> io::Result<u64> {
    let Some(size) = if_found(segment.path.metadata())?.map(|data| data.len()) else { return Ok(0) };
    let is_complete = lock(&segment.scan).is_complete;
    Ok(if is_complete { size } else { size.max(shared.segment_bytes) })
}

/// Removes a segment, unless a living process uses it. Returns the bytes of the limit that this frees.
fn remove(shared: &CacheShared, segment: &CacheSegment) -> io::Result<u64> {
    let bytes = reserved_bytes(shared, segment)?;
    let Some(_locked) = if_found(segment.lock_exclusively())?.flatten() else { return Ok(0) };
    std::fs::remove_file(&segment.path)?;
    shared.forget(segment.number);
    Ok(bytes)
}

/// `None` in place of an error if a file was not found.
fn if_found<T>(outcome: io::Result<T>) -> io::Result<Option<T>> {
    match outcome {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        outcome => outcome.map(Some),
    }
}
