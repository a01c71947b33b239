//! Stores that pass most calls on to another store, and do something of their own with the others.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;
use dataflux::Result;
use dataflux::store::{
    Attempt, Body, BucketInfo, ByteRange, Capabilities, ComposeRequest, CopyProgress, CopyRequest, ListPage,
    ListRequest, ObjectId, ObjectMeta, PutRequest, Scheme, Store,
};

/// The calls of a [`Store`] that tests override; each one goes to `inner` by default.
#[async_trait]
pub trait Forward: fmt::Debug + Send + Sync + 'static {
    /// The store that calls are passed on to.
    fn inner(&self) -> &dyn Store;

    async fn list(&self, request: &ListRequest, attempt: &Attempt) -> Result<ListPage> {
        self.inner().list(request, attempt).await
    }
    async fn get(&self, id: &ObjectId, range: ByteRange, attempt: &Attempt) -> Result<Body> {
        self.inner().get(id, range, attempt).await
    }
    async fn compose(&self, request: &ComposeRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        self.inner().compose(request, attempt).await
    }
    async fn delete(&self, id: &ObjectId, attempt: &Attempt) -> Result<()> {
        self.inner().delete(id, attempt).await
    }
}

/// The store that a [`Forward`] makes.
#[derive(Debug)]
pub struct Forwarding<F>(pub F);

#[async_trait]
impl<F: Forward> Store for Forwarding<F> {
    fn scheme(&self) -> Scheme {
        self.0.inner().scheme()
    }
    fn endpoint(&self) -> Option<&str> {
        self.0.inner().endpoint()
    }
    fn capabilities(&self) -> Capabilities {
        self.0.inner().capabilities()
    }
    async fn list(&self, request: &ListRequest, attempt: &Attempt) -> Result<ListPage> {
        self.0.list(request, attempt).await
    }
    async fn get(&self, id: &ObjectId, range: ByteRange, attempt: &Attempt) -> Result<Body> {
        self.0.get(id, range, attempt).await
    }
    async fn compose(&self, request: &ComposeRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        self.0.compose(request, attempt).await
    }
    async fn delete(&self, id: &ObjectId, attempt: &Attempt) -> Result<()> {
        self.0.delete(id, attempt).await
    }
    async fn bucket_info(&self, bucket: &str, attempt: &Attempt) -> Result<BucketInfo> {
        self.0.inner().bucket_info(bucket, attempt).await
    }
    async fn test_permissions(&self, bucket: &str, permissions: &[&str], attempt: &Attempt) -> Result<Vec<String>> {
        self.0.inner().test_permissions(bucket, permissions, attempt).await
    }
    async fn stat(&self, id: &ObjectId, attempt: &Attempt) -> Result<ObjectMeta> {
        self.0.inner().stat(id, attempt).await
    }
    async fn put(&self, request: &PutRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        self.0.inner().put(request, attempt).await
    }
    async fn copy(&self, request: &CopyRequest, continuation: Option<&str>, attempt: &Attempt) -> Result<CopyProgress> {
        self.0.inner().copy(request, continuation, attempt).await
    }
    async fn update_metadata(
        &self,
        id: &ObjectId,
        metadata: &BTreeMap<String, String>,
        attempt: &Attempt,
    ) -> Result<ObjectMeta> {
        self.0.inner().update_metadata(id, metadata, attempt).await
    }
}
