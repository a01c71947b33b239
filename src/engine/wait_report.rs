//! What the training loop waits for: by stage in the figures of an epoch, and in the log where a wait is long.
//!
//! Each sample of a window has a mark that says how far it is, or shares one with those that come with it; a step of its group
//! sets it. Who waits looks at the marks of the batch it waits for. So a batch that is there in time costs a few stores a
//! sample, and nobody is asked anything.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::budget::Gauge;
use crate::compose::ReadStep;
use crate::manifest::Manifest;
use crate::pacing::{Ceilings, Throttles};
use crate::sample::SampleId;

/// Waits longer than this are told unless another bound is set: three times what a read waits for bytes before it is made
/// again, so that what is told is no single lost packet.
pub(crate) const BOUND: Duration = Duration::from_secs(30);

/// First time slice of a wait, by whose stage all of it is counted: short beside the reads and decodes that are waited
/// for, long beside the microseconds of a look.
const SLICE: Duration = Duration::from_millis(1);

/// Longest slice: a wait of seconds is seldom for several things in turn.
const LONGEST_SLICE: Duration = Duration::from_millis(64);

/// How many times longer than usual a compose may take before the training loop gives it up: those that take longer are
/// few, and to read their objects takes a tenth of that.
const PATIENCE: u32 = 3;

/// Time that the training loop has waited for batches, by what these were waiting for; see
/// [`EpochStats::waited_for`](crate::loader::EpochStats::waited_for).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitedFor {
    /// The listing to come as far as the batch.
    pub listing: Duration,
    /// Bytes of the memory budget.
    pub budget: Duration,
    /// Leave to make a call, where as many are under way as help, or as the service takes.
    pub turn: Duration,
    /// Objects to be composed, and the leave to do so.
    pub compose: Duration,
    /// Bytes of objects.
    pub read: Duration,
    /// Samples that are read from the [cache](crate::loader::DataLoaderBuilder::cache).
    pub cache: Duration,
    /// Samples that another loader or process of the machine is reading into the cache.
    pub claim: Duration,
    /// The decoder.
    pub decode: Duration,
    /// Samples to be put together to a batch.
    pub collate: Duration,
    /// The batch to be planned.
    pub plan: Duration,
}

impl WaitedFor {
    fn add(&mut self, stage: WaitReason, time: Duration) {
        *match stage {
            WaitReason::Listing => &mut self.listing,
            WaitReason::Budget => &mut self.budget,
            WaitReason::Turn => &mut self.turn,
            WaitReason::Compose => &mut self.compose,
            WaitReason::Read => &mut self.read,
            WaitReason::Cache => &mut self.cache,
            WaitReason::Claim => &mut self.claim,
            WaitReason::Decode => &mut self.decode,
            WaitReason::Collate => &mut self.collate,
            WaitReason::Plan => &mut self.plan,
        } += time;
    }

    /// All of it, that for the first batch included.
    pub fn total(&self) -> Duration {
        self.by_stage().iter().map(|(_, time)| *time).sum()
    }

    /// Each of them with its name.
    pub fn by_stage(&self) -> [(&'static str, Duration); 10] {
        let Self { listing, budget, turn, compose, read, cache, claim, decode, collate, plan } = *self;
        [
            ("listing", listing),
            ("budget", budget),
            ("turn", turn),
            ("compose", compose),
            ("read", read),
            ("cache", cache),
            ("claim", claim),
            ("decode", decode),
            ("collate", collate),
            ("plan", plan),
        ]
    }
}

/// What a batch is waiting for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitReason {
    Listing,
    Budget,
    Turn,
    Compose,
    Read,
    Cache,
    Claim,
    Decode,
    Collate,
    Plan,
}

/// What samples wait for on their own: what ends by itself first, and what comes when something of that ends last.
const CALLS: [WaitReason; 6] = [
    WaitReason::Compose,
    WaitReason::Read,
    WaitReason::Cache,
    WaitReason::Claim,
    WaitReason::Listing,
    WaitReason::Turn,
];

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listing => "listing",
            Self::Budget => "byte budget",
            Self::Turn => "leave to make a call",
            Self::Compose => "compose",
            Self::Read => "read",
            Self::Cache => "cache",
            Self::Claim => "claim of another",
            Self::Decode => "decode",
            Self::Collate => "collate",
            Self::Plan => "plan",
        })
    }
}

