//! What a store is told once.

use std::fmt;
use std::sync::Arc;

use super::TokenSource;

/// Where tokens come from.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Credentials {
    /// Application default credentials, looked for at the first call: the service-account key that
    /// `GOOGLE_APPLICATION_CREDENTIALS` names, then what `gcloud auth application-default login` left, then the
    /// metadata server, then the `gcloud` command. Workload identity federation and impersonation are not among
    /// them: use a [`TokenSource`](Self::Source).
    #[default]
    Default,
    /// None: for public buckets and emulators.
    Anonymous,
    /// The program's own.
    Source(Arc<dyn TokenSource>),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Default => "Default",
            Self::Anonymous => "Anonymous",
            Self::Source(_) => "Source(..)",
        })
    }
}

/// How to reach the service.
///
/// ```
/// use dataflux::store::{Credentials, GcsConfig};
///
/// let public = GcsConfig::new().credentials(Credentials::Anonymous);
/// let emulator = GcsConfig::new().endpoint("127.0.0.1:4443").credentials(Credentials::Anonymous);
/// # let _ = (public, emulator);
/// ```
#[derive(Clone, Debug)]
pub struct GcsConfig {
    pub(super) endpoint: String,
    pub(super) credentials: Credentials,
    pub(super) user_project: Option<String>,
    pub(super) read_only: bool,
    pub(super) system_proxy: bool,
}

impl Default for GcsConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl GcsConfig {
    /// The service itself, with application default credentials. Nothing is read from the environment but what
    /// [`Credentials::Default`] reads when the first token is needed.
    pub fn new() -> Self {
        Self {
            endpoint: "https://storage.googleapis.com".to_owned(),
            credentials: Credentials::Default,
            user_project: None,
            read_only: false,
            system_proxy: false,
        }
    }

    /// [`new`](Self::new), or the emulator that `STORAGE_EMULATOR_HOST` names (with or without a scheme), which gets
    /// no credentials. Otherwise `HTTPS_PROXY` and `NO_PROXY` hold.
    pub fn from_env() -> Self {
        Self::from_host(std::env::var("STORAGE_EMULATOR_HOST").ok().as_deref())
    }

    fn from_host(host: Option<&str>) -> Self {
        match host.map(str::trim).filter(|host| !host.is_empty()) {
            Some(host) => Self::new().endpoint(host).credentials(Credentials::Anonymous),
            None => Self { system_proxy: true, ..Self::new() },
        }
    }

    /// Sets where the service is, as a URL; without a scheme it is `http://`, as emulators have it.
    #[must_use]
    pub fn endpoint(mut self, url: impl AsRef<str>) -> Self {
        let url = url.as_ref().trim();
        let (scheme, host) = url.split_once("://").unwrap_or(("http", url));
        self.endpoint = format!("{scheme}://{}", host.trim_end_matches('/'));
        self
    }

    /// Sets where tokens come from.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Names the project that pays, for requester-pays buckets.
    #[must_use]
    pub fn user_project(mut self, project: impl Into<String>) -> Self {
        self.user_project = Some(project.into());
        self
    }

    /// Asks for tokens that can only read: enough to list and get, not to compose. Without it tokens may also write
    /// objects, since composing, and the clean-up after it, need that.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    pub(super) fn scope(&self) -> &'static str {
        if self.read_only {
            "https://www.googleapis.com/auth/devstorage.read_only"
        } else {
            "https://www.googleapis.com/auth/devstorage.read_write"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_emulator_host_is_taken_with_and_without_a_scheme() {
        for (host, endpoint) in [
            ("localhost:9000", "http://localhost:9000"),
            ("http://localhost:9000/", "http://localhost:9000"),
            (" https://storage.test// ", "https://storage.test"),
        ] {
            let config = GcsConfig::from_host(Some(host));
            assert_eq!(config.endpoint, endpoint);
            assert!(matches!(config.credentials, Credentials::Anonymous), "an emulator gets no credentials");
        }
        for host in [None, Some(""), Some(" ")] {
            let config = GcsConfig::from_host(host);
            assert_eq!(config.endpoint, "https://storage.googleapis.com");
            assert!(matches!(config.credentials, Credentials::Default));
        }
    }

    #[test]
    fn the_scope_is_as_narrow_as_asked() {
        assert!(GcsConfig::new().scope().ends_with("devstorage.read_write"));
        assert!(GcsConfig::new().read_only().scope().ends_with("devstorage.read_only"));
    }
}
