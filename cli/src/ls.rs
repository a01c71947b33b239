//! `dataflux ls`: lists the objects below a prefix.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Error, Result, anyhow};
use dataflux::list::inventory::Inventory;
use dataflux::list::{CONCURRENCY, Filter, LeftOut, Lister, ListingCut, PAGE_SIZE, Page, Prefix, Reason};
use dataflux::manifest::{ClassTotal, EntryRef, Manifest, ManifestBuilder, NamesDigest};
use dataflux::plan::cold_notice;
use dataflux::store::{Client, Fields, ObjectRef, Objects, StorageClass};
use serde::{Serialize, Serializer};

use crate::access::AccessArgs;
use crate::encodings::Encodings;
use crate::failure::Usage;
use crate::filter::FilterArgs;
use crate::{failure, output, progress, source, value};

/// List the objects below a prefix, in byte order of names
///
/// Lists every object whose name begins with the prefix. Markers of folders, temporary objects of running data loaders
/// and hidden files are included, except with --samples and --save. Objects that filters leave out are counted. It is a
/// failure (exit code 1) if no object is found or none is left.
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  dataflux ls gs://bucket/train/
  dataflux ls -l gs://bucket/train/ --storage-class nearline --storage-class archive
  dataflux ls gs://bucket/train/ --samples --include '*.jpg' --exclude thumbs/ --min-size 1KiB --modified-since 7d
  dataflux ls --summary --json gs://bucket
  dataflux ls gs://bucket/train/ --save train.dfm

With --json the objects are printed, or their totals with --summary or --save. For objects of an inventory report,
`updated` is null.")]
#[expect(clippy::struct_excessive_bools, reason = "each is an option of the command line")]
pub(crate) struct Args {
    /// The prefix of the objects' names, as gs://BUCKET/PREFIX or file:///PREFIX; it need not be a whole folder
    uri: Prefix,

    /// Print size (bytes), storage class, last change (UTC), generation and CRC32C (hex) before each name, and the
    /// Content-Encoding if any object of the listing has one
    #[arg(short, long, conflicts_with = "summary")]
    long: bool,

    /// Print totals and a digest of the names instead of the names
    #[arg(long)]
    summary: bool,

    /// Save the listing as a manifest in this file, which data sets open without listing again. Saves only samples, as
    /// with --samples, unless --everything is given
    #[arg(long, value_name = "FILE", conflicts_with = "long")]
    save: Option<PathBuf>,

    /// Divide the work of listing by this manifest, saved by an earlier --save of the same prefix, or of a prefix above
    /// or below it
    #[arg(long, value_name = "FILE")]
    refresh: Option<PathBuf>,

    /// Read a Storage Insights inventory report instead of listing: a folder, a manifest.json or a shard, as a path or
    /// as gs://BUCKET/PATH
    #[arg(long, value_name = "REPORT", conflicts_with_all = ["long", "refresh"])]
    inventory: Option<String>,

    /// Maximum number of concurrent list calls; fewer are made if more don't help
    #[arg(long, value_name = "N", default_value_t = CONCURRENCY, value_parser = value::at_least_one)]
    concurrency: usize,

    /// Number of objects to ask for in a call; the service returns at most 5000
    #[arg(long, value_name = "N", default_value_t = PAGE_SIZE, value_parser = clap::value_parser!(u32).range(1..))]
    page_size: u32,

    /// Only objects that a data set takes as samples: no markers of folders, no temporary objects of data loaders, and
    /// no hidden files, such as .DS_Store and what is in .ipynb_checkpoints
    #[arg(long, help_heading = "Filters")]
    samples: bool,

    /// Save markers of folders, temporary objects and hidden files, too: an inventory of all objects instead of a data
    /// set
    #[arg(long, help_heading = "Filters", conflicts_with = "samples")]
    everything: bool,

    #[command(flatten)]
    filter: FilterArgs,

    #[command(flatten)]
    access: AccessArgs,
}

impl Args {
    /// Whether only objects that data sets take as samples are selected.
    fn only_samples(&self) -> bool {
        self.samples || (self.save.is_some() && !self.everything)
    }
}

#[derive(Serialize)]
struct Summary {
    objects: u64,
    bytes: u64,
    #[serde(serialize_with = "by_class")]
    classes: Vec<ClassTotal>,
    /// Number of objects of each Content-Encoding; omitted if there are none.
    #[serde(skip_serializing_if = "Encodings::is_empty")]
    content_encodings: Encodings,
    list_calls: u64,
    empty_calls: u64,
    seconds: f64,
    digest: String,
    #[serde(serialize_with = "by_reason")]
    left_out: LeftOut,
    /// Number of bytes of the manifest, in memory and as a file.
    manifest_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    saved: Option<String>,
}

