//! Transitions: that a breaker changed its state, when and why.
//!
//! The reasons are stable words, because conditions, Events and metric labels carry them.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::report::BreakerState;

/// One change of a breaker's own state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state it left.
    pub from: BreakerState,
    /// The state it entered.
    pub to: BreakerState,
    /// Why.
    pub reason: TransitionReason,
    /// When it was noticed: time alone changes nothing until somebody asks.
    pub at: Instant,
    /// The epoch that began with it; only requests admitted in it decide what comes next.
    pub epoch: u64,
}

/// Why a breaker changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TransitionReason {
    /// Too many failures in a row.
    ConsecutiveFailures,
    /// Too many failures within the window.
    FailureCount,
    /// Too large a share of failures within the window.
    FailureRate,
    /// Too large a share of slow calls within the window.
    SlowCallRate,
    /// The open time is over.
    OpenElapsed,
    /// A probe failed.
    ProbeFailed,
    /// A probe succeeded, but was slow, and slow calls are a reason to trip.
    ProbeSlow,
    /// A probe's lease ended before the probe did.
    ProbeTimeout,
    /// Probes were let through, and none told anything for too long.
    HalfOpenTimeout,
    /// Enough probes succeeded.
    ProbesSucceeded,
}

/// How often each possible change of state happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransitionCounts {
    /// Trips.
    pub closed_to_open: u64,
    /// Open times that ended.
    pub open_to_half_open: u64,
    /// Failed half-opens.
    pub half_open_to_open: u64,
    /// Recoveries.
    pub half_open_to_closed: u64,
}

impl TransitionReason {
    /// The stable word for conditions, Events and metric labels.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConsecutiveFailures => "ConsecutiveFailures",
            Self::FailureCount => "FailureCount",
            Self::FailureRate => "FailureRate",
            Self::SlowCallRate => "SlowCallRate",
            Self::OpenElapsed => "OpenElapsed",
            Self::ProbeFailed => "ProbeFailed",
            Self::ProbeSlow => "ProbeSlow",
            Self::ProbeTimeout => "ProbeTimeout",
            Self::HalfOpenTimeout => "HalfOpenTimeout",
            Self::ProbesSucceeded => "ProbesSucceeded",
        }
    }

    /// The state it leads to; each reason has exactly one.
    #[must_use]
    pub fn leads_to(self) -> BreakerState {
        match self {
            Self::OpenElapsed => BreakerState::HalfOpen,
            Self::ProbesSucceeded => BreakerState::Closed,
            Self::ConsecutiveFailures
            | Self::FailureCount
            | Self::FailureRate
            | Self::SlowCallRate
            | Self::ProbeFailed
            | Self::ProbeSlow
            | Self::ProbeTimeout
            | Self::HalfOpenTimeout => BreakerState::Open,
        }
    }
}

impl TransitionCounts {
    /// Every possible change with its count, for a metric that shows all of them from the start.
    #[must_use]
    pub fn entries(&self) -> [(BreakerState, BreakerState, u64); 4] {
        let Self { closed_to_open, open_to_half_open, half_open_to_open, half_open_to_closed } = *self;
        [
            (BreakerState::Closed, BreakerState::Open, closed_to_open),
            (BreakerState::Open, BreakerState::HalfOpen, open_to_half_open),
            (BreakerState::HalfOpen, BreakerState::Open, half_open_to_open),
            (BreakerState::HalfOpen, BreakerState::Closed, half_open_to_closed),
        ]
    }

    /// Counts one change of state out of `from` for `reason`.
    pub(super) fn count(&mut self, from: BreakerState, reason: TransitionReason) {
        let counter = match (from, reason.leads_to()) {
            (_, BreakerState::HalfOpen) => &mut self.open_to_half_open,
            (_, BreakerState::Closed) => &mut self.half_open_to_closed,
            (BreakerState::HalfOpen, BreakerState::Open) => &mut self.half_open_to_open,
            (_, BreakerState::Open) => &mut self.closed_to_open,
        };
        *counter += 1;
    }
}
