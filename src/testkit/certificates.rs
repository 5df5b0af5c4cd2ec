//! A certificate authority of one cluster, and what it signs.
//!
//! Owns keys and X.509 v3 certificates (rustls refuses v1). It must not write files.
//! Each cluster has its own authority, so that a client of one is a stranger to another.

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// A certificate and its private key, both PEM.
#[derive(Debug, Clone)]
pub struct Signed {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: String,
}

/// Signs certificates for servers and clients.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority with a fresh key.
    ///
    /// # Errors
    /// When the system's random source fails.
    pub fn new(common_name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate().context("cannot make the authority's key")?;
        let issuer = CertifiedIssuer::self_signed(params, key).context("cannot sign the authority's certificate")?;
        Ok(Self { issuer })
    }

    /// The authority's certificate, PEM.
    #[must_use]
    pub fn certificate(&self) -> String {
        self.issuer.pem()
    }

    /// A server certificate for these DNS names and IP addresses.
    ///
    /// # Errors
    /// When a name is not a valid DNS name.
    pub fn server(&self, names: &[&str]) -> Result<Signed> {
        self.sign(Self::server_params(names)?)
    }

    /// A server certificate as by [`Authority::server`] that ended long ago.
    ///
    /// # Errors
    /// When a name is not a valid DNS name.
    pub fn expired_server(&self, names: &[&str]) -> Result<Signed> {
        let mut params = Self::server_params(names)?;
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2020, 2, 1));
        self.sign(params)
    }

    /// A certificate as by [`Authority::server`] that serves and connects, as replicas of one service share it.
    ///
    /// # Errors
    /// When a name is not a valid DNS name.
    pub fn server_and_client(&self, names: &[&str]) -> Result<Signed> {
        let mut params = Self::server_params(names)?;
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ClientAuth);
        self.sign(params)
    }

    fn server_params(names: &[&str]) -> Result<CertificateParams> {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let first = names.first().cloned().unwrap_or_default();
        let mut params =
            CertificateParams::new(names).with_context(|| format!("bad server name in the certificate of {first}"))?;
        params.distinguished_name.push(DnType::CommonName, first);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        Ok(params)
    }

    /// A client certificate: to the API server, `user`, a member of `group` (the organization) where one is given.
    ///
    /// # Errors
    /// When the certificate cannot be signed.
    pub fn client(&self, user: &str, group: Option<&str>) -> Result<Signed> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, user);
        if let Some(group) = group {
            params.distinguished_name.push(DnType::OrganizationName, group);
        }
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, mut params: CertificateParams) -> Result<Signed> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("cannot make a key")?;
        let certificate = params.signed_by(&key, &self.issuer).context("cannot sign the certificate")?;
        Ok(Signed { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

/// A key pair that signs service account tokens: (private PKCS#8 PEM, public PEM). ECDSA P-256, so tokens are ES256.
pub(crate) fn service_account_keys() -> Result<(String, String)> {
    let key = KeyPair::generate().context("cannot make the service account key")?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}
