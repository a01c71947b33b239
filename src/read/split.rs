//! Cuts payloads into samples, and proves each against its listed CRC32C. Nothing is copied.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::fetcher::{GroupPayload, ObjectSum};
use crate::manifest::{Entry, Location, Manifest};
use crate::sample::{EpochPlace, SampleId};
use crate::{Error, ErrorKind, Result, Stage};

/// One sample's bytes as stored, before decoding: those of an object, or of [several](Self::parts).
///
/// Cheap to clone. All samples of a composed read share one buffer, and so do small files that are read together; it
/// lives as long as any of them. To keep a few samples for long, copy their bytes.
#[derive(Clone)]
pub struct RawSample {
    origin: Arc<Origin>,
    id: SampleId,
    place: EpochPlace,
    location: Box<Location>,
    /// The bytes of the first part.
    bytes: Bytes,
    /// The bytes of all parts, if there are several.
    all_parts: Option<Box<Bytes>>,
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
    /// A sample whose bytes were verified where they were read. These are the bytes of all its parts.
    pub(crate) fn verified_before(origin: &Arc<Origin>, id: SampleId, location: Location, bytes: Bytes) -> Self {
        Self::new(Arc::clone(origin), id, location, bytes, true)
    }

    /// A sample whose bytes are proved here, if the listing has a checksum of them.
    pub(super) fn proved(origin: &Arc<Origin>, id: SampleId, location: Location, bytes: Bytes) -> Result<Self> {
        let verified = prove(&origin.manifest, &location, &bytes, &mut std::iter::empty())?;
        Ok(Self::new(Arc::clone(origin), id, location, bytes, verified))
    }

    fn new(origin: Arc<Origin>, id: SampleId, location: Location, bytes: Bytes, verified: bool) -> Self {
        let (location, place) = (Box::new(location), EpochPlace::default());
        if location.parts.is_empty() {
            return Self { origin, id, place, location, bytes, all_parts: None, verified };
        }
        let first = bytes.slice(..location.object.size as usize);
        Self { origin, id, place, location, bytes: first, all_parts: Some(Box::new(bytes)), verified }
    }

    /// Sets where in an epoch the sample stands. Whoever reads a sample doesn't know that.
    pub(crate) fn set_place(&mut self, place: EpochPlace) {
        self.place = place;
    }

    /// The sample's index in the manifest.
    pub fn id(&self) -> SampleId {
        self.id
    }

    /// The object's full name; of several parts, the first one's.
    pub fn name(&self) -> &str {
        &self.entry().name
    }

    /// The listing's entry of the object; of several parts, of the first one.
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

    /// The bytes as stored; an object with a `Content-Encoding` is still encoded. Of several parts, these are the bytes
    /// of the first one.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The [`bytes`](Self::bytes), without a copy.
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// The same sample with other bytes. For `tests/fuzz`; not part of the API.
    #[doc(hidden)]
    #[must_use]
    pub fn with_bytes(self, bytes: Bytes) -> Self {
        Self { bytes, ..self }
    }

    /// The bytes of all parts, end to end.
    pub(crate) fn all_bytes(&self) -> &Bytes {
        self.all_parts.as_deref().unwrap_or(&self.bytes)
    }

    /// Number of objects that make the sample: 1, unless the data set was given [`Parts`](crate::Parts).
    pub fn part_count(&self) -> usize {
        1 + self.location.parts.len()
    }

    /// The sample's part with this number, counted from 0 in the order of [`Parts`](crate::Parts); `None` if there are
    /// fewer. It is a sample of one object, with that object's name and bytes, and with the id, the place in the epoch
    /// and the label of the whole. Nothing is copied.
    pub fn part(&self, number: usize) -> Option<Self> {
        let Self { id, place, verified, .. } = *self;
        let Some(number) = number.checked_sub(1) else {
            let (origin, bytes) = (Arc::clone(&self.origin), self.bytes.clone());
            let location = Box::new(self.location.first());
            return Some(Self { origin, id, place, location, bytes, all_parts: None, verified });
        };
        let object = self.location.parts.get(number)?.object.clone();
        let start: u64 = self.location.sizes().take(number + 1).sum();
        let bytes = self.all_bytes().slice(start as usize..(start + object.size) as usize);
        let (origin, location) = (Arc::clone(&self.origin), Box::new(Location::whole(object)));
        Some(Self { origin, id, place, location, bytes, all_parts: None, verified })
    }

