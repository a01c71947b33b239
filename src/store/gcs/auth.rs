//! Tokens: fetched by one caller for all, ahead of their end, and dropped when refused.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use reqwest::header::HeaderValue;
use tokio::time::Instant;
use tracing::warn;

use crate::{Error, ErrorKind, Result};

/// How long before its end a token is replaced. The metadata server hands out the same token until 5 minutes before
/// its end, so that asking earlier gains nothing; a call may take minutes, so that asking much later risks it.
const EARLY: Duration = Duration::from_secs(240);

/// Wait before a replacement is fetched again after that failed while the old token still held.
const PAUSE: Duration = Duration::from_secs(10);

/// How long a failure answers for all who want a token: thousands of calls that are made again would ask a busy token
/// server thousands of times a second. With this it is asked five times a second at most, or as it says in
/// `Retry-After`.
const FAILURE_HOLDS: Duration = Duration::from_millis(200);

/// Longest time that `Retry-After` of a token server is followed without asking again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// An OAuth 2.0 access token. `Debug` doesn't show it.
#[derive(Clone)]
pub struct Token {
    secret: String,
    lifetime: Duration,
}

impl Token {
    /// A token that holds for `lifetime` from now.
    pub fn new(secret: impl Into<String>, lifetime: Duration) -> Self {
        Self { secret: secret.into(), lifetime }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// Where tokens come from, for credentials that this crate has no name for.
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
    /// Fetches a new token; never one kept from before, since this is called when that one was refused. Calls don't
    /// overlap.
    async fn token(&self, scopes: &[&str]) -> Result<Token>;
}

/// What to do without a token that works.
pub(super) const LOGIN: &str = "run `gcloud auth application-default login`, set GOOGLE_APPLICATION_CREDENTIALS to a \
     service-account key, or read anonymously if the bucket is public";

#[derive(Clone)]
pub(super) struct Bearer {
    /// `Bearer …`, marked sensitive.
    pub(super) header: HeaderValue,
    serial: u64,
    refresh: Instant,
    end: Instant,
}

/// One token for all callers.
pub(super) struct SharedToken {
    source: Arc<dyn TokenSource>,
    scope: &'static str,
    current: RwLock<Option<Bearer>>,
    /// Held by the one caller who fetches.
    fetching: tokio::sync::Mutex<TokenFetch>,
}

#[derive(Default)]
struct TokenFetch {
    /// Tokens fetched.
    count: u64,
    /// Why the last fetch failed, and until when that answers for others.
    failed: Option<(Instant, Error)>,
}

impl SharedToken {
    pub(super) fn new(source: Arc<dyn TokenSource>, scope: &'static str) -> Self {
        Self { source, scope, current: RwLock::new(None), fetching: tokio::sync::Mutex::default() }
    }

    /// The token to send now.
    pub(super) async fn bearer(&self) -> Result<Bearer> {
        let now = Instant::now();
        match self.current() {
            Some(bearer) if now < bearer.refresh => Ok(bearer),
            // It still holds: one caller replaces it, the others go on with it.
            Some(bearer) if now < bearer.end => match self.fetching.try_lock() {
                Err(_) => Ok(bearer),
                Ok(mut fetches) => match self.fetch(&mut fetches).await {
                    Ok(new) => Ok(new),
                    Err(error) => {
                        warn!(%error, "the token could not be replaced ahead of its end; the old one still holds");
                        self.set(Some(Bearer { refresh: Instant::now() + PAUSE, ..bearer.clone() }));
                        Ok(bearer)
                    }
                },
            },
            _ => {
                let mut fetches = self.fetching.lock().await;
                match (self.current(), &fetches.failed) {
                    (Some(bearer), _) if Instant::now() < bearer.end => Ok(bearer),
                    (_, Some((until, error))) if Instant::now() < *until => Err(error.clone()),
                    _ => self.fetch(&mut fetches).await,
                }
            }
        }
    }

