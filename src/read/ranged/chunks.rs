//! The bytes of an object in order, read ahead by several streams.

use std::fmt;
use std::ops::Deref;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::{Stream, future};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Sleep, sleep};

use super::download::{Download, PartSum, Receipt};
use crate::budget::Permit;
use crate::{Error, ErrorKind, Result, Stage};

/// Consecutive bytes of an object. Dropping a chunk gives its bytes back to the memory budget.
pub struct Chunk {
    bytes: Bytes,
    offset: u64,
    permit: Permit,
}

impl Chunk {
    /// Offset of its first byte in the object.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes, no longer counted by the memory budget.
    pub fn into_bytes(self) -> Bytes {
        drop(self.permit);
        self.bytes
    }
}

impl Deref for Chunk {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.bytes
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.offset + self.bytes.len() as u64;
        f.debug_tuple("Chunk").field(&(self.offset..end)).finish()
    }
}

/// The chunks of an object in order: made by [`Download::chunks`].
///
/// Chunks count against the memory budget until they are dropped. Collecting all chunks of an object larger than the
/// budget therefore ends in an error, after the client's stall timeout. With shared
/// [`Lanes`](crate::read::ranged::Lanes) there is no error, because other downloads may hold the bytes for as long as
/// they need; there, take the chunks of each download in a task of its own.
///
/// Dropping this cancels the reads under way.
#[must_use = "nothing is read before the first chunk is asked for"]
pub struct Chunks {
    download: Download,
    /// `None` until the first call.
    parts: Option<UnboundedReceiver<UnboundedReceiver<PartPiece>>>,
    /// The task that starts the reads.
    driver: Option<AbortHandle>,
    current: Option<UnboundedReceiver<PartPiece>>,
    /// The last chunk, held back until the bytes are proved.
    last: Option<Chunk>,
    sum: PartSum,
    /// Bytes handed out, including the last chunk while it is held back.
    at: u64,
    /// The stall timeout, while no read is under way.
    idle: Option<Pin<Box<Sleep>>>,
    outcome: Option<Result<Receipt, ()>>,
}

/// What the read of a part sends: chunks, then its end.
enum PartPiece {
    Chunk(Bytes, Permit),
    End(Result<PartSum>),
}

impl Download {
    /// The bytes in order, as they are received. Later parts are read ahead as far as the memory budget has room for
    /// them.
    ///
    /// Nothing is proved before the end: **wrong bytes may have been handed out by then**, all but the last chunk, in
    /// whose place there is an error.
    pub fn chunks(self) -> Chunks {
        Chunks::new(self)
    }
}

impl Chunks {
    fn new(download: Download) -> Self {
        Self {
            download,
            parts: None,
            driver: None,
            current: None,
            last: None,
            sum: PartSum::default(),
            at: 0,
            idle: None,
            outcome: None,
        }
    }

    /// The next chunk. `None` after the last one and after an error.
    ///
    /// # Errors
    /// As for [`Download::into_memory`].
    ///
    /// # Cancel safety
    /// Dropping the future loses no chunk.
    pub async fn next(&mut self) -> Option<Result<Chunk>> {
        future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// The receipt, once the last chunk was handed out. `None` before, and after an error.
    pub fn receipt(&self) -> Option<Receipt> {
        self.outcome.clone().and_then(Result::ok)
    }

    /// Starts the driver.
    fn start(&mut self) -> UnboundedReceiver<UnboundedReceiver<PartPiece>> {
        let (sender, parts) = mpsc::unbounded_channel();
        self.driver = Some(tokio::spawn(drive(self.download.clone(), sender)).abort_handle());
        parts
    }

    /// Polls for the next chunk; `Ok(None)` at the end of an empty object.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Chunk>>> {
        let lost = || Error::new(ErrorKind::Internal, "a task of the network threads panicked");
        if self.parts.is_none() {
            self.parts = Some(self.start());
        }
        loop {
            if self.current.is_none() {
                let Some(parts) = &mut self.parts else { return Poll::Ready(Err(lost())) };
                self.current = match parts.poll_recv(context) {
                    Poll::Ready(Some(part)) => Some(part),
                    Poll::Ready(None) if self.at == self.download.size => {
                        let receipt = self.download.prove(&self.sum)?;
                        self.outcome = Some(Ok(receipt));
                        return Poll::Ready(Ok(self.last.take()));
                    }
                    Poll::Ready(None) => return Poll::Ready(Err(lost())),
                    Poll::Pending => return self.poll_idle(context).map(Err),
                };
                self.idle = None;
            }

            let Some(part) = &mut self.current else { continue };
            match ready!(part.poll_recv(context)) {
                None => return Poll::Ready(Err(lost())),
                Some(PartPiece::End(Err(error))) => return Poll::Ready(Err(error)),
                Some(PartPiece::End(Ok(sum))) => {
                    self.sum.append(sum);
                    self.current = None;
                }
                Some(PartPiece::Chunk(bytes, permit)) => {
                    let chunk = Chunk { offset: self.at, bytes, permit };
                    self.at += chunk.len() as u64;
                    if self.at < self.download.size {
                        return Poll::Ready(Ok(Some(chunk)));
                    }
                    self.last = Some(chunk);
                }
            }
        }
    }

