//! The control stream against a small operator of its own: TLS, HTTP/2, lines of JSON.
//!
//! The real operator is tried in the end-to-end tests; here the operator misbehaves on purpose.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fusebox_policy::config::ProxyConfig;
use fusebox_policy::report::{BreakerState, ProxyReport};
use fusebox_policy::stream::{self, Decoder, Down, MAX_LINE_UP, Up};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use http_body_util::channel::{Channel, Sender};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::support::{DEADLINE, Upstream, config, eventually, force, get, options, policy, rule, trip};
use crate::{HealthStatus, Options, Proxy};

/// An operator that accepts one token and hands its streams to the test.
struct Operator {
    address: SocketAddr,
    authority: String,
    token: Arc<Mutex<String>>,
    streams: mpsc::Receiver<Stream>,
    refused: Arc<Mutex<usize>>,
    connections: Arc<Mutex<CancellationToken>>,
}

/// One proxy's stream.
struct Stream {
    down: Sender<Bytes>,
    up: Incoming,
    decoder: Decoder,
    ready: VecDeque<Up>,
}

impl Stream {
    async fn send(&mut self, message: &Down) {
        self.down.send_data(stream::encode(message).unwrap().into()).await.unwrap();
    }

    async fn configure(&mut self, config: &ProxyConfig) {
        self.send(&Down::Config { revision: config.revision(), config: config.clone() }).await;
    }

    async fn next(&mut self) -> Up {
        tokio::time::timeout(DEADLINE, async {
            loop {
                if let Some(message) = self.ready.pop_front() {
                    return message;
                }
                let frame = self.up.frame().await.expect("a frame").unwrap();
                if let Ok(bytes) = frame.into_data() {
                    self.ready.extend(self.decoder.push::<Up>(&bytes).unwrap());
                }
            }
        })
        .await
        .expect("a message before the deadline")
    }

    async fn report(&mut self) -> ProxyReport {
        loop {
            if let Up::Report(report) = self.next().await {
                return report;
            }
        }
    }
}

impl Operator {
    async fn start() -> Self {
        let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut tls = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key)
            .unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, streams) = mpsc::channel(16);
        let operator = Self {
            address,
            authority: certified.cert.pem(),
            token: Arc::new(Mutex::new("first".to_owned())),
            streams,
            refused: Arc::default(),
            connections: Arc::default(),
        };
        let (token, refused) = (Arc::clone(&operator.token), Arc::clone(&operator.refused));
        let connections = Arc::clone(&operator.connections);
        let acceptor = TlsAcceptor::from(Arc::new(tls));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let Ok(tls) = acceptor.accept(tcp).await else { continue };
                let (token, refused, sender) = (Arc::clone(&token), Arc::clone(&refused), sender.clone());
                let cut = connections.lock().clone();
                let service = service_fn(move |request| {
                    let answer = answer(request, &token, &refused, &sender);
                    async move { Ok::<_, Infallible>(answer) }
                });
                tokio::spawn(async move {
                    let serving =
                        http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(tls), service);
                    tokio::select! {
                        _ = serving => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
        });
        operator
    }

    /// Cuts every connection there is, as a killed operator does.
    fn cut(&self) {
        std::mem::take(&mut *self.connections.lock()).cancel();
    }

    fn options(&self, directory: &Path) -> Options {
        let (authority, token) = (directory.join("ca.crt"), directory.join("token"));
        std::fs::write(&authority, &self.authority).unwrap();
        std::fs::write(&token, "first\n").unwrap();
        Options {
            control: vec![format!("https://{}", self.address).parse().unwrap()],
            control_ca: Some(authority),
            token_file: Some(token),
            ..options()
        }
    }

    async fn stream(&mut self) -> Stream {
        tokio::time::timeout(DEADLINE, self.streams.recv()).await.expect("a stream before the deadline").unwrap()
    }
}

