//! Large objects read in several ranges at once: in order as chunks, into memory, into a file, or into both.

mod chunks;
mod download;
mod file;
mod lanes;
mod whole;

pub(crate) use crate::plan::parts::RangeSettings;
pub use crate::plan::parts::{MAX_STREAMS, MIN_PART_SIZE};
pub use chunks::{Chunk, Chunks};
pub use download::{Download, MEMORY_BUDGET, Receipt};
pub use lanes::Lanes;
