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

/// Bytes that the decoder holds for the dictionary that the first block of the first stream asks for, if it isn't
/// refused, and for its tables.
pub(super) fn window_bytes(stored: &[u8]) -> u64 {
    const TABLES: u64 = 128 << 10;
    TABLES + dictionary_bytes(stored).unwrap_or_default().min(u64::from(MAX_MEMORY_KIB) << 10)
}

fn dictionary_bytes(stored: &[u8]) -> Option<u64> {
    const STREAM_HEADER_BYTES: usize = 12;
    const LZMA2: u64 = 0x21;
    // The header of a block: its own size, flags, sizes of the block if the flags say so, and filters.
    let (_, rest) = stored.get(STREAM_HEADER_BYTES..)?.split_first()?;
    let (flags, mut rest) = rest.split_first()?;
    for is_there in [flags & 0x40, flags & 0x80] {
        if is_there != 0 {
            number(&mut rest)?;
        }
    }
    for _ in 0..=(flags & 3) {
        let (id, size) = (number(&mut rest)?, usize::try_from(number(&mut rest)?).ok()?);
        let properties = rest.split_off(..size)?;
        if id == LZMA2 {
            let bits = *properties.first()?;
            // A power of two, or one and a half of it.
            return (bits < 40).then(|| (2 | u64::from(bits & 1)) << (bits / 2 + 11));
        }
    }
    None
}

/// A number of seven bits a byte, whose highest bit says that others follow.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let byte = *rest.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

/// The size that the indices at the ends of the streams claim.
pub(super) fn decompressed_size(stored: &[u8]) -> Option<u64> {
    lzma_rust2::xz_uncompressed_size(Cursor::new(stored)).ok()
}
