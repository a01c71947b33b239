//! The pixels of TIFF files.

use std::borrow::Cow;
use std::io::Cursor;

use ::tiff::decoder::ifd::Value;
use ::tiff::decoder::{Decoder, DecodingResult, Limits};
use anyhow::{Context, bail, ensure};
use image::{DynamicImage, GrayAlphaImage, GrayImage, ImageBuffer, RgbImage, RgbaImage};

use super::buffer;
use super::jpeg;
use super::jpeg_header::JpegHeader;
use super::refusal::not_whole;
use super::tiff_header::{TiffAlpha, TiffColor, TiffHeader, compression};

/// Decodes the first image of a TIFF file with this header.
///
/// # Errors
/// Pixels are missing or damaged.
pub(super) fn decode(bytes: &[u8], header: &TiffHeader) -> anyhow::Result<DynamicImage> {
    let decode = if header.compression == compression::JPEG { decode_jpegs } else { decode_samples };
    decode(bytes, header).with_context(|| not_whole("TIFF", bytes, header.width, header.height))
}

fn decode_samples(bytes: &[u8], header: &TiffHeader) -> anyhow::Result<DynamicImage> {
    // The decoder refuses palettes, but not the indices into them as grey values.
    let file =
        if header.color == TiffColor::Palette { Cow::Owned(as_gray(bytes, header)) } else { Cow::Borrowed(bytes) };
    let mut limits = Limits::unlimited();
    // The limit holds for the samples and for the values of each tag. The longest list of values is that of the strips
    // or tiles, or has one for each sample.
    let list_bytes = header.chunks.len().max(header.samples.into()) * size_of::<Value>();
    limits.decoding_buffer_size = usize::try_from(header.stored_bytes()).unwrap_or(usize::MAX).max(list_bytes);
    let mut decoder = Decoder::new(Cursor::new(file.as_ref()))?.with_limits(limits);
    ensure!(decoder.dimensions()? == (header.width, header.height), "the decoder found another size");
    let mut decoded = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut decoded)?;
    let samples = match layout.planes {
        1 if header.color == TiffColor::Gray => header.samples.into(),
        1 => usize::from(header.color_samples()) + usize::from(header.alpha != TiffAlpha::None),
        planes => planes,
    };
    match decoded {
        DecodingResult::U8(values) if header.bits < 8 => unpacked(&values, header),
        DecodingResult::U8(values) => image_of_bytes(of_pixels(values, samples, layout.planes, header)?, header),
        DecodingResult::U16(values) => image_of_shorts(of_pixels(values, samples, layout.planes, header)?, header),
        _ => bail!("the decoder returned numbers of another type"),
    }
}

/// The file with grey values instead of indices into a palette.
fn as_gray(bytes: &[u8], header: &TiffHeader) -> Vec<u8> {
    let mut file = bytes.to_vec();
    file[header.interpretation_at] = 1;
    file
}

/// The samples that are colours or alpha, pixel after pixel, of an image of `samples` samples a pixel.
fn of_pixels<T: Copy + Default>(
    values: Vec<T>,
    samples: usize,
    planes: usize,
    header: &TiffHeader,
) -> anyhow::Result<Vec<T>> {
    let pixels = header.width as usize * header.height as usize;
    ensure!(values.len() == pixels * samples, "the decoder returned {} values", values.len());
    let wanted = usize::from(header.color_samples()) + usize::from(header.alpha != TiffAlpha::None);
    if planes == 1 && samples == wanted {
        return Ok(values);
    }
    ensure!(samples >= wanted, "the decoder returned {samples} samples a pixel");
    let mut chosen = vec![T::default(); pixels * wanted];
    for (index, pixel) in chosen.chunks_exact_mut(wanted).enumerate() {
        for (sample, value) in pixel.iter_mut().enumerate() {
            *value = values[if planes == 1 { index * samples + sample } else { sample * pixels + index }];
        }
    }
    Ok(chosen)
}

/// Grey values or indices of fewer than eight bits, each row of which begins with a byte of its own.
fn unpacked(packed: &[u8], header: &TiffHeader) -> anyhow::Result<DynamicImage> {
    let bits = usize::from(header.bits);
    let (width, per_byte) = (header.width as usize, 8 / bits);
    let row_bytes = width.div_ceil(per_byte);
    ensure!(packed.len() == row_bytes * header.height as usize, "the decoder returned {} bytes", packed.len());
    let largest = (1_u8 << bits) - 1;
    // Grey values are spread over those of eight bits.
    let factor = if header.color == TiffColor::Palette { 1 } else { 255 / largest };
    let mut values = buffer(width * header.height as usize);
    for (row, place) in packed.chunks_exact(row_bytes).zip(values.chunks_exact_mut(width)) {
        for (column, value) in place.iter_mut().enumerate() {
            let shift = 8 - bits * (column % per_byte + 1);
            *value = (row[column / per_byte] >> shift & largest) * factor;
        }
    }
    image_of_bytes(values, header)
}

