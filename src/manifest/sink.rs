//! What takes the objects of a listing in order, and makes of them what a manifest holds.

use std::sync::Arc;

use super::chunk::{CLASSES, ChunkWriter};
use super::classes::{Numbering, root};
use super::digest::ObjectsDigest;
use super::growth::{Growth, ListingEnd};
use super::table::LabelsWriter;
use super::{Entry, LeftOut, Manifest, of_nothing};
use crate::list::{Prefix, Reason};
use crate::{Error, ErrorKind, Result, Stage};

/// Takes objects in order.
pub(super) struct ObjectSink {
    pub(super) prefix: Prefix,
    /// The object whose name may come again, where the newest wins.
    pending: Option<(Vec<u8>, Entry<()>)>,
    newest_wins: bool,
    /// Those whose newest isn't wanted.
    left_out: LeftOut,
    writer: ChunkWriter,
    pub(super) growth: Arc<Growth>,
    pub(super) objects: u64,
    pub(super) labeller: Labeller,
    classes: [(u64, u64); CLASSES.len()],
    digest: ObjectsDigest,
}

impl ObjectSink {
    pub(super) fn new(prefix: Prefix, newest_wins: bool) -> Self {
        let labeller = Labeller { root: root(&prefix.prefix, &[], &[]), ..Labeller::default() };
        Self {
            prefix,
            pending: None,
            newest_wins,
            left_out: LeftOut::default(),
            writer: ChunkWriter::default(),
            growth: Arc::new(Growth::new()),
            objects: 0,
            labeller,
            classes: [(0, 0); CLASSES.len()],
            digest: ObjectsDigest::default(),
        }
    }

    pub(super) fn push(&mut self, name: &[u8], record: Entry<()>) -> Result<()> {
        if !self.newest_wins {
            return self.add(name, record);
        }
        if let Some((pending, newest)) = &mut self.pending
            && pending == name
        {
            if newest.generation < record.generation {
                *newest = record;
            }
            return Ok(());
        }
        let mut buffer = self.settle()?;
        buffer.clear();
        buffer.extend_from_slice(name);
        self.pending = Some((buffer, record));
        Ok(())
    }

    /// Takes in the newest of its name, if it is wanted, and gives back the buffer of the name.
    fn settle(&mut self) -> Result<Vec<u8>> {
        let Some((name, newest)) = self.pending.take() else { return Ok(Vec::new()) };
        match newest.label.and_then(|against| Reason::ALL.get(against as usize)) {
            Some(reason) => self.left_out.add(*reason),
            None => self.add(&name, newest)?,
        }
        Ok(name)
    }

    /// Takes in an object that is wanted.
    fn add(&mut self, name: &[u8], record: Entry<()>) -> Result<()> {
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

    /// Takes a chunk's objects into account and makes a chunk of them.
    pub(super) fn flush(&mut self) -> Result<()> {
        // All of them first: where one fails, none of the chunk counts.
        for (name, record) in self.writer.objects() {
            record.label = self.labeller.label(&self.prefix, name)?;
        }
        for (name, record) in self.writer.objects() {
            self.digest.push(name, record);
            let class = &mut self.classes[record.storage_class as usize];
            class.0 += 1;
            class.1 = class.1.saturating_add(record.size);
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
            return Err(of_nothing(&self.prefix, &left_out));
        }
        let (prefix, growth) = (self.prefix.clone(), Arc::clone(&self.growth));
        self.end(left_out, None);
        Ok(Manifest { prefix, growth, _listing: None, file: None, is_listed: false })
    }

    /// Says what only the end tells.
    pub(super) fn end(self, left_out: LeftOut, failed: Option<Error>) {
        let Self { growth, labeller, classes, digest, .. } = self;
        let digest = digest.finish();
        let (labels, digest) = match labeller.numbering {
            Some(numbering) => numbering.finish(digest),
            None => (labeller.labels.finish(), digest),
        };
        growth.end(ListingEnd { labels, left_out, classes, digest, failed });
    }
}

fn wrong(prefix: &Prefix, name: &[u8], message: &str) -> Error {
    Error::new(ErrorKind::Internal, message).stage(Stage::Manifest).object(format_args!(
        "gs://{}/{}",
        prefix.bucket,
        String::from_utf8_lossy(name)
    ))
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

/// Finds the folder that an object is in.
#[derive(Default)]
pub(super) struct Labeller {
    labels: LabelsWriter,
    /// The last label, and what names that have it begin with.
    last: Option<u32>,
    folder: Vec<u8>,
    /// Whether labels are in use as soon as they are given, so that none may come late.
    pub(super) in_order: bool,
    /// Where in names the folder begins; see [`root`].
    pub(super) root: usize,
    /// Numbers the folders, where a list of classes does.
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
        // A prefix may end within the name of a folder; globs begin there, too.
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
