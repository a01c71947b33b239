//! Brotli, by brotli-decompressor.

use std::io::BufRead;

use anyhow::bail;
use brotli_decompressor::{BrotliDecompressStream, BrotliResult, BrotliState, StandardAlloc};

use super::output::BoundedOutput;

/// Bytes of the window that the first bits ask for, and of the decoder's tables.
pub(super) fn window_bytes(stored: &[u8]) -> u64 {
    const TABLES: u64 = 512 << 10;
    let first = stored.first().copied().unwrap_or_default();
    let bits = match (first & 1, first >> 1 & 7, first >> 4 & 7) {
        (0, ..) => 16,
        (_, 0, 0) => 17,
        (_, 0, few) => 8 + few,
        (_, many, _) => 17 + many,
    };
    TABLES + (1 << bits)
}

/// Decompresses one stream. The decoder holds a window of 16 MiB at most, since large windows are no part of the
/// format that `Content-Encoding` means.
pub(super) fn decompress(stored: &[u8], output: &mut BoundedOutput) -> anyhow::Result<()> {
    let mut state =
        BrotliState::new_strict(StandardAlloc::default(), StandardAlloc::default(), StandardAlloc::default());
    let mut rest = stored;
    loop {
        let (mut unread, mut consumed, mut total) = (rest.len(), 0, 0);
        let mut result = BrotliResult::ResultFailure;
        let damaged = output.damaged();
        let written = output.write_with(|space| {
            let (mut room, mut written) = (space.len(), 0);
            result = BrotliDecompressStream(
                &mut unread,
                &mut consumed,
                rest,
                &mut room,
                &mut written,
                space,
                &mut total,
                &mut state,
            );
            Ok(written)
        })?;
        rest.consume(consumed.min(rest.len()));
        match result {
            BrotliResult::ResultSuccess if rest.is_empty() => return Ok(()),
            BrotliResult::ResultSuccess => bail!("{}", output.trailing(rest)),
            BrotliResult::NeedsMoreOutput if written > 0 || consumed > 0 => {}
            _ => bail!(damaged),
        }
    }
}
