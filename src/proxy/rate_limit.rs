//! Rate limits on a route: whose bucket each request spends from, and what becomes of what is beyond a limit.
//!
//! It must not decide how buckets fill: the engine does. Here a request is read, asked about, made to wait, and its client told;
//! nothing is locked or looked up but the bucket itself, because every request comes through here.

mod api_key;
mod asking;
mod build;
mod client_ip;
pub(crate) mod commands;
mod counts;
mod fields;
mod jwt;
pub(crate) mod key;
mod queue;
pub(crate) mod reading;
pub(crate) mod references;
mod shared;
mod store;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox_policy::config::{LimitHeaders, LimitKey, MissingKey, Mode, ShowKeys, UnknownKey};
use fusebox_policy::matching::RequestMatcher;
use fusebox_policy::rate_limit::{Buckets, KeyId, Rate, Recent, RefusedUntil, TopKeys};
use http::header::{HeaderName, HeaderValue};

pub(crate) use self::asking::{Asked, Later, Passed, Refused};
pub(crate) use self::build::{Making, limiter};
pub(crate) use self::client_ip::Peer;
use self::counts::{Counts, Least};
use self::key::Parts;
use self::queue::Queue;
use self::references::QuotaSlot;
use self::shared::Common;
pub(crate) use self::shared::Stores;
use self::store::BucketFamily;
pub(crate) use self::store::StoreAddresses;

/// All limits of one policy on one route.
#[derive(Debug)]
pub(crate) struct Limiter {
    /// `namespace/name` of the policy.
    policy: String,
    mode: Mode,
    headers: LimitHeaders,
    show_keys: ShowKeys,
    limits: Vec<Limit>,
    /// Where limits of scope Shared are kept; none where there are none.
    common: Option<Common>,
}

/// One limit.
#[derive(Debug)]
struct Limit {
    name: String,
    /// Which requests it concerns; none is all.
    when: Option<RequestMatcher>,
    key: Parts,
    on_missing_key: MissingKey,
    /// Tried in order; the last takes all.
    rules: Vec<LimitRule>,
    /// Rates of named keys, in place of that of the last rule.
    quotas: Option<(QuotaSlot, UnknownKey)>,
    costs: Vec<(RequestMatcher, u32)>,
    greatest_cost: u32,
    beyond: Beyond,
}

/// One rule of a limit.
#[derive(Debug)]
struct LimitRule {
    name: String,
    matcher: Option<RequestMatcher>,
    rate: Rate,
    /// Its member of `RateLimit-Policy`.
    told: HeaderValue,
    tracked: Arc<Tracked>,
    /// Its buckets in the store; none with scope Replica.
    family: Option<BucketFamily>,
}

/// What becomes of a request beyond a limit.
#[derive(Clone, Debug)]
enum Beyond {
    /// It is refused.
    Refuse,
    /// And so is its client, for this time.
    Block(Duration),
    /// It waits up to this time; the header says who goes first.
    Delay(Duration, Option<HeaderName>),
}

/// The buckets of one rule of one limit and what is known of them, kept over configuration changes.
#[derive(Debug)]
pub(crate) struct Tracked {
    /// Which.
    pub(crate) key: LimitKey,
    /// The buckets. With scope Shared they are for the time in which the store does not answer.
    pub(crate) buckets: Buckets,
    /// What the store has refused until when.
    refused: RefusedUntil,
    /// What was decided.
    pub(crate) counts: Counts,
    /// What of it is recent.
    recent: Recent,
    /// What was left.
    least: Least,
    /// Whom it refused most.
    pub(crate) top: TopKeys,
    /// Who waits.
    queue: Queue,
}

/// One rule of one limit as it is in force.
#[derive(Clone, Debug)]
pub(crate) struct Installed {
    /// Its buckets.
    pub(crate) tracked: Arc<Tracked>,
    /// Whether it acts.
    pub(crate) mode: Mode,
    rate: Rate,
    quotas: Option<QuotaSlot>,
    max_tracked_keys: usize,
    max_queued: u32,
    shared: Option<(Common, BucketFamily)>,
}

impl Installed {
    /// Gives all buckets the rates that are in force now; what was spent stays spent.
    pub(crate) fn adopt_rates(&self, now: Instant) {
        if self.shared.is_some() {
            // What was refused at another rate says nothing of this one; the store itself knows what was spent.
            return self.tracked.refused.clear();
        }
        let quotas = self.quotas.as_ref().and_then(|slot| slot.load_full());
        let rate_of = |key| quotas.as_ref().and_then(|quotas| quotas.rate_by_id(key)).unwrap_or(self.rate);
        self.tracked.buckets.set_rates(self.rate, rate_of, now);
    }

    /// Comes into force after what was there before: the buckets they share get the bounds and the rates of this one.
    pub(crate) fn take_over(&self, before: Option<&Self>, now: Instant) {
        self.tracked.queue.room().set_most(self.max_queued);
        self.tracked.buckets.set_most(self.max_tracked_keys);
        let slot = |installed: &Self| installed.quotas.as_ref().map(Arc::as_ptr);
        if before.is_none_or(|before| self.rate != before.rate || slot(self) != slot(before)) {
            self.adopt_rates(now);
        }
    }

    /// Whether some keys have rates of their own.
    pub(crate) fn has_quotas(&self) -> bool {
        self.quotas.is_some()
    }

    /// Forgets buckets that are full, which loses nothing.
    pub(crate) fn forget_full(&self, now: Instant) {
        self.tracked.buckets.forget_full(now);
    }

    fn rate_of(&self, key: KeyId) -> Rate {
        let quotas = self.quotas.as_ref().and_then(|slot| slot.load_full());
        quotas.and_then(|quotas| quotas.rate_by_id(key)).unwrap_or(self.rate)
    }
}
