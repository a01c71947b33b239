//! The way of an epoch past the bucket: samples that are in the cache, or that somebody else is about to put there.
//!
//! **Why nothing waits for ever.** A group has its bytes of the budget before it claims anything, so a claim waits for calls
//! of the network and never for a training loop. Who finds a sample claimed by another waits for it in a task of its own,
//! with its bytes in hand, while the epoch goes on to later groups; it waits for nothing but time, ten minutes at most, or 30
//! seconds of which nothing comes, and then reads the sample itself. So of two processes that wait for each other's claims
//! both go on; a claim whose process is dead is none; and a ticket, a byte or a slot that somebody waits for is behind reads
//! that all end.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::local::{LocalLookup, LocalSample};
use super::pipeline::{BatchWindow, Engine, EpochContext, read_alone};
use super::wait_report::WindowStages;
use crate::budget::Permit;
use crate::cache::{Cache, CacheCounts, CacheKey, CacheRequest, CacheStats, ClaimOutcome, ClaimWaits, WaitDecision};
use crate::collate::Collate;
use crate::decode::Decode;
use crate::manifest::{Entry, Manifest};
use crate::plan::{Group, MAX_SOURCES, Method, Slice};
use crate::read::{Origin, RawSample};
use crate::sample::SampleId;

/// How long between two looks whether a sample has come: at first, when it may have been almost there, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// Looks for what others have written between two for whether they still live.
const LOOKS: u32 = 8;

/// How long the end of an epoch waits for what is still to be written: what waits is 16 MiB, or one sample.
const AT_END: Duration = Duration::from_secs(10);

/// The cache, as one epoch uses it.
#[derive(Clone, Debug)]
pub(crate) struct CacheSession {
    cache: Cache,
    counts: Arc<CacheCounts>,
}

impl CacheSession {
    pub(crate) fn new(cache: Cache) -> Self {
        Self { cache, counts: Arc::default() }
    }

    /// The same for another epoch, with counts of its own.
    pub(crate) fn for_epoch(&self) -> Self {
        self.cache.begin_epoch();
        Self::new(self.cache.clone())
    }

    pub(crate) fn stats(&self) -> CacheStats {
        self.counts.stats()
    }

    /// Learns what others have put in.
    pub(crate) fn refresh(&self) {
        self.cache.refresh();
    }

    /// Has a job done by the threads that read.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.cache.run(job);
    }

    /// Waits for a while until what was read is written.
    pub(crate) fn flush(&self) {
        self.cache.flush(AT_END);
    }
}

/// A sample that nobody else reads as long as this lives.
#[derive(Debug)]
pub(crate) struct ReadClaim {
    cache: Cache,
    hash: u64,
}

impl Drop for ReadClaim {
    fn drop(&mut self) {
        self.cache.release(self.hash);
    }
}

/// A slice that is this process's to read, with its claim where there is one.
type OwnSlice = (Slice, Option<ReadClaim>);
/// A slice that somebody else reads.
type ClaimedElsewhere = (Slice, u64);

/// The mark of each who reads.
type StageMarks = BTreeMap<u64, Option<SystemTime>>;

/// The key of an object, and the CRC that its bytes must have; `None` for what a cache doesn't keep.
fn key<'a>(cache: &Cache, manifest: &'a Manifest, entry: &'a Entry) -> Option<(CacheKey<'a>, u32)> {
    let key = CacheKey { bucket: &manifest.prefix().bucket, name: &entry.name, generation: entry.generation };
    entry.crc32c.filter(|_| cache.keeps(entry.size)).map(|crc32c| (key, crc32c))
}

/// A group of these samples, without gaps.
fn group(method: Method, slices: impl IntoIterator<Item = Slice>) -> Group {
    let mut group = Group { method, slices: Vec::new() };
    for Slice { slot, id, range } in slices {
        let start = group.bytes();
        group.slices.push(Slice { slot, id, range: start..start + (range.end - range.start) });
    }
    group
}

