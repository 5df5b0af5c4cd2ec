//! A policy's status: from its plan and what the pods report.
//!
//! Pure, so that every replica would come to the same status and golden files can hold it. A
//! report counts only for pods that the plan binds to the policy, and silence is never Closed.

mod conditions;
mod live;
mod reason;
mod sidecars;
mod targets;

use std::collections::BTreeMap;

use fusebox_api::CircuitBreakerPolicyStatus;
use fusebox_policy::config::{PolicyId, PolicyVersion};
use fusebox_policy::report::BreakerReport;
use jiff::{SignedDuration, Timestamp};

use crate::plan::PolicyPlan;

pub use live::{Heard, live};
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
    pub monitoring: BTreeMap<PolicyId, Monitoring>,
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

/// Makes the status of a policy; `previous` is what stands.
#[must_use]
pub fn fold(
    plan: &PolicyPlan,
    reports: &Reports,
    now: Timestamp,
    previous: Option<&CircuitBreakerPolicyStatus>,
) -> CircuitBreakerPolicyStatus {
    let observed = match (reports.completeness, previous) {
        (Completeness::Settling, Some(previous)) => targets::kept(plan, previous),
        (Completeness::Settling | Completeness::Complete, _) => targets::observe(plan, reports, now),
    };
    let sidecars = sidecars::observe(plan, reports, now);
    let input = conditions::Input { plan, reports, observed: &observed, sidecars: &sidecars, previous, now };
    let conditions = conditions::all(&input);
    CircuitBreakerPolicyStatus {
        observed_generation: Some(plan.version.generation),
        conditions,
        state: Some(observed.state),
        summary: Some(observed.summary),
        targets: observed.targets,
        truncated: observed.truncated || sidecars.is_truncated(),
        sidecars: Some(sidecars.status()),
    }
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
