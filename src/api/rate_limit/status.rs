//! The status of a RateLimit: what `kubectl get` and `describe` show.
//!
//! Only the operator's leader writes it. It must hold ready-made scalars where a printer column needs one, and no key of a
//! client in clear.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::TargetRef;
use crate::status::SidecarsStatus;

/// At most this many entries stand in `status.targets`.
pub const MAX_LIMIT_TARGETS: usize = 64;

/// At most this many blocked clients of a target are named.
pub const MAX_TOP_BLOCKED: usize = 10;

/// What became of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, ResolvedRefs (also what Secrets and ConfigMaps the policy names), Programmed (the sidecars acknowledged
    /// this generation), Ready (all three), Limited (requests were refused in the last minute, or clients are blocked now),
    /// StoreReachable (with scope Shared), Monitored, Covered (every pod that asks for a sidecar has one, through which its traffic goes).
    #[serde(default)]
    #[schemars(schema_with = "crate::schemas::conditions", length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// One line for `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<RateLimitSummary>,
    /// Each target, limit and rule, at most 64.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub targets: Vec<LimitStatus>,
    /// The sidecars of the enforcing side, and the pods for which something is amiss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<SidecarsStatus>,
    /// True where targets, blocked clients or pods were left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// One line for `kubectl get`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitSummary {
    /// The first target, and how many more there are.
    #[serde(default)]
    pub target: String,
    /// The first limit's rate, and how many more limits there are: 60/1m +1.
    #[serde(default)]
    pub limit: String,
    /// Replica, Shared, or both.
    #[serde(default)]
    pub scope: String,
    /// Requests that were refused, of all that limits decided on in the last minute, in percent; absent where none was decided on
    /// in it. Pods whose sidecar is of an older version are not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_percent: Option<i64>,
    /// Clients that are refused for a time now; absent where no pod reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked: Option<i64>,
}

/// One limit, or one rule of it, on one target. Numbers are sums over the pods that report, of three leading digits; allowed, limited
/// and delayed since these pods started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitStatus {
    /// The reference as the spec has it.
    #[serde(rename = "ref")]
    pub reference: TargetRef,
    /// The limit's name.
    #[serde(default)]
    pub limit: String,
    /// The rule's name; empty for the limit's own buckets.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Whether the policy applies to this target.
    #[serde(default)]
    pub accepted: bool,
    /// Where it does not, why and what to do; or who else has a word on it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The pods that enforce it.
    #[serde(default)]
    pub pods: LimitPods,
    /// Requests that passed, those that waited among them; absent where no pod reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<i64>,
    /// Requests that were refused; with mode Shadow, those that would have been. Absent where no pod reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited: Option<i64>,
    /// Requests that were refused in the last minute; with mode Shadow, those that would have been. Absent where no pod says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_recently: Option<i64>,
    /// Refused requests of all in the last minute, in percent; absent where there were none in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_percent: Option<i64>,
    /// When a request was refused last; absent where none was since the pods started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schemas::time")]
    pub last_limited: Option<Time>,
    /// Requests that waited since the pods started, with action Delay; maxQueued bounds how many wait at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delayed: Option<i64>,
    /// Clients that are refused for a time now: with scope Replica the sum over pods, with Shared what the pod with the most
    /// knows. Absent where no pod reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocked_clients: Option<i64>,
    /// The blocked clients that were refused most, at most 10.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub top_blocked: Vec<BlockedClient>,
    /// With scope Shared, since when a pod can't reach the store, the earliest of all pods; absent where all can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schemas::time")]
    pub store_lost_since: Option<Time>,
}

/// The pods that enforce a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitPods {
    /// Pods that report. The others are unknown.
    #[serde(default)]
    pub reporting: i64,
    /// Pods that can't reach the store, with scope Shared.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub without_store: i64,
}

/// A client that is refused for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlockedClient {
    /// Its key, hashed or redacted as showKeys says; `fusebox limits` shows more and lets it go.
    pub key: String,
    /// Since when, the earliest of all pods.
    #[schemars(schema_with = "crate::schemas::time")]
    pub since: Time,
    /// Until when, the latest of all pods.
    #[schemars(schema_with = "crate::schemas::time")]
    pub until: Time,
}

// The signature is serde's.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}
