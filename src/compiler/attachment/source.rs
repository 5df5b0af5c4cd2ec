//! A policy of any kind, as far as it decides who enforces it, and what it then asks for.
//!
//! This is where kinds meet: a new one adds its arms here and a file of its own beside `breaker_config` and
//! `rate_limit_config`. It must decide nothing; what a spec means is those files' word.

use std::collections::BTreeMap;

use fusebox_api::circuit_breaker::{FallbackType, Scope};
use fusebox_api::common::{Mode, Side, TargetRef};
use fusebox_policy::config::{self, BreakerRule, PolicyId, PolicyVersion, Protocol, Reference, TargetId};
use jiff::Timestamp;

use super::{Direction, Resolved};
use crate::breaker_config;
use crate::kind::{Kind, PolicyKey};
use crate::monitoring::{AlertSubject, Watched};
use crate::plan::{BreakerPart, Doubt, ForceVerdict, Part, Refusal, StateKeys};
use crate::rate_limit_config::{self, Limits};
use crate::snapshot::{CircuitBreaker, Policy, PolicySpec, RateLimit, ReferenceState, Snapshot};

/// A policy of any kind.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    CircuitBreaker(&'a CircuitBreaker),
    RateLimit(&'a RateLimit),
}

/// What a policy asks for at every place that it has.
#[derive(Debug)]
pub(crate) enum Demand<'a> {
    CircuitBreaker {
        source: &'a CircuitBreaker,
        /// Empty where the spec can't be enforced.
        rules: Vec<BreakerRule>,
        force: ForceVerdict,
    },
    RateLimit {
        source: &'a RateLimit,
        /// Empty where the spec can't be enforced.
        limits: Box<Limits>,
    },
}

/// What a policy asks for at one place.
pub(crate) enum Asked {
    CircuitBreaker(Box<config::CircuitBreaker>),
    RateLimit(Box<config::RateLimit>),
}

impl<'a> Source<'a> {
    /// Every policy of a snapshot.
    pub(super) fn all(snapshot: &'a Snapshot) -> impl Iterator<Item = Self> {
        let breakers = snapshot.circuit_breakers.iter().map(Self::CircuitBreaker);
        breakers.chain(snapshot.rate_limits.iter().map(Self::RateLimit))
    }

    pub(crate) const fn kind(self) -> Kind {
        match self {
            Self::CircuitBreaker(_) => Kind::CircuitBreakerPolicy,
            Self::RateLimit(_) => Kind::RateLimit,
        }
    }

