//! The user's decoder and collate function behind one object-safe trait.
//!
//! The engine has no type parameter, so it is compiled once, in this crate. Items and batches pass through it in boxes
//! whose type only this file knows: one box for each call of [`SampleCode::decode`] and one for each batch.
//! [`Batches`](crate::loader::Batches) gives the data of a batch its type back.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::decode_gate::{DecodeLimits, DecodeNeed};
use super::item_sizes::{ItemSizes, PlannedItem};
use crate::collate::{Batch, Collate, CollateContext};
use crate::decode::Decode;
use crate::error::panic_message;
use crate::read::RawSample;
use crate::sample::SampleId;
use crate::store::ObjectId;
use crate::{Error, ErrorKind, Result, Stage};

/// The data of a batch: what the user's collate function returned, with its type erased.
pub(crate) type BatchData = Box<dyn Any + Send>;

/// The decoded items of a batch that is being assembled, with their type erased.
pub(crate) struct BatchItems(Box<dyn Any + Send>);

/// What one call of the decoder returned for some samples.
pub(crate) struct DecodedSamples {
    /// The samples that were decoded, in the order of their items.
    pub(crate) decoded: Vec<DecodedSample>,
    /// A `Vec` of items.
    items: Box<dyn Any + Send>,
    pub(crate) refused: Vec<RefusedSample>,
    /// Bytes of the decoded samples, as they are stored.
    pub(crate) bytes: u64,
    /// Number of decoded samples whose bytes were verified.
    pub(crate) verified: u64,
    /// Memory that the item of a sample with a grant takes, in place of what was granted.
    pub(crate) memory: Option<DecodeNeed>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct DecodedSample {
    pub(crate) slot: usize,
    pub(crate) id: SampleId,
}

/// A sample for which the decoder returned an error, or panicked.
pub(crate) struct RefusedSample {
    pub(crate) slot: usize,
    pub(crate) id: SampleId,
    pub(crate) cause: String,
}

/// Calls the user's decoder and collate function. The engine calls it from many threads.
pub(crate) trait SampleCode: Send + Sync {
    /// See [`Decode::is_light`].
    fn is_light(&self) -> bool;

    fn sizes(&self) -> &ItemSizes;

    /// See [`ItemSizes::planned`].
    fn planned_item(&self, object_bytes: u64) -> PlannedItem;

    /// See [`ItemSizes::need`].
    ///
    /// # Errors
    /// The message with which the user's code panicked.
    fn decode_need(&self, sample: &RawSample, batch_size: usize, limits: DecodeLimits) -> Result<DecodeNeed, String>;

    /// Decodes samples, each with its slot. A sample that had to wait for memory comes alone, with what was `granted`.
    fn decode(&self, samples: Vec<(usize, RawSample)>, granted: Option<DecodeNeed>) -> DecodedSamples;

    /// The items of a batch without any item yet.
    fn new_items(&self) -> BatchItems;

    /// Moves items into a batch of `batch_size` samples, whose first sample has the slot `first`. Each slot is filled
    /// once.
    fn fill(&self, batch: &mut BatchItems, first: usize, batch_size: usize, samples: DecodedSamples);

    /// Makes a batch of the items that there are, in the order of their slots.
    ///
    /// # Errors
    /// What the collate function returned as an error, or its panic message.
    fn collate(&self, items: BatchItems, context: &CollateContext) -> Result<BatchData, String>;
}

/// The code of one loader.
pub(crate) struct UserCode<D: Decode> {
    decode: Arc<D>,
    collate: D::Collate,
    sizes: ItemSizes,
}

impl<D: Decode> UserCode<D> {
    pub(crate) fn new(decode: Arc<D>, stated_item_bytes: Option<u64>) -> Self {
        let (collate, sizes) = (decode.collate(), ItemSizes::new(&*decode, stated_item_bytes));
        Self { decode, collate, sizes }
    }
}

/// Items by their place in the batch.
enum Items<T> {
    /// Without any place before the first item comes, because another thread may put that in than made the batch.
    Places(Vec<Option<T>>),
    /// All of them, in order: one call of the decoder returned the whole batch.
    All(Vec<T>),
}

impl<D: Decode> SampleCode for UserCode<D> {
    fn is_light(&self) -> bool {
        self.decode.is_light()
    }

    fn sizes(&self) -> &ItemSizes {
        &self.sizes
    }

    fn planned_item(&self, object_bytes: u64) -> PlannedItem {
        self.sizes.planned(&*self.decode, &self.collate, object_bytes)
    }

    fn decode_need(&self, sample: &RawSample, batch_size: usize, limits: DecodeLimits) -> Result<DecodeNeed, String> {
        guarded(|| Ok(self.sizes.need(&*self.decode, &self.collate, sample, batch_size, limits)))
    }

    fn decode(&self, samples: Vec<(usize, RawSample)>, granted: Option<DecodeNeed>) -> DecodedSamples {
        let mut items: Vec<D::Item> = Vec::with_capacity(samples.len());
        let (mut decoded, mut refused) = (Vec::with_capacity(samples.len()), Vec::new());
        let (mut bytes, mut verified, mut memory) = (0, 0, None);
        for (slot, sample) in samples {
            let (id, size, is_verified) = (sample.id(), sample.all_bytes().len() as u64, sample.verified());
            match guarded(|| self.decode.decode(sample)) {
                Ok(item) => {
                    memory = granted.map(|granted| self.sizes.finished::<D, _>(&self.collate, granted, &item));
                    decoded.push(DecodedSample { slot, id });
                    items.push(item);
                    bytes += size;
                    verified += u64::from(is_verified);
                }
                Err(cause) => {
                    memory = granted.map(|_| DecodeNeed::default());
                    refused.push(RefusedSample { slot, id, cause });
                }
            }
        }
        DecodedSamples { decoded, items: Box::new(items), refused, bytes, verified, memory }
    }

