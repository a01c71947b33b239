//! Claims of samples that are being read from the bucket, so that of two processes that want the same sample only one
//! reads it.
//!
//! The file `claims` is a table of 2^16 buckets of four slots. A slot holds the hash of a key and the number of the
//! process that claims it, 8 bytes each, little-endian; number 0 is a free slot. The table is read and written under a
//! lock that is held for a few system calls only. If the table is damaged, the worst outcome is a wait that ends, or a
//! sample that two processes read from the bucket.

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use super::folder::CacheFolder;

use crate::lock::lock;

/// Room for 262,144 claims in 4 MiB, several times what the processes of a machine read at once.
const BUCKETS: u64 = 1 << 16;
const BUCKET_SLOTS: usize = 4;
const SLOT_BYTES: usize = 16;
const BUCKET_BYTES: usize = BUCKET_SLOTS * SLOT_BYTES;

/// How long a claim waits for the lock. It is free within microseconds, unless a process is suspended, or gets no CPU
/// time, while it holds the lock.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// How long no claim is tried after the lock was not free in time, and how long the claims of a process are ignored
/// after a wait for it was in vain.
const IGNORE_TIME: Duration = Duration::from_secs(60);

/// How long to wait for a process that makes no progress: longer than a read takes that stalls once and is retried.
const MAX_STANDSTILL: Duration = Duration::from_secs(30);

/// How long to wait for a process at most, whatever progress it makes: a memory budget of 1 GiB takes as long at 2
/// MB/s.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// How long a reader has waited for each process whose claims are in its way. Pure.
///
/// Claims are made when reads are planned, so the age of a claim says nothing on a slow network. Progress does: whether
/// the process has written a sample or given up a claim meanwhile, which changes the time of its last progress.
#[derive(Debug, Default)]
pub(crate) struct ClaimWaits {
    seen: HashMap<u64, SeenProgress>,
}

/// The last progress of a process, and how long the reader had waited when it first saw that.
#[derive(Debug)]
struct SeenProgress {
    last_progress: Option<SystemTime>,
    waited: Duration,
}

/// Whether a reader keeps waiting for a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitDecision {
    Continue,
    /// The wait takes too long, although the process makes progress: read this sample from the bucket.
    GiveUpSample,
    /// The process makes no progress: ignore all of its claims.
    GiveUpProcess,
}

impl ClaimWaits {
    /// Decides about a process after having `waited`, by the time of its last progress.
    pub(crate) fn judge(&mut self, member: u64, last_progress: Option<SystemTime>, waited: Duration) -> WaitDecision {
        let seen = self.seen.entry(member).or_insert(SeenProgress { last_progress, waited });
        if seen.last_progress != last_progress {
            *seen = SeenProgress { last_progress, waited };
        }
        match waited {
            _ if waited.saturating_sub(seen.waited) > MAX_STANDSTILL => WaitDecision::GiveUpProcess,
            _ if waited > MAX_WAIT => WaitDecision::GiveUpSample,
            _ => WaitDecision::Continue,
        }
    }
}

/// The outcome of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClaimOutcome {
    /// The sample is this reader's until released.
    Mine,
    /// Another reader of the process with this number reads the sample. The process may be this one.
    Theirs(u64),
    /// No reader is known to read the sample, and the claim could not be recorded.
    Unrecorded,
}

/// The table of claims, as one process uses it.
#[derive(Debug, Default)]
pub(super) struct ClaimTable {
    /// Processes whose claims are ignored, each with the end of that.
    ignored: Mutex<HashMap<u64, Instant>>,
    /// Until when nothing is claimed, because the lock was not free in time.
    suspended_until: Mutex<Option<Instant>>,
}

/// The content of a slot; [`Claim::FREE`] if nobody claims it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Claim {
    hash: u64,
    member: u64,
}

impl Claim {
    const FREE: Self = Self { hash: 0, member: 0 };

    fn read(bucket: &[u8; BUCKET_BYTES], slot: usize) -> Self {
        let number = |at: usize| bucket[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        Self { hash: number(slot * SLOT_BYTES), member: number(slot * SLOT_BYTES + 8) }
    }

    fn encode(self) -> [u8; SLOT_BYTES] {
        let mut bytes = [0; SLOT_BYTES];
        bytes[..8].copy_from_slice(&self.hash.to_le_bytes());
        bytes[8..].copy_from_slice(&self.member.to_le_bytes());
        bytes
    }
}

/// A change to a bucket of the table.
struct SlotWrite {
    slot: usize,
    claim: Claim,
}

impl ClaimTable {
    /// Claims the samples that no other reader claims.
    pub(super) fn claim(&self, folder: &CacheFolder, hashes: &[u64]) -> io::Result<Vec<ClaimOutcome>> {
        let mut is_alive = HashMap::from([(Claim::FREE.member, false)]);
        let claimed = self.update_buckets(folder, hashes, |hash, bucket| {
            let mut free = None;
            for slot in 0..BUCKET_SLOTS {
                let Claim { hash: claimed, member } = Claim::read(bucket, slot);
                let is_alive = *is_alive.entry(member).or_insert_with(|| folder.is_alive(member));
                match (is_alive && !self.is_ignored(member), claimed == hash) {
                    (true, true) => return (ClaimOutcome::Theirs(member), None),
                    (true, false) => {}
                    (false, _) => drop(free.get_or_insert(slot)),
                }
            }
            let Some(slot) = free else { return (ClaimOutcome::Unrecorded, None) };
            (ClaimOutcome::Mine, Some(SlotWrite { slot, claim: Claim { hash, member: folder.member } }))
        })?;
        Ok(claimed.unwrap_or_else(|| vec![ClaimOutcome::Unrecorded; hashes.len()]))
    }

