//! Objects: their attributes, their contents, and virtual objects, which are computed when they are read.

pub(crate) mod attributes;
pub(crate) mod content;
pub(crate) mod version;
pub(crate) mod virtual_names;
pub(crate) mod virtual_namespace;
