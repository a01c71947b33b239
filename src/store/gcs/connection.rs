//! Connections: what all HTTP clients of this crate have in common, and the errors of a connection that fails.

use std::error::Error as _;
use std::sync::Once;
use std::time::Duration;

use reqwest::{ClientBuilder, Url};

use super::dns::CachedResolver;
use crate::os;
use crate::{Error, ErrorKind, Result};

/// Longest wait for a connection. A data centre's takes milliseconds, one across the world half a second.
const CONNECT: Duration = Duration::from_secs(10);

/// How long a connection waits to be used again. Between batches and calls of one job it waits for less; what another
/// client of the process has left should not hold files for longer.
const IDLE: Duration = Duration::from_secs(30);

static PROVIDER: Once = Once::new();

/// What all HTTP clients of this crate have in common.
pub(super) fn client(encrypted: bool, system_proxy: bool) -> ClientBuilder {
    // With two providers compiled in, rustls takes neither by itself; one the program installed is as good.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    let mut builder = reqwest::Client::builder()
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(CONNECT)
        .pool_max_idle_per_host(os::file_shares().idle_connections)
        .pool_idle_timeout(IDLE)
        .dns_resolver(CachedResolver::shared())
        .referer(false)
        // The service sends none, but a 308 in uploads that isn't one; a token shouldn't follow a stranger's.
        .redirect(reqwest::redirect::Policy::none())
        // Objects are delivered as stored. Where another crate of the program enables one of reqwest's features for
        // these, it would otherwise decompress what has a `Content-Encoding`, and lengths and checksums would mean
        // nothing.
        .no_gzip()
        .no_brotli()
        .no_zstd()
        .no_deflate()
        .user_agent(concat!("dataflux-rs/", env!("CARGO_PKG_VERSION")));
    if !system_proxy {
        builder = builder.no_proxy();
    }
    if !encrypted {
        // Spares loading the system's certificates.
        builder = builder.tls_certs_only([]);
    }
    builder
}

/// Makes a client of its settings.
pub(super) fn build(builder: ClientBuilder) -> Result<reqwest::Client> {
    builder.build().map_err(|error| {
        Error::new(ErrorKind::Config, "no HTTPS client can be set up")
            .hint("install the system's CA certificates (package ca-certificates)")
            .with_source(error)
    })
}

/// What to do about a host that can't be reached.
const UNREACHABLE: &str = "check the endpoint (STORAGE_EMULATOR_HOST or CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE in the \
     environment, GcsConfig::endpoint in a program), whether its server runs, and this machine's DNS and HTTPS_PROXY";

/// The error of a request or body that broke off.
pub(super) fn broken(error: reqwest::Error) -> Error {
    let host = error.url().map_or_else(|| "the server".to_owned(), host_and_port);
    // The URL of an upload is as good as a token.
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
    let cause = root(&error);
    let what = match error.is_connect() {
        true if error.is_dns() => {
            let name = host.rsplit_once(':').map_or(&*host, |(name, _)| name);
            format!("the name {name} can't be resolved: {cause}")
        }
        true => format!("{host} can't be reached: {cause}"),
        false => format!("the connection to {host} broke off: {cause}"),
    };
    let unreachable = error.is_connect() && (error.is_dns() || is_refused(&error));
    let error = Error::new(kind, what).with_source(error);
    if unreachable { error.unreachable().hint(UNREACHABLE) } else { error }
}

fn host_and_port(url: &Url) -> String {
    let host = url.host_str().unwrap_or("the server");
    url.port_or_known_default().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// Whether nobody listens where a connection was to go.
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

/// The error at the bottom, which alone says what happened: "connection refused".
fn root(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// What is wrong with the server's certificate, if that is what broke the connection. Trying again won't mend it.
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
