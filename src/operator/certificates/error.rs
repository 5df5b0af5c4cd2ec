//! Why there is no certificate, in words that name the object and the next step.
//!
//! It decides nothing; every step of this module has its own variants here, so that health and logs say the same.

use std::path::PathBuf;
use std::time::Duration;

/// Why there is no certificate, or not the one that should be.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A key or certificate could not be made or read.
    #[error("the authority's key or certificate can't be used")]
    Make(#[from] rcgen::Error),
    /// What should hold certificates does not.
    #[error("{what} holds no PEM certificate")]
    Pem {
        /// What.
        what: String,
    },
    /// A certificate is not an X.509 one.
    #[error("{what} holds a certificate that can't be read")]
    Parse {
        /// What.
        what: String,
    },
    /// The TLS library refused what was made.
    #[error("TLS can't use the certificate")]
    Tls(#[from] rustls::Error),
    /// The client verifier could not be made.
    #[error("peers can't be verified")]
    Verifier(#[from] rustls::client::VerifierBuilderError),
    /// The Secret lacks a part.
    #[error("Secret {secret} has no usable {key}: delete the Secret, and the leader makes a new one")]
    Incomplete {
        /// The Secret.
        secret: &'static str,
        /// The part.
        key: &'static str,
    },
    /// There is no Secret, and this replica must not make one.
    #[error("Secret {secret} is not there yet: the leader makes it")]
    Absent {
        /// The Secret.
        secret: &'static str,
    },
    /// The API server did not answer.
    #[error("{what} was not answered within {after:?}")]
    Timeout {
        /// The object.
        what: String,
        /// How long it had.
        after: Duration,
    },
    /// The API server did not carry out a call.
    #[error("{what} can't be read or written: {message}")]
    Api {
        /// The object.
        what: String,
        /// The API server's code, or 0 where there was no answer.
        code: u16,
        /// Why.
        message: String,
    },
    /// A file of the directory can't be read.
    #[error("{} can't be read: {message}; --tls-dir needs tls.crt, tls.key and ca.crt", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// The key is not the certificate's.
    #[error("{} is not the key of the certificate beside it", path.display())]
    Mismatch {
        /// The key's file.
        path: PathBuf,
    },
    /// The certificate would be refused.
    #[error("{} would be refused {by}: {message}", path.display())]
    Refused {
        /// The certificate's file.
        path: PathBuf,
        /// By whom.
        by: &'static str,
        /// Why.
        message: String,
    },
}

impl CertificateError {
    /// A stable word for metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Make(_) | Self::Tls(_) | Self::Verifier(_) => "Unusable",
            Self::Pem { .. } | Self::Parse { .. } => "NotACertificate",
            Self::Incomplete { .. } => "Incomplete",
            Self::Absent { .. } => "Absent",
            Self::Timeout { .. } => "TimedOut",
            Self::Api { code: 403, .. } => "Forbidden",
            Self::Api { code: 409, .. } => "Conflict",
            Self::Api { .. } => "Refused",
            Self::File { .. } => "FileMissing",
            Self::Mismatch { .. } => "KeyMismatch",
            Self::Refused { .. } => "CertificateRefused",
        }
    }

    /// The API server's answer to a call about `what`.
    pub(super) fn api(what: impl Into<String>, error: &kube::Error) -> Self {
        let what = what.into();
        match error {
            kube::Error::Api(status) => Self::Api { what, code: status.code, message: status.message.clone() },
            error => Self::Api { what, code: 0, message: error.to_string() },
        }
    }
}

/// An error with its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
