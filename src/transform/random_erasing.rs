//! The step that erases.

use super::arguments::{check_probability, check_range};
use super::operation::{ImageSize, Operation, OperationList};
use super::rng::SampleRng;
use crate::pixels::Region;

/// Overwrites a random rectangle with a probability: torchvision's `RandomErasing`. Unlike there, it changes values of
/// 0 to 255, before they are normalized.
///
/// It draws one number, whether it happens. If so, up to ten times it draws the rectangle's area, then its aspect
/// ratio, and ends with the first rectangle that is smaller than the image in both directions, whose row and column it
/// draws next, and then the seed of random values. If none is, nothing is erased.
#[derive(Clone, Debug, PartialEq)]
pub struct RandomErasing {
    /// How often it happens, from 0 to 1.
    pub probability: f64,
    /// Smallest and largest area, as a fraction of the image's. By default 0.02 to 0.33.
    pub scale: (f64, f64),
    /// Smallest and largest aspect ratio, height by width, from 0.001 to 1,000. By default 0.3 to 3.3.
    pub ratio: (f64, f64),
    /// What takes the place of the pixels. By default 0 in all channels.
    pub value: ErasedValue,
}

/// What takes the place of erased pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErasedValue {
    /// One value for each channel. Images with fewer channels use the first ones.
    Constant([u8; 4]),
    /// A random value for each channel of each pixel, each from 0 to 255 equally often.
    Noise,
}

impl RandomErasing {
    /// Erases 2 to 33% of the area, with aspect ratios of 0.3 to 3.3, to black.
    pub fn new(probability: f64) -> Self {
        Self { probability, scale: (0.02, 0.33), ratio: (0.3, 3.3), value: ErasedValue::Constant([0; 4]) }
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        const STEP: &str = "random_erasing";
        check_probability(STEP, self.probability)?;
        check_range(STEP, "scale", self.scale, 0.0, 1.0)?;
        check_range(STEP, "ratio", self.ratio, 0.001, 1_000.0)
    }

    pub(super) fn draw(&self, size: ImageSize, rng: &mut SampleRng, operations: &mut OperationList) {
        if !rng.happens(self.probability) {
            return;
        }
        let Some(region) = self.draw_region(size, rng) else { return };
        operations.push(match self.value {
            ErasedValue::Constant(fill) => Operation::Erase { region, fill },
            ErasedValue::Noise => Operation::EraseWithNoise { region, seed: rng.next_u64() },
        });
    }

    fn draw_region(&self, size: ImageSize, rng: &mut SampleRng) -> Option<Region> {
        /// Attempts, as in torchvision.
        const ATTEMPTS: u32 = 10;
        for _ in 0..ATTEMPTS {
            let area = size.pixels() as f64 * rng.uniform(self.scale.0, self.scale.1);
            let ratio = rng.uniform(self.ratio.0.ln(), self.ratio.1.ln()).exp();
            let height = (area * ratio).sqrt().round_ties_even() as u32;
            let width = (area / ratio).sqrt().round_ties_even() as u32;
            if height < size.height && width < size.width {
                let top = rng.below(u64::from(size.height - height) + 1) as u32;
                let left = rng.below(u64::from(size.width - width) + 1) as u32;
                return Some(Region { top, left, height, width });
            }
        }
        None
    }
}
