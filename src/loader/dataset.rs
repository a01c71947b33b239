//! The data set: a listing, the way to read it, and the way to decode it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::decode::{Decode, Raw};
use crate::engine::bucket::read_alone;
use crate::engine::sample_code::{guarded, refused};
use crate::io::Io;
use crate::list::inventory::Inventory;
use crate::list::{Filter, Lister, PAGE_SIZE, Prefix, Progress};
use crate::manifest::{Classes, FoundImages, Known, Manifest, ManifestBuilder, StreamingListing};
use crate::pacing::{CallCaps, Ceilings, Throttles};
use crate::plan::{Group, MIN_RANGED, cold_notice};
use crate::read::Fetcher;
use crate::sample::SampleId;
use crate::store::{BucketInfo, Client, GcsConfig, GcsStore, ListRequest};
use crate::{Error, ErrorKind, Result, Stage};

/// The objects below a prefix, listed once, as samples by index.
///
/// Those in a folder right below the prefix have a label, the number of that folder. Data sets that are used together
/// need the same numbers, whatever folders each of them has: see [`classes_from`](Self::classes_from).
///
/// ```no_run
/// use dataflux::{DatafluxDataset, ImageFolder};
///
/// let dataset = DatafluxDataset::open("gs://my-bucket/train/")?.decode(ImageFolder::new().resize(224, 224));
/// println!("{} images of {} classes", dataset.len(), dataset.manifest().labels().len());
/// let first = dataset.get(0)?;
/// println!("{}: class {}, shape {:?}", first.name, first.label, first.shape);
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Debug)]
pub struct DatafluxDataset<D = Raw> {
    pub(crate) source: Arc<DatasetSource>,
    pub(crate) decode: Arc<D>,
    /// What an item takes in memory, where that was stated.
    pub(crate) item_bytes: Option<u64>,
}

#[derive(Debug)]
pub(crate) struct DatasetSource {
    pub(crate) client: Client,
    /// What is read.
    pub(crate) manifest: Arc<Manifest>,
    /// The same, with labels as the folders have them.
    by_folder: Arc<Manifest>,
    /// Whether it is of images alone.
    only_images: bool,
    classes: Option<Arc<Classes>>,
    /// How it is listed, where that is still under way.
    streaming: Option<StreamingListing>,
    pub(crate) bucket: BucketInfo,
    /// Shared by all who read the data set, so that what one learns of the bucket's limits holds for all.
    pub(crate) throttles: Arc<Throttles>,
    pub(crate) told: Arc<GivenNotices>,
}

/// What was said of a data set, so that it is said once.
#[derive(Debug, Default)]
pub(crate) struct GivenNotices {
    /// That composing is dearer here.
    pub(crate) dollars: AtomicBool,
    /// That ranks which list for themselves may differ.
    pub(crate) ranks: AtomicBool,
    /// What is no image, and how images are labelled.
    images: AtomicBool,
}

impl DatasetSource {
    /// The same objects, but for those that are no images if only these are wanted, and numbered by `classes`.
    fn relabelled(&self, only_images: bool, classes: Option<Arc<Classes>>) -> Result<Self> {
        let mut streaming = self.streaming.clone().filter(|_| self.by_folder.is_growing());
        let by_folder = match &mut streaming {
            // What a listing that is under way has given already may be in use, so that it can't be changed.
            Some(again) => {
                again.classes.clone_from(&classes);
                if only_images {
                    (again.filter, again.ended) = (again.filter.clone().images(), images_listed);
                }
                Arc::new(again.begin(Io::shared()?.handle()).0)
            }
            None if only_images && !self.only_images => {
                let (images, found) = self.by_folder.images()?;
                if !self.told.images.swap(true, Ordering::Relaxed) {
                    notice_left_out(&images, &found);
                    notice_labels(&images, classes.as_deref());
                }
                images
            }
            None => Arc::clone(&self.by_folder),
        };
        let manifest = match &classes {
            Some(classes) if streaming.is_none() => Arc::new(by_folder.with_classes(classes)?),
            _ => Arc::clone(&by_folder),
        };
        Ok(Self { manifest, by_folder, only_images, classes, streaming, ..self.share() })
    }

