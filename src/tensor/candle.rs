use std::collections::BTreeMap;

use candle_core::{Device, Tensor, WithDType};
use ndarray::{Array, ArrayD, Dimension};

#[cfg(feature = "image")]
use super::array::images_and_labels;
use super::array::{row_major, signed};
use super::library_error;
use crate::Result;
use crate::collate::Batch;
use crate::decode::{AnyArray, ArrayElement, NamedArrays};
#[cfg(feature = "image")]
use crate::decode::{Images, Target};
#[cfg(feature = "image")]
use crate::pixels::Element;
use crate::read::RawSample;

// `to_candle` takes the batch, since on the CPU its memory becomes the tensor's. Users look for this name.
#[allow(clippy::wrong_self_convention)]
#[cfg(feature = "image")]
impl<T: Element + WithDType, L: Target<Number: WithDType>> Batch<Images<T, L>> {
    /// Images of shape (images, channels, height, width), or that of their [layout](crate::Layout), and labels of shape
    /// (images), or (images, numbers) if each [target](crate::ImageFolder::targets) is a `Vec`, on `device`. Numbers of
    /// classes are `i64`. On the CPU no pixel is copied.
    ///
    /// # Errors
    /// Targets are of two lengths; the device doesn't exist or has no memory left.
    pub fn to_candle(self, device: &Device) -> Result<(Tensor, Tensor)> {
        let (images, labels) = images_and_labels(self)?;
        let pixels = Tensor::from_vec(images.pixels, &images.shape, device);
        Ok((pixels.map_err(|error| library_error("candle", error))?, tensor(labels, device)?))
    }
}

#[allow(clippy::wrong_self_convention)]
impl Batch<Vec<RawSample>> {
    /// Stored bytes as `u8` of shape (samples, bytes of a sample), on `device`.
    ///
    /// # Errors
    /// The samples differ in length; the device doesn't exist or has no memory left.
    pub fn to_candle(self, device: &Device) -> Result<Tensor> {
        let samples = self.len();
        let (bytes, length) = super::concatenate(&self)?;
        Tensor::from_vec(bytes, (samples, length), device).map_err(|error| library_error("candle", error))
    }
}

#[allow(clippy::wrong_self_convention)]
impl<T: ArrayElement + WithDType> Batch<ArrayD<T>> {
    /// The stacked arrays on `device`: of shape (samples, ...). On the CPU nothing is copied.
    ///
    /// # Errors
    /// The device doesn't exist or has no memory left.
    pub fn to_candle(self, device: &Device) -> Result<Tensor> {
        tensor(self.into_inner(), device)
    }
}

#[allow(clippy::wrong_self_convention)]
#[cfg(feature = "audio")]
impl Batch<crate::decode::AudioBatch> {
    /// Samples as `f32` of shape (files, channels, frames) and lengths in frames as `i64` of shape (files), on
    /// `device`.
    ///
    /// # Errors
    /// The device doesn't exist or has no memory left.
    pub fn to_candle(self, device: &Device) -> Result<(Tensor, Tensor)> {
        let audio = self.into_inner();
        Ok((tensor(audio.samples.into_dyn(), device)?, tensor(audio.lengths.into_dyn(), device)?))
    }
}

#[allow(clippy::wrong_self_convention)]
impl Batch<NamedArrays> {
    /// The stacked arrays on `device`, by their names: each of shape (samples, ...).
    ///
    /// Numbers of types that candle lacks become such of the next larger type: `bool` becomes `u8`, `i8` `i16`, `u16`
    /// `i32`, and `u64` `i64`.
    ///
    /// # Errors
    /// A `u64` is more than an `i64` can hold; the device doesn't exist or has no memory left.
    pub fn to_candle(self, device: &Device) -> Result<BTreeMap<String, Tensor>> {
        let arrays = self.into_inner().into_inner();
        arrays.into_iter().map(|(name, array)| Ok((name, any_tensor(array, device)?))).collect()
    }
}

fn tensor<T: ArrayElement + WithDType, D: Dimension>(array: Array<T, D>, device: &Device) -> Result<Tensor> {
    let (values, shape) = row_major(array);
    Tensor::from_vec(values, shape, device).map_err(|error| library_error("candle", error))
}

fn any_tensor(array: AnyArray, device: &Device) -> Result<Tensor> {
    match array {
        AnyArray::Bool(array) => tensor(array.mapv(u8::from), device),
        AnyArray::I8(array) => tensor(array.mapv(i16::from), device),
        AnyArray::I16(array) => tensor(array, device),
        AnyArray::I32(array) => tensor(array, device),
        AnyArray::I64(array) => tensor(array, device),
        AnyArray::U8(array) => tensor(array, device),
        AnyArray::U16(array) => tensor(array.mapv(i32::from), device),
        AnyArray::U32(array) => tensor(array, device),
        AnyArray::U64(array) => tensor(signed(&array)?, device),
        AnyArray::F32(array) => tensor(array, device),
        AnyArray::F64(array) => tensor(array, device),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::DType;
    use ndarray::array;

    use super::*;

    #[test]
    fn arrays_of_all_types_convert() {
        let of = |array: AnyArray| any_tensor(array, &Device::Cpu).unwrap();
        let types = [
            (of(array![true].into_dyn().into()), DType::U8),
            (of(array![1_i8].into_dyn().into()), DType::I16),
            (of(array![1_i16].into_dyn().into()), DType::I16),
            (of(array![1_i32].into_dyn().into()), DType::I32),
            (of(array![1_i64].into_dyn().into()), DType::I64),
            (of(array![1_u8].into_dyn().into()), DType::U8),
            (of(array![1_u16].into_dyn().into()), DType::I32),
            (of(array![1_u32].into_dyn().into()), DType::U32),
            (of(array![1_u64].into_dyn().into()), DType::I64),
            (of(array![1_f32].into_dyn().into()), DType::F32),
            (of(array![1_f64].into_dyn().into()), DType::F64),
        ];
        for (tensor, wanted) in types {
            assert_eq!(tensor.dtype(), wanted);
            assert_eq!(tensor.to_dtype(DType::F64).unwrap().to_vec1::<f64>().unwrap(), [1.0]);
        }
        let error = any_tensor(array![u64::MAX].into_dyn().into(), &Device::Cpu).unwrap_err().to_string();
        assert!(error.contains("18446744073709551615"), "{error}");
    }

    #[test]
    fn arrays_keep_their_order_whatever_their_layout() {
        let rows = array![[1_i64, 2, 3], [4, 5, 6]];
        let wanted = [[1, 2, 3], [4, 5, 6]];
        let columns = rows.t().as_standard_layout().to_owned().reversed_axes();
        let tail = array![[0, 0, 0], [1, 2, 3], [4, 5, 6]].slice_move(ndarray::s![1.., ..]);
        for array in [rows, columns, tail] {
            let tensor = tensor(array.into_dyn(), &Device::Cpu).unwrap();
            assert_eq!(tensor.to_vec2::<i64>().unwrap(), wanted);
        }
    }
}
