//! Multipart bodies, which uploads (`multipart/related`) and batches (`multipart/mixed`) use.
//!
//! Lines may end in a bare LF: Google's Python client writes its batches this way.

use bytes::Bytes;

/// A part of a multipart body.
pub(crate) struct BodyPart {
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl BodyPart {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The boundary that a `Content-Type` names.
pub(crate) fn parse_boundary(content_type: &str) -> Option<String> {
    let (_, parameters) = content_type.split_once(';')?;
    let value = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim())
    })?;
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (!value.is_empty()).then(|| value.to_owned())
}

/// Splits `body` into its parts without copying them. Returns `None` when it is malformed or has no end.
pub(crate) fn parse_parts(body: &Bytes, boundary: &str) -> Option<Vec<BodyPart>> {
    let delimiter = [b"\n--", boundary.as_bytes()].concat();
    // No line needs to precede the first delimiter.
    let mut at =
        if body.starts_with(&delimiter[1..]) { delimiter.len() - 1 } else { find(body, &delimiter)? + delimiter.len() };
    let mut parts = Vec::new();
    loop {
        if body[at..].starts_with(b"--") {
            return Some(parts);
        }

        // Blanks may follow a delimiter. The end of its line is kept, since it may also start the next delimiter.
        at += find(&body[at..], b"\n")?;
        let length = find(&body[at + 1..], &delimiter).map(|length| length + 1).or_else(|| {
            // An empty part: the end of its delimiter's line is the start of the next delimiter.
            body[at..].starts_with(&delimiter).then_some(0)
        })?;

        let end = at + length;
        let trimmed = if end > at + 1 && body[end - 1] == b'\r' { end - 1 } else { end };
        parts.push(parse_part(&body.slice((at + 1).min(trimmed)..trimmed))?);
        at = end + delimiter.len();
    }
}

fn parse_part(whole: &Bytes) -> Option<BodyPart> {
    let (head, body) = split_head(whole)?;
    Some(BodyPart { headers: parse_headers(head)?, body })
}

/// Splits header lines from the body at the empty line, which may be the first. Without an empty line there is no body.
pub(crate) fn split_head(whole: &Bytes) -> Option<(&str, Bytes)> {
    let mut line = 0;
    while let Some(length) = find(&whole[line..], b"\n") {
        let next = line + length + 1;
        if matches!(&whole[line..next], b"\n" | b"\r\n") {
            return Some((std::str::from_utf8(&whole[..line]).ok()?, whole.slice(next..)));
        }
        line = next;
    }
    Some((std::str::from_utf8(whole).ok()?, Bytes::new()))
}

/// Parses header lines. Converts their names to lower case.
pub(crate) fn parse_headers(head: &str) -> Option<Vec<(String, String)>> {
    head.lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect()
}

/// The position of `needle`. Searches for its first byte, which is a line feed here, and rare.
fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = haystack[from..].iter().position(|byte| *byte == needle[0]) {
        if haystack[from + at..].starts_with(needle) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boundaries_are_found() {
        assert_eq!(parse_boundary("multipart/related; boundary=\"==a==\"").as_deref(), Some("==a=="));
        assert_eq!(parse_boundary("multipart/mixed; x=y; Boundary=b1").as_deref(), Some("b1"));
        assert_eq!(parse_boundary("multipart/mixed"), None);
    }

    #[test]
    fn bodies_split_into_parts() {
        let body = Bytes::from_static(
            b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\n\r\nx\r\n--y\r\n--b  \r\nA: b\r\n\r\n\r\n--b--\r\n",
        );
        let parts = parse_parts(&body, "b").unwrap();
        assert_eq!(parts.iter().map(|part| &part.body[..]).collect::<Vec<_>>(), [&b"{}"[..], b"x\r\n--y", b""]);
        assert_eq!(parts[0].header("content-type"), Some("application/json"));
        assert_eq!(parts[2].header("a"), Some("b"));
        let unix = Bytes::from_static(b"--b\nA: b\nC: d\n\nDELETE /x HTTP/1.1\n\n--b--");
        let parts = parse_parts(&unix, "b").unwrap();
        assert_eq!((parts[0].header("c"), &parts[0].body[..]), (Some("d"), &b"DELETE /x HTTP/1.1\n"[..]));
        assert!(parse_parts(&Bytes::from_static(b"--b\r\n\r\nno end"), "b").is_none());
        assert!(parse_parts(&Bytes::from_static(b""), "b").is_none());
    }
}
