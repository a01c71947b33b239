//! One epoch's way from order to promises.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use futures_util::{StreamExt, stream};
use tokio::sync::watch;

use super::auto::{Auto, Place};
use super::pool::{Assembly, Code, Job, Promise};
use crate::budget::{Budget, Permit};
use crate::collate::Collate;
use crate::decode::Decode;
use crate::fetch::Fetcher;
use crate::io::Io;
use crate::manifest::{Known, Manifest};
use crate::plan::{Ceiling, Ceilings, Group, GroupCounts, MAX_SOURCES, Method, Planner};
use crate::sample::{BatchSpan, SampleId, Spans, Walk};
use crate::split::{RawSample, split};
use crate::{Error, ErrorKind, Result, Stage};

/// How often an object whose bytes don't match is read again: transport damages a few bytes in a while, and another
/// read is cheap beside a lost epoch; damage that stays is not in the transport.
const READS: usize = 3;

/// What the bytes of several batches that are planned together may be of the budget: so small that the groups of several
/// windows overlap.
const WINDOW_SHARE: u64 = 8;

/// Samples that are planned together at most, where no number of batches fills their groups well.
const WINDOW: usize = 512;

/// Whether groups of so many samples would leave few places empty: a compose takes as long for one source as for 32.
fn fills_groups(samples: usize) -> bool {
    samples.next_multiple_of(MAX_SOURCES) - samples <= samples / MAX_SOURCES || samples >= WINDOW
}

/// What all epochs of a loader share.
pub(super) struct Engine<D: Decode, C: Collate<D::Item>> {
    pub(super) io: Arc<Io>,
    pub(super) manifest: Arc<Manifest>,
    pub(super) planner: Planner,
    /// Where the way of reading is chosen by measurement.
    pub(super) auto: Option<Arc<Auto>>,
    pub(super) fetcher: Fetcher,
    pub(super) budget: Budget,
    pub(super) code: Arc<Code<D, C>>,
    pub(super) jobs: Sender<Job<D, C>>,
    /// Groups begun by this epoch.
    pub(super) groups: Arc<GroupCounts>,
}

/// What the iterator is handed, in order.
pub(super) enum Ticket<B> {
    /// A batch to come, and where in the global order it ends.
    Batch(Promise<B>, u64),
    /// No batch can follow.
    Failed(Error),
    /// All batches have been handed out.
    End,
}

/// The way of an epoch through the samples, those that aren't listed yet included.
pub(super) struct Course {
    pub(super) walk: Walk,
    pub(super) spans: Spans,
    pub(super) world_size: u64,
}

/// A batch to come: its samples, how many of them fill it up, where in the global order it ends, and how many samples come
/// behind it at most.
struct Next {
    ids: Vec<SampleId>,
    padding: usize,
    end: u64,
    left: u64,
}

impl Course {
    /// The next batch, once its samples are known; `None` at the end of the epoch, or when it was called off. Blocks.
    ///
    /// # Errors
    /// The listing failed, and the batches before this were all that can be told of it; or the sampler did.
    fn next(&mut self, manifest: &Manifest, called_off: impl Fn() -> bool) -> Result<Option<Next>> {
        loop {
            let known = manifest.known();
            if let Some(next) = self.known(known)? {
                return Ok(Some(next));
            }
            let Known::AtLeast(samples) = known else { return Ok(None) };
            if !manifest.wait_beyond(samples, &called_off)? {
                return Ok(None);
            }
        }
    }

    /// The next batch, if its samples are among those known.
    ///
    /// # Errors
    /// The sampler's.
    fn known(&mut self, listed: Known) -> Result<Option<Next>> {
        let positions = self.walk.positions(listed)?;
        let Some(BatchSpan { positions: own, padding, end }) = self.spans.next(positions) else { return Ok(None) };
        let left = match positions {
            Known::All(all) => (all - end) / self.world_size,
            Known::AtLeast(_) => u64::MAX,
        };
        Ok(Some(Next { ids: self.walk.ids(own, listed)?, padding: padding as usize, end, left }))
    }
}

/// Batches that are planned together, in the making.
pub(super) struct Window<D: Decode, C: Collate<D::Item>> {
    /// Where each begins among the samples of the window.
    batches: Vec<(usize, Arc<Assembly<D, C>>)>,
}

impl<D: Decode, C: Collate<D::Item>> Window<D, C> {
    /// The batch that a sample of the window is in, and its place there.
    pub(super) fn place(&self, slot: usize) -> (&Arc<Assembly<D, C>>, usize) {
        // A batch without samples begins where the next one does.
        let at = self.batches.partition_point(|(start, _)| *start <= slot) - 1;
        let (start, assembly) = &self.batches[at];
        (assembly, slot - start)
    }

