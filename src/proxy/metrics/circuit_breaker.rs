//! The families of the breakers: gauges read off the breakers themselves, transitions off the rules' series.
//!
//! It must read each breaker once for a page: two readings of one breaker could disagree.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use fusebox_policy::circuit_breaker::Statistics;
use fusebox_policy::metrics as names;
use fusebox_policy::report::BreakerState;

use super::labels_of;
use super::writer::{Labels, Sample, Writer, number, with};
use crate::series::{Series, Step};
use crate::snapshot::Snapshot;
use crate::view::RuleReading;

/// One rule's breakers, as they are at this moment.
pub(super) struct Row {
    labels: Labels,
    reading: RuleReading,
    has_endpoints: bool,
    steps: Vec<(Step, u64)>,
}

/// Writes what the breakers of all rows say.
pub(super) fn write_breakers(writer: &mut Writer<'_>, rows: &[Row]) -> fmt::Result {
    let each = |sample: &dyn Fn(&Statistics) -> Option<Sample>| -> Vec<(Labels, Sample)> {
        rows.iter().filter_map(|row| Some((row.labels.clone(), sample(&row.reading.whole.statistics)?))).collect()
    };
    let states: Vec<_> = rows.iter().flat_map(state_samples).collect();
    writer.family(names::BREAKER_STATE, "State of the breaker: exactly one is 1.", &states)?;
    let codes = each(&|statistics| Some(Sample::Gauge(state_code(statistics.state))));
    writer.family(names::BREAKER_STATE_CODE, "State of the breaker: 0 closed, 1 half-open, 2 open.", &codes)?;
    let transitions: Vec<_> = rows.iter().flat_map(transition_samples).collect();
    writer.family(names::BREAKER_TRANSITIONS, "Changes of state.", &transitions)?;
    let rejected = each(&|statistics| Some(Sample::Counter(statistics.rejected)));
    writer.family(names::BREAKER_REJECTED, "Requests refused, or in Shadow those that would have been.", &rejected)?;
    let ratios = each(&|statistics| statistics.failure_ratio.map(Sample::Gauge));
    writer.family(names::BREAKER_FAILURE_RATIO, "Share of failures in the current window, 0 to 1.", &ratios)?;
    let slow = each(&|statistics| statistics.slow_ratio.map(Sample::Gauge));
    writer.family(names::BREAKER_SLOW_RATIO, "Share of slow calls in the current window, 0 to 1.", &slow)?;
    let probes = each(&|statistics| Some(Sample::Gauge(f64::from(statistics.probes_in_flight))));
    writer.family(names::BREAKER_PROBES, "Probes under way.", &probes)?;
    let endpoints: Vec<_> = rows.iter().filter(|row| row.has_endpoints).flat_map(endpoint_samples).collect();
    writer.family(names::BREAKER_ENDPOINTS, "Endpoints with a breaker of their own, by its state.", &endpoints)
}

/// One row for each breaker whose series is shown.
pub(super) fn rows(snapshot: &Snapshot, shown: &[&Arc<Series>]) -> Vec<Row> {
    let now = Instant::now();
    let shown: HashSet<*const Series> = shown.iter().map(|series| Arc::as_ptr(series)).collect();
    let installed = snapshot.breakers.values();
    installed
        .filter(|installed| shown.contains(&Arc::as_ptr(&installed.own.series)))
        .map(|installed| Row {
            labels: labels_of(installed.own.series.labels()),
            reading: RuleReading::read(installed, now),
            has_endpoints: installed.endpoints.is_some(),
            steps: installed.own.series.transitions().steps.into_iter().collect(),
        })
        .collect()
}

fn state_samples(row: &Row) -> [(Labels, Sample); 3] {
    let current = state_word(row.reading.whole.statistics.state);
    names::STATES.map(|state| {
        let labels = with(&row.labels, [(names::STATE, state.into())]);
        (labels, Sample::Gauge(if state == current { 1.0 } else { 0.0 }))
    })
}

fn endpoint_samples(row: &Row) -> [(Labels, Sample); 3] {
    names::STATES.map(|state| {
        let in_it = row.reading.endpoints.iter().filter(|(one, _)| state_word(one.statistics.state) == state);
        (with(&row.labels, [(names::STATE, state.into())]), Sample::Gauge(number(in_it.count() as u64)))
    })
}

fn transition_samples(row: &Row) -> impl Iterator<Item = (Labels, Sample)> + '_ {
    row.steps.iter().map(|(Step { from, to, reason }, count)| {
        let more = [("from", state_word(*from).into()), ("to", state_word(*to).into()), ("reason", (*reason).into())];
        (with(&row.labels, more), Sample::Counter(*count))
    })
}

fn state_word(state: BreakerState) -> &'static str {
    match state {
        BreakerState::Closed => names::STATES[0],
        BreakerState::HalfOpen => names::STATES[1],
        BreakerState::Open => names::STATES[2],
    }
}

fn state_code(state: BreakerState) -> f64 {
    match state {
        BreakerState::Closed => 0.0,
        BreakerState::HalfOpen => 1.0,
        BreakerState::Open => 2.0,
    }
}
