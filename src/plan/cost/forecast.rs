//! The forecast of an epoch's calls, bytes and cost, by strategy.

use serde::Serialize;

use super::price::usd;
use crate::manifest::{ClassTotal, Location, Manifest, SampleId};
use crate::metrics::{Counts, Ratio};
use crate::plan::parts::RangeSettings;
use crate::plan::{Bill, MAX_COMPOSED_BYTES, MAX_SOURCES, MIN_RANGED, Prices, SampleSources, Strategy};
use crate::store::StorageClass;
use crate::{Error, ErrorKind, Result, Stage};

/// Calls and bytes of an epoch, and their cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct EpochCost {
    /// Calls and bytes.
    pub ops: Counts,
    /// Dollars, by purpose.
    pub bill: Bill,
}

impl EpochCost {
    /// The sum of the bill, in dollars.
    pub fn usd(&self) -> f64 {
        self.bill.total()
    }

    fn of(classes: &CostByClass, prices: &Prices) -> Self {
        let each = || StorageClass::ALL.into_iter().zip(classes);
        Self {
            ops: classes.iter().fold(Counts::default(), |sum, counts| sum.plus(counts)),
            bill: each().map(|(class, counts)| prices.bill_of(class, counts)).sum(),
        }
    }
}

/// The calls, bytes and cost of one epoch over all samples, by all ranks together, if every call succeeds at the first
/// try.
///
/// For composed reads, each storage class is assumed to be divided into groups of 32 objects, or of as many as fit the
/// cap, in byte order of names. A shuffled epoch has other groups with the same number of objects on average, and where
/// groups end with batches, small batches have more groups. Calls that open a data set are not included: a listing, and
/// two calls of class B.
///
/// ```
/// # use dataflux::{Manifest, store::{BucketInfo, ObjectRef, Objects, StorageClass}};
/// use dataflux::plan::{Forecast, Layout, Prices};
/// # let names: Vec<String> = (0..1_000).map(|index| format!("train/{index:04}.png")).collect();
/// # let object = |name| ObjectRef { name, size: 4_096, crc32c: Some(7), ..ObjectRef::default() };
/// # let manifest = Manifest::new("gs://my-bucket/train/".parse()?, &names.iter().map(|name| object(name)).collect::<Objects>())?;
/// let forecast = Forecast::new(&manifest, &Prices::of(&BucketInfo::default()), Layout::default())?;
/// assert_eq!((forecast.direct.ops.get, forecast.composed.ops.get), (1_000, 32));
/// assert!(forecast.composed.usd() < forecast.direct.usd());
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Forecast {
    /// [`Strategy::Direct`].
    pub direct: EpochCost,
    /// [`Strategy::Compose`].
    pub composed: EpochCost,
    /// [`Strategy::Auto`], if it decided by price alone: each group is read by the cheaper method. Cold classes aren't
    /// composed.
    pub cheapest: EpochCost,
    /// [`Strategy::Compose`], if the bucket had no soft delete.
    pub composed_without_soft_delete: EpochCost,
    /// The part of each of these that is for large objects, which are read in ranges; `None` without large objects.
    pub ranged: Option<EpochCost>,
    /// Dollars of the most expensive mix of methods that [`Strategy::Auto`] may choose.
    #[serde(skip)]
    most_expensive: f64,
}

/// How objects are divided into ranges and composed into groups.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    most_bytes: u64,
    ranged_from: u64,
    ranges: RangeSettings,
}

impl Default for Layout {
    fn default() -> Self {
        Self { most_bytes: MAX_COMPOSED_BYTES, ranged_from: MIN_RANGED, ranges: RangeSettings::default() }
    }
}

impl Layout {
    /// Most bytes of a composed object; 100 MB by default.
    #[must_use]
    pub fn most_bytes(mut self, bytes: u64) -> Self {
        self.most_bytes = bytes;
        self
    }

    /// Least bytes of an object that is read in ranges; [`MIN_RANGED`] by default.
    #[must_use]
    pub fn ranged_from(mut self, bytes: u64) -> Self {
        self.ranged_from = bytes;
        self
    }

