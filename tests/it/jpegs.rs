//! JPEG and PNG decoding against libjpeg-turbo: a legal file decodes to the same pixels or is refused by name, and a
//! truncated file never becomes a sample.

use std::collections::BTreeMap;

use dataflux::store::MemoryStore;
use dataflux::{DataLoader, DatafluxDataset, Decode, Image, ImageFolder, RawSample};

use crate::support::{client, without_hanging};

const FILES: &[u8] = include_bytes!("../data/jpegs/files.bin");
const INDEX: &str = include_str!("../data/jpegs/index.txt");

/// One file of tests/data/jpegs, and what libjpeg-turbo decodes it to.
struct Reference {
    name: &'static str,
    file: &'static [u8],
    pixels: &'static [u8],
}

impl Reference {
    fn all() -> Vec<Self> {
        INDEX
            .lines()
            .map(|line| {
                let (name, places) = line.split_once(' ').unwrap();
                let places: Vec<usize> = places.split(' ').map(|number| number.parse().unwrap()).collect();
                let part = |at: usize, length: usize| &FILES[at..at + length];
                Self { name, file: part(places[0], places[1]), pixels: part(places[2], places[3]) }
            })
            .collect()
    }

    /// The file of 37 x 35 pixels whose name begins so.
    fn named(name: &str) -> Self {
        let is_it = |other: &str| other.starts_with(name) && other.ends_with("_37x35");
        let found = Self::all().into_iter().find(|reference| is_it(reference.name));
        found.unwrap_or_else(|| panic!("no {name}"))
    }

    fn is_grey(&self) -> bool {
        self.name.starts_with("grey")
    }
}

/// A folder for each way to decode whole JPEGs.
fn folders() -> Vec<ImageFolder> {
    vec![
        ImageFolder::new(),
        #[cfg(feature = "turbojpeg")]
        ImageFolder::new().jpeg_decoding(dataflux::JpegDecoding::Turbo),
    ]
}

/// Decodes each of these files, in order: an image, or the error in one line.
pub(crate) fn decode_all<B: AsRef<[u8]>>(files: &[B], folder: &ImageFolder) -> Vec<Result<Image, String>> {
    let store = MemoryStore::new().with_bucket("data");
    for (index, file) in files.iter().enumerate() {
        store.insert("data", &format!("p/x/{index:06}"), file.as_ref().to_vec());
    }
    let folder = folder.clone();
    let results: Vec<_> = without_hanging(move || {
        let decode = move |sample: RawSample| Ok(folder.decode(sample).map_err(|error| format!("{error:#}")));
        let dataset = DatafluxDataset::open_with(client(store), "gs://data/p/")?.decode(decode);
        let batches = DataLoader::builder(dataset).batch_size(64).build()?.epoch(0)?;
        let batches: dataflux::Result<Vec<_>> = batches.collect();
        Ok::<_, dataflux::Error>(batches?.into_iter().flat_map(dataflux::Batch::into_inner).collect())
    })
    .unwrap();
    assert_eq!(results.len(), files.len());
    results
}

/// Channels, height and width.
fn shape(image: &Image) -> [usize; 3] {
    let Image { bitmap, .. } = image;
    [bitmap.channels().into(), bitmap.height() as usize, bitmap.width() as usize]
}

/// Eight-bit values, pixel after pixel.
fn interleaved(image: &Image) -> Vec<u8> {
    image.bitmap.values().to_vec()
}

/// Mean and largest difference of two images' values.
pub(crate) fn difference(left: &[u8], right: &[u8]) -> (f64, u8) {
    assert_eq!(left.len(), right.len());
    let differences = left.iter().zip(right).map(|(left, right)| left.abs_diff(*right));
    let sum: u64 = differences.clone().map(u64::from).sum();
    (sum as f64 / left.len() as f64, differences.max().unwrap())
}

