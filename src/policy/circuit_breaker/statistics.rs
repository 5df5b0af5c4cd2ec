//! What a breaker shows of itself: for metrics, reports and `/state`.
//!
//! A reading changes nothing and takes no step, so what is shown is always the state that decides.

use std::time::Instant;

use crate::config::ForcedState;
use crate::report::BreakerState;

use super::{TransitionCounts, TransitionReason};

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
