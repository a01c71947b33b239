//! Pacing: how many calls are in flight, how many start in a second, and in which mode small objects are read.
//!
//! To *compose* is to have the service join up to 32 small objects into a temporary one, which is read in one call and
//! then deleted.
//!
//! - `concurrency` and `rate` are the two limits, pure; `gate` applies both to the calls of one kind, and
//!   `bucket_gates` holds the two gates of a data set's bucket, one for reads and one for writes.
//! - `demand` says whether the training loops want more than they get; `wait_reporter` reports their waits.
//! - `chooser` chooses among the modes of `read_mode` by measurement, and by `estimates` where a mode was not measured
//!   yet; `latency` is the time that composes take. All are pure. `shared_chooser` is the choice of one loader.

pub(crate) mod bucket_gates;
#[cfg(test)]
mod choice_simulation;
pub(crate) mod chooser;
pub(crate) mod concurrency;
pub(crate) mod demand;
mod estimates;
pub(crate) mod gate;
mod latency;
#[cfg(test)]
mod ranks_simulation;
pub(crate) mod rate;
pub(crate) mod read_mode;
pub(crate) mod shared_chooser;
pub(crate) mod wait_reporter;

pub use bucket_gates::Ceilings;
pub(crate) use bucket_gates::{BucketGates, CallCaps, GateUse};
pub(crate) use concurrency::ConcurrencyLimit;
pub(crate) use estimates::{ChooserConfig, GroupSize, NeighbourEpochs, ReadPrices, ServiceState};
pub use gate::Ceiling;
pub(crate) use gate::{CallGate, CallSlot};
pub(crate) use rate::MIN_RATE;
pub use read_mode::{Choice, ReadMode};
pub(crate) use shared_chooser::{InFlightRead, SharedChooser};
pub(crate) use wait_reporter::WaitReporter;
