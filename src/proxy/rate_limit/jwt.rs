//! A claim of a signed token, which is who a client is only while the signature holds.
//!
//! It must not let anybody pass for what a token says before it is verified: until then its words may only lead to its refusal, as
//! those of one that has expired do. And it must not verify the same token for each of its requests: what was verified is
//! remembered, up to a bound and never beyond its expiry.

mod key_set;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use fusebox_policy::config::JwtClaim;
use jsonwebtoken::dangerous::insecure_decode_claims;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

pub(crate) use self::key_set::KeySet;
#[cfg(test)]
pub(crate) use self::key_set::KeySetError;

/// The longest token that is looked at, in bytes.
pub(crate) const MAX_TOKEN_BYTES: usize = 8 << 10;

/// Verified tokens that are remembered for one part of a key, in shards that threads lock one by one.
const MAX_VERIFIED: usize = 4096;

const SHARDS: usize = 16;
const MAX_PER_SHARD: usize = MAX_VERIFIED / SHARDS;

/// How far the issuer's clock may be ahead of ours, in seconds. Expiry gets no leeway.
const NOT_BEFORE_LEEWAY: f64 = 10.0;

/// Keys that can be replaced while they are in use; none before they were told.
pub(crate) type KeySlot = Arc<ArcSwapOption<KeySet>>;

/// Finds one claim in tokens.
#[derive(Debug)]
pub(crate) struct Verifier {
    claim: String,
    issuer: Option<String>,
    audiences: Vec<String>,
    keys: KeySlot,
    verified: Verified,
    /// Tokens whose signature was looked at.
    #[cfg(test)]
    checked: std::sync::atomic::AtomicUsize,
}

/// What tokens said that were verified, by their SHA-256.
#[derive(Debug)]
struct Verified {
    shards: [Mutex<HashMap<[u8; 32], Remembered>>; SHARDS],
    hasher: RandomState,
}

#[derive(Debug)]
struct Remembered {
    /// The keys it was verified with; others have not verified it.
    keys: Arc<KeySet>,
    said: Said,
}

#[derive(Clone, Debug)]
struct Said {
    claim: Option<Arc<str>>,
    times: Times,
}

/// When a token holds, in Unix seconds; what is absent bounds nothing.
#[derive(Clone, Copy, Debug)]
struct Times {
    expires: Option<f64>,
    not_before: Option<f64>,
}

/// The claims that say when a token holds.
#[derive(Deserialize)]
struct RawTimes {
    exp: Option<Value>,
    nbf: Option<Value>,
}

impl Verifier {
    /// A verifier for what `wanted` asks, with keys from `keys`.
    pub(crate) fn new(wanted: &JwtClaim, keys: KeySlot) -> Self {
        let JwtClaim { claim, header: _, issuer, audiences, keys: _ } = wanted;
        let shards = std::array::from_fn(|_| Mutex::new(HashMap::new()));
        Self {
            claim: claim.clone(),
            issuer: issuer.clone(),
            audiences: audiences.clone(),
            keys,
            verified: Verified { shards, hasher: RandomState::new() },
            #[cfg(test)]
            checked: std::sync::atomic::AtomicUsize::new(0),
        }
    }

    /// The claim of the token in a header's `value`; none where the token does not hold at `now`, or has no such claim.
    pub(crate) fn claim(&self, value: &[u8], now: SystemTime) -> Option<Arc<str>> {
        let token = bearer(value);
        let keys = self.keys.load_full().filter(|_| token.len() <= MAX_TOKEN_BYTES)?;
        let now = now.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let digest: [u8; 32] = Sha256::digest(token).into();
        let said = match self.verified.get(&digest, &keys) {
            Some(said) => said,
            None if is_out_of_time(token, now) => return None,
            None => {
                let said = self.verify(token, &keys).filter(|said| said.times.hold(now))?;
                self.verified.remember(digest, Remembered { keys, said: said.clone() }, now);
                said
            }
        };
        said.times.hold(now).then_some(said.claim).flatten()
    }

