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

use super::{Download, PartSum, Receipt};
use crate::budget::Permit;
use crate::{Error, ErrorKind, Result, Stage};

/// Bytes of an object that follow each other. Those that it holds are given back to the memory budget when it is dropped.
pub struct Chunk {
    bytes: Bytes,
    offset: u64,
    permit: Permit,
}

impl Chunk {
    /// Where in the object its first byte is.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The bytes, which from now on are no matter of the memory budget.
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
/// Chunks count against the memory budget until they are dropped, so that collecting those of an object larger than the
/// budget can't work; that is an error after the client's stall timeout, but not with shared [`Lanes`](crate::read::ranged::Lanes), whose
/// bytes others may hold for as long as they need: there, take the chunks of each download in a task of its own. Dropping this ends all that it has under way.
#[must_use = "nothing is read before the first chunk is asked for"]
pub struct Chunks {
    download: Download,
    /// The rest is there from the first call on.
    parts: Option<UnboundedReceiver<UnboundedReceiver<PartPiece>>>,
    driver: Option<AbortHandle>,
    current: Option<UnboundedReceiver<PartPiece>>,
    /// The last chunk, until the bytes are proved.
    last: Option<Chunk>,
    sum: PartSum,
    /// Bytes handed out, or held back as the last.
    at: u64,
    /// Since when nothing is under way.
    idle: Option<Pin<Box<Sleep>>>,
    outcome: Option<Result<Receipt, ()>>,
}

enum PartPiece {
    Chunk(Bytes, Permit),
    End(Result<PartSum>),
}

impl Chunks {
    pub(crate) fn new(download: Download) -> Self {
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

    /// The next chunk; `None` after the last one, and after an error.
    ///
    /// # Errors
    /// As for [`Download::into_memory`].
    ///
    /// # Cancel safety
    /// Dropping the future loses no chunk.
    pub async fn next(&mut self) -> Option<Result<Chunk>> {
        future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await
    }

    /// What is known of the bytes once the last chunk was handed out; `None` before, and after an error.
    pub fn receipt(&self) -> Option<Receipt> {
        self.outcome.and_then(Result::ok)
    }

    /// Starts reading.
    fn start(&mut self) -> UnboundedReceiver<UnboundedReceiver<PartPiece>> {
        let (sender, parts) = mpsc::unbounded_channel();
        self.driver = Some(tokio::spawn(drive(self.download.clone(), sender)).abort_handle());
        parts
    }

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
                    self.sum.append(&sum);
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

    /// Waits for a part to begin. None of this download is under way then, so nothing but chunks that were handed out can
    /// hold its bytes; where that lasts, whoever waits here is the one who holds them.
    fn poll_idle(&mut self, context: &mut Context<'_>) -> Poll<Error> {
        // Those of shared lanes may be held by other downloads, which go on by themselves.
        if self.download.lanes.is_some() || self.at == 0 {
            return Poll::Pending;
        }
        let wait = self.download.client.stall_timeout();
        ready!(self.idle.get_or_insert_with(|| Box::pin(sleep(wait))).as_mut().poll(context));
        let what = format!("chunks that were handed out have held all of the memory budget for {wait:.1?}");
        Poll::Ready(
            Error::new(ErrorKind::Config, what)
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

/// Starts the reads of the parts in their order, each once there is room for all its bytes: so a read never waits for the
/// consumer, and the part that is to be delivered next is never behind a later one.
async fn drive(mut download: Download, parts: UnboundedSender<UnboundedReceiver<PartPiece>>) {
    let lanes = download.lanes();
    let share = lanes.budget.bytes() / 4 * 3 / download.max_streams as u64;
    let cut = download.parts(share.clamp(download.min_part_size.min(lanes.budget.bytes()), lanes.budget.bytes()));
    if !cut.is_one()
        && let Err(error) = download.pin().await
    {
        let (sender, part) = mpsc::unbounded_channel();
        // Closed: nobody wants it any more.
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
                        lane.done(sum.length);
                        break Ok(sum.told_by(&stream));
                    }
                    Err(error) => break Err(error),
                }
            };
            // Closed: nobody wants it any more.
            let _ = pieces.send(PartPiece::End(end));
        });
        while reads.try_join_next().is_some() {}
    }
    // The set aborts what is in it when this task ends.
    while reads.join_next().await.is_some() {}
}
