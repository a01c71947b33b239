//! The whole pipeline over a store in memory: order, bytes, resume, ranks, faults, and the end of epochs.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use dataflux::list::{Filter, Reason};
use dataflux::pacing::ReadMode;
use dataflux::store::StorageClass::{Archive, Coldline, Nearline};
use dataflux::store::{
    Attempt, BucketInfo, ComposeRequest, Fault, FaultStore, Hedge, MemoryStore, ObjectMeta, Store, StoreCall,
};
use dataflux::{DataLoader, DatafluxDataset, Error, ErrorKind, Limits, Manifest, RawSample, Result, State, Strategy};
use futures_util::StreamExt;

use crate::support::forwarding::{Forward, Forwarding};
use crate::support::{STRATEGIES, all_given_back, bucket, client, content, names_of, until, without_hanging};

fn dataset(store: &MemoryStore) -> DatafluxDataset {
    DatafluxDataset::open_with(client(store.clone()), "gs://data/p/").unwrap()
}

#[test]
fn one_order_whatever_the_strategy_and_the_threads() {
    without_hanging(|| {
        let (store, contents) = bucket(500);
        let mut orders = BTreeSet::new();
        for strategy in STRATEGIES {
            for threads in [1, 8] {
                let loader = DataLoader::builder(dataset(&store))
                    .batch_size(64)
                    .shuffle(42)
                    .strategy(strategy)
                    .io_threads(threads)
                    .decode_threads(threads)
                    .build()
                    .unwrap();
                let mut batches = loader.epoch(3).unwrap();
                let names = names_of(&mut batches, &contents).unwrap();
                assert_eq!(names.len(), 500);
                let stats = batches.stats();
                assert_eq!((stats.samples, stats.verified, stats.temporaries_left), (500, 500, 0));
                assert_eq!(stats.bytes, contents.values().map(|bytes| bytes.len() as u64).sum::<u64>());
                orders.insert(names);
                all_given_back(&loader);
            }
        }
        assert_eq!(orders.len(), 1);
        assert_eq!(store.names("data").len(), 500, "a temporary object is left");
    });
}

#[test]
fn composing_takes_few_calls_and_leaves_nothing() {
    let store = MemoryStore::new().with_bucket("data");
    for index in 0..128 {
        store.insert("data", &format!("p/{index}"), vec![1; 100]);
    }
    let dataset = dataset(&store);
    let loader = DataLoader::builder(dataset).batch_size(64).strategy(Strategy::compose()).build().unwrap();
    assert_eq!(loader.epoch(0).unwrap().map(|batch| batch.unwrap().len()).sum::<usize>(), 128);
    let counts = loader.dataset().client().metrics().snapshot();
    assert_eq!((counts.list, counts.compose, counts.get, counts.delete), (1, 4, 4, 4));
    assert_eq!(counts.bytes_composed, 12_800);
    // Class A: 1 list and 4 composes. Class B: 4 reads, the bucket's metadata and the permissions. Storage: 12,800
    // bytes for a week.
    let wanted = 5.0 * 0.005e-3 + 6.0 * 0.0004e-3 + 12_800.0 / f64::from(1 << 30) * 0.02 * 7.0 / 30.0;
    assert!((loader.bill().total() - wanted).abs() < 1e-12, "{:?}", loader.bill());
    assert_eq!(store.names("data").len(), 128);
}

/// A bucket of objects that can all be composed.
fn even(count: usize) -> (MemoryStore, HashMap<String, Vec<u8>>) {
    let store = MemoryStore::new().with_bucket("data");
    let contents = (0..count).map(|index| {
        let name = format!("p/{index:04}");
        let bytes = content(&name, 100);
        store.insert("data", &name, bytes.clone());
        (name, bytes)
    });
    let contents = contents.collect();
    (store, contents)
}

/// Each batch of 1 would be a read of its own, and each of 8 a compose of 8.
#[test]
fn groups_span_small_batches() {
    without_hanging(|| {
        for batch_size in 1..=8 {
            let (store, contents) = even(256);
            let loader = DataLoader::builder(dataset(&store))
                .batch_size(batch_size)
                .shuffle(3)
                .strategy(Strategy::compose())
                .build()
                .unwrap();
            let mut batches = loader.epoch(0).unwrap();
            let names = names_of(&mut batches, &contents).unwrap();
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), 256);
            let stats = batches.stats();
            assert_eq!(stats.batches as usize, 256usize.div_ceil(batch_size));
            assert!(stats.groups.composed <= 9 && stats.groups.direct <= 1, "{batch_size}: {:?}", stats.groups);
            all_given_back(&loader);
            assert_eq!(store.names("data").len(), 256);
        }
    });
}

/// The tickets of batches that are planned together must fit the channel, and their bytes the budget.
#[test]
fn groups_that_span_batches_wait_for_no_ticket_and_no_byte_of_their_own() {
    without_hanging(|| {
        let (store, contents) = even(200);
        for (prefetch, budget) in
            [(1, 1 << 20), (2, 1 << 20), (5, 1 << 20), (64, 1 << 20), (64, 16 << 10), (64, 2 << 10)]
        {
            let loader = DataLoader::builder(dataset(&store))
                .batch_size(2)
                .prefetch(prefetch)
                .memory_budget(budget)
                .strategy(Strategy::compose())
                .build()
                .unwrap();
            assert_eq!(names_of(&mut loader.epoch(0).unwrap(), &contents).unwrap().len(), 200);
            all_given_back(&loader);
        }
    });
}

