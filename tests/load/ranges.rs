//! One object read in ranges: the exact bytes in order, or an error that names the object; no file is left, and no
//! memory is held.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dataflux::read::{Download, Lanes};
use dataflux::store::{ByteRange, Client, Fault, FaultStore, MemoryStore, ObjectId, RetryPolicy, StoreCall};
use dataflux::{DataLoader, DatafluxDataset, Error, ErrorKind, Limits};
use proptest::prelude::*;
use tokio::time::timeout;

use crate::support::{self, HANG, content, names_of, until, without_hanging};

/// A folder that is removed when this is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("dataflux-ranges-{}-{test}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("file")
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(&self.0).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct Object {
    bytes: Bytes,
    faults: FaultStore,
    client: Client,
    id: ObjectId,
}

/// An object of `size` bytes whose bodies come in chunks of `chunk`.
fn object(size: usize, chunk: usize) -> Object {
    let store = MemoryStore::new().with_chunk_size(chunk);
    let bytes = Bytes::from(content("large", size));
    let version = store.insert("data", "large", bytes.clone());
    let faults = FaultStore::new(Arc::new(store));
    let policy = RetryPolicy::default()
        .initial(Duration::from_millis(1))
        .max(Duration::from_millis(5))
        .deadline(Duration::from_secs(20));
    let client = Client::new(Arc::new(faults.clone())).with_retry(policy);
    let client = client.with_stall_timeout(Duration::from_millis(200));
    Object { bytes, faults, client, id: ObjectId::new("data", "large", version) }
}

impl Object {
    fn download(&self) -> Download {
        let size = self.bytes.len() as u64;
        Download::of(&self.client, self.id.clone(), size, Some(crc32c::crc32c(&self.bytes))).sync(false)
    }
}

/// Reads all chunks in order. Returns their bytes, and whether they were verified.
async fn all(download: Download) -> dataflux::Result<(Vec<u8>, bool)> {
    let (mut chunks, mut bytes) = (download.chunks(), Vec::new());
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk?;
        assert_eq!(chunk.offset(), bytes.len() as u64);
        assert!(!chunk.is_empty());
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, chunks.receipt().is_some_and(|receipt| receipt.verified)))
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { timeout(HANG, future).await.expect("it hung") })
}

#[track_caller]
fn names_the_object(error: &Error) {
    assert!(error.about().is_some_and(|about| about.starts_with("gs://data/large")), "{error}");
}

