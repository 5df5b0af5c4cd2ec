//! What tells one client from another.
//!
//! It must say where a key stands and nothing of how it is kept. What a client merely claims is no key: a claim counts
//! only with a signature that holds, an address only past proxies that are trusted.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::source::ValueFrom;

/// One part of a key: exactly one of its fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new(
    "[has(self.header), has(self.apiKey), has(self.clientIP), has(self.jwtClaim), has(self.path), has(self.method)].exists_one(it, it)")
    .message("set exactly one of header, apiKey, clientIP, jwtClaim, path and method"))]
pub struct KeyPart {
    /// The value of this header. Example: x-tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    pub header: Option<String>,
    /// A secret that the client shows; the first that is found counts. Example: {headers: [x-api-key]}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key: Option<ApiKey>,
    /// The client's address. Example: {trustedHops: 1}.
    #[serde(rename = "clientIP", default, skip_serializing_if = "Option::is_none")]
    pub client_ip: Option<ClientIp>,
    /// A claim of a signed token. One whose signature does not hold counts as missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jwt_claim: Option<JwtClaim>,
    /// The path, without the query: write {}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Whole>,
    /// The method: write {}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<Whole>,
}

/// The whole of something, with nothing to say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Whole {}

/// Where an API key stands. Headers are looked at first, then the query, then cookies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("size(self.headers) > 0 || size(self.queryParameters) > 0 || size(self.cookies) > 0")
    .message("name at least one header, query parameter or cookie"))]
pub struct ApiKey {
    /// Headers, at most 4; [] is none. Default: [x-api-key].
    #[serde(default = "default_api_key_headers")]
    #[schemars(length(max = 4), inner(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub headers: Vec<String>,
    /// Parameters of the query, at most 4. Default: none. Example: [api_key].
    #[serde(default)]
    #[schemars(length(max = 4), inner(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9._~-]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub query_parameters: Vec<String>,
    /// Cookies, at most 4. Default: none. Example: [session].
    #[serde(default)]
    #[schemars(length(max = 4), inner(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub cookies: Vec<String>,
}

/// How a client's address is found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClientIp {
    /// How many proxies stand before the pod, 0 to 16: the one that connects, and those whose addresses it and they appended to
    /// X-Forwarded-For, from the right. With 0 the header is not read, for anybody could have written it. Default: 0.
    #[serde(default)]
    #[schemars(range(min = 0, max = 16))]
    pub trusted_hops: u8,
    /// IPv6 clients share a bucket by this many leading bits, 1 to 128, since a home has a whole /64 or more. Default: 64.
    #[serde(rename = "ipv6Prefix", default = "default_ipv6_prefix")]
    #[schemars(range(min = 1, max = 128))]
    pub ipv6_prefix: u8,
}

/// A claim of a signed JSON Web Token (RFC 7519).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JwtClaim {
    /// The claim's name; its value must be a string, a number or a boolean. Example: sub.
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[^\\x00-\\x1f\\x7f]+$"))]
    pub claim: String,
    /// The header that holds the token, with or without "Bearer ". Default: Authorization.
    #[serde(default = "default_jwt_header")]
    #[schemars(length(min = 1, max = 128), regex(pattern = "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$"))]
    pub header: String,
    /// The issuer that the token must name. Default: any. Example: https://login.example.com.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = "^[^\\x00-\\x1f\\x7f]+$"))]
    pub issuer: Option<String>,
    /// The token must name one of these audiences, at most 8. Default: any.
    #[serde(default)]
    #[schemars(length(max = 8), inner(length(min = 1, max = 512), regex(pattern = "^[^\\x00-\\x1f\\x7f]+$")))]
    #[x_kube(merge_strategy = ListMerge::Set)]
    pub audiences: Vec<String>,
    /// The keys that tokens are signed with: a JSON Web Key Set (RFC 7517) or a public key in PEM, in a Secret or ConfigMap of the
    /// policy's namespace. Example: {configMapRef: {name: login, key: jwks.json}}.
    pub keys_from: ValueFrom,
}

/// What becomes of a request that lacks a part of the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnMissingKey {
    /// All such requests share one bucket.
    #[default]
    SharedBucket,
    /// The limit does not concern it.
    Skip,
    /// It is refused.
    Reject,
}

fn default_api_key_headers() -> Vec<String> {
    vec!["x-api-key".to_owned()]
}

const fn default_ipv6_prefix() -> u8 {
    64
}

fn default_jwt_header() -> String {
    "Authorization".to_owned()
}
