//! One request: headers, token, status.

use std::fmt;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderValue};
use reqwest::{Method, Request, RequestBuilder, Response, StatusCode, Url};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::adc::Adc;
use super::answer;
use super::auth::{Bearer, LOGIN, SharedToken};
use super::config::{Credentials, GcsConfig};
use super::connection::{broken, build, client_builder, is_loopback};
use crate::os;
use crate::store::Attempt;
use crate::store::uri::redact;
use crate::{Error, ErrorKind, Result};

/// Maximum number of bytes that are read of an error's body.
const MAX_ERROR_BODY: usize = 64 << 10;

/// A permission that a request needs, and a role that includes it.
#[derive(Clone, Copy)]
pub(super) struct Permission {
    pub(super) name: &'static str,
    pub(super) role: &'static str,
}

const VIEWER: &str = "roles/storage.objectViewer";
const USER: &str = "roles/storage.objectUser";
pub(super) const LIST: Permission = Permission { name: "storage.objects.list", role: VIEWER };
pub(super) const GET: Permission = Permission { name: "storage.objects.get", role: VIEWER };
pub(super) const CREATE: Permission = Permission { name: "storage.objects.create", role: USER };
pub(super) const UPDATE: Permission = Permission { name: "storage.objects.update", role: USER };
pub(super) const DELETE: Permission = Permission { name: "storage.objects.delete", role: USER };

/// What a request is for, as its errors report it.
pub(super) struct RequestTask<'a> {
    pub(super) permission: Permission,
    /// The object or bucket.
    pub(super) about: &'a (dyn fmt::Display + Sync),
}

impl RequestTask<'_> {
    /// Completes the error of an answer that can't be parsed.
    pub(super) fn malformed(&self, error: Error) -> Error {
        error.object(self.about).hint("is this a Google Cloud Storage endpoint, and nothing in between rewrites it?")
    }
}

/// Limits the requests under way in this process, over all clients: each has a connection, which is an open file. The
/// wait for a permit counts as waiting for the answer. No holder of a permit waits for another one.
static REQUESTS: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(os::file_shares().requests));

/// Permission to use one connection, held until the body of the answer is read or dropped.
pub(super) type ConnectionPermit = SemaphorePermit<'static>;

/// An answer whose body has not been read.
pub(super) struct HttpAnswer {
    pub(super) response: Response,
    /// Kept until the body is read or dropped.
    pub(super) permit: ConnectionPermit,
}

/// Sends requests to one endpoint.
pub(super) struct Http {
    client: reqwest::Client,
    /// URL without a trailing slash.
    base: String,
    origin: Url,
    tokens: Option<Arc<SharedToken>>,
    user_project: Option<HeaderValue>,
}

impl Http {
    pub(super) fn new(config: &GcsConfig) -> Result<Self> {
        let refuse = |message: &str| Error::new(ErrorKind::Config, message).object(redact(&config.endpoint));
        let origin = Url::parse(&config.endpoint)
            .map_err(|error| refuse("the endpoint is no URL").with_source(error))
            .and_then(|url| match url.scheme() {
                "http" | "https" if url.has_host() && url.query().is_none() && url.fragment().is_none() => Ok(url),
                _ => Err(refuse("the endpoint is no URL of a server")),
            })
            .map_err(|error| error.hint("give it like https://storage.googleapis.com or http://127.0.0.1:9000"))?;
        if !origin.username().is_empty() || origin.password().is_some() {
            return Err(Error::new(ErrorKind::Config, "the endpoint holds a user name or password")
                .hint("hand credentials over in GcsConfig::credentials"));
        }
        let encrypted = origin.scheme() == "https";
        let tokens = match config.credentials.clone() {
            Credentials::Anonymous => None,
            _ if !encrypted && !is_loopback(&origin) => {
                return Err(
                    refuse("a token would be sent without encryption").hint("use https, or anonymous credentials")
                );
            }
            Credentials::Default => {
                Some(Arc::new(SharedToken::new(Arc::new(Adc::new(config.system_proxy)), config.scope())))
            }
            Credentials::Source(source) => Some(Arc::new(SharedToken::new(source, config.scope()))),
        };
        let user_project = config.user_project.as_ref().map(HeaderValue::try_from).transpose();
        let user_project =
            user_project.map_err(|error| refuse("the user project can't be sent in a header").with_source(error))?;

        let client = build(client_builder(encrypted, config.system_proxy))?;
        let base = origin.as_str().trim_end_matches('/').to_owned();
        Ok(Self { client, base, origin, tokens, user_project })
    }

