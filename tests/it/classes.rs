//! Labels: a class has the same number in all data sets that belong together, and image data sets contain only images.

use std::collections::BTreeSet;
use std::sync::Arc;

use dataflux::list::{Filter, Reason};
use dataflux::store::MemoryStore;
use dataflux::{DataLoader, DatafluxDataset, Decode, ErrorKind, ImageFolder, Labelled, Manifest, Text};

use crate::support::log::Log;
use crate::support::{client, png, without_hanging};

/// A store of these names, each an image.
fn store(names: &[&str]) -> MemoryStore {
    let store = MemoryStore::new().with_bucket("data");
    for name in names {
        store.insert("data", name, png(2, 2, &[0, 51, 102, 255]));
    }
    store
}

const TRAIN: [&str; 4] = ["train/cat/1.png", "train/cat/2.PNG", "train/dog/1.png", "train/emu/1.png"];
/// Validation data without dogs.
const VAL: [&str; 2] = ["val/cat/1.png", "val/emu/1.png"];
/// Files that tools leave among images.
const JUNK: [&str; 6] = [
    "train/.ipynb_checkpoints/1-checkpoint.png",
    "train/__MACOSX/cat/1.png",
    "train/cat/.DS_Store",
    "train/cat/Thumbs.db",
    "train/cat/labels.csv",
    "train/README",
];

fn open(store: &MemoryStore, uri: &str) -> DatafluxDataset {
    let builder = DatafluxDataset::builder().client(client(store.clone()));
    builder.filter(Filter::new().hidden()).open(uri).unwrap()
}

fn stream(store: &MemoryStore, uri: &str) -> DatafluxDataset {
    let builder = DatafluxDataset::builder().client(client(store.clone())).streaming(true);
    builder.filter(Filter::new().hidden()).open(uri).unwrap()
}

/// Both methods to open a data set.
const OPEN: [fn(&MemoryStore, &str) -> DatafluxDataset; 2] = [open, stream];

fn folder() -> ImageFolder {
    ImageFolder::new().grayscale()
}

/// Name and label of each sample, by the manifest.
fn labels<D>(dataset: &DatafluxDataset<D>) -> Vec<(String, Option<u32>)> {
    let mut entries = dataset.manifest().entries();
    let mut labels = Vec::new();
    while let Some(entry) = entries.next().unwrap() {
        labels.push((entry.name.to_owned(), entry.label));
    }
    labels
}

/// The labels of an epoch, in order.
fn delivered<D: Decode<Item = dataflux::Image, Collate = dataflux::StackImages>>(
    dataset: &DatafluxDataset<D>,
) -> Vec<i64> {
    let loader = DataLoader::builder(dataset.clone()).batch_size(2).build().unwrap();
    loader.epoch(0).unwrap().flat_map(|batch| batch.unwrap().labels.clone()).collect()
}

/// Builds loaders, the first of which warns.
fn built<D: Decode>(dataset: &DatafluxDataset<D>) {
    for _ in 0..2 {
        DataLoader::builder(dataset.clone()).build().unwrap();
    }
}

/// Runs `run`. Returns its result and the warnings that it logged.
fn logged<T>(run: impl FnOnce() -> T) -> (T, Vec<String>) {
    let (log, _guard) = Log::of_thread();
    (run(), log.warnings())
}

