//! The bytes of an object as a list of segments, so that a composition copies nothing.

use std::{
    fs::{File, Metadata},
    io::{self, Read, Seek, SeekFrom},
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;

use crate::objects::virtual_namespace::VirtualSpec;

/// A part of an object's content.
#[derive(Clone)]
pub(crate) enum ContentSegment {
    Bytes(Bytes),
    /// The content of object `index` of a virtual namespace.
    Virtual {
        spec: VirtualSpec,
        index: u64,
    },
    /// A file in the state in which it was found. The bytes of another state are never served.
    File {
        path: Arc<PathBuf>,
        state: FileState,
    },
}

/// The size and modification time of a file. A change of the file changes them, as far as the resolution of the file
/// system's clock allows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FileState {
    size: u64,
    modified: Option<SystemTime>,
}

impl FileState {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.len(), modified: metadata.modified().ok() }
    }

    /// Checks that the file is still in this state.
    pub(crate) fn check(&self, metadata: &Metadata) -> io::Result<()> {
        if *self == Self::of(metadata) { Ok(()) } else { Err(io::Error::other("the file has changed")) }
    }
}

impl ContentSegment {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Virtual { spec, index } => spec.size(*index),
            Self::File { state, .. } => state.size,
        }
    }

    fn read(&self, start: u64, end: u64) -> io::Result<Bytes> {
        match self {
            Self::Bytes(bytes) => Ok(bytes.slice(start as usize..end as usize)),
            Self::Virtual { spec, index } => Ok(spec.content_range(*index, start, end).into()),
            Self::File { path, state } => {
                let mut file = File::open(path.as_path())?;
                file.seek(SeekFrom::Start(start))?;
                let mut bytes = vec![0; (end - start) as usize];
                file.read_exact(&mut bytes)?;

                // Checked after the read, so that the check covers the bytes that were read.
                state.check(&file.metadata()?)?;
                Ok(bytes.into())
            }
        }
    }
}

/// A segment and the offset in the content at which it ends, exclusive.
struct PlacedSegment {
    end: u64,
    segment: ContentSegment,
}

/// The content of an object: segments in order, none of them empty. Cloning shares them.
#[derive(Clone, Default)]
pub(crate) struct Content {
    segments: Arc<Vec<PlacedSegment>>,
}

impl Content {
    pub(crate) fn new(segments: impl IntoIterator<Item = ContentSegment>) -> Self {
        let mut end = 0;
        let placed = segments.into_iter().filter(|segment| segment.len() > 0).map(|segment| {
            end += segment.len();
            PlacedSegment { end, segment }
        });
        Self { segments: Arc::new(placed.collect()) }
    }

    pub(crate) fn from_bytes(bytes: impl Into<Bytes>) -> Self {
        Self::new([ContentSegment::Bytes(bytes.into())])
    }

    pub(crate) fn segments(&self) -> impl ExactSizeIterator<Item = &ContentSegment> {
        self.segments.iter().map(|placed| &placed.segment)
    }

    /// The size in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.segments.last().map_or(0, |last| last.end)
    }

    /// Reads bytes from `start` on, up to `end` (exclusive) at most. Returns at least one byte when the range is not
    /// empty, and at most the rest of one segment, so that nothing is copied.
    ///
    /// # Errors
    /// When a file behind the segment is gone or has changed.
    pub(crate) fn read_some(&self, start: u64, end: u64) -> io::Result<Bytes> {
        let at = self.segments.partition_point(|placed| placed.end <= start);
        let Some(placed) = self.segments.get(at).filter(|_| start < end) else {
            return Ok(Bytes::new());
        };
        let first = placed.end - placed.segment.len();
        placed.segment.read(start - first, end.min(placed.end) - first)
    }

    /// Reads the bytes from `start` (inclusive) to `end` (exclusive) into one buffer.
    ///
    /// # Errors
    /// As [`read_some`](Self::read_some), and when the content ends before `end`.
    pub(crate) fn read(&self, start: u64, end: u64) -> io::Result<Bytes> {
        let first = self.read_some(start, end)?;
        if first.len() as u64 == end - start {
            return Ok(first);
        }

        let mut whole = Vec::with_capacity((end - start) as usize);
        whole.extend_from_slice(&first);
        while (whole.len() as u64) < end - start {
            let more = self.read_some(start + whole.len() as u64, end)?;
            if more.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            whole.extend_from_slice(&more);
        }
        Ok(whole.into())
    }
}
