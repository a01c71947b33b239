//! Transforms of images: crops, flips, colours. Each random choice is a function of the sample's seed.
//!
//! A [`Transforms`] is a list of steps. For one image it is first *drawn*: sizes and random numbers become a list of
//! concrete operations, which depends on the image's size and its seed alone. Then the operations are applied, to one
//! bitmap or to several that belong together, such as an image and its mask. All of it is pure.
//!
//! Steps have the names and parameters of torchvision's transforms (v2), and the results that torchvision gets for
//! images of Pillow, which differ from those for tensors: Pillow truncates fractions of colours where torchvision
//! rounds those of tensors, and has a single rule for the nearest neighbour.

mod arguments;
mod color_jitter;
mod crops;
mod gaussian_blur;
mod operation;
mod rand_augment;
mod random_erasing;
mod resizes;
mod rng;
mod rotation;
mod step;
#[cfg(test)]
mod tests;

pub use color_jitter::ColorJitter;
pub use crops::{RandomCrop, RandomResizedCrop};
pub use gaussian_blur::GaussianBlur;
pub(crate) use operation::{BitmapKind, Operation};
pub use rand_augment::RandAugment;
pub use random_erasing::{ErasedValue, RandomErasing};
pub use resizes::{Fit, Resize, ResizeShorter};
pub use rng::SampleRng;
pub use rotation::RandomRotation;
pub use step::Step;

use anyhow::ensure;
use operation::{ImageSize, OperationList};

use crate::pixels::Bitmap;

/// Steps that change an image, in order.
///
/// Each method appends a step with the usual parameters. For others, give [`step`](Self::step) the struct of the same
/// name. Wrong parameters, such as a probability of 2, are errors when a sample is decoded.
///
/// ```
/// use dataflux::{Bitmap, RandomResizedCrop, SampleRng, Transforms};
///
/// let train = Transforms::new()
///     .step(RandomResizedCrop { scale: (0.2, 1.0), ..RandomResizedCrop::new(224, 224) })
///     .horizontal_flip(0.5)
///     .rand_augment()
///     .random_erasing(0.25);
/// let validation = Transforms::new().resize_shorter(256).center_crop(224, 224);
///
/// let image = Bitmap::new(300, 400, 3, vec![128; 300 * 400 * 3])?;
/// let changed = train.apply(image, &mut SampleRng::new(42))?;
/// assert_eq!((changed.height(), changed.width()), (224, 224));
/// # Ok::<_, anyhow::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transforms {
    steps: Vec<Step>,
}

impl Transforms {
    /// No step.
    pub fn new() -> Self {
        Self::default()
    }

    /// These steps, and then those of `next`.
    #[must_use]
    pub fn then(mut self, next: Self) -> Self {
        self.steps.extend(next.steps);
        self
    }

    /// Appends a step with parameters of your own, such as [`RandomCrop`] or [`ColorJitter`].
    #[must_use]
    pub fn step(mut self, step: impl Into<Step>) -> Self {
        self.steps.push(step.into());
        self
    }

    /// Resizes to `height` by `width` pixels, bilinear with antialiasing, whatever the aspect ratio. See [`Resize`].
    #[must_use]
    pub fn resize(self, height: u32, width: u32) -> Self {
        self.step(Resize::new(height, width))
    }

    /// Resizes so that the shorter side has `side` pixels and the aspect ratio stays, bilinear with antialiasing. See
    /// [`ResizeShorter`].
    #[must_use]
    pub fn resize_shorter(self, side: u32) -> Self {
        self.step(ResizeShorter::new(side))
    }

    /// Resizes so that the whole image fits into `height` by `width` pixels and the aspect ratio stays, bilinear with
    /// antialiasing, and fills the rest with these values of the channels. See [`Fit`].
    #[must_use]
    pub fn fit(self, height: u32, width: u32, fill: [u8; 4]) -> Self {
        self.step(Fit::new(height, width, fill))
    }

