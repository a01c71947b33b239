//! Samples that can't be read are skipped or substituted, identically at any number of ranks, and never cause a hang.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use dataflux::store::{
    Attempt, Client, Fault, FaultStore, MemoryStore, ObjectId, ObjectRef, Objects, RetryPolicy, Store, StoreCall,
};
use dataflux::{
    Collate, DataLoader, DatafluxDataset, Decode, DecodeMemory, ErrorKind, ItemMemory, Limits, LostSample, Manifest,
    OnError, Raw, RawSample, Stage, State, Strategy,
};
use futures_util::StreamExt;
use proptest::prelude::*;

use crate::support::gated::Gated;
use crate::support::{HANG, STRATEGIES, all_given_back, client, content, until, without_hanging};

const SKIP: OnError = OnError::Skip { limit: u64::MAX };
const SUBSTITUTE: OnError = OnError::Substitute { limit: u64::MAX };

fn name(index: u64) -> String {
    format!("p/{index:04}")
}

/// Numbered objects of these sizes, none of them empty, because empty objects are never read. The bad ones are spoiled
/// after the listing.
fn data(sizes: impl IntoIterator<Item = usize>, bad: &BTreeSet<u64>) -> (MemoryStore, DatafluxDataset) {
    let store = MemoryStore::new().with_bucket("data");
    for (index, size) in (0..).zip(sizes) {
        store.insert("data", &name(index), content(&name(index), size));
    }
    let dataset = DatafluxDataset::open_with(client(store.clone()), "gs://data/p/").unwrap();
    for &index in bad {
        spoil(&store, index);
    }
    (store, dataset)
}

/// Replaces the object by another version, or deletes it, in turn.
fn spoil(store: &MemoryStore, index: u64) {
    if index.is_multiple_of(2) {
        store.insert("data", &name(index), "another");
    } else {
        let (id, attempt) = (ObjectId::live("data", name(index)), Attempt::first());
        let delete = store.delete(&id, &attempt);
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(delete).unwrap();
    }
}

/// The outcome of a run over all ranks.
#[derive(Debug, Default, PartialEq)]
struct Outcome {
    /// The sample at each position of the global order.
    delivered: BTreeMap<u64, u64>,
    /// Position, sample, substitute.
    lost: BTreeSet<(u64, u64, Option<u64>)>,
    /// Samples in the batches of each rank, by step.
    lengths: Vec<Vec<usize>>,
}

impl Outcome {
    fn add<T>(&mut self, rank: usize, batch: &dataflux::Batch<T>) {
        self.lengths.resize(self.lengths.len().max(rank + 1), Vec::new());
        self.lengths[rank].push(batch.len());
        let skipped: BTreeSet<_> = batch.skipped().iter().map(|lost| lost.position).collect();
        let places = batch.positions().filter(|position| !skipped.contains(position));
        for (position, id) in places.zip(batch.ids()) {
            assert_eq!(self.delivered.insert(position, id.0), None);
        }
        for lost in batch.skipped().iter().chain(batch.substituted()) {
            let LostSample { id, position, substitute, .. } = lost;
            assert_eq!(&*lost.name, name(id.0));
            assert!(lost.error.at_stage().is_some() && lost.error.about().unwrap().contains(&*lost.name), "{lost:?}");
            assert!(self.lost.insert((*position, id.0, substitute.map(|id| id.0))), "told twice: {lost:?}");
        }
    }
}

/// One epoch over all ranks, shuffled.
fn run<D: Decode + Clone>(
    dataset: &DatafluxDataset,
    decode: &D,
    on_error: OnError,
    (world, batch, strategy, threads): (usize, usize, Strategy, usize),
) -> Outcome {
    let mut outcome = Outcome::default();
    for rank in 0..world {
        let loader = DataLoader::builder(dataset.clone().decode(decode.clone()))
            .batch_size(batch)
            .shuffle(7)
            .shard(rank, world)
            .strategy(strategy)
            .io_threads(threads)
            .decode_threads(threads)
            .on_error(on_error)
            .build()
            .unwrap();
        let mut batches = loader.epoch(1).unwrap();
        let (mut skipped, mut substituted, mut samples) = (0, 0, 0);
        for batch in &mut batches {
            let batch = batch.unwrap();
            assert_eq!(batch.len(), batch.names().len());
            assert!(batch.ids().iter().zip(batch.names()).all(|(id, of)| of == name(id.0)));
            skipped += batch.skipped().len();
            substituted += batch.substituted().len();
            samples += batch.len();
            outcome.add(rank, &batch);
        }
        let stats = batches.stats();
        let told = (stats.skipped, stats.substituted, stats.samples);
        assert_eq!(told, (skipped as u64, substituted as u64, samples as u64));
        drop(batches);
        crate::support::no_temporaries();
        until("the budget is given back", || loader.bytes_held() == 0);
    }
    outcome
}