fn any_fault() -> impl Strategy<Value = Fault> {
    prop_oneof![
        Just(Fault::Error(ErrorKind::Unavailable)),
        Just(Fault::Error(ErrorKind::RateLimited)),
        Just(Fault::Error(ErrorKind::NotFound)),
        Just(Fault::Unauthenticated),
        Just(Fault::Stall),
        (0..3_000_u64).prop_map(Fault::BreakAt),
        (0..3_000_u64).prop_map(Fault::EndAt),
        (0..3_000_u64).prop_map(Fault::StallAt),
        (0..3_000_u64).prop_map(Fault::FlipAt),
        (1..9_u64).prop_map(Fault::Surplus),
        Just(Fault::Generation(7)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn the_exact_bytes_or_an_error_that_names_the_object(
        size in 0..40_000_usize,
        chunk in 1_000..9_000_usize,
        part in 1..6_000_u64,
        streams in 1..9_usize,
        budget in 1..60_000_u64,
        faults in prop::collection::vec((1..30_u64, any_fault()), 0..4),
        way in 0..3,
    ) {
        let mut object = object(size, chunk);
        for (nth, fault) in faults {
            object.faults = object.faults.fail(StoreCall::Get, nth, fault);
        }
        let download = object.download().min_part_size(part).max_streams(streams).memory_budget(budget);
        let folder = Folder::new(&format!("any-{size}-{chunk}"));
        let file = folder.file();
        let outcome = run(async {
            match way {
                0 => all(download).await.map(|(bytes, verified)| (Bytes::from(bytes), verified)),
                1 => download.into_memory().await.map(|(bytes, receipt)| (bytes, receipt.verified)),
                _ => {
                    let receipt = download.into_file(&file).await?;
                    Ok((Bytes::from(std::fs::read(&file).unwrap()), receipt.verified))
                }
            }
        });
        match outcome {
            Ok((bytes, verified)) => prop_assert!(bytes == object.bytes && verified),
            Err(error) => {
                names_the_object(&error);
                prop_assert_eq!(folder.names(), Vec::<String>::new());
            }
        }
    }
}

#[test]
fn a_small_object_is_one_read_and_a_large_one_parts_in_order() {
    let object = object(100_000, 4_096);
    run(async {
        let (bytes, _) = object.download().into_memory().await.unwrap();
        assert_eq!(bytes, object.bytes);
        assert_eq!(object.faults.gets().len(), 1);
        assert_eq!(object.faults.gets()[0].range, ByteRange::All);
        assert!(all(object.download().min_part_size(10_000).max_streams(2)).await.unwrap().1);
        let ranges: Vec<_> = object.faults.gets().into_iter().skip(1).map(|get| get.range.bounds().unwrap()).collect();
        assert!(ranges.len() > 4, "{ranges:?}");
        let mut sorted = ranges.clone();
        sorted.sort_by_key(|range| range.start);
        assert!(sorted.windows(2).all(|two| two[0].end == two[1].start), "{ranges:?}");
    });
}

#[test]
fn a_part_is_resumed_from_the_bytes_that_came() {
    let mut object = object(40_000, 1_000);
    object.faults =
        object.faults.fail(StoreCall::Get, 1, Fault::EndAt(3_000)).fail(StoreCall::Get, 3, Fault::BreakAt(2_000));
    run(async {
        let (bytes, verified) = all(object.download().min_part_size(10_000).max_streams(1)).await.unwrap();
        assert!(bytes == object.bytes && verified);
    });
    let gets: Vec<_> = object.faults.gets().into_iter().map(|get| get.range.bounds().unwrap()).collect();
    assert_eq!(gets[..4], [0..10_000, 3_000..10_000, 10_000..20_000, 12_000..20_000]);
}

#[test]
fn wrong_bytes_end_in_an_error_in_the_place_of_the_last_chunk() {
    let mut object = object(40_000, 1_000);
    object.faults = object.faults.fail(StoreCall::Get, 2, Fault::FlipAt(5));
    run(async {
        let mut chunks = object.download().min_part_size(5_000).max_streams(3).chunks();
        let mut seen = 0;
        let error = loop {
            match chunks.next().await.expect("an end without an error") {
                Ok(chunk) => seen += chunk.len(),
                Err(error) => break error,
            }
        };
        assert_eq!((error.kind(), seen), (ErrorKind::Integrity, 39_000));
        names_the_object(&error);
        assert!(chunks.next().await.is_none() && chunks.receipt().is_none());
        // The second read of the whole object has the right bytes.
        object.faults.fail_next(StoreCall::Get, Fault::FlipAt(5), 1);
        assert_eq!(object.download().min_part_size(5_000).into_memory().await.unwrap().0, object.bytes);
        object.faults.fail_next(StoreCall::Get, Fault::FlipAt(5), 100);
        let error = object.download().min_part_size(5_000).into_memory().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
    });
}

#[test]
fn a_slow_consumer_holds_the_read_ahead_to_the_budget() {
    let object = object(1 << 20, 4_096);
    run(async {
        let budget = 128 << 10;
        let download = object.download().min_part_size(16 << 10).max_streams(4).memory_budget(budget);
        let mut chunks = download.chunks();
        let mut at = 0;
        while let Some(chunk) = chunks.next().await {
            at += chunk.unwrap().len() as u64;
            // Meanwhile everything is read ahead that may be.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let asked: u64 =
                object.faults.gets().iter().map(|get| get.range.bounds().map_or(0, |r| r.end - r.start)).sum();
            assert!(asked <= at + budget, "{asked} bytes were asked for when {at} had been taken");
        }
        assert_eq!(at, 1 << 20);
    });
}

#[test]
fn whoever_keeps_more_chunks_than_the_budget_is_told_and_does_not_hang() {
    let object = object(100_000, 1_000);
    run(async {
        let mut chunks = object.download().min_part_size(5_000).memory_budget(30_000).chunks();
        let mut kept = Vec::new();
        let error = loop {
            match chunks.next().await.unwrap() {
                Ok(chunk) => kept.push(chunk),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("into_memory"), "{error}");
        assert!(kept.iter().map(|chunk| chunk.len()).sum::<usize>() <= 30_720);
    });
}

#[test]
fn what_is_dropped_leaves_no_file_and_goes_on_with_nothing() {
    let object = object(1 << 20, 4_096);
    let folder = Folder::new("dropped");
    std::fs::write(folder.file(), "of before").unwrap();
    run(async {
        let lanes = Lanes::new(4, 1 << 20);
        let download = || object.download().min_part_size(16 << 10).within(&lanes);
        for steps in 0..60 {
            object.faults.fail_next(StoreCall::Get, Fault::Drip(Duration::from_micros(200)), 100);
            // Then the download is dropped wherever it is.
            let _ = timeout(Duration::from_micros(steps * 150), download().into_file(folder.file())).await;
            let mut chunks = download().chunks();
            let _ = timeout(Duration::from_micros(steps * 100), chunks.next()).await;
        }
        until("the files are gone", || folder.names() == ["file"]);
        let calls = object.faults.calls(StoreCall::Get);
        // All streams and bytes are available again.
        assert_eq!(timeout(HANG, all(download())).await.unwrap().unwrap().0, object.bytes);
        assert!(object.faults.calls(StoreCall::Get) > calls);
    });
    assert_eq!(std::fs::read(folder.file()).unwrap(), b"of before");
}

#[test]
fn all_parts_are_of_one_generation() {
    let store = MemoryStore::new();
    let old = store.insert("data", "large", content("large", 30_000));
    let client = support::client(store.clone());
    run(async {
        let live = ObjectId::live("data", "large");
        let mut chunks = Download::of(&client, live.clone(), 30_000, None).min_part_size(3_000).max_streams(1).chunks();
        let first = chunks.next().await.unwrap().unwrap();
        assert_eq!(first.offset(), 0);
        let (bytes, receipt) =
            Download::of(&client, live, 30_000, None).min_part_size(3_000).into_memory().await.unwrap();
        assert_eq!((bytes.len(), &receipt.version, receipt.verified), (30_000, &old, true));
        store.insert("data", "large", content("other", 30_000));
        let gone = ObjectId::new("data", "large", old);
        let error = Download::of(&client, gone, 30_000, None).min_part_size(3_000).into_memory().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed);
        let longer = ObjectId::live("data", "large");
        let error = Download::of(&client, longer, 29_000, None).min_part_size(3_000).into_memory().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Integrity);
    });
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let object = object(10_000, 1_000);
    run(async {
        let error = object.download().into_file("/nowhere/at/all").await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("/nowhere/at/all"), "{error}");
        assert!(!Path::new("/nowhere").exists());
    });
    let size = ObjectId::new("data", "large", 1);
    let error = run(Download::of(&object.client, size, u64::MAX, None).into_memory()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
}

#[test]
fn loaders_read_large_objects_in_ranges() {
    let store = MemoryStore::new().with_chunk_size(1 << 20);
    let sizes = [("p/small", 1_000), ("p/large", 33 << 20), ("p/other", 40 << 20)];
    let contents: std::collections::HashMap<_, _> =
        sizes.into_iter().map(|(name, size)| (name.to_owned(), content(name, size))).collect();
    for (name, bytes) in &contents {
        store.insert("data", name, bytes.clone());
    }
    without_hanging(move || {
        for strategy in [dataflux::Strategy::Direct, dataflux::Strategy::compose()] {
            let faults = FaultStore::new(Arc::new(store.clone()));
            faults.fail_next(StoreCall::Get, Fault::EndAt(100), 2);
            let dataset = DatafluxDataset::open_with(support::client(faults.clone()), "gs://data/p/").unwrap();
            let loader = DataLoader::builder(dataset).batch_size(3).strategy(strategy);
            let loader = loader.limits(Limits::default().min_part_size(5 << 20).max_streams(3)).build().unwrap();
            let mut batches = loader.epoch(0).unwrap();
            assert_eq!(names_of(&mut batches, &contents).unwrap().len(), 3);
            drop(batches);
            support::all_given_back(&loader);
            let ranges = faults.gets().iter().filter(|get| get.range.bounds().is_some()).count();
            assert!(ranges > 10, "{ranges}");
        }
    });
}
