//! `ProxyConfig`: all that one workload's sidecars are told, as plain data.
//!
//! The same value stands in the workload's ConfigMap (as YAML), goes down the control
//! stream (as JSON) and is asserted in golden files. It must never hold a secret value.
//! Unknown fields are tolerated, so that an older proxy can read a newer operator's words.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

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

/// A workload: the controller that owns a set of equal pods, or a bare pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadId {
    /// Its namespace.
    pub namespace: String,
    /// `Deployment`, `StatefulSet`, `DaemonSet`, `ReplicaSet`, `Job`, `CronJob` or `Pod`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// One policy at one generation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyVersion {
    /// The resource's kind, such as `CircuitBreakerPolicy`.
    pub kind: String,
    /// Its namespace and name.
    #[serde(flatten)]
    pub id: PolicyId,
    /// Its uid; empty where the policy came from a file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// `metadata.generation`; 0 where the policy came from a file.
    pub generation: i64,
}

/// A policy's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyId {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
}

/// A Service's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceId {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
}

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

/// What a policy's `targetRefs` entry names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetId {
    /// The kind, `Service`.
    pub kind: String,
    /// The target's namespace.
    pub namespace: String,
    /// The target's name.
    pub name: String,
    /// The port's name where the reference has a `sectionName`, else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub section: String,
}

/// Which end of a call enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Side {
    /// The caller's sidecar, on the way out.
    Client,
    /// The callee's own sidecar, on the way in.
    Server,
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

/// Names one breaker in one proxy; state is kept by this key over configuration changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerKey {
    /// The policy.
    pub policy: PolicyId,
    /// The reference of the policy.
    pub target: TargetId,
    /// Which side enforces.
    pub side: Side,
    /// The Service's port on side Client, the container port on side Server: each has its own breaker.
    pub port: u16,
    /// The rule's name, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// `address:port` of the endpoint with scope Endpoint, else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
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

impl Protocol {
    /// Whether nobody said.
    #[must_use]
    pub fn is_detect(&self) -> bool {
        *self == Self::Detect
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
