//! Samples that are local: in the cache on disk or, where the store is a [`MemoryStore`], in this
//! process. They are found when their window is planned, and many at once are read, proved, and decoded if that is light, by
//! one job, without a call and without a task for each. What then turns out not to be as it was listed goes the ordinary
//! way, which tells what is wrong with it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;

use super::pipeline::{BatchWindow, Engine, EpochContext, PlannedBatch, is_cancelled};
use super::pool::{BatchAssembly, DecodeJob};
use super::wait_report::WindowStages;
use crate::Result;
use crate::budget::Permit;
use crate::cache::RecordLocation;
use crate::collate::Collate;
use crate::compose::ReadStep;
use crate::decode::Decode;
use crate::manifest::{Entry, Facts, Known};
use crate::plan::{Group, MAX_SOURCES, Method, Slice};
use crate::read::{Origin, ProvedSamples, RawSample};
use crate::sample::SampleId;
use crate::store::{MemoryStore, StorageClass};

/// Bytes that one job reads, at most unless one sample has more: so few that threads share what is to be read, so many that
/// handing it over is nothing beside it.
const AT_A_TIME: u64 = 1 << 20;

/// Bytes of memory that come at once, on all common processors.
const LINE: usize = 64;

/// Bytes of samples in this process that are looked at ahead of the training loop, roughly: as many as stay in a processor's
/// caches until it comes for them. With 64 MiB ahead an epoch took half as long again.
const NEAR: u64 = 4 << 20;

/// What is local of the samples of a window, by their slots.
#[derive(Debug, Default)]
pub(crate) struct LocalLookup {
    /// Where there is a cache; none of those that it doesn't keep.
    pub(crate) hashes: BTreeMap<usize, u64>,
    hits: Vec<Option<LocalSample>>,
}

/// A local sample.
#[derive(Debug)]
pub(crate) enum LocalSample {
    /// In the cache.
    Kept(Entry, RecordLocation),
    /// In this process, as far as is known.
    AtHand(Facts),
}

impl LocalSample {
    fn size(&self) -> u64 {
        match self {
            Self::Kept(entry, _) => entry.size,
            Self::AtHand(listed) => listed.size,
        }
    }

    /// What is listed of it, where that was asked for already.
    pub(crate) fn entry(self) -> Option<Entry> {
        match self {
            Self::Kept(entry, _) => Some(entry),
            Self::AtHand(_) => None,
        }
    }

    /// Samples that one job reads at most. A read from disk may take long.
    fn at_a_time(&self) -> usize {
        match self {
            Self::Kept(..) => MAX_SOURCES,
            Self::AtHand(_) => usize::MAX,
        }
    }
}

impl LocalLookup {
    pub(crate) fn insert(&mut self, slot: usize, hit: LocalSample) {
        if self.hits.len() <= slot {
            self.hits.resize_with(slot + 1, || None);
        }
        self.hits[slot] = Some(hit);
    }

    pub(crate) fn has(&self, slot: usize) -> bool {
        self.hits.get(slot).is_some_and(Option::is_some)
    }

    pub(crate) fn has_any(&self) -> bool {
        self.hits.iter().any(Option::is_some)
    }

    pub(crate) fn take(&mut self, slot: usize) -> Option<LocalSample> {
        self.hits.get_mut(slot)?.take()
    }

    /// The groups of samples that are local, of so many bytes at most unless one sample has more.
    fn groups(&self, ids: &[SampleId], most: u64) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        for (slot, hit) in self.hits.iter().enumerate().filter_map(|(slot, hit)| Some((slot, hit.as_ref()?))) {
            let size = hit.size();
            let (samples, bytes) = groups.last().map_or((usize::MAX, 0), |group| (group.slices.len(), group.bytes()));
            let start = if samples < hit.at_a_time() && bytes.saturating_add(size) <= most {
                bytes
            } else {
                groups.push(Group { method: Method::Direct, slices: Vec::new() });
                0
            };
            let slice = Slice { slot, id: ids[slot], range: start..start + size };
            groups.last_mut().expect("there is one, or one was pushed").slices.push(slice);
        }
        groups
    }
}

