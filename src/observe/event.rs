//! What happens while data are listed, read and delivered, as observers get it.

use std::sync::Arc;
use std::time::Duration;

use crate::ErrorKind;

/// Something that happened to a call, an object, a temporary object, a sample, a batch or an epoch.
///
/// Objects are named without their bucket and their version. A composed read is of a temporary object, and its events
/// name that one. More kinds of events, and more fields, may come.
///
/// ```
/// use dataflux::Event;
///
/// fn describe(event: &Event) -> Option<String> {
///     match event {
///         Event::ObjectReceived { object, took, .. } => Some(format!("{object} took {took:.0?}")),
///         Event::CallRetried { object, error, .. } => Some(format!("{object} is tried again: {error:?}")),
///         _ => None,
///     }
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A page of a listing was received.
    #[non_exhaustive]
    PageListed {
        /// The bucket.
        bucket: Arc<str>,
        /// Number of objects in the page, before any filter.
        objects: u64,
        /// From the start of the call, with its retries.
        took: Duration,
    },
    /// The bytes of an object, or of a part of it, were requested. [`Counts::get`](crate::metrics::Counts::get) counts
    /// these.
    #[non_exhaustive]
    ObjectRequested {
        /// The object.
        object: Arc<str>,
        /// Number of the attempt, from 1. Always 1 for the second request of a hedged read.
        attempt: u32,
    },
    /// Some bytes of an object were received.
    #[non_exhaustive]
    ChunkReceived {
        /// The object.
        object: Arc<str>,
        /// Number of bytes.
        bytes: u64,
    },
    /// All requested bytes of an object were received. They are not verified yet. Of a large object that is read in
    /// several ranges, each range is an event.
    #[non_exhaustive]
    ObjectReceived {
        /// The object.
        object: Arc<str>,
        /// Number of bytes.
        bytes: u64,
        /// Number of attempts that this took, at least 1.
        attempts: u32,
        /// From the start of the read, with its retries. The wait until the loader makes the call is not included.
        took: Duration,
    },
    /// A sample was read, from the bucket or from a cache, verified and decoded.
    #[non_exhaustive]
    SampleDecoded {
        /// Index of the sample in the manifest: the number in its [`SampleId`](crate::SampleId).
        sample: u64,
        /// The epoch that the sample was decoded for.
        epoch: u64,
        /// Index of the batch among those of this rank in the epoch, those before the epoch was resumed included.
        batch: u64,
    },
    /// A batch was handed to the training loop. This never comes after the [end](Self::EpochEnded) of its epoch.
    #[non_exhaustive]
    BatchDelivered {
        /// The epoch.
        epoch: u64,
        /// Index of the batch among those of this rank in the epoch, those before the epoch was resumed included. The
        /// audit log has it as [`step`](crate::AuditRecord::step), unless the batch size changed at a resume.
        batch: u64,
        /// Number of samples.
        samples: u64,
        /// Bytes of the samples, as stored.
        bytes: u64,
        /// How long the training loop waited for the batch.
        waited: Duration,
    },
    /// A call is made again. [`Counts::retries`](crate::metrics::Counts::retries) counts these.
    #[non_exhaustive]
    CallRetried {
        /// The object that the call is about; the bucket for a call about no single object.
        object: Arc<str>,
        /// Why the attempt before failed. `None` if a whole call is repeated: because the bytes were wrong, because a
        /// composed read failed and its objects are read individually, or because a deletion must be made again.
        error: Option<ErrorKind>,
        /// Number of the attempt that now begins: from 2, or 1 if a whole call is repeated.
        attempt: u32,
    },
    /// A second request was sent for a read of which nothing arrived for long; see [`Hedge`](crate::store::Hedge). It
    /// is also an [`ObjectRequested`](Self::ObjectRequested).
    #[non_exhaustive]
    ReadHedged {
        /// The object.
        object: Arc<str>,
        /// How long nothing had arrived.
        waited: Duration,
    },
    /// A temporary object was composed.
    #[non_exhaustive]
    TemporaryMade {
        /// The temporary object.
        object: Arc<str>,
        /// Number of bytes.
        bytes: u64,
        /// From the start of the call, with its retries.
        took: Duration,
    },
    /// The deletion of a temporary object that was [made](Self::TemporaryMade) was confirmed.
    #[non_exhaustive]
    TemporaryRemoved {
        /// The temporary object.
        object: Arc<str>,
    },
    /// An epoch began. In a [series](crate::loader::DataLoader::epochs) it is read ahead of the training loop, which
    /// may still be in the epoch before. An epoch that is resumed begins again; so does an epoch of a part of a
    /// [mixture](crate::loader::MixedLoader) that is divided among several epochs of the mixture.
    #[non_exhaustive]
    EpochBegun {
        /// The epoch.
        epoch: u64,
    },
    /// An epoch that [began](Self::EpochBegun) ended: the training loop asked for a batch after the last one, the epoch
    /// was dropped, an error ended it, or its loader was closed.
    #[non_exhaustive]
    EpochEnded {
        /// The epoch.
        epoch: u64,
        /// Number of batches delivered since the epoch began.
        batches: u64,
        /// Number of samples delivered since the epoch began.
        samples: u64,
        /// Whether all batches of the epoch were delivered, those before it was resumed included. False if the data set
        /// is still being listed when the last batch is delivered, and the loop doesn't ask for another.
        is_complete: bool,
    },
}

macro_rules! kinds {
    ($($kind:ident,)+) => {
        /// The kind of an [`Event`]. An observer subscribes to kinds, so that nobody pays for events that nobody wants.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum EventKind {
            $(#[doc = concat!("The kind of [`Event::", stringify!($kind), "`].")] $kind,)+
        }

        impl EventKind {
            /// All kinds.
            pub fn all() -> impl Iterator<Item = Self> {
                [$(Self::$kind,)+].into_iter()
            }
        }

        impl Event {
            /// The kind of this event.
            pub fn kind(&self) -> EventKind {
                match self {
                    $(Self::$kind { .. } => EventKind::$kind,)+
                }
            }
        }
    };
}

kinds! {
    PageListed,
    ObjectRequested,
    ChunkReceived,
    ObjectReceived,
    SampleDecoded,
    BatchDelivered,
    CallRetried,
    ReadHedged,
    TemporaryMade,
    TemporaryRemoved,
    EpochBegun,
    EpochEnded,
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct KindSet(u32);

impl KindSet {
    pub(super) fn contains(self, kind: EventKind) -> bool {
        self.0 & (1 << kind as u32) != 0
    }

    pub(super) fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl FromIterator<EventKind> for KindSet {
    fn from_iter<I: IntoIterator<Item = EventKind>>(kinds: I) -> Self {
        Self(kinds.into_iter().fold(0, |set, kind| set | 1 << kind as u32))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_the_kinds_that_were_put_in() {
        for kind in EventKind::all() {
            let set = KindSet::from_iter([kind]);
            assert!(EventKind::all().all(|other| set.contains(other) == (other == kind)));
            assert!(set.union(KindSet::default()) == set && !KindSet::default().contains(kind));
        }
    }

    /// Thousands of events wait for each observer.
    #[test]
    fn an_event_is_small() {
        assert!(size_of::<Option<Event>>() <= 56, "{}", size_of::<Option<Event>>());
    }
}
