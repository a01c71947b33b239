//! The listing, frozen: what an epoch is made of.
//!
//! In memory a manifest is what it is in its file: objects stand in chunks of 4,096, and an object is found by its index
//! in constant time. One takes 18 bytes where names are like `n01440764/n01440764_10026.JPEG`, 15 where they are like
//! `00000000.bin`, and 45 where each is a UUID.
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
mod classes;
mod digest;
mod file;
mod growth;
mod relabel;
mod sink;
mod table;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::list::{Filter, Prefix};
use crate::store::{ContentEncoding, ObjectId, Objects, StorageClass};
use crate::{Error, ErrorKind, Result, Stage};

pub use crate::list::LeftOut;
pub(crate) use build::StreamingListing;
pub use build::{ManifestBuilder, Segment};
use chunk::CLASSES;
pub(crate) use classes::Classes;
pub use digest::{Digest, NamesDigest};
pub use growth::Known;
use growth::{Growth, ListingEnd};
pub(crate) use relabel::FoundImages;
use table::{Labels, NO_CLASS, TableCursor};

/// The error of a listing that has no sample.
fn of_nothing(prefix: &Prefix, left_out: &LeftOut) -> Error {
    let error =
        Error::new(ErrorKind::NotFound, "there is no sample below this prefix").stage(Stage::Manifest).object(prefix);
    if left_out.total() > 0 {
        return error.hint(format!("all that is there was left out: {left_out}; name another prefix, or filter less"));
    }
    if let Some((folder, glob)) = prefix.glob() {
        return error.hint(format!("a prefix isn't a glob: open {folder} with Filter::include({glob:?})"));
    }
    error.hint("check its spelling, and that the data was uploaded: `dataflux ls` shows what a prefix holds")
}

/// One object of a [`Manifest`]. `N` is how its name is held: [`Arc<str>`], borrowed ([`EntryRef`]), or not at all
/// ([`Facts`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry<N = Arc<str>> {
    /// The whole name.
    pub name: N,
    /// Bytes as stored.
    pub size: u64,
    /// The version that was listed.
    pub generation: i64,
    /// The CRC that the bytes must have; `None` where the listing had none.
    pub crc32c: Option<u32>,
    /// The storage class.
    pub storage_class: StorageClass,
    /// How the stored bytes are compressed. Samples have them as they are stored, and decoders may want to decompress
    /// them.
    pub encoding: ContentEncoding,
    /// Index in [`Manifest::labels`] of the first folder below the prefix that this is in, however deep; `None` right
    /// below the last `/` of the prefix, and in a hidden folder that isn't in the [list of
    /// classes](crate::DatafluxDataset::classes).
    pub label: Option<u32>,
}

/// An object whose name is borrowed.
pub type EntryRef<'a> = Entry<&'a str>;

/// All of an object but its name, which is found faster than the name is.
pub type Facts = Entry<()>;

impl<N> Entry<N> {
    fn named<M>(self, name: M) -> Entry<M> {
        let Self { name: _, size, generation, crc32c, storage_class, encoding, label } = self;
        Entry { name, size, generation, crc32c, storage_class, encoding, label }
    }

    /// With the label that users know instead of the one that is written down; `None` where there is no such label.
    fn labelled(mut self, growth: &Growth) -> Option<Self> {
        // Labels that are in use while they come are in order.
        if let (Some(label), Some(end)) = (self.label, growth.ended()) {
            self.label = Some(end.labels.place(label)?).filter(|place| *place != NO_CLASS);
        }
        Some(self)
    }
}

/// How much of a manifest is of one storage class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClassTotal {
    /// The class.
    pub storage_class: StorageClass,
    /// Objects of it, at least 1.
    pub objects: u64,
    /// Their bytes, as stored.
    pub bytes: u64,
}

/// A frozen snapshot of a listing: objects in byte order of names, each at one generation.
///
/// That of a data set that is [streaming](crate::DatasetBuilder::streaming) grows until the listing ends. What only the
/// end tells, such as [`len`](Self::len), [`digest`](Self::digest) and [`labels`](Self::labels), blocks until then. Of a
/// listing that failed all this tells what came before it did, and [`complete`](Self::complete) says why.
pub struct Manifest {
    prefix: Prefix,
    growth: Arc<Growth>,
    _listing: Option<Listing>,
    /// Where it was loaded from.
    file: Option<PathBuf>,
    /// Whether it is what a listing found.
    is_listed: bool,
}

