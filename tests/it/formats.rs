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
    let offset = entry_at(&whole, 273) + 8;
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

/// A TIFF file of these tags, with their types (3 SHORT, 4 LONG) and values, and of these pixels, which begin at byte 8.
fn tiff_file(entries: &[(u16, u16, u32)], pixels: &[u8]) -> Vec<u8> {
    let directory = 8 + pixels.len() as u32;
    let mut file = [b"II*\0", &directory.to_le_bytes()[..], pixels, &(entries.len() as u16).to_le_bytes()].concat();
    for (tag, kind, value) in entries {
        file.extend([tag.to_le_bytes(), kind.to_le_bytes(), [1, 0], [0, 0]].concat());
        file.extend(value.to_le_bytes());
    }
    [&file, &[0; 4][..]].concat()
}

/// The number of 32 bits, lowest byte first, at this place of a file.
fn u32_at(file: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(file[at..at + 4].try_into().unwrap())
}

/// Where in a TIFF file the entry of this tag begins.
fn entry_at(file: &[u8], tag: u16) -> usize {
    let is_big_endian = file.starts_with(b"MM");
    let directory = file[4..8].try_into().unwrap();
    let directory = if is_big_endian { u32::from_be_bytes(directory) } else { u32::from_le_bytes(directory) };
    let tag = if is_big_endian { tag.to_be_bytes() } else { tag.to_le_bytes() };
    (directory as usize + 2..).step_by(12).find(|at| file[*at..*at + 2] == tag).unwrap()
}

#[test]
fn tiles_of_a_tiff_image_count_whole_against_the_limit_on_pixels() {
    // 3 x 3 tiles of 16 x 16 pixels.
    let reference = Reference::named("tiff_tiles");
    let limited = |pixels| decode_all(&[reference.file], &ImageFolder::new().max_pixels(pixels)).pop().unwrap();
    assert!(limited(2_304).is_ok());
    let error = limited(2_303).unwrap_err();
    for part in ["it has 37 x 35 pixels (width x height) in tiles of 2304 pixels", "2303", "ImageFolder::max_pixels"] {
        assert!(error.contains(part), "{part} in {error}");
    }
}

#[test]
fn a_tile_far_larger_than_its_tiff_image_is_refused() {
    let pixels = vec![200; 1_024 * 1_024];
    for side in [1_024, 1_025, 65_000, u32::MAX] {
        let sizes = [(256, 3, 1), (257, 3, 1), (258, 3, 8), (259, 3, 1), (262, 3, 1), (322, 4, side), (323, 4, side)];
        let file = tiff_file(&[&sizes[..], &[(324, 4, 8), (325, 4, pixels.len() as u32)]].concat(), &pixels);
        match decode_all(&[file], &ImageFolder::new()).pop().unwrap() {
            Ok(image) => assert_eq!((side, image.bitmap.values()), (1_024, &[200; 3][..])),
            Err(error) => {
                let wanted =
                    format!("it is a TIFF image of 1 x 1 pixels (width x height) in tiles of {side} x {side}, ");
                assert!(side > 1_024 && error.starts_with(&wanted) && error.contains("smaller tiles"), "{error}");
            }
        }
    }
}

#[test]
fn a_tiff_tag_that_comes_twice_is_an_error() {
    let sizes = [(257, 3, 1), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 3, 1), (279, 4, 4)];
    for widths in [&[(256, 3, 4)][..], &[(256, 3, 4), (256, 4, 60_000)], &[(256, 4, 60_000), (256, 3, 4)]] {
        let file = tiff_file(&[widths, &sizes].concat(), &[7; 4]);
        match decode_all(&[file], &ImageFolder::new()).pop().unwrap() {
            Ok(image) => assert_eq!((widths.len(), image.bitmap.values()), (1, &[7; 12][..])),
            Err(error) => assert!(widths.len() == 2 && error.contains("its directory has tag 256 twice"), "{error}"),
        }
    }
}