    fn new_items(&self) -> BatchItems {
        BatchItems(Box::new(Items::<D::Item>::Places(Vec::new())))
    }

    fn fill(&self, batch: &mut BatchItems, first: usize, batch_size: usize, samples: DecodedSamples) {
        let DecodedSamples { decoded, items, .. } = samples;
        let items = downcast::<Vec<D::Item>>(items);
        let batch = batch.0.downcast_mut::<Items<D::Item>>().expect(ONE_TYPE);
        if decoded.len() == batch_size && decoded.is_sorted_by_key(|sample| sample.slot) {
            *batch = Items::All(items);
        } else if let Items::Places(places) = batch {
            places.resize_with(batch_size, || None);
            for (sample, item) in decoded.into_iter().zip(items) {
                places[sample.slot - first] = Some(item);
            }
        }
    }

    fn collate(&self, items: BatchItems, context: &CollateContext) -> Result<BatchData, String> {
        let items = match downcast::<Items<D::Item>>(items.0) {
            Items::All(items) => items,
            Items::Places(places) => places.into_iter().flatten().collect(),
        };
        let data = guarded(|| self.collate.collate_with(items, context))?;
        Ok(Box::new(data))
    }
}

/// What is true of every box that one loader's code makes and gets back.
const ONE_TYPE: &str = "a loader has one type of items";

fn downcast<T: 'static>(erased: Box<dyn Any + Send>) -> T {
    *erased.downcast().expect(ONE_TYPE)
}

/// Gives the data of a batch its type back.
///
/// # Errors
/// The data has another type, which is a bug.
pub(crate) fn restore_type<B: 'static>(batch: Batch<BatchData>) -> Result<Batch<B>> {
    batch.try_map(|data| {
        data.downcast().map(|data| *data).map_err(|_| {
            Error::new(ErrorKind::Internal, "a batch has another type than its loader").hint("please report it")
        })
    })
}

/// The error of a sample that the user's decoder refuses.
pub(crate) fn refused(id: ObjectId, cause: &str) -> Error {
    Error::new(ErrorKind::Decode, format!("the decoder refused it: {cause}")).stage(Stage::Decode).object(id)
}

/// Runs the user's code. An error comes back with all its causes in one line, and so does the message of a panic.
pub(crate) fn guarded<T>(run: impl FnOnce() -> anyhow::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
        Err(panic) => Err(format!("it panicked: {}", panic_message(&*panic))),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::manifest::tests::{manifest, object};
    use crate::read::Origin;

    /// The first slot of the batch in these tests.
    const FIRST: usize = 10;

    fn samples(slots: &[usize]) -> Vec<(usize, RawSample)> {
        let manifest = Arc::new(manifest(&["p/a", "p/b", "p/c"].map(|name| object(name, 4))));
        let sample = |slot: &usize| {
            let id = SampleId((slot - FIRST) as u64);
            let location = manifest.location(id).unwrap();
            (*slot, RawSample::verified_before(&Origin::new(&manifest), id, location, Bytes::from_static(b"meow")))
        };
        slots.iter().map(sample).collect()
    }

    #[test]
    fn items_are_in_the_order_of_their_slots_however_they_come() {
        let decode = |sample: RawSample| -> anyhow::Result<u64> { Ok(sample.id().0) };
        let code = UserCode::new(Arc::new(decode), None);
        for calls in [&[&[10, 11, 12][..]][..], &[&[12, 10], &[11]], &[&[12], &[11], &[10]], &[&[12, 11, 10]]] {
            let mut items = code.new_items();
            for slots in calls {
                let decoded = code.decode(samples(slots), None);
                assert_eq!((decoded.bytes, decoded.verified), (4 * slots.len() as u64, slots.len() as u64));
                code.fill(&mut items, FIRST, 3, decoded);
            }
            let data = code.collate(items, &CollateContext::default()).unwrap();
            assert_eq!(*data.downcast::<Vec<u64>>().unwrap(), [0, 1, 2], "{calls:?}");
        }
    }

    #[test]
    fn a_refused_sample_leaves_the_others() {
        let decode = |sample: RawSample| -> anyhow::Result<u64> {
            assert_ne!(sample.id().0, 2, "two");
            anyhow::ensure!(sample.id().0 != 1, "one");
            Ok(7)
        };
        let code = UserCode::new(Arc::new(decode), None);
        let decoded = code.decode(samples(&[10, 11, 12]), None);
        let refused: Vec<_> = decoded.refused.iter().map(|refused| (refused.slot, refused.id.0)).collect();
        assert_eq!((decoded.decoded.len(), refused), (1, vec![(11, 1), (12, 2)]));
        assert_eq!(decoded.refused[0].cause, "one");
        assert!(decoded.refused[1].cause.contains("it panicked"), "{}", decoded.refused[1].cause);

        let mut items = code.new_items();
        code.fill(&mut items, FIRST, 3, decoded);
        assert_eq!(*code.collate(items, &CollateContext::default()).unwrap().downcast::<Vec<u64>>().unwrap(), [7]);
    }
}
