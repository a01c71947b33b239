//! Batches to the training loop: data set, loader, and the iterator over an epoch.
//!
//! For each epoch, or a series of them, a thread of its own walks the order, plans each batch, takes its bytes from the budget and starts its
//! reads on the network threads; what they bring is decoded and collated by the decode threads; the iterator takes the
//! batches in order from a bounded channel of tickets, each of which is the promise of one batch. So order needs no
//! sorting, a slow batch holds back no read, and every end of a worker, a panic too, ends a wait.

mod arrivals;
mod audit;
mod auto;
mod batches;
mod builder;
mod cached;
mod close;
mod cost;
mod dataset;
mod epochs;
mod gate;
mod hunger;
mod item_sizes;
mod loader;
mod local;
mod loss;
mod mixed;
mod pipeline;
mod pool;
#[cfg(test)]
mod retrials;
mod stall;
mod substitute;

pub use audit::{AuditLog, AuditRecord};
pub use batches::{BatchStream, Batches, EpochStats};
pub use builder::DataLoaderBuilder;
pub use close::Closed;
pub use dataset::{DatafluxDataset, DatasetBuilder};
pub use epochs::Epochs;
pub use loader::DataLoader;
pub use loss::OnError;
pub use mixed::{MixedBatches, MixedLoader, MixedLoaderBuilder, MixedState};
pub use stall::WaitedFor;