impl<D: Decode, C: Collate<D::Item>> Engine<D, C> {
    /// Finds out which samples of a window are local. Where there is a cache, that is what is in it; else, where nothing is
    /// to be joined, what is in memory.
    pub(crate) fn look_up(&self, ids: &[SampleId]) -> LocalLookup {
        match &self.kept {
            Some(kept) => {
                kept.refresh();
                self.find(kept, ids.iter().copied().enumerate())
            }
            None if self.at_hand().is_none() => LocalLookup::default(),
            None => {
                LocalLookup { hits: ids.iter().map(|id| self.find_at_hand(*id)).collect(), ..LocalLookup::default() }
            }
        }
    }

    fn find_at_hand(&self, id: SampleId) -> Option<LocalSample> {
        // What can't be told is told by the plan, with its error.
        let listed = self.manifest.facts(id.0)?;
        (self.planner.is_direct(listed.size) && listed.crc32c.is_some()).then_some(LocalSample::AtHand(listed))
    }

    /// Cuts the samples of a window into groups: those that are local, and the others as they are always planned.
    pub(crate) fn plan(&self, ids: &[SampleId], looked: &LocalLookup) -> Result<Vec<Group>> {
        let (slots, rest): (Vec<_>, Vec<_>) =
            ids.iter().copied().enumerate().filter(|(slot, _)| !looked.has(*slot)).unzip();
        let mut groups = self.planner.plan(&rest)?;
        for slice in groups.iter_mut().flat_map(|group| &mut group.slices) {
            slice.slot = slots[slice.slot];
        }
        if !self.fetcher.may_compose() {
            self.fetcher.delete_again();
            groups = groups.iter().flat_map(Group::split_up).collect();
        }
        if slots.len() == ids.len() {
            return Ok(groups);
        }
        let and_local = |most| {
            let mut groups = [groups.as_slice(), &looked.groups(ids, most)].concat();
            groups.sort_by_key(|group| group.slices[0].slot);
            groups
        };
        // Where many at once are too much for the budget, one may not be.
        let many = and_local(AT_A_TIME);
        Ok(if self.fits(&many).is_ok() { many } else { and_local(0) })
    }

    /// Starts to bring a group that is local, whose bytes are held; whether it is.
    pub(crate) fn bring_local(
        self: &Arc<Self>,
        group: &Group,
        looked: &mut LocalLookup,
        window: &Arc<BatchWindow<D, C>>,
        passing: Option<&Arc<Permit>>,
        way: &EpochContext<'_, D, C>,
    ) -> bool {
        let hits: Vec<_> = group.slices.iter().map_while(|slice| looked.take(slice.slot)).collect();
        let Some(first) = hits.first() else { return false };
        if matches!(first, LocalSample::AtHand(_)) {
            self.groups.count_reads(hits.len() as u64);
        }
        let number = way.next_number();
        let (engine, of, passing) = (Arc::clone(self), Arc::clone(window), passing.cloned());
        let (slices, cancel) = (group.slices.clone(), way.cancel.clone());
        let job = move || {
            if is_cancelled(&cancel) {
                return;
            }
            let missed = engine.read_hits(slices, hits, &of, passing.as_ref());
            if !missed.is_empty() {
                engine.wait_for(missed, number, &of, passing, &cancel);
            }
        };
        match &self.kept {
            Some(kept) => {
                window.steps.kept(group.slices.iter().map(|slice| slice.slot));
                kept.run(job);
            }
            None => self.give(window.place(group.slices[0].slot).0, DecodeJob::Bring(Box::new(job))),
        }
        true
    }

