//! A keyed permutation of `0..n`: random access to a shuffled order, with no array.
//!
//! A balanced Feistel network over the smallest even number of bits that holds `n` is applied repeatedly until its
//! output falls below `n`, which takes fewer than four steps on average. The output must never change, or runs could
//! not be resumed. The test below holds golden values.

use std::ops::Range;

use ring::digest::{Context, SHA256};

use super::SampleId;
use super::sampler::PositionMap;
use crate::manifest::NamesKey;

/// Rounds in a small domain, where a round has few bits to mix.
const ROUNDS: usize = 12;
/// Rounds that shuffle a large domain.
const ROUNDS_LARGE: usize = 6;
/// Bits of a half from which a domain counts as large.
const LARGE_HALF: u32 = 8;

#[derive(Clone, Debug)]
pub(super) struct Permutation {
    samples: u64,
    /// Bits of each half of a position.
    half: u32,
    rounds: usize,
    keys: [u64; ROUNDS],
}

impl Permutation {
    /// The permutation of `0..samples` for data of these names, this seed and this epoch.
    pub(super) fn new(samples: u64, names: &NamesKey, seed: u64, epoch: u64) -> Self {
        Self::keyed(samples, &[b"dataflux shuffle 1", names], seed, epoch)
    }

    /// The permutation of `0..samples` for this window, seed and epoch, independent of the data.
    pub(super) fn of_window(samples: u64, window: u64, seed: u64, epoch: u64) -> Self {
        Self::keyed(samples, &[b"dataflux window 1", &window.to_le_bytes()], seed, epoch)
    }

    /// The permutation of `0..others` for a position whose sample needs a substitute, independent of data and seed.
    pub(super) fn of_substitutes(others: u64, position: u64, epoch: u64) -> Self {
        Self::keyed(others, &[b"dataflux substitute 1"], position, epoch)
    }

    /// The permutation of `0..samples` for this input, seed and epoch. Each use begins its input with a text of its own,
    /// and the parts of its input always have the same lengths.
    pub(super) fn keyed(samples: u64, input: &[&[u8]], seed: u64, epoch: u64) -> Self {
        let bits = u64::BITS - samples.saturating_sub(1).leading_zeros();
        let half = bits.div_ceil(2).max(1);
        let rounds = if half >= LARGE_HALF { ROUNDS_LARGE } else { ROUNDS };
        Self { samples, half, rounds, keys: keys(input, seed, epoch) }
    }

    /// The position of `index`: the inverse of [`at`](Self::at).
    pub(super) fn position_of(&self, index: u64) -> u64 {
        let mut position = self.decipher(index);
        // Ends for the reason given in `at`.
        while position >= self.samples {
            position = self.decipher(position);
        }
        position
    }

    /// The index at `position`, which must be below the number of samples.
    pub(super) fn at(&self, position: u64) -> u64 {
        let mut index = self.encipher(position);
        // The loop ends because the cipher is a bijection: repeated, it is a cycle through `position`, which is below
        // `samples`.
        while index >= self.samples {
            index = self.encipher(index);
        }
        index
    }

    fn encipher(&self, value: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (value >> self.half, value & mask);
        for key in &self.keys[..self.rounds] {
            (left, right) = (right, left ^ (mix(right ^ key) & mask));
        }
        left << self.half | right
    }

    fn decipher(&self, value: u64) -> u64 {
        let mask = (1 << self.half) - 1;
        let (mut left, mut right) = (value >> self.half, value & mask);
        for key in self.keys[..self.rounds].iter().rev() {
            (left, right) = (right ^ (mix(left ^ key) & mask), left);
        }
        left << self.half | right
    }
}

impl PositionMap for Permutation {
    fn at(&mut self, position: u64) -> u64 {
        Self::at(self, position)
    }

