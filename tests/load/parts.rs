//! Samples of several objects, from the emulator: order, bytes, calls, faults, cache, and resume.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dataflux::list::Reason;
use dataflux::store::{Client, Credentials, GcsConfig, GcsStore, RetryPolicy};
use dataflux::{
    Batches, Cache, DataLoader, DataLoaderBuilder, DatafluxDataset, ErrorKind, MissingParts, OnError, Parts, Raw,
    RawSample, Strategy,
};
use dataflux_emulator::{Call, Emulator, Fault};

use crate::support::{STRATEGIES, all_given_back, content, until, without_hanging};

/// The suffixes of the parts of a sample.
const SUFFIXES: [&str; 3] = ["jpg", "png", "json"];

/// A bucket with samples of three parts, of different sizes, in two folders. One of their parts is sometimes empty.
fn filled(samples: usize) -> Emulator {
    let emulator = Emulator::builder().bucket("data").bucket("other").start().unwrap();
    for index in 0..samples {
        for (part, suffix) in SUFFIXES.into_iter().enumerate() {
            let name = format!("p/{}/{index:04}.{suffix}", ["ant", "bee"][index % 2]);
            let size = if (index + part) % 7 == 6 { 0 } else { 1 + (index * 7_919 + part * 104_729) % 3_000 };
            emulator.put("data", &name, content(&name, size));
        }
    }
    emulator
}

fn client(emulator: &Emulator) -> Client {
    let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
    let policy = RetryPolicy::default().initial(Duration::from_millis(1)).max(Duration::from_millis(10));
    Client::new(Arc::new(GcsStore::new(config).unwrap())).with_retry(policy)
}

fn open(emulator: &Emulator, uri: &str) -> DatafluxDataset {
    DatafluxDataset::open_with(client(emulator), uri).unwrap()
}

fn dataset(emulator: &Emulator) -> DatafluxDataset {
    open(emulator, "gs://data/p/").parts(Parts::by_stem(SUFFIXES)).unwrap()
}

fn builder(dataset: DatafluxDataset, strategy: Strategy) -> DataLoaderBuilder<Raw> {
    DataLoader::builder(dataset).batch_size(16).shuffle(42).strategy(strategy)
}

/// Reads all batches, checks the bytes of each part against the bucket, and returns the samples' names in order.
fn names(emulator: &Emulator, batches: &mut Batches<Vec<RawSample>>) -> Vec<String> {
    let mut names = Vec::new();
    for batch in batches {
        let batch = batch.unwrap();
        assert!(batch.names().eq(batch.iter().map(RawSample::name)));
        for sample in batch.iter() {
            check(emulator, sample);
            names.push(sample.name().to_owned());
        }
    }
    names
}

fn check(emulator: &Emulator, sample: &RawSample) {
    assert!(sample.verified());
    let location = sample.location();
    assert_eq!(sample.part_count(), location.parts.len() + 1);
    for (number, part) in sample.parts().enumerate() {
        let bucket = number.checked_sub(1).map_or("data", |number| &*location.parts[number].bucket);
        assert_eq!(part.bytes(), &emulator.get(bucket, part.name()).unwrap(), "{}", part.name());
        assert_eq!((part.id(), part.position(), part.epoch()), (sample.id(), sample.position(), sample.epoch()));
        assert_eq!(part.entry().label, sample.entry().label);
        assert_eq!(part.part_count(), 1);
    }
    assert_eq!(sample.bytes(), sample.part(0).unwrap().bytes());
    assert!(sample.part(sample.part_count()).is_none());
}

#[test]
fn one_order_and_the_right_bytes_whatever_the_strategy() {
    without_hanging(|| {
        let emulator = filled(200);
        let (mut orders, mut bytes) = (Vec::new(), Vec::new());
        for strategy in STRATEGIES {
            let dataset = dataset(&emulator);
            assert_eq!((dataset.len(), dataset.manifest().part_count()), (200, 3));
            assert_eq!(dataset.manifest().labels(), ["ant", "bee"]);
            let total = dataset.manifest().bytes();
            let loader = builder(dataset, strategy).build().unwrap();
            let mut batches = loader.epoch(3).unwrap();
            orders.push(names(&emulator, &mut batches));
            let stats = batches.stats();
            assert_eq!((stats.samples, stats.verified, stats.bytes), (200, 200, total));
            bytes.push(stats.bytes);
            all_given_back(&loader);
        }
        assert!(orders.iter().all(|order| *order == orders[0]));
        assert_eq!(emulator.names("data").len(), 600, "a temporary object is left");

        // The order is that of the first parts alone, whatever else there is.
        let first = open(&emulator, "gs://data/p/").parts(Parts::of("{}.jpg")).unwrap();
        let loader = builder(first, Strategy::Direct).build().unwrap();
        assert_eq!(names(&emulator, &mut loader.epoch(3).unwrap()), orders[0]);
    });
}

