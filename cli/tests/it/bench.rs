use dataflux_emulator::{Call, Emulator, Fault, Faults};
use serde_json::Value;

use crate::harness::{Scratch, dataflux, temporaries, virtuals};

const KEYS: [&str; 23] = [
    "samples",
    "bytes",
    "seconds",
    "epoch_seconds",
    "samples_per_second",
    "bytes_per_second",
    "first_batch_seconds",
    "wait_fraction",
    "waited_for",
    "cpu_seconds",
    "peak_rss_bytes",
    "order_digest",
    "verified",
    "skipped",
    "substituted",
    "retries",
    "ops",
    "cost_usd",
    "bill",
    "cache",
    "leftover_temporaries",
    "groups",
    "choice",
];

fn emulator() -> Emulator {
    Emulator::builder().virtual_namespace(virtuals("train:n=1000,pattern=folders,size=100..3000")).start().unwrap()
}

/// A report of which every sample was proved and nothing was left.
#[track_caller]
fn bench(emulator: &Emulator, more: &[&str]) -> Value {
    let args = [&["bench", "gs://train", "--json", "--batch-size", "64"], more].concat();
    let report = dataflux(emulator, &args).json();
    let keys: Vec<_> = report.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), KEYS.len(), "{keys:?}");
    assert!(KEYS.iter().all(|key| report.get(key).is_some()), "{keys:?}");
    assert_eq!(report["verified"], report["samples"], "{report}");
    assert_eq!(report["leftover_temporaries"], 0, "{report}");
    assert_eq!(temporaries(emulator, "train"), [""; 0]);
    report
}

fn op(report: &Value, name: &str) -> u64 {
    report["ops"][name].as_u64().unwrap()
}

#[test]
fn the_order_is_one_whatever_the_strategy_and_the_threads() {
    let emulator = emulator();
    let mut digests = Vec::new();
    for strategy in ["direct", "compose", "auto"] {
        for threads in ["1", "8"] {
            emulator.reset_stats();
            let args = ["--shuffle", "7", "--epochs", "2", "--strategy", strategy, "--decode-threads", threads];
            let report = bench(&emulator, &[&args[..], &["--io-threads", threads]].concat());
            assert_eq!(report["samples"], 2000);
            digests.push(report["order_digest"].as_str().unwrap().to_owned());
            let stats = emulator.stats();
            assert_eq!((op(&report, "get"), op(&report, "compose")), (stats.get_media, stats.compose), "{report}");
            assert_eq!((op(&report, "delete"), op(&report, "put")), (stats.delete, 0), "{report}");
            // One listing more is the look at what is left, which is no part of the measurement.
            assert_eq!(op(&report, "list") + 1, stats.list, "{report}");
            match strategy {
                "direct" => assert_eq!((op(&report, "get"), op(&report, "compose")), (2000, 0)),
                // In an epoch 15 batches of 64 and one of 40: two groups each, of at most 32.
                "compose" => {
                    assert_eq!((op(&report, "compose"), op(&report, "delete"), op(&report, "get")), (64, 64, 64));
                }
                _ => assert!(op(&report, "get") <= 2000),
            }
            let cost = report["cost_usd"].as_f64().unwrap();
            let parts: f64 = report["bill"].as_object().unwrap().values().map(|part| part.as_f64().unwrap()).sum();
            assert!(cost > 0.0 && (cost - parts).abs() < 1e-12, "{report}");
        }
    }
    digests.dedup();
    assert_eq!(digests.len(), 1, "{digests:?}");
    let other = bench(&emulator, &["--shuffle", "8", "--epochs", "2"]);
    assert_ne!(other["order_digest"], digests[0]);
}

#[test]
fn unshuffled_the_order_is_that_of_ls() {
    let emulator = emulator();
    let summary = dataflux(&emulator, &["ls", "--summary", "--json", "gs://train"]).json();
    let report = bench(&emulator, &[]);
    assert_eq!(report["order_digest"], summary["digest"]);
    assert_eq!((&report["samples"], &report["bytes"]), (&summary["objects"], &summary["bytes"]));
    let seconds = report["seconds"].as_f64().unwrap();
    assert!(seconds > 0.0 && report["cpu_seconds"].as_f64().unwrap() > 0.0, "{report}");
    let epochs: Vec<_> = report["epoch_seconds"].as_array().unwrap().iter().map(|one| one.as_f64().unwrap()).collect();
    assert!(epochs.len() == 1 && (0.0..=seconds).contains(&epochs[0]), "{report}");
    assert!((0.0..=1.0).contains(&report["wait_fraction"].as_f64().unwrap()), "{report}");
    let first = report["first_batch_seconds"].as_f64().unwrap();
    let waited: f64 = report["waited_for"].as_object().unwrap().values().map(|time| time.as_f64().unwrap()).sum();
    assert!((0.0..=seconds).contains(&first) && (0.0..=seconds).contains(&waited), "{report}");
    // Nothing is at hand at the start.
    assert!(first > 0.0 && waited > 0.0, "{report}");
    if cfg!(target_os = "linux") {
        assert!(report["peak_rss_bytes"].as_u64().unwrap() > 1 << 20, "{report}");
    }
}

