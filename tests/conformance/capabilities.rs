//! What a store declares that it can do.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use dataflux::ErrorKind;
use dataflux::store::{Attempt, WriteMode};

use super::{Target, refused};

pub(super) async fn capabilities_do_not_change(t: Target) -> Result<()> {
    let first = t.store.capabilities();
    t.put("o", "meow").await?;
    ensure!(t.store.capabilities() == first && t.client.capabilities() == first, "{first:?}");
    Ok(())
}

pub(super) async fn writes_have_versions_and_checksums_as_declared(t: Target) -> Result<()> {
    let (first, second) = (t.put("o", "meow").await?, t.put("o", "meow").await?);
    let capabilities = t.store.capabilities();
    if capabilities.versions {
        ensure!(first.version != second.version, "{first:?} and {second:?}");
        let stale = t.store.stat(&t.id("o", &first.version), &Attempt::first()).await;
        refused(stale, &[ErrorKind::NotFound], &t.name("o"))?;
    }
    if capabilities.checksums {
        ensure!(second.crc32c == Some(crc32c::crc32c(b"meow")), "{second:?}");
    }
    Ok(())
}

/// Both the store and the client must say that they can't, and name the store and what to do.
pub(super) async fn operations_that_are_not_declared_are_unsupported(t: Target) -> Result<()> {
    let (capabilities, attempt) = (t.store.capabilities(), Attempt::first());
    let source = t.put("o", "meow").await?;
    let unsupported = |error: dataflux::Error| {
        ensure!(error.kind() == ErrorKind::Unsupported && error.what_to_do().is_some(), "{error}");
        Ok(())
    };
    if !capabilities.compose {
        let request = t.compose_request("joined", &[&source], b"meow");
        unsupported(t.store.compose(&request, &attempt).await.unwrap_err())?;
        unsupported(t.client.compose(&request).await.unwrap_err())?;
    }
    if !capabilities.metadata_updates {
        let (id, pairs) = (t.live("o"), BTreeMap::new());
        unsupported(t.store.update_metadata(&id, &pairs, &attempt).await.unwrap_err())?;
        unsupported(t.client.update_metadata(&id, &pairs).await.unwrap_err())?;
    }
    if !capabilities.permissions {
        unsupported(t.store.test_permissions(&t.bucket, &[], &attempt).await.unwrap_err())?;
        unsupported(t.client.test_permissions(&t.bucket, &[]).await.unwrap_err())?;
    }
    if !capabilities.conditional_writes {
        let mut put = t.put_request("o", "purr");
        put.mode = WriteMode::Create;
        unsupported(t.client.put(&put).await.unwrap_err())?;
    }
    Ok(())
}
