//! From specs and places to the configuration of each workload's sidecars.
//!
//! It must hold no decision of its own: who enforces what is `attachment`'s, and what a breaker is
//! `breaker_config`'s, so that a configuration can always be explained by one of the two.

use std::collections::{BTreeMap, BTreeSet};

use fusebox_api::common::Mode as ApiMode;
use fusebox_policy::config::{self, CircuitBreaker, InboundRoute, OutboundRoute, ProxyConfig, ServiceId, WorkloadId};
use sha2::{Digest, Sha256};

use crate::attachment::{Attachments, Claim, Direction, Judged, version};
use crate::breaker_config;
use crate::plan::{ForceVerdict, WorkloadPlan};
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
        (id.clone(), WorkloadPlan { config, revision, config_map_name: config_map_name(id) })
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
        config.policies.push(version(judged));
        let Some(circuit_breaker) = circuit_breaker(judged, claim) else { continue };
        match &place.direction {
            Direction::Inbound(port) => {
                config.inbound.push(InboundRoute {
                    port: *port,
                    protocol: claim.service_port.spoken,
                    circuit_breaker: Some(circuit_breaker),
                    rate_limit: None,
                });
            }
            Direction::Outbound(service, port) => config.outbound.push(OutboundRoute {
                service: service.clone(),
                port: *port,
                port_name: claim.service_port.name.clone(),
                protocol: claim.service_port.spoken,
                addresses: addresses(claim.service, *port),
                circuit_breaker: Some(circuit_breaker),
                rate_limit: None,
            }),
        }
    }
    config.policies.sort();
    config.policies.dedup();
    config
}

/// Routes without a breaker for Service ports that pods' host aliases lead to the sidecar and that have no policy (any more):
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

/// The breaker at a place; none for a policy that is disabled, which keeps its place and does nothing.
fn circuit_breaker(judged: &Judged<'_>, claim: &Claim<'_>) -> Option<CircuitBreaker> {
    let mode = match judged.source.spec.mode {
        ApiMode::Enforce => config::Mode::Enforce,
        ApiMode::Shadow => config::Mode::Shadow,
        ApiMode::Disabled => return None,
    };
    let force = match &judged.force {
        ForceVerdict::Active { state, until, reason } => {
            Some(config::Override { state: *state, until_unix_ms: until.as_millisecond(), reason: reason.clone() })
        }
        ForceVerdict::Absent | ForceVerdict::Expired { .. } | ForceVerdict::TooFar { .. } => None,
    };
    Some(CircuitBreaker {
        policy: judged.source.id.clone(),
        target: judged.targets[claim.target].id.clone(),
        side: breaker_config::side(judged.source.spec.side),
        mode,
        rules: judged.rules.clone(),
        endpoint_scope: breaker_config::endpoint_scope(&judged.source.spec),
        fallback: breaker_config::fallback(&judged.source.spec.fallback),
        force,
    })
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
