//! One epoch's way from order to promises.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use crossbeam_channel::{SendTimeoutError, Sender};
use futures_util::{FutureExt, StreamExt, stream};
use tokio::sync::watch;

use super::arrivals::batch_channel;
use super::cached::{CacheSession, ReadClaim};
use super::decode_gate::{DecodeGate, DecodeLimits};
use super::loss::OnError;
use super::pool::{BatchAssembly, BatchContext, BatchOutlook, BatchReceiver, DecodeJob, UserCode};
use super::substitute::SubstituteContext;
use super::wait_report::{BatchProgress, BatchTrace, PlannerState, PlannerStatus, WindowStages};
use crate::budget::{Budget, Gauge, Permit};
use crate::collate::Collate;
use crate::compose::{ReadStep, StepObserver};
use crate::decode::Decode;
use crate::io::Io;
use crate::manifest::{Known, Manifest};
use crate::pacing::auto::{Auto, InFlightRead};
use crate::pacing::{CallCeiling, ServiceCeilings};
use crate::plan::{Group, GroupCounts, MAX_SOURCES, Method, Planner};
use crate::read::Fetcher;
use crate::read::{ProvedSamples, RawSample, split};
use crate::sample::{BatchSpan, DeliveredBatches, EpochOrder, RemainingPositions, SampleId, Spans};
use crate::{Error, ErrorKind, Result, Stage};

/// How often an object whose bytes don't match is read again: transport damages a few bytes in a while, and another
/// read is cheap beside a lost epoch; damage that stays is not in the transport.
const READS: usize = 3;

/// What the bytes of several batches that are planned together may be of the budget: so small that the groups of several
/// windows overlap.
const WINDOW_SHARE: u64 = 8;

/// Samples that are planned together at most, where no number of batches fills their groups well.
const WINDOW: usize = 512;

/// How often someone who waits for the training loop looks whether the epoch was ended.
const LOOK: Duration = Duration::from_millis(20);

/// Whether groups of so many samples would leave few places empty: a compose takes as long for one source as for 32.
fn fills_groups(samples: usize) -> bool {
    samples.next_multiple_of(MAX_SOURCES) - samples <= samples / MAX_SOURCES || samples >= WINDOW
}

/// What all epochs of a loader share.
pub(crate) struct Engine<D: Decode, C: Collate<D::Item>> {
    pub(crate) io: Arc<Io>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) planner: Planner,
    /// Where the way of reading is chosen by measurement.
    pub(crate) auto: Option<Arc<Auto>>,
    pub(crate) fetcher: Fetcher,
    pub(crate) kept: Option<CacheSession>,
    /// Of samples in this process, what epochs before this one, and this one, have read and proved.
    pub(crate) proved: Arc<Mutex<Option<Arc<ProvedSamples>>>>,
    /// Of the bytes that are read, and of items whose size is known before.
    pub(crate) budget: Budget,
    /// Bytes of the whole memory budget, what of it may be granted between reading and decoding, and whether that is
    /// counted in bytes.
    pub(crate) memory_budget: u64,
    pub(crate) decoding: Option<(DecodeLimits, bool)>,
    /// Where samples wait for that.
    pub(crate) gate: Option<Arc<DecodeGate<DecodeJob<D, C>>>>,
    pub(crate) code: Arc<UserCode<D, C>>,
    pub(crate) jobs: Sender<DecodeJob<D, C>>,
    pub(crate) on_error: OnError,
    /// Groups begun by this epoch.
    pub(crate) groups: Arc<GroupCounts>,
}

/// What the iterator is handed, in order.
pub(crate) enum Ticket<B> {
    Batch(PendingBatch<B>),
    /// No batch can follow.
    Failed(Error),
}

/// A batch to come.
pub(crate) struct PendingBatch<B> {
    pub(crate) promise: BatchReceiver<B>,
    /// From the one that the epoch, or what was left of it, began with.
    pub(crate) number: u64,
    /// Of the global order, those of all ranks.
    pub(crate) positions: Range<u64>,
    pub(crate) trace: BatchTrace,
}

