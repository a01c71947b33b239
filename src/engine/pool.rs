//! The decode threads, and the batches they put together.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::watch;

use super::arrivals::{Arrivals, BatchSender};
use super::decode_gate::{BatchMemory, Cancellable, DecodeGate, DecodeLimits, DecodeNeed, NeverFits};
use super::item_sizes::ItemSizes;
use super::loss::{in_vain, is_of_one_sample};
use super::wait_report::{BatchProgress, WindowStages};
use crate::budget::Permit;
use crate::collate::{Batch, Collate, LostSample};
use crate::decode::Decode;
use crate::error::panic_message;
use crate::manifest::Manifest;
use crate::read::RawSample;
use crate::sample::SampleId;
use crate::store::ObjectId;
use crate::{Error, ErrorKind, Result, Stage};

/// What decode threads do.
pub(crate) enum DecodeJob<D: Decode, C: Collate<D::Item>> {
    /// Decode a sample, and collate its batch if it is the last.
    Decode {
        assembly: Arc<BatchAssembly<D, C>>,
        slot: usize,
        sample: RawSample,
        /// Bytes of the payload the sample is part of, where they are given back once all of it is decoded.
        passing: Option<Arc<Permit>>,
        /// Memory that was granted for it, where it had to wait for that.
        granted: Option<DecodeNeed>,
    },
    /// Collate a batch whose samples are all there.
    Collate(Arc<BatchAssembly<D, C>>),
    /// Bring samples that are at hand.
    Bring(Box<dyn FnOnce() + Send>),
    /// Drop what nobody wants any more, which may be many batches and a lot of memory.
    Discard(Arrivals<C::Output>),
    /// End the thread that finds this.
    End,
}

impl<D: Decode, C: Collate<D::Item>> DecodeJob<D, C> {
    fn perform(self) {
        match self {
            Self::Decode { assembly, slot, sample, passing, granted } => {
                if assembly.decode([(slot, sample)], granted) {
                    assembly.collate();
                }
                drop(passing);
            }
            Self::Collate(assembly) => assembly.collate(),
            // A panic breaks the promises of its batches.
            Self::Bring(bring) => bring(),
            Self::Discard(arrivals) => drop(arrivals),
            Self::End => {}
        }
    }
}

impl<D: Decode, C: Collate<D::Item>> Cancellable for DecodeJob<D, C> {
    fn is_cancelled(&self) -> bool {
        matches!(self, Self::Decode { assembly, .. } if assembly.is_cancelled())
    }
}

/// The way to the decode threads, and these.
pub(crate) type DecodePool<D, C> = (Sender<DecodeJob<D, C>>, Vec<JoinHandle<()>>);

/// Starts the decode threads; they end when they are told to, or the last sender is dropped.
pub(crate) fn start<D: Decode, C: Collate<D::Item>>(threads: usize) -> Result<DecodePool<D, C>> {
    // Unbounded in jobs, since each holds its share of the byte budget, or of what a gate before it grants.
    let (jobs, work) = crossbeam_channel::unbounded::<DecodeJob<D, C>>();
    let mut handles = Vec::with_capacity(threads);
    for index in 0..threads {
        let work: Receiver<DecodeJob<D, C>> = work.clone();
        let handle = std::thread::Builder::new()
            .name(format!("dataflux-decode-{index}"))
            .spawn(move || {
                for job in work {
                    if matches!(job, DecodeJob::End) {
                        return;
                    }
                    // What decoder and collate make is dropped here, too, and may panic then. The batch, if anybody waits
                    // for it, isn't made, which is told; the thread is there for the next.
                    let _ = guarded(|| {
                        job.perform();
                        Ok(())
                    });
                }
            })
            .map_err(|error| {
                Error::new(ErrorKind::Io, "a decode thread could not be started")
                    .stage(Stage::Decode)
                    .mismatch(format_args!("{threads} threads"), index)
                    .hint("lower decode_threads, or raise the limit on threads (ulimit -u)")
                    .with_source(error)
            })?;
        handles.push(handle);
    }
    Ok((jobs, handles))
}

/// What user code a loader runs.
#[derive(Debug)]
pub(crate) struct UserCode<D, C> {
    pub(crate) manifest: Arc<Manifest>,
    pub(crate) decode: Arc<D>,
    pub(crate) collate: C,
    pub(crate) sizes: ItemSizes,
}

/// What keeps bytes of the memory budget from being used otherwise; dropping it gives them back.
pub(crate) type HeldBytes = Arc<dyn Any + Send + Sync>;

