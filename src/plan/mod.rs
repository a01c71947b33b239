//! Divides samples into groups that are read together, and decides how each group is read.

mod cost;
mod group;
pub(crate) mod parts;

use std::sync::{Arc, Mutex};

use serde::Serialize;

use crate::Result;
use crate::lock::lock;
use crate::manifest::{Facts, Manifest};
use crate::sample::SampleId;
pub use crate::store::MAX_SOURCES;
use crate::store::{BucketInfo, StorageClass};
pub(crate) use cost::{Affordable, SampleScale};
pub use cost::{Bill, EpochCost, Forecast, Layout, PriceTable, Prices, cold_notice, usd};
pub(crate) use group::{Group, Method, Slice};

/// Most bytes of a composed object by default, which Python Dataflux uses, too.
pub const MAX_COMPOSED_BYTES: u64 = 100_000_000;

/// Least bytes of an object that is read in several ranges at once.
pub const MIN_RANGED: u64 = 32 << 20;

/// How to read small objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// Reads each object individually.
    Direct,
    /// Composes up to 32 objects on the server, reads the result, and deletes it. This writes to the bucket.
    Compose {
        /// Most bytes of a composed object. A larger sample is read individually.
        max_bytes: u64,
    },
    /// Measures while reading, and picks the method that delivers more samples per second: individual reads, composing,
    /// or both at once. Where the training loop is the bottleneck, or two methods are equally fast, it picks the
    /// cheaper one. Where composing writes to more than one region, it composes only if that is cheaper. It never
    /// composes cold storage classes, nor where the bucket or its permissions forbid composing.
    #[default]
    Auto,
}

impl Strategy {
    /// [`Compose`](Self::Compose) with the default cap of 100 MB.
    pub const fn compose() -> Self {
        Self::Compose { max_bytes: MAX_COMPOSED_BYTES }
    }
}

/// Why composing is impossible in a bucket, whatever the strategy, as the part of a sentence after "because"; `None`
/// where it is possible.
pub fn never_compose(bucket: &BucketInfo) -> Option<String> {
    if let Some(retention) = bucket.retention.filter(|retention| !retention.is_zero()) {
        let days = retention.as_secs_f64() / 86_400.0;
        return Some(format!("its retention policy keeps temporary objects from being deleted (days: {days})"));
    }
    bucket.default_hold.then(|| "its default hold keeps temporary objects from being deleted".to_owned())
}

/// Whether an object can be a source of a composed object of at most `max_bytes`. An object without a CRC couldn't be
/// verified in the composed object, and objects of [`StorageClass::Other`] may have different classes.
fn can_be_source(object: &Facts, max_bytes: u64) -> bool {
    let known = object.storage_class != StorageClass::Other && object.crc32c.is_some();
    known && object.size > 0 && object.size < max_bytes
}

/// How many groups were read by each method.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Groups {
    /// Objects read individually, in a single read.
    pub direct: u64,
    /// Large objects read in ranges.
    pub ranged: u64,
    /// Groups of objects that were composed and read as one. The objects of a group that could not be composed count as
    /// read individually; a group whose composed object could not be read stays one group, and the reads of its objects
    /// that follow are [retries](crate::metrics::Counts::retries).
    pub composed: u64,
}

impl std::ops::AddAssign for Groups {
    fn add_assign(&mut self, other: Self) {
        self.direct += other.direct;
        self.ranged += other.ranged;
        self.composed += other.composed;
    }
}

/// Running counts of [`Groups`]. Empty objects aren't counted, since they aren't read.
#[derive(Debug, Default)]
pub(crate) struct GroupCounts(Mutex<Groups>);

impl GroupCounts {
    pub(crate) fn count(&self, method: Method) {
        let mut groups = lock(&self.0);
        match method {
            Method::Empty => {}
            Method::Direct => groups.direct += 1,
            Method::Ranged => groups.ranged += 1,
            Method::Composed => groups.composed += 1,
        }
    }

