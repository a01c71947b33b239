//! Decodes JPEG files, and fails if pixels are missing.
//!
//! For a file that is cut short, both decoders fill in zeros, and return grey areas or blurred pixels without an error.
//! In a JPEG no code of the entropy coding consists of ones only. So the file is decoded up to the end of its last
//! scan, followed by a few bytes of ones and an end marker: a decoder that needs more bits than the file has finds an
//! invalid code, and fails.
//!
//! libjpeg-turbo needs no such padding: it warns when it needs more bits than the file has, and each of its warnings is
//! an error. Files that it doesn't decode without one are given to the other decoders, which then say what is wrong, or
//! know that nothing is: bytes behind a scan's data, for example, lose no pixel.

use anyhow::{Context, anyhow, bail};
use image::{DynamicImage, GrayImage, RgbImage};
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::jpeg_header::{JpegDecoder, JpegHeader};
use super::jpeg_scans::JpegScans;
use super::part::{DecodedPart, WantedPart};
use super::refusal::not_whole;
#[cfg(feature = "turbojpeg")]
use super::turbo;
use super::{buffer, recycle};

/// Eight bytes of ones, each followed by the zero that marks it as data. The longest code has 16 bits.
const ONES: [u8; 16] = [0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0, 0xff, 0];

/// As many bytes of zeros as `ONES` has data bytes.
const ZEROS: [u8; 8] = [0; 8];

const END_MARKER: [u8; 2] = [0xff, 0xd9];

/// A run of zeros at the end of a file without an end marker is space that was reserved and never written. The data of
/// a scan hold no such run.
const UNWRITTEN_ZEROS: [u8; 16] = [0; 16];

/// The most scans of a file that libjpeg-turbo decodes. A file of a few kilobytes may have thousands, each of which
/// goes through the whole image; encoders write about ten. zune-jpeg refuses more than 100.
#[cfg(feature = "turbojpeg")]
const MAX_SCANS: usize = 100;

/// How JPEG files are decoded.
///
/// The choice changes pixels: by rounding between the decoders, and by more where images are decoded at a smaller
/// scale. A run that is to be repeated exactly repeats its choice. The feature `turbojpeg` alone changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum JpegDecoding {
    /// By decoders in Rust, whole.
    #[default]
    Rust,
    /// By libjpeg-turbo, whose pixels are those of Pillow, and of a crop no more than it needs. With the feature
    /// `turbojpeg`.
    ///
    /// If the first step that changes an image is a crop, such as
    /// [`random_resized_crop`](crate::Transforms::random_resized_crop), the pixels around the crop are not decoded.
    /// Those in it are the same as if the whole image were decoded.
    ///
    /// **Of a file that is decoded in part, only the data up to the crop's last row are read, or all scans of a
    /// progressive file, and less is proved about them**: if bytes are missing or changed there, pixels of the crop may
    /// be wrong without an error that decoding the whole file would have been. The objects of a bucket are proved by
    /// their checksums, so this is about files that were damaged before they were uploaded. Files without an end marker
    /// are decoded whole, because they may have been cut short, and so are progressive ones without all of their scans,
    /// which are smoothed across the crop's edges, and files of unusual sampling factors.
    ///
    /// CMYK images, files of more than 100 scans, and those about which libjpeg-turbo warns, are decoded as by
    /// [`Rust`](Self::Rust), the last after libjpeg-turbo, so that they take the time of both. A warning that only the
    /// end of a file causes, such as one about needless bytes there, isn't seen where a part is decoded; the crop's
    /// pixels then differ by rounding from those of the whole image.
    #[cfg(feature = "turbojpeg")]
    Turbo,
    /// As [`Turbo`](Self::Turbo), and large images at a smaller scale. With the feature `turbojpeg`.
    ///
    /// If the first step that changes an image makes it smaller, the image is decoded at the smallest of 1/2, 1/4 and
    /// 1/8 of its height and width that is still at least as large as the step's result, and resized from there. That
    /// is as Pillow's `Image.draft` with the exact crop, and much faster for photographs of several megapixels. Pixels
    /// differ visibly from those of a resize from the full size, mostly at sharp edges.
    #[cfg(feature = "turbojpeg")]
    TurboScaled,
}

