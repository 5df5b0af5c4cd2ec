//! The metrics page, written from the state itself whenever it is read.
//!
//! It must not keep numbers of its own: gauges are read from the breakers and counters from the rules'
//! series, so a metric can't disagree with the state. Series come from the configuration alone.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use fusebox_policy::circuit_breaker::Statistics;
use fusebox_policy::config::{LimitKey, Side};
use fusebox_policy::metrics as names;
use fusebox_policy::report::BreakerState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::access_log::AccessLog;
use crate::enforcer::Enforcer;
use crate::health::{Health, HealthStatus};
use crate::process::ProcessUse;
use crate::series::{Series, SeriesLabels, Step};
use crate::snapshot::Snapshot;
use crate::state_file;
use crate::view::RuleReading;

/// The content type of the page.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Label = (&'static str, Cow<'static, str>);
type Labels = Vec<Label>;

/// What the page is written from.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// What is in force.
    pub(crate) enforcer: Arc<Enforcer>,
    /// How the parts fare.
    pub(crate) health: Arc<Health>,
}

/// Rules of which all series are written; those nobody used come last.
pub(crate) const MAX_RULES_SHOWN: usize = 1_000;

/// Rules of limits of which all series are written; those that decided nothing come last.
pub(crate) const MAX_LIMITS_SHOWN: usize = 1_000;

/// One rule's breakers, as they are at this moment.
struct Row {
    labels: Labels,
    reading: RuleReading,
    has_endpoints: bool,
    steps: Vec<(Step, u64)>,
}

/// Writes families through one encoder.
struct Writer<'a>(DescriptorEncoder<'a>);

impl Page {
    /// The page as text.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut page = String::new();
        text::encode(&mut page, &registry)?;
        Ok(page)
    }
}

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let mut writer = Writer(encoder);
        let snapshot = self.enforcer.snapshot();
        let series = shown(&snapshot);
        self.enforcer.counters().dropped_series((snapshot.series.len() - series.len()) as u64);
        write_requests(&mut writer, &series)?;
        write_breakers(&mut writer, &rows(&snapshot, &series))?;
        write_limits(&mut writer, &snapshot)?;
        write_proxy(&mut writer, self, &snapshot)?;
        write_process(&mut writer)
    }
}

impl Writer<'_> {
    fn family(&mut self, name: &str, help: &str, samples: &[(Labels, Sample)]) -> fmt::Result {
        let Some((_, first)) = samples.first() else { return Ok(()) };
        // The encoder appends the suffix of counters by itself.
        let name = name.strip_suffix("_total").unwrap_or(name);
        let mut family = self.0.encode_descriptor(name, help, None, first.kind())?;
        // An empty label set would be written as a pair of braces.
        if let [(labels, sample)] = samples
            && labels.is_empty()
        {
            return sample.encode(family);
        }
        for (labels, sample) in samples {
            sample.encode(family.encode_family(labels)?)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: Option<f64>) -> fmt::Result {
        let samples: Vec<_> = value.map(|value| (Vec::new(), Sample::Gauge(value))).into_iter().collect();
        self.family(name, help, &samples)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.family(name, help, &[(Vec::new(), Sample::Counter(value))])
    }
}

enum Sample {
    Counter(u64),
    Seconds(f64),
    Gauge(f64),
    Durations(crate::series::DurationSnapshot),
}

impl Sample {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        match self {
            Self::Counter(value) => ConstCounter::new(*value).encode(encoder),
            Self::Seconds(value) => ConstCounter::new(*value).encode(encoder),
            Self::Gauge(value) => ConstGauge::new(*value).encode(encoder),
            Self::Durations(durations) => {
                let none: Option<&HashMap<usize, Exemplar<Labels, f64>>> = None;
                encoder.encode_histogram(durations.sum, durations.count, &durations.buckets, none)
            }
        }
    }

    fn kind(&self) -> MetricType {
        match self {
            Self::Counter(_) | Self::Seconds(_) => MetricType::Counter,
            Self::Gauge(_) => MetricType::Gauge,
            Self::Durations(_) => MetricType::Histogram,
        }
    }
}

/// The rules whose series are written: as many as the bound allows, used ones first.
fn shown(snapshot: &Snapshot) -> Vec<&Arc<Series>> {
    if snapshot.series.len() <= MAX_RULES_SHOWN {
        return snapshot.series.values().collect();
    }
    let (mut shown, idle): (Vec<_>, Vec<_>) = snapshot.series.values().partition(|series| series.is_used());
    shown.extend(idle);
    shown.truncate(MAX_RULES_SHOWN);
    shown
}

