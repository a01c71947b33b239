//! Decodes JPEG files, and fails if pixels are missing.
//!
//! For a file that is cut short, both decoders fill in zeros, and return grey areas or blurred pixels without an error.
//! In a JPEG no code of the entropy coding consists of ones only. So the file is decoded up to the end of its last
//! scan, followed by a few bytes of ones and an end marker: a decoder that needs more bits than the file has finds an
//! invalid code, and fails.

use anyhow::{Context, anyhow, bail};
use image::{DynamicImage, GrayImage, RgbImage};
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::jpeg_header::{JpegDecoder, JpegHeader};
use super::jpeg_scans::JpegScans;
use super::refusal::not_whole;
use super::{buffer, recycle};

/// Eight bytes of ones, each followed by the zero that marks it as data. The longest code has 16 bits.
const ONES: [u8; 16] = [0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0];

/// As many bytes of zeros as `ONES` has data bytes.
const ZEROS: [u8; 8] = [0; 8];

const END_MARKER: [u8; 2] = [0xff, 0xd9];

/// A run of zeros at the end of a file without an end marker is space that was reserved and never written. The data of
/// a scan hold no such run.
const UNWRITTEN_ZEROS: [u8; 16] = [0; 16];

/// Decodes a whole JPEG file with this header.
///
/// # Errors
/// The file is of a kind that no decoder here gets right, or pixels are missing.
pub(super) fn decode(bytes: &[u8], header: &JpegHeader) -> anyhow::Result<DynamicImage> {
    let decoder = header.decoder()?;
    decode_whole(bytes, header, decoder)
        .with_context(|| not_whole("JPEG", bytes, header.width.into(), header.height.into()))
}

fn decode_whole(bytes: &[u8], header: &JpegHeader, decoder: JpegDecoder) -> anyhow::Result<DynamicImage> {
    let scans = JpegScans::read(bytes, header)?;
    let mut data = &bytes[..scans.end];
    if !scans.has_end_marker {
        if !scans.are_complete {
            bail!("it ends after scan {}, and further ones are missing", scans.count);
        }
        if data.ends_with(&UNWRITTEN_ZEROS) {
            let written = data.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            data = &data[..written];
        }
    }
    let image = decode_data(data, &ONES, header, decoder)?;
    if scans.has_end_marker || header.process != 2 {
        return Ok(image);
    }
    // Refinement scans have bits outside of codes, and the last scan of a progressive file may end in those. Then ones
    // and zeros in their place make two different images. Only one of the images is in memory at a time.
    let checksum = crc32c::crc32c(image.as_bytes());
    drop(image);
    let image = decode_data(data, &ZEROS, header, decoder)?;
    if crc32c::crc32c(image.as_bytes()) != checksum {
        bail!("its last scan is cut short");
    }
    Ok(image)
}

fn decode_data(data: &[u8], padding: &[u8], header: &JpegHeader, decoder: JpegDecoder) -> anyhow::Result<DynamicImage> {
    let mut file = buffer(data.len() + padding.len() + END_MARKER.len());
    let (head, tail) = file.split_at_mut(data.len());
    head.copy_from_slice(data);
    tail[..padding.len()].copy_from_slice(padding);
    tail[padding.len()..].copy_from_slice(&END_MARKER);
    let pixels = match decoder {
        JpegDecoder::Zune => zune(&file, header)?,
        JpegDecoder::Plain => plain(&file, header)?,
    };
    recycle(file);
    let (width, height) = (header.width.into(), header.height.into());
    let image = if header.components.len() == 1 {
        GrayImage::from_raw(width, height, pixels).map(DynamicImage::from)
    } else {
        RgbImage::from_raw(width, height, pixels).map(DynamicImage::from)
    };
    image.context("the decoder returned an image of another size")
}

fn zune(file: &[u8], header: &JpegHeader) -> anyhow::Result<Vec<u8>> {
    let colors = if header.components.len() == 1 { ColorSpace::Luma } else { ColorSpace::RGB };
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .jpeg_set_out_colorspace(colors)
        // The format's own limits. `ImageFolder::max_pixels` was checked before.
        .set_max_width(u16::MAX.into())
        .set_max_height(u16::MAX.into());
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(file), options);
    let described = |error| anyhow!("{error:?}");
    decoder.decode_headers().map_err(described)?;
    let mut pixels = buffer(decoder.output_buffer_size().context("the decoder found no size")?);
    decoder.decode_into(&mut pixels).map_err(described)?;
    Ok(pixels)
}

fn plain(file: &[u8], header: &JpegHeader) -> anyhow::Result<Vec<u8>> {
    let mut decoder = jpeg_decoder::Decoder::new(file);
    let pixels = decoder.decode()?;
    if header.components.len() < 4 {
        return Ok(pixels);
    }
    // The decoder's CMYK is the amount of ink.
    Ok(rgb_of_inks(&pixels))
}

/// Amounts of cyan, magenta, yellow and black ink to RGB, as Pillow does it: (255 - c) * (255 - k) / 255, rounded.
pub(super) fn rgb_of_inks(pixels: &[u8]) -> Vec<u8> {
    let light = |ink: u8, black: u8| {
        let product = u32::from(255 - ink) * u32::from(255 - black) + 128;
        ((product + (product >> 8)) >> 8) as u8
    };
    pixels.chunks_exact(4).flat_map(|ink| [ink[0], ink[1], ink[2]].map(|value| light(value, ink[3]))).collect()
}