impl fmt::Debug for Manifest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { prefix, file, .. } = self;
        f.debug_struct("Manifest").field("prefix", prefix).field("known", &self.known()).field("file", file).finish()
    }
}

/// A listing under way, which dropping this stops.
#[derive(Debug)]
struct Listing(tokio::task::AbortHandle);

impl Drop for Listing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Manifest {
    /// Freezes a listing of `prefix`: leaves out what is no sample, and counts it.
    ///
    /// # Errors
    /// An empty listing; a name that comes twice or out of order.
    pub fn new(prefix: Prefix, objects: &Objects) -> Result<Self> {
        let mut left_out = LeftOut::default();
        let segment = Segment::new(Filter::new().keep(&prefix, objects.iter(), &mut left_out));
        let mut builder = ManifestBuilder::new(prefix);
        builder.push(segment);
        builder.leave_out(&left_out);
        builder.finish()
    }

    /// Waits until the listing has ended, for those that are [streaming](crate::DatasetBuilder::streaming).
    ///
    /// # Errors
    /// Why the listing failed.
    pub fn complete(&self) -> Result<()> {
        self.growth.wait().failed.clone().map_or(Ok(()), Err)
    }

    /// How many samples there are, as far as is known by now. Doesn't wait.
    pub fn known(&self) -> Known {
        self.growth.known()
    }

    /// Waits until more than `samples` are known, or that there are no more; false where it was called off.
    pub(crate) fn wait_beyond(&self, samples: u64, called_off: impl Fn() -> bool) -> Result<bool> {
        self.growth.wait_beyond(samples, called_off)
    }

    /// Whether this process has listed it, so that another process which did the same may have found other objects.
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

    /// Bytes of all samples together, as stored.
    pub fn bytes(&self) -> u64 {
        self.end().classes.iter().fold(0, |sum, &(_, bytes)| sum.saturating_add(bytes))
    }

    /// What was listed.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Folders right below the last `/` of the prefix that hold samples, in byte order: the labels of an image folder.
    /// Of `training/a.png` it is `training` for the prefix `gs://bucket/train`, as for `gs://bucket`; but where all
    /// samples are in one folder whose name ends the prefix, as in `val/` for `gs://bucket/val`, the folders in that.
    /// Of a data set that was given a list of [classes](crate::DatafluxDataset::classes) it is that list. Made when
    /// they are first asked for.
    pub fn labels(&self) -> &[String] {
        self.end().labels.all()
    }

    /// Objects and bytes of each storage class that occurs. For the classes of samples see [`labels`](Self::labels).
    pub fn classes(&self) -> impl Iterator<Item = ClassTotal> {
        let totals = CLASSES.into_iter().zip(self.end().classes);
        totals.filter(|&(_, (objects, _))| objects > 0).map(|(storage_class, (objects, bytes))| ClassTotal {
            storage_class,
            objects,
            bytes,
        })
    }

    /// What was listed and is no sample.
    pub fn left_out(&self) -> LeftOut {
        self.end().left_out
    }

    /// Digest of all names, sizes, versions and checksums, and of the list of classes where one was set that differs
    /// from the folders. The order of every epoch and the right to resume depend on it, so all ranks of a run must have
    /// the same: see [`manifest_digest`](crate::DataLoaderBuilder::manifest_digest).
    pub fn digest(&self) -> Digest {
        self.end().digest
    }

    /// The same objects with other labels.
    fn relabelled(&self, labels: Labels, digest: Digest) -> Self {
        let ListingEnd { left_out, classes, .. } = *self.end();
        let end = ListingEnd { labels, left_out, classes, digest, failed: None };
        let growth = Arc::new(Growth::whole(Arc::clone(&self.growth.objects), end));
        Self { prefix: self.prefix.clone(), growth, _listing: None, file: self.file.clone(), is_listed: self.is_listed }
    }

    /// A manifest of nothing but the error that whoever needs it gets.
    pub(crate) fn failed(prefix: Prefix, error: Error) -> Self {
        let growth = Growth::new();
        growth.fail(error);
        Self { prefix, growth: Arc::new(growth), _listing: None, file: None, is_listed: false }
    }

    /// Why there is nothing in it and never will be.
    pub(crate) fn failure(&self) -> Option<Error> {
        let failed = self.growth.ended().and_then(|end| end.failed.clone());
        failed.filter(|_| self.growth.objects.rows() == 0)
    }

    /// Whether the listing is under way.
    pub(crate) fn is_growing(&self) -> bool {
        self.growth.ended().is_none()
    }

