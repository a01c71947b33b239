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
    let references = Reference::all();
    let files: Vec<_> = references.iter().map(|reference| reference.file).collect();
    let mut refused = BTreeMap::<_, Vec<_>>::new();
    let (mut count, mut sum, mut worst) = (0, 0.0, (0.0, 0, ""));
    let mut wrong = Vec::new();
    for (reference, result) in references.iter().zip(decode_all(&files, &ImageFolder::new())) {
        match result {
            Err(error) => refused.entry(error.split(',').next().unwrap().to_owned()).or_default().push(reference.name),
            Ok(image) => {
                let mut pixels = interleaved(&image);
                if reference.is_grey() {
                    pixels = pixels.into_iter().step_by(3).collect();
                }
                let (mean, most) = difference(&pixels, reference.pixels);
                // Decoders differ only in rounding.
                if mean > 0.5 || most > 6 {
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
    for reference in KINDS.map(Reference::named) {
        let whole = &decode_all(&[reference.file], &ImageFolder::new())[0];
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
            for (place, result) in places.iter().zip(decode_all(files, &ImageFolder::new())) {
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
    let mut files = Vec::new();
    for reference in KINDS.map(Reference::named) {
        let file = reference.file;
        files.push(file.to_vec());
        files.push(file[..file.len() - 2].to_vec());
        files.push(file[..file.len() - 1].to_vec());
        files.push([file, b"\0\0\xff\xd8 bytes of a camera".as_slice()].concat());
        files.push([&file[..file.len() - 2], &[0; 4096]].concat());
    }
    let results = decode_all(&files, &ImageFolder::new());
    for (kind, results) in KINDS.iter().zip(results.chunks(5)) {
        for (index, result) in results.iter().enumerate() {
            let (Ok(image), Ok(whole)) = (result, &results[0]) else { panic!("{kind}, {index}: {result:?}") };
            assert!(image.bitmap == whole.bitmap, "{kind}, {index}");
        }
    }
}

#[test]
fn a_restart_interval_that_is_missing_in_the_middle() {
    let references = Reference::all();
    let reference = references.iter().find(|r| r.name.starts_with("ycc_") && r.name.contains("plain_r1")).unwrap();
    let marks: Vec<_> =
        (0..reference.file.len() - 1).filter(|&at| matches!(reference.file[at..], [0xff, 0xd0..=0xd7, ..])).collect();
    let file = [&reference.file[..marks[1]], &reference.file[marks[2]..]].concat();
    let error = decode_all(&[file], &ImageFolder::new()).pop().unwrap().unwrap_err();
    assert!(error.contains("restart intervals") && error.contains("cut short or damaged"), "{error}");
}

#[test]
fn jpegs_of_other_processes_are_called_by_their_names() {
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
        let error = decode_all(&[file], &ImageFolder::new()).pop().unwrap().unwrap_err();
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
    let mut jpeg = Reference::named("ycc_11.11.11_plain_").file.to_vec();
    let data = [b"Exif\0\0".as_slice(), &exif(orientation)].concat();
    let length = (data.len() as u16 + 2).to_be_bytes();
    jpeg.splice(2..2, [b"\xff\xe1".as_slice(), &length, &data].concat());
    [png, jpeg]
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
    for orientation in 1..=8 {
        let files = tagged(orientation);
        let stored = decode_all(&files, &ImageFolder::new().exif_orientation(false));
        for (image, stored) in decode_all(&files, &ImageFolder::new()).into_iter().zip(stored) {
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
    for orientation in 1..=8 {
        let files = tagged(orientation);
        let stored = decode_all(&files, &ImageFolder::new().exif_orientation(false));
        let folder = ImageFolder::new().resize(20, 12);
        for (image, stored) in decode_all(&files, &folder).into_iter().zip(stored) {
            let image = image.unwrap();
            assert_eq!(shape(&image), [3, 20, 12]);
            let upright = png_of(&turned(&stored.unwrap(), orientation));
            let wanted = decode_all(&[upright], &folder).pop().unwrap().unwrap();
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