    /// Waits for a part to begin. No read of this download is under way, so only chunks that were handed out can hold
    /// its bytes. If that lasts, the caller holds them, and would wait forever.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<Error> {
        // Bytes of shared lanes may be held by other downloads, which make progress without this one.
        if self.download.lanes.is_some() || self.at == 0 {
            return Poll::Pending;
        }
        let timeout = self.download.client.stall_timeout();
        ready!(self.idle.get_or_insert_with(|| Box::pin(sleep(timeout))).as_mut().poll(context));
        let message = format!("chunks that were handed out have held all of the memory budget for {timeout:.1?}");
        Poll::Ready(
            Error::new(ErrorKind::Config, message)
                .hint("drop chunks before asking for more, raise memory_budget, or read into_memory"),
        )
    }
}

impl Stream for Chunks {
    type Item = Result<Chunk>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.outcome.is_some() {
            return Poll::Ready(None);
        }
        let piece = ready!(self.poll_piece(context));
        Poll::Ready(match piece {
            Ok(chunk) => chunk.map(Ok),
            Err(error) => {
                self.outcome = Some(Err(()));
                (self.current, self.parts, self.last) = (None, None, None);
                self.stop();
                Some(Err(error.object(&self.download.id).stage(Stage::Fetch)))
            }
        })
    }
}

impl Chunks {
    fn stop(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.abort();
        }
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        self.stop();
    }
}

impl fmt::Debug for Chunks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunks").field("id", &self.download.id).field("at", &self.at).finish_non_exhaustive()
    }
}

/// Starts the reads of the parts in order, each when the budget has room for all its bytes. So a read never waits for
/// the consumer, and the next part to deliver is never behind a later one.
async fn drive(mut download: Download, parts: UnboundedSender<UnboundedReceiver<PartPiece>>) {
    let lanes = download.lanes();
    let part_share = lanes.budget.bytes() / 4 * 3 / download.max_streams as u64;
    let cut = download.parts(part_share.clamp(download.min_part_size.min(lanes.budget.bytes()), lanes.budget.bytes()));
    if !cut.is_one()
        && let Err(error) = download.pin_version().await
    {
        let (sender, part) = mpsc::unbounded_channel();
        // Fails if the consumer is gone.
        let _ = parts.send(part);
        let _ = sender.send(PartPiece::End(Err(error)));
        return;
    }

    let mut reads = JoinSet::new();
    for range in cut {
        let permit = lanes.budget.take(range.end - range.start).await;
        let lane = lanes.stream().await;
        let (pieces, part) = mpsc::unbounded_channel();
        if parts.send(part).is_err() {
            return;
        }
        let download = download.clone().by(&lane);
        reads.spawn(async move {
            let mut permit = permit;
            let mut stream = download.stream(range);
            let mut sum = PartSum::default();
            let end = loop {
                match stream.next().await {
                    Ok(Some(bytes)) => {
                        sum.push(&bytes);
                        let permit = permit.split(bytes.len() as u64);
                        if pieces.send(PartPiece::Chunk(bytes, permit)).is_err() {
                            return;
                        }
                    }
                    Ok(None) => {
                        lane.finish(sum.length);
                        break Ok(sum.with_answer(&stream));
                    }
                    Err(error) => break Err(error),
                }
            };
            // Fails if the consumer is gone.
            let _ = pieces.send(PartPiece::End(end));
        });
        while reads.try_join_next().is_some() {}
    }
    // When this task ends, the set aborts the reads that are left.
    while reads.join_next().await.is_some() {}
}
