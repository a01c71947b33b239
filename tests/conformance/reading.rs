//! Bytes and facts.

use anyhow::{Result, ensure};
use dataflux::ErrorKind;
use dataflux::store::{Attempt, ByteRange, ContentEncoding};
use futures_util::TryStreamExt;

use super::{MISSING_BUCKET, Target, refused, telling};

/// A gzip of "meow meow meow".
const GZIP: &[u8] = &[
    0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 0xff, 0xcb, 0x4d, 0xcd, 0x2f, 0x57, 0xc8, 0x45, 0x12, 0x00, 0x20, 0xf9, 0xdd,
    0x57, 14, 0, 0, 0,
];

pub(super) async fn whole_objects(t: Target) -> Result<()> {
    for len in [1, 1000, 300_000] {
        let data = telling("whole", len);
        let meta = t.put("o", data.clone()).await?;
        let payload = t.client.read(&t.id("o", &meta.version), None, len as u64).await?;
        ensure!(payload.bytes == data, "{len} bytes");
        ensure!(payload.version == meta.version, "{payload:?}");
    }
    Ok(())
}

pub(super) async fn ranges(t: Target) -> Result<()> {
    let data = telling("range", 5000);
    let meta = t.put("o", data.clone()).await?;
    for (start, end) in [(0, 5000), (0, 1), (1, 2), (4999, 5000), (1234, 4321), (2500, 5000)] {
        let payload = t.client.read(&t.id("o", &meta.version), Some(start..end), end - start).await?;
        ensure!(payload.bytes == data[start as usize..end as usize], "{start}..{end}");
        ensure!(payload.version == meta.version, "{payload:?}");
    }
    Ok(())
}

pub(super) async fn suffix_ranges(t: Target) -> Result<()> {
    let data = telling("suffix", 5000);
    let meta = t.put("o", data.clone()).await?;
    for length in [1, 2, 1234, 5000, 9999] {
        let id = t.id("o", &meta.version);
        let body = t.store.get(&id, ByteRange::Suffix(length), &Attempt::first()).await?;
        ensure!(body.stored_size.is_none_or(|size| size == 5000), "{body:?}");
        let bytes = body.chunks.try_collect::<Vec<_>>().await?.concat();
        ensure!(bytes == data[data.len().saturating_sub(length as usize)..], "the last {length} bytes");
    }
    Ok(())
}

pub(super) async fn a_suffix_of_an_empty_object_is_refused(t: Target) -> Result<()> {
    let meta = t.put("empty", "").await?;
    let answer = t.store.get(&t.id("empty", &meta.version), ByteRange::Suffix(1), &Attempt::first()).await;
    refused(answer, &[ErrorKind::Integrity], &t.name("empty"))?;
    Ok(())
}

pub(super) async fn a_range_beyond_the_end_is_refused(t: Target) -> Result<()> {
    let meta = t.put("o", "meow").await?;
    let beyond = t.store.get(&t.id("o", &meta.version), (4..8).into(), &Attempt::first()).await;
    refused(beyond, &[ErrorKind::Integrity], &t.name("o"))?;
    let across = t.client.read(&t.id("o", &meta.version), Some(2..8), 6).await;
    refused(across, &[ErrorKind::Integrity], &t.name("o"))?;
    Ok(())
}

pub(super) async fn empty_objects(t: Target) -> Result<()> {
    let meta = t.put("empty", "").await?;
    ensure!(meta.size == 0 && meta.crc32c.unwrap_or(0) == 0, "{meta:?}");
    let page = t.client.list(&t.list_request("")).await?;
    ensure!(page.objects.iter().map(|object| object.size).eq([0]), "{page:?}");
    let payload = t.client.read(&t.id("empty", &meta.version), None, 0).await?;
    ensure!(payload.bytes.is_empty() && payload.version == meta.version, "{payload:?}");
    Ok(())
}

