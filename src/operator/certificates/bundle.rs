//! The certificates of all authorities that are trusted at one time, as one PEM text.
//!
//! It must not hold a key. The order is fixed by the certificates themselves, so that the same authorities are always
//! the same text and nothing is written when only their roles changed.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::error::CertificateError;

/// The trusted authorities; cheap to clone, one shared content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bundle {
    pem: Arc<str>,
    certificates: Arc<[CertificateDer<'static>]>,
}

/// When a certificate begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Validity {
    /// Its first moment.
    pub begins: SystemTime,
    /// Its last.
    pub ends: SystemTime,
}

impl Bundle {
    /// The authorities in these PEM texts, each once. `what` names the source in errors.
    ///
    /// # Errors
    /// When there is none, or one can't be read.
    pub fn new<'a>(what: &str, texts: impl IntoIterator<Item = &'a str>) -> Result<Self, CertificateError> {
        let mut found = Vec::new();
        for certificate in texts.into_iter().flat_map(|text| certificates(what, text)) {
            let certificate = certificate?;
            found.push((Validity::of(what, &certificate)?, certificate));
        }
        if found.is_empty() {
            return Err(CertificateError::Pem { what: what.to_owned() });
        }
        found.sort_by(|(one, first), (other, second)| (one, first.as_ref()).cmp(&(other, second.as_ref())));
        found.dedup();
        let certificates: Vec<_> = found.into_iter().map(|(_, certificate)| certificate).collect();
        let pem: String = certificates.iter().map(|certificate| pem(certificate)).collect();
        Ok(Self { pem: pem.into(), certificates: certificates.into() })
    }

    /// All certificates, in PEM.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// All certificates as the `caBundle` of an object takes them.
    #[must_use]
    pub fn base64(&self) -> String {
        STANDARD.encode(self.pem.as_bytes())
    }

    /// The certificates.
    #[must_use]
    pub fn certificates(&self) -> &[CertificateDer<'static>] {
        &self.certificates
    }

    /// What verifiers trust.
    ///
    /// # Errors
    /// When the TLS library refuses one.
    pub fn roots(&self) -> Result<Arc<RootCertStore>, CertificateError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates.iter() {
            roots.add(certificate.clone())?;
        }
        Ok(Arc::new(roots))
    }
}

impl Validity {
    /// A certificate's.
    ///
    /// # Errors
    /// When it is not an X.509 certificate.
    pub fn of(what: &str, certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let unreadable = || CertificateError::Parse { what: what.to_owned() };
        let (_, parsed) = X509Certificate::from_der(certificate).map_err(|_| unreadable())?;
        let time = |seconds: i64| {
            let since = Duration::from_secs(u64::try_from(seconds).ok()?);
            SystemTime::UNIX_EPOCH.checked_add(since)
        };
        let validity = parsed.validity();
        let (begins, ends) = (time(validity.not_before.timestamp()), time(validity.not_after.timestamp()));
        Ok(Self { begins: begins.ok_or_else(unreadable)?, ends: ends.ok_or_else(unreadable)? })
    }

    /// How long it lasts.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.ends.duration_since(self.begins).unwrap_or_default()
    }

    /// How long it lasts from `now` on; nothing when it is over.
    #[must_use]
    pub fn left(&self, now: SystemTime) -> Duration {
        self.ends.duration_since(now).unwrap_or_default()
    }
}

/// Each certificate of a PEM text.
pub(super) fn certificates(
    what: &str,
    text: &str,
) -> impl Iterator<Item = Result<CertificateDer<'static>, CertificateError>> {
    let broken = CertificateError::Pem { what: what.to_owned() };
    let mut found: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes()).map(Result::ok).collect();
    let whole = found.iter().all(Option::is_some);
    found.truncate(if whole { found.len() } else { 0 });
    let error = (!whole).then_some(Err(broken));
    found.into_iter().flatten().map(Ok).chain(error)
}

fn pem(certificate: &CertificateDer<'_>) -> String {
    let text = STANDARD.encode(certificate);
    let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::super::authority::Authority;
    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    fn authority(now: SystemTime) -> Authority {
        Authority::generate(YEAR, now).unwrap()
    }

    #[test]
    fn the_same_authorities_are_the_same_text_in_any_order() {
        let now = SystemTime::now();
        let (old, new) = (authority(now), authority(now + YEAR));
        let texts = [old.certificate_pem(), new.certificate_pem()];
        let bundle = Bundle::new("test", texts).unwrap();
        assert_eq!(bundle, Bundle::new("test", [texts[1], texts[0], texts[1]]).unwrap());
        assert_eq!(bundle.certificates().len(), 2);
        assert_eq!(bundle.roots().unwrap().len(), 2);
        assert_eq!(bundle, Bundle::new("test", [bundle.pem()]).unwrap(), "what is written is read back");
    }

    #[test]
    fn a_text_without_certificates_is_refused() {
        for text in ["", "nonsense", "-----BEGIN CERTIFICATE-----\n%%\n-----END CERTIFICATE-----\n"] {
            assert_eq!(Bundle::new("ca.crt", [text]).unwrap_err().reason(), "NotACertificate", "{text}");
        }
        let no_x509 = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(Bundle::new("ca.crt", [no_x509]).unwrap_err().reason(), "NotACertificate");
    }

    #[test]
    fn validity_is_the_certificates_own() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let made = authority(now);
        assert_eq!(made.validity().ends, now + YEAR);
        assert_eq!(made.validity().left(now + YEAR / 2), YEAR / 2);
        assert_eq!(made.validity().left(now + YEAR * 2), Duration::ZERO);
    }
}
