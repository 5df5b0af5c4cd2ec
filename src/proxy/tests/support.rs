//! An upstream that misbehaves on request, a plain client, and configurations.
//!
//! The upstream speaks over bare sockets, because it has to do what no HTTP library would.

use std::net::SocketAddr;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fusebox_policy::config::{
    BreakerParameters, BreakerRule, CircuitBreaker, FailureCondition, FailureOn, HalfOpen, Mode, Open, OutboundRoute,
    Override, PolicyId, PolicyVersion, Protocol, ProxyConfig, Recovery, ServiceId, Side, StatusRange, TargetId, Trip,
    WorkloadId,
};
use fusebox_policy::report::BreakerState;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::counts::Counts;
use crate::{Options, Proxy};

/// How long anything in these tests may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A server whose behaviour the request's path chooses.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    counts: Counts,
    sent: AtomicUsize,
    sick: AtomicBool,
}

pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

impl Upstream {
    pub(crate) async fn start() -> Self {
        Self::on("127.0.0.1:0".parse().unwrap()).await
    }

    pub(crate) async fn on(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let upstream = Self { address, shared: Arc::clone(&shared) };
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                shared.counts.connection();
                tokio::spawn(converse(stream, Arc::clone(&shared)));
            }
        });
        upstream
    }

    /// While it is sick it answers everything with 503.
    pub(crate) fn set_sick(&self, sick: bool) {
        self.shared.sick.store(sick, Ordering::SeqCst);
    }

    pub(crate) fn sent(&self) -> usize {
        self.shared.sent.load(Ordering::SeqCst)
    }
}

impl Deref for Upstream {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.shared.counts
    }
}

/// How late the paths `/late` and `/trickle` are.
const LATE: Duration = Duration::from_millis(200);

async fn converse(stream: TcpStream, shared: Arc<Shared>) {
    let mut stream = BufReader::new(stream);
    while let Some((head, body)) = receive(&mut stream).await {
        shared.counts.request();
        let path = head.split(' ').nth(1).unwrap_or("/").to_owned();
        let (verb, argument) =
            path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
        let (verb, argument) = if shared.sick.load(Ordering::SeqCst) { ("status", "503") } else { (verb, argument) };
        let answer = match verb {
            "retry" => reply("503", &format!("retry-after: {argument}\r\n"), b""),
            "status" => reply(argument, "", b"told"),
            "echo" => reply("200", "", &body),
            "head" => reply("200", "", head.as_bytes()),
            "forged" => reply(argument, "fusebox-error: circuit-open\r\nfusebox-policy: a/b; state=open\r\n", b""),
            "hop" => reply("200", "connection: x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\nx-end: 1\r\n", b""),
            "chunked" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec(),
            "reset" => return,
            "dies" => {
                let _ = stream.get_mut().write_all(&reply("200", "", b"bye")).await;
                return;
            }
            "partial" => {
                let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n0123456789").await;
                return;
            }
            "stall" => {
                let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n0123456789").await;
                return wait_for_end(&mut stream, &shared).await;
            }
            "late" => {
                tokio::time::sleep(LATE).await;
                reply("200", "", b"late")
            }
            "trickle" => {
                let _ = stream.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nla").await;
                tokio::time::sleep(LATE).await;
                b"te".to_vec()
            }
            "hang" => return wait_for_end(&mut stream, &shared).await,
            "big" => return pour(&mut stream, argument.parse().unwrap(), &shared).await,
            _ => reply("200", "", b"ok"),
        };
        if stream.get_mut().write_all(&answer).await.is_err() {
            return;
        }
    }
}

fn reply(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 {status} Told\r\ncontent-length: {}\r\n{headers}\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// The peer's end is an abort: it was still waiting for us.
async fn wait_for_end(stream: &mut BufReader<TcpStream>, shared: &Shared) {
    let mut byte = [0; 1];
    let _ = stream.read(&mut byte).await;
    shared.counts.abort();
}

async fn pour(stream: &mut BufReader<TcpStream>, length: usize, shared: &Shared) {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n");
    let block = vec![b'x'; 64 << 10];
    let mut left = length;
    if stream.get_mut().write_all(head.as_bytes()).await.is_err() {
        return;
    }
    while left > 0 {
        let part = left.min(block.len());
        if stream.get_mut().write_all(&block[..part]).await.is_err() {
            return;
        }
        left -= part;
        shared.sent.fetch_add(part, Ordering::SeqCst);
    }
}

async fn receive(stream: &mut BufReader<TcpStream>) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    loop {
        let start = head.len();
        if stream.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
        if head[start..].trim_end().is_empty() {
            break;
        }
    }
    let value = |name: &str| {
        head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix(name).map(|value| value.trim().to_owned()))
    };
    let mut body = Vec::new();
    if let Some(length) = value("content-length:") {
        body.resize(length.parse().ok()?, 0);
        stream.read_exact(&mut body).await.ok()?;
    } else if value("transfer-encoding:").is_some() {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size).await.ok()?;
            let length = usize::from_str_radix(size.trim(), 16).ok()?;
            let mut chunk = vec![0; length + 2];
            stream.read_exact(&mut chunk).await.ok()?;
            if length == 0 {
                break;
            }
            body.extend_from_slice(&chunk[..length]);
        }
    }
    Some((head, body))
}

