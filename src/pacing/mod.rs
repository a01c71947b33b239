//! How fast, and by which method, a bucket is read: how many calls at once, how many a second, and whether groups are
//! read directly, composed, or both.

pub(crate) mod auto;
#[cfg(test)]
mod choice_simulation;
pub(crate) mod chooser;
#[cfg(test)]
mod ranks_simulation;
pub(crate) mod rate;
pub(crate) mod read_mode;
pub(crate) mod starvation;
pub(crate) mod throttle;

pub(crate) use chooser::{Admission, CallCeiling, Chooser, ChooserConfig, ServiceCeilings};
pub(crate) use rate::LEAST as LEAST_RATE;
pub use read_mode::{Choice, ReadMode};
pub(crate) use throttle::{CallCaps, DemandHandle, MOST_CALLS, Throttles};
pub use throttle::{Ceiling, Ceilings};
