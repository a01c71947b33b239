//! Loaders over several buckets: shares, order, end conditions and resume.

use std::time::Duration;

use dataflux::store::MemoryStore;
use dataflux::{
    DataLoader, DataLoaderBuilder, DatafluxDataset, ErrorKind, MixedLoader, MixedLoaderBuilder, MixedState, OnError,
    Raw, RawSample, SampleId, Strategy,
};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

use crate::support::{LastBatch, STRATEGIES, bucket, client, without_hanging};

type Raws = Vec<RawSample>;

/// A data set with its own store.
fn dataset(samples: usize) -> (DatafluxDataset, MemoryStore) {
    let store = bucket(samples).0;
    (DatafluxDataset::open_with(client(store.clone()), "gs://data/p/").unwrap(), store)
}

#[derive(Clone, Debug)]
struct Part {
    samples: usize,
    weight: f64,
    /// Samples of a batch, over all ranks or of one.
    batch: usize,
    last: LastBatch,
}

#[derive(Clone, Debug)]
struct Run {
    parts: Vec<Part>,
    seed: u64,
    until_all: bool,
    global: bool,
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
        let loader = DataLoader::builder(dataset.clone()).shuffle(self.seed ^ number as u64).decode_threads(1);
        let loader = if self.global { loader.global_batch_size(part.batch) } else { loader.batch_size(part.batch) };
        match part.last {
            LastBatch::Drop => loader.drop_last(true),
            LastBatch::Pad => loader.pad_last(true),
            LastBatch::Short => loader,
        }
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

/// The ids of each step over all ranks, with the part that they are from.
type Steps = Vec<(usize, Vec<u64>)>;

/// Takes steps of some epochs on all ranks, from a state on. Returns the steps and the state after them.
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
            Some(state) => builder.resume(state.clone()).build().unwrap(),
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
    let last = prop::sample::select(vec![LastBatch::Short, LastBatch::Drop, LastBatch::Pad]);
    let part = (4usize..60, 0.2f64..3.0, 4usize..12, last).prop_map(|(samples, weight, batch, last)| Part {
        // Enough for a whole batch of three ranks.
        samples: samples.max(3 * batch),
        weight,
        batch,
        last,
    });
    (prop::collection::vec(part, 1..4), any::<u64>(), any::<bool>(), any::<bool>())
        .prop_map(|(parts, seed, until_all, global)| Run { parts, seed, until_all, global })
        // A share that rounds to nothing is refused.
        .prop_filter("every part comes", |run| {
            let datasets: Vec<_> = run.parts.iter().map(|part| dataset(part.samples).0).collect();
            let leg = |world| Leg { world, steps: 0, strategy: Strategy::Direct, prefetch: 1 };
            (1..4).all(|world| run.builder(&datasets, leg(world), 0).build().is_ok())
        })
}

fn leg() -> impl proptest::strategy::Strategy<Value = Leg> {
    (1usize..4, 0usize..9, prop::sample::select(STRATEGIES.to_vec()), 1usize..6)
        .prop_map(|(world, steps, strategy, prefetch)| Leg { world, steps, strategy, prefetch })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 100, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each part delivers its batches in the order of its own loader, whole epochs after each other. A run that stops
    /// anywhere and resumes with other strategies, and with other ranks where a step stays the same, has the steps of
    /// an uninterrupted run.
    #[test]
    fn parts_keep_their_order_and_stops_change_nothing(run in run(), legs in prop::collection::vec(leg(), 1..4)) {
        without_hanging(move || {
            const EPOCHS: u64 = 3;
            let datasets: Vec<_> = run.parts.iter().map(|part| dataset(part.samples).0).collect();
            let world = if run.global { 1 } else { legs[0].world };
            let straight = Leg { world, steps: usize::MAX, strategy: Strategy::Direct, prefetch: 4 };
            let (whole, _) = ride(&run, &datasets, straight, (None, 0..EPOCHS));
            for (number, dataset) in datasets.iter().enumerate() {
                let of_part: Vec<_> = whole.iter().filter(|(part, _)| *part == number).map(|(_, ids)| ids.clone()).collect();
                let loaders: Vec<_> =
                    (0..world).map(|rank| run.part(number, dataset).shard(rank, world).build().unwrap()).collect();
                let of_rank = |loader: &DataLoader, epoch| -> Vec<Vec<SampleId>> {
                    loader.epoch(epoch).unwrap().map(|batch| batch.unwrap().ids().to_vec()).collect()
                };
                let mut own = (0..).flat_map(|epoch| {
                    let ranks: Vec<_> = loaders.iter().map(|loader| of_rank(loader, epoch)).collect();
                    (0..ranks[0].len()).map(|step| ranks.iter().flat_map(|steps| steps[step].clone()).collect::<Vec<_>>()).collect::<Vec<_>>()
                });
                for ids in of_part {
                    let wanted: Vec<_> = own.next().unwrap().into_iter().map(|id| id.0).collect();
                    assert_eq!(ids, wanted, "part {number}");
                }
            }
            let (mut steps, mut state): (Steps, Option<MixedState>) = (Vec::new(), None);
            for (number, leg) in legs.iter().enumerate() {
                let last = number + 1 == legs.len();
                let world = if run.global { leg.world } else { world };
                let leg = Leg { steps: if last { usize::MAX } else { leg.steps }, world, ..*leg };
                let epoch = state.as_ref().map_or(0, |state| state.epoch);
                let (taken, stood) = ride(&run, &datasets, leg, (state.as_ref(), epoch..EPOCHS));
                steps.extend(taken);
                // The state goes through its saved form.
                state = stood.map(|state| serde_json::from_str(&serde_json::to_string(&state).unwrap()).unwrap());
            }
            assert_eq!(steps, whole);
        });
    }
}

