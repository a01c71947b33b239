//! Stored bytes as a list of segments, so that a composition copies nothing.

use std::{
    fs::{File, Metadata},
    io::{self, Read, Seek, SeekFrom},
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;

use crate::{checksum, virtual_ns::VirtualSpec};

#[derive(Clone)]
pub(crate) enum Segment {
    Bytes(Bytes),
    Virtual {
        spec: VirtualSpec,
        index: u64,
    },
    /// A file as it was found: bytes of another state of it are never handed out.
    File {
        path: Arc<PathBuf>,
        state: FileState,
    },
}

/// What tells that a file has changed, as far as the resolution of the file system's clock goes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct FileState {
    size: u64,
    modified: Option<SystemTime>,
}

impl FileState {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self { size: metadata.len(), modified: metadata.modified().ok() }
    }

    pub(crate) fn check(&self, metadata: &Metadata) -> io::Result<()> {
        if *self == Self::of(metadata) { Ok(()) } else { Err(io::Error::other("the file has changed")) }
    }
}

impl Segment {
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
                // Looked at after the bytes were read, so that it holds for them.
                state.check(&file.metadata()?)?;
                Ok(bytes.into())
            }
        }
    }
}

/// Segments in order, with the offset at which each one ends.
#[derive(Clone, Default)]
pub(crate) struct Content {
    segments: Arc<Vec<(u64, Segment)>>,
}

impl Content {
    pub(crate) fn new(segments: impl IntoIterator<Item = Segment>) -> Self {
        let mut end = 0;
        let placed = segments.into_iter().filter(|segment| segment.len() > 0).map(|segment| {
            end += segment.len();
            (end, segment)
        });
        Self { segments: Arc::new(placed.collect()) }
    }

    pub(crate) fn segments(&self) -> impl ExactSizeIterator<Item = &Segment> {
        self.segments.iter().map(|(_, segment)| segment)
    }

    pub(crate) fn len(&self) -> u64 {
        self.segments.last().map_or(0, |(end, _)| *end)
    }

    /// The bytes from `start` to `end` at the latest: at least one when the range is not empty, at most what one
    /// segment has, so that nothing is copied.
    ///
    /// # Errors
    /// When a file behind the segment is gone or is no longer what it was.
    pub(crate) fn read_some(&self, start: u64, end: u64) -> io::Result<Bytes> {
        let at = self.segments.partition_point(|(segment_end, _)| *segment_end <= start);
        let Some((segment_end, segment)) = self.segments.get(at).filter(|_| start < end) else {
            return Ok(Bytes::new());
        };
        let first = segment_end - segment.len();
        segment.read(start - first, end.min(*segment_end) - first)
    }

    /// The whole range in one buffer.
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

/// CRC32C and MD5 of a body in pieces.
pub(crate) fn hashes(pieces: &[Bytes]) -> (u32, [u8; 16]) {
    let (mut crc, mut md5) = (0, checksum::Md5Stream::default());
    for piece in pieces {
        crc = crc32c::crc32c_append(crc, piece);
        md5.update(piece);
    }
    (crc, md5.finish())
}
