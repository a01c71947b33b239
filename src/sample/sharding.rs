//! How the order of an epoch is cut into global batches, and a global batch into one part for each rank.

use std::ops::Range;

use super::wrong;
use crate::Result;
use crate::manifest::KnownSamples;

/// Most samples of one rank in a batch that may have to be padded. The ids of so many samples take 128 MiB, and no step
/// trains on as many. Batches that aren't padded need no bound, since they have no more samples than their epoch.
pub(crate) const MAX_PADDED_BATCH: u64 = 1 << 24;

/// What becomes of the last global batch of an epoch where it isn't full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum LastBatch {
    /// The batch is smaller. The parts of ranks differ by one sample at most.
    #[default]
    Short,
    /// The batch is not delivered.
    Drop,
    /// The batch is filled up with the first samples of the same order, repeatedly where there are too few of them.
    Pad,
}

/// How the global order is cut into batches, and which part of each is this rank's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sharding {
    /// Samples in a global batch.
    global: u64,
    rank: u64,
    world_size: u64,
    last: LastBatch,
}

/// One batch of one rank.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BatchSpan {
    /// Positions among those that remain, which are global ones if nothing was delivered ahead. Empty where the last
    /// global batch has no sample for this rank. Positions behind the end of the order are padding, and stand for those
    /// from position 0 on.
    pub(crate) positions: Range<u64>,
    /// How many of the positions are padding.
    pub(crate) padding: u64,
    /// Where the global batch of all ranks ends, without padding, exclusive.
    pub(crate) end: u64,
}

impl Sharding {
    /// Batches of `batch_size` samples for each of `world_size` ranks.
    ///
    /// # Errors
    /// A batch size or world size of 0; a rank that isn't below the world size.
    pub(crate) fn new(batch_size: usize, rank: usize, world_size: usize) -> Result<Self> {
        if batch_size == 0 {
            return Err(wrong("a batch needs samples")
                .mismatch("a batch_size of at least 1", 0)
                .hint("call .batch_size(n) with the number of samples that one rank takes per step"));
        }
        let global = (batch_size as u64).saturating_mul(world_size as u64);
        Self::of(global, rank, world_size)
    }

    /// Batches of `samples` samples over all of `world_size` ranks. Each rank gets its share, rounded up or down.
    ///
    /// # Errors
    /// A world size of 0, or larger than `samples`; a rank that isn't below the world size.
    pub(crate) fn global(samples: usize, rank: usize, world_size: usize) -> Result<Self> {
        if samples < world_size.max(1) {
            return Err(wrong("a global batch needs samples for every rank")
                .mismatch(format_args!("a global_batch_size of at least {}", world_size.max(1)), samples)
                .hint("call .global_batch_size(n) with the number of samples that all ranks together take per step"));
        }
        Self::of(samples as u64, rank, world_size)
    }

    fn of(global: u64, rank: usize, world_size: usize) -> Result<Self> {
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
        Ok(Self { global, rank: rank as u64, world_size: world_size as u64, last: LastBatch::default() })
    }

    /// Sets what becomes of the last global batch, which is [short](LastBatch::Short) by default.
    #[must_use]
    pub(crate) fn last(mut self, last: LastBatch) -> Self {
        self.last = last;
        self
    }

    /// Refuses padded batches that are too large to be held in memory.
    pub(crate) fn check(&self) -> Result<()> {
        if self.last == LastBatch::Pad && self.batch_size() > MAX_PADDED_BATCH {
            return Err(wrong("a batch of so many samples can't be filled up")
                .mismatch(
                    format_args!("with pad_last a batch_size of at most {MAX_PADDED_BATCH} samples for each rank"),
                    format_args!("{} for each of {}", self.batch_size(), self.world_size),
                )
                .hint("leave out pad_last, or choose a smaller batch_size or global_batch_size"));
        }
        Ok(())
    }

    /// Refuses epochs of `samples` samples that would have no batch because the only batch isn't full and is dropped.
    pub(crate) fn check_samples(&self, samples: u64) -> Result<()> {
        if self.batch_count(samples, 0) > 0 {
            return Ok(());
        }
        let ranks = if self.world_size == 1 { "one rank".to_owned() } else { format!("{} ranks", self.world_size) };
        let most = samples / self.world_size;
        let smaller = match most {
            0 => format!("train on at most {samples} ranks"),
            most => format!("set batch_size to at most {most}"),
        };
        Err(wrong("drop_last leaves an epoch without a batch")
            .mismatch(
                format_args!("at least {} samples: batches of {} on {ranks}", self.global, self.batch_size()),
                format_args!("{samples} samples"),
            )
            .hint(format!("{smaller}, leave out drop_last, or use pad_last, which fills the batch up")))
    }

