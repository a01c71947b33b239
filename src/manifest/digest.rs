//! Digests of listed objects.

use std::fmt;

use ring::digest::{Context, SHA256};

use super::Entry;

/// The first part of a [`Digest`], which orders are keyed by: half a SHA-256.
pub(crate) type NamesKey = [u8; 16];

/// Digest of the data of a manifest, in three parts: names and classes, sizes, and checksums.
///
/// Names count without the prefix, and versions don't count. So data that were copied to another prefix, bucket or
/// store have the same digest, except that a store without checksums leaves out the last part. Orders are keyed by the
/// first part alone.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest {
    /// Of the names in order, and of the list of classes where that differs from the list of folders.
    names: NamesKey,
    sizes: [u8; 8],
    /// Of the CRC32C of all objects: 0 if none has one. Otherwise the last bit says whether all have one.
    checksums: [u8; 8],
}

/// In what the data of two digests differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataDifference {
    Names,
    Sizes,
    Checksums,
}

impl DataDifference {
    /// What has happened to the data.
    pub(crate) fn cause(self) -> &'static str {
        match self {
            Self::Names => "objects were added, removed, renamed or filtered otherwise, or the classes are others",
            Self::Sizes | Self::Checksums => "objects were overwritten",
        }
    }
}

impl fmt::Display for DataDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Names => "names differ",
            Self::Sizes => "sizes differ",
            Self::Checksums => "checksums differ",
        })
    }
}

impl Digest {
    pub(crate) fn of_bytes(bytes: [u8; 32]) -> Self {
        let part = |from: usize| {
            let mut part = [0; 8];
            part.copy_from_slice(&bytes[from..from + 8]);
            part
        };
        let mut names = [0; 16];
        names.copy_from_slice(&bytes[..16]);
        Self { names, sizes: part(16), checksums: part(24) }
    }

    pub(super) fn bytes(&self) -> [u8; 32] {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&self.names);
        bytes[16..24].copy_from_slice(&self.sizes);
        bytes[24..].copy_from_slice(&self.checksums);
        bytes
    }

    /// Reads the digits that `Display` writes, in either case, with white space around them.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let digits: &[u8; 64] = text.trim().as_bytes().try_into().ok()?;
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
            *byte = (high? << 4 | low?) as u8;
        }
        Some(Self::of_bytes(bytes))
    }

    /// What the orders of these data are keyed by.
    pub(crate) fn names_key(&self) -> &NamesKey {
        &self.names
    }

    /// In what these data differ from others, as far as the digests show. Checksums are compared only if both digests
    /// have them for all objects, or both for a part of the objects.
    pub(crate) fn difference(&self, other: &Self) -> Option<DataDifference> {
        let both_known = [self, other].iter().all(|digest| digest.checksums != [0; 8]);
        let is_comparable = both_known && self.checksums[7] & 1 == other.checksums[7] & 1;
        if self.names != other.names {
            Some(DataDifference::Names)
        } else if self.sizes != other.sizes {
            Some(DataDifference::Sizes)
        } else if is_comparable && self.checksums != other.checksums {
            Some(DataDifference::Checksums)
        } else {
            None
        }
    }

    /// The digest of the same objects with labels numbered by a list of classes. It must differ, because an order may
    /// depend on the numbers, and a run that was trained with other numbers must not be resumed.
    pub(super) fn with_classes(self, classes: &[String]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(b"dataflux classes 1");
        context.update(&self.names);
        for class in classes {
            // `ClassMap::new` refuses a name with a line feed.
            context.update(class.as_bytes());
            context.update(b"\n");
        }
        Self { names: beginning(context), ..self }
    }

    /// The digest of samples that have further parts: so many, of this digest. Only sizes and checksums count, since
    /// the first part names the sample, and orders are keyed by names.
    pub(super) fn with_parts(self, parts: usize, further: &Self) -> Self {
        let mix = |own: &[u8; 8], of_parts: &[u8; 8]| -> [u8; 8] {
            let mut context = Context::new(&SHA256);
            context.update(b"dataflux parts 1");
            context.update(&(parts as u64).to_le_bytes());
            context.update(own);
            context.update(of_parts);
            beginning(context)
        };
        let mut checksums = [0; 8];
        if self.checksums != [0; 8] || further.checksums != [0; 8] {
            checksums = mix(&self.checksums, &further.checksums);
            // As in `ObjectsDigest::finish`.
            checksums[0] |= 0x80;
            checksums[7] = checksums[7] & !1 | (self.checksums[7] & further.checksums[7] & 1);
        }
        Self { sizes: mix(&self.sizes, &further.sizes), checksums, ..self }
    }
}

/// A running hash of labels that don't follow from names, so that they are part of the digest of the data.
#[derive(Default)]
pub(super) struct LabelsDigest {
    hash: RunningHash,
    /// By label: how many other labels came before its first sample.
    ranks: Vec<Option<u32>>,
    /// The labels in the order of their first samples.
    order: Vec<u32>,
}

