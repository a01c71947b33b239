//! The encoding of objects: chunks of records that have one width throughout a chunk, and of names from which the
//! prefix that they share with the name before is removed.
//!
//! All numbers are little-endian. A chunk is
//!
//! | at | bytes | what |
//! |---|---|---|
//! | 0 | 8 | smallest size |
//! | 8 | 8 | smallest version, 2^63 added; a version is a generation, 0 for none, or -1 for an entity tag, whose text isn't kept |
//! | 16 | 4 | smallest label; 0 is none, and label `n` is `n + 1` |
//! | 20 | 2 | records, 1 to 4,096 |
//! | 22 | 1 | width of a size in bytes, 0 to 8; a size is kept as its difference from the smallest |
//! | 23 | 1 | width of a version, 0 to 8, likewise |
//! | 24 | 1 | width of a CRC32C: 0 where no object has one, 4 where all have one, 5 where a further byte says which have one (1 or 0) |
//! | 25 | 1 | width of a kind: 0 where all objects have the same kind, else 1 |
//! | 26 | 1 | the kind of all objects, if it is the same: the number of the [`StorageClass`] in the lower four bits, that of the [`ContentEncoding`] in the upper four |
//! | 27 | 1 | width of a label, 0 to 4; a label is kept as its difference from the smallest |
//! | 28 | 1 | width of an offset, 0 to 8 |
//! | 29 | 1 | length of the tail |
//! | 30 | | the tail: what all names of the chunk end with, at most 255 bytes; it is removed from the names below |
//! | | | the records: size, version, CRC, kind, label |
//! | | | for each block of 16 names, the offset of the first, from the beginning of the names |
//! | | | the names; the first of a block as its length and its bytes, each other as the length that it shares with the name before, the length of the rest, and the rest; lengths in LEB128 |

use std::cmp::Ordering;

use super::Entry;
use crate::store::{ContentEncoding, StorageClass, Version};

/// Records in a chunk. More would save nearly nothing, since the head of a chunk takes 0.04 bytes for each object.
pub(super) const CHUNK: usize = 4_096;

/// Why a chunk that doesn't come from a file is valid.
pub(super) const WRITTEN_HERE: &str = "this process has written the chunk, and nothing else can write into it";

/// Names in a block. To find a random name, 7.5 names before it are read on average; the first name of a block, which
/// is whole, costs 2 bytes for each name.
const BLOCK: usize = 16;

/// Bytes before the tail.
const HEAD: usize = 30;

/// Properties in which few objects differ, in one byte.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ObjectKind {
    class: StorageClass,
    encoding: ContentEncoding,
}

impl ObjectKind {
    fn of<N>(entry: &Entry<N>) -> Self {
        Self { class: entry.storage_class, encoding: entry.encoding }
    }

    fn to_byte(self) -> u8 {
        self.class as u8 | (self.encoding as u8) << 4
    }

    fn of_byte(byte: u8) -> Option<Self> {
        let class = *StorageClass::ALL.get(usize::from(byte & 15))?;
        Some(Self { class, encoding: *ContentEncoding::ALL.get(usize::from(byte >> 4))? })
    }
}

/// Numbers that are kept as their difference from the smallest.
#[derive(Clone, Copy, Debug)]
struct PackedColumn {
    base: u64,
    width: usize,
}

impl PackedColumn {
    fn of(values: impl Iterator<Item = u64>) -> Self {
        let (least, most) = values.fold((u64::MAX, 0), |(least, most), value| (least.min(value), most.max(value)));
        Self { base: least, width: width(most.saturating_sub(least)) }
    }

    /// Reads the value at `at`, and moves `at` behind it.
    fn read(self, bytes: &[u8], at: &mut usize) -> Option<u64> {
        let value = number(bytes, *at, self.width)?;
        *at += self.width;
        // Wraps only in a forged file.
        Some(self.base.wrapping_add(value))
    }
}

/// Number of bytes that a number takes.
fn width(number: u64) -> usize {
    (u64::BITS - number.leading_zeros()).div_ceil(8) as usize
}

/// Reads a number of `width` bytes, at most 8, at `at`.
fn number(bytes: &[u8], at: usize, width: usize) -> Option<u64> {
    if let Some(word) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        // Keeps the first `width` bytes of a word. A shift by 64 bits would overflow.
        return Some(if width == 0 { 0 } else { u64::from_le_bytes(*word) << (64 - 8 * width) >> (64 - 8 * width) });
    }
    let mut word = [0; 8];
    word.get_mut(..width)?.copy_from_slice(bytes.get(at..at.checked_add(width)?)?);
    Some(u64::from_le_bytes(word))
}

