//! One request: normalise, classify, admit, deadline, upstream, settle.
//!
//! It must not hold a lock or a configuration while it waits: the rule it goes by is taken once, and
//! a new configuration meets the next request.

pub(crate) mod exchange;
pub(crate) mod gate;
pub(crate) mod hop;
pub(crate) mod normalize;
pub(crate) mod problem;
pub(crate) mod request_body;
pub(crate) mod response_body;
mod retry_after;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox_policy::circuit_breaker::Refusal;
use fusebox_policy::config::ForcedState;
use fusebox_policy::report::BreakerState;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use tokio::time::Sleep;

use self::exchange::Exchange;
use self::gate::Gate;
use self::hop::Hop;
use self::problem::Place;
use self::request_body::{ClientBody, RequestBody};
use self::response_body::{Passage, ResponseBody};
use crate::enforcer::Enforcer;
use crate::series::Ending;
use crate::snapshot::{Guard, Route, Rule};
use crate::upstream::{self, Lease, UpstreamError};

/// How much of a refused request's body is read and thrown away, so that its connection can be kept.
pub(crate) const MAX_DRAIN_BYTES: u64 = 256 << 10;

/// How long that may take.
pub(crate) const MAX_DRAIN_TIME: Duration = Duration::from_secs(1);

/// How many Services the answer to an unknown Host names.
const MAX_NAMED_SERVICES: usize = 10;

type Sending = Result<(Response<Incoming>, Lease), UpstreamError>;

/// Answers one request that arrived on listener `index`, over the connection `hop`.
pub(crate) async fn handle(
    enforcer: Arc<Enforcer>,
    (index, hop): (usize, Hop),
    mut request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Infallible> {
    let started = Instant::now();
    if let Err(error) = normalize::request(&mut request, &hop) {
        enforcer.counters().invalid_request();
        return Ok(problem::bad_request(error));
    }
    let Some(rule) = classify(&enforcer, index, &request) else {
        return Ok(unknown_host(&enforcer, request));
    };
    match gate::ask(&enforcer, &rule, started) {
        Gate::Pass(pass) => {
            let exchange = Exchange::begin(enforcer, rule, pass, started);
            Ok(forward(exchange, request, started).await)
        }
        Gate::NoAddress => {
            discard(request);
            Ok(problem::no_address(place(&rule)))
        }
        Gate::Refuse(refusal) => {
            let response = refuse(&rule, &refusal, request.method());
            rule.series.record(Ending::Refused, response.status().as_u16(), Duration::ZERO);
            discard(request);
            Ok(response)
        }
    }
}

/// The rule that the request goes by, from one load of the configuration.
fn classify(enforcer: &Enforcer, index: usize, request: &Request<Incoming>) -> Option<Arc<Rule>> {
    let snapshot = enforcer.snapshot();
    let route = snapshot.route(index, request.headers())?;
    first_match(route, request).cloned()
}

fn first_match<'a>(route: &'a Route, request: &Request<Incoming>) -> Option<&'a Arc<Rule>> {
    let method = request.method().as_str();
    let path = request.uri().path();
    let headers = request.headers();
    route.rules.iter().find(|rule| match &rule.matcher {
        Some(matcher) => matcher.matches(method, path, |name| values(headers, name)),
        None => true,
    })
}

fn values<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> + use<'a> {
    headers.get_all(name).into_iter().map(HeaderValue::as_bytes)
}

