//! Types of the numbers of arrays, and arrays from stored bytes.

use anyhow::{Context, Result, bail, ensure};
use ndarray::{ArrayD, IxDyn, ShapeBuilder};

/// More dimensions than any program uses; NumPy has 64 at most.
const MAX_DIMENSIONS: usize = 64;

/// Type of the numbers of an array: `f32`, `f64`, an integer of 8 to 64 bits, or `bool`.
pub trait ArrayElement: sealed::ArrayElement {}

pub(super) mod sealed {
    use ndarray::ArrayD;

    use super::AnyArray;

    pub trait ArrayElement: Copy + Default + PartialEq + std::fmt::Debug + Send + Sync + 'static {
        /// The name of the type, such as `f32`.
        const NAME: &'static str;

        fn from_any(array: AnyArray) -> Result<ArrayD<Self>, AnyArray>;
        fn of_any(array: &AnyArray) -> Option<&ArrayD<Self>>;
        fn into_any(array: ArrayD<Self>) -> AnyArray;
    }
}

macro_rules! elements {
    ($($variant:ident $type:ident $doc:literal)*) => {
        /// An array whose type of numbers is known only from its file.
        #[derive(Clone, Debug, PartialEq)]
        #[non_exhaustive]
        pub enum AnyArray {
            $(#[doc = $doc] $variant(ArrayD<$type>),)*
        }

        impl AnyArray {
            /// The length of each dimension.
            pub fn shape(&self) -> &[usize] {
                match self { $(Self::$variant(array) => array.shape(),)* }
            }

            /// The name of the type of its numbers, such as `f32`.
            pub fn type_name(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($type),)* }
            }

            /// Bytes of its numbers.
            pub(super) fn memory_bytes(&self) -> u64 {
                match self { $(Self::$variant(array) => (array.len() * size_of::<$type>()) as u64,)* }
            }

            /// Stacks arrays of one type and shape along a new first dimension. There is at least one.
            pub(super) fn stack(first: AnyArray, others: Vec<AnyArray>) -> Result<Self> {
                match first {
                    $(Self::$variant(first) => {
                        let mut all = Vec::with_capacity(1 + others.len());
                        all.push(first);
                        for other in others {
                            all.push(other.try_into_array()?);
                        }
                        Ok(Self::$variant(stacked(&all)?))
                    })*
                }
            }
        }

        $(
            impl ArrayElement for $type {}
            impl sealed::ArrayElement for $type {
                const NAME: &'static str = stringify!($type);

                fn from_any(array: AnyArray) -> Result<ArrayD<Self>, AnyArray> {
                    if let AnyArray::$variant(array) = array { Ok(array) } else { Err(array) }
                }

                fn of_any(array: &AnyArray) -> Option<&ArrayD<Self>> {
                    if let AnyArray::$variant(array) = array { Some(array) } else { None }
                }

                fn into_any(array: ArrayD<Self>) -> AnyArray {
                    AnyArray::$variant(array)
                }
            }
        )*
    };
}

elements! {
    Bool bool "Truth values."
    I8 i8 "Integers of 8 bits."
    I16 i16 "Integers of 16 bits."
    I32 i32 "Integers of 32 bits."
    I64 i64 "Integers of 64 bits."
    U8 u8 "Natural numbers of 8 bits."
    U16 u16 "Natural numbers of 16 bits."
    U32 u32 "Natural numbers of 32 bits."
    U64 u64 "Natural numbers of 64 bits."
    F32 f32 "Floats of 32 bits. Those of 16 bits in a file are read to these, which have all their values."
    F64 f64 "Floats of 64 bits."
}

impl AnyArray {
    /// The array, if its numbers are of this type.
    ///
    /// # Errors
    /// They are of another, which the error names.
    pub fn try_into_array<T: ArrayElement>(self) -> Result<ArrayD<T>> {
        T::from_any(self).or_else(|array| bail!("{}", other_type::<T>(&array)))
    }

    /// The same without moving it.
    ///
    /// # Errors
    /// As [`try_into_array`](Self::try_into_array).
    pub fn try_as_array<T: ArrayElement>(&self) -> Result<&ArrayD<T>> {
        T::of_any(self).with_context(|| other_type::<T>(self))
    }
}

fn other_type<T: ArrayElement>(array: &AnyArray) -> String {
    format!("its numbers are {}, not {}; ask for {0}, and convert them yourself", array.type_name(), T::NAME)
}

impl<T: ArrayElement> From<ArrayD<T>> for AnyArray {
    fn from(array: ArrayD<T>) -> Self {
        T::into_any(array)
    }
}

