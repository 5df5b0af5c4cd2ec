//! What a CircuitBreakerPolicy asks of one sidecar: its rules, what counts as a failure, when a breaker trips and how it comes back.
//!
//! It must hold wishes, not checked values: the engine makes its own types of them, and refuses what it can't enforce.

use serde::{Deserialize, Serialize};

use super::identifiers::{BreakerKey, PolicyId, Side, TargetId};
use super::routes::RequestMatch;

/// One CircuitBreakerPolicy as it applies to one route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CircuitBreaker {
    /// The policy.
    pub policy: PolicyId,
    /// The policy's reference this route came from.
    pub target: TargetId,
    /// Which side of the call this proxy is on.
    pub side: Side,
    /// Whether decisions are carried out or only reported.
    #[serde(default)]
    pub mode: Mode,
    /// Tried in order; the first that matches decides. The last one has no name and no match: it
    /// takes all that is left.
    pub rules: Vec<BreakerRule>,
    /// Set when each endpoint has breakers of its own (scope Endpoint).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint_scope: Option<EndpointScope>,
    /// What a refused request is answered with; absent is 503 with a problem document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fallback: Option<StaticAnswer>,
    /// Forces every breaker of this policy, until a time.
    #[serde(rename = "override", default, skip_serializing_if = "Option::is_none")]
    pub force: Option<Override>,
}

/// How breakers for each endpoint act together.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointScope {
    /// 1..=100: at most this share of a rule's endpoints is left out at once; beyond it, calls go to open ones too.
    pub max_open_percent: u8,
}

/// A fixed answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StaticAnswer {
    /// The status, 200..=599.
    pub status: u16,
    /// End-to-end headers, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<AnswerHeader>,
    /// The body, as UTF-8.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
}

/// One header of a fixed answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AnswerHeader {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Whether a policy acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Decide and act.
    #[default]
    Enforce,
    /// Decide and report, and let everything pass.
    Shadow,
}

/// A part of the traffic with a breaker of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerRule {
    /// The rule's name; empty for the policy's own breaker, which takes what no rule matched.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Which requests; absent matches all.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<RequestMatch>,
    /// Bound on the whole request, from its head's arrival to the last byte of the answer; absent is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// What counts as a failure. A change of it keeps the breaker's state.
    pub failure_on: FailureOn,
    /// The engine's parameters. A change of them starts the breaker anew.
    pub breaker: BreakerParameters,
}

/// What counts as a failure of the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureOn {
    /// Ranges of HTTP status codes, both ends included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub http_status: Vec<StatusRange>,
    /// gRPC status codes. A gRPC answer is judged by its code alone, any other by its HTTP status.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub grpc_codes: Vec<GrpcCode>,
    /// Failures without a status.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<FailureCondition>,
}

/// HTTP status codes from `from` to `to`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusRange {
    /// The first code.
    pub from: u16,
    /// The last code.
    pub to: u16,
}

/// A gRPC status code but OK (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum GrpcCode {
    /// 1: the caller gave up.
    Cancelled = 1,
    /// 2: nobody knows, or the status was lost.
    Unknown = 2,
    /// 3: the request is wrong, whatever the state of the system.
    InvalidArgument = 3,
    /// 4: the deadline passed.
    DeadlineExceeded = 4,
    /// 5: it is not there.
    NotFound = 5,
    /// 6: it is there already.
    AlreadyExists = 6,
    /// 7: the caller may not.
    PermissionDenied = 7,
    /// 8: a quota or some other resource is used up.
    ResourceExhausted = 8,
    /// 9: the system is not in the state that the request needs.
    FailedPrecondition = 9,
    /// 10: the request was aborted, as by a conflict.
    Aborted = 10,
    /// 11: past the valid range.
    OutOfRange = 11,
    /// 12: the method is not there.
    Unimplemented = 12,
    /// 13: an invariant was broken.
    Internal = 13,
    /// 14: not available at the moment.
    Unavailable = 14,
    /// 15: data was lost or corrupted.
    DataLoss = 15,
    /// 16: who calls is not known.
    Unauthenticated = 16,
}

/// A failure that has no status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureCondition {
    /// The request took longer than its timeout.
    Timeout,
    /// No connection could be made.
    ConnectFailure,
    /// The connection broke before the answer was complete.
    Reset,
}

