//! The data set: the objects of a listing, read and decoded as samples by index.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::notices::{
    log_images_listed, log_labelled_images_listed, log_unlabelled, warn_of_incomplete, warn_of_labels,
    warn_of_left_out, warn_of_unlabelled,
};
use crate::collate::Collate;
use crate::decode::{Collated, Decode, Raw};
use crate::engine::bucket::read_alone;
use crate::engine::sample_code::{guarded, refused};
use crate::io::Io;
use crate::labels::{LabelTable, Labels, RowPresence, Unlabelled, log_unmatched};
use crate::manifest::{ClassMap, Manifest, Parts, StreamingListing};
use crate::pacing::{BucketGates, CallCaps, Ceilings};
use crate::plan::{Group, MIN_RANGED, Slice};
use crate::read::Fetcher;
use crate::sample::{EpochPlace, SampleId, Sampler, Sequential};
use crate::store::{BucketInfo, Client};
use crate::{Error, ErrorKind, Result, Stage};

/// The objects below a prefix, listed once, as samples by index.
///
/// A sample in a folder directly below the prefix has a label, the number of that folder. Data sets that are used
/// together need the same numbers, whatever folders each of them has: see [`classes_from`](Self::classes_from).
///
/// ```no_run
/// use dataflux::{DatafluxDataset, ImageFolder};
///
/// let dataset = DatafluxDataset::open("gs://my-bucket/train/")?.decode(ImageFolder::new().resize(224, 224));
/// println!("{} images of {} classes", dataset.len(), dataset.manifest().labels().len());
/// let first = dataset.get(0)?;
/// println!("{}: class {}, {:?}", first.name, first.label, first.bitmap);
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Debug)]
pub struct DatafluxDataset<D = Raw> {
    pub(crate) source: Arc<DatasetSource>,
    pub(crate) decode: Arc<D>,
    /// Bytes of memory that an item takes, if the user stated them.
    pub(crate) item_bytes: Option<u64>,
}

/// What all handles of a data set share, whatever their decoders are.
#[derive(Clone, Debug)]
pub(crate) struct DatasetSource {
    pub(crate) client: Client,
    /// The samples.
    pub(crate) manifest: Arc<Manifest>,
    /// The same samples, with labels numbered in byte order of their names instead of by `classes`, or by the list that
    /// the manifest was saved with.
    unnumbered: Arc<Manifest>,
    /// Whether objects that are no images were left out.
    only_images: bool,
    /// Whether the decoder fails for samples without a label.
    wants_labels: bool,
    classes: Option<Arc<ClassMap>>,
    /// The listing, if it may still be under way.
    streaming: Option<StreamingListing>,
    pub(crate) bucket: BucketInfo,
    /// Shared by all readers of the data set, so that each learns from what the bucket refused to the others.
    pub(crate) gates: Arc<BucketGates>,
    pub(crate) notices: Arc<GivenNotices>,
}

/// Notices that were logged for a data set, so that each is logged once.
#[derive(Debug, Default)]
pub(crate) struct GivenNotices {
    /// That composing costs more here.
    pub(crate) cost: AtomicBool,
    /// That ranks which list for themselves may see different data.
    pub(crate) ranks: AtomicBool,
    /// What the store lacks.
    pub(crate) lacks: AtomicBool,
    /// Which objects are no images.
    images: AtomicBool,
    /// That the labels are doubtful.
    labels: AtomicBool,
}

impl DatasetSource {
    /// The same data set with labels numbered by `classes`, and, if `only_images`, without objects that are no images.
    fn relabelled(&self, only_images: bool, classes: Option<Arc<ClassMap>>) -> Result<Self> {
        let mut streaming = self.streaming.clone().filter(|_| self.unnumbered.is_growing());
        let unnumbered = match &mut streaming {
            // Users may already hold what the running listing has delivered, so it can't be changed. A new listing
            // begins.
            Some(listing) => {
                listing.classes.clone_from(&classes);
                if only_images {
                    listing.filter = listing.filter.clone().images();
                    listing.ended = if self.wants_labels { log_labelled_images_listed } else { log_images_listed };
                }
                Arc::new(listing.begin(Io::shared()?.handle()).0)
            }
            None if only_images && !self.only_images => {
                let (images, found) = self.unnumbered.images()?;
                if !self.notices.images.swap(true, Ordering::Relaxed) {
                    warn_of_left_out(&images, &found);
                }
                images
            }
            None => Arc::clone(&self.unnumbered),
        };
        let manifest = match &classes {
            Some(classes) if streaming.is_none() => Arc::new(unnumbered.with_classes(classes)?),
            _ => Arc::clone(&unnumbered),
        };
        Ok(Self { manifest, unnumbered, only_images, classes, streaming, ..self.clone() })
    }

