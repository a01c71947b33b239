//! Grants: the exchange of a credentials file for a token.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use reqwest::header::CONTENT_TYPE;
use reqwest::{StatusCode, Url};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;

use super::auth::{LOGIN, Token};
use super::path::encode;
use super::{answer, connection};
use crate::{Error, ErrorKind, Result};

/// The token server, if the file doesn't name one.
const TOKEN_SERVER: &str = "https://oauth2.googleapis.com/token";

/// Longest wait for a token server, which usually answers within some tens of milliseconds.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum number of bytes that are read of an answer. A token has about 1,000.
const MAX_ANSWER: usize = 64 << 10;

/// The fields of a credentials file that this crate uses. It holds secrets, so it isn't `Debug`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct CredentialsFile {
    r#type: String,
    client_email: String,
    private_key: String,
    client_id: String,
    client_secret: String,
    refresh_token: String,
    token_uri: Option<String>,
}

/// Credentials that can be exchanged for a token: the key of a service account, or a user's login.
pub(super) struct Grant {
    secret: Secret,
    server: Url,
}

enum Secret {
    ServiceAccount { email: String, key: RsaKeyPair },
    User { client_id: String, client_secret: String, refresh_token: String },
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").finish_non_exhaustive()
    }
}

impl Grant {
    /// Parses a credentials file. No error shows its contents, except for the type of the credentials.
    pub(super) fn parse(text: &[u8]) -> Result<Self> {
        let file: CredentialsFile = serde_json::from_slice(text).map_err(|error| {
            // A message of serde could quote a secret.
            refusal("this isn't a credentials file")
                .mismatch("JSON", format!("an error in line {}, column {}", error.line(), error.column()))
        })?;
        let secret = match file.r#type.as_str() {
            "service_account" | "" if !file.private_key.is_empty() && !file.client_email.is_empty() => {
                Secret::ServiceAccount { key: rsa_key(&file.private_key)?, email: file.client_email }
            }
            "authorized_user" | "" if !file.refresh_token.is_empty() && !file.client_id.is_empty() => Secret::User {
                client_id: file.client_id,
                client_secret: file.client_secret,
                refresh_token: file.refresh_token,
            },
            "service_account" | "authorized_user" | "" => return Err(refusal("a credentials file lacks fields")),
            other => {
                let other: String = other.chars().take(40).collect();
                return Err(refusal("credentials of this type are not understood")
                    .mismatch("service_account or authorized_user", other.escape_debug())
                    .hint(
                        "use the key of a service account or the login of a user; for federation and impersonation hand over a \
                         TokenSource",
                    ));
            }
        };
        let server = Url::parse(file.token_uri.as_deref().unwrap_or(TOKEN_SERVER))
            .ok()
            .filter(|url| url.scheme() == "https" || (url.scheme() == "http" && connection::is_loopback(url)))
            .ok_or_else(|| refusal("the token_uri of a credentials file is no https URL"))?;
        Ok(Self { secret, server })
    }

    /// Exchanges the grant for a token.
    pub(super) async fn token(&self, client: &reqwest::Client, scopes: &[&str]) -> Result<Token> {
        let form = self.form(scopes, SystemTime::now())?;
        let request = client.post(self.server.clone()).header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        let response = request.body(form).timeout(ANSWER_TIMEOUT).send().await.map_err(connection::broken)?;
        read(response).await?.into_token()
    }

    /// The form that requests a token.
    fn form(&self, scopes: &[&str], now: SystemTime) -> Result<String> {
        match &self.secret {
            Secret::ServiceAccount { email, key } => {
                let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                let claims = serde_json::json!({
                    "iss": email,
                    "scope": scopes.join(" "),
                    "aud": self.server.as_str(),
                    "iat": now,
                    // The longest lifetime that the server accepts.
                    "exp": now + 3_600,
                });
                let assertion = signed(key, &claims)?;
                Ok(format!(
                    "grant_type={}&assertion={assertion}",
                    encode("urn:ietf:params:oauth:grant-type:jwt-bearer")
                ))
            }
            Secret::User { client_id, client_secret, refresh_token } => Ok(format!(
                "grant_type=refresh_token&client_id={}&client_secret={}&refresh_token={}",
                encode(client_id),
                encode(client_secret),
                encode(refresh_token)
            )),
        }
    }
}

