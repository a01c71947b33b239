use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use dataflux_emulator::{Call, Emulator, Fault, ObjectOptions};
use nix::sys::signal::Signal;

use crate::harness::{Outcome, dataflux, eventually, start, virtuals};

/// A folder that is removed when this goes.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("dataflux-get-{}-{test}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    /// Where downloads go: one below, so that what escapes it is seen.
    fn to(&self) -> PathBuf {
        self.0.join("to")
    }

    /// All files below, by path, and folders, by path with a slash.
    fn all(&self) -> BTreeMap<String, Vec<u8>> {
        fn walk(root: &Path, at: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
            for entry in fs::read_dir(at).unwrap() {
                let path = entry.unwrap().path();
                let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
                if path.symlink_metadata().unwrap().is_dir() {
                    into.insert(name + "/", Vec::new());
                    walk(root, &path, into);
                } else {
                    into.insert(name, fs::read(&path).unwrap());
                }
            }
        }
        let mut all = BTreeMap::new();
        walk(&self.0, &self.0, &mut all);
        all
    }

    fn files(&self) -> Vec<String> {
        self.all().into_keys().filter(|name| !name.ends_with('/')).collect()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[track_caller]
fn get(emulator: &Emulator, uri: &str, folder: &Folder, more: &[&str]) -> Outcome {
    let to = folder.to();
    dataflux(emulator, &[&["get", uri, to.to_str().unwrap()], more].concat())
}

fn bucket(names: &[&str]) -> Emulator {
    let emulator = Emulator::builder().bucket("data").start().unwrap();
    for name in names {
        let text = if name.ends_with('/') { String::new() } else { format!("this is {name}") };
        emulator.put("data", name, text);
    }
    emulator
}

#[test]
fn all_objects_become_files_and_are_proved() {
    let emulator = bucket(&["p/a", "p/sub/b", "p/sub/c.txt", "p/mark/", "p/é 100%", "q"]);
    let folder = Folder::new("all");
    let told = get(&emulator, "gs://data/p/", &folder, &["--json"]).json();
    let keys: Vec<_> = told.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["bytes", "objects", "seconds", "skipped", "verified"]);
    assert_eq!((told["objects"].as_u64(), told["verified"].as_u64()), (Some(5), Some(5)));
    let all = folder.all();
    let names: Vec<_> = all.keys().collect();
    assert_eq!(names, ["to/", "to/a", "to/mark/", "to/sub/", "to/sub/b", "to/sub/c.txt", "to/é 100%"]);
    assert_eq!(all["to/sub/c.txt"], b"this is p/sub/c.txt");
    let some = Folder::new("some");
    let told = get(&emulator, "gs://data/p/", &some, &["--include", "*.txt"]).expect(0);
    assert!(told.stdout.contains("objects"), "{}", told.stdout);
    assert_eq!(some.files(), ["to/sub/c.txt"]);
}

#[test]
fn large_objects_come_in_ranges() {
    let emulator = Emulator::builder().virtual_namespace(virtuals("big:n=3,size=3000001")).start().unwrap();
    let folder = Folder::new("large");
    let options = ["--json", "--min-part-size", "100000", "--max-streams", "4", "--memory-budget", "1MiB"];
    let told = get(&emulator, "gs://big", &folder, &options).json();
    assert_eq!((told["bytes"].as_u64(), told["verified"].as_u64()), (Some(9_000_003), Some(3)));
    assert!(emulator.stats().get_media > 3 * 10, "{:?}", emulator.stats());
    for (name, bytes) in folder.all().into_iter().filter(|(name, _)| !name.ends_with('/')) {
        assert_eq!(bytes, emulator.get("big", name.strip_prefix("to/").unwrap()).unwrap(), "{name}");
    }
}

