use std::path::PathBuf;

use dataflux_emulator::Emulator;
use serde_json::Value;

use crate::harness::{dataflux, virtuals};

fn emulator(size: &str) -> Emulator {
    let spec = format!("train:n=1024,pattern=folders,size={size}");
    Emulator::builder().virtual_namespace(virtuals(&spec)).start().unwrap()
}

#[track_caller]
fn plan(emulator: &Emulator, more: &[&str]) -> Value {
    dataflux(emulator, &[&["plan", "gs://train", "--json"], more].concat()).json()
}

fn dollars(value: &Value) -> f64 {
    value.as_f64().unwrap()
}

/// A file that goes with the test.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dataflux-plan-{name}-{}", std::process::id()));
        std::fs::write(&path, text).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn the_plan_is_what_bench_then_does_and_costs() {
    let emulator = emulator("100..3000");
    let planned = plan(&emulator, &["--epochs", "3"]);
    assert_eq!(planned["objects"], 1024);
    assert_eq!(planned["recommended"], "auto");
    assert!(planned["never_composes"].is_null() && planned["advice"].is_null(), "{planned}");
    assert_eq!(planned["assumptions"], serde_json::json!([]));
    // Auto goes by measured speed, too.
    for strategy in ["direct", "compose"] {
        let args = ["bench", "gs://train", "--json", "--batch-size", "64", "--epochs", "3", "--strategy", strategy];
        let came = dataflux(&emulator, &args).json();
        let told = &planned["strategies"][strategy];
        for (op, told) in
            [("get", &told["class_b_calls"]), ("compose", &told["class_a_calls"]), ("delete", &told["deletes"])]
        {
            assert_eq!(came["ops"][op].as_u64(), told.as_u64().map(|calls| 3 * calls), "{strategy}: {op}");
        }
        assert_eq!(told["bytes_down"], planned["bytes"]);
        assert!((dollars(&told["total_usd"]) - 3.0 * dollars(&told["cost_usd"])).abs() < 1e-12);
        // On top come the listing and two questions about the bucket, of which direct needs one.
        let asked = if strategy == "direct" { 1.0 } else { 2.0 };
        let listed = came["ops"]["list"].as_f64().unwrap() * 0.005e-3;
        let wanted = dollars(&told["total_usd"]) + listed + asked * 0.0004e-3;
        assert!((dollars(&came["cost_usd"]) - wanted).abs() < 1e-12, "{strategy}: {came} for {wanted}");
    }
}

#[test]
fn nothing_is_read_or_written_for_a_plan() {
    let emulator = emulator("100");
    plan(&emulator, &[]);
    let stats = emulator.stats();
    assert_eq!((stats.get_media, stats.compose, stats.delete, stats.insert), (0, 0, 0, 0));
}

#[test]
fn where_soft_delete_makes_composing_dearer_the_way_out_is_told() {
    let emulator = emulator("200000");
    let planned = plan(&emulator, &[]);
    assert_eq!(planned["recommended"], "direct");
    let advice = planned["advice"].as_str().unwrap();
    assert!(advice.contains("gcloud storage buckets update gs://train --clear-soft-delete"), "{advice}");
    emulator.configure("train", |config| config.soft_delete_seconds = 0);
    let planned = plan(&emulator, &[]);
    assert_eq!(planned["recommended"], "auto");
    assert!(planned["advice"].is_null(), "{planned}");
}

#[test]
fn where_nothing_can_be_composed_the_reason_is_told() {
    let why = |change: &dyn Fn(&Emulator)| {
        let emulator = emulator("100");
        change(&emulator);
        let planned = plan(&emulator, &[]);
        assert_eq!(planned["recommended"], "direct");
        assert!(planned["strategies"]["compose"].is_null());
        assert_eq!(planned["strategies"]["auto"], planned["strategies"]["direct"]);
        let told = dataflux(&emulator, &["plan", "gs://train"]).expect(0).stdout;
        assert!(!told.contains("\ncompose"), "{told}");
        let reason = planned["never_composes"].as_str().unwrap().to_owned();
        assert!(told.contains(&reason), "{told}");
        reason
    };
    let retention = why(&|emulator| emulator.configure("train", |config| config.retention_seconds = Some(86_400)));
    assert!(retention.contains("(days: 1)"), "{retention}");
    let hold = why(&|emulator| emulator.configure("train", |config| config.default_event_based_hold = true));
    assert!(hold.contains("default hold"), "{hold}");
    let rights = why(&|emulator| emulator.deny("train", "storage.objects.create"));
    assert!(rights.contains("storage.objects.create is not granted"), "{rights}");
}