/// A client's connection that is kept.
pub(crate) struct Client(SendRequest<Full<Bytes>>);

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self(sender)
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        self.try_get(path).await.unwrap()
    }

    pub(crate) async fn try_get(&mut self, path: &str) -> Result<Answer, hyper::Error> {
        let request = Request::get(path).header("host", "payments.shop").body(Full::default()).unwrap();
        self.send(request).await
    }

    pub(crate) async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Answer, hyper::Error> {
        tokio::time::timeout(DEADLINE, async {
            self.0.ready().await?;
            let (parts, body) = self.0.send_request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(Answer { status: parts.status, headers: parts.headers, body })
        })
        .await
        .expect("an answer before the deadline")
    }
}

/// One request on a connection of its own.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    Client::connect(address).await.get(path).await
}

/// Sends bytes as they are and returns all that comes back until the connection is closed.
pub(crate) async fn raw(address: SocketAddr, bytes: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap().unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Waits until `check` holds.
pub(crate) async fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let mut interval = tokio::time::interval(Duration::from_millis(5));
    let waiting = async {
        while !check() {
            interval.tick().await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, waiting).await.is_ok(), "not in time: {what}");
}

/// Options with one outbound listener to shop/payments:80, everything on free ports.
pub(crate) fn options() -> Options {
    Options {
        outbound: vec!["127.0.0.1:0=shop/payments:80".parse().unwrap()],
        admin: "127.0.0.1:0".parse().unwrap(),
        ..Options::default()
    }
}

/// A proxy with [`options`] under `config`, and its listener's address.
pub(crate) async fn proxy(config: &ProxyConfig) -> (Proxy, SocketAddr) {
    let proxy = Proxy::start(options()).await.unwrap();
    proxy.apply(config).unwrap();
    let address = proxy.listeners()[0].address;
    (proxy, address)
}

/// A policy on shop/payments:80 that trips after three failures in a row.
pub(crate) fn config(upstream: SocketAddr) -> ProxyConfig {
    let policy = PolicyId { namespace: "shop".into(), name: "pay".into() };
    let circuit_breaker = CircuitBreaker {
        policy: policy.clone(),
        target: TargetId {
            kind: "Service".into(),
            namespace: "shop".into(),
            name: "payments".into(),
            section: String::new(),
        },
        side: Side::Client,
        mode: Mode::Enforce,
        rules: vec![rule("")],
        endpoint_scope: None,
        fallback: None,
        force: None,
    };
    ProxyConfig {
        policies: vec![PolicyVersion {
            kind: "CircuitBreakerPolicy".into(),
            id: policy,
            uid: String::new(),
            generation: 3,
        }],
        outbound: vec![OutboundRoute {
            service: ServiceId { namespace: "shop".into(), name: "payments".into() },
            port: 80,
            port_name: String::new(),
            protocol: Protocol::Detect,
            addresses: vec![upstream.to_string()],
            circuit_breaker: Some(circuit_breaker),
            rate_limit: None,
        }],
        ..ProxyConfig::empty(WorkloadId { namespace: "shop".into(), kind: "Deployment".into(), name: "web".into() })
    }
}

pub(crate) fn rule(name: &str) -> BreakerRule {
    use FailureCondition::{ConnectFailure, Reset, Timeout};
    BreakerRule {
        name: name.into(),
        matches: None,
        timeout_ms: None,
        failure_on: FailureOn {
            http_status: vec![StatusRange { from: 500, to: 599 }],
            grpc_codes: Vec::new(),
            conditions: vec![Timeout, ConnectFailure, Reset],
        },
        breaker: BreakerParameters {
            trip: Trip { consecutive_failures: Some(3), ..Trip::default() },
            open: Open {
                base_duration_ms: 60_000,
                max_duration_ms: 60_000,
                jitter_percent: 0,
                honor_retry_after: false,
            },
            half_open: HalfOpen {
                max_probes: 1,
                success_threshold: 2,
                probe_timeout_ms: 60_000,
                max_duration_ms: 60_000,
            },
            recovery: Recovery::default(),
        },
    }
}

/// The policy in `config`.
pub(crate) fn policy(config: &mut ProxyConfig) -> &mut CircuitBreaker {
    config.outbound[0].circuit_breaker.as_mut().unwrap()
}

pub(crate) fn force(state: fusebox_policy::config::ForcedState, from_now: Duration) -> Option<Override> {
    let until = std::time::SystemTime::now() + from_now;
    let until = until.duration_since(std::time::UNIX_EPOCH).unwrap();
    Some(Override { state, until_unix_ms: i64::try_from(until.as_millis()).unwrap(), reason: "test".into() })
}

/// The state of the only breaker.
pub(crate) fn state(proxy: &Proxy) -> BreakerState {
    proxy.state().breakers[0].report.state
}

/// Makes the breaker of [`config`] trip.
pub(crate) async fn trip(proxy: &Proxy, address: SocketAddr) {
    for _ in 0..3 {
        get(address, "/status/503").await;
    }
    assert_eq!(state(proxy), BreakerState::Open);
}
