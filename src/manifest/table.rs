//! Tables of chunks, in memory or in a mapped file, with random access to their objects.

use std::cell::RefCell;
use std::cmp::Ordering as NameOrder;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use memmap2::Mmap;

use super::Entry;
use super::chunk::{CHUNK, ChunkLayout, ChunkReader, ChunkWriter, WRITTEN_HERE};

/// A table of objects. All chunks but the last are full, so the chunk of an object follows from its index.
#[derive(Debug)]
pub(super) struct ChunkTable {
    /// Set after the chunk that holds the rows is stored.
    rows: AtomicU64,
    chunks: StoredChunks,
}

/// Chunks with their layouts, so that an object is found without reading its chunk's head.
#[derive(Debug)]
enum StoredChunks {
    /// Each chunk in an allocation of its own, so that the memory which segments free in small pieces is reused while a
    /// manifest is made.
    Owned(GrowingChunks),
    Mapped {
        layouts: Vec<ChunkLayout>,
        map: Mmap,
        /// Where each chunk ends in the file, after where the first begins.
        bounds: Vec<usize>,
    },
}

impl StoredChunks {
    fn get(&self, chunk: usize) -> Option<(&ChunkLayout, &[u8])> {
        match self {
            Self::Owned(grown) => grown.slot(chunk)?.get().map(|(layout, chunk)| (layout, &**chunk)),
            Self::Mapped { layouts, map, bounds } => {
                Some((layouts.get(chunk)?, map.get(*bounds.get(chunk)?..*bounds.get(chunk + 1)?)?))
            }
        }
    }
}

type ChunkSlot = OnceLock<(ChunkLayout, Box<[u8]>)>;

/// Number of buckets. Each has twice the slots of the one before, so 40 buckets have more slots than there can be
/// chunks.
const BUCKETS: usize = 40;

/// A list of chunks that only grows. No chunk is ever moved, so readers need no lock.
#[derive(Debug)]
struct GrowingChunks(Box<[OnceLock<Box<[ChunkSlot]>>]>);

impl GrowingChunks {
    /// The bucket of a chunk, and the slot in the bucket.
    fn bucket_and_slot(chunk: usize) -> (usize, usize) {
        let bucket = (chunk + 1).ilog2() as usize;
        (bucket, chunk + 1 - (1 << bucket))
    }

    fn slot(&self, chunk: usize) -> Option<&ChunkSlot> {
        let (bucket, slot) = Self::bucket_and_slot(chunk);
        self.0.get(bucket)?.get()?.get(slot)
    }

    /// Stores a chunk; `None` where the slot is taken.
    fn set(&self, chunk: usize, layout: ChunkLayout, bytes: Box<[u8]>) -> Option<()> {
        let (bucket, slot) = Self::bucket_and_slot(chunk);
        let slots = self.0.get(bucket)?.get_or_init(|| (0..1_usize << bucket).map(|_| ChunkSlot::new()).collect());
        slots.get(slot)?.set((layout, bytes)).ok()
    }
}

