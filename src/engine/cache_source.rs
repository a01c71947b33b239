//! Samples that are read from the cache, or that another loader or process is about to write there. All others come
//! from the bucket.
//!
//! **Why no wait for a claim is endless.** A group holds its bytes of the memory budget before it claims its samples,
//! so a claim is held only during network calls, and never waits for a training loop. A read that finds samples claimed
//! by another process waits in a task of its own, while the planner starts later groups; the batches hold the group's
//! bytes meanwhile. That task stops waiting after ten minutes, or after 30 seconds without a sign of the other process,
//! and then reads the samples itself. So two processes that wait for each other's claims both resume, and the claim of
//! a dead process counts for nothing. So every read ends, and with it every wait of the training loop, the budget and
//! the gate.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::bucket::BucketSource;
use super::cache_session::{CacheHit, CacheLookup, CacheSession, ReadClaim, SampleReader};
use super::source::{Delivery, PlannedReads, ReadStart, SampleSource, spawn_read};
use super::stages::{SampleStage, WindowStages};
use crate::Result;
use crate::cache::{ClaimWaits, WaitDecision};
use crate::plan::{Group, MAX_SOURCES, Method, Planner, Slice};
use crate::read::{Origin, RawSample};
use crate::sample::SampleId;

/// The first pause between two looks for claimed samples, which may be about to arrive.
const SHORTEST_PAUSE: Duration = Duration::from_millis(2);

/// The longest pause between two looks. It is about the latency of starting a read, so polling adds little delay.
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// At its first look, and then once in so many looks, the waiting task also claims samples again, in case their reader
/// has died.
const LOOKS_PER_CLAIM: u32 = 8;

/// Bytes that one job reads from the cache, unless one sample has more. They are few enough to share the work among
/// threads, and enough to hide the cost of handing over a job.
const JOB_BYTES: u64 = 1 << 20;

/// Reads samples from the cache, and from the bucket those that are not in it.
pub(crate) struct CacheSource {
    pub(crate) session: CacheSession,
    pub(crate) bucket: Arc<BucketSource>,
}

struct CacheReads {
    source: Arc<CacheSource>,
    groups: Vec<Group>,
    lookup: CacheLookup,
}

/// Samples by who reads them.
#[derive(Default)]
struct Division {
    /// Those that this loader reads from the bucket, with its claims.
    own: Vec<(Slice, Option<ReadClaim>)>,
    /// Those that other loaders or processes read, each with the number of its reader's claims.
    awaited: Vec<(Slice, u64)>,
}

/// A group of these samples, without gaps between their bytes.
fn group(method: Method, slices: impl IntoIterator<Item = Slice>) -> Group {
    let mut group = Group { method, slices: Vec::new() };
    for slice in slices {
        let start = group.bytes();
        group.slices.push(slice.at(start));
    }
    group
}

/// Groups of the samples that are in the cache, each of at most `max_bytes` bytes unless it has one sample.
fn cached_groups(ids: &[SampleId], lookup: &CacheLookup, planner: &Planner, max_bytes: u64) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for (slot, hit) in lookup.hits() {
        let slice = planner.slice(slot, ids[slot], &hit.location);
        let has_room = |group: &&mut Group| {
            group.slices.len() < MAX_SOURCES && group.bytes().saturating_add(slice.bytes()) <= max_bytes
        };
        match groups.last_mut().filter(has_room) {
            Some(group) => {
                let start = group.bytes();
                group.slices.push(slice.at(start));
            }
            None => groups.push(Group { method: Method::Direct, slices: vec![slice] }),
        }
    }
    groups
}

impl PlannedReads for CacheReads {
    fn groups(&self) -> &[Group] {
        &self.groups
    }

    fn start(&mut self, index: usize, mut delivery: Delivery, start: &ReadStart<'_>) -> Option<()> {
        let group = std::mem::replace(&mut self.groups[index], group(Method::Empty, []));
        delivery.cache = Some(self.source.session.clone());
        let hits: Vec<_> = group.slices.iter().map_while(|slice| self.lookup.take_hit(slice.slot)).collect();
        if hits.is_empty() {
            return self.source.start_uncached(group, &self.lookup, delivery, start);
        }
        let (source, number) = (Arc::clone(&self.source), start.numbers.next());
        delivery.stages().set(group.slices.iter().map(|slice| slice.slot), SampleStage::Caching);
        let task = delivery.cancel.track_task();
        self.source.session.cache.run(move || {
            let _task = task;
            if !delivery.cancel.is_cancelled() {
                let missed = source.deliver_hits(group.slices, hits, &delivery);
                source.spawn_waiter(missed, number, delivery);
            }
        });
        Some(())
    }
}

