//! Groups of samples that are read together.

use std::ops::Range;

use crate::manifest::Location;
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
    /// The objects that hold these bytes.
    pub(crate) objects: ObjectCount,
}

/// How many objects hold the bytes of a sample: usually one, and none if the sample is empty. Empty objects aren't
/// counted, since they aren't read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ObjectCount {
    /// Those that are read in a single call each, if the sample is read by itself.
    pub(crate) small: u32,
    /// Those that are read in ranges.
    pub(crate) large: u32,
}

impl ObjectCount {
    pub(crate) fn all(self) -> u64 {
        u64::from(self.small) + u64::from(self.large)
    }
}

/// How a group is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    /// The sample is empty, so there is nothing to read.
    Empty,
    /// One object, in a single read.
    Direct,
    /// One large object, in several ranges at once.
    Ranged,
    /// The objects of one sample that has several parts, all at once, each as it would be read if it were a sample.
    Parts,
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

impl Slice {
    /// The slice of a sample that is read by itself. Objects of at least `ranged` bytes are read in ranges.
    pub(crate) fn of<N>(slot: usize, id: SampleId, location: &Location<N>, ranged: u64) -> Self {
        // A download in several ranges is of a whole object.
        let ranged = if location.range.is_some() { u64::MAX } else { ranged };
        let mut objects = ObjectCount::default();
        for size in location.sizes().filter(|size| *size > 0) {
            *(if size >= ranged { &mut objects.large } else { &mut objects.small }) += 1;
        }
        Self { slot, id, range: 0..location.bytes(), objects }
    }

    /// Number of bytes.
    pub(crate) fn bytes(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// The same sample, whose bytes begin at `start` of another payload.
    pub(crate) fn at(self, start: u64) -> Self {
        let range = start..start + self.bytes();
        Self { range, ..self }
    }
}

impl Group {
    /// A group of one sample.
    pub(crate) fn alone(slice: Slice) -> Self {
        let method = match slice.objects {
            ObjectCount { small: 0, large: 0 } => Method::Empty,
            ObjectCount { small: 1, large: 0 } => Method::Direct,
            ObjectCount { small: 0, large: 1 } => Method::Ranged,
            _ => Method::Parts,
        };
        Self { method, slices: vec![slice.at(0)] }
    }

    /// Bytes of the payload.
    pub(crate) fn bytes(&self) -> u64 {
        self.slices.last().map_or(0, |slice| slice.range.end)
    }

    /// Number of objects that hold the bytes.
    pub(crate) fn objects(&self) -> u64 {
        self.slices.iter().map(|slice| slice.objects.all()).sum()
    }

    /// The same samples, each in a group of its own.
    pub(crate) fn split_up(&self) -> impl Iterator<Item = Self> + '_ {
        self.slices.iter().map(|slice| Self::alone(slice.clone()))
    }
}
