//! One TLS and HTTP/2 connection to one of the operator's addresses.
//!
//! The certificate authority is read anew each time, because it may be rotated while the proxy runs.
//! It must trust nothing else: not the system's roots, not an unverified certificate.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::channel::Channel;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{CertificateError, ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::options::ControlUrl;

/// How long connecting may take, name, TLS and all.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How often HTTP/2 pings the other end, and how long it may take to answer.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// The body that goes up.
pub(crate) type UpBody = Channel<Bytes>;

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    /// The certificate authority's file can't be used.
    #[error("certificate authority {path} can't be read: {message}")]
    Authority {
        /// The file.
        path: String,
        /// What is wrong with it.
        message: String,
    },
    /// The host is no name that a certificate can be made for.
    #[error("host {0} is not a name or an address")]
    Host(String),
    /// The name has no address.
    #[error("host {0} has no address")]
    NoAddress(String),
    /// The operator's certificate is not good.
    #[error("the certificate of {host} is refused: {why}")]
    Certificate {
        /// Whose.
        host: String,
        /// What is wrong with it, and where to look.
        why: String,
    },
    /// The network or the TLS handshake failed.
    #[error("connection failed: {0}")]
    Io(#[from] io::Error),
    /// HTTP/2 failed.
    #[error("http/2 failed: {0}")]
    Http(#[from] hyper::Error),
    /// It took too long.
    #[error("connection took longer than {CONNECT_TIMEOUT:?}")]
    Timeout,
}

/// Makes connections.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    authority: PathBuf,
}

impl Connector {
    /// Trusts the certificate authority in the file `authority`.
    pub(crate) fn new(authority: PathBuf) -> Self {
        Self { authority }
    }

    /// Connects to `url`; where its name has several addresses, `attempt` chooses which is tried.
    pub(crate) async fn connect(&self, url: &ControlUrl, attempt: usize) -> Result<SendRequest<UpBody>, ConnectError> {
        tokio::time::timeout(CONNECT_TIMEOUT, self.connect_unbounded(url, attempt))
            .await
            .map_err(|_| ConnectError::Timeout)?
    }

    async fn connect_unbounded(&self, url: &ControlUrl, attempt: usize) -> Result<SendRequest<UpBody>, ConnectError> {
        let tls = self.secure(url, attempt).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(tls))
            .await?;
        // The stream on it learns of its end; nobody else has to.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(sender)
    }

    async fn secure(&self, url: &ControlUrl, attempt: usize) -> Result<TlsStream<TcpStream>, ConnectError> {
        let config = self.client_config().await?;
        let name = ServerName::try_from(url.host.clone()).map_err(|_| ConnectError::Host(url.host.clone()))?;
        let addresses: Vec<SocketAddr> = tokio::net::lookup_host((url.host.as_str(), url.port)).await?.collect();
        let address =
            addresses.get(attempt % addresses.len().max(1)).ok_or_else(|| ConnectError::NoAddress(url.host.clone()))?;
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        connected.map_err(|error| self.refused(&url.host, error))
    }

    /// Tells a certificate that is not good from a network that is not.
    fn refused(&self, host: &str, error: io::Error) -> ConnectError {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let Some(rustls::Error::InvalidCertificate(wrong)) = inner else { return ConnectError::Io(error) };
        let why = match wrong {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => format!(
                "none of the authorities in {} has signed it; they may be older than the operator's",
                self.authority.display()
            ),
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it is expired".to_owned(),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                "it is not valid yet: compare the clocks".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "it is for other names: see the operator's --san".to_owned()
            }
            other => other.to_string(),
        };
        ConnectError::Certificate { host: host.to_owned(), why }
    }

    async fn client_config(&self) -> Result<ClientConfig, ConnectError> {
        let refuse = |message: String| ConnectError::Authority { path: self.authority.display().to_string(), message };
        let pem = tokio::fs::read(&self.authority).await.map_err(|error| refuse(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
            roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
        }
        if roots.is_empty() {
            return Err(refuse("it holds no certificate".to_owned()));
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| refuse(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }
}

#[cfg(test)]
mod tests;
