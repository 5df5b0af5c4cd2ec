//! The reference model: a breaker written in the most obvious way, to hold the engine against.
//!
//! It keeps a list of everything that ever happened and works each answer out from that list, with
//! times as plain milliseconds. It shares no code with the engine, or both could be wrong alike.

use super::super::{Outcome, TransitionReason};
use crate::config::{BreakerParameters, ForcedState, RateWindow};
use crate::report::BreakerState::{self, Closed, HalfOpen, Open};

/// Something that happened, and when.
#[derive(Clone, Copy, Debug)]
struct Entry {
    at_ms: u64,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum What {
    /// The breaker was made.
    Began,
    /// The process ended, and the breaker was restored in another.
    Restarted,
    Entered(BreakerState, TransitionReason),
    Forced,
    ProbeAdmitted(u64),
    ProbeGone(u64),
    /// An outcome that counted; true is a failure.
    Counted(bool),
    Refused,
}

/// An admitted request: when in the list it was admitted, and what it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct ModelTicket {
    index: usize,
    untracked: bool,
    pub(super) probe: Option<u64>,
}

/// A refusal: the state, how long to wait, and by which force.
pub(super) type ModelRefusal = (BreakerState, u64, Option<ForcedState>);

/// What the model shows of itself.
#[derive(Debug, PartialEq)]
pub(super) struct ModelStatistics {
    pub(super) state: BreakerState,
    pub(super) forced: Option<ForcedState>,
    pub(super) since_ms: u64,
    pub(super) reason: Option<TransitionReason>,
    pub(super) failures: u64,
    pub(super) requests: u64,
    pub(super) trips: u64,
    pub(super) last_trip_ms: Option<u64>,
    pub(super) rejected: u64,
    pub(super) probes_in_flight: u64,
    pub(super) next_probe_ms: Option<u64>,
}

/// The model.
pub(super) struct Model {
    parameters: BreakerParameters,
    log: Vec<Entry>,
    latest_ms: u64,
    force: Option<(ForcedState, u64)>,
    /// Probes in flight: number, place in the list, when the lease ends.
    probes: Vec<(u64, usize, u64)>,
    probes_ever: u64,
    /// When the open time ends; the model can't know jitter, and is told.
    pub(super) open_until_ms: u64,
}

impl Model {
    pub(super) fn new(parameters: BreakerParameters) -> Self {
        let log = vec![Entry { at_ms: 0, what: What::Began }];
        Self { parameters, log, latest_ms: 0, force: None, probes: vec![], probes_ever: 0, open_until_ms: 0 }
    }

    pub(super) fn advance(&mut self, now_ms: u64) -> Option<TransitionReason> {
        self.latest_ms = self.latest_ms.max(now_ms);
        let now = self.latest_ms;
        if self.force.is_some_and(|(_, until)| now >= until) {
            self.force = None;
        }
        let over: Vec<_> = self.probes.iter().copied().filter(|(_, _, lease_end)| *lease_end <= now).collect();
        self.probes.retain(|(_, _, lease_end)| *lease_end > now);
        let decisive = over.iter().any(|(_, index, _)| !self.is_straggler(*index));
        over.iter().for_each(|(number, _, _)| self.happened(What::ProbeGone(*number)));
        if self.force.is_some() {
            return None;
        }
        let undecided =
            self.undecided_since().is_some_and(|since| now - since >= self.parameters.half_open.max_duration_ms);
        match self.state() {
            Open if now >= self.open_until_ms => Some(self.enter(TransitionReason::OpenElapsed)),
            HalfOpen if decisive => Some(self.enter(TransitionReason::ProbeTimeout)),
            HalfOpen if undecided => Some(self.enter(TransitionReason::HalfOpenTimeout)),
            _ => None,
        }
    }

    /// Right after [`Model::advance`].
    pub(super) fn admit(&mut self) -> Result<ModelTicket, ModelRefusal> {
        let now = self.latest_ms;
        let ticket = ModelTicket { index: self.log.len(), untracked: false, probe: None };
        match (self.force, self.state()) {
            (Some((ForcedState::ForcedClosed, _)), _) => Ok(ModelTicket { untracked: true, ..ticket }),
            (Some((ForcedState::ForcedOpen, until)), _) => Err(self.refuse(until - now)),
            (None, Closed) => Ok(ticket),
            (None, Open) => Err(self.refuse(self.open_until_ms - now)),
            (None, HalfOpen) if self.probes.len() >= self.parameters.half_open.max_probes as usize => {
                let first_end = self.probes.iter().map(|(_, _, lease_end)| *lease_end).min().unwrap();
                Err(self.refuse(first_end - now))
            }
            (None, HalfOpen) => {
                self.probes_ever += 1;
                self.probes.push((self.probes_ever, ticket.index, now + self.parameters.half_open.probe_timeout_ms));
                self.happened(What::ProbeAdmitted(self.probes_ever));
                Ok(ModelTicket { probe: Some(self.probes_ever), ..ticket })
            }
        }
    }

