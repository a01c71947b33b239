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

/// Bytes of a call where all of a file is read. At 80 ms to the first byte and 60 MB/s a stream, smaller ones would wait
/// more than they read.
pub(super) const PIECE: u64 = 8 << 20;

/// How often bytes that don't match their checksum are read again.
pub(super) const AGAIN: u32 = 3;

/// Bytes that have a checksum of their own once the whole file is proved; a piece is some of these.
const BLOCK: u64 = 1 << 20;

/// Largest file that is held whole instead of being read twice: of eight at once, half a GiB.
pub(super) const HELD: u64 = 64 << 20;

/// A file of a report.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    pub(super) place: ShardLocation,
    pub(super) format: Format,
    /// Bytes.
    pub(super) size: u64,
}

/// Where a file is.
#[derive(Clone, Debug)]
pub(super) enum ShardLocation {
    File(PathBuf),
    /// An object, pinned to its generation, and its CRC if the listing tells.
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
    /// The bytes of `range`, all of them.
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
                off_thread(self, read).await?.map_err(|error| of_disk(path, error))
            }
        }
    }

    /// The CRC that the bytes of the file must have.
    pub(super) fn crc(&self) -> Option<u32> {
        match self {
            Self::Object(_, crc) => *crc,
            Self::File(_) => None,
        }
    }

    /// The error of bytes that changed on the way.
    pub(super) fn corrupt(&self, wanted: u32, got: u32) -> Error {
        self.blame(
            Error::new(ErrorKind::Integrity, "the bytes that came don't match the checksum of the object")
                .mismatch(format_args!("crc32c {wanted:08x}"), format_args!("crc32c {got:08x}"))
                .hint("something between here and the service changes bytes: read it again, or by another way"),
        )
    }

    /// An error about this file.
    pub(super) fn blame(&self, error: Error) -> Error {
        error.stage(Stage::List).object(self)
    }
}

/// A file of which any part can be had, as it was written: with a CRC of the whole alone, all is read before the first
/// part is used.
#[derive(Debug)]
pub(super) struct VerifiedFile {
    place: ShardLocation,
    size: u64,
    known: Known,
}

#[derive(Debug)]
enum Known {
    /// Nobody told a CRC.
    Nothing,
    Whole(Bytes),
    /// The CRC of each block, in a file that is too large to be held.
    Blocks(Vec<u32>),
}

impl VerifiedFile {
    /// Reads the whole file, if there is a CRC to prove it by; one of at most `held` bytes is kept.
    pub(super) async fn new(client: &Client, place: &ShardLocation, size: u64, held: u64) -> Result<Self> {
        let mut proved = Self { place: place.clone(), size, known: Known::Nothing };
        let Some(crc) = place.crc() else { return Ok(proved) };
        let (mut client, mut tries) = (client.clone(), 0);
        loop {
            let (known, got) = proved.read_all(&client, held).await?;
            if got == crc {
                proved.known = known;
                return Ok(proved);
            }
            tries += 1;
            let error = place.corrupt(crc, got).tried(tries);
            if tries > AGAIN {
                return Err(error);
            }
            warn!(%error, "reading it again");
            client = client.repeating();
        }
    }

    async fn read_all(&self, client: &Client, held: u64) -> Result<(Known, u32)> {
        let (mut whole, mut blocks, mut crc) = (Vec::new(), Vec::new(), 0);
        let mut at = 0;
        while at < self.size {
            let piece = self.place.read(client, at..self.size.min(at + PIECE)).await?;
            at += piece.len() as u64;
            for block in piece.chunks(BLOCK as usize) {
                let own = crc32c::crc32c(block);
                crc = crate::crc::combine(crc, own, block.len() as u64);
                blocks.push(own);
            }
            if self.size <= held {
                whole.extend_from_slice(&piece);
            }
        }
        Ok((if self.size <= held { Known::Whole(whole.into()) } else { Known::Blocks(blocks) }, crc))
    }

    /// The bytes of a range within the file.
    pub(super) async fn read(&self, client: &Client, range: Range<u64>) -> Result<Bytes> {
        let blocks = match &self.known {
            Known::Nothing => return self.place.read(client, range).await,
            Known::Whole(whole) => return Ok(whole.slice(range.start as usize..range.end as usize)),
            Known::Blocks(_) if range.is_empty() => return Ok(Bytes::new()),
            Known::Blocks(blocks) => blocks,
        };
        let first = range.start / BLOCK;
        let (from, to) = (first * BLOCK, range.end.next_multiple_of(BLOCK).min(self.size));
        let (mut client, mut tries) = (client.clone(), 0);
        loop {
            let bytes = self.place.read(&client, from..to).await?;
            let known = blocks.iter().skip(first as usize);
            let mut told = bytes.chunks(BLOCK as usize).map(crc32c::crc32c).zip(known);
            let Some((got, wanted)) = told.find(|(got, wanted)| got != *wanted) else {
                return Ok(bytes.slice((range.start - from) as usize..(range.end - from) as usize));
            };
            tries += 1;
            let error = self.place.corrupt(*wanted, got).tried(tries);
            if tries > AGAIN {
                return Err(error);
            }
            warn!(%error, "reading it again");
            client = client.repeating();
        }
    }
}

/// Runs what takes long, or may panic on a damaged file, where it blocks no other task.
pub(super) async fn off_thread<T: Send + 'static>(
    place: &ShardLocation,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        place.blame(if error.is_panic() {
            Error::new(ErrorKind::Integrity, "the shard's reader panicked")
                .mismatch("a report as the service writes them", "a damaged file")
                .hint("copy the report again; if it goes on, choose CSV in the report's configuration")
        } else {
            Error::new(ErrorKind::Cancelled, "the runtime is shutting down")
        })
    })
}

/// An error of the local file system.
pub(super) fn of_disk(path: &Path, error: std::io::Error) -> Error {
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
