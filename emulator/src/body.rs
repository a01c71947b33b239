//! The body of an answer: bytes or contents, paced, and damaged where a fault says so.

use std::{
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{content::Content, service::State};

/// What one frame holds at most: few enough frames to cost nothing, small enough to pace and to stream.
const FRAME: u64 = 256 * 1_024;
/// Bodies below this are sent at once after a single delay.
const SMALL: u64 = 64 * 1_024;

/// What is done to a body.
#[derive(Clone, Copy, Default)]
pub(crate) struct Damage {
    /// The body ends after this many bytes.
    pub(crate) end_at: Option<u64>,
    /// That end is an error on the wire.
    pub(crate) abort: bool,
    /// Nothing is said about the length.
    pub(crate) hide_length: bool,
    /// This bit of this byte is flipped.
    pub(crate) flip: Option<(u64, u8)>,
    /// Wait for this long before this byte.
    pub(crate) stall: Option<(u64, Duration)>,
}

/// A body. Counts what it hands over, and keeps the request in flight until it is dropped.
pub(crate) struct Answer {
    state: Arc<State>,
    content: Content,
    /// The next byte and the end, as offsets into `content`.
    at: u64,
    end: u64,
    first: u64,
    damage: Damage,
    /// When the first byte may go, and how many bytes follow in a second.
    pace: Option<(Instant, f64)>,
    /// How far the pace has let it go.
    released: u64,
    /// What ends the body at the next poll.
    failure: Option<io::Error>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Answer {
    /// `state` must have counted the request as in flight; the answer takes it out.
    pub(crate) fn new(
        state: Arc<State>,
        content: Content,
        start: u64,
        end: u64,
        damage: Damage,
        rate: Option<f64>,
    ) -> Self {
        let pace = rate.filter(|_| end - start >= SMALL).map(|rate| (Instant::now(), rate));
        let released = if pace.is_some() { start } else { end };
        Self { state, content, at: start, end, first: start, damage, pace, released, failure: None, sleep: None }
    }

    fn sent(&self) -> u64 {
        self.at - self.first
    }

    /// Ends the body with an error, after the transport had its chance to send what was handed over: the client sees a
    /// part of the answer, and at least its head.
    fn fail(&mut self, context: &Context<'_>, error: io::Error) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.failure = Some(error);
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// The next bytes.
    fn next(&mut self) -> io::Result<Bytes> {
        let mut limit = self.released.min(self.at + FRAME);
        if let Some(end_at) = self.damage.end_at {
            limit = limit.min(self.first + end_at);
        }
        if let Some((offset, _)) = self.damage.stall.filter(|(offset, _)| *offset > self.sent()) {
            limit = limit.min(self.first + offset);
        }
        let mut bytes = self.content.read_some(self.at, limit)?;
        if let Some((offset, bit)) = self.damage.flip
            && offset >= self.sent()
            && offset < self.sent() + bytes.len() as u64
        {
            let mut flipped = bytes.to_vec();
            flipped[(offset - self.sent()) as usize] ^= 1 << bit;
            bytes = flipped.into();
        }
        Ok(bytes)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if let Some(failure) = this.failure.take() {
            return Poll::Ready(Some(Err(failure)));
        }
        if let Some(sleep) = &mut this.sleep {
            ready!(sleep.as_mut().poll(context));
            this.sleep = None;
        }
        if this.damage.end_at.is_some_and(|end_at| this.sent() >= end_at) {
            if this.damage.abort {
                return this.fail(context, io::ErrorKind::ConnectionReset.into());
            }
            return Poll::Ready(None);
        }
        if this.at >= this.end {
            return Poll::Ready(None);
        }
        if let Some((_, length)) = this.damage.stall.filter(|(offset, _)| *offset == this.sent()) {
            this.damage.stall = None;
            this.sleep = Some(Box::pin(sleep_until(Instant::now() + length)));
            return self.poll_frame(context);
        }
        if let Some((start, rate)) = this.pace
            && this.at == this.released
        {
            // A frame goes when its last byte would have arrived: one timeline, no drift.
            this.released = this.end.min(this.at + FRAME);
            let due = start + Duration::from_secs_f64((this.released - this.first) as f64 / rate);
            this.sleep = Some(Box::pin(sleep_until(due)));
            return self.poll_frame(context);
        }
        let bytes = match this.next() {
            Ok(bytes) if !bytes.is_empty() => bytes,
            Ok(_) => return this.fail(context, io::ErrorKind::UnexpectedEof.into()),
            Err(error) => return this.fail(context, error),
        };
        this.at += bytes.len() as u64;
        this.state.stats.bytes_sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.at >= self.end && self.damage.end_at.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.damage.hide_length { SizeHint::default() } else { SizeHint::with_exact(self.end - self.at) }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.state.stats.leave();
    }
}
