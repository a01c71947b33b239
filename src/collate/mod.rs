//! From samples to a batch.

use std::ops::Deref;
use std::sync::Arc;

use crate::manifest::Manifest;
use crate::sample::SampleId;

/// Samples that one training step takes, and what was made of them.
///
/// Derefs to what was made: of raw samples a `Vec` of them, of an [`ImageFolder`](crate::ImageFolder) an [`Images`].
#[derive(Clone, Debug)]
pub struct Batch<T> {
    manifest: Arc<Manifest>,
    ids: Vec<SampleId>,
    data: T,
}

impl<T> Batch<T> {
    pub(crate) fn new(manifest: Arc<Manifest>, ids: Vec<SampleId>, data: T) -> Self {
        Self { manifest, ids, data }
    }

    /// Which samples these are, in order.
    pub fn ids(&self) -> &[SampleId] {
        &self.ids
    }

    /// Their objects' names, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &str> {
        self.ids.iter().map(|id| self.manifest.get(id.0).expect("ids are of this manifest").name)
    }

    /// Number of samples. 0 only where the last global batch has fewer samples than there are ranks.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether this rank has no sample of this step.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// What was made of the samples.
    pub fn into_inner(self) -> T {
        self.data
    }
}

impl<T> Deref for Batch<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

/// Makes one batch of samples. Runs on the decode threads.
///
/// Any `Fn(Vec<T>) -> anyhow::Result<B>` is one.
pub trait Collate<T>: Send + Sync + 'static {
    /// The batch.
    type Output: Send + 'static;

    /// Makes a batch of `samples`, which are in order. There are none where the last global batch has fewer samples than
    /// there are ranks; see [`DataLoaderBuilder::drop_last`](https://docs.rs/dataflux).
    ///
    /// # Errors
    /// They don't fit together.
    fn collate(&self, samples: Vec<T>) -> anyhow::Result<Self::Output>;
}

impl<F, T, B> Collate<T> for F
where
    F: Fn(Vec<T>) -> anyhow::Result<B> + Send + Sync + 'static,
    B: Send + 'static,
{
    type Output = B;

    fn collate(&self, samples: Vec<T>) -> anyhow::Result<B> {
        self(samples)
    }
}

/// Keeps the samples as they are, in a `Vec`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Samples;

impl<T: Send + 'static> Collate<T> for Samples {
    type Output = Vec<T>;

    fn collate(&self, samples: Vec<T>) -> anyhow::Result<Vec<T>> {
        Ok(samples)
    }
}

/// Images of one size, stacked, and their labels.
#[cfg(feature = "image")]
#[derive(Clone, Debug, PartialEq)]
pub struct Images {
    /// Image after image, each plane after plane, row after row.
    pub pixels: Vec<f32>,
    /// Images, channels, height, width: NCHW.
    pub shape: [usize; 4],
    /// One for each image: index in [`Manifest::labels`](crate::Manifest::labels).
    pub labels: Vec<i64>,
}

/// Stacks images into one array.
#[cfg(feature = "image")]
#[derive(Clone, Copy, Debug, Default)]
pub struct StackImages;

#[cfg(feature = "image")]
impl Collate<crate::decode::Image> for StackImages {
    type Output = Images;

    fn collate(&self, samples: Vec<crate::decode::Image>) -> anyhow::Result<Images> {
        let [channels, height, width] = samples.first().map_or([0; 3], |first| first.shape);
        let mut pixels = Vec::with_capacity(samples.iter().map(|image| image.pixels.len()).sum());
        let mut labels = Vec::with_capacity(samples.len());
        for image in &samples {
            let [other_channels, other_height, other_width] = image.shape;
            anyhow::ensure!(
                image.shape == [channels, height, width],
                "images of two sizes don't stack: {} has {channels}x{height}x{width} (channels, height, width) and {} \
                 has {other_channels}x{other_height}x{other_width}; bring all to one size with .resize(height, width)",
                samples[0].name,
                image.name,
            );
            pixels.extend_from_slice(&image.pixels);
            labels.push(image.label);
        }
        Ok(Images { pixels, shape: [samples.len(), channels, height, width], labels })
    }
}
