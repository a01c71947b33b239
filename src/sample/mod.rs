//! In which order an epoch delivers its samples, which rank gets which samples, and where to resume after a stop.
//!
//! The global order is a pure function of the data, the [`Sampler`] and its parameters, and the epoch. Threads,
//! strategy, retries and the number of ranks don't change it: rank r of w takes its slice of each global batch. Orders
//! are frozen: the order that a version of this crate makes of a seed is the order that all later versions make of it.
//!
//! The column "memory" says what a loader holds for its order. Each sampler documents what making the order takes in
//! addition.
//!
//! | sampler | order | memory | random access |
//! |---|---|---|---|
//! | [`Sequential`] | by name | none | a few ns |
//! | [`Shuffle`] | all samples shuffled | some 100 bytes | tens of ns |
//! | [`WindowShuffle`] | each window of names shuffled within itself; an epoch can begin while names are listed | some 100 bytes | tens of ns in the same window, a microsecond or two in another |
//! | [`BlockShuffle`] | blocks of names shuffled, and their samples mixed with those of other blocks | some 250 bytes | tens of ns among the same mixed blocks, a microsecond or two in others |
//! | [`Weighted`] | drawn by weights, with or without replacement | 8 or 12 bytes a sample | tens of ns; without replacement after a sort at the start of each epoch |
//! | [`Stratified`] | shuffled, with the labels in proportion in each stretch | some 200 bytes a label, 16 for each change of label | hundreds of ns |
//! | [`Mixture`] | several samplers by weights, for example subsets that are data sets of their own | some 100 bytes a part | tens of ns more |
//! | [`Subset`] | some samples, chosen by range, folder, list or predicate, as another sampler orders them | 8 bytes a sample, none for a range or a folder | a few ns more |

mod interleave;
mod launcher;
mod mixture;
mod permutation;
mod place;
mod remaining;
mod sampler;
mod sampling;
mod sharding;
mod shuffled;
mod split;
mod state;
mod stratified;
mod subset;
mod substitute;
mod weighted;

use crate::{Error, ErrorKind, Stage};
pub(crate) use interleave::Interleave;
pub(crate) use launcher::rank_from_environment;
pub use mixture::{EpochLength, Mixture};
pub(crate) use mixture::{MixtureUnit, part_lengths};
pub(crate) use permutation::keys;
pub(crate) use place::EpochPlace;
pub(crate) use remaining::{DeliveredBatches, RemainingPositions, merge};
pub use sampler::{Order, Orders, Sampler, Scope};
pub(crate) use sampling::{EpochOrder, Sampling, identity};
pub(crate) use sharding::{BatchSpan, BatchSpans, LastBatch, MAX_PADDED_BATCH, Sharding};
pub use shuffled::{BlockShuffle, Sequential, Shuffle, WindowShuffle};
pub(crate) use state::sampler_from_identity;
pub use state::{DeliveredAhead, RankProgress, State};
pub use stratified::Stratified;
pub use subset::Subset;
pub(crate) use substitute::substitute;
pub use weighted::Weighted;

pub use crate::manifest::SampleId;

/// The error of an order's setting that can't work.
fn wrong(message: &str) -> Error {
    Error::new(ErrorKind::Config, message).stage(Stage::Sample)
}

#[cfg(test)]
mod tests;
