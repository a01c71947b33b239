//! A frozen listing: the samples that epochs are made of.
//!
//! A manifest has the same form in memory as in its file: chunks of 4,096 objects, in which an object is found by its
//! index in constant time. An object takes 18 bytes where names are like `n01440764/n01440764_10026.JPEG`, 15 where
//! they are like `00000000.bin`, and 45 where each name is a UUID.
//!
//! ```
//! # use dataflux::{Manifest, store::{ObjectRef, Objects}};
//! # let names = ["train/cat/1.png", "train/dog/1.png"].map(|name| ObjectRef { name, size: 9, ..ObjectRef::default() });
//! # let manifest = Manifest::new("gs://my-bucket/train/".parse()?, &Objects::from_iter(names))?;
//! # let path = std::env::temp_dir().join(format!("dataflux-doc-{}.dfm", std::process::id()));
//! manifest.save(&path)?;
//! let loaded = Manifest::load(&path)?;
//! assert_eq!(loaded.digest(), manifest.digest());
//! assert_eq!(loaded.get(1).map(|entry| entry.label), Some(Some(1)));
//! # std::fs::remove_file(&path).unwrap();
//! # Ok::<(), dataflux::Error>(())
//! ```

mod build;
mod chunk;
mod class_file;
mod classes;
mod digest;
mod entry;
mod file;
mod given;
mod growth;
mod location;
mod name_finder;
mod part_columns;
mod part_pattern;
mod parts;
mod relabel;
mod save;
mod segment;
mod sink;
mod streaming;
mod table;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::list::{ListingCut, Prefix};
use crate::store::ObjectId;
use crate::{Error, ErrorKind, Result, Stage};

pub use crate::list::LeftOut;
pub use build::ManifestBuilder;
pub use classes::ClassMap;
pub(crate) use digest::NamesKey;
pub use digest::{Digest, NamesDigest};
pub use entry::{ClassTotal, Entry, EntryRef, Facts};
pub use given::Unlabelled;
pub(crate) use given::{LabelSource, SampleName, UnlabelledSamples};
pub use growth::KnownSamples;
use growth::{Growth, ListingEnd};
pub use location::{Location, PartLocation, SampleId};
use part_columns::{InvalidPart, PartColumns};
pub(crate) use parts::LeftOutByParts;
pub use parts::{MissingParts, Parts};
pub(crate) use relabel::FoundImages;
pub use segment::Segment;
pub(crate) use streaming::StreamingListing;
use table::{LabelTexts, NO_CLASS, TableCursor};

/// A frozen snapshot of a listing: objects in byte order of names, each at one version.
///
/// The manifest of a [streaming](crate::DatasetBuilder::streaming) data set grows until the listing ends. Methods that
/// need the end of the listing, for example [`len`](Self::len), [`digest`](Self::digest) and [`labels`](Self::labels),
/// block until then. After a failed listing these cover only what was listed, and [`complete`](Self::complete) returns
/// the error.
pub struct Manifest {
    prefix: Prefix,
    growth: Arc<Growth>,
    /// Stops the listing when the manifest is dropped.
    _listing: Option<Listing>,
    /// The file that the manifest was loaded from.
    file: Option<PathBuf>,
    /// Whether this process listed the objects.
    is_listed: bool,
    /// The further parts of the samples, if they have some.
    parts: Option<Arc<PartColumns>>,
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prefix, file, .. } = self;
        f.debug_struct("Manifest").field("prefix", prefix).field("known", &self.known()).field("file", file).finish()
    }
}

/// A running listing. Dropping this stops it.
#[derive(Debug)]
struct Listing(tokio::task::AbortHandle);

impl Drop for Listing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Manifest {
    fn with_growth(prefix: Prefix, growth: Arc<Growth>) -> Self {
        Self { prefix, growth, _listing: None, file: None, is_listed: false, parts: None }
    }

    /// Waits until the listing has ended, where the data set is [streaming](crate::DatasetBuilder::streaming).
    ///
    /// # Errors
    /// The listing failed.
    pub fn complete(&self) -> Result<()> {
        self.growth.wait().failed.clone().map_or(Ok(()), Err)
    }

    /// How many samples are known so far. Doesn't wait.
    pub fn known(&self) -> KnownSamples {
        self.growth.known()
    }

    /// Waits until more than `samples` samples are known, or the listing has ended. Returns false if `is_cancelled`
    /// became true before.
    ///
    /// # Errors
    /// The listing failed.
    pub(crate) fn wait_beyond(&self, samples: u64, is_cancelled: impl Fn() -> bool) -> Result<bool> {
        self.growth.wait_beyond(samples, is_cancelled)
    }

    /// Whether this process listed the objects, so that another process may have found other objects at another time.
    pub(crate) fn is_listed(&self) -> bool {
        self.is_listed
    }

    fn end(&self) -> &ListingEnd {
        self.growth.wait()
    }

    /// Number of samples, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a manifest is never empty")]
    pub fn len(&self) -> u64 {
        self.growth.wait();
        self.growth.objects.rows()
    }

