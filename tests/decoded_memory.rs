//! Decoding stays within the memory budget.
//!
//! A program of its own, which starts a process for each case, because it measures the peak memory of a process.
#![cfg(target_os = "linux")]

mod support;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

#[cfg(feature = "audio")]
use dataflux::Wav;
use dataflux::store::MemoryStore;
use dataflux::{
    DataLoader, DataLoaderBuilder, DatafluxDataset, Decode, ErrorKind, Image, ImageFolder, OnError, RawSample,
    StackImages, Text,
};
use support::process::{BESIDE, MIB, in_own_process, peak};
use support::{HANG, client, png, until, without_hanging_for};

/// Whether the large cases run, too; see `cli/tests/it/memory.rs`.
fn is_full_size() -> bool {
    std::env::var("DATAFLUX_LARGEST").is_ok_and(|largest| largest == "1GiB")
}

/// A data set of black images of these heights and widths, whose files have a few KiB.
fn images(sizes: &[(u32, u32)]) -> DatafluxDataset {
    let store = MemoryStore::new().with_bucket("data");
    let mut files = std::collections::HashMap::new();
    for (index, &(height, width)) in sizes.iter().enumerate() {
        let file =
            files.entry((height, width)).or_insert_with(|| png(height, width, &vec![0; (height * width) as usize]));
        store.insert("data", &format!("p/{}/{index:05}.png", ["ant", "bee"][index % 2]), file.clone());
    }
    DatafluxDataset::open_with(client(store), "gs://data/p/").unwrap()
}

/// Runs an epoch and holds its first batch until the loader is idle, as a long training step would. Returns the number
/// of samples, the error that ended the epoch, and the growth of the peak memory: a program that links libtorch starts
/// with 128 MiB.
fn measure<D: Decode>(builder: DataLoaderBuilder<D>, budget: u64) -> (usize, String, u64) {
    let before = peak();
    let loader = builder.memory_budget(budget).decode_threads(4).build().unwrap();
    let (mut samples, mut error) = (0, String::new());
    for (index, batch) in loader.epoch(0).unwrap().enumerate() {
        match batch {
            Ok(batch) => samples += batch.len(),
            Err(failed) => {
                assert_eq!(failed.kind(), ErrorKind::Config, "{failed}");
                error = failed.to_string();
            }
        }
        let (mut held, mut since) = (loader.bytes_held(), Instant::now());
        while index == 0 && since.elapsed() < Duration::from_millis(700) {
            std::thread::sleep(Duration::from_millis(50));
            let peak = peak();
            if std::mem::replace(&mut held, loader.bytes_held().max(peak)) != held {
                since = Instant::now();
            }
        }
    }
    let peak = peak();
    until("all bytes are given back", || loader.bytes_held() == 0);
    println!(
        "budget {:>4} MiB: {samples} samples, peak {} MiB ({} before) {error}",
        budget / MIB,
        peak / MIB,
        before / MIB
    );
    (samples, error, peak - before)
}

#[test]
fn images_of_unknown_size_stay_within_the_budget() {
    in_own_process("images_of_unknown_size_stay_within_the_budget", || {
        let (side, budget) = if is_full_size() { (3_000, 512 * MIB) } else { (800, 48 * MIB) };
        let dataset = images(&vec![(side, side); 48]).decode(ImageFolder::new());
        let (samples, error, peak) = measure(DataLoader::builder(dataset), budget);
        assert_eq!((samples, error.as_str()), (48, ""));
        assert!(peak <= budget + BESIDE, "{peak} bytes of {budget}");
    });
}

#[test]
fn images_of_mixed_sizes_stay_within_the_budget() {
    in_own_process("images_of_mixed_sizes_stay_within_the_budget", || {
        let (times, budget) = if is_full_size() { (4, 512 * MIB) } else { (1, 40 * MIB) };
        let mut sizes = vec![(32, 32); 400];
        for (at, side) in [(3, 800), (50, 600), (51, 900), (52, 800), (200, 850), (300, 900), (301, 900), (399, 900)] {
            sizes[at] = (times * side, times * side);
        }
        let dataset = images(&sizes).decode(ImageFolder::new()).collate(|images: Vec<Image>| Ok(images));
        let (samples, error, peak) = measure(DataLoader::builder(dataset), budget);
        assert_eq!((samples, error.as_str()), (400, ""));
        assert!(peak <= budget + BESIDE, "{peak} bytes of {budget}");
    });
}

#[test]
fn large_images_that_are_made_small_count_while_they_are_decoded() {
    in_own_process("large_images_that_are_made_small_count_while_they_are_decoded", || {
        // Four threads decode; the budget has room for two of these images at once.
        let (side, count, budget) = if is_full_size() { (12_000, 8, 1_024 * MIB) } else { (3_600, 8, 72 * MIB) };
        let dataset = images(&vec![(side, side); count]).decode(ImageFolder::new().resize(32, 32));
        let (samples, error, peak) = measure(DataLoader::builder(dataset).batch_size(4), budget);
        assert_eq!((samples, error.as_str()), (count, ""));
        assert!(peak <= budget + BESIDE, "{peak} bytes of {budget}");
    });
}