    /// The same endpoint and tokens, with connections of its own.
    pub(super) fn reconnected(&self, config: &GcsConfig) -> Result<Self> {
        Ok(Self {
            client: build(client_builder(self.origin.scheme() == "https", config.system_proxy))?,
            base: self.base.clone(),
            origin: self.origin.clone(),
            tokens: self.tokens.clone(),
            user_project: self.user_project.clone(),
        })
    }

    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn client(&self) -> &reqwest::Client {
        &self.client
    }

    /// Whether a URL is on the server that tokens are for.
    fn accepts_tokens(&self, url: &Url) -> bool {
        url.origin() == self.origin.origin()
    }

    /// A request that changes nothing.
    pub(super) fn query(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}/storage/v1{path}", self.base))
    }

    /// A request that changes something. The service carries out the attempts of one call only once.
    pub(super) fn mutation(&self, method: Method, path: &str, attempt: &Attempt) -> RequestBuilder {
        self.query(method, path).header("x-goog-gcs-idempotency-token", uuid(attempt.call))
    }

    /// Sends a request and returns its answer if that is a success.
    pub(super) async fn send(
        &self,
        request: RequestBuilder,
        attempt: &Attempt,
        task: &RequestTask<'_>,
    ) -> Result<HttpAnswer> {
        let (answer, bearer) = self.send_any(request, attempt, task).await?;
        if answer.response.status().is_success() { Ok(answer) } else { Err(self.refused(answer, bearer, task).await) }
    }

    /// Sends a request and reads its answer, a JSON text.
    pub(super) async fn json(
        &self,
        request: RequestBuilder,
        attempt: &Attempt,
        task: &RequestTask<'_>,
    ) -> Result<String> {
        let answer = self.send(request, attempt, task).await?;
        text(answer).await.map_err(|error| error.object(task.about))
    }

    /// Sends a request and returns its answer, whatever its status, and the token that was sent.
    pub(super) async fn send_any(
        &self,
        request: RequestBuilder,
        attempt: &Attempt,
        task: &RequestTask<'_>,
    ) -> Result<(HttpAnswer, Option<Bearer>)> {
        let mut request = request.build().map_err(|error| {
            Error::new(ErrorKind::Config, "this can't be sent as a request")
                .object(task.about)
                .with_source(error.without_url())
        })?;
        let bearer = match &self.tokens {
            Some(tokens) if self.accepts_tokens(request.url()) => {
                Some(tokens.bearer().await.map_err(|error| error.object(task.about))?)
            }
            _ => None,
        };
        self.add_headers(&mut request, attempt, bearer.as_ref());
        let permit = REQUESTS.acquire().await;
        let permit = permit.map_err(|_| Error::new(ErrorKind::Internal, "the limit of connections is closed"))?;
        let response = self.client.execute(request).await.map_err(|error| broken(error).object(task.about))?;
        Ok((HttpAnswer { response, permit }, bearer))
    }

    fn add_headers(&self, request: &mut Request, attempt: &Attempt, bearer: Option<&Bearer>) {
        let headers = request.headers_mut();
        let client = format!("gccl-invocation-id/{} gccl-attempt-count/{}", uuid(attempt.call), attempt.number);
        if let Ok(client) = HeaderValue::try_from(client) {
            headers.insert("x-goog-api-client", client);
        }
        if let Some(project) = &self.user_project {
            headers.insert("x-goog-user-project", project.clone());
        }
        if let Some(bearer) = bearer {
            headers.insert(AUTHORIZATION, bearer.header.clone());
        }
    }

    /// The error of an answer that is no success. Drops the token if the service refused it.
    pub(super) async fn refused(&self, answer: HttpAnswer, bearer: Option<Bearer>, task: &RequestTask<'_>) -> Error {
        let HttpAnswer { mut response, permit: _permit } = answer;
        let status = response.status();
        let anonymous = bearer.is_none();
        let secret = bearer.as_ref().and_then(Bearer::token);
        if status == StatusCode::UNAUTHORIZED
            && let (Some(tokens), Some(bearer)) = (&self.tokens, bearer)
        {
            tokens.drop_refused(&bearer);
        }
        let mut body = Vec::new();
        while body.len() < MAX_ERROR_BODY {
            // The status matters more than the body, so a body that breaks off is used as far as it came.
            let Ok(Some(chunk)) = response.chunk().await else { break };
            body.extend_from_slice(&chunk[..chunk.len().min(MAX_ERROR_BODY - body.len())]);
        }
        let error = answer::status_error(status, response.headers(), &body, secret.as_deref()).object(task.about);
        match error.kind() {
            ErrorKind::PermissionDenied => {
                let Permission { name, role } = task.permission;
                error.hint(format!("this takes {name}: ask for {role}"))
            }
            // Without a token the service answers 401 where it answers 403 with one.
            ErrorKind::Unauthenticated if anonymous => error.with_kind(ErrorKind::PermissionDenied).hint(format!(
                "anonymous callers may not do this, which takes {}; is the bucket public? use credentials",
                task.permission.name
            )),
            ErrorKind::Unauthenticated => error.hint(format!("the token is expired or revoked: {LOGIN}")),
            _ => error,
        }
    }
}

