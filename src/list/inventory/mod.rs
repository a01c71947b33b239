//! Objects out of an inventory report, so that nobody lists a billion of them.
//!
//! [Storage Insights](https://docs.cloud.google.com/storage/docs/insights/inventory-reports) writes one every day or week:
//! shards of about a million rows, in CSV or Parquet, named `CONFIG_SNAPSHOT_0.csv` and so on, and when all are written a
//! `CONFIG_SNAPSHOT_manifest.json` that names them and says how many rows they have. [`Inventory`] reads all of one report
//! or fails: a shard that is missing or cut short is an error, and so are rows that make no sense.
//!
//! What it tells is as old as the report. An object that was overwritten or deleted since then is an error when it is
//! read, since its generation is another; one that is new is not there.
//!
//! # What a report must hold
//! The metadata fields `name`, `size` and `generation`. With `bucket` it is checked that the report is of the right
//! bucket; with `crc32c` samples are proved; `storageClass` and `contentEncoding` are used where they are there; with
//! `timeDeleted`, rows of versions that are no longer live are left out, so a bucket with object versions or soft delete
//! needs it. All of these are in a report unless its configuration says otherwise. CSV needs its header
//! (`--csv-header`); the delimiter is found in it.
//!
//! Where no source states it, the format is inferred: that CRCs are written as in listings, how times are written (no
//! sample depends on it), and which codecs Parquet has (Snappy, gzip and none are read).

mod csv;
#[cfg(feature = "parquet")]
mod parquet;
mod report;
mod row;
mod shard;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::AddAssign;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream::{self, BoxStream, StreamExt};
use tracing::warn;

use self::report::{FolderContents, Format, ReportManifest};
use self::row::{RowBatch, RowFilter};
use self::shard::{HELD, Shard, ShardLocation, VerifiedFile, of_disk, off_thread};
use super::{Lister, Page, Prefix};
use crate::store::{Client, ObjectId, Objects};
use crate::{Error, ErrorKind, Result, Stage};

/// Shards that are read at once. So many streams of 60 MB/s fill what a few processors parse (CSV 450 MB/s each), and the
/// memory stays below half a GiB: eight shards of a million rows took 330 MB in CSV and 500 MB in Parquet.
const AT_ONCE: usize = 8;

/// Largest manifest of a report that is read: a billion objects have a thousand shards, so 100 kB of names.
const LARGEST_MANIFEST: u64 = 64 << 20;

/// A Storage Insights inventory report: shards on disk or in a bucket.
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

/// What the rows of a report were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct InventoryCounts {
    /// Rows in all: objects and those that follow.
    pub rows: u64,
    /// Live objects of the bucket, of names that begin as wanted.
    pub objects: u64,
    /// Rows of other buckets.
    pub other_buckets: u64,
    /// Rows of the bucket, of names that begin otherwise.
    pub other_names: u64,
    /// Rows of the bucket with a time of deletion: versions that are no longer live, and soft-deleted objects.
    pub deleted: u64,
}

/// Such as `221 rows, 5 of other buckets, 100 of other names, 16 of deleted objects, 100 of objects`.
impl fmt::Display for InventoryCounts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, objects, other_buckets, other_names, deleted } = self;
        write!(
            f,
            "{rows} rows, {other_buckets} of other buckets, {other_names} of other names, {deleted} of deleted objects, \
             {objects} of objects"
        )
    }
}

impl AddAssign for InventoryCounts {
    fn add_assign(&mut self, other: Self) {
        self.rows += other.rows;
        self.objects += other.objects;
        self.other_buckets += other.other_buckets;
        self.other_names += other.other_names;
        self.deleted += other.deleted;
    }
}

