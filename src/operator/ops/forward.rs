//! A follower asks the leader: one request on the leader's control port, under the replicas' own certificate.
//!
//! The follower has authenticated and authorised the user; the leader believes it because only replicas have that
//! certificate. Whoever is not the leader any more says so, and nobody asks twice.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::refusal::Refusal;
use super::{Answer, Operations, Question};
use crate::certificates::Tls;
use crate::lease::Leader;

/// The path of the leader's answers on the control port; method POST.
pub(crate) const PATH: &str = "/v1/operations";

/// The longest question, in bytes.
pub(crate) const MAX_QUESTION: usize = 64 * 1024;

/// The longest answer, in bytes: [`fusebox_api::operations::MAX_BREAKERS`] with room to spare.
const MAX_ANSWER: usize = 32 * 1024 * 1024;

/// How long the leader may take to connect and to answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How a question to the leader failed.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("the leader can't be reached")]
    Connect(#[source] std::io::Error),
    #[error("the control port's name is not a name")]
    Name(#[from] rustls::pki_types::InvalidDnsNameError),
    #[error("the exchange with the leader failed")]
    Http(#[from] hyper::Error),
    #[error("the question could not be written")]
    Question(#[from] serde_json::Error),
    #[error("the request could not be made")]
    Request(#[from] http::Error),
    #[error("the leader's answer could not be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    #[error("the leader's answer makes no sense")]
    Answer(#[source] serde_json::Error),
}

impl ForwardError {
    /// Whether the leader may have read the question.
    fn was_sent(&self) -> bool {
        matches!(self, Self::Http(_) | Self::Body(_) | Self::Answer(_))
    }
}

/// Asks the leader.
///
/// # Errors
/// The leader's refusal; `Unavailable` where it was not reached, `Unknown` where it may have acted without our learning it.
pub(super) async fn ask(tls: &Tls, leader: &Leader, question: &Question) -> Result<Answer, Refusal> {
    let writes = matches!(question, Question::Force(_) | Question::Release { .. } | Question::Unblock(_));
    let unavailable = Refusal::Unavailable("the leading replica does not answer: try again");
    match tokio::time::timeout(TIMEOUT, exchange(tls, leader, question)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => {
            tracing::warn!(
                leader = leader.identity,
                error = &error as &dyn std::error::Error,
                "the leader was not asked"
            );
            Err(if writes && error.was_sent() { Refusal::Unknown } else { unavailable })
        }
        Err(_) if writes => Err(Refusal::Unknown),
        Err(_) => Err(unavailable),
    }
}

async fn exchange(tls: &Tls, leader: &Leader, question: &Question) -> Result<Result<Answer, Refusal>, ForwardError> {
    let name = ServerName::try_from(tls.names().service().to_owned())?;
    let stream = TcpStream::connect(&leader.address).await.map_err(ForwardError::Connect)?;
    let stream = TlsConnector::from(tls.peer()).connect(name, stream).await.map_err(ForwardError::Connect)?;
    let (mut requests, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .handshake::<_, Full<Bytes>>(TokioIo::new(stream))
        .await?;
    // It ends by itself when the request is dropped.
    tokio::spawn(connection);
    let uri = format!("https://{}{PATH}", tls.names().service());
    let request = Request::post(uri).body(Full::from(serde_json::to_vec(question)?))?;
    let response = requests.send_request(request).await?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await.map_err(ForwardError::Body)?.to_bytes();
    if status == StatusCode::OK {
        return Ok(Ok(serde_json::from_slice(&body).map_err(ForwardError::Answer)?));
    }
    let told: Status = serde_json::from_slice(&body).map_err(ForwardError::Answer)?;
    Ok(Err(Refusal::Told(Box::new(told))))
}

/// The leader's answer to a peer. Whoever calls this has made sure that it is one.
pub(crate) async fn reply(operations: &Operations, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let body = Limited::new(request.into_body(), MAX_QUESTION).collect();
    let answer = match tokio::time::timeout(TIMEOUT, body).await {
        Ok(Ok(body)) => match serde_json::from_slice(&body.to_bytes()) {
            Ok(question) => operations.answer(question).await,
            Err(_) => Err(Refusal::Unavailable("the replicas are of different versions: try again")),
        },
        Ok(Err(_)) => Err(Refusal::TooLarge(MAX_QUESTION)),
        Err(_) => Err(Refusal::SlowBody),
    };
    let written = answer.and_then(|answer| {
        serde_json::to_vec(&answer).map_err(|_| Refusal::Unavailable("the answer could not be written"))
    });
    match written {
        Ok(body) => json_response(StatusCode::OK, body),
        // A status is plain data; an empty one only costs its words.
        Err(refusal) => json_response(refusal.code(), serde_json::to_vec(&refusal.status()).unwrap_or_default()),
    }
}

/// A response with a JSON body.
pub(super) fn json_response(code: StatusCode, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = code;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use fusebox_policy::config::PolicyId;

    use super::*;
    use crate::certificates::{Authority, Names};
    use crate::lease::{Leadership, Timing};
    use crate::ops::Replica;

    fn question() -> Question {
        Question::State(PolicyId { namespace: "shop".into(), name: "payments".into() })
    }

    fn tls() -> Tls {
        let now = SystemTime::now();
        Tls::new(&Authority::generate(Duration::from_secs(3600), now).unwrap(), Names::new("fusebox-system", []), now)
            .unwrap()
    }

    #[tokio::test]
    async fn without_a_leader_there_is_no_answer_and_a_hint_to_try_again() {
        let leadership = Leadership::new(&Timing::default());
        let replica = Replica { operations: Operations::default(), leadership, tls: tls() };
        let refusal = replica.answer(question()).await.unwrap_err();
        assert_eq!((refusal.code().as_u16(), refusal.retry_after().map(|it| it.as_secs())), (503, Some(1)));
        let lost = Leader { identity: "lost".into(), address: "127.0.0.1:1".into() };
        let refusal = ask(&replica.tls, &lost, &question()).await.unwrap_err();
        assert_eq!(refusal.code().as_u16(), 503);
        let write =
            Question::Release { policy: PolicyId { namespace: "a".into(), name: "b".into() }, user: "c".into() };
        let refusal = ask(&replica.tls, &lost, &write).await.unwrap_err();
        assert_eq!(refusal.reason(), "ServiceUnavailable", "nothing was sent, so nothing is unknown");
    }
}
