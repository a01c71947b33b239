//! Costs: the forecast of an epoch, its actual cost, the strategies that a budget rules out, and the notices in the
//! log.

use std::sync::Arc;

use dataflux::metrics::Counts;
use dataflux::plan::{EpochCost, Forecast, Layout, PriceTable, Prices};
use dataflux::sample::{EpochLength, Mixture, Sampler, Shuffle, Subset, Weighted};
use dataflux::store::{Client, Credentials, GcsConfig, GcsStore};
use dataflux::{Cost, DataLoader, DataLoaderBuilder, DatafluxDataset, Limits, Raw, SampleId, Strategy};
use dataflux_emulator::{Emulator, ObjectOptions};

use crate::support::log::Log;
use crate::support::{all_given_back, content, without_hanging};

/// Pairs of one object in Standard and one in Nearline storage, and an empty one.
fn filled(pairs: usize, size: usize) -> Emulator {
    let emulator = Emulator::builder().bucket("data").start().unwrap();
    emulator.put("data", "p/~empty", "");
    for index in 0..2 * pairs {
        let name = format!("p/{index:04}");
        let class = ["STANDARD", "NEARLINE"][index % 2].to_owned();
        let options = ObjectOptions { storage_class: Some(class), ..ObjectOptions::default() };
        emulator.put_with("data", &name, content(&name, size + index), options);
    }
    emulator
}

fn loader(emulator: &Emulator) -> DataLoaderBuilder<Raw> {
    let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
    let client = Client::new(Arc::new(GcsStore::new(config).unwrap())).with_retry(crate::support::retries());
    DataLoader::builder(DatafluxDataset::open_with(client, "gs://data/p/").unwrap()).batch_size(64)
}

/// A limit on the price of an epoch.
fn within_budget(dollars: f64) -> Cost {
    Cost::default().epoch_budget_usd(dollars)
}

fn forecast(loader: &DataLoader) -> Forecast {
    let dataset = loader.dataset();
    Forecast::new(dataset.manifest(), &Prices::of(dataset.bucket_info()), Layout::default()).unwrap()
}

/// The billed part of the counts, without the copies that reads make in memory, which are in no forecast.
fn billed(mut ops: Counts) -> Counts {
    ops.bytes_copied = 0;
    ops
}

#[track_caller]
fn same(told: &EpochCost, loader: &DataLoader, epoch: u64) {
    let mut batches = loader.epoch(epoch).unwrap();
    batches.by_ref().for_each(|batch| drop(batch.unwrap()));
    let stats = batches.stats();
    assert_eq!(billed(stats.ops), told.ops);
    let (came, told) = (stats.bill, told.bill);
    for (came, told) in [
        (came.class_a, told.class_a),
        (came.class_b, told.class_b),
        (came.retrieval, told.retrieval),
        (came.temporaries, told.temporaries),
        (came.replication, told.replication),
    ] {
        assert!((came - told).abs() <= 1e-12, "{:?} for {told:?}", stats.bill);
    }
    all_given_back(loader);
}

#[test]
fn an_epoch_comes_out_as_forecast_to_the_call() {
    without_hanging(|| {
        let emulator = filled(160, 500);
        for location_type in ["region", "dual-region"] {
            emulator.configure("data", |config| config.location_type = location_type.into());
            for strategy in [Strategy::Direct, Strategy::compose()] {
                let loader = loader(&emulator).strategy(strategy).build().unwrap();
                let told = *forecast(&loader).of(strategy);
                for epoch in 0..2 {
                    emulator.reset_stats();
                    same(&told, &loader, epoch);
                    let stats = emulator.stats();
                    assert_eq!(
                        (stats.get_media, stats.compose, stats.delete),
                        (told.ops.get, told.ops.compose, told.ops.delete)
                    );
                }
                // Both epochs, and the calls before them, of which each is of class A or B.
                let all = loader.dataset().client().metrics().snapshot();
                let before = Prices::of(loader.dataset().bucket_info()).bill(&{
                    let mut calls = Counts::default();
                    (calls.list, calls.bucket) = (all.list, all.bucket);
                    calls
                });
                let wanted = 2.0 * told.usd() + before.total();
                assert!((loader.bill().total() - wanted).abs() < 1e-12, "{:?} for {wanted}", loader.bill());
            }
        }
    });
}

