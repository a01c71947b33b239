//! Divides samples into groups that are read together, and decides how each group is read.

mod cost;
mod group;
pub(crate) mod parts;

use std::sync::{Arc, Mutex};

use serde::Serialize;

use crate::Result;
use crate::lock::lock;
use crate::manifest::{Entry, Location, Manifest};
use crate::sample::SampleId;
pub use crate::store::MAX_SOURCES;
use crate::store::{BucketInfo, StorageClass};
pub(crate) use cost::{Affordable, SampleScale};
pub use cost::{Bill, EpochCost, Forecast, Layout, PriceTable, Prices, cold_notice, usd};
#[cfg(test)]
pub(crate) use group::ObjectCount;
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
fn can_be_source<N>(object: &Entry<N>, max_bytes: u64) -> bool {
    let known = object.storage_class != StorageClass::Other && object.crc32c.is_some();
    known && object.size > 0 && object.size < max_bytes
}

/// The sources of a composed object that one sample makes, which are together in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct SampleSources {
    /// The storage class of all of them.
    class: StorageClass,
    /// At least one.
    count: usize,
    bytes: u64,
}

impl SampleSources {
    /// The sources of a sample, if it can be part of a composed object of at most `max_bytes` bytes in `bucket`, whose
    /// sources have less than `small` bytes each. Its empty objects are no sources.
    fn of<N>(location: &Location<N>, bucket: &str, max_bytes: u64, small: u64) -> Option<Self> {
        // A compose joins whole objects of one bucket and class.
        let is_elsewhere = location.parts.iter().any(|part| *part.bucket != *bucket);
        if location.range.is_some() || is_elsewhere {
            return None;
        }
        let mut entries = location.entries().filter(|entry| entry.size > 0);
        let class = entries.clone().next()?.storage_class;
        let is_source = |entry: &Entry<N>| entry.storage_class == class && can_be_source(entry, max_bytes.min(small));
        let (count, bytes) = (entries.clone().count(), location.bytes());
        let fits = count <= MAX_SOURCES && bytes <= max_bytes;
        (fits && entries.all(is_source)).then_some(Self { class, count, bytes })
    }

