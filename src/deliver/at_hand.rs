//! The way of an epoch past the network, where the store's objects are in this process's memory: whole runs of samples are
//! looked up, proved and decoded by one job of the decode threads. What isn't as it was listed goes the ordinary way, which
//! tells what is wrong with it.

use std::sync::Arc;

use super::pipeline::{Engine, Way, Window, is_cancelled};
use super::pool::Job;
use crate::budget::Permit;
use crate::collate::Collate;
use crate::decode::Decode;
use crate::manifest::Facts;
use crate::plan::{Group, MIN_RANGED, Method, Slice};
use crate::sample::SampleId;
use crate::split::{Origin, RawSample};
use crate::store::StorageClass;

/// Bytes that one job brings, at most unless one sample has more: so few that threads share a batch of large ones, so many
/// that handing it over is nothing beside it.
const AT_A_TIME: u64 = 1 << 20;

/// Samples of a window that are at hand: what was listed of those of each group.
pub(super) type Listed = std::vec::IntoIter<Vec<Facts>>;

impl<D: Decode, C: Collate<D::Item>> Engine<D, C> {
    /// Groups of these samples, where they are at hand and nothing is to be joined. All or none: where one of them has to
    /// go another way, they are planned as always.
    pub(super) fn plan_at_hand(&self, ids: &[SampleId]) -> Option<(Vec<Group>, Listed)> {
        if self.planner.may_compose() || !self.fetcher.is_in_memory() {
            return None;
        }
        let (mut groups, mut facts): (Vec<Group>, Vec<Vec<Facts>>) = (Vec::new(), Vec::new());
        let mut end = u64::MAX;
        for (slot, &id) in ids.iter().enumerate() {
            // What can't be told is told by the plan, with its error.
            let listed = self.manifest.facts(id.0)?;
            if listed.size == 0 || listed.size >= MIN_RANGED || listed.crc32c.is_none() {
                return None;
            }
            if end.saturating_add(listed.size) > AT_A_TIME {
                end = 0;
                let left = (ids.len() - slot).min((AT_A_TIME / listed.size) as usize + 1);
                groups.push(Group { method: Method::Direct, slices: Vec::with_capacity(left) });
                facts.push(Vec::with_capacity(left));
            }
            let (group, listed_so_far) = groups.last_mut().zip(facts.last_mut())?;
            group.slices.push(Slice { slot, id, range: end..end + listed.size });
            listed_so_far.push(listed);
            end += listed.size;
        }
        // Where these are too much for the budget, single samples may not be.
        self.budget.check(groups.iter().map(|group| self.bytes(group))).ok()?;
        Some((groups, facts.into_iter()))
    }

    /// Starts to bring a group that is at hand, whose bytes are held.
    pub(super) fn bring_at_hand(
        self: &Arc<Self>,
        group: Group,
        listed: Vec<Facts>,
        window: &Arc<Window<D, C>>,
        passing: Option<Arc<Permit>>,
        way: &Way<'_, C::Output>,
    ) {
        self.groups.count_reads(group.slices.len() as u64);
        let (number, first) = (way.next_number(), group.slices[0].slot);
        let (engine, of, cancel) = (Arc::clone(self), Arc::clone(window), way.cancel.clone());
        let job = Job::Run(Box::new(move || {
            if is_cancelled(&cancel) {
                return;
            }
            for slice in engine.take_at_hand(group.slices, &listed, &of, passing.as_ref()) {
                let alone = Group::alone(slice.slot, slice.id, slice.range.end - slice.range.start, MIN_RANGED);
                engine.read(alone, number, &of, passing.clone(), None, &cancel);
            }
        }));
        self.give(job, window.place(first).0);
    }

    /// Brings samples, and returns those that aren't there as they were listed.
    fn take_at_hand(
        &self,
        slices: Vec<Slice>,
        listed: &[Facts],
        window: &Window<D, C>,
        passing: Option<&Arc<Permit>>,
    ) -> Vec<Slice> {
        let found = self.fetcher.at_hand(listed);
        let origin = Origin::new(&self.manifest);
        let (mut samples, mut missed) = (Vec::with_capacity(slices.len()), Vec::new());
        let mut counts = [(0, 0); StorageClass::ALL.len()];
        for ((slice, listed), bytes) in slices.into_iter().zip(listed).zip(found) {
            match bytes.and_then(|bytes| RawSample::proved(&origin, slice.id, listed, bytes)) {
                Some(sample) => {
                    let (objects, bytes) = &mut counts[listed.storage_class as usize];
                    (*objects, *bytes) = (*objects + 1, *bytes + listed.size);
                    samples.push((slice.slot, sample));
                }
                None => missed.push(slice),
            }
        }
        self.fetcher.found(&counts);
        if self.code.decode.is_light() {
            self.decode(samples, window, |assembly| assembly.collate());
        } else {
            self.hand_over(samples, window, passing);
        }
        missed
    }
}