fn refusal(message: &str) -> Error {
    Error::new(ErrorKind::Unauthenticated, message).hint(LOGIN)
}

/// Parses a key in a PEM text of PKCS #8, the form in which Google issues keys.
fn rsa_key(pem: &str) -> Result<RsaKeyPair> {
    let body = pem.split_once("-----BEGIN PRIVATE KEY-----").and_then(|(_, rest)| rest.split_once("-----END"));
    let body: Option<String> = body.map(|(body, _)| body.split_whitespace().collect());
    let der = body.and_then(|body| STANDARD.decode(body).ok());
    der.and_then(|der| RsaKeyPair::from_pkcs8(&der).ok())
        .ok_or_else(|| refusal("the private key of a service account can't be read: it isn't an RSA key in PKCS #8"))
}

/// A signed JSON web token with these claims.
fn signed(key: &RsaKeyPair, claims: &serde_json::Value) -> Result<String> {
    let mut token = URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256","typ":"JWT"}"#);
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(claims.to_string(), &mut token);
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature)
        .map_err(|_| refusal("nothing can be signed with the private key of a service account"))?;
    token.push('.');
    URL_SAFE_NO_PAD.encode_string(&signature, &mut token);
    Ok(token)
}

/// The answer of a token server.
pub(super) struct TokenAnswer {
    pub(super) status: StatusCode,
    retry_after: Option<Duration>,
    body: Vec<u8>,
}

/// Reads a whole answer.
pub(super) async fn read(mut response: reqwest::Response) -> Result<TokenAnswer> {
    let retry_after = answer::retry_after(response.headers(), SystemTime::now());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(connection::broken)? {
        body.extend_from_slice(&chunk[..chunk.len().min(MAX_ANSWER - body.len())]);
    }
    Ok(TokenAnswer { status: response.status(), retry_after, body })
}

impl TokenAnswer {
    /// The token, or the error that the answer means. The error of a busy server may be retried.
    pub(super) fn into_token(self) -> Result<Token> {
        #[derive(Deserialize)]
        struct Granted {
            access_token: String,
            expires_in: u64,
        }
        if !self.status.is_success() {
            return Err(self.refused());
        }
        // A message of serde could quote the token.
        let granted: Granted = serde_json::from_slice(&self.body)
            .map_err(|_| Error::new(ErrorKind::Unavailable, "the answer of the token server holds no token"))?;
        Ok(Token::new(granted.access_token, Duration::from_secs(granted.expires_in)))
    }

