//! The control port: accepts connections within bounds, proves who asks, and opens streams.
//!
//! Everything about a connection is bounded: how many there are, how long a handshake takes, how
//! large headers are, how many requests run at once, and how long one may idle without a stream.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fusebox_policy::stream::{MAX_LINE_UP, PATH};
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{Channel, Either, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::book::ReportBook;
use super::commands::Commands;
use super::configurations::ConfigSource;
use super::directory::{Lookup, PodDirectory, PodEntry, Sidecar};
use super::endpoints::EndpointDirectory;
use super::line::{BACKLOG, Reader, Writer};
use super::metrics::ControlMetrics;
use super::references::ReferenceValues;
use super::refusal::Refusal;
use super::replicas::ReplicaCounts;
use super::seats::Seats;
use super::session::Session;
use crate::certificates::Tls;
use crate::lease::{Leadership, Role};
use crate::ops::{self, Operations};
use crate::peer::{self, PeerSession};
use crate::token::TokenVerifier;

/// Connections at once, at most.
const MAX_CONNECTIONS: usize = 8192;

/// Requests at once on one connection, at most.
const MAX_STREAMS: u32 = 8;

/// The largest header block, in bytes: a token and little else.
const MAX_HEADERS: u32 = 32 * 1024;

/// How long the TLS handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection without a stream for this long is closed.
const IDLE: Duration = Duration::from_secs(30);

/// Bytes that may be on their way up before they were read, for a stream and for a connection.
const WINDOW: u32 = 256 * 1024;

/// How often the book forgets what is gone.
const EXPIRE_EVERY: Duration = Duration::from_secs(1);

/// How long streams get to end when the operator shuts down.
const DRAIN: Duration = Duration::from_secs(2);

/// How long accepting pauses after it failed, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What the control port works with.
pub struct Control {
    /// The living pods.
    pub directory: PodDirectory,
    /// Who stands behind Services.
    pub endpoints: EndpointDirectory,
    /// What to serve.
    pub source: ConfigSource,
    /// The values that configurations name.
    pub references: ReferenceValues,
    /// How many proxies share each policy's limits.
    pub replicas: ReplicaCounts,
    /// Where commands for sidecars come from.
    pub commands: Commands,
    /// Where what comes up is kept.
    pub book: ReportBook,
    /// Who proves tokens.
    pub verifier: TokenVerifier,
    /// Whether this replica leads, and so takes peers.
    pub leadership: Leadership,
    /// Who answers what followers ask for people.
    pub operations: Operations,
    /// Metrics.
    pub metrics: ControlMetrics,
    /// The sidecars' places.
    pub(crate) seats: Seats,
    /// The other replicas' places.
    pub(crate) peers: Seats,
}

type Answer = Response<Either<Full<Bytes>, Channel<Bytes, Infallible>>>;

/// One connection, as its requests see it.
#[derive(Clone)]
struct Caller {
    control: Arc<Control>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    streams: Arc<AtomicUsize>,
    kind: CallerKind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CallerKind {
    Anybody,
    Peer,
}

/// Counts a stream on its connection for as long as it lives.
struct Counted(Arc<AtomicUsize>);

/// Serves the control port until `shutdown`, then lets streams end.
pub async fn serve(listener: TcpListener, tls: Tls, control: Arc<Control>, shutdown: CancellationToken) {
    let tasks = TaskTracker::new();
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut expire = tokio::time::interval(EXPIRE_EVERY);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = expire.tick() => {
                control.book.expire(std::time::Instant::now());
                continue;
            }
            () = shutdown.cancelled() => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(permit) = Arc::clone(&permits).try_acquire_owned() else {
            control.metrics.streams.connections_refused.inc();
            continue;
        };
        let caller = Caller {
            control: Arc::clone(&control),
            shutdown: shutdown.clone(),
            tasks: tasks.clone(),
            streams: Arc::default(),
            kind: CallerKind::Anybody,
        };
        tasks.spawn(connection(stream, tls.clone(), caller, permit));
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!("some control streams did not end in time");
    }
}

async fn connection(stream: TcpStream, tls: Tls, mut caller: Caller, _permit: OwnedSemaphorePermit) {
    // A refused option only costs latency.
    let _ = stream.set_nodelay(true);
    let acceptor = TlsAcceptor::from(tls.server());
    let stream = match tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake failed"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    if stream.get_ref().1.alpn_protocol() != Some(b"h2") {
        return tracing::debug!("a client did not ask for h2");
    }
    if tls.is_peer(stream.get_ref().1.peer_certificates()) {
        caller.kind = CallerKind::Peer;
    }
    serve_http(stream, caller).await;
}

