//! Which objects to read together, and how: samples cut into groups, and the choice between ways to read them.

mod cost;
pub(crate) mod parts;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

use crate::Result;
use crate::manifest::{Facts, Manifest};
use crate::sample::SampleId;
pub use crate::store::MAX_SOURCES;
use crate::store::{BucketInfo, StorageClass};
pub(crate) use cost::Affordable;
pub use cost::{Bill, Cost, Forecast, Layout, PriceTable, Prices, cold_notice, usd};

/// The most bytes of a composed object unless told otherwise: what Python Dataflux uses, too.
pub const MAX_COMPOSED_BYTES: u64 = 100_000_000;

/// The least bytes of an object that is read in several ranges at once: two of the parts that a range has at least.
pub const MIN_RANGED: u64 = 32 << 20;

/// How to read small objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Strategy {
    /// One read an object.
    Direct,
    /// Join up to 32 objects on the server, read the result, delete it. Writes to the bucket.
    Compose {
        /// The most bytes of a joined object; a sample larger than this is read by itself.
        max_bytes: u64,
    },
    /// Per group, by measurement: one by one, joined, or both at once, whichever brings more samples a second; where the
    /// training loop is what holds things up, or two ways are as fast, whichever costs less. Where composing writes to more
    /// than one region, only if that is cheaper; never to cold classes, nor where the bucket or the rights forbid it.
    #[default]
    Auto,
}

impl Strategy {
    /// Composing, with the usual cap of 100 MB.
    pub const fn compose() -> Self {
        Self::Compose { max_bytes: MAX_COMPOSED_BYTES }
    }
}

/// Why a bucket must not be composed in, whatever the strategy; a reason that goes on after "because".
pub fn never_compose(bucket: &BucketInfo) -> Option<String> {
    if let Some(retention) = bucket.retention.filter(|retention| !retention.is_zero()) {
        let days = retention.as_secs_f64() / 86_400.0;
        return Some(format!("its retention policy keeps temporary objects from being deleted (days: {days})"));
    }
    bucket.default_hold.then(|| "its default hold keeps temporary objects from being deleted".to_owned())
}

/// Whether an object can be a source of a composed one of at most `max_bytes`. What has no CRC can't be proved before it
/// is joined, and "another class" may be several.
fn can_be_source(object: &Facts, max_bytes: u64) -> bool {
    let known = object.storage_class != StorageClass::Other && object.crc32c.is_some();
    known && object.size > 0 && object.size < max_bytes
}

/// One sample's place in a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// Place among the samples that were planned together, from 0.
    pub slot: usize,
    /// The sample.
    pub id: SampleId,
    /// Where its bytes are in the payload.
    pub range: Range<u64>,
}

/// How a group is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Method {
    /// Nothing to read: the object is empty.
    Empty,
    /// One object, one read.
    Direct,
    /// One large object, read in several ranges at once.
    Ranged,
    /// At least two objects, joined by the server in the order of the slices.
    Composed,
}

/// Samples whose bytes are read together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// How.
    pub method: Method,
    /// In the order of their bytes, without a gap.
    pub slices: Vec<Slice>,
}

impl Group {
    /// One sample by itself. It is read in ranges if it has at least `ranged` bytes.
    pub(crate) fn alone(slot: usize, id: SampleId, size: u64, ranged: u64) -> Self {
        let method = match size {
            0 => Method::Empty,
            size if size >= ranged => Method::Ranged,
            _ => Method::Direct,
        };
        Self { method, slices: vec![Slice { slot, id, range: 0..size }] }
    }

    /// Bytes of the payload.
    pub fn bytes(&self) -> u64 {
        self.slices.last().map_or(0, |slice| slice.range.end)
    }

    /// The same samples, each read by itself; what was joined, whole.
    pub fn split_up(&self) -> impl Iterator<Item = Self> + '_ {
        // What is read in ranges stays so where composing is off.
        let ranged = if self.method == Method::Ranged { 0 } else { u64::MAX };
        self.slices
            .iter()
            .map(move |slice| Self::alone(slice.slot, slice.id, slice.range.end - slice.range.start, ranged))
    }
}

/// How many groups were read in which way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Groups {
    /// Objects read by themselves, in one read.
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

/// Running [`Groups`]; objects without bytes are read in no way.
#[derive(Debug, Default)]
pub(crate) struct GroupCounts([AtomicU64; 3]);

impl GroupCounts {
    pub(crate) fn count(&self, method: Method) {
        let at = match method {
            Method::Empty => return,
            Method::Direct => 0,
            Method::Ranged => 1,
            Method::Composed => 2,
        };
        self.0[at].fetch_add(1, Ordering::Relaxed);
    }

    /// Counts the objects of a group that could not be composed as read individually.
    pub(crate) fn count_as_alone(&self, objects: u64) {
        self.0[2].fetch_sub(1, Ordering::Relaxed);
        self.0[0].fetch_add(objects, Ordering::Relaxed);
    }

    pub(crate) fn groups(&self) -> Groups {
        let [direct, ranged, composed] = [0, 1, 2].map(|at: usize| self.0[at].load(Ordering::Relaxed));
        Groups { direct, ranged, composed }
    }
}