#[test]
fn calls_are_counted_by_object() {
    without_hanging(|| {
        let emulator = Emulator::builder().bucket("data").start().unwrap();
        for index in 0..40 {
            for suffix in SUFFIXES {
                emulator.put("data", &format!("p/{index:02}.{suffix}"), vec![7; 100]);
            }
        }
        // Ten samples of three parts fill 30 of the 32 sources.
        for (strategy, wanted) in [(Strategy::compose(), (4, 0, 4, 4)), (Strategy::Direct, (0, 120, 120, 0))] {
            let loader = DataLoader::builder(dataset(&emulator)).batch_size(40).strategy(strategy).build().unwrap();
            let mut batches = loader.epoch(0).unwrap();
            assert_eq!(names(&emulator, &mut batches).len(), 40);
            all_given_back(&loader);
            let stats = batches.stats();
            let (groups, ops) = (stats.groups, stats.ops);
            assert_eq!((groups.composed, groups.direct, ops.get, ops.compose), wanted);
            assert_eq!((ops.bytes_received, ops.get_refused), (12_000, 0));
            let served = emulator.stats();
            assert_eq!((served.get_media, served.compose), (wanted.2, wanted.3));
            emulator.reset_stats();
        }
    });
}

#[test]
fn two_prefixes_and_two_buckets() {
    without_hanging(|| {
        let emulator = filled(40);
        for (name, bytes) in (0..40).map(|index| (format!("{}/{index:04}.txt", ["ant", "bee"][index % 2]), index)) {
            for (bucket, prefix) in [("data", "captions"), ("other", "texts")] {
                let name = format!("{prefix}/{name}");
                emulator.put(bucket, &name, content(&name, 1 + bytes));
            }
        }
        for (uri, composed) in [("gs://data/captions/", true), ("gs://other/texts/", false)] {
            let texts = open(&emulator, uri);
            let dataset = open(&emulator, "gs://data/p/");
            let dataset = dataset.parts(Parts::of("{}.jpg").and_in(&texts, "{}.txt")).unwrap();
            assert_eq!(dataset.manifest().left_out().count(Reason::NotAPart), 80);
            let loader = builder(dataset, Strategy::compose()).build().unwrap();
            let mut batches = loader.epoch(0).unwrap();
            assert_eq!(names(&emulator, &mut batches).len(), 40);
            assert_eq!(batches.stats().groups.composed > 0, composed, "objects of two buckets can't be composed");
            all_given_back(&loader);
        }
    });
}

#[test]
fn more_parts_than_a_composed_object_has_sources() {
    without_hanging(|| {
        let emulator = Emulator::builder().bucket("data").start().unwrap();
        for index in 0..3 {
            for part in 0..40 {
                let name = format!("p/{index}.{part:02}");
                emulator.put("data", &name, content(&name, 1 + 97 * part));
            }
        }
        for strategy in STRATEGIES {
            let parts = Parts::by_stem((0..40).map(|part| format!("{part:02}")));
            let dataset = open(&emulator, "gs://data/p/").parts(parts).unwrap();
            let loader = builder(dataset, strategy).build().unwrap();
            let mut batches = loader.epoch(0).unwrap();
            assert_eq!(names(&emulator, &mut batches).len(), 3);
            let groups = batches.stats().groups;
            assert_eq!((groups.direct, groups.composed), (120, 0));
            all_given_back(&loader);
        }
    });
}