fn by_reason<S: Serializer>(left: &LeftOut, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(left.counts().map(|(reason, count)| (reason.as_str(), count)))
}

fn by_class<S: Serializer>(classes: &[ClassTotal], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Total {
        objects: u64,
        bytes: u64,
    }
    let total = |class: &ClassTotal| Total { objects: class.objects, bytes: class.bytes };
    serializer.collect_map(classes.iter().map(|class| (class_name(class.storage_class), total(class))))
}

/// The name of a storage class, even if the listing didn't report it.
fn class_name(class: StorageClass) -> &'static str {
    if class == StorageClass::Unspecified { "UNSPECIFIED" } else { class.as_str() }
}

#[derive(Serialize)]
struct Object<'a> {
    name: &'a str,
    size: u64,
    storage_class: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_encoding: Option<&'a str>,
    updated: Option<String>,
    generation: Option<i64>,
    crc32c: Option<String>,
}

impl<'a> Object<'a> {
    fn of(meta: ObjectRef<'a>) -> Self {
        Self {
            name: meta.name,
            size: meta.size,
            storage_class: Some(meta.storage_class.as_str()).filter(|class| !class.is_empty()),
            content_encoding: Some(meta.encoding.as_str()).filter(|encoding| !encoding.is_empty()),
            updated: meta.updated.map(output::time),
            generation: meta.version.generation(),
            crc32c: meta.crc32c.map(|crc| format!("{crc:08x}")),
        }
    }

    /// An object without the time of its last change, which manifests don't have.
    fn of_entry(entry: EntryRef<'a>) -> Self {
        let EntryRef { name, size, version, crc32c, storage_class, encoding, .. } = entry;
        Self::of(ObjectRef { name, size, version, crc32c, storage_class, encoding, ..ObjectRef::default() })
    }
}

/// Maximum number of names of an earlier listing by which the work of a new one is divided.
const MAX_CUTS: u64 = 4_096;

pub(crate) fn run(args: &Args, json: bool) -> Result<()> {
    let filter = args.filter.apply(if args.only_samples() { Filter::new() } else { Filter::everything() })?;
    let cuts = args.refresh.as_deref().map(|file| cuts(args, file)).transpose()?;
    if let Some(file) = &args.save {
        Manifest::check_save(file)?;
    }
    let client = args.access.reader(&args.uri)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut lister = Lister::new(&client, args.uri.clone()).page_size(args.page_size).concurrency(args.concurrency);
    if let Some(cuts) = cuts {
        lister = lister.earlier(cuts);
    }
    let spinner = match &args.inventory {
        Some(_) => progress::spinner("reading the report"),
        None => progress::listing(lister.progress()),
    };
    let started = Instant::now();
    // These two modes print facts that manifests don't have.
    if args.long || (json && !args.summary && args.save.is_none() && args.inventory.is_none()) {
        let (objects, left_out) = runtime.block_on(details(lister, filter))?;
        drop(spinner);
        if objects.iter().all(Objects::is_empty) {
            return Err(no_objects(args, &left_out));
        }
        let objects = || objects.iter().flat_map(Objects::iter);
        print_left_out(&left_out, json);
        print_cold_notice(objects().map(|object| (object.storage_class, 1, object.size)));
        Encodings::of(objects().map(|object| object.encoding)).print_notice();
        return output::write(|out| {
            if json {
                write_json(out, &left_out, |array| objects().try_for_each(|object| array.push(&Object::of(object))))
            } else {
                write_long(out, objects)
            }
        });
    }
    let builder = runtime.block_on(async {
        let Some(location) = &args.inventory else { return ManifestBuilder::list(lister, filter).await };
        let inventory = Inventory::open(&client, location).await?;
        ManifestBuilder::inventory(&client, &inventory, args.uri.clone(), &filter).await
    })?;
    if builder.objects() == 0 {
        drop(spinner);
        return Err(no_objects(args, &builder.left_out()));
    }
    let manifest = builder.finish()?;
    let seconds = started.elapsed().as_secs_f64();
    drop(spinner);
    print_left_out(&manifest.left_out(), json);
    print_cold_notice(manifest.storage_classes().map(|class| (class.storage_class, class.objects, class.bytes)));
    if let Some(file) = &args.save {
        manifest.save(file)?;
        if !json {
            let (objects, bytes) = (manifest.len(), output::bytes(manifest.memory_bytes()));
            progress::print(&format!("saved {objects} objects in {}: {bytes}\n", file.display()));
        }
    }
    let encodings = Encodings::of_manifest(&manifest)?;
    encodings.print_notice();
    if args.summary || (json && args.save.is_some()) {
        return summary(args, &client, &manifest, encodings, seconds, json);
    }
    if args.save.is_some() {
        return Ok(());
    }
    output::write(|out| {
        if json {
            return write_json(out, &manifest.left_out(), |array| {
                each(&manifest, |entry| array.push(&Object::of_entry(entry)))
            });
        }
        each(&manifest, |entry| writeln!(out, "{}", shown(entry.name)))
    })
}

