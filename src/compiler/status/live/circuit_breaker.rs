//! A policy's breakers on each pod, as somebody who asks sees them now.
//!
//! The same facts that [`crate::status::fold`] makes a status from, told apart by pod. Silence must never become Closed here
//! either, and pods of other namespaces must only be counted: they belong to people who were not asked.

use std::collections::BTreeMap;
use std::ops::Bound;

use fusebox_api::circuit_breaker::{self as api, Override, Scope};
use fusebox_api::operations::{
    API_VERSION, BreakerState, CircuitBreakerState, LiveState, Metadata, OpenPods, PodState, State,
};
use fusebox_policy::config::{BreakerKey, ForcedState, PolicyId};
use fusebox_policy::report::{self, BreakerReport};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::enforcers::{LivePod, connected_since, enforcers, generation, workload};
use super::{Heard, target};
use crate::common_config::side_told;
use crate::plan::{BoundPod, ForceVerdict, PolicyPlan};
use crate::status::Completeness;
use crate::status::targets::{forced_word, is_address, same_place};
use crate::status::words::time;

/// The live state of a policy's breakers; `heard` is by the pods' uids.
#[must_use]
pub fn live(plan: &PolicyPlan, heard: &BTreeMap<&str, Heard<'_>>, completeness: Completeness) -> CircuitBreakerState {
    let PolicyId { namespace, name } = plan.version.id.clone();
    CircuitBreakerState {
        api_version: API_VERSION.to_owned(),
        kind: CircuitBreakerState::KIND.to_owned(),
        metadata: Metadata { namespace, name },
        generation: plan.version.generation,
        side: side_told(plan.side),
        scope: scope(plan),
        mode: plan.mode,
        force: plan.part.breaker().and_then(|part| force(&part.force)),
        enforcers: enforcers(plan, (heard, completeness), CircuitBreakerState::MOST, |_, bound, heard| {
            pod_state(plan, bound, heard)
        }),
    }
}

impl LivePod for PodState {
    type Counts = OpenPods;

    fn name(&self) -> &str {
        &self.name
    }

    fn size(&self) -> usize {
        self.breakers.len()
    }

    fn truncate(&mut self, most: usize) {
        self.breakers.truncate(most);
    }

    fn count(&self, counts: &mut OpenPods) {
        counts.open += i64::from(self.breakers.iter().any(|breaker| breaker.state == LiveState::Open));
    }
}

/// What has a breaker; where the policy has none at all it does not matter.
fn scope(plan: &PolicyPlan) -> Scope {
    plan.part.breaker().map(|part| part.scope).unwrap_or_default()
}

fn force(verdict: &ForceVerdict) -> Option<Override> {
    match verdict {
        ForceVerdict::Active { state, until, reason } => Some(Override {
            state: match state {
                ForcedState::ForcedOpen => api::ForcedState::ForcedOpen,
                ForcedState::ForcedClosed => api::ForcedState::ForcedClosed,
            },
            until: Time(*until),
            reason: reason.clone(),
        }),
        ForceVerdict::Absent | ForceVerdict::Expired { .. } | ForceVerdict::TooFar { .. } => None,
    }
}

fn pod_state(plan: &PolicyPlan, bound: &BoundPod, heard: Option<&Heard<'_>>) -> PodState {
    let silent = PodState {
        name: bound.name.clone(),
        workload: workload(bound),
        ready: bound.is_ready(),
        ..PodState::default()
    };
    let Some(heard) = heard else {
        let breakers = bound.keys.breakers.iter().map(|key| unreported(key, LiveState::Unknown)).collect();
        return PodState { breakers, ..silent };
    };
    let generation = generation(plan, heard);
    PodState {
        connected: heard.connected,
        connected_since: connected_since(heard),
        version: heard.version.to_owned(),
        revision: heard.revision.to_owned(),
        current: heard.revision == bound.revision,
        generation,
        refused: heard.refused.to_owned(),
        breakers: bound.keys.breakers.iter().flat_map(|key| at_place(key, scope(plan), generation, heard)).collect(),
        ..silent
    }
}

/// The breakers at one place of a pod: one or, with scope Endpoint, one for each endpoint that it called.
fn at_place(key: &BreakerKey, scope: Scope, generation: Option<i64>, heard: &Heard<'_>) -> Vec<BreakerState> {
    if generation.is_none() {
        return vec![unreported(key, LiveState::Unknown)];
    }
    if scope == Scope::Endpoint {
        let after = (Bound::Excluded(key), Bound::Unbounded);
        let members = heard.breakers.range::<BreakerKey, _>(after).take_while(|(other, _)| same_place(other, key));
        let members: Vec<BreakerState> =
            members.filter(|(other, _)| is_address(&other.endpoint)).map(|(_, report)| reported(report)).collect();
        if !members.is_empty() {
            return members;
        }
    }
    vec![heard.breakers.get(key).map_or_else(|| unreported(key, LiveState::Closed), reported)]
}

fn unreported(key: &BreakerKey, state: LiveState) -> BreakerState {
    BreakerState {
        target: target(&key.target),
        port: key.port,
        rule: key.rule.clone(),
        endpoint: key.endpoint.clone(),
        state,
        reason: String::new(),
        since: None,
        failure_percent: None,
        slow_percent: None,
        trips: 0,
        rejected: 0,
        last_trip: None,
        next_probe: None,
    }
}

fn reported(report: &BreakerReport) -> BreakerState {
    let state = match (report.forced, report.state) {
        (Some(ForcedState::ForcedOpen), _) | (None, report::BreakerState::Open) => LiveState::Open,
        (Some(ForcedState::ForcedClosed), _) | (None, report::BreakerState::Closed) => LiveState::Closed,
        (None, report::BreakerState::HalfOpen) => LiveState::HalfOpen,
    };
    let percent = |percent: Option<f64>| percent.filter(|percent| percent.is_finite());
    let next_probe = report.next_probe_unix_ms.filter(|_| report.forced.is_none() && state == LiveState::Open);
    BreakerState {
        reason: report.forced.map_or_else(|| report.reason.clone(), |forced| forced_word(forced).to_owned()),
        since: time(report.since_unix_ms),
        failure_percent: percent(report.failure_percent),
        slow_percent: percent(report.slow_percent),
        trips: report.trips,
        rejected: report.rejected,
        last_trip: report.last_trip_unix_ms.and_then(time),
        next_probe: next_probe.and_then(time),
        ..unreported(&report.key, state)
    }
}
