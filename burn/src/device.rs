//! Devices of burn as a loader takes them: the thread that is one batch ahead converts batches for them.

use std::sync::Arc;

use burn_core::data::dataloader::batcher::Batcher;
use burn_core::tensor::Device;
use dataflux::{Batch, TensorDevice, ToDevice};

/// A device of burn, for [`DataLoaderBuilder::device`](dataflux::DataLoaderBuilder::device) and
/// [`DataLoader::epoch_on`](dataflux::DataLoader::epoch_on).
///
/// A batch counts for the loader's memory budget until the training loop asks for the next one, on any device: burn may
/// read the batch's memory after the call that makes the tensor has returned.
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use burn_core::tensor::{Device, Int, Tensor};
/// use dataflux::{DataLoader, DatafluxDataset, RawSample};
/// use dataflux_burn::BurnDevice;
/// # let store = MemoryStore::new();
/// # (0..4).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n}.txt"), "12"));
/// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
///
/// let numbers = |sample: RawSample| -> anyhow::Result<i64> { Ok(std::str::from_utf8(sample.bytes())?.parse()?) };
/// let device = BurnDevice::from(Device::default());
/// let loader = DataLoader::builder(dataset.decode(numbers)).batch_size(2).device(device).build()?;
/// for batch in loader.epoch(0)? {
///     let numbers: Tensor<1, Int> = batch?.into_inner();
///     assert_eq!(numbers.dims(), [2]);
/// }
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct BurnDevice(Device);

impl BurnDevice {
    /// The device.
    pub fn device(&self) -> &Device {
        &self.0
    }
}

impl From<Device> for BurnDevice {
    fn from(device: Device) -> Self {
        Self(device)
    }
}

impl From<&Device> for BurnDevice {
    fn from(device: &Device) -> Self {
        Self(device.clone())
    }
}

impl TensorDevice for BurnDevice {
    fn is_host(&self) -> bool {
        true
    }
}

/// A batcher of burn, and the device where it makes tensors of the samples of a batch.
pub(crate) struct DeviceBatcher<I, O> {
    pub(crate) batcher: Arc<dyn Batcher<I, O>>,
    pub(crate) device: Device,
}

impl<I: 'static, O: 'static> TensorDevice for DeviceBatcher<I, O> {
    fn is_host(&self) -> bool {
        true
    }
}

impl<I: 'static, O: Send + 'static> ToDevice<DeviceBatcher<I, O>> for Vec<I> {
    /// `None` for a batch without samples, since batchers aren't written for these.
    type Tensors = Option<O>;

    fn to_device(self, device: &DeviceBatcher<I, O>, _: &Batch<()>) -> anyhow::Result<Option<O>> {
        Ok((!self.is_empty()).then(|| device.batcher.batch(self, &device.device)))
    }
}
