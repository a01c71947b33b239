//! Application default credentials: the places where they are looked for.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::auth::{LOGIN, Token, TokenSource};
use super::connection;
use super::grant::{self, Grant};
use crate::store::uri::redact;
use crate::{Error, ErrorKind, Result};

/// Longest wait for an answer of the metadata server, which runs on the same machine if it runs at all.
const METADATA_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a metadata server that must exist may be unreachable at first: the server of a new pod refuses connections
/// for seconds.
const METADATA_STARTUP: Duration = Duration::from_secs(30);

/// Lifetime of a token of the `gcloud` command, which doesn't print it: an hour, as for all tokens of Google.
const GCLOUD_TOKEN_LIFETIME: Duration = Duration::from_secs(3_600);

/// A place where credentials may be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum CredentialPlace {
    /// The file that `GOOGLE_APPLICATION_CREDENTIALS` names.
    KeyFile,
    /// The file of `gcloud auth application-default login`.
    UserFile,
    /// The metadata server of a Google Cloud machine.
    Metadata,
    /// The `gcloud` command.
    Gcloud,
}

const PLACES: [CredentialPlace; 4] =
    [CredentialPlace::KeyFile, CredentialPlace::UserFile, CredentialPlace::Metadata, CredentialPlace::Gcloud];

/// The outcome of looking into a place.
enum PlaceContents {
    Found(Token),
    /// There are no credentials there, for this reason.
    Nothing(String),
}

/// The settings in the environment that concern credentials.
#[derive(Debug)]
struct Environment {
    key_file: Option<PathBuf>,
    user_file: Option<PathBuf>,
    /// Host and port of the metadata server; `None` if it must not be asked.
    metadata: Option<String>,
    /// Whether this is a machine of Google's, or may be a pod on one, so that a metadata server must exist.
    on_google: bool,
    /// The `gcloud` command.
    gcloud: PathBuf,
}

impl Environment {
    fn read() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).and_then(|value| value.into_string().ok());
        let default_config = || std::env::home_dir().map(|home| home.join(".config/gcloud"));
        let config = set("CLOUDSDK_CONFIG").map(PathBuf::from).or_else(default_config);
        let named = text("GCE_METADATA_HOST");
        let product = std::fs::read_to_string("/sys/class/dmi/id/product_name").unwrap_or_default();
        Self {
            key_file: set("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from),
            user_file: config.map(|folder| folder.join("application_default_credentials.json")),
            on_google: named.is_some() || set("KUBERNETES_SERVICE_HOST").is_some() || product.starts_with("Google"),
            metadata: match text("NO_GCE_CHECK") {
                Some(value) if value.eq_ignore_ascii_case("true") => None,
                _ => Some(named.unwrap_or_else(|| "metadata.google.internal".to_owned())),
            },
            gcloud: "gcloud".into(),
        }
    }
}

/// A source that looks through the places once and keeps using the first one that has credentials.
pub(super) struct Adc {
    system_proxy: bool,
    found: OnceLock<CredentialPlace>,
    first_look: OnceLock<Instant>,
}

#[async_trait]
impl TokenSource for Adc {
    async fn token(&self, scopes: &[&str]) -> Result<Token> {
        self.look(&Environment::read(), scopes).await
    }
}

impl Adc {
    /// With `system_proxy`, token servers are reached through the proxy that `HTTPS_PROXY` names.
    pub(super) fn new(system_proxy: bool) -> Self {
        Self { system_proxy, found: OnceLock::new(), first_look: OnceLock::new() }
    }

