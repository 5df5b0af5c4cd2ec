//! A breaker's state as plain data, so that it survives its process.
//!
//! It must not hold a moment, only ages and remainders in milliseconds: monotonic time means nothing
//! to another process. It is read back as untrusted bytes, and refused whole if any part is nonsense.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::report::BreakerState;

use super::engine::{Breaker, State};
use super::settings::{Settings, in_ms};
use super::transition::TransitionReason;
use super::window::{Totals, WINDOW_BUCKETS, Window};

/// The format this build writes, and the only one it reads.
pub const SNAPSHOT_FORMAT: u32 = 1;

/// The longest age a snapshot tells; what is older is told as this.
pub const MAX_AGE: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// One breaker's state at a time that its keeper must remember. Not in it are an override, which the
/// configuration holds, probes in flight, which died with their process, and counts since the start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Snapshot {
    /// [`SNAPSHOT_FORMAT`].
    pub format: u32,
    /// The state.
    pub state: BreakerState,
    /// How long it has been in that state, in milliseconds.
    pub state_age_ms: u64,
    /// Why it entered that state.
    pub reason: Option<TransitionReason>,
    /// For how long it refuses still, in milliseconds; with state Open only.
    pub open_remaining_ms: Option<u64>,
    /// Failures in a row; with state Closed only, else 0.
    pub consecutive_failures: u32,
    /// Probes that succeeded; with state HalfOpen only, else 0.
    pub probe_successes: u32,
    /// Failed half-opens in a row.
    pub failed_half_opens: u32,
    /// How long ago it last went from closed to open, in milliseconds.
    pub last_trip_age_ms: Option<u64>,
    /// The outcomes shown, and decided on by the failure rate.
    pub observed: WindowSnapshot,
    /// The outcomes decided on by the failure count; with that rule only.
    pub counted: Option<WindowSnapshot>,
}

/// A rolling window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct WindowSnapshot {
    /// How long ago the last bucket began, in milliseconds.
    pub age_ms: u64,
    /// Failures in each bucket, oldest first.
    pub failures: [u32; WINDOW_BUCKETS],
    /// Requests in each bucket, oldest first.
    pub requests: [u32; WINDOW_BUCKETS],
}

/// Why a snapshot was refused. The breaker starts anew then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It was written in another format.
    #[error("snapshot has format {found}, not {SNAPSHOT_FORMAT}; start the breaker anew")]
    Format {
        /// The format it says.
        found: u32,
    },
    /// A number is larger than the breaker's settings allow.
    #[error("snapshot's {field} is {value}, over {most}; start the breaker anew")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// What it was.
        value: u64,
        /// The most it may be.
        most: u64,
    },
    /// A field contradicts the state or the settings.
    #[error("snapshot's {field} contradicts {with}; start the breaker anew")]
    Contradiction {
        /// The field.
        field: &'static str,
        /// What it contradicts.
        with: &'static str,
    },
}

impl SnapshotError {
    /// The stable word for log and metric labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Format { .. } => "SnapshotFormat",
            Self::OutOfRange { .. } => "SnapshotOutOfRange",
            Self::Contradiction { .. } => "SnapshotContradiction",
        }
    }
}

impl Breaker {
    /// The state at `now`, without a step.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Snapshot {
        let now = self.latest.max(now);
        let (mut open_remaining_ms, mut consecutive, mut successful) = (None, 0, 0);
        match self.state {
            State::Closed { consecutive_failures } => consecutive = consecutive_failures,
            State::Open { until } => open_remaining_ms = Some(in_ms(until.saturating_duration_since(now))),
            State::HalfOpen { successes, undecided_since: _ } => successful = successes,
        }
        Snapshot {
            format: SNAPSHOT_FORMAT,
            state: self.state.name(),
            state_age_ms: age_ms(self.since, now),
            reason: self.reason,
            open_remaining_ms,
            consecutive_failures: consecutive,
            probe_successes: successful,
            failed_half_opens: self.failed_half_opens,
            last_trip_age_ms: self.last_trip.map(|trip| age_ms(trip, now)),
            observed: WindowSnapshot::of(&self.observed, now),
            counted: self.counted.as_ref().map(|window| WindowSnapshot::of(window, now)),
        }
    }

    /// A breaker in the state of `snapshot`, which was taken `origin.elapsed` before `origin.now`.
    ///
    /// # Errors
    /// [`SnapshotError`] when the snapshot is not one that a breaker with these settings can have.
    pub fn restore(settings: Settings, snapshot: &Snapshot, origin: Origin) -> Result<Self, SnapshotError> {
        snapshot.check(&settings)?;
        let mut breaker = Self::new(settings, origin.seed, origin.now);
        breaker.state = match snapshot.state {
            BreakerState::Closed => State::Closed { consecutive_failures: snapshot.consecutive_failures },
            BreakerState::HalfOpen => State::HalfOpen { successes: snapshot.probe_successes, undecided_since: None },
            BreakerState::Open => State::Open { until: origin.after(snapshot.open_remaining_ms.unwrap_or(0)) },
        };
        breaker.since = origin.ago(snapshot.state_age_ms);
        breaker.reason = snapshot.reason;
        breaker.failed_half_opens = snapshot.failed_half_opens;
        breaker.last_trip = snapshot.last_trip_age_ms.map(|age_ms| origin.ago(age_ms));
        breaker.observed = snapshot.observed.restore(breaker.settings.observed_window(), origin);
        if let (Some(rule), Some(counted)) = (breaker.settings.failure_count, &snapshot.counted) {
            breaker.counted = Some(counted.restore(rule.window, origin));
        }
        Ok(breaker)
    }
}

