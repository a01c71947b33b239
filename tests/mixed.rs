//! Loaders of several buckets as one: shares, orders, stops and ways on.

mod support;

use std::time::Duration;

use dataflux::store::MemoryStore;
use dataflux::{
    DataLoader, DataLoaderBuilder, DatafluxDataset, ErrorKind, MixedLoader, MixedLoaderBuilder, MixedState, Raw,
    RawSample, Strategy,
};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;
use support::{STRATEGIES, bucket, client, without_hanging};

type Raws = Vec<RawSample>;

/// A store of its own for each data set.
fn dataset(samples: usize) -> (DatafluxDataset, MemoryStore) {
    let store = bucket(samples).0;
    (DatafluxDataset::open_with(client(store.clone()), "gs://data/p/").unwrap(), store)
}

#[derive(Clone, Debug)]
struct Part {
    samples: usize,
    weight: f64,
    /// Samples of a batch over all ranks.
    batch: usize,
    drop_last: bool,
}

#[derive(Clone, Debug)]
struct Run {
    parts: Vec<Part>,
    seed: u64,
    until_all: bool,
}

#[derive(Clone, Copy, Debug)]
struct Leg {
    world: usize,
    steps: usize,
    strategy: Strategy,
    prefetch: usize,
}

impl Run {
    fn part(&self, number: usize, dataset: &DatafluxDataset) -> DataLoaderBuilder<Raw> {
        let part = &self.parts[number];
        DataLoader::builder(dataset.clone())
            .shuffle(self.seed ^ number as u64)
            .global_batch_size(part.batch)
            .drop_last(part.drop_last)
            .decode_threads(1)
    }

    fn builder(&self, datasets: &[DatafluxDataset], leg: Leg, rank: usize) -> MixedLoaderBuilder<Raws> {
        let mut mixed = MixedLoader::builder(self.seed);
        for (number, (part, dataset)) in self.parts.iter().zip(datasets).enumerate() {
            let loader =
                self.part(number, dataset).shard(rank, leg.world).strategy(leg.strategy).prefetch(leg.prefetch);
            mixed = mixed.add(loader.build().unwrap(), part.weight);
        }
        if self.until_all { mixed.until_all() } else { mixed }
    }
}

/// The ids of each step, over all ranks, each with its part.
type Steps = Vec<(usize, Vec<u64>)>;

/// Steps of some epochs on all ranks, from a state on, and where it stopped.
fn ride(
    run: &Run,
    datasets: &[DatafluxDataset],
    leg: Leg,
    (from, epochs): (Option<&MixedState>, std::ops::Range<u64>),
) -> (Steps, Option<MixedState>) {
    let mut steps: Steps = Vec::new();
    let mut state = None;
    for rank in 0..leg.world {
        let builder = run.builder(datasets, leg, rank);
        let mixed = match from {
            None => builder.build().unwrap(),
            Some(state) => builder.resume(state.clone()).unwrap(),
        };
        let (mut step, mut stood) = (0, None);
        for epoch in epochs.clone() {
            let mut batches = mixed.epoch(epoch).unwrap();
            while step < leg.steps
                && let Some(batch) = batches.next()
            {
                let (part, batch) = batch.unwrap();
                let ids = batch.ids().iter().map(|id| id.0);
                if rank == 0 {
                    steps.push((part, ids.collect()));
                } else {
                    assert_eq!(steps[step].0, part, "ranks that take of different parts");
                    steps[step].1.extend(ids);
                }
                step += 1;
            }
            stood = Some(batches.state());
            if step == leg.steps {
                break;
            }
        }
        assert_eq!(step, steps.len(), "ranks of other numbers of batches");
        if rank > 0 {
            assert_eq!(state, stood);
        }
        state = stood;
        assert!(mixed.close(Duration::from_secs(60)).is_clean());
    }
    (steps, state)
}

fn run() -> impl proptest::strategy::Strategy<Value = Run> {
    let part = (4usize..60, 0.2f64..3.0, 4usize..12, any::<bool>())
        .prop_map(|(samples, weight, batch, drop_last)| Part { samples: samples.max(batch), weight, batch, drop_last });
    (prop::collection::vec(part, 1..4), any::<u64>(), any::<bool>())
        .prop_map(|(parts, seed, until_all)| Run { parts, seed, until_all })
        // A share that rounds to nothing is refused.
        .prop_filter("every part comes", |run| {
            let datasets: Vec<_> = run.parts.iter().map(|part| dataset(part.samples).0).collect();
            let leg = Leg { world: 1, steps: 0, strategy: Strategy::Direct, prefetch: 1 };
            run.builder(&datasets, leg, 0).build().is_ok()
        })
}

