//! The data set: a listing, the way to read it, and the way to decode it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::pipeline::read_alone;
use super::pool::{guarded, refused};
use crate::decode::{Decode, Raw};
use crate::fetch::{Caps, Ceilings, Fetcher, Throttles};
use crate::io::Io;
use crate::list::inventory::Inventory;
use crate::list::{Filter, Lister, PAGE_SIZE, Prefix, Progress};
use crate::manifest::{Known, Manifest, ManifestBuilder};
use crate::plan::{Group, MIN_RANGED, cold_notice};
use crate::sample::SampleId;
use crate::store::{BucketInfo, Client, GcsConfig, GcsStore};
use crate::{Error, ErrorKind, Result, Stage};

/// The objects below a prefix, listed once, as samples by index.
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
    pub(super) source: Arc<Source>,
    pub(super) decode: Arc<D>,
    /// What an item takes in memory, where that was stated.
    pub(super) item_bytes: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) client: Client,
    pub(super) manifest: Arc<Manifest>,
    pub(super) bucket: BucketInfo,
    /// Shared by all who read the data set, so that what one learns of the bucket's limits holds for all.
    pub(super) throttles: Arc<Throttles>,
    /// Whether it was said that composing is dearer here.
    pub(super) told_of_dollars: AtomicBool,
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
    /// [`shuffle_window`](super::DataLoaderBuilder::shuffle_window).
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
    /// [manifest](DatafluxDataset::manifest), and the [state](super::Batches::state) of an epoch. A listing that fails is
    /// the error of an epoch that comes so far, and of [`Manifest::complete`]; so is a server that doesn't keep to the
    /// order of names, or a prefix whose folders don't come in theirs, as `a-b/` and `a/`, of which each is known by its
    /// number at once. The listing stops when the last handle of the data set, its loaders, its manifest and its samples
    /// is gone. Not with an [`inventory`](Self::inventory).
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
            Ok(dataset(client, manifest, bucket))
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
                let objects = ManifestBuilder::stream(lister, filter, listed);
                let (manifest, bucket) = tokio::try_join!(objects, client.bucket_info(&bucket))?;
                return Ok(dataset(client, Arc::new(manifest), bucket));
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
            Ok(dataset(client, Arc::new(manifest), bucket))
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

fn notice_cold(manifest: &Manifest) {
    let classes: Vec<_> = manifest.classes().map(|class| (class.storage_class, class.objects, class.bytes)).collect();
    if let Some(notice) = cold_notice(&classes) {
        tracing::warn!(prefix = %manifest.prefix(), "{notice}");
    }
}

fn dataset(client: Client, manifest: Arc<Manifest>, bucket: BucketInfo) -> DatafluxDataset {
    let throttles = Throttles::new(Caps::default());
    DatafluxDataset {
        source: Arc::new(Source { client, manifest, bucket, throttles, told_of_dollars: AtomicBool::new(false) }),
        decode: Arc::new(Raw),
        item_bytes: None,
    }
}

/// A client for what the environment names; see [`GcsConfig::from_env`].
fn client_of_environment() -> Result<Client> {
    Ok(Client::new(Arc::new(GcsStore::new(GcsConfig::from_env())?)))
}

impl<D> DatafluxDataset<D> {
    /// The same samples, decoded by `decode`.
    #[must_use]
    pub fn decode<E: Decode>(self, decode: E) -> DatafluxDataset<E> {
        DatafluxDataset { source: self.source, decode: Arc::new(decode), item_bytes: None }
    }

    /// States how many bytes of memory a decoded sample takes at most, for the
    /// [memory budget](crate::DataLoaderBuilder::memory_budget). To be called after [`decode`](Self::decode), for a
    /// closure whose items are of a type that the library doesn't know; see
    /// [`ItemMemory`](crate::ItemMemory::FromItems).
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
    /// their own learn for themselves; see [`DataLoader::ceilings`](super::DataLoader::ceilings).
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
        let Source { client, manifest, throttles, .. } = &*self.source;
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
        let sample = io.run(async move {
            let mut samples = read_alone(&fetcher, &manifest, group, 0, &|_| {}).await?;
            samples.pop().map(|(_, sample)| sample).ok_or_else(|| Error::new(ErrorKind::Internal, "nothing was read"))
        })?;
        let id = sample.manifest().id(sample.entry());
        guarded(|| self.decode.decode(sample)).map_err(|cause| refused(id, &cause))
    }
}
