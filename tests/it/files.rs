//! Data sets in files of this machine and in the memory of this process.

use std::collections::BTreeSet;
use std::fs;
#[cfg(target_os = "linux")]
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dataflux::store::{Attempt, Client, FileStore, ListRequest, MemoryStore, PutRequest, Store, StoreUri};
use dataflux::{DataLoader, DatafluxDataset, ErrorKind, Manifest, OnError, State};
use proptest::prelude::*;

use crate::support::{content, without_hanging};

fn uri(folder: &Path) -> String {
    format!("file://{}/", folder.display())
}

/// Writes files of some bytes, names between folders and names of equal beginnings among them.
fn written(names: &[String]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for name in names {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content(name, 100 + name.len())).unwrap();
    }
    folder
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{}/{}.txt", ["a", "a-b", "a.b", "ab"][n % 4], n * 7_919 % 1_000)).collect()
}

/// Names below the prefix and bytes of all samples of an epoch, in order.
fn epoch(dataset: &DatafluxDataset, state: Option<State>) -> Vec<(String, Vec<u8>)> {
    let loader = DataLoader::builder(dataset.clone()).batch_size(7).shuffle(3);
    let loader = match state {
        Some(state) => loader.resume(state).build().unwrap(),
        None => loader.build().unwrap(),
    };
    let below = dataset.manifest().prefix().prefix.len();
    let mut samples = Vec::new();
    for batch in loader.epoch(0).unwrap() {
        for sample in batch.unwrap().into_inner() {
            samples.push((sample.name()[below..].to_owned(), sample.bytes().to_vec()));
        }
    }
    samples
}

/// Whatever the store, the order of a data set is the same, and so are its bytes.
#[test]
fn an_epoch_is_that_of_any_other_store() {
    without_hanging(|| {
        let mut names = names(200);
        let folder = written(&names);
        let (shared, own) = (MemoryStore::shared(), MemoryStore::new());
        // One that is read in ranges.
        names[5] = "large".into();
        fs::write(folder.path().join("large"), content("large", 40 << 20)).unwrap();
        fs::remove_file(folder.path().join(self::names(6).pop().unwrap())).unwrap();
        for name in &names {
            let bytes = content(name, if name == "large" { 40 << 20 } else { 100 + name.len() });
            shared.insert("epoch-of-files", &format!("x/{name}"), bytes.clone());
            own.insert("data", &format!("p/{name}"), bytes);
        }
        let files = DatafluxDataset::open(&uri(folder.path())).unwrap();
        let memory = DatafluxDataset::open("mem://epoch-of-files/x/").unwrap();
        let bucket = DatafluxDataset::open_with(Client::new(Arc::new(own)), "gs://data/p/").unwrap();
        let wanted = epoch(&bucket, None);
        assert_eq!(wanted.len(), 200);
        assert_eq!(epoch(&files, None), wanted);
        assert_eq!(epoch(&memory, None), wanted);

        let loader = DataLoader::builder(files.clone()).batch_size(7).shuffle(3).build().unwrap();
        let mut batches = loader.epoch(0).unwrap();
        let first = batches.by_ref().take(5).map(|batch| batch.unwrap().into_inner().len()).sum::<usize>();
        for dataset in [&files, &bucket] {
            assert_eq!(epoch(dataset, Some(batches.state())), wanted[first..], "a resume goes on where it stopped");
        }
    });
}

/// A manifest of files is saved and opened again, and still means files.
#[test]
fn a_saved_manifest_is_of_the_same_files() {
    let folder = written(&names(20));
    let listed = DatafluxDataset::open(&uri(folder.path())).unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    listed.manifest().save(file.path()).unwrap();
    let loaded = Manifest::load(file.path()).unwrap();
    assert_eq!(loaded.prefix(), listed.manifest().prefix());
    let again = DatafluxDataset::from_manifest(loaded).unwrap();
    assert_eq!(epoch(&again, None), epoch(&listed, None));
}