/// The batches before the one with the error are delivered, though they are of the same group.
#[test]
fn an_error_in_a_group_that_spans_batches_is_that_of_its_batch() {
    without_hanging(|| {
        let (store, contents) = even(64);
        let dataset = dataset(&store);
        store.insert("data", "p/0017", "another");
        let loader = DataLoader::builder(dataset).batch_size(2).strategy(Strategy::compose()).build().unwrap();
        let mut batches = loader.epoch(0).unwrap();
        let error = names_of(&mut batches, &contents).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
        assert!(error.about().unwrap().starts_with("gs://data/p/0017#"), "{error}");
        assert_eq!(batches.stats().samples, 16);
        assert!(batches.next().is_none());
        all_given_back(&loader);
        assert_eq!(store.names("data").len(), 64);
    });
}

#[test]
fn dropping_the_iterator_amid_a_group_leaves_nothing() {
    without_hanging(|| {
        let (store, _) = even(300);
        for strategy in [Strategy::compose(), Strategy::Auto] {
            for taken in [0, 1, 7, 20, 33, 100] {
                let loader = DataLoader::builder(dataset(&store)).batch_size(3).strategy(strategy).build().unwrap();
                let mut batches = loader.epoch(0).unwrap();
                for batch in batches.by_ref().take(taken) {
                    batch.unwrap();
                }
                drop(batches);
                all_given_back(&loader);
                assert_eq!(store.names("data").len(), 300);
            }
        }
    });
}

/// Bytes are counted in units of a KiB: samples that are planned in groups of 32 and then read individually must not be
/// rounded up individually.
#[test]
fn auto_takes_the_bytes_it_was_checked_for() {
    without_hanging(|| {
        let (store, contents) = even(1_000);
        let loader =
            |budget| DataLoader::builder(dataset(&store)).batch_size(1_000).memory_budget(budget).build().unwrap();
        let error = loader(64 << 10).epoch(0).unwrap().next().unwrap().unwrap_err().to_string();
        let advised = error.split("at least ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap().parse().unwrap();
        for budget in [advised, 200 << 10] {
            let loader = loader(budget);
            let mut batches = loader.epoch(0).unwrap();
            assert_eq!(names_of(&mut batches, &contents).unwrap().len(), 1_000);
            assert_eq!(batches.stats().groups.direct, 1_000, "else this proves nothing");
            drop(batches);
            all_given_back(&loader);
        }
    });
}

/// A read that waits for bytes of its own epoch must hold no slot that another epoch waits for.
#[test]
fn epochs_that_nobody_reads_stop_no_other() {
    without_hanging(|| {
        let (store, contents) = even(1_000);
        let loader = DataLoader::builder(dataset(&store))
            .batch_size(32)
            .prefetch(30)
            .memory_budget(64 << 10)
            .limits(Limits::default().concurrency(3))
            .build()
            .unwrap();
        let paused: Vec<_> = (1..4).map(|epoch| loader.epoch(epoch).unwrap()).collect();
        until("bytes are held for them", || loader.bytes_held() >= 3 * 6_400);
        assert_eq!(names_of(&mut loader.epoch(0).unwrap(), &contents).unwrap().len(), 1_000);
        drop(paused);
        all_given_back(&loader);
    });
}

/// Both loaders read the same bucket, which gets the calls in the order of the groups.
#[test]
fn auto_reads_beside_a_loader_with_thousands_of_reads_waiting() {
    without_hanging(|| {
        let (store, _) = even(20_000);
        let slow = FaultStore::new(Arc::new(store));
        slow.fail_next(StoreCall::Get, Fault::Drip(Duration::from_millis(50)), 50_000);
        let dataset = DatafluxDataset::open_with(client(slow.clone()), "gs://data/p/").unwrap();
        let all = DataLoader::builder(dataset.clone()).batch_size(20_000).strategy(Strategy::Direct).build().unwrap();
        let direct = all.epoch(0).unwrap();
        until("its reads wait", || dataset.ceilings().reads.waiting > 10_000);
        let loader = DataLoader::builder(dataset.clone()).batch_size(32).build().unwrap();
        for batch in loader.epoch(0).unwrap().take(4) {
            assert_eq!(batch.unwrap()[0].bytes().len(), 100);
        }
        assert!(dataset.ceilings().reads.waiting > 5_000, "the others had to be done first");
        drop(direct);
        all_given_back(&all);
        all_given_back(&loader);
    });
}

/// The memory budget bounds the connections, and that gave each loader gates of its own.
#[test]
fn loaders_of_large_objects_share_what_one_learns() {
    without_hanging(|| {
        let store = MemoryStore::new().with_bucket("data");
        (0..40).for_each(|index| _ = store.insert("data", &format!("p/{index:02}"), vec![1; 200 << 10]));
        let faults = FaultStore::new(Arc::new(store));
        let dataset = DatafluxDataset::open_with(client(faults.clone()), "gs://data/p/").unwrap();
        let build = || {
            let builder = DataLoader::builder(dataset.clone()).batch_size(8).strategy(Strategy::Direct);
            builder.memory_budget(16 << 20).build().unwrap()
        };
        let (train, validation) = (build(), build());
        assert!(dataset.ceilings().reads.at_once <= 32, "{:?}", dataset.ceilings());
        faults.fail_next(StoreCall::Get, Fault::Error(ErrorKind::RateLimited), 3);
        assert!(train.epoch(0).unwrap().all(|batch| batch.is_ok()));
        assert!(dataset.ceilings().reads.refused > 0);
        assert_eq!(validation.ceilings().reads.refused, dataset.ceilings().reads.refused);
        all_given_back(&train);
    });
}

/// If reads take no time, trying composes isn't worth it.
#[test]
fn a_small_epoch_is_read_one_by_one_and_says_why() {
    let (store, contents) = even(300);
    let loader = DataLoader::builder(dataset(&store)).batch_size(64).build().unwrap();
    let mut batches = loader.epoch(0).unwrap();
    assert_eq!(names_of(&mut batches, &contents).unwrap().len(), 300);
    assert_eq!((batches.stats().groups.direct, batches.stats().groups.composed), (300, 0));
    let choice = loader.choice().unwrap();
    assert_eq!((choice.mode, &*choice.to_string()), (ReadMode::Direct, "direct: nothing was measured yet"));
    let fixed = DataLoader::builder(dataset(&store)).strategy(Strategy::Direct).build().unwrap();
    assert_eq!(fixed.choice(), None);
}

#[test]
fn every_epoch_has_its_own_order_and_all_samples() {
    let (store, contents) = bucket(100);
    let loader = DataLoader::builder(dataset(&store)).batch_size(7).shuffle(1).build().unwrap();
    let orders: BTreeSet<_> =
        (0..4).map(|epoch| names_of(&mut loader.epoch(epoch).unwrap(), &contents).unwrap()).collect();
    assert_eq!(orders.len(), 4);
    for order in orders {
        assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 100);
    }
    let in_order = DataLoader::builder(dataset(&store)).batch_size(7).build().unwrap();
    assert!(names_of(&mut in_order.epoch(9).unwrap(), &contents).unwrap().is_sorted());
}

