//! From a request to the call that answers it.

pub(crate) mod admission;
pub(crate) mod batch;
pub(crate) mod dispatch;
pub(crate) mod route;
