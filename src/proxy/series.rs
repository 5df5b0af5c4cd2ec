//! The numbers of one rule: requests by result, durations, refusals, transitions.
//!
//! Requests add to atomics they already hold a pointer to; nothing is looked up by label while traffic
//! flows, and the set of series is bounded by the configuration, never by what clients send.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use fusebox_policy::circuit_breaker::{Transition, TransitionReason};
use fusebox_policy::config::Side;
use fusebox_policy::metrics::ERRORS;
use fusebox_policy::report::BreakerState;
use parking_lot::Mutex;

use crate::tunnel::TunnelCounts;

/// Upper bounds of the duration buckets, in seconds (the OpenTelemetry convention).
pub(crate) const BUCKETS: [f64; 14] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

const BUCKETS_US: [u64; 14] = [
    5_000, 10_000, 25_000, 50_000, 75_000, 100_000, 250_000, 500_000, 750_000, 1_000_000, 2_500_000, 5_000_000,
    7_500_000, 10_000_000,
];

/// Names of the status classes; the first is for requests that got no status.
const CLASSES: [&str; 6] = ["", "1xx", "2xx", "3xx", "4xx", "5xx"];

/// What names the series of one rule.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SeriesLabels {
    /// The policy's namespace; empty without a policy.
    pub(crate) policy_namespace: String,
    /// The policy's name; empty without a policy.
    pub(crate) policy: String,
    /// The target's namespace; empty for the pod's own port without a policy.
    pub(crate) target_namespace: String,
    /// The target's name; empty for the pod's own port without a policy.
    pub(crate) target: String,
    /// Which end of the call this proxy is on.
    pub(crate) side: Side,
    /// The Service's port on side Client, the container port on side Server.
    pub(crate) port: u16,
    /// The rule's name; empty for what no rule matched.
    pub(crate) rule: String,
}

/// How a request ended; those after the first stand in the order of [`ERRORS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The whole answer was passed on.
    Answered,
    /// The breaker refused it.
    Refused,
    /// It took longer than the rule allows.
    Timeout,
    /// No connection to the upstream could be made.
    ConnectFailure,
    /// The upstream's connection broke before the answer was complete.
    Reset,
    /// The client went away or sent a broken body.
    ClientAbort,
    /// A rate limit refused it.
    RateLimited,
}

/// The counters of one rule, kept as long as the rule exists.
#[derive(Debug)]
pub(crate) struct Series {
    labels: SeriesLabels,
    requests: [[AtomicU64; CLASSES.len()]; ERRORS.len() + 1],
    durations: DurationHistogram,
    rejected: AtomicU64,
    transitions: Mutex<Transitions>,
    tunnels: TunnelCounts,
}

/// One way from state to state, as counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Step {
    /// The state before.
    pub(crate) from: BreakerState,
    /// The state after.
    pub(crate) to: BreakerState,
    /// Why, a stable word.
    pub(crate) reason: &'static str,
}

/// All transitions since the proxy started.
#[derive(Clone, Debug)]
pub(crate) struct Transitions {
    /// How often each step was taken.
    pub(crate) steps: BTreeMap<Step, u64>,
    /// How often it went from closed to open.
    pub(crate) trips: u64,
    /// When it last did.
    pub(crate) last_trip: Option<Instant>,
}

/// A consistent-enough copy of the histogram: each observation is in it once.
#[derive(Clone, Debug)]
pub(crate) struct DurationSnapshot {
    /// Sum of all durations, in seconds.
    pub(crate) sum: f64,
    /// How many there are.
    pub(crate) count: u64,
    /// Upper bound and number of each bucket, not cumulative.
    pub(crate) buckets: Vec<(f64, u64)>,
}

#[derive(Debug, Default)]
struct DurationHistogram {
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum_us: AtomicU64,
}

impl Series {
    /// Counters at zero.
    pub(crate) fn new(labels: SeriesLabels) -> Self {
        Self {
            labels,
            requests: Default::default(),
            durations: DurationHistogram::default(),
            rejected: AtomicU64::new(0),
            transitions: Mutex::new(Transitions::none()),
            tunnels: TunnelCounts::default(),
        }
    }

    /// Counters of tunnels.
    pub(crate) fn tunnels(&self) -> &TunnelCounts {
        &self.tunnels
    }

    /// What names them.
    pub(crate) fn labels(&self) -> &SeriesLabels {
        &self.labels
    }

    /// Counts a request. `status` is what the client got, 0 where it got none.
    pub(crate) fn record(&self, ending: Ending, status: u16, took: Duration) {
        let class = usize::from(status / 100);
        let class = if class < CLASSES.len() { class } else { 0 };
        self.requests[ending as usize][class].fetch_add(1, Relaxed);
        match ending {
            Ending::Refused => self.would_refuse(),
            Ending::RateLimited => {}
            _ => self.durations.observe(took),
        }
    }

    /// Counts a request that would have been refused, were the policy enforced.
    pub(crate) fn would_refuse(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }

    /// Counts a transition of this rule's breaker.
    pub(crate) fn step(&self, transition: &Transition) {
        let mut transitions = self.transitions.lock();
        let step = Step { from: transition.from, to: transition.to, reason: transition.reason.as_str() };
        *transitions.steps.entry(step).or_insert(0) += 1;
        if (step.from, step.to) == (BreakerState::Closed, BreakerState::Open) {
            transitions.trips += 1;
            transitions.last_trip = Some(transition.at);
        }
    }

    /// Requests refused, or in Shadow those that would have been.
    pub(crate) fn rejected(&self) -> u64 {
        self.rejected.load(Relaxed)
    }