    /// Least bytes of a range, as for the loader's [`min_part_size`](crate::Limits::min_part_size).
    #[must_use]
    pub fn min_part_size(mut self, bytes: u64) -> Self {
        self.ranges.min_part_size = bytes;
        self
    }

    /// Most ranges of an object at once, as for the loader's [`max_streams`](crate::Limits::max_streams).
    #[must_use]
    pub fn max_streams(mut self, streams: usize) -> Self {
        self.ranges.max_streams = streams;
        self
    }

    pub(crate) fn ranges(mut self, ranges: RangeSettings) -> Self {
        self.ranges = ranges;
        self
    }

    /// Number of calls that read an object individually.
    fn calls(&self, size: u64) -> u64 {
        if size >= self.ranged_from { self.ranges.calls(size).max(1) } else { 1 }
    }
}

type CostByClass = [Counts; StorageClass::ALL.len()];

/// Running sums of a forecast.
struct CostSums<'a> {
    prices: &'a Prices,
    layout: Layout,
    direct: CostByClass,
    composed: CostByClass,
    cheapest: CostByClass,
    ranged: CostByClass,
    /// Dollars that composing adds for the objects for which it costs more.
    surcharge: f64,
}

/// Groups of the same size.
#[derive(Clone, Copy)]
struct EqualGroups {
    class: StorageClass,
    groups: u64,
    /// Objects of each group.
    sources: u64,
    /// Bytes of each group.
    bytes: u64,
}

impl EqualGroups {
    fn read_individually(self) -> Counts {
        reads(self.groups.saturating_mul(self.sources), self.groups.saturating_mul(self.bytes))
    }

    fn composed(self) -> Counts {
        let Self { groups, bytes, .. } = self;
        let bytes = groups.saturating_mul(bytes);
        Counts { compose: groups, delete: groups, bytes_composed: bytes, ..reads(groups, bytes) }
    }
}

/// A group that isn't full yet.
#[derive(Clone, Copy, Default)]
struct OpenGroup {
    sources: u64,
    bytes: u64,
}

impl OpenGroup {
    /// Adds the objects of a sample. If the group was full before, returns that and begins another group.
    fn push(&mut self, sample: SampleSources, most_bytes: u64) -> Option<Self> {
        let (sources, bytes) = (self.sources + sample.count as u64, self.bytes.saturating_add(sample.bytes));
        let is_full = sources > MAX_SOURCES as u64 || bytes > most_bytes;
        let full = is_full.then(|| std::mem::take(self));
        self.sources += sample.count as u64;
        self.bytes += sample.bytes;
        full
    }

    fn of_class(self, class: StorageClass) -> EqualGroups {
        EqualGroups { class, groups: 1, sources: self.sources, bytes: self.bytes }
    }
}

impl<'a> CostSums<'a> {
    fn new(prices: &'a Prices, layout: Layout) -> Self {
        let none = CostByClass::default();
        Self { prices, layout, direct: none, composed: none, cheapest: none, ranged: none, surcharge: 0.0 }
    }

    /// Adds `objects` objects of the same size, each read individually whatever the strategy.
    fn add_individual(&mut self, class: StorageClass, objects: u64, size: u64) {
        let counts = reads(objects.saturating_mul(self.layout.calls(size)), objects.saturating_mul(size));
        for sums in [&mut self.direct, &mut self.composed, &mut self.cheapest] {
            add(sums, class, &counts);
        }
        if size >= self.layout.ranged_from {
            add(&mut self.ranged, class, &counts);
        }
    }

    /// Adds groups that can be composed to the forecasts of direct and composed reads.
    fn add_groups(&mut self, groups: EqualGroups) {
        let individual = groups.read_individually();
        add(&mut self.direct, groups.class, &individual);
        let composed = if groups.sources < 2 { individual } else { groups.composed() };
        add(&mut self.composed, groups.class, &composed);
    }

    /// Adds groups to the forecast by price, in which they are composed only where that costs less.
    fn add_by_price(&mut self, groups: EqualGroups) {
        let EqualGroups { class, sources, bytes, .. } = groups;
        let is_composed = self.prices.is_cheaper_composed(class, sources, bytes);
        let counts = if is_composed { groups.composed() } else { groups.read_individually() };
        add(&mut self.cheapest, class, &counts);
    }