/// Emus were class 2 in the training data and class 1 in the validation data.
#[test]
fn labels_shift_between_prefixes_unless_classes_are_handed_over() {
    without_hanging(|| {
        let store = store(&[&TRAIN[..], &VAL[..]].concat());
        for open in OPEN {
            let train = open(&store, "gs://data/train/").decode(folder());
            assert_eq!(train.manifest().labels(), ["cat", "dog", "emu"]);
            assert_eq!(delivered(&open(&store, "gs://data/val/").decode(folder())), [0, 1], "without the list");
            for val in [
                open(&store, "gs://data/val/").classes_from(&train).unwrap().decode(folder()),
                open(&store, "gs://data/val/").decode(folder()).classes_from(&train).unwrap(),
                open(&store, "gs://data/val/").decode(folder()).classes(["cat", "dog", "emu"]).unwrap(),
            ] {
                assert_eq!(delivered(&val), [0, 2]);
                assert_eq!(val.manifest().labels(), ["cat", "dog", "emu"]);
                assert_eq!(labels(&val).into_iter().map(|(_, label)| label).collect::<Vec<_>>(), [Some(0), Some(2)]);
                val.manifest().verify().unwrap();
            }
            // The list may have any order, as a trained model may.
            let val = open(&store, "gs://data/val/").classes(vec!["emu", "gnu", "cat"]).unwrap();
            assert_eq!(labels(&val).into_iter().map(|(_, label)| label).collect::<Vec<_>>(), [Some(2), Some(0)]);
        }
    });
}

/// The missing class was found at that sample, or never.
#[test]
fn a_folder_that_is_no_class_is_an_error_that_names_it() {
    without_hanging(|| {
        let store = store(&["val/cat/1.png", "val/fox/1.png", "val/gnu/1.png"]);
        for decoded in [false, true] {
            let val = open(&store, "gs://data/val/");
            let error = if decoded {
                val.decode(folder()).classes(["cat", "dog"]).unwrap_err()
            } else {
                val.classes(["cat", "dog"]).unwrap_err()
            };
            assert_eq!(error.kind(), ErrorKind::Config);
            let said = error.to_string();
            assert!(
                ["'fox', 'gnu'", "'cat', 'dog'", "gs://data/val/"].iter().all(|named| said.contains(named)),
                "{said}"
            );
        }
        // A streamed listing reports it when it reaches that name.
        let val = stream(&store, "gs://data/val/").classes(["cat", "dog"]);
        // The listing may have ended already.
        let error = val.map_or_else(|error| error, |val| val.manifest().complete().unwrap_err());
        assert!(error.kind() == ErrorKind::Config && error.to_string().contains("'fox'"), "{error}");
        for (list, said) in [
            (vec![], "at least one class"),
            (vec!["cat", "dog", "cat"], "'cat' as 0 and 2"),
            (vec!["cat/tom"], "'cat/tom'"),
            (vec!["cat\ntom"], "'cat\\ntom'"),
            (vec![""], "''"),
        ] {
            let error = open(&store, "gs://data/val/").classes(list).unwrap_err();
            assert!(error.kind() == ErrorKind::Config && error.to_string().contains(said), "{error}");
        }
    });
}

/// `.ipynb_checkpoints` was class 0.
#[test]
fn an_image_data_set_leaves_out_what_is_no_image_and_says_so_once() {
    without_hanging(|| {
        let store = store(&[&TRAIN[..], &JUNK[..], &VAL[..], &["val/.ipynb_checkpoints/1.png"]].concat());
        let raw = open(&store, "gs://data/train/");
        assert_eq!((raw.len(), raw.manifest().labels().len()), (10, 5), "a raw data set takes everything");
        let ((), warnings) = logged(|| {
            let train = raw.clone().decode(folder());
            assert_eq!(train.manifest().labels(), ["cat", "dog", "emu"]);
            let left_out = train.manifest().left_out();
            assert_eq!(
                (left_out.count(Reason::Hidden), left_out.count(Reason::NotAnImage), left_out.total()),
                (4, 2, 6)
            );
            assert_eq!(delivered(&train), [0, 0, 1, 2]);
            assert_eq!(labels(&raw.clone().decode(folder()).decode(folder().resize(1, 1))), labels(&train));
            train.manifest().verify().unwrap();
        });
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].contains("4 hidden files, 2 without an image's suffix"), "{warnings:?}");
        assert!(warnings[0].contains("train/.ipynb_checkpoints/1-checkpoint.png"), "{warnings:?}");
        // The data set is the same as when the filter of the listing leaves the files out.
        let filtered = DatafluxDataset::builder().client(client(store.clone())).filter(Filter::new().images());
        let filtered = filtered.open("gs://data/train/").unwrap();
        let streamed = stream(&store, "gs://data/train/").decode(folder());
        let train = raw.clone().decode(folder());
        assert_eq!(streamed.manifest().digest(), filtered.manifest().digest());
        assert_eq!(train.manifest().digest(), filtered.manifest().digest());
        assert_eq!(streamed.manifest().left_out(), train.manifest().left_out());
        assert_eq!(delivered(&streamed), [0, 0, 1, 2]);
        // A folder whose files are left out needs no class, whether the decoder is set before the classes or after
        // them.
        for val in [
            open(&store, "gs://data/val/").classes_from(&train).unwrap().decode(folder()),
            open(&store, "gs://data/val/").decode(folder()).classes_from(&train).unwrap(),
            stream(&store, "gs://data/val/").classes_from(&train).unwrap().decode(folder()),
        ] {
            assert_eq!(delivered(&val), [0, 2]);
        }
        let raw = open(&store, "gs://data/val/").classes_from(&train).unwrap();
        assert_eq!(labels(&raw)[0], ("val/.ipynb_checkpoints/1.png".to_owned(), None));
    });
}

