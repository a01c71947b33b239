//! The listing, frozen: what an epoch is made of.

use std::fmt;
use std::sync::Arc;

use ring::digest::{Context, SHA256};

use crate::list::{Prefix, TEMPORARY_PREFIX};
use crate::store::{ObjectId, ObjectRef, Objects, StorageClass};
use crate::{Error, ErrorKind, Result, Stage};

pub use crate::list::LeftOut;

/// SHA-256 of a manifest: of name, size, generation and CRC of each object, in order.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest(pub(crate) [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A running SHA-256 over names in order, each ended by a line feed, which no name can hold. The digest of `ls` and the
/// `order_digest` of `bench` are made so: of an epoch without shuffling they are equal.
pub struct NamesDigest(Context);

impl Default for NamesDigest {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl NamesDigest {
    /// Takes in the next name.
    pub fn push(&mut self, name: &str) {
        self.0.update(name.as_bytes());
        self.0.update(b"\n");
    }

    /// The digest of the names so far, in hex.
    pub fn finish(&self) -> String {
        Digest(sha256(self.0.clone())).to_string()
    }
}

impl fmt::Debug for NamesDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NamesDigest({})", self.finish())
    }
}

fn sha256(context: Context) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

/// A frozen snapshot of a listing: objects in byte order of names, each at one generation.
///
/// Memory: the bytes of the names, and 40 bytes an object.
#[derive(Debug)]
pub struct Manifest {
    prefix: Prefix,
    names: String,
    records: Vec<Record>,
    labels: Vec<String>,
    left_out: LeftOut,
    bytes: u64,
    digest: Digest,
}

#[derive(Debug)]
struct Record {
    name_end: u64,
    size: u64,
    generation: i64,
    crc32c: u32,
    label: u32,
    class: StorageClass,
    has_crc: bool,
}

/// No label: the object is in no folder below the prefix.
const UNLABELLED: u32 = u32::MAX;

/// One object of a [`Manifest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry<'a> {
    /// The whole name.
    pub name: &'a str,
    /// Bytes as stored.
    pub size: u64,
    /// The version that was listed.
    pub generation: i64,
    /// The CRC that the bytes must have; `None` where the listing had none.
    pub crc32c: Option<u32>,
    /// The storage class.
    pub storage_class: StorageClass,
    /// Index in [`Manifest::labels`] of the folder this is in; `None` right below the prefix.
    pub label: Option<u32>,
}

impl Manifest {
    /// Freezes a listing of `prefix`: leaves out what is no sample, and counts it.
    ///
    /// # Errors
    /// An empty listing; a name that comes twice or out of order.
    pub fn new(prefix: Prefix, objects: &Objects) -> Result<Self> {
        let mut manifest = Self {
            names: String::with_capacity(objects.name_bytes()),
            records: Vec::with_capacity(objects.len()),
            labels: Vec::new(),
            left_out: LeftOut::default(),
            bytes: 0,
            digest: Digest([0; 32]),
            prefix,
        };
        let mut context = Context::new(&SHA256);
        let mut last: Option<&str> = None;
        for object in objects.iter() {
            if last.is_some_and(|last| last >= object.name) {
                return Err(Error::new(ErrorKind::Internal, "a listing must be sorted, and hold each name once")
                    .stage(Stage::Manifest)
                    .object(format_args!("gs://{}/{}", manifest.prefix.bucket, object.name)));
            }
            last = Some(object.name);
            let Some(below) = object.name.strip_prefix(&manifest.prefix.prefix) else {
                return Err(Error::new(ErrorKind::Internal, "an object of a listing is not below its prefix")
                    .stage(Stage::Manifest)
                    .object(format_args!("gs://{}/{}", manifest.prefix.bucket, object.name))
                    .mismatch(&manifest.prefix, "another name"));
            };
            manifest.push(&object, below, &mut context);
        }
        manifest.sort_labels();
        manifest.digest = Digest(sha256(context));
        if manifest.records.is_empty() {
            return Err(manifest.empty());
        }
        Ok(manifest)
    }

