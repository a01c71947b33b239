//! Prices in one bucket, and bills.

use std::fmt;
use std::ops::Add;
use std::time::Duration;

use serde::Serialize;

use super::table::{LocationPrices, LocationType, PriceRow, PriceTable};
use crate::metrics::Counts;
use crate::pacing::ReadPrices;
use crate::plan::MAX_SOURCES;
use crate::store::{BucketInfo, StorageClass};

const GIB: f64 = (1u64 << 30) as f64;

const DAY: Duration = Duration::from_secs(86_400);
/// The month that prices of storage refer to.
const MONTH: Duration = Duration::from_secs(30 * 86_400);
/// How long a bucket keeps deleted objects, and bills them, by default.
pub(crate) const SOFT_DELETE: Duration = Duration::from_secs(7 * 86_400);

/// The prices that hold in one bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// Prices of Standard, Nearline, Coldline and Archive.
    rows: [PriceRow; 4],
    /// The bucket's class, which objects have for which the listing has no class.
    class: StorageClass,
    soft_delete: Duration,
}

/// The cost of calls, in US dollars, by the price list. Network traffic out of the location is not included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Bill {
    /// Lists, composes and writes.
    pub class_a: f64,
    /// Reads of bytes and of metadata.
    pub class_b: f64,
    /// Retrieval of bytes of the cold classes.
    pub retrieval: f64,
    /// Storage of temporary objects: soft delete keeps them after their deletion, and cold classes bill each object for
    /// at least a month.
    pub temporaries: f64,
    /// Copies of temporary objects to the other region of a dual- or multi-region bucket.
    pub replication: f64,
}

impl Bill {
    /// The sum.
    pub fn total(&self) -> f64 {
        self.class_a + self.class_b + self.retrieval + self.temporaries + self.replication
    }
}

/// The total and its parts.
impl fmt::Display for Bill {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&usd(self.total()))?;
        let parts = [
            ("class A", self.class_a),
            ("class B", self.class_b),
            ("retrieval", self.retrieval),
            ("temporary objects", self.temporaries),
            ("replication", self.replication),
        ];
        for (number, (name, part)) in parts.into_iter().filter(|(_, part)| *part > 0.0).enumerate() {
            write!(f, "{}{name} {}", if number == 0 { ": " } else { ", " }, usd(part))?;
        }
        Ok(())
    }
}

impl Add for Bill {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            class_a: self.class_a + other.class_a,
            class_b: self.class_b + other.class_b,
            retrieval: self.retrieval + other.retrieval,
            temporaries: self.temporaries + other.temporaries,
            replication: self.replication + other.replication,
        }
    }
}

impl std::iter::Sum for Bill {
    fn sum<I: Iterator<Item = Self>>(bills: I) -> Self {
        bills.fold(Self::default(), Add::add)
    }
}

impl Prices {
    /// The built-in prices for a bucket. Unknown properties are assumed to be those of a new bucket in one region.
    pub fn of(bucket: &BucketInfo) -> Self {
        PriceTable::built_in().of(bucket)
    }

    fn row(&self, class: StorageClass) -> &PriceRow {
        let index = |class| match class {
            StorageClass::Unspecified => None,
            // Old classes cost about as much as Standard.
            StorageClass::Standard | StorageClass::Other => Some(0),
            StorageClass::Nearline => Some(1),
            StorageClass::Coldline => Some(2),
            StorageClass::Archive => Some(3),
        };
        &self.rows[index(class).or_else(|| index(self.class)).unwrap_or(0)]
    }

    /// Dollars for reading `objects` individually, without the retrieval of their bytes.
    pub fn direct(&self, class: StorageClass, objects: u64) -> f64 {
        self.row(class).class_b * objects as f64
    }

