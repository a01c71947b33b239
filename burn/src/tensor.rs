//! Tensors of numbers: which kind and type of numbers each becomes, and tensors whose rank is known only from the data.

use anyhow::{Result, bail, ensure};
use burn_core::tensor::kind::{Basic, Kind, TensorKind};
use burn_core::tensor::{Bool, DType, Device, Element, Float, Int, Tensor, TensorData};
use dataflux::ArrayElement;
use ndarray::{Array, Dimension};

/// A type of numbers that burn has tensors of.
///
/// `f32` becomes the device's type of floats, `i64` its type of integers, and `bool` its type of truth values, which
/// the networks and metrics of burn use, too: on the CPU `f32` and `i32`, unless the program configures others. All
/// other types stay as they are, unless the device lacks them; then they become the device's. An integer that its type
/// can't hold is an error.
pub trait BurnNumber: Element + ArrayElement + sealed::Sealed {
    /// `Float`, `Int` or `Bool`.
    type Kind: Basic + TensorKind + 'static;
}

mod sealed {
    pub trait Sealed {
        /// Whether tensors of these numbers take the type that the device has for their kind.
        const TAKES_DEVICE_TYPE: bool;

        /// The number, if it is an integer.
        fn integer(self) -> Option<i128>;
    }
}

macro_rules! numbers {
    ($($type:ident $kind:ident $takes_device_type:literal $integer:expr;)*) => {$(
        impl BurnNumber for $type {
            type Kind = $kind;
        }
        impl sealed::Sealed for $type {
            const TAKES_DEVICE_TYPE: bool = $takes_device_type;

            fn integer(self) -> Option<i128> {
                let integer: fn($type) -> Option<i128> = $integer;
                integer(self)
            }
        }
    )*};
}

numbers! {
    bool Bool true |_| None;
    i8 Int false |value| Some(value.into());
    i16 Int false |value| Some(value.into());
    i32 Int false |value| Some(value.into());
    i64 Int true |value| Some(value.into());
    u8 Int false |value| Some(value.into());
    u16 Int false |value| Some(value.into());
    u32 Int false |value| Some(value.into());
    u64 Int false |value| Some(value.into());
    f32 Float true |_| None;
    f64 Float false |_| None;
}

/// Checks that integers fit into the type of a device, since burn would change them without a word.
///
/// # Errors
/// One doesn't fit.
fn check_integers<N: BurnNumber>(values: &[N], device_type: DType) -> Result<()> {
    let range = match device_type {
        DType::I8 => i8::MIN.into()..=i8::MAX.into(),
        DType::I16 => i16::MIN.into()..=i16::MAX.into(),
        DType::I32 => i32::MIN.into()..=i32::MAX.into(),
        DType::I64 => i64::MIN.into()..=i64::MAX.into(),
        DType::U8 => 0..=u8::MAX.into(),
        DType::U16 => 0..=u16::MAX.into(),
        DType::U32 => 0..=u32::MAX.into(),
        _ => 0..=i128::from(u64::MAX),
    };
    let integers = values.iter().filter_map(|value| value.integer());
    if let Some(integer) = { integers }.find(|integer| !range.contains(integer)) {
        bail!(
            "an integer doesn't fit into the device's type: wanted {} to {} ({device_type:?}), got {integer}; let the \
             decoder return another type, or configure integers of 64 bits with Device::configure",
            range.start(),
            range.end()
        );
    }
    Ok(())
}

/// Makes a tensor of `values`, whose memory it takes.
///
/// # Errors
/// There are more or fewer of them than the shape says.
pub(crate) fn tensor<N: BurnNumber, const D: usize>(
    values: Vec<N>,
    shape: [usize; D],
    device: &Device,
) -> Result<Tensor<D, N::Kind>> {
    let wanted: usize = shape.iter().product();
    ensure!(values.len() == wanted, "a batch of shape {shape:?} has {} numbers instead of {wanted}", values.len());
    if !N::TAKES_DEVICE_TYPE && device.supports_dtype(N::dtype()) {
        return Ok(Tensor::from_data(TensorData::new(values, shape), (device, N::dtype())));
    }
    if <N::Kind as TensorKind>::KIND == Kind::Int && N::dtype() != device.settings().int_dtype.into() {
        check_integers(&values, device.settings().int_dtype.into())?;
    }
    Ok(Tensor::from_data(TensorData::new(values, shape), device))
}

