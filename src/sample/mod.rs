//! In which order an epoch delivers its samples, which rank gets which, and where to go on after a stop.
//!
//! The global order is a pure function of the manifest's digest, the seed and the epoch; where it is shuffled by windows,
//! of the window's size instead of the digest, so that it can begin before the manifest is whole. Threads, strategy, retries and
//! the number of ranks have no say in it: rank r of w takes its slice of each global batch.

mod permutation;
mod rest;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::manifest::{Digest, Known, Manifest};
use crate::{Error, ErrorKind, Result, Stage};
use permutation::Permutation;
pub use rest::{Beyond, Share};
pub(crate) use rest::{Delivered, Rest, merge};

/// A sample, by its index in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SampleId(pub u64);

/// The global order of an epoch: from position to sample, in any order, with no memory per sample.
#[derive(Clone, Debug)]
pub struct Order {
    samples: u64,
    way: Way,
}

#[derive(Clone, Debug)]
enum Way {
    ByName,
    Shuffled(Permutation),
    Windows { window: u64, seed: u64, epoch: u64 },
}

impl Order {
    /// The order of `epoch` over `samples` samples: by name without a seed, shuffled by it otherwise.
    pub fn new(digest: Digest, samples: u64, seed: Option<u64>, epoch: u64) -> Self {
        let way = seed.map_or(Way::ByName, |seed| Way::Shuffled(Permutation::new(samples, &digest.0, seed, epoch)));
        Self { samples, way }
    }

    /// The order of `epoch` over `samples` samples, shuffled within each `window` of them in order of names: a sample stays
    /// where its window is. A window of 0 counts as 1.
    pub fn windows(samples: u64, window: u64, seed: u64, epoch: u64) -> Self {
        Self { samples, way: Way::Windows { window: window.max(1), seed, epoch } }
    }

    /// The sample at `position`.
    ///
    /// # Panics
    /// When `position` isn't below the number of samples.
    pub fn at(&self, position: u64) -> SampleId {
        // Beyond it the walk of the permutation might never end.
        assert!(position < self.samples, "position {position} of {}", self.samples);
        self.ids(position..position + 1).next().expect("a range of one position")
    }

    /// The samples at `positions`, which is cheaper than one by one.
    ///
    /// # Panics
    /// When `positions` end beyond the number of samples.
    pub fn ids(&self, positions: Range<u64>) -> impl Iterator<Item = SampleId> {
        assert!(positions.end <= self.samples, "positions {positions:?} of {}", self.samples);
        // The window that the last position was in: where it begins, and its permutation.
        let mut last: Option<(u64, Permutation)> = None;
        positions.map(move |position| {
            SampleId(match &self.way {
                Way::ByName => position,
                Way::Shuffled(permutation) => permutation.at(position),
                &Way::Windows { window, seed, epoch } => {
                    let start = position - position % window;
                    if last.as_ref().is_none_or(|(of, _)| *of != start) {
                        let size = window.min(self.samples - start);
                        last = Some((start, Permutation::of_window(size, start / window, seed, epoch)));
                    }
                    start + last.as_ref().map_or(0, |(_, permutation)| permutation.at(position - start))
                }
            })
        })
    }
}

/// How epochs are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shuffle {
    ByName,
    Full { seed: u64 },
    Windows { seed: u64, window: u64 },
}

impl Shuffle {
    pub(crate) fn seed(self) -> Option<u64> {
        match self {
            Self::ByName => None,
            Self::Full { seed } | Self::Windows { seed, .. } => Some(seed),
        }
    }

    pub(crate) fn window(self) -> Option<u64> {
        match self {
            Self::ByName | Self::Full { .. } => None,
            Self::Windows { window, .. } => Some(window),
        }
    }

    /// Of how many positions the sample is known, where this many samples are.
    pub(crate) fn positions(self, known: Known) -> Known {
        match (self, known) {
            (Self::ByName, _) | (_, Known::All(_)) => known,
            (Self::Full { .. }, Known::AtLeast(_)) => Known::AtLeast(0),
            // Of a window that isn't full, the order hangs on how full it gets.
            (Self::Windows { window, .. }, Known::AtLeast(samples)) => Known::AtLeast(samples - samples % window),
        }
    }

    /// The order of the first `positions`, which must be known.
    pub(crate) fn order(self, manifest: &Manifest, positions: u64, epoch: u64) -> Order {
        match self {
            Self::ByName => Order { samples: positions, way: Way::ByName },
            Self::Full { seed } => Order::new(manifest.digest(), positions, Some(seed), epoch),
            Self::Windows { seed, window } => Order::windows(positions, window, seed, epoch),
        }
    }
}