#[test]
fn ranks_share_each_global_batch() {
    let (store, contents) = bucket(103);
    let rank = |rank, world| {
        let loader = DataLoader::builder(dataset(&store)).batch_size(8).shuffle(5).shard(rank, world).build().unwrap();
        let batches: Vec<_> =
            loader.epoch(0).unwrap().map(|batch| batch.unwrap().names().map(str::to_owned).collect()).collect();
        assert_eq!(batches.len() as u64, loader.batches_per_epoch().unwrap());
        batches
    };
    let whole: Vec<Vec<String>> = rank(0, 1);
    let thirds: Vec<Vec<Vec<String>>> = (0..3).map(|index| rank(index, 3)).collect();
    let joined: Vec<_> =
        (0..thirds[0].len()).flat_map(|step| thirds.iter().flat_map(move |rank| rank[step].clone())).collect();
    assert_eq!(joined, whole.concat());
    assert_eq!(joined.len(), contents.len());
}

/// Stop anywhere, resume with another number of ranks and another strategy: the rest of the epoch, exactly.
#[test]
fn resume_is_exact() {
    without_hanging(|| {
        let (store, contents) = bucket(211);
        let straight = {
            let loader = DataLoader::builder(dataset(&store)).batch_size(10).shuffle(8).build().unwrap();
            names_of(&mut loader.epoch(2).unwrap(), &contents).unwrap()
        };
        for taken in [0, 1, 5, 21, 22] {
            let first = DataLoader::builder(dataset(&store)).batch_size(10).shuffle(8).build().unwrap();
            let mut batches = first.epoch(2).unwrap();
            let mut names: Vec<String> = Vec::new();
            for batch in batches.by_ref().take(taken) {
                names.extend(batch.unwrap().names().map(str::to_owned));
            }
            let saved = serde_json::to_string(&batches.state()).unwrap();
            assert!(saved.len() < 384, "{saved}");
            let state: State = serde_json::from_str(&saved).unwrap();
            let ranks: Vec<Vec<Vec<String>>> = (0..2)
                .map(|rank| {
                    let loader = DataLoader::builder(dataset(&store))
                        .shard(rank, 2)
                        .strategy(Strategy::compose())
                        .resume(state.clone())
                        .build()
                        .unwrap();
                    let rest = loader.epoch(2).unwrap();
                    rest.map(|batch| batch.unwrap().names().map(str::to_owned).collect()).collect()
                })
                .collect();
            for step in 0..ranks[0].len() {
                for rank in &ranks {
                    names.extend(rank[step].iter().cloned());
                }
            }
            assert_eq!(names, straight, "after {taken} batches");
        }
    });
}

#[test]
fn a_state_of_other_data_or_settings_is_refused() {
    let (store, _) = bucket(10);
    let loader = DataLoader::builder(dataset(&store)).shuffle(1).build().unwrap();
    let state = loader.epoch(0).unwrap().state();
    let error = DataLoader::builder(dataset(&store)).shuffle(2).resume(state.clone()).build().unwrap_err();
    assert!(error.to_string().contains("wanted sampler shuffle(seed=1), got shuffle(seed=2)"), "{error}");
    store.insert("data", "p/new", "x");
    let error = DataLoader::builder(dataset(&store)).resume(state).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.to_string().contains("other data"), "{error}");
}

