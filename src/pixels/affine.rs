//! Rotates and shears bitmaps, with the arithmetic of Pillow.

use anyhow::bail;

use super::window::{Fill, filled};
use super::{Bitmap, Interpolation};

/// Maps a pixel of the result to a place in the source: `x' = m[0] * x + m[1] * y + m[2]` and
/// `y' = m[3] * x + m[4] * y + m[5]`, where the centre of the first pixel is at (0.5, 0.5).
pub(crate) type AffineMatrix = [f64; 6];

/// The matrix that rotates an image of this size counter-clockwise around its centre.
pub(crate) fn rotation_matrix(degrees: f64, height: u32, width: u32) -> AffineMatrix {
    // Pillow rounds to 15 digits, so that right angles are exact.
    let rounded = |value: f64| (value * 1e15).round_ties_even() / 1e15;
    let angle = -(degrees.rem_euclid(360.0)).to_radians();
    let (sin, cos) = (rounded(angle.sin()), rounded(angle.cos()));
    let (x, y) = (f64::from(width) / 2.0, f64::from(height) / 2.0);
    [cos, sin, cos * -x + sin * -y + x, -sin, cos, -sin * -x + cos * -y + y]
}

/// An image of the same size whose pixels come from where the matrix maps them. Pixels that `image` doesn't have are
/// `fill`.
pub(crate) fn transform(
    image: &Bitmap,
    matrix: AffineMatrix,
    interpolation: Interpolation,
    fill: Fill,
) -> anyhow::Result<Bitmap> {
    let mut values = filled(image.values().len() / usize::from(image.channels()), &fill[..image.channels().into()]);
    match (interpolation, image.channels()) {
        (Interpolation::Nearest, 1) => nearest::<1>(image, matrix, &mut values),
        (Interpolation::Nearest, 3) => nearest::<3>(image, matrix, &mut values),
        (Interpolation::Nearest, _) => nearest::<4>(image, matrix, &mut values),
        (Interpolation::Bilinear, 1) => bilinear::<1>(image, matrix, &mut values),
        (Interpolation::Bilinear, 3) => bilinear::<3>(image, matrix, &mut values),
        (Interpolation::Bilinear, _) => bilinear::<4>(image, matrix, &mut values),
        (other, _) => bail!("an image is rotated with nearest or bilinear interpolation, and not with {other:?}"),
    }
    Bitmap::new(image.height(), image.width(), image.channels(), values)
}

/// Sides up to which Pillow computes places in numbers of 16.16 bits, and in floating point for others.
const FIXED_POINT_SIDE: f64 = 32_768.0;

fn nearest<const C: usize>(image: &Bitmap, m: AffineMatrix, values: &mut [u8]) {
    let (height, width) = (image.height() as usize, image.width() as usize);
    let corners = [(0, 0), (width, height), (0, height), (width, 0)].map(|(x, y)| (x as f64, y as f64));
    let is_small = |(x, y): &(f64, f64)| {
        (m[0] * x + m[1] * y + m[2]).abs() < FIXED_POINT_SIDE && (m[3] * x + m[4] * y + m[5]).abs() < FIXED_POINT_SIDE
    };
    let (source, _) = image.values().as_chunks::<C>();
    let (target, _) = values.as_chunks_mut::<C>();
    // The centre of the first pixel.
    let first = (m[2] + m[0] * 0.5 + m[1] * 0.5, m[5] + m[3] * 0.5 + m[4] * 0.5);

    if corners.iter().all(is_small) {
        let fixed = |value: f64| (value * 65_536.0 + 0.5).floor() as i64;
        let (x_by_x, x_by_y, y_by_x, y_by_y) = (fixed(m[0]), fixed(m[1]), fixed(m[3]), fixed(m[4]));
        let (mut row_x, mut row_y) = (fixed(first.0), fixed(first.1));
        for row in target.chunks_exact_mut(width) {
            let (mut x, mut y) = (row_x, row_y);
            for pixel in row {
                // A negative place is a huge one, so it is outside, too.
                let (column, line) = ((x >> 16) as usize, (y >> 16) as usize);
                if column < width && line < height {
                    *pixel = source[line * width + column];
                }
                x += x_by_x;
                y += y_by_x;
            }
            row_x += x_by_y;
            row_y += y_by_y;
        }
    } else {
        for (index, pixel) in target.iter_mut().enumerate() {
            let (column, line) = ((index % width) as f64, (index / width) as f64);
            let (x, y) = (first.0 + m[0] * column + m[1] * line, first.1 + m[3] * column + m[4] * line);
            if x >= 0.0 && y >= 0.0 && (x as usize) < width && (y as usize) < height {
                *pixel = source[y as usize * width + x as usize];
            }
        }
    }
}

