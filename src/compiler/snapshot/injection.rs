//! What the injector left on a pod, read back from its annotations.
//!
//! A pod's annotations are its owner's to write, so nothing here may decide about another pod, workload or namespace. What
//! can't be read says nothing.

use std::collections::BTreeSet;

use fusebox_api::names::{EXPLICIT, INJECTED_ANNOTATION, INTERCEPTION_ANNOTATION, OUTBOUND_ANNOTATION, TRANSPARENT};
use fusebox_policy::config::ServiceId;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The annotation on pods that a kubelet made by itself.
const MIRROR_ANNOTATION: &str = "kubernetes.io/config.mirror";

/// Entries of one annotation that are read, at most.
const MAX_LISTED: usize = 1024;

/// What the injector left on a pod. Nothing, where there is no sidecar or somebody brought it by hand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Injection {
    /// The version that injected the sidecar.
    pub version: Option<String>,
    /// How traffic reaches the sidecar.
    pub interception: Interception,
}

/// How traffic reaches a sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Interception {
    /// As whoever brought it arranged it.
    #[default]
    Unknown,
    /// Not at all: the pod is on its node's network or the kubelet's own, and can't have one.
    Impossible,
    /// All of it is redirected.
    Transparent,
    /// By names of ports and by host aliases.
    Explicit {
        /// The Service ports that its host aliases lead to; they are fixed for the pod's life.
        outbound: BTreeSet<(ServiceId, u16)>,
    },
}

impl Injection {
    /// What there is of a pod without a sidecar.
    pub(super) fn without_sidecar(pod: &Pod) -> Self {
        let on_node = pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or_default();
        let impossible = on_node || annotation(&pod.metadata, MIRROR_ANNOTATION).is_some();
        let interception = if impossible { Interception::Impossible } else { Interception::Unknown };
        Self { version: None, interception }
    }

    pub(super) fn from_annotations(metadata: &ObjectMeta) -> Self {
        let Some(version) = annotation(metadata, INJECTED_ANNOTATION) else { return Self::default() };
        let interception = match annotation(metadata, INTERCEPTION_ANNOTATION) {
            Some(TRANSPARENT) => Interception::Transparent,
            Some(EXPLICIT) => Interception::Explicit { outbound: outbound(metadata) },
            Some(_) | None => Interception::Unknown,
        };
        Self { version: Some(version.to_owned()), interception }
    }
}

fn outbound(metadata: &ObjectMeta) -> BTreeSet<(ServiceId, u16)> {
    let entry = |entry: &str| {
        let (service, port) = entry.rsplit_once(':')?;
        let (namespace, name) = service.split_once('/')?;
        Some((ServiceId { namespace: namespace.to_owned(), name: name.to_owned() }, port.parse().ok()?))
    };
    listed(metadata, OUTBOUND_ANNOTATION).filter_map(entry).collect()
}

fn listed<'a>(metadata: &'a ObjectMeta, key: &str) -> impl Iterator<Item = &'a str> {
    annotation(metadata, key).unwrap_or_default().split(',').map(str::trim).take(MAX_LISTED)
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}
