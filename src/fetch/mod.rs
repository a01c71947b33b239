//! Groups to payloads: composed and direct reads, and the temporary objects of the former.

mod clean;
mod process;
mod rate;
mod temporary;
mod throttle;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::Mutex;

use crate::crc;
use crate::io::Io;
use crate::manifest::{Entry, Manifest};
use crate::plan::{Group, Method};
use crate::store::{BucketInfo, Client, ComposeRequest, ObjectId};
use crate::{Error, ErrorKind, Result, Stage};

pub use clean::{Cleaned, clean, count_own_temporaries};
pub use process::clean_up_on_signals;
pub(crate) use temporary::Run;
use temporary::Temporary;
pub use temporary::{Leftover, wait_for_temporaries};
pub(crate) use throttle::{Caps, Throttles};
pub use throttle::{Ceiling, Ceilings};

/// The bytes of a group, in the order of its slices.
#[derive(Debug)]
pub struct Payload {
    /// What was asked for.
    pub group: Group,
    /// The objects of the group's slices, in their order.
    pub entries: Vec<Entry>,
    /// All its bytes.
    pub bytes: Bytes,
    /// CRC of the whole payload, where the server told it.
    pub crc32c: Option<u32>,
}

/// Bytes, and their CRC where the server told it.
type Read = (Bytes, Option<u32>);

/// How many composes in a row may fail, of whatever, before no more are tried.
const FAILURES: u32 = 32;

/// How long the first deletion in a bucket that tells nothing of itself may take.
const FIRST_DELETION: Duration = Duration::from_secs(60);

/// Reads groups of one data set.
#[derive(Debug)]
pub(crate) struct Fetcher {
    client: Client,
    manifest: Arc<Manifest>,
    io: Arc<Io>,
    run: Arc<Run>,
    throttles: Arc<Throttles>,
    /// What is added to the numbers of this epoch's groups.
    first: u64,
    compose: Arc<Composing>,
    /// Whether the lease of a temporary can be renewed.
    renewable: bool,
}

/// What is known of composing in this bucket; epochs share it.
#[derive(Debug)]
struct Composing {
    /// Set for good when it doesn't work here; that is said once.
    off: AtomicBool,
    /// Composes that failed since the last that worked.
    failures: AtomicU32,
    /// Whether folders are real here.
    real_folders: bool,
    /// Whether a temporary is known to be deletable. Until then composes go one by one, each deleted before the next:
    /// what a retention policy keeps would be billed for as long as that lasts.
    deletable: AtomicBool,
    proving: Mutex<()>,
}

impl Fetcher {
    pub(crate) fn new(
        client: Client,
        manifest: Arc<Manifest>,
        io: Arc<Io>,
        bucket: &BucketInfo,
        throttles: Arc<Throttles>,
    ) -> Self {
        let compose = Composing {
            off: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            real_folders: bucket.hierarchical_namespace,
            deletable: AtomicBool::new(bucket.retention.is_some()),
            proving: Mutex::new(()),
        };
        let first = throttles.now_serving();
        let (run, compose) = (Run::new(true), Arc::new(compose));
        Self { client, manifest, io, run, throttles, first, compose, renewable: true }
    }

    /// The same for another epoch, with temporaries of its own.
    pub(crate) fn for_epoch(&self) -> Self {
        Self {
            client: self.client.clone(),
            manifest: Arc::clone(&self.manifest),
            io: Arc::clone(&self.io),
            run: Run::new(self.renewable),
            throttles: Arc::clone(&self.throttles),
            first: self.throttles.now_serving(),
            compose: Arc::clone(&self.compose),
            renewable: self.renewable,
        }
    }

    /// The run that temporaries of this fetcher belong to.
    pub(crate) fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// What is known of how many calls the bucket takes.
    pub(crate) fn ceilings(&self) -> Ceilings {
        self.throttles.snapshot()
    }

