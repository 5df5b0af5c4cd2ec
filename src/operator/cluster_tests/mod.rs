//! The control port, its tokens and its leases on a real API server: the stage that these tests share.
//!
//! One cluster serves the whole process; each test has a namespace of its own. A replica here is
//! all of the control port without the compiler: the test says which pods live and what is served.

mod endpoints;
mod leases;
mod peers;
mod rate_limit;
mod streams;
mod tokens;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use fusebox_policy::config::{PolicyId, PolicyVersion, ProxyConfig, WorkloadId};
use fusebox_policy::stream::{Decoder, Down, MAX_LINE_DOWN, PATH, ServiceEndpoints, Up, encode};
use fusebox_testkit::pods::{PodBuilder, TestPod};
use fusebox_testkit::{Cluster, eventually};
use http::{Method, Request, StatusCode};
use http_body_util::channel::Sender;
use http_body_util::{BodyExt, Channel};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::certificates::{Authority, LEAF_VALIDITY, Names, Tls};
use crate::control::{
    Commands, ConfigSource, Control, ControlMetrics, EndpointDirectory, PodDirectory, PodEntry, PodRef,
    ReferenceValues, ReplicaCounts, ReportBook, Seats, Sidecar, serve,
};
use crate::lease::{Leadership, Timing};
use crate::token::TokenVerifier;

/// How long anything is awaited.
const SOON: Duration = Duration::from_secs(30);

/// What is pushed arrives in far less than any period by which it would come otherwise, and than this.
const AT_ONCE: Duration = Duration::from_secs(5);

/// One replica's control port.
struct Replica {
    address: SocketAddr,
    control: Arc<Control>,
    tls: Tls,
    /// Ends the replica when it is dropped, or by [`CancellationToken::cancel`].
    shutdown: CancellationToken,
    _guard: DropGuard,
}

/// A sidecar's end of an open stream.
pub(crate) struct Stream {
    up: Sender<Bytes>,
    down: Incoming,
    decoder: Decoder,
    ready: Vec<Down>,
}

impl Replica {
    async fn start(authority: &Authority, timing: &Timing) -> Result<Self> {
        let client = Cluster::shared().await?.client().await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let tls = Tls::new(authority, Names::new("fusebox-system", []), SystemTime::now())?;
        let control = Arc::new(Control {
            directory: PodDirectory::new(),
            endpoints: EndpointDirectory::new(),
            source: ConfigSource::new(),
            references: ReferenceValues::default(),
            replicas: ReplicaCounts::default(),
            commands: Commands::default(),
            book: ReportBook::new(),
            verifier: TokenVerifier::new(client),
            leadership: Leadership::new(timing),
            operations: crate::ops::Operations::default(),
            metrics: ControlMetrics::register(&prometheus::Registry::new())?,
            seats: Seats::default(),
            peers: Seats::default(),
        });
        let shutdown = CancellationToken::new();
        tokio::spawn(serve(listener, tls.clone(), Arc::clone(&control), shutdown.clone()));
        Ok(Self { address, control, tls, _guard: shutdown.clone().drop_guard(), shutdown })
    }

    /// A replica that knows these pods, and has a configuration with `policies` for them.
    async fn ready(pods: &[&TestPod], policies: &[&str]) -> Result<Self> {
        let authority = authority()?;
        let replica = Self::start(&authority, &Timing::default()).await?;
        replica.control.directory.replace(pods.iter().map(|pod| entry(pod, Sidecar::Present)));
        replica.control.source.publish(pods.iter().map(|pod| config(pod.namespace(), policies)))?;
        Ok(replica)
    }

    async fn request(&self, method: Method, path: &str, token: Option<&str>) -> Result<Answer> {
        let (up, body) = Channel::<Bytes>::new(8);
        let mut request = Request::builder().method(method).uri(format!("https://localhost{path}"));
        if let Some(token) = token {
            request = request.header(http::header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let mut requests = self.connect().await?;
        let response = requests.send_request(request.body(body)?).await?;
        if response.status() == StatusCode::OK {
            let (down, decoder) = (response.into_body(), Decoder::new(MAX_LINE_DOWN));
            return Ok(Answer::Opened(Stream { up, down, decoder, ready: Vec::new() }));
        }
        let status = response.status();
        let problem: serde_json::Value = serde_json::from_slice(&response.into_body().collect().await?.to_bytes())?;
        Ok(Answer::Refused(status.as_u16(), problem["reason"].as_str().unwrap_or_default().to_owned()))
    }

    async fn connect(&self) -> Result<http2::SendRequest<Channel<Bytes>>> {
        connect(self.address, self.tls.bundle().roots()?).await
    }

    /// Opens a stream with this token, which must be accepted.
    async fn open(&self, token: &str) -> Result<Stream> {
        match self.request(Method::POST, PATH, Some(token)).await? {
            Answer::Opened(stream) => Ok(stream),
            Answer::Refused(status, reason) => bail!("refused: {status} {reason}"),
        }
    }

    /// Opens a stream and says Hello with nothing in force.
    async fn greet(&self, pod: &TestPod) -> Result<Stream> {
        let mut stream = self.open(&pod.control_token().await?).await?;
        stream.send(&Up::Hello { version: "test".into(), revision: None, policies: vec![] }).await?;
        Ok(stream)
    }

    /// Why a request with this token is refused.
    async fn refusal(&self, token: Option<&str>) -> Result<(u16, String)> {
        match self.request(Method::POST, PATH, token).await? {
            Answer::Opened(_) => bail!("the stream was opened"),
            Answer::Refused(status, reason) => Ok((status, reason)),
        }
    }

    /// Waits until a stream ended for this reason.
    async fn ended(&self, reason: &str) -> Result<()> {
        let counter = self.control.metrics.streams.ended.with_label_values(&[reason]);
        eventually(SOON, reason, async || {
            ensure!(counter.get() > 0, "no stream ended so");
            Ok(())
        })
        .await
    }
}

/// Connects to a control port.
async fn connect(address: SocketAddr, roots: Arc<RootCertStore>) -> Result<http2::SendRequest<Channel<Bytes>>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).await?;
    let stream = TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost")?, stream).await?;
    let (requests, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    Ok(requests)
}

enum Answer {
    Opened(Stream),
    Refused(u16, String),
}

impl Stream {
    /// A stream to any operator, as the sidecar of a pod opens it.
    pub(crate) async fn to(address: SocketAddr, authority: &str, token: &str) -> Result<Self> {
        let (up, body) = Channel::<Bytes>::new(8);
        let request = Request::post(format!("https://localhost{PATH}"))
            .header(http::header::AUTHORIZATION, format!("Bearer {token}"));
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
        let mut requests = connect(address, Arc::new(roots)).await?;
        let response = requests.send_request(request.body(body)?).await?;
        ensure!(response.status() == StatusCode::OK, "refused: {}", response.status());
        Ok(Self { up, down: response.into_body(), decoder: Decoder::new(MAX_LINE_DOWN), ready: Vec::new() })
    }

