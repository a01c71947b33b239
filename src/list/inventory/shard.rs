//! The bytes of a shard, on disk or in a bucket.

use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::report::Format;
use crate::store::{Client, ObjectId};
use crate::{Error, ErrorKind, Result, Stage};

/// A file of a report.
#[derive(Clone, Debug)]
pub(super) struct Shard {
    pub(super) place: Place,
    pub(super) format: Format,
    /// Bytes.
    pub(super) size: u64,
}

/// Where a file is.
#[derive(Clone, Debug)]
pub(super) enum Place {
    File(PathBuf),
    /// An object, pinned to its generation, and its CRC if the listing tells.
    Object(ObjectId, Option<u32>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Object(id, _) => id.fmt(f),
        }
    }
}

impl Place {
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

    /// An error about this file.
    pub(super) fn blame(&self, error: Error) -> Error {
        error.stage(Stage::List).object(self)
    }
}

/// Runs what takes long, or may panic on a damaged file, where it blocks no other task.
pub(super) async fn off_thread<T: Send + 'static>(
    place: &Place,
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
        .mismatch("a file of an inventory report", &error)
        .hint("name a report's ..._manifest.json, a shard, or the folder of both")
        .with_source(error)
}