fn answer(
    request: Request<Incoming>,
    token: &Mutex<String>,
    refused: &Mutex<usize>,
    streams: &mpsc::Sender<Stream>,
) -> Response<Channel<Bytes>> {
    let (down, body) = Channel::new(16);
    let mut response = Response::new(body);
    let expected = format!("Bearer {}", token.lock());
    let given = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
    if request.uri().path() != stream::PATH || given != Some(expected) {
        *refused.lock() += 1;
        *response.status_mut() = StatusCode::UNAUTHORIZED;
        return response;
    }
    let decoder = Decoder::new(MAX_LINE_UP);
    let stream = Stream { down, up: request.into_body(), decoder, ready: VecDeque::new() };
    streams.try_send(stream).map_err(|_| ()).unwrap();
    response
}

/// A proxy and an operator of its own, with the stream that the proxy has just opened.
struct Connected {
    upstream: Upstream,
    operator: Operator,
    proxy: Proxy,
    stream: Stream,
    directory: tempfile::TempDir,
}

async fn connected() -> Connected {
    let (upstream, mut operator) = (Upstream::start().await, Operator::start().await);
    let directory = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(operator.options(directory.path())).await.unwrap();
    let stream = operator.stream().await;
    Connected { upstream, operator, proxy, stream, directory }
}

#[tokio::test]
async fn a_configuration_is_acknowledged_enforced_and_reported() {
    let Connected { upstream, operator: _operator, proxy, mut stream, directory: _directory } = connected().await;
    assert!(matches!(stream.next().await, Up::Hello { revision: None, ref policies, .. } if policies.is_empty()));
    assert_eq!(stream.report().await, ProxyReport { full: true, breakers: Vec::new() });
    eventually("control is healthy", || proxy.health().control.status == HealthStatus::Healthy).await;

    let settings = config(upstream.address);
    stream.configure(&settings).await;
    let expected = Up::Ack { revision: settings.revision(), policies: settings.policies.clone() };
    assert_eq!(stream.next().await, expected);
    assert!(stream.report().await.full, "what is gone after a configuration is said by a full report");

    trip(&proxy, proxy.listeners()[0].address).await;
    let started = Instant::now();
    let report = loop {
        let report = stream.report().await;
        if report.breakers.iter().any(|breaker| breaker.state == BreakerState::Open) {
            break report;
        }
    };
    assert!(started.elapsed() < Duration::from_secs(1), "a transition is told at once");
    assert!(!report.full);
    let breaker = &report.breakers[0];
    assert_eq!((breaker.trips, breaker.reason.as_str()), (1, "ConsecutiveFailures"));
    assert_eq!(breaker.key.policy.name, "pay");
}

#[tokio::test]
async fn a_configuration_that_cannot_be_enforced_is_refused_with_the_field() {
    let Connected { upstream, operator: _operator, proxy, mut stream, directory: _directory } = connected().await;
    let good = config(upstream.address);
    stream.configure(&good).await;
    let mut bad = good.clone();
    policy(&mut bad).rules[0].timeout_ms = Some(0);
    stream.configure(&bad).await;
    let error = loop {
        if let Up::Nack { revision, error } = stream.next().await {
            assert_eq!(revision, bad.revision());
            break error;
        }
    };
    assert!(error.starts_with("outbound[0].circuitBreaker.rules[0].timeoutMs: "), "{error}");
    assert_eq!(proxy.state().revision, Some(good.revision()));
    assert_eq!(proxy.health().config.status, HealthStatus::Degraded);
}

#[tokio::test]
async fn without_the_operator_traffic_flows_on_and_the_proxy_comes_back() {
    let Connected { upstream, mut operator, proxy, mut stream, directory: _directory } = connected().await;
    let address = proxy.listeners()[0].address;
    let settings = config(upstream.address);
    stream.configure(&settings).await;
    eventually("the configuration is in force", || proxy.state().revision.is_some()).await;

    operator.cut();
    drop(stream);
    eventually("control is degraded", || proxy.health().control.status == HealthStatus::Degraded).await;
    trip(&proxy, address).await;
    let mut stream = operator.stream().await;
    let hello = stream.next().await;
    assert!(matches!(hello, Up::Hello { revision: Some(ref revision), .. } if *revision == settings.revision()));
    let report = stream.report().await;
    assert!(report.full && report.breakers[0].state == BreakerState::Open, "the first report says all: {report:?}");
}

