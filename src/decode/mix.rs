//! Mixes the images of a batch with each other: mixup and CutMix.

use anyhow::{anyhow, ensure};

use super::image::Image;
use super::stack::{Images, StackImages};
use crate::collate::{Collate, CollateContext};
use crate::pixels::{Element, Layout, Region};
use crate::transform::SampleRng;

/// A [`Collate`] that mixes each image of a batch with the one before it, and their labels in the same proportion. The
/// first image is mixed with the last.
///
/// The label of an image becomes a `Vec` of the share of each class.
///
/// [`mixup`](Self::mixup) blends whole images, and [`cutmix`](Self::cutmix) pastes a part of the other image. If both
/// are set, one of them is chosen for each batch, either with the same probability. They do the same as `MixUp` and
/// `CutMix` of torchvision (v2). What is random is drawn once for a batch and is a function of
/// [`CollateContext::seed`].
///
/// The images are stacked first, and then mixed in place: that is one more pass over the batch for mixup, and less for
/// CutMix.
///
/// ```no_run
/// use dataflux::{DatafluxDataset, Decode, ImageFolder, MixImages};
///
/// let folder = ImageFolder::new().resize(224, 224);
/// let mix = MixImages::new(folder.collate(), 1_000).mixup(0.2).cutmix(1.0);
/// let dataset = DatafluxDataset::open("gs://my-bucket/train/")?.decode(folder).collate(mix);
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct MixImages<T = f32> {
    stack: StackImages<T>,
    classes: usize,
    mixup: Option<f64>,
    cutmix: Option<f64>,
}

/// How the images of a batch are mixed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Mix {
    /// The share that an image keeps of its own values.
    Blend(f32),
    /// The part of an image that is replaced by that of the other image.
    Paste(Region),
}

impl<T: Element> MixImages<T> {
    /// Mixes the images that `stack` stacks, whose labels are below `classes`. Without [`mixup`](Self::mixup) and
    /// [`cutmix`](Self::cutmix) images stay what they are.
    pub fn new(stack: StackImages<T>, classes: usize) -> Self {
        Self { stack, classes, mixup: None, cutmix: None }
    }

    /// Blends images: each keeps a share of itself that is drawn from the beta distribution with both parameters
    /// `alpha`, which must be positive; otherwise collating fails. Small values, such as 0.2, leave most batches nearly
    /// unmixed; 1 makes all shares equally likely.
    #[must_use]
    pub fn mixup(self, alpha: f64) -> Self {
        Self { mixup: Some(alpha), ..self }
    }

    /// Pastes a rectangle of one image at the same place of another. The rectangle's share of the area is drawn as in
    /// [`mixup`](Self::mixup), and its centre anywhere; what lies outside the image is cut off.
    #[must_use]
    pub fn cutmix(self, alpha: f64) -> Self {
        Self { cutmix: Some(alpha), ..self }
    }

    /// Draws how to mix images of this size.
    fn draw(&self, height: u32, width: u32, rng: &mut SampleRng) -> anyhow::Result<Option<Mix>> {
        for (name, alpha) in [("mixup", self.mixup), ("cutmix", self.cutmix)] {
            if let Some(alpha) = alpha {
                ensure!(alpha > 0.0 && alpha.is_finite(), "{name}() wants a positive number, and got {alpha}");
            }
        }
        Ok(match (self.mixup, self.cutmix) {
            (None, None) => None,
            (Some(mixup), Some(cutmix)) => {
                Some(if rng.happens(0.5) { Mix::blend(mixup, rng) } else { Mix::paste(cutmix, height, width, rng) })
            }
            (Some(mixup), None) => Some(Mix::blend(mixup, rng)),
            (None, Some(cutmix)) => Some(Mix::paste(cutmix, height, width, rng)),
        })
    }
}

impl Mix {
    fn blend(alpha: f64, rng: &mut SampleRng) -> Self {
        Self::Blend(rng.symmetric_beta(alpha) as f32)
    }

    fn paste(alpha: f64, height: u32, width: u32, rng: &mut SampleRng) -> Self {
        let side = 0.5 * (1.0 - rng.symmetric_beta(alpha)).sqrt();
        // Where a side of the rectangle begins, and how long it is.
        let mut along = |length: u32| {
            let centre = rng.below(length.into()) as u32;
            let half = (side * f64::from(length)) as u32;
            let start = centre.saturating_sub(half);
            (start, (centre + half).min(length) - start)
        };
        let ((left, width), (top, height)) = (along(width), along(height));
        Self::Paste(Region { top, left, height, width })
    }

