//! `circuitbreakerstates`: the breakers of each policy on each pod, and the override by which people force them.
//!
//! The leader answers, for only its book holds what every pod said. An override is written into the policy, so that it is
//! there for everybody to see, outlives the operator and is enforced like the rest of the spec.

use std::time::Duration;

use fusebox_api::operations::{
    BreakerState, CircuitBreakerOverride, CircuitBreakerState, ListMetadata, PodState, State,
};
use fusebox_compiler::{MAX_OVERRIDE, age};
use fusebox_policy::config::PolicyId;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

use super::Question;
use super::page::Page;
use super::refusal::Refusal;
use super::route::{Asked, BodyHead, Operation};
use super::table::{Column, Row, Table};

pub(crate) const RESOURCE: &str = CircuitBreakerState::PLURAL;
const OVERRIDE: &str = "override";

/// One policy's breakers.
pub(crate) const GET: Operation = Operation { resource: RESOURCE, subresource: "", verb: "get", read: get };
/// All policies' breakers, of one namespace or of all.
pub(crate) const LIST: Operation = Operation { resource: RESOURCE, subresource: "", verb: "list", read: list };
/// Forces a policy's breakers.
pub(crate) const FORCE: Operation =
    Operation { resource: RESOURCE, subresource: OVERRIDE, verb: "create", read: force };
/// The same: what was forced before is replaced either way.
pub(crate) const FORCE_AGAIN: Operation =
    Operation { resource: RESOURCE, subresource: OVERRIDE, verb: "update", read: force };
/// Lets a policy's breakers decide by themselves again.
pub(crate) const RELEASE: Operation =
    Operation { resource: RESOURCE, subresource: OVERRIDE, verb: "delete", read: release };

const COLUMNS: &[Column] = &[
    Column::new("Name", "The policy."),
    Column::new("Pod", "The pod whose sidecar enforces it."),
    Column::new("Target", "The Service that calls go to."),
    Column::new("Rule", "The rule, or (rest) for what no rule takes."),
    Column::new("State", "What the breaker does."),
    Column::new("Fail%", "Failures among recent requests."),
    Column::new("Trips", "How often it went from closed to open."),
    Column::new("Next-Probe", "When the next probe may pass."),
    Column::new("Connected", "For how long the sidecar has been connected to the operator."),
    Column::wide("Reason", "Why the breaker is in its state."),
    Column::wide("Endpoint", "The endpoint, with scope Endpoint."),
    Column::wide("Port", "The Service's port, or the container's on side Server."),
    Column::wide("Rejected", "Requests that it refused."),
    Column::wide("Workload", "The pod's workload."),
    Column::wide("Current", "Whether the sidecar enforces the newest configuration."),
    Column::wide("Revision", "The configuration that it enforces."),
];

/// What somebody wants to force.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Wish {
    pub(crate) policy: PolicyId,
    pub(crate) wanted: CircuitBreakerOverride,
    /// Who: for the log and the Event.
    pub(crate) user: String,
    pub(crate) conflicts: Conflicts,
}

/// What becomes of an override that somebody else manages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Conflicts {
    Refuse,
    TakeOver,
}

fn get(asked: &Asked<'_>) -> Result<Question, Refusal> {
    Ok(Question::State(asked.policy()))
}

fn list(asked: &Asked<'_>) -> Result<Question, Refusal> {
    Page::read(asked).map(Question::States)
}

fn force(asked: &Asked<'_>) -> Result<Question, Refusal> {
    let wanted: CircuitBreakerOverride = serde_json::from_slice(asked.body).map_err(|error| {
        Refusal::Malformed(format!("the body is not a CircuitBreakerOverride {{state, for or until, reason}}: {error}"))
    })?;
    let conflicts = if asked.query.force { Conflicts::TakeOver } else { Conflicts::Refuse };
    let CircuitBreakerOverride { api_version, kind, metadata, .. } = &wanted;
    let policy = asked.policy_of_body("CircuitBreakerOverride", BodyHead { api_version, kind, metadata })?;
    Ok(Question::Force(Wish { policy, wanted, user: asked.user.name.clone(), conflicts }))
}

fn release(asked: &Asked<'_>) -> Result<Question, Refusal> {
    Ok(Question::Release { policy: asked.policy(), user: asked.user.name.clone() })
}