    /// Bytes that the objects and the labels take, in memory or in the file that is mapped.
    pub fn memory_bytes(&self) -> u64 {
        let labels = &self.end().labels;
        self.growth.objects.bytes() + labels.names().bytes() + size_of_val(labels.places()) as u64
    }

    /// The object at `index`, counted from 0 in byte order of names; `None` where there is none. `None` of an index below
    /// [`len`](Self::len) says that the file this was loaded from was written to since. Blocks until the listing has come
    /// to this object, or to its end.
    pub fn get(&self, index: u64) -> Option<Entry> {
        // Why there is none is not what was asked.
        let _ = self.reaches(index);
        self.growth.objects.entry(index)?.labelled(&self.growth)
    }

    /// As [`get`](Self::get), without the name.
    pub fn facts(&self, index: u64) -> Option<Facts> {
        let _ = self.reaches(index);
        self.growth.objects.record(index)?.labelled(&self.growth)
    }

    /// Whether there is an object of that index. Waits until it is there, or the listing has ended.
    ///
    /// # Errors
    /// The listing failed before it came to it.
    pub(crate) fn reaches(&self, index: u64) -> Result<bool> {
        let is_there = || index < self.growth.objects.rows();
        Ok(is_there() || (self.growth.wait_beyond(index, || false)? && is_there()))
    }

    /// All objects in byte order of names. Waits for the end of the listing; where that failed, its error comes after the
    /// last object that was listed.
    pub fn entries(&self) -> Entries<'_> {
        self.entries_from(0)
    }

    /// The objects from `index` on.
    pub fn entries_from(&self, index: u64) -> Entries<'_> {
        self.growth.wait();
        Entries { manifest: self, cursor: TableCursor::new(&self.growth.objects, index) }
    }

    /// Names that cut the manifest into pieces of `objects` each, and how many there are from each name to the next: the
    /// first name of all, and each `objects`-th from it. At 0 every object is a piece.
    ///
    /// # Errors
    /// The file this was loaded from was written to since; the listing failed.
    pub fn cuts(&self, objects: u64) -> Result<Vec<(String, u64)>> {
        self.complete()?;
        let objects = objects.max(1);
        let piece = |number| {
            let first = number * objects;
            Ok((String::from(&*self.at(first)?.name), objects.min(self.len() - first)))
        };
        (0..self.len().div_ceil(objects)).map(piece).collect()
    }

    /// The object of an index that is known to be below the length.
    pub(crate) fn at(&self, index: u64) -> Result<Entry> {
        self.get(index).ok_or_else(|| self.damaged(index))
    }

    /// As [`at`](Self::at), without the name.
    pub(crate) fn facts_at(&self, index: u64) -> Result<Facts> {
        self.facts(index).ok_or_else(|| self.damaged(index))
    }

    /// The object's identity, for a request.
    pub(crate) fn id(&self, entry: &Entry) -> ObjectId {
        ObjectId::new(Arc::clone(&self.prefix.bucket), Arc::clone(&entry.name), entry.generation)
    }

    fn damaged(&self, index: u64) -> Error {
        let error = match &self.file {
            Some(file) => Error::new(ErrorKind::Integrity, "the manifest changed while it was open")
                .object(file.display())
                .hint("make another with `dataflux ls --save`, which replaces a file and never writes into one"),
            None => Error::new(ErrorKind::Internal, "the manifest can't be read")
                .object(&self.prefix)
                .hint("this is a defect of dataflux: please report it"),
        };
        let wanted = format_args!("object {index} of {}", self.growth.objects.rows()).to_string();
        error.stage(Stage::Manifest).mismatch(wanted, "bytes that are none")
    }
}

/// Objects of a [`Manifest`], one after another. Each is borrowed until the next is asked for, so that none is
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
    /// The file that the manifest was loaded from was written to since.
    #[expect(clippy::should_implement_trait, reason = "what it gives borrows from it, as no iterator allows")]
    pub fn next(&mut self) -> Result<Option<EntryRef<'_>>> {
        if self.cursor.is_at_end() {
            self.manifest.complete()?;
            return Ok(None);
        }
        let (manifest, index) = (self.manifest, self.cursor.index());
        let entry = self.cursor.next().and_then(|entry| entry.labelled(&manifest.growth));
        entry.map(Some).ok_or_else(|| manifest.damaged(index))
    }
}

#[cfg(test)]
pub(crate) mod tests;
