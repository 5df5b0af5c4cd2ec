//! What is asked of the store for each bucket, what it answers, and the arithmetic between both.
//!
//! It must not round in a client's favour: a bucket is counted in whole microseconds and parts of 1/requests of one, which is
//! exact for every rate. All of it is whole numbers.

use std::fmt::Write as _;
use std::time::Duration;

use fusebox_policy::config::LimitKey;
use fusebox_policy::rate_limit::{Ask, KeyId, Outcome, Refusal, Verdict};
use sha2::{Digest as _, Sha256};

use super::search::literal;

/// Longest time that the script reckons with: 71 years. Its sums stay below 2^53, where doubles stop being exact.
pub(super) const MAX_SPAN_US: u64 = 1 << 51;

/// Digits of a client's digest in a bucket's name.
pub(crate) const DIGITS: usize = 32;

/// How many bytes of a limit's digest stand in its name.
const LIMIT_DIGEST_BYTES: usize = 8;

/// By what Redis Cluster chooses the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tag {
    /// The policy: for policies whose shared limits can concern one request together, which one script must reach.
    Policy,
    /// The client: for all others, so that clients spread over the nodes.
    Client,
}

/// The buckets of one rule of one limit: the same name in every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BucketFamily {
    prefix: String,
    policy: Option<String>,
    limit: String,
}

/// The key of one bucket in the store.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BucketName(pub(super) String);

/// What one request asks of one bucket.
#[derive(Clone, Debug)]
pub(crate) struct SharedDemand {
    /// Which bucket.
    pub(crate) bucket: BucketName,
    /// What it asks. Nothing of scope Shared is delayed: what might be is refused.
    pub(crate) ask: Ask,
}

/// A rate and a cost in units of 1/requests of a microsecond, in which both are whole numbers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spans {
    pub(super) requests: u64,
    /// What one request costs, in units; also the rate's period, in microseconds.
    pub(super) per_us: u64,
    pub(super) burst: u32,
    cost: u32,
    cost_units: u128,
    full_units: u128,
}

/// What the script says of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) state: ReadingState,
    /// How long until it is full.
    pub(super) missing_us: u64,
    /// And so many 1/requests of a microsecond.
    pub(super) missing_part: u64,
    /// How long its client is still refused.
    pub(super) blocked_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ReadingState {
    Allowed,
    Beyond,
    Blocked,
    BlockBegins,
}

impl BucketFamily {
    /// The buckets of `limit` in the store with this prefix.
    pub(crate) fn new(prefix: &str, limit: &LimitKey, tag: Tag) -> Self {
        let policy = format!("{}/{}", limit.policy.namespace, limit.policy.name);
        Self {
            prefix: prefix.to_owned(),
            policy: (tag == Tag::Policy).then_some(policy),
            limit: format!("{}-{}", limit.limit, digest_of(limit)),
        }
    }

    /// The bucket of one client.
    pub(crate) fn bucket(&self, client: KeyId) -> BucketName {
        let Self { prefix, policy, limit } = self;
        let digest = client.to_string();
        let tag = policy.as_deref().unwrap_or(&digest);
        BucketName(format!("{prefix}:{{{tag}}}:{limit}:{digest}"))
    }

    /// What the names of all buckets with this prefix have in common, of clients whose digest begins with these digits.
    pub(crate) fn pattern(&self, digits: &str) -> String {
        let digits = digits.get(..DIGITS).unwrap_or(digits).to_ascii_lowercase();
        format!("{}:{{*}}:*:{}*", literal(&self.prefix), literal(&digits))
    }

    /// Whose bucket it is, if it is one of these.
    pub(crate) fn client_of(&self, bucket: &BucketName) -> Option<KeyId> {
        let (_, digest) = bucket.0.rsplit_once(':')?;
        let client = u128::from_str_radix(digest, 16).ok().filter(|_| digest.len() == DIGITS).map(KeyId::from)?;
        (self.bucket(client) == *bucket).then_some(client)
    }
}

impl BucketName {
    /// The key in the store.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Spans {
    pub(super) fn new(ask: &Ask) -> Self {
        let requests = u64::from(ask.rate.requests()).max(1);
        let per_us = u64::try_from(ask.rate.per().as_micros()).unwrap_or(MAX_SPAN_US).clamp(1, MAX_SPAN_US);
        let longest = u128::from(MAX_SPAN_US) * u128::from(requests);
        let units = |count: u32| (u128::from(count) * u128::from(per_us)).min(longest);
        let (burst, cost) = (ask.rate.burst(), ask.cost);
        Self { requests, per_us, burst, cost, cost_units: units(cost), full_units: units(burst) }
    }

    /// Whole microseconds and the part, of what the request costs.
    pub(super) fn cost(&self) -> (u64, u64) {
        self.split(self.cost_units)
    }

    /// Whole microseconds and the part, of what a full bucket holds.
    pub(super) fn full(&self) -> (u64, u64) {
        self.split(self.full_units)
    }

    /// What a client is to be told.
    pub(super) fn verdict(&self, reading: Reading) -> Verdict {
        let Reading { state, missing_us, missing_part, blocked_us } = reading;
        let missing = u128::from(missing_us) * u128::from(self.requests) + u128::from(missing_part);
        let held = self.full_units.saturating_sub(missing) / u128::from(self.per_us);
        let refused = |refusal| {
            let until_it_fits = (missing + self.cost_units).saturating_sub(self.full_units);
            let wait = self.duration(until_it_fits).max(Duration::from_micros(blocked_us));
            Outcome::Refused { refusal, retry_after: (self.cost <= self.burst).then_some(wait) }
        };
        let outcome = match state {
            ReadingState::Allowed => Outcome::Allowed,
            ReadingState::Beyond => refused(Refusal::OverLimit),
            ReadingState::Blocked => refused(Refusal::Blocked),
            ReadingState::BlockBegins => refused(Refusal::BlockBegins),
        };
        let remaining = u32::try_from(held).unwrap_or(self.burst).min(self.burst);
        Verdict { outcome, remaining, reset_after: self.duration(missing) }
    }

    fn split(&self, units: u128) -> (u64, u64) {
        let requests = u128::from(self.requests);
        let whole = u64::try_from(units / requests).unwrap_or(MAX_SPAN_US);
        (whole, u64::try_from(units % requests).unwrap_or_default())
    }

    /// Rounded up: nobody is told to come too early.
    fn duration(&self, units: u128) -> Duration {
        let us = units.div_ceil(u128::from(self.requests));
        Duration::from_micros(u64::try_from(us).unwrap_or(u64::MAX))
    }
}

/// A name may be long and the targets many: their digest tells buckets apart, the limit's name is for people.
fn digest_of(limit: &LimitKey) -> String {
    // Plain data with string keys: it can't fail, and would only join the buckets of limits of one name.
    let text = serde_json::to_vec(limit).unwrap_or_default();
    let mut digest = String::with_capacity(2 * LIMIT_DIGEST_BYTES);
    for byte in &Sha256::digest(&text)[..LIMIT_DIGEST_BYTES] {
        // Writing to a String can't fail.
        let _ = write!(digest, "{byte:02x}");
    }
    digest
}

#[cfg(test)]
mod tests;
