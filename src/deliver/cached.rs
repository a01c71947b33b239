//! The way of an epoch past the bucket: samples that are in the cache, or that somebody else is about to put there.
//!
//! **Why nothing waits for ever.** A group has its bytes of the budget before it claims anything, so a claim waits for calls
//! of the network and never for a training loop. Who finds a sample claimed by another waits for it in a task of its own,
//! with its bytes in hand, while the epoch goes on to later groups; it waits for nothing but time, 30 seconds at most, and
//! then reads the sample itself. So of two processes that wait for each other's claims both go on; a claim whose process is
//! dead is none; and a ticket, a byte or a slot that somebody waits for is behind reads that all end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::pipeline::{Engine, Way, Window, is_cancelled, read_alone};
use super::stall::Steps;
use crate::Result;
use crate::budget::Permit;
use crate::cache::{Cache, CacheCounts, CacheStats, Claimed, Key, Place, Wanted};
use crate::collate::Collate;
use crate::decode::Decode;
use crate::manifest::{Entry, Manifest};
use crate::plan::{Group, MAX_SOURCES, Method, Slice};
use crate::sample::SampleId;
use crate::split::RawSample;

/// How long somebody else is waited for: longer than a read takes that stalls once and is made again.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long between two looks whether a sample has come: at first, when it may have been almost there, and at most.
const LOOK: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(50));

/// Looks for what others have written between two for whether they still live.
const LOOKS: u32 = 8;

/// Bytes that one thread reads at a time, at most unless one sample has more: so few that threads share what is to be
/// read, so many that handing it over is nothing beside it.
const AT_A_TIME: u64 = 1 << 20;

/// How long the end of an epoch waits for what is still to be written: what waits is 16 MiB, or one sample.
const AT_END: Duration = Duration::from_secs(10);

/// The cache, as one epoch uses it.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    cache: Cache,
    counts: Arc<CacheCounts>,
}

impl Kept {
    pub(super) fn new(cache: Cache) -> Self {
        Self { cache, counts: Arc::default() }
    }

    /// The same for another epoch, with counts of its own.
    pub(super) fn for_epoch(&self) -> Self {
        self.cache.begin_epoch();
        Self::new(self.cache.clone())
    }

    pub(super) fn stats(&self) -> CacheStats {
        self.counts.stats()
    }

    /// Waits for a while until what was read is written.
    pub(super) fn flush(&self) {
        self.cache.flush(AT_END);
    }
}

/// What the cache said of the samples of a window, by their slots.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// None of those that a cache doesn't keep.
    hashes: BTreeMap<usize, u64>,
    hits: BTreeMap<usize, Hit>,
}

#[derive(Debug)]
struct Hit {
    entry: Entry,
    place: Place,
}

/// A sample that nobody else reads as long as this lives.
#[derive(Debug)]
pub(super) struct Claim {
    cache: Cache,
    hash: u64,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.cache.release(self.hash);
    }
}

/// A slice that is this process's to read, with its claim where there is one.
type Mine = (Slice, Option<Claim>);
/// A slice that somebody else reads.
type Theirs = (Slice, u64);

