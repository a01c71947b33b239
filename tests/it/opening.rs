//! Opening a data set: with a filter, from a manifest, from an inventory report, and with key ranges from an earlier
//! listing.

use std::sync::Arc;

use dataflux::list::{Filter, Progress, Reason};
use dataflux::store::{Credentials, GcsConfig, GcsStore, MemoryStore, PutRequest, StorageClass};
use dataflux::{DataLoader, DatafluxDataset, ErrorKind, Manifest, Strategy};
use dataflux_emulator::Emulator;

use crate::support::{bucket, client, names_of, without_hanging};

/// A folder that is removed when this is dropped.
struct Scratch(std::path::PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("dataflux-opening-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn names(dataset: &DatafluxDataset) -> Vec<String> {
    let mut entries = dataset.manifest().entries();
    let mut names = Vec::new();
    while let Some(entry) = entries.next().unwrap() {
        names.push(entry.name.to_owned());
    }
    names
}

#[test]
fn a_filtered_data_set_has_what_is_wanted_and_says_what_is_not() {
    without_hanging(|| {
        let (store, contents) = bucket(100);
        let filter = Filter::new().include("ant/").unwrap().max_size(2_000);
        let progress = Arc::new(Progress::default());
        let builder = DatafluxDataset::builder().client(client(store)).filter(filter).progress(progress.clone());
        let dataset = builder.open("gs://data/p/").unwrap();
        let mut wanted: Vec<_> =
            contents.iter().filter(|(name, bytes)| name.contains("/ant/") && bytes.len() <= 2_000).collect();
        wanted.sort();
        assert!(names(&dataset).iter().eq(wanted.iter().map(|(name, _)| *name)));
        let left = dataset.manifest().left_out();
        assert_eq!((left.count(Reason::NotIncluded), left.count(Reason::TooLarge)), (75, 25 - wanted.len() as u64));
        assert_eq!((progress.objects(), progress.in_flight()), (100, 0));
        let nothing = Filter::new().include("*.jpg").unwrap();
        let error = DatafluxDataset::builder().client(dataset.client().clone()).filter(nothing).open("gs://data/p/");
        let error = error.unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains("100 not included"), "{error}");
    });
}

#[test]
fn a_saved_manifest_is_read_without_listing() {
    without_hanging(|| {
        let scratch = Scratch::new("saved");
        let (store, contents) = bucket(60);
        let client = client(store.clone());
        let dataset = DatafluxDataset::open_with(client.clone(), "gs://data/p/").unwrap();
        let file = scratch.0.join("p.dfm");
        dataset.manifest().save(&file).unwrap();
        let before = client.metrics().snapshot();
        let loaded = DatafluxDataset::builder().client(client.clone()).from_manifest(Manifest::load(&file).unwrap());
        let loaded = loaded.unwrap();
        assert_eq!(client.metrics().snapshot().since(&before).list, 0);
        assert_eq!(loaded.manifest().digest(), dataset.manifest().digest());
        let epoch = |dataset: DatafluxDataset| {
            let loader =
                DataLoader::builder(dataset).batch_size(7).shuffle(3).strategy(Strategy::Direct).build().unwrap();
            names_of(&mut loader.epoch(1).unwrap(), &contents).unwrap()
        };
        assert_eq!(epoch(loaded), epoch(dataset));
        // An object that was overwritten since the listing is an error that names it.
        store.insert("data", "p/ant/00004.bin", "another");
        let loaded = DatafluxDataset::builder().client(client).from_manifest(Manifest::load(&file).unwrap()).unwrap();
        let error = loaded.get(1).unwrap_err();
        assert!(error.is_changed() && error.to_string().contains("p/ant/00004.bin"), "{error}");
    });
}

