//! Put, compose, delete.

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Result, ensure};
use dataflux::ErrorKind;
use dataflux::store::{ObjectMeta, StorageClass, Version, WriteMode};

use super::{Target, refused, telling};

pub(super) async fn put_tells_of_the_object(t: Target) -> Result<()> {
    let meta = t.put("o", "123456789").await?;
    ensure!(meta.name == t.name("o") && meta.size == 9 && !meta.version.is_none(), "{meta:?}");
    ensure!(meta.crc32c == t.crc32c(b"123456789"), "{meta:?}");
    let stat = t.client.stat(&t.id("o", &meta.version)).await?;
    ensure!((stat.size, &stat.version, stat.crc32c) == (9, &meta.version, meta.crc32c), "{stat:?}");
    Ok(())
}

pub(super) async fn names_of_all_kinds(t: Target) -> Result<()> {
    let long = "x".repeat(1024 - t.root.len());
    let mut names = vec![
        "plain.txt",
        "a b",
        "a+b",
        "100%",
        "%2F",
        "q?a=b&c#d",
        "ü/ß.txt",
        "日本語",
        "😀",
        "e\u{301}",
        "a//b",
        "/lead",
        "trail/",
        "../up",
        "./here",
        "a/../b",
        "quote\"'",
        "back\\slash",
        "[x]{y}*",
        "a=b;c,d",
        "tab\there",
        "$(x)`y`",
        "<x>",
        &long,
    ];
    for name in &names {
        let data = telling(name, 100);
        let meta = t.put(name, data.clone()).await?;
        ensure!(meta.name == t.name(name), "{name:?} is now {:?}", meta.name);
        ensure!(t.read(name).await? == data, "{name:?} has other bytes");
    }
    names.sort_unstable();
    let listed = t.names(t.list_request("")).await?;
    ensure!(listed == names, "{listed:?}");
    for name in &names {
        t.client.delete(&t.live(name)).await?;
    }
    ensure!(t.names(t.list_request("")).await?.is_empty());
    Ok(())
}

pub(super) async fn generations_grow(t: Target) -> Result<()> {
    let mut last = Version::None;
    for data in ["a", "b", "b"] {
        let version = t.put("o", data).await?.version;
        ensure!(version > last, "{version} after {last}");
        last = version;
    }
    t.client.delete(&t.id("o", &last)).await?;
    let version = t.put("o", "c").await?.version;
    ensure!(version > last, "{version} after the deleted {last}");
    Ok(())
}

pub(super) async fn put_if_absent(t: Target) -> Result<()> {
    let mut put = t.put_request("o", "first");
    put.mode = WriteMode::Create;
    t.client.put(&put).await?;
    put.data = "second".into();
    refused(t.client.put(&put).await, &[ErrorKind::Precondition], &t.name("o"))?;
    ensure!(t.read("o").await? == b"first");
    Ok(())
}

pub(super) async fn put_if_generation(t: Target) -> Result<()> {
    let first = t.put("o", "first").await?.version;
    let mut put = t.put_request("o", "second");
    put.mode = WriteMode::Update(first);
    t.client.put(&put).await?;
    put.data = "third".into();
    refused(t.client.put(&put).await, &[ErrorKind::Precondition], &t.name("o"))?;
    ensure!(t.read("o").await? == b"second");
    Ok(())
}

pub(super) async fn large_objects(t: Target) -> Result<()> {
    // Objects that are uploaded in pieces: whole ones, and a shorter last one.
    for len in [16 << 20, (16 << 20) + 12_345] {
        let data = telling("large", len);
        let mut put = t.put_request("large", data.clone());
        put.metadata.insert("k".into(), "v".into());
        let meta = t.client.put(&put).await?;
        ensure!(meta.size == len as u64 && meta.crc32c == t.crc32c(&data), "{meta:?}");
        ensure!(t.client.stat(&t.live("large")).await?.details.metadata == put.metadata, "metadata is lost");
        ensure!(t.read("large").await? == data, "other bytes");
    }
    Ok(())
}

