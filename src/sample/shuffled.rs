//! Orders of all samples, each once: by name, and shuffled in several ways.

use super::permutation::Permutation;
use super::sampler::{Orders, Sampler, Scope, Sealed};
use super::wrong;
use crate::Result;

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

/// All samples of an epoch shuffled, by a seed, the epoch's number and the manifest's digest. It takes some 100 bytes,
/// however many samples there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shuffle {
    seed: u64,
}

impl Shuffle {
    /// A shuffle for each seed.
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
        Ok(Orders::of(samples, move |epoch| Permutation::new(samples, &digest.0, seed, epoch)))
    }

    fn takes_all(&self, _: Sealed) -> bool {
        true
    }
}

/// Each window of so many samples, in byte order of names, shuffled within itself, by a seed, the epoch's number and the
/// window's. A sample stays where its window is, so that an epoch can begin before the listing ends; see
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
            within(samples, window, move |size, number| Permutation::of_window(size, number, seed, epoch))
        }))
    }

    fn settled(&self, listed: u64) -> u64 {
        // Of a window that isn't full, the order hangs on how full it gets.
        listed - listed.checked_rem(self.window).unwrap_or(0)
    }

    fn takes_all(&self, _: Sealed) -> bool {
        true
    }
}

/// Positions permuted within each window of `window` of them, of which the last may be smaller. `permutation` makes that
/// of a size and a window's number.
fn within(samples: u64, window: u64, permutation: impl Fn(u64, u64) -> Permutation) -> impl FnMut(u64) -> u64 {
    // Of the window that the last position was in.
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

/// Blocks of samples that are neighbours in byte order of names, in a random order, and the samples of some blocks in a row
/// shuffled among each other: near a full shuffle, where the blocks are much smaller than a class, with reads that stay
/// in few places. It takes some 250 bytes, however many samples there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockShuffle {
    seed: u64,
    block: u64,
    mixed: u64,
}

impl BlockShuffle {
    /// Blocks of `block` samples, at least 1; the samples of `mixed` blocks that follow each other, at least 1, are
    /// shuffled among each other.
    pub fn new(seed: u64, block: u64, mixed: u64) -> Self {
        Self { seed, block, mixed }
    }
}

impl Sampler for BlockShuffle {
    fn identity(&self) -> String {
        format!("blocks(seed={}, samples={}, mixed={})", self.seed, self.block, self.mixed)
    }

    fn orders(&self, scope: &Scope) -> Result<Orders> {
        let Self { seed, block, mixed } = *self;
        if block == 0 || mixed == 0 {
            return Err(wrong("blocks can't be of no samples, nor mixed by none")
                .mismatch("at least 1 of each", format_args!("{block} and {mixed}"))
                .hint("give BlockShuffle samples in a block, and blocks to mix, such as 256 and 64"));
        }
        let (samples, digest) = (scope.len(), scope.manifest().digest());
        Ok(Orders::new(samples, move |epoch| blocks(samples, &digest.0, (block, mixed), seed, epoch)))
    }

    fn takes_all(&self, _: Sealed) -> bool {
        true
    }
}

fn blocks(
    samples: u64,
    digest: &[u8; 32],
    (block, mixed): (u64, u64),
    seed: u64,
    epoch: u64,
) -> impl FnMut(u64) -> u64 + use<> {
    let count = samples.div_ceil(block);
    let order = Permutation::keyed(count, &[b"dataflux blocks 1", digest], seed, epoch);
    // The last block may be short: where it comes among the others, and by how much.
    let short = order.place_of(count - 1);
    let missing = count * block - samples;
    // Where the block at a place begins, and which place a position is in.
    let start = move |place: u64| place * block - if place > short { missing } else { 0 };
    let place_of = move |position: u64| {
        if position < start(short + 1) { (position / block).min(short) } else { (position + missing) / block }
    };
    let mut last: Option<(u64, Permutation)> = None;
    move |position| {
        let group = place_of(position) / mixed;
        let (from, to) = (start(group * mixed), start(count.min(group.saturating_add(1).saturating_mul(mixed))));
        if last.as_ref().is_none_or(|(of, _)| *of != group) {
            let names: [&[u8]; 2] = [b"dataflux mixed blocks 1", &group.to_le_bytes()];
            last = Some((group, Permutation::keyed(to - from, &names, seed, epoch)));
        }
        let mixed = from + last.as_ref().map_or(0, |(_, permutation)| permutation.at(position - from));
        let place = place_of(mixed);
        order.at(place) * block + (mixed - start(place))
    }
}
