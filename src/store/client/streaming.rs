//! A read whose bytes are handed on as they come.

use std::ops::Range;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::time::timeout;

use super::{Amount, BodyRead, Client, ClientCall, END_MARK};
use crate::metrics::{add, count};
use crate::store::ObjectId;
use crate::{Error, ErrorKind, Result};

/// A read under way of a range of an object, or of all of it. A body that breaks off, with an error or silently, is
/// resumed from the bytes that were handed on, out of the same generation.
pub(crate) struct RangeStream<'a> {
    call: ClientCall<'a>,
    /// The generation is filled in by the first answer.
    id: ObjectId,
    /// Bytes of the object.
    whole: u64,
    missing: Range<u64>,
    crc32c: Option<u32>,
    body: Option<BoxStream<'static, Result<Bytes>>>,
    /// Whether the present try brought bytes.
    moved: bool,
}

impl Client {
    /// Reads `range` of an object of `whole` bytes. The time that the caller takes between two chunks counts as time of
    /// the call, so it is for callers that don't wait for others.
    pub(crate) fn stream(&self, id: ObjectId, range: Range<u64>, whole: u64) -> RangeStream<'_> {
        let call =
            ClientCall::new(self, true, range.end.saturating_sub(range.start)).refusals(&self.metrics.get_refused);
        let call = call.stalled_after(self.read_stall);
        RangeStream { call, id, whole, missing: range, crc32c: None, body: None, moved: false }
    }
}

impl RangeStream<'_> {
    /// The next bytes; `None` once all have come. None of a chunk is empty.
    ///
    /// # Errors
    /// As for [`Client::read`].
    ///
    /// # Cancel safety
    /// Dropping the future loses no bytes.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        let outcome = self.next_tried().await;
        self.call.end(outcome)
    }

    async fn next_tried(&mut self) -> Result<Option<Bytes>> {
        loop {
            let error = match self.try_next().await {
                Ok(Some(chunk)) => {
                    self.missing.start += chunk.len() as u64;
                    add(&self.call.client.metrics.bytes_received, chunk.len() as u64);
                    self.call.progress();
                    self.moved = true;
                    return Ok(Some(chunk));
                }
                Ok(None) => return Ok(None),
                Err(error) => error,
            };
            self.body = None;
            if error.is_not_found()
                && let Some(generation) = self.id.generation
            {
                return Err(self.call.client.changed(&self.id, generation, error).await);
            }
            if !std::mem::take(&mut self.moved) && error.kind() == ErrorKind::Timeout {
                self.call.wait_longer();
            }
            self.call.recover(error, &self.id).await?;
        }
    }

    /// The generation that the bytes are of, once some have come.
    pub(crate) fn generation(&self) -> Option<i64> {
        self.id.generation
    }

    /// CRC of the whole stored object, where the service told one.
    pub(crate) fn crc32c(&self) -> Option<u32> {
        self.crc32c
    }

    async fn try_next(&mut self) -> Result<Option<Bytes>> {
        let full = self.missing.is_empty();
        let body = match &mut self.body {
            Some(body) => body,
            None if full => return Ok(None),
            None => {
                let body = self.open().await?;
                self.body.insert(body)
            }
        };
        loop {
            let patience = if full { self.call.patience().min(END_MARK) } else { self.call.patience() };
            let missing = self.missing.end - self.missing.start;
            let got = |what: &str| {
                Error::new(ErrorKind::Unavailable, what).mismatch(Amount(missing), "nothing more").object(&self.id)
            };
            match timeout(patience, body.next()).await {
                Ok(Some(Ok(chunk))) if chunk.is_empty() => {}
                Ok(Some(Ok(chunk))) if chunk.len() as u64 > missing => {
                    return Err(Error::new(ErrorKind::Integrity, "more bytes came than were asked for")
                        .object(&self.id)
                        .mismatch(Amount(missing), format!("at least {}", Amount(chunk.len() as u64))));
                }
                Ok(Some(Ok(chunk))) => return Ok(Some(chunk)),
                _ if full => {
                    self.body = None;
                    return Ok(None);
                }
                Ok(Some(Err(error))) => return Err(error),
                Ok(None) => return Err(got("the body ended early")),
                Err(_) => return Err(got(&format!("no bytes for {patience:.1?}")).with_kind(ErrorKind::Timeout)),
            }
        }
    }

    /// Asks for what is missing.
    async fn open(&mut self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let client = self.call.client;
        let all = self.missing == (0..self.whole);
        let range = (!all).then(|| self.missing.clone());
        count(&client.metrics.get);
        let body = self.call.within(client.store.get(&self.id, range.clone(), &self.call.attempt)).await;
        let body = self.call.answered(body)?;
        if body.stored_size.is_some_and(|stored| stored != self.whole) {
            return Err(Error::new(ErrorKind::Integrity, "the object is of another length than listed")
                .object(&self.id)
                .mismatch(Amount(self.whole), Amount(body.stored_size.unwrap_or_default()))
                .hint("list the prefix again"));
        }
        let crc32c = body.crc32c;
        let size = self.missing.end - self.missing.start;
        let mut reading = BodyRead::new(self.id.clone(), range, size, &client.buffers, client.hashes);
        let chunks = reading.check(body)?;
        self.id = reading.id;
        self.crc32c = self.crc32c.or(crc32c);
        Ok(chunks)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::store::{Call, Fault, FaultStore, MemoryStore};

    /// Neither the wait that a loader sets for reads nor its doubling held for reads of ranges.
    #[tokio::test(start_paused = true)]
    async fn a_slow_service_is_asked_again_and_waited_for_in_the_end() {
        let store = MemoryStore::new();
        let generation = store.insert("b", "o", "meow");
        let faults = FaultStore::new(Arc::new(store));
        let seconds = Duration::from_secs;
        let client = Client::new(Arc::new(faults.clone())).with_read_stall(Some(seconds(1)), seconds(10));
        faults.fail_next(Call::Get, Fault::Drip(seconds(5)), 100);
        let mut stream = client.stream(ObjectId::new("b", "o", generation), 1..4, 4);
        assert_eq!(stream.next().await.unwrap().unwrap(), "eow");
        assert_eq!(stream.next().await.unwrap(), None);
        assert_eq!(faults.calls(Call::Get), 4, "of 1, 2, 4 and 8 s");
    }
}
