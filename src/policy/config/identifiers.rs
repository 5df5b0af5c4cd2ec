//! What names things in a configuration: workloads, policies, Services, targets, breakers, limits, and values that stand elsewhere.
//!
//! It must hold names alone. They are keys of state that outlives configurations, so that a name must never say what is wanted.

use serde::{Deserialize, Serialize};

/// A workload: the controller that owns a set of equal pods, or a bare pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadId {
    /// Its namespace.
    pub namespace: String,
    /// `Deployment`, `StatefulSet`, `DaemonSet`, `ReplicaSet`, `Job`, `CronJob` or `Pod`.
    pub kind: String,
    /// Its name.
    pub name: String,
}

/// One policy at one generation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyVersion {
    /// The resource's kind, such as `CircuitBreakerPolicy`.
    pub kind: String,
    /// Its namespace and name.
    #[serde(flatten)]
    pub id: PolicyId,
    /// Its uid; empty where the policy came from a file.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// `metadata.generation`; 0 where the policy came from a file.
    pub generation: i64,
}

/// A policy's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyId {
    /// The policy's namespace.
    pub namespace: String,
    /// The policy's name.
    pub name: String,
}

/// A Service's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceId {
    /// The Service's namespace.
    pub namespace: String,
    /// The Service's name.
    pub name: String,
}

/// What a policy's `targetRefs` entry names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetId {
    /// The kind, `Service`.
    pub kind: String,
    /// The target's namespace.
    pub namespace: String,
    /// The target's name.
    pub name: String,
    /// The port's name where the reference has a `sectionName`, else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub section: String,
}

/// Which end of a call enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Side {
    /// The caller's sidecar, on the way out.
    Client,
    /// The callee's own sidecar, on the way in.
    Server,
}

/// Names one breaker in one proxy; state is kept by this key over configuration changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerKey {
    /// The policy.
    pub policy: PolicyId,
    /// The reference of the policy.
    pub target: TargetId,
    /// Which side enforces.
    pub side: Side,
    /// The Service's port on side Client, the container port on side Server: each has its own breaker.
    pub port: u16,
    /// The rule's name, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
    /// `address:port` of the endpoint with scope Endpoint, else empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub endpoint: String,
}

/// Names the buckets of one rule of one limit in one proxy; they are kept by this key over configuration changes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitKey {
    /// The policy.
    pub policy: PolicyId,
    /// The reference of the policy.
    pub target: TargetId,
    /// Which side enforces.
    pub side: Side,
    /// The Service's port on side Client, the container port on side Server: each has its own buckets.
    pub port: u16,
    /// The limit's name.
    pub limit: String,
    /// The rule's name, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub rule: String,
}

/// One entry of a ConfigMap or Secret whose value is never part of a configuration.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Reference {
    /// Which kind of object.
    pub kind: ReferenceKind,
    /// Its namespace, which is that of the policy.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The entry of its data.
    pub key: String,
}

/// What holds values for policies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ReferenceKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
}
