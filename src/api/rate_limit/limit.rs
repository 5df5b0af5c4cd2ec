//! One limit: whom it concerns, how much it allows, and what requests weigh.
//!
//! It must hold no more than users can say; what a rate means over time is the engine's.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::exceed::OnExceed;
use super::key::{KeyPart, OnMissingKey};
use super::source::ObjectKey;
use crate::common::RequestMatch;
use crate::duration::Duration;

/// One limit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.scope == 'Replica' || self.onExceed.action == 'Reject'")
    .message("must be Reject with scope Shared: requests can't wait in several pods in one order").field_path(".onExceed.action"))]
#[x_kube(validation = Rule::new("!has(self.quotasFrom) || size(self.key) > 0")
    .message("needs key, which says whose quota it is: set key, or remove this").field_path(".quotasFrom"))]
#[x_kube(validation = Rule::new(
    "self.costs.all(it, it.cost <= (has(self.rate.burst) ? self.rate.burst : self.rate.requests) && \
     self.rules.all(rule, it.cost <= (has(rule.rate.burst) ? rule.rate.burst : rule.rate.requests)))")
    .message("must each be at most the burst of the limit and of each rule, or no such request ever passes").field_path(".costs"))]
pub struct Limit {
    /// Name of the limit, unique in the policy: lower case letters, digits and dashes. It names the limit to clients, in
    /// status and in metrics. Example: per-key.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Which requests it concerns. Default: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<RequestMatch>,
    /// What tells one client from another, at most 4 parts that count together; each key has a bucket of its own. Default: none,
    /// which is one bucket for all. Example: [{apiKey: {}}].
    #[serde(default)]
    #[schemars(length(max = 4))]
    pub key: Vec<KeyPart>,
    /// What becomes of a request that lacks a part of the key: SharedBucket (all such requests share one bucket), Skip (the
    /// limit does not concern it) or Reject (it is refused). Default: SharedBucket.
    #[serde(default)]
    pub on_missing_key: OnMissingKey,
    /// How much it allows. Example: {requests: 60, per: 1m, burst: 10}.
    pub rate: Rate,
    /// Parts of the limit's traffic with buckets and a rate of their own, at most 16. The first rule that matches a request
    /// decides; requests that no rule takes go to the limit's own buckets. Default: none.
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub rules: Vec<LimitRule>,
    /// Rates of their own for named keys, from a file that names each by its SHA-256; changes of it count at once. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas_from: Option<QuotasFrom>,
    /// What requests weigh, at most 16. The first that matches a request decides; else it weighs 1. Default: none.
    #[serde(default)]
    #[schemars(length(max = 16))]
    pub costs: Vec<LimitCost>,
    /// What becomes of a request beyond the limit. Default: it is refused with 429, or the gRPC status RESOURCE_EXHAUSTED.
    #[serde(default)]
    pub on_exceed: OnExceed,
    /// Where it is counted: Replica (each pod allows the rate) or Shared (all pods together allow it, counted in the
    /// policy's store; side Server only). Default: Replica.
    #[serde(default)]
    pub scope: LimitScope,
}

/// A rate, with what may come at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// How many requests, 1 to 1000000. Example: 60.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub requests: u32,
    /// In how long, 1s to 744h, refilled steadily. Example: 1m.
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('744h')")
        .message("must be between 1s and 744h"))]
    pub per: Duration,
    /// How many may come at once after a pause, 1 to 1000000. Default: requests. Example: 10.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: Option<u32>,
}

/// A part of a limit's traffic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitRule {
    /// Name of the rule, unique in the limit: lower case letters, digits and dashes. Example: writes.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Which requests it takes.
    #[serde(rename = "match")]
    pub matches: RequestMatch,
    /// How much it allows, in place of the limit's own rate.
    pub rate: Rate,
}

/// Rates of their own for named keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.configMapRef) != has(self.secretRef)")
    .message("set exactly one of configMapRef and secretRef"))]
pub struct QuotasFrom {
    /// An entry of a ConfigMap of the policy's namespace. Example: {name: quotas, key: quotas.yaml}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ObjectKey>,
    /// An entry of a Secret of the policy's namespace. Example: {name: quotas, key: quotas.yaml}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<ObjectKey>,
    /// What becomes of a key that the file does not name: Default (it has the limit's own rate), SharedBucket (all such
    /// keys share one bucket) or Reject (it is refused). Default: Default.
    #[serde(default)]
    pub on_unknown_key: UnknownKey,
}

/// What becomes of a key without a quota of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum UnknownKey {
    /// It has the limit's own rate.
    #[default]
    Default,
    /// All such keys share one bucket.
    SharedBucket,
    /// It is refused.
    Reject,
}

/// What requests weigh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitCost {
    /// Which requests.
    #[serde(rename = "match")]
    pub matches: RequestMatch,
    /// How much of the bucket each of them spends, 0 to 1000000; 0 is not limited. Example: 10.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub cost: u32,
}

/// Where a limit is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum LimitScope {
    /// Each pod allows the rate.
    #[default]
    Replica,
    /// All pods together allow the rate.
    Shared,
}

impl Rate {
    /// What a full bucket holds.
    #[must_use]
    pub fn burst_or_default(&self) -> u32 {
        self.burst.unwrap_or(self.requests)
    }
}
