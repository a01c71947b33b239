//! The objects of a listing, in a few large allocations.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use super::attributes::{ContentEncoding, StorageClass};
use super::version::Version;

/// Objects of a listing, in the order in which they were pushed. Their names and entity tags are in one buffer; each
/// object takes 48 bytes more.
///
/// ```
/// use dataflux::store::{ObjectRef, Objects};
///
/// let mut objects = Objects::default();
/// objects.push(ObjectRef { name: "cats/tom.png", size: 9, ..ObjectRef::default() });
/// assert_eq!(objects.iter().map(|object| object.size).sum::<u64>(), 9);
/// assert_eq!(objects.get(0).map(|object| object.name), Some("cats/tom.png"));
/// ```
#[derive(Clone, Default)]
pub struct Objects {
    /// Each name, followed by the object's entity tag if it has one.
    names: String,
    records: Vec<ObjectRecord>,
    /// The details of all records, or of none.
    details: Vec<Details>,
}

#[derive(Clone)]
struct ObjectRecord {
    name_end: usize,
    size: u64,
    /// A generation, 0 for no version, or the negative length of an entity tag.
    version: i64,
    updated: Option<SystemTime>,
    crc32c: u32,
    has_crc: bool,
    encoding: ContentEncoding,
    class: StorageClass,
}

impl ObjectRecord {
    /// Where the object's entity tag ends, or its name if it has none.
    fn end(&self) -> usize {
        self.name_end + usize::try_from(-self.version).unwrap_or_default()
    }
}

/// One object of [`Objects`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectRef<'a> {
    /// The whole name.
    pub name: &'a str,
    /// Bytes as stored; 0 where the server leaves it out, as some do for empty objects.
    pub size: u64,
    /// The version.
    pub version: Version<&'a str>,
    /// Castagnoli CRC of the bytes as stored; `None` where the server reports none.
    pub crc32c: Option<u32>,
    /// The storage class.
    pub storage_class: StorageClass,
    /// How the stored bytes are compressed, by the object's `Content-Encoding`.
    pub encoding: ContentEncoding,
    /// When the object was last changed; only with [`Fields::Times`] or [`Fields::All`].
    ///
    /// [`Fields::Times`]: super::Fields::Times
    /// [`Fields::All`]: super::Fields::All
    pub updated: Option<SystemTime>,
    /// Further facts; only with [`Fields::All`].
    ///
    /// [`Fields::All`]: super::Fields::All
    pub details: Option<&'a Details>,
}

/// Facts about an object that few callers need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Details {
    /// When this version was written.
    pub created: Option<SystemTime>,
    /// `customTime`, for lifecycle rules.
    pub custom_time: Option<SystemTime>,
    /// The user's key-value pairs.
    pub metadata: BTreeMap<String, String>,
}

impl Objects {
    /// Appends an object. Its details are kept if all objects before it had details.
    pub fn push(&mut self, object: ObjectRef<'_>) {
        if let Some(details) = object.details
            && self.details.len() == self.records.len()
        {
            self.details.push(details.clone());
        }
        self.names.push_str(object.name);
        let name_end = self.names.len();
        let version = match object.version {
            Version::None => 0,
            Version::Generation(number) => number.max(0),
            Version::Etag(tag) => {
                self.names.push_str(tag);
                -(tag.len() as i64)
            }
        };
        self.records.push(ObjectRecord {
            name_end,
            size: object.size,
            version,
            updated: object.updated,
            crc32c: object.crc32c.unwrap_or_default(),
            has_crc: object.crc32c.is_some(),
            encoding: object.encoding,
            class: object.storage_class,
        });
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Number of bytes that the objects take in memory, plus those of the JSON text that they were parsed from. Names
    /// and metadata are in both; the rest of an object is about 200 bytes of text.
    pub(crate) fn bytes_with_text(&self) -> usize {
        const TEXT: usize = 200;
        let metadata = self.details.iter().flat_map(|details| &details.metadata);
        let metadata: usize = metadata.map(|(key, value)| key.len() + value.len()).sum();
        let details = self.details.len() * (TEXT + size_of::<Details>());
        2 * (self.names.len() + metadata) + self.len() * (TEXT + size_of::<ObjectRecord>()) + details
    }

    /// The name of the object at `index`, counted from 0.
    pub fn name(&self, index: usize) -> Option<&str> {
        let end = self.records.get(index)?.name_end;
        let start = index.checked_sub(1).map_or(0, |before| self.records[before].end());
        Some(&self.names[start..end])
    }

    fn version(&self, record: &ObjectRecord) -> Version<&str> {
        if record.version < 0 {
            return Version::Etag(&self.names[record.name_end..record.end()]);
        }
        if record.version == 0 { Version::None } else { Version::Generation(record.version) }
    }

    /// The object at `index`, counted from 0.
    pub fn get(&self, index: usize) -> Option<ObjectRef<'_>> {
        let record = self.records.get(index)?;
        Some(ObjectRef {
            name: self.name(index)?,
            size: record.size,
            version: self.version(record),
            crc32c: record.has_crc.then_some(record.crc32c),
            storage_class: record.class,
            encoding: record.encoding,
            updated: record.updated,
            details: self.details.get(index),
        })
    }

