//! `dataflux replay`: prints the samples of a step of a run from its audit log.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use dataflux::list::Prefix;
use dataflux::store::Client;
use dataflux::{AuditLog, AuditRecord, Manifest, SampleId};
use serde::Serialize;

use crate::failure::Usage;
use crate::filter::FilterArgs;
use crate::{failure, output, source};

/// Print the samples that a step of a run was given, by its audit log
///
/// Reads the whole log, as a loader with .audit(path) or `bench --audit` writes it, checks that each record follows
/// from the one before, computes the samples of the step from the order of its epoch, and proves them by the hash in
/// the log. The manifest of the run is loaded from a file or listed again, which works as long as no object was added,
/// removed or overwritten.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dataflux replay run.audit --step 1200 --manifest train.dfm
  dataflux replay run.audit --step 1200 --epoch 3 gs://bucket/train/ --json
  dataflux replay run.audit                        # check the log and print a summary

If a step was delivered more than once, because the run resumed from an earlier state, its last delivery is printed.
An error names the line of a record that was changed, removed or inserted. A last line that was cut off, as when the
process is killed, is ignored.")]
pub(crate) struct Args {
    /// The log of one rank
    log: PathBuf,

    /// The prefix of the run, as gs://BUCKET or gs://BUCKET/PREFIX, to list again [default: the prefix in the log]
    #[arg(conflicts_with = "manifest")]
    uri: Option<Prefix>,

    /// Take the samples from this manifest, saved by `dataflux ls --save`, instead of listing
    #[arg(long, value_name = "FILE", conflicts_with_all = FilterArgs::OPTIONS)]
    manifest: Option<PathBuf>,

    /// The number of the batch in its epoch on this rank, from 0; without it the log is only checked
    #[arg(long, value_name = "N")]
    step: Option<u64>,

    /// The epoch, counted from 0 [default: the last epoch that has the step]
    #[arg(long, value_name = "E", requires = "step")]
    epoch: Option<u64>,

    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    log: Log,
    /// `None` if no step was asked for.
    step: Option<ReplayedStep>,
}

/// Facts about the whole log.
#[derive(Default, Serialize)]
struct Log {
    records: u64,
    /// Rolling hash after the last record.
    hash: String,
    /// Whether a last line was cut off.
    torn: bool,
    first_epoch: Option<u64>,
    last_epoch: Option<u64>,
}

#[derive(Serialize)]
struct ReplayedStep {
    epoch: u64,
    step: u64,
    rank: u64,
    world_size: u64,
    /// First position, inclusive, and last position, exclusive.
    positions: [u64; 2],
    /// Its line in the log.
    line: u64,
    /// Number of times that it was delivered.
    delivered: u64,
    samples: Vec<Sample>,
    skipped: Vec<Lost>,
    substituted: Vec<Lost>,
}

#[derive(Serialize)]
struct Sample {
    position: u64,
    id: u64,
    name: String,
    bytes: u64,
    generation: Option<i64>,
}

#[derive(Serialize)]
struct Lost {
    position: u64,
    id: u64,
    name: String,
    /// The sample that was delivered instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<u64>,
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let (log, found) = read(args)?;
    let step = match (args.step, found) {
        (None, _) => None,
        (Some(_), Some(FoundStep { record, deliveries: delivered })) => {
            Some(ReplayedStep::new(&manifest(args, &record)?, &record, delivered)?)
        }
        (Some(step), None) => {
            let of = args.epoch.map_or_else(String::new, |epoch| format!(" of epoch {epoch}"));
            let has = match (log.first_epoch, log.last_epoch) {
                (Some(first), Some(last)) => format!("{} records of epochs {first} to {last}", log.records),
                _ => "no record".to_owned(),
            };
            anyhow::bail!("{} has no step {step}{of}: it has {has}", args.log.display());
        }
    };
    let report = Report { log, step };
    if json { output::json(&report) } else { report.show() }
}

/// A record of the step that was asked for.
struct FoundStep {
    record: AuditRecord,
    /// Number of times that the step was delivered.
    deliveries: u64,
}