fn loader(dataset: &DatafluxDataset, batch: usize) -> DataLoader {
    DataLoader::builder(dataset.clone()).batch_size(batch).build().unwrap()
}

/// Nothing is read after the last batch that an epoch takes of a part.
#[test]
fn nothing_is_read_that_is_not_delivered() {
    without_hanging(|| {
        let (small, large) = (dataset(40).0, dataset(4_000).0);
        let mixed = MixedLoader::builder(1).add(loader(&small, 4), 1.0).add(loader(&large, 4), 1.0).build().unwrap();
        let samples: usize = mixed.epoch(0).unwrap().map(|batch| batch.unwrap().1.len()).sum();
        assert_eq!(samples, 80);
        // One object in seven is empty and is not read.
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
fn each_client_is_billed_once() {
    without_hanging(|| {
        let (store, _) = bucket(40);
        let shared = client(store);
        let open = || DatafluxDataset::open_with(shared.clone(), "gs://data/p/").unwrap();
        let (one, other) = (open(), open());
        let alone = loader(&one, 4);
        let mixed = MixedLoader::builder(1).add(loader(&one, 4), 1.0).add(loader(&other, 4), 1.0).build().unwrap();
        assert_eq!(mixed.epoch(0).unwrap().flatten().count(), 20);
        assert_eq!(mixed.bill(), alone.bill(), "both are all that one client was asked for");
    });
}

/// This holds for the last epoch of a part, too: its loss belongs to its own batch, and temporary objects are deleted.
#[test]
fn the_end_of_an_epoch_is_the_end_of_its_parts() {
    without_hanging(|| {
        let ((good, _), (bad, store)) = (dataset(32), dataset(32));
        let name = bad.manifest().get(5).unwrap().name;
        store.insert("data", &name, "overwritten since");
        let build = |dataset: &DatafluxDataset| {
            let loader = DataLoader::builder(dataset.clone()).batch_size(8).strategy(Strategy::compose());
            loader.on_error(OnError::Skip { limit: 1 }).build().unwrap()
        };
        let mixed = MixedLoader::builder(3).add(build(&good), 1.0).add(build(&bad), 1.0).build().unwrap();
        let mut batches = mixed.epoch(0).unwrap();
        let mut lost = Vec::new();
        let mut samples = 0;
        for batch in batches.by_ref() {
            let (part, batch) = batch.unwrap();
            samples += batch.len();
            lost.extend(batch.skipped().iter().map(|lost| (part, lost.id)));
        }
        assert_eq!((samples, lost), (63, vec![(1, SampleId(5))]));
        assert!(batches.next().is_none());
        assert_eq!(
            store.names("data").iter().filter(|name| name.contains("composed")).count(),
            0,
            "with the iterator alive"
        );
        assert_eq!(batches.state().position, 8);
    });
}

#[test]
fn dropped_anywhere_nothing_is_left() {
    without_hanging(|| {
        let (one, other) = (dataset(400).0, dataset(400).0);
        for steps in [0, 1, 7, 40] {
            let mixed = MixedLoader::builder(3).add(loader(&one, 8), 1.0).add(loader(&other, 8), 3.0).build().unwrap();
            let mut batches = mixed.epoch(0).unwrap();
            assert_eq!(batches.by_ref().take(steps).flatten().count(), steps);
            drop(batches);
            assert!(mixed.close(Duration::MAX).is_clean());
        }
    });
}

/// These values must never change: a saved state refers to this order.
#[test]
fn golden() {
    without_hanging(|| {
        let (one, other) = (dataset(30).0, dataset(50).0);
        let mixed = MixedLoader::builder(42).add(loader(&one, 5), 0.4).add(loader(&other, 5), 0.6).build().unwrap();
        let order = |epoch| mixed.epoch(epoch).unwrap().map(|batch| batch.unwrap().0).collect::<Vec<_>>();
        assert_eq!(
            (order(0), order(1)),
            (vec![1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1], vec![0, 1, 0, 1, 1, 0, 1, 0, 1, 1, 0, 1, 0, 1, 1])
        );
        let mut batches = mixed.epoch(1).unwrap();
        assert_eq!(batches.by_ref().take(3).flatten().count(), 3);
        let state = serde_json::to_string(&batches.state()).unwrap();
        let golden = concat!(
            r#"{"version":1,"seed":42,"epoch":1,"position":3,"batches":[6,9],"parts":["#,
            r#"{"version":4,"manifest":"517c9b07fef689743e27636f96db4094c94fd062ea020a28d9b5920664ba441b","#,
            r#""epoch":1,"position":10,"batch_size":5,"sampler":"sequential"},"#,
            r#"{"version":4,"manifest":"598852172d409b2c8f03989917cffd842b350615fb130bb4de2a30d654cac97d","#,
            r#""epoch":1,"position":0,"batch_size":5,"sampler":"sequential"}]}"#,
        );
        assert_eq!(state, golden);
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
        // Another epoch interleaves the parts differently.
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
        // A loader without batches is refused when it is built, so it can't become a part.
        let few = DataLoader::builder(data.clone()).batch_size(31).drop_last(true).build().unwrap_err();
        assert!(few.to_string().contains("an epoch without a batch"), "{few}");
        let unordered = DataLoader::builder(data.clone()).unordered(true).build().unwrap();
        let said = refused(new().add(loader(&data, 4), 1.0).add(unordered, 1.0));
        assert!(said.contains("part 1, gs://data/p/") && said.contains("leave unordered out"), "{said}");
        let state = loader(&data, 4).epoch(0).unwrap().state();
        let first = |rank, world| DataLoader::builder(data.clone()).batch_size(4).shard(rank, world).build().unwrap();
        let said = refused(new().add(first(1, 2), 1.0).add(first(0, 1), 1.0));
        assert!(said.contains("part 1, gs://data/p/") && said.contains("rank 1 of 2, as part 0"), "{said}");
        let late = new().add(loader(&data, 4), 1.0).until_all().build().unwrap();
        assert!(late.epoch(u64::MAX).unwrap_err().to_string().contains("so late"));
        let resumed = DataLoader::builder(data.clone()).resume(state).build().unwrap();
        assert!(refused(new().add(resumed, 1.0)).contains("MixedLoaderBuilder::resume"));

        let mixed = |batch| new().add(loader(&data, batch), 1.0).add(loader(&other, 4), 1.0).batches_per_epoch(10);
        let state = {
            let built = mixed(4).build().unwrap();
            let mut batches = built.epoch(3).unwrap();
            assert_eq!(batches.by_ref().take(3).flatten().count(), 3);
            batches.state()
        };
        assert!(serde_json::to_string(&state).unwrap().len() < 800);
        let refused =
            |state: MixedState, mixed: MixedLoaderBuilder<Raws>| mixed.resume(state).build().unwrap_err().to_string();
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

/// An overwritten object of one part ends the epoch with an error in the place of its batch, and nothing is left of
/// either part.
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
        // The object belongs to the third batch of the part.
        assert_eq!(batches.state().parts[1].position, 6);
        assert!(mixed.close(Duration::from_secs(60)).is_clean());
    });
}
