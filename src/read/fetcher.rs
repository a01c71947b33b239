//! Groups to payloads: composed and direct reads, and the temporary objects of the former.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;

use super::ranged::{Download, Lanes};
use super::{Clients, RangeSettings};
use crate::budget::Budget;
use crate::compose::{ComposePermission, LoaderTemporaries, ReadStep, StepObserver, Temporary, TemporaryRun};
use crate::crc;
use crate::io::Io;
use crate::manifest::{Entry, Manifest};
use crate::pacing::{Ceilings, Throttles};
use crate::plan::{Group, Method};
use crate::store::{self, BucketInfo, Buffers, Client, ComposeRequest, ObjectId, StorageClass};
use crate::{Error, ErrorKind, Result, Stage};
/// What is left free of the memory budget by buffers that are kept for bodies to come: the read buffers of connections, which
/// nobody counts, come on top. At most half of it.
const NOT_KEPT: u64 = 128 << 20;

/// The bytes of a group, in the order of its slices.
#[derive(Debug)]
pub struct GroupPayload {
    /// What was asked for.
    pub group: Group,
    /// The objects of the group's slices, in their order.
    pub entries: Vec<Entry>,
    /// All its bytes.
    pub bytes: Bytes,
    /// CRC of the whole payload, where the server told it.
    pub crc32c: Option<u32>,
    /// CRC of `bytes`, where it was computed: not where each slice is proved by its own.
    pub computed: Option<u32>,
}

/// In how many seconds the temporaries there are can be deleted, at the rate of writes now: where a bucket takes so few
/// that this matters, reading directly costs less than what is left behind.
const DELETION_SECONDS: f64 = 4.0;

/// Reads groups of one data set.
#[derive(Debug)]
pub(crate) struct Fetcher {
    clients: Clients,
    /// What bodies are put into, and samples of a cache.
    buffers: Arc<Buffers>,
    manifest: Arc<Manifest>,
    io: Arc<Io>,
    run: Arc<TemporaryRun>,
    throttles: Arc<Throttles>,
    /// What is added to the numbers of this epoch's groups.
    first: u64,
    ranges: RangeSettings,
    compose: Arc<ComposePermission>,
    temporaries: Arc<LoaderTemporaries>,
}

impl Fetcher {
    pub(crate) fn new(
        client: &Client,
        manifest: Arc<Manifest>,
        io: Arc<Io>,
        bucket: &BucketInfo,
        throttles: Arc<Throttles>,
    ) -> Self {
        let temporaries = LoaderTemporaries::new();
        let compose = ComposePermission::new(Arc::clone(&manifest.prefix().bucket), bucket, &temporaries);
        let first = throttles.now_serving();
        let (clients, ranges) = (Clients::of(client), RangeSettings::default());
        let (run, buffers) = (TemporaryRun::new(&temporaries), Arc::default());
        Self { clients, buffers, manifest, io, run, throttles, first, ranges, compose, temporaries }
    }

    /// Sets how large objects are cut into ranges.
    pub(crate) fn with_ranges(mut self, ranges: RangeSettings) -> Self {
        self.ranges = ranges;
        self
    }

    /// The same for epochs that follow each other, with buffers that are used again as long as they run: within `budget`, as
    /// far as they are free. The numbers of their groups begin where the bucket's calls are now.
    pub(crate) fn for_epochs(&self, budget: &Budget) -> Self {
        let buffers = Buffers::new(budget.bytes() - NOT_KEPT.min(budget.bytes() / 2), budget.items());
        let clients = self.clients.with_buffers(&buffers);
        Self { clients, buffers, first: self.throttles.now_serving(), ..self.for_epoch() }
    }

    /// The same for one epoch, with temporaries and counts of its own.
    pub(crate) fn for_epoch(&self) -> Self {
        Self {
            clients: self.clients.apart(),
            buffers: Arc::clone(&self.buffers),
            manifest: Arc::clone(&self.manifest),
            io: Arc::clone(&self.io),
            run: TemporaryRun::new(&self.temporaries),
            throttles: Arc::clone(&self.throttles),
            first: self.first,
            ranges: self.ranges,
            compose: Arc::clone(&self.compose),
            temporaries: Arc::clone(&self.temporaries),
        }
    }

