//! Bytes of the files: pure.
//!
//! All numbers are little-endian. A segment of version 1 is
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | `89 44 46 43 0D 0A 1A 0A`: not ASCII, "DFC", and line ends, which a transfer as text would change |
//! | 8 | 4 | version: 1 |
//! | 12 | 4 | 0 |
//! | 16 | 8 | where the index begins; 0 as long as records may be added |
//! | 24 | 8 | entries of the index |
//! | 32 | 4 | CRC32C of the index |
//! | 36 | 24 | 0 |
//! | 60 | 4 | CRC32C of the head up to here |
//! | 64 | | records, each beginning at a multiple of 8 |
//! | | 12 each | the index: hash of the key (8), and where its record begins, in units of 8 bytes (4) |
//!
//! and a record is
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 4 | `DFr1` |
//! | 4 | 2, 2 | bytes of the bucket's name and of the object's |
//! | 8 | 8 | generation |
//! | 16 | 4 | bytes of the object |
//! | 20 | 4 | CRC32C of those |
//! | 24 | 4 | 0 |
//! | 28 | 4 | CRC32C of the 28 bytes before and of both names |
//! | 32 | | the bucket's name; the object's; its bytes; zeros up to a multiple of 8 |
//!
//! Records are found by walking from one to the next from the beginning, or by the index, and never by looking for
//! something that looks like one: what is in an object is somebody else's to choose.

/// Bytes of a segment's head.
pub(super) const HEAD: u64 = 64;
/// Bytes of a record before the names.
const FIXED: usize = 32;
/// The most bytes of a record before the object's own: the service allows names of 222 and of 1,024 bytes.
pub(super) const MOST_BEFORE: usize = FIXED + 222 + 1_024;
/// Places are counted in these, so that four bytes reach 32 GiB far.
pub(super) const UNIT: u64 = 8;
/// Bytes of an entry of the index.
pub(super) const ENTRY: usize = 12;

const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"\x89DFC\r\n\x1a\n";
const RECORD: [u8; 4] = *b"DFr1";

/// What a sample is kept under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CacheKey<'a> {
    pub(crate) bucket: &'a str,
    pub(crate) name: &'a str,
    pub(crate) generation: i64,
}

impl CacheKey<'_> {
    /// The same in all versions, since files hold it: FNV-1a, mixed at the end as MurmurHash3 does, and never 0.
    ///
    /// Of 10^8 keys two have the same hash once in 4,000 times; those push each other out.
    pub(crate) fn hash(&self) -> u64 {
        let bytes = self.bucket.bytes().chain([0]).chain(self.name.bytes()).chain(self.generation.to_le_bytes());
        let mut hash =
            bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
        for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
            hash = (hash ^ (hash >> 33)).wrapping_mul(factor);
        }
        (hash ^ (hash >> 33)).max(1)
    }

    fn before(&self) -> usize {
        FIXED + self.bucket.len() + self.name.len()
    }

    /// Bytes of the record of an object of `size` bytes.
    pub(super) fn record_bytes(&self, size: u32) -> u64 {
        record_bytes(self.before(), size)
    }

    /// Appends all of a record that comes before the object's bytes.
    pub(super) fn begin_record(&self, size: u32, crc32c: u32, into: &mut Vec<u8>) {
        let start = into.len();
        into.extend(RECORD);
        into.extend((self.bucket.len() as u16).to_le_bytes());
        into.extend((self.name.len() as u16).to_le_bytes());
        into.extend(self.generation.to_le_bytes());
        into.extend(size.to_le_bytes());
        into.extend(crc32c.to_le_bytes());
        into.extend([0; 4]);
        let crc = crc32c::crc32c(&into[start..]);
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(crc, self.bucket.as_bytes()), self.name.as_bytes());
        into.extend(crc.to_le_bytes());
        into.extend(self.bucket.as_bytes());
        into.extend(self.name.as_bytes());
    }

    /// Appends a whole record.
    pub(super) fn record(&self, bytes: &[u8], crc32c: u32, into: &mut Vec<u8>) {
        let start = into.len();
        self.begin_record(bytes.len() as u32, crc32c, into);
        into.extend(bytes);
        into.resize(start + self.record_bytes(bytes.len() as u32) as usize, 0);
    }
}

fn record_bytes(before: usize, size: u32) -> u64 {
    (before as u64 + u64::from(size)).next_multiple_of(UNIT)
}

/// What stands where a record might.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FoundRecord {
    Record {
        hash: u64,
        /// Of the whole record.
        bytes: u64,
    },
    /// The file ends before the record does, or before it begins: it is being written, or whoever wrote it is dead.
    Short,
    /// No record.
    Damaged,
}

