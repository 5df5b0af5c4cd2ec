//! The operations port: accepts connections within bounds, and takes each request from its caller to its answer.
//!
//! Who shows no certificate of the front proxy gets one answer and is closed. It must not read a body, or look anything up,
//! before it is known who asks and that they may.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use jiff::Timestamp;
use kube::Client;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{NoClientAuth, NoServerSessionStorage};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::authorization::{Attributes, Authorizer};
use super::forward::json_response;
use super::front_proxy::{FrontProxies, User};
use super::metrics::OperationsMetrics;
use super::refusal::Refusal;
use super::route::{Asked, Query, Route, operation};
use super::table::{Form, accepted};
use super::{Answer, Replica, discovery};
use crate::certificates::{CertificateError, Purpose};
use crate::metrics::Metrics;

/// Connections of the front proxy at once, at most.
const MAX_CONNECTIONS: usize = 256;

/// Connections at once that have not shown who they are, or can't, at most.
const MAX_STRANGERS: usize = 64;

/// Requests that are answered at once, at most.
const MAX_REQUESTS: usize = 64;

/// The longest body, in bytes: an override and little else.
const MAX_BODY: usize = 64 * 1024;

/// The largest head, in bytes: a user's groups and extra fields stand in it.
const MAX_HEAD: usize = 64 * 1024;

/// How long a handshake, a stranger's request, or a body may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// The front proxy's connection without a request for this long is closed.
const IDLE: Duration = Duration::from_secs(90);

/// How long accepting pauses after it failed, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long requests get to end when the operator shuts down.
const DRAIN: Duration = Duration::from_secs(2);

/// What an answer says of itself while a new leader has not heard everybody.
const INCOMPLETE: &str = "299 - \"the operator has just begun to listen: some pods have not spoken yet\"";

/// What the operations port works with; cheap to clone.
#[derive(Clone)]
pub struct Server {
    replica: Replica,
    authorizer: Authorizer,
    front_proxies: FrontProxies,
    metrics: OperationsMetrics,
    turns: Arc<Semaphore>,
}

/// What is counted of a request.
struct Counted {
    resource: &'static str,
    verb: &'static str,
}

/// Serves the operations port until `stop`.
pub async fn serve(listener: TcpListener, server: Server, stop: CancellationToken) {
    let tasks = TaskTracker::new();
    let (strangers, known) = (Arc::new(Semaphore::new(MAX_STRANGERS)), Arc::new(Semaphore::new(MAX_CONNECTIONS)));
    while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let Ok(place) = Arc::clone(&strangers).try_acquire_owned() else {
            server.metrics.connections_refused.inc();
            continue;
        };
        let (server, known, stop) = (server.clone(), Arc::clone(&known), stop.clone());
        tasks.spawn(async move {
            let Some(stream) = server.handshake(stream).await else { return };
            if stream.get_ref().1.peer_certificates().is_none() {
                // It keeps its place among strangers for its one request.
                return server.connection(stream, stop).await;
            }
            drop(place);
            match known.try_acquire_owned() {
                Ok(_place) => server.connection(stream, stop).await,
                Err(_) => server.metrics.connections_refused.inc(),
            }
        });
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!("some requests to the operations API did not end in time");
    }
}

impl Server {
    /// A server that believes nobody until it has read who the front proxy is.
    #[must_use]
    pub fn new(replica: Replica, client: Client, metrics: OperationsMetrics) -> Self {
        Self {
            replica,
            authorizer: Authorizer::new(client),
            front_proxies: FrontProxies::default(),
            metrics,
            turns: Arc::new(Semaphore::new(MAX_REQUESTS)),
        }
    }

    /// Follows who the front proxy is, until `stop`.
    pub fn follow_front_proxy(
        &self,
        client: Client,
        metrics: Metrics,
        stop: CancellationToken,
    ) -> impl Future<Output = ()> + Send + use<> {
        self.front_proxies.clone().follow(client, metrics, stop)
    }

