//! `dataflux plan`: predicts the calls and the cost of an epoch, by strategy.

use std::path::PathBuf;

use anyhow::Result;
use dataflux::list::Prefix;
use dataflux::metrics::Counts;
use dataflux::plan::{Bill, EpochCost, Forecast, Layout, PriceTable, never_compose, usd};
use dataflux::store::{BucketInfo, Client};
use serde::Serialize;

use crate::access::AccessArgs;
use crate::filter::FilterArgs;
use crate::{failure, output, source};

/// Predict the calls and the cost of an epoch, by strategy, without reading a sample
///
/// Lists the prefix, or loads a manifest of it, reads the facts about the bucket, and applies the price table. Writes
/// nothing to the bucket.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dataflux plan gs://bucket/train/
  dataflux plan gs://bucket/train/ --epochs 90 --json
  dataflux plan --print-prices > prices.json       # enter the prices of your contract, then
  dataflux plan gs://bucket/train/ --prices prices.json

The strategies:
  direct   one read for each object
  compose  up to 32 objects of a class, as many as fit 100 MB, are composed in the bucket, read, and deleted
  auto     the default: chooses by measured speed and by price; the line shows the choice by price alone
  ranged   the part of each of these for large objects, which are read in ranges; shown only if there are any

Figures are for one epoch over all ranks, if each call succeeds at the first attempt. Groups are assumed to be full and
in order of names; a shuffled epoch has the same number on average. Traffic that leaves the location is not in the bill.")]
pub(crate) struct Args {
    /// The prefix of the samples' names, as gs://BUCKET/PREFIX or file:///PREFIX; it need not be a whole folder
    #[arg(required_unless_present = "print_prices")]
    uri: Option<Prefix>,

    /// Load the samples from this manifest, saved by `dataflux ls --save`, instead of listing
    #[arg(long, value_name = "FILE", conflicts_with_all = FilterArgs::OPTIONS)]
    manifest: Option<PathBuf>,

    /// Number of epochs to add up
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    epochs: u64,

    /// Use the prices in this file, in the format of --print-prices, instead of the built-in ones
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,

    /// Print the built-in price table as JSON, as a template for your own, and do nothing else
    #[arg(long, conflicts_with = "uri")]
    print_prices: bool,

    #[command(flatten)]
    filter: FilterArgs,

    #[command(flatten)]
    access: AccessArgs,
}

/// The permissions that composing needs besides those for reading.
const COMPOSING: [&str; 2] = ["storage.objects.create", "storage.objects.delete"];

#[derive(Serialize)]
struct Report {
    uri: String,
    objects: u64,
    bytes: u64,
    epochs: u64,
    bucket: Bucket,
    prices: PriceList,
    strategies: Strategies,
    /// The listing, which happens once and is not part of the strategies.
    listing: Line,
    recommended: &'static str,
    why: String,
    /// The reason why nothing can be composed, if there is one.
    never_composes: Option<String>,
    advice: Option<String>,
    assumptions: Vec<String>,
}

#[derive(Serialize)]
struct Bucket {
    location: Option<String>,
    location_type: Option<String>,
    storage_class: Option<&'static str>,
    soft_delete_seconds: Option<u64>,
    retention_seconds: Option<u64>,
    hierarchical_namespace: bool,
}

#[derive(Serialize)]
struct PriceList {
    date: String,
    source: String,
    /// `None` for the built-in prices.
    file: Option<String>,
}

#[derive(Serialize)]
struct Strategies {
    direct: Line,
    /// `None` if nothing can be composed.
    compose: Option<Line>,
    auto: Line,
    ranged: Option<Line>,
}

/// The calls and the cost of one epoch with one strategy.
#[derive(Serialize)]
struct Line {
    class_a_calls: u64,
    class_b_calls: u64,
    deletes: u64,
    bytes_down: u64,
    bytes_temporary: u64,
    bill: Bill,
    cost_usd: f64,
    /// The cost of all epochs.
    total_usd: f64,
}

