//! Changes the colours of bitmaps, with the arithmetic of Pillow. The alpha channel of a bitmap of four channels is
//! left as it is.

use super::Bitmap;

/// Which value takes the place of each value.
type Table = [u8; 256];

/// Multiplies all values: 0 is black, 1 the image itself.
pub(crate) fn adjust_brightness(image: &mut Bitmap, factor: f64) {
    map_values(image, &table(|value| blend(0, value, factor as f32)));
}

/// Moves all values away from the image's mean luminance, or towards it: 0 is grey, 1 the image itself.
pub(crate) fn adjust_contrast(image: &mut Bitmap, factor: f64) {
    let (sum, count) = match image.channels() {
        1 => luminances::<1>(image),
        3 => luminances::<3>(image),
        _ => luminances::<4>(image),
    };
    let mean = (sum as f64 / count as f64 + 0.5) as u8;
    map_values(image, &table(|value| blend(mean, value, factor as f32)));
}

/// Moves colours away from their luminance, or towards it: 0 is grey, 1 the image itself.
pub(crate) fn adjust_saturation(image: &mut Bitmap, factor: f64) {
    map_pixels(image, |[red, green, blue]| {
        let grey = luminance([red, green, blue]);
        [red, green, blue].map(|value| blend(grey, value, factor as f32))
    });
}

/// Turns the hue by this part of the circle, in steps of 1/255.
pub(crate) fn adjust_hue(image: &mut Bitmap, factor: f64) {
    let shift = (factor * 255.0) as i32 as u8;
    map_pixels(image, |pixel| {
        let [hue, saturation, value] = hsv_of(pixel);
        rgb_of([hue.wrapping_add(shift), saturation, value])
    });
}

/// Replaces colours by their luminance, in all channels of colour.
pub(crate) fn grayscale(image: &mut Bitmap) {
    map_pixels(image, |pixel| [luminance(pixel); 3]);
}

/// Keeps this many of the highest bits of each value.
pub(crate) fn posterize(image: &mut Bitmap, bits: u8) {
    let mask = !(0xff_u16 >> bits.min(8)) as u8;
    map_values(image, &table(|value| value & mask));
}

/// Inverts the values that are not below the threshold.
pub(crate) fn solarize(image: &mut Bitmap, threshold: f64) {
    map_values(image, &table(|value| if f64::from(value) < threshold { value } else { 255 - value }));
}

/// Stretches the values of each channel from 0 to 255.
pub(crate) fn autocontrast(image: &mut Bitmap) {
    map_channels(image, |histogram| {
        let lowest = histogram.iter().position(|count| *count > 0).unwrap_or(0);
        let highest = histogram.iter().rposition(|count| *count > 0).unwrap_or(0);
        if highest <= lowest {
            return table(|value| value);
        }
        let scale = 255.0 / (highest - lowest) as f64;
        let offset = -(lowest as f64) * scale;
        table(|value| (f64::from(value) * scale + offset) as u8)
    });
}

/// Makes the histogram of each channel as flat as can be.
pub(crate) fn equalize(image: &mut Bitmap) {
    map_channels(image, |histogram| {
        let last = histogram.iter().rfind(|count| **count > 0).copied().unwrap_or(0);
        let step = (histogram.iter().sum::<u64>() - last) / 255;
        if step == 0 {
            return table(|value| value);
        }
        let mut sum = step / 2;
        table(|value| {
            let level = sum / step;
            sum += histogram[usize::from(value)];
            level.min(255) as u8
        })
    });
}

/// A value between `from` (at 0) and `to` (at 1), or outside of both.
pub(super) fn blend(from: u8, to: u8, factor: f32) -> u8 {
    // Values are cut off and not rounded. The conversion saturates.
    (f32::from(from) + factor * f32::from(i16::from(to) - i16::from(from))) as u8
}

fn table(mut entry: impl FnMut(u8) -> u8) -> Table {
    let mut table = [0; 256];
    (0..=255).zip(&mut table).for_each(|(value, place)| *place = entry(value));
    table
}

/// The luminance of ITU-R BT.601, rounded, in 16 bits of fraction.
fn luminance([red, green, blue]: [u8; 3]) -> u8 {
    ((u32::from(red) * 19_595 + u32::from(green) * 38_470 + u32::from(blue) * 7_471 + 0x8000) >> 16) as u8
}

/// Sum and number of the luminances.
fn luminances<const C: usize>(image: &Bitmap) -> (u64, usize) {
    let (pixels, _) = image.values().as_chunks::<C>();
    let of = |pixel: &[u8; C]| match pixel[..] {
        [red, green, blue, ..] => luminance([red, green, blue]),
        _ => pixel[0],
    };
    (pixels.iter().map(|pixel| u64::from(of(pixel))).sum(), pixels.len())
}

/// Changes each value of colour by a table.
fn map_values(image: &mut Bitmap, table: &Table) {
    if image.channels() == 4 {
        map_pixels(image, |pixel| pixel.map(|value| table[usize::from(value)]));
    } else {
        image.values_mut().iter_mut().for_each(|value| *value = table[usize::from(*value)]);
    }
}

