//! A breaker's state as plain data, so that it survives its process.
//!
//! It must not hold a moment, only ages and remainders in milliseconds: monotonic time means nothing
//! to another process. It is read back as untrusted bytes, and refused whole if any part is nonsense.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::report::BreakerState;

use super::engine::{Breaker, State};
use super::ramp::Ramp;
use super::settings::{Settings, in_ms};
use super::transition::TransitionReason;
use super::window::{CallWindow, OutcomeLetter, TimeWindow, Totals, WINDOW_BUCKETS, Window};

/// The format this build writes, and the only one it reads.
pub const SNAPSHOT_FORMAT: u32 = 2;

/// The longest snapshot that is read: three windows over the most calls, and all the rest.
pub const MAX_SNAPSHOT_BYTES: usize = 64 * 1024;

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
    /// What the ramp of a recovery has on its account; while it lasts only. In shares of a request, of
    /// which `rampMs` times ten million make a whole one.
    pub ramp_account: Option<u64>,
    /// Each distinct window of the rules: what is shown first, then that of `failures`, of `failureRate`
    /// and of `slowCallRate`.
    pub windows: Vec<WindowSnapshot>,
}

/// One window.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum WindowSnapshot {
    /// Requests of a rolling time.
    Time(BucketsSnapshot),
    /// The last so many requests, oldest first, one letter each: `.` went well, `f` failed, `s` was slow,
    /// `b` was both.
    Calls(String),
}

/// The requests of a rolling time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BucketsSnapshot {
    /// How long ago the last bucket began, in milliseconds.
    pub age_ms: u64,
    /// Failures in each bucket, oldest first.
    pub failures: [u32; WINDOW_BUCKETS],
    /// Slow requests in each bucket, oldest first.
    pub slow: [u32; WINDOW_BUCKETS],
    /// Requests in each bucket, oldest first.
    pub requests: [u32; WINDOW_BUCKETS],
}

