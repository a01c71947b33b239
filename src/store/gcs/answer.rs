//! The meaning of statuses and headers of answers. No I/O.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use reqwest::StatusCode;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, DATE, HeaderMap, RETRY_AFTER};
use serde::Deserialize;

use super::lenient::parse_crc;
use crate::store::uri::redact;
use crate::{Error, ErrorKind, Result};

/// Maximum number of characters that an error quotes from the service.
const MAX_QUOTE: usize = 300;

/// The facts in the head of an answer that brings an object's bytes.
#[derive(Debug, Default, PartialEq)]
pub(super) struct MediaHead {
    pub(super) generation: Option<i64>,
    pub(super) stored_size: Option<u64>,
    pub(super) crc32c: Option<u32>,
    /// Position of the first byte of a partial answer, counted from 0.
    pub(super) start: Option<u64>,
}

/// Reads the head of an answer that brings an object's bytes, or a part of them.
pub(super) fn media_head(headers: &HeaderMap, is_partial: bool) -> Result<MediaHead> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::trim);
    let mut head = MediaHead {
        generation: text("x-goog-generation").and_then(|value| value.parse().ok()),
        stored_size: text("x-goog-stored-content-length").and_then(|value| value.parse().ok()),
        ..MediaHead::default()
    };
    // The hashes are in one header, separated by commas, or in a header each.
    head.crc32c = headers
        .get_all("x-goog-hash")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|hash| hash.trim().strip_prefix("crc32c="))
        .and_then(parse_crc);
    if is_partial {
        let Some((start, total)) = text(CONTENT_RANGE.as_str()).and_then(content_range) else {
            return Err(Error::new(ErrorKind::Protocol, "a partial answer doesn't say which part it is"));
        };
        head.start = Some(start);
        head.stored_size = head.stored_size.or(total);
    } else {
        head.stored_size =
            head.stored_size.or_else(|| text(CONTENT_LENGTH.as_str()).and_then(|value| value.parse().ok()));
    }
    Ok(head)
}

/// Parses the position of the first byte and the whole length from `bytes 5-9/20`.
fn content_range(value: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (start, _) = range.split_once('-')?;
    Some((start.trim().parse().ok()?, total.trim().parse().ok()))
}

/// How long `Retry-After` asks to wait. It names seconds or a date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    http_date(value).map(|date| date.duration_since(now).unwrap_or_default())
}

/// When the server answered, by its own clock.
pub(super) fn date(headers: &HeaderMap) -> Option<SystemTime> {
    http_date(headers.get(DATE)?.to_str().ok()?.trim())
}

/// Parses a date such as `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that servers may write.
fn http_date(value: &str) -> Option<SystemTime> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = value.split_once(", ")?.1.split(' ');
    let (day, word, year, clock) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let month = MONTHS.iter().position(|month| *month == word)? + 1;
    if words.next() != Some("GMT") {
        return None;
    }
    humantime::parse_rfc3339(&format!("{year}-{month:02}-{day:0>2}T{clock}Z")).ok()
}

/// The error that a status means. What it quotes of the body is without the `secret` that was sent, and without the
/// queries of addresses: proxies and emulators may answer with the request.
pub(super) fn status_error(status: StatusCode, headers: &HeaderMap, body: &[u8], secret: Option<&str>) -> Error {
    let words = ServiceMessage::parse(body, secret);
    let slow_down = ["rateLimitExceeded", "userRateLimitExceeded"];
    let kind = match status.as_u16() {
        401 => ErrorKind::Unauthenticated,
        403 if slow_down.contains(&words.reason.as_str()) => ErrorKind::RateLimited,
        403 => ErrorKind::PermissionDenied,
        404 | 410 => ErrorKind::NotFound,
        304 | 412 => ErrorKind::Precondition,
        416 => ErrorKind::Integrity,
        429 => ErrorKind::RateLimited,
        // The server doesn't implement the call, so a retry can't help.
        501 | 505 => ErrorKind::Protocol,
        408 | 500..=599 => ErrorKind::Unavailable,
        400 if words.message.to_ascii_lowercase().contains("crc32c") => ErrorKind::Integrity,
        _ => ErrorKind::Protocol,
    };
    let mut message = format!("the service answered {status}");
    if !words.reason.is_empty() {
        message = format!("{message}, {}", words.reason);
    }
    if !words.message.is_empty() {
        message = format!("{message}: {}", words.message);
    }
    let error = Error::new(kind, message).status(status.as_u16()).retry_after(retry_after(headers, SystemTime::now()));
    match kind {
        _ if words.message.contains("requester pays") => {
            error.hint("name the project that pays in GcsConfig::user_project")
        }
        ErrorKind::NotFound if words.message.to_ascii_lowercase().contains("bucket") => {
            error.hint("check the bucket's name: `gcloud storage ls` shows those you can see")
        }
        ErrorKind::NotFound => error.hint("check the name, or list the prefix again if it was there"),
        ErrorKind::RateLimited => error.hint("have fewer calls in flight, or ramp up more slowly"),
        _ => error,
    }
}

