//! Inventory reports that other programs wrote (`tests/python/inventory_reports.py`), on disk and in a bucket.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use dataflux::list::inventory::{Inventory, InventoryCounts};
use dataflux::list::{Filter, Prefix};
use dataflux::manifest::ManifestBuilder;
use dataflux::store::{Client, Fault, FaultStore, MemoryStore, ObjectRef, Objects, StorageClass, StoreCall};
use dataflux::{ErrorKind, Result};

use crate::support::{self, client};

const KEY: &str = "1a34f2e4-5612-4b45-961c-3d1a34f2e456_2024-05-20T06-35";

fn folder(format: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/inventory").join(format)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// What a report at `location` has below `prefix`, sorted.
fn read(client: &Client, location: &str, prefix: &str) -> Result<(Objects, InventoryCounts)> {
    let prefix: Prefix = prefix.parse()?;
    support::without_hanging({
        let (client, location) = (client.clone(), location.to_owned());
        move || {
            runtime().block_on(async {
                let inventory = Inventory::open(&client, &location).await?;
                let mut all = Objects::default();
                let sink = |objects: Objects| {
                    all.extend(objects.iter());
                    Ok(())
                };
                let counts = inventory.objects(&client, &prefix, sink).await?;
                assert_eq!(counts.objects, all.len() as u64);
                all.sort();
                Ok((all, counts))
            })
        }
    })
}

/// A store with the files of the report below `daily/`; `change` may remove or alter a file.
fn bucket(format: &str, change: impl Fn(&str, Vec<u8>) -> Option<Vec<u8>>) -> MemoryStore {
    let store = MemoryStore::new().with_bucket("reports");
    for entry in folder(format).read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if let Some(bytes) = change(name, std::fs::read(&path).unwrap()) {
            store.insert("reports", &format!("daily/{name}"), bytes);
        }
    }
    store
}

fn refusal(store: MemoryStore, location: &str) -> (ErrorKind, String) {
    let error = read(&client(store), location, "gs://cats/train/").unwrap_err();
    assert!(error.at_stage().is_some() && error.about().is_some(), "{error}");
    (error.kind(), error.to_string())
}

/// The objects that the writer listed, sorted.
fn expected() -> Vec<serde_json::Value> {
    let json = std::fs::read(folder("expected.json")).unwrap();
    let mut rows: Vec<serde_json::Value> = serde_json::from_slice(&json).unwrap();
    rows.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    rows
}

fn is_as_written(object: ObjectRef<'_>, written: &serde_json::Value) -> bool {
    let updated = SystemTime::UNIX_EPOCH + Duration::from_micros(written["updated"].as_u64().unwrap());
    written["name"].as_str() == Some(object.name)
        && written["size"].as_u64() == Some(object.size)
        && written["generation"].as_i64() == object.version.generation()
        && written["crc32c"].as_u64() == object.crc32c.map(u64::from)
        && written["encoded"].as_bool() == Some(!object.encoding.is_identity())
        && StorageClass::parse(written["class"].as_str().unwrap()) == object.storage_class
        && object.updated == Some(updated)
}

fn reads_what_was_written(format: &str) {
    let store = bucket(format, |_, bytes| Some(bytes));
    let manifest = format!("{KEY}_manifest.json");
    let local = folder(format);
    for location in [
        "gs://reports/daily/".to_owned(),
        "gs://reports/da".to_owned(),
        format!("gs://reports/daily/{manifest}"),
        local.to_str().unwrap().to_owned(),
        local.join(&manifest).to_str().unwrap().to_owned(),
    ] {
        let (objects, counts) = read(&client(store.clone()), &location, "gs://cats").unwrap();
        let written = expected();
        assert_eq!(objects.len(), written.len(), "{location}");
        for (object, written) in objects.iter().zip(&written) {
            assert!(is_as_written(object, written), "{location}: {object:?} is not {written}");
        }
        assert_eq!((counts.rows, counts.other_buckets, counts.other_names), (221, 5, 0));
        assert_eq!(counts.deleted, 216 - written.len() as u64);

        let (below, counts) = read(&client(store.clone()), &location, "gs://cats/train/").unwrap();
        assert!(below.iter().eq(objects.iter().filter(|object| object.name.starts_with("train/"))));
        assert!(!below.is_empty() && counts.other_names > 0);
        assert_eq!(counts.rows, counts.objects + counts.other_buckets + counts.other_names + counts.deleted);
    }
}

#[test]
fn csv_reads_what_was_written() {
    reads_what_was_written("csv");
}

#[test]
#[cfg(feature = "parquet")]
fn parquet_reads_what_was_written() {
    reads_what_was_written("parquet");
}