/// Dataflux delivers three wrong samples of six here, and says so in a log line only.
#[test]
fn a_source_overwritten_or_deleted_after_listing_is_an_error_and_never_a_wrong_byte() {
    without_hanging(|| {
        for strategy in STRATEGIES {
            for change in ["same size", "other size", "deleted"] {
                let store = MemoryStore::new().with_bucket("data");
                let mut contents = HashMap::new();
                for index in 0..40 {
                    let name = format!("p/{index:02}");
                    let bytes = content(&name, 100);
                    store.insert("data", &name, bytes.clone());
                    contents.insert(name, bytes);
                }
                let dataset = dataset(&store);
                let old = dataset.manifest().get(17).unwrap().version.generation().unwrap();
                let wanted = format!("gs://data/p/17#{old}");
                let now = match change {
                    "same size" => store.insert("data", "p/17", content("another", 100)).to_string(),
                    "other size" => store.insert("data", "p/17", content("another", 61)).to_string(),
                    _ => {
                        let attempt = dataflux::store::Attempt::first();
                        let id = dataflux::store::ObjectId::live("data", "p/17");
                        let delete = dataflux::store::Store::delete(&store, &id, &attempt);
                        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(delete).unwrap();
                        "deleted".to_owned()
                    }
                };
                let loader = DataLoader::builder(dataset).batch_size(8).strategy(strategy).build().unwrap();
                let mut batches = loader.epoch(0).unwrap();
                // The samples that are delivered before are checked in here, byte for byte.
                let error = names_of(&mut batches, &contents).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
                assert_eq!(error.about(), Some(&*wanted), "{error}");
                let said = error.to_string();
                assert!(said.contains(&format!("generation {old}")) && said.contains(&now), "{said}");
                assert_eq!(batches.stats().samples, 16, "two batches come before the one with the change");
                assert!(batches.next().is_none(), "the epoch is over");
                all_given_back(&loader);
                assert!(store.names("data").iter().all(|name| name.starts_with("p/")));
            }
        }
    });
}

/// Dataflux lists STANDARD objects alone, and none where the class is absent; it composes empty ones.
#[test]
fn every_class_odd_names_and_empty_objects_are_samples() {
    without_hanging(|| {
        let store = MemoryStore::new().with_bucket("data");
        let mut contents = HashMap::new();
        let odd =
            ["p/a/", "p//b", "p/ ", "p/..", "p/%2F?#&+", "p/日本語/ü", "p/😀", "p/\u{202e}x", "p/.", "p/a/\u{7f}"];
        for (index, name) in odd.iter().enumerate() {
            let bytes = content(name, 50 + index);
            store.insert("data", name, bytes.clone());
            contents.insert((*name).to_owned(), bytes);
        }
        for index in 0..20 {
            let name = format!("p/empty/{index}");
            store.insert("data", &name, "");
            contents.insert(name, Vec::new());
        }
        let put = |name: &str, class| {
            let mut request = dataflux::store::PutRequest::new("data", name, content(name, 80));
            request.storage_class = Some(class);
            let attempt = dataflux::store::Attempt::first();
            let put = dataflux::store::Store::put(&store, &request, &attempt);
            tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(put).unwrap();
        };
        for (index, class) in [Nearline, Coldline, Archive, Nearline, Coldline, Archive].into_iter().enumerate() {
            let name = format!("p/cold/{index}");
            put(&name, class);
            contents.insert(name.clone(), content(&name, 80));
        }
        store.insert("data", "p/marker/", "");
        for strategy in STRATEGIES {
            // Two of these names are those of hidden files.
            let builder = DatafluxDataset::builder().client(client(store.clone())).filter(Filter::new().hidden());
            let dataset = builder.open("gs://data/p/").unwrap();
            assert_eq!(dataset.manifest().left_out().count(Reason::DirectoryMarker), 1);
            let loader = DataLoader::builder(dataset).batch_size(36).strategy(strategy).build().unwrap();
            let names = names_of(&mut loader.epoch(0).unwrap(), &contents).unwrap();
            assert_eq!(names.iter().collect::<BTreeSet<_>>(), contents.keys().collect::<BTreeSet<_>>());
            all_given_back(&loader);
            let counts = loader.dataset().client().metrics().snapshot();
            assert_eq!(counts.retries, 0, "something that could not work was tried");
        }
    });
}

#[test]
fn damaged_bytes_are_read_again_and_then_refused() {
    without_hanging(|| {
        let (store, contents) = bucket(40);
        for strategy in [Strategy::Direct, Strategy::compose()] {
            let faults = FaultStore::new(Arc::new(store.clone()));
            let dataset = DatafluxDataset::open_with(client(faults.clone()), "gs://data/p/").unwrap();
            let loader = DataLoader::builder(dataset).batch_size(20).strategy(strategy).build().unwrap();
            faults.fail_next(StoreCall::Get, Fault::FlipAt(11), 1);
            faults.fail_next(StoreCall::Get, Fault::EndAt(5), 1);
            assert_eq!(names_of(&mut loader.epoch(0).unwrap(), &contents).unwrap().len(), 40);
            faults.fail_next(StoreCall::Get, Fault::FlipAt(0), 1_000);
            let error = names_of(&mut loader.epoch(1).unwrap(), &contents).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
            assert!(error.about().unwrap().starts_with("gs://data/p/"), "{error}");
            assert!(error.to_string().contains("crc32c"), "{error}");
            all_given_back(&loader);
        }
    });
}