impl LabelsDigest {
    /// Adds the label of the next sample. Its number doesn't matter, except that other labels have other ones.
    pub(super) fn push(&mut self, label: Option<u32>) {
        let rank = label.map_or(u32::MAX, |label| {
            let at = label as usize;
            if self.ranks.len() <= at {
                self.ranks.resize(at + 1, None);
            }
            *self.ranks[at].get_or_insert_with(|| {
                self.order.push(label);
                self.order.len() as u32 - 1
            })
        });
        self.hash.collected.extend_from_slice(&rank.to_le_bytes());
        self.hash.settle();
    }

    /// The digest of data whose objects have the digest `objects`, with labels numbered by `classes`; `class_of`
    /// returns the number there of a label.
    pub(super) fn finish(self, objects: Digest, classes: &[String], class_of: impl Fn(u32) -> Option<u32>) -> Digest {
        let samples: [u8; 32] = self.hash.finish();
        let mut context = Context::new(&SHA256);
        context.update(b"dataflux labels 1");
        context.update(&objects.names);
        context.update(&samples);
        for label in self.order {
            context.update(&class_of(label).unwrap_or(u32::MAX).to_le_bytes());
        }
        for class in classes {
            // No class has a line feed.
            context.update(class.as_bytes());
            context.update(b"\n");
        }
        Digest { names: beginning(context), ..objects }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bytes().iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

/// A running SHA-256 over whole names in order, each followed by a line feed. Names in Google Cloud Storage have none.
/// The commands `dataflux ls --summary` and `dataflux bench` print it. Both print the same for one epoch without
/// shuffling, if all objects are samples. It is no [`Digest`]: the prefix counts, and sizes and checksums don't.
pub struct NamesDigest(Context);

impl Default for NamesDigest {
    fn default() -> Self {
        Self(Context::new(&SHA256))
    }
}

impl NamesDigest {
    /// Adds the next name.
    pub fn push(&mut self, name: &str) {
        self.0.update(name.as_bytes());
        self.0.update(b"\n");
    }

    /// The digest of the names so far, in hex.
    pub fn finish(&self) -> String {
        let hash: [u8; 32] = beginning(self.0.clone());
        hash.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
    }
}

impl fmt::Debug for NamesDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NamesDigest({})", self.finish())
    }
}

/// The first bytes of a hash.
fn beginning<const N: usize>(context: Context) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&context.finish().as_ref()[..N]);
    bytes
}

/// Bytes that are collected before they are hashed, since a call of the hash costs as much as hashing a short name.
const COLLECTED: usize = 16 << 10;

/// A running SHA-256 of many short pieces.
struct RunningHash {
    context: Context,
    collected: Vec<u8>,
}

impl Default for RunningHash {
    fn default() -> Self {
        Self { context: Context::new(&SHA256), collected: Vec::with_capacity(2 * COLLECTED) }
    }
}

impl RunningHash {
    /// Hashes what was collected, if it is enough.
    fn settle(&mut self) {
        if self.collected.len() >= COLLECTED {
            self.context.update(&self.collected);
            self.collected.clear();
        }
    }

    fn finish<const N: usize>(mut self) -> [u8; N] {
        self.context.update(&self.collected);
        beginning(self.context)
    }
}

/// The running [`Digest`] of a manifest. Its input must never change, since users' states hold its result.
///
/// Each part has a hash of its own, so that a part can be compared without the others.
#[derive(Default)]
pub(super) struct ObjectsDigest {
    names: RunningHash,
    sizes: RunningHash,
    checksums: RunningHash,
    objects: u64,
    /// Objects that have a checksum.
    checked: u64,
}

impl ObjectsDigest {
    /// Adds an object. `name` is the part of its name from the [`names_root`](super::classes::names_root) on.
    pub(super) fn push<N>(&mut self, name: &[u8], entry: &Entry<N>) {
        let names = &mut self.names.collected;
        if name.contains(&b'\n') {
            // Its length comes first. Two line feeds in a row announce this: only the first name can be empty, and the
            // length begins with a zero byte. So no two listings are hashed as the same bytes.
            names.extend_from_slice(b"\n\n");
            names.extend_from_slice(&(name.len() as u64).to_be_bytes());
        }
        names.extend_from_slice(name);
        names.push(b'\n');
        self.names.settle();
        self.sizes.collected.extend_from_slice(&entry.size.to_le_bytes());
        self.sizes.settle();
        let checksum = u64::from(entry.crc32c.unwrap_or(0)) | u64::from(entry.crc32c.is_some()) << 32;
        self.checksums.collected.extend_from_slice(&checksum.to_le_bytes()[..5]);
        self.checksums.settle();
        self.objects += 1;
        self.checked += u64::from(entry.crc32c.is_some());
    }

