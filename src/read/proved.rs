//! Bytes in this process's memory that were proved once, and so are proved for as long as they are there.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::manifest::{Known, Manifest};
use crate::sample::SampleId;
use crate::store::{MemoryStore, RemovalWatch, StorageClass};

/// The bytes of a manifest's objects, each from when it was first read and proved: 40 bytes an object beside its own,
/// which are in memory anyway. They stay so while this lives, even if the object goes.
#[derive(Debug)]
pub(crate) struct ProvedSamples {
    bytes: Box<[OnceLock<Bytes>]>,
    removals: RemovalWatch,
    /// Of every object.
    pub(crate) class: StorageClass,
}

impl ProvedSamples {
    /// Nothing is proved yet. `None` while samples are still being listed, and where they are of several storage classes, by
    /// which reads are counted.
    pub(crate) fn new(manifest: &Manifest, store: &MemoryStore) -> Option<Arc<Self>> {
        let Known::All(samples) = manifest.known() else { return None };
        let mut classes = manifest.classes().map(|class| class.storage_class);
        let (Some(class), None) = (classes.next(), classes.next()) else { return None };
        let removals = store.watch_removals(&manifest.prefix().bucket)?;
        let bytes = std::iter::repeat_with(OnceLock::new).take(usize::try_from(samples).ok()?).collect();
        Some(Arc::new(Self { bytes, removals, class }))
    }

    /// Whether all that is here is still what a read would bring. An object that comes changes nothing.
    pub(crate) fn holds(&self) -> bool {
        !self.removals.has_removals()
    }

    pub(crate) fn get(&self, id: SampleId) -> Option<&Bytes> {
        self.bytes.get(usize::try_from(id.0).ok()?)?.get()
    }

    /// Keeps what was proved after this was made.
    pub(crate) fn keep(&self, id: SampleId, bytes: &Bytes) {
        if let Some(place) = usize::try_from(id.0).ok().and_then(|at| self.bytes.get(at)) {
            place.get_or_init(|| bytes.clone());
        }
    }
}