#[test]
fn a_stall_ends_in_another_try_or_an_error() {
    without_hanging(|| {
        let (store, contents) = bucket(20);
        let faults = FaultStore::new(Arc::new(store));
        let patient = client(faults.clone());
        let dataset = DatafluxDataset::open_with(patient, "gs://data/p/").unwrap();
        let loader = DataLoader::builder(dataset).batch_size(20).build().unwrap();
        faults.fail_next(StoreCall::Get, Fault::Stall, 2);
        assert_eq!(names_of(&mut loader.epoch(0).unwrap(), &contents).unwrap().len(), 20);
        assert!(loader.dataset().client().metrics().snapshot().retries >= 1);

        let impatient = client(faults.clone()).with_retry(dataflux::store::RetryPolicy::never());
        let dataset = DatafluxDataset::open_with(impatient, "gs://data/p/").unwrap();
        let loader = DataLoader::builder(dataset).batch_size(20).strategy(Strategy::Direct).build().unwrap();
        faults.fail_next(StoreCall::Get, Fault::Stall, 1);
        let error = names_of(&mut loader.epoch(0).unwrap(), &contents).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
        assert!(error.about().is_some(), "{error}");
    });
}

#[test]
fn a_hedged_loader_does_not_wait_for_a_stall() {
    without_hanging(|| {
        let (store, contents) = bucket(300);
        let faults = FaultStore::new(Arc::new(store));
        let dataset = DatafluxDataset::open_with(client(faults.clone()), "gs://data/p/").unwrap();
        let builder = DataLoader::builder(dataset).batch_size(20).strategy(Strategy::Direct);
        // Far longer than a test may take.
        let limits = Limits::default().stall_timeout(Duration::from_secs(1_000));
        let limits = limits.hedge(Hedge::percentile(99.0).max_share(1.0));
        let loader = builder.limits(limits).build().unwrap();
        assert_eq!(names_of(&mut loader.epoch(0).unwrap(), &contents).unwrap().len(), 300);
        faults.fail_next(StoreCall::Get, Fault::Stall, 1);
        assert_eq!(names_of(&mut loader.epoch(1).unwrap(), &contents).unwrap().len(), 300);
        let counts = loader.dataset().client().metrics().snapshot();
        assert!(counts.hedges_won >= 1 && counts.retries == 0, "{counts:?}");
        assert_eq!(counts.get, 598 + counts.hedged, "second requests are calls, too: {counts:?}");
        all_given_back(&loader);
    });
}

#[test]
fn a_buffer_is_not_used_again_while_a_sample_of_it_is_held() {
    without_hanging(|| {
        let store = MemoryStore::new().with_bucket("data").with_chunk_size(10_000);
        for index in 0..400 {
            let name = format!("p/{index}");
            store.insert("data", &name, content(&name, 20_000 + index % 7));
        }
        for strategy in [Strategy::Direct, Strategy::compose()] {
            let builder = DataLoader::builder(dataset(&store)).batch_size(10).shuffle(1).strategy(strategy);
            let loader = builder.memory_budget(1 << 20).build().unwrap();
            // The loop keeps one sample of each batch, and only a part of some.
            let mut kept = Vec::new();
            for batch in loader.epoch(0).unwrap() {
                let sample = batch.unwrap().into_inner().swap_remove(3);
                kept.push((sample.name().to_owned(), sample.bytes().slice(5_000..)));
            }
            let counts = loader.dataset().client().metrics().snapshot();
            assert_eq!(counts.bytes_copied, counts.bytes_received, "each body came in more than one piece");
            for (name, bytes) in kept {
                assert!(bytes[..] == content(&name, 30_000)[5_000..5_000 + bytes.len()], "{name}");
            }
            all_given_back(&loader);
        }
    });
}

#[test]
fn a_lost_answer_to_a_compose_is_found_again() {
    without_hanging(|| {
        let (store, contents) = bucket(64);
        let faults = FaultStore::new(Arc::new(store.clone()));
        let dataset = DatafluxDataset::open_with(client(faults.clone()), "gs://data/p/").unwrap();
        let loader = DataLoader::builder(dataset).batch_size(32).strategy(Strategy::compose()).build().unwrap();
        faults.fail_next(StoreCall::Compose, Fault::LostResponse(ErrorKind::Unavailable), 1);
        assert_eq!(names_of(&mut loader.epoch(0).unwrap(), &contents).unwrap().len(), 64);
        assert_eq!(faults.calls(StoreCall::Compose), 3, "one was tried twice");
        assert_eq!(faults.calls(StoreCall::Get), 2, "and adopted, not read object by object");
        assert_eq!(faults.faults_left(), 0);
        all_given_back(&loader);
        assert_eq!(store.names("data").len(), 64);
    });
}

#[test]
fn a_compose_that_never_succeeds_is_read_object_by_object() {
    without_hanging(|| {
        let (store, contents) = bucket(64);
        let faults = FaultStore::new(Arc::new(store.clone()));
        let client = client(faults.clone()).with_retry(dataflux::store::RetryPolicy::never());
        let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
        let loader = DataLoader::builder(dataset).batch_size(32).strategy(Strategy::compose()).build().unwrap();
        faults.fail_next(StoreCall::Compose, Fault::LostResponse(ErrorKind::Unavailable), 100);
        assert_eq!(names_of(&mut loader.epoch(0).unwrap(), &contents).unwrap().len(), 64);
        all_given_back(&loader);
        assert_eq!(store.names("data").len(), 64, "what a lost compose made must be deleted, too");
    });
}