    /// Takes `height` by `width` pixels in the middle of the image: torchvision's `CenterCrop`. A smaller image gets
    /// pixels of value 0 around it. No other value is changed.
    #[must_use]
    pub fn center_crop(self, height: u32, width: u32) -> Self {
        self.step(Step::center_crop(height, width))
    }

    /// Takes `height` by `width` pixels at a random place. A smaller image is an error. See [`RandomCrop`].
    #[must_use]
    pub fn random_crop(self, height: u32, width: u32) -> Self {
        self.step(RandomCrop::new(height, width))
    }

    /// Takes a random part of 8 to 100% of the area, with an aspect ratio of 3/4 to 4/3, and resizes it to `height` by
    /// `width` pixels. See [`RandomResizedCrop`].
    #[must_use]
    pub fn random_resized_crop(self, height: u32, width: u32) -> Self {
        self.step(RandomResizedCrop::new(height, width))
    }

    /// Mirrors left and right with this probability: torchvision's `RandomHorizontalFlip`. It draws one number.
    #[must_use]
    pub fn horizontal_flip(self, probability: f64) -> Self {
        self.step(Step::horizontal_flip(probability))
    }

    /// Mirrors top and bottom with this probability: torchvision's `RandomVerticalFlip`. It draws one number.
    #[must_use]
    pub fn vertical_flip(self, probability: f64) -> Self {
        self.step(Step::vertical_flip(probability))
    }

    /// Rotates by up to `degrees` in both directions, with nearest interpolation, and leaves the corners black. See
    /// [`RandomRotation`].
    #[must_use]
    pub fn random_rotation(self, degrees: f64) -> Self {
        self.step(RandomRotation::new(degrees))
    }

    /// Changes brightness, contrast, saturation and hue by up to these amounts. See [`ColorJitter`].
    #[must_use]
    pub fn color_jitter(self, brightness: f64, contrast: f64, saturation: f64, hue: f64) -> Self {
        self.step(ColorJitter::new(brightness, contrast, saturation, hue))
    }

    /// Replaces colours by their luminance with this probability, and keeps the number of channels: torchvision's
    /// `RandomGrayscale`, and with a probability of 1 its `Grayscale`. It draws one number. Values are those of Pillow.
    #[must_use]
    pub fn random_grayscale(self, probability: f64) -> Self {
        self.step(Step::random_grayscale(probability))
    }

    /// Blurs with a kernel of `kernel_size` pixels, which is odd, and a random deviation of 0.1 to 2 pixels. See
    /// [`GaussianBlur`].
    #[must_use]
    pub fn gaussian_blur(self, kernel_size: u32) -> Self {
        self.step(GaussianBlur::new(kernel_size))
    }

    /// Overwrites a random rectangle of 2 to 33% of the area with 0, with this probability. See [`RandomErasing`].
    #[must_use]
    pub fn random_erasing(self, probability: f64) -> Self {
        self.step(RandomErasing::new(probability))
    }

    /// Applies two random operations of magnitude 9 of 31. See [`RandAugment`].
    #[must_use]
    pub fn rand_augment(self) -> Self {
        self.step(RandAugment::new())
    }

    /// Applies the steps to an image, for decoders of your own. Numbers are drawn for one step after the other, in the
    /// order that each step documents.
    ///
    /// ```
    /// use dataflux::{Bitmap, RawSample, SampleRng, Transforms};
    ///
    /// let transforms = Transforms::new().random_crop(28, 28).horizontal_flip(0.5);
    /// // Digits of 32 x 32 pixels, without any header.
    /// let decode = move |sample: RawSample| -> anyhow::Result<Vec<u8>> {
    ///     let image = Bitmap::new(32, 32, 1, sample.bytes().to_vec())?;
    ///     let image = transforms.apply(image, &mut SampleRng::new(sample.rng_seed()))?;
    ///     Ok(image.into_values())
    /// };
    /// ```
    ///
    /// # Errors
    /// A parameter of a step is wrong, or a step can't be applied to such an image. The error names the step.
    pub fn apply(&self, image: Bitmap, rng: &mut SampleRng) -> anyhow::Result<Bitmap> {
        let operations = self.draw(image.height(), image.width(), rng)?;
        operations.iter().try_fold(image, |image, operation| operation.apply(image, BitmapKind::Image))
    }

