//! The decode threads, and the batches they put together.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::watch;

use crate::budget::Permit;
use crate::collate::{Batch, Collate};
use crate::decode::Decode;
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
    Run(Box<dyn FnOnce() + Send>),
}

/// Starts the decode threads; they end when the last sender is dropped.
pub(super) fn start<D: Decode, C: Collate<D::Item>>(threads: usize) -> Result<Sender<Job<D, C>>> {
    // Unbounded in jobs, since each holds its share of the byte budget.
    let (jobs, work) = crossbeam_channel::unbounded::<Job<D, C>>();
    for index in 0..threads {
        let work: Receiver<Job<D, C>> = work.clone();
        std::thread::Builder::new()
            .name(format!("dataflux-decode-{index}"))
            .spawn(move || {
                for job in work {
                    match job {
                        Job::Decode { assembly, slot, sample, passing } => {
                            if assembly.decode(slot, sample) {
                                assembly.collate();
                            }
                            drop(passing);
                        }
                        Job::Collate(assembly) => assembly.collate(),
                        Job::Run(run) => run(),
                    }
                }
            })
            .map_err(|error| {
                Error::new(ErrorKind::Io, "a decode thread could not be started")
                    .stage(Stage::Decode)
                    .mismatch(format_args!("{threads} threads"), index)
                    .hint("lower decode_threads, or raise the limit on threads (ulimit -u)")
                    .with_source(error)
            })?;
    }
    Ok(jobs)
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

/// A batch in the making.
pub(super) struct Assembly<D: Decode, C: Collate<D::Item>> {
    code: Arc<Code<D, C>>,
    ids: Vec<SampleId>,
    /// Samples at the end that fill the batch up.
    padding: usize,
    parts: Mutex<Parts<D::Item>>,
    cancel: watch::Receiver<bool>,
    promise: Sender<Result<Ready<C::Output>>>,
}

struct Parts<T> {
    items: Vec<Option<T>>,
    missing: usize,
    bytes: u64,
    verified: u64,
    kept: Vec<Arc<Permit>>,
}

impl<D: Decode, C: Collate<D::Item>> Assembly<D, C> {
    pub(super) fn new(
        code: Arc<Code<D, C>>,
        ids: Vec<SampleId>,
        padding: usize,
        cancel: watch::Receiver<bool>,
    ) -> (Arc<Self>, Promise<C::Output>) {
        let (promise, receiver) = crossbeam_channel::bounded(1);
        let items: Vec<_> = ids.iter().map(|_| None).collect();
        let parts = Mutex::new(Parts { missing: items.len(), items, bytes: 0, verified: 0, kept: Vec::new() });
        (Arc::new(Self { code, ids, padding, parts, cancel, promise }), receiver)
    }

    /// Holds bytes until the batch is delivered.
    pub(super) fn keep(&self, permit: Arc<Permit>) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner).kept.push(permit);
    }

    /// Ends the batch with an error; of several the first counts.
    pub(super) fn fail(&self, error: Error) {
        // Full if an error is there already; closed if nobody waits.
        let _ = self.promise.try_send(Err(error));
    }

    /// Samples of the batch.
    pub(super) fn samples(&self) -> usize {
        self.ids.len()
    }

    /// Decodes a sample into its slot. Returns whether all samples are there now, and the batch is to be collated.
    pub(super) fn decode(&self, slot: usize, sample: RawSample) -> bool {
        self.decode_all(std::iter::once((slot, sample)))
    }

    /// As [`decode`](Self::decode), for some samples of the batch.
    pub(super) fn decode_all(&self, samples: impl Iterator<Item = (usize, RawSample)>) -> bool {
        // Nobody waits for it any more.
        if *self.cancel.borrow() || self.cancel.has_changed().is_err() {
            return false;
        }
        let (mut bytes, mut verified) = (0, 0);
        // Not under the lock: this is the user's code.
        let mut items = Vec::with_capacity(samples.size_hint().0);
        for (slot, sample) in samples {
            let (id, size, is_verified) = (sample.id(), sample.bytes().len() as u64, sample.verified());
            match guarded(|| self.code.decode.decode(sample)) {
                Ok(item) => {
                    items.push((slot, item));
                    bytes += size;
                    verified += u64::from(is_verified);
                }
                Err(cause) => self.fail(match self.code.manifest.at(id.0) {
                    Ok(entry) => refused(self.code.manifest.id(&entry), &cause),
                    Err(error) => error,
                }),
            }
        }
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        for (slot, item) in items {
            parts.missing -= usize::from(parts.items[slot].replace(item).is_none());
        }
        parts.bytes += bytes;
        parts.verified += verified;
        parts.missing == 0
    }

    /// Makes the batch of what is there.
    pub(super) fn collate(&self) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let items = std::mem::take(&mut parts.items);
        let (bytes, verified, kept) = (parts.bytes, parts.verified, std::mem::take(&mut parts.kept));
        drop(parts);
        self.finish(items.into_iter().flatten().collect(), bytes, verified, kept);
    }

    /// A batch without samples is done from the start.
    pub(super) fn finish_empty(&self) {
        self.finish(Vec::new(), 0, 0, Vec::new());
    }

    fn finish(&self, items: Vec<D::Item>, bytes: u64, verified: u64, kept: Vec<Arc<Permit>>) {
        match guarded(|| self.code.collate.collate(items)) {
            Ok(data) => {
                let batch = Batch::new(self.ids.clone(), Arc::clone(&self.code.manifest), self.padding, data);
                // As in `fail`: then an error is there first, or nobody waits.
                let _ = self.promise.try_send(Ok(Ready { batch, bytes, verified, kept }));
            }
            Err(cause) => self.fail(
                Error::new(ErrorKind::Collate, format!("the samples make no batch: {cause}")).stage(Stage::Collate),
            ),
        }
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
        Err(panic) => Err(format!("it panicked: {}", message(&*panic))),
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}