#[test]
fn a_limit_stops_with_a_whole_batch_and_leaves_nothing() {
    let emulator = emulator();
    for (limit, epochs, samples) in [("1", "1", 64), ("64", "1", 64), ("65", "3", 128), ("1001", "2", 1064)] {
        let report = bench(&emulator, &["--limit", limit, "--epochs", epochs, "--strategy", "compose"]);
        assert_eq!(report["samples"], samples, "--limit {limit}");
    }
}

#[test]
fn ranks_share_an_epoch() {
    let emulator = emulator();
    let reports =
        ["0", "1", "2"].map(|rank| bench(&emulator, &["--shuffle", "1", "--rank", rank, "--world-size", "3"]));
    assert_eq!(reports.iter().map(|report| report["samples"].as_u64().unwrap()).sum::<u64>(), 1000);
    assert_ne!(reports[0]["order_digest"], reports[1]["order_digest"]);
    assert_ne!(reports[1]["order_digest"], reports[2]["order_digest"]);
    let alone = bench(&emulator, &["--shuffle", "1", "--rank", "0", "--world-size", "1"]);
    assert_eq!(alone["order_digest"], bench(&emulator, &["--shuffle", "1"])["order_digest"]);
}

#[test]
fn a_bad_service_changes_neither_order_nor_proof() {
    let emulator = emulator();
    let calm = bench(&emulator, &["--shuffle", "3", "--strategy", "compose"]);
    emulator.set_faults("error=0.05,short=0.05,cut=0.05,flip=0.05,lost=0.05".parse::<Faults>().unwrap());
    let stormy = bench(&emulator, &["--shuffle", "3", "--strategy", "compose"]);
    assert_eq!((&stormy["order_digest"], &stormy["verified"]), (&calm["order_digest"], &calm["samples"]));
    assert!(stormy["retries"].as_u64().unwrap() > 0, "{stormy}");
}

/// `retries` was 0 where samples had come damaged, and of groups that could not be joined it was told that they had
/// been.
#[test]
fn under_faults_every_figure_is_what_the_service_counted() {
    let emulator = emulator();
    let bytes = dataflux(&emulator, &["ls", "--summary", "--json", "gs://train"]).json()["bytes"].clone();
    // One kind of call for each, so that what is asked besides, such as what an earlier try has made, never fails.
    let faults = "error=0.03,429=0.03,reset=0.02,short=0.02,cut=0.02,flip=0.01,lost=0.05,only=get_media|compose|delete";
    for strategy in ["direct", "compose", "auto"] {
        emulator.reset_stats();
        emulator.set_faults(faults.parse::<Faults>().unwrap());
        let report = bench(&emulator, &["--shuffle", "3", "--strategy", strategy]);
        let stats = emulator.stats();
        assert_eq!((&report["samples"], &report["bytes"]), (&1_000.into(), &bytes));
        let ops = ["get", "compose", "delete", "put"].map(|kind| op(&report, kind));
        assert_eq!(ops, [stats.get_media, stats.compose, stats.delete, stats.insert], "{report}");
        assert_eq!(op(&report, "list") + 1, stats.list, "{report}");
        let groups = |report: &serde_json::Value, kind: &str| report["groups"][kind].as_u64().unwrap();
        // A composed group is made, read and deleted; any other is read. Where composing a group was given up, of two
        // objects at least, some of that was done before.
        let planned = 3 * groups(&report, "composed") + groups(&report, "direct");
        let most_given_up = if op(&report, "compose") > 0 { groups(&report, "direct") / 2 } else { 0 };
        let first_tries = ops.iter().sum::<u64>() - report["retries"].as_u64().unwrap();
        let expected = planned..=planned + 3 * most_given_up;
        assert!(expected.contains(&first_tries), "{first_tries} of {expected:?}: {report}");
        assert!(report["retries"].as_u64().unwrap() > 0, "{report}");
        assert_eq!((&report["skipped"], &report["substituted"]), (&0.into(), &0.into()));
    }
    // One of a kind: two objects are read once more.
    emulator.set_faults(Faults::none());
    emulator.fault_next(Call::GetMedia, Fault::Flip, 2);
    assert_eq!(bench(&emulator, &["--strategy", "direct"])["retries"], 2);
}

