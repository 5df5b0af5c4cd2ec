//! The breaker's state machine: one value, told the time, that returns what changed.
//!
//! It must not lock, read a clock or count for others; `SharedBreaker` makes it usable from many
//! threads. Time alone changes nothing: whatever is due is done by the next call, so that there is
//! no timer to lose, and [`Breaker::advance`] is that call for a breaker nobody asks.

use std::time::{Duration, Instant};

use crate::config::ForcedState;
use crate::report::BreakerState;

use super::admission::{Admission, Decision, Ended, Force, Outcome, Refusal, Ticket, TicketKind};
use super::probes::Probes;
use super::ramp::Ramp;
use super::random::Random;
use super::settings::Settings;
use super::transition::{Transition, TransitionCounts, TransitionReason};
use super::window::{Totals, Windows};

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
    pub(super) windows: Windows,
    /// Failed half-opens in a row.
    pub(super) failed_half_opens: u32,
    pub(super) last_trip: Option<Instant>,
    random: Random,
    pub(super) rejected: u64,
    pub(super) transitions: TransitionCounts,
}

/// The state and what only it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Everything passes, or a growing share.
    Closed {
        /// Failures since the last success.
        consecutive_failures: u32,
        /// How traffic comes back, while it does.
        ramp: Option<Ramp>,
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
        let windows = Windows::new(&settings, now);
        Self {
            settings,
            state: State::Closed { consecutive_failures: 0, ramp: None },
            since: now,
            reason: None,
            epoch: 0,
            latest: now,
            force: None,
            probes: Probes::default(),
            windows,
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
            (None, State::Closed { ramp: None, .. }) => self.pass(TicketKind::Counted),
            (None, State::Closed { ramp: Some(ramp), consecutive_failures }) => self.ramp(ramp, consecutive_failures),
            (None, State::Open { until }) => self.refuse(until),
            (None, State::HalfOpen { successes, undecided_since }) => self.probe(successes, undecided_since),
        };
        Admission { decision, transition }
    }

    /// Takes the end of an admitted request. A probe whose lease is over counts as failed, whatever it says.
    pub fn settle(&mut self, ticket: Ticket, ended: impl Into<Ended>, now: Instant) -> Option<Transition> {
        let due = self.advance(now);
        let Ticket { epoch, kind } = ticket;
        self.give_back(&kind);
        // A transition just now began a new epoch, so this request is a straggler then too.
        if epoch != self.epoch || kind == TicketKind::Untracked {
            return due;
        }
        let ended = ended.into();
        let slow = self.settings.is_slow(&ended);
        match ended.outcome {
            Outcome::Success => self.record_success(slow),
            Outcome::Failure => self.record_failure(slow, ended.retry_after),
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
        if self.force.is_none() && self.probes.is_empty() && matches!(self.state, State::Closed { ramp: None, .. }) {
            return None; // Nothing is ever due then, and nearly every request comes through here.
        }
        self.step_over_time()
    }

    fn step_over_time(&mut self) -> Option<Transition> {
        let now = self.latest;
        self.force = self.force.filter(|force| now < force.until);
        let timed_out = self.probes.expire(now, self.epoch);
        if let State::Closed { ramp, .. } = &mut self.state {
            *ramp = ramp.filter(|ramp| now < ramp.end());
        }
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
        reason.map(|reason| self.enter(reason, None))
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

    /// Its own state.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        self.state.name()
    }

    /// The epoch in which every request passes and is counted; none if requests must ask.
    pub(super) fn passing_epoch(&self) -> Option<u64> {
        let passing = self.force.is_none() && matches!(self.state, State::Closed { ramp: None, .. });
        passing.then_some(self.epoch)
    }

    /// Whether no success that is not slow could change any decision, however many came before time moves
    /// a request out of a window: then nothing of one must be known but that it was.
    pub(super) fn is_clean(&self) -> bool {
        if !matches!(self.state, State::Closed { consecutive_failures: 0, ramp: None }) || self.force.is_some() {
            return false;
        }
        let Settings { failure_rate, slow_call_rate, .. } = &self.settings;
        let failing = failure_rate.is_some_and(|rule| {
            let Totals { failures, requests, slow: _ } = self.windows.of_failure_rate().last_totals();
            rule.could_be_met(failures, requests)
        });
        let slowing = slow_call_rate.is_some_and(|rule| {
            let Totals { slow, requests, failures: _ } = self.windows.of_slow_call_rate().last_totals();
            rule.rate.could_be_met(slow, requests)
        });
        !failing && !slowing
    }

    /// Counts successes that came while it was clean, and so decided nothing.
    pub(super) fn count_good(&mut self, count: u64) {
        self.windows.add_good(count);
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
            ramping: self.force.is_none() && matches!(self.state, State::Closed { .. }),
        })
    }

    fn ramp(&mut self, mut ramp: Ramp, consecutive_failures: u32) -> Decision<Ticket> {
        let passes = ramp.lets_pass(self.latest);
        self.state = State::Closed { consecutive_failures, ramp: Some(ramp) };
        if passes { self.pass(TicketKind::Counted) } else { self.refuse(ramp.end()) }
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

    fn record_success(&mut self, slow: bool) -> Option<Transition> {
        self.windows.record(Totals { failures: 0, slow: slow.into(), requests: 1 }, self.latest);
        match &mut self.state {
            State::Closed { consecutive_failures, ramp: _ } => {
                *consecutive_failures = 0;
                self.tripped(0, None)
            }
            State::Open { .. } => None,
            State::HalfOpen { .. } if slow => Some(self.enter(TransitionReason::ProbeSlow, None)),
            State::HalfOpen { successes, undecided_since } => {
                *successes += 1;
                *undecided_since = self.probes.has(self.epoch).then_some(self.latest);
                let enough = *successes >= self.settings.half_open.success_threshold;
                enough.then(|| self.enter(TransitionReason::ProbesSucceeded, None))
            }
        }
    }

    fn record_failure(&mut self, slow: bool, retry_after: Option<Duration>) -> Option<Transition> {
        self.windows.record(Totals { failures: 1, slow: slow.into(), requests: 1 }, self.latest);
        match &mut self.state {
            State::Closed { consecutive_failures, ramp: _ } => {
                *consecutive_failures = consecutive_failures.saturating_add(1);
                let consecutive_failures = *consecutive_failures;
                self.tripped(consecutive_failures, retry_after)
            }
            State::Open { .. } => None,
            State::HalfOpen { .. } => Some(self.enter(TransitionReason::ProbeFailed, retry_after)),
        }
    }

    /// Trips if any rule says so, right after an outcome was recorded. A success may trip as well:
    /// it can be slow, or the request that makes the window large enough to judge.
    fn tripped(&mut self, consecutive_failures: u32, retry_after: Option<Duration>) -> Option<Transition> {
        let Settings { consecutive_failures: most, failure_count, failure_rate, slow_call_rate, .. } = &self.settings;
        let counted = self.windows.of_failure_count().last_totals();
        let rated = self.windows.of_failure_rate().last_totals();
        let timed = self.windows.of_slow_call_rate().last_totals();
        let reason = if most.is_some_and(|most| consecutive_failures >= most) {
            TransitionReason::ConsecutiveFailures
        } else if failure_count.is_some_and(|rule| counted.failures >= u64::from(rule.count)) {
            TransitionReason::FailureCount
        } else if failure_rate.is_some_and(|rule| rule.is_met(rated.failures, rated.requests)) {
            TransitionReason::FailureRate
        } else if slow_call_rate.is_some_and(|rule| rule.rate.is_met(timed.slow, timed.requests)) {
            TransitionReason::SlowCallRate
        } else {
            return None;
        };
        Some(self.enter(reason, retry_after))
    }

    /// Enters the state that `reason` leads to, as the failure with this `retry_after` asks. Counters start
    /// anew in every state that counts; open keeps what it last saw, to show it.
    fn enter(&mut self, reason: TransitionReason, retry_after: Option<Duration>) -> Transition {
        let (from, to, at) = (self.state.name(), reason.leads_to(), self.latest);
        self.transitions.count(from, reason);
        self.state = match to {
            BreakerState::Closed => {
                State::Closed { consecutive_failures: 0, ramp: Ramp::begin(self.settings.ramp, at) }
            }
            BreakerState::HalfOpen => State::HalfOpen { successes: 0, undecided_since: None },
            BreakerState::Open => self.open(from, retry_after),
        };
        match to {
            BreakerState::Open => {}
            BreakerState::HalfOpen => self.windows.reset(at),
            BreakerState::Closed => {
                self.failed_half_opens = 0;
                self.windows.reset(at);
            }
        }
        (self.since, self.reason) = (at, Some(reason));
        self.epoch += 1;
        Transition { from, to, reason, at, epoch: self.epoch }
    }

    /// Jitter comes on top even of what the upstream asked for: a fleet that was told the same would probe in step.
    fn open(&mut self, from: BreakerState, retry_after: Option<Duration>) -> State {
        match from {
            BreakerState::HalfOpen => self.failed_half_opens = self.failed_half_opens.saturating_add(1),
            BreakerState::Closed | BreakerState::Open => self.last_trip = Some(self.latest),
        }
        let open_time = self.settings.open.asked(self.failed_half_opens, retry_after);
        let jitter = self.random.up_to(self.settings.open.most_jitter(open_time));
        State::Open { until: later(self.latest, open_time + jitter) }
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
