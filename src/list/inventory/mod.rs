//! Reads objects from an inventory report, so that a billion objects need not be listed.
//!
//! [Storage Insights](https://docs.cloud.google.com/storage/docs/insights/inventory-reports) writes a report every day
//! or week: shards of about a million rows, in CSV or Parquet, named `CONFIG_SNAPSHOT_0.csv` and so on, and then a
//! `CONFIG_SNAPSHOT_manifest.json` that names the shards and says how many rows they have. [`Inventory`] reads all of a
//! report or fails: a missing or cut shard is an error, and so are rows with impossible values.
//!
//! The objects are those of the time of the report. An object that was overwritten or deleted since then is an error
//! when it is read, since its generation has changed. Objects written since then are missing.
//!
//! # What a report must hold
//! The metadata fields `name`, `size` and `generation` are required. Others are used if they are there: `bucket` to
//! check that the report is of the right bucket; `crc32c` to verify samples; `storageClass` and `contentEncoding`; and
//! `timeDeleted` to leave out versions that are no longer live, so buckets with object versions or soft delete need it.
//! A report has all of these unless its configuration says otherwise. CSV needs its header (`--csv-header`), from which
//! the delimiter is inferred.
//!
//! Some of the format isn't documented and is inferred: that CRCs are written as in listings, how times are written (no
//! sample depends on these), and which codecs Parquet files use (Snappy, gzip and none are supported).

mod csv;
#[cfg(feature = "parquet")]
mod parquet;
mod report;
mod row;
mod shard;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream::{self, BoxStream, StreamExt};
use tracing::warn;

use self::report::{FolderContents, Format, ReportManifest};
pub use self::row::InventoryCounts;
use self::row::{RowBatch, RowFilter};
use self::shard::{MAX_HELD_BYTES, Shard, ShardLocation, VerifiedFile, disk_error, off_thread};
use super::{Lister, Page, Prefix};
use crate::store::{BucketUri, Client, ObjectId, Objects};
use crate::{Error, ErrorKind, Result, Stage};

/// Shards that are read at once. Eight streams of 60 MB/s keep a few processors busy, each of which parses 450 MB/s of
/// CSV, and memory stays around half a GiB: eight shards of a million rows took 330 MB in CSV and 500 MB in Parquet.
const SHARDS_AT_ONCE: usize = 8;

/// Largest manifest of a report that is read. A report of a billion objects has a thousand shards, and so 100 kB of
/// names.
const MAX_MANIFEST_BYTES: u64 = 64 << 20;

/// A Storage Insights inventory report, with shards on disk or in a bucket.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// use std::sync::Arc;
///
/// use dataflux::list::inventory::Inventory;
/// use dataflux::store::{Client, MemoryStore};
///
/// let store = MemoryStore::new();
/// let report = "bucket,name,size,generation\ncats,train/tom.png,9,1\ncats,test/tim.png,8,2\n";
/// store.insert("reports", "daily/1a34_2024-05-20T06:35_0.csv", report);
///
/// let client = Client::new(Arc::new(store));
/// let inventory = Inventory::open(&client, "gs://reports/daily/").await?;
/// let mut names = Vec::new();
/// let counts = inventory
///     .objects(&client, &"gs://cats/train/".parse()?, |objects| {
///         names.extend(objects.iter().map(|object| object.name.to_owned()));
///         Ok(())
///     })
///     .await?;
/// assert_eq!(names, ["train/tom.png"]);
/// assert_eq!((counts.rows, counts.other_names), (2, 1));
/// # Ok::<_, dataflux::Error>(()) })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Inventory {
    location: String,
    shards: Vec<Shard>,
    records: Option<u64>,
    snapshot_time: Option<String>,
}

