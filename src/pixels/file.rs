//! Decodes image files.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::{Context, bail};
use image::codecs::png::PngDecoder;
use image::{DynamicImage, Limits};

use super::Bitmap;
use super::header::{ImageFormat, ImageHeader};
use super::jpeg;
use crate::error::panic_message;

/// The channels of decoded images.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Channels {
    /// One channel of luminance.
    Gray,
    /// Red, green and blue. Transparency is dropped.
    #[default]
    Rgb,
    /// Red, green, blue and alpha, which is 255 in images without transparency.
    Rgba,
}

impl Channels {
    /// How many there are.
    pub(crate) fn count(self) -> u8 {
        match self {
            Self::Gray => 1,
            Self::Rgb => 3,
            Self::Rgba => 4,
        }
    }
}

/// Decodes a whole file, as it is stored: its orientation is not applied.
///
/// # Errors
/// Pixels are missing or damaged, or the file is of a kind that can't be decoded.
pub(crate) fn decode(bytes: &[u8], header: &ImageHeader, channels: Channels) -> anyhow::Result<Bitmap> {
    // The decoders panic at some damaged files, which fuzzing finds now and then.
    let image = catch_unwind(AssertUnwindSafe(|| decode_stored(bytes, header))).unwrap_or_else(|panic| {
        bail!(
            "its {} bytes made the decoder panic ({}): it is damaged; upload it again, or leave it out",
            bytes.len(),
            panic_message(&*panic)
        )
    })?;
    let (height, width) = (image.height(), image.width());
    let values = match channels {
        Channels::Gray => image.into_luma8().into_raw(),
        Channels::Rgb => image.into_rgb8().into_raw(),
        Channels::Rgba => image.into_rgba8().into_raw(),
    };
    Bitmap::new(height, width, channels.count(), values)
}

fn decode_stored(bytes: &[u8], header: &ImageHeader) -> anyhow::Result<DynamicImage> {
    match &header.format {
        ImageFormat::Jpeg(jpeg) => jpeg::decode(bytes, jpeg),
        ImageFormat::Png { missing_end: None } => decode_png(bytes, header),
        // The decoder requires the end chunk, although no pixel is missing without it.
        ImageFormat::Png { missing_end: Some(at) } => decode_png(&[&bytes[..*at], PNG_END].concat(), header),
    }
}

/// The chunk that ends a PNG file.
const PNG_END: &[u8] = b"\0\0\0\0IEND\xae\x42\x60\x82";

fn decode_png(bytes: &[u8], header: &ImageHeader) -> anyhow::Result<DynamicImage> {
    // The limit on what the decoder holds of chunks that aren't pixels, above all of a compressed colour profile: a
    // larger profile is skipped. The file's chunks and a few rows always fit.
    const PROFILE_BYTES: u64 = 64 << 10;
    let row = u64::from(header.width) * 8;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(PROFILE_BYTES + 2 * bytes.len() as u64 + 4 * row);
    PngDecoder::with_limits(std::io::Cursor::new(bytes), limits).and_then(DynamicImage::from_decoder).with_context(
        || {
            let (width, height, count) = (header.width, header.height, bytes.len());
            format!(
                "its {count} bytes are no whole PNG image of {width} x {height} pixels (width x height): it is cut \
                 short or damaged; upload it again, or leave it out"
            )
        },
    )
}
