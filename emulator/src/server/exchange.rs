//! One request and its answer, with the delays and faults around the call.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{
    Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{HeaderName, HeaderValue},
};
use tokio::time::sleep;

use crate::{
    api::state::EmulatorState,
    http::{query::QueryParameters, reply::Reply, request::ReceivedRequest},
    locks::read,
    random,
    refusal::Refusal,
    routing::{
        admission::{check_limits, check_token, fault_refusal},
        dispatch::{answer_call, refuse_call},
        route::Route,
    },
    server::response_body::{BitFlip, BodyDamage, BodyStall, ResponseBody},
    traffic::{fault::Fault, stats::Call},
};

/// The error of a request that gets no answer: the connection must be reset.
#[derive(Debug)]
pub(crate) struct InjectedReset;

impl std::fmt::Display for InjectedReset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the connection is reset on purpose")
    }
}

impl std::error::Error for InjectedReset {}

/// Counts a request as in flight until it is dropped or handed over to the answer's body.
struct InFlightRequest(Option<Arc<EmulatorState>>);

impl InFlightRequest {
    fn enter(state: &Arc<EmulatorState>) -> Self {
        state.stats.enter_request();
        Self(Some(Arc::clone(state)))
    }

    /// Leaves it to the body of the answer to end the count.
    fn hand_over(mut self) {
        self.0 = None;
    }
}

impl Drop for InFlightRequest {
    fn drop(&mut self) {
        if let Some(state) = &self.0 {
            state.stats.leave_request();
        }
    }
}

/// Answers a request, after the delays and with the faults that apply to it.
pub(crate) async fn answer_request(
    state: Arc<EmulatorState>,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, InjectedReset> {
    let query = QueryParameters::parse(request.uri().query().unwrap_or_default());
    let route = Route::parse(request.method(), request.uri().path(), &query);
    let call = route.as_ref().map_or(Call::Other, Route::call);
    let in_flight = InFlightRequest::enter(&state);
    let request = receive(request, query, &state).await;

    if let Ok(route @ (Route::Stats | Route::ResetStats)) = &route {
        // Requests for the counters are not counted.
        let reply = answer_call(&state, route, &request);
        in_flight.hand_over();
        return Ok(into_response(state, reply, BodyDamage::default(), None));
    }

    state.stats.count_call(call);
    let fault = state.faults.decide(call);
    if let Some(fault) = fault {
        state.stats.count_fault(fault.name());
    }
    if fault == Some(Fault::Reset) {
        return Err(InjectedReset);
    }

    let reply = match refuse_early(&state, route.as_ref().ok(), &request, fault) {
        Some(reply) => reply,
        None => match route {
            Ok(route) => carry_out(&state, route, request).await,
            Err(refusal) => refusal.into(),
        },
    };
    if fault == Some(Fault::LostResponse) {
        return Err(InjectedReset);
    }

    state.stats.count_status(reply.status);
    let damage = match fault {
        Some(Fault::Stall) if call != Call::GetMedia || reply.body_len() <= 1 => {
            pause(state.faults.stall_length()).await;
            BodyDamage::default()
        }
        Some(fault) => body_damage(&state, fault, reply.body_len()),
        None => BodyDamage::default(),
    };
    let rate = if call == Call::GetMedia { read(&state.profile).bytes_per_second() } else { None };
    in_flight.hand_over();
    Ok(into_response(state, reply, damage, rate))
}

/// Sleeps, unless the time is zero: even a timer that fires at once takes a system call.
async fn pause(length: Duration) {
    if !length.is_zero() {
        sleep(length).await;
    }
}

/// Receives the whole body of a request.
async fn receive(request: Request<Incoming>, query: QueryParameters, state: &EmulatorState) -> ReceivedRequest {
    let (parts, mut body) = request.into_parts();
    let (mut pieces, mut size, mut is_complete) = (Vec::new(), 0, true);
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                size += data.len();
                state.stats.bytes_received.fetch_add(data.len() as u64, Ordering::Relaxed);
                pieces.push(data);
            }
            // Trailers are ignored.
            Ok(Err(_)) => {}
            Err(_) => {
                is_complete = false;
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
    ReceivedRequest { query, headers: parts.headers, body, is_complete }
}

/// The answer to a request that is refused before its call has any effect.
fn refuse_early(
    state: &EmulatorState,
    route: Option<&Route>,
    request: &ReceivedRequest,
    fault: Option<Fault>,
) -> Option<Reply> {
    let refuse = |refusal: Refusal| match route {
        Some(route) => refuse_call(route, refusal),
        None => refusal.into(),
    };
    if let Err(refusal) = check_token(state, request) {
        return Some(refuse(refusal));
    }
    if let Some(refusal) = fault.and_then(fault_refusal) {
        let reply = refuse(refusal);
        return Some(match state.faults.retry_after() {
            Some(seconds) => reply.with_header("retry-after", seconds.to_string()),
            None => reply,
        });
    }
    check_limits(state, route?, request).err().map(refuse)
}

/// Carries out a call in the time that it takes. As in the service, a change takes effect even if the client has
/// disconnected by then.
async fn carry_out(state: &Arc<EmulatorState>, route: Route, request: ReceivedRequest) -> Reply {
    let call = route.call();
    if call == Call::Batch || !call.is_mutation() {
        let reply = answer_call(state, &route, &request);
        let delay = reply.delay.unwrap_or_else(|| state.delay(call, reply.items));
        pause(delay).await;
        return reply;
    }

    let (state, delay) = (Arc::clone(state), state.delay(call, 0));
    let work = tokio::spawn(async move {
        pause(delay).await;
        answer_call(&state, &route, &request)
    });
    work.await.unwrap_or_else(|_| Refusal::unavailable().into())
}

/// How a fault damages a body of `length` bytes.
fn body_damage(state: &EmulatorState, fault: Fault, length: u64) -> BodyDamage {
    let draw = |bound: u64| random::mix(random::mix(state.seed) ^ state.next_draw()) % bound.max(1);
    let none = BodyDamage::default();
    match fault {
        Fault::Stall => {
            let stall = BodyStall { offset: length / 2, length: state.faults.stall_length() };
            BodyDamage { stall: Some(stall), ..none }
        }
        Fault::Short => BodyDamage { end_at: Some(draw(length)), hides_length: true, ..none },
        Fault::Cut => BodyDamage { end_at: Some(draw(length)), ends_in_reset: true, ..none },
        Fault::Flip if length > 0 => {
            BodyDamage { flip: Some(BitFlip { offset: draw(length), bit: draw(8) as u8 }), ..none }
        }
        _ => none,
    }
}

fn into_response(
    state: Arc<EmulatorState>,
    reply: Reply,
    mut damage: BodyDamage,
    bytes_per_second: Option<f64>,
) -> Response<ResponseBody> {
    damage.hides_length |= reply.has_unknown_length;
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = ResponseBody::new(state, reply.content, reply.start..reply.end, damage, bytes_per_second);
    let mut response = Response::new(body);
    *response.status_mut() = status;

    let headers = response.headers_mut();
    for (name, value) in reply.headers {
        // Some values are attributes of objects. One that cannot be a header's value is left out.
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
