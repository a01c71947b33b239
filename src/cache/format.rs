//! The byte format of segments. Nothing here reads or writes files.
//!
//! All numbers are little-endian. A segment of version 2 is
//!
//! | at | bytes | content |
//! |---|---|---|
//! | 0 | 8 | `89 44 46 43 0D 0A 1A 0A`: not ASCII, "DFC", and line ends, which a transfer as text would change |
//! | 8 | 4 | version: 2 |
//! | 12 | 4 | 0 |
//! | 16 | 8 | where the index begins; 0 while records may be added |
//! | 24 | 8 | number of entries in the index |
//! | 32 | 4 | CRC32C of the index |
//! | 36 | 24 | 0 |
//! | 60 | 4 | CRC32C of the head up to here |
//! | 64 | | records, each beginning at a multiple of 8 |
//! | | 12 each | the index: hash of the key (8), and where its record begins, in units of 8 bytes (4) |
//!
//! and a record is
//!
//! | at | bytes | content |
//! |---|---|---|
//! | 0 | 4 | `DFr2` |
//! | 4 | 2, 2 | lengths of the bucket's name and of the object's name |
//! | 8 | 8 | the generation; or the length of the entity tag; or 0, for an object without a version |
//! | 16 | 4 | length of the sample |
//! | 20 | 4 | CRC32C of the sample |
//! | 24 | 4 | the form of the key: 0 for no version, 1 for a generation, 2 for an entity tag; 4 more for a range of the object; 8 more for a row; 16 more for further parts |
//! | 28 | 4 | CRC32C of the 28 bytes before and of the rest of the key |
//! | 32 | | the rest of the key: the bucket's name, the object's name, the entity tag, start and end of the range (8, 8), the row (8), the hash of the further parts (8, 8), each if there is one |
//! | | | the sample; zeros up to a multiple of 8 |
//!
//! Records are found through the index, or by scanning from the first to the next, and never by searching for bytes
//! that look like a record, since others choose what is in an object.

use std::ops::Range;

use ring::digest::{Context, SHA256};

use crate::manifest::{Location, PartLocation};
use crate::store::Version;

/// Bytes of a segment's head.
pub(super) const HEAD: u64 = 64;
/// Bytes of a record before its names.
const FIXED_HEAD: usize = 32;
/// Bytes of the longest entity tag in a key. Services have tags of some 40 bytes.
const MAX_ETAG: usize = 256;
/// The most bytes of a record before the sample: the service allows names of 222 and of 1,024 bytes.
pub(super) const MAX_RECORD_HEAD: usize = FIXED_HEAD + 222 + 1_024 + MAX_ETAG + 16 + 8 + 16;
/// Records begin at multiples of this many bytes, and offsets count such units. So four bytes can address 32 GiB, which
/// is eight times the largest segment.
pub(super) const UNIT: u64 = 8;
/// Bytes of an entry of the index.
pub(super) const ENTRY: usize = 12;

const VERSION: u32 = 2;
const MAGIC: [u8; 8] = *b"\x89DFC\r\n\x1a\n";
const RECORD_MAGIC: [u8; 4] = *b"DFr2";

/// The key of a sample in the cache: where its bytes lie. No two locations have the same key, so a range is never taken
/// for the whole object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheKey<'a> {
    bucket: &'a str,
    name: &'a str,
    version: Version<&'a str>,
    range: Option<&'a Range<u64>>,
    row: Option<u64>,
    /// A hash of the objects that are further parts of the sample.
    parts: Option<[u64; 2]>,
}

/// The bit of a key's form that says that it has a range.
const RANGE: u32 = 4;
/// The bit that says that it has a row.
const ROW: u32 = 8;
/// The bit that says that it has further parts.
const PARTS: u32 = 16;

impl<'a> CacheKey<'a> {
    /// The key of a sample of `bucket`; `None` if its names or its entity tag are too long for a cache.
    pub(crate) fn new(bucket: &'a str, location: &'a Location) -> Option<Self> {
        let Location { object, range, row, parts, .. } = location;
        let key = Self {
            bucket,
            name: &object.name,
            version: object.version.as_deref(),
            range: range.as_ref(),
            row: *row,
            parts: hash_of_parts(parts),
        };
        (key.record_head() <= MAX_RECORD_HEAD).then_some(key)
    }

    /// The key of a whole object of a generation.
    #[cfg(test)]
    pub(crate) fn of_generation(bucket: &'a str, name: &'a str, generation: i64) -> Self {
        Self { bucket, name, version: generation.into(), range: None, row: None, parts: None }
    }

