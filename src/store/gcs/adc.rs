//! Application default credentials: where they are looked for, and what is found there.

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
use crate::{Error, ErrorKind, Result};

/// Longest wait for the metadata server. It is on the same machine or nowhere.
const METADATA_ANSWER: Duration = Duration::from_secs(5);

/// How long a metadata server that must be there may be away at first: that of a new pod refuses connections for
/// seconds.
const METADATA_START: Duration = Duration::from_secs(30);

/// How long a token of the `gcloud` command holds, which doesn't say: an hour, as all of Google's do.
const GCLOUD_TOKEN: Duration = Duration::from_secs(3_600);

/// Where credentials may be.
#[derive(Clone, Copy, Debug, PartialEq)]
enum CredentialPlace {
    /// What `GOOGLE_APPLICATION_CREDENTIALS` names.
    KeyFile,
    /// What `gcloud auth application-default login` left.
    UserFile,
    /// The server that every Google Cloud machine can ask.
    Metadata,
    /// The `gcloud` command.
    Gcloud,
}

const PLACES: [CredentialPlace; 4] =
    [CredentialPlace::KeyFile, CredentialPlace::UserFile, CredentialPlace::Metadata, CredentialPlace::Gcloud];

/// What looking into a place brought.
enum PlaceContents {
    Found(Token),
    /// There are no credentials, for this reason.
    Nothing(String),
}

/// What the environment says about credentials.
#[derive(Debug)]
struct Environment {
    key_file: Option<PathBuf>,
    user_file: Option<PathBuf>,
    /// Host and port of the metadata server; `None` where it is not to be asked.
    metadata: Option<String>,
    /// Whether this is a machine of Google's, or may be a pod on one, so that there is a metadata server.
    on_google: bool,
    /// The `gcloud` command.
    gcloud: PathBuf,
}

impl Environment {
    fn read() -> Self {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let text = |name: &str| set(name).and_then(|value| value.into_string().ok());
        let config = if cfg!(windows) {
            set("APPDATA").map(|folder| PathBuf::from(folder).join("gcloud"))
        } else {
            std::env::home_dir().map(|home| home.join(".config/gcloud"))
        };
        let config = set("CLOUDSDK_CONFIG").map(PathBuf::from).or(config);
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
            gcloud: if cfg!(windows) { "gcloud.cmd".into() } else { "gcloud".into() },
        }
    }
}

/// Looks through the places once and stays with the one that had something.
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
    /// With `system_proxy`, token servers are asked by way of the proxy that `HTTPS_PROXY` names.
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
                    // Once found, and for a while where there must be one, it is only away.
                    let starts = environment.on_google && first_look.elapsed() < METADATA_START;
                    ask_metadata(environment.metadata.as_deref(), starts || self.found.get().is_some()).await?
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

    /// Exchanges what a file holds for a token. A file that is there and doesn't work is an error: the next place may
    /// hold somebody else's credentials.
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
        // A client for one request, an hour apart: its connection would belong to a runtime that may be gone by then.
        let client = connection::build(connection::client(true, self.system_proxy))?;
        Ok(PlaceContents::Found(grant.token(&client, scopes).await.map_err(named)?))
    }
}

/// Asks the metadata server. Where it `must_be` there, that it doesn't answer is an error that may pass.
async fn ask_metadata(host: Option<&str>, must_be: bool) -> Result<PlaceContents> {
    let Some(host) = host else {
        return Ok(PlaceContents::Nothing("NO_GCE_CHECK forbids asking the metadata server".to_owned()));
    };
    let absent = |why: &str| {
        let what = format!("the metadata server {host} {why}");
        if must_be { Err(Error::new(ErrorKind::Unavailable, what)) } else { Ok(PlaceContents::Nothing(what)) }
    };
    // Never by way of a proxy: it is on this machine's network, and its tokens must stay there.
    let client = connection::build(connection::client(false, false))?;
    let url = format!("http://{host}/computeMetadata/v1/instance/service-accounts/default/token");
    let request = client.get(url).header("Metadata-Flavor", "Google").timeout(METADATA_ANSWER);
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) if error.is_builder() => {
            return Err(Error::new(ErrorKind::Unauthenticated, "GCE_METADATA_HOST is no host").mismatch("a host", host));
        }
        Err(error) if error.is_timeout() => return absent("doesn't answer"),
        Err(error) if error.is_connect() => return absent("can't be reached"),
        Err(error) => return Err(connection::broken(error)),
    };
    let answer = grant::read(response).await?;
    if answer.status == reqwest::StatusCode::NOT_FOUND {
        return absent("has no service account");
    }
    // It has no credentials of the caller's that could be wrong: whatever it refuses may be granted the next time.
    let token = answer.into_token().map_err(|error| {
        let what = format!("the metadata server {host} gives no token: {error}");
        Error::new(ErrorKind::Unavailable, what).retry_after(error.wait_asked())
    });
    token.map(PlaceContents::Found)
}

/// Asks the `gcloud` command, on a thread that may wait for it.
async fn ask_gcloud(command: PathBuf) -> PlaceContents {
    let run = move || {
        let mut command = Command::new(command);
        command.args(["auth", "print-access-token", "--quiet"]).stdin(Stdio::null()).output()
    };
    match tokio::task::spawn_blocking(run).await {
        Ok(Ok(output)) if output.status.success() => match String::from_utf8(output.stdout) {
            Ok(token) if !token.trim().is_empty() => PlaceContents::Found(Token::new(token.trim(), GCLOUD_TOKEN)),
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

    /// Nothing anywhere, but for a metadata server at `host`.
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
    async fn a_file_that_is_named_and_not_there_is_not_passed_over() {
        let named = Environment { key_file: Some("/nonexistent/key.json".into()), ..environment(None) };
        let error = Adc::new(false).look(&named, &["scope"]).await.unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent/key.json: "), "{error}");
        assert!(error.to_string().contains("GOOGLE_APPLICATION_CREDENTIALS names this file"), "{error}");
    }

    #[tokio::test]
    async fn no_metadata_server_is_no_credentials_where_nothing_speaks_for_one() {
        let elsewhere = Environment { on_google: false, ..environment(Some(&closed_port())) };
        let error = Adc::new(false).look(&elsewhere, &["scope"]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert!(error.to_string().contains("can't be reached"), "{error}");
    }

    /// On virtual time: refused connections take none.
    #[tokio::test(start_paused = true)]
    async fn a_metadata_server_that_must_be_there_is_waited_for() {
        let (adc, environment) = (Adc::new(false), environment(Some(&closed_port())));
        let error = adc.look(&environment, &["scope"]).await.unwrap_err();
        assert!(error.is_retryable(), "{error}");
        tokio::time::advance(METADATA_START).await;
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
        assert_eq!(start.elapsed().as_secs(), METADATA_ANSWER.as_secs());
    }
}
