//! What is left of an epoch whose batches are delivered in another order than their own.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use super::{Sharding, State, wrong};
use crate::manifest::Known;
use crate::{Error, Result};

/// What was delivered beyond the position of a [`State`], of which there is some where batches are
/// [unordered](crate::DataLoaderBuilder::unordered). Some 16 bytes for each gap, of which there are as many as batches
/// ahead of the training loop at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeliveredAhead {
    /// Positions of the global order that were delivered, by whichever rank: each from the first to before the last, in
    /// order.
    pub positions: Vec<(u64, u64)>,
    /// Where there are several ranks: what one of them delivered. Only all of these together tell what is left.
    #[serde(default)]
    pub share: Option<RankProgress>,
}

/// What one rank of several has delivered: its batches up to the position of its [`State`], and some beyond.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RankProgress {
    /// The rank, from 0.
    pub rank: usize,
    /// Ranks there were.
    pub world_size: usize,
    /// Batches delivered beyond the position, counted from it: each from the first to before the last, and the position in
    /// the global order where the last ends.
    pub batches: Vec<(u64, u64, u64)>,
}

/// Positions that are left from one on, where some beyond it have been delivered: those are holes. What is left is counted
/// from the same position on, without them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RemainingPositions {
    /// In order, none empty, none touching another.
    holes: Vec<(u64, u64)>,
}

impl RemainingPositions {
    /// What a state leaves.
    ///
    /// # Errors
    /// Holes that are none, or aren't where they can be.
    pub(crate) fn of(state: &State) -> Result<Self> {
        let holes = state.beyond.as_ref().map(|beyond| beyond.positions.clone()).unwrap_or_default();
        let mut at = state.position;
        for &(start, end) in &holes {
            if start <= at || end <= start {
                return Err(wrong("this state has delivered positions that can't be")
                    .mismatch(format_args!("positions in order, beyond {at}"), format_args!("{start} to {end}"))
                    .hint("the state is damaged; take an earlier one"));
            }
            at = end;
        }
        Ok(Self { holes })
    }

    /// How many of what is known are left, counted with those before the position.
    pub(crate) fn known(&self, known: Known) -> Known {
        let left = |samples: u64| {
            let below = self.holes.iter().map(|&(start, end)| end.min(samples).saturating_sub(start)).sum::<u64>();
            samples - below
        };
        match known {
            Known::AtLeast(samples) => Known::AtLeast(left(samples)),
            Known::All(samples) => Known::All(left(samples)),
        }
    }

    /// Where in the global order the next one is, once so many that are left have been passed.
    pub(crate) fn place(&self, at: u64) -> u64 {
        let mut place = at;
        for &(start, end) in &self.holes {
            if start > place {
                break;
            }
            place += end - start;
        }
        place
    }

    /// Positions in the global order of some that are left.
    pub(crate) fn ranges(&self, left: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let mut at = left.start;
        std::iter::from_fn(move || {
            let more = left.end.checked_sub(at).filter(|more| *more > 0)?;
            let start = self.place(at);
            let until = self.holes.iter().map(|&(hole, _)| hole).find(|hole| *hole > start).unwrap_or(u64::MAX);
            let taken = more.min(until - start);
            at += taken;
            Some(start..start + taken)
        })
    }
}

/// Ranges put in order and together, less what `position` has passed, which goes as far as they go on from it.
fn put_together(position: u64, mut ranges: Vec<(u64, u64)>) -> (u64, Vec<(u64, u64)>) {
    ranges.sort_unstable();
    let (mut position, mut together) = (position, Vec::<(u64, u64)>::new());
    for (start, end) in ranges {
        match together.last_mut() {
            Some((_, last)) if start <= *last => *last = end.max(*last),
            _ if start <= position => position = position.max(end),
            _ => together.push((start, end)),
        }
    }
    (position, together)
}

/// What a rank has delivered of an epoch.
#[derive(Clone, Debug)]
pub(crate) struct DeliveredBatches {
    /// Where in the global order the last batch ends before which there is no gap.
    position: u64,
    /// The number of the next one.
    next: u64,
    /// Batches beyond, by the number of the first.
    ahead: BTreeMap<u64, BatchRun>,
    holes: RemainingPositions,
    /// Rank and world size, where a state is that of one rank alone.
    share: Option<(usize, usize)>,
}

/// Batches that follow each other.
#[derive(Clone, Debug)]
struct BatchRun {
    /// The number after the last.
    last: u64,
    positions: Range<u64>,
}

