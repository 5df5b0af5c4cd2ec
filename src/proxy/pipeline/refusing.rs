//! Requests that go nowhere: what the breaker refused or no route takes, and what becomes of their bodies.
//!
//! It must not leave a body unread on a connection that is kept: the next request would begin in the middle of it.

use std::time::Duration;

use fusebox_policy::circuit_breaker::Refusal;
use fusebox_policy::config::ForcedState;
use fusebox_policy::report::BreakerState;
use http::header::{self, HeaderValue};
use http::{Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};

use super::response_body::ResponseBody;
use super::{grpc, place, problem};
use crate::listener::caller::Caller;
use crate::snapshot::{Guard, Rule};

/// How much of a refused request's body is read and thrown away, so that its connection can be kept.
const MAX_DRAIN_BYTES: u64 = 256 << 10;

/// How long that may take.
const MAX_DRAIN_TIME: Duration = Duration::from_secs(1);

/// How many Services the answer to an unknown Host names.
const MAX_NAMED_SERVICES: usize = 10;

/// The policy's fixed answer, or else a problem document; a gRPC caller could read nothing of the former.
pub(super) fn refuse(rule: &Rule, refusal: &Refusal, request: &Request<Incoming>) -> Response<ResponseBody> {
    let Some(guard) = &rule.guard else { return problem::reset(place(rule)) };
    let (state, header) = refusal_words(guard, refusal);
    if let Some(fallback) = guard.fallback.as_ref().filter(|_| !grpc::is_grpc(request.headers())) {
        return fallback.answer(request.method(), header).map(ResponseBody::Local);
    }
    problem::refused(place(rule), state, header, refusal.retry_after)
}

/// What refused, for people, and the header that says so.
pub(super) fn refusal_words<'a>(guard: &'a Guard, refusal: &Refusal) -> (&'static str, &'a HeaderValue) {
    match (refusal.forced, refusal.state) {
        (Some(ForcedState::ForcedOpen | ForcedState::ForcedClosed), _) => ("forced-open", &guard.refusal.forced),
        (None, BreakerState::HalfOpen) => ("half-open", &guard.refusal.half_open),
        (None, BreakerState::Open) => ("open", &guard.refusal.open),
        (None, BreakerState::Closed) => ("recovering", &guard.refusal.recovering),
    }
}

/// The answer to a Host that is no Service's name.
pub(super) fn unknown_host(caller: &Caller, request: Request<Incoming>) -> Response<ResponseBody> {
    let enforcer = &caller.enforcer;
    enforcer.counters().invalid_request();
    discard(request, caller);
    let snapshot = enforcer.snapshot();
    let mut names: Vec<String> = snapshot
        .by_host
        .iter()
        .flat_map(|(namespace, services)| services.keys().map(move |service| format!("{service}.{namespace}")))
        .collect();
    names.sort_unstable();
    names.truncate(MAX_NAMED_SERVICES);
    problem::no_route(&names.join(", "))
}

/// Reads a bounded part of a body nobody wants, so that the client can use its connection again. Where the
/// client still waits for leave to send it, the connection is closed instead.
pub(super) fn discard(request: Request<Incoming>, caller: &Caller) {
    let waits = request.headers().contains_key(header::EXPECT);
    let mut body = request.into_body();
    if body.is_end_stream() || waits || body.size_hint().lower() > MAX_DRAIN_BYTES {
        return;
    }
    let open = caller.activity.begin_body();
    tokio::spawn(tokio::time::timeout(MAX_DRAIN_TIME, async move {
        let mut left = MAX_DRAIN_BYTES;
        loop {
            match body.frame().await {
                None => return open.complete(),
                Some(Err(_)) => return,
                Some(Ok(frame)) => {
                    let length = frame.data_ref().map_or(0, bytes::Bytes::len) as u64;
                    let Some(rest) = left.checked_sub(length) else { return };
                    left = rest;
                }
            }
        }
    }));
}
