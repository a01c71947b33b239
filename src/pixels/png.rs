//! PNG files: their chunks, and their pixels.

use std::borrow::Cow;
use std::io::Cursor;
use std::ops::Range;

use anyhow::{Context, bail};
use image::codecs::png::PngDecoder;
use image::{DynamicImage, Limits};

use super::refusal::{damaged_headers, not_whole};

/// First bytes of PNG files.
pub(super) const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// The chunk that ends a PNG file.
const END: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";

/// What the chunks of a PNG file say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PngHeader {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Values for each pixel that the decoder returns: palettes and transparent colours are expanded.
    pub(super) channels: u8,
    /// Bits for each value that the decoder returns: 8 or 16.
    pub(super) bits: u8,
    /// Where in the file the TIFF structure of the EXIF tags is.
    pub(super) exif: Option<Range<usize>>,
    /// Where the end chunk belongs, if the file lacks it or has a part of it.
    missing_end: Option<usize>,
}

impl PngHeader {
    /// Reads the chunks up to the end, as far as they are there.
    pub(super) fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        chunks(bytes).with_context(|| damaged_headers("a PNG"))
    }

    /// Bytes that the decoder holds in addition to its output, at most.
    pub(super) fn scratch_bytes(&self, file_bytes: u64) -> u64 {
        // Rows from the inflater, some of which are in its window; chunks that are no pixels.
        u64::from(self.width) * u64::from(self.channels) * u64::from(self.bits / 8) * 4 + file_bytes
    }
}

fn chunks(bytes: &[u8]) -> anyhow::Result<PngHeader> {
    let header = bytes.get(16..29).filter(|_| &bytes[12..16] == b"IHDR").context("its first chunk is no whole IHDR")?;
    let number = |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (width, height) = (number(0), number(4));
    if width == 0 || height == 0 {
        bail!("its size is {width} x {height} pixels (width x height)");
    }
    // Bits and colour type of the decoder's output, in which palettes and samples of fewer than 8 bits are expanded.
    let (stored_bits, color_type) = (header[8], header[9]);
    let color_channels = match color_type {
        0 | 4 => 1,
        2 | 3 | 6 => 3,
        _ => bail!("its colour type is {color_type}"),
    };
    let mut alpha = matches!(color_type, 4 | 6);
    let mut exif = None;
    let mut at: usize = 8;
    let mut has_end = false;
    while let Some(&[a, b, c, d, ref name @ ..]) = bytes.get(at..at.saturating_add(8)) {
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        let data = at + 8;
        match name {
            // The decoder panics at a palette that ends within a colour.
            b"PLTE" if !length.is_multiple_of(3) => bail!("its palette has {length} bytes, which are no whole colours"),
            b"tRNS" => alpha = true,
            b"eXIf" if bytes.get(data..data.saturating_add(length)).is_some() => exif = Some(data..data + length),
            b"IEND" => {
                has_end = bytes.len() >= data + 4;
                break;
            }
            _ => {}
        }
        // The chunk's data, and its checksum of 4 bytes.
        at = data.saturating_add(length).saturating_add(4);
    }
    Ok(PngHeader {
        width,
        height,
        channels: color_channels + u8::from(alpha),
        bits: if stored_bits == 16 { 16 } else { 8 },
        exif,
        missing_end: (!has_end && at <= bytes.len()).then_some(at),
    })
}

/// Decodes a whole PNG file with this header.
///
/// # Errors
/// Pixels are missing or damaged.
pub(super) fn decode(bytes: &[u8], header: &PngHeader) -> anyhow::Result<DynamicImage> {
    let bytes = &*with_end(bytes, header);
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(limit(bytes, header));
    PngDecoder::with_limits(Cursor::new(bytes), limits)
        .and_then(DynamicImage::from_decoder)
        .with_context(|| not_whole("PNG", bytes, header.width, header.height))
}

/// The file with its end chunk, which decoders require, although no pixel is missing without it.
pub(super) fn with_end<'a>(bytes: &'a [u8], header: &PngHeader) -> Cow<'a, [u8]> {
    match header.missing_end {
        None => bytes.into(),
        Some(at) => [&bytes[..at], END].concat().into(),
    }
}

/// Bytes that a decoder may hold of chunks that aren't pixels, above all of a compressed colour profile: a larger
/// profile is skipped. The file's chunks and a few rows always fit.
pub(super) fn limit(bytes: &[u8], header: &PngHeader) -> u64 {
    const PROFILE_BYTES: u64 = 64 << 10;
    let row = u64::from(header.width) * 8;
    PROFILE_BYTES + 2 * bytes.len() as u64 + 4 * row
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn chunk(name: &[u8], data: &[u8]) -> Vec<u8> {
        // The checksum is not checked here.
        [&(data.len() as u32).to_be_bytes()[..], name, data, &[0; 4]].concat()
    }

    pub(in super::super) fn file(bits: u8, color_type: u8, more: &[Vec<u8>]) -> Vec<u8> {
        let ihdr = [&300_u32.to_be_bytes()[..], &200_u32.to_be_bytes(), &[bits, color_type, 0, 0, 0]].concat();
        [SIGNATURE.to_vec(), chunk(b"IHDR", &ihdr), more.concat(), chunk(b"IEND", &[])].concat()
    }

    #[test]
    fn every_colour_type_and_depth() {
        for (bits, color_type, channels, decoded_bits) in
            [(1, 0, 1, 8), (16, 0, 1, 16), (8, 2, 3, 8), (16, 2, 3, 16), (4, 3, 3, 8), (8, 4, 2, 8), (16, 6, 4, 16)]
        {
            let header = PngHeader::read(&file(bits, color_type, &[])).unwrap();
            assert_eq!((header.width, header.height), (300, 200));
            assert_eq!((header.channels, header.bits), (channels, decoded_bits), "{bits} bits, type {color_type}");
        }
        let header = PngHeader::read(&file(8, 3, &[chunk(b"tRNS", &[0])])).unwrap();
        assert_eq!(header.channels, 4, "a palette with transparent colours decodes to RGBA");
    }

    #[test]
    fn palettes_that_end_within_a_colour_are_errors() {
        for (length, is_right) in [(0, true), (3, true), (48, true), (1, false), (49, false)] {
            let read = PngHeader::read(&file(8, 3, &[chunk(b"PLTE", &vec![0; length])]));
            assert_eq!(read.is_ok(), is_right, "{length}: {read:?}");
        }
    }

    #[test]
    fn chunks_with_lengths_that_lie_end_the_search() {
        for length in [0, 5, u32::MAX] {
            let mut file = file(8, 2, &[]);
            file.truncate(33);
            file.extend([&length.to_be_bytes()[..], b"eXIf", b"12"].concat());
            let header = PngHeader::read(&file).unwrap();
            assert_eq!(header.exif, (length == 0).then_some(41..41));
        }
    }
}
