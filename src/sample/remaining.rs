//! What is left of an epoch whose batches are delivered out of order.

use std::collections::BTreeMap;
use std::ops::Range;

use super::{DeliveredAhead, RankProgress, Sharding, State, wrong};
use crate::manifest::KnownSamples;
use crate::{Error, Result};

/// Positions of the global order that are left, from one position on, without those delivered ahead of it (the holes).
/// A *remaining position* numbers what is left: it equals the global position up to the first hole, and counts on
/// without the holes after it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RemainingPositions {
    /// Sorted; none is empty, none touches another.
    holes: Vec<Range<u64>>,
}

impl RemainingPositions {
    /// What a state leaves.
    ///
    /// # Errors
    /// Holes that are empty, out of order, or not ahead of the state's position.
    pub(crate) fn of(state: &State) -> Result<Self> {
        let positions = state.beyond.iter().flat_map(|ahead| &ahead.positions);
        let holes: Vec<_> = positions.map(|&(start, end)| start..end).collect();
        let mut at = state.position;
        for hole in &holes {
            if hole.start <= at || hole.is_empty() {
                return Err(wrong("this state has delivered positions that can't be")
                    .mismatch(
                        format_args!("positions in order, beyond {at}"),
                        format_args!("{} to {}", hole.start, hole.end),
                    )
                    .hint("the state is damaged; take an earlier one"));
            }
            at = hole.end;
        }
        Ok(Self { holes })
    }

    /// How many of the known samples are left, plus those before the position.
    pub(crate) fn known(&self, known: KnownSamples) -> KnownSamples {
        let left = |samples: u64| {
            let delivered = self.holes.iter().map(|hole| hole.end.min(samples).saturating_sub(hole.start)).sum::<u64>();
            samples - delivered
        };
        match known {
            KnownSamples::AtLeast(samples) => KnownSamples::AtLeast(left(samples)),
            KnownSamples::All(samples) => KnownSamples::All(left(samples)),
        }
    }

    /// The position in the global order of the position `at` of those that are left.
    pub(crate) fn global_position(&self, at: u64) -> u64 {
        let mut position = at;
        for hole in &self.holes {
            if hole.start > position {
                break;
            }
            position += hole.end - hole.start;
        }
        position
    }

    /// The ranges of the global order that a range of the positions left consists of.
    pub(crate) fn ranges(&self, left: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let mut at = left.start;
        std::iter::from_fn(move || {
            let more = left.end.checked_sub(at).filter(|more| *more > 0)?;
            let start = self.global_position(at);
            let until = self.holes.iter().map(|hole| hole.start).find(|hole| *hole > start).unwrap_or(u64::MAX);
            let taken = more.min(until - start);
            at += taken;
            Some(start..start + taken)
        })
    }
}

/// Merges delivered ranges. Returns the position up to which nothing is missing, and the ranges ahead of it.
fn merge_ranges(position: u64, mut ranges: Vec<Range<u64>>) -> (u64, Vec<Range<u64>>) {
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let (mut position, mut merged) = (position, Vec::<Range<u64>>::new());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start <= last.end => last.end = range.end.max(last.end),
            _ if range.start <= position => position = position.max(range.end),
            _ => merged.push(range),
        }
    }
    (position, merged)
}

/// Ranges as states hold them; `None` where there are none.
fn delivered_ahead(ranges: &[Range<u64>]) -> Option<DeliveredAhead> {
    let positions = ranges.iter().map(|range| (range.start, range.end)).collect();
    (!ranges.is_empty()).then_some(DeliveredAhead { positions, share: None })
}

/// What a rank has delivered of an epoch. Its batches are numbered from the start of the epoch.
#[derive(Clone, Debug)]
pub(crate) struct DeliveredBatches {
    /// Global position after the run of delivered batches without a gap.
    position: u64,
    /// The number of the first batch that was not delivered.
    next: u64,
    /// Runs of batches delivered ahead of `next`, by the number of their first batch.
    ahead: BTreeMap<u64, BatchRun>,
    holes: RemainingPositions,
    /// Set if the states record only what this rank delivered.
    alone: Option<OwnRank>,
}

