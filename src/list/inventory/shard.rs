//! The bytes of a shard, on disk or in a bucket.

use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tracing::warn;

use super::report::Format;
use crate::store::{Client, ObjectId};
use crate::{Error, ErrorKind, Result, Stage};

/// Bytes of a call where a whole file is read. At 80 ms to the first byte and 60 MB/s for each stream, smaller calls
/// would wait for longer than they read.
pub(super) const PIECE: u64 = 8 << 20;

/// How often bytes that don't match their checksum are read again.
pub(super) const MAX_REREADS: u32 = 3;

/// Bytes whose checksum is recorded while the whole file is verified. A piece consists of several blocks.
const BLOCK: u64 = 1 << 20;

/// Largest file that is held in memory instead of being read twice. Eight at once take half a GiB.
pub(super) const MAX_HELD_BYTES: u64 = 64 << 20;

/// A file of a report.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    pub(super) location: ShardLocation,
    pub(super) format: Format,
    /// Bytes.
    pub(super) size: u64,
}

/// Where a file is.
#[derive(Clone, Debug)]
pub(super) enum ShardLocation {
    File(PathBuf),
    /// An object, pinned to its version, and its CRC32C if the listing has it.
    Object(ObjectId, Option<u32>),
}

impl fmt::Display for ShardLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Object(id, _) => id.fmt(f),
        }
    }
}

impl ShardLocation {
    /// Reads all bytes of `range`.
    pub(super) async fn read(&self, client: &Client, range: Range<u64>) -> Result<Bytes> {
        if range.is_empty() {
            return Ok(Bytes::new());
        }
        match self {
            Self::Object(id, _) => {
                let length = range.end - range.start;
                let payload = client.read(id, Some(range), length).await.map_err(|error| error.stage(Stage::List))?;
                Ok(payload.bytes)
            }
            Self::File(path) => {
                let file = path.clone();
                let read = move || {
                    let mut bytes = vec![0; (range.end - range.start) as usize];
                    let mut file = std::fs::File::open(file)?;
                    file.seek(SeekFrom::Start(range.start))?;
                    file.read_exact(&mut bytes)?;
                    Ok(Bytes::from(bytes))
                };
                off_thread(self, read).await?.map_err(|error| disk_error(path, error))
            }
        }
    }

    /// The CRC32C that the bytes of the file must have, if it is known.
    pub(super) fn crc(&self) -> Option<u32> {
        match self {
            Self::Object(_, crc) => *crc,
            Self::File(_) => None,
        }
    }

    /// The error of bytes that changed on the way.
    pub(super) fn corrupt(&self, wanted: u32, got: u32) -> Error {
        self.error(
            Error::new(ErrorKind::Integrity, "the bytes that came don't match the checksum of the object")
                .mismatch(format_args!("crc32c {wanted:08x}"), format_args!("crc32c {got:08x}"))
                .hint("something between here and the service changes bytes: read it again, or over another network"),
        )
    }

    /// Adds this file to an error.
    pub(super) fn error(&self, error: Error) -> Error {
        error.stage(Stage::List).object(self)
    }
}

/// A file any part of which can be read and verified. Since there is only a CRC of the whole file, all of it is read
/// before the first part is used.
#[derive(Debug)]
pub(super) struct VerifiedFile {
    location: ShardLocation,
    size: u64,
    proof: FileProof,
}

/// How parts of a file are verified.
#[derive(Debug)]
enum FileProof {
    /// No CRC is known.
    None,
    /// The verified bytes are held in memory.
    Held(Bytes),
    /// The CRC32C of each block is recorded, for a file that is too large to be held.
    Blocks(Vec<u32>),
}

