//! TLS for all ports of the operator and for both ends between replicas, swapped while it is in use.
//!
//! Connections take the configuration of the moment they begin with; a swap disturbs none. Where certificates come from
//! is not known here.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoClientAuth, ParsedCertificate, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;

use super::authority::{Authority, Leaf, PEER_NAME};
use super::bundle::{Bundle, Validity};
use super::error::CertificateError;

/// How long a leaf of our own authority is valid unless it is said otherwise; it is made anew after half of that.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// The only protocol on the control port.
const H2: &[u8] = b"h2";

/// The other one on ports that the API server calls.
const HTTP_1: &[u8] = b"http/1.1";

/// What the operator is called: DNS names and IP addresses.
#[derive(Clone, Debug)]
pub struct Names {
    service: String,
    names: Vec<String>,
}

/// What a port is for: which protocols it speaks, and whose certificates it asks clients for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// Sidecars and other replicas: HTTP/2 alone; a replica shows its certificate, a sidecar none.
    Control,
    /// The API server's admission calls: HTTP/1.1 and HTTP/2, no client certificates.
    Webhook,
    /// The aggregated API: HTTP/1.1 and HTTP/2; this verifier says which client certificates are taken, and whether one is
    /// needed. It is asked at each handshake, so whoever makes it may make another for the next connection.
    Operations(Arc<dyn ClientCertVerifier>),
}

/// The TLS configurations in use; cheap to clone, one shared content.
#[derive(Clone)]
pub struct Tls {
    current: Arc<ArcSwap<Current>>,
    names: Names,
}

/// TLS as soon as there is a certificate; cheap to clone.
#[derive(Clone)]
pub struct TlsSource {
    tls: watch::Receiver<Option<Tls>>,
}

/// What TLS is made of: a certificate for each direction, and whom to trust.
pub(super) struct Credentials {
    /// Shown to whoever connects.
    pub(super) server: Leaf,
    /// Shown to the leader.
    pub(super) client: Leaf,
    /// The name in `client` by which the leader knows a peer.
    pub(super) peer_name: String,
    /// When the certificates end.
    pub(super) validity: Validity,
    /// Whom replicas trust between them.
    pub(super) bundle: Bundle,
}

struct Current {
    certified: Arc<CertifiedKey>,
    control: Arc<ServerConfig>,
    webhook: Arc<ServerConfig>,
    peer: Arc<ClientConfig>,
    peer_name: String,
    validity: Validity,
    bundle: Bundle,
    provider: Arc<CryptoProvider>,
}

impl Names {
    /// The names of the operator's Service in this namespace, `localhost`, the loopback address, and `extra` ones.
    pub fn new(namespace: &str, extra: impl IntoIterator<Item = String>) -> Self {
        let service = format!("fusebox-operator.{namespace}.svc");
        let own = [format!("{service}.cluster.local"), format!("fusebox-operator.{namespace}")];
        let mut names = vec![service.clone(), "localhost".to_owned(), "127.0.0.1".to_owned()];
        for name in own.into_iter().chain(extra) {
            // The name that tells a peer apart is never a server's.
            if name != PEER_NAME && !names.contains(&name) {
                names.push(name);
            }
        }
        Self { service, names }
    }

    /// The name that every replica's certificate has, and that peers ask for.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.names.clone()
    }
}

impl Tls {
    /// TLS by an authority that signs and is trusted alone, with leaves of the usual length.
    ///
    /// # Errors
    /// When a leaf can't be made, such as for a name that is not one.
    pub fn new(authority: &Authority, names: Names, now: SystemTime) -> Result<Self, CertificateError> {
        let bundle = Bundle::new("the authority", [authority.certificate_pem()])?;
        Self::of(Credentials::signed(authority, bundle, &names, LEAF_VALIDITY, now)?, names)
    }

    pub(super) fn of(credentials: Credentials, names: Names) -> Result<Self, CertificateError> {
        let current = Current::new(credentials)?;
        Ok(Self { current: Arc::new(ArcSwap::from_pointee(current)), names })
    }

    /// Uses these from the next connection on.
    pub(super) fn swap(&self, credentials: Credentials) -> Result<(), CertificateError> {
        self.current.store(Arc::new(Current::new(credentials)?));
        Ok(())
    }

    /// For a connection that comes in; ask for each one.
    ///
    /// # Errors
    /// When the TLS library has no protocol version, which it always has.
    pub fn server_config(&self, purpose: Purpose) -> Result<Arc<ServerConfig>, CertificateError> {
        let current = self.current.load();
        match purpose {
            Purpose::Control => Ok(Arc::clone(&current.control)),
            Purpose::Webhook => Ok(Arc::clone(&current.webhook)),
            Purpose::Operations(verifier) => {
                Ok(Arc::new(server(&current.provider, &current.certified, verifier, &[H2, HTTP_1])?))
            }
        }
    }

