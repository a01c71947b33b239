//! A decoder with another collator than its own.

use std::sync::Arc;

use super::{Decode, DecodeMemory, ItemMemory};
use crate::collate::Collate;
use crate::read::RawSample;

/// A decoder whose samples are collated by `C` instead of its own collator. Made by
/// [`DatafluxDataset::collate`](crate::DatafluxDataset::collate).
#[derive(Debug)]
pub struct Collated<D, C> {
    pub(crate) decode: Arc<D>,
    pub(crate) collate: Arc<C>,
}

impl<D: Decode, C: Collate<D::Item>> Decode for Collated<D, C> {
    type Item = D::Item;
    type Collate = Arc<C>;

    fn decode(&self, sample: RawSample) -> anyhow::Result<D::Item> {
        self.decode.decode(sample)
    }

    fn collate(&self) -> Arc<C> {
        Arc::clone(&self.collate)
    }

    fn item_memory(&self) -> ItemMemory {
        self.decode.item_memory()
    }

    fn item_bytes(&self, size: u64) -> Option<u64> {
        self.decode.item_bytes(size)
    }

    fn decode_memory(&self, sample: &RawSample) -> Option<DecodeMemory> {
        self.decode.decode_memory(sample)
    }

    fn wants_images(&self) -> bool {
        self.decode.wants_images()
    }

    fn wants_labels(&self) -> bool {
        self.decode.wants_labels()
    }

    fn is_light(&self) -> bool {
        self.decode.is_light()
    }
}