#[test]
fn every_legal_jpeg_decodes_as_libjpeg_does_or_is_refused_by_its_name() {
    for folder in folders() {
        legal_jpegs(&folder);
    }
}

fn legal_jpegs(folder: &ImageFolder) {
    let is_turbo = *folder != ImageFolder::new();
    let references = Reference::all();
    let files: Vec<_> = references.iter().map(|reference| reference.file).collect();
    let mut refused = BTreeMap::<_, Vec<_>>::new();
    let (mut count, mut sum, mut worst) = (0, 0.0, (0.0, 0, ""));
    let mut wrong = Vec::new();
    for (reference, result) in references.iter().zip(decode_all(&files, folder)) {
        match result {
            Err(error) => refused.entry(error.split(',').next().unwrap().to_owned()).or_default().push(reference.name),
            Ok(image) => {
                let mut pixels = interleaved(&image);
                if reference.is_grey() {
                    pixels = pixels.into_iter().step_by(3).collect();
                }
                let (mean, most) = difference(&pixels, reference.pixels);
                // Decoders differ only in rounding, and libjpeg-turbo not from itself. It doesn't decode CMYK to RGB.
                let is_exact = is_turbo && !reference.name.starts_with("cmyk") && !reference.name.starts_with("ycck");
                if mean > 0.5 || most > if is_exact { 0 } else { 6 } {
                    wrong.push((reference.name, mean, most));
                }
                count += 1;
                sum += mean;
                if mean > worst.0 {
                    worst = (mean, most, reference.name);
                }
            }
        }
    }
    println!("{} files: {count} decoded, mean difference {:.3}, worst {worst:?}", files.len(), sum / f64::from(count));
    for (error, names) in &refused {
        println!("{} refused: {error} ({})", names.len(), names[0]);
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let lies_between = ["41.21.21", "42.21.21", "44.22.22"];
    for (error, names) in &refused {
        let wanted = |name: &str| match name.split('_').collect::<Vec<_>>()[..] {
            [_, _, "a-plain" | "a-progressive", ..] => "it is an arithmetic-coded JPEG",
            [_, sampling, ..] if lies_between.contains(&sampling) => "it is a JPEG with the sampling factors",
            _ => "nothing",
        };
        for name in names {
            assert!(error.starts_with(wanted(name)), "{name}: {error}");
        }
    }
    assert!(count >= 500, "only {count} of {} decoded", files.len());
}

/// Files in which a loss looks different, with restart markers and without: the prefixes of their names.
const KINDS: [&str; 12] = [
    "ycc_22.11.11_plain_",
    "ycc_22.11.11_optimized_",
    "ycc_11.11.11_progressive_",
    "ycc_22.11.11_progressive_",
    "ycc_22.11.11_dc_separate_",
    "ycc_22.11.11_separate_",
    "ycc_12.11.11_plain_",
    "ycc_11.22.22_plain_",
    "grey_11_plain_",
    "grey_11_dc_separate_",
    "cmyk_11.11.11.11_plain_",
    "ycck_22.11.11.22_progressive_",
];

#[test]
fn a_jpeg_cut_anywhere_is_an_error_unless_no_pixel_is_lost() {
    for folder in folders() {
        cut_jpegs(&folder);
    }
}

fn cut_jpegs(folder: &ImageFolder) {
    for reference in KINDS.map(Reference::named) {
        let whole = &decode_all(&[reference.file], folder)[0];
        let end = reference.file.len() - 2;
        // Each place near the end, where few bits are missing, and every seventh before.
        let places: Vec<_> = (0..end).filter(|place| place % 7 == 0 || end - place < 60).collect();
        let cut: Vec<_> = places.iter().map(|&place| reference.file[..place].to_vec()).collect();
        let ended: Vec<_> = cut.iter().map(|file| [file, &[0xff, 0xd9][..]].concat()).collect();
        let unwritten: Vec<_> = cut.iter().map(|file| [file, &[0; 2000][..]].concat()).collect();
        let mut lossless = 0;
        for (how, files) in [("cut", &cut), ("cut and ended", &ended), ("cut and zeroed", &unwritten)] {
            // A progressive file may end after any scan if it has an end marker there.
            if how == "cut and ended" && (reference.name.contains("progressive") || reference.name.contains("dc_")) {
                continue;
            }
            for (place, result) in places.iter().zip(decode_all(files, folder)) {
                match (&result, whole) {
                    (Err(error), _) => assert!(error.contains("leave it out"), "{error}"),
                    (Ok(image), Ok(whole)) => {
                        lossless += 1;
                        assert_eq!(shape(image), shape(whole));
                        let (_, most) = difference(&interleaved(image), &interleaved(whole));
                        assert_eq!(most, 0, "{} {how} at {place} of {}", reference.name, reference.file.len());
                    }
                    (Ok(_), Err(error)) => panic!("{} {how} at {place} decodes, whole: {error}", reference.name),
                }
            }
        }
        assert!(lossless < 30, "{}: {lossless} cuts lose nothing", reference.name);
    }
}

#[test]
fn a_missing_end_marker_or_bytes_behind_it_are_no_damage() {
    for folder in folders() {
        jpegs_with_another_end(&folder);
    }
}

fn jpegs_with_another_end(folder: &ImageFolder) {
    let mut files = Vec::new();
    for reference in KINDS.map(Reference::named) {
        let file = reference.file;
        files.push(file.to_vec());
        files.push(file[..file.len() - 2].to_vec());
        files.push(file[..file.len() - 1].to_vec());
        files.push([file, b"\0\0\xff\xd8 bytes of a camera".as_slice()].concat());
        files.push([&file[..file.len() - 2], &[0; 4096]].concat());
    }
    let results = decode_all(&files, folder);
    for (kind, results) in KINDS.iter().zip(results.chunks(5)) {
        for (index, result) in results.iter().enumerate() {
            let (Ok(image), Ok(whole)) = (result, &results[0]) else { panic!("{kind}, {index}: {result:?}") };
            assert!(image.bitmap == whole.bitmap, "{kind}, {index}");
        }
    }
}

#[test]
fn a_restart_interval_that_is_missing_in_the_middle() {
    for folder in folders() {
        jpeg_without_a_restart_interval(&folder);
    }
}

fn jpeg_without_a_restart_interval(folder: &ImageFolder) {
    let references = Reference::all();
    let reference = references.iter().find(|r| r.name.starts_with("ycc_") && r.name.contains("plain_r1")).unwrap();
    let marks: Vec<_> =
        (0..reference.file.len() - 1).filter(|&at| matches!(reference.file[at..], [0xff, 0xd0..=0xd7, ..])).collect();
    let file = [&reference.file[..marks[1]], &reference.file[marks[2]..]].concat();
    let error = decode_all(&[file], folder).pop().unwrap().unwrap_err();
    assert!(error.contains("restart intervals") && error.contains("cut short or damaged"), "{error}");
}

#[test]
fn jpegs_of_other_processes_are_called_by_their_names() {
    for folder in folders() {
        jpegs_of_other_processes(&folder);
    }
}

fn jpegs_of_other_processes(folder: &ImageFolder) {
    let whole = Reference::named("grey_11_plain_").file.to_vec();
    let frame = whole.windows(2).position(|two| two == [0xff, 0xc0]).unwrap();
    let with = |at: usize, byte: u8| {
        let mut file = whole.clone();
        file[frame + at] = byte;
        file
    };
    // Marker, precision, height and number of components of the frame header.
    for (file, wanted) in [
        (with(1, 0xc3), "it is a lossless JPEG"),
        (with(1, 0xc5), "it is a hierarchical JPEG"),
        (with(1, 0xc9), "it is an arithmetic-coded JPEG"),
        (with(1, 0xf7), "it is a JPEG-LS image"),
        (with(4, 12), "it is a JPEG of 12 bits a sample"),
        (with(6, 0), "it is a JPEG whose height is given behind its first scan"),
    ] {
        let error = decode_all(&[file], folder).pop().unwrap().unwrap_err();
        assert!(error.contains(wanted), "{wanted} in {error}");
    }
}

fn png_chunk(name: &[u8], data: &[u8]) -> Vec<u8> {
    let checked = [name, data].concat();
    let mut crc = !0_u32;
    for byte in &checked {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
        }
    }
    [&(data.len() as u32).to_be_bytes()[..], &checked, &(!crc).to_be_bytes()].concat()
}

