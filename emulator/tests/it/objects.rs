use std::io::Write;

use dataflux_emulator::{BucketConfig, Emulator, ObjectOptions};
use serde_json::{Value, json};

use crate::http::{Answer, delete, get, post, send};

fn emulator() -> Emulator {
    Emulator::builder().bucket("bucket").start().unwrap()
}

fn compose(emulator: &Emulator, to: &str, query: &str, body: &Value) -> Answer {
    post(emulator, &format!("/storage/v1/b/bucket/o/{to}/compose?{query}"), body)
}

fn named(names: &[&str]) -> Value {
    names.iter().map(|name| json!({ "name": name })).collect()
}

#[test]
fn contents_come_with_headers_and_in_ranges() {
    let emulator = emulator();
    let generation = emulator.put("bucket", "a/b c%", "0123456789");
    for path in
        ["/storage/v1/b/bucket/o/a%2Fb%20c%25?alt=media", "/download/storage/v1/b/bucket/o/a%2Fb%20c%25?alt=media"]
    {
        let answer = get(&emulator, path);
        assert_eq!((answer.status, answer.text().as_str()), (200, "0123456789"));
        assert_eq!(answer.header("x-goog-generation"), Some(generation.to_string().as_str()));
        assert_eq!(answer.header("x-goog-hash"), Some("crc32c=KAwGng==,md5=eB5eJF1ptWaXm4bijSPyxw=="));
        assert_eq!(answer.header("x-goog-stored-content-length"), Some("10"));
        assert_eq!(answer.header("x-goog-stored-content-encoding"), Some("identity"));
        assert_eq!(answer.header("x-goog-storage-class"), Some("STANDARD"));
        assert_eq!(answer.header("content-length"), Some("10"));
        assert!(answer.header("etag").is_some() && answer.header("last-modified").unwrap().ends_with("GMT"));
    }
    let ranged =
        |range: &str| send(&emulator, "GET", "/storage/v1/b/bucket/o/a%2Fb%20c%25?alt=media", &[("range", range)], b"");
    for (range, text, content_range) in [
        ("bytes=2-4", "234", "bytes 2-4/10"),
        ("bytes=7-", "789", "bytes 7-9/10"),
        ("bytes=-2", "89", "bytes 8-9/10"),
        ("bytes=8-100", "89", "bytes 8-9/10"),
    ] {
        let answer = ranged(range);
        assert_eq!(
            (answer.status, answer.text().as_str(), answer.header("content-range")),
            (206, text, Some(content_range))
        );
        assert_eq!(
            answer.header("x-goog-hash"),
            Some("crc32c=KAwGng==,md5=eB5eJF1ptWaXm4bijSPyxw=="),
            "the hash is that of the whole object"
        );
    }
    let refused = ranged("bytes=10-");
    assert_eq!(refused.refusal(), (416, "requestedRangeNotSatisfiable".to_owned()));
    assert_eq!(refused.header("content-range"), Some("bytes */10"));
}

#[test]
fn generations_and_preconditions_are_checked() {
    let emulator = emulator();
    let old = emulator.put("bucket", "x", "old");
    let new = emulator.put("bucket", "x", "new");
    assert!(new > old);
    for (query, status) in [
        (format!("generation={new}"), 200),
        (format!("generation={old}"), 404),
        (format!("ifGenerationMatch={new}"), 200),
        (format!("ifGenerationMatch={old}"), 412),
        ("ifGenerationMatch=0".to_owned(), 412),
        (format!("ifGenerationNotMatch={old}"), 200),
        (format!("ifGenerationNotMatch={new}"), 304),
        ("ifMetagenerationMatch=1".to_owned(), 200),
        ("ifMetagenerationMatch=2".to_owned(), 412),
        ("ifMetagenerationNotMatch=1".to_owned(), 304),
        ("generation=x".to_owned(), 400),
    ] {
        assert_eq!(get(&emulator, &format!("/storage/v1/b/bucket/o/x?{query}")).status, status, "{query}");
        assert_eq!(get(&emulator, &format!("/storage/v1/b/bucket/o/x?alt=media&{query}")).status, status, "{query}");
    }
    let refused = get(&emulator, &format!("/storage/v1/b/bucket/o/x?ifGenerationMatch={old}"));
    assert_eq!(refused.refusal(), (412, "conditionNotMet".to_owned()));
    assert_eq!(get(&emulator, "/storage/v1/b/bucket/o/none").refusal(), (404, "notFound".to_owned()));
    for (query, status) in [
        (format!("generation={old}"), 404),
        (format!("ifGenerationMatch={old}"), 412),
        (format!("generation={new}"), 204),
        (format!("generation={new}"), 404),
    ] {
        assert_eq!(delete(&emulator, &format!("/storage/v1/b/bucket/o/x?{query}")).status, status, "{query}");
    }
}

