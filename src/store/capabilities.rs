//! What a store can do besides the operations that every store has.

use crate::{Error, ErrorKind};

/// What a [`Store`](super::Store) can do besides listing, looking up, reading, writing, copying and deleting objects.
///
/// A caller never infers a capability from the name of a store. It asks for it, or makes the call and is ready for the
/// error [`Unsupported`](crate::ErrorKind::Unsupported). A new store starts from `Capabilities::default()`, which has
/// none.
///
/// ```
/// use std::sync::Arc;
/// use dataflux::store::{Client, MemoryStore};
///
/// assert!(Client::new(Arc::new(MemoryStore::new())).capabilities().compose);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent fact about a store")]
#[non_exhaustive]
pub struct Capabilities {
    /// Each write gives the object a new [`Version`](super::Version). A call that names a version gets that one or
    /// fails.
    pub versions: bool,
    /// The store computes a CRC32C of each object, reports it in listings and look-ups, and refuses a write whose CRC
    /// differs.
    pub checksums: bool,
    /// [`compose`](super::Store::compose) joins objects without moving their bytes through the client.
    pub compose: bool,
    /// Writes and copies honour their [`WriteMode`](super::WriteMode).
    pub conditional_writes: bool,
    /// [`update_metadata`](super::Store::update_metadata) changes metadata and leaves the bytes and the version.
    pub metadata_updates: bool,
    /// [`test_permissions`](super::Store::test_permissions) reports what the caller may do.
    pub permissions: bool,
}

impl Capabilities {
    /// All capabilities, as Google Cloud Storage has them.
    pub(super) const ALL: Self = Self {
        versions: true,
        checksums: true,
        compose: true,
        conditional_writes: true,
        metadata_updates: true,
        permissions: true,
    };
}

/// The error of an operation that the store at `endpoint` doesn't have; `instead` says what the caller can do.
pub(super) fn unsupported(endpoint: Option<&str>, operation: &str, instead: &str) -> Error {
    let store = endpoint.unwrap_or("this store");
    Error::new(ErrorKind::Unsupported, format!("{store} can't {operation}")).hint(instead)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::store::{Client, ComposeRequest, MemoryStore, ObjectId, PutRequest, WriteMode};

    #[tokio::test]
    async fn what_a_store_lacks_is_an_error_that_says_what_to_do() {
        let client =
            Client::new(Arc::new(MemoryStore::new().with_bucket("cats").with_capabilities(Capabilities::default())));
        let mut put = PutRequest::new("cats", "tom", "meow");
        let source = client.put(&put).await.unwrap();
        let id = ObjectId::new("cats", "tom", source.version.clone());
        put.mode = WriteMode::Create;
        let sources = vec![("tom".into(), source.version)];
        let compose = ComposeRequest::new("cats".into(), "both".into(), sources, 4, 0, SystemTime::now());
        for (error, operation) in [
            (client.compose(&compose).await.unwrap_err(), "compose objects"),
            (client.update_metadata(&id, &BTreeMap::new()).await.unwrap_err(), "update metadata"),
            (client.test_permissions("cats", &["read"]).await.unwrap_err(), "report permissions"),
            (client.put(&put).await.unwrap_err(), "write on a condition"),
        ] {
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
            assert!(error.to_string().contains(operation) && error.what_to_do().is_some(), "{error}");
        }
        assert_eq!(client.metrics().snapshot().compose, 0, "no call was made");
        assert_eq!(&client.read(&id, None, 4).await.unwrap().bytes[..], b"meow");
    }
}
