//! The audit log: which samples each step was given, in a file that shows when it was changed.
//!
//! A log is lines of text. Each is a hash, a space, and JSON: `{"begin":…}` where an epoch begins or goes on, with the
//! [`State`] it begins from, and `{"batch":…}` for each batch delivered. The hash is the first half of the SHA-256 of the
//! line before's and this line's JSON, so that no line can be changed, left out or put in without all behind it. A batch is told
//! by its positions in the global order and a hash of its samples' ids, some 150 bytes however many samples it has: who has
//! the manifest finds the ids again, and who finds the same ones knows that these were delivered. Samples that were lost are
//! told by id. Where the state doesn't tell all of the order, the ids are listed.

mod read;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ring::digest::{Context, Digest, SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::collate::Batch;
use crate::manifest::Manifest;
use crate::sample::{SampleId, State, told};
use crate::{Error, ErrorKind, Result, Stage};
pub use read::{AuditLog, AuditRecord};

/// The version of the format that this crate writes.
const VERSION: u32 = 1;

/// Bytes at the end of a log that are looked at when it is gone on with: some thousand steps, and read in a moment however
/// long the log is.
const TAIL: u64 = 1 << 20;

/// Bytes of the longest line there can be: one of a batch of a million samples that were all lost takes less.
const LONGEST: u64 = 64 << 20;

/// Half of a SHA-256: what it is for is to be seen to differ.
type AuditHash = [u8; 16];

/// Characters of a hash in hex, and the space behind it.
const HEAD: usize = 2 * size_of::<AuditHash>() + 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum AuditLine {
    Begin(Box<EpochHeader>),
    Batch(DeliveredLine),
}

/// The head of an epoch, or of what a resumed run adds to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EpochHeader {
    pub(crate) audit: u32,
    pub(crate) prefix: String,
    pub(crate) samples: u64,
    pub(crate) rank: u64,
    pub(crate) world_size: u64,
    /// Number of the first batch behind this.
    pub(crate) step: u64,
    pub(crate) state: State,
}

/// A batch of this rank.
#[derive(Debug, Default, Serialize, Deserialize)]
struct DeliveredLine {
    epoch: u64,
    step: u64,
    from: u64,
    to: u64,
    end: u64,
    /// Hash of the ids delivered, in order, each as 8 bytes, little end first.
    ids: String,
    /// Position and id.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    skipped: Vec<(u64, u64)>,
    /// Position, id, and that of the sample delivered instead.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    substituted: Vec<(u64, u64, u64)>,
    /// The ids delivered, where the order can't be had from the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    list: Option<Vec<u64>>,
}

fn half(digest: Digest) -> AuditHash {
    let mut half = AuditHash::default();
    half.copy_from_slice(&digest.as_ref()[..size_of::<AuditHash>()]);
    half
}

fn hash(bytes: &[u8]) -> AuditHash {
    half(digest(&SHA256, bytes))
}

fn hex(hash: &AuditHash) -> String {
    format!("{:032x}", u128::from_be_bytes(*hash))
}

fn hash_of_ids(ids: impl Iterator<Item = SampleId>) -> String {
    let mut context = Context::new(&SHA256);
    ids.for_each(|id| context.update(&id.0.to_le_bytes()));
    hex(&half(context.finish()))
}

/// The hash of a line that comes after one of hash `before`.
fn link(before: &AuditHash, json: &[u8]) -> AuditHash {
    hash(&[before, json].concat())
}

/// A line without its line feed: what it says, and its own hash, if that follows from the one before.
fn parse(line: &[u8], before: &AuditHash) -> Result<(AuditLine, AuditHash), String> {
    let (head, json) = line.split_at_checked(HEAD).ok_or("a line that is too short")?;
    let linked = link(before, json);
    let wanted = format!("{} ", hex(&linked));
    if head != wanted.as_bytes() {
        return Err(format!("the hash {}", String::from_utf8_lossy(head).trim_end()));
    }
    serde_json::from_slice(json)
        .map(|said| (said, linked))
        .map_err(|error| format!("JSON that is none of a log: {error}"))
}

