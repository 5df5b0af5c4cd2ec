//! A request before its route's limits: asked, made to wait, or answered in their name.
//!
//! It must come before the breaker: a probe that a limit refused would never be settled.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox_policy::config::Mode;
use http::{Request, Response};
use hyper::body::Incoming;

use super::Manner;
use super::logged::Logged;
use super::refusing::discard;
use super::response_body::ResponseBody;
use crate::listener::caller::Caller;
use crate::rate_limit::key::Subject;
use crate::rate_limit::{Asked, Later, Limiter, Passed, Refused};
use crate::series::Ending;
use crate::snapshot::Rule;

/// Asks the limits of the request's route.
pub(super) fn ask(caller: &Caller, limiter: &Arc<Limiter>, request: (&Rule, &Manner, &Request<Incoming>)) -> Asked {
    let (rule, manner, request) = request;
    limiter.ask(&subject(caller, request), (manner.started, left(rule, manner)))
}

/// Waits for the request's turn. What it waits is part of its time.
pub(super) async fn wait(waiting: (Box<Later>, &mut Manner), subject: Subject<'_>) -> Result<Passed, Box<Refused>> {
    let (later, manner) = waiting;
    let settled = Box::pin(later.settle(subject, manner.started)).await;
    if settled.as_ref().is_ok_and(|passed| passed.has_waited) {
        manner.admitted = Instant::now();
    }
    settled
}

/// Answers in the name of the limit.
pub(super) fn refuse(
    place: (&Caller, &Rule),
    refused: &Refused,
    request: (Request<Incoming>, Logged),
) -> (Response<ResponseBody>, Logged) {
    let ((caller, rule), (request, mut logged)) = (place, request);
    logged.is_limited(refused, &rule.target);
    let response = refused.answer(&rule.target);
    rule.series.record(Ending::RateLimited, response.status().as_u16(), Duration::ZERO);
    if refused.begins_block {
        caller.enforcer.limits_changed();
    }
    discard(request, caller);
    (response, logged)
}

/// What of the request limits are counted by.
pub(super) fn subject<'a>(caller: &Caller, request: &'a Request<Incoming>) -> Subject<'a> {
    Subject {
        method: request.method().as_str(),
        path: request.uri().path(),
        query: request.uri().query(),
        headers: request.headers(),
        peer: caller.hop.signed_peer(),
    }
}

/// For how long the request may wait at most: its rule's time and its caller's patience count from its start.
fn left(rule: &Rule, manner: &Manner) -> Option<Duration> {
    let enforced = rule.guard.as_ref().is_some_and(|guard| guard.mode == Mode::Enforce);
    let timeout = rule.timeout.filter(|_| enforced);
    match (timeout, manner.patience) {
        (Some(timeout), Some(patience)) => Some(timeout.min(patience)),
        (timeout, patience) => timeout.or(patience),
    }
}
