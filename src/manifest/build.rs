//! Makes a manifest of the pages of a listing, which come in any order: pages are packed, and merged into one order.

use std::collections::BinaryHeap;

use super::classes::label_root;
use super::segment::{FreedMemory, JudgedObject, Segment, SegmentRun, sorted};
use super::sink::ObjectSink;
use super::{LeftOut, Manifest};
use crate::list::inventory::{Inventory, InventoryCounts, ShardEvent};
use crate::list::{Filter, Lister, Page, Prefix};
use crate::store::{Client, Objects};
use crate::{Error, Result};

impl Manifest {
    /// Freezes a listing of `prefix`. Objects that can't be samples are left out and counted.
    ///
    /// # Errors
    /// A listing without samples; a name that comes twice or out of order.
    pub fn new(prefix: Prefix, objects: &Objects) -> Result<Self> {
        let mut left_out = LeftOut::default();
        let segment = Segment::new(Filter::new().keep(&prefix, objects.iter(), &mut left_out));
        let mut builder = ManifestBuilder::new(prefix);
        builder.push(segment);
        builder.leave_out(&left_out);
        builder.finish()
    }
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
    /// Rows of an inventory report that are in the segments but aren't wanted.
    unwanted_rows: LeftOut,
    report: Option<ReportTotals>,
    is_listed: bool,
}

/// What an inventory report held.
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
            unwanted_rows: LeftOut::default(),
            report: None,
            is_listed: false,
        }
    }

    /// Keeps the object of the highest generation where several have the same name, as is right for inventory reports.
    /// By default a name that comes twice is an error, since a listing returns each name once.
    #[must_use]
    pub fn newest_wins(mut self) -> Self {
        self.newest_wins = true;
        self
    }

    /// Adds objects. Segments may come in any order. They may overlap, but the more of them do, the slower it is.
    pub fn push(&mut self, segment: Segment) {
        if !segment.is_empty() {
            self.segments.push(segment);
        }
    }

    /// Counts objects that were listed but are in no segment.
    pub fn leave_out(&mut self, left_out: &LeftOut) {
        self.left_out.merge(left_out);
    }

    /// Lists the objects that `filter` accepts, and packs them on all threads of the current runtime.
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

    /// Reads the objects below `prefix` that `filter` accepts from an inventory report. Of several versions of an
    /// object, only the newest counts.
    ///
    /// # Errors
    /// As for [`Inventory::objects`].
    pub async fn inventory(client: &Client, inventory: &Inventory, prefix: Prefix, filter: &Filter) -> Result<Self> {
        let mut builder = Self::new(prefix.clone()).newest_wins();
        // Kept by shard, since a shard may have to be read again from its beginning.
        let mut shards: Vec<PackedShard> = Vec::new();
        let pack = |shard: usize, event| {
            if shards.len() <= shard {
                shards.resize_with(shard + 1, Default::default);
            }
            let PackedShard { segments, unwanted } = &mut shards[shard];
            match event {
                ShardEvent::Objects(objects) => {
                    segments.push(Segment::from_judged(sorted(&objects).map(|object| {
                        let against = filter.reason(&prefix, &object);
                        if let Some(reason) = against {
                            unwanted.add(reason);
                        }
                        JudgedObject { object, against }
                    })));
                }
                ShardEvent::Restarted(_) => shards[shard] = PackedShard::default(),
            }
            Ok(())
        };
        let counts = inventory.by_shard(client, &prefix, pack).await?;
        for PackedShard { segments, unwanted } in shards {
            for segment in segments {
                builder.push(segment);
            }
            builder.unwanted_rows.merge(&unwanted);
        }
        let snapshot_time = inventory.snapshot_time().map(str::to_owned);
        tracing::info!(
            %prefix,
            rows = counts.rows,
            objects = counts.objects,
            deleted = counts.deleted,
            other_names = counts.other_names,
            other_buckets = counts.other_buckets,
            snapshot_time = snapshot_time.as_deref().unwrap_or("unknown"),
            "read an inventory report"
        );
        builder.report = Some(ReportTotals { counts, snapshot_time });
        Ok(builder)
    }

    /// Counts of the inventory report's rows; `None` for a listing.
    pub fn inventory_counts(&self) -> Option<InventoryCounts> {
        self.report.as_ref().map(|report| report.counts)
    }

    /// Number of wanted objects so far. Objects that come twice are counted twice.
    pub fn objects(&self) -> u64 {
        self.segments.iter().map(Segment::len).sum::<u64>() - self.unwanted_rows.total()
    }

    /// What was left out so far. Of an inventory report this counts rows, since [`finish`](Self::finish) finds out
    /// which rows are versions of the same object.
    pub fn left_out(&self) -> LeftOut {
        let mut left_out = self.left_out;
        left_out.merge(&self.unwanted_rows);
        left_out
    }

    /// Merges all segments in order, and frees the memory of each as soon as it is merged.
    ///
    /// # Errors
    /// No object at all; a name that comes twice, is out of order in its segment, or isn't below the prefix.
    pub fn finish(self) -> Result<Manifest> {
        let Self { prefix, mut segments, newest_wins, left_out, unwanted_rows: _, report, is_listed } = self;
        let last = segments.iter().map(|segment| &*segment.last).max().unwrap_or_default();
        let first = segments.iter().map(|segment| &*segment.first).min().unwrap_or_default();
        let root = label_root(&prefix.prefix, first, last);
        let mut sink = ObjectSink::new(prefix, newest_wins);
        sink.labeller.root = root;
        merge_segments(&mut segments, &mut sink)?;
        let mut manifest = sink.finish(left_out).map_err(|error| match &report {
            Some(report) if error.is_not_found() => report.no_samples(error),
            _ => error,
        })?;

        // Rows of a report that turned out not to be samples don't count for the labels.
        let root_of_samples = manifest.label_root()?;
        if root_of_samples != root {
            manifest = manifest.copied(|_, _| true, root_of_samples, manifest.left_out())?;
        }
        Ok(Manifest { is_listed, ..manifest })
    }
}

