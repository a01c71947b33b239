use candle_core::{Device, Tensor, WithDType};

use super::library_error;
use crate::Result;
use crate::collate::Batch;
use crate::read::RawSample;

// `to_candle` takes the batch, since on the CPU its memory becomes the tensor's. Users look for this name.
#[allow(clippy::wrong_self_convention)]
#[cfg(feature = "image")]
impl<T: crate::pixels::Element + WithDType> Batch<crate::decode::Images<T>> {
    /// Images of shape (images, channels, height, width), or that of their [layout](crate::Layout), and labels as `i64`
    /// of shape (images), on `device`.
    /// On the CPU nothing is copied.
    ///
    /// # Errors
    /// The device doesn't exist or has no memory left.
    pub fn to_candle(self, device: &Device) -> Result<(Tensor, Tensor)> {
        let images = self.into_inner();
        let count = images.labels.len();
        let pixels = Tensor::from_vec(images.pixels, &images.shape, device);
        let labels = Tensor::from_vec(images.labels, count, device);
        pixels.and_then(|pixels| Ok((pixels, labels?))).map_err(|error| library_error("candle", error))
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