#[async_trait]
impl SampleSource for CacheSource {
    fn plan(self: Arc<Self>, ids: &[SampleId], fits: &dyn Fn(&[Group]) -> bool) -> Result<Box<dyn PlannedReads>> {
        self.session.cache.refresh();
        let lookup = self.session.find(ids.iter().copied().enumerate());
        let uncached = (0..ids.len()).filter(|slot| !lookup.has_hit(*slot));
        let uncached: Vec<_> = uncached.collect();
        let mut from_bucket = self.bucket.plan_groups(&uncached.iter().map(|slot| ids[*slot]).collect::<Vec<_>>())?;
        for slice in from_bucket.iter_mut().flat_map(|group| &mut group.slices) {
            slice.slot = uncached[slice.slot];
        }

        let with_cached = |max_bytes| {
            let cached = cached_groups(ids, &lookup, &self.bucket.planner, max_bytes);
            let mut groups = [from_bucket.as_slice(), &cached].concat();
            groups.sort_by_key(|group| group.slices[0].slot);
            groups
        };
        let mut groups = with_cached(JOB_BYTES);
        if !fits(&groups) {
            // Single samples may fit where many at once are too much for the budget.
            groups = with_cached(0);
        }
        Ok(Box::new(CacheReads { source: self, groups, lookup }))
    }

    async fn read_one(self: Arc<Self>, group: Group, read_number: u64, stages: &WindowStages) -> Result<RawSample> {
        let (slot, id) = (group.slices[0].slot, group.slices[0].id);
        stages.set([slot], SampleStage::Caching);
        let (source, (done, wait)) = (Arc::clone(&self), oneshot::channel());
        self.session.cache.run(move || drop(done.send(source.find_and_read(id))));
        if let Ok(Some(sample)) = wait.await {
            return Ok(sample);
        }
        let sample = Arc::clone(&self.bucket).read_one(group, read_number, stages).await?;
        self.session.put(&sample);
        Ok(sample)
    }
}

impl CacheSource {
    /// Starts the read of a group whose samples were not in the cache when it was planned. Samples that another loader
    /// or process reads are awaited in a task of their own.
    fn start_uncached(
        self: &Arc<Self>,
        whole: Group,
        lookup: &CacheLookup,
        delivery: Delivery,
        start: &ReadStart<'_>,
    ) -> Option<()> {
        let method = whole.method;
        let Division { own, awaited } = self.divide(whole.slices, lookup);
        if !awaited.is_empty() {
            let slices = awaited.into_iter().map(|(slice, _)| slice).collect();
            self.spawn_waiter(slices, start.numbers.next(), delivery.clone());
        }
        if own.is_empty() {
            return Some(());
        }
        let (slices, claims): (Vec<_>, _) = own.into_iter().unzip();
        // One object is not composed.
        let own = match <[Slice; 1]>::try_from(slices) {
            Ok([one]) if method != Method::Composed || one.objects.all() < 2 => Group::alone(one),
            Ok(one) => group(method, one),
            Err(several) => group(method, several),
        };
        self.bucket.start(own, claims, delivery, start)
    }

    /// Claims samples and divides them by who reads them now. Blocks briefly.
    fn divide(&self, slices: Vec<Slice>, lookup: &CacheLookup) -> Division {
        let known: Vec<_> = slices.iter().filter_map(|slice| lookup.hash(slice.slot)).collect();
        let mut readers = if known.is_empty() { Vec::new() } else { self.session.claim(&known) }.into_iter();
        let mut division = Division::default();
        for slice in slices {
            let reader = lookup.hash(slice.slot).and_then(|_| readers.next());
            match reader.unwrap_or(SampleReader::ThisOne(None)) {
                SampleReader::ThisOne(claim) => division.own.push((slice, claim)),
                SampleReader::Other(reader) => division.awaited.push((slice, reader)),
                // It was written after the lookup, so the waiting task finds it at its first look.
                SampleReader::AlreadyCached => division.awaited.push((slice, 0)),
            }
        }
        division
    }

    /// Reads and delivers samples that are in the cache. Returns those that turned out not to be there. Blocks.
    fn deliver_hits(&self, slices: Vec<Slice>, hits: Vec<CacheHit>, delivery: &Delivery) -> Vec<Slice> {
        delivery.stages().set(slices.iter().map(|slice| slice.slot), SampleStage::Caching);
        let found = self.session.read(&hits, self.bucket.fetcher.buffers());
        let origin = Origin::new(&self.bucket.manifest);
        let (mut samples, mut missed) = (Vec::with_capacity(slices.len()), Vec::new());
        for ((slice, hit), bytes) in slices.into_iter().zip(hits).zip(found) {
            match bytes {
                Some(bytes) => {
                    let sample = RawSample::verified_before(&origin, slice.id, hit.location, bytes);
                    samples.push((slice.slot, sample));
                }
                None => missed.push(slice),
            }
        }
        delivery.deliver_cached(samples);
        missed
    }

    /// A sample from the cache, if it is there. Blocks.
    fn find_and_read(&self, id: SampleId) -> Option<RawSample> {
        self.session.cache.refresh_after(SHORTEST_PAUSE);
        let hit = self.session.find(std::iter::once((0, id))).take_hit(0)?;
        let bytes = self.session.read(std::slice::from_ref(&hit), self.bucket.fetcher.buffers()).pop()??;
        Some(RawSample::verified_before(&Origin::new(&self.bucket.manifest), id, hit.location, bytes))
    }

