//! Large objects read in several ranges at once: in order as chunks, into memory, into a file, or both.

mod chunks;
mod file;
mod whole;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::budget::{Budget, Gauge};
use crate::crc;
use crate::pacing::throttle::{CallSlot, Throttle};
use crate::plan::parts::RangeParts;
use crate::store::{Client, ObjectId, RangeStream};
use crate::{Error, ErrorKind, Result, Stage};

pub(crate) use crate::plan::parts::RangeSettings;
pub use crate::plan::parts::{MAX_STREAMS, MIN_PART_SIZE};
pub use chunks::{Chunk, Chunks};

/// Bytes held by chunks unless told otherwise: eight streams of 24 MiB, and a quarter to spare.
pub const MEMORY_BUDGET: u64 = 256 << 20;

/// One object to be read, in several ranges at once where it is large.
///
/// The bytes are of one generation, and are held against their CRC32C before the last of them is handed out. A part whose
/// body breaks off is resumed from the bytes that came.
///
/// Must be used on a tokio runtime. Dropping what it hands out ends its tasks.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_time().build()?.block_on(async {
/// use std::sync::Arc;
/// use dataflux::read::Download;
/// use dataflux::store::{Client, MemoryStore, ObjectId};
///
/// let store = MemoryStore::new();
/// let generation = store.insert("cats", "tom.txt", "meow");
/// let client = Client::new(Arc::new(store));
/// let id = ObjectId::new("cats", "tom.txt", generation);
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
    client: Client,
    id: ObjectId,
    size: u64,
    crc32c: Option<u32>,
    min_part_size: u64,
    max_streams: usize,
    memory_budget: u64,
    lanes: Option<Lanes>,
    sync: bool,
}

/// What is known of an object once all its bytes have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Receipt {
    /// The generation that the bytes are of; `None` for an empty object whose generation nobody named.
    pub generation: Option<i64>,
    /// CRC32C of the bytes that came.
    pub crc32c: u32,
    /// Whether that was held against a CRC of the object that the listing or the service told.
    pub verified: bool,
}

/// Streams and bytes that several downloads have between them.
#[derive(Clone, Debug)]
pub struct Lanes {
    gate: StreamGate,
    budget: Budget,
}

/// What a stream waits for before it begins.
#[derive(Clone, Debug)]
enum StreamGate {
    Streams(Arc<Semaphore>),
    /// With the number by which this download's calls are let through.
    Throttle(Arc<Throttle>, u64),
}

/// The right to one stream, for as long as it is held.
enum StreamSlot {
    Stream(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit),
    Call(CallSlot),
}

impl StreamSlot {
    /// A client whose calls are this stream's.
    fn client(&self, client: &Client) -> Client {
        match self {
            Self::Stream(_) => client.clone(),
            Self::Call(slot) => client.with_observer(slot.watch()),
        }
    }

    /// So many bytes came.
    fn done(self, bytes: u64) {
        if let Self::Call(slot) = self {
            slot.done(bytes);
        }
    }
}

impl Lanes {
    /// At most so many streams at once and so many bytes on their way, 1 of each at least.
    pub fn new(streams: usize, bytes: u64) -> Self {
        let streams = streams.clamp(1, Semaphore::MAX_PERMITS);
        let gate = StreamGate::Streams(Arc::new(Semaphore::new(streams)));
        Self { gate, budget: Budget::new(bytes, Gauge::default()) }
    }

    /// For a download into memory whose bytes are counted elsewhere: streams are let through as calls are.
    pub(crate) fn throttled(throttle: Arc<Throttle>, number: u64) -> Self {
        Self { gate: StreamGate::Throttle(throttle, number), budget: Budget::new(0, Gauge::default()) }
    }

    /// Waits for the right to a stream.
    async fn stream(&self) -> StreamSlot {
        match &self.gate {
            StreamGate::Streams(streams) => {
                StreamSlot::Stream(Arc::clone(streams).acquire_owned().await.expect("the semaphore is never closed"))
            }
            StreamGate::Throttle(throttle, number) => StreamSlot::Call(throttle.acquire(*number).await),
        }
    }
}

impl Download {
    /// The object `id` of `size` bytes, of this CRC32C where a listing told it. Without a generation the live one is read,
    /// and if there are several parts looked up before, so that all are of the same.
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

    /// Sets the least bytes worth a call of their own, 8 MiB by default: an object of less than twice as many is read by
    /// one. The last part, and with a small memory budget all, may be of less.
    pub fn min_part_size(mut self, bytes: u64) -> Self {
        self.min_part_size = bytes;
        self
    }

    /// Sets the most ranges read at once; 8 by default, 1 at least.
    pub fn max_streams(mut self, streams: usize) -> Self {
        self.max_streams = streams.max(1);
        self
    }

    /// Sets the most bytes to hold, 256 MiB by default: of chunks those that were asked of the service and are not dropped
    /// yet, and of a file those that aren't written yet. What [`into_memory`](Self::into_memory) returns is not part of it.
    /// More makes for larger parts, and so for less time lost to first bytes.
    pub fn memory_budget(mut self, bytes: u64) -> Self {
        self.memory_budget = bytes;
        self
    }

