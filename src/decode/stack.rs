//! Stacks images into one array.

use std::marker::PhantomData;

use anyhow::bail;

use super::image::Image;
use crate::collate::{BatchBuffer, Collate, CollateContext};
use crate::pixels::{Element, Layout, Normalization, recycle, write};

/// Stacked images of one size, and their labels.
///
/// `L` is the type of a label: the number of a class, or another [target](crate::ImageFolder::targets).
#[derive(Clone, Debug, PartialEq)]
pub struct Images<T = f32, L = i64> {
    /// Image after image, in the order of `shape`.
    pub pixels: BatchBuffer<T>,
    /// Number of images, channels, height, width (NCHW), or with [`Layout::Nhwc`] images, height, width, channels.
    pub shape: [usize; 4],
    /// One for each image: index in [`Manifest::labels`](crate::Manifest::labels), unless the decoder was given other
    /// targets.
    pub labels: Vec<L>,
}

/// A [`Collate`] that stacks images into one array. Floats are from 0 to 1, or normalized; `u8` values stay from 0 to 255.
/// It writes each image once, and needs no other pass over them.
#[derive(Clone, Debug, PartialEq)]
pub struct StackImages<T = f32> {
    pub(super) normalization: Normalization,
    pub(super) layout: Layout,
    element: PhantomData<fn() -> T>,
}

impl<T> Default for StackImages<T> {
    fn default() -> Self {
        Self { normalization: Normalization::default(), layout: Layout::default(), element: PhantomData }
    }
}

impl StackImages {
    /// Stacks images into an array of `f32` from 0 to 1, in the order NCHW.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<T: Element> StackImages<T> {
    /// See [`ImageFolder::normalize`](crate::ImageFolder::normalize).
    #[must_use]
    pub fn normalize(mut self, mean: &[f32], std: &[f32]) -> Self {
        self.normalization = Normalization::new(mean, std);
        self
    }

    /// See [`ImageFolder::layout`](crate::ImageFolder::layout).
    #[must_use]
    pub fn layout(mut self, layout: Layout) -> Self {
        self.layout = layout;
        self
    }

    /// See [`ImageFolder::elements`](crate::ImageFolder::elements).
    #[must_use]
    pub fn elements<U: Element>(self) -> StackImages<U> {
        StackImages { normalization: self.normalization, layout: self.layout, element: PhantomData }
    }
}

impl<T: Element, L: Send + 'static> Collate<Image<L>> for StackImages<T> {
    type Output = Images<T, L>;

    fn collate(&self, samples: Vec<Image<L>>) -> anyhow::Result<Images<T, L>> {
        self.collate_with(samples, &CollateContext::default())
    }

    fn collate_with(&self, samples: Vec<Image<L>>, context: &CollateContext) -> anyhow::Result<Images<T, L>> {
        let Some(first) = samples.first() else {
            return Ok(Images { pixels: BatchBuffer::default(), shape: [0; 4], labels: Vec::new() });
        };
        let (height, width, channels) = (first.bitmap.height(), first.bitmap.width(), first.bitmap.channels());
        if let Some(other) = samples.iter().find(|image| {
            (image.bitmap.height(), image.bitmap.width(), image.bitmap.channels()) != (height, width, channels)
        }) {
            let of = |image: &Image<L>| {
                let Image { bitmap, name, .. } = image;
                format!("{name} has {}x{}x{}", bitmap.channels(), bitmap.height(), bitmap.width())
            };
            bail!(
                "images of two sizes don't stack: {} (channels, height, width) and {}; bring all to one size with \
                 .resize(height, width), or in the step given to map",
                of(first),
                of(other),
            );
        }
        self.normalization.check::<T>(channels.into())?;

        let count = first.bitmap.values().len();
        let mut pixels = context.buffer::<T>(samples.len() * count);
        let mut labels = Vec::with_capacity(samples.len());
        for (image, place) in samples.into_iter().zip(pixels.chunks_exact_mut(count)) {
            write(&image.bitmap, &self.normalization, self.layout, place);
            recycle(image.bitmap.into_values());
            labels.push(image.label);
        }
        let [a, b, c] = self.layout.shape(channels.into(), height as usize, width as usize);
        Ok(Images { pixels, shape: [labels.len(), a, b, c], labels })
    }

    fn copied_bytes(&self, item_bytes: u64) -> u64 {
        <Self as Collate<Image<L>>>::batch_bytes(self, item_bytes)
    }

    fn batch_bytes(&self, item_bytes: u64) -> u64 {
        item_bytes.saturating_mul(size_of::<T>() as u64)
    }
}
