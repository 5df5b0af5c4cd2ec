//! One request: which limits concern it, what they say, and what becomes of it.
//!
//! It must spend from all limits or from none, and must not look at a bucket before it is known that the request has a key for
//! every limit that asks for one. What is only needed for refusals is found out for refusals alone.

mod beside;
mod concern;
mod later;
mod telling;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fusebox_policy::config::{LimitHeaders, Mode, ShowKeys};
use fusebox_policy::rate_limit::{
    Ask, Decision, Demand, Exceed, KeyDigest, Outcome, Refusal, Source, Verdict, Verdicts, decide,
};
use smallvec::SmallVec;

use super::counts::{Decided, Decider};
use super::key::Subject;
use super::queue::Held;
use super::shared;
use super::{LimitRule, Limiter};
use crate::pipeline::problem::Why;

use telling::Quota;

/// Limits that concern one request, as a rule.
const USUAL: usize = 2;

/// What became of asking.
#[derive(Debug)]
pub(crate) enum Asked {
    /// It may pass.
    Pass(Passed),
    /// It may not.
    Refuse(Box<Refused>),
    /// Not at once; [`Later::settle`] says.
    Later(Box<Later>),
}

/// A request that limits let pass.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    told: Option<Quota>,
    /// Whether it waited.
    pub(crate) has_waited: bool,
    /// The limit that would have refused it, were it enforced.
    pub(crate) would_refuse: Option<String>,
}

/// A request that a limit refuses.
#[derive(Debug)]
pub(crate) struct Refused {
    limiter: Arc<Limiter>,
    /// The limit that refuses it longest, and its rule.
    limit: usize,
    rule: usize,
    why: Why,
    retry_after: Duration,
    told: Quota,
    /// Its key, as the policy shows keys.
    pub(crate) key: String,
    /// Whether its client is refused for a time from now on.
    pub(crate) begins_block: bool,
}

/// A request that waits for its turn, or for the store.
#[derive(Debug)]
pub(crate) struct Later {
    limiter: Arc<Limiter>,
    /// Limits of this proxy, and what they said.
    concerns: Concerns,
    verdicts: Verdicts,
    held: Held,
    /// Limits that the store decides on.
    shared: Concerns,
}

/// What was said of a request in place of buckets of this proxy.
struct Elsewhere {
    verdicts: Verdicts,
    decider: Decider,
}

/// One limit that concerns a request.
#[derive(Clone, Copy, Debug)]
struct Concern {
    limit: usize,
    rule: usize,
    key: KeyDigest,
    ask: Ask,
    is_own_rate: bool,
    priority: u8,
    is_shared: bool,
}

type Concerns = SmallVec<[Concern; USUAL]>;

/// By what a key is shown to people.
#[derive(Clone, Copy)]
enum Shown<'a> {
    /// By the request that has it.
    Of(&'a Subject<'a>),
    /// As it was read off the request, which is gone by now: each limit's, in the order of the concerns.
    Read(&'a [(usize, String)]),
}

/// Why a request never comes to a bucket.
struct NoBucket {
    limit: usize,
    rule: usize,
    why: Why,
}

impl Limiter {
    /// Asks for one request, which has so much time `left` if that is bounded.
    pub(crate) fn ask(self: &Arc<Self>, subject: &Subject<'_>, (now, left): (Instant, Option<Duration>)) -> Asked {
        let concerns = match self.concerns(subject, left) {
            Ok(concerns) => concerns,
            Err(without) => return self.without_bucket(&without).into(),
        };
        let (shared, concerns): (Concerns, Concerns) = concerns.into_iter().partition(|concern| concern.is_shared);
        if let Some(refused) = self.certainly_refused(&shared, (Shown::Of(subject), now)) {
            return refused.into();
        }
        let mut decision = self.decide(&concerns, now);
        if self.makes_room(&concerns, &decision) {
            decision = self.decide(&concerns, now);
        }
        match decision.outcome {
            Outcome::Allowed | Outcome::Delayed { .. } => {
                let shared = if self.mode == Mode::Shadow { self.beside(shared, subject) } else { shared };
                self.passes((concerns, shared), decision)
            }
            Outcome::Refused { .. } => {
                let said = Elsewhere { verdicts: decision.verdicts, decider: Decider::Proxy };
                self.refuse((&concerns, Shown::Of(subject)), &said, now).into()
            }
        }
    }