    /// The same, for another handle of it.
    fn share(&self) -> Self {
        let Self { client, manifest, by_folder, only_images, classes, streaming, bucket, throttles, told } = self;
        Self {
            client: client.clone(),
            manifest: Arc::clone(manifest),
            by_folder: Arc::clone(by_folder),
            only_images: *only_images,
            classes: classes.clone(),
            streaming: streaming.clone(),
            bucket: bucket.clone(),
            throttles: Arc::clone(throttles),
            told: Arc::clone(told),
        }
    }
}

impl<D> Clone for DatafluxDataset<D> {
    fn clone(&self) -> Self {
        let (source, decode) = (Arc::clone(&self.source), Arc::clone(&self.decode));
        Self { source, decode, item_bytes: self.item_bytes }
    }
}

impl DatafluxDataset<Raw> {
    /// Lists `uri`, such as `gs://bucket/train/`, with the credentials of the environment: those that gcloud and other
    /// Google tools find, or none where `STORAGE_EMULATOR_HOST` names an emulator. Blocks until the listing is done;
    /// may be called from anywhere, though asynchronous code better calls [`open_async`](Self::open_async).
    ///
    /// # Errors
    /// A URI that isn't one; no such bucket; nothing below the prefix; no credentials or no right to list.
    pub fn open(uri: &str) -> Result<Self> {
        Self::builder().open(uri)
    }

    /// As [`open`](Self::open), without blocking.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn open_async(uri: &str) -> Result<Self> {
        Self::builder().open_async(uri).await
    }

    /// As [`open`](Self::open), through a client of one's own: another store, endpoint, credential or retry policy.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_with(client: Client, uri: &str) -> Result<Self> {
        Self::builder().client(client).open(uri)
    }

    /// The objects of a manifest, which nobody lists again, with the credentials of the environment. Objects that were
    /// overwritten or deleted since are errors when they are read; those that were added aren't there.
    ///
    /// # Errors
    /// No such bucket, or no credentials.
    pub fn from_manifest(manifest: impl Into<Arc<Manifest>>) -> Result<Self> {
        Self::builder().from_manifest(manifest)
    }

    /// Other ways to open: with filters, with a client of one's own, seeing progress.
    pub fn builder() -> DatasetBuilder {
        DatasetBuilder::default()
    }
}

/// How to open a [`DatafluxDataset`].
///
/// ```no_run
/// use dataflux::list::Filter;
/// use dataflux::{DatafluxDataset, Manifest};
///
/// let photos = Filter::new().include("*.jpg")?.exclude("thumbs/")?.min_size(1 << 10);
/// let yesterday = Manifest::load("train.dfm")?;
/// let dataset = DatafluxDataset::builder().filter(photos).refresh(&yesterday)?.open("gs://my-bucket/train/")?;
/// println!("{} photos; left out: {}", dataset.len(), dataset.manifest().left_out());
/// # Ok::<(), dataflux::Error>(())
/// ```
#[derive(Debug, Default)]
#[must_use = "a builder does nothing until open() is called"]
pub struct DatasetBuilder {
    client: Option<Client>,
    /// `None` where nobody has said anything.
    filter: Option<Filter>,
    concurrency: Option<usize>,
    known: Vec<(String, u64)>,
    inventory: Option<String>,
    streaming: bool,
    progress: Arc<Progress>,
}