    /// Scales the sums of a sample of the objects to all objects.
    fn scale(&mut self, scale: SampleScale) {
        let SampleScale { all, sampled } = scale;
        for sums in [&mut self.direct, &mut self.composed, &mut self.cheapest, &mut self.ranged] {
            *sums = sums.map(|counts| counts.scaled(Ratio { numerator: all, denominator: sampled }));
        }
        self.surcharge *= all as f64 / sampled as f64;
    }

    fn forecast(&self) -> Forecast {
        let cost = |classes| EpochCost::of(classes, self.prices);
        let (direct, composed) = (cost(&self.direct), cost(&self.composed));
        Forecast {
            most_expensive: (direct.usd() + self.surcharge).max(composed.usd()),
            direct,
            composed,
            composed_without_soft_delete: EpochCost::of(&self.composed, &self.prices.without_soft_delete()),
            cheapest: cost(&self.cheapest),
            ranged: (self.ranged != CostByClass::default()).then(|| cost(&self.ranged)),
        }
    }
}

fn reads(calls: u64, bytes: u64) -> Counts {
    Counts { get: calls, bytes_received: bytes, ..Counts::default() }
}

fn add(sums: &mut CostByClass, class: StorageClass, counts: &Counts) {
    let sum = &mut sums[class as usize];
    *sum = sum.plus(counts);
}

/// How a sample of objects is scaled to all objects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SampleScale {
    pub(crate) all: u64,
    pub(crate) sampled: u64,
}

impl SampleScale {
    /// All objects are in the sample.
    const WHOLE: Self = Self { all: 1, sampled: 1 };
}

impl Forecast {
    /// A forecast from all objects of a manifest, at some 50 ns for each. Waits for the end of the listing.
    ///
    /// # Errors
    /// The listing failed; the manifest's file was written to since it was opened.
    pub fn new(manifest: &Manifest, prices: &Prices, layout: Layout) -> Result<Self> {
        manifest.complete()?;
        let locations = (0..manifest.len()).map(|index| manifest.location_facts(SampleId(index)));
        Self::of_locations(locations, &manifest.prefix().bucket, SampleScale::WHOLE, prices, layout)
    }

    /// A forecast from the locations of these training samples, which are a sample of all of them. The data set is in
    /// `bucket`.
    ///
    /// # Errors
    /// Those of `locations`.
    pub(crate) fn of_locations(
        locations: impl Iterator<Item = Result<Location<()>>>,
        bucket: &str,
        scale: SampleScale,
        prices: &Prices,
        layout: Layout,
    ) -> Result<Self> {
        let mut sums = CostSums::new(prices, layout);
        // The open group of each class: of all objects, and of those that are worth composing by price.
        let mut open = [OpenGroup::default(); StorageClass::ALL.len()];
        let mut open_by_price = open;
        let most_bytes = layout.most_bytes;
        for location in locations {
            let location = location?;
            let Some(sample) = SampleSources::of(&location, bucket, most_bytes, layout.ranged_from) else {
                for object in location.entries().filter(|object| object.size > 0) {
                    sums.add_individual(object.storage_class, 1, object.size);
                }
                continue;
            };
            let (class, size, sources) = (sample.class, sample.mean_bytes(), sample.count as u64);
            if let Some(full) = open[class as usize].push(sample, most_bytes) {
                sums.add_groups(full.of_class(class));
            }
            sums.surcharge += sources as f64 * prices.surcharge_if_composed(class, size, most_bytes);
            if !prices.is_worth_composing(class, size, most_bytes) {
                add(&mut sums.cheapest, class, &reads(sources, sample.bytes));
            } else if let Some(full) = open_by_price[class as usize].push(sample, most_bytes) {
                sums.add_by_price(full.of_class(class));
            }
        }
        for class in StorageClass::ALL {
            let (all, by_price) = (open[class as usize], open_by_price[class as usize]);
            if all.sources > 0 {
                sums.add_groups(all.of_class(class));
            }
            if by_price.sources > 0 {
                sums.add_by_price(by_price.of_class(class));
            }
        }
        sums.scale(scale);
        Ok(sums.forecast())
    }

