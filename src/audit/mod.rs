//! The audit log: which samples each step was given, in a file in which changes can be detected.
//!
//! A log is lines of text. Each line is a hash, a space, and JSON: `{"begin":…}` where an epoch starts or is resumed,
//! with the [`State`](crate::sample::State) it starts from, and `{"batch":…}` for each batch delivered. The hash is the
//! first half of the SHA-256 of the hash of the line before and the JSON of this line, so a line can't be changed,
//! removed or inserted without changing all lines after it.
//!
//! A batch is recorded by its positions in the global order and a hash of its samples' ids, some 150 bytes however many
//! samples it has. A reader with the manifest finds the ids again, and the hash shows that these were delivered. Lost
//! samples are recorded by id. If the state doesn't describe the order in full, all ids are recorded.

mod format;
mod read;
mod writer;

pub use read::{AuditLog, AuditRecord};
pub(crate) use writer::{AuditWriter, EpochAudit};