    fn refused(&self) -> Error {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Refused {
            error: String,
        }
        let code = serde_json::from_slice::<Refused>(&self.body).unwrap_or_default().error;
        let code: String = code.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(60).collect();
        let message = match code.as_str() {
            "" => format!("the token server answered {}", self.status),
            code => format!("the token server answered {}, {code}", self.status),
        };
        let busy = matches!(self.status.as_u16(), 408 | 429 | 500..=599)
            || matches!(code.as_str(), "internal_failure" | "server_error" | "temporarily_unavailable");
        // The status is left out of the error, where it would be taken for a status of the storage service.
        if busy {
            return Error::new(ErrorKind::Unavailable, message).retry_after(self.retry_after);
        }
        let error = refusal(&message);
        match code.as_str() {
            "invalid_grant" => error.hint(format!(
                "the login or key was revoked or has expired, or this machine's clock is wrong: {LOGIN}"
            )),
            _ => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents};

    use super::*;

    /// A key that was made for these tests and grants access to nothing.
    const KEY: &str = include_str!("testdata/key.b64");

    fn service_account(more: &str) -> String {
        let pem =
            format!("-----BEGIN PRIVATE KEY-----\\n{}\\n-----END PRIVATE KEY-----\\n", KEY.trim().replace('\n', "\\n"));
        format!(r#"{{"type":"service_account","client_email":"me@test","private_key":"{pem}"{more}}}"#)
    }

    #[test]
    fn a_service_account_signs_its_request() {
        let grant = Grant::parse(service_account("").as_bytes()).unwrap();
        assert_eq!(grant.server.as_str(), TOKEN_SERVER);
        let form = grant.form(&["a", "b"], UNIX_EPOCH + Duration::from_secs(1_000)).unwrap();
        let assertion =
            form.strip_prefix("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=");
        let (message, signature) = assertion.unwrap().rsplit_once('.').unwrap();
        let key = rsa_key(&format!("-----BEGIN PRIVATE KEY-----{KEY}-----END PRIVATE KEY-----")).unwrap();
        let public = RsaPublicKeyComponents::<Vec<u8>>::from(key.public());
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        public.verify(&RSA_PKCS1_2048_8192_SHA256, message.as_bytes(), &signature).unwrap();
        let claims = URL_SAFE_NO_PAD.decode(message.split_once('.').unwrap().1).unwrap();
        let claims: serde_json::Value = serde_json::from_slice(&claims).unwrap();
        let wanted =
            serde_json::json!({"iss": "me@test", "scope": "a b", "aud": TOKEN_SERVER, "iat": 1_000, "exp": 4_600});
        assert_eq!(claims, wanted);
    }

    #[test]
    fn a_login_is_sent_as_a_form() {
        let file = r#"{"type":"authorized_user","client_id":"a&b","client_secret":"c=d","refresh_token":"1//e"}"#;
        let grant = Grant::parse(file.as_bytes()).unwrap();
        let form = grant.form(&["unused"], UNIX_EPOCH).unwrap();
        assert_eq!(form, "grant_type=refresh_token&client_id=a%26b&client_secret=c%3Dd&refresh_token=1%2F%2Fe");
        assert!(!format!("{grant:?}").contains("1//e"));
    }

    #[test]
    fn an_invalid_file_is_refused_without_quoting_it() {
        let insecure = service_account(r#","token_uri":"http://token.test/""#);
        for (file, said) in [
            ("hunter2", "line 1"),
            (r#"{"private_key":["hunter2"]}"#, "line 1"),
            (r#"{"type":"external_account","private_key":"hunter2"}"#, "external_account"),
            (r#"{"type":"service_account","private_key":"hunter2","client_email":"hunter2"}"#, "PKCS #8"),
            (r#"{"type":"authorized_user","refresh_token":"hunter2"}"#, "lacks fields"),
            (&insecure, "https"),
        ] {
            let error = Grant::parse(file.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unauthenticated);
            let text = format!("{error} {error:?}");
            assert!(text.contains(said) && !text.contains("hunter2"), "{text}");
        }
    }

    fn answered(status: u16, body: &str) -> Result<Token> {
        let status = StatusCode::from_u16(status).unwrap();
        TokenAnswer { status, retry_after: Some(Duration::from_secs(7)), body: body.into() }.into_token()
    }

    #[test]
    fn errors_of_a_busy_token_server_may_be_retried_and_refusals_not() {
        answered(200, r#"{"access_token":"t","expires_in":3599,"token_type":"Bearer"}"#).unwrap();
        for (status, body) in [(429, ""), (503, "<html>"), (500, "{}"), (400, r#"{"error":"internal_failure"}"#)] {
            let error = answered(status, body).unwrap_err();
            assert!(error.is_retryable(), "{status}: {error}");
            assert_eq!(error.wait_asked(), Some(Duration::from_secs(7)));
            assert_eq!(error.http_status(), None, "it isn't a status of the storage service");
        }
        let error = answered(400, r#"{"error":"invalid_grant","error_description":"hunter2"}"#).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated);
        assert!(error.to_string().contains("invalid_grant") && error.to_string().contains("clock"), "{error}");
        let nonsense = answered(200, r#"{"access_token":["hunter2"]}"#).unwrap_err();
        assert!(!format!("{error:?} {nonsense:?}").contains("hunter2"));
    }
}
