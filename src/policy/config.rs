//! `ProxyConfig`: all that one workload's sidecars are told, as plain data.
//!
//! The same value stands in the workload's ConfigMap (as YAML), goes down the control
//! stream (as JSON) and is asserted in golden files. It must never hold a secret value.
//! Unknown fields are tolerated, so that an older proxy can read a newer operator's words.

mod breaker;
mod identifiers;
mod probe;
mod rate_limit;
mod routes;
mod server_address;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use self::breaker::{
    AnswerHeader, BreakerParameters, BreakerRule, CircuitBreaker, EndpointScope, FailureCondition, FailureCount,
    FailureOn, FailureRate, ForcedState, GrpcCode, HalfOpen, Mode, Open, Override, RateWindow, Recovery, SlowCallRate,
    StaticAnswer, StatusRange, Trip,
};
pub use self::identifiers::{
    BreakerKey, LimitKey, PolicyId, PolicyVersion, Reference, ReferenceKind, ServiceId, Side, TargetId, WorkloadId,
};
pub use self::probe::{MAX_PROBES, Probe, ProbeHeader, ProbeKind, ProbeScheme};
pub use self::rate_limit::{
    ApiKey, ClientIp, Cost, Delay, Exceed, JwtClaim, KeyPart, Limit, LimitHeaders, LimitRule, LimitScope, MissingKey,
    Quotas, Rate, RateLimit, RedisStore, RedisTls, RedisTopology, ShowKeys, StoreFailure, UnknownKey,
};
pub use self::routes::{HeaderMatch, InboundRoute, OutboundRoute, PathMatch, Protocol, RequestMatch};
pub use self::server_address::leads_back;

/// The version of this format that this build writes. A proxy refuses a higher one.
pub const FORMAT: u32 = 1;

/// What the sidecars of one workload enforce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyConfig {
    /// The format's version, [`FORMAT`].
    pub format: u32,
    /// Whose sidecars these are.
    pub workload: WorkloadId,
    /// Every policy that this configuration carries, with the generation it was made from, sorted.
    /// An acknowledgement repeats them, and `Programmed` counts them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyVersion>,
    /// Traffic into the application, by container port, sorted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub inbound: Vec<InboundRoute>,
    /// Traffic out of the application, by Service port, sorted. Services without a policy are absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub outbound: Vec<OutboundRoute>,
}

impl ProxyConfig {
    /// A configuration that asks for nothing.
    #[must_use]
    pub fn empty(workload: WorkloadId) -> Self {
        Self { format: FORMAT, workload, policies: Vec::new(), inbound: Vec::new(), outbound: Vec::new() }
    }

    /// The version of this content: a hash of its canonical JSON, the same in every operator replica.
    #[must_use]
    pub fn revision(&self) -> String {
        // Serializing plain data with string keys into memory cannot fail; an empty hash would only cause a resend.
        let json = serde_json::to_vec(self).unwrap_or_default();
        Sha256::digest(&json).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}