impl<D: Decode, C: Collate<D::Item>> Engine<D, C> {
    /// Asks the cache for samples, each with its slot.
    pub(crate) fn find(&self, kept: &CacheSession, ids: impl Iterator<Item = (usize, SampleId)>) -> LocalLookup {
        let mut looked = LocalLookup::default();
        // What can't be told is told by whoever reads it, with its error.
        let known: Vec<_> = ids
            .filter_map(|(slot, id)| {
                let entry = self.manifest.at(id.0).ok()?;
                let hash = key(&kept.cache, &self.manifest, &entry)?.0.hash();
                looked.hashes.insert(slot, hash);
                Some((slot, entry, hash))
            })
            .collect();
        let places = kept.cache.find(known.iter().map(|(_, _, hash)| *hash));
        for ((slot, entry, _), place) in known.into_iter().zip(places) {
            if let Some(place) = place {
                looked.insert(slot, LocalSample::Kept(entry, place));
            }
        }
        looked
    }

    /// The bytes of samples that are in the cache, in one buffer; `None` for each that turns out not to be there. Blocks.
    pub(crate) fn read_kept(
        &self,
        CacheSession { cache, counts }: &CacheSession,
        hits: &[LocalSample],
    ) -> Vec<Option<Bytes>> {
        let wanted = hits.iter().filter_map(|hit| {
            let LocalSample::Kept(entry, place) = hit else { return None };
            let (key, crc32c) = key(cache, &self.manifest, entry)?;
            Some(CacheRequest { key, place: *place, size: entry.size, crc32c })
        });
        let wanted: Vec<_> = wanted.collect();
        let size = wanted.iter().map(CacheRequest::bytes).sum();
        let Ok(mut buffer) = self.fetcher.buffers().take(size) else { return vec![None; hits.len()] };
        let ranges = cache.read(&wanted, buffer.fill(size));
        let bytes: Bytes = buffer.freeze();
        let found = ranges.into_iter().map(|range| {
            let range = range?;
            counts.hit(range.len() as u64);
            Some(bytes.slice(range))
        });
        found.collect()
    }

    /// Claims the samples of a group, whose bytes are held, and returns what of it is to be read now, with a claim for each
    /// where it has one. For the others it is seen to that they come.
    pub(crate) fn claim(
        self: &Arc<Self>,
        whole: Group,
        looked: &LocalLookup,
        window: &Arc<BatchWindow<D, C>>,
        passing: Option<&Arc<Permit>>,
        way: &EpochContext<'_, D, C>,
    ) -> Option<(Group, Vec<Option<ReadClaim>>)> {
        let (mine, theirs) = self.divide(whole.slices.clone(), &looked.hashes);
        if theirs.is_empty() {
            let claims = mine.into_iter().map(|(_, claim)| claim).collect();
            return Some((whole, claims));
        }
        let theirs = theirs.into_iter().map(|(slice, _)| slice).collect();
        self.wait_for(theirs, way.next_number(), window, passing.cloned(), way.cancel);
        let (slices, claims): (Vec<_>, Vec<_>) = mine.into_iter().unzip();
        let method = if slices.len() < 2 && whole.method == Method::Composed { Method::Direct } else { whole.method };
        (!slices.is_empty()).then(|| (group(method, slices), claims))
    }

    /// Divides samples into those that this process is to read, each in the order that they have, and those that somebody
    /// else reads, or has read since the cache was asked. Blocks, for moments.
    fn divide(&self, slices: Vec<Slice>, hashes: &BTreeMap<usize, u64>) -> (Vec<OwnSlice>, Vec<ClaimedElsewhere>) {
        let known: Vec<_> = slices.iter().filter_map(|slice| hashes.get(&slice.slot).copied()).collect();
        let Some(CacheSession { cache, .. }) = self.kept.as_ref().filter(|_| !known.is_empty()) else {
            return (slices.into_iter().map(|slice| (slice, None)).collect(), Vec::new());
        };
        let claimed = cache.claim(&known);
        // Whoever had a claim before has written by now, or never will.
        cache.refresh();
        let places = cache.find(known.iter().copied());
        let mut claimed = claimed.into_iter().zip(places);
        let (mut mine, mut theirs) = (Vec::with_capacity(slices.len()), Vec::new());
        for slice in slices {
            let Some(&hash) = hashes.get(&slice.slot) else {
                mine.push((slice, None));
                continue;
            };
            let (claimed, place) = claimed.next().unwrap_or((ClaimOutcome::Unmarked, None));
            let claim = (claimed == ClaimOutcome::Mine).then(|| ReadClaim { cache: cache.clone(), hash });
            match (claimed, place) {
                (ClaimOutcome::Theirs(who), _) => theirs.push((slice, who)),
                // It is there: whoever waits for it finds it at once.
                (_, Some(_)) => theirs.push((slice, 0)),
                (ClaimOutcome::Mine | ClaimOutcome::Unmarked, None) => mine.push((slice, claim)),
            }
        }
        (mine, theirs)
    }

