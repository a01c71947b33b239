//! A user's own step on decoded images.

use std::fmt;

use super::image::Image;
use super::image_folder::ImageFolder;
use super::stack::StackImages;
use super::{Decode, DecodeMemory, ItemMemory};
use crate::pixels::Element;
use crate::read::RawSample;
use crate::sample::SampleId;
use crate::transform::SampleRng;

/// Decodes the images of a folder, and gives each to a function before it goes into a batch. Made by
/// [`ImageFolder::map`].
pub struct MappedImages<T, F, L = i64> {
    folder: ImageFolder<T, L>,
    map: F,
}

impl<T, F: Clone, L> Clone for MappedImages<T, F, L>
where
    ImageFolder<T, L>: Clone,
{
    fn clone(&self) -> Self {
        Self { folder: self.folder.clone(), map: self.map.clone() }
    }
}

/// Without the function, since closures have no `Debug`.
impl<T, F, L> fmt::Debug for MappedImages<T, F, L>
where
    ImageFolder<T, L>: fmt::Debug,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MappedImages").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// Which sample an image is of, and the random numbers for it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SampleContext {
    /// The sample.
    pub id: SampleId,
    /// See [`RawSample::epoch`].
    pub epoch: u64,
    /// See [`RawSample::position`].
    pub position: u64,
    /// See [`RawSample::rng_seed`].
    pub seed: u64,
    /// Random numbers of this sample alone, which begin at the seed. They are others than those that
    /// [`ImageFolder::transform`] draws.
    pub rng: SampleRng,
}

impl SampleContext {
    /// What the seed is combined with, so that a step of the user and a transform draw different numbers.
    const STREAM: u64 = 0x006d_6170;

    pub(super) fn of(sample: &RawSample) -> Self {
        let seed = sample.rng_seed();
        let rng = SampleRng::new(seed ^ Self::STREAM);
        Self { id: sample.id(), epoch: sample.epoch(), position: sample.position(), seed, rng }
    }
}

impl<T: Element, L: Send + 'static> ImageFolder<T, L> {
    /// Gives each image to `map` once it is decoded and [transformed](Self::transform), on the decode threads. The
    /// images that it returns are stacked like any other. It may change pixels, their number, and the label.
    ///
    /// ```
    /// use dataflux::{Image, ImageFolder};
    ///
    /// // Every fourth image or so is inverted.
    /// let inverted = ImageFolder::new().resize(64, 64).map(|mut image: Image, context| {
    ///     if context.rng.happens(0.25) {
    ///         image.bitmap.values_mut().iter_mut().for_each(|value| *value = 255 - *value);
    ///     }
    ///     Ok(image)
    /// });
    /// ```
    pub fn map<F>(self, map: F) -> MappedImages<T, F, L>
    where
        F: Fn(Image<L>, &mut SampleContext) -> anyhow::Result<Image<L>> + Send + Sync + 'static,
    {
        MappedImages { folder: self, map }
    }
}

impl<T: Element, F, L: Send + 'static> Decode for MappedImages<T, F, L>
where
    F: Fn(Image<L>, &mut SampleContext) -> anyhow::Result<Image<L>> + Send + Sync + 'static,
{
    type Item = Image<L>;
    type Collate = StackImages<T>;

    fn decode(&self, sample: RawSample) -> anyhow::Result<Image<L>> {
        let mut context = SampleContext::of(&sample);
        (self.map)(self.folder.decode(sample)?, &mut context)
    }

    fn collate(&self) -> StackImages<T> {
        self.folder.collate()
    }

    fn wants_images(&self) -> bool {
        true
    }

    fn wants_labels(&self) -> bool {
        self.folder.wants_labels()
    }

    /// The function may change the size of an image.
    fn item_memory(&self) -> ItemMemory {
        ItemMemory::FromItems
    }

    /// The folder's image is scratch, since another one may come of it. An image that will be refused needs nothing.
    fn decode_memory(&self, sample: &RawSample) -> Option<DecodeMemory> {
        let memory = self.folder.decode_memory(sample).unwrap_or_default();
        Some(DecodeMemory { scratch: memory.item.saturating_add(memory.scratch), ..memory })
    }
}
