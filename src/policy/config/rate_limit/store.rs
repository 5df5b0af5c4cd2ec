//! Where limits of scope Shared are kept, and what they do without it.
//!
//! It must hold no credential, only references to them.

use serde::{Deserialize, Serialize};

use super::is_default;
use crate::config::Reference;

/// What limits of scope Shared do while the store doesn't answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StoreFailure {
    /// Each proxy allows its part: the rate divided by the live replicas.
    #[default]
    LocalEstimate,
    /// Everything passes.
    Open,
    /// Nothing passes.
    Closed,
}

/// A Redis server, or several that act as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisStore {
    /// Who is asked.
    pub topology: RedisTopology,
    /// The database's number; 0 with a cluster.
    #[serde(default, skip_serializing_if = "is_default")]
    pub database: u32,
    /// Who the proxy says it is (ACL); absent with a username of `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username: Option<Reference>,
    /// Its password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password: Option<Reference>,
    /// TLS; absent is plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RedisTls>,
    /// All keys begin with it.
    pub key_prefix: String,
    /// How long one decision may take, in milliseconds, before the store counts as failed.
    pub timeout_ms: u64,
}

/// Who is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RedisTopology {
    /// One server.
    Single {
        /// `host:port`.
        address: String,
    },
    /// The primary that Sentinels name.
    Sentinel {
        /// The Sentinels, `host:port` each.
        addresses: Vec<String>,
        /// The primary's name.
        primary: String,
    },
    /// The nodes of a Redis Cluster.
    Cluster {
        /// Some of them, `host:port` each.
        addresses: Vec<String>,
    },
}

/// How the store proves who it is, and the proxy who it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RedisTls {
    /// Certificates in PEM of the authorities that are believed; absent is the usual public ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authorities: Option<Reference>,
    /// The proxy's own certificate in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate: Option<Reference>,
    /// The private key of it in PEM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<Reference>,
}

impl RedisStore {
    /// Every reference whose value the proxy must be sent.
    pub(super) fn references(&self) -> impl Iterator<Item = &Reference> {
        let tls = self.tls.iter().flat_map(|tls| [&tls.authorities, &tls.certificate, &tls.private_key]);
        [&self.username, &self.password].into_iter().chain(tls).flatten()
    }
}
