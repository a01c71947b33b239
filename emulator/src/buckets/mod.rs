//! Buckets: their configuration, the objects in them, and pages of listings.

pub(crate) mod base;
pub(crate) mod config;
pub(crate) mod folder;
pub(crate) mod glob;
pub(crate) mod list_query;
pub(crate) mod listing;
pub(crate) mod registry;
pub(crate) mod stored;