    /// Counts the objects of a group that could not be composed as read individually.
    pub(crate) fn count_as_alone(&self, objects: u64) {
        let mut groups = lock(&self.0);
        groups.composed -= 1;
        groups.direct += objects;
    }

    pub(crate) fn groups(&self) -> Groups {
        *lock(&self.0)
    }
}

/// Divides samples of one data set into groups.
#[derive(Clone, Debug)]
pub(crate) struct Planner {
    manifest: Arc<Manifest>,
    strategy: Strategy,
    /// Most bytes of a composed object; 0 where nothing may be composed.
    max_bytes: u64,
    /// Least bytes of an object that is read in ranges.
    ranged: u64,
    prices: Prices,
    /// Whether only groups are composed that cost less composed.
    by_price: bool,
}

impl Planner {
    /// A planner for objects of `manifest`, which are in `bucket`. No composed object has more than `most_bytes` bytes,
    /// whatever the strategy allows. Objects of at least [`MIN_RANGED`] bytes are read in ranges.
    pub(crate) fn new(manifest: Arc<Manifest>, strategy: Strategy, most_bytes: u64, bucket: &BucketInfo) -> Self {
        let strategy = if never_compose(bucket).is_some() { Strategy::Direct } else { strategy };
        let max_bytes = match strategy {
            Strategy::Direct => 0,
            Strategy::Compose { max_bytes } => max_bytes,
            Strategy::Auto => MAX_COMPOSED_BYTES,
        };
        Self {
            manifest,
            strategy,
            max_bytes: max_bytes.min(most_bytes),
            ranged: MIN_RANGED,
            prices: Prices::of(bucket),
            by_price: false,
        }
    }

    /// Objects of at least `bytes` are read in ranges, instead of [`MIN_RANGED`].
    #[cfg(test)]
    #[must_use]
    pub(crate) fn ranged_from(mut self, bytes: u64) -> Self {
        self.ranged = bytes;
        self
    }

    /// Most bytes of a composed object.
    pub(crate) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Whether any objects may be composed.
    pub(crate) fn may_compose(&self) -> bool {
        self.max_bytes > 0
    }

    /// Bytes of these samples together.
    pub(crate) fn bytes(&self, ids: &[SampleId]) -> Result<u64> {
        ids.iter().try_fold(0u64, |sum, id| Ok(sum.saturating_add(self.manifest.location_facts(*id)?.bytes())))
    }

    /// Divides samples, given in the order of their delivery, into groups. Each sample is in exactly one group. With
    /// [`Strategy::Auto`] a composed group is one that *may* be composed: whether it is, or is split up into individual
    /// reads, is decided when its turn comes.
    ///
    /// # Errors
    /// The manifest's file was written to since it was opened.
    pub(crate) fn plan(&self, samples: &[SampleId]) -> Result<Vec<Group>> {
        let mut groups = Vec::new();
        // One open group for each storage class, since sources of a compose must have the same class.
        let mut open: Vec<(StorageClass, Group)> = Vec::new();
        for (slot, &id) in samples.iter().enumerate() {
            let location = self.manifest.location_facts(id)?;
            let object = &location.object;
            // A compose joins whole objects, and a download in several ranges is of a whole object.
            if location.range.is_some() || !self.may_be_source(object) {
                let ranged = if location.range.is_some() { u64::MAX } else { self.ranged };
                groups.push(Group::alone(slot, id, location.bytes(), ranged));
                continue;
            }
            let class = object.storage_class;
            let at = open.iter().position(|(of, _)| *of == class).unwrap_or_else(|| {
                open.push((class, Group { method: Method::Composed, slices: Vec::new() }));
                open.len() - 1
            });
            let group = &mut open[at].1;
            if group.slices.len() == MAX_SOURCES || group.bytes().saturating_add(object.size) > self.max_bytes {
                let full = std::mem::replace(group, Group { method: Method::Composed, slices: Vec::new() });
                self.close(class, full, &mut groups);
            }
            let start = group.bytes();
            group.slices.push(Slice { slot, id, range: start..start + object.size });
        }
        for (class, group) in open {
            self.close(class, group, &mut groups);
        }
        // Groups are requested in the order of their delivery.
        groups.sort_by_key(|group| group.slices[0].slot);
        Ok(groups)
    }

