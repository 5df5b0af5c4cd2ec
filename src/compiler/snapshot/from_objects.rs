//! Reduces the API server's objects to the snapshot's values.
//!
//! It must read only the fields that decide something, so that a watch of metadata and a few
//! fields suffices, and a change of anything else changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use fusebox_api::names::{
    CONSENT_ANNOTATION, INTERCEPTION_ANNOTATION, OPAQUE_PORTS_ANNOTATION, SIDECAR_CONTAINER, SIDECAR_INJECTED,
    SIDECAR_LABEL, TAKEN_PORTS_ANNOTATION,
};
use fusebox_policy::config::{self, ServiceId, WorkloadId};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::{CronJob, Job};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ManagedFieldsEntry, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::spoken::spoken;
use super::{
    Injection, Namespace, Pod, Protocol, Service, ServiceKind, ServicePort, TargetPort, Workload, workload_of,
};

/// Strays in a list of opaque ports that are kept, at most.
const MAX_STRAYS: usize = 4;

/// A stray is cut to this many characters.
const MAX_STRAY_LENGTH: usize = 32;

/// Where a manifest names no namespace.
const DEFAULT_NAMESPACE: &str = "default";

impl From<&core::Service> for Service {
    fn from(service: &core::Service) -> Self {
        let spec = service.spec.clone().unwrap_or_default();
        let kind = service_kind(&spec);
        let selector = match kind {
            ServiceKind::ExternalName(_) => BTreeMap::new(),
            ServiceKind::ClusterIps(_) | ServiceKind::Headless => spec.selector.unwrap_or_default(),
        };
        let opaque = opaque_ports(&service.metadata);
        let ports: Vec<ServicePort> =
            spec.ports.iter().flatten().filter_map(|port| service_port(port, &opaque)).collect();
        Self {
            id: ServiceId { namespace: namespace_of(&service.metadata), name: name_of(&service.metadata) },
            kind,
            selector,
            stray_opaque_ports: stray_opaque_ports(&service.metadata, &ports),
            ports,
        }
    }
}

impl Pod {
    /// The pod; absent where it has finished, since it then neither calls nor answers.
    #[must_use]
    pub fn from_object(pod: &core::Pod) -> Option<Self> {
        let status = pod.status.clone().unwrap_or_default();
        if matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
            return None;
        }
        let labels = pod.metadata.labels.clone().unwrap_or_default();
        let marked = labels.get(SIDECAR_LABEL).is_some_and(|value| value == SIDECAR_INJECTED);
        let sidecar = marked && pod.spec.as_ref().is_some_and(has_sidecar);
        let injection = match sidecar {
            true => Injection::from_annotations(&pod.metadata),
            false => Injection::without_sidecar(pod),
        };
        let mut ports = pod.spec.as_ref().map(container_ports).unwrap_or_default();
        if sidecar {
            // Where the sidecar took names over, they still mean the application's ports.
            ports.extend(pod.metadata.annotations.iter().flat_map(taken_ports));
        }
        let mut workload = workload_of(&pod.metadata);
        workload.namespace = namespace_of(&pod.metadata);
        Some(Self {
            namespace: namespace_of(&pod.metadata),
            name: name_of(&pod.metadata),
            uid: pod.metadata.uid.clone().unwrap_or_default(),
            sidecar,
            injection,
            labels,
            workload,
            ports,
            ready: status.conditions.iter().flatten().any(|it| it.type_ == "Ready" && it.status == "True"),
            terminating: pod.metadata.deletion_timestamp.is_some(),
        })
    }
}

impl From<&Deployment> for Workload {
    fn from(object: &Deployment) -> Self {
        from_template("Deployment", &object.metadata, object.spec.as_ref().map(|spec| &spec.template))
    }
}

impl From<&StatefulSet> for Workload {
    fn from(object: &StatefulSet) -> Self {
        from_template("StatefulSet", &object.metadata, object.spec.as_ref().map(|spec| &spec.template))
    }
}

impl From<&DaemonSet> for Workload {
    fn from(object: &DaemonSet) -> Self {
        from_template("DaemonSet", &object.metadata, object.spec.as_ref().map(|spec| &spec.template))
    }
}

impl From<&Job> for Workload {
    fn from(object: &Job) -> Self {
        from_template("Job", &object.metadata, object.spec.as_ref().map(|spec| &spec.template))
    }
}

impl From<&CronJob> for Workload {
    fn from(object: &CronJob) -> Self {
        let template = object.spec.as_ref().and_then(|spec| spec.job_template.spec.as_ref());
        from_template("CronJob", &object.metadata, template.map(|spec| &spec.template))
    }
}

impl From<&core::Namespace> for Namespace {
    fn from(namespace: &core::Namespace) -> Self {
        let metadata = &namespace.metadata;
        let consent = metadata.annotations.as_ref().and_then(|all| all.get(CONSENT_ANNOTATION));
        let listed = consent.map(String::as_str).unwrap_or_default().split(',').map(str::trim);
        Self {
            name: name_of(metadata),
            labels: metadata.labels.clone().unwrap_or_default(),
            accepts_policies_from: listed.filter(|name| !name.is_empty()).map(str::to_owned).collect(),
            interception: metadata.annotations.as_ref().and_then(|all| all.get(INTERCEPTION_ANNOTATION)).cloned(),
        }
    }
}

