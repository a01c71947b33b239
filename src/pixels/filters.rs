//! Blurs and sharpens bitmaps.

use super::Bitmap;
use super::buffers::{buffer, recycle};
use super::color::blend;

/// Sharpens: 0 is smooth, 1 the image itself. With the arithmetic of Pillow, which smooths with a kernel of 3 x 3
/// pixels and leaves the outermost pixels as they are. The alpha channel is left as it is.
pub(crate) fn adjust_sharpness(image: &mut Bitmap, factor: f64) {
    let (height, stride, channels) = (image.height() as usize, image.row_length(), usize::from(image.channels()));
    if height < 3 || image.width() < 3 {
        return;
    }
    let mut source = buffer(image.values().len());
    source.copy_from_slice(image.values());
    let rows = image.values_mut().chunks_exact_mut(stride).enumerate().skip(1).take(height - 2);
    for (row, target) in rows {
        let [above, same, below] = [row - 1, row, row + 1].map(|row| &source[row * stride..][..stride]);
        for at in channels..stride - channels {
            if channels == 4 && at % 4 == 3 {
                continue;
            }
            let of = |row: &[u8]| [at - channels, at, at + channels].iter().map(|at| u32::from(row[*at])).sum::<u32>();
            let sum = of(above) + of(same) + of(below) + 4 * u32::from(same[at]);
            let smooth = ((2 * sum + 13) / 26) as u8;
            target[at] = blend(smooth, same[at], factor as f32);
        }
    }
    recycle(source);
}

/// Blurs all channels with a Gaussian kernel of `kernel_size` by `kernel_size` pixels. Beyond a border the image is
/// mirrored at the outermost pixels.
pub(crate) fn gaussian_blur(image: &Bitmap, kernel_size: u32, sigma: f64) -> anyhow::Result<Bitmap> {
    let kernel = gaussian_kernel(kernel_size, sigma);
    let radius = kernel.len() / 2;
    let (height, width) = (image.height() as usize, image.width() as usize);
    let (stride, channels) = (image.row_length(), usize::from(image.channels()));

    // One row at a time: first the sum of rows, between mirrored columns, and then the sum of columns.
    let mut values = buffer(image.values().len());
    let mut padded = vec![0.0_f32; stride + 2 * radius * channels];
    let mut sums = vec![0.0_f32; stride];
    for (row, target) in values.chunks_exact_mut(stride).enumerate() {
        let middle = &mut padded[radius * channels..][..stride];
        middle.fill(0.0);
        for (offset, weight) in kernel.iter().enumerate() {
            let source = mirrored(row as i64 + offset as i64 - radius as i64, height);
            let source = &image.values()[source * stride..][..stride];
            middle.iter_mut().zip(source).for_each(|(sum, value)| *sum += weight * f32::from(*value));
        }

        for step in 1..=radius {
            for (column, source) in [
                (radius - step, mirrored(-(step as i64), width)),
                (radius + width - 1 + step, mirrored((width - 1 + step) as i64, width)),
            ] {
                let source = (radius + source) * channels;
                padded.copy_within(source..source + channels, column * channels);
            }
        }

        sums.fill(0.0);
        for (offset, weight) in kernel.iter().enumerate() {
            let source = &padded[offset * channels..][..stride];
            sums.iter_mut().zip(source).for_each(|(sum, value)| *sum += weight * value);
        }
        target.iter_mut().zip(&sums).for_each(|(value, sum)| *value = sum.round_ties_even() as u8);
    }
    Bitmap::new(image.height(), image.width(), image.channels(), values)
}

/// Weights whose sum is 1.
fn gaussian_kernel(size: u32, sigma: f64) -> Vec<f32> {
    let middle = f64::from(size.saturating_sub(1)) / 2.0;
    let weight = |at: u32| (-0.5 * ((f64::from(at) - middle) / sigma).powi(2)).exp();
    let sum: f64 = (0..size).map(weight).sum();
    (0..size).map(|at| (weight(at) / sum) as f32).collect()
}

/// The position from 0 to `length`, exclusive, that is seen at `at` if both ends are mirrors.
fn mirrored(at: i64, length: usize) -> usize {
    let last = length as i64 - 1;
    if last == 0 {
        return 0;
    }
    let within = at.rem_euclid(2 * last);
    within.min(2 * last - within) as usize
}