pub(super) async fn copies_have_the_bytes_and_metadata_of_their_source(t: Target) -> Result<()> {
    let mut put = t.put_request("a/ü?", telling("copy", 1000));
    put.metadata.insert("label".into(), "chat \"noir\" ü".into());
    let source = t.client.put(&put).await?;
    let copy = t.client.copy(&t.copy_request("a/ü?", &source.version, "b c#d"), &source).await?;
    ensure!(copy.name == t.name("b c#d") && copy.version > source.version, "{copy:?}");
    ensure!((copy.size, copy.crc32c) == (source.size, source.crc32c), "{copy:?} of {source:?}");
    ensure!(t.read("b c#d").await? == put.data, "other bytes");
    let stat = t.client.stat(&t.id("b c#d", &copy.version)).await?;
    ensure!(stat.details.metadata == put.metadata, "{stat:?}");
    let stat = t.client.stat(&t.id("a/ü?", &source.version)).await?;
    ensure!(stat.version == source.version, "the source was changed: {stat:?}");
    Ok(())
}

pub(super) async fn copy_of_a_generation(t: Target) -> Result<()> {
    let old = t.put("o", "meow").await?;
    let new = t.put("o", "purr").await?;
    for named in [old.version.clone(), Version::None] {
        let request = t.copy_request("o", named, "copy");
        refused(t.client.copy(&request, &old).await, &[ErrorKind::NotFound], &t.name("o"))?;
        ensure!(!t.exists("copy").await?);
    }
    // A request that names one version and facts about another one.
    let request = t.copy_request("o", &old.version, "copy");
    refused(t.client.copy(&request, &new).await, &[ErrorKind::Config], &t.name("o"))?;
    t.client.copy(&t.copy_request("o", Version::None, "copy"), &new).await?;
    ensure!(t.read("copy").await? == b"purr");
    Ok(())
}

pub(super) async fn copy_if_absent(t: Target) -> Result<()> {
    let source = t.put("o", "meow").await?;
    let mut request = t.copy_request("o", &source.version, "copy");
    request.mode = WriteMode::Create;
    t.client.copy(&request, &source).await?;
    refused(t.client.copy(&request, &source).await, &[ErrorKind::Precondition], &t.name("copy"))?;
    Ok(())
}

pub(super) async fn copy_of_what_is_gone_is_refused(t: Target) -> Result<()> {
    let source = t.put("o", "meow").await?;
    t.client.delete(&t.id("o", &source.version)).await?;
    let answer = t.client.copy(&t.copy_request("o", Version::None, "copy"), &source).await;
    refused(answer, &[ErrorKind::NotFound], &t.name("o"))?;
    ensure!(!t.exists("copy").await?);
    Ok(())
}

pub(super) async fn metadata_and_class_are_kept(t: Target) -> Result<()> {
    let mut put = t.put_request("o", "meow");
    put.metadata.insert("label".into(), "chat \"noir\" ü".into());
    put.storage_class = Some(StorageClass::Nearline);
    t.client.put(&put).await?;
    let stat = t.client.stat(&t.live("o")).await?;
    ensure!(stat.details.metadata == put.metadata && stat.storage_class == StorageClass::Nearline, "{stat:?}");
    let page = t.client.list(&t.list_request("")).await?;
    ensure!(page.objects.iter().map(|object| object.storage_class).eq([StorageClass::Nearline]), "{page:?}");
    Ok(())
}

fn pairs<const N: usize>(pairs: [(&str, &str); N]) -> BTreeMap<String, String> {
    pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into()
}

pub(super) async fn metadata_is_updated_key_by_key(t: Target) -> Result<()> {
    let mut put = t.put_request("o", "meow");
    put.metadata = pairs([("colour", "red"), ("size", "1")]);
    let before = t.client.put(&put).await?;
    // Clocks of services count in milliseconds.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let id = t.id("o", &before.version);
    let meta = t.client.update_metadata(&id, &pairs([("size", "2"), ("quote", "\"ü\"")])).await?;
    let wanted = pairs([("colour", "red"), ("size", "2"), ("quote", "\"ü\"")]);
    let stat = t.client.stat(&id).await?;
    for meta in [meta, stat] {
        ensure!(meta.details.metadata == wanted, "{meta:?}");
        ensure!((&meta.version, meta.crc32c, meta.size) == (&before.version, before.crc32c, 4), "{meta:?}");
        ensure!(meta.updated > before.updated, "{meta:?} after {before:?}");
    }
    ensure!(t.read("o").await? == b"meow");
    Ok(())
}

