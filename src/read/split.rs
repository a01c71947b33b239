//! Cuts payloads into samples, and proves each against its listed CRC32C. Nothing is copied.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::fetcher::GroupPayload;
use crate::manifest::{Entry, Location, Manifest};
use crate::sample::{EpochPlace, SampleId};
use crate::{Error, ErrorKind, Result, Stage};

/// One object's bytes as stored, before decoding.
///
/// Cheap to clone. All samples of a composed read share one buffer, which lives as long as any of them. To keep a few
/// samples for long, copy their bytes.
#[derive(Clone)]
pub struct RawSample {
    origin: Arc<Origin>,
    id: SampleId,
    place: EpochPlace,
    location: Box<Location>,
    bytes: Bytes,
    verified: bool,
}

/// What samples that are read together share. With one for each group, decode threads don't contend for the reference
/// count of the manifest.
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
    pub(crate) fn verified_before(origin: &Arc<Origin>, id: SampleId, location: Location, bytes: Bytes) -> Self {
        let (origin, place) = (Arc::clone(origin), EpochPlace::default());
        Self { origin, id, place, location: Box::new(location), bytes, verified: true }
    }

    /// Sets where in an epoch the sample stands. Whoever reads a sample doesn't know that.
    pub(crate) fn set_place(&mut self, place: EpochPlace) {
        self.place = place;
    }

    /// The sample's index in the manifest.
    pub fn id(&self) -> SampleId {
        self.id
    }

    /// The object's full name.
    pub fn name(&self) -> &str {
        &self.entry().name
    }

    /// The listing's entry of the object.
    pub fn entry(&self) -> &Entry {
        &self.location.object
    }

    /// Where the bytes lie.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The manifest that the sample belongs to.
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

    /// The same sample with other bytes. For `tests/fuzz`; not part of the API.
    #[doc(hidden)]
    #[must_use]
    pub fn with_bytes(self, bytes: Bytes) -> Self {
        Self { bytes, ..self }
    }

    /// The epoch that the sample is delivered in, counted from 0. In a [mixture](crate::MixedLoader) it is the epoch of
    /// the loader that the sample is from, which may be ahead of or behind that of the mixture. It is 0 if
    /// [`DatafluxDataset::get`] read the sample.
    ///
    /// [`DatafluxDataset::get`]: crate::DatafluxDataset::get
    pub fn epoch(&self) -> u64 {
        self.place.epoch
    }

    /// The position of the sample in the global order of [its epoch](Self::epoch), counted from 0 over all ranks.
    /// Samples that only [fill up](crate::DataLoaderBuilder::pad_last) the last batch have positions behind the end of
    /// the order. A [substitute](crate::OnError::Substitute) has the position of the sample that it replaces.
    pub fn position(&self) -> u64 {
        self.place.position
    }

    /// A seed for the random numbers that a decoder augments this sample with. It is a function of the sampler, which
    /// includes the seed of the shuffle, the epoch and the [`id`](Self::id). So a sample gets the same augmentation at
    /// any number of threads and ranks and after a resume, and another one in each epoch. See the [cookbook].
    ///
    /// Runs that differ in nothing that a sampler knows, such as two runs in order of names, get the same seeds: mix in
    /// one of your own, if that is not what you want. A sampler that repeats a sample within an epoch, such as
    /// [`Weighted`](crate::Weighted), gives it the same seed each time: mix in [`position`](Self::position).
    ///
    /// [cookbook]: crate::guide::cookbook#augment
    pub fn rng_seed(&self) -> u64 {
        self.place.rng_seed(self.id)
    }

    /// Whether the bytes were proved by a CRC32C. This is false only if neither the listing nor the service has one.
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

/// Cuts a payload into its samples, each with its slot in the batch.
///
/// # Errors
/// [`ErrorKind::Integrity`] for the first sample whose bytes don't have the CRC that was listed.
pub(crate) fn split(manifest: &Arc<Manifest>, payload: GroupPayload) -> Result<Vec<(usize, RawSample)>> {
    let GroupPayload { group, locations, bytes, crc32c, computed } = payload;
    if bytes.len() as u64 != group.bytes() {
        return Err(Error::new(ErrorKind::Integrity, "the download has the wrong length")
            .stage(Stage::Split)
            .mismatch(format_args!("{} bytes", group.bytes()), bytes.len()));
    }

    // The CRC that the server sent for a whole object serves if the listing has none, but never instead of it.
    let is_single = group.slices.len() == 1;
    let sent = if is_single { crc32c } else { None };
    let origin = Origin::new(manifest);
    group
        .slices
        .into_iter()
        .zip(locations)
        .map(|(slice, location)| {
            let bytes = bytes.slice(slice.range.start as usize..slice.range.end as usize);
            let wanted = location.crc32c().or(sent.filter(|_| location.range.is_none()));
            if let Some(wanted) = wanted {
                let got = computed.filter(|_| is_single).unwrap_or_else(|| crc32c::crc32c(&bytes));
                if wanted != got {
                    return Err(Error::new(ErrorKind::Integrity, "the bytes read are not those that were listed")
                        .stage(Stage::Split)
                        .object(manifest.id(&location.object))
                        .mismatch(format_args!("crc32c {wanted:08x}"), format_args!("{got:08x}"))
                        .hint(
                            "something between here and the bucket damages data, or the listing is not of this bucket",
                        ));
                }
            }
            let (origin, location, verified) = (Arc::clone(&origin), Box::new(location), wanted.is_some());
            let place = EpochPlace::default();
            Ok((slice.slot, RawSample { origin, id: slice.id, place, location, bytes, verified }))
        })
        .collect()
}
