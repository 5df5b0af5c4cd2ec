//! `ProxyReport`: what one proxy saw, as plain data on its way to the operator.
//!
//! Reports say facts with timestamps; what they mean for a policy is the compiler's to decide.

use serde::{Deserialize, Serialize};

use crate::config::{BreakerKey, ForcedState, LimitKey, Mode, Reference};

/// The state of a proxy's breakers and limits: all of them after connecting, then those that changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyReport {
    /// True when the lists are complete, and what is not listed is gone.
    #[serde(default)]
    pub full: bool,
    /// Breakers that have seen traffic, sorted by key. One that never did is closed and is not reported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub breakers: Vec<BreakerReport>,
    /// Limits that have decided something, sorted by key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub limits: Vec<LimitReport>,
    /// References whose value this proxy can't use, each with the reason; always complete.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub broken_references: Vec<BrokenReference>,
}

/// One breaker of one proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerReport {
    /// Which breaker.
    pub key: BreakerKey,
    /// What it would do by itself.
    pub state: BreakerState,
    /// What an override makes it do now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forced: Option<ForcedState>,
    /// Whether it acts.
    #[serde(default)]
    pub mode: Mode,
    /// When it entered `state`, in milliseconds since the Unix epoch.
    pub since_unix_ms: i64,
    /// Failures among the requests of its current window, 0..=100; absent without requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_percent: Option<f64>,
    /// Slow calls among the requests of its current window, 0..=100; absent without a slow-call rule or requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_percent: Option<f64>,
    /// How often it went from closed to open since the proxy started.
    pub trips: u64,
    /// When it last went from closed to open, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_trip_unix_ms: Option<i64>,
    /// Requests it refused since the proxy started; in Shadow, those it would have refused.
    pub rejected: u64,
    /// Why it is in this state, as a stable CamelCase word such as `ConsecutiveFailures`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// When the next probe may pass, in milliseconds since the Unix epoch; set while open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_probe_unix_ms: Option<i64>,
}

/// The three states of a breaker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum BreakerState {
    /// Everything passes and is counted. Number 0 in metrics.
    #[default]
    Closed,
    /// A limited number of probes pass. Number 1 in metrics.
    HalfOpen,
    /// Nothing passes. Number 2 in metrics.
    Open,
}

/// One rule of one limit of one proxy.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitReport {
    /// Which limit and rule.
    pub key: LimitKey,
    /// Whether it acts.
    #[serde(default)]
    pub mode: Mode,
    /// Requests it let pass since the proxy started, delayed ones among them.
    pub allowed: u64,
    /// Requests it refused since the proxy started; in Shadow, those it would have refused.
    pub limited: u64,
    /// Requests that waited since the proxy started.
    #[serde(default)]
    pub delayed: u64,
    /// What it decided in the last minute; absent from a proxy of a version that does not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recent: Option<RecentDecisions>,
    /// When it refused a request last, in milliseconds since the Unix epoch; absent where it never did, or does not say so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_limited_unix_ms: Option<i64>,
    /// Keys with a bucket of their own now.
    pub tracked_keys: u64,
    /// Clients that are refused for a time now.
    pub blocked_clients: u64,
    /// The clients of these that were refused most, the most first, at most [`MAX_TOP_BLOCKED`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_blocked: Vec<BlockedClient>,
    /// With scope Shared, since when the store does not answer, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub store_lost_since_unix_ms: Option<i64>,
    /// With scope Shared, why the store does not answer.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub store_error: String,
}

/// What one rule of one limit decided in the last minute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RecentDecisions {
    /// Requests it let pass, delayed ones among them.
    pub allowed: u64,
    /// Requests it refused; in Shadow, those it would have refused.
    pub limited: u64,
}

/// The most blocked clients of one limit that are reported.
pub const MAX_TOP_BLOCKED: usize = 10;

/// A client that is refused for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockedClient {
    /// Its key, hashed or redacted as the policy says.
    pub key: String,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_unix_ms: i64,
    /// Until when, in milliseconds since the Unix epoch.
    pub until_unix_ms: i64,
    /// Requests it was refused in this time.
    pub refused: u64,
}

/// A value that a proxy can't use; what it had before stays in use.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BrokenReference {
    /// Which.
    pub reference: Reference,
    /// What is wrong, and how to mend it; never a part of the value.
    pub problem: String,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_limit_of_a_proxy_that_says_nothing_of_the_last_minute_is_understood() {
        let key = json!({
            "policy": {"namespace": "shop", "name": "limits"}, "side": "Server", "port": 8080, "limit": "all",
            "target": {"kind": "Service", "namespace": "shop", "name": "web"},
        });
        let told = json!({"key": key, "allowed": 5, "limited": 3, "trackedKeys": 1, "blockedClients": 0});
        let report: LimitReport = serde_json::from_value(told).unwrap();
        assert_eq!((report.recent, report.last_limited_unix_ms), (None, None));
        let again = serde_json::to_value(&report).unwrap();
        assert!(again.get("recent").is_none() && again.get("lastLimitedUnixMs").is_none(), "{again}");
    }
}
