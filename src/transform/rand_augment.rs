//! The step that picks operations of a fixed list.

use anyhow::ensure;

use super::operation::{ImageSize, Operation, OperationList};
use super::rng::SampleRng;
use super::rotation::check_interpolation;
use crate::pixels::Interpolation;

/// Applies randomly picked operations of one magnitude: torchvision's `RandAugment`.
///
/// Each of `num_ops` picks is one of 14: no change, shear and translation in both directions, rotation, brightness,
/// saturation, contrast, sharpness, posterization, solarization, stretched contrast, and equalized histograms. For each
/// it draws one number, which operation, and, for those up to sharpness that have a sign, another one for the sign.
/// Values are those of Pillow.
#[derive(Clone, Debug, PartialEq)]
pub struct RandAugment {
    /// How many operations are picked for each image. By default 2, and at most 100.
    pub num_ops: u32,
    /// How strong they are, from 0 to `num_magnitude_bins`, exclusive. By default 9.
    pub magnitude: u32,
    /// The number of magnitudes, at least 2. By default 31.
    pub num_magnitude_bins: u32,
    /// How rotations and shears compute pixels between pixels: nearest, as in torchvision by default, or bilinear.
    pub interpolation: Interpolation,
    /// Values of the pixels that the image doesn't have, one for each channel. Images with fewer channels use the
    /// first ones.
    pub fill: [u8; 4],
}

impl Default for RandAugment {
    fn default() -> Self {
        let interpolation = Interpolation::Nearest;
        Self { num_ops: 2, magnitude: 9, num_magnitude_bins: 31, interpolation, fill: [0; 4] }
    }
}

/// Most operations for one image. With many fewer there is nothing left to be seen, and a mistaken number doesn't
/// keep a decode thread busy for ever.
const MAX_NUM_OPS: u32 = 100;

impl RandAugment {
    /// Two operations of magnitude 9 of 31, with nearest interpolation and black pixels outside.
    pub fn new() -> Self {
        Self::default()
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        let Self { num_ops, magnitude, num_magnitude_bins, interpolation, .. } = *self;
        ensure!(num_ops <= MAX_NUM_OPS, "rand_augment: num_ops is {num_ops}; wanted a number from 0 to {MAX_NUM_OPS}");
        ensure!(num_magnitude_bins >= 2, "rand_augment: num_magnitude_bins is {num_magnitude_bins}; wanted at least 2");
        ensure!(
            magnitude < num_magnitude_bins,
            "rand_augment: magnitude is {magnitude}; wanted less than num_magnitude_bins, which is {num_magnitude_bins}"
        );
        check_interpolation("rand_augment", interpolation)
    }

    pub(super) fn draw(&self, size: ImageSize, rng: &mut SampleRng, operations: &mut OperationList) {
        for _ in 0..self.num_ops {
            if let Some(operation) = self.draw_one(size, rng) {
                operations.push(operation);
            }
        }
    }

    fn draw_one(&self, size: ImageSize, rng: &mut SampleRng) -> Option<Operation> {
        /// Operations of the list, and the range of those whose magnitude has a sign.
        const OPERATIONS: u64 = 14;
        const SIGNED: std::ops::RangeInclusive<u64> = 1..=9;
        let picked = rng.below(OPERATIONS);
        let sign = if SIGNED.contains(&picked) && rng.happens(0.5) { -1.0 } else { 1.0 };

        let Self { interpolation, fill, .. } = *self;
        let fraction = f64::from(self.magnitude) / f64::from(self.num_magnitude_bins - 1);
        let factor = 1.0 + sign * fraction * 0.9;
        let shear = sign * fraction * 0.3;
        let ImageSize { height, width } = size;
        // An image that moves to the right shows what lies to its left.
        let distance = |length: u32| -(sign * fraction * (150.0 / 331.0) * f64::from(length)) as i64;
        Some(match picked {
            0 => return None,
            1 => Operation::Shear { x: shear, y: 0.0, interpolation, fill },
            2 => Operation::Shear { x: 0.0, y: shear, interpolation, fill },
            3 => Operation::Window { top: 0, left: distance(width), height, width, fill },
            4 => Operation::Window { top: distance(height), left: 0, height, width, fill },
            5 => Operation::Rotate { degrees: sign * fraction * 30.0, interpolation, fill },
            6 => Operation::Brightness { factor },
            7 => Operation::Saturation { factor },
            8 => Operation::Contrast { factor },
            9 => Operation::Sharpness { factor },
            10 => Operation::Posterize { bits: 8 - (fraction * 4.0).round_ties_even() as u8 },
            11 => Operation::Solarize { threshold: 255.0 * (1.0 - fraction) },
            12 => Operation::Autocontrast,
            _ => Operation::Equalize,
        })
    }
}