    /// Nothing of this proxy is in its way.
    fn passes(self: &Arc<Self>, (concerns, shared): (Concerns, Concerns), decision: Decision) -> Asked {
        if !shared.is_empty() || decision.outcome != Outcome::Allowed {
            return self.later((concerns, shared), decision);
        }
        self.count_allowed(&concerns, &decision);
        Asked::Pass(self.passed(&concerns, &decision.verdicts))
    }

    /// What the store would certainly say, because it said so before of a moment that has not come yet.
    fn certainly_refused(
        self: &Arc<Self>,
        shared: &Concerns,
        (shown, now): (Shown<'_>, Instant),
    ) -> Option<Result<Passed, Box<Refused>>> {
        let (mut concerns, mut verdicts) = (Concerns::new(), Verdicts::new());
        for concern in shared {
            let refused = &self.rule_of(concern).tracked.refused;
            if let Some(left) = refused.certain(concern.key.id(), concern.ask.cost, now) {
                concerns.push(*concern);
                verdicts.push(shared::certainly_refused(&concern.ask, left));
            }
        }
        let said = Elsewhere { verdicts, decider: Decider::Store };
        (!concerns.is_empty()).then(|| self.refuse((&concerns, shown), &said, now))
    }

    /// The limits that concern a request; nothing is spent yet.
    fn concerns(&self, subject: &Subject<'_>, left: Option<Duration>) -> Result<Concerns, NoBucket> {
        let mut concerns = Concerns::new();
        for (number, limit) in self.limits.iter().enumerate() {
            if let Some(concern) = limit.concern(subject, (number, left))? {
                concerns.push(concern);
            }
        }
        Ok(concerns)
    }

    fn decide(&self, concerns: &Concerns, now: Instant) -> Decision {
        let demands: SmallVec<[Demand<'_>; USUAL]> = concerns
            .iter()
            .map(|concern| Demand {
                buckets: &self.rule_of(concern).tracked.buckets,
                key: concern.key.id(),
                ask: concern.ask,
            })
            .collect();
        decide(&demands, now)
    }

    /// Sends somebody away who waits and has to stand back. Only where nothing else is in the way.
    fn makes_room(&self, concerns: &Concerns, decision: &Decision) -> bool {
        let mut refusing = decision.refusing().filter_map(|index| concerns.get(index));
        let (Some(concern), None) = (refusing.next(), refusing.next()) else { return false };
        let Concern { key, ask, priority, .. } = concern;
        matches!(ask.exceed, Exceed::Delay(_))
            && self.rule_of(concern).tracked.queue.displace(key.id(), (ask.cost, *priority))
    }

    fn later(self: &Arc<Self>, (concerns, shared): (Concerns, Concerns), decision: Decision) -> Asked {
        let verdicts = decision.verdicts.clone();
        let held = self.held(&concerns, decision);
        Asked::Later(Box::new(Later { limiter: Arc::clone(self), concerns, verdicts, held, shared }))
    }

    fn held(&self, concerns: &Concerns, decision: Decision) -> Held {
        let mut held = Held::default();
        for (concern, reservation) in concerns.iter().zip(decision.into_reservations()) {
            if let Some(reservation) = reservation {
                held.add(&self.rule_of(concern).tracked, reservation);
            }
        }
        held
    }

    fn passed(self: &Arc<Self>, concerns: &Concerns, verdicts: &[Verdict]) -> Passed {
        for (concern, verdict) in concerns.iter().zip(verdicts) {
            self.rule_of(concern).tracked.least.note(verdict.remaining, concern.ask.rate.burst());
        }
        let is_told = self.mode == Mode::Enforce && self.headers != LimitHeaders::None && !concerns.is_empty();
        let told = is_told.then(|| self.quota(concerns, verdicts));
        Passed { told, ..Passed::default() }
    }

    fn refuse(
        self: &Arc<Self>,
        (concerns, shown): (&Concerns, Shown<'_>),
        said: &Elsewhere,
        now: Instant,
    ) -> Result<Passed, Box<Refused>> {
        let Elsewhere { verdicts, decider } = said;
        let mut worst: Option<(&Concern, Refusal, Duration)> = None;
        let mut begins_block = false;
        for (concern, verdict) in concerns.iter().zip(verdicts) {
            let Outcome::Refused { refusal, retry_after } = verdict.outcome else { continue };
            let retry_after = retry_after.unwrap_or_else(|| concern.ask.rate.fill());
            self.count_refused((concern, refusal, now + retry_after), (shown, *decider), now);
            begins_block |= refusal == Refusal::BlockBegins;
            if worst.is_none_or(|(_, _, longest)| retry_after > longest) {
                worst = Some((concern, refusal, retry_after));
            }
        }
        let Some((concern, refusal, retry_after)) = worst else { return Ok(Passed::default()) };
        let why = if refusal == Refusal::OverLimit { Why::Limited } else { Why::Blocked };
        self.carry_out(Refused {
            limiter: Arc::clone(self),
            limit: concern.limit,
            rule: concern.rule,
            why,
            retry_after,
            told: self.quota(concerns, verdicts),
            key: self.shown(concern, shown),
            begins_block,
        })
    }

    fn without_bucket(self: &Arc<Self>, without: &NoBucket) -> Result<Passed, Box<Refused>> {
        self.limits[without.limit].rules[without.rule].tracked.counts.count(Decided::NoKey, Decider::Proxy);
        self.refuse_without_bucket(without)
    }

    fn refuse_without_bucket(self: &Arc<Self>, without: &NoBucket) -> Result<Passed, Box<Refused>> {
        let NoBucket { limit, rule, why } = *without;
        self.carry_out(Refused {
            limiter: Arc::clone(self),
            limit,
            rule,
            why,
            retry_after: Duration::ZERO,
            told: Quota::nothing(self),
            key: String::new(),
            begins_block: false,
        })
    }

    /// In Shadow it passes all the same, and nobody is told.
    fn carry_out(&self, refused: Refused) -> Result<Passed, Box<Refused>> {
        match self.mode {
            Mode::Enforce => Err(Box::new(refused)),
            Mode::Shadow => {
                let would_refuse = Some(format!("{}/{}", self.policy, self.limits[refused.limit].name));
                Ok(Passed { would_refuse, ..Passed::default() })
            }
        }
    }

    fn count_allowed(&self, concerns: &Concerns, decision: &Decision) {
        for (index, concern) in concerns.iter().enumerate() {
            let counts = &self.rule_of(concern).tracked.counts;
            counts.count(Decided::Allowed, Decider::Proxy);
            if decision.reservation(index).is_some_and(|reservation| reservation.source() == Source::Overflow) {
                counts.overflowed();
            }
        }
    }

    fn count_refused(
        &self,
        (concern, refusal, until): (&Concern, Refusal, Instant),
        (shown, decider): (Shown<'_>, Decider),
        now: Instant,
    ) {
        let tracked = &self.rule_of(concern).tracked;
        let (decided, blocked_until) = match (refusal, decider) {
            (Refusal::OverLimit, _) => (Decided::Limited, None),
            (Refusal::BlockBegins | Refusal::Blocked, Decider::Store) => (Decided::Blocked, Some(until)),
            (Refusal::BlockBegins | Refusal::Blocked, Decider::Proxy | Decider::Fallback) => {
                (Decided::Blocked, tracked.buckets.blocked_until(concern.key.id(), now))
            }
        };
        tracked.counts.count(decided, decider);
        tracked.least.note(0, 1);
        tracked.top.refused((concern.key, now), blocked_until, || self.shown(concern, shown));
    }

    /// The key for people.
    fn shown(&self, concern: &Concern, shown: Shown<'_>) -> String {
        let limit = &self.limits[concern.limit];
        match (concern.key, self.show_keys, shown) {
            (KeyDigest::MISSING_KEY, ..) => "without a key".to_owned(),
            (KeyDigest::UNKNOWN_KEY, ..) => "without a quota".to_owned(),
            _ if limit.key.is_empty() => "all".to_owned(),
            (key, ShowKeys::Hashed, _) => key.short_hex(),
            (_, ShowKeys::Redacted, Shown::Of(subject)) => limit.key.redacted(subject),
            (_, ShowKeys::Redacted, Shown::Read(keys)) => {
                keys.iter().find(|(limit, _)| *limit == concern.limit).map(|(_, key)| key.clone()).unwrap_or_default()
            }
        }
    }

    fn rule_of(&self, concern: &Concern) -> &LimitRule {
        &self.limits[concern.limit].rules[concern.rule]
    }
}

impl From<Result<Passed, Box<Refused>>> for Asked {
    fn from(result: Result<Passed, Box<Refused>>) -> Self {
        result.map_or_else(Self::Refuse, Self::Pass)
    }
}