    /// Reads local samples and hands them over; returns those that turned out not to be there. Blocks.
    pub(crate) fn read_hits(
        &self,
        slices: Vec<Slice>,
        hits: Vec<LocalSample>,
        window: &BatchWindow<D, C>,
        passing: Option<&Arc<Permit>>,
    ) -> Vec<Slice> {
        let slots = slices.iter().map(|slice| slice.slot);
        let found = if let Some(kept) = &self.kept {
            window.steps.kept(slots);
            self.read_kept(kept, &hits)
        } else {
            window.steps.step(slots, ReadStep::Reading);
            self.read_at_hand(&hits)
        };
        let origin = Origin::new(&self.manifest);
        let (mut samples, mut missed) = (Vec::with_capacity(slices.len()), Vec::new());
        for ((slice, hit), bytes) in slices.into_iter().zip(hits).zip(found) {
            let Some(bytes) = bytes else {
                missed.push(slice);
                continue;
            };
            if let (Some(proved), LocalSample::AtHand(_)) = (&window.proved, &hit) {
                proved.keep(slice.id, &bytes);
            }
            samples.push((slice.slot, RawSample::proved(&origin, slice.id, hit.entry(), bytes)));
        }
        if self.kept.is_some() {
            self.hand_over(samples, window, passing);
        } else {
            // This is a decode thread already.
            self.decode(samples, window, passing, |whole| whole.collate());
        }
        missed
    }

    /// The bytes of samples that are in memory, where they are as they were listed. Each counts as a read.
    fn read_at_hand(&self, hits: &[LocalSample]) -> Vec<Option<Bytes>> {
        let listed =
            || hits.iter().filter_map(|hit| if let LocalSample::AtHand(listed) = hit { Some(listed) } else { None });
        let Some(store) = self.fetcher.in_memory() else { return vec![None; hits.len()] };
        let mut found = store.live_bytes(&self.manifest.prefix().bucket, listed().map(|listed| listed.generation));
        // As in the store: a look at each line of memory, before the first is proved.
        let lines = found.iter().flatten().flat_map(|bytes| bytes.iter().step_by(LINE));
        std::hint::black_box(lines.fold(0, |all, byte| all ^ byte));
        let mut counts = [(0, 0); StorageClass::ALL.len()];
        for (listed, found) in listed().zip(&mut found) {
            let is_right =
                |bytes: &Bytes| bytes.len() as u64 == listed.size && Some(crc32c::crc32c(bytes)) == listed.crc32c;
            *found = found.take().filter(is_right);
            if found.is_some() {
                let (objects, bytes) = &mut counts[listed.storage_class as usize];
                (*objects, *bytes) = (*objects + 1, *bytes + listed.size);
            }
        }
        self.fetcher.found(&counts);
        found
    }
    /// Where samples are in this process and are had from there: none of them is joined, or goes through a cache.
    fn at_hand(&self) -> Option<&MemoryStore> {
        if self.kept.is_some() || self.planner.may_compose() { None } else { self.fetcher.in_memory() }
    }

    /// How many batches of so many samples to have ahead at most, where more are of no use: what a batch takes is known then,
    /// and never long.
    pub(crate) fn most_ahead(&self, batch_size: u64) -> Option<usize> {
        let Known::All(samples) = self.manifest.known() else { return None };
        if self.at_hand().is_none() || !self.code.decode.is_light() {
            return None;
        }
        let batch = (self.manifest.bytes() / samples.max(1)).saturating_mul(batch_size).max(1);
        usize::try_from(NEAR / batch).ok()
    }

    /// What was proved of samples in this process, which this epoch can go by and add to.
    pub(crate) fn proved(&self) -> Option<Arc<ProvedSamples>> {
        let store = self.at_hand()?;
        let mut proved = self.proved.lock().unwrap_or_else(PoisonError::into_inner);
        if proved.as_ref().is_none_or(|proved| !proved.holds()) {
            *proved = ProvedSamples::new(&self.manifest, store);
        }
        proved.clone()
    }

