#![doc = include_str!("../README.md")]

mod convert;
mod device;
mod loader;
mod refused;
mod sharded;
mod tensor;

#[cfg(feature = "image")]
pub use convert::BurnTarget;
pub use device::BurnDevice;
pub use loader::{BurnDataLoader, EmptyBatchError, LoaderEpochs};
pub use refused::DeviceSplitError;
pub use sharded::{ShardError, ShardedBurnLoader};
pub use tensor::{AnyTensor, ArrayTensor, BurnNumber};