    /// Dollars for composing objects of `bytes` in all, and reading the result once, without the retrieval of its
    /// bytes.
    pub fn composed(&self, class: StorageClass, bytes: u64) -> f64 {
        let row = self.row(class);
        row.class_a + row.class_b + self.temporary_storage(class, bytes) + row.replication * bytes as f64 / GIB
    }

    /// The prices of reading objects of a class, as the choice of a read mode needs them.
    pub(crate) fn of_reads(&self, class: StorageClass) -> ReadPrices {
        let composed = self.composed(class, 0);
        let composed_byte = (self.composed(class, GIB as u64) - composed) / GIB;
        ReadPrices { direct: self.direct(class, 1), composed, composed_byte }
    }

    /// Whether temporary objects of a class are billed for at least a month, however soon they are deleted. Objects
    /// without a class of their own have that of the bucket.
    pub(crate) fn is_cold(&self, class: StorageClass) -> bool {
        let class = if class == StorageClass::Unspecified { self.class } else { class };
        matches!(class, StorageClass::Nearline | StorageClass::Coldline | StorageClass::Archive)
    }

    /// Whether `sources` objects of `bytes` in all cost less composed than read individually. False for cold classes.
    pub(crate) fn is_cheaper_composed(&self, class: StorageClass, sources: u64, bytes: u64) -> bool {
        sources > 1 && !self.is_cold(class) && self.composed(class, bytes) < self.direct(class, sources)
    }

    /// Whether a full group of objects of this size costs less composed. Objects that are too large for that are
    /// excluded from groups, in which they would make the small ones more expensive.
    pub(crate) fn is_worth_composing(&self, class: StorageClass, size: u64, most_bytes: u64) -> bool {
        let sources = sources_of_size(size, most_bytes);
        self.is_cheaper_composed(class, sources, sources * size)
    }

    /// How many dollars more an object of this size costs as part of a full composed group than individually; 0 where
    /// it costs less.
    pub(crate) fn surcharge_if_composed(&self, class: StorageClass, size: u64, most_bytes: u64) -> f64 {
        let sources = sources_of_size(size, most_bytes);
        if sources < 2 || self.is_cold(class) {
            return 0.0;
        }
        (self.composed(class, sources * size) / sources as f64 - self.direct(class, 1)).max(0.0)
    }

    /// How long the bucket keeps deleted objects, and bills them.
    pub fn soft_delete(&self) -> Duration {
        self.soft_delete
    }

    /// The prices of the same bucket without soft delete.
    pub(crate) fn without_soft_delete(&self) -> Self {
        Self { soft_delete: Duration::ZERO, ..*self }
    }

    /// How long a temporary object is billed for.
    pub fn billed_for(&self, class: StorageClass) -> Duration {
        self.soft_delete.max(DAY * self.row(class).minimum_days)
    }

    /// Dollars for the storage of `bytes` of temporary objects.
    fn temporary_storage(&self, class: StorageClass, bytes: u64) -> f64 {
        let months = self.billed_for(class).as_secs_f64() / MONTH.as_secs_f64();
        self.row(class).storage_month * months * bytes as f64 / GIB
    }

    /// Dollars for calls that were made, at the prices of the bucket's own class.
    pub fn bill(&self, counts: &Counts) -> Bill {
        self.bill_of(self.class, counts)
    }

    /// Dollars for calls that were made on objects of `class`.
    pub fn bill_of(&self, class: StorageClass, counts: &Counts) -> Bill {
        let row = self.row(class);
        Bill {
            class_a: row.class_a * (counts.list + counts.compose + counts.put + counts.copy + counts.update) as f64,
            class_b: row.class_b * (counts.get + counts.stat + counts.bucket) as f64,
            retrieval: row.retrieval * counts.bytes_received as f64 / GIB,
            temporaries: self.temporary_storage(class, counts.bytes_composed),
            replication: row.replication * counts.bytes_composed as f64 / GIB,
        }
    }
}