/// A decoder on the decode threads, which refuses some of the readable samples.
fn picky(refused: BTreeSet<u64>) -> impl Fn(RawSample) -> anyhow::Result<u64> + Clone + Send + Sync + 'static {
    move |sample| {
        let id = sample.id().0;
        assert!(!refused.contains(&id) || id % 3 != 0, "number {id} makes it panic");
        anyhow::ensure!(!refused.contains(&id), "number {id} is refused");
        Ok(id)
    }
}

/// Checks what must hold under every policy; `whole` is the outcome without bad samples.
fn check(outcome: &Outcome, whole: &Outcome, bad: &BTreeSet<u64>, on_error: OnError) {
    for (position, id) in &whole.delivered {
        let got = outcome.delivered.get(position);
        let told = |lost: &&(u64, u64, Option<u64>)| lost.0 == *position;
        match (bad.contains(id), on_error) {
            (false, _) => assert_eq!((got, outcome.lost.iter().find(told)), (Some(id), None), "at {position}"),
            (true, SKIP) => {
                assert_eq!(got, None, "at {position}");
                assert!(outcome.lost.contains(&(*position, *id, None)), "at {position}");
            }
            (true, _) => {
                assert!(!bad.contains(got.unwrap()), "at {position}");
                assert!(outcome.lost.contains(&(*position, *id, got.copied())), "at {position}");
                // Substitutes that were tried in between are reported, too, and were bad.
                assert!(outcome.lost.iter().filter(told).all(|(_, id, by)| bad.contains(id) && *by == got.copied()));
            }
        }
    }
    let steps: BTreeSet<_> = outcome.lengths.iter().map(Vec::len).collect();
    assert_eq!(steps.len(), 1, "ranks differ in batches: {:?}", outcome.lengths);
    if on_error != SKIP {
        assert_eq!(outcome.lengths, whole.lengths, "ranks differ in samples");
    }
}