/// The objects of a report, of which `times` reads from the `nth` on have a flipped bit.
fn of_flipped(format: &str, nth: u64, at: u64, times: u64) -> Result<ManifestBuilder> {
    let mut store = FaultStore::new(std::sync::Arc::new(bucket(format, |_, bytes| Some(bytes))));
    for read in nth..nth + times {
        store = store.fail(StoreCall::Get, read, Fault::FlipAt(at));
    }
    support::without_hanging(move || {
        runtime().block_on(async {
            let client = client(store);
            let inventory = Inventory::open(&client, "gs://reports/daily/").await?;
            let read =
                ManifestBuilder::inventory(&client, &inventory, "gs://cats".parse()?, &Filter::everything()).await?;
            // The first of these bytes is in every file.
            if at == 5 {
                assert_eq!(client.metrics().snapshot().retries > 0, times > 0, "read {nth}: reading again is a retry");
            }
            Ok(read)
        })
    })
}

fn flipped_bits_are_read_again(format: &str) {
    let whole = of_flipped(format, 1, 5, 0).unwrap();
    let (counts, digest) = (whole.inventory_counts().unwrap(), whole.finish().unwrap().digest());
    assert_eq!(counts.rows, 221);
    // The report's manifest is read first, then its shards.
    for nth in 1..=4 {
        for at in [5, 60, 401, 1_000, 2_003] {
            let read = of_flipped(format, nth, at, 1).unwrap();
            assert_eq!(read.inventory_counts(), Some(counts), "read {nth}, byte {at}");
            assert_eq!(read.finish().unwrap().digest(), digest, "read {nth}, byte {at}");
        }
    }
    let error = of_flipped(format, 2, 401, 100).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
    assert!(error.to_string().contains("checksum"), "{error}");
    assert!(error.about().is_some_and(|about| about.contains(&format!(".{format}"))), "{error}");
    let error = of_flipped(format, 1, 9, 100).unwrap_err().to_string();
    assert!(error.contains("checksum") && error.contains("_manifest.json"), "{error}");
}

#[test]
fn a_csv_report_whose_bits_flip_on_the_way_is_read_again() {
    flipped_bits_are_read_again("csv");
}

#[test]
#[cfg(feature = "parquet")]
fn a_parquet_report_whose_bits_flip_on_the_way_is_read_again() {
    flipped_bits_are_read_again("parquet");
}

#[test]
fn rows_of_a_csv_shard_that_turns_out_to_be_damaged_are_called_off() {
    let rows = 10_000;
    let mut shard = String::from("name,size,generation\n");
    for row in 0..rows {
        use std::fmt::Write as _;
        writeln!(shard, "train/{row:05}{:900},1,2", "x").unwrap();
    }
    let store = MemoryStore::new();
    store.insert("reports", "x_0.csv", shard);
    let open = |flipped: &[u64]| {
        let mut store = FaultStore::new(std::sync::Arc::new(store.clone()));
        for read in flipped {
            // In the second piece: a digit of a name, or a byte that makes the row invalid.
            store = store.fail(StoreCall::Get, *read, Fault::FlipAt(500_000));
        }
        client(store)
    };
    let build = |flipped: &[u64]| {
        runtime().block_on(async {
            let client = open(flipped);
            let inventory = Inventory::open(&client, "gs://reports/x_0.csv").await?;
            ManifestBuilder::inventory(&client, &inventory, "gs://cats".parse()?, &Filter::everything()).await
        })
    };
    let whole = build(&[]).unwrap().finish().unwrap().digest();
    let built = build(&[2]).unwrap();
    assert_eq!((built.objects(), built.inventory_counts().unwrap().rows), (rows, rows));
    assert_eq!(built.finish().unwrap().digest(), whole);
    let error = build(&[2, 4, 6, 8]).unwrap_err();
    assert!(error.kind() == ErrorKind::Integrity && error.to_string().contains("checksum"), "{error}");
    // A sink that can't take back objects gets the error at once.
    let error = read(&open(&[2]), "gs://reports/x_0.csv", "gs://cats").map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("checksum"), "{error}");
}

#[test]
fn a_report_is_found_among_many_files_of_other_kinds_and_not_among_too_many_of_its_own() {
    let store = bucket("csv", |_, bytes| Some(bytes));
    (0..100_100).for_each(|n| _ = store.insert("reports", &format!("daily/{n:06}.txt"), ""));
    assert!(read(&client(store.clone()), "gs://reports/daily/", "gs://cats").is_ok());
    (0..100_100).for_each(|n| _ = store.insert("reports", &format!("daily/{n:06}_0.csv"), ""));
    let (kind, said) = refusal(store.clone(), "gs://reports/daily/");
    assert!(kind == ErrorKind::Config && said.contains("100000") && said.contains("manifest.json"), "{said}");
    assert!(read(&client(store), &format!("gs://reports/daily/{KEY}_manifest.json"), "gs://cats").is_ok());
}

