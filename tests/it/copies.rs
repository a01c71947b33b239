//! Copies of data have the same orders, and a state of the one resumes on the other.

use std::collections::HashMap;

use dataflux::list::Filter;
use dataflux::sample::{BlockShuffle, Sampler, Shuffle, Stratified, Subset, Weighted, WindowShuffle};
use dataflux::store::{Capabilities, MemoryStore, Store};
use dataflux::{DataLoader, DataLoaderBuilder, DatafluxDataset, Raw, State};

use crate::support::{bucket, client};

const SAMPLES: usize = 40;

type Contents = HashMap<String, Vec<u8>>;

/// Writes objects from `p/` to another bucket and prefix of `store`. They are written in another order, so that their
/// versions are others, too.
fn copy(contents: &Contents, store: MemoryStore, prefix: &str) -> DatafluxDataset {
    let mut names: Vec<_> = contents.keys().collect();
    names.sort_by_key(|name| name.bytes().rev().collect::<Vec<_>>());
    for name in names {
        store.insert("copy", &format!("{prefix}{}", &name["p/".len()..]), contents[name].clone());
    }
    DatafluxDataset::open_with(client(store), &format!("gs://copy/{prefix}")).unwrap()
}

fn original() -> (DatafluxDataset, Contents) {
    let (store, contents) = bucket(SAMPLES);
    (DatafluxDataset::open_with(client(store), "gs://data/p/").unwrap(), contents)
}

fn samplers() -> Vec<Box<dyn Sampler>> {
    let weights: Vec<_> = (0..SAMPLES).map(|index| (index % 4 + 1) as f64).collect();
    vec![
        Box::new(Shuffle::new(7)),
        Box::new(WindowShuffle::new(7, 16)),
        Box::new(BlockShuffle::new(7, 4, 3)),
        Box::new(Stratified::by_label(7)),
        Box::new(Weighted::new(7, &weights).unwrap()),
        Box::new(Subset::range(10..30).then(Shuffle::new(7))),
    ]
}

fn loader(dataset: &DatafluxDataset, sampler: Box<dyn Sampler>) -> DataLoaderBuilder<Raw> {
    DataLoader::builder(dataset.clone()).batch_size(4).sampler(sampler)
}

/// The names of the samples that are left of epoch 1, without what is before the name of the folder.
fn rest(loader: &DataLoader) -> Vec<String> {
    let batches = loader.epoch(1).unwrap().map(Result::unwrap);
    let names = batches.flat_map(|batch| batch.names().map(below).collect::<Vec<_>>());
    names.collect()
}

fn below(name: &str) -> String {
    name.rsplitn(3, '/').take(2).collect::<Vec<_>>().join("/")
}

#[test]
fn a_copy_has_the_same_orders_and_resumes_states_of_the_original() {
    let (dataset, contents) = original();
    let copies = [
        copy(&contents, MemoryStore::new(), "p/"),
        copy(&contents, MemoryStore::new(), "deeper/down/"),
        copy(&contents, MemoryStore::new(), ""),
        copy(&contents, MemoryStore::new().without_versions(), "p/"),
        copy(&contents, MemoryStore::new().with_capabilities(Capabilities::default()), "disk/"),
    ];
    for number in 0..samplers().len() {
        let loader = |dataset| loader(dataset, samplers().swap_remove(number));
        let straight = rest(&loader(&dataset).build().unwrap());
        let mut batches = loader(&dataset).build().unwrap().epoch(1).unwrap();
        assert_eq!(batches.by_ref().take(3).flatten().count(), 3);
        let state: State = serde_json::from_str(&serde_json::to_string(&batches.state()).unwrap()).unwrap();
        for copy in &copies {
            let prefix = copy.manifest().prefix();
            assert_eq!(rest(&loader(copy).build().unwrap()), straight, "sampler {number}, {prefix}");
            let resumed = loader(copy).resume(state.clone()).build().unwrap();
            assert_eq!(rest(&resumed), straight[12..], "sampler {number}, {prefix}");
        }
    }
}

