//! One epoch's way from order to promises.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;
use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;

use super::pool::{Assembly, Code, Job, Promise};
use crate::budget::{Budget, Permit};
use crate::collate::Collate;
use crate::decode::Decode;
use crate::fetch::Fetcher;
use crate::io::Io;
use crate::manifest::{Known, Manifest};
use crate::plan::{Group, MAX_SOURCES, Method, Planner};
use crate::sample::{SampleId, Shuffle, Spans};
use crate::split::{RawSample, split};
use crate::{Error, ErrorKind, Result, Stage};

/// How often an object whose bytes don't match is read again: transport damages a few bytes in a while, and another
/// read is cheap beside a lost epoch; damage that stays is not in the transport.
const READS: usize = 3;

/// What all epochs of a loader share.
pub(super) struct Engine<D: Decode, C: Collate<D::Item>> {
    pub(super) io: Arc<Io>,
    pub(super) manifest: Arc<Manifest>,
    pub(super) planner: Planner,
    pub(super) fetcher: Fetcher,
    pub(super) budget: Budget,
    pub(super) code: Arc<Code<D, C>>,
    pub(super) jobs: Sender<Job<D, C>>,
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
    pub(super) shuffle: Shuffle,
    pub(super) epoch: u64,
    pub(super) spans: Spans,
}

impl Course {
    /// The samples of the next batch and where in the global order it ends, once they are known; `None` at the end of the
    /// epoch, or when it was called off. Blocks.
    ///
    /// # Errors
    /// The listing failed, and the batches before this were all that can be told of it.
    fn next(&mut self, manifest: &Manifest, called_off: impl Fn() -> bool) -> Result<Option<(Vec<SampleId>, u64)>> {
        loop {
            let known = manifest.known();
            let positions = self.shuffle.positions(known);
            if let Some(span) = self.spans.next(positions) {
                let (Known::AtLeast(positions) | Known::All(positions)) = positions;
                let order = self.shuffle.order(manifest, positions, self.epoch);
                return Ok(Some((order.ids(span.positions).collect(), span.end)));
            }
            let Known::AtLeast(samples) = known else { return Ok(None) };
            if !manifest.wait_beyond(samples, &called_off)? {
                return Ok(None);
            }
        }
    }
}

impl<D: Decode, C: Collate<D::Item>> Engine<D, C> {
    /// The engine of one epoch: its bytes and its temporaries are its own, so that no epoch waits for another's.
    pub(super) fn for_epoch(&self, budget: Budget) -> Arc<Self> {
        Arc::new(Self {
            io: Arc::clone(&self.io),
            manifest: Arc::clone(&self.manifest),
            planner: self.planner.clone(),
            fetcher: self.fetcher.for_epoch(),
            budget,
            code: Arc::clone(&self.code),
            jobs: self.jobs.clone(),
        })
    }

    /// Hands out the tickets of an epoch and starts the reads behind them, until the end or a cancellation. Blocks.
    pub(super) fn run(
        self: Arc<Self>,
        mut course: Course,
        tickets: &Sender<Ticket<C::Output>>,
        cancel: &watch::Receiver<bool>,
    ) {
        // Groups are numbered in the order of delivery.
        let mut number = 0;
        loop {
            let (ids, end) = match course.next(&self.manifest, || is_cancelled(cancel)) {
                Ok(Some(batch)) => batch,
                Ok(None) if is_cancelled(cancel) => return,
                Ok(None) => break,
                Err(error) => {
                    // Closed: it wants no more.
                    let _ = tickets.send(Ticket::Failed(error));
                    return;
                }
            };
            let planned = self.planner.plan(&ids);
            let (assembly, promise) = Assembly::new(Arc::clone(&self.code), ids, cancel.clone());
            // Full: the training loop has enough batches ahead. Closed: it wants no more.
            if tickets.send(Ticket::Batch(promise, end)).is_err() {
                return;
            }
            let mut groups = match planned {
                Ok(groups) => groups,
                Err(error) => return assembly.fail(error),
            };
            if !self.fetcher.may_compose() {
                groups = groups.iter().flat_map(Group::split_up).collect();
            }
            if groups.is_empty() {
                assembly.finish_empty();
            }
            if let Err(bytes) = self.budget.check(groups.iter().map(|group| self.bytes(group))) {
                assembly.fail(self.too_large(&groups, bytes));
                return;
            }
            for group in groups {
                let (keeps, passes) = self.bytes(&group);
                // Taken in the order of delivery, by this one thread: the batch that the loop waits for is never
                // behind a later one, and by the check above it never waits for itself.
                let Some(kept) = self.take(keeps, cancel) else { return };
                let Some(passing) = self.take(passes, cancel) else { return };
                if let Some(kept) = kept {
                    assembly.keep(kept);
                }
                number += 1;
                let (engine, assembly, mut cancel) = (Arc::clone(&self), Arc::clone(&assembly), cancel.clone());
                self.io.handle().spawn(async move {
                    tokio::select! {
                        () = engine.bring(group, number, assembly, passing) => {}
                        // Also when the iterator is gone without a word.
                        _ = cancel.wait_for(|&cancelled| cancelled) => {}
                    }
                });
            }
        }
        // Closed: it wants no more.
        let _ = tickets.send(Ticket::End);
    }

