//! `examples/resume.rs` in processes of its own, against the emulator: ended by SIGTERM, and resumed at another number
//! of ranks.
//!
//! A program of its own, because it runs the example as a module and sends signals to its own processes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../examples/resume.rs"]
mod resume;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use dataflux_emulator::Emulator;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SAMPLES: usize = 600;
const EPOCHS: u64 = 2;
/// Only a hang lasts that long.
const HANG: Duration = Duration::from_secs(120);

/// A folder that is removed when this is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("dataflux-resume-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn emulator() -> Emulator {
    let emulator = Emulator::builder().bucket("data").start().unwrap();
    for index in 0..SAMPLES {
        emulator.put("data", &format!("p/{index:04}"), format!("sample {index}"));
    }
    emulator
}

/// The ranks of one run, each a process that is killed when this is dropped.
struct Run {
    folder: PathBuf,
    ranks: Vec<Child>,
}

impl Run {
    fn start(emulator: &Emulator, scratch: &Scratch, number: usize, world_size: usize) -> Self {
        let folder = scratch.0.join(format!("run-{number}"));
        fs::create_dir_all(&folder).unwrap();
        let ranks = (0..world_size).map(|rank| {
            let mut command = Command::new(std::env::current_exe().unwrap());
            command.args(["--exact", "one_rank_is_stopped_and_goes_on", "--nocapture"]);
            command.env("RESUME_TEST_RUN", &folder).env("STORAGE_EMULATOR_HOST", emulator.endpoint());
            command.env("RANK", rank.to_string()).env("WORLD_SIZE", world_size.to_string());
            if let Some(before) = number.checked_sub(1) {
                command.env("RESUME_TEST_FROM", scratch.0.join(format!("run-{before}")));
            }
            command.stdout(Stdio::null()).spawn().unwrap()
        });
        Self { ranks: ranks.collect(), folder: folder.clone() }
    }

    /// The samples that a rank got, with their epochs.
    fn given(&self, rank: usize) -> Vec<(u64, String)> {
        let lines = fs::read_to_string(self.folder.join(format!("given-{rank}"))).unwrap_or_default();
        let given = lines.lines().map(|line| {
            let (epoch, name) = line.split_once(' ').unwrap();
            (epoch.parse().unwrap(), name.to_owned())
        });
        given.collect()
    }

    /// Sends SIGTERM to a rank once it has got this many samples.
    fn terminate_after(&mut self, rank: usize, samples: usize) {
        let began = Instant::now();
        while self.given(rank).len() < samples {
            assert!(self.ranks[rank].try_wait().unwrap().is_none(), "rank {rank} ended by itself");
            assert!(began.elapsed() < HANG, "rank {rank} came to {} samples", self.given(rank).len());
            std::thread::sleep(Duration::from_millis(5));
        }
        kill(Pid::from_raw(self.ranks[rank].id() as i32), Signal::SIGTERM).unwrap();
    }

    /// Waits for the end of all ranks and counts the samples that they got.
    fn finish(mut self, seen: &mut BTreeMap<(u64, String), usize>) {
        let began = Instant::now();
        for rank in &mut self.ranks {
            let status = loop {
                if let Some(status) = rank.try_wait().unwrap() {
                    break status;
                }
                assert!(began.elapsed() < HANG, "a rank goes on");
                std::thread::sleep(Duration::from_millis(5));
            };
            assert!(status.success(), "{status}");
        }
        for rank in 0..self.ranks.len() {
            self.given(rank).into_iter().for_each(|sample| *seen.entry(sample).or_default() += 1);
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        for rank in &mut self.ranks {
            // Usually it has ended already.
            let _ = rank.kill();
            let _ = rank.wait();
        }
    }
}

/// The work of a process that [`Run`] has started.
fn be_a_rank(run: &Path) {
    let from = std::env::var_os("RESUME_TEST_FROM").map(PathBuf::from);
    let mut given = File::create(run.join(format!("given-{}", std::env::var("RANK").unwrap()))).unwrap();
    let step = |epoch, names: Vec<&str>| {
        for name in names {
            writeln!(given, "{epoch} {name}")?;
        }
        // A training step, so that there is time to stop the rank.
        std::thread::sleep(Duration::from_millis(20));
        Ok(())
    };
    resume::train("gs://data/p/", 0..EPOCHS, run, from.as_deref(), step).unwrap();
}

fn exactly_once(seen: &BTreeMap<(u64, String), usize>) {
    let often: Vec<_> = seen.iter().filter(|(_, times)| **times != 1).take(3).collect();
    assert!(often.is_empty(), "given more than once: {often:?}");
    for epoch in 0..EPOCHS {
        assert_eq!(seen.keys().filter(|(of, _)| *of == epoch).count(), SAMPLES, "epoch {epoch}");
    }
}

/// The processes that the tests here start run this test, too.
#[test]
fn one_rank_is_stopped_and_goes_on() {
    if let Some(run) = std::env::var_os("RESUME_TEST_RUN") {
        return be_a_rank(Path::new(&run));
    }
    let (emulator, scratch, mut seen) = (emulator(), Scratch::new("one"), BTreeMap::new());
    for (number, samples) in [Some(24), Some(8), None].into_iter().enumerate() {
        let mut run = Run::start(&emulator, &scratch, number, 1);
        if let Some(samples) = samples {
            run.terminate_after(0, samples);
        }
        run.finish(&mut seen);
    }
    exactly_once(&seen);
    assert_eq!(emulator.names("data").len(), SAMPLES, "temporary objects");
}

#[test]
fn two_ranks_are_stopped_after_different_steps_and_go_on_as_three() {
    let (emulator, scratch, mut seen) = (emulator(), Scratch::new("three"), BTreeMap::new());
    let mut two = Run::start(&emulator, &scratch, 0, 2);
    two.terminate_after(0, 16);
    two.terminate_after(1, 80);
    let steps = [two.given(0).len(), two.given(1).len()];
    two.finish(&mut seen);
    assert!(seen.len() < SAMPLES, "they were stopped amid the epoch, at {steps:?} samples");
    let three = Run::start(&emulator, &scratch, 1, 3);
    three.finish(&mut seen);
    exactly_once(&seen);
    assert_eq!(emulator.names("data").len(), SAMPLES, "temporary objects");
}
