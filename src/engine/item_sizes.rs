//! Decides when the memory of a decoded item is known, and who reports it.

use std::any::Any;
use std::sync::Mutex;

use super::decode_gate::{DecodeLimits, DecodeNeed};
use crate::collate::Collate;
use crate::decode::{Decode, ItemMemory, ItemSize, item_size, scratch_of};
use crate::lock::lock;
use crate::read::RawSample;

/// The size of items to come is estimated as the largest of the last 256 to 512: so many that a batch of usual size has
/// its like among them, so few that a single item much larger than all others is soon forgotten.
const REMEMBERED_ITEMS: usize = 256;

/// The parts of a memory budget.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MemoryShares {
    /// Bytes that the planner takes from.
    pub(crate) reading: u64,
    /// What the gate before the decoder may grant, if there is a gate.
    pub(crate) decoding: Option<DecodeLimits>,
}

/// Memory that an item takes until its batch is delivered, as known before its object is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlannedItem {
    /// Whether the item holds the object's own bytes, or nobody knows that it doesn't.
    pub(crate) keeps_object: bool,
    /// Other bytes: of the item, and of its copy in the batch.
    pub(crate) own: u64,
}

/// How the memory of items is counted.
pub(crate) struct ItemSizes {
    mode: ItemSizeMode,
    finished: Mutex<LargestItems>,
}

#[derive(Clone, Copy, Debug)]
enum ItemSizeMode {
    /// `Decode::item_bytes` computes it from the object's size, and the planner reserves it before the object is read.
    FromSize,
    /// The user stated it for all items, and the planner reserves it before the object is read.
    Stated(u64),
    /// The headers in the object's bytes state it, and the gate grants it between reading and decoding. The function
    /// measures items of which they said too little or the wrong thing, if their type is known.
    FromBytes(Option<fn(&dyn Any) -> u64>),
    /// As `FromBytes`, but estimated from items that are finished.
    Measured(fn(&dyn Any) -> u64),
    /// Nobody knows it: samples are counted instead.
    Unknown,
}

/// The largest item of the last two windows of [`REMEMBERED_ITEMS`] items.
#[derive(Debug, Default)]
struct LargestItems {
    before: Option<u64>,
    now: Option<u64>,
    finished: usize,
}

impl LargestItems {
    fn add(&mut self, item: u64) {
        self.now = self.now.max(Some(item));
        self.finished += 1;
        if self.finished == REMEMBERED_ITEMS {
            (self.before, self.now, self.finished) = (self.now, None, 0);
        }
    }

    fn largest(&self) -> Option<u64> {
        self.before.max(self.now)
    }
}

impl ItemSizes {
    pub(crate) fn new<D: Decode>(decode: &D, stated: Option<u64>) -> Self {
        let mode = match (stated, decode.item_memory()) {
            (Some(bytes), _) => ItemSizeMode::Stated(bytes),
            // A light decoder runs on the network's threads and passes no gate, so the planner reserves its memory.
            _ if decode.is_light() => ItemSizeMode::FromSize,
            (None, ItemMemory::FromSize) => ItemSizeMode::FromSize,
            (None, ItemMemory::FromBytes) => ItemSizeMode::FromBytes(match item_size::<D::Item>() {
                Some(ItemSize::Measured(measure)) => Some(measure),
                _ => None,
            }),
            (None, ItemMemory::FromItems) => match item_size::<D::Item>() {
                Some(ItemSize::Bytes) => ItemSizeMode::FromSize,
                Some(ItemSize::Fixed(bytes)) => ItemSizeMode::Stated(bytes),
                Some(ItemSize::Measured(measure)) => ItemSizeMode::Measured(measure),
                None => ItemSizeMode::Unknown,
            },
        };
        Self { mode, finished: Mutex::default() }
    }

    /// Divides the memory budget between the planner and the gate.
    pub(crate) fn divide(&self, budget: u64, batch_size: u64, decode_threads: usize) -> MemoryShares {
        match self.mode {
            ItemSizeMode::FromSize | ItemSizeMode::Stated(_) => MemoryShares { reading: budget, decoding: None },
            ItemSizeMode::FromBytes(_) | ItemSizeMode::Measured(_) => {
                let (reading, limits) = DecodeLimits::of_budget(budget);
                MemoryShares { reading, decoding: Some(limits) }
            }
            ItemSizeMode::Unknown => {
                let limits = DecodeLimits::of_samples(batch_size, decode_threads as u64);
                MemoryShares { reading: budget, decoding: Some(limits) }
            }
        }
    }

    /// Whether the bytes read are released after decoding, because the gate counts the item instead.
    pub(crate) fn counts_items_later(&self) -> bool {
        matches!(self.mode, ItemSizeMode::FromBytes(_) | ItemSizeMode::Measured(_))
    }

    /// Bytes that the planner reserves for the item of an object of `size` bytes, as far as they are known before the
    /// object is read.
    pub(crate) fn planned<D: Decode, C: Collate<D::Item>>(&self, decode: &D, collate: &C, size: u64) -> PlannedItem {
        let stated = match self.mode {
            ItemSizeMode::FromSize => decode.item_bytes(size),
            ItemSizeMode::Stated(item) => Some(item),
            ItemSizeMode::FromBytes(_) | ItemSizeMode::Measured(_) | ItemSizeMode::Unknown => {
                return PlannedItem { keeps_object: true, own: 0 };
            }
        };
        let copied = collate.copied_bytes(stated.unwrap_or(size));
        PlannedItem { keeps_object: stated.is_none(), own: stated.unwrap_or(0).saturating_add(copied) }
    }

