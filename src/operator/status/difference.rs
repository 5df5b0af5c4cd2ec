//! How a status differs from the one that stands: not, in measured numbers only, or in what somebody waits for.

use fusebox_api::CircuitBreakerPolicyStatus;

use super::pacing::Difference;

/// Compares what stands with what should.
pub(super) fn difference(standing: &CircuitBreakerPolicyStatus, status: &CircuitBreakerPolicyStatus) -> Difference {
    if standing == status {
        Difference::None
    } else if without_numbers(standing) == without_numbers(status) {
        Difference::Numbers
    } else {
        Difference::Transition
    }
}

/// Trips are no mere number: each is a transition, and the last count must be exact.
fn without_numbers(status: &CircuitBreakerPolicyStatus) -> CircuitBreakerPolicyStatus {
    let mut status = status.clone();
    if let Some(summary) = &mut status.summary {
        summary.failure_percent = None;
    }
    status.targets.iter_mut().for_each(|target| target.failure_percent = None);
    status
}

#[cfg(test)]
mod tests {
    use fusebox_api::status::{State, Summary};

    use super::*;

    fn status(state: State, failure_percent: i64, trips: i64) -> CircuitBreakerPolicyStatus {
        let summary = Summary { failure_percent: Some(failure_percent), trips, ..Summary::default() };
        CircuitBreakerPolicyStatus {
            state: Some(state),
            summary: Some(summary),
            ..CircuitBreakerPolicyStatus::default()
        }
    }

    #[test]
    fn a_percentage_is_a_number_and_a_state_or_a_trip_is_a_transition() {
        let standing = status(State::Closed, 1, 1);
        assert_eq!(difference(&standing, &standing), Difference::None);
        assert_eq!(difference(&standing, &status(State::Closed, 2, 1)), Difference::Numbers);
        assert_eq!(difference(&standing, &status(State::Closed, 2, 2)), Difference::Transition);
        assert_eq!(difference(&standing, &status(State::Open, 1, 1)), Difference::Transition);
    }
}