/// What the thread of an epoch is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum PlannerState {
    Planning,
    Listing,
    Budget,
    Turn,
    /// All batches have been handed out.
    Ended,
}

/// How far a sample is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum SampleStage {
    Planned,
    Queued,
    Composing,
    Reading,
    /// From the cache.
    Kept,
    /// By somebody else.
    Claimed,
    /// Lost, and which one comes in its place is told by the end of the listing.
    Listing,
    Brought,
}

/// Something and since when, in milliseconds since the epoch began: in one word, so that nobody sees half of it.
#[derive(Debug, Default)]
struct StageStamp(AtomicU64);

impl StageStamp {
    fn set(&self, code: u8, since: u64) {
        self.0.store(u64::from(code) << 56 | since & (u64::MAX >> 8), Ordering::Release);
    }

    fn get(&self) -> (u8, u64) {
        let word = self.0.load(Ordering::Acquire);
        ((word >> 56) as u8, word & (u64::MAX >> 8))
    }

    fn at(&self) -> (SampleStage, u64) {
        let (code, since) = self.get();
        let at = match code {
            0 => SampleStage::Planned,
            1 => SampleStage::Queued,
            2 => SampleStage::Composing,
            3 => SampleStage::Reading,
            4 => SampleStage::Kept,
            5 => SampleStage::Claimed,
            6 => SampleStage::Listing,
            _ => SampleStage::Brought,
        };
        (at, since)
    }
}

/// Where the thread of an epoch stands, for those who wait for it.
#[derive(Debug)]
pub(crate) struct PlannerStatus {
    began: Instant,
    doing: StageStamp,
}

impl PlannerStatus {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { began: Instant::now(), doing: StageStamp::default() })
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_millis() as u64
    }

    /// The thread goes on to something else, which may take long.
    pub(crate) fn does(&self, doing: PlannerState) {
        // Planning is no news, and comes for each group.
        let since = if doing == PlannerState::Planning { 0 } else { self.now() };
        self.doing.set(doing as u8, since);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.doing.get().0 == PlannerState::Ended as u8
    }

    fn doing(&self) -> (PlannerState, u64) {
        let (code, since) = self.doing.get();
        let doing = match code {
            1 => PlannerState::Listing,
            2 => PlannerState::Budget,
            3 => PlannerState::Turn,
            4 => PlannerState::Ended,
            _ => PlannerState::Planning,
        };
        (doing, since)
    }
}

/// How far the samples of a window are.
#[derive(Clone, Debug)]
pub(crate) struct WindowStages {
    samples: Arc<SampleStages>,
    standing: Arc<PlannerStatus>,
}

#[derive(Debug)]
struct SampleStages {
    ids: Vec<SampleId>,
    /// Where runs of samples that take each step together end; each has one mark. `None` where each sample has its own.
    ends: Option<Vec<usize>>,
    marks: Vec<StageStamp>,
    /// Places that others come in, each with a mark of its own. Few, if any.
    apart: Mutex<BTreeMap<usize, (SampleId, StageStamp)>>,
    /// Which composes the training loop no longer waits for.
    given_up: watch::Sender<AbandonedComposes>,
}

/// Composes that are given up because the training loop has waited for their batch longer than reads would take: of the
/// groups that begin before `before` in the window, those that aren't let through yet, and those that were before a
/// moment, in milliseconds since the epoch began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct AbandonedComposes {
    before: usize,
    begun_before: u64,
}

/// How far the compose of a group is, and since when.
#[derive(Debug)]
pub(crate) struct ComposeStep(Mutex<(ReadStep, u64)>);

