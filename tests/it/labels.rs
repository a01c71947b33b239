//! Labels and targets that aren't folders: from names, closures and tables.

use std::path::PathBuf;

use candle_core::{DType, Device};
use dataflux::list::{Filter, Reason};
use dataflux::ndarray::array;
use dataflux::store::{Credentials, GcsConfig, GcsStore, MemoryStore};
use dataflux::{
    ClassMap, DataLoader, DatafluxDataset, Decode, ErrorKind, ImageFolder, Images, LabelTable, Labels, Manifest,
    RawSample, RowKey, StackImages, Stratified, Subset, Unlabelled,
};
use dataflux_emulator::{Call, Emulator, Fault};

use crate::support::log::Log;
use crate::support::{client, png, without_hanging};

/// A store of these names below `p/`, each an image.
fn images(names: &[&str]) -> MemoryStore {
    let store = MemoryStore::new().with_bucket("data");
    for name in names {
        store.insert("data", &format!("p/{name}"), png(2, 2, &[0, 51, 102, 255]));
    }
    store
}

fn open(store: &MemoryStore) -> DatafluxDataset {
    open_uri(store, "gs://data/p/")
}

fn open_uri(store: &MemoryStore, uri: &str) -> DatafluxDataset {
    DatafluxDataset::open_with(client(store.clone()), uri).unwrap()
}

/// The first batch, of up to four samples.
fn first<D: Decode>(dataset: DatafluxDataset<D>) -> dataflux::Result<dataflux::Batch<dataflux::BatchOf<D>>> {
    without_hanging(move || DataLoader::builder(dataset).batch_size(4).build()?.epoch(0)?.next().unwrap())
}

/// The number that a file's name begins with.
fn age(sample: &RawSample) -> anyhow::Result<f32> {
    let file = sample.name().rsplit('/').next().unwrap_or_default();
    Ok(file.split(['_', '.']).next().unwrap_or_default().parse()?)
}

#[test]
fn targets_take_the_place_of_classes_in_a_flat_folder() {
    let store = images(&["31_a.png", "54_b.png", "7.5.png"]);
    let (log, _guard) = Log::of_thread();
    let dataset = open(&store).decode(ImageFolder::new().targets(age).grayscale());
    assert_eq!(log.warnings(), [""; 0], "images without a folder need none here");
    let batch = first(dataset).unwrap();
    assert_eq!(batch.labels, [31.0, 54.0, 7.0]);
    let (pixels, ages) = batch.clone().into_ndarray().unwrap();
    assert_eq!((pixels.shape(), ages), (&[3, 1, 2, 2][..], array![31.0, 54.0, 7.0]));
    let (_, ages) = batch.to_candle(&Device::Cpu).unwrap();
    assert_eq!((ages.dims(), ages.dtype()), (&[3][..], DType::F32));
    assert_eq!(ages.to_vec1::<f32>().unwrap(), [31.0, 54.0, 7.0]);
}

#[test]
fn targets_of_several_numbers_are_rows() {
    let store = images(&["1_2.png", "3_4.png"]);
    let corner = |sample: &RawSample| {
        let name = sample.name().trim_start_matches("p/").trim_end_matches(".png");
        Ok(name.split('_').map(str::parse).collect::<Result<Vec<f32>, _>>()?)
    };
    // The other settings keep the targets, whether they come before or after.
    let decode = ImageFolder::new().resize(1, 1).targets(corner).elements::<u8>().normalize(&[], &[]);
    let batch = first(open(&store).decode(decode.map(|image, _| Ok(image)))).unwrap();
    let (pixels, corners) = batch.clone().into_ndarray().unwrap();
    assert_eq!((pixels.shape(), corners), (&[2, 3, 1, 1][..], array![[1.0, 2.0], [3.0, 4.0]]));
    let (_, corners) = batch.to_candle(&Device::Cpu).unwrap();
    assert_eq!(corners.to_vec2::<f32>().unwrap(), [[1.0, 2.0], [3.0, 4.0]]);

    store.insert("data", "p/5.png", png(2, 2, &[0; 4]));
    let batch: dataflux::Batch<Images<f32, Vec<f32>>> =
        first(open(&store).decode(ImageFolder::new().targets(corner))).unwrap();
    let error = batch.into_ndarray().unwrap_err();
    assert_eq!((error.kind(), error.about()), (ErrorKind::Collate, Some("p/5.png")));
    assert!(
        error.to_string().contains("2 numbers, as p/1_2.png has") && error.to_string().contains("got 1"),
        "{error}"
    );
}

