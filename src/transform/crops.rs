//! Steps that crop.

use anyhow::ensure;

use super::arguments::{check_range, check_size};
use super::operation::{ImageSize, Operation, OperationList};
use super::rng::SampleRng;
use crate::pixels::{Interpolation, Region};

/// Takes a part of a fixed size at a random place: torchvision's `RandomCrop`. No value is changed.
///
/// It draws two numbers: the row, then the column.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomCrop {
    /// Rows of the result.
    pub height: u32,
    /// Columns of the result.
    pub width: u32,
    /// Pixels that are added at each of the four sides before.
    pub padding: u32,
    /// Whether an image that is too small even so gets as many pixels more on both sides as are missing. If not, such
    /// an image is an error.
    pub pad_if_needed: bool,
    /// Values of the pixels that are added, one for each channel. Images with fewer channels use the first ones.
    pub fill: [u8; 4],
}

/// Takes a random part of random size and aspect ratio, and resizes it: torchvision's `RandomResizedCrop`.
///
/// Up to ten times it draws the part's area, then its aspect ratio, and ends with the first part that fits into the
/// image, whose row and column it draws next. If none does, it takes the largest part in the middle whose aspect ratio
/// is allowed. Values differ from those of Pillow as those of [`Resize`](super::Resize) do.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomResizedCrop {
    /// Rows of the result.
    pub height: u32,
    /// Columns of the result.
    pub width: u32,
    /// Smallest and largest area of the part, as a fraction of the image's. By default 0.08 to 1.
    pub scale: (f64, f64),
    /// Smallest and largest aspect ratio of the part, width by height, from 0.001 to 1,000. By default 3/4 to
    /// 4/3.
    pub ratio: (f64, f64),
    /// How pixels between pixels are computed.
    pub interpolation: Interpolation,
}

/// Takes the middle. See `Transforms::center_crop`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct CenterCrop {
    pub(super) height: u32,
    pub(super) width: u32,
}

impl CenterCrop {
    pub(super) fn output_size(&self) -> anyhow::Result<ImageSize> {
        check_size("center_crop", self.height, self.width)?;
        Ok(ImageSize { height: self.height, width: self.width })
    }

    pub(super) fn draw(&self, size: ImageSize, operations: &mut OperationList) {
        // Torchvision pads first, and rounds the halves of both differently.
        let start = |of: u32, wanted: u32| {
            let room = i64::from(of) - i64::from(wanted);
            if room < 0 { -(-room / 2) } else { (room as f64 / 2.0).round_ties_even() as i64 }
        };
        let (top, left) = (start(size.height, self.height), start(size.width, self.width));
        push_window(operations, size, top, left, self.height, self.width, [0; 4]);
    }
}

impl RandomCrop {
    /// Takes a part of the image itself. Smaller images are errors.
    pub fn new(height: u32, width: u32) -> Self {
        Self { height, width, padding: 0, pad_if_needed: false, fill: [0; 4] }
    }

    pub(super) fn output_size(&self, size: ImageSize) -> anyhow::Result<ImageSize> {
        let Self { height, width, padding, pad_if_needed, .. } = *self;
        check_size("random_crop", height, width)?;
        let padded = |length: u32| u64::from(length) + 2 * u64::from(padding);
        ensure!(
            pad_if_needed || padded(size.height) >= u64::from(height) && padded(size.width) >= u64::from(width),
            "random_crop: the image has {} x {} pixels (height x width) with its padding; wanted at least {height} x \
             {width}; resize it before, or set pad_if_needed",
            padded(size.height),
            padded(size.width)
        );
        Ok(ImageSize { height, width })
    }

    pub(super) fn draw(&self, size: ImageSize, rng: &mut SampleRng, operations: &mut OperationList) {
        let mut start = |length: u32, wanted: u32| {
            let (padding, wanted) = (i64::from(self.padding), i64::from(wanted));
            let padded = i64::from(length) + 2 * padding;
            let missing = (wanted - padded).max(0);
            let places = padded + 2 * missing - wanted + 1;
            rng.below(places as u64) as i64 - padding - missing
        };
        let (top, left) = (start(size.height, self.height), start(size.width, self.width));
        push_window(operations, size, top, left, self.height, self.width, self.fill);
    }
}

/// A window, which is a crop if the image has all of it.
fn push_window(
    operations: &mut OperationList,
    size: ImageSize,
    top: i64,
    left: i64,
    height: u32,
    width: u32,
    fill: [u8; 4],
) {
    let has = |start: i64, length: u32, of: u32| start >= 0 && start + i64::from(length) <= i64::from(of);
    if has(top, height, size.height) && has(left, width, size.width) {
        operations.push_crop(Region { top: top as u32, left: left as u32, height, width });
    } else {
        operations.push(Operation::Window { top, left, height, width, fill });
    }
}

impl RandomResizedCrop {
    /// Takes parts of 8 to 100% of the area, with aspect ratios of 3/4 to 4/3, and resizes them bilinearly with
    /// antialiasing.
    pub fn new(height: u32, width: u32) -> Self {
        let (scale, ratio) = ((0.08, 1.0), (3.0 / 4.0, 4.0 / 3.0));
        Self { height, width, scale, ratio, interpolation: Interpolation::default() }
    }

    pub(super) fn output_size(&self) -> anyhow::Result<ImageSize> {
        const STEP: &str = "random_resized_crop";
        check_size(STEP, self.height, self.width)?;
        check_range(STEP, "scale", self.scale, 0.0, 1.0)?;
        check_range(STEP, "ratio", self.ratio, 0.001, 1_000.0)?;
        Ok(ImageSize { height: self.height, width: self.width })
    }

    pub(super) fn draw(&self, size: ImageSize, rng: &mut SampleRng, operations: &mut OperationList) {
        let region = self.draw_region(size, rng);
        let Self { height, width, interpolation, .. } = *self;
        operations.push(Operation::CropAndResize { region, height, width, interpolation });
    }

    fn draw_region(&self, size: ImageSize, rng: &mut SampleRng) -> Region {
        /// Attempts, as in torchvision.
        const ATTEMPTS: u32 = 10;
        for _ in 0..ATTEMPTS {
            let area = size.pixels() as f64 * rng.uniform(self.scale.0, self.scale.1);
            let ratio = rng.uniform(self.ratio.0.ln(), self.ratio.1.ln()).exp();
            let width = (area * ratio).sqrt().round_ties_even() as u32;
            let height = (area / ratio).sqrt().round_ties_even() as u32;
            if (1..=size.width).contains(&width) && (1..=size.height).contains(&height) {
                let top = rng.below(u64::from(size.height - height) + 1) as u32;
                let left = rng.below(u64::from(size.width - width) + 1) as u32;
                return Region { top, left, height, width };
            }
        }

        let ratio = f64::from(size.width) / f64::from(size.height);
        let (height, width) = if ratio < self.ratio.0 {
            let height = f64::from(size.width) / self.ratio.0;
            ((height.round_ties_even() as u32).clamp(1, size.height), size.width)
        } else if ratio > self.ratio.1 {
            let width = f64::from(size.height) * self.ratio.1;
            (size.height, (width.round_ties_even() as u32).clamp(1, size.width))
        } else {
            (size.height, size.width)
        };
        Region { top: (size.height - height) / 2, left: (size.width - width) / 2, height, width }
    }
}