#[test]
fn a_batch_that_never_fits_is_an_error_that_says_what_to_change() {
    in_own_process("a_batch_that_never_fits_is_an_error_that_says_what_to_change", || {
        let budget = 16 * MIB;
        let decoded = |side, decode: ImageFolder, batch_size| {
            let dataset = images(&[(side, side); 16]).decode(decode);
            let (samples, error, peak) = measure(DataLoader::builder(dataset).batch_size(batch_size), budget);
            assert!(peak <= budget + BESIDE, "{peak} bytes of {budget}");
            (samples, error)
        };
        let (samples, error) = decoded(64, ImageFolder::new().resize(700, 700), 4);
        assert_eq!(samples, 0);
        for part in ["memory_budget", "16777216", "batch_size", "resize", "gs://data/p/", "4 samples"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        let wanted = error.split(" bytes, or ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert_eq!(decoded(64, ImageFolder::new().resize(64, 64), 4), (16, String::new()));
        let (samples, error) = decoded(4_000, ImageFolder::new(), 1);
        assert_eq!(samples, 0);
        for part in ["memory_budget", "p/ant/00000.png", "resize"] {
            assert!(error.contains(part), "{part} in {error}");
        }
        // The budget that the first error asks for is enough.
        let dataset = images(&[(64, 64); 16]).decode(ImageFolder::new().resize(700, 700));
        assert_eq!(measure(DataLoader::builder(dataset).batch_size(4), wanted).0, 16);
    });
}

/// A damaged header of a few bytes ended the epoch of a loader that skips damaged samples.
#[test]
fn an_image_that_alone_never_fits_is_lost_like_any_other_bad_sample() {
    in_own_process("an_image_that_alone_never_fits_is_lost_like_any_other_bad_sample", || {
        let mut sizes = vec![(64, 64); 16];
        sizes[5] = (4_000, 4_000);
        for (on_error, expected) in [(OnError::Skip { limit: 1 }, 15), (OnError::Substitute { limit: 1 }, 16)] {
            let dataset = images(&sizes).decode(ImageFolder::new()).collate(|images: Vec<Image>| Ok(images));
            let builder = DataLoader::builder(dataset).batch_size(4).on_error(on_error);
            let (samples, error, growth) = measure(builder, 16 * MIB);
            assert_eq!((samples, error.as_str()), (expected, ""));
            assert!(growth <= 16 * MIB + BESIDE, "{growth} bytes");
        }
    });
}

/// A closure that calls the decoder of an image folder, as in the documentation.
#[test]
fn what_a_closure_makes_of_images_stays_within_the_budget() {
    in_own_process("what_a_closure_makes_of_images_stays_within_the_budget", || {
        let (side, count, budget) = if is_full_size() { (224, 4_000, 256 * MIB) } else { (500, 96, 32 * MIB) };
        let folder = ImageFolder::new().resize(side, side);
        let decode = move |sample: RawSample| folder.decode(sample);
        let dataset = images(&vec![(64, 64); count]).decode(decode).collate(StackImages::new());
        let (samples, error, peak) = measure(DataLoader::builder(dataset).batch_size(2), budget);
        assert_eq!((samples, error.as_str()), (count, ""));
        assert!(peak <= budget + BESIDE, "{peak} bytes of {budget}");
    });
}

/// An object that doesn't state its decompressed size was taken for four times as large as it is stored, and its text
/// was never counted.
#[test]
fn texts_that_do_not_state_their_size_stay_within_the_budget() {
    in_own_process("texts_that_do_not_state_their_size_stay_within_the_budget", || {
        // The field at the end of a gzip file is of its last member, which is empty here and so states nothing.
        let stored = [gzip(&vec![b'a'; 4 << 20]), gzip(b"")].concat();
        let store = MemoryStore::new().with_bucket("data");
        for index in 0..64 {
            store.insert("data", &format!("p/{index:02}.txt.gz"), stored.clone());
        }
        let dataset = DatafluxDataset::open_with(client(store), "gs://data/p/").unwrap().decode(Text::new());
        let budget = 48 * MIB;
        let (samples, error, grown) = measure(DataLoader::builder(dataset).batch_size(4).prefetch(16), budget);
        assert_eq!((samples, error.as_str()), (64, ""));
        assert!(grown <= budget + BESIDE, "{grown} bytes of {budget}");
    });
}

/// Silence after audio that is shorter than the longest of its batch was not counted.
#[cfg(feature = "audio")]
#[test]
fn silence_after_short_audio_stays_within_the_budget() {
    in_own_process("silence_after_short_audio_stays_within_the_budget", || {
        // One channel of 16 bits.
        let wav = |frames: usize| {
            let format = [1, 0, 1, 0, 0x80, 0x3e, 0, 0, 0, 0x7d, 0, 0, 2, 0, 16, 0];
            let size = (2 * frames as u32).to_le_bytes();
            [b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0", &format[..], b"data", &size, &vec![0; 2 * frames]].concat()
        };
        let dataset = || {
            let store = MemoryStore::new().with_bucket("data");
            for index in 0..256 {
                // One long file a batch.
                store.insert("data", &format!("p/{index:03}.wav"), wav(if index % 8 == 5 { 400_000 } else { 10 }));
            }
            DatafluxDataset::open_with(client(store), "gs://data/p/").unwrap().decode(Wav::new())
        };
        let budget = 48 * MIB;
        let (samples, error, grown) = measure(DataLoader::builder(dataset()).batch_size(8).prefetch(16), budget);
        assert_eq!((samples, error.as_str()), (256, ""));
        assert!(grown <= budget + BESIDE, "{grown} bytes of {budget}");

        let (samples, error, _) = measure(DataLoader::builder(dataset()).batch_size(8), 8 * MIB);
        assert_eq!(samples, 0);
        for part in
            ["p/005.wav", "takes 1600000 bytes, 1600000 bytes in the batch, to which the others are padded", ".length("]
        {
            assert!(error.contains(part), "{part} in {error}");
        }
        // The budget that the error asks for is enough.
        let wanted = error.split(" bytes, or ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
        assert_eq!(measure(DataLoader::builder(dataset()).batch_size(8), wanted).0, 256);
    });
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A type of the user, whose size the loader doesn't know.
#[test]
fn items_of_unknown_size_are_decoded_a_few_batches_ahead() {
    struct Own(RawSample);
    without_hanging_for(HANG, || {
        let decoded = Arc::new(AtomicUsize::new(0));
        let (count, dataset) = (Arc::clone(&decoded), images(&[(8, 8); 2_000]));
        let dataset = dataset.decode(move |sample: RawSample| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(Own(sample))
        });
        let loader = DataLoader::builder(dataset).batch_size(16).decode_threads(2).build().unwrap();
        let mut batches = loader.epoch(0).unwrap();
        let mut seen = batches.next().unwrap().unwrap().len();
        std::thread::sleep(Duration::from_millis(300));
        let ahead = decoded.load(Ordering::SeqCst);
        assert!(ahead <= 16 * 5, "{ahead} samples were decoded for one batch");
        seen += batches
            .map(|batch| {
                batch.unwrap().iter().map(|Own(sample)| usize::from(!sample.bytes().is_empty())).sum::<usize>()
            })
            .sum::<usize>();
        assert_eq!(seen, 2_000);
        assert!(decoded.load(Ordering::SeqCst) == 2_000);
    });
}

/// A progressive JPEG of 2,048 x 2,048 grey pixels in colour (4:2:0), whose only scan has a bit for each block.
#[cfg(feature = "turbojpeg")]
fn progressive_jpeg() -> Vec<u8> {
    const SIDE: u16 = 2_048;
    let mut file = vec![0xff, 0xd8, 0xff, 0xdb, 0, 67, 0];
    file.extend([1; 64]);
    file.extend([0xff, 0xc2, 0, 17, 8]);
    file.extend([SIDE.to_be_bytes(); 2].concat());
    file.extend([3, 1, 0x22, 0, 2, 0x11, 0, 3, 0x11, 0]);
    // One code, of one bit: a difference of 0.
    file.extend([0xff, 0xc4, 0, 20, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    file.extend([0xff, 0xda, 0, 12, 3, 1, 0, 2, 0, 3, 0, 0, 0, 0]);
    let blocks = usize::from(SIDE / 16) * usize::from(SIDE / 16) * 6;
    file.extend(vec![0; blocks / 8]);
    file.extend([0xff, 0xd9]);
    file
}

/// The memory of a C library is in no count of this program's own.
#[cfg(feature = "turbojpeg")]
#[test]
fn libjpeg_turbo_takes_no_more_memory_than_is_stated() {
    use dataflux::{DecodeMemory, JpegDecoding, Transforms};
    use support::process::forget_peak;

    in_own_process("libjpeg_turbo_takes_no_more_memory_than_is_stated", || {
        let store = MemoryStore::new().with_bucket("data");
        store.insert("data", "p/ant/1.jpg", progressive_jpeg());
        let dataset = DatafluxDataset::open_with(client(store), "gs://data/p/").unwrap();
        let turbo = ImageFolder::new().jpeg_decoding(JpegDecoding::Turbo);
        let scaled = ImageFolder::new().jpeg_decoding(JpegDecoding::TurboScaled).resize(200, 200);
        let crop = turbo.clone().transform(Transforms::new().center_crop(2_000, 300));
        for (index, folder) in [turbo, scaled, crop].into_iter().enumerate() {
            let sample = dataset.get(0).unwrap();
            let DecodeMemory { item, scratch, .. } = folder.decode_memory(&sample).unwrap();
            forget_peak();
            let before = peak();
            let image = folder.decode(sample).unwrap();
            let grown = peak() - before;
            println!("budget: image {index} took {grown} bytes, stated {item} and {scratch}");
            assert!(grown <= item + scratch + 2 * MIB, "image {index} took {grown} bytes");
            assert!(index > 0 || grown > 20 * MIB, "the coefficients and the image were not counted: {grown}");
            assert!(image.bitmap.values().iter().all(|value| *value == 128));
        }
    });
}