    /// Most samples in one batch of one rank.
    pub(crate) fn batch_size(&self) -> u64 {
        self.global.div_ceil(self.world_size)
    }

    /// Samples in a global batch, except in the last.
    pub(crate) fn global_batch_size(&self) -> u64 {
        self.global
    }

    /// This rank, counted from 0.
    pub(crate) fn rank(&self) -> u64 {
        self.rank
    }

    /// Number of ranks that share each global batch.
    pub(crate) fn world_size(&self) -> u64 {
        self.world_size
    }

    /// What becomes of the last global batch.
    pub(crate) fn last_batch(&self) -> LastBatch {
        self.last
    }

    /// This rank's batches from `position` of the global order on, while the number of samples may not be known yet. All
    /// ranks get the same number of batches.
    pub(crate) fn spans(self, position: u64) -> BatchSpans {
        BatchSpans { sharding: self, start: position, left: u64::MAX }
    }

    /// The number of batches of an epoch of `samples` samples, from `position` of the global order on.
    pub(crate) fn batch_count(&self, samples: u64, position: u64) -> u64 {
        let left = samples.saturating_sub(position);
        if self.last == LastBatch::Drop { left / self.global } else { left.div_ceil(self.global) }
    }

    /// The number of batches before `position` of the global order, if all were of this size; a part of one counts.
    pub(crate) fn batches_before(&self, position: u64) -> u64 {
        position.div_ceil(self.global)
    }
}

/// Batches of one rank, as far as the number of samples is known.
#[derive(Clone, Debug)]
pub(crate) struct BatchSpans {
    pub(crate) sharding: Sharding,
    /// Where the next global batch begins.
    start: u64,
    /// Most batches to come.
    left: u64,
}

impl BatchSpans {
    /// Limits the batches to come to `batches`.
    #[must_use]
    pub(crate) fn take(self, batches: u64) -> Self {
        Self { left: self.left.min(batches), ..self }
    }

    /// Whether the limit set by [`take`](Self::take) is used up.
    pub(crate) fn are_over(&self) -> bool {
        self.left == 0
    }

    /// Most samples of this rank in the batches to come.
    pub(crate) fn max_samples(&self) -> u64 {
        self.left.saturating_mul(self.sharding.batch_size())
    }