/// The arrays in a row. Without any, the result has the shape (0).
pub(super) fn stacked<T: ArrayElement>(arrays: &[ArrayD<T>]) -> Result<ArrayD<T>> {
    let shape = arrays.first().map_or(&[][..], ArrayD::shape);
    let mut values = Vec::with_capacity(arrays.iter().map(ArrayD::len).sum());
    for (index, array) in arrays.iter().enumerate() {
        if array.shape() != shape {
            bail!(
                "arrays of two shapes don't stack: that of sample {index} of the batch has {:?}, and that of sample 0 \
                 {shape:?}; bring all to one shape in a closure, or collate them otherwise",
                array.shape()
            );
        }
        match array.as_slice() {
            Some(slice) => values.extend_from_slice(slice),
            None => values.extend(array.iter().copied()),
        }
    }
    let shape: Vec<usize> = std::iter::once(arrays.len()).chain(shape.iter().copied()).collect();
    ArrayD::from_shape_vec(IxDyn(&shape), values).context("a batch has more numbers than an array can have")
}

/// How numbers are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StoredType {
    Bool,
    I8,
    I16,
    I32,
    I64,
    U8,
    U16,
    U32,
    U64,
    F16,
    Bf16,
    F32,
    F64,
}

impl StoredType {
    /// Bytes of a stored number.
    pub(super) fn stored_bytes(self) -> usize {
        match self {
            Self::Bool | Self::I8 | Self::U8 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::I64 | Self::U64 | Self::F64 => 8,
        }
    }

    /// Bytes of a number in an [`AnyArray`].
    pub(super) fn array_bytes(self) -> usize {
        match self {
            Self::F16 | Self::Bf16 => 4,
            other => other.stored_bytes(),
        }
    }
}

impl StoredType {
    /// How many times as large the array is as the stored numbers: floats of 16 bits become those of 32.
    pub(super) fn growth(self) -> u64 {
        (self.array_bytes() / self.stored_bytes()) as u64
    }
}

/// What the header of a file says of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ArrayHeader {
    pub(super) stored: StoredType,
    pub(super) is_big_endian: bool,
    /// Whether the first index changes fastest.
    pub(super) is_fortran: bool,
    pub(super) shape: Vec<usize>,
}

impl ArrayHeader {
    /// Bytes of all numbers, as stored.
    ///
    /// # Errors
    /// There are too many for this machine to count, or too many dimensions.
    pub(super) fn stored_bytes(&self) -> Result<usize> {
        let shape = &self.shape;
        ensure!(
            shape.len() <= MAX_DIMENSIONS,
            "its header claims {} dimensions, and {MAX_DIMENSIONS} are supported",
            shape.len()
        );
        // Dimensions of no length don't excuse others that can't be counted.
        let mut nonzero = shape.iter().filter(|length| **length > 0);
        let bytes = nonzero
            .try_fold(self.stored.array_bytes(), |product, length| product.checked_mul(*length))
            .filter(|bytes| isize::try_from(*bytes).is_ok())
            .with_context(|| format!("its header claims the shape {shape:?}, which no memory can hold"))?;
        let bytes = if shape.contains(&0) { 0 } else { bytes };
        Ok(bytes / self.stored.array_bytes() * self.stored.stored_bytes())
    }

    /// Makes the array of its numbers.
    ///
    /// # Errors
    /// `bytes` aren't as many as the header claims.
    pub(super) fn read(self, bytes: &[u8]) -> Result<AnyArray> {
        let wanted = self.stored_bytes()?;
        ensure!(
            bytes.len() == wanted,
            "its numbers have {} bytes and should have {wanted}, by its shape {:?} of {:?}; {}",
            bytes.len(),
            self.shape,
            self.stored,
            if bytes.len() < wanted { "it is cut short: upload it again" } else { "its header is damaged" }
        );
        match self.stored {
            StoredType::Bool => self.array(bytes, |[byte]| byte != 0, |[byte]| byte != 0),
            StoredType::I8 => self.array(bytes, i8::from_le_bytes, i8::from_be_bytes),
            StoredType::I16 => self.array(bytes, i16::from_le_bytes, i16::from_be_bytes),
            StoredType::I32 => self.array(bytes, i32::from_le_bytes, i32::from_be_bytes),
            StoredType::I64 => self.array(bytes, i64::from_le_bytes, i64::from_be_bytes),
            StoredType::U8 => self.array(bytes, u8::from_le_bytes, u8::from_be_bytes),
            StoredType::U16 => self.array(bytes, u16::from_le_bytes, u16::from_be_bytes),
            StoredType::U32 => self.array(bytes, u32::from_le_bytes, u32::from_be_bytes),
            StoredType::U64 => self.array(bytes, u64::from_le_bytes, u64::from_be_bytes),
            StoredType::F16 => {
                self.array(bytes, |half| widened(u16::from_le_bytes(half)), |half| widened(u16::from_be_bytes(half)))
            }
            StoredType::Bf16 => {
                let of = |bits: u16| f32::from_bits(u32::from(bits) << 16);
                self.array(bytes, |half| of(u16::from_le_bytes(half)), |half| of(u16::from_be_bytes(half)))
            }
            StoredType::F32 => self.array(bytes, f32::from_le_bytes, f32::from_be_bytes),
            StoredType::F64 => self.array(bytes, f64::from_le_bytes, f64::from_be_bytes),
        }
    }