#[test]
fn a_tiff_image_whose_bits_are_in_reverse_order_is_refused() {
    let tags = [(256, 3, 4), (257, 3, 1), (258, 3, 8), (259, 3, 1), (262, 3, 1), (266, 3, 1)];
    let strip = [(273, 4, 8), (278, 3, 1), (279, 4, 4)];
    let in_order = tiff_file(&[&tags[..], &strip].concat(), &[7; 4]);
    assert_eq!(decode_all(&[in_order], &ImageFolder::new()).pop().unwrap().unwrap().bitmap.values(), [7; 12]);
    let reversed = tiff_file(&[&tags[..5], &[(266, 3, 2)], &strip].concat(), &[7; 4]);
    let error = decode_all(&[reversed], &ImageFolder::new()).pop().unwrap().unwrap_err();
    assert!(error.starts_with("it is a TIFF image whose bits are stored in reverse order"), "{error}");
}

#[test]
fn a_tiff_tag_of_far_too_many_values_is_an_error() {
    let tags = [(256, 3, 4), (257, 3, 1), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (278, 3, 1), (279, 4, 4)];
    let mut file = tiff_file(&[&tags[..], &[(317, 3, 1)]].concat(), &[7; 4]);
    assert_eq!(decode_all(&[&file], &ImageFolder::new()).pop().unwrap().unwrap().bitmap.values(), [7; 12]);
    // The predictor, of which the decoder would read a list of 2 million.
    let count = entry_at(&file, 317) + 4;
    file[count..count + 4].copy_from_slice(&0x0020_0001_u32.to_le_bytes());
    let error = decode_all(&[file], &ImageFolder::new()).pop().unwrap().unwrap_err();
    assert!(error.contains("tag 317 has 2097153 values and should have 1 at most"), "{error}");
}

#[test]
fn jpeg_tiles_that_share_their_bytes_are_an_error() {
    let mut file = Reference::named("tiff_jpeg_tiles").file.to_vec();
    let (offsets, lengths) = (entry_at(&file, 324), entry_at(&file, 325));
    assert!(file.starts_with(b"II") && u32_at(&file, offsets + 4) > 1);
    let whole = file.len() as u32;
    for (entry, value) in [(offsets, 8), (lengths, whole - 8)] {
        let first = u32_at(&file, entry + 8) as usize;
        (0..u32_at(&file, entry + 4) as usize).for_each(|index| {
            file[first + 4 * index..][..4].copy_from_slice(&u32::to_le_bytes(value));
        });
    }
    let error = decode_all(&[file], &ImageFolder::new()).pop().unwrap().unwrap_err();
    assert!(error.contains("they overlap"), "{error}");
}

/// Each strip was decoded with a copy of them.
#[test]
fn jpeg_tables_of_a_tiff_image_that_are_far_too_large_are_refused() {
    let reference = Reference::named("tiff_jpeg_grey");
    let entry = entry_at(reference.file, 347);
    let with_tables = |comment_bytes: usize| {
        let (count, start) = (u32_at(reference.file, entry + 4) as usize, u32_at(reference.file, entry + 8) as usize);
        let tables = &reference.file[start..start + count];
        // Comments of 4 bytes behind the marker of the start.
        let comments = [0xff, 0xfe, 0, 2].repeat(comment_bytes / 4);
        let tables = [&tables[..2], &comments, &tables[2..]].concat();
        let mut file = [reference.file, &tables].concat();
        file[entry + 4..entry + 8].copy_from_slice(&u32::to_le_bytes(tables.len() as u32));
        file[entry + 8..entry + 12].copy_from_slice(&u32::to_le_bytes(reference.file.len() as u32));
        (file, tables.len())
    };
    let (file, _) = with_tables(8 << 10);
    let image = decode_all(&[file], &ImageFolder::new().channels(Channels::Rgba)).pop().unwrap().unwrap();
    assert!(difference(image.bitmap.values(), reference.pixels).1 <= reference.tolerance());
    let (file, bytes) = with_tables(16 << 10);
    let error = decode_all(&[file], &ImageFolder::new()).pop().unwrap().unwrap_err();
    let wanted = format!("it is a TIFF image of JPEGs that share {bytes} bytes of tables (tag 347, at most 16384)");
    assert!(error.starts_with(&wanted) && error.contains("save it again"), "{error}");
}