    /// The next batch. `None` at the end, and where the batch can't be determined until more samples are known.
    pub(crate) fn next(&mut self, known: KnownSamples) -> Option<BatchSpan> {
        let Sharding { global, rank, world_size, last } = self.sharding;
        let (KnownSamples::AtLeast(samples) | KnownSamples::All(samples)) = known;
        let left = samples.saturating_sub(self.start);
        let whole_only = last == LastBatch::Drop || matches!(known, KnownSamples::AtLeast(_));
        if left == 0 || self.left == 0 || (left < global && whole_only) {
            return None;
        }
        let taken = if last == LastBatch::Pad { global } else { left.min(global) };
        // In 128 bits, since a rank times a number of samples may not fit 64.
        let cut = |rank: u64| (u128::from(taken) * u128::from(rank) / u128::from(world_size)) as u64;
        let own = cut(rank)..cut(rank + 1);
        let padding = own.end.saturating_sub(own.start.max(left));
        let positions = self.start.saturating_add(own.start)..self.start.saturating_add(own.end);
        self.left -= 1;
        self.start += left.min(taken);
        Some(BatchSpan { positions, padding, end: self.start })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ErrorKind;

    fn positions(sharding: Sharding, samples: u64, from: u64) -> Vec<BatchSpan> {
        let mut spans = sharding.spans(from);
        std::iter::from_fn(|| spans.next(KnownSamples::All(samples))).collect()
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (sharding, said) in [
            (Sharding::new(0, 0, 1), "batch_size of at least 1"),
            (Sharding::new(1, 0, 0), "world size of at least 1"),
            (Sharding::new(1, 4, 4), "a rank below the world size of 4"),
            (Sharding::global(0, 0, 1), "global_batch_size of at least 1, got 0"),
            (Sharding::global(3, 0, 4), "global_batch_size of at least 4, got 3"),
            (Sharding::global(3, 0, 0), "world size of at least 1"),
        ] {
            let error = sharding.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    /// A padded batch held an id for each of its samples, so a large one took all memory.
    #[test]
    fn padding_without_bound_is_refused() {
        let most = MAX_PADDED_BATCH as usize;
        for (sharding, samples) in [
            (Sharding::new(usize::MAX, 0, 1), usize::MAX),
            (Sharding::new(most + 1, 0, 4), most + 1),
            (Sharding::global(most * 4 + 1, 0, 4), most + 1),
        ] {
            let sharding = sharding.unwrap();
            assert!(sharding.check().is_ok() && sharding.last(LastBatch::Drop).check().is_ok());
            let error = sharding.last(LastBatch::Pad).check().unwrap_err().to_string();
            assert!(error.contains("pad_last") && error.contains(&format!("got {samples} for each")), "{error}");
        }
        assert!(Sharding::new(most, 3, 4).unwrap().last(LastBatch::Pad).check().is_ok());
    }

    /// An epoch that is resumed with larger batches and without its last one had a batch of this number already.
    #[test]
    fn a_part_of_a_batch_counts_before_a_position() {
        for last in [LastBatch::Short, LastBatch::Drop, LastBatch::Pad] {
            let sharding = Sharding::new(4, 1, 2).unwrap().last(last);
            assert_eq!([0, 7, 8, 12].map(|position| sharding.batches_before(position)), [0, 1, 1, 2], "{last:?}");
        }
    }

    fn last() -> impl Strategy<Value = LastBatch> {
        prop::sample::select(vec![LastBatch::Short, LastBatch::Drop, LastBatch::Pad])
    }

    proptest! {
        /// However many ranks there are, and wherever a run stops and resumes with another number of ranks, each
        /// position belongs to one rank, once, and all ranks have equally many batches.
        #[test]
        fn every_position_once_over_all_ranks_and_stops(
            samples in 0u64..500, batch in 1usize..20, worlds in prop::collection::vec((1usize..9, 1usize..5), 1..6),
            global: bool,
        ) {
            let mut seen = vec![0; samples as usize];
            let mut from = 0;
            let last = worlds.len() - 1;
            let sharding = |rank, world| {
                if global { Sharding::global(batch + 8, rank, world) } else { Sharding::new(batch, rank, world) }.unwrap()
            };
            for (turn, &(world, steps)) in worlds.iter().enumerate() {
                let steps = if turn == last { usize::MAX } else { steps };
                let ranks: Vec<_> = (0..world).map(|rank| positions(sharding(rank, world), samples, from)).collect();
                for spans in &ranks {
                    prop_assert_eq!(spans.len(), ranks[0].len());
                    let count = sharding(0, world).batch_count(samples, from);
                    prop_assert_eq!(spans.len() as u64, count);
                    for (span, first) in spans.iter().zip(&ranks[0]).take(steps) {
                        prop_assert_eq!(span.end, first.end);
                        prop_assert!(span.positions.end - span.positions.start <= sharding(0, world).batch_size());
                        span.positions.clone().for_each(|position| seen[position as usize] += 1);
                    }
                }
                from = ranks[0].iter().take(steps).next_back().map_or(from, |span| span.end);
            }
            prop_assert!(seen.iter().all(|&times| times == 1), "{:?}", seen);
        }

        /// The same with a last batch that is dropped or padded. Except for dropped positions, each position belongs to
        /// one rank, once. Padding follows the last position without a gap, and is less than a global batch.
        #[test]
        fn dropped_and_padded_batches_over_all_ranks_and_stops(
            samples in 0u64..500, batch in 1usize..20, worlds in prop::collection::vec((1usize..9, 1usize..5), 1..6),
            global: bool, pad: bool,
        ) {
            let kind = if pad { LastBatch::Pad } else { LastBatch::Drop };
            let sharding = |rank, world| {
                let cut = if global { Sharding::global(batch + 8, rank, world) } else { Sharding::new(batch, rank, world) };
                cut.unwrap().last(kind)
            };
            let (mut seen, mut from, last) = (Vec::new(), 0, worlds.len() - 1);
            let of = |world| if global { batch + 8 } else { batch * world };
            for (turn, &(world, steps)) in worlds.iter().enumerate() {
                let steps = if turn == last { usize::MAX } else { steps };
                let ranks: Vec<_> = (0..world).map(|rank| positions(sharding(rank, world), samples, from)).collect();
                for step in 0..ranks[0].len().min(steps) {
                    let mut whole = 0;
                    for spans in &ranks {
                        prop_assert_eq!(spans.len(), ranks[0].len());
                        let BatchSpan { positions, padding, end } = &spans[step];
                        prop_assert_eq!(*padding, positions.clone().filter(|position| *position >= samples).count() as u64);
                        whole += positions.end - positions.start;
                        seen.extend(positions.clone());
                        from = *end;
                    }
                    prop_assert_eq!(whole, of(world) as u64);
                }
            }
            prop_assert!(seen.iter().copied().eq(0..seen.len() as u64), "{seen:?}");
            let (seen, most) = (seen.len() as u64, worlds.iter().map(|&(world, _)| of(world)).max().unwrap() as u64);
            let fits =
                if pad { (samples..samples + most).contains(&seen) } else { seen <= samples && samples - seen < most };
            prop_assert!(fits, "{} of {}", seen, samples);
        }

        /// Batches are the same whether the number of samples becomes known gradually or at once, and no batch comes
        /// before its samples are known.
        #[test]
        fn batches_are_the_same_however_samples_become_known(
            mut counts in prop::collection::vec(0u64..300, 1..8), batch in 1usize..20, world in 1usize..5, last in last(),
        ) {
            counts.sort_unstable();
            let samples = counts.last().copied().unwrap_or(0);
            for rank in 0..world {
                let sharding = Sharding::new(batch, rank, world).unwrap().last(last);
                let (mut spans, mut early) = (sharding.spans(0), Vec::new());
                for &known in &counts {
                    while let Some(span) = spans.next(KnownSamples::AtLeast(known)) {
                        prop_assert!(span.end <= known);
                        early.push(span);
                    }
                }
                early.extend(std::iter::from_fn(|| spans.next(KnownSamples::All(samples))));
                prop_assert_eq!(early, positions(sharding, samples, 0));
            }
        }

        #[test]
        fn no_more_are_taken_than_were_asked_for(samples in 0u64..500, batch in 1usize..20, most in 0u64..40, last in last()) {
            let sharding = Sharding::new(batch, 0, 1).unwrap().last(last);
            let all = positions(sharding, samples, 0);
            let mut spans = sharding.spans(0).take(most);
            let taken: Vec<_> = std::iter::from_fn(|| spans.next(KnownSamples::All(samples))).collect();
            prop_assert_eq!(taken.len() as u64, most.min(all.len() as u64));
            prop_assert_eq!(&taken[..], &all[..taken.len()]);
            prop_assert_eq!(spans.are_over(), taken.len() as u64 == most);
        }

        #[test]
        fn drop_last_gives_full_batches_alone(samples in 0u64..500, batch in 1usize..20, world in 1usize..6) {
            for rank in 0..world {
                let sharding = Sharding::new(batch, rank, world).unwrap().last(LastBatch::Drop);
                for span in positions(sharding, samples, 0) {
                    prop_assert_eq!(span.positions.end - span.positions.start, batch as u64);
                    prop_assert_eq!(span.padding, 0);
                }
            }
        }

        /// All batches are full on all ranks. Each position comes once, and padding continues from the last.
        #[test]
        fn padded_batches_are_full_and_count_their_padding(
            samples in 1u64..500, from in 0u64..500, batch in 1usize..20, world in 1usize..6,
        ) {
            let from = from.min(samples);
            let ranks: Vec<_> = (0..world)
                .map(|rank| positions(Sharding::new(batch, rank, world).unwrap().last(LastBatch::Pad), samples, from))
                .collect();
            let mut seen = Vec::new();
            for step in 0..ranks[0].len() {
                for spans in &ranks {
                    let BatchSpan { positions, padding, end } = &spans[step];
                    prop_assert_eq!(positions.end - positions.start, batch as u64);
                    prop_assert_eq!(*padding, positions.clone().filter(|position| *position >= samples).count() as u64);
                    prop_assert!(*end == samples || step + 1 < spans.len());
                    seen.extend(positions.clone());
                }
            }
            let end = from + seen.len() as u64;
            prop_assert!(seen.into_iter().eq(from..end));
            prop_assert!(end >= samples && end - samples < (batch * world) as u64);
        }
    }

    /// The same global batches whatever the number of ranks, and ranks that differ by a sample at most.
    #[test]
    fn global_batches_are_the_same_at_any_number_of_ranks() {
        for world in 1..=10 {
            let ranks: Vec<_> =
                (0..world).map(|rank| positions(Sharding::global(10, rank, world).unwrap(), 25, 0)).collect();
            for spans in &ranks {
                assert_eq!(spans.iter().map(|span| span.end).collect::<Vec<_>>(), [10, 20, 25]);
                for (span, all) in spans.iter().zip([10, 10, 5]) {
                    let own = (span.positions.end - span.positions.start) as usize;
                    assert!((all / world..=all.div_ceil(world)).contains(&own), "{own} of {all} by {world}");
                }
            }
        }
    }
}
