//! The kinds of policies, and what names one policy among all kinds.
//!
//! Two policies of different kinds may have one name, so that nothing may be kept by namespace and name alone.

use std::fmt;

use fusebox_policy::config::{PolicyId, PolicyVersion};

/// A kind of policy. Where kinds are told one after the other, it is in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// CircuitBreakerPolicy.
    CircuitBreakerPolicy,
    /// RateLimit.
    RateLimit,
}

/// One policy of one kind.
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

    /// The kind as it stands in manifests and acknowledgements.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CircuitBreakerPolicy => "CircuitBreakerPolicy",
            Self::RateLimit => "RateLimit",
        }
    }

    /// What the policies of the kind put in front of a Service.
    #[must_use]
    pub const fn guards(self) -> &'static str {
        match self {
            Self::CircuitBreakerPolicy => "breakers",
            Self::RateLimit => "limits",
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
    /// The policy of this kind and name.
    #[must_use]
    pub const fn new(kind: Kind, id: PolicyId) -> Self {
        Self { kind, id }
    }

    /// Which policy a version is of; None for a kind that is not ours.
    #[must_use]
    pub fn of(version: &PolicyVersion) -> Option<Self> {
        Kind::named(&version.kind).map(|kind| kind.key(&version.id))
    }

    /// Whether an acknowledgement's entry speaks of this policy, at whatever generation.
    #[must_use]
    pub fn is(&self, version: &PolicyVersion) -> bool {
        version.kind == self.kind.as_str() && version.id == self.id
    }
}

impl fmt::Display for PolicyKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}/{}", self.kind.as_str(), self.id.namespace, self.id.name)
    }
}
