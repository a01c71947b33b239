//! A download of one object: its settings, and the proof of its bytes.

use std::ops::Range;

use super::lanes::{Lanes, StreamSlot};
use crate::crc;
use crate::plan::parts::{MAX_STREAMS, MIN_PART_SIZE, RangeParts};
use crate::store::{Client, ObjectId, RangeStream, Version};
use crate::{Error, ErrorKind, Result, Stage};

/// Default limit on the bytes that chunks hold: eight streams of 24 MiB, and a quarter to spare.
pub const MEMORY_BUDGET: u64 = 256 << 20;

/// A download of one object, in several ranges at once if the object is large.
///
/// All bytes are of one version, and are compared with their CRC32C before the last of them is handed out. A part
/// whose body breaks off is resumed from the bytes that came. Where the store reports neither versions nor checksums,
/// a part that breaks off is an error, and nothing shows whether the object was overwritten between two parts:
/// [`Receipt::verified`] is false.
///
/// Must be used on a tokio runtime. Dropping the returned futures and streams cancels the reads.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// use std::sync::Arc;
/// use dataflux::read::Download;
/// use dataflux::store::{Client, MemoryStore, ObjectId};
///
/// let store = MemoryStore::new();
/// let version = store.insert("cats", "tom.txt", "meow");
/// let client = Client::new(Arc::new(store));
/// let id = ObjectId::new("cats", "tom.txt", version);
/// let download = Download::of(&client, id, 4, None).min_part_size(1).max_streams(4);
///
/// let mut chunks = download.clone().chunks();
/// while let Some(chunk) = chunks.next().await {
///     let chunk = chunk?;
///     println!("{} bytes from byte {}", chunk.len(), chunk.offset());
/// }
/// let (bytes, receipt) = download.into_memory().await?;
/// assert_eq!((&bytes[..], receipt.verified), (&b"meow"[..], true));
/// # Ok::<_, dataflux::Error>(()) })?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a download does nothing until its bytes are asked for"]
pub struct Download {
    pub(super) client: Client,
    pub(super) id: ObjectId,
    pub(super) size: u64,
    pub(super) crc32c: Option<u32>,
    pub(super) min_part_size: u64,
    pub(super) max_streams: usize,
    memory_budget: u64,
    pub(super) lanes: Option<Lanes>,
    pub(super) sync: bool,
}

/// What is known of an object once all its bytes were received.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The version of the bytes; [`Version::None`] for an empty object if no version was given.
    pub version: Version,
    /// CRC32C of the bytes that were received.
    pub crc32c: u32,
    /// Whether it was compared with a CRC32C of the object from the listing or the service.
    pub verified: bool,
}

impl Download {
    /// A download of the object `id` of `size` bytes, with its CRC32C if a listing has it. Without a version the
    /// live one is read; if there are several parts, the version is looked up first, so that all parts are of the same.
    pub fn of(client: &Client, id: ObjectId, size: u64, crc32c: Option<u32>) -> Self {
        Self {
            client: client.clone(),
            id,
            size,
            crc32c,
            min_part_size: MIN_PART_SIZE,
            max_streams: MAX_STREAMS,
            memory_budget: MEMORY_BUDGET,
            lanes: None,
            sync: true,
        }
    }

    /// Sets the smallest part in bytes, 8 MiB by default. An object of less than twice as many bytes is read by one
    /// call. The last part may be smaller, and with a small memory budget all may be.
    pub fn min_part_size(mut self, bytes: u64) -> Self {
        self.min_part_size = bytes;
        self
    }

    /// Reads all bytes by one call.
    pub(crate) fn in_one_call(mut self) -> Self {
        // No object has two parts of this size.
        self.min_part_size = u64::MAX;
        self
    }

    /// Sets how many ranges are read at once at most; 8 by default, at least 1.
    pub fn max_streams(mut self, streams: usize) -> Self {
        self.max_streams = streams.max(1);
        self
    }

    /// Sets how many bytes are held at most, 256 MiB by default: of chunks, those that were requested and not dropped
    /// yet; of a file, those that are not written yet. What [`into_memory`](Self::into_memory) returns is not counted.
    /// A larger budget makes larger parts, and so less time is lost to first bytes.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// Uses the streams and bytes of `lanes`, which several downloads may share, instead of an own budget.
    pub fn within(mut self, lanes: &Lanes) -> Self {
        self.lanes = Some(lanes.clone());
        self
    }

    /// Sets whether a file is synced to the disk before it gets its name; true by default. Without this, a crash of the
    /// system may leave a file with the right name and the wrong bytes.
    pub fn sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }

    /// Ranges of at most `max_part_size` bytes each, in order.
    pub(super) fn parts(&self, max_part_size: u64) -> RangeParts {
        RangeParts::of(self.size, self.min_part_size, self.max_streams, max_part_size)
    }

    pub(super) fn lanes(&self) -> Lanes {
        self.lanes.clone().unwrap_or_else(|| Lanes::new(self.max_streams, self.memory_budget))
    }

    /// Looks up the live version if none was given, because the answers to several calls must be of the same.
    pub(super) async fn pin_version(&mut self) -> Result<()> {
        if !self.id.version.is_none() {
            return Ok(());
        }
        let meta = self.client.stat(&self.id).await?;
        self.id.version = meta.version;
        self.crc32c = self.crc32c.or(meta.crc32c);
        Ok(())
    }

    /// The same download with the calls of one stream.
    pub(super) fn by(mut self, lane: &StreamSlot) -> Self {
        self.client = lane.client(&self.client);
        self
    }

    pub(super) fn stream(&self, part: Range<u64>) -> RangeStream<'_> {
        self.client.stream(self.id.clone(), part, self.size)
    }

    /// Compares the received bytes with what was listed or sent.
    pub(super) fn prove(&self, sum: &PartSum) -> Result<Receipt> {
        let wanted = self.crc32c.or(sum.sent_crc32c);
        if let Some(wanted) = wanted
            && wanted != sum.crc32c
        {
            return Err(Error::new(ErrorKind::Integrity, "the bytes read are not those that were listed")
                .stage(Stage::Fetch)
                .object(&self.id)
                .mismatch(format_args!("crc32c {wanted:08x}"), format_args!("{:08x}", sum.crc32c))
                .hint("something between here and the bucket damages data, or the listing is not of this bucket"));
        }
        let version = self.id.version.clone().or(sum.version.clone());
        Ok(Receipt { version, crc32c: sum.crc32c, verified: wanted.is_some() })
    }
}

/// What is known of the bytes of a part, or of consecutive parts.
#[derive(Clone, Debug, Default)]
pub(super) struct PartSum {
    pub(super) length: u64,
    pub(super) crc32c: u32,
    pub(super) version: Version,
    /// CRC32C of the whole object, if the service sent it.
    pub(super) sent_crc32c: Option<u32>,
}

impl PartSum {
    pub(super) fn push(&mut self, chunk: &[u8]) {
        self.crc32c = crc32c::crc32c_append(self.crc32c, chunk);
        self.length += chunk.len() as u64;
    }

    /// Adds the part that follows.
    pub(super) fn append(&mut self, next: Self) {
        self.crc32c = crc::combine(self.crc32c, next.crc32c, next.length);
        self.length += next.length;
        self.version = std::mem::take(&mut self.version).or(next.version);
        self.sent_crc32c = self.sent_crc32c.or(next.sent_crc32c);
    }

    /// Adds what the service's answer says of the object.
    pub(super) fn with_answer(mut self, stream: &RangeStream<'_>) -> Self {
        self.version.clone_from(stream.version());
        self.sent_crc32c = stream.crc32c();
        self
    }
}
