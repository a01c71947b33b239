//! Reads groups: object by object or through a temporary composed object.

use std::future::Future;
use std::ops::Range;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;

use super::clients::Clients;
use super::ranged::{Download, Lanes, RangeSettings};
use crate::budget::Budget;
use crate::compose::{
    ComposeOutcome, ComposePermission, LoaderTemporaries, ReadStep, StepObserver, Temporary, TemporaryRun,
};
use crate::crc;
use crate::io::Io;
use crate::manifest::{Entry, Location, Manifest};
use crate::observe::Events;
use crate::pacing::{BucketGates, Ceilings, GateUse};
use crate::plan::{Group, Method};
use crate::store::{self, BucketInfo, Buffers, Client, ComposeRequest, ObjectId, StorageClass};
use crate::{Error, ErrorKind, Result, Stage};

/// Bytes of the memory budget that the buffers kept for later bodies leave free, but at most half of the budget. The
/// read buffers of connections, which are not counted, come on top of the budget.
const UNBUFFERED_BYTES: u64 = 128 << 20;

/// The bytes of a group, in the order of its slices.
#[derive(Debug)]
pub(crate) struct GroupPayload {
    /// The group that was read.
    pub(crate) group: Group,
    /// Where the bytes of the group's slices lie, in their order.
    pub(crate) locations: Vec<Location>,
    /// All bytes of the group.
    pub(crate) bytes: Bytes,
    /// The sums of the objects that hold the bytes, in their order, empty objects left out. There are none if the
    /// objects were composed: then the bytes of each are to be hashed.
    pub(crate) sums: Vec<ObjectSum>,
}

/// What the read of one object found about its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ObjectSum {
    /// CRC32C of the whole object, if the server sent it.
    pub(crate) sent: Option<u32>,
    /// CRC32C of the bytes received.
    pub(crate) computed: u32,
}

impl From<&store::Payload> for ObjectSum {
    fn from(read: &store::Payload) -> Self {
        Self { sent: read.crc32c, computed: read.computed }
    }
}

/// Composing stops while more temporaries exist than can be deleted in this many seconds at the current rate of writes.
/// In a bucket that takes so few writes, reading directly costs less than temporaries that stay behind.
const MAX_DELETION_SECONDS: f64 = 4.0;

