//! From stored bytes to the user's type.

#[cfg(feature = "image")]
mod header;
#[cfg(feature = "image")]
mod image;
#[cfg(feature = "image")]
mod jpeg;
#[cfg(feature = "image")]
mod jpeg_header;
#[cfg(feature = "image")]
mod jpeg_scans;
mod memory;

use crate::collate::{Collate, Samples};
use crate::read::RawSample;

#[cfg(feature = "image")]
pub use image::{Image, ImageFolder, Images, StackImages};
pub(crate) use memory::{ItemSize, item_size, scratch_of};

/// Turns one object's bytes into one training sample. Runs on the decode threads, several at once, unless it
/// [is light](Self::is_light).
///
/// Any `Fn(RawSample) -> anyhow::Result<T>` is one. What it returns as an error, and what it panics with, reaches the
/// training loop as an [`Error`](crate::Error) of kind [`Decode`](crate::ErrorKind::Decode) that names the object.
///
/// ```
/// use dataflux::RawSample;
///
/// let words = |sample: RawSample| -> anyhow::Result<Vec<String>> {
///     Ok(std::str::from_utf8(sample.bytes())?.split_whitespace().map(str::to_owned).collect())
/// };
/// # fn check(_: impl dataflux::Decode<Item = Vec<String>>) {}
/// # check(words);
/// ```
pub trait Decode: Send + Sync + 'static {
    /// The sample.
    type Item: Send + 'static;
    /// How samples become a batch, unless the loader is told otherwise.
    type Collate: Collate<Self::Item>;

    /// Decodes one object.
    ///
    /// # Errors
    /// Whatever is wrong with the bytes; the object need not be named.
    fn decode(&self, sample: RawSample) -> anyhow::Result<Self::Item>;

    /// The usual way from samples to a batch.
    fn collate(&self) -> Self::Collate;

    /// When the memory that an item takes is known. The memory budget counts by it.
    fn item_memory(&self) -> ItemMemory {
        ItemMemory::FromSize
    }

    /// Bytes of memory that an item takes when made of an object of `size` bytes, and twice that where collating copies
    /// it; `None` if it keeps hold of the object's own bytes and no more. Called where
    /// [`item_memory`](Self::item_memory) is [`FromSize`](ItemMemory::FromSize).
    fn item_bytes(&self, size: u64) -> Option<u64> {
        let _ = size;
        None
    }

    /// Memory that decoding this object takes, by the headers in its bytes; `None` where they don't say, because
    /// they are damaged, say. Called before [`decode`](Self::decode) where [`item_memory`](Self::item_memory) is
    /// [`FromBytes`](ItemMemory::FromBytes); takes microseconds.
    fn decode_memory(&self, sample: &RawSample) -> Option<DecodeMemory> {
        let _ = sample;
        None
    }

    /// Whether it decodes images, so that a data set it is [given to](crate::DatafluxDataset::decode) leaves out
    /// whatever is no image by its name, as [`Filter::images`](crate::list::Filter::images) does. A closure decodes
    /// whatever there is.
    fn wants_images(&self) -> bool {
        false
    }

    /// Whether decoding takes a microsecond or so and never waits for anything. Then it is done where the bytes come in,
    /// since to hand a sample to another thread takes longer than that.
    fn is_light(&self) -> bool {
        false
    }
}

impl<F, T> Decode for F
where
    F: Fn(RawSample) -> anyhow::Result<T> + Send + Sync + 'static,
    T: Send + 'static,
{
    type Item = T;
    type Collate = Samples;

    fn decode(&self, sample: RawSample) -> anyhow::Result<T> {
        self(sample)
    }

    fn collate(&self) -> Samples {
        Samples
    }

    fn item_memory(&self) -> ItemMemory {
        ItemMemory::FromItems
    }
}

/// When the memory that an item takes is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ItemMemory {
    /// Before its object is read: [`Decode::item_bytes`] says it.
    #[default]
    FromSize,
    /// When its object is read and before it is decoded: [`Decode::decode_memory`] says it.
    FromBytes,
    /// Not before it is there, as with closures. What items to come take is estimated from those that are finished, if
    /// they are of a type whose size is known: an [`Image`], a `Vec` of `f32`, `f64` or integers of fixed width, a
    /// `String`, or such a `Vec` with a label (a pair). For other types state it by
    /// [`DatafluxDataset::item_bytes`](crate::DatafluxDataset::item_bytes); otherwise a loader only bounds how many
    /// samples are decoded ahead of the training loop: about four batches.
    FromItems,
}

/// Memory that decoding one object takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeMemory {
    /// The item.
    pub item: u64,
    /// Buffers that the decoder holds beside the item while it works, at their peak.
    pub scratch: u64,
}

/// No decoding: samples are the stored bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Raw;

impl Decode for Raw {
    type Item = RawSample;
    type Collate = Samples;

    fn decode(&self, sample: RawSample) -> anyhow::Result<RawSample> {
        Ok(sample)
    }

    fn is_light(&self) -> bool {
        true
    }

    fn collate(&self) -> Samples {
        Samples
    }
}
