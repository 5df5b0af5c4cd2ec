//! The authority: makes itself once, and signs leaves.
//!
//! Everything is X.509 v3, because rustls refuses older forms. The wall clock is an argument.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// The name in a follower's own certificate, by which the leader knows a peer. No server has it.
pub const PEER_NAME: &str = "fusebox-operator-peer";

/// How long the authority is valid.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// How far back certificates begin, for clocks that are behind.
const BACKDATE: Duration = Duration::from_secs(300);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A key or certificate could not be made or read.
    #[error("the authority's key or certificate can't be used")]
    Make(#[from] rcgen::Error),
    /// The stored certificate is not one.
    #[error("ca.crt is not a PEM certificate")]
    Pem(#[source] rustls::pki_types::pem::Error),
    /// The TLS library refused what was made.
    #[error("TLS can't use the certificate")]
    Tls(#[from] rustls::Error),
    /// The client verifier could not be made.
    #[error("peers can't be verified")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The Secret lacks a part.
    #[error("Secret {secret} has no {key}: delete it, and the leader makes a new one")]
    Incomplete {
        /// The Secret.
        secret: &'static str,
        /// The part.
        key: &'static str,
    },
    /// The API server did not answer.
    #[error("{what} was not answered in time")]
    Timeout {
        /// The object.
        what: &'static str,
    },
    /// The API server did not carry out a call.
    #[error("{what} could not be read or written")]
    Api {
        /// The object.
        what: &'static str,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

/// The authority: its certificate and its key.
pub struct Authority {
    certificate_pem: String,
    key_pem: String,
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key, and what it chains to.
pub(super) struct Leaf {
    pub(super) certificate: CertificateDer<'static>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Authority {
    /// Makes a new one.
    ///
    /// # Errors
    /// When no key could be made.
    pub fn generate(now: SystemTime) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("fusebox control stream");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + AUTHORITY_VALIDITY).into();
        let certificate_pem = params.self_signed(&key)?.pem();
        Self::parse(&certificate_pem, &key.serialize_pem())
    }

    /// Takes one that was stored.
    ///
    /// # Errors
    /// When the parts are not a certificate and a key.
    pub fn parse(certificate_pem: &str, key_pem: &str) -> Result<Self, CertificateError> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(CertificateError::Pem)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, KeyPair::from_pem(key_pem)?)?;
        Ok(Self { certificate_pem: certificate_pem.to_owned(), key_pem: key_pem.to_owned(), certificate, issuer })
    }

    /// The public half, for those who connect.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub(super) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    pub(super) fn certificate(&self) -> CertificateDer<'static> {
        self.certificate.clone()
    }

    /// A leaf for a server under these DNS names and IP addresses.
    pub(super) fn server_leaf(&self, names: Vec<String>, until: SystemTime) -> Result<Leaf, CertificateError> {
        self.leaf(names, ExtendedKeyUsagePurpose::ServerAuth, until)
    }

    /// A leaf that shows a follower to the leader.
    pub(super) fn peer_leaf(&self, until: SystemTime) -> Result<Leaf, CertificateError> {
        self.leaf(vec![PEER_NAME.to_owned()], ExtendedKeyUsagePurpose::ClientAuth, until)
    }

    fn leaf(
        &self,
        names: Vec<String>,
        usage: ExtendedKeyUsagePurpose,
        until: SystemTime,
    ) -> Result<Leaf, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = named("fusebox operator");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (SystemTime::UNIX_EPOCH.max(until - super::LEAF_VALIDITY - BACKDATE)).into();
        params.not_after = until.into();
        let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
        Ok(Leaf { certificate, key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())) })
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}