/// Reads groups of one data set.
#[derive(Clone, Debug)]
pub(crate) struct Fetcher {
    clients: Clients,
    /// Buffers for bodies, and for samples of the cache.
    buffers: Arc<Buffers>,
    pub(super) manifest: Arc<Manifest>,
    io: Arc<Io>,
    run: Arc<TemporaryRun>,
    pub(super) gates: Arc<BucketGates>,
    /// The loader's use of `gates`, for as long as the loader or one of its epochs lives.
    gate_use: Option<Arc<GateUse>>,
    /// What is added to the numbers of this epoch's groups.
    group_offset: u64,
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
        gates: Arc<BucketGates>,
    ) -> Self {
        let temporaries = LoaderTemporaries::new();
        let compose = ComposePermission::new(Arc::clone(&manifest.prefix().bucket), bucket, &temporaries);
        let group_offset = gates.latest_number();
        let (clients, ranges) = (Clients::of(client), RangeSettings::default());
        let (run, buffers) = (TemporaryRun::new(&temporaries), Arc::default());
        Self { clients, buffers, manifest, io, run, gates, gate_use: None, group_offset, ranges, compose, temporaries }
    }

    /// Sets how large objects are cut into ranges.
    pub(crate) fn with_ranges(mut self, ranges: RangeSettings) -> Self {
        self.ranges = ranges;
        self
    }

    /// Counts as a loader with these gates.
    pub(crate) fn with_gate_use(mut self, gate_use: GateUse) -> Self {
        self.gate_use = Some(Arc::new(gate_use));
        self
    }

    /// The same fetcher for consecutive epochs. It reuses buffers within the free part of `budget` while the epochs
    /// run, and numbers their groups from where the bucket's calls are now.
    pub(crate) fn for_epochs(&self, budget: &Budget) -> Self {
        let buffers = Buffers::new(budget.bytes() - UNBUFFERED_BYTES.min(budget.bytes() / 2), budget.items());
        let clients = self.clients.with_buffers(&buffers);
        Self { clients, buffers, group_offset: self.gates.latest_number(), ..self.for_epoch() }
    }

    /// The same fetcher for one epoch, with temporaries and counts of its own.
    pub(crate) fn for_epoch(&self) -> Self {
        Self { clients: self.clients.apart(), run: TemporaryRun::new(&self.temporaries), ..self.clone() }
    }

    /// The same fetcher for reads that repeat failed ones or ones that brought wrong bytes. Only the counts differ.
    pub(crate) fn repeating(&self) -> Self {
        Self { clients: self.clients.repeating(), ..self.clone() }
    }

    /// Buffers that bodies are read into.
    pub(crate) fn buffers(&self) -> &Arc<Buffers> {
        &self.buffers
    }

    /// The run that temporaries of this fetcher belong to.
    pub(crate) fn run(&self) -> &Arc<TemporaryRun> {
        &self.run
    }

    /// Clients that count the calls of this fetcher, and of those made from it for its epochs.
    pub(crate) fn clients(&self) -> &Clients {
        &self.clients
    }

    /// The observers of what this fetcher does.
    pub(crate) fn events(&self) -> &Events {
        self.clients.class(StorageClass::default()).events()
    }

    pub(crate) fn gates(&self) -> &Arc<BucketGates> {
        &self.gates
    }

    /// How many calls the bucket takes, as far as is known.
    pub(crate) fn ceilings(&self) -> Ceilings {
        self.gates.snapshot()
    }

    /// Reads a group as planned. Waiting reads are let through in the order of their `group_number`, the smallest
    /// first. The caller may still read a group directly if its composed read fails.
    ///
    /// # Cancel safety
    /// Dropping the future starts the deletion of a temporary that exists or may come to exist.
    pub(crate) async fn fetch(
        &self,
        group: Group,
        group_number: u64,
        on_step: StepObserver<'_>,
    ) -> Result<GroupPayload> {
        let group_number = self.group_offset.saturating_add(group_number);
        let locations =
            group.slices.iter().map(|slice| self.manifest.location(slice.id)).collect::<Result<Vec<_>>>()?;
        // What few reads do is boxed. So the future of a single object's read is small: tens of thousands may wait.
        let read = match group.method {
            // The listing alone proves that an object is empty.
            Method::Empty => return Ok(GroupPayload { group, locations, bytes: Bytes::new(), sums: Vec::new() }),
            Method::Direct => {
                let (id, object) = self.only_object(&locations[0]);
                let (client, range) = (self.clients.class(object.storage_class), locations[0].range.clone());
                let read = self.read(client, &id, range, group.bytes(), group_number, on_step).await;
                read.map(|read| (vec![ObjectSum::from(&read)], read.bytes))
            }
            Method::Ranged => {
                // Each part waits for a slot by itself.
                on_step(ReadStep::Reading);
                let read = Box::pin(self.ranged(self.only_object(&locations[0]), group_number)).await;
                read.map(|read| (vec![ObjectSum::from(&read)], read.bytes))
            }
            Method::Parts => Box::pin(self.parts(&locations[0], group_number, on_step)).await,
            Method::Composed => {
                let read = Box::pin(self.composed(&group, &locations, group_number, on_step)).await;
                read.map(|read| (Vec::new(), read.bytes))
            }
        };

        let (sums, bytes) = read.map_err(|error| error.stage(Stage::Fetch))?;
        Ok(GroupPayload { group, locations, bytes, sums })
    }

    /// The object that holds all bytes of a sample: the only one, or the only one that isn't empty.
    pub(super) fn only_object<'a>(&'a self, location: &'a Location) -> (ObjectId, &'a Entry) {
        let mut objects = self.manifest.objects(location).filter(|(_, object)| object.size > 0);
        objects.next().unwrap_or_else(|| (self.manifest.id(&location.object), &location.object))
    }

    /// Reads a group through a temporary object, and passes the payload to `prove`. Composing counts as successful only
    /// if `prove` accepts the payload.
    ///
    /// The read ends when `given_up` does. That counts as a failure if the compose was under way, and the temporary is
    /// deleted.
    ///
    /// # Errors
    /// Those of [`fetch`](Self::fetch) and of `prove`; composing is not permitted now; the read was given up.
    ///
    /// # Cancel safety
    /// As for [`fetch`](Self::fetch).
    pub(crate) async fn fetch_composed<T>(
        &self,
        group: Group,
        group_number: u64,
        on_step: StepObserver<'_>,
        prove: impl FnOnce(GroupPayload) -> Result<T>,
        given_up: impl Future<Output = ()>,
    ) -> Result<T> {
        let mut given_up = pin!(given_up);
        on_step(ReadStep::ComposeQueued);
        let permit = or_given_up(given_up.as_mut(), self.compose.admit()).await;
        let permit = permit.map_err(|error| error.stage(Stage::Fetch))?;

        // Existing temporaries may be kept until their batches are due, and the end of the process has no time to
        // delete more than this.
        if self.run.outstanding() as f64 > self.gates.writes.per_second() * MAX_DELETION_SECONDS {
            let message = "there are as many temporary objects as can be deleted in time";
            return Err(Error::new(ErrorKind::Unavailable, message).stage(Stage::Fetch));
        }

        let is_started = AtomicBool::new(false);
        let on_step = |step| {
            is_started.fetch_or(step == ReadStep::Composing, Ordering::Relaxed);
            on_step(step);
        };
        let outcome = or_given_up(given_up, self.fetch(group, group_number, &on_step)).await.and_then(prove);
        let noted = ComposeOutcome { error: outcome.as_ref().err(), is_started: is_started.into_inner() };
        self.compose.note(permit, noted, &self.run, &self.io);
        outcome
    }

    /// Whether a compose may be tried now.
    pub(crate) fn may_compose(&self) -> bool {
        self.compose.may_compose()
    }

    /// Whether a compose may be tried now, and composed objects are known to be deletable.
    pub(crate) fn is_proven(&self) -> bool {
        self.may_compose() && self.compose.is_proven()
    }

    /// Gives temporaries leases that need no renewal, because the permission to renew is missing.
    pub(crate) fn disable_renewal(&self) {
        self.temporaries.disable_renewal();
    }

    /// Stops composing for good, because this permission is missing, and logs that.
    pub(crate) fn stop_composing(&self, missing: &str) {
        self.compose.turn_off(missing);
    }

    /// Starts another try to delete temporaries that could not be deleted some minutes ago. Returns at once.
    pub(crate) fn delete_again(&self) {
        if self.temporaries.undeleted() > 0 {
            self.compose.report("a temporary object could not be deleted");
            let (client, writes) = (self.clients.class(StorageClass::default()), &self.gates.writes);
            let number = self.gates.latest_number();
            self.temporaries.delete_again(client, &self.io, writes, number);
        }
    }

    /// Makes whatever failed due to be tried again.
    #[cfg(test)]
    pub(crate) fn end_interval(&self) {
        self.compose.end_interval();
        self.temporaries.end_interval();
    }

    async fn read(
        &self,
        client: &Client,
        id: &ObjectId,
        range: Option<Range<u64>>,
        size: u64,
        group_number: u64,
        on_step: StepObserver<'_>,
    ) -> Result<store::Payload> {
        on_step(ReadStep::Queued);
        let slot = self.gates.reads.acquire(group_number).await;
        on_step(ReadStep::Reading);
        self.gates.record_number(group_number);
        // Boxed, since the future of a read is large and thousands may be under way.
        let read = Box::pin(client.with_pacer(slot.pacer()).read(id, range, size)).await?;
        slot.finish(read.bytes.len() as u64);
        Ok(read)
    }

    /// Reads a large object into one buffer. Each part waits for a slot of its own.
    async fn ranged(&self, object: (ObjectId, &Entry), group_number: u64) -> Result<store::Payload> {
        self.gates.record_number(group_number);
        self.download(object, group_number).into_payload().await
    }

    /// The download of an object, in ranges if it is large. Each range waits for a slot of its own.
    pub(super) fn download(&self, (id, entry): (ObjectId, &Entry), group_number: u64) -> Download {
        let lanes = Lanes::gated(Arc::clone(&self.gates.reads), group_number);
        let download = Download::of(self.clients.class(entry.storage_class), id, entry.size, entry.crc32c);
        let RangeSettings { min_part_size, max_streams } = self.ranges;
        download.within(&lanes).min_part_size(min_part_size).max_streams(max_streams)
    }

    async fn composed(
        &self,
        group: &Group,
        locations: &[Location],
        group_number: u64,
        on_step: StepObserver<'_>,
    ) -> Result<store::Payload> {
        // All sources have one storage class, and so has the composed object.
        let client = self.clients.class(locations[0].object.storage_class);
        let temporary = self.compose(client, group, locations, group_number, on_step).await?;
        // Each sample is proved by its own CRC, so the whole is not hashed.
        let unhashed = client.without_hashing();
        let read = self.read(&unhashed, temporary.id(), None, group.bytes(), group_number, on_step);
        temporary.hold(client, read).await
    }

    async fn compose(
        &self,
        client: &Client,
        group: &Group,
        locations: &[Location],
        group_number: u64,
        on_step: StepObserver<'_>,
    ) -> Result<Temporary> {
        let mut sources = Vec::with_capacity(locations.len());
        let mut crc32c = 0;
        for entry in locations.iter().flat_map(Location::entries).filter(|entry| entry.size > 0) {
            let listed = entry.crc32c.ok_or_else(|| {
                Error::new(ErrorKind::Internal, "an object without a listed CRC was planned into a composed read")
                    .object(self.manifest.id(entry))
            })?;
            crc32c = crc::combine(crc32c, listed, entry.size);
            sources.push((Arc::clone(&entry.name), entry.version.clone()));
        }

        let request = ComposeRequest::new(
            Arc::clone(&self.manifest.prefix().bucket),
            self.run.temporary_name(),
            sources,
            group.bytes(),
            crc32c,
            SystemTime::now(),
        );
        self.gates.record_number(group_number);
        self.run.compose(client, &self.io, &self.gates.writes, group_number, request, on_step).await
    }
}

/// The outcome of `work`, or an error if `given_up` ends before it.
async fn or_given_up<T>(
    given_up: Pin<&mut impl Future<Output = ()>>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        outcome = work => outcome,
        () = given_up => Err(Error::new(
            ErrorKind::Unavailable,
            "the training loop waited longer for objects to be composed than it takes to read them",
        )),
    }
}
