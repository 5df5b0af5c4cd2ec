//! Where limits of scope Shared are counted.
//!
//! Single fields rather than a URL: there is then no place for credentials, each server can be checked by itself, and TLS stands
//! in one place instead of in a scheme. It must refuse addresses that lead back into the pod or to the node's metadata.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::source::{ObjectName, ValueFrom};
use crate::duration::Duration;

/// Where limits of scope Shared are counted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Store {
    /// A Redis server, or several that act as one.
    pub redis: Redis,
}

/// A Redis server, or several that act as one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("[has(self.address), has(self.sentinel), has(self.cluster)].exists_one(it, it)")
    .message("set exactly one of address, sentinel and cluster"))]
#[x_kube(validation = Rule::new("!has(self.cluster) || self.database == 0")
    .message("must be 0 with cluster, which has no other").field_path(".database"))]
pub struct Redis {
    /// One server, as host:port. Example: redis.shop:6379.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<RedisAddress>,
    /// The primary that Redis Sentinels name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sentinel: Option<RedisSentinel>,
    /// A Redis Cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<RedisCluster>,
    /// The database's number, 0 to 1023; 0 with cluster. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 1023))]
    pub database: u32,
    /// A Secret of the policy's namespace with the key password and, where the user is not "default", the key username. Default:
    /// none, without a password. Example: {name: redis-login}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<ObjectName>,
    /// TLS; {} believes the usual public authorities. Default: unset, plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<RedisTls>,
    /// All keys begin with it; policies that share it and their limits' names share their counts. Default:
    /// fusebox:NAMESPACE:NAME of the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9._:/-]+$"))]
    pub key_prefix: Option<String>,
    /// How long one decision may take, 1ms to 1s; beyond that onStoreFailure decides. Default: 20ms.
    #[serde(default = "default_timeout")]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1ms') && duration(self) <= duration('1s')")
        .message("must be between 1ms and 1s"))]
    pub timeout: Duration,
}

/// The primary that Redis Sentinels name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisSentinel {
    /// The Sentinels, 1 to 16, as host:port. Example: [sentinel-0.redis.shop:26379].
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub addresses: Vec<RedisAddress>,
    /// The name that they watch the primary by. Example: mymaster.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9._-]+$"))]
    pub primary: String,
}

/// A Redis Cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisCluster {
    /// Some of its nodes, 1 to 16, as host:port; they name the others. Example: [redis-0.redis.shop:6379].
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub addresses: Vec<RedisAddress>,
}

/// How both ends prove who they are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct RedisTls {
    /// Certificates in PEM of the authorities that are believed. Default: the usual public ones. Example:
    /// {configMapRef: {name: redis-ca, key: ca.crt}}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_from: Option<ValueFrom>,
    /// A Secret of the policy's namespace with the pods' own certificate, of type kubernetes.io/tls: the keys tls.crt and
    /// tls.key. Default: none. Example: {name: redis-client}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub certificate_from: Option<ObjectName>,
}

/// A server as host:port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline, extend("x-kubernetes-validations" = [
    {"rule": "!self.contains('@')",
     "message": "must hold no credentials: put them into a Secret and name it in secretRef"},
    {"rule": "!self.contains('://')",
     "message": "must be host:port without a scheme, such as redis.shop:6379; for TLS set tls"},
    {"rule": "self.contains('@') || self.contains('://') || self.matches('^([A-Za-z0-9_]([-A-Za-z0-9_]*[A-Za-z0-9_])?[.])*[A-Za-z]([-A-Za-z0-9]*[A-Za-z0-9])?:[0-9]{1,5}$') || self.matches('^[0-9]{1,3}[.][0-9]{1,3}[.][0-9]{1,3}[.][0-9]{1,3}:[0-9]{1,5}$') || self.matches('^\\\\[[0-9A-Fa-f:.]{2,45}\\\\]:[0-9]{1,5}$')",
     "message": "must be host:port, such as redis.shop:6379, 10.0.0.7:6379 or [fd00::7]:6379"},
    {"rule": "!self.lowerAscii().matches('^(localhost|.*[.]localhost|127[.].*|0[.].*|169[.]254[.].*|metadata|metadata[.]google[.]internal|instance-data([.]ec2[.]internal)?|\\\\[(::1?|fe[89ab][0-9a-f]:.*|::ffff:.*|fd00:ec2::254)\\\\]):[0-9]+$')",
     "message": "must not lead back into the pod or to the node's metadata: name the Redis server"}]))]
pub struct RedisAddress(#[schemars(length(min = 1, max = 261))] pub String);

fn default_timeout() -> Duration {
    Duration::from_millis(20)
}