#[test]
fn large_parts_are_read_in_ranges() {
    without_hanging(|| {
        const LARGE: usize = 33 << 20;
        let emulator = Emulator::builder().bucket("data").start().unwrap();
        for (name, size) in [("p/a.jpg", 1_000), ("p/a.png", LARGE), ("p/b.jpg", 0), ("p/b.png", 100)] {
            emulator.put("data", name, content(name, size));
        }
        let dataset = open(&emulator, "gs://data/p/").parts(Parts::by_stem(["jpg", "png"])).unwrap();
        let loader = builder(dataset, Strategy::compose()).build().unwrap();
        let mut batches = loader.epoch(0).unwrap();
        assert_eq!(names(&emulator, &mut batches).len(), 2);
        let stats = batches.stats();
        // The small part and the only part with bytes, and the ranges of the large one.
        assert_eq!((stats.groups.direct, stats.groups.ranged, stats.groups.composed), (2, 1, 0));
        assert!(stats.ops.get > 3, "{:?}", stats.ops);
        all_given_back(&loader);
    });
}

#[test]
fn a_part_that_was_overwritten_or_deleted_loses_the_sample_and_is_named() {
    without_hanging(|| {
        for strategy in STRATEGIES {
            for is_deleted in [false, true] {
                let emulator = filled(40);
                let dataset = dataset(&emulator);
                if is_deleted {
                    assert!(emulator.delete("data", "p/ant/0010.json"));
                } else {
                    emulator.put("data", "p/ant/0010.json", "another");
                }
                let failing = builder(dataset.clone(), strategy).build().unwrap();
                let error = failing.epoch(0).unwrap().find_map(Result::err).unwrap();
                assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
                assert!(error.about().unwrap().contains("p/ant/0010.json"), "{error}");
                all_given_back(&failing);

                let skipping = builder(dataset.clone(), strategy).on_error(OnError::Skip { limit: 1 });
                let skipping = skipping.build().unwrap();
                let (mut lost, mut samples) = (Vec::new(), 0);
                for batch in skipping.epoch(0).unwrap() {
                    let batch = batch.unwrap();
                    samples += batch.len();
                    lost.extend(batch.skipped().iter().map(|lost| (lost.name.to_string(), lost.error.to_string())));
                }
                let [(name, error)] = &lost[..] else { panic!("{lost:?}") };
                assert_eq!((samples, &**name), (39, "p/ant/0010.jpg"));
                assert!(error.contains("p/ant/0010.json"), "{error}");
                all_given_back(&skipping);

                let substituting = builder(dataset, strategy).on_error(OnError::Substitute { limit: 1 });
                let substituting = substituting.build().unwrap();
                let delivered: usize = substituting.epoch(0).unwrap().map(|batch| batch.unwrap().len()).sum();
                assert_eq!(delivered, 40);
                all_given_back(&substituting);
            }
        }
    });
}

/// Each part is proved by its own CRC32C, and read again.
#[test]
fn a_damaged_part_is_read_again() {
    without_hanging(|| {
        for strategy in [Strategy::Direct, Strategy::compose()] {
            let emulator = filled(16);
            let loader = builder(dataset(&emulator), strategy).build().unwrap();
            emulator.fault_next(Call::GetMedia, Fault::Flip, 1);
            let mut batches = loader.epoch(0).unwrap();
            assert_eq!(names(&emulator, &mut batches).len(), 16);
            assert!(batches.stats().ops.retries > 0, "{:?}", batches.stats().ops);
            all_given_back(&loader);
        }
        let emulator = filled(16);
        let loader = builder(dataset(&emulator), Strategy::Direct).build().unwrap();
        emulator.fault_next(Call::GetMedia, Fault::Flip, 1_000);
        let error = loader.epoch(0).unwrap().find_map(Result::err).unwrap();
        assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
        assert!(error.about().unwrap().starts_with("gs://data/p/"), "{error}");
    });
}

#[test]
fn samples_that_lack_a_part_are_an_error_or_left_out() {
    let emulator = filled(20);
    assert!(emulator.delete("data", "p/ant/0004.png"));
    let open = || open(&emulator, "gs://data/p/");
    let error = open().parts(Parts::by_stem(SUFFIXES)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("gs://data/p/ant/0004.png"), "{error}");
    let dataset = open().parts(Parts::by_stem(SUFFIXES).missing(MissingParts::Skip)).unwrap();
    assert_eq!(dataset.len(), 19);
    assert_eq!(dataset.manifest().left_out().count(Reason::Incomplete), 2);
    let loader = builder(dataset, Strategy::compose()).build().unwrap();
    assert_eq!(names(&emulator, &mut loader.epoch(0).unwrap()).len(), 19);
    all_given_back(&loader);
}

