//! The store in memory does what every store must do.

mod conformance;

use std::sync::Arc;

use dataflux::store::{FaultStore, MemoryStore};

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
