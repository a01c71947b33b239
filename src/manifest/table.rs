//! Chunks in a row, in memory of their own or in a mapped file, and the way to any object in them.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use memmap2::Mmap;

use super::Entry;
use super::chunk::{CHUNK, ChunkLayout, ChunkReader, ChunkWriter, WRITTEN_HERE};

/// All chunks but the last are full, so that an index tells its chunk.
#[derive(Debug)]
pub(super) struct ChunkTable {
    /// Told after the chunk that holds them is there.
    rows: AtomicU64,
    chunks: StoredChunks,
}

/// With the layout of each chunk, so that an object is found without a look at its chunk's head.
#[derive(Debug)]
enum StoredChunks {
    /// Each for itself: while a manifest is made, what is given back in small pieces is taken again in small pieces.
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

/// Buckets, each with twice the slots of the one before: more chunks than memory can hold.
const BUCKETS: usize = 40;

/// Chunks that are only ever added. None is moved for another, so that readers need no lock while it grows.
#[derive(Debug)]
struct GrowingChunks(Box<[OnceLock<Box<[ChunkSlot]>>]>);

impl GrowingChunks {
    /// Bucket and place in it.
    fn place(chunk: usize) -> (usize, usize) {
        let bucket = (chunk + 1).ilog2() as usize;
        (bucket, chunk + 1 - (1 << bucket))
    }

    fn slot(&self, chunk: usize) -> Option<&ChunkSlot> {
        let (bucket, place) = Self::place(chunk);
        self.0.get(bucket)?.get()?.get(place)
    }

    /// `None` where the slot is taken.
    fn set(&self, chunk: usize, layout: ChunkLayout, bytes: Box<[u8]>) -> Option<()> {
        let (bucket, place) = Self::place(chunk);
        let slots = self.0.get(bucket)?.get_or_init(|| (0..1_usize << bucket).map(|_| ChunkSlot::new()).collect());
        slots.get(place)?.set((layout, bytes)).ok()
    }
}

thread_local! {
    /// Where a name is put together before it is allocated at its length.
    static NAME: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl ChunkTable {
    /// A table without a row, to be added to.
    pub(super) fn empty() -> Self {
        Self {
            rows: AtomicU64::new(0),
            chunks: StoredChunks::Owned(GrowingChunks((0..BUCKETS).map(|_| OnceLock::new()).collect())),
        }
    }

    /// `None` where a chunk is none.
    pub(super) fn owned(rows: u64, chunks: Vec<Box<[u8]>>) -> Option<Self> {
        let table = Self::empty();
        chunks.into_iter().try_for_each(|chunk| table.push(chunk))?;
        (table.rows() == rows).then_some(table)
    }

    /// As [`owned`](Self::owned). `bounds` are within the map and don't descend.
    pub(super) fn mapped(rows: u64, map: Mmap, bounds: Vec<usize>) -> Option<Self> {
        let chunks = bounds.windows(2).map(|bounds| ChunkLayout::of(map.get(bounds[0]..bounds[1])?));
        let layouts = chunks.collect::<Option<Vec<_>>>()?;
        let counted = layouts.iter().map(|layout| layout.rows() as u64).sum::<u64>();
        let full = layouts.iter().rev().skip(1).all(|layout| layout.rows() == CHUNK);
        let chunks = StoredChunks::Mapped { layouts, map, bounds };
        (full && counted == rows).then_some(Self { rows: AtomicU64::new(rows), chunks })
    }

    /// Adds a chunk, one thread at a time; `None` where it is none, or the one before it isn't full.
    pub(super) fn push(&self, chunk: Box<[u8]>) -> Option<()> {
        let StoredChunks::Owned(grown) = &self.chunks else { return None };
        let rows = self.rows();
        let number = usize::try_from(rows).ok().filter(|rows| rows.is_multiple_of(CHUNK))? / CHUNK;
        let layout = ChunkLayout::of(&chunk)?;
        grown.set(number, layout, chunk)?;
        self.rows.store(rows + layout.rows() as u64, Ordering::Release);
        Some(())
    }

    /// Rows so far.
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

    /// Whether the first and the last name of each chunk are in UTF-8, begin with `prefix`, and come after the chunk before.
    /// What is between them is read by nobody yet.
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

    pub(super) fn entry(&self, index: u64) -> Option<Entry> {
        let (layout, chunk, row) = self.find(index)?;
        let record = layout.record(chunk, row)?;
        NAME.with_borrow_mut(|name| {
            layout.name(chunk, row, name)?;
            Some(record.named(Arc::from(std::str::from_utf8(name).ok()?)))
        })
    }
}

/// Goes through a table from one index on.
#[derive(Debug)]
pub(super) struct TableCursor<'a> {
    table: &'a ChunkTable,
    /// Of the object to come.
    index: u64,
    chunk: &'a [u8],
    reader: Option<ChunkReader>,
}

impl<'a> TableCursor<'a> {
    pub(super) fn new(table: &'a ChunkTable, index: u64) -> Self {
        Self { table, index, chunk: &[], reader: None }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.index >= self.table.rows()
    }

    /// Of the object to come.
    pub(super) fn index(&self) -> u64 {
        self.index
    }