    /// Drops the token, if it is still the one that was refused.
    pub(super) fn refused(&self, bearer: &Bearer) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_some_and(|current| current.serial == bearer.serial) {
            *current = None;
        }
    }

    async fn fetch(&self, fetches: &mut TokenFetch) -> Result<Bearer> {
        let Token { secret, lifetime } = match self.source.token(&[self.scope]).await {
            Ok(token) => token,
            Err(error) => {
                let holds = error.wait_asked().map_or(FAILURE_HOLDS, |asked| asked.min(LONGEST_PAUSE));
                fetches.failed = Some((Instant::now() + holds, error.clone()));
                return Err(error);
            }
        };
        fetches.failed = None;
        let mut header = HeaderValue::try_from(format!("Bearer {}", secret.trim())).map_err(|_| {
            // The cause is left out: it could show the token.
            Error::new(ErrorKind::Unauthenticated, "the token can't be sent in a header").hint(LOGIN)
        })?;
        header.set_sensitive(true);
        fetches.count += 1;
        let now = Instant::now();
        // Absurd lifetimes are cut to a day, which spares the arithmetic its overflow.
        let lifetime = lifetime.min(Duration::from_secs(86_400));
        let refresh = now + lifetime.saturating_sub(EARLY.min(lifetime / 4));
        let bearer = Bearer { header, serial: fetches.count, refresh, end: now + lifetime };
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
            tokens.refused(bearer);
        }
        try_join_all((0..100).map(|_| tokens.bearer())).await.unwrap();
        assert_eq!(source.fetched.load(Ordering::SeqCst), 2);
        // A late refusal of the first token doesn't cost the second.
        tokens.refused(&bearers[0]);
        assert_eq!(value(&tokens).await, "Bearer secret-2");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_replaced_ahead_of_its_end() {
        let source = Arc::new(CountingSource::default());
        let tokens = SharedToken::new(source.clone(), "scope");
        assert_eq!(value(&tokens).await, "Bearer secret-1");
        tokio::time::advance(Duration::from_secs(3600 - 241)).await;
        assert_eq!(value(&tokens).await, "Bearer secret-1");
        tokio::time::advance(Duration::from_secs(2)).await;
        let both = try_join_all([tokens.bearer(), tokens.bearer()]).await.unwrap();
        assert_eq!(both[0].header, "Bearer secret-2");
        assert_eq!(both[1].header, "Bearer secret-1", "nobody waits while the old one holds");
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_that_holds_outlives_a_broken_source() {
        let source = Arc::new(CountingSource::default());
        let tokens = SharedToken::new(source.clone(), "scope");
        tokens.bearer().await.unwrap();
        source.broken.store(true, Ordering::SeqCst);
        tokio::time::advance(Duration::from_secs(3600 - 200)).await;
        assert_eq!(value(&tokens).await, "Bearer secret-1");
        assert_eq!(value(&tokens).await, "Bearer secret-1");
        assert_eq!(source.fetched.load(Ordering::SeqCst), 2, "not fetched again within the pause");
        tokio::time::advance(Duration::from_secs(300)).await;
        assert_eq!(tokens.bearer().await.err().unwrap().kind(), ErrorKind::Unavailable);
    }

    /// Each of a thousand calls asked a busy token server for itself, one after the other.
    #[tokio::test(start_paused = true)]
    async fn a_failure_answers_for_all_who_wait() {
        let source = Arc::new(CountingSource::default());
        let tokens = SharedToken::new(source.clone(), "scope");
        source.broken.store(true, Ordering::SeqCst);
        let failures = futures_util::future::join_all((0..1_000).map(|_| tokens.bearer())).await;
        assert!(failures.iter().all(Result::is_err));
        assert_eq!(source.fetched.load(Ordering::SeqCst), 1);
        source.broken.store(false, Ordering::SeqCst);
        tokio::time::advance(FAILURE_HOLDS).await;
        assert_eq!(value(&tokens).await, "Bearer secret-2");
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_leaves_does_not_block_the_others() {
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