/// The application's ports whose names a pod's sidecar has, as the injector left them on the pod; what is no port is left out.
#[must_use]
pub fn taken_ports(annotations: &BTreeMap<String, String>) -> Vec<(String, u16)> {
    let listed = annotations.get(TAKEN_PORTS_ANNOTATION).map(String::as_str).unwrap_or_default();
    let port = |entry: &str| {
        let (name, port) = entry.trim().split_once('=')?;
        Some((name.to_owned(), port.parse().ok().filter(|port| *port > 0)?))
    };
    listed.split(',').filter_map(port).collect()
}

pub(super) fn namespace_of(metadata: &ObjectMeta) -> String {
    metadata.namespace.clone().unwrap_or_else(|| DEFAULT_NAMESPACE.to_owned())
}

pub(super) fn name_of(metadata: &ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}

/// The latest write by a manager that owns part of `spec.override`.
pub(super) fn override_written(metadata: &ObjectMeta) -> Option<Timestamp> {
    let owns_override = |entry: &&ManagedFieldsEntry| {
        let fields = entry.fields_v1.as_ref().and_then(|fields| fields.0.get("f:spec"));
        fields.is_some_and(|spec| spec.get("f:override").is_some())
    };
    let entries = metadata.managed_fields.iter().flatten().filter(owns_override);
    entries.filter_map(|entry| entry.time.as_ref().map(|time| time.0)).max()
}

fn service_kind(spec: &core::ServiceSpec) -> ServiceKind {
    if spec.type_.as_deref() == Some("ExternalName") {
        return ServiceKind::ExternalName(spec.external_name.clone().unwrap_or_default());
    }
    if spec.cluster_ip.as_deref() == Some("None") {
        return ServiceKind::Headless;
    }
    let listed = spec.cluster_ips.clone().filter(|addresses| !addresses.is_empty());
    ServiceKind::ClusterIps(
        listed.unwrap_or_else(|| spec.cluster_ip.iter().filter(|ip| !ip.is_empty()).cloned().collect()),
    )
}

/// The ports that the Service's owner wants passed through untouched; what is no number in the list says nothing.
fn opaque_ports(metadata: &ObjectMeta) -> BTreeSet<u16> {
    listed_opaque_ports(metadata).filter_map(|port| port.parse().ok()).collect()
}

/// What of that list is none of the Service's ports: a slip of the pen, which would be passed over in silence.
fn stray_opaque_ports(metadata: &ObjectMeta, ports: &[ServicePort]) -> Vec<String> {
    let is_port = |entry: &str| entry.parse().is_ok_and(|number: u16| ports.iter().any(|port| port.port == number));
    let strays = listed_opaque_ports(metadata).filter(|entry| !entry.is_empty() && !is_port(entry));
    strays.take(MAX_STRAYS).map(|entry| entry.chars().take(MAX_STRAY_LENGTH).collect()).collect()
}

fn listed_opaque_ports(metadata: &ObjectMeta) -> impl Iterator<Item = &str> {
    let listed = metadata.annotations.as_ref().and_then(|all| all.get(OPAQUE_PORTS_ANNOTATION));
    listed.into_iter().flat_map(|list| list.split(',')).map(str::trim)
}

fn service_port(port: &core::ServicePort, opaque: &BTreeSet<u16>) -> Option<ServicePort> {
    let number = u16::try_from(port.port).ok().filter(|number| *number > 0)?;
    let target = match &port.target_port {
        None => TargetPort::Number(number),
        Some(IntOrString::Int(target)) => TargetPort::Number(u16::try_from(*target).ok().filter(|it| *it > 0)?),
        Some(IntOrString::String(name)) => TargetPort::Name(name.clone()),
    };
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => Protocol::Tcp,
        Some(_) => Protocol::Other,
    };
    let spoken = match opaque.contains(&number) {
        true => config::Protocol::Tcp,
        false => port.app_protocol.as_deref().map(spoken).unwrap_or_default(),
    };
    Some(ServicePort { name: port.name.clone().unwrap_or_default(), port: number, target, protocol, spoken })
}

/// Every container that lasts as long as the pod.
fn lasting_containers(spec: &core::PodSpec) -> impl Iterator<Item = &core::Container> {
    let restartable = spec.init_containers.iter().flatten().filter(|it| it.restart_policy.as_deref() == Some("Always"));
    spec.containers.iter().chain(restartable)
}

fn has_sidecar(spec: &core::PodSpec) -> bool {
    lasting_containers(spec).any(|container| container.name == SIDECAR_CONTAINER)
}

/// The application's ports: what the sidecar listens on is nobody's target.
fn container_ports(spec: &core::PodSpec) -> BTreeMap<String, u16> {
    let containers = lasting_containers(spec).filter(|container| container.name != SIDECAR_CONTAINER);
    let ports = containers.flat_map(|container| container.ports.iter().flatten());
    let tcp = ports.filter(|port| port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP"));
    tcp.filter_map(|port| Some((port.name.clone()?, u16::try_from(port.container_port).ok()?))).collect()
}

fn from_template(kind: &str, metadata: &ObjectMeta, template: Option<&core::PodTemplateSpec>) -> Workload {
    let labels = template.and_then(|template| template.metadata.as_ref()).and_then(|it| it.labels.clone());
    Workload {
        id: WorkloadId { namespace: namespace_of(metadata), kind: kind.to_owned(), name: name_of(metadata) },
        labels: labels.unwrap_or_default(),
        ports: template.and_then(|template| template.spec.as_ref()).map(container_ports).unwrap_or_default(),
    }
}
