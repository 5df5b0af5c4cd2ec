//! The attachment table: whether a policy applies to each of its references, and to whose callers.
//!
//! It must decide from the policy, the Service and the namespaces' consent alone; which pods
//! there are does not change a verdict.

use std::collections::BTreeMap;

use fusebox_api::common::{Side, TargetRef};
use fusebox_policy::config::{self, PolicyId, ServiceId, TargetId};

use super::places::Seniority;
use super::{Judged, JudgedTarget, Resolved, Source};
use crate::common_config;
use crate::kind::Kind;
use crate::plan::{Name, Refusal, Verdict};
use crate::snapshot::{Protocol, Service, ServiceKind, ServicePort, Snapshot};

/// What the verdicts are made from.
struct Bench<'a> {
    snapshot: &'a Snapshot,
    services: BTreeMap<&'a ServiceId, &'a Service>,
}

/// Two references with equal keys are equals: the older one wins.
type EqualityKey = (Kind, String, config::Side, ServiceId, String);

/// Judges every policy, the oldest first.
pub(super) fn all(snapshot: &Snapshot) -> Vec<Judged<'_>> {
    let bench = Bench { snapshot, services: snapshot.services.iter().map(|service| (&service.id, service)).collect() };
    let mut sources: Vec<Source<'_>> = Source::all(snapshot).collect();
    sources.sort_by_key(|source| (Seniority::of(*source), source.kind()));
    let mut policies: Vec<Judged<'_>> = sources.into_iter().map(|source| bench.judge(source)).collect();
    refuse_equals(&mut policies);
    policies
}

impl<'a> Bench<'a> {
    fn judge(&self, source: Source<'a>) -> Judged<'a> {
        let (demand, invalid) = source.demand(self.snapshot);
        let mut targets: Vec<JudgedTarget<'a>> = Vec::new();
        for reference in source.target_refs() {
            let id = target_id(source.id(), reference);
            let earlier = targets.iter().position(|target| target.id == id);
            let judged = match (&invalid, earlier) {
                (Some(refusal), _) => Err(refusal.clone()),
                (None, Some(index)) => Err(Refusal::Duplicate(name_of(&id), index)),
                (None, None) => self.resolve(source, &id),
            };
            targets.push(JudgedTarget::new(id, judged));
        }
        Judged { source, demand, targets }
    }

    fn resolve(&self, source: Source<'a>, id: &TargetId) -> Result<Resolved<'a>, Refusal> {
        let foreign = id.namespace != source.id().namespace;
        if foreign && source.side() == Side::Server {
            return Err(Refusal::CrossNamespaceServer(name_of(id), source.id().namespace.clone()));
        }
        let service_id = ServiceId { namespace: id.namespace.clone(), name: id.name.clone() };
        let service = *self.services.get(&service_id).ok_or_else(|| Refusal::TargetNotFound(name_of(id)))?;
        check_kind(service, source)?;
        let ports = ports_of(service, &id.section, source.kind())?;
        Ok(Resolved { service, ports, callers: self.callers(source, service) })
    }

    /// The namespaces whose callers obey a policy on a Service: its own, and, where the Service is the policy
    /// namespace's own and has pods behind it, those that consent.
    fn callers(&self, source: Source<'a>, service: &Service) -> Vec<&'a str> {
        let own = source.id().namespace.as_str();
        let has_pods = matches!(service.kind, ServiceKind::ClusterIps(_)) && !service.selector.is_empty();
        if !has_pods || own != service.id.namespace {
            return vec![own];
        }
        let others = self.snapshot.namespaces.iter().filter(|it| it.name != own);
        let consenting = others.filter(|it| it.accepts_policies_from.iter().any(|accepted| accepted == own));
        std::iter::once(own).chain(consenting.map(|it| it.name.as_str())).collect()
    }
}

impl<'a> JudgedTarget<'a> {
    fn new(id: TargetId, judged: Result<Resolved<'a>, Refusal>) -> Self {
        match judged {
            Ok(resolved) => Self { id, verdict: Verdict::Accepted, resolved: Some(resolved) },
            Err(refusal) => Self { id, verdict: Verdict::Refused(refusal), resolved: None },
        }
    }
}

/// Of references that name the same Service and port on the same side from the same namespace, the first one stays.
fn refuse_equals(policies: &mut [Judged<'_>]) {
    let mut winners: BTreeMap<EqualityKey, Name> = BTreeMap::new();
    for policy in policies {
        let name = Name::from(policy.source.id());
        for target in &mut policy.targets {
            let Some(resolved) = &target.resolved else { continue };
            let service = resolved.service.id.clone();
            let side = common_config::side(policy.source.side());
            let section = target.id.section.clone();
            let key = (policy.source.kind(), name.namespace.clone(), side, service.clone(), section);
            let winner = winners.entry(key).or_insert_with(|| name.clone());
            if *winner != name {
                let what = format!("Service {}{}", Name::from(&service), section_words(&target.id.section));
                let refusal = Refusal::Conflicted { winner: winner.clone(), what };
                target.verdict = Verdict::Refused(refusal);
                target.resolved = None;
            }
        }
    }
}

fn section_words(section: &str) -> String {
    if section.is_empty() { String::new() } else { format!(", port {section:?}") }
}

fn target_id(policy: &PolicyId, reference: &TargetRef) -> TargetId {
    let TargetRef { group: _, kind: _, namespace, name, section_name } = reference;
    let namespace = if namespace.is_empty() { &policy.namespace } else { namespace };
    TargetId {
        kind: "Service".to_owned(),
        namespace: namespace.clone(),
        name: name.clone(),
        section: section_name.clone(),
    }
}

fn name_of(id: &TargetId) -> Name {
    Name { namespace: id.namespace.clone(), name: id.name.clone() }
}

fn check_kind(service: &Service, source: Source<'_>) -> Result<(), Refusal> {
    let name = || Name::from(&service.id);
    match (source.side(), &service.kind) {
        (Side::Client, ServiceKind::Headless) => Err(Refusal::HeadlessService(name())),
        (Side::Client, _) if source.needs_endpoints() && service.selector.is_empty() => {
            Err(Refusal::NoEndpoints(name()))
        }
        (Side::Server, _) if service.selector.is_empty() => Err(Refusal::NoSelector(name())),
        (Side::Client | Side::Server, _) => Ok(()),
    }
}

fn ports_of<'a>(service: &'a Service, section: &str, kind: Kind) -> Result<Vec<&'a ServicePort>, Refusal> {
    let name = || Name::from(&service.id);
    if section.is_empty() {
        let ports: Vec<_> = service.ports.iter().filter(|port| port.protocol == Protocol::Tcp).collect();
        return if ports.is_empty() { Err(Refusal::NoPorts(name())) } else { Ok(ports) };
    }
    let Some(port) = service.ports.iter().find(|port| port.name == section) else {
        let mut named: Vec<&str> =
            service.ports.iter().map(|port| port.name.as_str()).filter(|it| !it.is_empty()).collect();
        named.sort_unstable();
        let ports = if named.is_empty() { "unnamed".to_owned() } else { named.join(", ") };
        return Err(Refusal::SectionNotFound { service: name(), section: section.to_owned(), ports });
    };
    match port.protocol {
        Protocol::Tcp => Ok(vec![port]),
        Protocol::Other => {
            let (service, section) = (name(), section.to_owned());
            Err(Refusal::UnsupportedProtocol { service, section, guards: kind.guards() })
        }
    }
}