#[test]
fn the_ranges_of_large_objects_are_in_the_forecast() {
    without_hanging(|| {
        let emulator = filled(2, 500);
        emulator.put("data", "p/large", content("large", 40 << 20));
        for (streams, part) in [(8, 8 << 20), (2, 5 << 20)] {
            let limits = Limits::default().max_streams(streams).min_part_size(part);
            let loader = loader(&emulator).strategy(Strategy::Direct).limits(limits).build().unwrap();
            let dataset = loader.dataset();
            let layout = Layout::default().max_streams(streams).min_part_size(part);
            let told = Forecast::new(dataset.manifest(), &Prices::of(dataset.bucket_info()), layout).unwrap();
            assert!(told.ranged.unwrap().ops.get > 1);
            same(&told.direct, &loader, 0);
        }
        // A cost budget includes them, too.
        let least = forecast(&loader(&emulator).build().unwrap()).direct.usd();
        let within = |dollars| loader(&emulator).strategy(Strategy::Direct).cost(within_budget(dollars)).build();
        assert!(within(0.99 * least).is_err() && within(1.01 * least).is_ok());
    });
}

/// The mean size decided the strategy of all groups, which cost half as much again as the budget.
#[test]
fn a_budget_that_only_the_cheapest_mix_fits_is_kept() {
    without_hanging(|| {
        let emulator = Emulator::builder().bucket("data").start().unwrap();
        for index in 0..800 {
            let name = format!("p/{index:04}");
            emulator.put("data", &name, content(&name, if index % 5 == 0 { 400_000 } else { 1_000 }));
        }
        let told = forecast(&loader(&emulator).build().unwrap());
        let budget = told.cheapest.usd() * 1.02;
        assert!(budget < told.direct.usd() && budget < told.composed.usd());
        for builder in [loader(&emulator), loader(&emulator).shuffle(3)] {
            let loader = builder.cost(within_budget(budget)).build().unwrap();
            assert!(loader.choice().is_none());
            let mut batches = loader.epoch(0).unwrap();
            batches.by_ref().for_each(|batch| drop(batch.unwrap()));
            let bill = batches.stats().bill;
            // Groups of a shuffled epoch end with its batches: a few more of them than are forecast.
            assert!(bill.total() < 1.3 * budget && bill.total() < 0.75 * told.direct.usd(), "{bill} for {budget}");
            all_given_back(&loader);
        }
        let loader = loader(&emulator).batch_size(800).cost(within_budget(budget)).build().unwrap();
        same(&told.cheapest, &loader, 0);
    });
}

#[test]
fn epochs_that_run_at_once_have_a_bill_each() {
    without_hanging(|| {
        let emulator = filled(64, 500);
        let loader = loader(&emulator).strategy(Strategy::Direct).build().unwrap();
        let told = forecast(&loader).direct;
        let (mut one, mut other) = (loader.epoch(0).unwrap(), loader.epoch(1).unwrap());
        while let (Some(a), Some(b)) = (one.next(), other.next()) {
            drop((a.unwrap(), b.unwrap()));
        }
        assert!(one.next().is_none() && other.next().is_none());
        assert_eq!((billed(one.stats().ops), billed(other.stats().ops)), (told.ops, told.ops));
    });
}

#[test]
fn ranks_share_the_bill() {
    without_hanging(|| {
        let emulator = filled(100, 500);
        let ops = (0..3).map(|rank| {
            let loader = loader(&emulator).strategy(Strategy::Direct).shard(rank, 3).build().unwrap();
            let mut batches = loader.epoch(0).unwrap();
            batches.by_ref().for_each(|batch| drop(batch.unwrap()));
            billed(batches.stats().ops)
        });
        let all = ops.fold(Counts::default(), |sum, ops| sum.plus(&ops));
        assert_eq!(all, forecast(&loader(&emulator).build().unwrap()).direct.ops);
    });
}

#[test]
fn a_budget_rules_ways_of_reading_out() {
    without_hanging(|| {
        // Small: composing costs less.
        let emulator = filled(160, 500);
        let told = forecast(&loader(&emulator).build().unwrap());
        let (direct, composed) = (told.direct.usd(), told.composed.usd());
        assert!(composed < direct);
        let between = f64::midpoint(direct, composed);
        // By price alone, `Auto` composes no objects of cold storage.
        let loader_within = loader(&emulator).cost(within_budget(between)).build().unwrap();
        same(&told.composed, &loader_within, 0);
        assert!(loader(&emulator).strategy(Strategy::Direct).cost(within_budget(between)).build().is_err());
        assert!(loader(&emulator).strategy(Strategy::compose()).cost(within_budget(between)).build().is_ok());

        // Large: soft delete makes composing dearer.
        let emulator = filled(32, 200_000);
        let told = forecast(&loader(&emulator).build().unwrap());
        let between = f64::midpoint(told.direct.usd(), told.composed.usd());
        assert!(told.direct.usd() < told.composed.usd());
        let within = |strategy, budget| loader(&emulator).strategy(strategy).cost(within_budget(budget)).build();
        same(&told.direct, &within(Strategy::Auto, between).unwrap(), 0);
        let refused = within(Strategy::compose(), between).unwrap_err().to_string();
        assert!(refused.contains("over all ranks") && refused.contains("choose Strategy::Direct"), "{refused}");
        assert!(within(Strategy::Auto, 0.0).unwrap_err().to_string().contains("raise the budget above $0.000"));
        for none in [f64::NAN, -1.0, f64::INFINITY] {
            assert!(within(Strategy::Auto, none).unwrap_err().to_string().contains("US dollars, 0 or more"), "{none}");
        }
        // With a price table in which calls are almost free, a tiny budget suffices.
        let free = PriceTable::built_in_json().replace("_per_1000\": 0.", "_per_1000\": 0.0000000000");
        let free = PriceTable::from_json(&free).unwrap();
        let loader = loader(&emulator).strategy(Strategy::Direct).cost(within_budget(0.001).prices(free)).build();
        assert!(loader.unwrap().bill().total() < 1e-9);
    });
}