    /// The next object; `None` at the end, and where the bytes are none.
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

/// In the place of a label's number: its folder is none of the classes, so its samples have no label.
pub(super) const NO_CLASS: u32 = u32::MAX;

/// The folders right below the prefix, in byte order or in that of a list of classes, and what the records of objects
/// say of them.
#[derive(Debug)]
pub(super) struct Labels {
    names: ChunkTable,
    /// Records number folders as the listing comes to them. Here is the place of each in the order of names, where that
    /// isn't the same. One [`NO_CLASS`] at least where the names are a list of classes, and none where they are the
    /// folders.
    places: Vec<u32>,
    decoded: OnceLock<Vec<String>>,
}

impl Labels {
    /// Labels of a file; `None` where they are none. Read once, so that nothing can be wrong with them later: `names`
    /// is of memory that only this process can write to.
    pub(super) fn new(names: ChunkTable, places: Vec<u32>) -> Option<Self> {
        let mut cursor = TableCursor::new(&names, 0);
        while !cursor.is_at_end() {
            cursor.next()?;
        }
        let there = places.iter().all(|&place| place == NO_CLASS || u64::from(place) < names.rows());
        there.then(|| Self { names, places, decoded: OnceLock::new() })
    }

    /// Classes that records number as the list does.
    pub(super) fn of_classes(classes: &[String]) -> Self {
        let places = (0..classes.len() as u32).chain([NO_CLASS]).collect();
        Self { names: in_chunks(classes.iter().map(String::as_bytes)), places, decoded: OnceLock::new() }
    }

    /// Whether the names are those of a list of classes, which stays when folders are left out. No digest says so where
    /// the list is just that of the folders.
    pub(super) fn are_a_list(&self) -> bool {
        self.places.contains(&NO_CLASS)
    }

    /// The same numbers in records, with the places that the folders have in a list of classes, where they are in it.
    pub(super) fn numbered(&self, classes: &[String], place: impl Fn(&str) -> Option<u32>) -> Self {
        let folders = self.all();
        let numbers = if self.places.is_empty() { folders.len() } else { self.places.len() };
        let numbered = |number: usize| {
            let folder = self.place(number as u32).and_then(|place| folders.get(place as usize));
            folder.and_then(|folder| place(folder)).unwrap_or(NO_CLASS)
        };
        let mut places: Vec<_> = (0..numbers).map(numbered).collect();
        if !places.contains(&NO_CLASS) {
            places.push(NO_CLASS);
        }
        Self { places, ..Self::of_classes(classes) }
    }

    pub(super) fn names(&self) -> &ChunkTable {
        &self.names
    }

    pub(super) fn places(&self) -> &[u32] {
        &self.places
    }

    /// The label's place in the order of names, or [`NO_CLASS`]; `None` where there is no such label.
    pub(super) fn place(&self, number: u32) -> Option<u32> {
        if self.places.is_empty() {
            return Some(number).filter(|&number| u64::from(number) < self.names.rows());
        }
        self.places.get(number as usize).copied()
    }

    pub(super) fn all(&self) -> &[String] {
        self.decoded.get_or_init(|| {
            let mut labels = Vec::with_capacity(self.names.rows() as usize);
            let mut cursor = TableCursor::new(&self.names, 0);
            while let Some(label) = cursor.next() {
                labels.push(label.name.to_owned());
            }
            labels
        })
    }
}

/// Gathers folders in the order of the listing.
#[derive(Debug, Default)]
pub(super) struct LabelsWriter {
    names: Vec<u8>,
    ends: Vec<usize>,
}

impl LabelsWriter {
    /// Whether a folder may come next without any of those before having to make way for it.
    pub(super) fn is_in_order(&self, folder: &[u8]) -> bool {
        self.ends.len().checked_sub(1).is_none_or(|last| self.get(last) <= folder)
    }

    fn get(&self, number: usize) -> &[u8] {
        let start = number.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.names[start..self.ends[number]]
    }

    /// The number of a folder. Objects of one stand together, so the last is nearly always the one.
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

    /// Labels in byte order, each once. The order of the listing is nearly that, but for a folder whose name goes on
    /// from another's with a character below `/`, and for doubled slashes.
    pub(super) fn finish(self) -> Labels {
        let mut order: Vec<u32> = (0..self.ends.len() as u32).collect();
        let sorted = (1..self.ends.len()).all(|number| self.get(number - 1) < self.get(number));
        let mut places = Vec::new();
        if !sorted {
            order.sort_by_key(|&number| self.get(number as usize));
            places.resize(order.len(), 0);
            let mut place = 0;
            for at in 0..order.len() {
                let differs = at > 0 && self.get(order[at - 1] as usize) != self.get(order[at] as usize);
                place += u32::from(differs);
                places[order[at] as usize] = place;
            }
            order.dedup_by_key(|number| self.get(*number as usize));
        }
        let names = in_chunks(order.iter().map(|&number| self.get(number as usize)));
        Labels { names, places, decoded: OnceLock::new() }
    }
}

/// A table of names alone.
fn in_chunks<'a>(names: impl Iterator<Item = &'a [u8]>) -> ChunkTable {
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