    /// How often the rule's breakers went from closed to open, and when one last did.
    pub(crate) fn trips(&self) -> (u64, Option<Instant>) {
        let transitions = self.transitions.lock();
        (transitions.trips, transitions.last_trip)
    }

    /// All transitions so far.
    pub(crate) fn transitions(&self) -> Transitions {
        self.transitions.lock().clone()
    }

    /// Requests as (error, status class, count); those that never happened are left out, but for the plain success.
    pub(crate) fn requests(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        self.requests.iter().zip(std::iter::once("").chain(ERRORS)).flat_map(|(classes, error)| {
            classes.iter().zip(CLASSES).filter_map(move |(count, class)| {
                let count = count.load(Relaxed);
                (count > 0 || (class == "2xx" && error.is_empty())).then_some((error, class, count))
            })
        })
    }

    /// Whether any request was counted.
    pub(crate) fn is_used(&self) -> bool {
        self.rejected() > 0 || self.requests.iter().flatten().any(|count| count.load(Relaxed) > 0)
    }

    /// Durations of the requests that were not refused.
    pub(crate) fn durations(&self) -> DurationSnapshot {
        self.durations.snapshot()
    }
}

impl Transitions {
    /// Every step there is at zero, so that the first one shows as an increase.
    fn none() -> Self {
        use BreakerState::{Closed, HalfOpen, Open};
        let steps = [
            (Closed, TransitionReason::ConsecutiveFailures),
            (Closed, TransitionReason::FailureCount),
            (Closed, TransitionReason::FailureRate),
            (Closed, TransitionReason::SlowCallRate),
            (Open, TransitionReason::OpenElapsed),
            (HalfOpen, TransitionReason::ProbeFailed),
            (HalfOpen, TransitionReason::ProbeSlow),
            (HalfOpen, TransitionReason::ProbeTimeout),
            (HalfOpen, TransitionReason::HalfOpenTimeout),
            (HalfOpen, TransitionReason::ProbesSucceeded),
        ];
        let zero = |(from, reason): (BreakerState, TransitionReason)| {
            (Step { from, to: reason.leads_to(), reason: reason.as_str() }, 0)
        };
        Self { steps: steps.into_iter().map(zero).collect(), trips: 0, last_trip: None }
    }
}

impl DurationHistogram {
    fn observe(&self, took: Duration) {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS_US.iter().position(|bound| took_us <= *bound).unwrap_or(BUCKETS_US.len());
        self.buckets[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(took_us, Relaxed);
    }

    fn snapshot(&self) -> DurationSnapshot {
        let bounds = BUCKETS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<(f64, u64)> = bounds.zip(self.buckets.iter().map(|bucket| bucket.load(Relaxed))).collect();
        let count = buckets.iter().map(|(_, count)| count).sum();
        DurationSnapshot { sum: Duration::from_micros(self.sum_us.load(Relaxed)).as_secs_f64(), count, buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fusebox_policy::metrics::{
        ERROR_CIRCUIT_OPEN, ERROR_CLIENT_ABORT, ERROR_CONNECT_FAILURE, ERROR_RATE_LIMITED, ERROR_RESET, ERROR_TIMEOUT,
    };

    fn series() -> Series {
        Series::new(SeriesLabels {
            policy_namespace: "shop".into(),
            policy: "payments".into(),
            target_namespace: "shop".into(),
            target: "payments".into(),
            side: Side::Client,
            port: 80,
            rule: String::new(),
        })
    }

    #[test]
    fn a_request_is_counted_by_error_and_class() {
        let series = series();
        series.record(Ending::Answered, 204, Duration::from_millis(5));
        series.record(Ending::Reset, 200, Duration::from_millis(6));
        series.record(Ending::ClientAbort, 0, Duration::from_secs(11));
        series.record(Ending::Refused, 503, Duration::ZERO);
        series.record(Ending::RateLimited, 429, Duration::ZERO);
        let counted: Vec<_> = series.requests().collect();
        let expected = [
            ("", "2xx", 1),
            ("circuit-open", "5xx", 1),
            ("reset", "2xx", 1),
            ("client-abort", "", 1),
            ("rate-limited", "4xx", 1),
        ];
        assert_eq!(counted, expected);
        assert_eq!(series.rejected(), 1, "what a limit refused, the breaker did not");
        assert_eq!(series.durations().count, 3, "refusals have no duration");
    }

    #[test]
    fn endings_stand_in_the_order_of_the_errors() {
        let endings = [
            (Ending::Refused, ERROR_CIRCUIT_OPEN),
            (Ending::Timeout, ERROR_TIMEOUT),
            (Ending::ConnectFailure, ERROR_CONNECT_FAILURE),
            (Ending::Reset, ERROR_RESET),
            (Ending::ClientAbort, ERROR_CLIENT_ABORT),
            (Ending::RateLimited, ERROR_RATE_LIMITED),
        ];
        for (ending, error) in endings {
            assert_eq!(ERRORS[ending as usize - 1], error);
        }
    }

    #[test]
    fn a_duration_falls_into_the_bucket_that_bounds_it() {
        let series = series();
        series.record(Ending::Answered, 200, Duration::from_millis(5));
        series.record(Ending::Answered, 200, Duration::from_micros(5_001));
        series.record(Ending::Answered, 200, Duration::from_secs(11));
        let durations = series.durations();
        assert_eq!((durations.buckets[0].1, durations.buckets[1].1, durations.buckets[14].1), (1, 1, 1));
        assert_eq!(durations.count, 3);
    }

    #[test]
    fn a_status_outside_the_classes_adds_no_series() {
        let series = series();
        series.record(Ending::Answered, 999, Duration::ZERO);
        assert!(series.requests().any(|(_, class, count)| class.is_empty() && count == 1));
    }
}
