use std::io::{BufRead, BufReader};

use dataflux::manifest::NamesDigest;
use dataflux_emulator::{Emulator, ObjectOptions};
use serde_json::json;

use crate::harness::{command, dataflux, virtuals};

/// Names in an order that only bytes have, a folder's mark, and one of the library's own.
fn mixed() -> Emulator {
    let emulator = Emulator::builder().bucket("mixed").start().unwrap();
    for name in ["z", "a/b", "a", "a/", "a-b", "é", "B", "dataflux-composed-objects/0/1", "a\u{1b}[31m", "日本"] {
        emulator.put("mixed", name, if name.ends_with('/') { "" } else { "1234" });
    }
    let cold = ObjectOptions { storage_class: Some("COLDLINE".into()), ..ObjectOptions::default() };
    emulator.put_with("mixed", "cold", "12345678", cold);
    emulator
}

/// How the notice begins of what is cold in it.
const COLD: &str = "1 object is in cold storage (1 COLDLINE, 8 B)";

fn digest(names: &[String]) -> String {
    let mut digest = NamesDigest::default();
    for name in names {
        digest.push(name);
    }
    digest.finish()
}

fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ if crc & 1 == 1 { 0x82f6_3b78 } else { 0 })
    };
    !bytes.iter().fold(!0, step)
}

#[test]
fn names_come_in_byte_order_and_whole() {
    let emulator = mixed();
    let listed = dataflux(&emulator, &["ls", "gs://mixed"]).expect(0);
    let mut names = emulator.names("mixed");
    assert_eq!(listed.stdout.lines().collect::<Vec<_>>(), names);
    assert!(listed.stderr.starts_with(COLD) && listed.stderr.lines().count() == 1, "{}", listed.stderr);
    names.sort();
    assert_eq!(names, emulator.names("mixed"));
    let some = dataflux(&emulator, &["ls", "gs://mixed/a", "--page-size", "1", "--concurrency", "8"]).expect(0);
    assert_eq!(some.stdout, "a\na\u{1b}[31m\na-b\na/\na/b\n");
}

