//! What `ls --save` makes, what `--refresh` takes, and what an inventory report tells.

use std::fs;

use dataflux::Manifest;
use dataflux_emulator::{Emulator, ObjectOptions};
use serde_json::json;

use crate::harness::{Scratch, dataflux, virtuals};

/// Three samples, one of them cold, a folder's mark, and one of the library's own.
fn mixed() -> Emulator {
    let emulator = Emulator::builder().bucket("mixed").start().unwrap();
    for name in ["a/", "a/1", "b/2", "dataflux-composed-objects/0/1"] {
        emulator.put("mixed", name, if name.ends_with('/') { "" } else { "1234" });
    }
    let cold = ObjectOptions { storage_class: Some("COLDLINE".into()), ..ObjectOptions::default() };
    emulator.put_with("mixed", "b/cold", "12345678", cold);
    emulator
}

#[test]
fn a_saved_manifest_is_the_data_set_that_opening_the_prefix_gives() {
    let emulator = mixed();
    let scratch = Scratch::new("samples");
    let path = scratch.path("samples.dfm");
    let saved = dataflux(&emulator, &["ls", "gs://mixed", "--save", &path]).expect(0);
    assert!(saved.stderr.contains("left out: 1 temporary object, 1 folder mark"), "{}", saved.stderr);
    let bench = ["bench", "gs://mixed", "--json", "--strategy", "direct"];
    let listed = dataflux(&emulator, &bench).json();
    let loaded = dataflux(&emulator, &[&bench[..], &["--manifest", &path]].concat()).json();
    assert_eq!((&loaded["samples"], &loaded["order_digest"]), (&json!(3), &listed["order_digest"]));

    dataflux(&emulator, &["ls", "gs://mixed", "--save", &path, "--everything"]).expect(0);
    assert_eq!(Manifest::load(&path).unwrap().len(), 5);
    let none = dataflux(&emulator, &["ls", "gs://mixed/a/", "--save", &path, "--exclude", "1"]).error();
    assert!(none.contains("--everything saves folder marks"), "{none}");
}

#[test]
fn what_cant_be_written_is_found_out_before_anything_is_listed() {
    let emulator = mixed();
    let scratch = Scratch::new("unwritable");
    for target in [scratch.path("no/folder/x.dfm"), scratch.path("")] {
        let told = dataflux(&emulator, &["ls", "gs://mixed", "--save", &target]).error();
        assert!(told.contains(&target) && told.contains("name a"), "{told}");
    }
    assert_eq!(emulator.stats().calls(), 0);
    assert!(scratch.names().is_empty(), "no probe is left: {:?}", scratch.names());
    // What can be written is as it was if the listing fails.
    let kept = scratch.path("kept");
    fs::write(&kept, "kept").unwrap();
    dataflux(&emulator, &["ls", "gs://mixed/nothing", "--save", &kept]).error();
    assert_eq!((fs::read_to_string(&kept).unwrap(), scratch.names()), ("kept".into(), vec!["kept".to_owned()]));
}

