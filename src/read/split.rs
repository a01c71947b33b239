//! Payloads cut into samples, each proved against the CRC that was listed. Nothing is copied.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{GroupPayload, ProvedSamples};
use crate::manifest::{Entry, Manifest};
use crate::sample::SampleId;
use crate::{Error, ErrorKind, Result, Stage};

/// One object's bytes as stored, before decoding.
///
/// Cheap to clone. Of a composed download all samples share one buffer, which lives as long as any of them, and of a
/// [`MemoryStore`](crate::store::MemoryStore) all of a data set may: to keep a few samples of many for long, copy their
/// bytes.
#[derive(Clone)]
pub struct RawSample {
    origin: Arc<Origin>,
    id: SampleId,
    /// Looked up when it is asked for, if nobody needed it before.
    entry: OnceLock<Box<Entry>>,
    /// Its own; else those of its origin.
    bytes: Option<Bytes>,
    verified: bool,
}

/// What is true of every sample since it was made.
const HAS_BYTES: &str = "a sample has bytes, or its origin has them";

/// What samples that are read together share, so that not all samples of all threads count the owners of one manifest.
#[derive(Debug)]
pub(crate) struct Origin {
    manifest: Arc<Manifest>,
    proved: Option<Arc<ProvedSamples>>,
}

impl Origin {
    pub(crate) fn new(manifest: &Arc<Manifest>) -> Arc<Self> {
        Arc::new(Self { manifest: Arc::clone(manifest), proved: None })
    }

    /// Of samples whose bytes are these.
    pub(crate) fn proved(manifest: &Arc<Manifest>, proved: Arc<ProvedSamples>) -> Arc<Self> {
        Arc::new(Self { manifest: Arc::clone(manifest), proved: Some(proved) })
    }

    fn bytes(&self, id: SampleId) -> Option<&Bytes> {
        self.proved.as_ref()?.get(id)
    }
}

impl RawSample {
    /// A sample whose bytes were proved where they were. Its entry is looked up when it is asked for, if it isn't given.
    pub(crate) fn proved(origin: &Arc<Origin>, id: SampleId, entry: Option<Entry>, bytes: Bytes) -> Self {
        let entry = entry.map_or_else(OnceLock::new, |entry| Box::new(entry).into());
        Self { origin: Arc::clone(origin), id, entry, bytes: Some(bytes), verified: true }
    }

    /// A sample whose bytes are those of its origin, which has them. Nobody is counted as another owner of them: each
    /// count lies somewhere else in memory, as far away as the bytes.
    pub(crate) fn of_origin(origin: &Arc<Origin>, id: SampleId) -> Self {
        Self { origin: Arc::clone(origin), id, entry: OnceLock::new(), bytes: None, verified: true }
    }

    /// The sample's index in the manifest.
    pub fn id(&self) -> SampleId {
        self.id
    }

    /// The object's whole name.
    pub fn name(&self) -> &str {
        &self.entry().name
    }

    /// What the listing told of the object. One without a name where the manifest's file was written to since the sample
    /// was read.
    pub fn entry(&self) -> &Entry {
        self.entry.get_or_init(|| Box::new(self.origin.manifest.get(self.id.0).unwrap_or_default()))
    }

    /// The manifest this is a sample of.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.origin.manifest
    }

    /// The bytes as stored; an object with a `Content-Encoding` is still encoded.
    pub fn bytes(&self) -> &Bytes {
        self.bytes.as_ref().or_else(|| self.origin.bytes(self.id)).expect(HAS_BYTES)
    }

    /// The bytes, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.bytes.or_else(|| self.origin.bytes(self.id).cloned()).expect(HAS_BYTES)
    }

    /// Whether the bytes were proved by a CRC; not so only where the server tells none at all.
    pub fn verified(&self) -> bool {
        self.verified
    }
}

impl fmt::Debug for RawSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawSample")
            .field("id", &self.id)
            .field("name", &self.name())
            .field("bytes", &self.bytes().len())
            .finish_non_exhaustive()
    }
}

/// Cuts a payload into its samples, with the slot of each.
///
/// # Errors
/// [`ErrorKind::Integrity`] for the first sample whose bytes don't have the CRC that was listed.
pub(crate) fn split(manifest: &Arc<Manifest>, payload: GroupPayload) -> Result<Vec<(usize, RawSample)>> {
    let GroupPayload { group, entries, bytes, crc32c, computed } = payload;
    if bytes.len() as u64 != group.bytes() {
        return Err(Error::new(ErrorKind::Integrity, "the download has the wrong length")
            .stage(Stage::Split)
            .mismatch(format_args!("{} bytes", group.bytes()), bytes.len()));
    }
    // The server's word for the CRC of a whole object serves where the listing had none, but never instead of it.
    let alone = group.slices.len() == 1;
    let told = if alone { crc32c } else { None };
    let origin = Origin::new(manifest);
    group
        .slices
        .into_iter()
        .zip(entries)
        .map(|(slice, entry)| {
            let bytes = bytes.slice(slice.range.start as usize..slice.range.end as usize);
            let wanted = entry.crc32c.or(told);
            if let Some(wanted) = wanted {
                let got = computed.filter(|_| alone).unwrap_or_else(|| crc32c::crc32c(&bytes));
                if wanted != got {
                    return Err(Error::new(ErrorKind::Integrity, "the bytes read are not those that were listed")
                        .stage(Stage::Split)
                        .object(manifest.id(&entry))
                        .mismatch(format_args!("crc32c {wanted:08x}"), format_args!("{got:08x}"))
                        .hint(
                            "something between here and the bucket damages data, or the listing is not of this bucket",
                        ));
                }
            }
            let (origin, entry, verified) = (Arc::clone(&origin), Box::new(entry).into(), wanted.is_some());
            Ok((slice.slot, RawSample { origin, id: slice.id, entry, bytes: Some(bytes), verified }))
        })
        .collect()
}
