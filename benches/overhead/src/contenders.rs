//! The loaders, each with the settings that suit it best.

use std::sync::Arc;

use ai_dataloader::collate::{Collate, DefaultCollate, NoOpCollate};
use burn_core::data::dataloader::DataLoaderBuilder;
use burn_core::data::dataloader::batcher::Batcher;
use burn_core::data::dataset::InMemDataset;
use burn_core::tensor::Device;
use bytes::Bytes;
use dataflux::plan::Strategy;
use dataflux::store::{Client, MemoryStore};
use dataflux::{DataLoader, DatafluxDataset, Event, EventKind};

use crate::{Seen, Workload};

/// A loader, and a function that runs an epoch with it.
pub(crate) struct Contender<'a> {
    pub(crate) name: String,
    /// Number of threads in addition to the consumer's.
    pub(crate) threads: &'static str,
    pub(crate) sample: &'static str,
    pub(crate) epoch: Box<dyn FnMut() -> anyhow::Result<Seen> + 'a>,
}

impl Contender<'_> {
    /// Whether this is another loader, with threads of its own.
    pub(crate) fn is_threaded_peer(&self) -> bool {
        self.threads != "0" && !self.name.starts_with("dataflux")
    }
}

/// A sample that is a reference to shared bytes.
#[derive(Clone, Debug)]
pub(crate) struct Shared(pub(crate) Bytes);

/// A sample that is a copy.
#[derive(Clone, Debug)]
pub(crate) struct Copied(pub(crate) Vec<u8>);

/// A sample as a loader returns it.
pub(crate) trait Sample: Clone + std::fmt::Debug + Send + Sync + 'static {
    const WHAT: &'static str;
    fn bytes(&self) -> &[u8];
}

impl Sample for Shared {
    const WHAT: &'static str = "shared `Bytes`";
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Sample for Copied {
    const WHAT: &'static str = "a copied `Vec<u8>`";
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn look_at<S: Sample>(seen: &mut Seen, batch: &[S]) {
    batch.iter().for_each(|sample| seen.look(sample.bytes()));
}

pub(crate) fn all<'a>(
    workload: &'a Workload,
    shared: &'a [Shared],
    copied: &'a [Copied],
) -> anyhow::Result<Vec<Contender<'a>>> {
    let mut all = vec![plain(workload, shared), dataflux(workload, shared, None)?];
    if workload.observed {
        all.push(dataflux(workload, shared, Some(&[EventKind::BatchDelivered]))?);
        all.push(dataflux(workload, shared, Some(&EventKind::all().collect::<Vec<_>>()))?);
    }
    all.extend([
        burn(workload, shared, 0),
        burn(workload, copied, 0),
        burn(workload, shared, 2),
        burn(workload, copied, 2),
    ]);
    for threads in [0, 2] {
        all.extend([dataloader_rs(workload, shared, threads), dataloader_rs(workload, copied, threads)]);
    }
    if workload.shuffled {
        all.extend([
            ai_dataloader(shared, |data| shuffled_ai(workload, data)),
            ai_dataloader(copied, |data| shuffled_ai(workload, data)),
        ]);
    } else {
        all.extend([
            ai_dataloader(shared, |data| ordered_ai(workload, data)),
            ai_dataloader(copied, |data| ordered_ai(workload, data)),
        ]);
    }
    Ok(all)
}

/// No loader: the order is computed beforehand, and each batch is a `Vec` of clones.
fn plain<'a>(workload: &'a Workload, data: &'a [Shared]) -> Contender<'a> {
    let mut order: Vec<usize> = (0..data.len()).collect();
    if workload.shuffled {
        let mut state = 1u64;
        for at in (1..order.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            order.swap(at, (state >> 33) as usize % (at + 1));
        }
    }
    let epoch = Box::new(move || {
        let mut seen = Seen::default();
        for batch in order.chunks(workload.batch) {
            let batch: Vec<Shared> = batch.iter().map(|&index| data[index].clone()).collect();
            look_at(&mut seen, &batch);
        }
        Ok(seen)
    });
    Contender { name: "plain loop".to_owned(), threads: "0", sample: Shared::WHAT, epoch }
}

/// This crate: every sample is proved by its CRC32C, pinned to its generation, counted, and within the memory budget.
/// With `kinds` an observer counts events of these kinds.
fn dataflux(workload: &Workload, data: &[Shared], kinds: Option<&[EventKind]>) -> anyhow::Result<Contender<'static>> {
    let store = MemoryStore::new();
    for (index, sample) in data.iter().enumerate() {
        store.insert("samples", &format!("train/{index:08}.bin"), sample.0.clone());
    }
    let dataset = DatafluxDataset::open_with(Client::new(Arc::new(store)), "gs://samples/train/")?;
    let builder = DataLoader::builder(dataset).batch_size(workload.batch).strategy(Strategy::Direct);
    let builder = if workload.shuffled { builder.shuffle(1) } else { builder };
    let builder = match kinds {
        Some(kinds) => {
            let mut counts = [0u64; 32];
            builder.observe(kinds.iter().copied(), move |event: &Event| counts[event.kind() as usize] += 1)
        }
        None => builder,
    };
    let loader = builder.build()?;
    let mut number = 0;
    let epoch = Box::new(move || {
        let mut seen = Seen::default();
        let mut batches = loader.epoch(number)?;
        for batch in &mut batches {
            batch?.iter().for_each(|sample| seen.look(sample.bytes()));
        }
        let lost = batches.stats().events_lost;
        if lost > 0 {
            eprintln!("the observer lost {lost} events, so its row is too good");
        }
        number += 1;
        Ok(seen)
    });
    let name = match kinds {
        None => "dataflux",
        Some([_]) => "dataflux, batches counted",
        Some(_) => "dataflux, events counted",
    };
    Ok(Contender { name: name.to_owned(), threads: "its own", sample: "shared `Bytes`, proved", epoch })
}

