//! The breaker's state machine: one value, told the time, that returns what changed.
//!
//! It must not lock, read a clock or count for others; `SharedBreaker` makes it usable from many
//! threads. Time alone changes nothing: whatever is due is done by the next call, so that there is
//! no timer to lose, and [`Breaker::advance`] is that call for a breaker nobody asks.

use std::time::{Duration, Instant};

use crate::config::ForcedState;
use crate::report::BreakerState;

use super::admission::{Admission, Decision, Force, Outcome, Refusal, Ticket, TicketKind};
use super::probes::Probes;
use super::random::Random;
use super::settings::Settings;
use super::statistics::Statistics;
use super::transition::{Transition, TransitionCounts, TransitionReason};
use super::window::{Totals, Window};

/// One circuit breaker.
#[derive(Clone, Debug)]
pub struct Breaker {
    pub(super) settings: Settings,
    pub(super) state: State,
    /// When it entered `state`, and why.
    pub(super) since: Instant,
    pub(super) reason: Option<TransitionReason>,
    /// Grows with every transition and every force: requests of an earlier epoch decide nothing.
    pub(super) epoch: u64,
    /// The latest time it was told; an earlier one is taken for it, since threads' clocks readings may cross.
    pub(super) latest: Instant,
    pub(super) force: Option<Force>,
    pub(super) probes: Probes,
    /// The outcomes that are shown, and that the failure rate is decided on.
    pub(super) observed: Window,
    /// The outcomes that the failure count is decided on; none without that rule.
    pub(super) counted: Option<Window>,
    /// Failed half-opens in a row.
    pub(super) failed_half_opens: u32,
    pub(super) last_trip: Option<Instant>,
    random: Random,
    rejected: u64,
    transitions: TransitionCounts,
}

/// The state and what only it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Everything passes.
    Closed {
        /// Failures since the last success.
        consecutive_failures: u32,
    },
    /// Nothing passes.
    Open {
        /// When the first probe may.
        until: Instant,
    },
    /// Probes pass.
    HalfOpen {
        /// Probes that succeeded.
        successes: u32,
        /// Since when a probe owes an answer: from the first one admitted after the last success. An
        /// idle half-open owes none and may stay for ever.
        undecided_since: Option<Instant>,
    },
}

impl Breaker {
    /// A closed breaker. `seed` decides its jitter.
    #[must_use]
    pub fn new(settings: Settings, seed: u64, now: Instant) -> Self {
        let observed = Window::new(settings.observed_window(), now);
        let counted = settings.failure_count.map(|rule| Window::new(rule.window, now));
        Self {
            settings,
            state: State::Closed { consecutive_failures: 0 },
            since: now,
            reason: None,
            epoch: 0,
            latest: now,
            force: None,
            probes: Probes::default(),
            observed,
            counted,
            failed_half_opens: 0,
            last_trip: None,
            random: Random::new(seed),
            rejected: 0,
            transitions: TransitionCounts::default(),
        }
    }

    /// Asks for one request to pass.
    pub fn admit(&mut self, now: Instant) -> Admission<Ticket> {
        let transition = self.advance(now);
        let decision = match (self.force, self.state) {
            (Some(Force { state: ForcedState::ForcedClosed, .. }), _) => self.pass(TicketKind::Untracked),
            (Some(Force { state: ForcedState::ForcedOpen, until }), _) => self.refuse(until),
            (None, State::Closed { .. }) => self.pass(TicketKind::Counted),
            (None, State::Open { until }) => self.refuse(until),
            (None, State::HalfOpen { successes, undecided_since }) => self.probe(successes, undecided_since),
        };
        Admission { decision, transition }
    }

    /// Takes the end of an admitted request. A probe whose lease is over counts as failed, whatever it says.
    pub fn settle(&mut self, ticket: Ticket, outcome: Outcome, now: Instant) -> Option<Transition> {
        let due = self.advance(now);
        let Ticket { epoch, kind } = ticket;
        self.give_back(&kind);
        // A transition just now began a new epoch, so this request is a straggler then too.
        if epoch != self.epoch || kind == TicketKind::Untracked {
            return due;
        }
        match outcome {
            Outcome::Success => self.record_success(),
            Outcome::Failure => self.record_failure(),
            Outcome::Neutral => None,
        }
    }

    /// Takes back an admitted request of which nothing is known: [`Outcome::Neutral`] without a time.
    pub fn release(&mut self, ticket: Ticket) {
        let Ticket { epoch: _, kind } = ticket;
        self.give_back(&kind);
    }