    /// Number of objects that make one sample: 1, unless the data set was given [`Parts`].
    pub fn part_count(&self) -> usize {
        1 + self.parts.as_ref().map_or(0, |parts| parts.columns.len())
    }

    /// Bytes of all samples together, as stored.
    pub fn bytes(&self) -> u64 {
        self.end().totals.iter().fold(0, |sum, total| sum.saturating_add(total.bytes))
    }

    /// The prefix that was listed.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// The labels of an image folder: the folders right below the last `/` of the prefix that hold samples, in byte
    /// order.
    ///
    /// For the prefix `gs://bucket/train`, as for `gs://bucket`, the label of `training/a.png` is `training`. But where
    /// all samples are in one folder whose name the prefix ends with, for example in `val/` for `gs://bucket/val`, the
    /// labels are the folders in that folder. If the data set was given [other
    /// labels](crate::DatafluxDataset::label_by), these are they, also in byte order. If it was given a list of
    /// [classes](crate::DatafluxDataset::classes), the labels are that list. They are made when they are first asked
    /// for.
    pub fn labels(&self) -> &[String] {
        self.end().labels.all()
    }

    /// Objects and bytes of each storage class that occurs, all parts of samples included.
    pub fn storage_classes(&self) -> impl Iterator<Item = ClassTotal> {
        self.end().totals.iter().filter(|total| total.objects > 0).copied()
    }

    /// Objects that were listed but left out.
    pub fn left_out(&self) -> LeftOut {
        self.end().left_out
    }

    /// Digest of all names below the prefix, sizes and checksums, of the list of classes if one was set that differs
    /// from the folders, and of labels that aren't folders. Of samples that have [several parts](crate::Parts), the
    /// first parts' names count, and the sizes and checksums of all parts. The order of every epoch depends on the
    /// names, and a resume needs the same data. So all ranks of a run must have the same: see
    /// [`manifest_digest`](crate::DataLoaderBuilder::manifest_digest).
    pub fn digest(&self) -> Digest {
        self.end().digest
    }

    /// The digest of the samples, given that of their own objects.
    fn of_all_parts(&self, objects: Digest) -> Digest {
        self.parts.as_ref().map_or(objects, |parts| objects.with_parts(parts.sums.parts, &parts.sums.digest))
    }

    /// The same objects with other labels.
    fn relabelled(&self, labels: LabelTexts, digest: Digest) -> Self {
        let ListingEnd { left_out, totals, .. } = *self.end();
        let end = ListingEnd { labels, left_out, totals, digest, failed: None };
        let growth = Arc::new(Growth::whole(Arc::clone(&self.growth.objects), end));
        let (file, is_listed, parts) = (self.file.clone(), self.is_listed, self.parts.clone());
        Self { file, is_listed, parts, ..Self::with_growth(self.prefix.clone(), growth) }
    }

    /// A manifest without objects, whose methods return `error`.
    pub(crate) fn failed(prefix: Prefix, error: Error) -> Self {
        let growth = Growth::new();
        growth.fail(error);
        Self::with_growth(prefix, Arc::new(growth))
    }

    /// The error of a listing that failed without an object.
    pub(crate) fn failure(&self) -> Option<Error> {
        let failed = self.growth.ended().and_then(|end| end.failed.clone());
        failed.filter(|_| self.growth.objects.rows() == 0)
    }

    /// Whether the listing is still running.
    pub(crate) fn is_growing(&self) -> bool {
        self.growth.ended().is_none()
    }

    /// Bytes that the objects and the labels take, in memory or in a mapped file. If samples have several parts, this
    /// includes the listings that the parts are taken from.
    pub fn memory_bytes(&self) -> u64 {
        let labels = &self.end().labels;
        let parts = self.parts.as_ref().map_or(0, |parts| parts.memory_bytes());
        self.growth.objects.bytes() + labels.names().bytes() + size_of_val(labels.indexes()) as u64 + parts
    }

    /// The object at `index`, counted from 0 in byte order of names; `None` where there is none. `None` for an index
    /// below [`len`](Self::len) means that the manifest's file was written to since it was opened. Blocks until the
    /// listing has reached this object, or its end.
    pub fn get(&self, index: u64) -> Option<Entry> {
        // The caller asked for the object, not for the reason why there is none.
        let _ = self.reaches(index);
        labelled(self.growth.objects.entry(index)?, &self.growth)
    }

    /// As [`get`](Self::get), without the name.
    pub fn facts(&self, index: u64) -> Option<Facts> {
        let _ = self.reaches(index);
        labelled(self.growth.objects.record(index)?, &self.growth)
    }

    /// Whether there is an object at `index`. Waits until it is listed, or the listing has ended.
    ///
    /// # Errors
    /// The listing failed before it reached this object.
    pub(crate) fn reaches(&self, index: u64) -> Result<bool> {
        let is_there = || index < self.growth.objects.rows();
        Ok(is_there() || (self.growth.wait_beyond(index, || false)? && is_there()))
    }