#[test]
fn an_earlier_listing_divides_the_next_and_decides_nothing() {
    without_hanging(|| {
        let emulator = Emulator::builder().bucket("data").start().unwrap();
        let name = |index: u32| format!("p/{:08x}", index.wrapping_mul(2_654_435_761));
        (0..12_000).for_each(|index| _ = emulator.put("data", &name(index), "x"));
        let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(Credentials::Anonymous);
        let client = client(GcsStore::new(config).unwrap());
        let earlier = DatafluxDataset::open_with(client.clone(), "gs://data/p/").unwrap();
        for index in (0..12_000).step_by(3) {
            emulator.delete("data", &name(index));
        }
        (12_000..15_000).for_each(|index| _ = emulator.put("data", &name(index), "x"));
        let builder = DatafluxDataset::builder().client(client).refresh(earlier.manifest()).unwrap();
        let now = builder.open("gs://data/p/").unwrap();
        assert_eq!(names(&now), emulator.names("data"));
    });
}

#[test]
fn an_inventory_report_takes_the_place_of_a_listing() {
    without_hanging(|| {
        let scratch = Scratch::new("inventory");
        let (store, contents) = bucket(40);
        let client = client(store);
        let listed = DatafluxDataset::open_with(client.clone(), "gs://data/p/").unwrap();
        let mut report = String::from("bucket,name,size,generation,crc32c,timeDeleted\n");
        let mut entries = listed.manifest().entries();
        let mut rows = Vec::new();
        while let Some(entry) = entries.next().unwrap() {
            let crc = {
                use base64::Engine as _;
                base64::engine::general_purpose::STANDARD.encode(entry.crc32c.unwrap().to_be_bytes())
            };
            let generation = entry.version.generation().unwrap();
            rows.push(format!("data,\"{}\",{},{generation},{crc},\n", entry.name, entry.size));
        }
        // The rows are in no order, with an older version, a deleted object and an object of another prefix among them.
        rows.reverse();
        rows.push("data,p/ant/00000.bin,1,1,AAAAAA==,\n".to_owned());
        rows.push("data,p/gone,1,5,AAAAAA==,2024-05-20T00:00:00Z\n".to_owned());
        rows.push("data,q/other,1,5,AAAAAA==,\n".to_owned());
        report.extend(rows);
        let file = scratch.0.join("1a34_2024-05-20T06-35_0.csv");
        std::fs::write(&file, report).unwrap();
        let before = client.metrics().snapshot();
        let builder = DatafluxDataset::builder().client(client.clone()).inventory(file.to_str().unwrap());
        let dataset = builder.open("gs://data/p/").unwrap();
        assert_eq!(client.metrics().snapshot().since(&before).list, 0);
        assert_eq!(names(&dataset), names(&listed));
        let loader = DataLoader::builder(dataset).batch_size(9).strategy(Strategy::Direct).build().unwrap();
        assert_eq!(names_of(&mut loader.epoch(0).unwrap(), &contents).unwrap(), names(&listed));
        let builder = DatafluxDataset::builder().client(client).inventory("gs://data/nothing/");
        let error = builder.open("gs://data/p/").unwrap_err();
        assert!([ErrorKind::NotFound, ErrorKind::Config].contains(&error.kind()), "{error}");
        assert!(error.to_string().contains("gs://data/nothing/"), "{error}");
    });
}

/// Opens a data set below `gs://data/p/` from a report of these rows.
fn of_report(name: &str, rows: &str, filter: Filter) -> dataflux::Result<DatafluxDataset> {
    let scratch = Scratch::new(name);
    let file = scratch.0.join("1a34_2024-05-20T06-35_0.csv");
    std::fs::write(&file, rows).unwrap();
    let client = client(MemoryStore::new().with_bucket("data"));
    DatafluxDataset::builder().client(client).filter(filter).inventory(file.to_str().unwrap()).open("gs://data/p/")
}