/// When an override ends, in whole seconds, so that what is written reads well.
///
/// # Errors
/// `Malformed` without a time or with two, `Invalid` for one that has passed or is over 24 hours away.
pub(crate) fn until(wanted: &CircuitBreakerOverride, now: Timestamp) -> Result<Timestamp, Refusal> {
    let end = match (&wanted.until, &wanted.duration) {
        (Some(Time(until)), None) => *until,
        (None, Some(duration)) => {
            let millis = i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
            now.saturating_add(SignedDuration::from_millis(millis)).unwrap_or(Timestamp::MAX)
        }
        _ => return Err(Refusal::Malformed("say either for or until".to_owned())),
    };
    let end = Timestamp::from_second(end.as_second()).unwrap_or(end);
    if end <= now {
        return Err(Refusal::Invalid(format!("until {end} has passed: set a later time, or `for`")));
    }
    if end.duration_since(now) > MAX_OVERRIDE {
        return Err(Refusal::Invalid(format!(
            "until {end} is over 24 hours away: set it again later if it has to last longer"
        )));
    }
    Ok(end)
}

/// One row for each breaker, and one for a pod that has none.
pub(crate) fn table(list: &[CircuitBreakerState], next: &ListMetadata, now: Timestamp) -> Table {
    Table::of_states(COLUMNS, (list, next), |state| {
        let pods = state.enforcers.pods.iter().flat_map(|pod| pod_rows(state, pod, now));
        let elsewhere = state.enforcers.elsewhere.iter().map(|it| {
            let open = format!("{}/{} open", it.more.open, it.pods);
            Row::elsewhere(&state.metadata, it, ["", "", &open])
        });
        pods.chain(elsewhere).collect()
    })
}

fn pod_rows(state: &CircuitBreakerState, pod: &PodState, now: Timestamp) -> Vec<Row> {
    if pod.breakers.is_empty() {
        return vec![Row::new(&state.metadata, [state.metadata.name.as_str(), &pod.name])];
    }
    pod.breakers.iter().map(|breaker| breaker_row(state, pod, breaker, now)).collect()
}

fn breaker_row(state: &CircuitBreakerState, pod: &PodState, breaker: &BreakerState, now: Timestamp) -> Row {
    let own = breaker.target.namespace == state.metadata.namespace;
    let target = breaker.target.to_string();
    let target = if own { target.split_once('/').map_or(target.as_str(), |(_, name)| name) } else { &target };
    let or_none = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
    let since = |time: &Option<Time>| time.as_ref().map_or_else(|| "-".to_owned(), |time| age(time.0, now));
    let cells = [
        state.metadata.name.clone(),
        pod.name.clone(),
        target.to_owned(),
        if breaker.rule.is_empty() { "(rest)".to_owned() } else { breaker.rule.clone() },
        format!("{:?}", breaker.state),
        breaker.failure_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.0}")),
        breaker.trips.to_string(),
        breaker.next_probe.as_ref().map_or_else(|| "-".to_owned(), |time| format!("in {}", age(now, time.0))),
        if pod.connected { since(&pod.connected_since) } else { "no".to_owned() },
        or_none(&breaker.reason),
        or_none(&breaker.endpoint),
        breaker.port.to_string(),
        breaker.rejected.to_string(),
        pod.workload.clone(),
        pod.current.to_string(),
        or_none(&pod.revision),
    ];
    Row::new(&state.metadata, cells.iter().map(String::as_str))
}

/// How long a sidecar may take for its first report: before that a new leader does not know its breakers.
pub(crate) const FIRST_REPORT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use fusebox_api::circuit_breaker::ForcedState;

    use super::*;

    fn wanted(duration: Option<&str>, until: Option<Timestamp>) -> CircuitBreakerOverride {
        CircuitBreakerOverride {
            api_version: None,
            kind: None,
            metadata: None,
            state: ForcedState::ForcedOpen,
            until: until.map(Time),
            duration: duration.map(|duration| duration.parse().unwrap()),
            reason: "INC-42".into(),
            generation: None,
        }
    }

    #[test]
    fn an_override_ends_within_a_day() {
        let now = Timestamp::from_second(1_772_366_400).unwrap();
        let in_a_day = now + SignedDuration::from_hours(24);
        assert_eq!(until(&wanted(Some("30m"), None), now).unwrap(), now + SignedDuration::from_mins(30));
        assert_eq!(until(&wanted(None, Some(in_a_day)), now).unwrap(), in_a_day);
        for (bad, reason) in [
            (wanted(None, None), "either for or until"),
            (wanted(Some("1m"), Some(in_a_day)), "either for or until"),
            (wanted(None, Some(now)), "has passed"),
            (wanted(Some("0s"), None), "has passed"),
            (wanted(Some("25h"), None), "over 24 hours"),
            (wanted(None, Some(Timestamp::MAX)), "over 24 hours"),
        ] {
            let refusal = until(&bad, now).unwrap_err();
            assert!(refusal.to_string().contains(reason), "{refusal}");
        }
    }
}