#[test]
fn a_data_set_with_nothing_to_leave_out_stays_what_it_is() {
    let store = store(&TRAIN);
    let raw = open(&store, "gs://data/train/");
    let (images, warnings) = logged(|| raw.clone().decode(folder()));
    assert!(Arc::ptr_eq(raw.manifest(), images.manifest()), "nothing is copied");
    assert_eq!(warnings, [""; 0]);
    // A list of exactly the data set's own folders changes nothing, either.
    let same = images.clone().classes_from(&images).unwrap();
    assert_eq!((same.manifest().digest(), labels(&same)), (images.manifest().digest(), labels(&images)));
    let streamed = stream(&store, "gs://data/train/").classes_from(&images).unwrap();
    assert_eq!(streamed.manifest().digest(), images.manifest().digest());
    // A closure decodes every object, so none is left out.
    let closure = raw.clone().decode(|sample: dataflux::RawSample| Ok(sample.bytes().len()));
    assert!(Arc::ptr_eq(raw.manifest(), closure.manifest()));
}

/// Where every object is left out, the first call that needs a sample is the error.
#[test]
fn a_data_set_without_an_image_is_an_error_when_a_loader_is_built() {
    let store = store(&["train/cat/1.txt", "train/dog/.2.png"]);
    let dataset = open(&store, "gs://data/train/").decode(folder());
    for error in [
        DataLoader::builder(dataset.clone()).build().unwrap_err(),
        dataset.get(0).unwrap_err(),
        dataset.manifest().complete().unwrap_err(),
    ] {
        let said = error.to_string();
        assert!(error.is_not_found() && said.contains("1 hidden file, 1 without an image's suffix"), "{said}");
    }
    let dataset = stream(&store, "gs://data/train/").decode(folder());
    assert!(dataset.manifest().complete().unwrap_err().is_not_found());
}

/// All samples were in one class, `val`.
#[test]
fn a_uri_that_names_a_folder_without_its_slash_has_the_classes_within() {
    without_hanging(|| {
        let store = store(&[&TRAIN[..], &VAL[..]].concat());
        let wanted = labels(&open(&store, "gs://data/val/"));
        for open in OPEN {
            let val = open(&store, "gs://data/val");
            assert_eq!(val.manifest().labels(), ["cat", "emu"]);
            assert_eq!(labels(&val), wanted);
            let (val, warnings) = logged(|| {
                let val = val.decode(folder());
                val.manifest().complete().unwrap();
                val
            });
            assert_eq!((delivered(&val), warnings), (vec![0, 1], vec![]));
        }
        // If other names start with it, the prefix is no folder, and the error says so.
        store.insert("data", "val2/cat/9.png", png(1, 1, &[0]));
        for open in OPEN {
            assert_eq!(open(&store, "gs://data/val").manifest().labels().iter().collect::<BTreeSet<_>>().len(), 2);
        }
        let ((), warnings) = logged(|| built(&open(&store, "gs://data/val").decode(folder())));
        assert!(warnings.len() == 1 && warnings[0].contains("slash") && warnings[0].contains("val2"), "{warnings:?}");
        // A text file beside the folder is no image and changes nothing.
        store.insert("data", "train.txt", "a list");
        let train = open(&store, "gs://data/train").decode(folder());
        assert_eq!(train.manifest().labels(), ["cat", "dog", "emu"]);
    });
}

