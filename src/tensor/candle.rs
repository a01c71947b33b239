use std::collections::BTreeMap;

use candle_core::{Device, Tensor, WithDType};
use ndarray::{Array, ArrayD, Dimension};

#[cfg(feature = "image")]
use super::array::images_and_labels;
use super::array::{row_major, signed};
use super::library_error;
use crate::Result;
#[cfg(feature = "image")]
use crate::collate::BatchBuffer;
use crate::collate::{Batch, TensorDevice, ToDevice, conversion_error};
use crate::decode::{AnyArray, ArrayElement, NamedArrays, PaddedArrays};
#[cfg(feature = "image")]
use crate::decode::{Images, MaskedImages, PaddedImages, Target};
#[cfg(feature = "image")]
use crate::pixels::Element;
use crate::read::RawSample;

impl TensorDevice for Device {
    fn is_host(&self) -> bool {
        self.is_cpu()
    }
}

impl<T: ToDevice<Device>> Batch<T> {
    /// The batch as tensors on `device`; [`ToDevice`] says which, for each kind of batch. On the CPU nothing is copied,
    /// except raw samples.
    ///
    /// # Errors
    /// The device doesn't exist or has no memory left; targets of images, or raw samples, differ in length; a `u64` of
    /// [`NamedArrays`] is more than an `i64` can hold.
    pub fn to_candle(self, device: &Device) -> Result<T::Tensors> {
        let (data, batch) = self.take_data();
        data.to_device(device, &batch).map_err(conversion_error)
    }
}

/// Images of shape (images, channels, height, width), or that of their [layout](crate::Layout), and labels of shape
/// (images), or (images, numbers) if each [target](crate::ImageFolder::targets) is a `Vec`. Numbers of classes are
/// `i64`.
#[cfg(feature = "image")]
impl<T: Element + WithDType, L: Target<Number: WithDType>> ToDevice<Device> for Images<T, L> {
    type Tensors = (Tensor, Tensor);

    fn to_device(self, device: &Device, batch: &Batch<()>) -> anyhow::Result<(Tensor, Tensor)> {
        let (images, labels) = images_and_labels(self, batch)?;
        Ok((pixels(images.pixels, &images.shape, device)?, tensor(labels, device)?))
    }
}

/// The images and their labels, as those of [`Images`], and the [mask](PaddedImages::mask) as `u8` of shape (images,
/// height, width).
#[cfg(feature = "image")]
impl<T: Element + WithDType, L: Target<Number: WithDType>> ToDevice<Device> for PaddedImages<T, L> {
    type Tensors = (Tensor, Tensor, Tensor);

    fn to_device(self, device: &Device, batch: &Batch<()>) -> anyhow::Result<(Tensor, Tensor, Tensor)> {
        let mask = tensor(self.mask(), device)?;
        let (images, labels) = self.images.to_device(device, batch)?;
        Ok((images, labels, mask))
    }
}

/// Images of shape (images, channels, height, width), or that of their [layout](crate::Layout), and masks as `u8` of
/// shape (images, height, width).
#[cfg(feature = "image")]
impl<T: Element + WithDType> ToDevice<Device> for MaskedImages<T> {
    type Tensors = (Tensor, Tensor);

    fn to_device(self, device: &Device, _: &Batch<()>) -> anyhow::Result<(Tensor, Tensor)> {
        Ok((pixels(self.pixels, &self.shape, device)?, made(Tensor::from_vec(self.masks, &self.mask_shape, device))?))
    }
}

/// Stored bytes as `u8` of shape (samples, bytes of a sample). The samples must have one length.
impl ToDevice<Device> for Vec<RawSample> {
    type Tensors = Tensor;

    fn to_device(self, device: &Device, _: &Batch<()>) -> anyhow::Result<Tensor> {
        let (bytes, length) = super::concatenate(&self)?;
        Ok(made(Tensor::from_vec(bytes, (self.len(), length), device))?)
    }
}

/// One number of each sample: of shape (samples).
impl<T: ArrayElement + WithDType> ToDevice<Device> for Vec<T> {
    type Tensors = Tensor;

    fn to_device(self, device: &Device, _: &Batch<()>) -> anyhow::Result<Tensor> {
        Ok(tensor(Array::from_vec(self), device)?)
    }
}

/// The stacked arrays, of shape (samples, ...).
impl<T: ArrayElement + WithDType> ToDevice<Device> for ArrayD<T> {
    type Tensors = Tensor;

    fn to_device(self, device: &Device, _: &Batch<()>) -> anyhow::Result<Tensor> {
        Ok(tensor(self, device)?)
    }
}

/// The padded arrays, of shape (samples, length of the longest, ...), and lengths as `i64` of shape (samples).
impl<T: ArrayElement + WithDType> ToDevice<Device> for PaddedArrays<T> {
    type Tensors = (Tensor, Tensor);

    fn to_device(self, device: &Device, _: &Batch<()>) -> anyhow::Result<(Tensor, Tensor)> {
        Ok((tensor(self.array, device)?, tensor(self.lengths, device)?))
    }
}

/// Samples as `f32` of shape (files, channels, frames), and lengths in frames as `i64` of shape (files).
#[cfg(feature = "audio")]
impl ToDevice<Device> for crate::decode::AudioBatch {
    type Tensors = (Tensor, Tensor);

    fn to_device(self, device: &Device, _: &Batch<()>) -> anyhow::Result<(Tensor, Tensor)> {
        Ok((tensor(self.samples, device)?, tensor(self.lengths, device)?))
    }
}

/// The stacked arrays by their names, each of shape (samples, ...).
///
/// Numbers of types that candle lacks become such of the next larger type: `bool` becomes `u8`, `i8` `i16`, `u16`
/// `i32`, and `u64` `i64`.
impl ToDevice<Device> for NamedArrays {
    type Tensors = BTreeMap<String, Tensor>;

    fn to_device(self, device: &Device, _: &Batch<()>) -> anyhow::Result<BTreeMap<String, Tensor>> {
        self.into_inner().into_iter().map(|(name, array)| Ok((name, any_tensor(array, device)?))).collect()
    }
}

/// On the CPU the tensor takes the memory of the batch over. A copy to another device gives it back to the loader.
#[cfg(feature = "image")]
fn pixels<T: WithDType>(pixels: BatchBuffer<T>, shape: &[usize; 4], device: &Device) -> Result<Tensor> {
    if device.is_cpu() {
        made(Tensor::from_vec(pixels.into_vec(), shape, device))
    } else {
        made(Tensor::from_slice(&pixels, shape, device))
    }
}

fn made(tensor: candle_core::Result<Tensor>) -> Result<Tensor> {
    tensor.map_err(|error| library_error("candle", error))
}

fn tensor<T: ArrayElement + WithDType, D: Dimension>(array: Array<T, D>, device: &Device) -> Result<Tensor> {
    let (values, shape) = row_major(array);
    made(Tensor::from_vec(values, shape, device))
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
