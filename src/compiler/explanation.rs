//! Which policies apply to a pod, which do not, and why.
//!
//! It finds the pod in a plan made for it and puts the plan's own reasons into words; it must not judge anew. A pod without
//! a sidecar is explained as if it had one, and said to have none.

use fusebox_api::circuit_breaker::Scope;
use fusebox_api::common;
use fusebox_api::names::CONSENT_ANNOTATION;
use fusebox_api::operations::{API_VERSION, Applies, DoesNotApply, Explanation, Metadata, Target, Workload};
use fusebox_policy::config::{self, CircuitBreaker, PolicyId, ProxyConfig, Side, TargetId, WorkloadId};

use crate::plan::{Cause, PolicyPlan, TargetPlan, Verdict, compile};
use crate::snapshot::{Pod, Snapshot};

/// Who reads an explanation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Somebody who may see the whole cluster.
    Cluster,
    /// Somebody who may see the pod's namespace: what other namespaces' policies say is told only where the pod's namespace
    /// accepts them.
    Namespace,
}

/// Explains one pod; None where there is none of this name.
#[must_use]
pub fn explain(mut snapshot: Snapshot, namespace: &str, name: &str, reader: Reader) -> Option<Explanation> {
    let found = snapshot.pods.iter_mut().find(|pod| pod.namespace == namespace && pod.name == name)?;
    let sidecar = std::mem::replace(&mut found.sidecar, true);
    let pod = found.clone();
    let plan = compile(&snapshot);
    let config = plan.workloads.get(&pod.workload).map(|workload| &workload.config);
    let mut does_not_apply = Vec::new();
    for (id, policy) in &plan.policies {
        for target in &policy.targets {
            let enforced = config.is_some_and(|config| {
                breakers(config).any(|(_, _, breaker)| breaker.policy == *id && breaker.target == target.target)
            });
            if !enforced && concerns(&snapshot, &pod, (id, target), reader) {
                let why = why_not(&snapshot, &pod, id, policy, target);
                does_not_apply.push(DoesNotApply { policy: metadata(id), target: target_of(&target.target), why });
            }
        }
    }
    Some(Explanation {
        api_version: API_VERSION.to_owned(),
        kind: "Explanation".to_owned(),
        metadata: Metadata { namespace: pod.namespace, name: pod.name },
        workload: workload(pod.workload),
        sidecar,
        applies: config.map(applying).unwrap_or_default(),
        does_not_apply,
    })
}

/// Whether the reader would ask about it: mistakes in other namespaces' policies are not theirs.
fn concerns(snapshot: &Snapshot, pod: &Pod, (id, target): (&PolicyId, &TargetPlan), reader: Reader) -> bool {
    if id.namespace == pod.namespace || accepts(snapshot, pod, id) {
        return true;
    }
    let near = target.target.namespace == pod.namespace;
    reader == Reader::Cluster && (near || target.verdict == Verdict::Accepted)
}

/// Whether the pod's namespace accepts policies of the policy's.
fn accepts(snapshot: &Snapshot, pod: &Pod, id: &PolicyId) -> bool {
    let mut namespaces = snapshot.namespaces.iter();
    namespaces
        .any(|namespace| namespace.name == pod.namespace && namespace.accepts_policies_from.contains(&id.namespace))
}

/// Every breaker of a configuration with the traffic it stands in front of and what is spoken there.
fn breakers(config: &ProxyConfig) -> impl Iterator<Item = (String, config::Protocol, &CircuitBreaker)> {
    let inbound = config.inbound.iter().filter_map(|route| {
        Some((format!("into port {}", route.port), route.protocol, route.circuit_breaker.as_ref()?))
    });
    let outbound = config.outbound.iter().filter_map(|route| {
        let traffic = format!("out to {}/{}:{}", route.service.namespace, route.service.name, route.port);
        Some((traffic, route.protocol, route.circuit_breaker.as_ref()?))
    });
    inbound.chain(outbound)
}