/// The bit that maps versions to unsigned numbers of the same order.
const SIGN: u64 = 1 << 63;

/// A version as its column holds it.
fn version_to_bits(version: Version<()>) -> u64 {
    let number = if version == Version::Etag(()) { -1 } else { version.generation().unwrap_or(0) };
    number as u64 ^ SIGN
}

fn version_of_bits(bits: u64) -> Version<()> {
    let number = (bits ^ SIGN) as i64;
    match number {
        -1 => Version::Etag(()),
        0 => Version::None,
        number => Version::Generation(number),
    }
}

/// The head of a chunk, and where its parts are.
#[derive(Clone, Copy, Debug)]
pub(super) struct ChunkLayout {
    rows: usize,
    size: PackedColumn,
    version: PackedColumn,
    label: PackedColumn,
    crc: usize,
    /// The kind of all objects, where it is the same.
    kind: Option<ObjectKind>,
    /// Bytes of a record.
    stride: usize,
    /// Bytes of an offset.
    offset: usize,
    /// Where the records begin, the offsets of blocks, and the names.
    records: usize,
    blocks: usize,
    names: usize,
}

impl ChunkLayout {
    /// Reads the head of a chunk; `None` where it is invalid.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<HEAD>()?;
        let column = |base, width: u8, most| {
            let width = usize::from(width);
            (width <= most).then_some(PackedColumn { base, width })
        };
        let size = column(number(head, 0, 8)?, head[22], 8)?;
        let version = column(number(head, 8, 8)?, head[23], 8)?;
        let label = column(number(head, 16, 4)?, head[27], 4)?;
        let rows = number(head, 20, 2)? as usize;
        let crc = usize::from(head[24]);
        let kind = match head[25] {
            0 => Some(ObjectKind::of_byte(head[26])?),
            1 => None,
            _ => return None,
        };
        let offset = usize::from(head[28]);
        if !(1..=CHUNK).contains(&rows) || !matches!(crc, 0 | 4 | 5) || offset > 8 {
            return None;
        }
        let stride = size.width + version.width + crc + usize::from(kind.is_none()) + label.width;
        let records = HEAD + usize::from(head[29]);
        let blocks = records + rows * stride;
        let names = blocks + rows.div_ceil(BLOCK) * offset;
        (names <= bytes.len()).then_some(Self {
            rows,
            size,
            version,
            label,
            crc,
            kind,
            stride,
            offset,
            records,
            blocks,
            names,
        })
    }

    /// Records in the chunk.
    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// An object without its name.
    pub(super) fn record(&self, bytes: &[u8], row: usize) -> Option<Entry<()>> {
        if row >= self.rows {
            return None;
        }
        let mut at = self.records + row * self.stride;
        let size = self.size.read(bytes, &mut at)?;
        let version = version_of_bits(self.version.read(bytes, &mut at)?);
        let crc32c = match self.crc {
            0 => None,
            4 => Some(number(bytes, at, 4)? as u32),
            _ => match bytes.get(at + 4)? {
                0 => None,
                1 => Some(number(bytes, at, 4)? as u32),
                _ => return None,
            },
        };
        at += self.crc;
        let ObjectKind { class, encoding } = if let Some(kind) = self.kind {
            kind
        } else {
            at += 1;
            ObjectKind::of_byte(*bytes.get(at - 1)?)?
        };
        let label = u32::try_from(self.label.read(bytes, &mut at)?).ok()?.checked_sub(1);
        Some(Entry { name: (), size, version, crc32c, storage_class: class, encoding, label })
    }

    fn tail<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        bytes.get(HEAD..self.records)
    }

    /// Where the names of a block begin.
    fn block(&self, bytes: &[u8], block: usize) -> Option<usize> {
        let offset = number(bytes, self.blocks + block * self.offset, self.offset)?;
        self.names.checked_add(usize::try_from(offset).ok()?)
    }

    /// Replaces `stem`, which is the name before without the tail, by the name at `row`, which is encoded at `at`.
    fn step(bytes: &[u8], row: usize, at: &mut usize, stem: &mut Vec<u8>) -> Option<()> {
        let shared = if row.is_multiple_of(BLOCK) { 0 } else { length(bytes, at)? };
        if shared > stem.len() {
            return None;
        }
        let rest = length(bytes, at)?;
        let end = at.checked_add(rest)?;
        stem.truncate(shared);
        stem.extend_from_slice(bytes.get(*at..end)?);
        *at = end;
        Some(())
    }

    /// Writes the name at `row` into `name`.
    pub(super) fn name(&self, bytes: &[u8], row: usize, name: &mut Vec<u8>) -> Option<()> {
        if row >= self.rows {
            return None;
        }
        let mut at = self.block(bytes, row / BLOCK)?;
        for row in row - row % BLOCK..=row {
            Self::step(bytes, row, &mut at, name)?;
        }
        name.extend_from_slice(self.tail(bytes)?);
        Some(())
    }
}

