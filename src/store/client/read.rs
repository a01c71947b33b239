//! Reads of whole bodies: resumed where they break off, and hedged where that is asked for.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, future, stream};
use tokio::time::{Instant, sleep_until, timeout};

use super::call::ClientCall;
use super::{Client, Payload};
use crate::metrics::{add, count};
use crate::observe::{Event, EventKind};
use crate::store::hedge::Hedging;
use crate::store::reading::BodyRead;
use crate::store::{Attempt, Body, ObjectId, Version};
use crate::{Error, ErrorKind, Result};

/// Longest wait for the end of a body whose bytes have all arrived: only its end mark can be missing.
pub(super) const END_MARK_TIMEOUT: Duration = Duration::from_secs(1);

impl Client {
    /// The stored bytes of an object, or those of `range` (end exclusive): `size` of them, as the caller knows from the
    /// listing.
    ///
    /// A body that breaks off, with an error or silently, is resumed after the bytes received, from the same version.
    /// Where the store has no versions, it is read again from its start. The call may take the policy's deadline plus
    /// the time for `size` at 64 KiB/s. Whether the bytes are right is not checked here.
    ///
    /// # Errors
    /// [`Changed`](ErrorKind::Changed) when the version is gone, [`Integrity`](ErrorKind::Integrity) when the object
    /// has another length than `size`, and the last error when the policy gives up.
    ///
    /// # Cancel safety
    /// Dropping the future drops the bytes and the connection, and leaves nothing behind.
    pub async fn read(&self, id: &ObjectId, range: Option<Range<u64>>, size: u64) -> Result<Payload> {
        if let Some(range) = &range
            && (range.is_empty() || range.end - range.start != size)
        {
            return Err(Error::new(ErrorKind::Config, "a range that is empty or of another length than its size")
                .object(id)
                .mismatch(format!("{size} bytes"), format!("the range {}..{}", range.start, range.end)));
        }

        let call = ClientCall::new(self, &id.name, true, size).with_refusal_counter(&self.metrics.get_refused);
        let mut call = call.with_stall(self.read_stall);
        let mut reading = BodyRead::new(id.clone(), range, size, &self.buffers, self.hashes);
        let outcome = loop {
            let before = reading.received();
            let error = match self.read_remaining(&call, &mut reading).await {
                Ok(()) => {
                    call.report_received(size);
                    break Ok(reading.finish());
                }
                Err(error) => error,
            };
            if error.is_not_found() && !reading.id.version.is_none() {
                break Err(self.version_is_gone(&reading.id, error).await);
            }
            reading.discard_unpinned();
            if reading.received() > before {
                call.record_progress();
            } else if error.kind() == ErrorKind::Timeout {
                call.wait_longer();
            }
            if let Err(error) = call.recover(error, id).await {
                break Err(error);
            }
        };
        call.finish(outcome)
    }

    /// Makes one attempt at the bytes that are still missing.
    async fn read_remaining(&self, call: &ClientCall<'_>, reading: &mut BodyRead) -> Result<()> {
        if let Some(hedging) = &self.hedging {
            return HedgedRead { client: self, call, reading, hedging }.run().await;
        }
        self.record_request(&reading.id.name, call.attempt);
        let body = call.within(self.store.get(&reading.id, reading.missing(), &call.attempt)).await;
        let mut chunks = reading.check(call.report_answer(body)?)?;
        loop {
            let is_full = reading.is_full();
            let patience = patience(call, is_full);
            match timeout(patience, chunks.next()).await {
                Ok(Some(Ok(chunk))) => self.receive(reading, chunk)?,
                _ if is_full => return Ok(()),
                Ok(Some(Err(error))) => return Err(error),
                Ok(None) => return Err(reading.ended()),
                Err(_) => return Err(reading.timed_out(call.silence(patience))),
            }
        }
    }

    /// Counts a request for bytes of `object`.
    pub(super) fn record_request(&self, object: &Arc<str>, attempt: Attempt) {
        let event = || Event::ObjectRequested { object: Arc::clone(object), attempt: attempt.number };
        self.record(&self.metrics.get, 1, EventKind::ObjectRequested, event);
    }

    /// Counts received bytes of `object`.
    pub(super) fn record_chunk(&self, object: &Arc<str>, bytes: u64) {
        let event = || Event::ChunkReceived { object: Arc::clone(object), bytes };
        self.record(&self.metrics.bytes_received, bytes, EventKind::ChunkReceived, event);
    }

    fn receive(&self, reading: &mut BodyRead, chunk: Bytes) -> Result<()> {
        self.record_chunk(&reading.id.name, chunk.len() as u64);
        add(&self.metrics.bytes_copied, reading.push(chunk)? as u64);
        Ok(())
    }

    /// A request for the missing bytes. The call is made when the stream is first polled.
    fn request(&self, reading: &BodyRead, attempt: Attempt) -> HedgeStream {
        let (store, id, missing) = (Arc::clone(&self.store), reading.id.clone(), reading.missing());
        stream::once(async move { store.get(&id, missing, &attempt).await.map(HedgePart::Answer) }).boxed()
    }