#[test]
fn a_prefix_with_or_without_its_slash_is_the_same_data() {
    let (store, _) = bucket(SAMPLES);
    let [with, without] = ["gs://data/p/", "gs://data/p"]
        .map(|uri| DatafluxDataset::open_with(client(store.clone()), uri).unwrap().manifest().digest());
    assert_eq!(with, without);
    let streamed = DatafluxDataset::builder().client(client(store)).streaming(true).open("gs://data/p").unwrap();
    assert_eq!(streamed.manifest().digest(), with);
}

#[test]
fn a_prefix_without_its_slash_splits_as_with_it() {
    let (store, _) = bucket(SAMPLES);
    let [with, without] = ["gs://data/p/", "gs://data/p"].map(|uri| {
        let dataset = DatafluxDataset::open_with(client(store.clone()), uri).unwrap();
        let (subset, _) = Subset::split(dataset.manifest(), 0.5, 7).unwrap();
        rest(&loader(&dataset, Box::new(subset)).build().unwrap())
    });
    assert_eq!(with, without);
}

/// Labels were taken from all listed objects by the one way of opening, and from the samples by the other.
#[test]
fn labels_depend_on_the_samples_alone() {
    let store = MemoryStore::new();
    for name in ["train.csv", "train/cat/1.png", "train/dog/1.png", "train2/x.csv"] {
        store.insert("data", name, name);
    }
    let open = |uri, streaming, glob: &str| {
        let filter = Filter::new().include(glob).unwrap();
        DatafluxDataset::builder().client(client(store.clone())).filter(filter).streaming(streaming).open(uri).unwrap()
    };
    for (glob, wanted) in [("*.png", &["cat", "dog"][..]), ("*", &["train", "train2"])] {
        let [listed, streamed] = [false, true].map(|streaming| open("gs://data/train", streaming, glob));
        assert_eq!(listed.manifest().labels(), wanted);
        assert_eq!(streamed.manifest().labels(), wanted);
        assert_eq!(listed.manifest().digest(), streamed.manifest().digest());
    }
    let folder = open("gs://data/train/", false, "*.png");
    assert_eq!(open("gs://data/train", true, "*.png").manifest().digest(), folder.manifest().digest());
}

/// The error of a state on a copy in which `change` was made.
fn resumed_on(store: MemoryStore, change: fn(&mut Contents)) -> Result<DataLoader, dataflux::Error> {
    let (dataset, mut contents) = original();
    let state = loader(&dataset, Box::new(Shuffle::new(7))).build().unwrap().epoch(0).unwrap().state();
    change(&mut contents);
    loader(&copy(&contents, store, "q/"), Box::new(Shuffle::new(7))).resume(state).build()
}

fn longer(contents: &mut Contents) {
    contents.get_mut("p/bee/00001.bin").unwrap().push(0);
}

fn flipped(contents: &mut Contents) {
    contents.get_mut("p/bee/00001.bin").unwrap()[7] ^= 1;
}

#[test]
fn a_state_of_other_data_is_refused_by_what_differs() {
    let added = |contents: &mut Contents| _ = contents.insert("p/bee/late.bin".into(), Vec::new());
    let removed = |contents: &mut Contents| _ = contents.remove("p/bee/00001.bin");
    let renamed = |contents: &mut Contents| {
        let bytes = contents.remove("p/bee/00001.bin").unwrap();
        contents.insert("p/bee/00001.txt".into(), bytes);
    };
    for (change, said) in [
        (added as fn(&mut Contents), "names differ"),
        (removed, "names differ"),
        (renamed, "names differ"),
        (longer, "sizes differ"),
        (flipped, "checksums differ"),
    ] {
        let error = resumed_on(MemoryStore::new(), change).unwrap_err();
        assert_eq!(error.kind(), dataflux::ErrorKind::Config);
        assert!(error.to_string().contains(said), "{error}");
    }
    assert!(resumed_on(MemoryStore::new(), |_| ()).is_ok());
}

#[test]
fn data_without_checksums_are_compared_by_names_and_sizes() {
    let mut can = MemoryStore::new().capabilities();
    can.checksums = false;
    let store = || MemoryStore::new().with_capabilities(can);
    let error = resumed_on(store(), longer).unwrap_err().to_string();
    assert!(error.contains("sizes differ"), "{error}");
    assert!(resumed_on(store(), flipped).is_ok(), "nothing shows the difference");
}
