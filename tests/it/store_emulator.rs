//! The client over HTTP against the emulator, with faults of the network and of the service.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use dataflux::ErrorKind;
use dataflux::store::{
    BucketInfo, Client, ComposeRequest, Credentials, GcsConfig, GcsStore, ListRequest, ObjectId, PutRequest,
    RetryPolicy, Token, TokenSource, WriteMode,
};
use dataflux_emulator::{Call, Emulator, Fault};
use futures_util::{StreamExt, TryStreamExt, stream};

/// A client with waits of a millisecond, so that no test waits for the back-off.
fn client_with(emulator: &Emulator, credentials: Credentials) -> Client {
    let config = GcsConfig::new().endpoint(emulator.endpoint()).credentials(credentials);
    let retry = RetryPolicy::default().initial(Duration::from_millis(1)).max(Duration::from_millis(5));
    Client::new(Arc::new(GcsStore::new(config).unwrap())).with_retry(retry.deadline(Duration::from_secs(120)))
}

fn start() -> (Emulator, Client) {
    let emulator = Emulator::builder().bucket("bucket").start().unwrap();
    let client = client_with(&emulator, Credentials::Anonymous);
    (emulator, client)
}

/// Bytes that show their offset.
fn telling(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at ^ at >> 8) as u8).collect()
}

#[tokio::test]
async fn errors_of_the_service_and_resets_are_tried_again() {
    let (emulator, client) = start();
    let generation = emulator.put("bucket", "o", telling(1000));
    for (nth, fault) in [Fault::Error, Fault::TooManyRequests, Fault::Status(500), Fault::Reset, Fault::Status(408)]
        .into_iter()
        .enumerate()
    {
        emulator.fault_next(Call::GetMedia, fault, 2);
        let payload = client.read(&ObjectId::new("bucket", "o", generation), None, 1000).await.unwrap();
        assert_eq!(payload.bytes, telling(1000), "{fault:?}");
        assert_eq!(client.metrics().snapshot().retries, 2 * (nth as u64 + 1), "{fault:?}");
    }
    assert_eq!(client.metrics().snapshot().get, emulator.stats().get_media, "every attempt is counted");
}

#[tokio::test]
async fn cut_and_short_bodies_are_resumed_and_not_begun_again() {
    const LEN: usize = 4 << 20;
    let (emulator, client) = start();
    let generation = emulator.put("bucket", "o", telling(LEN));
    for fault in [Fault::Cut, Fault::Short] {
        let before = client.metrics().snapshot();
        emulator.fault_next(Call::GetMedia, fault, 1);
        let payload = client.read(&ObjectId::new("bucket", "o", generation), None, LEN as u64).await.unwrap();
        assert!(payload.bytes == telling(LEN), "{fault:?}");
        assert_eq!(payload.crc32c, Some(crc32c::crc32c(&payload.bytes)));
        let counts = client.metrics().snapshot().since(&before);
        assert_eq!((counts.get, counts.retries, counts.bytes_received), (2, 1, LEN as u64), "{fault:?}");
    }
}

#[tokio::test]
async fn a_listing_cut_short_is_asked_for_again() {
    let (emulator, client) = start();
    for n in 0..500 {
        emulator.put("bucket", &format!("n{n:03}"), "x");
    }
    for fault in [Fault::Cut, Fault::Short, Fault::Reset] {
        emulator.fault_next(Call::List, fault, 1);
        let page = client.list(&ListRequest::new("bucket", "")).await.unwrap();
        assert_eq!(page.objects.len(), 500, "{fault:?}");
    }
    assert_eq!(client.metrics().snapshot().retries, 3);
}

#[tokio::test]
async fn a_flipped_bit_shows_in_the_crc() {
    let (emulator, client) = start();
    let generation = emulator.put("bucket", "o", telling(1000));
    emulator.fault_next(Call::GetMedia, Fault::Flip, 1);
    let payload = client.read(&ObjectId::new("bucket", "o", generation), None, 1000).await.unwrap();
    assert_ne!(payload.crc32c, Some(crc32c::crc32c(&payload.bytes)));
}

fn compose(emulator: &Emulator, destination: &str) -> ComposeRequest {
    let sources = ["x", "y"].map(|name| (Arc::from(name), emulator.put("bucket", name, name).into()));
    let crc = crc32c::crc32c(b"xy");
    ComposeRequest::new("bucket".into(), destination.into(), sources.into(), 2, crc, SystemTime::now())
}

#[tokio::test]
async fn lost_answers_to_writes_do_not_lose_the_writes() {
    let (emulator, client) = start();
    emulator.fault_next(Call::Compose, Fault::LostResponse, 1);
    let meta = client.compose(&compose(&emulator, "t/joined")).await.unwrap();
    assert_eq!(emulator.generation("bucket", "t/joined"), meta.version.generation(), "adopted");
    assert_eq!(emulator.stats().compose, 2);

    emulator.fault_next(Call::Delete, Fault::LostResponse, 1);
    client.delete(&ObjectId::new("bucket", "t/joined", &meta.version)).await.unwrap();
    assert_eq!(emulator.generation("bucket", "t/joined"), None);

    emulator.fault_next(Call::Insert, Fault::LostResponse, 1);
    let mut put = PutRequest::new("bucket", "o", "meow");
    put.mode = WriteMode::Create;
    let meta = client.put(&put).await.unwrap();
    assert_eq!(emulator.generation("bucket", "o"), meta.version.generation());
}

