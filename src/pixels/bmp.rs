//! BMP files: their headers, and their pixels.

use std::io::Cursor;

use anyhow::{Context, bail, ensure};
use image::codecs::bmp::BmpDecoder;
use image::{DynamicImage, ImageDecoder};

use super::refusal::{damaged_headers, not_whole, unsupported};

/// What the headers of a BMP file say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BmpHeader {
    pub(super) width: u32,
    pub(super) height: u32,
    /// Values for each pixel that the decoder returns: 3, or 4 with a mask for alpha.
    pub(super) channels: u8,
}

/// How the pixels of a BMP file are stored.
mod compression {
    pub(super) const NONE: u32 = 0;
    pub(super) const RUNS_OF_8_BITS: u32 = 1;
    pub(super) const RUNS_OF_4_BITS: u32 = 2;
    pub(super) const MASKS: u32 = 3;
}

impl BmpHeader {
    /// Whether a file begins like a BMP image: its signature is short, so the size of its second header counts, too.
    pub(super) fn has_signature(bytes: &[u8]) -> bool {
        bytes.starts_with(b"BM") && matches!(bytes.get(14..18), Some([12..=124, 0, 0, 0]))
    }

    /// Reads the headers.
    ///
    /// # Errors
    /// They are damaged, or say that the file is of a kind that the decoder can't decode.
    pub(super) fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        let damaged = || damaged_headers("a BMP");
        let info_bytes = bytes.get(14).copied().with_context(damaged)?;
        let info = bytes.get(14..14 + usize::from(info_bytes)).context("it ends within them").with_context(damaged)?;
        let short = |at: usize| u32::from(u16::from_le_bytes([info[at], info[at + 1]]));
        let long = |at: usize| i32::from_le_bytes([info[at], info[at + 1], info[at + 2], info[at + 3]]);
        let (width, height, bits, compression) = match info_bytes {
            12 => (short(4), short(6), short(10), compression::NONE),
            40 | 52 | 56 | 108 | 124 => {
                let width = u32::try_from(long(4)).unwrap_or(0);
                // A negative height is that of an image whose first row is the uppermost one.
                (width, long(8).unsigned_abs(), short(14), long(16).cast_unsigned())
            }
            _ => {
                let what = format!("a BMP image whose second header has {info_bytes} bytes");
                return Err(unsupported(&what, "convert it to PNG"));
            }
        };
        check_size(width, height).with_context(damaged)?;
        match (compression, bits) {
            (compression::NONE, 1 | 4 | 8 | 24)
            | (compression::RUNS_OF_8_BITS, 8)
            | (compression::RUNS_OF_4_BITS, 4)
            | (compression::MASKS, 16 | 32) => {}
            (compression::NONE, 2 | 16 | 32) if info_bytes > 12 => {}
            (4 | 5, _) => {
                let inside = if compression == 4 { "JPEG" } else { "PNG" };
                let what = format!("a BMP image whose pixels are a {inside} file");
                return Err(unsupported(&what, "extract that file"));
            }
            _ => {
                let what = format!("a BMP image of {bits} bits a pixel with compression {compression}");
                return Err(unsupported(&what, "convert it to PNG"));
            }
        }
        let has_alpha = compression == compression::MASKS && info_bytes >= 56 && long(52) != 0;
        Ok(Self { width, height, channels: if has_alpha { 4 } else { 3 } })
    }

    /// Bytes that the decoder holds in addition to its output, at most.
    pub(super) fn scratch_bytes(&self) -> u64 {
        // A row.
        u64::from(self.width) * 4
    }
}

fn check_size(width: u32, height: u32) -> anyhow::Result<()> {
    ensure!(width > 0 && height > 0, "its size is {width} x {height} pixels (width x height)");
    // The decoder's limit, which is that of JPEG.
    let largest = u32::from(u16::MAX);
    if width > largest || height > largest {
        bail!("its size is {width} x {height} pixels (width x height), and a side has at most {largest}");
    }
    Ok(())
}

/// Decodes a whole BMP file with this header.
///
/// # Errors
/// Pixels are missing or damaged.
pub(super) fn decode(bytes: &[u8], header: &BmpHeader) -> anyhow::Result<DynamicImage> {
    let decode = || {
        let decoder = BmpDecoder::new(Cursor::new(bytes))?;
        let found = (decoder.dimensions(), decoder.color_type().channel_count());
        ensure!(
            found == ((header.width, header.height), header.channels),
            "the decoder found {} x {} pixels of {} channels",
            found.0.0,
            found.0.1,
            found.1
        );
        Ok(DynamicImage::from_decoder(decoder)?)
    };
    decode().with_context(|| not_whole("BMP", bytes, header.width, header.height))
}
