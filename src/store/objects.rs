//! The objects of a listing, in a few large allocations.

use std::collections::BTreeMap;
use std::fmt;
use std::time::SystemTime;

use super::attributes::{ContentEncoding, StorageClass};

/// Objects of a listing, in the order in which they were pushed. Their names are in one buffer; each object takes 48
/// bytes more.
///
/// ```
/// use dataflux::store::{ObjectRef, Objects};
///
/// let mut objects = Objects::default();
/// objects.push(ObjectRef { name: "cats/tom.png", size: 9, generation: 1, ..ObjectRef::default() });
/// assert_eq!(objects.iter().map(|object| object.size).sum::<u64>(), 9);
/// assert_eq!(objects.get(0).map(|object| object.name), Some("cats/tom.png"));
/// ```
#[derive(Clone, Default)]
pub struct Objects {
    names: String,
    records: Vec<ObjectRecord>,
    /// The details of all records, or of none.
    details: Vec<Details>,
}

#[derive(Clone)]
struct ObjectRecord {
    name_end: usize,
    size: u64,
    generation: i64,
    updated: Option<SystemTime>,
    crc32c: u32,
    has_crc: bool,
    encoding: ContentEncoding,
    class: StorageClass,
}

/// One object of [`Objects`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ObjectRef<'a> {
    /// The whole name.
    pub name: &'a str,
    /// Bytes as stored; 0 where the server leaves it out, as some do for empty objects.
    pub size: u64,
    /// The version, greater than 0.
    pub generation: i64,
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
    /// When this generation was written.
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
        self.records.push(ObjectRecord {
            name_end: self.names.len(),
            size: object.size,
            generation: object.generation,
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

    /// Number of bytes of all names together.
    pub fn name_bytes(&self) -> usize {
        self.names.len()
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
        let start = index.checked_sub(1).map_or(0, |before| self.records[before].name_end);
        Some(&self.names[start..end])
    }

    /// The object at `index`, counted from 0.
    pub fn get(&self, index: usize) -> Option<ObjectRef<'_>> {
        let record = self.records.get(index)?;
        Some(ObjectRef {
            name: self.name(index)?,
            size: record.size,
            generation: record.generation,
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
    /// The version, greater than 0.
    pub generation: i64,
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
            generation: self.generation,
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
        let object = |name, generation| ObjectRef { name, generation, ..ObjectRef::default() };
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
            generation: 7,
            crc32c: Some(0),
            storage_class: StorageClass::Archive,
            encoding: ContentEncoding::Gzip,
            updated: Some(SystemTime::UNIX_EPOCH),
            details: Some(&details),
        };
        let bare = ObjectRef { name: "z", generation: 8, ..ObjectRef::default() };
        let objects: Objects = [full, bare].into_iter().collect();
        assert_eq!(objects.iter().collect::<Vec<_>>(), [full, bare]);
        assert_eq!((objects.name(1), objects.name(2), objects.name_bytes()), (Some("z"), None, 5));
        assert_ne!(objects, [bare, full].into_iter().collect());
    }
}
