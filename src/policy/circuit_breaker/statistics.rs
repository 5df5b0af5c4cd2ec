//! What a breaker shows of itself: for metrics, reports and `/state`.
//!
//! A reading changes nothing and takes no step, so what is shown is always the state that decides.

use std::time::Instant;

use crate::config::ForcedState;
use crate::report::BreakerState;

use super::endpoints::Standing;
use super::engine::{Breaker, State};
use super::transition::{TransitionCounts, TransitionReason};
use super::window::Window;

/// One reading of a breaker.
#[derive(Clone, Debug, PartialEq)]
pub struct Statistics {
    /// What it does by itself.
    pub state: BreakerState,
    /// What an override makes it do now.
    pub forced: Option<ForcedState>,
    /// When it entered `state`.
    pub since: Instant,
    /// Why it entered `state`; none if it never changed.
    pub reason: Option<TransitionReason>,
    /// Failures among `requests`, 0 to 1; none without requests.
    pub failure_ratio: Option<f64>,
    /// Slow calls among the requests that the slow-call rule looks at, 0 to 1; none without that rule or requests.
    pub slow_ratio: Option<f64>,
    /// Requests that ended within the current window; while open, within the window at the time it opened.
    pub requests: u64,
    /// How often it went from closed to open since it was made or restored.
    pub trips: u64,
    /// When it last went from closed to open.
    pub last_trip: Option<Instant>,
    /// Requests refused since it was made or restored.
    pub rejected: u64,
    /// Probes under way whose leases are not over.
    pub probes_in_flight: u32,
    /// When the next probe may pass; set while open.
    pub next_probe: Option<Instant>,
    /// Whether it is half-open and waits for traffic: no probe owes an answer.
    pub idle: bool,
    /// Until when only a growing share of requests passes; set while closed after a recovery with a ramp.
    pub ramp_end: Option<Instant>,
    /// Changes of state since it was made or restored.
    pub transitions: TransitionCounts,
}

impl Breaker {
    /// Shows it as it is at `now`, without a step.
    #[must_use]
    pub fn statistics(&self, now: Instant) -> Statistics {
        let now = self.latest.max(now);
        let totals = |window: &Window| match self.state {
            State::Open { .. } => window.last_totals(),
            State::Closed { .. } | State::HalfOpen { .. } => window.totals_at(now),
        };
        let shown = totals(self.windows.shown());
        let slow = self.settings.slow_call_rate.and_then(|_| totals(self.windows.of_slow_call_rate()).slow_ratio());
        let (next_probe, idle, ramp_end) = match self.state {
            State::Open { until } => (Some(until), false, None),
            State::HalfOpen { undecided_since, .. } => (None, undecided_since.is_none(), None),
            State::Closed { ramp, .. } => (None, false, ramp.map(|ramp| ramp.end()).filter(|end| now < *end)),
        };
        Statistics {
            state: self.state.name(),
            forced: self.force.filter(|force| now < force.until).map(|force| force.state),
            since: self.since,
            reason: self.reason,
            failure_ratio: shown.failure_ratio(),
            slow_ratio: slow,
            requests: shown.requests,
            trips: self.transitions.closed_to_open,
            last_trip: self.last_trip,
            rejected: self.rejected,
            probes_in_flight: self.probes.in_flight(now),
            next_probe,
            idle,
            ramp_end,
            transitions: self.transitions,
        }
    }

    /// Whether a request would pass at `now`, without a step. A ramp is no reason to leave an endpoint
    /// out, and neither is [`ForcedState::ForcedOpen`], which is meant for all endpoints of a policy alike.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        let now = self.latest.max(now);
        let forced = self.force.filter(|force| now < force.until).map(|force| force.state);
        let free = self.probes.in_flight(now) < self.settings.half_open.max_probes;
        let usable = match self.state {
            _ if forced == Some(ForcedState::ForcedClosed) => true,
            State::Closed { .. } => true,
            State::Open { until } => now >= until && free,
            State::HalfOpen { .. } => free,
        };
        if usable { Standing::Usable } else { Standing::Unusable { since: self.last_trip.unwrap_or(self.since) } }
    }
}
