//! What tells one client from another, and what becomes of a request that lacks it.
//!
//! It must name places in a request only: a key's value never stands in a configuration.

use serde::{Deserialize, Serialize};

use super::super::identifiers::Reference;

/// One part of what tells one client from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum KeyPart {
    /// The value of this header.
    Header(String),
    /// A secret that the client shows: the first that is there.
    ApiKey(ApiKey),
    /// The address of the client.
    ClientIp(ClientIp),
    /// A claim of a signed token.
    JwtClaim(JwtClaim),
    /// The path, without the query.
    Path,
    /// The method.
    Method,
}

/// Where an API key stands: the first that is there counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiKey {
    /// Headers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<String>,
    /// Parameters of the query.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub query_parameters: Vec<String>,
    /// Cookies.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub cookies: Vec<String>,
}

/// How the client's address is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClientIp {
    /// How many proxies before this one are believed: so many entries of `X-Forwarded-For` from the right, less one for the peer
    /// itself, are passed over. 0 takes the peer's own address and reads no header.
    pub trusted_hops: u8,
    /// IPv6 clients share a bucket by this many leading bits.
    pub ipv6_prefix: u8,
}

/// A claim of a JSON Web Token (RFC 7519) whose signature holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JwtClaim {
    /// The claim's name; its value must be a string, a number or a boolean.
    pub claim: String,
    /// The header that holds the token, with or without `Bearer `.
    pub header: String,
    /// The issuer that the token must name; absent is any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
    /// The token must name one of these audiences; empty is any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub audiences: Vec<String>,
    /// A JSON Web Key Set (RFC 7517) or a public key in PEM; its content comes over the control stream.
    pub keys: Reference,
}

/// What becomes of a request that lacks a part of the key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MissingKey {
    /// All such requests share one bucket.
    #[default]
    SharedBucket,
    /// The limit does not concern it.
    Skip,
    /// It is refused.
    Reject,
}

impl KeyPart {
    /// The reference whose value is needed to find it, if one is.
    pub(super) const fn reference(&self) -> Option<&Reference> {
        match self {
            Self::JwtClaim(claim) => Some(&claim.keys),
            Self::Header(_) | Self::ApiKey(_) | Self::ClientIp(_) | Self::Path | Self::Method => None,
        }
    }
}
