use std::collections::BTreeSet;

use dataflux_emulator::{Emulator, VirtualSpec};
use serde_json::{Value, json};

use crate::http::{delete, get, post};

const FIELDS: &str = "items(name,size,generation,crc32c,storageClass,contentEncoding,updated),prefixes,nextPageToken";

/// The items and prefixes of all pages of a listing, and the number of pages.
fn list(emulator: &Emulator, bucket: &str, query: &str) -> (Vec<Value>, Vec<String>, usize) {
    let (mut items, mut prefixes, mut pages, mut token) = (Vec::new(), Vec::new(), 0, String::new());
    loop {
        let answer = get(emulator, &format!("/storage/v1/b/{bucket}/o?{query}&pageToken={token}"));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let page = answer.json();
        pages += 1;
        if let Some(found) = page.get("items") {
            let found = found.as_array().unwrap();
            assert!(!found.is_empty(), "`items` is absent when empty");
            items.extend(found.iter().cloned());
        }
        for prefix in page.get("prefixes").and_then(Value::as_array).into_iter().flatten() {
            prefixes.push(prefix.as_str().unwrap().to_owned());
        }
        match page.get("nextPageToken").and_then(Value::as_str) {
            Some(next) => token = next.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"),
            None => return (items, prefixes, pages),
        }
    }
}

fn names(items: &[Value]) -> Vec<String> {
    items.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect()
}

fn tree() -> Emulator {
    let emulator = Emulator::builder().bucket("tree").start().unwrap();
    for name in ["a", "b/", "b/1", "b/2", "b/c/3", "b0", "c/x", "d", "é/1", "é/2", "ü", "\u{10FFFF}", "/lead", "//"]
    {
        emulator.put("tree", name, name.as_bytes().to_vec());
    }
    emulator
}

#[test]
fn every_page_size_lists_the_same() {
    let emulator = tree();
    let all = emulator.names("tree");
    assert!(all.windows(2).all(|pair| pair[0] < pair[1]));
    for size in 1..=15 {
        let (items, prefixes, pages) = list(&emulator, "tree", &format!("maxResults={size}"));
        assert_eq!((names(&items), prefixes.len()), (all.clone(), 0));
        assert_eq!(pages, all.len().div_ceil(size), "only a page before another one has a token");
        let (items, prefixes, pages) = list(&emulator, "tree", &format!("maxResults={size}&delimiter=%2F"));
        assert_eq!(names(&items), ["a", "b0", "d", "ü", "\u{10FFFF}"]);
        assert_eq!(prefixes, ["/", "b/", "c/", "é/"]);
        assert_eq!(pages, 9_usize.div_ceil(size), "items and prefixes share the page");
        let query = format!("maxResults={size}&delimiter=%2F&includeTrailingDelimiter=true");
        let (items, prefixes, _) = list(&emulator, "tree", &query);
        assert_eq!(names(&items), ["a", "b/", "b0", "d", "ü", "\u{10FFFF}"]);
        assert_eq!(prefixes, ["/", "b/", "c/", "é/"]);
    }
}

#[test]
fn prefixes_offsets_and_globs_select_names() {
    let emulator = tree();
    for (query, items, prefixes) in [
        ("prefix=b%2F", vec!["b/", "b/1", "b/2", "b/c/3"], vec![]),
        ("prefix=b%2F&delimiter=%2F", vec!["b/", "b/1", "b/2"], vec!["b/c/"]),
        ("prefix=nothing", vec![], vec![]),
        ("startOffset=b%2F2&endOffset=b0", vec!["b/2", "b/c/3"], vec![]),
        ("startOffset=b%2F2&endOffset=c&delimiter=%2F", vec!["b0"], vec!["b/"]),
        ("startOffset=z&endOffset=a", vec![], vec![]),
        ("startOffset=a&endOffset=a", vec![], vec![]),
        ("prefix=%C3%A9", vec!["é/1", "é/2"], vec![]),
        ("prefix=b&endOffset=b%2F2", vec!["b/", "b/1"], vec![]),
        (
            "delimiter=%2Fc",
            vec!["//", "/lead", "a", "b/", "b/1", "b/2", "b0", "c/x", "d", "é/1", "é/2", "ü", "\u{10FFFF}"],
            vec!["b/c"],
        ),
        ("matchGlob=**%2F%7B1,3%7D", vec!["b/1", "b/c/3", "é/1"], vec![]),
        ("matchGlob=*", vec!["a", "b0", "d", "ü", "\u{10FFFF}"], vec![]),
    ] {
        let (found, found_prefixes, _) = list(&emulator, "tree", query);
        assert_eq!(
            (names(&found), found_prefixes),
            (items.iter().map(ToString::to_string).collect(), prefixes.iter().map(ToString::to_string).collect()),
            "{query}"
        );
    }
}