impl JpegDecoding {
    /// The scale at which libjpeg-turbo decodes the wanted part. `None` if it isn't to decode.
    #[cfg(feature = "turbojpeg")]
    fn turbo_divisor(self, wanted: WantedPart) -> Option<u32> {
        match self {
            Self::Rust => None,
            Self::Turbo => Some(1),
            Self::TurboScaled => Some(wanted.divisor()),
        }
    }
}

/// Decodes the wanted part of a JPEG file with this header, or more, and returns which part that is.
///
/// # Errors
/// As of [`decode`]. A part may be decoded although other parts of the file are damaged.
pub(super) fn decode_part(
    bytes: &[u8],
    header: &JpegHeader,
    wanted: WantedPart,
    decoding: JpegDecoding,
) -> anyhow::Result<(DynamicImage, DecodedPart)> {
    #[cfg(feature = "turbojpeg")]
    if let Some(divisor) = decoding.turbo_divisor(wanted)
        && header.is_for_turbo()
        && let Some(decoded) = decode_by_turbo(bytes, header, wanted, divisor)
    {
        return Ok(decoded);
    }
    // Without the feature they choose nothing.
    let _ = (wanted, decoding);
    Ok((decode(bytes, header)?, DecodedPart::whole(header.height.into(), header.width.into(), 1)))
}

/// Decodes a part by libjpeg-turbo. `None` if it fails.
#[cfg(feature = "turbojpeg")]
fn decode_by_turbo(
    bytes: &[u8],
    header: &JpegHeader,
    wanted: WantedPart,
    divisor: u32,
) -> Option<(DynamicImage, DecodedPart)> {
    let scans = JpegScans::read(bytes, header).ok()?;
    if scans.count > MAX_SCANS {
        return None;
    }
    let data = scan_data(bytes, &scans).ok()?;
    let (height, width) = (header.height.into(), header.width.into());
    let part = match header.column_units() {
        // What is missing of coefficients is smoothed by those of neighbours, which a part lacks.
        Some(columns) if scans.has_end_marker && scans.are_complete => {
            DecodedPart::around(wanted.region, height, width, divisor, columns)
        }
        _ => DecodedPart::whole(height, width, divisor),
    };
    let with_end = data.len() + END_MARKER.len();
    let pixels = if bytes.get(data.len()..with_end) == Some(&END_MARKER) {
        turbo::decode(&bytes[..with_end], header, part)
    } else {
        let file = ended(data, &[]);
        let pixels = turbo::decode(&file, header, part);
        recycle(file);
        pixels
    };
    let image = image_of(pixels.ok()?, part.region.width, part.region.height, header).ok()?;
    Some((image, part))
}

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
    let data = scan_data(bytes, &scans)?;
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

/// The file up to the end of its last scan.
///
/// # Errors
/// Scans are missing.
fn scan_data<'a>(bytes: &'a [u8], scans: &JpegScans) -> anyhow::Result<&'a [u8]> {
    let data = &bytes[..scans.end];
    if scans.has_end_marker {
        return Ok(data);
    }
    if !scans.are_complete {
        bail!("it ends after scan {}, and further ones are missing", scans.count);
    }
    if data.ends_with(&UNWRITTEN_ZEROS) {
        let written = data.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
        return Ok(&data[..written]);
    }
    Ok(data)
}

/// A file of these data, padding and an end marker.
fn ended(data: &[u8], padding: &[u8]) -> Vec<u8> {
    let mut file = buffer(data.len() + padding.len() + END_MARKER.len());
    let (head, tail) = file.split_at_mut(data.len());
    head.copy_from_slice(data);
    tail[..padding.len()].copy_from_slice(padding);
    tail[padding.len()..].copy_from_slice(&END_MARKER);
    file
}

/// An image of decoded values.
fn image_of(pixels: Vec<u8>, width: u32, height: u32, header: &JpegHeader) -> anyhow::Result<DynamicImage> {
    let image = if header.components.len() == 1 {
        GrayImage::from_raw(width, height, pixels).map(DynamicImage::from)
    } else {
        RgbImage::from_raw(width, height, pixels).map(DynamicImage::from)
    };
    image.context("the decoder returned an image of another size")
}