#[derive(Clone, Copy, Debug)]
struct OwnRank {
    rank: usize,
    world_size: usize,
}

/// Batches that follow each other.
#[derive(Clone, Debug)]
struct BatchRun {
    /// The number after that of the last batch.
    end: u64,
    positions: Range<u64>,
}

impl DeliveredBatches {
    /// What had been delivered when a state was taken. Where batches are `unordered` and there are several ranks, the
    /// states taken from now on hold what this rank alone delivered.
    ///
    /// # Errors
    /// Batches that are empty, out of order, or not ahead of the state's position.
    pub(crate) fn from(state: &State, unordered: bool, sharding: &Sharding) -> Result<Self> {
        let rank = OwnRank { rank: sharding.rank() as usize, world_size: sharding.world_size() as usize };
        let holes = RemainingPositions::of(state)?;
        let mut ahead = BTreeMap::new();
        let share = state.beyond.as_ref().and_then(|ahead| ahead.share.as_ref());
        // States number batches from their position.
        let next = sharding.batches_before(state.position);
        for (first, end, position) in share.iter().flat_map(|share| share.batches.iter().copied()) {
            let before = ahead.last_key_value().map_or(0, |(_, run): (_, &BatchRun)| run.end - next);
            if first <= before || end <= first || position <= state.position {
                return Err(wrong("this state has delivered batches that can't be")
                    .mismatch(format_args!("batches in order, beyond {before}"), format_args!("{first} to {end}"))
                    .hint("the state is damaged; take an earlier one"));
            }
            // Only states of all ranks need to know where a run begins, and this one is of a single rank.
            let end = next.saturating_add(end);
            ahead.insert(next.saturating_add(first), BatchRun { end, positions: position..position });
        }
        let is_alone = share.is_some() || (unordered && rank.world_size > 1);
        Ok(Self { position: state.position, next, ahead, holes, alone: is_alone.then_some(rank) })
    }

    /// Whether the batch of this number was delivered.
    pub(crate) fn has(&self, number: u64) -> bool {
        number < self.next || self.ahead.range(..=number).next_back().is_some_and(|(_, run)| number < run.end)
    }

    /// Records that a batch was delivered, with the positions of the global order that all ranks' parts of it cover.
    pub(crate) fn add(&mut self, number: u64, positions: Range<u64>) {
        if number != self.next {
            let mut run = BatchRun { end: number + 1, positions };
            if let Some(behind) = self.ahead.remove(&run.end) {
                run.end = behind.end;
                run.positions.end = behind.positions.end;
            }
            match self.ahead.range_mut(..number).next_back() {
                Some((_, before)) if before.end == number => {
                    before.end = run.end;
                    before.positions.end = run.positions.end;
                }
                _ => _ = self.ahead.insert(number, run),
            }
            return;
        }

        (self.next, self.position) = (number + 1, positions.end);
        if let Some(run) = self.ahead.remove(&self.next) {
            (self.next, self.position) = (run.end, run.positions.end);
        }
    }

    /// Whether the first `count` batches are delivered.
    pub(crate) fn has_first(&self, count: u64) -> bool {
        self.next >= count
    }

    /// Whether the first `count` batches are delivered once the batch of this number is, too.
    pub(crate) fn lacks_only(&self, number: u64, count: u64) -> bool {
        let next = self.ahead.get(&(number + 1)).map_or(number + 1, |run| run.end);
        number == self.next && next >= count
    }

    /// The number of batches of an epoch of `samples` samples that was begun at `position`, those before it included.
    pub(crate) fn batch_count(&self, sharding: &Sharding, samples: u64, position: u64) -> u64 {
        let (KnownSamples::All(left) | KnownSamples::AtLeast(left)) = self.holes.known(KnownSamples::All(samples));
        sharding.batches_before(position) + sharding.batch_count(left, position)
    }

