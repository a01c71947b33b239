//! From the pages of a listing, in whatever order they come, to a manifest: pages are packed, and merged into one order.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::chunk::{ChunkLayout, ChunkReader, ChunkWriter, WRITTEN_HERE};
use super::classes::{Classes, Numbering, root};
use super::growth::Growth;
use super::sink::ObjectSink;
use super::{Entry, LeftOut, Listing, Manifest, of_nothing};
use crate::list::inventory::{Inventory, InventoryCounts, ShardEvent};
use crate::list::{Filter, Lister, Page, Prefix, Reason};
use crate::store::{Client, ObjectRef, Objects};
use crate::{Error, ErrorKind, Result, Stage, os};

/// Freed bytes that the allocator may keep while a manifest is made. Less would ask it more often for what is not worth
/// asking.
const KEPT: usize = 32 << 20;

/// Some of the objects of a listing, such as a page of it, packed as tightly as in a [`Manifest`].
///
/// Any thread can make one: what is left for [`ManifestBuilder::finish`] is little.
#[derive(Debug, Default)]
pub struct Segment {
    chunks: Vec<Box<[u8]>>,
    objects: u64,
    first: Box<[u8]>,
    last: Box<[u8]>,
}

impl Segment {
    /// Packs objects, which come in byte order of their names.
    pub fn new<'a>(objects: impl IntoIterator<Item = ObjectRef<'a>>) -> Self {
        Self::judged(objects.into_iter().map(|object| (object, None)))
    }

    /// As [`new`](Self::new), with the reason for which an object isn't wanted: it stands for its name until it is known
    /// whether a newer one of that name does.
    fn judged<'a>(objects: impl Iterator<Item = (ObjectRef<'a>, Option<Reason>)>) -> Self {
        let mut writer = ChunkWriter::default();
        let mut segment = Self::default();
        let mut last = "";
        for (object, against) in objects {
            last = object.name;
            if segment.objects == 0 {
                segment.first = last.as_bytes().into();
            }
            segment.objects += 1;
            let record = Entry {
                name: (),
                size: object.size,
                generation: object.generation,
                crc32c: object.crc32c,
                storage_class: object.storage_class,
                encoding: object.encoding,
                // Free until all are in order.
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

    /// Packs objects in whatever order, of which some may have one name. The more go into a segment, the fewer are
    /// merged later.
    pub fn of_unsorted(objects: &Objects) -> Self {
        Self::new(in_order(objects))
    }

    /// Number of objects.
    pub fn len(&self) -> u64 {
        self.objects
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.objects == 0
    }
}

/// The objects in byte order of names.
fn in_order(objects: &Objects) -> impl Iterator<Item = ObjectRef<'_>> {
    let mut order: Vec<usize> = (0..objects.len()).collect();
    order.sort_by_key(|&index| objects.name(index));
    order.into_iter().filter_map(|index| objects.get(index))
}

/// Makes a [`Manifest`] of [`Segment`]s.
///
/// ```
/// use dataflux::manifest::{ManifestBuilder, Segment};
/// use dataflux::store::ObjectRef;
///
/// let page = |names: [&'static str; 2]| Segment::new(names.map(|name| ObjectRef { name, ..ObjectRef::default() }));
/// let mut builder = ManifestBuilder::new("gs://my-bucket/train/".parse()?);
/// builder.push(page(["train/dog/1.png", "train/dog/2.png"]));
/// builder.push(page(["train/cat/1.png", "train/cat/2.png"]));
/// let manifest = builder.finish()?;
/// assert_eq!(&*manifest.get(0).unwrap().name, "train/cat/1.png");
/// assert_eq!(manifest.labels(), ["cat", "dog"]);
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Debug)]
pub struct ManifestBuilder {
    prefix: Prefix,
    segments: Vec<Segment>,
    newest_wins: bool,
    left_out: LeftOut,
    /// Rows in the segments that aren't wanted.
    set_aside: LeftOut,
    report: Option<ReportTotals>,
    is_listed: bool,
}

/// What an inventory report had.
#[derive(Debug)]
struct ReportTotals {
    counts: InventoryCounts,
    snapshot_time: Option<String>,
}

impl ManifestBuilder {
    /// A manifest of what is below `prefix`.
    pub fn new(prefix: Prefix) -> Self {
        Self {
            prefix,
            segments: Vec::new(),
            newest_wins: false,
            left_out: LeftOut::default(),
            set_aside: LeftOut::default(),
            report: None,
            is_listed: false,
        }
    }

