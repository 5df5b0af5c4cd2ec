//! The eight conditions of a policy, each with a reason, and a message that says the next step.
//!
//! `Tripped` must never be part of `Ready`: an open breaker is the policy at work, and tools
//! that roll back what is not ready would undo it. Nor must `Covered`: pods that were there before would block a rollout.

mod covered;

use std::collections::BTreeSet;

use fusebox_api::CircuitBreakerPolicyStatus;
use fusebox_api::circuit_breaker::Scope;
use fusebox_api::common::Mode;
use fusebox_api::status::State;
use fusebox_policy::config::{ForcedState, Side};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::sidecars::Sidecars;
use super::targets::Observed;
use super::{Completeness, Monitoring, PodReport, Reason, Reports};
use crate::plan::{Attached, BoundPod, Cause, ForceVerdict, PolicyPlan, Readiness, Refusal, TargetPlan, Verdict};
use crate::snapshot::Prometheus;

/// At most this many parts of a message; the rest is counted.
const MAX_PARTS: usize = 3;

/// A proxy's words in a message are cut to this many characters.
const MAX_PROXY_WORDS: usize = 512;

/// What conditions are made from.
pub(super) struct Input<'a> {
    pub(super) plan: &'a PolicyPlan,
    pub(super) reports: &'a Reports,
    pub(super) observed: &'a Observed,
    pub(super) sidecars: &'a Sidecars,
    pub(super) previous: Option<&'a CircuitBreakerPolicyStatus>,
    pub(super) now: Timestamp,
}

/// A condition without its time.
struct Draft {
    kind: &'static str,
    status: &'static str,
    reason: &'static str,
    message: String,
}

/// How condition Tripped speaks of open breakers.
struct TrippedWords {
    some: &'static str,
    all: &'static str,
    half_open: &'static str,
    place: String,
}

impl TrippedWords {
    fn of(input: &Input<'_>) -> Self {
        let Observed { summary, targets, .. } = input.observed;
        let calls = Self {
            some: "calls are refused by some pods",
            all: "calls are refused",
            half_open: "only probes pass",
            place: format!("{} pods", summary.open),
        };
        let any_endpoint = targets.iter().filter_map(|target| target.endpoints.as_ref()).any(|it| it.total > 0);
        match (input.plan.scope, any_endpoint) {
            (Scope::Service, _) => calls,
            (Scope::Endpoint, false) => {
                Self { place: "the Service's address, since no endpoint is known".to_owned(), ..calls }
            }
            (Scope::Endpoint, true) => Self {
                some: "some endpoints are left out",
                all: "all endpoints that were called fail",
                half_open: "endpoints that failed are probed",
                place: summary.open.clone(),
            },
        }
    }
}

/// All conditions, in a fixed order.
pub(super) fn all(input: &Input<'_>) -> Vec<Condition> {
    let accepted = accepted(input.plan);
    let resolved = resolved_refs(input.plan);
    let programmed = kept_while_settling(input, "Programmed").unwrap_or_else(|| programmed(input));
    let ready = ready(&[&accepted, &resolved, &programmed]);
    let tripped = tripped(input);
    let covered = covered::covered(input);
    let drafts = [accepted, resolved, programmed, ready, tripped, monitored(input), overridden(input.plan), covered];
    drafts.into_iter().map(|draft| finished(draft, input)).collect()
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
        return no("Accepted", first.reason(), message);
    }
    if conflicts > 0 {
        let message = "another policy has a container port of a target; status.targets says which and what to do";
        return no("Accepted", "Conflicted", message.to_owned());
    }
    yes("Accepted", Reason::Accepted, format!("{} accepted", counted(plan.targets.len(), "target")))
}

fn resolved_refs(plan: &PolicyPlan) -> Draft {
    let unresolved = refusals(plan, Refusal::is_unresolved);
    match unresolved.first() {
        Some(first) => no("ResolvedRefs", first.reason(), listed(&unresolved)),
        None => yes("ResolvedRefs", Reason::ResolvedRefs, "all references lead to a Service".to_owned()),
    }
}