/// Nothing says whether this bucket permits deletions, so one compose had to show it. All others waited for that
/// compose in turn, each until it had failed itself.
#[test]
fn composes_that_fail_slowly_do_not_wait_for_each_other() {
    without_hanging(|| {
        let (store, contents) = even(1_280);
        let faults = FaultStore::new(Arc::new(store.clone()));
        let policy = dataflux::store::RetryPolicy::default().deadline(Duration::from_secs(5));
        let client = client(faults.clone()).with_retry(policy);
        let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
        let loader = DataLoader::builder(dataset).batch_size(32).strategy(Strategy::compose()).build().unwrap();
        faults.fail_next(StoreCall::Compose, Fault::Stall, 100_000);
        let mut batches = loader.epoch(0).unwrap();
        assert_eq!(names_of(&mut batches, &contents).unwrap().len(), 1_280);
        let calls = faults.calls(StoreCall::Compose);
        assert!(calls < 12, "{calls} calls, each compose some four");
        all_given_back(&loader);
    });
}

/// Two epochs of one budget waited for each other forever.
#[test]
fn epochs_that_live_at_once_do_not_wait_for_each_other() {
    without_hanging(|| {
        let store = MemoryStore::new().with_bucket("data");
        for index in 0..200 {
            store.insert("data", &format!("p/{index}"), vec![1; 5_000]);
        }
        for strategy in STRATEGIES {
            let loader = DataLoader::builder(dataset(&store))
                .batch_size(4)
                .memory_budget(64 << 10)
                .strategy(strategy)
                .build()
                .unwrap();
            let mut first = loader.epoch(0).unwrap();
            first.next().unwrap().unwrap();
            let mut second = loader.epoch(1).unwrap();
            assert_eq!(second.by_ref().map(|batch| batch.unwrap().len()).sum::<usize>(), 200);
            assert_eq!(second.stats().temporaries_left, 0);
            assert_eq!(first.map(|batch| batch.unwrap().len()).sum::<usize>(), 196);
            all_given_back(&loader);
        }
    });
}

/// The object was created after the call that was to delete it.
#[test]
fn a_compose_that_is_done_after_all_is_deleted_after_all() {
    without_hanging(|| {
        let late = Late(MemoryStore::new().with_bucket("data"));
        for index in 0..32 {
            late.0.insert("data", &format!("p/{index:02}"), vec![1; 100]);
        }
        let store = late.0.clone();
        let client = client(Forwarding(late)).with_retry(dataflux::store::RetryPolicy::never());
        let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
        let loader = DataLoader::builder(dataset).batch_size(32).strategy(Strategy::compose()).build().unwrap();
        assert_eq!(loader.epoch(0).unwrap().map(|batch| batch.unwrap().len()).sum::<usize>(), 32);
        all_given_back(&loader);
        assert_eq!(store.names("data").len(), 32);
    });
}

/// A store whose composes answer "unavailable" at once and succeed a while later.
#[derive(Debug)]
struct Late(MemoryStore);

#[async_trait]
impl Forward for Late {
    fn inner(&self) -> &dyn Store {
        &self.0
    }
    async fn compose(&self, request: &ComposeRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        let (store, request, attempt) = (self.0.clone(), request.clone(), *attempt);
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(700)).await;
            store.compose(&request, &attempt).await
        });
        Err(Error::new(ErrorKind::Unavailable, "gone for a moment"))
    }
}

#[test]
fn the_training_loop_panicking_leaves_nothing() {
    without_hanging(|| {
        let (store, _) = bucket(200);
        let of_the_loop = store.clone();
        let loop_thread = std::thread::spawn(move || {
            let loader = DataLoader::builder(dataset(&of_the_loop))
                .batch_size(16)
                .strategy(Strategy::compose())
                .build()
                .unwrap();
            for batch in loader.epoch(0).unwrap() {
                assert!(batch.unwrap().ids()[0].0 < 40, "the loss is not a number");
            }
        });
        assert!(loop_thread.join().is_err());
        crate::support::no_temporaries();
        assert_eq!(store.names("data").len(), 200);
    });
}

#[test]
fn what_user_code_says_reaches_the_loop_with_the_object() {
    without_hanging(|| {
        let (store, _) = bucket(30);
        let refuse = |sample: RawSample| -> anyhow::Result<usize> {
            anyhow::ensure!(sample.id().0 != 12, "not a number: {:?}", &sample.bytes()[..2]);
            Ok(sample.bytes().len())
        };
        let loader = DataLoader::builder(dataset(&store).decode(refuse)).batch_size(5).build().unwrap();
        let mut batches = loader.epoch(0).unwrap();
        assert_eq!(batches.by_ref().take(2).map(|batch| batch.unwrap().len()).sum::<usize>(), 10);
        let error = batches.next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Decode);
        let name = loader.dataset().manifest().get(12).unwrap().name;
        assert!(error.about().unwrap().contains(&*name) && error.to_string().contains("not a number"), "{error}");
        assert!(batches.next().is_none());
        assert_eq!(batches.state().position, 10, "what was delivered");

        let explode = |sample: RawSample| -> anyhow::Result<()> {
            assert!(sample.id().0 != 3, "boom");
            Ok(())
        };
        let loader = DataLoader::builder(dataset(&store).decode(explode)).batch_size(5).build().unwrap();
        let error = loader.epoch(0).unwrap().next().unwrap().unwrap_err();
        assert!(error.to_string().contains("boom") && error.kind() == ErrorKind::Decode, "{error}");

        let collate = |samples: Vec<RawSample>| -> anyhow::Result<usize> {
            anyhow::ensure!(samples.len() == 7, "{} samples", samples.len());
            Ok(samples.iter().map(|sample| sample.bytes().len()).sum())
        };
        let loader = DataLoader::builder(dataset(&store).collate(collate)).batch_size(7).build().unwrap();
        let outcomes: Vec<_> = loader.epoch(0).unwrap().collect();
        assert_eq!(outcomes.len(), 5);
        let error = outcomes.last().unwrap().as_ref().unwrap_err();
        assert!(error.kind() == ErrorKind::Collate && error.to_string().contains("2 samples"), "{error}");
    });
}

