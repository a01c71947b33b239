//! Groups to payloads: composed and direct reads, and the temporary objects of the former.

mod clean;
mod process;
mod temporary;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use bytes::Bytes;

use crate::crc;
use crate::io::Io;
use crate::manifest::Manifest;
use crate::plan::{Group, Method};
use crate::store::{Client, ComposeRequest};
use crate::{Error, ErrorKind, Result, Stage};

pub use clean::{Cleaned, clean, count_own_temporaries};
pub use process::clean_up_on_signals;
pub(crate) use temporary::Run;
pub use temporary::{Leftover, wait_for_temporaries};

/// The bytes of a group, in the order of its slices.
#[derive(Debug)]
pub struct Payload {
    /// What was asked for.
    pub group: Group,
    /// All its bytes.
    pub bytes: Bytes,
    /// CRC of the whole payload, where the server told it.
    pub crc32c: Option<u32>,
}

/// Reads groups of one data set.
#[derive(Debug)]
pub(crate) struct Fetcher {
    client: Client,
    manifest: Arc<Manifest>,
    io: Arc<Io>,
    run: Arc<Run>,
    /// Set when the bucket refuses a compose for want of rights; said once, and then no more are tried.
    refused: AtomicBool,
}

impl Fetcher {
    pub(crate) fn new(client: Client, manifest: Arc<Manifest>, io: Arc<Io>) -> Self {
        Self { client, manifest, io, run: Run::new(), refused: AtomicBool::new(false) }
    }

    /// The run that temporaries of this fetcher belong to.
    pub(crate) fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// Reads a group as planned. A composed read that fails may still be read object by object.
    ///
    /// # Cancel safety
    /// Dropping the future hands a temporary that exists, or may come to exist, to the reaper.
    pub(crate) async fn fetch(&self, group: Group) -> Result<Payload> {
        match group.method {
            Method::Empty => Ok(Payload { group, bytes: Bytes::new(), crc32c: Some(0) }),
            Method::Direct => self.direct(group).await,
            Method::Composed => self.composed(group).await,
        }
        .map_err(|error| error.stage(Stage::Fetch))
    }

    /// Whether composing is still worth a try.
    pub(crate) fn may_compose(&self) -> bool {
        !self.refused.load(Ordering::Relaxed)
    }

    async fn direct(&self, group: Group) -> Result<Payload> {
        let entry = self.manifest.get(group.slices[0].id.0).expect("the plan was made from this manifest");
        let read = self.client.read(&self.manifest.id(&entry), None, entry.size).await?;
        Ok(Payload { group, bytes: read.bytes, crc32c: read.crc32c })
    }

    async fn composed(&self, group: Group) -> Result<Payload> {
        let prefix = self.manifest.prefix();
        let mut sources = Vec::with_capacity(group.slices.len());
        let mut crc32c = 0;
        for slice in &group.slices {
            let entry = self.manifest.get(slice.id.0).expect("the plan was made from this manifest");
            let listed = entry.crc32c.ok_or_else(|| {
                Error::new(ErrorKind::Internal, "an object without a listed CRC was planned into a composed read")
                    .object(self.manifest.id(&entry))
            })?;
            crc32c = crc::combine(crc32c, listed, entry.size);
            sources.push((Arc::from(entry.name), entry.generation));
        }
        let request = ComposeRequest::new(
            Arc::clone(&prefix.bucket),
            self.run.temporary_name(),
            sources,
            group.bytes(),
            crc32c,
            SystemTime::now(),
        );
        let temporary = self.run.compose(&self.client, &self.io, request).await.inspect_err(|error| {
            if error.is_permission() && !self.refused.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    bucket = &*prefix.bucket,
                    %error,
                    "composing is refused, so every object is read by itself: slower and dearer for small objects; \
                     grant storage.objects.create and storage.objects.delete (role Storage Object User), or choose \
                     Strategy::Direct to silence this"
                );
            }
        })?;
        self.client.metrics().bytes_composed.fetch_add(group.bytes(), Ordering::Relaxed);
        let read = self.client.read(temporary.id(), None, group.bytes()).await?;
        Ok(Payload { group, bytes: read.bytes, crc32c: read.crc32c })
    }
}