/// Changes each colour. An image of one channel has none.
fn map_pixels(image: &mut Bitmap, change: impl Fn([u8; 3]) -> [u8; 3]) {
    match image.channels() {
        3 => image.values_mut().as_chunks_mut::<3>().0.iter_mut().for_each(|pixel| *pixel = change(*pixel)),
        4 => image.values_mut().as_chunks_mut::<4>().0.iter_mut().for_each(|pixel| {
            let [red, green, blue, alpha] = *pixel;
            let [red, green, blue] = change([red, green, blue]);
            *pixel = [red, green, blue, alpha];
        }),
        _ => {}
    }
}

/// Changes each channel of colour by a table that is made of its histogram.
fn map_channels(image: &mut Bitmap, table_of: impl Fn(&[u64; 256]) -> Table) {
    let channels = usize::from(image.channels());
    for channel in 0..channels.min(3) {
        let mut histogram = [0; 256];
        image.values().iter().skip(channel).step_by(channels).for_each(|value| histogram[usize::from(*value)] += 1);
        let table = table_of(&histogram);
        let values = image.values_mut().iter_mut().skip(channel).step_by(channels);
        values.for_each(|value| *value = table[usize::from(*value)]);
    }
}

/// Hue, saturation and value, each of 0 to 255. Floats and doubles are mixed as in Pillow.
fn hsv_of([red, green, blue]: [u8; 3]) -> [u8; 3] {
    let highest = red.max(green).max(blue);
    let range = highest - red.min(green).min(blue);
    if range == 0 {
        return [0, 0, highest];
    }
    let saturation = f32::from(range) / f32::from(highest);
    let [from_red, from_green, from_blue] =
        [red, green, blue].map(|value| f64::from(f32::from(highest - value) / f32::from(range)));
    let sextant = if red == highest {
        (from_blue as f32) - (from_green as f32)
    } else if green == highest {
        (2.0 + from_red - from_blue) as f32
    } else {
        (4.0 + from_green - from_red) as f32
    };
    // From 5/6 to 11/6, of which the whole part is dropped.
    let turned = f64::from(sextant) / 6.0 + 1.0;
    let hue = (if turned >= 1.0 { turned - 1.0 } else { turned }) as f32;
    [(f64::from(hue) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, highest]
}

/// Red, green and blue of hue, saturation and value.
fn rgb_of([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let turned = f64::from(hue) * 6.0 / 255.0;
    let sextant = turned as u8;
    let fraction = f64::from((turned - f64::from(sextant)) as f32);
    let saturation = f64::from((f64::from(saturation) / 255.0) as f32);
    let scaled = |factor: f64| (f64::from(value) * factor + 0.5) as u8;
    let low = scaled(1.0 - saturation);
    let falling = scaled(1.0 - saturation * fraction);
    let rising = scaled(1.0 - saturation * (1.0 - fraction));
    match sextant % 6 {
        0 => [value, rising, low],
        1 => [falling, value, low],
        2 => [low, value, rising],
        3 => [low, falling, value],
        4 => [rising, low, value],
        _ => [value, low, falling],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shortcuts_of_the_hue_change_no_value() {
        for saturation in 0..=255 {
            for value in (0..=255).step_by(3) {
                for hue in (0..=255).step_by(5) {
                    let [h, s, v] = [hue, saturation, value].map(f64::from);
                    let fraction = f64::from((h * 6.0 / 255.0 - (h * 6.0 / 255.0).floor()) as f32);
                    let saturated = f64::from((s / 255.0) as f32);
                    let rounded =
                        [1.0, 1.0 - saturated, 1.0 - saturated * fraction, 1.0 - saturated * (1.0 - fraction)]
                            .map(|factor| (v * factor).round() as u8);
                    let rgb = rgb_of([hue, saturation, value]);
                    assert!(rgb.iter().all(|channel| rounded.contains(channel)), "{hue} {saturation} {value}");
                }
            }
        }
        for pixel in (0..=255).flat_map(|red| (0..=255).step_by(5).map(move |green| [red, green, 100])) {
            let [hue, saturation, value] = hsv_of(pixel);
            let back = rgb_of([hue, saturation, value]);
            assert!(pixel.iter().zip(back).all(|(left, right)| left.abs_diff(right) <= 8), "{pixel:?} {back:?}");
        }
    }

    #[test]
    fn transparency_has_no_part_in_the_contrast() {
        let green = |alpha: u8| Bitmap::new(1, 2, 4, vec![0, 255, 0, alpha, 40, 80, 120, alpha]).unwrap();
        let opaque = Bitmap::new(1, 2, 3, vec![0, 255, 0, 40, 80, 120]).unwrap();
        let colors = |image: &Bitmap, channels: usize| -> Vec<[u8; 3]> {
            image.values().chunks(channels).map(|pixel| [pixel[0], pixel[1], pixel[2]]).collect()
        };
        let mut expected = opaque;
        adjust_contrast(&mut expected, 0.5);
        for alpha in [0, 255] {
            let mut image = green(alpha);
            adjust_contrast(&mut image, 0.5);
            assert_eq!(colors(&image, 4), colors(&expected, 3), "{alpha}");
        }
    }
}
