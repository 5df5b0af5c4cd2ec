//! CircuitBreakerPolicy: what a user declares about one or more Services.
//!
//! The types must stay free of behaviour; their comments are what `kubectl explain` shows,
//! so they speak to users: meaning, default, unit, example.

mod failure_on;
mod fallback;
mod timing;
mod trip;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Mode, RequestMatch, Side, TargetRef};
use crate::duration::Duration;
use crate::status::CircuitBreakerPolicyStatus;

pub use failure_on::{FailureCondition, FailureOn, GrpcCode, HttpStatusPattern};
pub use fallback::{AnswerHeader, Fallback, FallbackType, StaticAnswer};
pub use timing::{HalfOpen, Open, Recovery};
pub use trip::{FailureCount, FailureRate, RateWindow, SlowCallRate, Trip, TripType};

/// Stops calling a Service that keeps failing, and finds out when it works again.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "fusebox.dev",
    version = "v1alpha1",
    kind = "CircuitBreakerPolicy",
    plural = "circuitbreakerpolicies",
    singular = "circuitbreakerpolicy",
    shortname = "circuitbreakers",
    shortname = "circuitbreaker",
    shortname = "cb",
    category = "resilience",
    namespaced,
    status = "CircuitBreakerPolicyStatus",
    derive = "PartialEq",
    doc = "Stops calling a Service that keeps failing, fails fast meanwhile, and finds out when it works again.",
    printcolumn(
        name = "Target",
        type_ = "string",
        json_path = ".status.summary.target",
        description = "The Services it applies to."
    ),
    printcolumn(
        name = "State",
        type_ = "string",
        json_path = ".status.state",
        description = "The breakers' state over all pods."
    ),
    printcolumn(
        name = "Open",
        type_ = "string",
        json_path = ".status.summary.open",
        description = "Pods with an open breaker, of all pods that enforce the policy; with scope Endpoint, endpoints."
    ),
    printcolumn(
        name = "Fail%",
        type_ = "integer",
        json_path = ".status.summary.failurePercent",
        description = "Failures among recent requests."
    ),
    printcolumn(
        name = "Trips",
        type_ = "integer",
        json_path = ".status.summary.trips",
        description = "How often breakers went from closed to open since their pods started."
    ),
    printcolumn(
        name = "Last-Trip",
        type_ = "date",
        json_path = ".status.summary.lastTripTime",
        description = "When a breaker last went from closed to open."
    ),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status",
        description = "Whether it is accepted and enforced."
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].reason",
        priority = 1,
        description = "Why it is ready or not."
    ),
    printcolumn(
        name = "Mode",
        type_ = "string",
        json_path = ".spec.mode",
        priority = 1,
        description = "Enforce, Shadow or Disabled."
    ),
    printcolumn(
        name = "Side",
        type_ = "string",
        json_path = ".spec.side",
        priority = 1,
        description = "Client or Server."
    ),
    printcolumn(
        name = "Scope",
        type_ = "string",
        json_path = ".spec.scope",
        priority = 1,
        description = "Service or Endpoint."
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.scope == 'Service' || self.side == 'Client'")
    .message("must be Service with side Server: each pod guards itself there").field_path(".scope"))]
#[x_kube(validation = Rule::new("self.scope == 'Endpoint' || !has(self.maxOpenEndpointsPercent)")
    .message("is for scope Endpoint alone: set that, or remove this").field_path(".maxOpenEndpointsPercent"))]
#[x_kube(validation = Rule::new("!has(self.timeout) || !has(self.trip.slowCallRate) || duration(self.trip.slowCallRate.slowerThan) <= duration(self.timeout)")
    .message("must not be longer than timeout, or no call is ever slow").field_path(".trip.slowCallRate.slowerThan"))]