impl ComposeStep {
    fn get(&self) -> (ReadStep, u64) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SampleStages {
    fn new(ids: Vec<SampleId>, ends: Option<Vec<usize>>) -> Arc<Self> {
        let marks =
            std::iter::repeat_with(StageStamp::default).take(ends.as_ref().map_or(ids.len(), Vec::len)).collect();
        Arc::new(Self { ids, ends, marks, apart: Mutex::default(), given_up: watch::Sender::default() })
    }

    fn apart(&self) -> MutexGuard<'_, BTreeMap<usize, (SampleId, StageStamp)>> {
        self.apart.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mark(&self, slot: usize) -> Option<&StageStamp> {
        self.marks.get(self.ends.as_ref().map_or(slot, |ends| ends.partition_point(|end| *end <= slot)))
    }
}

impl WindowStages {
    pub(crate) fn new(ids: Vec<SampleId>, standing: &Arc<PlannerStatus>) -> Self {
        Self { samples: SampleStages::new(ids, None), standing: Arc::clone(standing) }
    }

    /// Of samples in runs, of which the first is told of for all.
    pub(crate) fn of_runs(ids: Vec<SampleId>, ends: Vec<usize>, standing: &Arc<PlannerStatus>) -> Self {
        Self { samples: SampleStages::new(ids, Some(ends)), standing: Arc::clone(standing) }
    }

    /// The samples of the window.
    pub(crate) fn ids(&self) -> &[SampleId] {
        &self.samples.ids
    }

    fn set(&self, slots: impl Iterator<Item = usize>, at: SampleStage) {
        let now = self.standing.now();
        let apart = self.samples.apart();
        for slot in slots {
            if let Some(mark) = apart.get(&slot).map(|(_, mark)| mark).or_else(|| self.samples.mark(slot)) {
                mark.set(at as u8, now);
            }
        }
    }

    fn set_apart(&self, slot: usize, id: Option<SampleId>, at: SampleStage) {
        let mut apart = self.samples.apart();
        let before = apart.get(&slot).map(|(id, _)| *id).or_else(|| self.ids().get(slot).copied());
        if let Some(id) = id.or(before) {
            let mark = StageStamp::default();
            mark.set(at as u8, self.standing.now());
            apart.insert(slot, (id, mark));
        }
    }

    /// The read of these samples has come so far.
    pub(crate) fn step(&self, slots: impl Iterator<Item = usize>, step: ReadStep) {
        let at = match step {
            ReadStep::Queued => SampleStage::Queued,
            ReadStep::ComposeQueued | ReadStep::Composing => SampleStage::Composing,
            ReadStep::Reading => SampleStage::Reading,
        };
        self.set(slots, at);
    }

    /// The compose of a group, which waits to be let through.
    pub(crate) fn compose(&self) -> ComposeStep {
        ComposeStep(Mutex::new((ReadStep::ComposeQueued, self.standing.now())))
    }

    /// The compose of these samples has come so far.
    pub(crate) fn compose_step(&self, compose: &ComposeStep, slots: impl Iterator<Item = usize>, step: ReadStep) {
        *compose.0.lock().unwrap_or_else(PoisonError::into_inner) = (step, self.standing.now());
        self.step(slots, step);
    }

    /// Waits until the training loop gives up the compose of a group that begins with this sample. Never ends for one
    /// that is composed already.
    pub(crate) async fn given_up(&self, slot: usize, compose: &ComposeStep) {
        let mut given_up = self.samples.given_up.subscribe();
        let is_given_up = |given_up: &AbandonedComposes| {
            slot < given_up.before
                && match compose.get() {
                    (ReadStep::ComposeQueued, _) => true,
                    (ReadStep::Composing, began) => began < given_up.begun_before,
                    (ReadStep::Queued | ReadStep::Reading, _) => false,
                }
        };
        // The sender lives as long as the samples do.
        let _ = given_up.wait_for(is_given_up).await;
    }

    /// These samples are read from the cache.
    pub(crate) fn kept(&self, slots: impl Iterator<Item = usize>) {
        self.set(slots, SampleStage::Kept);
    }

    /// Somebody else reads these samples.
    pub(crate) fn claimed(&self, slots: impl Iterator<Item = usize>) {
        self.set(slots, SampleStage::Claimed);
    }

