//! The planning thread of an epoch: it plans batches in order, takes their bytes from the memory budget, and starts
//! their reads.
//!
//! **Why no batch waits for itself.** The bytes of a group are held until the last batch with one of its samples is
//! delivered, so a batch may wait for bytes that other batches of its window hold. Such a wait ends: this thread takes
//! the bytes of all planned reads, in the order of delivery ([`substitute`](super::substitute) has rules of its own).
//! So bytes are held either by earlier windows, that have all their bytes and need no more to be delivered, or by this
//! window, which [`Engine::check_budget`] has found to fit into the budget as a whole. A window never has more batches
//! than the channel of tickets has room for, so a ticket that waits for room waits for batches of earlier windows to be
//! delivered, and never for its own.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{SendTimeoutError, Sender};
use futures_util::FutureExt;
use tokio::sync::watch;

use super::assembly::{BatchAssembly, BatchContext, BatchPlace};
use super::cursor::{EpochCursor, PlannedBatch};
use super::pipeline::Engine;
use super::shutdown::EpochSignal;
use super::source::{Delivery, PlannedReads, ReadNumbers, ReadStart, SampleSource};
use super::stages::{PlannerState, PlannerStatus, WindowStages};
use super::substitute::{SubstituteContext, loss_policy};
use super::ticket::{PendingBatch, Ticket, batch_channel};
use super::wait_report::BatchTrace;
use super::window::BatchWindow;
use crate::Error;
use crate::budget::{GroupBytes, Permit};
use crate::pacing::NeighbourEpochs;
use crate::plan::Group;
use crate::sample::{EpochPlace, SampleId};

/// A batch is added to a window only if the samples of the window then have at most `1 / WINDOW_PARTS` of the bytes
/// that may be read at once. So the reads of several windows can be in flight.
const WINDOW_PARTS: u64 = 8;

/// No batch is added to a window of at least this many samples, even if they don't fill their groups.
const ENOUGH_WINDOW_SAMPLES: usize = 512;

/// How often a thread that waits for the training loop checks whether the epoch is cancelled.
const CANCEL_CHECK: Duration = Duration::from_millis(20);

/// Whether a window of this many samples is wide enough: they nearly fill their last group of `per_group` samples, or
/// they are many. A compose request costs the same for 1 source as for 32.
fn is_wide_enough(samples: usize, per_group: usize) -> bool {
    samples.next_multiple_of(per_group) - samples <= samples / per_group || samples >= ENOUGH_WINDOW_SAMPLES
}

/// An epoch that is to be planned.
pub(crate) struct EpochPlanner {
    pub(crate) engine: Arc<Engine>,
    pub(crate) cursor: EpochCursor,
    /// For the choice between direct and composed reads.
    pub(crate) neighbours: NeighbourEpochs,
    pub(crate) tickets: Sender<Ticket>,
    pub(crate) cancel: EpochSignal,
    pub(crate) status: Arc<PlannerStatus>,
    /// Receives the number of each finished batch, if batches are unordered.
    pub(crate) bell: Option<Sender<u64>>,
    /// One more than the number of the oldest batch that the training loop waits for.
    pub(crate) awaited: watch::Receiver<u64>,
}

/// The epoch was cancelled, or ended by an error: no batch follows.
struct Ended;

/// What the planning thread works with.
struct PlannerRun<'a> {
    engine: &'a Engine,
    source: Arc<dyn SampleSource>,
    context: Arc<BatchContext>,
    tickets: &'a Sender<Ticket>,
    status: &'a Arc<PlannerStatus>,
    bell: Option<&'a Sender<u64>>,
    /// Number of batches whose windows have all their bytes.
    batches_with_bytes: watch::Sender<u64>,
    numbers: ReadNumbers,
}

impl EpochPlanner {
    /// Hands out the tickets of the epoch and starts its reads, until its end or a cancellation. Reads get numbers that
    /// follow `last_number`. Returns the last number. Blocks.
    pub(crate) fn run(self, last_number: u64) -> u64 {
        let Self { engine, mut cursor, neighbours, tickets, cancel, status, bell, awaited } = self;
        if let Some(auto) = &engine.bucket.auto {
            auto.start_epoch(neighbours);
        }
        let (batches_with_bytes, with_bytes) = watch::channel(0);
        let (sampling, epoch) = (Arc::clone(cursor.order.sampling()), cursor.order.epoch());
        let first_place = EpochPlace::first(sampling.identity(), epoch);
        let source = engine.source();
        let substitutes = SubstituteContext {
            engine: Arc::clone(&engine),
            source: Arc::clone(&source),
            sampling,
            epoch,
            awaited,
            batches_with_bytes: with_bytes,
            listed: Arc::default(),
            cancel: cancel.clone(),
        };
        let context = Arc::new(BatchContext {
            epoch,
            events: engine.bucket.fetcher.events().clone(),
            code: Arc::clone(&engine.code),
            manifest: Arc::clone(&engine.bucket.manifest),
            cancel,
            loss_policy: loss_policy(substitutes),
            gate: engine.gate.clone(),
            jobs: engine.jobs.clone(),
            memory_budget: engine.memory_budget,
            first_place,
        });
        let run = PlannerRun {
            engine: &engine,
            source,
            context,
            tickets: &tickets,
            status: &status,
            bell: bell.as_ref(),
            batches_with_bytes,
            numbers: ReadNumbers::after(last_number),
        };
        // Dropping the sender ends the tickets, also if the epoch was cancelled or a batch failed.
        let _ = run.plan(&mut cursor);
        run.numbers.last()
    }
}