fn write_requests(writer: &mut Writer<'_>, shown: &[&Arc<Series>]) -> fmt::Result {
    let mut requests = Vec::new();
    let mut durations = Vec::new();
    for series in shown {
        let labels = labels_of(series.labels());
        requests.extend(series.requests().map(|(error, class, count)| {
            let more = [(names::STATUS_CLASS, class.into()), (names::ERROR, error.into())];
            (with(&labels, more), Sample::Counter(count))
        }));
        durations.push((labels, Sample::Durations(series.durations())));
    }
    write_tunnels(writer, shown)?;
    writer.family(names::REQUESTS, "Requests, by status class and error.", &requests)?;
    writer.family(names::REQUEST_DURATION, "Durations of requests that were not refused, in seconds.", &durations)
}

fn write_tunnels(writer: &mut Writer<'_>, shown: &[&Arc<Series>]) -> fmt::Result {
    let mut connections = Vec::new();
    let mut bytes = Vec::new();
    for series in shown {
        let labels = labels_of(series.labels());
        let endings = series.tunnels().endings();
        connections.extend(
            endings.map(|(error, count)| (with(&labels, [(names::ERROR, error.into())]), Sample::Counter(count))),
        );
        let (received, sent) = series.tunnels().bytes();
        let ways = [("received", received), ("sent", sent)].into_iter().filter(|(_, count)| *count > 0);
        bytes.extend(ways.map(|(way, count)| (with(&labels, [("direction", way.into())]), Sample::Counter(count))));
    }
    writer.family(names::TCP_CONNECTIONS, "Connections passed on as bytes, by how they ended.", &connections)?;
    writer.family(names::TCP_BYTES, "Bytes of such connections, from and to clients.", &bytes)
}