/// A file that isn't as it was listed is an error that names it, and no other bytes are delivered in its place.
#[test]
fn files_that_change_are_named() {
    without_hanging(|| {
        for (change, said) in [("write", "was changed"), ("grow", "was changed"), ("remove", "no such file")] {
            let folder = written(&names(30));
            let dataset = DatafluxDataset::open(&uri(folder.path())).unwrap();
            let changed = dataset.manifest().get(17).unwrap().name.to_string();
            let path = format!("/{changed}");
            let later = SystemTime::now() + Duration::from_secs(5);
            match change {
                "write" => fs::write(&path, vec![b'x'; fs::metadata(&path).unwrap().len() as usize]).unwrap(),
                "grow" => fs::write(&path, vec![b'x'; 10_000]).unwrap(),
                _ => fs::remove_file(&path).unwrap(),
            }
            if change != "remove" {
                fs::File::options().append(true).open(&path).unwrap().set_modified(later).unwrap();
            }
            let loader = DataLoader::builder(dataset.clone()).batch_size(4).build().unwrap();
            let error = loader.epoch(0).unwrap().find_map(Result::err).unwrap();
            assert_eq!(error.kind(), ErrorKind::Changed, "{change}: {error}");
            assert!(error.to_string().contains(&changed) && error.to_string().contains(said), "{change}: {error}");

            let loader =
                DataLoader::builder(dataset).batch_size(4).on_error(OnError::Skip { limit: 1 }).build().unwrap();
            let names: Vec<_> = loader.epoch(0).unwrap().flat_map(|batch| batch.unwrap().into_inner()).collect();
            assert_eq!(names.len(), 29, "{change}: the others come");
            assert!(names.iter().all(|sample| sample.name() != changed), "{change}");
        }
    });
}

