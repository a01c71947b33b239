//! The memory that items take, by their types.

use std::any::{Any, TypeId};

use bytes::Bytes;
use ndarray::{Array, Dimension, Ix1, Ix2, IxDyn};

use super::{CsvTable, NamedArrays};
use crate::read::RawSample;

/// How the memory that an item takes is known from its type.
#[derive(Clone, Copy, Debug)]
pub(crate) enum ItemSize {
    /// The item takes the object's own bytes and no more.
    Bytes,
    /// The item takes this many bytes, whatever its value.
    Fixed(u64),
    /// The function measures an item.
    Measured(fn(&dyn Any) -> u64),
}

/// How the memory of items of type `T` is known; `None` for other types.
pub(crate) fn item_size<T: Any>() -> Option<ItemSize> {
    let of = TypeId::of::<T>();
    if of == TypeId::of::<RawSample>() || of == TypeId::of::<Bytes>() {
        return Some(ItemSize::Bytes);
    }
    if !std::mem::needs_drop::<T>() {
        // The item owns no memory outside itself.
        return Some(ItemSize::Fixed(size_of::<T>() as u64));
    }
    measure_of(of).map(ItemSize::Measured)
}

type Measure = fn(&dyn Any) -> u64;

/// Measures items of the type `of`, if it is one that is known. Not generic, so that it is compiled in this crate.
fn measure_of(of: TypeId) -> Option<Measure> {
    let measured = numbers::<u8>(of)
        .or_else(|| numbers::<i8>(of))
        .or_else(|| numbers::<u16>(of))
        .or_else(|| numbers::<i16>(of))
        .or_else(|| numbers::<u32>(of))
        .or_else(|| numbers::<i32>(of))
        .or_else(|| numbers::<u64>(of))
        .or_else(|| numbers::<i64>(of))
        .or_else(|| numbers::<f32>(of))
        .or_else(|| numbers::<f64>(of))
        .or_else(|| numbers::<bool>(of))
        .or_else(|| known::<String>(of))
        .or_else(|| known::<NamedArrays>(of))
        .or_else(|| known::<CsvTable>(of));
    #[cfg(feature = "audio")]
    let measured = measured.or_else(|| known::<super::Audio>(of));
    #[cfg(feature = "image")]
    let measured = measured.or_else(|| image(of));
    measured
}

/// An item whose memory is known.
trait OwnedMemory: Any {
    /// Bytes that the item takes.
    fn owned_bytes(&self) -> u64;
}

impl<N: Any> OwnedMemory for Vec<N> {
    fn owned_bytes(&self) -> u64 {
        (size_of::<Self>() + self.capacity() * size_of::<N>()) as u64
    }
}

impl<N: Any, D: Dimension + Any> OwnedMemory for Array<N, D> {
    fn owned_bytes(&self) -> u64 {
        (self.len() * size_of::<N>()) as u64
    }
}

impl OwnedMemory for String {
    fn owned_bytes(&self) -> u64 {
        (size_of::<Self>() + self.capacity()) as u64
    }
}

impl OwnedMemory for NamedArrays {
    fn owned_bytes(&self) -> u64 {
        self.memory_bytes()
    }
}

impl OwnedMemory for CsvTable {
    fn owned_bytes(&self) -> u64 {
        self.memory_bytes()
    }
}

#[cfg(feature = "audio")]
impl OwnedMemory for super::Audio {
    fn owned_bytes(&self) -> u64 {
        (self.samples.capacity() * size_of::<f32>()) as u64
    }
}

/// Numbers in a `Vec` or an array.
fn numbers<N: Any>(of: TypeId) -> Option<Measure> {
    known::<Vec<N>>(of)
        .or_else(|| known::<Array<N, IxDyn>>(of))
        .or_else(|| known::<Array<N, Ix1>>(of))
        .or_else(|| known::<Array<N, Ix2>>(of))
}

