//! Batches to the training loop: data set, loader, and the iterator over an epoch.
//!
//! For each epoch a thread of its own walks the order, plans each batch, takes its bytes from the budget and starts its
//! reads on the network threads; what they bring is decoded and collated by the decode threads; the iterator takes the
//! batches in order from a bounded channel of tickets, each of which is the promise of one batch. So order needs no
//! sorting, a slow batch holds back no read, and every end of a worker, a panic too, ends a wait.

mod at_hand;
mod auto;
mod batches;
mod cost;
mod dataset;
mod loader;
mod pipeline;
mod pool;

pub use batches::{BatchStream, Batches, EpochStats};
pub use dataset::{DatafluxDataset, DatasetBuilder};
pub use loader::{DataLoader, DataLoaderBuilder};