impl Inventory {
    /// Finds the report at `location`: a path or a `gs://` URI of the report's `..._manifest.json`, of one shard, or of
    /// a folder (in a bucket: a prefix) that holds one report. If it is a shard, only this shard is read.
    ///
    /// # Errors
    /// There is no report or more than one; a shard is missing that the manifest names, or that the numbers of the
    /// other shards imply.
    pub async fn open(client: &Client, location: &str) -> Result<Self> {
        let (files, named) = match location.parse::<Prefix>() {
            Ok(prefix) => in_bucket(client, &prefix).await?,
            Err(error) if location.contains("://") => return Err(error),
            // Probably a mistyped URI, unless there is a folder of this name.
            Err(error) if location.starts_with("gs:") && !Path::new(location).exists() => return Err(error),
            Err(_) => on_disk(Path::new(location)).await?,
        };
        let found = match named {
            ReportLocation::Folder => report::find(files.keys().cloned()).map_err(|error| error.object(location))?,
            ReportLocation::Manifest(manifest) => FolderContents::Manifest { manifest, shards: Vec::new() },
            ReportLocation::Shard(shard) => FolderContents::Shards(vec![shard]),
        };
        let mut inventory =
            Self { location: location.to_owned(), shards: Vec::new(), records: None, snapshot_time: None };
        let shards = match found {
            FolderContents::Shards(shards) => {
                warn!(location, shards = shards.len(), "no manifest.json: whether all shards are there isn't known");
                shards
            }
            FolderContents::Manifest { manifest, shards } => {
                let report = inventory.read_manifest(client, &files, &manifest).await?;
                let folder = manifest.rfind(std::path::is_separator).map_or("", |end| &manifest[..=end]);
                let named: Vec<String> = report.shards.iter().map(|shard| format!("{folder}{shard}")).collect();
                let known: HashSet<&String> = named.iter().collect();
                if let Some(other) = shards.iter().find(|shard| !known.contains(shard)) {
                    return Err(Error::new(ErrorKind::Config, "there is more than one inventory report")
                        .stage(Stage::List)
                        .object(location)
                        .mismatch(format_args!("the shards that {manifest} names"), format_args!("{other} too"))
                        .hint("name the ..._manifest.json of the one to read"));
                }
                named
            }
        };
        let count = shards.len();
        for name in shards {
            let Some(ReportFile { location: place, size }) = files.get(&name) else {
                return Err(Error::new(ErrorKind::NotFound, "a shard of the report is missing")
                    .stage(Stage::List)
                    .object(location)
                    .mismatch(format_args!("{count} shards, {name} among them"), "no such file")
                    .hint("copy the whole report, or take the next one"));
            };
            inventory.shards.push(Shard { location: place.clone(), format: format(&name)?, size: *size });
        }
        Ok(inventory)
    }

    async fn read_manifest(&mut self, client: &Client, files: &ReportFiles, manifest: &str) -> Result<ReportManifest> {
        let missing =
            || Error::new(ErrorKind::NotFound, "there is no such manifest").stage(Stage::List).object(manifest);
        let ReportFile { location, size } = files.get(manifest).ok_or_else(missing)?;
        if *size > MAX_MANIFEST_BYTES {
            return Err(location.error(
                Error::new(ErrorKind::Protocol, "this isn't the manifest of an inventory report")
                    .mismatch(format_args!("at most {MAX_MANIFEST_BYTES} bytes"), format_args!("{size} bytes")),
            ));
        }
        let json = VerifiedFile::new(client, location, *size, MAX_HELD_BYTES).await?.read(client, 0..*size).await?;
        let report = ReportManifest::parse(&json).map_err(|error| location.error(error))?;
        (self.records, self.snapshot_time) = (report.records, report.snapshot_time.clone());
        Ok(report)
    }

    /// Number of rows by the report's manifest; `None` without a manifest.
    pub fn records(&self) -> Option<u64> {
        self.records
    }

    /// When the snapshot was taken, as the report's manifest says.
    pub fn snapshot_time(&self) -> Option<&str> {
        self.snapshot_time.as_deref()
    }

    /// Reads all shards, eight at once, and hands the live objects of `prefix` to `sink`, in batches of some ten
    /// thousand and in no particular order. In a report without `timeDeleted`, a name may come with several
    /// generations, of which the highest is the live one.
    ///
    /// Shards in a bucket are verified by their CRC. Memory holds one batch of each shard, and up to 16 MiB of each CSV
    /// shard. Of each Parquet shard it holds all bytes; a shard of more than 64 MiB is read twice instead, and memory
    /// holds the columns needed of one row group.
    ///
    /// # Errors
    /// - Bytes don't match their CRC: of Parquet, after reading them again has not helped; of CSV, at once if the sink
    ///   has got rows of the shard already.
    /// - The report isn't whole: a row, a shard or the number of rows is wrong. The sink has then got only some of the
    ///   objects.
    /// - All rows are of other buckets.
    /// - The sink returned an error.
    ///
    /// # Cancel safety
    /// Reads only: dropping the future stops it.
    pub async fn objects(
        &self,
        client: &Client,
        prefix: &Prefix,
        mut sink: impl FnMut(Objects) -> Result<()> + Send,
    ) -> Result<InventoryCounts> {
        let mut begun = vec![false; self.shards.len()];
        let sink = |shard: usize, event| match event {
            ShardEvent::Objects(objects) => {
                begun[shard] = true;
                sink(objects)
            }
            ShardEvent::Restarted(error) if begun[shard] => Err(error),
            ShardEvent::Restarted(_) => Ok(()),
        };
        self.by_shard(client, prefix, sink).await
    }

