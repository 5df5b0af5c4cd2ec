//! `ProxyReport`: what one proxy saw, as plain data on its way to the operator.
//!
//! Reports say facts with timestamps; what they mean for a policy is the compiler's to decide.

use serde::{Deserialize, Serialize};

use crate::config::{BreakerKey, ForcedState, Mode};

/// The state of a proxy's breakers: all of them after connecting, then those that changed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyReport {
    /// True when `breakers` is complete, and what is not listed is gone.
    #[serde(default)]
    pub full: bool,
    /// Breakers that have seen traffic, sorted by key. One that never did is closed and is not reported.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub breakers: Vec<BreakerReport>,
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