/// Reads a whole body as text.
pub(super) async fn text(answer: HttpAnswer) -> Result<String> {
    let HttpAnswer { response, permit: _permit } = answer;
    let bytes: Bytes = response.bytes().await.map_err(broken)?;
    String::from_utf8(bytes.into()).map_err(|error| {
        Error::new(ErrorKind::Protocol, "the answer isn't text; perhaps it is compressed")
            .with_source(error.utf8_error())
    })
}

/// Writes a call's number as a random (version 4) UUID.
pub(super) fn uuid(call: u128) -> String {
    let bits = call & !(0xf << 76 | 0x3 << 62) | 0x4 << 76 | 0x2 << 62;
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::store::{GcsStore, Token, TokenSource};

    #[test]
    fn a_call_is_written_as_a_uuid() {
        assert_eq!(uuid(0), "00000000-0000-4000-8000-000000000000");
        assert_eq!(uuid(u128::MAX), "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }

    struct SecretHeader;

    #[async_trait::async_trait]
    impl TokenSource for SecretHeader {
        async fn token(&self, _: &[&str]) -> Result<Token> {
            Ok(Token::new("hunter2", Duration::from_secs(60)))
        }
    }

    #[tokio::test]
    async fn the_url_of_a_broken_request_is_not_shown() {
        // The URL of an upload session is as good as a token.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let http = Http::new(&GcsConfig::new().endpoint("127.0.0.1").credentials(Credentials::Anonymous)).unwrap();
        let error = http.client().get(format!("http://127.0.0.1:{port}/?upload_id=hunter2")).send().await.unwrap_err();
        assert!(format!("{error:?}").contains("hunter2"), "the error underneath shows the URL");
        let error = broken(error);
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }

    #[test]
    fn a_token_is_sent_encrypted_or_within_this_machine() {
        let config = |url| GcsConfig::new().endpoint(url).credentials(Credentials::Source(Arc::new(SecretHeader)));
        for url in ["http://127.0.0.1:1", "http://localhost", "http://[::1]:8080"] {
            GcsStore::new(config(url)).unwrap();
        }
        let error = GcsStore::new(config("http://storage.test")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        GcsStore::new(GcsConfig::new().endpoint("storage.test").credentials(Credentials::Anonymous)).unwrap();
    }

    #[test]
    fn malformed_endpoints_are_refused() {
        for url in [
            "",
            "ftp://host",
            "http://",
            "http://host/?a=b",
            "http://user:hunter2@host",
            "http://user:hunter2@host/?a=b",
            "http://user:hunter2@a host",
            "http://host/?key=hunter2",
            "user:hunter2@host",
        ] {
            let config = GcsConfig::new().endpoint(url).credentials(Credentials::Anonymous);
            let shown = format!("{config:?}");
            let error = GcsStore::new(config).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config, "{url}");
            let shown = format!("{shown} {error} {error:?}");
            assert!(!shown.contains("hunter2"), "{shown}");
        }
    }
}