#[test]
fn the_same_at_any_world_size_with_any_strategy_threads_and_decoder() {
    without_hanging(|| {
        let spoiled: BTreeSet<u64> = [0, 1, 17, 40, 41, 42, 43, 99, 150, 199].into();
        let refused: BTreeSet<u64> = [2, 3, 18, 60, 61, 198].into();
        let both = &spoiled | &refused;
        let sizes = || (0..200).map(|index| 1 + index * 37 % 900);
        let (_store, dataset) = data(sizes(), &BTreeSet::new());
        let whole = [1, 4].map(|world| run(&dataset, &Raw, OnError::Fail, (world, 32 / world, Strategy::Direct, 2)));
        let (_store, dataset) = data(sizes(), &spoiled);
        for on_error in [SKIP, SUBSTITUTE] {
            let (mut light, mut heavy) = (Vec::new(), Vec::new());
            for (world, whole) in [1, 4].into_iter().zip(&whole) {
                for strategy in STRATEGIES {
                    for threads in [1, 4] {
                        let way = (world, 32 / world, strategy, threads);
                        light.push(run(&dataset, &Raw, on_error, way));
                        check(light.last().unwrap(), whole, &spoiled, on_error);
                        heavy.push(run(&dataset, &picky(refused.clone()), on_error, way));
                        check(heavy.last().unwrap(), whole, &both, on_error);
                    }
                }
            }
            for of in [light, heavy] {
                let first = &of[0];
                assert!(of.iter().all(|other| (&other.delivered, &other.lost) == (&first.delivered, &first.lost)));
            }
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The order and the losses depend only on the bad samples, not on ranks, batches or reads.
    #[test]
    fn any_losses_are_the_same_whatever_the_ranks(
        samples in 2u64..120, share in 0u64..70, salt: u64, batch in 1usize..20,
        worlds in prop::collection::vec((1usize..6, 0usize..4, 1usize..4), 2..4), skip: bool,
    ) {
        let bad = |index: &u64| (index.wrapping_add(salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) % 100 < share;
        let bad: BTreeSet<u64> = (0..samples).filter(bad).collect();
        prop_assume!(bad.len() < samples as usize / 2 + 1);
        let on_error = if skip { SKIP } else { SUBSTITUTE };
        without_hanging(move || {
            let sizes = || (0..samples as usize).map(|index| 1 + index * 131 % 700);
            let (_store, dataset) = data(sizes(), &BTreeSet::new());
            let (_spoiled, spoiled) = data(sizes(), &bad);
            let mut first: Option<Outcome> = None;
            for (world, strategy, threads) in worlds {
                let way = (world, batch, STRATEGIES[strategy], threads);
                let outcome = run(&spoiled, &Raw, on_error, way);
                check(&outcome, &run(&dataset, &Raw, OnError::Fail, way), &bad, on_error);
                if let Some(first) = &first {
                    assert_eq!((&first.delivered, &first.lost), (&outcome.delivered, &outcome.lost));
                }
                first.get_or_insert(outcome);
            }
        });
    }
}

/// Bytes that fail the checksum at every attempt, like bytes damaged on a disk.
#[test]
fn damaged_objects_are_lost_and_the_rest_of_their_group_is_not() {
    without_hanging(|| {
        let bad: BTreeSet<u64> = [5, 6, 63].into();
        let (store, dataset) = data(vec![100; 64], &BTreeSet::new());
        let listed: Vec<_> = (0..64).map(|index| dataset.manifest().get(index).unwrap()).collect();
        let objects = (0..).zip(&listed).map(|(index, entry)| ObjectRef {
            name: &entry.name,
            size: entry.size,
            version: entry.version.as_deref(),
            crc32c: entry.crc32c.map(|crc| if bad.contains(&index) { !crc } else { crc }),
            storage_class: entry.storage_class,
            ..ObjectRef::default()
        });
        let objects: Objects = objects.collect();
        let manifest = Arc::new(Manifest::new("gs://data/p/".parse().unwrap(), &objects).unwrap());
        for strategy in [Strategy::Direct, Strategy::compose()] {
            for on_error in [SKIP, SUBSTITUTE] {
                let dataset = DatafluxDataset::builder()
                    .client(client(store.clone()))
                    .from_manifest(Arc::clone(&manifest))
                    .unwrap();
                let loader =
                    DataLoader::builder(dataset).batch_size(32).strategy(strategy).on_error(on_error).build().unwrap();
                let batches: Vec<_> = loader.epoch(0).unwrap().map(Result::unwrap).collect();
                let lost = batches.iter().flat_map(|batch| batch.skipped().iter().chain(batch.substituted()));
                let lost: Vec<_> = lost.inspect(|lost| assert_eq!(lost.error.kind(), ErrorKind::Integrity)).collect();
                // A substitute may be bad itself; then two samples are lost at one position.
                let places: BTreeSet<_> = lost.iter().map(|lost| lost.position).collect();
                assert_eq!(places, bad, "unshuffled, the place is the number");
                assert!(lost.iter().all(|lost| lost.error.at_stage() == Some(Stage::Split)));
                let samples: usize = batches.iter().map(dataflux::Batch::len).sum();
                assert_eq!(samples, if on_error == SKIP { 61 } else { 64 });
                drop(batches);
                all_given_back(&loader);
            }
        }
    });
}

/// The limit is reached in the order of delivery, at the same batch in every run, however far ahead other batches are.
/// An item whose size is known only once it is decoded ended the epoch, whatever the policy.
#[test]
fn an_item_that_turns_out_larger_than_the_budget_is_lost_like_any_other() {
    without_hanging(|| {
        for (on_error, expected) in [(SKIP, 7), (SUBSTITUTE, 8)] {
            let (_store, dataset) = data([100; 8], &BTreeSet::new());
            let decode = |sample: RawSample| -> anyhow::Result<Vec<f32>> {
                Ok(vec![0.0; if sample.id().0 == 3 { 100_000 } else { 10 }])
            };
            let loader = DataLoader::builder(dataset.decode(decode)).batch_size(4).memory_budget(64 << 10);
            let loader = loader.on_error(on_error).build().unwrap();
            let batches: Vec<_> = loader.epoch(0).unwrap().collect::<Result<_, _>>().unwrap();
            assert_eq!(batches.iter().map(dataflux::Batch::len).sum::<usize>(), expected, "{on_error:?}");
            let lost: Vec<_> =
                batches.iter().flat_map(|batch| batch.skipped().iter().chain(batch.substituted())).collect();
            assert_eq!(lost.iter().map(|lost| lost.id.0).collect::<Vec<_>>(), [3]);
            assert!(lost[0].error.to_string().contains("memory_budget"), "{}", lost[0].error);
            drop(batches);
            all_given_back(&loader);
        }
    });
}

/// A decoder whose estimate of its memory panics for one sample.
#[derive(Clone, Copy, Debug)]
struct PanicsOnHeader;

impl Decode for PanicsOnHeader {
    type Item = u64;
    type Collate = dataflux::Samples;

    fn decode(&self, sample: RawSample) -> anyhow::Result<u64> {
        Ok(sample.id().0)
    }
    fn collate(&self) -> dataflux::Samples {
        dataflux::Samples
    }
    fn item_memory(&self) -> ItemMemory {
        ItemMemory::FromBytes
    }
    fn decode_memory(&self, sample: &RawSample) -> Option<DecodeMemory> {
        assert_ne!(sample.id().0, 3, "no header");
        None
    }
}

#[test]
fn a_sample_whose_memory_panics_is_lost_and_not_decoded_unseen() {
    without_hanging(|| {
        let (_store, dataset) = data([100; 8], &BTreeSet::new());
        let builder = DataLoader::builder(dataset.decode(PanicsOnHeader)).batch_size(4);
        let loader = builder.on_error(SKIP).build().unwrap();
        let batches: Vec<_> = loader.epoch(0).unwrap().collect::<Result<_, _>>().unwrap();
        assert_eq!(batches.iter().flat_map(|batch| batch.to_vec()).collect::<Vec<_>>(), [0, 1, 2, 4, 5, 6, 7]);
        assert!(batches[0].skipped()[0].error.to_string().contains("no header"));
    });
}

#[test]
fn beyond_the_limit_the_epoch_ends_with_the_number_and_the_last() {
    without_hanging(|| {
        let bad: BTreeSet<u64> = [3, 12, 13, 27].into();
        let (_store, dataset) = data(vec![50; 40], &bad);
        for strategy in [Strategy::Direct, Strategy::compose()] {
            for (limit, samples, last) in [(0, 0, 3), (1, 8, 12), (2, 8, 13), (3, 24, 27)] {
                let loader = DataLoader::builder(dataset.clone())
                    .batch_size(8)
                    .strategy(strategy)
                    .on_error(OnError::Skip { limit })
                    .build()
                    .unwrap();
                let mut batches = loader.epoch(0).unwrap();
                let error = batches.find_map(Result::err).unwrap();
                let said = error.to_string();
                assert!(said.contains(&format!("wanted at most {limit} in an epoch on this rank, got {}", limit + 1)));
                assert!(error.about().unwrap().contains(&name(last)), "{said}");
                assert!([ErrorKind::Changed, ErrorKind::NotFound].contains(&error.kind()), "{said}");
                assert!(std::error::Error::source(&error).is_some(), "{said}");
                let before = bad.range(..samples).count() as u64;
                assert_eq!((batches.stats().samples, batches.stats().skipped), (samples - before, before));
                assert_eq!(batches.state().position, samples);
                assert!(batches.next().is_none());
                all_given_back(&loader);
            }
        }
        let loader = |limit| DataLoader::builder(dataset.clone()).batch_size(8).on_error(limit).build().unwrap();
        assert_eq!(loader(OnError::Skip { limit: 4 }).epoch(0).unwrap().flatten().count(), 5);
        assert!(loader(OnError::Substitute { limit: 3 }).epoch(0).unwrap().any(|batch| batch.is_err()));
        let counted = loader(OnError::Skip { limit: 4 });
        for epoch in 0..3 {
            assert!(counted.epoch(epoch).unwrap().all(|batch| batch.is_ok()), "each epoch counts anew");
        }
    });
}

/// An error that every other sample would meet as well is no loss of a sample.
#[test]
fn a_service_that_is_down_is_not_skipped() {
    without_hanging(|| {
        for kind in [ErrorKind::Unavailable, ErrorKind::Unauthenticated, ErrorKind::Protocol, ErrorKind::Timeout] {
            for on_error in [SKIP, SUBSTITUTE] {
                let (store, _) = data(vec![50; 20], &BTreeSet::new());
                let faults = FaultStore::new(Arc::new(store));
                let hasty = Client::new(Arc::new(faults.clone())).with_retry(RetryPolicy::never());
                let dataset = DatafluxDataset::open_with(hasty, "gs://data/p/").unwrap();
                let loader = DataLoader::builder(dataset).batch_size(5).on_error(on_error).build().unwrap();
                faults.fail_next(StoreCall::Get, Fault::Error(kind), 1_000);
                let error = loader.epoch(0).unwrap().find_map(Result::err).unwrap();
                assert_eq!(error.kind(), kind, "{error}");
                all_given_back(&loader);
            }
        }
    });
}

/// The search for a substitute always ends.
#[test]
fn where_nothing_can_be_had_substituting_ends_with_an_error() {
    without_hanging(|| {
        for samples in [1, 2, 64] {
            for strategy in [Strategy::Direct, Strategy::compose()] {
                let (_store, dataset) = data(vec![50; samples], &(0..samples as u64).collect());
                let loader =
                    DataLoader::builder(dataset).batch_size(4).strategy(strategy).on_error(SUBSTITUTE).build().unwrap();
                let error = loader.epoch(0).unwrap().next().unwrap().unwrap_err();
                let said = error.to_string();
                let tried = samples.min(17);
                assert!(said.contains(&format!("none of {tried} samples tried for one place")), "{said}");
                assert!(std::error::Error::source(&error).is_some(), "{said}");
                all_given_back(&loader);
            }
        }
    });
}

/// A batch that fills the budget has small samples replaced by large ones while it is read, and while later batches
/// wait for bytes that only its delivery frees.
#[test]
fn substitutes_larger_than_what_they_replace_wait_for_no_byte_of_their_own() {
    without_hanging(|| {
        let bad: BTreeSet<u64> = (0..120).filter(|index| index % 4 == 0).collect();
        let sizes = || (0..120).map(|index| if index % 4 == 0 { 10 } else { 7_000 });
        let items = |sample: RawSample| -> anyhow::Result<u64> { Ok(sample.id().0) };
        let (_store, dataset) = data(sizes(), &bad);
        for (batch, budget) in [(4, 22 << 10), (4, 29 << 10), (8, 44 << 10), (8, 80 << 10), (1, 8 << 10), (2, 14 << 10)]
        {
            for (strategy, prefetch) in [
                (Strategy::Direct, 1),
                (Strategy::Direct, 64),
                (Strategy::compose(), 3),
                (Strategy::compose(), 64),
                (Strategy::Auto, 64),
            ] {
                let loader = DataLoader::builder(dataset.clone())
                    .batch_size(batch)
                    .prefetch(prefetch)
                    .memory_budget(budget)
                    // With `Auto`, groups of a batch then wait for each other while the bytes for the other groups are
                    // not yet granted.
                    .limits(Limits::default().concurrency(1))
                    .strategy(strategy)
                    .on_error(SUBSTITUTE)
                    .build()
                    .unwrap();
                assert_eq!(loader.epoch(0).unwrap().map(|batch| batch.unwrap().len()).sum::<usize>(), 120);
                all_given_back(&loader);
            }
            let decoded = dataset.clone().decode(items);
            let loader = DataLoader::builder(decoded).batch_size(batch).on_error(SUBSTITUTE).build().unwrap();
            assert_eq!(loader.epoch(0).unwrap().map(|batch| batch.unwrap().len()).sum::<usize>(), 120);
        }
    });
}

#[test]
fn dropping_the_iterator_amid_substitutes_leaves_nothing() {
    without_hanging(|| {
        let bad: BTreeSet<u64> = (0..200).filter(|index| index % 3 == 0).collect();
        let (store, dataset) = data((0..200).map(|index| 1 + index * 41 % 3_000), &bad);
        let left = store.names("data").len();
        for strategy in [Strategy::Direct, Strategy::compose()] {
            for taken in [0, 1, 2, 7, 20] {
                let loader = DataLoader::builder(dataset.clone())
                    .batch_size(6)
                    .memory_budget(32 << 10)
                    .strategy(strategy)
                    .on_error(SUBSTITUTE)
                    .build()
                    .unwrap();
                let mut batches = loader.epoch(0).unwrap();
                batches.by_ref().take(taken).for_each(|batch| drop(batch.unwrap()));
                drop(batches);
                all_given_back(&loader);
                assert_eq!(store.names("data").len(), left);
            }
        }
    });
}

/// A collate of any number of samples; none make an empty batch.
struct Sum;

impl Collate<RawSample> for Sum {
    type Output = usize;

    fn collate(&self, samples: Vec<RawSample>) -> anyhow::Result<usize> {
        Ok(samples.iter().map(|sample| sample.bytes().len()).sum())
    }
}

#[test]
fn a_batch_of_which_all_are_skipped_is_an_empty_one() {
    without_hanging(|| {
        let (_store, dataset) = data(vec![10; 12], &(4..8).collect());
        for strategy in [Strategy::Direct, Strategy::compose()] {
            let builder = DataLoader::builder(dataset.clone().collate(Sum)).batch_size(4).strategy(strategy);
            let loader = builder.on_error(SKIP).build().unwrap();
            let batches: Vec<_> = loader.epoch(0).unwrap().map(Result::unwrap).collect();
            assert_eq!(
                batches.iter().map(|batch| (**batch, batch.len())).collect::<Vec<_>>(),
                [(40, 4), (0, 0), (40, 4)]
            );
            assert_eq!(batches[1].skipped().len(), 4);
            assert_eq!(batches[1].positions(), 4..8);
        }
    });
}

/// A skipped sample counts as delivered, so no sample is repeated or omitted.
#[test]
fn resume_counts_what_was_skipped_or_substituted() {
    without_hanging(|| {
        let bad: BTreeSet<u64> = [1, 2, 9, 30, 31, 77].into();
        let (_store, dataset) = data(vec![60; 80], &bad);
        for on_error in [SKIP, SUBSTITUTE] {
            let whole = run(&dataset, &Raw, on_error, (1, 8, Strategy::Auto, 2));
            for steps in [1, 3, 9] {
                let mut outcome = Outcome::default();
                let builder = || DataLoader::builder(dataset.clone()).on_error(on_error);
                let loader = builder().batch_size(8).shuffle(7).build().unwrap();
                let mut batches = loader.epoch(1).unwrap();
                batches.by_ref().take(steps).for_each(|batch| outcome.add(0, &batch.unwrap()));
                let state: State = batches.state();
                for rank in 0..2 {
                    let loader = builder().shard(rank, 2).resume(state.clone()).build().unwrap();
                    loader.epoch(1).unwrap().for_each(|batch| outcome.add(rank, &batch.unwrap()));
                }
                assert_eq!((&outcome.delivered, &outcome.lost), (&whole.delivered, &whole.lost));
            }
        }
    });
}

/// The positions are known only when the listing ends, so a substitute waits for that and is the same one.
#[test]
fn substitutes_are_the_same_while_the_prefix_is_being_listed() {
    without_hanging(|| {
        let bad: BTreeSet<u64> = [0, 3, 500, 1_999].into();
        let (store, dataset) = data(vec![20; 2_000], &BTreeSet::new());
        let picky = picky(bad);
        let run = |dataset: DatafluxDataset| {
            let loader = DataLoader::builder(dataset.decode(picky.clone()))
                .batch_size(100)
                .shuffle_window(5, 64)
                .on_error(SUBSTITUTE)
                .build()
                .unwrap();
            let mut outcome = Outcome::default();
            loader.epoch(0).unwrap().for_each(|batch| outcome.add(0, &batch.unwrap()));
            outcome
        };
        let slow = FaultStore::new(Arc::new(store.with_page_cap(100)));
        let streaming = DatafluxDataset::builder().client(client(slow)).streaming(true).list_concurrency(1);
        let streamed = run(streaming.open("gs://data/p/").unwrap());
        assert_eq!(streamed.lost.len(), 4);
        assert_eq!(streamed, run(dataset));
    });
}

/// No thread waits for the end of a listing after the loader is dropped, least of all a network thread.
#[test]
fn dropping_the_iterator_while_substitutes_wait_for_the_listing_stops_nothing() {
    without_hanging(|| {
        let (store, other) = data(vec![20; 6_000], &BTreeSet::new());
        let mut slow = FaultStore::new(Arc::new(store.with_page_cap(1_000)));
        for call in 6..100 {
            slow = slow.fail(StoreCall::List, call, Fault::Stall);
        }
        let patient = Client::new(Arc::new(slow)).with_stall_timeout(HANG * 10);
        let builder = DatafluxDataset::builder().client(patient).streaming(true).list_concurrency(1);
        let dataset = builder.open("gs://data/p/").unwrap();
        let refused = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&refused);
        let picky = move |_: RawSample| -> anyhow::Result<u64> {
            count.fetch_add(1, Ordering::SeqCst);
            anyhow::bail!("refused")
        };
        let loader = DataLoader::builder(dataset.decode(picky)).batch_size(64).on_error(SUBSTITUTE).build().unwrap();
        let batches = loader.epoch(0).unwrap();
        until("samples are lost", || refused.load(Ordering::SeqCst) >= 64);
        drop(batches);
        until("the budget is given back", || loader.bytes_held() == 0);
        let loader = DataLoader::builder(other).batch_size(64).build().unwrap();
        assert_eq!(loader.epoch(0).unwrap().map(|batch| batch.unwrap().len()).sum::<usize>(), 6_000);
    });
}

/// Each substitute blocked one of the runtime's 512 threads, until none was left for the listing that they waited for.
#[test]
fn a_thousand_losses_that_wait_for_the_listing_leave_it_threads() {
    without_hanging(|| {
        let (store, _) = data(vec![20; 20_000], &BTreeSet::new());
        let gated = Gated::new(store.with_page_cap(1_000));
        gated.shut_after(StoreCall::List, 10);
        let patient = Client::new(gated.store()).with_stall_timeout(HANG);
        let builder = DatafluxDataset::builder().client(patient).streaming(true).list_concurrency(1);
        let dataset = builder.open("gs://data/p/").unwrap();
        let refused = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&refused);
        let picky = move |sample: RawSample| -> anyhow::Result<u64> {
            if sample.id().0 < 4_000 && sample.id().0.is_multiple_of(2) {
                count.fetch_add(1, Ordering::SeqCst);
                anyhow::bail!("refused");
            }
            Ok(sample.id().0)
        };
        let loader = DataLoader::builder(dataset.decode(picky)).batch_size(64).on_error(SUBSTITUTE).build().unwrap();
        let batches = loader.epoch(0).unwrap();
        until("more are lost than there are threads", || refused.load(Ordering::SeqCst) >= 1_000);
        gated.open();
        assert_eq!(batches.map(|batch| batch.unwrap().len()).sum::<usize>(), 20_000);
    });
}

#[tokio::test]
async fn a_stream_tells_of_losses_too() {
    let (_store, dataset) = tokio::task::spawn_blocking(|| data(vec![20; 50], &[7, 8].into())).await.unwrap();
    let loader = DataLoader::builder(dataset).batch_size(10).on_error(SUBSTITUTE).build().unwrap();
    let mut stream = loader.stream(0).unwrap();
    let (mut lost, mut samples) = (0, 0);
    while let Some(batch) = stream.next().await {
        let batch = batch.unwrap();
        lost += batch.substituted().len();
        samples += batch.len();
    }
    assert!(lost >= 2 && samples == 50);
    assert_eq!(stream.stats().substituted, lost as u64);
}
