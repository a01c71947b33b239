//! Compressed objects: which compression one has, and its bytes decompressed within a limit.
//!
//! Samples are delivered as stored, because checksums are those of the stored bytes. A decoder decompresses with
//! [`RawSample::decompress`](crate::RawSample::decompress). All decoders of this crate do so, except
//! [`ImageFolder`](crate::ImageFolder), whose files are compressed already, and [`Raw`](crate::Raw), which returns the
//! stored bytes.
//!
//! | compression | `Content-Encoding` | suffix of the name | feature |
//! |---|---|---|---|
//! | gzip | `gzip`, `x-gzip` | `.gz` | |
//! | zlib | `deflate` | | |
//! | Zstandard | `zstd` | `.zst` | |
//! | bzip2 | | `.bz2` | `bzip2` |
//! | xz | | `.xz` | `xz` |
//! | Brotli | `br` | `.br` | `brotli` |

#[cfg(feature = "brotli")]
mod brotli;
#[cfg(feature = "bzip2")]
mod bzip2;
mod compression;
mod deflate;
mod output;
mod quotes;
mod sample;
#[cfg(feature = "xz")]
mod xz;
mod zstd;

pub use compression::Compression;
pub(crate) use deflate::{WINDOW_BYTES as DEFLATE_WINDOW_BYTES, inflate, inflated_start};
pub(crate) use output::first_bytes;
pub(crate) use quotes::check_quotes;
pub use sample::{DEFAULT_MAX_DECOMPRESSED, DecodedBytes};

#[cfg(test)]
pub(crate) mod tests;
