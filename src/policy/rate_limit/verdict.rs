//! What a bucket says of one request.
//!
//! It must hold durations, not moments: the same words come from buckets of this proxy, whose time is monotonic, and from the
//! store, whose time is its own.

use std::time::Duration;

use super::rate::Rate;

/// What one request asks of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The bucket's rate now. A bucket that had another keeps what it was spent down to.
    pub rate: Rate,
    /// What the request weighs. One of 0 is not limited at all.
    pub cost: u32,
    /// What becomes of it beyond the limit.
    pub exceed: Exceed,
}

/// What becomes of a request beyond the limit, in checked form.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Exceed {
    /// It is refused.
    #[default]
    Refuse,
    /// It is refused, and so is all of the client for this time from then on.
    Block(Duration),
    /// It may wait up to this time for what is not in the bucket yet.
    Delay(Duration),
}

/// What a bucket says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether it passes.
    pub outcome: Outcome,
    /// What the bucket holds afterwards, in whole requests of weight 1.
    pub remaining: u32,
    /// How long until the bucket is full again, where nothing more is spent.
    pub reset_after: Duration,
}

/// Whether a request passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It does, and its weight is spent.
    Allowed,
    /// It does once it has waited. Its weight is kept for it, to be spent when its turn comes, or to be given back.
    Delayed {
        /// How long, at most the delay that was asked for.
        wait: Duration,
    },
    /// It does not.
    Refused {
        /// Why.
        refusal: Refusal,
        /// When the same request would pass, where nothing else is spent; none where it weighs more than a full bucket holds.
        retry_after: Option<Duration>,
    },
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// The bucket does not hold what it weighs.
    OverLimit,
    /// The same, and from now on the client is refused for a time: told once for each block.
    BlockBegins,
    /// The client is refused for a time.
    Blocked,
}

impl Verdict {
    /// That of a request that no limit concerns, or that weighs nothing.
    #[must_use]
    pub const fn untouched(rate: &Rate) -> Self {
        Self { outcome: Outcome::Allowed, remaining: rate.burst(), reset_after: Duration::ZERO }
    }

    /// Whether it is refused.
    #[must_use]
    pub const fn is_refused(&self) -> bool {
        matches!(self.outcome, Outcome::Refused { .. })
    }

    /// The same after the weight was given back.
    pub(super) fn given_back(self, ask: &Ask) -> Self {
        let Self { outcome, remaining, reset_after } = self;
        let remaining = remaining.saturating_add(ask.cost).min(ask.rate.burst());
        Self { outcome, remaining, reset_after: reset_after.saturating_sub(ask.rate.interval() * ask.cost) }
    }
}

impl Refusal {
    /// The stable word for reports, logs and metric labels.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::OverLimit => "OverLimit",
            Self::BlockBegins | Self::Blocked => "Blocked",
        }
    }
}
