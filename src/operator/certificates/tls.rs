//! TLS for both ends of the control port, made from the authority and swapped before it runs out.
//!
//! Connections take the configuration of the moment they begin with; a swap disturbs none.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use super::authority::{Authority, CertificateError, PEER_NAME};

/// How long a leaf is valid; it is made anew after half of that.
pub const LEAF_VALIDITY: Duration = Duration::from_secs(24 * 3600);

/// The only protocol on the control port.
const ALPN: &[u8] = b"h2";

/// What the control port is called: DNS names and IP addresses.
#[derive(Clone, Debug)]
pub struct Names {
    service: String,
    names: Vec<String>,
}

/// The TLS configurations in use; cheap to clone, one shared content.
#[derive(Clone)]
pub struct Tls {
    current: Arc<ArcSwap<Current>>,
    names: Names,
}

struct Current {
    authority: String,
    server: Arc<ServerConfig>,
    peer: Arc<ClientConfig>,
    renew_at: SystemTime,
}

impl Names {
    /// The names of the operator's Service in this namespace, `localhost`, the loopback address, and `extra` ones.
    pub fn new(namespace: &str, extra: impl IntoIterator<Item = String>) -> Self {
        let service = format!("fusebox-operator.{namespace}.svc");
        let mut names = vec![service.clone(), "localhost".to_owned(), "127.0.0.1".to_owned()];
        for name in extra {
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
}

impl Tls {
    /// Makes the first leaves.
    ///
    /// # Errors
    /// When a leaf can't be made, such as for a name that is not one.
    pub fn new(authority: &Authority, names: Names, now: SystemTime) -> Result<Self, CertificateError> {
        let current = Current::new(authority, &names, now)?;
        Ok(Self { current: Arc::new(ArcSwap::from_pointee(current)), names })
    }

    /// Makes new leaves when the old ones are half over or the authority is another, and says whether it did.
    ///
    /// # Errors
    /// When a leaf can't be made; the old ones stay in use.
    pub fn renew(&self, authority: &Authority, now: SystemTime) -> Result<bool, CertificateError> {
        let current = self.current.load();
        if current.authority == authority.certificate_pem() && now < current.renew_at {
            return Ok(false);
        }
        self.current.store(Arc::new(Current::new(authority, &self.names, now)?));
        Ok(true)
    }

    /// When the leaves end.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        self.current.load().renew_at + LEAF_VALIDITY / 2
    }

    /// For connections that come in.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.current.load().server)
    }

    /// For this replica's connection to the leader.
    #[must_use]
    pub fn peer(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.current.load().peer)
    }

    /// The authority's public half, in PEM.
    #[must_use]
    pub fn authority_pem(&self) -> String {
        self.current.load().authority.clone()
    }

    /// What the control port is called.
    #[must_use]
    pub fn names(&self) -> &Names {
        &self.names
    }
}

/// Whether the certificates that a client showed, and that TLS has verified, are a peer's.
pub(crate) fn is_peer(shown: Option<&[CertificateDer<'_>]>) -> bool {
    let Some(leaf) = shown.and_then(<[_]>::first) else { return false };
    let (Ok(parsed), Ok(name)) = (ParsedCertificate::try_from(leaf), ServerName::try_from(PEER_NAME)) else {
        return false;
    };
    verify_server_name(&parsed, &name).is_ok()
}

impl Current {
    fn new(authority: &Authority, names: &Names, now: SystemTime) -> Result<Self, CertificateError> {
        let until = now + LEAF_VALIDITY;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(authority.certificate())?;
        let roots = Arc::new(roots);

        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .allow_unauthenticated()
            .build()?;
        let leaf = authority.server_leaf(names.names.clone(), until)?;
        let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(verifier)
            .with_single_cert(vec![leaf.certificate], leaf.key)?;
        server.alpn_protocols = vec![ALPN.to_vec()];

        let leaf = authority.peer_leaf(until)?;
        let mut peer = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![leaf.certificate], leaf.key)?;
        peer.alpn_protocols = vec![ALPN.to_vec()];

        Ok(Self {
            authority: authority.certificate_pem().to_owned(),
            server: Arc::new(server),
            peer: Arc::new(peer),
            renew_at: now + LEAF_VALIDITY / 2,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names() -> Names {
        Names::new("fusebox-system", [PEER_NAME.to_owned(), "10.0.0.7".to_owned()])
    }

    #[test]
    fn only_the_peers_leaf_is_a_peers() {
        let now = SystemTime::now();
        let authority = Authority::generate(now).unwrap();
        let peer = authority.peer_leaf(now + LEAF_VALIDITY).unwrap();
        let server = authority.server_leaf(names().names, now + LEAF_VALIDITY).unwrap();
        assert!(is_peer(Some(&[peer.certificate])));
        assert!(!is_peer(Some(&[server.certificate])));
        assert!(!is_peer(Some(&[])));
        assert!(!is_peer(None));
    }

    #[test]
    fn leaves_are_renewed_at_half_their_time_and_for_another_authority() {
        let now = SystemTime::now();
        let authority = Authority::generate(now).unwrap();
        let tls = Tls::new(&authority, names(), now).unwrap();
        assert!(!tls.renew(&authority, now + LEAF_VALIDITY / 3).unwrap());
        assert!(tls.renew(&authority, now + LEAF_VALIDITY / 2).unwrap());
        assert!(tls.renew(&Authority::generate(now).unwrap(), now).unwrap());
    }

    #[test]
    fn a_stored_authority_signs_as_before() {
        let now = SystemTime::now();
        let made = Authority::generate(now).unwrap();
        let stored = Authority::parse(made.certificate_pem(), made.key_pem()).unwrap();
        assert_eq!(stored.certificate_pem(), made.certificate_pem());
        let tls = Tls::new(&made, names(), now).unwrap();
        assert!(!tls.renew(&stored, now).unwrap());
    }

    #[test]
    fn half_an_authority_is_refused() {
        let made = Authority::generate(SystemTime::now()).unwrap();
        assert!(Authority::parse("nonsense", made.key_pem()).is_err());
        assert!(Authority::parse(made.certificate_pem(), "nonsense").is_err());
    }
}