    /// The same data set with other samples or labels, which `change` makes of the complete listing.
    fn changed(&self, change: impl FnOnce(&Arc<Manifest>) -> Result<Arc<Manifest>>) -> Result<Self> {
        self.unnumbered.complete()?;
        // A list that was saved with the manifest numbers the new labels, too.
        let classes = match &self.classes {
            Some(classes) => Some(Arc::clone(classes)),
            None => self.unnumbered.class_list()?.map(Arc::new),
        };
        let unnumbered = change(&self.unnumbered)?;
        let manifest = match &classes {
            Some(classes) => Arc::new(unnumbered.with_classes(classes)?),
            None => Arc::clone(&unnumbered),
        };
        Ok(Self { manifest, unnumbered, classes, streaming: None, ..self.clone() })
    }

    /// Warns once of samples without a label, and of labels that are probably not the intended ones, before a decoder
    /// uses labels. Does nothing while a listing is running, or if the labels aren't those of folders.
    pub(crate) fn warn_of_labels(&self) {
        let is_running = self.unnumbered.is_growing();
        if is_running || self.unnumbered.has_given_labels() || self.notices.labels.swap(true, Ordering::Relaxed) {
            return;
        }
        warn_of_unlabelled(&self.manifest);
        warn_of_labels(&self.manifest);
    }
}

/// A data set of raw samples.
pub(super) fn new_dataset(
    client: Client,
    manifest: Arc<Manifest>,
    streaming: Option<StreamingListing>,
    bucket: BucketInfo,
) -> DatafluxDataset {
    let gates = BucketGates::new(CallCaps::default());
    DatafluxDataset {
        source: Arc::new(DatasetSource {
            client,
            unnumbered: Arc::clone(&manifest),
            manifest,
            only_images: false,
            wants_labels: false,
            classes: None,
            streaming,
            bucket,
            gates,
            notices: Arc::default(),
        }),
        decode: Arc::new(Raw),
        item_bytes: None,
    }
}

/// The objects of the data set, for [`Parts::and_in`] and [`DatafluxDataset::from_manifest`].
impl<D> From<&DatafluxDataset<D>> for Arc<Manifest> {
    fn from(dataset: &DatafluxDataset<D>) -> Self {
        Arc::clone(dataset.manifest())
    }
}

impl DatafluxDataset<Raw> {
    /// Makes each sample of several objects: an image and its mask, for example. [`Parts`] says which belong together.
    /// Together they are one position in the order, with one id, and one read if they can be composed: of the 32
    /// sources of a composed object, a sample then takes as many as it has parts. A sample that can't be composed is
    /// read by a call for each part, all at once.
    ///
    /// The order, the names and the labels are those of the first parts, which are the objects of the
    /// [manifest](Self::manifest). The sizes and checksums of all parts are in its [digest](Manifest::digest). A
    /// decoder gets [all parts](crate::RawSample::parts) of a sample, a tuple of decoders decodes each part by its own,
    /// and [`ImageFolder::with_mask`](crate::ImageFolder::with_mask) decodes an image with its mask. If a part can't be
    /// read, the sample is lost, as [`OnError`](crate::OnError) says.
    ///
    /// Call this before [`decode`](Self::decode), since a decoder of images leaves out what is no image, and before or
    /// after [`classes`](Self::classes) and [`label_by`](Self::label_by); if only the first parts have labels,
    /// `label_by` comes after it. It waits for the end of the listing, also of a
    /// [streaming](crate::DatasetBuilder::streaming) data set. It looks at each name once for each part, and takes four
    /// bytes of memory for each further part of a sample, beside the listing.
    ///
    /// ```no_run
    /// use dataflux::{DatafluxDataset, MissingParts, Parts, Raw, Text};
    ///
    /// let parts = Parts::of("{}.jpg").and("{}.txt").missing(MissingParts::Skip);
    /// let pairs = DatafluxDataset::open("gs://my-bucket/train/")?.parts(parts)?;
    /// println!("{} pairs; left out: {}", pairs.len(), pairs.manifest().left_out());
    /// let pairs = pairs.decode((Raw, Text::new()));
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// # Errors
    /// A sample lacks a part, unless they are [skipped](crate::MissingParts); no object matches the first pattern; a
    /// pattern can't be one, or comes twice; a listing failed; the samples have several parts already.
    #[expect(clippy::needless_pass_by_value, reason = "callers make their parts in place")]
    pub fn parts(self, parts: Parts) -> Result<Self> {
        let source = self.source.changed(|manifest| {
            let (samples, found) = manifest.with_parts(&parts)?;
            warn_of_incomplete(&samples, &found);
            Ok(Arc::new(samples))
        })?;
        Ok(Self { source: Arc::new(source), ..self })
    }
}