#[test]
fn gzip_is_decompressed_unless_accepted() {
    let emulator = emulator();
    let plain = b"plain text, again and again and again".repeat(10);
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(&plain).unwrap();
    let stored = encoder.finish().unwrap();
    let options = ObjectOptions { content_encoding: Some("gzip".to_owned()), ..ObjectOptions::default() };
    emulator.put_with("bucket", "z", stored.clone(), options);
    let fetch = |headers: &[(&str, &str)]| send(&emulator, "GET", "/storage/v1/b/bucket/o/z?alt=media", headers, b"");
    let raw = fetch(&[("accept-encoding", "gzip"), ("range", "bytes=0-9")]);
    assert_eq!((raw.status, &raw.body[..], raw.header("content-encoding")), (206, &stored[..10], Some("gzip")));
    let plain_answer = fetch(&[("accept-encoding", "identity"), ("range", "bytes=0-9")]);
    assert_eq!((plain_answer.status, &plain_answer.body, plain_answer.header("content-encoding")), (200, &plain, None));
    assert_eq!(plain_answer.header("content-length"), None);
    assert_eq!(plain_answer.header("x-goog-hash"), raw.header("x-goog-hash"), "hashes are those of the stored bytes");
    assert_eq!(plain_answer.header("x-goog-stored-content-encoding"), Some("gzip"));
    assert_eq!(fetch(&[("accept-encoding", "gzip;q=0")]).body, plain);
}

#[test]
fn patches_merge_and_updates_replace() {
    let emulator = emulator();
    let generation = emulator.put("bucket", "x", "x");
    let change = |method: &str, query: &str, body: Value| {
        send(&emulator, method, &format!("/storage/v1/b/bucket/o/x?{query}"), &[], body.to_string().as_bytes())
    };
    let patched = change("PATCH", "", json!({ "contentType": "a/b", "metadata": { "k": "v", "l": "w" } })).json();
    assert_eq!((&patched["metageneration"], &patched["contentType"]), (&json!("2"), &json!("a/b")));
    assert_eq!(patched["generation"], generation.to_string());
    let patched = change("PATCH", "ifMetagenerationMatch=2", json!({ "metadata": { "k": null } })).json();
    assert_eq!((&patched["metadata"], &patched["contentType"]), (&json!({ "l": "w" }), &json!("a/b")));
    let updated = change("PUT", "", json!({ "customTime": "2026-11-21T00:00:00Z" })).json();
    assert_eq!((updated.get("metadata"), updated.get("contentType")), (None, None));
    assert_eq!((&updated["customTime"], &updated["metageneration"]), (&json!("2026-11-21T00:00:00Z"), &json!("4")));
    assert_eq!(change("PATCH", "", json!({ "customTime": "soon" })).status, 400);
    assert_eq!(change("PATCH", "ifMetagenerationMatch=1", json!({})).status, 412);
    assert_eq!(change("PATCH", "generation=1", json!({})).status, 404);
    assert_eq!(send(&emulator, "PATCH", "/storage/v1/b/bucket/o/x", &[], b"{").refusal().0, 400);
}

