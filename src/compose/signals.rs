//! Clean-up of temporary objects on SIGINT and SIGTERM.

use std::io::Write;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{ledger, process};
use crate::{Error, ErrorKind, Result};

/// On SIGINT and SIGTERM: deletes every temporary object of this process (20 seconds at most), then ends it with code
/// 130 or 143. A second signal ends it at once. Programs with a handler of their own call
/// [`wait_for_temporaries`](crate::compose::wait_for_temporaries) after dropping their loaders instead.
///
/// # Errors
/// The system refuses a signal handler or a thread.
pub fn clean_up_on_signals() -> Result<()> {
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Io, "the handler of SIGINT and SIGTERM could not be set up").with_source(error)
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    let (interrupt, terminate) = {
        let _context = runtime.enter();
        (signal(SignalKind::interrupt()).map_err(failed)?, signal(SignalKind::terminate()).map_err(failed)?)
    };

    thread::Builder::new()
        .name("dataflux-signals".into())
        .spawn(move || runtime.block_on(handle_signals(interrupt, terminate)))
        .map_err(failed)?;
    Ok(())
}

/// Waits for the first signal, on which another thread deletes temporary objects, and then for a second one.
async fn handle_signals(mut interrupt: Signal, mut terminate: Signal) {
    let mut next_code = async || {
        tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        }
    };

    let code = next_code().await;
    process::begin_ending();
    tracing::info!("ending on a signal: deleting temporary objects");
    let close = move || {
        let left = ledger::close(process::SIGNAL_GRACE).objects;
        if !left.is_empty() {
            tracing::error!(count = left.len(), "temporary objects are left: run `dataflux clean` on the bucket");
        }
        flush_stdout();
        process::end(code);
    };
    if thread::Builder::new().name("dataflux-closing".into()).spawn(close).is_err() {
        process::end(code);
    }

    process::end(next_code().await)
}

/// Flushes standard output. Another thread may hold its lock, so the wait is bounded.
fn flush_stdout() {
    let (done, wait) = mpsc::channel();
    let flush = move || {
        let _ = std::io::stdout().flush();
        let _ = done.send(());
    };
    if thread::Builder::new().spawn(flush).is_ok() {
        let _ = wait.recv_timeout(Duration::from_millis(100));
    }
}
