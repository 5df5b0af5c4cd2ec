//! The kinds of policies that there are, and what names one policy among all kinds.
//!
//! Two policies of different kinds may have the same namespace and name. It must hold names alone: what is done with a kind
//! stands in a module of its own.

use fusebox_policy::config::{PolicyId, PolicyVersion};

/// A kind of policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// CircuitBreakerPolicy.
    CircuitBreakerPolicy,
    /// RateLimit.
    RateLimit,
}

/// One policy of any kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace and name.
    pub id: PolicyId,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 2] = [Self::CircuitBreakerPolicy, Self::RateLimit];

    /// The kind's name, as resources and [`PolicyVersion`] have it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CircuitBreakerPolicy => "CircuitBreakerPolicy",
            Self::RateLimit => "RateLimit",
        }
    }

    /// The kind's name in paths.
    #[must_use]
    pub const fn plural(self) -> &'static str {
        match self {
            Self::CircuitBreakerPolicy => "circuitbreakerpolicies",
            Self::RateLimit => "ratelimits",
        }
    }

    /// A policy of this kind.
    #[must_use]
    pub fn key(self, id: &PolicyId) -> PolicyKey {
        PolicyKey { kind: self, id: id.clone() }
    }

    /// The kind of this name, if it is one of ours.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

impl PolicyKey {
    /// Which policy a version is of; None for a kind that is not ours.
    #[must_use]
    pub fn of(version: &PolicyVersion) -> Option<Self> {
        Kind::named(&version.kind).map(|kind| kind.key(&version.id))
    }
}
