//! Learning which samples the segments hold, including what other processes add to them.

use std::fs::File;
use std::io;
use std::sync::{MutexGuard, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use super::format::IndexEntry;
use super::index::RecordLocation;
use super::segment::CacheSegment;
use super::shared::{CacheShared, is_gone, is_transient};

use crate::lock::lock;

/// If the folder's time of change is younger than this, another change may get the same time: clocks of file systems
/// tick some hundred times a second.
const CLOCK_TICK: Duration = Duration::from_millis(100);

/// Entries that are added under one lock: so few that a waiting thread doesn't notice.
const ENTRIES_PER_LOCK: usize = 4_096;

impl CacheShared {
    /// Learns what other processes have written.
    pub(super) fn refresh(&self) {
        self.refresh_from(lock(&self.folder_changed));
    }

    /// As [`refresh`](Self::refresh), unless that was done less than `age` ago, or another thread is doing it. The
    /// other thread may have much to scan, so only callers that need the result wait for it.
    pub(super) fn refresh_after(&self, age: Duration) {
        let refreshed = *lock(&self.refreshed);
        if refreshed.is_some_and(|refreshed| refreshed.elapsed() <= age) {
            return;
        }
        match self.folder_changed.try_lock() {
            Ok(changed) => self.refresh_from(changed),
            Err(TryLockError::Poisoned(changed)) => self.refresh_from(changed.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    fn refresh_from(&self, folder_changed: MutexGuard<'_, Option<SystemTime>>) {
        if self.is_off() {
            return;
        }
        let now = Instant::now();
        match self.learn_from(folder_changed) {
            Err(error) if !is_transient(&error) => self.turn_off(&error),
            // After a transient error the next refresh learns the rest.
            _ => {}
        }
        *lock(&self.refreshed) = Some(now);
    }

    pub(super) fn learn(&self) -> io::Result<()> {
        self.learn_from(lock(&self.folder_changed))
    }

    fn learn_from(&self, mut folder_changed: MutexGuard<'_, Option<SystemTime>>) -> io::Result<()> {
        let changed = self.folder.path().metadata()?.modified()?;
        if *folder_changed != Some(changed) {
            // Another change within the same tick would leave the same time, so a recent time is not remembered.
            let is_settled = SystemTime::now().duration_since(changed).is_ok_and(|age| age > CLOCK_TICK);
            self.learn_segments()?;
            *folder_changed = is_settled.then_some(changed);
        }
        let mut growing: Vec<_> = {
            let is_complete = |segment: &CacheSegment| lock(&segment.scan).is_complete;
            self.segments().values().filter(|segment| !is_complete(segment)).cloned().collect()
        };
        // If two segments hold a sample, the one that is added last counts.
        growing.sort_unstable_by_key(|segment| segment.number);
        growing.iter().try_for_each(|segment| match self.learn_records(segment) {
            // Removed, or truncated behind its last whole record by the process that continues it.
            Err(error) if is_gone(&error) => Ok(()),
            learned => learned,
        })
    }

    /// Learns which segments exist.
    fn learn_segments(&self) -> io::Result<()> {
        let existing = self.folder.segment_numbers()?;
        let is_gone = |number: &u32| existing.binary_search(number).is_err();
        let gone: Vec<u32> = self.segments().keys().copied().filter(is_gone).collect();
        for number in gone {
            self.forget(number);
        }
        let mut segments = self.segments_mut();
        for number in existing {
            let path = || self.folder.segment_path(number);
            segments.entry(number).or_insert_with(|| CacheSegment::new(number, path()));
        }
        Ok(())
    }

    /// Learns which records were added to a segment.
    fn learn_records(&self, segment: &CacheSegment) -> io::Result<()> {
        let mut scan = lock(&segment.scan);
        if scan.is_complete || segment.path.metadata()?.len() == scan.end {
            return Ok(());
        }
        let entries = scan.resume(&File::open(&segment.path)?)?;
        self.add(segment.number, &entries);
        Ok(())
    }

    /// Adds records of a segment to the index, unless the segment was removed.
    pub(super) fn add(&self, segment: u32, entries: &[IndexEntry]) {
        for entries in entries.chunks(ENTRIES_PER_LOCK) {
            // Held, so that a thread that forgets the segment does so before all of these entries or after them.
            let segments = self.segments();
            if !segments.contains_key(&segment) {
                return;
            }
            for &IndexEntry { hash, at_unit } in entries {
                self.index.insert(hash, RecordLocation { segment, at_unit });
            }
        }
    }

    /// Forgets a segment that was removed, and closes its file.
    pub(super) fn forget(&self, segment: u32) {
        // A statement of its own, so that the lock is free when the file is closed.
        let gone = self.segments_mut().remove(&segment);
        if let Some(gone) = gone {
            gone.close();
        }
        self.index.remove_segment(segment);
    }
}
