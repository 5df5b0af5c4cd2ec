//! RateLimit: how often clients may call one or more Services.
//!
//! The types must stay free of behaviour; their comments are what `kubectl explain` shows,
//! so they speak to users: meaning, default, unit, example.

mod exceed;
mod key;
mod limit;
mod source;
mod status;
mod store;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Mode, Side, TargetRef};

pub use exceed::{ExceedAction, OnExceed};
pub use key::{ApiKey, ClientIp, JwtClaim, KeyPart, OnMissingKey, Whole};
pub use limit::{Limit, LimitCost, LimitRule, LimitScope, QuotasFrom, Rate, UnknownKey};
pub use source::{ObjectKey, ObjectName, ValueFrom};
pub use status::{
    BlockedClient, LimitPods, LimitStatus, MAX_LIMIT_TARGETS, MAX_TOP_BLOCKED, RateLimitStatus, RateLimitSummary,
};
pub use store::{Redis, RedisAddress, RedisCluster, RedisSentinel, RedisTls, Store};

/// The buckets that are kept for each limit where the policy doesn't say.
const DEFAULT_MAX_TRACKED_KEYS: u32 = 65_536;

/// Limits how often clients may call a Service.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "fusebox.dev",
    version = "v1alpha1",
    kind = "RateLimit",
    plural = "ratelimits",
    singular = "ratelimit",
    shortname = "rl",
    category = "resilience",
    namespaced,
    status = "RateLimitStatus",
    derive = "PartialEq",
    doc = "Limits how often clients may call a Service: by API key, address, signed claim, path and more, with quotas of their own.",
    printcolumn(
        name = "Target",
        type_ = "string",
        json_path = ".status.summary.target",
        description = "The Services it applies to."
    ),
    printcolumn(
        name = "Limit",
        type_ = "string",
        json_path = ".status.summary.limit",
        description = "The first limit's rate, and how many more there are."
    ),
    printcolumn(
        name = "Scope",
        type_ = "string",
        json_path = ".status.summary.scope",
        description = "Whether each replica allows the rate, or all together."
    ),
    printcolumn(
        name = "Limited%",
        type_ = "integer",
        json_path = ".status.summary.limitedPercent",
        description = "Requests that were refused, of all that limits decided on in the last minute."
    ),
    printcolumn(
        name = "Blocked",
        type_ = "integer",
        json_path = ".status.summary.blocked",
        description = "Clients that are refused for a time now."
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
#[x_kube(validation = Rule::new("self.side == 'Server' || !self.limits.exists(limit, limit.scope == 'Shared')")
    .message("must be Server where a limit has scope Shared: callers keep no common count").field_path(".side"))]
#[x_kube(validation = Rule::new("has(self.store) || !self.limits.exists(limit, limit.scope == 'Shared')")
    .message("is required where a limit has scope Shared: say where the common count is kept").field_path(".store"))]
#[x_kube(validation = Rule::new("!has(self.store) || self.limits.exists(limit, limit.scope == 'Shared')")
    .message("is for limits of scope Shared, and there is none: set scope: Shared on one, or remove this").field_path(".store"))]
pub struct RateLimitSpec {
    /// The Services it applies to, 1 to 16. Example: [{name: checkout}].
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec![
        "group".into(), "kind".into(), "namespace".into(), "name".into(), "sectionName".into()]))]
    pub target_refs: Vec<TargetRef>,
    /// Which end of a call enforces it: Server (the target's own sidecars, on the way in) or Client (the callers' sidecars,
    /// on the way out, each by itself). Default: Server.
    #[serde(default = "default_side")]
    pub side: Side,
    /// Enforce (decide and act), Shadow (decide and report, let everything pass) or Disabled (do nothing, keep the
    /// place among other policies). Default: Enforce.
    #[serde(default)]
    pub mode: Mode,
    /// The limits, 1 to 16, told apart by name. All that concern a request are checked, and only where all allow it, all
    /// are spent from. Example: [{name: per-key, key: [{apiKey: {}}], rate: {requests: 60, per: 1m}}].
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub limits: Vec<Limit>,
    /// Where limits of scope Shared are counted. Default: unset; required with scope Shared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<Store>,
    /// What limits of scope Shared do while the store does not answer: LocalEstimate (each pod allows the rate divided by
    /// the pods that enforce it), Open (everything passes) or Closed (nothing passes). Default: LocalEstimate.
    #[serde(default)]
    pub on_store_failure: OnStoreFailure,
    /// Which headers tell clients of their quota: Standard (RateLimit and RateLimit-Policy of the IETF draft), Legacy
    /// (X-RateLimit-Limit, -Remaining and -Reset), Both, or None. Refusals carry Retry-After in any case. Default: Standard.
    #[serde(default)]
    pub headers: LimitHeaders,
    /// How clients' keys are shown in status, logs and commands: Hashed (the first 16 digits of their SHA-256) or Redacted (the
    /// first and last two characters). Keys never stand in metrics. Default: Hashed.
    #[serde(default)]
    pub show_keys: ShowKeys,
    /// Each pod keeps at most so many buckets for each limit and rule, 1 to 1000000, of about 100 bytes. Keys beyond that share one
    /// bucket; none that was spent from is forgotten before it is full again. A change counts at once; with a lower number, what was
    /// spent from stays until it is full. Default: 65536.
    #[serde(default = "default_max_tracked_keys")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_tracked_keys: u32,
}

/// What limits of scope Shared do while the store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnStoreFailure {
    /// Each pod allows the rate divided by the pods that enforce it.
    #[default]
    LocalEstimate,
    /// Everything passes.
    Open,
    /// Nothing passes.
    Closed,
}

/// Which headers tell clients of their quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum LimitHeaders {
    /// `RateLimit` and `RateLimit-Policy`.
    #[default]
    Standard,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
    Legacy,
    /// Both.
    Both,
    /// None.
    None,
}

/// How clients' keys are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ShowKeys {
    /// The first 16 hexadecimal digits of their SHA-256.
    #[default]
    Hashed,
    /// The first and last two characters.
    Redacted,
}

fn default_side() -> Side {
    Side::Server
}

fn default_max_tracked_keys() -> u32 {
    DEFAULT_MAX_TRACKED_KEYS
}
