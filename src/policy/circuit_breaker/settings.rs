//! A breaker's parameters in checked form: the only form the engine accepts.
//!
//! It must not know what the parameters are used for. Every bound is named here, because a
//! configuration may come from a file that no schema has seen.

use std::time::Duration;

use crate::config::{
    BreakerParameters, FailureCount, FailureRate, HalfOpen, Open, RateWindow, Recovery, SlowCallRate, Trip,
};

use super::admission::{Ended, Outcome};
use super::window::{DEFAULT_WINDOW, WINDOW_BUCKETS};

/// The longest duration of any parameter: one day.
pub const MAX_DURATION: Duration = Duration::from_secs(24 * 60 * 60);

/// The shortest rolling window: one millisecond a bucket.
pub const MIN_WINDOW: Duration = Duration::from_millis(WINDOW_BUCKETS as u64);

/// The largest number of failures, requests or successes a rule may ask for.
pub const MAX_COUNT: u32 = 1_000_000;

/// The largest number of probes in flight at once.
pub const MAX_PROBES: u32 = 1_000;

/// The largest window by calls, which costs two bits a call.
pub const MAX_WINDOW_CALLS: u32 = 10_000;

/// Checked parameters of one breaker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub(super) consecutive_failures: Option<u32>,
    pub(super) failure_count: Option<CountRule>,
    pub(super) failure_rate: Option<RateRule>,
    pub(super) slow_call_rate: Option<SlowRule>,
    pub(super) open: OpenTime,
    pub(super) half_open: HalfOpenRule,
    /// Zero is none.
    pub(super) ramp: Duration,
}

/// Why parameters were refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A number is outside its bounds.
    #[error("{field} is {value}; set it to {least} to {most}")]
    OutOfRange {
        /// The field's path within the breaker's parameters.
        field: &'static str,
        /// What it was.
        value: u64,
        /// The least it may be.
        least: u64,
        /// The most it may be.
        most: u64,
    },
    /// A rule that looks at fewer calls than it needs.
    #[error("{field} is {min_requests}, more than the {calls} calls the rule looks at; lower it to {calls} or less")]
    NeverEnough {
        /// The field's path within the breaker's parameters.
        field: &'static str,
        /// How many requests it needs to judge.
        min_requests: u32,
        /// How many it looks at.
        calls: u32,
    },
    /// The longest open time is shorter than the first.
    #[error(
        "open.maxDurationMs is {max_ms}, shorter than open.baseDurationMs, {base_ms}; raise it to {base_ms} or more"
    )]
    MaxBelowBase {
        /// `open.baseDurationMs`.
        base_ms: u64,
        /// `open.maxDurationMs`.
        max_ms: u64,
    },
}

/// This many failures within a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CountRule {
    pub(super) count: u32,
    pub(super) window: Duration,
}

/// This share of failures, or of slow calls, among the requests looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RateRule {
    pub(super) percent: u8,
    pub(super) span: Span,
    pub(super) min_requests: u32,
}

/// What is slow, and what share of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SlowRule {
    pub(super) slower_than: Duration,
    pub(super) rate: RateRule,
}

/// The requests that a rule looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Span {
    /// Those of a rolling time.
    Time(Duration),
    /// The last so many.
    Calls(u32),
}

/// The names of a rate's fields, for errors.
struct RateFields {
    percent: &'static str,
    window_ms: &'static str,
    calls: &'static str,
    min_requests: &'static str,
}

const FAILURE_RATE: RateFields = RateFields {
    percent: "trip.failureRate.percent",
    window_ms: "trip.failureRate.windowMs",
    calls: "trip.failureRate.calls",
    min_requests: "trip.failureRate.minRequests",
};

const SLOW_CALL_RATE: RateFields = RateFields {
    percent: "trip.slowCallRate.percent",
    window_ms: "trip.slowCallRate.windowMs",
    calls: "trip.slowCallRate.calls",
    min_requests: "trip.slowCallRate.minRequests",
};

/// How long it stays open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OpenTime {
    pub(super) base: Duration,
    pub(super) max: Duration,
    pub(super) jitter_percent: u8,
    pub(super) honors_retry_after: bool,
}

/// How half-open decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HalfOpenRule {
    pub(super) max_probes: u32,
    pub(super) success_threshold: u32,
    pub(super) probe_timeout: Duration,
    pub(super) max_duration: Duration,
}