/// The way of an epoch through the samples, those that aren't listed yet included.
pub(crate) struct EpochCursor {
    pub(crate) walk: EpochOrder,
    pub(crate) spans: Spans,
    /// Whether it begins while another is delivered, and whether another begins while it is.
    pub(crate) neighbours: (bool, bool),
    pub(crate) world_size: u64,
    /// What of the positions is left, and of the batches.
    pub(crate) rest: RemainingPositions,
    pub(crate) delivered: DeliveredBatches,
    /// The number of the next batch, and where among what is left it begins.
    pub(crate) next: (u64, u64),
}

/// A batch to come: its number, its samples and their places in the global order, how many of them fill it up, the positions
/// that it and its like of other ranks have, and how many samples come behind it at most.
pub(crate) struct PlannedBatch {
    number: u64,
    pub(crate) ids: Vec<SampleId>,
    own: Vec<Range<u64>>,
    padding: usize,
    positions: Range<u64>,
    left: u64,
}

impl EpochCursor {
    /// Refuses a whole epoch that ended without a batch. One of which all was delivered before has begun with some.
    fn check_batches(&mut self, manifest: &Manifest) -> Result<()> {
        if self.next != (0, 0) || self.rest != RemainingPositions::default() || self.spans.are_over() {
            return Ok(());
        }
        match self.walk.positions(manifest.known())? {
            Known::All(samples) => self.spans.check_samples(samples),
            Known::AtLeast(_) => Ok(()),
        }
    }

    /// The next batch, once its samples are known; `None` at the end of the epoch, or when it was called off. Blocks.
    ///
    /// # Errors
    /// The listing failed, and the batches before this were all that can be told of it; or the sampler did.
    fn next(
        &mut self,
        manifest: &Manifest,
        standing: &PlannerStatus,
        called_off: impl Fn() -> bool,
    ) -> Result<Option<PlannedBatch>> {
        loop {
            let known = manifest.known();
            if let Some(next) = self.known(known)? {
                return Ok(Some(next));
            }
            let Known::AtLeast(samples) = known else { return Ok(None) };
            if self.spans.are_over() {
                return Ok(None);
            }
            standing.does(PlannerState::Listing);
            let more = manifest.wait_beyond(samples, &called_off)?;
            standing.does(PlannerState::Planning);
            if !more {
                return Ok(None);
            }
        }
    }

    /// The next batch, if its samples are among those known.
    ///
    /// # Errors
    /// The sampler's.
    fn known(&mut self, listed: Known) -> Result<Option<PlannedBatch>> {
        let known = self.rest.known(self.walk.positions(listed)?);
        loop {
            let Some(BatchSpan { positions, padding, end }) = self.spans.next(known) else { return Ok(None) };
            let (number, start) = self.next;
            self.next = (number + 1, end);
            if self.delivered.has(number) {
                continue;
            }
            let left = match known {
                Known::All(all) => (all - end) / self.world_size,
                Known::AtLeast(_) => u64::MAX,
            };
            let left = left.min(self.spans.most_samples());
            let mut ids = Vec::new();
            let own: Vec<_> = self.rest.ranges(positions).collect();
            for own in &own {
                ids.extend(self.walk.ids(own.clone(), listed)?);
            }
            let positions = self.rest.place(start)..self.rest.place(end);
            return Ok(Some(PlannedBatch { number, ids, own, padding: padding as usize, positions, left }));
        }
    }
}

/// Batches that are planned together, in the making.
pub(crate) struct BatchWindow<D: Decode, C: Collate<D::Item>> {
    /// Where each begins among the samples of the window.
    batches: Vec<(usize, Arc<BatchAssembly<D, C>>)>,
    /// How far each sample is.
    pub(crate) steps: WindowStages,
    /// Where to keep what is proved of samples in this process.
    pub(crate) proved: Option<Arc<ProvedSamples>>,
}

impl<D: Decode, C: Collate<D::Item>> BatchWindow<D, C> {
    /// The batch that a sample of the window is in, and its place there.
    pub(crate) fn place(&self, slot: usize) -> (&Arc<BatchAssembly<D, C>>, usize) {
        // A batch without samples begins where the next one does.
        let at = self.batches.partition_point(|(start, _)| *start <= slot) - 1;
        let (start, assembly) = &self.batches[at];
        (assembly, slot - start)
    }