    /// The parts of the sample: see [`part`](Self::part). A sample of one object is its own only part.
    ///
    /// ```
    /// use dataflux::RawSample;
    ///
    /// // Of Parts::of("{}.jpg").and("{}.txt"): the image as stored, and its caption.
    /// let decode = |sample: RawSample| -> anyhow::Result<(Vec<u8>, String)> {
    ///     let parts: Vec<RawSample> = sample.parts().collect();
    ///     let [image, caption] = &parts[..] else { anyhow::bail!("{} parts instead of two", parts.len()) };
    ///     Ok((image.bytes().to_vec(), std::str::from_utf8(caption.bytes())?.to_owned()))
    /// };
    /// # fn check(_: impl dataflux::Decode<Item = (Vec<u8>, String)>) {}
    /// # check(decode);
    /// ```
    pub fn parts(&self) -> impl ExactSizeIterator<Item = Self> + '_ {
        (0..self.part_count()).map(|number| self.part(number).expect("it has as many parts"))
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
/// [`ErrorKind::Integrity`] for the first object whose bytes don't have the CRC that was listed.
pub(crate) fn split(manifest: &Arc<Manifest>, payload: GroupPayload) -> Result<Vec<(usize, RawSample)>> {
    let GroupPayload { group, locations, bytes, sums } = payload;
    if bytes.len() as u64 != group.bytes() {
        return Err(Error::new(ErrorKind::Integrity, "the download has the wrong length")
            .stage(Stage::Split)
            .mismatch(format_args!("{} bytes", group.bytes()), bytes.len()));
    }

    let origin = Origin::new(manifest);
    let mut sums = sums.into_iter();
    let samples = group.slices.into_iter().zip(locations).map(|(slice, location)| {
        let bytes = bytes.slice(slice.range.start as usize..slice.range.end as usize);
        let verified = prove(manifest, &location, &bytes, &mut sums)?;
        Ok((slice.slot, RawSample::new(Arc::clone(&origin), slice.id, location, bytes, verified)))
    });
    samples.collect()
}

/// Proves the bytes of a sample, object by object, by what their reads found, in order, or else by hashing them.
/// Returns whether all of them could be proved: not where neither the listing nor the service has a CRC.
fn prove(
    manifest: &Manifest,
    location: &Location,
    bytes: &[u8],
    sums: &mut impl Iterator<Item = ObjectSum>,
) -> Result<bool> {
    let (mut verified, mut rest) = (true, bytes);
    for (number, (object, size)) in location.entries().zip(location.sizes()).enumerate() {
        let (own, behind) = rest.split_at(size as usize);
        rest = behind;
        // Empty objects aren't read, so there is no sum of them.
        let sum = if own.is_empty() { None } else { sums.next() };
        let is_whole = location.range.is_none();
        // The CRC that the server sent for a whole object serves if the listing has none, but never instead of it.
        let sent = sum.and_then(|sum| sum.sent);
        let Some(wanted) = object.crc32c.or(sent).filter(|_| is_whole) else {
            verified = false;
            continue;
        };
        let got = sum.map_or_else(|| crc32c::crc32c(own), |sum| sum.computed);
        if wanted != got {
            let error = Error::new(ErrorKind::Integrity, "the bytes read are not those that were listed")
                .stage(Stage::Split)
                .mismatch(format_args!("crc32c {wanted:08x}"), format_args!("{got:08x}"))
                .hint("something between here and the bucket damages data, or the listing is not of this bucket");
            return Err(manifest.objects(location).nth(number).map_or(error.clone(), |(id, _)| error.object(id)));
        }
    }
    Ok(verified)
}
