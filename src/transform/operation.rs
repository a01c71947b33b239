//! Drawn steps: nothing about them is random any more.

use crate::pixels::affine::{self, rotation_matrix};
use crate::pixels::window::{self, Fill};
use crate::pixels::{Bitmap, Interpolation, Region, color, filters, recycle, resize};

use super::rng::SampleRng;

/// What the values of a bitmap are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BitmapKind {
    /// Brightness of colours.
    Image,
    /// Numbers of classes, one for each pixel. Only operations that move pixels apply, and they compute no values
    /// between two.
    Mask {
        /// The class of pixels that the mask doesn't have.
        outside: u8,
    },
}

/// Rows and columns of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ImageSize {
    pub(super) height: u32,
    pub(super) width: u32,
}

impl ImageSize {
    pub(super) fn pixels(self) -> u64 {
        u64::from(self.height) * u64::from(self.width)
    }

    /// All of an image of this size.
    pub(super) fn region(self) -> Region {
        Region::whole(self.height, self.width)
    }
}

/// One step for one image, as it was drawn.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operation {
    /// Takes a region and resizes it.
    CropAndResize { region: Region, height: u32, width: u32, interpolation: Interpolation },
    /// Shows an image of this size whose first pixel lies at `top` and `left`, which may be outside.
    Window { top: i64, left: i64, height: u32, width: u32, fill: Fill },
    /// Mirrors left and right.
    FlipHorizontal,
    /// Mirrors top and bottom.
    FlipVertical,
    /// Rotates counter-clockwise around the centre.
    Rotate { degrees: f64, interpolation: Interpolation, fill: Fill },
    /// Moves each row by `x` for each row above it, and each column by `y` for each column before it.
    Shear { x: f64, y: f64, interpolation: Interpolation, fill: Fill },
    /// Multiplies all values.
    Brightness { factor: f64 },
    /// Moves values away from the mean.
    Contrast { factor: f64 },
    /// Moves colours away from grey.
    Saturation { factor: f64 },
    /// Turns the hue by a part of the circle.
    Hue { factor: f64 },
    /// Moves values away from those of the smoothed image.
    Sharpness { factor: f64 },
    /// Replaces colours by their luminance.
    Grayscale,
    /// Keeps the highest bits of values.
    Posterize { bits: u8 },
    /// Inverts values from a threshold on.
    Solarize { threshold: f64 },
    /// Stretches the values of each channel.
    Autocontrast,
    /// Flattens the histogram of each channel.
    Equalize,
    /// Blurs.
    Blur { kernel_size: u32, sigma: f64 },
    /// Overwrites a region with one colour.
    Erase { region: Region, fill: Fill },
    /// Overwrites a region with random values.
    EraseWithNoise { region: Region, seed: u64 },
}

impl Operation {
    /// Applies the operation to an image or a mask of the size that it was drawn for.
    ///
    /// # Errors
    /// The operation was drawn for an image of another size.
    pub(crate) fn apply(&self, mut image: Bitmap, kind: BitmapKind) -> anyhow::Result<Bitmap> {
        let drawn = |interpolation: Interpolation, fill: Fill| match kind {
            BitmapKind::Image => (interpolation, fill),
            BitmapKind::Mask { outside } => (Interpolation::Nearest, [outside; 4]),
        };
        match *self {
            Self::CropAndResize { region, height, width, interpolation } => {
                let (interpolation, _) = drawn(interpolation, Fill::default());
                return resize(image, region, height, width, interpolation);
            }
            Self::Window { top, left, height, width, fill } => {
                let (_, fill) = drawn(Interpolation::Nearest, fill);
                return replaced(image, |image| window::window(image, top, left, height, width, fill));
            }
            Self::Rotate { degrees, interpolation, fill } => {
                let (interpolation, fill) = drawn(interpolation, fill);
                let matrix = rotation_matrix(degrees, image.height(), image.width());
                return replaced(image, |image| affine::transform(image, matrix, interpolation, fill));
            }
            Self::Shear { x, y, interpolation, fill } => {
                let (interpolation, fill) = drawn(interpolation, fill);
                let matrix = [1.0, x, 0.0, y, 1.0, 0.0];
                return replaced(image, |image| affine::transform(image, matrix, interpolation, fill));
            }
            Self::FlipHorizontal => window::flip_horizontal(&mut image),
            Self::FlipVertical => window::flip_vertical(&mut image),

            // What follows changes values, of which a mask's are no colours.
            _ if matches!(kind, BitmapKind::Mask { .. }) => {}
            Self::Brightness { factor } => color::adjust_brightness(&mut image, factor),
            Self::Contrast { factor } => color::adjust_contrast(&mut image, factor),
            Self::Saturation { factor } => color::adjust_saturation(&mut image, factor),
            Self::Hue { factor } => color::adjust_hue(&mut image, factor),
            Self::Sharpness { factor } => filters::adjust_sharpness(&mut image, factor),
            Self::Grayscale => color::grayscale(&mut image),
            Self::Posterize { bits } => color::posterize(&mut image, bits),
            Self::Solarize { threshold } => color::solarize(&mut image, threshold),
            Self::Autocontrast => color::autocontrast(&mut image),
            Self::Equalize => color::equalize(&mut image),
            Self::Blur { kernel_size, sigma } => {
                return replaced(image, |image| filters::gaussian_blur(image, kernel_size, sigma));
            }
            Self::Erase { region, fill } => window::erase(&mut image, region, |channel| fill[channel])?,
            Self::EraseWithNoise { region, seed } => {
                let mut rng = SampleRng::new(seed);
                window::erase(&mut image, region, |_| rng.next_u64() as u8)?;
            }
        }
        Ok(image)
    }
}

