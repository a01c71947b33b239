//! The body of an answer: the contents of an object or other bytes, paced, and damaged by a fault.

use std::{
    io,
    ops::Range,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use crate::{api::state::EmulatorState, objects::content::Content};

/// The most bytes of one frame: enough that the cost of frames does not matter, and few enough to pace and to stream
/// contents.
const MAX_FRAME_BYTES: u64 = 256 * 1_024;
/// Bodies shorter than this are not paced: all of their bytes follow the delay to the first byte.
const MIN_PACED_BYTES: u64 = 64 * 1_024;

/// How a fault damages a body. The default is no damage. Offsets count from the first byte that is sent.
#[derive(Clone, Copy, Default)]
pub(crate) struct BodyDamage {
    /// The body ends after this many bytes.
    pub(crate) end_at: Option<u64>,
    /// The connection breaks at that end.
    pub(crate) ends_in_reset: bool,
    /// No length is announced.
    pub(crate) hides_length: bool,
    pub(crate) flip: Option<BitFlip>,
    pub(crate) stall: Option<BodyStall>,
}

/// A bit of a body that is flipped.
#[derive(Clone, Copy)]
pub(crate) struct BitFlip {
    /// The offset of the byte.
    pub(crate) offset: u64,
    pub(crate) bit: u8,
}

/// A pause in a body.
#[derive(Clone, Copy)]
pub(crate) struct BodyStall {
    /// The offset of the byte that waits.
    pub(crate) offset: u64,
    pub(crate) length: Duration,
}

/// The timeline of a paced body.
struct BodyPace {
    start: Instant,
    bytes_per_second: f64,
}

/// A body. It counts the bytes that it hands over, and its request is in flight until it is dropped.
pub(crate) struct ResponseBody {
    state: Arc<EmulatorState>,
    content: Content,
    /// The first byte of `content` to send, the next one, and the end.
    first: u64,
    next: u64,
    end: u64,
    damage: BodyDamage,
    pace: Option<BodyPace>,
    /// The end of the bytes that the pace allows to send.
    released: u64,
    /// The error that ends the body at the next poll.
    failure: Option<io::Error>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl ResponseBody {
    /// Sends the bytes `range` of `content`. The caller has counted the request as in flight; the body ends the count.
    pub(crate) fn new(
        state: Arc<EmulatorState>,
        content: Content,
        range: Range<u64>,
        damage: BodyDamage,
        bytes_per_second: Option<f64>,
    ) -> Self {
        let Range { start: first, end } = range;
        let pace = bytes_per_second
            .filter(|_| end - first >= MIN_PACED_BYTES)
            .map(|bytes_per_second| BodyPace { start: Instant::now(), bytes_per_second });
        let released = if pace.is_some() { first } else { end };
        Self { state, content, first, next: first, end, damage, pace, released, failure: None, sleep: None }
    }

    /// The number of bytes handed over.
    fn sent(&self) -> u64 {
        self.next - self.first
    }

    /// Ends the body with an error at the next poll. Until then the transport can send the bytes that were handed over,
    /// so that the client sees a part of the answer, and at least its head.
    fn fail_next(&mut self, context: &Context<'_>, error: io::Error) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.failure = Some(error);
        context.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads the bytes of the next frame, with the damage that they have.
    fn read_frame(&self) -> io::Result<Bytes> {
        let mut limit = self.released.min(self.next + MAX_FRAME_BYTES);
        if let Some(end_at) = self.damage.end_at {
            limit = limit.min(self.first + end_at);
        }
        if let Some(stall) = self.damage.stall.filter(|stall| stall.offset > self.sent()) {
            limit = limit.min(self.first + stall.offset);
        }

        let mut bytes = self.content.read_some(self.next, limit)?;
        if let Some(BitFlip { offset, bit }) = self.damage.flip
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

impl Body for ResponseBody {
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
            if this.damage.ends_in_reset {
                return this.fail_next(context, io::ErrorKind::ConnectionReset.into());
            }
            return Poll::Ready(None);
        }
        if this.next >= this.end {
            return Poll::Ready(None);
        }

        if let Some(stall) = this.damage.stall.filter(|stall| stall.offset == this.sent()) {
            this.damage.stall = None;
            this.sleep = Some(Box::pin(sleep_until(Instant::now() + stall.length)));
            return self.poll_frame(context);
        }
        if let Some(pace) = &this.pace
            && this.next == this.released
        {
            // A frame is sent when its last byte would have arrived. All frames share one timeline, so it does not
            // drift.
            this.released = this.end.min(this.next + MAX_FRAME_BYTES);
            let elapsed = (this.released - this.first) as f64 / pace.bytes_per_second;
            let due = pace.start + Duration::from_secs_f64(elapsed);
            this.sleep = Some(Box::pin(sleep_until(due)));
            return self.poll_frame(context);
        }

        let bytes = match this.read_frame() {
            Ok(bytes) if !bytes.is_empty() => bytes,
            Ok(_) => return this.fail_next(context, io::ErrorKind::UnexpectedEof.into()),
            Err(error) => return this.fail_next(context, error),
        };
        this.next += bytes.len() as u64;
        this.state.stats.bytes_sent.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.next >= self.end && self.damage.end_at.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.damage.hides_length { SizeHint::default() } else { SizeHint::with_exact(self.end - self.next) }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        self.state.stats.leave_request();
    }
}
