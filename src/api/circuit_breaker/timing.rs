//! How long a breaker stays open, how it probes, and how traffic comes back.
//!
//! It must hold bounds alone; the engine has the clockwork.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

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
    /// Whether a Retry-After with the failure that opens the breaker (seconds or a date) keeps it open for so long, if that
    /// is longer than it would be, and up to maxDuration. Default: true.
    #[serde(default = "default_honor_retry_after")]
    pub honor_retry_after: bool,
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

/// How traffic comes back after a breaker has closed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// The share of requests that pass grows from little to all over this time, 0s to 1h, so that what has just come back
    /// is not overrun. Default: 0s, all at once. Example: 30s.
    #[serde(default)]
    #[x_kube(validation = Rule::new("duration(self) <= duration('1h')").message("must be 1h at most"))]
    pub ramp: Duration,
}

impl Default for Open {
    fn default() -> Self {
        Self {
            base_duration: default_base_duration(),
            max_duration: default_open_max_duration(),
            jitter_percent: default_jitter_percent(),
            honor_retry_after: default_honor_retry_after(),
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

fn default_base_duration() -> Duration {
    Duration::from_secs(30)
}

fn default_open_max_duration() -> Duration {
    Duration::from_secs(300)
}

fn default_jitter_percent() -> u8 {
    10
}

fn default_honor_retry_after() -> bool {
    true
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