/// Reads and checks the whole log. Returns its facts and the last delivery of the step that was asked for.
fn read(args: &Args) -> Result<(Log, Option<FoundStep>)> {
    let mut audit = AuditLog::open(&args.log)?;
    let (mut log, mut found) = (Log::default(), None::<FoundStep>);
    for record in &mut audit {
        let record = record?;
        let epoch = record.epoch();
        log.records += 1;
        log.first_epoch = Some(log.first_epoch.map_or(epoch, |first| first.min(epoch)));
        log.last_epoch = Some(log.last_epoch.map_or(epoch, |last| last.max(epoch)));
        let is_newer = found.as_ref().is_none_or(|found| epoch >= found.record.epoch());
        if Some(record.step()) == args.step && args.epoch.is_none_or(|wanted| wanted == epoch) && is_newer {
            let same_epoch = found.take().filter(|found| found.record.epoch() == epoch);
            let deliveries = same_epoch.map_or(0, |found| found.deliveries) + 1;
            found = Some(FoundStep { record, deliveries });
        }
    }
    (log.hash, log.torn) = (audit.hash(), audit.is_torn());
    Ok((log, found))
}

/// The manifest of the run.
fn manifest(args: &Args, record: &AuditRecord) -> Result<Arc<Manifest>> {
    let logged: Prefix = record.prefix().parse().context("the audit log names no prefix")?;
    if let Some(file) = &args.manifest {
        return Ok(Arc::new(source::check_prefix(Manifest::load(file)?, file, &logged)?));
    }
    if let Some(uri) = args.uri.as_ref().filter(|uri| **uri != logged) {
        return Err(Usage(format!("{} is of {logged}, not of {uri}", args.log.display())).into());
    }
    let client = Client::open(&logged.to_uri())?;
    Ok(Arc::clone(source::open(&client, &logged, None, &args.filter)?.manifest()))
}

impl ReplayedStep {
    fn new(manifest: &Arc<Manifest>, record: &AuditRecord, delivered: u64) -> Result<Self> {
        let samples = record.samples(manifest)?;
        let location = |id| manifest.location(id).context("the audit log names a sample that doesn't exist");
        let lost = |position, id: SampleId, by: Option<SampleId>| {
            Ok(Lost { position, id: id.0, name: location(id)?.object.name.to_string(), by: by.map(|id| id.0) })
        };
        let sample = |(position, id): (u64, SampleId)| {
            let location = location(id)?;
            let (name, generation) = (location.object.name.to_string(), location.object.version.generation());
            Ok(Sample { position, id: id.0, name, bytes: location.bytes(), generation })
        };
        Ok(Self {
            epoch: record.epoch(),
            step: record.step(),
            rank: record.rank(),
            world_size: record.world_size(),
            positions: [record.positions().start, record.positions().end],
            line: record.line(),
            delivered,
            samples: samples.into_iter().map(sample).collect::<Result<_>>()?,
            skipped: record.skipped().map(|(at, id)| lost(at, id, None)).collect::<Result<_>>()?,
            substituted: record.substituted().map(|(at, id, by)| lost(at, id, Some(by))).collect::<Result<_>>()?,
        })
    }
}

impl Report {
    fn show(&self) -> Result<()> {
        let Log { records, hash, torn, .. } = &self.log;
        let torn = if *torn { ", and a last line that was cut off" } else { "" };
        output::write(|out| {
            writeln!(out, "log      {records} records, each follows from the one before{torn}; hash {hash}")?;
            let Some(step) = &self.step else { return Ok(()) };
            let ReplayedStep { epoch, step: number, rank, world_size, positions: [from, to], line, delivered, .. } =
                step;
            let times = if *delivered > 1 { format!(", delivered {delivered} times") } else { String::new() };
            writeln!(out, "step     {number} of epoch {epoch} on rank {rank} of {world_size}, line {line}{times}")?;
            writeln!(out, "samples  {}, positions {from} to {to}, proved by the log", step.samples.len())?;
            for lost in &step.skipped {
                writeln!(out, "skipped  at {}: {}", lost.position, failure::printable(&lost.name))?;
            }
            for lost in &step.substituted {
                writeln!(out, "substituted at {}: {}", lost.position, failure::printable(&lost.name))?;
            }
            writeln!(out, "\n{:>12} {:>12} {:>12} {:>18}  NAME", "POSITION", "ID", "BYTES", "GENERATION")?;
            step.samples.iter().try_for_each(|Sample { position, id, name, bytes, generation }| {
                let name = failure::printable(name);
                let generation = generation.map_or_else(|| "-".to_owned(), |generation| generation.to_string());
                writeln!(out, "{position:>12} {id:>12} {bytes:>12} {generation:>18}  {name}")
            })
        })
    }
}
