//! Counts of the calls that were made. They bound the cost of an epoch from above.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Running counts of one [`Client`](crate::store::Client) and its clones. They only grow.
        /// [`snapshot`](Self::snapshot) reads them.
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(pub(crate) $name: Counter,)+
        }

        /// The counts of a [`Metrics`] at one moment. A call is counted once for each attempt that was sent. The
        /// service generally doesn't bill calls that it answers with an error, so the bill may be lower than these
        /// counts suggest, but not higher.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        #[non_exhaustive]
        pub struct Counts {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Metrics {
            /// The present counts. Each is exact, but they are not read at the same instant.
            pub fn snapshot(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }

            /// New counts that start at 0. Whatever is added to them is added to these counts, too.
            pub(crate) fn part(&self) -> Self {
                Self { $($name: self.$name.part(),)+ }
            }
        }

        impl Counts {
            /// The difference to `earlier`, a snapshot of the same [`Metrics`].
            #[must_use]
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($name: self.$name.saturating_sub(earlier.$name),)+ }
            }

            /// The counts multiplied by a ratio.
            #[must_use]
            pub(crate) fn scaled(&self, ratio: Ratio) -> Self {
                Self { $($name: ratio.scale(self.$name),)+ }
            }

            /// The sum of both, such as of two epochs.
            #[must_use]
            pub fn plus(&self, other: &Self) -> Self {
                Self { $($name: self.$name.saturating_add(other.$name),)+ }
            }
        }
    };
}

/// The ratio of a whole to a part of it, or of a part to the whole, by which counts are scaled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ratio {
    pub(crate) numerator: u64,
    /// Not 0.
    pub(crate) denominator: u64,
}

impl Ratio {
    /// `number` multiplied by the ratio, rounded down.
    pub(crate) fn scale(self, number: u64) -> u64 {
        let scaled = u128::from(number) * u128::from(self.numerator) / u128::from(self.denominator);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    }
}

counters! {
    /// Listing calls (class A).
    list,
    /// Listing calls that were answered with neither objects nor prefixes.
    empty_list,
    /// Calls that read an object's bytes, resumed ones included (class B).
    get,
    /// Compose calls (class A).
    compose,
    /// Bytes of the composed objects.
    bytes_composed,
    /// Delete calls (free).
    delete,
    /// Uploads (class A); a resumable one counts once.
    put,
    /// Copies on the server (class A); one that takes several calls counts once.
    copy,
    /// Changes of one object's metadata (class A).
    update,
    /// Look-ups of one object's metadata (class B).
    stat,
    /// Look-ups of a bucket's facts and of permissions (class B).
    bucket,
    /// Attempts that were made because an earlier one had failed or had brought wrong bytes: all but the first of a
    /// call, all of a read that is repeated since its bytes did not match their checksum, the reads of single objects
    /// after the read of their composed object failed, and deletions of a temporary object that did not exist yet. They
    /// are also counted by their kind above.
    retries,
    /// Listing calls whose first attempt the service refused because there were too many (429), or because it could not
    /// serve them for now (503).
    list_refused,
    /// Reads whose first attempt was refused with 429 or 503.
    get_refused,
    /// Composes, copies, deletions and uploads whose first attempt was refused with 429 or 503.
    write_refused,
    /// Bytes of bodies received, discarded ones included. Headers and listings are not counted.
    bytes_received,
    /// Received bytes that were copied within this process, to collect them or to release a connection's read buffer.
    bytes_copied,
    /// Second requests for reads of which nothing arrived for long; also counted as reads.
    hedged,
    /// Second requests that brought bytes before the first request did.
    hedges_won,
    /// Bytes of the objects uploaded, once for each attempt, whether or not it sent them all.
    bytes_sent,
}

/// A count that may be part of another count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter(Arc<CounterLink>);

#[derive(Debug, Default)]
struct CounterLink {
    value: AtomicU64,
    /// The count that this one is part of.
    whole: Option<Counter>,
}

impl Counter {
    pub(crate) fn load(&self, order: Ordering) -> u64 {
        self.0.value.load(order)
    }

    fn part(&self) -> Self {
        Self(Arc::new(CounterLink { value: AtomicU64::new(0), whole: Some(self.clone()) }))
    }
}

/// Adds one.
pub(crate) fn count(counter: &Counter) {
    add(counter, 1);
}

/// Adds `n`.
pub(crate) fn add(counter: &Counter, n: u64) {
    let mut next = Some(counter);
    while let Some(Counter(link)) = next {
        link.value.fetch_add(n, Ordering::Relaxed);
        next = link.whole.as_ref();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_the_difference_of_snapshots() {
        let metrics = Metrics::default();
        count(&metrics.get);
        let earlier = metrics.snapshot();
        count(&metrics.get);
        add(&metrics.bytes_received, 7);
        let between = metrics.snapshot().since(&earlier);
        assert_eq!(between, Counts { get: 1, bytes_received: 7, ..Counts::default() });
        assert_eq!(earlier.plus(&between), metrics.snapshot());
    }

    #[test]
    fn a_part_adds_to_the_whole_and_not_to_another_part() {
        let whole = Metrics::default();
        count(&whole.get);
        let (one, other) = (whole.part(), whole.part());
        add(&one.part().get, 3);
        count(&other.get);
        assert_eq!([one, other, whole].map(|metrics| metrics.snapshot().get), [3, 1, 5]);
    }
}
