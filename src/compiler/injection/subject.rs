//! The pod as it came: what it is, whether it asked, and what is its application's.
//!
//! It is read as a typed pod once, so that everything after may trust the JSON's shape.

use std::collections::BTreeMap;

use fusebox_api::names::{INJECT_ENABLED, INJECT_LABEL, INJECTED_ANNOTATION, REDIRECT_CONTAINER, SIDECAR_CONTAINER};
use fusebox_policy::config::WorkloadId;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

use super::{Injection, InjectionFacts, InjectionRefusal, InjectionRequest, Outcome};
use crate::snapshot::workload_of;

/// Sidecars of other meshes.
const OTHER_MESHES: [&str; 2] = ["istio-proxy", "linkerd-proxy"];

/// What the kubelet marks the shadows of its static pods with.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// The pod as it came.
pub(super) struct Subject<'a> {
    request: &'a InjectionRequest<'a>,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) annotations: BTreeMap<String, String>,
    pub(super) spec: PodSpec,
    pub(super) workload: WorkloadId,
}

/// A container that lives as long as the pod, other than ours.
#[derive(Clone, Copy)]
pub(super) struct Application<'s> {
    /// `containers`, or `initContainers` for one that is restarted.
    pub(super) list: &'static str,
    /// Its position there.
    pub(super) index: usize,
    pub(super) container: &'s Container,
}

impl<'a> Subject<'a> {
    pub(super) fn read(request: &'a InjectionRequest<'a>) -> Result<Self, InjectionRefusal> {
        let malformed = |problem: String| InjectionRefusal::Malformed { problem };
        let pod: Pod = serde::Deserialize::deserialize(request.pod).map_err(|error| malformed(error.to_string()))?;
        let spec = pod.spec.ok_or_else(|| malformed("it has no spec".to_owned()))?;
        let mut workload = workload_of(&pod.metadata);
        request.namespace.clone_into(&mut workload.namespace);
        Ok(Self {
            request,
            labels: pod.metadata.labels.unwrap_or_default(),
            annotations: pod.metadata.annotations.unwrap_or_default(),
            spec,
            workload,
        })
    }

    /// The pod as it came, where it gets no sidecar from us.
    pub(super) fn left_alone(&self, facts: &InjectionFacts<'_>) -> Result<Option<Injection>, InjectionRefusal> {
        let own = self.labels.get(INJECT_LABEL);
        let here = self.request.namespace;
        if facts.operator.is_exempt(here) {
            return Ok(Some(self.exempt(own.is_some_and(|word| word == INJECT_ENABLED).then_some(here))));
        }
        if !facts.operator.is_asked((here, facts.namespace), &self.labels)
            || self.annotations.contains_key(MIRROR_ANNOTATION)
        {
            return Ok(Some(self.untouched(Outcome::NotAsked, Vec::new())));
        }
        let ours = self.annotations.contains_key(INJECTED_ANNOTATION);
        let named = |container: &Container| container.name == SIDECAR_CONTAINER;
        if !ours && self.every_container().any(named) {
            return Ok(Some(self.untouched(Outcome::OwnSidecar, Vec::new())));
        }
        let Some((problem, fix)) = self.obstacle() else { return Ok(None) };
        if own.is_some() {
            return Err(InjectionRefusal::Unable { problem, fix });
        }
        let warning = format!("the pod gets no Fusebox sidecar, because it {problem}: {fix}");
        Ok(Some(self.untouched(Outcome::Unable, vec![warning])))
    }

    pub(super) fn refuse_other_meshes(&self) -> Result<(), InjectionRefusal> {
        let other = self.every_container().find(|container| OTHER_MESHES.contains(&container.name.as_str()));
        other.map_or(Ok(()), |found| Err(InjectionRefusal::OtherMesh { container: found.name.clone() }))
    }

    /// Where our sidecar stands among the init containers, if it was injected before.
    pub(super) fn own_sidecar(&self) -> Option<usize> {
        self.init_containers().iter().position(|container| container.name == SIDECAR_CONTAINER)
    }

    pub(super) fn outcome(&self) -> Outcome {
        if self.own_sidecar().is_some() { Outcome::InjectedBefore } else { Outcome::Injected }
    }

    /// The containers that live as long as the pod, in the order in which a Service's port name is looked up.
    pub(super) fn applications(&self) -> Vec<Application<'_>> {
        let mut found = numbered("containers", &self.spec.containers);
        let restarted = |it: &Application<'_>| {
            it.container.restart_policy.as_deref() == Some("Always") && it.container.name != SIDECAR_CONTAINER
        };
        found.extend(numbered("initContainers", self.init_containers()).into_iter().filter(restarted));
        found
    }

    pub(super) fn init_containers(&self) -> &[Container] {
        self.spec.init_containers.as_deref().unwrap_or_default()
    }

    /// Every container but ours.
    pub(super) fn others(&self) -> impl Iterator<Item = &Container> {
        self.every_container().filter(|it| it.name != SIDECAR_CONTAINER && it.name != REDIRECT_CONTAINER)
    }

    fn every_container(&self) -> impl Iterator<Item = &Container> {
        self.spec.containers.iter().chain(self.init_containers())
    }

    /// What about the pod forbids a sidecar.
    fn obstacle(&self) -> Option<(&'static str, &'static str)> {
        if self.spec.host_network == Some(true) {
            let fix = "set hostNetwork to false: on the node's network a sidecar would take the node's traffic";
            return Some(("uses the node's network (hostNetwork)", fix));
        }
        let windows = self.spec.os.as_ref().is_some_and(|os| os.name == "windows");
        windows.then_some(("runs on Windows", "run it on Linux"))
    }

    /// The pod as it came, with a warning where it asked in the namespace `asked_in`.
    fn exempt(&self, asked_in: Option<&str>) -> Injection {
        let warning = |namespace| {
            format!(
                "the pod gets no Fusebox sidecar: no pod of namespace {namespace} does; run it in another namespace"
            )
        };
        self.untouched(Outcome::Exempt, asked_in.map(warning).into_iter().collect())
    }

    fn untouched(&self, outcome: Outcome, warnings: Vec<String>) -> Injection {
        Injection { pod: self.request.pod.clone(), patch: Vec::new(), warnings, outcome }
    }
}

fn numbered<'s>(list: &'static str, containers: &'s [Container]) -> Vec<Application<'s>> {
    containers.iter().enumerate().map(|(index, container)| Application { list, index, container }).collect()
}
