//! Temporary composite objects: the ledger of this process, leases, deletion, and the removal of what dead runs left.

mod clean;
mod deletion;
mod ledger;
mod metadata;
mod permission;
mod process;
mod signals;
mod step;
mod temporary;

pub use clean::{Cleaned, clean, count_own_temporaries};
pub use ledger::{Leftover, wait_for_temporaries};
pub(crate) use ledger::{LoaderTemporaries, TemporaryRun, deadline_after};
pub(crate) use permission::{ComposeOutcome, ComposePermission};
pub use signals::clean_up_on_signals;
pub(crate) use step::{ReadStep, StepObserver};
pub(crate) use temporary::Temporary;