    fn push(&mut self, object: &ObjectRef<'_>, below: &str, context: &mut Context) {
        let ours = self.prefix.prefix.starts_with(TEMPORARY_PREFIX);
        if object.name.starts_with(TEMPORARY_PREFIX) && !ours {
            self.left_out.temporaries += 1;
            return;
        }
        if object.size == 0 && object.name.ends_with('/') {
            self.left_out.directory_markers += 1;
            return;
        }
        let label = match below.trim_start_matches('/').split_once('/') {
            None => UNLABELLED,
            // Those of one folder stand together, so the last label is nearly always the one.
            Some((folder, _)) => match self.labels.last() {
                Some(last) if last == folder => self.labels.len() as u32 - 1,
                _ => {
                    self.labels.push(folder.to_owned());
                    self.labels.len() as u32 - 1
                }
            },
        };
        self.names.push_str(object.name);
        self.bytes = self.bytes.saturating_add(object.size);
        context.update(object.name.as_bytes());
        context.update(b"\n");
        context.update(&object.size.to_le_bytes());
        context.update(&object.generation.to_le_bytes());
        context.update(&object.crc32c.unwrap_or(0).to_le_bytes());
        self.records.push(Record {
            name_end: self.names.len() as u64,
            size: object.size,
            generation: object.generation,
            crc32c: object.crc32c.unwrap_or(0),
            label,
            class: object.storage_class,
            has_crc: object.crc32c.is_some(),
        });
    }

    /// Labels in byte order, each once. The order of the listing is nearly that, but for a folder whose name goes on
    /// from another's with a character below `/`, and for doubled slashes.
    fn sort_labels(&mut self) {
        let mut sorted = self.labels.clone();
        sorted.sort();
        sorted.dedup();
        if sorted == self.labels {
            return;
        }
        let place = |label: &String| sorted.binary_search(label).expect("the label is among them") as u32;
        let places: Vec<u32> = self.labels.iter().map(place).collect();
        for record in self.records.iter_mut().filter(|record| record.label != UNLABELLED) {
            record.label = places[record.label as usize];
        }
        self.labels = sorted;
    }

    fn empty(&self) -> Error {
        let error = Error::new(ErrorKind::NotFound, "there is no sample below this prefix")
            .stage(Stage::Manifest)
            .object(&self.prefix);
        let LeftOut { directory_markers, temporaries, .. } = self.left_out;
        if directory_markers + temporaries > 0 {
            return error.hint(format!(
                "only {directory_markers} folder marks and {temporaries} temporary objects are there: name another prefix"
            ));
        }
        error.hint("check its spelling, and that the data was uploaded: `dataflux ls` shows what a prefix holds")
    }

    /// Number of samples, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a manifest is never empty")]
    pub fn len(&self) -> u64 {
        self.records.len() as u64
    }

    /// Bytes of all samples together, as stored.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What was listed.
    pub fn prefix(&self) -> &Prefix {
        &self.prefix
    }

    /// Folders right below the prefix that hold samples, in byte order: the labels of an image folder.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// What was listed and is no sample.
    pub fn left_out(&self) -> LeftOut {
        self.left_out
    }

