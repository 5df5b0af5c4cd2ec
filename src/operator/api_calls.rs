//! Calls of the API server: clients that share one budget, with metrics and a span for each call.
//!
//! While the API server answers with errors, all clients together make less than ten calls a
//! second. kube's own retries are switched off, since they would go on for minutes behind our back;
//! the lease has a client of its own, because an election must not wait in this line.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures::FutureExt;
use http::{Method, Request, Response, StatusCode};
use kube::client::{Body, ClientBuilder};
use kube::{Client, Config};
use parking_lot::Mutex;
use tokio::time::Sleep;
use tower::{Layer, Service};
use tracing::Instrument;

use crate::bucket::{Allowance, Bucket};
use crate::fence;
use crate::health::{Component, Health, Status};
use crate::lease::Leadership;
use crate::metrics::Metrics;

/// A call on whose connection nothing arrives for this long has failed.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Longer than any watch is silent; lists and watches that hang end by it.
pub const WATCH_READ_TIMEOUT: Duration = Duration::from_secs(50);

/// The same for watches of single objects, which last longer because there are many.
pub const REFERENCE_READ_TIMEOUT: Duration = Duration::from_secs(110);

/// What is allowed while the API server answers.
const USUAL: Allowance = Allowance { burst: 100, every: Duration::from_millis(10) };

/// What is allowed while it does not: with the lease's own calls, under ten a second.
const STRAINED: Allowance = Allowance { burst: 1, every: Duration::from_millis(150) };

/// Good answers in a row that end the strain.
const CALM_AFTER: u32 = 10;

/// The clients.
#[derive(Clone)]
pub struct Clients {
    /// For watches and lists.
    pub watch: Client,
    /// For watches of what policies name.
    pub references: Client,
    /// For what every replica may ask at any time.
    pub call: Client,
    /// For writes that only the leader may make.
    pub write: Client,
}

/// What all calls have in common; cheap to clone, one shared content.
#[derive(Clone, Debug)]
pub struct CallBudget {
    line: Arc<Mutex<Line>>,
    health: Health,
    metrics: Metrics,
}

/// The budget itself, with time as an argument.
#[derive(Debug)]
struct Line {
    bucket: Bucket,
    /// Good answers that are still needed before calls are made as usual; 0 is usual.
    strain: u32,
}

/// Lets calls through as the budget allows.
#[derive(Debug)]
pub struct Gate<S> {
    inner: S,
    budget: CallBudget,
    turn: Option<Pin<Box<Sleep>>>,
}

type Answer<R, E> = Pin<Box<dyn Future<Output = Result<R, E>> + Send>>;

impl Clients {
    /// All clients, of one budget; that for writes asks `leadership`.
    ///
    /// # Errors
    /// When the configuration's certificates or addresses can't be used.
    pub fn new(config: &Config, budget: &CallBudget, leadership: &Leadership) -> Result<Self, kube::Error> {
        Ok(Self {
            watch: client(config, budget, WATCH_READ_TIMEOUT)?,
            references: client(config, budget, REFERENCE_READ_TIMEOUT)?,
            call: client(config, budget, CALL_TIMEOUT)?,
            write: fence::client(config, leadership)?.with_layer(budget).build(),
        })
    }
}

fn client(config: &Config, budget: &CallBudget, read_timeout: Duration) -> Result<Client, kube::Error> {
    let mut config = config.clone();
    config.default_retry = false;
    config.connect_timeout = Some(CALL_TIMEOUT);
    config.read_timeout = Some(read_timeout);
    config.reset_reader_on_write = true;
    Ok(ClientBuilder::try_from(config)?.with_layer(budget).build())
}

impl CallBudget {
    /// A budget that is not strained.
    #[must_use]
    pub fn new(health: Health, metrics: Metrics) -> Self {
        let line = Line { bucket: Bucket::new(USUAL, Instant::now()), strain: 0 };
        Self { line: Arc::new(Mutex::new(line)), health, metrics }
    }

    fn answered(&self, method: &Method, code: Option<StatusCode>) {
        let label = code.map_or("none".to_owned(), |code| code.as_u16().to_string());
        self.metrics.api_requests.with_label_values(&[method.as_str(), &label]).inc();
        let strained = self.line.lock().answered(is_failure(code), Instant::now());
        let status = match (strained, code) {
            (false, _) => Status::healthy(),
            (true, None) => Status::unhealthy("the API server can't be reached"),
            (true, Some(code)) => Status::degraded(format!("the API server answers {}", code.as_u16())),
        };
        // A strain that is only ending keeps the word on why it began.
        if is_failure(code) || !strained {
            self.health.set(Component::Api, status);
        }
    }
}