impl Settings {
    /// The requests that are shown: those that a rule on failures looks at, where there is one.
    pub(super) fn shown_span(&self) -> Span {
        let (rate, slow) = (self.failure_rate, self.slow_call_rate);
        let rate = rate.map(|rule| rule.span).or(self.failure_count.map(|rule| Span::Time(rule.window)));
        rate.or(slow.map(|rule| rule.rate.span)).unwrap_or(Span::Time(DEFAULT_WINDOW))
    }

    /// Whether a request that ended so was slow. Without a rule on it nothing is.
    pub(super) fn is_slow(&self, ended: &Ended) -> bool {
        let slow = self.slow_call_rate.is_some_and(|rule| ended.took >= rule.slower_than);
        slow && ended.outcome != Outcome::Neutral
    }
}

impl RateRule {
    /// Whether `requests` are enough to judge, and enough of them are among the `bad`.
    pub(super) fn is_met(&self, bad: u64, requests: u64) -> bool {
        let enough = requests >= u64::from(self.min_requests);
        enough && bad.saturating_mul(100) >= requests.saturating_mul(u64::from(self.percent))
    }

    /// Whether requests that are not bad could meet it: only by being as many as it needs to judge.
    pub(super) fn could_be_met(&self, bad: u64, requests: u64) -> bool {
        self.is_met(bad, requests.max(self.min_requests.into()))
    }
}

impl OpenTime {
    /// The open time after `failed_half_opens` in a row, without jitter: base x 2^n, at most max.
    pub(super) fn without_jitter(&self, failed_half_opens: u32) -> Duration {
        let factor = 1_u32.checked_shl(failed_half_opens).unwrap_or(u32::MAX);
        self.base.checked_mul(factor).unwrap_or(self.max).min(self.max)
    }

    /// The open time without jitter, as the failure that opens it asks: never over max, whoever asks.
    pub(super) fn asked(&self, failed_half_opens: u32, retry_after: Option<Duration>) -> Duration {
        let asked = retry_after.filter(|_| self.honors_retry_after).unwrap_or_default();
        self.without_jitter(failed_half_opens).max(asked.min(self.max))
    }

    /// The most that jitter adds to an open time.
    pub(super) fn most_jitter(&self, open_time: Duration) -> Duration {
        open_time * u32::from(self.jitter_percent) / 100
    }

    /// No open time is longer than this.
    pub(super) fn longest(&self) -> Duration {
        self.max + self.most_jitter(self.max)
    }
}

impl TryFrom<&BreakerParameters> for Settings {
    type Error = SettingsError;

    fn try_from(parameters: &BreakerParameters) -> Result<Self, Self::Error> {
        let BreakerParameters { trip, open, half_open, recovery: Recovery { ramp_ms } } = parameters;
        let Trip { consecutive_failures, failures, failure_rate, slow_call_rate } = trip;
        let consecutive_failures =
            consecutive_failures.map(|count| number("trip.consecutiveFailures", count, MAX_COUNT)).transpose()?;
        Ok(Self {
            consecutive_failures,
            failure_count: failures.as_ref().map(CountRule::try_from).transpose()?,
            failure_rate: failure_rate.as_ref().map(RateRule::try_from).transpose()?,
            slow_call_rate: slow_call_rate.as_ref().map(SlowRule::try_from).transpose()?,
            open: OpenTime::try_from(open)?,
            half_open: HalfOpenRule::try_from(half_open)?,
            ramp: in_range("recovery.rampMs", *ramp_ms, 0, in_ms(MAX_DURATION)).map(Duration::from_millis)?,
        })
    }
}

impl TryFrom<&FailureCount> for CountRule {
    type Error = SettingsError;

    fn try_from(rule: &FailureCount) -> Result<Self, Self::Error> {
        let FailureCount { count, window_ms } = rule;
        Ok(Self {
            count: number("trip.failures.count", *count, MAX_COUNT)?,
            window: window("trip.failures.windowMs", *window_ms)?,
        })
    }
}

impl TryFrom<&FailureRate> for RateRule {
    type Error = SettingsError;

    fn try_from(rule: &FailureRate) -> Result<Self, Self::Error> {
        let FailureRate { percent, window, min_requests } = rule;
        Self { percent: *percent, span: span(&FAILURE_RATE, *window)?, min_requests: *min_requests }
            .checked(&FAILURE_RATE)
    }
}

impl TryFrom<&SlowCallRate> for SlowRule {
    type Error = SettingsError;