impl DeliveredBatches {
    /// What had been when a state was taken. Where batches are `unordered` and of one rank of several, its states will be
    /// that rank's alone.
    pub(crate) fn from(state: &State, unordered: bool, sharding: &Sharding) -> Result<Self> {
        let (rank, world_size) = (sharding.rank() as usize, sharding.world_size() as usize);
        let holes = RemainingPositions::of(state)?;
        let mut ahead = BTreeMap::new();
        let share = state.beyond.as_ref().and_then(|beyond| beyond.share.as_ref());
        for &(first, last, end) in share.iter().flat_map(|share| &share.batches) {
            let before = ahead.last_key_value().map_or(0, |(_, stretch): (_, &BatchRun)| stretch.last);
            if first <= before || last <= first || end <= state.position {
                return Err(wrong("this state has delivered batches that can't be")
                    .mismatch(format_args!("batches in order, beyond {before}"), format_args!("{first} to {last}"))
                    .hint("the state is damaged; take an earlier one"));
            }
            // Where they begin is asked for of one rank alone, whose states have no share.
            ahead.insert(first, BatchRun { last, positions: end..end });
        }
        let alone = share.is_some() || (unordered && world_size > 1);
        Ok(Self { position: state.position, next: 0, ahead, holes, share: alone.then_some((rank, world_size)) })
    }

    /// Whether a batch had been, by its number from the position on.
    pub(crate) fn has(&self, number: u64) -> bool {
        number < self.next || self.ahead.range(..=number).next_back().is_some_and(|(_, stretch)| number < stretch.last)
    }

    /// A batch of these positions of the global order, of all ranks, has been.
    pub(crate) fn add(&mut self, number: u64, positions: Range<u64>) {
        if number != self.next {
            let mut stretch = BatchRun { last: number + 1, positions };
            if let Some(behind) = self.ahead.remove(&stretch.last) {
                stretch.last = behind.last;
                stretch.positions.end = behind.positions.end;
            }
            match self.ahead.range_mut(..number).next_back() {
                Some((_, before)) if before.last == number => {
                    before.last = stretch.last;
                    before.positions.end = stretch.positions.end;
                }
                _ => _ = self.ahead.insert(number, stretch),
            }
            return;
        }
        (self.next, self.position) = (number + 1, positions.end);
        if let Some(stretch) = self.ahead.remove(&self.next) {
            (self.next, self.position) = (stretch.last, stretch.positions.end);
        }
    }

    /// Position and what is beyond, for a state.
    pub(crate) fn state(&self) -> (u64, Option<DeliveredAhead>) {
        let holes = self.holes.holes.iter().copied().filter(|(_, end)| *end > self.position).collect::<Vec<_>>();
        if let Some((rank, world_size)) = self.share {
            let batches = self
                .ahead
                .iter()
                .map(|(first, stretch)| (first - self.next, stretch.last - self.next, stretch.positions.end));
            let share = Some(RankProgress { rank, world_size, batches: batches.collect() });
            return (self.position, Some(DeliveredAhead { positions: holes, share }));
        }
        if holes.is_empty() && self.ahead.is_empty() {
            return (self.position, None);
        }
        let ahead = self.ahead.values().map(|stretch| (stretch.positions.start, stretch.positions.end));
        let (position, positions) = put_together(self.position, holes.into_iter().chain(ahead).collect());
        (position, (!positions.is_empty()).then_some(DeliveredAhead { positions, share: None }))
    }
}