#[tokio::test]
async fn a_refused_token_is_read_again() {
    let mut operator = Operator::start().await;
    *operator.token.lock() = "second".to_owned();
    let directory = tempfile::tempdir().unwrap();
    let options = operator.options(directory.path());
    let token = options.token_file.clone().unwrap();
    let proxy = Proxy::start(options).await.unwrap();
    let refused = Arc::clone(&operator.refused);
    eventually("the first token was refused", || *refused.lock() > 0).await;
    eventually("health says why", || proxy.health().control.message.contains("401")).await;
    std::fs::write(&token, "second").unwrap();
    operator.stream().await;
}

#[tokio::test]
async fn an_operator_with_another_authority_is_not_trusted() {
    let mut operator = Operator::start().await;
    let directory = tempfile::tempdir().unwrap();
    let options = operator.options(directory.path());
    let other = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(options.control_ca.as_ref().unwrap(), other.cert.pem()).unwrap();
    let proxy = Proxy::start(options).await.unwrap();
    eventually("the handshake failed", || proxy.health().control.message.contains("certificate")).await;
    assert!(operator.streams.try_recv().is_err());
}

#[tokio::test]
async fn a_ping_is_answered_and_nonsense_ends_the_stream() {
    let mut operator = Operator::start().await;
    let directory = tempfile::tempdir().unwrap();
    let _proxy = Proxy::start(operator.options(directory.path())).await.unwrap();
    let mut stream = operator.stream().await;
    stream.send(&Down::Ping).await;
    while stream.next().await != Up::Pong {}
    stream.down.send_data(Bytes::from_static(b"nonsense\n")).await.unwrap();
    operator.stream().await;
}

#[tokio::test]
async fn a_flapping_breaker_sends_at_most_ten_reports_a_second_and_ends_exact() {
    let Connected { upstream, operator: _operator, proxy, mut stream, directory: _directory } = connected().await;
    let address = proxy.listeners()[0].address;
    let mut settings = config(upstream.address);
    let breaker = &mut policy(&mut settings).rules[0].breaker;
    breaker.trip.consecutive_failures = Some(1);
    breaker.open.base_duration_ms = 1;
    breaker.open.max_duration_ms = 1;
    breaker.half_open.success_threshold = 1;
    proxy.apply(&settings).unwrap();
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(1) {
        get(address, "/status/500").await;
        get(address, "/").await;
    }
    let elapsed = started.elapsed().as_millis();
    let trips = proxy.state().breakers[0].report.trips;
    let mut reports = 0;
    loop {
        let report = stream.report().await;
        reports += 1;
        if report.breakers.first().is_some_and(|breaker| breaker.trips >= trips) {
            break;
        }
    }
    assert!(trips > 20, "{trips} trips");
    assert!(reports <= elapsed / 100 + 3, "{reports} reports in {elapsed} ms");
}

#[tokio::test]
async fn an_override_over_the_stream_is_enforced_at_once() {
    let Connected { upstream, operator: _operator, proxy, mut stream, directory: _directory } = connected().await;
    let mut settings = config(upstream.address);
    policy(&mut settings).rules.insert(0, {
        let mut other = rule("other");
        other.matches =
            Some(fusebox_policy::config::RequestMatch { methods: vec!["PUT".into()], ..Default::default() });
        other
    });
    let forced = fusebox_policy::config::ForcedState::ForcedOpen;
    policy(&mut settings).force = force(forced, Duration::from_secs(60));
    stream.configure(&settings).await;
    while !matches!(stream.next().await, Up::Ack { .. }) {}
    let answer = get(proxy.listeners()[0].address, "/").await;
    assert_eq!(answer.header("fusebox-policy"), "shop/pay; state=forced-open");
    let report = stream.report().await;
    assert!(report.breakers.len() == 2 && report.breakers.iter().all(|breaker| breaker.forced == Some(forced)));
}
