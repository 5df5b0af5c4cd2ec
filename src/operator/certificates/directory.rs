//! Certificates that somebody else keeps in a directory, such as cert-manager in a mounted Secret.
//!
//! Nothing is taken that clients would refuse: the files are checked as a sidecar and another replica would check them,
//! and until they are good the last good ones stay. It must not write.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::sign::CertifiedKey;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::authority::Leaf;
use super::bundle::{Bundle, Validity, certificates};
use super::error::CertificateError;
use super::report::Reporter;
use super::rotation::Schedule;
use super::tls::{Credentials, Names, Tls, provider};
use super::trust::Trust;

const CERTIFICATE: &str = "tls.crt";
const KEY: &str = "tls.key";
const AUTHORITY: &str = "ca.crt";

/// How the kubelet swaps all files of a volume at once: a link to the folder that holds them.
const SWAPPED: &str = "..data";

/// A directory with `tls.crt`, `tls.key` and `ca.crt`.
#[derive(Clone, Debug)]
pub(super) struct Directory {
    pub(super) path: PathBuf,
    pub(super) names: Names,
}

/// Keeps TLS true to a directory.
pub(super) struct DirectoryKeeper {
    pub(super) directory: Directory,
    pub(super) schedule: Schedule,
    pub(super) trust: Trust,
    pub(super) tls: watch::Sender<Option<Tls>>,
    pub(super) reporter: Reporter,
    /// What is in use.
    pub(super) memory: Option<Files>,
}

/// The files as they are.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authority: Vec<u8>,
}

impl Directory {
    /// Reads the files, all of one moment where the kubelet put them there.
    pub(super) fn read(&self) -> Result<Files, CertificateError> {
        let swapped = std::fs::canonicalize(self.path.join(SWAPPED));
        let folder = swapped.unwrap_or_else(|_| self.path.clone());
        let read = |name: &str| {
            std::fs::read(folder.join(name))
                .map_err(|error| CertificateError::File { path: self.path.join(name), message: error.to_string() })
        };
        Ok(Files { certificate: read(CERTIFICATE)?, key: read(KEY)?, authority: read(AUTHORITY)? })
    }

    /// What the files give, if everybody would take it.
    pub(super) fn check(&self, files: &Files, now: SystemTime) -> Result<Credentials, CertificateError> {
        let (certificate_path, key_path) = (self.path.join(CERTIFICATE), self.path.join(KEY));
        let bundle = self.bundle(files)?;
        let name = certificate_path.display().to_string();
        let text = String::from_utf8_lossy(&files.certificate);
        let chain: Vec<_> = certificates(&name, &text).collect::<Result<_, _>>()?;
        let leaf = chain.first().ok_or_else(|| CertificateError::Pem { what: name.clone() })?;
        let validity = Validity::of(&name, leaf)?;
        let key = key(&files.key, &key_path)?;
        let certified = CertifiedKey::from_der(chain.clone(), key.clone_key(), &provider());
        certified.map_err(|_| CertificateError::Mismatch { path: key_path })?;
        self.try_as_others_do(&chain, &bundle, now)?;
        let leaf = || Leaf { chain: chain.clone(), key: key.clone_key() };
        Ok(Credentials { server: leaf(), client: leaf(), peer_name: self.names.service().to_owned(), validity, bundle })
    }

    fn bundle(&self, files: &Files) -> Result<Bundle, CertificateError> {
        let name = self.path.join(AUTHORITY).display().to_string();
        Bundle::new(&name, [String::from_utf8_lossy(&files.authority).as_ref()])
    }

    /// Verifies the chain as sidecars do, and as the leader does when a follower shows it.
    fn try_as_others_do(
        &self,
        chain: &[CertificateDer<'static>],
        bundle: &Bundle,
        now: SystemTime,
    ) -> Result<(), CertificateError> {
        let refused = |by: &'static str| {
            let path = self.path.join(CERTIFICATE);
            move |error: rustls::Error| CertificateError::Refused { path, by, message: error.to_string() }
        };
        let (leaf, between) = chain.split_first().ok_or(CertificateError::Pem { what: CERTIFICATE.to_owned() })?;
        let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        let roots = bundle.roots()?;
        let sidecar = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider()).build()?;
        let service = ServerName::try_from(self.names.service().to_owned())
            .map_err(|_| CertificateError::Parse { what: self.names.service().to_owned() })?;
        sidecar.verify_server_cert(leaf, between, &service, &[], now).map_err(refused("by sidecars"))?;
        let leader = WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?;
        let usages = "by other replicas (it needs the usages `server auth` and `client auth`)";
        leader.verify_client_cert(leaf, between, now).map_err(refused(usages))?;
        Ok(())
    }
}

impl DirectoryKeeper {
    /// Takes what is there now.
    ///
    /// # Errors
    /// When it is not good; what was good before stays.
    pub(super) fn round(&mut self) -> Result<(), CertificateError> {
        let begun = Instant::now();
        let files = self.directory.read()?;
        if self.memory.as_ref() != Some(&files) {
            let credentials = self.directory.check(&files, SystemTime::now())?;
            self.trust.offer(&credentials.bundle.clone(), begun);
            self.put_to_use(credentials)?;
            self.memory = Some(files);
        } else if let Some(bundle) = self.trust.known() {
            self.trust.offer(&bundle, begun);
        }
        Ok(())
    }

    /// Follows the directory until it is stopped.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        while stop.run_until_cancelled(tokio::time::sleep(self.schedule.look_every())).await.is_some() {
            // A swap between two reads is over when it is read again.
            let outcome = self.round().or_else(|_| self.round());
            if let (Err(_), Some(bundle)) = (&outcome, self.trust.known()) {
                // What is good stays in force, and stays published.
                self.trust.offer(&bundle, Instant::now());
            }
            self.report(outcome);
        }
    }

    pub(super) fn report(&self, outcome: Result<(), CertificateError>) {
        let leaf = self.tls.borrow().as_ref().map(|tls| ("leaf", tls.validity()));
        let mut certificates: Vec<_> = leaf.into_iter().collect();
        let bundle = self.trust.known();
        let authorities = bundle.iter().flat_map(Bundle::certificates);
        // Old authorities may stand beside new ones: the last to end is the one that counts.
        let last = authorities.filter_map(|certificate| Validity::of(AUTHORITY, certificate).ok());
        certificates.extend(last.max_by_key(|validity| validity.ends).map(|validity| ("authority", validity)));
        self.reporter.round(outcome, &certificates);
    }

    fn put_to_use(&self, credentials: Credentials) -> Result<(), CertificateError> {
        let standing = self.tls.borrow().clone();
        match standing {
            Some(tls) => {
                tls.swap(credentials)?;
                tracing::info!("certificates reloaded");
            }
            None => {
                let tls = Tls::of(credentials, self.directory.names.clone())?;
                self.tls.send_replace(Some(tls));
            }
        }
        Ok(())
    }
}

fn key(pem: &[u8], path: &Path) -> Result<PrivateKeyDer<'static>, CertificateError> {
    PrivateKeyDer::from_pem_slice(pem)
        .map_err(|error| CertificateError::File { path: path.to_owned(), message: error.to_string() })
}

#[cfg(test)]
mod tests;