    /// Starts a task that delivers samples which others read, or which the cache listed but could not read.
    fn spawn_waiter(self: &Arc<Self>, slices: Vec<Slice>, number: u64, delivery: Delivery) {
        if slices.is_empty() {
            return;
        }
        delivery.stages().set(slices.iter().map(|slice| slice.slot), SampleStage::Claimed);
        let (source, cancel) = (Arc::clone(self), delivery.cancel.clone());
        spawn_read(&self.bucket.io, cancel, async move { source.poll_until_delivered(slices, number, delivery).await });
    }

    /// Delivers samples from the cache as soon as they are there, or from the bucket once this process may read them.
    async fn poll_until_delivered(self: &Arc<Self>, slices: Vec<Slice>, number: u64, delivery: Delivery) {
        let mut awaited: Vec<_> = slices.into_iter().map(|slice| (slice, 0)).collect();
        let (began, mut waits) = (Instant::now(), ClaimWaits::default());
        let (mut pause, mut looks) = (SHORTEST_PAUSE, 0);
        loop {
            let (source, to) = (Arc::clone(self), delivery.clone());
            let (done, wait) = oneshot::channel();
            // On a thread of the cache, because the network threads must not wait for a disk.
            self.session
                .cache
                .run(move || drop(done.send(source.poll_once(awaited, looks % LOOKS_PER_CLAIM == 0, &to))));
            // The channel is closed if the job panicked. Then the channels of its batches close, too.
            let Ok((Division { mut own, awaited: rest }, last_seen)) = wait.await else { return };

            let decisions: BTreeMap<u64, WaitDecision> = last_seen
                .into_iter()
                .map(|(reader, sign)| (reader, waits.judge(reader, sign, began.elapsed())))
                .collect();
            for (reader, _) in decisions.iter().filter(|(_, decision)| **decision == WaitDecision::GiveUpProcess) {
                self.session.cache.ignore_claims_of(*reader);
            }
            let (late, rest): (Vec<_>, Vec<_>) =
                rest.into_iter().partition(|(_, reader)| decisions[reader] != WaitDecision::Continue);
            own.extend(late.into_iter().map(|(slice, _)| (slice, None)));
            self.read_from_bucket(own, number, &delivery).await;
            awaited = rest;
            if awaited.is_empty() {
                return;
            }
            tokio::time::sleep(pause).await;
            (pause, looks) = ((2 * pause).min(LONGEST_PAUSE), looks + 1);
        }
    }

    /// Looks once for samples that others read. If some are there, or if it `must_claim`, delivers those and claims the
    /// samples that nobody reads any more. Returns the rest, with the time at which each of their readers was last
    /// known to be alive. Blocks.
    fn poll_once(
        &self,
        awaited: Vec<(Slice, u64)>,
        must_claim: bool,
        delivery: &Delivery,
    ) -> (Division, BTreeMap<u64, Option<SystemTime>>) {
        self.session.cache.refresh_after(SHORTEST_PAUSE);
        let lookup = self.session.find(awaited.iter().map(|(slice, _)| (slice.slot, slice.id)));
        let division = if must_claim || lookup.hits().next().is_some() {
            self.deliver_and_claim(awaited.into_iter().map(|(slice, _)| slice).collect(), lookup, delivery)
        } else {
            Division { own: Vec::new(), awaited }
        };
        let readers: BTreeSet<_> = division.awaited.iter().map(|(_, reader)| *reader).collect();
        let last_seen = readers.into_iter().map(|reader| (reader, self.session.cache.last_progress(reader))).collect();
        (division, last_seen)
    }

    /// Delivers the samples that are in the cache, and claims those that nobody reads any more. Blocks.
    fn deliver_and_claim(&self, slices: Vec<Slice>, mut lookup: CacheLookup, delivery: &Delivery) -> Division {
        let (cached, rest): (Vec<_>, Vec<_>) = slices.into_iter().partition(|slice| lookup.has_hit(slice.slot));
        let hits = cached.iter().filter_map(|slice| lookup.take_hit(slice.slot)).collect();
        let missed = self.deliver_hits(cached, hits, delivery);
        let mut division = self.divide(rest, &lookup);
        // The cache lists these but could not read them, so waiting is useless: this loader reads them.
        division.own.extend(missed.into_iter().map(|slice| (slice, None)));
        division
    }

    /// Reads samples from the bucket, each by itself.
    async fn read_from_bucket(&self, own: Vec<(Slice, Option<ReadClaim>)>, number: u64, delivery: &Delivery) {
        let reads = own.into_iter().map(async |(slice, claim)| {
            let alone = Group::alone(slice);
            self.bucket.groups.count(&alone);
            self.bucket.read_sample(alone, claim, number, delivery, None).await;
        });
        stream::iter(reads).for_each_concurrent(MAX_SOURCES, |read| read).await;
    }
}