    pub(super) fn finish(self) -> Digest {
        let mut checksums: [u8; 8] = self.checksums.finish();
        if self.checked == 0 {
            checksums = [0; 8];
        } else {
            // The first bit is set, so that the part is never 0.
            checksums[0] |= 0x80;
            checksums[7] = checksums[7] & !1 | u8::from(self.checked == self.objects);
        }
        Digest { names: self.names.finish(), sizes: self.sizes.finish(), checksums }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Manifest;
    use crate::store::ObjectRef;

    fn digest(prefix: &str, objects: &[(&str, u64, Option<u32>)]) -> Digest {
        let listed =
            objects.iter().map(|&(name, size, crc32c)| ObjectRef { name, size, crc32c, ..ObjectRef::default() });
        Manifest::new(prefix.parse().unwrap(), &listed.collect()).unwrap().digest()
    }

    const TWO: [(&str, u64, Option<u32>); 2] = [("p/a", 1, Some(1)), ("p/b", 2, Some(2))];

    #[test]
    fn a_difference_is_named() {
        let base = digest("gs://bucket/p/", &TWO);
        assert_eq!(base.difference(&base), None);
        for (objects, wanted) in [
            ([("p/a", 1, Some(1)), ("p/c", 2, Some(2))], DataDifference::Names),
            ([("p/a", 1, Some(1)), ("p/b", 3, Some(2))], DataDifference::Sizes),
            ([("p/a", 1, Some(1)), ("p/b", 2, Some(3))], DataDifference::Checksums),
        ] {
            let other = digest("gs://bucket/p/", &objects);
            assert_eq!((base.difference(&other), other.difference(&base)), (Some(wanted), Some(wanted)));
        }
        assert_eq!(base.difference(&digest("gs://bucket/p/", &TWO[..1])), Some(DataDifference::Names));
        assert_eq!(base.difference(&base.with_classes(&["b".into()])), Some(DataDifference::Names));
    }

    #[test]
    fn checksums_are_compared_where_both_have_them() {
        let of = |first, second| digest("gs://bucket/p/", &[("p/a", 1, first), ("p/b", 2, second)]);
        let (all, none) = (of(Some(0), Some(2)), of(None, None));
        assert_eq!(none.checksums, [0; 8]);
        for some in [of(Some(0), None), of(None, Some(2))] {
            assert!([&all, &none].iter().all(|other| some.difference(other).is_none()));
        }
        assert_eq!(all.difference(&none), None);
        assert_eq!(of(Some(0), None).difference(&of(None, Some(0))), Some(DataDifference::Checksums));
    }

    #[test]
    fn the_prefix_does_not_count() {
        let base = digest("gs://bucket/p/", &TWO);
        for (prefix, first, second) in [
            ("gs://bucket/p", "p/a", "p/b"),
            ("gs://other/deeper/q/", "deeper/q/a", "deeper/q/b"),
            ("gs://other", "a", "b"),
        ] {
            assert_eq!(digest(prefix, &[(first, 1, Some(1)), (second, 2, Some(2))]), base, "{prefix}");
        }
        assert_ne!(digest("gs://bucket", &TWO), base);
    }

    /// Labels differ between these: the names in `train/` are of one folder for the one, and of several for the other.
    #[test]
    fn a_slash_counts_where_the_prefix_is_not_the_folder_of_all_names() {
        let of = |prefix, names: [&'static str; 3]| digest(prefix, &names.map(|name| (name, 1, None)));
        let folders = of("gs://bucket/x/", ["x/a/1", "x/b/2", "x/c/3"]);
        assert_ne!(of("gs://bucket/train", ["train/a/1", "train/b/2", "trainc/3"]), folders);
        assert_eq!(of("gs://bucket/train", ["train/a/1", "train/b/2", "train/c/3"]), folders);
    }

    /// The two orders of these pieces had one digest.
    #[test]
    fn line_feeds_in_names_do_not_make_other_objects_look_the_same() {
        let of = |names: [&'static str; 2]| digest("gs://bucket/p/", &names.map(|name| (name, 1, None)));
        let digests = [["p/a", "p/b\np/c"], ["p/a\nb", "p/p/c"], ["p/a", "p/b\nc"], ["p/a\nb", "p/c"], ["p/a", "p/b"]];
        let digests = digests.map(of);
        for (index, digest) in digests.iter().enumerate() {
            assert!(!digests[..index].contains(digest), "{index}");
        }
        // The names are empty, a line feed, and two line feeds.
        let of = |names: &[&'static str]| {
            digest("gs://bucket/p", &names.iter().map(|name| (*name, 1, None)).collect::<Vec<_>>())
        };
        assert_ne!(of(&["p", "p\n"]), of(&["p\n", "p\n\n"]));
    }

    #[test]
    fn digits_are_read_as_they_are_written() {
        let base = digest("gs://bucket/p/", &TWO);
        assert_eq!(Digest::parse(&base.to_string()), Some(base));
        assert_eq!(Digest::parse(&format!(" {}\n", base.to_string().to_uppercase())), Some(base));
        for text in ["", "none", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), &"+0".repeat(32)] {
            assert_eq!(Digest::parse(text), None, "{text}");
        }
    }
}
