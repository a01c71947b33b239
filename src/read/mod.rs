//! Groups to samples: composed and direct reads, large objects in ranges, and the proof of each sample by its CRC32C.

mod clients;
mod fetcher;
mod ranged;
mod split;

pub(crate) use clients::Clients;
pub(crate) use fetcher::Fetcher;
pub use fetcher::GroupPayload;
pub(crate) use ranged::RangeSettings;
pub use ranged::{Chunk, Chunks, Download, Lanes, MAX_STREAMS, MEMORY_BUDGET, MIN_PART_SIZE, Receipt};
pub use split::RawSample;
pub(crate) use split::{Origin, split};
