//! Requests and replies, independent of the connection.

pub(crate) mod multipart;
pub(crate) mod query;
pub(crate) mod reply;
pub(crate) mod request;
