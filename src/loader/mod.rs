//! What a training program holds: the data set, the loader and its settings, epochs and their batches.

mod ahead;
mod batches;
mod builder;
mod cost;
mod data_loader;
mod dataset;
mod dataset_builder;
mod epochs;
mod limits;
mod loader_core;
mod mixed;
mod mixed_part;
mod notices;
mod resume;
#[cfg(test)]
mod retrials;
mod running_epoch;
mod settings;
mod stats;
mod stream;
mod transfer;

pub use batches::Batches;
pub use builder::DataLoaderBuilder;
pub use data_loader::DataLoader;
pub use dataset::DatafluxDataset;
pub use dataset_builder::DatasetBuilder;
pub use epochs::Epochs;
pub use limits::{Cost, Limits};
pub use mixed::{MixedBatches, MixedLoader, MixedLoaderBuilder, MixedState};
pub use stats::EpochStats;
pub use stream::BatchStream;
