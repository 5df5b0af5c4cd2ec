//! From the pods' reports to the states of targets, and to the one line of `kubectl get`.
//!
//! Silence must never become Closed: only a pod that is heard and enforces this generation is
//! taken to have closed breakers where it reports none. All numbers are whole.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Bound;

use fusebox_api::CircuitBreakerPolicyStatus;
use fusebox_api::circuit_breaker::Scope;
use fusebox_api::status::{EndpointCounts, MAX_OPEN_ENDPOINTS, MAX_TARGETS, PodCounts, State, Summary, TargetStatus};
use fusebox_policy::config::{BreakerKey, ForcedState};
use fusebox_policy::report::{BreakerReport, BreakerState};
use jiff::Timestamp;

use super::words::{counted, target_words, time, verdict_words, whole};
use super::{Reports, heard};
use crate::plan::{BoundPod, BreakerPart, PolicyPlan, TargetPlan, Verdict};

/// [`MAX_OPEN_ENDPOINTS`] as statuses count.
#[allow(clippy::cast_possible_wrap)]
const MAX_NAMED: i64 = MAX_OPEN_ENDPOINTS as i64;

/// What the pods show.
pub(super) struct Observed {
    pub(super) state: State,
    pub(super) summary: Summary,
    pub(super) targets: Vec<TargetStatus>,
    pub(super) truncated: bool,
    /// Pods that are heard.
    pub(super) reporting: i64,
    /// Why the worst breaker is in its state.
    pub(super) reason: String,
}

/// The breakers of a policy on the pods that are heard.
struct Heard<'a> {
    scope: Scope,
    pods: Vec<HeardPod<'a>>,
}

/// One pod that is heard.
struct HeardPod<'a> {
    bound: &'a BoundPod,
    breakers: BTreeMap<&'a BreakerKey, &'a BreakerReport>,
}

/// One breaker of one pod.
#[derive(Clone, Copy)]
struct Breaker<'a> {
    state: BreakerState,
    report: Option<&'a BreakerReport>,
}

/// What several breakers come to.
#[derive(Default)]
struct Tally<'a> {
    pods: PodCounts,
    /// The worst state of each endpoint over all pods.
    endpoints: BTreeMap<&'a str, BreakerState>,
    failures: Vec<f64>,
    slow: Vec<f64>,
    trips: u64,
    last_trip_ms: Option<i64>,
    since_ms: Option<i64>,
    next_probe_ms: Option<i64>,
    /// The reason of the newest report in the worst state.
    reason: Option<(BreakerState, i64, String)>,
}

/// What the reports of the bound pods come to.
pub(super) fn observe((plan, part): (&PolicyPlan, &BreakerPart), reports: &Reports, now: Timestamp) -> Observed {
    let heard = Heard::new((plan, part), reports, now);
    let entries = plan.targets.iter().flat_map(|target| rules_or_one(part, target).map(move |rule| (target, rule)));
    let mut targets: Vec<TargetStatus> = entries.map(|(target, rule)| heard.target_status(target, rule)).collect();
    let unnamed = |target: &TargetStatus| target.endpoints.as_ref().is_some_and(|it| it.open > MAX_NAMED);
    let truncated = targets.len() > MAX_TARGETS || targets.iter().any(unnamed);
    targets.truncate(MAX_TARGETS);
    let tally = heard.tally(|_| true);
    let summary = Summary {
        target: target_words(plan),
        open: match part.scope {
            Scope::Service => format!("{}/{}", tally.pods.open, plan.pods.len()),
            Scope::Endpoint => {
                let EndpointCounts { open, total, .. } = tally.endpoint_counts();
                format!("{open}/{total} endpoints")
            }
        },
        failure_percent: mean(&tally.failures),
        trips: whole(tally.trips),
        last_trip_time: tally.last_trip_ms.and_then(time),
    };
    let state = tally.state();
    Observed { state, summary, targets, truncated, reporting: tally.pods.reporting, reason: tally.reason_word() }
}

/// What stands, while the pods have not had the time to speak; the verdicts are new all the same.
pub(super) fn kept(plan: (&PolicyPlan, &BreakerPart), previous: &CircuitBreakerPolicyStatus) -> Observed {
    let silent = observe(plan, &Reports::default(), Timestamp::UNIX_EPOCH);
    let targets = silent.targets.into_iter().map(|target| kept_target(target, previous)).collect::<Vec<_>>();
    let summary = previous
        .summary
        .clone()
        .map_or(silent.summary.clone(), |kept| Summary { target: silent.summary.target, ..kept });
    Observed {
        state: previous.state.unwrap_or_default(),
        reporting: targets.iter().map(|target| target.pods.reporting).max().unwrap_or_default(),
        reason: targets
            .iter()
            .max_by_key(|target| target.state)
            .map(|target| target.reason.clone())
            .unwrap_or_default(),
        summary,
        targets,
        truncated: silent.truncated,
    }
}

