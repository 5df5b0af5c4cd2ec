//! The cluster's public keys, as its API server publishes them.
//!
//! They are fetched when first needed, again when a token names a key that is not among them (the
//! cluster may have rotated), and from time to time (it may have withdrawn one). A token with a
//! made-up key id must not turn into load, so attempts are spaced.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::Request;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk};
use kube::Client;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

use super::TokenError;

/// The least time between two attempts to fetch the keys.
const ATTEMPT_EVERY: Duration = Duration::from_secs(10);

/// Keys older than this are fetched again; the old ones stay in use while that fails.
const REFRESH_AFTER: Duration = Duration::from_secs(300);

/// How long a fetch may take.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);

/// Keys that are kept, at most; a cluster has one or two.
const MAX_KEYS: usize = 32;

/// What came of looking for a key.
pub(super) enum Found {
    /// The issuer, and its key of that id.
    Key(Arc<str>, DecodingKey),
    /// The cluster has other keys, not this.
    NoSuchKey,
    /// The cluster's keys can't be had.
    NoKeys,
}

/// The keys, shared by all who verify.
pub(super) struct Keys {
    client: Client,
    current: ArcSwapOption<KeySet>,
    attempt: Mutex<Option<Instant>>,
}

struct KeySet {
    issuer: Arc<str>,
    keys: HashMap<String, DecodingKey>,
    fetched_at: Instant,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
}

#[derive(Deserialize)]
struct RawKeys {
    keys: Vec<serde_json::Value>,
}

impl Keys {
    pub(super) fn new(client: Client) -> Self {
        Self { client, current: ArcSwapOption::empty(), attempt: Mutex::new(None) }
    }

    /// The key of this id, fetched if need be.
    pub(super) async fn find(&self, key_id: &str) -> Result<Found, TokenError> {
        match self.known(key_id) {
            Some(found @ Found::Key(..)) => {
                if self.current.load().as_ref().is_some_and(|set| set.fetched_at.elapsed() >= REFRESH_AFTER) {
                    self.refresh_unless_busy().await;
                    return Ok(self.known(key_id).unwrap_or(found));
                }
                Ok(found)
            }
            _ => {
                let mut attempt = self.attempt.lock().await;
                // Another request may have fetched it while this one waited.
                if let Some(found @ Found::Key(..)) = self.known(key_id) {
                    return Ok(found);
                }
                self.refresh(&mut attempt).await;
                Ok(self.known(key_id).unwrap_or(Found::NoKeys))
            }
        }
    }

    fn known(&self, key_id: &str) -> Option<Found> {
        let set = self.current.load_full()?;
        let key = set.keys.get(key_id).cloned();
        Some(key.map_or(Found::NoSuchKey, |key| Found::Key(Arc::clone(&set.issuer), key)))
    }

    async fn refresh_unless_busy(&self) {
        if let Ok(mut attempt) = self.attempt.try_lock() {
            self.refresh(&mut attempt).await;
        }
    }

    async fn refresh(&self, attempt: &mut Option<Instant>) {
        if attempt.is_some_and(|last| last.elapsed() < ATTEMPT_EVERY) {
            return;
        }
        *attempt = Some(Instant::now());
        match tokio::time::timeout(FETCH_TIMEOUT, self.fetch()).await {
            Ok(Ok(set)) => self.current.store(Some(Arc::new(set))),
            Ok(Err(error)) => tracing::warn!(%error, "the cluster's token keys could not be fetched"),
            Err(_) => tracing::warn!("the cluster's token keys were not answered in time"),
        }
    }

    async fn fetch(&self) -> kube::Result<KeySet> {
        let discovery: Discovery = self.get("/.well-known/openid-configuration").await?;
        let raw: RawKeys = self.get("/openid/v1/jwks").await?;
        let keys = raw.keys.into_iter().filter_map(usable_key).take(MAX_KEYS).collect();
        Ok(KeySet { issuer: discovery.issuer.into(), keys, fetched_at: Instant::now() })
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> kube::Result<T> {
        let request = Request::get(path).body(Vec::new()).map_err(kube::Error::HttpError)?;
        self.client.request(request).await
    }
}

/// A key that this build can verify with; others are passed over, so that they don't spoil the rest.
fn usable_key(raw: serde_json::Value) -> Option<(String, DecodingKey)> {
    let jwk: Jwk = serde_json::from_value(raw).ok()?;
    let usable = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => true,
        AlgorithmParameters::EllipticCurve(parameters) => parameters.curve == EllipticCurve::P256,
        _ => false,
    };
    let id = jwk.common.key_id.clone().filter(|_| usable)?;
    Some((id, DecodingKey::from_jwk(&jwk).ok()?))
}
