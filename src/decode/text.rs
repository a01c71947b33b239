//! Text files.

use anyhow::{Result, bail};

use super::{Decode, DecodeMemory, ItemMemory};
use crate::collate::Samples;
use crate::encoding::{DEFAULT_MAX_DECOMPRESSED, first_bytes};
use crate::read::RawSample;

/// Decodes text in UTF-8, decompressed if it is [compressed](crate::encoding), to a `String` an object.
///
/// The text is as stored: line ends, and a byte order mark if there is one, stay.
///
/// ```no_run
/// use dataflux::{DatafluxDataset, Text};
///
/// # fn main() -> anyhow::Result<()> {
/// let dataset = DatafluxDataset::open("gs://my-bucket/books/")?.decode(Text::new());
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Text {
    max_decompressed: u64,
}

impl Default for Text {
    fn default() -> Self {
        Self { max_decompressed: DEFAULT_MAX_DECOMPRESSED }
    }
}

impl Text {
    /// Decodes texts of up to 1 GiB, if they are compressed.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many bytes a compressed object may decompress to: 1 GiB by default.
    #[must_use]
    pub fn max_decompressed(mut self, bytes: u64) -> Self {
        self.max_decompressed = bytes;
        self
    }
}

impl Decode for Text {
    type Item = String;
    type Collate = Samples;

    fn decode(&self, sample: RawSample) -> Result<String> {
        let bytes = sample.decompress(self.max_decompressed)?;
        drop(sample);
        text_of(bytes.into_vec())
    }

    fn collate(&self) -> Samples {
        Samples
    }

    fn item_memory(&self) -> ItemMemory {
        ItemMemory::FromBytes
    }

    fn decode_memory(&self, sample: &RawSample) -> Option<DecodeMemory> {
        // Decompressed bytes become the text without a copy.
        let memory = sample.decompression_memory(self.max_decompressed);
        Some(DecodeMemory { item: memory.size, scratch: memory.window, is_estimate: memory.is_estimate })
    }
}

/// The text of bytes in UTF-8.
///
/// # Errors
/// They are not; the error says from where.
pub(super) fn text_of(bytes: Vec<u8>) -> Result<String> {
    String::from_utf8(bytes).or_else(|error| {
        let offset = error.utf8_error().valid_up_to();
        let rest = error.as_bytes().get(offset..).unwrap_or_default();
        bail!(
            "its text is not UTF-8 at byte {offset} (from there: {}); convert it to UTF-8, or decode it with a closure",
            first_bytes(rest)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_utf8_or_an_error_with_the_offset() {
        let of = |bytes: &[u8]| text_of(bytes.to_vec());
        assert_eq!(of(b"").unwrap(), "");
        assert_eq!(of("Mäuse\r\n\0".as_bytes()).unwrap(), "Mäuse\r\n\0");
        assert_eq!(of(b"\xef\xbb\xbfcat").unwrap(), "\u{feff}cat");
        let error = of(b"cat\xff\xfe").unwrap_err().to_string();
        assert!(error.contains("at byte 3 (from there: first bytes ff fe)"), "{error}");
        // A character that is cut off.
        let error = of(&"cats: Mä".as_bytes()[..8]).unwrap_err().to_string();
        assert!(error.contains("at byte 7"), "{error}");
    }
}
