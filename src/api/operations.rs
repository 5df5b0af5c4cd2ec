//! The resources of the live operations, `ops.fusebox.dev/v1alpha1`: what the operator serves by API aggregation.
//!
//! None of them is stored: each is made when somebody asks. They must hold what is true of single pods, which a policy's
//! status leaves out because it is written to the cluster's store.

mod definitions;
mod rate_limit;
mod state;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Duration;
use crate::circuit_breaker::{ForcedState, Override, Scope};
use crate::common::{Mode, Side};

pub use definitions::{Definition, Subresource, definitions};
pub use rate_limit::{
    BrokenValue, LimitState, LimitedKey, LimitedRequests, MAX_LIMITED_KEYS, MAX_LIMITS, PodLimits, RateLimitState,
    RateLimitUnblock, Unanswered,
};
pub use state::{Elsewhere, Enforcers, ListMetadata, State, StateList};

/// The group and version of these resources.
pub const API_VERSION: &str = "ops.fusebox.dev/v1alpha1";

/// Breakers of one answer, at most; a list goes on where it was cut, by its `continue` token.
pub const MAX_BREAKERS: usize = 20_000;

/// What identifies an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Metadata {
    /// Its namespace.
    #[serde(default)]
    pub namespace: String,
    /// Its name.
    #[serde(default)]
    pub name: String,
}

/// The breakers of one CircuitBreakerPolicy as they are now, on each pod that enforces it. It has the policy's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreakerState {
    /// `ops.fusebox.dev/v1alpha1`.
    pub api_version: String,
    /// `CircuitBreakerState`.
    pub kind: String,
    /// The policy's namespace and name.
    pub metadata: Metadata,
    /// The policy's generation that this speaks of.
    pub generation: i64,
    /// Which end of a call enforces the policy: Client or Server.
    pub side: Side,
    /// What has a breaker: Service or Endpoint.
    pub scope: Scope,
    /// Enforce, Shadow or Disabled.
    pub mode: Mode,
    /// The override in force, if there is one.
    #[serde(rename = "override", default, skip_serializing_if = "Option::is_none")]
    pub force: Option<Override>,
    /// The pods that enforce it.
    #[serde(flatten)]
    pub enforcers: Enforcers<PodState, OpenPods>,
}

/// One pod's breakers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodState {
    /// The pod's name.
    pub name: String,
    /// The kind and name of its workload. Example: Deployment/web.
    pub workload: String,
    /// Whether the pod is Ready.
    pub ready: bool,
    /// Whether its sidecar is connected to the operator. Where it has not been for ten seconds, the state of its breakers
    /// is Unknown.
    pub connected: bool,
    /// Since when it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schemas::time")]
    pub connected_since: Option<Time>,
    /// The sidecar's version, as it says itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The revision of its configuration that it enforces.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub revision: String,
    /// Whether that is the revision it should enforce.
    #[serde(default)]
    pub current: bool,
    /// The policy's generation that it enforces, if it enforces any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Why it refused the newest configuration, in its own words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub refused: String,
    /// Its breakers for this policy.
    #[serde(default)]
    pub breakers: Vec<BreakerState>,
}

/// One breaker of one pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakerState {
    /// The Service that it guards calls to.
    pub target: Target,
    /// The Service's port on side Client, the container port on side Server.
    pub port: u16,
    /// The rule's name; empty for the policy's own breaker.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Address and port of the endpoint, with scope Endpoint.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
    /// What it does: Closed, HalfOpen, Open, or Unknown while its pod is not heard.
    pub state: LiveState,
    /// Why, such as ConsecutiveFailures or ForcedOpen.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Since when it is in this state; absent where it has seen no traffic.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schemas::time")]
    pub since: Option<Time>,
    /// Failures among the requests of its current window, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_percent: Option<f64>,
    /// Slow calls among the requests of its current window, in percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_percent: Option<f64>,
    /// How often it went from closed to open since the sidecar started.
    #[serde(default)]
    pub trips: u64,
    /// Requests that it refused since the sidecar started.
    #[serde(default)]
    pub rejected: u64,
    /// When it last went from closed to open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schemas::time")]
    pub last_trip: Option<Time>,
    /// When the next probe may pass; set while it is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schemas::time")]
    pub next_probe: Option<Time>,
}

/// A Service, or one port of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The port's name where the policy names one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub section_name: String,
}

/// What one breaker of one pod does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum LiveState {
    /// The pod is not heard, or does not enforce the policy yet.
    #[default]
    Unknown,
    /// Everything passes.
    Closed,
    /// Only probes pass.
    HalfOpen,
    /// Nothing passes.
    Open,
}

