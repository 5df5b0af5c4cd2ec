//! What opens a breaker.
//!
//! It must hold no more than users can say: which limits there are and their bounds. What a
//! limit means over time is the engine's.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// The window of a rate that names none.
const DEFAULT_WINDOW: Duration = Duration::from_secs(10);

/// The requests that a rate needs where it doesn't say.
const DEFAULT_MIN_REQUESTS: u32 = 20;

/// What opens a breaker: any of the limits that are set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "self.type == 'Never' || has(self.consecutiveFailures) || has(self.failures) || has(self.failureRate) || has(self.slowCallRate)")
    .message("set consecutiveFailures, failures, failureRate or slowCallRate, or type: Never for a breaker that never opens by itself"))]
#[x_kube(validation = Rule::new(
    "self.type != 'Never' || !(has(self.consecutiveFailures) || has(self.failures) || has(self.failureRate) || has(self.slowCallRate))")
    .message("with type: Never leave out consecutiveFailures, failures, failureRate and slowCallRate"))]
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
    /// This share of failures within a time, or among the last calls. Default: unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_rate: Option<FailureRate>,
    /// This share of slow calls within a time, or among the last calls. Default: unset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slow_call_rate: Option<SlowCallRate>,
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

/// A share of failures within a time, or among the last calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FailureRate {
    /// Failures among requests, in percent, 1 to 100: this share or more opens the breaker. Example: 50.
    #[schemars(range(min = 1, max = 100))]
    pub percent: u8,
    /// The requests that it is a share of.
    #[serde(flatten)]
    pub of: RateWindow,
}

/// A share of slow calls within a time, or among the last calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlowCallRate {
    /// Slow calls among requests, in percent, 1 to 100: this share or more opens the breaker. Example: 80.
    #[schemars(range(min = 1, max = 100))]
    pub percent: u8,
    /// A call is slow when the head of its answer, or its failure, takes this long or longer, 1ms to 1h, not longer than
    /// timeout. Example: 500ms.
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1h')")
        .message("must be between 1ms and 1h"))]
    pub slower_than: Duration,
    /// The requests that it is a share of.
    #[serde(flatten)]
    pub of: RateWindow,
}

/// The requests that a share is of: those within a time, or the last ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(has(self.window) && has(self.calls))")
    .message("set window or calls, not both").field_path(".calls"))]
#[x_kube(validation = Rule::new("!has(self.calls) || !has(self.minRequests) || self.minRequests <= self.calls")
    .message("must not be more than calls, or the share never decides").field_path(".minRequests"))]
pub struct RateWindow {
    /// The rolling time they are counted in, 1s to 1h; not together with calls. Default: 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('1h')")
        .message("must be between 1s and 1h"))]
    pub window: Option<Duration>,
    /// In place of a time, the last so many requests, however old, 1 to 10000: for little traffic. Default: unset.
    /// Example: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub calls: Option<u32>,
    /// With fewer requests than this the share decides nothing, 1 to 100000, and not more than calls. Default: 20, or
    /// calls where that is less.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100_000))]
    pub min_requests: Option<u32>,
}

impl Default for Trip {
    fn default() -> Self {
        Self {
            kind: TripType::AnyOf,
            consecutive_failures: Some(5),
            failures: None,
            failure_rate: None,
            slow_call_rate: None,
        }
    }
}

impl RateWindow {
    /// The time that is looked at, where no number of calls is.
    #[must_use]
    pub fn window_or_default(&self) -> Duration {
        self.window.unwrap_or(DEFAULT_WINDOW)
    }

    /// The requests without which the share decides nothing.
    #[must_use]
    pub fn min_requests_or_default(&self) -> u32 {
        let least = || self.calls.map_or(DEFAULT_MIN_REQUESTS, |calls| calls.min(DEFAULT_MIN_REQUESTS));
        self.min_requests.unwrap_or_else(least)
    }
}
