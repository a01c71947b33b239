//! `dataflux ls`: what is below a prefix.

use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Error, Result, anyhow};
use dataflux::list::inventory::Inventory;
use dataflux::list::{CONCURRENCY, Filter, LeftOut, Lister, PAGE_SIZE, Page, Prefix};
use dataflux::manifest::{Manifest, ManifestBuilder, NamesDigest};
use dataflux::plan::cold_notice;
use dataflux::store::{Client, Fields, GcsConfig, GcsStore, ObjectRef, Objects, StorageClass};
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
  dataflux ls --summary --json gs://bucket
  dataflux ls --samples gs://bucket/train/ --save train.dfm")]
pub(crate) struct Args {
    /// What names begin with, as gs://BUCKET or gs://BUCKET/PREFIX; not only whole folders
    uri: Prefix,

    /// Print size (bytes), storage class, last change (UTC), generation and CRC32C (hex) before each name
    #[arg(short, long, conflicts_with = "summary")]
    long: bool,

    /// Print totals and a digest of the names instead of the names
    #[arg(long)]
    summary: bool,

    /// Save the listing as a manifest into this file, which data sets open without listing again
    #[arg(long, value_name = "FILE", conflicts_with = "long")]
    save: Option<PathBuf>,

    /// Divide the work of listing by this manifest, saved by an earlier --save of the same prefix or one above it
    #[arg(long, value_name = "FILE")]
    refresh: Option<PathBuf>,

    /// Read a Storage Insights inventory report instead of listing: a folder, a manifest.json or a shard, as a path or as
    /// gs://BUCKET/PATH
    #[arg(long, value_name = "REPORT", conflicts_with_all = ["long", "refresh"])]
    inventory: Option<String>,

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
    /// Bytes that the listing takes in memory, and as a file.
    manifest_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    saved: Option<String>,
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

/// Names of an earlier listing by which the work of another is divided.
const MOST_CUTS: u64 = 4_096;

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let filter = args.filter.of(if args.samples { Filter::new() } else { Filter::everything() })?;
    let known = args.refresh.as_deref().map(Manifest::load).transpose()?;
    let client = Client::new(Arc::new(GcsStore::new(GcsConfig::from_env().read_only())?));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut lister = Lister::new(&client, args.uri.clone()).page_size(args.page_size).concurrency(args.concurrency);
    if let Some(manifest) = known {
        lister = lister.known(manifest.cuts((manifest.len() / MOST_CUTS).max(args.page_size.into()))?);
    }
    let spinner = progress::listing(lister.progress());
    let started = Instant::now();
    // What only these two show, manifests don't have.
    if args.long || (json && !args.summary && args.save.is_none() && args.inventory.is_none()) {
        let (objects, left_out) = runtime.block_on(details(lister, filter))?;
        drop(spinner);
        if objects.iter().all(Objects::is_empty) {
            return Err(nothing(args, &left_out));
        }
        say_left_out(&left_out, json);
        let objects = || objects.iter().flat_map(Objects::iter);
        return output::write(
            |out| if json { write_json(out, objects(), &left_out) } else { write_long(out, objects) },
        );
    }
    let builder = runtime.block_on(async {
        let Some(location) = &args.inventory else { return ManifestBuilder::list(lister, filter).await };
        let inventory = Inventory::open(&client, location).await?;
        ManifestBuilder::inventory(&client, &inventory, args.uri.clone(), &filter).await
    })?;
    if builder.objects() == 0 {
        drop(spinner);
        return Err(nothing(args, &builder.left_out()));
    }
    let manifest = builder.finish()?;
    let seconds = started.elapsed().as_secs_f64();
    drop(spinner);
    say_left_out(&manifest.left_out(), json);
    if let Some(notice) = cold_notice(&classes(&manifest)).filter(|_| args.samples && !json) {
        progress::aside(&format!("{notice}\n"));
    }
    if let Some(file) = &args.save {
        manifest.save(file)?;
        if !json {
            let (objects, bytes) = (manifest.len(), output::bytes(manifest.memory_bytes()));
            progress::aside(&format!("saved {objects} objects in {}: {bytes}\n", file.display()));
        }
    }
    if args.summary || json {
        return summary(args, &client, &manifest, seconds, json);
    }
    if args.save.is_some() {
        return Ok(());
    }
    output::write(|out| {
        let mut entries = manifest.entries();
        while let Some(entry) = entries.next().map_err(io::Error::other)? {
            writeln!(out, "{}", shown(entry.name))?;
        }
        Ok(())
    })
}

