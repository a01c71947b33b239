//! Batches as they come out of an epoch: in order, or as they are done.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use tokio::sync::watch;

use super::pipeline::{PendingBatch, Ticket};
use super::pool::{BatchReceiver, FinishedBatch};
use super::wait_report::{BatchTrace, PlannerStatus, WaitSource};
use crate::{Error, Result};

/// The end of a promise that keeps or breaks it.
pub(crate) struct BatchSender<B> {
    promise: Sender<Result<FinishedBatch<B>>>,
    /// Who is told that it was, and the number of the batch.
    bell: Option<(Sender<u64>, u64)>,
    kept: AtomicBool,
}

/// The promise of a batch with this number, whose end is told to `bell`.
pub(crate) fn batch_channel<B>(number: u64, bell: Option<&Sender<u64>>) -> (BatchSender<B>, BatchReceiver<B>) {
    let (promise, receiver) = crossbeam_channel::bounded(1);
    let bell = bell.map(|bell| (bell.clone(), number));
    (BatchSender { promise, bell, kept: AtomicBool::new(false) }, receiver)
}

impl<B> BatchSender<B> {
    /// Keeps the promise; of several times the first counts.
    pub(crate) fn keep(&self, ready: Result<FinishedBatch<B>>) {
        // Full if it was kept already; closed if nobody waits.
        if self.promise.try_send(ready).is_ok() {
            self.ring();
        }
    }

    fn ring(&self) {
        if let Some((bell, number)) = &self.bell
            && !self.kept.swap(true, Ordering::Relaxed)
        {
            // Nobody listens any more.
            let _ = bell.send(*number);
        }
    }
}

impl<B> Drop for BatchSender<B> {
    fn drop(&mut self) {
        // Broken, if it wasn't kept.
        self.ring();
    }
}

/// What an epoch hands out, one batch after the other.
pub(crate) struct Arrivals<B> {
    tickets: Receiver<Ticket<B>>,
    standing: Arc<PlannerStatus>,
    /// Told the number after that of the first batch that is waited for: what that lacks may wait for nothing that is given
    /// back behind it.
    turn: watch::Sender<u64>,
    /// Those that are waited for, by number: one where they come in order.
    open: BTreeMap<u64, PendingBatch<B>>,
    unordered: Option<UnorderedArrivals>,
}

/// Batches that come as they are done.
struct UnorderedArrivals {
    bell: Receiver<u64>,
    /// Those that are, and haven't been taken: their tickets may still be on the way.
    done: BTreeSet<u64>,
    /// Most to wait for at once, so that the loader doesn't go further ahead than where they come in order. The channel of
    /// tickets has as much room; a window has no more batches than that, so that where a ticket waits for room, all that
    /// are waited for here are of earlier windows, and come without it.
    most: usize,
    /// No ticket follows.
    all: bool,
    /// Why not, if that is an error.
    failed: Option<Error>,
}

/// What comes next.
pub(crate) enum Arrival<B> {
    /// A batch, or why there is none; its number, and positions of the global order.
    Batch(Result<FinishedBatch<B>>, u64, Range<u64>),
    /// No batch can follow.
    Failed(Error),
    /// There are no more.
    End,
    /// Whoever was to make it is gone.
    Lost,
}

impl<B> Arrivals<B> {
    /// In order, or, with a `bell` that tells of each that is done, as they are.
    pub(crate) fn new(
        tickets: Receiver<Ticket<B>>,
        standing: Arc<PlannerStatus>,
        turn: watch::Sender<u64>,
        bell: Option<Receiver<u64>>,
    ) -> Self {
        let most = tickets.capacity().unwrap_or(1);
        let unordered =
            bell.map(|bell| UnorderedArrivals { bell, done: BTreeSet::new(), most, all: false, failed: None });
        Self { tickets, standing, turn, open: BTreeMap::new(), unordered }
    }