fn image_of_bytes(mut values: Vec<u8>, header: &TiffHeader) -> anyhow::Result<DynamicImage> {
    let (width, height) = (header.width, header.height);
    if header.alpha == TiffAlpha::Premultiplied {
        let channels = usize::from(header.channels());
        values.chunks_exact_mut(channels).for_each(|pixel| {
            let (colors, alpha) = pixel.split_at_mut(channels - 1);
            if alpha[0] != 0 {
                let straight = |value: u8| (u32::from(value) * 255 / u32::from(alpha[0])).min(255) as u8;
                for value in colors {
                    *value = straight(*value);
                }
            }
        });
    }
    let image = match (header.color, header.channels()) {
        (TiffColor::Palette, _) => {
            let colors =
                values.iter().flat_map(|index| header.palette.get(usize::from(*index)).copied().unwrap_or([0; 3]));
            RgbImage::from_raw(width, height, colors.collect()).map(DynamicImage::from)
        }
        (TiffColor::Cmyk, _) => RgbImage::from_raw(width, height, jpeg::rgb_of_inks(&values)).map(DynamicImage::from),
        (_, 1) => GrayImage::from_raw(width, height, values).map(DynamicImage::from),
        (_, 2) => GrayAlphaImage::from_raw(width, height, values).map(DynamicImage::from),
        (_, 3) => RgbImage::from_raw(width, height, values).map(DynamicImage::from),
        _ => RgbaImage::from_raw(width, height, values).map(DynamicImage::from),
    };
    image.context("the decoder returned an image of another size")
}

fn image_of_shorts(mut values: Vec<u16>, header: &TiffHeader) -> anyhow::Result<DynamicImage> {
    let (width, height) = (header.width, header.height);
    if header.color == TiffColor::Cmyk {
        let rounded = |value: u16| ((u32::from(value) + 128) / 257) as u8;
        return image_of_bytes(values.into_iter().map(rounded).collect(), header);
    }
    if header.alpha == TiffAlpha::Premultiplied {
        let channels = usize::from(header.channels());
        values.chunks_exact_mut(channels).for_each(|pixel| {
            let (colors, alpha) = pixel.split_at_mut(channels - 1);
            if alpha[0] != 0 {
                let straight = |value: u16| (u64::from(value) * 65_535 / u64::from(alpha[0])).min(65_535) as u16;
                for value in colors {
                    *value = straight(*value);
                }
            }
        });
    }
    let image = match header.channels() {
        1 => ImageBuffer::from_raw(width, height, values).map(DynamicImage::ImageLuma16),
        2 => ImageBuffer::from_raw(width, height, values).map(DynamicImage::ImageLumaA16),
        3 => ImageBuffer::from_raw(width, height, values).map(DynamicImage::ImageRgb16),
        _ => ImageBuffer::from_raw(width, height, values).map(DynamicImage::ImageRgba16),
    };
    image.context("the decoder returned an image of another size")
}

/// Strips or tiles that are JPEG files. The decoder of TIFF would fill in grey where one is cut short.
fn decode_jpegs(bytes: &[u8], header: &TiffHeader) -> anyhow::Result<DynamicImage> {
    /// A segment of Adobe, whose last byte says that three components are red, green and blue.
    const RGB_SEGMENT: &[u8] = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0";
    let (width, height) = (header.width as usize, header.height as usize);
    let (chunk_width, chunk_height) = (header.chunk_size.0 as usize, header.chunk_size.1 as usize);
    let channels = usize::from(header.channels());
    let across = width.div_ceil(chunk_width);
    let tables = header.jpeg_tables.as_ref().and_then(|range| bytes.get(range.clone()));
    let tables = tables.and_then(|tables| tables.strip_prefix(b"\xff\xd8")?.strip_suffix(b"\xff\xd9"));
    let colors = if header.color == TiffColor::Rgb { RGB_SEGMENT } else { &[] };

    let mut values = buffer(width * height * channels);
    for (index, range) in header.chunks.iter().enumerate() {
        let chunk = &bytes[range.clone()];
        let data = chunk.strip_prefix(b"\xff\xd8").context("a strip or tile is no JPEG file")?;
        let file = [b"\xff\xd8", colors, tables.unwrap_or_default(), data].concat();
        let (jpeg, _) = JpegHeader::read(&file)?;
        let (left, top) = (index % across * chunk_width, index / across * chunk_height);
        let (columns, rows) = (chunk_width.min(width - left), chunk_height.min(height - top));
        let found = (usize::from(jpeg.width), usize::from(jpeg.height), jpeg.components.len());
        // Tiles are whole where they reach over the image's edge; a last strip may be.
        ensure!(
            (columns..=chunk_width).contains(&found.0)
                && (rows..=chunk_height).contains(&found.1)
                && found.2 == channels,
            "a strip or tile is a JPEG of {} x {} pixels (width x height) and {} components",
            found.0,
            found.1,
            found.2
        );
        let image = jpeg::decode(&file, &jpeg)?;
        let source = image.as_bytes().chunks_exact(found.0 * channels);
        let target = values[top * width * channels..].chunks_exact_mut(width * channels);
        for (place, row) in target.zip(source).take(rows) {
            place[left * channels..][..columns * channels].copy_from_slice(&row[..columns * channels]);
        }
    }
    if header.color == TiffColor::InvertedGray {
        for value in &mut values {
            *value = 255 - *value;
        }
    }
    image_of_bytes(values, header)
}
