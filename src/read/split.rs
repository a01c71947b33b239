//! Payloads cut into samples, each proved against the CRC that was listed. Nothing is copied.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::GroupPayload;
use crate::manifest::{Entry, Manifest};
use crate::sample::SampleId;
use crate::{Error, ErrorKind, Result, Stage};

/// One object's bytes as stored, before decoding.
///
/// Cheap to clone. Of a composed download all samples share one buffer, which lives as long as any of them: to keep a few
/// samples of many for long, copy their bytes.
#[derive(Clone)]
pub struct RawSample {
    origin: Arc<Origin>,
    id: SampleId,
    entry: Box<Entry>,
    bytes: Bytes,
    verified: bool,
}

/// What samples that are read together share, so that not all samples of all threads count the owners of one manifest.
#[derive(Debug)]
pub(crate) struct Origin {
    manifest: Arc<Manifest>,
}

impl Origin {
    pub(crate) fn new(manifest: &Arc<Manifest>) -> Arc<Self> {
        Arc::new(Self { manifest: Arc::clone(manifest) })
    }
}

impl RawSample {
    /// A sample whose bytes were verified where they were read.
    pub(crate) fn verified_before(origin: &Arc<Origin>, id: SampleId, entry: Entry, bytes: Bytes) -> Self {
        Self { origin: Arc::clone(origin), id, entry: Box::new(entry), bytes, verified: true }
    }

    /// The sample's index in the manifest.
    pub fn id(&self) -> SampleId {
        self.id
    }

    /// The object's whole name.
    pub fn name(&self) -> &str {
        &self.entry().name
    }

    /// What the listing told of the object.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The manifest this is a sample of.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.origin.manifest
    }

    /// The bytes as stored; an object with a `Content-Encoding` is still encoded.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The bytes, without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
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
            let (origin, entry, verified) = (Arc::clone(&origin), Box::new(entry), wanted.is_some());
            Ok((slice.slot, RawSample { origin, id: slice.id, entry, bytes, verified }))
        })
        .collect()
}
