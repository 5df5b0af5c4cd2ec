//! Where traffic comes in and goes out, and which requests a rule is for.
//!
//! It must not say what is enforced: a route carries a policy's part as one value, and lives without one.

use serde::{Deserialize, Serialize};

use super::breaker::CircuitBreaker;
use super::identifiers::ServiceId;
use super::rate_limit::RateLimit;

/// Traffic to one container port of the sidecar's own pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InboundRoute {
    /// The container port the application listens on.
    pub port: u16,
    /// What is spoken there.
    #[serde(default, skip_serializing_if = "Protocol::is_detect")]
    pub protocol: Protocol,
    /// The breaker in front of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// The limits in front of the breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
}

/// Traffic from the sidecar's own pod to one port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutboundRoute {
    /// The Service.
    pub service: ServiceId,
    /// The Service's port.
    pub port: u16,
    /// The port's name; empty where it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub port_name: String,
    /// What is spoken there.
    #[serde(default, skip_serializing_if = "Protocol::is_detect")]
    pub protocol: Protocol,
    /// Where to connect, as `host:port`: the cluster IPs, or the external name. Tried in order.
    pub addresses: Vec<String>,
    /// The breaker in front of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breaker: Option<CircuitBreaker>,
    /// The limits in front of the breaker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
}

/// What is spoken on a port, as the Service's `appProtocol` says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Protocol {
    /// Nobody said: HTTP is recognised by its first bytes, anything else is passed through.
    #[default]
    Detect,
    /// HTTP/1.1, or HTTP/2 by prior knowledge. Other bytes are answered with an error.
    Http,
    /// Not HTTP as far as the proxy is concerned, such as TLS or a protocol in which the server speaks first.
    Tcp,
}

/// Which requests a rule takes: all that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestMatch {
    /// One of these methods; empty is any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub methods: Vec<String>,
    /// The path, without the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// All of these headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<HeaderMatch>,
}

/// How a path is compared (Gateway API `HTTPPathMatch`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", content = "value")]
pub enum PathMatch {
    /// The whole path, byte for byte.
    Exact(String),
    /// Whole segments: `/a` takes `/a` and `/a/b`, not `/ab`.
    PathPrefix(String),
    /// RE2-like, linear time, anchored at both ends.
    RegularExpression(String),
}

/// One header's value, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// The header's name, compared without case.
    pub name: String,
    /// Its value.
    pub value: String,
}

impl Protocol {
    /// Whether nobody said.
    #[must_use]
    pub fn is_detect(&self) -> bool {
        *self == Self::Detect
    }
}
