//! Where the bytes of samples lie.

use std::ops::Range;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Entry, Manifest};
use crate::Result;

/// A sample, named by its index in the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SampleId(pub u64);

/// Where the bytes of a sample lie: in an object, or in a range of its bytes, or in one row of such a range. `N` is the
/// type of the object's texts, as in [`Entry`].
///
/// Today each sample of a manifest is a whole object: `range` and `row` are `None`, and a manifest doesn't store them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Location<N = Arc<str>> {
    /// The object.
    pub object: Entry<N>,
    /// The bytes of the object to read: start, inclusive, and end, exclusive. `None` for the whole object.
    pub range: Option<Range<u64>>,
    /// Which row of these bytes is the sample, counted from 0. `None` if they are the sample.
    pub row: Option<u64>,
}

impl<N> Location<N> {
    pub(crate) fn whole(object: Entry<N>) -> Self {
        Self { object, range: None, row: None }
    }

    /// Number of bytes to read.
    pub fn bytes(&self) -> u64 {
        self.range.as_ref().map_or(self.object.size, |range| range.end.saturating_sub(range.start))
    }

    /// The CRC32C that these bytes must have. `None` where it isn't known: a listing has only those of whole objects.
    pub fn crc32c(&self) -> Option<u32> {
        self.object.crc32c.filter(|_| self.range.is_none())
    }
}

impl Manifest {
    /// Where the bytes of a sample lie. Blocks until the listing has reached the sample, or its end.
    ///
    /// # Errors
    /// There is no such sample, the listing failed before it reached the sample, or the manifest's file was written to
    /// since it was opened.
    pub fn location(&self, id: SampleId) -> Result<Location> {
        self.at(id.0).map(Location::whole)
    }

    /// As [`location`](Self::location), without the name.
    pub(crate) fn location_facts(&self, id: SampleId) -> Result<Location<()>> {
        self.facts_at(id.0).map(Location::whole)
    }
}