#[test]
fn an_error_of_the_file_system_does_not_repeat_its_source() {
    let error = read(&client(MemoryStore::new()), "/nowhere/at/all", "gs://cats").unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert!(!error.to_string().contains(&source), "{error}");
}

/// The checks that both formats share.
fn less_than_whole_is_an_error(format: &str) {
    let manifest = format!("gs://reports/daily/{KEY}_manifest.json");
    for location in ["gs://reports/daily/", &manifest] {
        let store = bucket(format, |name, bytes| (!name.contains("_1.")).then_some(bytes));
        let (kind, said) = refusal(store, location);
        assert_eq!(kind, ErrorKind::NotFound, "{said}");
        assert!(said.contains(&format!("daily/{KEY}_1.{format}")), "{said}");
    }
    // Without a manifest, the numbers of the shards reveal a missing one.
    let store = bucket(format, |name, bytes| (!name.contains("_1.") && !name.contains("manifest")).then_some(bytes));
    let (kind, said) = refusal(store, "gs://reports/daily/");
    assert!(kind == ErrorKind::NotFound && said.contains(&format!("_2.{format} out of turn")), "{said}");

    // A shard of another report: only the count is wrong.
    let other = std::fs::read(folder(format).join(format!("{KEY}_0.{format}"))).unwrap();
    let store = bucket(format, |name, bytes| Some(if name.contains("_2.") { other.clone() } else { bytes }));
    let (kind, said) = refusal(store, &manifest);
    assert!(kind == ErrorKind::Integrity && said.contains("221 rows"), "{said}");

    // Two snapshots.
    let store = bucket(format, |_, bytes| Some(bytes));
    store.insert("reports", &format!("daily/next_0.{format}"), other);
    let (kind, said) = refusal(store.clone(), "gs://reports/daily/");
    assert!(kind == ErrorKind::Config && said.contains("daily/next") && said.contains(KEY), "{said}");
    assert!(said.contains("name the ..._manifest.json"), "{said}");
    assert!(read(&client(store), &manifest, "gs://cats").is_ok());

    // Another bucket's report.
    let error = read(&client(bucket(format, |_, bytes| Some(bytes))), &manifest, "gs://birds").unwrap_err();
    assert!(error.to_string().contains("another bucket (wanted gs://birds, got gs://"), "{error}");
}

#[test]
fn csv_less_than_whole_is_an_error() {
    less_than_whole_is_an_error("csv");
}

#[test]
#[cfg(feature = "parquet")]
fn parquet_less_than_whole_is_an_error() {
    less_than_whole_is_an_error("parquet");
}

#[test]
fn a_csv_cut_anywhere_is_an_error() {
    let whole = std::fs::read(folder("csv").join(format!("{KEY}_1.csv"))).unwrap();
    for length in (0..whole.len()).step_by(97).chain([whole.len() - 3]) {
        let store =
            bucket("csv", |name, bytes| Some(if name.contains("_1.") { bytes[..length].to_vec() } else { bytes }));
        let (kind, said) = refusal(store, "gs://reports/daily/");
        assert!(matches!(kind, ErrorKind::Integrity | ErrorKind::Config | ErrorKind::Protocol), "{length}: {said}");
    }
}

#[test]
fn a_local_csv_without_its_last_line_end_is_whole_only_by_its_count() {
    let local = tempfile("unterminated");
    let row = "name,size,generation,etag\ntrain/a,1,2,C\ntrain/b,1,3,C";
    std::fs::write(local.join("x_0.csv"), row).unwrap();
    let location = local.to_str().unwrap();
    let client = client(MemoryStore::new());
    let error = read(&client, location, "gs://cats").unwrap_err();
    assert!(error.to_string().contains("may be cut short"), "{error}");
    let manifest = r#"{"report_shards_file_names": ["x_0.csv"], "records_processed": 2}"#;
    std::fs::write(local.join("x_manifest.json"), manifest).unwrap();
    assert_eq!(read(&client, location, "gs://cats").unwrap().0.len(), 2);
    // The last column, if it is used, may be cut, which is an error.
    std::fs::write(local.join("x_0.csv"), "name,size,generation\ntrain/a,1,2\ntrain/b,1,3").unwrap();
    assert!(read(&client, location, "gs://cats").is_err());
    std::fs::remove_dir_all(local).unwrap();
}

