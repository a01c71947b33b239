//! What calls cost.

use std::time::Duration;

use crate::metrics::Counts;
use crate::store::{BucketInfo, StorageClass};

const GIB: f64 = (1u64 << 30) as f64;

/// US dollars for one call of class A (insert, list, compose) and one of class B (get, media), and for retrieving a
/// GiB: the public price list of November 2026, single region, flat namespace.
const fn table(class: StorageClass) -> (f64, f64, f64) {
    match class {
        StorageClass::Standard | StorageClass::Unspecified | StorageClass::Other => (0.005e-3, 0.0004e-3, 0.0),
        StorageClass::Nearline => (0.01e-3, 0.001e-3, 0.01),
        StorageClass::Coldline => (0.02e-3, 0.01e-3, 0.02),
        StorageClass::Archive => (0.05e-3, 0.05e-3, 0.05),
    }
}

/// Storing a GiB of class Standard for a month of 30 days, in US dollars.
const GIB_MONTH: f64 = 0.020;
const MONTH: Duration = Duration::from_secs(30 * 86_400);
/// What a bucket does when it doesn't say: keep deleted objects, and bill them, for seven days.
const SOFT_DELETE: Duration = Duration::from_secs(7 * 86_400);
/// Copying a GiB to the other region of a dual- or multi-region bucket, in the US and the EU.
const REPLICATION: f64 = 0.02;

/// The price list as it holds for one bucket.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Prices {
    /// What a GiB that is written and at once deleted costs.
    temporary_gib: f64,
    /// Class A is twice as dear where there is more than one region.
    class_a_factor: f64,
    /// The class of what no listing tells the class of.
    class: StorageClass,
}

/// What a run has cost, in US dollars, by the public price list, at the price of the bucket's own class. Traffic that
/// leaves the region is not in it, nor what objects of another class than the bucket's cost beyond that.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Bill {
    /// Lists, composes and writes.
    pub class_a: f64,
    /// Reads of bytes and of metadata.
    pub class_b: f64,
    /// Temporary objects that are billed on after their deletion, and their replication.
    pub temporaries: f64,
    /// Retrieval of bytes, where the bucket's class is a cold one.
    pub retrieval: f64,
}

impl Bill {
    /// All of it.
    pub fn total(&self) -> f64 {
        self.class_a + self.class_b + self.temporaries + self.retrieval
    }
}

impl Prices {
    /// The prices that hold in a bucket. What isn't known is taken to be as in a new bucket of one region.
    pub fn of(bucket: &BucketInfo) -> Self {
        let soft_delete = bucket.soft_delete.unwrap_or(SOFT_DELETE);
        let regions = matches!(bucket.location_type.as_deref(), Some("dual-region" | "multi-region"));
        let kept = GIB_MONTH * soft_delete.as_secs_f64() / MONTH.as_secs_f64();
        Self {
            temporary_gib: kept + if regions { REPLICATION } else { 0.0 },
            class_a_factor: if regions { 2.0 } else { 1.0 },
            class: bucket.storage_class,
        }
    }

    /// Dollars for reading `objects` one by one.
    pub fn direct(&self, class: StorageClass, objects: u64) -> f64 {
        table(class).1 * objects as f64
    }

    /// Dollars for joining objects of `bytes` in all, and reading the result once.
    pub fn composed(&self, class: StorageClass, bytes: u64) -> f64 {
        let (class_a, class_b, _) = table(class);
        class_a * self.class_a_factor + class_b + self.temporary(bytes)
    }

    /// Dollars for `bytes` of temporary objects, beyond the calls.
    fn temporary(&self, bytes: u64) -> f64 {
        self.temporary_gib * bytes as f64 / GIB
    }

    /// Dollars for calls that were made.
    pub fn bill(&self, counts: &Counts) -> Bill {
        let (class_a, class_b, retrieval) = table(self.class);
        Bill {
            retrieval: retrieval * counts.bytes_received as f64 / GIB,
            class_a: class_a * self.class_a_factor * (counts.list + counts.compose + counts.put + counts.update) as f64,
            class_b: class_b * (counts.get + counts.stat + counts.bucket) as f64,
            temporaries: self.temporary(counts.bytes_composed),
        }
    }
}

/// One line on what it costs to read objects of cold storage classes, and what to do about it; `None` where there are
/// none. `classes` holds class, number of objects and bytes; what isn't Nearline, Coldline or Archive is passed over.
///
/// The calls are one read an object; composing makes fewer.
///
/// ```
/// use dataflux::plan::cold_notice;
/// use dataflux::store::StorageClass;
///
/// let line = cold_notice(&[(StorageClass::Standard, 9, 9), (StorageClass::Coldline, 200_000, 50 << 30)]);
/// assert_eq!(
///     line.unwrap(),
///     "200000 objects are in cold storage (200000 COLDLINE, 50.0 GiB): each epoch costs $1.00 for their retrieval \
///      and, read one by one, $2.00 for the calls ($0.08 in Standard storage); leave them out with \
///      `--storage-class standard` (`Filter::storage_class`), or rewrite them to Standard storage"
/// );
/// assert_eq!(cold_notice(&[(StorageClass::Standard, 9, 9)]), None);
/// ```
pub fn cold_notice(classes: &[(StorageClass, u64, u64)]) -> Option<String> {
    let cold = [StorageClass::Nearline, StorageClass::Coldline, StorageClass::Archive];
    let (mut objects, mut retrieval, mut calls, mut held) = (0u64, 0.0, 0.0, Vec::new());
    for class in cold {
        let of_class = classes.iter().filter(|(other, ..)| *other == class);
        let (count, bytes) = of_class.fold((0u64, 0u64), |(count, bytes), (_, more, size)| {
            (count.saturating_add(*more), bytes.saturating_add(*size))
        });
        if count == 0 {
            continue;
        }
        let (_, class_b, gib) = table(class);
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
        "{objects} {are} in cold storage ({}): each epoch costs {} for their retrieval and, read one by one, {} \
         for the calls ({} in Standard storage); leave them out with `--storage-class standard` \
         (`Filter::storage_class`), or rewrite them to Standard storage",
        held.join("; "),
        dollars(retrieval),
        dollars(calls),
        dollars(table(StorageClass::Standard).1 * objects as f64),
    ))
}

/// To the cent.
fn dollars(amount: f64) -> String {
    if amount > 0.0 && amount < 0.01 { "under $0.01".to_owned() } else { format!("${amount:.2}") }
}

fn size(bytes: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    // By what would be shown: 1,048,575 bytes are 1.0 MiB and not 1024.0 KiB.
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
    fn cold_objects_are_told_of_by_class() {
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
            line.contains("$0.50 for their retrieval and, read one by one, $50.00 for the calls ($0.40 in"),
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
        for (bytes, told) in [
            (0, "0 B"),
            (1_023, "1023 B"),
            (1_024, "1.0 KiB"),
            (1_536, "1.5 KiB"),
            ((1 << 20) - 1, "1.0 MiB"),
            (1 << 40, "1.0 TiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), told);
        }
        let told = [0.0, 0.000_1, 0.01, 12.344].map(dollars);
        assert_eq!(told, ["$0.00", "under $0.01", "$0.01", "$12.34"]);
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
}