fn decode_data(data: &[u8], padding: &[u8], header: &JpegHeader, decoder: JpegDecoder) -> anyhow::Result<DynamicImage> {
    let file = ended(data, padding);
    let pixels = match decoder {
        JpegDecoder::Zune => zune(&file, header)?,
        JpegDecoder::Plain => plain(&file, header)?,
    };
    recycle(file);
    image_of(pixels, header.width.into(), header.height.into(), header)
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

#[cfg(feature = "turbojpeg")]
#[cfg(test)]
pub(super) mod tests {
    use super::super::resize::Region;
    use super::*;

    const FILES: &[u8] = include_bytes!("../../tests/data/jpegs/files.bin");
    const INDEX: &str = include_str!("../../tests/data/jpegs/index.txt");

    /// Name and file of each JPEG in tests/data/jpegs.
    fn files() -> impl Iterator<Item = (&'static str, &'static [u8])> {
        INDEX.lines().map(|line| {
            let (name, places) = line.split_once(' ').unwrap();
            let places: Vec<usize> = places.split(' ').map(|number| number.parse().unwrap()).collect();
            (name, &FILES[places[0]..][..places[1]])
        })
    }

    /// Header and bytes of the file of this name.
    pub(in super::super) fn file(name: &str) -> (JpegHeader, &'static [u8]) {
        let (_, file) = files().find(|(found, _)| *found == name).unwrap();
        (JpegHeader::read(file).unwrap().0, file)
    }

    /// A progressive JPEG of one block for each of three components: a scan of all DC coefficients, and one of each of
    /// the first `scans` AC coefficients, component after component. All of them are 0.
    fn file_of_scans(scans: usize) -> Vec<u8> {
        let mut file = vec![0xff, 0xd8, 0xff, 0xdb, 0, 67, 0];
        file.extend([1; 64]);
        file.extend([0xff, 0xc2, 0, 17, 8, 0, 8, 0, 8, 3, 1, 0x11, 0, 2, 0x11, 0, 3, 0x11, 0]);
        // Tables of one code of one bit: a DC difference of 0, and the end of a block.
        for class in [0x00, 0x10] {
            file.extend([0xff, 0xc4, 0, 20, class, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        }
        file.extend([0xff, 0xda, 0, 12, 3, 1, 0, 2, 0, 3, 0, 0, 0, 0, 0x1f]);
        for index in 0..scans {
            let (component, coefficient) = (index as u8 / 63 + 1, index as u8 % 63 + 1);
            file.extend([0xff, 0xda, 0, 8, 1, component, 0, coefficient, coefficient, 0, 0x7f]);
        }
        file.extend(END_MARKER);
        file
    }

    #[test]
    fn files_of_many_scans_are_left_to_the_other_decoders() {
        let is_decoded = |scans| {
            let file = file_of_scans(scans);
            let header = JpegHeader::read(&file).unwrap().0;
            let wanted = WantedPart { region: Region::whole(8, 8), target: None };
            decode_by_turbo(&file, &header, wanted, 1).is_some()
        };
        assert!(is_decoded(63) && is_decoded(99));
        assert!(!is_decoded(100) && !is_decoded(189));
    }

    /// A region of an image as an image of its own.
    fn cropped(image: &DynamicImage, region: Region) -> DynamicImage {
        image.crop_imm(region.left, region.top, region.width, region.height)
    }

    #[test]
    fn a_part_has_the_pixels_of_the_whole() {
        let mut kinds = std::collections::BTreeSet::new();
        let mut parts = 0;
        for (name, file) in files() {
            let header = JpegHeader::read(file).unwrap().0;
            if !header.is_for_turbo() || header.column_units().is_none() || header.width != 37 {
                continue;
            }
            // Restart intervals, and the order of colours, are nothing to cropping; each way to code is.
            let (kind, _) = name.split_once("_r").unwrap();
            if !["plain", "progressive"].iter().any(|scans| kind.ends_with(scans)) {
                continue;
            }
            kinds.insert(kind);
            let read = |region, divisor| {
                let wanted = WantedPart { region, target: None };
                decode_by_turbo(file, &header, wanted, divisor).unwrap_or_else(|| panic!("{name}: {region:?}"))
            };
            for divisor in [1, 2, 4, 8] {
                let (whole, part) = read(Region::whole(35, 37), divisor);
                assert_eq!(part, DecodedPart::whole(35, 37, divisor));
                for (top, bottom) in [(0, 35), (0, 9), (7, 8), (15, 17), (16, 32), (17, 35), (34, 35)] {
                    for left in (0..37).step_by(3) {
                        for right in (left + 1..=37).step_by(if divisor == 1 { 2 } else { 5 }) {
                            let region = Region { top, left, height: bottom - top, width: right - left };
                            let (image, part) = read(region, divisor);
                            // The pixels of the scaled image in which the region lies, without the margin.
                            let first = (top / divisor, left / divisor);
                            let end = (bottom.div_ceil(divisor), right.div_ceil(divisor));
                            let (height, width) = (end.0 - first.0, end.1 - first.1);
                            let found = Region {
                                top: first.0 - part.region.top,
                                left: first.1 - part.region.left,
                                height,
                                width,
                            };
                            let wanted = Region { top: first.0, left: first.1, height, width };
                            assert!(
                                cropped(&image, found).as_bytes() == cropped(&whole, wanted).as_bytes(),
                                "{name}: {region:?} at 1/{divisor} as {part:?}"
                            );
                            parts += 1;
                        }
                    }
                }
            }
        }
        assert!(kinds.len() > 20, "{kinds:?}");
        assert!(parts > 20_000, "{parts}");
    }

    #[test]
    fn a_part_of_a_large_image_has_the_pixels_of_the_whole() {
        const LARGE: [&[u8]; 2] = [
            include_bytes!("../../tests/data/jpegs/large_restarts.jpg"),
            include_bytes!("../../tests/data/jpegs/large_progressive.jpg"),
        ];
        for file in LARGE {
            let header = JpegHeader::read(file).unwrap().0;
            for divisor in [1, 2, 4, 8] {
                let read =
                    |region| decode_by_turbo(file, &header, WantedPart { region, target: None }, divisor).unwrap();
                let (whole, _) = read(Region::whole(375, 500));
                for index in 0..40 {
                    // Multiples of the divisor, so that each is a pixel of the scaled image.
                    let [top, left, height, width] =
                        [index * 61 % 360, index * 97 % 490, 8 + index * 37 % 200, 8 + index * 53 % 300]
                            .map(|number| number / 8 * 8);
                    let (height, width) = (height.min(375 - top), width.min(500 - left));
                    let (image, part) = read(Region { top, left, height, width });
                    let scaled = Region {
                        top: top / divisor,
                        left: left / divisor,
                        height: height.div_ceil(divisor),
                        width: width.div_ceil(divisor),
                    };
                    let found =
                        Region { top: scaled.top - part.region.top, left: scaled.left - part.region.left, ..scaled };
                    assert!(
                        cropped(&image, found).as_bytes() == cropped(&whole, scaled).as_bytes(),
                        "{top} {left} {height} {width} at 1/{divisor} as {part:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_part_is_decoded_only_of_a_file_with_an_end_marker() {
        let (_, file) = files().find(|(name, _)| *name == "ycc-bare_11.11.11_plain_r0_37x35").unwrap();
        let header = JpegHeader::read(file).unwrap().0;
        let wanted = WantedPart { region: Region { top: 0, left: 0, height: 5, width: 5 }, target: None };
        let part = |file: &[u8]| {
            let header = JpegHeader::read(file).unwrap().0;
            decode_part(file, &header, wanted, JpegDecoding::Turbo).unwrap().1
        };
        assert_eq!(part(file).region, Region { top: 0, left: 0, height: 5, width: 7 });
        assert!(part(&file[..file.len() - 2]).is_whole(35, 37));
        let in_rust = decode_part(file, &header, wanted, JpegDecoding::Rust).unwrap().1;
        assert!(in_rust.is_whole(35, 37));
        // Nor is one of a progressive file without its last scan.
        let (_, file) = files().find(|(name, _)| *name == "ycc_11.11.11_progressive_r0_37x35").unwrap();
        let last_scan = file.windows(2).rposition(|two| two == [0xff, 0xda]).unwrap();
        assert_eq!(part(file).region.width, 7);
        assert!(part(&[&file[..last_scan], &END_MARKER].concat()).is_whole(35, 37));
    }
}
