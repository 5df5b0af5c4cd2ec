//! What a client is told: what it has left, and why it is refused until when.
//!
//! It must not decide anything, and must cost nothing where a policy tells nothing: headers are only written once there is an answer.

use std::sync::Arc;
use std::time::Duration;

use fusebox_policy::rate_limit::{Outcome, Rate, Refusal, Verdict};
use http::{HeaderMap, Response};
use smallvec::SmallVec;

use super::super::Limiter;
use super::super::fields::{self, Told};
use super::{Concern, Concerns, Passed, Refused, USUAL};
use crate::pipeline::problem::{self, Limited, Place};
use crate::pipeline::response_body::ResponseBody;

/// What limits have left for a client.
#[derive(Debug)]
pub(super) struct Quota {
    limiter: Arc<Limiter>,
    notes: SmallVec<[Note; 1]>,
}

/// What one limit has left.
#[derive(Debug)]
struct Note {
    limit: usize,
    rule: usize,
    /// The client's own rate.
    own: Option<Rate>,
    remaining: u32,
    reset: Duration,
}

impl Limiter {
    /// What these limits have left.
    pub(super) fn quota(self: &Arc<Self>, concerns: &Concerns, verdicts: &[Verdict]) -> Quota {
        let note = |(concern, verdict): (&Concern, &Verdict)| {
            let (remaining, reset) = match verdict.outcome {
                Outcome::Allowed | Outcome::Delayed { .. } => (verdict.remaining, verdict.reset_after),
                Outcome::Refused { refusal: Refusal::OverLimit, retry_after } => {
                    (verdict.remaining, retry_after.unwrap_or(verdict.reset_after))
                }
                Outcome::Refused { refusal: Refusal::BlockBegins | Refusal::Blocked, retry_after } => {
                    (0, retry_after.unwrap_or(verdict.reset_after))
                }
            };
            let own = concern.is_own_rate.then_some(concern.ask.rate);
            Note { limit: concern.limit, rule: concern.rule, own, remaining, reset }
        };
        Quota { limiter: Arc::clone(self), notes: concerns.iter().zip(verdicts).map(note).collect() }
    }
}

impl Passed {
    /// Tells the client what it has left.
    pub(crate) fn tell(&self, headers: &mut HeaderMap) {
        if let Some(told) = &self.told {
            told.tell(headers);
        }
    }
}

impl Refused {
    /// What the client gets; `target` is what the request was for.
    pub(crate) fn answer(&self, target: &str) -> Response<ResponseBody> {
        let mut response = problem::limited(&Limited {
            place: self.place(target),
            limit: self.limit(),
            why: self.why,
            retry_after: self.retry_after,
        });
        self.told.tell(response.headers_mut());
        response
    }

    /// The limit's policy and rule.
    pub(crate) fn place<'a>(&'a self, target: &'a str) -> Place<'a> {
        let rules = &self.limiter.limits[self.limit].rules;
        let rule = rules.get(self.rule).map_or("", |rule| rule.name.as_str());
        Place { policy: &self.limiter.policy, target, rule }
    }

    /// The limit's name.
    pub(crate) fn limit(&self) -> &str {
        &self.limiter.limits[self.limit].name
    }

    /// Why, in one word for logs.
    pub(crate) fn state(&self) -> &'static str {
        self.why.state()
    }
}

impl Quota {
    /// Nothing is said of any limit.
    pub(super) fn nothing(limiter: &Arc<Limiter>) -> Self {
        Self { limiter: Arc::clone(limiter), notes: SmallVec::new() }
    }

    fn tell(&self, headers: &mut HeaderMap) {
        let Self { limiter, notes } = self;
        let told = |note: &Note| {
            let limit = &limiter.limits[note.limit];
            let rule = &limit.rules[note.rule];
            Told {
                name: &limit.name,
                rate: note.own.unwrap_or(rule.rate),
                policy: note.own.is_none().then_some(&rule.told),
                remaining: note.remaining,
                reset: note.reset,
            }
        };
        let told: SmallVec<[Told<'_>; USUAL]> = notes.iter().map(told).collect();
        fields::append(headers, &told, limiter.headers);
    }
}
