//! A read under way: which bytes are wanted, which have arrived, and which answers fit. No I/O.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;

use super::buffers::{Buffer, Buffers};
use super::client::Payload;
use super::{Body, ByteRange, ObjectId, Version};
use crate::{Error, ErrorKind, Result};

/// Smallest body that is kept as the one chunk it came in, where buffers aren't reused. A smaller one is copied, since
/// the chunk may keep a read buffer many times its size alive, which no memory budget would count.
const MIN_KEPT_CHUNK: usize = 16 << 10;

/// A read under way.
pub(super) struct BodyRead {
    /// The first answer fills in the version.
    pub(super) id: ObjectId,
    range: Option<Range<u64>>,
    size: u64,
    sink: BodySink,
    head: Option<ReadHead>,
}

/// What the first answer reported about the object.
#[derive(Default)]
struct ReadHead {
    version: Version,
    stored_size: Option<u64>,
    crc32c: Option<u32>,
}

impl BodyRead {
    /// A read of all of `id`, or of `range` of it: `size` bytes.
    pub(super) fn new(
        id: ObjectId,
        range: Option<Range<u64>>,
        size: u64,
        buffers: &Arc<Buffers>,
        hashes: bool,
    ) -> Self {
        Self { id, range, size, sink: BodySink { hashes, ..BodySink::new(size, Arc::clone(buffers)) }, head: None }
    }

    /// Whether an answer to another request is of the same object, whatever was written meanwhile.
    pub(super) fn is_pinned(&self) -> bool {
        !self.id.version.is_none() || self.received() == 0
    }

    /// Drops the bytes received if the object has no version: the rest would be of whichever object is live then.
    pub(super) fn discard_unpinned(&mut self) {
        if !self.is_pinned() {
            let sink = BodySink::new(self.size, Arc::clone(&self.sink.buffers));
            self.sink = BodySink { hashes: self.sink.hashes, ..sink };
            self.head = None;
        }
    }

    /// Number of bytes that have arrived.
    pub(super) fn received(&self) -> u64 {
        self.sink.len() as u64
    }

    /// Whether all bytes have arrived.
    pub(super) fn is_full(&self) -> bool {
        self.received() == self.size
    }

    /// Adds a chunk, or refuses one that is too long. Returns how many of its bytes were copied.
    pub(super) fn push(&mut self, chunk: Bytes) -> Result<usize> {
        self.sink.push(chunk).map_err(|error| error.object(&self.id))
    }

    /// The error of a body that ended early without an error of its own.
    pub(super) fn ended(&self) -> Error {
        self.incomplete(Error::new(ErrorKind::Unavailable, "the body ended early"))
    }

    /// The error of a body that stopped arriving.
    pub(super) fn timed_out(&self, message: String) -> Error {
        self.incomplete(Error::new(ErrorKind::Timeout, message))
    }

    fn incomplete(&self, error: Error) -> Error {
        error.mismatch(Amount(self.size), Amount(self.received()))
    }

    /// The range to request.
    pub(super) fn missing(&self) -> ByteRange {
        let received = self.received();
        match &self.range {
            None if received == 0 => ByteRange::All,
            None => ByteRange::Bounded(received..self.size),
            Some(range) => ByteRange::Bounded(range.start + received..range.end),
        }
    }

    /// Checks that an answer is from the wanted version and fits the wanted range. Returns its bytes.
    pub(super) fn check(&mut self, body: Body) -> Result<BoxStream<'static, Result<Bytes>>> {
        if !self.id.version.is_none() && body.version != self.id.version {
            return Err(Error::new(ErrorKind::Changed, "the object was overwritten after it was listed")
                .object(&self.id)
                .mismatch(&self.id.version, &body.version)
                .hint("list the prefix again, and keep writers off it while it is read"));
        }

        let fits = match (&self.range, body.stored_size) {
            (_, None) => true,
            (None, Some(stored)) => stored == self.size,
            (Some(range), Some(stored)) => range.end <= stored,
        };
        if !fits {
            let wanted = match &self.range {
                None => Amount(self.size).to_string(),
                Some(range) => format!("bytes {}..{}", range.start, range.end),
            };
            return Err(Error::new(ErrorKind::Integrity, "the object is of another length than listed")
                .object(&self.id)
                .mismatch(wanted, Amount(body.stored_size.unwrap_or_default()))
                .hint("list the prefix again"));
        }

