//! Reading audit logs.

use std::collections::{HashMap, HashSet};
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{
    AuditHash, AuditLine, DeliveredLine, EpochHeader, LINE_HEAD, MAX_LINE_BYTES, VERSION, damaged, failed, hash_of_ids,
    hex, no_log, other_version, parse,
};
use crate::manifest::{Digest, KnownSamples, Manifest};
use crate::sample::{MAX_PADDED_BATCH, SampleId, Sampling, State, sampler_from_identity};
use crate::{Error, ErrorKind, Result, Stage};

fn not_reproducible(wanted: &str, got: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Integrity, "the audit log has a batch that can't be found again")
        .stage(Stage::Deliver)
        .mismatch(wanted, got)
        .hint("a later version of the crate wrote it, or it was forged")
}

/// The samples at these positions of the order that a state describes.
fn order(begin: &EpochHeader, manifest: &Arc<Manifest>, positions: Range<u64>) -> Result<Vec<SampleId>> {
    let state = &begin.state;
    // Checked before an id is allocated for each. A sampler that is described in full has a position for each sample of
    // the manifest, and only a last batch that is padded goes past these.
    let count = positions.end.saturating_sub(positions.start);
    if count > state.batch_size as u64 {
        let wanted = format!("at most {} positions, as a batch has", state.batch_size);
        return Err(not_reproducible(&wanted, format_args!("{positions:?}")));
    }
    if positions.end > manifest.len() && count > MAX_PADDED_BATCH {
        let wanted = format!("positions below {}, or at most {MAX_PADDED_BATCH} of a padded batch", manifest.len());
        return Err(not_reproducible(&wanted, format_args!("{positions:?}")));
    }
    let sampler = sampler_from_identity(&state.identity())
        .ok_or_else(|| not_reproducible("a sampler that the state describes in full", state.identity()))?;
    Sampling::new(sampler, Arc::clone(manifest))?
        .epoch_order(state.epoch)
        .ids(positions, KnownSamples::All(manifest.len()))
}

/// Reads an [audit log](crate::DataLoaderBuilder::audit), from its first record to its last, and checks that each
/// follows from the one before.
///
/// ```
/// # use std::sync::Arc;
/// # use dataflux::store::{Client, MemoryStore};
/// use dataflux::{AuditLog, DataLoader, DatafluxDataset};
/// # let store = MemoryStore::new();
/// # (0..10).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n}.txt"), "sample"));
/// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
/// # let manifest = Arc::clone(dataset.manifest());
/// # let path = std::env::temp_dir().join(format!("dataflux-doc-{}.audit", std::process::id()));
///
/// let loader = DataLoader::builder(dataset).batch_size(4).shuffle(42).audit(&path).build()?;
/// let delivered: Vec<_> = loader.epoch(0)?.map(|batch| Ok(batch?.ids().to_vec())).collect::<dataflux::Result<_>>()?;
///
/// for (record, ids) in AuditLog::open(&path)?.zip(delivered) {
///     let replayed = record?.samples(&manifest)?;
///     assert!(replayed.into_iter().map(|(_position, id)| id).eq(ids));
/// }
/// # std::fs::remove_file(&path).unwrap();
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Debug)]
pub struct AuditLog {
    path: PathBuf,
    lines: BufReader<File>,
    /// Number of lines read.
    read: u64,
    hash: AuditHash,
    /// The last start of each epoch.
    begins: HashMap<u64, Arc<EpochHeader>>,
    is_torn: bool,
    is_over: bool,
}

impl AuditLog {
    /// Opens the log at `path`.
    ///
    /// # Errors
    /// It can't be read.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref().to_owned();
        let file = File::open(&path).map_err(|error| failed(&path, "the audit log can't be opened", error))?;
        let (lines, begins) = (BufReader::new(file), HashMap::new());
        Ok(Self { path, lines, read: 0, hash: AuditHash::default(), begins, is_torn: false, is_over: false })
    }

    /// Whether the log ends with a line that was cut off, as when a run is killed. Such a line is no record. Known once
    /// all records were read.
    pub fn is_torn(&self) -> bool {
        self.is_torn
    }

    /// The hash after the last record read, in hex. A user who keeps it elsewhere can detect any change before it.
    pub fn hash(&self) -> String {
        hex(&self.hash)
    }

    fn read(&mut self) -> Result<Option<AuditRecord>> {
        loop {
            let mut line = Vec::new();
            let read = (&mut self.lines).take(MAX_LINE_BYTES).read_until(b'\n', &mut line);
            let read = read.map_err(|error| failed(&self.path, "the audit log can't be read", error))?;
            let Some(line) = line.strip_suffix(b"\n") else {
                if read as u64 == MAX_LINE_BYTES {
                    return Err(self.damaged("a line without an end"));
                }
                self.is_torn = read > 0;
                return Ok(None);
            };

            self.read += 1;
            let (content, linked) = parse(line, &self.hash).map_err(|got| match self.read {
                1 if !line.get(LINE_HEAD..).is_some_and(|json| json.starts_with(b"{\"begin\":")) => no_log(&self.path),
                _ => self.damaged(&got),
            })?;
            self.hash = linked;
            match content {
                AuditLine::Begin(begin) if begin.audit != VERSION => {
                    return Err(other_version(&self.path, begin.audit));
                }
                AuditLine::Begin(begin) => _ = self.begins.insert(begin.state.epoch, Arc::new(*begin)),
                AuditLine::Batch(step) => {
                    let begin = self.begins.get(&step.epoch).ok_or_else(|| self.damaged("a batch of no epoch"))?;
                    let (begin, line) = (Arc::clone(begin), self.read);
                    return Ok(Some(AuditRecord { line, begin, step }));
                }
            }
        }
    }

    fn damaged(&self, got: &str) -> Error {
        damaged(&self.path, format_args!("line {}", self.read.max(1)), got)
            .hint("the lines before it are as they were written")
    }
}

