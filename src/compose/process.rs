//! The identity of this process, and what happens at its end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, OnceLock};
use std::time::Duration;

use crate::os;

/// The identity of this process among all processes of all machines: boot, PID namespace, PID and start time. Two
/// processes with the same boot and namespace can see whether the other lives. Where the system reports no boot,
/// namespace or start time, no other process can see that.
pub(crate) fn identity() -> &'static str {
    static IDENTITY: LazyLock<String> = LazyLock::new(|| {
        let pid = std::process::id();
        match start_time(pid) {
            Ok(Some(start)) => format!("{}/{pid}/{start}", pid_namespace()),
            _ => format!("/{pid}/{:016x}", rand::random::<u64>()),
        }
    });
    &IDENTITY
}

/// The boot and the PID namespace, within which a PID means one process. Empty where the system doesn't report them.
fn pid_namespace() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    match (boot.trim(), namespace.to_string_lossy()) {
        ("", _) => String::new(),
        (_, namespace) if namespace.is_empty() => String::new(),
        (boot, namespace) => format!("{boot}+{namespace}"),
    }
}

/// The start time of a process in ticks since the boot; `None` if there certainly is no process of this PID.
fn start_time(pid: u32) -> std::io::Result<Option<u64>> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        // Systems that hide the processes of other users hide process 1, too; then the absence means nothing.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return std::fs::read_to_string("/proc/1/stat").map(|_| None);
        }
        Err(error) => return Err(error),
    };
    // The name in parentheses may contain anything. Counted from its end, the state is the first field and the start
    // time the twentieth.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_ascii_whitespace();
    if fields.next() == Some("Z") {
        return Ok(None);
    }
    let start = fields.nth(18).and_then(|start| start.parse().ok());
    start.map(Some).ok_or_else(|| std::io::Error::other("no start time in the process's stat"))
}

/// Whether the process of this identity lives; `None` if this process can't see that.
pub(crate) fn is_alive(identity: &str) -> Option<bool> {
    let mut parts = identity.rsplitn(3, '/');
    let (start, pid, namespace) = (parts.next()?, parts.next()?, parts.next()?);
    if namespace.is_empty() || namespace != pid_namespace() {
        return None;
    }
    let (pid, start): (u32, u64) = (pid.parse().ok()?, start.parse().ok()?);
    Some(start_time(pid).ok()? == Some(start))
}

/// Whether a signal is ending the process.
static IS_ENDING: AtomicBool = AtomicBool::new(false);

/// How long a signal waits for temporary objects to be deleted before it ends the process anyway.
pub(crate) const SIGNAL_GRACE: Duration = Duration::from_secs(20);

/// Records that a signal is ending the process, so that an ordinary exit leaves the exit code to the signal.
pub(crate) fn begin_ending() {
    IS_ENDING.store(true, Ordering::SeqCst);
}

/// Ends the process without the clean-up of C libraries, which other threads may still be using: libtorch is known to
/// crash in it, and a crash would hide the exit code. This crate has no work left by then.
pub(crate) fn end(code: i32) -> ! {
    os::exit_now(code)
}

/// Calls `run` when the process ends normally: main returns, or the program calls `exit`.
pub(crate) fn at_exit(run: fn()) {
    static RUN: OnceLock<(fn(), u32)> = OnceLock::new();

    /// Uses only statics, which Rust never destroys, and threads, which keep running while exit handlers do.
    extern "C" fn call() {
        if let Some((run, pid)) = RUN.get() {
            // A fork inherits the handler, but none of the threads that could do the work.
            if *pid != std::process::id() {
                return;
            }
            // A panic must not cross into C.
            let _ = std::panic::catch_unwind(run);
        }
        if IS_ENDING.load(Ordering::SeqCst) {
            // Main ended first, because closing made its next batch an error. The signal's thread sets the exit code.
            std::thread::sleep(SIGNAL_GRACE);
        }
    }

    if RUN.set((run, std::process::id())).is_ok()
        && let Err(error) = os::at_exit(call)
    {
        tracing::warn!(%error, "the end of the process will not wait for temporary objects to be deleted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_itself_alive_and_a_past_process_dead() {
        assert_eq!(is_alive(identity()), Some(true));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let then = start_time(pid).unwrap().unwrap_or(1);
        child.wait().unwrap();
        assert_eq!(is_alive(&format!("{}/{pid}/{then}", pid_namespace())), Some(false));
        // The number may have gone to another process: then the start time differs.
        assert_eq!(is_alive(&format!("{}/{}/1", pid_namespace(), std::process::id())), Some(false));
        assert_eq!(is_alive("another-boot+pid:[1]/1/1"), None);
        assert_eq!(is_alive("nonsense"), None);
        assert_eq!(is_alive("/1/1"), None);
    }
}
