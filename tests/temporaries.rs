//! Temporary objects where calls fail: each is deleted or accounted for.
//!
//! A program of its own, because it counts the temporary objects of the process.

mod support;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dataflux::store::{Client, Credentials, Fault, FaultStore, GcsConfig, GcsStore, MemoryStore, StoreCall};
use dataflux::{DataLoader, DatafluxDataset, ErrorKind, Strategy};
use dataflux_emulator::{Emulator, Profile};
use support::gated::Gated;
use support::{HANG, until, without_hanging};

/// How long the end of the process waits for temporary objects.
const EXIT: Duration = Duration::from_secs(20);

/// Lets one test run at a time, because the tests check the temporary objects of the process.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn memory(count: usize) -> MemoryStore {
    let store = MemoryStore::new().with_bucket("data");
    for index in 0..count {
        let name = format!("p/{index:04}");
        store.insert("data", &name, support::content(&name, 100));
    }
    store
}

fn loader(client: Client) -> DataLoader {
    let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
    DataLoader::builder(dataset).batch_size(64).strategy(Strategy::compose()).build().unwrap()
}

/// A compose succeeded, its answer was lost, its retry met its own result, and the look-up of that result failed. The
/// error was taken for the refusal of a first attempt, so the object stayed and was not recorded.
#[test]
fn a_temporary_whose_answer_and_look_up_are_lost_is_deleted() {
    let _alone = alone();
    without_hanging(|| {
        for lost in [ErrorKind::Unavailable, ErrorKind::Timeout] {
            for look_up in [ErrorKind::PermissionDenied, ErrorKind::NotFound, ErrorKind::Unauthenticated] {
                let store = memory(256);
                let faults = FaultStore::new(Arc::new(store.clone()));
                let loader = loader(support::client(faults.clone()));
                faults.fail_next(StoreCall::Compose, Fault::LostResponse(lost), 1);
                faults.fail_next(StoreCall::Stat, Fault::Error(look_up), 1);
                let samples: usize = loader.epoch(0).unwrap().map(|batch| batch.unwrap().len()).sum();
                assert_eq!(samples, 256);
                assert_eq!(faults.calls(StoreCall::Stat), 1, "the fault has come about");
                support::no_temporaries();
                assert_eq!(store.names("data").len(), 256, "{lost:?}, then {look_up:?}: a temporary object is left");
            }
        }
    });
}

/// Composes of a dropped epoch were retried for minutes.
#[test]
fn an_epoch_that_is_dropped_ends_the_retries_of_its_composes() {
    let _alone = alone();
    without_hanging(|| {
        for fault in [ErrorKind::Unavailable, ErrorKind::RateLimited] {
            let store = memory(2_048);
            let faults = FaultStore::new(Arc::new(store.clone()));
            faults.fail_next(StoreCall::Compose, Fault::Error(fault), 1_000_000);
            let loader = loader(Client::new(Arc::new(faults.clone())).with_retry(support::retries()));
            let batches = loader.epoch(0).unwrap();
            until("a compose has failed", || faults.calls(StoreCall::Compose) > 0);
            let closed = batches.close(EXIT);
            assert!(closed.is_clean(), "{fault:?}: {closed:?}");
            assert_eq!(store.names("data").len(), 2_048);
        }
    });
}

/// In a bucket with a low write rate, composes of a dropped epoch took most of the writes, and its temporary objects
/// stayed.
#[test]
fn where_the_bucket_takes_few_writes_a_dropped_epoch_leaves_no_temporary() {
    let _alone = alone();
    without_hanging(|| {
        let spec = "data:n=64000,pattern=sequence,size=100..200".parse().unwrap();
        let profile: Profile = "fast,compose_ms=100,writes_per_s=20".parse().unwrap();
        let emulator = Emulator::builder().profile(profile).virtual_namespace(spec).start().unwrap();
        let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
        let client = Client::new(Arc::new(GcsStore::new(config).unwrap())).with_retry(support::retries());
        let dataset = DatafluxDataset::open_with(client, "gs://data/").unwrap();
        let loader = DataLoader::builder(dataset).batch_size(64).strategy(Strategy::compose()).build().unwrap();
        let batches = loader.epoch(0).unwrap();
        let refused = || emulator.stats().errors.get("429").copied().unwrap_or(0);
        until("the bucket takes no more", || refused() > 50);
        drop(batches);
        assert_eq!(dataflux::wait_for_temporaries(EXIT).objects, [""; 0], "after as long as the exit waits");
        let left = emulator.names("data").into_iter().filter(|name| name.starts_with("dataflux-")).count();
        assert_eq!(left, 0);
    });
}

/// Names with a slash would leave empty folders in buckets with real folders, and a loader can't always find out which
/// these are.
#[test]
fn no_name_of_a_temporary_makes_a_folder_where_the_bucket_tells_nothing() {
    let _alone = alone();
    without_hanging(|| {
        let gated = Gated::new(memory(256));
        gated.shut(StoreCall::Delete);
        let loader = loader(Client::new(gated.store()));
        let batches = loader.epoch(0).unwrap();
        let temporary = || gated.inner.names("data").into_iter().find(|name| name.starts_with("dataflux-"));
        until("there is a temporary", || temporary().is_some());
        let name = temporary().unwrap();
        gated.open();
        assert_eq!(name.matches('/').count(), 1, "{name}");
        // `clean` and the lifecycle rule in the README depend on this prefix.
        assert!(name.starts_with("dataflux-composed-objects/"), "{name}");
        assert!(batches.close(HANG).is_clean());
    });
}
