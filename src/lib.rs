//! dataflux

mod error;
pub mod metrics;
pub mod store;

pub use error::{Error, ErrorKind, Result, Stage};
