//! Bad input: what it says, and with which code.

use dataflux_emulator::{BucketConfig, Emulator};

use crate::bench::png;
use crate::harness::{command, contains, dataflux, start, temporaries, virtuals};

fn emulator() -> Emulator {
    Emulator::builder().virtual_namespace(virtuals("train:n=100,pattern=sequence,size=10")).start().unwrap()
}

#[test]
fn no_such_bucket() {
    let emulator = emulator();
    for command in ["ls", "bench", "clean"] {
        contains(&dataflux(&emulator, &[command, "gs://nowhere/x", "--json"]).error(), &["gs://nowhere", "bucket"]);
    }
}

/// The parser of arguments repeats the argument that it refuses.
#[test]
fn a_signed_address_is_refused_and_not_shown() {
    let emulator = emulator();
    let signed = "https://storage.googleapis.com/train/0.bin?X-Goog-Algorithm=RSA&X-Goog-Signature=hunter2";
    for args in [
        &[signed][..],
        &["--", signed],
        &["ls", "gs://train", signed],
        &["ls", "gs://train", "--limit", signed],
        &["ls", "gs://train", "--json", &format!("--{signed}")],
        &["ls", "gs://train", &format!("--json={signed}")],
    ] {
        let refused = dataflux(&emulator, args).expect(2);
        assert!(!refused.stderr.contains("hunter2"), "{args:?}: {}", refused.stderr);
    }
    for command in ["ls", "bench", "clean"] {
        let refused = dataflux(&emulator, &[command, signed]).expect(2);
        contains(&refused.stderr, &["https://storage.googleapis.com/train/0.bin?...", "write gs://train/0.bin"]);
        assert!(!refused.stderr.contains("hunter2"), "{}", refused.stderr);
    }
}

#[test]
fn nothing_below_the_prefix() {
    let emulator = emulator();
    let uri = "gs://train/nothing/";
    for args in [&["ls", uri][..], &["ls", "--summary", uri], &["bench", uri]] {
        for json in [&[][..], &["--json"]] {
            let told = dataflux(&emulator, &[args, json].concat()).error();
            contains(&told, &[uri, "check its spelling", "dataflux ls"]);
        }
    }
    let empty = Emulator::builder().bucket("empty").start().unwrap();
    contains(&dataflux(&empty, &["ls", "gs://empty"]).error(), &["the bucket empty is empty"]);
}

#[test]
fn missing_permissions_are_named() {
    let emulator = emulator();
    emulator.deny("train", "storage.objects.list");
    for command in ["ls", "bench", "clean"] {
        contains(&dataflux(&emulator, &[command, "gs://train"]).error(), &["gs://train", "storage.objects.list"]);
    }
    emulator.allow("train", "storage.objects.list");
    emulator.deny("train", "storage.objects.get");
    contains(&dataflux(&emulator, &["bench", "gs://train", "--strategy", "direct"]).error(), &["storage.objects.get"]);
    assert_eq!(temporaries(&emulator, "train"), [""; 0]);
}

#[test]
fn a_reader_who_may_not_write_is_warned_and_served() {
    let emulator = emulator();
    emulator.deny("train", "storage.objects.create");
    let done = dataflux(&emulator, &["bench", "gs://train", "--strategy", "compose", "--json"]).expect(0);
    contains(&done.stderr, &["WARN", "storage.objects.create"]);
    assert_eq!(done.json()["verified"], 100);
}

#[test]
fn an_image_cut_short_is_named() {
    let emulator = Emulator::builder().bucket("images").start().unwrap();
    let whole = png(16, 16);
    emulator.put("images", "train/cat/0.png", whole.clone());
    emulator.put("images", "train/dog/0.png", whole.clone());
    emulator.put("images", "train/cat/cut.png", whole[..whole.len() / 2].to_vec());
    for strategy in ["direct", "compose"] {
        let args = ["bench", "gs://images/train/", "--decode", "image:8x8", "--strategy", strategy];
        contains(&dataflux(&emulator, &args).error(), &["gs://images/train/cat/cut.png"]);
        assert_eq!(temporaries(&emulator, "images"), [""; 0]);
    }
}

/// It was tried for 285 s without a word.
#[test]
fn no_service_at_all_is_told_of_within_seconds() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let host = format!("127.0.0.1:{port}");
    for (host, said) in [(&*host, "refused"), (&"x".repeat(64), "can't be resolved")] {
        let error = start(host, &["ls", "gs://train"]).finish().error();
        contains(&error, &["gs://train", host, said, "STORAGE_EMULATOR_HOST"]);
    }
}

