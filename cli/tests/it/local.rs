//! Files of this machine in the place of a bucket.

use std::fs;

use dataflux_emulator::Emulator;

use crate::harness::{Scratch, contains, dataflux};

/// The same names and bytes in a bucket and on disk: all commands say the same, but that files have no checksums and
/// cost nothing.
#[test]
fn files_are_listed_read_and_copied_as_a_bucket_is() {
    let scratch = Scratch::new("local");
    let (emulator, folder) = (Emulator::builder().bucket("data").start().unwrap(), scratch.path("train"));
    for number in 0..200 {
        let (path, bytes) = (format!("{folder}/{}/{number}.bin", number % 7), vec![number as u8; 100 + number]);
        fs::create_dir_all(format!("{folder}/{}", number % 7)).unwrap();
        fs::write(&path, &bytes).unwrap();
        emulator.put("data", path.trim_start_matches('/'), bytes);
    }
    let (bucket, files) = (format!("gs://data{folder}/"), format!("file://{folder}/"));
    let both = |args: &[&str], more: &[&str]| {
        [&bucket, &files]
            .map(|uri| dataflux(&emulator, &[&[args[0], uri], &args[1..], more, &["--json"]].concat()).json())
    };

    let [of_bucket, of_files] = both(&["ls", "--summary"], &[]);
    assert_eq!((&of_files["objects"], &of_files["bytes"]), (&of_bucket["objects"], &of_bucket["bytes"]));
    assert_eq!(of_files["digest"], of_bucket["digest"]);

    let [of_bucket, of_files] = both(&["bench", "--batch-size", "16", "--shuffle", "7"], &["--epochs", "2"]);
    assert_eq!(of_files["order_digest"], of_bucket["order_digest"]);
    assert_eq!((&of_files["samples"], &of_files["verified"]), (&400.into(), &0.into()), "{of_files}");
    assert_eq!((&of_files["cost_usd"], &of_files["ops"]["get"]), (&0.0.into(), &400.into()), "{of_files}");

    let copies = scratch.path("copies");
    dataflux(&emulator, &["get", &files, &copies]).expect(0);
    assert_eq!(fs::read(format!("{copies}/3/24.bin")).unwrap(), vec![24; 124]);
    dataflux(&emulator, &["plan", &files]).expect(0);
}

#[test]
fn options_of_a_bucket_are_refused() {
    let emulator = Emulator::builder().bucket("data").start().unwrap();
    let refused = dataflux(&emulator, &["ls", "file:///data/", "--anonymous"]).expect(2);
    contains(&refused.stderr, &["--anonymous is for gs://", "leave it out"]);
    let clean = dataflux(&emulator, &["clean", "file:///data/"]).expect(2);
    contains(&clean.stderr, &["has no temporary objects"]);
    let missing = dataflux(&emulator, &["ls", "file:///no/such/folder/"]).error();
    contains(&missing, &["file:///no/such/folder/"]);
}