    /// The batches that samples of the group are in, each once.
    fn touched(&self, group: &Group) -> impl Iterator<Item = &Arc<BatchAssembly<D, C>>> {
        let mut last = None;
        group.slices.iter().filter_map(move |slice| {
            let assembly = self.place(slice.slot).0;
            let seen = last.replace(Arc::as_ptr(assembly)) == Some(Arc::as_ptr(assembly));
            (!seen).then_some(assembly)
        })
    }
}

/// What the thread of an epoch works with.
pub(crate) struct EpochContext<'a, D: Decode, C: Collate<D::Item>> {
    tickets: &'a Sender<Ticket<C::Output>>,
    pub(crate) cancel: &'a watch::Receiver<bool>,
    terms: Arc<BatchContext<D, C>>,
    /// Of samples in this process.
    pub(crate) proved: Option<Arc<ProvedSamples>>,
    /// Number after that of the last batch in a window that has all its bytes.
    pub(crate) held: watch::Sender<u64>,
    pub(crate) standing: &'a Arc<PlannerStatus>,
    /// After how long to tell that the training loop takes no batch.
    bound: Duration,
    /// Told of each batch that is done, where that matters.
    bell: Option<&'a Sender<u64>>,
    /// Of the last group begun: they are numbered in the order of delivery.
    number: Cell<u64>,
}

impl<D: Decode, C: Collate<D::Item>> EpochContext<'_, D, C> {
    pub(crate) fn next_number(&self) -> u64 {
        self.number.update(|number| number + 1);
        self.number.get()
    }

    /// Promises a batch to the training loop, whose samples begin there among those of its window; `None` where it wants no
    /// more.
    pub(crate) fn promise(
        &self,
        next: PlannedBatch,
        steps: &WindowStages,
        start: usize,
    ) -> Option<Arc<BatchAssembly<D, C>>> {
        let PlannedBatch { number, own, padding, positions, .. } = next;
        let (batch_channel, promise) = batch_channel(number, self.bell);
        let assembly = BatchAssembly::new(
            &self.terms,
            (own, padding),
            (number + 1, self.number.get()),
            (steps.clone(), start),
            batch_channel,
        );
        let making: Weak<dyn BatchProgress> = Arc::downgrade(&(Arc::clone(&assembly) as Arc<dyn BatchProgress>));
        let trace = BatchTrace::new(steps.clone(), start, assembly.samples(), making);
        self.hand_out(Ticket::Batch(PendingBatch { promise, number, positions, trace }))?;
        Some(assembly)
    }

    /// Hands a ticket out, once the training loop has few enough batches ahead; `None` where it wants no more.
    fn hand_out(&self, mut ticket: Ticket<C::Output>) -> Option<()> {
        let (began, mut told) = (Instant::now(), self.bound);
        loop {
            match self.tickets.send_timeout(ticket, LOOK) {
                Ok(()) => break,
                Err(SendTimeoutError::Disconnected(_)) => return None,
                Err(SendTimeoutError::Timeout(_)) if is_cancelled(self.cancel) => return None,
                Err(SendTimeoutError::Timeout(back)) => ticket = back,
            }
            // No stall of the loader's: a loop may well do something else for an hour.
            if began.elapsed() >= told {
                told = told.saturating_mul(2);
                tracing::info!(
                    batches = self.tickets.len(),
                    seconds = began.elapsed().as_secs_f64(),
                    "the training loop takes no batch; so many are ahead of it"
                );
            }
        }
        Some(())
    }
}

impl<D: Decode, C: Collate<D::Item>> Engine<D, C> {
    /// The engine of epochs that follow each other, and share these bytes.
    pub(crate) fn for_epochs(&self, held: &Gauge) -> Self {
        let budget = Budget::new(self.budget.bytes(), held.clone());
        let fetcher = self.fetcher.for_epochs(&budget);
        let gate = self
            .decoding
            .map(|(limits, in_bytes)| DecodeGate::new(limits, self.jobs.clone(), in_bytes.then(|| held.clone())));
        Self { budget, gate, ..self.part(fetcher, self.kept.clone()) }
    }

    /// The engine of one epoch: its temporaries and its counts are its own.
    pub(crate) fn for_epoch(&self) -> Self {
        self.part(self.fetcher.for_epoch(), self.kept.as_ref().map(CacheSession::for_epoch))
    }

