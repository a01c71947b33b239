//! `dataflux ls`: what is below a prefix.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Error, Result, anyhow, bail};
use dataflux::list::{CONCURRENCY, Filter, LeftOut, Lister, PAGE_SIZE, Prefix};
use dataflux::manifest::NamesDigest;
use dataflux::store::{Client, Fields, GcsConfig, GcsStore, ObjectRef, Objects};
use serde::{Serialize, Serializer};

use crate::filter::FilterArgs;
use crate::{failure, output, progress, value};

/// List the objects below a prefix, in byte order of names
///
/// Lists everything whose name begins with the prefix: marks of folders, and temporary objects of running data loaders,
/// too, but for --samples. What filters leave out is counted. Nothing there or nothing left is a failure (exit code 1).
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dataflux ls gs://bucket/train/
  dataflux ls -l gs://bucket/train/ --storage-class nearline --storage-class archive
  dataflux ls gs://bucket/train/ --samples --include '*.jpg' --exclude thumbs/ --min-size 1KiB --modified-since 7d
  dataflux ls --summary --json gs://bucket")]
pub(crate) struct Args {
    /// What names begin with, as gs://BUCKET or gs://BUCKET/PREFIX; not only whole folders
    uri: Prefix,

    /// Print size (bytes), storage class, last change (UTC), generation and CRC32C (hex) before each name
    #[arg(short, long, conflicts_with = "summary")]
    long: bool,

    /// Print totals and a digest of the names instead of the names
    #[arg(long)]
    summary: bool,

    /// Most list calls at once; fewer are made where more don't help
    #[arg(long, value_name = "N", default_value_t = CONCURRENCY, value_parser = value::at_least_one)]
    concurrency: usize,

    /// Objects to ask for in a call; the service gives 5000 at most
    #[arg(long, value_name = "N", default_value_t = PAGE_SIZE, value_parser = clap::value_parser!(u32).range(1..))]
    page_size: u32,

    /// Only what a data set takes for samples: no marks of folders and no temporary objects of data loaders
    #[arg(long, help_heading = "Filters")]
    samples: bool,

    #[command(flatten)]
    filter: FilterArgs,
}

#[derive(Serialize)]
struct Summary {
    objects: u64,
    bytes: u64,
    list_calls: u64,
    empty_calls: u64,
    seconds: f64,
    digest: String,
    #[serde(serialize_with = "by_reason")]
    left_out: LeftOut,
}

fn by_reason<S: Serializer>(left: &LeftOut, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(left.counts().map(|(reason, count)| (reason.as_str(), count)))
}

#[derive(Serialize)]
struct Object<'a> {
    name: &'a str,
    size: u64,
    storage_class: Option<&'a str>,
    updated: Option<String>,
    generation: i64,
    crc32c: Option<String>,
}

impl<'a> Object<'a> {
    fn of(meta: ObjectRef<'a>) -> Self {
        Self {
            name: meta.name,
            size: meta.size,
            storage_class: Some(meta.storage_class.as_str()).filter(|class| !class.is_empty()),
            updated: meta.updated.map(output::time),
            generation: meta.generation,
            crc32c: meta.crc32c.map(|crc| format!("{crc:08x}")),
        }
    }
}

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let filter = args.filter.of(if args.samples { Filter::new() } else { Filter::everything() })?;
    // Times are shown, or may be needed to decide.
    let fields = if args.long || (json && !args.summary) { Fields::Times } else { filter.fields() };
    let client = Client::new(Arc::new(GcsStore::new(GcsConfig::from_env().read_only())?));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let lister = Lister::new(&client, args.uri.clone()).page_size(args.page_size).concurrency(args.concurrency);
    let spinner = progress::listing(lister.progress());
    let started = Instant::now();
    let listed = runtime.block_on(lister.fields(fields).objects())?;
    let seconds = started.elapsed().as_secs_f64();
    drop(spinner);
    if listed.is_empty() {
        let bucket = &args.uri.bucket;
        let hint = if args.uri.prefix.is_empty() {
            format!("the bucket {bucket} is empty: upload data, or name another")
        } else {
            format!("check its spelling; `dataflux ls gs://{bucket}` shows all that the bucket holds")
        };
        bail!("no object's name begins with {}; {hint}", args.uri);
    }
    let mut left_out = LeftOut::default();
    let objects: Objects = listed
        .iter()
        .filter(|object| {
            filter.reason(&args.uri, object).is_none_or(|reason| {
                left_out.add(reason);
                false
            })
        })
        .collect();
    if objects.is_empty() {
        return Err(nothing_left(args, &listed, &left_out));
    }
    drop(listed);
    if !json && left_out.total() > 0 {
        progress::aside(&format!("left out: {left_out}\n"));
    }
    if args.summary {
        return summary(&client, &objects, left_out, seconds, json);
    }
    match (json, args.long) {
        (true, _) => output::write(|out| write_json(out, &objects, &left_out)),
        (false, true) => output::write(|out| write_long(out, &objects)),
        (false, false) => {
            output::write(|out| objects.iter().try_for_each(|object| writeln!(out, "{}", shown(object.name))))
        }
    }
}

