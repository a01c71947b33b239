//! Tuples of decoders, for samples of several parts: each part is decoded by its own.

use anyhow::{Context, anyhow};

use super::{Decode, DecodeMemory, ItemMemory, scratch_of};
use crate::read::RawSample;

macro_rules! decode_tuples {
    ($($decode:ident $number:tt),+) => {
        /// Decodes samples of several [parts](crate::DatafluxDataset::parts): each decoder decodes the part at its own
        /// place, and parts behind the last decoder are ignored. The item is the tuple of the decoders' items, and a
        /// batch the tuple of their batches, which [`unzip`](crate::Batch::unzip) separates.
        impl<$($decode: Decode),+> Decode for ($($decode,)+) {
            type Item = ($($decode::Item,)+);
            type Collate = ($($decode::Collate,)+);

            fn decode(&self, sample: RawSample) -> anyhow::Result<Self::Item> {
                const DECODERS: usize = [$($number),+].len();
                if sample.part_count() < DECODERS {
                    return Err(too_few_parts(&sample, DECODERS));
                }
                Ok(($(decode_part(&self.$number, &sample, $number)?,)+))
            }

            fn collate(&self) -> Self::Collate {
                ($(self.$number.collate(),)+)
            }

            fn item_memory(&self) -> ItemMemory {
                let all = [$(self.$number.item_memory()),+];
                if all.contains(&ItemMemory::FromBytes) {
                    // An image in it counts, whatever the other parts are: those are estimated.
                    ItemMemory::FromBytes
                } else if all.contains(&ItemMemory::FromItems) {
                    ItemMemory::FromItems
                } else {
                    ItemMemory::FromSize
                }
            }

            /// The size is that of all parts together, so this is what the item takes at most.
            fn item_bytes(&self, size: u64) -> Option<u64> {
                let all = [$(self.$number.item_bytes(size)),+];
                let is_own = all.iter().any(Option::is_some);
                is_own.then(|| all.iter().fold(0, |sum: u64, item| sum.saturating_add(item.unwrap_or(size))))
            }

            fn decode_memory(&self, sample: &RawSample) -> Option<DecodeMemory> {
                let mut memory = DecodeMemory::default();
                $(
                    let part = part_memory(&self.$number, sample, $number)?;
                    memory.item = memory.item.saturating_add(part.item);
                    // Parts are decoded one after another.
                    memory.scratch = memory.scratch.max(part.scratch);
                    memory.is_estimate |= part.is_estimate;
                )+
                Some(memory)
            }

            /// The first part names the sample.
            fn wants_images(&self) -> bool {
                self.0.wants_images()
            }

            /// All parts have the label of the sample.
            fn wants_labels(&self) -> bool {
                $(self.$number.wants_labels())||+
            }

            fn is_light(&self) -> bool {
                $(self.$number.is_light())&&+
            }
        }
    };
}

decode_tuples!(A 0, B 1);
decode_tuples!(A 0, B 1, C 2);

/// The error of a sample that has fewer parts than there are decoders.
pub(super) fn too_few_parts(sample: &RawSample, wanted: usize) -> anyhow::Error {
    anyhow!(
        "its sample has {} of the {wanted} parts that are to be decoded: name the objects of a sample with \
         DatafluxDataset::parts, before decode",
        sample.part_count()
    )
}

/// Decodes one part; an error names its object.
fn decode_part<D: Decode>(decode: &D, sample: &RawSample, number: usize) -> anyhow::Result<D::Item> {
    let part = sample.part(number).ok_or_else(|| too_few_parts(sample, number + 1))?;
    let name = number_and_name(&part, number);
    decode.decode(part).with_context(name)
}

/// How errors name a part. The object of an error is the first part, which names the sample.
pub(super) fn number_and_name(part: &RawSample, number: usize) -> impl Fn() -> String + use<> {
    let name = std::sync::Arc::clone(&part.entry().name);
    move || if number == 0 { "the first part".to_owned() } else { format!("its part {name}") }
}

/// Memory that decoding one part takes. `None` if that isn't known because it can't be decoded.
fn part_memory<D: Decode>(decode: &D, sample: &RawSample, number: usize) -> Option<DecodeMemory> {
    let part = sample.part(number)?;
    match decode.item_memory() {
        ItemMemory::FromSize => {
            // An item that holds its part's bytes holds those of the other parts, too.
            let item = decode.item_bytes(part.bytes().len() as u64).unwrap_or(sample.all_bytes().len() as u64);
            Some(DecodeMemory { item, scratch: 0, is_estimate: false })
        }
        ItemMemory::FromBytes => decode.decode_memory(&part),
        ItemMemory::FromItems => {
            let stated = decode.decode_memory(&part).map(|memory| memory.scratch);
            let scratch = stated.unwrap_or_else(|| scratch_of::<D::Item>(&part));
            Some(DecodeMemory { item: part.bytes().len() as u64, scratch, is_estimate: true })
        }
    }
}
