//! Which objects are the further parts of samples: one column for each part.

use std::path::PathBuf;
use std::sync::Arc;

use super::digest::ObjectsDigest;
use super::growth::{ClassTotals, Growth};
use super::{Digest, Entry};
use crate::list::Prefix;

/// The further parts of the samples of a manifest, whose own objects are the first parts.
#[derive(Debug)]
pub(super) struct PartColumns {
    /// One for each further part, at least one.
    pub(super) columns: Vec<PartColumn>,
    pub(super) sums: PartSums,
}

/// The objects that are one part of all samples.
#[derive(Debug)]
pub(super) struct PartColumn {
    pub(super) listing: PartListing,
    /// For each sample the index of the object in the listing.
    pub(super) indexes: PartIndexes,
}

/// The objects that a part is taken from: those of a manifest whose listing has ended.
#[derive(Clone, Debug)]
pub(super) struct PartListing {
    pub(super) prefix: Prefix,
    pub(super) growth: Arc<Growth>,
    /// The file that the objects are mapped from.
    pub(super) file: Option<PathBuf>,
}

/// Indexes in a listing: `u32` if they fit, and `u64` in larger listings.
#[derive(Debug)]
pub(super) enum PartIndexes {
    Short(Vec<u32>),
    Long(Vec<u64>),
}

/// The digest and the totals of all further parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartSums {
    /// Number of further parts of a sample.
    pub(super) parts: usize,
    /// Of sizes and checksums.
    pub(super) digest: Digest,
    pub(super) totals: ClassTotals,
}

/// The bytes of a listing are invalid at this index.
#[derive(Clone, Copy, Debug)]
pub(super) struct InvalidPart {
    pub(super) column: usize,
    pub(super) index: u64,
}

impl PartIndexes {
    /// Indexes in a listing of so many objects.
    pub(super) fn in_listing_of(objects: u64) -> Self {
        if u32::try_from(objects).is_ok() { Self::Short(Vec::new()) } else { Self::Long(Vec::new()) }
    }

    pub(super) fn push(&mut self, index: u64) {
        match self {
            Self::Short(indexes) => indexes.push(index as u32),
            Self::Long(indexes) => indexes.push(index),
        }
    }

    /// Takes back the indexes of all samples but the first `samples`.
    pub(super) fn truncate(&mut self, samples: usize) {
        match self {
            Self::Short(indexes) => indexes.truncate(samples),
            Self::Long(indexes) => indexes.truncate(samples),
        }
    }

    pub(super) fn shrink(&mut self) {
        match self {
            Self::Short(indexes) => indexes.shrink_to_fit(),
            Self::Long(indexes) => indexes.shrink_to_fit(),
        }
    }

    pub(super) fn get(&self, sample: u64) -> Option<u64> {
        let sample = usize::try_from(sample).ok()?;
        match self {
            Self::Short(indexes) => indexes.get(sample).map(|index| u64::from(*index)),
            Self::Long(indexes) => indexes.get(sample).copied(),
        }
    }

    /// The indexes of these samples only.
    fn select(&self, samples: &[u64]) -> Self {
        match self {
            Self::Short(indexes) => Self::Short(samples.iter().map(|sample| indexes[*sample as usize]).collect()),
            Self::Long(indexes) => Self::Long(samples.iter().map(|sample| indexes[*sample as usize]).collect()),
        }
    }

    fn bytes(&self) -> u64 {
        match self {
            Self::Short(indexes) => size_of_val(indexes.as_slice()) as u64,
            Self::Long(indexes) => size_of_val(indexes.as_slice()) as u64,
        }
    }
}

impl PartColumns {
    /// Columns that have an index for each of `samples` samples.
    pub(super) fn new(columns: Vec<PartColumn>, samples: u64) -> Result<Self, InvalidPart> {
        let sums = Self::sums_of(&columns, samples)?;
        Ok(Self { columns, sums })
    }

    /// The columns of these samples alone, which are in order.
    pub(super) fn select(&self, samples: &[u64]) -> Result<Self, InvalidPart> {
        let select = |PartColumn { listing, indexes }: &PartColumn| PartColumn {
            listing: listing.clone(),
            indexes: indexes.select(samples),
        };
        Self::new(self.columns.iter().map(select).collect(), samples.len() as u64)
    }

    /// Reads the facts of all parts.
    fn sums_of(columns: &[PartColumn], samples: u64) -> Result<PartSums, InvalidPart> {
        let (mut digest, mut totals) = (ObjectsDigest::default(), ClassTotals::default());
        for sample in 0..samples {
            for (number, column) in columns.iter().enumerate() {
                let index = column.indexes.get(sample).unwrap_or(u64::MAX);
                let facts = column.listing.growth.objects.record(index);
                let facts: Entry<()> = facts.ok_or(InvalidPart { column: number, index })?;
                digest.push(b"", &facts);
                totals.add(facts.storage_class, facts.size);
            }
        }
        Ok(PartSums { parts: columns.len(), digest: digest.finish(), totals })
    }

    /// Bytes of the indexes, and of the listings that parts are taken from.
    pub(super) fn memory_bytes(&self) -> u64 {
        let mut listings: Vec<&Arc<Growth>> = Vec::new();
        for PartColumn { listing, .. } in &self.columns {
            if !listings.iter().any(|other| Arc::ptr_eq(&other.objects, &listing.growth.objects)) {
                listings.push(&listing.growth);
            }
        }
        let indexes: u64 = self.columns.iter().map(|column| column.indexes.bytes()).sum();
        indexes + listings.iter().map(|growth| growth.objects.bytes()).sum::<u64>()
    }
}