#[test]
fn long_and_json_tell_what_is_known_of_each() {
    let emulator = mixed();
    let long = dataflux(&emulator, &["ls", "-l", "gs://mixed/cold"]).expect(0).stdout;
    let crc = format!("{:08x}", crc32c(b"12345678"));
    let generation = emulator.generation("mixed", "cold").unwrap();
    let columns: Vec<_> = long.split_whitespace().collect();
    assert_eq!((columns.len(), columns[0], columns[1], columns[5]), (6, "8", "COLDLINE", "cold"), "{long}");
    assert_eq!((columns[3], columns[4]), (&*generation.to_string(), &*crc));
    let all = dataflux(&emulator, &["ls", "-l", "gs://mixed"]).expect(0).stdout;
    let starts: Vec<_> = all.lines().zip(emulator.names("mixed")).map(|(line, name)| line.len() - name.len()).collect();
    assert!(starts.iter().all(|start| *start == starts[0]), "columns are aligned: {all}");

    let json = dataflux(&emulator, &["ls", "--json", "gs://mixed"]).json();
    let objects = json["objects"].as_array().unwrap();
    let names: Vec<_> = objects.iter().map(|object| object["name"].as_str().unwrap()).collect();
    assert_eq!(names, emulator.names("mixed"));
    let cold = objects.iter().find(|object| object["name"] == "cold").unwrap();
    assert_eq!((cold["size"].as_u64(), cold["storage_class"].as_str()), (Some(8), Some("COLDLINE")));
    assert_eq!((cold["generation"].as_i64(), cold["crc32c"].as_str()), (Some(generation), Some(&*crc)));
    assert!(cold["updated"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn summary_counts_calls_and_digests_names() {
    let emulator =
        Emulator::builder().virtual_namespace(virtuals("many:n=2500,pattern=sequence,size=7")).start().unwrap();
    let options = ["ls", "--summary", "--json", "--page-size", "1000", "--concurrency", "1", "gs://many"];
    let summary = dataflux(&emulator, &options).json();
    let keys: Vec<_> = summary.as_object().unwrap().keys().cloned().collect();
    for key in
        ["objects", "bytes", "list_calls", "empty_calls", "seconds", "digest", "left_out", "manifest_bytes", "classes"]
    {
        assert!(keys.iter().any(|have| have == key), "{key} of {keys:?}");
    }
    assert_eq!(keys.len(), 9, "{keys:?}");
    assert_eq!(summary["classes"], json!({"STANDARD": {"objects": 2500, "bytes": 17_500}}));
    assert_eq!((summary["objects"].as_u64(), summary["bytes"].as_u64()), (Some(2500), Some(17_500)));
    assert_eq!((summary["list_calls"].as_u64(), summary["empty_calls"].as_u64()), (Some(3), Some(0)));
    assert_eq!(emulator.stats().list, 3);
    assert_eq!(summary["digest"], digest(&emulator.names("many")));
    assert_eq!(summary["left_out"], json!({}));
    let table = dataflux(&emulator, &["ls", "--summary", "gs://many"]).expect(0).stdout;
    assert!(table.contains("2500") && table.contains(summary["digest"].as_str().unwrap()), "{table}");
}

#[test]
fn objects_that_are_stored_compressed_are_seen() {
    let emulator = mixed();
    let plain = dataflux(&emulator, &["ls", "-l", "gs://mixed/a"]).expect(0);
    assert_eq!(plain.stdout.lines().next().unwrap().split_whitespace().count(), 6, "{}", plain.stdout);
    assert_eq!(plain.stderr, "");
    for (name, encoding) in [("zipped/1", "gzip"), ("zipped/2", "gzip"), ("zipped/3", "br"), ("zipped/4", "my-own")] {
        let options = ObjectOptions { content_encoding: Some(encoding.into()), ..ObjectOptions::default() };
        emulator.put_with("mixed", name, "1234", options);
    }
    let told = "4 objects are stored compressed, by Content-Encoding (1 br, 2 gzip, 1 other): ";
    for args in [&["ls", "gs://mixed/z"][..], &["ls", "-l", "gs://mixed/z"], &["ls", "--json", "gs://mixed/z"]] {
        let stderr = dataflux(&emulator, args).expect(0).stderr;
        assert!(stderr.starts_with(told) && stderr.contains("decompress them yourself"), "{stderr}");
    }
    let long = dataflux(&emulator, &["ls", "-l", "gs://mixed/z"]).expect(0).stdout;
    let columns: Vec<_> = long.lines().map(|line| line.split_whitespace().rev().take(2).collect::<Vec<_>>()).collect();
    let wanted = [["z", "-"], ["zipped/1", "gzip"], ["zipped/2", "gzip"], ["zipped/3", "br"], ["zipped/4", "other"]];
    assert_eq!(columns, wanted, "{long}");
    let listed = dataflux(&emulator, &["ls", "--json", "gs://mixed/z"]).json();
    let encodings = listed["objects"].as_array().unwrap().iter().map(|object| &object["content_encoding"]);
    assert!(encodings.eq(&[json!(null), json!("gzip"), json!("gzip"), json!("br"), json!("other")]), "{listed}");
    let counts = json!({"gzip": 2, "br": 1, "other": 1});
    let summary = dataflux(&emulator, &["ls", "--summary", "--json", "gs://mixed"]).json();
    assert_eq!(summary["content_encodings"], counts);
    let table = dataflux(&emulator, &["ls", "--summary", "gs://mixed"]).expect(0).stdout;
    assert!(table.contains("1 br, 2 gzip, 1 other"), "{table}");
    // A manifest knows it, too.
    let file = std::env::temp_dir().join(format!("dataflux-ls-encoded-{}.dfm", std::process::id()));
    dataflux(&emulator, &["ls", "gs://mixed/zipped/", "--save", file.to_str().unwrap()]).expect(0);
    let manifest = dataflux::Manifest::load(&file).unwrap();
    let encodings: Vec<_> = (0..4).map(|index| manifest.get(index).unwrap().encoding.as_str()).collect();
    std::fs::remove_file(&file).unwrap();
    assert_eq!(encodings, ["gzip", "gzip", "br", "other"]);
}

#[test]
fn storage_classes_are_filtered_and_those_there_are_told() {
    let emulator = mixed();
    let cold = dataflux(&emulator, &["ls", "gs://mixed", "--storage-class", "coldline"]).expect(0);
    assert_eq!(cold.stdout, "cold\n");
    let both = ["ls", "gs://mixed", "--storage-class", "COLDLINE", "--storage-class", "standard"];
    assert_eq!(dataflux(&emulator, &both).expect(0).stdout.lines().count(), 11);
    let none = dataflux(&emulator, &["ls", "gs://mixed", "--storage-class", "archive"]).error();
    assert!(none.contains("11 of another storage class") && none.contains("`dataflux ls -l gs://mixed/`"), "{none}");
    dataflux(&emulator, &["ls", "gs://mixed", "--storage-class", "hot"]).expect(2);
}

#[test]
fn samples_leave_out_marks_and_temporaries() {
    let emulator = mixed();
    let listed = dataflux(&emulator, &["ls", "gs://mixed", "--samples"]).expect(0);
    let names = emulator.names("mixed");
    let wanted: Vec<_> = names.iter().filter(|name| *name != "a/" && !name.contains("composed")).collect();
    assert_eq!(listed.stdout.lines().collect::<Vec<_>>(), wanted);
    assert!(listed.stderr.starts_with("left out: 1 temporary object, 1 folder mark\n"), "{}", listed.stderr);
    assert!(listed.stderr.contains("1 object is in cold storage (1 COLDLINE, 8 B)"), "{}", listed.stderr);
    let none = dataflux(&emulator, &["ls", "gs://mixed/a/", "--samples", "--max-size", "0"]).error();
    assert!(none.contains("1 folder mark, 1 too large") && none.contains("loosen --max-size 0;"), "{none}");
    assert!(none.contains("without --samples"), "{none}");
}

#[test]
fn names_and_sizes_are_filtered_and_what_is_left_out_is_counted() {
    let emulator = mixed();
    for (uri, options, wanted, left) in [
        ("gs://mixed", &["--include", "a*"][..], "a\na\u{1b}[31m\na-b\n", "8 not included"),
        ("gs://mixed/a/", &["--include", "/b"], "a/b\n", "1 not included"),
        ("gs://mixed", &["--include", "a/", "--include", "日*"], "a/\na/b\n日本\n", "8 not included"),
        ("gs://mixed/a", &["--exclude", "a/", "--exclude", "*b"], "a\na\u{1b}[31m\n", "3 excluded"),
        ("gs://mixed", &["--min-size", "5"], "cold\n", "10 too small"),
        ("gs://mixed/a", &["--max-size", "0"], "a/\n", "4 too large"),
        ("gs://mixed", &["--max-size", "3B", "--include", "*/"], "a/\n", "8 not included, 2 too large"),
    ] {
        let listed = dataflux(&emulator, &[&["ls", uri], options].concat()).expect(0);
        assert_eq!(listed.stdout, wanted, "{options:?}");
        let told: Vec<_> = listed.stderr.lines().filter(|line| !line.starts_with(COLD)).collect();
        assert_eq!(told, [format!("left out: {left}")], "{options:?}");
    }
    let options = ["--json", "--include", "?", "--include", "cold", "--max-size", "7", "--storage-class", "standard"];
    let left = json!({"storage_class": 1, "not_included": 5});
    let summary = dataflux(&emulator, &[&["ls", "gs://mixed", "--summary"][..], &options].concat()).expect(0);
    assert_eq!(summary.stderr, "");
    let summary = summary.json();
    assert_eq!(summary["left_out"], left);
    let listed = dataflux(&emulator, &[&["ls", "gs://mixed"][..], &options].concat()).json();
    assert_eq!((&listed["left_out"], listed["objects"].as_array().map(Vec::len)), (&left, Some(5)));
    assert_eq!(summary["digest"], digest(&["B", "a", "a/b", "dataflux-composed-objects/0/1", "z"].map(str::to_owned)));
}

#[test]
fn suffixes_in_any_case_and_images_alone() {
    let emulator = Emulator::builder().bucket("photos").start().unwrap();
    for name in [
        "cat/.ipynb_checkpoints/1.jpg",
        "cat/1.jpg",
        "cat/2.JPG",
        "cat/3.Jpeg",
        "cat/Thumbs.db",
        "cat/labels.csv",
        "dog/4.PNG",
    ] {
        emulator.put("photos", name, "x");
    }
    let listed = |options: &[&str]| dataflux(&emulator, &[&["ls", "gs://photos"][..], options].concat()).expect(0);
    let jpg = listed(&["--include", "*.{jpg,jpeg}", "--exclude", ".IPYNB*/", "--ignore-case"]);
    assert_eq!(jpg.stdout, "cat/1.jpg\ncat/2.JPG\ncat/3.Jpeg\n");
    assert_eq!(listed(&["--include", "*.jpg"]).stdout, "cat/.ipynb_checkpoints/1.jpg\ncat/1.jpg\n");
    let images = listed(&["--images"]);
    assert_eq!(images.stdout, "cat/1.jpg\ncat/2.JPG\ncat/3.Jpeg\ndog/4.PNG\n");
    assert_eq!(images.stderr, "left out: 2 hidden files, 1 without an image's suffix\n");
    let none = dataflux(&emulator, &["ls", "gs://photos/cat/", "--images", "--include", "*s*"]).error();
    assert!(none.contains("loosen --include '*s*' --images"), "{none}");
    let none = dataflux(&emulator, &["ls", "gs://photos/cat/labels", "--images"]).error();
    assert!(none.contains("loosen --images"), "{none}");
    // Whatever has filters has these.
    for command in ["bench", "plan"] {
        let counted = dataflux(&emulator, &[command, "gs://photos", "--images", "--json"]).json();
        assert_eq!(counted.get("samples").or(counted.get("objects")), Some(&json!(4)), "{command}");
    }
}

#[test]
fn what_changed_lately_is_found() {
    let emulator = mixed();
    // The emulator's objects are of now, whatever now is.
    assert_eq!(
        dataflux(&emulator, &["ls", "gs://mixed", "--modified-since", "1h"]).expect(0).stdout.lines().count(),
        11
    );
    let listed = dataflux(&emulator, &["ls", "gs://mixed", "--modified-since", "2001-01-01"]).expect(0);
    assert!(!listed.stderr.contains("left out"), "{}", listed.stderr);
    for json in [&[][..], &["--summary"], &["--json"]] {
        let args = [&["ls", "gs://mixed", "--modified-since", "2199-01-01T00:00:00+02:00"][..], json].concat();
        let none = dataflux(&emulator, &args).error();
        assert!(none.contains("11 too old"), "{none}");
        assert!(none.contains("--modified-since 2198-12-31T22:00:00.000Z"), "{none}");
    }
}

#[test]
fn filters_that_leave_nothing_are_named() {
    let emulator = mixed();
    let options = ["--include", "*.png", "--include", "a", "--exclude", "a", "--min-size", "1KiB"];
    let none = dataflux(&emulator, &[&["ls", "gs://mixed"][..], &options].concat()).error();
    for wanted in
        ["gs://mixed", "11 objects", "10 not included, 1 excluded", "--include '*.png' --include 'a' --exclude 'a'"]
    {
        assert!(none.contains(wanted), "{wanted} in {none}");
    }
    assert!(!none.contains("--min-size"), "it left out nothing: {none}");
    let nothing = dataflux(&emulator, &["ls", "gs://mixed/nothing", "--include", "*.png"]).error();
    assert!(nothing.contains("no object's name begins"), "{nothing}");
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let emulator =
        Emulator::builder().virtual_namespace(virtuals("many:n=60000,pattern=sequence,size=1")).start().unwrap();
    for args in [&["ls", "gs://many"][..], &["ls", "--json", "gs://many"]] {
        let mut child = command(emulator.endpoint(), args).spawn().unwrap();
        let mut out = BufReader::with_capacity(16, child.stdout.take().unwrap());
        assert!(!out.fill_buf().unwrap().is_empty());
        drop(out);
        let ended = child.wait_with_output().unwrap();
        assert_eq!((ended.status.code(), &*String::from_utf8_lossy(&ended.stderr)), (Some(0), ""));
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_a_failure() {
    let emulator = mixed();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let ended = command(emulator.endpoint(), &["ls", "gs://mixed/a"]).stdout(full).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).starts_with("error: standard output can't be written"));
}

#[test]
fn a_listing_is_saved_and_divides_the_next() {
    let emulator = Emulator::builder().virtual_namespace(virtuals("many:n=30000,pattern=hex,size=7")).start().unwrap();
    let file = std::env::temp_dir().join(format!("dataflux-ls-{}.dfm", std::process::id()));
    let path = file.to_str().unwrap();
    let saved = dataflux(&emulator, &["ls", "gs://many", "--save", path]).expect(0);
    assert!(saved.stdout.is_empty() && saved.stderr.contains("saved 30000 objects"), "{}", saved.stderr);
    let manifest = dataflux::Manifest::load(&file).unwrap();
    assert_eq!(manifest.len(), 30_000);
    let options = ["ls", "gs://many", "--refresh", path, "--page-size", "1000", "--summary", "--json"];
    let again = dataflux(&emulator, &options).json();
    assert_eq!((again["objects"].as_u64(), &again["digest"]), (Some(30_000), &json!(digest(&emulator.names("many")))));
    std::fs::write(&file, "no manifest").unwrap();
    let refused = dataflux(&emulator, &["ls", "gs://many", "--refresh", path]).error();
    assert!(refused.contains(path) && refused.contains("manifest"), "{refused}");
    std::fs::remove_file(&file).unwrap();
}
