//! The parts that all policies share: targets, side, mode and request matching.
//!
//! They must mean the same in every kind, because users learn them once.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One Service that a policy applies to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// API group of the target. Default and only value: "" (the core group).
    #[serde(default)]
    #[schemars(extend("enum" = [""]))]
    pub group: String,
    /// Kind of the target. Default and only value: Service.
    #[serde(default)]
    pub kind: TargetKind,
    /// Namespace of the target. Default: "", which is the policy's own namespace. A policy that names another
    /// namespace guards only the callers in its own namespace. Example: payments.
    #[serde(default)]
    #[schemars(length(max = 63), regex(pattern = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"))]
    pub namespace: String,
    /// Name of the Service. Example: checkout.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub name: String,
    /// Name of one port of the Service. Default: "", which is every TCP port. A reference to one port beats a
    /// reference to the whole Service. Example: http.
    #[serde(default)]
    #[schemars(length(max = 63), regex(pattern = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$"))]
    pub section_name: String,
}

/// Kinds of targets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TargetKind {
    /// A Kubernetes Service.
    #[default]
    Service,
}

/// Which end of a call enforces a policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Side {
    /// The callers' sidecars, on the way out.
    Client,
    /// The target's own sidecars, on the way in.
    Server,
}

/// Whether a policy acts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Mode {
    /// Decide and act.
    #[default]
    Enforce,
    /// Decide and report, and let everything pass.
    Shadow,
    /// Do nothing, and keep the place among other policies.
    Disabled,
}

/// Which requests a rule takes. All that is set must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.path) || size(self.methods) > 0 || size(self.headers) > 0")
    .message("set at least one of methods, path and headers"))]
pub struct RequestMatch {
    /// One of these methods. Default: any. Example: [GET, HEAD].
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub methods: Vec<Method>,
    /// The path, without the query. Default: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathMatch>,
    /// All of these headers. Default: none.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<HeaderMatch>,
}

/// HTTP methods that a rule can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
#[schemars(rename_all = "UPPERCASE")]
pub enum Method {
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// PATCH.
    Patch,
    /// DELETE.
    Delete,
    /// OPTIONS.
    Options,
    /// TRACE.
    Trace,
}

/// How the path of a request is compared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "self.type == 'RegularExpression' || (self.value.startsWith('/') && !self.value.contains('?') && !self.value.contains('#'))")
    .message("must start with / and have no query, unless type is RegularExpression").field_path(".value"))]
pub struct PathMatch {
    /// Exact (the whole path), PathPrefix (whole segments: /a takes /a and /a/b, not /ab) or RegularExpression
    /// (RE2 syntax, anchored at both ends). Default: PathPrefix.
    #[serde(rename = "type", default)]
    pub kind: PathMatchType,
    /// What to compare with. Example: /checkout.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^[^\\x00-\\x1f\\x7f]+$"))]
    pub value: String,
}

/// Ways to compare a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PathMatchType {
    /// The whole path, byte for byte.
    Exact,
    /// Whole segments from the start.
    #[default]
    PathPrefix,
    /// RE2 syntax, anchored at both ends.
    RegularExpression,
}

/// One header's value, byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeaderMatch {
    /// The header's name, compared without case. Example: x-tenant.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    pub name: String,
    /// Its value, compared byte for byte. Example: gold.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^[^\\x00-\\x1f\\x7f]+$"))]
    pub value: String,
}

impl Method {
    /// The method as it stands in a request.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Trace => "TRACE",
        }
    }
}