    fn array<T: ArrayElement, const N: usize>(
        self,
        bytes: &[u8],
        from_little: impl Fn([u8; N]) -> T,
        from_big: impl Fn([u8; N]) -> T,
    ) -> Result<AnyArray> {
        let (numbers, _) = bytes.as_chunks::<N>();
        let values: Vec<T> = if self.is_big_endian {
            numbers.iter().map(|number| from_big(*number)).collect()
        } else {
            numbers.iter().map(|number| from_little(*number)).collect()
        };
        let shape = IxDyn(&self.shape);
        let array = ArrayD::from_shape_vec(shape.set_f(self.is_fortran), values)
            .with_context(|| format!("its header claims the shape {:?}, which no array can have", self.shape))?;
        Ok(T::into_any(array))
    }
}

/// The value of a float of 16 bits (IEEE 754 binary16).
fn widened(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let exponent = u32::from(half >> 10 & 0x1f);
    let fraction = u32::from(half & 0x3ff);
    let magnitude = match exponent {
        // Below the smallest normal number, fractions count in steps of 2^-24.
        0 => (fraction as f32 * (-24_f32).exp2()).to_bits(),
        0x1f => 0x7f80_0000 | fraction << 13,
        _ => (exponent + 127 - 15) << 23 | fraction << 13,
    };
    f32::from_bits(sign | magnitude)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(stored: StoredType, shape: &[usize]) -> ArrayHeader {
        ArrayHeader { stored, is_big_endian: false, is_fortran: false, shape: shape.to_vec() }
    }

    #[test]
    fn floats_of_16_bits_are_widened_exactly() {
        let cases = [
            (0x0000, 0.0),
            (0x8000, -0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x7bff, 65_504.0),
            (0x0001, 2.0_f32.powi(-24)),
            (0x03ff, 1_023.0 * 2.0_f32.powi(-24)),
            (0x0400, 2.0_f32.powi(-14)),
            (0x3555, 0.333_251_95),
            (0x7c00, f32::INFINITY),
            (0xfc00, f32::NEG_INFINITY),
        ];
        for (half, wanted) in cases {
            assert_eq!(widened(half).to_bits(), wanted.to_bits(), "{half:#x}");
        }
        assert!(widened(0x7e00).is_nan() && widened(0x7c01).is_nan());
        let bf16 = header(StoredType::Bf16, &[2]).read(&[0x80, 0x3f, 0xc0, 0x7f]).unwrap();
        let bf16 = bf16.try_into_array::<f32>().unwrap();
        assert_eq!(bf16[0].to_bits(), 1_f32.to_bits());
        assert!(bf16[1].is_nan());
    }

    #[test]
    fn shapes_that_no_memory_holds_are_errors() {
        let bytes_of = |shape: &[usize]| header(StoredType::F16, shape).stored_bytes();
        assert_eq!(bytes_of(&[]).unwrap(), 2);
        assert_eq!(bytes_of(&[3, 0]).unwrap(), 0);
        assert_eq!(bytes_of(&[3, 4]).unwrap(), 24);
        for shape in [&[usize::MAX][..], &[1 << 60, 8], &[0, 1 << 60, 8], &[1 << 32, 1 << 32], &[1 << 61]] {
            assert!(bytes_of(shape).unwrap_err().to_string().contains("no memory can hold"), "{shape:?}");
        }
        assert!(bytes_of(&[1; 65]).unwrap_err().to_string().contains("65 dimensions"));
        let error = header(StoredType::U8, &[1 << 60]).read(b"cat").unwrap_err().to_string();
        assert!(error.contains("have 3 bytes and should have 1152921504606846976"), "{error}");
    }

    #[test]
    fn another_type_is_named() {
        let array = header(StoredType::I16, &[1]).read(&[1, 0]).unwrap();
        assert_eq!(array.type_name(), "i16");
        let error = array.try_as_array::<f32>().unwrap_err().to_string();
        assert!(error.contains("are i16, not f32; ask for i16"), "{error}");
        assert!(array.clone().try_into_array::<f32>().is_err());
        assert_eq!(array.try_into_array::<i16>().unwrap()[0], 1);
    }
}
