//! The application's own probes, done by the sidecar in the kubelet's place.
//!
//! It must say what the kubelet would have said, and never meet a breaker: a probe asks the application, not its policies.
//! The kubelet's rules are kubernetes.io/docs/concepts/configuration/liveness-readiness-startup-probes.

mod grpc;
mod http;
mod options;
mod tls;

use std::net::{IpAddr, SocketAddr};

use ::http::{HeaderMap, StatusCode};
use bytes::Bytes;
use fusebox_policy::config::{Probe, ProbeKind};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

pub use self::options::{ProbeError, Probes};

/// Probes under way at once; the kubelet does each one by itself, and few containers have more than three.
pub(crate) const MAX_AT_ONCE: usize = 32;

/// Bytes of an answer that are passed on, as many as the kubelet reads.
pub(crate) const MAX_BODY: usize = 10 << 10;

/// Does the probes.
#[derive(Debug)]
pub(crate) struct Prober {
    probes: Probes,
    pod: IpAddr,
    slots: Semaphore,
}

/// What a probe found, as an answer to the kubelet: 2xx is success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// The status.
    pub(crate) status: StatusCode,
    /// What the application said, or why it said nothing.
    pub(crate) body: Bytes,
}

/// Why a probe got no answer.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{address} can't be connected to: {source}")]
    Connect { address: SocketAddr, source: std::io::Error },
    #[error("{address} gave no answer: {message}")]
    Answer { address: SocketAddr, message: String },
    #[error("{0}")]
    NotServing(String),
}

impl Prober {
    /// Probes against the pod's own address `pod`.
    pub(crate) fn new(probes: Probes, pod: IpAddr) -> Self {
        for (probe, problem) in probes.hopeless() {
            tracing::warn!(probe = probe.path, %problem, "this probe can't be made and fails whenever it is asked for");
        }
        Self { probes, pod, slots: Semaphore::new(MAX_AT_ONCE) }
    }

    /// Does the probe of `path`, with what the kubelet says of itself in `headers`.
    pub(crate) async fn ask(&self, path: &str, headers: &HeaderMap) -> Verdict {
        let Some(probe) = self.probes.find(path) else {
            return Verdict::text(StatusCode::NOT_FOUND, format!("no probe has the path {path}"));
        };
        if let Some(problem) = options::problem(probe) {
            return Verdict::text(StatusCode::INTERNAL_SERVER_ERROR, format!("the probe can't be made: its {problem}"));
        }
        let Ok(_slot) = self.slots.try_acquire() else {
            return Verdict::text(
                StatusCode::SERVICE_UNAVAILABLE,
                format!("{MAX_AT_ONCE} probes are under way already"),
            );
        };
        let limit = options::timeout(probe);
        match tokio::time::timeout(limit, self.probe(probe, headers)).await {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(failure)) => Verdict::text(StatusCode::SERVICE_UNAVAILABLE, failure.to_string()),
            Err(_) => Verdict::text(StatusCode::GATEWAY_TIMEOUT, format!("no answer within {limit:?}")),
        }
    }

    async fn probe(&self, probe: &Probe, headers: &HeaderMap) -> Result<Verdict, Failure> {
        let address = SocketAddr::new(self.pod, probe.port);
        match &probe.kind {
            ProbeKind::Tcp => connect(address).await.map(|_| Verdict::text(StatusCode::OK, "connected".to_owned())),
            ProbeKind::Http => http::ask(probe, address, headers).await,
            ProbeKind::Grpc => grpc::ask(probe, address, headers).await,
        }
    }
}

impl Verdict {
    fn text(status: StatusCode, text: String) -> Self {
        Self { status, body: Bytes::from(text + "\n") }
    }
}

async fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    TcpStream::connect(address).await.map_err(|source| Failure::Connect { address, source })
}
