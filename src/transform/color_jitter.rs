//! The step that changes colours.

use super::arguments::check_range;
use super::operation::{Operation, OperationList};
use super::rng::SampleRng;

/// Changes brightness, contrast, saturation and hue by random factors, in random order: torchvision's `ColorJitter`.
///
/// It draws three numbers for the order, then one for each factor whose range is not that of no change, in the order
/// brightness, contrast, saturation, hue. Values are those of Pillow, which cuts off fractions where torchvision rounds
/// those of tensors. An image of one channel has neither saturation nor hue. Transparency is left as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct ColorJitter {
    /// Smallest and largest factor of brightness: 0 is black, 1 no change.
    pub brightness: (f64, f64),
    /// Smallest and largest factor of contrast: 0 is grey, 1 no change.
    pub contrast: (f64, f64),
    /// Smallest and largest factor of saturation: 0 is grey, 1 no change.
    pub saturation: (f64, f64),
    /// Smallest and largest turn of the hue, as a part of the circle, from -0.5 to 0.5; 0 is no change.
    pub hue: (f64, f64),
}

/// The largest factor. A smaller one makes any value 0 or 255 already.
const MAX_FACTOR: f64 = 1_000.0;

impl ColorJitter {
    /// Factors from `1 - amount` (at least 0) to `1 + amount`, and for the hue from `-hue` to `hue`. An amount of 0 is
    /// no change.
    pub fn new(brightness: f64, contrast: f64, saturation: f64, hue: f64) -> Self {
        let around_one = |amount: f64| ((1.0 - amount).max(0.0), 1.0 + amount);
        Self {
            brightness: around_one(brightness),
            contrast: around_one(contrast),
            saturation: around_one(saturation),
            hue: (-hue, hue),
        }
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        const STEP: &str = "color_jitter";
        check_range(STEP, "brightness", self.brightness, 0.0, MAX_FACTOR)?;
        check_range(STEP, "contrast", self.contrast, 0.0, MAX_FACTOR)?;
        check_range(STEP, "saturation", self.saturation, 0.0, MAX_FACTOR)?;
        check_range(STEP, "hue", self.hue, -0.5, 0.5)
    }

    pub(super) fn draw(&self, rng: &mut SampleRng, operations: &mut OperationList) {
        let mut order = [0, 1, 2, 3];
        for last in (1..order.len()).rev() {
            order.swap(last, rng.below(last as u64 + 1) as usize);
        }

        let mut factor =
            |(low, high): (f64, f64), neutral: f64| ((low, high) != (neutral, neutral)).then(|| rng.uniform(low, high));
        let drawn = [
            factor(self.brightness, 1.0).map(|factor| Operation::Brightness { factor }),
            factor(self.contrast, 1.0).map(|factor| Operation::Contrast { factor }),
            factor(self.saturation, 1.0).map(|factor| Operation::Saturation { factor }),
            factor(self.hue, 0.0).map(|factor| Operation::Hue { factor }),
        ];
        order.into_iter().filter_map(|index: usize| drawn[index].clone()).for_each(|drawn| operations.push(drawn));
    }
}