fn png_of(image: &image::RgbImage) -> Vec<u8> {
    let mut file = Vec::new();
    image.write_to(&mut std::io::Cursor::new(&mut file), image::ImageFormat::Png).unwrap();
    file
}

/// A picture of 37 x 35 pixels in which nearby pixels differ.
fn picture() -> image::RgbImage {
    image::RgbImage::from_fn(37, 35, |x, y| image::Rgb([(x * 6) as u8, (y * 7) as u8, (x * y % 251) as u8]))
}

#[test]
fn a_png_cut_anywhere_is_an_error_unless_no_pixel_is_lost() {
    let whole = png_of(&picture());
    let pixels = picture().into_raw();
    let cut: Vec<_> = (0..whole.len()).map(|place| &whole[..place]).collect();
    let results = decode_all(&cut, &ImageFolder::new());
    for (place, result) in results.iter().enumerate() {
        match result {
            Ok(image) => assert!(interleaved(image) == pixels, "cut at {place} of {}", whole.len()),
            Err(error) => assert!(error.contains("leave it out"), "{error}"),
        }
    }
    // Without its last chunk (12 bytes) the picture is complete, and so it is with bytes after that chunk.
    assert!(results[whole.len() - 12].is_ok());
    let more = [&whole, b"more".as_slice()].concat();
    assert!(decode_all(&[more], &ImageFolder::new())[0].is_ok());
    assert!(results[..whole.len() - 30].iter().all(Result::is_err));
}

