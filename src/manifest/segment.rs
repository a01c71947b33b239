//! Packed objects of a listing on their way into a manifest.

use std::cmp::Ordering;

use super::Entry;
use super::chunk::{ChunkLayout, ChunkReader, ChunkWriter, WRITTEN_HERE};
use crate::list::Reason;
use crate::os;
use crate::store::{ObjectRef, Objects};

/// Some objects of a listing, for example a page, packed as tightly as in a [`Manifest`](super::Manifest).
///
/// Segments can be made on any thread, and leave little work to
/// [`ManifestBuilder::finish`](super::ManifestBuilder::finish).
#[derive(Debug, Default)]
pub struct Segment {
    chunks: Vec<Box<[u8]>>,
    objects: u64,
    pub(super) first: Box<[u8]>,
    pub(super) last: Box<[u8]>,
}

/// An object, and why it isn't wanted, if so.
pub(super) struct JudgedObject<'a> {
    pub(super) object: ObjectRef<'a>,
    pub(super) against: Option<Reason>,
}

impl Segment {
    /// Packs objects, which must be in byte order of their names.
    pub fn new<'a>(objects: impl IntoIterator<Item = ObjectRef<'a>>) -> Self {
        Self::from_judged(objects.into_iter().map(|object| JudgedObject { object, against: None }))
    }

    /// Packs objects of which some aren't wanted. These are kept until it is known whether they are the newest of their
    /// name.
    pub(super) fn from_judged<'a>(objects: impl Iterator<Item = JudgedObject<'a>>) -> Self {
        let mut writer = ChunkWriter::default();
        let mut segment = Self::default();
        let mut last = "";
        for JudgedObject { object, against } in objects {
            last = object.name;
            if segment.objects == 0 {
                segment.first = last.as_bytes().into();
            }
            segment.objects += 1;
            let record = Entry {
                name: (),
                size: object.size,
                version: object.version.map(|_| ()),
                crc32c: object.crc32c,
                storage_class: object.storage_class,
                encoding: object.encoding,
                // Labels are given when all objects are in order; until then the field is free.
                label: against.map(|reason| reason as u32),
            };
            if writer.is_full() {
                segment.chunks.extend(writer.flush());
            }
            let (_, shared) = writer.compare(last.as_bytes());
            writer.push(last.as_bytes(), shared, record);
        }
        segment.chunks.extend(writer.flush());
        segment.last = last.as_bytes().into();
        segment
    }

    /// Number of objects.
    pub fn len(&self) -> u64 {
        self.objects
    }

    /// Whether there are no objects.
    pub fn is_empty(&self) -> bool {
        self.objects == 0
    }
}

/// The objects in byte order of names.
pub(super) fn sorted(objects: &Objects) -> impl Iterator<Item = ObjectRef<'_>> {
    let mut order: Vec<usize> = (0..objects.len()).collect();
    order.sort_by_key(|&index| objects.name(index));
    order.into_iter().filter_map(|index| objects.get(index))
}

/// A segment that is being read, positioned at an object.
pub(super) struct SegmentRun {
    chunks: std::vec::IntoIter<Box<[u8]>>,
    chunk: Box<[u8]>,
    reader: ChunkReader,
    pub(super) record: Entry<()>,
    pub(super) last: Box<[u8]>,
    /// Bytes of the whole segment.
    pub(super) bytes: usize,
}

impl SegmentRun {
    /// Goes to the first object. The segment must not be empty.
    pub(super) fn open(segment: Segment) -> Box<Self> {
        let bytes = segment.chunks.iter().map(|chunk| chunk.len()).sum();
        let mut chunks = segment.chunks.into_iter();
        let chunk = chunks.next().expect("empty segments aren't kept");
        let mut reader = Self::reader(&chunk, Vec::new());
        let record = reader.next(&chunk).expect(WRITTEN_HERE);
        Box::new(Self { chunks, chunk, reader, record, last: segment.last, bytes })
    }

    fn reader(chunk: &[u8], buffer: Vec<u8>) -> ChunkReader {
        ChunkLayout::of(chunk).and_then(|layout| ChunkReader::new(layout, chunk, 0, buffer)).expect(WRITTEN_HERE)
    }

    /// The name of the object.
    pub(super) fn name(&self) -> &[u8] {
        self.reader.name()
    }

    /// Goes to the next object. Returns false where there is none.
    pub(super) fn advance(&mut self) -> bool {
        if self.reader.is_at_end() {
            let Some(chunk) = self.chunks.next() else { return false };
            self.chunk = chunk;
            self.reader = Self::reader(&self.chunk, self.reader.take_buffer());
        }
        self.record = self.reader.next(&self.chunk).expect(WRITTEN_HERE);
        true
    }
}

impl Ord for SegmentRun {
    /// In a max-heap, the run with the smallest name comes first.
    fn cmp(&self, other: &Self) -> Ordering {
        other.reader.name().cmp(self.reader.name())
    }
}

impl PartialOrd for SegmentRun {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for SegmentRun {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for SegmentRun {}

/// Returns freed memory to the system from time to time, which the allocator may otherwise keep.
#[derive(Default)]
pub(super) struct FreedMemory {
    bytes: usize,
}

impl FreedMemory {
    /// Bytes that the allocator may keep. With less, it would be asked often for amounts that aren't worth it.
    const MAX_KEPT: usize = 32 << 20;

    /// Counts bytes that were freed.
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        if self.bytes > Self::MAX_KEPT {
            os::give_back_memory();
            self.bytes = 0;
        }
    }
}