impl<D> Clone for DatafluxDataset<D> {
    fn clone(&self) -> Self {
        let (source, decode) = (Arc::clone(&self.source), Arc::clone(&self.decode));
        Self { source, decode, item_bytes: self.item_bytes }
    }
}

impl<D> DatafluxDataset<D> {
    /// The same samples, decoded by `decode`. A decoder of [images](Decode::wants_images), such as
    /// [`ImageFolder`](crate::ImageFolder), leaves out objects whose names are not those of images:
    /// [`Manifest::left_out`] counts them, and one log line reports them. Folders that are left without samples are no
    /// labels any more, so that labels may get other numbers unless a list of [classes](Self::classes) was set, here or
    /// before the manifest was saved, and the [digest](Manifest::digest) is that of the images: read both after this
    /// call. A data set without anything to leave out stays unchanged. This looks at each name once. Where it fails,
    /// for example because there is no image, the error is returned when a sample is needed.
    #[must_use]
    pub fn decode<E: Decode>(self, decode: E) -> DatafluxDataset<E> {
        let mut source = DatasetSource { wants_labels: decode.wants_labels(), ..DatasetSource::clone(&self.source) };
        if decode.wants_images() && !source.only_images {
            source = source.relabelled(true, source.classes.clone()).unwrap_or_else(|error| {
                let failed = Arc::new(Manifest::failed(source.manifest.prefix().clone(), error));
                DatasetSource { manifest: Arc::clone(&failed), unnumbered: failed, only_images: true, ..source }
            });
        }
        DatafluxDataset { source: Arc::new(source), decode: Arc::new(decode), item_bytes: None }
    }

    /// The same samples, with labels from elsewhere than their folders: from a pattern of their names, a table, or a
    /// closure; see [`Labels`]. Samplers, weights, [splits](crate::Subset::split_by_label) and decoders then use these.
    ///
    /// Labels are numbered in byte order unless a list of [classes](Self::classes) numbers them, which was set here or
    /// before the manifest was saved. They are part of the [digest](Manifest::digest), so a run isn't resumed with
    /// other labels. This looks at each name once, and copies the listing. The data set may be [decoded](Self::decode)
    /// before or after this; what no decoder of images wants needs no label if it is decoded before. Waits for the end
    /// of the listing, also of a [streaming](crate::DatasetBuilder::streaming) data set.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dataflux::store::{Client, MemoryStore};
    /// use dataflux::{DatafluxDataset, Labels};
    /// # let store = MemoryStore::new();
    /// # ["pets/beagle_1.jpg", "pets/beagle_2.jpg", "pets/great_pyrenees_1.jpg"].iter().for_each(|name| _ = store.insert("my-bucket", name, "x"));
    /// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/pets/")?;
    ///
    /// let dataset = dataset.label_by(Labels::pattern("{label}_*.jpg")?)?;
    /// assert_eq!(dataset.manifest().labels(), ["beagle", "great_pyrenees"]);
    /// assert_eq!(dataset.manifest().get(2).and_then(|entry| entry.label), Some(1));
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// # Errors
    /// Samples without a label, unless [they are left out](Labels::unlabelled); a label that is empty or has a line
    /// feed; a list of classes was set, and a label is none of them; the listing failed.
    #[expect(clippy::needless_pass_by_value, reason = "callers make their labels in place")]
    pub fn label_by(self, labels: Labels) -> Result<Self> {
        let source = self.source.changed(|manifest| {
            let (labelled, without) = manifest.labelled_by(&labels, labels.when_unlabelled())?;
            log_unlabelled(&labelled, &without);
            labels.log_unmatched(manifest)?;
            Ok(Arc::new(labelled))
        })?;
        Ok(Self { source: Arc::new(source), ..self })
    }

