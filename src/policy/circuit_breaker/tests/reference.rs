//! The reference model: a breaker written in the most obvious way, to hold the engine against.
//!
//! It keeps a list of everything that ever happened and works each answer out from that list, with
//! times as plain milliseconds. It shares no code with the engine, or both could be wrong alike.

use super::super::{Ended, Outcome, TransitionReason};
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
    Counted(Call),
    /// A request asked for its share of a recovery's ramp.
    Ramped,
    Refused,
}

/// An outcome that counted.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Call {
    failed: bool,
    slow: bool,
}

/// An admitted request: when in the list it was admitted, and what it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct ModelTicket {
    index: usize,
    untracked: bool,
    pub(super) probe: Option<u64>,
}

/// A refusal: the state, how long to wait, by which force, and whether traffic is only coming back.
pub(super) type ModelRefusal = (BreakerState, u64, Option<ForcedState>, bool);

/// What the model shows of itself.
#[derive(Debug, PartialEq)]
pub(super) struct ModelStatistics {
    pub(super) state: BreakerState,
    pub(super) forced: Option<ForcedState>,
    pub(super) since_ms: u64,
    pub(super) reason: Option<TransitionReason>,
    pub(super) failures: u64,
    pub(super) requests: u64,
    pub(super) slow_ratio: Option<f64>,
    pub(super) idle: bool,
    pub(super) ramp_end_ms: Option<u64>,
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
    /// What the failure that opened it last asked for.
    retry_after_ms: u64,
    /// When the open time ends; the model can't know jitter, and is told.
    pub(super) open_until_ms: u64,
}