/// Names of an earlier listing by which the work of this one is divided.
fn cuts(args: &Args, file: &Path) -> Result<Vec<ListingCut>> {
    let manifest = Manifest::load(file)?;
    let (of, prefix) = (manifest.prefix(), &args.uri);
    if of.bucket != prefix.bucket || !(of.prefix.starts_with(&prefix.prefix) || prefix.prefix.starts_with(&of.prefix)) {
        let file = file.display();
        let message = format!(
            "{file} is a manifest of {of}, which doesn't overlap {prefix}: name one that was saved of {prefix}, or list \
             without --refresh"
        );
        return Err(Usage(message).into());
    }
    let mut cuts = manifest.cuts((manifest.len() / MAX_CUTS).max(args.page_size.into()))?;
    cuts.retain(|cut| cut.name.starts_with(&prefix.prefix));
    Ok(cuts)
}

fn each(manifest: &Manifest, mut show: impl FnMut(EntryRef<'_>) -> io::Result<()>) -> io::Result<()> {
    let mut entries = manifest.entries();
    while let Some(entry) = entries.next().map_err(io::Error::other)? {
        show(entry)?;
    }
    Ok(())
}

/// Lists the objects with their details. Returns parts in byte order of names, and the counts of what was left out.
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

fn print_left_out(left_out: &LeftOut, json: bool) {
    if !json && left_out.total() > 0 {
        progress::print(&format!("left out: {left_out}\n"));
    }
}

/// Prints a notice about objects in cold storage, even with --json, since it concerns the bill.
fn print_cold_notice(all: impl Iterator<Item = (StorageClass, u64, u64)>) {
    let mut classes = BTreeMap::<StorageClass, (u64, u64)>::new();
    for (class, objects, bytes) in all {
        let total = classes.entry(class).or_default();
        *total = (total.0 + objects, total.1.saturating_add(bytes));
    }
    let classes: Vec<_> = classes.into_iter().map(|(class, (objects, bytes))| (class, objects, bytes)).collect();
    if let Some(notice) = cold_notice(&classes) {
        progress::print(&format!("{notice}\n"));
    }
}

/// The error of a listing without objects, or of which filters left none.
fn no_objects(args: &Args, left_out: &LeftOut) -> Error {
    if left_out.total() > 0 {
        return all_left_out(args, left_out);
    }
    if let Some(report) = &args.inventory {
        let uri = &args.uri;
        return anyhow!("the report {report} has no object whose name begins with {uri}; check the spelling of both");
    }
    let bucket = &args.uri.bucket;
    let hint = if let Some(hint) = source::glob_hint(&args.uri) {
        hint
    } else if args.uri.prefix.is_empty() {
        format!("the bucket {bucket} is empty: upload data, or name another")
    } else {
        format!("check its spelling; `dataflux ls {}` lists all objects of the bucket", args.uri.bucket_uri())
    };
    anyhow!("no object's name begins with {}; {hint}", args.uri)
}

/// The error of filters that leave out all objects. It names the options to loosen.
fn all_left_out(args: &Args, left_out: &LeftOut) -> Error {
    let count = left_out.total();
    let are = if count == 1 { "object is" } else { "objects are" };
    let mut message = format!("no object of {} is left: all {count} {are} left out ({left_out})", args.uri);
    // Writing to a string can't fail.
    let options = args.filter.causes(left_out);
    if !options.is_empty() {
        let _ = write!(message, "; loosen {options}");
    }
    if left_out.count(Reason::StorageClass) > 0 {
        let _ = write!(message, "; `dataflux ls -l {}` shows the storage classes", args.uri);
    }
    let no_samples = [Reason::Temporary, Reason::DirectoryMarker, Reason::Hidden];
    if args.only_samples() && no_samples.iter().any(|&reason| left_out.count(reason) > 0) {
        message += if args.samples {
            "; without --samples folder marks, temporary objects and hidden files are listed"
        } else {
            "; --everything saves folder marks, temporary objects and hidden files, too"
        };
    }
    anyhow!(message)
}

fn summary(
    args: &Args,
    client: &Client,
    manifest: &Manifest,
    content_encodings: Encodings,
    seconds: f64,
    json: bool,
) -> Result<()> {
    let mut digest = NamesDigest::default();
    let mut entries = manifest.entries();
    while let Some(entry) = entries.next()? {
        digest.push(entry.name);
    }
    let counts = client.metrics().snapshot();
    let summary = Summary {
        objects: manifest.len(),
        bytes: manifest.bytes(),
        classes: manifest.storage_classes().collect(),
        content_encodings,
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
    let of_class = |class: &ClassTotal| {
        format!("{} {} ({})", class.objects, class_name(class.storage_class), output::bytes(class.bytes))
    };
    let classes: Vec<_> = summary.classes.iter().map(of_class).collect();
    let each = summary.manifest_bytes as f64 / summary.objects as f64;
    output::table(&[
        ("objects", summary.objects.to_string()),
        ("bytes", output::bytes(summary.bytes)),
        ("storage classes", classes.join(", ")),
        ("content encodings", summary.content_encodings.to_string()),
        ("list calls", format!("{}, {} of them empty", summary.list_calls, summary.empty_calls)),
        ("seconds", format!("{seconds:.3}")),
        ("digest", summary.digest),
        ("manifest", format!("{}, {each:.1} bytes an object", output::bytes(summary.manifest_bytes))),
    ])
}

/// A JSON array that is written object by object, so that millions of names aren't held in memory twice.
struct Array<'a> {
    out: &'a mut dyn Write,
    empty: bool,
}

impl Array<'_> {
    fn push(&mut self, object: &Object<'_>) -> io::Result<()> {
        if !std::mem::take(&mut self.empty) {
            self.out.write_all(b",")?;
        }
        Ok(serde_json::to_writer(&mut *self.out, object)?)
    }
}