    /// The entity tag; empty if there is none.
    fn tag(&self) -> &'a str {
        match self.version {
            Version::Etag(tag) => tag,
            Version::None | Version::Generation(_) => "",
        }
    }

    /// What says how the rest of the key is to be read.
    fn form(&self) -> u32 {
        let has = |bit, is_there| bit * u32::from(is_there);
        form_of(&self.version)
            + has(RANGE, self.range.is_some())
            + has(ROW, self.row.is_some())
            + has(PARTS, self.parts.is_some())
    }

    /// The generation, the length of the entity tag, or 0.
    fn version_number(&self) -> u64 {
        self.version.generation().map_or(self.tag().len() as u64, i64::cast_unsigned)
    }

    /// Start and end of the range, the row, and the hash of the further parts, each if there is one.
    fn numbers(&self) -> impl Iterator<Item = u8> {
        let ends = self.range.into_iter().flat_map(|range| [range.start, range.end]);
        ends.chain(self.row).chain(self.parts.into_iter().flatten()).flat_map(u64::to_le_bytes)
    }

    /// The hash of the key: FNV-1a, mixed at the end as MurmurHash3 does. Files hold it, so no version of this crate
    /// may change it. It is never 0, which free slots of the table of claims hold.
    ///
    /// Among 10^8 keys, the chance that two have the same hash is 1 in 4,000. They replace each other.
    pub(crate) fn hash(&self) -> u64 {
        let names = self.bucket.bytes().chain([0]).chain(self.name.bytes());
        // No name in UTF-8 has this byte.
        let form = [0xFF, self.form() as u8].into_iter().chain(self.version_number().to_le_bytes());
        let bytes = names.chain(form).chain(self.tag().bytes()).chain(self.numbers());
        let mut hash =
            bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
            hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
        }
        (hash ^ (hash >> 33)).max(1)
    }

    fn record_head(&self) -> usize {
        FIXED_HEAD + self.bucket.len() + self.name.len() + self.tag().len() + numbers_bytes(self.form())
    }

    /// Bytes of the record of a sample of `size` bytes.
    pub(super) fn record_bytes(&self, size: u32) -> u64 {
        record_bytes(self.record_head(), size)
    }

    /// Appends the part of a record before the sample.
    pub(super) fn write_record_head(&self, size: u32, crc32c: u32, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend(RECORD_MAGIC);
        into.extend((self.bucket.len() as u16).to_le_bytes());
        into.extend((self.name.len() as u16).to_le_bytes());
        into.extend(self.version_number().to_le_bytes());
        into.extend(size.to_le_bytes());
        into.extend(crc32c.to_le_bytes());
        into.extend(self.form().to_le_bytes());
        // The CRC is filled in below.
        into.extend([0; 4]);
        for text in [self.bucket, self.name, self.tag()] {
            into.extend(text.as_bytes());
        }
        into.extend(self.numbers());
        let (fixed, rest) = into[start..].split_at_mut(FIXED_HEAD);
        let crc = crc32c::crc32c_append(crc32c::crc32c(&fixed[..28]), rest);
        fixed[28..].copy_from_slice(&crc.to_le_bytes());
    }

    /// Appends a whole record.
    pub(super) fn write_record(&self, bytes: &[u8], crc32c: u32, into: &mut Vec<u8>) {
        let start = into.len();
        self.write_record_head(bytes.len() as u32, crc32c, into);
        into.extend(bytes);
        into.resize(start + self.record_bytes(bytes.len() as u32) as usize, 0);
    }
}

/// What the form of a key says of the version.
fn form_of<N>(version: &Version<N>) -> u32 {
    match version {
        Version::None => 0,
        Version::Generation(_) => 1,
        Version::Etag(_) => 2,
    }
}

/// A hash of the objects that are further parts of a sample, in order: half a SHA-256, since two samples with the same
/// first part must never be taken for each other. `None` without further parts. Files hold it, so no version of this
/// crate may change it.
fn hash_of_parts(parts: &[PartLocation]) -> Option<[u64; 2]> {
    if parts.is_empty() {
        return None;
    }
    let mut context = Context::new(&SHA256);
    for PartLocation { bucket, object, .. } in parts {
        let version = object.version.as_deref();
        let tag = if let Version::Etag(tag) = version { tag } else { "" };
        let number = version.generation().map_or(tag.len() as u64, i64::cast_unsigned);
        // Each text ends where its length says, so no two lists of objects are hashed as the same bytes.
        for text in [bucket, &object.name] {
            context.update(&(text.len() as u64).to_le_bytes());
            context.update(text.as_bytes());
        }
        context.update(&[form_of(&version) as u8]);
        context.update(&number.to_le_bytes());
        context.update(tag.as_bytes());
    }
    let hash = context.finish();
    Some([u64_at(hash.as_ref(), 0), u64_at(hash.as_ref(), 8)])
}