/// Sends the request on and passes the answer back, or says what went wrong.
async fn forward(mut exchange: Exchange, request: Request<Incoming>, started: Instant) -> Response<ResponseBody> {
    let rule = Arc::clone(exchange.rule());
    let (parts, body) = request.into_parts();
    let (body, client) = RequestBody::new(body);
    let mut request = Request::from_parts(parts, body);
    normalize::frame(&mut request);
    let mut deadline = rule.timeout.map(|timeout| Box::pin(tokio::time::sleep_until((started + timeout).into())));
    let endpoint = exchange.endpoint();
    let pools = gate::pools(&rule, endpoint.as_deref());
    let mut sending = std::pin::pin!(upstream::send(pools, request, started));
    let mut sent = within(&mut deadline, sending.as_mut()).await;
    if sent.is_none() && exchange.overdue_in_shadow(client.as_deref(), Instant::now()) {
        deadline = None;
        sent = Some(sending.await);
    }
    match sent {
        Some(Ok((response, _))) if response.status() == StatusCode::SWITCHING_PROTOCOLS => {
            // Nobody asked for it: the Upgrade header was not passed on.
            failed(exchange, Ending::Reset, client.as_deref())
        }
        Some(Ok((response, _))) if normalize::is_ambiguous(response.headers()) => {
            failed(exchange, Ending::Reset, client.as_deref())
        }
        Some(Ok((mut response, lease))) => {
            exchange.head(response.status().as_u16(), response.headers());
            normalize::response(&mut response);
            response.map(|body| ResponseBody::Upstream(Passage::new(body, exchange, (lease, client), deadline)))
        }
        Some(Err(error)) => {
            tracing::debug!(target_service = %rule.target, error = &error as &dyn std::error::Error, "upstream failed");
            let ending = match error {
                UpstreamError::Unknown | UpstreamError::Connect { .. } => Ending::ConnectFailure,
                UpstreamError::Reset { .. } => Ending::Reset,
            };
            failed(exchange, ending, client.as_deref())
        }
        None => failed(exchange, Ending::Timeout, client.as_deref()),
    }
}

/// What `sending` brings, or nothing when the time is over first.
async fn within(deadline: &mut Option<Pin<Box<Sleep>>>, sending: impl Future<Output = Sending>) -> Option<Sending> {
    match deadline {
        None => Some(sending.await),
        Some(deadline) => tokio::select! {
            biased;
            sent = sending => Some(sent),
            () = deadline => None,
        },
    }
}

fn failed(exchange: Exchange, ending: Ending, client: Option<&ClientBody>) -> Response<ResponseBody> {
    let rule = Arc::clone(exchange.rule());
    let blamed = ending.blaming(client);
    let response = match (blamed, ending) {
        (Ending::ClientAbort, Ending::Timeout) => problem::slow_client(place(&rule)),
        (Ending::ClientAbort, _) => problem::client_abort(place(&rule)),
        (Ending::Timeout, _) => problem::timeout(place(&rule), rule.timeout.unwrap_or_default()),
        (Ending::ConnectFailure, _) => problem::connect_failure(place(&rule)),
        (Ending::Answered | Ending::Refused | Ending::Reset, _) => problem::reset(place(&rule)),
    };
    exchange.failed(blamed, response.status().as_u16(), Instant::now());
    response
}

fn refuse(rule: &Rule, refusal: &Refusal, method: &Method) -> Response<ResponseBody> {
    let Some(guard) = &rule.guard else { return problem::reset(place(rule)) };
    let (state, header) = refusal_words(guard, refusal);
    if let Some(fallback) = &guard.fallback {
        return fallback.answer(method, header).map(ResponseBody::Local);
    }
    problem::refused(place(rule), state, header, refusal.retry_after)
}

fn refusal_words<'a>(guard: &'a Guard, refusal: &Refusal) -> (&'static str, &'a HeaderValue) {
    match (refusal.forced, refusal.state) {
        (Some(ForcedState::ForcedOpen | ForcedState::ForcedClosed), _) => ("forced-open", &guard.refusal.forced),
        (None, BreakerState::HalfOpen) => ("half-open", &guard.refusal.half_open),
        (None, BreakerState::Open) => ("open", &guard.refusal.open),
        (None, BreakerState::Closed) => ("recovering", &guard.refusal.recovering),
    }
}

fn place(rule: &Rule) -> Place<'_> {
    Place {
        policy: rule.guard.as_ref().map_or("", |guard| &guard.policy),
        target: &rule.target,
        rule: &rule.series.labels().rule,
    }
}

fn unknown_host(enforcer: &Enforcer, request: Request<Incoming>) -> Response<ResponseBody> {
    enforcer.counters().invalid_request();
    discard(request);
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
fn discard(request: Request<Incoming>) {
    let waits = request.headers().contains_key(header::EXPECT);
    let mut body = request.into_body();
    if body.is_end_stream() || waits || body.size_hint().lower() > MAX_DRAIN_BYTES {
        return;
    }
    tokio::spawn(tokio::time::timeout(MAX_DRAIN_TIME, async move {
        let mut left = MAX_DRAIN_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, bytes::Bytes::len) as u64;
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    }));
}