fn applying(config: &ProxyConfig) -> Vec<Applies> {
    breakers(config)
        .map(|(traffic, protocol, breaker)| Applies {
            policy: metadata(&breaker.policy),
            side: match breaker.side {
                Side::Client => common::Side::Client,
                Side::Server => common::Side::Server,
            },
            mode: match breaker.mode {
                config::Mode::Enforce => common::Mode::Enforce,
                config::Mode::Shadow => common::Mode::Shadow,
            },
            scope: if breaker.endpoint_scope.is_some() { Scope::Endpoint } else { Scope::Service },
            protocol: format!("{protocol:?}"),
            traffic,
            rules: breaker.rules.iter().map(|rule| rule.name.clone()).filter(|name| !name.is_empty()).collect(),
        })
        .collect()
}

fn why_not(snapshot: &Snapshot, pod: &Pod, id: &PolicyId, policy: &PolicyPlan, target: &TargetPlan) -> String {
    if let Verdict::Refused(refusal) = &target.verdict {
        return refusal.to_string();
    }
    if let Some(overruled) = target.overruled.iter().find(|overruled| overruled.workload == pod.workload) {
        let winner = format!("{}/{}", overruled.by.namespace, overruled.by.name);
        return match overruled.cause {
            Cause::ConsumerPolicy => format!("policy {winner} of the callers' own namespace beats it"),
            Cause::MoreSpecific => format!("policy {winner} names the port, which beats the whole Service"),
            Cause::Conflict => format!("policy {winner} is older and has container port {}", overruled.port),
        };
    }
    if policy.mode == common::Mode::Disabled {
        return "its mode is Disabled".to_owned();
    }
    match policy.side {
        Side::Client => not_a_caller(snapshot, pod, id, target),
        Side::Server => format!(
            "side Server: it guards the pods that Service {}/{} selects, and this is none of them",
            target.target.namespace, target.target.name
        ),
    }
}

fn not_a_caller(snapshot: &Snapshot, pod: &Pod, id: &PolicyId, target: &TargetPlan) -> String {
    let callers = format!("side Client: it guards callers in namespace {}", id.namespace);
    if target.target.namespace != id.namespace {
        return format!("{callers} alone, since its target is another namespace's");
    }
    if pod.namespace == id.namespace || accepts(snapshot, pod, id) {
        return "it has no port that this pod's traffic can take".to_owned();
    }
    format!(
        "{callers}; for it to apply here too: `kubectl annotate namespace {} {CONSENT_ANNOTATION}={}`",
        pod.namespace, id.namespace
    )
}

fn metadata(id: &PolicyId) -> Metadata {
    Metadata { namespace: id.namespace.clone(), name: id.name.clone() }
}

fn target_of(id: &TargetId) -> Target {
    Target { namespace: id.namespace.clone(), name: id.name.clone(), section_name: id.section.clone() }
}

fn workload(WorkloadId { namespace, kind, name }: WorkloadId) -> Workload {
    Workload { namespace, kind, name }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::check::File;

    /// Namespace `bank` has a policy on a Service of its own, and `shop` a pod; `shop` consents where `consent` says so.
    fn explained(consent: &str, reader: Reader) -> Explanation {
        let text = format!(
            "
{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, annotations: {{fusebox.dev/accept-policies-from: {consent}}}}}}}
---
{{apiVersion: v1, kind: Namespace, metadata: {{name: bank}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: pay, namespace: bank}}, spec: {{clusterIP: 10.0.0.1, selector: {{app: pay}}, ports: [{{port: 80}}]}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: cart, namespace: shop, uid: uid-cart}}}}
---
{{apiVersion: fusebox.dev/v1alpha1, kind: CircuitBreakerPolicy, metadata: {{name: guard, namespace: bank}}, spec: {{targetRefs: [{{name: pay}}]}}}}
"
        );
        let files = [File { name: "in.yaml", text: &text }];
        let snapshot = crate::manifest::load(&files, Timestamp::UNIX_EPOCH).unwrap();
        explain(snapshot, "shop", "cart", reader).unwrap()
    }

    #[test]
    fn a_namespaces_reader_learns_nothing_of_policies_elsewhere_without_consent() {
        let told = explained("nobody", Reader::Namespace);
        assert!(told.applies.is_empty() && told.does_not_apply.is_empty() && !told.sidecar, "{told:?}");
        let told = explained("nobody", Reader::Cluster);
        assert!(told.does_not_apply[0].why.contains("accept-policies-from=bank"), "{told:?}");
        let told = explained("bank", Reader::Namespace);
        assert_eq!(told.applies[0].traffic, "out to bank/pay:80");
    }
}
