//! The transport: connections, delays and faults around the service.

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

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Response, StatusCode,
    body::Incoming,
    header::{HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::sleep,
};

use crate::{
    body::{Answer, Damage},
    error::Refusal,
    fault::Fault,
    lock::read,
    random,
    route::{Query, Route},
    service::{Reply, Request, State},
    stats::Call,
};

/// Serves until `stop` changes or its sender is gone. Connections end with it.
pub(crate) async fn serve(listener: TcpListener, state: Arc<State>, stop: watch::Receiver<bool>) {
    let mut stopped = stop.clone();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stopped.changed() => return,
        };
        // Out of descriptors, or a client that left at once: the next one may do better.
        let Ok((stream, _)) = accepted else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let (state, mut stop) = (Arc::clone(&state), stop.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = connection(stream, state) => {}
                _ = stop.changed() => {}
            }
        });
    }
}

async fn connection(stream: TcpStream, state: Arc<State>) {
    // Answers are written whole; waiting for more would only add to every latency.
    let _ = stream.set_nodelay(true);
    let reset = Arc::new(AtomicBool::new(false));
    let io = TokioIo::new(Socket { stream, reset: Arc::clone(&reset) });
    let service = service_fn(move |request| {
        let (state, reset) = (Arc::clone(&state), Arc::clone(&reset));
        async move { answer(state, request, &reset).await }
    });
    // Errors here are broken connections, most of them broken on purpose.
    let _ = http1::Builder::new().keep_alive(true).serve_connection(io, service).await;
}

/// Why there is no answer: the connection is to be reset.
#[derive(Debug)]
struct Broken;

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("connection broken on purpose")
    }
}

impl std::error::Error for Broken {}

/// Takes a request out of flight, unless its answer will.
struct InFlight(Option<Arc<State>>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            state.stats.leave();
        }
    }
}

async fn answer(
    state: Arc<State>,
    request: hyper::Request<Incoming>,
    reset: &AtomicBool,
) -> Result<Response<Answer>, Broken> {
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let route = Route::parse(request.method(), request.uri().path(), &query);
    let call = route.as_ref().map_or(Call::Other, Route::call);
    state.stats.enter();
    let mut flight = InFlight(Some(Arc::clone(&state)));
    let request = receive(request, query, &state).await;
    if let Ok(route @ (Route::Stats | Route::ResetStats)) = &route {
        // Looking at the counters does not move them.
        flight.0 = None;
        let reply = state.handle(route, &request);
        return Ok(response(state, reply, Damage::default(), None));
    }
    state.stats.call(call);
    let fault = state.faults.decide(call);
    if let Some(fault) = fault {
        state.stats.fault(fault.name());
    }
    let broken = || {
        reset.store(true, Ordering::Relaxed);
        Err(Broken)
    };
    if fault == Some(Fault::Reset) {
        return broken();
    }
    let reply = match refuse_early(&state, route.as_ref().ok(), &request, fault) {
        Some(reply) => reply,
        None => match route {
            Ok(route) => perform(&state, route, request).await,
            Err(refusal) => refusal.into(),
        },
    };
    if fault == Some(Fault::LostResponse) {
        return broken();
    }
    state.stats.status(reply.status);
    let (damage, wait) = damage(&state, call, fault, reply.end - reply.start);
    pause(wait).await;
    let rate = if call == Call::GetMedia { read(&state.profile).bytes_per_second() } else { None };
    flight.0 = None;
    Ok(response(state, reply, damage, rate))
}

/// Waits, where there is anything to wait for: even a timer that is over at once costs a system call.
async fn pause(length: Duration) {
    if !length.is_zero() {
        sleep(length).await;
    }
}

/// Reads the whole request.
async fn receive(request: hyper::Request<Incoming>, query: Query, state: &State) -> Request {
    let (parts, mut body) = request.into_parts();
    let (mut pieces, mut size, mut complete) = (Vec::new(), 0, true);
    while let Some(frame) = body.frame().await {
        match frame.map(hyper::body::Frame::into_data) {
            Ok(Ok(data)) => {
                size += data.len();
                state.stats.bytes_received.fetch_add(data.len() as u64, Ordering::Relaxed);
                pieces.push(data);
            }
            // Trailers.
            Ok(Err(_)) => {}
            Err(_) => {
                complete = false;
                break;
            }
        }
    }
    let body = if pieces.len() == 1 {
        pieces.swap_remove(0)
    } else {
        let mut whole = Vec::with_capacity(size);
        for piece in &pieces {
            whole.extend_from_slice(piece);
        }
        Bytes::from(whole)
    };
    Request { query, headers: parts.headers, body, complete }
}