    async fn look(&self, environment: &Environment, scopes: &[&str]) -> Result<Token> {
        let first_look = *self.first_look.get_or_init(Instant::now);
        let mut reasons = Vec::new();
        for place in PLACES {
            if self.found.get().is_some_and(|found| *found != place) {
                continue;
            }
            let look = match place {
                CredentialPlace::KeyFile => self.exchange(environment.key_file.as_deref(), place, scopes).await?,
                CredentialPlace::UserFile => self.exchange(environment.user_file.as_deref(), place, scopes).await?,
                CredentialPlace::Metadata => {
                    // A server that was found before, or must exist and may just be starting, is only unreachable for
                    // now.
                    let is_starting = environment.on_google && first_look.elapsed() < METADATA_STARTUP;
                    ask_metadata(environment.metadata.as_deref(), is_starting || self.found.get().is_some()).await?
                }
                CredentialPlace::Gcloud => ask_gcloud(environment.gcloud.clone()).await,
            };
            match look {
                PlaceContents::Found(token) => {
                    let _ = self.found.set(place);
                    return Ok(token);
                }
                PlaceContents::Nothing(reason) => reasons.push(reason),
            }
        }
        Err(Error::new(ErrorKind::Unauthenticated, format!("no credentials were found: {}", reasons.join("; ")))
            .hint(LOGIN))
    }

    /// Exchanges the credentials in a file for a token. A file that exists and doesn't work is an error, since the next
    /// place may hold somebody else's credentials.
    async fn exchange(&self, file: Option<&Path>, place: CredentialPlace, scopes: &[&str]) -> Result<PlaceContents> {
        let Some(file) = file else {
            return Ok(PlaceContents::Nothing(match place {
                CredentialPlace::KeyFile => "GOOGLE_APPLICATION_CREDENTIALS is not set".to_owned(),
                _ => "no home folder is known".to_owned(),
            }));
        };
        let named = |error: Error| error.object(file.display());
        let text = match std::fs::read(file) {
            Ok(text) => text,
            Err(error) if place == CredentialPlace::UserFile && error.kind() == io::ErrorKind::NotFound => {
                return Ok(PlaceContents::Nothing(format!("there is no {}", file.display())));
            }
            Err(error) => {
                let error = Error::new(ErrorKind::Unauthenticated, format!("the credentials can't be read: {error}"));
                return Err(named(match place {
                    CredentialPlace::KeyFile => {
                        error.hint("GOOGLE_APPLICATION_CREDENTIALS names this file: correct or unset it")
                    }
                    _ => error.hint(LOGIN),
                }));
            }
        };
        let grant = Grant::parse(&text).map_err(named)?;
        // A new client for each request: the next one comes an hour later, and the runtime that owns the connection may
        // be gone by then.
        let client = connection::build(connection::client_builder(true, self.system_proxy))?;
        Ok(PlaceContents::Found(grant.token(&client, scopes).await.map_err(named)?))
    }
}

/// Asks the metadata server. If it `must_exist`, it is a retryable error when it doesn't answer.
async fn ask_metadata(host: Option<&str>, must_exist: bool) -> Result<PlaceContents> {
    let Some(host) = host else {
        return Ok(PlaceContents::Nothing("NO_GCE_CHECK forbids asking the metadata server".to_owned()));
    };
    let absent = |reason: &str| {
        let message = format!("the metadata server {} {reason}", redact(host));
        if must_exist { Err(Error::new(ErrorKind::Unavailable, message)) } else { Ok(PlaceContents::Nothing(message)) }
    };
    // Never through a proxy: the server is on this machine's network, and its tokens must stay there.
    let client = connection::build(connection::client_builder(false, false))?;
    let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token");
    let request = client.get(url).header("Metadata-Flavor", "Google").timeout(METADATA_TIMEOUT);
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) if error.is_builder() => {
            return Err(Error::new(ErrorKind::Unauthenticated, "GCE_METADATA_HOST isn't a host")
                .mismatch("a host", redact(host)));
        }
        Err(error) if error.is_timeout() => return absent("doesn't answer"),
        Err(error) if error.is_connect() => return absent("can't be reached"),
        Err(error) => return Err(connection::broken(error)),
    };
    let answer = grant::read(response).await?;
    if answer.status == reqwest::StatusCode::NOT_FOUND {
        return absent("has no service account");
    }
    // The request holds no credentials that could be wrong, so the server may grant the next one.
    let token = answer.into_token().map_err(|error| {
        let message = format!("the metadata server {host} returned no token: {error}");
        Error::new(ErrorKind::Unavailable, message).retry_after(error.wait_asked())
    });
    token.map(PlaceContents::Found)
}

