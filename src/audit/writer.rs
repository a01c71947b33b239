//! Writing an audit log, by one loader at a time.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use super::format::{
    AuditHash, AuditLine, DeliveredLine, EpochHeader, LINE_HEAD, MAX_LINE_BYTES, VERSION, damaged, failed, hash_of_ids,
    hex, link, no_log, other_version, parse, stated_hash,
};
use crate::collate::Batch;
use crate::lock::lock;
use crate::manifest::Manifest;
use crate::sample::{State, sampler_from_identity};
use crate::{Error, ErrorKind, Result, Stage};

/// Bytes at the end of a log that are read and checked when the log is continued. They hold some thousand steps, and
/// take a moment to read however long the log is.
const TAIL_BYTES: u64 = 1 << 20;

/// Whether these bytes can be the written part of a first line.
fn may_begin_log(torn: &[u8]) -> bool {
    let (hash, json) = torn.split_at(torn.len().min(LINE_HEAD - 1));
    let wanted = b" {\"begin\":{\"audit\":";
    hash.iter().all(u8::is_ascii_hexdigit) && json.iter().zip(wanted).all(|(got, wanted)| got == wanted)
}

/// Numbers of steps by their epochs and the positions that they end at.
type StepEnds = HashMap<(u64, u64), u64>;

/// A log that the epochs of one loader write to.
#[derive(Debug)]
pub(crate) struct AuditWriter {
    path: PathBuf,
    end: Mutex<LogEnd>,
}

/// The end of a log, where the next line goes.
#[derive(Debug)]
struct LogEnd {
    file: File,
    /// Bytes of the file that this writer knows of.
    bytes: u64,
    hash: AuditHash,
    /// The steps at the end of the log when it was opened.
    steps: StepEnds,
}

impl AuditWriter {
    /// Opens the log at `path` to continue it, or creates it. If the last line was cut off, it is removed.
    ///
    /// # Errors
    /// The file is no log or another rank's; its end is damaged; it can't be written.
    pub(crate) fn open(path: &Path, rank: u64) -> Result<Arc<Self>> {
        let unopened = |error| {
            failed(path, "the audit log can't be opened", error)
                .hint("see that its folder exists and may be written to")
        };
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(path).map_err(unopened)?;
        let bytes = file.metadata().map_err(unopened)?.len();
        let mut first = Vec::new();
        let unread = |error| failed(path, "the audit log can't be read", error);
        BufReader::new((&file).take(MAX_LINE_BYTES)).read_until(b'\n', &mut first).map_err(unread)?;
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
        } else if !may_begin_log(&first) {
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

    /// The part of the log that an epoch writes. `step` is the number of its first batch, unless the log has the step
    /// before.
    pub(crate) fn epoch(
        self: &Arc<Self>,
        manifest: &Manifest,
        rank: u64,
        world_size: u64,
        step: u64,
        state: State,
    ) -> EpochAudit {
        let at = (state.epoch, state.position);
        let known = lock(&self.end).steps.get(&at).map(|last| last + 1);
        let (prefix, samples) = (manifest.prefix().to_string(), manifest.len());
        let (lists_ids, step) = (!describes_order(&state), known.unwrap_or(step));
        let begin = EpochHeader { audit: VERSION, prefix, samples, rank, world_size, step, state };
        EpochAudit { log: Arc::clone(self), epoch: begin.state.epoch, step, begin: Some(Box::new(begin)), lists_ids }
    }

    /// Adds a line with one write call, so that the line outlives the process as soon as this returns.
    fn append(&self, line: &AuditLine) -> Result<()> {
        let unwritten = |error| {
            failed(&self.path, "the audit log can't be written", error)
                .hint("make room on its disk; the current batch is not in the log, and was not delivered")
        };
        let mut end = lock(&self.end);
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
            // Otherwise the next line would find more bytes than were written, and blame another writer. If this fails,
            // too, the part of a line is removed when the log is opened again.
            let _ = end.file.set_len(end.bytes);
            return Err(unwritten(error));
        }
        (end.bytes, end.hash) = (end.bytes + text.len() as u64, linked);
        Ok(())
    }
}

