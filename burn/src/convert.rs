//! What the batches of dataflux become on a device of burn.

use std::collections::BTreeMap;

use anyhow::{Result, bail, ensure};
#[cfg(feature = "image")]
use burn_core::tensor::Device;
use burn_core::tensor::{Int, Tensor};
use dataflux::{AnyArray, ArrayElement, Batch, NamedArrays, PaddedArrays, RawSample, ToDevice};
#[cfg(feature = "image")]
use dataflux::{Images, MaskedImages, PaddedImages};
use ndarray::ArrayD;

use crate::device::BurnDevice;
#[cfg(feature = "image")]
use crate::tensor::array_tensor;
use crate::tensor::{AnyTensor, ArrayTensor, BurnNumber, tensor};

/// Targets of images that make a tensor: numbers, or a `Vec` of numbers that is as long for each image of a batch.
#[cfg(feature = "image")]
pub trait BurnTarget: Sized + Send + sealed::Sealed + 'static {
    /// A tensor of shape (images), or of shape (images, numbers of a target).
    type Targets: Send + 'static;

    /// Makes the tensor.
    ///
    /// # Errors
    /// Targets differ in length.
    #[doc(hidden)]
    fn stack(targets: Vec<Self>, batch: &Batch<()>, device: &Device) -> Result<Self::Targets>;
}

#[cfg(feature = "image")]
mod sealed {
    use crate::tensor::BurnNumber;

    pub trait Sealed {}

    impl<N: BurnNumber> Sealed for N {}
    impl<N: BurnNumber> Sealed for Vec<N> {}
}

#[cfg(feature = "image")]
impl<N: BurnNumber> BurnTarget for N {
    type Targets = Tensor<1, N::Kind>;

    fn stack(targets: Vec<N>, _: &Batch<()>, device: &Device) -> Result<Self::Targets> {
        let count = targets.len();
        tensor(targets, [count], device)
    }
}

#[cfg(feature = "image")]
impl<N: BurnNumber> BurnTarget for Vec<N> {
    type Targets = Tensor<2, N::Kind>;

    fn stack(targets: Vec<Self>, batch: &Batch<()>, device: &Device) -> Result<Self::Targets> {
        let (count, wanted) = (targets.len(), targets.first().map_or(0, Vec::len));
        for (index, target) in targets.iter().enumerate() {
            ensure!(
                target.len() == wanted,
                "targets of two lengths make no tensor: wanted {wanted} numbers, as {} has, got {} of {}; make all \
                 targets one length where they come from",
                name(batch, 0),
                target.len(),
                name(batch, index),
            );
        }
        tensor(targets.concat(), [count, wanted], device)
    }
}

/// The name of a sample of the batch.
#[cfg(feature = "image")]
fn name(batch: &Batch<()>, index: usize) -> String {
    batch.names().nth(index).unwrap_or_default().to_owned()
}

/// Images of shape (images, channels, height, width), or that of their [layout](dataflux::Layout), without a copy on
/// the CPU, and labels of shape (images), or (images, numbers) if each [target](dataflux::ImageFolder::targets) is a
/// `Vec`.
#[cfg(feature = "image")]
impl<T: BurnNumber, L: BurnTarget> ToDevice<BurnDevice> for Images<T, L> {
    type Tensors = (Tensor<4, T::Kind>, L::Targets);

    fn to_device(self, device: &BurnDevice, batch: &Batch<()>) -> Result<Self::Tensors> {
        let images = tensor(self.pixels.into_vec(), self.shape, device.device())?;
        Ok((images, L::stack(self.labels, batch, device.device())?))
    }
}

/// The images and their labels, as those of [`Images`], and the [mask](PaddedImages::mask) as `u8` of shape (images,
/// height, width).
#[cfg(feature = "image")]
impl<T: BurnNumber, L: BurnTarget> ToDevice<BurnDevice> for PaddedImages<T, L> {
    type Tensors = (Tensor<4, T::Kind>, L::Targets, Tensor<3, Int>);

    fn to_device(self, device: &BurnDevice, batch: &Batch<()>) -> Result<Self::Tensors> {
        let mask = array_tensor(self.mask(), device.device())?;
        let (images, labels) = self.images.to_device(device, batch)?;
        Ok((images, labels, mask))
    }
}

/// Images of shape (images, channels, height, width), or that of their [layout](dataflux::Layout), and masks as `u8` of
/// shape (images, height, width).
#[cfg(feature = "image")]
impl<T: BurnNumber> ToDevice<BurnDevice> for MaskedImages<T> {
    type Tensors = (Tensor<4, T::Kind>, Tensor<3, Int>);