/// Whether the API server itself is in trouble; a refusal of one object is not that.
fn is_failure(code: Option<StatusCode>) -> bool {
    code.is_none_or(|code| code == StatusCode::TOO_MANY_REQUESTS || code.is_server_error())
}

impl Line {
    /// Takes an answer, and says whether calls are held back now.
    fn answered(&mut self, failure: bool, now: Instant) -> bool {
        match (failure, self.strain) {
            (true, 0) => {
                self.bucket.allow(STRAINED, now);
                self.strain = CALM_AFTER;
            }
            (true, _) => self.strain = CALM_AFTER,
            (false, 0) => {}
            (false, 1) => {
                self.bucket.allow(USUAL, now);
                self.strain = 0;
            }
            (false, _) => self.strain -= 1,
        }
        self.strain > 0
    }
}

impl<S> Layer<S> for CallBudget {
    type Service = Gate<S>;

    fn layer(&self, inner: S) -> Gate<S> {
        Gate { inner, budget: self.clone(), turn: None }
    }
}

impl<S, B> Service<Request<Body>> for Gate<S>
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Answer<S::Response, S::Error>;

    fn poll_ready(&mut self, ctx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let budget = &self.budget;
        let turn = self
            .turn
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(budget.line.lock().bucket.reserve(Instant::now()))));
        ready!(turn.poll_unpin(ctx));
        self.inner.poll_ready(ctx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.turn = None;
        let budget = self.budget.clone();
        let method = request.method().clone();
        let span = request_span(&request);
        let answer = span.in_scope(|| self.inner.call(request));
        let outcome = async move {
            let answer = answer.await;
            let code = answer.as_ref().ok().map(Response::status);
            budget.answered(&method, code);
            record(code);
            answer
        };
        Box::pin(outcome.instrument(span))
    }
}

/// A span for a call that is part of something that has one; a watch by itself has none.
fn request_span(request: &Request<Body>) -> tracing::Span {
    if tracing::Span::current().is_none() {
        return tracing::Span::none();
    }
    tracing::info_span!(
        "kube request",
        otel.kind = "client",
        http.request.method = %request.method(),
        url.path = request.uri().path(),
        http.response.status_code = tracing::field::Empty,
        otel.status_code = tracing::field::Empty,
    )
}

fn record(code: Option<StatusCode>) {
    let span = tracing::Span::current();
    if let Some(code) = code {
        span.record("http.response.status_code", code.as_u16());
    }
    if code.is_none_or(|code| code.is_client_error() || code.is_server_error()) {
        span.record("otel.status_code", "ERROR");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(now: Instant) -> Line {
        Line { bucket: Bucket::new(USUAL, now), strain: 0 }
    }

    /// Calls that are made in each second by callers who never let up and always hear errors.
    fn calls_a_second(line: &mut Line, start: Instant, seconds: u64) -> Vec<usize> {
        let mut counts = vec![0; usize::try_from(seconds).unwrap()];
        let mut now = start;
        while now < start + Duration::from_secs(seconds) {
            counts[usize::try_from((now - start).as_secs()).unwrap()] += 1;
            line.answered(true, now);
            now += line.bucket.reserve(now);
        }
        counts
    }

    #[test]
    fn under_errors_fewer_than_ten_calls_a_second_are_made() {
        let start = Instant::now();
        let mut line = line(start);
        let counts = calls_a_second(&mut line, start, 60);
        assert!(counts.iter().all(|count| *count <= 8), "{counts:?}");
    }

    #[test]
    fn good_answers_in_a_row_end_the_strain_and_one_does_not() {
        let now = Instant::now();
        let mut line = line(now);
        assert!(line.answered(true, now));
        assert!(line.answered(false, now));
        assert!(line.answered(true, now));
        let held: Vec<bool> = (0..CALM_AFTER).map(|_| line.answered(false, now)).collect();
        assert_eq!(held.iter().filter(|held| **held).count(), 9);
        assert!(!held[9]);
    }

    #[test]
    fn a_refused_object_is_no_strain() {
        for code in [StatusCode::CONFLICT, StatusCode::NOT_FOUND, StatusCode::FORBIDDEN, StatusCode::GONE] {
            assert!(!is_failure(Some(code)), "{code}");
        }
        assert!(is_failure(None) && is_failure(Some(StatusCode::TOO_MANY_REQUESTS)));
    }
}
