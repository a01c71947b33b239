//! The headers of an image file: what it is, how large it is, and how much memory decoding it takes. They are read
//! before anything is decoded. Pure.

use std::ops::Range;

use anyhow::{Context, bail};

use super::jpeg_header::JpegHeader;

/// Formats that decode to pixels here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageFormat {
    /// JPEG, with what its frame and scan headers say.
    Jpeg(JpegHeader),
    /// PNG.
    Png {
        /// Where the end chunk belongs, if the file lacks it or has a part of it.
        missing_end: Option<usize>,
    },
}

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

/// First bytes of PNG files.
const PNG_SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// First bytes of JPEG files: the start marker, and the first byte of another one.
const JPEG_SIGNATURE: &[u8] = b"\xff\xd8\xff";

/// First bytes of files that are stored in place of a PNG or JPEG: their offset, the bytes, and what the file is.
const FOREIGN_SIGNATURES: [(usize, &[u8], &str); 32] = [
    (8, b"WEBP", "a WebP image"),
    (0, b"GIF8", "a GIF image"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
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
        if bytes.starts_with(PNG_SIGNATURE) {
            png(bytes).context("it is a PNG image with damaged headers; upload it again, or leave it out")
        } else if bytes.starts_with(JPEG_SIGNATURE) {
            let (jpeg, exif) = JpegHeader::read(bytes)?;
            Ok(Self {
                width: jpeg.width.into(),
                height: jpeg.height.into(),
                channels: if jpeg.components.len() == 1 { 1 } else { 3 },
                bits: 8,
                exif,
                file_bytes: bytes.len() as u64,
                format: ImageFormat::Jpeg(jpeg),
            })
        } else {
            bail!("{}", foreign(bytes))
        }
    }

    /// Whether a file begins like a format that is decoded here.
    pub(crate) fn has_known_signature(bytes: &[u8]) -> bool {
        bytes.starts_with(PNG_SIGNATURE) || bytes.starts_with(JPEG_SIGNATURE)
    }

    /// Pixels of the whole image.
    pub(crate) fn pixels(&self) -> u64 {
        u64::from(self.width) * u64::from(self.height)
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
        FIXED_BYTES
            + match &self.format {
                // The file is copied, because another end is appended.
                ImageFormat::Jpeg(jpeg) => jpeg.scratch_bytes() + self.file_bytes,
                // Rows from the inflater, some of which are in its window; chunks that are no pixels.
                ImageFormat::Png { .. } => {
                    u64::from(self.width) * u64::from(self.channels) * u64::from(self.bits / 8) * 4 + self.file_bytes
                }
            }
    }
}

/// Reads the chunks of a PNG up to its end, as far as they are there.
fn png(bytes: &[u8]) -> anyhow::Result<ImageHeader> {
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
    Ok(ImageHeader {
        format: ImageFormat::Png { missing_end: (!has_end && at <= bytes.len()).then_some(at) },
        width,
        height,
        channels: color_channels + u8::from(alpha),
        bits: if stored_bits == 16 { 16 } else { 8 },
        exif,
        file_bytes: bytes.len() as u64,
    })
}

/// The message for an object that is stored with a `Content-Encoding` of this name.
pub(crate) fn encoded(encoding: &str) -> String {
    format!(
        "it is stored {encoding}-encoded, and objects are delivered as they are stored; upload the image itself, without a \
         Content-Encoding (PNG and JPEG are compressed already), or decode it with a closure that decompresses it first"
    )
}

