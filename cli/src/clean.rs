//! `dataflux clean`: removes the temporary objects of dead runs.

use std::time::{Duration, Instant};

use anyhow::Result;
use dataflux::list::Prefix;
use dataflux::store::Scheme;
use serde::Serialize;

use crate::access::AccessArgs;
use crate::failure::{self, Usage};
use crate::{output, progress, value};

/// Remove temporary objects that dead data loaders left in a bucket
///
/// Data loaders compose small objects into temporary ones at the root of the bucket, below dataflux-composed-objects/,
/// and delete them after use. A loader that is killed leaves some behind. The temporary objects of a living run are
/// never removed. A run on this machine lives as long as its process. A run elsewhere counts as living until the
/// object's lease expires: 15 minutes after the object was made, and five minutes after the lease was last renewed.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dataflux clean gs://bucket --dry-run
  dataflux clean gs://bucket --older-than 1h")]
pub(crate) struct Args {
    /// The bucket, as gs://BUCKET; a path after it is ignored, since temporary objects are at the bucket's root
    uri: Prefix,

    /// Keep objects that are younger than this, such as 30s, 10m, 1h or 2days
    #[arg(long, value_name = "TIME", default_value = "0", value_parser = value::duration)]
    older_than: Duration,

    /// Only print what would be removed
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    access: AccessArgs,
}

#[derive(Serialize)]
struct Report {
    found: u64,
    removed: u64,
    removed_bytes: u64,
    living: u64,
    young: u64,
    foreign: u64,
    seconds: f64,
    dry_run: bool,
    objects: Vec<String>,
}

/// Maximum number of names that are printed without --json: about a screenful.
const MAX_NAMES: usize = 20;

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    if args.uri.scheme != Scheme::Gs {
        let uri = &args.uri;
        return Err(Usage(format!("{uri} has no temporary objects: only those of gs:// can be composed")).into());
    }
    dataflux::clean_up_on_signals()?;
    let client = args.access.writer(&args.uri)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let spinner = progress::spinner("cleaning");
    let started = Instant::now();
    let cleaned = runtime.block_on(dataflux::clean(&client, &args.uri.bucket, args.older_than, args.dry_run))?;
    drop(spinner);
    let report = Report {
        found: cleaned.found,
        removed: cleaned.removed.len() as u64,
        removed_bytes: cleaned.removed_bytes,
        living: cleaned.living,
        young: cleaned.young,
        foreign: cleaned.foreign,
        seconds: started.elapsed().as_secs_f64(),
        dry_run: args.dry_run,
        objects: cleaned.removed,
    };
    if let Some(first) = cleaned.failed.first() {
        anyhow::bail!(
            "{} of {} temporary objects could not be removed; {} were; the first of them: {first}",
            cleaned.failed.len(),
            report.found,
            report.removed
        );
    }
    if json {
        return output::json(&report);
    }
    output::write(|out| {
        let removed = if args.dry_run { "would remove" } else { "removed" };
        for object in report.objects.iter().take(MAX_NAMES) {
            writeln!(out, "{removed} {}", failure::printable(object))?;
        }
        if let Some(more) = report.objects.len().checked_sub(MAX_NAMES).filter(|&more| more > 0) {
            writeln!(out, "... and {more} more; --json prints all")?;
        }
        Ok(())
    })?;
    output::table(&[
        ("found", format!("{} temporary objects in {}", report.found, args.uri.bucket_uri())),
        (
            if args.dry_run { "to remove" } else { "removed" },
            format!("{}, {}", report.removed, output::bytes(report.removed_bytes)),
        ),
        ("living", format!("{} of runs that live or may still live", report.living)),
        ("young", format!("{} younger than {}", report.young, humantime::format_duration(args.older_than))),
        ("foreign", format!("{} not made by a data loader", report.foreign)),
        ("seconds", format!("{:.3}", report.seconds)),
    ])
}