/// Refusals that come before anything is done.
fn refuse_early(state: &State, route: Option<&Route>, request: &Request, fault: Option<Fault>) -> Option<Reply> {
    let refuse = |refusal: Refusal| match route {
        Some(route) => route.refuse(refusal),
        None => refusal.into(),
    };
    if let Err(refusal) = state.authorize(request) {
        return Some(refuse(refusal));
    }
    if let Some(refusal) = fault.and_then(status_fault) {
        let reply = refuse(refusal);
        return Some(match state.faults.settings().1 {
            Some(seconds) => reply.with("retry-after", seconds.to_string()),
            None => reply,
        });
    }
    state.admit(route?, request).err().map(refuse)
}

/// The answer that a fault is, for those that are answers.
pub(crate) fn status_fault(fault: Fault) -> Option<Refusal> {
    match fault {
        Fault::Error => Some(Refusal::unavailable()),
        Fault::TooManyRequests => {
            Some(Refusal::rate_limited("The rate of requests exceeds the limit. Please reduce your request rate."))
        }
        Fault::Status(status) => Some(Refusal { status, ..Refusal::unavailable() }),
        _ => None,
    }
}

/// Does the work in the time it takes. Changes happen even when the client is gone by then, as they do in the service.
async fn perform(state: &Arc<State>, route: Route, request: Request) -> Reply {
    let call = route.call();
    if call == Call::Batch || !call.mutates() {
        let reply = state.handle(&route, &request);
        let delay = reply.delay.unwrap_or_else(|| state.delay(call, reply.items));
        pause(delay).await;
        return reply;
    }
    let (state, delay) = (Arc::clone(state), state.delay(call, 0));
    let work = tokio::spawn(async move {
        pause(delay).await;
        state.handle(&route, &request)
    });
    work.await.unwrap_or_else(|_| Refusal::unavailable().into())
}

/// What a fault does to a body of `length` bytes, and how long everything waits before.
fn damage(state: &State, call: Call, fault: Option<Fault>, length: u64) -> (Damage, Duration) {
    let draw = |bound: u64| {
        let number = state.draws.fetch_add(1, Ordering::Relaxed);
        random::mix(random::mix(state.seed) ^ number) % bound.max(1)
    };
    let none = Damage::default();
    match fault {
        Some(Fault::Stall) => {
            let stall = Duration::from_millis(state.faults.settings().0);
            if call == Call::GetMedia && length > 1 {
                (Damage { stall: Some((length / 2, stall)), ..none }, Duration::ZERO)
            } else {
                (none, stall)
            }
        }
        Some(Fault::Short) => (Damage { end_at: Some(draw(length)), hide_length: true, ..none }, Duration::ZERO),
        Some(Fault::Cut) => (Damage { end_at: Some(draw(length)), abort: true, ..none }, Duration::ZERO),
        Some(Fault::Flip) if length > 0 => {
            (Damage { flip: Some((draw(length), draw(8) as u8)), ..none }, Duration::ZERO)
        }
        _ => (none, Duration::ZERO),
    }
}

fn response(state: Arc<State>, reply: Reply, mut damage: Damage, rate: Option<f64>) -> Response<Answer> {
    damage.hide_length |= reply.unknown_length;
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = Answer::new(state, reply.content, reply.start, reply.end, damage, rate);
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in reply.headers {
        // Attributes of objects become headers; what cannot be one is left out.
        if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    for (key, value) in &reply.metadata {
        let name = HeaderName::from_bytes(format!("x-goog-meta-{key}").as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_bytes(value.as_bytes())) {
            headers.append(name, value);
        }
    }
    headers.insert("server", HeaderValue::from_static("UploadServer"));
    response
}

/// A connection that can be reset instead of closed.
struct Socket {
    stream: TcpStream,
    reset: Arc<AtomicBool>,
}

impl Drop for Socket {
    fn drop(&mut self) {
        if self.reset.load(Ordering::Relaxed) {
            // Closing with this set sends RST and drops what is still in the send buffer.
            let _ = self.stream.set_zero_linger();
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
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