/// How the global order is cut into batches, and which part of each is this rank's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharding {
    batch_size: u64,
    rank: u64,
    world_size: u64,
    drop_last: bool,
}

/// One batch of one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchSpan {
    /// Positions in the global order; empty where the last global batch has fewer samples than there are ranks.
    pub positions: Range<u64>,
    /// Where the global batch ends, over all ranks: what has been delivered once this batch has.
    pub end: u64,
}

impl Sharding {
    /// Batches of `batch_size` samples for each of `world_size` ranks.
    ///
    /// # Errors
    /// A batch size or world size of 0; a rank that isn't below the world size.
    pub fn new(batch_size: usize, rank: usize, world_size: usize, drop_last: bool) -> Result<Self> {
        let wrong = |message: &str| Error::new(ErrorKind::Config, message).stage(Stage::Sample);
        if batch_size == 0 {
            return Err(wrong("a batch needs samples")
                .mismatch("a batch_size of at least 1", 0)
                .hint("call .batch_size(n) with the number of samples that one rank takes per step"));
        }
        if world_size == 0 {
            return Err(wrong("there must be a rank")
                .mismatch("a world size of at least 1", 0)
                .hint("call .shard(rank, world_size) with the number of processes that train together"));
        }
        if rank >= world_size {
            return Err(wrong("ranks count from 0")
                .mismatch(format_args!("a rank below the world size of {world_size}"), rank)
                .hint(format!("number the processes 0 to {}", world_size - 1)));
        }
        Ok(Self { batch_size: batch_size as u64, rank: rank as u64, world_size: world_size as u64, drop_last })
    }

    /// Samples in one batch of one rank.
    pub fn batch_size(&self) -> u64 {
        self.batch_size
    }

    /// Ranks that share each global batch.
    pub fn world_size(&self) -> u64 {
        self.world_size
    }

    /// This rank's batches from `position` of the global order on. All ranks get the same number of them. The last
    /// global batch, if it isn't full, is dropped, or cut so that ranks differ by one sample at most.
    pub fn batches(self, samples: u64, position: u64) -> impl Iterator<Item = BatchSpan> {
        let mut spans = self.spans(position);
        std::iter::from_fn(move || spans.next(Known::All(samples)))
    }

    /// As [`batches`](Self::batches), for a number of samples that is told little by little.
    pub fn spans(self, position: u64) -> Spans {
        Spans { sharding: self, start: position }
    }

    /// How many batches that is.
    pub fn batch_count(&self, samples: u64, position: u64) -> u64 {
        let left = samples.saturating_sub(position);
        let global = self.batch_size.saturating_mul(self.world_size);
        if self.drop_last { left / global } else { left.div_ceil(global) }
    }
}

/// Batches of one rank, as far as the number of samples is known.
#[derive(Clone, Debug)]
pub struct Spans {
    sharding: Sharding,
    /// Where the next global batch begins.
    start: u64,
}

impl Spans {
    /// The next batch. `None` where more must be known for it; where all is known, at the end.
    pub fn next(&mut self, known: Known) -> Option<BatchSpan> {
        let Sharding { batch_size, rank, world_size, drop_last } = self.sharding;
        let global = batch_size.saturating_mul(world_size);
        let (Known::AtLeast(samples) | Known::All(samples)) = known;
        let left = samples.saturating_sub(self.start);
        let whole_only = drop_last || matches!(known, Known::AtLeast(_));
        if left == 0 || (left < global && whole_only) {
            return None;
        }
        let taken = left.min(global);
        // In 128 bits, since a rank times a count may not fit 64.
        let cut = |rank: u64| self.start + (u128::from(taken) * u128::from(rank) / u128::from(world_size)) as u64;
        let span = BatchSpan { positions: cut(rank)..cut(rank + 1), end: self.start + taken };
        self.start = span.end;
        Some(span)
    }
}

/// Where a run stands: what the training loop has been *given*, not what was fetched for it.
///
/// A few dozen bytes in any serde format. It holds at any number of ranks, since it counts in the global order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct State {
    /// Of this format.
    pub version: u32,
    /// Digest of the manifest, in hex.
    pub manifest: String,
    /// The seed, where the order is shuffled.
    pub seed: Option<u64>,
    /// The epoch this is in.
    pub epoch: u64,
    /// Samples of this epoch delivered, over all ranks.
    pub position: u64,
    /// Samples in a batch of one rank.
    pub batch_size: usize,
    /// Whether a last batch that isn't full is dropped.
    pub drop_last: bool,
    /// Samples in a window, where each is shuffled within itself; since version 2.
    #[serde(default)]
    pub window: Option<u64>,
    /// What was delivered beyond the position, where batches come as they are done; since version 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub beyond: Option<Beyond>,
}