#[cfg(unix)]
#[test]
fn a_pipe_is_refused_and_stays_a_pipe() {
    use std::os::unix::fs::FileTypeExt;

    let emulator = mixed();
    let scratch = Scratch::new("pipe");
    let pipe = scratch.path("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status().unwrap();
    assert!(made.success());
    std::os::unix::fs::symlink(&pipe, scratch.path("link")).unwrap();
    for target in ["pipe", "link"] {
        let target = scratch.path(target);
        let told = dataflux(&emulator, &["ls", "gs://mixed", "--save", &target]).error();
        assert!(told.contains(&target) && told.contains("a pipe") && told.contains("name another file"), "{told}");
    }
    assert!(fs::metadata(&pipe).unwrap().file_type().is_fifo());
    assert_eq!(emulator.stats().calls(), 0);
}

#[cfg(unix)]
#[test]
fn a_link_stays_a_link_and_what_it_leads_to_is_replaced() {
    use std::os::unix::fs::{PermissionsExt, symlink};

    let emulator = mixed();
    let scratch = Scratch::new("link");
    fs::create_dir(scratch.path("far")).unwrap();
    let file = scratch.path("far/real.dfm");
    symlink("far/real.dfm", scratch.path("inner")).unwrap();
    symlink(scratch.path("inner"), scratch.path("outer")).unwrap();
    let outer = scratch.path("outer");
    // At first it leads nowhere.
    dataflux(&emulator, &["ls", "gs://mixed", "--save", &outer]).expect(0);
    assert_eq!(Manifest::load(&file).unwrap().len(), 3);
    fs::write(&file, "old").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
    dataflux(&emulator, &["ls", "gs://mixed", "--save", &outer]).expect(0);
    assert_eq!(Manifest::load(&file).unwrap().len(), 3);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o604, "the mode is kept");
    for link in ["inner", "outer"] {
        assert!(fs::symlink_metadata(scratch.path(link)).unwrap().is_symlink(), "{link}");
    }
    assert_eq!(fs::read_dir(scratch.path("far")).unwrap().count(), 1);

    symlink("round", scratch.path("round")).unwrap();
    let told = dataflux(&emulator, &["ls", "gs://mixed", "--save", &scratch.path("round")]).error();
    assert!(told.contains("round") && told.contains("can't be written"), "{told}");
}

#[test]
fn a_name_as_long_as_names_can_be_is_saved_under() {
    let emulator = mixed();
    let scratch = Scratch::new("long");
    for length in [240, 255] {
        let path = scratch.path(&"n".repeat(length));
        dataflux(&emulator, &["ls", "gs://mixed", "--save", &path]).expect(0);
        assert_eq!(Manifest::load(&path).unwrap().len(), 3);
    }
}

#[test]
fn a_manifest_of_something_else_divides_no_listing() {
    let emulator = Emulator::builder()
        .bucket("other")
        .virtual_namespace(virtuals("many:n=3000,pattern=folders,size=7"))
        .start()
        .unwrap();
    emulator.put("other", "n0/1", "1");
    let scratch = Scratch::new("refresh");
    let (whole, part, other) = (scratch.path("whole"), scratch.path("part"), scratch.path("other"));
    let names = emulator.names("many");
    let folder = names[1500].split_inclusive('/').next().unwrap();
    let below = format!("gs://many/{folder}");
    dataflux(&emulator, &["ls", "gs://many", "--save", &whole]).expect(0);
    dataflux(&emulator, &["ls", &below, "--save", &part]).expect(0);
    dataflux(&emulator, &["ls", "gs://other", "--save", &other]).expect(0);
    emulator.reset_stats();
    for (uri, file) in [("gs://many", &other), ("gs://many/zzz", &part), ("gs://other", &whole)] {
        let told = dataflux(&emulator, &["ls", uri, "--refresh", file]).expect(2);
        assert!(told.stderr.contains(file.as_str()) && told.stderr.contains(uri), "{}", told.stderr);
    }
    assert_eq!(emulator.stats().calls(), 0, "nothing was tried");
    for (uri, file) in [("gs://many", &whole), ("gs://many", &part), (&*below, &whole), (&*below, &part)] {
        let listed = dataflux(&emulator, &["ls", uri, "--refresh", file, "--page-size", "100"]).expect(0);
        let prefix = uri.strip_prefix("gs://many").unwrap().trim_start_matches('/');
        let wanted: Vec<_> = names.iter().filter(|name| name.starts_with(prefix)).collect();
        assert_eq!(listed.stdout.lines().collect::<Vec<_>>(), wanted, "{uri} by {file}");
    }
}

