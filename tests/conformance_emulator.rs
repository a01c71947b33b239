//! The client and our own emulator agree with the suite, and so with each other.

mod conformance;

use std::sync::Arc;

use dataflux::store::{Credentials, GcsConfig, GcsStore};
use dataflux_emulator::Emulator;

#[tokio::test]
async fn emulator_conforms() {
    let emulator = Emulator::builder().bucket("bucket").start().expect("an emulator on a free port");
    let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
    let store = GcsStore::new(config).expect("a store of a valid endpoint");
    conformance::run(Arc::new(store), "bucket", &[]).await;
}
