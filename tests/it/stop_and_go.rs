//! Runs that are stopped and resumed: a resumed loader starts at its state or is refused, by whichever method its
//! epochs are started.

use std::collections::BTreeMap;

use dataflux::store::MemoryStore;
use dataflux::{DataLoader, DataLoaderBuilder, DatafluxDataset, ErrorKind, MixedLoader, Raw, State};

use crate::support::{bucket, client, without_hanging};

fn dataset(store: &MemoryStore) -> DatafluxDataset {
    DatafluxDataset::open_with(client(store.clone()), "gs://data/p/").unwrap()
}

fn builder(store: &MemoryStore) -> DataLoaderBuilder<Raw> {
    DataLoader::builder(dataset(store))
}

/// The state after so many batches of an epoch.
fn stopped(loader: &DataLoader, epoch: u64, batches: usize) -> State {
    let mut running = loader.epoch(epoch).unwrap();
    running.by_ref().take(batches).for_each(|batch| drop(batch.unwrap()));
    running.state()
}

/// Number and names of each epoch that `epochs` gives.
fn epochs_of(loader: &DataLoader, epochs: std::ops::Range<u64>) -> Vec<(u64, Vec<String>)> {
    let mut given = Vec::new();
    for batches in loader.epochs(epochs).unwrap() {
        let mut batches = batches.unwrap();
        let mut names = Vec::new();
        for batch in &mut batches {
            names.extend(batch.unwrap().names().map(str::to_owned));
        }
        given.push((batches.state().epoch, names));
    }
    given
}

/// Epochs before that of the state were repeated, and the interrupted one was cut short after them.
#[test]
fn epochs_of_a_resumed_loader_begin_where_its_state_is() {
    without_hanging(|| {
        let (store, _) = bucket(100);
        let loader = builder(&store).batch_size(10).shuffle(7).build().unwrap();
        let straight = epochs_of(&loader, 0..5);
        let state = stopped(&loader, 2, 6);
        let resumed = builder(&store).resume(state.clone()).build().unwrap();
        let mut wanted = straight[2..].to_vec();
        wanted[0].1.drain(..60);
        assert!(epochs_of(&resumed, 0..5) == wanted, "the range of the whole run");
        assert!(epochs_of(&resumed, 2..5) == wanted, "the range that is left");
        assert!(epochs_of(&resumed, 3..5) == wanted[1..], "the epochs after it");
        // The same with single epochs.
        let names = |epoch| {
            resumed
                .epoch(epoch)
                .unwrap()
                .flat_map(|batch| batch.unwrap().names().map(str::to_owned).collect::<Vec<_>>())
                .collect::<Vec<_>>()
        };
        assert_eq!([names(2), names(3)], [wanted[0].1.clone(), wanted[1].1.clone()]);
    });
}

#[test]
fn an_epoch_before_that_of_the_state_is_refused_and_not_run_anew() {
    without_hanging(|| {
        let (store, _) = bucket(40);
        let state = stopped(&builder(&store).batch_size(10).build().unwrap(), 3, 2);
        let resumed = builder(&store).resume(state).build().unwrap();
        let refused = [
            resumed.epoch(2).map(drop),
            resumed.stream(0).map(drop),
            resumed.batches_left(2).map(drop),
            resumed.epochs(0..3).map(drop),
            resumed.epochs(1..2).map(drop),
        ];
        for refused in refused {
            let error = refused.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains("epoch 3"), "{error}");
        }
        assert_eq!(resumed.epochs(2..2).unwrap().count(), 0, "a range of no epochs has none");
        assert!(resumed.epoch(3).is_ok() && resumed.stream(4).is_ok());
    });
}

/// The series began with an epoch without batches, from which no loss can be computed.
#[test]
fn after_the_end_of_an_epoch_the_next_one_comes() {
    without_hanging(|| {
        let (store, _) = bucket(45);
        for (last, batches) in [("short", 5), ("drop", 4), ("pad", 5)] {
            let loader = || match last {
                "drop" => builder(&store).drop_last(true),
                "pad" => builder(&store).pad_last(true),
                _ => builder(&store),
            };
            let begun = loader().batch_size(10).shuffle(1).build().unwrap();
            let state = stopped(&begun, 1, batches);
            let resumed = loader().resume(state).build().unwrap();
            let straight = epochs_of(&begun, 0..4);
            assert!(epochs_of(&resumed, 0..4) == straight[2..], "{last}");
            assert_eq!(epochs_of(&resumed, 0..2), [], "{last}: the run was over");
        }
    });
}

#[test]
fn an_epoch_of_a_mixture_before_that_of_the_state_is_refused() {
    without_hanging(|| {
        let (store, _) = bucket(40);
        let mixed = || {
            let part = |seed| builder(&store).batch_size(4).shuffle(seed).build().unwrap();
            MixedLoader::builder(1).add(part(1), 0.5).add(part(2), 0.5)
        };
        let begun = mixed().build().unwrap();
        let mut running = begun.epoch(2).unwrap();
        running.by_ref().take(3).for_each(|batch| drop(batch.unwrap()));
        let resumed = mixed().resume(running.state()).build().unwrap();
        let error = resumed.epoch(1).map(drop).unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains("epoch 2"), "{error}");
        let left = resumed.epoch(2).unwrap().count();
        assert_eq!(left as u64, begun.batches_per_epoch() - 3);
        assert!(resumed.epoch(3).is_ok());
    });
}