#[test]
fn a_filter_that_refuses_the_newest_version_does_not_bring_back_an_older_one() {
    without_hanging(|| {
        let rows = "name,size,generation,updated\n\
                    p/a,10,1,2024-05-20T00:00:00Z\np/a,0,2,2024-05-21T00:00:00Z\n\
                    p/b,10,4,2024-05-21T00:00:00Z\np/b,0,3,2024-05-22T00:00:00Z\n\
                    p/c,9,5,2024-05-19T00:00:00Z\np/c,9,6,2024-05-18T00:00:00Z\n";
        let dataset = of_report("newest", rows, Filter::new().min_size(1)).unwrap();
        assert_eq!(names(&dataset), ["p/b", "p/c"]);
        assert_eq!(dataset.manifest().get(0).unwrap().version, 4.into());
        let left = dataset.manifest().left_out();
        assert_eq!((left.count(Reason::TooSmall), left.total()), (1, 1));
        let since = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_716_076_800);
        // 2024-05-19: the newest version of `c` is from the day before.
        let dataset = of_report("newest-since", rows, Filter::new().modified_since(since)).unwrap();
        assert_eq!(names(&dataset), ["p/a", "p/b"]);
        assert_eq!(dataset.manifest().left_out().count(Reason::NotModified), 1);
        let error = of_report("newest-none", rows, Filter::new().min_size(11)).unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains("3 too small"), "{error}");
    });
}

#[test]
fn a_report_without_a_sample_says_what_its_rows_are() {
    without_hanging(|| {
        let rows = "bucket,name,size,generation,timeDeleted\n\
                    data,q/a,1,1,\ndata,q/b,1,1,\ncats,p/a,1,1,\ndata,p/a,1,1,2024-05-20T00:00:00Z\n";
        let error = of_report("nothing", rows, Filter::new()).unwrap_err();
        let said = error.to_string();
        assert!(error.is_not_found() && !said.contains("data was uploaded"), "{said}");
        for part in ["4 rows", "2 of other names", "1 of other buckets", "1 of deleted objects"] {
            assert!(said.contains(part), "{said}");
        }
    });
}

#[test]
fn a_manifest_takes_no_setting_that_would_do_nothing() {
    without_hanging(|| {
        let (store, _) = bucket(20);
        let client = client(store);
        let manifest = Arc::clone(DatafluxDataset::open_with(client.clone(), "gs://data/p/").unwrap().manifest());
        let builder = || DatafluxDataset::builder().client(client.clone());
        for (builder, named) in [
            (builder().filter(Filter::new().min_size(1)), "filter"),
            (builder().inventory("gs://data/report/"), "inventory"),
            (builder().refresh(&manifest).unwrap(), "refresh"),
            (builder().streaming(true), "streaming"),
            (builder().streaming(true).inventory("x"), "inventory and streaming"),
        ] {
            let error = builder.from_manifest(Arc::clone(&manifest)).unwrap_err();
            assert!(error.kind() == ErrorKind::Config && error.to_string().contains(named), "{error}");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dataset = runtime.block_on(builder().from_manifest_async(Arc::clone(&manifest))).unwrap();
        assert_eq!(dataset.len(), 20);
        let error = runtime.block_on(builder().streaming(true).from_manifest_async(manifest)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    });
}

#[test]
fn cold_objects_are_listed_and_counted_by_class() {
    without_hanging(|| {
        let store = MemoryStore::new().with_bucket("data");
        let client = client(store);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for (index, class) in
            [StorageClass::Standard, StorageClass::Nearline, StorageClass::Archive].into_iter().enumerate()
        {
            let mut put = PutRequest::new("data", format!("p/{index}"), vec![0; 1 << index]);
            put.storage_class = Some(class);
            runtime.block_on(client.put(&put)).unwrap();
        }
        let dataset = DatafluxDataset::open_with(client.clone(), "gs://data/p/").unwrap();
        let classes: Vec<_> = dataset
            .manifest()
            .storage_classes()
            .map(|class| (class.storage_class, class.objects, class.bytes))
            .collect();
        let wanted = [(StorageClass::Standard, 1, 1), (StorageClass::Nearline, 1, 2), (StorageClass::Archive, 1, 4)];
        assert_eq!(classes, wanted);
        let warm = Filter::new().storage_class(StorageClass::Standard);
        let dataset = DatafluxDataset::builder().client(client).filter(warm).open("gs://data/p/").unwrap();
        assert_eq!((dataset.len(), dataset.manifest().left_out().count(Reason::StorageClass)), (1, 2));
    });
}