    /// As [`objects`](Self::objects), for a sink that can discard the objects that it got from a shard. Shards are
    /// counted from 0.
    pub(crate) async fn by_shard(
        &self,
        client: &Client,
        prefix: &Prefix,
        mut sink: impl FnMut(usize, ShardEvent) -> Result<()> + Send,
    ) -> Result<InventoryCounts> {
        let filter = RowFilter { bucket: Arc::clone(&prefix.bucket), prefix: prefix.prefix.clone() };
        let batches = |(number, shard)| {
            self.batches(shard, client, filter.clone()).map(move |batch| batch.map(|batch| (number, batch)))
        };
        let shards: Vec<_> = self.shards.iter().enumerate().map(batches).collect();
        let mut batches = stream::iter(shards).flatten_unordered(SHARDS_AT_ONCE);
        let mut counts_by_shard = vec![InventoryCounts::default(); self.shards.len()];
        let mut other_bucket = None;
        while let Some(batch) = batches.next().await {
            let (shard, batch) = batch?;
            if let Some(error) = batch.restarted {
                warn!(%error, "reading it again");
                counts_by_shard[shard] = InventoryCounts::default();
                sink(shard, ShardEvent::Restarted(error))?;
                continue;
            }
            counts_by_shard[shard] += batch.counts;
            other_bucket = other_bucket.or(batch.other_bucket);
            if !batch.objects.is_empty() {
                sink(shard, ShardEvent::Objects(batch.objects))?;
            }
        }

        let mut counts = InventoryCounts::default();
        for shard in counts_by_shard {
            counts += shard;
        }
        let failed = |error: Error| Err(error.stage(Stage::List).object(&self.location));
        if let Some(records) = self.records
            && records != counts.rows
        {
            return failed(
                Error::new(ErrorKind::Integrity, "the report isn't whole")
                    .mismatch(format_args!("{records} rows, as its manifest says"), format_args!("{}", counts.rows))
                    .hint("a shard is cut short or another's: copy the report again"),
            );
        }
        if let Some(other) = other_bucket
            && counts.other_buckets == counts.rows
        {
            return failed(
                Error::new(ErrorKind::Config, "the report is of another bucket")
                    .mismatch(prefix.bucket_uri(), BucketUri { scheme: prefix.scheme, bucket: &other })
                    .hint("name a report of this bucket"),
            );
        }
        Ok(counts)
    }

    fn batches<'a>(
        &'a self,
        shard: &'a Shard,
        client: &'a Client,
        filter: RowFilter,
    ) -> BoxStream<'a, Result<RowBatch>> {
        match shard.format {
            Format::Csv => csv::batches(shard, client, filter, self.records.is_some()).boxed(),
            #[cfg(feature = "parquet")]
            Format::Parquet => parquet::batches(shard, client, filter).boxed(),
            #[cfg(not(feature = "parquet"))]
            Format::Parquet => stream::iter([Err(shard.location.error(no_parquet()))]).boxed(),
        }
    }
}

/// What comes from a shard.
pub(crate) enum ShardEvent {
    Objects(Objects),
    /// The shard is read again, because its bytes don't match their CRC. All objects that came from it before are void.
    Restarted(Error),
}

#[cfg(not(feature = "parquet"))]
fn no_parquet() -> Error {
    Error::new(ErrorKind::Config, "this build can't read Parquet")
        .stage(Stage::List)
        .hint("build with --features parquet, or choose CSV in the report's configuration")
}

/// The format of a shard, if this build reads it.
fn format(name: &str) -> Result<Format> {
    let format = Format::of(name).ok_or_else(|| {
        Error::new(ErrorKind::Config, "this isn't a shard of an inventory report")
            .stage(Stage::List)
            .object(name)
            .mismatch("a name that ends in .csv or .parquet", name)
            .hint("name the report's ..._manifest.json, a shard, or the folder of both")
    })?;
    #[cfg(not(feature = "parquet"))]
    if format == Format::Parquet {
        return Err(no_parquet().object(name));
    }
    Ok(format)
}

fn is_json(name: &str) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "json")
}

/// Most files among which those of a report are searched. A report of a billion objects has a thousand files.
const MAX_CANDIDATES: usize = 100_000;

