//! From a request to its answer: paths, bounds, and the two webhooks behind them.
//!
//! It must answer everything within its limits, and hold no word of its own about pods or policies.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fusebox_compiler::injection::InjectionOptions;
use fusebox_compiler::snapshot::Operator;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};

use super::metrics::AdmissionMetrics;
use super::refusal::RequestRefusal;
use super::review::{self, AdmissionRequest, Verdict};
use super::{INJECT_PATH, VALIDATE_PATH};
use crate::reconcile::Published;
use crate::stores::{Signal, Stores};

/// The largest body, in bytes: the API server's own limit for a request.
pub const MAX_BODY: usize = 3 << 20;

/// What is read of a body that is too large, in bytes, before the client is told.
const MAX_DRAINED: usize = 2 * MAX_BODY;

/// How long a request may take, its body included; the API server waits for 10 s at most by default.
const TIME_LIMIT: Duration = Duration::from_secs(8);

/// What the webhooks decide from.
#[derive(Clone)]
pub struct Admission {
    /// What sidecars are made of; absent where the installation has none.
    pub options: Option<Arc<InjectionOptions>>,
    /// Which namespaces get no sidecars.
    pub operator: Arc<Operator>,
    /// What is known of the cluster; only used when something was published, since then all was listed.
    pub stores: Stores,
    /// The last compilation.
    pub published: Published,
    /// Rung when a store changes.
    pub inputs: Signal,
    /// What is counted.
    pub metrics: AdmissionMetrics,
}

#[derive(Clone, Copy)]
enum Webhook {
    Inject,
    Validate,
}

type Answer = Response<Full<Bytes>>;

impl Admission {
    /// Answers one request.
    pub async fn answer<B>(&self, request: Request<B>) -> Answer
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let begun = Instant::now();
        let webhook = Webhook::of(request.uri().path());
        let limited = tokio::time::timeout(TIME_LIMIT, self.review(webhook, request)).await;
        let (result, answer) = match limited.unwrap_or(Err(RequestRefusal::Timeout)) {
            Ok((result, answer)) => (result, answer),
            Err(refusal) => {
                tracing::info!(reason = refusal.reason(), "request refused");
                (refusal.reason(), refusal.response())
            }
        };
        let name = webhook.map_or("none", Webhook::name);
        self.metrics.requests.with_label_values(&[name, result]).inc();
        self.metrics.duration.with_label_values(&[name]).observe(begun.elapsed().as_secs_f64());
        answer
    }

    async fn review<B>(
        &self,
        webhook: Option<Webhook>,
        request: Request<B>,
    ) -> Result<(&'static str, Answer), RequestRefusal>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let webhook = webhook.ok_or(RequestRefusal::NotFound)?;
        if request.method() != Method::POST {
            return Err(RequestRefusal::Method);
        }
        if !is_json(request.headers().get(CONTENT_TYPE)) {
            return Err(RequestRefusal::ContentType);
        }
        let asked = review::read(&collect(request.into_body()).await?)?;
        let verdict = self.decide(webhook, &asked).await;
        let result = verdict.result;
        let mut answer = Response::new(Full::from(verdict.review(&asked.uid).to_string()));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Ok((result, answer))
    }

    async fn decide(&self, webhook: Webhook, asked: &AdmissionRequest) -> Verdict {
        match webhook {
            Webhook::Inject => self.inject(asked).await,
            Webhook::Validate => self.validate(asked),
        }
    }
}

impl Webhook {
    fn of(path: &str) -> Option<Self> {
        match path {
            INJECT_PATH => Some(Self::Inject),
            VALIDATE_PATH => Some(Self::Validate),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Inject => "inject",
            Self::Validate => "validate",
        }
    }
}

async fn collect<B>(body: B) -> Result<Bytes, RequestRefusal>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut body = std::pin::pin!(body);
    let error = match body.size_hint().lower() > MAX_BODY as u64 {
        true => None,
        false => match Limited::new(body.as_mut(), MAX_BODY).collect().await {
            Ok(collected) => return Ok(collected.to_bytes()),
            Err(error) => Some(error),
        },
    };
    match error {
        Some(error) if !error.is::<LengthLimitError>() => Err(RequestRefusal::Body(error)),
        Some(_) | None => {
            drain(body).await;
            Err(RequestRefusal::TooLarge { limit: MAX_BODY })
        }
    }
}

/// Throws away what is left of a body, within bounds: a client that is still sending would not see the answer.
async fn drain<B: Body<Data = Bytes>>(mut body: Pin<&mut B>) {
    let mut thrown = 0;
    while let Some(Ok(frame)) = body.frame().await {
        thrown += frame.data_ref().map_or(0, Bytes::len);
        if thrown > MAX_DRAINED {
            return;
        }
    }
}

fn is_json(content_type: Option<&HeaderValue>) -> bool {
    let word = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    word.split(';').next().is_some_and(|word| word.trim().eq_ignore_ascii_case("application/json"))
}
