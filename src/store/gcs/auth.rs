//! Access tokens: one caller fetches a token for all, before the old one expires. A refused token is dropped.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::HeaderValue;
use tokio::time::Instant;
use tracing::warn;

use crate::{Error, ErrorKind, Result};

/// How long before it expires a token is replaced. The metadata server returns the same token until 5 minutes before it
/// expires, so asking earlier gains nothing. A call may take minutes, so its token could expire if it were replaced
/// much later.
const REFRESH_MARGIN: Duration = Duration::from_secs(240);

/// Wait between two attempts to replace a token that is still valid.
const REFRESH_RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// How long a failure is the answer to all callers. Without it thousands of retried calls would ask a busy token server
/// thousands of times a second; with it the server is asked five times a second at most, or as its `Retry-After` says.
const FAILURE_LIFETIME: Duration = Duration::from_millis(200);

/// Longest wait for which the `Retry-After` of a token server is followed.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// An OAuth 2.0 access token. `Debug` doesn't show the secret.
#[derive(Clone)]
pub struct Token {
    secret: String,
    lifetime: Duration,
}

impl Token {
    /// A token that is valid for `lifetime` from now.
    pub fn new(secret: impl Into<String>, lifetime: Duration) -> Self {
        Self { secret: secret.into(), lifetime }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// A source of tokens, for credentials that this crate doesn't support itself.
///
/// ```
/// use std::time::Duration;
/// use dataflux::store::{Token, TokenSource};
///
/// struct Fixed(String);
///
/// #[async_trait::async_trait]
/// impl TokenSource for Fixed {
///     async fn token(&self, _scopes: &[&str]) -> dataflux::Result<Token> {
///         Ok(Token::new(self.0.clone(), Duration::from_secs(3600)))
///     }
/// }
/// ```
#[async_trait]
pub trait TokenSource: Send + Sync + 'static {
    /// Fetches a new token. It must not return an earlier one, which may just have been refused. Calls don't overlap.
    async fn token(&self, scopes: &[&str]) -> Result<Token>;
}

/// The hint for errors of credentials.
pub(super) const LOGIN: &str = "run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS to a \
     service-account key, or read anonymously if the bucket is public";

/// A token in the form in which it is sent.
#[derive(Clone)]
pub(super) struct Bearer {
    /// `Bearer …`, marked sensitive.
    pub(super) header: HeaderValue,
    /// The number of the fetch that brought it.
    serial: u64,
    /// When it is to be replaced.
    refresh_at: Instant,
    expires_at: Instant,
}

impl Bearer {
    /// The token itself, for taking it out of what is shown.
    pub(super) fn token(&self) -> Option<String> {
        let token = self.header.to_str().ok()?.strip_prefix("Bearer ")?;
        (!token.is_empty()).then(|| token.to_owned())
    }
}

/// The token that all callers of a client share.
pub(super) struct SharedToken {
    source: Arc<dyn TokenSource>,
    scope: &'static str,
    current: RwLock<Option<Bearer>>,
    /// Held by the caller that fetches a token.
    fetching: tokio::sync::Mutex<TokenFetch>,
}

#[derive(Default)]
struct TokenFetch {
    /// Number of tokens fetched.
    count: u64,
    failure: Option<FetchFailure>,
}

/// A failed fetch, which is the answer to other callers for a while.
struct FetchFailure {
    valid_until: Instant,
    error: Error,
}

impl SharedToken {
    pub(super) fn new(source: Arc<dyn TokenSource>, scope: &'static str) -> Self {
        Self { source, scope, current: RwLock::new(None), fetching: tokio::sync::Mutex::default() }
    }

    /// The token to send now.
    pub(super) async fn bearer(&self) -> Result<Bearer> {
        let now = Instant::now();
        match self.current() {
            Some(bearer) if now < bearer.refresh_at => Ok(bearer),
            // It is still valid: one caller replaces it, and the others use it.
            Some(bearer) if now < bearer.expires_at => match self.fetching.try_lock() {
                Err(_) => Ok(bearer),
                Ok(mut fetches) => match self.fetch(&mut fetches).await {
                    Ok(new) => Ok(new),
                    Err(error) => {
                        warn!(%error, "the token could not be replaced early; the old one is still valid");
                        self.set(Some(Bearer {
                            refresh_at: Instant::now() + REFRESH_RETRY_INTERVAL,
                            ..bearer.clone()
                        }));
                        Ok(bearer)
                    }
                },
            },
            _ => {
                let mut fetches = self.fetching.lock().await;
                match (self.current(), &fetches.failure) {
                    (Some(bearer), _) if Instant::now() < bearer.expires_at => Ok(bearer),
                    (_, Some(failure)) if Instant::now() < failure.valid_until => Err(failure.error.clone()),
                    _ => self.fetch(&mut fetches).await,
                }
            }
        }
    }