pub struct CircuitBreakerPolicySpec {
    /// The Services it applies to, 1 to 16. Example: [{name: checkout}].
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec![
        "group".into(), "kind".into(), "namespace".into(), "name".into(), "sectionName".into()]))]
    pub target_refs: Vec<TargetRef>,
    /// Which end of a call enforces it: Client (the callers' sidecars, on the way out) or Server (the target's own
    /// sidecars, on the way in). Default: Client.
    #[serde(default = "default_side")]
    pub side: Side,
    /// What has a breaker: Service (one for all its pods together) or Endpoint (each pod behind it has its own, so that
    /// one bad pod of three is left out while the others are called; side Client only, and only for Services that
    /// select pods). Default: Service.
    #[serde(default)]
    pub scope: Scope,
    /// With scope Endpoint, at most this share of a Service's pods is left out at once, in percent, 1 to 100; when more
    /// are open, calls go to open ones too, since a few slow pods are better than too few. Default: 50.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_open_endpoints_percent: Option<u8>,
    /// Enforce (decide and act), Shadow (decide and report, let everything pass) or Disabled (do nothing, keep the
    /// place among other policies). Default: Enforce.
    #[serde(default)]
    pub mode: Mode,
    /// Parts of the traffic with breakers of their own, at most 16. The first rule that matches a request decides;
    /// requests that no rule takes go to the policy's own breaker. Default: none.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<BreakerRule>,
    /// Bound on a whole request, from its arrival to the last byte of the answer; 1ms to 1h. Exceeding it fails the
    /// request with 504 and counts as a failure where failureOn says so. Default: none. Example: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1h')")
        .message("must be between 1ms and 1h"))]
    pub timeout: Option<Duration>,
    /// What opens the breaker: any of the given limits. Default: 5 consecutive failures.
    #[serde(default)]
    pub trip: Trip,
    /// What counts as a failure. Default: any 5xx status, the gRPC codes that blame the server, timeouts, failed
    /// connections and broken connections.
    #[serde(default)]
    pub failure_on: FailureOn,
    /// How long the breaker stays open. Default: 30s, doubled after each failed half-open up to 5m, plus up to 10 %.
    #[serde(default)]
    pub open: Open,
    /// How the breaker finds out whether to close. Default: one probe at a time, closed after two successes.
    #[serde(default)]
    pub half_open: HalfOpen,
    /// How traffic comes back after the breaker has closed. Default: all at once.
    #[serde(default)]
    pub recovery: Recovery,
    /// What a refused request is answered with. Default: 503 with Retry-After and a problem document, or the gRPC status
    /// UNAVAILABLE.
    #[serde(default)]
    pub fallback: Fallback,
    /// Forces every breaker of this policy, on all pods, until a time. Default: none. `fusebox trip` and
    /// `fusebox release` set and clear it.
    #[serde(rename = "override", default, skip_serializing_if = "Option::is_none")]
    pub force: Option<Override>,
}

/// What has a breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Scope {
    /// The Service: one breaker for all its pods together.
    #[default]
    Service,
    /// Each pod behind the Service.
    Endpoint,
}

/// A part of the traffic with a breaker of its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct BreakerRule {
    /// Name of the rule, unique in the policy: lower case letters, digits and dashes. It names the breaker in status
    /// and metrics. Example: writes.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Which requests it takes.
    #[serde(rename = "match")]
    pub matches: RequestMatch,
    /// What differs from the policy for these requests. Default: nothing.
    #[serde(default)]
    pub overrides: RuleOverrides,
}

/// What a rule changes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.timeout) || !has(self.trip) || !has(self.trip.slowCallRate) || duration(self.trip.slowCallRate.slowerThan) <= duration(self.timeout)")
    .message("must not be longer than timeout, or no call is ever slow").field_path(".trip.slowCallRate.slowerThan"))]
pub struct RuleOverrides {
    /// Bound on a whole request, 1ms to 1h. Default: the policy's. Example: 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1h')")
        .message("must be between 1ms and 1h"))]
    pub timeout: Option<Duration>,
    /// What opens the rule's breaker, in place of the policy's trip as a whole. Default: the policy's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trip: Option<Trip>,
}

/// A person's word over the breakers' own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Override {
    /// ForcedOpen (refuse everything) or ForcedClosed (let everything pass).
    pub state: ForcedState,
    /// When it ends, RFC 3339, at most 24 hours after it is set. Each proxy keeps this time by itself.
    /// Example: 2026-03-01T12:00:00Z.
    #[schemars(schema_with = "crate::schemas::time")]
    pub until: Time,
    /// Why, for those who see it; 1 to 256 characters. Example: INC-42.
    #[schemars(length(min = 1, max = 256), regex(pattern = "^[^\\x00-\\x1f\\x7f]+$"))]
    pub reason: String,
}

/// The states that an override can force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ForcedState {
    /// Refuse everything.
    ForcedOpen,
    /// Let everything pass.
    ForcedClosed,
}

fn default_side() -> Side {
    Side::Client
}
