//! bzip2, by the crate bzip2.

use anyhow::{Context, bail};
use bzip2::{Decompress, Status};

use super::output::BoundedOutput;

/// The bytes that every stream begins with.
const SIGNATURE: &[u8] = b"BZh";

/// Bytes that the decoder holds for the size of block that the first stream states: four for each of its bytes, and
/// tables.
pub(super) fn window_bytes(stored: &[u8]) -> u64 {
    const TABLES: u64 = 128 << 10;
    let hundreds_of_kilobytes = stored.get(SIGNATURE.len()).map_or(9, |digit| digit.wrapping_sub(b'0').min(9));
    TABLES + 4 * 100_000 * u64::from(hundreds_of_kilobytes)
}

/// Decompresses all streams. The decoder holds a block of 900 kB and four times as much for its order.
pub(super) fn decompress(stored: &[u8], output: &mut BoundedOutput) -> anyhow::Result<()> {
    let mut rest = stored;
    loop {
        let mut stream = Decompress::new(false);
        loop {
            let damaged = output.damaged();
            let (read, written) = (stream.total_in(), stream.total_out());
            let mut status = Status::MemNeeded;
            output.write_with(|space| {
                status = stream.decompress(rest, space).with_context(|| damaged.clone())?;
                Ok((stream.total_out() - written) as usize)
            })?;
            let (read, written) = (stream.total_in() - read, stream.total_out() - written);
            rest = &rest[read as usize..];
            match status {
                Status::StreamEnd => break,
                _ if read == 0 && written == 0 => bail!(damaged),
                _ => {}
            }
        }
        if rest.is_empty() {
            return Ok(());
        }
        if !rest.starts_with(SIGNATURE) {
            bail!("{}", output.trailing(rest));
        }
    }
}