impl PriceTable {
    /// The prices for a bucket. Unknown properties are assumed to be those of a new bucket in one region;
    /// [`assumptions`](Self::assumptions) lists them.
    pub fn of(&self, bucket: &BucketInfo) -> Prices {
        if bucket.free {
            return Prices { rows: Default::default(), class: bucket.storage_class, soft_delete: Duration::ZERO };
        }
        let LocationPrices { rows, .. } = self.for_bucket(bucket);
        Prices { rows, class: bucket.storage_class, soft_delete: bucket.soft_delete.unwrap_or(SOFT_DELETE) }
    }

    fn for_bucket(&self, bucket: &BucketInfo) -> LocationPrices {
        self.rows(bucket.hierarchical_namespace, location_type(bucket), bucket.location.as_deref())
    }

    /// The assumptions made about a bucket where neither the bucket nor the table has the fact, one sentence each.
    pub fn assumptions(&self, bucket: &BucketInfo) -> Vec<String> {
        if bucket.free {
            return Vec::new();
        }
        let LocationPrices { rows, is_from_flat, is_known_location } = self.for_bucket(bucket);
        let mut assumptions = Vec::new();
        let near = |place: &str| ["US", "EU", "NAM"].iter().any(|name| place.to_ascii_uppercase().starts_with(name));
        if rows[0].replication > 0.0 && !bucket.location.as_deref().is_some_and(near) {
            assumptions.push(format!(
                "the table's price for copies to another region, ${} for a GiB, is that of the US and the EU, and is \
                 assumed for this location, too",
                rows[0].replication
            ));
        }
        if bucket.location_type.is_none() {
            assumptions.push(
                "the bucket's location is unknown (storage.buckets.get may be missing): one region is assumed"
                    .to_owned(),
            );
        }
        if bucket.soft_delete.is_none() {
            let days = SOFT_DELETE.as_secs() / DAY.as_secs();
            assumptions
                .push(format!("it is unknown how long the bucket keeps deleted objects: {days} days are assumed"));
        }
        if bucket.hierarchical_namespace && is_from_flat {
            assumptions.push(
                "the table has no prices for hierarchical namespaces: those of flat ones are used, and are too low"
                    .to_owned(),
            );
        }
        if let Some(location) = bucket.location.as_deref().filter(|_| !is_known_location) {
            let month = rows[0].storage_month;
            assumptions.push(format!(
                "the table has no price for storage in {location}: ${month} for a GiB-month of Standard is assumed"
            ));
        }
        assumptions
    }
}

/// How many objects of this size a full group has.
fn sources_of_size(size: u64, most_bytes: u64) -> u64 {
    (most_bytes / size.max(1)).min(MAX_SOURCES as u64)
}

fn location_type(bucket: &BucketInfo) -> LocationType {
    bucket.location_type.as_deref().and_then(LocationType::parse).unwrap_or(LocationType::Region)
}