fn write_breakers(writer: &mut Writer<'_>, rows: &[Row]) -> fmt::Result {
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

fn write_limits(writer: &mut Writer<'_>, snapshot: &Snapshot) -> fmt::Result {
    let now = Instant::now();
    let (mut shown, idle): (Vec<_>, Vec<_>) = snapshot.limits.values().partition(|limit| limit.is_used());
    shown.extend(idle);
    shown.truncate(MAX_LIMITS_SHOWN);
    let (mut decisions, mut overflow, mut gauges) = (Vec::new(), Vec::new(), BTreeMap::new());
    for limit in shown {
        let labels = labels_of_limit(&limit.tracked.key);
        decisions.extend(limit.decisions().map(|(decision, source, count)| {
            let more = [(names::DECISION, decision.into()), (names::SOURCE, source.into())];
            (with(&labels, more), Sample::Counter(count))
        }));
        overflow.push((labels.clone(), Sample::Counter(limit.overflowed())));
        for (name, value) in limit.gauges(now) {
            gauges.entry(name).or_insert_with(Vec::new).push((labels.clone(), Sample::Gauge(value)));
        }
    }
    writer.family(
        names::RATE_LIMIT_DECISIONS,
        "Decisions of limits; in Shadow what they would have been.",
        &decisions,
    )?;
    writer.family(names::RATE_LIMIT_OVERFLOW, "Requests whose key had no place for a bucket of its own.", &overflow)?;
    for (name, samples) in &gauges {
        writer.family(name, gauge_help(name), samples)?;
    }
    Ok(())
}

fn gauge_help(name: &str) -> &'static str {
    match name {
        names::RATE_LIMIT_BLOCKED_CLIENTS => "Clients that are refused for a time.",
        names::RATE_LIMIT_TRACKED_KEYS => "Keys with a bucket of their own.",
        names::RATE_LIMIT_QUEUED => "Requests that wait for their turn.",
        _ => "The least that a request since the last reading found left of its bucket's burst, 0 to 1.",
    }
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

fn rows(snapshot: &Snapshot, shown: &[&Arc<Series>]) -> Vec<Row> {
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

fn transition_samples(row: &Row) -> impl Iterator<Item = (Labels, Sample)> + '_ {
    row.steps.iter().map(|(Step { from, to, reason }, count)| {
        let more = [("from", state_word(*from).into()), ("to", state_word(*to).into()), ("reason", (*reason).into())];
        (with(&row.labels, more), Sample::Counter(*count))
    })
}

fn write_proxy(writer: &mut Writer<'_>, page: &Page, snapshot: &Snapshot) -> fmt::Result {
    write_counters(writer, page)?;
    write_health(writer, page)?;
    write_versions(writer, snapshot)
}

fn write_counters(writer: &mut Writer<'_>, page: &Page) -> fmt::Result {
    let counters = page.enforcer.counters();
    writer.gauge(
        "fusebox_connections_active",
        "Open client connections.",
        Some(number(counters.connections_active())),
    )?;
    writer.counter("fusebox_connections_total", "Client connections.", counters.connections_total())?;
    writer.counter(
        "fusebox_connections_waited_total",
        "Times the bound on client connections was hit.",
        counters.connections_waited(),
    )?;
    let refused: Vec<_> = counters
        .connections_refused()
        .filter(|(_, count)| *count > 0)
        .map(|(reason, count)| (vec![("reason", reason.into())], Sample::Counter(count)))
        .collect();
    writer.family(
        "fusebox_connections_refused_total",
        "Connections to transparent listeners that would have gone in circles or nowhere.",
        &refused,
    )?;
    writer.counter(
        "fusebox_requests_invalid_total",
        "Requests that could not be passed on.",
        counters.invalid_requests(),
    )?;
    writer.counter(
        "fusebox_proxy_config_refused_total",
        "Configurations that could not be enforced.",
        counters.refused_configs(),
    )?;
    writer.counter(
        "fusebox_access_log_lines_dropped_total",
        "Lines of the access log that came faster than they could be written.",
        page.enforcer.access_log().map_or(0, AccessLog::dropped),
    )?;
    writer.counter(
        "fusebox_proxy_metric_series_dropped_total",
        "Rules left out of pages of metrics, because there are too many.",
        counters.series_dropped(),
    )?;
    if let Some(found) = counters.state_file() {
        let results = state_file::RESULTS
            .map(|result| (vec![("result", result.into())], Sample::Counter(u64::from(result == found))));
        writer.family("fusebox_proxy_state_restores_total", "Readings of the state file, by result.", &results)?;
    }
    Ok(())
}

fn write_health(writer: &mut Writer<'_>, page: &Page) -> fmt::Result {
    let report = page.health.report();
    let components = [
        ("config", &report.config),
        ("control", &report.control),
        ("listeners", &report.listeners),
        ("state_file", &report.state_file),
    ];
    let parts = components.map(|(part, component)| {
        let healthy = component.status == HealthStatus::Healthy;
        (vec![("component", part.into())], Sample::Gauge(if healthy { 1.0 } else { 0.0 }))
    });
    writer.family("fusebox_proxy_component_healthy", "Whether a part of the proxy is healthy.", &parts)
}

fn write_versions(writer: &mut Writer<'_>, snapshot: &Snapshot) -> fmt::Result {
    let generations: Vec<_> = snapshot
        .policies
        .iter()
        .map(|version| {
            let labels: Labels = vec![
                (names::POLICY_NAMESPACE, version.id.namespace.clone().into()),
                (names::POLICY, version.id.name.clone().into()),
                ("kind", version.kind.clone().into()),
            ];
            (labels, Sample::Gauge(number(u64::try_from(version.generation).unwrap_or(0))))
        })
        .collect();
    writer.family("fusebox_proxy_config_generation", "Generation of each policy in force.", &generations)?;
    let build: [(Labels, Sample); 1] = [(vec![("version", env!("CARGO_PKG_VERSION").into())], Sample::Gauge(1.0))];
    writer.family("fusebox_proxy_build_info", "Version of the proxy.", &build)
}

fn write_process(writer: &mut Writer<'_>) -> fmt::Result {
    let ProcessUse { cpu_seconds, resident_bytes, virtual_bytes, open_fds, threads, start_seconds } =
        ProcessUse::read();
    let cpu: Vec<_> = cpu_seconds.map(|seconds| (Vec::new(), Sample::Seconds(seconds))).into_iter().collect();
    writer.family("process_cpu_seconds_total", "User and system time.", &cpu)?;
    writer.gauge("process_resident_memory_bytes", "Memory in RAM.", resident_bytes)?;
    writer.gauge("process_virtual_memory_bytes", "Address space.", virtual_bytes)?;
    writer.gauge("process_open_fds", "Open file descriptors.", open_fds)?;
    writer.gauge("process_threads", "Threads.", threads)?;
    writer.gauge("process_start_time_seconds", "When the process started, in Unix time.", start_seconds)
}

fn labels_of_limit(key: &LimitKey) -> Labels {
    let LimitKey { policy, target, side, port, limit, rule } = key;
    vec![
        (names::POLICY_NAMESPACE, policy.namespace.clone().into()),
        (names::POLICY, policy.name.clone().into()),
        (names::TARGET_NAMESPACE, target.namespace.clone().into()),
        (names::TARGET, target.name.clone().into()),
        (names::SIDE, side_word(*side).into()),
        (names::PORT, port.to_string().into()),
        (names::LIMIT, limit.clone().into()),
        (names::RULE, rule.clone().into()),
    ]
}

fn side_word(side: Side) -> &'static str {
    match side {
        Side::Client => "client",
        Side::Server => "server",
    }
}

fn labels_of(labels: &SeriesLabels) -> Labels {
    let SeriesLabels { policy_namespace, policy, target_namespace, target, side, port, rule } = labels;
    let side = side_word(*side);
    vec![
        (names::POLICY_NAMESPACE, policy_namespace.clone().into()),
        (names::POLICY, policy.clone().into()),
        (names::TARGET_NAMESPACE, target_namespace.clone().into()),
        (names::TARGET, target.clone().into()),
        (names::SIDE, side.into()),
        (names::PORT, port.to_string().into()),
        (names::RULE, rule.clone().into()),
    ]
}

fn with<const N: usize>(labels: &Labels, more: [Label; N]) -> Labels {
    labels.iter().cloned().chain(more).collect()
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

/// Exact up to 2^53, which no counter here reaches.
fn number(value: u64) -> f64 {
    value as f64
}
