//! The client against a server by other authors, which shares none of our mistakes.
//!
//! A program of its own, because it starts a server process: `scripts/test` provides the server and counts this
//! program.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod conformance;

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use dataflux::ErrorKind;
use dataflux::list::Lister;
use dataflux::store::{Client, ComposeRequest, Credentials, GcsConfig, GcsStore, PutRequest};
use futures_util::{StreamExt, stream};

/// Where `fake-gcs-server` 1.54 differs from the service. Each was observed, and none is caused by this crate.
const DEVIATIONS: &[(&str, &str)] = &[
    ("a_delimiter_rolls_up", "it takes the first character of a delimiter for the whole"),
    ("permissions_held", "it has no testIamPermissions and answers 404"),
    ("metadata_is_updated_key_by_key", "it leaves the time of the last change as it was"),
    ("update_of_what_is_gone_is_refused", "it ignores the generation and updates the live object"),
    ("delete_of_another_generation_is_refused", "it ignores the generation and deletes the live object"),
    ("compose_keeps_metadata_and_custom_time", "it drops customTime"),
    ("compose_of_a_missing_source_is_refused", "it answers 500"),
    ("compose_of_another_generation_is_refused", "it ignores the generations of sources"),
    ("compose_of_another_crc_is_refused", "it ignores destination.crc32c"),
    ("compose_onto_something_is_refused", "it ignores preconditions of a compose"),
    ("compose_of_two_classes_is_refused", "it ignores storage classes"),
    ("copy_if_absent", "it ignores preconditions of a copy"),
    ("a_suffix_of_an_empty_object_is_refused", "it answers with no bytes"),
];

/// A running server; killed when dropped.
struct Server {
    child: Child,
    endpoint: String,
}

impl Server {
    async fn start() -> Self {
        let binary = std::env::var_os("FAKE_GCS_SERVER")
            .expect("FAKE_GCS_SERVER must name the fake-gcs-server binary: run scripts/test, which fetches it");
        // The server can't choose a port by itself, and the one found may be taken before it starts: try a few.
        for _ in 0..5 {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let address = format!("127.0.0.1:{port}");
            let endpoint = format!("http://{address}");
            let child = Command::new(&binary)
                .args(["-scheme", "http", "-host", "127.0.0.1", "-port", &port.to_string(), "-backend", "memory"])
                .args(["-public-host", &address, "-external-url", &endpoint])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .expect("FAKE_GCS_SERVER names no program that runs");
            let mut server = Self { child, endpoint };
            if server.is_up().await {
                return server;
            }
        }
        panic!("fake-gcs-server does not start");
    }

    fn store(&self) -> GcsStore {
        GcsStore::new(GcsConfig::new().endpoint(&self.endpoint).credentials(Credentials::Anonymous)).unwrap()
    }

    /// Creates our bucket. Returns whether the server answers.
    async fn is_up(&mut self) -> bool {
        let url = format!("{}/storage/v1/b?project=p", self.endpoint);
        // This also installs the TLS provider that every reqwest client needs.
        drop(self.store());
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        for _ in 0..200 {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            let request = client.post(&url).header("content-type", "application/json").body(r#"{"name":"bucket"}"#);
            if request.send().await.is_ok_and(|answer| answer.status().is_success()) {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
#[ignore = "needs fake-gcs-server: run scripts/test"]
async fn a_source_overwritten_before_the_compose_is_noticed_all_the_same() {
    // The server composes whatever exists and reports success; the CRC of the listing reveals the difference.
    let server = Server::start().await;
    let client = Client::new(Arc::new(server.store()));
    let old = client.put(&PutRequest::new("bucket", "source", "meow")).await.unwrap();
    client.put(&PutRequest::new("bucket", "source", "purr")).await.unwrap();
    let sources = vec![("source".into(), old.version)];
    let request =
        ComposeRequest::new("bucket".into(), "joined".into(), sources, 4, crc32c::crc32c(b"meow"), SystemTime::now());
    let error = client.compose(&request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Integrity, "{error}");
}

#[tokio::test]
#[ignore = "needs fake-gcs-server: run scripts/test"]
async fn fake_gcs_server_conforms_but_for_its_own_faults() {
    let server = Server::start().await;
    conformance::run(Arc::new(server.store()), "bucket", DEVIATIONS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs fake-gcs-server: run scripts/test"]
async fn a_parallel_listing_of_it_is_exact() {
    // The server repeats prefixes on every page and ignores `fields`.
    let server = Server::start().await;
    let client = Client::new(Arc::new(server.store()));
    let names: BTreeSet<String> =
        (0..600).map(|n| if n % 3 == 0 { format!("p/flat-{n:03}") } else { format!("p/{}/ü {n}", n % 7) }).collect();
    stream::iter(&names)
        .for_each_concurrent(16, async |name| {
            client.put(&PutRequest::new("bucket", name.as_str(), "meow")).await.unwrap();
        })
        .await;
    client.put(&PutRequest::new("bucket", "q", "meow")).await.unwrap();
    for (page_size, concurrency) in [(7, 16), (100, 4), (1_000, 64), (10, 1)] {
        let lister = Lister::new(&client, "gs://bucket/p/".parse().unwrap());
        let objects = lister.page_size(page_size).concurrency(concurrency).objects().await.unwrap();
        let listed = objects.iter().map(|object| object.name);
        assert!(listed.eq(names.iter().map(String::as_str)), "{page_size} {concurrency}: {}", objects.len());
        assert!(objects.iter().all(|object| object.size == 4 && object.crc32c == Some(crc32c::crc32c(b"meow"))));
    }
}
