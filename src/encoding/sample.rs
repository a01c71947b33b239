//! Decompresses samples.

use std::fmt;
use std::ops::Deref;

use bytes::Bytes;

use super::compression::Compression;
use crate::read::RawSample;

/// The default limit of the decoders for the decompressed bytes of one object: 1 GiB. A thousand times as much as most
/// samples have, and what a machine that trains can hold; a gzip file of 1 MiB can claim as much.
pub const DEFAULT_MAX_DECOMPRESSED: u64 = 1 << 30;

/// The bytes of an object, decompressed. Those of [`RawSample::bytes`] are as stored.
///
/// Cheap to clone. It derefs to the bytes.
#[derive(Clone, PartialEq, Eq)]
pub struct DecodedBytes(Bytes);

impl DecodedBytes {
    /// The bytes, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }

    /// The bytes as a vector of their own, without a copy if nothing else holds them.
    pub(crate) fn into_vec(self) -> Vec<u8> {
        self.0.into()
    }
}

impl From<Vec<u8>> for DecodedBytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl Deref for DecodedBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl AsRef<[u8]> for DecodedBytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for DecodedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DecodedBytes").field("bytes", &self.0.len()).finish()
    }
}

impl RawSample {
    /// How the object is compressed, by its `Content-Encoding` or, if it has none, by the suffix of its name; `None` if
    /// it isn't.
    ///
    /// # Errors
    /// The `Content-Encoding` is unknown.
    pub fn compression(&self) -> anyhow::Result<Option<Compression>> {
        Compression::of(self.entry().encoding, self.name())
    }

    /// The object's bytes, decompressed if it is [compressed](Self::compression) and otherwise without a copy.
    ///
    /// What is compressed must decompress to `limit` bytes at most. The limit is kept while decompressing: an object of
    /// some kilobytes that would decompress to terabytes is an error that takes no more memory than the limit.
    /// Compression within the data, such as that of a PNG file, is the decoder's.
    ///
    /// ```
    /// use dataflux::RawSample;
    ///
    /// // Decodes `a.txt`, and `a.txt.gz` too.
    /// let lines = |sample: RawSample| -> anyhow::Result<usize> {
    ///     Ok(std::str::from_utf8(&sample.decompress(100 << 20)?)?.lines().count())
    /// };
    /// # fn check(_: impl dataflux::Decode<Item = usize>) {}
    /// # check(lines);
    /// ```
    ///
    /// # Errors
    /// See [`Compression::decompress`]; the `Content-Encoding` is unknown.
    pub fn decompress(&self, limit: u64) -> anyhow::Result<DecodedBytes> {
        Ok(match self.compression()? {
            None => DecodedBytes(self.bytes().clone()),
            Some(compression) => compression.decompress(self.bytes(), limit)?.into(),
        })
    }

    /// An estimate of the decompressed size, from the field of the compressed data that states it, which may be wrong.
    /// `None` if the format or the object has no such field, or if the `Content-Encoding` is unknown. For an object
    /// that isn't compressed, the number of its bytes.
    pub fn decompressed_size(&self) -> Option<u64> {
        match self.compression().ok()? {
            None => Some(self.bytes().len() as u64),
            Some(compression) => compression.decompressed_size(self.bytes()),
        }
    }

    /// The decompressed bytes within `limit`, for the memory budget, and what decompressing them takes. Where the
    /// object doesn't state its decompressed size, these are estimates.
    pub(crate) fn decompression_memory(&self, limit: u64) -> DecompressionMemory {
        // Text and arrays usually shrink to a quarter or a half.
        const USUAL_RATIO: u64 = 4;
        let stored = self.bytes().len() as u64;
        match self.compression() {
            Ok(Some(compression)) => {
                let stated = self.decompressed_size();
                let size = stated.unwrap_or(stored.saturating_mul(USUAL_RATIO)).min(limit);
                let window = compression.window_bytes(self.bytes());
                DecompressionMemory { size, buffer: size, window, is_estimate: stated.is_none() }
            }
            _ => DecompressionMemory { size: stored, buffer: 0, window: 0, is_estimate: false },
        }
    }
}

/// What decompressing an object is expected to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DecompressionMemory {
    /// Decompressed bytes.
    pub(crate) size: u64,
    /// Bytes allocated for them: none, if the object isn't compressed.
    pub(crate) buffer: u64,
    /// Bytes that the decompressor holds beside that while it works: its window and tables.
    pub(crate) window: u64,
    /// Whether size and buffer are estimated, because the object doesn't state them.
    pub(crate) is_estimate: bool,
}

impl DecompressionMemory {
    /// Whether the object is compressed, so that the headers of the file in it can't be seen.
    pub(crate) fn is_compressed(self) -> bool {
        self.window > 0
    }

    /// What is held while the decompressed bytes are decoded or before that, beside what is decoded of them.
    pub(crate) fn scratch(self) -> u64 {
        self.buffer.saturating_add(self.window)
    }
}
