//! Measures what listing costs in addition to the network: `cargo bench --bench list`.

use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use dataflux::Manifest;
use dataflux::list::{Lister, Page, Prefix};
use dataflux::manifest::{ManifestBuilder, Segment};
use dataflux::store::gcs::parse_page;
use dataflux::store::{Client, MemoryStore, ObjectRef, Objects, StorageClass, Version};

/// Objects in a page of the service.
const PAGE: u64 = 5_000;

/// The text of a page as the service sends it, with names like ImageNet's.
fn page() -> String {
    let mut text = String::from(r#"{"kind":"storage#objects","nextPageToken":"CgxuMDE0NDA3NjQ=","items":["#);
    for index in 0..PAGE {
        let comma = if index == 0 { "" } else { "," };
        write!(
            text,
            r#"{comma}{{"name":"train/n01440764/n01440764_{index}.JPEG","size":"{}","generation":"17000000{:08}","#,
            100_000 + index * 7,
            index * 31,
        )
        .expect("a string takes everything");
        text.push_str(r#""crc32c":"4waSgw==","storageClass":"STANDARD"}"#);
    }
    text + "]}"
}

fn parsing(criterion: &mut Criterion) {
    let text = page();
    assert_eq!(parse_page(&text).expect("the page is one").objects.len() as u64, PAGE);
    let mut group = criterion.benchmark_group("page");
    group.throughput(Throughput::Elements(PAGE));
    group.bench_function("parse", |bench| bench.iter(|| parse_page(black_box(&text))));
    group.finish();
}

/// Names like ImageNet's, in byte order.
fn objects(count: u64) -> Objects {
    let mut objects = Objects::default();
    for index in 0..count {
        let (class, number) = (index / 1_300, index % 1_300);
        let name = format!("train/n{class:08}/n{class:08}_{number:05}.JPEG");
        let version = Version::Generation(1_700_000_000_000_000 + (index * 7_919) as i64);
        let crc32c = Some((index as u32).wrapping_mul(2_654_435_761));
        let size = 100_000 + index * 31 % 50_000;
        let storage_class = StorageClass::Standard;
        objects.push(ObjectRef { name: &name, size, version, crc32c, storage_class, ..ObjectRef::default() });
    }
    objects
}

/// Lists a bucket in memory: the cost of dividing the names and driving the calls, with the copies of a page.
fn listing(criterion: &mut Criterion) {
    const LISTED: u64 = 200_000;
    let store = MemoryStore::new().with_bucket("bench");
    for object in objects(LISTED).iter() {
        store.insert("bench", object.name, "");
    }
    let client = Client::new(Arc::new(store));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build();
    let runtime = runtime.expect("the system grants two threads");
    let mut group = criterion.benchmark_group("list");
    group.throughput(Throughput::Elements(LISTED));
    group.sample_size(10);
    for (name, concurrency) in [("one call after another", 1), ("64 at once", 64)] {
        group.bench_function(name, |bench| {
            bench.iter(|| {
                let prefix = "gs://bench/".parse().expect("the URI is one");
                let lister = Lister::new(&client, prefix).page_size(1_000).concurrency(concurrency);
                let listed = runtime.block_on(lister.collect(Page::len)).expect("memory doesn't fail");
                assert_eq!(listed.into_iter().sum::<usize>() as u64, LISTED);
            });
        });
    }
    group.finish();
}

/// Number of objects in the manifest: many times what a processor's caches hold.
const OBJECTS: u64 = 1_000_000;

fn manifest(criterion: &mut Criterion) {
    let prefix: Prefix = "gs://bench/train/".parse().expect("the URI is one");
    let page = objects(PAGE);
    let mut group = criterion.benchmark_group("manifest");
    group.throughput(Throughput::Elements(PAGE));
    group.bench_function("pack a page", |bench| bench.iter(|| Segment::new(black_box(&page).iter())));
    group.bench_function("finish", |bench| {
        let builder = || {
            let mut builder = ManifestBuilder::new(prefix.clone());
            builder.push(Segment::new(page.iter()));
            builder
        };
        bench.iter_batched(builder, ManifestBuilder::finish, BatchSize::LargeInput);
    });
    let manifest = Manifest::new(prefix, &objects(OBJECTS)).expect("the objects are in order");
    group.throughput(Throughput::Elements(1));
    // A step that shares no factor with the length, so that every object is looked up, far from the one before.
    let mut index = 0;
    let mut next = || {
        index = (index + 618_033) % OBJECTS;
        index
    };
    group.bench_function("get", |bench| bench.iter(|| manifest.get(next())));
    group.bench_function("facts", |bench| bench.iter(|| manifest.facts(next())));
    group.throughput(Throughput::Elements(OBJECTS));
    group.sample_size(10);
    group.bench_function("walk", |bench| {
        bench.iter(|| {
            let (mut entries, mut bytes) = (manifest.entries(), 0);
            while let Some(entry) = entries.next().expect("nobody writes to it") {
                bytes += entry.size;
            }
            bytes
        });
    });
    let file = std::env::temp_dir().join(format!("dataflux-bench-{}.dfm", std::process::id()));
    manifest.save(&file).expect("there is room for 20 MB");
    group.bench_function("load", |bench| bench.iter(|| Manifest::load(&file)));
    group.finish();
    // A file that stays behind does no harm.
    let _ = std::fs::remove_file(file);
}

criterion_group!(benches, parsing, listing, manifest);
criterion_main!(benches);