    /// What policies of all kinds have.
    fn common(self) -> &'a Policy<dyn PolicySpec> {
        match self {
            Self::CircuitBreaker(source) => source,
            Self::RateLimit(source) => source,
        }
    }

    pub(crate) fn id(self) -> &'a PolicyId {
        &self.common().id
    }

    pub(crate) fn key(self) -> PolicyKey {
        PolicyKey::new(self.kind(), self.id().clone())
    }

    /// The policy at its generation.
    pub(crate) fn version(self) -> PolicyVersion {
        let Policy { id, uid, generation, .. } = self.common();
        let kind = self.kind().as_str().to_owned();
        PolicyVersion { kind, id: id.clone(), uid: uid.clone(), generation: *generation }
    }

    pub(crate) fn created(self) -> Option<Timestamp> {
        self.common().created
    }

    pub(crate) fn side(self) -> Side {
        self.common().spec.side()
    }

    pub(crate) fn mode(self) -> Mode {
        self.common().spec.mode()
    }

    pub(crate) fn target_refs(self) -> &'a [TargetRef] {
        self.common().spec.target_refs()
    }

    /// Whether it tells the pods behind a Service apart, so that they must be known.
    pub(super) fn needs_endpoints(self) -> bool {
        match self {
            Self::CircuitBreaker(source) => source.spec.scope == Scope::Endpoint,
            Self::RateLimit(_) => false,
        }
    }

    /// What it asks for, and why it can't be enforced where it can't.
    pub(super) fn demand(self, snapshot: &Snapshot) -> (Demand<'a>, Option<Refusal>) {
        match self {
            Self::CircuitBreaker(source) => {
                let (rules, refusal) = split(breaker_config::breaker_rules(&source.spec));
                let force = breaker_config::force_verdict(source, snapshot.now);
                (Demand::CircuitBreaker { source, rules, force }, refusal)
            }
            Self::RateLimit(source) => {
                let (limits, refusal) = split(rate_limit_config::limits(source, &snapshot.references));
                (Demand::RateLimit { source, limits: Box::new(limits) }, refusal)
            }
        }
    }

    /// What its alerts depend on; none for a disabled one, which does nothing to watch.
    pub(super) fn alerts(self) -> Option<AlertSubject> {
        let watched = match self {
            Self::CircuitBreaker(source) => Watched::of_breakers(&source.spec),
            Self::RateLimit(source) => Watched::of_limits(&source.spec),
        };
        (self.mode() != Mode::Disabled).then(|| AlertSubject { policy: self.key(), watched })
    }

    /// What of an accepted target is hardly meant.
    pub(super) fn doubts(self, resolved: &Resolved<'_>) -> Vec<Doubt> {
        let plain = resolved.ports.iter().filter(|port| port.spoken == Protocol::Tcp).map(|port| port.port);
        let mut doubts: Vec<Doubt> = match self {
            Self::CircuitBreaker(CircuitBreaker { spec, .. }) => {
                let looks_into_requests = !spec.rules.is_empty() || spec.fallback.kind != FallbackType::None;
                plain.filter(|_| looks_into_requests).map(Doubt::PlainTcp).collect()
            }
            Self::RateLimit(source) => {
                let elsewhere = resolved.callers.iter().filter(|caller| **caller != source.id.namespace);
                let values = rate_limit_config::names_values(&source.spec);
                let without = elsewhere.filter(|_| values).map(|caller| Doubt::ValuesStayHome((*caller).to_owned()));
                plain.map(Doubt::PlainTcpLimits).chain(without).collect()
            }
        };
        doubts.extend(resolved.service.stray_opaque_ports.iter().cloned().map(Doubt::NoSuchOpaquePort));
        doubts
    }
}

impl Demand<'_> {
    /// What stands at a place of this workload's namespace; nothing for a policy that is disabled, which keeps its place.
    pub(crate) fn at(&self, target: &TargetId, namespace: &str) -> Option<Asked> {
        match self {
            Self::CircuitBreaker { source, rules, force } => {
                breaker_config::circuit_breaker(source, (rules, force), target).map(Box::new).map(Asked::CircuitBreaker)
            }
            Self::RateLimit { source, limits } => {
                limits.at(source, target, namespace).map(Box::new).map(Asked::RateLimit)
            }
        }
    }

    /// What names the policy's state in a sidecar at a place.
    pub(super) fn keys(&self, target: &TargetId, direction: &Direction) -> StateKeys {
        let port = match direction {
            Direction::Inbound(port) | Direction::Outbound(_, port) => *port,
        };
        let mut keys = StateKeys::default();
        match self.at(target, &target.namespace) {
            None => {}
            Some(Asked::CircuitBreaker(breaker)) => {
                keys.breakers = breaker.rules.iter().map(|rule| breaker.key(port, rule)).collect();
            }
            Some(Asked::RateLimit(limit)) => {
                let rules = limit.limits.iter().flat_map(|it| it.rules.iter().map(move |rule| (it, rule)));
                keys.limits = rules.map(|part| limit.key(port, part)).collect();
            }
        }
        keys
    }

    /// What only this kind's plans hold.
    pub(super) fn part(&self) -> Part {
        match self {
            Self::CircuitBreaker { source, rules, force } => Part::CircuitBreaker(BreakerPart {
                scope: source.spec.scope,
                rules: rules.iter().map(|rule| rule.name.clone()).collect(),
                force: force.clone(),
            }),
            Self::RateLimit { source, limits } => Part::RateLimit(limits.part(&source.spec)),
        }
    }

    /// The values that the policy names, beside what is known of them.
    pub(super) fn references(
        &self,
        known: &BTreeMap<Reference, ReferenceState>,
    ) -> BTreeMap<Reference, ReferenceState> {
        match self {
            Self::CircuitBreaker { .. } => BTreeMap::new(),
            Self::RateLimit { source, .. } => rate_limit_config::references(source, known),
        }
    }
}

fn split<T: Default>(result: Result<T, Refusal>) -> (T, Option<Refusal>) {
    match result {
        Ok(made) => (made, None),
        Err(refusal) => (T::default(), Some(refusal)),
    }
}
