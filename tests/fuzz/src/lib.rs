//! What the fuzz targets do with arbitrary bytes: a function for each decoder of bytes from outside.
//!
//! A target fails if a function panics, takes longer than libFuzzer's timeout, or allocates more memory than the
//! decoder has said beforehand.

mod memory;
mod samples;
mod transforms;

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use dataflux::list::inventory::Inventory;
use dataflux::plan::PriceTable;
use dataflux::store::{Client, MemoryStore, gcs};
use dataflux::{
    AuditLog, Compression, CsvRows, DataLoader, Flac, ImageFolder, JpegDecoding, Json, Manifest, Npy, Npz, Safetensors,
    State, Text, Transforms, Wav,
};
use memory::{MIB, measured};
pub use samples::dataset;
use samples::{decoded, decoded_with_slack, let_dependencies_panic};
pub use transforms::transform;

/// A target: its name, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All targets, in the order of their names.
pub const TARGETS: &[Target] = &[
    ("audit_log", audit_log),
    ("csv", csv),
    ("decompress", decompress),
    ("flac", flac),
    ("image_formats", image_formats),
    ("inventory_csv", inventory_csv),
    ("inventory_parquet", inventory_parquet),
    ("jpeg", jpeg),
    ("json", json),
    ("listing", listing),
    ("manifest", manifest),
    ("npy", npy),
    ("npz", npz),
    ("png", png),
    ("prices", prices),
    ("safetensors", safetensors),
    ("state", state),
    ("text", text),
    ("transform", transform),
    ("wav", wav),
];

/// Decoded bytes that the targets allow: little, so that runs are fast.
const LIMIT: u64 = MIB;

/// Pixels that the targets allow.
const MAX_PIXELS: u64 = 1 << 16;

/// Decodes JPEG files. Bytes that begin otherwise are left to [`png`].
pub fn jpeg(data: &[u8]) {
    if data.starts_with(b"\xff\xd8") {
        image(data, "p/cat/image.jpg", memory::SLACK);
        // Whole, a part of it, and at a smaller scale. What the C library allocates is not measured.
        let whole = ImageFolder::new().max_pixels(MAX_PIXELS).jpeg_decoding(JpegDecoding::Turbo);
        let part = whole.clone().transform(Transforms::new().center_crop(9, 11));
        let scaled = whole.clone().resize(3, 5).jpeg_decoding(JpegDecoding::TurboScaled);
        for folder in [whole, part, scaled] {
            decoded(&folder, "p/cat/image.jpg", data);
        }
    }
}

/// Decodes PNG files, and names files of formats that aren't decoded. All others are left to [`image_formats`].
pub fn png(data: &[u8]) {
    if !data.starts_with(b"\xff\xd8") && !is_of_image_formats(data) {
        image(data, "p/cat/image.png", memory::SLACK);
    }
}

/// Decodes WebP, GIF, BMP and TIFF files.
pub fn image_formats(data: &[u8]) {
    /// What the decoder of WebP reserves for a part of a frame that claims to be large and is not there. Which bytes
    /// are such a claim is known only within the decoder.
    const WEBP_PART: u64 = 16 * MIB;
    if is_of_image_formats(data) {
        let slack = if data.starts_with(b"RIFF") { memory::SLACK + WEBP_PART } else { memory::SLACK };
        image(data, "p/cat/image.webp", slack);
    }
}

fn is_of_image_formats(data: &[u8]) -> bool {
    [b"RIFF".as_slice(), b"GIF8", b"BM", b"II*", b"MM\0*"].iter().any(|signature| data.starts_with(signature))
}

fn image(data: &[u8], name: &str, slack: u64) {
    let folder = ImageFolder::new().max_pixels(MAX_PIXELS);
    decoded_with_slack(&folder, name, data, slack);
    let small = folder.channels(dataflux::Channels::Rgba).resize(5, 7).elements::<u8>();
    decoded_with_slack(&small, name, data, slack);
}

/// Decodes files of one NumPy array.
pub fn npy(data: &[u8]) {
    decoded(&Npy::<f32>::new(), "p/cat/array.npy", data);
    decoded(&Npy::<i64>::new(), "p/cat/array.npy", data);
}