    /// The number of batches of an epoch of `samples` samples that are left, if nothing was delivered since the state.
    pub(crate) fn batches_left(&self, sharding: &Sharding, samples: u64) -> u64 {
        let count = self.batch_count(sharding, samples, self.position);
        let length = |run: (&u64, &BatchRun)| run.1.end - run.0;
        count.saturating_sub(self.next).saturating_sub(self.ahead.iter().map(length).sum())
    }

    /// Position and what was delivered ahead of it, for a state.
    pub(crate) fn state(&self) -> (u64, Option<DeliveredAhead>) {
        let holes = self.holes.holes.iter().filter(|hole| hole.end > self.position).cloned();
        if let Some(OwnRank { rank, world_size }) = self.alone {
            let batches =
                self.ahead.iter().map(|(first, run)| (first - self.next, run.end - self.next, run.positions.end));
            let share = Some(RankProgress { rank, world_size, batches: batches.collect() });
            let positions = holes.map(|hole| (hole.start, hole.end)).collect();
            return (self.position, Some(DeliveredAhead { positions, share }));
        }

        let ahead = self.ahead.values().map(|run| run.positions.clone());
        let (position, ranges) = merge_ranges(self.position, holes.chain(ahead).collect());
        (position, delivered_ahead(&ranges))
    }
}

/// The state at the beginning of epoch `latest`, where `state` is at the end of the epoch before, which is the same
/// point of the run. Ranks that are stopped around the end of an epoch are on both sides of it. States of ordered
/// batches don't hold the number of ranks, which decides where an epoch with drop_last ends; `ranks` is that number,
/// since there is one state for each rank.
fn carried_on(
    state: &State,
    latest: u64,
    ranks: usize,
    samples: u64,
    sharding: impl Fn(usize, usize) -> Result<Sharding>,
) -> Result<State> {
    let share = state.beyond.as_ref().and_then(|ahead| ahead.share.as_ref());
    let (rank, world_size) = share.map_or((0, ranks), |share| (share.rank, share.world_size));
    let left = RemainingPositions::of(state)?.known(KnownSamples::All(samples));
    let is_over = || Ok::<_, Error>(sharding(rank, world_size)?.spans(state.position).next(left).is_none());
    if state.epoch.checked_add(1) != Some(latest) || !is_over()? {
        return Ok(state.clone());
    }
    let beyond = share.map(|_| DeliveredAhead {
        positions: Vec::new(),
        share: Some(RankProgress { rank, world_size, batches: Vec::new() }),
    });
    Ok(State { epoch: latest, position: 0, beyond, ..state.clone() })
}

