//! Resumable uploads: what is known before the bytes arrive, and how far an upload is.

use std::ops::RangeInclusive;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    api::preconditions::Preconditions,
    http::{query::QueryParameters, request::ReceivedRequest},
    naming::check_object_name,
    objects::attributes::ObjectAttributes,
    refusal::Refusal,
};

/// An object to be stored, before its bytes are known.
#[derive(Clone)]
pub(crate) struct UploadDraft {
    pub(crate) bucket: String,
    pub(crate) name: String,
    pub(crate) attributes: ObjectAttributes,
    /// The resource that the client sent, which may announce checksums.
    pub(crate) resource: Map<String, Value>,
    pub(crate) conditions: Preconditions,
    pub(crate) query: QueryParameters,
}

impl UploadDraft {
    /// Takes name and attributes from the parameters and the resource; the parameters take precedence.
    pub(crate) fn new(bucket: &str, request: &ReceivedRequest, resource: Map<String, Value>) -> Result<Self, Refusal> {
        let named = request.query.get("name").or_else(|| resource.get("name").and_then(Value::as_str));
        let name = named.unwrap_or_default().to_owned();
        check_object_name(&name)?;
        let mut attributes = ObjectAttributes::default();
        attributes.patch(&resource)?;
        if let Some(encoding) = request.query.get("contentEncoding") {
            attributes.content_encoding = Some(encoding.to_owned());
        }
        let conditions = Preconditions::parse(&request.query)?;
        Ok(Self { bucket: bucket.to_owned(), name, attributes, resource, conditions, query: request.query.clone() })
    }

    /// Sets the media type, unless the resource has one.
    pub(crate) fn set_default_content_type(&mut self, content_type: Option<&str>) {
        if self.attributes.content_type.is_none() {
            self.attributes.content_type = content_type.map(str::to_owned);
        }
    }
}

/// A resumable upload.
pub(crate) struct UploadSession {
    pub(crate) draft: UploadDraft,
    /// The announced size in bytes.
    pub(crate) total: Option<u64>,
    pub(crate) progress: UploadProgress,
}

/// How far a resumable upload is.
pub(crate) enum UploadProgress {
    Open {
        pieces: Vec<Bytes>,
        /// The bytes in all pieces.
        stored: u64,
    },
    /// Holds the body of the final answer, which a finished session repeats.
    Done(Bytes),
    Cancelled,
    Expired,
}

impl UploadSession {
    pub(crate) fn new(draft: UploadDraft, total: Option<u64>) -> Self {
        Self { draft, total, progress: UploadProgress::Open { pieces: Vec::new(), stored: 0 } }
    }

    /// Ends the session as the service does after a week, if it is still open.
    pub(crate) fn expire(&mut self) {
        if matches!(self.progress, UploadProgress::Open { .. }) {
            self.progress = UploadProgress::Expired;
        }
    }
}

/// A `Content-Range` header of a request.
#[derive(Debug, PartialEq)]
pub(crate) struct ContentRange {
    /// The bytes in the body; `None` asks how far the upload is.
    pub(crate) bytes: Option<RangeInclusive<u64>>,
    /// The size of the whole object, if it is known.
    pub(crate) total: Option<u64>,
}

impl ContentRange {
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (bytes, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
        let total = if total == "*" { None } else { Some(total.parse().ok()?) };
        if bytes == "*" {
            return Some(Self { bytes: None, total });
        }

        let (first, last) = bytes.split_once('-')?;
        let bytes = RangeInclusive::<u64>::new(first.parse().ok()?, last.parse().ok()?);
        // The last byte must leave room for a size that fits 64 bits, even where no total is announced.
        let is_valid = !bytes.is_empty() && *bytes.end() < total.unwrap_or(u64::MAX);
        is_valid.then_some(Self { bytes: Some(bytes), total })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_parsed() {
        let range = |bytes, total| Some(ContentRange { bytes, total });
        for (text, expected) in [
            ("bytes 0-9/10", range(Some(0..=9), Some(10))),
            ("bytes 0-9/*", range(Some(0..=9), None)),
            ("bytes */*", range(None, None)),
            ("bytes */10", range(None, Some(10))),
            ("bytes 0-10/10", None),
            ("bytes 0-18446744073709551614/*", range(Some(0..=u64::MAX - 1), None)),
            ("bytes 0-18446744073709551615/*", None),
            ("bytes 0-18446744073709551616/*", None),
            ("bytes 9-0/10", None),
            ("0-9/10", None),
        ] {
            assert_eq!(ContentRange::parse(text), expected, "{text}");
        }
    }
}
