//! How a status differs from the one that stands: not, in measured numbers only, or in what somebody waits for.

use fusebox_api::{CircuitBreakerPolicyStatus, RateLimitStatus};
use fusebox_compiler::status::PolicyStatus;

use super::pacing::Difference;

/// Compares what stands with what should.
pub(super) fn difference(standing: &PolicyStatus, status: &PolicyStatus) -> Difference {
    if standing == status {
        Difference::None
    } else if without_numbers(standing) == without_numbers(status) {
        Difference::Numbers
    } else {
        Difference::Transition
    }
}

fn without_numbers(status: &PolicyStatus) -> PolicyStatus {
    match status {
        PolicyStatus::CircuitBreaker(status) => PolicyStatus::CircuitBreaker(breakers_without_numbers(status)),
        PolicyStatus::RateLimit(status) => PolicyStatus::RateLimit(limits_without_numbers(status)),
    }
}

/// Trips are no mere number: each is a transition, and the last count must be exact.
fn breakers_without_numbers(status: &CircuitBreakerPolicyStatus) -> CircuitBreakerPolicyStatus {
    let mut status = status.clone();
    if let Some(summary) = &mut status.summary {
        summary.failure_percent = None;
    }
    status.targets.iter_mut().for_each(|target| target.failure_percent = None);
    status
}

/// Who is blocked counts as a number while anybody is: under an attack it changes with every look.
fn limits_without_numbers(status: &RateLimitStatus) -> RateLimitStatus {
    let mut status = status.clone();
    if let Some(summary) = &mut status.summary {
        summary.limited_percent = None;
        summary.blocked = summary.blocked.map(i64::signum);
    }
    for target in &mut status.targets {
        let numbers = [&mut target.allowed, &mut target.limited, &mut target.delayed];
        numbers.into_iter().for_each(|number| *number = number.map(|_| 0));
        // Whether there were any, condition Limited says.
        (target.limited_recently, target.limited_percent, target.last_limited) = (None, None, None);
        target.blocked_clients = target.blocked_clients.map(i64::signum);
        target.top_blocked.clear();
    }
    for condition in status.conditions.iter_mut().filter(|condition| condition.type_ == "Limited") {
        // Its words hold numbers, its status and reason do not.
        condition.message.clear();
    }
    status
}

#[cfg(test)]
mod tests {
    use fusebox_api::rate_limit::RateLimitSummary;
    use fusebox_api::status::{State, Summary};

    use super::*;

    fn status(state: State, failure_percent: i64, trips: i64) -> PolicyStatus {
        let summary = Summary { failure_percent: Some(failure_percent), trips, ..Summary::default() };
        PolicyStatus::CircuitBreaker(CircuitBreakerPolicyStatus {
            state: Some(state),
            summary: Some(summary),
            ..CircuitBreakerPolicyStatus::default()
        })
    }

    fn limits(limited_percent: i64, blocked: i64) -> PolicyStatus {
        let summary = RateLimitSummary {
            limited_percent: Some(limited_percent),
            blocked: Some(blocked),
            ..RateLimitSummary::default()
        };
        PolicyStatus::RateLimit(RateLimitStatus { summary: Some(summary), ..RateLimitStatus::default() })
    }

    #[test]
    fn a_percentage_is_a_number_and_a_state_or_a_trip_is_a_transition() {
        let standing = status(State::Closed, 1, 1);
        assert_eq!(difference(&standing, &standing), Difference::None);
        assert_eq!(difference(&standing, &status(State::Closed, 2, 1)), Difference::Numbers);
        assert_eq!(difference(&standing, &status(State::Closed, 2, 2)), Difference::Transition);
        assert_eq!(difference(&standing, &status(State::Open, 1, 1)), Difference::Transition);
    }

    #[test]
    fn that_somebody_was_limited_is_a_transition_and_how_many_and_when_are_numbers() {
        let limited = |recently: i64, second: i64| {
            let target = serde_json::json!({
                "ref": {"name": "payments"}, "limitedRecently": recently, "limitedPercent": recently,
                "lastLimited": jiff::Timestamp::from_second(second).unwrap(),
            });
            let condition = serde_json::json!({
                "type": "Limited", "status": if recently > 0 { "True" } else { "False" }, "reason": "Because",
                "message": format!("{recently} at {second}"), "lastTransitionTime": "2026-01-01T00:00:00Z",
            });
            let status = serde_json::json!({"targets": [target], "conditions": [condition]});
            PolicyStatus::RateLimit(serde_json::from_value(status).unwrap())
        };
        assert_eq!(difference(&limited(3, 7), &limited(3, 7)), Difference::None);
        assert_eq!(difference(&limited(3, 7), &limited(4, 9)), Difference::Numbers);
        assert_eq!(difference(&limited(0, 7), &limited(4, 9)), Difference::Transition);
        assert_eq!(difference(&limited(4, 9), &limited(0, 9)), Difference::Transition);
    }

    #[test]
    fn that_somebody_is_blocked_is_a_transition_and_how_many_are_is_a_number() {
        let standing = limits(1, 0);
        assert_eq!(difference(&standing, &limits(2, 0)), Difference::Numbers);
        assert_eq!(difference(&standing, &limits(1, 1)), Difference::Transition);
        assert_eq!(difference(&limits(1, 1), &limits(1, 7)), Difference::Numbers);
        assert_eq!(difference(&limits(1, 7), &limits(1, 0)), Difference::Transition);
    }
}
