//! The objects that a bucket starts with.

use std::sync::Arc;

use crate::{
    buckets::folder::Folder,
    objects::{
        attributes::ObjectAttributes,
        content::{Content, ContentSegment},
        version::ObjectVersion,
        virtual_namespace::VirtualSpec,
    },
    refusal::Refusal,
};

/// The objects that a bucket starts with, numbered in the byte order of their names. They never change.
pub(crate) enum BucketBase {
    Empty,
    Virtual(VirtualSpec),
    Folder(Folder),
}

impl BucketBase {
    /// The number of objects.
    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Virtual(spec) => spec.len(),
            Self::Folder(folder) => folder.len(),
        }
    }

    /// The first index whose name is not below `bound`.
    pub(crate) fn lower_bound(&self, bound: &[u8]) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Virtual(spec) => spec.lower_bound(bound),
            Self::Folder(folder) => folder.lower_bound(bound),
        }
    }

    /// Replaces the contents of `out` by the name at index `i`.
    pub(crate) fn read_name(&self, i: u64, out: &mut Vec<u8>) {
        out.clear();
        match self {
            Self::Empty => {}
            Self::Virtual(spec) => spec.write_name(i, out),
            Self::Folder(folder) => out.extend_from_slice(folder.name(i).as_bytes()),
        }
    }

    /// The object at index `i`, which must be below [`len`](Self::len). Refuses when its file has changed.
    pub(crate) fn object(&self, i: u64) -> Result<Option<Arc<ObjectVersion>>, Refusal> {
        Ok(match self {
            Self::Empty => None,
            Self::Virtual(spec) => Some(Arc::new(ObjectVersion {
                name: spec.name(i),
                generation: spec.generation(i),
                metageneration: 1,
                crc32c: spec.crc32c(i),
                md5: None,
                component_count: None,
                created: VirtualSpec::CREATED,
                updated: VirtualSpec::CREATED,
                attributes: ObjectAttributes {
                    storage_class: Some(spec.class().to_owned()),
                    ..ObjectAttributes::default()
                },
                content: Content::new([ContentSegment::Virtual { spec: spec.clone(), index: i }]),
            })),
            Self::Folder(folder) => Some(folder.object(i).map_err(|why| Refusal::changed_file(folder.name(i), &why))?),
        })
    }

    /// The index of the object with this name.
    pub(crate) fn index_of(&self, name: &str) -> Option<u64> {
        let index = Some(self.lower_bound(name.as_bytes())).filter(|index| *index < self.len())?;
        let mut found = Vec::new();
        self.read_name(index, &mut found);
        (found == name.as_bytes()).then_some(index)
    }

    pub(crate) fn find(&self, name: &str) -> Result<Option<Arc<ObjectVersion>>, Refusal> {
        self.index_of(name).map_or(Ok(None), |index| self.object(index))
    }
}