/// What is counted of breakers on pods of another namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OpenPods {
    /// Those with a breaker that is open.
    pub open: i64,
}

/// What forces every breaker of a policy, on all pods, until a time. Either `until` or `for` says for how long.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CircuitBreakerOverride {
    /// `ops.fusebox.dev/v1alpha1`; may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// `CircuitBreakerOverride`; may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The policy's namespace and name, in answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// ForcedOpen (refuse everything) or ForcedClosed (let everything pass).
    pub state: ForcedState,
    /// When it ends, RFC 3339, at most 24 hours from now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schemas::time")]
    pub until: Option<Time>,
    /// For how long from now, at most 24h. Example: 30m.
    #[serde(rename = "for", default, skip_serializing_if = "Option::is_none")]
    pub duration: Option<Duration>,
    /// Why, for those who see it; 1 to 256 characters. Example: INC-42.
    pub reason: String,
    /// The policy's generation that has it, in answers: a pod that enforces this generation obeys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
}

/// Which policies apply to a pod, which do not, and why. It has the pod's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// `ops.fusebox.dev/v1alpha1`.
    pub api_version: String,
    /// `Explanation`.
    pub kind: String,
    /// The pod's namespace and name.
    pub metadata: Metadata,
    /// What the pod belongs to.
    pub workload: Workload,
    /// Whether it has a sidecar. Where it has none, the rest says what would be with one.
    pub sidecar: bool,
    /// The policies that apply, at each place of the pod.
    pub applies: Vec<Applies>,
    /// Targets of policies that do not concern the pod.
    pub does_not_apply: Vec<DoesNotApply>,
}

/// A workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Its namespace.
    pub namespace: String,
    /// Its kind, such as Deployment; Pod where the pod has no owner.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// A policy at one place of a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Applies {
    /// The policy's kind.
    #[serde(default = "circuit_breaker_policy")]
    pub kind: String,
    /// The policy.
    pub policy: Metadata,
    /// Which end of a call enforces it.
    pub side: Side,
    /// Enforce or Shadow.
    pub mode: Mode,
    /// Service or Endpoint, of what has a breaker; Replica, Shared or both, of where limits are counted.
    pub scope: String,
    /// What is spoken there: Http, Tcp, or Detect where nobody said.
    pub protocol: String,
    /// Which traffic, such as `out to shop/payments:80`.
    pub traffic: String,
    /// The names of its rules; of a RateLimit those of its limits, each with its rule after a slash where it has one.
    #[serde(default)]
    pub rules: Vec<String>,
}

/// A target of a policy that does not concern a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DoesNotApply {
    /// The policy's kind.
    #[serde(default = "circuit_breaker_policy")]
    pub kind: String,
    /// The policy.
    pub policy: Metadata,
    /// Its target.
    pub target: Target,
    /// Why, and where there is one the step that would change it.
    pub why: String,
}

/// Of whom older operators told.
fn circuit_breaker_policy() -> String {
    "CircuitBreakerPolicy".to_owned()
}

impl State for CircuitBreakerState {
    const KIND: &'static str = "CircuitBreakerState";
    const PLURAL: &'static str = "circuitbreakerstates";
    const MOST: usize = MAX_BREAKERS;

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn size(&self) -> usize {
        self.enforcers.pods.iter().map(|pod| pod.breakers.len()).sum()
    }

    fn is_incomplete(&self) -> bool {
        self.enforcers.incomplete
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { namespace, name, section_name } = self;
        let section = if section_name.is_empty() { String::new() } else { format!(":{section_name}") };
        write!(formatter, "{namespace}/{name}{section}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::{OPERATIONS_GROUP, VERSION};

    #[test]
    fn the_version_is_that_of_the_group() {
        assert_eq!(API_VERSION, format!("{OPERATIONS_GROUP}/{VERSION}"));
    }

    #[test]
    fn an_override_with_an_unknown_field_is_refused() {
        let text = r#"{"state": "ForcedOpen", "for": "30m", "reason": "INC-42", "force": true}"#;
        let error = serde_json::from_str::<CircuitBreakerOverride>(text).unwrap_err();
        assert!(error.to_string().contains("unknown field `force`"), "{error}");
        let text = r#"{"state": "ForcedOpen", "for": "30m", "reason": "INC-42"}"#;
        assert!(serde_json::from_str::<CircuitBreakerOverride>(text).is_ok());
    }
}
