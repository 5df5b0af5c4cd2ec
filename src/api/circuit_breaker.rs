//! CircuitBreakerPolicy: what a user declares about one or more Services.
//!
//! The types must stay free of behaviour; their comments are what `kubectl explain` shows,
//! so they speak to users: meaning, default, unit, example.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Mode, RequestMatch, Side, TargetRef};
use crate::duration::Duration;
use crate::status::CircuitBreakerPolicyStatus;

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
        description = "Pods with an open breaker, of all pods that enforce the policy."
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
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
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
    /// What counts as a failure. Default: any 5xx status, timeouts, failed connections and broken connections.
    #[serde(default)]
    pub failure_on: FailureOn,
    /// How long the breaker stays open. Default: 30s, doubled after each failed half-open up to 5m, plus up to 10 %.
    #[serde(default)]
    pub open: Open,
    /// How the breaker finds out whether to close. Default: one probe at a time, closed after two successes.
    #[serde(default)]
    pub half_open: HalfOpen,
    /// Forces every breaker of this policy, on all pods, until a time. Default: none. `fusebox trip` and
    /// `fusebox release` set and clear it.
    #[serde(rename = "override", default, skip_serializing_if = "Option::is_none")]
    pub force: Option<Override>,
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

/// What opens a breaker: any of the limits that are set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "self.type == 'Never' || has(self.consecutiveFailures) || has(self.failures) || has(self.failureRate)")
    .message("set consecutiveFailures, failures or failureRate, or type: Never for a breaker that never opens by itself"))]
#[x_kube(validation = Rule::new(
    "self.type != 'Never' || !(has(self.consecutiveFailures) || has(self.failures) || has(self.failureRate))")
    .message("with type: Never leave out consecutiveFailures, failures and failureRate"))]
pub struct Trip {
    /// AnyOf (the first limit that is reached opens it) or Never (it opens by an override alone; for a policy that
    /// only sets a timeout). Default: AnyOf.
    #[serde(rename = "type", default)]
    pub kind: TripType,
    /// This many failures in a row, 1 to 10000. Default: 5 where trip is absent as a whole, else unset. Example: 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10000))]
    pub consecutive_failures: Option<u32>,
    /// This many failures within a time, in a row or not. Default: unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<FailureCount>,
    /// This share of failures within a time. Default: unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_rate: Option<FailureRate>,
}

/// How the limits of a trip count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TripType {
    /// The first limit that is reached opens the breaker.
    #[default]
    AnyOf,
    /// The breaker never opens by itself.
    Never,
}

/// A number of failures within a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureCount {
    /// How many failures, 1 to 100000. Example: 5.
    #[schemars(range(min = 1, max = 100_000))]
    pub count: u32,
    /// The rolling time they are counted in, 1s to 1h. Example: 60s.
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')")
        .message("must be between 1s and 1h"))]
    pub window: Duration,
}

/// A share of failures within a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureRate {
    /// Failures among requests, in percent, 1 to 100: this share or more opens the breaker. Example: 50.
    #[schemars(range(min = 1, max = 100))]
    pub percent: u8,
    /// The rolling time they are counted in, 1s to 1h. Default: 10s.
    #[serde(default = "default_rate_window")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')")
        .message("must be between 1s and 1h"))]
    pub window: Duration,
    /// With fewer requests than this within the window the share decides nothing, 1 to 100000. Default: 20.
    #[serde(default = "default_min_requests")]
    #[schemars(range(min = 1, max = 100_000))]
    pub min_requests: u32,
}

/// What counts as a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("size(self.httpStatus) > 0 || size(self.conditions) > 0")
    .message("name at least one status or condition; for a breaker that never opens use trip: {type: Never}"))]
pub struct FailureOn {
    /// HTTP statuses: a class (5xx), a code (429) or a range (500-503), at most 16. Default: ["5xx"].
    #[serde(default = "default_http_status")]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub http_status: Vec<HttpStatusPattern>,
    /// Failures without a status: Timeout (the timeout passed), ConnectFailure (no connection could be made), Reset
    /// (the connection broke before the answer was complete). Default: all three.
    #[serde(default = "default_conditions")]
    #[schemars(length(max = 3))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub conditions: Vec<FailureCondition>,
}

/// A class, code or range of HTTP statuses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("x-kubernetes-validations" = [{
    "rule": "size(self) != 7 || self.substring(0, 3) <= self.substring(4, 7)",
    "message": "the first code of a range must not be greater than the last"}]))]
