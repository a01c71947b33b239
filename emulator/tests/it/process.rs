use std::net::TcpStream;

use dataflux_emulator::{Emulator, Error, Stats};

use crate::http::{delete, get, post, send};

#[test]
fn calls_are_counted() {
    let emulator = Emulator::builder().bucket("bucket").start().unwrap();
    emulator.put("bucket", "x", "12345");
    get(&emulator, "/storage/v1/b/bucket/o");
    get(&emulator, "/storage/v1/b/bucket/o?prefix=none");
    get(&emulator, "/storage/v1/b/bucket/o/x?alt=media");
    get(&emulator, "/storage/v1/b/bucket/o/x");
    get(&emulator, "/storage/v1/b/bucket");
    get(&emulator, "/storage/v1/b/bucket/iam/testPermissions?permissions=a.b.c");
    send(&emulator, "POST", "/upload/storage/v1/b/bucket/o?uploadType=media&name=y", &[], b"abc");
    delete(&emulator, "/storage/v1/b/bucket/o/y");
    delete(&emulator, "/storage/v1/b/bucket/o/y");
    get(&emulator, "/storage/nowhere");
    let stats: Stats = serde_json::from_slice(&get(&emulator, "/_emulator/stats").body).unwrap();
    assert_eq!((stats.list, stats.empty_list_pages, stats.listed), (2, 1, 1));
    assert_eq!((stats.get_media, stats.get_metadata, stats.bucket_get, stats.test_permissions), (1, 1, 1, 1));
    assert_eq!((stats.insert, stats.delete, stats.other, stats.calls()), (1, 2, 1, 10));
    assert_eq!((stats.errors["404"], stats.bytes_received), (2, 3));
    assert!(stats.bytes_sent > 5 && stats.in_flight_peak >= 1, "{stats:?}");
    assert_eq!(post(&emulator, "/_emulator/reset-stats", &serde_json::json!({})).status, 204);
    assert_eq!((emulator.stats().calls(), emulator.stats().errors.len()), (0, 0));
}

#[test]
fn folders_are_served_and_never_written() {
    let directory = tempfile::tempdir().unwrap();
    for (name, content) in [("b/one.jpg", "1"), ("b/c/two", "22"), ("a b", ""), ("b0", "x")] {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
    let emulator = Emulator::builder().folder("files", directory.path()).start().unwrap();
    assert_eq!(emulator.names("files"), ["a b", "b/c/two", "b/one.jpg", "b0"]);
    let object = get(&emulator, "/storage/v1/b/files/o/b%2Fone.jpg").json();
    assert_eq!((&object["size"], &object["contentType"]), (&"1".into(), &"image/jpeg".into()));
    let media = get(&emulator, "/storage/v1/b/files/o/b%2Fc%2Ftwo?alt=media");
    assert_eq!(media.text(), "22");
    assert!(media.header("x-goog-hash").unwrap().ends_with(",md5=ttdn0vjtXSGkSw5YhmgMuQ=="));
    assert_eq!(get(&emulator, "/storage/v1/b/files/o/a%20b?alt=media").body, b"");
    let prefixes = get(&emulator, "/storage/v1/b/files/o?delimiter=%2F&fields=prefixes").json();
    assert_eq!(prefixes, serde_json::json!({ "prefixes": ["b/"] }));
    emulator.put("files", "new/file", "in memory");
    assert_eq!(delete(&emulator, "/storage/v1/b/files/o/b0").status, 204);
    assert_eq!(emulator.names("files"), ["a b", "b/c/two", "b/one.jpg", "new/file"]);
    assert!(
        directory.path().join("b0").exists() && !directory.path().join("new").exists(),
        "the directory does not change"
    );
}

#[test]
fn a_changed_file_is_an_error_and_not_another_object() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(1_000);
    let write = |name: &str, content: &str| std::fs::write(path(name), content).unwrap();
    let names = ["empty", "gone", "longer", "same", "shorter", "touched", "unseen"];
    for name in names {
        write(name, if name == "empty" { "" } else { "before" });
        std::fs::File::options().append(true).open(path(name)).unwrap().set_modified(old).unwrap();
    }
    let emulator = Emulator::builder().folder("files", directory.path()).start().unwrap();
    let object = |name: &str| format!("/storage/v1/b/files/o/{name}");
    for name in names.iter().filter(|name| **name != "unseen") {
        assert_eq!(get(&emulator, &object(name)).status, 200, "{name}");
    }
    // A copy shares the file, which is checked only when its bytes are read.
    let copy = post(&emulator, &format!("{}/copyTo/b/files/o/copy", object("same")), &serde_json::json!({}));
    assert_eq!(copy.status, 200);
    write("empty", "after");
    std::fs::remove_file(path("gone")).unwrap();
    write("longer", "before and after");
    write("same", "after!");
    write("shorter", "");
    write("touched", "before");
    write("unseen", "after!");
    for name in names {
        for target in [object(name), format!("{}?alt=media", object(name))] {
            assert_eq!(get(&emulator, &target).refusal(), (500, "internalError".to_owned()), "{target}");
        }
        assert_eq!(emulator.get("files", name), None);
    }
    assert_eq!(
        get(&emulator, "/storage/v1/b/files/o").status,
        500,
        "a listing without these files would look complete"
    );
    let media = get(&emulator, &format!("{}?alt=media", object("copy")));
    assert!(media.broken.is_some() && media.body.is_empty(), "{}", media.text());
    // The library API can overwrite and delete objects of changed files.
    emulator.put("files", "same", "anew");
    assert_eq!(get(&emulator, &format!("{}?alt=media", object("same"))).text(), "anew");
    assert!(names.iter().all(|name| emulator.delete("files", name)) && !emulator.delete("files", "same"));
    assert_eq!(emulator.names("files"), ["copy"]);
}

