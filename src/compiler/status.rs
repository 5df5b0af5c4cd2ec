//! A policy's status: from its plan and what the pods report.
//!
//! Pure, so that every replica would come to the same status and golden files can hold it. A
//! report counts only for pods that the plan binds to the policy, and silence is never Closed.

mod circuit_breaker;
mod conditions;
mod limits;
mod live;
mod rate_limit;
mod reason;
mod sidecars;
mod targets;
mod words;

use std::collections::BTreeMap;

use fusebox_api::status::SidecarsStatus;
use fusebox_api::{CircuitBreakerPolicyStatus, RateLimitStatus};
use fusebox_policy::config::PolicyVersion;
use fusebox_policy::report::{BreakerReport, BrokenReference, LimitReport};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use serde::Serialize;

use crate::kind::PolicyKey;
use crate::plan::{BoundPod, Part, PolicyPlan};

pub use live::{Asked, Heard, live, live_limits};
pub use reason::Reason;
pub use sidecars::Problem;

/// For this long after its stream ended a pod still counts with what it last reported, so that a
/// stream that is renewed does not show.
pub const DISCONNECT_GRACE: SignedDuration = SignedDuration::from_secs(10);

/// A Ready pod that does not enforce what it should for this long is told of: configurations take less than a second, and a
/// pod that just became Ready or an operator that just started must not be.
pub const BEHIND_GRACE: SignedDuration = SignedDuration::from_secs(60);

/// What the operator has heard from all pods.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Reports {
    /// What each pod said, by its uid.
    pub pods: BTreeMap<String, PodReport>,
    /// Whether every pod has had the time to speak.
    pub completeness: Completeness,
    /// What became of the monitoring objects of a policy.
    pub monitoring: BTreeMap<PolicyKey, Monitoring>,
    /// Since when Ready pods enforce something else than their workload's configuration, or are not heard, by uid.
    pub behind: BTreeMap<String, Timestamp>,
}

/// Whether every pod has had the time to speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Completeness {
    /// The listener has just begun: what the previous status says of pods stands.
    #[default]
    Settling,
    /// Who has not spoken is silent.
    Complete,
}

/// What became of a policy's monitoring objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Monitoring {
    /// They were applied.
    Applied,
    /// They could not be applied.
    Failed {
        /// Why.
        error: String,
    },
}

/// What one pod said.
#[derive(Clone, Debug, PartialEq)]
pub struct PodReport {
    /// Whether its stream is up.
    pub connection: Connection,
    /// The policies, at their generation, that it acknowledged last.
    pub acked: Vec<PolicyVersion>,
    /// The revision it refused last, if it has acknowledged none since.
    pub nack: Option<Nack>,
    /// Its breakers that have seen traffic.
    pub breakers: Vec<BreakerReport>,
    /// Its limits that have decided something.
    pub limits: Vec<LimitReport>,
    /// Values of Secrets and ConfigMaps that it can't use.
    pub broken_references: Vec<BrokenReference>,
}

/// Whether a pod's stream is up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It is.
    Connected,
    /// It ended.
    Lost {
        /// When.
        since: Timestamp,
    },
}

/// A refusal of a configuration by a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nack {
    /// Which revision.
    pub revision: String,
    /// Why, in the proxy's words.
    pub error: String,
}

/// The status of a policy of any kind.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum PolicyStatus {
    /// Of a CircuitBreakerPolicy.
    CircuitBreaker(CircuitBreakerPolicyStatus),
    /// Of a RateLimit.
    RateLimit(RateLimitStatus),
}

/// Makes the status of a policy; `previous` is what stands, and counts only where it is of the policy's kind.
#[must_use]
pub fn fold(plan: &PolicyPlan, reports: &Reports, now: Timestamp, previous: Option<&PolicyStatus>) -> PolicyStatus {
    match &plan.part {
        Part::CircuitBreaker(part) => {
            let previous = previous.and_then(PolicyStatus::circuit_breaker);
            PolicyStatus::CircuitBreaker(circuit_breaker::fold((plan, part), reports, now, previous))
        }
        Part::RateLimit(part) => {
            let previous = previous.and_then(PolicyStatus::rate_limit);
            PolicyStatus::RateLimit(rate_limit::fold((plan, part), reports, now, previous))
        }
    }
}

impl PolicyStatus {
    /// The conditions.
    #[must_use]
    pub fn conditions(&self) -> &[Condition] {
        match self {
            Self::CircuitBreaker(status) => &status.conditions,
            Self::RateLimit(status) => &status.conditions,
        }
    }

    /// The sidecars of the enforcing side.
    #[must_use]
    pub const fn sidecars(&self) -> Option<&SidecarsStatus> {
        match self {
            Self::CircuitBreaker(status) => status.sidecars.as_ref(),
            Self::RateLimit(status) => status.sidecars.as_ref(),
        }
    }

    /// Where it is that of a CircuitBreakerPolicy.
    #[must_use]
    pub const fn circuit_breaker(&self) -> Option<&CircuitBreakerPolicyStatus> {
        match self {
            Self::CircuitBreaker(status) => Some(status),
            Self::RateLimit(_) => None,
        }
    }

    /// Where it is that of a RateLimit.
    #[must_use]
    pub const fn rate_limit(&self) -> Option<&RateLimitStatus> {
        match self {
            Self::RateLimit(status) => Some(status),
            Self::CircuitBreaker(_) => None,
        }
    }
}

/// The pods that enforce a policy and are heard: only these say anything of its state.
fn heard<'a>(
    plan: &'a PolicyPlan,
    reports: &'a Reports,
    now: Timestamp,
) -> impl Iterator<Item = (&'a BoundPod, &'a PodReport)> {
    plan.pods.iter().filter_map(move |(uid, bound)| {
        let report = reports.pods.get(uid).filter(|report| report.counts_at(now))?;
        let enforces = !bound.keys.is_empty() && report.acked.iter().any(|acked| plan.key.is(acked));
        enforces.then_some((bound, report))
    })
}

impl PodReport {
    /// Whether what the pod said still counts.
    #[must_use]
    pub fn counts_at(&self, now: Timestamp) -> bool {
        match self.connection {
            Connection::Connected => true,
            Connection::Lost { since } => now.duration_since(since) <= DISCONNECT_GRACE,
        }
    }
}

#[cfg(test)]
mod tests;
