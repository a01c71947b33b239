//! Google Cloud Storage over its JSON API.

mod adc;
mod answer;
mod auth;
mod config;
mod connection;
mod dns;
mod grant;
mod http;
mod upload;
mod wire;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, future};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, PercentEncode, utf8_percent_encode};
use reqwest::{Method, StatusCode, header};

pub use auth::{Token, TokenSource};
pub use config::{Credentials, GcsConfig};

use super::{
    Attempt, Body, BucketInfo, ComposeRequest, Fields, ListPage, ListRequest, ObjectId, ObjectMeta, PutRequest, Store,
};
use crate::{Error, ErrorKind, Result};
use http::{Http, HttpAnswer, RequestTask};

/// What stays itself in a path segment or a query value; `/` does not.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// What a listing tells of each object; more fields cost time to send and to parse.
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

const OBJECT_FIELDS: &str =
    "name,size,generation,crc32c,storageClass,contentEncoding,updated,metadata,timeCreated,customTime";
const BUCKET_FIELDS: &str = "location,locationType,storageClass,softDeletePolicy,retentionPolicy,\
     defaultEventBasedHold,hierarchicalNamespace";

/// Google Cloud Storage, or an emulator of it: one HTTP/1.1 request for each call.
///
/// Many connections of HTTP/1.1 carry more than one of HTTP/2, which the service caps near 250 MB/s.
///
/// ```
/// use dataflux::store::{GcsConfig, GcsStore};
///
/// // No network call is made, and no credential looked for, before the first call.
/// let store = GcsStore::new(GcsConfig::new())?;
/// assert!(format!("{store:?}").contains("storage.googleapis.com"));
/// # Ok::<_, dataflux::Error>(())
/// ```
#[derive(Clone)]
pub struct GcsStore {
    http: std::sync::Arc<Http>,
    config: GcsConfig,
}

impl fmt::Debug for GcsStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GcsStore").field("endpoint", &self.http.base()).finish_non_exhaustive()
    }
}

impl GcsStore {
    /// A store as configured. Makes no network call.
    ///
    /// # Errors
    /// When the endpoint is no URL, when a token would go over an unencrypted line that leaves this machine, or when
    /// the certificates that the system trusts can't be read.
    pub fn new(config: GcsConfig) -> Result<Self> {
        Ok(Self { http: std::sync::Arc::new(Http::new(&config)?), config })
    }
}

/// Reads a page of a listing. For `benches/list.rs`, and no part of the API.
///
/// # Errors
/// As for listing.
#[doc(hidden)]
pub fn parse_page(text: &str) -> Result<ListPage> {
    wire::page(text, false)
}

fn encoded(text: &str) -> PercentEncode<'_> {
    utf8_percent_encode(text, ENCODED)
}

/// `/b/{bucket}`
fn bucket_path(bucket: &str) -> Result<String> {
    if bucket.is_empty() || bucket == "." || bucket == ".." {
        return Err(Error::new(ErrorKind::Config, "no bucket has this name")
            .object(format!("gs://{bucket}"))
            .hint("give it as gs://bucket/prefix"));
    }
    Ok(format!("/b/{}", encoded(bucket)))
}

/// `/b/{bucket}/o/{name}`
fn object_path(bucket: &str, name: &str) -> Result<String> {
    let path = bucket_path(bucket)?;
    check_name(bucket, name)?;
    Ok(format!("{path}/o/{}", encoded(name)))
}

/// Refuses what no object is called; `.` and `..` would change the path that is asked for.
fn check_name(bucket: &str, name: &str) -> Result<()> {
    if name.is_empty() || name.len() > 1024 || name.contains(['\r', '\n']) || name == "." || name == ".." {
        return Err(Error::new(ErrorKind::Config, "no object can have this name")
            .object(format!("gs://{bucket}/{}", name.escape_debug()))
            .mismatch("1 to 1,024 bytes without CR or LF, not `.` or `..`", format!("{} bytes", name.len())));
    }
    Ok(())
}

fn generation_query(id: &ObjectId) -> String {
    id.generation.map(|generation| format!("&generation={generation}")).unwrap_or_default()
}

#[async_trait]
impl Store for GcsStore {
    fn reconnected(&self) -> Option<Result<std::sync::Arc<dyn Store>>> {
        let http = self.http.reconnected(&self.config);
        Some(http.map(|http| {
            std::sync::Arc::new(Self { http: std::sync::Arc::new(http), config: self.config.clone() }) as _
        }))
    }

    fn endpoint(&self) -> Option<&str> {
        Some(self.http.base())
    }