/// The hash that a line says is its own.
fn said(line: &[u8]) -> Option<AuditHash> {
    let text = std::str::from_utf8(line.get(..HEAD)?).ok()?.strip_suffix(' ')?;
    Some(u128::from_str_radix(text, 16).ok()?.to_be_bytes())
}

/// Whether this can be what was written of a first line.
fn may_begin(torn: &[u8]) -> bool {
    let (hash, json) = torn.split_at(torn.len().min(HEAD - 1));
    let wanted = b" {\"begin\":{\"audit\":";
    hash.iter().all(u8::is_ascii_hexdigit) && json.iter().zip(wanted).all(|(got, wanted)| got == wanted)
}

fn failed(path: &Path, what: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, what).stage(Stage::Deliver).object(path.display()).with_source(error)
}

fn damaged(path: &Path, line: impl std::fmt::Display, got: &str) -> Error {
    Error::new(ErrorKind::Integrity, format!("the audit log was changed or damaged at {line}"))
        .stage(Stage::Deliver)
        .object(path.display())
        .mismatch("a line that follows from the one before", got)
}

fn no_log(path: &Path) -> Error {
    Error::new(ErrorKind::Config, "this file is no audit log")
        .stage(Stage::Deliver)
        .object(path.display())
        .mismatch("a file that a loader has written, or none", "something else")
        .hint("name another file: nothing was written to this one")
}

fn other_version(path: &Path, got: u32) -> Error {
    Error::new(ErrorKind::Config, "this audit log is of another version of dataflux")
        .stage(Stage::Deliver)
        .object(path.display())
        .mismatch(format_args!("format {VERSION}"), got)
        .hint("read it with the version that wrote it, and begin another")
}

/// The step that ends at a position of an epoch.
type StepEnds = HashMap<(u64, u64), u64>;

/// A log that is written to, by the epochs of one loader.
#[derive(Debug)]
pub(crate) struct AuditWriter {
    path: PathBuf,
    end: Mutex<LogEnd>,
}

#[derive(Debug)]
struct LogEnd {
    file: File,
    /// Of the file, as far as this has written it.
    bytes: u64,
    hash: AuditHash,
    /// Of what stood at the end of the log when it was opened.
    steps: StepEnds,
}

impl AuditWriter {
    /// Goes on with the log at `path`, or begins one. A last line that was cut off is cut away.
    ///
    /// # Errors
    /// What stands there is no log, or another rank's, or its end is damaged; it can't be written.
    pub(crate) fn open(path: &Path, rank: u64) -> Result<Arc<Self>> {
        let unopened = |error| {
            failed(path, "the audit log can't be opened", error)
                .hint("see that its folder exists and may be written to")
        };
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(unopened)?;
        let bytes = file.metadata().map_err(unopened)?.len();
        let mut first = Vec::new();
        let unread = |error| failed(path, "the audit log can't be read", error);
        BufReader::new((&file).take(LONGEST)).read_until(b'\n', &mut first).map_err(unread)?;
        if let Some(first) = first.strip_suffix(b"\n") {
            let Ok((AuditLine::Begin(begin), _)) = parse(first, &AuditHash::default()) else {
                return Err(no_log(path));
            };
            if begin.audit != VERSION {
                return Err(other_version(path, begin.audit));
            }
            if begin.rank != rank {
                return Err(Error::new(ErrorKind::Config, "this audit log is another rank's")
                    .stage(Stage::Deliver)
                    .object(path.display())
                    .mismatch(format_args!("one of rank {rank}"), format_args!("one of rank {}", begin.rank))
                    .hint("give each rank a log of its own"));
            }
        } else if !may_begin(&first) {
            return Err(no_log(path));
        }
        let tail = LogTail::read(&mut file, bytes).map_err(unread)?;
        let (hash, steps) = tail.check().map_err(|got| {
            damaged(path, "its end", &got).hint("move it away, look at it with `dataflux replay`, and begin another")
        })?;
        let whole = tail.from + tail.whole as u64;
        if whole < bytes {
            let cut = bytes - whole;
            tracing::warn!(path = %path.display(), cut, "the last line of the audit log was cut off, and is cut away");
            file.set_len(whole).map_err(|error| failed(path, "the end of the audit log can't be cut away", error))?;
        }
        let end = Mutex::new(LogEnd { file, bytes: whole, hash, steps });
        Ok(Arc::new(Self { path: path.to_owned(), end }))
    }