    fn to_device(self, device: &BurnDevice, _: &Batch<()>) -> Result<Self::Tensors> {
        let images = tensor(self.pixels.into_vec(), self.shape, device.device())?;
        Ok((images, tensor(self.masks, self.mask_shape, device.device())?))
    }
}

/// Stored bytes as `u8` of shape (samples, bytes of a sample). The samples must have one length.
impl ToDevice<BurnDevice> for Vec<RawSample> {
    type Tensors = Tensor<2, Int>;

    fn to_device(self, device: &BurnDevice, _: &Batch<()>) -> Result<Self::Tensors> {
        let length = self.first().map_or(0, |first| first.bytes().len());
        let mut bytes = Vec::with_capacity(length * self.len());
        for sample in &self {
            ensure!(
                sample.bytes().len() == length,
                "samples of two lengths make no tensor: wanted {length} bytes, as {} has, got {} of {}; decode them to \
                 one length with a closure",
                self[0].name(),
                sample.bytes().len(),
                sample.name(),
            );
            bytes.extend_from_slice(sample.bytes());
        }
        tensor(bytes, [self.len(), length], device.device())
    }
}

/// One number of each sample: of shape (samples).
impl<N: BurnNumber> ToDevice<BurnDevice> for Vec<N> {
    type Tensors = Tensor<1, N::Kind>;

    fn to_device(self, device: &BurnDevice, _: &Batch<()>) -> Result<Self::Tensors> {
        let count = self.len();
        tensor(self, [count], device.device())
    }
}

/// The stacked arrays, of shape (samples, ...).
impl<N: BurnNumber> ToDevice<BurnDevice> for ArrayD<N> {
    type Tensors = ArrayTensor<N::Kind>;

    fn to_device(self, device: &BurnDevice, _: &Batch<()>) -> Result<Self::Tensors> {
        ArrayTensor::of(self, device.device())
    }
}

/// The padded arrays, of shape (samples, length of the longest, ...), and lengths as integers of shape (samples).
impl<N: BurnNumber + ArrayElement> ToDevice<BurnDevice> for PaddedArrays<N> {
    type Tensors = (ArrayTensor<N::Kind>, Tensor<1, Int>);

    fn to_device(self, device: &BurnDevice, batch: &Batch<()>) -> Result<Self::Tensors> {
        let lengths = self.lengths.to_vec().to_device(device, batch)?;
        Ok((ArrayTensor::of(self.array, device.device())?, lengths))
    }
}

/// Samples as floats of shape (files, channels, frames), and lengths in frames as integers of shape (files).
#[cfg(feature = "audio")]
impl ToDevice<BurnDevice> for dataflux::AudioBatch {
    type Tensors = (Tensor<3>, Tensor<1, Int>);

    fn to_device(self, device: &BurnDevice, batch: &Batch<()>) -> Result<Self::Tensors> {
        let lengths = self.lengths.to_vec().to_device(device, batch)?;
        Ok((ArrayTensor::of(self.samples, device.device())?.into_tensor()?, lengths))
    }
}

/// The stacked arrays by their names, each of shape (samples, ...).
impl ToDevice<BurnDevice> for NamedArrays {
    type Tensors = BTreeMap<String, AnyTensor>;

    fn to_device(self, device: &BurnDevice, _: &Batch<()>) -> Result<Self::Tensors> {
        self.into_inner().into_iter().map(|(name, array)| Ok((name, any_tensor(array, device)?))).collect()
    }
}

fn any_tensor(array: AnyArray, device: &BurnDevice) -> Result<AnyTensor> {
    let device = device.device();
    Ok(match array {
        AnyArray::Bool(array) => AnyTensor::Bool(ArrayTensor::of(array, device)?),
        AnyArray::I8(array) => AnyTensor::Int(ArrayTensor::of(array, device)?),
        AnyArray::I16(array) => AnyTensor::Int(ArrayTensor::of(array, device)?),
        AnyArray::I32(array) => AnyTensor::Int(ArrayTensor::of(array, device)?),
        AnyArray::I64(array) => AnyTensor::Int(ArrayTensor::of(array, device)?),
        AnyArray::U8(array) => AnyTensor::Int(ArrayTensor::of(array, device)?),
        AnyArray::U16(array) => AnyTensor::Int(ArrayTensor::of(array, device)?),
        AnyArray::U32(array) => AnyTensor::Int(ArrayTensor::of(array, device)?),
        AnyArray::U64(array) => AnyTensor::Int(ArrayTensor::of(array, device)?),
        AnyArray::F32(array) => AnyTensor::Float(ArrayTensor::of(array, device)?),
        AnyArray::F64(array) => AnyTensor::Float(ArrayTensor::of(array, device)?),
        other => bail!("numbers of the type {} make no tensor of burn", other.type_name()),
    })
}