pub(super) async fn update_of_what_is_gone_is_refused(t: Target) -> Result<()> {
    let old = t.put("o", "meow").await?;
    t.put("o", "purr").await?;
    let update = pairs([("k", "v")]);
    let answer = t.client.update_metadata(&t.id("o", &old.version), &update).await;
    refused(answer, &[ErrorKind::NotFound], &t.name("o"))?;
    ensure!(t.client.stat(&t.live("o")).await?.details.metadata.is_empty(), "another generation was updated");
    refused(t.client.update_metadata(&t.live("never"), &update).await, &[ErrorKind::NotFound], &t.name("never"))?;
    ensure!(!t.exists("never").await?, "an update made something");
    Ok(())
}

pub(super) async fn delete_a_generation(t: Target) -> Result<()> {
    let meta = t.put("o", "meow").await?;
    t.client.delete(&t.id("o", &meta.version)).await?;
    ensure!(!t.exists("o").await?);
    refused(t.client.delete(&t.id("o", &meta.version)).await, &[ErrorKind::NotFound], &t.name("o"))?;
    Ok(())
}

pub(super) async fn delete_the_live_one(t: Target) -> Result<()> {
    t.put("o", "meow").await?;
    t.put("o", "purr").await?;
    t.client.delete(&t.live("o")).await?;
    ensure!(!t.exists("o").await?);
    Ok(())
}

pub(super) async fn delete_of_another_generation_is_refused(t: Target) -> Result<()> {
    let old = t.put("o", "meow").await?;
    t.put("o", "purr").await?;
    refused(t.client.delete(&t.id("o", &old.version)).await, &[ErrorKind::NotFound], &t.name("o"))?;
    ensure!(t.read("o").await? == b"purr");
    Ok(())
}

/// `count` sources and their bytes together.
async fn sources(t: &Target, count: usize) -> Result<(Vec<ObjectMeta>, Vec<u8>)> {
    let (mut sources, mut whole) = (Vec::new(), Vec::new());
    for n in 0..count {
        let data = telling(&format!("source {n}"), 10 + n);
        whole.extend_from_slice(&data);
        sources.push(t.put(&format!("source-{n}"), data).await?);
    }
    Ok((sources, whole))
}

pub(super) async fn compose_joins_in_order(t: Target) -> Result<()> {
    let (sources, _) = sources(&t, 3).await?;
    let order = [&sources[2], &sources[0], &sources[1], &sources[0]];
    let mut data = Vec::new();
    for source in order {
        data.extend(
            t.client
                .read(
                    &dataflux::store::ObjectId::new(t.bucket.clone(), source.name.as_str(), &source.version),
                    None,
                    source.size,
                )
                .await?
                .bytes,
        );
    }
    let meta = t.client.compose(&t.compose_request("joined", &order, &data)).await?;
    ensure!(meta.name == t.name("joined") && meta.size == data.len() as u64, "{meta:?}");
    ensure!(meta.crc32c == t.crc32c(&data), "{meta:?}");
    let payload = t.client.read(&t.id("joined", &meta.version), None, meta.size).await?;
    ensure!(payload.bytes == data, "joined otherwise");
    Ok(())
}

pub(super) async fn compose_of_composites(t: Target) -> Result<()> {
    let (sources, data) = sources(&t, 2).await?;
    let once = t.client.compose(&t.compose_request("once", &[&sources[0], &sources[1]], &data)).await?;
    let data = [&data[..], &data[..]].concat();
    t.client.compose(&t.compose_request("twice", &[&once, &once], &data)).await?;
    ensure!(t.read("twice").await? == data);
    Ok(())
}

pub(super) async fn compose_of_32(t: Target) -> Result<()> {
    let (sources, data) = sources(&t, 32).await?;
    t.client.compose(&t.compose_request("joined", &sources.iter().collect::<Vec<_>>(), &data)).await?;
    ensure!(t.read("joined").await? == data);
    Ok(())
}

pub(super) async fn compose_of_33_is_refused(t: Target) -> Result<()> {
    let (sources, data) = sources(&t, 33).await?;
    let answer = t.compose_once(&t.compose_request("joined", &sources.iter().collect::<Vec<_>>(), &data)).await;
    refused(answer, &[ErrorKind::Protocol], &t.name("joined"))?;
    ensure!(!t.exists("joined").await?);
    Ok(())
}

