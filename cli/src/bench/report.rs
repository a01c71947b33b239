//! The result of a `bench`.

use std::collections::BTreeMap;

use dataflux::metrics::Counts;
use dataflux::plan::{Bill, Groups};
use serde::Serialize;

use super::epochs::{CacheTotals, Epochs};
use crate::output;

/// The result of a `bench`.
#[derive(Serialize)]
pub(super) struct Report {
    samples: u64,
    bytes: u64,
    seconds: f64,
    epoch_seconds: Vec<f64>,
    samples_per_second: f64,
    bytes_per_second: f64,
    first_batch_seconds: f64,
    wait_fraction: f64,
    waited_for: BTreeMap<&'static str, f64>,
    cpu_seconds: f64,
    peak_rss_bytes: Option<u64>,
    order_digest: String,
    verified: u64,
    skipped: u64,
    substituted: u64,
    retries: u64,
    groups: Groups,
    pub(super) choice: Option<String>,
    ops: Ops,
    cost_usd: f64,
    bill: Bill,
    pub(super) cache: Option<CacheTotals>,
    pub(super) leftover_temporaries: u64,
}

/// Attempts sent to the service.
#[derive(Serialize)]
struct Ops {
    list: u64,
    get: u64,
    compose: u64,
    delete: u64,
    put: u64,
}

/// The time and memory that the epochs took.
#[derive(Clone, Copy)]
pub(super) struct Usage {
    pub(super) seconds: f64,
    pub(super) cpu_seconds: f64,
    pub(super) peak_rss_bytes: Option<u64>,
}

impl Report {
    /// A report without a choice and leftover temporaries.
    pub(super) fn new(epochs: Epochs, usage: Usage, counts: Counts, bill: Bill) -> Self {
        let Usage { seconds, cpu_seconds, peak_rss_bytes } = usage;
        let waited_for = epochs.waited_for.into_iter().map(|(stage, time)| (stage, time.as_secs_f64()));
        Self {
            samples: epochs.samples,
            bytes: epochs.bytes,
            seconds,
            epoch_seconds: epochs.seconds,
            samples_per_second: per_second(epochs.samples, seconds),
            bytes_per_second: per_second(epochs.bytes, seconds),
            first_batch_seconds: epochs.waits.until_first_batch().as_secs_f64(),
            wait_fraction: epochs.waits.fraction(),
            waited_for: waited_for.collect(),
            cpu_seconds,
            peak_rss_bytes,
            order_digest: epochs.digest.finish(),
            verified: epochs.verified,
            skipped: epochs.skipped,
            substituted: epochs.substituted,
            retries: counts.retries,
            groups: epochs.groups,
            choice: None,
            ops: Ops {
                list: counts.list,
                get: counts.get,
                compose: counts.compose,
                delete: counts.delete,
                put: counts.put,
            },
            cost_usd: bill.total(),
            bill,
            cache: Some(epochs.cache),
            leftover_temporaries: 0,
        }
    }

    /// The rows of the report for people.
    pub(super) fn rows(&self) -> Vec<(&'static str, String)> {
        let Ops { list, get, compose, delete, put } = self.ops;
        let mut rows = vec![
            (
                "samples",
                format!("{} ({:.0}/s), {} of them verified", self.samples, self.samples_per_second, self.verified),
            ),
            ("lost", format!("{} skipped, {} substituted", self.skipped, self.substituted)),
            (
                "bytes",
                format!("{} ({}/s)", output::bytes(self.bytes), indicatif::HumanBytes(self.bytes_per_second as u64)),
            ),
            ("seconds", format!("{:.3}, {:.3} to the first batch", self.seconds, self.first_batch_seconds)),
            (
                "waited for data",
                format!("{:.1}% of the time from the first batch to the last", 100.0 * self.wait_fraction),
            ),
            ("all waits", describe_waits(&self.waited_for)),
            ("cpu seconds", format!("{:.3}", self.cpu_seconds)),
            ("peak memory", self.peak_rss_bytes.map_or_else(|| "unknown".to_owned(), output::bytes)),
            (
                "groups",
                format!(
                    "{} single objects, {} in ranges, {} composed groups",
                    self.groups.direct, self.groups.ranged, self.groups.composed
                ),
            ),
            ("small objects", self.choice.clone().unwrap_or_else(|| "read as asked for".to_owned())),
            (
                "calls",
                format!(
                    "{list} list, {get} get, {compose} compose, {delete} delete, {put} put; {} retries",
                    self.retries
                ),
            ),
            ("cost", self.bill.to_string()),
            ("leftover temporaries", self.leftover_temporaries.to_string()),
            ("order digest", self.order_digest.clone()),
        ];
        if let Some(CacheTotals { hits, misses, bytes_read, bytes_written }) = self.cache {
            let (read, written) = (output::bytes(bytes_read), output::bytes(bytes_written));
            rows.push((
                "cache",
                format!("{hits} samples read from it ({read}), {misses} from the bucket; {written} written"),
            ));
        }
        rows
    }
}

fn per_second(count: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { count as f64 / seconds } else { 0.0 }
}

/// Describes the waits of at least a millisecond, longest first.
fn describe_waits(waited_for: &BTreeMap<&'static str, f64>) -> String {
    let mut waits: Vec<_> = waited_for.iter().filter(|(_, seconds)| **seconds >= 0.001).collect();
    waits.sort_by(|a, b| b.1.total_cmp(a.1));
    let waits: Vec<_> = waits.iter().map(|(stage, seconds)| format!("{seconds:.3} s for {stage}")).collect();
    if waits.is_empty() { "none".to_owned() } else { waits.join(", ") }
}
