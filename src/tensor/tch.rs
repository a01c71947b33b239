use std::collections::BTreeMap;

use ndarray::{Array, ArrayD, Dimension};
use tch::kind::Element as TorchElement;
use tch::{Device, Tensor};

#[cfg(feature = "image")]
use super::array::images_and_labels;
use super::array::{row_major, signed};
use super::library_error;
use crate::Result;
use crate::collate::{Batch, TensorDevice, ToDevice};
use crate::decode::{AnyArray, ArrayElement, NamedArrays, PaddedArrays};
#[cfg(feature = "image")]
use crate::decode::{Images, PaddedImages, Target};
#[cfg(feature = "image")]
use crate::pixels::Element;
use crate::read::RawSample;

impl TensorDevice for Device {
    fn is_host(&self) -> bool {
        matches!(self, Self::Cpu)
    }
}

impl<T: ToDevice<Device>> Batch<T> {
    /// The batch as tensors on `device`; [`ToDevice`] says which, for each kind of batch. libtorch copies once.
    ///
    /// # Errors
    /// The device doesn't exist or has no memory left; targets of images, or raw samples, differ in length; a `u64` of
    /// [`NamedArrays`] is more than an `i64` can hold.
    pub fn to_tch(self, device: Device) -> Result<T::Tensors> {
        let (data, batch) = self.take_data();
        data.to_device(&device, &batch)
    }
}

/// Images of shape (images, channels, height, width), or that of their [layout](crate::Layout), and labels of shape
/// (images), or (images, numbers) if each [target](crate::ImageFolder::targets) is a `Vec`. Numbers of classes are `i64`.
#[cfg(feature = "image")]
impl<T: Element + TorchElement, L: Target<Number: TorchElement>> ToDevice<Device> for Images<T, L> {
    type Tensors = (Tensor, Tensor);

    fn to_device(self, device: &Device, batch: &Batch<()>) -> Result<(Tensor, Tensor)> {
        let (images, labels) = images_and_labels(self, batch)?;
        Ok((on_device(&images.pixels, &images.shape, *device)?, tensor(labels, device)?))
    }
}

/// The images and their labels, as those of [`Images`], and the [mask](PaddedImages::mask) as `u8` of shape (images,
/// height, width).
#[cfg(feature = "image")]
impl<T: Element + TorchElement, L: Target<Number: TorchElement>> ToDevice<Device> for PaddedImages<T, L> {
    type Tensors = (Tensor, Tensor, Tensor);

    fn to_device(self, device: &Device, batch: &Batch<()>) -> Result<(Tensor, Tensor, Tensor)> {
        let mask = tensor(self.mask(), device)?;
        let (images, labels) = self.images.to_device(device, batch)?;
        Ok((images, labels, mask))
    }
}

/// Stored bytes as `u8` of shape (samples, bytes of a sample). The samples must have one length.
impl ToDevice<Device> for Vec<RawSample> {
    type Tensors = Tensor;

    fn to_device(self, device: &Device, _: &Batch<()>) -> Result<Tensor> {
        let (bytes, length) = super::concatenate(&self)?;
        on_device(&bytes, &[self.len(), length], *device)
    }
}

/// One number of each sample: of shape (samples).
impl<T: ArrayElement + TorchElement> ToDevice<Device> for Vec<T> {
    type Tensors = Tensor;

    fn to_device(self, device: &Device, _: &Batch<()>) -> Result<Tensor> {
        tensor(Array::from_vec(self), device)
    }
}

/// The stacked arrays, of shape (samples, ...).
impl<T: ArrayElement + TorchElement> ToDevice<Device> for ArrayD<T> {
    type Tensors = Tensor;

    fn to_device(self, device: &Device, _: &Batch<()>) -> Result<Tensor> {
        tensor(self, device)
    }
}

/// The padded arrays, of shape (samples, length of the longest, ...), and lengths as `i64` of shape (samples).
impl<T: ArrayElement + TorchElement> ToDevice<Device> for PaddedArrays<T> {
    type Tensors = (Tensor, Tensor);

    fn to_device(self, device: &Device, _: &Batch<()>) -> Result<(Tensor, Tensor)> {
        Ok((tensor(self.array, device)?, tensor(self.lengths, device)?))
    }
}

/// Samples as `f32` of shape (files, channels, frames), and lengths in frames as `i64` of shape (files).
#[cfg(feature = "audio")]
impl ToDevice<Device> for crate::decode::AudioBatch {
    type Tensors = (Tensor, Tensor);

    fn to_device(self, device: &Device, _: &Batch<()>) -> Result<(Tensor, Tensor)> {
        Ok((tensor(self.samples, device)?, tensor(self.lengths, device)?))
    }
}

/// The stacked arrays by their names, each of shape (samples, ...).
///
/// Numbers of types that tch lacks become such of the next larger type: `u16` becomes `i32`, and `u32` and `u64` `i64`.
impl ToDevice<Device> for NamedArrays {
    type Tensors = BTreeMap<String, Tensor>;

    fn to_device(self, device: &Device, _: &Batch<()>) -> Result<BTreeMap<String, Tensor>> {
        self.into_inner().into_iter().map(|(name, array)| Ok((name, any_tensor(array, device)?))).collect()
    }
}

/// A tensor of these values on a device.
///
/// For a GPU of CUDA the values are copied into pinned memory, which libtorch keeps for later copies, and from there
/// without anybody waiting for it: the copy is queued on the device's default stream, before whatever the training loop
/// does with the tensor. tch has no other streams.
fn on_device<T: TorchElement>(values: &[T], shape: &[usize], device: Device) -> Result<Tensor> {
    let shape: Vec<i64> = shape.iter().map(|length| *length as i64).collect();
    let on_host = || Tensor::f_from_slice(values)?.f_view(&*shape);
    let tensor = on_host().and_then(|tensor| match device {
        Device::Cuda(_) => tensor.f_pin_memory(device)?.f_to_device_(device, T::KIND, true, false),
        _ => tensor.f_to_device(device),
    });
    tensor.map_err(|error| library_error("tch", error))
}

fn tensor<T: ArrayElement + TorchElement, D: Dimension>(array: Array<T, D>, device: &Device) -> Result<Tensor> {
    let (values, shape) = row_major(array);
    on_device(&values, &shape, *device)
}

fn any_tensor(array: AnyArray, device: &Device) -> Result<Tensor> {
    match array {
        AnyArray::Bool(array) => tensor(array, device),
        AnyArray::I8(array) => tensor(array, device),
        AnyArray::I16(array) => tensor(array, device),
        AnyArray::I32(array) => tensor(array, device),
        AnyArray::I64(array) => tensor(array, device),
        AnyArray::U8(array) => tensor(array, device),
        AnyArray::U16(array) => tensor(array.mapv(i32::from), device),
        AnyArray::U32(array) => tensor(array.mapv(i64::from), device),
        AnyArray::U64(array) => tensor(signed(&array)?, device),
        AnyArray::F32(array) => tensor(array, device),
        AnyArray::F64(array) => tensor(array, device),
    }
}
