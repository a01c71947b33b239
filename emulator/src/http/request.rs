//! A request that was received completely.

use bytes::Bytes;
use hyper::HeaderMap;
use serde_json::{Map, Value};

use crate::{buckets::stored::Caller, http::query::QueryParameters, refusal::Refusal};

/// A request with its body. Method and path are not here: they determine the route.
pub(crate) struct ReceivedRequest {
    pub(crate) query: QueryParameters,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the whole body arrived. The part that arrived of a broken upload is stored, too.
    pub(crate) is_complete: bool,
}

impl ReceivedRequest {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub(crate) fn caller(&self) -> Caller {
        if self.headers.contains_key("authorization") { Caller::Authenticated } else { Caller::Anonymous }
    }

    /// The JSON object in the body; an empty one when the body is empty.
    pub(crate) fn json(&self) -> Result<Map<String, Value>, Refusal> {
        parse_json(&self.body)
    }
}

/// Parses a JSON object. Blank text is an empty one.
pub(crate) fn parse_json(bytes: &[u8]) -> Result<Map<String, Value>, Refusal> {
    if bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(Map::new());
    }
    serde_json::from_slice(bytes).map_err(|error| Refusal::new(400, "parseError", format!("Parse Error: {error}")))
}