impl DatasetBuilder {
    /// Another client than that of the environment: another store, endpoint, credential or retry policy.
    pub fn client(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// Which objects are samples; all but folder marks and this crate's temporaries by default.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Most list calls at once, below which as many are made as help; [`CONCURRENCY`](crate::list::CONCURRENCY) by
    /// default.
    pub fn list_concurrency(mut self, calls: usize) -> Self {
        self.concurrency = Some(calls);
        self
    }

    /// Divides the work of listing by an earlier listing of the same prefix or of one above it, which is faster than by
    /// guesses. What is listed is what is there now.
    ///
    /// # Errors
    /// The manifest's file was written to since it was opened.
    pub fn refresh(mut self, earlier: &Manifest) -> Result<Self> {
        self.known = earlier.cuts((earlier.len() / MOST_CUTS).max(u64::from(PAGE_SIZE)))?;
        Ok(self)
    }

    /// Takes the objects from a Storage Insights inventory report instead of listing them: `location` is a path or a
    /// `gs://` URI, as for [`Inventory::open`]. Objects that were overwritten or deleted since the report was made are
    /// errors when they are read.
    pub fn inventory(mut self, location: impl Into<String>) -> Self {
        self.inventory = Some(location.into());
        self
    }

    /// Whether to go on listing while the data set is in use: [`open`](Self::open) returns with the first page, and a loader
    /// delivers as far as is listed. Worth it where listing takes minutes; what is delivered is the same. A loader needs
    /// an order that can begin before all is known: by name, or
    /// [`shuffle_window`](crate::loader::DataLoaderBuilder::shuffle_window).
    ///
    /// ```
    /// # use std::sync::Arc;
    /// # use dataflux::store::{Client, MemoryStore};
    /// use dataflux::{DataLoader, DatafluxDataset};
    /// # let store = MemoryStore::new();
    /// # (0..100).for_each(|n| _ = store.insert("my-bucket", &format!("train/{n:03}.txt"), "sample"));
    /// # let client = Client::new(Arc::new(store));
    ///
    /// let dataset = DatafluxDataset::builder().client(client).streaming(true).open("gs://my-bucket/train/")?;
    /// let loader = DataLoader::builder(dataset).batch_size(32).shuffle_window(42, 100_000).build()?;
    /// for batch in loader.epoch(0)? {
    ///     println!("{} samples", batch?.len());
    /// }
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// What only the end of the listing tells blocks until then: the length, the labels and the digest of the
    /// [manifest](DatafluxDataset::manifest), and the [state](crate::loader::Batches::state) of an epoch. A listing that fails
    /// is the error of an epoch that comes so far, and of [`Manifest::complete`]; so is a server that doesn't keep to
    /// the order of names, or a prefix whose folders don't come in theirs, as `a-b/` and `a/`, of which each is known
    /// by its number at once, unless a list of [classes](DatafluxDataset::classes) numbers them. A decoder of images
    /// and a list of classes begin the listing anew, since what is listed by then was listed without them. The listing
    /// stops when the last handle of the data set, its loaders, its manifest and its samples is gone. Not with an
    /// [`inventory`](Self::inventory).
    ///
    /// Samples become known 4,096 at a time, and a window when all of it is. Ranks that each list for themselves may see
    /// different data where somebody writes meanwhile: give those of one run one saved manifest instead.
    pub fn streaming(mut self, streaming: bool) -> Self {
        self.streaming = streaming;
        self
    }

    /// Tells `progress` how far the listing is.
    pub fn progress(mut self, progress: Arc<Progress>) -> Self {
        self.progress = progress;
        self
    }

    /// Lists `uri`. Blocks; may be called from anywhere.
    ///
    /// # Errors
    /// As for [`DatafluxDataset::open`].
    pub fn open(self, uri: &str) -> Result<DatafluxDataset> {
        Io::shared()?.run(self.list(uri)?)
    }

    /// As [`open`](Self::open), without blocking.
    ///
    /// # Errors
    /// As for [`DatafluxDataset::open`].
    pub async fn open_async(self, uri: &str) -> Result<DatafluxDataset> {
        // Not on the caller's runtime: connections live and die with the one that opened them.
        Io::shared()?.spawn(self.list(uri)?).await
    }

    /// The objects of a manifest, which was listed and filtered before; progress and the number of list calls have nothing
    /// to do there. Blocks; may be called from anywhere.
    ///
    /// # Errors
    /// A filter, an inventory report, an earlier listing or streaming, of which a manifest has no use; no such bucket, or
    /// no credentials.
    pub fn from_manifest(self, manifest: impl Into<Arc<Manifest>>) -> Result<DatafluxDataset> {
        Io::shared()?.run(self.take(manifest.into())?)
    }

    /// As [`from_manifest`](Self::from_manifest), without blocking.
    ///
    /// # Errors
    /// As for [`from_manifest`](Self::from_manifest).
    pub async fn from_manifest_async(self, manifest: impl Into<Arc<Manifest>>) -> Result<DatafluxDataset> {
        Io::shared()?.spawn(self.take(manifest.into())?).await
    }

    fn take(self, manifest: Arc<Manifest>) -> Result<impl Future<Output = Result<DatafluxDataset>> + Send + use<>> {
        let of_listings = [
            ("filter", self.filter.is_some()),
            ("inventory", self.inventory.is_some()),
            ("refresh", !self.known.is_empty()),
            ("streaming", self.streaming),
        ];
        let set: Vec<_> = of_listings.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect();
        if !set.is_empty() {
            let set = set.join(" and ");
            return Err(Error::new(
                ErrorKind::Config,
                "a manifest is not listed again, so this setting would do nothing",
            )
            .stage(Stage::Manifest)
            .object(manifest.prefix())
            .mismatch("a manifest alone", format_args!("{set} too"))
            .hint(format!("leave out {set}, or use open() to list")));
        }
        let client = self.client.map_or_else(client_of_environment, Ok)?;
        Ok(async move {
            let bucket = client.bucket_info(&manifest.prefix().bucket).await?;
            // One that is still growing tells when it is whole, and to wait for that here would hold up the listing.
            if let Known::All(_) = manifest.known() {
                notice_cold(&manifest);
            }
            Ok(dataset(client, manifest, None, bucket))
        })
    }

    fn list(self, uri: &str) -> Result<impl Future<Output = Result<DatafluxDataset>> + Send + use<>> {
        let prefix: Prefix = uri.parse()?;
        let client = self.client.map_or_else(client_of_environment, Ok)?;
        let bucket = Arc::clone(&prefix.bucket);
        let mut lister = Lister::new(&client, prefix.clone()).known(self.known).watched(self.progress);
        if let Some(calls) = self.concurrency {
            lister = lister.concurrency(calls);
        }
        if self.streaming && self.inventory.is_some() {
            return Err(Error::new(ErrorKind::Config, "an inventory report can't be streamed")
                .stage(Stage::List)
                .object(&prefix)
                .mismatch("streaming or inventory", "both")
                .hint("leave out streaming(true)"));
        }
        let filter = self.filter.unwrap_or_default();
        Ok(async move {
            if self.streaming {
                let objects = async {
                    let is_folder = is_one_folder(&client, &prefix).await?;
                    let streaming = StreamingListing { lister, filter, is_folder, classes: None, ended: listed };
                    Ok((streaming.open().await?, streaming))
                };
                let ((manifest, streaming), bucket) = tokio::try_join!(objects, client.bucket_info(&bucket))?;
                return Ok(dataset(client, Arc::new(manifest), Some(streaming), bucket));
            }
            let objects = async {
                let Some(location) = self.inventory else { return ManifestBuilder::list(lister, filter).await };
                let inventory = Inventory::open(&client, &location).await?;
                ManifestBuilder::inventory(&client, &inventory, prefix, &filter).await
            };
            let (builder, bucket) = tokio::try_join!(objects, client.bucket_info(&bucket))?;
            let manifest = tokio::task::spawn_blocking(|| builder.finish()).await.map_err(|error| {
                Error::new(ErrorKind::Internal, "building the manifest panicked")
                    .stage(Stage::Manifest)
                    .with_source(error)
            })??;
            listed(&manifest);
            Ok(dataset(client, Arc::new(manifest), None, bucket))
        })
    }
}

/// Names of an earlier listing by which the work of another is divided: many times the calls at once, and few to keep.
const MOST_CUTS: u64 = 4_096;

/// Tells of a listing that has ended.
fn listed(manifest: &Manifest) {
    tracing::info!(
        prefix = %manifest.prefix(),
        samples = manifest.len(),
        bytes = manifest.bytes(),
        left_out = %manifest.left_out(),
        "listed"
    );
    notice_cold(manifest);
}

/// As [`listed`], of a listing of images.
fn images_listed(manifest: &Manifest) {
    listed(manifest);
    let left_out = manifest.left_out();
    if left_out.hidden + left_out.not_an_image > 0 {
        tracing::warn!(prefix = %manifest.prefix(), %left_out, "{LEFT_OUT}");
    }
    notice_labels(manifest, None);
}

/// The warning of what an image data set goes without.
const LEFT_OUT: &str = "an image data set leaves out what is hidden, and what has no image's suffix";

/// Whether all that is below a prefix without a slash at its end is in the one folder of this name. Before it is
/// listed, since labels that are in use while the listing goes on can't wait for its end.
async fn is_one_folder(client: &Client, prefix: &Prefix) -> Result<bool> {
    if prefix.prefix.is_empty() || prefix.prefix.ends_with('/') {
        return Ok(false);
    }
    let mut request = ListRequest::new(Arc::clone(&prefix.bucket), &*prefix.prefix);
    request.delimiter = Some("/".to_owned());
    let page = client.list(&request).await?;
    let folder = format!("{}/", prefix.prefix);
    Ok(page.objects.is_empty() && page.prefixes == [folder] && page.next_page_token.is_none())
}

/// Says what an image data set leaves out, and which images have no label.
fn notice_left_out(images: &Manifest, found: &FoundImages) {
    let prefix = images.prefix();
    if let Some(example) = &found.example {
        let left_out = &found.left_out;
        tracing::warn!(%prefix, %left_out, example, "{LEFT_OUT}");
    }
    if let Some(example) = &found.first_without_folder {
        let images = found.without_folder;
        tracing::warn!(%prefix, images, example, "images in no folder have no label and can't be decoded; move them into one");
    }
}

/// Says that labels tell nothing, where that is so.
fn notice_labels(images: &Manifest, classes: Option<&Classes>) {
    let prefix = images.prefix();
    let labels = images.labels();
    let of_prefix = !prefix.prefix.is_empty() && !prefix.prefix.ends_with('/');
    match (classes, labels) {
        (None, [one]) => {
            let folder = prefix.prefix.rfind('/').map_or(0, |slash| slash + 1);
            let (bucket, above) = (&prefix.bucket, &prefix.prefix[..folder]);
            let meant =
                if of_prefix && !above.ends_with(&format!("{one}/")) && one.starts_with(&prefix.prefix[folder..]) {
                    format!("gs://{bucket}/{above}{one}/")
                } else {
                    format!("{prefix}{}{one}/", if of_prefix { "/" } else { "" })
                };
            tracing::warn!(
                %prefix,
                class = one,
                "all images are of one class; if the classes are the folders within it, open {meant} instead"
            );
        }
        (None, labels) if of_prefix && labels.iter().all(|label| label.starts_with(last_part(prefix))) => {
            let some = labels.iter().take(MOST_FOLDERS).map(String::as_str).collect::<Vec<_>>().join(", ");
            tracing::warn!(
                %prefix,
                classes = some,
                "the URI ends without a slash, and the classes are the folders that it begins; for the folders within one, \
                 add the slash"
            );
        }
        _ => {}
    }
}

/// Folders that a warning names at most.
const MOST_FOLDERS: usize = 8;

/// What a prefix has behind its last slash.
fn last_part(prefix: &Prefix) -> &str {
    &prefix.prefix[prefix.prefix.rfind('/').map_or(0, |slash| slash + 1)..]
}

fn notice_cold(manifest: &Manifest) {
    let classes: Vec<_> = manifest.classes().map(|class| (class.storage_class, class.objects, class.bytes)).collect();
    if let Some(notice) = cold_notice(&classes) {
        tracing::warn!(prefix = %manifest.prefix(), "{notice}");
    }
}

fn dataset(
    client: Client,
    manifest: Arc<Manifest>,
    streaming: Option<StreamingListing>,
    bucket: BucketInfo,
) -> DatafluxDataset {
    let throttles = Throttles::new(CallCaps::default());
    DatafluxDataset {
        source: Arc::new(DatasetSource {
            client,
            by_folder: Arc::clone(&manifest),
            manifest,
            only_images: false,
            classes: None,
            streaming,
            bucket,
            throttles,
            told: Arc::default(),
        }),
        decode: Arc::new(Raw),
        item_bytes: None,
    }
}

/// A client for what the environment names; see [`GcsConfig::from_env`].
fn client_of_environment() -> Result<Client> {
    Ok(Client::new(Arc::new(GcsStore::new(GcsConfig::from_env())?)))
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
        let Self { mut source, .. } = self;
        if decode.wants_images() && !source.only_images {
            let images = source.relabelled(true, source.classes.clone()).unwrap_or_else(|error| {
                let failed = Arc::new(Manifest::failed(source.manifest.prefix().clone(), error));
                DatasetSource { manifest: Arc::clone(&failed), by_folder: failed, only_images: true, ..source.share() }
            });
            source = Arc::new(images);
        }
        DatafluxDataset { source, decode: Arc::new(decode), item_bytes: None }
    }