/// What a folder may hold that is no file.
#[test]
fn what_is_no_sample_is_named() {
    let listed = |make: &dyn Fn(&Path)| {
        let folder = written(&names(3));
        make(folder.path());
        DatafluxDataset::open(&uri(folder.path())).map(|dataset| dataset.len()).map_err(|error| error.to_string())
    };
    assert_eq!(listed(&|_| ()).unwrap(), 3);
    assert_eq!(listed(&|folder| fs::create_dir(folder.join("empty")).unwrap()).unwrap(), 3);
    assert_eq!(listed(&|folder| symlink("a/0.txt", folder.join("link")).unwrap()).unwrap(), 4, "links are followed");
    assert_eq!(listed(&|folder| symlink("a", folder.join("again")).unwrap()).unwrap(), 4, "those to folders, too");

    let looped = listed(&|folder| symlink("..", folder.join("a/up")).unwrap()).unwrap_err();
    assert!(looped.contains("a/up") && looped.contains("remove the link"), "{looped}");
    let broken = listed(&|folder| symlink("nothing", folder.join("link")).unwrap()).unwrap_err();
    assert!(broken.contains("/link") && broken.contains("a file that isn't there"), "{broken}");
    // Other systems refuse such names.
    #[cfg(target_os = "linux")]
    let odd = listed(&|folder| fs::write(folder.join(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap()).unwrap_err();
    #[cfg(target_os = "linux")]
    assert!(odd.contains("UTF-8") && odd.contains("rename"), "{odd}");
    let socket = listed(&|folder| drop(std::os::unix::net::UnixListener::bind(folder.join("socket")).unwrap()));
    assert!(socket.clone().unwrap_err().contains("/socket"), "{socket:?}");

    let nothing = DatafluxDataset::open("file:///no/such/folder/").unwrap_err();
    assert_eq!(nothing.kind(), ErrorKind::NotFound, "{nothing}");
}

#[test]
fn uris_of_files() {
    for (text, said) in [
        ("file://data/x", "write file:///data/x"),
        ("file:/data/x", "write file:///data/x"),
        ("file://localhost/data/x", "write file:///data/x"),
        ("file://user:hunter2@host/x", "write file:///data/train/, for example"),
        ("file:///data/../x", "without such parts"),
        ("file:///data//x", "without such parts"),
        ("file:///data/.", "without such parts"),
        ("/data/x", "file:///data/x for files of this machine"),
    ] {
        let error = text.parse::<StoreUri>().unwrap_err();
        assert!(error.to_string().contains(said) && !error.to_string().contains("hunter2"), "{text}: {error}");
    }
    let uri: StoreUri = "file:///data/a:b@c/?key=x".parse().unwrap();
    assert_eq!((&*uri.bucket, &*uri.path), ("", "data/a:b@c/?key=x"), "nothing is a query or a password");
    assert_eq!(uri.to_string(), "file:///data/a:b@c/?key=x");
}

/// The places of listings that stopped between two pages went to whichever listing came to the same name.
#[tokio::test]
async fn listings_at_once_do_not_mix() {
    let folder = written(&["a/1", "a/2", "b"].map(str::to_owned));
    let store = FileStore::below(folder.path());
    let mut requests = ["a/", ""].map(|prefix| ListRequest::new("", prefix));
    for request in &mut requests {
        request.page_size = Some(1);
        request.page_token = store.list(request, &Attempt::first()).await.unwrap().next_page_token;
    }
    let mut found = Vec::new();
    for request in &mut requests {
        while request.page_token.is_some() {
            let page = store.list(request, &Attempt::first()).await.unwrap();
            found.extend(page.objects.iter().map(|object| object.name.to_owned()));
            request.page_token = page.next_page_token;
        }
    }
    assert_eq!(found, ["a/2", "a/2", "b"]);

    let outside = FileStore::below(folder.path().join("a"));
    for prefix in ["../", "/etc/", "./", "a//"] {
        let page = outside.list(&ListRequest::new("", prefix), &Attempt::first()).await.unwrap();
        assert!(page.objects.is_empty(), "{prefix}: {page:?}");
    }
}

/// A write over a file whose time lies far in the future gave all later files that time, so that no change was seen.
#[tokio::test]
async fn a_time_in_the_future_is_that_of_its_file_alone() {
    let folder = written(&["a", "b"].map(str::to_owned));
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(10_413_792_000);
    fs::File::options().append(true).open(folder.path().join("a")).unwrap().set_modified(far).unwrap();
    let client = Client::new(Arc::new(FileStore::below(folder.path())));
    let mut versions = Vec::new();
    for name in ["a", "b", "b"] {
        versions.push(client.put(&PutRequest::new("", name, "x")).await.unwrap().version);
    }
    assert!(versions[0] > versions[2] && versions[2] > versions[1], "{versions:?}");
    let names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// Pages of any size and ranges of names join to what there is, in byte order, also where the place of a listing
    /// is lost.
    #[test]
    fn listings_are_in_byte_order(
        names in prop::collection::btree_set("[a-c.-]{1,2}(/[a-c.-]{1,2}){0,2}", 1..20),
        start in "[a-c/.-]{0,3}",
        end in "[a-c/.-]{0,3}",
        prefix in "[a-c/.-]{0,2}",
        page_size in 1_u32..5,
        is_lost: bool,
    ) {
        let plain = |name: &String| name.split('/').all(|part| part != "." && part != "..");
        let mut names: BTreeSet<_> = names.into_iter().filter(plain).collect();
        // No file is also a folder.
        let all = names.clone();
        names.retain(|name| !all.iter().any(|other| other.starts_with(&format!("{name}/"))));
        let folder = written(&names.iter().cloned().collect::<Vec<_>>());

        let mut request = ListRequest::new("", prefix.clone());
        request.page_size = Some(page_size);
        request.start_offset = Some(start.clone());
        request.end_offset = (!end.is_empty()).then(|| end.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (mut store, mut found) = (FileStore::below(folder.path()), Vec::new());
        loop {
            let page = runtime.block_on(store.list(&request, &Attempt::first())).unwrap();
            found.extend(page.objects.iter().map(|object| object.name.to_owned()));
            request.page_token = page.next_page_token;
            if request.page_token.is_none() {
                break;
            }
            if is_lost {
                store = FileStore::below(folder.path());
            }
        }
        let wanted = names.iter().filter(|name| {
            name.starts_with(&prefix) && **name >= start && (end.is_empty() || **name < end)
        });
        prop_assert_eq!(found, wanted.cloned().collect::<Vec<_>>());
    }
}
