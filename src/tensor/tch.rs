use std::collections::BTreeMap;

use ndarray::{Array, ArrayD, Dimension};
use tch::kind::Element as TorchElement;
use tch::{Device, Tensor};

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

#[allow(clippy::wrong_self_convention)]
#[cfg(feature = "image")]
impl<T: Element + TorchElement, L: Target<Number: TorchElement>> Batch<Images<T, L>> {
    /// Images of shape (images, channels, height, width), or that of their [layout](crate::Layout), and labels of shape
    /// (images), or (images, numbers) if each [target](crate::ImageFolder::targets) is a `Vec`, on `device`. Numbers of
    /// classes are `i64`. libtorch copies once.
    ///
    /// # Errors
    /// Targets are of two lengths; the device doesn't exist or has no memory left.
    pub fn to_tch(self, device: Device) -> Result<(Tensor, Tensor)> {
        let (images, labels) = images_and_labels(self)?;
        let shape = images.shape.map(|size| size as i64);
        let pixels = on_device(Tensor::f_from_slice(&images.pixels).and_then(|flat| flat.f_view(shape)), device)?;
        Ok((pixels, tensor(labels, device)?))
    }
}

#[allow(clippy::wrong_self_convention)]
impl Batch<Vec<RawSample>> {
    /// Stored bytes as `u8` of shape (samples, bytes of a sample), on `device`.
    ///
    /// # Errors
    /// The samples differ in length; the device doesn't exist or has no memory left.
    pub fn to_tch(self, device: Device) -> Result<Tensor> {
        let samples = self.len() as i64;
        let (bytes, length) = super::concatenate(&self)?;
        on_device(Tensor::f_from_slice(&bytes).and_then(|flat| flat.f_view([samples, length as i64])), device)
    }
}

fn on_device(tensor: Result<Tensor, tch::TchError>, device: Device) -> Result<Tensor> {
    tensor.and_then(|tensor| tensor.f_to_device(device)).map_err(|error| library_error("tch", error))
}

#[allow(clippy::wrong_self_convention)]
impl<T: ArrayElement + TorchElement> Batch<ArrayD<T>> {
    /// The stacked arrays on `device`: of shape (samples, ...). libtorch copies once.
    ///
    /// # Errors
    /// The device doesn't exist or has no memory left.
    pub fn to_tch(self, device: Device) -> Result<Tensor> {
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
    pub fn to_tch(self, device: Device) -> Result<(Tensor, Tensor)> {
        let audio = self.into_inner();
        Ok((tensor(audio.samples.into_dyn(), device)?, tensor(audio.lengths.into_dyn(), device)?))
    }
}

#[allow(clippy::wrong_self_convention)]
impl Batch<NamedArrays> {
    /// The stacked arrays on `device`, by their names: each of shape (samples, ...).
    ///
    /// Numbers of types that tch lacks become such of the next larger type: `u16` becomes `i32`, and `u32` and `u64`
    /// `i64`.
    ///
    /// # Errors
    /// A `u64` is more than an `i64` can hold; the device doesn't exist or has no memory left.
    pub fn to_tch(self, device: Device) -> Result<BTreeMap<String, Tensor>> {
        let arrays = self.into_inner().into_inner();
        arrays.into_iter().map(|(name, array)| Ok((name, any_tensor(array, device)?))).collect()
    }
}

fn tensor<T: ArrayElement + TorchElement, D: Dimension>(array: Array<T, D>, device: Device) -> Result<Tensor> {
    let (values, shape) = row_major(array);
    let shape: Vec<i64> = shape.into_iter().map(|length| length as i64).collect();
    on_device(Tensor::f_from_slice(&values).and_then(|flat| flat.f_view(&*shape)), device)
}

fn any_tensor(array: AnyArray, device: Device) -> Result<Tensor> {
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
