//! An upstream server that fails as told.
//!
//! Owns one loopback port and how requests to it are answered, which can be changed at any time. It must not be clever:
//! what it does depends on its settings and the number of the request alone, so that a failing test can be read.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::sync::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::ports::Port;

/// How many received heads are kept; older ones are forgotten.
pub const KEPT_HEADS: usize = 10_000;

/// How a client begins that speaks HTTP/2 without asking (RFC 9113 section 3.4).
const HTTP2_START: &[u8; 3] = b"PRI";

/// How requests are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Every request with this status.
    Answer(StatusCode),
    /// Each `nth` request with `status`, all others with 200.
    FailEvery {
        /// 1 fails every request.
        nth: NonZeroU64,
        /// As in 503.
        status: StatusCode,
    },
    /// Requests whose path ends so with `status`, all others with 200.
    FailPaths {
        /// As in `/fail`.
        ending: &'static str,
        /// As in 503.
        status: StatusCode,
    },
    /// Not at all: the request is read and the connection stays open.
    Hang,
    /// The connection is closed without an answer.
    CloseConnection,
}

/// The head of a request as it arrived.
#[derive(Debug, Clone)]
pub struct ReceivedHead {
    /// The method.
    pub method: Method,
    /// The request target as it was sent.
    pub uri: Uri,
    /// All headers; names in lower case, values and order of equal names as sent.
    pub headers: HeaderMap,
}

/// A running server. Dropping it closes the listener and all connections.
pub struct FlakyUpstream {
    port: Port,
    shared: Arc<Shared>,
    server: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    settings: Mutex<Settings>,
    heads: Mutex<VecDeque<ReceivedHead>>,
    requests: AtomicU64,
    connections: AtomicU64,
}

#[derive(Clone)]
struct Settings {
    behaviour: Behaviour,
    latency: Duration,
    headers: HeaderMap,
    body: Bytes,
}

/// Ends a connection without an answer.
#[derive(Debug)]
struct Closed;

impl FlakyUpstream {
    /// Starts a server that answers 200 at once.
    ///
    /// # Errors
    /// When no port can be had.
    pub async fn start() -> Result<Self> {
        let settings = Settings {
            behaviour: Behaviour::Answer(StatusCode::OK),
            latency: Duration::ZERO,
            headers: HeaderMap::new(),
            body: Bytes::from_static(b"ok\n"),
        };
        let shared = Shared {
            settings: Mutex::new(settings),
            heads: Mutex::new(VecDeque::new()),
            requests: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        };
        let upstream = Self { port: Port::reserve()?, shared: Arc::new(shared), server: Mutex::new(None) };
        upstream.listen().await?;
        Ok(upstream)
    }

    /// Where it listens; the same after [`FlakyUpstream::refuse`] and [`FlakyUpstream::listen`].
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// Listens again after [`FlakyUpstream::refuse`].
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub async fn listen(&self) -> Result<()> {
        let listener = TcpListener::bind(self.address()).await;
        let listener = listener.with_context(|| format!("the upstream cannot listen on {}", self.address()))?;
        let server = tokio::spawn(serve(listener, Arc::clone(&self.shared)));
        if let Some(previous) = lock(&self.server).replace(server) {
            previous.abort();
        }
        Ok(())
    }

    /// Closes the listener and all connections: from now on connecting is refused.
    pub async fn refuse(&self) {
        let server = lock(&self.server).take();
        if let Some(server) = server {
            server.abort();
            server.await.ok();
        }
    }

    /// Changes how requests are answered, beginning with the next one.
    pub fn set(&self, behaviour: Behaviour) {
        lock(&self.shared.settings).behaviour = behaviour;
    }

    /// Answers every request with this status.
    pub fn set_status(&self, status: StatusCode) {
        self.set(Behaviour::Answer(status));
    }

    /// Waits so long before each answer.
    pub fn set_latency(&self, latency: Duration) {
        lock(&self.shared.settings).latency = latency;
    }

    /// Answers with this body.
    pub fn set_body(&self, body: impl Into<Bytes>) {
        lock(&self.shared.settings).body = body.into();
    }

    /// Adds a header to all answers.
    pub fn set_header(&self, name: HeaderName, value: HeaderValue) {
        lock(&self.shared.settings).headers.insert(name, value);
    }

    /// How many requests have arrived.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// How many connections have been accepted.
    #[must_use]
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// The heads of the last [`KEPT_HEADS`] requests, oldest first.
    #[must_use]
    pub fn heads(&self) -> Vec<ReceivedHead> {
        lock(&self.shared.heads).iter().cloned().collect()
    }
}

impl Drop for FlakyUpstream {
    fn drop(&mut self) {
        if let Some(server) = lock(&self.server).take() {
            server.abort();
        }
    }
}

