use std::io::{BufRead, BufReader, Lines};
use std::net::TcpStream;
use std::process::{Child, ChildStdout};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{command, eventually, start};

/// Ends with the test, however that ends.
struct Emulator {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Emulator {
    fn start(args: &[&str]) -> Self {
        let mut child = command("", &[&["emulate"], args].concat()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// It ends on this with 0, and nobody listens any more.
    fn stop(mut self, signal: Signal, endpoint: &str) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
        eventually("its end", || self.child.try_wait().unwrap().is_some());
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
        assert!(TcpStream::connect(endpoint.strip_prefix("http://").unwrap()).is_err());
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn json_tells_the_endpoint_first_and_a_signal_ends_it() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulate-folder");
    std::fs::create_dir_all(folder.join("cat")).unwrap();
    std::fs::write(folder.join("cat/1.txt"), "meow").unwrap();
    let folder = format!("photos={}", folder.display());
    for (signal, json) in [(Signal::SIGINT, ["--json", "--seed", "1"]), (Signal::SIGTERM, ["--seed", "1", "--json"])] {
        let spec = "train:n=300,pattern=sequence,size=10";
        let faults = ["--faults", "error=0.05", "--port", "0", "--profile", "fast"];
        let args = [&json[..], &["--virtual", spec, "--folder", &folder], &faults].concat();
        let mut emulator = Emulator::start(&args);
        let line: Value = serde_json::from_str(&emulator.lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line.as_object().unwrap().len(), 1);
        let endpoint = line["endpoint"].as_str().unwrap().to_owned();
        let listed = start(&endpoint, &["ls", "gs://photos"]).finish().expect(0);
        assert_eq!(listed.stdout, "cat/1.txt\n");
        let report = start(&endpoint, &["bench", "gs://train", "--strategy", "direct", "--json"]).finish().json();
        assert_eq!(report["verified"], 300);
        assert!(report["retries"].as_u64().unwrap() > 0, "the faults are there: {report}");
        emulator.stop(signal, &endpoint);
    }
}

#[test]
fn humans_are_told_what_to_type() {
    let mut emulator = Emulator::start(&["--virtual", "train:n=3,pattern=sequence,size=10"]);
    let mut told = String::new();
    while !told.contains("Interrupt") {
        told += &emulator.lines.next().unwrap().unwrap();
        told.push('\n');
    }
    let endpoint = told.lines().find_map(|line| line.trim().strip_prefix("export STORAGE_EMULATOR_HOST=")).unwrap();
    assert!(told.contains("dataflux ls --summary gs://train"), "{told}");
    let summary = start(endpoint, &["ls", "--summary", "--json", "gs://train"]).finish().json();
    assert_eq!(summary["objects"], 3);
    emulator.stop(Signal::SIGTERM, endpoint);
}

#[test]
fn a_port_in_use_is_a_failure() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let told = start("", &["emulate", "--port", &port, "--json"]).finish().error();
    assert!(told.contains(&port), "{told}");
}
