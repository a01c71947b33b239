//! Which batch a collator makes.

use std::ops::Range;

use super::buffers::{BatchBuffer, BufferSource};

/// Which batch a collator makes, and a seed for what is random about it. See [`Collate::collate_with`].
///
/// [`Collate::collate_with`]: crate::Collate::collate_with
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CollateContext {
    /// The epoch that the batch is delivered in, counted from 0.
    pub epoch: u64,
    /// The same as [`Batch::positions`](crate::Batch::positions).
    pub positions: Range<u64>,
    /// A seed for random numbers of this batch, for example those of a [`SampleRng`](crate::SampleRng). It is a
    /// function of the sampler, which includes the seed of the shuffle, the epoch, and the position of the batch's
    /// first sample. So a batch gets the same numbers at any number of threads and after a resume, and the batches of
    /// different ranks get different ones.
    pub seed: u64,
    /// Where the memory of the batch comes from.
    pub(crate) buffers: BufferSource,
}

impl CollateContext {
    /// A buffer of `length` numbers for the batch, in memory of an earlier batch that the training loop has dropped, if
    /// there is any. Its numbers have any value, so write all of them.
    pub fn buffer<T: Copy + Default + Send + 'static>(&self, length: usize) -> BatchBuffer<T> {
        self.buffers.buffer(length)
    }
}