    /// Enciphers all positions once, then again those that are still behind the last sample, and so on. A processor
    /// overlaps independent steps, but stalls where it mispredicts how often a loop over a single position repeats.
    fn many(&mut self, positions: Range<u64>, into: &mut Vec<SampleId>) {
        let first = into.len();
        into.extend(positions.map(|position| SampleId(self.encipher(position))));
        let ids = &mut into[first..];
        // Filled without a branch on the value, which is as good as random.
        let mut unfinished = vec![0; ids.len() + 1];
        let mut left = 0;
        for (at, id) in ids.iter().enumerate() {
            unfinished[left] = at;
            left += usize::from(id.0 >= self.samples);
        }
        unfinished.truncate(left);
        while !unfinished.is_empty() {
            for &at in &unfinished {
                ids[at].0 = self.encipher(ids[at].0);
            }
            unfinished.retain(|&at| ids[at].0 >= self.samples);
        }
    }
}

/// Keys for this input, this seed and this epoch.
pub(crate) fn keys<const N: usize>(input: &[&[u8]], seed: u64, epoch: u64) -> [u64; N] {
    let mut keys = [0; N];
    for (block, keys) in keys.chunks_mut(4).enumerate() {
        let mut context = Context::new(&SHA256);
        for bytes in input {
            context.update(bytes);
        }
        context.update(&seed.to_le_bytes());
        context.update(&epoch.to_le_bytes());
        context.update(&[block as u8]);
        let hash = context.finish();
        for (key, bytes) in keys.iter_mut().zip(hash.as_ref().as_chunks().0) {
            *key = u64::from_le_bytes(*bytes);
        }
    }
    keys
}