    /// Bytes of a source, on average.
    fn mean_bytes(&self) -> u64 {
        self.bytes / self.count as u64
    }
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
    pub(crate) fn count(&self, group: &Group) {
        let mut groups = lock(&self.0);
        match group.method {
            Method::Composed => groups.composed += 1,
            Method::Empty | Method::Direct | Method::Ranged | Method::Parts => {
                for slice in &group.slices {
                    groups.direct += u64::from(slice.objects.small);
                    groups.ranged += u64::from(slice.objects.large);
                }
            }
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

/// A group that may take more samples.
struct OpenGroup {
    class: StorageClass,
    group: Group,
    /// Objects of the group's samples.
    sources: usize,
}

impl OpenGroup {
    fn of_class(class: StorageClass) -> Self {
        Self { class, group: Group { method: Method::Composed, slices: Vec::new() }, sources: 0 }
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
        let mut open: Vec<OpenGroup> = Vec::new();
        for (slot, &id) in samples.iter().enumerate() {
            let location = self.manifest.location_facts(id)?;
            let slice = self.slice(slot, id, &location);
            let Some(sources) = self.sources(&location) else {
                groups.push(Group::alone(slice));
                continue;
            };
            let at = open.iter().position(|of| of.class == sources.class).unwrap_or_else(|| {
                open.push(OpenGroup::of_class(sources.class));
                open.len() - 1
            });
            let group = &mut open[at];
            if group.sources + sources.count > MAX_SOURCES
                || group.group.bytes().saturating_add(sources.bytes) > self.max_bytes
            {
                let full = std::mem::replace(group, OpenGroup::of_class(sources.class));
                self.close(full, &mut groups);
            }
            let start = group.group.bytes();
            group.group.slices.push(slice.at(start));
            group.sources += sources.count;
        }
        for group in open {
            self.close(group, &mut groups);
        }
        // Groups are requested in the order of their delivery.
        groups.sort_by_key(|group| group.slices[0].slot);
        Ok(groups)
    }

    /// A group of its own for a sample, whose bytes lie there.
    pub(crate) fn alone<N>(&self, slot: usize, id: SampleId, location: &Location<N>) -> Group {
        Group::alone(self.slice(slot, id, location))
    }

    /// The slice of a sample that is read by itself.
    pub(crate) fn slice<N>(&self, slot: usize, id: SampleId, location: &Location<N>) -> Slice {
        Slice::of(slot, id, location, self.ranged)
    }

    /// Number of samples that fill a composed object, if they are small; 1 if a sample alone has too many parts.
    pub(crate) fn samples_per_group(&self) -> usize {
        (MAX_SOURCES / self.manifest.part_count()).max(1)
    }

    /// The sources of a sample that may be composed. Cold storage classes are composed only by an explicit strategy.
    fn sources(&self, location: &Location<()>) -> Option<SampleSources> {
        let bucket = &self.manifest.prefix().bucket;
        let sources = SampleSources::of(location, bucket, self.max_bytes, self.ranged)?;
        let is_worth_it = || self.prices.is_worth_composing(sources.class, sources.mean_bytes(), self.max_bytes);
        let is_allowed = !(self.strategy == Strategy::Auto && self.prices.is_cold(sources.class))
            && (!self.by_price || is_worth_it());
        is_allowed.then_some(sources)
    }

    /// Adds an open group to `groups`, composed or split up. A single object is read individually. So are a few
    /// objects, unless composing was asked for: composing a few small ones takes as long as composing a full group,
    /// large ones gain nothing by it, and both would cost more than individual reads.
    fn close(&self, OpenGroup { class, group, sources }: OpenGroup, groups: &mut Vec<Group>) {
        let sources = sources as u64;
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
    use proptest::strategy::Strategy as _;

    use super::Strategy;
    use super::*;
    use crate::manifest::tests::{manifest, object, with_parts};
    use crate::plan::group::ObjectCount;

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
                    Method::Parts => prop_assert!(false, "samples have one part"),
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

    proptest! {
        #[test]
        fn samples_of_several_parts_stay_together_and_their_objects_count(
            samples in (1usize..5).prop_flat_map(|parts| {
                let part = (0u64..2_000, class(), prop::bool::weighted(0.95));
                prop::collection::vec(prop::collection::vec(part, parts), 1..100)
            }),
            is_uniform: bool, max_bytes in 1u64..20_000, ranged in 100u64..3_000,
        ) {
            let objects = |sample: &Vec<(u64, StorageClass, bool)>| {
                let object = |&(size, class, crc): &(u64, StorageClass, bool)| {
                    let mut object = object("", size);
                    object.storage_class = if is_uniform { StorageClass::Standard } else { class };
                    object.crc32c = object.crc32c.filter(|_| crc);
                    object
                };
                sample.iter().map(object).collect::<Vec<_>>()
            };
            let objects: Vec<_> = samples.iter().map(objects).collect();
            let strategy = Strategy::Compose { max_bytes };
            let manifest = Arc::new(with_parts(&objects));
            let planner = Planner::new(manifest, strategy, u64::MAX, &BucketInfo::default()).ranged_from(ranged);
            let batch = all(&planner);
            let mut seen = vec![0; batch.len()];
            for group in planner.plan(&batch).unwrap() {
                let (mut at, mut sources) = (0, 0);
                for slice in &group.slices {
                    let read: Vec<_> = objects[slice.slot].iter().filter(|object| object.size > 0).collect();
                    let large = read.iter().filter(|object| object.size >= ranged).count() as u32;
                    let wanted = ObjectCount { small: read.len() as u32 - large, large };
                    prop_assert_eq!((batch[slice.slot], slice.range.start), (slice.id, at));
                    prop_assert_eq!(slice.bytes(), read.iter().map(|object| object.size).sum::<u64>());
                    prop_assert_eq!(slice.objects, wanted);
                    (at, sources) = (slice.range.end, sources + read.len());
                    seen[slice.slot] += 1;
                    if group.method == Method::Composed {
                        prop_assert!(read.iter().all(|object| object.crc32c.is_some() && object.size < ranged));
                        prop_assert!(read.iter().all(|object| object.storage_class == read[0].storage_class));
                    }
                }
                prop_assert_eq!(group.objects(), sources as u64);
                match group.method {
                    Method::Composed => prop_assert!((2..=MAX_SOURCES).contains(&sources) && group.bytes() <= max_bytes),
                    Method::Empty => prop_assert_eq!((group.slices.len(), sources), (1, 0)),
                    Method::Direct | Method::Ranged => prop_assert_eq!((group.slices.len(), sources), (1, 1)),
                    Method::Parts => prop_assert!(group.slices.len() == 1 && sources > 1),
                }
                let alone: Vec<_> = group.split_up().map(|alone| alone.slices[0].id).collect();
                prop_assert_eq!(alone, group.slices.iter().map(|slice| slice.id).collect::<Vec<_>>());
            }
            prop_assert!(seen.iter().all(|&times| times == 1));
        }
    }

    #[test]
    fn a_group_has_as_many_samples_as_its_sources_allow() {
        let groups = |samples: usize, parts: usize, strategy| {
            let manifest = Arc::new(with_parts(&vec![vec![object("", 100); parts]; samples]));
            let planner = Planner::new(manifest, strategy, u64::MAX, &BucketInfo::default());
            let groups = planner.plan(&all(&planner)).unwrap();
            groups.iter().map(|group| (group.method, group.slices.len())).collect::<Vec<_>>()
        };
        let compose = Strategy::compose();
        assert_eq!(groups(20, 3, compose), [(Method::Composed, 10); 2]);
        assert_eq!(groups(17, 2, compose), [(Method::Composed, 16), (Method::Composed, 1)]);
        assert_eq!(groups(2, 32, compose), [(Method::Composed, 1); 2]);
        assert_eq!(groups(2, 33, compose), [(Method::Parts, 1); 2]);
        assert_eq!(groups(2, 3, Strategy::Direct), [(Method::Parts, 1); 2]);
        // By the price table, 13.5 reads cost as much as a compose with its read.
        assert_eq!(groups(4, 3, Strategy::Auto), [(Method::Parts, 1); 4]);
        assert_eq!(groups(5, 3, Strategy::Auto), [(Method::Composed, 5)]);
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