    /// Gives up claims of this process. Returns false if the lock was not free in time.
    pub(super) fn release(&self, folder: &CacheFolder, hashes: &[u64]) -> io::Result<bool> {
        let released = self.update_buckets(folder, hashes, |hash, bucket| {
            let mine = Claim { hash, member: folder.member };
            let slot = (0..BUCKET_SLOTS).find(|&slot| Claim::read(bucket, slot) == mine);
            ((), slot.map(|slot| SlotWrite { slot, claim: Claim::FREE }))
        })?;
        Ok(released.is_some())
    }

    /// Ignores for a while the claims of a process that was waited for in vain.
    pub(super) fn ignore(&self, member: u64) {
        lock(&self.ignored).insert(member, Instant::now() + IGNORE_TIME);
    }

    /// Calls `update` with the bucket of each hash, and writes the slot that it returns. Returns what `update` returned
    /// beside it; `None` if the lock was not free in time.
    fn update_buckets<T>(
        &self,
        folder: &CacheFolder,
        hashes: &[u64],
        mut update: impl FnMut(u64, &[u8; BUCKET_BYTES]) -> (T, Option<SlotWrite>),
    ) -> io::Result<Option<Vec<T>>> {
        if hashes.is_empty() {
            return Ok(Some(Vec::new()));
        }
        if lock(&self.suspended_until).is_some_and(|until| Instant::now() < until) {
            return Ok(None);
        }
        let Some(file) = folder.lock_claims(LOCK_WAIT)? else {
            *lock(&self.suspended_until) = Some(Instant::now() + IGNORE_TIME);
            return Ok(None);
        };

        if file.metadata()?.len() < BUCKETS * BUCKET_BYTES as u64 {
            // This takes no space on the disk: what was never written reads as zeros.
            file.set_len(BUCKETS * BUCKET_BYTES as u64)?;
        }
        let mut outcomes = Vec::with_capacity(hashes.len());
        for &hash in hashes {
            let offset = hash % BUCKETS * BUCKET_BYTES as u64;
            let mut bucket = [0; BUCKET_BYTES];
            file.read_exact_at(&mut bucket, offset)?;
            let (outcome, write) = update(hash, &bucket);
            if let Some(SlotWrite { slot, claim }) = write {
                file.write_all_at(&claim.encode(), offset + (slot * SLOT_BYTES) as u64)?;
            }
            outcomes.push(outcome);
        }
        Ok(Some(outcomes))
    }

    fn is_ignored(&self, member: u64) -> bool {
        lock(&self.ignored).get(&member).is_some_and(|until| Instant::now() < *until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_process_that_makes_progress_is_waited_for_and_not_ignored() {
        let mut waits = ClaimWaits::default();
        let progress = |second: u64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        let seconds = Duration::from_secs;
        for second in (0..=600).step_by(20) {
            assert_eq!(waits.judge(1, progress(second), seconds(second)), WaitDecision::Continue, "{second}");
        }
        assert_eq!(waits.judge(1, progress(601), seconds(601)), WaitDecision::GiveUpSample);
    }

    #[test]
    fn a_process_without_progress_is_given_up() {
        let mut waits = ClaimWaits::default();
        let (progress, seconds) = (Some(SystemTime::UNIX_EPOCH), Duration::from_secs);
        for second in 5..=35 {
            assert_eq!(waits.judge(1, progress, seconds(second)), WaitDecision::Continue, "{second}");
        }
        // Seen for the first time when half of that was over.
        assert_eq!(waits.judge(2, progress, seconds(20)), WaitDecision::Continue);
        assert_eq!(waits.judge(1, progress, seconds(36)), WaitDecision::GiveUpProcess);
        assert_eq!(waits.judge(2, progress, seconds(36)), WaitDecision::Continue);
        assert_eq!(waits.judge(2, None, seconds(50)), WaitDecision::Continue);
        assert_eq!(waits.judge(2, None, seconds(81)), WaitDecision::GiveUpProcess);
    }
}
