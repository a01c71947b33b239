//! Buckets that other jobs use, too: a loader's share of the request rate, and composes that the service refuses or
//! delays.
//!
//! A program of its own, because its rates depend on the load of the process, and it checks the temporary objects of
//! the process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use dataflux::store::{BucketInfo, Client, Credentials, GcsConfig, GcsStore, MemoryStore, StoreCall};
use dataflux::{DataLoader, DatafluxDataset, Strategy};
use dataflux_emulator::Emulator;
use support::gated::Gated;
use support::{HANG, all_given_back, content, without_hanging, without_hanging_for};

/// A bucket of small objects, and a data set of it that is listed before the bucket has any limit.
fn bucket(objects: usize) -> (Emulator, DatafluxDataset) {
    let emulator = Emulator::builder().bucket("data").start().unwrap();
    for index in 0..objects {
        emulator.put("data", &format!("p/{index:05}"), content(&index.to_string(), 100));
    }
    let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
    let client = Client::new(Arc::new(GcsStore::new(config).unwrap())).with_retry(support::retries());
    let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
    (emulator, dataset)
}

/// Reads an epoch and checks that all samples came and nothing is left.
fn read_all(emulator: &Emulator, loader: &DataLoader, objects: usize) -> dataflux::EpochStats {
    let mut batches = loader.epoch(0).unwrap();
    let mut seen = 0;
    for batch in &mut batches {
        for sample in batch.unwrap().iter() {
            assert_eq!(sample.bytes(), &content(&sample.id().0.to_string(), 100));
            seen += 1;
        }
    }
    assert_eq!(seen, objects);
    let stats = batches.stats();
    drop(batches);
    all_given_back(loader);
    assert_eq!(emulator.names("data").len(), objects, "a temporary object is left");
    stats
}

/// Each compose was retried for up to 300 s: the loop waited 278 s for a batch whose objects could be read at once.
#[test]
fn a_compose_that_is_refused_is_given_up_and_its_objects_are_read() {
    without_hanging(|| {
        let (emulator, dataset) = bucket(6_400);
        emulator.set_profile("fast,writes_per_s=1".parse().unwrap());
        let loader = DataLoader::builder(dataset).batch_size(64).strategy(Strategy::compose()).build().unwrap();
        let stats = read_all(&emulator, &loader, 6_400);
        assert!(stats.ops.get >= 5_000, "most composes were refused, and their objects read: {:?}", stats.ops);
        // There are 200 groups; a refusal for one lowers the rate for the others.
        assert!(stats.ops.compose <= 200, "{:?}", stats.ops);
    });
}

/// `Strategy::Auto` began with the full documented rate of a bucket and kept it until its refusals were counted.
#[test]
fn auto_reads_on_where_hardly_any_write_is_taken() {
    without_hanging(|| {
        let (emulator, dataset) = bucket(20_000);
        emulator.set_profile("fast,writes_per_s=1".parse().unwrap());
        let loader = DataLoader::builder(dataset).batch_size(256).build().unwrap();
        let stats = read_all(&emulator, &loader, 20_000);
        assert_eq!(stats.temporaries_left, 0);
    });
}

/// Retries were not limited in rate, so that a refused call was repeated at once and refused again.
#[test]
fn a_loader_that_is_refused_asks_for_less() {
    without_hanging(|| {
        let (emulator, dataset) = bucket(2_000);
        emulator.set_profile("fast,reads_per_s=200".parse().unwrap());
        emulator.reset_stats();
        let loader = DataLoader::builder(dataset).batch_size(50).strategy(Strategy::Direct).build().unwrap();
        let stats = read_all(&emulator, &loader, 2_000);
        // About 1,280 calls are refused if nothing is learned from retries.
        assert!(stats.ops.retries < 1_000, "{:?}", stats.ops);
    });
}