    /// Which sample comes in the place of this one is told by the end of the listing.
    pub(crate) fn listing(&self, slot: usize) {
        self.set_apart(slot, None, SampleStage::Listing);
    }

    /// Another sample comes in a place, and is to be read.
    pub(crate) fn instead(&self, slot: usize, id: SampleId) {
        self.set_apart(slot, Some(id), SampleStage::Planned);
    }

    /// The bytes of these samples are there, and go to the decoder.
    pub(crate) fn brought(&self, slots: impl Iterator<Item = usize>) {
        self.set(slots, SampleStage::Brought);
    }
}

/// A batch in the making, as far as who waits for it needs to know.
pub(crate) trait BatchProgress: Send + Sync {
    /// Samples that aren't decoded yet.
    fn missing(&self) -> usize;
}

/// How far one batch is.
pub(crate) struct BatchTrace {
    steps: WindowStages,
    /// Where it begins among the samples of its window, and how many it has.
    start: usize,
    samples: usize,
    /// Weak, since the promise of a batch must break when all who could keep it are gone.
    making: Weak<dyn BatchProgress>,
}

impl BatchTrace {
    pub(crate) fn new(steps: WindowStages, start: usize, samples: usize, making: Weak<dyn BatchProgress>) -> Self {
        Self { steps, start, samples, making }
    }

    fn id(&self, slot: usize) -> Option<SampleId> {
        let slot = self.start + slot;
        let apart = self.steps.samples.apart().get(&slot).map(|(id, _)| *id);
        apart.or_else(|| self.steps.ids().get(slot).copied())
    }

    /// Gives up composes of this batch, where the training loop has `waited` for longer than it takes to read their
    /// objects: those that aren't under way yet, and those that take far longer than usual.
    fn give_up_composing(&self, waited: Duration, throttles: &Throttles) {
        let composing = {
            let (samples, apart) = (&self.steps.samples, self.steps.samples.apart());
            let mark = |slot| apart.get(&slot).map(|(_, mark)| mark).or_else(|| samples.mark(slot));
            let marks = (self.start..self.start + self.samples).filter_map(mark);
            marks.filter(|mark| mark.at().0 == SampleStage::Composing).count()
        };
        if composing == 0 {
            return;
        }
        if waited <= throttles.reads.time_for(composing) {
            return;
        }
        let patience = throttles.writes.usual_wait() * PATIENCE;
        let begun_before = self.steps.standing.now().saturating_sub(patience.as_millis() as u64);
        let before = self.start + self.samples;
        self.steps.samples.given_up.send_modify(|given_up| {
            given_up.before = given_up.before.max(before);
            given_up.begun_before = begun_before;
        });
    }

    fn look(&self, doing: (PlannerState, u64)) -> WaitSnapshot {
        // Gone: it is done, or will never be.
        let missing = self.making.upgrade().map_or(0, |making| making.missing());
        let (samples, apart) = (&self.steps.samples, self.steps.samples.apart());
        let mark = |slot| apart.get(&slot).map(|(_, mark)| mark).or_else(|| samples.mark(slot));
        let marks = (self.start..self.start + self.samples).filter_map(mark);
        look(marks.map(StageStamp::at), missing, doing)
    }
}

/// What a look at a batch came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WaitSnapshot {
    waiting: WaitReason,
    /// The sample that has been waiting longest, by its place in the batch, where one is to blame.
    slot: Option<usize>,
    /// Milliseconds since the epoch began, where that is known.
    since: Option<u64>,
    /// Samples of the batch that wait for the same.
    samples: usize,
}

