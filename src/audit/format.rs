//! The lines of an audit log, their hashes, and the errors of logs.

use std::io;
use std::path::Path;

use ring::digest::{Context, Digest, SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::sample::{SampleId, State};
use crate::{Error, ErrorKind, Result, Stage};

/// The version of the format that this crate writes.
pub(super) const VERSION: u32 = 1;

/// Bytes of the longest line: the line of a batch of a million samples that were all lost takes less.
pub(super) const MAX_LINE_BYTES: u64 = 64 << 20;

/// Half of a SHA-256, which is enough to detect a change.
pub(super) type AuditHash = [u8; 16];

/// Bytes of a line before its JSON: a hash in hex, and a space.
pub(super) const LINE_HEAD: usize = 2 * size_of::<AuditHash>() + 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AuditLine {
    Begin(Box<EpochHeader>),
    Batch(DeliveredLine),
}

/// The start of an epoch, or of the part of it that a resumed run adds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct EpochHeader {
    pub(crate) audit: u32,
    pub(crate) prefix: String,
    pub(crate) samples: u64,
    pub(crate) rank: u64,
    pub(crate) world_size: u64,
    /// Number of the first batch after this line.
    pub(crate) step: u64,
    pub(crate) state: State,
}

/// A batch of this rank.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct DeliveredLine {
    pub(super) epoch: u64,
    pub(super) step: u64,
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) end: u64,
    /// Hash of the ids delivered, in order, each as 8 bytes, little end first. Hash of the ids delivered, in order,
    /// each as 8 bytes, little-endian.
    pub(super) ids: String,
    /// Position and id of each skipped sample.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) skipped: Vec<(u64, u64)>,
    /// Position and id of each substituted sample, and the id of the sample delivered in its place.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) substituted: Vec<(u64, u64, u64)>,
    /// The ids delivered, if the state doesn't describe the order in full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) list: Option<Vec<u64>>,
}

fn half(digest: Digest) -> AuditHash {
    let mut half = AuditHash::default();
    half.copy_from_slice(&digest.as_ref()[..size_of::<AuditHash>()]);
    half
}

fn hash(bytes: &[u8]) -> AuditHash {
    half(digest(&SHA256, bytes))
}

pub(super) fn hex(hash: &AuditHash) -> String {
    format!("{:032x}", u128::from_be_bytes(*hash))
}

pub(super) fn hash_of_ids(ids: impl Iterator<Item = SampleId>) -> String {
    let mut context = Context::new(&SHA256);
    ids.for_each(|id| context.update(&id.0.to_le_bytes()));
    hex(&half(context.finish()))
}

/// The hash of a line with this JSON, after a line with the hash `before`.
pub(super) fn link(before: &AuditHash, json: &[u8]) -> AuditHash {
    hash(&[before, json].concat())
}

/// Parses a line without its line feed. Returns the content and the line's hash, or what is wrong, if the line doesn't
/// follow from the hash of the line before.
pub(super) fn parse(line: &[u8], before: &AuditHash) -> Result<(AuditLine, AuditHash), String> {
    let (head, json) = line.split_at_checked(LINE_HEAD).ok_or("a line that is too short")?;
    let linked = link(before, json);
    let wanted = format!("{} ", hex(&linked));
    if head != wanted.as_bytes() {
        return Err(format!("the hash {}", String::from_utf8_lossy(head).trim_end()));
    }
    serde_json::from_slice(json)
        .map(|content| (content, linked))
        .map_err(|error| format!("JSON that is none of a log: {error}"))
}

/// The hash at the start of a line, unchecked.
pub(super) fn stated_hash(line: &[u8]) -> Option<AuditHash> {
    let text = std::str::from_utf8(line.get(..LINE_HEAD)?).ok()?.strip_suffix(' ')?;
    Some(u128::from_str_radix(text, 16).ok()?.to_be_bytes())
}

pub(super) fn failed(path: &Path, what: &str, error: io::Error) -> Error {
    Error::new(ErrorKind::Io, what).stage(Stage::Deliver).object(path.display()).with_source(error)
}

pub(super) fn damaged(path: &Path, line: impl std::fmt::Display, got: &str) -> Error {
    Error::new(ErrorKind::Integrity, format!("the audit log was changed or damaged at {line}"))
        .stage(Stage::Deliver)
        .object(path.display())
        .mismatch("a line that follows from the one before", got)
}

pub(super) fn no_log(path: &Path) -> Error {
    Error::new(ErrorKind::Config, "this file is no audit log")
        .stage(Stage::Deliver)
        .object(path.display())
        .mismatch("a file that a loader has written, or none", "something else")
        .hint("name another file: nothing was written to this one")
}

pub(super) fn other_version(path: &Path, got: u32) -> Error {
    Error::new(ErrorKind::Config, "this audit log is of another version of dataflux")
        .stage(Stage::Deliver)
        .object(path.display())
        .mismatch(format_args!("format {VERSION}"), got)
        .hint("read it with the version that wrote it, and begin another")
}