/// The message for a file that is neither PNG nor JPEG: what it is, and what to do.
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
    let is_bitmap = bytes.starts_with(b"BM") && bytes.len() > 26;
    let is_netpbm = matches!(bytes, [b'P', b'1'..=b'7', space, ..] if space.is_ascii_whitespace());
    let name = FOREIGN_SIGNATURES
        .iter()
        .find(|(at, signature, _)| bytes.get(*at..).is_some_and(|rest| rest.starts_with(signature)))
        .map(|(_, _, name)| *name)
        .or(is_bitmap.then_some("a BMP image"))
        .or(is_netpbm.then_some("a Netpbm image (PBM, PGM, PPM or PAM)"))
        .or_else(|| {
            let starts = |with: &[u8]| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
            TEXT_SIGNATURES.iter().find(|(signature, _)| starts(signature)).map(|(_, name)| *name)
        });
    if let Some(name) = name {
        return format!(
            "it is {name}, and ImageFolder decodes PNG and JPEG only; convert it to one of these, leave it out, or decode \
             it with a closure"
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

    fn chunk(name: &[u8], data: &[u8]) -> Vec<u8> {
        // The checksum is not checked here.
        [&(data.len() as u32).to_be_bytes()[..], name, data, &[0; 4]].concat()
    }

    fn png_file(bits: u8, color_type: u8, more: &[Vec<u8>]) -> Vec<u8> {
        let ihdr = [&300_u32.to_be_bytes()[..], &200_u32.to_be_bytes(), &[bits, color_type, 0, 0, 0]].concat();
        [PNG_SIGNATURE.to_vec(), chunk(b"IHDR", &ihdr), more.concat(), chunk(b"IEND", &[])].concat()
    }

    #[test]
    fn png_of_every_colour_type_and_depth() {
        for (bits, color_type, channels, decoded_bits) in
            [(1, 0, 1, 8), (16, 0, 1, 16), (8, 2, 3, 8), (16, 2, 3, 16), (4, 3, 3, 8), (8, 4, 2, 8), (16, 6, 4, 16)]
        {
            let header = ImageHeader::read(&png_file(bits, color_type, &[])).unwrap();
            assert_eq!((header.width, header.height), (300, 200));
            assert_eq!((header.channels, header.bits), (channels, decoded_bits), "{bits} bits, type {color_type}");
            assert_eq!(header.decoded_bytes(), 60_000 * u64::from(channels) * u64::from(decoded_bits) / 8);
        }
        let header = ImageHeader::read(&png_file(8, 3, &[chunk(b"tRNS", &[0])])).unwrap();
        assert_eq!(header.channels, 4, "a palette with transparent colours decodes to RGBA");
    }

    #[test]
    fn png_palettes_that_end_within_a_colour_are_errors() {
        for (length, is_right) in [(0, true), (3, true), (48, true), (1, false), (49, false)] {
            let read = ImageHeader::read(&png_file(8, 3, &[chunk(b"PLTE", &vec![0; length])]));
            assert_eq!(read.is_ok(), is_right, "{length}: {read:?}");
        }
    }

    #[test]
    fn png_chunks_with_lengths_that_lie_end_the_search() {
        for length in [0, 5, u32::MAX] {
            let mut file = png_file(8, 2, &[]);
            file.truncate(33);
            file.extend([&length.to_be_bytes()[..], b"eXIf", b"12"].concat());
            let header = ImageHeader::read(&file).unwrap();
            assert_eq!(header.exif, (length == 0).then_some(41..41));
        }
    }

    #[test]
    fn every_prefix_of_an_image_is_read_without_a_panic() {
        let jpeg = super::super::jpeg_header::tests::file(2, &[[1, 0x22, 0], [2, 0x11, 0], [3, 0x11, 0]], 3);
        for file in [png_file(8, 2, &[chunk(b"eXIf", b"MM\0*\0\0\0\x08")]), jpeg] {
            assert!(ImageHeader::read(&file).is_ok());
            for length in 0..file.len() {
                let _ = ImageHeader::read(&file[..length]);
            }
        }
    }

    #[test]
    fn foreign_formats_are_named() {
        let riff = [b"RIFF\x10\0\0\0WEBPVP8 ".as_slice(), &[0; 20]].concat();
        let bmp = [b"BM".as_slice(), &[0; 60]].concat();
        for (bytes, name) in [
            (riff.as_slice(), "a WebP image"),
            (b"GIF89a\x01\0\x01\0", "a GIF image"),
            (&bmp, "a BMP image"),
            (b"II*\0\x08\0\0\0", "a TIFF image"),
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
