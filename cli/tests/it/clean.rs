use std::collections::BTreeSet;
use std::time::Duration;

use dataflux_emulator::{Call, Emulator, Fault, Faults, ObjectOptions, Profile};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::harness::{dataflux, draw, eventually, settle, start, temporaries, virtuals};

const KEYS: [&str; 9] =
    ["found", "removed", "removed_bytes", "living", "young", "foreign", "seconds", "dry_run", "objects"];

#[track_caller]
fn clean(emulator: &Emulator, more: &[&str]) -> Value {
    let report = dataflux(emulator, &[&["clean", "gs://train", "--json"], more].concat()).json();
    let keys: Vec<_> = report.as_object().unwrap().keys().collect();
    assert_eq!(keys.len(), KEYS.len(), "{keys:?}");
    assert!(KEYS.iter().all(|key| report.get(key).is_some()), "{keys:?}");
    assert_eq!(report["removed"].as_u64().unwrap(), report["objects"].as_array().unwrap().len() as u64);
    report
}

fn names(report: &Value) -> BTreeSet<String> {
    let names = report["objects"].as_array().unwrap().iter().map(|name| name.as_str().unwrap());
    names.map(|name| name.strip_prefix("gs://train/").unwrap().split('#').next().unwrap().to_owned()).collect()
}

/// Starts runs and kills each in the midst of its work; what they leave.
fn left_by_killed_runs(emulator: &Emulator, runs: u64) -> BTreeSet<String> {
    for run in 0..runs {
        let before: BTreeSet<_> = temporaries(emulator, "train").into_iter().collect();
        let args = ["bench", "gs://train", "--strategy", "compose", "--batch-size", "64", "--epochs", "1000000"];
        let running = start(emulator.endpoint(), &args);
        let new = || temporaries(emulator, "train").iter().any(|name| !before.contains(name));
        eventually("a temporary object", new);
        std::thread::sleep(Duration::from_secs_f64(0.3 * draw(9, run)));
        running.signal(Signal::SIGKILL);
        assert_eq!(running.finish().code, None);
    }
    settle();
    temporaries(emulator, "train").into_iter().collect()
}

#[test]
fn all_of_the_dead_and_none_of_the_living() {
    let emulator = Emulator::builder()
        .profile("gcs".parse::<Profile>().unwrap())
        .virtual_namespace(virtuals("train:n=1000,pattern=folders,size=500..2000"))
        .start()
        .unwrap();
    let dead = left_by_killed_runs(&emulator, 4);
    assert!(!dead.is_empty(), "a killed run leaves something");

    // One read of the living run stops half-way, so that its temporary is there all the while.
    emulator.set_faults("stall_ms=8000".parse::<Faults>().unwrap());
    emulator.fault_next(Call::GetMedia, Fault::Stall, 1);
    let args = ["bench", "gs://train", "--strategy", "compose", "--batch-size", "64", "--json", "--shuffle", "5"];
    let mut living = start(emulator.endpoint(), &args);
    eventually("the stalled read", || emulator.stats().faults.values().sum::<u64>() > 0);
    let dry = clean(&emulator, &["--dry-run"]);
    assert_eq!(names(&dry), dead);
    assert!(dead.iter().all(|name| emulator.get("train", name).is_some()), "a dry run removes nothing");
    let report = clean(&emulator, &[]);
    assert!(!living.over(), "it was there all the while");
    assert_eq!(names(&report), dead);
    assert!(report["living"].as_u64().unwrap() > 0, "{report}");
    assert!(report["removed_bytes"].as_u64().unwrap() > 0, "{report}");
    assert!(dead.iter().all(|name| emulator.get("train", name).is_none()));

    let finished = living.finish().json();
    assert_eq!((&finished["samples"], &finished["verified"]), (&1000.into(), &1000.into()));
    // No group was read again, object by object, for want of its temporary: there are 16 batches of two.
    assert_eq!((finished["ops"]["get"].as_u64(), finished["ops"]["compose"].as_u64()), (Some(32), Some(32)));
    assert_eq!(finished["leftover_temporaries"], 0);
    assert_eq!(temporaries(&emulator, "train"), [""; 0]);
    let nothing = clean(&emulator, &[]);
    assert_eq!((nothing["found"].as_u64(), nothing["removed"].as_u64()), (Some(0), Some(0)));
}

#[test]
fn the_young_and_the_foreign_stay_and_the_prefix_does_not_matter() {
    let emulator = Emulator::builder().bucket("train").start().unwrap();
    let temporary = |name: &str, lease: &str| {
        let metadata =
            [("dataflux-process", "elsewhere/1/1"), ("dataflux-lease-seconds", lease), ("dataflux-run", "1")];
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let options = ObjectOptions { metadata, ..ObjectOptions::default() };
        emulator.put_with("train", &format!("dataflux-composed-objects/{name}"), "12345", options);
    };
    // No number: `Date` counts in whole seconds, so that a lease of none is over only when the second is.
    for index in 0..24 {
        temporary(&format!("dead{index}"), "none");
    }
    // As versions before this one named them.
    temporary("dead/24", "none");
    temporary("leased", "9999999");
    emulator.put("train", "dataflux-composed-objects/mine", "keep");
    emulator.put("train", "data/1", "keep");

    let young = clean(&emulator, &["--older-than", "1h"]);
    assert_eq!((young["young"].as_u64(), young["removed"].as_u64()), (Some(26), Some(0)));
    let told = dataflux(&emulator, &["clean", "gs://train/data/", "--dry-run"]).expect(0).stdout;
    assert_eq!(told.matches("would remove gs://train/").count(), 20, "{told}");
    assert!(told.contains("and 5 more"), "{told}");
    let report = clean(&emulator, &[]);
    let count = |key: &str| report[key].as_u64().unwrap();
    assert_eq!((count("found"), count("removed"), count("removed_bytes")), (27, 25, 125));
    assert_eq!((count("living"), count("foreign"), count("young")), (1, 1, 0));
    assert_eq!((&report["dry_run"], emulator.names("train").len()), (&false.into(), 3));

    temporary("dead", "none");
    emulator.deny("train", "storage.objects.delete");
    let refused = dataflux(&emulator, &["clean", "gs://train", "--json"]).error();
    assert!(refused.contains("storage.objects.delete"), "{refused}");
}