    /// Of objects of one name keeps that of the highest generation, as is right for reports of the past. Otherwise a
    /// name that comes twice is an error: a listing tells each once.
    #[must_use]
    pub fn newest_wins(mut self) -> Self {
        self.newest_wins = true;
        self
    }

    /// Adds objects. Segments come in any order and may overlap, which costs more the more of them do.
    pub fn push(&mut self, segment: Segment) {
        if !segment.is_empty() {
            self.segments.push(segment);
        }
    }

    /// Counts what was listed and is in no segment.
    pub fn leave_out(&mut self, left_out: &LeftOut) {
        self.left_out.merge(left_out);
    }

    /// What `lister` lists and `filter` wants, packed on all threads of the runtime this is used on.
    ///
    /// # Errors
    /// As for [`Lister::collect`].
    pub async fn list(lister: Lister, filter: Filter) -> Result<Self> {
        let mut builder = Self::new(lister.prefix().clone());
        builder.is_listed = true;
        let lister = lister.fields(filter.fields());
        for (segment, left_out) in lister.collect(pack(builder.prefix.clone(), filter)).await? {
            builder.push(segment);
            builder.leave_out(&left_out);
        }
        Ok(builder)
    }

    /// What `inventory` tells of `prefix` and `filter` wants: of versions of one object the newest, if that is wanted.
    ///
    /// # Errors
    /// As for [`Inventory::objects`].
    pub async fn inventory(client: &Client, inventory: &Inventory, prefix: Prefix, filter: &Filter) -> Result<Self> {
        let mut builder = Self::new(prefix.clone()).newest_wins();
        // By shard, since what came of one may be called off.
        let mut packed: Vec<(Vec<Segment>, LeftOut)> = Vec::new();
        let pack = |shard: usize, told| {
            if packed.len() <= shard {
                packed.resize_with(shard + 1, Default::default);
            }
            let (segments, set_aside) = &mut packed[shard];
            match told {
                ShardEvent::Objects(objects) => segments.push(Segment::judged(in_order(&objects).map(|object| {
                    let against = filter.reason(&prefix, &object);
                    if let Some(reason) = against {
                        set_aside.add(reason);
                    }
                    (object, against)
                }))),
                ShardEvent::Again(_) => packed[shard] = Default::default(),
            }
            Ok(())
        };
        let counts = inventory.by_shard(client, &prefix, pack).await?;
        for (segments, set_aside) in packed {
            for segment in segments {
                builder.push(segment);
            }
            builder.set_aside.merge(&set_aside);
        }
        let snapshot_time = inventory.snapshot_time().map(str::to_owned);
        tracing::info!(
            %prefix,
            rows = counts.rows,
            objects = counts.objects,
            deleted = counts.deleted,
            other_names = counts.other_names,
            other_buckets = counts.other_buckets,
            snapshot_time = snapshot_time.as_deref().unwrap_or("not told"),
            "read an inventory report"
        );
        builder.report = Some(ReportTotals { counts, snapshot_time });
        Ok(builder)
    }

    /// What the rows of the inventory report were; `None` of a listing.
    pub fn inventory_counts(&self) -> Option<InventoryCounts> {
        self.report.as_ref().map(|report| report.counts)
    }

    /// When the snapshot of the inventory report was taken, if there is one and its manifest tells.
    pub fn snapshot_time(&self) -> Option<&str> {
        self.report.as_ref()?.snapshot_time.as_deref()
    }

    /// Number of objects that are wanted so far, those counted twice that come twice.
    pub fn objects(&self) -> u64 {
        self.segments.iter().map(Segment::len).sum::<u64>() - self.set_aside.total()
    }

    /// What was left out so far; of an inventory report, whose versions of one object are told apart by
    /// [`finish`](Self::finish), by rows.
    pub fn left_out(&self) -> LeftOut {
        let mut left_out = self.left_out;
        left_out.merge(&self.set_aside);
        left_out
    }