#[test]
fn no_name_leads_outside_the_folder() {
    for (index, name) in
        ["../x", "/abs", "p/../../x", "a//b", "p/./x", "..", "a/..", "nul\0", "a\0/b", "x/"].into_iter().enumerate()
    {
        let emulator = Emulator::builder().bucket("data").start().unwrap();
        // The service has no object of the name `..` alone.
        if name == ".." {
            continue;
        }
        emulator.put("data", "fine", "fine");
        emulator.put("data", name, "evil");
        let folder = Folder::new(&format!("outside{index}"));
        let told = get(&emulator, "gs://data", &folder, &[]).error();
        assert!(told.contains("gs://data/") && told.contains("--escape-names"), "{name:?}: {told}");
        assert_eq!(folder.files(), [""; 0], "nothing is read where a name is refused");
        let told = get(&emulator, "gs://data", &folder, &["--escape-names", "--json"]).json();
        assert_eq!(told["verified"], 2, "{name:?}");
        let files = folder.files();
        assert!(files.len() == 2 && files.iter().all(|file| file.starts_with("to/")), "{name:?}: {files:?}");
        assert!(folder.all().values().any(|bytes| bytes == b"evil"), "{name:?}");
    }
}

#[test]
fn objects_that_cannot_both_be_files_and_parts_that_are_too_long_are_refused() {
    let long = "x".repeat(300);
    for names in [&["a", "a-", "a/b"][..], &["f/a", "f/a/"], &["fine", &format!("d/{long}/x")]] {
        let emulator = bucket(names);
        let folder = Folder::new(&format!("collide{}", names[0].len() + names.len()));
        for more in [&[][..], &["--escape-names"]] {
            let told = get(&emulator, "gs://data", &folder, more).error();
            assert!(
                told.contains("--exclude") && told.contains(&format!("gs://data/{}", names[names.len() - 1])),
                "{told}"
            );
            assert_eq!(folder.files(), [""; 0]);
        }
        get(&emulator, "gs://data", &folder, &["--exclude", "/a", "--exclude", "/f/a", "--exclude", "d/"]).expect(0);
    }
    let fits = bucket(&[&"x".repeat(255)]);
    let folder = Folder::new("fits");
    get(&fits, "gs://data", &folder, &[]).expect(0);
    assert_eq!(folder.files().len(), 1);
}

#[cfg(unix)]
#[test]
fn links_are_not_followed() {
    use std::os::unix::fs::symlink;
    let emulator = bucket(&["d/x", "y"]);
    let folder = Folder::new("links");
    fs::create_dir_all(folder.to()).unwrap();
    fs::create_dir(folder.0.join("outside")).unwrap();
    fs::write(folder.0.join("outside/y"), "precious").unwrap();
    symlink(folder.0.join("outside"), folder.to().join("d")).unwrap();
    let told = get(&emulator, "gs://data", &folder, &[]).error();
    assert!(told.contains("d is in the way"), "{told}");
    fs::remove_file(folder.to().join("d")).unwrap();
    // `y` may have been copied before the other one failed.
    if folder.to().join("y").exists() {
        fs::remove_file(folder.to().join("y")).unwrap();
    }
    symlink(folder.0.join("outside/y"), folder.to().join("y")).unwrap();
    let told = get(&emulator, "gs://data", &folder, &[]).error();
    assert!(told.contains("y is in the way"), "{told}");
    assert_eq!(folder.all()["outside/y"], b"precious");
    assert!(!folder.0.join("outside/x").exists());
    fs::remove_file(folder.to().join("y")).unwrap();
    fs::create_dir(folder.to().join("y")).unwrap();
    let told = get(&emulator, "gs://data", &folder, &[]).error();
    assert!(told.contains("y is in the way"), "{told}");
    // That the folder itself is a link is the user's own will.
    let linked = Folder::new("linked");
    fs::create_dir(linked.0.join("real")).unwrap();
    symlink(linked.0.join("real"), linked.to()).unwrap();
    get(&emulator, "gs://data", &linked, &[]).expect(0);
    assert_eq!(fs::read(linked.0.join("real/d/x")).unwrap(), b"this is d/x");
}

#[test]
fn what_is_there_is_left_alone_and_what_differs_is_replaced() {
    let emulator = bucket(&["a", "b", "c"]);
    let folder = Folder::new("again");
    get(&emulator, "gs://data", &folder, &[]).expect(0);
    fs::write(folder.to().join("b"), "this is B").unwrap();
    fs::write(folder.to().join("c"), "short").unwrap();
    emulator.reset_stats();
    let told = get(&emulator, "gs://data", &folder, &["--json"]).json();
    assert_eq!((told["skipped"].as_u64(), told["verified"].as_u64()), (Some(1), Some(3)));
    assert_eq!(emulator.stats().get_media, 2);
    assert_eq!(folder.all()["to/b"], b"this is b");
    assert_eq!(folder.files(), ["to/a", "to/b", "to/c"]);
}