impl Inventory {
    /// Finds the report at `location`, a path or a `gs://` URI: of the report's `..._manifest.json`, of one shard, or of a
    /// folder (in a bucket: a prefix) that holds one report. A shard that is named alone is all that is read.
    ///
    /// # Errors
    /// Where there is no report or more than one, and where a shard that the manifest names, or that the numbers of the
    /// others suppose, isn't there.
    pub async fn open(client: &Client, location: &str) -> Result<Self> {
        let (files, named) = match location.parse::<Prefix>() {
            Ok(prefix) => in_bucket(client, &prefix).await?,
            Err(error) if location.contains("://") => return Err(error),
            // A slip of the pen, unless there is such a folder.
            Err(error) if location.starts_with("gs:") && !Path::new(location).exists() => return Err(error),
            Err(_) => on_disk(Path::new(location)).await?,
        };
        let names = files.iter().map(|(name, _)| name.clone());
        let found = match named {
            ReportLocation::Folder => report::find(names).map_err(|error| error.object(location))?,
            ReportLocation::Manifest(manifest) => FolderContents::Manifest { manifest, shards: Vec::new() },
            ReportLocation::Shard(shard) => FolderContents::Shards(vec![shard]),
        };
        let files: HashMap<String, (ShardLocation, u64)> = files.into_iter().collect();
        let mut inventory =
            Self { location: location.to_owned(), shards: Vec::new(), records: None, snapshot_time: None };
        let shards = match found {
            FolderContents::Shards(shards) => {
                warn!(location, shards = shards.len(), "no manifest.json: whether all shards are there isn't known");
                shards
            }
            FolderContents::Manifest { manifest, shards } => {
                let said = inventory.read_manifest(client, &files, &manifest).await?;
                let beside = manifest.rfind(std::path::is_separator).map_or("", |end| &manifest[..=end]);
                let named: Vec<String> = said.shards.iter().map(|shard| format!("{beside}{shard}")).collect();
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
            let Some((place, size)) = files.get(&name) else {
                return Err(Error::new(ErrorKind::NotFound, "a shard of the report is missing")
                    .stage(Stage::List)
                    .object(location)
                    .mismatch(format_args!("{count} shards, {name} among them"), "no such file")
                    .hint("copy the whole report, or take the next one"));
            };
            inventory.shards.push(Shard { place: place.clone(), format: format(&name)?, size: *size });
        }
        Ok(inventory)
    }

    async fn read_manifest(
        &mut self,
        client: &Client,
        files: &HashMap<String, (ShardLocation, u64)>,
        manifest: &str,
    ) -> Result<ReportManifest> {
        let missing =
            || Error::new(ErrorKind::NotFound, "there is no such manifest").stage(Stage::List).object(manifest);
        let (place, size) = files.get(manifest).ok_or_else(missing)?;
        if *size > LARGEST_MANIFEST {
            return Err(place.blame(
                Error::new(ErrorKind::Protocol, "this isn't the manifest of an inventory report")
                    .mismatch(format_args!("at most {LARGEST_MANIFEST} bytes"), format_args!("{size} bytes")),
            ));
        }
        let json = VerifiedFile::new(client, place, *size, HELD).await?.read(client, 0..*size).await?;
        let said = ReportManifest::parse(&json).map_err(|error| place.blame(error))?;
        (self.records, self.snapshot_time) = (said.records, said.snapshot_time.clone());
        Ok(said)
    }

    /// Rows that the report's manifest says there are; `None` without one.
    pub fn records(&self) -> Option<u64> {
        self.records
    }

    /// When the snapshot was taken, as the report's manifest has it.
    pub fn snapshot_time(&self) -> Option<&str> {
        self.snapshot_time.as_deref()
    }

    /// Number of shards.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Bytes of all shards.
    pub fn bytes(&self) -> u64 {
        self.shards.iter().map(|shard| shard.size).sum()
    }

    /// Reads all shards, eight at once, and hands the live objects of `prefix` to `sink`, a batch of some ten thousand at
    /// a time, in no order. Of one name there may be several generations, in a report without `timeDeleted`: the highest
    /// is the live one.
    ///
    /// What is in a bucket is proved by its CRC. Held at once are up to 16 MiB of each CSV shard; of each Parquet shard all
    /// its bytes, or if they are more than 64 MiB, which are read twice, those of one row group's columns of use; and a
    /// batch of each.
    ///
    /// # Errors
    /// Bytes that don't match their CRC: of Parquet, when reading them again has not helped; of CSV, where rows have gone
    /// to the sink already, at once.
    /// Whatever makes the report less than whole: a row, a shard or the count of rows that isn't as it must be. What the
    /// sink has got by then isn't all. Also where all rows are of other buckets, and what the sink returns.
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
        let sink = |shard: usize, told| match told {
            ShardEvent::Objects(objects) => {
                begun[shard] = true;
                sink(objects)
            }
            ShardEvent::Again(error) if begun[shard] => Err(error),
            ShardEvent::Again(_) => Ok(()),
        };
        self.by_shard(client, prefix, sink).await
    }

