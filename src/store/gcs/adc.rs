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
            Self::Metadata => Some(Arc::new(MetadataServiceAccount::new().await?)),
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
            Self::Metadata | Self::Gcloud => true,
        }
    }
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
        assert!(Place::Metadata.is_empty(&AuthError::Str("token request failed")));
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