/// The last lines of a log.
struct LogTail {
    /// Offset in the log of its first byte.
    from: u64,
    text: Vec<u8>,
    /// Length of the part that ends with the last whole line. The first line may be cut at its front.
    whole: usize,
}

impl LogTail {
    /// Reads at least two whole lines, if there are as many.
    fn read(file: &mut File, bytes: u64) -> io::Result<Self> {
        let mut length = TAIL_BYTES;
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

    /// Returns the hash of the last line, and the steps in the tail; or what is wrong, if a line doesn't follow from
    /// the one before.
    fn check(&self) -> Result<(AuditHash, StepEnds), String> {
        let mut lines =
            self.text[..self.whole].split_inclusive(|&byte| byte == b'\n').map(|line| &line[..line.len() - 1]);
        let mut before = AuditHash::default();
        if self.from > 0 {
            // The line before the first whole line is not there to check it against.
            before = lines.nth(1).and_then(stated_hash).ok_or("a line without a hash")?;
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

/// The part of a log that one epoch writes.
#[derive(Debug)]
pub(crate) struct EpochAudit {
    log: Arc<AuditWriter>,
    epoch: u64,
    /// Number of the next batch.
    step: u64,
    /// The epoch's first line, written together with the first batch.
    begin: Option<Box<EpochHeader>>,
    /// Whether all ids are written.
    lists_ids: bool,
}

impl EpochAudit {
    /// Records that a batch is delivered, which ends at position `end` of the global order.
    ///
    /// # Errors
    /// The log can't be written. Then the batch must not be delivered.
    pub(crate) fn record<B>(&mut self, batch: &Batch<B>, end: u64) -> Result<()> {
        if let Some(begin) = self.begin.take() {
            self.log.append(&AuditLine::Begin(begin))?;
        }

        let Range { start: from, end: to } = batch.positions();
        let skipped = batch.skipped().iter().map(|lost| (lost.position, lost.id.0)).collect();
        let substituted = batch.substituted().iter();
        let substituted = substituted.filter_map(|lost| Some((lost.position, lost.id.0, lost.substitute?.0))).collect();
        let list = self.lists_ids.then(|| batch.ids().iter().map(|id| id.0).collect());
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

/// Whether the state describes the order in full.
fn describes_order(state: &State) -> bool {
    sampler_from_identity(&state.identity()).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::AuditLog;

    /// Never change these: users keep their logs.
    #[test]
    fn golden_lines() {
        let log = include_str!("../../tests/golden/audit-1.log");
        let mut before = AuditHash::default();
        for text in log.lines() {
            let (line, linked) = parse(text.as_bytes(), &before).unwrap();
            // Another golden test covers the format of states.
            if matches!(line, AuditLine::Batch(_)) {
                assert_eq!(serde_json::to_string(&line).unwrap(), text[LINE_HEAD..]);
            }
            assert_eq!(stated_hash(text.as_bytes()), Some(linked));
            before = linked;
        }
        let listed = DeliveredLine { list: Some(vec![7, 1 << 60]), ..DeliveredLine::default() };
        assert_eq!(
            serde_json::to_string(&AuditLine::Batch(listed)).unwrap(),
            r#"{"batch":{"epoch":0,"step":0,"from":0,"to":0,"end":0,"ids":"","list":[7,1152921504606846976]}}"#
        );
    }

    #[test]
    fn a_long_log_is_continued_from_its_end() {
        let path = std::env::temp_dir().join(format!("dataflux-audit-long-{}", std::process::id()));
        let state = serde_json::from_str(
            r#"{"version":4,"manifest":"","epoch":0,"position":0,"batch_size":1,"sampler":"sequential"}"#,
        );
        let (prefix, state) = ("gs://data/".to_owned(), state.unwrap());
        let begin = EpochHeader { audit: VERSION, prefix, samples: 1, rank: 0, world_size: 1, step: 0, state };
        let log = AuditWriter::open(&path, 0).unwrap();
        log.append(&AuditLine::Begin(Box::new(begin))).unwrap();
        // More than the part that is read, with lines that are longer than it.
        let longest = TAIL_BYTES as usize / 8;
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
