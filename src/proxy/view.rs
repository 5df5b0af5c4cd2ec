//! What breakers look like from outside: reports for the operator, the `/state` document, gauges.
//!
//! It must only read. All of them are made from the same readings, so that they never disagree.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use fusebox_policy::circuit_breaker::Statistics;
use fusebox_policy::config::{BreakerKey, Mode, PolicyVersion, WorkloadId};
use fusebox_policy::report::{BreakerReport, BreakerState, BrokenReference};
use serde::Serialize;

use crate::clock::Clock;
use crate::endpoints::{Member, Members};
use crate::enforcer::Enforcer;
use crate::rate_limit::reading::LimitView;
use crate::snapshot::Installed;

/// Breakers that `/state` shows, those of endpoints included.
pub(crate) const MAX_SHOWN: usize = 20_000;

/// The proxy's whole state.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StateView {
    /// The proxy's version.
    pub version: &'static str,
    /// The configuration's version; none before there was one.
    pub revision: Option<String>,
    /// Whose sidecar this is; none before there was a configuration.
    pub workload: Option<WorkloadId>,
    /// The policies in force.
    pub policies: Vec<PolicyVersion>,
    /// Bound listeners.
    pub listeners: Vec<ListenerView>,
    /// All breakers, also those that saw no traffic: one entry for each rule, in the order of their keys.
    pub breakers: Vec<BreakerView>,
    /// All rules of all limits, also those that decided nothing yet, in the order of their keys.
    pub limits: Vec<LimitView>,
    /// Values that policies refer to and that can't be used; those before them stay in use.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub broken_references: Vec<BrokenReference>,
    /// Rules that are left out, because there are too many.
    #[serde(skip_serializing_if = "is_zero")]
    pub omitted: usize,
}

/// One bound listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerView {
    /// `inbound`, `outbound`, `transparent-inbound`, `transparent-outbound` or `admin`.
    pub kind: &'static str,
    /// Where it listens, with the port it got.
    pub address: SocketAddr,
    /// Where its traffic goes; empty for the admin port, where the Host header says, and where each connection goes on to
    /// where it was going.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub destination: String,
}

/// One breaker, with its numbers. For a rule with scope Endpoint it is all of its endpoints together while they are
/// known: Closed while any endpoint is closed, else HalfOpen while any is, else Open.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BreakerView {
    /// What is reported of it.
    #[serde(flatten)]
    pub report: BreakerReport,
    /// Requests in the current window.
    pub window_requests: u64,
    /// Probes under way.
    pub probes_in_flight: u32,
    /// Whether it is half-open and waits for traffic, because no probe was asked for.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub idle: bool,
    /// Until when only a growing share of requests passes, in milliseconds since the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ramp_end_unix_ms: Option<i64>,
    /// With scope Endpoint, the endpoints.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoints: Option<EndpointsView>,
}

/// The endpoints of a rule.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointsView {
    /// `Fixed` (by the command line), `Fresh`, `Stale` (the operator is away for too long), `Unknown` or `TooMany`. Only
    /// with the first two are they used; else requests go to the Service's own address.
    pub known: &'static str,
    /// At most so many are left out at once.
    pub most_left_out: usize,
    /// Requests that went to the Service's own address.
    pub strayed: u64,
    /// Each of them, with its key's `endpoint` set.
    pub members: Vec<EndpointView>,
}

/// One endpoint.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EndpointView {
    /// Its breaker; `rejected` are the requests that it kept away from this endpoint.
    #[serde(flatten)]
    pub breaker: BreakerView,
    /// Whether it is called although its breaker refuses, because too many others are left out already.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub in_spite: bool,
}

/// One reading of one breaker, or of a rule's endpoints together.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    /// Which breaker.
    pub(crate) key: Arc<BreakerKey>,
    /// Whether it acts.
    pub(crate) mode: Mode,
    /// Its numbers, in which `trips`, `last_trip` and `rejected` are since the proxy started.
    pub(crate) statistics: Statistics,
    /// Whether it has seen traffic or a person's word.
    pub(crate) used: bool,
}

/// One reading of one rule.
#[derive(Debug)]
pub(crate) struct RuleReading {
    /// What decides about its requests: its own breaker, or all of its endpoints together.
    pub(crate) whole: Reading,
    /// Its own breaker, where it has endpoints too.
    own: Option<Reading>,
    /// Each of its endpoints, and whether it is called in spite of its breaker.
    pub(crate) endpoints: Vec<(Reading, bool)>,
}

impl RuleReading {
    /// Reads a rule's breakers at `now`.
    pub(crate) fn read(installed: &Installed, now: Instant) -> Self {
        let Some((group, _)) = &installed.endpoints else {
            return Self { whole: of_rule(installed, now), own: None, endpoints: Vec::new() };
        };
        let members = group.members();
        let endpoints = of_endpoints(&members, installed, now);
        let statistics = installed.own.breaker.statistics(now);
        let used = group.strayed() > 0 || statistics.state != BreakerState::Closed || statistics.trips > 0;
        let own = Reading { key: Arc::clone(&installed.own.key), mode: installed.mode, statistics, used };
        let together = members.known.is_usable().then(|| together(&endpoints)).flatten();
        let whole = counted(installed, together.unwrap_or_else(|| own.statistics.clone()));
        Self { whole, own: Some(own), endpoints }
    }

    /// What is to be reported of it: every breaker that has seen traffic or a person's word.
    pub(crate) fn used(self) -> impl Iterator<Item = Reading> {
        let Self { whole, own, endpoints } = self;
        let endpoints = endpoints.into_iter().map(|(reading, _)| reading);
        endpoints.chain([own.unwrap_or(whole)]).filter(|reading| reading.used)
    }
}

