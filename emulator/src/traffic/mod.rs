//! How the emulator treats calls: it counts them, delays them, limits their rate, and makes some of them fail.

pub(crate) mod fault;
pub(crate) mod limits;
pub(crate) mod profile;
pub(crate) mod stats;
