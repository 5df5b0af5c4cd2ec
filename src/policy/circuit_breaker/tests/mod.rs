//! What the breaker claims, each claim a test.
//!
//! Time here is a number of milliseconds; nothing waits, and no test depends on the machine's speed.

mod claims;
mod classifier;
mod endpoints;
mod force;
mod half_open;
mod model;
mod recovery;
mod reference;
mod settings;
mod slow;
mod snapshot;
mod threads;
mod window;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use super::{Admission, Breaker, Decision, Ended, Origin, Outcome, Refusal, Settings, Ticket, Transition};
use crate::config::{
    BreakerParameters, FailureCount, FailureRate, HalfOpen, Open, RateWindow, Recovery, SlowCallRate, Trip,
};

/// Trips after three failures in a row, stays open for 100 ms, then closes after two successes, one at a time.
fn parameters() -> BreakerParameters {
    BreakerParameters {
        trip: Trip { consecutive_failures: Some(3), ..Trip::default() },
        open: Open { base_duration_ms: 100, max_duration_ms: 1_000, jitter_percent: 0, honor_retry_after: false },
        half_open: HalfOpen { max_probes: 1, success_threshold: 2, probe_timeout_ms: 50, max_duration_ms: 500 },
        recovery: Recovery::default(),
    }
}

/// The same, but it trips by what `trip` says.
fn tripping_by(trip: Trip) -> BreakerParameters {
    BreakerParameters { trip, ..parameters() }
}

/// Trips by `count` failures within `window_ms`.
fn failures(count: u32, window_ms: u64) -> Trip {
    Trip { failures: Some(FailureCount { count, window_ms }), ..Trip::default() }
}

/// Trips by `percent` failures among at least four requests within a second.
fn failure_rate(percent: u8) -> Trip {
    Trip {
        failure_rate: Some(FailureRate { percent, window: RateWindow::Time(1_000), min_requests: 4 }),
        ..Trip::default()
    }
}

fn settings(parameters: &BreakerParameters) -> Settings {
    Settings::try_from(parameters).unwrap()
}

/// The time `ms` milliseconds after a start that all tests share.
fn at(ms: u64) -> Instant {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    *START + Duration::from_millis(ms)
}

/// A restart at `now_ms`, `elapsed_ms` after the snapshot.
fn origin(elapsed_ms: u64, now_ms: u64) -> Origin {
    Origin { seed: 1, elapsed: Duration::from_millis(elapsed_ms), now: at(now_ms) }
}

/// A breaker and the current time.
struct Bench {
    breaker: Breaker,
    now_ms: u64,
}

impl Bench {
    fn new(parameters: &BreakerParameters) -> Self {
        Self { breaker: Breaker::new(settings(parameters), 1, at(0)), now_ms: 0 }
    }

    /// One that has tripped just now.
    fn open(parameters: &BreakerParameters) -> Self {
        let mut bench = Self::new(parameters);
        for _ in 0..3 {
            bench.call(Outcome::Failure);
        }
        bench
    }

    /// One that has tripped, and whose open time is just over.
    fn half_open(parameters: &BreakerParameters) -> Self {
        let mut bench = Self::open(parameters);
        bench.wait(parameters.open.base_duration_ms);
        assert!(bench.advance().is_some());
        bench
    }

    fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    fn now(&self) -> Instant {
        at(self.now_ms)
    }

    fn ask(&mut self) -> Admission<Ticket> {
        self.breaker.admit(self.now())
    }

    fn admitted(&mut self) -> Ticket {
        match self.ask().decision {
            Decision::Admitted(ticket) => ticket,
            Decision::Refused(refusal) => panic!("refused: {refusal:?}"),
        }
    }

    fn refused(&mut self) -> Refusal {
        match self.ask().decision {
            Decision::Admitted(ticket) => panic!("admitted: {ticket:?}"),
            Decision::Refused(refusal) => refusal,
        }
    }

    fn settle(&mut self, ticket: Ticket, ended: impl Into<Ended>) -> Option<Transition> {
        self.breaker.settle(ticket, ended, self.now())
    }

    /// One request from beginning to end.
    fn call(&mut self, ended: impl Into<Ended>) -> Option<Transition> {
        let ticket = self.admitted();
        self.settle(ticket, ended)
    }

    fn advance(&mut self) -> Option<Transition> {
        self.breaker.advance(self.now())
    }
}