/// The states that `resume_all` takes: with unordered batches, each rank may stop at a different step.
#[test]
fn unordered_ranks_that_stop_at_different_steps_go_on_as_others() {
    without_hanging(|| {
        let (store, _) = bucket(157);
        for (steps, worlds) in [([3, 5], 3), ([0, 9], 1), ([7, 2], 4), ([15, 16], 2), ([16, 0], 3)] {
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            let mut count = |names: Vec<String>| names.into_iter().for_each(|name| *seen.entry(name).or_default() += 1);
            let mut states = Vec::new();
            for (rank, steps) in steps.into_iter().enumerate() {
                let loader = builder(&store).batch_size(5).shuffle(9).unordered(true).shard(rank, 2).build().unwrap();
                let mut batches = loader.epoch(1).unwrap();
                for batch in batches.by_ref().take(steps) {
                    count(batch.unwrap().names().map(str::to_owned).collect());
                }
                states.push(batches.state());
            }
            let mut given = Vec::new();
            for rank in 0..worlds {
                let loader =
                    builder(&store).shard(rank, worlds).unordered(true).resume_all(states.clone()).build().unwrap();
                assert_eq!((loader.rank(), loader.world_size()), (rank, worlds));
                let mut epochs = loader.epochs(0..2).unwrap();
                let mut batches = 0;
                for batch in epochs.next().unwrap().unwrap() {
                    count(batch.unwrap().names().map(str::to_owned).collect());
                    batches += 1;
                }
                given.push(batches);
                assert_eq!(loader.batches_left(1).unwrap(), batches, "{steps:?}, rank {rank} of {worlds}");
            }
            assert!(given.iter().all(|batches| *batches == given[0]), "ranks that differ in their steps: {given:?}");
            assert_eq!((seen.len(), seen.values().max()), (157, Some(&1)), "{steps:?} and then {worlds} ranks");
        }
    });
}

/// With ordered batches, all ranks have to stop after the same step, because their states hold only a position.
#[test]
fn ordered_ranks_that_stop_at_different_steps_are_refused() {
    without_hanging(|| {
        let (store, _) = bucket(60);
        let state =
            |rank, steps| stopped(&builder(&store).batch_size(5).shuffle(9).shard(rank, 2).build().unwrap(), 0, steps);
        let error = builder(&store).resume_all([state(0, 2), state(1, 3)]).build().unwrap_err();
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains("same step"), "{error}");
        assert!(builder(&store).resume_all([state(0, 2), state(1, 2)]).build().is_ok());
    });
}

/// One rank has delivered all of an epoch, and another some of the next.
#[test]
fn unordered_ranks_that_stop_on_both_sides_of_the_end_of_an_epoch_go_on() {
    without_hanging(|| {
        let (store, _) = bucket(60);
        let run = |rank, epoch, steps| {
            let loader = builder(&store).batch_size(5).shuffle(9).unordered(true).shard(rank, 2).build().unwrap();
            let mut batches = loader.epoch(epoch).unwrap();
            let given: Vec<_> = batches.by_ref().take(steps).flat_map(|batch| batch.unwrap().ids().to_vec()).collect();
            (batches.state(), given)
        };
        let (first, _) = run(0, 1, usize::MAX);
        let (second, mut given) = run(1, 2, 2);
        for rank in 0..3 {
            let states = [first.clone(), second.clone()];
            let loader = builder(&store).shard(rank, 3).unordered(true).resume_all(states).build().unwrap();
            let mut batches = loader.epochs(0..3).unwrap().next().unwrap().unwrap();
            assert_eq!(batches.epoch(), 2);
            given.extend(batches.by_ref().flat_map(|batch| batch.unwrap().ids().to_vec()));
        }
        given.sort_unstable();
        assert!(given.iter().map(|id| id.0).eq(0..60), "{given:?}");
        let (amid, _) = run(0, 1, 3);
        let error = builder(&store).resume_all([amid, second]).build().unwrap_err();
        assert!(error.to_string().contains("not of one run and epoch"), "{error}");
    });
}

/// The end of the epoch was computed as if one rank read it alone: 8 samples are a batch for one rank, but not for two.
#[test]
fn ordered_ranks_that_stop_on_both_sides_of_the_end_of_an_epoch_go_on_with_drop_last() {
    without_hanging(|| {
        let (store, _) = bucket(1_000);
        let run = |rank, epoch, steps| {
            let builder = builder(&store).batch_size(8).drop_last(true).shuffle(9).shard(rank, 2);
            stopped(&builder.build().unwrap(), epoch, steps)
        };
        let (first, second) = (run(0, 0, usize::MAX), run(1, 1, 0));
        assert_eq!(((first.epoch, first.position), (second.epoch, second.position)), ((0, 992), (1, 0)));
        for states in [[first.clone(), second.clone()], [second.clone(), first]] {
            let loader = builder(&store).shard(0, 2).resume_all(states).build().unwrap();
            let batches = loader.epochs(0..2).unwrap().next().unwrap().unwrap();
            assert_eq!((batches.epoch(), batches.count()), (1, 62));
        }
        // A step before the end differs.
        for amid in [run(0, 0, 61), run(0, 0, 0)] {
            let error = builder(&store).resume_all([amid, second.clone()]).build().unwrap_err();
            assert!(error.to_string().contains("not of one run and epoch"), "{error}");
        }
        let error = builder(&store).resume_all([run(0, 0, usize::MAX), run(1, 1, 1)]).build().unwrap_err();
        assert!(error.to_string().contains("same step"), "{error}");
    });
}