/// It was called damaged.
#[test]
fn a_tiff_palette_whose_indices_are_jpegs_is_called_by_its_name() {
    let mut file = Reference::named("tiff_jpeg_grey").file.to_vec();
    let value = entry_at(&file, 262) + 8;
    file[value] = 3;
    let error = decode_all(&[file], &ImageFolder::new()).pop().unwrap().unwrap_err();
    let wanted = "it is a TIFF image with compression 7 and photometric interpretation 3";
    assert!(error.starts_with(wanted) && !error.contains("damaged"), "{error}");
}

#[test]
fn a_jpeg_in_a_tiff_image_whose_zero_is_white_is_inverted() {
    let reference = Reference::named("tiff_jpeg_grey");
    let mut file = reference.file.to_vec();
    let value = entry_at(&file, 262) + 8;
    file[value] = 0;
    let image = decode_all(&[file], &ImageFolder::new().channels(Channels::Rgba)).pop().unwrap().unwrap();
    let inverted = reference.pixels.chunks_exact(4).flat_map(|p| [255 - p[0], 255 - p[1], 255 - p[2], p[3]]);
    let (_, most) = difference(image.bitmap.values(), &inverted.collect::<Vec<_>>());
    assert!(most <= reference.tolerance(), "{most}");
}

#[test]
fn a_tiff_palette_is_one_whatever_the_type_of_the_number_that_says_so() {
    let reference = Reference::named("tiff_palette_big");
    let mut file = reference.file.to_vec();
    let entry = entry_at(&file, 262);
    assert_eq!(file[entry + 2..entry + 12], [0, 3, 0, 0, 0, 1, 0, 3, 0, 0]);
    file[entry + 2..entry + 12].copy_from_slice(&[0, 4, 0, 0, 0, 1, 0, 0, 0, 3]);
    let image = decode_all(&[&file], &ImageFolder::new().channels(Channels::Rgba)).pop().unwrap().unwrap();
    assert_eq!(difference(image.bitmap.values(), reference.pixels).1, 0);

    file[entry + 2..entry + 12].copy_from_slice(&[0, 3, 0, 0, 0, 2, 0, 3, 0, 3]);
    let error = decode_all(&[file], &ImageFolder::new()).pop().unwrap().unwrap_err();
    assert!(error.contains("tag 262 has 2 values and should have 1 at most"), "{error}");
}

/// A chunk of a WebP file, with the byte that fills it up.
fn webp_chunk(name: &[u8], data: &[u8]) -> Vec<u8> {
    [name, &(data.len() as u32).to_le_bytes(), data, &[0][..data.len() % 2]].concat()
}

#[test]
fn a_webp_file_that_is_not_animated_has_no_frames_of_an_animation() {
    let place = [0; 16];
    let frame = webp_chunk(b"VP8L", &[0x2f, 0, 0, 0, 0]);
    let image = &Reference::named("webp_lossy").file[12..];
    assert!(image.starts_with(b"VP8 "));
    // The animation's frame has the one pixel of the canvas, and the image has 37 x 35.
    let animation = webp_chunk(b"ANMF", &[&place[..], &frame].concat());
    for chunks in [[&animation[..], image].concat(), [image, &animation[..]].concat()] {
        let file = webp_chunk(b"RIFF", &[b"WEBP", &webp_chunk(b"VP8X", &[0; 10])[..], &chunks].concat());
        let error = decode_all(&[file], &ImageFolder::new()).pop().unwrap().unwrap_err();
        assert!(error.contains("damaged headers") && !error.contains("the decoder"), "{error}");
        let is_first = chunks.starts_with(b"ANMF");
        let wanted = if is_first { "its chunk VP8X says that it isn't animated" } else { "should have 1 x 1" };
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn chunks_behind_the_end_of_a_webp_file_are_ignored() {
    let reference = Reference::named("webp_lossy_alpha");
    let file = [reference.file, &webp_chunk(b"VP8L", &[0x2f, 0, 0, 0, 0])].concat();
    let image = decode_all(&[file], &ImageFolder::new().channels(Channels::Rgba)).pop().unwrap().unwrap();
    assert_eq!(difference(image.bitmap.values(), reference.pixels).1, 0);
}