#[test]
fn prices_are_ones_own_and_what_is_wrong_in_them_is_named() {
    let emulator = emulator("100");
    let printed = dataflux(&emulator, &["plan", "--print-prices"]).expect(0).stdout;
    let direct = |prices: &File| {
        let planned = plan(&emulator, &["--prices", prices.path()]);
        assert_eq!(planned["prices"]["file"], prices.path());
        dollars(&planned["strategies"]["direct"]["cost_usd"])
    };
    let same = File::new("same", &printed);
    assert!((direct(&same) - 1_024.0 * 0.0004e-3).abs() < 1e-12);
    let dear = File::new("dear", &printed.replace("\"class_b_per_1000\": 0.0004", "\"class_b_per_1000\": 4"));
    assert!((direct(&dear) - 1_024.0 * 4e-3).abs() < 1e-12);
    let bad = File::new("bad", &printed.replacen("\"class_b_per_1000\": 0.0004", "\"class_b_per_1000\": \"4\"", 1));
    for command in ["plan", "bench"] {
        let error = dataflux(&emulator, &[command, "gs://train", "--prices", bad.path()]).error();
        assert!(error.contains(&format!("{}: rows[0]: class_b_per_1000", bad.path())), "{error}");
        assert!(error.contains("a number of dollars") && error.contains("--print-prices"), "{error}");
    }
    let args = ["bench", "gs://train", "--json", "--strategy", "direct", "--prices", dear.path()];
    assert!(dollars(&dataflux(&emulator, &args).json()["cost_usd"]) > 4.0);
    assert_eq!(dataflux(&emulator, &["plan", "--print-prices", "--json"]).json()["date"], "2026-09-20");
}

#[test]
fn an_epoch_over_its_budget_is_not_begun() {
    let emulator = emulator("100");
    let bench = |budget: &str| dataflux(&emulator, &["bench", "gs://train", "--epoch-budget", budget, "--json"]);
    let error = bench("0.0001").error();
    assert!(error.contains("over its budget") || error.contains("more than its budget"), "{error}");
    assert_eq!(emulator.stats().get_media, 0);
    // Enough for composing only.
    let report = bench("0.0002").json();
    assert_eq!(report["ops"]["compose"], 32);
}

#[test]
fn a_manifest_and_filters_choose_the_samples() {
    let emulator = Emulator::builder().virtual_namespace(virtuals("train:n=500,pattern=hex,size=70")).start().unwrap();
    let file = File::new("manifest", "");
    dataflux(&emulator, &["ls", "gs://train", "--save", file.path()]).expect(0);
    let before = emulator.stats().list;
    let planned = plan(&emulator, &["--manifest", file.path()]);
    assert_eq!((planned["objects"].as_u64(), planned["listing"]["class_a_calls"].as_u64()), (Some(500), Some(0)));
    assert_eq!(emulator.stats().list, before);
    let some = plan(&emulator, &["--include", "[0-7]*"])["objects"].as_u64().unwrap();
    assert_eq!(some, emulator.names("train").iter().filter(|name| name.as_bytes()[0] < b'8').count() as u64);
    dataflux(&emulator, &["plan", "gs://train", "--manifest", file.path(), "--include", "*"]).expect(2);
    dataflux(&emulator, &["plan"]).expect(2);
}

#[test]
fn humans_get_a_table() {
    let emulator = emulator("4096");
    emulator.configure("train", |config| {
        config.location = "ASIA1".into();
        config.location_type = "dual-region".into();
        config.hierarchical_namespace = true;
    });
    let told = dataflux(&emulator, &["plan", "gs://train", "--epochs", "90"]).expect(0);
    assert_eq!(told.stderr, "");
    for part in [
        "gs://train/: 1024 objects, 4.00 MiB (4194304)",
        "ASIA1 (dual-region), STANDARD, hierarchical namespace, soft delete 7 days",
        "of 2026-09-20",
        "replication",
        "90 epochs",
        "listing, once",
        "recommended: ",
        "assumed: the table has no prices for hierarchical namespaces",
    ] {
        assert!(told.stdout.contains(part), "{part}: {}", told.stdout);
    }
    let table: Vec<_> = told.stdout.split("\n\n").nth(1).unwrap().lines().collect();
    assert!(table.iter().all(|line| line.len() == table[0].len()), "{}", told.stdout);
}
