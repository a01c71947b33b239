//! Multipart bodies, as uploads (`multipart/related`) and batches (`multipart/mixed`) use them.
//!
//! Lines may end in LF alone: Google's Python client writes its batches so.

use bytes::Bytes;

/// The headers of a part, names in lower case, and its body.
pub(crate) struct Part {
    headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

impl Part {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// The boundary in a `Content-Type`.
pub(crate) fn boundary(content_type: &str) -> Option<String> {
    let (_, parameters) = content_type.split_once(';')?;
    let value = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim())
    })?;
    let value = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    (!value.is_empty()).then(|| value.to_owned())
}

/// The parts of `body`, none of which is copied; None when it is malformed or has no end.
pub(crate) fn parse(body: &Bytes, boundary: &str) -> Option<Vec<Part>> {
    let delimiter = [b"\n--", boundary.as_bytes()].concat();
    // The first delimiter may have no line before it.
    let mut at =
        if body.starts_with(&delimiter[1..]) { delimiter.len() - 1 } else { find(body, &delimiter)? + delimiter.len() };
    let mut parts = Vec::new();
    loop {
        if body[at..].starts_with(b"--") {
            return Some(parts);
        }
        // Blanks may follow a delimiter. The line's end is kept: it may be all that a part without a body has.
        at += find(&body[at..], b"\n")?;
        let length = find(&body[at + 1..], &delimiter).map(|length| length + 1).or_else(|| {
            // An empty part: its delimiter's line end is that of the next one.
            body[at..].starts_with(&delimiter).then_some(0)
        })?;
        let end = at + length;
        let trimmed = if end > at + 1 && body[end - 1] == b'\r' { end - 1 } else { end };
        parts.push(part(&body.slice((at + 1).min(trimmed)..trimmed))?);
        at = end + delimiter.len();
    }
}

fn part(whole: &Bytes) -> Option<Part> {
    let (head, body) = split_head(whole)?;
    Some(Part { headers: headers(head)?, body })
}

/// Splits at the empty line, which may come first. Without one everything is head.
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

/// Header lines, names in lower case.
pub(crate) fn headers(head: &str) -> Option<Vec<(String, String)>> {
    head.lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect()
}

/// Where `needle` starts. Looks for its first byte, which is a line feed here and rare.
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
    fn boundaries() {
        assert_eq!(boundary("multipart/related; boundary=\"==a==\"").as_deref(), Some("==a=="));
        assert_eq!(boundary("multipart/mixed; x=y; Boundary=b1").as_deref(), Some("b1"));
        assert_eq!(boundary("multipart/mixed"), None);
    }

    #[test]
    fn parts() {
        let body = Bytes::from_static(
            b"--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\n\r\nx\r\n--y\r\n--b  \r\nA: b\r\n\r\n\r\n--b--\r\n",
        );
        let parts = parse(&body, "b").unwrap();
        assert_eq!(parts.iter().map(|part| &part.body[..]).collect::<Vec<_>>(), [&b"{}"[..], b"x\r\n--y", b""]);
        assert_eq!(parts[0].header("content-type"), Some("application/json"));
        assert_eq!(parts[2].header("a"), Some("b"));
        let unix = Bytes::from_static(b"--b\nA: b\nC: d\n\nDELETE /x HTTP/1.1\n\n--b--");
        let parts = parse(&unix, "b").unwrap();
        assert_eq!((parts[0].header("c"), &parts[0].body[..]), (Some("d"), &b"DELETE /x HTTP/1.1\n"[..]));
        assert!(parse(&Bytes::from_static(b"--b\r\n\r\nno end"), "b").is_none());
        assert!(parse(&Bytes::from_static(b""), "b").is_none());
    }
}
