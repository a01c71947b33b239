//! Epochs with a cache, over a store in memory: from the second epoch on, no object is read from the bucket, and the
//! batches are the same.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dataflux::store::{Client, Fault, FaultStore, MemoryStore, StoreCall};
use dataflux::{
    Cache, CacheStats, DataLoader, DatafluxDataset, Decode, ErrorKind, OnError, RawSample, Samples, Strategy,
};

use crate::support::{STRATEGIES, all_given_back, bucket, client, names_of, until, without_hanging};

/// A folder that is removed when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        Self(std::env::temp_dir().join(format!("dataflux-cached-{}-{number}", std::process::id())))
    }

    fn open(&self) -> Cache {
        Cache::open(&self.0, 64 << 20).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The folder may not exist.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn dataset(client: Client) -> DatafluxDataset {
    DatafluxDataset::open_with(client, "gs://data/p/").unwrap()
}

fn loader(client: Client, strategy: Strategy, cache: Option<Cache>) -> DataLoader {
    let builder = DataLoader::builder(dataset(client)).batch_size(32).shuffle(42).strategy(strategy);
    match cache {
        Some(cache) => builder.cache(cache).build().unwrap(),
        None => builder.build().unwrap(),
    }
}

/// Reads an epoch and checks the bytes of each sample. Returns the names, and the cache's statistics of the epoch.
fn epoch(loader: &DataLoader, epoch: u64, contents: &HashMap<String, Vec<u8>>) -> (Vec<String>, CacheStats, u64) {
    let mut batches = loader.epoch(epoch).unwrap();
    let names = names_of(&mut batches, contents).unwrap();
    let stats = batches.stats();
    assert_eq!(stats.verified, stats.samples);
    all_given_back(loader);
    (names, stats.cache, stats.ops.get + stats.ops.compose)
}

/// The number of objects of `bucket` that have bytes; the empty ones are never read.
fn with_bytes(contents: &HashMap<String, Vec<u8>>) -> u64 {
    contents.values().filter(|bytes| !bytes.is_empty()).count() as u64
}

#[test]
fn later_epochs_and_later_runs_ask_nothing_and_have_the_same_order() {
    without_hanging(|| {
        for strategy in STRATEGIES {
            let (store, contents) = bucket(500);
            let (folder, count) = (Scratch::new(), with_bytes(&contents));
            let plain = loader(client(store.clone()), strategy, None);
            let orders: Vec<_> = (0..3).map(|number| epoch(&plain, number, &contents)).collect();
            assert!(orders.iter().all(|(_, cache, _)| *cache == CacheStats::default()));
            let cached = loader(client(store.clone()), strategy, Some(folder.open()));
            for (number, order) in orders.iter().enumerate() {
                let (names, cache, calls) = epoch(&cached, number as u64, &contents);
                assert_eq!(names, order.0, "{strategy:?}");
                assert_eq!((cache.hits, cache.misses), if number == 0 { (0, count) } else { (count, 0) });
                assert_eq!(calls > 0, number == 0);
                let bytes: u64 = contents.values().map(|bytes| bytes.len() as u64).sum();
                assert_eq!(cache.bytes_read, if number == 0 { 0 } else { bytes });
                assert_eq!(cache.bytes_written > bytes, number == 0);
            }
            drop(cached);
            let later = loader(client(store), strategy, Some(folder.open()));
            assert_eq!(epoch(&later, 0, &contents).1.hits, count);
        }
    });
}

#[test]
fn a_decoder_that_is_not_light_gets_samples_of_the_cache_too() {
    without_hanging(|| {
        let (store, contents) = bucket(300);
        let folder = Scratch::new();
        let decode = |sample: RawSample| anyhow::Ok((sample.name().to_owned(), sample.bytes().to_vec()));
        let data = dataset(client(store)).decode(decode);
        let loader = DataLoader::builder(data).batch_size(7).decode_threads(2).cache(folder.open()).build().unwrap();
        for number in 0..2 {
            let mut batches = loader.epoch(number).unwrap();
            let mut seen = 0;
            for batch in &mut batches {
                for (name, bytes) in batch.unwrap().iter() {
                    assert_eq!(bytes, &contents[name], "{name}");
                    seen += 1;
                }
            }
            assert_eq!(seen, 300);
            assert_eq!(batches.stats().cache.misses > 0, number == 0);
        }
    });
}

#[test]
fn an_object_that_was_overwritten_is_read_anew() {
    without_hanging(|| {
        let (store, mut contents) = bucket(100);
        let folder = Scratch::new();
        epoch(&loader(client(store.clone()), Strategy::Direct, Some(folder.open())), 0, &contents);
        let name = contents.keys().find(|name| name.contains("00042")).unwrap().clone();
        // Of the same length as before, so that neither name nor size differ.
        let bytes = vec![b'!'; contents[&name].len()];
        store.insert("data", &name, bytes.clone());
        contents.insert(name, bytes);
        let again = loader(client(store), Strategy::Direct, Some(folder.open()));
        assert_eq!(epoch(&again, 0, &contents).1.misses, 1);
    });
}

#[test]
fn what_is_damaged_on_disk_is_read_from_the_bucket_and_put_in_again() {
    without_hanging(|| {
        let (store, contents) = bucket(200);
        let folder = Scratch::new();
        epoch(&loader(client(store.clone()), Strategy::Direct, Some(folder.open())), 0, &contents);
        for entry in std::fs::read_dir(&folder.0).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|end| end == "segment") {
                let mut bytes = std::fs::read(&path).unwrap();
                bytes.iter_mut().skip(5_000).step_by(20_000).for_each(|byte| *byte ^= 0x10);
                std::fs::write(&path, bytes).unwrap();
            }
        }
        let again = loader(client(store), Strategy::Direct, Some(folder.open()));
        let mut batches = again.epoch(0).unwrap();
        names_of(&mut batches, &contents).unwrap();
        let stats = batches.stats();
        assert!(stats.cache.misses > 5 && stats.cache.misses < 200, "{stats:?}");
        assert_eq!((stats.ops.get, stats.groups.direct), (stats.cache.misses, stats.cache.misses));
        // The cache that continues the segment truncates it at the first incomplete record. Records after that one,
        // which were found before, are read from the bucket once more.
        epoch(&again, 1, &contents);
        assert_eq!(epoch(&again, 2, &contents).1.misses, 0);
    });
}

