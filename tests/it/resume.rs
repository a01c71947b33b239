//! Runs that stop anywhere and resume with other ranks, threads and strategies deliver exactly the rest of the epoch.

use std::sync::{Arc, Mutex};

use dataflux::sample::{
    BlockShuffle, EpochLength, Mixture, Orders, Sampler, Scope, Sequential, Shuffle, Stratified, Subset, Weighted,
    WindowShuffle,
};
use dataflux::store::MemoryStore;
use dataflux::{DataLoader, DataLoaderBuilder, DatafluxDataset, ErrorKind, Raw, SampleId, State, Strategy};
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

use crate::support::{LastBatch, STRATEGIES, bucket, client, until, without_hanging};

fn dataset(store: &MemoryStore) -> DatafluxDataset {
    DatafluxDataset::open_with(client(store.clone()), "gs://data/p/").unwrap()
}

/// Samplers by number; those of the first eight give samples once.
fn sampler(number: usize, seed: u64, size: u64, samples: u64) -> Box<dyn Sampler> {
    let weights = || (0..samples).map(|index| (index % 4 + 1) as f64).collect::<Vec<_>>();
    match number {
        0 => Box::new(Sequential),
        1 => Box::new(Shuffle::new(seed)),
        2 => Box::new(WindowShuffle::new(seed, size)),
        3 => Box::new(BlockShuffle::new(seed, size, 2)),
        4 => Box::new(Stratified::by_label(seed)),
        5 => Box::new(Weighted::without_replacement(seed, &weights()).unwrap()),
        6 => Box::new(Subset::range(samples / 3..samples).then(Stratified::by_label(seed))),
        7 => Box::new(Subset::ids((0..samples).step_by(2).map(SampleId)).then(Shuffle::new(seed))),
        8 => Box::new(Weighted::new(seed, &weights()).unwrap()),
        9 => Box::new(
            Mixture::new(seed)
                .add(Subset::range(0..samples.div_ceil(2)).then(Shuffle::new(seed)), 0.4)
                .add(Subset::range(samples / 2..samples).then(Stratified::by_label(seed)), 0.6)
                .epoch_length(EpochLength::UntilAll),
        ),
        _ => Box::new(Weighted::new(seed, &weights()).unwrap().samples(2 * samples)),
    }
}

/// The settings that stay the same throughout a run.
#[derive(Clone, Debug)]
struct Run {
    samples: usize,
    sampler: usize,
    seed: u64,
    size: u64,
    epoch: u64,
    last: LastBatch,
    /// The batch size of a rank, or of all ranks together.
    batch: usize,
    global: bool,
}

impl Run {
    fn loader(&self, dataset: DatafluxDataset) -> DataLoaderBuilder<Raw> {
        let sampler = sampler(self.sampler, self.seed, self.size, self.samples as u64);
        let loader = DataLoader::builder(dataset).sampler(sampler);
        let loader = match self.last {
            LastBatch::Short => loader,
            LastBatch::Drop => loader.drop_last(true),
            LastBatch::Pad => loader.pad_last(true),
        };
        if self.global { loader.global_batch_size(self.batch) } else { loader.batch_size(self.batch) }
    }

    fn global_batch(&self, world: usize) -> usize {
        if self.global { self.batch } else { self.batch * world }
    }
}

/// A part of a run, from one stop to the next.
#[derive(Clone, Debug)]
struct Leg {
    world: usize,
    /// Batches to take before the stop.
    steps: usize,
    io_threads: Option<usize>,
    decode_threads: usize,
    prefetch: usize,
    strategy: Strategy,
}

fn run() -> impl proptest::strategy::Strategy<Value = Run> {
    let last = prop::sample::select(vec![LastBatch::Short, LastBatch::Drop, LastBatch::Pad]);
    let batches = (1usize..12, any::<bool>());
    (1usize..90, 0usize..11, any::<u64>(), 1u64..20, 0u64..3, last, batches).prop_map(
        |(samples, sampler, seed, size, epoch, last, (batch, global))| {
            // A global batch must have samples for all ranks.
            let batch = if global { batch + 4 } else { batch };
            Run { samples, sampler, seed, size, epoch, last, batch, global }
        },
    )
}