    /// The batches that samples of the group are in, each once.
    fn touched(&self, group: &Group) -> impl Iterator<Item = &Arc<Assembly<D, C>>> {
        let mut last = None;
        group.slices.iter().filter_map(move |slice| {
            let assembly = self.place(slice.slot).0;
            let seen = last.replace(Arc::as_ptr(assembly)) == Some(Arc::as_ptr(assembly));
            (!seen).then_some(assembly)
        })
    }
}

/// What the thread of an epoch works with.
pub(super) struct Way<'a, B> {
    tickets: &'a Sender<Ticket<B>>,
    pub(super) cancel: &'a watch::Receiver<bool>,
    /// Of the last group begun: they are numbered in the order of delivery.
    number: Cell<u64>,
}

impl<B> Way<'_, B> {
    pub(super) fn next_number(&self) -> u64 {
        self.number.update(|number| number + 1);
        self.number.get()
    }
}

impl<D: Decode, C: Collate<D::Item>> Engine<D, C> {
    /// The engine of one epoch: its bytes and its temporaries are its own, so that no epoch waits for another's.
    pub(super) fn for_epoch(&self, budget: Budget) -> Arc<Self> {
        Arc::new(Self {
            io: Arc::clone(&self.io),
            manifest: Arc::clone(&self.manifest),
            planner: self.planner.clone(),
            auto: self.auto.clone(),
            fetcher: self.fetcher.for_epoch(&budget),
            budget,
            code: Arc::clone(&self.code),
            jobs: self.jobs.clone(),
            groups: Arc::default(),
        })
    }

    /// Hands out the tickets of an epoch and starts the reads behind them, until the end or a cancellation. Blocks.
    pub(super) fn run(
        self: Arc<Self>,
        mut course: Course,
        tickets: &Sender<Ticket<C::Output>>,
        cancel: &watch::Receiver<bool>,
    ) {
        if let Some(auto) = &self.auto {
            auto.began();
        }
        let way = Way { tickets, cancel, number: Cell::new(0) };
        let mut held = None;
        loop {
            let first = match held
                .take()
                .map_or_else(|| course.next(&self.manifest, || is_cancelled(cancel)), |next| Ok(Some(next)))
            {
                Ok(Some(next)) => next,
                Ok(None) if is_cancelled(cancel) => return,
                Ok(None) => break,
                Err(error) => {
                    // Closed: it wants no more.
                    let _ = tickets.send(Ticket::Failed(error));
                    return;
                }
            };
            let mut window = vec![first];
            let failed = self.widen(&mut window, &mut course, tickets.capacity().unwrap_or(1)).map(|next| held = next);
            if self.start(window, &way).is_none() {
                return;
            }
            if let Err(error) = failed {
                // Closed: it wants no more.
                let _ = tickets.send(Ticket::Failed(error));
                return;
            }
        }
        // Closed: it wants no more.
        let _ = tickets.send(Ticket::End);
    }

