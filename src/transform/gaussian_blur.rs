//! The step that blurs.

use anyhow::ensure;

use super::arguments::check_range;
use super::operation::{ImageSize, Operation, OperationList};
use super::rng::SampleRng;

/// Blurs with a Gaussian kernel of random deviation: torchvision's `GaussianBlur`. Beyond the borders the image is
/// mirrored.
///
/// It draws one number, the deviation. Values differ from those of torchvision by at most 1, where a sum is half way
/// between two values.
#[derive(Clone, Debug, PartialEq)]
pub struct GaussianBlur {
    /// Pixels of a side of the kernel: odd, and at most 511.
    pub kernel_size: u32,
    /// Smallest and largest standard deviation, in pixels, from 0.001 to 1,000. By default 0.1 to 2.
    pub sigma: (f64, f64),
}

/// The largest kernel. Time grows with its side, and a larger one leaves nothing to be seen of an image.
const MAX_KERNEL_SIZE: u32 = 511;

impl GaussianBlur {
    /// Blurs with standard deviations of 0.1 to 2 pixels.
    pub fn new(kernel_size: u32) -> Self {
        Self { kernel_size, sigma: (0.1, 2.0) }
    }

    pub(super) fn check(&self) -> anyhow::Result<()> {
        let Self { kernel_size, sigma } = *self;
        ensure!(
            kernel_size % 2 == 1 && kernel_size <= MAX_KERNEL_SIZE,
            "gaussian_blur: kernel_size is {kernel_size}; wanted an odd number from 1 to {MAX_KERNEL_SIZE}"
        );
        check_range("gaussian_blur", "sigma", sigma, 0.001, 1_000.0)
    }

    /// Bytes of the rows of floats that the blur holds.
    pub(super) fn row_bytes(&self, size: ImageSize, channels: u64) -> u64 {
        let padded = u64::from(size.width) + u64::from(self.kernel_size);
        (u64::from(size.width) + padded) * channels * size_of::<f32>() as u64
    }

    pub(super) fn draw(&self, rng: &mut SampleRng, operations: &mut OperationList) {
        let sigma = rng.uniform(self.sigma.0, self.sigma.1);
        operations.push(Operation::Blur { kernel_size: self.kernel_size, sigma });
    }
}
