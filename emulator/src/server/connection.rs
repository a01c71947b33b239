//! Connections: accepting them, serving requests on them, and resetting them.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

use crate::{api::state::EmulatorState, server::exchange::answer_request};

/// Serves until `stop` changes or its sender is dropped. This also ends all connections.
pub(crate) async fn serve(listener: TcpListener, state: Arc<EmulatorState>, stop: watch::Receiver<bool>) {
    let mut stopped = stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => return,
        };
        // The process is out of descriptors, or the client left at once. The next connection may succeed.
        let Ok((stream, _)) = accepted else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };

        let (state, mut stop) = (Arc::clone(&state), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = serve_connection(stream, state) => {}
                _ = stop.changed() => {}
            }
        });
    }
}

async fn serve_connection(stream: TcpStream, state: Arc<EmulatorState>) {
    // Answers are written whole, so that waiting for more bytes would only add to the latency.
    let _ = stream.set_nodelay(true);
    let must_reset = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(ResettableSocket { stream, must_reset: Arc::clone(&must_reset) });
    let service = service_fn(move |request| {
        let (state, must_reset) = (Arc::clone(&state), Arc::clone(&must_reset));
        async move {
            let response = answer_request(state, request).await;
            if response.is_err() {
                must_reset.store(true, Ordering::Relaxed);
            }
            response
        }
    });
    // An error here is a broken connection, which a fault often causes.
    let _ = http1::Builder::new().keep_alive(true).serve_connection(io, service).await;
}

/// A connection that can be reset instead of closed.
struct ResettableSocket {
    stream: TcpStream,
    must_reset: Arc<AtomicBool>,
}

impl Drop for ResettableSocket {
    fn drop(&mut self) {
        if self.must_reset.load(Ordering::Relaxed) {
            // Closing then sends RST, and drops the bytes that are still in the send buffer.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for ResettableSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for ResettableSocket {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
