//! Ranks that list for themselves and find different objects: an error, or a warning.

use dataflux::store::MemoryStore;
use dataflux::{DataLoader, DatafluxDataset, ErrorKind, Manifest};

use crate::support::log::Log;
use crate::support::{bucket, client};

fn open(store: &MemoryStore) -> DatafluxDataset {
    DatafluxDataset::open_with(client(store.clone()), "gs://data/p/").unwrap()
}

/// The number of warnings that each rank lists for itself.
fn warnings(run: impl FnOnce()) -> usize {
    let (log, _guard) = Log::of_thread();
    run();
    log.warnings().iter().filter(|line| line.contains("lists for itself")).count()
}

/// The ranks ordered different data without a warning.
#[test]
fn a_write_between_the_listings_of_two_ranks_is_refused_with_both_digests() {
    let (store, _) = bucket(40);
    let first = open(&store);
    let digest = first.manifest().digest();
    assert!(DataLoader::builder(first).batch_size(4).shard(0, 2).manifest_digest(digest).build().is_ok());
    store.insert("data", "p/ant/late.bin", "late");
    let second = open(&store);
    let other = second.manifest().digest();
    let builder = || DataLoader::builder(second.clone()).batch_size(4).shard(1, 2);
    let error = builder().manifest_digest(digest).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Config);
    let said = error.to_string();
    assert!([digest, other].iter().all(|digest| said.contains(&digest.to_string())), "{said}");
    // Another program may print the digest in this form.
    let printed = format!(" {}\n", other.to_string().to_uppercase());
    assert!(builder().manifest_digest(printed).build().is_ok());
    assert!(builder().manifest_digest("what rank 0 said").build().is_err());
    let streaming = || {
        let dataset = DatafluxDataset::builder().client(client(store.clone())).streaming(true).open("gs://data/p/");
        DataLoader::builder(dataset.unwrap()).batch_size(4).shard(1, 2)
    };
    assert!(streaming().manifest_digest(digest).build().is_err() && streaming().manifest_digest(other).build().is_ok());
}

#[test]
fn ranks_that_list_for_themselves_are_warned_once() {
    let (store, _) = bucket(40);
    let dataset = open(&store);
    let builder = |dataset: &DatafluxDataset| DataLoader::builder(dataset.clone()).batch_size(4);
    assert_eq!(warnings(|| _ = builder(&dataset).build().unwrap()), 0, "one rank has nobody to differ from");
    let twice = || (0..2).for_each(|rank| _ = builder(&dataset).shard(rank, 2).build().unwrap());
    assert_eq!(warnings(twice), 1);
    // No warning where all ranks share a manifest.
    let path = std::env::temp_dir().join(format!("dataflux-ranks-{}.dfm", std::process::id()));
    dataset.manifest().save(&path).unwrap();
    let loaded =
        || DatafluxDataset::builder().client(client(store.clone())).from_manifest(Manifest::load(&path).unwrap());
    assert_eq!(warnings(|| _ = builder(&loaded().unwrap()).shard(0, 2).build().unwrap()), 0, "loaded");
    std::fs::remove_file(&path).unwrap();
    let confirmed = open(&store);
    let digest = confirmed.manifest().digest();
    let build = || _ = builder(&confirmed).shard(0, 2).manifest_digest(digest).build().unwrap();
    assert_eq!(warnings(build), 0, "confirmed");
    let state = builder(&dataset).build().unwrap().epoch(0).unwrap().state();
    let resumed = open(&store);
    let resume = || _ = DataLoader::builder(resumed).shard(0, 2).resume(state).build().unwrap();
    assert_eq!(warnings(resume), 0, "a state names its data");
}