/// All that listings tell of each object: parts in byte order of names.
async fn details(lister: Lister, filter: Filter) -> dataflux::Result<(Vec<Objects>, LeftOut)> {
    let prefix = lister.prefix().clone();
    let keep = move |page: &Page| {
        let mut left_out = LeftOut::default();
        (filter.keep(&prefix, page.iter(), &mut left_out).collect::<Objects>(), left_out)
    };
    let mut left_out = LeftOut::default();
    let mut parts = Vec::new();
    for (part, left) in lister.fields(Fields::Times).collect(keep).await? {
        left_out.merge(&left);
        parts.push(part);
    }
    parts.sort_by(|a: &Objects, b| a.name(0).cmp(&b.name(0)));
    Ok((parts, left_out))
}

fn classes(manifest: &Manifest) -> Vec<(StorageClass, u64, u64)> {
    manifest.classes().map(|class| (class.storage_class, class.objects, class.bytes)).collect()
}

fn say_left_out(left_out: &LeftOut, json: bool) {
    if !json && left_out.total() > 0 {
        progress::aside(&format!("left out: {left_out}\n"));
    }
}

/// Nothing is there, or nothing is left.
fn nothing(args: &Args, left_out: &LeftOut) -> Error {
    if left_out.total() > 0 {
        return nothing_left(args, left_out);
    }
    let bucket = &args.uri.bucket;
    let hint = if args.uri.prefix.is_empty() {
        format!("the bucket {bucket} is empty: upload data, or name another")
    } else {
        format!("check its spelling; `dataflux ls gs://{bucket}` shows all that the bucket holds")
    };
    anyhow!("no object's name begins with {}; {hint}", args.uri)
}

/// The filters leave out all there is: which do, and what would pass.
fn nothing_left(args: &Args, left_out: &LeftOut) -> Error {
    let count = left_out.total();
    let are = if count == 1 { "object is" } else { "objects are" };
    let mut message = format!("nothing is left of {}: all of its {count} {are} left out ({left_out})", args.uri);
    // To a string nothing can fail to be written.
    let options = args.filter.behind(left_out);
    if !options.is_empty() {
        let _ = write!(message, "; loosen {options}");
    }
    if left_out.storage_class > 0 {
        let _ = write!(message, "; `dataflux ls -l {}` shows which storage classes are there", args.uri);
    }
    if left_out.temporaries + left_out.directory_markers > 0 {
        message += "; without --samples folder marks and temporary objects are shown";
    }
    anyhow!(message)
}

fn summary(args: &Args, client: &Client, manifest: &Manifest, seconds: f64, json: bool) -> Result<()> {
    let mut digest = NamesDigest::default();
    let mut entries = manifest.entries();
    while let Some(entry) = entries.next()? {
        digest.push(entry.name);
    }
    let counts = client.metrics().snapshot();
    let summary = Summary {
        objects: manifest.len(),
        bytes: manifest.bytes(),
        list_calls: counts.list,
        empty_calls: counts.empty_list,
        seconds,
        digest: digest.finish(),
        left_out: manifest.left_out(),
        manifest_bytes: manifest.memory_bytes(),
        saved: args.save.as_ref().map(|file| file.display().to_string()),
    };
    if json {
        return output::json(&summary);
    }
    let each = summary.manifest_bytes as f64 / summary.objects as f64;
    output::table(&[
        ("objects", summary.objects.to_string()),
        ("bytes", output::bytes(summary.bytes)),
        ("list calls", format!("{}, {} of them empty", summary.list_calls, summary.empty_calls)),
        ("seconds", format!("{seconds:.3}")),
        ("digest", summary.digest),
        ("manifest", format!("{}, {each:.1} bytes an object", output::bytes(summary.manifest_bytes))),
    ])
}

/// One object of one array, written as it goes: millions of names are no second copy in memory.
fn write_json<'a>(
    out: &mut dyn Write,
    objects: impl Iterator<Item = ObjectRef<'a>>,
    left_out: &LeftOut,
) -> io::Result<()> {
    out.write_all(b"{\"objects\":[")?;
    for (index, object) in objects.enumerate() {
        if index > 0 {
            out.write_all(b",")?;
        }
        serde_json::to_writer(&mut *out, &Object::of(object))?;
    }
    out.write_all(b"],\"left_out\":")?;
    by_reason(left_out, &mut serde_json::Serializer::new(&mut *out))?;
    out.write_all(b"}\n")
}

fn write_long<'a, I: Iterator<Item = ObjectRef<'a>>>(out: &mut dyn Write, objects: impl Fn() -> I) -> io::Result<()> {
    let widest = |width: fn(ObjectRef<'_>) -> usize| objects().map(width).max().unwrap_or_default();
    let digits = |number: u64| number.checked_ilog10().unwrap_or_default() as usize + 1;
    let size = digits(objects().map(|object| object.size).max().unwrap_or_default());
    let generation = digits(objects().map(|object| object.generation.unsigned_abs()).max().unwrap_or_default());
    let class = widest(|object| object.storage_class.as_str().len().max(1));
    for object in objects() {
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