    /// Takes further batches into the window until their samples fill groups: those that are known, since none waits for
    /// the listing of another; as many as the channel of tickets has room for; as long as their bytes are few beside the
    /// budget. Returns one that was too much.
    ///
    /// # Errors
    /// The sampler's, for the batch after these.
    fn widen(&self, window: &mut Vec<Next>, course: &mut Course, most: usize) -> Result<Option<Next>> {
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
    fn start(self: &Arc<Self>, batches: Vec<Next>, way: &Way<'_, C::Output>) -> Option<()> {
        let ids: Vec<_> = batches.iter().flat_map(|batch| &batch.ids).copied().collect();
        let (at_hand, mut listed) = self.plan_at_hand(&ids).unzip();
        let planned = at_hand.map_or_else(|| self.planner.plan(&ids), Ok);
        let groups = planned.map_err(|error| (error, Vec::new())).and_then(|mut groups| {
            if !self.fetcher.may_compose() && listed.is_none() {
                groups = groups.iter().flat_map(Group::split_up).collect();
            }
            match self.budget.check(groups.iter().map(|group| self.bytes(group))) {
                Ok(()) => Ok(groups),
                Err(bytes) => Err((self.too_large(&groups, bytes), groups)),
            }
        });
        if groups.is_err() && batches.len() > 1 {
            // Batch by batch, the error finds the one it belongs to.
            return batches.into_iter().try_for_each(|batch| self.start(vec![batch], way));
        }
        let left = batches.last().map_or(0, |batch| batch.left);
        let mut window = Window { batches: Vec::with_capacity(batches.len()) };
        let mut start = 0;
        for Next { ids, padding, end, .. } in batches {
            let samples = ids.len();
            let (assembly, promise) = Assembly::new(Arc::clone(&self.code), ids, padding, way.cancel.clone());
            // Full: the training loop has enough batches ahead. Closed: it wants no more.
            way.tickets.send(Ticket::Batch(promise, end)).ok()?;
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
            let passing = self.hold(&group, &window, way)?;
            if let Some(listed) = listed.as_mut().and_then(Iterator::next) {
                self.bring_at_hand(group, listed, &window, passing, way);
                continue;
            }
            let Some(auto) = self.auto.as_ref().filter(|_| group.method != Method::Empty) else {
                self.begin(group, &window, passing, None, way);
                continue;
            };
            let joined = if group.method == Method::Composed { group.slices.len() } else { 1 };
            let turn = auto.admit(
                (joined, group.bytes()),
                left.saturating_add(behind),
                || self.ceilings(),
                || is_cancelled(way.cancel),
            )?;
            if turn.composed || joined == 1 {
                self.begin(group, &window, passing, Some(auto.place(turn)), way);
            } else {
                for group in group.split_up() {
                    self.begin(group, &window, passing.clone(), Some(auto.place(turn)), way);
                }
            }
        }
        Some(())
    }

    /// Waits for the bytes of a group: all at once, as they were checked, however it is then read. Those that stay go to
    /// its batches; those that pass are returned. Nothing once the epoch is called off.
    #[expect(clippy::option_option, reason = "called off, or nothing to hold, or something")]
    fn hold(&self, group: &Group, window: &Window<D, C>, way: &Way<'_, C::Output>) -> Option<Option<Arc<Permit>>> {
        let (keeps, passes) = self.bytes(group);
        let items = passes > 0;
        let kept = self.take(keeps, items, way.cancel)?;
        let passing = self.take(passes, false, way.cancel)?;
        if let Some(kept) = kept.map(Arc::new) {
            window.touched(group).for_each(|assembly| assembly.keep(Arc::clone(&kept)));
        }
        Some(passing.map(Arc::new))
    }

    /// Starts the read of a group, or of one of its samples, whose bytes are held.
    fn begin(
        self: &Arc<Self>,
        group: Group,
        window: &Arc<Window<D, C>>,
        passing: Option<Arc<Permit>>,
        place: Option<Place>,
        way: &Way<'_, C::Output>,
    ) {
        self.groups.count(group.method);
        self.read(group, way.next_number(), window, passing, place, way.cancel);
    }

    /// Reads a group in a task of its own.
    pub(super) fn read(
        self: &Arc<Self>,
        group: Group,
        number: u64,
        window: &Arc<Window<D, C>>,
        passing: Option<Arc<Permit>>,
        place: Option<Place>,
        cancel: &watch::Receiver<bool>,
    ) {
        let (engine, window, mut cancel) = (Arc::clone(self), Arc::clone(window), cancel.clone());
        self.io.handle().spawn(async move {
            tokio::select! {
                () = engine.bring(group, number, &window, passing, place) => {}
                // Also when the iterator is gone without a word.
                _ = cancel.wait_for(|&cancelled| cancelled) => {}
            }
        });
    }

    fn ceilings(&self) -> Ceilings {
        let now = self.fetcher.ceilings();
        let [reads, writes] = [now.reads, now.writes].map(|lane| Ceiling {
            at_once: lane.at_once,
            in_flight: lane.in_flight,
            waiting: lane.waiting,
            rate: lane.per_second,
        });
        Ceilings { reads, writes }
    }

    /// Bytes of a group that stay until the batch is delivered, and bytes that go when it is decoded.
    pub(super) fn bytes(&self, group: &Group) -> (u64, u64) {
        let size = |range: &std::ops::Range<u64>| range.end - range.start;
        let mut items = group.slices.iter().map(|slice| self.code.decode.item_bytes(size(&slice.range)));
        match items.try_fold(0u64, |sum, item| Some(sum.saturating_add(item?))) {
            None => (group.bytes(), 0),
            Some(items) => (items, group.bytes()),
        }
    }

    /// Takes bytes from the budget; no permit for none, and nothing once the epoch is cancelled.
    #[expect(clippy::option_option, reason = "cancelled, or nothing to hold, or something")]
    fn take(&self, bytes: u64, items: bool, cancel: &watch::Receiver<bool>) -> Option<Option<Permit>> {
        if is_cancelled(cancel) {
            return None;
        }
        if bytes == 0 {
            return Some(None);
        }
        let mut cancel = cancel.clone();
        self.io.handle().block_on(async {
            let permit =
                async { if items { self.budget.take_for_items(bytes).await } else { self.budget.take(bytes).await } };
            tokio::select! {
                permit = permit => Some(Some(permit)),
                _ = cancel.wait_for(|&cancelled| cancelled) => None,
            }
        })
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
        window: &Window<D, C>,
        passing: Option<Arc<Permit>>,
        mut place: Option<Place>,
    ) {
        if let Some(place) = &mut place {
            place.begin();
        }
        if group.method != Method::Composed {
            let slot = group.slices[0].slot;
            match read_alone(&self.fetcher, &self.manifest, group, number).await {
                Err(error) => return window.place(slot).0.fail(error),
                Ok(samples) => {
                    if let Some(mut place) = place {
                        place.done(samples.len());
                    }
                    return self.hand_over(samples, window, passing.as_ref());
                }
            }
        }
        let payload = self.fetcher.fetch(group.clone(), number).await;
        match payload.and_then(|payload| split(&self.manifest, payload)) {
            Ok(samples) => {
                if let Some(mut place) = place {
                    place.done(samples.len());
                }
                self.hand_over(samples, window, passing.as_ref());
            }
            Err(error) if error.is_cancelled() => window.place(group.slices[0].slot).0.fail(error),
            // Whatever went wrong, each object by itself works or finds out which one is to blame. In order: batches
            // before that one are whole, and those behind it nobody gets to see.
            Err(error) => {
                tracing::debug!(%error, objects = group.slices.len(), "a composed read failed; reading object by object");
                drop(place);
                let alone: Vec<_> = group.split_up().collect();
                let mut reads = stream::iter(alone)
                    .map(async |group| {
                        (group.slices[0].slot, read_alone(&self.fetcher, &self.manifest, group, number).await)
                    })
                    .buffered(MAX_SOURCES);
                while let Some((slot, samples)) = reads.next().await {
                    match samples {
                        Ok(samples) => self.hand_over(samples, window, passing.as_ref()),
                        Err(error) => return window.place(slot).0.fail(error),
                    }
                }
            }
        }
    }

    pub(super) fn hand_over(
        &self,
        samples: Vec<(usize, RawSample)>,
        window: &Window<D, C>,
        passing: Option<&Arc<Permit>>,
    ) {
        if self.code.decode.is_light() {
            return self.decode(samples, window, |whole| self.give(Job::Collate(Arc::clone(whole)), whole));
        }
        for (slot, sample) in samples {
            let (assembly, slot) = window.place(slot);
            self.give(
                Job::Decode { assembly: Arc::clone(assembly), slot, sample, passing: passing.cloned() },
                assembly,
            );
        }
    }

    /// Decodes samples, of each batch all at once, and says which batches are whole by that.
    pub(super) fn decode(
        &self,
        samples: Vec<(usize, RawSample)>,
        window: &Window<D, C>,
        whole: impl Fn(&Arc<Assembly<D, C>>),
    ) {
        let mut samples = samples.into_iter().peekable();
        while let Some(&(first, _)) = samples.peek() {
            let (assembly, start) = window.place(first);
            let slots = first - start..first - start + assembly.samples();
            let of_batch = std::iter::from_fn(|| samples.next_if(|(slot, _)| slots.contains(slot)));
            if assembly.decode_all(of_batch.map(|(slot, sample)| (slot - slots.start, sample))) {
                whole(assembly);
            }
        }
    }

    /// Gives a job of this batch to the decode threads.
    pub(super) fn give(&self, job: Job<D, C>, assembly: &Assembly<D, C>) {
        if self.jobs.send(job).is_err() {
            assembly.fail(Error::new(ErrorKind::Internal, "the decode threads are gone"));
        }
    }
}

/// Also when the iterator is gone without a word.
pub(super) fn is_cancelled(cancel: &watch::Receiver<bool>) -> bool {
    *cancel.borrow() || cancel.has_changed().is_err()
}

/// Reads one object, again if its bytes don't match.
pub(super) async fn read_alone(
    fetcher: &Fetcher,
    manifest: &Arc<Manifest>,
    group: Group,
    number: u64,
) -> Result<Vec<(usize, RawSample)>> {
    let mut reads = 1;
    loop {
        match split(manifest, fetcher.fetch(group.clone(), number).await?) {
            Err(error) if error.kind() == ErrorKind::Integrity && reads < READS => {
                reads += 1;
                tracing::warn!(%error, "reading again");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            outcome => return outcome,
        }
    }
}