        self.id.version.clone_from(&body.version);
        let Body { version, stored_size, crc32c, chunks } = body;
        self.head.get_or_insert(ReadHead { version, stored_size, crc32c });
        Ok(chunks)
    }

    pub(super) fn finish(self) -> Payload {
        let head = self.head.unwrap_or_default();
        Payload {
            computed: self.sink.crc32c,
            bytes: self.sink.into_bytes(),
            version: head.version,
            stored_size: head.stored_size,
            crc32c: head.crc32c,
        }
    }
}

/// Collects the bytes of a body: in one buffer of the known size, or as the one chunk that is the whole body.
///
/// Chunks are copied as they arrive. A chunk that is kept would keep the connection's read buffer alive, and the
/// connection would need a fresh one for what follows. Copying costs less while the bytes are in the processor's cache
/// and the target is memory that was used before.
struct BodySink {
    size: u64,
    crc32c: u32,
    hashes: bool,
    whole: Option<Bytes>,
    buffer: Option<Buffer>,
    buffers: Arc<Buffers>,
}

impl BodySink {
    fn new(size: u64, buffers: Arc<Buffers>) -> Self {
        Self { size, crc32c: 0, hashes: true, whole: None, buffer: None, buffers }
    }

    fn len(&self) -> usize {
        self.whole.as_ref().map_or_else(|| self.buffer.as_ref().map_or(0, Buffer::len), Bytes::len)
    }

    /// Adds a chunk, or refuses one that is too long. Returns how many of its bytes were copied.
    fn push(&mut self, chunk: Bytes) -> Result<usize> {
        let total = self.len() as u64 + chunk.len() as u64;
        if total > self.size {
            return Err(Error::new(ErrorKind::Integrity, "more bytes came than were asked for")
                .mismatch(Amount(self.size), format!("at least {}", Amount(total))));
        }
        if chunk.is_empty() {
            return Ok(0);
        }
        if self.hashes {
            self.crc32c = crc32c::crc32c_append(self.crc32c, &chunk);
        }

        let is_whole_body = self.len() == 0 && total == self.size;
        if is_whole_body && chunk.len() >= MIN_KEPT_CHUNK && !self.buffers.serves(chunk.len()) {
            self.whole = Some(chunk);
            return Ok(0);
        }

        let buffer = match &mut self.buffer {
            Some(buffer) => buffer,
            // The size comes from a listing, and may be any number.
            none => none.insert(
                usize::try_from(self.size).ok().and_then(|size| self.buffers.take(size).ok()).ok_or_else(|| {
                    Error::new(ErrorKind::Config, format!("no memory for {}", Amount(self.size)))
                        .hint("read it in ranges")
                })?,
            ),
        };
        buffer.extend(&chunk);
        Ok(chunk.len())
    }

    fn into_bytes(self) -> Bytes {
        self.whole.or_else(|| self.buffer.map(Buffer::freeze)).unwrap_or_default()
    }
}

/// A number of bytes, written with its unit.
pub(super) struct Amount(pub(super) u64);

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} byte{}", self.0, if self.0 == 1 { "" } else { "s" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_that_no_memory_holds_is_an_error() {
        for size in [u64::MAX, 1 << 62] {
            let error = BodySink::new(size, Arc::default()).push(Bytes::from_static(b"x")).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        }
    }

    #[test]
    fn chunks_are_collected_in_one_buffer() {
        let mut sink = BodySink::new(6, Arc::default());
        for chunk in ["ab", "", "c", "def"] {
            sink.push(Bytes::from_static(chunk.as_bytes())).unwrap();
        }
        assert_eq!(sink.buffer.as_ref().unwrap().len(), 6);
        assert_eq!(sink.push(Bytes::from_static(b"g")).unwrap_err().kind(), ErrorKind::Integrity);
        assert_eq!(sink.crc32c, crc32c::crc32c(b"abcdef"));
        assert_eq!(sink.into_bytes(), "abcdef");
    }
}