    /// Applies the steps to an image and its mask, whose values are numbers of classes. Both are cropped, flipped and
    /// turned alike. The mask is resized with nearest interpolation, and colours, blur and erasure leave it as it is.
    /// Pixels that the mask doesn't have, such as the corners of a rotated one, are of the class `outside`.
    ///
    /// ```
    /// use dataflux::{Bitmap, SampleRng, Transforms};
    ///
    /// let transforms = Transforms::new().random_resized_crop(64, 64).color_jitter(0.4, 0.4, 0.4, 0.1);
    /// let image = Bitmap::new(80, 100, 3, vec![128; 80 * 100 * 3])?;
    /// let mask = Bitmap::new(80, 100, 1, vec![7; 80 * 100])?;
    /// let (image, mask) = transforms.apply_with_mask(image, mask, 255, &mut SampleRng::new(42))?;
    /// assert_eq!(mask.values(), [7; 64 * 64]);
    /// # Ok::<_, anyhow::Error>(())
    /// ```
    ///
    /// # Errors
    /// As of [`apply`](Self::apply), and if image and mask are not of one size.
    pub fn apply_with_mask(
        &self,
        image: Bitmap,
        mask: Bitmap,
        outside: u8,
        rng: &mut SampleRng,
    ) -> anyhow::Result<(Bitmap, Bitmap)> {
        ensure!(
            (image.height(), image.width()) == (mask.height(), mask.width()),
            "the image has {} x {} pixels (height x width) and its mask {} x {}; wanted the same",
            image.height(),
            image.width(),
            mask.height(),
            mask.width()
        );
        let operations = self.draw(image.height(), image.width(), rng)?;
        operations.iter().try_fold((image, mask), |(image, mask), operation| {
            let image = operation.apply(image, BitmapKind::Image)?;
            Ok((image, operation.apply(mask, BitmapKind::Mask { outside })?))
        })
    }

    /// The size that an image of this height and width gets. It doesn't depend on random numbers. `None` if a step can't
    /// be applied to it.
    pub(crate) fn output_size(&self, height: u32, width: u32) -> Option<(u32, u32)> {
        let size = ImageSize { height, width };
        let output = self.steps.iter().try_fold(size, |size, step| step.output_size(size)).ok()?;
        Some((output.height, output.width))
    }

    /// Bytes that the steps hold at once at most, including the image that they are given and what it becomes. Each
    /// value of an image of this height and width is a byte. `None` if a step can't be applied to it.
    pub(crate) fn peak_bytes(&self, height: u32, width: u32, channels: u64) -> Option<u64> {
        let mut size = ImageSize { height, width };
        let mut peak = 0;
        for step in &self.steps {
            let output = step.output_size(size).ok()?;
            peak = peak.max(step.peak_bytes(size, output, channels));
            size = output;
        }
        Some(peak)
    }

    /// The operations for an image of `height` by `width` pixels.
    ///
    /// # Errors
    /// A parameter of a step is wrong, or a step can't be applied to such an image.
    pub(crate) fn draw(&self, height: u32, width: u32, rng: &mut SampleRng) -> anyhow::Result<Vec<Operation>> {
        let mut size = ImageSize { height, width };
        let mut operations = OperationList::default();
        for step in &self.steps {
            let output = step.output_size(size)?;
            step.draw(size, rng, &mut operations);
            size = output;
        }
        Ok(operations.into_operations())
    }
}