    /// The error for a version that is gone. Looks up once what the name stands for now.
    pub(super) async fn version_is_gone(&self, id: &ObjectId, cause: Error) -> Error {
        // The look-up repeats no other call.
        let client = Self { repeats: false, ..self.clone() };
        let call = ClientCall::new(&client, &id.name, true, 0);
        let live = ObjectId { version: Version::None, ..id.clone() };
        count(&self.metrics.stat);
        let now = match call.within(self.store.stat(&live, &call.attempt)).await {
            // The version exists, so something else answered "not found", and only the cause says what.
            Ok(meta) if meta.version == id.version => return cause,
            Ok(meta) => meta.version.to_string(),
            Err(error) if error.is_not_found() => "nothing: it was deleted".to_owned(),
            Err(_) => "no such version".to_owned(),
        };
        let error = Error::new(ErrorKind::Changed, "the object was overwritten or deleted after it was listed")
            .object(id)
            .mismatch(&id.version, now)
            .hint("list the prefix again, and keep writers off it while it is read");
        match cause.http_status() {
            Some(status) => error.status(status).with_source(cause),
            None => error.with_source(cause),
        }
    }
}

/// Longest wait for the next bytes, or for the end of a body that is complete.
pub(super) fn patience(call: &ClientCall<'_>, is_full: bool) -> Duration {
    if is_full { call.patience().min(END_MARK_TIMEOUT) } else { call.patience() }
}

/// A part of the answer to one of two requests.
enum HedgePart {
    Answer(Body),
    Bytes(Bytes),
}

type HedgeStream = BoxStream<'static, Result<HedgePart>>;

async fn next_part(stream: &mut Option<HedgeStream>) -> Option<Result<HedgePart>> {
    match stream {
        Some(stream) => stream.next().await,
        None => future::pending().await,
    }
}

/// One attempt at a read, with a second request where nothing arrives for longer than usual.
struct HedgedRead<'a> {
    client: &'a Client,
    call: &'a ClientCall<'a>,
    reading: &'a mut BodyRead,
    hedging: &'a Hedging,
}

impl HedgedRead<'_> {
    /// Reads the missing bytes. Whichever request brings bytes first is kept, and the other is dropped, so both miss
    /// the same bytes as long as there are two.
    async fn run(self) -> Result<()> {
        let Self { client, call, reading, hedging } = self;
        client.record_request(&reading.id.name, call.attempt);
        hedging.record_request();
        let started = Instant::now();
        let mut first = client.request(reading, call.attempt);
        let mut second: Option<HedgeStream> = None;

        // Since when nothing has arrived, and whether a second request for that is still to be considered.
        let (mut quiet_since, mut may_hedge) = (started, true);
        let (mut answered, mut has_bytes) = (false, false);
        let mut patience = call.patience();
        let mut deadline = started + patience;
        loop {
            let is_full = answered && reading.is_full();
            let threshold = hedging.threshold().filter(|_| may_hedge && !is_full && reading.is_pinned());
            let hedge_at = threshold.map_or(deadline, |wait| quiet_since + wait);
            let (is_second, part) = tokio::select! {
                biased;
                part = first.next() => (false, part),
                part = next_part(&mut second) => (true, part),
                () = sleep_until(hedge_at.min(deadline)) => {
                    if is_full {
                        return Ok(());
                    }
                    if hedge_at >= deadline {
                        return Err(reading.timed_out(call.silence(patience)));
                    }
                    may_hedge = false;
                    if hedging.try_hedge() {
                        client.record_request(&reading.id.name, Attempt::first());
                        let object = &reading.id.name;
                        client.record(&client.metrics.hedged, 1, EventKind::ReadHedged, || Event::ReadHedged {
                            object: Arc::clone(object),
                            waited: quiet_since.elapsed(),
                        });
                        second = Some(client.request(reading, Attempt::first()));
                    }
                    continue;
                }
            };

            let outcome = match part {
                Some(Ok(HedgePart::Answer(body))) => {
                    answered = true;
                    reading.check(body).map(|chunks| {
                        let _ = call.report_answer(Ok(()));
                        let chunks = chunks.map(|chunk| chunk.map(HedgePart::Bytes)).boxed();
                        if is_second { second = Some(chunks) } else { first = chunks }
                    })
                }
                Some(Ok(HedgePart::Bytes(chunk))) => {
                    if let Some(second) = second.take()
                        && is_second
                    {
                        count(&client.metrics.hedges_won);
                        first = second;
                    }
                    if !has_bytes {
                        has_bytes = true;
                        hedging.record_wait(started.elapsed());
                    }
                    client.receive(reading, chunk)?;
                    (quiet_since, may_hedge) = (Instant::now(), true);
                    Ok(())
                }
                _ if is_full => return Ok(()),
                Some(Err(error)) => Err(error),
                None => Err(reading.ended()),
            };

            let Err(error) = outcome else {
                patience = self::patience(call, answered && reading.is_full());
                deadline = Instant::now() + patience;
                continue;
            };
            match (is_second, second.take()) {
                // The first request may still bring the bytes.
                (true, _) => {}
                (false, Some(other)) => {
                    count(&client.metrics.hedges_won);
                    first = other;
                }
                (false, None) => return Err(error),
            }
        }
    }
}