impl Iterator for AuditLog {
    type Item = Result<AuditRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let record = self.read().transpose();
        self.is_over = !matches!(record, Some(Ok(_)));
        record
    }
}

impl std::iter::FusedIterator for AuditLog {}

/// A batch that was delivered, as recorded in an [`AuditLog`].
#[derive(Debug)]
pub struct AuditRecord {
    line: u64,
    begin: Arc<EpochHeader>,
    step: DeliveredLine,
}

impl AuditRecord {
    /// The line of the log, counted from 1.
    pub fn line(&self) -> u64 {
        self.line
    }

    /// The epoch, counted from 0.
    pub fn epoch(&self) -> u64 {
        self.step.epoch
    }

    /// Number of the batch within its epoch on this rank, counted from 0, including batches before a resume.
    pub fn step(&self) -> u64 {
        self.step.step
    }

    /// The rank, counted from 0.
    pub fn rank(&self) -> u64 {
        self.begin.rank
    }

    /// Number of ranks.
    pub fn world_size(&self) -> u64 {
        self.begin.world_size
    }

    /// The positions of its samples in the global order of the epoch, including those that were skipped.
    pub fn positions(&self) -> Range<u64> {
        self.step.from..self.step.to
    }

    /// The prefix that was listed, as a URI.
    pub fn prefix(&self) -> &str {
        &self.begin.prefix
    }

    /// The state at the start of the epoch, or of the part that a resumed run added: digest of the manifest, order,
    /// batch size.
    pub fn state(&self) -> &State {
        &self.begin.state
    }

    /// Position and id of each sample that the batch lacks.
    pub fn skipped(&self) -> impl ExactSizeIterator<Item = (u64, SampleId)> {
        self.step.skipped.iter().map(|&(position, id)| (position, SampleId(id)))
    }

    /// Position and id of each sample that was replaced, and the id of the sample delivered in its place.
    pub fn substituted(&self) -> impl ExactSizeIterator<Item = (u64, SampleId, SampleId)> {
        self.step.substituted.iter().map(|&(position, id, by)| (position, SampleId(id), SampleId(by)))
    }

    /// The samples that the batch had, in order, each with its position: found again in the order of the epoch, and
    /// proved by the recorded hash. Waits for the end of the manifest's listing.
    ///
    /// # Errors
    /// The manifest is another one; the samples found are not those that were delivered.
    pub fn samples(&self, manifest: &Arc<Manifest>) -> Result<Vec<(u64, SampleId)>> {
        manifest.complete()?;
        let (here, there) = (manifest.digest(), &self.begin.state.manifest);
        let difference = Digest::parse(there).map(|there| there.difference(&here));
        if difference != Some(None) {
            let reason = difference.flatten().map_or_else(String::new, |difference| format!(": {difference}"));
            return Err(Error::new(ErrorKind::Config, format!("this audit log is of other data{reason}"))
                .stage(Stage::Deliver)
                .object(manifest.prefix())
                .mismatch(format_args!("a manifest of digest {there}"), here)
                .hint(
                    "objects were added, removed or overwritten since: take the manifest that was saved for the run",
                ));
        }
        let DeliveredLine { ids, skipped, substituted, list, .. } = &self.step;

        // In sets instead of lists, since a forged log may have millions of them.
        let skipped: HashSet<_> = skipped.iter().map(|(position, _)| *position).collect();
        let substituted: HashMap<_, _> =
            substituted.iter().map(|&(position, _, by)| (position, SampleId(by))).collect();
        let positions = self.positions().filter(|at| !skipped.contains(at));
        let samples: Vec<_> = if let Some(list) = list {
            let count = (self.step.to.saturating_sub(self.step.from)).saturating_sub(skipped.len() as u64);
            if count != list.len() as u64 {
                return Err(not_reproducible(&format!("{count} samples"), list.len()));
            }
            positions.zip(list.iter().copied().map(SampleId)).collect()
        } else {
            let order = order(&self.begin, manifest, self.positions())?;
            let delivered = |at| (at, substituted.get(&at).copied().unwrap_or(order[(at - self.step.from) as usize]));
            positions.map(delivered).collect()
        };
        let found = hash_of_ids(samples.iter().map(|(_, id)| *id));
        if found != *ids {
            return Err(Error::new(ErrorKind::Integrity, "the samples found are not those that were delivered")
                .stage(Stage::Deliver)
                .mismatch(format_args!("samples of hash {ids}"), found)
                .hint("another version of the crate made the order, or the log was forged"));
        }
        Ok(samples)
    }
}