/// Merges the states of all ranks into one, each of which was [checked](State::check) against the data. `sharding`
/// returns how a rank, given with the world size, cut the epoch into batches; the epoch has `samples` samples.
///
/// # Errors
/// States of different runs or epochs, or not of all ranks.
pub(crate) fn merge(
    states: &[State],
    samples: u64,
    sharding: impl Fn(usize, usize) -> Result<Sharding>,
) -> Result<State> {
    let latest = states.iter().map(|state| state.epoch).max().unwrap_or(0);
    let carried = states.iter().map(|state| carried_on(state, latest, states.len(), samples, &sharding));
    let mut states = carried.collect::<Result<Vec<_>>>()?;
    // The caller has compared each digest with the data. Of ranks that saw no checksums it has another text.
    if let Some((first, others)) = states.split_first_mut() {
        for state in others {
            state.manifest.clone_from(&first.manifest);
        }
    }
    let states = &states[..];

    let bare = |state: &State| State { position: 0, beyond: None, ..state.clone() };
    let Some(base) = states.iter().min_by_key(|state| state.position).cloned() else {
        return Err(wrong("there is no state to resume from").mismatch("the states of all ranks", "none"));
    };
    if let Some(other) = states.iter().find(|state| bare(state) != bare(&base)) {
        return Err(wrong("these states are not of one run and epoch")
            .mismatch(format_args!("{:?}", bare(&base)), format_args!("{:?}", bare(other)))
            .hint("take those that all ranks saved after the same step"));
    }

    let shares: Vec<_> =
        states.iter().filter_map(|state| Some((state, state.beyond.as_ref()?.share.as_ref()?))).collect();
    if shares.is_empty() {
        // Each state covers all ranks.
        RemainingPositions::of(&base)?;
        return match states.iter().find(|state| **state != base) {
            None => Ok(base),
            Some(other) => Err(wrong("these states were not taken after the same step")
                .mismatch(format_args!("position {}", base.position), other.position)
                .hint("take those that all ranks saved after the same step")),
        };
    }

    let mut ranks: Vec<_> = shares.iter().map(|(_, share)| share.rank).collect();
    ranks.sort_unstable();
    let world_size = shares[0].1.world_size;
    let of_one_world = shares.iter().all(|(_, share)| share.world_size == world_size) && shares.len() == states.len();
    if !of_one_world || !ranks.iter().copied().eq(0..world_size) {
        return Err(wrong("the states of some ranks alone don't show what is left")
            .mismatch(format_args!("those of ranks 0 to {}", world_size.saturating_sub(1)), format_args!("{ranks:?}"))
            .hint("give resume_all() the states of all ranks"));
    }

    let remaining = RemainingPositions::of(&base)?;
    let known = remaining.known(KnownSamples::All(samples));
    let mut delivered = remaining.holes.clone();
    for (state, share) in shares {
        let cut = sharding(share.rank, world_size)?;
        let mine = DeliveredBatches::from(state, true, &cut)?;
        let most = mine.ahead.last_key_value().map_or(mine.next, |(_, run)| run.end);
        let mut spans = cut.spans(base.position);
        // The number of the batch that begins at this rank's position.
        let mut own = None;
        for number in 0u64.. {
            let Some(span) = spans.next(known) else { break };
            let is_before = remaining.global_position(span.end) <= state.position;
            let number = (!is_before).then(|| mine.next + number - *own.get_or_insert(number));
            if number.is_some_and(|number| number >= most) {
                break;
            }
            if number.is_none_or(|number| mine.has(number)) {
                // Padding repeats positions of other batches.
                let own = span.positions.start..span.positions.end - span.padding;
                delivered.extend(remaining.ranges(own));
            }
        }
    }
    delivered.retain(|range| !range.is_empty());
    let (position, ranges) = merge_ranges(base.position, delivered);
    Ok(State { position, beyond: delivered_ahead(&ranges), ..base })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ErrorKind;
    use crate::sample::LastBatch;

    fn state(position: u64, beyond: Option<DeliveredAhead>) -> State {
        State {
            version: State::VERSION,
            manifest: String::new(),
            sampler: "sequential".to_owned(),
            global_batch_size: None,
            pad_last: Some(false),
            epoch: 0,
            position,
            batch_size: 2,
            drop_last: false,
            beyond,
        }
    }

    fn with(position: u64, positions: &[(u64, u64)]) -> State {
        state(position, Some(DeliveredAhead { positions: positions.to_vec(), share: None }))
    }

    #[test]
    fn remaining_positions_are_counted_without_holes() {
        let remaining = RemainingPositions::of(&with(4, &[(6, 8), (9, 12)])).unwrap();
        assert_eq!((4..9).map(|at| remaining.global_position(at)).collect::<Vec<_>>(), [4, 5, 8, 12, 13]);
        assert_eq!(remaining.ranges(4..9).collect::<Vec<_>>(), [4..6, 8..9, 12..14]);
        assert_eq!(remaining.ranges(7..7).next(), None);
        assert_eq!(remaining.known(KnownSamples::All(20)), KnownSamples::All(15));
        assert_eq!(remaining.known(KnownSamples::AtLeast(10)), KnownSamples::AtLeast(7));
        assert_eq!(remaining.known(KnownSamples::AtLeast(5)), KnownSamples::AtLeast(5));
        assert_eq!(merge_ranges(3, vec![9..12, 3..5, 5..6, 8..9, 20..21]), (6, vec![8..12, 20..21]));
    }

    #[test]
    fn batches_out_of_turn_are_remembered_until_the_gap_is_closed() {
        let mut delivered = DeliveredBatches::from(&state(10, None), true, &Sharding::new(2, 0, 1).unwrap()).unwrap();
        for number in [8, 6, 9] {
            delivered.add(number, number * 2..2 + number * 2);
        }
        assert!(delivered.has(4) && !delivered.has(5), "five batches were before");
        assert!(delivered.has(6) && !delivered.has(7) && delivered.has(9) && !delivered.has(10));
        assert!(delivered.lacks_only(5, 7) && !delivered.lacks_only(5, 8) && !delivered.lacks_only(10, 11));
        assert!(!delivered.has_first(6) && delivered.has_first(5));
        let beyond = DeliveredAhead { positions: vec![(12, 14), (16, 20)], share: None };
        assert_eq!(delivered.state(), (10, Some(beyond)));
        delivered.add(5, 10..12);
        assert!(delivered.lacks_only(7, 10) && !delivered.lacks_only(7, 11));
        delivered.add(7, 14..16);
        assert!(delivered.has_first(10) && !delivered.has_first(11));
        assert_eq!(delivered.state(), (20, None));
    }

    #[test]
    fn damaged_states_are_refused() {
        for positions in [&[(4, 6)][..], &[(5, 5)], &[(8, 9), (6, 7)], &[(6, 8), (8, 9)], &[(9, 7)]] {
            assert_eq!(
                RemainingPositions::of(&with(4, positions)).unwrap_err().kind(),
                ErrorKind::Config,
                "{positions:?}"
            );
        }
        for batches in [vec![(0, 1, 9)], vec![(2, 2, 9)], vec![(1, 3, 9), (2, 4, 11)], vec![(1, 2, 3)]] {
            let share = Some(RankProgress { rank: 0, world_size: 2, batches });
            let state = state(4, Some(DeliveredAhead { positions: Vec::new(), share }));
            assert_eq!(
                DeliveredBatches::from(&state, true, &Sharding::new(2, 0, 2).unwrap()).unwrap_err().kind(),
                ErrorKind::Config,
                "{state:?}"
            );
        }
    }

    /// The merged state could not be resumed: its positions were beyond the end of the epoch.
    #[test]
    fn padding_is_no_position_of_a_merged_state() {
        let sharding = |rank, world| Ok(Sharding::new(4, rank, world)?.last(LastBatch::Pad));
        // Both ranks were given the last batch, of which rank 1 has only padding, and not the first.
        let states = [0, 1].map(|rank| {
            let share = Some(RankProgress { rank, world_size: 2, batches: vec![(1, 2, 10)] });
            state(0, Some(DeliveredAhead { positions: Vec::new(), share }))
        });
        assert_eq!(merge(&states, 10, sharding).unwrap(), with(0, &[(8, 10)]));
    }

    #[test]
    fn states_that_do_not_belong_together_are_refused() {
        let sharding = |rank, world| Sharding::new(2, rank, world);
        let share = |rank, world_size| {
            let share = Some(RankProgress { rank, world_size, batches: Vec::new() });
            state(0, Some(DeliveredAhead { positions: Vec::new(), share }))
        };
        for (states, said) in [
            (vec![], "none"),
            (vec![share(0, 2)], "ranks 0 to 1, got [0]"),
            (vec![share(0, 2), share(0, 2)], "got [0, 0]"),
            (vec![share(0, 2), share(1, 3)], "ranks 0 to 1"),
            (vec![state(0, None), share(0, 1)], "ranks 0 to 0"),
            (vec![state(0, None), state(4, None)], "same step"),
            (vec![share(0, 2), State { epoch: 1, ..share(1, 2) }], "one run and epoch"),
        ] {
            let error = merge(&states, 100, sharding).unwrap_err();
            assert!(error.to_string().contains(said), "{error}");
        }
        let same = state(8, None);
        assert_eq!(merge(&[same.clone(), same.clone()], 100, sharding).unwrap(), same);
        let without_checksums = State { manifest: "a digest without checksums".to_owned(), ..same.clone() };
        assert_eq!(merge(&[same.clone(), without_checksums], 100, sharding).unwrap(), same);
    }

    proptest! {
        /// However many ranks there are, in whatever order each rank is given its batches, and wherever the run stops
        /// and resumes, at the same number of ranks or at another: each position comes once. Where nothing stops,
        /// batches are those that come in order.
        #[test]
        fn every_position_once_whatever_comes_first(
            samples in 0u64..300, batch in 1usize..12,
            last_batch in prop::sample::select(vec![LastBatch::Short, LastBatch::Drop, LastBatch::Pad]),
            legs in prop::collection::vec((1usize..5, 0usize..6, any::<bool>(), any::<u64>()), 1..6),
        ) {
            let mut seen = vec![0; samples as usize];
            let mut states = vec![state(0, None)];
            let (last, mut world) = (legs.len() - 1, legs[0].0);
            for (leg, &(another, steps, same, seed)) in legs.iter().enumerate() {
                let sharding = |rank, world| Sharding::new(batch, rank, world).map(|cut| cut.last(last_batch));
                if !(same && states.len() == world) {
                    states = vec![merge(&states, samples, sharding).unwrap()];
                    let beyond = states[0].beyond.iter().flat_map(|beyond| &beyond.positions);
                    let end = beyond.map(|(_, end)| *end).max().unwrap_or(states[0].position);
                    prop_assert!(end <= samples, "a state beyond the end: {:?}", states[0]);
                    world = another;
                }
                let before: Vec<_> = (0..world).map(|rank| states[rank % states.len()].clone()).collect();
                states.clear();
                let mut counts = Vec::new();
                for (rank, state) in before.into_iter().enumerate() {
                    let state: State = serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap();
                    let remaining = RemainingPositions::of(&state).unwrap();
                    let cut = sharding(rank, world).unwrap();
                    let mut delivered = DeliveredBatches::from(&state, true, &cut).unwrap();
                    let (mut spans, mut at) = (cut.spans(state.position), state.position);
                    let known = remaining.known(KnownSamples::All(samples));
                    let mut left = Vec::new();
                    for number in cut.batches_before(state.position).. {
                        let Some(span) = spans.next(known) else { break };
                        let global = remaining.global_position(at)..remaining.global_position(span.end);
                        at = span.end;
                        if !delivered.has(number) {
                            // Padding repeats positions of another batch, which delivers them.
                            let own = span.positions.start..span.positions.end - span.padding;
                            left.push((number, global, remaining.ranges(own).collect::<Vec<_>>()));
                        }
                    }
                    counts.push(left.len());
                    prop_assert_eq!(delivered.batches_left(&cut, samples), left.len() as u64);
                    let mut dice = seed ^ rank as u64;
                    for _ in 0..if leg == last { usize::MAX } else { steps } {
                        if left.is_empty() {
                            break;
                        }
                        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        // A few batches ahead, as a loader has them.
                        let (number, global, own) = left.remove((dice >> 33) as usize % left.len().min(4));
                        own.into_iter().flatten().for_each(|position| seen[position as usize] += 1);
                        delivered.add(number, global);
                    }
                    let (position, beyond) = delivered.state();
                    states.push(State { position, beyond, ..state });
                }
                prop_assert!(counts.iter().all(|count| *count == counts[0]), "ranks differ: {counts:?}");
            }
            prop_assert!(seen.iter().all(|times| *times <= 1), "{seen:?}");
            let missed = seen.iter().filter(|times| **times == 0).count();
            prop_assert!(missed == 0 || last_batch == LastBatch::Drop && missed < batch * world, "{seen:?}");
        }
    }
}