#[test]
fn one_class_only_and_images_in_no_folder_are_warnings() {
    let store = store(&["deep/train/cat/1.png", "deep/train/dog/1.png", "flat/cat/1.png", "flat/2.png"]);
    let warnings = |uri| logged(|| built(&open(&store, uri).decode(folder()))).1;
    let deep = warnings("gs://data/deep/");
    assert!(deep.len() == 1 && deep[0].contains("one class") && deep[0].contains("gs://data/deep/train/"), "{deep:?}");
    let cut = warnings("gs://data/deep/tr");
    assert!(cut.len() == 1 && cut[0].contains("gs://data/deep/train/ instead"), "{cut:?}");
    let flat = warnings("gs://data/flat/");
    assert!(flat.len() == 2 && flat[0].contains("no folder") && flat[0].contains("flat/2.png"), "{flat:?}");
    assert_eq!(warnings("gs://data/deep/train/"), [""; 0]);

    // Other decoders that want labels warn as well, of samples that are no images.
    let text = |uri| logged(|| built(&open(&store, uri).decode(Labelled::new(Text::new())))).1;
    let (deep, flat) = (text("gs://data/deep/"), text("gs://data/flat/"));
    assert!(deep.len() == 1 && deep[0].contains("all samples are of one class"), "{deep:?}");
    assert!(flat.len() == 2 && flat[0].contains("samples in no folder of a class"), "{flat:?}");
    assert!([deep, flat].concat().iter().all(|line| !line.contains("image")), "they are no images");
    // A list of classes is intended, also one that was saved.
    let listed = open(&store, "gs://data/deep/").classes(["train"]).unwrap();
    let saved =
        || DatafluxDataset::builder().client(client(store.clone())).from_manifest(Arc::clone(listed.manifest()));
    assert_eq!(logged(|| built(&listed.clone().decode(folder()))).1, [""; 0]);
    assert_eq!(logged(|| built(&saved().unwrap().decode(folder()))).1, [""; 0]);
}

/// A run must not resume with other class numbers.
#[test]
fn classes_are_saved_with_the_manifest_and_are_part_of_its_digest() {
    let store = store(&[&TRAIN[..], &VAL[..]].concat());
    let list = ["emu", "dog", "cat"];
    let val = open(&store, "gs://data/val/").classes(list).unwrap();
    let path = std::env::temp_dir().join(format!("dataflux-classes-{}.dfm", std::process::id()));
    val.manifest().save(&path).unwrap();
    let loaded = Manifest::load(&path).unwrap();
    loaded.verify().unwrap();
    assert_eq!((loaded.labels(), loaded.digest()), (val.manifest().labels(), val.manifest().digest()));
    let again = DatafluxDataset::builder().client(client(store.clone())).from_manifest(loaded).unwrap();
    assert_eq!(labels(&again), labels(&val));
    std::fs::remove_file(&path).unwrap();
    // The same list from any source gives the same data; another list doesn't.
    let streamed = stream(&store, "gs://data/val/").classes(list).unwrap();
    let plain = open(&store, "gs://data/val/");
    assert_eq!(streamed.manifest().digest(), val.manifest().digest());
    assert_ne!(plain.manifest().digest(), val.manifest().digest());
    let state = DataLoader::builder(val).build().unwrap().epoch(0).unwrap().state();
    assert!(DataLoader::builder(plain).resume(state.clone()).build().unwrap_err().to_string().contains("other data"));
    assert!(DataLoader::builder(streamed).resume(state).build().is_ok());
}

