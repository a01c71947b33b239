//! Groups of samples that are read together.

use std::ops::Range;

use crate::sample::SampleId;

/// One sample's part of a group's payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Slice {
    /// Number of the sample among those that were planned together, counted from 0.
    pub(crate) slot: usize,
    /// The sample.
    pub(crate) id: SampleId,
    /// The range of its bytes in the payload.
    pub(crate) range: Range<u64>,
}

/// How a group is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// The object is empty, so there is nothing to read.
    Empty,
    /// One object, in a single read.
    Direct,
    /// One large object, in several ranges at once.
    Ranged,
    /// At least two objects, composed by the server in the order of the slices.
    Composed,
}

/// Samples whose bytes are read together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Group {
    /// How the group is read.
    pub(crate) method: Method,
    /// The samples, in the order of their bytes, without gaps.
    pub(crate) slices: Vec<Slice>,
}

impl Group {
    /// A group of one sample. It is read in ranges if it has at least `ranged` bytes.
    pub(crate) fn alone(slot: usize, id: SampleId, size: u64, ranged: u64) -> Self {
        let method = match size {
            0 => Method::Empty,
            size if size >= ranged => Method::Ranged,
            _ => Method::Direct,
        };
        Self { method, slices: vec![Slice { slot, id, range: 0..size }] }
    }

    /// Bytes of the payload.
    pub(crate) fn bytes(&self) -> u64 {
        self.slices.last().map_or(0, |slice| slice.range.end)
    }

    /// The same samples, each in a group of its own. Those of a composed group are then read in a single read each.
    pub(crate) fn split_up(&self) -> impl Iterator<Item = Self> + '_ {
        // A group that is read in ranges stays the same.
        let ranged = if self.method == Method::Ranged { 0 } else { u64::MAX };
        self.slices
            .iter()
            .map(move |slice| Self::alone(slice.slot, slice.id, slice.range.end - slice.range.start, ranged))
    }
}
