//! Other clients list, look up and read a bucket of the emulator without changes to them.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use dataflux_emulator::{BucketConfig, Call, Emulator, Fault, ObjectOptions};
use futures_util::TryStreamExt;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{BackoffConfig, Error, GetOptions, GetRange, ObjectStore, ObjectStoreExt, RetryConfig};
use opendal::ErrorKind;

/// Bytes that show their object and offset.
fn content(name: &str) -> Vec<u8> {
    (0..300).flat_map(|number| format!("{name}@{number:03};").into_bytes()).collect()
}

const NAMES: [&str; 8] = ["a b.txt", "a/1", "a/2", "a/deep/3", "a-b", "b%2Fc+d", "z/&<>'\"", "z/é日本😀"];

fn emulator() -> Emulator {
    let emulator = Emulator::builder().bucket("train").start().unwrap();
    for name in NAMES {
        emulator.put("train", name, content(name));
    }
    emulator.put("train", "z/empty", "");
    emulator
}

/// The sizes of all objects in the emulator, by name.
fn wanted(emulator: &Emulator) -> BTreeMap<String, u64> {
    let size = |name: &str| if name == "z/empty" { 0 } else { content(name).len() as u64 };
    emulator.names("train").into_iter().map(|name| (name.clone(), size(&name))).collect()
}

fn store(emulator: &Emulator) -> object_store::gcp::GoogleCloudStorage {
    // Short waits, for the tests of retries.
    let backoff = BackoffConfig { init_backoff: Duration::from_millis(1), ..BackoffConfig::default() };
    peers::object_store(emulator.endpoint(), "train", RetryConfig { backoff, ..RetryConfig::default() }).unwrap()
}

#[tokio::test]
async fn object_store_lists_everything_from_a_prefix_or_an_offset_on() -> Result<()> {
    let emulator = emulator();
    for number in 0..2_300 {
        emulator.put("train", &format!("many/{number:04}"), "x");
    }
    let store = store(&emulator);
    let mut sizes = wanted(&emulator);
    sizes.iter_mut().filter(|(name, _)| name.starts_with("many/")).for_each(|(_, size)| *size = 1);
    let listed: Vec<_> = store.list(None).try_collect().await?;
    let got: BTreeMap<_, _> = listed.iter().map(|meta| (meta.location.to_string(), meta.size)).collect();
    assert_eq!((listed.len(), &got), (sizes.len(), &sizes));
    assert!(emulator.stats().list >= 3, "pages of a thousand");

    let names =
        |metas: Vec<object_store::ObjectMeta>| metas.into_iter().map(|meta| meta.location.to_string()).collect();
    let below: Vec<String> = names(store.list(Some(&Path::from("a"))).try_collect().await?);
    assert_eq!(below, ["a/1", "a/2", "a/deep/3"]);
    let after: Vec<String> = names(store.list_with_offset(None, &Path::from("many/2298")).try_collect().await?);
    assert_eq!(after[0], "many/2299", "an offset isn't listed itself");
    assert_eq!(after.len(), 1 + 3);

    let root = store.list_with_delimiter(None).await?;
    let prefixes: Vec<_> = root.common_prefixes.iter().map(Path::as_ref).collect();
    assert_eq!(prefixes, ["a", "many", "z"]);
    let objects: Vec<_> = root.objects.iter().map(|meta| meta.location.as_ref()).collect();
    assert_eq!(objects, ["a b.txt", "a-b", "b%2Fc+d"]);
    let folder = store.list_with_delimiter(Some(&Path::from("a"))).await?;
    assert_eq!((folder.objects.len(), folder.common_prefixes), (2, vec![Path::from("a/deep")]));
    Ok(())
}

#[tokio::test]
async fn object_store_pages_as_it_likes() -> Result<()> {
    let emulator = emulator();
    let store = store(&emulator);
    for max_keys in 1..=5 {
        let (mut names, mut token, mut pages) = (Vec::new(), None, 0);
        loop {
            let options = PaginatedListOptions { max_keys: Some(max_keys), page_token: token, ..Default::default() };
            let page = store.list_paginated(None, options).await?;
            names.extend(page.result.objects.iter().map(|meta| meta.location.to_string()));
            pages += 1;
            token = page.page_token;
            if token.is_none() {
                break;
            }
        }
        assert_eq!((names, pages), (emulator.names("train"), 9_usize.div_ceil(max_keys)));
    }
    let offset = Some("a/1".to_owned());
    let options = PaginatedListOptions { offset, delimiter: Some("/".into()), ..Default::default() };
    let page = store.list_paginated(Some("a/"), options).await?.result;
    assert_eq!(page.objects.iter().map(|meta| meta.location.as_ref()).collect::<Vec<_>>(), ["a/2"]);
    assert_eq!(page.common_prefixes, [Path::from("a/deep")]);
    Ok(())
}