    /// Memory that a sample needs to be decoded, in a batch of `samples` under these `limits`.
    pub(crate) fn need<D: Decode, C: Collate<D::Item>>(
        &self,
        decode: &D,
        collate: &C,
        sample: &RawSample,
        samples: usize,
        limits: DecodeLimits,
    ) -> DecodeNeed {
        match self.mode {
            ItemSizeMode::FromSize | ItemSizeMode::Stated(_) => DecodeNeed::default(),
            ItemSizeMode::Unknown => DecodeNeed { item: 1, batch: 1, ..DecodeNeed::default() },
            ItemSizeMode::FromBytes(measure) => {
                // Where the headers can't be read, decoding fails and needs no memory.
                let memory = decode.decode_memory(sample).unwrap_or_default();
                if !memory.is_estimate {
                    return DecodeNeed { scratch: memory.scratch, ..of_item(memory.item, collate) };
                }
                // Many samples may be granted before one is finished, so the decoder's guess isn't enough for the
                // first.
                let item = if measure.is_some() { self.lately().max(memory.item) } else { memory.item };
                let scratch = memory.scratch.min(limits.batch() / 2);
                estimated(of_item(item, collate), scratch, samples, limits)
            }
            ItemSizeMode::Measured(_) => {
                let stated = decode.decode_memory(sample).map(|memory| memory.scratch);
                let scratch = stated.unwrap_or_else(|| scratch_of::<D::Item>(sample));
                estimated(of_item(self.lately(), collate), scratch, samples, limits)
            }
        }
    }

    /// The largest of the items that were measured lately. Until the first one is, it is more than any share of a
    /// batch.
    fn lately(&self) -> u64 {
        lock(&self.finished).largest().unwrap_or(u64::MAX / 4)
    }

    /// Returns the memory that a decoded item takes, and records it for later estimates.
    pub(crate) fn finished<D: Decode, C: Collate<D::Item>>(
        &self,
        collate: &C,
        granted: DecodeNeed,
        item: &D::Item,
    ) -> DecodeNeed {
        match self.mode {
            ItemSizeMode::Measured(measure) => {
                let bytes = measure(item);
                lock(&self.finished).add(bytes);
                of_item(bytes, collate)
            }
            ItemSizeMode::FromBytes(Some(measure)) => {
                let bytes = measure(item);
                if granted.is_estimate {
                    lock(&self.finished).add(bytes);
                }
                // The decompressed size in a header may be a lie; the little that buffers have beyond their contents
                // is none.
                let is_lie = bytes > granted.item.saturating_add(granted.item / 8).saturating_add(4_096);
                if granted.is_estimate || is_lie { of_item(bytes, collate) } else { granted.decoded() }
            }
            _ => granted.decoded(),
        }
    }
}

/// A need that is estimated, for a sample in a batch of `samples` under these `limits`.
///
/// An estimate must never make a request fail, so it is bounded by the sample's share of the limit for a batch.
fn estimated(need: DecodeNeed, scratch: u64, samples: usize, limits: DecodeLimits) -> DecodeNeed {
    let share = limits.batch().saturating_sub(scratch) / samples.max(1) as u64;
    if need.lasting() <= share {
        DecodeNeed { scratch, is_estimate: true, ..need }
    } else {
        DecodeNeed { item: share.div_ceil(2), copy: share / 2, batch: share, scratch, is_estimate: true, ..need }
    }
}

fn of_item<T, C: Collate<T>>(item: u64, collate: &C) -> DecodeNeed {
    DecodeNeed {
        item,
        copy: collate.copied_bytes(item),
        batch: collate.batch_bytes(item),
        is_padded: collate.pads_to_largest(),
        ..DecodeNeed::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collate::Samples;
    use crate::decode::Raw;

    #[test]
    fn the_copy_in_the_batch_is_planned_also_for_items_that_keep_their_objects() {
        let planned = |collates: bool| {
            let sizes = ItemSizes::new(&Raw, None);
            let concatenate =
                |samples: Vec<RawSample>| Ok(samples.iter().map(|sample| sample.bytes().len()).sum::<usize>());
            if collates { sizes.planned(&Raw, &concatenate, 100) } else { sizes.planned(&Raw, &Samples, 100) }
        };
        assert_eq!(planned(false), PlannedItem { keeps_object: true, own: 0 });
        assert_eq!(planned(true), PlannedItem { keeps_object: true, own: 100 });
    }

    #[test]
    fn one_large_item_is_forgotten() {
        let mut items = LargestItems::default();
        assert_eq!(items.largest(), None);
        items.add(1_000);
        for _ in 0..REMEMBERED_ITEMS {
            items.add(10);
            assert_eq!(items.largest(), Some(1_000));
        }
        (0..REMEMBERED_ITEMS).for_each(|_| items.add(10));
        assert_eq!(items.largest(), Some(10));
    }
}