#[test]
fn a_png_with_a_changed_byte_of_pixels_is_an_error() {
    let whole = png_of(&picture());
    let start = whole.windows(4).position(|four| four == b"IDAT").unwrap() + 4;
    let end = whole.windows(4).position(|four| four == b"IEND").unwrap() - 8;
    let changed: Vec<_> = (start..end)
        .step_by(11)
        .map(|at| {
            let mut file = whole.clone();
            file[at] ^= 0x10;
            file
        })
        .collect();
    for (index, result) in decode_all(&changed, &ImageFolder::new()).into_iter().enumerate() {
        let error = result.err().unwrap_or_else(|| panic!("change {index} is not seen"));
        assert!(error.contains("cut short or damaged"), "{error}");
    }
}

/// EXIF data with an orientation only.
fn exif(orientation: u8) -> Vec<u8> {
    [b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".as_slice(), &[orientation], &[0; 6]].concat()
}

/// The picture as PNG and as JPEG, to be turned as `orientation` says.
fn tagged(orientation: u8) -> [Vec<u8>; 2] {
    let mut png = png_of(&picture());
    png.splice(33..33, png_chunk(b"eXIf", &exif(orientation)));
    [png, with_orientation(Reference::named("ycc_11.11.11_plain_").file, orientation)]
}

/// A JPEG with an EXIF orientation.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let data = [b"Exif\0\0".as_slice(), &exif(orientation)].concat();
    let length = (data.len() as u16 + 2).to_be_bytes();
    [&jpeg[..2], b"\xff\xe1".as_slice(), &length, &data, &jpeg[2..]].concat()
}

/// The picture of these bytes, turned by the image crate.
fn turned(stored: &Image, orientation: u8) -> image::RgbImage {
    let (height, width) = (stored.bitmap.height(), stored.bitmap.width());
    let stored = image::RgbImage::from_raw(width, height, interleaved(stored)).unwrap();
    let mut turned = image::DynamicImage::from(stored);
    turned.apply_orientation(image::metadata::Orientation::from_exif(orientation).unwrap());
    turned.into_rgb8()
}