pub struct HttpStatusPattern(
    #[schemars(length(max = 7), regex(pattern = "^([1-5]xx|[1-5][0-9]{2}(-[1-5][0-9]{2})?)$"))] pub String,
);

/// A failure that has no status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FailureCondition {
    /// The timeout passed.
    Timeout,
    /// No connection could be made.
    ConnectFailure,
    /// The connection broke before the answer was complete.
    Reset,
}

/// How long a breaker stays open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.maxDuration) >= duration(self.baseDuration)")
    .message("must not be shorter than baseDuration").field_path(".maxDuration"))]
pub struct Open {
    /// How long it stays open at first, 100ms to 1h; doubled after each failed half-open. Default: 30s.
    #[serde(default = "default_base_duration")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('1h')")
        .message("must be between 100ms and 1h"))]
    pub base_duration: Duration,
    /// How long it stays open at most, 100ms to 24h, not shorter than baseDuration. Default: 5m.
    #[serde(default = "default_open_max_duration")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('24h')")
        .message("must be between 100ms and 24h"))]
    pub max_duration: Duration,
    /// Up to this share is added at random, in percent, 0 to 100, so that a fleet does not probe in step. Default: 10.
    #[serde(default = "default_jitter_percent")]
    #[schemars(range(min = 0, max = 100))]
    pub jitter_percent: u8,
}

/// How a half-open breaker decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("duration(self.probeTimeout) <= duration(self.maxDuration)")
    .message("must not be longer than maxDuration").field_path(".probeTimeout"))]
pub struct HalfOpen {
    /// Requests let through at once as probes, on each pod, 1 to 1000. Default: 1.
    #[serde(default = "default_max_probes")]
    #[schemars(range(min = 1, max = 1000))]
    pub max_probes: u32,
    /// Successes in a row that close the breaker, 1 to 1000. One failure opens it again. Default: 2.
    #[serde(default = "default_success_threshold")]
    #[schemars(range(min = 1, max = 1000))]
    pub success_threshold: u32,
    /// A probe that takes longer than this counts as failed, 10ms to 10m, not longer than maxDuration. Default: 10s.
    #[serde(default = "default_probe_timeout")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('10ms') && duration(self) <= duration('10m')")
        .message("must be between 10ms and 10m"))]
    pub probe_timeout: Duration,
    /// Half-open for longer than this without a decision opens the breaker again, 100ms to 1h. Default: 1m.
    #[serde(default = "default_half_open_max_duration")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('100ms') && duration(self) <= duration('1h')")
        .message("must be between 100ms and 1h"))]
    pub max_duration: Duration,
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

impl Default for Trip {
    fn default() -> Self {
        Self { kind: TripType::AnyOf, consecutive_failures: Some(5), failures: None, failure_rate: None }
    }
}

impl Default for FailureOn {
    fn default() -> Self {
        Self { http_status: default_http_status(), conditions: default_conditions() }
    }
}

impl Default for Open {
    fn default() -> Self {
        Self {
            base_duration: default_base_duration(),
            max_duration: default_open_max_duration(),
            jitter_percent: default_jitter_percent(),
        }
    }
}

impl Default for HalfOpen {
    fn default() -> Self {
        Self {
            max_probes: default_max_probes(),
            success_threshold: default_success_threshold(),
            probe_timeout: default_probe_timeout(),
            max_duration: default_half_open_max_duration(),
        }
    }
}

fn default_side() -> Side {
    Side::Client
}

fn default_rate_window() -> Duration {
    Duration::from_secs(10)
}

fn default_min_requests() -> u32 {
    20
}

fn default_http_status() -> Vec<HttpStatusPattern> {
    vec![HttpStatusPattern("5xx".to_owned())]
}

fn default_conditions() -> Vec<FailureCondition> {
    vec![FailureCondition::Timeout, FailureCondition::ConnectFailure, FailureCondition::Reset]
}

fn default_base_duration() -> Duration {
    Duration::from_secs(30)
}

fn default_open_max_duration() -> Duration {
    Duration::from_secs(300)
}

fn default_jitter_percent() -> u8 {
    10
}

fn default_max_probes() -> u32 {
    1
}

fn default_success_threshold() -> u32 {
    2
}

fn default_probe_timeout() -> Duration {
    Duration::from_secs(10)
}

fn default_half_open_max_duration() -> Duration {
    Duration::from_secs(60)
}