    /// Leaves nothing behind of what is there and comes: those that would make it are not waited for.
    pub(crate) fn take(&mut self) -> Self {
        let tickets = std::mem::replace(&mut self.tickets, crossbeam_channel::never());
        let open = std::mem::take(&mut self.open);
        let (standing, turn) = (Arc::clone(&self.standing), self.turn.clone());
        Self { tickets, standing, turn, open, unordered: self.unordered.take() }
    }

    /// From now on the oldest of those that are open is waited for, if not for it alone.
    fn waits(&self) {
        if let Some(number) = self.open.keys().next() {
            self.turn.send_if_modified(|turn| std::mem::replace(turn, number + 1) != number + 1);
        }
    }

    fn in_order(&mut self, deadline: Instant) -> Option<Arrival<B>> {
        if self.open.is_empty() {
            match self.tickets.recv_deadline(deadline) {
                Ok(Ticket::Batch(coming)) => _ = self.open.insert(coming.number, coming),
                Ok(Ticket::Failed(error)) => return Some(Arrival::Failed(error)),
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => return Some(end(&self.standing)),
            }
        }
        self.waits();
        let awaited = self.open.first_entry()?;
        let ready = match awaited.get().promise.recv_deadline(deadline) {
            Ok(ready) => ready,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => return Some(Arrival::Lost),
        };
        let PendingBatch { number, positions, .. } = awaited.remove();
        Some(Arrival::Batch(ready, number, positions))
    }

    fn as_done(&mut self, deadline: Instant) -> Option<Arrival<B>> {
        loop {
            self.waits();
            let UnorderedArrivals { bell, done, most, all, failed } = self.unordered.as_mut()?;
            while !*all && self.open.len() < *most {
                match self.tickets.try_recv() {
                    Ok(Ticket::Batch(coming)) => _ = self.open.insert(coming.number, coming),
                    Ok(Ticket::Failed(error)) => (*all, *failed) = (true, Some(error)),
                    Err(TryRecvError::Disconnected) => *all = true,
                    Err(TryRecvError::Empty) => break,
                }
            }
            done.extend(bell.try_iter());
            if let Some(number) = done.iter().copied().find(|number| self.open.contains_key(number)) {
                done.remove(&number);
                let PendingBatch { promise, positions, .. } = self.open.remove(&number)?;
                // It is there, or breaks at this moment.
                return Some(match promise.recv() {
                    Ok(ready) => Arrival::Batch(ready, number, positions),
                    Err(_) => Arrival::Lost,
                });
            }
            if self.open.is_empty() && *all {
                return Some(failed.take().map_or_else(|| end(&self.standing), Arrival::Failed));
            }
            let none = crossbeam_channel::never();
            let tickets = if !*all && self.open.len() < *most { &self.tickets } else { &none };
            crossbeam_channel::select! {
                recv(bell) -> number => match number {
                    Ok(number) => _ = done.insert(number),
                    // All that could ring have.
                    Err(_) if !self.open.is_empty() => return Some(Arrival::Lost),
                    Err(_) => *bell = crossbeam_channel::never(),
                },
                recv(tickets) -> ticket => match ticket {
                    Ok(Ticket::Batch(coming)) => _ = self.open.insert(coming.number, coming),
                    Ok(Ticket::Failed(error)) => (*all, *failed) = (true, Some(error)),
                    Err(_) => *all = true,
                },
                default(deadline.saturating_duration_since(Instant::now())) => return None,
            }
        }
    }
}

/// Where no ticket follows.
fn end<B>(standing: &PlannerStatus) -> Arrival<B> {
    if standing.has_ended() { Arrival::End } else { Arrival::Lost }
}

impl<B> WaitSource<Arrival<B>> for Arrivals<B> {
    fn get(&mut self, within: Duration) -> Option<Arrival<B>> {
        let deadline = Instant::now() + within;
        if self.unordered.is_some() { self.as_done(deadline) } else { self.in_order(deadline) }
    }

    /// The oldest, which is most likely to be in the way of others.
    fn trace(&self) -> Option<&BatchTrace> {
        self.open.first_key_value().map(|(_, coming)| &coming.trace)
    }
}