#[test]
fn all_eight_exif_orientations_are_honoured() {
    for folder in folders() {
        exif_orientations(&folder);
    }
}

fn exif_orientations(folder: &ImageFolder) {
    for orientation in 1..=8 {
        let files = tagged(orientation);
        let stored = decode_all(&files, &folder.clone().exif_orientation(false));
        for (image, stored) in decode_all(&files, folder).into_iter().zip(stored) {
            let (image, stored) = (image.unwrap(), stored.unwrap());
            assert_eq!(shape(&stored), [3, 35, 37]);
            let wanted = turned(&stored, orientation);
            assert_eq!(shape(&image), [3, wanted.height() as usize, wanted.width() as usize], "{orientation}");
            assert!(interleaved(&image) == *wanted.as_raw(), "orientation {orientation}");
        }
    }
}

#[test]
fn height_and_width_of_a_resize_are_those_after_the_turn() {
    for folder in folders() {
        resize_after_the_turn(&folder);
    }
}

fn resize_after_the_turn(folder: &ImageFolder) {
    for orientation in 1..=8 {
        let files = tagged(orientation);
        let stored = decode_all(&files, &folder.clone().exif_orientation(false));
        let folder = &folder.clone().resize(20, 12);
        for (image, stored) in decode_all(&files, folder).into_iter().zip(stored) {
            let image = image.unwrap();
            assert_eq!(shape(&image), [3, 20, 12]);
            let upright = png_of(&turned(&stored.unwrap(), orientation));
            let wanted = decode_all(&[upright], folder).pop().unwrap().unwrap();
            // Resizing rows first rounds differently from resizing columns first.
            let (_, most) = difference(&interleaved(&image), &interleaved(&wanted));
            assert!(most <= 1, "orientation {orientation}: {most}");
        }
    }
}

#[test]
fn an_orientation_that_is_none_changes_nothing() {
    for orientation in [0, 9, 255] {
        let [png, jpeg] = tagged(orientation);
        let results = decode_all(&[png, jpeg], &ImageFolder::new());
        assert!(results.iter().all(|result| shape(result.as_ref().unwrap()) == [3, 35, 37]));
    }
}

/// What libjpeg-turbo decodes, whole and in parts.
#[cfg(feature = "turbojpeg")]
mod turbo {
    use dataflux::{Decode, Interpolation, JpegDecoding, RandomCrop, RandomResizedCrop, Resize, Transforms};

    use super::*;

    /// Transforms that begin with a crop, of which some reach over the edges of an image of 37 x 35 pixels.
    fn crops() -> Vec<Transforms> {
        let of = |step: RandomCrop| Transforms::new().step(step);
        let nearest = RandomResizedCrop { interpolation: Interpolation::Nearest, ..RandomResizedCrop::new(9, 9) };
        vec![
            Transforms::new().random_resized_crop(8, 8).horizontal_flip(0.5),
            // Larger than the image.
            Transforms::new().random_resized_crop(70, 60),
            Transforms::new().step(nearest),
            Transforms::new().center_crop(11, 9),
            Transforms::new().center_crop(40, 10),
            of(RandomCrop::new(12, 20)).resize(5, 5),
            of(RandomCrop { padding: 8, fill: [1, 2, 3, 4], ..RandomCrop::new(24, 24) }),
            of(RandomCrop { padding: 8, ..RandomCrop::new(5, 5) }),
        ]
    }