/// One line on what reading objects of cold storage classes costs, and what to do about it; `None` where there are no
/// such objects. `classes` holds class, number of objects and bytes; classes other than Nearline, Coldline and Archive
/// are ignored.
///
/// The cost of calls is that of one read for each object; composing makes fewer.
///
/// ```
/// use dataflux::plan::cold_notice;
/// use dataflux::store::StorageClass;
///
/// let line = cold_notice(&[(StorageClass::Standard, 9, 9), (StorageClass::Coldline, 200_000, 50 << 30)]);
/// assert_eq!(
///     line.unwrap(),
///     "200000 objects are in cold storage (200000 COLDLINE, 50.0 GiB): each epoch costs $1.00 for their retrieval \
///      and, read individually, $2.00 for the calls ($0.08 in Standard storage); leave them out with \
///      `--storage-class standard` (`Filter::storage_class`), or rewrite them to Standard storage"
/// );
/// assert_eq!(cold_notice(&[(StorageClass::Standard, 9, 9)]), None);
/// ```
pub fn cold_notice(classes: &[(StorageClass, u64, u64)]) -> Option<String> {
    let cold = [StorageClass::Nearline, StorageClass::Coldline, StorageClass::Archive];
    let prices = Prices::of(&BucketInfo::default());
    let (mut objects, mut retrieval, mut calls, mut held) = (0u64, 0.0, 0.0, Vec::new());
    for class in cold {
        let of_class = classes.iter().filter(|(other, ..)| *other == class);
        let (count, bytes) = of_class.fold((0u64, 0u64), |(count, bytes), (_, more, size)| {
            (count.saturating_add(*more), bytes.saturating_add(*size))
        });
        if count == 0 {
            continue;
        }
        let PriceRow { class_b, retrieval: gib, .. } = *prices.row(class);
        objects = objects.saturating_add(count);
        retrieval += gib * bytes as f64 / GIB;
        calls += class_b * count as f64;
        held.push(format!("{count} {}, {}", class.as_str(), size(bytes)));
    }
    if held.is_empty() {
        return None;
    }
    let are = if objects == 1 { "object is" } else { "objects are" };
    Some(format!(
        "{objects} {are} in cold storage ({}): each epoch costs {} for their retrieval and, read individually, {} \
         for the calls ({} in Standard storage); leave them out with `--storage-class standard` \
         (`Filter::storage_class`), or rewrite them to Standard storage",
        held.join("; "),
        dollars(retrieval),
        dollars(calls),
        dollars(prices.direct(StorageClass::Standard, objects)),
    ))
}

/// US dollars to the cent, and to three significant digits below a dollar: an epoch may cost so little that strategies
/// differ by less than a cent.
pub fn usd(amount: f64) -> String {
    if amount <= 0.0 {
        return "$0".to_owned();
    }
    // At most to a billionth of a dollar.
    let digits = (2.0 - amount.log10().floor()).clamp(2.0, 9.0) as usize;
    format!("${amount:.digits$}")
}

/// US dollars to the cent.
fn dollars(amount: f64) -> String {
    if amount > 0.0 && amount < 0.01 { "under $0.01".to_owned() } else { format!("${amount:.2}") }
}

fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // The unit is chosen after rounding: 1,048,575 bytes are 1.0 MiB and not 1024.0 KiB.
    let unit = (0..units.len()).rev().find(|unit| bytes as f64 / 1024f64.powi(*unit as i32 + 1) >= 0.99995);
    unit.map_or_else(
        || format!("{bytes} B"),
        |unit| format!("{:.1} {}", bytes as f64 / 1024f64.powi(unit as i32 + 1), units[unit]),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_notice_names_cold_objects_by_class() {
        let notice = |classes: &[_]| cold_notice(classes).unwrap();
        let line = notice(&[
            (StorageClass::Archive, 1_000_000, 10 << 30),
            (StorageClass::Unspecified, 5, 5),
            (StorageClass::Nearline, 1_000, 3 << 20),
            (StorageClass::Archive, 0, 0),
            (StorageClass::Nearline, 1_000, 1 << 20),
        ]);
        assert!(
            line.starts_with("1002000 objects are in cold storage (2000 NEARLINE, 4.0 MiB; 1000000 ARCHIVE, 10.0 GiB)")
        );
        // 10 GiB at 0.05 and next to nothing; a million calls at 0.05 a thousand, and 2,000 at 0.001 a thousand.
        assert!(
            line.contains("$0.50 for their retrieval and, read individually, $50.00 for the calls ($0.40 in"),
            "{line}"
        );
        let one = notice(&[(StorageClass::Coldline, 1, 1_000)]);
        assert!(
            one.starts_with("1 object is in cold storage (1 COLDLINE, 1000 B): each epoch costs under $0.01"),
            "{one}"
        );
        for none in [&[][..], &[(StorageClass::Archive, 0, 0)], &[(StorageClass::Other, 1, 1 << 40)]] {
            assert_eq!(cold_notice(none), None);
        }
    }

    #[test]
    fn sizes_and_dollars_as_people_write_them() {
        for (bytes, text) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (1 << 40, "1.0 TiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        let texts = [0.0, 0.000_1, 0.01, 12.344].map(dollars);
        assert_eq!(texts, ["$0.00", "under $0.01", "$0.01", "$12.34"]);
        let texts = [0.0, 1e-12, 0.000_401_6, 0.168_75, 0.4, 1.0, 12.344, 123_456.789].map(usd);
        assert_eq!(texts, ["$0", "$0.000000000", "$0.000402", "$0.169", "$0.400", "$1.00", "$12.34", "$123456.79"]);
    }

    /// The worked example of the price list: a million objects.
    #[test]
    fn a_million_objects() {
        let bucket = BucketInfo { soft_delete: Some(Duration::ZERO), ..BucketInfo::default() };
        let prices = Prices::of(&bucket);
        let near = |got: f64, wanted: f64| assert!((got - wanted).abs() < 0.001, "{got} for {wanted}");
        near(prices.direct(StorageClass::Standard, 1_000_000), 0.40);
        near(31_250.0 * prices.composed(StorageClass::Standard, 0), 0.169);
        near(125_000.0 * prices.composed(StorageClass::Standard, 0), 0.675);
    }

    #[test]
    fn unknown_properties_are_assumed_to_be_those_of_a_new_bucket_in_one_region() {
        let assumptions = |bucket: &BucketInfo| PriceTable::built_in().assumptions(bucket).join("\n");
        let known = BucketInfo {
            location: Some("US-CENTRAL1".into()),
            location_type: Some("region".into()),
            soft_delete: Some(SOFT_DELETE),
            ..BucketInfo::default()
        };
        assert_eq!(assumptions(&known), "");
        assert_eq!(Prices::of(&known), Prices::of(&BucketInfo::default()));
        let nothing = assumptions(&BucketInfo::default());
        assert!(nothing.contains("one region") && nothing.contains("7 days"), "{nothing}");
        let elsewhere = BucketInfo { location: Some("ASIA-EAST2".into()), hierarchical_namespace: true, ..known };
        let text = assumptions(&elsewhere);
        assert!(text.contains("hierarchical") && text.contains("ASIA-EAST2: $0.02"), "{text}");
    }

    #[test]
    fn temporaries_are_billed_for_the_longer_of_both_periods_and_copied_to_the_other_region() {
        let week = Prices::of(&BucketInfo::default());
        let year = Prices::of(&BucketInfo { soft_delete: Some(DAY * 90), ..BucketInfo::default() });
        let days = |prices: &Prices, class| prices.billed_for(class).as_secs() / DAY.as_secs();
        assert_eq!((days(&week, StorageClass::Standard), days(&year, StorageClass::Standard)), (7, 90));
        assert_eq!((days(&week, StorageClass::Nearline), days(&year, StorageClass::Nearline)), (30, 90));
        assert_eq!(days(&year, StorageClass::Archive), 365);
        let counts =
            Counts { compose: 2, get: 3, bytes_composed: 1 << 30, bytes_received: 1 << 31, ..Counts::default() };
        let near = |got: f64, wanted: f64| assert!((got - wanted).abs() < 1e-12, "{got} for {wanted}");
        let nearline = week.bill_of(StorageClass::Nearline, &counts);
        near(nearline.temporaries, 0.010);
        near(nearline.retrieval, 0.020);
        near(nearline.total(), 0.030 + 2.0 * 0.01e-3 + 3.0 * 0.001e-3);
        let two = Prices::of(&BucketInfo { location_type: Some("multi-region".into()), ..BucketInfo::default() });
        let bill = two.bill(&counts);
        near(bill.replication, 0.020);
        near(bill.class_a, 2.0 * 0.010e-3);
        near(bill.temporaries, 0.026 * 7.0 / 30.0);
    }
}
