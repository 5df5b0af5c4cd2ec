//! The status of a CircuitBreakerPolicy: what `kubectl get` and `describe` show.
//!
//! Only the operator's leader writes it. It must hold ready-made scalars where a printer column
//! needs one, because a column can't compute.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::TargetRef;

/// At most this many entries stand in `status.targets`.
pub const MAX_TARGETS: usize = 64;

/// At most this many endpoints of a target are named.
pub const MAX_OPEN_ENDPOINTS: usize = 16;

/// At most this many pods are named in `status.sidecars`.
pub const MAX_SIDECAR_FINDINGS: usize = 16;

/// What became of a policy.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreakerPolicyStatus {
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Accepted, ResolvedRefs, Programmed (the sidecars acknowledged this generation), Ready (all three), Tripped,
    /// Monitored, Overridden, Covered (every pod that asks for a sidecar has one, through which its traffic goes).
    #[serde(default)]
    #[schemars(schema_with = "crate::schemas::conditions", length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
    /// The breakers' state over all pods: Closed, HalfOpen, Open, PartiallyOpen, or Unknown where no pod reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// One line for `kubectl get`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<Summary>,
    /// Each target and rule, at most 64.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub targets: Vec<TargetStatus>,
    /// The sidecars of the enforcing side, and the pods for which something is amiss.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sidecars: Option<SidecarsStatus>,
    /// True where targets, open endpoints or pods were left out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// The sidecars of a policy's enforcing side.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarsStatus {
    /// Pods that have a sidecar or ask for one.
    #[serde(default)]
    pub expected: i64,
    /// Pods that have one.
    #[serde(default)]
    pub injected: i64,
    /// Pods for which something is amiss, the worst first, at most 16. What to do stands in condition Covered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub findings: Vec<SidecarFinding>,
}

/// What is amiss with one pod's sidecar.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SidecarFinding {
    /// The pod, as NAMESPACE/NAME.
    pub pod: String,
    /// What is amiss. Values of newer versions may be among them.
    pub problem: String,
    /// What it is about, such as a Service's port, a version or the proxy's words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
}

/// A breaker's state over several pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum State {
    /// No pod reports.
    #[default]
    Unknown,
    /// Requests pass on every reporting pod.
    Closed,
    /// No breaker is open, and at least one lets only probes pass.
    HalfOpen,
    /// Open on some of the reporting pods or, with scope Endpoint, for some of the endpoints.
    PartiallyOpen,
    /// Open on every reporting pod and, with scope Endpoint, for every endpoint that was called.
    Open,
}

/// One line for `kubectl get`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// The first target, and how many more there are.
    #[serde(default)]
    pub target: String,
    /// Pods with an open breaker, of all pods that enforce the policy: 3/12. With scope Endpoint, endpoints with an open
    /// breaker in any pod, of all that were called: 1/3 endpoints.
    #[serde(default)]
    pub open: String,
    /// Failures among recent requests, in percent, mean over the breakers that saw requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_percent: Option<i64>,
    /// How often breakers went from closed to open, since their pods started.
    #[serde(default)]
    pub trips: i64,
    /// When a breaker last went from closed to open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schemas::time")]
    pub last_trip_time: Option<Time>,
}

/// One target, or one rule on it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetStatus {
    /// The reference as the spec has it.
    #[serde(rename = "ref")]
    pub reference: TargetRef,
    /// The rule's name; empty for the policy's own breaker.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Whether the policy applies to this target.
    #[serde(default)]
    pub accepted: bool,
    /// Where it does not, why and what to do; or who else has a word on it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// The breakers' state over all pods.
    #[serde(default)]
    pub state: State,
    /// Pods by state.
    #[serde(default)]
    pub pods: PodCounts,
    /// Endpoints by state, with scope Endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<EndpointCounts>,
    /// Failures among recent requests, in percent, mean over the breakers that saw requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_percent: Option<i64>,
    /// Slow calls among recent requests, in percent, mean over the breakers that saw requests; set with slowCallRate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_percent: Option<i64>,
    /// How often breakers went from closed to open, since their pods started.
    #[serde(default)]
    pub trips: i64,
    /// Why the breakers are in this state, such as ConsecutiveFailures or SlowCallRate.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When a breaker last changed its state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schemas::time")]
    pub last_transition_time: Option<Time>,
    /// When the next probe may pass, the earliest over all pods.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schemas::time")]
    pub next_probe_time: Option<Time>,
}

/// Pods by the state of their breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodCounts {
    /// Pods whose breaker is closed.
    #[serde(default)]
    pub closed: i64,
    /// Pods whose breaker is open; with scope Endpoint, open for every endpoint they called.
    #[serde(default)]
    pub open: i64,
    /// Pods whose breaker is half-open.
    #[serde(default)]
    pub half_open: i64,
    /// Pods whose breakers are open for some endpoints, with scope Endpoint.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub partially_open: i64,
    /// Pods that report. The others are unknown.
    #[serde(default)]
    pub reporting: i64,
}

/// The endpoints of a target by the state of their breakers. One that never was called is not counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EndpointCounts {
    /// Endpoints that were called by any pod that reports.
    #[serde(default)]
    pub total: i64,
    /// Those whose breaker is open in any pod.
    #[serde(default)]
    pub open: i64,
    /// Those whose breaker is half-open in any pod, and open in none.
    #[serde(default)]
    pub half_open: i64,
    /// The open ones as address and port, sorted, at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub open_addresses: Vec<String>,
}

// The signature is serde's.
#[allow(clippy::trivially_copy_pass_by_ref)]
const fn is_zero(number: &i64) -> bool {
    *number == 0
}
