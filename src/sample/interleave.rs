//! Several sequences interleaved into one, each in proportion everywhere, with random access.
//!
//! [`Interleave`] is a binary tree over the sequences, halved by their lengths. At a node with `left` positions on its
//! left side and `all` on both sides, the first `p` positions have `(p * left + offset) / all` positions of the left
//! side: points of a line, rounded. So finding a position takes one division a level, and each side of each node gets
//! exactly its share. Rounding shifts a level by less than one position, and lower levels inherit only their share of
//! that: the test below bounds the sum.

use super::permutation::{mix, scale};

#[derive(Debug)]
pub(crate) struct Interleave {
    /// The root first.
    nodes: Vec<TreeNode>,
}

#[derive(Debug)]
struct TreeNode {
    /// Positions on the left side, and on both.
    left: u64,
    all: u64,
    sides: [BranchSide; 2],
}

#[derive(Clone, Copy, Debug)]
enum BranchSide {
    Node(usize),
    Sequence(usize),
}

impl Interleave {
    /// Interleaves sequences of these lengths. There must be at least one, and none may be 0.
    pub(crate) fn new(lengths: &[u64]) -> Self {
        let mut nodes = Vec::with_capacity(lengths.len());
        split(lengths, 0, &mut nodes);
        Self { nodes }
    }

    /// The sequence that `position` belongs to, and the place within that sequence. `key` moves where each sequence
    /// begins.
    pub(crate) fn at(&self, key: u64, mut position: u64) -> (usize, u64) {
        let mut side = self.root();
        loop {
            let at = match side {
                BranchSide::Sequence(sequence) => return (sequence, position),
                BranchSide::Node(at) => at,
            };
            let TreeNode { left, all, sides } = &self.nodes[at];
            let (before, rest) = self.line(key, at, position);
            // Where the line passes a whole number, the position belongs to the left side.
            let goes_left = rest >= all - left;
            side = sides[usize::from(!goes_left)];
            position = if goes_left { before } else { position - before };
        }
    }

    /// How many items of each of the `sequences` come before `position`.
    pub(crate) fn before(&self, key: u64, position: u64, sequences: usize) -> Vec<u64> {
        let mut counts = vec![0; sequences];
        let mut sides = vec![(self.root(), position)];
        while let Some((side, position)) = sides.pop() {
            match side {
                BranchSide::Sequence(sequence) => counts[sequence] = position,
                BranchSide::Node(at) => {
                    let (before, _) = self.line(key, at, position);
                    let [left, right] = self.nodes[at].sides;
                    sides.extend([(left, before), (right, position - before)]);
                }
            }
        }
        counts
    }

    fn root(&self) -> BranchSide {
        if self.nodes.is_empty() { BranchSide::Sequence(0) } else { BranchSide::Node(0) }
    }

    /// How many of the first `position` positions at a node belong to its left side, and the remainder of that
    /// division.
    fn line(&self, key: u64, at: usize, position: u64) -> (u64, u64) {
        let TreeNode { left, all, .. } = &self.nodes[at];
        divide(position, *left, scale(mix(key ^ mix(at as u64 + 1)), *all), *all)
    }
}

/// `(position * left + offset) / all`, and the remainder.
fn divide(position: u64, left: u64, offset: u64, all: u64) -> (u64, u64) {
    // A division of 64 bits takes a fraction of the time of one of 128 bits.
    if let Some(line) = position.checked_mul(left).and_then(|product| product.checked_add(offset)) {
        return (line / all, line % all);
    }
    let line = u128::from(position) * u128::from(left) + u128::from(offset);
    ((line / u128::from(all)) as u64, (line % u128::from(all)) as u64)
}

/// Adds the tree over these sequences, the first of which has the number `first`.
fn split(lengths: &[u64], first: usize, nodes: &mut Vec<TreeNode>) -> BranchSide {
    if lengths.len() < 2 {
        return BranchSide::Sequence(first);
    }
    let all: u64 = lengths.iter().sum();
    // The cut that halves the sum best.
    let (mut cut, mut left, mut sum) = (1, lengths[0], 0);
    for (index, length) in lengths[..lengths.len() - 1].iter().enumerate() {
        sum += length;
        if (2 * u128::from(sum)).abs_diff(u128::from(all)) < (2 * u128::from(left)).abs_diff(u128::from(all)) {
            (cut, left) = (index + 1, sum);
        }
    }
    let at = nodes.len();
    nodes.push(TreeNode { left, all, sides: [BranchSide::Sequence(first); 2] });
    let sides = [split(&lengths[..cut], first, nodes), split(&lengths[cut..], first + cut, nodes)];
    nodes[at].sides = sides;
    BranchSide::Node(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn lengths() -> impl Strategy<Value = Vec<u64>> {
        let length = prop_oneof![1u64..4, 1u64..40, 1u64..400];
        prop::collection::vec(length, 1..20)
    }

    proptest! {
        /// Each sequence comes in order and whole. The first n positions hold the share of each sequence to within
        /// three, so any stretch holds it to within six.
        #[test]
        fn all_in_order_and_in_proportion_everywhere(lengths in lengths(), key: u64) {
            let woven = Interleave::new(&lengths);
            let all: u64 = lengths.iter().sum();
            let mut seen = vec![0; lengths.len()];
            for position in 0..all {
                prop_assert_eq!(&woven.before(key, position, lengths.len()), &seen);
                let (sequence, place) = woven.at(key, position);
                prop_assert_eq!(place, seen[sequence]);
                seen[sequence] += 1;
                for (seen, length) in seen.iter().zip(&lengths) {
                    let share = (position + 1) as f64 * *length as f64 / all as f64;
                    prop_assert!((*seen as f64 - share).abs() < 3.0, "{} of {} at {}", seen, share, position);
                }
            }
            prop_assert_eq!(&seen, &lengths);
            prop_assert_eq!(woven.before(key, all, lengths.len()), lengths);
        }

        /// Also where numbers need 128 bits.
        #[test]
        fn large_positions_behave_as_small_ones(lengths in prop::collection::vec(1u64 << 55..1 << 58, 2..9), key: u64, at: u64) {
            let woven = Interleave::new(&lengths);
            let at = scale(at, lengths.iter().sum::<u64>() - 100);
            let mut last = vec![None; lengths.len()];
            for position in at..at + 100 {
                let (sequence, place) = woven.at(key, position);
                prop_assert!(place < lengths[sequence]);
                prop_assert!(last[sequence].is_none_or(|last| last + 1 == place));
                last[sequence] = Some(place);
            }
        }
    }

    /// Never to be changed: saved states rely on this order.
    #[test]
    fn golden() {
        let woven = Interleave::new(&[5, 2, 1]);
        let order = |key| (0..8).map(|position| woven.at(key, position)).collect::<Vec<_>>();
        assert_eq!(order(1), [(0, 0), (2, 0), (0, 1), (0, 2), (1, 0), (0, 3), (1, 1), (0, 4)]);
        assert_eq!(order(2), [(0, 0), (0, 1), (1, 0), (0, 2), (0, 3), (1, 1), (0, 4), (2, 0)]);
    }
}