    /// A group of its own for a sample of a group.
    pub(crate) fn alone(&self, slice: &Slice) -> Group {
        Group::alone(slice.slot, slice.id, slice.range.end - slice.range.start, self.ranged)
    }

    /// Whether an object may be a source of a composed object. Cold storage classes are composed only by an explicit
    /// strategy.
    fn may_be_source(&self, object: &Facts) -> bool {
        let small = self.max_bytes.min(self.ranged);
        let class = object.storage_class;
        can_be_source(object, small)
            && !(self.strategy == Strategy::Auto && self.prices.is_cold(class))
            && (!self.by_price || self.prices.is_worth_composing(class, object.size, self.max_bytes))
    }

    /// Adds an open group to `groups`, composed or split up. A single sample is read individually. So are a few
    /// samples, unless composing was asked for: composing a few small ones takes as long as composing a full group,
    /// large ones gain nothing by it, and both would cost more than individual reads.
    fn close(&self, class: StorageClass, group: Group, groups: &mut Vec<Group>) {
        let sources = group.slices.len() as u64;
        if self.by_price && !self.prices.is_cheaper_composed(class, sources, group.bytes()) {
            groups.extend(group.split_up());
            return;
        }
        let (composed, alone) = (self.prices.composed(class, 0), self.prices.direct(class, sources));
        let is_too_small = self.strategy == Strategy::Auto && composed > alone;
        if sources > 1 && !is_too_small {
            groups.push(group);
        } else {
            groups.extend(group.split_up());
        }
    }

    /// Uses these prices instead of the built-in ones.
    #[must_use]
    pub(crate) fn with_prices(mut self, prices: Prices) -> Self {
        self.prices = prices;
        self
    }

    /// Composes only groups that cost less composed, so that no group costs more than individual reads.
    pub(crate) fn by_price(mut self) -> Self {
        self.by_price = true;
        self
    }

    /// The prices in use.
    pub(crate) fn prices(&self) -> &Prices {
        &self.prices
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Strategy;
    use super::*;
    use crate::manifest::tests::{manifest, object};

    fn planner(sizes: &[(u64, StorageClass, bool)], strategy: Strategy, bucket: &BucketInfo) -> Planner {
        let objects: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(index, &(size, class, crc))| {
                let mut object = object(&format!("p/{index:06}"), size);
                object.storage_class = class;
                object.crc32c = object.crc32c.filter(|_| crc);
                object
            })
            .collect();
        Planner::new(Arc::new(manifest(&objects)), strategy, u64::MAX, bucket)
    }

    fn all(planner: &Planner) -> Vec<SampleId> {
        (0..planner.manifest.len()).map(SampleId).collect()
    }

    fn class() -> impl proptest::strategy::Strategy<Value = StorageClass> {
        prop_oneof![Just(StorageClass::Standard), Just(StorageClass::Nearline), Just(StorageClass::Unspecified)]
    }

