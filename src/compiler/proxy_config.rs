//! From specs and places to the configuration of each workload's sidecars.
//!
//! It must hold no decision of its own: who enforces what is `attachment`'s, and what a breaker or a limit is `breaker_config`'s
//! and `rate_limit_config`'s, so that a configuration can always be explained by one of these.

use std::collections::{BTreeMap, BTreeSet};

use fusebox_policy::config::{InboundRoute, OutboundRoute, Protocol, ProxyConfig, Reference, ServiceId, WorkloadId};
use sha2::{Digest, Sha256};

use crate::attachment::{Asked, Attachments, Claim, Direction};
use crate::plan::WorkloadPlan;
use crate::snapshot::{Interception, Service, ServiceKind};

/// Room for the workload's name in a ConfigMap's name of at most 253 characters.
const MAX_NAME_PART: usize = 200;

/// The configuration of every workload with sidecars.
pub(crate) fn workloads(attachments: &Attachments<'_>) -> BTreeMap<WorkloadId, WorkloadPlan> {
    let services = attachments.snapshot.services.iter().map(|service| (&service.id, service)).collect();
    let plan = |id: &WorkloadId| {
        let mut config = config_of(attachments, id);
        add_led(&mut config, attachments, &services);
        let revision = config.revision();
        let references = references(&config);
        (id.clone(), WorkloadPlan { config, revision, config_map_name: config_map_name(id), references })
    };
    attachments.fleet.with_sidecars().map(plan).collect()
}

/// The name of the ConfigMap that carries a workload's configuration, in the workload's namespace.
///
/// Injector and operator compute it apart from each other, so it follows from kind and name alone.
#[must_use]
pub fn config_map_name(workload: &WorkloadId) -> String {
    let kind = workload.kind.to_ascii_lowercase();
    let digest = Sha256::digest(format!("{kind}/{}", workload.name));
    let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let end = workload.name.floor_char_boundary(MAX_NAME_PART);
    let name = workload.name[..end].trim_end_matches(|last: char| !last.is_ascii_alphanumeric());
    format!("fusebox-{kind}-{name}-{hash}")
}

fn config_of(attachments: &Attachments<'_>, workload: &WorkloadId) -> ProxyConfig {
    let mut config = ProxyConfig::empty(workload.clone());
    for (place, claims) in attachments.places_of(workload) {
        let Some(claim) = claims.first() else { continue };
        let judged = &attachments.policies[claim.policy];
        config.policies.push(judged.source.version());
        let Some(asked) = judged.demand.at(&judged.targets[claim.target].id, &workload.namespace) else { continue };
        match &place.direction {
            Direction::Inbound(port) => enter(&mut config.inbound, (*port, claim), asked),
            Direction::Outbound(service, port) => leave(&mut config.outbound, (service, *port, claim), asked),
        }
    }
    config.policies.sort();
    config.policies.dedup();
    config
}

