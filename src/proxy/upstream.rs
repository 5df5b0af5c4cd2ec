//! Connections to upstreams: one pool for each address, bounded, with keep-alive. A request goes out in the
//! protocol it came in: HTTP/1.1, or HTTP/2 by prior knowledge.
//!
//! It must not know policies. It sends one request and says whether a connection could be made or
//! broke; what that means for a breaker is decided above.

mod http1;
mod http2;
mod relay;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, Version};
use http_body::Frame;
use hyper::body::Incoming;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use self::http1::{Driven, IdleConnections};
use self::http2::{Connections, Slot};

use crate::pipeline::request_body::RequestBody;

/// How long one address may take to accept a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle HTTP/1.1 connections kept for each address.
pub(crate) const MAX_IDLE: usize = 512;

/// An idle connection is closed after this time, well before most servers would.
pub(crate) const MAX_IDLE_AGE: Duration = Duration::from_secs(30);

/// A request that must not be sent twice only takes a connection that was in use this recently, because
/// the upstream may be closing an older one at this moment.
const FRESH_AGE: Duration = Duration::from_secs(2);

/// Why an upstream gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpstreamError {
    /// No address of it is known.
    #[error("no address is known")]
    Unknown,
    /// No address could be connected to.
    #[error("no connection to {address}: {source}")]
    Connect {
        /// The last address that was tried.
        address: Arc<str>,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection broke before an answer.
    #[error("connection to {address} broke: {source}")]
    Reset {
        /// Where to.
        address: Arc<str>,
        /// What broke.
        source: hyper::Error,
    },
    /// One interim answer followed another, and none was an answer.
    #[error("interim answers came without end")]
    Interim,
}

/// The pools of all addresses, kept over configuration changes.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    by_address: Mutex<BTreeMap<Arc<str>, Arc<Pool>>>,
}

/// Connections to one address.
#[derive(Debug)]
pub(crate) struct Pool {
    address: Arc<str>,
    idle: IdleConnections,
    multiplexed: Connections,
}

/// What carries one request and its answer.
#[derive(Debug)]
pub(crate) struct Lease(Carrier);

#[derive(Debug)]
enum Carrier {
    Http1 { connection: Box<Driven>, pool: Arc<Pool> },
    Http2 { slot: Slot },
}

type Answer = (Response<Incoming>, Lease);

impl Pools {
    /// The pool of `address`, made when there is none.
    pub(crate) fn get(&self, address: &str) -> Arc<Pool> {
        let mut pools = self.by_address.lock();
        if let Some(pool) = pools.get(address) {
            return Arc::clone(pool);
        }
        let address: Arc<str> = address.into();
        let pool = Arc::new(Pool {
            address: Arc::clone(&address),
            idle: IdleConnections::default(),
            multiplexed: Connections::default(),
        });
        pools.insert(address, Arc::clone(&pool));
        pool
    }

    /// Closes connections that were idle for too long and forgets addresses nobody uses any more.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut pools = self.by_address.lock();
        pools.retain(|_, pool| Arc::strong_count(pool) > 1);
        for pool in pools.values() {
            pool.idle.sweep(now);
            pool.multiplexed.sweep(now);
        }
    }
}

impl Pool {
    /// A new connection, on which nothing was said.
    async fn dial(&self, limit: Duration) -> Result<TcpStream, UpstreamError> {
        let refuse = |source| UpstreamError::Connect { address: Arc::clone(&self.address), source };
        let stream = tokio::time::timeout(limit, TcpStream::connect(&*self.address))
            .await
            .map_err(|_| refuse(std::io::ErrorKind::TimedOut.into()))?
            .map_err(refuse)?;
        stream.set_nodelay(true).map_err(refuse)?;
        Ok(stream)
    }

    async fn connect(self: &Arc<Self>) -> Result<(Box<Driven>, Arc<Self>), UpstreamError> {
        let stream = self.dial(CONNECT_TIMEOUT).await?;
        let connection = Driven::new(stream).await.map_err(|source| self.reset(source))?;
        Ok((connection, Arc::clone(self)))
    }

    async fn slot(&self, now: Instant) -> Result<Slot, UpstreamError> {
        self.multiplexed.slot(now, || self.dial(CONNECT_TIMEOUT)).await?.map_err(|source| self.reset(source))
    }

    fn reset(&self, source: hyper::Error) -> UpstreamError {
        UpstreamError::Reset { address: Arc::clone(&self.address), source }
    }
}