    pub(super) fn release(&mut self, ticket: ModelTicket) {
        if let Some(index) = self.probes.iter().position(|(number, _, _)| Some(*number) == ticket.probe) {
            let (number, _, _) = self.probes.remove(index);
            self.happened(What::ProbeGone(number));
        }
    }

    /// Right after [`Model::advance`].
    pub(super) fn settle(&mut self, ticket: ModelTicket, outcome: Outcome) -> Option<TransitionReason> {
        self.release(ticket);
        if ticket.untracked || self.is_straggler(ticket.index) || outcome == Outcome::Neutral {
            return None;
        }
        self.happened(What::Counted(outcome == Outcome::Failure));
        self.verdict(outcome).map(|reason| self.enter(reason))
    }

    pub(super) fn force(&mut self, force: Option<(ForcedState, u64)>, now_ms: u64) {
        self.latest_ms = self.latest_ms.max(now_ms);
        let in_force = |force: &(ForcedState, u64)| force.1 > self.latest_ms;
        let (before, after) = (self.force.filter(in_force), force.filter(in_force));
        self.force = after;
        if before.is_none() && after.is_some() {
            self.happened(What::Forced);
        }
    }

    /// An open time that was over when the snapshot was taken ended then, as far as anybody knows later.
    pub(super) fn restart(&mut self, taken_ms: u64, now_ms: u64) {
        self.open_until_ms = self.open_until_ms.max(taken_ms.max(self.latest_ms));
        self.latest_ms = self.latest_ms.max(now_ms);
        self.force = None;
        self.probes.clear();
        self.happened(What::Restarted);
    }

    pub(super) fn statistics(&self, now_ms: u64) -> ModelStatistics {
        let now = self.latest_ms.max(now_ms);
        let state = self.state();
        let shown_at = if state == Open { self.last_outcome_ms() } else { now };
        let outcomes = self.outcomes_in(self.observed_window_ms(), shown_at);
        let trip = |entry: &&Entry| matches!(entry.what, What::Entered(Open, reason) if is_trip(reason));
        let in_process = self.log.iter().rposition(|entry| entry.what == What::Restarted).unwrap_or(0);
        let entered =
            self.log.iter().rev().find(|entry| matches!(entry.what, What::Entered(..) | What::Began)).unwrap();
        ModelStatistics {
            state,
            forced: self.force.filter(|(_, until)| now < *until).map(|(state, _)| state),
            since_ms: entered.at_ms,
            reason: match entered.what {
                What::Entered(_, reason) => Some(reason),
                _ => None,
            },
            failures: outcomes.iter().filter(|failed| **failed).count() as u64,
            requests: outcomes.len() as u64,
            trips: self.log[in_process..].iter().filter(trip).count() as u64,
            last_trip_ms: self.log.iter().rev().find(trip).map(|entry| entry.at_ms),
            rejected: self.log[in_process..].iter().filter(|entry| entry.what == What::Refused).count() as u64,
            probes_in_flight: self.probes.iter().filter(|(_, _, lease_end)| *lease_end > now).count() as u64,
            next_probe_ms: (state == Open).then_some(self.open_until_ms),
        }
    }

    /// The open time without jitter, for the open entered last.
    pub(super) fn open_time_ms(&self) -> u64 {
        let mut failed = 0;
        for entry in &self.log {
            match entry.what {
                What::Entered(Closed, _) => failed = 0,
                What::Entered(Open, reason) if !is_trip(reason) => failed += 1,
                _ => {}
            }
        }
        let doubled = (0..failed).fold(u128::from(self.parameters.open.base_duration_ms), |time, _: u32| {
            (time * 2).min(u128::from(u64::MAX))
        });
        u64::try_from(doubled).unwrap().min(self.parameters.open.max_duration_ms)
    }

    fn happened(&mut self, what: What) {
        self.log.push(Entry { at_ms: self.latest_ms, what });
    }

    fn refuse(&mut self, wait_ms: u64) -> ModelRefusal {
        self.happened(What::Refused);
        (self.state(), wait_ms, self.force.map(|(state, _)| state))
    }

    fn enter(&mut self, reason: TransitionReason) -> TransitionReason {
        let state = match reason {
            TransitionReason::OpenElapsed => HalfOpen,
            TransitionReason::ProbesSucceeded => Closed,
            _ => Open,
        };
        self.happened(What::Entered(state, reason));
        reason
    }