impl Line {
    fn new(ops: &Counts, bill: Bill, epochs: u64) -> Self {
        Self {
            class_a_calls: ops.list + ops.compose + ops.put + ops.copy + ops.update,
            class_b_calls: ops.get + ops.stat + ops.bucket,
            deletes: ops.delete,
            bytes_down: ops.bytes_received,
            bytes_temporary: ops.bytes_composed,
            bill,
            cost_usd: bill.total(),
            total_usd: bill.total() * epochs as f64,
        }
    }
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let Some(uri) = &args.uri else {
        let table = PriceTable::built_in_json();
        if json {
            return output::json(&serde_json::from_str::<serde_json::Value>(table)?);
        }
        return output::write(|out| out.write_all(table.as_bytes()));
    };
    let own = args.prices.as_ref().map(PriceTable::load).transpose()?;
    let table = own.as_ref().unwrap_or_else(|| PriceTable::built_in());
    let client = args.access.writer(uri)?;
    let dataset = source::open(&client, uri, args.manifest.as_deref(), &args.filter)?;
    let mut listing = Counts::default();
    listing.list = client.metrics().snapshot().list;
    let (manifest, info) = (dataset.manifest(), dataset.bucket_info());
    let prices = table.of(info);
    let forecast = Forecast::new(manifest, &prices, Layout::default())?;
    let never_composes = match never_compose(info) {
        Some(reason) => Some(reason),
        None => missing_permission(&client, uri)?,
    };
    let (recommended, why) = recommend(&forecast, never_composes.as_deref());
    let line = |cost: &EpochCost| Line::new(&cost.ops, cost.bill, args.epochs);
    let composes = never_composes.is_none();
    let report = Report {
        uri: uri.to_string(),
        objects: manifest.len(),
        bytes: manifest.bytes(),
        epochs: args.epochs,
        bucket: Bucket::new(info),
        prices: PriceList {
            date: table.date().to_owned(),
            source: table.source().to_owned(),
            file: args.prices.as_ref().map(|file| file.display().to_string()),
        },
        strategies: Strategies {
            direct: line(&forecast.direct),
            compose: composes.then(|| line(&forecast.composed)),
            auto: line(if composes { &forecast.cheapest } else { &forecast.direct }),
            ranged: forecast.ranged.as_ref().map(line),
        },
        listing: Line::new(&listing, prices.bill(&listing), 1),
        recommended,
        why,
        advice: if composes { forecast.composing_advice(&uri.bucket, &prices) } else { None },
        never_composes,
        assumptions: table.assumptions(info),
    };
    if json { output::json(&report) } else { report.show() }
}

/// Says which permission for composing the caller lacks, if that is known.
fn missing_permission(client: &Client, prefix: &Prefix) -> Result<Option<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(match runtime.block_on(client.test_permissions(&prefix.bucket, &COMPOSING)) {
        Ok(held) => {
            let missing = COMPOSING.iter().find(|permission| !held.iter().any(|held| held == *permission));
            missing.map(|permission| format!("{permission} is not granted (role Storage Object User has it)"))
        }
        Err(error) => {
            tracing::debug!(%error, "the caller's permissions are unknown");
            None
        }
    })
}

/// The recommended strategy, and the reason.
fn recommend(forecast: &Forecast, never_composes: Option<&str>) -> (&'static str, String) {
    let (direct, composed, cheapest) = (forecast.direct.usd(), forecast.composed.usd(), forecast.cheapest.usd());
    let less = |cost: f64| format!("{:.0}% less than reading objects individually", 100.0 * (1.0 - cost / direct));
    if let Some(reason) = never_composes {
        ("direct", format!("nothing can be composed, because {reason}"))
    } else if composed < cheapest {
        let cold = "auto makes no temporary objects in cold storage";
        ("compose", format!("it costs {} an epoch, {}; {cold}", usd(composed), less(composed)))
    } else if cheapest < direct {
        ("auto", format!("composing where that is cheaper costs {} an epoch, {}", usd(cheapest), less(cheapest)))
    } else {
        ("direct", "composing saves nothing here, and only direct never writes to the bucket".to_owned())
    }
}

impl Bucket {
    fn new(info: &BucketInfo) -> Self {
        Self {
            location: info.location.clone(),
            location_type: info.location_type.clone(),
            storage_class: Some(info.storage_class.as_str()).filter(|class| !class.is_empty()),
            soft_delete_seconds: info.soft_delete.map(|kept| kept.as_secs()),
            retention_seconds: info.retention.map(|kept| kept.as_secs()),
            hierarchical_namespace: info.hierarchical_namespace,
        }
    }

    /// Describes the bucket in one line.
    fn description(&self) -> String {
        let unknown = || "unknown".to_owned();
        let days = |seconds: u64| format!("{} days", seconds as f64 / 86_400.0);
        let location = self.location.clone().unwrap_or_else(unknown);
        let location_type = self.location_type.clone().unwrap_or_else(unknown);
        let class = self.storage_class.unwrap_or("class unknown");
        let soft_delete = match self.soft_delete_seconds {
            Some(0) => "off".to_owned(),
            Some(seconds) => days(seconds),
            None => unknown(),
        };
        let hierarchical = if self.hierarchical_namespace { ", hierarchical namespace" } else { "" };
        format!("{location} ({location_type}), {class}{hierarchical}, soft delete {soft_delete}")
    }
}

