//! The status of a CircuitBreakerPolicy, and the two conditions that only it has.
//!
//! `Tripped` must never be part of `Ready`: an open breaker is the policy at work, and tools that roll back what is not ready would
//! undo it.

use fusebox_api::CircuitBreakerPolicyStatus;
use fusebox_api::circuit_breaker::Scope;
use fusebox_api::common::Mode;
use fusebox_api::status::State;
use fusebox_policy::config::ForcedState;
use jiff::Timestamp;

use super::conditions::{Common, Draft, Input, counted};
use super::targets::{self, Observed};
use super::{Completeness, Reason, Reports, sidecars};
use crate::plan::{BreakerPart, ForceVerdict, PolicyPlan};

/// How condition Tripped speaks of open breakers.
struct TrippedWords {
    some: &'static str,
    all: &'static str,
    half_open: &'static str,
    place: String,
}

impl TrippedWords {
    fn of(part: &BreakerPart, observed: &Observed) -> Self {
        let Observed { summary, targets, .. } = observed;
        let calls = Self {
            some: "calls are refused by some pods",
            all: "calls are refused",
            half_open: "only probes pass",
            place: format!("{} pods", summary.open),
        };
        let any_endpoint = targets.iter().filter_map(|target| target.endpoints.as_ref()).any(|it| it.total > 0);
        match (part.scope, any_endpoint) {
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

/// Makes the status; `previous` is what stands.
pub(super) fn fold(
    (plan, part): (&PolicyPlan, &BreakerPart),
    reports: &Reports,
    now: Timestamp,
    previous: Option<&CircuitBreakerPolicyStatus>,
) -> CircuitBreakerPolicyStatus {
    let observed = match (reports.completeness, previous) {
        (Completeness::Settling, Some(previous)) => targets::kept((plan, part), previous),
        (Completeness::Settling | Completeness::Complete, _) => targets::observe((plan, part), reports, now),
    };
    let sidecars = sidecars::observe(plan, reports, now);
    let standing = previous.map(|status| status.conditions.as_slice()).unwrap_or_default();
    let input = Input { plan, reports, sidecars: &sidecars, previous: standing, now };
    let Common { accepted, resolved, programmed, ready, monitored, covered } = input.common();
    let tripped = tripped(plan, part, &observed);
    let overridden = overridden(&plan.key.id.name, &part.force);
    CircuitBreakerPolicyStatus {
        observed_generation: Some(plan.version.generation),
        conditions: input.finished([accepted, resolved, programmed, ready, tripped, monitored, overridden, covered]),
        state: Some(observed.state),
        summary: Some(observed.summary),
        targets: observed.targets,
        truncated: observed.truncated || sidecars.is_truncated(),
        sidecars: Some(sidecars.status()),
    }
}

fn tripped(plan: &PolicyPlan, part: &BreakerPart, observed: &Observed) -> Draft {
    let Observed { state, reporting, .. } = observed;
    if plan.mode == Mode::Disabled {
        return Draft::no("Tripped", Reason::Disabled.as_str(), "mode Disabled has no breakers".to_owned());
    }
    let shadow = if plan.mode == Mode::Shadow { " if mode were Enforce" } else { "" };
    let TrippedWords { some, all, half_open, place } = TrippedWords::of(part, observed);
    let open = |words: &str| {
        let why = if observed.reason.is_empty() { String::new() } else { format!(" ({})", observed.reason) };
        let message = format!("{words}{shadow}: open on {place}{why}; status.targets says where");
        Draft { kind: "Tripped", status: "True", reason: state_word(*state), message }
    };
    match state {
        State::Open => open(all),
        State::PartiallyOpen => open(some),
        State::HalfOpen => open(half_open),
        State::Closed => Draft::no(
            "Tripped",
            Reason::NotTripped.as_str(),
            format!("closed on all of {}", counted(usize::try_from(*reporting).unwrap_or_default(), "reporting pod")),
        ),
        State::Unknown => Draft::unknown(
            "Tripped",
            Reason::NoReports,
            "no pod that enforces the policy reports; condition Programmed says why",
        ),
    }
}

fn overridden(name: &str, force: &ForceVerdict) -> Draft {
    let kind = "Overridden";
    match force {
        ForceVerdict::Absent => {
            Draft::no(kind, Reason::NoOverride.as_str(), "breakers decide by themselves".to_owned())
        }
        ForceVerdict::Active { state, until, reason } => {
            let (word, what) = match state {
                ForcedState::ForcedOpen => (Reason::ForcedOpen, "every call is refused"),
                ForcedState::ForcedClosed => (Reason::ForcedClosed, "every call passes"),
            };
            let message = format!("{what} until {until}, because: {reason}; `fusebox release {name}` ends it");
            Draft::yes(kind, word, message)
        }
        ForceVerdict::Expired { until } => {
            let message = format!(
                "spec.override.until was {until} and has passed, so breakers decide by themselves: remove spec.override, or set a later time"
            );
            Draft::no(kind, Reason::Expired.as_str(), message)
        }
        ForceVerdict::TooFar { until, limit } => {
            let message = format!(
                "spec.override.until is {until}, over 24 hours after it was written, so breakers decide by themselves: set {limit} at the latest"
            );
            Draft::no(kind, Reason::UntilTooFar.as_str(), message)
        }
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
