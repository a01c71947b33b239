//! Temporary composite objects: the ledger of this process, leases, deletion, and the removal of what dead runs left.

mod clean;
mod permission;
mod process;
mod signals;
mod temporary;

pub use clean::{Cleaned, clean, count_own_temporaries};
pub(crate) use permission::ComposePermission;
pub use signals::clean_up_on_signals;
pub use temporary::{Leftover, wait_for_temporaries};
pub(crate) use temporary::{LoaderTemporaries, ReadStep, StepObserver, Temporary, TemporaryRun};
