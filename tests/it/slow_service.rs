//! A service that is unreachable, silent or slow: how long calls are retried, and what the log says meanwhile. All on
//! virtual time.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use dataflux::list::Lister;
use dataflux::store::{
    Attempt, Client, Credentials, Fault, FaultStore, GcsConfig, GcsStore, ListPage, ListRequest, MemoryStore,
    PutRequest, RetryPolicy, Store, StoreCall,
};
use dataflux::{ErrorKind, Result};
use futures_util::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::support;
use crate::support::forwarding::{Forward, Forwarding};
use crate::support::log::Log;

fn closed_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn client(endpoint: &str) -> Client {
    let config = GcsConfig::new().endpoint(endpoint).credentials(Credentials::Anonymous);
    Client::new(Arc::new(GcsStore::new(config).unwrap()))
}

/// The call was retried for 285 s.
#[tokio::test(start_paused = true)]
async fn a_host_that_never_answered_and_refuses_connections_fails_within_seconds() {
    let endpoint = format!("127.0.0.1:{}", closed_port());
    let client = client(&endpoint);
    let start = Instant::now();
    let error = client.list(&ListRequest::new("b", "")).await.unwrap_err();
    assert!(start.elapsed() <= Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    for said in ["gs://b", &*endpoint, "can't be reached", "refused", "STORAGE_EMULATOR_HOST", "GcsConfig::endpoint"] {
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
    assert!(client.metrics().snapshot().retries > 0, "a server that is just starting is given some seconds");
}

/// A label of 64 letters is one too long, so the system refuses the name without a query.
#[tokio::test(start_paused = true)]
async fn a_name_that_does_not_resolve_fails_within_seconds() {
    let name = format!("{}.test", "x".repeat(64));
    let client = client(&format!("http://{name}"));
    let start = Instant::now();
    let error = client.list(&ListRequest::new("b", "")).await.unwrap_err();
    assert!(start.elapsed() <= Duration::from_secs(5), "{:?}", start.elapsed());
    for said in [&*format!("the name {name} can't be resolved"), "DNS", "HTTPS_PROXY"] {
        assert!(error.to_string().contains(said), "{said}: {error}");
    }
}

/// A server that went away is no wrong address: calls are retried for as long as the policy says.
#[tokio::test(start_paused = true)]
async fn a_host_that_has_answered_before_is_retried_to_the_deadline_with_a_warning() {
    let (log, _guard) = Log::of_thread();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut buffer = [0; 4_096];
        let _ = stream.read(&mut buffer).await.unwrap();
        stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    });
    let client = client(&endpoint);
    assert!(client.list(&ListRequest::new("b", "")).await.unwrap_err().is_not_found());
    server.await.unwrap();

    let start = Instant::now();
    let error = client.list(&ListRequest::new("b", "")).await.unwrap_err();
    assert!(start.elapsed() > Duration::from_secs(200), "{:?}", start.elapsed());
    assert!(error.to_string().contains("refused"), "{error}");
    let lines = log.warnings();
    assert!((3..=5).contains(&lines.len()), "once a minute: {lines:#?}");
    for said in ["WARN", &*endpoint, "retried for up to", "gs://b", "refused"] {
        assert!(lines[0].contains(said), "{said}: {}", lines[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn thousands_of_calls_that_are_retried_make_one_warning_a_minute() {
    let (log, _guard) = Log::of_thread();
    let faults = FaultStore::new(Arc::new(MemoryStore::new().with_bucket("b")));
    faults.fail_next(StoreCall::List, Fault::Error(ErrorKind::Unavailable), 100_000);
    let client = Client::new(Arc::new(faults)).with_retry(RetryPolicy::default().deadline(Duration::from_secs(50)));
    // All clones of a client share the interval between warnings.
    let lists = (0..3_000).map(|_| {
        let client = client.clone();
        async move { client.list(&ListRequest::new("b", "")).await }
    });
    assert!(join_all(lists).await.iter().all(Result::is_err));
    assert_eq!(log.warnings().len(), 1, "{:#?}", log.warnings());
}

#[tokio::test(start_paused = true)]
async fn retries_of_a_few_seconds_are_not_worth_a_warning() {
    let (log, _guard) = Log::of_thread();
    let faults = FaultStore::new(Arc::new(MemoryStore::new().with_bucket("b")));
    faults.fail_next(StoreCall::List, Fault::Error(ErrorKind::Unavailable), 2);
    Client::new(Arc::new(faults)).list(&ListRequest::new("b", "")).await.unwrap();
    assert_eq!(log.warnings(), [""; 0]);
}

/// The first warning came after 30 s, when the first attempt ended.
#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_is_silent_is_named_after_ten_seconds() {
    let (log, _guard) = Log::of_thread();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let client = client(&endpoint);
    let waited = tokio::time::timeout(Duration::from_secs(11), client.list(&ListRequest::new("b", ""))).await;
    assert!(waited.is_err(), "it is waited for");
    let lines = log.warnings();
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(lines[0].contains(&endpoint) && lines[0].contains("has not answered"), "{}", lines[0]);
}

/// A bucket whose pages take three seconds each.
#[derive(Debug)]
struct SlowPages(MemoryStore);

#[async_trait]
impl Forward for SlowPages {
    fn inner(&self) -> &dyn Store {
        &self.0
    }
    async fn list(&self, request: &ListRequest, attempt: &Attempt) -> Result<ListPage> {
        tokio::time::sleep(Duration::from_secs(3)).await;
        self.0.list(request, attempt).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_takes_long_says_how_far_it_is() {
    let (log, _guard) = Log::of_thread();
    let (store, _) = support::bucket(100);
    let client = Client::new(Arc::new(Forwarding(SlowPages(store))));
    let lister = Lister::new(&client, "gs://data/p/".parse().unwrap()).page_size(5).concurrency(1);
    assert_eq!(lister.objects().await.unwrap().len(), 100);
    let lines = log.lines();
    assert!(lines[0].contains("INFO dataflux::progress") && lines[0].contains("listing gs://data/p/: 20 objects"));
    assert!((3..=4).contains(&lines.len()), "after 10, 20 and 40 s: {lines:#?}");
}

/// `clean` took 800 of the 1,000 writes a second of a bucket while jobs ran.
#[tokio::test(start_paused = true)]
async fn cleaning_leaves_jobs_most_of_a_buckets_writes() {
    let client = Client::new(Arc::new(MemoryStore::new().with_bucket("b")));
    for number in 0..500 {
        let mut dead = PutRequest::new("b", format!("dataflux-composed-objects/{number}"), "x");
        dead.metadata.insert("dataflux-process".into(), "elsewhere/1/1".into());
        dead.metadata.insert("dataflux-lease-seconds".into(), "0".into());
        client.put(&dead).await.unwrap();
    }
    let (zero, start) = (Duration::ZERO, Instant::now());
    assert_eq!(dataflux::clean(&client, "b", zero, true).await.unwrap().removed.len(), 500);
    assert_eq!(start.elapsed(), zero, "a dry run writes nothing");
    let cleaned = dataflux::clean(&client, "b", zero, false).await.unwrap();
    assert_eq!((cleaned.found, cleaned.removed.len()), (500, 500));
    assert!(start.elapsed() >= Duration::from_millis(499 * 4), "{:?} for 500 deletions", start.elapsed());
}