#[test]
fn the_cache_keeps_all_parts() {
    without_hanging(|| {
        let folder = std::env::temp_dir().join(format!("dataflux-parts-{}", std::process::id()));
        for strategy in STRATEGIES {
            let emulator = filled(100);
            let cached = |dataset| {
                let cache = Cache::open(&folder, 64 << 20).unwrap();
                builder(dataset, strategy).cache(cache).build().unwrap()
            };
            let loader = cached(dataset(&emulator));
            let order = names(&emulator, &mut loader.epoch(0).unwrap());
            all_given_back(&loader);
            let mut again = loader.epoch(0).unwrap();
            assert_eq!(names(&emulator, &mut again), order);
            let stats = again.stats();
            assert_eq!((stats.cache.hits, stats.cache.misses, stats.ops.get), (100, 0, 0), "{strategy:?}");
            all_given_back(&loader);
            drop((again, loader));

            // The image alone is another sample, and so is one with another part of another version.
            emulator.put("data", "p/bee/0001.json", "another version");
            let loader = cached(dataset(&emulator));
            let mut batches = loader.epoch(0).unwrap();
            assert_eq!(names(&emulator, &mut batches), order);
            assert_eq!((batches.stats().cache.hits, batches.stats().cache.misses), (99, 1));
            all_given_back(&loader);
            let first = open(&emulator, "gs://data/p/").parts(Parts::of("{}.jpg")).unwrap();
            let loader = cached(first);
            let mut batches = loader.epoch(0).unwrap();
            assert_eq!(names(&emulator, &mut batches), order);
            assert_eq!(batches.stats().cache.hits, 0);
            all_given_back(&loader);
            std::fs::remove_dir_all(&folder).unwrap();
        }
    });
}

#[test]
fn a_resume_continues_at_another_world_size() {
    without_hanging(|| {
        let emulator = filled(96);
        let whole = builder(dataset(&emulator), Strategy::compose()).build().unwrap();
        let order = names(&emulator, &mut whole.epoch(1).unwrap());
        let mut begun = whole.epoch(1).unwrap();
        let first: Vec<_> = begun.by_ref().take(2).flat_map(|batch| batch.unwrap().into_inner()).collect();
        let state = begun.state();
        drop(begun);
        all_given_back(&whole);

        let mut by_position = BTreeMap::new();
        for rank in 0..4 {
            let loader = builder(dataset(&emulator), Strategy::Direct).shard(rank, 4).resume(state.clone());
            let loader = loader.build().unwrap();
            for batch in loader.epoch(1).unwrap() {
                for sample in batch.unwrap().iter() {
                    check(&emulator, sample);
                    by_position.insert(sample.position(), sample.name().to_owned());
                }
            }
            all_given_back(&loader);
        }
        let resumed = first.iter().map(|sample| sample.name().to_owned()).chain(by_position.into_values());
        assert_eq!(resumed.collect::<Vec<_>>(), order);

        // Another part is other data.
        emulator.put("data", "p/ant/0000.json", "other");
        let error = builder(dataset(&emulator), Strategy::Direct).resume(state.clone()).build().unwrap_err();
        assert!(error.to_string().contains("overwritten"), "{error}");
    });
}

#[test]
fn a_streaming_listing_is_waited_for_and_classes_may_come_first() {
    without_hanging(|| {
        let emulator = filled(50);
        let opened = DatafluxDataset::builder().client(client(&emulator)).streaming(true).open("gs://data/p/").unwrap();
        let joined = opened.classes(["bee", "ant"]).unwrap().parts(Parts::by_stem(SUFFIXES)).unwrap();
        let after = dataset(&emulator).classes(["bee", "ant"]).unwrap();
        assert_eq!(joined.manifest().digest(), after.manifest().digest());
        for dataset in [joined, after] {
            assert_eq!(dataset.get(0).unwrap().entry().label, Some(1));
            let loader = builder(dataset, Strategy::Direct).build().unwrap();
            assert_eq!(names(&emulator, &mut loader.epoch(0).unwrap()).len(), 50);
            until("the budget is given back", || loader.bytes_held() == 0);
        }
    });
}

#[test]
fn get_reads_all_parts() {
    let emulator = filled(20);
    let dataset = dataset(&emulator);
    for index in 0..20 {
        check(&emulator, &dataset.get(index).unwrap());
    }
}