impl State {
    /// The version this crate writes. It reads version 1, too, in formats that name their fields, such as JSON.
    pub const VERSION: u32 = 2;

    /// Refuses a state of another format, another manifest, or a place that isn't there.
    pub(crate) fn check(&self, digest: Digest, samples: u64) -> Result<()> {
        let wrong = |message: &str| Error::new(ErrorKind::Config, message).stage(Stage::Sample);
        if !(1..=Self::VERSION).contains(&self.version) {
            return Err(wrong("this state was saved by another version of the crate")
                .mismatch(format_args!("version 1 to {}", Self::VERSION), format_args!("version {}", self.version))
                .hint("resume with the version that saved it"));
        }
        if self.manifest != digest.to_string() {
            return Err(wrong("this state belongs to other data")
                .mismatch(format_args!("a manifest of digest {}", self.manifest), digest)
                .hint("objects were added, removed or overwritten since: begin the epoch anew"));
        }
        if self.position > samples {
            return Err(wrong("this state is beyond the end of its epoch")
                .mismatch(format_args!("a position of at most {samples}"), self.position)
                .hint("the state is damaged; take an earlier one"));
        }
        if self.window == Some(0) || (self.window.is_some() && self.seed.is_none()) {
            return Err(wrong("this state has a window that can't be")
                .mismatch("a window of at least 1, and a seed", format_args!("{:?} and {:?}", self.window, self.seed))
                .hint("the state is damaged; take an earlier one"));
        }
        Ok(())
    }

