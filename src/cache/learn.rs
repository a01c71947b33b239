//! Learning what there is, and what others add to it.

use std::fs::File;
use std::io;
use std::sync::{MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant, SystemTime};

use super::index::RecordLocation;
use super::segment::CacheSegment;
use super::{CacheShared, is_gone, is_passing};

/// How young a folder's time of change may be to count as one that can still happen again unseen: clocks of file systems
/// tick some hundred times a second.
const TICK: Duration = Duration::from_millis(100);

/// Entries that are put in at once: so few that who waits meanwhile doesn't notice.
const AT_ONCE: usize = 4_096;

impl CacheShared {
    pub(super) fn refresh(&self) {
        self.refresh_from(self.looked.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Unless it was done a moment ago, or somebody is at it, who may have a long way to walk: nobody waits for that but
    /// who has to know.
    pub(super) fn refresh_after(&self, age: Duration) {
        let learnt = *self.learnt.lock().unwrap_or_else(PoisonError::into_inner);
        if learnt.is_some_and(|learnt| learnt.elapsed() <= age) {
            return;
        }
        match self.looked.try_lock() {
            Ok(looked) => self.refresh_from(looked),
            Err(TryLockError::Poisoned(looked)) => self.refresh_from(looked.into_inner()),
            Err(TryLockError::WouldBlock) => {}
        }
    }

    fn refresh_from(&self, looked: MutexGuard<'_, Option<SystemTime>>) {
        if self.is_off() {
            return;
        }
        let now = Instant::now();
        match self.learn_from(looked) {
            Err(error) if !is_passing(&error) => self.turn_off(&error),
            // What could not be learnt for the moment is learnt the next time.
            _ => {}
        }
        *self.learnt.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    pub(super) fn learn(&self) -> io::Result<()> {
        self.learn_from(self.looked.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn learn_from(&self, mut looked: MutexGuard<'_, Option<SystemTime>>) -> io::Result<()> {
        let changed = self.folder.path().metadata()?.modified()?;
        if *looked != Some(changed) {
            // A change within the same tick would leave the same time.
            let settled = SystemTime::now().duration_since(changed).is_ok_and(|age| age > TICK);
            self.look_through()?;
            *looked = settled.then_some(changed);
        }
        let mut growing: Vec<_> = {
            let is_over = |segment: &CacheSegment| segment.walk.lock().unwrap_or_else(PoisonError::into_inner).over;
            self.segments().values().filter(|segment| !is_over(segment)).cloned().collect()
        };
        // Of two records of one sample the one put in last counts.
        growing.sort_unstable_by_key(|segment| segment.number);
        growing.iter().try_for_each(|segment| match self.follow(segment) {
            // Removed, or cut off behind its last whole record by who goes on with it.
            Err(error) if is_gone(&error) => Ok(()),
            followed => followed,
        })
    }

    /// Learns which segments there are.
    fn look_through(&self) -> io::Result<()> {
        let there = self.folder.segments()?;
        let gone: Vec<u32> =
            self.segments().keys().copied().filter(|number| there.binary_search(number).is_err()).collect();
        for number in gone {
            self.forget(number);
        }
        let mut segments = self.segments_mut();
        for number in there {
            let path = || self.folder.segment(number);
            segments.entry(number).or_insert_with(|| CacheSegment::new(number, path()));
        }
        Ok(())
    }

    /// Learns what was added to a segment.
    fn follow(&self, segment: &CacheSegment) -> io::Result<()> {
        let mut walk = segment.walk.lock().unwrap_or_else(PoisonError::into_inner);
        if walk.over || segment.path.metadata()?.len() == walk.end {
            return Ok(());
        }
        let entries = walk.follow(&File::open(&segment.path)?)?;
        self.add(segment.number, &entries);
        Ok(())
    }

    pub(super) fn add(&self, segment: u32, entries: &[(u64, u32)]) {
        for entries in entries.chunks(AT_ONCE) {
            // Held, so that whoever forgets the segment does it before all of these or behind them.
            let segments = self.segments();
            if !segments.contains_key(&segment) {
                return;
            }
            for &(hash, at) in entries {
                self.index.insert(hash, RecordLocation { segment, at });
            }
        }
    }

    pub(super) fn forget(&self, segment: u32) {
        // A statement of its own, at whose end the lock is free again.
        let gone = self.segments_mut().remove(&segment);
        if let Some(gone) = gone {
            gone.close();
        }
        self.index.remove_segment(segment);
    }
}
