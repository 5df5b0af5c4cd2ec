//! What the control stream learned from one proxy, as plain data.
//!
//! The same value goes into the book and, as JSON, from a follower to the leader, so both fold
//! the same facts in the same way.

use fusebox_policy::config::{PolicyVersion, WorkloadId};
use fusebox_policy::report::ProxyReport;
use serde::{Deserialize, Serialize};

use super::directory::PodRef;

/// One thing that happened to one pod's stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProxyEvent {
    /// The pod, as proven by its token.
    pub pod: PodRef,
    /// What happened.
    pub happened: Happened,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "camelCase")]
pub enum Happened {
    /// A stream was opened and its Hello came in.
    Connected(Connection),
    /// The stream ended; the pod may come back.
    Disconnected,
    /// The pod is gone for good.
    Deleted,
    /// A revision is enforced.
    Acknowledged(Acknowledgement),
    /// A revision was refused; the one before it stays in force.
    Refused(Rejection),
    /// The state of breakers, already limited to policies bound to the pod.
    Reported(ProxyReport),
}

/// The beginning of a stream.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connection {
    /// The workload the pod belongs to.
    pub workload: WorkloadId,
    /// The proxy's version, as it says itself.
    pub version: String,
    /// When the stream was opened, in milliseconds since the Unix epoch.
    pub since_unix_ms: i64,
    /// What it enforced already when it connected, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforced: Option<Acknowledgement>,
}

/// A revision that is enforced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Acknowledgement {
    /// Which revision.
    pub revision: String,
    /// The policies in it, limited to those bound to the pod, and to generations that exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyVersion>,
}

/// A revision that was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rejection {
    /// Which revision.
    pub revision: String,
    /// Why, in the proxy's words, cut to a bound.
    pub error: String,
    /// The policies in that revision.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<PolicyVersion>,
}
