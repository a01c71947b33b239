//! Augmentation: what a decoder does at random with a sample depends on the seed, the epoch and the sample alone.

use std::collections::BTreeMap;

use dataflux::store::MemoryStore;
use dataflux::{
    Batch, Batches, DataLoader, DataLoaderBuilder, DatafluxDataset, Decode, IMAGENET_MEAN, IMAGENET_STD, ImageFolder,
    Images, MixImages, OnError, Raw, RawSample, Samples, Shuffle, State, Strategy, Transforms, Weighted,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::support::{STRATEGIES, bucket, client, png, without_hanging};

/// What a decoder did with a sample.
#[derive(Clone, Debug, PartialEq)]
struct Augmented {
    epoch: u64,
    position: u64,
    offset: u64,
    is_flipped: bool,
}

/// By the ids of the samples.
type Seen = BTreeMap<u64, Augmented>;

fn augment(sample: &RawSample) -> (u64, Augmented) {
    let mut rng = StdRng::seed_from_u64(sample.rng_seed());
    let (offset, is_flipped) = (rng.random(), rng.random());
    (sample.id().0, Augmented { epoch: sample.epoch(), position: sample.position(), offset, is_flipped })
}

fn dataset() -> DatafluxDataset {
    DatafluxDataset::open_with(client(bucket(200).0), "gs://data/p/").unwrap()
}

/// A builder of loaders that augment on the decode threads.
fn augmenting(dataset: DatafluxDataset) -> DataLoaderBuilder<impl Decode<Item = (u64, Augmented), Collate = Samples>> {
    DataLoader::builder(dataset.decode(|sample: RawSample| Ok(augment(&sample)))).batch_size(8).shuffle(42)
}

/// Adds what `batches` bring. Each batch says itself which position each sample has.
fn collect(seen: &mut Seen, batches: &mut Batches<Vec<(u64, Augmented)>>, most: usize) {
    for batch in batches.take(most) {
        for (id, augmented) in batch.unwrap().into_inner() {
            assert_eq!(seen.insert(id, augmented), None);
        }
    }
}

/// An epoch of one rank, at one decode thread.
fn alone(epoch: u64) -> Seen {
    let loader = augmenting(dataset()).decode_threads(1).build().unwrap();
    let mut seen = Seen::new();
    collect(&mut seen, &mut loader.epoch(epoch).unwrap(), usize::MAX);
    assert_eq!(seen.len(), 200);
    seen
}

#[test]
fn augmentation_is_the_same_at_any_number_of_threads_and_ranks_and_after_a_resume() {
    without_hanging(|| {
        let wanted = alone(3);
        for strategy in STRATEGIES {
            let mut seen = Seen::new();
            for rank in 0..3 {
                let loader = augmenting(dataset()).shard(rank, 3).decode_threads(4).strategy(strategy);
                collect(&mut seen, &mut loader.build().unwrap().epoch(3).unwrap(), usize::MAX);
            }
            assert_eq!(seen, wanted, "{strategy:?}");
        }

        let mut seen = Seen::new();
        let loader = augmenting(dataset()).decode_threads(4).build().unwrap();
        let mut batches = loader.epoch(3).unwrap();
        collect(&mut seen, &mut batches, 11);
        let state: State = serde_json::from_str(&serde_json::to_string(&batches.state()).unwrap()).unwrap();
        for rank in 0..2 {
            let loader = augmenting(dataset()).shard(rank, 2).resume(state.clone()).build().unwrap();
            collect(&mut seen, &mut loader.epoch(3).unwrap(), usize::MAX);
        }
        assert_eq!(seen, wanted);
    });
}

#[test]
fn each_epoch_and_each_seed_augments_otherwise() {
    without_hanging(|| {
        let offsets = |seen: &Seen| seen.values().map(|augmented| augmented.offset).collect::<Vec<_>>();
        let first = alone(0);
        assert!(first.values().all(|augmented| augmented.epoch == 0));
        let mut positions: Vec<_> = first.values().map(|augmented| augmented.position).collect();
        positions.sort_unstable();
        assert!(positions.into_iter().eq(0..200));

        let other_seed = {
            let dataset = dataset().decode(|sample: RawSample| Ok(augment(&sample)));
            let loader = DataLoader::builder(dataset).batch_size(8).shuffle(43).build().unwrap();
            let mut seen = Seen::new();
            collect(&mut seen, &mut loader.epoch(0).unwrap(), usize::MAX);
            seen
        };
        let mut all: Vec<_> = [&first, &alone(1), &other_seed].into_iter().flat_map(offsets).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 600);
    });
}

