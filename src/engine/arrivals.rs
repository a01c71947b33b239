//! Batches as they come out of an epoch: in order, or as they are finished.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use tokio::sync::watch;

use super::assembly::DecodeJob;
use super::stages::PlannerState;
use super::ticket::{FinishedBatch, PendingBatch, Ticket};
use super::wait_report::{BatchTrace, WaitSlices, WaitTotals, WaitWatcher};
use crate::{Error, Result};

/// The batches of an epoch, for the iterator that delivers them.
pub(crate) struct Arrivals {
    tickets: Receiver<Ticket>,
    /// Keeps the decode threads alive until the epoch is over.
    jobs: Sender<DecodeJob>,
    watcher: WaitWatcher,
    /// Receives one more than the number of the oldest batch that is waited for. What this batch lacks must not wait
    /// for bytes that batches behind it hold.
    awaited: watch::Sender<u64>,
    /// Batches that are waited for, by number: at most one where batches come in order.
    open: BTreeMap<u64, PendingBatch>,
    unordered: Option<UnorderedArrivals>,
}

/// What is needed to deliver batches as they are finished.
struct UnorderedArrivals {
    /// Receives the number of each finished batch.
    bell: Receiver<u64>,
    /// Finished batches that were not taken yet; some of their tickets may not have come yet.
    finished: BTreeSet<u64>,
    /// Most batches to wait for at once, so that the loader goes no further ahead than where batches come in order. The
    /// channel of tickets has as much room, and a window has no more batches than that. So if a ticket waits for room,
    /// all batches that are waited for here belong to earlier windows, which are finished without it.
    max_open: usize,
    has_all_tickets: bool,
    /// The error that ended the tickets, if one did.
    failed: Option<Error>,
}

/// What comes next.
pub(crate) enum Arrival {
    /// A batch, or the error that ends the epoch.
    Batch(Result<FinishedBatch>),
    /// There are no more batches.
    End,
    /// Every task that could finish the batch has ended without doing so.
    Lost,
}

impl UnorderedArrivals {
    /// Whether another ticket may be taken.
    fn has_room(&self, open: &BTreeMap<u64, PendingBatch>) -> bool {
        !self.has_all_tickets && open.len() < self.max_open
    }

    /// Notes a ticket, or that none follows.
    fn add(&mut self, ticket: Option<Ticket>, open: &mut BTreeMap<u64, PendingBatch>) {
        match ticket {
            Some(Ok(pending)) => _ = open.insert(pending.number, pending),
            Some(Err(error)) => (self.has_all_tickets, self.failed) = (true, Some(error)),
            None => self.has_all_tickets = true,
        }
    }
}

impl Arrivals {
    /// Batches in order or, with a `bell` that receives the number of each finished batch, as they are finished.
    pub(crate) fn new(
        tickets: Receiver<Ticket>,
        jobs: Sender<DecodeJob>,
        watcher: WaitWatcher,
        awaited: watch::Sender<u64>,
        bell: Option<Receiver<u64>>,
    ) -> Self {
        let max_open = tickets.capacity().unwrap_or(1);
        let unordered = bell.map(|bell| UnorderedArrivals {
            bell,
            finished: BTreeSet::new(),
            max_open,
            has_all_tickets: false,
            failed: None,
        });
        Self { tickets, jobs, watcher, awaited, open: BTreeMap::new(), unordered }
    }

    /// Drops batches that nobody needs any more on another thread, since that may take long.
    pub(crate) fn discard(self) {
        let Self { tickets, jobs, open, .. } = self;
        // If the threads have ended, the job comes back and is dropped here.
        let _ = jobs.send(DecodeJob::Discard(Box::new((tickets, open))));
    }