impl std::fmt::Display for Closed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("closed as told")
    }
}

impl std::error::Error for Closed {}

/// Accepts until it is aborted, which ends the connections in the set too.
async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        connections.spawn(serve_connection(stream, Arc::clone(&shared)));
        while connections.try_join_next().is_some() {}
    }
}

async fn serve_connection(stream: TcpStream, shared: Arc<Shared>) -> Result<(), Infallible> {
    stream.set_nodelay(true).ok();
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        async move { answer(request, &shared).await }
    });
    // What breaks a connection here is either told to happen or the client's affair.
    let mut first = [0; HTTP2_START.len()];
    if stream.peek(&mut first).await.is_ok() && first == *HTTP2_START {
        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await.ok();
    } else {
        http1::Builder::new().timer(TokioTimer::new()).serve_connection(TokioIo::new(stream), service).await.ok();
    }
    Ok(())
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Result<Response<Full<Bytes>>, Closed> {
    let number = shared.requests.fetch_add(1, Ordering::SeqCst) + 1;
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    // On HTTP/2 hyper would send a body even so.
    let bodiless = head.method == Method::HEAD;
    shared.remember(ReceivedHead { method: head.method, uri: head.uri, headers: head.headers });
    body.collect().await.map_err(|_| Closed)?;
    let settings = lock(&shared.settings).clone();
    if !settings.latency.is_zero() {
        tokio::time::sleep(settings.latency).await;
    }
    let status = match settings.behaviour {
        Behaviour::Answer(status) => status,
        Behaviour::FailEvery { nth, status } if number.is_multiple_of(nth.get()) => status,
        Behaviour::FailPaths { ending, status } if path.ends_with(ending) => status,
        Behaviour::FailEvery { .. } | Behaviour::FailPaths { .. } => StatusCode::OK,
        Behaviour::Hang => std::future::pending().await,
        Behaviour::CloseConnection => return Err(Closed),
    };
    let mut response = Response::new(Full::new(if bodiless { Bytes::new() } else { settings.body }));
    *response.status_mut() = status;
    *response.headers_mut() = settings.headers;
    Ok(response)
}

impl Shared {
    fn remember(&self, head: ReceivedHead) {
        let mut heads = lock(&self.heads);
        if heads.len() == KEPT_HEADS {
            heads.pop_front();
        }
        heads.push_back(head);
    }
}

/// A test that panicked while it held the lock has failed already; the value is still whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Client;

    fn every(nth: u64) -> Behaviour {
        let nth = NonZeroU64::new(nth).unwrap_or(NonZeroU64::MIN);
        Behaviour::FailEvery { nth, status: StatusCode::BAD_GATEWAY }
    }

    #[tokio::test]
    async fn behaviour_changes_on_a_kept_connection() -> Result<()> {
        let upstream = FlakyUpstream::start().await?;
        let client = Client::new(upstream.address());
        assert_eq!(client.get("/a?b=1").await?.text(), "ok\n");
        upstream.set(every(2));
        let statuses = [client.get("/").await?.status, client.post("/", &[("X-Name", "Value")], "body").await?.status];
        assert_eq!(statuses, [StatusCode::BAD_GATEWAY, StatusCode::OK]);
        assert_eq!((upstream.requests(), upstream.connections()), (3, 1));
        let heads = upstream.heads();
        assert_eq!(heads[0].uri, "/a?b=1");
        assert_eq!(heads[2].headers["x-name"], "Value");
        Ok(())
    }

    #[tokio::test]
    async fn a_refusing_upstream_comes_back_at_its_address() -> Result<()> {
        let upstream = FlakyUpstream::start().await?;
        let client = Client::new(upstream.address());
        client.get("/").await?;
        upstream.refuse().await;
        assert!(format!("{:#}", client.get("/").await.unwrap_err()).contains("Connection refused"));
        upstream.listen().await?;
        assert_eq!(client.get("/").await?.status, StatusCode::OK);
        Ok(())
    }

    #[tokio::test]
    async fn latency_hanging_and_closing_are_told_apart() -> Result<()> {
        let upstream = FlakyUpstream::start().await?;
        let client = Client::new(upstream.address()).with_timeout(Duration::from_millis(300));
        upstream.set_latency(Duration::from_millis(50));
        assert!(client.get("/").await?.elapsed >= Duration::from_millis(50));
        upstream.set(Behaviour::Hang);
        assert!(format!("{:#}", client.get("/").await.unwrap_err()).contains("no whole answer within 300ms"));
        upstream.set(Behaviour::CloseConnection);
        assert!(!format!("{:#}", client.get("/").await.unwrap_err()).contains("within"));
        Ok(())
    }
}