    /// The part of the log that an epoch writes. `step` is the number of its first batch, where the log doesn't tell
    /// another.
    pub(crate) fn epoch(
        self: &Arc<Self>,
        manifest: &Manifest,
        (rank, world_size): (u64, u64),
        step: u64,
        state: State,
    ) -> EpochAudit {
        let at = (state.epoch, state.position);
        let known = self.end.lock().unwrap_or_else(PoisonError::into_inner).steps.get(&at).map(|last| last + 1);
        let (prefix, samples) = (manifest.prefix().to_string(), manifest.len());
        let (listed, step) = (!tells_the_order(&state), known.unwrap_or(step));
        let begin = EpochHeader { audit: VERSION, prefix, samples, rank, world_size, step, state };
        EpochAudit { log: Arc::clone(self), epoch: begin.state.epoch, step, begin: Some(Box::new(begin)), listed }
    }

    /// Adds a line, in one write, so that it outlives the process as soon as this returns.
    fn append(&self, line: &AuditLine) -> Result<()> {
        let unwritten = |error| {
            failed(&self.path, "the audit log can't be written", error)
                .hint("see that its disk has room; the batch in hand is not in it, and was not delivered")
        };
        let mut end = self.end.lock().unwrap_or_else(PoisonError::into_inner);
        let found = end.file.metadata().map_err(unwritten)?.len();
        if found != end.bytes {
            return Err(Error::new(ErrorKind::Config, "somebody else writes to this audit log")
                .stage(Stage::Deliver)
                .object(self.path.display())
                .mismatch(format_args!("{} bytes", end.bytes), found)
                .hint("give each rank and each loader a log of its own"));
        }
        let json = serde_json::to_vec(line).map_err(|error| unwritten(error.into()))?;
        let linked = link(&end.hash, &json);
        let text = [hex(&linked).as_bytes(), b" ", &json, b"\n"].concat();
        if let Err(error) = end.file.write_all(&text) {
            // Else the next line would find more than was written, and lay that to somebody else. Where this fails too, the
            // part of a line is cut away when the log is opened again.
            let _ = end.file.set_len(end.bytes);
            return Err(unwritten(error));
        }
        (end.bytes, end.hash) = (end.bytes + text.len() as u64, linked);
        Ok(())
    }
}

/// The end of a log.
struct LogTail {
    /// Where in the log it begins.
    from: u64,
    text: Vec<u8>,
    /// Bytes of it that are whole lines, behind one that may be cut at its front.
    whole: usize,
}

impl LogTail {
    /// As much as has two whole lines at least, where there are so many.
    fn read(file: &mut File, bytes: u64) -> io::Result<Self> {
        let mut length = TAIL;
        loop {
            let from = bytes.saturating_sub(length);
            file.seek(SeekFrom::Start(from))?;
            let mut text = Vec::new();
            file.take(bytes - from).read_to_end(&mut text)?;
            let lines = text.split(|&byte| byte == b'\n').count();
            if from == 0 || lines > 3 {
                let whole = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
                return Ok(Self { from, text, whole });
            }
            length = length.saturating_mul(8);
        }
    }

    /// The hash of the last line, and the steps that are told. What is wrong, if a line doesn't follow from the one before.
    fn check(&self) -> Result<(AuditHash, StepEnds), String> {
        let mut lines =
            self.text[..self.whole].split_inclusive(|&byte| byte == b'\n').map(|line| &line[..line.len() - 1]);
        let mut before = AuditHash::default();
        if self.from > 0 {
            // Of the first whole line nobody knows here what it follows from.
            before = lines.nth(1).and_then(said).ok_or("a line without a hash")?;
        }
        let mut steps = HashMap::new();
        for line in lines {
            let (line, linked) = parse(line, &before)?;
            before = linked;
            if let AuditLine::Batch(DeliveredLine { epoch, end, step, .. }) = line {
                steps.insert((epoch, end), step);
            }
        }
        Ok((before, steps))
    }
}