#[test]
fn the_fields_parameter_selects_fields() {
    let emulator = tree();
    let page = |query: &str| get(&emulator, &format!("/storage/v1/b/tree/o?{query}")).json();
    assert_eq!(page("fields=items%2Fname&maxResults=1"), json!({ "items": [{ "name": "//" }] }));
    assert_eq!(page("fields=kind"), json!({ "kind": "storage#objects" }));
    assert_eq!(page("fields=prefixes&delimiter=%2F"), json!({ "prefixes": ["/", "b/", "c/", "é/"] }));
    let item = &page("prefix=a")["items"][0];
    for key in ["kind", "id", "selfLink", "mediaLink", "bucket", "metageneration", "md5Hash", "etag", "timeCreated"] {
        assert!(item[key].is_string(), "{key} of {item}");
    }
    assert_eq!((&item["size"], &item["crc32c"]), (&json!("1"), &json!("wdBDMA==")));
    emulator.put_with(
        "tree",
        "a",
        "1",
        dataflux_emulator::ObjectOptions {
            metadata: [("x".to_owned(), "1".to_owned()), ("y".to_owned(), "\"2\"\n".to_owned())].into(),
            ..Default::default()
        },
    );
    assert_eq!(page("prefix=a&fields=items(metadata%2Fy)"), json!({ "items": [{ "metadata": { "y": "\"2\"\n" } }] }));
}

#[test]
fn invalid_parameters_are_refused() {
    let emulator = tree();
    for query in [
        "maxResults=0",
        "maxResults=-1",
        "maxResults=x",
        "pageToken=x",
        "pageToken=AAAA",
        "fields=items(",
        "fields=nonsense",
        "fields=items(nonsense)",
        "projection=half",
        "matchGlob=%7B",
    ] {
        let (status, reason) = get(&emulator, &format!("/storage/v1/b/tree/o?{query}")).refusal();
        assert_eq!((status, reason.as_str()), (400, "invalidParameter"), "{query}");
    }
    for pattern in ["a".repeat(1_025), format!("{}{}", "%7B".repeat(10_000), "%7D".repeat(10_000))] {
        let refused = get(&emulator, &format!("/storage/v1/b/tree/o?matchGlob={pattern}"));
        assert_eq!(refused.refusal(), (400, "invalidParameter".to_owned()));
    }
    assert_eq!(get(&emulator, "/storage/v1/b/absent/o").refusal(), (404, "notFound".to_owned()));
}

#[test]
fn pages_have_a_thousand_entries_by_default_and_five_thousand_at_most() {
    let spec: VirtualSpec = "virt:n=12000,size=10".parse().unwrap();
    let emulator = Emulator::builder().virtual_namespace(spec.clone()).start().unwrap();
    for (query, expected) in [("", 1_000), ("maxResults=5000", 5_000), ("maxResults=9999", 5_000), ("maxResults=3", 3)]
    {
        let page = get(&emulator, &format!("/storage/v1/b/virt/o?{query}")).json();
        assert_eq!(page["items"].as_array().unwrap().len(), expected, "{query}");
    }
    let (items, _, pages) = list(&emulator, "virt", &format!("maxResults=5000&fields={FIELDS}"));
    assert_eq!(pages, 3);
    for (i, item) in items.iter().enumerate() {
        let content = spec.content(i as u64);
        assert_eq!(item["name"], spec.name(i as u64));
        assert_eq!(item["size"], content.len().to_string());
        assert_eq!(item["crc32c"], crc_base64(&content));
    }
}

fn crc_base64(bytes: &[u8]) -> String {
    use base64::{Engine, engine::general_purpose::STANDARD};
    STANDARD.encode(crc32c::crc32c(bytes).to_be_bytes())
}

#[test]
fn the_fast_and_the_general_writer_agree() {
    let text = "virt:n=30,pattern=pairs,size=1..50,prefix=q\"\\/,class=NEARLINE";
    let emulator = Emulator::builder().virtual_namespace(text.parse().unwrap()).start().unwrap();
    let (short, _, _) = list(&emulator, "virt", &format!("fields={FIELDS}"));
    // Whole resources are written by other code than the fields that come from a namespace's tables.
    let (long, _, _) = list(&emulator, "virt", "");
    assert_eq!(short.len(), 30);
    for (short, long) in short.iter().zip(&long) {
        for (key, value) in short.as_object().unwrap() {
            assert_eq!(value, &long[key]);
        }
        assert_eq!(short.as_object().unwrap().len(), 6, "{short}");
    }
    let (sizes, _, _) = list(&emulator, "virt", "fields=items%2Fsize");
    assert_eq!(sizes[3], json!({ "size": long[3]["size"] }));
    let (none, _, _) = list(&emulator, "virt", "fields=items(metadata)");
    assert_eq!(none[3], json!({}));
}

