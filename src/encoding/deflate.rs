//! gzip, zlib and raw deflate, by flate2 on its Rust backend.

use std::io::BufRead;

use anyhow::{Context, bail};
use flate2::bufread::GzDecoder;
use flate2::{Decompress, FlushDecompress, Status};

use super::output::BoundedOutput;

pub(super) const GZIP_SIGNATURE: &[u8] = &[0x1f, 0x8b];

/// A window of 32 KiB, and the tables of miniz_oxide.
pub(crate) const WINDOW_BYTES: u64 = 64 << 10;

/// Decompresses all members of a gzip file. Zeros behind the last one are padding, as for the command `gzip`.
pub(super) fn gunzip(stored: &[u8], output: &mut BoundedOutput) -> anyhow::Result<()> {
    let mut rest = stored;
    loop {
        let mut member = GzDecoder::new(rest);
        output.read_from(&mut member)?;
        rest = member.into_inner();
        if rest.iter().all(|byte| *byte == 0) {
            return Ok(());
        }
        if !rest.starts_with(GZIP_SIGNATURE) {
            bail!("{}", output.trailing(rest));
        }
    }
}

/// The size that the end of a gzip file claims. It is that of the last member modulo 2^32, so a claim of less than the
/// file's own size counts as none.
pub(super) fn gunzipped_size(stored: &[u8]) -> Option<u64> {
    let size = u32::from_le_bytes(*stored.last_chunk()?);
    // What doesn't compress gets 18 bytes of header and trailer, a name perhaps, and 5 for each block of 64 KiB.
    let least = (stored.len() as u64).saturating_sub(512 + stored.len() as u64 / 1_000);
    (u64::from(size) >= least).then_some(size.into())
}

/// Decompresses one zlib stream.
pub(super) fn unzlib(stored: &[u8], output: &mut BoundedOutput) -> anyhow::Result<()> {
    run(Decompress::new(true), stored, output)
}

/// Whether data may begin with a header of zlib.
pub(super) fn is_zlib(stored: &[u8]) -> bool {
    matches!(stored, [method, flags, ..]
        if method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31))
}

/// Decompresses one raw stream of deflate, of which `size` bytes are expected: no more are accepted.
///
/// # Errors
/// The stream is damaged, cut short, followed by other bytes, or decompresses to more.
pub(crate) fn inflate(stored: &[u8], size: u64) -> anyhow::Result<Vec<u8>> {
    let mut output = BoundedOutput::new("deflate", stored.len(), size, Some(size));
    run(Decompress::new(false), stored, &mut output)?;
    Ok(output.into_bytes())
}

/// The first `count` bytes of a raw stream of deflate, or as many as can be decompressed.
pub(crate) fn inflated_start(stored: &[u8], count: usize) -> Vec<u8> {
    let mut start = Vec::with_capacity(count);
    // What is damaged shows when all of it is read.
    let _ = Decompress::new(false).decompress_vec(stored, &mut start, FlushDecompress::None);
    start
}

fn run(mut decompress: Decompress, mut rest: &[u8], output: &mut BoundedOutput) -> anyhow::Result<()> {
    loop {
        let damaged = output.damaged();
        let mut status = Status::Ok;
        let mut consumed = 0;
        let written = output.write_with(|space| {
            let (before_in, before_out) = (decompress.total_in(), decompress.total_out());
            status = decompress.decompress(rest, space, FlushDecompress::None).with_context(|| damaged.clone())?;
            consumed = (decompress.total_in() - before_in) as usize;
            Ok((decompress.total_out() - before_out) as usize)
        })?;
        rest.consume(consumed);
        match status {
            Status::StreamEnd if rest.is_empty() => return Ok(()),
            Status::StreamEnd => bail!("{}", output.trailing(rest)),
            // The space is never empty, so what makes no progress lacks input.
            Status::Ok | Status::BufError if consumed == 0 && written == 0 => bail!(damaged),
            Status::Ok | Status::BufError => {}
        }
    }
}
