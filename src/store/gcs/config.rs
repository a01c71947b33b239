//! The configuration of a [`GcsStore`](super::GcsStore).

use std::fmt;
use std::sync::Arc;

use super::TokenSource;
use crate::store::uri::redact;

/// Where tokens come from.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Credentials {
    /// Application default credentials, looked for at the first call: the file that `GOOGLE_APPLICATION_CREDENTIALS`
    /// names, then the file of `gcloud auth application-default login` (in `CLOUDSDK_CONFIG` if that is set), then the
    /// metadata server (`GCE_METADATA_HOST`, unless `NO_GCE_CHECK=true`), then the `gcloud` command. A file holds the
    /// key of a service account or the login of a user. Workload identity federation and impersonation are not
    /// supported: use a [`TokenSource`](Self::Source).
    #[default]
    Default,
    /// No credentials: for public buckets and emulators.
    Anonymous,
    /// The program's own source of tokens.
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

/// How the service is reached.
///
/// ```
/// use dataflux::store::{Credentials, GcsConfig};
///
/// let public = GcsConfig::new().credentials(Credentials::Anonymous);
/// let emulator = GcsConfig::new().endpoint("127.0.0.1:4443").credentials(Credentials::Anonymous);
/// # let _ = (public, emulator);
/// ```
#[derive(Clone)]
pub struct GcsConfig {
    pub(super) endpoint: String,
    pub(super) credentials: Credentials,
    pub(super) user_project: Option<String>,
    pub(super) read_only: bool,
    pub(super) system_proxy: bool,
}

impl fmt::Debug for GcsConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { endpoint, credentials, user_project, read_only, system_proxy } = self;
        f.debug_struct("GcsConfig")
            .field("endpoint", &redact(endpoint))
            .field("credentials", credentials)
            .field("user_project", user_project)
            .field("read_only", read_only)
            .field("system_proxy", system_proxy)
            .finish()
    }
}

impl Default for GcsConfig {
    fn default() -> Self {
        Self::new()
    }
}

impl GcsConfig {
    /// The service itself, with application default credentials. Only [`Credentials::Default`] reads the environment,
    /// when the first token is needed.
    pub fn new() -> Self {
        Self {
            endpoint: "https://storage.googleapis.com".to_owned(),
            credentials: Credentials::Default,
            user_project: None,
            read_only: false,
            system_proxy: false,
        }
    }

    /// [`new`](Self::new) with the settings in the environment:
    /// - `STORAGE_EMULATOR_HOST` is the address of an emulator (with or without a scheme), which gets no credentials.
    ///   The variables below are then ignored.
    /// - `CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE` is another address of the service, such as a private endpoint. The
    ///   `gcloud` command reads it, too. Calls go there *with* credentials.
    /// - `CLOUDSDK_AUTH_DISABLE_CREDENTIALS=true` leaves credentials out.
    /// - `HTTPS_PROXY` and `NO_PROXY` apply to the service and to token servers.
    pub fn from_env() -> Self {
        Self::from_vars(|name| std::env::var(name).ok())
    }

    fn from_vars(var: impl Fn(&str) -> Option<String>) -> Self {
        let set = |name| var(name).filter(|value| !value.trim().is_empty());
        if let Some(host) = set("STORAGE_EMULATOR_HOST") {
            return Self::new().endpoint(host).credentials(Credentials::Anonymous);
        }
        let mut config = Self { system_proxy: true, ..Self::new() };
        if let Some(url) = set("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE") {
            config = config.endpoint(with_scheme(&url));
        }
        let is_true = |value: String| ["true", "1", "yes", "on"].contains(&value.trim().to_ascii_lowercase().as_str());
        if set("CLOUDSDK_AUTH_DISABLE_CREDENTIALS").is_some_and(is_true) {
            config = config.credentials(Credentials::Anonymous);
        }
        config
    }