/// Reads a length in LEB128, of at most 32 bits.
fn length(bytes: &[u8], at: &mut usize) -> Option<usize> {
    let mut value = 0;
    for shift in (0..35).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            return usize::try_from(value).ok();
        }
    }
    None
}

fn push_length(bytes: &mut Vec<u8>, mut length: usize) {
    while length >= 0x80 {
        bytes.push(length as u8 | 0x80);
        length >>= 7;
    }
    bytes.push(length as u8);
}

/// Reads the objects of a chunk in order. The caller holds the chunk's bytes and passes them to each call.
#[derive(Debug)]
pub(super) struct ChunkReader {
    layout: ChunkLayout,
    /// The next row.
    row: usize,
    at: usize,
    name: Vec<u8>,
    /// Length of the name without the tail.
    stem: usize,
}

impl ChunkReader {
    /// A reader of the chunk's objects from `row` on. `name` is a buffer to reuse.
    pub(super) fn new(layout: ChunkLayout, bytes: &[u8], row: usize, name: Vec<u8>) -> Option<Self> {
        if row >= layout.rows {
            return None;
        }
        let mut reader = Self { layout, row: row - row % BLOCK, at: layout.block(bytes, row / BLOCK)?, name, stem: 0 };
        reader.name.clear();
        while reader.row < row {
            reader.step(bytes)?;
        }
        Some(reader)
    }

    fn step(&mut self, bytes: &[u8]) -> Option<()> {
        self.name.truncate(self.stem);
        ChunkLayout::step(bytes, self.row, &mut self.at, &mut self.name)?;
        self.stem = self.name.len();
        self.name.extend_from_slice(self.layout.tail(bytes)?);
        self.row += 1;
        Some(())
    }

    /// Whether all objects were read.
    pub(super) fn is_at_end(&self) -> bool {
        self.row >= self.layout.rows
    }

    /// The next object; `None` at the end, and where the bytes are invalid.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Option<Entry<()>> {
        let record = self.layout.record(bytes, self.row)?;
        self.step(bytes)?;
        Some(record)
    }

    /// The name of the object that [`next`](Self::next) returned last.
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// The buffer, for the next reader.
    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.name)
    }
}

/// Collects objects and encodes them as chunks.
#[derive(Debug, Default)]
pub(super) struct ChunkWriter {
    /// The last name before the chunk, then the names of the chunk.
    names: Vec<u8>,
    /// Where the name before the chunk ends.
    start: usize,
    rows: Vec<ObjectRow>,
    records: Vec<Entry<()>>,
    /// Length of the tail that all names have so far.
    tail: usize,
    /// Buffers, reused for each chunk.
    coded: Vec<u8>,
    chunk: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct ObjectRow {
    /// Where the name ends.
    end: usize,
    /// Bytes that the name shares with the one before.
    shared: usize,
}

impl ChunkWriter {
    /// Whether a chunk is full, and must be flushed before the next object.
    pub(super) fn is_full(&self) -> bool {
        self.records.len() == CHUNK
    }

    fn last(&self) -> &[u8] {
        let before_last = self.rows.len().checked_sub(2).map_or(self.start, |row| self.rows[row].end);
        &self.names[if self.rows.is_empty() { 0 } else { before_last }..]
    }

    /// Compares the last name to `name`. Also returns how many bytes they share at their beginning.
    pub(super) fn compare(&self, name: &[u8]) -> (Ordering, usize) {
        let last = self.last();
        let shared = shared(last, name);
        (last.get(shared).cmp(&name.get(shared)), shared)
    }

    /// Adds an object whose name shares `shared` bytes with the last one.
    pub(super) fn push(&mut self, name: &[u8], shared: usize, record: Entry<()>) {
        let tail = &self.names[self.names.len() - self.tail..];
        if self.records.is_empty() {
            self.tail = name.len().min(usize::from(u8::MAX));
        } else if !name.ends_with(tail) {
            self.tail = tail.iter().rev().zip(name.iter().rev()).take_while(|(a, b)| a == b).count();
        }
        self.names.extend_from_slice(name);
        self.rows.push(ObjectRow { end: self.names.len(), shared });
        self.records.push(record);
    }