fn kept_target(fresh: TargetStatus, previous: &CircuitBreakerPolicyStatus) -> TargetStatus {
    let same = |it: &&TargetStatus| it.reference == fresh.reference && it.rule == fresh.rule;
    match previous.targets.iter().find(same) {
        Some(kept) => TargetStatus { accepted: fresh.accepted, message: fresh.message, ..kept.clone() },
        None => fresh,
    }
}

/// The rules' names; one empty name where the spec can't be enforced, so that the target is shown.
fn rules_or_one<'a>(part: &'a BreakerPart, target: &TargetPlan) -> impl Iterator<Item = &'a str> {
    let none = part.rules.is_empty() || matches!(target.verdict, Verdict::Refused(_));
    let names = if none { &[] } else { part.rules.as_slice() };
    names.iter().map(String::as_str).chain(none.then_some(""))
}

impl<'a> Heard<'a> {
    fn new((plan, part): (&'a PolicyPlan, &BreakerPart), reports: &'a Reports, now: Timestamp) -> Self {
        let pods = heard(plan, reports, now).map(|(bound, report)| {
            let breakers = report.breakers.iter().map(|breaker| (&breaker.key, breaker)).collect();
            HeardPod { bound, breakers }
        });
        Self { scope: part.scope, pods: pods.collect() }
    }

    fn target_status(&self, target: &TargetPlan, rule: &str) -> TargetStatus {
        let (accepted, message) = verdict_words(target);
        let tally = self.tally(|key| accepted && key.target == target.target && key.rule == rule);
        TargetStatus {
            reference: target.reference.clone(),
            rule: rule.to_owned(),
            accepted,
            message,
            state: tally.state(),
            endpoints: (self.scope == Scope::Endpoint && accepted).then(|| tally.endpoint_counts()),
            failure_percent: mean(&tally.failures),
            slow_percent: mean(&tally.slow),
            trips: whole(tally.trips),
            reason: tally.reason_word(),
            last_transition_time: tally.since_ms.and_then(time),
            next_probe_time: tally.next_probe_ms.and_then(time),
            pods: tally.pods,
        }
    }

    fn tally(&self, wanted: impl Fn(&BreakerKey) -> bool) -> Tally<'a> {
        let mut tally = Tally::default();
        for pod in &self.pods {
            let keys = pod.bound.keys.breakers.iter().filter(|key| wanted(key));
            let places: Vec<Vec<Breaker<'_>>> = keys.map(|key| pod.breakers(key, self.scope)).collect();
            tally.add_pod(&places);
        }
        tally
    }
}

impl<'a> HeardPod<'a> {
    /// What the pod does at one place: one breaker or, with scope Endpoint, one for each endpoint that it called. A
    /// breaker that is not reported has seen no traffic and is closed.
    fn breakers(&self, key: &BreakerKey, scope: Scope) -> Vec<Breaker<'a>> {
        let own = self.breakers.get(key).map(|report| Breaker::of(report));
        let unreported = Breaker { state: BreakerState::Closed, report: None };
        if scope == Scope::Service {
            return vec![own.unwrap_or(unreported)];
        }
        let after = (Bound::Excluded(key), Bound::Unbounded);
        let endpoints = self.breakers.range::<BreakerKey, _>(after).take_while(|(other, _)| same_place(other, key));
        let endpoints = endpoints.filter(|(other, _)| is_address(&other.endpoint));
        let endpoints: Vec<Breaker<'_>> = endpoints.map(|(_, report)| Breaker::of(report)).collect();
        // The place's own breaker guards the Service's address, which is called only while no endpoint is known.
        if endpoints.is_empty() { vec![own.unwrap_or(unreported)] } else { endpoints }
    }
}

impl<'a> Breaker<'a> {
    fn of(report: &'a BreakerReport) -> Self {
        let state = match report.forced {
            Some(ForcedState::ForcedOpen) => BreakerState::Open,
            Some(ForcedState::ForcedClosed) => BreakerState::Closed,
            None => report.state,
        };
        Self { state, report: Some(report) }
    }
}