    /// The same for reads that repeat others which failed or brought wrong bytes; only the counts differ.
    pub(crate) fn repeating(&self) -> Self {
        Self {
            clients: self.clients.repeating(),
            buffers: Arc::clone(&self.buffers),
            manifest: Arc::clone(&self.manifest),
            io: Arc::clone(&self.io),
            run: Arc::clone(&self.run),
            throttles: Arc::clone(&self.throttles),
            compose: Arc::clone(&self.compose),
            temporaries: Arc::clone(&self.temporaries),
            ..*self
        }
    }

    /// What bodies are put into.
    pub(crate) fn buffers(&self) -> &Arc<Buffers> {
        &self.buffers
    }

    /// The run that temporaries of this fetcher belong to.
    pub(crate) fn run(&self) -> &Arc<TemporaryRun> {
        &self.run
    }

    /// What this fetcher, or those that are for its epochs, asked of the service.
    pub(crate) fn clients(&self) -> &Clients {
        &self.clients
    }

    pub(crate) fn throttles(&self) -> &Arc<Throttles> {
        &self.throttles
    }

    /// What is known of how many calls the bucket takes.
    pub(crate) fn ceilings(&self) -> Ceilings {
        self.throttles.snapshot()
    }

    /// Reads a group as planned, the one with the smallest `number` of those that wait before all others. A composed
    /// read that fails may still be read object by object. Each step on the way is `told`.
    ///
    /// # Cancel safety
    /// Dropping the future hands a temporary that exists, or may come to exist, to the reaper.
    pub(crate) async fn fetch(&self, group: Group, number: u64, told: StepObserver<'_>) -> Result<GroupPayload> {
        let number = self.first.saturating_add(number);
        let entries = group.slices.iter().map(|slice| self.manifest.at(slice.id.0)).collect::<Result<Vec<_>>>()?;
        let read = match group.method {
            // What the listing says of an empty object is all there is to prove.
            Method::Empty => {
                return Ok(GroupPayload { group, entries, bytes: Bytes::new(), crc32c: None, computed: Some(0) });
            }
            Method::Direct => {
                let client = self.clients.class(entries[0].storage_class);
                self.read(client, &self.manifest.id(&entries[0]), entries[0].size, number, told).await
            }
            Method::Ranged => {
                // Each part waits for leave by itself.
                told(ReadStep::Reading);
                self.ranged(&entries[0], number).await
            }
            Method::Composed => self.composed(&group, &entries, number, told).await,
        };
        let read = read.map_err(|error| error.stage(Stage::Fetch))?;
        let computed = (group.method != Method::Composed).then_some(read.computed);
        Ok(GroupPayload { group, entries, bytes: read.bytes, crc32c: read.crc32c, computed })
    }

    /// Reads a group by a temporary object, where composing works, and has `prove` look at what came: only what it
    /// accepts counts as a success of composing. Ends when `given_up` does, which counts as a failure where the compose
    /// was under way: the temporary, if there is one or will be, is deleted all the same.
    ///
    /// # Errors
    /// As for [`fetch`](Self::fetch), those of `prove`, and where nothing may be composed now or the read is given up.
    ///
    /// # Cancel safety
    /// As for [`fetch`](Self::fetch).
    pub(crate) async fn fetch_composed<T>(
        &self,
        group: Group,
        number: u64,
        told: StepObserver<'_>,
        prove: impl FnOnce(GroupPayload) -> Result<T>,
        given_up: impl Future<Output = ()>,
    ) -> Result<T> {
        let mut given_up = pin!(given_up);
        told(ReadStep::ComposeQueued);
        let admission = unless(given_up.as_mut(), self.compose.admit()).await;
        let admission = admission.map_err(|error| error.stage(Stage::Fetch))?;
        // Those there are may wait for their reads in the order of the batches: the end of the process has no time for
        // more.
        if self.run.outstanding() as f64 > self.throttles.writes.per_second() * DELETION_SECONDS {
            let message = "there are as many temporary objects as can be deleted in time";
            return Err(Error::new(ErrorKind::Unavailable, message).stage(Stage::Fetch));
        }
        let begun = AtomicBool::new(false);
        let told = |step| {
            begun.fetch_or(step == ReadStep::Composing, Ordering::Relaxed);
            told(step);
        };
        let outcome = unless(given_up, self.fetch(group, number, &told)).await.and_then(prove);
        self.compose.note(admission, outcome.as_ref().err(), begun.into_inner(), &self.run, &self.io);
        outcome
    }