    /// What the token says, if one of the keys signed it, and it was made by whom and for whom it has to be.
    fn verify(&self, token: &[u8], keys: &KeySet) -> Option<Said> {
        #[cfg(test)]
        self.checked.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let header = jsonwebtoken::decode_header(token).ok()?;
        // RFC 7515 section 4.1.11: what must be understood and is not makes a token invalid.
        if header.crit.is_some() {
            return None;
        }
        let claims = keys
            .candidates(&header)
            .find_map(|(key, validation)| jsonwebtoken::decode::<Map<String, Value>>(token, key, validation).ok())?;
        let claims = claims.claims;
        let said = |name: &str| claims.get(name).and_then(Value::as_str);
        let issued = self.issuer.as_deref().is_none_or(|issuer| said("iss") == Some(issuer));
        if !issued || !self.is_for_us(claims.get("aud")) {
            return None;
        }
        Some(Said {
            claim: claims.get(&self.claim).and_then(text).filter(|text| !text.is_empty()).map(Arc::from),
            times: Times::of(claims.get("exp"), claims.get("nbf"))?,
        })
    }

    fn is_for_us(&self, audience: Option<&Value>) -> bool {
        let wanted = |one: &Value| one.as_str().is_some_and(|one| self.audiences.iter().any(|wanted| wanted == one));
        match audience {
            _ if self.audiences.is_empty() => true,
            Some(Value::Array(many)) => many.iter().any(wanted),
            Some(one) => wanted(one),
            None => false,
        }
    }

    /// How many tokens are remembered.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.verified.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// How many tokens had their signature looked at.
    #[cfg(test)]
    pub(crate) fn checked(&self) -> usize {
        self.checked.load(std::sync::atomic::Ordering::Relaxed)
    }
}

impl Verified {
    fn get(&self, digest: &[u8; 32], keys: &Arc<KeySet>) -> Option<Said> {
        let shard = self.shard(digest).lock();
        shard.get(digest).filter(|known| Arc::ptr_eq(&known.keys, keys)).map(|known| known.said.clone())
    }

    fn remember(&self, digest: [u8; 32], known: Remembered, now: f64) {
        let mut shard = self.shard(&digest).lock();
        if shard.len() >= MAX_PER_SHARD && !shard.contains_key(&digest) {
            shard.retain(|_, old| Arc::ptr_eq(&old.keys, &known.keys) && old.said.times.hold(now));
            // Any one will do: it is verified again when it comes again.
            if let Some(one) = shard.keys().next().copied().filter(|_| shard.len() >= MAX_PER_SHARD) {
                shard.remove(&one);
            }
        }
        shard.insert(digest, known);
    }

    /// By a hash that clients can't compute, so that they can't crowd one shard.
    fn shard(&self, digest: &[u8; 32]) -> &Mutex<HashMap<[u8; 32], Remembered>> {
        &self.shards[self.hasher.hash_one(digest) as usize % SHARDS]
    }
}

impl Times {
    /// None where there is something else in the place of a moment (RFC 7519 section 2, NumericDate).
    fn of(expires: Option<&Value>, not_before: Option<&Value>) -> Option<Self> {
        Some(Self { expires: moment(expires)?, not_before: moment(not_before)? })
    }

    fn hold(&self, now: f64) -> bool {
        self.expires.is_none_or(|expires| now < expires)
            && self.not_before.is_none_or(|not_before| not_before <= now + NOT_BEFORE_LEEWAY)
    }
}

/// Whether a token would not hold even if its signature did, by its own words: to know that must not cost a look at the signature.
/// What can't be read is not judged here.
fn is_out_of_time(token: &[u8], now: f64) -> bool {
    let Ok(claims) = insecure_decode_claims::<RawTimes>(token) else { return false };
    Times::of(claims.exp.as_ref(), claims.nbf.as_ref()).is_none_or(|times| !times.hold(now))
}

/// The token, with or without its scheme (RFC 6750 section 2.1).
fn bearer(value: &[u8]) -> &[u8] {
    const SCHEME: &[u8] = b"bearer ";
    match value.split_at_checked(SCHEME.len()) {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case(SCHEME) => token.trim_ascii(),
        _ => value.trim_ascii(),
    }
}

/// A claim's value as a key: what has parts is none.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// A moment in Unix seconds (RFC 7519 section 2, NumericDate). None where there is something else in its place.
#[expect(clippy::option_option, reason = "a date that is absent, one that is there, and something that is none")]
fn moment(value: Option<&Value>) -> Option<Option<f64>> {
    value.map_or(Some(None), |value| value.as_f64().map(Some))
}

#[cfg(test)]
mod tests;