/// What the user named.
enum ReportLocation {
    Folder,
    Manifest(String),
    Shard(String),
}

impl ReportLocation {
    fn of(name: &str) -> Self {
        if is_json(name) { Self::Manifest(name.to_owned()) } else { Self::Shard(name.to_owned()) }
    }
}

/// A file that may belong to a report.
struct ReportFile {
    location: ShardLocation,
    /// Bytes.
    size: u64,
}

/// Files by their names.
type ReportFiles = HashMap<String, ReportFile>;

async fn in_bucket(client: &Client, at: &Prefix) -> Result<(ReportFiles, ReportLocation)> {
    // Shards are in the folder of their manifest. If the manifest has the name that the service gave it, the names of
    // shards begin as its name does.
    let common = match at.prefix.strip_suffix("manifest.json") {
        Some(common) => common,
        None if is_json(&at.prefix) => at.prefix.rsplit_once('/').map_or("", |(folder, _)| &at.prefix[..=folder.len()]),
        None => &at.prefix,
    };
    let prefix = Prefix { prefix: common.to_owned(), ..at.clone() };
    let (scheme, bucket, exact, seen) = (at.scheme, Arc::clone(&at.bucket), at.prefix.clone(), AtomicUsize::new(0));
    let candidates = move |page: &Page| -> Option<ReportFiles> {
        let mut files = ReportFiles::new();
        for object in page
            .iter()
            .filter(|object| object.name == exact || is_json(object.name) || Format::of(object.name).is_some())
        {
            let id = ObjectId::new(Arc::clone(&bucket), object.name, object.version.map(Arc::from)).with_scheme(scheme);
            let location = ShardLocation::Object(id, object.crc32c);
            files.insert(object.name.to_owned(), ReportFile { location, size: object.size });
        }
        // Where there are too many files already, no more are held in memory.
        let before = seen.fetch_add(files.len(), Ordering::Relaxed);
        (before <= 2 * MAX_CANDIDATES).then_some(files)
    };
    let pages: Option<Vec<ReportFiles>> = Lister::new(client, prefix).collect(candidates).await?.into_iter().collect();
    let files: Option<ReportFiles> = pages.map(|pages| pages.into_iter().flatten().collect());
    let files = files.filter(|files| files.len() <= MAX_CANDIDATES).ok_or_else(|| {
        Error::new(ErrorKind::Config, "there are too many files to find an inventory report among them")
            .stage(Stage::List)
            .object(at)
            .mismatch(format_args!("at most {MAX_CANDIDATES} that end in .json, .csv or .parquet"), "more")
            .hint("name the report's ..._manifest.json")
    })?;
    let named = if files.contains_key(&at.prefix) || is_json(&at.prefix) {
        ReportLocation::of(&at.prefix)
    } else {
        ReportLocation::Folder
    };
    Ok((files, named))
}

async fn on_disk(path: &Path) -> Result<(ReportFiles, ReportLocation)> {
    let location = ShardLocation::File(path.to_owned());
    let owned = path.to_owned();
    let read = move || -> std::io::Result<(Vec<(PathBuf, u64)>, bool)> {
        let folder =
            if owned.is_dir() { owned.clone() } else { owned.parent().map(Path::to_owned).unwrap_or_default() };
        // The parent of a bare file name is an empty path.
        let folder = if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder };
        if !owned.exists() {
            return Err(std::io::ErrorKind::NotFound.into());
        }
        let mut files = Vec::new();
        for entry in folder.read_dir()? {
            let path = entry?.path();
            let metadata = path.metadata()?;
            if metadata.is_file() {
                files.push((path, metadata.len()));
            }
        }
        Ok((files, owned.is_dir()))
    };
    let (files, is_dir) = off_thread(&location, read).await?.map_err(|error| disk_error(path, error))?;
    // Files of reports have names in UTF-8.
    let files = files.into_iter().filter_map(|(path, size)| {
        Some((path.to_str()?.to_owned(), ReportFile { location: ShardLocation::File(path), size }))
    });
    let files: ReportFiles = files.collect();
    if is_dir {
        return Ok((files, ReportLocation::Folder));
    }
    // The system may spell the folder differently from the caller.
    let name = files.keys().find(|name| Path::new(name).file_name() == path.file_name());
    let named = name.map_or_else(|| ReportLocation::of(&path.to_string_lossy()), |name| ReportLocation::of(name));
    Ok((files, named))
}

#[cfg(test)]
mod tests;