/// The filters leave out all there is: which do, and what would pass.
fn nothing_left(args: &Args, listed: &Objects, left_out: &LeftOut) -> Error {
    let (count, are) = (listed.len(), if listed.len() == 1 { "object is" } else { "objects are" });
    let mut message = format!("nothing is left of {}: all of its {count} {are} left out ({left_out})", args.uri);
    // To a string nothing can fail to be written.
    let options = args.filter.behind(left_out);
    if !options.is_empty() {
        let _ = write!(message, "; loosen {options}");
    }
    if left_out.storage_class > 0 {
        let there: BTreeSet<_> = listed.iter().map(|object| object.storage_class.as_str()).collect();
        let there: Vec<_> = there.into_iter().map(|class| if class.is_empty() { "none" } else { class }).collect();
        let _ = write!(message, "; storage classes there: {}", there.join(", "));
    }
    if left_out.temporaries + left_out.directory_markers > 0 {
        message += "; without --samples folder marks and temporary objects are shown";
    }
    anyhow!(message)
}

fn summary(client: &Client, objects: &Objects, left_out: LeftOut, seconds: f64, json: bool) -> Result<()> {
    let mut digest = NamesDigest::default();
    for object in objects.iter() {
        digest.push(object.name);
    }
    let counts = client.metrics().snapshot();
    let summary = Summary {
        objects: objects.len() as u64,
        bytes: objects.iter().map(|object| object.size).sum(),
        list_calls: counts.list,
        empty_calls: counts.empty_list,
        seconds,
        digest: digest.finish(),
        left_out,
    };
    if json {
        return output::json(&summary);
    }
    output::table(&[
        ("objects", summary.objects.to_string()),
        ("bytes", output::bytes(summary.bytes)),
        ("list calls", format!("{}, {} of them empty", summary.list_calls, summary.empty_calls)),
        ("seconds", format!("{seconds:.3}")),
        ("digest", summary.digest),
    ])
}

/// One object of one array, written as it goes: millions of names are no second copy in memory.
fn write_json(out: &mut dyn Write, objects: &Objects, left_out: &LeftOut) -> io::Result<()> {
    out.write_all(b"{\"objects\":[")?;
    for (index, object) in objects.iter().enumerate() {
        if index > 0 {
            out.write_all(b",")?;
        }
        serde_json::to_writer(&mut *out, &Object::of(object))?;
    }
    out.write_all(b"],\"left_out\":")?;
    by_reason(left_out, &mut serde_json::Serializer::new(&mut *out))?;
    out.write_all(b"}\n")
}

fn write_long(out: &mut dyn Write, objects: &Objects) -> io::Result<()> {
    let widest = |width: fn(ObjectRef<'_>) -> usize| objects.iter().map(width).max().unwrap_or_default();
    let digits = |number: u64| number.checked_ilog10().unwrap_or_default() as usize + 1;
    let size = digits(objects.iter().map(|object| object.size).max().unwrap_or_default());
    let generation = digits(objects.iter().map(|object| object.generation.unsigned_abs()).max().unwrap_or_default());
    let class = widest(|object| object.storage_class.as_str().len().max(1));
    for object in objects.iter() {
        let row = Object::of(object);
        writeln!(
            out,
            "{:>size$}  {:class$}  {:24}  {:>generation$}  {:8}  {}",
            row.size,
            row.storage_class.unwrap_or("-"),
            row.updated.as_deref().unwrap_or("-"),
            row.generation,
            row.crc32c.as_deref().unwrap_or("-"),
            shown(row.name),
        )?;
    }
    Ok(())
}

/// A name as it is, or for a terminal without the control characters that it may hold.
fn shown(name: &str) -> std::borrow::Cow<'_, str> {
    if name.contains(char::is_control) && io::stdout().is_terminal() {
        failure::printable(name).into()
    } else {
        name.into()
    }
}