/// What a batch waits for whose samples are so far, and of which so many aren't decoded.
///
/// A call that is under way is to blame before anything that waits for calls to end, and the oldest of them first: what
/// isn't begun for want of bytes or of leave gets them when one ends.
fn look(marks: impl Iterator<Item = (SampleStage, u64)>, missing: usize, doing: (PlannerState, u64)) -> WaitSnapshot {
    let (mut planned, mut brought, mut samples) = (0, 0, 0);
    // Of each of `CALLS`: the oldest by place and time, and how many there are.
    let mut calls: [(Option<(usize, u64)>, usize); CALLS.len()] = Default::default();
    for (slot, (at, since)) in marks.enumerate() {
        samples += 1;
        let kind = match at {
            SampleStage::Planned => {
                planned += 1;
                continue;
            }
            SampleStage::Brought => {
                brought += 1;
                continue;
            }
            SampleStage::Composing => 0,
            SampleStage::Reading => 1,
            SampleStage::Kept => 2,
            SampleStage::Claimed => 3,
            SampleStage::Listing => 4,
            SampleStage::Queued => 5,
        };
        let (oldest, count) = &mut calls[kind];
        *count += 1;
        if oldest.is_none_or(|(_, then)| since < then) {
            *oldest = Some((slot, since));
        }
    }
    let calls = CALLS.into_iter().zip(calls).filter_map(|(waiting, (oldest, samples))| {
        let (slot, since) = oldest?;
        Some(WaitSnapshot { waiting, slot: Some(slot), since: Some(since), samples })
    });
    if let Some(look) = calls.min_by_key(|look| (look.waiting == WaitReason::Turn, look.since)) {
        return look;
    }
    let decoded = samples - missing.min(samples);
    if planned == 0 && missing == 0 && samples > 0 {
        return WaitSnapshot { waiting: WaitReason::Collate, slot: None, since: None, samples };
    }
    if brought > decoded {
        return WaitSnapshot { waiting: WaitReason::Decode, slot: None, since: None, samples: brought - decoded };
    }
    let (doing, since) = doing;
    let (waiting, since) = match doing {
        PlannerState::Listing => (WaitReason::Listing, Some(since)),
        PlannerState::Budget => (WaitReason::Budget, Some(since)),
        PlannerState::Turn => (WaitReason::Turn, Some(since)),
        PlannerState::Planning | PlannerState::Ended => (WaitReason::Plan, None),
    };
    WaitSnapshot { waiting, slot: None, since, samples: planned }
}

/// One wait of the training loop: in which slices to look what it is for, and when to tell.
#[derive(Debug)]
struct WaitSlices {
    waited: Duration,
    slice: Duration,
    tell: Duration,
}

impl WaitSlices {
    fn new(bound: Duration) -> Self {
        Self { waited: Duration::ZERO, slice: SLICE, tell: bound }
    }

    /// How long to wait until the next look.
    fn slice(&self) -> Duration {
        self.slice.min(self.tell.saturating_sub(self.waited)).max(Duration::from_micros(1))
    }

    /// So long was waited; true when it is time to tell, which is twice as far away each time.
    fn passed(&mut self, time: Duration) -> bool {
        self.waited += time;
        self.slice = (self.slice * 2).min(LONGEST_SLICE);
        let due = self.waited >= self.tell;
        while self.waited >= self.tell {
            self.tell = self.tell.saturating_mul(2).max(Duration::from_nanos(1));
        }
        due
    }
}

/// What an epoch needs to say what it waits for.
#[derive(Debug)]
pub(crate) struct WaitWatcher {
    pub(crate) standing: Arc<PlannerStatus>,
    pub(crate) bound: Duration,
    pub(crate) held: Gauge,
    pub(crate) budget: u64,
    pub(crate) throttles: Arc<Throttles>,
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) epoch: u64,
}

/// What waiting has come to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WaitTotals {
    pub(crate) waited_for: WaitedFor,
    pub(crate) stalls: u64,
}

impl WaitWatcher {
    /// Waits until `source` brings something. What has been waited is reported to `waiting` while the wait lasts, slice
    /// by slice; the last slice is not.
    pub(crate) fn wait<T>(
        &self,
        waits: &mut WaitTotals,
        batch: u64,
        source: &mut impl WaitSource<T>,
        mut waiting: impl FnMut(Duration),
    ) -> T {
        let mut patience = WaitSlices::new(self.bound);
        if let Some(got) = source.get(Duration::ZERO) {
            return got;
        }
        loop {
            let look = self.look(source.trace());
            let asked = Instant::now();
            let got = source.get(patience.slice());
            let took = asked.elapsed();
            waits.waited_for.add(look.waiting, took);
            let due = patience.passed(took);
            if let Some(got) = got {
                return got;
            }
            waiting(took);
            if let Some(trace) = source.trace() {
                trace.give_up_composing(patience.waited, &self.throttles);
            }
            if due {
                waits.stalls += 1;
                self.tell(batch, patience.waited, source.trace());
            }
        }
    }