/// The service's own description of an error.
#[derive(Debug, Default, PartialEq)]
struct ServiceMessage {
    reason: String,
    message: String,
}

impl ServiceMessage {
    /// Parses `{"error":{"message","errors":[{"reason"}]}}` or an XML error; takes anything else as the message.
    fn parse(body: &[u8], secret: Option<&str>) -> Self {
        #[derive(Deserialize)]
        struct ErrorAnswer {
            error: ServiceError,
        }
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum ServiceError {
            Full {
                #[serde(default)]
                message: String,
                #[serde(default)]
                errors: Vec<ErrorDetail>,
            },
            Text(String),
        }
        #[derive(Deserialize)]
        struct ErrorDetail {
            #[serde(default)]
            reason: String,
        }
        let text = String::from_utf8_lossy(body);
        let (reason, message) = match serde_json::from_str(&text) {
            Ok(ErrorAnswer { error: ServiceError::Full { message, errors } }) => {
                (errors.into_iter().next().map(|detail| detail.reason).unwrap_or_default(), message)
            }
            Ok(ErrorAnswer { error: ServiceError::Text(text) }) => (String::new(), text),
            Err(_) => {
                let element = |name: &str| {
                    let (_, rest) = text.split_once(&format!("<{name}>"))?;
                    Some(rest.split_once("</")?.0.to_owned())
                };
                let message = element("Details").or_else(|| element("Message")).or_else(|| element("title"));
                let plain = || if text.trim_start().starts_with('<') { String::new() } else { text.to_string() };
                (element("Code").unwrap_or_default(), message.unwrap_or_else(plain))
            }
        };
        Self { reason: quote(&reason, secret), message: quote(&message, secret) }
    }
}

/// Makes a text one line of limited length without control characters and credentials.
fn quote(words: &str, secret: Option<&str>) -> String {
    let words = match secret {
        Some(secret) => Cow::Owned(words.replace(secret, "...")),
        None => Cow::Borrowed(words),
    };
    // An account such as name@example.com is no address of a server.
    let shown = |word: &str| if word.contains(['?', '/']) { redact(word) } else { word.to_owned() };
    let mut line = words.split_whitespace().map(shown).collect::<Vec<_>>().join(" ");
    line.retain(|c| !c.is_control());
    if let Some((cut, _)) = line.char_indices().nth(MAX_QUOTE) {
        line.truncate(cut);
        line.push('…');
    }
    line
}

#[cfg(test)]
mod tests {
    use reqwest::header::HeaderValue;

    use super::*;

    fn kind(status: u16, body: &str) -> ErrorKind {
        status_error(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes(), None).kind()
    }

    #[test]
    fn statuses_have_their_kinds() {
        for (status, wanted) in [
            (304, ErrorKind::Precondition),
            (307, ErrorKind::Protocol),
            (400, ErrorKind::Protocol),
            (401, ErrorKind::Unauthenticated),
            (403, ErrorKind::PermissionDenied),
            (404, ErrorKind::NotFound),
            (408, ErrorKind::Unavailable),
            (412, ErrorKind::Precondition),
            (416, ErrorKind::Integrity),
            (429, ErrorKind::RateLimited),
            (500, ErrorKind::Unavailable),
            (501, ErrorKind::Protocol),
            (503, ErrorKind::Unavailable),
        ] {
            assert_eq!(kind(status, ""), wanted, "{status}");
        }
        let body =
            r#"{"error":{"code":403,"message":"slow","errors":[{"domain":"d","reason":"userRateLimitExceeded"}]}}"#;
        assert_eq!(kind(403, body), ErrorKind::RateLimited);
        let body = r#"{"error":{"message":"Provided CRC32C \"a\" doesn't match calculated CRC32C \"b\"."}}"#;
        assert_eq!(kind(400, body), ErrorKind::Integrity);
    }

