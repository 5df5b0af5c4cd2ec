//! What limits look like from outside: reports for the operator, the `/state` document, gauges.
//!
//! It must only read, and never show more of a key than the policy allows: what is shown was hashed or redacted when it was
//! first seen.

use std::time::Instant;

use fusebox_policy::metrics as names;
use fusebox_policy::rate_limit::{Lately, MAX_TOP_KEYS, TopKey, Totals};
use fusebox_policy::report::{BlockedClient, LimitReport, MAX_TOP_BLOCKED, RecentDecisions};
use serde::Serialize;

use super::{Installed, Tracked};
use crate::clock::Clock;

/// One rule of one limit, with its numbers.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LimitView {
    /// What is reported of it.
    #[serde(flatten)]
    pub report: LimitReport,
    /// Requests that wait now for this rule; maxQueued bounds those of all rules of its limit together.
    pub queued: u64,
    /// Requests since the proxy started that spent from the bucket which keys without a place share.
    pub overflowed: u64,
    /// Requests in Shadow since the proxy started on which the store was not asked, because too many such questions were under
    /// way.
    pub skipped: u64,
    /// How many replicas share the limit while the store does not answer, as the operator says; absent with scope Replica.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replicas: Option<u32>,
}

impl Installed {
    /// Whether it has decided anything.
    pub(crate) fn is_used(&self) -> bool {
        self.tracked.totals() != Totals::default()
    }

    /// Looks at what was decided, so that it is known later what of it is recent.
    pub(crate) fn look(&self, now: Instant) {
        if self.is_used() {
            self.tracked.recent.look(self.tracked.totals(), now);
        }
    }

    /// What the operator is told of it.
    pub(crate) fn report(&self, clock: &Clock, now: Instant) -> LimitReport {
        let tracked = &*self.tracked;
        let lost = self.shared.as_ref().and_then(|(common, _)| common.lost());
        let blocked = |key: TopKey| {
            Some(BlockedClient {
                until_unix_ms: clock.unix_ms(key.blocked_until?),
                since_unix_ms: clock.unix_ms(key.since),
                refused: key.refused,
                key: key.shown,
            })
        };
        let totals = tracked.totals();
        let Lately { decided, last_limited } = tracked.recent.look(totals, now);
        LimitReport {
            key: tracked.key.clone(),
            mode: self.mode,
            allowed: totals.allowed,
            limited: totals.limited,
            delayed: tracked.counts.delayed(),
            recent: Some(RecentDecisions { allowed: decided.allowed, limited: decided.limited }),
            last_limited_unix_ms: last_limited.map(|moment| clock.unix_ms(moment)),
            tracked_keys: tracked.buckets.tracked() as u64,
            blocked_clients: self.blocked(now) as u64,
            top_blocked: tracked.top.top_blocked(MAX_TOP_BLOCKED, now).into_iter().filter_map(blocked).collect(),
            store_lost_since_unix_ms: lost.as_ref().map(|(since, _)| clock.unix_ms(*since)),
            store_error: lost.map(|(_, error)| error).unwrap_or_default(),
        }
    }

    /// Clients that are refused for a time. Those that the store refuses are known as far as they are watched here.
    fn blocked(&self, now: Instant) -> usize {
        let here = self.tracked.buckets.blocked(now);
        if self.shared.is_none() { here } else { here.max(self.tracked.top.top_blocked(MAX_TOP_KEYS, now).len()) }
    }

    /// What `/state` shows of it.
    pub(crate) fn view(&self, clock: &Clock, now: Instant) -> LimitView {
        let tracked = &self.tracked;
        LimitView {
            report: self.report(clock, now),
            queued: tracked.queue.len() as u64,
            overflowed: tracked.counts.overflow(),
            skipped: tracked.counts.skips(),
            replicas: self.shared.as_ref().map(|(common, _)| common.replicas()),
        }
    }

    /// Decisions so far, as (decision, source, count).
    pub(crate) fn decisions(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        self.tracked.counts.decisions()
    }

    /// The gauges of it, by name. What was left is told once.
    pub(crate) fn gauges(&self, now: Instant) -> impl Iterator<Item = (&'static str, f64)> + use<> {
        let tracked = &self.tracked;
        let least = self.is_used().then(|| (names::RATE_LIMIT_REMAINING_RATIO, tracked.least.take()));
        let gauges = [
            (names::RATE_LIMIT_BLOCKED_CLIENTS, self.blocked(now) as f64),
            (names::RATE_LIMIT_TRACKED_KEYS, tracked.buckets.tracked() as f64),
            (names::RATE_LIMIT_QUEUED, tracked.queue.len() as f64),
        ];
        gauges.into_iter().chain(least)
    }

    /// Requests in Shadow on which the store was not asked.
    pub(crate) fn skipped(&self) -> u64 {
        self.tracked.counts.skips()
    }

    /// Requests that spent from the bucket which keys without a place share.
    pub(crate) fn overflowed(&self) -> u64 {
        self.tracked.counts.overflow()
    }
}

impl Tracked {
    fn totals(&self) -> Totals {
        Totals { allowed: self.counts.allowed(), limited: self.counts.limited() }
    }
}
