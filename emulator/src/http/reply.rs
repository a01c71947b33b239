//! A reply before it is sent.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use serde_json::Value;

use crate::{
    objects::content::Content,
    refusal::{Refusal, RefusalLocation},
};

/// The answer to one call.
#[derive(Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    /// The user's metadata, which the XML API sends as headers.
    pub(crate) metadata: BTreeMap<String, String>,
    pub(crate) content: Content,
    /// The first byte of `content` to send.
    pub(crate) start: u64,
    /// The end (exclusive) of the bytes of `content` to send.
    pub(crate) end: u64,
    /// Whether the length is not announced. The service announces none when it decompresses.
    pub(crate) has_unknown_length: bool,
    /// The number of items and prefixes of a listing, on which its delay depends.
    pub(crate) items: u64,
    /// The delay, where it is known already: that of the slowest call of a batch.
    pub(crate) delay: Option<Duration>,
}

impl Reply {
    pub(crate) fn empty(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn bytes(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let content = Content::from_bytes(body);
        let end = content.len();
        let headers = vec![("content-type", content_type.to_owned())];
        Self { status, headers, content, end, ..Self::default() }
    }

    pub(crate) fn json(body: impl Into<Bytes>) -> Self {
        Self::bytes(200, "application/json; charset=UTF-8", body)
    }

    pub(crate) fn json_value(value: &Value) -> Self {
        Self::json(value.to_string())
    }

    pub(crate) fn not_modified(etag: String) -> Self {
        Self::empty(304).with_header("etag", etag)
    }

    /// The number of bytes in the body.
    pub(crate) fn body_len(&self) -> u64 {
        self.end - self.start
    }

    /// The whole body; empty when it cannot be read.
    pub(crate) fn body(&self) -> Bytes {
        self.content.read(self.start, self.end).unwrap_or_default()
    }

    #[must_use]
    pub(crate) fn with_header(mut self, header: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((header, value.into()));
        self
    }

    /// Announces the size of an object, for a refusal of a range that starts past its end.
    #[must_use]
    pub(crate) fn with_object_size(self, size: Option<u64>) -> Self {
        match size {
            Some(size) => self.with_header("content-range", format!("bytes */{size}")),
            None => self,
        }
    }

    /// The answer to a HEAD request: the same headers without the body.
    #[must_use]
    pub(crate) fn without_body(mut self) -> Self {
        let length = self.body_len();
        self.content = Content::default();
        (self.start, self.end) = (0, 0);
        if std::mem::take(&mut self.has_unknown_length) {
            return self;
        }
        self.with_header("content-length", length.to_string())
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let status = refusal.status;
        let body = refusal.body();
        let reply = if body.is_empty() { Self::empty(status) } else { Self { status, ..Self::json(body) } };
        if refusal.location == Some(RefusalLocation::Header("Authorization")) {
            return reply.with_header("www-authenticate", "Bearer realm=\"https://accounts.google.com/\"");
        }
        reply.with_object_size(refusal.object_size)
    }
}
