//! Reading the bytes of an object, or of a range of it.

use std::ops::Range;

use bytes::Bytes;
use futures_util::{Stream, StreamExt, TryStreamExt, future};
use reqwest::{Method, StatusCode, header};

use super::http::{GET, Http, HttpAnswer, RequestTask};
use super::path::{generation_query, object_path};
use super::{answer, connection};
use crate::store::{Attempt, Body, ByteRange, ObjectId, Version};
use crate::{Error, ErrorKind, Result};

/// Requests an object, or a range of it, and returns its body once the head of the answer has arrived.
pub(super) async fn get(http: &Http, id: &ObjectId, range: ByteRange, attempt: &Attempt) -> Result<Body> {
    let path = format!("{}?alt=media{}", object_path(&id.bucket, &id.name)?, generation_query(id)?);
    let task = RequestTask { permission: GET, about: id };
    // Without this header the service decompresses gzip-encoded objects, and lengths, ranges and hashes are
    // meaningless.
    let mut request = http.query(Method::GET, &path).header(header::ACCEPT_ENCODING, "gzip");
    if let Some(value) = range_header(&range).map_err(|error| error.object(id))? {
        request = request.header(header::RANGE, value);
    }

    let HttpAnswer { response, permit } = http.send(request, attempt, &task).await?;
    let is_partial = response.status() == StatusCode::PARTIAL_CONTENT;
    let head = answer::media_head(response.headers(), is_partial).map_err(|error| error.object(id))?;
    let version = head.generation.map_or(Version::None, Version::from).or(id.version.clone());
    if version.is_none() {
        return Err(task.malformed(Error::new(ErrorKind::Protocol, "the answer names no generation")));
    }
    let Some(expected) = resolve(&range, head.stored_size) else {
        return Err(task.malformed(Error::new(ErrorKind::Protocol, "the answer doesn't name the object's length")));
    };

    let owner = id.clone();
    let chunks = response.bytes_stream().map_err(move |error| {
        // The permit lives as long as the body.
        let _ = &permit;
        connection::broken(error).object(&owner)
    });
    let chunks = match head.start {
        Some(start) if start != expected.start => {
            return Err(Error::new(ErrorKind::Protocol, "the answer is another range than was asked for")
                .object(id)
                .mismatch(format!("bytes from {}", expected.start), format!("bytes from {start}")));
        }
        // The server ignored the range.
        None if range != ByteRange::All => window(chunks, expected).boxed(),
        _ => chunks.boxed(),
    };
    Ok(Body { version, stored_size: head.stored_size, crc32c: head.crc32c, chunks })
}

/// The `Range` header of a request; `None` if all bytes are wanted.
fn range_header(range: &ByteRange) -> Result<Option<String>> {
    match range {
        ByteRange::All => Ok(None),
        ByteRange::Bounded(Range { start, end }) if start < end => Ok(Some(format!("bytes={start}-{}", end - 1))),
        ByteRange::Suffix(length) if *length > 0 => Ok(Some(format!("bytes=-{length}"))),
        ByteRange::Bounded(_) | ByteRange::Suffix(_) => Err(Error::new(ErrorKind::Config, "an empty range")),
    }
}

/// Start and end of a range in an object of `size` bytes; `None` if that takes the size and it is unknown.
fn resolve(range: &ByteRange, size: Option<u64>) -> Option<Range<u64>> {
    match range {
        ByteRange::All => Some(0..u64::MAX),
        ByteRange::Bounded(range) => Some(range.clone()),
        ByteRange::Suffix(length) => size.map(|size| size.saturating_sub(*length)..size),
    }
}

/// Cuts the bytes of `range` out of a body that begins at the object's first byte.
fn window<S>(chunks: S, range: Range<u64>) -> impl Stream<Item = Result<Bytes>> + Send + 'static
where
    S: Stream<Item = Result<Bytes>> + Send + 'static,
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
    use futures_util::stream;

    use super::*;

    #[tokio::test]
    async fn a_window_is_cut_wherever_chunks_end() {
        for chunk in 1..=10 {
            let whole: Vec<u8> = (0..10).collect();
            let chunks: Vec<_> = whole.chunks(chunk).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
            let cut: Vec<Bytes> = window(stream::iter(chunks), 3..7).try_collect().await.unwrap();
            assert_eq!(cut.concat(), [3, 4, 5, 6], "chunks of {chunk}");
        }
    }

    #[test]
    fn ranges_become_headers() {
        let header = |range| range_header(&range).unwrap();
        assert_eq!(header(ByteRange::All), None);
        assert_eq!(header(ByteRange::Bounded(5..9)).as_deref(), Some("bytes=5-8"));
        assert_eq!(header(ByteRange::Suffix(3)).as_deref(), Some("bytes=-3"));
        for empty in [ByteRange::Bounded(5..5), ByteRange::Suffix(0)] {
            assert_eq!(range_header(&empty).unwrap_err().kind(), ErrorKind::Config);
        }
        assert_eq!(resolve(&ByteRange::Suffix(3), Some(10)), Some(7..10));
        assert_eq!(resolve(&ByteRange::Suffix(30), Some(10)), Some(0..10));
        assert_eq!(resolve(&ByteRange::Suffix(3), None), None);
    }
}