    /// A forecast from totals alone, as if all objects of a class had the same size. Each training sample is of
    /// `parts` objects, which stay together.
    pub(crate) fn of_totals(
        classes: impl Iterator<Item = ClassTotal>,
        parts: usize,
        prices: &Prices,
        layout: Layout,
    ) -> Self {
        let mut sums = CostSums::new(prices, layout);
        let most_sources = (MAX_SOURCES / parts * parts) as u64;
        for ClassTotal { storage_class: class, objects, bytes } in classes.filter(|class| class.bytes > 0) {
            let mean = (bytes / objects).max(1);
            let sources = (layout.most_bytes / mean).min(most_sources);
            if sources < 2 || class == StorageClass::Other || mean >= layout.ranged_from {
                sums.add_individual(class, objects, mean);
                continue;
            }
            sums.surcharge += prices.surcharge_if_composed(class, mean, layout.most_bytes) * objects as f64;
            let (full, rest) = (objects / sources, objects % sources);
            for (groups, sources) in [(full, sources), (u64::from(rest > 0), rest)] {
                let groups = EqualGroups { class, groups, sources, bytes: sources * mean };
                sums.add_groups(groups);
                sums.add_by_price(groups);
            }
        }
        sums.forecast()
    }

    /// The cost of a strategy; for [`Strategy::Auto`], what it would cost by price alone.
    pub fn of(&self, strategy: Strategy) -> &EpochCost {
        match strategy {
            Strategy::Direct => &self.direct,
            Strategy::Compose { .. } => &self.composed,
            Strategy::Auto => &self.cheapest,
        }
    }
}

impl Forecast {
    /// If composing costs more than individual reads, a text that says how much more, why, and what to do.
    pub fn composing_advice(&self, bucket: &str, prices: &Prices) -> Option<String> {
        let (direct, composed) = (self.direct.usd(), self.composed.usd());
        if composed <= direct {
            return None;
        }
        let Bill { temporaries, replication, .. } = self.composed.bill;
        let mut why = Vec::new();
        if temporaries > 0.0 {
            let days = prices.soft_delete().as_secs_f64() / 86_400.0;
            why.push(if self.composed_without_soft_delete.bill.temporaries < temporaries {
                format!("soft delete keeps temporary objects, and bills them, for {days} days ({})", usd(temporaries))
            } else {
                format!("cold storage bills temporary objects for a month and more ({})", usd(temporaries))
            });
        }
        if replication > 0.0 {
            why.push(format!("temporary objects are copied to another region ({})", usd(replication)));
        }
        if why.is_empty() {
            why.push("few objects fit into a temporary one".to_owned());
        }
        let hard = self.composed_without_soft_delete.usd();
        let way_out = if hard < direct {
            format!(
                ", or switch soft delete off, and composing costs {}: `gcloud storage buckets update gs://{bucket} \
                 --clear-soft-delete`",
                usd(hard)
            )
        } else {
            String::new()
        };
        Some(format!(
            "composing costs {} an epoch, and reading object by object {}, since {}; choose Strategy::Direct (--strategy \
             direct){way_out}",
            usd(composed),
            usd(direct),
            why.join(" and "),
        ))
    }
}

/// What a strategy may do within a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Affordable {
    /// Any method.
    All,
    /// Only individual reads.
    Direct,
    /// Only composing all objects that can be composed.
    Composed,
    /// Only the cheaper method for each group, whatever measurements say.
    Cheapest,
}

impl Forecast {
    /// What a strategy may do within a budget of `budget` dollars for an epoch. `no_compose` is the reason why nothing
    /// can be composed, if so.
    ///
    /// # Errors
    /// The budget is too small for anything.
    pub(crate) fn within(&self, budget: f64, strategy: Strategy, no_compose: Option<&str>) -> Result<Affordable> {
        let fits = |cost: &EpochCost| cost.usd() <= budget;
        let composes = no_compose.is_none();
        let allowed = match strategy {
            _ if !composes => fits(&self.direct).then_some(Affordable::Direct),
            Strategy::Direct => fits(&self.direct).then_some(Affordable::Direct),
            Strategy::Compose { .. } => fits(&self.composed).then_some(Affordable::Composed),
            Strategy::Auto => match (fits(&self.direct), fits(&self.composed)) {
                (true, true) if self.most_expensive <= budget => Some(Affordable::All),
                (true, true) => Some(Affordable::Cheapest),
                (true, false) => Some(Affordable::Direct),
                (false, true) => Some(Affordable::Composed),
                (false, false) => fits(&self.cheapest).then_some(Affordable::Cheapest),
            },
        };
        allowed.ok_or_else(|| self.over_budget(budget, strategy, no_compose))
    }