impl Reading {
    /// What the operator is told of it.
    pub(crate) fn report(&self, clock: &Clock) -> BreakerReport {
        let percent = |ratio: Option<f64>| ratio.map(|ratio| ratio * 100.0);
        let statistics = &self.statistics;
        BreakerReport {
            key: BreakerKey::clone(&self.key),
            state: statistics.state,
            forced: statistics.forced,
            mode: self.mode,
            since_unix_ms: clock.unix_ms(statistics.since),
            failure_percent: percent(statistics.failure_ratio),
            slow_percent: percent(statistics.slow_ratio),
            trips: statistics.trips,
            last_trip_unix_ms: statistics.last_trip.map(|moment| clock.unix_ms(moment)),
            rejected: statistics.rejected,
            reason: statistics.reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
            next_probe_unix_ms: statistics.next_probe.map(|moment| clock.unix_ms(moment)),
        }
    }

    fn view(&self, clock: &Clock, endpoints: Option<EndpointsView>) -> BreakerView {
        BreakerView {
            report: self.report(clock),
            window_requests: self.statistics.requests,
            probes_in_flight: self.statistics.probes_in_flight,
            idle: self.statistics.idle,
            ramp_end_unix_ms: self.statistics.ramp_end.map(|moment| clock.unix_ms(moment)),
            endpoints,
        }
    }
}

/// The proxy's whole state at `now`.
pub(crate) fn state(enforcer: &Enforcer, listeners: &[ListenerView], now: Instant) -> StateView {
    let snapshot = enforcer.snapshot();
    let mut shown = 0;
    let mut breakers = Vec::new();
    for installed in snapshot.breakers.values() {
        if shown >= MAX_SHOWN {
            break;
        }
        let reading = RuleReading::read(installed, now);
        shown += 1 + reading.endpoints.len();
        breakers.push(rule_view(installed, &reading, enforcer.clock()));
    }
    StateView {
        version: env!("CARGO_PKG_VERSION"),
        revision: snapshot.revision.clone(),
        workload: snapshot.workload.clone(),
        policies: snapshot.policies.clone(),
        listeners: listeners.to_vec(),
        omitted: snapshot.breakers.len() - breakers.len() + snapshot.limits.len().saturating_sub(MAX_SHOWN),
        breakers,
        limits: snapshot.limits.values().take(MAX_SHOWN).map(|limit| limit.view(enforcer.clock(), now)).collect(),
        broken_references: enforcer.broken_references(),
    }
}

fn rule_view(installed: &Installed, reading: &RuleReading, clock: &Clock) -> BreakerView {
    let endpoints = installed.endpoints.as_ref().map(|(group, max_open)| EndpointsView {
        known: group.members().known.as_str(),
        most_left_out: max_open.most_of(reading.endpoints.len()),
        strayed: group.strayed(),
        members: reading
            .endpoints
            .iter()
            .map(|(reading, in_spite)| EndpointView { breaker: reading.view(clock, None), in_spite: *in_spite })
            .collect(),
    });
    reading.whole.view(clock, endpoints)
}

fn of_rule(installed: &Installed, now: Instant) -> Reading {
    counted(installed, installed.own.breaker.statistics(now))
}

/// With what the rule's series counted since the proxy started, over all breakers the rule had.
fn counted(installed: &Installed, mut statistics: Statistics) -> Reading {
    let series = &installed.own.series;
    let (trips, last_trip) = series.trips();
    statistics.trips = trips;
    statistics.last_trip = last_trip.or(statistics.last_trip);
    statistics.rejected = series.rejected();
    let used = statistics.state != BreakerState::Closed
        || statistics.forced.is_some()
        || statistics.trips > 0
        || series.is_used();
    Reading { key: Arc::clone(&installed.own.key), mode: installed.mode, statistics, used }
}

fn of_endpoints(members: &Members, installed: &Installed, now: Instant) -> Vec<(Reading, bool)> {
    let read = |member: &Arc<Member>| {
        let mut statistics = member.tracked.breaker.statistics(now);
        statistics.rejected = member.kept_away();
        let used = member.is_used() || statistics.state != BreakerState::Closed || statistics.forced.is_some();
        let reading = Reading { key: Arc::clone(&member.tracked.key), mode: installed.mode, statistics, used };
        (reading, member.is_called_in_spite())
    };
    members.all.iter().map(read).collect()
}

/// All endpoints as one: as good as the best of them, with their numbers in sum.
fn together(endpoints: &[(Reading, bool)]) -> Option<Statistics> {
    let all = || endpoints.iter().map(|(reading, _)| &reading.statistics);
    let state = all().map(|statistics| statistics.state).min()?;
    // What it is now it became with the last endpoint that did.
    let mut whole = all().filter(|statistics| statistics.state == state).max_by_key(|one| one.since)?.clone();
    let requests: u64 = all().map(|statistics| statistics.requests).sum();
    let share = |ratio: fn(&Statistics) -> Option<f64>| {
        let parts = all().filter_map(|one| Some(ratio(one)? * one.requests as f64));
        (requests > 0 && all().any(|one| ratio(one).is_some())).then(|| parts.sum::<f64>() / requests as f64)
    };
    whole.failure_ratio = share(|statistics| statistics.failure_ratio);
    whole.slow_ratio = share(|statistics| statistics.slow_ratio);
    whole.requests = requests;
    whole.probes_in_flight = all().map(|statistics| statistics.probes_in_flight).sum();
    whole.next_probe = all().filter_map(|one| one.next_probe).min().filter(|_| state == BreakerState::Open);
    Some(whole)
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}
