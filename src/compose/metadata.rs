//! Metadata keys of temporary objects, by which `clean` judges objects that other processes made.

/// The run that composed the object.
pub(crate) const RUN: &str = "dataflux-run";
/// The process that composed the object; see [`process::identity`](super::process::identity).
pub(crate) const PROCESS: &str = "dataflux-process";
/// How long after its last change, by the service's clock, the object may be in use, in seconds. `clean` uses the lease
/// where it can't see the process.
pub(crate) const LEASE: &str = "dataflux-lease-seconds";
/// How often the lease was renewed. A new value makes sure that the service counts a renewal as a change.
pub(crate) const RENEWALS: &str = "dataflux-renewals";
