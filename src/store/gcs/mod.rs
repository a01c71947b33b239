//! Google Cloud Storage over its JSON API.

mod adc;
mod answer;
mod auth;
mod config;
mod connection;
mod copy;
mod dns;
mod grant;
mod http;
mod lenient;
mod media;
mod path;
mod upload;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use reqwest::{Method, header};

pub use auth::{Token, TokenSource};
pub use config::{Credentials, GcsConfig};

use super::uri::{BucketUri, ObjectUri, Scheme};
use super::{
    Attempt, Body, BucketInfo, ByteRange, Capabilities, ComposeRequest, CopyProgress, CopyRequest, Fields, ListPage,
    ListRequest, ObjectId, ObjectMeta, PutRequest, Store,
};
use crate::Result;
use http::{CREATE, DELETE, GET, Http, LIST, Permission, RequestTask, UPDATE};
use path::{OBJECT_FIELDS, bucket_path, encode, generation_query, object_path};

/// The fields of each object in a listing. More fields take longer to send and to parse.
const fn list_fields(fields: Fields) -> &'static str {
    match fields {
        Fields::Sample => "items(name,size,generation,crc32c,storageClass,contentEncoding),prefixes,nextPageToken",
        Fields::Times => {
            "items(name,size,generation,crc32c,storageClass,contentEncoding,updated),prefixes,nextPageToken"
        }
        Fields::All => {
            "items(name,size,generation,crc32c,storageClass,contentEncoding,updated,metadata,timeCreated,customTime),\
             prefixes,nextPageToken"
        }
    }
}

const BUCKET_FIELDS: &str = "location,locationType,storageClass,softDeletePolicy,retentionPolicy,\
     defaultEventBasedHold,hierarchicalNamespace";

/// Google Cloud Storage, or an emulator of it: one HTTP/1.1 request for each call.
///
/// Many HTTP/1.1 connections carry more than one HTTP/2 connection, which the service limits to about 250 MB/s.
///
/// ```
/// use dataflux::store::{GcsConfig, GcsStore};
///
/// // The first call is the first to use the network and to look for credentials.
/// let store = GcsStore::new(GcsConfig::new())?;
/// assert!(format!("{store:?}").contains("storage.googleapis.com"));
/// # Ok::<_, dataflux::Error>(())
/// ```
#[derive(Clone)]
pub struct GcsStore {
    http: Arc<Http>,
    config: GcsConfig,
}

impl fmt::Debug for GcsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcsStore").field("endpoint", &self.http.base()).finish_non_exhaustive()
    }
}

impl GcsStore {
    /// A store with this configuration. Makes no network call.
    ///
    /// # Errors
    /// When the endpoint is no URL, when a token would be sent to another machine without encryption, or when the
    /// certificates that the system trusts can't be read.
    pub fn new(config: GcsConfig) -> Result<Self> {
        Ok(Self { http: Arc::new(Http::new(&config)?), config })
    }
}

/// Parses a page of a listing. For `benches/list.rs`; not part of the API.
///
/// # Errors
/// As for listing.
#[doc(hidden)]
pub fn parse_page(text: &str) -> Result<ListPage> {
    wire::parse_page(text, false)
}

#[async_trait]
impl Store for GcsStore {
    fn reconnected(&self) -> Option<Result<Arc<dyn Store>>> {
        let http = self.http.reconnected(&self.config);
        Some(http.map(|http| Arc::new(Self { http: Arc::new(http), config: self.config.clone() }) as _))
    }

    fn endpoint(&self) -> Option<&str> {
        Some(self.http.base())
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::ALL
    }

    async fn bucket_info(&self, bucket: &str, attempt: &Attempt) -> Result<BucketInfo> {
        let path = format!("{}?prettyPrint=false&fields={BUCKET_FIELDS}", bucket_path(bucket)?);
        let permission = Permission { name: "storage.buckets.get", role: "roles/storage.legacyBucketReader" };
        let task = RequestTask { permission, about: &BucketUri { scheme: Scheme::Gs, bucket } };
        let text = self.http.json(self.http.query(Method::GET, &path), attempt, &task).await?;
        wire::parse_bucket(&text).map_err(|error| task.malformed(error))
    }

    async fn test_permissions(&self, bucket: &str, permissions: &[&str], attempt: &Attempt) -> Result<Vec<String>> {
        let mut path = format!("{}/iam/testPermissions?prettyPrint=false", bucket_path(bucket)?);
        for permission in permissions {
            path.push_str("&permissions=");
            path.extend(encode(permission));
        }
        let permission = Permission { name: "no permission", role: "any role on the bucket" };
        let task = RequestTask { permission, about: &BucketUri { scheme: Scheme::Gs, bucket } };
        let text = self.http.json(self.http.query(Method::GET, &path), attempt, &task).await?;
        wire::parse_permissions(&text).map_err(|error| task.malformed(error))
    }