/// A batch, done.
pub(crate) struct FinishedBatch<B> {
    pub(crate) batch: Batch<B>,
    pub(crate) bytes: u64,
    pub(crate) verified: u64,
    /// Given back when the next batch is asked for, and each other that a group is part of.
    pub(crate) kept: Vec<HeldBytes>,
}

/// The promise of one batch; broken, and so an error at the other end, when all that could keep it are gone.
pub(crate) type BatchReceiver<B> = Receiver<Result<FinishedBatch<B>>>;

/// What all batches of an epoch share.
pub(crate) struct BatchContext<D: Decode, C: Collate<D::Item>> {
    pub(crate) code: Arc<UserCode<D, C>>,
    pub(crate) cancel: watch::Receiver<bool>,
    pub(crate) losing: LossPolicy<D, C>,
    /// Where samples wait for memory before they are decoded, and bytes of the whole memory budget.
    pub(crate) gate: Option<Arc<DecodeGate<DecodeJob<D, C>>>>,
    pub(crate) memory_budget: u64,
}

/// What becomes of a sample that can't be had.
pub(crate) enum LossPolicy<D: Decode, C: Collate<D::Item>> {
    /// The batch fails.
    Fail,
    /// The batch goes without it.
    Skip,
    /// Another one comes in its place. To be called from any thread; what comes of it is a sample or another loss.
    Substitute(Box<dyn Fn(SubstituteRequest<D, C>) + Send + Sync>),
}

/// A place in a batch that a substitute is wanted for.
pub(crate) struct SubstituteRequest<D: Decode, C: Collate<D::Item>> {
    pub(crate) assembly: Arc<BatchAssembly<D, C>>,
    pub(crate) slot: usize,
    /// The sample that was to be there.
    pub(crate) for_sample: SampleId,
    /// From 1.
    pub(crate) attempt: usize,
}

/// What a batch is after a sample of it was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BatchOutlook {
    /// Over.
    Failed,
    /// Waiting for more.
    Waiting,
    /// To be collated.
    Whole,
}

/// A batch in the making.
pub(crate) struct BatchAssembly<D: Decode, C: Collate<D::Item>> {
    terms: Arc<BatchContext<D, C>>,
    positions: Vec<Range<u64>>,
    /// Samples at the end that fill the batch up.
    padding: usize,
    /// Number of the batch in its epoch, from 1.
    pub(crate) turn: u64,
    /// Of the last group that was begun before its own.
    pub(crate) number: u64,
    /// How far its samples are, and where they begin among those.
    pub(crate) steps: (WindowStages, usize),
    parts: Mutex<AssemblyParts<D, C>>,
    promise: BatchSender<C::Output>,
    gate: Option<PlaceAtGate<D, C>>,
}

/// Where samples of a batch wait for memory, and the number of the batch there.
type PlaceAtGate<D, C> = (Arc<DecodeGate<DecodeJob<D, C>>>, u64);

struct AssemblyParts<D: Decode, C: Collate<D::Item>> {
    items: AssemblyItems<D::Item>,
    /// With the slot of each, in the order in which they were found.
    lost: Vec<(usize, LostSample)>,
    missing: usize,
    bytes: u64,
    verified: u64,
    kept: Vec<HeldBytes>,
    /// What it has of the memory for decoding, until it is collated; it goes on with the batch then.
    share: Option<BatchMemory<DecodeJob<D, C>>>,
}

/// Items of a batch, with the id of each.
enum AssemblyItems<T> {
    /// By their slots; without any slot before the first comes, since another thread may put that in than made this.
    Slots(Vec<Option<(SampleId, T)>>),
    /// All of them, in order.
    Whole(Vec<SampleId>, Vec<T>),
}

impl<T> AssemblyItems<T> {
    /// What there is, in order; and of each of these slots who is there.
    fn into_parts(self, slots: impl Iterator<Item = usize>) -> (Vec<SampleId>, Vec<T>, Vec<Option<SampleId>>) {
        match self {
            Self::Whole(ids, items) => {
                let there = slots.map(|slot| ids.get(slot).copied()).collect();
                (ids, items, there)
            }
            Self::Slots(all) => {
                let there = slots.map(|slot| all.get(slot)?.as_ref().map(|(id, _)| *id)).collect();
                let (ids, items) = all.into_iter().flatten().unzip();
                (ids, items, there)
            }
        }
    }
}

