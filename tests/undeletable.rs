//! Buckets where a temporary object can be created and not deleted.
//!
//! A program of its own, because what a process could not delete stays in every later report of that process.

mod support;

use std::sync::Arc;

use dataflux::store::{Client, Credentials, GcsConfig, GcsStore};
use dataflux::{DataLoader, DatafluxDataset, Strategy};
use dataflux_emulator::Emulator;

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
    let client = Client::new(Arc::new(GcsStore::new(config).unwrap()));
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
