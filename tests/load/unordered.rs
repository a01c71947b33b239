//! Unordered batches: the same batches, in the order in which they finish, with exact states.

use std::collections::{BTreeMap, BTreeSet};

use dataflux::store::Client;
use dataflux::{DataLoader, DataLoaderBuilder, DatafluxDataset, ErrorKind, Raw, RawSample, State, Strategy};

use crate::support::gated::Gated;
use crate::support::{HANG, STRATEGIES, all_given_back, bucket, without_hanging};

fn opened(count: usize) -> (Gated, DatafluxDataset) {
    let gated = Gated::new(bucket(count).0);
    let client = Client::new(gated.store()).with_stall_timeout(HANG);
    let dataset = DatafluxDataset::open_with(client, "gs://data/p/").unwrap();
    (gated, dataset)
}

fn builder(dataset: &DatafluxDataset) -> DataLoaderBuilder<Raw> {
    DataLoader::builder(dataset.clone()).strategy(Strategy::Direct)
}

fn names(batch: dataflux::Result<dataflux::Batch<Vec<RawSample>>>) -> Vec<String> {
    batch.unwrap().names().map(str::to_owned).collect()
}

#[test]
fn the_same_batches_and_no_slow_one_in_the_way() {
    without_hanging(|| {
        let (gated, dataset) = opened(100);
        let ordered = builder(&dataset).batch_size(8).shuffle(3).build().unwrap();
        let wanted: Vec<_> = ordered.epoch(0).unwrap().map(names).collect();
        let loader = builder(&dataset).batch_size(8).shuffle(3).unordered(true).build().unwrap();
        for slow in [0, 5] {
            let slowest = wanted[slow].iter().find(|name| !name.ends_with("00000.bin")).unwrap();
            gated.shut_object(slowest);
            let mut batches = loader.epoch(0).unwrap();
            let mut got: Vec<_> = batches.by_ref().take(12).map(names).collect();
            assert!(!got.contains(&wanted[slow]));
            let state = batches.state();
            assert_eq!(state.position, slow as u64 * 8);
            let beyond = state.beyond.unwrap();
            assert_eq!((beyond.positions, beyond.share), (vec![(slow as u64 * 8 + 8, 100)], None));
            gated.open();
            got.extend(batches.by_ref().map(names));
            assert_eq!(got.last(), Some(&wanted[slow]));
            assert_eq!(BTreeSet::from_iter(&got), BTreeSet::from_iter(&wanted));
            let state = batches.state();
            assert_eq!((state.position, state.beyond), (100, None));
            all_given_back(&loader);
        }
    });
}

/// The loader reads no further ahead than with ordered batches, and no batch waits for bytes that a later one holds.
#[test]
fn little_memory_and_few_batches_ahead() {
    without_hanging(|| {
        let (gated, dataset) = opened(300);
        for strategy in STRATEGIES {
            for (prefetch, budget) in [(1, 1 << 20), (3, 20 << 10), (64, 16 << 10)] {
                let loader = DataLoader::builder(dataset.clone())
                    .batch_size(3)
                    .shuffle(3)
                    .prefetch(prefetch)
                    .memory_budget(budget)
                    .strategy(strategy)
                    .unordered(true)
                    .build()
                    .unwrap();
                let got: BTreeSet<_> = loader.epoch(0).unwrap().flat_map(names).collect();
                assert_eq!(got.len(), 300);
                all_given_back(&loader);
            }
        }
        assert_eq!(gated.inner.names("data").len(), 300);
    });
}

/// A run that stops anywhere and resumes at any number of ranks delivers exactly the rest.
#[test]
fn resume_is_exact_at_any_number_of_ranks() {
    without_hanging(|| {
        let (gated, dataset) = opened(157);
        for (seed, worlds) in [(1, [1, 1, 1]), (2, [3, 3, 1]), (3, [1, 2, 4]), (4, [2, 3, 2]), (5, [4, 4, 4])] {
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            let mut states: Vec<State> = Vec::new();
            for (leg, world) in worlds.into_iter().enumerate() {
                let before = std::mem::take(&mut states);
                for rank in 0..world {
                    let shard = builder(&dataset).shard(rank, world).unordered(true);
                    let loader = if leg == 0 {
                        shard.batch_size(5).shuffle(seed).build().unwrap()
                    } else if before.len() == world {
                        // Each rank resumes from its own state.
                        shard.resume(before[rank].clone()).build().unwrap()
                    } else {
                        shard.resume_all(before.clone()).build().unwrap()
                    };
                    // Different batches come late each time, which leaves gaps.
                    gated.open();
                    gated
                        .inner
                        .names("data")
                        .into_iter()
                        .skip(leg + rank)
                        .step_by(11)
                        .for_each(|name| gated.shut_object(&name));
                    let mut batches = loader.epoch(0).unwrap();
                    if leg == 2 {
                        gated.open();
                        batches.flat_map(names).for_each(|name| *seen.entry(name).or_default() += 1);
                        continue;
                    }
                    // This many batches must not depend on the shut objects.
                    let taken: Vec<_> = batches.by_ref().take(2).flat_map(names).collect();
                    for name in taken {
                        *seen.entry(name).or_default() += 1;
                    }
                    let saved = serde_json::to_string(&batches.state()).unwrap();
                    states.push(serde_json::from_str(&saved).unwrap());
                }
            }
            assert_eq!(seen.len(), 157, "{worlds:?}");
            assert!(seen.values().all(|times| *times == 1), "{worlds:?}: {seen:?}");
        }
    });
}

#[test]
fn a_state_of_one_rank_is_no_other_ranks() {
    let (_, dataset) = opened(60);
    let shard = |rank| builder(&dataset).batch_size(4).shard(rank, 2).unordered(true);
    let state = shard(0).build().unwrap().epoch(0).unwrap().state();
    let error = shard(1).resume(state.clone()).build().unwrap_err();
    assert!(error.kind() == ErrorKind::Config && error.to_string().contains("resume_all"), "{error}");
    let error = builder(&dataset).resume(state.clone()).build().unwrap_err();
    assert!(error.to_string().contains("resume_all"), "{error}");
    let error = shard(0).batch_size(5).resume(state.clone()).build().unwrap_err();
    assert!(error.to_string().contains("resume_all"), "{error}");
    assert!(shard(0).resume(state.clone()).build().is_ok());
    let error = builder(&dataset).resume_all([state]).build().unwrap_err();
    assert!(error.to_string().contains("ranks 0 to 1"), "{error}");
}

/// Finished batches are delivered before the error.
#[test]
fn an_error_ends_it() {
    without_hanging(|| {
        let (gated, dataset) = opened(64);
        let name = dataset.manifest().get(21).unwrap().name;
        gated.inner.insert("data", &name, "another");
        let loader = builder(&dataset).batch_size(8).unordered(true).build().unwrap();
        let mut batches = loader.epoch(0).unwrap();
        let error = batches.find_map(Result::err).unwrap();
        assert_eq!(error.kind(), ErrorKind::Changed, "{error}");
        assert!(batches.next().is_none());
        // Any of the others may have been delivered before: all, none, or the last alone.
        let State { position, beyond, .. } = batches.state();
        let beyond = beyond.map(|beyond| beyond.positions).unwrap_or_default();
        let lacks_lost = beyond.iter().all(|(start, end)| *end <= 16 || *start >= 24);
        assert!(position <= 16 && lacks_lost, "{position}, {beyond:?}");
        all_given_back(&loader);
    });
}