#[tokio::test]
async fn large_uploads_survive_broken_pieces() {
    let (emulator, client) = start();
    let data = telling(20_000_000);
    for fault in [Fault::Error, Fault::Reset, Fault::LostResponse] {
        emulator.fault_next(Call::UploadChunk, fault, 1);
        client.put(&PutRequest::new("bucket", "o", data.clone())).await.unwrap();
        assert!(emulator.get("bucket", "o").unwrap() == data, "{fault:?}");
    }
    assert_eq!(emulator.stats().insert, 3, "no session was given up");
}

#[tokio::test]
async fn a_read_only_caller_reads_and_is_told_why_not_to_write() {
    let (emulator, client) = start();
    for permission in ["storage.objects.create", "storage.buckets.get"] {
        emulator.deny("bucket", permission);
    }
    assert_eq!(client.bucket_info("bucket").await.unwrap(), BucketInfo::default());
    let held = client.test_permissions("bucket", &["storage.objects.get", "storage.objects.create"]).await.unwrap();
    assert_eq!(held, ["storage.objects.get"]);
    let error = client.compose(&compose(&emulator, "joined")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    assert!(error.to_string().contains("roles/storage.objectUser"), "{error}");
    assert_eq!(emulator.stats().compose, 1, "asking again is no use");
}

/// A token source that returns `stale` first and `fresh` from then on.
#[derive(Default)]
struct Stale(AtomicU64);

#[async_trait::async_trait]
impl TokenSource for Stale {
    async fn token(&self, _: &[&str]) -> dataflux::Result<Token> {
        let first = self.0.fetch_add(1, Ordering::SeqCst) == 0;
        Ok(Token::new(if first { "stale" } else { "fresh" }, Duration::from_secs(3600)))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_token_is_replaced_once_for_all() {
    let emulator = Emulator::builder().bucket("bucket").start().unwrap();
    emulator.require_token(Some("fresh"));
    let source = Arc::new(Stale::default());
    let client = client_with(&emulator, Credentials::Source(source.clone()));
    let request = ListRequest::new("bucket", "");
    stream::iter(0..100).map(|_| client.list(&request)).buffer_unordered(100).try_collect::<Vec<_>>().await.unwrap();
    assert_eq!(source.0.load(Ordering::SeqCst), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_comes_right_on_a_bad_day() {
    let faults = "error=0.08,429=0.05,reset=0.05,short=0.08,cut=0.08,lost=0.1,seed=7".parse().unwrap();
    let emulator = Emulator::builder().bucket("bucket").start().unwrap();
    let client = client_with(&emulator, Credentials::Anonymous);
    let objects: Vec<(Arc<str>, i64, Vec<u8>)> = (0..200)
        .map(|n| {
            let (name, data) = (format!("o{n:03}"), telling(n * 97));
            let generation = emulator.put("bucket", &name, data.clone());
            (name.into(), generation, data)
        })
        .collect();
    emulator.set_faults(faults);

    let mut names = Vec::new();
    let mut request = ListRequest::new("bucket", "");
    request.page_size = Some(30);
    loop {
        let page = client.list(&request).await.unwrap();
        names.extend(page.objects.iter().map(|object| object.name.to_owned()));
        request.page_token = page.next_page_token;
        if request.page_token.is_none() {
            break;
        }
    }
    assert!(names.iter().eq(objects.iter().map(|(name, _, _)| &**name)), "{names:?}");

    stream::iter(&objects)
        .for_each_concurrent(16, |(name, generation, data)| {
            let client = client.clone();
            async move {
                let id = ObjectId::new("bucket", name.clone(), *generation);
                let payload = client.read(&id, None, data.len() as u64).await.unwrap();
                assert!(payload.bytes == *data, "{name}");
            }
        })
        .await;

    for (nth, group) in objects.chunks(20).enumerate() {
        let sources = group.iter().map(|(name, generation, _)| (name.clone(), (*generation).into())).collect();
        let data: Vec<u8> = group.iter().flat_map(|(_, _, data)| data.clone()).collect();
        let (size, crc) = (data.len() as u64, crc32c::crc32c(&data));
        let name: Arc<str> = format!("t{nth}").into();
        let request = ComposeRequest::new("bucket".into(), name.clone(), sources, size, crc, SystemTime::now());
        let version = client.compose(&request).await.unwrap().version;
        let id = ObjectId::new("bucket", name, version);
        assert!(client.read(&id, None, size).await.unwrap().bytes == data, "{id}");
        client.delete(&id).await.unwrap();
    }
    assert_eq!(emulator.names("bucket"), names, "nothing is left behind");
    assert!(client.metrics().snapshot().retries > 20, "the day was not bad");
}