#[test]
fn bytes_that_stay_wrong_are_no_file() {
    let emulator = bucket(&["a", "b"]);
    let folder = Folder::new("wrong");
    emulator.fault_next(Call::GetMedia, Fault::Flip, 1);
    assert_eq!(get(&emulator, "gs://data", &folder, &["--json"]).json()["verified"], 2);
    fs::write(folder.to().join("a"), "of before").unwrap();
    emulator.fault_next(Call::GetMedia, Fault::Flip, 100);
    let told = get(&emulator, "gs://data/a", &folder, &[]).expect(1).stderr;
    assert!(told.contains("error: fetch: gs://data/a") && told.contains("crc32c"), "{told}");
    assert_eq!(folder.all()["to/a"], b"of before");
    assert_eq!(folder.files(), ["to/a", "to/b"], "and nothing of another name");
}

#[test]
fn a_manifest_serves_as_a_listing() {
    let emulator = bucket(&["p/a", "p/b"]);
    let folder = Folder::new("manifest");
    let file = folder.0.join("p.dfm");
    let file = file.to_str().unwrap();
    dataflux(&emulator, &["ls", "gs://data/p/", "--save", file]).expect(0);
    emulator.put("data", "p/new", "not listed");
    get(&emulator, "gs://data/p/", &folder, &["--manifest", file]).expect(0);
    assert_eq!(folder.files(), ["p.dfm", "to/a", "to/b"]);
    let told = get(&emulator, "gs://data/", &folder, &["--manifest", file]).expect(2);
    assert!(told.stderr.contains("gs://data/p/"), "{}", told.stderr);
    emulator.put("data", "p/a", "another");
    fs::remove_file(folder.to().join("a")).unwrap();
    let told = get(&emulator, "gs://data/p/", &folder, &["--manifest", file]).error();
    assert!(told.contains("gs://data/p/a"), "{told}");
}

#[test]
fn nothing_there_is_a_failure() {
    let emulator = bucket(&["p/a"]);
    let folder = Folder::new("nothing");
    let told = get(&emulator, "gs://data/q", &folder, &[]).error();
    assert!(told.contains("gs://data/q") && told.contains("check its spelling"), "{told}");
    let told = get(&emulator, "gs://data/p", &folder, &["--include", "*.png"]).error();
    assert!(told.contains("loosen --include '*.png'"), "{told}");
    assert!(!folder.to().exists());
}

#[test]
fn what_is_interrupted_goes_on_where_it_was() {
    let profile = "fast,media_mb_s=2".parse().unwrap();
    let emulator =
        Emulator::builder().profile(profile).virtual_namespace(virtuals("big:n=40,size=500000")).start().unwrap();
    let folder = Folder::new("interrupted");
    let to = folder.to();
    let options = ["get", "gs://big", to.to_str().unwrap(), "--concurrency", "8", "--json"];
    let running = start(emulator.endpoint(), &options);
    let done = || {
        fs::read_dir(&to).map_or(0, |all| {
            all.filter(|file| !file.as_ref().unwrap().file_name().to_str().unwrap().starts_with('.')).count()
        })
    };
    eventually("the first files are there", || done() >= 8);
    running.signal(Signal::SIGKILL);
    drop(running);
    emulator.set_profile("fast".parse().unwrap());
    let there = done() as u64;
    let told = dataflux(&emulator, &options).json();
    assert_eq!((told["verified"].as_u64(), told["skipped"].as_u64()), (Some(40), Some(there)));
}

/// Partial files in the folder that downloads go to.
fn partial(to: &Path) -> usize {
    let files = fs::read_dir(to).into_iter().flatten().flatten();
    files.filter(|file| file.file_name().to_str().unwrap().starts_with(".dataflux-")).count()
}

