//! Explicit interception on the way out: host aliases that lead Services with a policy to the sidecar.
//!
//! An alias takes a Service's name as a whole, so the sidecar must listen for every port of it, or the Service is left alone:
//! a port that nobody listens for would be traffic lost. Aliases are fixed when the pod is made.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use fusebox_api::names::OUTBOUND_ANNOTATION;
use serde_json::{Value, json};

use super::draft::{Draft, push};
use super::wishes::Wishes;
use super::{InjectionFacts, InjectionOptions, Subject, ports};
use crate::snapshot::{Protocol, Service};

/// Services with aliases, at most; their addresses are 127.15.0.1 to 127.15.0.250.
const MAX_ALIASES: u8 = 250;

/// The sysctl that says from which port on nobody needs a privilege to listen.
const PORT_START_SYSCTL: &str = "net.ipv4.ip_unprivileged_port_start";

/// Where the ports begin that need no privilege, unless a sysctl says otherwise.
const DEFAULT_PORT_START: u16 = 1024;

/// What in the pod may stand in an alias' way.
struct Surroundings<'a> {
    names: BTreeSet<&'a str>,
    declared: BTreeSet<u16>,
    excluded: &'a BTreeSet<u16>,
    /// What the pod's own sysctl says, where it has one.
    port_start: Option<u16>,
}

/// Why a Service has no alias.
enum Obstacle {
    /// Its owner wants it so.
    Excluded,
    /// Something else.
    Said(String),
}

/// Gives every Service with a policy an alias and the sidecar listeners for it.
pub(super) fn lead(
    subject: &Subject<'_>,
    (facts, options): (&InjectionFacts<'_>, &InjectionOptions),
    wishes: &Wishes,
    (draft, sidecar): (&mut Draft, &mut Value),
) {
    let around = Surroundings::of(subject, wishes);
    let mut led: Vec<String> = Vec::new();
    let (mut used, mut lowest) = (0, u16::MAX);
    for service in &facts.outbound {
        let names = names(service, subject, options);
        if let Some(obstacle) = around.obstacle(service, &names, used) {
            if let Obstacle::Said(why) = obstacle {
                let name = format!("{}/{}", service.id.namespace, service.id.name);
                draft.warn(format!("calls to Service {name} pass by the sidecar: {why}"));
            }
            continue;
        }
        used += 1;
        let address = Ipv4Addr::new(127, 15, 0, used);
        draft.push(&["hostAliases"], json!({"ip": address.to_string(), "hostnames": names}));
        for port in &service.ports {
            let place = format!("{}/{}:{}", service.id.namespace, service.id.name, port.port);
            push(&mut sidecar["args"], json!(format!("--outbound={address}:{}={place}", port.port)));
            lowest = lowest.min(port.port);
            led.push(place);
        }
    }
    if !led.is_empty() {
        draft.annotate(OUTBOUND_ANNOTATION, &led.join(","));
    }
    if lowest < DEFAULT_PORT_START && around.port_start.is_none() {
        draft.push(&["securityContext", "sysctls"], json!({"name": PORT_START_SYSCTL, "value": "0"}));
    }
}

impl<'a> Surroundings<'a> {
    fn of(subject: &'a Subject<'_>, wishes: &'a Wishes) -> Self {
        let aliases = subject.spec.host_aliases.iter().flatten();
        let sysctls = subject.spec.security_context.as_ref().and_then(|it| it.sysctls.as_ref());
        let own = sysctls.into_iter().flatten().find(|sysctl| sysctl.name == PORT_START_SYSCTL);
        Self {
            names: aliases.flat_map(|alias| alias.hostnames.iter().flatten()).map(String::as_str).collect(),
            declared: ports::declared(subject),
            excluded: &wishes.exclude_outbound,
            port_start: own.map(|sysctl| sysctl.value.trim().parse().unwrap_or(DEFAULT_PORT_START)),
        }
    }

    fn obstacle(&self, service: &Service, names: &[String], used: u8) -> Option<Obstacle> {
        let said = |why: String| Some(Obstacle::Said(why));
        let mut ports = service.ports.iter();
        if ports.clone().any(|port| self.excluded.contains(&port.port)) {
            return Some(Obstacle::Excluded);
        }
        if ports.clone().any(|port| port.protocol != Protocol::Tcp) {
            return said("it has a port that is not TCP; give that one a Service of its own".to_owned());
        }
        if let Some(name) = names.iter().find(|name| self.names.contains(name.as_str())) {
            return said(format!("the pod's own hostAliases say where {name} is; remove that entry"));
        }
        if let Some(port) = ports.clone().find(|port| self.declared.contains(&port.port)) {
            let port = port.port;
            return said(format!(
                "the pod's own container declares its port {port}, and only one can listen there; let the application or \
                 the Service use another port, or use transparent interception"
            ));
        }
        let start = self.port_start.unwrap_or(0);
        if let Some(port) = ports.find(|port| port.port < start) {
            let port = port.port;
            return said(format!("the pod's sysctl {PORT_START_SYSCTL} forbids to listen on port {port}; set it to 0"));
        }
        (used >= MAX_ALIASES).then(|| Obstacle::Said(format!("{MAX_ALIASES} Services have host aliases already")))
    }
}

/// The names by which a pod's calls may mean a Service; the shortest only in the Service's own namespace.
fn names(service: &Service, subject: &Subject<'_>, options: &InjectionOptions) -> Vec<String> {
    let (name, namespace) = (&service.id.name, &service.id.namespace);
    let mut names = vec![
        format!("{name}.{namespace}"),
        format!("{name}.{namespace}.svc"),
        format!("{name}.{namespace}.svc.{}", options.cluster_domain),
    ];
    if *namespace == subject.workload.namespace {
        names.insert(0, name.clone());
    }
    names
}
