//! Reads of groups: direct, composed, in ranges for large objects, and of all parts of a sample at once; and the
//! samples cut from their payloads, each proved by its CRC32C.

mod clients;
mod fetcher;
mod local;
mod parts;
mod ranged;
mod split;

pub(crate) use clients::Clients;
pub(crate) use fetcher::Fetcher;
pub(crate) use ranged::RangeSettings;
pub use ranged::{Chunk, Chunks, Download, Lanes, MAX_STREAMS, MEMORY_BUDGET, MIN_PART_SIZE, Receipt};
pub use split::RawSample;
pub(crate) use split::{Origin, split};