    /// Puts all in order, and gives each segment's memory back as soon as it is through.
    ///
    /// # Errors
    /// No object at all; a name that comes twice, is out of order in its segment, or isn't below the prefix.
    pub fn finish(self) -> Result<Manifest> {
        let Self { prefix, mut segments, newest_wins, left_out, set_aside: _, report, is_listed } = self;
        let last = segments.iter().map(|segment| &*segment.last).max().unwrap_or_default();
        let first = segments.iter().map(|segment| &*segment.first).min().unwrap_or_default();
        let root = root(&prefix.prefix, first, last);
        let mut sink = ObjectSink::new(prefix, newest_wins);
        sink.labeller.root = root;
        segments.sort_unstable_by(|a, b| b.first.cmp(&a.first));
        // Those that have begun. Segments that don't overlap are here one at a time.
        let mut open: BinaryHeap<Box<SegmentRun>> = BinaryHeap::new();
        let mut kept = 0;
        loop {
            while let Some(next) = segments.last()
                && open.peek().is_none_or(|run| *next.first <= *run.reader.name())
            {
                open.extend(segments.pop().map(SegmentRun::open));
            }
            let Some(mut run) = open.pop() else { break };
            // Where another segment has its next name, if this one gets there.
            let there = [open.peek().map(|run| run.reader.name()), segments.last().map(|segment| &*segment.first)];
            let bound = there.into_iter().flatten().min().filter(|bound| **bound <= *run.last);
            let goes_on = loop {
                sink.push(run.reader.name(), run.record)?;
                if !run.advance() {
                    break false;
                }
                if bound.is_some_and(|bound| *bound <= *run.reader.name()) {
                    break true;
                }
            };
            if goes_on {
                open.push(run);
                continue;
            }
            kept += run.bytes;
            drop(run);
            if kept > KEPT {
                os::give_back_memory();
                kept = 0;
            }
        }
        let manifest = sink.finish(left_out).map_err(|error| match &report {
            Some(report) if error.is_not_found() => report.of_nothing(error),
            _ => error,
        })?;
        Ok(Manifest { is_listed, ..manifest })
    }
}

impl ReportTotals {
    /// The error of a report that has no sample: it says nothing of what is in the bucket now.
    fn of_nothing(&self, error: Error) -> Error {
        let error = error.append(" in the inventory report").mismatch("an object to take", self.counts);
        let time = self.snapshot_time.as_ref().map_or_else(String::new, |time| format!(" of {time}"));
        if self.counts.objects > 0 {
            // What was left out, and why, is told already.
            return error;
        }
        error.hint(format!(
            "check the prefix's spelling; what was written after the report{time} is in a later one, or in a listing"
        ))
    }
}

/// What is made of each page.
fn pack(prefix: Prefix, filter: Filter) -> impl Fn(&Page) -> (Segment, LeftOut) {
    move |page| {
        let mut left_out = LeftOut::default();
        let segment = Segment::new(filter.keep(&prefix, page.iter(), &mut left_out));
        (segment, left_out)
    }
}

/// A listing whose manifest is in use before it ends.
#[derive(Clone, Debug)]
pub(crate) struct StreamingListing {
    pub(crate) lister: Lister,
    pub(crate) filter: Filter,
    /// Whether all that is listed is in the one folder whose name the prefix ends with.
    pub(crate) is_folder: bool,
    pub(crate) classes: Option<Arc<Classes>>,
    /// Called with the whole manifest.
    pub(crate) ended: fn(&Manifest),
}

impl StreamingListing {
    /// The manifest, which is there as soon as the first object is, while a task goes on listing; dropping the manifest
    /// stops it.
    pub(crate) async fn open(&self) -> Result<Manifest> {
        let (manifest, first) = self.begin(&Handle::current());
        // Nothing was sent where it has ended without an object.
        if first.await.is_err() {
            manifest.complete()?;
        }
        Ok(manifest)
    }

