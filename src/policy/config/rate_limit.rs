//! What a RateLimit asks of one sidecar: its limits, whose bucket a request spends from, and what happens beyond it.
//!
//! It must hold wishes, not checked values: the engine makes its own types of them, and refuses what it can't enforce. Secret
//! values never stand here, only references to them.

mod key;
mod store;

use serde::{Deserialize, Serialize};

use super::breaker::Mode;
use super::identifiers::{LimitKey, PolicyId, Reference, Side, TargetId};
use super::routes::RequestMatch;

pub use key::{ApiKey, ClientIp, JwtClaim, KeyPart, MissingKey};
pub use store::{RedisStore, RedisTls, RedisTopology, StoreFailure};

/// One RateLimit as it applies to one route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RateLimit {
    /// The policy.
    pub policy: PolicyId,
    /// The policy's reference this route came from.
    pub target: TargetId,
    /// Which side of the call this proxy is on.
    pub side: Side,
    /// Whether decisions are carried out or only reported.
    #[serde(default)]
    pub mode: Mode,
    /// All that concern a request are checked, and only where all allow it, all are spent from.
    pub limits: Vec<Limit>,
    /// Where limits of scope Shared are kept; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store: Option<RedisStore>,
    /// What limits of scope Shared do while the store doesn't answer.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_store_failure: StoreFailure,
    /// Which headers tell clients of their quota.
    #[serde(default, skip_serializing_if = "is_default")]
    pub headers: LimitHeaders,
    /// How keys are shown in reports, logs and answers to commands.
    #[serde(default, skip_serializing_if = "is_default")]
    pub show_keys: ShowKeys,
    /// At most so many buckets for each limit and rule; further keys share one. A change counts at once.
    pub max_tracked_keys: u32,
}

/// One limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limit {
    /// Its name, unique in the policy.
    pub name: String,
    /// Which requests it concerns; absent is all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub when: Option<RequestMatch>,
    /// What tells one client from another, in order; empty is one bucket for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<KeyPart>,
    /// What becomes of a request that lacks a part of the key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_missing_key: MissingKey,
    /// Tried in order; the first that matches has the bucket and the rate. The last one has no name and no match.
    pub rules: Vec<LimitRule>,
    /// Own rates of named keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quotas: Option<Quotas>,
    /// What requests weigh: the first that matches; else 1.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub costs: Vec<Cost>,
    /// What becomes of a request beyond the limit.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_exceed: Exceed,
    /// Where the buckets are kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub scope: LimitScope,
}

/// A part of a limit's traffic with buckets of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitRule {
    /// Its name; empty for the limit's own buckets, which take what no rule matched.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Which requests; absent matches all.
    #[serde(rename = "match", default, skip_serializing_if = "Option::is_none")]
    pub matches: Option<RequestMatch>,
    /// The rate of each bucket. A change of it keeps what each bucket has been spent down to.
    pub rate: Rate,
}

/// `requests` in `per_ms`, refilled steadily; at most `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rate {
    /// How many.
    pub requests: u32,
    /// In this time, in milliseconds.
    pub per_ms: u64,
    /// What a full bucket holds, at least 1.
    pub burst: u32,
}

/// Own rates of named keys, from a file that maps SHA-256 of the key to a rate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quotas {
    /// Where the file stands; its content comes over the control stream.
    pub source: Reference,
    /// What becomes of a key that the file does not name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_unknown_key: UnknownKey,
}

/// What becomes of a key that has no quota of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// Which requests.
    #[serde(rename = "match")]
    pub matches: RequestMatch,
    /// How much of the bucket each of them spends, 0 or more; 0 is not limited.
    pub cost: u32,
}

/// What becomes of a request beyond the limit; by default it is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exceed {
    /// The client is refused for this time from then on, in milliseconds, whatever its bucket holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_for_ms: Option<u64>,
    /// It waits for its turn instead; with scope Replica only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay: Option<Delay>,
}

/// How requests beyond the limit wait.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delay {
    /// The longest wait, in milliseconds; who would wait longer is refused at once.
    pub max_delay_ms: u64,
    /// At most so many wait for the limit, of all its rules together, at this route.
    pub max_queued: u32,
    /// The header whose whole number 0..=9 says who goes first, the greatest; absent or unreadable is 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority_header: Option<String>,
}

/// Where buckets are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LimitScope {
    /// In each proxy: every replica allows the whole rate.
    #[default]
    Replica,
    /// In the store: all replicas together allow the rate.
    Shared,
}

/// Which headers tell clients of their quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LimitHeaders {
    /// `RateLimit` and `RateLimit-Policy` (draft-ietf-httpapi-ratelimit-headers).
    #[default]
    Standard,
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset`.
    Legacy,
    /// Both.
    Both,
    /// None; refusals still carry `Retry-After`.
    None,
}

/// How keys are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ShowKeys {
    /// The first 16 hexadecimal digits of the key's SHA-256.
    #[default]
    Hashed,
    /// The first and the last two characters of each part, where it is long enough to stay unknown.
    Redacted,
}

impl RateLimit {
    /// The key of the buckets of one rule of one limit, for traffic to `port`.
    #[must_use]
    pub fn key(&self, port: u16, (limit, rule): (&Limit, &LimitRule)) -> LimitKey {
        LimitKey {
            policy: self.policy.clone(),
            target: self.target.clone(),
            side: self.side,
            port,
            limit: limit.name.clone(),
            rule: rule.name.clone(),
        }
    }

    /// Every reference whose value the proxy must be sent.
    pub fn references(&self) -> impl Iterator<Item = &Reference> {
        let limits = self.limits.iter().flat_map(|limit| {
            let claims = limit.key.iter().filter_map(KeyPart::reference);
            claims.chain(limit.quotas.as_ref().map(|quotas| &quotas.source))
        });
        limits.chain(self.store.iter().flat_map(RedisStore::references))
    }
}

/// Whether a field says what it would say if it were absent.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
