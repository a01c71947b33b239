//! Samples that are local: in the cache on disk or, where the store is a [`MemoryStore`](crate::store::MemoryStore), in this
//! process. They are found when their window is planned, and many at once are read, proved, and decoded if that is light, by
//! one job, without a call and without a task for each. What then turns out not to be as it was listed goes the ordinary
//! way, which tells what is wrong with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::pipeline::{Engine, Way, Window, is_cancelled};
use super::pool::Job;
use crate::Result;
use crate::budget::Permit;
use crate::cache::Place;
use crate::collate::Collate;
use crate::decode::Decode;
use crate::fetch::Step;
use crate::manifest::{Entry, Facts};
use crate::plan::{Group, MAX_SOURCES, Method, Slice};
use crate::sample::SampleId;
use crate::split::{Origin, RawSample};
use crate::store::StorageClass;

/// Bytes that one job reads, at most unless one sample has more: so few that threads share what is to be read, so many that
/// handing it over is nothing beside it.
const AT_A_TIME: u64 = 1 << 20;

/// Bytes of memory that come at once, on all common processors.
const LINE: usize = 64;

/// What is local of the samples of a window, by their slots.
#[derive(Debug, Default)]
pub(super) struct Looked {
    /// Where there is a cache; none of those that it doesn't keep.
    pub(super) hashes: BTreeMap<usize, u64>,
    hits: Vec<Option<Hit>>,
}

/// A local sample.
#[derive(Debug)]
pub(super) enum Hit {
    /// In the cache.
    Kept(Entry, Place),
    /// In this process, as far as is known.
    AtHand(Facts),
}

impl Hit {
    fn size(&self) -> u64 {
        match self {
            Self::Kept(entry, _) => entry.size,
            Self::AtHand(listed) => listed.size,
        }
    }

    /// What is listed of it, where that was asked for already.
    pub(super) fn entry(self) -> Option<Entry> {
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

impl Looked {
    pub(super) fn insert(&mut self, slot: usize, hit: Hit) {
        if self.hits.len() <= slot {
            self.hits.resize_with(slot + 1, || None);
        }
        self.hits[slot] = Some(hit);
    }

    pub(super) fn has(&self, slot: usize) -> bool {
        self.hits.get(slot).is_some_and(Option::is_some)
    }

    pub(super) fn has_any(&self) -> bool {
        self.hits.iter().any(Option::is_some)
    }

    pub(super) fn take(&mut self, slot: usize) -> Option<Hit> {
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
    pub(super) fn look_up(&self, ids: &[SampleId]) -> Looked {
        match &self.kept {
            Some(kept) => {
                kept.refresh();
                self.find(kept, ids.iter().copied().enumerate())
            }
            None if self.planner.may_compose() || self.fetcher.in_memory().is_none() => Looked::default(),
            None => Looked { hits: ids.iter().map(|id| self.find_at_hand(*id)).collect(), ..Looked::default() },
        }
    }

    fn find_at_hand(&self, id: SampleId) -> Option<Hit> {
        // What can't be told is told by the plan, with its error.
        let listed = self.manifest.facts(id.0)?;
        (self.planner.is_direct(listed.size) && listed.crc32c.is_some()).then_some(Hit::AtHand(listed))
    }

    /// Cuts the samples of a window into groups: those that are local, and the others as they are always planned.
    pub(super) fn plan(&self, ids: &[SampleId], looked: &Looked) -> Result<Vec<Group>> {
        let (slots, rest): (Vec<_>, Vec<_>) =
            ids.iter().copied().enumerate().filter(|(slot, _)| !looked.has(*slot)).unzip();
        let mut groups = self.planner.plan(&rest)?;
        for slice in groups.iter_mut().flat_map(|group| &mut group.slices) {
            slice.slot = slots[slice.slot];
        }
        if !self.fetcher.may_compose() {
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
    pub(super) fn bring_local(
        self: &Arc<Self>,
        group: &Group,
        looked: &mut Looked,
        window: &Arc<Window<D, C>>,
        passing: Option<&Arc<Permit>>,
        way: &Way<'_, D, C>,
    ) -> bool {
        let hits: Vec<_> = group.slices.iter().map_while(|slice| looked.take(slice.slot)).collect();
        let Some(first) = hits.first() else { return false };
        if matches!(first, Hit::AtHand(_)) {
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
            None => self.give(window.place(group.slices[0].slot).0, Job::Bring(Box::new(job))),
        }
        true
    }

    /// Reads local samples and hands them over; returns those that turned out not to be there. Blocks.
    pub(super) fn read_hits(
        &self,
        slices: Vec<Slice>,
        hits: Vec<Hit>,
        window: &Window<D, C>,
        passing: Option<&Arc<Permit>>,
    ) -> Vec<Slice> {
        let slots = slices.iter().map(|slice| slice.slot);
        let found = if let Some(kept) = &self.kept {
            window.steps.kept(slots);
            self.read_kept(kept, &hits)
        } else {
            window.steps.step(slots, Step::Reading);
            self.read_at_hand(&hits)
        };
        let origin = Origin::new(&self.manifest);
        let (mut samples, mut missed) = (Vec::with_capacity(slices.len()), Vec::new());
        for ((slice, hit), bytes) in slices.into_iter().zip(hits).zip(found) {
            let Some(bytes) = bytes else {
                missed.push(slice);
                continue;
            };
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
    fn read_at_hand(&self, hits: &[Hit]) -> Vec<Option<Bytes>> {
        let listed = || hits.iter().filter_map(|hit| if let Hit::AtHand(listed) = hit { Some(listed) } else { None });
        let Some(store) = self.fetcher.in_memory() else { return vec![None; hits.len()] };
        let mut found = store.at_hand(&self.manifest.prefix().bucket, listed().map(|listed| listed.generation));
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
}