    /// For connections of sidecars and peers that come in.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().control)
    }

    /// For this replica's connection to the leader.
    #[must_use]
    pub fn peer(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current.load().peer)
    }

    /// Whether the certificates that a client showed at the control port, and that TLS has verified, are a peer's.
    #[must_use]
    pub fn is_peer(&self, shown: Option<&[CertificateDer<'_>]>) -> bool {
        is_named(shown, &self.current.load().peer_name)
    }

    /// When the leaves begin and end.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.current.load().validity
    }

    /// The trusted authorities.
    #[must_use]
    pub fn bundle(&self) -> Bundle {
        self.current.load().bundle.clone()
    }

    /// What the operator is called.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }
}

impl TlsSource {
    /// Whoever has the sender gives it.
    pub(super) fn new() -> (watch::Sender<Option<Tls>>, Self) {
        let (sender, tls) = watch::channel(None);
        (sender, Self { tls })
    }

    /// Waits for the first certificate; None where there will never be one, since the operator ends.
    pub async fn ready(&mut self) -> Option<Tls> {
        self.tls.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl Credentials {
    /// New leaves of an authority.
    pub(super) fn signed(
        authority: &Authority,
        bundle: Bundle,
        names: &Names,
        leaf: Duration,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let validity = authority.leaf_validity(leaf, now);
        Ok(Self {
            server: authority.server_leaf(names.all(), validity)?,
            client: authority.peer_leaf(validity)?,
            peer_name: PEER_NAME.to_owned(),
            validity,
            bundle,
        })
    }
}

impl Current {
    fn new(credentials: Credentials) -> Result<Self, CertificateError> {
        let Credentials { server: leaf, client, peer_name, validity, bundle } = credentials;
        let provider = provider();
        let roots = bundle.roots()?;
        let peers = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
        let certified = Arc::new(CertifiedKey::from_der(leaf.chain, leaf.key, &provider)?);
        let control = server(&provider, &certified, peers, &[H2])?;
        let webhook = server(&provider, &certified, Arc::new(NoClientAuth), &[H2, HTTP_1])?;

        let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?;
        let mut peer = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_webpki_verifier(verifier)
            .with_client_auth_cert(client.chain, client.key)?;
        peer.alpn_protocols = vec![H2.to_vec()];

        let (control, webhook, peer) = (Arc::new(control), Arc::new(webhook), Arc::new(peer));
        Ok(Self { certified, control, webhook, peer, peer_name, validity, bundle, provider })
    }
}

/// Whether the first of these certificates has this name.
pub(super) fn is_named(shown: Option<&[CertificateDer<'_>]>, name: &str) -> bool {
    let Some(leaf) = shown.and_then(<[_]>::first) else { return false };
    let (Ok(parsed), Ok(name)) = (ParsedCertificate::try_from(leaf), ServerName::try_from(name)) else {
        return false;
    };
    verify_server_name(&parsed, &name).is_ok()
}

/// The only cryptography of this process.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn server(
    provider: &Arc<CryptoProvider>,
    certified: &Arc<CertifiedKey>,
    clients: Arc<dyn ClientCertVerifier>,
    protocols: &[&[u8]],
) -> Result<ServerConfig, CertificateError> {
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(certified))));
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    fn names() -> Names {
        Names::new("fusebox-system", [PEER_NAME.to_owned(), "10.0.0.7".to_owned()])
    }

    fn tls() -> Tls {
        let now = SystemTime::now();
        Tls::new(&Authority::generate(YEAR, now).unwrap(), names(), now).unwrap()
    }

    #[test]
    fn only_the_peers_leaf_is_a_peers() {
        let now = SystemTime::now();
        let authority = Authority::generate(YEAR, now).unwrap();
        let validity = authority.leaf_validity(LEAF_VALIDITY, now);
        let tls = Tls::new(&authority, names(), now).unwrap();
        let peer = authority.peer_leaf(validity).unwrap();
        let server = authority.server_leaf(names().all(), validity).unwrap();
        assert!(tls.is_peer(Some(&peer.chain)));
        assert!(!tls.is_peer(Some(&server.chain)));
        assert!(!tls.is_peer(Some(&[])));
        assert!(!tls.is_peer(None));
    }

    #[test]
    fn the_service_has_all_its_names_and_the_peers_is_none_of_them() {
        let all = names().all();
        for name in ["svc", "svc.cluster.local"] {
            assert!(all.contains(&format!("fusebox-operator.fusebox-system.{name}")), "{all:?}");
        }
        assert!(!all.contains(&PEER_NAME.to_owned()));
    }

    #[test]
    fn each_port_speaks_what_its_clients_do() {
        let tls = tls();
        let protocols = |purpose| tls.server_config(purpose).unwrap().alpn_protocols.clone();
        assert_eq!(protocols(Purpose::Control), [H2]);
        assert_eq!(protocols(Purpose::Webhook), [H2, HTTP_1]);
        assert_eq!(protocols(Purpose::Operations(Arc::new(NoClientAuth))), [H2, HTTP_1]);
    }

    #[tokio::test]
    async fn who_waits_gets_the_first_certificate() {
        let (sender, mut source) = TlsSource::new();
        let waiting = tokio::spawn(async move { source.ready().await.is_some() });
        sender.send_replace(Some(tls()));
        assert!(waiting.await.unwrap());
        let (sender, mut source) = TlsSource::new();
        drop(sender);
        assert!(source.ready().await.is_none());
    }
}
