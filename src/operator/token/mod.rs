//! Who a proxy is: proves a service-account token and reads from it which pod it is bound to.
//!
//! It checks against the cluster's own public keys, so that a busy or absent API server does not
//! keep sidecars out; only where those keys can't be had does it ask for a TokenReview. It must not
//! decide what the pod may do: that its uid still lives is looked up by the control stream.

mod claims;
mod keys;
mod review;

use std::time::SystemTime;

use fusebox_policy::stream::AUDIENCE;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use kube::Client;

use crate::control::PodRef;
use claims::Claims;
use keys::Keys;

/// The longest token that is looked at, in bytes; a cluster's are about 1.2 KiB.
const MAX_TOKEN: usize = 16 * 1024;

/// Whose token it is, proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The pod it is bound to.
    pub pod: PodRef,
    /// The service account, in the pod's namespace.
    pub service_account: String,
    /// When it ends, in seconds since the Unix epoch.
    pub expires_unix: i64,
}

/// Why a token was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// It is no JSON web token, or its claims are not those of a service account.
    #[error("the token is not a service-account token")]
    Malformed,
    /// Its algorithm is not one that a cluster signs with; `none` and secrets shared with us never are.
    #[error("the token is signed with an algorithm that is not accepted: only RS256 and ES256 are")]
    Algorithm,
    /// No key of the cluster has its key id.
    #[error("the token names a key that this cluster does not have")]
    UnknownKey,
    /// The signature does not fit.
    #[error("the token's signature is not this cluster's")]
    Signature,
    /// It comes from another issuer.
    #[error("the token's issuer is not this cluster")]
    Issuer,
    /// It was made for somebody else.
    #[error("the token's audience is not {AUDIENCE}: project it with `audience: {AUDIENCE}`")]
    Audience,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYetValid,
    /// It is not bound to a pod.
    #[error("the token is not bound to a pod: use a projected service-account token")]
    Unbound,
    /// Neither keys nor a review could be had.
    #[error("the cluster's keys can't be had now, and the token can't be reviewed")]
    Unavailable(#[source] Option<Box<kube::Error>>),
    /// The API server reviewed it and said no.
    #[error("the API server refused the token")]
    Reviewed,
}

/// Verifies tokens; share it.
pub struct TokenVerifier {
    keys: Keys,
    client: Client,
}

impl TokenError {
    /// A stable word for metrics and answers.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Malformed => "TokenMalformed",
            Self::Algorithm => "TokenAlgorithm",
            Self::UnknownKey => "TokenUnknownKey",
            Self::Signature => "TokenSignature",
            Self::Issuer => "TokenIssuer",
            Self::Audience => "TokenAudience",
            Self::Expired => "TokenExpired",
            Self::NotYetValid => "TokenNotYetValid",
            Self::Unbound => "TokenUnbound",
            Self::Unavailable(_) => "TokenKeysUnavailable",
            Self::Reviewed => "TokenRefused",
        }
    }
}

impl TokenVerifier {
    /// A verifier that gets the keys when it first needs them.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { keys: Keys::new(client.clone()), client }
    }

    /// Proves a token at `now`.
    ///
    /// # Errors
    /// [`TokenError`], each with a stable reason.
    pub async fn verify(&self, token: &str, now: SystemTime) -> Result<Identity, TokenError> {
        let (algorithm, key_id) = header(token)?;
        match self.keys.find(&key_id).await? {
            keys::Found::Key(issuer, key) => {
                let claims = signed_claims(token, algorithm, &key)?;
                claims.identity(Some(&issuer), now)
            }
            keys::Found::NoSuchKey => Err(TokenError::UnknownKey),
            keys::Found::NoKeys => {
                review::review(&self.client, token).await?;
                // The API server vouched for it; the claims say which pod, and until when.
                let claims: Claims =
                    jsonwebtoken::dangerous::insecure_decode_claims(token).map_err(|_| TokenError::Malformed)?;
                claims.identity(None, now)
            }
        }
    }
}

fn header(token: &str) -> Result<(Algorithm, String), TokenError> {
    if token.len() > MAX_TOKEN {
        return Err(TokenError::Malformed);
    }
    let parts: Vec<&str> = token.split('.').collect();
    let [header, _, _] = parts[..] else { return Err(TokenError::Malformed) };
    let claims::Header { alg, kid } = claims::decode(header).ok_or(TokenError::Malformed)?;
    let algorithm = match alg.as_str() {
        "RS256" => Algorithm::RS256,
        "ES256" => Algorithm::ES256,
        _ => return Err(TokenError::Algorithm),
    };
    Ok((algorithm, kid))
}

fn signed_claims(token: &str, algorithm: Algorithm, key: &DecodingKey) -> Result<Claims, TokenError> {
    if key.family() != algorithm.family() {
        return Err(TokenError::Signature);
    }
    // Only the signature is checked here; the claims are checked against our own clock and words.
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_aud = false;
    let data = jsonwebtoken::decode(token, key, &validation).map_err(|error| match error.kind() {
        jsonwebtoken::errors::ErrorKind::Json(_) => TokenError::Malformed,
        _ => TokenError::Signature,
    })?;
    Ok(data.claims)
}

#[cfg(test)]
mod tests;