impl<'a> Tally<'a> {
    /// A pod counts by the worst of its places.
    fn add_pod(&mut self, places: &[Vec<Breaker<'a>>]) {
        let Some(worst) = places.iter().map(|breakers| state_of(breakers)).max() else { return };
        self.pods.reporting += 1;
        match worst {
            State::Closed | State::Unknown => self.pods.closed += 1,
            State::HalfOpen => self.pods.half_open += 1,
            State::PartiallyOpen => self.pods.partially_open += 1,
            State::Open => self.pods.open += 1,
        }
        for breaker in places.iter().flatten() {
            if let Some(report) = breaker.report {
                self.add_report(breaker.state, report);
            }
        }
    }

    fn add_report(&mut self, state: BreakerState, report: &'a BreakerReport) {
        if !report.key.endpoint.is_empty() {
            let worst = self.endpoints.entry(&report.key.endpoint).or_default();
            *worst = state.max(*worst);
        }
        self.failures.extend(report.failure_percent.filter(|percent| percent.is_finite()));
        self.slow.extend(report.slow_percent.filter(|percent| percent.is_finite()));
        self.trips = self.trips.saturating_add(report.trips);
        self.last_trip_ms = self.last_trip_ms.max(report.last_trip_unix_ms);
        self.since_ms = self.since_ms.max(Some(report.since_unix_ms));
        if let (BreakerState::Open, Some(next)) = (state, report.next_probe_unix_ms) {
            self.next_probe_ms = Some(self.next_probe_ms.map_or(next, |earliest| earliest.min(next)));
        }
        let word = report.forced.map_or_else(|| report.reason.clone(), |forced| forced_word(forced).to_owned());
        let candidate = (state, report.since_unix_ms, word);
        if self.reason.as_ref().is_none_or(|current| *current < candidate) {
            self.reason = Some(candidate);
        }
    }

    fn endpoint_counts(&self) -> EndpointCounts {
        let in_state = |wanted| self.endpoints.iter().filter(move |(_, state)| **state == wanted);
        let open: Vec<String> = in_state(BreakerState::Open).map(|(address, _)| (*address).to_owned()).collect();
        EndpointCounts {
            total: counted(self.endpoints.len()),
            open: counted(open.len()),
            half_open: counted(in_state(BreakerState::HalfOpen).count()),
            open_addresses: open.into_iter().take(MAX_OPEN_ENDPOINTS).collect(),
        }
    }

    fn state(&self) -> State {
        let PodCounts { closed: _, open, half_open, partially_open, reporting } = self.pods;
        match (reporting, open, half_open) {
            (0, _, _) => State::Unknown,
            (all, open, _) if open == all => State::Open,
            (_, open, _) if open + partially_open > 0 => State::PartiallyOpen,
            (_, _, half_open) if half_open > 0 => State::HalfOpen,
            _ => State::Closed,
        }
    }

    fn reason_word(&self) -> String {
        self.reason.as_ref().map(|(_, _, word)| word.clone()).unwrap_or_default()
    }
}

/// What the breakers at one place of one pod come to.
fn state_of(breakers: &[Breaker<'_>]) -> State {
    let any = |state| breakers.iter().any(|breaker| breaker.state == state);
    if !breakers.is_empty() && breakers.iter().all(|breaker| breaker.state == BreakerState::Open) {
        State::Open
    } else if any(BreakerState::Open) {
        State::PartiallyOpen
    } else if any(BreakerState::HalfOpen) {
        State::HalfOpen
    } else {
        State::Closed
    }
}

/// Whether two keys differ by their endpoint at most; in the order of keys these stand together.
pub(super) fn same_place(one: &BreakerKey, other: &BreakerKey) -> bool {
    let BreakerKey { policy, target, side, port, rule, endpoint: _ } = one;
    (policy, target, *side, *port, rule) == (&other.policy, &other.target, other.side, other.port, &other.rule)
}

/// Whether a proxy's word for an endpoint is one: it stands in statuses, and may be anything.
pub(super) fn is_address(endpoint: &str) -> bool {
    endpoint.parse::<SocketAddr>().is_ok()
}

/// The mean of percents, rounded.
fn mean(percents: &[f64]) -> Option<i64> {
    let count = u32::try_from(percents.len()).ok().filter(|count| *count > 0)?;
    let mean = (percents.iter().sum::<f64>() / f64::from(count)).round().clamp(0.0, 100.0);
    // Clamped to 0..=100, so nothing is lost.
    #[allow(clippy::cast_possible_truncation)]
    Some(mean as i64)
}

pub(super) const fn forced_word(forced: ForcedState) -> &'static str {
    match forced {
        ForcedState::ForcedOpen => "ForcedOpen",
        ForcedState::ForcedClosed => "ForcedClosed",
    }
}