fn leg() -> impl proptest::strategy::Strategy<Value = Leg> {
    (1usize..4, 0usize..9, prop::sample::select(STRATEGIES.to_vec()), 1usize..6)
        .prop_map(|(world, steps, strategy, prefetch)| Leg { world, steps, strategy, prefetch })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each part gives its batches in the order that its own loader has, epoch after epoch, whole; and stopped anywhere and
    /// gone on with other ranks and ways to read, the steps are those of the run that was never stopped.
    #[test]
    fn parts_keep_their_order_and_stops_change_nothing(run in run(), legs in prop::collection::vec(leg(), 1..4)) {
        without_hanging(move || {
            const EPOCHS: u64 = 3;
            let datasets: Vec<_> = run.parts.iter().map(|part| dataset(part.samples).0).collect();
            let straight = Leg { world: 1, steps: usize::MAX, strategy: Strategy::Direct, prefetch: 4 };
            let (whole, _) = ride(&run, &datasets, straight, (None, 0..EPOCHS));
            for (number, dataset) in datasets.iter().enumerate() {
                let of_part: Vec<_> = whole.iter().filter(|(part, _)| *part == number).map(|(_, ids)| ids.clone()).collect();
                let loader = run.part(number, dataset).build().unwrap();
                let mut own = (0..).flat_map(|epoch| loader.epoch(epoch).unwrap().map(|batch| batch.unwrap().ids().to_vec()));
                for ids in of_part {
                    let wanted: Vec<_> = own.next().unwrap().into_iter().map(|id| id.0).collect();
                    assert_eq!(ids, wanted, "part {number}");
                }
            }
            let (mut steps, mut state): (Steps, Option<MixedState>) = (Vec::new(), None);
            for (number, leg) in legs.iter().enumerate() {
                let last = number + 1 == legs.len();
                let leg = Leg { steps: if last { usize::MAX } else { leg.steps }, ..*leg };
                let epoch = state.as_ref().map_or(0, |state| state.epoch);
                let (taken, stood) = ride(&run, &datasets, leg, (state.as_ref(), epoch..EPOCHS));
                steps.extend(taken);
                // As it is saved.
                state = stood.map(|state| serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap());
            }
            assert_eq!(steps, whole);
        });
    }
}

fn loader(dataset: &DatafluxDataset, batch: usize) -> DataLoader {
    DataLoader::builder(dataset.clone()).batch_size(batch).build().unwrap()
}

/// Also of what was read ahead when the epoch ended, or the iterator was dropped after its last batch.
#[test]
fn nothing_is_read_that_is_not_delivered() {
    without_hanging(|| {
        let (small, large) = (dataset(40).0, dataset(4_000).0);
        let mixed = MixedLoader::builder(1).add(loader(&small, 4), 1.0).add(loader(&large, 4), 1.0).build().unwrap();
        let samples: usize = mixed.epoch(0).unwrap().map(|batch| batch.unwrap().1.len()).sum();
        assert_eq!(samples, 80);
        // One in seven is empty, which is no read.
        let bytes: u64 =
            [&small, &large].map(|dataset| dataset.client().metrics().snapshot().bytes_received).iter().sum();
        let wanted: u64 = [&small, &large]
            .iter()
            .flat_map(|dataset| (0..40).map(|id| dataset.manifest().get(id).unwrap().size))
            .sum();
        assert_eq!(bytes, wanted);
    });
}

#[test]
fn shares_are_the_weights_everywhere_and_epochs_of_the_length_that_was_asked_for() {
    without_hanging(|| {
        let (books, web) = (dataset(100).0, dataset(900).0);
        let build = || MixedLoader::builder(7).add(loader(&books, 5), 0.25).add(loader(&web, 5), 0.75);
        let parts = |mixed: &MixedLoader<Raws>, epoch| -> Vec<usize> {
            mixed.epoch(epoch).unwrap().map(|batch| batch.unwrap().0).collect()
        };
        for (mixed, wanted) in [(build(), 80), (build().until_all(), 240), (build().batches_per_epoch(12), 12)] {
            let mixed = mixed.build().unwrap();
            assert_eq!(mixed.batches_per_epoch(), wanted);
            let order = parts(&mixed, 0);
            assert_eq!(order.len() as u64, wanted);
            assert_eq!(order.iter().sum::<usize>() as u64, wanted * 3 / 4);
            for stretch in order.chunks_exact(12) {
                let of_web: usize = stretch.iter().sum();
                assert!((3..=12).contains(&of_web), "{stretch:?}");
            }
        }
        // Another epoch is another weave.
        let mixed = build().build().unwrap();
        assert_ne!(parts(&mixed, 0), parts(&mixed, 1));
        assert_eq!(parts(&mixed, 1), parts(&mixed, 1));
    });
}