    /// The same samples, with labels numbered by a list of classes instead of by the folders that happen to be there:
    /// the label of a sample is the index of its folder in the list. A class may have no samples here.
    ///
    /// [`manifest().labels()`](Manifest::labels) then is this list, also of a manifest that was saved and loaded. Where
    /// it is another than the list of folders, it is part of the [digest](Manifest::digest).
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
    /// let train = open("gs://my-bucket/train/")?;
    /// let list = train.manifest().labels().join("\n"); // for a file beside the model, a line for each class
    ///
    /// let val = open("gs://my-bucket/val/")?.classes(list.lines())?;
    /// assert_eq!(val.manifest().get(0).and_then(|entry| entry.label), Some(1));
    /// # Ok::<(), dataflux::Error>(())
    /// ```
    ///
    /// # Errors
    /// A folder that is none of the classes, named with them, unless it is hidden: the samples in such a one have no
    /// label, and an image data set leaves them out. A list that is empty, or has a class twice. Of a data set that is
    /// [streaming](DatasetBuilder::streaming) an unknown folder is an error of the listing, when it comes to it.
    pub fn classes<S: Into<String>>(self, classes: impl IntoIterator<Item = S>) -> Result<Self> {
        let classes = Classes::new(classes.into_iter().map(Into::into).collect())?;
        let source = self.source.relabelled(self.source.only_images, Some(classes))?;
        Ok(Self { source: Arc::new(source), ..self })
    }

