//! How fast a bucket fills and how much it holds, in checked form.
//!
//! It must not know a bucket's state. Every bound is named here, because a rate may come from a file that no schema has seen.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::config;

/// The most requests of a rate.
pub const MAX_REQUESTS: u32 = 1_000_000;

/// The largest bucket.
pub const MAX_BURST: u32 = 1_000_000;

/// The longest time of a rate.
pub const MAX_PERIOD: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// The shortest time between two requests: the rounding of it to whole nanoseconds makes a rate at most one in a thousand slower.
pub const MIN_INTERVAL: Duration = Duration::from_micros(1);

/// The longest time that an empty bucket may take to fill.
pub const MAX_FILL: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Checked: so many requests in such a time, refilled steadily, and at most `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    requests: u32,
    per: Duration,
    burst: u32,
    /// Nanoseconds from one request to the next, rounded up so that no rate is ever exceeded.
    interval: u64,
}

/// Why a rate was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// A number is outside its bounds.
    #[error("{field} is {value}; set it to {least} to {most}")]
    OutOfRange {
        /// `requests`, `per` or `burst`; `per` in milliseconds.
        field: &'static str,
        /// What it was.
        value: u64,
        /// The least it may be.
        least: u64,
        /// The most it may be.
        most: u64,
    },
    /// More than a million requests a second.
    #[error("requests is {requests} in {per_ms} ms, more than 1000 a millisecond; lower it, or make per longer")]
    TooFast {
        /// How many.
        requests: u32,
        /// In this time.
        per_ms: u64,
    },
    /// An empty bucket would take years to fill.
    #[error("burst is {burst}, which takes {days} days to fill; lower it until it fills within 366 days")]
    TooLarge {
        /// What a full bucket holds.
        burst: u32,
        /// How long it takes to fill.
        days: u64,
    },
}

impl Rate {
    /// Checks a rate.
    ///
    /// # Errors
    /// [`RateError`] naming the field and what to set it to.
    pub fn new(requests: u32, per: Duration, burst: u32) -> Result<Self, RateError> {
        let per_ms = u64::try_from(per.as_millis()).unwrap_or(u64::MAX);
        in_range("requests", requests.into(), MAX_REQUESTS.into())?;
        in_range("per", per_ms, in_ms(MAX_PERIOD))?;
        in_range("burst", burst.into(), MAX_BURST.into())?;
        let interval = in_ns(per).div_ceil(requests.into());
        if in_ns(per) / u64::from(requests) < in_ns(MIN_INTERVAL) {
            return Err(RateError::TooFast { requests, per_ms });
        }
        // At most 31 days x a million, in nanoseconds: more than 64 bits hold.
        let fill = u128::from(interval) * u128::from(burst);
        if fill > MAX_FILL.as_nanos() {
            let days = u64::try_from(fill / Duration::from_secs(24 * 60 * 60).as_nanos()).unwrap_or(u64::MAX);
            return Err(RateError::TooLarge { burst, days });
        }
        Ok(Self { requests, per, burst, interval })
    }

    /// The part of one of so many replicas, for as long as they can't agree: the rate and the burst divided by them. One
    /// request of the `greatest_cost` always finds room, since a bucket that holds less would never let it pass.
    #[must_use]
    pub fn shared_by(self, replicas: NonZeroU32, greatest_cost: u32) -> Self {
        let Self { requests, per, burst, interval } = self;
        let part = (burst / replicas).max(greatest_cost.min(burst)).max(1);
        let slowest = in_ns(MAX_FILL) / u64::from(part);
        Self {
            requests: (requests / replicas).max(1),
            per,
            burst: part,
            interval: interval.saturating_mul(u64::from(replicas.get())).min(slowest),
        }
    }

    /// How many requests, as asked.
    #[must_use]
    pub const fn requests(&self) -> u32 {
        self.requests
    }

    /// In which time, as asked.
    #[must_use]
    pub const fn per(&self) -> Duration {
        self.per
    }

    /// What a full bucket holds.
    #[must_use]
    pub const fn burst(&self) -> u32 {
        self.burst
    }

    /// The time from one request to the next at this rate, rounded up to whole nanoseconds.
    #[must_use]
    pub const fn interval(&self) -> Duration {
        Duration::from_nanos(self.interval)
    }

    /// How long an empty bucket takes to fill.
    #[must_use]
    pub const fn fill(&self) -> Duration {
        Duration::from_nanos(self.fill_ns())
    }

    /// [`Rate::fill`] in nanoseconds.
    pub(super) const fn fill_ns(&self) -> u64 {
        self.interval * self.burst as u64
    }

    /// [`Rate::interval`] in nanoseconds.
    pub(super) const fn interval_ns(&self) -> u64 {
        self.interval
    }
}

impl TryFrom<&config::Rate> for Rate {
    type Error = RateError;

    fn try_from(rate: &config::Rate) -> Result<Self, RateError> {
        let config::Rate { requests, per_ms, burst } = *rate;
        Self::new(requests, Duration::from_millis(per_ms), burst)
    }
}

impl RateError {
    /// The field at fault.
    #[must_use]
    pub const fn field(&self) -> &'static str {
        match self {
            Self::OutOfRange { field, .. } => field,
            Self::TooFast { .. } => "requests",
            Self::TooLarge { .. } => "burst",
        }
    }

    /// The stable word for conditions, Events and metric labels.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::OutOfRange { .. } => "OutOfRange",
            Self::TooFast { .. } => "TooFast",
            Self::TooLarge { .. } => "TooLarge",
        }
    }
}

/// Nanoseconds, for 584 years.
pub(super) fn in_ns(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(duration.subsec_nanos().into())
}

fn in_ms(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000)
}

fn in_range(field: &'static str, value: u64, most: u64) -> Result<(), RateError> {
    if (1..=most).contains(&value) { Ok(()) } else { Err(RateError::OutOfRange { field, value, least: 1, most }) }
}
