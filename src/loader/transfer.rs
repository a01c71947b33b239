//! The conversion of a loader's batches to tensors on a device, with the types of both erased.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use crate::Result;
use crate::collate::{Batch, TensorDevice, ToDevice, conversion_error, not_converted};
use crate::engine::sample_code::{BatchData, guarded, restore_type};

/// Moves the batches of a loader to a device.
pub(crate) trait Transfer: Send + Sync {
    /// The batch with tensors on the device as its data.
    ///
    /// # Errors
    /// The conversion failed, or panicked.
    fn transfer(&self, batch: Batch<BatchData>) -> Result<Batch<BatchData>>;

    /// See [`TensorDevice::is_host`].
    fn is_host(&self) -> bool;
}

impl fmt::Debug for dyn Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer").field("is_host", &self.is_host()).finish_non_exhaustive()
    }
}

/// Moves batches of `B` to `device`.
struct DeviceTransfer<B, V> {
    device: V,
    data: PhantomData<fn(B)>,
}

/// What moves batches of `B` to `device`.
pub(crate) fn transfer_to<B: ToDevice<V> + 'static, V: TensorDevice>(device: V) -> Arc<dyn Transfer> {
    Arc::new(DeviceTransfer::<B, V> { device, data: PhantomData })
}

impl<B: ToDevice<V> + 'static, V: TensorDevice> Transfer for DeviceTransfer<B, V> {
    fn transfer(&self, batch: Batch<BatchData>) -> Result<Batch<BatchData>> {
        let (data, batch) = restore_type::<B>(batch)?.take_data();
        let converted = guarded(|| Ok(data.to_device(&self.device, &batch)));
        let tensors = converted.map_err(|panicked| not_converted(&panicked))?.map_err(conversion_error)?;
        batch.try_map(|()| Ok(Box::new(tensors) as BatchData))
    }

    fn is_host(&self) -> bool {
        self.device.is_host()
    }
}