    fn try_from(rule: &SlowCallRate) -> Result<Self, Self::Error> {
        let SlowCallRate { percent, slower_than_ms, window, min_requests } = rule;
        let rate = RateRule { percent: *percent, span: span(&SLOW_CALL_RATE, *window)?, min_requests: *min_requests };
        Ok(Self {
            slower_than: duration("trip.slowCallRate.slowerThanMs", *slower_than_ms)?,
            rate: rate.checked(&SLOW_CALL_RATE)?,
        })
    }
}

impl RateRule {
    fn checked(self, fields: &RateFields) -> Result<Self, SettingsError> {
        let Self { percent, span, min_requests } = self;
        in_range(fields.percent, percent, 1, 100)?;
        number(fields.min_requests, min_requests, MAX_COUNT)?;
        match span {
            Span::Calls(calls) if min_requests > calls => {
                Err(SettingsError::NeverEnough { field: fields.min_requests, min_requests, calls })
            }
            Span::Calls(_) | Span::Time(_) => Ok(self),
        }
    }
}

impl TryFrom<&Open> for OpenTime {
    type Error = SettingsError;

    fn try_from(open: &Open) -> Result<Self, Self::Error> {
        let Open { base_duration_ms, max_duration_ms, jitter_percent, honor_retry_after } = open;
        let base = duration("open.baseDurationMs", *base_duration_ms)?;
        let max = duration("open.maxDurationMs", *max_duration_ms)?;
        if max < base {
            return Err(SettingsError::MaxBelowBase { base_ms: *base_duration_ms, max_ms: *max_duration_ms });
        }
        Ok(Self {
            base,
            max,
            jitter_percent: in_range("open.jitterPercent", *jitter_percent, 0, 100)?,
            honors_retry_after: *honor_retry_after,
        })
    }
}

impl TryFrom<&HalfOpen> for HalfOpenRule {
    type Error = SettingsError;

    fn try_from(half_open: &HalfOpen) -> Result<Self, Self::Error> {
        let HalfOpen { max_probes, success_threshold, probe_timeout_ms, max_duration_ms } = half_open;
        Ok(Self {
            max_probes: number("halfOpen.maxProbes", *max_probes, MAX_PROBES)?,
            success_threshold: number("halfOpen.successThreshold", *success_threshold, MAX_COUNT)?,
            probe_timeout: duration("halfOpen.probeTimeoutMs", *probe_timeout_ms)?,
            max_duration: duration("halfOpen.maxDurationMs", *max_duration_ms)?,
        })
    }
}

impl SettingsError {
    /// The field at fault, as a path within the breaker's parameters.
    #[must_use]
    pub fn field(&self) -> &'static str {
        match self {
            Self::OutOfRange { field, .. } | Self::NeverEnough { field, .. } => field,
            Self::MaxBelowBase { .. } => "open.maxDurationMs",
        }
    }

    /// The stable word for conditions, Events and metric labels.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::OutOfRange { .. } => "OutOfRange",
            Self::NeverEnough { .. } => "NeverEnough",
            Self::MaxBelowBase { .. } => "MaxBelowBase",
        }
    }
}

fn number(field: &'static str, value: u32, most: u32) -> Result<u32, SettingsError> {
    in_range(field, value, 1, most)
}

fn duration(field: &'static str, value_ms: u64) -> Result<Duration, SettingsError> {
    in_range(field, value_ms, 1, in_ms(MAX_DURATION)).map(Duration::from_millis)
}

fn window(field: &'static str, value_ms: u64) -> Result<Duration, SettingsError> {
    in_range(field, value_ms, in_ms(MIN_WINDOW), in_ms(MAX_DURATION)).map(Duration::from_millis)
}

fn span(fields: &RateFields, looked_at: RateWindow) -> Result<Span, SettingsError> {
    match looked_at {
        RateWindow::Time(window_ms) => window(fields.window_ms, window_ms).map(Span::Time),
        RateWindow::Calls(calls) => number(fields.calls, calls, MAX_WINDOW_CALLS).map(Span::Calls),
    }
}

fn in_range<N>(field: &'static str, value: N, least: N, most: N) -> Result<N, SettingsError>
where
    N: PartialOrd + Into<u64>,
{
    if value < least || value > most {
        return Err(SettingsError::OutOfRange { field, value: value.into(), least: least.into(), most: most.into() });
    }
    Ok(value)
}

/// In whole milliseconds, the unit of the wire.
pub(super) fn in_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