    #[test]
    fn a_crop_has_the_same_pixels_as_the_same_crop_of_the_whole_image() {
        let kinds = [
            "ycc_11.11.11_plain_",
            "ycc_21.11.11_plain_",
            "ycc_22.11.11_plain_",
            "ycc_22.11.11_progressive_",
            "ycc_12.11.11_plain_",
            "ycc_41.11.11_plain_",
            "ycc_22.11.11_separate_",
            "grey_11_plain_",
        ];
        let mut files = Vec::new();
        for kind in kinds {
            for orientation in 1..=8 {
                // Drawn by the sample's id, so each copy has another crop.
                for _ in 0..6 {
                    files.push(with_orientation(Reference::named(kind).file, orientation));
                }
            }
        }
        // Without its end marker a file is decoded whole.
        let open: Vec<_> = files.iter().map(|file| &file[..file.len() - 2]).collect();
        for transforms in crops() {
            let folder = ImageFolder::new().jpeg_decoding(JpegDecoding::Turbo).transform(transforms.clone());
            let parts = decode_all(&files, &folder);
            for (index, (part, whole)) in parts.into_iter().zip(decode_all(&open, &folder)).enumerate() {
                let (part, whole) = (part.unwrap().bitmap, whole.unwrap().bitmap);
                let kind = kinds[index / 48];
                assert!(part == whole, "{kind}, orientation {}: {transforms:?}", index % 48 / 6 + 1);
            }
        }
    }

    #[test]
    fn damage_outside_of_a_crop_is_seen_only_in_files_without_an_end_marker() {
        let whole = Reference::named("ycc-bare_11.11.11_plain_").file.to_vec();
        // The last rows are missing.
        let cut = &whole[..whole.len() - 60];
        let ended = [cut, &[0xff, 0xd9]].concat();
        let folder = |height| {
            let steps = Transforms::new().center_crop(height, 9);
            ImageFolder::new().jpeg_decoding(JpegDecoding::Turbo).transform(steps)
        };
        let results = decode_all(&[whole.as_slice(), cut, &ended], &folder(5));
        assert!(results[1].as_ref().unwrap_err().contains("cut short or damaged"));
        assert!(results[0].as_ref().unwrap().bitmap == results[2].as_ref().unwrap().bitmap);
        let results = decode_all(&[ended], &folder(35));
        assert!(results[0].as_ref().unwrap_err().contains("cut short or damaged"));
    }

    #[test]
    fn bytes_that_are_missing_in_the_middle_are_seen_only_by_decoding_the_whole_file() {
        let whole = Reference::named("ycc-bare_11.11.11_plain_").file.to_vec();
        let folder = ImageFolder::new().jpeg_decoding(JpegDecoding::Turbo);
        let crop = folder.clone().transform(Transforms::new().center_crop(3, 9));
        let undamaged = decode_all(&[&whole], &crop).pop().unwrap().unwrap().bitmap;
        let mut noticed = 0;
        for from_end in 30..60 {
            let mut damaged = whole.clone();
            let at = whole.len() - from_end;
            damaged.drain(at..at + 12);
            // Now and then the rest happens to be as long as wanted.
            if let Err(error) = decode_all(&[&damaged], &folder).pop().unwrap() {
                assert!(error.contains("cut short or damaged"), "{error}");
                noticed += 1;
            }
            // The last rows are not read for the crop.
            assert!(decode_all(&[&damaged], &crop).pop().unwrap().unwrap().bitmap == undamaged);
        }
        assert!(noticed > 15, "{noticed}");
    }

    #[test]
    fn steps_before_a_crop_have_the_whole_image() {
        let file = Reference::named("ycc_22.11.11_plain_").file;
        let open = &file[..file.len() - 2];
        for transforms in [
            Transforms::new().horizontal_flip(1.0).center_crop(5, 5),
            Transforms::new().color_jitter(0.5, 0.5, 0.5, 0.1).center_crop(5, 5),
            Transforms::new().step(dataflux::RandomRotation::new(30.0)).center_crop(5, 5),
        ] {
            let folder = ImageFolder::new().jpeg_decoding(JpegDecoding::Turbo).transform(transforms);
            let both = decode_all(&[file, open], &folder);
            assert_eq!(both[0].as_ref().unwrap().bitmap.height(), 5);
            let again = decode_all(&[open, file], &folder);
            assert!(both[0].as_ref().unwrap().bitmap == again[0].as_ref().unwrap().bitmap);
        }
    }