/// Parameters of one breaker, as sent; the engine accepts only its own checked form.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerParameters {
    /// When it trips: any of them.
    pub trip: Trip,
    /// How long it stays open.
    pub open: Open,
    /// How it finds out whether to close.
    pub half_open: HalfOpen,
    /// How traffic comes back after closing.
    #[serde(default, skip_serializing_if = "Recovery::is_immediate")]
    pub recovery: Recovery,
}

/// What trips a breaker; empty is never.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trip {
    /// This many failures in a row.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consecutive_failures: Option<u32>,
    /// This many failures within a window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failures: Option<FailureCount>,
    /// This share of failures within a window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_rate: Option<FailureRate>,
    /// This share of slow calls within a window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_call_rate: Option<SlowCallRate>,
}

/// `count` failures within `window_ms`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureCount {
    /// How many.
    pub count: u32,
    /// The rolling window, in milliseconds.
    pub window_ms: u64,
}

/// `percent` of the requests within a window failed, once there are `min_requests`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FailureRate {
    /// 1..=100: trips at this share or above.
    pub percent: u8,
    /// What is looked at.
    #[serde(flatten)]
    pub window: RateWindow,
    /// Fewer requests than this decide nothing.
    pub min_requests: u32,
}

/// `percent` of the requests within a window were slow, once there are `min_requests`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SlowCallRate {
    /// 1..=100: trips at this share or above.
    pub percent: u8,
    /// A request is slow when the head of its answer, or its failure, took this long or longer, in milliseconds.
    pub slower_than_ms: u64,
    /// What is looked at.
    #[serde(flatten)]
    pub window: RateWindow,
    /// Fewer requests than this decide nothing.
    pub min_requests: u32,
}

/// The requests that a rate looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RateWindow {
    /// Those of a rolling time, in milliseconds.
    #[serde(rename = "windowMs")]
    Time(u64),
    /// The last so many.
    #[serde(rename = "calls")]
    Calls(u32),
}

/// How long a breaker stays open: base x 2^n, at most max, n growing with each failed half-open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Open {
    /// The first time, in milliseconds.
    pub base_duration_ms: u64,
    /// The longest time, in milliseconds.
    pub max_duration_ms: u64,
    /// Up to this share is added at random, so that a fleet does not probe in step.
    pub jitter_percent: u8,
    /// Whether a Retry-After with the failure that opens it lengthens the open time, up to the maximum.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub honor_retry_after: bool,
}

/// How traffic comes back after a breaker closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// The share of traffic let in grows from a tenth to all over this time, in milliseconds; 0 is all at once.
    pub ramp_ms: u64,
}

/// How a half-open breaker decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HalfOpen {
    /// Probes in flight at once, at most.
    pub max_probes: u32,
    /// Successes in a row that close it.
    pub success_threshold: u32,
    /// A probe's lease, in milliseconds: after it the slot is free again and the probe counts as failed.
    pub probe_timeout_ms: u64,
    /// Half-open for longer than this without a decision opens again, in milliseconds.
    pub max_duration_ms: u64,
}

/// A person's word over the breaker's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Override {
    /// What it is forced to.
    pub state: ForcedState,
    /// When it ends, in milliseconds since the Unix epoch. The proxy itself keeps this time.
    pub until_unix_ms: i64,
    /// Why, for those who see it.
    pub reason: String,
}

/// The states an override can force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ForcedState {
    /// Refuse everything.
    ForcedOpen,
    /// Let everything pass.
    ForcedClosed,
}

impl CircuitBreaker {
    /// The key of the breaker of `rule` for traffic to `port`.
    #[must_use]
    pub fn key(&self, port: u16, rule: &BreakerRule) -> BreakerKey {
        BreakerKey {
            policy: self.policy.clone(),
            target: self.target.clone(),
            side: self.side,
            port,
            rule: rule.name.clone(),
            endpoint: String::new(),
        }
    }
}

impl Recovery {
    /// Whether all traffic comes back at once.
    #[must_use]
    pub fn is_immediate(&self) -> bool {
        self.ramp_ms == 0
    }
}

impl GrpcCode {
    /// The number in the `grpc-status` header.
    #[must_use]
    pub fn number(self) -> u8 {
        self as u8
    }
}