    fn part(&self, fetcher: Fetcher, kept: Option<CacheSession>) -> Self {
        Self {
            io: Arc::clone(&self.io),
            manifest: Arc::clone(&self.manifest),
            planner: self.planner.clone(),
            auto: self.auto.clone(),
            fetcher,
            kept,
            proved: Arc::clone(&self.proved),
            budget: self.budget.clone(),
            memory_budget: self.memory_budget,
            decoding: self.decoding,
            gate: self.gate.clone(),
            code: Arc::clone(&self.code),
            jobs: self.jobs.clone(),
            on_error: self.on_error,
            groups: Arc::default(),
        }
    }

    /// Hands out the tickets of an epoch and starts the reads behind them, until the end or a cancellation. Groups are
    /// numbered on from `number`; returns the last. Blocks.
    pub(crate) fn run(
        self: Arc<Self>,
        mut course: EpochCursor,
        tickets: &Sender<Ticket<C::Output>>,
        cancel: &watch::Receiver<bool>,
        (standing, bound): (&Arc<PlannerStatus>, Duration),
        (bell, turn): (Option<&Sender<u64>>, watch::Receiver<u64>),
        number: u64,
    ) -> u64 {
        if let Some(auto) = &self.auto {
            auto.began(course.neighbours);
        }
        let (held, window_held) = watch::channel(0);
        let (sampling, epoch) = course.walk.course();
        let lockstep = SubstituteContext {
            sampling,
            epoch,
            turn,
            held: window_held,
            listed: Arc::default(),
            cancel: cancel.clone(),
        };
        let losing = self.losing(lockstep);
        let (gate, memory_budget) = (self.gate.clone(), self.memory_budget);
        let terms = Arc::new(BatchContext {
            code: Arc::clone(&self.code),
            cancel: cancel.clone(),
            losing,
            gate,
            memory_budget,
        });
        let proved = self.proved();
        let way =
            EpochContext { tickets, cancel, terms, proved, held, standing, bound, bell, number: Cell::new(number) };
        let mut held = None;
        loop {
            let first = match held
                .take()
                .map_or_else(|| course.next(&self.manifest, standing, || is_cancelled(cancel)), |next| Ok(Some(next)))
            {
                Ok(Some(next)) => next,
                Ok(None) if is_cancelled(cancel) => break,
                Ok(None) => {
                    standing.does(PlannerState::Ended);
                    // Known before only where the listing had ended when the loader was built.
                    if let Err(error) = course.check_batches(&self.manifest) {
                        way.hand_out(Ticket::Failed(error));
                    }
                    break;
                }
                Err(error) => {
                    // Closed: it wants no more.
                    way.hand_out(Ticket::Failed(error));
                    break;
                }
            };
            let mut window = vec![first];
            let failed = self.widen(&mut window, &mut course, tickets.capacity().unwrap_or(1)).map(|next| held = next);
            if self.start(window, &way).is_none() {
                break;
            }
            if let Err(error) = failed {
                // Closed: it wants no more.
                way.hand_out(Ticket::Failed(error));
                break;
            }
        }
        way.number.get()
    }

    /// Takes further batches into the window until their samples fill groups: those that are known, since none waits for
    /// the listing of another; as many as the channel of tickets has room for; as long as their bytes are few beside the
    /// budget. Returns one that was too much.
    ///
    /// # Errors
    /// The sampler's, for the batch after these.
    fn widen(
        &self,
        window: &mut Vec<PlannedBatch>,
        course: &mut EpochCursor,
        most: usize,
    ) -> Result<Option<PlannedBatch>> {
        let mut samples = window[0].ids.len();
        if !self.planner.may_compose() || fills_groups(samples) {
            return Ok(None);
        }
        // What can't be told is told again by the plan, with its error.
        let mut bytes = self.planner.bytes(&window[0].ids).unwrap_or(u64::MAX);
        while window.len() < most && !fills_groups(samples) {
            let Some(next) = course.known(self.manifest.known())? else { break };
            bytes = bytes.saturating_add(self.planner.bytes(&next.ids).unwrap_or(u64::MAX));
            if bytes > self.budget.bytes() / WINDOW_SHARE {
                return Ok(Some(next));
            }
            samples += next.ids.len();
            window.push(next);
        }
        Ok(None)
    }

