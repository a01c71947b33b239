//! The stores of this crate do what every store must do, and so does the client against the emulator.

use std::sync::Arc;

use dataflux::store::{Credentials, FaultStore, FileStore, GcsConfig, GcsStore, MemoryStore};
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

#[tokio::test]
async fn shared_memory_store_conforms() {
    let store = MemoryStore::shared().with_bucket("conformance");
    conformance::run(Arc::new(store), "conformance", &[]).await;
}

#[tokio::test]
async fn file_store_conforms() {
    let folder = tempfile::tempdir().expect("a folder for temporary files");
    conformance::run(Arc::new(FileStore::below(folder.path())), "", FILES).await;
}

/// Cases that files can't pass, and why.
const FILES: &[(&str, &str)] = &[
    ("names_come_in_byte_order", PLAIN_NAMES),
    ("a_prefix_selects", NO_FILE_IS_A_FOLDER),
    ("a_delimiter_rolls_up", PLAIN_NAMES),
    ("details_come_when_asked_for", NO_METADATA),
    ("encoded_objects_come_as_stored", NO_METADATA),
    ("ranges_of_encoded_objects_come_as_stored", NO_METADATA),
    ("names_of_all_kinds", PLAIN_NAMES),
    ("large_objects", NO_METADATA),
    ("copies_have_the_bytes_and_metadata_of_their_source", NO_METADATA),
    ("metadata_and_class_are_kept", NO_METADATA),
];
const PLAIN_NAMES: &str = "no part of a path is empty, '.' or '..'";
const NO_FILE_IS_A_FOLDER: &str = "a file can't also be a folder";
const NO_METADATA: &str = "metadata and Content-Encoding aren't kept with a file";