    #[test]
    fn messages_are_found_in_any_body_and_bounded() {
        let words = |body: &str| ServiceMessage::parse(body.as_bytes(), Some("hunter2"));
        let both = |reason: &str, message: &str| ServiceMessage { reason: reason.into(), message: message.into() };
        assert_eq!(
            words(r#"{"error":{"code":404,"message":"No such object","errors":[{"reason":"notFound"}]}}"#),
            both("notFound", "No such object")
        );
        assert_eq!(words(r#"{"error":"invalid_grant"}"#), both("", "invalid_grant"));
        assert_eq!(
            words("<?xml version='1.0'?><Error><Code>NoSuchKey</Code><Message>gone</Message></Error>"),
            both("NoSuchKey", "gone")
        );
        assert_eq!(words("<html><title>502 Bad Gateway</title>"), both("", "502 Bad Gateway"));
        assert_eq!(words("<html><body>"), both("", ""));
        assert_eq!(words("not\u{7} found\r\n"), both("", "not found"));
        assert_eq!(words(&"ä".repeat(10_000)).message.chars().count(), MAX_QUOTE + 1);
        assert_eq!(ServiceMessage::parse(&[0xff, 0xfe], None).message, "\u{fffd}\u{fffd}");
        let echo = "Bad token: authorization: Bearer hunter2; in http://proxy/u?upload_id=secret, http://me:pw@host/";
        let shown = "Bad token: authorization: Bearer ...; in http://proxy/u?... http://...@host/";
        assert_eq!(words(echo).message, shown);
        assert_eq!(words("me@example.com lacks access").message, "me@example.com lacks access");
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let wait = |value: &str, now: u64| {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, HeaderValue::from_str(value).unwrap())]);
            retry_after(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(now)).map(|wait| wait.as_secs())
        };
        assert_eq!(wait("120", 0), Some(120));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777 - 5), Some(5));
        assert_eq!(wait("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777 + 5), Some(0));
        assert_eq!(wait("Thu, 29 Feb 2024 00:00:00 GMT", 1_709_164_800 - 1), Some(1));
        assert_eq!(wait("Thu, 01 Jan 1970 00:00:00 GMT", 0), Some(0));
        for nonsense in ["", "soon", "-1", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49 GMT"] {
            assert_eq!(wait(nonsense, 0), None, "{nonsense}");
        }
    }

    #[test]
    fn media_heads() {
        let head = |pairs: &[(&'static str, &str)], part| {
            let mut map = HeaderMap::new();
            for (name, value) in pairs {
                map.append(*name, HeaderValue::from_str(value).unwrap());
            }
            media_head(&map, part)
        };
        let one_header = head(
            &[
                ("x-goog-generation", "7"),
                ("x-goog-hash", "crc32c=4waSgw==,md5=CY9rzUYh03PK3k6DJie09g=="),
                ("content-range", "bytes 5-9/20"),
            ],
            true,
        );
        let wanted =
            MediaHead { generation: Some(7), stored_size: Some(20), crc32c: Some(0xE306_9283), start: Some(5) };
        assert_eq!(one_header.unwrap(), wanted);
        let separate_headers =
            head(&[("x-goog-hash", "md5=CY9rzUYh03PK3k6DJie09g=="), ("x-goog-hash", "crc32c=4waSgw==")], false);
        assert_eq!(separate_headers.unwrap().crc32c, Some(0xE306_9283));
        assert_eq!(head(&[], false).unwrap(), MediaHead::default());
        assert_eq!(head(&[], true).unwrap_err().kind(), ErrorKind::Protocol);
    }
}