/// Where a restored breaker starts.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// Decides the breaker's jitter.
    pub seed: u64,
    /// How long ago the snapshot was taken.
    pub elapsed: Duration,
    /// The time.
    pub now: Instant,
}

impl Origin {
    /// `age_ms` before the snapshot, or now where the clock does not reach back so far.
    fn ago(&self, age_ms: u64) -> Instant {
        let age = self.elapsed.min(MAX_AGE) + Duration::from_millis(age_ms);
        self.now.checked_sub(age).unwrap_or(self.now)
    }

    /// `remaining_ms` after the snapshot, which may be in the past.
    fn after(&self, remaining_ms: u64) -> Instant {
        let (remaining, elapsed) = (Duration::from_millis(remaining_ms), self.elapsed.min(MAX_AGE));
        let moment = match remaining.checked_sub(elapsed) {
            Some(still) => self.now.checked_add(still),
            None => self.now.checked_sub(elapsed - remaining),
        };
        moment.unwrap_or(self.now)
    }
}

impl Snapshot {
    fn check(&self, settings: &Settings) -> Result<(), SnapshotError> {
        if self.format != SNAPSHOT_FORMAT {
            return Err(SnapshotError::Format { found: self.format });
        }
        self.check_state(settings)?;
        at_most("stateAgeMs", self.state_age_ms, in_ms(MAX_AGE))?;
        at_most("lastTripAgeMs", self.last_trip_age_ms.unwrap_or(0), in_ms(MAX_AGE))?;
        self.observed.check("observed")?;
        match (&self.counted, settings.failure_count) {
            (Some(counted), Some(_)) => counted.check("counted"),
            (None, None) => Ok(()),
            (Some(_), None) | (None, Some(_)) => {
                Err(SnapshotError::Contradiction { field: "counted", with: "the breaker's trip rules" })
            }
        }
    }

    fn check_state(&self, settings: &Settings) -> Result<(), SnapshotError> {
        let contradiction = |field| Err(SnapshotError::Contradiction { field, with: "its state" });
        if self.open_remaining_ms.is_some() != (self.state == BreakerState::Open) {
            return contradiction("openRemainingMs");
        }
        if self.consecutive_failures > 0 && self.state != BreakerState::Closed {
            return contradiction("consecutiveFailures");
        }
        if self.probe_successes > 0 && self.state != BreakerState::HalfOpen {
            return contradiction("probeSuccesses");
        }
        if self.failed_half_opens > 0 && self.state == BreakerState::Closed {
            return contradiction("failedHalfOpens");
        }
        if self.reason.map_or(BreakerState::Closed, TransitionReason::leads_to) != self.state {
            return contradiction("reason");
        }
        at_most("openRemainingMs", self.open_remaining_ms.unwrap_or(0), in_ms(settings.open.longest()))?;
        let most_failures = settings.consecutive_failures.map_or(u32::MAX, |count| count - 1);
        at_most("consecutiveFailures", self.consecutive_failures.into(), most_failures.into())?;
        let most_successes = settings.half_open.success_threshold - 1;
        at_most("probeSuccesses", self.probe_successes.into(), most_successes.into())
    }
}

impl WindowSnapshot {
    fn of(window: &Window, now: Instant) -> Self {
        let (mut failures, mut requests) = ([0; WINDOW_BUCKETS], [0; WINDOW_BUCKETS]);
        for (index, bucket) in window.oldest_first().enumerate() {
            failures[index] = u32::try_from(bucket.failures).unwrap_or(u32::MAX);
            requests[index] = u32::try_from(bucket.requests).unwrap_or(u32::MAX);
        }
        Self { age_ms: in_ms(window.bucket_age(now).min(MAX_AGE)), failures, requests }
    }

    fn restore(&self, span: Duration, origin: Origin) -> Window {
        let buckets = std::array::from_fn(|index| Totals {
            failures: self.failures[index].into(),
            requests: self.requests[index].into(),
        });
        Window::with_buckets(span, origin.ago(self.age_ms), buckets)
    }

    fn check(&self, field: &'static str) -> Result<(), SnapshotError> {
        at_most(field, self.age_ms, in_ms(MAX_AGE))?;
        if self.failures.iter().zip(&self.requests).any(|(failures, requests)| failures > requests) {
            return Err(SnapshotError::Contradiction { field, with: "itself: more failures than requests" });
        }
        Ok(())
    }
}

fn age_ms(moment: Instant, now: Instant) -> u64 {
    in_ms(now.saturating_duration_since(moment).min(MAX_AGE))
}

fn at_most(field: &'static str, value: u64, most: u64) -> Result<(), SnapshotError> {
    if value > most {
        return Err(SnapshotError::OutOfRange { field, value, most });
    }
    Ok(())
}