/// The name of a part of a bill, and its amount in dollars.
type Part = (&'static str, fn(&Bill) -> f64);

impl Report {
    fn show(&self) -> Result<()> {
        let PriceList { date, source, file } = &self.prices;
        let file = file.as_deref().unwrap_or("built in; others with --prices FILE");
        let mut after = vec![("recommended", format!("{}: {}", self.recommended, self.why))];
        if let Some(advice) = &self.advice {
            after.push(("note", advice.clone()));
        }
        after.extend(self.assumptions.iter().map(|assumption| ("assumed", assumption.clone())));
        let rows = self.rows();
        let widths: Vec<_> =
            (0..rows[0].len()).map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0)).collect();
        output::write(|out| {
            writeln!(out, "{}: {} objects, {}", self.uri, self.objects, output::bytes(self.bytes))?;
            writeln!(out, "bucket: {}", self.bucket.description())?;
            writeln!(out, "prices: of {date}, {} ({})\n", failure::printable(source), failure::printable(file))?;
            for row in &rows {
                write!(out, "{:width$}", row[0], width = widths[0])?;
                for (cell, width) in row.iter().zip(&widths).skip(1) {
                    write!(out, "  {cell:>width$}")?;
                }
                writeln!(out)?;
            }
            writeln!(out)?;
            after.iter().try_for_each(|(label, text)| writeln!(out, "{label}: {text}"))
        })
    }

    /// The rows of the table, its head first. A part of the bill that is zero everywhere has no column.
    fn rows(&self) -> Vec<Vec<String>> {
        let Strategies { direct, compose, auto, ranged } = &self.strategies;
        let lines: Vec<(&str, &Line)> = [
            ("direct", Some(direct)),
            ("compose", compose.as_ref()),
            ("auto, by price", Some(auto)),
            ("of it ranged", ranged.as_ref()),
            ("listing, once", Some(&self.listing)),
        ]
        .into_iter()
        .filter_map(|(name, line)| Some((name, line?)))
        .collect();
        let parts: [Part; 4] = [
            ("calls", |bill| bill.class_a + bill.class_b),
            ("retrieval", |bill| bill.retrieval),
            ("temporaries", |bill| bill.temporaries),
            ("replication", |bill| bill.replication),
        ];
        let spent = parts.iter().filter(|(_, part)| lines.iter().any(|(_, line)| part(&line.bill) > 0.0));
        let spent: Vec<_> = spent.collect();
        let mut head: Vec<_> =
            ["strategy", "class A", "class B", "deletes", "downloaded", "temporary"].map(str::to_owned).into();
        head.extend(spent.iter().map(|(name, _)| (*name).to_owned()));
        head.push("an epoch".to_owned());
        if self.epochs > 1 {
            head.push(format!("{} epochs", self.epochs));
        }
        let mut rows = vec![head];
        let mut dollars = Vec::new();
        for (name, line) in &lines {
            let bytes = |bytes: u64| if bytes == 0 { "-".to_owned() } else { indicatif::HumanBytes(bytes).to_string() };
            let mut row = vec![(*name).to_owned()];
            row.extend([line.class_a_calls, line.class_b_calls, line.deletes].map(|calls| calls.to_string()));
            row.extend([bytes(line.bytes_down), bytes(line.bytes_temporary)]);
            rows.push(row);
            let mut amounts: Vec<_> = spent.iter().map(|(_, part)| part(&line.bill)).collect();
            amounts.push(line.cost_usd);
            amounts.extend((self.epochs > 1).then_some(line.total_usd));
            dollars.push(amounts);
        }
        let digits = digits(dollars.iter().flatten());
        for (row, amounts) in rows[1..].iter_mut().zip(dollars) {
            let cell = |amount| if amount == 0.0 { "-".to_owned() } else { format!("${amount:.digits$}") };
            row.extend(amounts.into_iter().map(cell));
        }
        rows
    }
}

/// Number of digits after the point that shows two digits of the smallest amount, so that amounts of a table line up.
fn digits<'a>(amounts: impl Iterator<Item = &'a f64>) -> usize {
    let least = amounts.filter(|amount| **amount > 0.0).fold(f64::INFINITY, |least, amount| least.min(*amount));
    // Amounts below a billionth of a dollar don't matter.
    (1.0 - least.log10().floor()).clamp(2.0, 9.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_amount_has_two_digits() {
        for (amounts, wanted) in [(&[][..], 2), (&[0.0], 2), (&[12.0, 0.0], 2), (&[0.4, 0.000_18], 5), (&[1e-12], 9)] {
            assert_eq!(digits(amounts.iter()), wanted, "{amounts:?}");
        }
    }
}