    pub(crate) async fn send(&mut self, message: &Up) -> Result<()> {
        self.send_bytes(encode(message)?).await
    }

    async fn send_bytes(&mut self, bytes: Vec<u8>) -> Result<()> {
        self.up.send_data(Bytes::from(bytes)).await.context("the stream is closed")
    }

    /// The next configuration; other lines are passed over. An error when the stream ended.
    pub(crate) async fn configuration(&mut self) -> Result<(String, ProxyConfig)> {
        let config = |line| match line {
            Down::Config { revision, config } => Some((revision, config)),
            _ => None,
        };
        self.next(config).await.context("no configuration came")
    }

    /// The next word on endpoints; other lines are passed over. An error when the stream ended.
    async fn endpoints(&mut self) -> Result<Vec<ServiceEndpoints>> {
        let endpoints = |line| match line {
            Down::Endpoints { services } => Some(services),
            _ => None,
        };
        self.next(endpoints).await.context("nothing was said of endpoints")
    }

    pub(crate) async fn next<T>(&mut self, pick: impl Fn(Down) -> Option<T>) -> Result<T> {
        tokio::time::timeout(SOON, async {
            loop {
                if let Some(picked) = pick(self.line().await?) {
                    return Ok(picked);
                }
            }
        })
        .await?
    }

    /// The next line, however long it takes; nothing is lost where this is given up. An error when the stream ended.
    pub(crate) async fn line(&mut self) -> Result<Down> {
        while self.ready.is_empty() {
            let frame = self.down.frame().await.context("the stream ended")??;
            if let Ok(data) = frame.into_data() {
                self.ready = self.decoder.push(&data)?;
            }
        }
        Ok(self.ready.remove(0))
    }

    /// Waits until the operator ends the stream.
    async fn end(&mut self) -> Result<()> {
        let read_out = async { while let Some(Ok(_)) = self.down.frame().await {} };
        tokio::time::timeout(SOON, read_out).await.context("the stream did not end")
    }
}

fn workload(namespace: &str) -> WorkloadId {
    WorkloadId { namespace: namespace.into(), kind: "Deployment".into(), name: "web".into() }
}

fn entry(pod: &TestPod, sidecar: Sidecar) -> PodEntry {
    let (namespace, name, uid) = (pod.namespace().to_owned(), pod.name().to_owned(), pod.uid().to_owned());
    PodEntry { workload: workload(&namespace), pod: PodRef { namespace, name, uid }, sidecar }
}

fn version(namespace: &str, name: &str) -> PolicyVersion {
    let id = PolicyId { namespace: namespace.into(), name: name.into() };
    PolicyVersion { kind: "CircuitBreakerPolicy".into(), id, uid: format!("uid-{name}"), generation: 2 }
}

fn config(namespace: &str, policies: &[&str]) -> Arc<ProxyConfig> {
    let policies = policies.iter().map(|name| version(namespace, name)).collect();
    Arc::new(ProxyConfig { policies, ..ProxyConfig::empty(workload(namespace)) })
}

/// An authority of one's own.
fn authority() -> Result<Authority> {
    Ok(Authority::generate(LEAF_VALIDITY, SystemTime::now())?)
}

/// A namespace of one's own with that many pods in it.
async fn pods<const COUNT: usize>() -> Result<[TestPod; COUNT]> {
    let cluster = Cluster::shared().await?;
    let (client, namespace) = (cluster.client().await?, cluster.unique_namespace("control").await?);
    let mut pods = Vec::new();
    for number in 0..COUNT {
        pods.push(PodBuilder::bare(&namespace, &format!("web-{number}")).with_sidecar().create(&client).await?);
    }
    pods.try_into().map_err(|_| anyhow::anyhow!("another number of pods"))
}

/// What the book says of each pod by name: its breakers by policy.
fn breakers(book: &ReportBook) -> BTreeMap<String, Vec<String>> {
    let names = |state: &crate::control::ProxyState| {
        state.breakers.keys().map(|key| key.policy.name.clone()).collect::<Vec<_>>()
    };
    book.snapshot().iter().map(|state| (state.pod.name.clone(), names(state))).collect()
}