    /// Sees that each sample has a row in a table of [targets](crate::ImageFolder::targets), so that none is missing in
    /// the middle of an epoch. Samples without one are an error, or are left out; labels stay as they are. Rows that
    /// match no sample are logged; see [`LabelTable::unmatched`]. Waits for the end of the listing.
    ///
    /// ```no_run
    /// use dataflux::{DatafluxDataset, ImageFolder, LabelTable, Unlabelled};
    ///
    /// let dataset = DatafluxDataset::open("gs://my-bucket/faces/")?;
    /// let table = LabelTable::reader("file").open(dataset.client(), "gs://my-bucket/faces.csv")?;
    /// let images = ImageFolder::new().resize(64, 64).targets(table.number("age")?);
    /// let dataset = dataset.decode(images).match_table(&table, Unlabelled::LeaveOut)?;
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// # Errors
    /// Samples have no row, and are not to be left out; no sample has one; the listing failed.
    pub fn match_table(self, table: &LabelTable, unlabelled: Unlabelled) -> Result<Self> {
        let source = self.source.changed(|manifest| {
            let (kept, without) = manifest.only_labelled(&RowPresence(table), unlabelled)?;
            log_unlabelled(&kept, &without);
            log_unmatched(table, manifest)?;
            Ok(kept)
        })?;
        Ok(Self { source: Arc::new(source), ..self })
    }

    /// The same samples, with labels numbered by a list of classes instead of by those that happen to occur: the label
    /// of a sample is the index of its class in the list, which is its folder unless the data set was given [other
    /// labels](Self::label_by). A class may have no samples here.
    ///
    /// [`manifest().labels()`](Manifest::labels) then is this list, also for a manifest that was saved and loaded. If
    /// it differs from the list of folders, it is part of the [digest](Manifest::digest).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dataflux::store::{Client, MemoryStore};
    /// use dataflux::DatafluxDataset;
    /// # let store = MemoryStore::new();
    /// # ["train/cat/1", "train/dog/2", "val/dog/3"].iter().for_each(|name| _ = store.insert("my-bucket", name, "sample"));
    /// # let client = Client::new(Arc::new(store));
    /// # let open = |uri| DatafluxDataset::open_with(client.clone(), uri);
    ///
    /// let val = open("gs://my-bucket/val/")?.classes(["cat", "dog"])?; // or classes(&ClassMap::load(path)?)
    /// assert_eq!(val.manifest().get(0).and_then(|entry| entry.label), Some(1));
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// # Errors
    /// A label is none of the classes (the error names it), unless it is a hidden folder; samples in a hidden folder
    /// have no label, and an image data set leaves them out. The list is empty, or has a class twice. If the data set
    /// is [streaming](crate::DatasetBuilder::streaming), an unknown folder makes the listing fail when it gets there.
    pub fn classes<S: Into<String>>(self, classes: impl IntoIterator<Item = S>) -> Result<Self> {
        let classes = ClassMap::new(classes)?;
        if !self.source.unnumbered.has_given_labels() {
            classes.check_folders()?;
        }
        let source = self.source.relabelled(self.source.only_images, Some(Arc::new(classes)))?;
        Ok(Self { source: Arc::new(source), ..self })
    }

    /// The classes of the data set in the order of their numbers, to be [saved](ClassMap::save) beside the model that
    /// is trained with them. Call it after [`decode`](Self::decode), which removes folders without images. Waits for
    /// the end of the listing.
    ///
    /// # Errors
    /// No sample has a label; the listing failed.
    pub fn class_map(&self) -> Result<ClassMap> {
        self.manifest().complete()?;
        ClassMap::new(self.manifest().labels()).map_err(|error| error.object(self.manifest().prefix()))
    }

