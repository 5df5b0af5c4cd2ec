//! A small HTTP/1.1 client for tests.
//!
//! Owns one keep-alive connection. It must not follow redirects, retry answers or decode bodies: tests look at what came.
//! A full client would hide exactly what a proxy's tests ask about, such as when a connection is used again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::header::{HOST, HeaderName, HeaderValue};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// The largest body read.
const MAX_BODY_BYTES: usize = 64 * 1024 * 1024;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

/// A client of one address, with one connection that is opened when needed and kept.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    timeout: Duration,
    connection: Mutex<Option<SendRequest<Full<Bytes>>>>,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// From before sending (or connecting) to the body's end.
    pub elapsed: Duration,
}

impl Client {
    /// A client that gives up after 30 seconds.
    #[must_use]
    pub fn new(address: SocketAddr) -> Self {
        Self { address, timeout: DEFAULT_TIMEOUT, connection: Mutex::new(None) }
    }

    /// Gives up after `timeout` instead.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// GET of a path.
    ///
    /// # Errors
    /// When no whole answer comes in time.
    pub async fn get(&self, path: &str) -> Result<Response> {
        self.get_with(path, &[]).await
    }

    /// GET of a path with headers.
    ///
    /// # Errors
    /// When a header is malformed, or no whole answer comes in time.
    pub async fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
        self.send(request(Method::GET, path, headers, Bytes::new())?).await
    }

    /// POST to a path.
    ///
    /// # Errors
    /// When a header is malformed, or no whole answer comes in time.
    pub async fn post(&self, path: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Result<Response> {
        self.send(request(Method::POST, path, headers, body.into())?).await
    }

    /// Sends any request. Without a Host header it gets the address.
    ///
    /// # Errors
    /// When no whole answer comes in time.
    pub async fn send(&self, mut request: Request<Bytes>) -> Result<Response> {
        if !request.headers().contains_key(HOST) {
            let host = HeaderValue::from_str(&self.address.to_string()).context("the address is no header value")?;
            request.headers_mut().insert(HOST, host);
        }
        let what = format!("{} http://{}{}", request.method(), self.address, request.uri());
        let answered = tokio::time::timeout(self.timeout, self.exchange(request.map(Full::new))).await;
        answered.with_context(|| format!("{what}: no whole answer within {:?}", self.timeout))?.context(what)
    }

    async fn exchange(&self, request: Request<Full<Bytes>>) -> Result<Response> {
        let started = Instant::now();
        // While this runs the slot is empty: a request that is cut off takes its connection with it.
        let mut slot = self.connection.lock().await;
        let mut sender = match slot.take() {
            Some(kept) if !kept.is_closed() => kept,
            _ => self.connect().await?,
        };
        sender.ready().await.context("the connection was closed")?;
        let answer = match sender.try_send_request(request).await {
            Ok(answer) => answer,
            // The server closed the kept connection before it took the request, so the request may go on a new one.
            Err(mut failed) => match failed.take_message() {
                Some(request) => {
                    sender = self.connect().await?;
                    sender.send_request(request).await?
                }
                None => return Err(failed.into_error().into()),
            },
        };
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
        *slot = Some(sender);
        Ok(Response { status: head.status, headers: head.headers, body, elapsed: started.elapsed() })
    }

    async fn connect(&self) -> Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect(self.address).await.context("cannot connect")?;
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await.context("no HTTP connection")?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

impl Response {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("not JSON: {}", self.text()))
    }

    /// A header's value, or the empty string.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

fn request(method: Method, path: &str, headers: &[(&str, &str)], body: Bytes) -> Result<Request<Bytes>> {
    let mut request = Request::new(body);
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().with_context(|| format!("{path:?} is no path"))?;
    for (name, value) in headers {
        let name: HeaderName = name.parse().with_context(|| format!("{name:?} is no header name"))?;
        let value = HeaderValue::from_str(value).with_context(|| format!("{value:?} is no value for {name}"))?;
        request.headers_mut().append(name, value);
    }
    Ok(request)
}
