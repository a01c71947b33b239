//! In which order an epoch delivers its samples, which rank gets which, and where to go on after a stop.
//!
//! The global order is a pure function of the data, the [`Sampler`] and its parameters, and the epoch. Threads, strategy,
//! retries and the number of ranks have no say in it: rank r of w takes its slice of each global batch. Orders are
//! frozen: what a version of this crate gives for a seed, all later ones give.
//!
//! Memory is what a loader holds for its order; what making it takes beyond that is told by each.
//!
//! | sampler | order | memory | random access |
//! |---|---|---|---|
//! | [`Sequential`] | by name | none | a few ns |
//! | [`Shuffle`] | all samples shuffled | some 100 bytes | tens of ns |
//! | [`WindowShuffle`] | each window of names shuffled within itself; begins while names are listed | some 100 bytes | the same in a window, a microsecond or two in another |
//! | [`BlockShuffle`] | blocks of names shuffled, and their samples mixed with those of other blocks | some 250 bytes | the same among mixed blocks, a microsecond or two in others |
//! | [`Weighted`] | drawn by weights, with or without replacement | 8 or 12 bytes a sample | tens of ns; without replacement after a sort at the start of each epoch |
//! | [`Stratified`] | shuffled, each stretch with the labels in proportion | some 200 bytes a label, 16 for each change of label | hundreds of ns |
//! | [`Mixture`] | several samplers by weights, such as subsets that are data sets of their own | some 100 bytes a part | tens of ns more |
//! | [`Subset`] | some samples, by range, folder, list or predicate, as another sampler orders them | 8 bytes a sample, none for a range or a folder | a few ns more |

mod interleave;
mod launcher;
mod mixture;
mod permutation;
mod rest;
mod sampler;
mod sharding;
mod shuffled;
mod split;
mod state;
mod stratified;
mod subset;
mod substitute;
mod weighted;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Stage};
pub(crate) use interleave::Interleave;
pub(crate) use launcher::shard;
pub use mixture::{EpochLength, Mixture};
pub(crate) use mixture::{MixtureUnit, shares};
pub(crate) use permutation::keys;
pub use rest::{DeliveredAhead, RankProgress};
pub(crate) use rest::{DeliveredBatches, RemainingPositions, merge};
pub(crate) use sampler::{EpochOrder, Sampling, identity};
pub use sampler::{Order, Orders, Sampler, Scope};
pub(crate) use sharding::MOST_PADDED;
pub use sharding::{BatchSpan, LastBatch, Sharding, Spans};
pub use shuffled::{BlockShuffle, Sequential, Shuffle, WindowShuffle};
pub use state::State;
pub(crate) use state::{short, told};
pub use stratified::Stratified;
pub use subset::Subset;
pub(crate) use substitute::substitute;
pub use weighted::Weighted;

/// A sample, by its index in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SampleId(pub u64);

/// A setting of an order that can't work.
fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Config, message).stage(Stage::Sample)
}

#[cfg(test)]
mod tests;
