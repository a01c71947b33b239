//! Connections: the settings of all HTTP clients of this crate, and the errors of connections.

use std::error::Error as _;
use std::sync::Once;
use std::time::Duration;

use reqwest::{ClientBuilder, Url};

use super::dns::CachedResolver;
use crate::os;
use crate::{Error, ErrorKind, Result};

/// Longest wait for a connection. One in a data centre takes milliseconds, one across the world half a second.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an idle connection is kept. Between the batches and calls of one job connections are idle for less; those
/// that another client of the process has left should not hold files for longer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

static CRYPTO_PROVIDER: Once = Once::new();

/// The settings of all HTTP clients of this crate.
pub(super) fn client_builder(encrypted: bool, system_proxy: bool) -> ClientBuilder {
    // With two providers compiled in, rustls chooses neither. A provider that the program installed is kept.
    CRYPTO_PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let mut builder = reqwest::Client::builder()
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_max_idle_per_host(os::file_shares().idle_connections)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .dns_resolver(CachedResolver::shared())
        .referer(false)
        // The service sends no redirects: its status 308 in uploads isn't one. A token must not follow a redirect to
        // another server.
        .redirect(reqwest::redirect::Policy::none())
        // Objects are delivered as stored. If another crate of the program enables reqwest's features for these
        // encodings, reqwest would decompress bodies with a `Content-Encoding`, and lengths and checksums would be
        // meaningless.
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .user_agent(concat!("dataflux-rs/", env!("CARGO_PKG_VERSION")));
    if !system_proxy {
        builder = builder.no_proxy();
    }
    if !encrypted {
        // No encryption, so the system's certificates need not be loaded.
        builder = builder.tls_certs_only([]);
    }
    builder
}

/// Builds a client from its settings.
pub(super) fn build(builder: ClientBuilder) -> Result<reqwest::Client> {
    builder.build().map_err(|error| {
        Error::new(ErrorKind::Config, "no HTTPS client can be set up")
            .hint("install the system's CA certificates (package ca-certificates)")
            .with_source(error)
    })
}

/// The hint about a host that can't be reached.
const UNREACHABLE: &str = "check the endpoint (STORAGE_EMULATOR_HOST or CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE in the \
     environment, GcsConfig::endpoint in a program), whether its server runs, and this machine's DNS and HTTPS_PROXY";

/// The error of a request or body that broke off.
pub(super) fn broken(error: reqwest::Error) -> Error {
    let host = error.url().map_or_else(|| "the server".to_owned(), host_and_port);
    // The URL of an upload grants access like a token.
    let error = error.without_url();
    let kind = match &error {
        error if error.is_timeout() => ErrorKind::Timeout,
        error if error.is_builder() => ErrorKind::Config,
        _ => ErrorKind::Unavailable,
    };
    if let Some(certificate) = certificate_error(&error) {
        return Error::new(ErrorKind::Config, format!("the server's certificate isn't trusted: {certificate}"))
            .hint("install the CA that signed it, and check the clock")
            .with_source(error);
    }
    let cause = root_cause(&error);
    let message = match error.is_connect() {
        true if error.is_dns() => {
            let name = host.rsplit_once(':').map_or(&*host, |(name, _)| name);
            format!("the name {name} can't be resolved: {cause}")
        }
        true => format!("{host} can't be reached: {cause}"),
        false => format!("the connection to {host} broke off: {cause}"),
    };
    let unreachable = error.is_connect() && (error.is_dns() || is_refused(&error));
    let error = Error::new(kind, message).with_source(error);
    if unreachable { error.unreachable().hint(UNREACHABLE) } else { error }
}

fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or("the server");
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether the host refused the connection.
fn is_refused(error: &reqwest::Error) -> bool {
    let mut cause = error.source();
    while let Some(error) = cause {
        let io = error.downcast_ref::<std::io::Error>();
        if io.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The innermost error, such as "connection refused", which alone says what happened.
fn root_cause(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// Describes what is wrong with the server's certificate, if that broke the connection. A retry can't repair it.
fn certificate_error(error: &reqwest::Error) -> Option<String> {
    let mut cause = error.source();
    while let Some(error) = cause {
        let tls = error.downcast_ref::<rustls::Error>().or_else(|| {
            error.downcast_ref::<std::io::Error>().and_then(|error| error.get_ref()?.downcast_ref::<rustls::Error>())
        });
        if let Some(rustls::Error::InvalidCertificate(what)) = tls {
            return Some(what.to_string());
        }
        cause = error.source();
    }
    None
}

/// Whether a URL's host is this machine.
pub(super) fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
