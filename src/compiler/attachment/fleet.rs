//! Workloads with their pods, and which of them have sidecars.
//!
//! It must take a pod's own metadata for the truth and templates only for workloads that have
//! no pod, because a running pod may be older than its template.

use std::collections::BTreeMap;

use fusebox_policy::config::WorkloadId;

use crate::snapshot::{Interception, Namespace, Operator, Pod, Service, ServicePort, Snapshot, TargetPort, Workload};

/// Every workload.
#[derive(Debug)]
pub(crate) struct Fleet<'a> {
    members: BTreeMap<WorkloadId, Member<'a>>,
    asking: Asking<'a>,
}

/// Who asks for sidecars.
#[derive(Debug)]
struct Asking<'a> {
    operator: &'a Operator,
    namespaces: BTreeMap<&'a str, &'a Namespace>,
}

/// One workload.
#[derive(Debug, Default)]
pub(crate) struct Member<'a> {
    pods: Vec<&'a Pod>,
    shapes: Vec<Shape<'a>>,
    injected: bool,
}

/// What a selector and a port name are compared with.
#[derive(Debug, PartialEq, Eq)]
struct Shape<'a> {
    labels: &'a BTreeMap<String, String>,
    ports: &'a BTreeMap<String, u16>,
}

impl<'a> Fleet<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot) -> Self {
        let mut members: BTreeMap<WorkloadId, Member<'a>> = BTreeMap::new();
        for pod in &snapshot.pods {
            members.entry(pod.workload.clone()).or_default().add_pod(pod);
        }
        let namespaces = snapshot.namespaces.iter().map(|namespace| (namespace.name.as_str(), namespace)).collect();
        let asking = Asking { operator: &snapshot.operator, namespaces };
        for workload in &snapshot.workloads {
            let member = members.entry(workload.id.clone()).or_default();
            if member.pods.is_empty() {
                member.add_template(workload, &asking);
            }
        }
        Self { members, asking }
    }

    /// Whether the pod asks for a sidecar, by its own label or its namespace's.
    pub(crate) fn asks(&self, pod: &Pod) -> bool {
        !self.is_exempt(pod) && self.asking.is_heard(&pod.namespace, &pod.labels)
    }

    /// Whether the pod can't have a sidecar, whatever it asks for.
    pub(crate) fn is_exempt(&self, pod: &Pod) -> bool {
        pod.injection.interception == Interception::Impossible || self.asking.operator.is_exempt(&pod.namespace)
    }

    /// The workloads of a namespace.
    pub(crate) fn in_namespace<'s>(
        &'s self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'s WorkloadId, &'s Member<'a>)> {
        let first = WorkloadId { namespace: namespace.to_owned(), kind: String::new(), name: String::new() };
        let wanted = namespace.to_owned();
        self.members.range(first..).take_while(move |(id, _)| id.namespace == wanted)
    }

    /// The pods of a workload that are not about to go.
    pub(crate) fn pods_of(&self, workload: &WorkloadId) -> impl Iterator<Item = &'a Pod> {
        self.members.get(workload).into_iter().flat_map(Member::lasting_pods)
    }

    /// The pods of a namespace that are not about to go.
    pub(crate) fn lasting_pods_in(&self, namespace: &str) -> impl Iterator<Item = &'a Pod> {
        self.in_namespace(namespace).flat_map(|(_, member)| member.lasting_pods())
    }

    /// The workloads that have sidecars.
    pub(crate) fn with_sidecars(&self) -> impl Iterator<Item = &WorkloadId> {
        self.members.iter().filter(|(_, member)| member.injected).map(|(id, _)| id)
    }
}

impl Asking<'_> {
    fn is_heard(&self, namespace: &str, labels: &BTreeMap<String, String>) -> bool {
        self.operator.is_asked((namespace, self.namespaces.get(namespace).copied()), labels)
    }
}

impl<'a> Member<'a> {
    /// The container ports behind a Service's port in the pods that the Service selects.
    pub(crate) fn container_ports(&self, service: &Service, port: &ServicePort) -> Vec<u16> {
        let selected = self.shapes.iter().filter(|shape| selects(service, shape.labels));
        let mut found: Vec<u16> = selected.filter_map(|shape| shape.container_port(port)).collect();
        found.sort_unstable();
        found.dedup();
        found
    }

    fn lasting_pods(&self) -> impl Iterator<Item = &'a Pod> {
        self.pods.iter().copied().filter(|pod| !pod.terminating)
    }

    fn add_pod(&mut self, pod: &'a Pod) {
        self.pods.push(pod);
        self.injected |= pod.sidecar;
        self.add_shape(Shape { labels: &pod.labels, ports: &pod.ports });
    }

    fn add_template(&mut self, workload: &'a Workload, asking: &Asking<'_>) {
        self.injected = asking.is_heard(&workload.id.namespace, &workload.labels);
        self.add_shape(Shape { labels: &workload.labels, ports: &workload.ports });
    }

    fn add_shape(&mut self, shape: Shape<'a>) {
        if !self.shapes.contains(&shape) {
            self.shapes.push(shape);
        }
    }
}

impl Shape<'_> {
    fn container_port(&self, port: &ServicePort) -> Option<u16> {
        match &port.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => self.ports.get(name).copied(),
        }
    }
}

/// Whether a Service selects pods with these labels; an empty selector selects none.
pub(crate) fn selects(service: &Service, labels: &BTreeMap<String, String>) -> bool {
    !service.selector.is_empty() && service.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
