//! A principal with read access only: one warning, and all samples are read directly.
//!
//! A program of its own, because it collects the log of the whole process.

mod support;

use std::sync::Arc;

use dataflux::store::{Client, Credentials, GcsConfig, GcsStore};
use dataflux::{DataLoader, DatafluxDataset, Strategy};
use dataflux_emulator::Emulator;
use support::log::Log;

/// Google's Dataflux returns none of six samples here, and no error.
#[test]
fn a_compose_refused_falls_back_to_direct_reads_with_one_warning() {
    let log = Log::of_process();
    let emulator = Emulator::builder().bucket("data").start().unwrap();
    for index in 0..200 {
        emulator.put("data", &format!("p/{index:03}"), support::content(&index.to_string(), 300));
    }
    emulator.deny("data", "storage.objects.create");
    emulator.deny("data", "storage.objects.delete");
    emulator.deny("data", "storage.buckets.get");
    let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
    let client = Client::new(Arc::new(GcsStore::new(config).unwrap())).with_retry(support::retries());
    let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
    assert_eq!(dataset.bucket_info(), &dataflux::store::BucketInfo::default(), "unknown, for want of rights");
    let loader = DataLoader::builder(dataset).batch_size(50).strategy(Strategy::compose()).build().unwrap();
    for epoch in 0..2 {
        let mut seen = 0;
        for batch in loader.epoch(epoch).unwrap() {
            for sample in batch.unwrap().iter() {
                assert_eq!(sample.bytes(), &support::content(&sample.id().0.to_string(), 300));
                seen += 1;
            }
        }
        assert_eq!(seen, 200);
    }
    let warnings = log.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert!(warnings[0].contains("storage.objects.create") && warnings[0].contains("data"), "{}", warnings[0]);
    let composes = loader.dataset().client().metrics().snapshot().compose;
    assert!(composes <= 8, "{composes} composes were tried after the first was refused");
}