fn bilinear<const C: usize>(image: &Bitmap, m: AffineMatrix, values: &mut [u8]) {
    let (height, width) = (image.height() as usize, image.width() as usize);
    let (source, _) = image.values().as_chunks::<C>();
    let (target, _) = values.as_chunks_mut::<C>();
    for (line, row) in target.chunks_exact_mut(width).enumerate() {
        let y_center = line as f64 + 0.5;
        for (column, pixel) in row.iter_mut().enumerate() {
            let x_center = column as f64 + 0.5;
            let x = m[0] * x_center + m[1] * y_center + m[2];
            let y = m[3] * x_center + m[4] * y_center + m[5];
            if x < 0.0 || x >= width as f64 || y < 0.0 || y >= height as f64 {
                continue;
            }
            let (x, y) = (x - 0.5, y - 0.5);
            let (left, top) = (floor(x), floor(y));
            let (dx, dy) = (x - left, y - top);
            // Half a pixel at each border repeats the outermost one.
            let columns = (left.max(0.0) as usize, ((left + 1.0) as usize).min(width - 1));
            let rows = (top.max(0.0) as usize * width, ((top + 1.0) as usize).min(height - 1) * width);
            let upper = (source[rows.0 + columns.0], source[rows.0 + columns.1]);
            let lower = (source[rows.1 + columns.0], source[rows.1 + columns.1]);
            let between = |left: u8, right: u8| f64::from(left) + f64::from(i16::from(right) - i16::from(left)) * dx;
            for (channel, value) in pixel.iter_mut().enumerate() {
                let above = between(upper.0[channel], upper.1[channel]);
                let below = between(lower.0[channel], lower.1[channel]);
                *value = (above + (below - above) * dy) as u8;
            }
        }
    }
}

/// The next lower whole number of one from -1 up to the largest side. Without newer instructions than those of every
/// x86-64 the standard one is a call, which takes longer than all the rest of a pixel.
fn floor(value: f64) -> f64 {
    if value < 0.0 { -1.0 } else { f64::from(value as u32) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pixels::window::{flip_horizontal, flip_vertical};

    const FILL: Fill = [77; 4];

    #[test]
    fn half_a_turn_is_both_mirror_images_at_any_size() {
        // The second one is too long for numbers of 16.16 bits.
        for (height, width) in [(3, 5), (2, 40_001), (33_000, 1)] {
            let values = (0..height * width).map(|at| (at * 31 % 251) as u8).collect();
            let image = Bitmap::new(height, width, 1, values).unwrap();
            let mut mirrored = image.clone();
            flip_horizontal(&mut mirrored);
            flip_vertical(&mut mirrored);
            for interpolation in [Interpolation::Nearest, Interpolation::Bilinear] {
                let turned = |degrees| {
                    let matrix = rotation_matrix(degrees, height, width);
                    transform(&image, matrix, interpolation, FILL).unwrap()
                };
                assert!(turned(180.0) == mirrored && turned(-180.0) == mirrored, "{height} x {width}");
                assert!(turned(0.0) == image && turned(360.0) == image, "{height} x {width}");
            }
        }
    }

    #[test]
    fn places_far_outside_are_filled() {
        let image = Bitmap::new(2, 2, 3, vec![1; 12]).unwrap();
        for matrix in [[1.0, 0.0, 1e9, 0.0, 1.0, -1e9], [f64::MAX; 6], [f64::NAN; 6], [f64::NEG_INFINITY; 6]] {
            let nearest = transform(&image, matrix, Interpolation::Nearest, FILL).unwrap();
            assert_eq!(nearest.values(), [77; 12], "{matrix:?}");
            // No number is a place, so any value is right, as long as there is one.
            assert!(transform(&image, matrix, Interpolation::Bilinear, FILL).is_ok());
        }
        assert!(transform(&image, [0.0; 6], Interpolation::Bicubic, FILL).is_err());
    }
}
