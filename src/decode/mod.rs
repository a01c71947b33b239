//! Decoders: from stored bytes to the user's type.

mod arrays;
#[cfg(feature = "audio")]
mod audio;
mod collated;
mod csv;
#[cfg(feature = "image")]
mod image;
#[cfg(feature = "image")]
mod image_folder;
mod json;
mod labelled;
#[cfg(feature = "image")]
mod mapped;
#[cfg(feature = "image")]
mod masked;
mod memory;
#[cfg(feature = "image")]
mod mix;
#[cfg(feature = "image")]
mod pad;
#[cfg(feature = "image")]
mod stack;
#[cfg(feature = "image")]
mod target;
mod text;
mod tuples;

use crate::collate::{Collate, Samples};
use crate::read::RawSample;

pub use arrays::{AnyArray, ArrayElement, NamedArrays, Npy, Npz, PadArrays, PaddedArrays, Safetensors, StackArrays};
#[cfg(feature = "audio")]
pub use audio::{Audio, AudioBatch, Flac, StackAudio, Wav};
pub use collated::Collated;
pub use csv::{CsvRows, CsvTable};
#[cfg(feature = "image")]
pub use image::Image;
#[cfg(feature = "image")]
pub use image_folder::ImageFolder;
pub use json::Json;
pub use labelled::{CollateLabelled, Labelled};
#[cfg(feature = "image")]
pub use mapped::{MappedImages, SampleContext};
#[cfg(feature = "image")]
pub use masked::{ImageWithMask, MaskedImage, MaskedImages, StackMaskedImages};
pub(crate) use memory::{ItemSize, item_size, scratch_of};
#[cfg(feature = "image")]
pub use mix::MixImages;
#[cfg(feature = "image")]
pub use pad::{PadImages, PaddedImages};
#[cfg(feature = "image")]
pub use stack::{Images, StackImages};
#[cfg(feature = "image")]
pub(crate) use target::UnevenTarget;
#[cfg(feature = "image")]
pub use target::{Target, TargetArray};
pub use text::Text;

/// Decodes one object's bytes into one training sample. Runs on the decode threads, several at once, unless it [is
/// light](Self::is_light).
///
/// Any `Fn(RawSample) -> `[`anyhow::Result<T>`](anyhow::Result) is a decoder. An error that it returns, and a panic,
/// reach the training loop as an [`Error`](crate::Error) of kind [`Decode`](crate::ErrorKind::Decode) that names the
/// object.
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
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not decode samples",
    label = "not a decoder",
    note = "a decoder is `ImageFolder` (feature `image`), `Npy`, `Npz`, `Safetensors`, `Json`, `CsvRows`, `Text`, `Raw`, \
            `Wav` or `Flac` (feature `audio`), a type that implements `Decode`, a closure \
            `move |sample: RawSample| -> anyhow::Result<T>` that is `Send + Sync + 'static`, or a tuple of two or three \
            of these for samples of several parts"
)]
pub trait Decode: Send + Sync + 'static {
    /// Type of a decoded sample.
    type Item: Send + 'static;
    /// How samples are collated, unless the data set is given [another
    /// collator](crate::DatafluxDataset::collate).
    type Collate: Collate<Self::Item>;

    /// Decodes one object.
    ///
    /// # Errors
    /// The bytes can't be decoded. The error need not name the object.
    fn decode(&self, sample: RawSample) -> anyhow::Result<Self::Item>;

    /// The default collator.
    fn collate(&self) -> Self::Collate;

    /// When the memory that an item takes is known, for the memory budget.
    fn item_memory(&self) -> ItemMemory {
        ItemMemory::FromSize
    }

    /// Bytes of memory that an item takes when it is made of an object of `size` bytes; `None` if the item holds the
    /// object's own bytes and no more. Called if [`item_memory`](Self::item_memory) is
    /// [`FromSize`](ItemMemory::FromSize). What collating copies is [counted beside it](Collate::copied_bytes).
    fn item_bytes(&self, size: u64) -> Option<u64> {
        let _ = size;
        None
    }

    /// Memory that decoding this object takes, by the headers in its bytes; `None` if they don't say, for example
    /// because they are damaged. Called before [`decode`](Self::decode) if [`item_memory`](Self::item_memory) is
    /// [`FromBytes`](ItemMemory::FromBytes), or for the working memory alone if it is
    /// [`FromItems`](ItemMemory::FromItems). It should take microseconds.
    fn decode_memory(&self, sample: &RawSample) -> Option<DecodeMemory> {
        let _ = sample;
        None
    }

    /// Whether this decodes images, so that a data set that it is [given to](crate::DatafluxDataset::decode) leaves out
    /// objects that are no images by their names, as [`Filter::images`](crate::list::Filter::images) does. A closure
    /// decodes all objects.
    fn wants_images(&self) -> bool {
        false
    }

    /// Whether this fails for samples without a [label](crate::manifest::Entry::label). If so, building a loader logs a
    /// warning if samples have no label, and if the folders are probably not the intended labels, for example because
    /// there is only one. A data set of images that is [streaming](crate::DatasetBuilder::streaming) logs the latter
    /// when its listing ends.
    fn wants_labels(&self) -> bool {
        false
    }

    /// Whether decoding takes about a microsecond and never waits. If so, it runs on the thread that receives the
    /// bytes, since handing a sample to another thread takes longer than that.
    fn is_light(&self) -> bool {
        false
    }
}

/// The data of a batch of samples that `D` decodes: what its collator returns.
pub type BatchOf<D> = <<D as Decode>::Collate as Collate<<D as Decode>::Item>>::Output;

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

/// When the memory that an item takes is known, for the memory budget.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ItemMemory {
    /// Before its object is read: [`Decode::item_bytes`] returns it.
    #[default]
    FromSize,
    /// After its object is read and before it is decoded: [`Decode::decode_memory`] returns it.
    FromBytes,
    /// Only after it is decoded, as with closures. The memory of later items is estimated from finished ones, if their
    /// type is one whose size is known: an [`Image`] whose label is a number, several, or a text, an array of ndarray
    /// or a `Vec` with numbers of a fixed width, a `String`, [`NamedArrays`], a [`CsvTable`], `Audio`, or one of these
    /// in a pair with a label. For other types, state it with
    /// [`DatafluxDataset::item_bytes`](crate::DatafluxDataset::item_bytes); otherwise the loader only limits how many
    /// samples are decoded ahead of the training loop, to about four batches.
    FromItems,
}

/// Memory that decoding one object takes, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DecodeMemory {
    /// The decoded item.
    pub item: u64,
    /// Buffers that the decoder holds in addition to the item while it works, at their peak.
    pub scratch: u64,
    /// Whether the object doesn't say it, so that the item may turn out larger or smaller. A batch is never refused for
    /// an estimate. Once the item is decoded, the loader counts what it takes, if its type is one of those that
    /// [`FromItems`](ItemMemory::FromItems) lists.
    pub is_estimate: bool,
}

/// A decoder that decodes nothing: samples are the stored bytes.
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

#[cfg(test)]
mod tests;
