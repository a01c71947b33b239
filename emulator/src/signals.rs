//! Waiting for SIGINT and SIGTERM.

use std::{io, sync::mpsc};

use tokio::runtime::Handle;

/// A watch on SIGINT and SIGTERM, which do not kill the process while it exists or later.
#[derive(Debug)]
pub struct SignalWatch {
    receiver: mpsc::Receiver<()>,
}

impl SignalWatch {
    /// Blocks until the first signal, or until the emulator is dropped.
    pub fn wait(self) {
        // An error means that the sender is gone with the emulator's runtime.
        let _ = self.receiver.recv();
    }

    pub(crate) fn start(runtime: &Handle) -> io::Result<Self> {
        let (sender, receiver) = mpsc::channel();
        let _context = runtime.enter();
        let signal = first_signal()?;
        runtime.spawn(async move {
            signal.await;
            // Nobody listens when the watch was dropped.
            let _ = sender.send(());
        });
        Ok(Self { receiver })
    }
}

/// Registers the signals at once. The future ends at the first signal.
#[cfg(unix)]
fn first_signal() -> io::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(windows)]
fn first_signal() -> io::Result<impl Future<Output = ()>> {
    let mut interrupt = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        interrupt.recv().await;
    })
}