    /// Does what is due: ends a force, an open time, probes' leases, a half-open without an answer.
    /// At most one transition is ever due, since none makes another due at the same time.
    pub fn advance(&mut self, now: Instant) -> Option<Transition> {
        self.latest = self.latest.max(now);
        if self.force.is_none() && self.probes.is_empty() && matches!(self.state, State::Closed { .. }) {
            return None; // Nothing is ever due then, and nearly every request comes through here.
        }
        self.step_over_time()
    }

    fn step_over_time(&mut self) -> Option<Transition> {
        let now = self.latest;
        self.force = self.force.filter(|force| now < force.until);
        let timed_out = self.probes.expire(now, self.epoch);
        if self.force.is_some() {
            return None;
        }
        let reason = match self.state {
            State::Closed { .. } => None,
            State::Open { until } => (now >= until).then_some(TransitionReason::OpenElapsed),
            State::HalfOpen { .. } if timed_out > 0 => Some(TransitionReason::ProbeTimeout),
            State::HalfOpen { undecided_since, .. } => {
                let undecided = undecided_since.map(|since| now.saturating_duration_since(since));
                undecided
                    .is_some_and(|undecided| undecided >= self.settings.half_open.max_duration)
                    .then_some(TransitionReason::HalfOpenTimeout)
            }
        };
        reason.map(|reason| self.enter(reason))
    }

    /// Sets or clears a person's word. Its own state stays as it is meanwhile, and requests under way
    /// when the force begins decide nothing. A force that is over already changes nothing.
    pub fn force(&mut self, force: Option<Force>, now: Instant) {
        self.latest = self.latest.max(now);
        self.force = force.filter(|force| self.latest < force.until);
        if self.force.is_some() {
            self.epoch += 1;
            if let State::HalfOpen { undecided_since, .. } = &mut self.state {
                *undecided_since = None;
            }
        }
    }

    /// Shows it as it is at `now`, without a step.
    #[must_use]
    pub fn statistics(&self, now: Instant) -> Statistics {
        let now = self.latest.max(now);
        let (totals, next_probe) = match self.state {
            State::Open { until } => (self.observed.last_totals(), Some(until)),
            State::Closed { .. } | State::HalfOpen { .. } => (self.observed.totals_at(now), None),
        };
        Statistics {
            state: self.state.name(),
            forced: self.force.filter(|force| now < force.until).map(|force| force.state),
            since: self.since,
            reason: self.reason,
            failure_ratio: totals.failure_ratio(),
            requests: totals.requests,
            trips: self.transitions.closed_to_open,
            last_trip: self.last_trip,
            rejected: self.rejected,
            probes_in_flight: self.probes.in_flight(now),
            next_probe,
            transitions: self.transitions,
        }
    }