    /// Cuts the samples of a window into runs for one job each, if all of them were proved before and fit into the budget
    /// like that.
    pub(crate) fn runs(
        &self,
        ids: &[SampleId],
        way: &EpochContext<'_, D, C>,
    ) -> Option<(Arc<ProvedSamples>, Vec<InMemoryRun>)> {
        let proved = way.proved.as_ref().filter(|proved| proved.holds() && !ids.is_empty())?;
        let (mut runs, mut sizes, mut start, mut bytes) = (Vec::new(), Vec::with_capacity(ids.len()), 0, 0u64);
        let run = |slots: Range<usize>, sizes: &[u64]| {
            let bytes: u64 = sizes[slots.clone()].iter().sum();
            InMemoryRun { held: self.bytes_of(sizes[slots.clone()].iter().copied()), slots, bytes }
        };
        for (slot, id) in ids.iter().enumerate() {
            let size = proved.get(*id)?.len() as u64;
            if slot > start && bytes + size > AT_A_TIME {
                runs.push(run(start..slot, &sizes));
                (start, bytes) = (slot, 0);
            }
            bytes += size;
            sizes.push(size);
        }
        runs.push(run(start..ids.len(), &sizes));
        self.budget.check(runs.iter().map(|run| run.held)).is_ok().then(|| (Arc::clone(proved), runs))
    }

    /// As [`start`](Self::start), of one batch whose samples were proved before, in these runs.
    pub(crate) fn start_proved(
        self: &Arc<Self>,
        mut batch: PlannedBatch,
        proved: &Arc<ProvedSamples>,
        runs: Vec<InMemoryRun>,
        way: &EpochContext<'_, D, C>,
    ) -> Option<()> {
        let ids = std::mem::take(&mut batch.ids);
        let steps = WindowStages::of_runs(ids, runs.iter().map(|run| run.slots.end).collect(), way.standing);
        let assembly = way.promise(batch, &steps, 0)?;
        for run in runs {
            let passing = self.hold(run.held, std::iter::once(&assembly), way)?;
            way.next_number();
            self.groups.count_reads(run.slots.len() as u64);
            let (engine, of, steps) = (Arc::clone(self), Arc::clone(&assembly), steps.clone());
            let (proved, cancel) = (Arc::clone(proved), way.cancel.clone());
            let job = move || {
                if !is_cancelled(&cancel) {
                    engine.bring_proved(run, proved, &steps, &of, passing.as_ref());
                }
            };
            self.give(&assembly, DecodeJob::Bring(Box::new(job)));
        }
        way.held.send_replace(assembly.turn);
        Some(())
    }

    /// Hands over samples whose bytes were proved before. Each counts as a read.
    fn bring_proved(
        &self,
        run: InMemoryRun,
        proved: Arc<ProvedSamples>,
        steps: &WindowStages,
        assembly: &Arc<BatchAssembly<D, C>>,
        passing: Option<&Arc<Permit>>,
    ) {
        let InMemoryRun { slots, bytes, .. } = run;
        let first = slots.start;
        steps.step(std::iter::once(first), ReadStep::Reading);
        let ids = &steps.ids()[slots];
        let mut counts = [(0, 0); StorageClass::ALL.len()];
        counts[proved.class as usize] = (ids.len() as u64, bytes);
        self.fetcher.found(&counts);
        // A look at the first line of each: who reads the bytes next knows then where that page is, which takes longest. A look
        // at every line took as long as it saved.
        let first_lines = ids.iter().filter_map(|id| proved.get(*id)?.first());
        std::hint::black_box(first_lines.fold(0, |all, byte| all ^ byte));
        let origin = Origin::proved(&self.manifest, proved);
        let samples = ids.iter().zip(first..).map(|(id, slot)| (slot, RawSample::of_origin(&origin, *id)));
        steps.brought(std::iter::once(first));
        if self.code.decode.is_light() {
            if assembly.decode(samples, None) {
                assembly.collate();
            }
        } else {
            samples.for_each(|(slot, sample)| self.have_decoded(assembly, slot, sample, passing));
        }
    }
}

/// Samples of a batch that one job brings.
#[derive(Debug)]
pub(crate) struct InMemoryRun {
    slots: Range<usize>,
    bytes: u64,
    /// As [`Engine::bytes`] has them.
    held: (u64, u64),
}