/// The folders with images were renumbered, because the labels of a loaded manifest were taken for its folders.
#[test]
fn a_saved_manifest_keeps_its_list_of_classes_when_a_decoder_leaves_something_out() {
    without_hanging(|| {
        let path = std::env::temp_dir().join(format!("dataflux-saved-classes-{}.dfm", std::process::id()));
        let saved = |store: &MemoryStore, dataset: &DatafluxDataset| {
            dataset.manifest().save(&path).unwrap();
            let loaded = Manifest::load(&path).unwrap();
            DatafluxDataset::builder().client(client(store.clone())).from_manifest(loaded).unwrap()
        };
        // With the file in `cat`, the list equals the folders until the decoder leaves one of them out.
        for left_out in ["val/.ipynb_checkpoints/1.png", "val/README", "val/emu/labels.csv", "val/cat/README"] {
            let store = store(&["val/dog/1.png", "val/emu/1.png", left_out]);
            for (open, list) in
                OPEN.into_iter().flat_map(|open| [(open, ["cat", "dog", "emu"]), (open, ["emu", "dog", "cat"])])
            {
                let val = open(&store, "gs://data/val/").classes(list).unwrap();
                let loaded = saved(&store, &val).decode(folder());
                let direct = val.clone().decode(folder());
                assert_eq!(loaded.manifest().labels(), list, "{left_out}");
                assert_eq!(labels(&loaded), labels(&direct), "{left_out}");
                assert_eq!(loaded.manifest().digest(), direct.manifest().digest(), "{left_out}, {list:?}");
                let wanted = ["dog", "emu"].map(|name| list.iter().position(|class| *class == name).unwrap() as i64);
                assert_eq!(delivered(&loaded), wanted, "{left_out}");
                loaded.manifest().verify().unwrap();
                // Another list replaces the saved one, which has a class without samples here.
                let other = ["emu", "dog"];
                let direct = open(&store, "gs://data/val/").decode(folder()).classes(other).unwrap();
                for replaced in
                    [saved(&store, &val).decode(folder()), saved(&store, &val).classes(list).unwrap().decode(folder())]
                {
                    let replaced = replaced.classes(other).unwrap();
                    assert_eq!(labels(&replaced), labels(&direct), "{left_out}");
                    assert_eq!(replaced.manifest().digest(), direct.manifest().digest(), "{left_out}, {list:?}");
                }
            }
            // Without a list, labels are numbered by the folders that hold images, as before.
            for open in OPEN {
                let val = open(&store, "gs://data/val/");
                let loaded = saved(&store, &val).decode(folder());
                let direct = val.decode(folder());
                assert_eq!(loaded.manifest().labels(), ["dog", "emu"], "{left_out}");
                assert_eq!(loaded.manifest().digest(), direct.manifest().digest(), "{left_out}");
                assert_eq!(delivered(&loaded), [0, 1], "{left_out}");
            }
        }
        std::fs::remove_file(&path).unwrap();
    });
}

/// The same data with the same list had two digests, depending on the listing.
#[test]
fn a_hidden_folder_gives_a_list_of_classes_the_same_digest_whether_streamed_or_not() {
    let store = store(&["train/.ipynb_checkpoints/x.png", "train/cat/1.png", "train/dog/1.png"]);
    let [listed, streamed] = OPEN.map(|open| open(&store, "gs://data/train/").classes(["cat", "dog"]).unwrap());
    assert_eq!(labels(&streamed), labels(&listed));
    assert_eq!(streamed.manifest().digest(), listed.manifest().digest());
    // Without a list the hidden folder is class 0, so a run with the list is a different one.
    let plain = open(&store, "gs://data/train/");
    assert_ne!(labels(&plain), labels(&listed));
    assert_ne!(plain.manifest().digest(), listed.manifest().digest());
    // The list changes nothing for the images.
    let images = plain.decode(folder());
    for with_list in [listed, streamed] {
        let with_list = with_list.decode(folder());
        assert_eq!(labels(&with_list), labels(&images));
        assert_eq!(with_list.manifest().digest(), images.manifest().digest());
    }
}
