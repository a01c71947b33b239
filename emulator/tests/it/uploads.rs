use dataflux_emulator::Emulator;
use serde_json::json;

use crate::http::{Answer, delete, get, send};

const CHUNK: usize = 256 * 1_024;
const START: &str = "/upload/storage/v1/b/bucket/o?uploadType=resumable";

fn emulator() -> Emulator {
    Emulator::builder().bucket("bucket").start().unwrap()
}

fn multipart(emulator: &Emulator, query: &str, resource: &str, media: &[u8]) -> Answer {
    let head =
        format!("--sep\r\nContent-Type: application/json\r\n\r\n{resource}\r\n--sep\r\nContent-Type: a/b\r\n\r\n");
    let body = [head.as_bytes(), media, b"\r\n--sep--\r\n"].concat();
    let target = format!("/upload/storage/v1/b/bucket/o?uploadType=multipart&{query}");
    send(emulator, "POST", &target, &[("content-type", "multipart/related; boundary=sep")], &body)
}

#[test]
fn objects_are_uploaded_in_one_request() {
    let emulator = emulator();
    let media = "/upload/storage/v1/b/bucket/o?uploadType=media&name=a%2Fb";
    let made = send(&emulator, "POST", media, &[("content-type", "x/y")], b"media");
    assert_eq!((made.status, &made.json()["contentType"]), (200, &json!("x/y")));
    assert_eq!(emulator.get("bucket", "a/b").unwrap(), "media");
    let bytes: Vec<u8> = (0..=255).cycle().take(5_000).chain(*b"\r\n--se\r\n--").collect();
    let made = multipart(
        &emulator,
        "",
        r#"{"name":"m","metadata":{"k":"v"},"contentEncoding":"br","storageClass":"NEARLINE"}"#,
        &bytes,
    );
    assert_eq!(made.status, 200, "{}", made.text());
    let made = made.json();
    assert_eq!((&made["contentType"], &made["contentEncoding"]), (&json!("a/b"), &json!("br")));
    assert_eq!((&made["storageClass"], &made["metadata"]["k"]), (&json!("NEARLINE"), &json!("v")));
    assert_eq!(emulator.get("bucket", "m").unwrap(), bytes);
    assert_eq!(multipart(&emulator, "name=empty", "{}", b"").json()["size"], "0");
    assert_eq!(get(&emulator, "/storage/v1/b/bucket/o/empty?alt=media").body, b"");
}