fn write_json(
    out: &mut dyn Write,
    left_out: &LeftOut,
    objects: impl FnOnce(&mut Array<'_>) -> io::Result<()>,
) -> io::Result<()> {
    out.write_all(b"{\"objects\":[")?;
    objects(&mut Array { out, empty: true })?;
    out.write_all(b"],\"left_out\":")?;
    by_reason(left_out, &mut serde_json::Serializer::new(&mut *out))?;
    out.write_all(b"}\n")
}

fn write_long<'a, I: Iterator<Item = ObjectRef<'a>>>(out: &mut dyn Write, objects: impl Fn() -> I) -> io::Result<()> {
    let widest = |width: fn(ObjectRef<'_>) -> usize| objects().map(width).max().unwrap_or_default();
    let digits = |number: u64| number.checked_ilog10().unwrap_or_default() as usize + 1;
    let size = digits(objects().map(|object| object.size).max().unwrap_or_default());
    let generation =
        digits(objects().filter_map(|object| object.version.generation()).max().unwrap_or_default().unsigned_abs());
    let class = widest(|object| object.storage_class.as_str().len().max(1));
    // Few buckets have encoded objects, so the column is printed only if there is one.
    let encoding = widest(|object| object.encoding.as_str().len());
    for object in objects() {
        let row = Object::of(object);
        write!(
            out,
            "{:>size$}  {:class$}  {:24}  {:>generation$}  {:8}  ",
            row.size,
            row.storage_class.unwrap_or("-"),
            row.updated.as_deref().unwrap_or("-"),
            row.generation.map_or_else(|| "-".to_owned(), |generation| generation.to_string()),
            row.crc32c.as_deref().unwrap_or("-"),
        )?;
        if encoding > 0 {
            write!(out, "{:encoding$}  ", row.content_encoding.unwrap_or("-"))?;
        }
        writeln!(out, "{}", shown(row.name))?;
    }
    Ok(())
}

/// A name as printed: on a terminal, control characters in it are replaced.
fn shown(name: &str) -> std::borrow::Cow<'_, str> {
    if name.contains(char::is_control) && io::stdout().is_terminal() {
        failure::printable(name).into()
    } else {
        name.into()
    }
}
