//! The running epoch: batches are planned, read, decoded and assembled ahead of the training loop.
//!
//! For each epoch, or a series of them, one thread walks the order, plans each batch, takes its bytes from the memory
//! budget and starts its reads on the network threads. Decode threads turn the bytes into samples and collate them. The
//! iterator receives the batches in order from a bounded channel of tickets; each ticket is the promise of one batch. So
//! order needs no sorting, a slow batch holds back no read, and the end of any worker, also by a panic, ends a wait.

pub(crate) mod arrivals;
pub(crate) mod cached;
pub(crate) mod decode_gate;
pub(crate) mod item_sizes;
pub(crate) mod local;
pub(crate) mod loss;
pub(crate) mod pipeline;
pub(crate) mod pool;
pub(crate) mod shutdown;
pub(crate) mod substitute;
pub(crate) mod wait_report;

pub use loss::OnError;
pub use shutdown::Closed;
pub use wait_report::WaitedFor;
