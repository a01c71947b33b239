//! Cuts an object into ranges that are read at once.

use std::ops::Range;

/// Smallest part by default, in bytes. At 60 MB/s and 80 ms to the first byte, smaller parts would spend more than a
/// third of the time waiting for first bytes.
pub const MIN_PART_SIZE: u64 = 8 << 20;

/// Most streams at once by default. Eight streams fill most of a small machine's network.
pub const MAX_STREAMS: usize = 8;

/// How large objects are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RangeSettings {
    pub(crate) min_part_size: u64,
    pub(crate) max_streams: usize,
}

impl Default for RangeSettings {
    fn default() -> Self {
        Self { min_part_size: MIN_PART_SIZE, max_streams: MAX_STREAMS }
    }
}

impl RangeSettings {
    /// Number of calls that read an object of `size` bytes.
    pub(super) fn calls(self, size: u64) -> u64 {
        RangeParts::of(size, self.min_part_size, self.max_streams, u64::MAX).count() as u64
    }
}

/// Largest part, where the memory budget has room for it, in bytes. At 60 MB/s it takes a second of transfer for the 80
/// ms to its first byte, and streams end within a second of each other.
const MAX_PART_SIZE: u64 = 64 << 20;

/// The parts of an object, in order and without gaps. The first parts are smaller, so that streams that begin together
/// don't end together, and a consumer that takes the bytes in order gets them evenly.
#[derive(Clone, Debug)]
pub(crate) struct RangeParts {
    left: Range<u64>,
    /// Size of the first part.
    least: u64,
    /// Size of all parts after the first round of streams.
    usual: u64,
    /// Largest size of a part.
    most: u64,
    /// Number of the next part.
    number: u64,
    streams: u64,
}

impl RangeParts {
    /// Cuts `size` bytes into parts of at least `least` bytes for this number of streams. No part has more than `most`
    /// bytes, which takes precedence over `least`. An object of less than twice `least` bytes is a single part.
    pub(crate) fn of(size: u64, least: u64, streams: usize, most: u64) -> Self {
        let (least, most, streams) = (least.max(1), most.max(1), (streams as u64).max(1));
        let least = if size / 2 < least { size } else { least };
        // Each stream gets at least four parts, so that a slow stream doesn't make the others wait for long.
        let usual = (size / 4 / streams).min(MAX_PART_SIZE).max(least).min(most);
        Self { left: 0..size, least: least.min(usual), usual, most, number: 0, streams }
    }

    /// Whether there is only one part.
    pub(crate) fn is_one(&self) -> bool {
        self.clone().nth(1).is_none()
    }
}

impl Iterator for RangeParts {
    type Item = Range<u64>;

    fn next(&mut self) -> Option<Range<u64>> {
        let left = self.left.end - self.left.start;
        if left == 0 {
            return None;
        }
        let round = self.number.min(self.streams);
        let growth = u128::from(self.usual - self.least) * u128::from(round) / u128::from(self.streams);
        let mut size = self.least + growth as u64;
        // A small rest is added to the last part, since it isn't worth a call.
        if left <= self.most && left - left.min(size) < self.least / 2 {
            size = left;
        }
        let start = self.left.start;
        self.left.start += size.min(left);
        self.number += 1;
        Some(start..self.left.start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sizes(size: u64, least: u64, streams: usize, most: u64) -> Vec<u64> {
        RangeParts::of(size, least, streams, most).map(|part| part.end - part.start).collect()
    }

    #[test]
    fn small_objects_are_one_part_and_the_first_parts_of_large_ones_smaller() {
        assert_eq!(sizes(0, 8, 4, 100), [0; 0]);
        assert_eq!(sizes(15, 8, 4, 100), [15]);
        assert_eq!(sizes(16, 8, 4, 100), [8, 8]);
        assert_eq!(sizes(19, 8, 4, 100), [8, 11], "no call for three bytes");
        let large = [&[4, 8, 12, 16][..], &[20; 14]].concat();
        assert_eq!(sizes(320, 4, 4, 100), large);
        assert_eq!(sizes(100, 50, 4, 30), [30, 30, 30, 10], "the budget takes precedence");
        assert_eq!(sizes(4 << 30, 8 << 20, 8, 1 << 40).into_iter().max(), Some(MAX_PART_SIZE));
    }

    proptest! {
        #[test]
        fn parts_tile_the_object(size in 0..1_000_000_u64, least in 0..5_000_u64, streams in 0..20_usize, most in 500..9_000_u64) {
            let mut at = 0;
            for part in RangeParts::of(size, least, streams, most) {
                prop_assert_eq!(part.start, at);
                prop_assert!(part.start < part.end && part.end - part.start <= most);
                at = part.end;
            }
            prop_assert_eq!(at, size);
        }

        #[test]
        fn any_size_is_cut_without_overflow(size: u64, least: u64, streams: usize, most: u64) {
            prop_assert!(RangeParts::of(size, least, streams, most).take(10).all(|part| part.start < part.end));
        }
    }
}