thread_local! {
    /// A buffer in which names are decoded before they are allocated at their length.
    static NAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl ChunkTable {
    /// A table without rows, to which chunks can be added.
    pub(super) fn empty() -> Self {
        Self {
            rows: AtomicU64::new(0),
            chunks: StoredChunks::Owned(GrowingChunks((0..BUCKETS).map(|_| OnceLock::new()).collect())),
        }
    }

    /// A table of these chunks; `None` where a chunk is invalid, or there aren't as many rows.
    pub(super) fn owned(rows: u64, chunks: Vec<Box<[u8]>>) -> Option<Self> {
        let table = Self::empty();
        chunks.into_iter().try_for_each(|chunk| table.push(chunk))?;
        (table.rows() == rows).then_some(table)
    }

    /// As [`owned`](Self::owned), of chunks in a map. `bounds` are within the map and sorted.
    pub(super) fn mapped(rows: u64, map: Mmap, bounds: Vec<usize>) -> Option<Self> {
        let chunks = bounds.windows(2).map(|bounds| ChunkLayout::of(map.get(bounds[0]..bounds[1])?));
        let layouts = chunks.collect::<Option<Vec<_>>>()?;
        let counted = layouts.iter().map(|layout| layout.rows() as u64).sum::<u64>();
        let full = layouts.iter().rev().skip(1).all(|layout| layout.rows() == CHUNK);
        let chunks = StoredChunks::Mapped { layouts, map, bounds };
        (full && counted == rows).then_some(Self { rows: AtomicU64::new(rows), chunks })
    }

    /// Adds a chunk; `None` where it is invalid, or the one before it isn't full. Only one thread may do so at a time.
    pub(super) fn push(&self, chunk: Box<[u8]>) -> Option<()> {
        let StoredChunks::Owned(grown) = &self.chunks else { return None };
        let rows = self.rows();
        let number = usize::try_from(rows).ok().filter(|rows| rows.is_multiple_of(CHUNK))? / CHUNK;
        let layout = ChunkLayout::of(&chunk)?;
        grown.set(number, layout, chunk)?;
        self.rows.store(rows + layout.rows() as u64, Ordering::Release);
        Some(())
    }

    /// Number of rows so far.
    pub(super) fn rows(&self) -> u64 {
        self.rows.load(Ordering::Acquire)
    }

    /// All chunks, in order.
    pub(super) fn chunks(&self) -> impl Iterator<Item = &[u8]> {
        (0..).map_while(|chunk| self.chunks.get(chunk).map(|(_, bytes)| bytes))
    }

    /// Bytes that the table takes.
    pub(super) fn bytes(&self) -> u64 {
        let per_chunk = size_of::<ChunkLayout>() + size_of::<Box<[u8]>>();
        self.chunks().map(|chunk| (chunk.len() + per_chunk) as u64).sum()
    }

    /// Whether the first and the last name of each chunk are in UTF-8, begin with `prefix`, and come after the chunk
    /// before. The names between them aren't checked.
    pub(super) fn is_in_order(&self, prefix: &[u8]) -> bool {
        let (mut last, mut name) = (Vec::new(), Vec::new());
        let mut first_of_all = true;
        for (layout, chunk) in (0..).map_while(|chunk| self.chunks.get(chunk)) {
            let ends = [0, layout.rows() - 1];
            for &row in &ends[usize::from(layout.rows() == 1)..] {
                name.clear();
                let read = layout.name(chunk, row, &mut name);
                let comes_after = first_of_all || last < name;
                if read.is_none() || !comes_after || !name.starts_with(prefix) || std::str::from_utf8(&name).is_err() {
                    return false;
                }
                first_of_all = false;
                std::mem::swap(&mut last, &mut name);
            }
        }
        true
    }

    fn find(&self, index: u64) -> Option<(&ChunkLayout, &[u8], usize)> {
        let index = usize::try_from(index).ok().filter(|_| index < self.rows())?;
        let (layout, chunk) = self.chunks.get(index / CHUNK)?;
        Some((layout, chunk, index % CHUNK))
    }

    pub(super) fn record(&self, index: u64) -> Option<Entry<()>> {
        let (layout, chunk, row) = self.find(index)?;
        layout.record(chunk, row)
    }

    /// Compares the name at an index with `other`; `None` where there is no valid name.
    pub(super) fn compare_name(&self, index: u64, other: &[u8]) -> Option<NameOrder> {
        let (layout, chunk, row) = self.find(index)?;
        NAME.with_borrow_mut(|name| {
            layout.name(chunk, row, name)?;
            Some(name.as_slice().cmp(other))
        })
    }

    pub(super) fn entry(&self, index: u64) -> Option<Entry> {
        let (layout, chunk, row) = self.find(index)?;
        let record = layout.record(chunk, row)?;
        NAME.with_borrow_mut(|name| {
            layout.name(chunk, row, name)?;
            Some(record.named(Arc::from(std::str::from_utf8(name).ok()?)))
        })
    }
}

/// Reads a table in order, from any index on.
#[derive(Debug)]
pub(super) struct TableCursor<'a> {
    table: &'a ChunkTable,
    /// Index of the next object.
    index: u64,
    chunk: &'a [u8],
    reader: Option<ChunkReader>,
}

impl<'a> TableCursor<'a> {
    pub(super) fn new(table: &'a ChunkTable) -> Self {
        Self { table, index: 0, chunk: &[], reader: None }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.index >= self.table.rows()
    }