/// What stands at the beginning of `bytes`, in a file that has `left` bytes from there on: all that there is, or at least
/// [`MOST_BEFORE`].
pub(super) fn record_at(bytes: &[u8], left: u64) -> FoundRecord {
    let Some(fixed) = bytes.first_chunk::<FIXED>() else { return FoundRecord::Short };
    let [bucket, name] = [4, 6].map(|at| usize::from(u16::from_le_bytes([fixed[at], fixed[at + 1]])));
    let before = FIXED + bucket + name;
    if fixed[..4] != RECORD || before > MOST_BEFORE {
        return FoundRecord::Damaged;
    }
    let size = u32_at(fixed, 16);
    if record_bytes(before, size) > left {
        return FoundRecord::Short;
    }
    let Some(names) = bytes.get(FIXED..before) else { return FoundRecord::Damaged };
    if crc32c::crc32c_append(crc32c::crc32c(&fixed[..28]), names) != u32_at(fixed, 28) {
        return FoundRecord::Damaged;
    }
    let (bucket, name) = names.split_at(bucket);
    let (Ok(bucket), Ok(name)) = (str::from_utf8(bucket), str::from_utf8(name)) else { return FoundRecord::Damaged };
    let hash = CacheKey { bucket, name, generation: u64_at(fixed, 8) as i64 }.hash();
    FoundRecord::Record { hash, bytes: record_bytes(before, size) }
}

/// What the head of a segment says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct SegmentHead {
    /// 0 as long as records may be added.
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

    /// `None` if these are not the bytes of a head of this version.
    pub(super) fn decode(bytes: &[u8; HEAD as usize]) -> Option<Self> {
        let right =
            bytes[..8] == MAGIC && u32_at(bytes, 8) == VERSION && u32_at(bytes, 60) == crc32c::crc32c(&bytes[..60]);
        right.then(|| Self { index_at: u64_at(bytes, 16), entries: u64_at(bytes, 24), index_crc32c: u32_at(bytes, 32) })
    }
}

/// The index of a segment.
pub(super) fn index(entries: &[(u64, u32)]) -> Vec<u8> {
    entries.iter().flat_map(|(hash, at)| hash.to_le_bytes().into_iter().chain(at.to_le_bytes())).collect()
}

/// The entries of an index.
pub(super) fn entries(index: &[u8]) -> impl Iterator<Item = (u64, u32)> {
    index.chunks_exact(ENTRY).map(|entry| (u64_at(entry, 0), u32_at(entry, 8)))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..].first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: CacheKey<'_> = CacheKey { bucket: "data", name: "p/ant/é.bin", generation: 1_234_567_890_123 };

    /// Files in caches have these bytes: whoever changes them raises the version.
    #[test]
    fn golden_record_and_head() {
        let mut record = Vec::new();
        KEY.record(b"meow", crc32c::crc32c(b"meow"), &mut record);
        assert_eq!(hex(&record), GOLDEN_RECORD);
        assert_eq!(format!("{:016x}", KEY.hash()), GOLDEN_HASH);
        let index = index(&[(KEY.hash(), 8)]);
        assert_eq!(entries(&index).collect::<Vec<_>>(), [(KEY.hash(), 8)]);
        let head = SegmentHead { index_at: 64 + record.len() as u64, entries: 1, index_crc32c: crc32c::crc32c(&index) };
        assert_eq!(hex(&head.encode()), GOLDEN_HEAD);
        assert_eq!(SegmentHead::decode(&head.encode()), Some(head));
    }

    const GOLDEN_RECORD: &str = concat!(
        "4446723104000c00cb04fb711f01000004000000b2aacebb0000000046b87ff0",
        "64617461702f616e742fc3a92e62696e6d656f7700000000"
    );
    const GOLDEN_HASH: &str = "f45a180017dfbd81";
    const GOLDEN_HEAD: &str = concat!(
        "894446430d0a1a0a0100000000000000780000000000000001000000000000002b93008600000000",
        "0000000000000000000000000000000000000000cf4ee8f6"
    );

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
    }

    proptest! {
        #[test]
        fn a_record_is_found_whole_or_short_and_never_where_a_bit_is_wrong(
            name in "[a-zé]{1,40}",
            generation: i64,
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            cut: prop::sample::Index,
            bit: prop::sample::Index,
        ) {
            let key = CacheKey { bucket: "bucket", name: &name, generation };
            let mut record = Vec::new();
            key.record(&bytes, crc32c::crc32c(&bytes), &mut record);
            let whole = record.len() as u64;
            prop_assert_eq!(whole, key.record_bytes(bytes.len() as u32));
            prop_assert_eq!(record_at(&record, whole), FoundRecord::Record { hash: key.hash(), bytes: whole });
            let cut = cut.index(record.len());
            prop_assert_eq!(record_at(&record[..cut], cut as u64), FoundRecord::Short);
            let bit = bit.index(8 * key.before());
            record[bit / 8] ^= 1 << (bit % 8);
            let found = matches!(record_at(&record, whole), FoundRecord::Record { .. });
            prop_assert!(!found);
        }

        #[test]
        fn a_head_with_a_wrong_bit_is_none(index_at: u64, bit in 0usize..512) {
            let mut bytes = SegmentHead { index_at, entries: 3, index_crc32c: 4 }.encode();
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(SegmentHead::decode(&bytes), None);
        }
    }
}