    /// Hands out the tickets of a window and starts its reads. Nothing when the epoch is over: by an error, which a batch
    /// of the window then is, or because nobody wants any more.
    ///
    /// The bytes of a group are held until the last batch that it has samples of is delivered, so a batch may wait, in
    /// effect, for bytes that other batches of its window hold. It never waits in vain: they are taken in the order of
    /// delivery by this one thread, so what is held is of earlier windows, whose every group has its bytes and which are
    /// delivered without another byte, or of this window, of which the check says that all of it can be held at once. And
    /// tickets: there are no more in a window than the channel has room for, so that one that waits for room waits for
    /// batches of earlier windows to be taken, not for its own.
    fn start(self: &Arc<Self>, mut batches: Vec<PlannedBatch>, way: &EpochContext<'_, D, C>) -> Option<()> {
        if let [batch] = &mut batches[..]
            && let Some((proved, runs)) = self.runs(&batch.ids, way)
        {
            let batch = batches.pop()?;
            return self.start_proved(batch, &proved, runs, way);
        }
        let ids: Vec<_> = batches.iter().flat_map(|batch| &batch.ids).copied().collect();
        let mut looked = self.look_up(&ids);
        let groups =
            self.plan(&ids, &looked).map_err(|error| (error, Vec::new())).and_then(|groups| match self.fits(&groups) {
                Ok(()) => Ok(groups),
                Err(bytes) => Err((self.too_large(&groups, bytes), groups)),
            });
        if groups.is_err() && batches.len() > 1 {
            // Batch by batch, the error finds the one it belongs to.
            return batches.into_iter().try_for_each(|batch| self.start(vec![batch], way));
        }
        let left = batches.last().map_or(0, |batch| batch.left);
        let steps = WindowStages::new(ids.clone(), way.standing);
        let mut window = BatchWindow { batches: Vec::with_capacity(batches.len()), steps, proved: way.proved.clone() };
        let mut start = 0;
        let mut last = 0;
        for batch in batches {
            let samples = batch.ids.len();
            last = batch.number + 1;
            let assembly = way.promise(batch, &window.steps, start)?;
            if samples == 0 {
                assembly.finish_empty();
            }
            window.batches.push((start, assembly));
            start += samples;
        }
        let groups = match groups {
            Ok(groups) => groups,
            Err((error, _)) => {
                window.batches[0].1.fail(error);
                return None;
            }
        };
        let window = Arc::new(window);
        let mut behind = ids.len() as u64;
        for group in groups {
            behind -= group.slices.len() as u64;
            // Before it asks for leave: what waits for bytes must hold no place that another epoch could have.
            let held = self.bytes(&group);
            let passing = self.hold(held, window.touched(&group), way)?;
            if self.bring_local(&group, &mut looked, &window, passing.as_ref(), way) {
                continue;
            }
            let Some((group, claims)) = self.claim(group, &looked, &window, passing.as_ref(), way) else { continue };
            let Some(auto) = self.auto.as_ref().filter(|_| group.method != Method::Empty) else {
                self.begin(group, claims, &window, passing, None, way);
                continue;
            };
            let joined = if group.method == Method::Composed { group.slices.len() } else { 1 };
            way.standing.does(PlannerState::Turn);
            let turn = auto.admit(
                (joined, group.bytes(), held.0.saturating_add(held.1)),
                left.saturating_add(behind),
                || self.ceilings(),
                || is_cancelled(way.cancel),
            )?;
            way.standing.does(PlannerState::Planning);
            if turn.composed || joined == 1 {
                self.begin(group, claims, &window, passing, Some(auto.place(turn)), way);
            } else {
                for (group, claim) in group.split_up().zip(claims) {
                    self.begin(group, vec![claim], &window, passing.clone(), Some(auto.place(turn)), way);
                }
            }
        }
        way.held.send_replace(last);
        Some(())
    }

