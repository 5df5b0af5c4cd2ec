//! HTTP/2 connections to one address: several, each with a bounded number of streams.
//!
//! It must know how busy each connection is, because hyper queues what a peer does not take at once and
//! does not say so. A connection that is leaving takes no new streams; those it has are finished.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use parking_lot::Mutex;
use tokio::net::TcpStream;

use super::{MAX_IDLE_AGE, UpstreamError};
use crate::pipeline::request_body::RequestBody;

/// Connections to one address at most; beyond them the least busy one takes more.
pub(crate) const MAX_CONNECTIONS: usize = 16;

/// Streams of one connection before another one is made, however many the peer would take.
pub(crate) const MAX_STREAMS: usize = 100;

/// A connection this old takes no new streams, so that load spreads over the endpoints there are by then.
pub(crate) const MAX_AGE: Duration = Duration::from_secs(600);

/// Bytes of an answer that may be on their way on each stream before the client has taken them.
const STREAM_WINDOW: u32 = 64 << 10;

/// The same for all streams of a connection.
const CONNECTION_WINDOW: u32 = 1 << 20;

/// Bytes of a request held for an upstream that does not read, for each stream.
const SEND_BUFFER: usize = 64 << 10;

/// A silent upstream with streams open is asked for a sign of life this often,
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// and has this long to give it.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The connections to one address.
#[derive(Debug, Default)]
pub(super) struct Connections {
    open: Mutex<Vec<Arc<Multiplexed>>>,
    /// Held by the one who connects, so that a burst of first requests makes one connection and not many.
    dialing: tokio::sync::Mutex<Option<Failure>>,
}

/// A connection that could not be made. Who waited for it meanwhile shares it, instead of trying in turn.
#[derive(Debug)]
struct Failure {
    at: Instant,
    address: Arc<str>,
    kind: std::io::ErrorKind,
}

/// One connection.
pub(super) struct Multiplexed {
    sender: SendRequest<RequestBody>,
    streams: AtomicUsize,
    /// What the peer takes at once, as far as it said.
    limit: Arc<AtomicUsize>,
    born: Instant,
    idle_since: Mutex<Instant>,
    local: Option<SocketAddr>,
}

/// One stream's place on a connection.
#[derive(Debug)]
pub(super) struct Slot(Arc<Multiplexed>);

impl Connections {
    /// A place on a connection that has room, which `dial` makes when there is none.
    pub(super) async fn slot<F>(
        &self,
        now: Instant,
        dial: impl FnOnce() -> F,
    ) -> Result<Result<Slot, hyper::Error>, UpstreamError>
    where
        F: Future<Output = Result<TcpStream, UpstreamError>>,
    {
        if let Some(slot) = self.free(now, MAX_STREAMS) {
            return Ok(Ok(slot));
        }
        let asked = Instant::now();
        let mut failure = self.dialing.lock().await;
        if let Some(slot) = self.free(now, MAX_STREAMS) {
            return Ok(Ok(slot));
        }
        if self.open.lock().len() >= MAX_CONNECTIONS
            && let Some(slot) = self.free(now, usize::MAX)
        {
            return Ok(Ok(slot));
        }
        if let Some(Failure { address, kind, .. }) = failure.as_ref().filter(|failure| failure.at >= asked) {
            return Err(UpstreamError::Connect { address: Arc::clone(address), source: (*kind).into() });
        }
        let stream = dial().await.inspect_err(|error| *failure = Failure::of(error))?;
        let connection = match Multiplexed::new(stream, now).await {
            Ok(connection) => Arc::new(connection),
            Err(error) => return Ok(Err(error)),
        };
        let slot = Slot::on(&connection);
        self.open.lock().push(connection);
        Ok(Ok(slot))
    }

    /// Forgets connections that take no new streams, and those nobody has used for long.
    pub(super) fn sweep(&self, now: Instant) {
        self.open.lock().retain(|connection| connection.takes_streams(now) && !connection.is_idle_too_long(now));
    }

    /// A place on the least busy connection with fewer than `most` streams.
    fn free(&self, now: Instant, most: usize) -> Option<Slot> {
        let mut open = self.open.lock();
        open.retain(|connection| connection.takes_streams(now));
        let least = open.iter().min_by_key(|connection| connection.streams.load(Relaxed))?;
        let room = most.min(if most == usize::MAX { most } else { least.limit.load(Relaxed) });
        (least.streams.load(Relaxed) < room).then(|| Slot::on(least))
    }
}

impl Failure {
    fn of(error: &UpstreamError) -> Option<Self> {
        match error {
            UpstreamError::Connect { address, source } => {
                Some(Self { at: Instant::now(), address: Arc::clone(address), kind: source.kind() })
            }
            UpstreamError::Unknown | UpstreamError::Reset { .. } | UpstreamError::Interim => None,
        }
    }
}

impl Multiplexed {
    async fn new(stream: TcpStream, now: Instant) -> Result<Self, hyper::Error> {
        let local = stream.local_addr().ok();
        let (sender, mut connection) = builder().handshake(TokioIo::new(stream)).await?;
        let limit = Arc::new(AtomicUsize::new(MAX_STREAMS));
        let told = Arc::clone(&limit);
        tokio::spawn(async move {
            let ended = std::future::poll_fn(|cx| {
                let polled = std::pin::Pin::new(&mut connection).poll(cx);
                if polled.is_pending() {
                    told.store(connection.current_max_send_streams().max(1), Relaxed);
                }
                polled
            });
            if let Err(error) = ended.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "upstream connection ended");
            }
        });
        Ok(Self { sender, streams: AtomicUsize::new(0), limit, born: now, idle_since: Mutex::new(now), local })
    }

    fn takes_streams(&self, now: Instant) -> bool {
        !self.sender.is_closed() && now.saturating_duration_since(self.born) < MAX_AGE
    }

    fn is_idle_too_long(&self, now: Instant) -> bool {
        self.streams.load(Relaxed) == 0 && now.saturating_duration_since(*self.idle_since.lock()) > MAX_IDLE_AGE
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(u32::try_from(crate::listener::MAX_HEADER_BYTES).unwrap_or(u32::MAX))
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    builder
}

impl std::fmt::Debug for Multiplexed {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Multiplexed").field("streams", &self.streams).finish_non_exhaustive()
    }
}

impl Slot {
    fn on(connection: &Arc<Multiplexed>) -> Self {
        connection.streams.fetch_add(1, Relaxed);
        Self(Arc::clone(connection))
    }

    /// This side's end of its connection.
    pub(super) fn local(&self) -> Option<SocketAddr> {
        self.0.local
    }

    /// Sends `request` on a stream of its own.
    pub(super) async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<RequestBody>>> {
        self.0.sender.clone().try_send_request(request).await
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Relaxed) == 1 {
            *self.0.idle_since.lock() = Instant::now();
        }
    }
}

/// Whether the upstream said that it did nothing about the request (RFC 9113 section 8.7), so that it may be sent again.
pub(super) fn is_unprocessed(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    source.is_some_and(|error| {
        let reason = error.reason();
        error.is_remote()
            && ((error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM))
                || (error.is_go_away() && reason == Some(h2::Reason::NO_ERROR)))
    })
}
