//! Moves the pixels of a bitmap without computing any: windows of an image and around it, mirror images, erasure.

use anyhow::ensure;

use super::Bitmap;
use super::buffers::buffer;
use super::resize::Region;

/// One value for each channel. An image with fewer than four channels uses the first ones.
pub(crate) type Fill = [u8; 4];

/// What an image of `height` by `width` pixels shows whose first pixel lies at row `top` and column `left` of `image`.
/// Both may be negative. Pixels that `image` doesn't have are `fill`.
pub(crate) fn window(
    image: &Bitmap,
    top: i64,
    left: i64,
    height: u32,
    width: u32,
    fill: Fill,
) -> anyhow::Result<Bitmap> {
    let channels = usize::from(image.channels());
    let count = u64::from(height) * u64::from(width);
    ensure!(count > 0, "a window of {height} x {width} pixels (height x width) has no pixel");
    let mut values = filled(height as usize * width as usize, &fill[..channels]);

    let rows = overlap(top, height, image.height());
    let columns = overlap(left, width, image.width());
    let (source_stride, target_stride) = (image.row_length(), width as usize * channels);
    for row in 0..rows.length {
        let source = (rows.in_source + row) * source_stride + columns.in_source * channels;
        let target = (rows.in_target + row) * target_stride + columns.in_target * channels;
        let length = columns.length * channels;
        values[target..target + length].copy_from_slice(&image.values()[source..source + length]);
    }
    Bitmap::new(height, width, image.channels(), values)
}

/// This many pixels of one colour.
pub(super) fn filled(pixels: usize, color: &[u8]) -> Vec<u8> {
    let mut values = buffer(pixels * color.len());
    // The usual fill is one value, which is written faster.
    if color.iter().all(|value| *value == color[0]) {
        values.fill(color[0]);
    } else {
        values.chunks_exact_mut(color.len()).for_each(|pixel| pixel.copy_from_slice(color));
    }
    values
}

/// The part of one axis that a window and an image have in common.
struct Overlap {
    in_source: usize,
    in_target: usize,
    length: usize,
}

fn overlap(start: i64, length: u32, of: u32) -> Overlap {
    let (length, of) = (i64::from(length), i64::from(of));
    let first = start.clamp(0, of);
    let end = start.saturating_add(length).clamp(first, of);
    // Without a common part the place in the target doesn't matter, as long as it is one.
    let in_target = first.saturating_sub(start).clamp(0, length);
    Overlap { in_source: first as usize, in_target: in_target as usize, length: (end - first) as usize }
}

/// Mirrors left and right, in place.
pub(crate) fn flip_horizontal(image: &mut Bitmap) {
    match image.channels() {
        1 => flip_rows::<1>(image),
        3 => flip_rows::<3>(image),
        _ => flip_rows::<4>(image),
    }
}

fn flip_rows<const C: usize>(image: &mut Bitmap) {
    let stride = image.row_length();
    image.values_mut().chunks_exact_mut(stride).for_each(|row| row.as_chunks_mut::<C>().0.reverse());
}

/// Mirrors top and bottom, in place.
pub(crate) fn flip_vertical(image: &mut Bitmap) {
    let stride = image.row_length();
    let mut rows = image.values_mut().chunks_exact_mut(stride);
    while let (Some(upper), Some(lower)) = (rows.next(), rows.next_back()) {
        upper.swap_with_slice(lower);
    }
}

/// Writes the values that `next` returns into a region, pixel after pixel. All channels are overwritten.
pub(crate) fn erase(image: &mut Bitmap, region: Region, mut next: impl FnMut(usize) -> u8) -> anyhow::Result<()> {
    let Region { top, left, height, width } = region;
    let fits = |start: u32, length: u32, of: u32| start.checked_add(length).is_some_and(|end| end <= of);
    ensure!(
        fits(top, height, image.height()) && fits(left, width, image.width()),
        "a region of {height} x {width} pixels (height x width) at row {top}, column {left} is not in an image of {} x \
         {}",
        image.height(),
        image.width(),
    );
    let (channels, stride) = (usize::from(image.channels()), image.row_length());
    let columns = left as usize * channels..(left + width) as usize * channels;
    for row in image.values_mut().chunks_exact_mut(stride).skip(top as usize).take(height as usize) {
        for pixel in row[columns.clone()].chunks_exact_mut(channels) {
            pixel.iter_mut().enumerate().for_each(|(channel, value)| *value = next(channel));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_has_what_the_image_has_and_fill_elsewhere() {
        let image = Bitmap::new(3, 4, 3, (0..36).collect()).unwrap();
        let fill = [201, 202, 203, 204];
        for (top, left, height, width) in
            [(-1, -2, 5, 8), (1, 1, 1, 2), (2, 3, 4, 4), (-9, 0, 2, 2), (0, 40, 3, 1), (i64::MAX, i64::MIN, 1, 1)]
        {
            let seen = window(&image, top, left, height, width, fill).unwrap();
            for (at, pixel) in seen.values().chunks_exact(3).enumerate() {
                let row = top.saturating_add(at as i64 / i64::from(width));
                let column = left.saturating_add(at as i64 % i64::from(width));
                let is_inside = (0..3).contains(&row) && (0..4).contains(&column);
                let expected = if is_inside {
                    let first = ((row * 4 + column) * 3) as u8;
                    [first, first + 1, first + 2]
                } else {
                    [201, 202, 203]
                };
                assert_eq!(pixel, expected, "{row} {column}");
            }
        }
        assert!(window(&image, 0, 0, 0, 1, fill).is_err());
    }

    #[test]
    fn mirror_images() {
        let mut image = Bitmap::new(3, 2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        flip_horizontal(&mut image);
        assert_eq!(image.values(), [2, 1, 4, 3, 6, 5]);
        flip_vertical(&mut image);
        assert_eq!(image.values(), [6, 5, 4, 3, 2, 1]);
    }

    #[test]
    fn only_regions_of_the_image_are_erased() {
        let mut image = Bitmap::new(3, 2, 1, vec![1; 6]).unwrap();
        let region = |top, left, height, width| Region { top, left, height, width };
        erase(&mut image, region(1, 1, 2, 1), |_| 0).unwrap();
        assert_eq!(image.values(), [1, 1, 1, 0, 1, 0]);
        for outside in [region(2, 0, 2, 1), region(0, 2, 1, 1), region(u32::MAX, 0, 2, 1)] {
            assert!(erase(&mut image, outside, |_| 0).is_err());
        }
    }
}