/// The numbers of an array, whose last index changes fastest, and its shape. Arrays that were stacked aren't copied.
fn row_major<N: ArrayElement, D: Dimension>(array: Array<N, D>) -> (Vec<N>, Vec<usize>) {
    let (shape, count) = (array.shape().to_vec(), array.len());
    if !array.is_standard_layout() {
        return (array.iter().copied().collect(), shape);
    }
    let (mut values, offset) = array.into_raw_vec_and_offset();
    values.drain(..offset.unwrap_or_default());
    values.truncate(count);
    (values, shape)
}

/// A tensor of an array whose rank is known.
#[cfg(feature = "image")]
pub(crate) fn array_tensor<N: BurnNumber, S: Dimension, const D: usize>(
    array: Array<N, S>,
    device: &Device,
) -> Result<Tensor<D, N::Kind>> {
    ArrayTensor::of(array, device)?.into_tensor()
}

/// A tensor on its device whose rank is known only from the data: that of stacked arrays.
///
/// The rank is in the type of a tensor of burn, so say what it is: [`into_tensor`](Self::into_tensor).
#[derive(Clone, Debug)]
pub struct ArrayTensor<K: Basic = Float> {
    numbers: Tensor<1, K>,
    shape: Vec<usize>,
}

impl<K: Basic> ArrayTensor<K> {
    pub(crate) fn of<N: BurnNumber<Kind = K>, S: Dimension>(array: Array<N, S>, device: &Device) -> Result<Self> {
        let (values, shape) = row_major(array);
        let count = values.len();
        Ok(Self { numbers: tensor(values, [count], device)?, shape })
    }

    /// The length of each dimension.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The tensor of `D` dimensions.
    ///
    /// # Errors
    /// It has more or fewer.
    pub fn into_tensor<const D: usize>(self) -> Result<Tensor<D, K>> {
        let shape = <[usize; D]>::try_from(&*self.shape);
        let Ok(shape) = shape else {
            bail!(
                "a batch of arrays has another rank: wanted {D} dimensions, got {}, of the lengths {:?}; the first is \
                 that of the batch",
                self.shape.len(),
                self.shape
            );
        };
        Ok(self.numbers.reshape(shape))
    }
}

/// A tensor on its device of which neither the rank nor the kind of numbers is known before the data: one of
/// [`NamedArrays`](dataflux::NamedArrays).
#[derive(Clone, Debug)]
pub enum AnyTensor {
    /// Floats.
    Float(ArrayTensor<Float>),
    /// Integers.
    Int(ArrayTensor<Int>),
    /// Truth values.
    Bool(ArrayTensor<Bool>),
}

impl AnyTensor {
    /// The length of each dimension.
    pub fn shape(&self) -> &[usize] {
        match self {
            Self::Float(tensor) => tensor.shape(),
            Self::Int(tensor) => tensor.shape(),
            Self::Bool(tensor) => tensor.shape(),
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Float(_) => "floats",
            Self::Int(_) => "integers",
            Self::Bool(_) => "truth values",
        }
    }

    /// The tensor of floats, of `D` dimensions.
    ///
    /// # Errors
    /// Its numbers are of another kind, or it has more or fewer dimensions.
    pub fn float<const D: usize>(self) -> Result<Tensor<D>> {
        let kind = self.kind();
        let Self::Float(tensor) = self else { bail!("a tensor has another kind: wanted floats, got {kind}") };
        tensor.into_tensor()
    }

    /// The tensor of integers, of `D` dimensions.
    ///
    /// # Errors
    /// As for [`float`](Self::float).
    pub fn int<const D: usize>(self) -> Result<Tensor<D, Int>> {
        let kind = self.kind();
        let Self::Int(tensor) = self else { bail!("a tensor has another kind: wanted integers, got {kind}") };
        tensor.into_tensor()
    }

    /// The tensor of truth values, of `D` dimensions.
    ///
    /// # Errors
    /// As for [`float`](Self::float).
    pub fn bool<const D: usize>(self) -> Result<Tensor<D, Bool>> {
        let kind = self.kind();
        let Self::Bool(tensor) = self else { bail!("a tensor has another kind: wanted truth values, got {kind}") };
        tensor.into_tensor()
    }
}