    async fn list(&self, request: &ListRequest, attempt: &Attempt) -> Result<ListPage> {
        let (path, fields) = (bucket_path(&request.bucket)?, list_fields(request.fields));
        let mut path = format!("{path}/o?prettyPrint=false&fields={fields}");
        let mut add = |key: &str, value: &str| {
            path.push('&');
            path.push_str(key);
            path.push('=');
            path.extend(encode(value));
        };
        if !request.prefix.is_empty() {
            add("prefix", &request.prefix);
        }
        for (key, value) in [
            ("delimiter", &request.delimiter),
            ("startOffset", &request.start_offset),
            ("endOffset", &request.end_offset),
            ("pageToken", &request.page_token),
        ] {
            if let Some(value) = value {
                add(key, value);
            }
        }
        if let Some(size) = request.page_size {
            add("maxResults", &size.to_string());
        }

        let about = ObjectUri { scheme: Scheme::Gs, bucket: &request.bucket, name: &request.prefix };
        let task = RequestTask { permission: LIST, about: &about };
        let answer = self.http.send(self.http.query(Method::GET, &path), attempt, &task).await?;
        let date = answer::date(answer.response.headers());
        let text = http::text(answer).await.map_err(|error| error.object(&about))?;
        let page = wire::parse_page(&text, request.fields == Fields::All).map_err(|error| task.malformed(error))?;
        Ok(ListPage { date, ..page })
    }

    async fn stat(&self, id: &ObjectId, attempt: &Attempt) -> Result<ObjectMeta> {
        let path = object_path(&id.bucket, &id.name)?;
        let path = format!("{path}?prettyPrint=false&fields={OBJECT_FIELDS}{}", generation_query(id)?);
        let task = RequestTask { permission: GET, about: id };
        let text = self.http.json(self.http.query(Method::GET, &path), attempt, &task).await?;
        wire::parse_object(&text).map_err(|error| task.malformed(error))
    }

    async fn get(&self, id: &ObjectId, range: ByteRange, attempt: &Attempt) -> Result<Body> {
        media::get(&self.http, id, range, attempt).await
    }

    async fn put(&self, request: &PutRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        upload::put(&self.http, request, attempt).await
    }

    async fn copy(&self, request: &CopyRequest, continuation: Option<&str>, attempt: &Attempt) -> Result<CopyProgress> {
        copy::copy(&self.http, request, continuation, attempt).await
    }

    async fn delete(&self, id: &ObjectId, attempt: &Attempt) -> Result<()> {
        let path = format!("{}?prettyPrint=false{}", object_path(&id.bucket, &id.name)?, generation_query(id)?);
        let task = RequestTask { permission: DELETE, about: id };
        let answer = self.http.send(self.http.mutation(Method::DELETE, &path, attempt), attempt, &task).await?;
        // The answer is read to its end so that the connection can be reused. The object is deleted in any case.
        let _ = http::text(answer).await;
        Ok(())
    }

    async fn compose(&self, request: &ComposeRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        let path = object_path(&request.bucket, &request.destination)?;
        let path = format!("{path}/compose?prettyPrint=false&ifGenerationMatch=0&fields={OBJECT_FIELDS}");
        let id = ObjectId::live(request.bucket.clone(), request.destination.clone());
        let permission = Permission { name: "storage.objects.create and storage.objects.get", ..CREATE };
        let task = RequestTask { permission, about: &id };
        let request = self.http.mutation(Method::POST, &path, attempt).body(wire::compose_body(request)?);
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let text = self.http.json(request, attempt, &task).await?;
        wire::parse_object(&text).map_err(|error| task.malformed(error))
    }

    async fn update_metadata(
        &self,
        id: &ObjectId,
        metadata: &BTreeMap<String, String>,
        attempt: &Attempt,
    ) -> Result<ObjectMeta> {
        let path = object_path(&id.bucket, &id.name)?;
        let path = format!("{path}?prettyPrint=false&fields={OBJECT_FIELDS}{}", generation_query(id)?);
        let task = RequestTask { permission: UPDATE, about: id };
        let request = self.http.mutation(Method::PATCH, &path, attempt).body(wire::metadata_body(metadata));
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let text = self.http.json(request, attempt, &task).await?;
        wire::parse_object(&text).map_err(|error| task.malformed(error))
    }
}