pub(super) async fn compose_of_empty_objects(t: Target) -> Result<()> {
    let empty = t.put("empty", "").await?;
    let full = t.put("full", "meow").await?;
    t.client.compose(&t.compose_request("some", &[&empty, &full, &empty], b"meow")).await?;
    ensure!(t.read("some").await? == b"meow");
    let meta = t.client.compose(&t.compose_request("none", &[&empty, &empty], b"")).await?;
    ensure!(meta.size == 0, "{meta:?}");
    Ok(())
}

pub(super) async fn compose_keeps_metadata_and_custom_time(t: Target) -> Result<()> {
    let source = t.put("source", "meow").await?;
    let mut request = t.compose_request("joined", &[&source], b"meow");
    request.metadata.insert("run".into(), "17".into());
    request.custom_time = UNIX_EPOCH + Duration::from_millis(1_793_491_200_250);
    t.client.compose(&request).await?;
    let stat = t.client.stat(&t.live("joined")).await?;
    ensure!(
        stat.details.metadata == request.metadata && stat.details.custom_time == Some(request.custom_time),
        "{stat:?}"
    );
    Ok(())
}

pub(super) async fn compose_of_a_missing_source_is_refused(t: Target) -> Result<()> {
    let there = t.put("there", "meow").await?;
    let mut gone = t.put("gone", "purr").await?;
    t.client.delete(&t.live("gone")).await?;
    let answer = t.compose_once(&t.compose_request("joined", &[&there, &gone], b"meowpurr")).await;
    refused(answer, &[ErrorKind::NotFound], &t.root)?;
    gone.name = t.name("never");
    let answer = t.compose_once(&t.compose_request("joined", &[&gone], b"purr")).await;
    refused(answer, &[ErrorKind::NotFound], &t.root)?;
    ensure!(!t.exists("joined").await?);
    Ok(())
}

pub(super) async fn compose_of_another_generation_is_refused(t: Target) -> Result<()> {
    let old = t.put("source", "meow").await?;
    // The same bytes, so that only the generation differs.
    t.put("source", "meow").await?;
    let answer = t.compose_once(&t.compose_request("joined", &[&old], b"meow")).await;
    refused(answer, &[ErrorKind::NotFound, ErrorKind::Precondition], &t.root)?;
    ensure!(!t.exists("joined").await?);
    Ok(())
}

pub(super) async fn compose_of_another_crc_is_refused(t: Target) -> Result<()> {
    let source = t.put("source", "meow").await?;
    let answer = t.compose_once(&t.compose_request("joined", &[&source], b"purr")).await;
    refused(answer, &[ErrorKind::Integrity], &t.name("joined"))?;
    ensure!(!t.exists("joined").await?);
    Ok(())
}

pub(super) async fn compose_onto_something_is_refused(t: Target) -> Result<()> {
    let source = t.put("source", "meow").await?;
    t.put("joined", "mine").await?;
    let answer = t.compose_once(&t.compose_request("joined", &[&source], b"meow")).await;
    refused(answer, &[ErrorKind::Precondition], &t.name("joined"))?;
    ensure!(t.read("joined").await? == b"mine");
    Ok(())
}

pub(super) async fn compose_of_two_classes_is_refused(t: Target) -> Result<()> {
    let mut put = t.put_request("a", "meow");
    put.storage_class = Some(StorageClass::Standard);
    let a = t.client.put(&put).await?;
    put = t.put_request("b", "purr");
    put.storage_class = Some(StorageClass::Nearline);
    let b = t.client.put(&put).await?;
    let answer = t.compose_once(&t.compose_request("joined", &[&a, &b], b"meowpurr")).await;
    refused(answer, &[ErrorKind::Protocol], &t.name("joined"))?;
    let meta = t.client.compose(&t.compose_request("near", &[&b, &b], b"purrpurr")).await?;
    ensure!(meta.storage_class == StorageClass::Nearline, "{meta:?}");
    Ok(())
}

pub(super) async fn compose_leaves_the_sources(t: Target) -> Result<()> {
    let (sources, data) = sources(&t, 2).await?;
    t.client.compose(&t.compose_request("joined", &[&sources[0], &sources[1]], &data)).await?;
    for (n, source) in sources.iter().enumerate() {
        let stat = t.client.stat(&t.live(&format!("source-{n}"))).await?;
        ensure!(stat.version == source.version, "{stat:?}");
    }
    Ok(())
}