/// Decodes archives of NumPy arrays.
pub fn npz(data: &[u8]) {
    decoded(&Npz::new().max_decompressed(LIMIT), "p/cat/arrays.npz", data);
    decoded(&Npz::new().max_decompressed(LIMIT).arrays(["x"]), "p/cat/arrays.npz", data);
}

/// Decodes files of safetensors.
pub fn safetensors(data: &[u8]) {
    decoded(&Safetensors::new(), "p/cat/tensors.safetensors", data);
    decoded(&Safetensors::new().tensors(["x"]), "p/cat/tensors.safetensors", data);
}

/// Decodes JSON files.
pub fn json(data: &[u8]) {
    decoded(&Json::<serde_json::Value>::new(), "p/cat/value.json", data);
}

/// Decodes CSV files, and reads all fields and one column of numbers.
pub fn csv(data: &[u8]) {
    let with_header = decoded(&CsvRows::new().max_decompressed(LIMIT), "p/cat/table.csv", data);
    let tabs = CsvRows::new().max_decompressed(LIMIT).without_header().delimiter(b'\t');
    let without_header = decoded(&tabs, "p/cat/table.csv", data);
    for table in with_header.iter().chain(&without_header) {
        let fields: usize = table.rows().map(Iterator::count).sum();
        assert_eq!(fields, table.len() * table.columns());
        let _ = table.numbers::<f64>(table.header().take(1));
    }
}

/// Decodes text files.
pub fn text(data: &[u8]) {
    let text = decoded(&Text::new(), "p/cat/page.txt", data);
    assert!(text.is_none_or(|text| text.as_bytes() == data));
}

/// Decodes WAV files.
pub fn wav(data: &[u8]) {
    decoded(&Wav::new().max_decompressed(LIMIT), "p/cat/tone.wav", data);
    decoded(&Wav::new().max_decompressed(LIMIT).mono().length(100), "p/cat/tone.wav", data);
}

/// Decodes FLAC files.
pub fn flac(data: &[u8]) {
    decoded(&Flac::new().max_decompressed(LIMIT), "p/cat/tone.flac", data);
    decoded(&Flac::new().max_decompressed(LIMIT).mono().length(100), "p/cat/tone.flac", data);
}

/// Decompresses what follows the first byte, which chooses the compression.
pub fn decompress(data: &[u8]) {
    /// Windows and tables of a decompressor, by the documentation of [`Compression::decompress`].
    const MAX_WINDOW: u64 = 128 * MIB;
    let Some((first, stored)) = data.split_first() else { return };
    let all = [
        Compression::Gzip,
        Compression::Zlib,
        Compression::Zstd,
        Compression::Bzip2,
        Compression::Xz,
        Compression::Brotli,
    ];
    let compression = all[usize::from(*first) % all.len()];
    let claimed = compression.decompressed_size(stored);
    let (bytes, peak) = measured(|| compression.decompress(stored, LIMIT));
    assert!(peak <= LIMIT + MAX_WINDOW + memory::SLACK, "{compression:?} took {peak} bytes");
    if let Ok(bytes) = bytes {
        assert!(bytes.len() as u64 <= LIMIT, "{compression:?} made {} bytes", bytes.len());
        // The fields of gzip count modulo 2^32 and only the last member; the others that check theirs are exact.
        assert!(compression != Compression::Xz || claimed == Some(bytes.len() as u64));
    }
}

/// Parses a page of a listing, and reads and sorts its objects.
pub fn listing(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(mut page) = gcs::parse_page(text) else { return };
    assert_eq!(page.objects.iter().count(), page.objects.len());
    page.objects.sort();
    assert!(page.objects.iter().is_sorted_by_key(|object| object.name.to_owned()));
}

/// Reads a shard of an inventory report in CSV.
pub fn inventory_csv(data: &[u8]) {
    inventory(data, "csv");
}

/// Reads a shard of an inventory report in Parquet.
pub fn inventory_parquet(data: &[u8]) {
    inventory(data, "parquet");
}