fn programmed(input: &Input<'_>) -> Draft {
    let plan = input.plan;
    let kind = "Programmed";
    if !plan.targets.iter().any(|target| target.verdict == Verdict::Accepted) {
        return no(kind, Reason::NotAccepted.as_str(), "no target is accepted; condition Accepted says why".to_owned());
    }
    if plan.pods.is_empty() {
        return without_pods(plan);
    }
    let ready: Vec<(&BoundPod, Option<&PodReport>)> = ready_pods(input);
    if ready.is_empty() {
        let message =
            format!("none of {} with a sidecar is Ready; nothing waits for them", counted(plan.pods.len(), "pod"));
        return yes(kind, Reason::NoProxies, message);
    }
    if let Some(draft) = refused_by_proxy(&ready) {
        return draft;
    }
    let acked = ready.iter().filter(|(_, report)| report.is_some_and(|it| it.acked.contains(&plan.version))).count();
    let count = format!("{acked}/{} Ready pods acknowledged generation {}", ready.len(), plan.version.generation);
    if acked < ready.len() {
        let message =
            format!("{count}; if this lasts, look at the sidecars' logs and their connection to the operator");
        return no(kind, Reason::Pending.as_str(), message);
    }
    match plan.mode {
        Mode::Enforce => yes(kind, Reason::Programmed, count),
        Mode::Shadow => yes(kind, Reason::Programmed, format!("{count}; mode Shadow changes nothing")),
        Mode::Disabled => {
            yes(kind, Reason::Disabled, format!("{count}; mode Disabled does nothing, set mode: Enforce to enforce"))
        }
    }
}

fn without_pods(plan: &PolicyPlan) -> Draft {
    let kind = "Programmed";
    let attached = plan.targets.iter().any(|target| target.attached == Attached::Somewhere);
    let overruled = plan.targets.iter().any(|target| !target.overruled.is_empty());
    if overruled && !attached {
        let message = "other policies have every place; status.targets says which";
        return no(kind, Reason::Overruled.as_str(), message.to_owned());
    }
    if plan.coverage.bare() == 0 {
        return yes(
            kind,
            Reason::NoProxies,
            format!("no pod is on the {}; nothing to enforce yet", side_words(plan.side)),
        );
    }
    no(kind, Reason::NoSidecars.as_str(), covered::without_sidecars(plan))
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
    Some(no("Programmed", Reason::RefusedByProxy.as_str(), message))
}

fn ready(parts: &[&Draft]) -> Draft {
    match parts.iter().find(|part| part.status != "True") {
        Some(part) => Draft { kind: "Ready", status: part.status, reason: part.reason, message: part.message.clone() },
        None => yes("Ready", Reason::Ready, "accepted and enforced".to_owned()),
    }
}

fn tripped(input: &Input<'_>) -> Draft {
    let Observed { state, reporting, .. } = input.observed;
    if input.plan.mode == Mode::Disabled {
        return no("Tripped", Reason::Disabled.as_str(), "mode Disabled has no breakers".to_owned());
    }
    let shadow = if input.plan.mode == Mode::Shadow { " if mode were Enforce" } else { "" };
    let TrippedWords { some, all, half_open, place } = TrippedWords::of(input);
    let open = |words: &str| {
        let why =
            if input.observed.reason.is_empty() { String::new() } else { format!(" ({})", input.observed.reason) };
        let message = format!("{words}{shadow}: open on {place}{why}; status.targets says where");
        Draft { kind: "Tripped", status: "True", reason: state_word(*state), message }
    };
    match state {
        State::Open => open(all),
        State::PartiallyOpen => open(some),
        State::HalfOpen => open(half_open),
        State::Closed => no(
            "Tripped",
            Reason::NotTripped.as_str(),
            format!("closed on all of {}", counted(usize::try_from(*reporting).unwrap_or_default(), "reporting pod")),
        ),
        State::Unknown => Draft {
            kind: "Tripped",
            status: "Unknown",
            reason: Reason::NoReports.as_str(),
            message: "no pod that enforces the policy reports; condition Programmed says why".to_owned(),
        },
    }
}

