use std::fs;

use dataflux_emulator::Emulator;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::harness::{Scratch, dataflux, eventually, start, virtuals};

fn emulator() -> Emulator {
    Emulator::builder().virtual_namespace(virtuals("train:n=100,pattern=sequence,size=100")).start().unwrap()
}

fn replay(emulator: &Emulator, log: &str, more: &[&str]) -> Value {
    dataflux(emulator, &[&["replay", log, "--json"], more].concat()).json()
}

#[test]
fn a_step_is_printed_as_it_was_delivered() {
    let emulator = emulator();
    let scratch = Scratch::new("replay");
    let (log, manifest) = (scratch.path("run.audit"), scratch.path("train.dfm"));
    dataflux(&emulator, &["ls", "gs://train", "--save", &manifest]).expect(0);
    let bench = ["bench", "gs://train", "--batch-size", "16", "--epochs", "2", "--audit", &log, "--json"];
    dataflux(&emulator, &bench).json();
    let whole = replay(&emulator, &log, &[]);
    assert_eq!((&whole["records"], &whole["torn"], &whole["step"]), (&14.into(), &false.into(), &Value::Null));
    let step = &replay(&emulator, &log, &["--step", "6", "--manifest", &manifest])["step"];
    // By name: the last batch of the last epoch has the last four.
    assert_eq!((&step["epoch"], &step["positions"], &step["line"]), (&1.into(), &json!([96, 100]), &16.into()));
    let listed = dataflux(&emulator, &["ls", "gs://train", "-l", "--json"]).expect(0).stdout;
    for (sample, at) in step["samples"].as_array().unwrap().iter().zip(96..) {
        assert_eq!((&sample["position"], &sample["id"], &sample["bytes"]), (&json!(at), &json!(at), &100.into()));
        assert!(listed.contains(sample["name"].as_str().unwrap()), "{sample}");
        assert!(listed.contains(&sample["generation"].to_string()), "{sample}");
    }
    assert_eq!(step["samples"].as_array().unwrap().len(), 4);
    // Listed again, as the log names it or as it is named here.
    for more in [&["--step", "0", "--epoch", "0"][..], &["--step", "0", "--epoch", "0", "gs://train"]] {
        let step = &replay(&emulator, &log, more)["step"];
        assert_eq!((&step["epoch"], &step["rank"], &step["world_size"]), (&0.into(), &0.into(), &1.into()));
        assert_eq!(step["samples"][3]["id"], 3);
    }
    // What was delivered again is told as it was the last time.
    dataflux(
        &emulator,
        &["bench", "gs://train", "--shuffle", "9", "--limit", "16", "--batch-size", "16", "--audit", &log],
    )
    .expect(0);
    let again = &replay(&emulator, &log, &["--step", "0", "--epoch", "0", "--manifest", &manifest])["step"];
    assert_eq!(again["delivered"], 2);
    assert_ne!(again["samples"][0]["id"], 0);
    let shown = dataflux(&emulator, &["replay", &log, "--step", "0", "--manifest", &manifest]).expect(0).stdout;
    assert!(shown.contains("step     0 of epoch 1 on rank 0 of 1, line 10\n"), "{shown}");
}

#[test]
fn what_was_lost_is_told() {
    let emulator = Emulator::builder().bucket("train").start().unwrap();
    (0..20).for_each(|index| _ = emulator.put("train", &format!("{index:02}"), "sample"));
    let scratch = Scratch::new("replay-lost");
    let manifest = scratch.path("train.dfm");
    dataflux(&emulator, &["ls", "gs://train", "--save", &manifest]).expect(0);
    emulator.put("train", "03", "changed");
    for (on_error, told, samples) in [("skip:1", "skipped", 9), ("substitute:1", "substituted", 10)] {
        let log = scratch.path(told);
        let how = ["--manifest", &manifest, "--batch-size", "10", "--on-error", on_error, "--audit", &log];
        dataflux(&emulator, &[&["bench", "gs://train"], &how[..]].concat()).expect(0);
        let step = &replay(&emulator, &log, &["--step", "0", "--manifest", &manifest])["step"];
        assert_eq!(step["samples"].as_array().unwrap().len(), samples);
        assert!(step["samples"].as_array().unwrap().iter().all(|sample| sample["id"] != 3), "{step}");
        assert_eq!((&step[told][0]["name"], &step[told][0]["position"]), (&"03".into(), &3.into()));
    }
}

#[test]
fn a_bad_record_is_named_and_so_is_what_cannot_be_found() {
    let emulator = emulator();
    let scratch = Scratch::new("replay-bad");
    let log = scratch.path("run.audit");
    dataflux(&emulator, &["bench", "gs://train", "--batch-size", "16", "--audit", &log]).expect(0);
    let error = |args: &[&str]| dataflux(&emulator, &[&["replay"], args].concat()).error();
    let missing = error(&[&log, "--step", "7"]);
    assert!(missing.contains("has no step 7: it has 7 records of epochs 0 to 0"), "{missing}");
    let text = fs::read_to_string(&log).unwrap();
    // Torn: what is there before it is whole.
    fs::write(&log, &text[..text.len() - 9]).unwrap();
    let torn = replay(&emulator, &log, &["--step", "5"]);
    assert_eq!((&torn["records"], &torn["torn"]), (&6.into(), &true.into()));
    fs::write(&log, text.replacen("\"from\":48", "\"from\":47", 1)).unwrap();
    let changed = error(&[&log]);
    assert!(changed.contains("changed or damaged at line 5"), "{changed}");
    let without: Vec<_> = text.split_inclusive('\n').filter(|line| !line.contains("\"step\":2,")).collect();
    fs::write(&log, without.concat()).unwrap();
    let left_out = error(&[&log, "--step", "0"]);
    assert!(left_out.contains("changed or damaged at line 4"), "{left_out}");
    fs::write(&log, "something else\n").unwrap();
    assert!(error(&[&log]).contains("this file is no audit log"));
    let refused = dataflux(&emulator, &["bench", "gs://train", "--audit", &log]).error();
    assert!(refused.contains("this file is no audit log"), "{refused}");
    assert_eq!(fs::read_to_string(&log).unwrap(), "something else\n");
    // Other data than the run had.
    fs::write(&log, &text).unwrap();
    let part = error(&[&log, "--step", "0", "--include", "*1*"]);
    assert!(part.contains("this audit log is of other data"), "{part}");
    let other = dataflux(&emulator, &["replay", &log, "--step", "0", "gs://other"]).expect(2);
    assert!(other.stderr.contains("is of gs://train/, not of gs://other/"), "{}", other.stderr);
}

#[test]
fn a_run_that_was_killed_leaves_a_log_that_is_gone_on_with() {
    let emulator = emulator();
    let scratch = Scratch::new("replay-killed");
    let log = scratch.path("run.audit");
    let bench = ["bench", "gs://train", "--batch-size", "8", "--epochs", "1000", "--step-ms", "5", "--audit", &log];
    for kills in 1..=3 {
        let lines = || fs::read_to_string(&log).unwrap_or_default().lines().count();
        let before = lines();
        let mut run = start(emulator.endpoint(), &bench);
        eventually("some steps", || run.over() || lines() > before + 3);
        run.signal(Signal::SIGKILL);
        assert_eq!(run.finish().code, None);
        let left = replay(&emulator, &log, &["--step", "0"]);
        assert!(left["records"].as_u64().unwrap() >= 2 * kills, "{left}");
        assert_eq!(left["step"]["samples"].as_array().unwrap().len(), 8);
    }
}
