//! Who reads which sample from the bucket, so that of two processes that want one at the same time only one does.
//!
//! The file `claims` is a table of 2^16 buckets of four slots. A slot is the hash of a key and the number of whoever
//! claims it, 8 bytes each, little-endian; 0 is nobody. It is read and written under a lock, which nobody holds for longer
//! than a few system calls. Whatever stands there, the worst that comes of it is a wait that ends, or a sample that two
//! processes read from the bucket.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::folder::CacheFolder;

/// Room for 262,144 claims in 4 MiB: some times what the processes of a machine read at once.
const BUCKETS: u64 = 1 << 16;
const SLOTS: usize = 4;
const SLOT: usize = 16;
const BUCKET: usize = SLOTS * SLOT;

/// How long a claim waits for the lock. It is free within microseconds, unless a process is stopped, or starved of time,
/// just where it holds it.
const PATIENCE: Duration = Duration::from_secs(2);

/// For how long nobody tries again when the lock was not to be had, and for how long a process is passed by that was
/// waited for in vain.
const PASS_BY: Duration = Duration::from_secs(60);

/// How long somebody is waited for of whom nothing comes: longer than a read takes that stalls once and is made again.
const STANDSTILL: Duration = Duration::from_secs(30);

/// How long somebody is waited for at most, whatever comes of them: a budget of 1 GiB takes as long at 2 MB/s.
const AT_MOST: Duration = Duration::from_secs(600);

/// Waiting for others, and since when nothing has come of each: pure.
///
/// Claims are made when reads are planned, so that how long one has stood says nothing when the network is slow. What does
/// is whether its process has written a sample or given up a claim meanwhile, which sets its mark.
#[derive(Debug, Default)]
pub(crate) struct ClaimWaits {
    /// The mark of each, and how long had been waited when it was first seen.
    seen: HashMap<u64, (Option<SystemTime>, Duration)>,
}

/// Whether to wait on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitDecision {
    On,
    /// No longer for this, though something comes of them.
    NotForThis,
    /// No longer for anything of theirs.
    InVain,
}

impl ClaimWaits {
    /// Takes note of somebody's mark after having `waited`.
    pub(crate) fn judge(&mut self, who: u64, mark: Option<SystemTime>, waited: Duration) -> WaitDecision {
        let seen = self.seen.entry(who).or_insert((mark, waited));
        if seen.0 != mark {
            *seen = (mark, waited);
        }
        match waited {
            _ if waited.saturating_sub(seen.1) > STANDSTILL => WaitDecision::InVain,
            _ if waited > AT_MOST => WaitDecision::NotForThis,
            _ => WaitDecision::On,
        }
    }
}

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimOutcome {
    /// It is this process's until released.
    Mine,
    /// Somebody reads it: this process elsewhere, or another one.
    Theirs(u64),
    /// Nobody is seen to read it, and nobody will see that this process does, for want of room.
    Unmarked,
}

/// The table, as one process sees it.
#[derive(Debug, Default)]
pub(super) struct ClaimTable {
    /// Until when who is passed by; without anybody, until when no lock is asked for.
    passed_by: Mutex<HashMap<Option<u64>, Instant>>,
}

impl ClaimTable {
    /// Claims what nobody else has.
    pub(super) fn claim(&self, folder: &CacheFolder, hashes: &[u64]) -> io::Result<Vec<ClaimOutcome>> {
        let mut lives = HashMap::from([(0, false)]);
        let claimed = self.each_bucket(folder, hashes, |hash, bucket| {
            let mut free = None;
            for slot in 0..SLOTS {
                let (of, who) = read(bucket, slot);
                let taken = *lives.entry(who).or_insert_with(|| folder.lives(who)) && !self.passes_by(Some(who));
                match (taken, of == hash) {
                    (true, true) => return (ClaimOutcome::Theirs(who), None),
                    (true, false) => {}
                    (false, _) => drop(free.get_or_insert(slot)),
                }
            }
            let Some(slot) = free else { return (ClaimOutcome::Unmarked, None) };
            (ClaimOutcome::Mine, Some((slot, hash, folder.member)))
        })?;
        Ok(claimed.unwrap_or_else(|| vec![ClaimOutcome::Unmarked; hashes.len()]))
    }

