//! An object of a manifest.

use std::sync::Arc;

use crate::store::{ContentEncoding, StorageClass, Version};

/// One object of a [`Manifest`](super::Manifest). `N` is the type of its texts, which are the name and an entity tag:
/// [`Arc<str>`], borrowed texts ([`EntryRef`]), or none ([`Facts`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry<N = Arc<str>> {
    /// The whole name.
    pub name: N,
    /// Bytes as stored.
    pub size: u64,
    /// The version that was listed.
    pub version: Version<N>,
    /// The CRC32C that the bytes must have; `None` where the listing had none.
    pub crc32c: Option<u32>,
    /// The storage class.
    pub storage_class: StorageClass,
    /// How the stored bytes are compressed. Samples are delivered as stored, so decoders may have to decompress them.
    pub encoding: ContentEncoding,
    /// Index in [`Manifest::labels`](super::Manifest::labels) of the sample's label: of the first folder below the
    /// prefix on the object's path, unless the data set was given [other labels](crate::DatafluxDataset::label_by).
    /// `None` for an object right below the last `/` of the prefix, and in a hidden folder that isn't in the [list of
    /// classes](crate::DatafluxDataset::classes).
    pub label: Option<u32>,
}

/// An object whose name is borrowed.
pub type EntryRef<'a> = Entry<&'a str>;

/// An object without its name, which is faster to find than one with its name.
pub type Facts = Entry<()>;

impl<N> Entry<N> {
    pub(super) fn named<M>(self, name: M) -> Entry<M> {
        let Self { name: _, size, version, crc32c, storage_class, encoding, label } = self;
        // No manifest holds entity tags.
        let version = version.generation().map_or(Version::None, Version::Generation);
        Entry { name, size, version, crc32c, storage_class, encoding, label }
    }
}

/// Objects and bytes of one storage class in a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassTotal {
    /// The storage class.
    pub storage_class: StorageClass,
    /// Number of objects, at least 1.
    pub objects: u64,
    /// Bytes of these objects, as stored.
    pub bytes: u64,
}