/// A light decoder passes no decode thread, and `get` no epoch.
#[test]
fn stored_bytes_know_their_place_too() {
    without_hanging(|| {
        let (dataset, shuffled) = (dataset(), alone(3));
        let places = |builder: DataLoaderBuilder<Raw>| {
            let loader = builder.batch_size(8).strategy(Strategy::Direct).build().unwrap();
            let batches = loader.epoch(3).unwrap().map(|batch| batch.unwrap().into_inner());
            batches.flatten().map(|sample| augment(&sample)).collect::<Seen>()
        };
        assert_eq!(places(DataLoader::builder(dataset.clone()).shuffle(42)), shuffled);

        let in_order = DataLoader::builder(dataset.clone()).batch_size(8).build().unwrap();
        let in_order = in_order.epoch(0).unwrap().flat_map(|batch| batch.unwrap().into_inner());
        for (index, sample) in (0..).zip(in_order) {
            assert_eq!(augment(&dataset.get(index).unwrap()), augment(&sample));
            assert_eq!(sample.position(), index);
        }
    });
}

#[test]
fn a_repeated_sample_has_its_own_positions() {
    without_hanging(|| {
        let weights: Vec<_> = (0..200).map(|index| if index == 7 { 100.0 } else { 1.0 }).collect();
        let dataset = dataset().decode(|sample: RawSample| Ok(augment(&sample)));
        let loader = DataLoader::builder(dataset).sampler(Weighted::new(42, &weights).unwrap()).build().unwrap();
        let drawn: Vec<_> = loader.epoch(0).unwrap().flat_map(|batch| batch.unwrap().into_inner()).collect();
        assert!(drawn.iter().map(|(_, augmented)| augmented.position).eq(0..200));
        let repeated: Vec<_> = drawn.iter().filter(|(id, _)| *id == 7).collect();
        assert!(repeated.len() > 1 && repeated.iter().all(|(_, augmented)| augmented.offset == repeated[0].1.offset));
    });
}

/// A substitute is augmented as itself, at the position of the sample that it replaces.
#[test]
fn a_substitute_has_the_position_of_the_sample_that_it_replaces() {
    without_hanging(|| {
        let wanted = alone(0);
        let decode = |sample: RawSample| {
            anyhow::ensure!(sample.id().0 != 7, "seven");
            Ok(augment(&sample))
        };
        let loader = DataLoader::builder(dataset().decode(decode)).batch_size(8).sampler(Shuffle::new(42));
        let loader = loader.on_error(OnError::Substitute { limit: 1 }).build().unwrap();
        let seen: Vec<_> = loader.epoch(0).unwrap().flat_map(|batch| batch.unwrap().into_inner()).collect();
        assert!(seen.iter().map(|(_, augmented)| augmented.position).eq(0..200));
        let (id, substitute) = &seen[wanted[&7].position as usize];
        assert!(*id != 7 && substitute.offset == wanted[id].offset, "{id}");
    });
}

/// 60 small images of three classes.
fn pictures() -> MemoryStore {
    let store = MemoryStore::new().with_bucket("data");
    for index in 0..60_u32 {
        let (height, width) = (40 + index % 7, 50 - index % 5);
        let pixels: Vec<u8> = (0..height * width).map(|at| (at * (index + 3) % 251) as u8).collect();
        store.insert("data", &format!("p/{}/{index:03}.png", index % 3), png(height, width, &pixels));
    }
    store
}