    /// Whether nothing was pushed since the last flush.
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// The objects since the last flush.
    pub(super) fn objects(&mut self) -> impl Iterator<Item = (&[u8], &mut Entry<()>)> {
        let starts = std::iter::once(self.start).chain(self.rows.iter().map(|row| row.end));
        let names = starts.zip(&self.rows).map(|(start, row)| &self.names[start..row.end]);
        names.zip(&mut self.records)
    }

    /// A chunk of the objects since the last flush, if there are any.
    pub(super) fn flush(&mut self) -> Option<Box<[u8]>> {
        let records = &self.records[..];
        let first = records.first()?;
        let size = PackedColumn::of(records.iter().map(|record| record.size));
        let version = PackedColumn::of(records.iter().map(|record| version_to_bits(record.version)));
        let number_of = |label: Option<u32>| label.map_or(0, |label| u64::from(label) + 1);
        let label = PackedColumn::of(records.iter().map(|record| number_of(record.label)));
        let crc = match records.iter().filter(|record| record.crc32c.is_some()).count() {
            0 => 0,
            some if some == records.len() => 4,
            _ => 5,
        };
        let kind = usize::from(records.iter().any(|record| ObjectKind::of(record) != ObjectKind::of(first)));
        let stride = size.width + version.width + crc + kind + label.width;

        self.coded.clear();
        let mut offsets = [0; CHUNK / BLOCK];
        let (mut start, mut before) = (self.start, 0);
        for (index, row) in self.rows.iter().enumerate() {
            let stem = &self.names[start..row.end - self.tail];
            start = row.end;
            let shared = if index.is_multiple_of(BLOCK) {
                offsets[index / BLOCK] = self.coded.len() as u64;
                0
            } else {
                let shared = row.shared.min(before).min(stem.len());
                push_length(&mut self.coded, shared);
                shared
            };
            before = stem.len();
            push_length(&mut self.coded, stem.len() - shared);
            self.coded.extend_from_slice(&stem[shared..]);
        }
        let offsets = &offsets[..records.len().div_ceil(BLOCK)];
        let offset = width(offsets.last().copied().unwrap_or(0));

        let chunk = &mut self.chunk;
        chunk.clear();
        chunk.extend_from_slice(&size.base.to_le_bytes());
        chunk.extend_from_slice(&version.base.to_le_bytes());
        chunk.extend_from_slice(&label.base.to_le_bytes()[..4]);
        chunk.extend_from_slice(&(records.len() as u16).to_le_bytes());
        let widths = [size.width, version.width, crc, kind];
        chunk.extend(widths.map(|width| width as u8));
        chunk.push(if kind == 0 { ObjectKind::of(first).to_byte() } else { 0 });
        chunk.extend([label.width, offset, self.tail].map(|width| width as u8));
        chunk.extend_from_slice(&self.names[self.names.len() - self.tail..]);

        // Writes whole words, each over the surplus of the one before, since a copy of a constant length is a single
        // instruction.
        let mut at = chunk.len();
        let end = at + stride * records.len() + offset * offsets.len();
        chunk.resize(end + 8, 0);
        let mut put = |value: u64, width: usize| {
            chunk[at..at + 8].copy_from_slice(&value.to_le_bytes());
            at += width;
        };
        for record in records {
            put(record.size - size.base, size.width);
            put(version_to_bits(record.version) - version.base, version.width);
            put(u64::from(record.crc32c.unwrap_or(0)) | u64::from(record.crc32c.is_some()) << 32, crc);
            put(u64::from(ObjectKind::of(record).to_byte()), kind);
            put(number_of(record.label) - label.base, label.width);
        }
        for &value in offsets {
            put(value, offset);
        }
        chunk.truncate(end);
        chunk.extend_from_slice(&self.coded);
        let chunk = Box::from(&chunk[..]);
        let last = self.names.len() - self.last().len();
        self.names.drain(..last);
        self.start = self.names.len();
        self.rows.clear();
        self.records.clear();
        self.tail = 0;
        Some(chunk)
    }
}

/// How many bytes two names share at their beginning.
fn shared(a: &[u8], b: &[u8]) -> usize {
    let mut same = 0;
    for (a, b) in a.as_chunks::<8>().0.iter().zip(b.as_chunks::<8>().0) {
        let differ = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differ != 0 {
            return same + differ.trailing_zeros() as usize / 8;
        }
        same += 8;
    }
    same + a[same..].iter().zip(&b[same..]).take_while(|(a, b)| a == b).count()
}
