//! Records of a run: the audit log of the batches that were delivered.

pub(crate) mod audit;

pub use audit::{AuditLog, AuditRecord};