    /// Sets the URL of the service. Without a scheme it is `http://`, as for emulators. The URL may contain the API's
    /// path, `/storage/v1/`, as `gcloud` writes it. For a private endpoint write
    /// `https://storage-NAME.p.googleapis.com`: tokens are sent over `https` only, except to this machine.
    #[must_use]
    pub fn endpoint(mut self, url: impl AsRef<str>) -> Self {
        let url = url.as_ref().trim();
        let (scheme, host) = url.split_once("://").unwrap_or(("http", url));
        let host = host.trim_end_matches('/');
        let host = host.strip_suffix("/storage/v1").unwrap_or(host);
        self.endpoint = format!("{scheme}://{}", host.trim_end_matches('/'));
        self
    }

    /// Sets the source of tokens.
    #[must_use]
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = credentials;
        self
    }

    /// Sets the project that is billed for calls to requester-pays buckets.
    #[must_use]
    pub fn user_project(mut self, project: impl Into<String>) -> Self {
        self.user_project = Some(project.into());
        self
    }

    /// Requests tokens that can only read, which suffices to list and get, but not to compose. By default tokens allow
    /// everything that the caller's roles allow on buckets and objects: composing writes and deletes objects, and
    /// renewing the lease of a temporary object changes its metadata, for which the scope `devstorage.read_write` does
    /// not suffice.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    pub(super) fn scope(&self) -> &'static str {
        if self.read_only {
            "https://www.googleapis.com/auth/devstorage.read_only"
        } else {
            // The service's description of `objects.patch` names this one and `cloud-platform`, which is wider.
            "https://www.googleapis.com/auth/devstorage.full_control"
        }
    }
}

/// The URL of a private endpoint, which is `https` if it names no scheme.
fn with_scheme(url: &str) -> String {
    let url = url.trim();
    if url.contains("://") { url.to_owned() } else { format!("https://{url}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config_of(vars: &[(&str, &str)]) -> GcsConfig {
        let value = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        GcsConfig::from_vars(value)
    }

    #[test]
    fn the_emulator_host_may_have_a_scheme_or_not() {
        for (host, endpoint) in [
            ("localhost:9000", "http://localhost:9000"),
            ("http://localhost:9000/", "http://localhost:9000"),
            ("http://localhost:9000/storage/v1/", "http://localhost:9000"),
            (" https://storage.test// ", "https://storage.test"),
        ] {
            let private = ("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", "https://other.test");
            let config = config_of(&[("STORAGE_EMULATOR_HOST", host), private]);
            assert_eq!(config.endpoint, endpoint);
            assert!(matches!(config.credentials, Credentials::Anonymous), "an emulator gets no credentials");
        }
        for vars in [&[][..], &[("STORAGE_EMULATOR_HOST", "")], &[("STORAGE_EMULATOR_HOST", " ")]] {
            let config = config_of(vars);
            assert_eq!(config.endpoint, "https://storage.googleapis.com");
            assert!(matches!(config.credentials, Credentials::Default));
        }
    }

    #[test]
    fn a_private_endpoint_gets_credentials_and_the_proxy() {
        for (url, endpoint) in [
            ("https://storage-link.p.googleapis.com/storage/v1/", "https://storage-link.p.googleapis.com"),
            ("https://storage-link.p.googleapis.com/", "https://storage-link.p.googleapis.com"),
            ("storage-link.p.googleapis.com", "https://storage-link.p.googleapis.com"),
            ("http://127.0.0.1:4443/", "http://127.0.0.1:4443"),
        ] {
            let config = config_of(&[("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", url)]);
            assert_eq!(config.endpoint, endpoint);
            assert!(matches!(config.credentials, Credentials::Default) && config.system_proxy);
        }
        let config = config_of(&[("CLOUDSDK_AUTH_DISABLE_CREDENTIALS", "True")]);
        assert!(matches!(config.credentials, Credentials::Anonymous));
    }

    #[test]
    fn the_scope_follows_the_configuration() {
        // `objects.patch`, which renews leases, needs at least this scope.
        assert!(GcsConfig::new().scope().ends_with("devstorage.full_control"));
        assert!(GcsConfig::new().read_only().scope().ends_with("devstorage.read_only"));
    }
}
