//! Which policies apply to a pod, which do not, and why.
//!
//! It finds the pod in a plan made for it and puts the plan's own reasons into words; it must not judge anew. A pod without
//! a sidecar is explained as if it had one, and said to have none.

use std::collections::BTreeSet;

use fusebox_api::common;
use fusebox_api::names::CONSENT_ANNOTATION;
use fusebox_api::operations::{API_VERSION, Applies, DoesNotApply, Explanation, Metadata, Target, Workload};
use fusebox_policy::config::{self, CircuitBreaker, PolicyId, ProxyConfig, Side, TargetId, WorkloadId};

use crate::common_config::side_told;
use crate::compile::compile;
use crate::kind::{Kind, PolicyKey};
use crate::plan::{Cause, PolicyPlan, TargetPlan, Verdict};
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
    for (PolicyKey { kind, id }, policy) in &plan.policies {
        for target in &policy.targets {
            let enforced = config.is_some_and(|config| {
                standing(config).any(|it| (it.kind, it.policy, it.target) == (*kind, id, &target.target))
            });
            if !enforced && concerns(&snapshot, &pod, (id, target), reader) {
                let why = why_not(&snapshot, &pod, id, policy, target);
                let (kind, target) = (kind.as_str().to_owned(), target_of(&target.target));
                does_not_apply.push(DoesNotApply { kind, policy: metadata(id), target, why });
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

/// What stands in front of some traffic of a configuration.
struct Standing<'a> {
    kind: Kind,
    policy: &'a PolicyId,
    target: &'a TargetId,
    side: Side,
    mode: config::Mode,
    scope: String,
    rules: Vec<String>,
    traffic: String,
    protocol: config::Protocol,
}

/// Everything that stands in a configuration, route by route.
fn standing(config: &ProxyConfig) -> impl Iterator<Item = Standing<'_>> {
    let inbound = config.inbound.iter().map(|route| {
        let traffic = format!("into port {}", route.port);
        (traffic, route.protocol, route.circuit_breaker.as_ref(), route.rate_limit.as_ref())
    });
    let outbound = config.outbound.iter().map(|route| {
        let traffic = format!("out to {}/{}:{}", route.service.namespace, route.service.name, route.port);
        (traffic, route.protocol, route.circuit_breaker.as_ref(), route.rate_limit.as_ref())
    });
    inbound.chain(outbound).flat_map(|(traffic, protocol, breaker, limit)| {
        let breaker = breaker.map(|breaker| Standing::of_breaker(breaker, (traffic.clone(), protocol)));
        let limit = limit.map(|limit| Standing::of_limit(limit, (traffic, protocol)));
        breaker.into_iter().chain(limit)
    })
}

impl<'a> Standing<'a> {
    fn of_breaker(breaker: &'a CircuitBreaker, (traffic, protocol): (String, config::Protocol)) -> Self {
        let CircuitBreaker { policy, target, side, mode, rules, endpoint_scope, fallback: _, force: _ } = breaker;
        let scope = if endpoint_scope.is_some() { "Endpoint" } else { "Service" }.to_owned();
        let rules = rules.iter().map(|rule| rule.name.clone()).filter(|name| !name.is_empty()).collect();
        let kind = Kind::CircuitBreakerPolicy;
        Self { kind, policy, target, side: *side, mode: *mode, scope, rules, traffic, protocol }
    }

    fn of_limit(limit: &'a config::RateLimit, (traffic, protocol): (String, config::Protocol)) -> Self {
        let scopes: BTreeSet<String> = limit.limits.iter().map(|limit| format!("{:?}", limit.scope)).collect();
        let rules = limit.limits.iter().flat_map(|limit| {
            limit.rules.iter().map(|rule| match rule.name.as_str() {
                "" => limit.name.clone(),
                rule => format!("{}/{rule}", limit.name),
            })
        });
        Self {
            kind: Kind::RateLimit,
            policy: &limit.policy,
            target: &limit.target,
            side: limit.side,
            mode: limit.mode,
            scope: scopes.into_iter().collect::<Vec<_>>().join(","),
            rules: rules.collect(),
            traffic,
            protocol,
        }
    }
}

fn applying(config: &ProxyConfig) -> Vec<Applies> {
    let applies = standing(config).map(|it| Applies {
        kind: it.kind.as_str().to_owned(),
        policy: metadata(it.policy),
        side: side_told(it.side),
        mode: match it.mode {
            config::Mode::Enforce => common::Mode::Enforce,
            config::Mode::Shadow => common::Mode::Shadow,
        },
        scope: it.scope,
        protocol: format!("{:?}", it.protocol),
        traffic: it.traffic,
        rules: it.rules,
    });
    applies.collect()
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

    #[test]
    fn both_kinds_are_told_apart_at_one_port() {
        let text = "
{apiVersion: v1, kind: Service, metadata: {name: pay, namespace: shop}, spec: {clusterIP: 10.0.0.1, selector: {app: pay}, ports: [{port: 80, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Pod, metadata: {name: pay, namespace: shop, uid: u, labels: {app: pay}}}
---
{apiVersion: fusebox.dev/v1alpha1, kind: CircuitBreakerPolicy, metadata: {name: pay, namespace: shop}, spec: {side: Server, targetRefs: [{name: pay}]}}
---
{apiVersion: fusebox.dev/v1alpha1, kind: RateLimit, metadata: {name: pay, namespace: shop}, spec: {targetRefs: [{name: pay}], limits: [{name: all, rate: {requests: 1, per: 1s}, rules: [{name: writes, match: {methods: [PUT]}, rate: {requests: 1, per: 1s}}]}]}}
---
{apiVersion: fusebox.dev/v1alpha1, kind: RateLimit, metadata: {name: out, namespace: shop}, spec: {mode: Disabled, side: Client, targetRefs: [{name: pay}], limits: [{name: all, rate: {requests: 1, per: 1s}}]}}
";
        let snapshot = crate::manifest::load(&[File { name: "in.yaml", text }], Timestamp::UNIX_EPOCH).unwrap();
        let told = explain(snapshot, "shop", "pay", Reader::Namespace).unwrap();
        let kinds: Vec<(&str, &str)> = told.applies.iter().map(|it| (it.kind.as_str(), it.traffic.as_str())).collect();
        assert_eq!(kinds, [("CircuitBreakerPolicy", "into port 8080"), ("RateLimit", "into port 8080")]);
        assert_eq!(
            (told.applies[1].scope.as_str(), &told.applies[1].rules[..]),
            ("Replica", &["all/writes".into(), "all".into()][..])
        );
        let not: Vec<(&str, &str)> = told.does_not_apply.iter().map(|it| (it.kind.as_str(), it.why.as_str())).collect();
        assert_eq!(not, [("RateLimit", "its mode is Disabled")]);
    }
}