    /// Gives up claims of this process. Returns whether it could.
    pub(super) fn release(&self, folder: &CacheFolder, hashes: &[u64]) -> io::Result<bool> {
        let released = self.each_bucket(folder, hashes, |hash, bucket| {
            let mine = (0..SLOTS).find(|&slot| read(bucket, slot) == (hash, folder.member));
            ((), mine.map(|slot| (slot, 0, 0)))
        })?;
        Ok(released.is_some())
    }

    /// Takes no heed for a while of what `who` claims, who was waited for in vain.
    pub(super) fn pass_by(&self, who: u64) {
        self.passed_by().insert(Some(who), Instant::now() + PASS_BY);
    }

    /// Looks at the bucket of each hash, and writes a slot of it. `None` if the lock is not to be had.
    fn each_bucket<T>(
        &self,
        folder: &CacheFolder,
        hashes: &[u64],
        mut look: impl FnMut(u64, &[u8; BUCKET]) -> (T, Option<(usize, u64, u64)>),
    ) -> io::Result<Option<Vec<T>>> {
        if hashes.is_empty() {
            return Ok(Some(Vec::new()));
        }
        if self.passes_by(None) {
            return Ok(None);
        }
        let Some(guard) = folder.lock_claims(PATIENCE)? else {
            self.passed_by().insert(None, Instant::now() + PASS_BY);
            return Ok(None);
        };
        if guard.0.metadata()?.len() < BUCKETS * BUCKET as u64 {
            // Without a byte on the disk: what nobody has written reads as zeros.
            guard.0.set_len(BUCKETS * BUCKET as u64)?;
        }
        let mut all = Vec::with_capacity(hashes.len());
        for &hash in hashes {
            let at = hash % BUCKETS * BUCKET as u64;
            let mut bucket = [0; BUCKET];
            guard.0.read_exact_at(&mut bucket, at)?;
            let (outcome, write) = look(hash, &bucket);
            if let Some((slot, of, who)) = write {
                let mut bytes = [0; SLOT];
                bytes[..8].copy_from_slice(&of.to_le_bytes());
                bytes[8..].copy_from_slice(&who.to_le_bytes());
                guard.0.write_all_at(&bytes, at + (slot * SLOT) as u64)?;
            }
            all.push(outcome);
        }
        Ok(Some(all))
    }

    fn passes_by(&self, who: Option<u64>) -> bool {
        self.passed_by().get(&who).is_some_and(|until| Instant::now() < *until)
    }

    fn passed_by(&self) -> std::sync::MutexGuard<'_, HashMap<Option<u64>, Instant>> {
        self.passed_by.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn read(bucket: &[u8; BUCKET], slot: usize) -> (u64, u64) {
    let half = |at: usize| bucket[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
    (half(slot * SLOT), half(slot * SLOT + 8))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn somebody_slow_of_whom_something_comes_is_waited_for_and_is_not_passed_by() {
        let mut patience = ClaimWaits::default();
        let mark = |second: u64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        let seconds = Duration::from_secs;
        for second in (0..=600).step_by(20) {
            assert_eq!(patience.judge(1, mark(second), seconds(second)), WaitDecision::On, "{second}");
        }
        assert_eq!(patience.judge(1, mark(601), seconds(601)), WaitDecision::NotForThis);
    }

    #[test]
    fn somebody_of_whom_nothing_comes_is_passed_by() {
        let mut patience = ClaimWaits::default();
        let (mark, seconds) = (Some(SystemTime::UNIX_EPOCH), Duration::from_secs);
        for second in 5..=35 {
            assert_eq!(patience.judge(1, mark, seconds(second)), WaitDecision::On, "{second}");
        }
        // Seen first when half of that was over.
        assert_eq!(patience.judge(2, mark, seconds(20)), WaitDecision::On);
        assert_eq!(patience.judge(1, mark, seconds(36)), WaitDecision::InVain);
        assert_eq!(patience.judge(2, mark, seconds(36)), WaitDecision::On);
        assert_eq!(patience.judge(2, None, seconds(50)), WaitDecision::On);
        assert_eq!(patience.judge(2, None, seconds(81)), WaitDecision::InVain);
    }
}