    /// All objects in byte order of names. Waits for the end of the listing. If the listing failed, its error comes
    /// after the last object that was listed.
    pub fn entries(&self) -> Entries<'_> {
        self.growth.wait();
        Entries { manifest: self, cursor: TableCursor::new(&self.growth.objects) }
    }

    /// Cuts the manifest into pieces of `objects` objects, from which a later listing can divide its work: see
    /// [`Lister::earlier`](crate::list::Lister::earlier). The last piece may be smaller. 0 counts as 1.
    ///
    /// # Errors
    /// The manifest's file was written to since it was opened; the listing failed.
    pub fn cuts(&self, objects: u64) -> Result<Vec<ListingCut>> {
        self.complete()?;
        let objects = objects.max(1);
        let piece = |number| {
            let first = number * objects;
            let name = String::from(&*self.at(first)?.name);
            Ok(ListingCut { name, objects: objects.min(self.len() - first) })
        };
        (0..self.len().div_ceil(objects)).map(piece).collect()
    }

    /// The object at an index, or the reason why there is none. Blocks as [`get`](Self::get) does.
    pub(crate) fn at(&self, index: u64) -> Result<Entry> {
        self.get(index).ok_or_else(|| self.missing(index))
    }

    /// As [`at`](Self::at), without the name.
    pub(crate) fn facts_at(&self, index: u64) -> Result<Facts> {
        self.facts(index).ok_or_else(|| self.missing(index))
    }

    /// The identity of an object, for a request.
    pub fn id(&self, entry: &Entry) -> ObjectId {
        let Prefix { scheme, bucket, .. } = &self.prefix;
        ObjectId::new(Arc::clone(bucket), Arc::clone(&entry.name), entry.version.clone()).with_scheme(*scheme)
    }

    /// Why there is no object at `index`.
    fn missing(&self, index: u64) -> Error {
        match self.reaches(index) {
            Err(failure) => failure,
            Ok(true) => self.damaged(index),
            Ok(false) => Error::new(ErrorKind::Config, "there is no sample of that index")
                .stage(Stage::Manifest)
                .object(&self.prefix)
                .mismatch(format_args!("an index below {}", self.growth.objects.rows()), index),
        }
    }

    fn damaged(&self, index: u64) -> Error {
        damaged(self.file.as_deref(), &self.prefix, index, self.growth.objects.rows())
    }

    /// Why a further part can't be read.
    fn damaged_part(&self, parts: &PartColumns, part: InvalidPart) -> Error {
        let InvalidPart { column, index } = part;
        let Some(column) = parts.columns.get(column) else { return self.damaged(index) };
        let listing = &column.listing;
        damaged(listing.file.as_deref(), &listing.prefix, index, listing.growth.objects.rows())
    }
}

/// The error of a manifest whose object at `index` can't be read.
fn damaged(file: Option<&Path>, prefix: &Prefix, index: u64, objects: u64) -> Error {
    let error = match file {
        Some(file) => Error::new(ErrorKind::Integrity, "the manifest changed while it was open")
            .object(file.display())
            .hint("make another with `dataflux ls --save`, which replaces a file and never writes into one"),
        None => Error::new(ErrorKind::Internal, "the manifest can't be read")
            .object(prefix)
            .hint("this is a defect of dataflux: please report it"),
    };
    error.stage(Stage::Manifest).mismatch(format_args!("object {index} of {objects}"), "bytes that are none")
}

/// Replaces the label as recorded by an index in [`Manifest::labels`]; `None` where there is no such label.
fn labelled<N>(mut entry: Entry<N>, growth: &Growth) -> Option<Entry<N>> {
    // While a listing runs, labels are recorded in the order of `labels`.
    if let (Some(label), Some(end)) = (entry.label, growth.ended()) {
        entry.label = Some(end.labels.index_of(label)?).filter(|index| *index != NO_CLASS);
    }
    Some(entry)
}

/// Iterates over the objects of a [`Manifest`]. Each is borrowed until the next is asked for, so that none is
/// allocated.
///
/// ```
/// # use dataflux::{Manifest, store::{ObjectRef, Objects}};
/// # let names = ["train/1.png", "train/2.png"].map(|name| ObjectRef { name, size: 9, ..ObjectRef::default() });
/// # let manifest = Manifest::new("gs://my-bucket/train/".parse()?, &Objects::from_iter(names))?;
/// let mut entries = manifest.entries();
/// while let Some(entry) = entries.next()? {
///     println!("{}: {} bytes", entry.name, entry.size);
/// }
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Debug)]
pub struct Entries<'a> {
    manifest: &'a Manifest,
    cursor: TableCursor<'a>,
}

impl Entries<'_> {
    /// The next object; `None` at the end.
    ///
    /// # Errors
    /// The manifest's file was written to since it was opened; the listing failed.
    #[expect(clippy::should_implement_trait, reason = "the result borrows from self, which no iterator allows")]
    pub fn next(&mut self) -> Result<Option<EntryRef<'_>>> {
        if self.cursor.is_at_end() {
            self.manifest.complete()?;
            return Ok(None);
        }
        let (manifest, index) = (self.manifest, self.cursor.index());
        let entry = self.cursor.next().and_then(|entry| labelled(entry, &manifest.growth));
        entry.map(Some).ok_or_else(|| manifest.damaged(index))
    }
}

#[cfg(test)]
pub(crate) mod tests;