/// A closure may keep the bytes for any time; the budget counts only what is not delivered yet.
#[test]
fn keeping_every_batch_does_not_stop_the_loader() {
    without_hanging(|| {
        let (store, contents) = bucket(400);
        let total: usize = contents.values().map(Vec::len).sum();
        let loader = DataLoader::builder(dataset(&store)).batch_size(4).memory_budget(64 << 10).build().unwrap();
        assert!(total > 4 * (64 << 10), "else this proves nothing");
        let all: Vec<_> = loader.epoch(0).unwrap().map(Result::unwrap).collect();
        assert_eq!(all.iter().map(dataflux::Batch::len).sum::<usize>(), 400);
        all_given_back(&loader);
    });
}

#[test]
fn the_budget_bounds_what_is_on_the_way() {
    without_hanging(|| {
        let (store, _) = bucket(400);
        for strategy in STRATEGIES {
            let in_flight = Arc::new((AtomicUsize::new(0), AtomicUsize::new(0)));
            let counting = Arc::clone(&in_flight);
            let decode = move |sample: RawSample| -> anyhow::Result<Held> { Ok(Held::new(sample, &counting)) };
            let budget = 40 << 10;
            let loader = DataLoader::builder(dataset(&store).decode(decode))
                .batch_size(4)
                .memory_budget(budget)
                .strategy(strategy)
                .build()
                .unwrap();
            for batch in loader.epoch(0).unwrap() {
                batch.unwrap();
            }
            let most = in_flight.1.load(Ordering::SeqCst);
            // One more batch was delivered and is not dropped yet.
            assert!(most as u64 <= budget + 4 * 3_000, "{most} bytes of {budget}");
        }
    });
}

/// Counts the bytes alive between decoder and training loop.
struct Held(RawSample, Arc<(AtomicUsize, AtomicUsize)>);

impl Held {
    fn new(sample: RawSample, counter: &Arc<(AtomicUsize, AtomicUsize)>) -> Self {
        let size = sample.bytes().len();
        let now = counter.0.fetch_add(size, Ordering::SeqCst) + size;
        counter.1.fetch_max(now, Ordering::SeqCst);
        Self(sample, Arc::clone(counter))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.1.0.fetch_sub(self.0.bytes().len(), Ordering::SeqCst);
    }
}

#[test]
fn a_batch_larger_than_the_budget_is_told_and_one_object_larger_is_read() {
    without_hanging(|| {
        let store = MemoryStore::new().with_bucket("data");
        for index in 0..4 {
            store.insert("data", &format!("p/{index}"), vec![7; 100_000]);
        }
        let loader = DataLoader::builder(dataset(&store)).batch_size(2).memory_budget(150_000).build().unwrap();
        let error = loader.epoch(0).unwrap().next().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("200704") && error.to_string().contains("memory_budget"), "{error}");
        let loader = DataLoader::builder(dataset(&store)).batch_size(1).memory_budget(50_000).build().unwrap();
        assert_eq!(loader.epoch(0).unwrap().map(|batch| batch.unwrap()[0].bytes().len()).sum::<usize>(), 400_000);
        all_given_back(&loader);
    });
}

#[test]
fn never_composes_where_nothing_can_be_deleted() {
    let mut info = BucketInfo::default();
    info.retention = Some(Duration::from_secs(86_400));
    let store = MemoryStore::new().with_bucket_info("data", info);
    for index in 0..64 {
        store.insert("data", &format!("p/{index}"), "abc");
    }
    let loader = DataLoader::builder(dataset(&store)).batch_size(64).strategy(Strategy::compose()).build().unwrap();
    assert_eq!(loader.epoch(0).unwrap().next().unwrap().unwrap().len(), 64);
    assert_eq!(loader.dataset().client().metrics().snapshot().compose, 0);
}