#[test]
fn invalid_uploads_are_refused() {
    let emulator = emulator();
    let made = multipart(
        &emulator,
        "ifGenerationMatch=0",
        r#"{"name":"x","crc32c":"yZRlqg==","md5Hash":"XrY7u+Ae7tCTyyK7j1rNww=="}"#,
        b"hello world",
    );
    assert_eq!(made.status, 200, "{}", made.text());
    for (query, resource, status) in [
        ("ifGenerationMatch=0", r#"{"name":"x"}"#, 412),
        ("ifGenerationMatch=1", r#"{"name":"x"}"#, 412),
        ("ifGenerationMatch=1", r#"{"name":"new"}"#, 412),
        ("", r#"{"name":"y","crc32c":"AAAAAA=="}"#, 400),
        ("", r#"{"name":"y","md5Hash":"AAAAAA=="}"#, 400),
        ("", "{}", 400),
        ("", r#"{"name":".."}"#, 400),
        ("", r#"{"name":"a\nb"}"#, 400),
        ("", r#"{"name":"y","storageClass":"GOLD"}"#, 400),
        ("", "{", 400),
    ] {
        assert_eq!(multipart(&emulator, query, resource, b"hello world").status, status, "{query} {resource}");
    }
    let bad = send(
        &emulator,
        "POST",
        "/upload/storage/v1/b/bucket/o?uploadType=multipart&name=y",
        &[("content-type", "multipart/related; boundary=q")],
        b"--q\r\n\r\n{}\r\n--q--",
    );
    assert_eq!(bad.status, 400);
    let hashed = |hash: &str| {
        send(
            &emulator,
            "POST",
            "/upload/storage/v1/b/bucket/o?uploadType=media&name=h",
            &[("x-goog-hash", hash)],
            b"hello world",
        )
    };
    assert_eq!(hashed("crc32c=AAAAAA==").status, 400);
    assert_eq!(hashed("crc32c=yZRlqg==").status, 200);
    assert_eq!(emulator.names("bucket"), ["h", "x"]);
    let nowhere = send(&emulator, "POST", "/upload/storage/v1/b/absent/o?uploadType=media&name=y", &[], b"");
    assert_eq!(nowhere.status, 404);
}

fn start(emulator: &Emulator, query: &str, headers: &[(&str, &str)]) -> String {
    let answer = send(emulator, "POST", &format!("{START}{query}"), headers, br#"{"metadata":{"k":"v"}}"#);
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.header("location").unwrap().to_owned()
}

fn put(emulator: &Emulator, session: &str, range: &str, body: &[u8]) -> Answer {
    let range = [("content-range", range)];
    send(emulator, "PUT", session, if range[0].1.is_empty() { &[] } else { &range }, body)
}

#[test]
fn resumable_uploads_take_chunks() {
    let emulator = emulator();
    let bytes: Vec<u8> = (0..2 * CHUNK + 1_000).map(|i| (i / 7) as u8).collect();
    let total = bytes.len();
    let session = start(&emulator, "&name=r", &[("x-upload-content-type", "x/y")]);
    let status = |expected: Option<&str>| {
        let answer = put(&emulator, &session, "bytes */*", b"");
        assert_eq!((answer.status, answer.header("range")), (308, expected));
    };
    status(None);
    let first = put(&emulator, &session, &format!("bytes 0-{}/*", CHUNK - 1), &bytes[..CHUNK]);
    assert_eq!((first.status, first.header("range")), (308, Some("bytes=0-262143")));
    status(Some("bytes=0-262143"));
    assert_eq!(
        put(&emulator, &session, &format!("bytes {CHUNK}-{}/*", CHUNK + 999), &bytes[CHUNK..CHUNK + 1_000]).status,
        400
    );
    assert_eq!(
        put(&emulator, &session, &format!("bytes {}-{}/*", 2 * CHUNK, 3 * CHUNK - 1), &bytes[..CHUNK]).status,
        400,
        "a gap"
    );
    assert_eq!(put(&emulator, &session, "bytes 5-4/*", b"").status, 400);
    // Bytes that are stored already are skipped.
    let again = put(&emulator, &session, &format!("bytes 0-{}/{total}", 2 * CHUNK - 1), &bytes[..2 * CHUNK]);
    assert_eq!((again.status, again.header("range")), (308, Some("bytes=0-524287")));
    assert!(emulator.names("bucket").is_empty(), "the object does not exist before the last byte");
    assert_eq!(put(&emulator, &session, "bytes */7", b"").status, 400, "the size differs from the announced one");
    let last = put(&emulator, &session, &format!("bytes {}-{}/{total}", 2 * CHUNK, total - 1), &bytes[2 * CHUNK..]);
    assert_eq!(
        (last.status, &last.json()["metadata"]["k"], &last.json()["contentType"]),
        (200, &json!("v"), &json!("x/y"))
    );
    assert_eq!(emulator.get("bucket", "r").unwrap(), bytes);
    let asked = put(&emulator, &session, &format!("bytes */{total}"), b"");
    assert_eq!((asked.status, asked.json()), (200, last.json()), "a finished session repeats its answer");
    assert_eq!(emulator.stats().upload_chunk, 10);
}

#[test]
fn resumable_uploads_take_one_put_and_unknown_lengths() {
    let emulator = emulator();
    let session = start(&emulator, "&name=one", &[]);
    assert_eq!(put(&emulator, &session, "", b"whole").status, 200);
    assert_eq!(emulator.get("bucket", "one").unwrap(), "whole");
    let session = start(&emulator, "&name=none", &[]);
    assert_eq!(put(&emulator, &session, "bytes */0", b"").status, 200);
    assert_eq!(emulator.get("bucket", "none").unwrap(), "");
    let session = start(&emulator, "&name=open", &[]);
    assert_eq!(put(&emulator, &session, &format!("bytes 0-{}/*", CHUNK - 1), &vec![1; CHUNK]).status, 308);
    assert_eq!(put(&emulator, &session, &format!("bytes */{CHUNK}"), b"").status, 200);
    assert_eq!(emulator.get("bucket", "open").unwrap().len(), CHUNK);
}

#[test]
fn ranges_up_to_the_largest_number_are_refused() {
    let emulator = emulator();
    let session = start(&emulator, "&name=x", &[]);
    for range in ["bytes 0-18446744073709551615/*", "bytes 18446744073709551615-18446744073709551615/*"] {
        assert_eq!(put(&emulator, &session, range, b"x").refusal(), (400, "invalid".to_owned()), "{range}");
    }
    assert_eq!(put(&emulator, &session, "", b"x").status, 200);
}

#[test]
fn more_bytes_than_announced_are_refused() {
    let emulator = emulator();
    let bytes = vec![1; 2 * CHUNK];
    let announced = CHUNK + 1_000;
    let session = start(&emulator, "&name=x", &[("x-upload-content-length", &announced.to_string())]);
    let whole = format!("bytes 0-{}/*", 2 * CHUNK - 1);
    assert_eq!(put(&emulator, &session, &whole, &bytes).refusal(), (400, "invalid".to_owned()));
    assert_eq!(put(&emulator, &session, "", &bytes).status, 400);
    let first = put(&emulator, &session, &format!("bytes 0-{}/*", CHUNK - 1), &bytes[..CHUNK]);
    assert_eq!(
        (first.status, first.header("range")),
        (308, Some("bytes=0-262143")),
        "nothing of the refused request was stored"
    );
    let rest = format!("bytes {CHUNK}-{}/*", 2 * CHUNK - 1);
    assert_eq!(put(&emulator, &session, &rest, &bytes[CHUNK..]).status, 400);
    let rest = format!("bytes {CHUNK}-{}/*", announced - 1);
    assert_eq!(put(&emulator, &session, &rest, &bytes[CHUNK..announced]).status, 200);
    assert_eq!(emulator.get("bucket", "x").unwrap().len(), announced);
    // A size that is announced late cannot be less than the bytes stored.
    let session = start(&emulator, "&name=y", &[]);
    assert_eq!(put(&emulator, &session, &format!("bytes 0-{}/*", CHUNK - 1), &bytes[..CHUNK]).status, 308);
    for range in ["bytes */1000", "bytes 0-999/1000"] {
        assert_eq!(
            put(&emulator, &session, range, if range.contains('-') { &bytes[..1_000] } else { b"" }).status,
            400
        );
    }
    assert_eq!(put(&emulator, &session, &format!("bytes */{CHUNK}"), b"").status, 200);
}

#[test]
fn upload_sessions_end() {
    let emulator = emulator();
    let session = start(&emulator, "&name=x", &[]);
    assert_eq!(delete(&emulator, &session).status, 499);
    assert_eq!(put(&emulator, &session, "", b"x").status, 499);
    let session = start(&emulator, "&name=x", &[]);
    emulator.expire_uploads();
    assert_eq!(put(&emulator, &session, "bytes */*", b"").status, 410);
    assert_eq!(put(&emulator, &format!("{START}&upload_id=unknown"), "", b"x").status, 404);
    let session = start(&emulator, "&name=x&ifGenerationMatch=0", &[]);
    emulator.put("bucket", "x", "first");
    assert_eq!(put(&emulator, &session, "", b"second").refusal(), (412, "conditionNotMet".to_owned()));
    assert_eq!(emulator.get("bucket", "x").unwrap(), "first");
    assert_eq!(send(&emulator, "POST", &format!("{START}&name=x&ifGenerationMatch=0"), &[], b"").status, 412);
}

#[test]
fn whole_blocks_of_a_broken_chunk_are_stored() {
    use std::io::Write;
    let emulator = emulator();
    let session = start(&emulator, "&name=x", &[]);
    let path = session.strip_prefix(emulator.endpoint()).unwrap();
    let mut stream = std::net::TcpStream::connect(&emulator.endpoint()["http://".len()..]).unwrap();
    let total = 4 * CHUNK;
    write!(
        stream,
        "PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {total}\r\nContent-Range: bytes 0-{}/{total}\r\n\r\n",
        total - 1
    )
    .unwrap();
    stream.write_all(&vec![9; 2 * CHUNK + 77]).unwrap();
    drop(stream);
    // Another thread notices the end of the connection, so ask until it has, with a generous deadline.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    let stored = loop {
        let answer = put(&emulator, &session, "bytes */*", b"");
        assert_eq!(answer.status, 308);
        if let Some(range) = answer.header("range") {
            break range.to_owned();
        }
        assert!(std::time::Instant::now() < deadline, "nothing was stored");
    };
    assert_eq!(stored, format!("bytes=0-{}", 2 * CHUNK - 1));
}
