//! One authority: makes itself, and signs leaves.
//!
//! Everything is X.509 v3, because rustls refuses older forms. The wall clock is an argument. The key must not leave
//! this module but into the Secret.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::bundle::{Validity, certificates};
use super::error::CertificateError;

/// The name in a follower's own certificate, by which the leader knows a peer. No server has it.
pub const PEER_NAME: &str = "fusebox-operator-peer";

/// How far back certificates begin, for clocks that are behind.
pub(super) const BACKDATE: Duration = Duration::from_secs(300);

/// The authority: its certificate and its key.
pub struct Authority {
    certificate_pem: String,
    key_pem: String,
    validity: Validity,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with what it chains to, and its key.
pub(super) struct Leaf {
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Authority {
    /// Makes a new one that is valid for so long.
    ///
    /// # Errors
    /// When no key could be made.
    pub fn generate(valid_for: Duration, now: SystemTime) -> Result<Self, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("fusebox");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_before = (now - BACKDATE).into();
        params.not_after = (now + valid_for).into();
        let certificate_pem = params.self_signed(&key)?.pem();
        Self::parse(&certificate_pem, &key.serialize_pem())
    }

    /// Takes one that was stored.
    ///
    /// # Errors
    /// When the parts are not a certificate and a key.
    pub fn parse(certificate_pem: &str, key_pem: &str) -> Result<Self, CertificateError> {
        let what = "the authority's certificate";
        let none = || CertificateError::Pem { what: what.to_owned() };
        let certificate = certificates(what, certificate_pem).next().ok_or_else(none)??;
        let validity = Validity::of(what, &certificate)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, KeyPair::from_pem(key_pem)?)?;
        Ok(Self { certificate_pem: certificate_pem.to_owned(), key_pem: key_pem.to_owned(), validity, issuer })
    }

    /// The public half, for those who connect.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// When it begins and ends.
    #[must_use]
    pub fn validity(&self) -> Validity {
        self.validity
    }

    pub(super) fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// A leaf for a server under these DNS names and IP addresses.
    pub(super) fn server_leaf(&self, names: Vec<String>, validity: Validity) -> Result<Leaf, CertificateError> {
        self.leaf(names, ExtendedKeyUsagePurpose::ServerAuth, validity)
    }

    /// A leaf that shows a follower to the leader.
    pub(super) fn peer_leaf(&self, validity: Validity) -> Result<Leaf, CertificateError> {
        self.leaf(vec![PEER_NAME.to_owned()], ExtendedKeyUsagePurpose::ClientAuth, validity)
    }

    /// From now on for so long, but never longer than the authority itself.
    pub(super) fn leaf_validity(&self, valid_for: Duration, now: SystemTime) -> Validity {
        Validity { begins: now, ends: (now + valid_for).min(self.validity.ends) }
    }

    fn leaf(
        &self,
        names: Vec<String>,
        usage: ExtendedKeyUsagePurpose,
        Validity { begins, ends }: Validity,
    ) -> Result<Leaf, CertificateError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = named("fusebox operator");
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (begins - BACKDATE).into();
        params.not_after = ends.into();
        let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
        Ok(Leaf { chain: vec![certificate], key: PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der())) })
    }
}

fn named(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_an_authority_is_refused() {
        let made = Authority::generate(Duration::from_secs(3600), SystemTime::now()).unwrap();
        assert!(Authority::parse("nonsense", made.key_pem()).is_err());
        assert!(Authority::parse(made.certificate_pem(), "nonsense").is_err());
        assert!(Authority::parse(made.certificate_pem(), made.key_pem()).is_ok());
    }

    #[test]
    fn a_leaf_ends_before_its_authority() {
        let now = SystemTime::now();
        let authority = Authority::generate(Duration::from_secs(3600), now).unwrap();
        let ends = authority.validity().ends;
        assert_eq!(authority.leaf_validity(Duration::from_secs(7200), now).ends, ends);
        assert!(authority.leaf_validity(Duration::from_secs(60), now).ends < ends);
    }
}
