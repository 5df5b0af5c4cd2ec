//! Why the store's own answer is not to be had.
//!
//! It must never hold words of the store or of a secret: they end in logs, in the status and before people.

use std::net::IpAddr;
use std::time::Duration;

/// Why there is no decision, or no connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StoreLost {
    /// No connection stands.
    #[error("the store is not connected")]
    NotConnected,
    /// The answer was not there in time.
    #[error("the store did not answer within {limit:?}")]
    Timeout {
        /// The time.
        limit: Duration,
    },
    /// The network failed.
    #[error("{address} can't be reached: {problem}")]
    Unreachable {
        /// Who.
        address: String,
        /// What the system says.
        problem: String,
    },
    /// TLS failed.
    #[error("TLS with {address} failed: {problem}")]
    Tls {
        /// Who.
        address: String,
        /// What the library says.
        problem: String,
    },
    /// It wants to know who connects, and there is no certificate to show.
    #[error("{address} demands a client certificate: name one in spec.store.redis.tls.certificateFrom")]
    CertificateDemanded {
        /// Who.
        address: String,
    },
    /// It does not take the certificate that it was shown.
    #[error("{address} refuses the client certificate of spec.store.redis.tls.certificateFrom: {problem}")]
    CertificateRefused {
        /// Who.
        address: String,
        /// What it says of the certificate.
        problem: &'static str,
    },
    /// Its name leads where no policy may lead.
    #[error(
        "{address} is {ip}, which leads back into the pod or to the node's metadata: name the Redis server in {field}"
    )]
    Forbidden {
        /// Who.
        address: String,
        /// Where its name leads.
        ip: IpAddr,
        /// The policy's field.
        field: &'static str,
    },
    /// Username or password are not the store's.
    #[error("{address} refused the username or the password")]
    Credentials {
        /// Who.
        address: String,
    },
    /// The store answered with an error.
    #[error("{address} answered with error {code}{}", advice(.code))]
    Answered {
        /// Who.
        address: String,
        /// The error's first word, such as `NOPERM`.
        code: String,
    },
    /// The store's answer is no answer to what was asked.
    #[error("{address} gave an answer that makes no sense")]
    Malformed {
        /// Who.
        address: String,
    },
    /// The connection ended.
    #[error("the connection to {address} ended")]
    Ended {
        /// Who.
        address: String,
    },
    /// It is a replica now.
    #[error("{address} is not the primary")]
    NotPrimary {
        /// Who.
        address: String,
    },
    /// No Sentinel names a primary.
    #[error("no Sentinel names a primary called {primary}")]
    NoPrimary {
        /// Its name.
        primary: String,
    },
    /// A node of the cluster is away, or nobody has the slot.
    #[error("no node of the cluster answers for slot {slot}")]
    NoNode {
        /// The slot.
        slot: u16,
    },
    /// The caller asks for what no policy can ask for.
    #[error("a decision is over 1 to {most} buckets")]
    Demands {
        /// The most.
        most: usize,
    },
}

impl StoreLost {
    /// Whether a person has to mend it, so that it says more than that nobody answered.
    pub(super) fn is_to_be_mended(&self) -> bool {
        use StoreLost::{CertificateDemanded, CertificateRefused, Forbidden, Tls};
        matches!(self, Tls { .. } | CertificateDemanded { .. } | CertificateRefused { .. } | Forbidden { .. })
    }

    /// A stable word for metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::NotConnected => "NotConnected",
            Self::Timeout { .. } => "Timeout",
            Self::Unreachable { .. } => "Unreachable",
            Self::Tls { .. } => "Tls",
            Self::CertificateDemanded { .. } => "CertificateDemanded",
            Self::CertificateRefused { .. } => "CertificateRefused",
            Self::Forbidden { .. } => "Forbidden",
            Self::Credentials { .. } => "Credentials",
            Self::Answered { .. } => "Answered",
            Self::Malformed { .. } => "Malformed",
            Self::Ended { .. } => "Ended",
            Self::NotPrimary { .. } => "NotPrimary",
            Self::NoPrimary { .. } => "NoPrimary",
            Self::NoNode { .. } => "NoNode",
            Self::Demands { .. } => "Demands",
        }
    }
}

/// The next step for errors that a person has to mend.
fn advice(code: &str) -> &'static str {
    match code {
        "NOAUTH" => ": it asks for a password, and the policy names none",
        "NOPERM" => ": its ACL lacks a command or the key prefix (docs/decisions/0022-shared-store.md)",
        "OOM" => ": it is out of memory",
        "LOADING" => ": it is reading its data",
        "TRYAGAIN" => ": the cluster is moving the buckets to another node one by one",
        "FOREIGN" | "WRONGTYPE" => ": another program writes keys with our prefix",
        _ => "",
    }
}