/// Each loader has its own cache on one folder, like loaders in separate processes.
#[test]
fn of_loaders_that_run_at_once_one_reads_each_sample() {
    without_hanging(|| {
        for strategy in STRATEGIES {
            let (store, contents) = bucket(600);
            let (folder, contents) = (Scratch::new(), Arc::new(contents));
            let shared = folder.open();
            let threads: Vec<_> = [shared.clone(), shared, folder.open(), folder.open()]
                .into_iter()
                .map(|cache| {
                    let (store, contents) = (store.clone(), Arc::clone(&contents));
                    std::thread::spawn(move || {
                        let loader = loader(client(store), strategy, Some(cache));
                        epoch(&loader, 0, &contents)
                    })
                })
                .collect();
            let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
            let count = with_bytes(&contents);
            assert_eq!(outcomes.iter().map(|(_, cache, _)| cache.misses).sum::<u64>(), count, "{strategy:?}");
            assert_eq!(outcomes.iter().map(|(_, cache, _)| cache.hits).sum::<u64>(), 3 * count, "{strategy:?}");
            assert!(outcomes.iter().all(|(names, ..)| *names == outcomes[0].0));
        }
    });
}

/// A decoder that says that it is light, and waits until `open` is dropped.
struct Waiting(crossbeam_channel::Receiver<()>);

impl Decode for Waiting {
    type Item = RawSample;
    type Collate = Samples;

    fn decode(&self, sample: RawSample) -> anyhow::Result<RawSample> {
        let _ = self.0.recv();
        Ok(sample)
    }

    fn collate(&self) -> Samples {
        Samples
    }

    fn is_light(&self) -> bool {
        true
    }
}

/// A claim was once held until its sample was decoded, so that others waited for a decoder of this loader.
#[test]
fn a_claim_is_given_up_before_the_sample_is_decoded() {
    without_hanging(|| {
        for (strategy, objects) in [(Strategy::Direct, &["p/a"][..]), (Strategy::compose(), &["p/a", "p/b"])] {
            let store = MemoryStore::new();
            for name in objects {
                store.insert("data", name, *name);
            }
            let (faults, folder) = (FaultStore::new(Arc::new(store)), Scratch::new());
            let cache = folder.open();
            let (open, shut) = crossbeam_channel::bounded(0);
            let slow = DataLoader::builder(dataset(client(faults.clone())).decode(Waiting(shut)));
            // A thread of its own, which the decoder blocks.
            let slow = slow.batch_size(2).strategy(strategy).io_threads(1).cache(cache.clone()).build().unwrap();
            let mut waiting = slow.epoch(0).unwrap();
            until("the samples are claimed and read", || !faults.gets().is_empty());

            let quick = loader(client(faults.clone()), Strategy::Direct, Some(cache));
            let samples: usize = quick.epoch(0).unwrap().map(|batch| batch.unwrap().len()).sum();
            let read = faults.gets().len();
            drop(open);
            assert_eq!((samples, read), (objects.len(), 1), "{strategy:?}: samples and reads");
            assert_eq!(waiting.next().unwrap().unwrap().len(), objects.len());
        }
    });
}

