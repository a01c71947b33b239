//! Calls that ask for facts and change nothing.

use std::sync::Arc;

use super::Client;
use super::call::ClientCall;
use crate::metrics::count;
use crate::observe::{Event, EventKind};
use crate::store::{BucketInfo, BucketUri, ListPage, ListRequest, ObjectId, ObjectMeta};
use crate::{ErrorKind, Result};

impl Client {
    /// One page of a listing.
    ///
    /// # Errors
    /// When the bucket doesn't exist or the caller may not list it, or when the policy gives up.
    pub async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let bucket = self.bucket_uri(&request.bucket);
        let mut call = ClientCall::new(self, &request.bucket, true, 0).with_refusal_counter(&self.metrics.list_refused);
        let outcome = loop {
            count(&self.metrics.list);
            let error = match call.within(self.store.list(request, &call.attempt)).await {
                Ok(page) => break Ok(page),
                Err(error) => error,
            };
            // A server that ignores page sizes may need longer for all its objects.
            if error.kind() == ErrorKind::Timeout {
                call.wait_longer();
            }
            if let Err(error) = call.recover(error, &bucket).await {
                break Err(error);
            }
        };
        let page = call.finish(outcome)?;
        if page.objects.is_empty() && page.prefixes.is_empty() {
            count(&self.metrics.empty_list);
        }
        self.events.send(EventKind::PageListed, || Event::PageListed {
            bucket: Arc::clone(&request.bucket),
            objects: page.objects.len() as u64,
            took: call.started.elapsed(),
        });
        Ok(page)
    }

    /// Facts about the bucket; all of them are unknown if the caller may not see them.
    ///
    /// # Errors
    /// When the bucket doesn't exist, or the policy gives up.
    pub async fn bucket_info(&self, bucket: &str) -> Result<BucketInfo> {
        let attempt = |attempt| async move { self.store.bucket_info(bucket, &attempt).await };
        let uri = self.bucket_uri(bucket);
        let info = ClientCall::new(self, &bucket.into(), true, 0).run(&uri, &self.metrics.bucket, attempt).await;
        match info {
            Err(error) if error.kind() == ErrorKind::PermissionDenied => Ok(BucketInfo::default()),
            info => info,
        }
    }

    /// Which of `permissions`, such as `storage.objects.create`, the caller holds on the bucket.
    ///
    /// # Errors
    /// When the bucket doesn't exist, the store has no [permissions](super::Capabilities::permissions), or the policy
    /// gives up. Some emulators answer every such call with "not found".
    pub async fn test_permissions(&self, bucket: &str, permissions: &[&str]) -> Result<Vec<String>> {
        let attempt = |attempt| async move { self.store.test_permissions(bucket, permissions, &attempt).await };
        let uri = self.bucket_uri(bucket);
        ClientCall::new(self, &bucket.into(), true, 0).run(&uri, &self.metrics.bucket, attempt).await
    }

    /// The facts about one object.
    ///
    /// # Errors
    /// When the object, or the named version, doesn't exist, or the policy gives up.
    pub async fn stat(&self, id: &ObjectId) -> Result<ObjectMeta> {
        let attempt = |attempt| async move { self.store.stat(id, &attempt).await };
        ClientCall::new(self, &id.name, true, 0).run(id, &self.metrics.stat, attempt).await
    }

    fn bucket_uri<'a>(&self, bucket: &'a str) -> BucketUri<'a> {
        BucketUri { scheme: self.scheme(), bucket }
    }
}