/// Bytes of range, row and hash of parts in a key of this form.
fn numbers_bytes(form: u32) -> usize {
    let bytes = |bit, bytes| if form & bit == 0 { 0 } else { bytes };
    bytes(RANGE, 16) + bytes(ROW, 8) + bytes(PARTS, 16)
}

fn record_bytes(head: usize, size: u32) -> u64 {
    (head as u64 + u64::from(size)).next_multiple_of(UNIT)
}

/// What is found where a record may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FoundRecord {
    Record {
        hash: u64,
        /// Length of the whole record.
        bytes: u64,
    },
    /// The file ends before the record does, or before it begins: a process is writing it, or was killed while it did.
    Short,
    /// Bytes that are no record.
    Damaged,
}

/// Reads the record at the start of `bytes`, in a file of which `left` bytes follow from there on. `bytes` has all of
/// these, or at least [`MAX_RECORD_HEAD`].
pub(super) fn record_at(bytes: &[u8], left: u64) -> FoundRecord {
    let Some(fixed) = bytes.first_chunk::<FIXED_HEAD>() else { return FoundRecord::Short };
    let [bucket, name] = [4, 6].map(|at| usize::from(u16::from_le_bytes([fixed[at], fixed[at + 1]])));
    let (number, form) = (u64_at(fixed, 8), u32_at(fixed, 24));
    let tag = match form & 3 {
        2 => usize::try_from(number).unwrap_or(usize::MAX),
        _ => 0,
    };
    let names = FIXED_HEAD + bucket + name;
    let head = names.saturating_add(tag).saturating_add(numbers_bytes(form));
    if fixed[..4] != RECORD_MAGIC || head > MAX_RECORD_HEAD {
        return FoundRecord::Damaged;
    }
    let size = u32_at(fixed, 16);
    if record_bytes(head, size) > left {
        return FoundRecord::Short;
    }
    let Some(rest) = bytes.get(FIXED_HEAD..head) else { return FoundRecord::Damaged };
    if crc32c::crc32c_append(crc32c::crc32c(&fixed[..28]), rest) != u32_at(fixed, 28) {
        return FoundRecord::Damaged;
    }
    let Some(hash) = hash_of(fixed, rest, [bucket, name, tag]) else { return FoundRecord::Damaged };
    FoundRecord::Record { hash, bytes: record_bytes(head, size) }
}

/// The hash of the key in a record's head, whose texts have these lengths; `None` if it is no key.
fn hash_of(fixed: &[u8; FIXED_HEAD], rest: &[u8], lengths: [usize; 3]) -> Option<u64> {
    let (number, form) = (u64_at(fixed, 8), u32_at(fixed, 24));
    let mut rest = rest;
    let mut texts = [""; 3];
    for (text, length) in texts.iter_mut().zip(lengths) {
        let (bytes, behind) = rest.split_at_checked(length)?;
        (*text, rest) = (str::from_utf8(bytes).ok()?, behind);
    }
    let [bucket, name, tag] = texts;
    let version = match form & 3 {
        0 => Version::None,
        1 => number.cast_signed().into(),
        2 => Version::Etag(tag),
        _ => return None,
    };
    let mut numbers = rest.as_chunks().0.iter().map(|number| u64::from_le_bytes(*number));
    let range = if form & RANGE == 0 { None } else { Some(numbers.next()?..numbers.next()?) };
    let row = if form & ROW == 0 { None } else { Some(numbers.next()?) };
    let parts = if form & PARTS == 0 { None } else { Some([numbers.next()?, numbers.next()?]) };
    let key = CacheKey { bucket, name, version, range: range.as_ref(), row, parts };
    (key.form() == form).then(|| key.hash())
}

/// The head of a segment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentHead {
    /// Where the index begins; 0 while records may be added.
    pub(super) index_at: u64,
    pub(super) entries: u64,
    pub(super) index_crc32c: u32,
}