/// What one epoch writes to a log.
#[derive(Debug)]
pub(crate) struct EpochAudit {
    log: Arc<AuditWriter>,
    epoch: u64,
    /// Number of the next batch.
    step: u64,
    /// Not written yet: with the first batch.
    begin: Option<Box<EpochHeader>>,
    /// Whether ids are written one by one.
    listed: bool,
}

impl EpochAudit {
    /// Writes that a batch is delivered, which ends at `end` in the global order.
    ///
    /// # Errors
    /// The log can't be written. The batch is not to be delivered then.
    pub(crate) fn record<B>(&mut self, batch: &Batch<B>, end: u64) -> Result<()> {
        if let Some(begin) = self.begin.take() {
            self.log.append(&AuditLine::Begin(begin))?;
        }
        let Range { start: from, end: to } = batch.positions();
        let skipped = batch.skipped().iter().map(|lost| (lost.position, lost.id.0)).collect();
        let substituted = batch.substituted().iter();
        let substituted = substituted.filter_map(|lost| Some((lost.position, lost.id.0, lost.substitute?.0))).collect();
        let list = self.listed.then(|| batch.ids().iter().map(|id| id.0).collect());
        let ids = hash_of_ids(batch.ids().iter().copied());
        let (epoch, step) = (self.epoch, self.step);
        self.step += 1;
        self.log.append(&AuditLine::Batch(DeliveredLine {
            epoch,
            step,
            from,
            to,
            end,
            ids,
            skipped,
            substituted,
            list,
        }))
    }
}

/// Whether the order can be had from the state alone.
fn tells_the_order(state: &State) -> bool {
    told(&state.identity()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Never to be changed: logs are kept.
    #[test]
    fn golden_lines() {
        let log = include_str!("../../../tests/golden/audit-1.log");
        let mut before = AuditHash::default();
        for text in log.lines() {
            let (line, linked) = parse(text.as_bytes(), &before).unwrap();
            // What a state looks like is told elsewhere.
            if matches!(line, AuditLine::Batch(_)) {
                assert_eq!(serde_json::to_string(&line).unwrap(), text[HEAD..]);
            }
            assert_eq!(said(text.as_bytes()), Some(linked));
            before = linked;
        }
        let listed = DeliveredLine { list: Some(vec![7, 1 << 60]), ..DeliveredLine::default() };
        assert_eq!(
            serde_json::to_string(&AuditLine::Batch(listed)).unwrap(),
            r#"{"batch":{"epoch":0,"step":0,"from":0,"to":0,"end":0,"ids":"","list":[7,1152921504606846976]}}"#
        );
    }

    #[test]
    fn a_long_log_is_gone_on_with_from_its_end() {
        let path = std::env::temp_dir().join(format!("dataflux-audit-long-{}", std::process::id()));
        let state = serde_json::from_str(
            r#"{"version":2,"manifest":"","seed":null,"epoch":0,"position":0,"batch_size":1,"drop_last":false}"#,
        );
        let (prefix, state) = ("gs://data/".to_owned(), state.unwrap());
        let begin = EpochHeader { audit: VERSION, prefix, samples: 1, rank: 0, world_size: 1, step: 0, state };
        let log = AuditWriter::open(&path, 0).unwrap();
        log.append(&AuditLine::Begin(Box::new(begin))).unwrap();
        // Beyond the part that is looked at, and one line that is longer than it.
        let longest = TAIL as usize / 8;
        for (step, lost) in [0, longest, 0, 0, longest, 0].into_iter().enumerate() {
            let skipped = (0..lost as u64).map(|id| (id, id)).collect();
            log.append(&AuditLine::Batch(DeliveredLine {
                end: step as u64,
                step: 10 * step as u64,
                skipped,
                ..DeliveredLine::default()
            }))
            .unwrap();
        }
        drop(log);
        let log = AuditWriter::open(&path, 0).unwrap();
        assert_eq!(log.end.lock().unwrap().steps.get(&(0, 5)), Some(&50));
        log.append(&AuditLine::Batch(DeliveredLine::default())).unwrap();
        assert_eq!(AuditLog::open(&path).unwrap().map(Result::unwrap).count(), 7);
        std::fs::remove_file(&path).unwrap();
    }
}
