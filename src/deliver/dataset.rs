//! The data set: a listing, the way to read it, and the way to decode it.

use std::sync::Arc;

use super::pipeline::read_alone;
use super::pool::{guarded, refused};
use crate::decode::{Decode, Raw};
use crate::fetch::Fetcher;
use crate::io::Io;
use crate::list::{Prefix, list};
use crate::manifest::Manifest;
use crate::plan::{Group, Method, Slice};
use crate::sample::SampleId;
use crate::store::{BucketInfo, Client, Fields, GcsConfig, GcsStore};
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
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) client: Client,
    pub(super) manifest: Arc<Manifest>,
    pub(super) bucket: BucketInfo,
}

impl<D> Clone for DatafluxDataset<D> {
    fn clone(&self) -> Self {
        Self { source: Arc::clone(&self.source), decode: Arc::clone(&self.decode) }
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
        let (client, prefix) = (client_of_environment()?, uri.parse()?);
        Io::shared()?.run(Self::list(client, prefix))
    }

    /// As [`open`](Self::open), without blocking.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn open_async(uri: &str) -> Result<Self> {
        Self::open_async_with(client_of_environment()?, uri).await
    }

    /// As [`open_with`](Self::open_with), without blocking.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub async fn open_async_with(client: Client, uri: &str) -> Result<Self> {
        let prefix = uri.parse()?;
        // Not on the caller's runtime: connections live and die with the one that opened them.
        Io::shared()?.spawn(Self::list(client, prefix)).await
    }

    /// As [`open`](Self::open), through a client of one's own: another store, endpoint, credential or retry policy.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_with(client: Client, uri: &str) -> Result<Self> {
        let prefix = uri.parse()?;
        Io::shared()?.run(Self::list(client, prefix))
    }

    /// The data set of a manifest, such as one that [`Manifest::load`] has opened: nothing is listed, and what has been
    /// overwritten or deleted since is an error when it is read. With the credentials of the environment; blocks while
    /// the bucket is asked for what it tells of itself.
    ///
    /// # Errors
    /// No such bucket; no credentials.
    pub fn from_manifest(manifest: impl Into<Arc<Manifest>>) -> Result<Self> {
        Self::from_manifest_with(client_of_environment()?, manifest)
    }

    /// As [`from_manifest`](Self::from_manifest), through a client of one's own.
    ///
    /// # Errors
    /// As for [`from_manifest`](Self::from_manifest).
    pub fn from_manifest_with(client: Client, manifest: impl Into<Arc<Manifest>>) -> Result<Self> {
        let manifest = manifest.into();
        let (asking, bucket) = (client.clone(), Arc::clone(&manifest.prefix().bucket));
        let bucket = Io::shared()?.run(async move { asking.bucket_info(&bucket).await })?;
        Ok(Self { source: Arc::new(Source { client, manifest, bucket }), decode: Arc::new(Raw) })
    }

    async fn list(client: Client, prefix: Prefix) -> Result<Self> {
        let bucket = Arc::clone(&prefix.bucket);
        let (objects, info) =
            tokio::try_join!(list(&client, &prefix, None, Fields::Sample, |_| ()), client.bucket_info(&bucket))?;
        let manifest = Arc::new(Manifest::new(prefix, &objects)?);
        drop(objects);
        let left_out = manifest.left_out();
        tracing::info!(
            prefix = %manifest.prefix(),
            samples = manifest.len(),
            bytes = manifest.bytes(),
            directory_markers = left_out.directory_markers,
            temporaries = left_out.temporaries,
            "listed"
        );
        Ok(Self { source: Arc::new(Source { client, manifest, bucket: info }), decode: Arc::new(Raw) })
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
        DatafluxDataset { source: self.source, decode: Arc::new(decode) }
    }

    /// Number of samples, at least 1.
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

    /// Facts of the bucket, as far as they are told.
    pub fn bucket_info(&self) -> &BucketInfo {
        &self.source.bucket
    }
}

impl<D: Decode> DatafluxDataset<D> {
    /// Reads, proves and decodes the sample at `index`, counted from 0 in byte order of names. Blocks.
    ///
    /// # Errors
    /// An index beyond the end; an object that is another than the one listed; bytes that its CRC or the decoder
    /// refuses.
    pub fn get(&self, index: u64) -> Result<D::Item> {
        let Source { client, manifest, .. } = &*self.source;
        if index >= manifest.len() {
            return Err(Error::new(ErrorKind::Config, "there is no sample of that index")
                .stage(Stage::Sample)
                .object(manifest.prefix())
                .mismatch(format_args!("an index below {}", manifest.len()), index));
        }
        let size = manifest.facts_at(index)?.size;
        let method = if size == 0 { Method::Empty } else { Method::Direct };
        let group = Group { method, slices: vec![Slice { slot: 0, id: SampleId(index), range: 0..size }] };
        let io = Io::shared()?;
        let fetcher = Fetcher::new(client.clone(), Arc::clone(manifest), Arc::clone(&io), &self.source.bucket);
        let manifest = Arc::clone(manifest);
        let sample = io.run(async move {
            let mut samples = read_alone(&fetcher, &manifest, group).await?;
            samples.pop().map(|(_, sample)| sample).ok_or_else(|| Error::new(ErrorKind::Internal, "nothing was read"))
        })?;
        let id = sample.manifest().id(sample.entry());
        guarded(|| self.decode.decode(sample)).map_err(|cause| refused(id, &cause))
    }
}