    /// The same samples, with labels numbered as those of `other`, usually the training data. Call it after
    /// [`decode`](Self::decode) on both: an image decoder removes the folders that hold no images, each of which would
    /// otherwise have to be a class. Waits for the end of the other's listing.
    ///
    /// ```no_run
    /// use dataflux::{DatafluxDataset, ImageFolder};
    ///
    /// let decode = ImageFolder::new().resize(224, 224);
    /// let train = DatafluxDataset::open("gs://my-bucket/train/")?.decode(decode.clone());
    /// let val = DatafluxDataset::open("gs://my-bucket/val/")?.decode(decode).classes_from(&train)?;
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`classes`](Self::classes); the other's listing failed.
    pub fn classes_from<E>(self, other: &DatafluxDataset<E>) -> Result<Self> {
        other.manifest().complete()?;
        self.classes(other.manifest().labels())
    }

    /// States how many bytes of memory a decoded sample takes at most, for the [memory
    /// budget](crate::DataLoaderBuilder::memory_budget), for a closure whose items are of a type that the library
    /// doesn't know; see [`ItemMemory`](crate::ItemMemory::FromItems). State the item alone: the loader adds what
    /// collating copies. Memory that the decoder uses only while it works is not counted. Call this after
    /// [`decode`](Self::decode), which discards the value.
    ///
    /// ```no_run
    /// use dataflux::{DatafluxDataset, RawSample};
    ///
    /// struct Clip {
    ///     samples: Vec<f32>,
    /// }
    ///
    /// let decode = |sample: RawSample| -> anyhow::Result<Clip> {
    ///     let mut samples: Vec<f32> = sample.bytes().iter().map(|byte| f32::from(*byte)).collect();
    ///     samples.resize(160_000, 0.0);
    ///     Ok(Clip { samples })
    /// };
    /// let dataset = DatafluxDataset::open("gs://my-bucket/clips/")?.decode(decode).item_bytes(4 * 160_000);
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    #[must_use]
    pub fn item_bytes(mut self, bytes: u64) -> Self {
        self.item_bytes = Some(bytes);
        self
    }

    /// Number of samples, at least 1. Waits for the end of the listing. If the listing failed, this counts only what
    /// was listed; [`Manifest::complete`] returns the error.
    #[expect(clippy::len_without_is_empty, reason = "a data set is never empty")]
    pub fn len(&self) -> u64 {
        self.source.manifest.len()
    }

    /// The objects of the listing.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.source.manifest
    }

    /// The client that reads the bucket and counts the calls.
    pub fn client(&self) -> &Client {
        &self.source.client
    }

    /// How many calls the bucket takes, as learned from what it refused to this data set. Loaders with limits of their
    /// own learn for themselves; see [`DataLoader::ceilings`](crate::loader::DataLoader::ceilings).
    pub fn ceilings(&self) -> Ceilings {
        self.source.gates.snapshot()
    }

    /// Facts about the bucket, as far as the service reports them.
    pub fn bucket_info(&self) -> &BucketInfo {
        &self.source.bucket
    }
}

impl<D: Decode> DatafluxDataset<D> {
    /// The same samples, made into batches by `collate` instead of the decoder's own collator. Call this after
    /// [`decode`](Self::decode), which discards it.
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dataflux::store::{Client, MemoryStore};
    /// use dataflux::{DataLoader, DatafluxDataset, RawSample};
    /// # let store = MemoryStore::new();
    /// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n:03}.txt"), "7 "));
    /// # let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://my-bucket/train/")?;
    ///
    /// let number = |sample: RawSample| Ok(std::str::from_utf8(sample.bytes())?.trim().parse::<u64>()?);
    /// let sum = |numbers: Vec<u64>| Ok(numbers.iter().sum::<u64>());
    /// let dataset = dataset.decode(number).collate(sum);
    /// for batch in DataLoader::builder(dataset).batch_size(50).build()?.epoch(0)? {
    ///     assert_eq!(batch?.into_inner(), 350);
    /// }
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    #[must_use]
    pub fn collate<C: Collate<D::Item>>(self, collate: C) -> DatafluxDataset<Collated<D, C>> {
        let Self { source, decode, item_bytes } = self;
        DatafluxDataset { source, decode: Arc::new(Collated { decode, collate: Arc::new(collate) }), item_bytes }
    }

    /// Reads, proves and decodes the sample at `index`, counted from 0 in byte order of names. Blocks.
    ///
    /// # Errors
    /// The index is out of range; the listing failed before it came to the index; the object was overwritten or deleted
    /// since the listing; its CRC32C or the decoder refuses the bytes.
    pub fn get(&self, index: u64) -> Result<D::Item> {
        let DatasetSource { client, manifest, gates, .. } = &*self.source;
        if !manifest.reaches(index)? {
            return Err(Error::new(ErrorKind::Config, "there is no sample of that index")
                .stage(Stage::Sample)
                .object(manifest.prefix())
                .mismatch(format_args!("an index below {}", manifest.len()), index));
        }
        let location = manifest.location_facts(SampleId(index))?;
        let group = Group::alone(Slice::of(0, SampleId(index), &location, MIN_RANGED));
        let io = Io::shared()?;
        let gates = Arc::clone(gates);
        let fetcher = Fetcher::new(client, Arc::clone(manifest), Arc::clone(&io), &self.source.bucket, gates);
        let manifest = Arc::clone(manifest);
        let mut sample = io.run(async move { read_alone(&fetcher, &manifest, group, 0, &|_| {}).await })?;
        // As a loader in order of names delivers it in its first epoch.
        sample.set_place(EpochPlace::first(&Sequential.identity(), 0).at(index));
        let id = sample.manifest().id(sample.entry());
        guarded(|| self.decode.decode(sample)).map_err(|cause| refused(id, &cause))
    }
}