    /// Mixes each of `images` images with the one before it.
    fn apply<T: Element>(self, pixels: &mut [T], images: usize, layout: Layout, height: usize, width: usize) {
        let Some(count) = pixels.len().checked_div(images).filter(|count| *count > 0) else { return };
        // Backwards, so that the image before is still unmixed. For the first one it is a copy of the last.
        let last = pixels[pixels.len() - count..].to_vec();
        for image in (1..images).rev() {
            let (before, from_here) = pixels.split_at_mut(image * count);
            self.mix(&mut from_here[..count], &before[(image - 1) * count..], layout, height, width);
        }
        self.mix(&mut pixels[..count], &last, layout, height, width);
    }

    /// Mixes one image with another.
    fn mix<T: Element>(self, image: &mut [T], other: &[T], layout: Layout, height: usize, width: usize) {
        match self {
            Self::Blend(share) => {
                for (value, other) in image.iter_mut().zip(other) {
                    *value = value.blend(*other, share);
                }
            }
            Self::Paste(region) => {
                // Rows of an image in the order NHWC have the channels of a pixel side by side.
                let (planes, values) = match layout {
                    Layout::Nchw => (image.len() / (height * width), 1),
                    Layout::Nhwc => (1, image.len() / (height * width)),
                };
                let (left, columns) = (region.left as usize * values, region.width as usize * values);
                for plane in 0..planes {
                    for row in region.top as usize..(region.top + region.height) as usize {
                        let start = (plane * height + row) * width * values + left;
                        image[start..start + columns].copy_from_slice(&other[start..start + columns]);
                    }
                }
            }
        }
    }

    /// The share of its own area that an image of this many pixels keeps.
    fn share(self, pixels: u64) -> f32 {
        match self {
            Self::Blend(share) => share,
            Self::Paste(Region { height, width, .. }) => {
                (1.0 - (u64::from(height) * u64::from(width)) as f64 / pixels as f64) as f32
            }
        }
    }
}

impl<T: Element> Collate<Image> for MixImages<T> {
    type Output = Images<T, Vec<f32>>;

    /// As [`collate_with`](Collate::collate_with) of the batch with seed 0.
    fn collate(&self, samples: Vec<Image>) -> anyhow::Result<Images<T, Vec<f32>>> {
        self.collate_with(samples, &CollateContext::default())
    }

    fn collate_with(&self, samples: Vec<Image>, context: &CollateContext) -> anyhow::Result<Images<T, Vec<f32>>> {
        let classes = self.classes;
        let own = |image: &Image| {
            let label = usize::try_from(image.label).ok().filter(|label| *label < classes);
            label.ok_or_else(|| {
                let Image { name, label, .. } = image;
                anyhow!(
                    "{name} has the label {label}, and MixImages was given {classes} classes; give it the number of \
                     classes, of which every label is an index"
                )
            })
        };
        let own: Vec<usize> = samples.iter().map(own).collect::<Result<_, _>>()?;
        let (height, width) = samples.first().map_or((0, 0), |Image { bitmap, .. }| (bitmap.height(), bitmap.width()));
        let Images { mut pixels, shape, .. } = self.stack.collate_with(samples, context)?;

        let mut share = 1.0;
        if let Some(mix) = self.draw(height, width, &mut SampleRng::new(context.seed))? {
            share = mix.share(u64::from(height) * u64::from(width));
            mix.apply(&mut pixels, own.len(), self.stack.layout, height as usize, width as usize);
        }
        let others = own.iter().cycle().skip(own.len().saturating_sub(1));
        let mixed = |(own, other): (&usize, &usize)| {
            let mut label = vec![0.0; classes];
            label[*own] += share;
            label[*other] += 1.0 - share;
            label
        };
        let labels = own.iter().zip(others).map(mixed).collect();
        Ok(Images { pixels, shape, labels })
    }

    fn copied_bytes(&self, item_bytes: u64) -> u64 {
        self.batch_bytes(item_bytes)
    }