    fn look(&self, trace: Option<&BatchTrace>) -> WaitSnapshot {
        let doing = self.standing.doing();
        trace.map_or_else(|| look(std::iter::empty(), 0, doing), |trace| trace.look(doing))
    }

    fn tell(&self, batch: u64, waited: Duration, trace: Option<&BatchTrace>) {
        let look = self.look(trace);
        let Ceilings { reads, writes } = self.throttles.snapshot();
        let since = look.since.map(|since| Duration::from_millis(self.standing.now().saturating_sub(since)));
        tracing::warn!(
            prefix = %self.manifest.prefix(),
            epoch = self.epoch,
            batch,
            stage = %look.waiting,
            waited_seconds = waited.as_secs_f64(),
            stage_seconds = since.map(|since| since.as_secs_f64()),
            bytes_held = self.held.bytes(),
            memory_budget = self.budget,
            reads_in_flight = reads.in_flight,
            reads_waiting = reads.waiting,
            reads_at_once = reads.at_once,
            reads_per_second = reads.per_second,
            writes_in_flight = writes.in_flight,
            writes_waiting = writes.waiting,
            deletions_waiting = writes.behind,
            writes_at_once = writes.at_once,
            writes_per_second = writes.per_second,
            "the training loop waits for {}",
            self.words(look, trace)
        );
    }

    fn words(&self, look: WaitSnapshot, trace: Option<&BatchTrace>) -> String {
        let id = look.slot.and_then(|slot| trace?.id(slot));
        let object = id.and_then(|id| self.manifest.get(id.0)).map(|entry| self.manifest.id(&entry).to_string());
        let object = object.as_deref().unwrap_or("an object");
        let others = match look.samples {
            0 | 1 => String::new(),
            samples => format!(" and {} more of its batch", samples - 1),
        };
        match look.waiting {
            WaitReason::Listing => "the listing to come so far".to_owned(),
            WaitReason::Budget => "bytes of the memory budget, which batches that were delivered hold".to_owned(),
            WaitReason::Turn if look.slot.is_some() => format!("leave to read {object}{others}"),
            WaitReason::Turn => "leave to make calls: as many are under way as help".to_owned(),
            WaitReason::Compose => format!("{object}{others} to be joined by the service"),
            WaitReason::Read => format!("the bytes of {object}{others}"),
            WaitReason::Cache => format!("{object}{others} to be read from the cache"),
            WaitReason::Claim => format!("{object}{others}, which somebody else reads into the cache"),
            WaitReason::Decode => format!("the decoder, which has {} samples of the batch to go", look.samples),
            WaitReason::Collate => format!("the collation of {} samples", look.samples),
            WaitReason::Plan => "the batch to be planned".to_owned(),
        }
    }
}

/// Where a wait ends.
pub(crate) trait WaitSource<T> {
    /// What has come, or comes within this time.
    fn get(&mut self, within: Duration) -> Option<T>;
    /// The batch that is waited for, if it is known.
    fn trace(&self) -> Option<&BatchTrace>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(
        marks: &[(SampleStage, u64)],
        missing: usize,
        doing: PlannerState,
    ) -> (WaitReason, Option<usize>, usize) {
        let look = look(marks.iter().copied(), missing, (doing, 7));
        (look.waiting, look.slot, look.samples)
    }