#[test]
fn targets_of_other_types_stay_as_they_are() {
    let store = images(&["1.png", "2.png"]);
    let caption = |sample: &RawSample| Ok(format!("picture {}", sample.name()));
    let batch = first(open(&store).decode(ImageFolder::new().targets(caption))).unwrap();
    assert_eq!(batch.labels, ["picture p/1.png", "picture p/2.png"]);

    // Images of a closure, whose collator is that of images.
    let decode = |sample: RawSample| {
        let folder = ImageFolder::new().grayscale().targets(|sample: &RawSample| Ok(sample.bytes().len() as u32));
        folder.decode(sample)
    };
    let batch = first(open(&store).decode(decode).collate(StackImages::new())).unwrap();
    assert_eq!(batch.labels, [batch.labels[0]; 2]);
}

#[test]
fn an_error_of_a_target_is_one_of_its_sample() {
    let store = images(&["1.png", "two.png"]);
    let error = first(open(&store).decode(ImageFolder::new().targets(age))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert!(error.about().unwrap().starts_with("gs://data/p/two.png#"), "{error}");
    assert!(error.to_string().contains("invalid float"), "{error}");
}

/// Name below the prefix and label of each sample, by the manifest.
fn labels<D>(dataset: &DatafluxDataset<D>) -> Vec<(String, Option<String>)> {
    let manifest = dataset.manifest();
    let mut entries = manifest.entries();
    let mut labels = Vec::new();
    while let Some(entry) = entries.next().unwrap() {
        let label = entry.label.map(|label| manifest.labels()[label as usize].clone());
        labels.push((entry.name.trim_start_matches("p/").to_owned(), label));
    }
    labels
}

fn wanted(labels: &[(&str, &str)]) -> Vec<(String, Option<String>)> {
    labels.iter().map(|(name, label)| ((*name).to_owned(), Some((*label).to_owned()))).collect()
}

fn temporary(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("dataflux-labels-{}-{name}", std::process::id()))
}

const PETS: [&str; 4] = ["pug_1.png", "beagle_1.png", "beagle_2.png", "great_pyrenees_1.png"];

fn by_name() -> Labels {
    Labels::pattern("{label}_*.png").unwrap()
}

#[test]
fn labels_of_names_are_numbered_in_byte_order_and_reach_the_batches() {
    let store = images(&PETS);
    for streaming in [false, true] {
        let builder = DatafluxDataset::builder().client(client(store.clone())).streaming(streaming);
        let raw = builder.open("gs://data/p/").unwrap();
        for dataset in [
            raw.clone().label_by(by_name()).unwrap().decode(ImageFolder::new()),
            raw.decode(ImageFolder::new()).label_by(by_name()).unwrap(),
        ] {
            let (log, _guard) = Log::of_thread();
            assert_eq!(dataset.manifest().labels(), ["beagle", "great_pyrenees", "pug"]);
            let batch = first(dataset.clone()).unwrap();
            assert_eq!(batch.labels, [0, 0, 1, 2], "beagles, the pyrenees, the pug");
            assert_eq!(log.warnings(), [""; 0]);
            dataset.manifest().verify().unwrap();
        }
    }
    // A function gives the same labels, and so the same data.
    let by = Labels::by(|name| Some(name.rsplit_once('_')?.0.to_owned()));
    let [by, pattern] = [by, by_name()].map(|labels| open(&store).label_by(labels).unwrap());
    assert_eq!(labels(&by), labels(&pattern));
    assert_eq!(by.manifest().digest(), pattern.manifest().digest());
    assert_ne!(by.manifest().digest(), open(&store).manifest().digest());
}

