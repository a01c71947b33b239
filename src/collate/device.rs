//! Batches on a device: how their data become tensors there.

use super::Batch;
use crate::{Error, ErrorKind, Stage};

/// A device of a tensor library, such as candle's `Device` or tch's.
///
/// Each tensor library that this crate has a feature for implements it. Implement it for a device of your own library,
/// together with [`ToDevice`] for the batches that go there.
pub trait TensorDevice: Send + Sync + 'static {
    /// Whether tensors on this device take memory of the host. The loader then counts a batch for its [memory
    /// budget](crate::DataLoaderBuilder::memory_budget) until the training loop asks for the next one. Otherwise it
    /// stops counting as soon as the batch is converted.
    fn is_host(&self) -> bool;
}

/// The data of a batch that convert to tensors on a device of type `V`.
///
/// [`DataLoaderBuilder::device`](crate::DataLoaderBuilder::device) takes any device for which the batches of its data
/// set implement this. The images, arrays, audio and raw samples of this crate do for the devices of candle and
/// tch, with the feature of the same name. Implement it for what your own collate function returns:
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use dataflux::{Batch, DataLoader, DatafluxDataset, RawSample, TensorDevice, ToDevice};
/// # let store = MemoryStore::new();
/// # (0..4).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n}.txt"), "12"));
/// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
///
/// /// What this program calls a device.
/// struct Host;
///
/// impl TensorDevice for Host {
///     fn is_host(&self) -> bool {
///         true
///     }
/// }
///
/// struct Numbers(Vec<f32>);
///
/// impl ToDevice<Host> for Numbers {
///     type Tensors = ndarray::Array1<f32>;
///
///     fn to_device(self, _: &Host, _: &Batch<()>) -> anyhow::Result<Self::Tensors> {
///         Ok(self.0.into())
///     }
/// }
///
/// let dataset = dataset
///     .decode(|sample: RawSample| -> anyhow::Result<f32> { Ok(std::str::from_utf8(sample.bytes())?.parse()?) })
///     .collate(|numbers: Vec<f32>| -> anyhow::Result<Numbers> { Ok(Numbers(numbers)) });
/// let loader = DataLoader::builder(dataset).batch_size(2).device(Host).build()?;
/// for batch in loader.epoch(0)? {
///     let batch = batch?;
///     assert_eq!((batch.len(), batch.sum()), (2, 24.0));
/// }
/// # Ok::<(), dataflux::Error>(())
/// ```
#[diagnostic::on_unimplemented(
    message = "batches of `{Self}` don't convert to tensors on a `{V}`",
    label = "no conversion to this device",
    note = "images, arrays, audio and raw samples convert for candle's and tch's `Device`, with the feature `candle` or \
            `tch`; for burn, pass `dataflux_burn::BurnDevice`; for batches of your own, implement `ToDevice<{V}>`"
)]
pub trait ToDevice<V: TensorDevice> {
    /// What the batch becomes: usually one tensor, or several in a tuple.
    type Tensors: Send + 'static;

    /// Makes tensors of the data of `batch`, which has the names of the samples, for errors, and no data. Runs on a
    /// thread of the loader, one batch at a time.
    ///
    /// # Errors
    /// The device doesn't exist, or has no memory left. The error takes the place of the batch and ends the epoch, and
    /// so does a panic.
    fn to_device(self, device: &V, batch: &Batch<()>) -> anyhow::Result<Self::Tensors>;
}

/// The tensors of both.
impl<V: TensorDevice, A: ToDevice<V>, B: ToDevice<V>> ToDevice<V> for (A, B) {
    type Tensors = (A::Tensors, B::Tensors);

    fn to_device(self, device: &V, batch: &Batch<()>) -> anyhow::Result<Self::Tensors> {
        Ok((self.0.to_device(device, batch)?, self.1.to_device(device, batch)?))
    }
}

/// The tensors of all three.
impl<V: TensorDevice, A: ToDevice<V>, B: ToDevice<V>, C: ToDevice<V>> ToDevice<V> for (A, B, C) {
    type Tensors = (A::Tensors, B::Tensors, C::Tensors);

    fn to_device(self, device: &V, batch: &Batch<()>) -> anyhow::Result<Self::Tensors> {
        Ok((self.0.to_device(device, batch)?, self.1.to_device(device, batch)?, self.2.to_device(device, batch)?))
    }
}

/// The error of a batch that doesn't convert. One of this crate stays as it is.
pub(crate) fn conversion_error(error: anyhow::Error) -> Error {
    error.downcast().unwrap_or_else(|other| not_converted(&format!("{other:#}")))
}

/// The error of a batch that doesn't convert for this reason.
pub(crate) fn not_converted(cause: &str) -> Error {
    Error::new(ErrorKind::Collate, format!("the batch does not convert to tensors: {cause}")).stage(Stage::Tensor)
}