    /// What the order of every epoch, and the right to resume, hang on.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// The object at `index`, counted from 0 in byte order of names.
    pub fn get(&self, index: u64) -> Option<Entry<'_>> {
        let index = usize::try_from(index).ok()?;
        let record = self.records.get(index)?;
        let start = index.checked_sub(1).map_or(0, |before| self.records[before].name_end);
        Some(Entry {
            name: &self.names[start as usize..record.name_end as usize],
            size: record.size,
            generation: record.generation,
            crc32c: record.has_crc.then_some(record.crc32c),
            storage_class: record.class,
            label: (record.label != UNLABELLED).then_some(record.label),
        })
    }

    /// All objects in byte order of names.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Entry<'_>> {
        (0..self.records.len()).map(|index| self.get(index as u64).expect("the index is below the length"))
    }

    /// The object's identity, for a request.
    pub(crate) fn id(&self, entry: &Entry<'_>) -> ObjectId {
        ObjectId::new(Arc::clone(&self.prefix.bucket), entry.name, entry.generation)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::store::ObjectMeta;

    pub(crate) fn object(name: &str, size: u64) -> ObjectMeta {
        ObjectMeta {
            name: name.into(),
            size,
            generation: 7,
            crc32c: Some(size as u32),
            storage_class: StorageClass::Standard,
            ..ObjectMeta::default()
        }
    }

    fn listed(objects: &[ObjectMeta]) -> Objects {
        objects.iter().map(ObjectMeta::to_ref).collect()
    }

    pub(crate) fn manifest(objects: &[ObjectMeta]) -> Manifest {
        Manifest::new("gs://bucket/p/".parse().unwrap(), &listed(objects)).unwrap()
    }

    #[test]
    fn entries_labels_and_what_is_left_out() {
        let objects =
            ["p/", "p/a/1", "p/a/2", "p/b/", "p/b/c/3", "p/top"].map(|name| object(name, name.len() as u64 % 5));
        let mut objects = objects.to_vec();
        objects[0].size = 0;
        objects[3].size = 0;
        let manifest = manifest(&objects);
        assert_eq!(manifest.labels(), ["a", "b"]);
        assert_eq!(manifest.left_out(), LeftOut { directory_markers: 2, ..LeftOut::default() });
        let got: Vec<_> = manifest.iter().map(|entry| (entry.name, entry.label)).collect();
        assert_eq!(got, [("p/a/1", Some(0)), ("p/a/2", Some(0)), ("p/b/c/3", Some(1)), ("p/top", None)]);
        assert!(manifest.get(4).is_none());
    }

    #[test]
    fn labels_are_sorted_as_folders_are_and_not_as_paths() {
        let manifest = manifest(&["p//b/0", "p/a-b/1", "p/a/2", "p/b/3"].map(|name| object(name, 1)));
        assert_eq!(manifest.labels(), ["a", "a-b", "b"]);
        let got: Vec<_> = manifest.iter().map(|entry| entry.label.unwrap()).collect();
        assert_eq!(got, [2, 1, 0, 2]);
    }

    #[test]
    fn a_name_that_ends_in_a_slash_and_holds_bytes_is_a_sample() {
        assert_eq!(manifest(&[object("p/x/", 3)]).len(), 1);
    }

    #[test]
    fn temporaries_are_no_samples() {
        let objects = [object("dataflux-composed-objects/1/2", 9), object("z", 1)];
        let manifest = Manifest::new("gs://bucket/".parse().unwrap(), &listed(&objects)).unwrap();
        assert_eq!((manifest.len(), manifest.left_out().temporaries), (1, 1));
    }

    #[test]
    fn the_digest_tells_every_field_apart() {
        let base = manifest(&[object("p/a", 1)]).digest();
        assert_eq!(base, manifest(&[object("p/a", 1)]).digest());
        let mut other = object("p/a", 1);
        other.generation = 8;
        assert_ne!(base, manifest(&[other]).digest());
        assert_ne!(base, manifest(&[object("p/b", 1)]).digest());
        assert_ne!(base, manifest(&[object("p/a", 2)]).digest());
    }

    #[test]
    fn nothing_to_read_is_an_error_that_names_the_prefix() {
        let error = Manifest::new("gs://bucket/p/".parse().unwrap(), &Objects::default()).unwrap_err();
        assert!(error.is_not_found());
        assert!(error.to_string().contains("gs://bucket/p/"), "{error}");
    }

    #[test]
    fn unsorted_listings_are_refused() {
        let objects = [object("p/b", 1), object("p/a", 1)];
        assert!(Manifest::new("gs://bucket/p/".parse().unwrap(), &listed(&objects)).is_err());
    }
}
