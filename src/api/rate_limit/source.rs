//! Values that stand in Secrets and ConfigMaps of the policy's namespace.
//!
//! It must name them only: a value never stands in a policy, and a namespace is never named, because a policy reads
//! nothing of others.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

/// An entry of a Secret or of a ConfigMap: exactly one of the two.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.configMapRef) != has(self.secretRef)")
    .message("set exactly one of configMapRef and secretRef"))]
pub struct ValueFrom {
    /// An entry of a ConfigMap of the policy's namespace. Example: {name: login, key: jwks.json}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_map_ref: Option<ObjectKey>,
    /// An entry of a Secret of the policy's namespace. Example: {name: login, key: jwks.json}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<ObjectKey>,
}

/// One entry of an object's data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectKey {
    /// The object's name. Example: login.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
    /// The entry of its data. Example: jwks.json.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// An object by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectName {
    /// The object's name. Example: redis-login.
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub name: String,
}
