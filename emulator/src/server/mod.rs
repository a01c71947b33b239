//! The transport: connections, and the delays and faults around each call.

pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod listen;
pub(crate) mod response_body;