/// The key of an object, and the CRC that its bytes must have; `None` for what a cache doesn't keep.
fn key<'a>(cache: &Cache, manifest: &'a Manifest, entry: &'a Entry) -> Option<(Key<'a>, u32)> {
    let key = Key { bucket: &manifest.prefix().bucket, name: &entry.name, generation: entry.generation };
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
    /// Asks the cache for the samples of a window.
    pub(super) fn look_up(&self, ids: &[SampleId]) -> Looked {
        let Some(kept) = &self.kept else { return Looked::default() };
        kept.cache.refresh();
        self.find(ids.iter().copied().enumerate())
    }

    fn find(&self, ids: impl Iterator<Item = (usize, SampleId)>) -> Looked {
        let Some(kept) = &self.kept else { return Looked::default() };
        let mut looked = Looked::default();
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
        let hits = known.into_iter().zip(places);
        looked.hits = hits.filter_map(|((slot, entry, _), place)| Some((slot, Hit { entry, place: place? }))).collect();
        looked
    }

    /// Cuts the samples of a window into groups: those that are in the cache, and the others as they are always planned.
    pub(super) fn plan(&self, ids: &[SampleId], looked: &Looked) -> Result<Vec<Group>> {
        let (slots, rest): (Vec<_>, Vec<_>) =
            ids.iter().copied().enumerate().filter(|(slot, _)| !looked.hits.contains_key(slot)).unzip();
        let mut groups = self.planner.plan(&rest)?;
        for slice in groups.iter_mut().flat_map(|group| &mut group.slices) {
            slice.slot = slots[slice.slot];
        }
        if !self.fetcher.may_compose() {
            groups = groups.iter().flat_map(Group::split_up).collect();
        }
        if !looked.hits.is_empty() {
            groups.extend(looked.groups(ids));
            groups.sort_by_key(|group| group.slices[0].slot);
        }
        Ok(groups)
    }

    /// Starts to read a group that is in the cache, whose bytes are held; whether it is.
    pub(super) fn read_kept(
        self: &Arc<Self>,
        group: &Group,
        looked: &mut Looked,
        window: &Arc<Window<D, C>>,
        passing: Option<&Arc<Permit>>,
        way: &Way<'_, D, C>,
    ) -> bool {
        let Some(kept) = &self.kept else { return false };
        let hits: Vec<_> = group.slices.iter().map_while(|slice| looked.hits.remove(&slice.slot)).collect();
        if hits.is_empty() {
            return false;
        }
        let number = way.next_number();
        let (engine, window, passing) = (Arc::clone(self), Arc::clone(window), passing.cloned());
        let (slices, cancel) = (group.slices.clone(), way.cancel.clone());
        window.steps.kept(slices.iter().map(|slice| slice.slot));
        kept.cache.run(move || {
            if is_cancelled(&cancel) {
                return;
            }
            let missed = engine.read_hits(slices, hits, &window, passing.as_ref());
            if !missed.is_empty() {
                engine.wait_for(missed, number, &window, passing, &cancel);
            }
        });
        true
    }

    /// Reads samples from the cache and hands them over; returns those that turned out not to be there.
    fn read_hits(
        &self,
        slices: Vec<Slice>,
        hits: Vec<Hit>,
        window: &Window<D, C>,
        passing: Option<&Arc<Permit>>,
    ) -> Vec<Slice> {
        let Some(Kept { cache, counts }) = &self.kept else { return slices };
        let wanted = hits.iter().filter_map(|Hit { entry, place }| {
            let (key, crc32c) = key(cache, &self.manifest, entry)?;
            Some(Wanted { key, place: *place, size: entry.size, crc32c })
        });
        let wanted: Vec<_> = wanted.collect();
        let size = wanted.iter().map(Wanted::bytes).sum();
        let Ok(mut buffer) = self.fetcher.buffers().take(size) else { return slices };
        let ranges = cache.read(&wanted, buffer.fill(size));
        drop(wanted);
        let bytes: Bytes = buffer.freeze();
        let (mut samples, mut missed) = (Vec::with_capacity(slices.len()), Vec::new());
        for ((slice, hit), range) in slices.into_iter().zip(hits).zip(ranges) {
            let Some(range) = range else {
                missed.push(slice);
                continue;
            };
            counts.hit(range.len() as u64);
            let sample = RawSample::kept(Arc::clone(&self.manifest), slice.id, hit.entry, bytes.slice(range));
            samples.push((slice.slot, sample));
        }
        self.hand_over(samples, window, passing);
        missed
    }

    /// Claims the samples of a group, whose bytes are held, and returns what of it is to be read now, with a claim for each
    /// where it has one. For the others it is seen to that they come.
    pub(super) fn claim(
        self: &Arc<Self>,
        whole: Group,
        looked: &Looked,
        window: &Arc<Window<D, C>>,
        passing: Option<&Arc<Permit>>,
        way: &Way<'_, D, C>,
    ) -> Option<(Group, Vec<Option<Claim>>)> {
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
    fn divide(&self, slices: Vec<Slice>, hashes: &BTreeMap<usize, u64>) -> (Vec<Mine>, Vec<Theirs>) {
        let known: Vec<_> = slices.iter().filter_map(|slice| hashes.get(&slice.slot).copied()).collect();
        let Some(Kept { cache, .. }) = self.kept.as_ref().filter(|_| !known.is_empty()) else {
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
            let (claimed, place) = claimed.next().unwrap_or((Claimed::Unmarked, None));
            let claim = (claimed == Claimed::Mine).then(|| Claim { cache: cache.clone(), hash });
            match (claimed, place) {
                (Claimed::Theirs(who), _) => theirs.push((slice, who)),
                // It is there: whoever waits for it finds it at once.
                (_, Some(_)) => theirs.push((slice, 0)),
                (Claimed::Mine | Claimed::Unmarked, None) => mine.push((slice, claim)),
            }
        }
        (mine, theirs)
    }

    /// Puts in what was read from the bucket.
    pub(super) fn keep(&self, samples: &[(usize, RawSample)]) {
        let Some(Kept { cache, counts }) = &self.kept else { return };
        for (_, sample) in samples {
            if sample.entry().size > 0 {
                counts.miss();
            }
            if let Some((key, crc32c)) = key(cache, &self.manifest, sample.entry()) {
                cache.put(&key, crc32c, sample.bytes(), counts);
            }
        }
    }

    /// Starts a task that brings samples which somebody else reads.
    fn wait_for(
        self: &Arc<Self>,
        slices: Vec<Slice>,
        number: u64,
        window: &Arc<Window<D, C>>,
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
        mut slices: Vec<Slice>,
        number: u64,
        window: &Arc<Window<D, C>>,
        passing: Option<Arc<Permit>>,
    ) {
        let Some(Kept { cache, .. }) = &self.kept else { return };
        let until = Instant::now() + PATIENCE;
        let (mut pause, mut looks) = (LOOK.0, 0);
        loop {
            cache.refresh_after(LOOK.0);
            let has_come = !self.find(slices.iter().map(|slice| (slice.slot, slice.id))).hits.is_empty();
            if has_come || looks % LOOKS == 0 {
                let (engine, of, held) = (Arc::clone(self), Arc::clone(window), passing.clone());
                let (done, wait) = oneshot::channel();
                cache.run(move || drop(done.send(engine.settle(slices, &of, held.as_ref()))));
                // Closed: it panicked, and the promise that it held is broken.
                let Ok((mine, theirs)) = wait.await else { return };
                self.read_each(mine, number, window, passing.as_ref()).await;
                if Instant::now() > until {
                    let late = theirs.into_iter().map(|(slice, who)| {
                        cache.pass_by(who);
                        (slice, None)
                    });
                    return self.read_each(late.collect(), number, window, passing.as_ref()).await;
                }
                slices = theirs.into_iter().map(|(slice, _)| slice).collect();
            }
            if slices.is_empty() {
                return;
            }
            tokio::time::sleep(pause).await;
            (pause, looks) = ((2 * pause).min(LOOK.1), looks + 1);
        }
    }

    /// Reads what has come, and claims what nobody reads any more. Blocks.
    fn settle(
        &self,
        slices: Vec<Slice>,
        window: &Window<D, C>,
        passing: Option<&Arc<Permit>>,
    ) -> (Vec<Mine>, Vec<Theirs>) {
        let mut looked = self.find(slices.iter().map(|slice| (slice.slot, slice.id)));
        let (there, rest): (Vec<_>, Vec<_>) =
            slices.into_iter().partition(|slice| looked.hits.contains_key(&slice.slot));
        let hits = there.iter().filter_map(|slice| looked.hits.remove(&slice.slot)).collect();
        let missed = self.read_hits(there, hits, window, passing);
        let (mut mine, theirs) = self.divide(rest, &looked.hashes);
        // What can't be read though it is there is not waited for.
        mine.extend(missed.into_iter().map(|slice| (slice, None)));
        (mine, theirs)
    }

    /// Reads one sample by itself: from the cache, or else from the bucket, and then it is kept. It isn't claimed, and so
    /// waits for nobody. How far it is, is told at its place among these steps.
    pub(super) async fn read_one(
        self: &Arc<Self>,
        group: Group,
        number: u64,
        (steps, at): (&Steps, usize),
    ) -> Result<Vec<(usize, RawSample)>> {
        if let Some(Kept { cache, .. }) = &self.kept {
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
        let Kept { cache, counts } = self.kept.as_ref()?;
        cache.refresh_after(LOOK.0);
        let Hit { entry, place } = self.find(std::iter::once((0, id))).hits.remove(&0)?;
        let (key, crc32c) = key(cache, &self.manifest, &entry)?;
        let wanted = Wanted { key, place, size: entry.size, crc32c };
        let size = wanted.bytes();
        let mut buffer = self.fetcher.buffers().take(size).ok()?;
        let range = cache.read(&[wanted], buffer.fill(size)).pop()??;
        counts.hit(entry.size);
        Some(RawSample::kept(Arc::clone(&self.manifest), id, entry, buffer.freeze().slice(range)))
    }

    /// Reads samples from the bucket, each by itself.
    async fn read_each(&self, slices: Vec<Mine>, number: u64, window: &Window<D, C>, passing: Option<&Arc<Permit>>) {
        let reads = slices.into_iter().map(async |(slice, claim)| {
            let (slot, id) = (slice.slot, slice.id);
            let alone = self.planner.alone(&slice);
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

impl Looked {
    /// The groups of samples that are in the cache.
    fn groups(&self, ids: &[SampleId]) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (&slot, Hit { entry, .. }) in &self.hits {
            let last = groups.last().map_or((MAX_SOURCES, 0), |group| (group.slices.len(), group.bytes()));
            let start = if last.0 < MAX_SOURCES && last.1.saturating_add(entry.size) <= AT_A_TIME {
                last.1
            } else {
                groups.push(Group { method: Method::Direct, slices: Vec::new() });
                0
            };
            let slice = Slice { slot, id: ids[slot], range: start..start + entry.size };
            groups.last_mut().expect("there is one, or one was pushed").slices.push(slice);
        }
        groups
    }
}
