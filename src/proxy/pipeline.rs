//! One request: normalise, classify, limit, admit, deadline, upstream, settle.
//!
//! It must not hold a lock or a configuration while it waits: the rule it goes by is taken once, and
//! a new configuration meets the next request.

pub(crate) mod deadline;
pub(crate) mod exchange;
pub(crate) mod gate;
pub(crate) mod grpc;
pub(crate) mod hop;
pub(crate) mod interim;
mod limited;
mod logged;
pub(crate) mod normalize;
mod outgoing;
pub(crate) mod own_refusals;
pub(crate) mod problem;
mod refusing;
pub(crate) mod request_body;
pub(crate) mod response_body;
mod retry_after;
mod upgrade;

use std::convert::Infallible;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::HeaderValue;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use hyper::body::{Body, Incoming};

use self::deadline::{Deadline, Whose};
use self::exchange::Exchange;
use self::gate::Gate;
use self::logged::Logged;
use self::normalize::BadRequest;
use self::outgoing::{outgoing, with_deadline};
use self::problem::Place;
use self::refusing::{discard, refusal_words, refuse, unknown_host};
use self::request_body::ClientBody;
use self::response_body::{Passage, ResponseBody, Served};
use self::upgrade::Upgrade;
use crate::listener::activity::Activity;
use crate::listener::caller::Caller;
use crate::rate_limit::{Asked, Limiter, Passed};
use crate::series::Ending;
use crate::snapshot::{Route, Rule};
use crate::upstream::{self, Lease, UpstreamError};

type Sending = Result<(Response<Incoming>, Lease), UpstreamError>;

/// How a request is to be passed on, as its head said before it was made fit for the upstream.
struct Manner {
    version: Version,
    started: Instant,
    /// When limits let it pass: later than its start only where it waited.
    admitted: Instant,
    /// How long a gRPC caller waits.
    patience: Option<Duration>,
    upgrade: Option<Upgrade>,
}