impl Model {
    pub(super) fn new(parameters: BreakerParameters) -> Self {
        let log = vec![Entry { at_ms: 0, what: What::Began }];
        let (probes, probes_ever, retry_after_ms) = (vec![], 0, 0);
        Self { parameters, log, latest_ms: 0, force: None, probes, probes_ever, retry_after_ms, open_until_ms: 0 }
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
        self.retry_after_ms = 0;
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
            (None, Closed) => match self.ramp_end_ms(now) {
                Some(end_ms) if !self.ramp_passes() => Err(self.refuse(end_ms - now)),
                // Asking for a share of the ramp is in the list as well, and does not make a straggler.
                Some(_) | None => Ok(ticket),
            },
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
    pub(super) fn settle(&mut self, ticket: ModelTicket, ended: Ended) -> Option<TransitionReason> {
        self.release(ticket);
        if ticket.untracked || self.is_straggler(ticket.index) || ended.outcome == Outcome::Neutral {
            return None;
        }
        let failed = ended.outcome == Outcome::Failure;
        let slower_than_ms = self.parameters.trip.slow_call_rate.as_ref().map(|rule| rule.slower_than_ms);
        let slow = slower_than_ms.is_some_and(|limit_ms| ended.took.as_millis() >= u128::from(limit_ms));
        self.happened(What::Counted(Call { failed, slow }));
        let told = ended.retry_after.filter(|_| failed && self.parameters.open.honor_retry_after);
        self.retry_after_ms = told.map_or(0, |told| u64::try_from(told.as_millis()).unwrap());
        self.verdict(failed, slow).map(|reason| self.enter(reason))
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
        let calls = self.calls_in(self.shown_window(), shown_at);
        let timed = self.parameters.trip.slow_call_rate.as_ref().map(|rule| self.calls_in(rule.window, shown_at));
        let slow_ratio = timed.filter(|calls| !calls.is_empty());
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
            failures: calls.iter().filter(|call| call.failed).count() as u64,
            requests: calls.len() as u64,
            slow_ratio: slow_ratio.map(|calls| count(&calls, |call| call.slow) / calls.len() as f64),
            idle: state == HalfOpen && self.undecided_since().is_none(),
            ramp_end_ms: self.ramp_end_ms(now),
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
        u64::try_from(doubled).unwrap().max(self.retry_after_ms).min(self.parameters.open.max_duration_ms)
    }

    /// When the ramp under way at a time ends.
    fn ramp_end_ms(&self, now_ms: u64) -> Option<u64> {
        let entered = self.log.iter().rev().find(|entry| matches!(entry.what, What::Entered(..)))?;
        let end_ms = entered.at_ms + self.parameters.recovery.ramp_ms;
        (matches!(entered.what, What::Entered(Closed, _)) && now_ms < end_ms).then_some(end_ms)
    }

    /// Whether a request that asks now makes the shares of all that asked reach one more whole request.
    fn ramp_passes(&mut self) -> bool {
        self.happened(What::Ramped);
        let ramp_ms = self.parameters.recovery.ramp_ms;
        let began_ms = self.phase()[0].at_ms;
        let shares: Vec<u64> = self
            .phase()
            .iter()
            .filter(|entry| entry.what == What::Ramped)
            .map(|entry| ramp_ms + 9 * (entry.at_ms - began_ms))
            .collect();
        let whole = |count: usize| (9 * ramp_ms + shares[..count].iter().sum::<u64>()) / (10 * ramp_ms);
        whole(shares.len()) > whole(shares.len() - 1)
    }

    fn happened(&mut self, what: What) {
        self.log.push(Entry { at_ms: self.latest_ms, what });
    }

    fn refuse(&mut self, wait_ms: u64) -> ModelRefusal {
        self.happened(What::Refused);
        let forced = self.force.map(|(state, _)| state);
        (self.state(), wait_ms, forced, forced.is_none() && self.state() == Closed)
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

    fn calls(&self) -> impl DoubleEndedIterator<Item = (u64, Call)> {
        self.phase().iter().filter_map(|entry| match entry.what {
            What::Counted(call) => Some((entry.at_ms, call)),
            _ => None,
        })
    }

    fn last_outcome_ms(&self) -> u64 {
        self.calls().next_back().map_or(0, |(at_ms, _)| at_ms)
    }

    /// Which calls of this phase are in a window at a time.
    fn calls_in(&self, window: RateWindow, now_ms: u64) -> Vec<Call> {
        let start = self.phase()[0].at_ms;
        match window {
            RateWindow::Time(window_ms) => {
                let bucket = |at_ms: u64| (at_ms - start) / (window_ms / 10);
                let inside = |at_ms: u64| bucket(at_ms) + 10 > bucket(now_ms);
                self.calls().filter(|(at_ms, _)| inside(*at_ms)).map(|(_, call)| call).collect()
            }
            RateWindow::Calls(most) => self.calls().rev().take(most as usize).map(|(_, call)| call).collect(),
        }
    }

    fn shown_window(&self) -> RateWindow {
        let trip = &self.parameters.trip;
        let failures = trip.failures.as_ref().map(|rule| RateWindow::Time(rule.window_ms));
        let rate = trip.failure_rate.as_ref().map(|rule| rule.window).or(failures);
        rate.or(trip.slow_call_rate.as_ref().map(|rule| rule.window)).unwrap_or(RateWindow::Time(10_000))
    }

    fn verdict(&self, failed: bool, slow: bool) -> Option<TransitionReason> {
        match (self.state(), failed, slow) {
            (Closed, _, _) => self.tripped(),
            (HalfOpen, true, _) => Some(TransitionReason::ProbeFailed),
            (HalfOpen, false, true) => Some(TransitionReason::ProbeSlow),
            (HalfOpen, false, false) => {
                let enough = self.calls().count() >= self.parameters.half_open.success_threshold as usize;
                enough.then_some(TransitionReason::ProbesSucceeded)
            }
            (Open, _, _) => None,
        }
    }

    fn tripped(&self) -> Option<TransitionReason> {
        let trip = &self.parameters.trip;
        let in_a_row = self.calls().rev().take_while(|(_, call)| call.failed).count();
        if trip.consecutive_failures.is_some_and(|most| in_a_row >= most as usize) {
            return Some(TransitionReason::ConsecutiveFailures);
        }
        if let Some(rule) = &trip.failures {
            let calls = self.calls_in(RateWindow::Time(rule.window_ms), self.latest_ms);
            if count(&calls, |call| call.failed) >= f64::from(rule.count) {
                return Some(TransitionReason::FailureCount);
            }
        }
        if let Some(rule) = &trip.failure_rate {
            let calls = self.calls_in(rule.window, self.latest_ms);
            let share = count(&calls, |call| call.failed) * 100.0 >= calls.len() as f64 * f64::from(rule.percent);
            if calls.len() >= rule.min_requests as usize && share {
                return Some(TransitionReason::FailureRate);
            }
        }
        let rule = trip.slow_call_rate.as_ref()?;
        let calls = self.calls_in(rule.window, self.latest_ms);
        let share = count(&calls, |call| call.slow) * 100.0 >= calls.len() as f64 * f64::from(rule.percent);
        (calls.len() >= rule.min_requests as usize && share).then_some(TransitionReason::SlowCallRate)
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

fn count(calls: &[Call], which: impl Fn(&Call) -> bool) -> f64 {
    calls.iter().filter(|call| which(call)).count() as f64
}

fn is_trip(reason: TransitionReason) -> bool {
    use TransitionReason::{ConsecutiveFailures, FailureCount, FailureRate, SlowCallRate};
    matches!(reason, ConsecutiveFailures | FailureCount | FailureRate | SlowCallRate)
}