impl PlannerRun<'_> {
    fn is_cancelled(&self) -> bool {
        self.context.cancel.is_cancelled()
    }

    fn plan(&self, cursor: &mut EpochCursor) -> Result<(), Ended> {
        let manifest = &self.engine.bucket.manifest;
        let mut carried_over = None;
        loop {
            let next = match carried_over.take() {
                Some(batch) => Ok(Some(batch)),
                None => cursor.next(manifest, self.status, || self.is_cancelled()),
            };
            let first = match next {
                Ok(Some(first)) => first,
                Ok(None) if self.is_cancelled() => return Err(Ended),
                Ok(None) => {
                    self.status.enter(PlannerState::Ended);
                    // This was checked when the loader was built, unless the listing was under way then.
                    return cursor.check_batches(manifest).or_else(|error| self.fail(error));
                }
                Err(error) => return self.fail(error),
            };

            let mut window = vec![first];
            let widened = self.widen(&mut window, cursor);
            self.start(window)?;
            match widened {
                Ok(batch) => carried_over = batch,
                Err(error) => return self.fail(error),
            }
        }
    }

    /// Adds batches to the window until their samples fill groups. It adds only batches whose samples are listed, as
    /// many as the channel of tickets has room for, and as long as their bytes are few beside the budget. Returns the
    /// batch that no longer fits, which starts the next window.
    ///
    /// # Errors
    /// The sampler's error for the next batch.
    fn widen(&self, window: &mut Vec<PlannedBatch>, cursor: &mut EpochCursor) -> crate::Result<Option<PlannedBatch>> {
        let (planner, manifest) = (&self.engine.bucket.planner, &self.engine.bucket.manifest);
        let mut samples = window[0].ids.len();
        let per_group = planner.samples_per_group();
        if !planner.may_compose() || is_wide_enough(samples, per_group) {
            return Ok(None);
        }
        let max_batches = self.tickets.capacity().unwrap_or(1);
        // A failed look-up fails again when the window is planned, which reports it.
        let bytes_of = |batch: &PlannedBatch| planner.bytes(&batch.ids).unwrap_or(u64::MAX);
        let mut bytes = bytes_of(&window[0]);
        while window.len() < max_batches && !is_wide_enough(samples, per_group) {
            let Some(next) = cursor.next_known(manifest.known())? else { break };
            bytes = bytes.saturating_add(bytes_of(&next));
            if bytes > self.engine.budget.bytes() / WINDOW_PARTS {
                return Ok(Some(next));
            }
            samples += next.ids.len();
            window.push(next);
        }
        Ok(None)
    }

    /// Hands out the tickets of a window and starts its reads.
    ///
    /// # Errors
    /// The epoch is cancelled, or a batch of the window fails.
    fn start(&self, batches: Vec<PlannedBatch>) -> Result<(), Ended> {
        let ids: Vec<SampleId> = batches.iter().flat_map(|batch| &batch.ids).copied().collect();
        let reads = self.plan_reads(&ids);
        if reads.is_err() && batches.len() > 1 {
            // Each batch may fit into the budget where the window does not. If not, this shows which one has the error.
            return batches.into_iter().try_for_each(|batch| self.start(vec![batch]));
        }

        let samples_left = batches.last().map_or(0, |batch| batch.samples_left);
        let end = batches.last().map_or(0, |batch| batch.number + 1);
        let mut window_samples_left = ids.len() as u64;
        let stages = WindowStages::new(ids, self.status);
        let window = self.hand_out_batches(batches, stages)?;
        let mut reads = reads.map_err(|error| {
            window.batches[0].fail(error);
            Ended
        })?;
        for index in 0..reads.groups().len() {
            let group = &reads.groups()[index];
            window_samples_left -= group.slices.len() as u64;
            let bytes = self.engine.bytes(group);
            // Before the group is admitted: a group that waits for bytes must hold no read slot that another epoch
            // could use.
            let until_decoded = self.hold(bytes, group, &window)?;
            let (window, cancel) = (Arc::clone(&window), self.context.cancel.clone());
            let delivery = Delivery { window, until_decoded, cancel, cache: None };
            let start = ReadStart {
                numbers: &self.numbers,
                planner: self.status,
                held_bytes: bytes.total(),
                samples_left: samples_left.saturating_add(window_samples_left),
            };
            reads.start(index, delivery, &start).ok_or(Ended)?;
        }
        self.batches_with_bytes.send_replace(end);
        Ok(())
    }

    /// Plans the reads of a window, if the memory budget can hold them together.
    fn plan_reads(&self, ids: &[SampleId]) -> crate::Result<Box<dyn PlannedReads>> {
        let fits = |groups: &[Group]| self.engine.check_budget(groups).is_ok();
        let reads = Arc::clone(&self.source).plan(ids, &fits)?;
        match self.engine.check_budget(reads.groups()) {
            Ok(()) => Ok(reads),
            Err(bytes) => Err(self.engine.too_large(reads.groups(), bytes)),
        }
    }

    /// Hands out the tickets of the batches of a window. A new batch also registers at the gate for decoding, which
    /// grants memory in that order. A batch without samples is collated here.
    fn hand_out_batches(
        &self,
        batches: Vec<PlannedBatch>,
        stages: Arc<WindowStages>,
    ) -> Result<Arc<BatchWindow>, Ended> {
        let mut assemblies = Vec::with_capacity(batches.len());
        let mut first = 0;
        for batch in batches {
            let slots = first..first + batch.ids.len();
            first = slots.end;
            let is_empty = batch.ids.is_empty();
            let PlannedBatch { number, own_positions, padding, global_positions, .. } = batch;
            let place = BatchPlace {
                number,
                slots: slots.clone(),
                positions: own_positions,
                global_positions,
                padding,
                read_number: self.numbers.last(),
            };
            let (sender, receiver) = batch_channel(number, self.bell);
            let assembly = BatchAssembly::new(&self.context, place, Arc::clone(&stages), sender);
            let trace = BatchTrace { stages: Arc::clone(&stages), slots };
            self.hand_out(Ok(PendingBatch { receiver, number, trace }))?;
            if is_empty {
                assembly.collate();
            }
            assemblies.push(assembly);
        }
        Ok(Arc::new(BatchWindow { batches: assemblies, stages }))
    }

    /// Hands out the error that ends the epoch. `Ok` means that the ticket with the error was handed out.
    fn fail(&self, error: Error) -> Result<(), Ended> {
        self.hand_out(Err(error))
    }

    /// Hands a ticket out, once the training loop has few enough batches ahead.
    fn hand_out(&self, mut ticket: Ticket) -> Result<(), Ended> {
        loop {
            match self.tickets.send_timeout(ticket, CANCEL_CHECK) {
                Ok(()) => return Ok(()),
                Err(SendTimeoutError::Disconnected(_)) => return Err(Ended),
                Err(SendTimeoutError::Timeout(_)) if self.is_cancelled() => return Err(Ended),
                Err(SendTimeoutError::Timeout(back)) => ticket = back,
            }
        }
    }

    /// Waits for the bytes of a group: all that [`Engine::check_budget`] counted, even if the read turns out to need
    /// less. The batches of the group keep the bytes that are held until delivery. Returns the permit for the bytes
    /// that are held until the group is decoded.
    fn hold(&self, bytes: GroupBytes, group: &Group, window: &BatchWindow) -> Result<Option<Arc<Permit>>, Ended> {
        // If payloads are freed after decoding, the bytes kept until delivery are those of items.
        let are_items = bytes.until_decoded > 0;
        let lasting = self.take(bytes.until_delivered, are_items)?;
        let until_decoded = self.take(bytes.until_decoded, false)?;
        if let Some(lasting) = lasting {
            window.batches_of(group).for_each(|batch| batch.hold(Arc::clone(&lasting) as _));
        }
        Ok(until_decoded)
    }

    /// Takes bytes from the budget; `None` for 0 bytes.
    fn take(&self, bytes: u64, are_items: bool) -> Result<Option<Arc<Permit>>, Ended> {
        if self.is_cancelled() {
            return Err(Ended);
        }
        if bytes == 0 {
            return Ok(None);
        }
        let budget = &self.engine.budget;
        let take = async || if are_items { budget.take_for_items(bytes).await } else { budget.take(bytes).await };
        // The budget serves those that wait in order, so taking at once passes nobody.
        if let Some(permit) = take().now_or_never() {
            return Ok(Some(Arc::new(permit)));
        }
        self.status.enter(PlannerState::Budget);
        let mut cancel = self.context.cancel.clone();
        let permit = self.engine.bucket.io.handle().block_on(async {
            tokio::select! {
                permit = take() => Ok(permit),
                () = cancel.cancelled() => Err(Ended),
            }
        })?;
        self.status.enter(PlannerState::Planning);
        Ok(Some(Arc::new(permit)))
    }
}
