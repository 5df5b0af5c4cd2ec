//! Connections to upstreams: one pool for each address, bounded, with keep-alive.
//!
//! It must not know policies. It sends one request and says whether a connection could be made or
//! broke; what that means for a breaker is decided above.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::pipeline::request_body::RequestBody;

/// How long one address may take to accept a connection.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle connections kept for each address.
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
}

/// The pools of all addresses, kept over configuration changes.
#[derive(Debug, Default)]
pub(crate) struct Pools {
    by_address: Mutex<BTreeMap<Arc<str>, Arc<Pool>>>,
}

/// Idle connections to one address.
#[derive(Debug)]
pub(crate) struct Pool {
    address: Arc<str>,
    idle: Mutex<VecDeque<Idle>>,
}

/// A connection that is in use by one request.
#[derive(Debug)]
pub(crate) struct Lease {
    sender: SendRequest<RequestBody>,
    pool: Arc<Pool>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

impl Pools {
    /// The pool of `address`, made when there is none.
    pub(crate) fn get(&self, address: &str) -> Arc<Pool> {
        let mut pools = self.by_address.lock();
        if let Some(pool) = pools.get(address) {
            return Arc::clone(pool);
        }
        let address: Arc<str> = address.into();
        let pool = Arc::new(Pool { address: Arc::clone(&address), idle: Mutex::default() });
        pools.insert(address, Arc::clone(&pool));
        pool
    }

    /// Closes connections that were idle for too long and forgets addresses nobody uses any more.
    pub(crate) fn sweep(&self, now: Instant) {
        let mut pools = self.by_address.lock();
        pools.retain(|_, pool| Arc::strong_count(pool) > 1);
        for pool in pools.values() {
            pool.sweep(now);
        }
    }
}

impl Pool {
    fn sweep(&self, now: Instant) {
        let mut idle = self.idle.lock();
        idle.retain(|entry| !entry.sender.is_closed() && now.saturating_duration_since(entry.since) < MAX_IDLE_AGE);
    }

    /// The connection that was used last, if it was within `max_age`.
    async fn take(self: &Arc<Self>, now: Instant, max_age: Duration) -> Option<Lease> {
        loop {
            let mut entry = self.pop(now, max_age)?;
            // A connection whose last answer just ended becomes ready as soon as its task has run.
            if entry.sender.is_ready() || entry.sender.ready().await.is_ok() {
                return Some(Lease { sender: entry.sender, pool: Arc::clone(self) });
            }
        }
    }

    fn pop(&self, now: Instant, max_age: Duration) -> Option<Idle> {
        let mut idle = self.idle.lock();
        loop {
            let entry = idle.pop_back()?;
            if now.saturating_duration_since(entry.since) >= max_age {
                idle.push_back(entry);
                return None;
            }
            if !entry.sender.is_closed() {
                return Some(entry);
            }
        }
    }

    async fn connect(self: &Arc<Self>) -> Result<Lease, UpstreamError> {
        let refuse = |source| UpstreamError::Connect { address: Arc::clone(&self.address), source };
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(&*self.address))
            .await
            .map_err(|_| refuse(std::io::ErrorKind::TimedOut.into()))?
            .map_err(refuse)?;
        stream.set_nodelay(true).map_err(refuse)?;
        let (sender, connection) = http1::Builder::new()
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|source| UpstreamError::Reset { address: Arc::clone(&self.address), source })?;
        // The request that uses the connection learns of its end; nobody else has to.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Lease { sender, pool: Arc::clone(self) })
    }
}

impl Lease {
    /// Gives the connection back for the next request. It must have nothing left to send or to read.
    pub(crate) fn give_back(self, now: Instant) {
        if self.sender.is_closed() {
            return;
        }
        let mut idle = self.pool.idle.lock();
        if idle.len() < MAX_IDLE {
            idle.push_back(Idle { sender: self.sender, since: now });
        }
    }
}

/// Sends one request to the first of `pools` that takes it.
///
/// A request that a kept connection did not take goes out once more on a new one: always when no byte of it
/// was sent, else only when it has no body and its method may be repeated.
pub(crate) async fn send(
    pools: &[Arc<Pool>],
    request: Request<RequestBody>,
    now: Instant,
) -> Result<(Response<Incoming>, Lease), UpstreamError> {
    let repeatable = may_repeat(&request);
    let max_age = if repeatable { MAX_IDLE_AGE } else { FRESH_AGE };
    let mut request = request;
    if let Some(mut lease) = kept(pools, now, max_age).await {
        let spare = repeatable.then(|| copy_of(&request));
        match lease.sender.try_send_request(request).await {
            Ok(response) => return Ok((response, lease)),
            Err(mut failed) => {
                let answered = failed.error().is_parse();
                let again = failed.take_message().or(spare.filter(|_| !answered));
                request = again.ok_or_else(|| reset(&lease, failed.into_error()))?;
            }
        }
    }
    let mut lease = connect_any(pools).await?;
    match lease.sender.try_send_request(request).await {
        Ok(response) => Ok((response, lease)),
        Err(failed) => Err(reset(&lease, failed.into_error())),
    }
}

async fn kept(pools: &[Arc<Pool>], now: Instant, max_age: Duration) -> Option<Lease> {
    for pool in pools {
        if let Some(lease) = pool.take(now, max_age).await {
            return Some(lease);
        }
    }
    None
}

async fn connect_any(pools: &[Arc<Pool>]) -> Result<Lease, UpstreamError> {
    let mut last = UpstreamError::Unknown;
    for pool in pools {
        match pool.connect().await {
            Ok(lease) => return Ok(lease),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn reset(lease: &Lease, source: hyper::Error) -> UpstreamError {
    UpstreamError::Reset { address: Arc::clone(&lease.pool.address), source }
}

fn may_repeat(request: &Request<RequestBody>) -> bool {
    request.body().is_empty()
        && matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
        )
}

fn copy_of(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::empty());
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}