/// Without any option.
#[test]
fn a_silent_service_is_told_of_while_it_is_waited_for() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = silent.local_addr().unwrap().to_string();
    let mut running = start(&host, &["ls", "gs://train"]);
    running.says("has not answered a call for 10s");
    assert!(!running.over(), "it is waited for");
}

#[test]
fn bad_usage_is_2_and_says_what_to_write() {
    let emulator = emulator();
    for (args, wanted) in [
        (&["ls", "train/x"][..], "write gs://train/x"),
        (&["bench", "s3://train/x"], "write gs://train/x"),
        (&["ls", "gs:/train/x"], "write gs://train/x"),
        (&["get", "gs:///train/x", "to"], "write gs://train/x"),
        (&["plan", "https://storage.googleapis.com/train/a%20b/"], "write gs://train/a b/"),
        (&["ls", "https://storage.cloud.google.com/train/x?authuser=1"], "write gs://train/x"),
        (&["ls", "https://console.cloud.google.com/storage/browser/train/x;tab=objects"], "write gs://train/x"),
        (&["ls", "https://example.com/train"], "write gs://my-bucket/train/, for example"),
        (&["ls", "gs://train", "--project", "my project"], "my-project-123"),
        (&["clean", "train"], "write gs://train"),
        (&["ls", "gs://UPPER/x"], "bucket's name"),
        (&["ls"], "<URI>"),
        (&["ls", "gs://train", "--page-size", "0"], "--page-size"),
        (&["ls", "gs://train", "--concurrency", "0"], "at least 1"),
        (&["ls", "gs://train", "-l", "--summary"], "--summary"),
        (&["ls", "gs://train", "--include", "[a"], "missing ']'"),
        (&["ls", "gs://train", "--exclude", ""], "names nothing"),
        (&["ls", "gs://train", "--min-size", "1M"], "512MiB"),
        (&["ls", "gs://train", "--max-size", "-1"], "-1"),
        (&["ls", "gs://train", "--min-size", "99999999999999999999"], "at most 18446744073709551615"),
        (&["ls", "gs://train", "--min-size", "1.5"], "whole bytes"),
        (&["ls", "gs://train", "--everything", "--samples"], "--samples"),
        (&["ls", "gs://train", "--min-size", "1KiB", "--max-size", "1KB"], "--min-size 1024 is above --max-size 1000"),
        (&["ls", "gs://train", "--modified-since", "yesterday"], "7d"),
        (&["ls", "gs://train", "--storage-class", "hot"], "nearline"),
        (&["bench", "gs://train", "--batch-size", "0"], "at least 1"),
        (&["bench", "gs://train", "--batch-size", "-1"], "-1"),
        (&["bench", "gs://train", "--manifest", "x", "--include", "*.txt"], "'--include <GLOB>'"),
        (&["bench", "gs://train", "--manifest", "x", "--max-size", "7"], "'--max-size <SIZE>'"),
        (&["bench", "gs://train", "--epochs", "0"], "--epochs"),
        (&["bench", "gs://train", "--limit", "0"], "--limit"),
        (&["bench", "gs://train", "--decode-threads", "0"], "at least 1"),
        (&["bench", "gs://train", "--io-threads", "0"], "at least 1"),
        (&["bench", "gs://train", "--memory-budget", "0"], "at least 1 byte"),
        (&["bench", "gs://train", "--memory-budget", "1M"], "512MiB"),
        (&["bench", "gs://train", "--decode", "image:0x8"], "image:HxW"),
        (&["bench", "gs://train", "--strategy", "fast"], "compose"),
        (&["bench", "gs://train", "--rank", "2", "--world-size", "2"], "below --world-size 2"),
        (&["bench", "gs://train", "--rank", "0"], "--world-size"),
        (&["bench", "gs://train", "--rank", "0", "--world-size", "0"], "at least 1"),
        (&["clean", "gs://train", "--older-than", "10"], "10m"),
        (&["emulate", "--profile", "slow"], "slow"),
        (&["emulate", "--virtual", "train"], "train"),
        (&["emulate", "--faults", "error=2"], "error"),
        (&["nonsense"], "nonsense"),
        (&[], "Usage"),
    ] {
        let told = dataflux(&emulator, args).expect(2);
        assert_eq!(told.stdout, "", "{args:?}");
        contains(&told.stderr, &[wanted]);
        assert!(!told.stderr.contains('\u{1b}'), "no colours but on a terminal: {}", told.stderr);
    }
    assert_eq!(emulator.stats().calls(), 0, "nothing was tried");
}

