//! One version of an object.

use crate::{
    checksum::{ContentHashes, base64},
    objects::{attributes::ObjectAttributes, content::Content},
};

/// One version of an object. It never changes: a patch makes another one.
#[derive(Clone)]
pub(crate) struct ObjectVersion {
    pub(crate) name: String,
    pub(crate) generation: i64,
    pub(crate) metageneration: i64,
    pub(crate) crc32c: u32,
    /// `None` for compositions, and for virtual objects, whose MD5 is never computed.
    pub(crate) md5: Option<[u8; 16]>,
    /// The number of objects that a composition was made of; `None` for other objects.
    pub(crate) component_count: Option<u32>,
    /// In microseconds since 1970.
    pub(crate) created: i64,
    /// In microseconds since 1970.
    pub(crate) updated: i64,
    pub(crate) attributes: ObjectAttributes,
    pub(crate) content: Content,
}

impl ObjectVersion {
    /// A first version whose content has known checksums. Its generation is also the time of its creation.
    pub(crate) fn new(
        name: String,
        generation: i64,
        hashes: ContentHashes,
        attributes: ObjectAttributes,
        content: Content,
    ) -> Self {
        Self {
            name,
            generation,
            metageneration: 1,
            crc32c: hashes.crc32c,
            md5: Some(hashes.md5),
            component_count: None,
            created: generation,
            updated: generation,
            attributes,
            content,
        }
    }

    /// The size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.content.len()
    }

    pub(crate) fn storage_class(&self) -> &str {
        self.attributes.storage_class.as_deref().unwrap_or("STANDARD")
    }

    /// The entity tag of the JSON API, which depends on the generation and the metageneration.
    pub(crate) fn etag(&self) -> String {
        let mut bytes = Vec::with_capacity(20);
        for (tag, value) in [(8, self.generation), (16, self.metageneration)] {
            bytes.push(tag);
            bytes.extend_from_slice(&value.to_be_bytes());
        }
        base64(&bytes)
    }
}
