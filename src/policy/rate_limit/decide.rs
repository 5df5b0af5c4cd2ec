//! Several limits on one request: all are asked first, and only where all let it pass it is spent.
//!
//! It must not know why a limit concerns a request. A refused client must not drain what it shares with others, so that what
//! was reserved before another limit refused is given back.

use std::time::{Duration, Instant};

use smallvec::SmallVec;

use super::buckets::{Buckets, Reservation};
use super::digest::KeyId;
use super::verdict::{Ask, Outcome, Refusal, Verdict};

/// Limits that concern one request, as a rule: for no more of them, no memory is taken.
const USUAL: usize = 2;

/// What each limit said of a request, in the order of the demands.
pub type Verdicts = SmallVec<[Verdict; USUAL]>;

/// What each limit was spent from by a request, in the order of the demands.
pub type Reservations = SmallVec<[Option<Reservation>; USUAL]>;

/// What one request asks of one limit.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// The buckets of the rule that matched.
    pub buckets: &'a Buckets,
    /// Whose bucket.
    pub key: KeyId,
    /// What it asks.
    pub ask: Ask,
}

/// What became of one request.
#[derive(Debug)]
#[must_use = "it says whether the request passes"]
pub struct Decision {
    /// Whether it passes: delayed by the longest wait of all, refused until all that refuse it would let it pass.
    pub outcome: Outcome,
    /// The limit, as a number of a demand, that the outcome comes from, where it is not allowed at once.
    pub decisive: Option<usize>,
    /// What each limit said, in the order of the demands.
    pub verdicts: Verdicts,
    /// What each limit was spent from; nothing where the request is refused.
    reservations: Reservations,
}

/// Asks all limits, and spends from all where none refuses.
pub fn decide(demands: &[Demand<'_>], now: Instant) -> Decision {
    let (mut verdicts, mut reservations) = (Verdicts::new(), Reservations::new());
    let mut refused = false;
    for Demand { buckets, key, ask } in demands {
        let (verdict, reservation) =
            if refused { (buckets.check(*key, ask, now), None) } else { buckets.reserve(*key, ask, now) };
        refused |= verdict.is_refused();
        verdicts.push(verdict);
        reservations.push(reservation);
    }
    if refused {
        undo(demands, &mut verdicts, &mut reservations);
    }
    let (outcome, decisive) = overall(&verdicts);
    Decision { outcome, decisive, verdicts, reservations }
}

impl Decision {
    /// The limits that refuse it, as numbers of demands.
    pub fn refusing(&self) -> impl Iterator<Item = usize> {
        self.verdicts.iter().enumerate().filter(|(_, verdict)| verdict.is_refused()).map(|(number, _)| number)
    }

    /// What it spent, to be kept where it may have to be given back.
    pub fn reservation(&self, demand: usize) -> Option<&Reservation> {
        self.reservations.get(demand)?.as_ref()
    }

    /// Gives back all that it spent: a limit elsewhere refused it, or its client left while it waited.
    pub fn give_back(self, demands: &[Demand<'_>]) {
        for (demand, reservation) in demands.iter().zip(self.reservations) {
            if let Some(reservation) = reservation {
                demand.buckets.give_back(reservation);
            }
        }
    }

    /// Spends what it reserved while it waited: its turn has come.
    pub fn settle(self, demands: &[Demand<'_>], now: Instant) {
        for (demand, reservation) in demands.iter().zip(self.reservations) {
            if let Some(reservation) = reservation {
                demand.buckets.settle(reservation, now);
            }
        }
    }

    /// What it spent, in the order of the demands. That of a limit for which it waits is spent by [`Buckets::settle`] only.
    pub fn into_reservations(self) -> Reservations {
        self.reservations
    }
}

fn undo(demands: &[Demand<'_>], verdicts: &mut [Verdict], reservations: &mut [Option<Reservation>]) {
    for ((demand, verdict), reservation) in demands.iter().zip(verdicts).zip(reservations) {
        if let Some(reservation) = reservation.take() {
            demand.buckets.give_back(reservation);
            *verdict = verdict.given_back(&demand.ask);
        }
    }
}

/// The outcome that holds for all, with the limit it comes from.
fn overall(verdicts: &[Verdict]) -> (Outcome, Option<usize>) {
    let mut overall = (Outcome::Allowed, None);
    for (number, verdict) in verdicts.iter().enumerate() {
        if weight(&verdict.outcome) > weight(&overall.0) {
            overall = (verdict.outcome, Some(number));
        }
    }
    overall
}

/// Orders outcomes: what refuses longer counts for more, and never is the longest.
fn weight(outcome: &Outcome) -> (u8, Duration) {
    match *outcome {
        Outcome::Allowed => (0, Duration::ZERO),
        Outcome::Delayed { wait } => (1, wait),
        Outcome::Refused { refusal: Refusal::OverLimit | Refusal::BlockBegins | Refusal::Blocked, retry_after } => {
            (2, retry_after.unwrap_or(Duration::MAX))
        }
    }
}
