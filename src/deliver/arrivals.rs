//! Batches as they come out of an epoch.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use super::pipeline::{Coming, Ticket};
use super::pool::Ready;
use super::stall::{Source, Standing, Trace};
use crate::{Error, Result};

/// What an epoch hands out, one batch after the other.
pub(super) struct Arrivals<B> {
    tickets: Receiver<Ticket<B>>,
    standing: Arc<Standing>,
    /// The one that is waited for.
    awaited: Option<Coming<B>>,
}

/// What comes next.
pub(super) enum Arrival<B> {
    /// A batch, or why there is none, and where in the global order it ends.
    Batch(Result<Ready<B>>, u64),
    /// No batch can follow.
    Failed(Error),
    /// There are no more.
    End,
    /// Whoever was to make it is gone.
    Lost,
}

impl<B> Arrivals<B> {
    pub(super) fn new(tickets: Receiver<Ticket<B>>, standing: Arc<Standing>) -> Self {
        Self { tickets, standing, awaited: None }
    }

    /// Leaves nothing behind of what is there and comes: those that would make it are not waited for.
    pub(super) fn take(&mut self) -> Self {
        let tickets = std::mem::replace(&mut self.tickets, crossbeam_channel::never());
        Self { tickets, standing: Arc::clone(&self.standing), awaited: self.awaited.take() }
    }
}

impl<B> Source<Arrival<B>> for Arrivals<B> {
    fn get(&mut self, within: Duration) -> Option<Arrival<B>> {
        let deadline = Instant::now() + within;
        if self.awaited.is_none() {
            match self.tickets.recv_deadline(deadline) {
                Ok(Ticket::Batch(coming)) => self.awaited = Some(coming),
                Ok(Ticket::Failed(error)) => return Some(Arrival::Failed(error)),
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) if self.standing.has_ended() => return Some(Arrival::End),
                Err(RecvTimeoutError::Disconnected) => return Some(Arrival::Lost),
            }
        }
        let Coming { promise, end, .. } = self.awaited.as_ref()?;
        let arrival = match promise.recv_deadline(deadline) {
            Ok(ready) => Arrival::Batch(ready, *end),
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => Arrival::Lost,
        };
        self.awaited = None;
        Some(arrival)
    }

    fn trace(&self) -> Option<&Trace> {
        self.awaited.as_ref().map(|coming| &coming.trace)
    }
}