    /// Bytes of a group that stay until the batch is delivered, and bytes that go when it is decoded.
    fn bytes(&self, group: &Group) -> (u64, u64) {
        let size = |range: &std::ops::Range<u64>| range.end - range.start;
        let mut items = group.slices.iter().map(|slice| self.code.decode.item_bytes(size(&slice.range)));
        match items.try_fold(0u64, |sum, item| Some(sum.saturating_add(item?))) {
            None => (group.bytes(), 0),
            Some(items) => (items, group.bytes()),
        }
    }

    /// Takes bytes from the budget; no permit for none, and nothing once the epoch is cancelled.
    #[expect(clippy::option_option, reason = "cancelled, or nothing to hold, or something")]
    fn take(&self, bytes: u64, cancel: &watch::Receiver<bool>) -> Option<Option<Permit>> {
        if is_cancelled(cancel) {
            return None;
        }
        if bytes == 0 {
            return Some(None);
        }
        let mut cancel = cancel.clone();
        self.io.handle().block_on(async {
            tokio::select! {
                permit = self.budget.take(bytes) => Some(Some(permit)),
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

    async fn bring(&self, group: Group, number: u64, assembly: Arc<Assembly<D, C>>, passing: Option<Permit>) {
        match self.read(group, number).await {
            Err(error) => assembly.fail(error),
            Ok(samples) => {
                let passing = passing.map(Arc::new);
                for (slot, sample) in samples {
                    let job = Job { assembly: Arc::clone(&assembly), slot, sample, passing: passing.clone() };
                    if self.jobs.send(job).is_err() {
                        assembly.fail(Error::new(ErrorKind::Internal, "the decode threads are gone"));
                        return;
                    }
                }
            }
        }
    }

    /// Reads a group's samples, each proved; whatever goes wrong with a composed read, each object by itself, which
    /// works or finds out which one is to blame.
    async fn read(&self, group: Group, number: u64) -> Result<Vec<(usize, RawSample)>> {
        if group.method != Method::Composed {
            return read_alone(&self.fetcher, &self.manifest, group, number).await;
        }
        let payload = self.fetcher.fetch(group.clone(), number).await;
        match payload.and_then(|payload| split(&self.manifest, payload)) {
            Err(error) if !error.is_cancelled() => {
                tracing::debug!(%error, objects = group.slices.len(), "a composed read failed; reading object by object");
                let alone: Vec<_> = group.split_up().collect();
                stream::iter(alone)
                    .map(|group| read_alone(&self.fetcher, &self.manifest, group, number))
                    .buffered(MAX_SOURCES)
                    .try_fold(Vec::new(), async |mut all, mut some| {
                        all.append(&mut some);
                        Ok(all)
                    })
                    .await
            }
            outcome => outcome,
        }
    }
}

/// Also when the iterator is gone without a word.
fn is_cancelled(cancel: &watch::Receiver<bool>) -> bool {
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