#[test]
fn a_log_filter_that_is_none_is_bad_usage() {
    let emulator = emulator();
    let told = command(emulator.endpoint(), &["ls", "gs://train"]).env("DATAFLUX_LOG", "a=b=c").output().unwrap();
    assert_eq!(told.status.code(), Some(2));
    contains(&String::from_utf8_lossy(&told.stderr), &["DATAFLUX_LOG"]);
}

#[test]
fn help_tells_examples() {
    let emulator = emulator();
    for command in ["ls", "get", "bench", "clean", "replay", "emulate"] {
        let help = dataflux(&emulator, &[command, "--help"]).expect(0).stdout;
        contains(&help, &["Examples:", "--json", "Usage: dataflux"]);
    }
    assert!(dataflux(&emulator, &["--version"]).expect(0).stdout.starts_with("dataflux "));
}

#[test]
fn a_glob_in_a_uri_becomes_a_filter_in_the_hint() {
    let (emulator, to) = (emulator(), std::env::temp_dir().join(format!("dataflux-no-glob-{}", std::process::id())));
    let to = to.to_str().unwrap();
    for args in [&["ls"][..], &["ls", "--summary"], &["get", to], &["bench"], &["plan"]] {
        let uri = "gs://train/cat/*.jpg";
        let args = [&args[..1], &[uri], &args[1..]].concat();
        let told = dataflux(&emulator, &args).error();
        contains(&told, &[uri, "write gs://train/cat/ --include '/*.jpg'"]);
    }
    assert!(!std::path::Path::new(to).exists());
    // Names may hold what globs are made of.
    emulator.put("train", "odd/[1].jpg", "x");
    assert_eq!(dataflux(&emulator, &["ls", "gs://train/odd/[1]"]).expect(0).stdout, "odd/[1].jpg\n");
}

#[test]
fn an_inventory_report_at_a_misspelt_uri_is_not_looked_for_on_disk() {
    let told = dataflux(&emulator(), &["ls", "gs://train", "--inventory", "gs:/reports/daily/"]).error();
    contains(&told, &["write gs://reports/daily/"]);
}

#[test]
fn buckets_whose_requesters_pay_ask_for_a_project_and_get_it() {
    let pays = BucketConfig { requester_pays: true, ..BucketConfig::default() };
    let emulator = Emulator::builder().bucket_with("pays", pays).start().unwrap();
    emulator.put("pays", "a.txt", "12");
    let to = std::env::temp_dir().join(format!("dataflux-pays-{}", std::process::id()));
    for args in [
        &["ls", "gs://pays"][..],
        &["get", "gs://pays", to.to_str().unwrap()],
        &["bench", "gs://pays"],
        &["plan", "gs://pays"],
        &["clean", "gs://pays"],
    ] {
        let told = dataflux(&emulator, args).error();
        contains(&told, &["requester pays", "name the project that pays with --project"]);
        assert!(!told.contains("GcsConfig"), "{told}");
        dataflux(&emulator, &[args, &["--project", "my-project-123", "--anonymous"]].concat()).expect(0);
    }
    std::fs::remove_dir_all(&to).unwrap();
}

#[test]
fn a_budget_that_nothing_fits_names_options() {
    let told = dataflux(&emulator(), &["bench", "gs://train", "--epoch-budget", "0.000000001"]).error();
    contains(&told, &["--strategy direct $", "--strategy compose $"]);
    assert!(!told.contains("Strategy::"), "{told}");
}

#[test]
fn an_image_beyond_the_limit_names_the_option_for_it() {
    let emulator = Emulator::builder().bucket("images").start().unwrap();
    emulator.put("images", "train/cat/0.png", png(16, 16));
    emulator.put("images", "train/dog/0.png", png(16, 15));
    let args = ["bench", "gs://images/train/", "--decode", "image:8x8", "--max-pixels"];
    let told = dataflux(&emulator, &[&args[..], &["255"]].concat()).error();
    contains(
        &told,
        &["gs://images/train/cat/0.png", "16 x 16 = 256 pixels", "more than the 255 that --max-pixels allows"],
    );
    dataflux(&emulator, &[&args[..], &["256"]].concat()).expect(0);
}