    /// Its own state.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        self.state.name()
    }

    /// The epoch in which every request passes and is counted; none if requests must ask.
    pub(super) fn passing_epoch(&self) -> Option<u64> {
        let passing = self.force.is_none() && matches!(self.state, State::Closed { .. });
        passing.then_some(self.epoch)
    }

    /// Whether one more success while closed could change no decision.
    pub(super) fn is_clean(&self) -> bool {
        matches!(self.state, State::Closed { consecutive_failures: 0 }) && !self.settings.has_window()
    }

    /// Shows `count` successes that came while it was clean, and so decided nothing.
    pub(super) fn observe_successes(&mut self, count: u64, now: Instant) {
        self.latest = self.latest.max(now);
        if matches!(self.state, State::Closed { .. }) {
            self.observed.record(Totals { failures: 0, requests: count }, self.latest);
        }
    }

    fn pass(&self, kind: TicketKind) -> Decision<Ticket> {
        Decision::Admitted(Ticket { epoch: self.epoch, kind })
    }

    fn refuse(&mut self, until: Instant) -> Decision<Ticket> {
        self.rejected += 1;
        Decision::Refused(Refusal {
            state: self.state.name(),
            retry_after: until.saturating_duration_since(self.latest),
            forced: self.force.map(|force| force.state),
        })
    }

    fn probe(&mut self, successes: u32, undecided_since: Option<Instant>) -> Decision<Ticket> {
        if self.probes.len() >= self.settings.half_open.max_probes {
            return self.refuse(self.probes.next_lease_end().unwrap_or(self.latest));
        }
        self.state = State::HalfOpen { successes, undecided_since: undecided_since.or(Some(self.latest)) };
        let lease_end = later(self.latest, self.settings.half_open.probe_timeout);
        let id = self.probes.take(self.epoch, lease_end);
        self.pass(TicketKind::Probe(id))
    }

    fn give_back(&mut self, kind: &TicketKind) {
        if let TicketKind::Probe(id) = kind {
            self.probes.release(*id);
        }
    }

    fn record_success(&mut self) -> Option<Transition> {
        self.record(Totals::SUCCESS);
        match &mut self.state {
            State::Closed { consecutive_failures } => {
                *consecutive_failures = 0;
                self.tripped(0)
            }
            State::Open { .. } => None,
            State::HalfOpen { successes, undecided_since } => {
                *successes += 1;
                *undecided_since = self.probes.has(self.epoch).then_some(self.latest);
                let enough = *successes >= self.settings.half_open.success_threshold;
                enough.then(|| self.enter(TransitionReason::ProbesSucceeded))
            }
        }
    }

    fn record_failure(&mut self) -> Option<Transition> {
        self.record(Totals::FAILURE);
        match &mut self.state {
            State::Closed { consecutive_failures } => {
                *consecutive_failures = consecutive_failures.saturating_add(1);
                let consecutive_failures = *consecutive_failures;
                self.tripped(consecutive_failures)
            }
            State::Open { .. } => None,
            State::HalfOpen { .. } => Some(self.enter(TransitionReason::ProbeFailed)),
        }
    }

    fn record(&mut self, outcome: Totals) {
        self.observed.record(outcome, self.latest);
        if let Some(counted) = &mut self.counted {
            counted.record(outcome, self.latest);
        }
    }

    /// Trips if any rule says so, right after an outcome was recorded. A success may trip as well:
    /// it can be the request that makes the window large enough to judge.
    fn tripped(&mut self, consecutive_failures: u32) -> Option<Transition> {
        let Settings { consecutive_failures: most, failure_count, failure_rate, open: _, half_open: _ } =
            &self.settings;
        let reason = if most.is_some_and(|most| consecutive_failures >= most) {
            Some(TransitionReason::ConsecutiveFailures)
        } else if let (Some(rule), Some(counted)) = (failure_count, &self.counted)
            && counted.last_totals().failures >= u64::from(rule.count)
        {
            Some(TransitionReason::FailureCount)
        } else if let Some(rule) = failure_rate
            && rule.is_met(self.observed.last_totals())
        {
            Some(TransitionReason::FailureRate)
        } else {
            None
        };
        reason.map(|reason| self.enter(reason))
    }

    /// Enters the state that `reason` leads to. Counters start anew in every state that counts; open
    /// keeps what it last saw, to show it.
    fn enter(&mut self, reason: TransitionReason) -> Transition {
        let (from, to, at) = (self.state.name(), reason.leads_to(), self.latest);
        self.transitions.count(from, reason);
        self.state = match to {
            BreakerState::Closed => State::Closed { consecutive_failures: 0 },
            BreakerState::HalfOpen => State::HalfOpen { successes: 0, undecided_since: None },
            BreakerState::Open => self.open(from),
        };
        match to {
            BreakerState::Open => {}
            BreakerState::HalfOpen => self.reset_windows(),
            BreakerState::Closed => {
                self.failed_half_opens = 0;
                self.reset_windows();
            }
        }
        (self.since, self.reason) = (at, Some(reason));
        self.epoch += 1;
        Transition { from, to, reason, at, epoch: self.epoch }
    }

    fn open(&mut self, from: BreakerState) -> State {
        match from {
            BreakerState::HalfOpen => self.failed_half_opens = self.failed_half_opens.saturating_add(1),
            BreakerState::Closed | BreakerState::Open => self.last_trip = Some(self.latest),
        }
        let open_time = self.settings.open.without_jitter(self.failed_half_opens);
        let jitter = self.random.up_to(self.settings.open.most_jitter(open_time));
        State::Open { until: later(self.latest, open_time + jitter) }
    }

    fn reset_windows(&mut self) {
        self.observed.reset(self.latest);
        if let Some(counted) = &mut self.counted {
            counted.reset(self.latest);
        }
    }
}

impl State {
    /// The state's name, as reports and metrics know it.
    pub(super) fn name(self) -> BreakerState {
        match self {
            Self::Closed { .. } => BreakerState::Closed,
            Self::Open { .. } => BreakerState::Open,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }
}

/// `now` plus a bounded duration, which no clock that is still running can overflow on.
fn later(now: Instant, duration: Duration) -> Instant {
    now.checked_add(duration).unwrap_or(now)
}
