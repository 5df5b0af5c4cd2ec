//! The plan: what every sidecar is told, and what became of every policy.
//!
//! It is made whole from a snapshot each time and never patched, so that no part of it can be
//! stale; it must hold nothing that the snapshot does not determine.

mod coverage;
mod guarded;
mod part;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use fusebox_api::common::{Mode, TargetRef};
use fusebox_policy::config::{PolicyId, PolicyVersion, ProxyConfig, Reference, Side, TargetId, WorkloadId};
use fusebox_policy::stream::LiveReplicas;
use jiff::Timestamp;

use crate::kind::{Kind, PolicyKey};
use crate::monitoring::AlertSubject;
use crate::snapshot::{Prometheus, ReferenceState};

pub use coverage::{Coverage, Gap, GapPod, GapPods, MAX_NAMED_PODS};
pub use guarded::Guarded;
pub use part::{BreakerPart, ForceVerdict, LimitName, LimitPart, Part, StateKeys};
pub use verdict::{Attached, Cause, Doubt, Name, Overruled, Refusal, Verdict};

/// What the operator applies and sends, and what it makes statuses from.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Every workload with sidecars.
    pub workloads: BTreeMap<WorkloadId, WorkloadPlan>,
    /// Every policy of every kind.
    pub policies: BTreeMap<PolicyKey, PolicyPlan>,
    /// Every value of a Secret or ConfigMap that a policy names, to be watched.
    pub references: BTreeSet<Reference>,
    /// Namespaces in which a workload has sidecars; each gets its monitoring objects.
    pub namespaces_with_sidecars: BTreeSet<String>,
    /// The Services that have a policy, for the injection of pods that are not there yet.
    pub guarded: Guarded,
    /// Whether monitoring objects can be applied.
    pub prometheus: Prometheus,
    /// When the plan changes by time alone, since an override ends; compile again then.
    pub recompile_at: Option<Timestamp>,
}

/// One workload with sidecars.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadPlan {
    /// What its sidecars enforce.
    pub config: ProxyConfig,
    /// The configuration's version, [`ProxyConfig::revision`].
    pub revision: String,
    /// The ConfigMap that carries it, in the workload's namespace.
    pub config_map_name: String,
    /// The values that its sidecars are sent beside it, and no others: those of policies of the workload's own namespace. Sorted.
    pub references: Vec<Reference>,
}

/// What became of one policy.
#[derive(Clone, Debug, PartialEq)]
pub struct PolicyPlan {
    /// Which policy.
    pub key: PolicyKey,
    /// The policy at its generation; an acknowledgement names the same.
    pub version: PolicyVersion,
    /// Which end of a call enforces it.
    pub side: Side,
    /// Whether it acts.
    pub mode: Mode,
    /// Its references in the order of the spec, each with its verdict.
    pub targets: Vec<TargetPlan>,
    /// The pods that enforce it, by uid.
    pub pods: BTreeMap<String, BoundPod>,
    /// How far the enforcing side's sidecars cover it.
    pub coverage: Coverage,
    /// The values of Secrets and ConfigMaps that it names, with what is known of them.
    pub references: BTreeMap<Reference, ReferenceState>,
    /// What only its kind has.
    pub part: Part,
    /// What its alerts depend on; none where it is disabled.
    pub alerts: Option<AlertSubject>,
    /// Whether monitoring objects can be applied.
    pub prometheus: Prometheus,
    /// Who must be granted the right to read what it names, as `namespace:serviceaccount`.
    pub reader: String,
}

/// What became of one reference.
#[derive(Clone, Debug, PartialEq)]
pub struct TargetPlan {
    /// The reference as the spec has it.
    pub reference: TargetRef,
    /// The target it means.
    pub target: TargetId,
    /// Whether the policy applies to the target.
    pub verdict: Verdict,
    /// Places where another policy has the word, sorted.
    pub overruled: Vec<Overruled>,
    /// Whether it has the word at any place that has a sidecar.
    pub attached: Attached,
    /// What is accepted and hardly meant.
    pub doubts: Vec<Doubt>,
}

/// A pod that enforces a policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundPod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its workload.
    pub workload: WorkloadId,
    /// The revision its sidecar should enforce.
    pub revision: String,
    /// Whether it is Ready; only Ready pods count for `Programmed`.
    pub readiness: Readiness,
    /// The policy's breakers and limits in it, shared by the workload's pods; none where the policy is disabled.
    pub keys: Arc<StateKeys>,
}

impl BoundPod {
    /// Whether it is Ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.readiness == Readiness::Ready
    }
}

/// Whether a pod is Ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is.
    Ready,
    /// It is not.
    NotReady,
}

impl Plan {
    /// The policies of one kind by namespace and name, those after `after`.
    pub fn of_kind(
        &self,
        kind: Kind,
        after: Option<&PolicyId>,
    ) -> impl Iterator<Item = (&PolicyId, &PolicyPlan)> + Clone {
        let least = PolicyId { namespace: String::new(), name: String::new() };
        let start = Bound::Excluded(PolicyKey::new(kind, after.cloned().unwrap_or(least)));
        let from = self.policies.range((start, Bound::Unbounded));
        from.take_while(move |(key, _)| key.kind == kind).map(|(key, plan)| (&key.id, plan))
    }

    /// How many proxies share the limits of each policy that a workload's configuration carries and that has limits of scope
    /// Shared, sorted.
    #[must_use]
    pub fn replicas_for(&self, workload: &WorkloadId) -> Vec<LiveReplicas> {
        let carried = self.workloads.get(workload).into_iter().flat_map(|plan| &plan.config.policies);
        let limits = carried.filter(|version| version.kind == Kind::RateLimit.as_str());
        let keys = limits.map(|version| PolicyKey::new(Kind::RateLimit, version.id.clone()));
        let shared = keys
            .filter_map(|key| self.policies.get(&key))
            .filter(|policy| policy.part.limits().is_some_and(LimitPart::is_shared));
        shared.map(|plan| LiveReplicas { policy: plan.key.id.clone(), replicas: plan.live_replicas() }).collect()
    }
}

impl PolicyPlan {
    /// Ready pods that enforce it, at least 1.
    #[must_use]
    pub fn live_replicas(&self) -> u32 {
        let ready = self.pods.values().filter(|pod| pod.is_ready()).count();
        u32::try_from(ready).unwrap_or(u32::MAX).max(1)
    }
}
