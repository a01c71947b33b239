//! Decodes image files.

use std::panic::{AssertUnwindSafe, catch_unwind};

use anyhow::bail;
use image::DynamicImage;

use super::header::{ImageFormat, ImageHeader};
use super::jpeg::JpegDecoding;
use super::part::{DecodedPart, WantedPart};
use super::{Bitmap, bmp, gif, jpeg, png, tiff, webp};
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

/// Pixels of an image file.
#[derive(Debug)]
pub(crate) struct DecodedImage {
    /// The pixels, as they are stored: the orientation of the file is not applied.
    pub(crate) bitmap: Bitmap,
    /// Which part of the image they are.
    pub(crate) part: DecodedPart,
}

/// Decodes a file: the wanted part of it, or more.
///
/// # Errors
/// Pixels are missing or damaged, or the file is of a kind that can't be decoded.
pub(crate) fn decode(
    bytes: &[u8],
    header: &ImageHeader,
    channels: Channels,
    wanted: WantedPart,
    jpegs: JpegDecoding,
) -> anyhow::Result<DecodedImage> {
    // The decoders panic at some damaged files, which fuzzing finds now and then.
    let decode = || decode_stored(bytes, header, wanted, jpegs);
    let (image, part) = catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|panic| {
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
    let bitmap = Bitmap::new(height, width, channels.count(), values)?;
    Ok(DecodedImage { bitmap, part })
}

fn decode_stored(
    bytes: &[u8],
    header: &ImageHeader,
    wanted: WantedPart,
    jpegs: JpegDecoding,
) -> anyhow::Result<(DynamicImage, DecodedPart)> {
    let whole = match &header.format {
        ImageFormat::Jpeg(of) => return jpeg::decode_part(bytes, of, wanted, jpegs),
        ImageFormat::Png(of) => png::decode(bytes, of),
        ImageFormat::Webp(of) => webp::decode(bytes, of),
        ImageFormat::Gif(of) => gif::decode(bytes, of),
        ImageFormat::Bmp(of) => bmp::decode(bytes, of),
        ImageFormat::Tiff(of) => tiff::decode(bytes, of),
    }?;
    Ok((whole, DecodedPart::whole(header.height, header.width, 1)))
}