/// An empty folder of this name for one test.
fn tempfile(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("dataflux-inventory-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn locations_that_are_no_report_say_what_to_name() {
    let store = bucket("csv", |_, bytes| Some(bytes));
    store.insert("reports", "notes.txt", "x");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    for (location, kind, hint) in [
        ("gs://reports/weekly/", ErrorKind::NotFound, "the first report comes"),
        ("gs://reports/daily/none_manifest.json", ErrorKind::NotFound, "no such manifest"),
        ("gs://reports/notes.txt", ErrorKind::Config, "manifest.json"),
        ("s3://reports/daily/", ErrorKind::Config, "gs://reports/daily/"),
        ("/nowhere/at/all", ErrorKind::NotFound, "manifest.json"),
        (script.to_str().unwrap(), ErrorKind::Config, "ends in .csv or .parquet"),
    ] {
        let error = read(&client(store.clone()), location, "gs://cats").unwrap_err();
        assert_eq!(error.kind(), kind, "{location}: {error}");
        assert!(error.to_string().contains(hint), "{location}: {error}");
    }
}

#[test]
fn one_shard_can_be_read_alone() {
    let store = bucket("csv", |_, bytes| Some(bytes));
    let (_, counts) = read(&client(store), &format!("gs://reports/daily/{KEY}_1.csv"), "gs://cats").unwrap();
    assert_eq!(counts.rows, 70);
}

#[test]
fn an_object_that_changed_while_it_was_read_is_an_error() {
    let store = bucket("csv", |_, bytes| Some(bytes));
    let client = client(store.clone());
    let inventory = runtime().block_on(Inventory::open(&client, "gs://reports/daily/")).unwrap();
    store.insert("reports", &format!("daily/{KEY}_1.csv"), "name,size,generation\n");
    let prefix = "gs://cats".parse().unwrap();
    let error = runtime().block_on(inventory.objects(&client, &prefix, |_| Ok(()))).unwrap_err();
    assert!(error.is_changed(), "{error}");
}

#[test]
fn the_sink_ends_it() {
    let client = client(bucket("csv", |_, bytes| Some(bytes)));
    let refused = || dataflux::Error::new(ErrorKind::Cancelled, "enough");
    let error = runtime().block_on(async {
        let inventory = Inventory::open(&client, "gs://reports/daily/").await?;
        assert_eq!(inventory.records(), Some(221));
        assert_eq!(inventory.snapshot_time(), Some("2024-05-20T06:35:00Z"));
        inventory.objects(&client, &"gs://cats".parse()?, |_| Err(refused())).await
    });
    assert!(error.unwrap_err().is_cancelled());
}

#[cfg(feature = "parquet")]
mod parquet {
    use proptest::prelude::*;

    use super::*;

    /// Reads one shard of these bytes.
    fn shard(bytes: Vec<u8>) -> Result<(Objects, InventoryCounts)> {
        let store = MemoryStore::new().with_bucket("reports");
        store.insert("reports", "x_0.parquet", bytes);
        read(&client(store), "gs://reports/x_0.parquet", "gs://cats")
    }

    #[test]
    fn an_error_of_parquet_does_not_repeat_its_source() {
        let mut bytes = original(0);
        let footer = bytes.len() - 40..bytes.len() - 8;
        bytes[footer].fill(0xFF);
        // Not the whole report, because a failing test would print it.
        let error = shard(bytes).map(|_| ()).unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(!error.to_string().contains(&source), "{error}");
    }

    fn original(index: usize) -> Vec<u8> {
        std::fs::read(folder("parquet").join(format!("{KEY}_{index}.parquet"))).unwrap()
    }

    #[test]
    fn a_shard_cut_anywhere_is_an_error() {
        for index in 0..3 {
            let whole = original(index);
            for length in (0..whole.len()).step_by(211) {
                let error = shard(whole[..length].to_vec()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

        /// A damaged shard has as many rows as an intact one, or is an error. The contents of a page without a checksum
        /// may change.
        #[test]
        fn a_damaged_shard_never_panics_or_loses_a_row(
            index in 0usize..3,
            flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
            in_footer in any::<bool>(),
        ) {
            let mut bytes = original(index);
            let whole = shard(bytes.clone()).unwrap().1.rows;
            let length = u32::from_le_bytes(bytes[bytes.len() - 8..bytes.len() - 4].try_into().unwrap()) as usize;
            let from = if in_footer { bytes.len() - 8 - length } else { 0 };
            for (at, flip) in flips {
                let at = from + at.index(bytes.len() - from);
                bytes[at] ^= flip;
            }
            match shard(bytes) {
                Ok((_, counts)) => prop_assert_eq!(counts.rows, whole),
                Err(error) => {
                    prop_assert!(error.about().is_some_and(|about| about.contains("x_0.parquet")), "{}", error);
                }
            }
        }
    }
}