#[test]
fn samplers_and_splits_use_the_labels() {
    let names: Vec<String> = (0..40).map(|index| format!("{}_{index}.png", ["cat", "dog"][index % 2])).collect();
    let store = images(&names.iter().map(String::as_str).collect::<Vec<_>>());
    let dataset = open(&store).label_by(by_name()).unwrap();
    let label = |id: &dataflux::SampleId| dataset.manifest().facts(id.0).unwrap().label.unwrap();
    let loader = DataLoader::builder(dataset.clone()).batch_size(8).sampler(Stratified::by_label(7)).build().unwrap();
    for batch in loader.epoch(0).unwrap() {
        assert_eq!(batch.unwrap().ids().iter().filter(|id| label(id) == 0).count(), 4);
    }
    let (_, val) = Subset::split_by_label(dataset.manifest(), 0.75, 7).unwrap();
    let loader = DataLoader::builder(dataset.clone()).batch_size(40).sampler(val).build().unwrap();
    let batch = loader.epoch(0).unwrap().next().unwrap().unwrap();
    assert_eq!((batch.len(), batch.ids().iter().filter(|id| label(id) == 0).count()), (10, 5));

    // A run with other labels doesn't resume from this one's state, since the order depends on them.
    let state = loader.epoch(0).unwrap().state();
    let other = open(&store).label_by(Labels::by(|name| Some(name[4..5].to_owned()))).unwrap();
    let error = DataLoader::builder(other).resume(state).build().unwrap_err();
    assert!(error.to_string().contains("other data"), "{error}");
}

