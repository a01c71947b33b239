//! Application default credentials, by way of `gcp_auth`.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use gcp_auth::{
    ConfigDefaultCredentials, CustomServiceAccount, Error as AuthError, GCloudAuthorizedUser, MetadataServiceAccount,
    TokenProvider,
};

use super::auth::{LOGIN, Token, TokenSource};
use crate::{Error, ErrorKind, Result};

/// Where credentials were found.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    /// What `GOOGLE_APPLICATION_CREDENTIALS` names.
    KeyFile,
    /// What `gcloud auth application-default login` left.
    UserFile,
    /// The server that every Google Cloud machine can ask.
    Metadata,
    /// The `gcloud` command.
    Gcloud,
}

/// Longest wait for the metadata server, for which `gcp_auth` has no limit. It is on the same machine or nowhere.
const METADATA: Duration = Duration::from_secs(5);

const PLACES: [Place; 4] = [Place::KeyFile, Place::UserFile, Place::Metadata, Place::Gcloud];

impl Place {
    fn name(self) -> &'static str {
        match self {
            Self::KeyFile => "GOOGLE_APPLICATION_CREDENTIALS",
            Self::UserFile => "the file of `gcloud auth application-default login`",
            Self::Metadata => "the metadata server",
            Self::Gcloud => "the `gcloud` command",
        }
    }

    /// A new provider, since one keeps its token until 20 s before the end and has no way to drop it; `None` where
    /// there is nothing of the kind.
    async fn provider(self) -> Result<Option<Arc<dyn TokenProvider>>, AuthError> {
        Ok(match self {
            Self::KeyFile => CustomServiceAccount::from_env()?.map(|found| Arc::new(found) as _),
            Self::UserFile => Some(Arc::new(ConfigDefaultCredentials::new().await?)),
            Self::Metadata => Some(Arc::new(in_time(MetadataServiceAccount::new()).await?)),
            Self::Gcloud => {
                // It waits for the command without letting go of its thread.
                let runtime = tokio::runtime::Handle::current();
                let found = tokio::task::spawn_blocking(move || runtime.block_on(GCloudAuthorizedUser::new())).await;
                Some(Arc::new(found.map_err(|_| AuthError::Str("`gcloud` could not be waited for"))??))
            }
        })
    }

    /// Whether an error means that there are no credentials in this place, so that the next may be tried. Credentials
    /// that are there and don't work are never passed over: the next place may hold somebody else's.
    fn is_empty(self, error: &AuthError) -> bool {
        match self {
            Self::KeyFile => false,
            Self::UserFile => match error {
                AuthError::Io(..) => true,
                AuthError::Str(what) => *what != "token request failed",
                _ => false,
            },
            // A server that is there may be better the next time.
            Self::Metadata => matches!(error, AuthError::Other(_, cause) if is_absence(&**cause)),
            Self::Gcloud => true,
        }
    }
}

/// Waits for the metadata server.
async fn in_time<T>(made: impl Future<Output = Result<T, AuthError>>) -> Result<T, AuthError> {
    let waited = tokio::time::timeout(METADATA, made).await;
    waited.unwrap_or_else(|elapsed| Err(AuthError::Other("no answer within 5 s", elapsed.into())))
}

/// Whether a request failed since there is no server: its name doesn't resolve, or nothing answers at its address.
fn is_absence(error: &(dyn std::error::Error + 'static)) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut};
    std::iter::successors(Some(error), |error| error.source()).any(|error| {
        error.is::<tokio::time::error::Elapsed>()
            || error.downcast_ref::<std::io::Error>().is_some_and(|error| {
                matches!(error.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable | TimedOut)
            })
            // What the connector says of a name; its type is private, and what the system says has no kind.
            || error.to_string() == "dns error"
    })
}

/// Looks through the places once and stays with the one that had something.
#[derive(Default)]
pub(super) struct Adc {
    found: OnceLock<Place>,
}

#[async_trait]
impl TokenSource for Adc {
    async fn token(&self, scopes: &[&str]) -> Result<Token> {
        if let Some(place) = self.found.get() {
            return match place.provider().await {
                Ok(Some(provider)) => fetch(*place, &*provider, scopes).await,
                Ok(None) => Err(nowhere()),
                Err(error) => Err(failed(*place, error)),
            };
        }
        for place in PLACES {
            match place.provider().await {
                Ok(None) => {}
                Ok(Some(provider)) => {
                    let token = fetch(place, &*provider, scopes).await?;
                    let _ = self.found.set(place);
                    return Ok(token);
                }
                Err(error) if place.is_empty(&error) => {
                    tracing::debug!(place = place.name(), why = said(&error), "no credentials here");
                }
                Err(error) => return Err(failed(place, error)),
            }
        }
        Err(nowhere())
    }
}

async fn fetch(place: Place, provider: &dyn TokenProvider, scopes: &[&str]) -> Result<Token> {
    let token = provider.token(scopes).await.map_err(|error| failed(place, error))?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let end = u64::try_from(token.expires_at().timestamp()).unwrap_or(0);
    Ok(Token::new(token.as_str(), Duration::from_secs(end.saturating_sub(now))))
}

fn nowhere() -> Error {
    let places = PLACES.map(Place::name).join(", ");
    Error::new(ErrorKind::Unauthenticated, format!("no credentials were found (looked at {places})")).hint(LOGIN)
}

/// What the error says itself; what lies under it could quote a credential.
fn said(error: &AuthError) -> &'static str {
    match error {
        AuthError::Http(what, _)
        | AuthError::Io(what, _)
        | AuthError::Json(what, _)
        | AuthError::Other(what, _)
        | AuthError::Str(what) => what,
        AuthError::NoAuthMethod(..) => "no available authentication method found",
    }
}

