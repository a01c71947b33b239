//! Loaders whose epochs would have no batch: an error when they are built, or at the end of a streamed listing.

use dataflux::list::Filter;
use dataflux::sample::Subset;
use dataflux::store::{Client, MemoryStore, StoreCall};
use dataflux::{DataLoader, DataLoaderBuilder, DatafluxDataset, ErrorKind, MixedLoader, Raw};

use crate::support::gated::Gated;
use crate::support::{HANG, client, without_hanging};

fn store(count: usize) -> MemoryStore {
    let store = MemoryStore::new().with_bucket("data");
    (0..count).for_each(|index| _ = store.insert("data", &format!("p/{index:05}"), "sample"));
    store
}

fn builder(count: usize) -> DataLoaderBuilder<Raw> {
    DataLoader::builder(DatafluxDataset::open_with(client(store(count)), "gs://data/p/").unwrap())
}

/// The loader was built, and its epochs ended without an error.
#[test]
fn an_epoch_of_no_batches_is_an_error_when_the_loader_is_built() {
    for (loader, figures) in [
        (builder(1_500).batch_size(2_000).drop_last(true), ["1500", "2000"]),
        (builder(1_500).batch_size(500).shard(3, 4).drop_last(true), ["1500", "2000"]),
        (builder(1_500).global_batch_size(1_600).shard(3, 4).drop_last(true), ["1500", "1600"]),
        (builder(3).batch_size(1).shard(0, 4).drop_last(true), ["3", "4"]),
        (builder(1_500).batch_size(100).sampler(Subset::range(0..60)).drop_last(true), ["60", "100"]),
    ] {
        let error = loader.build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let said = error.to_string();
        assert!(figures.iter().all(|figure| said.contains(figure)) && said.contains("drop_last"), "{said}");
    }
    for loader in [
        builder(1_500).batch_size(1_500).drop_last(true),
        builder(1_500).batch_size(2_000),
        builder(1_500).batch_size(2_000).pad_last(true),
        builder(3).batch_size(1).shard(3, 4),
    ] {
        assert_eq!(loader.build().unwrap().epoch(0).unwrap().count(), 1);
    }
}

#[test]
fn a_resumed_run_at_so_many_ranks_that_no_batch_is_left_in_any_epoch_is_an_error() {
    let state = builder(100).batch_size(10).shard(0, 2).drop_last(true).build().unwrap().epoch(0).unwrap().state();
    let error = builder(100).shard(0, 11).resume(state.clone()).build().unwrap_err();
    assert!(error.to_string().contains("110") && error.to_string().contains("100"), "{error}");
    assert!(builder(100).shard(0, 10).resume(state).build().is_ok());
}

#[test]
fn samples_that_are_none_are_errors_already() {
    let error = builder(5).sampler(Subset::range(0..0)).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    let open = |filter, uri| DatafluxDataset::builder().client(client(store(5))).filter(filter).open(uri).unwrap_err();
    let error = open(Filter::new(), "gs://data/q/");
    assert!(error.is_not_found() && error.to_string().contains("gs://data/q/"), "{error}");
    let error = open(Filter::new().min_size(1_000), "gs://data/p/");
    assert!(error.is_not_found() && error.to_string().contains("5 too small"), "{error}");
    let loader = builder(5).batch_size(10).drop_last(true).build();
    assert!(loader.map(|part| MixedLoader::builder(1).add(part, 1.0).build().map(drop)).is_err());
}

/// A streamed data set knows its length only at the end of the listing.
#[test]
fn a_streaming_epoch_of_no_batches_ends_with_an_error() {
    without_hanging(|| {
        let pages = 10;
        let gated = Gated::new(store(5_000).with_page_cap(5_000 / pages));
        let client = Client::new(gated.store()).with_stall_timeout(HANG);
        gated.shut_after(StoreCall::List, 1);
        let dataset = DatafluxDataset::builder().client(client).streaming(true).list_concurrency(1);
        let dataset = dataset.open("gs://data/p/").unwrap();
        let loader = DataLoader::builder(dataset).batch_size(6_000).drop_last(true).build().unwrap();
        let mut batches = loader.epoch(0).unwrap();
        gated.open();
        let error = batches.next().expect("an error in the place of the first batch").unwrap_err();
        let said = error.to_string();
        assert!(error.kind() == ErrorKind::Config && said.contains("5000") && said.contains("6000"), "{said}");
        assert!(batches.next().is_none());
        let ended = loader.epochs(0..2).unwrap().next().unwrap().unwrap().next().unwrap();
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::Config);
    });
}