#[test]
fn dropping_an_emulator_stops_it() {
    let emulator = Emulator::builder().start().unwrap();
    let address = emulator.endpoint().strip_prefix("http://").unwrap().to_owned();
    let _open = TcpStream::connect(&address).unwrap();
    drop(emulator);
    assert!(TcpStream::connect(&address).is_err());
}

#[test]
fn an_emulator_starts_and_stops_inside_another_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let emulator = Emulator::builder().bucket("bucket").start().unwrap();
        assert_eq!(emulator.put("bucket", "x", "x"), emulator.generation("bucket", "x").unwrap());
    });
}

#[test]
fn invalid_setups_are_refused() {
    let error = Emulator::builder().bucket("bucket").bucket("bucket").start().unwrap_err();
    assert!(matches!(error, Error::DuplicateBucket(name) if name == "bucket"));
    assert!(matches!(Emulator::builder().bucket("B").start(), Err(Error::Spec { .. })));
    assert!(matches!(Emulator::builder().folder("bucket", "no/such/folder").start(), Err(Error::Folder { .. })));
    let first = Emulator::builder().start().unwrap();
    let port = first.endpoint().rsplit(':').next().unwrap().parse().unwrap();
    assert!(matches!(Emulator::builder().port(port).start(), Err(Error::Bind { .. })));
}

#[test]
fn unusual_names_work() {
    let emulator = Emulator::builder().bucket("bucket").start().unwrap();
    for name in ["/", "//a", "a/../b", "%2F", "a+b c", "🦀", "\u{1}\"\\", "...", "x?y#z&w=1", &"n".repeat(1_024)] {
        emulator.put("bucket", name, name.as_bytes().to_vec());
        let encoded = name.bytes().fold(String::new(), |encoded, byte| encoded + &format!("%{byte:02X}"));
        let target = format!("/storage/v1/b/bucket/o/{encoded}");
        assert_eq!(get(&emulator, &target).json()["name"], name);
        assert_eq!(get(&emulator, &format!("{target}?alt=media")).body, name.as_bytes());
        assert_eq!(delete(&emulator, &target).status, 204);
    }
    assert!(emulator.names("bucket").is_empty());
}

#[cfg(all(unix, feature = "cli"))]
#[test]
fn the_binary_prints_its_endpoint_and_stops_at_a_signal() {
    use std::io::{BufRead, BufReader};
    let mut child = std::process::Command::new(env!("CARGO_BIN_EXE_dataflux-emulator"))
        .args(["--json", "--bucket", "bucket", "--virtual", "virt:n=3,size=2", "--profile", "gcs,scale=0"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let endpoint = serde_json::from_str::<serde_json::Value>(&line).unwrap()["endpoint"].as_str().unwrap().to_owned();
    assert!(TcpStream::connect(endpoint.strip_prefix("http://").unwrap()).is_ok());
    let killed = std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let bad =
        std::process::Command::new(env!("CARGO_BIN_EXE_dataflux-emulator")).args(["--virtual", "x"]).output().unwrap();
    assert_eq!(bad.status.code(), Some(2));
}
