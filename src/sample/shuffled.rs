//! Samplers that give all samples, each once: ordered by name, or shuffled by one of several methods.

use super::permutation::Permutation;
use super::sampler::{Orders, Sampler, Scope, Sealed};
use super::wrong;
use crate::Result;
use crate::manifest::NamesKey;

/// Samples in byte order of names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequential;

impl Sampler for Sequential {
    fn identity(&self) -> String {
        "sequential".to_owned()
    }

    fn orders(&self, scope: &Scope) -> Result<Orders> {
        Ok(Orders::new(scope.len(), |_| |position| position))
    }

    fn settled(&self, listed: u64) -> u64 {
        listed
    }

    fn takes_all(&self, _: Sealed) -> bool {
        true
    }
}

/// Shuffles all samples of an epoch by a seed, the epoch's number and the samples' names. It takes some 100 bytes,
/// however many samples there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shuffle {
    seed: u64,
}

impl Shuffle {
    /// Each seed gives another shuffle.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }
}

impl Sampler for Shuffle {
    fn identity(&self) -> String {
        format!("shuffle(seed={})", self.seed)
    }

    fn orders(&self, scope: &Scope) -> Result<Orders> {
        let (samples, digest, seed) = (scope.len(), scope.manifest().digest(), self.seed);
        Ok(Orders::of(samples, move |epoch| Permutation::new(samples, digest.names_key(), seed, epoch)))
    }

    fn takes_all(&self, _: Sealed) -> bool {
        true
    }
}

/// Shuffles windows of samples, in byte order of names, each within itself, by a seed, the epoch's number and the
/// window's number. A sample stays within its window, so that an epoch can begin before the listing ends; see
/// [`shuffle_window`](crate::DataLoaderBuilder::shuffle_window).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowShuffle {
    seed: u64,
    window: u64,
}

impl WindowShuffle {
    /// Windows of `window` samples, at least 1.
    pub fn new(seed: u64, window: u64) -> Self {
        Self { seed, window }
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.window == 0 {
            return Err(wrong("a window can't be of no samples")
                .mismatch("at least 1", 0)
                .hint("give shuffle_window, or WindowShuffle, many times the samples of a class"));
        }
        Ok(())
    }
}

impl Sampler for WindowShuffle {
    fn identity(&self) -> String {
        format!("windows(seed={}, samples={})", self.seed, self.window)
    }

    fn orders(&self, scope: &Scope) -> Result<Orders> {
        self.check()?;
        let Self { seed, window } = *self;
        let samples = scope.len();
        Ok(Orders::new(samples, move |epoch| {
            permuted_within_windows(samples, window, move |size, number| {
                Permutation::of_window(size, number, seed, epoch)
            })
        }))
    }

    fn settled(&self, listed: u64) -> u64 {
        // The order of a window that isn't full depends on how full it gets.
        listed - listed.checked_rem(self.window).unwrap_or(0)
    }

    fn takes_all(&self, _: Sealed) -> bool {
        true
    }
}

/// Permutes positions within each window of `window` positions, the last of which may be smaller. `permutation` makes
/// the permutation of a window from its size and its number.
fn permuted_within_windows(
    samples: u64,
    window: u64,
    permutation: impl Fn(u64, u64) -> Permutation,
) -> impl FnMut(u64) -> u64 {
    // Number and permutation of the window that the last position was in.
    let mut last: Option<(u64, Permutation)> = None;
    move |position| {
        let number = position / window;
        let start = number * window;
        if last.as_ref().is_none_or(|(of, _)| *of != number) {
            last = Some((number, permutation(window.min(samples - start), number)));
        }
        start + last.as_ref().map_or(0, |(_, permutation)| permutation.at(position - start))
    }
}

/// Shuffles blocks of samples that are neighbours in byte order of names, and then the samples of several consecutive
/// blocks among each other. Where blocks are much smaller than a class, this is close to a full shuffle, with reads
/// that stay in few places. It takes some 250 bytes, however many samples there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockShuffle {
    seed: u64,
    block: u64,
    mixed: u64,
}

impl BlockShuffle {
    /// Blocks of `block` samples, at least 1. The samples of `mixed` consecutive blocks, at least 1, are shuffled among
    /// each other.
    pub fn new(seed: u64, block: u64, mixed: u64) -> Self {
        Self { seed, block, mixed }
    }
}

impl Sampler for BlockShuffle {
    fn identity(&self) -> String {
        format!("blocks(seed={}, samples={}, mixed={})", self.seed, self.block, self.mixed)
    }

    fn orders(&self, scope: &Scope) -> Result<Orders> {
        let shuffle = *self;
        let Self { block, mixed, .. } = shuffle;
        if block == 0 || mixed == 0 {
            return Err(wrong("blocks can't be of no samples, nor mixed by none")
                .mismatch("at least 1 of each", format_args!("{block} and {mixed}"))
                .hint("give BlockShuffle samples in a block, and blocks to mix, such as 256 and 64"));
        }
        let (samples, digest) = (scope.len(), scope.manifest().digest());
        Ok(Orders::new(samples, move |epoch| shuffle.order(samples, digest.names_key(), epoch)))
    }

    fn takes_all(&self, _: Sealed) -> bool {
        true
    }
}

impl BlockShuffle {
    fn order(self, samples: u64, names: &NamesKey, epoch: u64) -> impl FnMut(u64) -> u64 + use<> {
        let Self { seed, block, mixed } = self;
        let count = samples.div_ceil(block);
        let order = Permutation::keyed(count, &[b"dataflux blocks 1", names], seed, epoch);

        // The last block may be short: its place among the others, and how many samples it lacks.
        let short = order.position_of(count - 1);
        let missing = count * block - samples;
        // Where the block at a place begins, and the place that a position belongs to.
        let start = move |place: u64| place * block - if place > short { missing } else { 0 };
        let place_of = move |position: u64| {
            if position < start(short + 1) { (position / block).min(short) } else { (position + missing) / block }
        };

        // Number and permutation of the group of mixed blocks that the last position was in.
        let mut last: Option<(u64, Permutation)> = None;
        move |position| {
            let group = place_of(position) / mixed;
            let (from, to) = (start(group * mixed), start(count.min(group.saturating_add(1).saturating_mul(mixed))));
            if last.as_ref().is_none_or(|(of, _)| *of != group) {
                let names: [&[u8]; 2] = [b"dataflux mixed blocks 1", &group.to_le_bytes()];
                last = Some((group, Permutation::keyed(to - from, &names, seed, epoch)));
            }
            let shuffled = from + last.as_ref().map_or(0, |(_, permutation)| permutation.at(position - from));
            let place = place_of(shuffled);
            order.at(place) * block + (shuffled - start(place))
        }
    }
}