    /// Sorts the objects by the bytes of their names. Of objects with the same name it keeps the one pushed last, which
    /// is the newest.
    pub fn sort(&mut self) {
        if (1..self.len()).all(|index| self.name(index - 1) < self.name(index)) {
            return;
        }
        let mut order: Vec<usize> = (0..self.len()).collect();
        // The sort is stable, so of equal names the one pushed last stays last.
        order.sort_by_key(|&index| self.name(index));
        let last = |pair: &[usize]| pair.get(1).is_none_or(|&next| self.name(pair[0]) != self.name(next));
        let kept = (0..order.len()).filter(|&at| last(&order[at..order.len().min(at + 2)])).map(|at| order[at]);
        *self = kept.filter_map(|index| self.get(index)).collect();
    }

    /// All objects, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = ObjectRef<'_>> {
        (0..self.len()).map(|index| self.get(index).expect("the index is below the length"))
    }
}

impl<'a> Extend<ObjectRef<'a>> for Objects {
    fn extend<I: IntoIterator<Item = ObjectRef<'a>>>(&mut self, objects: I) {
        objects.into_iter().for_each(|object| self.push(object));
    }
}

impl<'a> FromIterator<ObjectRef<'a>> for Objects {
    fn from_iter<I: IntoIterator<Item = ObjectRef<'a>>>(objects: I) -> Self {
        let mut all = Self::default();
        all.extend(objects);
        all
    }
}

impl PartialEq for Objects {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Objects {}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The facts about one object, as a look-up or a write returns them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObjectMeta {
    /// The whole name.
    pub name: String,
    /// Bytes as stored; 0 where the server leaves it out, as some do for empty objects.
    pub size: u64,
    /// The version.
    pub version: Version,
    /// Castagnoli CRC of the bytes as stored; `None` where the server reports none.
    pub crc32c: Option<u32>,
    /// The storage class.
    pub storage_class: StorageClass,
    /// How the stored bytes are compressed, by the object's `Content-Encoding`.
    pub encoding: ContentEncoding,
    /// When the object was last changed.
    pub updated: Option<SystemTime>,
    /// Facts that few callers need.
    pub details: Details,
}

impl ObjectMeta {
    /// The same object in the form that listings have.
    pub fn to_ref(&self) -> ObjectRef<'_> {
        ObjectRef {
            name: &self.name,
            size: self.size,
            version: self.version.as_deref(),
            crc32c: self.crc32c,
            storage_class: self.storage_class,
            encoding: self.encoding,
            updated: self.updated,
            details: Some(&self.details),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorting_keeps_the_newest_object_of_a_name() {
        let object = |name, generation: i64| ObjectRef { name, version: generation.into(), ..ObjectRef::default() };
        let mut objects: Objects =
            [object("b", 1), object("a", 2), object("b", 3), object("", 4), object("b", 2)].into_iter().collect();
        objects.sort();
        assert!(objects.iter().eq([object("", 4), object("a", 2), object("b", 2)]), "{objects:?}");
    }

    #[test]
    fn pushed_objects_are_returned_unchanged() {
        let details = Details { created: Some(SystemTime::UNIX_EPOCH), ..Details::default() };
        let full = ObjectRef {
            name: "ü/1",
            size: 3,
            version: Version::Etag("\"é\""),
            crc32c: Some(0),
            storage_class: StorageClass::Archive,
            encoding: ContentEncoding::Gzip,
            updated: Some(SystemTime::UNIX_EPOCH),
            details: Some(&details),
        };
        let bare = ObjectRef { name: "z", version: Version::Generation(8), ..ObjectRef::default() };
        let least = ObjectRef { version: Version::None, ..bare };
        let objects: Objects = [full, bare, least].into_iter().collect();
        assert_eq!(objects.iter().collect::<Vec<_>>(), [full, bare, least]);
        assert_eq!((objects.name(1), objects.name(3)), (Some("z"), None));
        assert_ne!(objects, [bare, full, least].into_iter().collect());
        assert_eq!(size_of::<ObjectRecord>(), 48);
    }
}