/// Why a snapshot was refused. The breaker starts anew then.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    /// It is longer than any snapshot.
    #[error("snapshot has {found} bytes, over {MAX_SNAPSHOT_BYTES}; start the breaker anew")]
    TooLong {
        /// How many bytes there are.
        found: usize,
    },
    /// It is not a snapshot, as when it was torn.
    #[error("snapshot can't be read at line {line}, column {column}; start the breaker anew")]
    Malformed {
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
    },
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
            Self::TooLong { .. } => "SnapshotTooLong",
            Self::Malformed { .. } => "SnapshotMalformed",
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
        let (mut open_remaining_ms, mut consecutive, mut successful, mut ramp_account) = (None, 0, 0, None);
        match self.state {
            State::Closed { consecutive_failures, ramp } => {
                (consecutive, ramp_account) = (consecutive_failures, ramp.map(|ramp| ramp.account()));
            }
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
            ramp_account,
            windows: self.windows.distinct().iter().map(|window| WindowSnapshot::of(window, now)).collect(),
        }
    }

    /// A breaker in the state of `snapshot`, which was taken `origin.elapsed` before `origin.now`.
    ///
    /// # Errors
    /// [`SnapshotError`] when the snapshot is not one that a breaker with these settings can have.
    pub fn restore(settings: Settings, snapshot: &Snapshot, origin: Origin) -> Result<Self, SnapshotError> {
        snapshot.check(&settings)?;
        let mut breaker = Self::new(settings, origin.seed, origin.now);
        breaker.since = origin.ago(snapshot.state_age_ms);
        breaker.state = match snapshot.state {
            BreakerState::Closed => {
                let resume = |account| Ramp::resume(breaker.settings.ramp, breaker.since, account);
                let ramp = snapshot.ramp_account.and_then(resume);
                State::Closed { consecutive_failures: snapshot.consecutive_failures, ramp }
            }
            BreakerState::HalfOpen => State::HalfOpen { successes: snapshot.probe_successes, undecided_since: None },
            BreakerState::Open => State::Open { until: origin.after(snapshot.open_remaining_ms.unwrap_or(0)) },
        };
        breaker.reason = snapshot.reason;
        breaker.failed_half_opens = snapshot.failed_half_opens;
        breaker.last_trip = snapshot.last_trip_age_ms.map(|age_ms| origin.ago(age_ms));
        let windows = breaker.windows.distinct_mut();
        if windows.len() != snapshot.windows.len() {
            return Err(SnapshotError::Contradiction { field: "windows", with: "the breaker's trip rules" });
        }
        for (window, filled) in windows.iter_mut().zip(&snapshot.windows) {
            filled.fill(window, origin)?;
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
    /// Reads one from bytes that nobody vouches for.
    ///
    /// # Errors
    /// [`SnapshotError`] when they are too many, of another format, or no snapshot.
    pub fn from_json(bytes: &[u8]) -> Result<Self, SnapshotError> {
        /// Of a format that is not known, no more than its number is.
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }

        if bytes.len() > MAX_SNAPSHOT_BYTES {
            return Err(SnapshotError::TooLong { found: bytes.len() });
        }
        let malformed =
            |error: serde_json::Error| SnapshotError::Malformed { line: error.line(), column: error.column() };
        let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
        if head.format != SNAPSHOT_FORMAT {
            return Err(SnapshotError::Format { found: head.format });
        }
        serde_json::from_slice(bytes).map_err(malformed)
    }

    fn check(&self, settings: &Settings) -> Result<(), SnapshotError> {
        if self.format != SNAPSHOT_FORMAT {
            return Err(SnapshotError::Format { found: self.format });
        }
        self.check_state(settings)?;
        at_most("stateAgeMs", self.state_age_ms, in_ms(MAX_AGE))?;
        at_most("lastTripAgeMs", self.last_trip_age_ms.unwrap_or(0), in_ms(MAX_AGE))?;
        if self.ramp_account.is_some() && settings.ramp.is_zero() {
            return Err(SnapshotError::Contradiction { field: "rampAccount", with: "the breaker's recovery" });
        }
        let most_on_account = Ramp::most_on_account(settings.ramp);
        at_most("rampAccount", self.ramp_account.unwrap_or(0), most_on_account)
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
        if self.ramp_account.is_some() && self.reason != Some(TransitionReason::ProbesSucceeded) {
            return contradiction("rampAccount");
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
        match window {
            Window::Time(window) => Self::Time(BucketsSnapshot::of(window, now)),
            Window::Calls(window) => {
                Self::Calls(window.oldest_first().map(|request| OutcomeLetter(request).letter()).collect())
            }
        }
    }

    /// Fills an empty window.
    fn fill(&self, window: &mut Window, origin: Origin) -> Result<(), SnapshotError> {
        match (self, window) {
            (Self::Time(buckets), Window::Time(window)) => buckets.fill(window, origin),
            (Self::Calls(letters), Window::Calls(window)) => fill_calls(letters, window),
            (Self::Time(_), Window::Calls(_)) | (Self::Calls(_), Window::Time(_)) => {
                Err(SnapshotError::Contradiction { field: "windows", with: "the breaker's trip rules" })
            }
        }
    }
}

impl BucketsSnapshot {
    fn of(window: &TimeWindow, now: Instant) -> Self {
        let in_each = |count: fn(Totals) -> u64| {
            let mut counts = [0; WINDOW_BUCKETS];
            for (place, bucket) in counts.iter_mut().zip(window.oldest_first()) {
                *place = u32::try_from(count(bucket)).unwrap_or(u32::MAX);
            }
            counts
        };
        Self {
            age_ms: in_ms(window.bucket_age(now).min(MAX_AGE)),
            failures: in_each(|bucket| bucket.failures),
            slow: in_each(|bucket| bucket.slow),
            requests: in_each(|bucket| bucket.requests),
        }
    }

    fn fill(&self, window: &mut TimeWindow, origin: Origin) -> Result<(), SnapshotError> {
        let Self { age_ms, failures, slow, requests } = self;
        at_most("windows", *age_ms, in_ms(MAX_AGE))?;
        let over = |part: &[u32; WINDOW_BUCKETS]| part.iter().zip(requests).any(|(part, whole)| part > whole);
        if over(failures) || over(slow) {
            let with = "itself: more failures or slow requests than requests";
            return Err(SnapshotError::Contradiction { field: "windows", with });
        }
        let buckets = std::array::from_fn(|index| Totals {
            failures: failures[index].into(),
            slow: slow[index].into(),
            requests: requests[index].into(),
        });
        window.fill(origin.ago(*age_ms), buckets);
        Ok(())
    }
}

fn fill_calls(letters: &str, window: &mut CallWindow) -> Result<(), SnapshotError> {
    at_most("windows", letters.len() as u64, window.places() as u64)?;
    for letter in letters.chars() {
        let Some(OutcomeLetter(request)) = OutcomeLetter::read(letter) else {
            return Err(SnapshotError::Contradiction { field: "windows", with: "itself: a letter that is no outcome" });
        };
        window.record(request);
    }
    Ok(())
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