impl Lease {
    /// The next part of the answer's body.
    pub(crate) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Carrier::Http1 { connection, .. } => connection.poll_frame(body, cx),
            Carrier::Http2 { .. } => hyper::body::Body::poll_frame(std::pin::Pin::new(body), cx),
        }
    }

    /// This side's end of the connection; none where the system did not say.
    pub(crate) fn local(&self) -> Option<SocketAddr> {
        let local = match &self.0 {
            Carrier::Http1 { connection, .. } => connection.local(),
            Carrier::Http2 { slot } => slot.local(),
        };
        local.map(|local| SocketAddr::new(local.ip().to_canonical(), local.port()))
    }

    /// Gives the connection back for the next request. It must have nothing left to send or to read.
    pub(crate) fn give_back(self, now: Instant) {
        match self.0 {
            Carrier::Http1 { connection, pool } => pool.idle.give_back(connection, now),
            Carrier::Http2 { .. } => {}
        }
    }

    /// The socket and what was read beyond HTTP, after both ends agreed to speak something else.
    pub(crate) async fn into_upgraded(self) -> Option<(Bytes, TcpStream)> {
        match self.0 {
            Carrier::Http1 { connection, .. } => connection.into_upgraded().await,
            Carrier::Http2 { .. } => None,
        }
    }
}

/// Sends one request to the first of `pools` that takes it, in the protocol of its version.
pub(crate) async fn send(
    pools: &[Arc<Pool>],
    request: Request<RequestBody>,
    now: Instant,
) -> Result<Answer, UpstreamError> {
    match request.version() {
        // What is seldom or large is on the heap only while it runs: every request carries the room for the rest.
        Version::HTTP_2 => Box::pin(send_http2(pools, request, now)).await,
        _ => send_http1(pools, request, now).await,
    }
}

/// A new connection to the first of `pools` that takes one within `limit`, on which nothing was said.
pub(crate) async fn connect(pools: &[Arc<Pool>], limit: Duration) -> Result<TcpStream, UpstreamError> {
    let mut last = UpstreamError::Unknown;
    for pool in pools {
        match pool.dial(limit).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A request that a kept connection did not take goes out once more on a new one: always when no byte of it
/// was sent, else only when it has no body and its method may be repeated.
async fn send_http1(
    pools: &[Arc<Pool>],
    mut request: Request<RequestBody>,
    now: Instant,
) -> Result<Answer, UpstreamError> {
    let repeatable = may_repeat(&request);
    let max_age = if repeatable { MAX_IDLE_AGE } else { FRESH_AGE };
    if let Some((mut connection, pool)) = kept(pools, now, max_age) {
        let spare = repeatable.then(|| copy_of(&request));
        match connection.send(request).await {
            Ok(response) => return Ok((response, Lease(Carrier::Http1 { connection, pool }))),
            Err(mut failed) => {
                let answered = failed.error().is_parse();
                let again = failed.take_message().or(spare.filter(|_| !answered));
                request = again.ok_or_else(|| pool.reset(failed.into_error()))?;
            }
        }
    }
    let (mut connection, pool) = Box::pin(connect_any(pools)).await?;
    match connection.send(request).await {
        Ok(response) => Ok((response, Lease(Carrier::Http1 { connection, pool }))),
        Err(failed) => Err(pool.reset(failed.into_error())),
    }
}

/// A request that the upstream did not look at goes out once more, if its body can be had again.
async fn send_http2(
    pools: &[Arc<Pool>],
    mut request: Request<RequestBody>,
    now: Instant,
) -> Result<Answer, UpstreamError> {
    let mut last = UpstreamError::Unknown;
    let mut sent_before = false;
    for pool in pools {
        loop {
            let slot = match pool.slot(now).await {
                Ok(slot) => slot,
                Err(error) => {
                    last = error;
                    break;
                }
            };
            let spare = if sent_before { None } else { request.body().again().map(|body| copy_with(&request, body)) };
            match slot.send(request).await {
                Ok(response) => return Ok((response, Lease(Carrier::Http2 { slot }))),
                Err(mut failed) => {
                    let unprocessed = http2::is_unprocessed(failed.error());
                    let again = failed.take_message().or(spare.filter(|_| unprocessed));
                    request = match again.filter(|request| !sent_before && request.body().is_whole()) {
                        Some(again) => again,
                        None => return Err(pool.reset(failed.into_error())),
                    };
                    sent_before = true;
                }
            }
        }
    }
    Err(last)
}

fn kept(pools: &[Arc<Pool>], now: Instant, max_age: Duration) -> Option<(Box<Driven>, Arc<Pool>)> {
    pools.iter().find_map(|pool| Some((pool.idle.take(now, max_age)?, Arc::clone(pool))))
}

async fn connect_any(pools: &[Arc<Pool>]) -> Result<(Box<Driven>, Arc<Pool>), UpstreamError> {
    let mut last = UpstreamError::Unknown;
    for pool in pools {
        match pool.connect().await {
            Ok(connected) => return Ok(connected),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn may_repeat(request: &Request<RequestBody>) -> bool {
    request.body().is_empty()
        && matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
        )
}

fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    copy_with(request, RequestBody::empty())
}

fn copy_with(request: &Request<RequestBody>, body: RequestBody) -> Request<RequestBody> {
    let mut copy = Request::new(body);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}