    /// Waits for the next batch, and measures and reports the wait of the training loop: `waited_since` says for how
    /// much of the time since an instant the loop has waited. `on_slice` is called with each slice of its wait but the
    /// last, while the wait lasts.
    pub(crate) fn next(
        &mut self,
        totals: &mut WaitTotals,
        batch: u64,
        waited_since: impl Fn(Instant) -> Duration,
        mut on_slice: impl FnMut(Duration),
    ) -> Arrival {
        if let Some(arrival) = self.get(Duration::ZERO) {
            return arrival;
        }
        let mut slices = WaitSlices::new(self.watcher.stall_report);
        loop {
            let snapshot = self.watcher.snapshot(self.trace());
            let asked = Instant::now();
            let arrival = self.get(slices.slice());
            let took = waited_since(asked);

            totals.waited_for.add(snapshot.reason, took);
            let is_due = slices.passed(took);
            if let Some(arrival) = arrival {
                return arrival;
            }
            on_slice(took);
            if let Some(trace) = self.trace() {
                trace.give_up_composing(slices.waited, &self.watcher.gates);
            }
            if is_due {
                totals.stalls += 1;
                self.watcher.report(batch, slices.waited, self.trace());
            }
        }
    }

    /// The next batch, if it comes within this time.
    fn get(&mut self, within: Duration) -> Option<Arrival> {
        let deadline = Instant::now() + within;
        if self.unordered.is_some() { self.next_finished(deadline) } else { self.next_in_order(deadline) }
    }

    /// The oldest batch that is waited for, which is most likely to hold up others.
    fn trace(&self) -> Option<&BatchTrace> {
        self.open.first_key_value().map(|(_, pending)| &pending.trace)
    }

    /// Notes that the training loop waits for the oldest batch that is open, perhaps among others.
    fn note_wait(&self) {
        if let Some(number) = self.open.keys().next() {
            let count = number + 1;
            self.awaited.send_if_modified(|awaited| std::mem::replace(awaited, count) != count);
        }
    }

    fn next_in_order(&mut self, deadline: Instant) -> Option<Arrival> {
        if self.open.is_empty() {
            match self.tickets.recv_deadline(deadline) {
                Ok(Ok(pending)) => _ = self.open.insert(pending.number, pending),
                Ok(Err(error)) => return Some(Arrival::Batch(Err(error))),
                Err(RecvTimeoutError::Timeout) => return None,
                Err(RecvTimeoutError::Disconnected) => return Some(self.end()),
            }
        }
        self.note_wait();
        let pending = self.open.first_entry()?;
        let finished = match pending.get().receiver.recv_deadline(deadline) {
            Ok(finished) => finished,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => return Some(Arrival::Lost),
        };
        pending.remove();
        Some(Arrival::Batch(finished))
    }

    fn next_finished(&mut self, deadline: Instant) -> Option<Arrival> {
        loop {
            self.note_wait();
            let unordered = self.unordered.as_mut()?;
            while unordered.has_room(&self.open) {
                match self.tickets.try_recv() {
                    Ok(ticket) => unordered.add(Some(ticket), &mut self.open),
                    Err(TryRecvError::Disconnected) => unordered.add(None, &mut self.open),
                    Err(TryRecvError::Empty) => break,
                }
            }
            unordered.finished.extend(unordered.bell.try_iter());
            if let Some(number) = unordered.finished.iter().copied().find(|number| self.open.contains_key(number)) {
                unordered.finished.remove(&number);
                let pending = self.open.remove(&number)?;
                // The batch is in its channel, or the channel closes at this moment.
                return Some(pending.receiver.recv().map_or(Arrival::Lost, Arrival::Batch));
            }
            if self.open.is_empty() && unordered.has_all_tickets {
                let failed = unordered.failed.take();
                return Some(failed.map_or_else(|| self.end(), |error| Arrival::Batch(Err(error))));
            }

            let none = crossbeam_channel::never();
            let tickets = if unordered.has_room(&self.open) { &self.tickets } else { &none };
            crossbeam_channel::select! {
                recv(unordered.bell) -> number => match number {
                    Ok(number) => _ = unordered.finished.insert(number),
                    // No batch is left that could ring.
                    Err(_) if !self.open.is_empty() => return Some(Arrival::Lost),
                    Err(_) => unordered.bell = crossbeam_channel::never(),
                },
                recv(tickets) -> ticket => unordered.add(ticket.ok(), &mut self.open),
                default(deadline.saturating_duration_since(Instant::now())) => return None,
            }
        }
    }

    /// What follows the last ticket.
    fn end(&self) -> Arrival {
        if self.watcher.planner.state().0 == PlannerState::Ended { Arrival::End } else { Arrival::Lost }
    }
}
