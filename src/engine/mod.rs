//! The running epoch: batches are planned, read, decoded and assembled ahead of the training loop.
//!
//! For each epoch, or a series of epochs, one thread walks the order ([`cursor`]), plans batches in [`window`]s, takes
//! their bytes from the memory budget and starts their reads ([`epoch_planner`]). A [`source`] reads samples on the
//! network threads: the [`bucket`], or the cache in front of it ([`cache_source`]), or files of this machine
//! ([`local_source`]). Decode threads ([`decode_pool`])
//! decode them, and the last sample completes its batch ([`assembly`]). The training loop receives batches in order
//! from a bounded channel of [`ticket`]s, each of which stands for one batch ([`arrivals`]).
//!
//! **Why nothing hangs.** Order needs no sorting: tickets are handed out in order, and each has a channel that receives
//! its batch. The sender of that channel belongs to the batch that is being assembled, and reads, waiting samples and
//! jobs of the decode threads hold that batch. If all of them are gone, after a panic for example, the channel closes
//! and the training loop gets an error. So a batch ends with data or an error, if every read ends, every wait for
//! memory ends, and every job ends:
//!
//! - A read ends with the timeouts of the client, or when the epoch is cancelled. A wait for another process has bounds
//!   of its own ([`cache_source`]).
//! - A wait for bytes of the budget ends because one thread takes them in the order of delivery ([`epoch_planner`]).
//!   The two others that take memory, substitutes and decoders, have rules of their own ([`substitute`],
//!   [`decode_gate`]).
//! - A job of a decode thread runs the user's code and waits for nothing.
//! - A cancelled epoch waits for nothing ([`shutdown`]).

pub(crate) mod arrivals;
pub(crate) mod assembly;
pub(crate) mod bucket;
pub(crate) mod cache_session;
mod cache_source;
pub(crate) mod cursor;
mod decode_gate;
pub(crate) mod decode_pool;
pub(crate) mod epoch_events;
pub(crate) mod epoch_planner;
mod item_sizes;
pub(crate) mod last_request;
mod local_source;
pub(crate) mod loss;
pub(crate) mod pipeline;
pub(crate) mod sample_code;
pub(crate) mod shutdown;
mod source;
pub(crate) mod stages;
mod substitute;
pub(crate) mod ticket;
pub(crate) mod wait_report;
mod window;

pub use loss::OnError;
pub use shutdown::Closed;
pub use wait_report::WaitedFor;