impl SegmentHead {
    pub(super) fn encode(&self) -> [u8; HEAD as usize] {
        let mut bytes = [0; HEAD as usize];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.index_at.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.entries.to_le_bytes());
        bytes[32..36].copy_from_slice(&self.index_crc32c.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// `None` if the bytes are no head of this version.
    pub(super) fn decode(bytes: &[u8; HEAD as usize]) -> Option<Self> {
        let is_valid =
            bytes[..8] == MAGIC && u32_at(bytes, 8) == VERSION && u32_at(bytes, 60) == crc32c::crc32c(&bytes[..60]);
        is_valid.then(|| Self {
            index_at: u64_at(bytes, 16),
            entries: u64_at(bytes, 24),
            index_crc32c: u32_at(bytes, 32),
        })
    }
}

/// An entry of a segment's index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexEntry {
    /// Hash of the sample's key.
    pub(super) hash: u64,
    /// Where the record begins, in units of 8 bytes.
    pub(super) at_unit: u32,
}

pub(super) fn encode_index(entries: &[IndexEntry]) -> Vec<u8> {
    let encode = |entry: &IndexEntry| entry.hash.to_le_bytes().into_iter().chain(entry.at_unit.to_le_bytes());
    entries.iter().flat_map(encode).collect()
}

pub(super) fn decode_index(index: &[u8]) -> impl Iterator<Item = IndexEntry> {
    index.chunks_exact(ENTRY).map(|entry| IndexEntry { hash: u64_at(entry, 0), at_unit: u32_at(entry, 8) })
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const KEY: CacheKey<'_> = CacheKey {
        bucket: "data",
        name: "p/ant/é.bin",
        version: Version::Generation(1_234_567_890_123),
        range: None,
        row: None,
        parts: None,
    };

    /// Files of existing caches have these bytes. Whoever changes them must raise the version.
    #[test]
    fn golden_record_and_head() {
        let mut record = Vec::new();
        KEY.write_record(b"meow", crc32c::crc32c(b"meow"), &mut record);
        assert_eq!(hex(&record), GOLDEN_RECORD);
        assert_eq!(format!("{:016x}", KEY.hash()), GOLDEN_HASH);
        let entry = IndexEntry { hash: KEY.hash(), at_unit: 8 };
        let index = encode_index(&[entry]);
        assert_eq!(decode_index(&index).collect::<Vec<_>>(), [entry]);
        let head = SegmentHead { index_at: 64 + record.len() as u64, entries: 1, index_crc32c: crc32c::crc32c(&index) };
        assert_eq!(hex(&head.encode()), GOLDEN_HEAD);
        assert_eq!(SegmentHead::decode(&head.encode()), Some(head));
    }

    const GOLDEN_RECORD: &str = concat!(
        "4446723204000c00cb04fb711f01000004000000b2aacebb010000001a17ea08",
        "64617461702f616e742fc3a92e62696e6d656f7700000000"
    );
    const GOLDEN_HASH: &str = "bea0cbde97a55cb5";
    const GOLDEN_HEAD: &str = concat!(
        "894446430d0a1a0a0200000000000000780000000000000001000000000000007517159300000000",
        "000000000000000000000000000000000000000088f00310"
    );

    fn version() -> impl Strategy<Value = Version<&'static str>> {
        let tags = prop_oneof![Just(""), Just("\"a\""), Just("W/\"é\"")];
        prop_oneof![Just(Version::None), (1..=i64::MAX).prop_map(Version::Generation), tags.prop_map(Version::Etag)]
    }

    /// Keys that would be equal if their parts were only written one after another.
    #[test]
    fn no_two_locations_have_the_same_key() {
        let whole = CacheKey { version: Version::None, ..KEY };
        let (first, second) = (0..7, 7..8);
        let versions = [Version::None, Version::Generation(1), Version::Etag("1"), Version::Etag("")];
        let ranges = [None, Some(&first), Some(&second)];
        let rows = [None, Some(0), Some(7)];
        let names = ["p/a", "p/a\0", "p/a1"];
        let keys = names.iter().flat_map(|&name| versions.map(|version| CacheKey { name, version, ..whole }));
        let keys = keys.flat_map(|key| ranges.map(|range| CacheKey { range, ..key }));
        let keys = keys.flat_map(|key| rows.map(|row| CacheKey { row, ..key }));
        let parts = [None, Some([0, 7]), Some([7, 8])];
        let keys: Vec<_> = keys.flat_map(|key| parts.map(|parts| CacheKey { parts, ..key })).collect();
        let hashes: BTreeSet<_> = keys.iter().map(CacheKey::hash).collect();
        let heads = keys.iter().map(|key| {
            let mut head = Vec::new();
            key.write_record_head(7, 7, &mut head);
            head
        });
        let heads: BTreeSet<_> = heads.collect();
        assert_eq!((hashes.len(), heads.len()), (keys.len(), keys.len()));
    }

    #[test]
    fn a_key_that_no_record_holds_is_not_cached() {
        let manifest = crate::manifest::tests::manifest(&[crate::manifest::tests::object("p/a", 1)]);
        let location = manifest.location(crate::sample::SampleId(0)).unwrap();
        let bucket = "b".repeat(222);
        // A store of the user's own may have names of any length.
        for (name, tag) in [(1_024, MAX_ETAG), (1_025, MAX_ETAG), (1_024, MAX_ETAG + 1), (1 << 16, 0)] {
            let mut location = location.clone();
            location.object.name = "n".repeat(name).into();
            location.object.version = Version::Etag("t".repeat(tag).into());
            (location.range, location.row) = (Some(0..1), Some(0));
            location.parts = vec![part("p/b", 1)];
            let Some(key) = CacheKey::new(&bucket, &location) else {
                assert_ne!((name, tag), (1_024, MAX_ETAG));
                continue;
            };
            let mut record = Vec::new();
            key.write_record(b"meow", crc32c::crc32c(b"meow"), &mut record);
            let bytes = record.len() as u64;
            assert_eq!(record_at(&record, bytes), FoundRecord::Record { hash: key.hash(), bytes }, "{name}, {tag}");
        }
    }

    fn part(name: &str, generation: i64) -> PartLocation {
        let mut object = crate::manifest::tests::object(name, 1);
        object.version = generation.into();
        let manifest = crate::manifest::tests::manifest(&[object]);
        let object = manifest.location(crate::sample::SampleId(0)).unwrap().object;
        PartLocation { bucket: "bucket".into(), object }
    }

    #[test]
    fn the_hash_of_parts_is_of_their_buckets_names_versions_and_order() {
        let (first, second) = (part("p/b", 1), part("p/c", 1));
        let elsewhere = PartLocation { bucket: "bucketp".into(), ..first.clone() };
        let lists = [
            vec![first.clone()],
            vec![second.clone()],
            vec![first.clone(), second.clone()],
            vec![second, first],
            vec![part("p/b", 2)],
            vec![elsewhere],
        ];
        let hashes: BTreeSet<_> = lists.iter().map(|parts| hash_of_parts(parts).unwrap()).collect();
        assert_eq!(hashes.len(), lists.len());
        assert_eq!(hash_of_parts(&[]), None);
        // Files of existing caches have this.
        assert_eq!(hash_of_parts(&lists[2]).unwrap().map(|half| format!("{half:016x}")), GOLDEN_PARTS);
    }

    const GOLDEN_PARTS: [&str; 2] = ["bf5d87cc063a4d03", "0e193d021abea447"];

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
    }

    proptest! {
        #[test]
        fn a_record_is_whole_short_or_damaged(
            name in "[a-zé]{1,40}",
            version in version(),
            range in prop::option::of((0u64..9, 9u64..20).prop_map(|(start, end)| start..end)),
            row in prop::option::of(any::<u64>()),
            parts in prop::option::of(any::<[u64; 2]>()),
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            cut: prop::sample::Index,
            bit: prop::sample::Index,
        ) {
            let key = CacheKey { bucket: "bucket", name: &name, version, range: range.as_ref(), row, parts };
            let mut record = Vec::new();
            key.write_record(&bytes, crc32c::crc32c(&bytes), &mut record);
            let whole = record.len() as u64;
            prop_assert_eq!(whole, key.record_bytes(bytes.len() as u32));
            prop_assert_eq!(record_at(&record, whole), FoundRecord::Record { hash: key.hash(), bytes: whole });
            let cut = cut.index(record.len());
            prop_assert_eq!(record_at(&record[..cut], cut as u64), FoundRecord::Short);
            let bit = bit.index(8 * key.record_head());
            record[bit / 8] ^= 1 << (bit % 8);
            let found = matches!(record_at(&record, whole), FoundRecord::Record { .. });
            prop_assert!(!found);
        }

        #[test]
        fn a_head_with_a_wrong_bit_is_refused(index_at: u64, bit in 0usize..512) {
            let mut bytes = SegmentHead { index_at, entries: 3, index_crc32c: 4 }.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(SegmentHead::decode(&bytes), None);
        }
    }
}
