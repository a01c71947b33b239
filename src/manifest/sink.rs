//! Takes the objects of a listing in order, and fills a manifest with them.

use std::collections::HashMap;
use std::sync::Arc;

use super::chunk::ChunkWriter;
use super::classes::{Numbering, label_root, names_root};
use super::digest::{LabelsDigest, ObjectsDigest};
use super::growth::{ClassTotals, Growth, ListingEnd};
use super::part_columns::PartSums;
use super::table::{LabelTexts, LabelsWriter};
use super::{Digest, Entry, LeftOut, Manifest};
use crate::list::{Prefix, Reason};
use crate::store::Version;
use crate::{Error, ErrorKind, Result, Stage};

/// The error of a listing without samples.
pub(super) fn no_samples(prefix: &Prefix, left_out: &LeftOut) -> Error {
    let error =
        Error::new(ErrorKind::NotFound, "there is no sample below this prefix").stage(Stage::Manifest).object(prefix);
    if left_out.total() > 0 {
        let hidden =
            if left_out.count(Reason::Hidden) > 0 { "; Filter::new().hidden() keeps hidden files" } else { "" };
        return error
            .hint(format!("all that is there was left out: {left_out}; name another prefix, or filter less{hidden}"));
    }
    if let Some((folder, glob)) = prefix.glob() {
        return error.hint(format!("a prefix isn't a glob: open {folder} with Filter::include({glob:?})"));
    }
    error.hint("check its spelling, and that the data was uploaded: `dataflux ls` shows what a prefix holds")
}

/// Fills a [`Growth`] with objects, which must come in order.
pub(super) struct ObjectSink {
    pub(super) prefix: Prefix,
    /// Where the newest wins: the newest object so far of the last name, which may come again.
    pending: Option<PendingObject>,
    newest_wins: bool,
    /// Objects whose newest version isn't wanted.
    left_out: LeftOut,
    writer: ChunkWriter,
    pub(super) growth: Arc<Growth>,
    /// Objects in the chunks written so far.
    pub(super) objects: u64,
    pub(super) labeller: Labeller,
    /// Labels that aren't those of folders, which the records that are pushed refer to. `None` if the folders label.
    given: Option<GivenLabels>,
    totals: ClassTotals,
    digest: ObjectsDigest,
    /// The digest and totals of the objects' further parts, if they have some.
    pub(super) parts: Option<PartSums>,
}

struct PendingObject {
    name: Vec<u8>,
    newest: Entry<()>,
}

impl ObjectSink {
    pub(super) fn new(prefix: Prefix, newest_wins: bool) -> Self {
        let labeller = Labeller { root: label_root(&prefix.prefix, &[], &[]), ..Labeller::default() };
        Self {
            prefix,
            pending: None,
            newest_wins,
            left_out: LeftOut::default(),
            writer: ChunkWriter::default(),
            growth: Arc::new(Growth::new()),
            objects: 0,
            labeller,
            given: None,
            totals: ClassTotals::default(),
            digest: ObjectsDigest::default(),
            parts: None,
        }
    }

    pub(super) fn push(&mut self, name: &[u8], record: Entry<()>) -> Result<()> {
        if !self.newest_wins {
            return self.add(name, record);
        }
        if let Some(pending) = &mut self.pending
            && pending.name == name
        {
            if pending.newest.version < record.version {
                pending.newest = record;
            }
            return Ok(());
        }
        let mut buffer = self.settle()?;
        buffer.clear();
        buffer.extend_from_slice(name);
        self.pending = Some(PendingObject { name: buffer, newest: record });
        Ok(())
    }

    /// As [`push`](Self::push), with a label that isn't that of the folder. All objects are pushed by this, or none.
    pub(super) fn push_labelled(&mut self, name: &[u8], record: Entry<()>, label: Option<&str>) -> Result<()> {
        let given = self.given.get_or_insert_default();
        let label = label.map(|label| given.number(label));
        self.push(name, Entry { label, ..record })
    }

    /// Adds the pending object if it is wanted, and returns the buffer of its name for reuse.
    fn settle(&mut self) -> Result<Vec<u8>> {
        let Some(PendingObject { name, newest }) = self.pending.take() else { return Ok(Vec::new()) };
        // Segments record in the label why an object isn't wanted.
        match newest.label.and_then(|against| Reason::ALL.get(against as usize)) {
            Some(reason) => self.left_out.add(*reason),
            None => self.add(&name, newest)?,
        }
        Ok(name)
    }

    /// Adds an object that is wanted.
    fn add(&mut self, name: &[u8], record: Entry<()>) -> Result<()> {
        if record.version == Version::Etag(()) {
            let error = wrong(&self.prefix, name, "a manifest can't hold the versions of this store");
            return Err(error
                .with_kind(ErrorKind::Unsupported)
                .mismatch("generations, or no versions", "ETags")
                .hint("read the objects of this store through a Client, without a data set"));
        }
        let (last, shared) = self.writer.compare(name);
        if last.is_ge() && (self.objects > 0 || !self.writer.is_empty()) {
            return Err(wrong(&self.prefix, name, "a listing must be sorted, and hold each name once"));
        }
        if self.writer.is_full() {
            self.flush()?;
        }
        self.writer.push(name, shared, record);
        Ok(())
    }

