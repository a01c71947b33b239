//! Which sample replaces one that can't be read or decoded.

use super::permutation::Permutation;

/// Most substitutes that are tried for one sample. Where half of the data can't be read, fewer than one sample in
/// 60,000 finds no substitute.
const ATTEMPTS: usize = 16;

/// The position whose sample replaces the one at `position`, where `attempt - 1` other substitutes failed before;
/// `None` where no attempt is left.
///
/// The result depends on the arguments alone, so that all ranks, however many there are, find the same substitute
/// without asking each other. It is never `position` itself, nor the result of an earlier attempt. Substitutes of
/// neighbours lie anywhere in the epoch, so that a run of bad objects isn't replaced by a run of the same sample. Like
/// the orders, the output must never change.
pub(crate) fn substitute(position: u64, attempt: usize, epoch: u64, positions: u64) -> Option<u64> {
    let others = positions.checked_sub(1)?;
    let tried = (attempt as u64).checked_sub(1).filter(|&tried| attempt <= ATTEMPTS && tried < others)?;
    let ahead = 1 + Permutation::of_substitutes(others, position, epoch).at(tried);
    Some(((u128::from(position) + u128::from(ahead)) % u128::from(positions)) as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Never to be changed: a run that is repeated relies on these substitutes.
    #[test]
    fn golden() {
        let of = |position, attempt| substitute(position, attempt, 3, 1_000_000).unwrap();
        assert_eq!(
            [(0, 1), (0, 2), (1, 1), (999_999, 1)].map(|(at, attempt)| of(at, attempt)),
            [560_616, 532_888, 510_065, 348_861]
        );
        assert_eq!(substitute(u64::MAX - 1, 1, 0, u64::MAX), Some(11_100_262_152_624_263_569));
    }

    proptest! {
        #[test]
        fn each_attempt_is_another_position_until_none_is_left(positions in 1u64..2_000, at: u64, epoch: u64) {
            let position = at % positions;
            let mut tried = vec![position];
            for attempt in 1..40 {
                let Some(other) = substitute(position, attempt, epoch, positions) else { continue };
                prop_assert!(other < positions && !tried.contains(&other), "{} after {:?}", other, tried);
                tried.push(other);
            }
            prop_assert_eq!(tried.len() as u64, positions.min(ATTEMPTS as u64 + 1));
        }
    }

    /// Chi-square of 10,000 neighbours over ten tenths, with 9 degrees of freedom: the 99.9th percentile is 27.9.
    #[test]
    fn substitutes_of_neighbours_and_of_epochs_are_spread() {
        let tenths = |draw: &dyn Fn(u64) -> u64| {
            let mut counts = [0f64; 10];
            (0..10_000).for_each(|n| counts[(draw(n) / 1_000) as usize] += 1.0);
            counts.iter().map(|count| (count - 1_000.0).powi(2) / 1_000.0).sum::<f64>()
        };
        let by_position = tenths(&|n| substitute(n, 1, 0, 10_000).unwrap());
        let by_epoch = tenths(&|n| substitute(5, 1, n, 10_000).unwrap());
        assert!(by_position < 27.9 && by_epoch < 27.9, "{by_position} {by_epoch}");
    }
}