    /// As [`objects`](Self::objects), for a sink that can call off what came of a shard; shards count from 0.
    pub(crate) async fn by_shard(
        &self,
        client: &Client,
        prefix: &Prefix,
        mut sink: impl FnMut(usize, ShardEvent) -> Result<()> + Send,
    ) -> Result<InventoryCounts> {
        let sieve = RowFilter { bucket: Arc::clone(&prefix.bucket), prefix: prefix.prefix.clone() };
        let batches = |(number, shard)| {
            self.batches(shard, client, sieve.clone()).map(move |batch| batch.map(|batch| (number, batch)))
        };
        let shards: Vec<_> = self.shards.iter().enumerate().map(batches).collect();
        let mut batches = stream::iter(shards).flatten_unordered(AT_ONCE);
        let (mut of_shards, mut other) = (vec![InventoryCounts::default(); self.shards.len()], None);
        while let Some(batch) = batches.next().await {
            let (shard, batch) = batch?;
            if let Some(error) = batch.again {
                warn!(%error, "reading it again");
                of_shards[shard] = InventoryCounts::default();
                sink(shard, ShardEvent::Again(error))?;
                continue;
            }
            of_shards[shard] += batch.counts;
            other = other.or(batch.other_bucket);
            if !batch.objects.is_empty() {
                sink(shard, ShardEvent::Objects(batch.objects))?;
            }
        }
        let mut counts = InventoryCounts::default();
        for shard in of_shards {
            counts += shard;
        }
        let blame = |error: Error| Err(error.stage(Stage::List).object(&self.location));
        if let Some(records) = self.records
            && records != counts.rows
        {
            return blame(
                Error::new(ErrorKind::Integrity, "the report isn't whole")
                    .mismatch(format_args!("{records} rows, as its manifest says"), format_args!("{}", counts.rows))
                    .hint("a shard is cut short or another's: copy the report again"),
            );
        }
        if let Some(other) = other
            && counts.other_buckets == counts.rows
        {
            return blame(
                Error::new(ErrorKind::Config, "the report is of another bucket")
                    .mismatch(format_args!("gs://{}", prefix.bucket), format_args!("gs://{other}"))
                    .hint("name a report of this bucket"),
            );
        }
        Ok(counts)
    }

    fn batches<'a>(
        &'a self,
        shard: &'a Shard,
        client: &'a Client,
        sieve: RowFilter,
    ) -> BoxStream<'a, Result<RowBatch>> {
        match shard.format {
            Format::Csv => csv::batches(shard, client, sieve, self.records.is_some()).boxed(),
            #[cfg(feature = "parquet")]
            Format::Parquet => parquet::batches(shard, client, sieve).boxed(),
            #[cfg(not(feature = "parquet"))]
            Format::Parquet => stream::iter([Err(shard.place.blame(no_parquet()))]).boxed(),
        }
    }
}