fn monitored(input: &Input<'_>) -> Draft {
    let kind = "Monitored";
    if input.plan.prometheus == Prometheus::Missing {
        let message =
            "the Prometheus operator's resources are not installed; install them and alerts follow by themselves";
        return no(kind, Reason::CrdMissing.as_str(), message.to_owned());
    }
    match input.reports.monitoring.get(&input.plan.version.id) {
        Some(Monitoring::Applied) => yes(kind, Reason::Monitored, "alerts are applied as a PrometheusRule".to_owned()),
        Some(Monitoring::Failed { error }) => {
            no(kind, Reason::ApplyFailed.as_str(), format!("the PrometheusRule could not be applied: {error}"))
        }
        None => Draft {
            kind,
            status: "Unknown",
            reason: Reason::Pending.as_str(),
            message: "the PrometheusRule has not been applied yet".to_owned(),
        },
    }
}

fn overridden(plan: &PolicyPlan) -> Draft {
    let kind = "Overridden";
    match &plan.force {
        ForceVerdict::Absent => no(kind, Reason::NoOverride.as_str(), "breakers decide by themselves".to_owned()),
        ForceVerdict::Active { state, until, reason } => {
            let (word, what) = match state {
                ForcedState::ForcedOpen => (Reason::ForcedOpen, "every call is refused"),
                ForcedState::ForcedClosed => (Reason::ForcedClosed, "every call passes"),
            };
            let name = &plan.version.id.name;
            let message = format!("{what} until {until}, because: {reason}; `fusebox release {name}` ends it");
            yes(kind, word, message)
        }
        ForceVerdict::Expired { until } => {
            let message = format!(
                "spec.override.until was {until} and has passed, so breakers decide by themselves: remove spec.override, or set a later time"
            );
            no(kind, Reason::Expired.as_str(), message)
        }
        ForceVerdict::TooFar { until, limit } => {
            let message = format!(
                "spec.override.until is {until}, over 24 hours after it was written, so breakers decide by themselves: set {limit} at the latest"
            );
            no(kind, Reason::UntilTooFar.as_str(), message)
        }
    }
}

/// While pods have not had the time to speak, what was said of this generation stands.
fn kept_while_settling(input: &Input<'_>, kind: &'static str) -> Option<Draft> {
    if input.reports.completeness == Completeness::Complete {
        return None;
    }
    let previous = input.previous?.conditions.iter().find(|condition| condition.type_ == kind)?;
    if previous.observed_generation != Some(input.plan.version.generation)
        || previous.reason != Reason::Programmed.as_str()
    {
        return None;
    }
    Some(yes(kind, Reason::Programmed, previous.message.clone()))
}

fn finished(draft: Draft, input: &Input<'_>) -> Condition {
    let Draft { kind, status, reason, message } = draft;
    let previous = input.previous.and_then(|status| status.conditions.iter().find(|condition| condition.type_ == kind));
    let unchanged = previous.filter(|condition| condition.status == status);
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
    let ready = input.plan.pods.iter().filter(|(_, pod)| pod.readiness == Readiness::Ready);
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

fn counted(number: usize, thing: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {thing}{plural}")
}

const fn side_words(side: Side) -> &'static str {
    match side {
        Side::Client => "callers' side",
        Side::Server => "target's side",
    }
}

const fn state_word(state: State) -> &'static str {
    match state {
        State::Unknown => "Unknown",
        State::Closed => "Closed",
        State::HalfOpen => "HalfOpen",
        State::PartiallyOpen => "PartiallyOpen",
        State::Open => "Open",
    }
}

fn yes(kind: &'static str, reason: Reason, message: String) -> Draft {
    Draft { kind, status: "True", reason: reason.as_str(), message }
}

fn no(kind: &'static str, reason: &'static str, message: String) -> Draft {
    Draft { kind, status: "False", reason, message }
}
