//! Batches: up to a hundred calls in one request, each with its own answer.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{HeaderName, HeaderValue},
};

use crate::{
    error::Refusal,
    multipart,
    route::{Query, Route},
    server::status_fault,
    service::{Reply, Request, State},
};

/// What the service takes.
const MOST_CALLS: usize = 100;

pub(crate) fn batch(state: &State, request: &Request) -> Result<Reply, Refusal> {
    let malformed =
        || Refusal::new(400, "badRequest", "Malformed batch: multipart/mixed of application/http is wanted.");
    let boundary = request.header("content-type").and_then(multipart::boundary).ok_or_else(malformed)?;
    let parts = multipart::parse(&request.body, &boundary).ok_or_else(malformed)?;
    if parts.is_empty() {
        return Err(malformed());
    }
    if parts.len() > MOST_CALLS {
        let message = format!("The batch has {} calls and at most {MOST_CALLS} are allowed.", parts.len());
        return Err(Refusal::new(400, "badRequest", message));
    }
    let boundary = "batch_dataflux_emulator";
    let (mut out, mut slowest) = (Vec::new(), Duration::ZERO);
    for part in &parts {
        let (reply, delay) = call(state, request, &part.body);
        slowest = slowest.max(delay);
        state.stats.status(reply.status);
        out.extend_from_slice(format!("--{boundary}\r\nContent-Type: application/http\r\n").as_bytes());
        if let Some(id) = part.header("content-id") {
            let id = id.trim_start_matches('<').trim_end_matches('>');
            out.extend_from_slice(format!("Content-ID: <response-{id}>\r\n").as_bytes());
        }
        let status = StatusCode::from_u16(reply.status).ok().and_then(|status| status.canonical_reason());
        out.extend_from_slice(format!("\r\nHTTP/1.1 {} {}\r\n", reply.status, status.unwrap_or("Unknown")).as_bytes());
        for (name, value) in &reply.headers {
            out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        out.extend_from_slice(format!("content-length: {}\r\n\r\n", reply.end - reply.start).as_bytes());
        out.extend_from_slice(&reply.content.read(reply.start, reply.end).unwrap_or_default());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    let mut reply = Reply::bytes(200, &format!("multipart/mixed; boundary={boundary}"), out);
    // The calls of a batch run side by side.
    reply.delay = Some(slowest);
    Ok(reply)
}

/// Answers one call, and says how long it alone would take.
fn call(state: &State, outer: &Request, part: &Bytes) -> (Reply, Duration) {
    let (route, request) = match parse(outer, part) {
        Ok(call) => call,
        Err(refusal) => return (refusal.into(), Duration::ZERO),
    };
    let call = route.call();
    state.stats.call(call);
    let delay = state.delay(call, 0);
    // Only faults that are answers fit into a batch; the connection belongs to all of its calls.
    let fault = state.faults.decide_status(call);
    if let Some((fault, refusal)) = fault.and_then(|fault| Some((fault, status_fault(fault)?))) {
        state.stats.fault(fault.name());
        return (refusal.into(), delay);
    }
    match state.admit(&route, &request) {
        Ok(()) => (state.handle(&route, &request), delay),
        Err(refusal) => (refusal.into(), delay),
    }
}

fn parse(outer: &Request, part: &Bytes) -> Result<(Route, Request), Refusal> {
    let malformed = || Refusal::new(400, "badRequest", "Malformed call in a batch.");
    let (head, body) = multipart::split_head(part).ok_or_else(malformed)?;
    let (line, rest) = head.split_once('\n').unwrap_or((head, ""));
    let mut words = line.split_whitespace();
    let (method, target) = (words.next().unwrap_or_default(), words.next().ok_or_else(malformed)?);
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| malformed())?;
    // Some clients write the whole URL.
    let target = match target.split_once("://") {
        Some((_, rest)) => rest.find('/').map(|at| &rest[at..]).ok_or_else(malformed)?,
        None => target,
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = Query::parse(query);
    let route = Route::parse(&method, path, &query)?;
    if matches!(
        route,
        Route::Batch
            | Route::GetMedia(_)
            | Route::Upload(_)
            | Route::UploadSession
            | Route::CancelUpload
            | Route::Stats
            | Route::ResetStats
    ) {
        return Err(Refusal::new(400, "badRequest", "This call is not allowed in a batch."));
    }
    let mut headers: HeaderMap = outer.headers.clone();
    for (name, value) in multipart::headers(rest).ok_or_else(malformed)? {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            headers.insert(name, value);
        }
    }
    Ok((route, Request { query, headers, body, complete: true }))
}