    async fn handshake(&self, stream: TcpStream) -> Option<TlsStream<TcpStream>> {
        // A refused option only costs latency.
        let _ = stream.set_nodelay(true);
        let config = self.tls().inspect_err(|error| tracing::error!(%error, "no TLS for the operations API")).ok()?;
        match tokio::time::timeout(PATIENCE, TlsAcceptor::from(Arc::new(config)).accept(stream)).await {
            Ok(Ok(stream)) => Some(stream),
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                None
            }
            Err(_) => None,
        }
    }

    /// The certificate and the front proxy of this moment. Nothing of a session is kept, so that each connection proves itself.
    fn tls(&self) -> Result<ServerConfig, CertificateError> {
        let verifier = self.front_proxies.current().map(|it| it.verifier()).unwrap_or_else(|| Arc::new(NoClientAuth));
        let config = self.replica.tls.server_config(Purpose::Operations(verifier))?;
        let mut config = ServerConfig::clone(&config);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    async fn connection(self, stream: TlsStream<TcpStream>, stop: CancellationToken) {
        let shown = stream.get_ref().1.peer_certificates();
        let shown: Arc<[CertificateDer<'static>]> = shown.map(<[_]>::to_vec).unwrap_or_default().into();
        let is_stranger = shown.is_empty();
        let service = service_fn(move |request| {
            let (server, shown) = (self.clone(), Arc::clone(&shown));
            async move { Ok::<_, Infallible>(server.respond(request, &shown).await) }
        });
        let mut builder = http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .keep_alive(!is_stranger)
            .header_read_timeout(if is_stranger { PATIENCE } else { IDLE })
            .max_buf_size(MAX_HEAD);
        let served = builder.serve_connection(TokioIo::new(stream), service);
        tokio::pin!(served);
        tokio::select! {
            // How a connection ended is the client's business.
            _ = &mut served => return,
            () = stop.cancelled() => {}
        }
        served.as_mut().graceful_shutdown();
        let _ = served.await;
    }

    async fn respond(&self, request: Request<Incoming>, shown: &[CertificateDer<'_>]) -> Response<Full<Bytes>> {
        let mut counted = Counted { resource: "", verb: "" };
        let mut response = match self.answer(request, shown, &mut counted).await {
            Ok(response) => response,
            Err(refusal) => refused(&refusal),
        };
        let code = response.status();
        self.metrics.requests.with_label_values(&[counted.resource, counted.verb, code.as_str()]).inc();
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
        response
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        shown: &[CertificateDer<'_>],
        counted: &mut Counted,
    ) -> Result<Response<Full<Bytes>>, Refusal> {
        let (head, body) = request.into_parts();
        let user = self.authenticate(shown, &head.headers)?;
        let _turn = self.turns.try_acquire().map_err(|_| Refusal::Busy)?;
        let query = Query::parse(head.uri.query().unwrap_or_default())?;
        let form = accepted(head.headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
        let attributes = match Route::find(&head.method, head.uri.path(), &query)? {
            Route::Resource(attributes) => attributes,
            route => return discover(&route, form),
        };
        self.authorizer.authorize(&user, &attributes).await.inspect_err(|refusal| log(refusal, &user, &attributes))?;
        let operation = operation(&attributes)?;
        *counted = Counted { resource: operation.resource, verb: operation.verb };
        let form = form?;
        let body = if has_body(&head.method) { read(body).await? } else { Bytes::new() };
        let asked = Asked { attributes: &attributes, query: &query, user: &user, body: &body };
        let answer = self.replica.answer((operation.read)(&asked)?).await;
        answer.inspect_err(|refusal| log(refusal, &user, &attributes)).and_then(|answer| shape(&answer, form, &query))
    }

    fn authenticate(&self, shown: &[CertificateDer<'_>], headers: &HeaderMap) -> Result<User, Refusal> {
        let front_proxy = self.front_proxies.current();
        let front_proxy = front_proxy.ok_or(Refusal::Unauthenticated("no front proxy is known"));
        let user = front_proxy.and_then(|it| it.authenticate(shown, headers, UnixTime::now()));
        user.inspect_err(|refusal| {
            if let Refusal::Unauthenticated(why) = refusal {
                tracing::info!(why, "a request to the operations API was not authenticated");
            }
        })
    }
}

fn log(refusal: &Refusal, user: &User, attributes: &Attributes) {
    let (reason, resource) = (refusal.reason(), attributes.resource());
    tracing::info!(reason, user = user.name, verb = attributes.verb, resource, "a request was refused");
}

fn has_body(method: &Method) -> bool {
    [Method::POST, Method::PUT].contains(method)
}

async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Refusal::TooLarge(MAX_BODY)),
        Ok(Err(_)) => Err(Refusal::Malformed("the body broke off".to_owned())),
        Err(_) => Err(Refusal::SlowBody),
    }
}

fn discover(route: &Route, form: Result<Form, Refusal>) -> Result<Response<Full<Bytes>>, Refusal> {
    // The API server asks for OpenAPI in forms of its own and takes JSON as well.
    let value = match (route, form) {
        (Route::Groups, Ok(Form::AggregatedDiscovery)) => return Ok(aggregated()),
        (Route::OpenApiV2, _) => discovery::open_api_v2(),
        (Route::OpenApiV3, _) => discovery::open_api_v3(),
        (Route::OpenApiV3Document, _) => discovery::open_api_v3_document(),
        (_, Err(refusal)) => return Err(refusal),
        (Route::Groups, Ok(_)) => discovery::groups(),
        (Route::Group, Ok(_)) => discovery::group(),
        (Route::Version, Ok(_)) => discovery::resources(),
        (Route::Resource(_), Ok(_)) => return Err(Refusal::NoSuchPath),
    };
    Ok(sent(&value))
}

fn aggregated() -> Response<Full<Bytes>> {
    let mut response = sent(&discovery::aggregated());
    let content = HeaderValue::from_static("application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    response.headers_mut().insert(CONTENT_TYPE, content);
    response
}

fn shape(answer: &Answer, form: Form, query: &Query) -> Result<Response<Full<Bytes>>, Refusal> {
    let table = if form == Form::Table { answer.table(Timestamp::now()) } else { None };
    let value = match table {
        Some(table) => table.to_value(&query.include_object),
        None => answer.to_value().map_err(|_| Refusal::Unavailable("the answer could not be written"))?,
    };
    let mut response = sent(&value);
    if answer.is_incomplete() {
        response.headers_mut().insert(WARNING, HeaderValue::from_static(INCOMPLETE));
    }
    Ok(response)
}

fn sent(value: &Value) -> Response<Full<Bytes>> {
    json_response(StatusCode::OK, value.to_string().into_bytes())
}

fn refused(refusal: &Refusal) -> Response<Full<Bytes>> {
    // A status is plain data; an empty one only costs its words.
    let body = serde_json::to_vec(&refusal.status()).unwrap_or_default();
    let mut response = json_response(refusal.code(), body);
    if let Some(after) = refusal.retry_after() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(after.as_secs()));
    }
    // The front proxy's next connection shows its newest certificate; a body that was not read is not waited for.
    if matches!(refusal, Refusal::Unauthenticated(_) | Refusal::TooLarge(_) | Refusal::SlowBody) {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}