fn leg() -> impl proptest::strategy::Strategy<Value = Leg> {
    let threads = (prop::option::weighted(0.2, 1usize..3), 1usize..3);
    (1usize..5, 0usize..4, threads, 1usize..6, prop::sample::select(STRATEGIES.to_vec())).prop_map(
        |(world, steps, (io_threads, decode_threads), prefetch, strategy)| Leg {
            world,
            steps,
            io_threads,
            decode_threads,
            prefetch,
            strategy,
        },
    )
}

/// Runs one leg on all ranks. Returns the samples in the global order, those that pad the last batch, and the state
/// after them.
fn ride(run: &Run, leg: &Leg, dataset: &DatafluxDataset, from: Option<&State>) -> (Vec<u64>, Vec<u64>, State) {
    let mut states = Vec::new();
    // By rank and step.
    let mut taken: Vec<Vec<(Vec<u64>, usize, u64)>> = Vec::new();
    for rank in 0..leg.world {
        let loader = run
            .loader(dataset.clone())
            .shard(rank, leg.world)
            .strategy(leg.strategy)
            .decode_threads(leg.decode_threads)
            .prefetch(leg.prefetch);
        let loader = match leg.io_threads {
            Some(threads) => loader.io_threads(threads),
            None => loader,
        };
        let loader = match from {
            None => loader.build().unwrap(),
            Some(state) => loader.resume(state.clone()).build().unwrap(),
        };
        let mut batches = loader.epoch(run.epoch).unwrap();
        let mut steps = Vec::new();
        while steps.len() < leg.steps
            && let Some(batch) = batches.next()
        {
            let batch = batch.unwrap();
            let ids = batch.ids().iter().map(|id| id.0).collect();
            steps.push((ids, batch.padding(), batches.state().position));
        }
        states.push(batches.state());
        taken.push(steps);
        drop(batches);
        until("the budget is given back", || loader.bytes_held() == 0);
    }
    assert!(states.iter().all(|state| *state == states[0]), "ranks that stand elsewhere: {states:?}");
    let (mut delivered, mut padding) = (Vec::new(), Vec::new());
    for step in 0..taken[0].len() {
        for (ids, fill, end) in taken.iter().map(|steps| &steps[step]) {
            assert_eq!(*end, taken[0][step].2);
            if run.last != LastBatch::Short && !run.global {
                assert_eq!(ids.len(), run.batch, "a batch that isn't full");
            }
            delivered.extend(&ids[..ids.len() - fill]);
            padding.extend(&ids[ids.len() - fill..]);
        }
    }
    assert!(taken.iter().all(|steps| steps.len() == taken[0].len()), "ranks of other numbers of batches");
    (delivered, padding, states.swap_remove(0))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, max_shrink_iters: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// A run that stops anywhere and resumes with other ranks, threads, prefetch and strategies delivers the same
    /// samples in the same global order as an uninterrupted run.
    #[test]
    fn whatever_happens_on_the_way_an_epoch_is_the_same(run in run(), legs in prop::collection::vec(leg(), 1..5)) {
        without_hanging(move || {
            let (store, _) = bucket(run.samples);
            let dataset = dataset(&store);
            let whole = Run { batch: run.samples, global: false, last: LastBatch::Short, ..run.clone() };
            let straight: Vec<u64> = whole
                .loader(dataset.clone())
                .build()
                .unwrap()
                .epoch(run.epoch)
                .unwrap()
                .flat_map(|batch| batch.unwrap().ids().to_vec())
                .map(|id| id.0)
                .collect();
            if run.sampler < 8 {
                let mut once = straight.clone();
                once.sort_unstable();
                let samples = run.samples as u64;
                let wanted: Vec<u64> = match run.sampler {
                    6 => (samples / 3..samples).collect(),
                    7 => (0..samples).step_by(2).collect(),
                    _ => (0..samples).collect(),
                };
                assert_eq!(once, wanted);
            }
            let (mut delivered, mut padding) = (Vec::new(), Vec::new());
            let mut state: Option<State> = None;
            let end = legs.len() - 1;
            for (number, leg) in legs.iter().enumerate() {
                let leg = Leg { steps: if number == end { usize::MAX } else { leg.steps }, ..leg.clone() };
                // An epoch that fills no batch has nothing to train on.
                if run.last == LastBatch::Drop && run.global_batch(leg.world) > straight.len() {
                    let loader = run.loader(dataset.clone()).shard(0, leg.world);
                    let refused = match &state {
                        None => loader.build(),
                        Some(state) => loader.resume(state.clone()).build(),
                    };
                    assert!(refused.unwrap_err().to_string().contains("drop_last"));
                    return;
                }
                let (taken, fill, stood) = ride(&run, &leg, &dataset, state.as_ref());
                delivered.extend(taken);
                padding.extend(fill);
                assert_eq!(stood.position, delivered.len() as u64);
                // The state goes through its saved form.
                state = Some(serde_json::from_str(&serde_json::to_string(&stood).unwrap()).unwrap());
            }
            let missing = straight.len() - delivered.len();
            assert_eq!(delivered, straight[..delivered.len()]);
            let global = run.global_batch(legs[end].world);
            match run.last {
                LastBatch::Short => assert_eq!((missing, padding.len()), (0, 0)),
                LastBatch::Drop => assert!(missing < global && padding.is_empty()),
                LastBatch::Pad => {
                    assert!(missing == 0 && padding.len() < legs.iter().map(|leg| run.global_batch(leg.world)).max().unwrap());
                    let first = straight.iter().cycle().copied();
                    assert!(padding.iter().copied().eq(first.take(padding.len())), "{padding:?}");
                }
            }
            // Only this store is checked, because other tests of this program have temporary objects, too.
            until("all temporary objects are deleted", || store.names("data").len() == run.samples);
        });
    }
}