#[test]
fn ended_by_a_signal_it_leaves_no_partial_files() {
    let profile = "fast,media_mb_s=1".parse().unwrap();
    let emulator =
        Emulator::builder().profile(profile).virtual_namespace(virtuals("big:n=40,size=5000000")).start().unwrap();
    for (signal, code) in [(Signal::SIGINT, 130), (Signal::SIGTERM, 143)] {
        let folder = Folder::new(&format!("signal{code}"));
        let to = folder.to();
        let running = start(emulator.endpoint(), &["get", "gs://big", to.to_str().unwrap(), "--json"]);
        eventually("partial files are there", || partial(&to) >= 8);
        running.signal(signal);
        let ended = running.finish();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""), "{}", ended.stderr);
        assert_eq!(folder.files(), [""; 0]);
    }
}

#[test]
fn what_a_killed_one_left_goes_once_it_is_old() {
    let emulator = bucket(&["a", "d/b"]);
    let folder = Folder::new("left");
    fs::create_dir_all(folder.to().join("d")).unwrap();
    let now = std::time::SystemTime::now();
    let hour = std::time::Duration::from_secs(3600);
    for (name, hours) in [
        (".dataflux-0123456789abcdef", 25),
        ("d/.dataflux-00000000000000ff", 25),
        (".dataflux-0123456789abcde0", 2),
        (".dataflux-mine", 25),
        (".dataflux-0123456789abcdef.new", 25),
    ] {
        let file = fs::File::create(folder.to().join(name)).unwrap();
        file.set_modified(now - hours * hour).unwrap();
    }
    get(&emulator, "gs://data", &folder, &[]).expect(0);
    assert_eq!(
        folder.files(),
        ["to/.dataflux-0123456789abcde0", "to/.dataflux-0123456789abcdef.new", "to/.dataflux-mine", "to/a", "to/d/b"]
    );
}

#[test]
fn a_file_of_compressed_bytes_is_told_of() {
    let (emulator, folder) = (Emulator::builder().bucket("data").start().unwrap(), Folder::new("encoded"));
    let options = ObjectOptions { content_encoding: Some("gzip".into()), ..ObjectOptions::default() };
    emulator.put_with("data", "a.txt", "compressed", options);
    emulator.put("data", "b.txt", "plain");
    let got = get(&emulator, "gs://data", &folder, &["--json"]).expect(0);
    assert!(got.stderr.starts_with("1 object is stored compressed, by Content-Encoding (1 gzip)"), "{}", got.stderr);
    assert_eq!(got.json()["content_encodings"], serde_json::json!({"gzip": 1}));
    assert_eq!(folder.all()["to/a.txt"], b"compressed", "as it is stored");
}

#[test]
fn all_names_that_cannot_be_files_are_told_at_once() {
    let (emulator, folder) = (Emulator::builder().bucket("data").start().unwrap(), Folder::new("all-names"));
    for name in ["a//b", "a//c", "d", "d/e", "f/../g", "h/./i", "good"] {
        emulator.put("data", name, "x");
    }
    let told = get(&emulator, "gs://data", &folder, &[]).error();
    assert!(
        told.starts_with("error: 5 of 7 objects can't be files: gs://data/a//b, gs://data/a//c: an empty part"),
        "{told}"
    );
    for name in ["gs://data/d/e: its file and that of d", "gs://data/f/../g", "gs://data/h/./i"] {
        assert!(told.contains(name), "{name} in {told}");
    }
    assert!(!told.contains("good") && folder.files().is_empty());
    for number in 0..120 {
        emulator.put("data", &format!("many//{number:03}"), "x");
    }
    let told = get(&emulator, "gs://data", &folder, &[]).error();
    assert!(told.starts_with("error: 125 of 127 objects can't be files; the first 100: "), "{told}");
    assert!(told.contains("many//094") && !told.contains("many//095"), "{told}");
    assert!(folder.files().is_empty());
}

#[test]
fn what_a_look_at_names_left_behind_is_swept() {
    let (emulator, folder) = (Emulator::builder().bucket("data").start().unwrap(), Folder::new("look"));
    emulator.put("data", "a", "x");
    fs::create_dir_all(folder.to()).unwrap();
    let left = folder.to().join(".dataflux-0123456789abcdef\u{e9}");
    let old = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 24 * 3_600);
    fs::File::create(&left).unwrap().set_modified(old).unwrap();
    get(&emulator, "gs://data", &folder, &[]).expect(0);
    assert_eq!(folder.files(), ["to/a"]);
}