impl Operation {
    /// The region of an image of `height` by `width` pixels that the operation reads, if it reads no more than a region
    /// and the size of the image means nothing to it.
    pub(crate) fn region_read(&self, height: u32, width: u32) -> Option<Region> {
        match *self {
            Self::CropAndResize { region, .. } => Some(region),
            Self::Window { top, left, height: rows, width: columns, .. } => {
                let common = |start: i64, length: u32, of: u32| {
                    let first = start.clamp(0, of.into());
                    let end = start.saturating_add(length.into()).clamp(first, of.into());
                    (first as u32, (end - first) as u32)
                };
                let ((top, height), (left, width)) = (common(top, rows, height), common(left, columns, width));
                (height > 0 && width > 0).then_some(Region { top, left, height, width })
            }
            _ => None,
        }
    }

    /// The operation that does the same with an image of which only the region that it [reads](Self::region_read) is
    /// left.
    pub(crate) fn on_region(self, read: Region) -> Self {
        match self {
            Self::CropAndResize { height, width, interpolation, .. } => {
                let region = Region::whole(read.height, read.width);
                Self::CropAndResize { region, height, width, interpolation }
            }
            Self::Window { top, left, height, width, fill } => {
                let (top, left) = (top - i64::from(read.top), left - i64::from(read.left));
                Self::Window { top, left, height, width, fill }
            }
            other => other,
        }
    }
}

/// What `make` makes of an image, whose memory serves another one.
fn replaced(image: Bitmap, make: impl FnOnce(&Bitmap) -> anyhow::Result<Bitmap>) -> anyhow::Result<Bitmap> {
    let made = make(&image)?;
    recycle(image.into_values());
    Ok(made)
}

/// Operations in order, of which neighbours are fused where that changes no pixel.
#[derive(Debug, Default)]
pub(super) struct OperationList(Vec<Operation>);

impl OperationList {
    pub(super) fn push(&mut self, operation: Operation) {
        let Operation::CropAndResize { region, height, width, interpolation } = operation else {
            self.0.push(operation);
            return;
        };
        // A crop and what follows it are one operation, which reads only the pixels of the crop in either case.
        if let Some(Operation::CropAndResize { region: crop, height: rows, width: columns, .. }) =
            self.0.last().cloned()
            && (crop.height, crop.width) == (rows, columns)
        {
            self.0.pop();
            let region = Region { top: crop.top + region.top, left: crop.left + region.left, ..region };
            self.0.push(Operation::CropAndResize { region, height, width, interpolation });
            return;
        }
        self.0.push(operation);
    }

    /// Takes a region as it is.
    pub(super) fn push_crop(&mut self, region: Region) {
        let Region { height, width, .. } = region;
        self.push(Operation::CropAndResize { region, height, width, interpolation: Interpolation::Nearest });
    }

    pub(super) fn into_operations(self) -> Vec<Operation> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_on_the_region_that_it_reads_makes_the_same_image() {
        let image = Bitmap::new(5, 7, 1, (0..35).collect()).unwrap();
        let window = |top, left, height, width| Operation::Window { top, left, height, width, fill: [99; 4] };
        let crop = |top, left, height, width, size| Operation::CropAndResize {
            region: Region { top, left, height, width },
            height: size,
            width: size,
            interpolation: Interpolation::Bilinear,
        };
        for operation in [
            window(-1, 2, 4, 9),
            window(3, -4, 1, 6),
            window(-2, -2, 20, 20),
            window(1, 1, 2, 2),
            crop(1, 2, 3, 4, 2),
            crop(1, 2, 3, 3, 3),
            crop(2, 0, 3, 7, 9),
        ] {
            let read = operation.region_read(5, 7).unwrap();
            let part = resize(image.clone(), read, read.height, read.width, Interpolation::Nearest).unwrap();
            let of_part = operation.clone().on_region(read).apply(part, BitmapKind::Image).unwrap();
            assert_eq!(of_part.values(), operation.apply(image.clone(), BitmapKind::Image).unwrap().values());
        }
        assert_eq!(window(5, 0, 4, 4).region_read(5, 7), None, "nothing of the image is in it");
        assert_eq!(window(i64::MAX, i64::MIN, 4, 4).region_read(5, 7), None);
        assert_eq!(Operation::FlipHorizontal.region_read(5, 7), None);
    }
}