#[test]
fn images_are_decoded() {
    let emulator = Emulator::builder().bucket("images").start().unwrap();
    for class in ["cat", "dog"] {
        for index in 0..20 {
            emulator.put("images", &format!("train/{class}/{index}.png"), png(16 + index, 16));
        }
    }
    let args = ["bench", "gs://images/train/", "--json", "--decode", "image:8x8", "--batch-size", "7"];
    let report = dataflux(&emulator, &args).json();
    assert_eq!((&report["samples"], &report["verified"]), (&40.into(), &40.into()));
}

#[test]
fn folder_marks_are_no_samples() {
    let emulator = emulator();
    emulator.put("train", "n0/", "");
    assert_eq!(bench(&emulator, &[])["samples"], 1000);
}

#[test]
fn humans_get_a_table() {
    let emulator = emulator();
    let done = dataflux(&emulator, &["bench", "gs://train", "--step-ms", "1", "--memory-budget", "64MiB"]).expect(0);
    assert!(done.stdout.contains(": class A $"), "{}", done.stdout);
    assert!(done.stdout.contains("1000 of them verified") && done.stderr.is_empty(), "{}{}", done.stdout, done.stderr);
}

pub(crate) fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let image = image::RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 7]));
    image.write_to(&mut bytes, image::ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[test]
fn a_saved_manifest_takes_the_place_of_a_listing() {
    let emulator = Emulator::builder().virtual_namespace(virtuals("many:n=500,pattern=hex,size=70")).start().unwrap();
    let file = std::env::temp_dir().join(format!("dataflux-bench-{}.dfm", std::process::id()));
    let path = file.to_str().unwrap();
    dataflux(&emulator, &["ls", "gs://many", "--save", path]).expect(0);
    let listed = dataflux(&emulator, &["bench", "gs://many", "--json", "--strategy", "direct"]).json();
    let before = emulator.stats().list;
    let options = ["bench", "gs://many", "--json", "--strategy", "direct", "--manifest", path];
    let loaded = dataflux(&emulator, &options).json();
    assert_eq!(loaded["order_digest"], listed["order_digest"]);
    assert_eq!((loaded["verified"].as_u64(), loaded["ops"]["list"].as_u64()), (Some(500), Some(0)));
    assert!(emulator.stats().list <= before + 1, "only temporaries are looked for at the end");
    let other = dataflux(&emulator, &["bench", "gs://many/a", "--manifest", path]).expect(2);
    assert!(other.stderr.contains("gs://many/") && other.stderr.contains(path), "{}", other.stderr);
    dataflux(&emulator, &["bench", "gs://many", "--manifest", path, "--include", "*"]).expect(2);
    std::fs::remove_file(&file).unwrap();
}

#[test]
fn filters_choose_the_samples() {
    let emulator = Emulator::builder().virtual_namespace(virtuals("many:n=500,pattern=hex,size=70")).start().unwrap();
    let left = dataflux(&emulator, &["bench", "gs://many", "--json", "--include", "[0-7]*", "--strategy", "direct"]);
    let samples = left.json()["samples"].as_u64().unwrap();
    assert_eq!(samples, emulator.names("many").iter().filter(|name| name.as_bytes()[0] < b'8').count() as u64);
}

/// Another version, as somebody writes one while a run reads, by a manifest from before.
#[test]
fn bad_samples_are_skipped_or_substituted_up_to_a_limit() {
    let emulator = Emulator::builder().bucket("train").start().unwrap();
    (0..40).for_each(|index| _ = emulator.put("train", &format!("{index:02}"), "sample"));
    let scratch = Scratch::new("losses");
    let manifest = scratch.path("train.dfm");
    dataflux(&emulator, &["ls", "gs://train", "--save", &manifest]).expect(0);
    for name in ["03", "04", "33"] {
        emulator.put("train", name, "changed");
    }
    for strategy in ["direct", "compose"] {
        let how = |on_error| ["--manifest", &manifest, "--strategy", strategy, "--on-error", on_error];
        let skipped = bench(&emulator, &how("skip:3"));
        assert_eq!(
            (&skipped["samples"], &skipped["skipped"], &skipped["substituted"]),
            (&37.into(), &3.into(), &0.into())
        );
        let substituted = bench(&emulator, &how("substitute:10"));
        assert_eq!((&substituted["samples"], &substituted["skipped"]), (&40.into(), &0.into()));
        assert!(substituted["substituted"].as_u64().unwrap() >= 3, "{substituted}");
        for (on_error, said) in
            [("fail", "fetch: gs://train/"), ("skip:2", "wanted at most 2 in an epoch on this rank, got 3")]
        {
            let args = [&["bench", "gs://train", "--batch-size", "10"][..], &how(on_error)].concat();
            let failed = dataflux(&emulator, &args).expect(1);
            assert!(failed.stderr.contains(said), "{}", failed.stderr);
        }
    }
    let refused = dataflux(&emulator, &["bench", "gs://train", "--on-error", "skip"]).expect(2);
    assert!(refused.stderr.contains("it must be fail, skip:N or substitute:N"), "{}", refused.stderr);
}