/// Two epochs that wait for each other's claims with full budgets both reach their end.
#[test]
fn opposite_orders_under_small_budgets_do_not_wait_for_each_other() {
    without_hanging(|| {
        let (store, contents) = bucket(600);
        let (folder, contents) = (Scratch::new(), Arc::new(contents));
        let threads: Vec<_> = (0..4)
            .map(|seed| {
                let (store, contents, cache) = (store.clone(), Arc::clone(&contents), folder.open());
                std::thread::spawn(move || {
                    let builder = DataLoader::builder(dataset(client(store))).batch_size(8).shuffle(seed);
                    let loader = builder.memory_budget(64 << 10).prefetch(4).cache(cache).build().unwrap();
                    epoch(&loader, 0, &contents).0.len()
                })
            })
            .collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap() == 600));
    });
}

#[test]
fn an_epoch_dropped_at_any_point_leaves_nothing_and_gives_up_its_claims() {
    without_hanging(|| {
        let (store, contents) = bucket(400);
        for taken in [0, 1, 3, 12] {
            let folder = Scratch::new();
            let (one, other) = (folder.open(), folder.open());
            let cached = loader(client(store.clone()), Strategy::Auto, Some(one));
            for number in 0..2 {
                let mut batches = cached.epoch(number).unwrap();
                batches.by_ref().take(taken).for_each(|batch| drop(batch.unwrap()));
                drop(batches);
                all_given_back(&cached);
            }
            // The first cache still exists, so a claim of it would make others wait.
            let second = loader(client(store.clone()), Strategy::Auto, Some(other));
            let (names, cache, _) = epoch(&second, 0, &contents);
            assert_eq!((names.len(), cache.hits + cache.misses), (400, with_bytes(&contents)));
        }
    });
}

#[test]
fn an_error_of_one_loader_is_none_of_another() {
    without_hanging(|| {
        let (store, contents) = bucket(200);
        let folder = Scratch::new();
        let faulty = FaultStore::new(Arc::new(store.clone()));
        let faulty = faulty.fail(StoreCall::Get, 40, Fault::Error(ErrorKind::PermissionDenied));
        let first = loader(client(faulty.clone()), Strategy::Direct, Some(folder.open()));
        let mut batches = first.epoch(0).unwrap();
        assert!(batches.any(|batch| batch.is_err()));
        let second = loader(client(store), Strategy::Direct, Some(folder.open()));
        assert_eq!(epoch(&second, 0, &contents).0.len(), 200);
    });
}

/// They were read from the bucket in each epoch, and the statistics of the cache didn't count them.
#[test]
fn substitutes_come_from_the_cache_too_and_are_counted() {
    without_hanging(|| {
        let store = MemoryStore::new().with_bucket("data");
        (0..64).for_each(|index| _ = store.insert("data", &format!("p/{index:02}"), vec![7; 100]));
        let folder = Scratch::new();
        let decode = |sample: RawSample| -> anyhow::Result<usize> {
            anyhow::ensure!(sample.id().0 % 16 != 3, "refused");
            Ok(sample.bytes().len())
        };
        let builder = DataLoader::builder(dataset(client(store)).decode(decode)).batch_size(8);
        let builder = builder.strategy(Strategy::Direct).on_error(OnError::Substitute { limit: 64 });
        let loader = builder.cache(folder.open()).build().unwrap();
        let mut lost = 0;
        for number in 0..3 {
            let mut batches = loader.epoch(0).unwrap();
            assert_eq!(batches.by_ref().map(|batch| batch.unwrap().len()).sum::<usize>(), 64);
            let stats = batches.stats();
            if number == 0 {
                lost = stats.substituted;
                assert!(lost >= 4 && stats.ops.get >= 64);
            } else {
                assert_eq!((stats.ops.get, stats.groups.direct), (0, 0));
            }
            // Each lost sample was read, too.
            assert_eq!(stats.cache.misses, stats.ops.get);
            assert_eq!(stats.cache.hits + stats.cache.misses, 64 + lost);
        }
    });
}

#[test]
fn the_threads_of_a_cache_end_with_it() {
    without_hanging(|| {
        let (store, contents) = bucket(50);
        let folder = Scratch::new();
        let cached = loader(client(store), Strategy::Direct, Some(folder.open()));
        epoch(&cached, 0, &contents);
        let members = || std::fs::read_dir(folder.0.join("members")).unwrap().count();
        assert_eq!(members(), 1);
        drop(cached);
        until("the last thread lets go of the folder", || members() == 0);
    });
}
