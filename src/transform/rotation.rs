//! The step that rotates.

use anyhow::ensure;

use super::arguments::check_range;
use super::operation::{Operation, OperationList};
use super::rng::SampleRng;
use crate::pixels::Interpolation;

/// Rotates by a random angle around the centre and keeps the size: torchvision's `RandomRotation`. Corners are cut off.
///
/// It draws one number, the angle. Values are those of Pillow.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomRotation {
    /// Smallest and largest angle, in degrees counter-clockwise, from -360 to 360.
    pub degrees: (f64, f64),
    /// How pixels between pixels are computed: nearest, as in torchvision by default, or bilinear.
    pub interpolation: Interpolation,
    /// Values of the pixels that the image doesn't have, one for each channel. Images with fewer channels use the
    /// first ones.
    pub fill: [u8; 4],
}

impl RandomRotation {
    /// Rotates by up to `degrees` in both directions, with nearest interpolation, and leaves the corners black.
    pub fn new(degrees: f64) -> Self {
        Self { degrees: (-degrees, degrees), interpolation: Interpolation::Nearest, fill: [0; 4] }
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        check_range("random_rotation", "degrees", self.degrees, -360.0, 360.0)?;
        check_interpolation("random_rotation", self.interpolation)
    }

    pub(super) fn draw(&self, rng: &mut SampleRng, operations: &mut OperationList) {
        let Self { degrees: (low, high), interpolation, fill } = *self;
        operations.push(Operation::Rotate { degrees: rng.uniform(low, high), interpolation, fill });
    }
}

/// What rotations and shears can do.
pub(super) fn check_interpolation(step: &str, interpolation: Interpolation) -> anyhow::Result<()> {
    ensure!(
        matches!(interpolation, Interpolation::Nearest | Interpolation::Bilinear),
        "{step}: interpolation is {interpolation:?}; wanted Nearest or Bilinear"
    );
    Ok(())
}