#[tokio::test]
async fn object_store_sees_of_an_object_what_it_listed() -> Result<()> {
    let emulator = emulator();
    emulator.put_with(
        "train",
        "typed",
        "1",
        ObjectOptions { content_type: Some("image/png".into()), ..ObjectOptions::default() },
    );
    let store = store(&emulator);
    let listed: Vec<_> = store.list(None).try_collect().await?;
    assert_eq!(listed.len(), 10);
    for meta in listed {
        let seen = store.head(&meta.location).await?;
        let generation = emulator.generation("train", meta.location.as_ref()).map(|number| number.to_string());
        assert_eq!((&seen.location, seen.size, &seen.e_tag), (&meta.location, meta.size, &meta.e_tag));
        assert_eq!(seen.version, generation);
        // Headers have no fractions of a second.
        assert_eq!(seen.last_modified.timestamp(), meta.last_modified.timestamp());
        let read = store.get(&meta.location).await?;
        assert_eq!((read.meta.size, &read.meta.e_tag, &read.meta.version), (meta.size, &meta.e_tag, &generation));
        assert_eq!(read.bytes().await?.len() as u64, meta.size);
    }
    let attributes = store.get(&Path::from("typed")).await?.attributes;
    assert_eq!(attributes.get(&object_store::Attribute::ContentType).map(|value| &**value), Some("image/png"));
    assert_eq!(emulator.stats().get_metadata, 10, "HEAD reads nothing");
    Ok(())
}