pub(super) async fn missing_objects_are_not_found(t: Target) -> Result<()> {
    let id = t.live("missing");
    refused(t.client.stat(&id).await, &[ErrorKind::NotFound], &t.name("missing"))?;
    refused(t.client.read(&id, None, 1).await, &[ErrorKind::NotFound], &t.name("missing"))?;
    refused(t.client.delete(&id).await, &[ErrorKind::NotFound], &t.name("missing"))?;
    Ok(())
}

pub(super) async fn an_overwritten_generation_is_changed(t: Target) -> Result<()> {
    let old = t.put("o", "meow").await?;
    let new = t.put("o", "purr").await?;
    let error = refused(t.client.read(&t.id("o", &old.version), None, 4).await, &[ErrorKind::Changed], &t.name("o"))?;
    for version in [old.version.to_string(), new.version.to_string()] {
        ensure!(error.to_string().contains(&version), "{error}");
    }
    refused(t.client.stat(&t.id("o", &old.version)).await, &[ErrorKind::NotFound], &t.name("o"))?;
    ensure!(t.read("o").await? == b"purr");
    Ok(())
}

pub(super) async fn a_deleted_generation_is_changed(t: Target) -> Result<()> {
    let old = t.put("o", "meow").await?;
    t.client.delete(&t.id("o", &old.version)).await?;
    let error = refused(t.client.read(&t.id("o", &old.version), None, 4).await, &[ErrorKind::Changed], &t.name("o"))?;
    ensure!(error.to_string().contains("deleted"), "{error}");
    Ok(())
}

pub(super) async fn encoded_objects_come_as_stored(t: Target) -> Result<()> {
    let mut put = t.put_request("o.gz", GZIP);
    (put.content_encoding, put.content_type) = (Some("gzip".into()), Some("text/plain".into()));
    let meta = t.client.put(&put).await?;
    ensure!(meta.encoding == ContentEncoding::Gzip && meta.size == GZIP.len() as u64, "{meta:?}");
    let page = t.client.list(&t.list_request("")).await?;
    ensure!(page.objects.iter().map(|object| object.encoding).eq([ContentEncoding::Gzip]), "{page:?}");
    let payload = t.client.read(&t.id("o.gz", &meta.version), None, meta.size).await?;
    ensure!(payload.bytes == GZIP, "{payload:?}");
    Ok(())
}

pub(super) async fn ranges_of_encoded_objects_come_as_stored(t: Target) -> Result<()> {
    let mut put = t.put_request("o.gz", GZIP);
    put.content_encoding = Some("gzip".into());
    let meta = t.client.put(&put).await?;
    let payload = t.client.read(&t.id("o.gz", &meta.version), Some(3..9), 6).await?;
    ensure!(payload.bytes == GZIP[3..9], "{payload:?}");
    Ok(())
}

pub(super) async fn bodies_tell_of_the_whole_object(t: Target) -> Result<()> {
    let meta = t.put("o", "123456789").await?;
    for range in [None, Some(2..5)] {
        let size = range.clone().map_or(9, |range: std::ops::Range<u64>| range.end - range.start);
        let payload = t.client.read(&t.id("o", &meta.version), range, size).await?;
        ensure!(payload.stored_size == Some(9) && payload.crc32c == t.crc32c(b"123456789"), "{payload:?}");
    }
    Ok(())
}

pub(super) async fn bucket_facts(t: Target) -> Result<()> {
    // The reported facts depend on the backend; that the call succeeds does not.
    t.client.bucket_info(&t.bucket).await?;
    Ok(())
}

pub(super) async fn facts_of_a_missing_bucket(t: Target) -> Result<()> {
    let answer = t.client.bucket_info(MISSING_BUCKET).await;
    refused(answer, &[ErrorKind::NotFound], &t.missing_bucket())?;
    Ok(())
}

pub(super) async fn permissions_held(t: Target) -> Result<()> {
    let wanted = ["storage.objects.create", "storage.objects.delete"];
    let held = t.client.test_permissions(&t.bucket, &wanted).await?;
    ensure!(held == wanted, "{held:?}");
    Ok(())
}
