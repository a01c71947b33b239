use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};

use ndarray::{Array, ArrayD, Dimension};
use tch::kind::Element as TorchElement;
use tch::{Device, Kind, TchError, Tensor};

#[cfg(feature = "image")]
use super::array::images_and_labels;
use super::array::{row_major, signed};
use super::library_error;
use crate::Result;
use crate::collate::{Batch, TensorDevice, ToDevice, conversion_error};
use crate::decode::{AnyArray, ArrayElement, NamedArrays, PaddedArrays};
#[cfg(feature = "image")]
use crate::decode::{Images, MaskedImages, PaddedImages, Target};
use crate::os::{fill_tensor, pinned_tensor};
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
        data.to_device(&device, &batch).map_err(conversion_error)
    }
}

/// Images of shape (images, channels, height, width), or that of their [layout](crate::Layout), and labels of shape
/// (images), or (images, numbers) if each [target](crate::ImageFolder::targets) is a `Vec`. Numbers of classes are
/// `i64`.
#[cfg(feature = "image")]
impl<T: Element + TorchElement, L: Target<Number: TorchElement>> ToDevice<Device> for Images<T, L> {
    type Tensors = (Tensor, Tensor);

    fn to_device(self, device: &Device, batch: &Batch<()>) -> anyhow::Result<(Tensor, Tensor)> {
        let (images, labels) = images_and_labels(self, batch)?;
        Ok((on_device(&images.pixels, &images.shape, *device)?, tensor(labels, device)?))
    }
}

/// The images and their labels, as those of [`Images`], and the [mask](PaddedImages::mask) as `u8` of shape (images,
/// height, width).
#[cfg(feature = "image")]
impl<T: Element + TorchElement, L: Target<Number: TorchElement>> ToDevice<Device> for PaddedImages<T, L> {
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
impl<T: Element + TorchElement> ToDevice<Device> for MaskedImages<T> {
    type Tensors = (Tensor, Tensor);

    fn to_device(self, device: &Device, _: &Batch<()>) -> anyhow::Result<(Tensor, Tensor)> {
        Ok((on_device(&self.pixels, &self.shape, *device)?, on_device(&self.masks, &self.mask_shape, *device)?))
    }
}

/// Stored bytes as `u8` of shape (samples, bytes of a sample). The samples must have one length.
impl ToDevice<Device> for Vec<RawSample> {
    type Tensors = Tensor;

    fn to_device(self, device: &Device, _: &Batch<()>) -> anyhow::Result<Tensor> {
        let (bytes, length) = super::concatenate(&self)?;
        Ok(on_device(&bytes, &[self.len(), length], *device)?)
    }
}

/// One number of each sample: of shape (samples).
impl<T: ArrayElement + TorchElement> ToDevice<Device> for Vec<T> {
    type Tensors = Tensor;

    fn to_device(self, device: &Device, _: &Batch<()>) -> anyhow::Result<Tensor> {
        Ok(tensor(Array::from_vec(self), device)?)
    }
}

/// The stacked arrays, of shape (samples, ...).
impl<T: ArrayElement + TorchElement> ToDevice<Device> for ArrayD<T> {
    type Tensors = Tensor;

    fn to_device(self, device: &Device, _: &Batch<()>) -> anyhow::Result<Tensor> {
        Ok(tensor(self, device)?)
    }
}

/// The padded arrays, of shape (samples, length of the longest, ...), and lengths as `i64` of shape (samples).
impl<T: ArrayElement + TorchElement> ToDevice<Device> for PaddedArrays<T> {
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
/// Numbers of types that tch lacks become such of the next larger type: `u16` becomes `i32`, and `u32` and `u64` `i64`.
impl ToDevice<Device> for NamedArrays {
    type Tensors = BTreeMap<String, Tensor>;