    fn state(&self) -> BreakerState {
        let entered = self.log.iter().rev().find_map(|entry| match entry.what {
            What::Entered(state, _) => Some(state),
            _ => None,
        });
        entered.unwrap_or(Closed)
    }

    fn is_straggler(&self, admitted: usize) -> bool {
        self.log[admitted..].iter().any(|entry| matches!(entry.what, What::Entered(..) | What::Forced))
    }

    /// What happened since the counters were last reset; while open, still what led to it.
    fn phase(&self) -> &[Entry] {
        let reset = |entry: &Entry| matches!(entry.what, What::Began | What::Entered(Closed | HalfOpen, _));
        &self.log[self.log.iter().rposition(reset).unwrap()..]
    }

    fn outcomes(&self) -> impl DoubleEndedIterator<Item = (u64, bool)> {
        self.phase().iter().filter_map(|entry| match entry.what {
            What::Counted(failed) => Some((entry.at_ms, failed)),
            _ => None,
        })
    }

    fn last_outcome_ms(&self) -> u64 {
        self.outcomes().next_back().map_or(0, |(at_ms, _)| at_ms)
    }

    /// Which outcomes of this phase are in a window at a time.
    fn outcomes_in(&self, window_ms: u64, now_ms: u64) -> Vec<bool> {
        let start = self.phase()[0].at_ms;
        let bucket = |at_ms: u64| (at_ms - start) / (window_ms / 10);
        let inside = |at_ms: u64| bucket(at_ms) + 10 > bucket(now_ms);
        self.outcomes().filter(|(at_ms, _)| inside(*at_ms)).map(|(_, failed)| failed).collect()
    }

    fn observed_window_ms(&self) -> u64 {
        let trip = &self.parameters.trip;
        let rate = trip.failure_rate.as_ref().map(|rule| time_ms(rule.window));
        rate.or(trip.failures.as_ref().map(|rule| rule.window_ms)).unwrap_or(10_000)
    }

    fn verdict(&self, outcome: Outcome) -> Option<TransitionReason> {
        match (self.state(), outcome) {
            (Closed, _) => self.tripped(),
            (HalfOpen, Outcome::Failure) => Some(TransitionReason::ProbeFailed),
            (HalfOpen, _) if self.outcomes().count() >= self.parameters.half_open.success_threshold as usize => {
                Some(TransitionReason::ProbesSucceeded)
            }
            _ => None,
        }
    }

    fn tripped(&self) -> Option<TransitionReason> {
        let trip = &self.parameters.trip;
        let in_a_row = self.outcomes().rev().take_while(|(_, failed)| *failed).count();
        if trip.consecutive_failures.is_some_and(|most| in_a_row >= most as usize) {
            return Some(TransitionReason::ConsecutiveFailures);
        }
        if let Some(rule) = &trip.failures {
            let failures =
                self.outcomes_in(rule.window_ms, self.latest_ms).into_iter().filter(|failed| *failed).count();
            if failures >= rule.count as usize {
                return Some(TransitionReason::FailureCount);
            }
        }
        let rule = trip.failure_rate.as_ref()?;
        let outcomes = self.outcomes_in(time_ms(rule.window), self.latest_ms);
        let failures = outcomes.iter().filter(|failed| **failed).count();
        let met = outcomes.len() >= rule.min_requests as usize
            && failures as f64 * 100.0 >= outcomes.len() as f64 * f64::from(rule.percent);
        met.then_some(TransitionReason::FailureRate)
    }

    /// Since when a probe owes an answer: the first one admitted, after the last success if there was
    /// one; that success itself if others were in flight then.
    fn undecided_since(&self) -> Option<u64> {
        if self.state() != HalfOpen {
            return None;
        }
        let entered = self.log.len() - self.phase().len();
        let cut = self.log.iter().rposition(|entry| matches!(entry.what, What::Forced | What::Restarted));
        let (mut in_flight, mut since) = (Vec::new(), None);
        for entry in &self.log[entered.max(cut.unwrap_or(0))..] {
            match entry.what {
                What::ProbeAdmitted(number) => {
                    in_flight.push(number);
                    since = since.or(Some(entry.at_ms));
                }
                What::ProbeGone(number) => in_flight.retain(|other| *other != number),
                What::Counted(_) => since = (!in_flight.is_empty()).then_some(entry.at_ms),
                _ => {}
            }
        }
        since
    }
}

fn time_ms(window: RateWindow) -> u64 {
    match window {
        RateWindow::Time(window_ms) => window_ms,
        RateWindow::Calls(_) => panic!("not modelled"),
    }
}

fn is_trip(reason: TransitionReason) -> bool {
    use TransitionReason::{ConsecutiveFailures, FailureCount, FailureRate};
    matches!(reason, ConsecutiveFailures | FailureCount | FailureRate)
}
