//! Steps as users ask for them.

use anyhow::ensure;

use super::arguments::check_probability;
use super::color_jitter::ColorJitter;
use super::crops::{CenterCrop, RandomCrop, RandomResizedCrop};
use super::gaussian_blur::GaussianBlur;
use super::operation::{ImageSize, Operation, OperationList};
use super::rand_augment::RandAugment;
use super::random_erasing::RandomErasing;
use super::resizes::{Fit, Resize, ResizeShorter, push_resize};
use super::rng::SampleRng;
use super::rotation::RandomRotation;

/// One step of [`Transforms`](super::Transforms), made from a struct of its parameters.
///
/// ```
/// use dataflux::{RandomCrop, Transforms};
///
/// let crop = RandomCrop { padding: 4, ..RandomCrop::new(32, 32) };
/// let transforms = Transforms::new().step(crop).horizontal_flip(0.5);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Step(StepKind);

#[derive(Clone, Debug, PartialEq)]
enum StepKind {
    Resize(Resize),
    ResizeShorter(ResizeShorter),
    Fit(Fit),
    CenterCrop(CenterCrop),
    RandomCrop(RandomCrop),
    RandomResizedCrop(RandomResizedCrop),
    HorizontalFlip { probability: f64 },
    VerticalFlip { probability: f64 },
    RandomRotation(RandomRotation),
    ColorJitter(ColorJitter),
    RandomGrayscale { probability: f64 },
    GaussianBlur(GaussianBlur),
    RandomErasing(RandomErasing),
    RandAugment(RandAugment),
}

/// Makes steps of structs whose step has their name.
macro_rules! steps_of {
    ($($kind:ident)+) => {
        $(impl From<$kind> for Step {
            fn from(step: $kind) -> Self {
                Self(StepKind::$kind(step))
            }
        })+
    };
}

steps_of!(Resize ResizeShorter Fit RandomCrop RandomResizedCrop RandomRotation ColorJitter GaussianBlur RandomErasing);
steps_of!(RandAugment);

/// The most pixels that a step may make of a smaller image: the limit above which Pillow refuses to open one. A narrow
/// image of a few kilobytes would otherwise become one of gigabytes when its shorter side is resized.
const MAX_PIXELS: u64 = 178_956_970;

impl Step {
    pub(super) fn center_crop(height: u32, width: u32) -> Self {
        Self(StepKind::CenterCrop(CenterCrop { height, width }))
    }

    pub(super) fn horizontal_flip(probability: f64) -> Self {
        Self(StepKind::HorizontalFlip { probability })
    }

    pub(super) fn vertical_flip(probability: f64) -> Self {
        Self(StepKind::VerticalFlip { probability })
    }

    pub(super) fn random_grayscale(probability: f64) -> Self {
        Self(StepKind::RandomGrayscale { probability })
    }

    /// Checks the parameters, and returns the size of what an image of this size becomes, which is not random.
    ///
    /// # Errors
    /// A parameter is wrong, or the step can't be applied to such an image.
    pub(super) fn output_size(&self, size: ImageSize) -> anyhow::Result<ImageSize> {
        let output = match &self.0 {
            StepKind::Resize(step) => step.output_size()?,
            StepKind::ResizeShorter(step) => step.output_size(size)?,
            StepKind::Fit(step) => step.output_size()?,
            StepKind::CenterCrop(step) => step.output_size()?,
            StepKind::RandomCrop(step) => step.output_size(size)?,
            StepKind::RandomResizedCrop(step) => step.output_size()?,
            StepKind::HorizontalFlip { probability } => {
                check_probability("horizontal_flip", *probability)?;
                size
            }
            StepKind::VerticalFlip { probability } => {
                check_probability("vertical_flip", *probability)?;
                size
            }
            StepKind::RandomGrayscale { probability } => {
                check_probability("random_grayscale", *probability)?;
                size
            }
            StepKind::RandomRotation(step) => step.check().map(|()| size)?,
            StepKind::ColorJitter(step) => step.check().map(|()| size)?,
            StepKind::GaussianBlur(step) => step.check().map(|()| size)?,
            StepKind::RandomErasing(step) => step.check().map(|()| size)?,
            StepKind::RandAugment(step) => step.check().map(|()| size)?,
        };
        ensure!(
            output.pixels() <= MAX_PIXELS.max(size.pixels()),
            "{}: an image of {} x {} pixels (height x width) would become one of {} x {}, more than {MAX_PIXELS} in \
             all; ask for a smaller size, or leave the image out",
            self.name(),
            size.height,
            size.width,
            output.height,
            output.width
        );
        Ok(output)
    }

