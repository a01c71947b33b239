use tch::kind::Element as TorchElement;
use tch::{Device, Tensor};

use super::library_error;
use crate::Result;
use crate::collate::Batch;
use crate::read::RawSample;

#[allow(clippy::wrong_self_convention)]
#[cfg(feature = "image")]
impl<T: crate::pixels::Element + TorchElement> Batch<crate::decode::Images<T>> {
    /// Images of shape (images, channels, height, width), or that of their [layout](crate::Layout), and labels as `i64`
    /// of shape (images), on `device`.
    /// libtorch copies once.
    ///
    /// # Errors
    /// The device doesn't exist or has no memory left.
    pub fn to_tch(self, device: Device) -> Result<(Tensor, Tensor)> {
        let images = self.into_inner();
        let shape = images.shape.map(|size| size as i64);
        let pixels = on_device(Tensor::f_from_slice(&images.pixels).and_then(|flat| flat.f_view(shape)), device)?;
        Ok((pixels, on_device(Tensor::f_from_slice(&images.labels), device)?))
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