/// Answers one request of `caller`.
pub(crate) fn handle(
    caller: Arc<Caller>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Served>, Infallible>> {
    // Not with the first poll: before it hyper reads on, and would take the end of a client's sending for its end.
    let in_flight = caller.activity.begin();
    if !request.body().is_end_stream() {
        caller.activity.begin_body();
    }
    async move {
        let is_grpc = request.version() == Version::HTTP_2 && grpc::is_grpc(request.headers());
        let (answer, logged) = answer(&caller, request).await;
        let passing = logged.answer(&answer);
        let answer = if is_grpc { grpc::in_headers_only(answer) } else { answer };
        Ok(answer.map(|body| Served::new(body, in_flight, passing)))
    }
}

async fn answer(caller: &Arc<Caller>, mut request: Request<Incoming>) -> (Response<ResponseBody>, Logged) {
    let enforcer = &caller.enforcer;
    let mut manner = Manner::of(&request);
    let normal = normalize::request(&mut request, &caller.hop);
    let mut logged = Logged::begin(caller, &mut request, (manner.version, manner.started));
    if let Err(error) = normal {
        enforcer.counters().invalid_request();
        if error == BadRequest::Loop {
            enforcer.own_refusals().note(caller.hop.peer(), manner.started);
        }
        return (problem::bad_request(error), logged);
    }
    let Some((rule, limiter)) = classify(caller, &request) else {
        return (unknown_host(caller, request), logged);
    };
    let asked = limiter.as_ref().map(|limiter| limited::ask(caller, limiter, (&rule, &manner, &request)));
    let passed = match asked {
        None => Ok(Passed::default()),
        Some(Asked::Pass(passed)) => Ok(passed),
        Some(Asked::Refuse(refused)) => Err(refused),
        Some(Asked::Later(later)) => limited::wait((later, &mut manner), limited::subject(caller, &request)).await,
    };
    let passed = match passed {
        Ok(passed) => passed,
        Err(refused) => return limited::refuse((caller, &rule), &refused, (request, logged)),
    };
    logged.goes(place(&rule));
    logged.is_limited_in_shadow(&passed);
    let mut response = match gate::ask(caller, &rule, manner.admitted) {
        Gate::Pass(pass) => {
            logged.passes(&rule, &pass);
            let exchange = Exchange::begin(Arc::clone(enforcer), rule, pass, (manner.started, manner.admitted));
            forward(exchange, request, (caller, manner)).await
        }
        Gate::NoAddress => {
            discard(request, caller);
            problem::no_address(place(&rule))
        }
        Gate::Refuse(refusal) => {
            if let Some(guard) = &rule.guard {
                logged.is_refused(refusal_words(guard, &refusal).0);
            }
            let response = refuse(&rule, &refusal, &request);
            rule.series.record(Ending::Refused, response.status().as_u16(), Duration::ZERO);
            discard(request, caller);
            response
        }
    };
    passed.tell(response.headers_mut());
    (response, logged)
}

impl Manner {
    /// Reads it off the head.
    fn of(request: &Request<Incoming>) -> Self {
        let version = request.version();
        let is_http2 = version == Version::HTTP_2;
        let patience = if is_http2 { grpc::timeout(request.headers()) } else { None };
        let upgrade = if is_http2 { None } else { Upgrade::asked(request) };
        let started = Instant::now();
        Self { version, started, admitted: started, patience, upgrade }
    }
}

/// The rule that the request goes by and the limits before it, from one load of the configuration.
fn classify(caller: &Caller, request: &Request<Incoming>) -> Option<(Arc<Rule>, Option<Arc<Limiter>>)> {
    let snapshot = caller.enforcer.snapshot();
    match caller.way.route(&snapshot, request.headers()) {
        Some(route) => first_match(route, request).map(|rule| (Arc::clone(rule), route.limiter.clone())),
        None => caller.way.untouched(&caller.enforcer).map(|rule| (rule, None)),
    }
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
async fn forward(
    mut exchange: Exchange,
    request: Request<Incoming>,
    around: (&Arc<Caller>, Manner),
) -> Response<ResponseBody> {
    let (caller, manner) = around;
    let rule = Arc::clone(exchange.rule());
    let started = manner.started;
    let (request, client) = outgoing(request, caller, &manner);
    let request = with_deadline(request, &rule, manner.patience);
    let mut deadline = Deadline::new(started, rule.timeout, manner.patience, &caller.timer);
    let endpoint = exchange.endpoint();
    let pools = gate::pools(caller, &rule, endpoint.as_deref());
    let mut sending = std::pin::pin!(upstream::send(pools, request, manner.admitted));
    let activity = &caller.activity;
    let mut sent = within(&mut deadline, activity, sending.as_mut()).await;
    if matches!(sent, Err(Whose::Rule)) && exchange.overdue_in_shadow(client.as_deref(), Instant::now()) {
        deadline = deadline.and_then(Deadline::without_rule);
        sent = within(&mut deadline, activity, sending).await;
    }
    match sent {
        Ok(Ok((response, lease))) if upgrade::is_switch(&manner, &response) => {
            Box::pin(upgrade::switch(exchange, (response, lease), (caller, manner.upgrade))).await
        }
        Ok(Ok((response, _))) if normalize::is_ambiguous(response.headers()) => {
            failed(exchange, Ending::Reset, client.as_deref())
        }
        Ok(Ok((mut response, lease))) => {
            if is_own_refusal(&response, &lease, caller) {
                exchange.is_own_refusal(Instant::now());
            }
            exchange.head(&response);
            normalize::response(&mut response);
            response.map(|body| ResponseBody::Upstream(Passage::new(body, exchange, (lease, client), deadline)))
        }
        Ok(Err(error)) => {
            tracing::debug!(target_service = %rule.target, error = &error as &dyn std::error::Error, "upstream failed");
            let ending = match error {
                UpstreamError::Unknown | UpstreamError::Connect { .. } => Ending::ConnectFailure,
                UpstreamError::Reset { .. } | UpstreamError::Interim => Ending::Reset,
            };
            failed(exchange, ending, client.as_deref())
        }
        Err(Whose::Rule) => failed(exchange, Ending::Timeout, client.as_deref()),
        Err(Whose::Caller) => {
            let response = problem::timeout(place(&rule), manner.patience.unwrap_or_default());
            exchange.failed(Ending::ClientAbort, response.status().as_u16(), Instant::now());
            response
        }
    }
}

/// What `sending` brings, or whose time was over first.
async fn within(
    deadline: &mut Option<Deadline>,
    activity: &Activity,
    sending: impl Future<Output = Sending>,
) -> Result<Sending, Whose> {
    let mut sending = std::pin::pin!(sending);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(sent) = sending.as_mut().poll(cx) {
            return Poll::Ready(Ok(sent));
        }
        if activity.interims() > interim::MAX_INTERIM {
            return Poll::Ready(Ok(Err(UpstreamError::Interim)));
        }
        match deadline {
            Some(deadline) => deadline.poll(cx).map(|()| Err(deadline.whose())),
            None => Poll::Pending,
        }
    })
    .await
}

fn failed(exchange: Exchange, ending: Ending, client: Option<&ClientBody>) -> Response<ResponseBody> {
    let rule = Arc::clone(exchange.rule());
    let blamed = ending.blaming(client);
    let response = match (blamed, ending) {
        (Ending::ClientAbort, Ending::Timeout) => problem::slow_client(place(&rule)),
        (Ending::ClientAbort, _) if client.is_some_and(ClientBody::is_silent) => problem::slow_client(place(&rule)),
        (Ending::ClientAbort, _) => problem::client_abort(place(&rule)),
        (Ending::Timeout, _) => problem::timeout(place(&rule), rule.timeout.unwrap_or_default()),
        (Ending::ConnectFailure, _) => problem::connect_failure(place(&rule)),
        (Ending::Answered | Ending::Refused | Ending::RateLimited | Ending::Reset, _) => problem::reset(place(&rule)),
    };
    exchange.failed(blamed, response.status().as_u16(), Instant::now());
    response
}

/// Whether this proxy itself gave this answer, to a request that came round to it. Who is further out is told too.
fn is_own_refusal<B>(response: &Response<B>, lease: &Lease, caller: &Caller) -> bool {
    if response.status() != StatusCode::LOOP_DETECTED && !response.headers().contains_key(grpc::STATUS) {
        return false;
    }
    let (refusals, now) = (caller.enforcer.own_refusals(), Instant::now());
    let own = lease.local().is_some_and(|local| refusals.take(local, now));
    if own {
        refusals.note(caller.hop.peer(), now);
    }
    own
}

fn place(rule: &Rule) -> Place<'_> {
    Place {
        policy: rule.guard.as_ref().map_or("", |guard| &guard.policy),
        target: &rule.target,
        rule: &rule.series.labels().rule,
    }
}
