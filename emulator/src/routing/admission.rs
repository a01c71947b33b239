//! Checks before a call is carried out: the token, the rate limits, and faults that are error answers.

use crate::{
    api::state::EmulatorState,
    http::request::ReceivedRequest,
    locks::{lock, read},
    refusal::{Refusal, RefusalLocation},
    routing::route::Route,
    traffic::{fault::Fault, stats::Call},
};

/// Refuses a request without the token, if one is required.
pub(crate) fn check_token(state: &EmulatorState, request: &ReceivedRequest) -> Result<(), Refusal> {
    let token = read(&state.token);
    let Some(token) = token.as_deref() else { return Ok(()) };
    let (reason, message) = match request.header("authorization") {
        Some(value) if value.strip_prefix("Bearer ") == Some(token) => return Ok(()),
        Some(_) => ("authError", "Invalid Credentials"),
        None => ("required", "Anonymous caller does not have access to the requested resource."),
    };
    Err(Refusal::new(401, reason, message).at(RefusalLocation::Header("Authorization")))
}

/// Counts a call against the limits of its bucket. Refuses a call that exceeds one.
pub(crate) fn check_limits(state: &EmulatorState, route: &Route, request: &ReceivedRequest) -> Result<(), Refusal> {
    let call = route.call();
    let profile = read(&state.profile);
    let target = route.limited_target();
    let Some(bucket) = target.bucket.and_then(|name| state.buckets.bucket(name)) else { return Ok(()) };

    let now = state.started.elapsed();
    let mut limits = lock(&bucket.limits);
    if !call.is_mutation() {
        if limits.admit_read(now, profile.scale_rate(profile.reads_per_s)) {
            return Ok(());
        }
        return Err(Refusal::rate_limited(format!(
            "The rate of requests that read from bucket {} exceeds its limit. Please reduce your request rate.",
            bucket.name
        )));
    }

    if !limits.admit_write(now, profile.scale_rate(profile.writes_per_s)) {
        return Err(Refusal::rate_limited(format!(
            "The rate of requests that write to bucket {} exceeds its limit. Please reduce your request rate.",
            bucket.name
        )));
    }
    // An upload names its object in a parameter.
    let written_name = if call == Call::Insert { request.query.get("name") } else { target.written_name };
    if let Some(name) = written_name
        && !limits.admit_name_write(name, now, profile.scale_rate(profile.name_writes_per_s))
    {
        return Err(Refusal::rate_limited(format!(
            "The object {}/{name} exceeded the rate limit for object mutation operations (create, update, and delete). \
             Please reduce your request rate.",
            bucket.name
        )));
    }
    Ok(())
}

/// The refusal of a fault that is an error answer; `None` for other faults.
pub(crate) fn fault_refusal(fault: Fault) -> Option<Refusal> {
    match fault {
        Fault::Error => Some(Refusal::unavailable()),
        Fault::TooManyRequests => {
            Some(Refusal::rate_limited("The rate of requests exceeds the limit. Please reduce your request rate."))
        }
        Fault::Status(status) => Some(Refusal { status, ..Refusal::unavailable() }),
        _ => None,
    }
}