/// Each attempt waited up to a minute for the next one, for 300 s: batches came 35 and 65 s late.
#[test]
fn a_batch_whose_composes_fail_again_and_again_is_read() {
    without_hanging(|| {
        let (emulator, dataset) = bucket(320);
        emulator.set_faults("reset=1,only=compose".parse().unwrap());
        let loader = DataLoader::builder(dataset).batch_size(64).strategy(Strategy::compose()).build().unwrap();
        let samples: usize = loader.epoch(0).unwrap().take(5).map(|batch| batch.unwrap().len()).sum();
        assert_eq!(samples, 320, "read, while the composes are still tried");
        emulator.set_faults("".parse().unwrap());
        all_given_back(&loader);
        assert_eq!(emulator.names("data").len(), 320);
    });
}

/// A bucket in memory with gates. Its calls have no timeout.
fn gated(objects: usize) -> (Gated, DatafluxDataset) {
    gated_in(MemoryStore::new().with_bucket("data"), objects)
}

fn gated_in(store: MemoryStore, objects: usize) -> (Gated, DatafluxDataset) {
    for index in 0..objects {
        store.insert("data", &format!("p/{index:05}"), content(&index.to_string(), 100));
    }
    let gated = Gated::new(store);
    let client = Client::new(gated.store()).with_stall_timeout(2 * HANG);
    (gated, DatafluxDataset::open_with(client, "gs://data/p/").unwrap())
}

/// A compose whose answer never came held its batch until the client's timeout.
#[test]
fn a_compose_that_the_loop_waits_for_too_long_is_given_up() {
    without_hanging(|| {
        let (gated, dataset) = gated(320);
        gated.shut(StoreCall::Compose);
        let loader = DataLoader::builder(dataset).batch_size(64).strategy(Strategy::compose()).build().unwrap();
        let samples: usize = loader.epoch(0).unwrap().take(5).map(|batch| batch.unwrap().len()).sum();
        assert_eq!(samples, 320, "read, while the composes are still under way");
        gated.open();
        all_given_back(&loader);
    });
}

/// Composes that were given up were never counted as failures, so that each batch waited for composes that never
/// answer.
#[test]
fn composes_that_the_loop_gives_up_again_and_again_are_suspended() {
    const OBJECTS: usize = 12_800;
    without_hanging(|| {
        let mut info = BucketInfo::default();
        info.retention = Some(Duration::ZERO);
        let (gated, dataset) = gated_in(MemoryStore::new().with_bucket_info("data", info), OBJECTS);
        gated.shut(StoreCall::Compose);
        let builder = DataLoader::builder(dataset).batch_size(64).strategy(Strategy::compose());
        let loader = builder.prefetch(20).build().unwrap();
        let mut batches = loader.epoch(0).unwrap();
        let samples: usize = batches.by_ref().take(OBJECTS / 64).map(|batch| batch.unwrap().len()).sum();
        assert_eq!(samples, OBJECTS);
        // There are 400 groups. After 32 failures composing is suspended, when the composes of 21 batches have begun:
        // 42.
        let composes = gated.composes();
        assert!((32..100).contains(&composes), "{composes} composes");
        gated.open();
        drop(batches);
        all_given_back(&loader);
    });
}

/// In a bucket that reports no retention policy, the batch of the first compose came a minute late if its deletion was
/// slow, although its bytes had arrived.
#[test]
fn the_first_composed_batch_does_not_wait_for_its_deletion() {
    without_hanging_for(Duration::from_secs(40), || {
        let (gated, dataset) = gated(64);
        gated.shut(StoreCall::Delete);
        let loader = DataLoader::builder(dataset).batch_size(64).strategy(Strategy::compose()).build().unwrap();
        let samples: usize = loader.epoch(0).unwrap().take(1).map(|batch| batch.unwrap().len()).sum();
        assert_eq!(samples, 64, "while nothing is deleted");
        gated.open();
        all_given_back(&loader);
    });
}