/// Maps 64 uniform bits to `0..below`, uniformly to within one part in 2^64.
pub(super) fn scale(bits: u64, below: u64) -> u64 {
    ((u128::from(bits) * u128::from(below)) >> 64) as u64
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): every input bit influences every output bit.
pub(super) fn mix(mut value: u64) -> u64 {
    value = (value ^ value >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    value = (value ^ value >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ value >> 31
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn many_at_once_are_those_asked_for_individually(samples in 1u64..3_000, seed: u64, cut: [u64; 2]) {
            let mut permutation = Permutation::new(samples, &[9; 16], seed, 0);
            let [start, end] = cut.map(|cut| scale(cut, samples + 1));
            let positions = start.min(end)..start.max(end);
            let mut ids = vec![SampleId(7)];
            permutation.many(positions.clone(), &mut ids);
            prop_assert_eq!(ids[0], SampleId(7));
            prop_assert!(ids[1..].iter().map(|id| id.0).eq(positions.map(|position| permutation.at(position))));
        }

        #[test]
        fn a_permutation_whatever_the_size(samples in 1u64..3_000, seed: u64, epoch: u64) {
            let permutation = Permutation::new(samples, &[9; 16], seed, epoch);
            let mut seen = vec![false; samples as usize];
            for position in 0..samples {
                let index = permutation.at(position) as usize;
                prop_assert!(!seen[index]);
                prop_assert_eq!(permutation.position_of(index as u64), position);
                seen[index] = true;
            }
        }
    }

    /// A billion samples are too many to count all. For some windows of positions, the inverse finds each sample at its
    /// position, so no two of these positions have the same sample; and each sample looked for has a position.
    #[test]
    fn a_permutation_of_a_billion() {
        const SAMPLES: u64 = 1_000_000_000;
        let permutation = Permutation::new(SAMPLES, &[9; 16], 42, 7);
        assert!(size_of_val(&permutation) < 256);
        for start in [0, 1, 123_456_789, SAMPLES / 2, SAMPLES - 20_000] {
            for value in start..start + 20_000 {
                let (index, position) = (permutation.at(value), permutation.position_of(value));
                assert!(index < SAMPLES && position < SAMPLES);
                assert_eq!((permutation.position_of(index), permutation.at(position)), (value, value));
            }
        }
    }

    /// Never to be changed: saved states rely on this order.
    #[test]
    fn golden() {
        let first = |samples, seed, epoch| -> Vec<u64> {
            let permutation = Permutation::new(samples, &[0; 16], seed, epoch);
            (0..8).map(|position| permutation.at(position)).collect()
        };
        assert_eq!(first(10, 42, 0), [5, 2, 1, 8, 7, 4, 0, 3]);
        assert_eq!(first(1_000_000, 42, 1), [502_166, 218_529, 446_406, 91_546, 479_941, 12_841, 304_720, 561_814]);
        assert_eq!(
            first(u64::MAX, 42, 1)[..4],
            [
                7_051_162_036_375_534_890,
                10_589_449_926_480_651_912,
                3_648_387_516_539_389_186,
                17_567_511_687_574_191_750
            ]
        );
    }

    #[test]
    fn seeds_and_epochs_give_other_orders() {
        let order = |seed, epoch| -> Vec<u64> {
            let permutation = Permutation::new(100, &[0; 16], seed, epoch);
            (0..100).map(|position| permutation.at(position)).collect()
        };
        assert_ne!(order(1, 0), order(2, 0));
        assert_ne!(order(1, 0), order(1, 1));
    }

    /// Each of five values is as often at each of five places: chi-square with 16 degrees of freedom, whose 99.9th
    /// percentile is 39.3.
    #[test]
    fn every_value_is_as_likely_at_every_place() {
        const RUNS: u64 = 20_000;
        let mut counts = [[0f64; 5]; 5];
        for seed in 0..RUNS {
            let permutation = Permutation::new(5, &[3; 16], seed, 0);
            for (place, row) in counts.iter_mut().enumerate() {
                row[permutation.at(place as u64) as usize] += 1.0;
            }
        }
        let wanted = RUNS as f64 / 5.0;
        let chi: f64 = counts.iter().flatten().map(|count| (count - wanted).powi(2) / wanted).sum();
        assert!(chi < 39.3, "chi-square {chi}");
    }

    /// Each part of the order draws equally from each part of the samples. Chi-square of 32 by 32 parts has 961 degrees
    /// of freedom and a standard deviation of 44; the bound is five of these. An order that spread its samples more
    /// evenly than chance would be no shuffle either, so there is a lower bound, too.
    #[test]
    fn every_part_of_a_large_order_draws_from_all_parts_of_the_samples() {
        const SAMPLES: u64 = 200_000;
        for seed in 0..8 {
            let permutation = Permutation::new(SAMPLES, &[3; 16], seed, 1);
            let mut counts = [[0f64; 32]; 32];
            for position in 0..SAMPLES {
                let index = permutation.at(position);
                counts[(position * 32 / SAMPLES) as usize][(index * 32 / SAMPLES) as usize] += 1.0;
            }
            let wanted = SAMPLES as f64 / 1024.0;
            let chi: f64 = counts.iter().flatten().map(|count| (count - wanted).powi(2) / wanted).sum();
            assert!((961.0 - 220.0..961.0 + 220.0).contains(&chi), "chi-square {chi} of seed {seed}");
        }
    }

    /// Whatever the number of samples, on average two pairs of neighbours stay neighbours, and their number has a
    /// Poisson distribution. So 400 orders have 800 pairs with a standard deviation of 28; the bound is four of these.
    /// Pairs a fixed step apart must not stay together, either.
    #[test]
    fn neighbours_are_separated() {
        const STEPS: [u64; 4] = [1, 2, 64, 1_000];
        let mut pairs = [0; 4];
        for seed in 0..400 {
            let permutation = Permutation::new(2_000, &[3; 16], seed, 1);
            let order: Vec<_> = (0..2_000).map(|position| permutation.at(position)).collect();
            for (pairs, step) in pairs.iter_mut().zip(STEPS) {
                *pairs += order.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) == step).count();
            }
        }
        for (pairs, step) in pairs.into_iter().zip(STEPS) {
            // Pairs `step` apart have `step` fewer places.
            let wanted = 800.0 * (2_000 - step) as f64 / 2_000.0;
            assert!((pairs as f64 - wanted).abs() < 113.0, "{pairs} of {wanted} pairs of step {step}");
        }
    }
}