    /// Puts in what was read from the bucket.
    pub(crate) fn keep(&self, samples: &[(usize, RawSample)]) {
        let Some(CacheSession { cache, counts }) = &self.kept else { return };
        for (_, sample) in samples {
            if sample.entry().size > 0 {
                counts.miss();
            }
            if let Some((key, crc32c)) = key(cache, &self.manifest, sample.entry()) {
                cache.put(&key, crc32c, sample.bytes(), counts);
            }
        }
    }

    /// Starts a task that brings samples which somebody else reads, or that aren't where they were found.
    pub(crate) fn wait_for(
        self: &Arc<Self>,
        slices: Vec<Slice>,
        number: u64,
        window: &Arc<BatchWindow<D, C>>,
        passing: Option<Arc<Permit>>,
        cancel: &watch::Receiver<bool>,
    ) {
        window.steps.claimed(slices.iter().map(|slice| slice.slot));
        let (engine, window, mut cancel) = (Arc::clone(self), Arc::clone(window), cancel.clone());
        self.io.handle().spawn(async move {
            tokio::select! {
                () = engine.obtain(slices, number, &window, passing) => {}
                // Also when the iterator is gone without a word.
                _ = cancel.wait_for(|&cancelled| cancelled) => {}
            }
        });
    }

    /// Brings samples from the cache as soon as they are there, or from the bucket when it is this process's turn.
    async fn obtain(
        self: &Arc<Self>,
        slices: Vec<Slice>,
        number: u64,
        window: &Arc<BatchWindow<D, C>>,
        passing: Option<Arc<Permit>>,
    ) {
        let Some(CacheSession { cache, .. }) = &self.kept else {
            // Nobody else does.
            let slices = slices.into_iter().map(|slice| (slice, None)).collect();
            return self.read_each(slices, number, window, passing.as_ref()).await;
        };
        let mut slices: Vec<ClaimedElsewhere> = slices.into_iter().map(|slice| (slice, 0)).collect();
        let (began, mut patience) = (Instant::now(), ClaimWaits::default());
        let (mut pause, mut looks) = (LOOK.0, 0);
        loop {
            let (engine, of, held) = (Arc::clone(self), Arc::clone(window), passing.clone());
            let (done, wait) = oneshot::channel();
            // On a thread of the cache: those that carry the network's calls must not wait for a disk.
            cache.run(move || drop(done.send(engine.look(slices, looks % LOOKS == 0, &of, held.as_ref()))));
            // Closed: it panicked, and the promise that it held is broken.
            let Ok((mut mine, theirs, marks)) = wait.await else { return };
            let waits: BTreeMap<u64, WaitDecision> =
                marks.into_iter().map(|(who, mark)| (who, patience.judge(who, mark, began.elapsed()))).collect();
            waits.iter().filter(|(_, wait)| **wait == WaitDecision::InVain).for_each(|(who, _)| cache.pass_by(*who));
            let (late, rest): (Vec<_>, Vec<_>) =
                theirs.into_iter().partition(|(_, who)| waits[who] != WaitDecision::On);
            mine.extend(late.into_iter().map(|(slice, _)| (slice, None)));
            self.read_each(mine, number, window, passing.as_ref()).await;
            slices = rest;
            if slices.is_empty() {
                return;
            }
            tokio::time::sleep(pause).await;
            (pause, looks) = ((2 * pause).min(LOOK.1), looks + 1);
        }
    }