    /// How its epoch is ordered.
    pub(crate) fn shuffle(&self) -> Shuffle {
        match (self.seed, self.window) {
            (None, _) => Shuffle::ByName,
            (Some(seed), None) => Shuffle::Full { seed },
            (Some(seed), Some(window)) => Shuffle::Windows { seed, window },
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn positions(sharding: Sharding, samples: u64, from: u64) -> Vec<BatchSpan> {
        sharding.batches(samples, from).collect()
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (batch, rank, world, said) in [
            (0, 0, 1, "batch_size of at least 1"),
            (1, 0, 0, "world size of at least 1"),
            (1, 4, 4, "a rank below the world size of 4"),
        ] {
            let error = Sharding::new(batch, rank, world, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    /// Never to be changed: a saved state means this order.
    #[test]
    fn golden_windows() {
        let order = Order::windows(10, 4, 42, 1);
        assert_eq!(order.ids(0..10).map(|id| id.0).collect::<Vec<_>>(), [3, 0, 2, 1, 4, 5, 7, 6, 9, 8]);
        let order = Order::windows(1_000_000, 100_000, 42, 0);
        assert_eq!(
            [0, 1, 99_999, 100_000, 999_999].map(|position| order.at(position).0),
            [19_512, 14_732, 20_499, 189_176, 984_524]
        );
    }

    #[test]
    fn without_a_seed_the_order_is_that_of_names() {
        let order = Order::new(Digest([0; 32]), 5, None, 3);
        assert_eq!((0..5).map(|position| order.at(position).0).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }

    proptest! {
        /// However the ranks are counted, and wherever a run stops and goes on with another number of them, each
        /// position is one rank's, once, and all ranks have equally many batches.
        #[test]
        fn every_position_once_over_all_ranks_and_stops(
            samples in 0u64..500, batch in 1usize..20, worlds in prop::collection::vec((1usize..9, 1usize..5), 1..6),
        ) {
            let mut seen = vec![0; samples as usize];
            let mut from = 0;
            let last = worlds.len() - 1;
            for (turn, &(world, steps)) in worlds.iter().enumerate() {
                let steps = if turn == last { usize::MAX } else { steps };
                let ranks: Vec<_> = (0..world)
                    .map(|rank| positions(Sharding::new(batch, rank, world, false).unwrap(), samples, from))
                    .collect();
                for spans in &ranks {
                    prop_assert_eq!(spans.len(), ranks[0].len());
                    let count = Sharding::new(batch, 0, world, false).unwrap().batch_count(samples, from);
                    prop_assert_eq!(spans.len() as u64, count);
                    for (span, first) in spans.iter().zip(&ranks[0]).take(steps) {
                        prop_assert_eq!(span.end, first.end);
                        prop_assert!(span.positions.end - span.positions.start <= batch as u64);
                        span.positions.clone().for_each(|position| seen[position as usize] += 1);
                    }
                }
                from = ranks[0].iter().take(steps).next_back().map_or(from, |span| span.end);
            }
            prop_assert!(seen.iter().all(|&times| times == 1), "{:?}", seen);
        }

        /// Each window holds what it held in order of names, whoever asks for which positions; and what is known of the
        /// order before all samples are is what it turns out to be.
        #[test]
        fn windows_are_shuffled_each_within_itself(
            samples in 1u64..500, window in 1u64..200, seed: u64, epoch in 0u64..3, known in 0u64..500, from in 0u64..500,
        ) {
            let order = Order::windows(samples, window, seed, epoch);
            let ids: Vec<_> = order.ids(0..samples).map(|id| id.0).collect();
            for (number, ids) in (0..).zip(ids.chunks(window as usize)) {
                let mut ids = ids.to_vec();
                ids.sort_unstable();
                prop_assert!(ids.into_iter().eq(number * window..samples.min((number + 1) * window)));
            }
            let from = from.min(samples);
            prop_assert!(order.ids(from..samples).map(|id| id.0).eq(ids[from as usize..].iter().copied()));
            prop_assert!((from..samples).all(|position| order.at(position).0 == ids[position as usize]));
            let shuffle = Shuffle::Windows { seed, window };
            let Known::AtLeast(positions) = shuffle.positions(Known::AtLeast(known.min(samples))) else { panic!() };
            let early = Order::windows(positions, window, seed, epoch);
            prop_assert!(early.ids(0..positions).map(|id| id.0).eq(ids[..positions as usize].iter().copied()));
        }

        /// Told little by little or at once, the batches are the same; and none is told before it is known.
        #[test]
        fn batches_are_the_same_however_samples_become_known(
            mut told in prop::collection::vec(0u64..300, 1..8), batch in 1usize..20, world in 1usize..5, drop_last: bool,
        ) {
            told.sort_unstable();
            let samples = told.last().copied().unwrap_or(0);
            for rank in 0..world {
                let sharding = Sharding::new(batch, rank, world, drop_last).unwrap();
                let (mut spans, mut early) = (sharding.spans(0), Vec::new());
                for &known in &told {
                    while let Some(span) = spans.next(Known::AtLeast(known)) {
                        prop_assert!(span.end <= known);
                        early.push(span);
                    }
                }
                early.extend(std::iter::from_fn(|| spans.next(Known::All(samples))));
                prop_assert_eq!(early, positions(sharding, samples, 0));
            }
        }

        #[test]
        fn drop_last_gives_full_batches_alone(samples in 0u64..500, batch in 1usize..20, world in 1usize..6) {
            for rank in 0..world {
                for span in positions(Sharding::new(batch, rank, world, true).unwrap(), samples, 0) {
                    prop_assert_eq!(span.positions.end - span.positions.start, batch as u64);
                }
            }
        }
    }

    #[test]
    fn states_of_the_first_version_are_read() {
        let json = r#"{"version":1,"manifest":"0101010101010101010101010101010101010101010101010101010101010101",
            "seed":42,"epoch":3,"position":512,"batch_size":256,"drop_last":true}"#;
        let state: State = serde_json::from_str(json).unwrap();
        state.check(Digest([1; 32]), 512).unwrap();
        assert_eq!(state.shuffle(), Shuffle::Full { seed: 42 });
        assert_eq!((state.epoch, state.position, state.batch_size, state.drop_last), (3, 512, 256, true));
        for (version, window, seed) in [(0, None, None), (3, None, None), (2, Some(0), Some(1)), (2, Some(9), None)] {
            let state = State { version, seed, window, ..state.clone() };
            assert_eq!(state.check(Digest([1; 32]), 512).unwrap_err().kind(), ErrorKind::Config);
        }
    }

    #[test]
    fn a_state_for_other_data_is_refused_with_both_digests() {
        let state = State {
            version: State::VERSION,
            manifest: Digest([1; 32]).to_string(),
            seed: None,
            window: None,
            beyond: None,
            epoch: 0,
            position: 4,
            batch_size: 2,
            drop_last: false,
        };
        state.check(Digest([1; 32]), 4).unwrap();
        let said = state.check(Digest([2; 32]), 4).unwrap_err().to_string();
        assert!(said.contains(&"01".repeat(32)) && said.contains(&"02".repeat(32)), "{said}");
        assert!(state.check(Digest([1; 32]), 3).is_err());
    }
}
