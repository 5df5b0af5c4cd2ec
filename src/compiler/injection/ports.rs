//! Container ports: those that the sidecar needs for itself, and those whose names it takes over.
//!
//! With explicit interception a Service that targets a port by name is led to the sidecar by moving the name. It must move
//! a name only once, and remember what it moved: another webhook may add containers afterwards.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use fusebox_api::names::TAKEN_PORTS_ANNOTATION;
use k8s_openapi::api::core::v1::ContainerPort;
use serde_json::{Value, json};

use super::draft::{Draft, push};
use super::wishes::Wishes;
use super::{InjectionFacts, InjectionRefusal, Interception, Subject};
use crate::attachment::selects;
use crate::snapshot::{Protocol, TargetPort, taken_ports};

/// Where the sidecar's health, metrics and probes answer.
pub(super) const ADMIN_PORT: u16 = 15020;

/// Where redirected traffic out of the pod arrives.
pub(super) const TRANSPARENT_OUTBOUND_PORT: u16 = 15001;

/// Where redirected traffic into the pod arrives.
pub(super) const TRANSPARENT_INBOUND_PORT: u16 = 15006;

/// Where the first port whose name was taken arrives; the others follow.
const FIRST_TAKEN_PORT: u16 = 15100;

/// Ports whose names are taken, at most.
const MAX_TAKEN_PORTS: u16 = 100;

/// Refuses ports that the sidecar needs itself.
pub(super) fn check(subject: &Subject<'_>, wishes: &Wishes) -> Result<(), InjectionRefusal> {
    let reserved = reserved(wishes.interception);
    for container in subject.others() {
        for port in tcp(container.ports.as_deref()) {
            let used = reserved.iter().find(|(ports, _)| number(port).is_some_and(|port| ports.contains(&port)));
            if let (Some((_, purpose)), Some(port)) = (used, number(port)) {
                return Err(InjectionRefusal::PortTaken { container: container.name.clone(), port, purpose });
            }
        }
    }
    Ok(())
}

/// Moves the names of the application's TCP ports to the sidecar.
pub(super) fn take(
    subject: &Subject<'_>,
    wishes: &Wishes,
    (draft, sidecar): (&mut Draft, &mut Value),
) -> Result<(), InjectionRefusal> {
    let mut taken = taken_ports(&subject.annotations);
    let mut names: BTreeSet<String> = taken.iter().map(|(name, _)| name.clone()).collect();
    for application in subject.applications() {
        for (index, port) in application.container.ports.iter().flatten().enumerate().filter(|(_, port)| is_tcp(port)) {
            let (Some(name), Some(port)) = (port.name.clone(), number(port)) else { continue };
            if wishes.exclude_inbound.contains(&port) {
                continue;
            }
            if let Some(port) = draft.container(&application)["ports"][index].as_object_mut() {
                port.remove("name");
            }
            if names.insert(name.clone()) {
                listen(sidecar, &name, (port, taken.len()));
                taken.push((name, port));
            } else {
                draft.warn(format!(
                    "container {} names its port {port} {name:?} as another container does: a Service finds the first only",
                    application.container.name
                ));
            }
        }
    }
    let limit = usize::from(MAX_TAKEN_PORTS);
    if taken.len() > limit {
        return Err(InjectionRefusal::TooManyPorts { count: taken.len(), limit });
    }
    if !taken.is_empty() {
        let listed: Vec<String> = taken.iter().map(|(name, port)| format!("{name}={port}")).collect();
        draft.annotate(TAKEN_PORTS_ANNOTATION, &listed.join(","));
    }
    Ok(())
}

/// Tells of Services with a policy whose traffic passes by the sidecar, because they target a port by its number.
pub(super) fn warn_of_numbers(subject: &Subject<'_>, facts: &InjectionFacts<'_>, draft: &mut Draft) {
    if subject.own_sidecar().is_some() {
        return;
    }
    for service in facts.inbound.iter().filter(|service| selects(service, &subject.labels)) {
        for port in service.ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
            let TargetPort::Number(target) = port.target else { continue };
            let fix = match name_of(subject, target) {
                Some(name) => format!("write targetPort: {name}"),
                None => format!("give the container port {target} a name, and write that as targetPort"),
            };
            draft.warn(format!(
                "Service {} targets port {target} by its number, so with explicit interception its traffic passes by the sidecar: {fix}",
                service.id.name
            ));
        }
    }
}

/// The ports that the application's containers declare.
pub(super) fn declared(subject: &Subject<'_>) -> BTreeSet<u16> {
    subject.others().flat_map(|container| tcp(container.ports.as_deref())).filter_map(number).collect()
}

pub(super) fn number(port: &ContainerPort) -> Option<u16> {
    u16::try_from(port.container_port).ok()
}

fn reserved(interception: Interception) -> Vec<(RangeInclusive<u16>, &'static str)> {
    let mut reserved = vec![(ADMIN_PORT..=ADMIN_PORT, "its health and metrics")];
    match interception {
        Interception::Transparent => {
            reserved.push((TRANSPARENT_INBOUND_PORT..=TRANSPARENT_INBOUND_PORT, "traffic into the pod"));
            reserved.push((TRANSPARENT_OUTBOUND_PORT..=TRANSPARENT_OUTBOUND_PORT, "traffic out of the pod"));
        }
        Interception::Explicit => {
            let last = FIRST_TAKEN_PORT + MAX_TAKEN_PORTS - 1;
            reserved.push((FIRST_TAKEN_PORT..=last, "the pod's named ports (15100 to 15199)"));
        }
    }
    reserved
}

/// Makes the sidecar listen for a port whose name it takes; a position beyond the bound is refused by the caller.
fn listen(sidecar: &mut Value, name: &str, (port, position): (u16, usize)) {
    let listen = u16::try_from(position).map_or(u16::MAX, |position| FIRST_TAKEN_PORT.saturating_add(position));
    push(&mut sidecar["ports"], json!({"name": name, "containerPort": listen, "protocol": "TCP"}));
    push(&mut sidecar["args"], json!(format!("--inbound=0.0.0.0:{listen}=[$(POD_IP)]:{port}/{port}")));
}

fn name_of(subject: &Subject<'_>, target: u16) -> Option<String> {
    let applications = subject.applications();
    let mut ports = applications.iter().flat_map(|it| tcp(it.container.ports.as_deref()));
    ports.find(|port| number(port) == Some(target)).and_then(|port| port.name.clone())
}

fn tcp(ports: Option<&[ContainerPort]>) -> impl Iterator<Item = &ContainerPort> {
    ports.into_iter().flatten().filter(|port| is_tcp(port))
}

fn is_tcp(port: &ContainerPort) -> bool {
    port.protocol.as_deref().is_none_or(|protocol| protocol == "TCP")
}