    /// Looks for samples that somebody else reads, and settles what to do if any have come, or `anyway`. Returns what is now
    /// this process's to read, what isn't, and the marks of those whose it is. Blocks.
    fn look(
        &self,
        slices: Vec<ClaimedElsewhere>,
        anyway: bool,
        window: &BatchWindow<D, C>,
        passing: Option<&Arc<Permit>>,
    ) -> (Vec<OwnSlice>, Vec<ClaimedElsewhere>, StageMarks) {
        let Some(kept @ CacheSession { cache, .. }) = &self.kept else { return Default::default() };
        cache.refresh_after(LOOK.0);
        let has_come = || self.find(kept, slices.iter().map(|(slice, _)| (slice.slot, slice.id))).has_any();
        let (mine, theirs) = if anyway || has_come() {
            self.settle(slices.into_iter().map(|(slice, _)| slice).collect(), window, passing)
        } else {
            (Vec::new(), slices)
        };
        let marks = theirs.iter().map(|(_, who)| *who).collect::<BTreeSet<_>>();
        let marks = marks.into_iter().map(|who| (who, cache.mark(who))).collect();
        (mine, theirs, marks)
    }

    /// Reads what has come, and claims what nobody reads any more. Blocks.
    fn settle(
        &self,
        slices: Vec<Slice>,
        window: &BatchWindow<D, C>,
        passing: Option<&Arc<Permit>>,
    ) -> (Vec<OwnSlice>, Vec<ClaimedElsewhere>) {
        let find = |kept| self.find(kept, slices.iter().map(|slice| (slice.slot, slice.id)));
        let mut looked = self.kept.as_ref().map(find).unwrap_or_default();
        let (there, rest): (Vec<_>, Vec<_>) = slices.into_iter().partition(|slice| looked.has(slice.slot));
        let hits = there.iter().filter_map(|slice| looked.take(slice.slot)).collect();
        let missed = self.read_hits(there, hits, window, passing);
        let (mut mine, theirs) = self.divide(rest, &looked.hashes);
        // What can't be read though it is there is not waited for.
        mine.extend(missed.into_iter().map(|slice| (slice, None)));
        (mine, theirs)
    }

    /// Reads one sample by itself: from the cache, or else from the bucket, and then it is kept. It isn't claimed, and so
    /// waits for nobody. How far it is, is told at its place among these steps.
    pub(crate) async fn read_one(
        self: &Arc<Self>,
        group: Group,
        number: u64,
        (steps, at): (&WindowStages, usize),
    ) -> crate::Result<Vec<(usize, RawSample)>> {
        if let Some(CacheSession { cache, .. }) = &self.kept {
            steps.kept(std::iter::once(at));
            let (slot, id) = (group.slices[0].slot, group.slices[0].id);
            let (engine, (done, wait)) = (Arc::clone(self), oneshot::channel());
            cache.run(move || drop(done.send(engine.read_hit(id))));
            if let Ok(Some(sample)) = wait.await {
                return Ok(vec![(slot, sample)]);
            }
        }
        self.groups.count(group.method);
        let told = |step| steps.step(std::iter::once(at), step);
        let samples = read_alone(&self.fetcher, &self.manifest, group, number, &told).await?;
        self.keep(&samples);
        Ok(samples)
    }

    /// A sample from the cache, if it is there. Blocks.
    fn read_hit(&self, id: SampleId) -> Option<RawSample> {
        let kept = self.kept.as_ref()?;
        kept.cache.refresh_after(LOOK.0);
        let hit = self.find(kept, std::iter::once((0, id))).take(0)?;
        let bytes = self.read_kept(kept, std::slice::from_ref(&hit)).pop()??;
        Some(RawSample::proved(&Origin::new(&self.manifest), id, hit.entry(), bytes))
    }

    /// Reads samples from the bucket, each by itself.
    async fn read_each(
        &self,
        slices: Vec<OwnSlice>,
        number: u64,
        window: &BatchWindow<D, C>,
        passing: Option<&Arc<Permit>>,
    ) {
        let reads = slices.into_iter().map(async |(slice, claim)| {
            let (slot, id) = (slice.slot, slice.id);
            let alone = self.planner.alone(&slice);
            if self.kept.is_some() {
                // Without a cache they were counted when they were found in memory.
                self.groups.count(alone.method);
            }
            let told = |step| window.steps.step(std::iter::once(slot), step);
            match read_alone(&self.fetcher, &self.manifest, alone, number, &told).await {
                Ok(samples) => {
                    self.keep(&samples);
                    drop(claim);
                    self.hand_over(samples, window, passing);
                }
                Err(error) => _ = self.lose(window.place(slot), id, error),
            }
        });
        stream::iter(reads).for_each_concurrent(MAX_SOURCES, |read| read).await;
    }
}