#[test]
fn virtual_names_have_common_prefixes() {
    for (pattern, prefixes, items) in
        [("pairs", 5_000, 0), ("folders", 1_000, 0), ("dates", 3, 0), ("sequence", 0, 9_999)]
    {
        let spec = format!("virt:n=9999,pattern={pattern},size=1");
        let emulator = Emulator::builder().virtual_namespace(spec.parse().unwrap()).start().unwrap();
        let (found, found_prefixes, _) =
            list(&emulator, "virt", "maxResults=777&delimiter=%2F&fields=items%2Fname,prefixes,nextPageToken");
        assert_eq!((found_prefixes.len(), found.len()), (prefixes, items), "{pattern}");
        assert_eq!(found_prefixes.iter().collect::<BTreeSet<_>>().len(), prefixes, "{pattern}");
    }
}

#[test]
fn writes_hide_virtual_objects() {
    let emulator = Emulator::builder().virtual_namespace("virt:n=50,size=7".parse().unwrap()).start().unwrap();
    let mut expected = emulator.names("virt");
    assert_eq!(expected.len(), 50);
    for (at, name) in [(0, "0"), (20, "00000018x"), (52, "dataflux-composed-objects/1")] {
        emulator.put("virt", name, "over");
        expected.insert(at, name.to_owned());
    }
    expected.sort();
    emulator.put("virt", "00000030", "replaced");
    for name in ["00000000", "00000031", "00000049"] {
        assert_eq!(delete(&emulator, &format!("/storage/v1/b/virt/o/{name}")).status, 204);
        assert_eq!(get(&emulator, &format!("/storage/v1/b/virt/o/{name}")).status, 404);
        expected.retain(|known| known != name);
    }
    assert_eq!(emulator.names("virt"), expected);
    for size in [1, 2, 3, 7, 50, 51, 52] {
        let (items, _, _) =
            list(&emulator, "virt", &format!("maxResults={size}&fields=items(name,size),nextPageToken"));
        assert_eq!(names(&items), expected, "pages of {size}");
        let replaced = items.iter().find(|item| item["name"] == "00000030").unwrap();
        assert_eq!(replaced["size"], "8");
    }
    assert_eq!(get(&emulator, "/storage/v1/b/virt/o/00000030?alt=media").text(), "replaced");
    emulator.put("virt", "00000031", "back");
    assert_eq!(get(&emulator, "/storage/v1/b/virt/o/00000031?alt=media").text(), "back");
}

#[test]
fn a_glob_that_matches_little_makes_empty_pages_with_tokens() {
    let emulator = Emulator::builder().virtual_namespace("virt:n=70000,size=1".parse().unwrap()).start().unwrap();
    let (items, _, pages) = list(&emulator, "virt", "matchGlob=*69999");
    assert_eq!(names(&items), ["00069999"]);
    assert!(pages > 1, "{pages}");
    assert_eq!(emulator.stats().empty_list_pages, pages as u64 - 1);
}

#[test]
fn buckets_are_created_patched_and_deleted() {
    let emulator = Emulator::builder().start().unwrap();
    let create = |body: Value| post(&emulator, "/storage/v1/b?project=p", &body);
    assert_eq!(create(json!({ "name": "bucket-a", "location": "europe-west1" })).status, 200);
    assert_eq!(create(json!({ "name": "bucket-a" })).refusal(), (409, "conflict".to_owned()));
    for name in ["", "ab", "Upper", "-a-", "a..b", &"a".repeat(64)] {
        assert_eq!(create(json!({ "name": name })).status, 400, "{name}");
    }
    assert_eq!(create(json!({})).status, 400);
    let bucket = get(&emulator, "/storage/v1/b/bucket-a").json();
    assert_eq!((&bucket["location"], &bucket["locationType"]), (&json!("EUROPE-WEST1"), &json!("region")));
    assert_eq!(bucket["softDeletePolicy"]["retentionDurationSeconds"], "604800");
    assert_eq!(bucket["metageneration"], "1");
    let patch = json!({ "softDeletePolicy": { "retentionDurationSeconds": "0" }, "labels": { "x": "y" } });
    let patched =
        crate::http::send(&emulator, "PATCH", "/storage/v1/b/bucket-a", &[], patch.to_string().as_bytes()).json();
    assert_eq!(
        (&patched["softDeletePolicy"]["retentionDurationSeconds"], &patched["labels"]["x"]),
        (&json!("0"), &json!("y"))
    );
    assert_eq!(patched["metageneration"], "2");
    assert_eq!(get(&emulator, "/storage/v1/b?fields=items(name)").json(), json!({ "items": [{ "name": "bucket-a" }] }));
    emulator.put("bucket-a", "x", "x");
    assert_eq!(delete(&emulator, "/storage/v1/b/bucket-a").refusal(), (409, "conflict".to_owned()));
    assert!(emulator.delete("bucket-a", "x"));
    assert_eq!(delete(&emulator, "/storage/v1/b/bucket-a").status, 204);
    assert_eq!(get(&emulator, "/storage/v1/b/bucket-a").refusal(), (404, "notFound".to_owned()));
}