/// Asks the `gcloud` command, on a thread that may block.
async fn ask_gcloud(command: PathBuf) -> PlaceContents {
    let run = move || {
        let mut command = Command::new(command);
        command.args(["auth", "print-access-token", "--quiet"]).stdin(Stdio::null()).output()
    };
    match tokio::task::spawn_blocking(run).await {
        Ok(Ok(output)) if output.status.success() => match String::from_utf8(output.stdout) {
            Ok(token) if !token.trim().is_empty() => {
                PlaceContents::Found(Token::new(token.trim(), GCLOUD_TOKEN_LIFETIME))
            }
            _ => PlaceContents::Nothing("the gcloud command prints no token".to_owned()),
        },
        Ok(Ok(_)) => PlaceContents::Nothing("the gcloud command is not logged in".to_owned()),
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => {
            PlaceContents::Nothing("there is no gcloud command".to_owned())
        }
        Ok(Err(error)) => PlaceContents::Nothing(format!("the gcloud command can't be run: {error}")),
        Err(_) => PlaceContents::Nothing("the gcloud command could not be waited for".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// An environment without credentials, except for a metadata server at `host`.
    fn environment(host: Option<&str>) -> Environment {
        Environment {
            key_file: None,
            user_file: Some("/nonexistent/credentials.json".into()),
            metadata: host.map(str::to_owned),
            on_google: host.is_some(),
            gcloud: "/nonexistent/gcloud".into(),
        }
    }

    fn closed_port() -> String {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
    }

    #[tokio::test]
    async fn without_credentials_the_error_names_every_place() {
        let error = Adc::new(false).look(&environment(None), &["scope"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        for said in [
            "GOOGLE_APPLICATION_CREDENTIALS is not set",
            "/nonexistent/credentials.json",
            "metadata server",
            "no gcloud command",
            "gcloud auth application-default login",
            "anonymously",
        ] {
            assert!(error.to_string().contains(said), "{error}");
        }
    }

    #[tokio::test]
    async fn a_missing_file_that_is_named_is_an_error() {
        let named = Environment { key_file: Some("/nonexistent/key.json".into()), ..environment(None) };
        let error = Adc::new(false).look(&named, &["scope"]).await.unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/key.json: "), "{error}");
        assert!(error.to_string().contains("GOOGLE_APPLICATION_CREDENTIALS names this file"), "{error}");
    }

    #[tokio::test]
    async fn an_absent_metadata_server_is_no_error_outside_of_google() {
        let elsewhere = Environment { on_google: false, ..environment(Some(&closed_port())) };
        let error = Adc::new(false).look(&elsewhere, &["scope"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert!(error.to_string().contains("can't be reached"), "{error}");
    }

    /// On virtual time: refused connections take none.
    #[tokio::test(start_paused = true)]
    async fn a_metadata_server_that_must_exist_is_waited_for() {
        let (adc, environment) = (Adc::new(false), environment(Some(&closed_port())));
        let error = adc.look(&environment, &["scope"]).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        tokio::time::advance(METADATA_STARTUP).await;
        let error = adc.look(&environment, &["scope"]).await.unwrap_err();
        assert!(!error.is_retryable(), "{error}");
    }

    #[tokio::test]
    async fn a_silent_metadata_server_is_waited_for_five_seconds() {
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = silent.local_addr().unwrap().to_string();
        tokio::time::pause();
        let start = Instant::now();
        let environment = Environment { on_google: false, ..environment(Some(&host)) };
        let error = Adc::new(false).look(&environment, &["scope"]).await.unwrap_err();
        assert!(error.to_string().contains("doesn't answer"), "{error}");
        assert_eq!(start.elapsed().as_secs(), METADATA_TIMEOUT.as_secs());
    }
}