    fn batch_bytes(&self, item_bytes: u64) -> u64 {
        let label_bytes = (size_of::<Vec<f32>>() + self.classes * size_of::<f32>()) as u64;
        Collate::<Image>::batch_bytes(&self.stack, item_bytes).saturating_add(label_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::Bitmap;

    const SIDE: u32 = 8;

    /// Images of 8x8 pixels and three channels, each of one value, with labels from 0.
    fn images(values: &[u8]) -> Vec<Image> {
        let image = |(label, value): (usize, &u8)| {
            let bitmap = Bitmap::new(SIDE, SIDE, 3, vec![*value; (SIDE * SIDE * 3) as usize]).unwrap();
            Image { bitmap, label: label as i64, name: format!("p/{label}") }
        };
        values.iter().enumerate().map(image).collect()
    }

    fn context(seed: u64) -> CollateContext {
        CollateContext { seed, ..CollateContext::default() }
    }

    #[test]
    fn mixup_blends_each_image_with_the_one_before_it() {
        let mix = MixImages::new(StackImages::new(), 4).mixup(1.0);
        let values = [0, 51, 102, 255];
        let mut shares = Vec::new();
        for seed in 0..20 {
            let mixed = mix.collate_with(images(&values), &context(seed)).unwrap();
            assert_eq!(mixed.shape, [4, 3, 8, 8]);
            // The label says what the share is, and the pixels must have the same.
            let share = mixed.labels[0][0];
            for (image, pixels) in mixed.pixels.chunks_exact(3 * 64).enumerate() {
                let other = (image + 3) % 4;
                let mut label = [0.0; 4];
                label[image] = share;
                label[other] = 1.0 - share;
                assert_eq!(mixed.labels[image], label, "seed {seed}");
                let wanted = (f32::from(values[image]) * share + f32::from(values[other]) * (1.0 - share)) / 255.0;
                assert!(
                    pixels.iter().all(|value| (value - wanted).abs() < 1e-6),
                    "seed {seed}: {} {wanted}",
                    pixels[0]
                );
            }
            shares.push(share);
        }
        assert!(shares.iter().any(|share| *share < 0.3) && shares.iter().any(|share| *share > 0.7), "{shares:?}");
    }

    #[test]
    fn cutmix_replaces_a_rectangle_in_either_layout() {
        for layout in [Layout::Nchw, Layout::Nhwc] {
            let mix = MixImages::new(StackImages::new().layout(layout).elements::<u8>(), 2).cutmix(1.0);
            let mut partial = 0;
            for seed in 0..50 {
                let mixed = mix.collate_with(images(&[10, 20]), &context(seed)).unwrap();
                let pasted: Vec<(u32, u32)> = (0..SIDE)
                    .flat_map(|row| (0..SIDE).map(move |column| (row, column)))
                    .filter(|(row, column)| {
                        let at = |channel: u32| match layout {
                            Layout::Nchw => (channel * SIDE + row) * SIDE + column,
                            Layout::Nhwc => (row * SIDE + column) * 3 + channel,
                        };
                        let values = [0, 1, 2].map(|channel| mixed.pixels[at(channel) as usize]);
                        assert!(values == [10; 3] || values == [20; 3], "{values:?}");
                        values == [20; 3]
                    })
                    .collect();
                // What was pasted is a rectangle, and its share of the area is that of the label.
                let count =
                    |of: fn(&(u32, u32)) -> u32| pasted.iter().map(of).collect::<std::collections::BTreeSet<_>>().len();
                assert_eq!(count(|at| at.0) * count(|at| at.1), pasted.len());
                let [own, other] = *mixed.labels[0] else { panic!("{:?}", mixed.labels) };
                assert!((own + other - 1.0).abs() < 1e-6);
                assert!((other - pasted.len() as f32 / 64.0).abs() < 1e-6);
                partial += usize::from((1..64).contains(&pasted.len()));
            }
            assert!(partial > 20, "{partial}");
        }
    }

    #[test]
    fn a_batch_is_a_function_of_its_seed() {
        let mix = MixImages::new(StackImages::new(), 3).mixup(0.4).cutmix(1.0);
        let of = |seed| mix.collate_with(images(&[0, 100, 200]), &context(seed)).unwrap();
        assert_eq!(of(7), of(7));
        let differing = (0..20).filter(|seed| of(*seed) != of(seed + 1)).count();
        assert!(differing > 15, "{differing}");
        // These numbers are frozen, as those of the transforms are.
        let shares: Vec<u32> = (0..6).map(|seed| (of(seed).labels[0][0] * 1e6) as u32).collect();
        assert_eq!(shares, [937_500, 937_500, 531_250, 536_888, 1_198, 463_896]);
    }

    #[test]
    fn batches_without_partners_and_wrong_parameters() {
        let mix = MixImages::new(StackImages::new(), 1).mixup(1.0);
        let alone = mix.collate(images(&[255])).unwrap();
        assert_eq!(alone.labels, [[1.0]]);
        assert!(alone.pixels.iter().all(|value| (value - 1.0).abs() < 1e-6));
        assert_eq!(mix.collate(Vec::new()).unwrap().labels, Vec::<Vec<f32>>::new());

        let error = mix.collate(images(&[1, 2])).unwrap_err().to_string();
        assert!(error.contains("p/1 has the label 1, and MixImages was given 1 classes"), "{error}");
        for alpha in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            let error =
                MixImages::new(StackImages::new(), 2).cutmix(alpha).collate(images(&[1])).unwrap_err().to_string();
            assert!(error.contains("cutmix() wants a positive number"), "{error}");
        }
        assert_eq!(MixImages::new(StackImages::new(), 2).collate(images(&[51])).unwrap().labels, [[1.0, 0.0]]);
    }
}