    /// Index of the next object.
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    /// Makes the object at `index` the next one.
    pub(super) fn seek(&mut self, index: u64) {
        self.index = index;
        self.reader = None;
    }

    /// The next object; `None` at the end, and where the bytes are invalid.
    pub(super) fn next(&mut self) -> Option<Entry<&str>> {
        if self.reader.as_ref().is_none_or(ChunkReader::is_at_end) {
            let (layout, chunk, row) = self.table.find(self.index)?;
            let name = self.reader.as_mut().map(ChunkReader::take_buffer).unwrap_or_default();
            self.chunk = chunk;
            self.reader = Some(ChunkReader::new(*layout, chunk, row, name)?);
        }
        let reader = self.reader.as_mut()?;
        let record = reader.next(self.chunk)?;
        let name = std::str::from_utf8(reader.name()).ok()?;
        self.index += 1;
        Some(record.named(name))
    }
}

/// The index of a label whose folder is none of the classes, so that its samples have no label.
pub(super) const NO_CLASS: u32 = u32::MAX;

/// The last index where labels aren't those of folders, so that they are known only from the records. No record refers
/// to it.
const GIVEN: u32 = u32::MAX - 1;

/// The texts of a manifest's labels: in byte order of names, or a list of classes. Records refer to labels by number; see
/// [`index_of`](Self::index_of).
#[derive(Debug)]
pub(super) struct LabelTexts {
    names: ChunkTable,
    /// Records number labels in the order of the listing. These are the indexes in `names` by that number; empty where
    /// both are the same. At least one is [`NO_CLASS`] if the names are a list of classes, and none if they are the
    /// labels that occur. The last one is [`GIVEN`] if the labels aren't those of folders.
    indexes: Vec<u32>,
    decoded: OnceLock<Vec<String>>,
}

impl LabelTexts {
    /// The labels of a file; `None` where they are invalid. All names are read once, so that no error can occur later:
    /// `names` is in memory that only this process can write to.
    pub(super) fn new(names: ChunkTable, indexes: Vec<u32>) -> Option<Self> {
        let mut cursor = TableCursor::new(&names);
        while !cursor.is_at_end() {
            cursor.next()?;
        }
        let of_records = indexes.strip_suffix(&[GIVEN]).unwrap_or(&indexes);
        let is_valid = of_records.iter().all(|&index| index == NO_CLASS || u64::from(index) < names.rows());
        is_valid.then(|| Self { names, indexes, decoded: OnceLock::new() })
    }

    /// A list of classes, whose order the records' numbers follow.
    pub(super) fn of_classes(classes: &[String]) -> Self {
        let indexes = (0..classes.len() as u32).chain([NO_CLASS]).collect();
        Self { names: name_table(classes.iter().map(String::as_bytes)), indexes, decoded: OnceLock::new() }
    }

    /// Labels that aren't those of folders, numbered by records in this order.
    pub(super) fn given(labels: &[Box<str>]) -> Self {
        let mut order: Vec<u32> = (0..labels.len() as u32).collect();
        order.sort_unstable_by_key(|&number| &labels[number as usize]);
        let mut indexes = vec![GIVEN; labels.len() + 1];
        for (index, &number) in (0..).zip(&order) {
            indexes[number as usize] = index;
        }
        let names = name_table(order.iter().map(|&number| labels[number as usize].as_bytes()));
        Self { names, indexes, decoded: OnceLock::new() }
    }

    /// Whether the labels aren't those of folders.
    pub(super) fn are_given(&self) -> bool {
        self.indexes.last() == Some(&GIVEN)
    }

    /// Whether the names are a list of classes, which doesn't change when folders are left out. The digest doesn't show
    /// this where the list is just that of the folders.
    pub(super) fn is_class_list(&self) -> bool {
        self.indexes.contains(&NO_CLASS)
    }

