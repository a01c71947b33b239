//! Buckets where a temporary object can be created and not deleted.
//!
//! A program of its own, because what a process could not delete stays in every later report of that process.

mod support;

use std::sync::Arc;

use async_trait::async_trait;
use dataflux::store::{Attempt, Client, Credentials, GcsConfig, GcsStore, MemoryStore, ObjectId, Store};
use dataflux::{DataLoader, DatafluxDataset, Result, Strategy};
use dataflux_emulator::Emulator;

use support::forwarding::{Forward, Forwarding};

fn bucket() -> Emulator {
    let emulator = Emulator::builder().bucket("data").start().unwrap();
    for index in 0..320 {
        emulator.put("data", &format!("p/{index:03}"), support::content(&index.to_string(), 100));
    }
    emulator
}

/// Runs three epochs and checks all samples. Returns the number of temporary objects that they leave.
fn left_after_three_epochs(emulator: &Emulator) -> usize {
    let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
    let client = Client::new(Arc::new(GcsStore::new(config).unwrap())).with_retry(support::retries());
    let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
    let loader = DataLoader::builder(dataset).batch_size(64).strategy(Strategy::compose()).build().unwrap();
    for epoch in 0..3 {
        let mut seen = 0;
        for batch in loader.epoch(epoch).unwrap() {
            for sample in batch.unwrap().iter() {
                assert_eq!(sample.bytes(), &support::content(&sample.id().0.to_string(), 100));
                seen += 1;
            }
        }
        assert_eq!(seen, 320);
    }
    dataflux::wait_for_temporaries(support::HANG);
    emulator.names("data").iter().filter(|name| name.starts_with("dataflux-")).count()
}

/// Otherwise one object would stay for every group, forever.
#[test]
fn without_the_right_to_delete_nothing_is_made() {
    support::without_hanging(|| {
        let emulator = bucket();
        emulator.deny("data", "storage.objects.delete");
        assert_eq!(left_after_three_epochs(&emulator), 0);
    });
}

/// No permission reveals a retention policy, and a caller that may not read the bucket's metadata doesn't know of it.
#[test]
fn under_a_retention_policy_unseen_the_first_shows_it() {
    support::without_hanging(|| {
        let emulator = bucket();
        emulator.configure("data", |config| config.retention_seconds = Some(3_600));
        emulator.deny("data", "storage.buckets.get");
        assert_eq!(left_after_three_epochs(&emulator), 1);
    });
}

/// A store of which deleting panics.
#[derive(Debug)]
struct PanicsOnDelete(MemoryStore);

#[async_trait]
impl Forward for PanicsOnDelete {
    fn inner(&self) -> &dyn Store {
        &self.0
    }

    async fn delete(&self, id: &ObjectId, _: &Attempt) -> Result<()> {
        panic!("deleting {id}")
    }
}

/// Its name would stay in the ledger, and every later wait for temporary objects would last as long as it may.
#[test]
fn a_deletion_that_panics_is_no_longer_waited_for() {
    support::without_hanging(|| {
        let store = MemoryStore::new();
        for index in 0..320 {
            store.insert("data", &format!("p/{index:03}"), "a sample");
        }
        let client = Client::new(Arc::new(Forwarding(PanicsOnDelete(store))));
        let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
        let loader = DataLoader::builder(dataset).batch_size(64).strategy(Strategy::compose()).build().unwrap();
        let mut batches = loader.epoch(0).unwrap();
        let samples: usize = batches.by_ref().map(|batch| batch.unwrap().len()).sum();
        assert_eq!(samples, 320);
        let stats = batches.stats();
        assert!(stats.groups.composed > 0, "nothing was composed, so nothing was deleted");
        assert_eq!(stats.temporaries_left, stats.groups.composed, "all are reported");
        assert!(loader.close(support::HANG).threads_left == 0, "no deletion is waited for");
    });
}
