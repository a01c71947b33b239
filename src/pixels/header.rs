//! The headers of an image file: what it is, how large it is, and how much memory decoding it takes. They are read
//! before anything is decoded. Pure.

use std::ops::Range;

use anyhow::bail;

use super::bmp::BmpHeader;
use super::gif::{self, GifHeader};
use super::jpeg_header::JpegHeader;
use super::png::{self, PngHeader};
use super::tiff_header::TiffHeader;
use super::webp::WebpHeader;

/// Formats that decode to pixels here, with what the headers of the file say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageFormat {
    Jpeg(JpegHeader),
    Png(PngHeader),
    Webp(WebpHeader),
    Gif(GifHeader),
    Bmp(BmpHeader),
    Tiff(TiffHeader),
}

/// The formats in the words of an error.
const FORMATS: &str = "JPEG, PNG, WebP, GIF, BMP and TIFF";

/// Facts about one image file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ImageHeader {
    /// The format.
    pub(crate) format: ImageFormat,
    /// Pixels in a row as stored, before the EXIF orientation is applied.
    pub(crate) width: u32,
    /// Rows as stored, before the EXIF orientation is applied.
    pub(crate) height: u32,
    /// Values for each pixel that the decoder returns: 1 grey, 2 grey and alpha, 3 RGB, 4 RGB and alpha.
    pub(crate) channels: u8,
    /// Bits for each of these values that the decoder returns: 8 or 16.
    pub(crate) bits: u8,
    /// Where in the file the TIFF structure of the EXIF tags is.
    pub(crate) exif: Option<Range<usize>>,
    /// Bytes of the whole file.
    pub(crate) file_bytes: u64,
}

/// First bytes of JPEG files: the start marker, and the first byte of another one.
const JPEG_SIGNATURE: &[u8] = b"\xff\xd8\xff";

