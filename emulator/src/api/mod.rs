//! The calls of the service: each takes a request and returns a reply. Nothing here is asynchronous.

pub(crate) mod bucket_calls;
pub(crate) mod compose;
pub(crate) mod expected_hashes;
pub(crate) mod field_selector;
pub(crate) mod list_objects;
pub(crate) mod media;
pub(crate) mod object_calls;
pub(crate) mod object_json;
pub(crate) mod preconditions;
pub(crate) mod state;
pub(crate) mod upload;
pub(crate) mod upload_session;
pub(crate) mod versions;
pub(crate) mod xml;