fn inventory(data: &[u8], format: &str) {
    // The crate parquet panics at some damaged pages, on a thread whose panics are errors.
    let_dependencies_panic();
    let store = MemoryStore::new().with_bucket("reports");
    store.insert("reports", &format!("daily/1a34_2024-05-20T06:35_0.{format}"), data.to_vec());
    let client = Client::new(Arc::new(store));
    let prefix = "gs://cats/train/".parse().expect("a prefix");
    let (_, peak) = measured(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let inventory = Inventory::open(&client, "gs://reports/daily/").await?;
            let mut seen = 0;
            let sink = |objects: dataflux::store::Objects| {
                seen += objects.iter().count() as u64;
                Ok(())
            };
            let counts = inventory.objects(&client, &prefix, sink).await?;
            assert_eq!(counts.objects, seen);
            Ok::<_, dataflux::Error>(())
        })
    });
    assert!(peak <= 256 * MIB, "a report of {} bytes took {peak} bytes", data.len());
}

/// Opens a saved manifest whose checksums are right, verifies it and reads every entry.
pub fn manifest(data: &[u8]) {
    let path = temporary_file("manifest");
    std::fs::write(&path, with_checksums(data)).expect("a temporary file");
    let (_, peak) = measured(|| {
        let Ok(manifest) = Manifest::load(&path) else { return };
        let _ = (manifest.verify(), manifest.labels(), manifest.digest(), manifest.storage_classes().count());
        let mut entries = manifest.entries();
        while let Ok(Some(_)) = entries.next() {}
        for index in [0, 1, manifest.len() / 2, manifest.len().wrapping_sub(1), u64::MAX] {
            let _ = (manifest.get(index), manifest.facts(index));
        }
        let _ = manifest.cuts(100);
    });
    assert!(peak <= 64 * data.len() as u64 + 4 * MIB, "a manifest of {} bytes took {peak} bytes", data.len());
}

/// A manifest file with the checksums that its bytes should have: behind the head, and of the contents in the head.
fn with_checksums(data: &[u8]) -> Vec<u8> {
    const HEAD_BYTES_AT: usize = 12;
    const CONTENTS_AT: usize = 80;
    let mut file = data.to_vec();
    let head_bytes =
        file.get(HEAD_BYTES_AT..).and_then(|rest| rest.first_chunk()).map(|bytes| u32::from_le_bytes(*bytes));
    let Some(head_bytes) = head_bytes.map(|bytes| bytes as usize) else { return file };
    if head_bytes < CONTENTS_AT + 8 || head_bytes > file.len() {
        return file;
    }
    let contents = crc32c::crc32c(&file[head_bytes..]).to_le_bytes();
    file[CONTENTS_AT..][..4].copy_from_slice(&contents);
    let head = crc32c::crc32c(&file[..head_bytes - 4]).to_le_bytes();
    file[head_bytes - 4..head_bytes].copy_from_slice(&head);
    file
}

/// Reads an audit log, and the samples of each of its records.
pub fn audit_log(data: &[u8]) {
    let path = temporary_file("audit");
    std::fs::write(&path, data).expect("a temporary file");
    let Ok(mut log) = AuditLog::open(&path) else { return };
    let manifest = samples::dataset().manifest();
    for record in log.by_ref().map_while(Result::ok) {
        let (_, peak) = measured(|| record.samples(manifest));
        assert!(peak <= 64 * MIB, "the samples of a record took {peak} bytes");
    }
    let _ = log.hash();
}

/// Reads a table of prices.
pub fn prices(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = PriceTable::from_json(text);
    }
}

/// Resumes a loader from a state, and reads what is left of the epoch.
pub fn state(data: &[u8]) {
    let Ok(state) = serde_json::from_slice::<State>(data) else { return };
    let json = serde_json::to_vec(&state).expect("a state is JSON");
    assert_eq!(serde_json::from_slice::<State>(&json).expect("it was written so"), state);
    let builder = DataLoader::builder(samples::dataset().clone()).decode_threads(1).prefetch(1);
    let Ok(loader) = builder.resume(state.clone()).build() else { return };
    let Ok(epoch) = loader.epoch(state.epoch) else { return };
    let left: usize = epoch.map_while(dataflux::Result::ok).map(|batch| batch.len()).sum();
    assert!(left as u64 <= 2 * samples::dataset().len(), "{left} samples are left");
}

/// A file of this process for one target.
fn temporary_file(name: &str) -> PathBuf {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
        let folder = std::env::temp_dir().join(format!("dataflux-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a temporary folder");
        folder
    });
    FOLDER.join(name)
}
