//! A read whose bytes are passed on as they arrive.

use std::ops::Range;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::time::timeout;

use super::Client;
use super::call::ClientCall;
use super::read::patience;
use crate::store::reading::{Amount, BodyRead};
use crate::store::{ByteRange, ObjectId, Version};
use crate::{Error, ErrorKind, Result};

/// A read under way of a range of an object, or of all of it. A body that breaks off, with an error or silently, is
/// resumed after the bytes that were passed on, from the same version. Where the store reports neither versions nor
/// checksums, that is an error, because nothing would show that the rest is of another object.
pub(crate) struct RangeStream<'a> {
    call: ClientCall<'a>,
    /// The first answer fills in the version.
    id: ObjectId,
    /// Bytes of the whole object.
    object_size: u64,
    missing: Range<u64>,
    /// Bytes of the range.
    size: u64,
    crc32c: Option<u32>,
    body: Option<BoxStream<'static, Result<Bytes>>>,
    /// Whether the present attempt brought bytes.
    has_progress: bool,
}

impl Client {
    /// Reads `range` of an object of `object_size` bytes. The time that the caller takes between two chunks counts as
    /// time of the call, so this is for callers that don't wait for others.
    pub(crate) fn stream(&self, id: ObjectId, range: Range<u64>, object_size: u64) -> RangeStream<'_> {
        let size = range.end.saturating_sub(range.start);
        let call = ClientCall::new(self, &id.name, true, size).with_refusal_counter(&self.metrics.get_refused);
        let call = call.with_stall(self.read_stall);
        RangeStream { call, id, object_size, missing: range, size, crc32c: None, body: None, has_progress: false }
    }
}

