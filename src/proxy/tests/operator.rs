//! A small operator: it accepts one token and hands the streams of proxies to the test.
//!
//! It must not be kind: what it says is up to the test, and it can be cut off at any time.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use fusebox_policy::config::ProxyConfig;
use fusebox_policy::report::ProxyReport;
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

use super::support::{DEADLINE, Upstream, options};
use crate::{Options, Proxy};

/// An operator that accepts one token and hands its streams to the test.
pub(crate) struct Operator {
    address: SocketAddr,
    authority: String,
    pub(crate) token: Arc<Mutex<String>>,
    pub(crate) streams: mpsc::Receiver<Stream>,
    pub(crate) refused: Arc<Mutex<usize>>,
    connections: Arc<Mutex<CancellationToken>>,
}

/// One proxy's stream.
pub(crate) struct Stream {
    pub(crate) down: Sender<Bytes>,
    up: Incoming,
    decoder: Decoder,
    ready: VecDeque<Up>,
}

impl Stream {
    pub(crate) async fn send(&mut self, message: &Down) {
        self.down.send_data(stream::encode(message).unwrap().into()).await.unwrap();
    }

    pub(crate) async fn configure(&mut self, config: &ProxyConfig) {
        self.send(&Down::Config { revision: config.revision(), config: config.clone() }).await;
    }

    pub(crate) async fn next(&mut self) -> Up {
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

    pub(crate) async fn report(&mut self) -> ProxyReport {
        loop {
            if let Up::Report(report) = self.next().await {
                return report;
            }
        }
    }
}

impl Operator {
    pub(crate) async fn start() -> Self {
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
    pub(crate) fn cut(&self) {
        std::mem::take(&mut *self.connections.lock()).cancel();
    }

    pub(crate) fn options(&self, directory: &Path) -> Options {
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

    pub(crate) async fn stream(&mut self) -> Stream {
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
pub(crate) struct Connected {
    pub(crate) upstream: Upstream,
    pub(crate) operator: Operator,
    pub(crate) proxy: Proxy,
    pub(crate) stream: Stream,
    pub(crate) directory: tempfile::TempDir,
}

pub(crate) async fn connected() -> Connected {
    let (upstream, mut operator) = (Upstream::start().await, Operator::start().await);
    let directory = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(operator.options(directory.path())).await.unwrap();
    let stream = operator.stream().await;
    Connected { upstream, operator, proxy, stream, directory }
}