impl VerifiedFile {
    /// Reads the whole file if there is a CRC to verify it by. A file of at most `max_held` bytes is held in memory.
    pub(super) async fn new(client: &Client, location: &ShardLocation, size: u64, max_held: u64) -> Result<Self> {
        let mut file = Self { location: location.clone(), size, proof: FileProof::None };
        let Some(crc) = location.crc() else { return Ok(file) };
        let (mut client, mut tries) = (client.clone(), 0);
        loop {
            let (proof, got) = file.read_all(&client, max_held).await?;
            if got == crc {
                file.proof = proof;
                return Ok(file);
            }
            tries += 1;
            let error = location.corrupt(crc, got).tried(tries);
            if tries > MAX_REREADS {
                return Err(error);
            }
            warn!(%error, "reading it again");
            client = client.repeating();
        }
    }

    /// Reads the whole file. Returns the proof for parts, and the CRC32C of all bytes.
    async fn read_all(&self, client: &Client, max_held: u64) -> Result<(FileProof, u32)> {
        let is_held = self.size <= max_held;
        let (mut whole, mut blocks, mut crc) = (Vec::new(), Vec::new(), 0);
        let mut at = 0;
        while at < self.size {
            let piece = self.location.read(client, at..self.size.min(at + PIECE)).await?;
            at += piece.len() as u64;
            for block in piece.chunks(BLOCK as usize) {
                let own = crc32c::crc32c(block);
                crc = crate::crc::combine(crc, own, block.len() as u64);
                blocks.push(own);
            }
            if is_held {
                whole.extend_from_slice(&piece);
            }
        }
        Ok((if is_held { FileProof::Held(whole.into()) } else { FileProof::Blocks(blocks) }, crc))
    }

    /// Reads and verifies a range within the file.
    pub(super) async fn read(&self, client: &Client, range: Range<u64>) -> Result<Bytes> {
        let blocks = match &self.proof {
            FileProof::None => return self.location.read(client, range).await,
            FileProof::Held(whole) => return Ok(whole.slice(range.start as usize..range.end as usize)),
            FileProof::Blocks(_) if range.is_empty() => return Ok(Bytes::new()),
            FileProof::Blocks(blocks) => blocks,
        };
        let first = range.start / BLOCK;
        let (from, to) = (first * BLOCK, range.end.next_multiple_of(BLOCK).min(self.size));
        let (mut client, mut tries) = (client.clone(), 0);
        loop {
            let bytes = self.location.read(&client, from..to).await?;
            let wanted = blocks.iter().skip(first as usize);
            let mut crcs = bytes.chunks(BLOCK as usize).map(crc32c::crc32c).zip(wanted);
            let Some((got, wanted)) = crcs.find(|(got, wanted)| got != *wanted) else {
                return Ok(bytes.slice((range.start - from) as usize..(range.end - from) as usize));
            };
            tries += 1;
            let error = self.location.corrupt(*wanted, got).tried(tries);
            if tries > MAX_REREADS {
                return Err(error);
            }
            warn!(%error, "reading it again");
            client = client.repeating();
        }
    }
}

/// Runs work that takes long, or may panic on a damaged file, on a thread where it blocks no other task.
pub(super) async fn off_thread<T: Send + 'static>(
    location: &ShardLocation,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        location.error(if error.is_panic() {
            Error::new(ErrorKind::Integrity, "the shard's reader panicked")
                .mismatch("a report as the service writes them", "a damaged file")
                .hint("copy the report again; if that doesn't help, choose CSV in the report's configuration")
        } else {
            Error::new(ErrorKind::Cancelled, "the runtime is shutting down")
        })
    })
}

/// An error of the local file system.
pub(super) fn disk_error(path: &Path, error: std::io::Error) -> Error {
    let (kind, message) = match error.kind() {
        std::io::ErrorKind::NotFound => (ErrorKind::NotFound, "there is no such file"),
        std::io::ErrorKind::UnexpectedEof => (ErrorKind::Changed, "the file became shorter while it was read"),
        _ => (ErrorKind::Io, "the file can't be read"),
    };
    Error::new(kind, message)
        .stage(Stage::List)
        .object(path.display())
        .hint("name a report's ..._manifest.json, a shard, or the folder of both")
        .with_source(error)
}
