//! What a training program holds: the data set, the loader and its settings, epochs and their batches.

mod batches;
mod builder;
mod cost;
mod data_loader;
mod dataset;
mod epochs;
mod mixed;
#[cfg(test)]
mod retrials;

pub use batches::{BatchStream, Batches, EpochStats};
pub use builder::DataLoaderBuilder;
pub use data_loader::DataLoader;
pub use dataset::{DatafluxDataset, DatasetBuilder};
pub use epochs::Epochs;
pub use mixed::{MixedBatches, MixedLoader, MixedLoaderBuilder, MixedState};
