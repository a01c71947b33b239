//! Opening a data set: by a listing, by an inventory report, or by a manifest.

use std::future::Future;
use std::sync::Arc;

use super::dataset::{DatafluxDataset, new_dataset};
use super::notices::{log_listed, warn_of_cold};
use crate::decode::Raw;
use crate::io::Io;
use crate::list::inventory::Inventory;
use crate::list::{Filter, Lister, ListingCut, PAGE_SIZE, Prefix, Progress};
use crate::manifest::{KnownSamples, Manifest, ManifestBuilder, StreamingListing};
use crate::store::{Client, Credentials, GcsConfig, GcsStore};
use crate::{Error, ErrorKind, Result, Stage};

impl DatafluxDataset<Raw> {
    /// Lists `uri`, such as `gs://bucket/train/` or `file:///data/train/`. A bucket is read with the credentials of the
    /// environment: those that gcloud and other Google tools find, or none if `STORAGE_EMULATOR_HOST` names an
    /// emulator. Blocks until the listing ends. May be called from anywhere, but asynchronous code should call
    /// [`open_async`](Self::open_async).
    ///
    /// # Errors
    /// The URI is invalid; the bucket doesn't exist; nothing is below the prefix; there are no credentials, or they
    /// don't permit listing.
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

    /// Opens as [`open`](Self::open) does, without credentials, even where the environment has some: for public
    /// buckets. The other settings of the environment, such as `STORAGE_EMULATOR_HOST`, apply.
    ///
    /// # Errors
    /// As for [`open`](Self::open); the bucket isn't public.
    pub fn open_anonymous(uri: &str) -> Result<Self> {
        let config = GcsConfig::from_env().credentials(Credentials::Anonymous);
        Self::open_with(Client::new(Arc::new(GcsStore::new(config)?)), uri)
    }

    /// As [`open`](Self::open), through another client: another store, endpoint, credential or retry policy.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_with(client: Client, uri: &str) -> Result<Self> {
        Self::builder().client(client).open(uri)
    }

    /// The objects of a manifest, without another listing, with the credentials of the environment. For another client,
    /// use [`DatasetBuilder::client`] and [`DatasetBuilder::from_manifest`]. Objects that were overwritten or deleted
    /// since the manifest was listed are errors when they are read; objects that were added are not in the data set.
    ///
    /// # Errors
    /// The bucket doesn't exist, or there are no credentials.
    pub fn from_manifest(manifest: impl Into<Arc<Manifest>>) -> Result<Self> {
        Self::builder().from_manifest(manifest)
    }

    /// A builder for further settings: filters, another client, progress.
    pub fn builder() -> DatasetBuilder {
        DatasetBuilder::default()
    }
}

/// Settings for opening a [`DatafluxDataset`].
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
    /// `None` if none was set.
    filter: Option<Filter>,
    concurrency: Option<usize>,
    /// Names of an earlier listing by which the work is divided, each with the number of objects before it.
    earlier: Vec<ListingCut>,
    inventory: Option<String>,
    streaming: bool,
    progress: Arc<Progress>,
}

impl DatasetBuilder {
    /// Sets the client, in place of the one from the environment: another store, endpoint, credential or retry policy.
    pub fn client(mut self, client: Client) -> Self {
        self.client = Some(client);
        self
    }

