//! What only plans of one kind hold.
//!
//! Everything that several kinds have belongs into [`super::PolicyPlan`] itself; a new kind adds a variant here.

use std::collections::BTreeSet;

use fusebox_api::circuit_breaker::Scope;
use fusebox_api::rate_limit::LimitScope;
use fusebox_policy::config::{BreakerKey, ForcedState, LimitKey};
use jiff::Timestamp;

/// What only one kind has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Of a CircuitBreakerPolicy.
    CircuitBreaker(BreakerPart),
    /// Of a RateLimit.
    RateLimit(LimitPart),
}

/// What only a CircuitBreakerPolicy has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BreakerPart {
    /// What has a breaker.
    pub scope: Scope,
    /// The rules' names; the last one is empty, for the policy's own breaker. Empty where the spec can't be enforced.
    pub rules: Vec<String>,
    /// What became of its override.
    pub force: ForceVerdict,
}

/// What became of an override.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ForceVerdict {
    /// There is none.
    Absent,
    /// It is in force.
    Active {
        /// What the breakers are forced to.
        state: ForcedState,
        /// When it ends.
        until: Timestamp,
        /// Why.
        reason: String,
    },
    /// Its time has passed.
    Expired {
        /// When it ended.
        until: Timestamp,
    },
    /// It would last longer than is allowed.
    TooFar {
        /// When it would end.
        until: Timestamp,
        /// The latest end that is allowed.
        limit: Timestamp,
    },
}

/// What only a RateLimit has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LimitPart {
    /// Each limit and rule in the order of the spec, the limit's own buckets last. Empty where the spec can't be enforced.
    pub names: Vec<LimitName>,
    /// The first limit's rate in words, and how many more limits there are.
    pub rate: String,
    /// Where its limits are counted.
    pub scopes: BTreeSet<LimitScope>,
}

/// One rule of one limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LimitName {
    /// The limit.
    pub limit: String,
    /// The rule; empty for the limit's own buckets.
    pub rule: String,
    /// Where the limit is counted.
    pub scope: LimitScope,
}

/// What names a policy's state in one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateKeys {
    /// Its breakers.
    pub breakers: BTreeSet<BreakerKey>,
    /// Its limits.
    pub limits: BTreeSet<LimitKey>,
}

impl Part {
    /// That of a CircuitBreakerPolicy.
    #[must_use]
    pub const fn breaker(&self) -> Option<&BreakerPart> {
        match self {
            Self::CircuitBreaker(part) => Some(part),
            Self::RateLimit(_) => None,
        }
    }

    /// That of a RateLimit.
    #[must_use]
    pub const fn limits(&self) -> Option<&LimitPart> {
        match self {
            Self::RateLimit(part) => Some(part),
            Self::CircuitBreaker(_) => None,
        }
    }
}

impl ForceVerdict {
    /// When an override that is in force ends.
    #[must_use]
    pub const fn ends_at(&self) -> Option<Timestamp> {
        match self {
            Self::Active { until, .. } => Some(*until),
            Self::Absent | Self::Expired { .. } | Self::TooFar { .. } => None,
        }
    }
}

impl LimitPart {
    /// Where the limit of this name is counted.
    pub(crate) fn scope_of(&self, limit: &str) -> LimitScope {
        self.names.iter().find(|name| name.limit == limit).map(|name| name.scope).unwrap_or_default()
    }

    /// Whether a limit is counted in the store.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.scopes.contains(&LimitScope::Shared)
    }
}

impl StateKeys {
    /// Whether there are none, as where the policy is disabled.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.breakers.is_empty() && self.limits.is_empty()
    }

    pub(crate) fn extend(&mut self, other: Self) {
        let Self { breakers, limits } = other;
        self.breakers.extend(breakers);
        self.limits.extend(limits);
    }
}
