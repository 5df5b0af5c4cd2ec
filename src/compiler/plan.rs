//! The plan: what every sidecar is told, and what became of every policy.
//!
//! It is made whole from a snapshot each time and never patched, so that no part of it can be
//! stale; it must hold nothing that the snapshot does not determine.

mod coverage;
mod part;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Bound;
use std::sync::Arc;

use fusebox_api::common::{Mode, TargetRef};
use fusebox_policy::config::{
    ForcedState, PolicyId, PolicyVersion, ProxyConfig, Reference, ServiceId, Side, TargetId, WorkloadId,
};
use fusebox_policy::stream::LiveReplicas;
use jiff::Timestamp;

use crate::attachment;
use crate::kind::{Kind, PolicyKey};
use crate::monitoring::AlertSubject;
use crate::proxy_config;
use crate::snapshot::{Prometheus, ReferenceState, Service, Snapshot};

pub use coverage::{Coverage, Gap, GapPod, GapPods, MAX_NAMED_PODS};
pub use part::{BreakerPart, LimitName, LimitPart, Part, StateKeys};

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

/// The Services that have an accepted policy. Which pods there are decides nothing here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guarded {
    by_callers: BTreeMap<String, BTreeSet<ServiceId>>,
    at_servers: BTreeSet<ServiceId>,
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

/// What is accepted and hardly meant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Doubt {
    /// What looks into requests, on ports on which there are none.
    #[error(
        "port {0} is passed through as plain TCP, where rules and a fallback have no effect: the policy's own breaker counts connections there"
    )]
    PlainTcp(u16),
    /// Limits on ports on which there are no requests.
    #[error("port {0} is passed through as plain TCP, where there are no requests: limits have no effect there")]
    PlainTcpLimits(u16),
    /// Callers of another namespace, which values never reach.
    #[error(
        "callers in namespace {0} have the limits without quotas, and their tokens count as missing: values of Secrets and ConfigMaps never leave the policy's namespace"
    )]
    ValuesStayHome(String),
    /// A slip in the Service's list of opaque ports.
    #[error("annotation fusebox.dev/opaque-ports lists {0:?}, which is none of the Service's ports")]
    NoSuchOpaquePort(String),
}

/// Whether a target has the word anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    /// At one place at least.
    Somewhere,
    /// At none.
    Nowhere,
}

/// Whether a policy applies to a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Accepted,
    /// It does not.
    Refused(Refusal),
}

/// Why a policy does not apply to a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The target does not exist.
    #[error("Service {0} does not exist: create it, or correct targetRefs")]
    TargetNotFound(Name),
    /// The target has no such port.
    #[error(
        "Service {service} has no port named {section:?}: correct sectionName, or name the port; its ports are {ports}"
    )]
    SectionNotFound {
        /// The Service.
        service: Name,
        /// The name looked for.
        section: String,
        /// The names there are.
        ports: String,
    },
    /// The target has no TCP port.
    #[error("Service {0} has no TCP port: declare the ports that callers use in its spec.ports")]
    NoPorts(Name),
    /// The port is not TCP.
    #[error("port {section:?} of Service {service} is not TCP: {guards} guard TCP ports only")]
    UnsupportedProtocol {
        /// The Service.
        service: Name,
        /// The port.
        section: String,
        /// What the policy would put there.
        guards: &'static str,
    },
    /// Side Server on another namespace's Service.
    #[error(
        "side Server is refused for Service {0} of another namespace: use side Client, which guards the callers in namespace {1}"
    )]
    CrossNamespaceServer(Name, String),
    /// Side Client on a headless Service.
    #[error(
        "Service {0} is headless, so its callers connect to pods and not to the Service: use side Server, or a Service with a cluster IP"
    )]
    HeadlessService(Name),
    /// Side Server on a Service without pods of its own.
    #[error("Service {0} selects no pods of its own (it is an ExternalName or has no selector): use side Client")]
    NoSelector(Name),
    /// Scope Endpoint on a Service without pods of its own.
    #[error(
        "Service {0} selects no pods of its own (it is an ExternalName or has no selector), so its endpoints are not known: use scope Service"
    )]
    NoEndpoints(Name),
    /// The reference repeats an earlier one.
    #[error("Service {0} is already named by targetRefs[{1}]: remove one of the two")]
    Duplicate(Name, usize),
    /// Another policy has the target.
    #[error("{what} belongs to the older policy {winner}: remove one of the two, or narrow one by sectionName")]
    Conflicted {
        /// The policy that wins.
        winner: Name,
        /// What both claim.
        what: String,
    },
    /// The spec says what can't be enforced.
    #[error("{field}: {problem}")]
    InvalidSpec {
        /// The field.
        field: String,
        /// What is wrong and how to mend it.
        problem: String,
    },
}

