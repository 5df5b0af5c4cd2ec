//! What a refused request is answered with.
//!
//! It must refuse what would break the connection it is sent on: a fixed answer says what it means,
//! never how it is carried.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a refused request is answered with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("(self.type == 'Static') == has(self.static)")
    .message("type: Static needs static, and static needs type: Static").field_path(".static"))]
pub struct Fallback {
    /// None (503 with Retry-After and a problem document, or the gRPC status UNAVAILABLE) or Static (a fixed answer).
    /// Default: None.
    #[serde(rename = "type", default)]
    pub kind: FallbackType,
    /// The fixed answer, for type Static. Default: unset.
    #[serde(rename = "static", default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<StaticAnswer>,
}

/// Kinds of answers to refused requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum FallbackType {
    /// 503 with Retry-After and a problem document.
    #[default]
    None,
    /// A fixed answer.
    Static,
}

/// A fixed answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!(self.status in [204, 205, 304]) || size(self.body) == 0")
    .message("must be empty with status 204, 205 or 304").field_path(".body"))]
pub struct StaticAnswer {
    /// The status, 200 to 599. Example: 200.
    #[schemars(range(min = 200, max = 599))]
    pub status: u16,
    /// Headers, at most 16, each once; none that is about the connection, such as Connection, Transfer-Encoding or
    /// Content-Length, and none of our own (fusebox-). Default: none. Example: [{name: content-type, value: application/json}].
    #[serde(default)]
    #[schemars(length(max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub headers: Vec<AnswerHeader>,
    /// The body, up to 4096 characters, sent as UTF-8. Default: empty. Example: "[]".
    #[serde(default)]
    #[schemars(length(max = 4096))]
    pub body: String,
}

/// One header of a fixed answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AnswerHeader {
    /// The header's name. Example: content-type.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    #[x_kube(validation = Rule::new("!(self.lowerAscii() in ['connection', 'keep-alive', 'proxy-connection', 'proxy-authenticate', 'proxy-authorization', 'te', 'trailer', 'transfer-encoding', 'upgrade', 'content-length', 'host'])")
        .message("is about the connection, which the proxy looks after: remove it"))]
    #[x_kube(validation = Rule::new("!self.lowerAscii().startsWith('fusebox-')")
        .message("is one that the proxy sets by itself: take another name"))]
    pub name: String,
    /// Its value, in printable ASCII. Example: application/json.
    #[schemars(length(min = 1, max = 1024), regex(pattern = "^[\\x21-\\x7e]([\\x20-\\x7e]*[\\x21-\\x7e])?$"))]
    pub value: String,
}
