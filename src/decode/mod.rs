//! From stored bytes to the user's type.

#[cfg(feature = "image")]
mod header;
#[cfg(feature = "image")]
mod image;
#[cfg(feature = "image")]
mod jpeg_header;

use crate::collate::{Collate, Samples};
use crate::split::RawSample;

#[cfg(feature = "image")]
pub use image::{Image, ImageFolder, Images, StackImages};

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

    /// Bytes of memory that an item holds when made of an object of `size` bytes; `None` if it keeps hold of the
    /// object's own bytes and no more. The memory budget counts by it.
    fn item_bytes(&self, size: u64) -> Option<u64> {
        let _ = size;
        None
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