/// An order of two billion positions that records which positions are requested.
#[derive(Debug)]
struct Vast {
    asked: Arc<Mutex<Vec<u64>>>,
}

impl Sampler for Vast {
    fn identity(&self) -> String {
        "vast".into()
    }

    fn orders(&self, scope: &Scope) -> dataflux::Result<Orders> {
        let (asked, samples) = (Arc::clone(&self.asked), scope.len());
        Ok(Orders::new(2_000_000_000, move |_| {
            let asked = Arc::clone(&asked);
            move |position| {
                asked.lock().unwrap().push(position);
                position % samples
            }
        }))
    }
}

#[test]
fn resume_at_a_billion_asks_for_nothing_before() {
    without_hanging(|| {
        let (store, _) = bucket(50);
        let dataset = dataset(&store);
        let mut counts = Vec::new();
        for position in [0, 1_000_000_000] {
            let asked = Arc::new(Mutex::new(Vec::new()));
            let loader = || {
                DataLoader::builder(dataset.clone())
                    .batch_size(8)
                    .prefetch(2)
                    .strategy(Strategy::Direct)
                    .sampler(Vast { asked: Arc::clone(&asked) })
            };
            let begun = loader().build().unwrap().epoch(3).unwrap();
            let mut state = begun.state();
            drop(begun);
            state.position = position;
            let loader = loader().resume(state).build().unwrap();
            // Waits for the requests of the loader above. Only the test, the sampler and its orders hold the record
            // then.
            until("the first epoch is gone", || Arc::strong_count(&asked) == 3);
            asked.lock().unwrap().clear();
            let mut batches = loader.epoch(3).unwrap();
            let first = batches.next().unwrap().unwrap();
            assert_eq!(first.ids()[0], SampleId(position % 50));
            assert_eq!(batches.state().position, position + 8);
            drop(batches);
            until("the epoch is gone", || Arc::strong_count(&asked) == 3);
            let asked = asked.lock().unwrap();
            assert!(asked.iter().copied().eq(position..position + asked.len() as u64), "{asked:?}");
            counts.push(asked.len());
        }
        // One batch delivered, two ahead, one that waits for a place, and a few that a race lets through before the
        // drop.
        assert!(counts.iter().all(|count| *count <= 5 * 8), "{counts:?}");
    });
}