/// Plans the samples of one data set.
#[derive(Clone, Debug)]
pub struct Planner {
    manifest: Arc<Manifest>,
    strategy: Strategy,
    max_bytes: u64,
    ranged: u64,
    prices: Prices,
    by_price: bool,
}

impl Planner {
    /// A planner for objects of `manifest`, which live in `bucket`. No composed object has more than `most_bytes`,
    /// whatever the strategy allows. Objects of [`MIN_RANGED`] bytes and more are read in ranges.
    pub fn new(manifest: Arc<Manifest>, strategy: Strategy, most_bytes: u64, bucket: &BucketInfo) -> Self {
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
    #[must_use]
    pub fn ranged_from(mut self, bytes: u64) -> Self {
        self.ranged = bytes;
        self
    }

    /// The most bytes of a joined object.
    pub(crate) fn max_bytes(&self) -> u64 {
        self.max_bytes
    }

    /// Whether any objects may be joined.
    pub(crate) fn may_compose(&self) -> bool {
        self.max_bytes > 0
    }

    /// Bytes of these samples.
    pub(crate) fn bytes(&self, ids: &[SampleId]) -> Result<u64> {
        ids.iter().try_fold(0u64, |sum, id| Ok(sum.saturating_add(self.manifest.facts_at(id.0)?.size)))
    }

    /// Cuts samples, in the order of their delivery, into groups. Each sample is in exactly one. Of a [`Strategy::Auto`]
    /// groups are those that may be read joined; whether one is, or is [split up](Group::split_up), is decided when its
    /// turn comes.
    ///
    /// # Errors
    /// A manifest that no longer holds what it did.
    pub fn plan(&self, samples: &[SampleId]) -> Result<Vec<Group>> {
        let mut groups = Vec::new();
        // One open group for each storage class: sources of a compose must share it.
        let mut open: Vec<(StorageClass, Group)> = Vec::new();
        for (slot, &id) in samples.iter().enumerate() {
            let object = self.manifest.facts_at(id.0)?;
            if !self.may_join(&object) {
                groups.push(Group::alone(slot, id, object.size, self.ranged));
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
        // What is delivered first should be asked for first.
        groups.sort_by_key(|group| group.slices[0].slot);
        Ok(groups)
    }

    /// A sample of a group, by itself.
    pub(crate) fn alone(&self, slice: &Slice) -> Group {
        Group::alone(slice.slot, slice.id, slice.range.end - slice.range.start, self.ranged)
    }

    /// Whether an object is to be a source. Of the cold classes only an explicit strategy makes temporaries.
    fn may_join(&self, object: &Facts) -> bool {
        let small = self.max_bytes.min(self.ranged);
        let class = object.storage_class;
        can_be_source(object, small)
            && !(self.strategy == Strategy::Auto && self.prices.is_cold(class))
            && (!self.by_price || self.prices.worth_joining(class, object.size, self.max_bytes))
    }

    /// A group of one is read by itself. So are, unless composing was asked for, a few: small ones would take as long as a
    /// whole group, large ones have no need to be joined, and both would cost more than their reads.
    fn close(&self, class: StorageClass, group: Group, groups: &mut Vec<Group>) {
        let sources = group.slices.len() as u64;
        if self.by_price && !self.prices.joins(class, sources, group.bytes()) {
            groups.extend(group.split_up());
            return;
        }
        let (joined, alone) = (self.prices.composed(class, 0), self.prices.direct(class, sources));
        let few = self.strategy == Strategy::Auto && joined > alone;
        if sources > 1 && !few {
            groups.push(group);
        } else {
            groups.extend(group.split_up());
        }
    }

    /// The same by other prices than the built-in ones.
    #[must_use]
    pub fn with_prices(mut self, prices: Prices) -> Self {
        self.prices = prices;
        self
    }

    /// Joins what costs less joined, and nothing else, so that no group is dearer than its reads one by one.
    pub(crate) fn by_price(mut self) -> Self {
        self.by_price = true;
        self
    }

    /// What calls of an epoch come to.
    pub fn prices(&self) -> &Prices {
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

    /// By the price table 13.5 reads cost what a compose and its read do.
    #[test]
    fn auto_joins_no_few_and_nothing_cold() {
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
        for (size, joined) in [(7_000_000, true), (8_000_000, false), (16_000_000, false)] {
            let planner = planner(&[(size, StorageClass::Standard, true); 32], Strategy::Auto, &BucketInfo::default());
            let groups = planner.plan(&all(&planner)).unwrap();
            assert_eq!(groups[0].method == Method::Composed, joined, "large ones: {size}");
        }
    }

    #[test]
    fn objects_of_no_told_class_are_as_cold_as_their_bucket() {
        let bucket = |storage_class| BucketInfo { storage_class, ..BucketInfo::default() };
        for (of_bucket, joined) in [(StorageClass::Standard, true), (StorageClass::Archive, false)] {
            let sizes = [(1_000, StorageClass::Unspecified, true); 32];
            let planner = planner(&sizes, Strategy::Auto, &bucket(of_bucket));
            let groups = planner.plan(&all(&planner)).unwrap();
            assert_eq!(groups[0].method == Method::Composed, joined, "{of_bucket:?}");
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