    #[test]
    fn the_stage_of_a_wait() {
        use SampleStage::{Brought, Claimed, Composing, Kept, Listing, Planned, Queued, Reading};
        let none = PlannerState::Planning;
        assert_eq!(waiting(&[], 0, PlannerState::Listing).0, WaitReason::Listing);
        assert_eq!(waiting(&[], 0, none).0, WaitReason::Plan);
        assert_eq!(waiting(&[(Planned, 0), (Planned, 0)], 2, PlannerState::Budget), (WaitReason::Budget, None, 2));
        assert_eq!(waiting(&[(Planned, 0), (Queued, 3)], 2, PlannerState::Turn), (WaitReason::Turn, Some(1), 1));
        assert_eq!(waiting(&[(Planned, 0)], 1, PlannerState::Turn), (WaitReason::Turn, None, 1));
        let reads = [(Reading, 9), (Queued, 1), (Reading, 5), (Brought, 0), (Planned, 0)];
        assert_eq!(
            waiting(&reads, 5, PlannerState::Budget),
            (WaitReason::Read, Some(2), 2),
            "the oldest call is to blame"
        );
        assert_eq!(waiting(&[(Composing, 4), (Reading, 5)], 2, none), (WaitReason::Compose, Some(0), 1));
        assert_eq!(waiting(&[(Composing, 6), (Reading, 5)], 2, none), (WaitReason::Read, Some(1), 1));
        assert_eq!(waiting(&[(Kept, 4), (Reading, 5)], 2, none), (WaitReason::Cache, Some(0), 1));
        assert_eq!(waiting(&[(Kept, 4), (Claimed, 3), (Claimed, 5)], 3, none), (WaitReason::Claim, Some(1), 2));
        assert_eq!(waiting(&[(Brought, 0), (Listing, 4)], 2, PlannerState::Ended), (WaitReason::Listing, Some(1), 1));
        assert_eq!(waiting(&[(Brought, 0), (Brought, 0), (Brought, 0)], 2, none), (WaitReason::Decode, None, 2));
        assert_eq!(waiting(&[(Brought, 0), (Planned, 0)], 1, PlannerState::Budget), (WaitReason::Budget, None, 1));
        assert_eq!(waiting(&[(Brought, 0), (Brought, 0)], 0, PlannerState::Ended), (WaitReason::Collate, None, 2));
    }

    #[test]
    fn a_run_takes_each_step_together() {
        let steps = WindowStages::of_runs((0..5).map(SampleId).collect(), vec![2, 5], &PlannerStatus::new());
        let at = || (0..6).map(|slot| steps.samples.mark(slot).map(|mark| mark.at().0)).collect::<Vec<_>>();
        steps.step(std::iter::once(2), ReadStep::Reading);
        let (planned, reading) = (Some(SampleStage::Planned), Some(SampleStage::Reading));
        assert_eq!(at(), [planned, planned, reading, reading, reading, None]);
        steps.brought(std::iter::once(0));
        assert_eq!(at()[..3], [Some(SampleStage::Brought), Some(SampleStage::Brought), reading]);
    }

    #[test]
    fn told_after_the_bound_and_then_ever_more_seldom() {
        let seconds = Duration::from_secs;
        let mut patience = WaitSlices::new(seconds(30));
        assert_eq!(patience.slice(), SLICE);
        let told: Vec<_> = (1..=400).filter(|_| patience.passed(seconds(1))).collect();
        assert_eq!(told, [30, 60, 120, 240]);
        assert_eq!(patience.slice(), LONGEST_SLICE);
        let mut patience = WaitSlices::new(Duration::from_millis(3));
        assert!(!patience.passed(Duration::from_micros(2_500)));
        assert_eq!(patience.slice(), Duration::from_micros(500), "no look comes after the bound");
        assert!(patience.passed(seconds(9)));
        assert!(!patience.passed(Duration::from_micros(1)), "told once, however long it slept");
    }

    #[test]
    fn time_is_counted_by_stage() {
        let mut waited = WaitedFor::default();
        waited.add(WaitReason::Read, Duration::from_secs(3));
        waited.add(WaitReason::Decode, Duration::from_secs(1));
        waited.add(WaitReason::Read, Duration::from_secs(1));
        assert_eq!((waited.read, waited.decode), (Duration::from_secs(4), Duration::from_secs(1)));
        assert_eq!(waited.total(), Duration::from_secs(5));
    }
}