    /// Labels and counts the objects since the last flush, and adds them to the manifest as a chunk.
    pub(super) fn flush(&mut self) -> Result<()> {
        // All objects are labelled first, since none of them counts where one fails.
        if self.given.is_none() {
            for (name, record) in self.writer.objects() {
                record.label = self.labeller.label(&self.prefix, name)?;
            }
        }
        let root = names_root(&self.prefix.prefix, self.labeller.root);
        for (name, record) in self.writer.objects() {
            self.digest.push(name.get(root..).unwrap_or_default(), record);
            if let Some(given) = &mut self.given {
                given.digest.push(record.label);
            }
            self.totals.add(record.storage_class, record.size);
            self.objects += 1;
        }
        if let Some(chunk) = self.writer.flush() {
            self.growth.push(chunk);
        }
        Ok(())
    }

    pub(super) fn finish(mut self, mut left_out: LeftOut) -> Result<Manifest> {
        self.settle()?;
        self.flush()?;
        left_out.merge(&self.left_out);
        if self.objects == 0 {
            return Err(no_samples(&self.prefix, &left_out));
        }
        let manifest = Manifest::with_growth(self.prefix.clone(), Arc::clone(&self.growth));
        self.end(left_out, None);
        Ok(manifest)
    }

    /// Ends the growth of the manifest.
    pub(super) fn end(self, left_out: LeftOut, failed: Option<Error>) {
        let Self { growth, labeller, given, mut totals, digest, parts, .. } = self;
        let mut digest = digest.finish();
        if let Some(parts) = parts {
            totals.merge(&parts.totals);
            digest = digest.with_parts(parts.parts, &parts.digest);
        }
        let (labels, digest) = match (given, labeller.numbering) {
            (Some(given), _) => given.finish(digest),
            (None, Some(numbering)) => numbering.finish(digest),
            (None, None) => (labeller.labels.finish(), digest),
        };
        growth.end(ListingEnd { labels, left_out, totals, digest, failed });
    }
}

fn wrong(prefix: &Prefix, name: &[u8], message: &str) -> Error {
    Error::new(ErrorKind::Internal, message).stage(Stage::Manifest).object(prefix.uri(&String::from_utf8_lossy(name)))
}

fn out_of_order(prefix: &Prefix, name: &[u8]) -> Error {
    wrong(
        prefix,
        name,
        "the labels of this prefix don't come in their order, so that none is sure before the last is known",
    )
    .with_kind(ErrorKind::Config)
    .mismatch("folders in the order of their names", "one that belongs before another that came first")
    .hint("open the data set without streaming(true)")
}

/// Collects labels that aren't those of folders, and numbers them in the order of their first samples.
#[derive(Default)]
struct GivenLabels {
    numbers: HashMap<Box<str>, u32>,
    names: Vec<Box<str>>,
    digest: LabelsDigest,
}

impl GivenLabels {
    fn number(&mut self, label: &str) -> u32 {
        if let Some(&number) = self.numbers.get(label) {
            return number;
        }
        let number = self.names.len() as u32;
        self.numbers.insert(label.into(), number);
        self.names.push(label.into());
        number
    }

    fn finish(self, objects: Digest) -> (LabelTexts, Digest) {
        let labels = LabelTexts::given(&self.names);
        let digest = self.digest.finish(objects, labels.all(), |number| labels.index_of(number));
        (labels, digest)
    }
}

/// Finds the label of an object, which is its folder.
#[derive(Default)]
pub(super) struct Labeller {
    labels: LabelsWriter,
    /// The last label.
    last: Option<u32>,
    /// What names with the last label begin with.
    folder: Vec<u8>,
    /// Whether labels are used before the listing ends, so that they must come in order.
    pub(super) in_order: bool,
    /// Where the folder begins in names; see [`label_root`].
    pub(super) root: usize,
    /// Numbers the folders by a list of classes, if there is one.
    pub(super) numbering: Option<Numbering>,
}

impl Labeller {
    fn label(&mut self, prefix: &Prefix, name: &[u8]) -> Result<Option<u32>> {
        if self.last.is_some() && name.starts_with(&self.folder) {
            return Ok(self.last);
        }
        if !name.starts_with(prefix.prefix.as_bytes()) {
            let error = wrong(prefix, name, "an object of a listing is not below its prefix");
            return Err(error.mismatch(prefix, "another name"));
        }
        if self.root > prefix.prefix.len() && name.get(prefix.prefix.len()) != Some(&b'/') {
            let error = wrong(prefix, name, "the folder of this prefix is not the only thing below it any more");
            return Err(error
                .with_kind(ErrorKind::Changed)
                .mismatch(format_args!("names below {prefix}/"), "one beside them")
                .hint(format!("something was written while it was listed: open {prefix}/, with its slash")));
        }
        // A prefix may end within the name of a folder.
        let below = &name[self.root..];
        let folder = below.iter().position(|&byte| byte != b'/').map_or(&[][..], |start| &below[start..]);
        self.last = match folder.iter().position(|&byte| byte == b'/') {
            None => None,
            Some(end) => {
                let number = match &mut self.numbering {
                    Some(numbering) => numbering.number(&folder[..end], prefix)?,
                    None if self.in_order && !self.labels.is_in_order(&folder[..end]) => {
                        return Err(out_of_order(prefix, name));
                    }
                    None => {
                        let number = u32::try_from(self.labels.number(&folder[..end])).ok();
                        let number = number.filter(|&number| number < u32::MAX);
                        if number.is_none() {
                            return Err(wrong(prefix, name, "there are more folders than labels can tell apart"));
                        }
                        number
                    }
                };
                let slash = name.len() - folder.len() + end;
                self.folder.clear();
                self.folder.extend_from_slice(&name[..=slash]);
                number
            }
        };
        Ok(self.last)
    }
}
