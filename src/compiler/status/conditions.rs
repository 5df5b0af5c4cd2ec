//! The conditions that every policy has, each with a reason, and a message that says the next step.
//!
//! What only one kind has (an open breaker, a blocked client) stands with that kind, and must never be part of `Ready`: it is the
//! policy at work, and tools that roll back what is not ready would undo it. Nor must `Covered`: pods that were there before would
//! block a rollout.

mod covered;
mod resolved;

use std::collections::BTreeSet;

use fusebox_api::common::Mode;
use fusebox_policy::config::Side;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::sidecars::Sidecars;
use super::{Completeness, Monitoring, PodReport, Reason, Reports};
use crate::plan::{Attached, BoundPod, Cause, PolicyPlan, Refusal, TargetPlan, Verdict};
use crate::snapshot::Prometheus;

use resolved::resolved_refs;

/// At most this many parts of a message; the rest is counted.
const MAX_PARTS: usize = 3;

/// A proxy's words in a message are cut to this many characters.
const MAX_PROXY_WORDS: usize = 512;

/// What conditions are made from.
pub(super) struct Input<'a> {
    pub(super) plan: &'a PolicyPlan,
    pub(super) reports: &'a Reports,
    pub(super) sidecars: &'a Sidecars,
    /// The conditions that stand.
    pub(super) previous: &'a [Condition],
    pub(super) now: Timestamp,
}

/// A condition without its time.
pub(super) struct Draft {
    pub(super) kind: &'static str,
    pub(super) status: &'static str,
    pub(super) reason: &'static str,
    pub(super) message: String,
}

/// The conditions that every policy has.
pub(super) struct Common {
    pub(super) accepted: Draft,
    pub(super) resolved: Draft,
    pub(super) programmed: Draft,
    pub(super) ready: Draft,
    pub(super) monitored: Draft,
    pub(super) covered: Draft,
}

impl<'a> Input<'a> {
    /// The conditions that every policy has, whatever its kind.
    pub(super) fn common(&self) -> Common {
        let accepted = accepted(self.plan);
        let resolved = resolved_refs(self);
        let programmed = kept_while_settling(self, "Programmed").unwrap_or_else(|| programmed(self));
        let ready = ready(&[&accepted, &resolved, &programmed]);
        Common { accepted, resolved, programmed, ready, monitored: monitored(self), covered: covered::covered(self) }
    }

    /// The drafts with their times.
    pub(super) fn finished(&self, drafts: impl IntoIterator<Item = Draft>) -> Vec<Condition> {
        drafts.into_iter().map(|draft| finished(draft, self)).collect()
    }

    fn previous(&self, kind: &str) -> Option<&'a Condition> {
        self.previous.iter().find(|condition| condition.type_ == kind)
    }
}

impl Draft {
    pub(super) fn yes(kind: &'static str, reason: Reason, message: String) -> Self {
        Self { kind, status: "True", reason: reason.as_str(), message }
    }

    pub(super) fn no(kind: &'static str, reason: &'static str, message: String) -> Self {
        Self { kind, status: "False", reason, message }
    }

    pub(super) fn unknown(kind: &'static str, reason: Reason, message: &str) -> Self {
        Self { kind, status: "Unknown", reason: reason.as_str(), message: message.to_owned() }
    }
}

fn accepted(plan: &PolicyPlan) -> Draft {
    let refused = refusals(plan, |_| true);
    let conflicts = plan.targets.iter().filter(|target| has_conflict(target)).count();
    if let Some(first) = refused.first() {
        let message = format!(
            "{} of {} targets accepted; {}",
            plan.targets.len() - refused.len(),
            plan.targets.len(),
            listed(&refused)
        );
        return Draft::no("Accepted", first.reason(), message);
    }
    if conflicts > 0 {
        let message = "another policy has a container port of a target; status.targets says which and what to do";
        return Draft::no("Accepted", "Conflicted", message.to_owned());
    }
    Draft::yes("Accepted", Reason::Accepted, format!("{} accepted", counted(plan.targets.len(), "target")))
}

fn programmed(input: &Input<'_>) -> Draft {
    let plan = input.plan;
    let kind = "Programmed";
    if !plan.targets.iter().any(|target| target.verdict == Verdict::Accepted) {
        return Draft::no(
            kind,
            Reason::NotAccepted.as_str(),
            "no target is accepted; condition Accepted says why".to_owned(),
        );
    }
    if plan.pods.is_empty() {
        return without_pods(plan);
    }
    let ready: Vec<(&BoundPod, Option<&PodReport>)> = ready_pods(input);
    if ready.is_empty() {
        let message =
            format!("none of {} with a sidecar is Ready; nothing waits for them", counted(plan.pods.len(), "pod"));
        return Draft::yes(kind, Reason::NoProxies, message);
    }
    if let Some(draft) = refused_by_proxy(&ready) {
        return draft;
    }
    let acked = ready.iter().filter(|(_, report)| report.is_some_and(|it| it.acked.contains(&plan.version))).count();
    let count = format!("{acked}/{} Ready pods acknowledged generation {}", ready.len(), plan.version.generation);
    if acked < ready.len() {
        let message =
            format!("{count}; if this lasts, look at the sidecars' logs and their connection to the operator");
        return Draft::no(kind, Reason::Pending.as_str(), message);
    }
    match plan.mode {
        Mode::Enforce => Draft::yes(kind, Reason::Programmed, count),
        Mode::Shadow => Draft::yes(kind, Reason::Programmed, format!("{count}; mode Shadow changes nothing")),
        Mode::Disabled => Draft::yes(
            kind,
            Reason::Disabled,
            format!("{count}; mode Disabled does nothing, set mode: Enforce to enforce"),
        ),
    }
}

