//! The decode threads, and the batches they put together.

use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::watch;

use super::arrivals::{Arrivals, Pledge};
use super::loss::{in_vain, is_of_one_sample};
use super::stall::{Making, Steps};
use crate::budget::Permit;
use crate::collate::{Batch, Collate, LostSample};
use crate::decode::Decode;
use crate::error::panic_message;
use crate::manifest::Manifest;
use crate::sample::SampleId;
use crate::split::RawSample;
use crate::store::ObjectId;
use crate::{Error, ErrorKind, Result, Stage};

/// What decode threads do.
pub(super) enum Job<D: Decode, C: Collate<D::Item>> {
    /// Decode a sample, and collate its batch if it is the last.
    Decode {
        assembly: Arc<Assembly<D, C>>,
        slot: usize,
        sample: RawSample,
        /// Bytes of the payload the sample is part of, where they are given back once all of it is decoded.
        passing: Option<Arc<Permit>>,
    },
    /// Collate a batch whose samples are all there.
    Collate(Arc<Assembly<D, C>>),
    /// Bring samples that are at hand.
    Bring(Box<dyn FnOnce() + Send>),
    /// Drop what nobody wants any more, which may be many batches and a lot of memory.
    Discard(Arrivals<C::Output>),
    /// End the thread that finds this.
    End,
}