    /// The same samples, with labels numbered as those of `other`, usually the training data. Call it after
    /// [`decode`](Self::decode) on both: an image decoder removes the folders that hold no images, each of which would
    /// have to be a class otherwise. Waits for the end of the other's listing.
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

    /// Number of samples, at least 1. Waits for the end of the listing; of one that failed, how many it came to, so ask
    /// [`Manifest::complete`] where that matters.
    #[expect(clippy::len_without_is_empty, reason = "a data set is never empty")]
    pub fn len(&self) -> u64 {
        self.source.manifest.len()
    }

    /// What was listed.
    pub fn manifest(&self) -> &Arc<Manifest> {
        &self.source.manifest
    }

    /// The way to the bucket, and the count of calls made on it.
    pub fn client(&self) -> &Client {
        &self.source.client
    }

    /// What is known of how many calls the bucket takes, by what it refused to this data set. Loaders with limits of
    /// their own learn for themselves; see [`DataLoader::ceilings`](crate::loader::DataLoader::ceilings).
    pub fn ceilings(&self) -> Ceilings {
        self.source.throttles.snapshot()
    }

    /// Facts of the bucket, as far as they are told.
    pub fn bucket_info(&self) -> &BucketInfo {
        &self.source.bucket
    }
}

impl<D: Decode> DatafluxDataset<D> {
    /// Reads, proves and decodes the sample at `index`, counted from 0 in byte order of names. Blocks.
    ///
    /// # Errors
    /// An index beyond the end; a listing that failed before it came to the index; an object that is another than the one
    /// listed; bytes that its CRC or the decoder refuses.
    pub fn get(&self, index: u64) -> Result<D::Item> {
        let DatasetSource { client, manifest, throttles, .. } = &*self.source;
        if !manifest.reaches(index)? {
            return Err(Error::new(ErrorKind::Config, "there is no sample of that index")
                .stage(Stage::Sample)
                .object(manifest.prefix())
                .mismatch(format_args!("an index below {}", manifest.len()), index));
        }
        let size = manifest.facts_at(index)?.size;
        let group = Group::alone(0, SampleId(index), size, MIN_RANGED);
        let io = Io::shared()?;
        let throttles = Arc::clone(throttles);
        let fetcher = Fetcher::new(client, Arc::clone(manifest), Arc::clone(&io), &self.source.bucket, throttles);
        let manifest = Arc::clone(manifest);
        let sample = io.run(async move { read_alone(&fetcher, &manifest, group, 0, &|_| {}).await })?;
        let id = sample.manifest().id(sample.entry());
        guarded(|| self.decode.decode(sample)).map_err(|cause| refused(id, &cause))
    }
}
