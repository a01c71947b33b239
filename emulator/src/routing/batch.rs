//! Batches: up to a hundred calls in one request, each with its own answer.

use std::time::Duration;

use bytes::Bytes;
use hyper::{
    HeaderMap, Method, StatusCode,
    header::{HeaderName, HeaderValue},
};

use crate::{
    api::state::EmulatorState,
    http::{multipart, query::QueryParameters, reply::Reply, request::ReceivedRequest},
    refusal::Refusal,
    routing::{
        admission::{check_limits, fault_refusal},
        route::Route,
    },
};

/// The most calls of a batch, as in the service.
const MAX_CALLS: usize = 100;
/// The boundary of the answer's parts.
const BOUNDARY: &str = "batch_dataflux_emulator";

/// A function that carries out one call.
pub(crate) type AnswerCall = fn(&EmulatorState, &Route, &ReceivedRequest) -> Reply;

/// Answers all calls of a batch. `answer_call` is passed in, because the function that carries out calls also carries
/// out batches.
pub(crate) fn batch(
    state: &EmulatorState,
    request: &ReceivedRequest,
    answer_call: AnswerCall,
) -> Result<Reply, Refusal> {
    let malformed =
        || Refusal::new(400, "badRequest", "Malformed batch: multipart/mixed of application/http is wanted.");
    let boundary = request.header("content-type").and_then(multipart::parse_boundary).ok_or_else(malformed)?;
    let parts = multipart::parse_parts(&request.body, &boundary).ok_or_else(malformed)?;
    if parts.is_empty() {
        return Err(malformed());
    }
    if parts.len() > MAX_CALLS {
        let message = format!("The batch has {} calls and at most {MAX_CALLS} are allowed.", parts.len());
        return Err(Refusal::new(400, "badRequest", message));
    }

    let (mut out, mut longest_delay) = (Vec::new(), Duration::ZERO);
    for part in &parts {
        let BatchedReply { reply, delay } = answer_part(state, request, &part.body, answer_call);
        longest_delay = longest_delay.max(delay);
        state.stats.count_status(reply.status);
        write_part(&mut out, &reply, part.header("content-id"));
    }
    out.extend_from_slice(format!("--{BOUNDARY}--\r\n").as_bytes());

    let mut reply = Reply::bytes(200, &format!("multipart/mixed; boundary={BOUNDARY}"), out);
    // The calls of a batch run side by side.
    reply.delay = Some(longest_delay);
    Ok(reply)
}

fn write_part(out: &mut Vec<u8>, reply: &Reply, content_id: Option<&str>) {
    out.extend_from_slice(format!("--{BOUNDARY}\r\nContent-Type: application/http\r\n").as_bytes());
    if let Some(id) = content_id {
        let id = id.trim_start_matches('<').trim_end_matches('>');
        out.extend_from_slice(format!("Content-ID: <response-{id}>\r\n").as_bytes());
    }
    let reason = StatusCode::from_u16(reply.status).ok().and_then(|status| status.canonical_reason());
    out.extend_from_slice(format!("\r\nHTTP/1.1 {} {}\r\n", reply.status, reason.unwrap_or("Unknown")).as_bytes());
    for (name, value) in &reply.headers {
        out.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    out.extend_from_slice(format!("content-length: {}\r\n\r\n", reply.body_len()).as_bytes());
    out.extend_from_slice(&reply.body());
    out.extend_from_slice(b"\r\n");
}

/// The answer to one call of a batch, and the delay that it alone would have.
struct BatchedReply {
    reply: Reply,
    delay: Duration,
}

fn answer_part(state: &EmulatorState, batch: &ReceivedRequest, part: &Bytes, answer_call: AnswerCall) -> BatchedReply {
    let BatchedCall { route, request } = match BatchedCall::parse(batch, part) {
        Ok(call) => call,
        Err(refusal) => return BatchedReply { reply: refusal.into(), delay: Duration::ZERO },
    };

    let call = route.call();
    state.stats.count_call(call);
    let delay = state.delay(call, 0);
    let fault = state.faults.decide_in_batch(call);
    if let Some((fault, refusal)) = fault.and_then(|fault| Some((fault, fault_refusal(fault)?))) {
        state.stats.count_fault(fault.name());
        return BatchedReply { reply: refusal.into(), delay };
    }

    let reply = match check_limits(state, &route, &request) {
        Ok(()) => answer_call(state, &route, &request),
        Err(refusal) => refusal.into(),
    };
    BatchedReply { reply, delay }
}

/// One call of a batch.
struct BatchedCall {
    route: Route,
    request: ReceivedRequest,
}

impl BatchedCall {
    /// Parses a part of a batch, whose headers apply unless the part has its own.
    fn parse(batch: &ReceivedRequest, part: &Bytes) -> Result<Self, Refusal> {
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
        let query = QueryParameters::parse(query);
        let route = Route::parse(&method, path, &query)?;
        if matches!(
            route,
            Route::Batch
                | Route::GetMedia(_)
                | Route::Upload(_)
                | Route::ContinueUpload
                | Route::CancelUpload
                | Route::Stats
                | Route::ResetStats
        ) {
            return Err(Refusal::new(400, "badRequest", "This call is not allowed in a batch."));
        }

        let mut headers: HeaderMap = batch.headers.clone();
        for (name, value) in multipart::parse_headers(rest).ok_or_else(malformed)? {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
        Ok(Self { route, request: ReceivedRequest { query, headers, body, is_complete: true } })
    }
}