impl<D: Decode, C: Collate<D::Item>> Job<D, C> {
    fn perform(self) {
        match self {
            Self::Decode { assembly, slot, sample, passing } => {
                if assembly.decode([(slot, sample)]) {
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

/// The way to the decode threads, and these.
pub(super) type Pool<D, C> = (Sender<Job<D, C>>, Vec<JoinHandle<()>>);

/// Starts the decode threads; they end when they are told to, or the last sender is dropped.
pub(super) fn start<D: Decode, C: Collate<D::Item>>(threads: usize) -> Result<Pool<D, C>> {
    // Unbounded in jobs, since each holds its share of the byte budget.
    let (jobs, work) = crossbeam_channel::unbounded::<Job<D, C>>();
    let mut handles = Vec::with_capacity(threads);
    for index in 0..threads {
        let work: Receiver<Job<D, C>> = work.clone();
        let handle = std::thread::Builder::new()
            .name(format!("dataflux-decode-{index}"))
            .spawn(move || {
                for job in work {
                    if matches!(job, Job::End) {
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
pub(super) struct Code<D, C> {
    pub(super) manifest: Arc<Manifest>,
    pub(super) decode: Arc<D>,
    pub(super) collate: C,
}

/// A batch, done.
pub(super) struct Ready<B> {
    pub(super) batch: Batch<B>,
    pub(super) bytes: u64,
    pub(super) verified: u64,
    /// Given back when the next batch is asked for, and each other that a group is part of.
    pub(super) kept: Vec<Arc<Permit>>,
}

/// The promise of one batch; broken, and so an error at the other end, when all that could keep it are gone.
pub(super) type Promise<B> = Receiver<Result<Ready<B>>>;

/// What all batches of an epoch share.
pub(super) struct Terms<D: Decode, C: Collate<D::Item>> {
    pub(super) code: Arc<Code<D, C>>,
    pub(super) cancel: watch::Receiver<bool>,
    pub(super) losing: Losing<D, C>,
}

/// What becomes of a sample that can't be had.
pub(super) enum Losing<D: Decode, C: Collate<D::Item>> {
    /// The batch fails.
    Fail,
    /// The batch goes without it.
    Skip,
    /// Another one comes in its place. To be called from any thread; what comes of it is a sample or another loss.
    Substitute(Box<dyn Fn(Wanted<D, C>) + Send + Sync>),
}

/// A place in a batch that a substitute is wanted for.
pub(super) struct Wanted<D: Decode, C: Collate<D::Item>> {
    pub(super) assembly: Arc<Assembly<D, C>>,
    pub(super) slot: usize,
    /// The sample that was to be there.
    pub(super) for_sample: SampleId,
    /// From 1.
    pub(super) attempt: usize,
}

/// What a batch is after a sample of it was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlook {
    /// Over.
    Failed,
    /// Waiting for more.
    Waiting,
    /// To be collated.
    Whole,
}

/// A batch in the making.
pub(super) struct Assembly<D: Decode, C: Collate<D::Item>> {
    terms: Arc<Terms<D, C>>,
    positions: Vec<Range<u64>>,
    /// Samples at the end that fill the batch up.
    padding: usize,
    /// Number of the batch in its epoch, from 1.
    pub(super) turn: u64,
    /// Of the last group that was begun before its own.
    pub(super) number: u64,
    /// How far its samples are, and where they begin among those.
    pub(super) steps: (Steps, usize),
    parts: Mutex<Parts<D::Item>>,
    promise: Pledge<C::Output>,
}

struct Parts<T> {
    items: Items<T>,
    /// With the slot of each, in the order in which they were found.
    lost: Vec<(usize, LostSample)>,
    missing: usize,
    bytes: u64,
    verified: u64,
    kept: Vec<Arc<Permit>>,
}

/// Items of a batch, with the id of each.
enum Items<T> {
    /// By their slots; without any slot before the first comes, since another thread may put that in than made this.
    Slots(Vec<Option<(SampleId, T)>>),
    /// All of them, in order.
    Whole(Vec<SampleId>, Vec<T>),
}

impl<T> Items<T> {
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

impl<D: Decode, C: Collate<D::Item>> Assembly<D, C> {
    /// A batch of the samples at these positions, of which so many at the end fill it up.
    pub(super) fn new(
        terms: &Arc<Terms<D, C>>,
        (positions, padding): (Vec<Range<u64>>, usize),
        (turn, number): (u64, u64),
        steps: (Steps, usize),
        promise: Pledge<C::Output>,
    ) -> Arc<Self> {
        let samples = positions.iter().map(|range| range.end - range.start).sum::<u64>() as usize;
        let items = Items::Slots(Vec::new());
        let parts = Parts { items, lost: Vec::new(), missing: samples, bytes: 0, verified: 0, kept: Vec::new() };
        let (terms, parts) = (Arc::clone(terms), Mutex::new(parts));
        Arc::new(Self { terms, positions, padding, turn, number, steps, parts, promise })
    }

    /// Where in the global order the sample of a slot is to come.
    pub(super) fn position(&self, slot: usize) -> u64 {
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
    pub(super) fn samples(&self) -> usize {
        self.positions.iter().map(|range| range.end - range.start).sum::<u64>() as usize
    }

    /// Holds bytes until the batch is delivered.
    pub(super) fn keep(&self, permit: Arc<Permit>) {
        self.lock().kept.push(permit);
    }

    /// Ends the batch with an error; of several the first counts.
    pub(super) fn fail(&self, error: Error) {
        // Full if an error is there already; closed if nobody waits.
        self.promise.keep(Err(error));
    }

    /// Decodes samples into their slots. Returns whether all samples are there by that, and the batch is to be collated.
    pub(super) fn decode(self: &Arc<Self>, samples: impl IntoIterator<Item = (usize, RawSample)>) -> bool {
        let Terms { code, cancel, .. } = &*self.terms;
        // Nobody waits for it any more.
        if *cancel.borrow() || cancel.has_changed().is_err() {
            return false;
        }
        let samples = samples.into_iter();
        let of = samples.size_hint().0;
        let mut slots = Vec::with_capacity(of);
        let (mut ids, mut items) = (Vec::with_capacity(of), Vec::with_capacity(of));
        let (mut lost, mut bytes, mut verified) = (Vec::new(), 0, 0);
        for (slot, sample) in samples {
            let (id, size, is_verified) = (sample.id(), sample.bytes().len() as u64, sample.verified());
            match guarded(|| code.decode.decode(sample)) {
                Ok(item) => {
                    slots.push(slot);
                    ids.push(id);
                    items.push(item);
                    bytes += size;
                    verified += u64::from(is_verified);
                }
                Err(cause) => lost.push((slot, id, cause)),
            }
        }
        let mut is_whole = !items.is_empty() && self.fill(&slots, (ids, items), bytes, verified);
        for (slot, id, cause) in lost {
            let outlook = match code.manifest.at(id.0) {
                Ok(entry) => {
                    let error = refused(code.manifest.id(&entry), &cause);
                    self.lose(slot, (id, entry.name), error)
                }
                Err(damaged) => {
                    self.fail(damaged);
                    Outlook::Failed
                }
            };
            is_whole |= outlook == Outlook::Whole;
        }
        is_whole
    }

    /// Puts items into their slots, each of which is filled once.
    fn fill(&self, slots: &[usize], (ids, items): (Vec<SampleId>, Vec<D::Item>), bytes: u64, verified: u64) -> bool {
        let all = self.samples();
        let mut parts = self.lock();
        if slots.len() == all && slots.is_sorted() {
            parts.missing = 0;
            parts.items = Items::Whole(ids, items);
        } else if let Parts { items: Items::Slots(places), missing, .. } = &mut *parts {
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
    pub(super) fn lose(self: &Arc<Self>, slot: usize, (id, name): (SampleId, Arc<str>), error: Error) -> Outlook {
        if matches!(self.terms.losing, Losing::Fail) || !is_of_one_sample(&error) {
            self.fail(error);
            return Outlook::Failed;
        }
        let mut parts = self.lock();
        parts.lost.push((slot, LostSample { id, name, position: self.position(slot), error, substitute: None }));
        match &self.terms.losing {
            Losing::Fail => Outlook::Failed,
            Losing::Skip => {
                parts.missing -= 1;
                if parts.missing == 0 { Outlook::Whole } else { Outlook::Waiting }
            }
            Losing::Substitute(find) => {
                let mut of_slot = parts.lost.iter().filter(|(lost, _)| *lost == slot).map(|(_, lost)| lost.id);
                let attempt = of_slot.clone().count();
                let for_sample = of_slot.next().unwrap_or(id);
                drop(parts);
                find(Wanted { assembly: Arc::clone(self), slot, for_sample, attempt });
                Outlook::Waiting
            }
        }
    }

    /// Ends the batch because nothing more can come in a slot that samples were lost for.
    pub(super) fn give_up(&self, slot: usize) {
        let parts = self.lock();
        let of_slot: Vec<_> = parts.lost.iter().filter(|(lost, _)| *lost == slot).collect();
        if let Some((_, last)) = of_slot.last() {
            self.fail(in_vain(last, of_slot.len()));
        }
    }

    /// Makes the batch of what is there.
    pub(super) fn collate(&self) {
        let mut parts = self.lock();
        let items = std::mem::replace(&mut parts.items, Items::Slots(Vec::new()));
        let mut lost = std::mem::take(&mut parts.lost);
        let (bytes, verified, kept) = (parts.bytes, parts.verified, std::mem::take(&mut parts.kept));
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
                let span = self.positions.first().map_or(0, |first| first.start)
                    ..self.positions.last().map_or(0, |last| last.end);
                let batch = Batch::new(ids, Arc::clone(&self.terms.code.manifest), span, padding, lost, data);
                // As in `fail`: then an error is there first, or nobody waits.
                self.promise.keep(Ok(Ready { batch, bytes, verified, kept }));
            }
            Err(cause) => self.fail(
                Error::new(ErrorKind::Collate, format!("the samples make no batch: {cause}")).stage(Stage::Collate),
            ),
        }
    }

    /// A batch without samples is done from the start.
    pub(super) fn finish_empty(&self) {
        self.collate();
    }

    fn lock(&self) -> MutexGuard<'_, Parts<D::Item>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D: Decode, C: Collate<D::Item>> Making for Assembly<D, C> {
    fn missing(&self) -> usize {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).missing
    }
}

/// The error of a sample that the user's decoder refuses.
pub(super) fn refused(id: ObjectId, cause: &str) -> Error {
    Error::new(ErrorKind::Decode, format!("the decoder refused it: {cause}")).stage(Stage::Decode).object(id)
}

/// Runs the user's code. What it returns as an error, with all its causes, or says in a panic, comes back in one line.
pub(super) fn guarded<T>(run: impl FnOnce() -> anyhow::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
        Err(panic) => Err(format!("it panicked: {}", panic_message(&*panic))),
    }
}