    async fn bucket_info(&self, bucket: &str, attempt: &Attempt) -> Result<BucketInfo> {
        let path = format!("{}?prettyPrint=false&fields={BUCKET_FIELDS}", bucket_path(bucket)?);
        let about = format!("gs://{bucket}");
        let task =
            RequestTask { needs: "storage.buckets.get", role: "roles/storage.legacyBucketReader", about: &about };
        let text = self.http.json(self.http.ask(Method::GET, &path), attempt, &task).await?;
        wire::bucket(&text).map_err(|error| task.nonsense(error))
    }

    async fn test_permissions(&self, bucket: &str, permissions: &[&str], attempt: &Attempt) -> Result<Vec<String>> {
        let mut path = format!("{}/iam/testPermissions?prettyPrint=false", bucket_path(bucket)?);
        for permission in permissions {
            path.push_str("&permissions=");
            path.extend(encoded(permission));
        }
        let about = format!("gs://{bucket}");
        let task = RequestTask { needs: "no permission", role: "any role on the bucket", about: &about };
        let text = self.http.json(self.http.ask(Method::GET, &path), attempt, &task).await?;
        wire::permissions(&text).map_err(|error| task.nonsense(error))
    }

    async fn list(&self, request: &ListRequest, attempt: &Attempt) -> Result<ListPage> {
        let (path, fields) = (bucket_path(&request.bucket)?, list_fields(request.fields));
        let mut path = format!("{path}/o?prettyPrint=false&fields={fields}");
        let mut add = |key: &str, value: &str| {
            path.push('&');
            path.push_str(key);
            path.push('=');
            path.extend(encoded(value));
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
        let about = format!("gs://{}/{}", request.bucket, request.prefix);
        let task = RequestTask { needs: "storage.objects.list", role: "roles/storage.objectViewer", about: &about };
        let answer = self.http.send(self.http.ask(Method::GET, &path), attempt, &task).await?;
        let date = answer::date(answer.response.headers());
        let text = http::text(answer).await.map_err(|error| error.object(&about))?;
        let page = wire::page(&text, request.fields == Fields::All).map_err(|error| task.nonsense(error))?;
        Ok(ListPage { date, ..page })
    }

    async fn stat(&self, id: &ObjectId, attempt: &Attempt) -> Result<ObjectMeta> {
        let path = format!(
            "{}?prettyPrint=false&fields={OBJECT_FIELDS}{}",
            object_path(&id.bucket, &id.name)?,
            generation_query(id)
        );
        let task = RequestTask { needs: "storage.objects.get", role: "roles/storage.objectViewer", about: id };
        let text = self.http.json(self.http.ask(Method::GET, &path), attempt, &task).await?;
        wire::object(&text).map_err(|error| task.nonsense(error))
    }

    async fn get(&self, id: &ObjectId, range: Option<Range<u64>>, attempt: &Attempt) -> Result<Body> {
        let path = format!("{}?alt=media{}", object_path(&id.bucket, &id.name)?, generation_query(id));
        let task = RequestTask { needs: "storage.objects.get", role: "roles/storage.objectViewer", about: id };
        // Without it the service decompresses gzip-encoded objects, and lengths, ranges and hashes mean nothing.
        let mut ask = self.http.ask(Method::GET, &path).header(header::ACCEPT_ENCODING, "gzip");
        if let Some(Range { start, end }) = &range {
            if start >= end {
                return Err(Error::new(ErrorKind::Config, "an empty range").object(id));
            }
            ask = ask.header(header::RANGE, format!("bytes={start}-{}", end - 1));
        }
        let HttpAnswer { response, permit } = self.http.send(ask, attempt, &task).await?;
        let part = response.status() == StatusCode::PARTIAL_CONTENT;
        let head = answer::media_head(response.headers(), part).map_err(|error| error.object(id))?;
        let Some(generation) = head.generation.or(id.generation) else {
            return Err(task.nonsense(Error::new(ErrorKind::Protocol, "the answer names no generation")));
        };
        let owner = id.clone();
        let chunks = response.bytes_stream().map_err(move |error| {
            // The permit lives as long as the body.
            let _ = &permit;
            connection::broken(error).object(&owner)
        });
        let chunks = match (range, head.start) {
            (range, Some(start)) if start != range.as_ref().map_or(0, |range| range.start) => {
                let wanted = range.map_or(0, |range| range.start);
                return Err(Error::new(ErrorKind::Protocol, "the answer is another range than was asked for")
                    .object(id)
                    .mismatch(format!("bytes from {wanted}"), format!("bytes from {start}")));
            }
            // The server took no notice of the range.
            (Some(range), None) => window(chunks, range).boxed(),
            _ => chunks.boxed(),
        };
        Ok(Body { generation, stored_size: head.stored_size, crc32c: head.crc32c, chunks })
    }

    async fn compose(&self, request: &ComposeRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        let path = format!(
            "{}/compose?prettyPrint=false&ifGenerationMatch=0&fields={OBJECT_FIELDS}",
            object_path(&request.bucket, &request.destination)?
        );
        let id = ObjectId::new(request.bucket.clone(), request.destination.clone(), None);
        let task = RequestTask {
            needs: "storage.objects.create and storage.objects.get",
            role: "roles/storage.objectUser",
            about: &id,
        };
        let ask = self.http.mutate(Method::POST, &path, attempt);
        let ask = ask.header(header::CONTENT_TYPE, "application/json").body(wire::compose(request));
        let text = self.http.json(ask, attempt, &task).await?;
        wire::object(&text).map_err(|error| task.nonsense(error))
    }

    async fn put(&self, request: &PutRequest, attempt: &Attempt) -> Result<ObjectMeta> {
        upload::put(&self.http, request, attempt).await
    }

    async fn update_metadata(
        &self,
        id: &ObjectId,
        metadata: &BTreeMap<String, String>,
        attempt: &Attempt,
    ) -> Result<ObjectMeta> {
        let path = format!(
            "{}?prettyPrint=false&fields={OBJECT_FIELDS}{}",
            object_path(&id.bucket, &id.name)?,
            generation_query(id)
        );
        let task = RequestTask { needs: "storage.objects.update", role: "roles/storage.objectUser", about: id };
        let ask = self.http.mutate(Method::PATCH, &path, attempt);
        let ask = ask.header(header::CONTENT_TYPE, "application/json").body(wire::metadata(metadata));
        let text = self.http.json(ask, attempt, &task).await?;
        wire::object(&text).map_err(|error| task.nonsense(error))
    }

    async fn delete(&self, id: &ObjectId, attempt: &Attempt) -> Result<()> {
        let path = format!("{}?prettyPrint=false{}", object_path(&id.bucket, &id.name)?, generation_query(id));
        let task = RequestTask { needs: "storage.objects.delete", role: "roles/storage.objectUser", about: id };
        let answer = self.http.send(self.http.mutate(Method::DELETE, &path, attempt), attempt, &task).await?;
        // Read to its end, so that the connection can be used again; the deletion is done in any case.
        let _ = http::text(answer).await;
        Ok(())
    }
}

/// The bytes of `range`, of a body that begins at the object's first byte.
fn window<S>(chunks: S, range: Range<u64>) -> impl futures_util::Stream<Item = Result<bytes::Bytes>> + Send + 'static
where
    S: futures_util::Stream<Item = Result<bytes::Bytes>> + Send + 'static,
{
    let clamp = |n: u64, most: usize| usize::try_from(n).map_or(most, |n| n.min(most));
    chunks.scan((range.start, range.end - range.start), move |(skip, left), chunk| {
        future::ready(match chunk {
            Ok(_) if *left == 0 => None,
            Ok(mut chunk) => {
                let skipped = clamp(*skip, chunk.len());
                *skip -= skipped as u64;
                let _ = chunk.split_to(skipped);
                chunk.truncate(clamp(*left, chunk.len()));
                *left -= chunk.len() as u64;
                Some(Ok(chunk))
            }
            Err(error) => Some(Err(error)),
        })
    })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::stream;

    use super::*;

    #[test]
    fn names_are_one_segment() {
        let path = object_path("b", "a/../b c/ü?#%2F").unwrap();
        assert_eq!(path, "/b/b/o/a%2F..%2Fb%20c%2F%C3%BC%3F%23%252F");
        for name in ["", ".", "..", "a\nb", &"x".repeat(1025)] {
            assert_eq!(object_path("b", name).unwrap_err().kind(), ErrorKind::Config, "{name:?}");
        }
        assert_eq!(bucket_path("").unwrap_err().kind(), ErrorKind::Config);
    }

    #[tokio::test]
    async fn a_window_is_cut_wherever_chunks_end() {
        for chunk in 1..=10 {
            let whole: Vec<u8> = (0..10).collect();
            let chunks: Vec<_> = whole.chunks(chunk).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            let cut: Vec<Bytes> = window(stream::iter(chunks), 3..7).try_collect().await.unwrap();
            assert_eq!(cut.concat(), [3, 4, 5, 6], "chunks of {chunk}");
        }
    }
}