    /// Sets which objects are samples. By default all are, except folder marks, this crate's temporaries, and hidden
    /// files.
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = Some(filter);
        self
    }

    /// Sets how many list calls may run at once at most, [`CONCURRENCY`](crate::list::CONCURRENCY) by default. The
    /// lister uses fewer if more don't help.
    pub fn list_concurrency(mut self, calls: usize) -> Self {
        self.concurrency = Some(calls);
        self
    }

    /// Divides the work of the listing by an earlier listing of the same prefix or of one above it, which is faster
    /// than guessing. The data set still has what is listed now.
    ///
    /// # Errors
    /// The manifest's file was modified after it was opened.
    pub fn refresh(mut self, earlier: &Manifest) -> Result<Self> {
        self.earlier = earlier.cuts((earlier.len() / MAX_CUTS).max(u64::from(PAGE_SIZE)))?;
        Ok(self)
    }

    /// Takes the objects from a Storage Insights inventory report instead of a listing. `location` is a path or a
    /// `gs://` URI, as for [`Inventory::open`]. Objects that were overwritten or deleted since the report was made are
    /// errors when they are read.
    pub fn inventory(mut self, location: impl Into<String>) -> Self {
        self.inventory = Some(location.into());
        self
    }

    /// Sets whether the listing continues while the data set is in use. If so, [`open`](Self::open) returns after the
    /// first page, and a loader delivers as far as the listing has come. This is worth it if listing takes minutes; the
    /// batches are the same. The loader needs an order that can begin before all samples are known: by name, or
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
    /// What only the end of the listing can answer blocks until then: the length, the labels and the digest of the
    /// [manifest](DatafluxDataset::manifest), and the [state](crate::loader::Batches::state) of an epoch. If the
    /// listing fails, an epoch that gets that far returns the error, and so does [`Manifest::complete`].
    ///
    /// The listing also fails if the server doesn't keep to the order of names, or if folders don't come in the order
    /// of their names, as `a-b/` before `a/`, unless a list of [classes](DatafluxDataset::classes) numbers them: each
    /// folder gets its number as soon as it is listed. A decoder of images and a list of classes restart the listing,
    /// because the objects listed before were listed without them.
    ///
    /// The listing stops when the last handle of the data set, its loaders, its manifest and its samples is dropped.
    /// Streaming can't be combined with an [`inventory`](Self::inventory).
    ///
    /// Samples become known in steps of 4,096, and a window of a shuffle when all of it is known. Ranks that each list
    /// for themselves may see different data if objects are written meanwhile: give all ranks of a run the same saved
    /// manifest instead.
    pub fn streaming(mut self, streaming: bool) -> Self {
        self.streaming = streaming;
        self
    }

    /// Reports the listing's progress to `progress`.
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

    /// The objects of a manifest, which were listed and filtered before. Progress and list concurrency have no effect.
    /// Blocks; may be called from anywhere.
    ///
    /// # Errors
    /// A filter, an inventory report, an earlier listing or streaming was set, which a manifest has no use for; the
    /// bucket doesn't exist; there are no credentials.
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

    /// Checks the settings, and returns the future that opens the data set of a manifest.
    fn take(self, manifest: Arc<Manifest>) -> Result<impl Future<Output = Result<DatafluxDataset>> + Send + use<>> {
        let listing_settings = [
            ("filter", self.filter.is_some()),
            ("inventory", self.inventory.is_some()),
            ("refresh", !self.earlier.is_empty()),
            ("streaming", self.streaming),
        ];
        let set: Vec<_> = listing_settings.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect();
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

        let client = self.client.map_or_else(|| Client::open(&manifest.prefix().to_uri()), Ok)?;
        client.check_scheme(manifest.prefix().scheme, manifest.prefix())?;
        Ok(async move {
            let bucket = client.bucket_info(&manifest.prefix().bucket).await?;
            // A manifest that still grows reports it when it is complete; waiting here would hold up the listing.
            if let KnownSamples::All(_) = manifest.known() {
                warn_of_cold(&manifest);
            }
            Ok(new_dataset(client, manifest, None, bucket))
        })
    }

    /// Checks the settings, and returns the future that lists `uri`.
    fn list(self, uri: &str) -> Result<impl Future<Output = Result<DatafluxDataset>> + Send + use<>> {
        let prefix: Prefix = uri.parse()?;
        let client = self.client.map_or_else(|| Client::open(&prefix.to_uri()), Ok)?;
        client.check_scheme(prefix.scheme, &prefix)?;
        let bucket = Arc::clone(&prefix.bucket);
        let mut lister = Lister::new(&client, prefix.clone()).earlier(self.earlier).watched(self.progress);
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
                let streaming = StreamingListing { lister, filter, classes: None, ended: log_listed };
                let (manifest, bucket) = tokio::try_join!(streaming.open(), client.bucket_info(&bucket))?;
                return Ok(new_dataset(client, Arc::new(manifest), Some(streaming), bucket));
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
            log_listed(&manifest);
            Ok(new_dataset(client, Arc::new(manifest), None, bucket))
        })
    }
}

/// Names of an earlier listing that are kept to divide the work of another: many times the number of calls at once, and
/// little memory.
const MAX_CUTS: u64 = 4_096;