/// A namespace and a name, written with a slash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The namespace.
    pub namespace: String,
    /// The name.
    pub name: String,
}

/// A place where another policy has the word.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Overruled {
    /// Why the other one has it.
    pub cause: Cause,
    /// The other policy.
    pub by: PolicyId,
    /// The workload whose sidecars decide.
    pub workload: WorkloadId,
    /// The Service's port on side Client, the container port on side Server.
    pub port: u16,
}

/// Why another policy has the word at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// It stands in the callers' own namespace.
    ConsumerPolicy,
    /// It names the port.
    MoreSpecific,
    /// It is older, and targets another Service on the same container port.
    Conflict,
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

/// Whether a pod is Ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It is.
    Ready,
    /// It is not.
    NotReady,
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

/// Compiles everything that the snapshot holds.
#[must_use]
pub fn compile(snapshot: &Snapshot) -> Plan {
    let attachments = attachment::resolve(snapshot);
    let workloads = proxy_config::workloads(&attachments);
    let policies = attachments.policies(&workloads);
    let force = |policy: &PolicyPlan| policy.part.breaker().and_then(|part| part.force.ends_at());
    let recompile_at = policies.values().filter_map(force).min();
    let namespaces_with_sidecars = workloads.keys().map(|id| id.namespace.clone()).collect();
    let references = policies.values().flat_map(|policy| policy.references.keys().cloned()).collect();
    let guarded = attachments.guarded();
    let prometheus = snapshot.prometheus;
    Plan { workloads, policies, references, namespaces_with_sidecars, guarded, prometheus, recompile_at }
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
        let ready = self.pods.values().filter(|pod| pod.readiness == Readiness::Ready).count();
        u32::try_from(ready).unwrap_or(u32::MAX).max(1)
    }
}

impl Guarded {
    /// The Services whose policies on side Client the callers of a namespace obey.
    pub fn by_callers(&self, namespace: &str) -> impl Iterator<Item = &ServiceId> {
        self.by_callers.get(namespace).into_iter().flatten()
    }

    /// The Services of a namespace that have a policy on side Server.
    pub fn at_servers(&self, namespace: &str) -> impl Iterator<Item = &ServiceId> {
        self.at_servers.iter().filter(move |id| id.namespace == namespace)
    }

    pub(crate) fn by_caller(&mut self, namespace: &str, service: &Service) {
        self.by_callers.entry(namespace.to_owned()).or_default().insert(service.id.clone());
    }

    pub(crate) fn at_server(&mut self, service: &Service) {
        self.at_servers.insert(service.id.clone());
    }
}

impl Refusal {
    /// A stable word for conditions and metrics.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::TargetNotFound(_) => "TargetNotFound",
            Self::SectionNotFound { .. } => "SectionNotFound",
            Self::NoPorts(_) => "NoPorts",
            Self::UnsupportedProtocol { .. } => "UnsupportedProtocol",
            Self::CrossNamespaceServer(..) => "CrossNamespaceServer",
            Self::HeadlessService(_) => "HeadlessService",
            Self::NoSelector(_) | Self::NoEndpoints(_) => "NoSelector",
            Self::Duplicate(..) | Self::Conflicted { .. } => "Conflicted",
            Self::InvalidSpec { .. } => "InvalidSpec",
        }
    }

    /// Whether the reference leads nowhere, as `ResolvedRefs` says.
    #[must_use]
    pub const fn is_unresolved(&self) -> bool {
        matches!(self, Self::TargetNotFound(_) | Self::SectionNotFound { .. })
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

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

impl From<&ServiceId> for Name {
    fn from(id: &ServiceId) -> Self {
        Self { namespace: id.namespace.clone(), name: id.name.clone() }
    }
}

impl From<&PolicyId> for Name {
    fn from(id: &PolicyId) -> Self {
        Self { namespace: id.namespace.clone(), name: id.name.clone() }
    }
}
