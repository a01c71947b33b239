//! JSON files.

use std::fmt;
use std::marker::PhantomData;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

use super::{Decode, ItemMemory};
use crate::collate::Samples;
use crate::encoding::{DEFAULT_MAX_DECOMPRESSED, first_bytes};
use crate::read::RawSample;

/// Decodes objects of one JSON value each to a `T`, decompressed if they are [compressed](crate::encoding).
///
/// Values nest 127 deep at most. Nobody knows what memory a `T` takes, so the loader limits how many are decoded ahead;
/// if one takes much more than its object, state it with
/// [`DatafluxDataset::item_bytes`](crate::DatafluxDataset::item_bytes).
///
/// ```no_run
/// use dataflux::{DatafluxDataset, Json};
///
/// #[derive(serde::Deserialize)]
/// struct Caption {
///     text: String,
///     tokens: Vec<u32>,
/// }
///
/// # fn main() -> anyhow::Result<()> {
/// let dataset = DatafluxDataset::open("gs://my-bucket/captions/")?.decode(Json::<Caption>::new());
/// # Ok(()) }
/// ```
pub struct Json<T> {
    max_decompressed: u64,
    item: PhantomData<fn() -> T>,
}

impl<T> Json<T> {
    /// Decodes objects of up to 1 GiB, if they are compressed.
    pub fn new() -> Self {
        Self { max_decompressed: DEFAULT_MAX_DECOMPRESSED, item: PhantomData }
    }

    /// Sets how many bytes a compressed object may decompress to: 1 GiB by default.
    #[must_use]
    pub fn max_decompressed(mut self, bytes: u64) -> Self {
        self.max_decompressed = bytes;
        self
    }
}

impl<T> Default for Json<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Json<T> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<T> fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Json").field("max_decompressed", &self.max_decompressed).finish_non_exhaustive()
    }
}

impl<T: DeserializeOwned + Send + 'static> Decode for Json<T> {
    type Item = T;
    type Collate = Samples;

    fn decode(&self, sample: RawSample) -> Result<T> {
        value_of(&sample.decompress(self.max_decompressed)?)
    }

    fn collate(&self) -> Samples {
        Samples
    }

    fn item_memory(&self) -> ItemMemory {
        ItemMemory::FromItems
    }
}

fn value_of<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    // Some programs begin a file with a byte order mark, which JSON permits readers to pass over.
    let json = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    serde_json::from_slice(json).with_context(|| {
        format!(
            "its {} bytes ({}) are no JSON value of {}; correct it, or leave it out",
            bytes.len(),
            first_bytes(bytes),
            std::any::type_name::<T>()
        )
    })
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::Value;

    use super::*;

    #[derive(Debug, Deserialize, PartialEq)]
    struct Caption {
        text: String,
        tokens: Vec<u32>,
    }

    const FILE: &[u8] = br#"{"text": "cat", "tokens": [1, 2]}"#;

    fn error_of<T: DeserializeOwned + fmt::Debug>(bytes: &[u8]) -> String {
        format!("{:#}", value_of::<T>(bytes).unwrap_err())
    }

    #[test]
    fn json_is_decoded_to_the_type() {
        let wanted = Caption { text: "cat".to_owned(), tokens: vec![1, 2] };
        assert_eq!(value_of::<Caption>(FILE).unwrap(), wanted);
        assert_eq!(value_of::<Caption>(&[b"\xef\xbb\xbf", FILE, b"\n"].concat()).unwrap(), wanted);
        for length in 0..FILE.len() {
            assert!(error_of::<Caption>(&FILE[..length]).contains("at line 1 column"));
        }
    }

    #[test]
    fn what_is_no_json_of_the_type_is_an_error() {
        assert!(error_of::<Caption>(b"").contains("it is empty"));
        assert!(error_of::<Caption>(b"\x93NUMPY").contains("first bytes 93 4e 55 4d 50 59"));
        assert!(error_of::<Caption>(br#"{"text": "cat"}"#).contains("missing field `tokens`"));
        assert!(error_of::<Value>(b"1 2").contains("trailing characters at line 1 column 3"));
        assert!(error_of::<f32>(b"NaN").contains("expected value"));
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_stack_overflow() {
        assert!(error_of::<Value>(&b"[".repeat(1 << 20)).contains("recursion limit exceeded"));
        assert!(error_of::<Value>(&br#"{"a":"#.repeat(1 << 20)).contains("recursion limit exceeded"));
        assert!(value_of::<Value>(&[b"[".repeat(127), b"]".repeat(127)].concat()).is_ok());
    }
}