    proptest! {
        /// Python Dataflux overshoots its cap by up to one object, and composes empty ones.
        #[test]
        fn every_sample_once_and_no_group_over_a_limit(
            sizes in prop::collection::vec((0u64..2_000, class(), prop::bool::weighted(0.9)), 1..200),
            max_bytes in 1u64..20_000, ranged in 100u64..3_000,
        ) {
            let planner = planner(&sizes, Strategy::Compose { max_bytes }, &BucketInfo::default()).ranged_from(ranged);
            let batch = all(&planner);
            let groups = planner.plan(&batch).unwrap();
            let mut seen = vec![0; batch.len()];
            for group in &groups {
                let mut at = 0;
                for slice in &group.slices {
                    prop_assert_eq!(batch[slice.slot], slice.id);
                    prop_assert_eq!(slice.range.start, at);
                    prop_assert_eq!(slice.range.end - at, sizes[slice.slot].0);
                    at = slice.range.end;
                    seen[slice.slot] += 1;
                }
                match group.method {
                    Method::Empty => prop_assert_eq!((group.bytes(), group.slices.len()), (0, 1)),
                    Method::Direct => prop_assert!(group.slices.len() == 1 && group.bytes() < ranged),
                    Method::Ranged => prop_assert!(group.slices.len() == 1 && group.bytes() >= ranged),
                    Method::Composed => {
                        prop_assert!(group.bytes() <= max_bytes);
                        prop_assert!((2..=MAX_SOURCES).contains(&group.slices.len()));
                        let first = sizes[group.slices[0].slot];
                        prop_assert!(group.slices.iter().all(|slice| sizes[slice.slot].1 == first.1));
                        prop_assert!(group.slices.iter().all(|slice| sizes[slice.slot].2 && sizes[slice.slot].0 > 0));
                    }
                }
            }
            prop_assert!(seen.iter().all(|&times| times == 1));
        }
    }

    /// By the price table, 13.5 reads cost as much as a compose with its read.
    #[test]
    fn auto_composes_neither_small_groups_nor_cold_objects() {
        let composed = |count: usize, class, strategy| {
            let planner = planner(&vec![(1_000, class, true); count], strategy, &BucketInfo::default());
            planner.plan(&all(&planner)).unwrap().iter().filter(|group| group.method == Method::Composed).count()
        };
        let asked_for = Strategy::compose();
        for (count, auto, always) in [(64, 2, 2), (46, 2, 2), (45, 1, 2), (14, 1, 1), (13, 0, 1), (1, 0, 0)] {
            assert_eq!(composed(count, StorageClass::Standard, Strategy::Auto), auto, "{count}");
            assert_eq!(composed(count, StorageClass::Standard, asked_for), always, "{count}");
            assert_eq!(composed(count, StorageClass::Nearline, Strategy::Auto), 0, "{count}");
        }
        for (size, is_composed) in [(7_000_000, true), (8_000_000, false), (16_000_000, false)] {
            let planner = planner(&[(size, StorageClass::Standard, true); 32], Strategy::Auto, &BucketInfo::default());
            let groups = planner.plan(&all(&planner)).unwrap();
            assert_eq!(groups[0].method == Method::Composed, is_composed, "large ones: {size}");
        }
    }

    #[test]
    fn objects_without_a_class_are_as_cold_as_their_bucket() {
        let bucket = |storage_class| BucketInfo { storage_class, ..BucketInfo::default() };
        for (of_bucket, is_composed) in [(StorageClass::Standard, true), (StorageClass::Archive, false)] {
            let sizes = [(1_000, StorageClass::Unspecified, true); 32];
            let planner = planner(&sizes, Strategy::Auto, &bucket(of_bucket));
            let groups = planner.plan(&all(&planner)).unwrap();
            assert_eq!(groups[0].method == Method::Composed, is_composed, "{of_bucket:?}");
        }
    }

    #[test]
    fn never_composes_where_temporaries_cannot_be_deleted() {
        for bucket in [
            BucketInfo { retention: Some(std::time::Duration::from_secs(86_400)), ..BucketInfo::default() },
            BucketInfo { default_hold: true, ..BucketInfo::default() },
        ] {
            let planner = planner(&[(10, StorageClass::Standard, true); 64], Strategy::compose(), &bucket);
            assert!(planner.plan(&all(&planner)).unwrap().iter().all(|group| group.method == Method::Direct));
        }
    }
}
