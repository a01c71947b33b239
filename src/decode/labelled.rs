//! Any decoder, with the label of each sample.

use anyhow::bail;

use super::{Decode, DecodeMemory, ItemMemory};
use crate::collate::{Collate, CollateContext};
use crate::read::RawSample;

/// A decoder whose items are those of `D`, each with the [label](crate::Manifest::labels) of its sample. A batch is
/// that of `D`, with a `Vec` of the labels.
///
/// ```no_run
/// use dataflux::{DataLoader, DatafluxDataset, Labelled, Npy};
///
/// let dataset = DatafluxDataset::open("gs://my-bucket/waves/")?.decode(Labelled::new(Npy::<f32>::new()));
/// for batch in DataLoader::builder(dataset).batch_size(32).build()?.epoch(0)? {
///     let (waves, labels) = batch?.into_inner();
///     assert_eq!(waves.shape()[0], labels.len());
/// }
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labelled<D> {
    decode: D,
}

impl<D> Labelled<D> {
    /// Decodes samples by `decode`.
    pub fn new(decode: D) -> Self {
        Self { decode }
    }
}

/// A [`Collate`] of items and their labels: what `C` makes of the items, and a `Vec` of the labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CollateLabelled<C> {
    collate: C,
}

impl<C> CollateLabelled<C> {
    /// Collates items by `collate`.
    pub fn new(collate: C) -> Self {
        Self { collate }
    }
}

impl<D: Decode> Decode for Labelled<D> {
    type Item = (D::Item, i64);
    type Collate = CollateLabelled<D::Collate>;

    fn decode(&self, sample: RawSample) -> anyhow::Result<Self::Item> {
        let Some(label) = sample.entry().label else {
            bail!(
                "it is in no folder below {}, so it has no label; move it into the folder of its class, or label it \
                 otherwise",
                sample.manifest().prefix()
            );
        };
        Ok((self.decode.decode(sample)?, label.into()))
    }

    fn collate(&self) -> Self::Collate {
        CollateLabelled { collate: self.decode.collate() }
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
        true
    }

    fn is_light(&self) -> bool {
        self.decode.is_light()
    }
}

impl<T, C: Collate<T>> Collate<(T, i64)> for CollateLabelled<C> {
    type Output = (C::Output, Vec<i64>);

    fn collate(&self, samples: Vec<(T, i64)>) -> anyhow::Result<Self::Output> {
        self.collate_with(samples, &CollateContext::default())
    }

    fn collate_with(&self, samples: Vec<(T, i64)>, context: &CollateContext) -> anyhow::Result<Self::Output> {
        let (items, labels) = samples.into_iter().unzip();
        Ok((self.collate.collate_with(items, context)?, labels))
    }

    fn copied_bytes(&self, item_bytes: u64) -> u64 {
        self.collate.copied_bytes(item_bytes)
    }

    fn batch_bytes(&self, item_bytes: u64) -> u64 {
        self.collate.batch_bytes(item_bytes)
    }

    fn pads_to_largest(&self) -> bool {
        self.collate.pads_to_largest()
    }
}
