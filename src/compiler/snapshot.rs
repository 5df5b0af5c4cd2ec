//! What the compiler knows of the cluster, reduced to what decides.
//!
//! The values must be plain and small: the operator keeps thousands of them, and a golden file
//! must be able to name every input of a decision.

mod from_objects;
mod injection;
mod pod_owner;
mod policy;
mod spoken;

use std::collections::{BTreeMap, BTreeSet};

use fusebox_api::names::{INJECT_ENABLED, INJECT_LABEL};
use fusebox_policy::config::{self, Reference, ServiceId, WorkloadId};
use jiff::Timestamp;

pub use from_objects::taken_ports;
pub use injection::{Injection, Interception};
pub use pod_owner::workload_of;
pub use policy::{CircuitBreaker, Policy, PolicySpec, RateLimit};

/// The namespace that no pod is injected in, besides the operator's own.
const SYSTEM_NAMESPACE: &str = "kube-system";

/// Where the operator stands unless it is told otherwise.
const OPERATOR_NAMESPACE: &str = "fusebox-system";

/// Who the operator is to the API server unless it is told otherwise.
const OPERATOR_SERVICE_ACCOUNT: &str = "fusebox-operator";

/// Everything that [`crate::compile`] decides from.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The time to decide at; only overrides depend on it.
    pub now: Timestamp,
    /// Every CircuitBreakerPolicy.
    pub circuit_breakers: Vec<CircuitBreaker>,
    /// Every RateLimit.
    pub rate_limits: Vec<RateLimit>,
    /// What is known of the values that policies name; one that is absent is [`ReferenceState::Unread`].
    pub references: BTreeMap<Reference, ReferenceState>,
    /// Every Service.
    pub services: Vec<Service>,
    /// Every pod that has not finished.
    pub pods: Vec<Pod>,
    /// Workload templates; needed only for workloads that have no pod.
    pub workloads: Vec<Workload>,
    /// Every namespace.
    pub namespaces: Vec<Namespace>,
    /// Whether the Prometheus operator's resources are installed.
    pub prometheus: Prometheus,
    /// The operator that compiles.
    pub operator: Operator,
}

/// What the compiler must know of the operator that it compiles for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// The namespace it stands in, where no pod is injected.
    pub namespace: String,
    /// Further namespaces where no pod is injected, besides kube-system.
    pub excluded: BTreeSet<String>,
    /// Its version; sidecars of an older one are told of.
    pub version: String,
    /// The name of its service account, which people grant rights to.
    pub service_account: String,
}

/// What is known of one value that policies name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ReferenceState {
    /// It is there.
    Present {
        /// Its object's version, which changes when it does and tells nothing of it.
        revision: String,
    },
    /// There is no such object.
    Missing,
    /// The object has no such key.
    KeyMissing,
    /// It is there and can't be sent to sidecars.
    Unusable {
        /// Why not; never a part of the value.
        problem: String,
    },
    /// The operator has no right to read it.
    NotPermitted,
    /// The operator has not read it yet.
    #[default]
    Unread,
}

/// A Service as the compiler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its namespace and name.
    pub id: ServiceId,
    /// How it is reached.
    pub kind: ServiceKind,
    /// Which pods stand behind it; empty selects none.
    pub selector: BTreeMap<String, String>,
    /// Its ports, of every protocol.
    pub ports: Vec<ServicePort>,
    /// Entries of its list of opaque ports that are none of its ports, the first few.
    pub stray_opaque_ports: Vec<String>,
}

/// How a Service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// By cluster IPs; none are known where it came from a file.
    ClusterIps(Vec<String>),
    /// By its pods' own addresses.
    Headless,
    /// By a name outside.
    ExternalName(String),
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Its name; empty where it has none.
    pub name: String,
    /// The port callers use.
    pub port: u16,
    /// The container port behind it.
    pub target: TargetPort,
    /// Whether it is TCP.
    pub protocol: Protocol,
    /// What is spoken there, as its `appProtocol` and the Service's opaque ports say.
    pub spoken: config::Protocol,
}

/// A container port by number or name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// By number.
    Number(u16),
    /// By the name the pod's containers give it.
    Name(String),
}

/// A port's transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP, which policies can guard.
    Tcp,
    /// UDP or SCTP, which they can't.
    Other,
}

/// A pod as the compiler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid; empty where it came from a file.
    pub uid: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The workload it belongs to.
    pub workload: WorkloadId,
    /// The application's TCP ports by name, also those whose name the sidecar took over.
    pub ports: BTreeMap<String, u16>,
    /// Whether it is Ready.
    pub ready: bool,
    /// Whether it has a sidecar: the label alone says nothing, the container must be there.
    pub sidecar: bool,
    /// What the injector left on it.
    pub injection: Injection,
    /// Whether it is being deleted.
    pub terminating: bool,
}

/// A workload's pod template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// The workload.
    pub id: WorkloadId,
    /// The template's labels.
    pub labels: BTreeMap<String, String>,
    /// The template's TCP ports by name.
    pub ports: BTreeMap<String, u16>,
}

/// A namespace as the compiler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The namespaces whose policies its callers obey.
    pub accepts_policies_from: Vec<String>,
    /// How traffic reaches the sidecars of its pods, as its annotation says; not checked.
    pub interception: Option<String>,
}

/// Whether the Prometheus operator's resources are installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prometheus {
    /// ServiceMonitor and PrometheusRule can be applied.
    Installed,
    /// They can't.
    #[default]
    Missing,
}

/// Why an object can't be reduced.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {namespace}/{name} has no {field}")]
pub struct SnapshotError {
    /// The object's kind.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// What it lacks.
    pub field: &'static str,
}

impl Snapshot {
    /// A snapshot of nothing.
    #[must_use]
    pub fn empty(now: Timestamp) -> Self {
        Self {
            now,
            circuit_breakers: Vec::new(),
            rate_limits: Vec::new(),
            references: BTreeMap::new(),
            services: Vec::new(),
            pods: Vec::new(),
            workloads: Vec::new(),
            namespaces: Vec::new(),
            prometheus: Prometheus::default(),
            operator: Operator::default(),
        }
    }
}

impl Default for Operator {
    fn default() -> Self {
        Self {
            namespace: OPERATOR_NAMESPACE.to_owned(),
            excluded: BTreeSet::new(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            service_account: OPERATOR_SERVICE_ACCOUNT.to_owned(),
        }
    }
}

impl Operator {
    /// Who the operator is, as role bindings name it.
    #[must_use]
    pub fn reader(&self) -> String {
        format!("{}:{}", self.namespace, self.service_account)
    }

    /// Whether a pod or template with these labels asks for a sidecar. Its own label beats its namespace's; where
    /// no pod is injected nobody is heard.
    #[must_use]
    pub fn is_asked(&self, (name, namespace): (&str, Option<&Namespace>), labels: &BTreeMap<String, String>) -> bool {
        if self.is_exempt(name) {
            return false;
        }
        let inherited = || namespace.and_then(|it| it.labels.get(INJECT_LABEL));
        labels.get(INJECT_LABEL).or_else(inherited).is_some_and(|value| value == INJECT_ENABLED)
    }

    /// Whether no pod of this namespace ever gets a sidecar.
    #[must_use]
    pub fn is_exempt(&self, namespace: &str) -> bool {
        namespace == SYSTEM_NAMESPACE || namespace == self.namespace || self.excluded.contains(namespace)
    }
}