/// Puts what a policy asks for in front of a container port. Policies of several kinds share one route; the places of a
/// workload come by direction, so that the route before is the only one that can be the same.
fn enter(routes: &mut Vec<InboundRoute>, (port, claim): (u16, &Claim<'_>), asked: Asked) {
    let protocol = claim.service_port.spoken;
    if routes.last().is_none_or(|last| last.port != port) {
        routes.push(InboundRoute { port, protocol, circuit_breaker: None, rate_limit: None });
    }
    let Some(route) = routes.last_mut() else { return };
    route.protocol = both_speak(route.protocol, protocol);
    match asked {
        Asked::CircuitBreaker(breaker) => route.circuit_breaker = Some(*breaker),
        Asked::RateLimit(limit) => route.rate_limit = Some(*limit),
    }
}

/// Puts what a policy asks for in front of a Service's port.
fn leave(routes: &mut Vec<OutboundRoute>, (service, port, claim): (&ServiceId, u16, &Claim<'_>), asked: Asked) {
    if routes.last().is_none_or(|last| (&last.service, last.port) != (service, port)) {
        routes.push(OutboundRoute {
            service: service.clone(),
            port,
            port_name: claim.service_port.name.clone(),
            protocol: claim.service_port.spoken,
            addresses: addresses(claim.service, port),
            circuit_breaker: None,
            rate_limit: None,
        });
    }
    let Some(route) = routes.last_mut() else { return };
    match asked {
        Asked::CircuitBreaker(breaker) => route.circuit_breaker = Some(*breaker),
        Asked::RateLimit(limit) => route.rate_limit = Some(*limit),
    }
}

/// What two Services say of one container port, where policies of two kinds came by different ones: who says something is
/// believed before who says nothing, and plain TCP before HTTP, since it breaks nothing.
const fn both_speak(one: Protocol, other: Protocol) -> Protocol {
    match (one, other) {
        (Protocol::Tcp, _) | (_, Protocol::Tcp) => Protocol::Tcp,
        (Protocol::Http, _) | (_, Protocol::Http) => Protocol::Http,
        (Protocol::Detect, Protocol::Detect) => Protocol::Detect,
    }
}

/// The values that a workload's sidecars are sent: what policies of other namespaces name never leaves these.
fn references(config: &ProxyConfig) -> Vec<Reference> {
    let inbound = config.inbound.iter().filter_map(|route| route.rate_limit.as_ref());
    let limits = inbound.chain(config.outbound.iter().filter_map(|route| route.rate_limit.as_ref()));
    let own = limits.filter(|limit| limit.policy.namespace == config.workload.namespace);
    let named: BTreeSet<Reference> = own.flat_map(|limit| limit.references().cloned()).collect();
    named.into_iter().collect()
}

/// Routes without a policy for Service ports that pods' host aliases lead to the sidecar and that have no policy (any more):
/// aliases last as long as their pod, and nobody else would know where to.
fn add_led(config: &mut ProxyConfig, attachments: &Attachments<'_>, services: &BTreeMap<&ServiceId, &Service>) {
    let known: BTreeSet<(ServiceId, u16)> = config.outbound.iter().map(|it| (it.service.clone(), it.port)).collect();
    let pods = attachments.fleet.pods_of(&config.workload).filter_map(|pod| match &pod.injection.interception {
        Interception::Explicit { outbound } => Some(outbound),
        Interception::Unknown | Interception::Impossible | Interception::Transparent => None,
    });
    let led: BTreeSet<&(ServiceId, u16)> = pods.flatten().filter(|place| !known.contains(place)).collect();
    for (id, number) in led {
        let Some(service) = services.get(id) else { continue };
        let Some(port) = service.ports.iter().find(|port| port.port == *number) else { continue };
        config.outbound.push(OutboundRoute {
            service: id.clone(),
            port: *number,
            port_name: port.name.clone(),
            protocol: port.spoken,
            addresses: addresses(service, *number),
            circuit_breaker: None,
            rate_limit: None,
        });
    }
    config.outbound.sort_by(|left, right| (&left.service, left.port).cmp(&(&right.service, right.port)));
}

fn addresses(service: &Service, port: u16) -> Vec<String> {
    match &service.kind {
        ServiceKind::ClusterIps(addresses) => addresses.iter().map(|address| join(address, port)).collect(),
        ServiceKind::ExternalName(name) => vec![join(name, port)],
        ServiceKind::Headless => Vec::new(),
    }
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload(kind: &str, name: &str) -> WorkloadId {
        WorkloadId { namespace: "shop".into(), kind: kind.into(), name: name.into() }
    }

    #[test]
    fn config_map_names_are_valid_and_distinct_for_the_longest_names() {
        let long = "a.b-".repeat(63) + "z";
        let names = ["Deployment", "StatefulSet"].map(|kind| config_map_name(&workload(kind, &long)));
        for name in &names {
            assert!(name.len() <= 253, "{}", name.len());
            let labels_valid = name.split('.').all(|label| !label.starts_with('-') && !label.ends_with('-'));
            assert!(labels_valid, "{name}");
        }
        assert_ne!(names[0], names[1]);
        assert_ne!(config_map_name(&workload("Pod", &(long.clone() + "1"))), config_map_name(&workload("Pod", &long)));
    }
}