fn without_pods(plan: &PolicyPlan) -> Draft {
    let kind = "Programmed";
    let attached = plan.targets.iter().any(|target| target.attached == Attached::Somewhere);
    let overruled = plan.targets.iter().any(|target| !target.overruled.is_empty());
    if overruled && !attached {
        let message = "other policies have every place; status.targets says which";
        return Draft::no(kind, Reason::Overruled.as_str(), message.to_owned());
    }
    if plan.coverage.bare() == 0 {
        return Draft::yes(
            kind,
            Reason::NoProxies,
            format!("no pod is on the {}; nothing to enforce yet", side_words(plan.side)),
        );
    }
    Draft::no(kind, Reason::NoSidecars.as_str(), covered::without_sidecars(plan))
}

fn refused_by_proxy(ready: &[(&BoundPod, Option<&PodReport>)]) -> Option<Draft> {
    let nack = |(pod, report): &(&BoundPod, Option<&PodReport>)| {
        let nack = (*report)?.nack.as_ref().filter(|nack| nack.revision == pod.revision)?;
        Some((format!("{}/{}", pod.namespace, pod.name), nack.error.clone()))
    };
    let refused: Vec<(String, String)> = ready.iter().filter_map(nack).collect();
    let (pod, error) = refused.first()?;
    let words: String = error.chars().take(MAX_PROXY_WORDS).collect();
    let message = format!(
        "{} of {} Ready pods refused the configuration and keep the one before; pod {pod} says: {words}; if its proxy is older than the operator, restart the pod",
        refused.len(),
        ready.len()
    );
    Some(Draft::no("Programmed", Reason::RefusedByProxy.as_str(), message))
}

fn ready(parts: &[&Draft]) -> Draft {
    match parts.iter().find(|part| part.status != "True") {
        Some(part) => Draft { kind: "Ready", status: part.status, reason: part.reason, message: part.message.clone() },
        None => Draft::yes("Ready", Reason::Ready, "accepted and enforced".to_owned()),
    }
}

fn monitored(input: &Input<'_>) -> Draft {
    let kind = "Monitored";
    if input.plan.prometheus == Prometheus::Missing {
        let message =
            "the Prometheus operator's resources are not installed; install them and alerts follow by themselves";
        return Draft::no(kind, Reason::CrdMissing.as_str(), message.to_owned());
    }
    match input.reports.monitoring.get(&input.plan.key) {
        Some(Monitoring::Applied) => {
            Draft::yes(kind, Reason::Monitored, "alerts are applied as a PrometheusRule".to_owned())
        }
        Some(Monitoring::Failed { error }) => {
            Draft::no(kind, Reason::ApplyFailed.as_str(), format!("the PrometheusRule could not be applied: {error}"))
        }
        None => Draft::unknown(kind, Reason::Pending, "the PrometheusRule has not been applied yet"),
    }
}

/// While pods have not had the time to speak, what was said of this generation stands.
fn kept_while_settling(input: &Input<'_>, kind: &'static str) -> Option<Draft> {
    if input.reports.completeness == Completeness::Complete {
        return None;
    }
    let previous = input.previous(kind)?;
    if previous.observed_generation != Some(input.plan.version.generation)
        || previous.reason != Reason::Programmed.as_str()
    {
        return None;
    }
    Some(Draft::yes(kind, Reason::Programmed, previous.message.clone()))
}

fn finished(draft: Draft, input: &Input<'_>) -> Condition {
    let Draft { kind, status, reason, message } = draft;
    let unchanged = input.previous(kind).filter(|condition| condition.status == status);
    let now = Timestamp::from_second(input.now.as_second()).unwrap_or(input.now);
    Condition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: Some(input.plan.version.generation),
        last_transition_time: unchanged.map_or(Time(now), |condition| condition.last_transition_time.clone()),
    }
}

fn ready_pods<'a>(input: &Input<'a>) -> Vec<(&'a BoundPod, Option<&'a PodReport>)> {
    let ready = input.plan.pods.iter().filter(|(_, pod)| pod.is_ready());
    ready.map(|(uid, pod)| (pod, input.reports.pods.get(uid).filter(|report| report.counts_at(input.now)))).collect()
}

fn refusals(plan: &PolicyPlan, wanted: impl Fn(&Refusal) -> bool) -> Vec<&Refusal> {
    let refused = plan.targets.iter().filter_map(|target| match &target.verdict {
        Verdict::Accepted => None,
        Verdict::Refused(refusal) => Some(refusal),
    });
    refused.filter(|refusal| wanted(refusal)).collect()
}

fn has_conflict(target: &TargetPlan) -> bool {
    target.overruled.iter().any(|overruled| overruled.cause == Cause::Conflict)
}

fn listed(refusals: &[&Refusal]) -> String {
    let distinct: BTreeSet<String> = refusals.iter().map(ToString::to_string).collect();
    limited(&distinct.into_iter().collect::<Vec<_>>(), "; ")
}

/// The first parts, and how many more there are.
fn limited(parts: &[String], separator: &str) -> String {
    let shown = parts.iter().take(MAX_PARTS).map(String::as_str).collect::<Vec<_>>().join(separator);
    match parts.len().checked_sub(MAX_PARTS) {
        Some(more) if more > 0 => format!("{shown}; and {more} more"),
        _ => shown,
    }
}

pub(super) fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

const fn side_words(side: Side) -> &'static str {
    match side {
        Side::Client => "callers' side",
        Side::Server => "target's side",
    }
}
