//! The words a caller and a breaker exchange: may it pass, and how did it end.
//!
//! Plain values without behaviour of their own; the engine decides. They are generic over what an
//! admitted request holds, because the engine hands out bare tickets and the shared breaker permits.

use std::time::{Duration, Instant};

use crate::config::ForcedState;
use crate::report::BreakerState;

use super::Transition;

/// How an admitted request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The upstream did its work.
    Success,
    /// The upstream failed.
    Failure,
    /// Nothing can be said about the upstream, as when the client went away. Decides nothing.
    Neutral,
}

/// How an admitted request ended, with what else a breaker may learn from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub outcome: Outcome,
    /// From its admission to the head of the answer, or to the failure: what `slowCallRate` looks at.
    pub took: Duration,
    /// When the upstream asked to be called again (RFC 9110, section 10.2.3). Lengthens the open time
    /// where `open.honorRetryAfter` is set and this request is the failure that opens the breaker.
    pub retry_after: Option<Duration>,
}

/// An answer to one request, with the transition that asking brought about, if any.
#[derive(Debug)]
#[must_use = "a dropped permit is a neutral outcome"]
pub struct Admission<T> {
    /// Whether it may pass.
    pub decision: Decision<T>,
    /// What changed because time had passed; the caller logs and counts it.
    pub transition: Option<Transition>,
}

/// Whether a request may pass.
#[derive(Debug)]
pub enum Decision<T> {
    /// It may, and holds this until it ends.
    Admitted(T),
    /// It may not.
    Refused(Refusal),
}

/// Why a request may not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The breaker's own state.
    pub state: BreakerState,
    /// When asking again may help; an upper bound while half-open, and while traffic comes back.
    pub retry_after: Duration,
    /// Set when a person's override refused, not the state.
    pub forced: Option<ForcedState>,
    /// Whether it is closed, and lets only a growing share pass since it has just recovered.
    pub ramping: bool,
}

/// A person's word over the breaker's own, in monotonic time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Force {
    /// What it is forced to.
    pub state: ForcedState,
    /// From then on the breaker decides by itself again.
    pub until: Instant,
}

/// An admitted request, to be given back to [`super::Breaker::settle`] or [`super::Breaker::release`].
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a probe's slot stays taken until its lease ends"]
pub struct Ticket {
    /// The breaker's epoch at admission: in a later one this request decides nothing.
    pub(super) epoch: u64,
    /// What the request is to the breaker.
    pub(super) kind: TicketKind,
}

/// What an admitted request is to the breaker.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum TicketKind {
    /// Counted while closed.
    Counted,
    /// A probe, by its number.
    Probe(u64),
    /// Passed under an override: counts for nothing.
    Untracked,
}

impl Ended {
    /// Ended like this, `took` after its admission.
    #[must_use]
    pub fn after(took: Duration, outcome: Outcome) -> Self {
        Self { outcome, took, retry_after: None }
    }
}

/// Ended like this, in no time.
impl From<Outcome> for Ended {
    fn from(outcome: Outcome) -> Self {
        Self::after(Duration::ZERO, outcome)
    }
}

impl Ticket {
    /// Whether this request is a probe of a half-open breaker.
    #[must_use]
    pub fn is_probe(&self) -> bool {
        matches!(self.kind, TicketKind::Probe(_))
    }
}

impl<T> Admission<T> {
    /// The same answer with something else for the admitted request to hold.
    pub(super) fn map<U>(self, wrap: impl FnOnce(T) -> U) -> Admission<U> {
        let Self { decision, transition } = self;
        let decision = match decision {
            Decision::Admitted(held) => Decision::Admitted(wrap(held)),
            Decision::Refused(refusal) => Decision::Refused(refusal),
        };
        Admission { decision, transition }
    }
}
