//! All bytes of an object at once: into one buffer, into a file, or into both.

use std::ops::Range;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::task::JoinSet;

use super::download::{Download, PartSum, Receipt};
use super::file::{FileWriter, PartialFile, STREAM_BYTES};
use super::lanes::Lanes;
use crate::store::Payload;
use crate::{Error, ErrorKind, Result, Stage};

/// How often an object whose bytes don't match is read. Damage in transport is rare and passes; damage that stays has
/// another cause.
const MAX_READS: usize = 3;

impl Download {
    /// Reads the bytes into one buffer, and proves them. If they don't match their CRC32C, they are read again, three
    /// times in all.
    ///
    /// # Errors
    /// [`Changed`](ErrorKind::Changed) if the version is gone, [`Integrity`](ErrorKind::Integrity) if the object has
    /// another length or its bytes don't have its CRC32C, [`Config`](ErrorKind::Config) if memory can't hold it, and
    /// any error that retries didn't help against.
    ///
    /// # Cancel safety
    /// Dropping the future drops the bytes and leaves nothing behind.
    pub async fn into_memory(self) -> Result<(Bytes, Receipt)> {
        self.whole(None).await
    }

    /// Reads the bytes into a file, and proves them. They are written under another name in the same folder, and the
    /// file replaces what is at `path` once it is whole. If the bytes don't match their CRC32C, they are read again,
    /// three times in all.
    ///
    /// # Errors
    /// As for [`into_memory`](Self::into_memory), and [`Io`](ErrorKind::Io) if the file can't be written. On an error,
    /// what was at `path` is unchanged.
    ///
    /// # Cancel safety
    /// Dropping the future removes what was written; a file that was already whole may still be renamed to `path`.
    pub async fn into_file(self, path: impl AsRef<Path>) -> Result<Receipt> {
        self.whole(Some(path.as_ref())).await.map(|(_, receipt)| receipt)
    }

    /// Reads all bytes, into a file if there is a `path`, else into memory, and proves them.
    async fn whole(mut self, path: Option<&Path>) -> Result<(Bytes, Receipt)> {
        let mut reads = 1;
        loop {
            match self.read_whole(path).await {
                Err(error) if error.kind() == ErrorKind::Integrity && reads < MAX_READS => {
                    reads += 1;
                    tracing::warn!(%error, "reading again");
                    self.client = self.client.repeating();
                }
                outcome => return outcome.map_err(|error| error.stage(Stage::Fetch).object(&self.id)),
            }
        }
    }

    /// Reads all bytes, with the CRC32C that was sent and the computed one. The caller proves them.
    pub(crate) async fn into_payload(mut self) -> Result<Payload> {
        let lanes = self.lanes();
        let (bytes, sum) = self.read_parts(None, &lanes).await.map_err(|error| error.object(&self.id))?;
        let version = sum.version;
        Ok(Payload { bytes, version, stored_size: None, crc32c: sum.sent_crc32c, computed: sum.crc32c })
    }

    /// Reads all bytes into `target`, which has as many, with the CRC32C that was sent and the computed one. The caller
    /// proves them.
    pub(crate) async fn into_slice(mut self, mut target: &mut [u8]) -> Result<(Option<u32>, u32)> {
        let (lanes, cut) = (self.lanes(), self.parts(u64::MAX));
        if !cut.is_one() {
            self.pin_version().await?;
        }
        let (download, lanes) = (&self, &lanes);
        let mut reads = Vec::new();
        for range in cut {
            let (part, behind) = target.split_at_mut((range.end - range.start) as usize);
            target = behind;
            reads.push(async move { download.clone().fill(range, part, lanes).await });
        }
        let sums: Vec<_> = stream::iter(reads).buffered(self.max_streams).try_collect().await?;

        let mut sum = PartSum::default();
        for part in sums {
            sum.append(part);
        }
        Ok((sum.sent_crc32c, sum.crc32c))
    }

    /// Reads a range into `target`, which has as many bytes.
    async fn fill(self, range: Range<u64>, target: &mut [u8], lanes: &Lanes) -> Result<PartSum> {
        let lane = lanes.stream().await;
        let part = self.by(&lane);
        let mut stream = part.stream(range);
        let mut sum = PartSum::default();
        // The stream brings as many bytes as the range has.
        while let Some(chunk) = stream.next().await? {
            let at = sum.length as usize;
            target[at..at + chunk.len()].copy_from_slice(&chunk);
            sum.push(&chunk);
        }
        lane.finish(sum.length);
        Ok(sum.with_answer(&stream))
    }