struct Keep;

impl<S: Sample> Batcher<S, Vec<S>> for Keep {
    fn batch(&self, items: Vec<S>, _: &Device) -> Vec<S> {
        items
    }
}

fn burn<S: Sample>(workload: &Workload, data: &[S], threads: usize) -> Contender<'static> {
    // A device is required, but nothing is put on it.
    let builder = DataLoaderBuilder::new(Keep).set_device(Device::capture());
    let mut builder = builder.batch_size(workload.batch).num_workers(threads);
    if workload.shuffled {
        builder = builder.shuffle(1);
    }
    let loader = builder.build(InMemDataset::new(data.to_vec()));
    let epoch = Box::new(move || {
        let mut seen = Seen::default();
        for batch in loader.iter() {
            look_at::<S>(&mut seen, &batch?);
        }
        Ok(seen)
    });
    Contender { name: "burn".to_owned(), threads: ["0", "1", "2"][threads], sample: S::WHAT, epoch }
}

struct Indexed<S>(Vec<S>);

impl<S: Sample> dataloader_rs::Dataset for Indexed<S> {
    type Item = S;

    fn get(&self, index: usize) -> dataloader_rs::error::Result<S> {
        Ok(self.0[index].clone())
    }

    fn len(&self) -> usize {
        self.0.len()
    }
}

/// Batches that `dataloader-rs` prefetches: more made it no faster here, fewer made it slower.
const PREFETCHED_BATCHES: usize = 16;

fn dataloader_rs<S: Sample>(workload: &Workload, data: &[S], threads: usize) -> Contender<'static> {
    let builder = dataloader_rs::DataLoader::builder(Indexed(data.to_vec()))
        .batch_size(workload.batch)
        .num_workers(threads)
        .prefetch_depth(PREFETCHED_BATCHES);
    let epoch: Box<dyn FnMut() -> anyhow::Result<Seen>> = if workload.shuffled {
        let mut loader = builder.sampler(dataloader_rs::RandomSampler::new(1)).build();
        Box::new(move || run_epoch(&mut loader))
    } else {
        let mut loader = builder.build();
        Box::new(move || run_epoch(&mut loader))
    };
    Contender { name: "dataloader-rs".to_owned(), threads: ["0", "1", "2"][threads], sample: S::WHAT, epoch }
}

fn run_epoch<S, O>(
    loader: &mut dataloader_rs::DataLoader<Indexed<S>, O, dataloader_rs::collator::VecCollator>,
) -> anyhow::Result<Seen>
where
    S: Sample,
    O: dataloader_rs::Sampler,
{
    let mut seen = Seen::default();
    for batch in loader.iter() {
        let batch = batch.map_err(|error| anyhow::anyhow!("{error}"))?;
        look_at::<S>(&mut seen, &batch);
    }
    Ok(seen)
}

// The builder requires these, although another collate function is set afterwards.
impl Collate<Shared> for DefaultCollate {
    type Output = Vec<Shared>;

    fn collate(&self, batch: Vec<Shared>) -> Vec<Shared> {
        batch
    }
}

impl Collate<Copied> for DefaultCollate {
    type Output = Vec<Copied>;

    fn collate(&self, batch: Vec<Copied>) -> Vec<Copied> {
        batch
    }
}

type Ai<S, O> = ai_dataloader::indexable::DataLoader<Vec<S>, O, NoOpCollate>;

/// All loaders use one thread pool of the process, whose size the first loader sets, so there is only one row.
fn ai_dataloader<S: Sample, O: ai_dataloader::sampler::Sampler + 'static>(
    data: &[S],
    make: impl FnOnce(Vec<S>) -> Ai<S, O>,
) -> Contender<'static> {
    let loader = make(data.to_vec());
    let epoch = Box::new(move || {
        let mut seen = Seen::default();
        for batch in &loader {
            look_at::<S>(&mut seen, &batch);
        }
        Ok(seen)
    });
    Contender { name: "ai-dataloader".to_owned(), threads: "2", sample: S::WHAT, epoch }
}

fn shuffled_ai<S: Sample>(workload: &Workload, data: Vec<S>) -> Ai<S, ai_dataloader::sampler::RandomSampler>
where
    DefaultCollate: Collate<S>,
{
    let builder = ai_dataloader::indexable::DataLoader::builder(data).batch_size(workload.batch).num_threads(2);
    builder.shuffle().collate_fn(NoOpCollate).build()
}

fn ordered_ai<S: Sample>(workload: &Workload, data: Vec<S>) -> Ai<S, ai_dataloader::sampler::SequentialSampler>
where
    DefaultCollate: Collate<S>,
{
    let builder = ai_dataloader::indexable::DataLoader::builder(data).batch_size(workload.batch).num_threads(2);
    builder.collate_fn(NoOpCollate).build()
}