impl<D: Decode, C: Collate<D::Item>> BatchAssembly<D, C> {
    /// A batch of the samples at these positions, of which so many at the end fill it up.
    pub(crate) fn new(
        terms: &Arc<BatchContext<D, C>>,
        (positions, padding): (Vec<Range<u64>>, usize),
        (turn, number): (u64, u64),
        steps: (WindowStages, usize),
        promise: BatchSender<C::Output>,
    ) -> Arc<Self> {
        let samples = positions.iter().map(|range| range.end - range.start).sum::<u64>() as usize;
        let items = AssemblyItems::Slots(Vec::new());
        let share = terms.gate.as_ref().map(|gate| gate.register(samples));
        let gate = share.as_ref().map(BatchMemory::place);
        let parts =
            AssemblyParts { items, lost: Vec::new(), missing: samples, bytes: 0, verified: 0, kept: Vec::new(), share };
        let (terms, parts) = (Arc::clone(terms), Mutex::new(parts));
        Arc::new(Self { terms, positions, padding, turn, number, steps, parts, promise, gate })
    }

    /// Where in the global order the sample of a slot is to come.
    pub(crate) fn position(&self, slot: usize) -> u64 {
        let mut slot = slot as u64;
        for range in &self.positions {
            if slot < range.end - range.start {
                return range.start + slot;
            }
            slot -= range.end - range.start;
        }
        unreachable!("a slot of the batch")
    }

    /// Samples that are to be in the batch.
    pub(crate) fn samples(&self) -> usize {
        self.positions.iter().map(|range| range.end - range.start).sum::<u64>() as usize
    }

    /// Holds bytes until the batch is delivered.
    pub(crate) fn keep(&self, permit: HeldBytes) {
        self.lock().kept.push(permit);
    }

    /// Nobody waits for it any more.
    fn is_cancelled(&self) -> bool {
        let cancel = &self.terms.cancel;
        *cancel.borrow() || cancel.has_changed().is_err()
    }

    /// The job that decodes a sample into its slot: returned where it can be done at once, and otherwise kept until
    /// there is memory for what it makes.
    pub(crate) fn admit(
        self: &Arc<Self>,
        slot: usize,
        sample: RawSample,
        passing: Option<Arc<Permit>>,
    ) -> Option<DecodeJob<D, C>> {
        let assembly = Arc::clone(self);
        let Some((gate, number)) = &self.gate else {
            return Some(DecodeJob::Decode { assembly, slot, sample, passing, granted: None });
        };
        let code = &self.terms.code;
        let id = sample.id();
        let need =
            guarded(|| Ok(code.sizes.need((&*code.decode, &code.collate), &sample, self.samples(), gate.limits())));
        match need {
            Ok(need) if need.total() > gate.limits().batch() => {
                let error = self.too_large(id, NeverFits { batch: need.total() }, need);
                let name = sample.name().into();
                drop(sample);
                let outlook = match &self.terms.losing {
                    LossPolicy::Fail => self.fail_with(error),
                    // This one sample is too large, and others may not be.
                    _ => self.go_without(slot, (id, name), error, false),
                };
                (outlook == BatchOutlook::Whole).then(|| DecodeJob::Collate(assembly))
            }
            Ok(need) => {
                let job = DecodeJob::Decode { assembly, slot, sample, passing, granted: Some(need) };
                if let Err(never) = gate.request(*number, need, job) {
                    self.fail(self.too_large(id, never, need));
                }
                None
            }
            // The decoder's own code panicked. It is told, and counted, when it does so again.
            Err(_) => Some(DecodeJob::Decode { assembly, slot, sample, passing, granted: None }),
        }
    }

    /// The error of a batch, or of a sample alone, that needs more memory than a batch can ever have.
    fn too_large(&self, id: SampleId, never: NeverFits, need: DecodeNeed) -> Error {
        let BatchContext { code, memory_budget, .. } = &*self.terms;
        let samples = self.samples();
        let DecodeNeed { item, copy, scratch, .. } = need;
        let lasting = item.saturating_add(copy);
        let together = lasting.saturating_mul(samples as u64).saturating_add(scratch);
        let mut wanted = format!("a memory_budget of at least {} bytes", DecodeLimits::budget_for(never.batch));
        if together > never.batch {
            let all = DecodeLimits::budget_for(together);
            wanted = format!("{wanted}, or {all} if all samples of the batch are as large");
        }
        let copied = if copy == 0 { String::new() } else { format!(", {copy} bytes in the batch") };
        let error = Error::new(
            ErrorKind::Config,
            format!(
                "a batch of {samples} samples is over the memory budget once it is decoded: this one takes {item} bytes\
                 {copied} and {scratch} bytes of working memory, and one batch may have three quarters of the budget"
            ),
        )
        .stage(Stage::Decode)
        .mismatch(wanted, memory_budget)
        .hint(
            "raise .memory_budget(bytes) or lower .batch_size(n), or make images smaller with .resize(height, width)",
        );
        match code.manifest.at(id.0) {
            Ok(entry) => error.object(code.manifest.id(&entry)),
            Err(damaged) => damaged,
        }
    }