    async fn read_whole(&mut self, path: Option<&Path>) -> Result<(Bytes, Receipt)> {
        let lanes = self.lanes();
        let file = match path {
            Some(path) => Some(PartialFile::create(path, self.size).await?),
            None => None,
        };
        let (bytes, sum) = if file.is_none() && self.parts(u64::MAX).is_one() {
            self.read_single(&lanes).await?
        } else {
            self.read_parts(file.as_ref(), &lanes).await?
        };
        let receipt = self.prove(&sum)?;
        if let Some(file) = file {
            file.rename(self.sync).await?;
        }
        Ok((bytes, receipt))
    }

    /// Reads an object of one part. If all of it comes in one chunk, nothing is copied.
    async fn read_single(&self, lanes: &Lanes) -> Result<(Bytes, PartSum)> {
        let mut sum = PartSum::default();
        if self.size == 0 {
            return Ok((Bytes::new(), sum));
        }
        let lane = lanes.stream().await;
        let read = lane.client(&self.client).read(&self.id, None, self.size).await?;
        lane.finish(self.size);
        sum.push(&read.bytes);
        (sum.version, sum.sent_crc32c) = (read.version, read.crc32c);
        Ok((read.bytes, sum))
    }

    async fn read_parts(&mut self, file: Option<&PartialFile>, lanes: &Lanes) -> Result<(Bytes, PartSum)> {
        let cut = self.parts(u64::MAX);
        if !cut.is_one() {
            self.pin_version().await?;
        }
        let mut rest = if file.is_none() { Some(buffer(self.size)?) } else { None };
        let mut parts = cut.enumerate();
        let mut read: Vec<Option<(Option<BytesMut>, PartSum)>> = Vec::new();
        // An error drops the set, which cancels the reads under way.
        let mut reads = JoinSet::new();
        loop {
            while reads.len() < self.max_streams
                && let Some((number, range)) = parts.next()
            {
                let buffer = rest.as_mut().map(|rest| {
                    let behind = rest.split_off((range.end - range.start) as usize);
                    std::mem::replace(rest, behind)
                });
                let writer = file.map(|file| file.writer(range.start));
                let (download, lanes) = (self.clone(), lanes.clone());
                read.push(None);
                reads.spawn(async move {
                    let part = download.read_part(range, buffer, writer, &lanes).await?;
                    Ok((number, part))
                });
            }
            let Some(done) = reads.join_next().await else { break };
            let panicked = |_| Err(Error::new(ErrorKind::Internal, "a task of the network threads panicked"));
            let (number, part) = done.unwrap_or_else(panicked)?;
            read[number] = Some(part);
        }

        let (mut bytes, mut sum) = (BytesMut::new(), PartSum::default());
        for (buffer, part) in read.into_iter().flatten() {
            sum.append(part);
            if let Some(buffer) = buffer {
                // The buffers are adjacent in one allocation, so nothing is copied.
                bytes.unsplit(buffer);
            }
        }
        Ok((bytes.freeze(), sum))
    }

    async fn read_part(
        self,
        range: Range<u64>,
        mut buffer: Option<BytesMut>,
        mut writer: Option<FileWriter>,
        lanes: &Lanes,
    ) -> Result<(Option<BytesMut>, PartSum)> {
        // Bytes before a stream, as everywhere, so that a holder of a stream never waits.
        let _held = match &writer {
            Some(_) => {
                Some(lanes.budget.take(STREAM_BYTES.min(range.end - range.start).min(lanes.budget.bytes())).await)
            }
            None => None,
        };
        let lane = lanes.stream().await;
        let part = self.by(&lane);
        let mut stream = part.stream(range);
        let mut sum = PartSum::default();

        while let Some(chunk) = stream.next().await? {
            sum.push(&chunk);
            if let Some(buffer) = &mut buffer {
                buffer.extend_from_slice(&chunk);
            }
            if let Some(writer) = &mut writer {
                writer.push(chunk).await?;
            }
        }

        lane.finish(sum.length);
        if let Some(writer) = writer {
            writer.finish().await?;
        }
        Ok((buffer, sum.with_answer(&stream)))
    }
}

/// A buffer of `size` bytes, which is what a listing says and may be anything.
fn buffer(size: u64) -> Result<BytesMut> {
    let size = usize::try_from(size).ok().filter(|&size| Vec::<u8>::new().try_reserve_exact(size).is_ok());
    size.map(BytesMut::with_capacity).ok_or_else(|| {
        Error::new(ErrorKind::Config, "no memory for all of the object").hint("take it in chunks, or into a file")
    })
}