    /// As [`open`](Self::open), without waiting for the first object, whose arrival is sent.
    pub(crate) fn begin(&self, runtime: &Handle) -> (Manifest, oneshot::Receiver<()>) {
        let Self { lister, filter, is_folder, classes, ended } = self.clone();
        let prefix = lister.prefix().clone();
        let lister = lister.fields(filter.fields());
        let mut sink = ObjectSink::new(prefix.clone(), false);
        sink.labeller.in_order = true;
        sink.labeller.numbering = classes.map(Numbering::new);
        if is_folder {
            sink.labeller.root = prefix.prefix.len() + 1;
        }
        let growth = Arc::clone(&sink.growth);
        let manifest = |listing| Manifest {
            prefix: prefix.clone(),
            growth: Arc::clone(&growth),
            _listing: listing,
            file: None,
            is_listed: true,
        };
        let whole = manifest(None);
        let (begun, first) = oneshot::channel();
        let mut streamed = ListingTask { sink: Some(sink), left_out: LeftOut::default(), kept: 0, begun: Some(begun) };
        let pack = pack(prefix.clone(), filter);
        let task = runtime.spawn(async move {
            let outcome = lister.in_order(pack, |(segment, left_out)| streamed.take(segment, &left_out)).await;
            streamed.end(outcome.err());
            if whole.complete().is_ok() {
                ended(&whole);
            }
        });
        (manifest(Some(Listing(task.abort_handle()))), first)
    }
}

/// A listing on its way into a manifest that is in use already. It ends however its task does.
struct ListingTask {
    sink: Option<ObjectSink>,
    left_out: LeftOut,
    /// Freed bytes that the allocator may have kept.
    kept: usize,
    /// Last, so that whoever waits for it in vain finds the end.
    begun: Option<oneshot::Sender<()>>,
}

impl ListingTask {
    fn take(&mut self, segment: Segment, left_out: &LeftOut) -> Result<()> {
        self.left_out.merge(left_out);
        let Some(sink) = &mut self.sink else { return Ok(()) };
        if segment.is_empty() {
            return Ok(());
        }
        let mut run = SegmentRun::open(segment);
        sink.push(run.reader.name(), run.record)?;
        while run.advance() {
            sink.push(run.reader.name(), run.record)?;
        }
        self.kept += run.bytes;
        drop(run);
        if self.kept > KEPT {
            os::give_back_memory();
            self.kept = 0;
        }
        if let Some(begun) = self.begun.take() {
            // Nobody waits if the manifest is gone, and then this task ends, too.
            let _ = begun.send(());
        }
        Ok(())
    }

    fn end(&mut self, failed: Option<Error>) {
        let Some(mut sink) = self.sink.take() else { return };
        // Should one of the next lines panic, those who wait for the end must hear of it all the same.
        let _last = EndGuard(Arc::clone(&sink.growth));
        if std::thread::panicking() {
            return;
        }
        let flushed = sink.flush();
        let nothing = (sink.objects == 0).then(|| of_nothing(&sink.prefix, &self.left_out));
        sink.end(self.left_out, failed.or(flushed.err()).or(nothing));
    }
}

impl Drop for ListingTask {
    fn drop(&mut self) {
        let message = "the task that lists ended before the listing did";
        self.end(Some(Error::new(ErrorKind::Internal, message).stage(Stage::List)));
    }
}

/// Ends what nobody has ended.
struct EndGuard(Arc<Growth>);

impl Drop for EndGuard {
    fn drop(&mut self) {
        if self.0.ended().is_none() {
            let error = Error::new(ErrorKind::Internal, "a task that makes a manifest panicked").stage(Stage::Manifest);
            self.0.fail(error.hint("its panic message is on stderr; please report it"));
        }
    }
}

/// A segment that is being read.
struct SegmentRun {
    chunks: std::vec::IntoIter<Box<[u8]>>,
    chunk: Box<[u8]>,
    reader: ChunkReader,
    record: Entry<()>,
    last: Box<[u8]>,
    /// Of the whole segment.
    bytes: usize,
}

impl SegmentRun {
    /// Goes to the first object; there is one.
    fn open(segment: Segment) -> Box<Self> {
        let bytes = segment.chunks.iter().map(|chunk| chunk.len()).sum();
        let mut chunks = segment.chunks.into_iter();
        let chunk = chunks.next().expect("no empty segment was kept");
        let mut reader = Self::reader(&chunk, Vec::new());
        let record = reader.next(&chunk).expect(WRITTEN_HERE);
        Box::new(Self { chunks, chunk, reader, record, last: segment.last, bytes })
    }

    fn reader(chunk: &[u8], buffer: Vec<u8>) -> ChunkReader {
        ChunkLayout::of(chunk).and_then(|layout| ChunkReader::new(layout, chunk, 0, buffer)).expect(WRITTEN_HERE)
    }

    /// Goes to the next object, if there is one.
    fn advance(&mut self) -> bool {
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
    /// The greatest is that with the smallest name.
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