impl RangeStream<'_> {
    /// The next bytes; `None` once all have arrived. No chunk is empty.
    ///
    /// # Errors
    /// As for [`Client::read`].
    ///
    /// # Cancel safety
    /// Dropping the future loses no bytes.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        let outcome = self.next_with_retries().await;
        self.call.finish(outcome)
    }

    async fn next_with_retries(&mut self) -> Result<Option<Bytes>> {
        loop {
            let error = match self.try_next().await {
                Ok(Some(chunk)) => {
                    self.missing.start += chunk.len() as u64;
                    self.call.client.record_chunk(&self.id.name, chunk.len() as u64);
                    self.call.record_progress();
                    if self.missing.is_empty() {
                        self.call.report_received(self.size);
                    }
                    self.has_progress = true;
                    return Ok(Some(chunk));
                }
                Ok(None) => return Ok(None),
                Err(error) => error,
            };

            self.body = None;
            if error.is_not_found() && !self.id.version.is_none() {
                return Err(self.call.client.version_is_gone(&self.id, error).await);
            }
            let is_resumed = self.missing.end - self.missing.start < self.size;
            if is_resumed && self.id.version.is_none() && self.crc32c.is_none() {
                let message = "the body broke off, and the object may have changed since: its store reports neither \
                               versions nor checksums";
                return Err(Error::new(error.kind(), message)
                    .object(&self.id)
                    .hint("read the object again from its start")
                    .with_source(error));
            }
            if !std::mem::take(&mut self.has_progress) && error.kind() == ErrorKind::Timeout {
                self.call.wait_longer();
            }
            self.call.recover(error, &self.id).await?;
        }
    }

    /// The version that the bytes are from, once some have arrived.
    pub(crate) fn version(&self) -> &Version {
        &self.id.version
    }

    /// CRC of the whole stored object, if the service reported one.
    pub(crate) fn crc32c(&self) -> Option<u32> {
        self.crc32c
    }

    async fn try_next(&mut self) -> Result<Option<Bytes>> {
        let is_full = self.missing.is_empty();
        let body = match &mut self.body {
            Some(body) => body,
            None if is_full => return Ok(None),
            None => {
                let body = self.open().await?;
                self.body.insert(body)
            }
        };

        loop {
            let patience = patience(&self.call, is_full);
            let missing = self.missing.end - self.missing.start;
            let incomplete = |message: &str| {
                Error::new(ErrorKind::Unavailable, message).mismatch(Amount(missing), "nothing more").object(&self.id)
            };
            match timeout(patience, body.next()).await {
                Ok(Some(Ok(chunk))) if chunk.is_empty() => {}
                Ok(Some(Ok(chunk))) if chunk.len() as u64 > missing => {
                    return Err(Error::new(ErrorKind::Integrity, "more bytes came than were asked for")
                        .object(&self.id)
                        .mismatch(Amount(missing), format!("at least {}", Amount(chunk.len() as u64))));
                }
                Ok(Some(Ok(chunk))) => return Ok(Some(chunk)),
                _ if is_full => {
                    self.body = None;
                    return Ok(None);
                }
                Ok(Some(Err(error))) => return Err(error),
                Ok(None) => return Err(incomplete("the body ended early")),
                Err(_) => {
                    return Err(incomplete(&format!("no bytes for {patience:.1?}")).with_kind(ErrorKind::Timeout));
                }
            }
        }
    }

    /// Requests the missing bytes.
    async fn open(&mut self) -> Result<BoxStream<'static, Result<Bytes>>> {
        let client = self.call.client;
        let range = (self.missing != (0..self.object_size)).then(|| self.missing.clone());
        client.record_request(&self.id.name, self.call.attempt);
        let body = client.store.get(&self.id, ByteRange::from(range.clone()), &self.call.attempt);
        let body = self.call.report_answer(self.call.within(body).await)?;

        if body.stored_size.is_some_and(|stored| stored != self.object_size) {
            return Err(Error::new(ErrorKind::Integrity, "the object is of another length than listed")
                .object(&self.id)
                .mismatch(Amount(self.object_size), Amount(body.stored_size.unwrap_or_default()))
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
    use crate::store::{Capabilities, Fault, FaultStore, MemoryStore, StoreCall};

    /// The beginning of one object was joined with the end of the one that replaced it.
    #[tokio::test(start_paused = true)]
    async fn what_nothing_would_show_to_be_of_another_object_is_not_resumed() {
        for checksums in [true, false] {
            let capabilities = Capabilities { versions: false, checksums, ..Capabilities::ALL };
            let store = MemoryStore::new().with_capabilities(capabilities);
            store.insert("b", "o", "meow");
            let faults = FaultStore::new(Arc::new(store)).fail(StoreCall::Get, 1, Fault::BreakAt(2));
            let client = Client::new(Arc::new(faults));
            let mut stream = client.stream(ObjectId::live("b", "o"), 0..4, 4);
            assert_eq!(stream.next().await.unwrap().unwrap(), "me");
            let rest = stream.next().await;
            if checksums {
                assert_eq!(rest.unwrap().unwrap(), "ow", "whoever reads the whole compares its checksum");
            } else {
                assert!(rest.unwrap_err().to_string().contains("may have changed"));
            }
        }
    }

    /// Reads of ranges once ignored the loader's stall timeout and its doubling.
    #[tokio::test(start_paused = true)]
    async fn a_slow_service_is_asked_again_and_waited_for_in_the_end() {
        let store = MemoryStore::new();
        let version = store.insert("b", "o", "meow");
        let faults = FaultStore::new(Arc::new(store));
        let seconds = Duration::from_secs;
        let client = Client::new(Arc::new(faults.clone())).with_read_stall(Some(seconds(1)), seconds(10));
        faults.fail_next(StoreCall::Get, Fault::Drip(seconds(5)), 100);
        let mut stream = client.stream(ObjectId::new("b", "o", version), 1..4, 4);
        assert_eq!(stream.next().await.unwrap().unwrap(), "eow");
        assert_eq!(stream.next().await.unwrap(), None);
        assert_eq!(faults.calls(StoreCall::Get), 4, "of 1, 2, 4 and 8 s");
    }
}
