//! `fusebox-operator probe`: asks an operator how it is, for `helm test` and for people in an image without a shell.
//!
//! It speaks plain HTTP to the admin port and nothing else: whoever needs more has curl.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::{Instant, sleep, timeout_at};

use crate::settings::parse_duration;

/// How soon it is asked again.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// How much of an answer is read.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// What is asked, and for how long.
#[derive(Clone, Debug, Args)]
pub struct Probe {
    /// Where, such as `http://fusebox-operator.fusebox-system.svc:9080/health`.
    pub url: Uri,
    /// How long it is asked again while there is no good answer.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// Why there was no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody answered in time.
    #[error("{url} did not answer in time{}", last.as_ref().map_or_else(String::new, |error| format!(": {error}")))]
    NoAnswer {
        /// Who was asked.
        url: Uri,
        /// What the last attempt met.
        last: Option<String>,
    },
    /// It answered that it is not well.
    #[error("{url} answered {status}: {answer}")]
    Unwell {
        /// Who was asked.
        url: Uri,
        /// The last answer's status.
        status: StatusCode,
        /// The last answer.
        answer: String,
    },
}

impl Probe {
    /// Asks until the answer is good, and returns it.
    ///
    /// # Errors
    /// [`ProbeError`] with the last attempt's outcome.
    pub async fn run(&self) -> Result<String, ProbeError> {
        let client: Client<HttpConnector, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let deadline = Instant::now() + self.timeout;
        let mut last = ProbeError::NoAnswer { url: self.url.clone(), last: None };
        while let Ok(answer) = timeout_at(deadline, self.ask(&client)).await {
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
            if timeout_at(deadline, sleep(RETRY_EVERY)).await.is_err() {
                break;
            }
        }
        Err(last)
    }

    async fn ask(&self, client: &Client<HttpConnector, Empty<Bytes>>) -> Result<String, ProbeError> {
        let failed = |error: &dyn std::error::Error| {
            let causes = std::iter::successors(Some(error), |error| error.source());
            let words: Vec<String> = causes.map(ToString::to_string).collect();
            ProbeError::NoAnswer { url: self.url.clone(), last: Some(words.join(": ")) }
        };
        let response = client.get(self.url.clone()).await.map_err(|error| failed(&error))?;
        let (status, body) = (response.status(), Limited::new(response.into_body(), MAX_ANSWER_BYTES));
        let bytes = body.collect().await.map_err(|error| failed(error.as_ref()))?.to_bytes();
        let answer = String::from_utf8_lossy(&bytes).trim_end().to_owned();
        if status.is_success() { Ok(answer) } else { Err(ProbeError::Unwell { url: self.url.clone(), status, answer }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin;
    use crate::health::{Component, Health, Status};
    use crate::metrics::Metrics;

    fn probe(address: std::net::SocketAddr, timeout: Duration) -> Probe {
        Probe { url: format!("http://{address}/health").parse().unwrap(), timeout }
    }

    #[tokio::test]
    async fn it_asks_until_the_operator_is_well() {
        let health = Health::starting([Component::Control]);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = admin::router(health.clone(), Metrics::new().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });

        let error = probe(address, Duration::from_millis(200)).run().await.unwrap_err();
        assert!(matches!(error, ProbeError::Unwell { status: StatusCode::SERVICE_UNAVAILABLE, .. }), "{error}");

        let waiting = tokio::spawn(async move { probe(address, Duration::from_secs(20)).run().await });
        health.set(Component::Control, Status::healthy());
        assert!(waiting.await.unwrap().unwrap().contains("healthy"));
    }

    #[tokio::test]
    async fn nobody_there_is_told_from_an_operator_that_is_unwell() {
        let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = probe(nobody, Duration::from_millis(50)).run().await.unwrap_err();
        assert!(matches!(&error, ProbeError::NoAnswer { last: Some(_), .. }), "{error}");
    }
}