/// First bytes of files that are stored in place of an image that can be decoded: their offset, the bytes, and what the
/// file is.
const FOREIGN_SIGNATURES: [(usize, &[u8], &str); 28] = [
    (0, b"II+\0", "a BigTIFF image"),
    (0, b"MM\0+", "a BigTIFF image"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftypavis", "an AVIF image"),
    (4, b"ftyphei", "a HEIC image"),
    (4, b"ftyphev", "a HEIC image"),
    (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftypmsf1", "a HEIF image"),
    (4, b"ftyp", "an MP4 or QuickTime file"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (4, b"JXL \r\n\x87\n", "a JPEG XL image"),
    (4, b"jP  \r\n\x87\n", "a JPEG 2000 image"),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (0, b"8BPS", "a Photoshop image"),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image"),
    (0, b"#?RADIANCE", "a Radiance HDR image"),
    (0, b"qoif", "a QOI image"),
    (0, b"DDS ", "a DDS texture"),
    (0, b"\0\0\x01\0", "an ICO image"),
    (128, b"DICM", "a DICOM image"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"PK\x03\x04", "a ZIP archive"),
    (257, b"ustar", "a tar archive"),
    (0, b"BZh", "a bzip2 file"),
    (0, b"\xfd7zXZ\0", "an xz file"),
    (0, b"version https://git-lfs", "a pointer file of Git LFS, not the image itself"),
    (0, b"RIFF", "a RIFF file (audio or video)"),
];

/// First characters of text files that web servers and exports store under an image's name.
const TEXT_SIGNATURES: [(&[u8], &str); 4] = [
    (b"<svg", "an SVG image"),
    (b"<!doctype html", "an HTML page"),
    (b"<html", "an HTML page"),
    (b"<?xml", "an XML file"),
];

impl ImageHeader {
    /// Reads the headers of a whole file.
    ///
    /// # Errors
    /// The file is not an image of a supported format, or its headers are damaged; the message says what the file is
    /// and what to do.
    pub(crate) fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        let file_bytes = bytes.len() as u64;
        let header = |format, width, height, channels, bits, exif| Self {
            format,
            width,
            height,
            channels,
            bits,
            exif,
            file_bytes,
        };
        if bytes.starts_with(JPEG_SIGNATURE) {
            let (of, exif) = JpegHeader::read(bytes)?;
            // A file that no decoder takes is named before its numbers are believed: its height may be 0.
            of.decoder()?;
            let channels = if of.components.len() == 1 { 1 } else { 3 };
            Ok(header(ImageFormat::Jpeg(of.clone()), of.width.into(), of.height.into(), channels, 8, exif))
        } else if bytes.starts_with(png::SIGNATURE) {
            let of = PngHeader::read(bytes)?;
            Ok(header(ImageFormat::Png(of.clone()), of.width, of.height, of.channels, of.bits, of.exif))
        } else if WebpHeader::has_signature(bytes) {
            let of = WebpHeader::read(bytes)?;
            Ok(header(ImageFormat::Webp(of.clone()), of.width, of.height, of.channels, 8, of.exif))
        } else if bytes.starts_with(gif::SIGNATURE) {
            let of = GifHeader::read(bytes)?;
            Ok(header(ImageFormat::Gif(of.clone()), of.width, of.height, of.channels, 8, None))
        } else if BmpHeader::has_signature(bytes) {
            let of = BmpHeader::read(bytes)?;
            Ok(header(ImageFormat::Bmp(of.clone()), of.width, of.height, of.channels, 8, None))
        } else if TiffHeader::has_signature(bytes) {
            let of = TiffHeader::read(bytes)?;
            // The orientation is in the first directory of the file, as it is in EXIF data, which are a TIFF file.
            let exif = Some(0..bytes.len());
            let (width, height, channels, bits) = (of.width, of.height, of.channels(), of.decoded_bits());
            Ok(header(ImageFormat::Tiff(of), width, height, channels, bits, exif))
        } else {
            bail!("{}", foreign(bytes))
        }
    }

    /// Whether a file begins like a format that is decoded here.
    pub(crate) fn has_known_signature(bytes: &[u8]) -> bool {
        bytes.starts_with(JPEG_SIGNATURE)
            || bytes.starts_with(png::SIGNATURE)
            || bytes.starts_with(gif::SIGNATURE)
            || WebpHeader::has_signature(bytes)
            || BmpHeader::has_signature(bytes)
            || TiffHeader::has_signature(bytes)
    }

    /// Pixels of the whole image.
    pub(crate) fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
    }

    /// Pixels that are decoded, of which some may lie outside of the image.
    pub(crate) fn coded_pixels(&self) -> u64 {
        match &self.format {
            ImageFormat::Tiff(of) => of.coded_pixels(),
            _ => self.pixels(),
        }
    }

    /// Bytes of the decoder's output.
    pub(crate) fn decoded_bytes(&self) -> u64 {
        self.pixels().saturating_mul(u64::from(self.channels) * u64::from(self.bits / 8))
    }

    /// Bytes that are held at most until the decoder's output is converted to eight bits and `channels` channels.
    pub(crate) fn decoding_bytes(&self, channels: u64) -> u64 {
        let converted = self.pixels().saturating_mul(channels);
        self.decoded_bytes().saturating_add(self.scratch_bytes().max(converted))
    }

    /// Bytes that the decoder holds in addition to its output while it works, at most.
    pub(crate) fn scratch_bytes(&self) -> u64 {
        /// Tables, a zlib window and its input buffer. Measured at 100 to 200 KiB for either decoder.
        const FIXED_BYTES: u64 = 256 << 10;
        let of_the_format = match &self.format {
            // The file is copied, because another end is appended.
            ImageFormat::Jpeg(of) => of.scratch_bytes() + self.file_bytes,
            ImageFormat::Png(of) => of.scratch_bytes(self.file_bytes),
            ImageFormat::Webp(of) => of.scratch_bytes(self.file_bytes),
            ImageFormat::Gif(of) => of.scratch_bytes(),
            ImageFormat::Bmp(of) => of.scratch_bytes(),
            ImageFormat::Tiff(of) => of.scratch_bytes(self.file_bytes),
        };
        of_the_format.saturating_add(FIXED_BYTES)
    }
}

/// The message for an object that is stored with a `Content-Encoding` of this name.
pub(crate) fn encoded(encoding: &str) -> String {
    format!(
        "it is stored {encoding}-encoded, and objects are delivered as they are stored; upload the image itself, without a \
         Content-Encoding (images are compressed already), or decode it with a closure that decompresses it first"
    )
}

/// The message for a file of no format that is decoded here: what it is, and what to do.
fn foreign(bytes: &[u8]) -> String {
    if bytes.is_empty() {
        return "it is empty (0 bytes); upload it again, or leave it out".to_owned();
    }
    for (signature, encoding) in [(b"\x1f\x8b".as_slice(), "gzip"), (b"\x28\xb5\x2f\xfd", "zstd")] {
        if bytes.starts_with(signature) {
            return encoded(encoding);
        }
    }
    let text = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes).trim_ascii_start();
    let is_netpbm = matches!(bytes, [b'P', b'1'..=b'7', space, ..] if space.is_ascii_whitespace());
    let name = FOREIGN_SIGNATURES
        .iter()
        .find(|(at, signature, _)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(signature)))
        .map(|(_, _, name)| *name)
        .or(is_netpbm.then_some("a Netpbm image (PBM, PGM, PPM or PAM)"))
        .or_else(|| {
            let starts = |with: &[u8]| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
            TEXT_SIGNATURES.iter().find(|(signature, _)| starts(signature)).map(|(_, name)| *name)
        });
    if let Some(name) = name {
        return format!(
            "it is {name}, and ImageFolder decodes {FORMATS} only; convert it to one of these, leave it out, or decode it \
             with a closure"
        );
    }
    let count = bytes.len();
    let first: Vec<String> = bytes.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!(
        "its {count} bytes are no image of a known format: they begin with {} (hexadecimal); leave it out, or decode it \
         with a closure",
        first.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_prefix_of_an_image_is_read_without_a_panic() {
        let jpeg = super::super::jpeg_header::tests::file(2, &[[1, 0x22, 0], [2, 0x11, 0], [3, 0x11, 0]], 3);
        for file in [png::tests::file(8, 2, &[png::tests::chunk(b"eXIf", b"MM\0*\0\0\0\x08")]), jpeg] {
            assert!(ImageHeader::read(&file).is_ok());
            for length in 0..file.len() {
                let _ = ImageHeader::read(&file[..length]);
            }
        }
    }

    /// A crop of such an image subtracted from 0.
    #[test]
    fn images_without_pixels_are_refused() {
        let mut jpeg = super::super::jpeg_header::tests::file(2, &[[1, 0x22, 0], [2, 0x11, 0], [3, 0x11, 0]], 3);
        let frame = jpeg.windows(2).position(|marker| marker == b"\xff\xc2").expect("a frame");
        jpeg[frame + 5..frame + 7].fill(0);
        let error = ImageHeader::read(&jpeg).unwrap_err().to_string();
        assert!(error.contains("height is given behind its first scan"), "{error}");
        jpeg[frame + 5..frame + 9].copy_from_slice(&[0, 1, 0, 0]);
        let error = ImageHeader::read(&jpeg).unwrap_err().to_string();
        assert!(error.contains("damaged headers"), "{error}");
    }

    #[test]
    fn foreign_formats_are_named() {
        let jpeg_xl = [b"\0\0\0\x0cJXL \r\n\x87\n".as_slice(), &[0; 20]].concat();
        for (bytes, name) in [
            (jpeg_xl.as_slice(), "a JPEG XL image"),
            (b"II+\0\x08\0\0\0", "a BigTIFF image"),
            (b"\0\0\0\x20ftypavif", "an AVIF image"),
            (b"\0\0\0\x20ftypheic", "a HEIC image"),
            (b"\xef\xbb\xbf\n<!DOCTYPE HTML><html>", "an HTML page"),
            (b"P6\n3 2\n255\n", "a Netpbm image"),
            (b"\x1f\x8b\x08\0", "stored gzip-encoded"),
            (b"", "empty"),
            (b"hello", "no image of a known format: they begin with 68 65 6c 6c 6f"),
        ] {
            let error = ImageHeader::read(bytes).unwrap_err().to_string();
            assert!(error.contains(name), "{name} in {error}");
        }
    }
}
