//! The client for writes: a write's body is sent only after the API server asked for it, and only while the lease is held.
//!
//! A guard that gives up a write can't take back what the kernel has handed over: an API server that is frozen finds the
//! whole request in its socket when it thaws, and carries it out long after the lease's end. So the head goes first, with
//! `Expect: 100-continue`. A frozen server asks for nothing, the connection is dropped, and what it finds later is a
//! request without a body, which it refuses. For the moment between asking and reading, the server is told a deadline.

use std::error::Error;
use std::fmt::Write as _;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{EXPECT, HeaderValue};
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode, Uri};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::ext::on_informational;
use hyper_util::client::legacy;
use hyper_util::rt::TokioExecutor;
use kube::Config;
use kube::client::{Body, ClientBuilder, ConfigExt};
use tokio::sync::watch;
use tower::util::option_layer;
use tower::{BoxError, Layer, Service};

use crate::lease::Leadership;

/// How long a connection whose request was refused without its body is kept, so that the refusal can be read.
const LINGER: Duration = Duration::from_secs(1);

/// Why a body was not sent. Nothing was written then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FenceError {
    /// The API server did not ask for it in time: it is frozen or overloaded.
    #[error(
        "not written: the API server did not ask for the body within {0:?}; if that stays so, look whether a proxy before it swallows `100 Continue`"
    )]
    NotAsked(Duration),
    /// It asked for it, but too late for the lease, or nobody waits for the answer any more.
    #[error("not written: the API server asked for the body when the lease was no longer held for long enough")]
    TooLate,
    /// It answered without having asked for it.
    #[error("the API server answered without having read the body")]
    Unread,
}

/// A service's requests with a body go through the fence.
#[derive(Clone, Debug)]
pub struct Fenced<S> {
    inner: S,
    leadership: Leadership,
}

/// A body that waits until it may be sent.
pub struct FencedBody {
    body: Body,
    opening: Option<Opening>,
}

type Opening = Pin<Box<dyn Future<Output = Result<(), FenceError>> + Send>>;
type Answer<R> = Pin<Box<dyn Future<Output = Result<R, BoxError>> + Send>>;

/// What is known of a body that waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    Waiting,
    Asked,
    GivenUp,
}

/// Gives the body up when the call is dropped, so that what is asked for later is not sent.
struct Caller(Option<Arc<watch::Sender<Word>>>);

/// The service that a fenced client's builder begins with.
pub type Stack = tower::util::BoxService<Request<Body>, Response<Incoming>, BoxError>;

/// A client whose writes go through the fence; it has neither retries nor timeouts of its own, since each write is guarded.
///
/// # Errors
/// When the configuration's certificates or addresses can't be used.
pub fn client(config: &Config, leadership: &Leadership) -> Result<ClientBuilder<Stack>, kube::Error> {
    let connector = config.rustls_https_connector()?;
    let http = legacy::Client::builder(TokioExecutor::new()).build(connector);
    let fenced = Fenced::new(http, leadership.clone());
    let with_headers = config.extra_headers_layer()?.layer(fenced);
    let authorized = option_layer(config.auth_layer()?).layer(with_headers);
    let whole = config.base_uri_layer().layer(authorized);
    Ok(ClientBuilder::new(Stack::new(whole), config.default_namespace.clone()))
}

impl<S> Fenced<S> {
    /// `inner` with a fence before it.
    pub fn new(inner: S, leadership: Leadership) -> Self {
        Self { inner, leadership }
    }

    /// How long the API server has to ask: shorter than the guard waits, so that the reason is told.
    fn patience(&self) -> Duration {
        self.leadership.write_timeout() * 3 / 4
    }
}

impl<S, B> Service<Request<Body>> for Fenced<S>
where
    S: Service<Request<FencedBody>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Answer<S::Response>;

    fn poll_ready(&mut self, ctx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(ctx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if request.body().is_end_stream() {
            let answer = self.inner.call(request.map(|body| FencedBody { body, opening: None }));
            return Box::pin(async move { answer.await.map_err(Into::into) });
        }
        let (word, heard) = watch::channel(Word::Waiting);
        let word = Arc::new(word);
        let opening = Box::pin(may_open(heard.clone(), self.leadership.clone()));
        let mut request = request.map(|body| FencedBody { body, opening: Some(opening) });
        request.headers_mut().insert(EXPECT, HeaderValue::from_static("100-continue"));
        *request.uri_mut() = with_timeout(request.uri(), self.leadership.write_timeout());
        let asked = Arc::clone(&word);
        on_informational(&mut request, move |answer| {
            if answer.status() == StatusCode::CONTINUE {
                // Whether somebody still listens does not matter.
                asked.send_if_modified(asked_for);
            }
        });
        let (answer, patience) = (self.inner.call(request), self.patience());
        Box::pin(async move {
            let caller = Caller(Some(word));
            tokio::select! {
                answer = answer => {
                    caller.answered();
                    answer.map_err(|error| told(error.into()))
                }
                () = not_asked(heard, patience) => Err(FenceError::NotAsked(patience).into()),
            }
        })
    }
}

/// Ends with the word on whether the body may be sent now.
async fn may_open(mut heard: watch::Receiver<Word>, leadership: Leadership) -> Result<(), FenceError> {
    let word = heard.wait_for(|word| *word != Word::Waiting).await.map(|word| *word);
    match word {
        Ok(Word::Asked) if leadership.may_write(Instant::now()) => Ok(()),
        Ok(_) => Err(FenceError::TooLate),
        Err(_) => {
            // The final answer came first, and to fail now would cut it off.
            tokio::time::sleep(LINGER).await;
            Err(FenceError::Unread)
        }
    }
}