    /// Reads a group as planned, the one with the smallest `number` of those that wait before all others. A composed
    /// read that fails may still be read object by object.
    ///
    /// # Cancel safety
    /// Dropping the future hands a temporary that exists, or may come to exist, to the reaper.
    pub(crate) async fn fetch(&self, group: Group, number: u64) -> Result<Payload> {
        let number = self.first.saturating_add(number);
        let entries = group.slices.iter().map(|slice| self.manifest.at(slice.id.0)).collect::<Result<Vec<_>>>()?;
        let (bytes, crc32c) = match group.method {
            // What the listing says of an empty object is all there is to prove.
            Method::Empty => Ok((Bytes::new(), None)),
            Method::Direct => self.read(&self.manifest.id(&entries[0]), entries[0].size, number).await,
            Method::Composed => self.composed(&group, &entries, number).await,
        }
        .map_err(|error| error.stage(Stage::Fetch))?;
        Ok(Payload { group, entries, bytes, crc32c })
    }

    /// Whether composing is still worth a try.
    pub(crate) fn may_compose(&self) -> bool {
        !self.compose.off.load(Ordering::Relaxed) && !self.run.has_failed()
    }

    /// Gives temporaries leases that last for all that may be done with them, for want of the right to renew any. Takes
    /// effect with the next epoch.
    pub(crate) fn never_renew(&mut self) {
        self.renewable = false;
    }

    /// Composes no more, and says why, once.
    pub(crate) fn stop_composing(&self, why: &str) {
        if !self.compose.off.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                bucket = &*self.manifest.prefix().bucket,
                "{why}, so every object is read by itself: slower and dearer for small objects; grant \
                 storage.objects.create and storage.objects.delete (role Storage Object User), or choose \
                 Strategy::Direct to silence this"
            );
        }
    }

    async fn read(&self, id: &ObjectId, size: u64, number: u64) -> Result<Read> {
        let slot = self.throttles.reads.acquire(number).await;
        self.throttles.serves(number);
        // In a box, since thousands wait for their turn, and a read under way is large.
        let read = Box::pin(self.client.watched(slot.watch()).read(id, None, size)).await?;
        slot.done(read.bytes.len() as u64);
        Ok((read.bytes, read.crc32c))
    }

    async fn composed(&self, group: &Group, entries: &[Entry], number: u64) -> Result<Read> {
        if self.compose.deletable.load(Ordering::Acquire) {
            return self.compose_and_read(group, entries, number).await;
        }
        let proving = self.compose.proving.lock().await;
        if self.compose.deletable.load(Ordering::Acquire) {
            drop(proving);
            return self.compose_and_read(group, entries, number).await;
        }
        let read = self.compose_and_read(group, entries, number).await;
        if read.is_ok() && self.run.settled(FIRST_DELETION).await && !self.run.has_failed() {
            self.compose.deletable.store(true, Ordering::Release);
        }
        read
    }

    async fn compose_and_read(&self, group: &Group, entries: &[Entry], number: u64) -> Result<Read> {
        if self.run.has_failed() {
            self.stop_composing("a temporary object could not be deleted");
        }
        if !self.may_compose() {
            return Err(Error::new(ErrorKind::PermissionDenied, "composing was found not to work here"));
        }
        let temporary = match self.compose(group, entries, number).await {
            Ok(temporary) => temporary,
            Err(error) => {
                if error.kind() == ErrorKind::PermissionDenied {
                    self.stop_composing(&format!("composing is refused ({error})"));
                } else if self.compose.failures.fetch_add(1, Ordering::Relaxed) + 1 >= FAILURES {
                    self.stop_composing(&format!("composing failed {FAILURES} times in a row, last with: {error}"));
                }
                return Err(error);
            }
        };
        self.compose.failures.store(0, Ordering::Relaxed);
        self.client.metrics().bytes_composed.fetch_add(group.bytes(), Ordering::Relaxed);
        let read = self.read(temporary.id(), group.bytes(), number);
        temporary.hold(&self.client, read).await
    }

    async fn compose(&self, group: &Group, entries: &[Entry], number: u64) -> Result<Temporary> {
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
            self.run.temporary_name(self.compose.real_folders),
            sources,
            group.bytes(),
            crc32c,
            SystemTime::now(),
        );
        self.throttles.serves(number);
        self.run.compose(&self.client, &self.io, &self.throttles.writes, number, request).await
    }
}
