//! The memory that items take, by their types.

use std::any::{Any, TypeId};

use bytes::Bytes;

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
    let measured = values::<u8>(of)
        .or_else(|| values::<i8>(of))
        .or_else(|| values::<u16>(of))
        .or_else(|| values::<i16>(of))
        .or_else(|| values::<u32>(of))
        .or_else(|| values::<i32>(of))
        .or_else(|| values::<u64>(of))
        .or_else(|| values::<i64>(of))
        .or_else(|| values::<f32>(of))
        .or_else(|| values::<f64>(of))
        .or_else(|| text(of));
    #[cfg(feature = "image")]
    let measured = measured.or_else(|| image(of));
    measured.map(ItemSize::Measured)
}

type Measure = fn(&dyn Any) -> u64;

/// A `Vec` of numbers, alone or in a pair with a label.
fn values<N: Any>(of: TypeId) -> Option<Measure> {
    alone::<N>(of)
        .or_else(|| labelled::<N, u8>(of))
        .or_else(|| labelled::<N, i32>(of))
        .or_else(|| labelled::<N, u32>(of))
        .or_else(|| labelled::<N, i64>(of))
        .or_else(|| labelled::<N, u64>(of))
        .or_else(|| labelled::<N, usize>(of))
        .or_else(|| labelled::<N, f32>(of))
        .or_else(|| labelled::<N, String>(of))
}

fn alone<N: Any>(of: TypeId) -> Option<Measure> {
    (of == TypeId::of::<Vec<N>>()).then_some(|item| item.downcast_ref::<Vec<N>>().map_or(0, vec_bytes))
}

fn labelled<N: Any, L: Any>(of: TypeId) -> Option<Measure> {
    (of == TypeId::of::<(Vec<N>, L)>())
        .then_some(|item| item.downcast_ref::<(Vec<N>, L)>().map_or(0, |(values, _)| vec_bytes(values)))
}

fn vec_bytes<N>(values: &Vec<N>) -> u64 {
    (size_of::<Vec<N>>() + values.capacity() * size_of::<N>()) as u64
}

fn text(of: TypeId) -> Option<Measure> {
    (of == TypeId::of::<String>()).then_some(|item| {
        item.downcast_ref::<String>().map_or(0, |text| (size_of::<String>() + text.capacity()) as u64)
    })
}

#[cfg(feature = "image")]
fn image(of: TypeId) -> Option<Measure> {
    image_with::<i64>(of)
        .or_else(|| image_with::<f32>(of))
        .or_else(|| image_with::<Vec<f32>>(of))
        .or_else(|| image_with::<Vec<u8>>(of))
        .or_else(|| image_with::<String>(of))
}

/// An image with a target of type `L`, which isn't counted.
#[cfg(feature = "image")]
fn image_with<L: Any>(of: TypeId) -> Option<Measure> {
    use super::Image;
    (of == TypeId::of::<Image<L>>())
        .then_some(|item| item.downcast_ref::<Image<L>>().map_or(0, |image| image.bitmap.values().len() as u64))
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
    }
}
