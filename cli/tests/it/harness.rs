//! Runs the binary: always under a time limit, never on without the test.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dataflux_emulator::{Emulator, VirtualSpec};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

/// After this a process counts as hanging. Nothing is asserted of how long anything takes; this only has to end tests.
const LIMIT: Duration = Duration::from_secs(120);

/// Where the library keeps its temporary objects.
pub(crate) const TEMPORARY: &str = "dataflux-composed-objects/";

pub(crate) struct Outcome {
    /// What the process exited with; a signal that ended it has none.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    #[track_caller]
    pub(crate) fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }

    /// The one line of JSON that is all of stdout.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let done = self.expect(0);
        assert_eq!(done.stdout.matches('\n').count(), 1, "{}", done.stdout);
        serde_json::from_str(&done.stdout).unwrap()
    }

    /// The one line that a failure is told in; nothing is on stdout then.
    #[track_caller]
    pub(crate) fn error(self) -> String {
        let failed = self.expect(1);
        assert_eq!(failed.stdout, "");
        let mut lines = failed.stderr.lines();
        let line = lines.next().unwrap_or_default().to_owned();
        assert!(line.starts_with("error: ") && lines.next().is_none(), "{}", failed.stderr);
        line
    }
}

/// A process that is killed when this goes.
pub(crate) struct Running {
    child: Child,
    stdout: Option<JoinHandle<String>>,
    lines: Receiver<String>,
    stderr: String,
    deadline: Instant,
}

pub(crate) fn command(endpoint: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dataflux"));
    command.args(args).env("STORAGE_EMULATOR_HOST", endpoint).env_remove("DATAFLUX_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs it to its end.
#[track_caller]
pub(crate) fn dataflux(emulator: &Emulator, args: &[&str]) -> Outcome {
    start(emulator.endpoint(), args).finish()
}

#[track_caller]
pub(crate) fn start(endpoint: &str, args: &[&str]) -> Running {
    let mut child = command(endpoint, args).spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    let err = child.stderr.take().unwrap();
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        BufReader::new(err).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
    });
    let stdout = std::thread::spawn(move || {
        let mut text = String::new();
        out.read_to_string(&mut text).unwrap();
        text
    });
    Running { child, stdout: Some(stdout), lines, stderr: String::new(), deadline: Instant::now() + LIMIT }
}

impl Running {
    fn keep(&mut self, line: &str) {
        self.stderr += line;
        self.stderr.push('\n');
    }

    /// Waits until it says something of the kind on stderr.
    #[track_caller]
    pub(crate) fn says(&mut self, text: &str) {
        loop {
            let line = self.lines.recv_timeout(self.deadline.saturating_duration_since(Instant::now()));
            let Ok(line) = line else { panic!("it never said {text:?}, but: {}", self.stderr) };
            self.keep(&line);
            if line.contains(text) {
                return;
            }
        }
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).unwrap();
    }

    pub(crate) fn over(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() > self.deadline {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
                while let Ok(line) = self.lines.recv() {
                    self.keep(&line);
                }
                panic!("it hung and was killed; stderr: {}", self.stderr);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    #[track_caller]
    pub(crate) fn finish(mut self) -> Outcome {
        let code = self.wait().code();
        let stdout = self.stdout.take().unwrap().join().unwrap();
        while let Ok(line) = self.lines.recv() {
            self.keep(&line);
        }
        Outcome { code, stdout, stderr: std::mem::take(&mut self.stderr) }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails for one that is over.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A folder of its own for a test, gone with it.
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new(test: &str) -> Self {
        let path = std::env::temp_dir().join(format!("dataflux-it-{test}-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<_> =
            fs::read_dir(&self.0).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A bucket of computed objects.
pub(crate) fn virtuals(spec: &str) -> VirtualSpec {
    spec.parse().unwrap()
}

pub(crate) fn temporaries(emulator: &Emulator, bucket: &str) -> Vec<String> {
    emulator.names(bucket).into_iter().filter(|name| name.starts_with(TEMPORARY)).collect()
}

#[track_caller]
pub(crate) fn contains(text: &str, wanted: &[&str]) {
    assert!(wanted.iter().all(|wanted| text.contains(wanted)), "wanted {wanted:?} in: {text}");
}

/// Polls until it holds, or panics at the limit.
#[track_caller]
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "never came: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits out writes that the emulator still does for clients that are gone: the slowest, a compose, takes 0.8 s.
pub(crate) fn settle() {
    std::thread::sleep(Duration::from_secs(2));
}

/// Numbers from 0 (inclusive) to 1 (exclusive), the same in every run.
pub(crate) fn draw(seed: u64, number: u64) -> f64 {
    let mut z = seed.wrapping_add((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}
