//! All bytes of an object at once: in one buffer, in a file, or both.

use std::ops::Range;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use tokio::task::JoinSet;

use super::file::{FileWriter, PER_STREAM, PartialFile};
use super::{Download, Lanes, PartSum, Receipt};
use crate::store::Payload;
use crate::{Error, ErrorKind, Result, Stage};

/// How often an object whose bytes don't match is read: transport damages a few bytes in a while; damage that stays is not
/// in the transport.
const READS: usize = 3;

impl Download {
    pub(crate) async fn whole(mut self, memory: bool, path: Option<&Path>) -> Result<(Bytes, Receipt)> {
        let mut reads = 1;
        loop {
            match self.read_whole(memory, path).await {
                Err(error) if error.kind() == ErrorKind::Integrity && reads < READS => {
                    reads += 1;
                    tracing::warn!(%error, "reading again");
                    self.client = self.client.repeating();
                }
                outcome => return outcome.map_err(|error| error.stage(Stage::Fetch).object(&self.id)),
            }
        }
    }

    /// All bytes, and the CRCs of them, told and computed: for whoever proves them.
    pub(crate) async fn into_payload(mut self) -> Result<Payload> {
        let lanes = self.lanes();
        let (bytes, sum) = self.read_parts(true, None, &lanes).await.map_err(|error| error.object(&self.id))?;
        let generation = sum.generation.unwrap_or_default();
        Ok(Payload { bytes, generation, stored_size: None, crc32c: sum.told, computed: sum.crc32c })
    }

    async fn read_whole(&mut self, memory: bool, path: Option<&Path>) -> Result<(Bytes, Receipt)> {
        let lanes = self.lanes();
        let file = match path {
            Some(path) => Some(PartialFile::create(path, self.size).await?),
            None => None,
        };
        let (bytes, sum) = if file.is_none() && self.parts(u64::MAX).is_one() {
            self.read_alone(&lanes).await?
        } else {
            self.read_parts(memory, file.as_ref(), &lanes).await?
        };
        let receipt = self.prove(&sum)?;
        if let Some(file) = file {
            file.name(self.sync).await?;
        }
        Ok((bytes, receipt))
    }

    /// Where there is but one part, one chunk may be all, and then it is not copied.
    async fn read_alone(&self, lanes: &Lanes) -> Result<(Bytes, PartSum)> {
        let mut sum = PartSum::default();
        if self.size == 0 {
            return Ok((Bytes::new(), sum));
        }
        let lane = lanes.stream().await;
        let read = lane.client(&self.client).read(&self.id, None, self.size).await?;
        lane.done(self.size);
        sum.push(&read.bytes);
        (sum.generation, sum.told) = (Some(read.generation), read.crc32c);
        Ok((read.bytes, sum))
    }

    async fn read_parts(
        &mut self,
        memory: bool,
        file: Option<&PartialFile>,
        lanes: &Lanes,
    ) -> Result<(Bytes, PartSum)> {
        let cut = self.parts(u64::MAX);
        if !cut.is_one() {
            self.pin().await?;
        }
        let mut rest = if memory { Some(buffer(self.size)?) } else { None };
        let mut parts = cut.enumerate();
        let mut read: Vec<Option<(Option<BytesMut>, PartSum)>> = Vec::new();
        // Dropping it, as any error does, ends the reads that are under way.
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
            sum.append(&part);
            if let Some(buffer) = buffer {
                // They lie behind each other in one allocation, so nothing is copied.
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
        // Bytes before a stream, as everywhere: then whoever has a stream waits for nobody.
        let _held = match &writer {
            Some(_) => Some(lanes.budget.take(PER_STREAM.min(range.end - range.start).min(lanes.budget.bytes())).await),
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
        lane.done(sum.length);
        if let Some(writer) = writer {
            writer.finish().await?;
        }
        Ok((buffer, sum.told_by(&stream)))
    }
}

/// Room for so many bytes, which is what a listing said and may be anything.
fn buffer(size: u64) -> Result<BytesMut> {
    let size = usize::try_from(size).ok().filter(|&size| Vec::<u8>::new().try_reserve_exact(size).is_ok());
    size.map(BytesMut::with_capacity).ok_or_else(|| {
        Error::new(ErrorKind::Config, "no memory for all of the object").hint("take it in chunks, or into a file")
    })
}
