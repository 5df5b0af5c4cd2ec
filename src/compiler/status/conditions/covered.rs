//! Condition Covered: whether every pod that asks for a sidecar has one, through which its traffic goes, and that is current.
//!
//! Each problem names its first pods and the command that mends it. It must not be False for a pod that asks for nothing,
//! nor for a sidecar that is merely older: both are said, and neither is amiss.

use std::collections::BTreeSet;

use fusebox_api::names::{INJECT_ENABLED, INJECT_LABEL};
use fusebox_policy::config::WorkloadId;

use super::super::sidecars::{Finding, Found, Problem, Sidecars};
use super::{Draft, Input, MAX_PARTS, Reason, counted, limited, side_words};
use crate::plan::{Gap, PolicyPlan};

const KIND: &str = "Covered";

pub(super) fn covered(input: &Input<'_>) -> Draft {
    let (sidecars, side) = (input.sidecars, side_words(input.plan.side));
    let problems = || sidecars.found.iter().filter(|(problem, _)| **problem != Problem::SidecarOld);
    if let Some((worst, _)) = problems().next() {
        let parts: Vec<String> = problems().map(|(problem, found)| problem_words(*problem, found, sidecars)).collect();
        return Draft::no(KIND, worst.as_str(), parts.join("; "));
    }
    let unasked = match sidecars.unasked {
        0 => String::new(),
        pods => format!("; without a sidecar and not asking for one: {}", counted(pods, "pod")),
    };
    let Sidecars { expected, injected, .. } = *sidecars;
    if expected == 0 {
        return Draft::yes(KIND, Reason::NoProxies, format!("no pod on the {side} asks for a sidecar{unasked}"));
    }
    let have = format!("{injected}/{expected} pods on the {side} that ask for a sidecar have one");
    let old = sidecars.found.get(&Problem::SidecarOld).map(old_words).unwrap_or_default();
    Draft::yes(KIND, Reason::Covered, format!("{have}{unasked}{old}"))
}

/// Why a policy has no sidecar at all, and what to do: label what asks for none, restart what asks.
pub(super) fn without_sidecars(plan: &PolicyPlan) -> String {
    let coverage = &plan.coverage;
    let labels: Vec<String> = coverage
        .unasked
        .keys()
        .map(|ns| format!("`kubectl label namespace {ns} {INJECT_LABEL}={INJECT_ENABLED}`"))
        .collect();
    let what = format!("none of {} on the {} has a sidecar", counted(coverage.bare(), "pod"), side_words(plan.side));
    let asking = coverage.gaps.get(&Gap::SidecarMissing).map(|pods| pods.named.iter().map(|pod| &pod.workload));
    match (labels.is_empty(), asking) {
        (false, _) => format!("{what}: {}, then restart the pods", limited(&labels, " or ")),
        (true, Some(asking)) => format!("{what}, and {} asked for one: {}", coverage.missing(), restarts(asking)),
        (true, None) => format!("{what}, and none of them can have one"),
    }
}

fn problem_words(problem: Problem, found: &Found, sidecars: &Sidecars) -> String {
    let pods = named(found);
    let count = format!("{}/{} pods", found.total, sidecars.expected);
    let restart = || restarts(found.named.iter().map(|finding| &finding.workload));
    let about = about(&found.named);
    match problem {
        Problem::SidecarMissing => {
            format!(
                "{count} ask for a sidecar and have none, for they are older than the label or were not injected: {pods}; {}",
                restart()
            )
        }
        Problem::RestartNeeded => {
            format!("{count} are older than the policy and go past their sidecar to {about}: {pods}; {}", restart())
        }
        Problem::Bypassed => format!(
            "{count} are reached past their sidecar, for a numeric targetPort leads to {about}: {pods}; name the container's port, set targetPort to that name, and restart the pods"
        ),
        Problem::NotConnected => {
            format!("{count} are not connected to the operator: {pods}; look at the logs of container fusebox-proxy")
        }
        Problem::ConfigurationRefused => {
            format!("{count} refuse the configuration: {pods}; they say: {about}; {}", restart())
        }
        Problem::ConfigurationOld => format!(
            "{count} enforce an older configuration: {pods}; if this lasts, look at the logs of container fusebox-proxy"
        ),
        Problem::SidecarOld => old_words(found),
    }
}

fn old_words(found: &Found) -> String {
    let (pods, versions) = (named(found), about(&found.named));
    format!(
        "; with a sidecar older than the operator ({versions}), which works: {}, {pods}; a restart brings the new one",
        counted(found.total, "pod")
    )
}

/// The first pods, and how many more there are.
fn named(found: &Found) -> String {
    let shown: Vec<&str> = found.named.iter().take(MAX_PARTS).map(|finding| finding.pod.as_str()).collect();
    let shown = shown.join(", ");
    match found.total.checked_sub(MAX_PARTS) {
        Some(more) if more > 0 => format!("{shown} and {more} more"),
        _ => shown,
    }
}

fn about(findings: &[Finding]) -> String {
    let subjects: BTreeSet<&str> = findings.iter().map(|finding| finding.message.as_str()).collect();
    let subjects: Vec<String> = subjects.into_iter().filter(|it| !it.is_empty()).map(str::to_owned).collect();
    limited(&subjects, ", ")
}

fn restarts<'a>(workloads: impl Iterator<Item = &'a WorkloadId>) -> String {
    let commands: BTreeSet<String> = workloads.map(restart).collect();
    limited(&commands.into_iter().collect::<Vec<_>>(), " and ")
}

/// What makes a workload's pods anew.
fn restart(workload: &WorkloadId) -> String {
    let WorkloadId { namespace, kind, name } = workload;
    match kind.as_str() {
        "Deployment" | "StatefulSet" | "DaemonSet" => {
            format!("`kubectl rollout restart {}/{name} -n {namespace}`", kind.to_ascii_lowercase())
        }
        "Job" | "CronJob" => format!("{kind} {namespace}/{name} has it with its next pod"),
        _ => format!("make the pods of {kind} {namespace}/{name} anew"),
    }
}