/// The state at the beginning of epoch `latest` instead of that at the end of the one before, which is the same: ranks
/// that are stopped around the end of an epoch are on both sides of it. States of ordered batches don't have the number
/// of ranks, which decides where an epoch with drop_last ends; it is `ranks`, since there is a state of each.
fn carried_on(
    state: &State,
    latest: u64,
    ranks: usize,
    samples: u64,
    sharding: impl Fn(usize, usize) -> Result<Sharding>,
) -> Result<State> {
    let share = state.beyond.as_ref().and_then(|beyond| beyond.share.as_ref());
    let (rank, world_size) = share.map_or((0, ranks), |share| (share.rank, share.world_size));
    let left = RemainingPositions::of(state)?.known(Known::All(samples));
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

/// One state of those of all ranks. `sharding` tells how each cut the epoch, which has so many samples.
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
    let states = &carried.collect::<Result<Vec<_>>>()?[..];
    let bare = |state: &State| State { position: 0, beyond: None, ..state.clone() };
    let Some(base) = states.iter().min_by_key(|state| state.position).cloned() else {
        return Err(wrong("there is no state to go on from").mismatch("the states of all ranks", "none"));
    };
    if let Some(other) = states.iter().find(|state| bare(state) != bare(&base)) {
        return Err(wrong("these states are not of one run and epoch")
            .mismatch(format_args!("{:?}", bare(&base)), format_args!("{:?}", bare(other)))
            .hint("take those that all ranks saved after the same step"));
    }
    let shares: Vec<_> =
        states.iter().filter_map(|state| Some((state, state.beyond.as_ref()?.share.as_ref()?))).collect();
    if shares.is_empty() {
        // Each of them tells all.
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
        return Err(wrong("what is left is not told by the states of some ranks alone")
            .mismatch(format_args!("those of ranks 0 to {}", world_size.saturating_sub(1)), format_args!("{ranks:?}"))
            .hint("give resume_all() the states of all ranks"));
    }
    let rest = RemainingPositions::of(&base)?;
    let known = rest.known(Known::All(samples));
    let mut delivered = rest.holes.clone();
    for (state, share) in shares {
        let cut = sharding(share.rank, world_size)?;
        let mine = DeliveredBatches::from(state, true, &cut)?;
        let most = mine.ahead.last_key_value().map_or(0, |(_, stretch)| stretch.last);
        let mut spans = cut.spans(base.position);
        // The number of the batch that begins at this rank's position.
        let mut own = None;
        for number in 0u64.. {
            let Some(span) = spans.next(known) else { break };
            let before = rest.place(span.end) <= state.position;
            let first = if before { None } else { Some(*own.get_or_insert(number)) };
            if first.is_some_and(|first| number - first >= most) {
                break;
            }
            if first.is_none_or(|first| mine.has(number - first)) {
                // What fills it up is of other batches.
                let own = span.positions.start..span.positions.end - span.padding;
                delivered.extend(rest.ranges(own).map(|range| (range.start, range.end)));
            }
        }
    }
    delivered.retain(|(start, end)| start < end);
    let (position, positions) = put_together(base.position, delivered);
    let beyond = (!positions.is_empty()).then_some(DeliveredAhead { positions, share: None });
    Ok(State { position, beyond, ..base })
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
            seed: None,
            window: None,
            sampler: Some("sequential".to_owned()),
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
    fn what_is_left_is_counted_without_holes() {
        let rest = RemainingPositions::of(&with(4, &[(6, 8), (9, 12)])).unwrap();
        assert_eq!((4..9).map(|at| rest.place(at)).collect::<Vec<_>>(), [4, 5, 8, 12, 13]);
        assert_eq!(rest.ranges(4..9).collect::<Vec<_>>(), [4..6, 8..9, 12..14]);
        assert_eq!(rest.ranges(7..7).next(), None);
        assert_eq!(rest.known(Known::All(20)), Known::All(15));
        assert_eq!(rest.known(Known::AtLeast(10)), Known::AtLeast(7));
        assert_eq!(rest.known(Known::AtLeast(5)), Known::AtLeast(5));
        assert_eq!(put_together(3, vec![(9, 12), (3, 5), (5, 6), (8, 9), (20, 21)]), (6, vec![(8, 12), (20, 21)]));
    }

    #[test]
    fn batches_out_of_turn_are_remembered_until_the_gap_is_closed() {
        let mut delivered = DeliveredBatches::from(&state(10, None), true, &Sharding::new(2, 0, 1).unwrap()).unwrap();
        for number in [3, 1, 4] {
            delivered.add(number, 10 + number * 2..12 + number * 2);
        }
        assert!(delivered.has(1) && !delivered.has(2) && delivered.has(4) && !delivered.has(5));
        let beyond = DeliveredAhead { positions: vec![(12, 14), (16, 20)], share: None };
        assert_eq!(delivered.state(), (10, Some(beyond)));
        delivered.add(0, 10..12);
        delivered.add(2, 14..16);
        assert_eq!(delivered.state(), (20, None));
    }

    #[test]
    fn what_is_damaged_is_refused() {
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

    /// What it made of them could not be resumed: it was beyond the end of the epoch.
    #[test]
    fn what_fills_up_the_last_batch_is_no_position_of_a_merged_state() {
        let sharding = |rank, world| Ok(Sharding::new(4, rank, world)?.last(LastBatch::Pad));
        // Both ranks were given the last batch, of which rank 1 has but padding, and not the first.
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
    }

    proptest! {
        /// However many ranks there are, in whatever order each of them is given its batches, and wherever it stops and
        /// goes on, at the same ranks or at others: each position comes once. And where nobody stops, batches are those
        /// that come in order.
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
                    let rest = RemainingPositions::of(&state).unwrap();
                    let cut = sharding(rank, world).unwrap();
                    let mut delivered = DeliveredBatches::from(&state, true, &cut).unwrap();
                    let (mut spans, mut at) = (cut.spans(state.position), state.position);
                    let known = rest.known(Known::All(samples));
                    let mut left = Vec::new();
                    for number in 0.. {
                        let Some(span) = spans.next(known) else { break };
                        let global = rest.place(at)..rest.place(span.end);
                        at = span.end;
                        if !delivered.has(number) {
                            // What fills a batch up comes again, and is delivered with another.
                            let own = span.positions.start..span.positions.end - span.padding;
                            left.push((number, global, rest.ranges(own).collect::<Vec<_>>()));
                        }
                    }
                    counts.push(left.len());
                    let mut dice = seed ^ rank as u64;
                    for _ in 0..if leg == last { usize::MAX } else { steps } {
                        if left.is_empty() {
                            break;
                        }
                        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                        // A few ahead, as a loader has them.
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