    fn to_device(self, device: &Device, _: &Batch<()>) -> anyhow::Result<BTreeMap<String, Tensor>> {
        self.into_inner().into_iter().map(|(name, array)| Ok((name, any_tensor(array, device)?))).collect()
    }
}

/// Smallest tensors whose memory is kept: below this the allocators of most systems keep it themselves.
const MIN_KEPT_BYTES: usize = 4 << 20;

/// Tensors that are kept: the one that the training loop has, the one ahead, and the next one.
const MAX_KEPT_TENSORS: usize = 3;

/// Tensors made without keeping memory, after one came back too late.
const PAUSE: u32 = 64;

/// Memory of tensors that this thread has made, for the next ones.
///
/// The allocator gives 150 MB back to the system as soon as a tensor is gone, and the next one gets other pages, which
/// the system clears when they are first written. That takes much longer than the copy. So the thread keeps a tensor,
/// and hands out a copy-on-write clone of it. Once the clone and all its views are gone, libtorch lets the kept tensor
/// be written in place. If one is still there, wherever it is, libtorch moves the kept tensor to other memory first: no
/// tensor of the training loop ever changes, and a loop that keeps its batches costs one copy more, in 64 batches.
#[derive(Default)]
struct KeptTensors {
    /// In the order in which they were handed out, each with the address of its memory.
    tensors: VecDeque<(Tensor, usize)>,
    kind: Option<(Kind, usize)>,
    pause: u32,
}

thread_local! {
    static KEPT: RefCell<KeptTensors> = RefCell::default();
}

impl KeptTensors {
    /// A flat tensor of these values.
    fn copy<T: TorchElement>(&mut self, values: &[T]) -> Result<Tensor, TchError> {
        if self.kind.replace((T::KIND, values.len())) != Some((T::KIND, values.len())) {
            (self.tensors, self.pause) = (VecDeque::new(), 0);
        }
        let kept = if self.tensors.len() < MAX_KEPT_TENSORS { None } else { self.tensors.pop_front() };
        let (mut tensor, address) = match kept {
            Some((tensor, address)) => (tensor, Some(address)),
            None => (Tensor::f_empty([values.len() as i64], (T::KIND, Device::Cpu))?, None),
        };
        let Some(filled) = fill_tensor(&mut tensor, values, address.is_none()) else {
            return Tensor::f_from_slice(values);
        };
        if address.is_some_and(|address| address != filled) {
            // Its clone is still in use.
            (self.tensors, self.pause) = (VecDeque::new(), PAUSE);
        }
        if self.pause > 0 {
            self.pause -= 1;
            return Ok(tensor);
        }
        let clone = tensor.f_internal_lazy_clone()?;
        self.tensors.push_back((tensor, filled));
        Ok(clone)
    }
}

/// A tensor of these values on the CPU.
fn on_host<T: TorchElement>(values: &[T], shape: &[i64]) -> Result<Tensor, TchError> {
    let flat = if size_of_val(values) < MIN_KEPT_BYTES {
        Tensor::f_from_slice(values)
    } else {
        KEPT.with_borrow_mut(|kept| kept.copy(values))
    };
    flat?.f_view(shape)
}

/// A tensor of these values on a device.
///
/// For a device of CUDA the values are copied into pinned memory, which libtorch keeps for later copies, and from there
/// without anybody waiting for it: the copy is queued on the device's default stream, before whatever the training loop
/// does with the tensor. tch has no other streams.
fn on_device<T: TorchElement>(values: &[T], shape: &[usize], device: Device) -> Result<Tensor> {
    let shape: Vec<i64> = shape.iter().map(|length| *length as i64).collect();
    let tensor = match device {
        Device::Cpu => on_host(values, &shape),
        Device::Cuda(_) => {
            pinned_tensor(values, &shape, device).and_then(|pinned| pinned.f_to_device_(device, T::KIND, true, false))
        }
        Device::Mps | Device::Vulkan => on_host(values, &shape).and_then(|tensor| tensor.f_to_device(device)),
    };
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

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Numbers that differ from those of other calls.
    fn numbers(start: usize) -> Vec<f32> {
        (start..start + MIN_KEPT_BYTES / 4).map(|number| number as f32).collect()
    }

    #[test]
    fn tensors_that_are_gone_give_their_memory_to_the_next_ones() {
        let mut kept = KeptTensors::default();
        let mut addresses = HashSet::new();
        let mut last = None;
        for turn in 0..12 {
            let values = numbers(turn);
            let tensor = kept.copy(&values).unwrap();
            assert!(tensor.equal(&Tensor::from_slice(&values)));
            addresses.insert(kept.tensors.back().unwrap().1);
            // The training loop still has the one before, as a view of it.
            last = Some(tensor.narrow(0, 1, 2));
        }
        assert!(last.unwrap().equal(&Tensor::from_slice(&[12.0_f32, 13.0])));
        assert_eq!((addresses.len(), kept.pause), (MAX_KEPT_TENSORS, 0));
        drop(kept.copy(&numbers(0)[1..]).unwrap());
        assert_eq!(kept.tensors.len(), 1, "memory of another size is given back");
    }

    #[test]
    fn tensors_that_are_in_use_never_change() {
        let mut kept = KeptTensors::default();
        let mut tensors: Vec<_> = (0..7).map(|turn| kept.copy(&numbers(turn)).unwrap()).collect();
        assert!(kept.pause > 0, "memory that doesn't come back is no longer kept");
        // Writing to one changes no other.
        for written in [0, 6] {
            let _ = tensors[written].fill_(-1.0);
        }
        for (turn, tensor) in tensors.iter().enumerate() {
            let is_written = [0, 6].contains(&turn);
            let wanted = if is_written { vec![-1.0; MIN_KEPT_BYTES / 4] } else { numbers(turn) };
            assert!(tensor.equal(&Tensor::from_slice(&wanted)), "tensor {turn}");
        }
        drop(tensors);
        assert!(kept.copy(&numbers(3)).unwrap().equal(&Tensor::from_slice(&numbers(3))));
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        let tensor = on_device(&[1.0_f32, 2.0], &[2], Device::Cuda(0));
        if tch::Cuda::is_available() {
            assert!(tensor.unwrap().to_device(Device::Cpu).equal(&Tensor::from_slice(&[1.0_f32, 2.0])));
        } else {
            let error = tensor.unwrap_err().to_string();
            assert!(error.contains("tch could not make a tensor"), "{error}");
        }
    }
}