/// What came of a shard of an inventory report.
#[derive(Default)]
struct PackedShard {
    segments: Vec<Segment>,
    unwanted: LeftOut,
}

/// Pushes the objects of all segments into `sink`, in byte order of names.
fn merge_segments(segments: &mut Vec<Segment>, sink: &mut ObjectSink) -> Result<()> {
    segments.sort_unstable_by(|a, b| b.first.cmp(&a.first));
    // Segments that have begun. Where segments don't overlap, there is one at a time.
    let mut open: BinaryHeap<Box<SegmentRun>> = BinaryHeap::new();
    let mut freed = FreedMemory::default();
    loop {
        while let Some(next) = segments.last()
            && open.peek().is_none_or(|run| *next.first <= *run.name())
        {
            open.extend(segments.pop().map(SegmentRun::open));
        }
        let Some(mut run) = open.pop() else { return Ok(()) };

        // The next name of another segment, if this segment reaches as far.
        let others = [open.peek().map(|run| run.name()), segments.last().map(|segment| &*segment.first)];
        let bound = others.into_iter().flatten().min().filter(|bound| **bound <= *run.last);
        let has_more = loop {
            sink.push(run.name(), run.record)?;
            if !run.advance() {
                break false;
            }
            if bound.is_some_and(|bound| *bound <= *run.name()) {
                break true;
            }
        };
        if has_more {
            open.push(run);
        } else {
            let bytes = run.bytes;
            drop(run);
            freed.add(bytes);
        }
    }
}

impl ReportTotals {
    /// The error of a report without a sample, which doesn't say what is in the bucket now.
    fn no_samples(&self, error: Error) -> Error {
        let error = error.append(" in the inventory report").mismatch("an object to take", self.counts);
        let time = self.snapshot_time.as_ref().map_or_else(String::new, |time| format!(" of {time}"));
        if self.counts.objects > 0 {
            // The error has a hint that says what was left out, and why.
            return error;
        }
        error.hint(format!(
            "check the prefix's spelling; what was written after the report{time} is in a later one, or in a listing"
        ))
    }
}

/// Returns a function that packs the wanted objects of a page, and counts the others.
pub(super) fn pack(prefix: Prefix, filter: Filter) -> impl Fn(&Page) -> (Segment, LeftOut) {
    move |page| {
        let mut left_out = LeftOut::default();
        let segment = Segment::new(filter.keep(&prefix, page.iter(), &mut left_out));
        (segment, left_out)
    }
}
