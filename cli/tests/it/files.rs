//! Connections, listing and cache within the files that a process may have open.

use std::process::{Command, Stdio};

use dataflux_emulator::Emulator;
use serde_json::Value;

use crate::harness::{Scratch, virtuals};

/// `dataflux` as a process that may have 128 files open. What is tried again is in its log.
fn with_few_files(emulator: &Emulator, args: &[&str]) -> Value {
    let mut command = Command::new("sh");
    command.args(["-c", r#"ulimit -n 128 && exec "$0" "$@""#, env!("CARGO_BIN_EXE_dataflux")]).args(args);
    command.env("STORAGE_EMULATOR_HOST", emulator.endpoint()).env("DATAFLUX_LOG", "dataflux=debug");
    let output = command.stdin(Stdio::null()).output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && !stderr.contains("Too many open files"), "{stderr}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// A listing alone has up to 256 calls under way; reads, composes and the cache came on top.
#[test]
fn listing_reads_writes_and_cache_together_stay_within_the_limit_on_files() {
    let scratch = Scratch::new("files");
    let emulator = Emulator::builder()
        .virtual_namespace(virtuals("train:n=20000,pattern=hex,size=100"))
        .profile("fast,list_ms=150,media_ms=150,compose_ms=300,delete_ms=100".parse().unwrap())
        .start()
        .unwrap();
    let listed = with_few_files(&emulator, &["ls", "gs://train", "--summary", "--json", "--page-size", "20"]);
    assert_eq!(listed["objects"], 20_000);
    for (strategy, samples) in [("direct", 2_048), ("compose", 20_000)] {
        let limit = samples.to_string();
        let cache = scratch.path(strategy);
        let args = ["bench", "gs://train", "--json", "--strategy", strategy, "--limit", &limit, "--cache", &cache];
        let done = with_few_files(&emulator, &args);
        assert_eq!((&done["samples"], &done["verified"]), (&samples.into(), &samples.into()), "{done}");
        assert_eq!(done["retries"], 0, "{done}");
    }
}
