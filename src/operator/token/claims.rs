//! A service-account token's claims, and what must hold of them; pure, with time as an argument.
//!
//! A token without a pod is refused however valid it is: anybody who may make a token for a
//! service account could otherwise speak for every pod that uses it.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fusebox_policy::stream::AUDIENCE;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Identity, TokenError};
use crate::control::PodRef;

/// How far the API server's clock may be ahead of ours, in seconds. Expiry gets no leeway.
const NOT_BEFORE_LEEWAY: i64 = 10;

/// What of the header is looked at. Everything else in it, such as keys it brings along, is ignored.
#[derive(Debug, Deserialize)]
pub(super) struct Header {
    pub(super) alg: String,
    #[serde(default)]
    pub(super) kid: String,
}

/// What of the claims is looked at.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    #[serde(default)]
    aud: Audience,
    #[serde(default)]
    iss: String,
    exp: i64,
    #[serde(default)]
    nbf: Option<i64>,
    #[serde(rename = "kubernetes.io", default)]
    kubernetes: Option<Kubernetes>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

#[derive(Debug, Deserialize)]
struct Kubernetes {
    namespace: String,
    #[serde(default)]
    pod: Option<Named>,
    serviceaccount: Named,
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
    uid: String,
}

impl Default for Audience {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Audience {
    fn contains(&self, wanted: &str) -> bool {
        match self {
            Self::One(audience) => audience == wanted,
            Self::Many(audiences) => audiences.iter().any(|audience| audience == wanted),
        }
    }
}

impl Claims {
    /// Checks the claims; `issuer` is None where the API server itself vouched for it.
    pub(super) fn identity(self, issuer: Option<&str>, now: SystemTime) -> Result<Identity, TokenError> {
        let Self { aud, iss, exp, nbf, kubernetes } = self;
        let now = unix_seconds(now);
        if issuer.is_some_and(|issuer| issuer != iss) {
            return Err(TokenError::Issuer);
        }
        if !aud.contains(AUDIENCE) {
            return Err(TokenError::Audience);
        }
        if now >= exp {
            return Err(TokenError::Expired);
        }
        if nbf.is_some_and(|nbf| now.saturating_add(NOT_BEFORE_LEEWAY) < nbf) {
            return Err(TokenError::NotYetValid);
        }
        let Kubernetes { namespace, pod, serviceaccount } = kubernetes.ok_or(TokenError::Unbound)?;
        let Named { name, uid } = pod.ok_or(TokenError::Unbound)?;
        if uid.is_empty() {
            return Err(TokenError::Unbound);
        }
        let pod = PodRef { namespace, name, uid };
        Ok(Identity { pod, service_account: serviceaccount.name, expires_unix: exp })
    }
}

/// One part of a token, which is JSON in unpadded URL-safe base64.
pub(super) fn decode<T: DeserializeOwned>(part: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).ok()?).ok()
}

fn unix_seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