#[test]
fn what_a_manifest_tells_of_other_folders_costs_no_calls() {
    let emulator =
        Emulator::builder().virtual_namespace(virtuals("many:n=9000,pattern=sequence,size=7")).start().unwrap();
    let scratch = Scratch::new("cuts");
    let whole = scratch.path("whole");
    dataflux(&emulator, &["ls", "gs://many", "--save", &whole]).expect(0);
    let names = emulator.names("many");
    let some = format!("gs://many/{}", &names[4_510][..names[4_510].len() - 2]);
    let options = ["--refresh", &whole, "--page-size", "100", "--summary", "--json"];
    let listed = dataflux(&emulator, &[&["ls", &some], &options[..]].concat()).json();
    assert_eq!((listed["objects"].as_u64(), listed["list_calls"].as_u64()), (Some(100), Some(1)), "{listed}");
}

#[test]
fn what_is_cold_is_told_by_every_ls_that_shows_or_saves_it() {
    let emulator = mixed();
    let scratch = Scratch::new("cold");
    let path = scratch.path("cold.dfm");
    let shown = [&[][..], &["-l"], &["--json"], &["--summary"], &["--summary", "--json"], &["--samples"]];
    for options in shown.into_iter().chain([&["--save", &path][..], &["--save", &path, "--json"]]) {
        let listed = dataflux(&emulator, &[&["ls", "gs://mixed"], options].concat()).expect(0);
        assert_eq!(listed.stderr.matches("1 object is in cold storage").count(), 1, "{options:?}: {}", listed.stderr);
        let warm = [&["ls", "gs://mixed", "--storage-class", "standard"], options].concat();
        let warm = dataflux(&emulator, &warm).expect(0);
        assert!(!warm.stderr.contains("cold storage"), "{options:?}: {}", warm.stderr);
    }
    let summary = dataflux(&emulator, &["ls", "gs://mixed/b/", "--summary", "--json"]).json();
    let classes = json!({"STANDARD": {"objects": 1, "bytes": 4}, "COLDLINE": {"objects": 1, "bytes": 8}});
    assert_eq!(summary["classes"], classes);
    let table = dataflux(&emulator, &["ls", "gs://mixed/b/", "--summary"]).expect(0).stdout;
    assert!(table.contains("1 STANDARD (4 B), 1 COLDLINE (8 B)"), "{table}");
}

#[test]
fn a_report_gives_objects_in_json_and_its_summary_only_when_asked() {
    let emulator = mixed();
    let scratch = Scratch::new("report");
    let report = scratch.path("1a34_2026-01-31T00:00_0.csv");
    let rows = "mixed,a/1,4,7,STANDARD\nmixed,b/2,5,8,\nelsewhere,c,6,9,STANDARD\n";
    fs::write(&report, format!("bucket,name,size,generation,storageClass\n{rows}")).unwrap();
    let listing = dataflux(&emulator, &["ls", "gs://mixed", "--inventory", &report, "--json"]).json();
    let object = |name: &str, size: u64, generation: u64, class: Option<&str>| {
        json!({"name": name, "size": size, "storage_class": class, "generation": generation, "updated": null,
            "crc32c": null})
    };
    let objects = [object("a/1", 4, 7, Some("STANDARD")), object("b/2", 5, 8, None)];
    assert_eq!(listing, json!({"objects": objects, "left_out": {}}));
    let args = ["ls", "gs://mixed", "--inventory", &report, "--json", "--summary"];
    let summary = dataflux(&emulator, &args).json();
    assert_eq!(summary["classes"]["UNSPECIFIED"], json!({"objects": 1, "bytes": 5}));
    // Of a listing that is saved nothing else is shown.
    let path = scratch.path("report.dfm");
    let saved = dataflux(&emulator, &["ls", "gs://mixed", "--inventory", &report, "--json", "--save", &path]).json();
    assert_eq!((&saved["saved"], &saved["digest"]), (&json!(path), &summary["digest"]));

    let none = dataflux(&emulator, &["ls", "gs://mixed/nosuch", "--inventory", &report]).expect(1).stderr;
    assert!(none.contains(&report) && none.contains("has no object"), "{none}");
    assert!(!none.contains("empty"), "the report may be wrong, and not the bucket: {none}");
    assert_eq!(emulator.stats().calls(), 0, "a report on disk takes no call");
}
