//! What a decompressor writes to: a buffer that refuses to grow over a limit.

use std::io::Read;

use anyhow::bail;

/// Bytes that one call of a decompressor may write. The space is zeroed before each call, so a larger step would zero
/// more in vain.
const STEP_BYTES: usize = 64 << 10;

/// Deflate, the most common compression, makes 1,032 bytes of one at most. A header that claims more is wrong or of
/// another compression: only this much is reserved, and the buffer grows as bytes arrive.
const LARGEST_RATIO: u64 = 1_032;

/// The decompressed bytes of one object, of which there are never more than a limit and one.
#[derive(Debug)]
pub(crate) struct BoundedOutput {
    bytes: Vec<u8>,
    limit: usize,
    compression: &'static str,
}

impl BoundedOutput {
    /// A buffer for what `stored` bytes decompress to. `estimate` is what their headers claim, which needn't be true.
    pub(crate) fn new(compression: &'static str, stored: usize, limit: u64, estimate: Option<u64>) -> Self {
        let plausible = (stored as u64).saturating_mul(LARGEST_RATIO).min(limit);
        // One byte more, so that the end is noticed without another growth.
        let capacity = estimate.map_or(0, |bytes| bytes.min(plausible).saturating_add(1));
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(usize::MAX - 1);
        let bytes = Vec::with_capacity(usize::try_from(capacity).unwrap_or_default());
        Self { bytes, limit, compression }
    }

    /// Lets `write` fill the beginning of some space, and returns how many bytes it says it has written.
    ///
    /// # Errors
    /// The error of `write`, or the limit is exceeded.
    pub(crate) fn write_with(
        &mut self,
        write: impl FnOnce(&mut [u8]) -> anyhow::Result<usize>,
    ) -> anyhow::Result<usize> {
        let filled = self.bytes.len();
        // One byte over the limit, to tell what has just the size of the limit from what has more.
        let allowed = self.limit + 1 - filled;
        if filled == self.bytes.capacity() {
            self.bytes.reserve_exact(filled.max(512).min(allowed));
        }
        let room = (self.bytes.capacity() - filled).min(allowed).min(STEP_BYTES);
        self.bytes.resize(filled + room, 0);
        let written = write(&mut self.bytes[filled..]);
        self.bytes.truncate(filled + written.as_ref().map_or(0, |written| (*written).min(room)));

        let written = written?;
        if self.bytes.len() > self.limit {
            bail!(
                "it decompresses ({}) to more than the {} bytes that are allowed; raise that limit, or leave it out",
                self.compression,
                self.limit
            );
        }
        Ok(written)
    }

    /// Writes what `reader` returns until its end.
    ///
    /// # Errors
    /// The reader's, as one that says that the object is damaged; or the limit is exceeded.
    pub(crate) fn read_from(&mut self, reader: &mut impl Read) -> anyhow::Result<()> {
        loop {
            let (position, compression) = (self.bytes.len(), self.compression);
            let read = |space: &mut [u8]| loop {
                match reader.read(space) {
                    Ok(count) => break Ok(count),
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => break Err(anyhow::Error::new(error).context(damaged(compression, position))),
                }
            };
            if self.write_with(read)? == 0 {
                return Ok(());
            }
        }
    }

    /// The message for data that end too early or are no valid ones.
    pub(crate) fn damaged(&self) -> String {
        damaged(self.compression, self.bytes.len())
    }

    /// The message for `rest`, the bytes that follow the end of the compressed data.
    pub(crate) fn trailing(&self, rest: &[u8]) -> String {
        format!(
            "{} bytes follow the end of its {} data ({}); upload it again, or leave it out",
            rest.len(),
            self.compression,
            first_bytes(rest)
        )
    }

    /// The bytes, in a buffer that has at most an eighth more: one that grew without an estimate may be half empty.
    pub(crate) fn into_bytes(mut self) -> Vec<u8> {
        if self.bytes.capacity() - self.bytes.len() > self.bytes.len() / 8 {
            self.bytes.shrink_to_fit();
        }
        self.bytes
    }
}

fn damaged(compression: &str, position: usize) -> String {
    format!(
        "its {compression} data are cut short or damaged, seen when {position} bytes were decompressed; upload it \
         again, or leave it out"
    )
}

/// How a file begins, in hexadecimal, for messages.
pub(crate) fn first_bytes(bytes: &[u8]) -> String {
    const SHOWN: usize = 8;
    if bytes.is_empty() {
        return "it is empty".to_owned();
    }
    let shown: Vec<_> = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}")).collect();
    format!("first bytes {}", shown.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_stops_one_byte_over_the_limit() {
        let zeros = |count: usize| std::io::repeat(0).take(count as u64);
        for limit in [0_usize, 1, 511, 512, 513, 100_000, 200_000] {
            let mut exact = BoundedOutput::new("gzip", 10, limit as u64, None);
            exact.read_from(&mut zeros(limit)).unwrap();
            assert_eq!(exact.into_bytes().len(), limit);

            for estimate in [None, Some(0), Some(u64::MAX)] {
                let mut more = BoundedOutput::new("gzip", 10, limit as u64, estimate);
                let error = more.read_from(&mut std::io::repeat(0)).unwrap_err().to_string();
                assert!(error.contains(&format!("more than the {limit} bytes")), "{error}");
                assert!(more.bytes.capacity() <= limit.max(10_320) + 1, "{} for {limit}", more.bytes.capacity());
            }
        }
    }
}
