//! xz, by lzma-rust2.

use std::io::Cursor;

use lzma_rust2::XzReader;

use super::output::BoundedOutput;

/// The memory that the decoder may allocate. Files of `xz -9` want 65 MiB; what wants more is made to exhaust memory,
/// or with a setting of its own.
const MAX_MEMORY_KIB: u32 = 128 << 10;

/// Decompresses all streams.
pub(super) fn decompress(stored: &[u8], output: &mut BoundedOutput) -> anyhow::Result<()> {
    output.read_from(&mut XzReader::new_mem_limit(stored, true, MAX_MEMORY_KIB))
}

/// The size that the indices at the ends of the streams claim.
pub(super) fn decompressed_size(stored: &[u8]) -> Option<u64> {
    lzma_rust2::xz_uncompressed_size(Cursor::new(stored)).ok()
}
