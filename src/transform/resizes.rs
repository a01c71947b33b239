//! Steps that resize whole images.

use anyhow::ensure;

use super::arguments::check_size;
use super::operation::{ImageSize, Operation, OperationList};
use crate::pixels::Interpolation;

/// Resizes to an exact size, whatever the aspect ratio: torchvision's `Resize((height, width))`.
///
/// Values differ from those of Pillow by at most 1 (bilinear) or 2 (bicubic), and by less than 0.05 on average. With
/// nearest interpolation they are the same. As all versions of Pillow before 13 do, it resizes along rows first, and
/// rounds before it resizes along columns. Version 13 begins with the columns where that is faster. There values differ
/// by about 0.2 on average, and more where bicubic ones are cut off at 0 or 255.
#[derive(Clone, Debug, PartialEq)]
pub struct Resize {
    /// Rows of the result.
    pub height: u32,
    /// Columns of the result.
    pub width: u32,
    /// How pixels between pixels are computed.
    pub interpolation: Interpolation,
}

/// Resizes so that the shorter side has a given length and the aspect ratio stays: torchvision's `Resize(side)`. The
/// longer side becomes `side * longer / shorter`, rounded down.
///
/// Values differ from those of Pillow as those of [`Resize`] do.
#[derive(Clone, Debug, PartialEq)]
pub struct ResizeShorter {
    /// Pixels of the shorter side of the result.
    pub side: u32,
    /// The largest length of the longer side, more than `side`. If it would become longer, both sides become shorter.
    pub max_size: Option<u32>,
    /// How pixels between pixels are computed.
    pub interpolation: Interpolation,
}

/// Resizes so that the whole image fits into a given size and the aspect ratio stays, and fills the rest: Pillow's
/// `ImageOps.pad`. The image is in the middle.
///
/// Values differ from those of Pillow as those of [`Resize`] do.
#[derive(Clone, Debug, PartialEq)]
pub struct Fit {
    /// Rows of the result.
    pub height: u32,
    /// Columns of the result.
    pub width: u32,
    /// Values of the pixels around the image, one for each channel. Images with fewer channels use the first ones.
    pub fill: [u8; 4],
    /// How pixels between pixels are computed.
    pub interpolation: Interpolation,
}

impl Resize {
    /// Resizes bilinearly, with antialiasing.
    pub fn new(height: u32, width: u32) -> Self {
        Self { height, width, interpolation: Interpolation::default() }
    }

    pub(super) fn output_size(&self) -> anyhow::Result<ImageSize> {
        check_size("resize", self.height, self.width)?;
        Ok(ImageSize { height: self.height, width: self.width })
    }
}

impl ResizeShorter {
    /// Resizes bilinearly, with antialiasing.
    pub fn new(side: u32) -> Self {
        Self { side, max_size: None, interpolation: Interpolation::default() }
    }

    pub(super) fn output_size(&self, size: ImageSize) -> anyhow::Result<ImageSize> {
        let Self { side, max_size, .. } = *self;
        ensure!(side > 0, "resize_shorter: side is 0, which leaves no pixel; wanted at least 1");
        let (shorter, longer) = (size.height.min(size.width), size.height.max(size.width));
        let (mut new_shorter, mut new_longer) =
            (u64::from(side), u64::from(side) * u64::from(longer) / u64::from(shorter.max(1)));
        if let Some(max_size) = max_size {
            ensure!(max_size > side, "resize_shorter: max_size is {max_size}; wanted more than side, which is {side}");
            if new_longer > u64::from(max_size) {
                new_shorter = (u64::from(max_size) * new_shorter / new_longer).max(1);
                new_longer = u64::from(max_size);
            }
        }
        let pixels = |length: u64| u32::try_from(length).unwrap_or(u32::MAX);
        let (new_shorter, new_longer) = (pixels(new_shorter), pixels(new_longer));
        Ok(if size.width <= size.height {
            ImageSize { height: new_longer, width: new_shorter }
        } else {
            ImageSize { height: new_shorter, width: new_longer }
        })
    }
}

impl Fit {
    /// Resizes bilinearly, with antialiasing.
    pub fn new(height: u32, width: u32, fill: [u8; 4]) -> Self {
        Self { height, width, fill, interpolation: Interpolation::default() }
    }

    pub(super) fn output_size(&self) -> anyhow::Result<ImageSize> {
        check_size("fit", self.height, self.width)?;
        Ok(ImageSize { height: self.height, width: self.width })
    }

    pub(super) fn draw(&self, size: ImageSize, operations: &mut OperationList) {
        let Self { height, width, fill, interpolation } = *self;
        let ratio = f64::from(size.width) / f64::from(size.height);
        let (rows, columns) = if ratio > f64::from(width) / f64::from(height) {
            let rows = f64::from(size.height) / f64::from(size.width) * f64::from(width);
            ((rows.round_ties_even() as u32).clamp(1, height), width)
        } else {
            (height, ((ratio * f64::from(height)).round_ties_even() as u32).clamp(1, width))
        };
        push_resize(operations, size, ImageSize { height: rows, width: columns }, interpolation);
        if (rows, columns) != (height, width) {
            let margin = |outer: u32, inner: u32| (f64::from(outer - inner) / 2.0).round_ties_even() as i64;
            let (top, left) = (-margin(height, rows), -margin(width, columns));
            operations.push(Operation::Window { top, left, height, width, fill });
        }
    }
}

/// Resizes a whole image, if that changes its size.
pub(super) fn push_resize(
    operations: &mut OperationList,
    size: ImageSize,
    target: ImageSize,
    interpolation: Interpolation,
) {
    if size != target {
        let ImageSize { height, width } = target;
        operations.push(Operation::CropAndResize { region: size.region(), height, width, interpolation });
    }
}
