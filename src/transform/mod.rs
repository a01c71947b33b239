//! Transforms of images: crops, flips, colours. Each random choice is a function of the sample's seed.
//!
//! A [`Transforms`] is a list of steps. For one image it is first *drawn*: sizes and random numbers become a list of
//! concrete operations, which depends on the image's size and its seed alone. Then the operations are applied, to one
//! bitmap or to several that belong together, such as an image and its mask. All of it is pure.

mod rng;

pub use rng::SampleRng;

use anyhow::ensure;

use crate::pixels::{Bitmap, Interpolation, Region, resize};

/// Steps that change an image, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transforms {
    steps: Vec<Step>,
}

/// One step, as the user asks for it.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Resize { height: u32, width: u32, interpolation: Interpolation },
}

/// One step for one image: nothing about it is random any more.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operation {
    /// Takes a region and resizes it.
    CropAndResize { region: Region, height: u32, width: u32, interpolation: Interpolation },
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

    /// Resizes to `height` by `width` pixels, bilinear with antialiasing, whatever the aspect ratio.
    #[must_use]
    pub fn resize(mut self, height: u32, width: u32) -> Self {
        self.steps.push(Step::Resize { height, width, interpolation: Interpolation::default() });
        self
    }

    /// Height and width of what an image of this height and width becomes.
    pub(crate) fn output_size(&self, height: u32, width: u32) -> (u32, u32) {
        self.steps.iter().fold((height, width), |size, step| step.output_size(size))
    }

    /// Bytes that the steps hold at once at most, in addition to the image that they are given and including what it
    /// becomes. Each value of an image of this height and width is a byte.
    pub(crate) fn peak_bytes(&self, height: u32, width: u32, channels: u64) -> u64 {
        let bytes = |(height, width): (u32, u32)| u64::from(height) * u64::from(width) * channels;
        let mut size = (height, width);
        let mut peak = 0;
        for step in &self.steps {
            let next = step.output_size(size);
            // Resizing goes by rows first, and holds the rows that it makes.
            let between = bytes((size.0, next.1)).max(bytes((next.0, size.1)));
            peak = peak.max(bytes(size) + between + bytes(next));
            size = next;
        }
        peak
    }

    /// The operations for an image of `height` by `width` pixels.
    ///
    /// # Errors
    /// A step can't be applied to such an image.
    pub(crate) fn draw(&self, height: u32, width: u32, _rng: &mut SampleRng) -> anyhow::Result<Vec<Operation>> {
        let mut size = (height, width);
        let mut operations = Vec::with_capacity(self.steps.len());
        for step in &self.steps {
            let Step::Resize { height, width, interpolation } = *step;
            ensure!(
                height > 0 && width > 0,
                "resize({height}, {width}) leaves no pixel; height and width are at least 1"
            );
            let region = Region::whole(size.0, size.1);
            operations.push(Operation::CropAndResize { region, height, width, interpolation });
            size = step.output_size(size);
        }
        Ok(operations)
    }
}

impl Step {
    fn output_size(&self, _size: (u32, u32)) -> (u32, u32) {
        match *self {
            Self::Resize { height, width, .. } => (height, width),
        }
    }
}

impl Operation {
    /// Applies the operation to an image.
    ///
    /// # Errors
    /// The operation was drawn for an image of another size.
    pub(crate) fn apply(&self, image: Bitmap) -> anyhow::Result<Bitmap> {
        match *self {
            Self::CropAndResize { region, height, width, interpolation } => {
                resize(image, region, height, width, interpolation)
            }
        }
    }
}
