//! `fusebox explain`: which policies apply to a pod, which do not, and why.
//!
//! The compiler decides, on the objects as they stand; this must only find the pod in its plan and put the plan's own
//! reasons into words. A pod without a sidecar is explained as if it had one, and said to have none.

use std::io::Write as _;

use anyhow::{Context as _, Result};
use fusebox_api::circuit_breaker::Scope;
use fusebox_api::common::Mode;
use fusebox_api::names::{CONSENT_ANNOTATION, INJECT_ENABLED, INJECT_LABEL};
use fusebox_compiler::compile;
use fusebox_compiler::plan::{Cause, PolicyPlan, TargetPlan, Verdict};
use fusebox_compiler::snapshot::{Pod, Snapshot};
use fusebox_policy::config::{CircuitBreaker, PolicyId, Protocol, ProxyConfig, Side, TargetId, WorkloadId};
use serde::Serialize;

use crate::arguments::{ExplainArguments, Output};
use crate::terminal::{CARE, Exit, FAINT, GOOD, STRONG, Styled, Terminal};

/// What holds for one pod.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Explanation {
    namespace: String,
    pod: String,
    workload: WorkloadId,
    sidecar: bool,
    applies: Vec<Applies>,
    does_not_apply: Vec<Reason>,
}

/// A policy at one place of the pod.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Applies {
    policy: PolicyId,
    side: Side,
    mode: String,
    /// `Service` or `Endpoint`.
    scope: Scope,
    /// What is spoken there: `Http`, `Tcp`, or `Detect` where nobody said.
    protocol: Protocol,
    traffic: String,
    rules: Vec<String>,
}

/// A target of a policy that does not concern the pod.
#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Reason {
    policy: PolicyId,
    target: TargetId,
    why: String,
}

/// Explains one pod of a cluster.
pub(crate) async fn explain(arguments: &ExplainArguments, terminal: &mut Terminal) -> Result<Exit> {
    let session = arguments.cluster.connect().await?;
    let snapshot = session.snapshot().await?;
    let explanation = of_pod(snapshot, &session.namespace, &arguments.pod).with_context(|| {
        format!("pod {}/{} does not exist or has finished: -n chooses the namespace", session.namespace, arguments.pod)
    })?;
    match arguments.output {
        Output::Json => {
            serde_json::to_writer_pretty(&mut terminal.out, &explanation)?;
            writeln!(terminal.out)?;
        }
        Output::Table => print(&explanation, terminal)?,
    }
    Ok(Exit::Done)
}

fn of_pod(mut snapshot: Snapshot, namespace: &str, name: &str) -> Option<Explanation> {
    let found = snapshot.pods.iter_mut().find(|pod| pod.namespace == namespace && pod.name == name)?;
    let sidecar = std::mem::replace(&mut found.sidecar, true);
    let pod = found.clone();
    let plan = compile(&snapshot);
    let config = plan.workloads.get(&pod.workload).map(|workload| &workload.config);
    let applies: Vec<Applies> = config.map(applying).unwrap_or_default();
    let mut does_not_apply = Vec::new();
    for (id, policy) in &plan.policies {
        for target in &policy.targets {
            let enforced = config.is_some_and(|config| {
                breakers(config).any(|(_, _, breaker)| breaker.policy == *id && breaker.target == target.target)
            });
            if !enforced && concerns(&pod, id, target) {
                let why = why_not(&snapshot, &pod, id, policy, target);
                does_not_apply.push(Reason { policy: id.clone(), target: target.target.clone(), why });
            }
        }
    }
    Some(Explanation {
        namespace: pod.namespace,
        pod: pod.name,
        workload: pod.workload,
        sidecar,
        applies,
        does_not_apply,
    })
}

/// Whether a pod's people would ask about it: mistakes in other namespaces' policies are not theirs.
fn concerns(pod: &Pod, id: &PolicyId, target: &TargetPlan) -> bool {
    let near = [&id.namespace, &target.target.namespace].contains(&&pod.namespace);
    near || target.verdict == Verdict::Accepted
}

/// Every breaker of a configuration with the traffic it stands in front of.
fn breakers(config: &ProxyConfig) -> impl Iterator<Item = (String, Protocol, &CircuitBreaker)> {
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
            policy: breaker.policy.clone(),
            side: breaker.side,
            mode: format!("{:?}", breaker.mode),
            scope: if breaker.endpoint_scope.is_some() { Scope::Endpoint } else { Scope::Service },
            protocol,
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
    if policy.mode == Mode::Disabled {
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
    let consents = snapshot
        .namespaces
        .iter()
        .any(|namespace| namespace.name == pod.namespace && namespace.accepts_policies_from.contains(&id.namespace));
    if pod.namespace == id.namespace || consents {
        return "it has no port that this pod's traffic can take".to_owned();
    }
    format!(
        "{callers}; for it to apply here too: `kubectl annotate namespace {} {CONSENT_ANNOTATION}={}`",
        pod.namespace, id.namespace
    )
}

fn print(explanation: &Explanation, terminal: &mut Terminal) -> Result<()> {
    let Explanation { namespace, pod, workload, sidecar, applies, does_not_apply } = explanation;
    let out = &mut terminal.out;
    let heading = format!("Pod {namespace}/{pod}");
    let owner = match workload.kind.as_str() {
        "Pod" => String::new(),
        kind => format!(" of {kind} {}/{}", workload.namespace, workload.name),
    };
    writeln!(out, "{}{owner}", Styled(STRONG, heading))?;
    if !sidecar {
        let fix = format!("`kubectl label namespace {namespace} {INJECT_LABEL}={INJECT_ENABLED}`, then restart it");
        writeln!(out, "{} {fix}. With one it would be:", Styled(CARE, "It has no sidecar, so nothing is enforced:"))?;
    }
    writeln!(out, "\n{}", Styled(GOOD, if applies.is_empty() { "No policy applies." } else { "Applies:" }))?;
    for Applies { policy, side, mode, scope, protocol, traffic, rules } in applies {
        let rules = if rules.is_empty() { String::new() } else { format!(", rules {}", rules.join(", ")) };
        let how = format!("side {side:?}, scope {scope:?}, mode {mode}, protocol {protocol:?}{rules}");
        writeln!(out, "  {}/{}: {traffic} ({how})", policy.namespace, policy.name)?;
    }
    if !does_not_apply.is_empty() {
        writeln!(out, "\n{}", Styled(FAINT, "Does not apply:"))?;
    }
    for Reason { policy, target, why } in does_not_apply {
        let section = if target.section.is_empty() { String::new() } else { format!(":{}", target.section) };
        let target = format!("{}/{}{section}", target.namespace, target.name);
        writeln!(out, "  {}/{} on {target}: {why}", policy.namespace, policy.name)?;
    }
    Ok(())
}