#[test]
fn a_state_of_another_sampler_is_refused_with_both_named() {
    let (store, _) = bucket(20);
    let loader = || DataLoader::builder(dataset(&store)).batch_size(4);
    let state = loader().sampler(BlockShuffle::new(1, 4, 2)).build().unwrap().epoch(0).unwrap().state();
    assert_eq!(state.sampler, "blocks(seed=1, samples=4, mixed=2)");
    for (other, named) in [
        (loader().sampler(BlockShuffle::new(1, 4, 3)), "blocks(seed=1, samples=4, mixed=3)"),
        (loader().shuffle(1), "shuffle(seed=1)"),
        // Only samplers that their identity fully describes are rebuilt.
        (loader(), "none"),
    ] {
        let error = other.resume(state.clone()).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let both = format!("wanted sampler blocks(seed=1, samples=4, mixed=2), got {named}");
        assert!(error.to_string().contains(&both), "{error}");
    }
    assert!(loader().sampler(BlockShuffle::new(1, 4, 2)).resume(state).build().is_ok());
}

#[test]
fn a_state_keeps_what_was_set_of_batches() {
    let (store, _) = bucket(25);
    let loader = || DataLoader::builder(dataset(&store));
    let state = loader().global_batch_size(10).pad_last(true).shard(1, 4).build().unwrap().epoch(0).unwrap().state();
    assert_eq!((state.global_batch_size, state.batch_size, state.pad_last), (Some(10), 3, Some(true)));
    for rank in 0..3 {
        let resumed = loader().shard(rank, 3).resume(state.clone()).build().unwrap();
        assert_eq!(resumed.batches_per_epoch().unwrap(), 3);
        let batches: Vec<_> = resumed.epoch(0).unwrap().map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(dataflux::Batch::len).collect::<Vec<_>>(), [[3, 3, 4][rank]; 3]);
        // The last five of thirty: one of the three of the second rank, and all of the third.
        assert_eq!(batches.iter().map(dataflux::Batch::padding).collect::<Vec<_>>(), [0, 0, [0, 1, 4][rank]]);
    }
    // The position counts samples, so batch sizes may differ; the handling of the last batch may not.
    assert_eq!(loader().batch_size(5).resume(state.clone()).build().unwrap().batches_per_epoch().unwrap(), 5);
    let error = loader().pad_last(false).resume(state.clone()).build().unwrap_err();
    assert!(error.to_string().contains("wanted pad_last true, got false"), "{error}");
    let error = loader().drop_last(true).resume(state).build().unwrap_err();
    assert!(error.to_string().contains("wanted drop_last false, got true"), "{error}");
}

#[test]
fn settings_that_exclude_each_other_are_refused() {
    let (store, _) = bucket(10);
    let loader = || DataLoader::builder(dataset(&store));
    for (wrong, said) in [
        (loader().shuffle(1).sampler(Sequential), "shuffle and sampler"),
        (loader().batch_size(2).global_batch_size(4), "batch_size or global_batch_size"),
        (loader().drop_last(true).pad_last(true), "drop_last or pad_last"),
        (loader().global_batch_size(3).shard(0, 4), "a global_batch_size of at least 4"),
        (loader().sampler(Subset::range(0..11)), "indexes below 10"),
        (loader().batch_size(usize::MAX).pad_last(true), "with pad_last a batch_size of at most 16777216"),
        (loader().global_batch_size(1 << 40).pad_last(true).shard(0, 2), "got 549755813888 for each of 2"),
    ] {
        let error = wrong.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(said), "{error}");
    }
}