#[test]
fn compositions_concatenate_their_sources() {
    let emulator = emulator();
    let names: Vec<String> = (0..32).map(|i| format!("part-{i:02}")).collect();
    let mut whole = Vec::new();
    for (i, name) in names.iter().enumerate() {
        let content = vec![i as u8; i * 100];
        whole.extend_from_slice(&content);
        emulator.put("bucket", name, content);
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let body = json!({
        "sourceObjects": named(&names),
        "destination": { "contentType": "x/y", "metadata": { "k": "v" }, "customTime": "2026-11-21T00:00:00Z" },
    });
    let made = compose(&emulator, "all", "ifGenerationMatch=0", &body);
    assert_eq!(made.status, 200, "{}", made.text());
    let made = made.json();
    assert_eq!((&made["componentCount"], made.get("md5Hash"), &made["contentType"]), (&json!(32), None, &json!("x/y")));
    assert_eq!((&made["size"], &made["metadata"]["k"]), (&json!(whole.len().to_string()), &json!("v")));
    let media = get(&emulator, "/storage/v1/b/bucket/o/all?alt=media");
    assert_eq!(media.body, whole);
    let hash = media.header("x-goog-hash").unwrap();
    assert_eq!(hash, format!("crc32c={}", made["crc32c"].as_str().unwrap()));
    let ranged = send(&emulator, "GET", "/storage/v1/b/bucket/o/all?alt=media", &[("range", "bytes=250-4000")], b"");
    assert_eq!(ranged.body, whole[250..=4000]);
    // An upload of the same bytes has the same checksum.
    emulator.put("bucket", "same", whole.clone());
    assert_eq!(get(&emulator, "/storage/v1/b/bucket/o/same").json()["crc32c"], made["crc32c"]);
    let again = compose(&emulator, "all", "ifGenerationMatch=0", &body);
    assert_eq!(again.refusal(), (412, "conditionNotMet".to_owned()));
    let nested =
        compose(&emulator, "nested", "", &json!({ "sourceObjects": named(&["all", "all", "part-01"]) })).json();
    assert_eq!(nested["componentCount"], 65);
    let onto_itself = compose(&emulator, "part-01", "", &json!({ "sourceObjects": named(&["part-01", "part-02"]) }));
    assert_eq!(onto_itself.json()["size"], "300");
}

#[test]
fn invalid_compositions_are_refused() {
    let emulator = emulator();
    let generation = emulator.put("bucket", "a", "a");
    emulator.put("bucket", "b", "b");
    let options = ObjectOptions { storage_class: Some("NEARLINE".to_owned()), ..ObjectOptions::default() };
    emulator.put_with("bucket", "near", "n", options);
    for (body, status) in [
        (json!({ "sourceObjects": [] }), 400),
        (json!({}), 400),
        (json!({ "sourceObjects": named(&["a"; 33]) }), 400),
        (json!({ "sourceObjects": named(&["a", "gone"]) }), 404),
        (json!({ "sourceObjects": named(&["a", "near"]) }), 400),
        (json!({ "sourceObjects": [{ "name": "a", "generation": "7" }] }), 404),
        (json!({ "sourceObjects": [{ "name": "a", "generation": generation.to_string() }] }), 200),
        (json!({ "sourceObjects": [{ "name": "a", "objectPreconditions": { "ifGenerationMatch": "7" } }] }), 412),
        (json!({ "sourceObjects": named(&["a", "b"]), "destination": { "crc32c": "AAAAAA==" } }), 400),
        (json!({ "sourceObjects": named(&["a"]), "destination": { "storageClass": "COLDLINE" } }), 400),
        (json!({ "sourceObjects": named(&["near"]), "destination": { "storageClass": "NEARLINE" } }), 200),
    ] {
        let answer = compose(&emulator, "out", "", &body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        assert_eq!(emulator.delete("bucket", "out"), status == 200, "{body}");
    }
}

#[test]
fn composites_of_themselves_are_bounded() {
    let emulator = emulator();
    let itself = |name: &'static str| compose(&emulator, name, "", &json!({ "sourceObjects": named(&[name; 32]) }));
    // An empty object has no segments to keep, so that its components are only counted.
    emulator.put("bucket", "empty", "");
    let counts: Vec<Value> = (0..8).map(|_| itself("empty").json()["componentCount"].clone()).collect();
    assert_eq!((&counts[5], &counts[6], &counts[7]), (&json!(1 << 30), &json!(u32::MAX), &json!(u32::MAX)));
    emulator.put("bucket", "byte", "x");
    for _ in 0..3 {
        assert_eq!(itself("byte").status, 200);
    }
    assert_eq!(itself("byte").refusal(), (400, "invalid".to_owned()));
    assert_eq!(emulator.get("bucket", "byte").unwrap().len(), 32 * 32 * 32, "the object has not changed");
}

#[test]
fn composing_can_delete_its_sources() {
    let emulator = emulator();
    emulator.put("bucket", "a", "a");
    emulator.put("bucket", "b", "b");
    let body = json!({ "sourceObjects": named(&["a", "b"]), "deleteSourceObjects": true });
    assert_eq!(compose(&emulator, "out", "", &body).status, 200);
    assert_eq!(emulator.names("bucket"), ["out"]);
    assert_eq!(emulator.get("bucket", "out").unwrap(), "ab");
}

#[test]
fn virtual_objects_can_be_composed() {
    let spec: dataflux_emulator::VirtualSpec = "bucket:n=100,pattern=folders,size=10..90000".parse().unwrap();
    let emulator = Emulator::builder().virtual_namespace(spec.clone()).start().unwrap();
    let sources: Vec<Value> =
        (40..72).map(|i| json!({ "name": spec.name(i), "generation": spec.generation(i).to_string() })).collect();
    let whole: Vec<u8> = (40..72).flat_map(|i| spec.content(i)).collect();
    let made = compose(
        &emulator,
        "dataflux-composed-objects%2F1",
        "ifGenerationMatch=0",
        &json!({ "sourceObjects": sources }),
    );
    assert_eq!(made.status, 200, "{}", made.text());
    let media = get(&emulator, "/storage/v1/b/bucket/o/dataflux-composed-objects%2F1?alt=media");
    assert_eq!(media.body, whole);
    emulator.put("bucket", "same", whole);
    assert_eq!(get(&emulator, "/storage/v1/b/bucket/o/same").json()["crc32c"], made.json()["crc32c"]);
}

#[test]
fn objects_are_copied_and_rewritten() {
    let emulator = Emulator::builder().bucket("bucket").bucket("other").start().unwrap();
    emulator.put("bucket", "a", "content");
    let copied = post(&emulator, "/storage/v1/b/bucket/o/a/copyTo/b/other/o/b%2Fc", &json!({}));
    assert_eq!((copied.status, &copied.json()["size"]), (200, &json!("7")));
    let rewritten = post(
        &emulator,
        "/storage/v1/b/bucket/o/a/rewriteTo/b/other/o/d?ifGenerationMatch=0",
        &json!({ "storageClass": "COLDLINE" }),
    )
    .json();
    assert_eq!((&rewritten["done"], &rewritten["resource"]["storageClass"]), (&json!(true), &json!("COLDLINE")));
    assert_eq!((&rewritten["totalBytesRewritten"], &rewritten["objectSize"]), (&json!("7"), &json!("7")));
    assert_eq!(emulator.names("other"), ["b/c", "d"]);
    for (target, status) in [
        ("/storage/v1/b/bucket/o/gone/rewriteTo/b/other/o/e", 404),
        ("/storage/v1/b/bucket/o/a/rewriteTo/b/absent/o/e", 404),
        ("/storage/v1/b/bucket/o/a/rewriteTo/b/other/o/d?ifGenerationMatch=0", 412),
        ("/storage/v1/b/bucket/o/a/rewriteTo/b/other/o/e?ifSourceGenerationMatch=1", 412),
        ("/storage/v1/b/bucket/o/a/rewriteTo/b/other/o/e?sourceGeneration=1", 404),
    ] {
        assert_eq!(post(&emulator, target, &json!({})).status, status, "{target}");
    }
}

#[test]
fn missing_permissions_are_refused() {
    let emulator = emulator();
    emulator.put("bucket", "a", "a");
    let upload = |name: &str| {
        send(&emulator, "POST", &format!("/upload/storage/v1/b/bucket/o?uploadType=media&name={name}"), &[], b"x")
    };
    let test =
        "/storage/v1/b/bucket/iam/testPermissions?permissions=storage.objects.get&permissions=storage.objects.delete";
    assert_eq!(get(&emulator, test).json()["permissions"], json!(["storage.objects.get", "storage.objects.delete"]));
    emulator.deny("bucket", "storage.objects.delete");
    assert_eq!(get(&emulator, test).json()["permissions"], json!(["storage.objects.get"]));
    assert_eq!(delete(&emulator, "/storage/v1/b/bucket/o/a").refusal(), (403, "forbidden".to_owned()));
    assert_eq!(upload("a").refusal(), (403, "forbidden".to_owned()), "replacing an object deletes it");
    assert_eq!(upload("b").status, 200);
    emulator.deny("bucket", "storage.objects.create");
    assert_eq!(upload("c").status, 403);
    let refused = compose(&emulator, "d", "", &json!({ "sourceObjects": named(&["a"]) }));
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("storage.objects.create"));
    emulator.deny("bucket", "storage.objects.list");
    assert_eq!(get(&emulator, "/storage/v1/b/bucket/o").status, 403);
    assert_eq!(get(&emulator, "/storage/v1/b/bucket/o/a").status, 200);
    emulator.deny("bucket", "storage.objects.get");
    assert_eq!(get(&emulator, "/storage/v1/b/bucket/o/a?alt=media").status, 403);
    emulator.allow("bucket", "storage.objects.list");
    assert_eq!(get(&emulator, "/storage/v1/b/bucket/o").status, 200);
}

#[test]
fn anonymous_callers_are_asked_for_credentials() {
    let emulator = emulator();
    emulator.put("bucket", "a", "a");
    let bucket = "/storage/v1/b/bucket";
    let known = |target: &str| send(&emulator, "GET", target, &[("authorization", "Bearer x")], b"");
    emulator.deny_anonymous("bucket", "storage.buckets.get");
    emulator.deny_anonymous("bucket", "storage.objects.get");
    let refused = get(&emulator, bucket);
    let message = "Anonymous caller does not have storage.buckets.get access to the Google Cloud Storage bucket. \
                   Permission 'storage.buckets.get' denied on resource (or it may not exist).";
    let detail = json!({
        "message": message,
        "domain": "global",
        "reason": "required",
        "locationType": "header",
        "location": "Authorization",
    });
    assert_eq!(refused.status, 401);
    assert_eq!(refused.json(), json!({ "error": { "code": 401, "message": message, "errors": [detail] } }));
    assert_eq!(refused.header("www-authenticate"), Some("Bearer realm=\"https://accounts.google.com/\""));
    let object = format!("{bucket}/o/a?alt=media");
    assert_eq!(get(&emulator, &object).refusal(), (401, "required".to_owned()));
    assert_eq!((known(bucket).status, known(&object).status), (200, 200));
    let test = format!("{bucket}/iam/testPermissions?permissions=storage.buckets.get");
    assert_eq!(get(&emulator, &test).json().get("permissions"), None);
    assert_eq!(known(&test).json()["permissions"], json!(["storage.buckets.get"]));
    emulator.deny("bucket", "storage.buckets.get");
    assert_eq!(
        (get(&emulator, bucket).status, known(bucket).status),
        (401, 403),
        "an authenticated caller lacks it, too"
    );
    emulator.allow("bucket", "storage.buckets.get");
    assert_eq!(get(&emulator, bucket).status, 200);
}

#[test]
fn retention_holds_and_billing_are_enforced() {
    let config = BucketConfig { retention_seconds: Some(3_600), requester_pays: true, ..BucketConfig::default() };
    let emulator = Emulator::builder().bucket_with("bucket", config).start().unwrap();
    emulator.put("bucket", "a", "a");
    assert_eq!(get(&emulator, "/storage/v1/b/bucket/o/a").refusal(), (400, "required".to_owned()));
    let billed = [("x-goog-user-project", "p")];
    assert_eq!(send(&emulator, "GET", "/storage/v1/b/bucket/o/a", &billed, b"").status, 200);
    let refused = delete(&emulator, "/storage/v1/b/bucket/o/a?userProject=p");
    assert_eq!(refused.refusal(), (403, "retentionPolicyNotMet".to_owned()));
    emulator.configure("bucket", |config| config.retention_seconds = None);
    let held = send(&emulator, "PATCH", "/storage/v1/b/bucket/o/a", &billed, b"{\"temporaryHold\":true}");
    assert_eq!(held.json()["temporaryHold"], true);
    assert_eq!(delete(&emulator, "/storage/v1/b/bucket/o/a?userProject=p").reason(), "objectUnderActiveHold");
    send(&emulator, "PATCH", "/storage/v1/b/bucket/o/a", &billed, b"{\"temporaryHold\":false}");
    assert_eq!(delete(&emulator, "/storage/v1/b/bucket/o/a?userProject=p").status, 204);
}

#[test]
fn a_required_token_is_checked() {
    let emulator = emulator();
    emulator.require_token(Some("one"));
    let with = |token: &str| send(&emulator, "GET", "/storage/v1/b/bucket", &[("authorization", token)], b"");
    let refused = get(&emulator, "/storage/v1/b/bucket");
    assert_eq!(refused.refusal(), (401, "required".to_owned()));
    assert!(refused.header("www-authenticate").is_some());
    assert_eq!(with("Bearer one").status, 200);
    emulator.require_token(Some("two"));
    assert_eq!(with("Bearer one").refusal(), (401, "authError".to_owned()));
    assert_eq!(with("Bearer two").status, 200);
    emulator.require_token(None);
    assert_eq!(get(&emulator, "/storage/v1/b/bucket").status, 200);
}

#[test]
fn batches_answer_each_call() {
    let emulator = emulator();
    for name in ["a", "b", "c"] {
        emulator.put("bucket", name, name);
    }
    let run = |calls: &[&str]| {
        let mut body = Vec::new();
        for (i, call) in calls.iter().enumerate() {
            write!(
                body,
                "--=b=\r\nContent-Type: application/http\r\nContent-ID: <x+{i}>\r\n\r\n\
                 {call} HTTP/1.1\r\nAccept: */*\r\n\r\n\r\n"
            )
            .unwrap();
        }
        body.extend_from_slice(b"--=b=--");
        send(&emulator, "POST", "/batch/storage/v1", &[("content-type", "multipart/mixed; boundary=\"=b=\"")], &body)
    };
    let answer = run(&[
        "DELETE /storage/v1/b/bucket/o/a",
        "DELETE /storage/v1/b/bucket/o/gone",
        "DELETE http://127.0.0.1/storage/v1/b/bucket/o/b?ifGenerationMatch=1",
        "GET /storage/v1/b/bucket/o/c?alt=media",
        "GET /storage/v1/b/bucket/o/c?fields=name",
    ]);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(answer.header("content-type").unwrap().starts_with("multipart/mixed; boundary="));
    let text = answer.text();
    let statuses: Vec<&str> = text.split("HTTP/1.1 ").skip(1).map(|part| &part[..3]).collect();
    assert_eq!(statuses, ["204", "404", "412", "400", "200"]);
    assert!((0..5).all(|i| text.contains(&format!("Content-ID: <response-x+{i}>"))), "{text}");
    assert!(text.contains("{\"name\":\"c\"}"));
    assert_eq!(emulator.names("bucket"), ["b", "c"]);
    assert_eq!((emulator.stats().batch, emulator.stats().delete), (1, 3));
    assert_eq!(run(&["DELETE /storage/v1/b/bucket/o/b"; 101]).status, 400);
    assert_eq!(run(&["DELETE /storage/v1/b/bucket/o/b"; 100]).status, 200);
    assert_eq!(send(&emulator, "POST", "/batch/storage/v1", &[], b"x").status, 400);
}
