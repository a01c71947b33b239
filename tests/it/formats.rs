//! WebP, GIF, BMP and TIFF against Pillow: a file decodes to the same pixels or is refused by name, and one that is cut
//! short never becomes a sample.

use dataflux::{Channels, ImageFolder};

use crate::jpegs::{decode_all, difference};

const FILES: &[u8] = include_bytes!("../data/images/files.bin");
const INDEX: &str = include_str!("../data/images/index.txt");

/// One file of tests/data/images, and what Pillow decodes it to.
struct Reference {
    name: &'static str,
    file: &'static [u8],
    width: u32,
    height: u32,
    /// RGBA. Empty if the file is to be refused.
    pixels: &'static [u8],
}

impl Reference {
    fn all() -> Vec<Self> {
        INDEX
            .lines()
            .map(|line| {
                let (name, numbers) = line.split_once(' ').unwrap();
                let numbers: Vec<usize> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
                let part = |at: usize, length: usize| &FILES[at..at + length];
                let (width, height) = (numbers[0] as u32, numbers[1] as u32);
                Self { name, width, height, file: part(numbers[2], numbers[3]), pixels: part(numbers[4], numbers[5]) }
            })
            .collect()
    }

    /// The file of this name.
    fn named(name: &str) -> Self {
        Self::all().into_iter().find(|reference| reference.name == name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// Those that decode.
    fn legal() -> Vec<Self> {
        Self::all().into_iter().filter(|reference| !reference.pixels.is_empty()).collect()
    }

    /// Largest difference to Pillow that is not a defect: decoders of JPEG round differently, and interpolate colours
    /// at the edges of tiles; samples of five bits are scaled, and a transparent canvas blended, with another rounding.
    fn tolerance(&self) -> u8 {
        match self.name {
            "tiff_jpeg_tiles" => 3,
            name if name.starts_with("tiff_jpeg") => 1,
            "bmp_555" | "bmp_565" | "webp_animated_part" => 1,
            _ => 0,
        }
    }
}

#[test]
fn every_kind_decodes_as_pillow_does() {
    let references = Reference::legal();
    let files: Vec<_> = references.iter().map(|reference| reference.file).collect();
    let with_alpha = decode_all(&files, &ImageFolder::new().channels(Channels::Rgba));
    let colors = decode_all(&files, &ImageFolder::new());
    for ((reference, with_alpha), colors) in references.iter().zip(with_alpha).zip(colors) {
        let name = reference.name;
        let (with_alpha, colors) = (with_alpha.unwrap().bitmap, colors.unwrap().bitmap);
        assert_eq!((with_alpha.width(), with_alpha.height()), (reference.width, reference.height), "{name}");
        let (mean, most) = difference(with_alpha.values(), reference.pixels);
        assert!(most <= reference.tolerance(), "{name}: {mean} on average, {most} at most");
        let without_alpha: Vec<u8> =
            with_alpha.values().chunks_exact(4).flat_map(|pixel| pixel[..3].iter().copied()).collect();
        assert!(colors.values() == without_alpha, "{name}: RGB is RGBA without alpha");
    }
    assert!(references.len() >= 85, "only {} files", references.len());
}

#[test]
fn grey_files_decode_to_their_grey_values() {
    for name in ["tiff_grey_raw", "tiff_bits", "bmp_grey", "tiff_grey4_white"] {
        let reference = Reference::named(name);
        let image = decode_all(&[reference.file], &ImageFolder::new().grayscale()).pop().unwrap().unwrap();
        let wanted: Vec<u8> = reference.pixels.iter().copied().step_by(4).collect();
        assert_eq!(difference(image.bitmap.values(), &wanted).1, 0, "{name}");
    }
}

#[test]
fn kinds_that_cannot_be_decoded_are_called_by_their_names() {
    for (name, wanted) in [
        ("refused_planar_tiles", "it is a TIFF image of tiles, with a plane for each sample"),
        ("refused_floats", "it is a TIFF image of floating-point numbers"),
        ("refused_signed", "it is a TIFF image of signed integers"),
        ("refused_32_bits", "it is a grey TIFF image of 1 samples of [32] bits"),
        ("refused_bands", "it is a grey TIFF image of 5 samples a pixel"),
        ("refused_zstd", "it is a TIFF image with compression 50000 (Zstandard)"),
        ("refused_big", "it is a BigTIFF image"),
        ("refused_png_in_bmp", "it is a BMP image whose pixels are a PNG file"),
        ("refused_os2_2_bmp", "it is a BMP image whose second header has 64 bytes"),
    ] {
        let error = decode_all(&[Reference::named(name).file], &ImageFolder::new()).pop().unwrap().unwrap_err();
        assert!(error.starts_with(wanted), "{wanted} in {error}");
        assert!(error.contains("leave it out, or decode it with a closure"), "{error}");
        assert!(!error.contains("damaged"), "{error}");
    }
}

/// Files in which a loss looks different.
const CUT: [&str; 17] = [
    "webp_lossy",
    "webp_lossy_alpha",
    "webp_lossless_alpha",
    "webp_animated_lossy",
    "gif_plain",
    "gif_interlaced",
    "gif_animated",
    "bmp_rgb",
    "bmp_bits",
    "bmp_runs_8",
    "bmp_runs_4",
    "tiff_rgb_raw",
    "tiff_strips",
    "tiff_bits_fax",
    "tiff_rgb_packbits",
    "tiff_jpeg_tiles",
    "tiff_tiles",
];

#[test]
fn a_file_cut_anywhere_is_an_error_unless_no_pixel_is_lost() {
    for reference in CUT.map(Reference::named) {
        let whole = reference.file;
        // Each place near the ends, where headers are and few bits are missing, and every seventh between them.
        let is_near_end = |place: &usize| *place < 200 || whole.len() - place < 40 || place.is_multiple_of(7);
        let places: Vec<_> = (0..whole.len()).filter(is_near_end).collect();
        let cut: Vec<_> = places.iter().map(|place| &whole[..*place]).collect();
        let mut lossless = 0;
        let results = decode_all(&cut, &ImageFolder::new().channels(Channels::Rgba));
        for (place, result) in places.iter().zip(results) {
            match result {
                Err(error) => assert!(error.contains("leave it out"), "{error}"),
                Ok(image) => {
                    lossless += 1;
                    let (_, most) = difference(image.bitmap.values(), reference.pixels);
                    assert!(most <= reference.tolerance(), "{} cut at {place}", reference.name);
                }
            }
        }
        // Behind the first frame of an animation nothing is missing.
        assert!(lossless <= 5 || reference.name == "gif_animated", "{}: {lossless} cuts lose nothing", reference.name);
    }
}

#[test]
fn a_strip_that_lies_elsewhere_is_an_error() {
    let whole = Reference::named("tiff_grey4").file.to_vec();
    let directory = u32::from_le_bytes(whole[4..8].try_into().unwrap()) as usize;
    let offset = (directory + 2..).step_by(12).find(|at| whole[*at..*at + 2] == 273_u16.to_le_bytes()).unwrap() + 8;
    // 0 stands for a strip that was never written.
    for place in [0, whole.len() as u32, u32::MAX] {
        let mut file = whole.clone();
        file[offset..offset + 4].copy_from_slice(&place.to_le_bytes());
        let error = decode_all(&[file], &ImageFolder::new()).pop().unwrap().unwrap_err();
        assert!(error.contains("it is cut short or sparse") && error.contains(&format!("at byte {place}")), "{error}");
    }
}

/// Files of a few bytes that claim a size beyond the limit.
#[test]
fn the_limit_on_pixels_holds_for_every_format() {
    let mut bmp = Reference::named("bmp_rgb").file.to_vec();
    bmp[18..26].copy_from_slice(&[0xff, 0xff, 0, 0, 0xff, 0xff, 0, 0]);
    let mut gif = Reference::named("gif_plain").file.to_vec();
    gif[6..10].copy_from_slice(&[0xff; 4]);
    let mut webp = Reference::named("webp_animated_part").file.to_vec();
    webp[24..30].copy_from_slice(&[0xff, 0x3f, 0, 0xff, 0x3f, 0]);
    let mut tiff = Reference::named("tiff_grey4").file.to_vec();
    let directory = u32::from_le_bytes(tiff[4..8].try_into().unwrap()) as usize;
    for tag in 0..2 {
        let value = directory + 2 + 12 * tag + 8;
        tiff[value..value + 2].copy_from_slice(&[0xff; 2]);
    }
    for (file, pixels) in
        [(bmp, "65535 x 65535"), (gif, "65535 x 65535"), (webp, "16384 x 16384"), (tiff, "65535 x 65535")]
    {
        let error = decode_all(&[file], &ImageFolder::new()).pop().unwrap().unwrap_err();
        for part in [pixels, "178956970", "ImageFolder::max_pixels"] {
            assert!(error.contains(part), "{part} in {error}");
        }
    }
}

#[test]
fn orientations_can_be_left_as_they_are() {
    for name in ["webp_turned_6", "webp_turned_bare_6", "tiff_turned_6"] {
        let reference = Reference::named(name);
        let folder = ImageFolder::new().channels(Channels::Rgba).exif_orientation(false);
        let image = decode_all(&[reference.file], &folder).pop().unwrap().unwrap().bitmap;
        assert_eq!((image.width(), image.height()), (37, 35));
        // Turned by hand: column 0 of the upright image is the last row of the stored one.
        let upright = |x: u32, y: u32| &reference.pixels[((y * reference.width + x) * 4) as usize..][..4];
        for (index, pixel) in image.values().chunks_exact(4).enumerate() {
            let (x, y) = (index as u32 % 37, index as u32 / 37);
            assert_eq!(pixel, upright(34 - y, x), "{name}: row {y}, column {x}");
        }
    }
}
