//! The stores of this crate do what every store must do, and so does the client against the emulator.

use std::sync::Arc;

use dataflux::store::{Credentials, FaultStore, GcsConfig, GcsStore, MemoryStore};
use dataflux_emulator::Emulator;

use crate::conformance;

#[tokio::test]
async fn emulator_conforms() {
    let emulator = Emulator::builder().bucket("bucket").start().expect("an emulator on a free port");
    let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
    let store = GcsStore::new(config).expect("a store of a valid endpoint");
    conformance::run(Arc::new(store), "bucket", &[]).await;
}

#[tokio::test]
async fn memory_store_conforms() {
    conformance::run(Arc::new(MemoryStore::new().with_bucket("bucket")), "bucket", &[]).await;
}

#[tokio::test]
async fn memory_store_of_small_pages_and_chunks_conforms() {
    let store = MemoryStore::new().with_bucket("bucket").with_page_cap(3).with_chunk_size(700);
    conformance::run(Arc::new(store), "bucket", &[]).await;
}

#[tokio::test]
async fn a_fault_store_without_faults_conforms() {
    let store = FaultStore::new(Arc::new(MemoryStore::new().with_bucket("bucket")));
    conformance::run(Arc::new(store), "bucket", &[]).await;
}