async fn serve_http(stream: TlsStream<TcpStream>, caller: Caller) {
    let (streams, shutdown) = (Arc::clone(&caller.streams), caller.shutdown.clone());
    let service = service_fn(move |request| {
        let caller = caller.clone();
        async move { Ok::<_, Infallible>(caller.answer(request).await) }
    });
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADERS)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .keep_alive_interval(Duration::from_secs(20))
        .keep_alive_timeout(Duration::from_secs(10));
    let served = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(served);
    let mut look = tokio::time::interval(IDLE);
    look.tick().await;
    let mut closing = false;
    loop {
        tokio::select! {
            outcome = &mut served => {
                if let Err(error) = outcome {
                    tracing::debug!(%error, "connection ended");
                }
                return;
            }
            _ = look.tick(), if !closing => closing = streams.load(Ordering::Acquire) == 0,
            () = shutdown.cancelled(), if !closing => closing = true,
        }
        if closing {
            served.as_mut().graceful_shutdown();
        }
    }
}

impl Caller {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let opened = match (request.uri().path(), request.method()) {
            (ops::PATH, method) if *method == Method::POST && self.kind == CallerKind::Peer => {
                return ops::reply(&self.control.operations, request).await.map(Either::Left);
            }
            (ops::PATH, method) if *method == Method::POST => Err(Refusal::NotAPeer),
            (PATH | peer::PATH | ops::PATH, method) if *method != Method::POST => Err(Refusal::Method),
            (PATH, _) => self.open_stream(request).await,
            (peer::PATH, _) => self.open_peer(request),
            _ => Err(Refusal::NotFound),
        };
        match opened {
            Ok(body) => {
                let mut response = Response::new(Either::Right(body));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
                response
            }
            Err(refusal) => {
                self.control.metrics.streams.refused.with_label_values(&[refusal.reason()]).inc();
                tracing::info!(reason = refusal.reason(), "request refused");
                refusal.response().map(Either::Left)
            }
        }
    }

    async fn open_stream(&self, request: Request<Incoming>) -> Result<Channel<Bytes, Infallible>, Refusal> {
        let control = &self.control;
        let token = bearer(request.headers()).ok_or(Refusal::TokenMissing)?;
        let identity = control.verifier.verify(token, SystemTime::now()).await?;
        let entry = living(control.directory.lookup(&identity.pod.uid))?;
        if entry.pod != identity.pod {
            return Err(Refusal::PodUnknown);
        }
        if control.source.current().is_none() {
            return Err(Refusal::NotReady);
        }
        let (sender, body) = Channel::new(BACKLOG);
        let session = Session {
            control: Arc::clone(control),
            entry,
            expires_unix: identity.expires_unix,
            reader: Reader::new(request.into_body(), MAX_LINE_UP),
            writer: Writer::new(sender),
        };
        self.keep(session.run(self.shutdown.clone()));
        Ok(body)
    }

    fn open_peer(&self, request: Request<Incoming>) -> Result<Channel<Bytes, Infallible>, Refusal> {
        if self.kind != CallerKind::Peer {
            return Err(Refusal::NotAPeer);
        }
        if self.control.leadership.role() != Role::Leader {
            return Err(Refusal::NotLeader);
        }
        if self.control.peers.count() >= peer::MAX_PEERS {
            return Err(Refusal::TooManyPeers);
        }
        let (sender, body) = Channel::new(BACKLOG);
        let session = PeerSession::new(Arc::clone(&self.control), request.into_body(), sender);
        self.keep(session.run(self.shutdown.clone()));
        Ok(body)
    }

    /// Goes on with a session while its request is answered, and counts it for as long.
    fn keep(&self, session: impl Future<Output = ()> + Send + 'static) {
        self.streams.fetch_add(1, Ordering::AcqRel);
        let counted = Counted(Arc::clone(&self.streams));
        self.tasks.spawn(async move {
            session.await;
            drop(counted);
        });
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then_some(token)
}

fn living(found: Lookup) -> Result<Arc<PodEntry>, Refusal> {
    match found {
        Lookup::NotReady => Err(Refusal::NotReady),
        Lookup::Unknown => Err(Refusal::PodUnknown),
        Lookup::Found(entry) if entry.sidecar == Sidecar::Absent => Err(Refusal::NoSidecar),
        Lookup::Found(entry) => Ok(entry),
    }
}
