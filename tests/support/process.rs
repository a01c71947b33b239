//! Tests that measure the memory of a process run in one of their own.

use std::process::Command;

use super::{HANG, without_hanging_for};

pub const MIB: u64 = 1 << 20;

/// Memory that a process may use in addition to what its test is about: the program, its threads, and what its
/// allocator keeps.
pub const BESIDE: u64 = 96 * MIB;

/// The environment variable that is set in the process of a case.
const CASE: &str = "DATAFLUX_MEMORY_CASE";

/// Runs the test of this name in a process of its own, which calls this function again and runs `body`.
pub fn in_own_process(test: &str, body: impl FnOnce() + Send + 'static) {
    if std::env::var_os(CASE).is_some() {
        return without_hanging_for(3 * HANG, body);
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    let ran = command.args([test, "--exact", "--nocapture"]).env(CASE, test).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success() && out.contains("1 passed"), "{out}{err}");
    out.lines().filter(|line| line.starts_with("budget")).for_each(|line| println!("{test}: {line}"));
}

/// The peak memory of this process so far, in bytes.
pub fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().strip_suffix("kB").unwrap().trim().parse::<u64>().unwrap() * 1_024
}

/// Lets [`peak`] begin anew with what the process holds now. Where the kernel doesn't offer that, [`peak`] stays the
/// peak so far, and growth below it isn't seen.
pub fn forget_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