/// A `V`, alone or in a pair with a label, which isn't counted.
fn known<V: OwnedMemory>(of: TypeId) -> Option<Measure> {
    let alone: Measure = |item| item.downcast_ref().map_or(0, V::owned_bytes);
    (of == TypeId::of::<V>())
        .then_some(alone)
        .or_else(|| labelled::<V, u8>(of))
        .or_else(|| labelled::<V, i32>(of))
        .or_else(|| labelled::<V, u32>(of))
        .or_else(|| labelled::<V, i64>(of))
        .or_else(|| labelled::<V, u64>(of))
        .or_else(|| labelled::<V, usize>(of))
        .or_else(|| labelled::<V, f32>(of))
        .or_else(|| labelled::<V, String>(of))
        .or_else(|| labelled::<V, Option<u32>>(of))
}

fn labelled<V: OwnedMemory, L: Any>(of: TypeId) -> Option<Measure> {
    (of == TypeId::of::<(V, L)>())
        .then_some(|item| item.downcast_ref::<(V, L)>().map_or(0, |(value, _)| value.owned_bytes()))
}

#[cfg(feature = "image")]
fn image(of: TypeId) -> Option<Measure> {
    images::<i64>(of)
        .or_else(|| images::<i32>(of))
        .or_else(|| images::<u32>(of))
        .or_else(|| images::<u8>(of))
        .or_else(|| images::<f32>(of))
        .or_else(|| images::<f64>(of))
        .or_else(|| known::<super::Image<String>>(of))
}

/// An image with a target of one or several numbers, which aren't counted.
#[cfg(feature = "image")]
fn images<N: Any>(of: TypeId) -> Option<Measure> {
    known::<super::Image<N>>(of).or_else(|| known::<super::Image<Vec<N>>>(of))
}

#[cfg(feature = "image")]
impl<L: Any> OwnedMemory for super::Image<L> {
    fn owned_bytes(&self) -> u64 {
        self.bitmap.values().len() as u64
    }
}

/// Working memory of a decoder that makes a `T` of this object and states none itself, such as a closure, as far as is
/// known. If it makes an image, this is the
/// memory that decoding the object to RGB takes; how the closure resizes is unknown.
#[cfg_attr(
    not(feature = "image"),
    expect(clippy::extra_unused_type_parameters, reason = "only images have working memory that is known")
)]
pub(crate) fn scratch_of<T: Any>(sample: &RawSample) -> u64 {
    #[cfg(feature = "image")]
    if image(TypeId::of::<T>()).is_some() {
        return crate::pixels::header::ImageHeader::read(sample.bytes()).map_or(0, |header| header.decoding_bytes(3));
    }
    let _ = sample;
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_size_of_items_is_known_from_their_type() {
        struct Own {
            _name: String,
        }
        assert!(item_size::<Own>().is_none());
        assert!(matches!(item_size::<RawSample>(), Some(ItemSize::Bytes)));
        assert!(matches!(item_size::<u64>(), Some(ItemSize::Fixed(8))));
        assert!(matches!(item_size::<([f32; 2], bool)>(), Some(ItemSize::Fixed(12))));
        let measured = |size: Option<ItemSize>, item: &dyn Any| match size {
            Some(ItemSize::Measured(measure)) => measure(item),
            other => panic!("{other:?}"),
        };
        let values: Vec<f32> = Vec::with_capacity(1_000);
        let of_vec = size_of::<Vec<f32>>() as u64;
        assert_eq!(measured(item_size::<Vec<f32>>(), &values), 4_000 + of_vec);
        assert_eq!(measured(item_size::<(Vec<f32>, i64)>(), &(values, 3_i64)), 4_000 + of_vec);
        assert_eq!(measured(item_size::<String>(), &"meow".to_owned()), 4 + size_of::<String>() as u64);
        let array = ndarray::Array2::<f32>::zeros((3, 5));
        assert_eq!(measured(item_size::<(ndarray::ArrayD<f32>, i64)>(), &(array.clone().into_dyn(), 3_i64)), 60);
        let mut arrays = NamedArrays::new();
        arrays.insert("x", array.clone().into_dyn());
        arrays.insert("y", ndarray::array![1_i64].into_dyn());
        assert_eq!(measured(item_size::<NamedArrays>(), &arrays), 68);
        assert_eq!(measured(item_size::<ndarray::Array2<f32>>(), &array), 60);
    }
}
