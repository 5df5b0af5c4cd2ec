//! A request that is not decided at once: it waits for its turn, or for the store.
//!
//! It must give back what was spent here wherever the request comes to nothing, a client that leaves included: whatever is held
//! is given back as it is dropped.

use std::time::Instant;

use fusebox_policy::config::{Mode, StoreFailure};
use fusebox_policy::rate_limit::{Ask, Entry, Exceed, Outcome, Refusal, Verdict, Verdicts};

use super::super::counts::{Decided, Decider};
use super::super::key::Subject;
use super::super::queue::TurnedAway;
use super::super::shared::{self, Common};
use super::{Concern, Concerns, Elsewhere, Later, NoBucket, Passed, Refused, Shown, Why};

impl Later {
    /// Waits until it may pass, or must not. In Shadow nobody waits.
    pub(crate) async fn settle(self: Box<Self>, subject: Subject<'_>, now: Instant) -> Result<Passed, Box<Refused>> {
        self.settle_shown(Shown::Of(&subject), now).await
    }

    pub(super) async fn settle_shown(
        mut self: Box<Self>,
        shown: Shown<'_>,
        now: Instant,
    ) -> Result<Passed, Box<Refused>> {
        let mut has_waited = false;
        for index in 0..self.concerns.len() {
            if self.limiter.mode == Mode::Shadow || !matches!(self.verdicts[index].outcome, Outcome::Delayed { .. }) {
                continue;
            }
            has_waited = true;
            if let Err(TurnedAway) = self.wait(index, now).await {
                let said = Elsewhere { verdicts: std::mem::take(&mut self.verdicts), decider: Decider::Proxy };
                return self.limiter.refuse((&self.concerns, shown), &said, Instant::now());
            }
        }
        let said = match self.limiter.common.as_ref().filter(|_| !self.shared.is_empty()) {
            Some(common) => Some(self.ask_store(common, shown).await?),
            None => None,
        };
        Ok(Passed { has_waited, ..self.pass(said) })
    }

    /// Asks for all shared limits at once. Where one refuses, what was spent here is given back as this is dropped.
    async fn ask_store(&self, common: &Common, shown: Shown<'_>) -> Result<Elsewhere, Box<Refused>> {
        let demand = |concern: &Concern| {
            let family = self.limiter.rule_of(concern).family.as_ref()?;
            Some(shared::demand(family, &concern.key, &concern.ask))
        };
        let demands: Vec<_> = self.shared.iter().filter_map(demand).collect();
        let asked = Instant::now();
        let said = match common.decide(&demands).await {
            Ok(verdicts) => Elsewhere { verdicts: verdicts.into(), decider: Decider::Store },
            Err(lost) => {
                tracing::debug!(reason = lost.reason(), "store did not decide");
                self.without_store(common)?
            }
        };
        if !said.verdicts.iter().any(Verdict::is_refused) {
            return Ok(said);
        }
        if said.decider == Decider::Store {
            self.remember(&said.verdicts, asked);
        }
        // In Shadow it is counted, and passes with nothing said.
        let passes = self.limiter.refuse((&self.shared, shown), &said, Instant::now())?;
        drop(passes);
        Ok(Elsewhere { verdicts: Verdicts::new(), decider: said.decider })
    }

    fn remember(&self, verdicts: &[Verdict], asked: Instant) {
        let now = Instant::now();
        for (concern, verdict) in self.shared.iter().zip(verdicts) {
            if let Outcome::Refused { retry_after: Some(left), .. } = verdict.outcome {
                let refused = &self.limiter.rule_of(concern).tracked.refused;
                refused.refused(concern.key.id(), (concern.ask.cost, asked + left), now);
            }
        }
    }

    /// What the policy declares for the time without the store.
    fn without_store(&self, common: &Common) -> Result<Elsewhere, Box<Refused>> {
        let limiter = &self.limiter;
        let decider = Decider::Fallback;
        match common.on_failure {
            StoreFailure::Open => {
                let verdicts = self.shared.iter().map(|concern| Verdict::untouched(&concern.ask.rate)).collect();
                Ok(Elsewhere { verdicts, decider })
            }
            StoreFailure::Closed => {
                for concern in &self.shared {
                    limiter.rule_of(concern).tracked.counts.count(Decided::Limited, decider);
                }
                let Some(first) = self.shared.first() else {
                    return Ok(Elsewhere { verdicts: Verdicts::new(), decider });
                };
                let lost = NoBucket { limit: first.limit, rule: first.rule, why: Why::StoreLost };
                limiter.refuse_without_bucket(&lost).map(|_| Elsewhere { verdicts: Verdicts::new(), decider })
            }
            StoreFailure::LocalEstimate => {
                let part = |concern: &Concern| {
                    let greatest_cost = limiter.limits[concern.limit].greatest_cost;
                    let rate = common.part_of(concern.ask.rate, greatest_cost);
                    Concern { ask: Ask { rate, ..concern.ask }, ..*concern }
                };
                let parts: Concerns = self.shared.iter().map(part).collect();
                Ok(Elsewhere { verdicts: limiter.decide(&parts, Instant::now()).verdicts, decider })
            }
        }
    }

    /// Waits for one limit, if it has to.
    async fn wait(&mut self, index: usize, since: Instant) -> Result<(), TurnedAway> {
        let (concern, verdict) = (self.concerns[index], self.verdicts[index]);
        let Outcome::Delayed { wait } = verdict.outcome else { return Ok(()) };
        let Exceed::Delay(max_delay) = concern.ask.exceed else { return Ok(()) };
        let waited = since.elapsed();
        let entry = Entry {
            key: concern.key.id(),
            cost: concern.ask.cost,
            rate: concern.ask.rate,
            wait: wait.saturating_sub(waited),
            max_delay: max_delay.saturating_sub(waited),
            priority: concern.priority,
        };
        let held = std::mem::take(&mut self.held);
        let tracked = &self.limiter.rule_of(&concern).tracked;
        match tracked.queue.wait(&entry, (held, Instant::now())).await {
            Ok(held) => {
                self.held = held;
                Ok(())
            }
            Err(TurnedAway) => {
                let outcome = Outcome::Refused { refusal: Refusal::OverLimit, retry_after: Some(wait) };
                self.verdicts[index] = Verdict { outcome, ..verdict };
                Err(TurnedAway)
            }
        }
    }

    /// What it spent stays spent.
    fn pass(self: Box<Self>, said: Option<Elsewhere>) -> Passed {
        let Self { limiter, mut concerns, mut verdicts, held, shared } = *self;
        held.keep(Instant::now());
        for (concern, verdict) in concerns.iter().zip(&verdicts) {
            let has_waited = matches!(verdict.outcome, Outcome::Delayed { .. });
            let decided = if has_waited { Decided::Delayed } else { Decided::Allowed };
            limiter.rule_of(concern).tracked.counts.count(decided, Decider::Proxy);
        }
        if let Some(Elsewhere { verdicts: more, decider }) = said {
            for (concern, verdict) in shared.into_iter().zip(more) {
                limiter.rule_of(&concern).tracked.counts.count(Decided::Allowed, decider);
                concerns.push(concern);
                verdicts.push(verdict);
            }
        }
        limiter.passed(&concerns, &verdicts)
    }
}
