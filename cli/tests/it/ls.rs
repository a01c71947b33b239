use std::io::{BufRead, BufReader};

use dataflux::manifest::NamesDigest;
use dataflux_emulator::{Emulator, ObjectOptions};

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
    assert_eq!(listed.stderr, "");
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
    let summary = dataflux(&emulator, &["ls", "--summary", "--json", "--page-size", "1000", "gs://many"]).json();
    let keys: Vec<_> = summary.as_object().unwrap().keys().cloned().collect();
    for key in ["objects", "bytes", "list_calls", "empty_calls", "seconds", "digest"] {
        assert!(keys.iter().any(|have| have == key), "{key} of {keys:?}");
    }
    assert_eq!(keys.len(), 6, "{keys:?}");
    assert_eq!((summary["objects"].as_u64(), summary["bytes"].as_u64()), (Some(2500), Some(17_500)));
    assert_eq!((summary["list_calls"].as_u64(), summary["empty_calls"].as_u64()), (Some(3), Some(0)));
    assert_eq!(emulator.stats().list, 3);
    assert_eq!(summary["digest"], digest(&emulator.names("many")));
    let table = dataflux(&emulator, &["ls", "--summary", "gs://many"]).expect(0).stdout;
    assert!(table.contains("2500") && table.contains(summary["digest"].as_str().unwrap()), "{table}");
}

#[test]
fn storage_classes_are_filtered_and_those_there_are_told() {
    let emulator = mixed();
    let cold = dataflux(&emulator, &["ls", "gs://mixed", "--storage-class", "coldline"]).expect(0);
    assert_eq!(cold.stdout, "cold\n");
    let both = ["ls", "gs://mixed", "--storage-class", "COLDLINE", "--storage-class", "standard"];
    assert_eq!(dataflux(&emulator, &both).expect(0).stdout.lines().count(), 11);
    let none = dataflux(&emulator, &["ls", "gs://mixed", "--storage-class", "archive"]).error();
    assert!(none.contains("COLDLINE, STANDARD"), "{none}");
    dataflux(&emulator, &["ls", "gs://mixed", "--storage-class", "hot"]).expect(2);
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
    let ended = command(emulator.endpoint(), &["ls", "gs://mixed"]).stdout(full).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&ended.stderr).starts_with("error: standard output can't be written"));
}
