//! Shared by the training examples: a bucket to read from, and the report.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result};
use dataflux::metrics::Counts;
use dataflux::store::{Client, Credentials, GcsConfig, GcsStore, PutRequest};
use dataflux::{Batches, DataLoader, DatafluxDataset, ImageFolder};
use dataflux_emulator::{Emulator, Profile};
use futures_util::{StreamExt, TryStreamExt, stream};

/// Trains a small convolutional network on handwritten digits read from a bucket.
#[derive(clap::Parser)]
pub(crate) struct Args {
    /// Where `train/` and `test/` are, such as gs://my-bucket/digits/. Without it, an emulator is started in this
    /// process and `datasets/digits` is uploaded to it
    #[arg(long)]
    uri: Option<String>,
    /// How the emulator behaves: `fast`, or `gcs` for the delays and limits of a real bucket
    #[arg(long, default_value = "fast")]
    profile: Profile,
    /// Number of epochs
    #[arg(long, default_value_t = 12)]
    pub(crate) epochs: u64,
    /// Images in a batch
    #[arg(long, default_value_t = 32)]
    batch_size: usize,
    /// Seed of the order of images
    #[arg(long, default_value_t = 42)]
    seed: u64,
}

/// The loaders of the data sets, and the client and emulator behind them.
pub(crate) struct Digits {
    pub(crate) train: DataLoader<ImageFolder>,
    pub(crate) test: DataLoader<ImageFolder>,
    client: Client,
    runtime: tokio::runtime::Runtime,
    /// Stops when it is dropped.
    _emulator: Option<Emulator>,
}

impl Digits {
    pub(crate) fn open(args: &Args) -> Result<Self> {
        // On Ctrl-C, temporary objects are deleted before the process ends.
        dataflux::clean_up_on_signals()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (emulator, config, uri) = if let Some(uri) = &args.uri {
            (None, GcsConfig::from_env(), format!("{}/", uri.trim_end_matches('/')))
        } else {
            let emulator = Emulator::builder().bucket("digits").start().context("starting the emulator")?;
            let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
            (Some(emulator), config, "gs://digits/".to_owned())
        };
        let client = Client::new(Arc::new(GcsStore::new(config)?));
        if let Some(emulator) = &emulator {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/digits");
            let files = runtime.block_on(upload(&client, &folder, "digits"))?;
            println!("uploaded {files} images to the emulator at {}", emulator.endpoint());
            emulator.set_profile(args.profile.clone());
        }
        let open = |part: &str| DatafluxDataset::open_with(client.clone(), &format!("{uri}{part}/"));
        let decode = ImageFolder::new().grayscale();
        let (train, test) = (open("train")?.decode(decode.clone()), open("test")?.decode(decode));
        println!(
            "{} images to train on and {} to test, of {} classes",
            train.len(),
            test.len(),
            train.manifest().labels().len()
        );
        let train = DataLoader::builder(train).batch_size(args.batch_size).shuffle(args.seed).build()?;
        let test = DataLoader::builder(test).batch_size(256).build()?;
        Ok(Self { train, test, client, runtime, _emulator: emulator })
    }

    /// Runs `step` on every batch of an epoch. `step` returns the sum of the losses of its samples.
    pub(crate) fn epoch(
        &self,
        epoch: u64,
        mut step: impl FnMut(dataflux::Batch<dataflux::Images>) -> Result<f64>,
    ) -> Result<()> {
        let before = self.client.metrics().snapshot();
        let started = Instant::now();
        let mut batches: Batches<_> = self.train.epoch(epoch)?;
        let mut loss = 0.0;
        for batch in &mut batches {
            loss += step(batch?)?;
        }
        let stats = batches.stats();
        println!(
            "epoch {epoch:>2}: loss {:.4}, {:>6.0} samples/s, {:>4.1}% of the time waiting for data, {}",
            loss / stats.samples as f64,
            stats.samples as f64 / started.elapsed().as_secs_f64(),
            100.0 * stats.wait_fraction(),
            calls(&self.client.metrics().snapshot().since(&before)),
        );
        Ok(())
    }

    /// Prints the result, the calls and their cost, after the work on the bucket has ended.
    pub(crate) fn report(self, right: u64) -> Result<()> {
        let bucket = Arc::clone(&self.test.dataset().manifest().prefix().bucket);
        let (tested, bill) = (self.test.dataset().len(), self.train.bill());
        println!("altogether, with the upload and the test: {}", calls(&self.client.metrics().snapshot()));
        drop((self.train, self.test));
        dataflux::wait_for_temporaries(std::time::Duration::from_secs(30));
        let left = self.runtime.block_on(dataflux::compose::count_own_temporaries(&self.client, &bucket))?;
        println!("estimated cost on Google Cloud Storage: ${:.6}", bill.total());
        println!("temporaries left: {left}");
        println!("test accuracy: {:.4}", right as f64 / tested as f64);
        Ok(())
    }
}

fn calls(counts: &Counts) -> String {
    let Counts { list, get, compose, delete, put, .. } = counts;
    format!("calls: {list} list, {get} get, {compose} compose, {delete} delete, {put} put")
}

async fn upload(client: &Client, folder: &Path, bucket: &str) -> Result<usize> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().with_context(|| format!("reading {}", folder.display()))? {
            let path = entry?.path();
            match path.extension() {
                _ if path.is_dir() => folders.push(path),
                Some(extension) if extension == "png" => files.push(path),
                _ => {}
            }
        }
    }
    let put = async |path: &Path| -> Result<()> {
        let name = path.strip_prefix(folder)?.to_string_lossy().replace('\\', "/");
        let mut request = PutRequest::new(bucket, name, std::fs::read(path)?);
        request.content_type = Some("image/png".to_owned());
        client.put(&request).await?;
        Ok(())
    };
    stream::iter(&files).map(|path| put(path)).buffer_unordered(32).try_collect::<()>().await?;
    Ok(files.len())
}
