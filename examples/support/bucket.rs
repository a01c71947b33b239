//! A bucket in this process, so that anybody can run an example.

use std::sync::Arc;

use dataflux::store::{Client, Credentials, GcsConfig, GcsStore};
use dataflux_emulator::Emulator;

/// Starts an emulator that has these objects in `gs://my-bucket/`, and makes a client of it. The emulator stops when it
/// is dropped.
pub(crate) fn start(objects: impl IntoIterator<Item = (String, Vec<u8>)>) -> anyhow::Result<(Emulator, Client)> {
    let emulator = Emulator::builder().bucket("my-bucket").start()?;
    for (name, bytes) in objects {
        emulator.put("my-bucket", &name, bytes);
    }
    let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
    Ok((emulator, Client::new(Arc::new(GcsStore::new(config)?))))
}
