//! In which order an epoch delivers its samples, which rank gets which, and where to go on after a stop.
//!
//! The global order is a pure function of the manifest's digest, the seed and the epoch. Threads, strategy, retries and
//! the number of ranks have no say in it: rank r of w takes its slice of each global batch.

mod permutation;

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::manifest::Digest;
use crate::{Error, ErrorKind, Result, Stage};
use permutation::Permutation;

/// A sample, by its index in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SampleId(pub u64);

/// The global order of an epoch: from position to sample, in any order, with no memory per sample.
#[derive(Clone, Debug)]
pub struct Order {
    samples: u64,
    shuffled: Option<Permutation>,
}

impl Order {
    /// The order of `epoch` over `samples` samples: by name without a seed, shuffled by it otherwise.
    pub fn new(digest: Digest, samples: u64, seed: Option<u64>, epoch: u64) -> Self {
        let shuffled = seed.map(|seed| Permutation::new(samples, &digest.0, seed, epoch));
        Self { samples, shuffled }
    }

    /// The sample at `position`.
    ///
    /// # Panics
    /// When `position` isn't below the number of samples.
    pub fn at(&self, position: u64) -> SampleId {
        // Beyond it the walk of the permutation might never end.
        assert!(position < self.samples, "position {position} of {}", self.samples);
        SampleId(self.shuffled.as_ref().map_or(position, |permutation| permutation.at(position)))
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

    /// This rank's batches from `position` of the global order on. All ranks get the same number of them. The last
    /// global batch, if it isn't full, is dropped, or cut so that ranks differ by one sample at most.
    pub fn batches(self, samples: u64, position: u64) -> impl Iterator<Item = BatchSpan> {
        let global = self.batch_size.saturating_mul(self.world_size);
        let mut start = position;
        std::iter::from_fn(move || {
            let left = samples.saturating_sub(start);
            if left == 0 || (left < global && self.drop_last) {
                return None;
            }
            let taken = left.min(global);
            // In 128 bits, since a rank times a count may not fit 64.
            let cut = |rank: u64| start + (u128::from(taken) * u128::from(rank) / u128::from(self.world_size)) as u64;
            let span = BatchSpan { positions: cut(self.rank)..cut(self.rank + 1), end: start + taken };
            start = span.end;
            Some(span)
        })
    }

    /// How many batches that is.
    pub fn batch_count(&self, samples: u64, position: u64) -> u64 {
        let left = samples.saturating_sub(position);
        let global = self.batch_size.saturating_mul(self.world_size);
        if self.drop_last { left / global } else { left.div_ceil(global) }
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
}

impl State {
    /// The version this crate writes and reads.
    pub const VERSION: u32 = 1;

    /// Refuses a state of another format, another manifest, or a place that isn't there.
    pub(crate) fn check(&self, digest: Digest, samples: u64) -> Result<()> {
        let wrong = |message: &str| Error::new(ErrorKind::Config, message).stage(Stage::Sample);
        if self.version != Self::VERSION {
            return Err(wrong("this state was saved by another version of the crate")
                .mismatch(format_args!("version {}", Self::VERSION), format_args!("version {}", self.version))
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
        Ok(())
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
    fn a_state_for_other_data_is_refused_with_both_digests() {
        let state = State {
            version: State::VERSION,
            manifest: Digest([1; 32]).to_string(),
            seed: None,
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
