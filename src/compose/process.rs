//! The process around it: its identity, its end, and the signals that ask for it.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::temporary;
use crate::os;
use crate::{Error, ErrorKind, Result};

/// What tells this process from every other, on this machine and on others: boot, PID namespace, PID and start time.
/// Two of them with the same first part can see whether the other lives. Of a process whose place or start the system
/// doesn't tell, nobody can.
pub(crate) fn identity() -> &'static str {
    static IDENTITY: LazyLock<String> = LazyLock::new(|| {
        let pid = std::process::id();
        match started(pid) {
            Ok(Some(start)) => format!("{}/{pid}/{start}", place()),
            _ => format!("/{pid}/{:016x}", rand::random::<u64>()),
        }
    });
    &IDENTITY
}

/// Where PIDs mean the same: one boot of one machine, one PID namespace. Empty where the system doesn't tell.
fn place() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    match (boot.trim(), namespace.to_string_lossy()) {
        ("", _) => String::new(),
        (_, namespace) if namespace.is_empty() => String::new(),
        (boot, namespace) => format!("{boot}+{namespace}"),
    }
}

/// When a process began, in ticks since the boot; `None` if there surely is none of that number.
fn started(pid: u32) -> std::io::Result<Option<u64>> {
    let stat = match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat,
        // Systems that hide other users' processes say the same of those, and hide the first of all then, too.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return std::fs::read_to_string("/proc/1/stat").map(|_| None);
        }
        Err(error) => return Err(error),
    };
    // The name in parentheses may hold anything, so count from its end: state is the first, start the twentieth.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_ascii_whitespace();
    if fields.next() == Some("Z") {
        return Ok(None);
    }
    let start = fields.nth(18).and_then(|start| start.parse().ok());
    start.map(Some).ok_or_else(|| std::io::Error::other("no start time in the process's stat"))
}

/// Whether the process of that identity lives; `None` if that can't be seen from here.
pub(crate) fn lives(identity: &str) -> Option<bool> {
    let mut parts = identity.rsplitn(3, '/');
    let (start, pid, there) = (parts.next()?, parts.next()?, parts.next()?);
    if there.is_empty() || there != place() {
        return None;
    }
    let (pid, start): (u32, u64) = (pid.parse().ok()?, start.parse().ok()?);
    Some(started(pid).ok()? == Some(start))
}

/// Whether a signal is about to end the process.
static ENDING: AtomicBool = AtomicBool::new(false);

/// How long a signal waits for temporaries to be deleted before it ends the process all the same.
const ON_SIGNAL: Duration = Duration::from_secs(20);

/// On SIGINT and SIGTERM: deletes every temporary object of this process (20 seconds at most), then ends it with code
/// 130 or 143. A second signal ends it at once. Programs with a handler of their own call
/// [`wait_for_temporaries`](crate::compose::wait_for_temporaries) after dropping their loaders instead.
///
/// # Errors
/// The system lets no handler be set, or no thread be started.
pub fn clean_up_on_signals() -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Io, "the handler of SIGINT and SIGTERM could not be set up").with_source(error)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    let (interrupt, terminate) = {
        use tokio::signal::unix::{SignalKind, signal};
        let _context = runtime.enter();
        (signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?)
    };
    let watch = async move |mut interrupt: tokio::signal::unix::Signal, mut terminate: tokio::signal::unix::Signal| {
        let mut next = async || {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
            }
        };
        let code = next().await;
        ENDING.store(true, Ordering::SeqCst);
        tracing::info!("ending on a signal: deleting temporary objects");
        let close = move || {
            let left = temporary::close(ON_SIGNAL).objects;
            if !left.is_empty() {
                tracing::error!(count = left.len(), "temporary objects are left: run `dataflux clean` on the bucket");
            }
            flush();
            end(code);
        };
        if std::thread::Builder::new().name("dataflux-closing".into()).spawn(close).is_err() {
            end(code);
        }
        end(next().await)
    };
    std::thread::Builder::new()
        .name("dataflux-signals".into())
        .spawn(move || runtime.block_on(watch(interrupt, terminate)))
        .map_err(failed)?;
    Ok(())
}

/// Writes out what standard output holds, unless somebody else holds that: no signal waits for a lock.
fn flush() {
    let (done, wait) = std::sync::mpsc::channel();
    let flush = move || {
        use std::io::Write;
        let _ = std::io::stdout().flush();
        let _ = done.send(());
    };
    if std::thread::Builder::new().spawn(flush).is_ok() {
        let _ = wait.recv_timeout(Duration::from_millis(100));
    }
}

/// Ends the process without the clean-up of C libraries, which other threads may still be using: libtorch is known to
/// crash in it, and a crash would hide the exit code. Everything of this crate is done by then.
fn end(code: i32) -> ! {
    os::exit_now(code)
}

/// Has `run` called when the process ends normally: main returns, or `exit` is called.
pub(crate) fn at_exit(run: fn()) {
    static RUN: std::sync::OnceLock<(fn(), u32)> = std::sync::OnceLock::new();
    /// Uses statics alone, which Rust never destroys, and threads, which run on while exit handlers do.
    extern "C" fn call() {
        if let Some((run, pid)) = RUN.get() {
            // A fork inherits the handler and none of the threads that could do the work.
            if *pid != std::process::id() {
                return;
            }
            // A panic must not cross into C.
            let _ = std::panic::catch_unwind(run);
        }
        if ENDING.load(Ordering::SeqCst) {
            // Main ended first, of the error that closing made of its next batch. The code is the signal's to choose.
            std::thread::sleep(ON_SIGNAL);
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
        assert_eq!(lives(identity()), Some(true));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let then = started(pid).unwrap().unwrap_or(1);
        child.wait().unwrap();
        assert_eq!(lives(&format!("{}/{pid}/{then}", place())), Some(false));
        // The number may have gone to another process: then the start time differs.
        assert_eq!(lives(&format!("{}/{}/1", place(), std::process::id())), Some(false));
        assert_eq!(lives("another-boot+pid:[1]/1/1"), None);
        assert_eq!(lives("nonsense"), None);
        assert_eq!(lives("/1/1"), None);
    }
}