    fn over_budget(&self, budget: f64, strategy: Strategy, no_compose: Option<&str>) -> Error {
        let mut options = vec![("Strategy::Direct", &self.direct)];
        if no_compose.is_none() {
            options
                .extend([("Strategy::compose()", &self.composed), ("Strategy::Auto by price alone", &self.cheapest)]);
        }
        let figures: Vec<_> = options.iter().map(|(name, cost)| format!("{name} {}", usd(cost.usd()))).collect();
        let hint = match options.iter().min_by(|(_, one), (_, other)| one.usd().total_cmp(&other.usd())) {
            Some((name, least)) if least.usd() <= budget => format!("choose {name}, which fits, or raise the budget"),
            least => {
                let least = least.map_or(0.0, |(_, cost)| cost.usd());
                format!("raise the budget above {}, or filter the data set", usd(least))
            }
        };
        let never = no_compose.map(|why| format!("; nothing can be composed here, because {why}")).unwrap_or_default();
        let wanted = if no_compose.is_some() { &self.direct } else { self.of(strategy) };
        Error::new(ErrorKind::Config, "an epoch costs more than its budget, over all ranks")
            .stage(Stage::Plan)
            .mismatch(
                format_args!("at most {}", usd(budget)),
                format_args!("{} ({})", usd(wanted.usd()), figures.join(", ")),
            )
            .hint(hint + &never)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use proptest::prelude::{prop, proptest};
    use proptest::prop_assert_eq;
    use proptest::strategy::Strategy as _;

    use super::*;
    use crate::manifest::tests::{manifest, object, with_parts};
    use crate::plan::{Method, Planner};
    use crate::store::BucketInfo;

    fn of_sizes(sizes: &[(u64, StorageClass, bool)]) -> Manifest {
        let objects = sizes.iter().enumerate().map(|(index, &(size, class, crc))| {
            let mut object = object(&format!("p/{index:06}"), size);
            object.storage_class = class;
            object.crc32c = object.crc32c.filter(|_| crc);
            object
        });
        manifest(&objects.collect::<Vec<_>>())
    }

    fn uniform(objects: usize, size: u64) -> Manifest {
        of_sizes(&vec![(size, StorageClass::Standard, true); objects])
    }

    fn hard() -> BucketInfo {
        BucketInfo { soft_delete: Some(Duration::ZERO), ..BucketInfo::default() }
    }

    fn class() -> impl proptest::strategy::Strategy<Value = StorageClass> {
        prop::sample::select(StorageClass::ALL.to_vec())
    }

    /// Small ones, and some about and far above the size from which objects are read in ranges.
    fn size() -> impl proptest::strategy::Strategy<Value = u64> {
        proptest::prop_oneof![9 => 0u64..200_000, 1 => MIN_RANGED - 2..MIN_RANGED + 2, 1 => 0..5 * MIN_RANGED]
    }

    /// What the planner plans of all samples at once, counted.
    fn planned(manifest: &Arc<Manifest>, strategy: Strategy, most_bytes: u64, bucket: &BucketInfo) -> EpochCost {
        let prices = Prices::of(bucket);
        let planner = Planner::new(Arc::clone(manifest), strategy, most_bytes, bucket);
        // Otherwise Auto would decide by measurement.
        let planner = if strategy == Strategy::Auto { planner.by_price() } else { planner };
        let ids: Vec<_> = (0..manifest.len()).map(SampleId).collect();
        let mut cost = EpochCost::default();
        let mut add = |class, counts: Counts| {
            cost.ops = cost.ops.plus(&counts);
            cost.bill = cost.bill + prices.bill_of(class, &counts);
        };
        for group in planner.plan(&ids).unwrap() {
            let locations: Vec<_> =
                group.slices.iter().map(|slice| manifest.location_facts(slice.id).unwrap()).collect();
            let mut objects = locations.iter().flat_map(Location::entries).filter(|object| object.size > 0);
            if group.method == Method::Composed {
                let bytes = group.bytes();
                let counts = Counts { compose: 1, delete: 1, bytes_composed: bytes, ..reads(1, bytes) };
                add(objects.next().unwrap().storage_class, counts);
                continue;
            }
            for object in objects {
                let is_large = object.size >= MIN_RANGED;
                let calls = if is_large { RangeSettings::default().calls(object.size) } else { 1 };
                add(object.storage_class, reads(calls, object.size));
            }
        }
        cost
    }

    proptest! {
        #[test]
        fn the_forecast_is_what_the_planner_plans(
            sizes in prop::collection::vec((size(), class(), prop::bool::weighted(0.9)), 1..200),
            most_bytes in prop::sample::select(vec![1, 50_000, 1_000_000, 4_000_000, 50_000_000, MAX_COMPOSED_BYTES]),
            soft_delete in prop::option::of(0u64..30 * 86_400),
        ) {
            let manifest = Arc::new(of_sizes(&sizes));
            let bucket = BucketInfo { soft_delete: soft_delete.map(Duration::from_secs), ..BucketInfo::default() };
            let forecast = Forecast::new(&manifest, &Prices::of(&bucket), Layout::default().most_bytes(most_bytes)).unwrap();
            for strategy in [Strategy::Direct, Strategy::compose(), Strategy::Auto] {
                let planned = planned(&manifest, strategy, most_bytes, &bucket);
                let cost = forecast.of(strategy);
                prop_assert_eq!(cost.ops, planned.ops, "{:?}", strategy);
                proptest::prop_assert!((cost.usd() - planned.usd()).abs() <= 1e-9 * planned.usd(), "{:?}", strategy);
            }
        }

        #[test]
        fn the_forecast_counts_the_objects_of_samples(
            samples in (2usize..5).prop_flat_map(|parts| {
                let part = (size(), class(), prop::bool::weighted(0.95));
                prop::collection::vec(prop::collection::vec(part, parts), 1..60)
            }),
            is_uniform: bool,
            most_bytes in prop::sample::select(vec![1, 50_000, 1_000_000, 4_000_000, MAX_COMPOSED_BYTES]),
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
            let manifest = Arc::new(with_parts(&samples.iter().map(objects).collect::<Vec<_>>()));
            let (bucket, layout) = (BucketInfo::default(), Layout::default().most_bytes(most_bytes));
            let forecast = Forecast::new(&manifest, &Prices::of(&bucket), layout).unwrap();
            for strategy in [Strategy::Direct, Strategy::compose(), Strategy::Auto] {
                let planned = planned(&manifest, strategy, most_bytes, &bucket);
                prop_assert_eq!(forecast.of(strategy).ops, planned.ops, "{:?}", strategy);
            }
        }

        #[test]
        fn totals_of_objects_of_one_size_give_the_same_forecast_as_each_object(objects in 1usize..300, size in 1u64..200_000) {
            let (manifest, prices, layout) = (uniform(objects, size), Prices::of(&hard()), Layout::default().most_bytes(1_000_000));
            let (each, totals) = (
                Forecast::new(&manifest, &prices, layout).unwrap(),
                Forecast::of_totals(manifest.storage_classes(), 1, &prices, layout),
            );
            prop_assert_eq!(each.direct.ops, totals.direct.ops);
            prop_assert_eq!(each.composed.ops, totals.composed.ops);
            prop_assert_eq!(each.cheapest.ops, totals.cheapest.ops);
        }
    }

    #[test]
    fn large_objects_are_read_in_ranges_and_not_joined() {
        let of = |sizes: &[u64]| {
            let sizes: Vec<_> = sizes.iter().map(|&size| (size, StorageClass::Standard, true)).collect();
            let layout = Layout::default().ranged_from(2_000).min_part_size(1_000).max_streams(1);
            let forecast = Forecast::new(&of_sizes(&sizes), &Prices::of(&hard()), layout).unwrap();
            (forecast.direct.ops.get, forecast.composed.ops.get, forecast.ranged.map(|cost| cost.ops.get))
        };
        // Two of 1,000; one of 1,000, three of 2,500 and the rest.
        assert_eq!(of(&[1, 1_999, 2_000, 10_000]), (9, 8, Some(7)));
        assert_eq!(of(&[0, 1, 1_999]), (2, 1, None));
    }

    #[test]
    fn where_composing_costs_more_the_text_has_reasons_figures_and_a_remedy() {
        let advice = |bucket: &BucketInfo, size| {
            let prices = Prices::of(bucket);
            Forecast::new(&uniform(3_200, size), &prices, Layout::default()).unwrap().composing_advice("pets", &prices)
        };
        let week = BucketInfo::default();
        assert_eq!(advice(&week, 1_000), None);
        // 3,200 reads cost $0.00128. 100 composites of 3.2 MB: $0.00054, and 0.298 GiB for a week: $0.00139.
        assert_eq!(
            advice(&week, 100_000).unwrap(),
            "composing costs $0.00193 an epoch, and reading object by object $0.00128, since soft delete keeps temporary \
             objects, and bills them, for 7 days ($0.00139); choose Strategy::Direct (--strategy direct), or switch soft delete off, and \
             composing costs $0.000540: `gcloud storage buckets update gs://pets --clear-soft-delete`"
        );
        assert_eq!(advice(&hard(), 100_000), None);
        let two = BucketInfo { location_type: Some("dual-region".into()), ..hard() };
        let replicated = advice(&two, 100_000).unwrap();
        assert!(replicated.contains("copied to another region") && !replicated.contains("gcloud"), "{replicated}");
        let few = advice(&hard(), 10_000_000).unwrap();
        assert!(few.contains("few objects fit"), "{few}");
    }

    #[test]
    fn a_budget_rules_out_what_costs_more() {
        use Strategy::{Auto, Direct};
        let compose = Strategy::compose();
        // 3,200 small ones, which composing reads for less, and 3,200 large ones, which it reads for more.
        let sizes: Vec<_> = [1_000, 1_000_000].map(|size| vec![(size, StorageClass::Standard, true); 3_200]).concat();
        let forecast =
            Forecast::new(&of_sizes(&sizes), &Prices::of(&BucketInfo::default()), Layout::default()).unwrap();
        let (direct, composed, cheapest) = (forecast.direct.usd(), forecast.composed.usd(), forecast.cheapest.usd());
        assert!(cheapest < direct && direct < composed);
        let within = |budget, strategy| forecast.within(budget, strategy, None);
        assert_eq!(within(composed, Auto).unwrap(), Affordable::Cheapest, "a mix may cost more than either method");
        assert_eq!(within(forecast.most_expensive, Auto).unwrap(), Affordable::All);
        assert_eq!(within(direct, Auto).unwrap(), Affordable::Direct);
        assert_eq!(within(cheapest, Auto).unwrap(), Affordable::Cheapest);
        assert_eq!(within(composed, compose).unwrap(), Affordable::Composed);
        assert_eq!(within(direct, Direct).unwrap(), Affordable::Direct);
        let small = Forecast::new(&uniform(3_200, 1_000), &Prices::of(&hard()), Layout::default()).unwrap();
        assert_eq!(small.within(small.composed.usd(), Auto, None).unwrap(), Affordable::Composed);

        let over = |budget, strategy, why| forecast.within(budget, strategy, why).unwrap_err().to_string();
        let error = over(direct, compose, None);
        assert!(
            error.contains("over all ranks") && error.contains("choose Strategy::Auto by price alone, which fits"),
            "{error}"
        );
        for figure in [direct, composed, cheapest].map(usd) {
            assert!(error.contains(&figure), "{error}");
        }
        let error = over(0.0, Auto, None);
        assert!(error.contains(&format!("raise the budget above {}", usd(cheapest))), "{error}");
        // Where nothing can be composed, the price of composing doesn't matter.
        let error = over(cheapest, Auto, Some("its default hold is on"));
        assert!(error.contains(&format!("raise the budget above {}", usd(direct))), "{error}");
        assert!(error.contains("because its default hold is on") && !error.contains("compose()"), "{error}");
    }
}
