//! The limits of one RateLimit as they are now on each pod, and the word that lets a client go.
//!
//! A client's key is only ever shown as the policy says; its digest, by which it is let go, tells it to nobody who can't guess it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Enforcers, Metadata, State, Target};
use crate::common::{Mode, Side};

/// Limits of one answer, at most; a list goes on where it was cut, by its `continue` token.
pub const MAX_LIMITS: usize = 20_000;

/// Keys of one limit of one pod, at most.
pub const MAX_LIMITED_KEYS: usize = 10;

/// The limits of one RateLimit as they are now, on each pod that enforces it. It has the policy's name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateLimitState {
    /// `ops.fusebox.dev/v1alpha1`.
    pub api_version: String,
    /// `RateLimitState`.
    pub kind: String,
    /// The policy's namespace and name.
    pub metadata: Metadata,
    /// The policy's generation that this speaks of.
    pub generation: i64,
    /// Which end of a call enforces the policy: Client or Server.
    pub side: Side,
    /// Enforce, Shadow or Disabled.
    pub mode: Mode,
    /// The pods that enforce it.
    #[serde(flatten)]
    pub enforcers: Enforcers<PodLimits, LimitedRequests>,
}

/// One pod's limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodLimits {
    /// The pod's name.
    pub name: String,
    /// The kind and name of its workload. Example: Deployment/web.
    pub workload: String,
    /// Whether the pod is Ready.
    pub ready: bool,
    /// Whether its sidecar is connected to the operator.
    pub connected: bool,
    /// Since when it is connected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schemas::time")]
    pub connected_since: Option<Time>,
    /// The sidecar's version, as it says itself.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Whether it enforces the newest configuration.
    #[serde(default)]
    pub current: bool,
    /// The policy's generation that it enforces, if it enforces any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generation: Option<i64>,
    /// Why it did not answer when it was asked for its keys; what stands here then is what it said last.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub unanswered: String,
    /// Values named by the policy that it can't use; those before stay in use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken: Vec<BrokenValue>,
    /// Its limits for this policy.
    #[serde(default)]
    pub limits: Vec<LimitState>,
}

/// A value that a sidecar can't use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BrokenValue {
    /// Where it stands. Example: ConfigMap quotas, key quotas.yaml.
    pub value: String,
    /// What is wrong with it.
    pub problem: String,
}

/// One limit, or one rule of it, on one pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitState {
    /// The Service that it limits calls to.
    pub target: Target,
    /// The Service's port on side Client, the container port on side Server.
    pub port: u16,
    /// The limit's name.
    pub limit: String,
    /// The rule's name; empty for the limit's own buckets.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// Whether the pod has said anything of it: one that has decided on nothing is not reported.
    #[serde(default)]
    pub reported: bool,
    /// Requests that passed since the sidecar started.
    #[serde(default)]
    pub allowed: u64,
    /// Requests that were refused since the sidecar started; with mode Shadow, those that would have been.
    #[serde(default)]
    pub limited: u64,
    /// Requests that waited since the sidecar started.
    #[serde(default)]
    pub delayed: u64,
    /// Keys with a bucket of their own.
    #[serde(default)]
    pub tracked_keys: u64,
    /// Clients that are refused for a time.
    #[serde(default)]
    pub blocked_clients: u64,
    /// With scope Shared, since when the store does not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schemas::time")]
    pub store_lost_since: Option<Time>,
    /// With scope Shared, why the store does not answer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub store_error: String,
    /// The keys that were refused most, the most first, at most 10. In a list only those that are refused for a time.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<LimitedKey>,
}

/// One client's key at one limit of one pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitedKey {
    /// The key, hashed or redacted as the policy says.
    pub key: String,
    /// The first 16 hexadecimal digits of the key's SHA-256, which `unblock` takes; absent in a list of redacted keys.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Requests it was refused.
    #[serde(default)]
    pub refused: u64,
    /// What its bucket holds now, in whole requests; absent in a list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining: Option<u32>,
    /// Until when it is refused for a time, if it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schemas::time")]
    pub blocked_until: Option<Time>,
}

/// What is counted of limits on pods of another namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LimitedRequests {
    /// Requests that they refused.
    pub limited: u64,
}

/// What lets a client go at once, with full buckets, at every limit of a policy and on all pods. Either `key` or `digest` says
/// which client.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RateLimitUnblock {
    /// `ops.fusebox.dev/v1alpha1`; may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_version: Option<String>,
    /// `RateLimitUnblock`; may be left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The policy's namespace and name, in answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Metadata>,
    /// The client's key itself, its parts in the order of the limit's `key`; never in answers. The API server's audit log may
    /// keep it: say `digest` where that must not be. Example: [alice].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// The first 16 to 64 hexadecimal digits of the key's SHA-256. Example: 2bd806c97f0e00af.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Why, for those who see it; 1 to 256 characters. Example: INC-42.
    pub reason: String,
    /// Pods that were asked, in answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<i64>,
    /// Pods that knew the client and let it go, in answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub released: Option<i64>,
    /// Why the shared store was not searched to its end, in answers, for a client of whom fewer than 32 digits were given; absent
    /// where it was, or need not be. Pods that watch the client let it go all the same.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unsearched: Option<String>,
    /// Pods that did not, and why, in answers, at most 100. Those of other namespaces are not named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unanswered: Vec<Unanswered>,
}

/// A pod that did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unanswered {
    /// The pod, or how many of which namespace.
    pub pod: String,
    /// Why.
    pub problem: String,
}

impl State for RateLimitState {
    const KIND: &'static str = "RateLimitState";
    // Another word than the policies' own plural, which `kubectl get ratelimits` must go on to mean.
    const PLURAL: &'static str = "ratelimitstates";
    const MOST: usize = MAX_LIMITS;

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn size(&self) -> usize {
        self.enforcers.pods.iter().map(|pod| pod.limits.len()).sum()
    }

    fn is_incomplete(&self) -> bool {
        self.enforcers.incomplete
    }
}
