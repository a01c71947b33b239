//! The network threads, for callers that are not asynchronous, and the start of other threads.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle, Runtime};

use crate::{Error, ErrorKind, Result};

/// A runtime with threads of its own. Dropping it never waits: its remaining tasks are dropped at their next await.
#[derive(Debug)]
pub(crate) struct Io {
    runtime: Option<Runtime>,
}

impl Io {
    /// A runtime of `threads` threads.
    pub(crate) fn new(threads: usize) -> Result<Arc<Self>> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .thread_name("dataflux-io")
            .enable_all()
            .build()
            .map_err(|error| {
                Error::new(ErrorKind::Io, "the network threads could not be started")
                    .mismatch(format_args!("{threads} threads"), "a refusal by the system")
                    .hint("lower io_threads, or raise the limit on threads (ulimit -u)")
                    .with_source(error)
            })?;
        Ok(Arc::new(Self { runtime: Some(runtime) }))
    }

    /// The runtime that is shared by everything without a runtime of its own. It lives as long as the process.
    pub(crate) fn shared() -> Result<Arc<Self>> {
        static SHARED: OnceLock<Arc<Io>> = OnceLock::new();
        if let Some(shared) = SHARED.get() {
            return Ok(Arc::clone(shared));
        }
        let threads = std::thread::available_parallelism().map_or(2, usize::from).min(4);
        let io = Self::new(threads)?;
        Ok(Arc::clone(SHARED.get_or_init(|| io)))
    }

    pub(crate) fn handle(&self) -> &Handle {
        self.runtime.as_ref().expect("the runtime is taken only when it ends").handle()
    }

    /// Runs `future` on the runtime.
    ///
    /// # Cancel safety
    /// The future continues to run when the returned one is dropped.
    pub(crate) async fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.handle().spawn(future).await.unwrap_or_else(|_| Err(panicked()))
    }

    /// Waits until this is the only reference, then ends the threads. Returns whether that took less than `within`.
    pub(crate) fn close(mut self: Arc<Self>, within: Duration) -> bool {
        let began = Instant::now();
        let left = move || within.saturating_sub(began.elapsed());
        loop {
            match Arc::try_unwrap(self) {
                Err(_) if left().is_zero() => return false,
                // A task that is about to end, or the last entry of the ledger, still holds a reference.
                Err(shared) => self = shared,
                Ok(mut io) => {
                    let Some(runtime) = io.runtime.take() else { return true };
                    // On a thread of its own, since a runtime must not be waited for from within another one.
                    let end = move || runtime.shutdown_timeout(left());
                    return std::thread::spawn(end).join().is_ok() && !left().is_zero();
                }
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Runs `future` on the runtime and blocks this thread until it is done. Unlike the `block_on` of a runtime, this
    /// may be called from anywhere, even from within a runtime. If that is this one, as in a user's light decoder or
    /// token source that opens a data set, another thread of the runtime takes over what this thread had to do.
    pub(crate) fn run<T: Send + 'static>(&self, future: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let (done, wait) = crossbeam_channel::bounded(1);
        self.handle().spawn(async move {
            // The receiver is gone only if this thread is.
            let _ = done.send(future.await);
        });
        let wait = move || wait.recv().unwrap_or_else(|_| Err(panicked()));
        let is_own = Handle::try_current().is_ok_and(|current| current.id() == self.handle().id());
        if is_own { tokio::task::block_in_place(wait) } else { wait() }
    }
}

/// Runs `future` on this thread, which sleeps while the future waits. It is for futures that need no runtime, such as
/// those of channels. Unlike the `block_on` of a runtime, this may be called from anywhere, even from within a runtime.
pub(crate) fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    // Within a task of tokio, its channels otherwise stop answering after some calls, so that the task yields.
    let mut future = pin!(tokio::task::unconstrained(future));
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return output;
        }
        std::thread::park();
    }
}

#[cfg(test)]
thread_local! {
    /// The name of the threads that the system refuses to the current thread.
    pub(crate) static REFUSED_THREADS: std::cell::Cell<Option<&'static str>> = const { std::cell::Cell::new(None) };
}

/// Starts a thread with this name, which is `what` in the error.
///
/// # Errors
/// The system refuses another thread.
pub(crate) fn spawn_thread(name: &str, what: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let builder = std::thread::Builder::new().name(name.into());
    // No system has room for such a stack.
    #[cfg(test)]
    let builder = if REFUSED_THREADS.get() == Some(name) { builder.stack_size(1 << 60) } else { builder };
    builder.spawn(run).map_err(|error| {
        Error::new(ErrorKind::Io, format!("{what} could not be started"))
            .hint("raise the limit on threads (ulimit -u)")
            .with_source(error)
    })
}

fn panicked() -> Error {
    Error::new(ErrorKind::Internal, "a task on the network threads panicked")
}

impl Drop for Io {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The thread that waited was the only one that could have run what it waited for.
    #[test]
    fn a_thread_of_the_runtime_may_wait_for_the_runtime() {
        let io = Io::new(1).unwrap();
        let again = Arc::clone(&io);
        let (done, wait) = crossbeam_channel::bounded(1);
        let task = async {
            tokio::task::yield_now().await;
            Ok(())
        };
        io.handle().spawn(async move { done.send(again.run(task)) });
        assert!(wait.recv_timeout(Duration::from_secs(60)).expect("it hangs").is_ok());
    }
}