/// An order with a nonexistent sample in the third batch.
#[derive(Debug)]
struct Astray;

impl Sampler for Astray {
    fn identity(&self) -> String {
        "astray".into()
    }

    fn orders(&self, scope: &Scope) -> dataflux::Result<Orders> {
        Ok(Orders::new(scope.len(), |_| |position| if position == 9 { 1_000 } else { position }))
    }
}

#[test]
fn batches_before_a_sampler_goes_astray_are_delivered() {
    without_hanging(|| {
        let (store, _) = bucket(20);
        for strategy in STRATEGIES {
            let loader = DataLoader::builder(dataset(&store)).batch_size(4).strategy(strategy).sampler(Astray);
            let loader = loader.build().unwrap();
            let mut batches = loader.epoch(0).unwrap();
            let before: Vec<_> = batches.by_ref().take(2).map(|batch| batch.unwrap().len()).collect();
            assert_eq!(before, [4, 4]);
            let error = batches.next().unwrap().unwrap_err();
            assert!(error.to_string().contains("sampler astray") && error.to_string().contains("1000"), "{error}");
            assert!(batches.next().is_none());
            until("the budget is given back", || loader.bytes_held() == 0);
        }
    });
}

/// An order that panics in the third batch.
#[derive(Debug)]
struct Panics;

impl Sampler for Panics {
    fn identity(&self) -> String {
        "panics".into()
    }

    fn orders(&self, scope: &Scope) -> dataflux::Result<Orders> {
        Ok(Orders::new(scope.len(), |_| {
            |position| {
                assert!(position != 9, "position nine");
                position
            }
        }))
    }
}

/// The panic ended the thread of the epoch, and the error was about that thread.
#[test]
fn batches_before_a_sampler_panics_are_delivered() {
    without_hanging(|| {
        let (store, _) = bucket(20);
        for strategy in STRATEGIES {
            let loader = DataLoader::builder(dataset(&store)).batch_size(4).strategy(strategy).sampler(Panics);
            let loader = loader.build().unwrap();
            let mut batches = loader.epoch(0).unwrap();
            let before: Vec<_> = batches.by_ref().take(2).map(|batch| batch.unwrap().len()).collect();
            assert_eq!(before, [4, 4]);
            let error = batches.next().unwrap().unwrap_err();
            assert!(error.to_string().contains("sampler panics: the sampler panicked"), "{error}");
            assert!(error.to_string().contains("position nine"), "{error}");
            assert!(batches.next().is_none());
            until("the budget is given back", || loader.bytes_held() == 0);
        }
    });
}

/// A state held the whole identity, however long that was.
#[test]
fn a_state_with_a_long_identity_is_small_and_resumed() {
    let (store, _) = bucket(100);
    let mixture = |last: u64| {
        (0..last).fold(Mixture::new(1), |mixture, part| {
            mixture.add(Subset::range(part..part + 2).then(Shuffle::new(part)), 1.0)
        })
    };
    let loader = || DataLoader::builder(dataset(&store)).batch_size(4);
    let state = loader().sampler(mixture(50)).build().unwrap().epoch(0).unwrap().state();
    assert!(mixture(50).identity().len() > 1_000);
    let json = serde_json::to_string(&state).unwrap();
    assert!(json.len() < 400, "{json}");
    let state: State = serde_json::from_str(&json).unwrap();
    assert!(loader().sampler(mixture(50)).resume(state.clone()).build().is_ok());
    let mut full = state.clone();
    full.sampler = mixture(50).identity();
    assert!(loader().sampler(mixture(50)).resume(full).build().is_ok());
    assert!(loader().sampler(mixture(49)).resume(state).build().unwrap_err().to_string().contains("another sampler"));
}