#[tokio::test]
async fn object_store_reads_whole_objects_and_ranges() -> Result<()> {
    let emulator = emulator();
    let store = store(&emulator);
    for name in NAMES {
        let (path, all) = (Path::parse(name)?, content(name));
        assert_eq!(store.get(&path).await?.bytes().await?, all, "{name}");
        let size = all.len() as u64;
        for (range, wanted) in [
            (GetRange::Bounded(7..20), &all[7..20]),
            (GetRange::Bounded(size - 1..size + 9), &all[all.len() - 1..]),
            (GetRange::Offset(100), &all[100..]),
            (GetRange::Suffix(9), &all[all.len() - 9..]),
        ] {
            let options = GetOptions { range: Some(range.clone()), ..GetOptions::default() };
            let got = store.get_opts(&path, options).await?;
            assert_eq!(got.meta.size, size);
            assert_eq!(got.bytes().await?, wanted, "{name} {range:?}");
        }
        // Far from each other, so that the client does not merge them.
        let ranges = [0..3, 5..5 + 9, size - 4..size];
        let parts = store.get_ranges(&path, &ranges).await?;
        for (range, part) in ranges.iter().zip(parts) {
            assert_eq!(part, all[range.start as usize..range.end as usize]);
        }
    }
    assert!(store.get(&Path::from("z/empty")).await?.bytes().await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn object_store_gets_the_conditions_that_it_sets() -> Result<()> {
    let emulator = emulator();
    let (store, path) = (store(&emulator), Path::from("a/1"));
    let meta = store.head(&path).await?;
    for head in [false, true] {
        let ask = async |options: GetOptions| {
            store.get_opts(&path, GetOptions { head, ..options }).await.map(|got| got.meta.size)
        };
        let (tag, other) = (meta.e_tag.clone(), Some("\"another\"".to_owned()));
        let same = ask(GetOptions { if_none_match: tag.clone(), ..GetOptions::default() }).await;
        assert!(matches!(same, Err(Error::NotModified { .. })), "{same:?}");
        assert_eq!(ask(GetOptions { if_none_match: other.clone(), ..GetOptions::default() }).await?, meta.size);
        assert_eq!(ask(GetOptions { if_match: tag, ..GetOptions::default() }).await?, meta.size);
        let changed = ask(GetOptions { if_match: other, ..GetOptions::default() }).await;
        assert!(matches!(changed, Err(Error::Precondition { .. })), "{changed:?}");
        let (earlier, later) =
            (meta.last_modified - Duration::from_secs(9), meta.last_modified + Duration::from_secs(9));
        let same = ask(GetOptions { if_modified_since: Some(later), ..GetOptions::default() }).await;
        assert!(matches!(same, Err(Error::NotModified { .. })), "{same:?}");
        assert_eq!(ask(GetOptions { if_modified_since: Some(earlier), ..GetOptions::default() }).await?, meta.size);
        let changed = ask(GetOptions { if_unmodified_since: Some(earlier), ..GetOptions::default() }).await;
        assert!(matches!(changed, Err(Error::Precondition { .. })), "{changed:?}");
        let version = meta.version.clone();
        assert_eq!(ask(GetOptions { version, ..GetOptions::default() }).await?, meta.size);
        let gone = ask(GetOptions { version: Some("7".into()), ..GetOptions::default() }).await;
        assert!(matches!(gone, Err(Error::NotFound { .. })), "{gone:?}");
    }
    Ok(())
}

#[tokio::test]
async fn object_store_understands_refusals_and_comes_back_after_faults() -> Result<()> {
    let emulator = emulator();
    let (store, path) = (store(&emulator), Path::from("a/1"));
    for answer in [store.get(&Path::from("gone")).await.map(|_| ()), store.head(&Path::from("gone")).await.map(|_| ())]
    {
        assert!(matches!(answer, Err(Error::NotFound { .. })), "{answer:?}");
    }
    let elsewhere = peers::object_store(emulator.endpoint(), "nowhere", RetryConfig::default())?;
    assert!(elsewhere.list(None).try_collect::<Vec<_>>().await.is_err());
    let denied = BucketConfig { denied: ["storage.objects.get".to_owned()].into(), ..BucketConfig::default() };
    let closed = Emulator::builder().bucket_with("train", denied).start()?;
    let answer = self::store(&closed).get(&path).await.map(|_| ());
    assert!(matches!(answer, Err(Error::PermissionDenied { .. })), "{answer:?}");

    for fault in [Fault::Error, Fault::TooManyRequests, Fault::Reset] {
        emulator.fault_next(Call::GetMedia, fault, 1);
        assert_eq!(store.get(&path).await?.bytes().await?, content("a/1"), "{fault:?}");
        emulator.fault_next(Call::List, fault, 1);
        assert_eq!(store.list(None).try_collect::<Vec<_>>().await?.len(), 9, "{fault:?}");
    }
    emulator.fault_next(Call::GetMedia, Fault::Cut, 1);
    assert_eq!(store.get(&path).await?.bytes().await?, content("a/1"), "the rest is asked for, by the same ETag");
    Ok(())
}

fn operator(emulator: &Emulator) -> opendal::Operator {
    peers::opendal(emulator.endpoint(), "train").unwrap()
}

#[tokio::test]
async fn opendal_lists_folders_and_everything() -> Result<()> {
    let emulator = emulator();
    for number in 0..2_300 {
        emulator.put("train", &format!("many/{number:04}"), "x");
    }
    let operator = operator(&emulator);
    let mut sizes = wanted(&emulator);
    sizes.iter_mut().filter(|(name, _)| name.starts_with("many/")).for_each(|(_, size)| *size = 1);
    let all = operator.list_with("").recursive(true).await?;
    let got: BTreeMap<_, _> =
        all.iter().map(|entry| (entry.path().to_owned(), entry.metadata().content_length())).collect();
    assert_eq!((all.len(), &got), (sizes.len(), &sizes));
    assert!(emulator.stats().list >= 3);
    let paths = |entries: Vec<opendal::Entry>| entries.iter().map(|entry| entry.path().to_owned()).collect::<Vec<_>>();
    let mut root = paths(operator.list("").await?);
    root.sort();
    assert_eq!(root, ["a b.txt", "a-b", "a/", "b%2Fc+d", "many/", "z/"]);
    let mut folder = paths(operator.list("a/").await?);
    folder.sort();
    assert_eq!(folder, ["a/1", "a/2", "a/deep/"]);
    let small = paths(operator.list_with("many/").limit(700).await?);
    assert_eq!(small.len(), 2_300);
    let after = paths(operator.list_with("many/").recursive(true).start_after("many/2297").await?);
    assert_eq!(after, ["many/2298", "many/2299"]);
    Ok(())
}

#[tokio::test]
async fn opendal_looks_up_and_reads() -> Result<()> {
    let emulator = emulator();
    let operator = operator(&emulator);
    for name in NAMES {
        let all = content(name);
        let seen = operator.stat(name).await?;
        let listed = operator.list_with(name).recursive(true).await?;
        assert_eq!((seen.content_length(), seen.etag()), (all.len() as u64, listed[0].metadata().etag()), "{name}");
        assert_eq!(seen.last_modified(), listed[0].metadata().last_modified());
        assert_eq!(operator.read(name).await?.to_vec(), all, "{name}");
        assert_eq!(operator.read_with(name).range(7..20).await?.to_vec(), all[7..20], "{name}");
        assert_eq!(operator.read_with(name).range(100..).await?.to_vec(), all[100..], "{name}");
    }
    assert!(operator.read("z/empty").await?.is_empty());
    Ok(())
}

#[tokio::test]
async fn opendal_gets_the_conditions_that_it_sets() -> Result<()> {
    let emulator = emulator();
    let operator = operator(&emulator);
    let tag = operator.stat("a/1").await?.etag().unwrap().to_owned();
    let kind = |answer: opendal::Result<()>| answer.err().map(|error| error.kind());
    for (tag, same) in [(&*tag, true), ("another", false)] {
        let unwanted = same.then_some(ErrorKind::ConditionNotMatch);
        let missed = (!same).then_some(ErrorKind::ConditionNotMatch);
        assert_eq!(kind(operator.stat_with("a/1").if_none_match(tag).await.map(drop)), unwanted);
        assert_eq!(kind(operator.read_with("a/1").if_none_match(tag).await.map(drop)), unwanted);
        assert_eq!(kind(operator.stat_with("a/1").if_match(tag).await.map(drop)), missed);
        assert_eq!(kind(operator.read_with("a/1").if_match(tag).await.map(drop)), missed);
    }
    for answer in [operator.stat("gone").await.map(drop), operator.read("gone").await.map(drop)] {
        assert_eq!(kind(answer), Some(ErrorKind::NotFound));
    }
    Ok(())
}