    /// Waits for the bytes of a group: all at once, as they were checked, however it is then read. Those that stay go to
    /// its batches; those that pass are returned. Nothing once the epoch is called off.
    #[expect(clippy::option_option, reason = "called off, or nothing to hold, or something")]
    pub(crate) fn hold<'a>(
        &self,
        (keeps, passes): (u64, u64),
        batches: impl Iterator<Item = &'a Arc<BatchAssembly<D, C>>>,
        way: &EpochContext<'_, D, C>,
    ) -> Option<Option<Arc<Permit>>> {
        let items = passes > 0;
        let kept = self.take(keeps, items, way)?;
        let passing = self.take(passes, false, way)?;
        if let Some(kept) = kept.map(Arc::new) {
            batches.for_each(|assembly| assembly.keep(Arc::clone(&kept) as _));
        }
        Some(passing.map(Arc::new))
    }

    /// Starts the read of a group, or of one of its samples, whose bytes are held.
    fn begin(
        self: &Arc<Self>,
        group: Group,
        claims: Vec<Option<ReadClaim>>,
        window: &Arc<BatchWindow<D, C>>,
        passing: Option<Arc<Permit>>,
        place: Option<InFlightRead>,
        way: &EpochContext<'_, D, C>,
    ) {
        self.groups.count(group.method);
        let number = way.next_number();
        let (engine, window, mut cancel) = (Arc::clone(self), Arc::clone(window), way.cancel.clone());
        self.io.handle().spawn(async move {
            // Given up when what was read has been put into the cache, or nobody wants it any more.
            let _claims = claims;
            tokio::select! {
                () = engine.bring(group, number, &window, passing, place) => {}
                // Also when the iterator is gone without a word.
                _ = cancel.wait_for(|&cancelled| cancelled) => {}
            }
        });
    }

    fn ceilings(&self) -> ServiceCeilings {
        let now = self.fetcher.ceilings();
        let most_behind = self.fetcher.throttles().writes.most_behind();
        let [reads, writes] = [now.reads, now.writes].map(|lane| CallCeiling {
            at_once: lane.at_once,
            in_flight: lane.in_flight,
            waiting: lane.waiting + lane.behind.saturating_sub(most_behind),
            rate: lane.per_second,
        });
        ServiceCeilings { reads, writes, may_write: self.fetcher.is_proven() }
    }

    /// Whether the bytes of a window can be held.
    ///
    /// # Errors
    /// The budget that it takes.
    pub(crate) fn fits(&self, groups: &[Group]) -> Result<(), u64> {
        self.budget.check(groups.iter().map(|group| self.bytes(group)))
    }

    /// Bytes of a group that stay until the batch is delivered, and bytes that go when it is decoded.
    pub(crate) fn bytes(&self, group: &Group) -> (u64, u64) {
        self.bytes_of(group.slices.iter().map(|slice| slice.range.end - slice.range.start))
    }

    /// Bytes of samples of these sizes that stay, and that go.
    pub(crate) fn bytes_of(&self, sizes: impl Iterator<Item = u64>) -> (u64, u64) {
        let (mut bytes, mut items) = (0u64, Some(0u64));
        for size in sizes {
            bytes = bytes.saturating_add(size);
            let UserCode { decode, collate, sizes, .. } = &*self.code;
            items = items.and_then(|sum| Some(sum.saturating_add(sizes.planned(&**decode, collate, size)?)));
        }
        if self.code.sizes.counts_items_later() {
            return (0, bytes);
        }
        items.map_or((bytes, 0), |items| (items, bytes))
    }

    /// Takes bytes from the budget; no permit for none, and nothing once the epoch is cancelled.
    #[expect(clippy::option_option, reason = "cancelled, or nothing to hold, or something")]
    fn take(&self, bytes: u64, items: bool, way: &EpochContext<'_, D, C>) -> Option<Option<Permit>> {
        if is_cancelled(way.cancel) {
            return None;
        }
        if bytes == 0 {
            return Some(None);
        }
        let take = async || if items { self.budget.take_for_items(bytes).await } else { self.budget.take(bytes).await };
        // Nobody else waits for this budget, so that nobody is overtaken.
        if let Some(permit) = take().now_or_never() {
            return Some(Some(permit));
        }
        way.standing.does(PlannerState::Budget);
        let mut cancel = way.cancel.clone();
        let permit = self.io.handle().block_on(async {
            tokio::select! {
                permit = take() => Some(Some(permit)),
                _ = cancel.wait_for(|&cancelled| cancelled) => None,
            }
        });
        way.standing.does(PlannerState::Planning);
        permit
    }

    fn too_large(&self, groups: &[Group], bytes: u64) -> Error {
        let samples: usize = groups.iter().map(|group| group.slices.len()).sum();
        let largest =
            groups.iter().flat_map(|group| &group.slices).max_by_key(|slice| slice.range.end - slice.range.start);
        let mut error =
            Error::new(ErrorKind::Config, format!("a batch of {samples} samples is over the memory budget"))
                .stage(Stage::Plan)
                .mismatch(format_args!("a memory_budget of at least {bytes} bytes"), self.budget.bytes())
                .hint("raise .memory_budget(bytes) or lower .batch_size(n)");
        if let Some(entry) = largest.and_then(|slice| self.manifest.get(slice.id.0)) {
            error = error.object(format_args!("{} (the largest, {} bytes)", self.manifest.id(&entry), entry.size));
        }
        error
    }

    /// Reads a group's samples, each proved, and hands them to the decode threads.
    async fn bring(
        &self,
        group: Group,
        number: u64,
        window: &BatchWindow<D, C>,
        passing: Option<Arc<Permit>>,
        mut place: Option<InFlightRead>,
    ) {
        if let Some(place) = &mut place {
            place.begin();
        }
        if group.method != Method::Composed {
            let (slot, id) = (group.slices[0].slot, group.slices[0].id);
            let told = |step| window.steps.step(std::iter::once(slot), step);
            match read_alone(&self.fetcher, &self.manifest, group, number, &told).await {
                Err(error) => {
                    self.lose(window.place(slot), id, error);
                }
                Ok(samples) => {
                    if let Some(mut place) = place {
                        place.done(samples.len());
                    }
                    self.keep(&samples);
                    self.hand_over(samples, window, passing.as_ref());
                }
            }
            return;
        }
        let compose = window.steps.compose();
        let slots = || group.slices.iter().map(|slice| slice.slot);
        let joined = AtomicBool::new(false);
        let told = |step| {
            joined.fetch_or(step == ReadStep::Reading, Ordering::Relaxed);
            window.steps.compose_step(&compose, slots(), step);
        };
        let given_up = window.steps.given_up(group.slices[0].slot, &compose);
        let prove = |payload| split(&self.manifest, payload);
        let outcome = self.fetcher.fetch_composed(group.clone(), number, &told, prove, given_up).await;
        match outcome {
            Ok(samples) => {
                if let Some(mut place) = place {
                    place.done(samples.len());
                }
                self.keep(&samples);
                self.hand_over(samples, window, passing.as_ref());
            }
            Err(error) if error.is_cancelled() => window.place(group.slices[0].slot).0.fail(error),
            // Whatever went wrong, each object by itself works or finds out which one is to blame. In order: batches
            // before that one are whole, and those behind it, if it fails its batch, nobody gets to see.
            Err(error) => {
                tracing::debug!(%error, objects = group.slices.len(), "a composed read failed; reading object by object");
                if let Some(place) = place {
                    place.failed();
                }
                let repeating;
                let fetcher = if joined.into_inner() {
                    repeating = self.fetcher.repeating();
                    &repeating
                } else {
                    // None of its bytes was asked for yet.
                    self.groups.count_as_alone(group.slices.len() as u64);
                    &self.fetcher
                };
                let alone: Vec<_> = group.split_up().collect();
                let mut reads = stream::iter(alone)
                    .map(async |group| {
                        let (slot, id) = (group.slices[0].slot, group.slices[0].id);
                        let told = |step| window.steps.step(std::iter::once(slot), step);
                        (slot, id, read_alone(fetcher, &self.manifest, group, number, &told).await)
                    })
                    .buffered(MAX_SOURCES);
                while let Some((slot, id, samples)) = reads.next().await {
                    match samples.map_err(|error| self.lose(window.place(slot), id, error)) {
                        Ok(samples) => {
                            self.keep(&samples);
                            self.hand_over(samples, window, passing.as_ref());
                        }
                        Err(BatchOutlook::Failed) => return,
                        Err(BatchOutlook::Waiting | BatchOutlook::Whole) => {}
                    }
                }
            }
        }
    }

    /// Hands samples to the decode threads.
    pub(crate) fn hand_over(
        &self,
        samples: Vec<(usize, RawSample)>,
        window: &BatchWindow<D, C>,
        passing: Option<&Arc<Permit>>,
    ) {
        self.decode(samples, window, passing, |whole| self.give(whole, DecodeJob::Collate(Arc::clone(whole))));
    }

    /// Decodes samples, or has the decode threads do so, and says which batches are whole by that.
    pub(crate) fn decode(
        &self,
        samples: Vec<(usize, RawSample)>,
        window: &BatchWindow<D, C>,
        passing: Option<&Arc<Permit>>,
        whole: impl Fn(&Arc<BatchAssembly<D, C>>),
    ) {
        window.steps.brought(samples.iter().map(|(slot, _)| *slot));
        if !self.code.decode.is_light() {
            for (slot, sample) in samples {
                let (assembly, slot) = window.place(slot);
                self.have_decoded(assembly, slot, sample, passing);
            }
            return;
        }
        let mut samples = samples.into_iter().peekable();
        while let Some(&(slot, _)) = samples.peek() {
            let (assembly, in_batch) = window.place(slot);
            let slots = slot - in_batch..slot - in_batch + assembly.samples();
            // All of them are taken here, whether the batch still wants them or not.
            let of_batch = std::iter::from_fn(|| samples.next_if(|(slot, _)| slots.contains(slot)));
            let of_batch: Vec<_> = of_batch.map(|(slot, sample)| (slot - slots.start, sample)).collect();
            if assembly.decode(of_batch, None) {
                whole(assembly);
            }
        }
    }

    /// Hands one sample to the decode threads, or decodes it here.
    pub(crate) fn hand_one_over(
        &self,
        assembly: &Arc<BatchAssembly<D, C>>,
        slot: usize,
        sample: RawSample,
        passing: Option<&Arc<Permit>>,
    ) {
        if !self.code.decode.is_light() {
            self.have_decoded(assembly, slot, sample, passing);
        } else if assembly.decode([(slot, sample)], None) {
            self.give(assembly, DecodeJob::Collate(Arc::clone(assembly)));
        }
    }

    pub(crate) fn have_decoded(
        &self,
        assembly: &Arc<BatchAssembly<D, C>>,
        slot: usize,
        sample: RawSample,
        passing: Option<&Arc<Permit>>,
    ) {
        if let Some(job) = assembly.admit(slot, sample, passing.cloned()) {
            self.give(assembly, job);
        }
    }

    /// Gives a job of this batch to the decode threads.
    pub(crate) fn give(&self, assembly: &BatchAssembly<D, C>, job: DecodeJob<D, C>) {
        if self.jobs.send(job).is_err() {
            assembly.fail(Error::new(ErrorKind::Internal, "the decode threads are gone"));
        }
    }

    /// Does what is to be done about a sample that can't be read.
    pub(crate) fn lose(
        &self,
        (assembly, slot): (&Arc<BatchAssembly<D, C>>, usize),
        id: SampleId,
        error: Error,
    ) -> BatchOutlook {
        let outlook = match self.manifest.at(id.0) {
            Ok(entry) => assembly.lose(slot, (id, entry.name), error),
            Err(damaged) => {
                assembly.fail(damaged);
                BatchOutlook::Failed
            }
        };
        if outlook == BatchOutlook::Whole {
            self.give(assembly, DecodeJob::Collate(Arc::clone(assembly)));
        }
        outlook
    }
}

/// Also when the iterator is gone without a word.
pub(crate) fn is_cancelled(cancel: &watch::Receiver<bool>) -> bool {
    *cancel.borrow() || cancel.has_changed().is_err()
}

/// Reads one object, again if its bytes don't match.
pub(crate) async fn read_alone(
    fetcher: &Fetcher,
    manifest: &Arc<Manifest>,
    group: Group,
    number: u64,
    told: StepObserver<'_>,
) -> Result<Vec<(usize, RawSample)>> {
    let (mut repeating, mut reads) = (None, 1);
    loop {
        let fetcher = repeating.as_ref().unwrap_or(fetcher);
        match split(manifest, fetcher.fetch(group.clone(), number, told).await?) {
            Err(error) if error.kind() == ErrorKind::Integrity && reads < READS => {
                reads += 1;
                tracing::warn!(%error, "reading again");
                repeating = Some(fetcher.repeating());
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            outcome => return outcome,
        }
    }
}