/// The error of credentials that are there and don't work.
fn failed(place: Place, error: AuthError) -> Error {
    let what = format!("no token could be had from {}: {}", place.name(), said(&error));
    match error {
        // It answered: it has no credentials of the caller's that could be wrong.
        AuthError::Str(_) | AuthError::Json(..) if place == Place::Metadata => Error::new(ErrorKind::Unavailable, what),
        // The way to the token server, which may be better the next time.
        AuthError::Http(_, cause) => Error::new(ErrorKind::Unavailable, what).with_source(cause),
        AuthError::Other(_, cause) => Error::new(ErrorKind::Unavailable, what).with_source(cause),
        AuthError::Io(_, cause) => Error::new(ErrorKind::Unauthenticated, what).with_source(cause),
        AuthError::Json(..) => Error::new(ErrorKind::Unauthenticated, what).hint(
            "keys of service accounts and logins of users are understood; for federation and impersonation hand over a \
             TokenSource",
        ),
        AuthError::Str(_) | AuthError::NoAuthMethod(..) => Error::new(ErrorKind::Unauthenticated, what).hint(LOGIN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json_error() -> AuthError {
        AuthError::Json("failed to deserialize", serde_json::from_str::<u8>(r#""hunter2""#).unwrap_err())
    }

    #[test]
    fn credentials_that_do_not_work_are_not_passed_over() {
        let missing = || AuthError::Io("no file", std::io::ErrorKind::NotFound.into());
        assert!(Place::UserFile.is_empty(&missing()));
        assert!(!Place::UserFile.is_empty(&AuthError::Str("token request failed")));
        assert!(!Place::UserFile.is_empty(&json_error()));
        assert!(!Place::KeyFile.is_empty(&missing()), "a file that was named has to be there");
    }

    fn broken(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> AuthError {
        AuthError::Other("HTTP request failed", cause.into())
    }

    #[test]
    fn a_metadata_server_that_answers_is_there() {
        use std::io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, NetworkUnreachable, TimedOut};
        for kind in [ConnectionRefused, HostUnreachable, NetworkUnreachable, TimedOut] {
            assert!(Place::Metadata.is_empty(&broken(std::io::Error::from(kind))), "{kind:?}");
        }
        assert!(Place::Metadata.is_empty(&broken("dns error")));
        let reset = || broken(std::io::Error::from(ConnectionReset));
        for answered in [|| AuthError::Str("token request failed"), json_error, reset] {
            assert!(!Place::Metadata.is_empty(&answered()));
            let error = failed(Place::Metadata, answered());
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_metadata_server_is_waited_for_5_s() {
        let start = tokio::time::Instant::now();
        let error = in_time(std::future::pending::<Result<(), _>>()).await.unwrap_err();
        assert_eq!(start.elapsed(), METADATA);
        assert!(Place::Metadata.is_empty(&error), "there is none");
        assert!(failed(Place::Metadata, error).is_retryable(), "where there was one before");
    }

    struct Nameless;

    impl reqwest::dns::Resolve for Nameless {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            Box::pin(async { Err("no such name".into()) })
        }
    }

    /// By way of reqwest, whose connector is that of `gcp_auth`: no token is asked for here.
    #[tokio::test]
    async fn what_the_connector_says_of_no_server_is_understood() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).dns_resolver(Arc::new(Nameless));
        let client = client.build().unwrap();
        for url in ["http://name.invalid/".to_owned(), format!("http://127.0.0.1:{port}/")] {
            let error = client.get(&url).send().await.unwrap_err();
            assert!(is_absence(&error), "{error:?}");
        }
    }

    #[test]
    fn errors_never_quote_a_credential() {
        assert!(json_error().to_string().contains("hunter2"), "what this is about");
        let error = failed(Place::UserFile, json_error());
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        assert!(error.to_string().contains("application-default login"), "{error}");
    }

    #[test]
    fn a_way_that_is_down_is_worth_another_try() {
        let down = AuthError::Other("HTTP request failed", "refused".into());
        assert!(failed(Place::Metadata, down).is_retryable());
        assert!(!failed(Place::UserFile, AuthError::Str("token request failed")).is_retryable());
        assert!(nowhere().to_string().contains("gcloud auth application-default login"));
    }
}
