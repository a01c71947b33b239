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
            class_a: class_a * self.class_a_factor * (counts.list + counts.compose + counts.put) as f64,
            class_b: class_b * (counts.get + counts.stat + counts.bucket) as f64,
            temporaries: self.temporary(counts.bytes_composed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
