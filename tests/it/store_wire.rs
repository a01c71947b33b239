//! The bytes on the wire, against a server that answers by script.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use dataflux::ErrorKind;
use dataflux::store::{
    Attempt, BucketInfo, Client, ComposeRequest, CopyRequest, Credentials, GcsConfig, GcsStore, ListRequest, ObjectId,
    ObjectMeta, PutRequest, RetryPolicy, Store, Token, TokenSource, Version, WriteMode,
};
use futures_util::future::join_all;

use crate::wire::{self, Answer, Request, Wire};

fn client_of(config: GcsConfig) -> Client {
    let retry = RetryPolicy::default().initial(Duration::from_millis(1)).max(Duration::from_millis(5));
    Client::new(Arc::new(GcsStore::new(config).unwrap())).with_retry(retry.deadline(Duration::from_secs(60)))
}

fn client(wire: &Wire) -> Client {
    client_of(GcsConfig::new().endpoint(&wire.endpoint).credentials(Credentials::Anonymous))
}

fn object(size: usize) -> String {
    format!(r#"{{"name":"o","generation":"7","size":"{size}"}}"#)
}

/// A media answer of generation 7 of an object of ten bytes.
fn media(status: &str, headers: &str, body: &str) -> Answer {
    Answer::of(status, &format!("x-goog-generation: 7\r\nx-goog-stored-content-length: 10\r\n{headers}"), body)
}

const DIGITS: &str = "0123456789";

fn id() -> ObjectId {
    ObjectId::new("b", "dir/o", 7)
}

#[tokio::test]
async fn a_listing_asks_for_what_it_needs_and_says_who_asks() {
    let wire = Wire::script([Answer::json("{}")]).await;
    let mut request = ListRequest::new("b", "a b/ü&");
    (request.delimiter, request.start_offset, request.end_offset) =
        (Some("/".into()), Some("x+y".into()), Some("z".into()));
    (request.page_size, request.page_token) = (Some(5000), Some("t=1".into()));
    client(&wire).list(&request).await.unwrap();
    let asked = &wire.requests()[0];
    assert_eq!(
        asked.line,
        "GET /storage/v1/b/b/o?prettyPrint=false&fields=items(name,size,generation,crc32c,storageClass,\
         contentEncoding),prefixes,nextPageToken&prefix=a%20b%2F%C3%BC%26&delimiter=%2F&startOffset=x%2By\
         &endOffset=z&pageToken=t%3D1&maxResults=5000 HTTP/1.1"
    );
    assert_eq!(asked.header("user-agent"), Some(concat!("dataflux-rs/", env!("CARGO_PKG_VERSION"))));
    assert_eq!(asked.header("authorization"), None, "anonymous");
    assert_eq!(asked.header("accept-encoding"), None, "nothing here could decompress the answer");
}

/// Tests are built with reqwest's features for compressed bodies, which another crate of a program may enable. With
/// them an object with a `Content-Encoding` was decompressed, so that its length and checksum were wrong, or no body
/// came at all.
#[tokio::test]
async fn an_encoded_object_comes_as_stored_whatever_features_reqwest_has() {
    for encoding in ["gzip", "deflate", "br", "zstd"] {
        let encoded = format!("content-encoding: {encoding}\r\n");
        let wire = Wire::script([media("200 OK", &encoded, DIGITS)]).await;
        let payload = client(&wire).read(&id(), None, 10).await.unwrap();
        assert_eq!(payload.bytes, DIGITS, "{encoding}");
        assert_eq!(wire.requests()[0].header("accept-encoding"), Some("gzip"), "the service sends it as stored");
        // A range of the body can't be decompressed by itself.
        let part = format!("content-range: bytes 3-5/10\r\n{encoded}");
        let wire = Wire::script([media("206 Partial Content", &part, "345")]).await;
        let payload = client(&wire).read(&id(), Some(3..6), 3).await.unwrap();
        assert_eq!(payload.bytes, "345", "{encoding}");
    }
}

#[tokio::test]
async fn tries_of_a_call_are_told_from_calls() {
    let wire = Wire::script([Answer::status("503 Service Unavailable"), Answer::json("{}"), Answer::json("{}")]).await;
    let client = client(&wire);
    client.list(&ListRequest::new("b", "")).await.unwrap();
    client.list(&ListRequest::new("b", "")).await.unwrap();
    let said: Vec<(String, String)> = wire
        .requests()
        .iter()
        .map(|asked| {
            let (call, count) = asked.header("x-goog-api-client").unwrap().split_once(' ').unwrap();
            (call.strip_prefix("gccl-invocation-id/").unwrap().to_owned(), count.to_owned())
        })
        .collect();
    assert_eq!(said[0].0, said[1].0);
    assert_ne!(said[0].0, said[2].0);
    assert_eq!(said[0].0.len(), 36, "{said:?}");
    let counts: Vec<&str> = said.iter().map(|(_, count)| count.as_str()).collect();
    assert_eq!(counts, ["gccl-attempt-count/1", "gccl-attempt-count/2", "gccl-attempt-count/1"]);
}

#[tokio::test]
async fn whatever_may_pass_is_tried_again() {
    let limited = r#"{"error":{"code":403,"message":"slow","errors":[{"reason":"rateLimitExceeded"}]}}"#;
    let wire = Wire::script([
        Answer::status("500 Internal Server Error"),
        Answer::of("429 Too Many Requests", "retry-after: 0\r\n", ""),
        Answer::of("503 Service Unavailable", "retry-after: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "<html>"),
        Answer::of("403 Forbidden", "", limited),
        Answer::status("408 Request Timeout"),
        Answer::Reset,
        Answer::Close,
        Answer::json(r#"{"items":[{"na"#),
        Answer::raw("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"items\":["),
        Answer::json("{}"),
    ])
    .await;
    let client = client(&wire);
    client.list(&ListRequest::new("b", "")).await.unwrap();
    assert_eq!(client.metrics().snapshot().retries, 9);
}

#[tokio::test]
async fn retry_after_is_read_from_the_answer() {
    let wire = Wire::script([Answer::of("429 Too Many Requests", "retry-after: 61\r\n", "")]).await;
    let error = client(&wire).list(&ListRequest::new("b", "")).await.unwrap_err();
    assert_eq!((error.kind(), error.wait_asked()), (ErrorKind::RateLimited, Some(Duration::from_secs(61))));
    assert_eq!(error.http_status(), Some(429));
}

#[tokio::test]
async fn errors_say_what_was_said_and_what_to_do() {
    let denied = r#"{"error":{"code":403,"message":"x@y does not have storage.objects.get access","errors":[{"reason":"forbidden"}]}}"#;
    let bucket = r#"{"error":{"code":404,"message":"The specified bucket does not exist."}}"#;
    let wire = Wire::script([
        Answer::of("403 Forbidden", "", denied),
        Answer::of("404 Not Found", "", bucket),
        Answer::of("400 Bad Request", "", "Bucket is a requester pays bucket but no user project provided."),
        Answer::of("401 Unauthorized", "", ""),
        Answer::of("307 Temporary Redirect", "location: http://127.0.0.1:1/\r\n", ""),
        Answer::json("<html>"),
    ])
    .await;
    let client = client(&wire);
    for (kind, words) in [
        (ErrorKind::PermissionDenied, &["gs://b/p", "x@y does not have", "roles/storage.objectViewer"][..]),
        (ErrorKind::NotFound, &["gs://b/p", "does not exist", "gcloud storage ls"]),
        (ErrorKind::Protocol, &["requester pays", "user_project"]),
        (ErrorKind::PermissionDenied, &["anonymous callers may not", "is the bucket public?"]),
        (ErrorKind::Protocol, &["307"]),
        (ErrorKind::Protocol, &["can't be read"]),
    ] {
        let error = client.list(&ListRequest::new("b", "p")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        for word in words {
            assert!(error.to_string().contains(word), "{word:?} is not in: {error}");
        }
    }
}

#[tokio::test]
async fn a_public_bucket_whose_facts_are_not_public_is_read_without_a_token() {
    let required = r#"{"error":{"code":401,"message":"Anonymous caller does not have storage.buckets.get access","errors":[{"reason":"required"}]}}"#;
    let wire = Wire::script([Answer::of("401 Unauthorized", "", required), Answer::json("{}")]).await;
    let client = client(&wire);
    assert_eq!(client.bucket_info("b").await.unwrap(), BucketInfo::default());
    client.list(&ListRequest::new("b", "")).await.unwrap();
    let asked: Vec<_> = wire.requests().into_iter().map(|asked| asked.line).collect();
    assert!(asked[0].starts_with("GET /storage/v1/b/b?"), "{asked:?}");
    assert!(asked[1].starts_with("GET /storage/v1/b/b/o?"), "no second try at the facts: {asked:?}");
}

#[tokio::test]
async fn an_unreachable_server_is_named_with_the_cause() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let config = GcsConfig::new().endpoint(format!("127.0.0.1:{port}")).credentials(Credentials::Anonymous);
    let client = client_of(config).with_retry(RetryPolicy::never());
    let error = client.list(&ListRequest::new("b", "")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("refused"), "{error}");
}

#[tokio::test]
async fn a_whole_object_is_asked_for_as_stored() {
    let wire =
        Wire::script([media("200 OK", "content-encoding: gzip\r\nx-goog-hash: crc32c=4waSgw==\r\n", DIGITS)]).await;
    let payload = client(&wire).read(&id(), None, 10).await.unwrap();
    assert_eq!(&payload.bytes[..], DIGITS.as_bytes(), "what says that it is gzip is not touched");
    assert_eq!(payload.crc32c, Some(0xE306_9283));
    let asked = &wire.requests()[0];
    assert_eq!(asked.line, "GET /storage/v1/b/b/o/dir%2Fo?alt=media&generation=7 HTTP/1.1");
    assert_eq!(asked.header("accept-encoding"), Some("gzip"));
    assert_eq!(asked.header("range"), None);
}

#[tokio::test]
async fn a_cut_body_is_resumed_over_the_wire() {
    let rest = || media("206 Partial Content", "content-range: bytes 4-9/10\r\n", "456789");
    for cut in [
        // An error of the connection: fewer bytes than announced.
        Answer::raw("HTTP/1.1 200 OK\r\nx-goog-generation: 7\r\ncontent-length: 10\r\n\r\n0123"),
        // No error: the announced length is too short.
        media("200 OK", "", "0123"),
        // No error: only the end of the connection ends the body.
        Answer::raw("HTTP/1.1 200 OK\r\nx-goog-generation: 7\r\n\r\n0123"),
    ] {
        let wire = Wire::script([cut, rest()]).await;
        let payload = client(&wire).read(&id(), None, 10).await.unwrap();
        assert_eq!(&payload.bytes[..], DIGITS.as_bytes());
        let asked = wire.requests();
        assert_eq!(asked[1].header("range"), Some("bytes=4-9"));
        assert!(asked[1].line.contains("generation=7"), "{}", asked[1].line);
    }
}

#[tokio::test]
async fn a_server_that_takes_no_notice_of_ranges_is_put_up_with() {
    let wire =
        Wire::script([media("200 OK", "", "01234"), media("200 OK", "", DIGITS), media("200 OK", "", DIGITS)]).await;
    let client = client(&wire);
    assert_eq!(&client.read(&id(), Some(3..6), 3).await.unwrap().bytes[..], b"345", "resumed and skipped");
    assert_eq!(&client.read(&id(), Some(8..10), 2).await.unwrap().bytes[..], b"89");
    let asked: Vec<_> = wire.requests().iter().map(|asked| asked.header("range").unwrap().to_owned()).collect();
    assert_eq!(asked, ["bytes=3-5", "bytes=5-5", "bytes=8-9"]);
}

#[tokio::test]
async fn media_answers_that_make_no_sense_are_refused() {
    for (answer, kind) in [
        (media("206 Partial Content", "content-range: bytes 0-2/10\r\n", "012"), ErrorKind::Protocol),
        (media("206 Partial Content", "", "345"), ErrorKind::Protocol),
        (media("206 Partial Content", "content-range: bytes 3-9/10\r\n", "3456789"), ErrorKind::Integrity),
        (media("416 Range Not Satisfiable", "", ""), ErrorKind::Integrity),
        (
            Answer::of("206 Partial Content", "x-goog-generation: 8\r\ncontent-range: bytes 3-5/10\r\n", "345"),
            ErrorKind::Changed,
        ),
    ] {
        let wire = Wire::script([answer]).await;
        let error = client(&wire).read(&id(), Some(3..6), 3).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains("gs://b/dir/o#7"), "{error}");
    }
}

#[tokio::test]
async fn a_part_in_place_of_the_whole_is_refused() {
    let part = |range: &str, body| media("206 Partial Content", &format!("content-range: bytes {range}/10\r\n"), body);
    let wire = Wire::script([part("3-9", "3456789"), part("0-9", DIGITS)]).await;
    let client = client(&wire);
    let error = client.read(&id(), None, 10).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
    assert!(error.to_string().contains("bytes from 3"), "{error}");
    assert_eq!(&client.read(&id(), None, 10).await.unwrap().bytes[..], DIGITS.as_bytes(), "a part that is the whole");
}

#[tokio::test]
async fn a_compose_is_one_call_however_often_it_is_made() {
    let wire = Wire::script([
        Answer::Close,
        Answer::of("412 Precondition Failed", "", ""),
        Answer::json(r#"{"name":"o","generation":"7","size":"3","crc32c":"4waSgw=="}"#),
    ])
    .await;
    let sources = vec![("x".into(), 1.into())];
    let request = ComposeRequest::new("b".into(), "t/o".into(), sources, 3, 0xE306_9283, SystemTime::now());
    assert_eq!(client(&wire).compose(&request).await.unwrap().version, 7.into(), "adopted");
    let asked = wire.requests();
    for asked in &asked[..2] {
        assert!(asked.line.starts_with("POST /storage/v1/b/b/o/t%2Fo/compose?"), "{}", asked.line);
        assert!(asked.line.contains("ifGenerationMatch=0"), "{}", asked.line);
        assert_eq!(asked.header("content-type"), Some("application/json"));
    }
    let token = asked[0].header("x-goog-gcs-idempotency-token");
    assert!(token.is_some_and(|token| token.len() == 36));
    assert_eq!(token, asked[1].header("x-goog-gcs-idempotency-token"));
    assert!(asked[2].line.starts_with("GET /storage/v1/b/b/o/t%2Fo?"), "{}", asked[2].line);
    assert!(!String::from_utf8_lossy(&asked[0].body).contains("deleteSourceObjects"));
}

/// An object of `size` bytes of the CRC of "123456789".
fn described(size: u64) -> String {
    format!(r#"{{"name":"o","generation":"7","size":"{size}","crc32c":"4waSgw=="}}"#)
}

fn unfinished(token: &str, copied: u64) -> Answer {
    Answer::json(&format!(r#"{{"done":false,"rewriteToken":"{token}","totalBytesRewritten":"{copied}"}}"#))
}

/// The facts about an object of nine bytes, and a request to copy it.
async fn to_copy() -> (CopyRequest, ObjectMeta) {
    let wire = Wire::script([Answer::json(&described(9))]).await;
    let source = client(&wire).stat(&id()).await.unwrap();
    let mut request = CopyRequest::new(ObjectId::live("b", "dir/o"), "b", "copy");
    request.mode = WriteMode::Create;
    (request, source)
}

/// A copy was once one call: a failure of its last request began it anew, and all its requests had one idempotency
/// token, by which the service may take the second one for a repetition of the first.
#[tokio::test]
async fn a_copy_continues_where_it_was_and_pins_its_source() {
    let (request, source) = to_copy().await;
    let done = Answer::json(&format!(r#"{{"done":true,"resource":{}}}"#, described(9)));
    let wire = Wire::script([
        unfinished("t/1", 3),
        Answer::status("503 Service Unavailable"),
        Answer::Close,
        unfinished("t/2", 6),
        done,
    ])
    .await;
    let client = client(&wire);
    assert_eq!(client.copy(&request, &source).await.unwrap().version, Version::Generation(7));
    assert_eq!((client.metrics().snapshot().copy, client.metrics().snapshot().retries), (5, 2));

    let asked = wire.requests();
    for asked in &asked {
        assert!(asked.line.starts_with("POST /storage/v1/b/b/o/dir%2Fo/rewriteTo/b/b/o/copy?"), "{}", asked.line);
        assert!(asked.line.contains("&sourceGeneration=7&ifSourceGenerationMatch=7&"), "{}", asked.line);
    }
    let sent = |nth: usize| asked[nth].line.split_once("&rewriteToken=").map(|(_, token)| token);
    let sent: Vec<_> = (0..5).map(sent).collect();
    let (first, second) = (Some("t%2F1 HTTP/1.1"), Some("t%2F2 HTTP/1.1"));
    assert_eq!(sent, [None, first, first, first, second]);
    let tokens: Vec<_> = asked.iter().map(|asked| asked.header("x-goog-gcs-idempotency-token").unwrap()).collect();
    assert!(tokens[0] != tokens[1] && tokens[0] != tokens[4] && tokens[1] != tokens[4], "{tokens:?}");
    assert_eq!([tokens[1]; 2], [tokens[2], tokens[3]], "the attempts of one request");
}

/// Such answers were once followed for ever.
#[tokio::test]
async fn a_copy_without_progress_is_an_error() {
    let (request, source) = to_copy().await;
    for answers in [
        vec![unfinished("t", 3), unfinished("t", 3)],
        vec![unfinished("t", 3), unfinished("u", 3)],
        vec![unfinished("t", 3), Answer::json(r#"{"done":false}"#)],
    ] {
        let wire = Wire::script(answers).await;
        let error = client(&wire).copy(&request, &source).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
        assert!(error.to_string().contains("gs://b/copy"), "{error}");
        assert_eq!(wire.requests().len(), 2, "{error}");
    }
}

#[tokio::test]
async fn a_copy_of_a_missing_source_names_the_source() {
    let (mut request, source) = to_copy().await;
    for (bucket, hint) in [("b", "list the prefix again"), ("other", "whether the bucket gs://other exists")] {
        request.bucket = bucket.into();
        let wire = Wire::script([Answer::status("404 Not Found")]).await;
        let error = client(&wire).copy(&request, &source).await.unwrap_err();
        assert_eq!((error.kind(), error.about()), (ErrorKind::NotFound, Some("gs://b/dir/o#7")));
        assert!(error.to_string().contains(hint), "{error}");
    }
}

#[tokio::test]
async fn a_copy_whose_last_answer_was_lost_is_adopted() {
    let (request, source) = to_copy().await;
    let wire = Wire::script([
        unfinished("t", 3),
        Answer::Close,
        Answer::status("412 Precondition Failed"),
        Answer::json(&described(9)),
    ])
    .await;
    assert_eq!(client(&wire).copy(&request, &source).await.unwrap().version, Version::Generation(7));
}

/// An object of the right length was once adopted though the service reported no CRC of it, so that what another writer
/// had put there counted as written.
#[tokio::test]
async fn without_a_checksum_nothing_is_adopted() {
    let (request, source) = to_copy().await;
    let mut put = PutRequest::new("b", "copy", "123456789");
    put.mode = WriteMode::Create;
    let lost = || [Answer::Close, Answer::status("412 Precondition Failed"), Answer::json(&object(9))];
    for is_copy in [true, false] {
        let wire = Wire::script(lost()).await;
        let client = client(&wire);
        let outcome = if is_copy { client.copy(&request, &source).await } else { client.put(&put).await };
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Precondition, "{error}");
        assert!(error.to_string().contains("without a checksum nothing shows which"), "{error}");
        assert!(error.to_string().contains(", on try 2 "), "{error}");
    }
}

#[tokio::test]
async fn a_delete_names_its_generation_and_the_payer() {
    let wire = Wire::script([Answer::raw("HTTP/1.1 204 No Content\r\n\r\n")]).await;
    let config = GcsConfig::new().endpoint(&wire.endpoint).credentials(Credentials::Anonymous).user_project("payer");
    client_of(config).delete(&id()).await.unwrap();
    let asked = &wire.requests()[0];
    assert_eq!(asked.line, "DELETE /storage/v1/b/b/o/dir%2Fo?prettyPrint=false&generation=7 HTTP/1.1");
    assert_eq!(asked.header("x-goog-user-project"), Some("payer"));
}

#[tokio::test]
async fn an_update_pins_its_generation_and_is_one_call_however_often_it_is_made() {
    let wire = Wire::script([Answer::status("503 Service Unavailable"), Answer::json(&object(4))]).await;
    let pairs = [("k".to_owned(), "v".to_owned())].into();
    client(&wire).update_metadata(&id(), &pairs).await.unwrap();
    let asked = wire.requests();
    for asked in &asked {
        assert!(asked.line.starts_with("PATCH /storage/v1/b/b/o/dir%2Fo?"), "{}", asked.line);
        assert!(asked.line.contains("&generation=7 "), "{}", asked.line);
        assert_eq!(asked.header("content-type"), Some("application/json"));
        assert_eq!(asked.body, br#"{"metadata":{"k":"v"}}"#);
    }
    let token = asked[0].header("x-goog-gcs-idempotency-token");
    assert!(token.is_some() && token == asked[1].header("x-goog-gcs-idempotency-token"));
    let wire = Wire::script([Answer::status("403 Forbidden")]).await;
    let error = client(&wire).update_metadata(&id(), &pairs).await.unwrap_err();
    assert!(error.to_string().contains("storage.objects.update"), "{error}");
}

/// A lease by this machine's clock would delete temporary objects of a living run if that clock is ahead.
#[tokio::test]
async fn leases_end_by_the_clock_of_the_service() {
    let temporary = |name: &str, updated: &str| {
        format!(
            r#"{{"name":"dataflux-composed-objects/{name}","generation":"7","size":"4","updated":"{updated}",
                 "metadata":{{"dataflux-process":"elsewhere/1/1","dataflux-lease-seconds":"300"}}}}"#
        )
    };
    // Years ago by any current clock.
    let listed = [
        temporary("ahead", "2001-02-03T04:59:59Z"),
        temporary("made", "2001-02-03T04:00:00Z"),
        temporary("renewed", "2001-02-03T04:00:02Z"),
    ];
    let date = "Date: Sat, 03 Feb 2001 04:05:01 GMT\r\ncontent-type: application/json\r\n";
    let page = Answer::of("200 OK", date, &format!(r#"{{"items":[{}]}}"#, listed.join(",")));
    let wire = Wire::script([page, Answer::status("204 No Content")]).await;
    let cleaned = dataflux::clean(&client(&wire), "b", Duration::ZERO, false).await.unwrap();
    assert_eq!((cleaned.found, cleaned.living, cleaned.removed_bytes), (3, 2, 4));
    assert_eq!(cleaned.removed, ["gs://b/dataflux-composed-objects/made#7"]);
    assert!(wire.requests()[1].line.contains("/o/dataflux-composed-objects%2Fmade?"));
}

#[tokio::test]
async fn a_small_upload_is_one_request() {
    let wire = Wire::script([Answer::json(&object(4))]).await;
    let mut put = PutRequest::new("b", "dir/o", "meow");
    put.mode = WriteMode::Update(5.into());
    put.metadata.insert("k".into(), "v".into());
    client(&wire).put(&put).await.unwrap();
    let asked = &wire.requests()[0];
    assert!(
        asked.line.starts_with("POST /upload/storage/v1/b/b/o?uploadType=multipart&name=dir%2Fo&"),
        "{}",
        asked.line
    );
    assert!(asked.line.contains("ifGenerationMatch=5"), "{}", asked.line);
    let boundary = asked.header("content-type").unwrap().strip_prefix("multipart/related; boundary=").unwrap();
    let body = String::from_utf8(asked.body.clone()).unwrap();
    let parts: Vec<&str> = body.split(&format!("--{boundary}")).collect();
    assert_eq!(parts.len(), 4, "{body}");
    assert!(parts[1].contains(r#""crc32c""#) && parts[1].contains(r#""metadata":{"k":"v"}"#), "{body}");
    assert!(parts[2].ends_with("\r\n\r\nmeow\r\n"), "{body}");
    assert_eq!(parts[3], "--\r\n");
}

/// An upload session that stores what it receives, except for the faults at the given requests.
fn session(
    wire_trouble: impl Fn(usize, &Request) -> Option<Answer> + Send + 'static,
    total: usize,
) -> impl FnMut(usize, &Request) -> Answer + Send {
    let mut stored = Vec::new();
    move |nth, asked| {
        if asked.line.starts_with("POST") {
            stored.clear();
            return Answer::of("200 OK", "location: /upload/session?upload_id=hunter2\r\n", "");
        }
        let trouble = wire_trouble(nth, asked);
        let range = asked.header("content-range").unwrap();
        if let Some(start) = range.strip_prefix("bytes ").unwrap().split_once('-').map(|(start, _)| start) {
            assert_eq!(start.parse::<usize>().unwrap(), stored.len(), "{range}");
            // Half of an interrupted piece is stored.
            let kept = if trouble.is_some() { asked.body.len() / 2 } else { asked.body.len() };
            stored.extend_from_slice(&asked.body[..kept]);
        }
        if let Some(trouble) = trouble {
            return trouble;
        }
        if stored.len() == total {
            return Answer::json(&format!(
                r#"{{"name":"o","generation":"7","size":"{total}","crc32c":"{}"}}"#,
                wire::base64(&crc32c::crc32c(&stored).to_be_bytes())
            ));
        }
        match stored.len() {
            0 => Answer::status("308 Resume Incomplete"),
            n => Answer::of("308 Resume Incomplete", &format!("range: bytes=0-{}\r\n", n - 1), ""),
        }
    }
}

fn large() -> PutRequest {
    PutRequest::new("b", "o", (0..20_000_000_u32).map(|at| (at ^ at >> 8) as u8).collect::<Vec<_>>())
}

#[tokio::test]
async fn a_large_upload_goes_in_pieces() {
    let wire = Wire::serve(session(|_, _| None, 20_000_000)).await;
    client(&wire).put(&large()).await.unwrap();
    let asked = wire.requests();
    assert!(asked[0].line.contains("uploadType=resumable"), "{}", asked[0].line);
    assert_eq!(asked[0].header("x-upload-content-length"), Some("20000000"));
    let ranges: Vec<_> = asked[1..].iter().map(|asked| asked.header("content-range").unwrap()).collect();
    assert_eq!(
        ranges,
        ["bytes 0-8388607/20000000", "bytes 8388608-16777215/20000000", "bytes 16777216-19999999/20000000"]
    );
}

#[tokio::test]
async fn a_broken_piece_is_resumed_from_what_was_kept() {
    let trouble = |nth: usize, _: &Request| match nth {
        1 => Some(Answer::Close),
        4 => Some(Answer::status("503 Service Unavailable")),
        _ => None,
    };
    let wire = Wire::serve(session(trouble, 20_000_000)).await;
    let client = client(&wire);
    client.put(&large()).await.unwrap();
    let asked = wire.requests();
    let questions = asked.iter().filter(|asked| asked.header("content-range") == Some("bytes */20000000")).count();
    assert_eq!(questions, 2, "asked how it stands after each break");
    assert_eq!(asked.iter().filter(|asked| asked.line.starts_with("POST")).count(), 1);
    assert_eq!(client.metrics().snapshot().retries, 0);
}

/// Advances the clock once the server has seen this many requests.
async fn pass_time_at(wire: &Wire, requests: usize, time: Duration) {
    while wire.requests().len() < requests {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn a_piece_without_an_answer_is_resumed() {
    // One fault is a piece without an answer, the other half an answer to the query after it.
    let trouble = |nth: usize, _: &Request| match nth {
        2 => Some(Answer::Stall(String::new())),
        3 => Some(Answer::Stall("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{".into())),
        _ => None,
    };
    let wire = Wire::serve(session(trouble, 20_000_000)).await;
    let client = client(&wire);
    let put = tokio::spawn({
        let client = client.clone();
        async move { client.put(&large()).await }
    });
    // 30 s, and 8 MiB at 64 KiB/s.
    pass_time_at(&wire, 3, Duration::from_secs(30 + 128 + 1)).await;
    pass_time_at(&wire, 4, Duration::from_secs(30 + 1)).await;
    put.await.unwrap().unwrap();
    let asked = wire.requests();
    assert_eq!(asked.iter().filter(|asked| asked.line.starts_with("POST")).count(), 1);
    assert_eq!(asked.iter().filter(|asked| asked.header("content-range") == Some("bytes */20000000")).count(), 2);
    assert_eq!(client.metrics().snapshot().retries, 0);
}

#[tokio::test]
async fn a_session_that_is_gone_is_opened_anew() {
    let wire = Wire::serve(session(|nth, _| (nth == 2).then(|| Answer::status("410 Gone")), 20_000_000)).await;
    client(&wire).put(&large()).await.unwrap();
    let posts: Vec<_> = wire.requests().iter().map(|asked| asked.line.starts_with("POST")).collect();
    assert_eq!(posts, [true, false, false, true, false, false, false]);
    let token = |nth: usize| wire.requests()[nth].header("x-goog-gcs-idempotency-token").map(str::to_owned);
    assert!(token(0).is_some() && token(0) != token(3), "another call, and no repetition of the first");
}

#[tokio::test]
async fn what_a_session_wrote_before_it_was_gone_is_adopted() {
    let mut put = large();
    put.mode = WriteMode::Create;
    let crc = wire::base64(&crc32c::crc32c(&put.data).to_be_bytes());
    let kept = |last: usize| Answer::of("308 Resume Incomplete", &format!("range: bytes=0-{last}\r\n"), "");
    let wire = Wire::script([
        Answer::of("200 OK", "location: /upload/session?upload_id=hunter2\r\n", ""),
        kept(8_388_607),
        kept(16_777_215),
        // The last piece is stored, and its answer is lost.
        Answer::Close,
        Answer::status("410 Gone"),
        Answer::status("412 Precondition Failed"),
        Answer::json(&format!(r#"{{"name":"o","generation":"7","size":"20000000","crc32c":"{crc}"}}"#)),
    ])
    .await;
    let client = client(&wire);
    assert_eq!(client.put(&put).await.unwrap().version, 7.into());
    assert_eq!(client.metrics().snapshot().retries, 1);
    assert_eq!(wire.requests().len(), 7);
}

#[tokio::test]
async fn the_secret_of_a_session_is_never_shown() {
    let wire = Wire::serve(session(|_, _| Some(Answer::status("400 Bad Request")), 20_000_000)).await;
    let error = client(&wire).put(&large()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}

/// A token source that numbers its tokens: `hunter2-1`, `hunter2-2`, …
#[derive(Default)]
struct Counting(AtomicU64);

#[async_trait::async_trait]
impl TokenSource for Counting {
    async fn token(&self, scopes: &[&str]) -> dataflux::Result<Token> {
        // With a smaller scope, the service refuses changes of an object's metadata, which renew leases.
        assert_eq!(scopes, ["https://www.googleapis.com/auth/devstorage.full_control"]);
        let n = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        tokio::task::yield_now().await;
        Ok(Token::new(format!("hunter2-{n}"), Duration::from_secs(3600)))
    }
}

fn with_tokens(wire: &Wire) -> (Arc<Counting>, GcsConfig) {
    let source = Arc::new(Counting::default());
    let credentials = Credentials::Source(source.clone());
    (source, GcsConfig::new().endpoint(&wire.endpoint).credentials(credentials))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_refusals_fetch_one_new_token() {
    let wire = Wire::serve(|_, asked| match asked.header("authorization") {
        Some("Bearer hunter2-2") => Answer::json("{}"),
        Some(_) => Answer::status("401 Unauthorized"),
        None => Answer::status("500 No Token"),
    })
    .await;
    let (source, config) = with_tokens(&wire);
    let client = client_of(config);
    let calls = (0..100).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.list(&ListRequest::new("b", "")).await })
    });
    for call in join_all(calls).await {
        call.unwrap().unwrap();
    }
    assert_eq!(source.0.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn a_token_is_never_shown() {
    let wire = Wire::serve(|_, _| Answer::of("401 Unauthorized", "", "Invalid Credentials")).await;
    let (source, config) = with_tokens(&wire);
    let shown = format!("{config:?}");
    let store = GcsStore::new(config).unwrap();
    let client = Client::new(Arc::new(store.clone()));
    let error = client.list(&ListRequest::new("b", "")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    assert_eq!(source.0.load(Ordering::SeqCst), 2, "one new token, and no more");
    assert!(error.to_string().contains("gcloud auth application-default login"), "{error}");
    let shown = format!("{shown} {store:?} {client:?} {error} {error:?} {store:#?}");
    assert!(!shown.contains("hunter2"), "{shown}");
}

#[tokio::test]
async fn a_token_does_not_go_to_another_server() {
    let other = Wire::serve(|_, _| Answer::json(&object(20_000_000))).await;
    let location = format!("location: {}/upload/session\r\n", other.endpoint);
    let wire = Wire::serve(move |_, _| Answer::of("200 OK", &location, "")).await;
    let (_, config) = with_tokens(&wire);
    let store = GcsStore::new(config).unwrap();
    let put = PutRequest::new("b", "o", vec![0; 20_000_000]);
    store.put(&put, &Attempt::first()).await.unwrap();
    assert!(wire.requests()[0].header("authorization").is_some());
    assert_eq!(other.requests()[0].header("authorization"), None);
}

#[tokio::test]
async fn a_bodys_stall_is_a_timeout_and_resumed() {
    let wire = Wire::script([
        Answer::Stall("HTTP/1.1 200 OK\r\nx-goog-generation: 7\r\ncontent-length: 10\r\n\r\n012".into()),
        media("206 Partial Content", "content-range: bytes 3-9/10\r\n", "3456789"),
    ])
    .await;
    let client = client(&wire).with_stall_timeout(Duration::from_millis(500));
    assert_eq!(&client.read(&id(), None, 10).await.unwrap().bytes[..], DIGITS.as_bytes());
}