    /// These labels for the same records by a list of classes. `class_of` returns the number of a label's class, if the
    /// label is in the list.
    pub(super) fn renumbered(&self, classes: &[String], class_of: impl Fn(&str) -> Option<u32>) -> Self {
        let labels = self.all();
        let numbers = if self.indexes.is_empty() { labels.len() } else { self.indexes.len() };
        let renumber = |number: usize| {
            let label = self.index_of(number as u32).and_then(|index| labels.get(index as usize));
            label.and_then(|label| class_of(label)).unwrap_or(NO_CLASS)
        };
        let mut indexes: Vec<_> = (0..numbers).map(renumber).collect();
        if !indexes.contains(&NO_CLASS) {
            indexes.push(NO_CLASS);
        }
        if self.are_given() {
            indexes.push(GIVEN);
        }
        Self { indexes, ..Self::of_classes(classes) }
    }

    pub(super) fn names(&self) -> &ChunkTable {
        &self.names
    }

    pub(super) fn indexes(&self) -> &[u32] {
        &self.indexes
    }

    /// The index in [`all`](Self::all) of the label that records refer to by `number`, or [`NO_CLASS`]; `None` where
    /// there is no such label.
    pub(super) fn index_of(&self, number: u32) -> Option<u32> {
        if self.indexes.is_empty() {
            return Some(number).filter(|&number| u64::from(number) < self.names.rows());
        }
        self.indexes.get(number as usize).copied().filter(|&index| index != GIVEN)
    }

    /// All labels, in order.
    pub(super) fn all(&self) -> &[String] {
        self.decoded.get_or_init(|| {
            let mut labels = Vec::with_capacity(self.names.rows() as usize);
            let mut cursor = TableCursor::new(&self.names);
            while let Some(label) = cursor.next() {
                labels.push(label.name.to_owned());
            }
            labels
        })
    }
}

/// Collects folders in the order of the listing.
#[derive(Debug, Default)]
pub(super) struct LabelsWriter {
    names: Vec<u8>,
    ends: Vec<usize>,
}

impl LabelsWriter {
    /// Whether the next folder is not before the last one in byte order.
    pub(super) fn is_in_order(&self, folder: &[u8]) -> bool {
        self.ends.len().checked_sub(1).is_none_or(|last| self.get(last) <= folder)
    }

    fn get(&self, number: usize) -> &[u8] {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.names[start..self.ends[number]]
    }

    /// The number of a folder. Objects of a folder are neighbours, so this is nearly always the last folder. A folder
    /// that comes again later gets another number.
    pub(super) fn number(&mut self, folder: &[u8]) -> usize {
        match self.ends.len().checked_sub(1) {
            Some(last) if self.get(last) == folder => last,
            _ => {
                self.names.extend_from_slice(folder);
                self.ends.push(self.names.len());
                self.ends.len() - 1
            }
        }
    }

    /// The labels in byte order, each once. This is nearly the order of the listing, except for doubled slashes, and
    /// for a folder whose name continues that of another with a character below `/`.
    pub(super) fn finish(self) -> LabelTexts {
        let mut order: Vec<u32> = (0..self.ends.len() as u32).collect();
        let is_sorted = (1..self.ends.len()).all(|number| self.get(number - 1) < self.get(number));
        let mut indexes = Vec::new();
        if !is_sorted {
            order.sort_by_key(|&number| self.get(number as usize));
            indexes.resize(order.len(), 0);
            let mut index = 0;
            for at in 0..order.len() {
                let differs = at > 0 && self.get(order[at - 1] as usize) != self.get(order[at] as usize);
                index += u32::from(differs);
                indexes[order[at] as usize] = index;
            }
            order.dedup_by_key(|number| self.get(*number as usize));
        }
        let names = name_table(order.iter().map(|&number| self.get(number as usize)));
        LabelTexts { names, indexes, decoded: OnceLock::new() }
    }
}

/// A table of names without other properties.
fn name_table<'a>(names: impl Iterator<Item = &'a [u8]>) -> ChunkTable {
    let mut writer = ChunkWriter::default();
    let mut chunks = Vec::new();
    let mut count = 0;
    for name in names {
        if writer.is_full() {
            chunks.extend(writer.flush());
        }
        let (_, shared) = writer.compare(name);
        writer.push(name, shared, Entry::default());
        count += 1;
    }
    chunks.extend(writer.flush());
    ChunkTable::owned(count, chunks).expect(WRITTEN_HERE)
}
