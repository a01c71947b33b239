use dataflux_emulator::{BucketConfig, Call, Emulator, Fault, ObjectOptions, VirtualSpec};

use crate::http::{get, post, send};

const JSON: &str = "/storage/v1/b/tree/o";

fn tree() -> Emulator {
    let emulator = Emulator::builder().bucket("tree").start().unwrap();
    for name in ["a", "b/", "b/1", "b/2", "b/c/3", "b0", "c/x", "d&<e>", "é/1"] {
        emulator.put("tree", name, name.as_bytes().to_vec());
    }
    emulator
}

/// The texts of all elements with a name, in order. It parses only the documents of these tests.
fn texts<'a>(xml: &'a str, element: &str) -> Vec<&'a str> {
    let (open, close) = (format!("<{element}>"), format!("</{element}>"));
    xml.split(&open).skip(1).map(|rest| rest.split_once(&close).unwrap().0).collect()
}

fn encoded(text: &str) -> String {
    text.replace('%', "%25")
        .replace('+', "%2B")
        .replace('/', "%2F")
        .replace('=', "%3D")
        .replace('&', "%26")
        .replace('<', "%3C")
        .replace('>', "%3E")
}

fn unescaped(text: &str) -> String {
    text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

/// The keys and common prefixes of all pages of a listing, and the number of pages.
fn list(emulator: &Emulator, query: &str, next: &str, parameter: &str) -> (Vec<String>, Vec<String>, usize) {
    let (mut keys, mut prefixes, mut pages, mut token) = (Vec::new(), Vec::new(), 0, String::new());
    loop {
        let answer = get(emulator, &format!("/tree?{query}{token}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/xml; charset=UTF-8"));
        let page = answer.text();
        pages += 1;
        keys.extend(texts(&page, "Key").into_iter().map(unescaped));
        for common in texts(&page, "CommonPrefixes") {
            prefixes.extend(texts(common, "Prefix").into_iter().map(unescaped));
        }
        let truncated = texts(&page, "IsTruncated") == ["true"];
        let Some(text) = texts(&page, next).pop() else {
            assert!(!truncated, "{page}");
            return (keys, prefixes, pages);
        };
        assert!(truncated, "{page}");
        token = format!("&{parameter}={}", encoded(&unescaped(text)));
    }
}

#[test]
fn both_versions_of_the_xml_listing_page_through_everything() {
    let emulator = tree();
    let all = emulator.names("tree");
    for size in 1..=10 {
        for (version, next, parameter) in
            [("list-type=2&", "NextContinuationToken", "continuation-token"), ("", "NextMarker", "marker")]
        {
            let (keys, prefixes, pages) = list(&emulator, &format!("{version}max-keys={size}"), next, parameter);
            assert_eq!((keys, prefixes.len(), pages), (all.clone(), 0, all.len().div_ceil(size)), "{version}{size}");
            let query = format!("{version}max-keys={size}&delimiter=%2F");
            let (keys, prefixes, pages) = list(&emulator, &query, next, parameter);
            assert_eq!(keys, ["a", "b0", "d&<e>"], "{query}");
            assert_eq!(prefixes, ["b/", "c/", "é/"], "{query}");
            assert_eq!(pages, 6_usize.div_ceil(size), "{query}");
            let query = format!("{version}max-keys={size}&delimiter=%2F&prefix=b%2F");
            let (keys, prefixes, _) = list(&emulator, &query, next, parameter);
            assert_eq!((keys, prefixes), (vec!["b/".into(), "b/1".into(), "b/2".into()], vec!["b/c/".to_owned()]));
        }
    }
}

#[test]
fn xml_listings_start_after_a_marker_or_an_offset() {
    let emulator = tree();
    for (query, wanted) in [
        ("list-type=2&start-after=b%2F2", vec!["b/c/3", "b0", "c/x", "d&amp;&lt;e&gt;", "é/1"]),
        ("marker=b%2F2", vec!["b/c/3", "b0", "c/x", "d&amp;&lt;e&gt;", "é/1"]),
        ("list-type=2&start-after=b&prefix=b", vec!["b/", "b/1", "b/2", "b/c/3", "b0"]),
        ("marker=b%2F&delimiter=%2F", vec!["b0", "d&amp;&lt;e&gt;"]),
        // Each of these parameters belongs to the other version and is ignored.
        ("list-type=2&marker=z&prefix=a", vec!["a"]),
        ("start-after=z&prefix=a", vec!["a"]),
        ("encoding-type=url&prefix=d", vec!["d%26%3Ce%3E"]),
        ("prefix=nothing", vec![]),
    ] {
        let answer = get(&emulator, &format!("/tree/?{query}"));
        assert_eq!(texts(&answer.text(), "Key"), wanted, "{query}");
    }
}

#[test]
fn xml_listings_and_reads_agree_on_attributes() {
    let emulator = tree();
    let page = get(&emulator, "/tree?list-type=2&prefix=b%2F1").text();
    let object = get(&emulator, &format!("{JSON}/b%2F1")).json();
    for (element, wanted) in [
        ("Name", "tree"),
        ("Prefix", "b/1"),
        ("KeyCount", "1"),
        ("Key", "b/1"),
        ("Size", "3"),
        ("MetaGeneration", "1"),
        ("Generation", object["generation"].as_str().unwrap()),
        ("LastModified", object["updated"].as_str().unwrap()),
    ] {
        assert_eq!(texts(&page, element), [wanted], "{page}");
    }
    let read = get(&emulator, "/tree/b/1");
    assert_eq!((read.status, &*read.body), (200, b"b/1".as_slice()));
    assert_eq!(texts(&page, "ETag"), [read.header("etag").unwrap()]);
    // The MD5 that `md5sum` computes.
    assert_eq!(read.header("etag"), Some("\"46bc882b88120fd4dc12076ba56c7dd4\""));
    let body = serde_json::json!({ "sourceObjects": [{ "name": "a" }, { "name": "b0" }] });
    assert_eq!(post(&emulator, &format!("{JSON}/both/compose"), &body).status, 200);
    let (composed, json) = (get(&emulator, "/tree/both"), get(&emulator, &format!("{JSON}/both")).json());
    let tag = format!("\"-{}\"", json["etag"].as_str().unwrap());
    assert_eq!(composed.header("etag"), Some(&*tag), "a composition has no MD5");
    assert_eq!(texts(&get(&emulator, "/tree?prefix=both").text(), "ETag"), [tag]);
}

#[test]
fn head_returns_the_headers_of_get_and_no_body() {
    let emulator = tree();
    emulator.put("tree", "empty", "");
    let metadata = [("colour".to_owned(), "blue".to_owned())].into();
    let options = ObjectOptions { content_encoding: Some("br".into()), metadata, ..ObjectOptions::default() };
    emulator.put_with("tree", "encoded", "not really", options);
    assert_eq!(get(&emulator, "/tree/encoded").header("x-goog-meta-colour"), Some("blue"));
    for name in ["b%2F1", "empty", "encoded"] {
        let json = format!("{JSON}/{name}");
        for path in [format!("/tree/{name}"), format!("{json}?alt=media"), format!("/download{json}?alt=media"), json] {
            for range in [&[][..], &[("range", "bytes=1-1")]] {
                let (head, got) =
                    (send(&emulator, "HEAD", &path, range, b""), send(&emulator, "GET", &path, range, b""));
                assert_eq!((head.status, head.body.len()), (got.status, 0), "{path}");
                let without_date = |mut headers: ureq::http::HeaderMap| {
                    headers.remove("date");
                    headers
                };
                let length = head.header("content-length").map(str::to_owned);
                assert_eq!(length, Some(got.body.len().to_string()), "{path}");
                assert_eq!(without_date(head.headers), without_date(got.headers), "{path}");
            }
        }
    }
    let gone = send(&emulator, "HEAD", "/tree/gone", &[], b"");
    assert_eq!((gone.status, gone.body.len()), (404, 0));
    let stats = emulator.stats();
    assert!(stats.get_metadata > 0 && stats.get_media == 19, "HEAD does not count as reading contents: {stats:?}");
}

#[test]
fn entity_tags_and_dates_are_conditions() {
    let emulator = tree();
    for path in ["/tree/b/1", "/storage/v1/b/tree/o/b%2F1?alt=media", "/storage/v1/b/tree/o/b%2F1"] {
        let first = get(&emulator, path);
        let tag = first.header("etag").unwrap();
        let bare = tag.trim_matches('"');
        for (headers, status) in [
            (vec![("if-none-match", tag)], 304),
            (vec![("if-none-match", "*")], 304),
            (vec![("if-none-match", &*format!("\"x\", W/\"{bare}\""))], 304),
            (vec![("if-none-match", "\"x\"")], 200),
            (vec![("if-match", tag)], 200),
            (vec![("if-match", "\"x\"")], 412),
            (vec![("if-match", "\"x\""), ("if-none-match", tag)], 412),
            (vec![("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT")], 304),
            (vec![("if-modified-since", "Sat, 01 Jan 2000 00:00:00 GMT")], 200),
            (vec![("if-modified-since", "Fri, 01 Jan 2100 00:00:00 GMT"), ("if-none-match", "\"x\"")], 200),
            (vec![("if-unmodified-since", "Sat, 01 Jan 2000 00:00:00 GMT")], 412),
            (vec![("if-unmodified-since", "Sat, 01 Jan 2000 00:00:00 GMT"), ("if-match", tag)], 200),
            (vec![("if-modified-since", "yesterday")], 200),
        ] {
            for method in ["GET", "HEAD"] {
                let answer = send(&emulator, method, path, &headers, b"");
                assert_eq!(answer.status, status, "{method} {path} {headers:?}");
                if status == 304 {
                    assert_eq!((answer.header("etag"), answer.body.len()), (Some(tag), 0));
                }
            }
        }
        emulator.put("tree", "b/1", "changed");
        assert_eq!(send(&emulator, "GET", path, &[("if-none-match", tag)], b"").status, 200);
        emulator.put("tree", "b/1", "b/1");
    }
    let generation = emulator.generation("tree", "a").unwrap().to_string();
    for (value, status) in [(&*generation, 200), ("1", 412), ("x", 400)] {
        let answer = send(&emulator, "GET", "/tree/a", &[("x-goog-if-generation-match", value)], b"");
        assert_eq!(answer.status, status, "{value}");
    }
}

#[test]
fn refusals_of_the_xml_api_are_xml() {
    let emulator = tree();
    let refused = |path: &str, headers: &[(&str, &str)], status: u16, code: &str| {
        let answer = send(&emulator, "GET", path, headers, b"");
        assert_eq!((answer.status, texts(&answer.text(), "Code")), (status, vec![code]), "{path}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/xml; charset=UTF-8"));
        answer
    };
    let gone = refused("/tree/x&y", &[], 404, "NoSuchKey").text();
    assert!(gone.ends_with(
        "<Message>The specified key does not exist.</Message><Details>No such object: tree/x&amp;y</Details></Error>"
    ));
    refused("/nowhere", &[], 404, "NoSuchBucket");
    refused("/nowhere/x", &[], 404, "NoSuchBucket");
    refused("/tree/a", &[("if-match", "x")], 412, "PreconditionFailed");
    let range = refused("/tree/a", &[("range", "bytes=9-")], 416, "InvalidRange");
    assert_eq!(range.header("content-range"), Some("bytes */1"));
    refused("/tree?max-keys=0", &[], 400, "InvalidArgument");
    refused("/tree?list-type=2&continuation-token=x", &[], 400, "InvalidArgument");
    emulator.fault_next(Call::List, Fault::TooManyRequests, 1);
    refused("/tree", &[], 429, "SlowDown");
    emulator.fault_next(Call::GetMedia, Fault::Error, 1);
    refused("/tree/a", &[], 503, "ServiceUnavailable");

    let private = |change: fn(&mut BucketConfig)| {
        let mut config = BucketConfig::default();
        change(&mut config);
        config
    };
    let closed = private(|config| config.denied_anonymous = ["storage.objects.list".to_owned()].into());
    let pays = private(|config| config.requester_pays = true);
    let emulator = Emulator::builder().bucket_with("closed", closed).bucket_with("pays", pays).start().unwrap();
    for (path, status, code) in [("/closed", 403, "AccessDenied"), ("/pays", 400, "UserProjectMissing")] {
        let answer = get(&emulator, path);
        assert_eq!((answer.status, texts(&answer.text(), "Code")), (status, vec![code]));
    }
    assert_eq!(send(&emulator, "GET", "/pays", &[("x-goog-user-project", "p")], b"").status, 200);
}

#[test]
fn xml_pages_of_a_virtual_bucket_have_a_thousand_entries_at_most() {
    let spec: VirtualSpec = "tree:n=2500,pattern=sequence,size=7".parse().unwrap();
    let emulator = Emulator::builder().virtual_namespace(spec).start().unwrap();
    for (query, next, parameter) in
        [("list-type=2", "NextContinuationToken", "continuation-token"), ("max-keys=5000", "NextMarker", "marker")]
    {
        let (keys, _, pages) = list(&emulator, query, next, parameter);
        assert_eq!((keys, pages), (emulator.names("tree"), 3), "{query}");
    }
    assert_eq!(emulator.stats().list, 6);
}