    #[test]
    fn scaled_images_are_nearly_those_that_are_resized_from_their_full_size() {
        // Not of 4:2:2, whose colours the library scales less than the brightness: of five pixels at 1/8 they are lost.
        for kind in ["ycc_11.11.11_plain_", "ycc_22.11.11_progressive_", "grey_11_plain_"] {
            let files: Vec<_> =
                (1..=8).map(|orientation| with_orientation(Reference::named(kind).file, orientation)).collect();
            for steps in [
                Transforms::new().resize(9, 8),
                Transforms::new().step(RandomResizedCrop { scale: (0.5, 1.0), ..RandomResizedCrop::new(6, 6) }),
                Transforms::new().resize(4, 4),
            ] {
                let of = |decoding| {
                    let folder = ImageFolder::new().jpeg_decoding(decoding).transform(steps.clone());
                    decode_all(&files, &folder)
                };
                let (scaled, full) = (of(JpegDecoding::TurboScaled), of(JpegDecoding::Turbo));
                for (orientation, (scaled, full)) in scaled.into_iter().zip(full).enumerate() {
                    let (scaled, full) = (scaled.unwrap(), full.unwrap());
                    let (mean, most) = difference(&interleaved(&scaled), &interleaved(&full));
                    assert!(most > 0, "it was not scaled");
                    assert!(mean < 4.5, "{kind}, orientation {}: {mean} {most} {steps:?}", orientation + 1);
                }
            }
        }
    }

    #[test]
    fn images_are_scaled_only_where_a_weighed_resize_comes_first() {
        let file = Reference::named("ycc_22.11.11_plain_").file;
        let nearest = Resize { interpolation: Interpolation::Nearest, ..Resize::new(4, 4) };
        for steps in [
            Transforms::new(),
            Transforms::new().step(nearest),
            Transforms::new().center_crop(8, 8).horizontal_flip(1.0).resize(2, 2),
            Transforms::new().resize(18, 19),
        ] {
            let of = |decoding| {
                let folder = ImageFolder::new().jpeg_decoding(decoding).transform(steps.clone());
                decode_all(&[file], &folder).pop().unwrap().unwrap().bitmap
            };
            assert!(of(JpegDecoding::TurboScaled) == of(JpegDecoding::Turbo), "{steps:?}");
        }
    }

    #[test]
    fn what_libjpeg_turbo_warns_about_is_left_to_the_other_decoders() {
        let file = Reference::named("ycc_11.11.11_plain_").file;
        let end = file.len() - 2;
        // Bytes behind the data of the scan, of which libjpeg says that they are extraneous; no pixel is lost.
        let more = [&file[..end], &b"more".repeat(20), &file[end..]].concat();
        let of = |decoding| {
            let folder = ImageFolder::new().jpeg_decoding(decoding);
            decode_all(&[file, more.as_slice()], &folder).into_iter().map(Result::unwrap).collect::<Vec<_>>()
        };
        let (rust, turbo) = (of(JpegDecoding::Rust), of(JpegDecoding::Turbo));
        assert!(rust[0].bitmap != turbo[0].bitmap, "the decoders round alike, and this test shows nothing");
        assert!(turbo[1].bitmap == rust[1].bitmap);
    }

    #[test]
    fn the_setting_is_part_of_the_folder() {
        let turbo = ImageFolder::new().jpeg_decoding(JpegDecoding::Turbo);
        assert_ne!(turbo, ImageFolder::new());
        assert_eq!(turbo.clone().elements::<u8>(), ImageFolder::new().elements().jpeg_decoding(JpegDecoding::Turbo));
        assert!(format!("{turbo:?}").contains("jpeg_decoding: Turbo"));
        assert!(turbo.wants_images());
    }
}
