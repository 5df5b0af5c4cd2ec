//! A probe that a sidecar makes in the kubelet's place: handed over by the injector, as JSON in a variable.
//!
//! It stands here because both sides see this room: the injector writes what the proxy reads. Unlike the rest of a
//! configuration an unknown field is refused, since a probe that means something else than was asked for would lie to the kubelet.

use serde::{Deserialize, Serialize};

/// Probes that one pod can have; the injector hands over no more, and the proxy takes no more.
pub const MAX_PROBES: usize = 256;

/// One probe of one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Probe {
    /// Where the kubelet asks for it on the admin port: `/probes/CONTAINER/KIND`.
    pub path: String,
    /// The application's port.
    pub port: u16,
    /// What is asked.
    pub kind: ProbeKind,
    /// Whether HTTP goes over TLS; absent is `HTTP`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<ProbeScheme>,
    /// Path and query of an HTTP probe; absent is `/`. What a request can't hold is escaped, as the kubelet does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// Headers of an HTTP probe, Host among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<ProbeHeader>,
    /// The service that a gRPC probe asks about; absent or empty is the server as a whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// How long it may take, in milliseconds, from 1 to an hour; what is out of that is taken as the nearest.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

/// What a probe does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProbeKind {
    /// A GET that succeeds with 200..=399.
    Http,
    /// The health service of gRPC, without TLS.
    Grpc,
    /// A connection that can be made.
    Tcp,
}

/// How HTTP is carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ProbeScheme {
    /// As it is.
    #[default]
    #[serde(rename = "HTTP", alias = "http")]
    Http,
    /// Over TLS, whatever the certificate says.
    #[serde(rename = "HTTPS", alias = "https")]
    Https,
}

/// One header of an HTTP probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ProbeHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    #[serde(default)]
    pub value: String,
}

const fn default_timeout_ms() -> u64 {
    1_000
}