/// Images with every kind of random step, as `run` delivers them, by the id of each sample.
fn transformed(run: impl Fn(DatafluxDataset<ImageFolder>) -> Vec<Batch<Images>>) -> BTreeMap<u64, Vec<u32>> {
    let steps = Transforms::new()
        .random_resized_crop(24, 32)
        .horizontal_flip(0.5)
        .rand_augment()
        .color_jitter(0.4, 0.4, 0.4, 0.1)
        .gaussian_blur(3)
        .random_erasing(0.5);
    let images = ImageFolder::new().transform(steps).normalize(&IMAGENET_MEAN, &IMAGENET_STD);
    let dataset = DatafluxDataset::open_with(client(pictures()), "gs://data/p/").unwrap().decode(images);

    let mut seen = BTreeMap::new();
    for batch in run(dataset) {
        assert_eq!(batch.shape[1..], [3, 24, 32]);
        for (id, pixels) in batch.ids().iter().zip(batch.pixels.chunks_exact(3 * 24 * 32)) {
            assert!(seen.insert(id.0, pixels.iter().map(|value| value.to_bits()).collect()).is_none());
        }
    }
    assert_eq!(seen.len(), 60);
    seen
}

#[test]
fn transformed_images_are_the_same_at_1_and_8_threads_at_1_and_3_ranks_and_after_a_resume() {
    without_hanging(|| {
        let builder = |dataset| DataLoader::builder(dataset).batch_size(6).shuffle(42);
        let epoch = |number: u64, threads: usize| {
            transformed(|dataset| {
                let loader = builder(dataset).decode_threads(threads).build().unwrap();
                loader.epoch(number).unwrap().map(Result::unwrap).collect()
            })
        };
        let wanted = epoch(2, 1);
        assert_eq!(epoch(2, 8), wanted);
        assert!(epoch(3, 8).iter().all(|(id, pixels)| wanted[id] != *pixels), "each epoch has its own");

        let resumed_by_ranks = transformed(|dataset| {
            let loader = builder(dataset.clone()).decode_threads(8).build().unwrap();
            let mut first = loader.epoch(2).unwrap();
            let mut batches: Vec<_> = first.by_ref().take(4).map(Result::unwrap).collect();
            let state = first.state();
            for rank in 0..3 {
                let loader = builder(dataset.clone()).shard(rank, 3).resume(state.clone()).build().unwrap();
                batches.extend(loader.epoch(2).unwrap().map(Result::unwrap));
            }
            batches
        });
        assert_eq!(resumed_by_ranks, wanted);
    });
}

/// A batch is mixed by a seed of its own, so it stays what it is at other numbers of threads and after a resume.
#[test]
fn mixed_batches_are_the_same_at_1_and_8_threads_and_after_a_resume() {
    without_hanging(|| {
        let images = ImageFolder::new().resize(16, 16);
        let mix = MixImages::new(images.collate(), 3).mixup(0.4).cutmix(1.0);
        let dataset = DatafluxDataset::open_with(client(pictures()), "gs://data/p/").unwrap();
        let dataset = dataset.decode(images).collate(mix);
        let builder =
            |threads: usize| DataLoader::builder(dataset.clone()).batch_size(6).shuffle(42).decode_threads(threads);
        let facts = |batch: dataflux::Result<Batch<Images<f32, Vec<f32>>>>| {
            let batch = batch.unwrap();
            (batch.positions(), batch.into_inner())
        };

        let all = |number: u64, threads: usize| -> Vec<_> {
            builder(threads).build().unwrap().epoch(number).unwrap().map(facts).collect()
        };
        let wanted = all(2, 1);
        assert_eq!(all(2, 8), wanted);
        let shares: std::collections::HashSet<u32> = wanted
            .iter()
            .chain(&all(3, 8))
            .map(|(_, batch)| batch.labels[0].iter().fold(0.0, |a, b| b.max(a)).to_bits())
            .collect();
        assert!(shares.len() > 12, "each batch of each epoch is mixed in its own way: {shares:?}");

        let loader = builder(8).build().unwrap();
        let mut first = loader.epoch(2).unwrap();
        let mut resumed: Vec<_> = first.by_ref().take(4).map(facts).collect();
        let loader = builder(8).resume(first.state()).build().unwrap();
        resumed.extend(loader.epoch(2).unwrap().map(facts));
        assert_eq!(resumed, wanted);
    });
}
