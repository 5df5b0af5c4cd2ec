//! What breakers look like from outside: reports for the operator and the `/state` document.
//!
//! It must only read. Both are made from the same reading, so that they never disagree.

use std::net::SocketAddr;
use std::time::Instant;

use fusebox_policy::circuit_breaker::Statistics;
use fusebox_policy::config::{BreakerKey, PolicyVersion, WorkloadId};
use fusebox_policy::report::{BreakerReport, BreakerState};
use serde::Serialize;

use crate::clock::Clock;
use crate::enforcer::Enforcer;
use crate::snapshot::Installed;

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
    /// All breakers, also those that saw no traffic.
    pub breakers: Vec<BreakerView>,
}

/// One bound listener.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ListenerView {
    /// `inbound`, `outbound` or `admin`.
    pub kind: &'static str,
    /// Where it listens, with the port it got.
    pub address: SocketAddr,
    /// Where its traffic goes; empty for the admin port and where the Host header says.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub destination: String,
}

/// One breaker, with its numbers.
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
}

/// One reading of one breaker.
#[derive(Debug)]
pub(crate) struct Reading {
    /// What is reported of it.
    pub(crate) report: BreakerReport,
    /// All its numbers.
    pub(crate) statistics: Statistics,
    /// Whether it has seen traffic or a person's word.
    pub(crate) used: bool,
}

/// Reads one breaker at `now`.
pub(crate) fn read(key: &BreakerKey, installed: &Installed, clock: &Clock, now: Instant) -> Reading {
    let statistics = installed.breaker.statistics(now);
    let transitions = installed.series.transitions();
    let rejected = installed.series.rejected();
    let report = BreakerReport {
        key: key.clone(),
        state: statistics.state,
        forced: statistics.forced,
        mode: installed.mode,
        since_unix_ms: clock.unix_ms(statistics.since),
        failure_percent: statistics.failure_ratio.map(|ratio| ratio * 100.0),
        slow_percent: statistics.slow_ratio.map(|ratio| ratio * 100.0),
        trips: transitions.trips,
        last_trip_unix_ms: transitions.last_trip.map(|moment| clock.unix_ms(moment)),
        rejected,
        reason: statistics.reason.map(|reason| reason.as_str().to_owned()).unwrap_or_default(),
        next_probe_unix_ms: statistics.next_probe.map(|moment| clock.unix_ms(moment)),
    };
    let used = statistics.state != BreakerState::Closed
        || statistics.forced.is_some()
        || transitions.trips > 0
        || installed.series.is_used();
    Reading { report, statistics, used }
}

/// The proxy's whole state at `now`.
pub(crate) fn state(enforcer: &Enforcer, listeners: &[ListenerView], now: Instant) -> StateView {
    let snapshot = enforcer.snapshot();
    let breakers = snapshot.breakers.iter().map(|(key, installed)| {
        let Reading { report, statistics, .. } = read(key, installed, enforcer.clock(), now);
        BreakerView { report, window_requests: statistics.requests, probes_in_flight: statistics.probes_in_flight }
    });
    StateView {
        version: env!("CARGO_PKG_VERSION"),
        revision: snapshot.revision.clone(),
        workload: snapshot.workload.clone(),
        policies: snapshot.policies.clone(),
        listeners: listeners.to_vec(),
        breakers: breakers.collect(),
    }
}