    /// What was granted for a sample becomes what its item takes.
    fn settle(&self, id: SampleId, granted: Option<DecodeNeed>, item: Option<&D::Item>) {
        let (Some((gate, number)), Some(granted)) = (&self.gate, granted) else { return };
        let code = &self.terms.code;
        let of_item = item.map(|item| code.sizes.finished::<D, C>(&code.collate, granted, item)).unwrap_or_default();
        // A copy is noted even where nothing else changes, since it is given back when the batch is collated.
        if (of_item != granted || of_item.copy > 0)
            && let Err(never) = gate.settle(*number, granted, of_item)
        {
            self.fail(self.too_large(id, never, of_item));
        }
    }

    /// Ends the batch with an error; of several the first counts.
    pub(crate) fn fail(&self, error: Error) {
        // Full if an error is there already; closed if nobody waits.
        self.promise.keep(Err(error));
    }

    /// Decodes samples into their slots. Returns whether all samples are there by that, and the batch is to be collated.
    pub(crate) fn decode(
        self: &Arc<Self>,
        samples: impl IntoIterator<Item = (usize, RawSample)>,
        granted: Option<DecodeNeed>,
    ) -> bool {
        if self.is_cancelled() {
            return false;
        }
        let code = &self.terms.code;
        let samples = samples.into_iter();
        let of = samples.size_hint().0;
        let mut slots = Vec::with_capacity(of);
        let (mut ids, mut items) = (Vec::with_capacity(of), Vec::with_capacity(of));
        let (mut lost, mut bytes, mut verified) = (Vec::new(), 0, 0);
        for (slot, sample) in samples {
            let (id, size, is_verified) = (sample.id(), sample.bytes().len() as u64, sample.verified());
            match guarded(|| code.decode.decode(sample)) {
                Ok(item) => {
                    self.settle(id, granted, Some(&item));
                    slots.push(slot);
                    ids.push(id);
                    items.push(item);
                    bytes += size;
                    verified += u64::from(is_verified);
                }
                Err(cause) => {
                    self.settle(id, granted, None);
                    lost.push((slot, id, cause));
                }
            }
        }
        let mut is_whole = !items.is_empty() && self.fill(&slots, (ids, items), bytes, verified);
        for (slot, id, cause) in lost {
            let outlook = match code.manifest.at(id.0) {
                Ok(entry) => {
                    let error = refused(code.manifest.id(&entry), &cause);
                    self.lose_granted(slot, (id, entry.name), error, granted.is_some())
                }
                Err(damaged) => {
                    self.fail(damaged);
                    BatchOutlook::Failed
                }
            };
            is_whole |= outlook == BatchOutlook::Whole;
        }
        is_whole
    }

    /// Puts items into their slots, each of which is filled once.
    fn fill(&self, slots: &[usize], (ids, items): (Vec<SampleId>, Vec<D::Item>), bytes: u64, verified: u64) -> bool {
        let all = self.samples();
        let mut parts = self.lock();
        if slots.len() == all && slots.is_sorted() {
            parts.missing = 0;
            parts.items = AssemblyItems::Whole(ids, items);
        } else if let AssemblyParts { items: AssemblyItems::Slots(places), missing, .. } = &mut *parts {
            if places.is_empty() {
                places.resize_with(all, || None);
            }
            for (slot, item) in slots.iter().zip(ids.into_iter().zip(items)) {
                *missing -= usize::from(places[*slot].replace(item).is_none());
            }
        }
        parts.bytes += bytes;
        parts.verified += verified;
        parts.missing == 0
    }

    /// Does what is to be done about a sample that can't be had.
    pub(crate) fn lose(self: &Arc<Self>, slot: usize, sample: (SampleId, Arc<str>), error: Error) -> BatchOutlook {
        self.lose_granted(slot, sample, error, false)
    }

    /// As [`lose`](Self::lose), of a sample that had its memory or hadn't.
    fn lose_granted(
        self: &Arc<Self>,
        slot: usize,
        (id, name): (SampleId, Arc<str>),
        error: Error,
        was_granted: bool,
    ) -> BatchOutlook {
        if matches!(self.terms.losing, LossPolicy::Fail) || !is_of_one_sample(&error) {
            return self.fail_with(error);
        }
        self.go_without(slot, (id, name), error, was_granted)
    }