#[test]
fn samples_without_a_label_are_an_error_or_left_out_and_counted() {
    let store = images(&["pug_1.png", "a.png", "b.png", "notes.txt", "cat_1.png"]);
    let error = open(&store).label_by(by_name()).unwrap_err();
    assert_eq!((error.kind(), error.about()), (ErrorKind::Config, Some("gs://data/p/")));
    let said = error.to_string();
    for part in ["3 of 5 samples have no label", "{label}_*.png", "'p/a.png', 'p/b.png', 'p/notes.txt'", "LeaveOut"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let error = open(&store).decode(ImageFolder::new()).label_by(by_name()).unwrap_err().to_string();
    assert!(error.contains("2 of 4 samples") && !error.contains("notes"), "{error}");

    let (log, _guard) = Log::of_thread();
    let dataset = open(&store).label_by(by_name().unlabelled(Unlabelled::LeaveOut)).unwrap();
    assert_eq!(labels(&dataset), wanted(&[("cat_1.png", "cat"), ("pug_1.png", "pug")]));
    assert_eq!(dataset.manifest().left_out().count(Reason::Unlabelled), 3);
    assert_eq!(dataset.manifest().left_out().to_string(), "3 without a label");
    let warnings = log.warnings();
    assert!(warnings.len() == 1 && warnings[0].contains("'p/a.png'"), "{warnings:?}");

    // If nothing is left, that is an error, too.
    let none = Labels::by(|_| None).unlabelled(Unlabelled::LeaveOut);
    assert!(open(&store).label_by(none).unwrap_err().to_string().contains("5 of 5 samples"));
    let many: Vec<String> = (0..9).map(|index| format!("{index}.png")).collect();
    let many = images(&many.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(open(&many).label_by(by_name()).unwrap_err().to_string().contains("'p/4.png' and 4 more"));
    for bad in ["", "a\nb"] {
        let error = open(&store).label_by(Labels::by(|_| Some(bad.to_owned()))).unwrap_err();
        assert!(error.to_string().contains("gs://data/p/a.png"), "{error}");
    }
}

#[test]
fn folders_of_any_depth_are_labels() {
    let store = images(&["2025/cat/1.png", "2026/cat/1.png", "2026/dog//2.png", "2026/dog/deep/1.png"]);
    let deep = open(&store).label_by(Labels::folder_at(1)).unwrap();
    let cats_and_dogs = [
        ("2025/cat/1.png", "cat"),
        ("2026/cat/1.png", "cat"),
        ("2026/dog//2.png", "dog"),
        ("2026/dog/deep/1.png", "dog"),
    ];
    assert_eq!(labels(&deep), wanted(&cats_and_dogs));
    // The first folder is what a data set has without this, and the way back to it.
    for folder in [open(&store), deep].map(|dataset| dataset.label_by(Labels::folder()).unwrap()) {
        assert_eq!(labels(&folder), labels(&open(&store)));
        assert_eq!(folder.manifest().digest(), open(&store).manifest().digest());
    }
    store.insert("data", "p/3.png", png(1, 1, &[0]));
    let error = open(&store).label_by(Labels::folder()).unwrap_err().to_string();
    assert!(error.contains("1 of 5 samples has no label") && error.contains("'p/3.png'"), "{error}");
    let left = open(&store).label_by(Labels::folder().unlabelled(Unlabelled::LeaveOut)).unwrap();
    assert_eq!((left.len(), left.manifest().labels().len()), (4, 2));
    assert_eq!(open(&store).label_by(Labels::folder_at(1)).unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn classes_number_labels_of_names_and_need_not_be_folders() {
    let store = images(&PETS);
    let train = open(&store).label_by(by_name()).unwrap();
    let list = ["pug", "great_pyrenees", "a/b", "beagle"];
    for val in [
        open(&store).label_by(by_name()).unwrap().classes(list).unwrap(),
        train
            .clone()
            .classes(list)
            .unwrap()
            .classes(["x", "pug", "beagle", "great_pyrenees"])
            .unwrap()
            .classes(list)
            .unwrap(),
        train.clone().classes(list).unwrap().label_by(by_name()).unwrap(),
    ] {
        assert_eq!(val.manifest().labels(), list);
        assert_eq!(labels(&val), labels(&train));
        assert_eq!(val.manifest().facts(0).unwrap().label, Some(3));
        val.manifest().verify().unwrap();
        assert_ne!(val.manifest().digest(), train.manifest().digest());
    }
    let same = train.clone().classes_from(&train).unwrap();
    assert_eq!(same.manifest().digest(), train.manifest().digest());
    let error = train.clone().classes(["pug"]).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("labels of this data set are none of the classes"), "{said}");
    assert!(said.contains("'beagle', 'great_pyrenees'") && said.contains("'pug'"), "{said}");

    let path = temporary("classes.json");
    train.class_map().unwrap().save(&path).unwrap();
    let map = ClassMap::load(&path).unwrap();
    assert_eq!(
        (map.names(), map.number("pug"), map.name(1)),
        (train.manifest().labels(), Some(2), Some("great_pyrenees"))
    );
    let val = images(&["pug_7.png"]);
    let val = open(&val).label_by(by_name()).unwrap().classes(&map).unwrap();
    assert_eq!(val.manifest().facts(0).unwrap().label, Some(2));
    std::fs::remove_file(&path).unwrap();
    // Without a label there is no class.
    let error = open(&store).class_map().unwrap_err();
    assert!(error.about() == Some("gs://data/p/") && error.to_string().contains("at least one class"), "{error}");
}

#[test]
fn labels_of_names_are_saved_with_the_manifest() {
    let store = images(&[&PETS[..], &["README_1.md", "pug_2.txt"]].concat());
    let any = || Labels::pattern("{label}_*").unwrap();
    let path = temporary("saved.dfm");
    let lists = [None, Some(["pug", "README", "beagle", "great_pyrenees", "none"])];
    for (uri, list) in ["gs://data/p/", "gs://data/p"].into_iter().flat_map(|uri| lists.map(|list| (uri, list))) {
        let open = |store: &MemoryStore| open_uri(store, uri);
        let numbered = |dataset: DatafluxDataset| list.map_or(dataset.clone(), |list| dataset.classes(list).unwrap());
        let dataset = numbered(open(&store).label_by(any()).unwrap());
        dataset.manifest().save(&path).unwrap();
        let loaded = Manifest::load(&path).unwrap();
        loaded.verify().unwrap();
        assert_eq!(loaded.digest(), dataset.manifest().digest());
        let loaded = DatafluxDataset::builder().client(client(store.clone())).from_manifest(loaded).unwrap();
        assert_eq!(labels(&loaded), labels(&dataset));

        // A decoder of images leaves out others, and a class without images is none unless there is a list.
        let images = numbered(open(&store).decode(ImageFolder::new()).label_by(any()).unwrap().decode(dataflux::Raw));
        for left in [loaded.clone().decode(ImageFolder::new()), dataset.clone().decode(ImageFolder::new())] {
            assert_eq!(labels(&left), labels(&images), "{list:?}");
            assert_eq!(left.manifest().labels(), images.manifest().labels());
            assert_eq!(left.manifest().digest(), images.manifest().digest(), "{list:?}");
            left.manifest().verify().unwrap();
        }
        // New labels are numbered by the list, too, until there is another one.
        let again = loaded.clone().label_by(any()).unwrap();
        assert_eq!((labels(&again), again.manifest().labels()), (labels(&dataset), dataset.manifest().labels()));
        assert_eq!(again.manifest().digest(), dataset.manifest().digest(), "{uri}, {list:?}");
        let images_again = again.clone().decode(ImageFolder::new());
        assert_eq!(images_again.manifest().digest(), images.manifest().digest(), "{uri}, {list:?}");
        if list.is_some() {
            let other = Labels::by(|_| Some("none".to_owned()));
            assert_eq!(loaded.clone().label_by(other).unwrap().manifest().facts(0).unwrap().label, Some(4));
            let unknown = loaded.clone().label_by(Labels::by(|_| Some("cat".to_owned()))).unwrap_err().to_string();
            assert!(unknown.contains("'cat'"), "{unknown}");
            let replaced = again.classes(["README", "pug", "beagle", "great_pyrenees"]).unwrap();
            assert_eq!(labels(&replaced), labels(&dataset));
        }
        // The folders may label again.
        let folder = loaded.label_by(Labels::folder()).unwrap_err();
        assert!(folder.to_string().contains("6 of 6 samples have no label"), "{folder}");
    }
    std::fs::remove_file(&path).unwrap();
}

/// `.ipynb_checkpoints` was a class of a data set that a closure decodes, and `.DS_Store` a sample.
#[test]
fn hidden_folders_and_files_are_no_class_and_no_sample() {
    let junk =
        [".ipynb_checkpoints/1.png", "cat/.DS_Store", "cat/.hidden/2.png", "__MACOSX/cat/1.png", "cat/Thumbs.db"];
    let store = images(&[&["cat/1.png", "cat/x.y/3.png", "dog/1.png"][..], &junk[..]].concat());
    for streaming in [false, true] {
        let builder = || DatafluxDataset::builder().client(client(store.clone())).streaming(streaming);
        let dataset = builder().open("gs://data/p/").unwrap();
        assert_eq!((dataset.len(), dataset.manifest().labels()), (3, &["cat".to_owned(), "dog".to_owned()][..]));
        assert_eq!(dataset.manifest().left_out().count(Reason::Hidden), 5);
        let sizes = |sample: RawSample| Ok(sample.bytes().len());
        assert_eq!(first(dataset.decode(sizes)).unwrap().len(), 3);

        let all = builder().filter(Filter::new().hidden()).open("gs://data/p/").unwrap();
        assert_eq!((all.len(), all.manifest().labels().len()), (8, 4));
        // What the prefix itself names isn't hidden.
        let named = builder().open("gs://data/p/.ipynb_checkpoints/").unwrap();
        assert_eq!(named.len(), 1);
    }
}

/// A table in a bucket of the emulator, whose first reads fail or arrive damaged.
#[test]
fn a_table_in_the_bucket_labels_its_images() {
    without_hanging(|| {
        let emulator = Emulator::builder().bucket("data").start().unwrap();
        for index in 0..30 {
            emulator.put("data", &format!("p/{index:02}.png"), png(2, 2, &[index; 4]));
        }
        emulator.put("data", "p/labels.csv", "in the way");
        let rows = (0..40).filter(|index| index % 10 != 3).map(|index| {
            let (mood, age) = (["sad", "happy"][index % 2], 20 + index);
            format!("{index:02},{mood},{age},{}\n", if index % 2 == 0 { "a;b" } else { "" })
        });
        let csv = format!("id,mood,age,tags\n{}", rows.collect::<String>());
        let generation = emulator.put("data", "labels.csv", csv);
        let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
        let client = client(GcsStore::new(config).unwrap());
        let open = || DatafluxDataset::open_with(client.clone(), "gs://data/p/").unwrap();

        emulator.fault_next(Call::GetMedia, Fault::Error, 1);
        emulator.fault_next(Call::GetMedia, Fault::Flip, 1);
        let reader = LabelTable::reader("id").row_key(RowKey::Stem);
        let table = reader.open(&client, "gs://data/labels.csv").unwrap();
        assert_eq!(table.source(), format!("gs://data/labels.csv#{generation}"));
        assert_eq!((table.len(), table.get("02", "age")), (36, Some("22")));

        // Three images have no row, and neither has the file in the way.
        let moods = || Labels::table(&table, "mood").unwrap();
        let error = open().label_by(moods()).unwrap_err();
        let said = error.to_string();
        assert!(said.contains("4 of 31 samples have no label") && said.contains("'p/03.png', 'p/13.png'"), "{said}");
        assert!(said.contains(&format!("a row in gs://data/labels.csv#{generation} with a value in 'mood'")), "{said}");
        let error = open().decode(ImageFolder::new()).match_table(&table, Unlabelled::Error).unwrap_err().to_string();
        assert!(error.contains("3 of 30 samples have no row in the table") && error.contains("LeaveOut"), "{error}");

        let labelled = open().label_by(moods().unlabelled(Unlabelled::LeaveOut)).unwrap().decode(ImageFolder::new());
        assert_eq!((labelled.len(), labelled.manifest().labels()), (27, &["happy".to_owned(), "sad".to_owned()][..]));
        let loader = DataLoader::builder(labelled).batch_size(9).shuffle(1).build().unwrap();
        for batch in loader.epoch(0).unwrap() {
            let batch = batch.unwrap();
            for (name, label) in batch.names().zip(&batch.labels) {
                let index: i64 = name[2..4].parse().unwrap();
                assert_eq!(*label, 1 - index % 2, "{name}");
            }
        }

        let unmatched: Vec<_> = (30..40).filter(|index| index % 10 != 3).map(|index| index.to_string()).collect();
        assert_eq!(table.unmatched(open().manifest()).unwrap(), unmatched);
        let tags = table.names("tags", ";").unwrap();
        assert_eq!(tags.names(), ["a", "b"]);
        let decode = ImageFolder::new().targets(table.multi_hot("tags", ";", &tags).unwrap());
        let matched = open().decode(decode).match_table(&table, Unlabelled::LeaveOut).unwrap();
        assert_eq!(matched.manifest().left_out().count(Reason::Unlabelled), 3);
        let (_, tags) = first(matched.clone()).unwrap().to_candle(&Device::Cpu).unwrap();
        // The images 00, 01, 02 and 04.
        assert_eq!(tags.to_vec2::<f32>().unwrap(), [[1.0, 1.0], [0.0, 0.0], [1.0, 1.0], [1.0, 1.0]]);
        // The labels of folders stay, and so does the match after a table that leaves nothing out.
        assert_eq!(matched.manifest().labels(), [""; 0]);
        let again = matched.clone().match_table(&table, Unlabelled::Error).unwrap();
        assert_eq!(again.manifest().digest(), matched.manifest().digest());

        // Without a match, the decoder finds the image.
        let ages = open().decode(ImageFolder::new().targets(table.number("age").unwrap()));
        let error = ages.get(3).unwrap_err();
        assert!(error.about().unwrap().starts_with("gs://data/p/03.png#"), "{error}");
        assert!(error.to_string().contains("has no row of its key '03'"), "{error}");
    });
}

/// Labels of a table belong to the data set, so folders don't matter, and classes number them.
#[test]
fn labels_of_a_table_are_kept_by_what_leaves_samples_out() {
    let store = images(&["x/1.png", "x/2.png", "y/3.png", "y/notes.txt"]);
    let csv = "file,class\nx/1.png,b\nx/2.png,a\ny/3.png,b\ny/notes.txt,c\n";
    let table = LabelTable::reader("file").read(csv.as_bytes()).unwrap();
    let few = LabelTable::reader("file").read("file\nx/2.png\ny/3.png\n".as_bytes()).unwrap();
    let dataset = open(&store).label_by(Labels::table(&table, "class").unwrap()).unwrap();
    assert_eq!(dataset.manifest().labels(), ["a", "b", "c"]);
    let images = dataset.clone().decode(ImageFolder::new());
    assert_eq!(labels(&images), wanted(&[("x/1.png", "b"), ("x/2.png", "a"), ("y/3.png", "b")]));
    assert_eq!(images.manifest().labels(), ["a", "b"]);
    let left = images.match_table(&few, Unlabelled::LeaveOut).unwrap();
    assert_eq!(labels(&left), wanted(&[("x/2.png", "a"), ("y/3.png", "b")]));
    left.manifest().verify().unwrap();
    let listed = dataset.classes(["c", "b", "a"]).unwrap().match_table(&few, Unlabelled::LeaveOut).unwrap();
    assert_eq!((labels(&listed), listed.manifest().labels().len()), (labels(&left), 3));
    assert_eq!(listed.manifest().facts(0).unwrap().label, Some(2));
    listed.manifest().verify().unwrap();
    let folders = open(&store).match_table(&few, Unlabelled::LeaveOut).unwrap();
    assert_eq!(labels(&folders), wanted(&[("x/2.png", "x"), ("y/3.png", "y")]));
}

/// Function and pattern were given other names where an object was beside the folder, and the digest was of yet others.
#[test]
fn labels_and_digests_do_not_depend_on_what_is_left_out() {
    let store = images(&["cat_1.png", "dog_1.png", "dog_2.png"]);
    let folder = open(&store).label_by(by_name()).unwrap();
    for beside in [None, Some("p_notes.txt")] {
        if let Some(name) = beside {
            store.insert("data", name, "not an image");
        }
        let open = || open_uri(&store, "gs://data/p");
        let of_names = Labels::by(|name| Some(name.strip_prefix("p/")?.rsplit_once('_')?.0.to_owned()));
        let whole = Labels::pattern("p/{label}_*.png").unwrap();
        for rule in [of_names, whole, by_name()] {
            let rule = rule.unlabelled(Unlabelled::LeaveOut);
            let before = open().decode(ImageFolder::new()).label_by(rule.clone()).unwrap();
            let after = open().label_by(rule).unwrap();
            assert_eq!(after.manifest().left_out().total(), u64::from(beside.is_some()));
            let decoded = after.clone().decode(ImageFolder::new());
            for manifest in [before.manifest(), after.manifest(), decoded.manifest()] {
                assert_eq!(manifest.labels(), ["cat", "dog"], "{beside:?}");
                assert_eq!(manifest.digest(), folder.manifest().digest(), "{beside:?}");
                manifest.verify().unwrap();
            }
        }
    }
    // A decoder leaves the notes out, which have a label.
    let labelled = open_uri(&store, "gs://data/p").label_by(Labels::by(|name| Some(name[2..5].to_owned()))).unwrap();
    labelled.manifest().verify().unwrap();
    let images = labelled.decode(ImageFolder::new());
    assert_eq!(images.manifest().digest(), folder.manifest().digest());
    images.manifest().verify().unwrap();
}

/// The one class was `p`, the folder that holds all samples.
#[test]
fn folders_are_those_of_the_samples_that_are_left() {
    let store = images(&["cat/1.png", "dog/deep/1.png"]);
    store.insert("data", "p_notes.txt", "not an image");
    let folder = open(&store);
    for depth in [0, 1] {
        let rule = || Labels::folder_at(depth).unlabelled(Unlabelled::LeaveOut);
        let left = open_uri(&store, "gs://data/p").label_by(rule()).unwrap();
        let wanted = folder.clone().label_by(rule()).unwrap();
        assert_eq!(labels(&left), labels(&wanted));
        assert_eq!((left.manifest().digest(), left.len()), (wanted.manifest().digest(), 2 - depth as u64));
        assert_eq!(left.manifest().left_out().count(Reason::Unlabelled), 1 + depth as u64);
        left.manifest().verify().unwrap();
    }
    // With no sample in a subfolder, none has a label once the notes are left out.
    let store = images(&["1.png"]);
    store.insert("data", "p_notes.txt", "not an image");
    let error =
        open_uri(&store, "gs://data/p").label_by(Labels::folder().unlabelled(Unlabelled::LeaveOut)).unwrap_err();
    assert!(error.to_string().contains("'p/1.png'"), "{error}");
}

/// The derived implementations asked the same of the targets' type.
#[test]
fn decoders_are_cloned_compared_and_shown_whatever_their_targets_are() {
    struct Opaque;
    let decode = ImageFolder::new().resize(2, 2).targets(|_| Ok(Opaque));
    assert_eq!(decode.clone(), decode);
    assert_ne!(decode.clone().max_pixels(9), decode);
    assert_ne!(decode, ImageFolder::new().resize(2, 2).targets(|_| Ok(Opaque)));
    assert!(format!("{decode:?}").starts_with("ImageFolder { targets: Given"), "{decode:?}");
    let mapped = decode.map(|image, _| Ok(image));
    assert!(format!("{:?}", mapped.clone()).starts_with("MappedImages { folder: ImageFolder"), "{mapped:?}");
}