/// Ends if nothing was heard in time, and else never.
async fn not_asked(mut heard: watch::Receiver<Word>, patience: Duration) {
    if tokio::time::timeout(patience, heard.wait_for(|word| *word != Word::Waiting)).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

/// The server asks: that counts unless the body was given up.
fn asked_for(word: &mut Word) -> bool {
    let waits = *word == Word::Waiting;
    if waits {
        *word = Word::Asked;
    }
    waits
}

/// The fence's own error, where it is the cause.
fn told(error: BoxError) -> BoxError {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error.as_ref());
    while let Some(found) = cause {
        if let Some(own) = found.downcast_ref::<FenceError>() {
            return (*own).into();
        }
        cause = found.source();
    }
    error
}

/// The address with a deadline for the server, counted from when it received the head.
fn with_timeout(uri: &Uri, timeout: Duration) -> Uri {
    let mut text = uri.path_and_query().map_or("/", PathAndQuery::as_str).to_owned();
    let separator = if uri.query().is_some() { '&' } else { '?' };
    // Writing to a string can't fail.
    let _ = write!(text, "{separator}timeout={}ms", timeout.as_millis());
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = text.parse().ok();
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

impl Caller {
    /// The answer is there: the body was sent, or never will be.
    fn answered(mut self) {
        self.0 = None;
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        if let Some(word) = self.0.take() {
            word.send_replace(Word::GivenUp);
        }
    }
}

impl http_body::Body for FencedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, ctx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(opening) = &mut self.opening {
            ready!(opening.as_mut().poll(ctx))?;
            self.opening = None;
        }
        Pin::new(&mut self.body).poll_frame(ctx).map_err(Into::into)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use hyper_util::client::legacy::connect::HttpConnector;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::JoinHandle;

    use super::*;
    use crate::lease::Timing;

    const BODY: &str = "the-body";
    const ASKS: &str = "HTTP/1.1 100 Continue\r\n\r\n";
    const TAKES: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\ntaken";
    const REFUSES: &str = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 7\r\n\r\nrefused";
    const LONG: Duration = Duration::from_secs(60);

    /// Reads until this is the end of it, or until the connection ends.
    async fn read_until(stream: &mut TcpStream, read: &mut Vec<u8>, end: &str) {
        while !read.ends_with(end.as_bytes()) && stream.read_buf(read).await.unwrap_or(0) > 0 {}
    }

    /// A server that gives these answers once it has read a head, and tells what it read in all.
    async fn server(answers: &'static [&'static str]) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let uri = format!("http://{}/api?dryRun=All", listener.local_addr().unwrap());
        let read = tokio::spawn(async move {
            let (mut stream, mut read) = (listener.accept().await.unwrap().0, Vec::new());
            read_until(&mut stream, &mut read, "\r\n\r\n").await;
            for answer in answers {
                stream.write_all(answer.as_bytes()).await.unwrap();
                if *answer == ASKS {
                    read_until(&mut stream, &mut read, BODY).await;
                }
            }
            if answers.last() == Some(&REFUSES) {
                stream.shutdown().await.unwrap();
            }
            read_until(&mut stream, &mut read, BODY).await;
            String::from_utf8(read).unwrap()
        });
        (uri, read)
    }

    /// What comes of a write while the lease is held for so long, and what the server read.
    async fn write(held: Duration, answers: &'static [&'static str]) -> (Result<String, String>, String) {
        let (uri, read) = server(answers).await;
        let timing = Timing::new(LONG / 60, LONG / 600, LONG / 120).unwrap();
        let http = legacy::Client::builder(TokioExecutor::new()).build(HttpConnector::new());
        let mut fenced = Fenced::new(http, Leadership::held(&timing, Instant::now() + held));
        let request = Request::post(&uri).body(Body::from(BODY.as_bytes().to_vec())).unwrap();
        let outcome = match fenced.call(request).await {
            Ok(answer) => {
                Ok(String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap())
            }
            Err(error) => Err(error.downcast::<FenceError>().map_or_else(|it| it.to_string(), |it| format!("{it:?}"))),
        };
        drop(fenced);
        (outcome, read.await.unwrap())
    }

    #[tokio::test]
    async fn a_body_is_sent_when_the_server_asks_for_it() {
        let (outcome, read) = write(LONG, &[ASKS, TAKES]).await;
        assert_eq!(outcome.as_deref(), Ok("taken"));
        assert!(read.ends_with(BODY) && read.contains("expect: 100-continue") && read.contains("content-length: 8"));
        assert!(read.contains("?dryRun=All&timeout="), "{read}");
    }

    #[tokio::test]
    async fn a_server_that_asks_for_nothing_never_gets_a_body() {
        let (outcome, read) = write(LONG, &[]).await;
        assert!(outcome.unwrap_err().starts_with("NotAsked"));
        assert!(read.contains("POST /api") && !read.contains(BODY), "{read}");
    }

    #[tokio::test]
    async fn a_body_that_is_asked_for_after_the_lease_is_not_sent() {
        let (outcome, read) = write(Duration::ZERO, &[ASKS]).await;
        assert_eq!(outcome.unwrap_err(), "TooLate");
        assert!(!read.contains(BODY), "{read}");
    }

    #[tokio::test]
    async fn a_refusal_that_comes_first_is_read_whole_and_no_body_is_sent() {
        let (outcome, read) = write(LONG, &[REFUSES]).await;
        assert_eq!(outcome.as_deref(), Ok("refused"));
        assert!(!read.contains(BODY), "{read}");
    }
}