    /// Bytes that the step holds at once at most, with the image that it is given and the one that it makes. `output`
    /// is the step's output size.
    pub(super) fn peak_bytes(&self, size: ImageSize, output: ImageSize, channels: u64) -> u64 {
        let bytes = |size: ImageSize| size.pixels().saturating_mul(channels);
        // Images that EXIF turns are resized on their stored axes, so either side may be resized first.
        let between = |from: ImageSize, to: ImageSize| {
            let across = u64::from(from.height) * u64::from(to.width);
            let along = u64::from(to.height) * u64::from(from.width);
            across.max(along).saturating_mul(channels)
        };
        let scratch = match &self.0 {
            // Colours and flips change values in place.
            StepKind::HorizontalFlip { .. }
            | StepKind::VerticalFlip { .. }
            | StepKind::RandomGrayscale { .. }
            | StepKind::ColorJitter(_)
            | StepKind::RandomErasing(_) => 0,
            // An image that is resized in one direction after the other, with the one between.
            StepKind::Resize(_) | StepKind::ResizeShorter(_) | StepKind::RandomResizedCrop(_) => {
                between(size, output).saturating_add(bytes(output))
            }
            // The resized image is at most as large as the padded one, and both are held at once.
            StepKind::Fit(_) => between(size, output).max(bytes(output)).saturating_add(bytes(output)),
            StepKind::CenterCrop(_)
            | StepKind::RandomCrop(_)
            | StepKind::RandomRotation(_)
            | StepKind::RandAugment(_) => bytes(output),
            StepKind::GaussianBlur(step) => bytes(output).saturating_add(step.row_bytes(size, channels)),
        };
        bytes(size).saturating_add(scratch)
    }

    /// Draws the operations for an image of this size.
    pub(super) fn draw(&self, size: ImageSize, rng: &mut SampleRng, operations: &mut OperationList) {
        match &self.0 {
            StepKind::Resize(Resize { height, width, interpolation }) => {
                push_resize(operations, size, ImageSize { height: *height, width: *width }, *interpolation);
            }
            StepKind::ResizeShorter(step) => {
                // The caller has checked the step, so there is a size.
                let target = step.output_size(size).unwrap_or(size);
                push_resize(operations, size, target, step.interpolation);
            }
            StepKind::Fit(step) => step.draw(size, operations),
            StepKind::CenterCrop(step) => step.draw(size, operations),
            StepKind::RandomCrop(step) => step.draw(size, rng, operations),
            StepKind::RandomResizedCrop(step) => step.draw(size, rng, operations),
            StepKind::HorizontalFlip { probability } => {
                if rng.happens(*probability) {
                    operations.push(Operation::FlipHorizontal);
                }
            }
            StepKind::VerticalFlip { probability } => {
                if rng.happens(*probability) {
                    operations.push(Operation::FlipVertical);
                }
            }
            StepKind::RandomRotation(step) => step.draw(rng, operations),
            StepKind::ColorJitter(step) => step.draw(rng, operations),
            StepKind::RandomGrayscale { probability } => {
                if rng.happens(*probability) {
                    operations.push(Operation::Grayscale);
                }
            }
            StepKind::GaussianBlur(step) => step.draw(rng, operations),
            StepKind::RandomErasing(step) => step.draw(size, rng, operations),
            StepKind::RandAugment(step) => step.draw(size, rng, operations),
        }
    }

    fn name(&self) -> &'static str {
        match &self.0 {
            StepKind::Resize(_) => "resize",
            StepKind::ResizeShorter(_) => "resize_shorter",
            StepKind::Fit(_) => "fit",
            StepKind::CenterCrop(_) => "center_crop",
            StepKind::RandomCrop(_) => "random_crop",
            StepKind::RandomResizedCrop(_) => "random_resized_crop",
            StepKind::HorizontalFlip { .. } => "horizontal_flip",
            StepKind::VerticalFlip { .. } => "vertical_flip",
            StepKind::RandomRotation(_) => "random_rotation",
            StepKind::ColorJitter(_) => "color_jitter",
            StepKind::RandomGrayscale { .. } => "random_grayscale",
            StepKind::GaussianBlur(_) => "gaussian_blur",
            StepKind::RandomErasing(_) => "random_erasing",
            StepKind::RandAugment(_) => "rand_augment",
        }
    }
}
