//! Decodes masks: images whose values are numbers of classes, and not colours.

use anyhow::{Context, bail, ensure};
use png::{BitDepth, ColorType, Decoder, Limits, Transformations};

use super::Bitmap;
use super::buffers::{buffer, recycle};
use super::header::{ImageFormat, ImageHeader};
use super::png::{PngHeader, limit, with_end};
use super::refusal::not_whole;

/// Decodes a mask. Its values are those that are stored: the indexes of an image with a palette, whatever its colours
/// are, or the values of a grey image, which are not stretched to 8 bits.
///
/// # Errors
/// It is no PNG of up to 8 bits with a palette or in grey; pixels are missing or damaged.
pub(crate) fn decode_mask(bytes: &[u8], header: &ImageHeader) -> anyhow::Result<Bitmap> {
    match &header.format {
        ImageFormat::Png(of) => decode(&with_end(bytes, of), of),
        ImageFormat::Jpeg(_) => {
            bail!("a mask can't be a JPEG, whose values are changed by compression; store it as PNG")
        }
        _ => bail!("a mask is a PNG, and this is an image of another format; store it as PNG"),
    }
}

fn decode(bytes: &[u8], header: &PngHeader) -> anyhow::Result<Bitmap> {
    let damaged = || not_whole("PNG", bytes, header.width, header.height);
    let limits = Limits { bytes: usize::try_from(limit(bytes, header)).unwrap_or(usize::MAX) };
    let mut decoder = Decoder::new_with_limits(std::io::Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info().with_context(damaged)?;
    let (color, depth) = (reader.info().color_type, reader.info().bit_depth);
    let bits = match (color, depth) {
        (ColorType::Grayscale | ColorType::Indexed, BitDepth::One) => 1,
        (ColorType::Grayscale | ColorType::Indexed, BitDepth::Two) => 2,
        (ColorType::Grayscale | ColorType::Indexed, BitDepth::Four) => 4,
        (ColorType::Grayscale | ColorType::Indexed, BitDepth::Eight) => 8,
        _ => bail!(
            "a mask has one number of up to 8 bits for each pixel: a PNG with a palette, or in grey without \
             transparency; this one is {} of {} bits: convert its values to numbers of classes, or decode it by a closure",
            match color {
                ColorType::Grayscale => "grey",
                ColorType::GrayscaleAlpha => "grey with transparency",
                ColorType::Rgb | ColorType::Rgba => "in colour",
                ColorType::Indexed => "one with a palette",
            },
            depth as u8
        ),
    };
    let size = reader.output_buffer_size().with_context(damaged)?;
    let mut packed = buffer(size);
    reader.next_frame(&mut packed).with_context(damaged)?;

    let (height, width) = (header.height, header.width);
    ensure!((reader.info().height, reader.info().width) == (height, width), damaged());
    if bits == 8 {
        return Bitmap::new(height, width, 1, packed);
    }
    let width_of_row = width as usize;
    let mut values = buffer(height as usize * width_of_row);
    let rows = packed.chunks_exact((width_of_row * bits).div_ceil(8));
    for (row, values) in rows.zip(values.chunks_exact_mut(width_of_row)) {
        let pixels = row.iter().flat_map(|byte| (0..8 / bits).map(move |pixel| byte << (pixel * bits) >> (8 - bits)));
        values.iter_mut().zip(pixels).for_each(|(value, pixel)| *value = pixel);
    }
    recycle(packed);
    Bitmap::new(height, width, 1, values)
}

/// Bytes that decoding a mask holds at once at most, including the result.
pub(crate) fn mask_bytes(header: &ImageHeader) -> u64 {
    header.pixels().saturating_mul(2).saturating_add(header.scratch_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(color: ColorType, depth: BitDepth, width: u32, height: u32, rows: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut encoder = png::Encoder::new(&mut bytes, width, height);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            // Colours that aren't their indexes.
            encoder.set_palette((0..=255_u8).rev().flat_map(|value| [value, 7, value / 2]).collect::<Vec<_>>());
        }
        encoder.write_header().unwrap().write_image_data(rows).unwrap();
        bytes
    }

    fn values(bytes: &[u8]) -> anyhow::Result<Vec<u8>> {
        let mask = decode_mask(bytes, &ImageHeader::read(bytes)?)?;
        assert_eq!(mask.channels(), 1);
        Ok(mask.into_values())
    }

    #[test]
    fn values_are_those_that_are_stored() {
        for color in [ColorType::Grayscale, ColorType::Indexed] {
            let eight = png(color, BitDepth::Eight, 3, 2, &[0, 1, 255, 20, 21, 22]);
            assert_eq!(values(&eight).unwrap(), [0, 1, 255, 20, 21, 22], "{color:?}");
            let four = png(color, BitDepth::Four, 3, 2, &[0x01, 0xf0, 0x23, 0x40]);
            assert_eq!(values(&four).unwrap(), [0, 1, 15, 2, 3, 4]);
            let two = png(color, BitDepth::Two, 5, 1, &[0b0001_1011, 0b1100_0000]);
            assert_eq!(values(&two).unwrap(), [0, 1, 2, 3, 3]);
            let one = png(color, BitDepth::One, 9, 1, &[0b1000_0001, 0b1000_0000]);
            assert_eq!(values(&one).unwrap(), [1, 0, 0, 0, 0, 0, 0, 1, 1]);
        }
    }

    #[test]
    fn what_has_no_numbers_of_classes_is_refused() {
        let colour = values(&png(ColorType::Rgb, BitDepth::Eight, 1, 1, &[1, 2, 3])).unwrap_err().to_string();
        assert!(colour.contains("this one is in colour of 8 bits"), "{colour}");
        let deep = values(&png(ColorType::Grayscale, BitDepth::Sixteen, 1, 1, &[1, 2])).unwrap_err().to_string();
        assert!(deep.contains("this one is grey of 16 bits"), "{deep}");
        let mut jpeg = Vec::new();
        image::GrayImage::new(8, 8).write_to(&mut std::io::Cursor::new(&mut jpeg), image::ImageFormat::Jpeg).unwrap();
        assert!(values(&jpeg).unwrap_err().to_string().contains("can't be a JPEG"));
    }

    #[test]
    fn a_mask_that_is_cut_or_damaged_is_an_error() {
        let rows: Vec<u8> = (0..10_000_u32).map(|value| (value.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        let whole = png(ColorType::Grayscale, BitDepth::Eight, 100, 100, &rows);
        assert_eq!(values(&whole).unwrap(), rows);
        assert_eq!(values(&whole[..whole.len() - 12]).unwrap(), rows, "no pixel is in the end mark");
        let cut = format!("{:#}", values(&whole[..whole.len() / 2]).unwrap_err());
        assert!(cut.contains("cut short"), "{cut}");
        let mut damaged = whole.clone();
        damaged[whole.len() / 2] ^= 1;
        assert!(values(&damaged).is_err());
    }
}