/// What comes of a shard.
pub(crate) enum ShardEvent {
    Objects(Objects),
    /// Nothing holds that came of the shard before: its bytes don't match their CRC, and it is read again.
    Again(Error),
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

/// Most files of which those of a report are found: a report of a billion objects has a thousand.
const MOST_CANDIDATES: usize = 100_000;

/// What a location names.
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

/// Names with their places and sizes in bytes.
type ReportFiles = Vec<(String, (ShardLocation, u64))>;

async fn in_bucket(client: &Client, at: &Prefix) -> Result<(ReportFiles, ReportLocation)> {
    // Shards lie beside their manifest and begin as it does, if it has the name that the service gives it.
    let beside = at.prefix.strip_suffix("manifest.json").unwrap_or(&at.prefix);
    let beside = if is_json(&at.prefix) && beside == at.prefix {
        at.prefix.rsplit_once('/').map_or("", |(folder, _)| &at.prefix[..=folder.len()])
    } else {
        beside
    };
    let prefix = Prefix { bucket: Arc::clone(&at.bucket), prefix: beside.to_owned() };
    let (bucket, exact, seen) = (Arc::clone(&at.bucket), at.prefix.clone(), AtomicUsize::new(0));
    let candidates = move |page: &Page| -> Option<ReportFiles> {
        let mut files = ReportFiles::new();
        for object in page
            .iter()
            .filter(|object| object.name == exact || is_json(object.name) || Format::of(object.name).is_some())
        {
            let id = ObjectId::new(Arc::clone(&bucket), object.name, object.generation);
            files.push((object.name.to_owned(), (ShardLocation::Object(id, object.crc32c), object.size)));
        }
        // What is too much anyway need not be held.
        let before = seen.fetch_add(files.len(), Ordering::Relaxed);
        (before <= 2 * MOST_CANDIDATES).then_some(files)
    };
    let pages: Option<Vec<ReportFiles>> = Lister::new(client, prefix).collect(candidates).await?.into_iter().collect();
    let files: Option<ReportFiles> = pages.map(|pages| pages.into_iter().flatten().collect());
    let files = files.filter(|files| files.len() <= MOST_CANDIDATES).ok_or_else(|| {
        Error::new(ErrorKind::Config, "there are too many files to find an inventory report among them")
            .stage(Stage::List)
            .object(at)
            .mismatch(format_args!("at most {MOST_CANDIDATES} that end in .json, .csv or .parquet"), "more")
            .hint("name the report's ..._manifest.json")
    })?;
    let exact = files.iter().any(|(name, _)| *name == at.prefix);
    let named = if exact || is_json(&at.prefix) { ReportLocation::of(&at.prefix) } else { ReportLocation::Folder };
    Ok((files, named))
}

async fn on_disk(path: &Path) -> Result<(ReportFiles, ReportLocation)> {
    let place = ShardLocation::File(path.to_owned());
    let owned = path.to_owned();
    let read = move || -> std::io::Result<(Vec<(PathBuf, u64)>, bool)> {
        let folder =
            if owned.is_dir() { owned.clone() } else { owned.parent().map(Path::to_owned).unwrap_or_default() };
        // An empty path is the folder of a bare file name.
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
    let (files, is_dir) = off_thread(&place, read).await?.map_err(|error| of_disk(path, error))?;
    // Names that aren't in UTF-8 are none of a report.
    let files = files
        .into_iter()
        .filter_map(|(path, size)| Some((path.to_str()?.to_owned(), (ShardLocation::File(path), size))));
    let files: ReportFiles = files.collect();
    if is_dir {
        return Ok((files, ReportLocation::Folder));
    }
    // The listing may spell the folder in another way than the caller.
    let name = files.iter().map(|(name, _)| name).find(|name| Path::new(name).file_name() == path.file_name());
    let named = name.map_or_else(|| ReportLocation::of(&path.to_string_lossy()), |name| ReportLocation::of(name));
    Ok((files, named))
}

#[cfg(test)]
mod tests;