/// The forecast counted the samples of the manifest, each once, and not those of the epoch.
#[test]
fn a_budget_is_for_what_the_sampler_gives() {
    without_hanging(|| {
        let emulator = filled(32, 500);
        // The last has no bytes.
        let weights: Vec<_> = (0..65).map(f64::from).collect();
        for sampler in [
            // One class of storage alone.
            Arc::new(Subset::ids((0..64).step_by(2).map(SampleId))) as Arc<dyn Sampler>,
            Arc::new(Subset::range(10..20).then(Shuffle::new(1))),
            Arc::new(Weighted::new(1, &weights).unwrap().samples(500)),
            Arc::new(Weighted::without_replacement(1, &weights).unwrap().samples(5)),
            Arc::new(Mixture::new(1).add(Shuffle::new(1), 1.0).epoch_length(EpochLength::Samples(5_000))),
        ] {
            let loader = || loader(&emulator).strategy(Strategy::Direct).sampler(Arc::clone(&sampler));
            let free = loader().build().unwrap();
            let mut batches = free.epoch(0).unwrap();
            batches.by_ref().for_each(|batch| drop(batch.unwrap()));
            let cost = batches.stats().bill.total();
            assert!(loader().cost(within_budget(cost * 1.001)).build().is_ok(), "{sampler:?} costs {cost}");
            assert!(loader().cost(within_budget(cost * 0.999)).build().is_err(), "{sampler:?} costs {cost}");
        }
    });
}

#[test]
fn composing_that_is_dearer_is_told_of_once() {
    let emulator = Emulator::builder().bucket("data").start().unwrap();
    for index in 0..64 {
        emulator.put("data", &format!("p/{index:02}"), vec![0; 100_000]);
    }
    emulator.configure("data", |config| config.soft_delete_seconds = 14 * 86_400);
    let (log, _guard) = Log::of_thread();
    let said = || log.take();
    let build = |strategy| drop(loader(&emulator).strategy(strategy).build().unwrap());
    said();
    build(Strategy::compose());
    let told = said();
    assert_eq!(told.matches("and reading object by object").count(), 1, "{told}");
    for part in ["reading object by object $", "14 days", "gcloud storage buckets update gs://data --clear-soft-delete"]
    {
        assert!(told.contains(part), "{part}: {told}");
    }
    let emulated = loader(&emulator).strategy(Strategy::compose()).build().unwrap();
    said();
    drop(DataLoader::builder(emulated.dataset().clone()).strategy(Strategy::compose()).build().unwrap());
    assert!(!said().contains("composing costs"), "once for a data set");
    // Nothing is composed, or the extra cost is negligible.
    for strategy in [Strategy::Direct, Strategy::Auto] {
        build(strategy);
        assert!(!said().contains("composing costs"), "{strategy:?}");
    }
    // The length of the epoch counts, be it a day of samples or a single one.
    let build = |strategy, sampler| drop(loader(&emulator).strategy(strategy).sampler(sampler).build().unwrap());
    let long = Weighted::new(1, &[1.0; 64]).unwrap().samples(64_000);
    build(Strategy::Auto, Arc::new(long) as Arc<dyn Sampler>);
    assert!(said().contains("composing costs"));
    build(Strategy::compose(), Arc::new(Subset::range(0..1)));
    assert!(!said().contains("composing costs"));
    let build = |strategy| drop(loader(&emulator).strategy(strategy).build().unwrap());
    emulator.configure("data", |config| config.soft_delete_seconds = 0);
    build(Strategy::compose());
    assert!(!said().contains("composing costs"));
}
