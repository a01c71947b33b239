//! Multipart bodies, as uploads (`multipart/related`) and batches (`multipart/mixed`) use them.

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
    let delimiter = [b"\r\n--", boundary.as_bytes()].concat();
    // The first delimiter has no line before it.
    let mut at =
        if body.starts_with(&delimiter[2..]) { delimiter.len() - 2 } else { find(body, &delimiter)? + delimiter.len() };
    let mut parts = Vec::new();
    loop {
        if body[at..].starts_with(b"--") {
            return Some(parts);
        }
        // Blanks may follow a delimiter.
        at += find(&body[at..], b"\r\n")? + 2;
        let length = find(&body[at..], &delimiter)?;
        parts.push(part(&body.slice(at..at + length))?);
        at += length + delimiter.len();
    }
}

fn part(whole: &Bytes) -> Option<Part> {
    let (head, body) = split_head(whole)?;
    Some(Part { headers: headers(head)?, body })
}

/// Splits at the empty line, which may come first.
pub(crate) fn split_head(whole: &Bytes) -> Option<(&str, Bytes)> {
    if whole.starts_with(b"\r\n") {
        return Some(("", whole.slice(2..)));
    }
    let end = find(whole, b"\r\n\r\n").unwrap_or(whole.len());
    let body = whole.slice((end + 4).min(whole.len())..);
    Some((std::str::from_utf8(&whole[..end]).ok()?, body))
}

/// Header lines, names in lower case.
pub(crate) fn headers(head: &str) -> Option<Vec<(String, String)>> {
    head.split("\r\n")
        .filter(|line| !line.is_empty())
        .map(|line| {
            let (name, value) = line.split_once(':')?;
            Some((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect()
}

/// Where `needle` starts. Looks for its first byte, which is a carriage return here and rare.
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
        assert!(parse(&Bytes::from_static(b"--b\r\n\r\nno end"), "b").is_none());
        assert!(parse(&Bytes::from_static(b""), "b").is_none());
    }
}