#[test]
fn settings_that_cannot_work_are_told() {
    let (store, _) = bucket(3);
    let said = |error: dataflux::Error| {
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        error.to_string()
    };
    let builder = || DataLoader::builder(dataset(&store));
    assert!(said(builder().batch_size(0).build().unwrap_err()).contains("batch_size"));
    assert!(said(builder().shard(2, 2).build().unwrap_err()).contains("rank"));
    assert!(said(builder().shard(0, 0).build().unwrap_err()).contains("world size"));
    assert!(said(builder().memory_budget(0).build().unwrap_err()).contains("memory_budget"));
    assert!(said(builder().decode_threads(0).build().unwrap_err()).contains("decode_threads"));
    assert!(said(builder().io_threads(0).build().unwrap_err()).contains("io_threads"));
    assert!(said(builder().prefetch(0).build().unwrap_err()).contains("prefetch"));
    let limited = |limits: Limits| said(builder().limits(limits).build().unwrap_err());
    assert!(limited(Limits::default().concurrency(0)).contains("concurrency"));
    assert!(limited(Limits::default().stall_timeout(Duration::ZERO)).contains("stall_timeout"));
    assert!(limited(Limits::default().reads_per_second(f64::NAN)).contains("reads_per_second"));
    assert!(limited(Limits::default().min_part_size(0)).contains("min_part_size"));
    let error = dataset(&store).get(3).unwrap_err();
    assert!(said(error).contains("below 3"));
    let error = DatafluxDataset::open("data/p/").unwrap_err();
    assert!(said(error).contains("gs://data/p/"));
}

#[test]
fn no_bucket_and_nothing_below_the_prefix() {
    let (store, _) = bucket(3);
    let error = DatafluxDataset::open_with(client(store.clone()), "gs://nowhere/p/").unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("nowhere"), "{error}");
    let error = DatafluxDataset::open_with(client(store), "gs://data/q/").unwrap_err();
    assert!(error.is_not_found() && error.to_string().contains("gs://data/q/"), "{error}");
}

#[test]
fn map_style() {
    let (store, contents) = bucket(9);
    let dataset = dataset(&store);
    assert_eq!(dataset.len(), 9);
    for index in 0..9 {
        let sample = dataset.get(index).unwrap();
        assert_eq!(sample.bytes(), &contents[sample.name()]);
        assert_eq!(sample.name(), &*dataset.manifest().get(index).unwrap().name);
    }
}

#[tokio::test]
async fn a_stream_for_asynchronous_code() {
    let (store, contents) = bucket(50);
    // Blocking calls are possible from asynchronous code, too.
    let dataset = dataset(&store);
    let loader = DataLoader::builder(dataset).batch_size(8).shuffle(3).build().unwrap();
    let mut stream = loader.stream(0).unwrap();
    let mut names = Vec::new();
    while let Some(batch) = stream.next().await {
        names.extend(batch.unwrap().names().map(str::to_owned));
    }
    assert_eq!(names, names_of(&mut loader.epoch(0).unwrap(), &contents).unwrap());
    let mut dropped = loader.stream(1).unwrap();
    dropped.next().await.unwrap().unwrap();
    drop(dropped);
    all_given_back(&loader);
}

/// The bytes were freed as soon as the stream's thread asked for the next batch.
#[tokio::test]
async fn bytes_of_a_streamed_batch_count_until_the_next_is_asked_for() {
    let (store, _) = even(8);
    let loader = DataLoader::builder(dataset(&store)).batch_size(8).decode_threads(1).build().unwrap();
    let mut stream = loader.stream(0).unwrap();
    let batch = stream.next().await.unwrap().unwrap();
    // The thread has nothing more to deliver and ends.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(loader.bytes_held() >= 800, "{} bytes", loader.bytes_held());
    drop(batch);
    assert!(stream.next().await.is_none());
    drop(stream);
    all_given_back(&loader);
}

#[test]
fn arrays_of_raw_samples() {
    let store = MemoryStore::new().with_bucket("data");
    store.insert("data", "p/a", [1, 2, 3].as_slice());
    store.insert("data", "p/b", [4, 5, 6].as_slice());
    store.insert("data", "p/c", [7].as_slice());
    let loader = DataLoader::builder(dataset(&store)).batch_size(2).build().unwrap();
    let batch = loader.epoch(0).unwrap().next().unwrap().unwrap();
    assert_eq!(batch.clone().into_ndarray().unwrap(), ndarray::array![[1, 2, 3], [4, 5, 6]]);
    let tensor = batch.to_candle(&candle_core::Device::Cpu).unwrap();
    assert_eq!(tensor.to_vec2::<u8>().unwrap(), [[1, 2, 3], [4, 5, 6]]);
    let loader = DataLoader::builder(dataset(&store)).batch_size(3).build().unwrap();
    let error = loader.epoch(0).unwrap().next().unwrap().unwrap().into_ndarray().unwrap_err();
    assert!(error.to_string().contains("p/c") && error.to_string().contains("p/a"), "{error}");
}

#[test]
fn a_saved_manifest_gives_the_same_epoch_without_a_listing() {
    without_hanging(|| {
        let (store, contents) = bucket(100);
        let client = client(store);
        let listed = DatafluxDataset::open_with(client.clone(), "gs://data/p/").unwrap();
        let path = std::env::temp_dir().join(format!("dataflux-pipeline-{:016x}.dfm", rand::random::<u64>()));
        listed.manifest().save(&path).unwrap();
        let lists = client.metrics().snapshot().list;
        let loaded =
            DatafluxDataset::builder().client(client.clone()).from_manifest(Manifest::load(&path).unwrap()).unwrap();
        let names = |dataset| {
            let loader = DataLoader::builder(dataset).batch_size(8).shuffle(3).build().unwrap();
            names_of(&mut loader.epoch(1).unwrap(), &contents).unwrap()
        };
        assert_eq!(names(loaded), names(listed));
        assert_eq!(client.metrics().snapshot().list, lists);
        std::fs::remove_file(&path).unwrap();
    });
}