    /// Ends the batch with an error.
    fn fail_with(&self, error: Error) -> BatchOutlook {
        self.fail(error);
        BatchOutlook::Failed
    }

    /// Skips a sample, or asks for a substitute.
    fn go_without(
        self: &Arc<Self>,
        slot: usize,
        (id, name): (SampleId, Arc<str>),
        error: Error,
        was_granted: bool,
    ) -> BatchOutlook {
        let mut parts = self.lock();
        parts.lost.push((slot, LostSample { id, name, position: self.position(slot), error, substitute: None }));
        match &self.terms.losing {
            LossPolicy::Fail => BatchOutlook::Failed,
            LossPolicy::Skip => {
                if let Some((gate, number)) = self.gate.as_ref().filter(|_| !was_granted) {
                    gate.skip(*number);
                }
                parts.missing -= 1;
                if parts.missing == 0 { BatchOutlook::Whole } else { BatchOutlook::Waiting }
            }
            LossPolicy::Substitute(find) => {
                let mut of_slot = parts.lost.iter().filter(|(lost, _)| *lost == slot).map(|(_, lost)| lost.id);
                let attempt = of_slot.clone().count();
                let for_sample = of_slot.next().unwrap_or(id);
                drop(parts);
                if let Some((gate, number)) = self.gate.as_ref().filter(|_| was_granted) {
                    gate.reopen(*number);
                }
                find(SubstituteRequest { assembly: Arc::clone(self), slot, for_sample, attempt });
                BatchOutlook::Waiting
            }
        }
    }

    /// Ends the batch because nothing more can come in a slot that samples were lost for.
    pub(crate) fn give_up(&self, slot: usize) {
        let parts = self.lock();
        let of_slot: Vec<_> = parts.lost.iter().filter(|(lost, _)| *lost == slot).collect();
        if let Some((_, last)) = of_slot.last() {
            self.fail(in_vain(last, of_slot.len()));
        }
    }

    /// Makes the batch of what is there.
    pub(crate) fn collate(&self) {
        let mut parts = self.lock();
        let items = std::mem::replace(&mut parts.items, AssemblyItems::Slots(Vec::new()));
        let mut lost = std::mem::take(&mut parts.lost);
        let (bytes, verified, mut kept) = (parts.bytes, parts.verified, std::mem::take(&mut parts.kept));
        if let Some(share) = parts.share.take() {
            kept.push(Arc::new(share));
        }
        drop(parts);
        // Of one slot they stay in the order in which they were tried.
        lost.sort_by_key(|(slot, _)| *slot);
        let all = self.samples();
        let asked = lost.iter().map(|(slot, _)| *slot).chain(all - self.padding..all);
        let (ids, items, mut there) = items.into_parts(asked);
        let padding = there.split_off(lost.len()).iter().flatten().count();
        let lost = lost.into_iter().zip(there).map(|((_, mut lost), substitute)| {
            lost.substitute = substitute;
            lost
        });
        let lost = lost.collect();
        match guarded(|| self.terms.code.collate.collate(items)) {
            Ok(data) => {
                if let Some((gate, number)) = &self.gate {
                    gate.collated(*number);
                }
                let span = self.positions.first().map_or(0, |first| first.start)
                    ..self.positions.last().map_or(0, |last| last.end);
                let batch = Batch::new(ids, Arc::clone(&self.terms.code.manifest), span, padding, lost, data);
                // As in `fail`: then an error is there first, or nobody waits.
                self.promise.keep(Ok(FinishedBatch { batch, bytes, verified, kept }));
            }
            Err(cause) => self.fail(
                Error::new(ErrorKind::Collate, format!("the samples make no batch: {cause}")).stage(Stage::Collate),
            ),
        }
    }

    /// A batch without samples is done from the start.
    pub(crate) fn finish_empty(&self) {
        self.collate();
    }

    fn lock(&self) -> MutexGuard<'_, AssemblyParts<D, C>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Decode, C: Collate<D::Item>> BatchProgress for BatchAssembly<D, C> {
    fn missing(&self) -> usize {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).missing
    }
}

/// The error of a sample that the user's decoder refuses.
pub(crate) fn refused(id: ObjectId, cause: &str) -> Error {
    Error::new(ErrorKind::Decode, format!("the decoder refused it: {cause}")).stage(Stage::Decode).object(id)
}

/// Runs the user's code. What it returns as an error, with all its causes, or says in a panic, comes back in one line.
pub(crate) fn guarded<T>(run: impl FnOnce() -> anyhow::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
        Err(panic) => Err(format!("it panicked: {}", panic_message(&*panic))),
    }
}
