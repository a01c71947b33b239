//! What a store is told once.

use std::fmt;
use std::sync::Arc;

use super::TokenSource;

/// Where tokens come from.
#[derive(Clone, Default)]
#[non_exhaustive]
pub enum Credentials {
    /// Application default credentials, looked for at the first call: the file that `GOOGLE_APPLICATION_CREDENTIALS`
    /// names, then what `gcloud auth application-default login` left (in `CLOUDSDK_CONFIG` if that is set), then the
    /// metadata server (`GCE_METADATA_HOST`, unless `NO_GCE_CHECK=true`), then the `gcloud` command. A file holds the
    /// key of a service account or the login of a user. Workload identity federation and impersonation are not among
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

    /// [`new`](Self::new) with what the environment says:
    /// - `STORAGE_EMULATOR_HOST` is an emulator (with or without a scheme), which gets no credentials. The others below
    ///   then mean nothing.
    /// - `CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE` is the service under another address, a private endpoint for
    ///   example, as the `gcloud` command reads it. Calls go there *with* credentials.
    /// - `CLOUDSDK_AUTH_DISABLE_CREDENTIALS=true` leaves credentials out.
    /// - `HTTPS_PROXY` and `NO_PROXY` hold for the service and for token servers.
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

    /// Sets where the service is, as a URL; without a scheme it is `http://`, as emulators have it. The path of the
    /// API, `/storage/v1/`, may be part of it, as `gcloud` writes it. For a private endpoint write
    /// `https://storage-NAME.p.googleapis.com`: tokens go over `https` alone, but for this machine.
    #[must_use]
    pub fn endpoint(mut self, url: impl AsRef<str>) -> Self {
        let url = url.as_ref().trim();
        let (scheme, host) = url.split_once("://").unwrap_or(("http", url));
        let host = host.trim_end_matches('/');
        let host = host.strip_suffix("/storage/v1").unwrap_or(host);
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

    /// Asks for tokens that can only read: enough to list and get, not to compose. Without it tokens may do all that
    /// the caller's roles allow on buckets and objects: composing writes and deletes objects, and renewing the lease of
    /// a temporary object changes its metadata, for which the scope `devstorage.read_write` does not suffice.
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

/// A private endpoint's URL, which is `https` where it doesn't say.
fn with_scheme(url: &str) -> String {
    let url = url.trim();
    if url.contains("://") { url.to_owned() } else { format!("https://{url}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(vars: &[(&str, &str)]) -> GcsConfig {
        let value = |name: &str| vars.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        GcsConfig::from_vars(value)
    }

    #[test]
    fn the_emulator_host_is_taken_with_and_without_a_scheme() {
        for (host, endpoint) in [
            ("localhost:9000", "http://localhost:9000"),
            ("http://localhost:9000/", "http://localhost:9000"),
            ("http://localhost:9000/storage/v1/", "http://localhost:9000"),
            (" https://storage.test// ", "https://storage.test"),
        ] {
            let private = ("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", "https://other.test");
            let config = of(&[("STORAGE_EMULATOR_HOST", host), private]);
            assert_eq!(config.endpoint, endpoint);
            assert!(matches!(config.credentials, Credentials::Anonymous), "an emulator gets no credentials");
        }
        for vars in [&[][..], &[("STORAGE_EMULATOR_HOST", "")], &[("STORAGE_EMULATOR_HOST", " ")]] {
            let config = of(vars);
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
            let config = of(&[("CLOUDSDK_API_ENDPOINT_OVERRIDES_STORAGE", url)]);
            assert_eq!(config.endpoint, endpoint);
            assert!(matches!(config.credentials, Credentials::Default) && config.system_proxy);
        }
        let config = of(&[("CLOUDSDK_AUTH_DISABLE_CREDENTIALS", "True")]);
        assert!(matches!(config.credentials, Credentials::Anonymous));
    }

    #[test]
    fn the_scope_is_as_narrow_as_asked() {
        // What `objects.patch`, by which leases are renewed, asks for at least.
        assert!(GcsConfig::new().scope().ends_with("devstorage.full_control"));
        assert!(GcsConfig::new().read_only().scope().ends_with("devstorage.read_only"));
    }
}