#[test]
fn what_cannot_be_mixed_or_gone_on_with_is_said() {
    without_hanging(|| {
        let (data, store) = dataset(30);
        let other = dataset(20).0;
        let refused = |mixed: MixedLoaderBuilder<Raws>| {
            let error = mixed.build().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            error.to_string()
        };
        let new = || MixedLoader::builder(1);
        assert!(refused(new()).contains("a mixture of nothing"));
        assert!(refused(new().add(loader(&data, 4), f64::NAN)).contains("part 0: this can't be the weight"));
        let few = DataLoader::builder(data.clone()).batch_size(31).drop_last(true).build().unwrap();
        assert!(refused(new().add(few, 1.0)).contains("a part of a mixture has no batches"));
        let unordered = DataLoader::builder(data.clone()).unordered(true).build().unwrap();
        let said = refused(new().add(loader(&data, 4), 1.0).add(unordered, 1.0));
        assert!(said.contains("part 1, gs://data/p/") && said.contains("leave unordered out"), "{said}");
        let state = loader(&data, 4).epoch(0).unwrap().state();
        let resumed = DataLoader::builder(data.clone()).resume(state).unwrap();
        assert!(refused(new().add(resumed, 1.0)).contains("MixedLoaderBuilder::resume"));

        let mixed = |batch| new().add(loader(&data, batch), 1.0).add(loader(&other, 4), 1.0).batches_per_epoch(10);
        let state = {
            let built = mixed(4).build().unwrap();
            let mut batches = built.epoch(3).unwrap();
            assert_eq!(batches.by_ref().take(3).flatten().count(), 3);
            batches.state()
        };
        assert!(serde_json::to_string(&state).unwrap().len() < 800);
        let refused = |state: MixedState, mixed: MixedLoaderBuilder<Raws>| mixed.resume(state).unwrap_err().to_string();
        let with = |change: &dyn Fn(&mut MixedState)| {
            let mut state = state.clone();
            change(&mut state);
            state
        };
        assert!(refused(with(&|state| state.version = 9), mixed(4)).contains("version 9"));
        assert!(refused(with(&|state| state.seed = 2), mixed(4)).contains("another mixture"));
        assert!(refused(state.clone(), new().add(loader(&data, 4), 1.0)).contains("another mixture"));
        assert!(refused(with(&|state| state.position = 11), mixed(4)).contains("at most 10"));
        assert!(refused(with(&|state| state.position = 9), mixed(4)).contains("stands where it can't"));
        assert!(refused(state.clone(), mixed(5)).contains("stands where it can't"));
        assert!(refused(state.clone(), mixed(4).until_all()).contains("other numbers of batches"));
        let shuffled = DataLoader::builder(data.clone()).batch_size(4).shuffle(1).build().unwrap();
        let said = refused(state.clone(), new().add(shuffled, 1.0).add(loader(&other, 4), 1.0).batches_per_epoch(10));
        assert!(said.contains("part 0, gs://data/p/") && said.contains("shuffle"), "{said}");
        store.insert("data", "p/more", "one more");
        let data = DatafluxDataset::open_with(client(store.clone()), "gs://data/p/").unwrap();
        let said = refused(state, new().add(loader(&data, 4), 1.0).add(loader(&other, 4), 1.0).batches_per_epoch(10));
        assert!(said.contains("part 0, gs://data/p/") && said.contains("other data"), "{said}");
    });
}

/// One part's object was overwritten: its error ends the epoch where the batch would come, and nothing is left of either part.
#[test]
fn an_error_of_a_part_ends_the_epoch() {
    without_hanging(|| {
        let ((good, _), (bad, store)) = (dataset(30), dataset(30));
        let mixed = MixedLoader::builder(5).add(loader(&good, 3), 1.0).add(loader(&bad, 3), 1.0).build().unwrap();
        let name = bad.manifest().get(8).unwrap().name;
        store.insert("data", &name, "overwritten since");
        let mut batches = mixed.epoch(0).unwrap();
        let error = batches.by_ref().find_map(Result::err).expect("the object is another");
        assert!(error.to_string().contains(&*name), "{error}");
        assert!(batches.next().is_none());
        // The third batch of the part is the one that it misses.
        assert_eq!(batches.state().parts[1].position, 6);
        assert!(mixed.close(Duration::from_secs(60)).is_clean());
    });
}