    /// Drops the token, if it is still the one that the service refused.
    pub(super) fn drop_refused(&self, bearer: &Bearer) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.serial == bearer.serial) {
            *current = None;
        }
    }

    async fn fetch(&self, fetches: &mut TokenFetch) -> Result<Bearer> {
        let Token { secret, lifetime } = match self.source.token(&[self.scope]).await {
            Ok(token) => token,
            Err(error) => {
                let lifetime = error.wait_asked().map_or(FAILURE_LIFETIME, |asked| asked.min(MAX_RETRY_AFTER));
                let valid_until = Instant::now() + lifetime;
                fetches.failure = Some(FetchFailure { valid_until, error: error.clone() });
                return Err(error);
            }
        };
        fetches.failure = None;
        let mut header = HeaderValue::try_from(format!("Bearer {}", secret.trim())).map_err(|_| {
            // The source is left out, since it could show the token.
            Error::new(ErrorKind::Unauthenticated, "the token can't be sent in a header").hint(LOGIN)
        })?;
        header.set_sensitive(true);
        fetches.count += 1;
        let now = Instant::now();
        // Lifetimes are limited to a day, so that no time overflows.
        let lifetime = lifetime.min(Duration::from_secs(86_400));
        let refresh_at = now + lifetime.saturating_sub(REFRESH_MARGIN.min(lifetime / 4));
        let bearer = Bearer { header, serial: fetches.count, refresh_at, expires_at: now + lifetime };
        self.set(Some(bearer.clone()));
        Ok(bearer)
    }

    fn current(&self) -> Option<Bearer> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, bearer: Option<Bearer>) {
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = bearer;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use futures_util::future::try_join_all;

    use super::*;

    #[derive(Default)]
    struct CountingSource {
        fetched: AtomicU64,
        broken: std::sync::atomic::AtomicBool,
    }

    #[async_trait]
    impl TokenSource for CountingSource {
        async fn token(&self, scopes: &[&str]) -> Result<Token> {
            assert_eq!(scopes, ["scope"]);
            let n = self.fetched.fetch_add(1, Ordering::SeqCst) + 1;
            tokio::time::sleep(Duration::from_secs(1)).await;
            if self.broken.load(Ordering::SeqCst) {
                return Err(Error::new(ErrorKind::Unavailable, "down"));
            }
            Ok(Token::new(format!("secret-{n}"), Duration::from_secs(3600)))
        }
    }

    async fn value(tokens: &SharedToken) -> String {
        tokens.bearer().await.unwrap().header.to_str().unwrap().to_owned()
    }

    #[tokio::test(start_paused = true)]
    async fn a_hundred_callers_fetch_one_token() {
        let source = Arc::new(CountingSource::default());
        let tokens = SharedToken::new(source.clone(), "scope");
        let bearers = try_join_all((0..100).map(|_| tokens.bearer())).await.unwrap();
        assert_eq!(source.fetched.load(Ordering::SeqCst), 1);
        // All of them are refused at once: one new token.
        for bearer in &bearers {
            tokens.drop_refused(bearer);
        }
        try_join_all((0..100).map(|_| tokens.bearer())).await.unwrap();
        assert_eq!(source.fetched.load(Ordering::SeqCst), 2);
        // A late refusal of the first token doesn't drop the second.
        tokens.drop_refused(&bearers[0]);
        assert_eq!(value(&tokens).await, "Bearer secret-2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_replaced_before_it_expires() {
        let source = Arc::new(CountingSource::default());
        let tokens = SharedToken::new(source.clone(), "scope");
        assert_eq!(value(&tokens).await, "Bearer secret-1");
        tokio::time::advance(Duration::from_secs(3600 - 241)).await;
        assert_eq!(value(&tokens).await, "Bearer secret-1");
        tokio::time::advance(Duration::from_secs(2)).await;
        let both = try_join_all([tokens.bearer(), tokens.bearer()]).await.unwrap();
        assert_eq!(both[0].header, "Bearer secret-2");
        assert_eq!(both[1].header, "Bearer secret-1", "no caller waits while the old one is valid");
    }

    #[tokio::test(start_paused = true)]
    async fn a_valid_token_is_used_while_its_source_fails() {
        let source = Arc::new(CountingSource::default());
        let tokens = SharedToken::new(source.clone(), "scope");
        tokens.bearer().await.unwrap();
        source.broken.store(true, Ordering::SeqCst);
        tokio::time::advance(Duration::from_secs(3600 - 200)).await;
        assert_eq!(value(&tokens).await, "Bearer secret-1");
        assert_eq!(value(&tokens).await, "Bearer secret-1");
        assert_eq!(source.fetched.load(Ordering::SeqCst), 2, "no second fetch within the interval");
        tokio::time::advance(Duration::from_secs(300)).await;
        assert_eq!(tokens.bearer().await.err().unwrap().kind(), ErrorKind::Unavailable);
    }

    /// Each of a thousand calls once asked a busy token server, one after the other.
    #[tokio::test(start_paused = true)]
    async fn a_failure_is_the_answer_to_all_waiting_callers() {
        let source = Arc::new(CountingSource::default());
        let tokens = SharedToken::new(source.clone(), "scope");
        source.broken.store(true, Ordering::SeqCst);
        let failures = futures_util::future::join_all((0..1_000).map(|_| tokens.bearer())).await;
        assert!(failures.iter().all(Result::is_err));
        assert_eq!(source.fetched.load(Ordering::SeqCst), 1);
        source.broken.store(false, Ordering::SeqCst);
        tokio::time::advance(FAILURE_LIFETIME).await;
        assert_eq!(value(&tokens).await, "Bearer secret-2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_dropped_future_does_not_block_the_others() {
        let tokens = SharedToken::new(Arc::new(CountingSource::default()), "scope");
        let left = tokio::time::timeout(Duration::from_millis(500), tokens.bearer()).await;
        assert!(left.is_err());
        assert_eq!(value(&tokens).await, "Bearer secret-2");
    }

    #[test]
    fn debug_does_not_show_it() {
        let token = Token::new("hunter2", Duration::from_secs(1));
        assert!(!format!("{token:?}").contains("hunter2"));
    }
}
