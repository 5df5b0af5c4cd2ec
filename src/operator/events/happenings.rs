//! What happened between two statuses of one policy, as it is told to people. Pure.

use fusebox_api::CircuitBreakerPolicyStatus;
use fusebox_api::status::State;
use fusebox_compiler::status::PolicyStatus;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{Happening, Severity};

/// Conditions of a CircuitBreakerPolicy whose transitions are told. Others only repeat these, or a state.
const TOLD_OF_BREAKERS: &[&str] = &["Accepted", "Programmed", "Covered"];

/// The same of a RateLimit.
const TOLD_OF_LIMITS: &[&str] = &["Accepted", "ResolvedRefs", "Programmed", "StoreReachable", "Covered"];

/// What happened between two statuses. Nothing is told of a first one that only says that nothing is known.
#[must_use]
pub fn happenings(before: Option<&PolicyStatus>, after: &PolicyStatus) -> Vec<Happening> {
    let (state, told) = match after {
        PolicyStatus::CircuitBreaker(after) => {
            (state(before.and_then(PolicyStatus::circuit_breaker), after), TOLD_OF_BREAKERS)
        }
        PolicyStatus::RateLimit(_) => (None, TOLD_OF_LIMITS),
    };
    let conditions = told.iter().filter_map(|kind| {
        let find = |status: &PolicyStatus| status.conditions().iter().find(|it| it.type_ == *kind).cloned();
        let (old, new) = (before.and_then(find), find(after)?);
        let told = |condition: &Condition| (condition.status.clone(), condition.reason.clone());
        (old.as_ref().map(told) != Some(told(&new))).then(|| condition_happening(&new))
    });
    state.into_iter().chain(conditions).collect()
}

fn state(before: Option<&CircuitBreakerPolicyStatus>, after: &CircuitBreakerPolicyStatus) -> Option<Happening> {
    let old = before.and_then(|status| status.state).unwrap_or_default();
    let new = after.state.unwrap_or_default();
    (new != old).then(|| state_happening(old, new, after))
}

fn state_happening(old: State, new: State, status: &CircuitBreakerPolicyStatus) -> Happening {
    let (severity, reason) = match new {
        State::Open => (Severity::Warning, "CircuitOpen"),
        State::PartiallyOpen => (Severity::Warning, "CircuitPartiallyOpen"),
        State::HalfOpen => (Severity::Normal, "CircuitHalfOpen"),
        State::Closed => (Severity::Normal, "CircuitClosed"),
        State::Unknown => (Severity::Normal, "CircuitUnknown"),
    };
    let open = status.summary.as_ref().map(|summary| summary.open.clone()).unwrap_or_default();
    Happening { severity, reason: reason.to_owned(), note: format!("{old:?} -> {new:?}; pods open: {open}") }
}

fn condition_happening(condition: &Condition) -> Happening {
    let Condition { type_, status, reason, message, .. } = condition;
    let (severity, word) = match status.as_str() {
        "True" => (Severity::Normal, type_.clone()),
        "False" => (Severity::Warning, format!("Not{type_}")),
        _ => (Severity::Normal, format!("{type_}Unknown")),
    };
    Happening { severity, reason: word, note: format!("{reason}: {message}") }
}

#[cfg(test)]
mod tests {
    use fusebox_api::RateLimitStatus;

    use super::*;

    fn conditions(status: &str) -> Vec<Condition> {
        let condition = |kind: &str| {
            let condition = serde_json::json!({
                "type": kind, "status": status, "reason": "Because", "message": "do this",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            });
            serde_json::from_value(condition).unwrap()
        };
        ["Accepted", "ResolvedRefs", "Covered", "Overridden"].map(condition).into()
    }

    fn status(state: State, accepted: &str) -> PolicyStatus {
        PolicyStatus::CircuitBreaker(CircuitBreakerPolicyStatus {
            state: Some(state),
            conditions: conditions(accepted),
            ..CircuitBreakerPolicyStatus::default()
        })
    }

    fn reasons(happenings: &[Happening]) -> Vec<&str> {
        happenings.iter().map(|happening| happening.reason.as_str()).collect()
    }

    #[test]
    fn each_transition_is_told_once() {
        let (closed, open) = (status(State::Closed, "True"), status(State::Open, "False"));
        assert_eq!(reasons(&happenings(Some(&closed), &open)), ["CircuitOpen", "NotAccepted", "NotCovered"]);
        assert!(happenings(Some(&open), &open).is_empty());
        assert_eq!(reasons(&happenings(None, &status(State::Unknown, "True"))), ["Accepted", "Covered"]);
    }

    #[test]
    fn of_a_rate_limit_it_is_told_that_what_it_names_is_not_there() {
        let limits = |status| {
            PolicyStatus::RateLimit(RateLimitStatus { conditions: conditions(status), ..RateLimitStatus::default() })
        };
        let told = happenings(Some(&limits("True")), &limits("False"));
        assert_eq!(reasons(&told), ["NotAccepted", "NotResolvedRefs", "NotCovered"]);
    }
}