    /// Whether composing is worth a try now.
    pub(crate) fn may_compose(&self) -> bool {
        self.compose.may_compose()
    }

    /// Whether that is no question any more: what is composed is known to be deletable.
    pub(crate) fn is_proven(&self) -> bool {
        self.may_compose() && self.compose.is_proven()
    }

    /// Gives temporaries leases that last for all that may be done with them, for want of the right to renew any.
    pub(crate) fn never_renew(&self) {
        self.temporaries.never_renew();
    }

    /// Composes no more, for want of a right, and says so.
    pub(crate) fn stop_composing(&self, why: &str) {
        self.compose.turn_off(why);
    }

    /// Tries again to delete temporaries that could not be deleted, some minutes after the last time. Returns at once.
    pub(crate) fn delete_again(&self) {
        if self.temporaries.undeleted() > 0 {
            self.compose.report("a temporary object could not be deleted");
            let (client, writes) = (self.clients.class(StorageClass::default()), &self.throttles.writes);
            let number = self.throttles.now_serving();
            self.temporaries.delete_again(client, &self.io, writes, number);
        }
    }

    /// Ends the minutes after which what failed is tried again.
    #[cfg(test)]
    pub(crate) fn end_interval(&self) {
        self.compose.end_interval();
        self.temporaries.end_interval();
    }

    async fn read(
        &self,
        client: &Client,
        id: &ObjectId,
        size: u64,
        number: u64,
        told: StepObserver<'_>,
    ) -> Result<store::Payload> {
        told(ReadStep::Queued);
        let slot = self.throttles.reads.acquire(number).await;
        told(ReadStep::Reading);
        self.throttles.serves(number);
        // In a box, since thousands wait for their turn, and a read under way is large.
        let read = Box::pin(client.with_observer(slot.watch()).read(id, None, size)).await?;
        slot.done(read.bytes.len() as u64);
        Ok(read)
    }

    /// In one buffer, each part a call of its own to whoever lets calls through.
    async fn ranged(&self, entry: &Entry, number: u64) -> Result<store::Payload> {
        self.throttles.serves(number);
        let lanes = Lanes::throttled(Arc::clone(&self.throttles.reads), number);
        let client = self.clients.class(entry.storage_class);
        let download = Download::of(client, self.manifest.id(entry), entry.size, entry.crc32c).within(&lanes);
        let RangeSettings { min_part_size, max_streams } = self.ranges;
        download.min_part_size(min_part_size).max_streams(max_streams).into_payload().await
    }

    async fn composed(
        &self,
        group: &Group,
        entries: &[Entry],
        number: u64,
        told: StepObserver<'_>,
    ) -> Result<store::Payload> {
        // All sources are of one class, and what they are joined into is, too.
        let client = self.clients.class(entries[0].storage_class);
        let temporary = self.compose(client, group, entries, number, told).await?;
        // Each sample is proved by its own CRC.
        let unhashed = client.without_hashing();
        let read = self.read(&unhashed, temporary.id(), group.bytes(), number, told);
        temporary.hold(client, read).await
    }

    async fn compose(
        &self,
        client: &Client,
        group: &Group,
        entries: &[Entry],
        number: u64,
        told: StepObserver<'_>,
    ) -> Result<Temporary> {
        let mut sources = Vec::with_capacity(entries.len());
        let mut crc32c = 0;
        for entry in entries {
            let listed = entry.crc32c.ok_or_else(|| {
                Error::new(ErrorKind::Internal, "an object without a listed CRC was planned into a composed read")
                    .object(self.manifest.id(entry))
            })?;
            crc32c = crc::combine(crc32c, listed, entry.size);
            sources.push((Arc::clone(&entry.name), entry.generation));
        }
        let request = ComposeRequest::new(
            Arc::clone(&self.manifest.prefix().bucket),
            self.run.temporary_name(),
            sources,
            group.bytes(),
            crc32c,
            SystemTime::now(),
        );
        self.throttles.serves(number);
        self.run.compose(client, &self.io, &self.throttles.writes, number, request, told).await
    }
}

/// What `work` comes to, unless the training loop gives it up before.
async fn unless<T>(given_up: Pin<&mut impl Future<Output = ()>>, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        biased;
        outcome = work => outcome,
        () = given_up => Err(Error::new(
            ErrorKind::Unavailable,
            "the training loop waited longer for objects to be composed than it takes to read them",
        )),
    }
}
