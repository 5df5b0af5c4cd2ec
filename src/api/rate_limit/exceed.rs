//! What becomes of requests beyond a limit.
//!
//! It must bound every wait and every queue: a request that waits holds memory and a connection.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;

/// How long a request waits at most where the policy doesn't say.
const DEFAULT_MAX_DELAY: Duration = Duration::from_secs(1);

/// How many requests wait at most where the policy doesn't say.
const DEFAULT_MAX_QUEUED: u32 = 100;

/// What becomes of requests beyond a limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.action == 'Reject' || !has(self.blockFor)")
    .message("is for action Reject: requests either wait or are refused; remove this").field_path(".blockFor"))]
#[x_kube(validation = Rule::new("self.action == 'Delay' || !has(self.maxDelay)")
    .message("is for action Delay: set that, or remove this").field_path(".maxDelay"))]
#[x_kube(validation = Rule::new("self.action == 'Delay' || !has(self.maxQueued)")
    .message("is for action Delay: set that, or remove this").field_path(".maxQueued"))]
#[x_kube(validation = Rule::new("self.action == 'Delay' || !has(self.priorityHeader)")
    .message("is for action Delay: set that, or remove this").field_path(".priorityHeader"))]
pub struct OnExceed {
    /// Reject (429 with Retry-After and a problem document, or the gRPC status RESOURCE_EXHAUSTED) or Delay (it waits for its
    /// turn; scope Replica only). Default: Reject.
    #[serde(default)]
    pub action: ExceedAction,
    /// A client that goes beyond the limit is refused for this long from then on, 1s to 24h, whatever its bucket
    /// holds; with action Reject. Default: unset, it may come back as soon as its bucket allows. Example: 60s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1s') && duration(self) <= duration('24h')")
        .message("must be between 1s and 24h"))]
    pub block_for: Option<Duration>,
    /// The longest wait, 1ms to 1m; a request that would wait longer is refused at once. With action Delay. Default: 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1m')")
        .message("must be between 1ms and 1m"))]
    pub max_delay: Option<Duration>,
    /// At most so many requests wait for this limit in one pod, of all its rules together, for each port that the policy
    /// targets, 1 to 10000; who finds every place taken is refused at once. With action Delay. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 10_000))]
    pub max_queued: Option<u32>,
    /// The header whose whole number, 0 to 9, says who goes first: the greatest, without starving the others. With action
    /// Delay. Default: none, who came first goes first. Example: x-priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    pub priority_header: Option<String>,
}

/// What is done with a request beyond a limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExceedAction {
    /// It is refused.
    #[default]
    Reject,
    /// It waits for its turn.
    Delay,
}

impl OnExceed {
    /// The longest wait.
    #[must_use]
    pub fn max_delay_or_default(&self) -> Duration {
        self.max_delay.unwrap_or(DEFAULT_MAX_DELAY)
    }

    /// The most requests that wait for the limit in one pod.
    #[must_use]
    pub fn max_queued_or_default(&self) -> u32 {
        self.max_queued.unwrap_or(DEFAULT_MAX_QUEUED)
    }
}
