//! Where the bytes of samples lie.

use std::iter;
use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::part_columns::{InvalidPart, PartListing};
use super::{Entry, Manifest};
use crate::store::ObjectId;
use crate::{Result, crc};

/// A sample, named by its index in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SampleId(pub u64);

/// Where the bytes of a sample lie: in an object, or in a range of its bytes, or in one row of such a range; or in
/// [several objects](crate::Parts), end to end. `N` is the type of the object's texts, as in [`Entry`].
///
/// Today each sample of a manifest is of whole objects: `range` and `row` are `None`, and a manifest doesn't store
/// them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Location<N = Arc<str>> {
    /// The object; of a sample that has several parts, the first.
    pub object: Entry<N>,
    /// The bytes of the object to read: start, inclusive, and end, exclusive. `None` for the whole object.
    pub range: Option<Range<u64>>,
    /// Which row of these bytes is the sample, counted from 0. `None` if they are the sample.
    pub row: Option<u64>,
    /// The further parts of the sample, whose bytes follow those of `object`. Empty unless the data set was given
    /// [`Parts`](crate::Parts).
    pub parts: Vec<PartLocation<N>>,
}

/// An object that is a further part of a sample.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PartLocation<N = Arc<str>> {
    /// The object's bucket, which may be another than that of the first part.
    pub bucket: Arc<str>,
    /// The object. Its label is that of the sample.
    pub object: Entry<N>,
}

impl<N> Location<N> {
    pub(crate) fn whole(object: Entry<N>) -> Self {
        Self { object, range: None, row: None, parts: Vec::new() }
    }

    /// Number of bytes to read.
    pub fn bytes(&self) -> u64 {
        self.sizes().fold(0, u64::saturating_add)
    }

    /// Number of bytes to read of each object, in the order of the bytes.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = u64> {
        let first = self.range.as_ref().map_or(self.object.size, |range| range.end.saturating_sub(range.start));
        iter::once(first).chain(self.parts.iter().map(|part| part.object.size))
    }

    /// The CRC32C that these bytes must have; of several parts, that of all bytes end to end. `None` where it isn't
    /// known: a listing has only those of whole objects.
    pub fn crc32c(&self) -> Option<u32> {
        let first = self.object.crc32c.filter(|_| self.range.is_none())?;
        self.parts
            .iter()
            .try_fold(first, |crc32c, part| Some(crc::combine(crc32c, part.object.crc32c?, part.object.size)))
    }

    /// The sample's objects, in the order of their bytes.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry<N>> + Clone {
        iter::once(&self.object).chain(self.parts.iter().map(|part| &part.object))
    }
}

impl Location {
    /// The first part alone.
    pub(crate) fn first(&self) -> Self {
        Self { object: self.object.clone(), range: self.range.clone(), row: self.row, parts: Vec::new() }
    }
}

impl Manifest {
    /// Where the bytes of a sample lie. Blocks until the listing has reached the sample, or its end.
    ///
    /// # Errors
    /// There is no such sample, the listing failed before it reached the sample, or the manifest's file was written to
    /// since it was opened.
    pub fn location(&self, id: SampleId) -> Result<Location> {
        let object = self.at(id.0)?;
        let parts = self.part_locations(id, object.label, |part, index| part.growth.objects.entry(index))?;
        Ok(Location { parts, ..Location::whole(object) })
    }

    /// As [`location`](Self::location), without the name.
    pub(crate) fn location_facts(&self, id: SampleId) -> Result<Location<()>> {
        let object = self.facts_at(id.0)?;
        let parts = self.part_locations(id, object.label, |part, index| part.growth.objects.record(index))?;
        Ok(Location { parts, ..Location::whole(object) })
    }

    /// The further parts of a sample, each read by `get`. All have the sample's label: labels of other listings have
    /// other numbers.
    fn part_locations<N>(
        &self,
        id: SampleId,
        label: Option<u32>,
        get: impl Fn(&PartListing, u64) -> Option<Entry<N>>,
    ) -> Result<Vec<PartLocation<N>>> {
        let Some(parts) = &self.parts else { return Ok(Vec::new()) };
        let locations = parts.columns.iter().enumerate().map(|(number, column)| {
            let index = column.indexes.get(id.0).unwrap_or(u64::MAX);
            let object = get(&column.listing, index);
            let object = object.ok_or_else(|| self.damaged_part(parts, InvalidPart { column: number, index }))?;
            Ok(PartLocation { bucket: Arc::clone(&column.listing.prefix.bucket), object: Entry { label, ..object } })
        });
        locations.collect()
    }

    /// The identities of the sample's objects, in the order of their bytes, each with its entry.
    pub(crate) fn objects<'a>(&'a self, location: &'a Location) -> impl Iterator<Item = (ObjectId, &'a Entry)> {
        let further = location.parts.iter().map(|PartLocation { bucket, object }| {
            let id = ObjectId::new(Arc::clone(bucket), Arc::clone(&object.name), object.version.clone());
            (id.with_scheme(self.prefix.scheme), object)
        });
        iter::once((self.id(&location.object), &location.object)).chain(further)
    }
}