    /// Takes streams and bytes from those that several downloads share, instead of a budget of its own.
    pub fn within(mut self, lanes: &Lanes) -> Self {
        self.lanes = Some(lanes.clone());
        self
    }

    /// Sets whether a file is on the disk, and not only on its way there, before it gets its name; true by default. Without
    /// this a crash of the system may leave a file of the right name with the wrong bytes.
    pub fn sync(mut self, sync: bool) -> Self {
        self.sync = sync;
        self
    }

    /// The bytes in order, as they come. Later parts are read ahead as far as the memory budget has room for them.
    ///
    /// Nothing is proved before the end: **bytes that turn out to be wrong have been handed out by then**, all but the last
    /// chunk, in whose place there is an error.
    pub fn chunks(self) -> Chunks {
        Chunks::new(self)
    }

    /// The bytes in one buffer, proved. Bytes that don't match their CRC are read again, three times in all.
    ///
    /// # Errors
    /// [`Changed`](ErrorKind::Changed) when the generation is gone, [`Integrity`](ErrorKind::Integrity) when the object is
    /// of another length or its bytes don't have its CRC, [`Config`](ErrorKind::Config) when memory can't hold it, and
    /// whatever the client's policy gave up on.
    ///
    /// # Cancel safety
    /// Dropping the future drops the bytes and leaves nothing behind.
    pub async fn into_memory(self) -> Result<(Bytes, Receipt)> {
        self.whole(true, None).await
    }

    /// The bytes in a file, proved. They are written to another name in the same folder, and the file takes the place of
    /// what is at `path` once it is whole. Bytes that don't match their CRC are read again, three times in all.
    ///
    /// # Errors
    /// As for [`into_memory`](Self::into_memory), and [`Io`](ErrorKind::Io) when the file can't be written. What was at
    /// `path` is as it was then.
    ///
    /// # Cancel safety
    /// Dropping the future removes what was written; a file that was whole may still get its name.
    pub async fn into_file(self, path: impl AsRef<Path>) -> Result<Receipt> {
        self.whole(false, Some(path.as_ref())).await.map(|(_, receipt)| receipt)
    }

    /// As [`into_memory`](Self::into_memory) and [`into_file`](Self::into_file), of one read.
    ///
    /// # Errors
    /// As for both.
    pub async fn into_memory_and_file(self, path: impl AsRef<Path>) -> Result<(Bytes, Receipt)> {
        self.whole(true, Some(path.as_ref())).await
    }

    /// Ranges of no more than `most` bytes each, in order.
    fn parts(&self, most: u64) -> RangeParts {
        RangeParts::of(self.size, self.min_part_size, self.max_streams, most)
    }

    fn lanes(&self) -> Lanes {
        self.lanes.clone().unwrap_or_else(|| Lanes::new(self.max_streams, self.memory_budget))
    }

    /// Finds out which generation is live, where none was named and several answers must agree on it.
    async fn pin(&mut self) -> Result<()> {
        if self.id.generation.is_some() {
            return Ok(());
        }
        let meta = self.client.stat(&self.id).await?;
        self.id.generation = Some(meta.generation);
        self.crc32c = self.crc32c.or(meta.crc32c);
        Ok(())
    }

    /// The same download by the calls of one stream.
    fn by(mut self, lane: &StreamSlot) -> Self {
        self.client = lane.client(&self.client);
        self
    }

    fn stream(&self, part: Range<u64>) -> RangeStream<'_> {
        self.client.stream(self.id.clone(), part, self.size)
    }

    /// Holds what came against what was to come.
    fn prove(&self, sum: &PartSum) -> Result<Receipt> {
        let wanted = self.crc32c.or(sum.told);
        if let Some(wanted) = wanted
            && wanted != sum.crc32c
        {
            return Err(Error::new(ErrorKind::Integrity, "the bytes read are not those that were listed")
                .stage(Stage::Fetch)
                .object(&self.id)
                .mismatch(format_args!("crc32c {wanted:08x}"), format_args!("{:08x}", sum.crc32c))
                .hint("something between here and the bucket damages data, or the listing is not of this bucket"));
        }
        let generation = self.id.generation.or(sum.generation);
        Ok(Receipt { generation, crc32c: sum.crc32c, verified: wanted.is_some() })
    }
}

/// What is known of a part, or of parts in a row.
#[derive(Clone, Copy, Debug, Default)]
struct PartSum {
    length: u64,
    crc32c: u32,
    generation: Option<i64>,
    /// CRC of the whole object by the service's word.
    told: Option<u32>,
}

impl PartSum {
    fn push(&mut self, chunk: &[u8]) {
        self.crc32c = crc32c::crc32c_append(self.crc32c, chunk);
        self.length += chunk.len() as u64;
    }

    /// Adds what comes behind.
    fn append(&mut self, next: &Self) {
        self.crc32c = crc::combine(self.crc32c, next.crc32c, next.length);
        self.length += next.length;
        self.generation = self.generation.or(next.generation);
        self.told = self.told.or(next.told);
    }

    fn told_by(mut self, stream: &RangeStream<'_>) -> Self {
        self.generation = stream.generation();
        self.told = stream.crc32c();
        self
    }
}
