//! Counts of what was asked of the service: what an epoch cost at most is read from here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

macro_rules! counters {
    ($($(#[doc = $doc:literal])+ $name:ident,)+) => {
        /// Running counts of one [`Client`](crate::store::Client) and its clones. They only grow; read them with
        /// [`snapshot`](Self::snapshot).
        #[derive(Debug, Default)]
        pub struct Metrics {
            $(pub(crate) $name: Counter,)+
        }

        /// The counts of a [`Metrics`] at one moment. Calls are counted once for each attempt that was sent. Those
        /// that the service answers with an error are generally not billed, so that the bill may be lower than what
        /// these counts come to, not higher.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        #[non_exhaustive]
        pub struct Counts {
            $($(#[doc = $doc])+ pub $name: u64,)+
        }

        impl Metrics {
            /// The counts now. Each is exact; they are not read at one instant.
            pub fn snapshot(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }

            /// Counts that begin at 0, and of which each is counted here, too.
            pub(crate) fn part(&self) -> Self {
                Self { $($name: self.$name.part(),)+ }
            }
        }

        impl Counts {
            /// What was counted after `earlier` was taken from the same [`Metrics`].
            #[must_use]
            pub fn since(&self, earlier: &Self) -> Self {
                Self { $($name: self.$name.saturating_sub(earlier.$name),)+ }
            }

            /// As many times as `whole` is of `part`, which isn't 0.
            #[must_use]
            pub(crate) fn scaled(&self, (whole, part): (u64, u64)) -> Self {
                Self { $($name: scaled(self.$name, (whole, part)),)+ }
            }

            /// The sum of both, as for the epochs of a run.
            #[must_use]
            pub fn plus(&self, other: &Self) -> Self {
                Self { $($name: self.$name.saturating_add(other.$name),)+ }
            }
        }
    };
}

/// A number as many times as `whole` is of `part`, which isn't 0, rounded down.
pub(crate) fn scaled(number: u64, (whole, part): (u64, u64)) -> u64 {
    u64::try_from(u128::from(number) * u128::from(whole) / u128::from(part)).unwrap_or(u64::MAX)
}

counters! {
    /// Listing calls (class A).
    list,
    /// Those of them that answered with neither objects nor prefixes.
    empty_list,
    /// Media calls, resumed ones included (class B).
    get,
    /// Compose calls (class A).
    compose,
    /// Bytes of the objects that composing made.
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
    /// Look-ups of a bucket's facts and permissions (class B).
    bucket,
    /// Attempts that were made because an earlier one had failed or had brought wrong bytes: all but the first of a
    /// call, all of a read that is repeated since its bytes did not match their checksum, the reads of single objects
    /// after the read of their composed object failed, and deletions of a temporary object that was not there yet. Also
    /// counted by their kind above.
    retries,
    /// Listing calls whose first attempt the service refused because there were too many (429), or could not serve for now
    /// (503).
    list_refused,
    /// Media calls whose first attempt the service refused so.
    get_refused,
    /// Composes, deletions and uploads whose first attempt the service refused so.
    write_refused,
    /// Bytes of bodies received, those thrown away included; headers and listings are not.
    bytes_received,
    /// Those of them that were copied within this process, to be joined or to let go of a connection's read buffer.
    bytes_copied,
    /// Second requests for what a read missed when nothing came for long; also counted as media calls.
    hedged,
    /// Those of them that brought bytes before the first request did.
    hedges_won,
    /// Bytes of the objects uploaded, once for each attempt, whether or not it sent them all.
    bytes_sent,
}

/// A count, and those that it is a part of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counter(Arc<CounterLink>);

#[derive(Debug, Default)]
struct CounterLink {
    value: AtomicU64,
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
    fn since_is_what_came_between() {
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
    fn a_part_counts_for_the_whole_and_not_for_another_part() {
        let whole = Metrics::default();
        count(&whole.get);
        let (one, other) = (whole.part(), whole.part());
        add(&one.part().get, 3);
        count(&other.get);
        assert_eq!([one, other, whole].map(|metrics| metrics.snapshot().get), [3, 1, 5]);
    }
}
