//! The metrics page, written from the state itself whenever it is read.
//!
//! It must not keep numbers of its own: gauges are read from the breakers and counters from the rules'
//! series, so a metric can't disagree with the state. Series come from the configuration alone.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use fusebox_policy::circuit_breaker::Statistics;
use fusebox_policy::config::Side;
use fusebox_policy::metrics as names;
use fusebox_policy::report::BreakerState;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use crate::enforcer::Enforcer;
use crate::health::{Health, HealthStatus};
use crate::process::ProcessUse;
use crate::series::SeriesLabels;
use crate::snapshot::Snapshot;

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

struct Reading {
    labels: Labels,
    statistics: Statistics,
    rejected: u64,
    steps: Vec<(BreakerState, BreakerState, &'static str, u64)>,
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
        write_requests(&mut writer, &snapshot)?;
        write_breakers(&mut writer, &snapshot)?;
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

fn write_requests(writer: &mut Writer<'_>, snapshot: &Snapshot) -> fmt::Result {
    let mut requests = Vec::new();
    let mut durations = Vec::new();
    for series in snapshot.series.values() {
        let labels = labels_of(series.labels());
        requests.extend(series.requests().map(|(error, class, count)| {
            let more = [(names::STATUS_CLASS, class.into()), (names::ERROR, error.into())];
            (with(&labels, more), Sample::Counter(count))
        }));
        durations.push((labels, Sample::Durations(series.durations())));
    }
    writer.family(names::REQUESTS, "Requests, by status class and error.", &requests)?;
    writer.family(names::REQUEST_DURATION, "Durations of requests that were not refused, in seconds.", &durations)
}

fn write_breakers(writer: &mut Writer<'_>, snapshot: &Snapshot) -> fmt::Result {
    let readings = readings(snapshot);
    let each = |sample: &dyn Fn(&Reading) -> Sample| -> Vec<(Labels, Sample)> {
        readings.iter().map(|reading| (reading.labels.clone(), sample(reading))).collect()
    };
    let states: Vec<_> = readings
        .iter()
        .flat_map(|reading| {
            let current = state_word(reading.statistics.state);
            names::STATES.map(|state| {
                let labels = with(&reading.labels, [(names::STATE, state.into())]);
                (labels, Sample::Gauge(if state == current { 1.0 } else { 0.0 }))
            })
        })
        .collect();
    writer.family(names::BREAKER_STATE, "State of the breaker: exactly one is 1.", &states)?;
    let codes = each(&|reading| Sample::Gauge(state_code(reading.statistics.state)));
    writer.family(names::BREAKER_STATE_CODE, "State of the breaker: 0 closed, 1 half-open, 2 open.", &codes)?;
    let transitions: Vec<_> = readings.iter().flat_map(transition_samples).collect();
    writer.family(names::BREAKER_TRANSITIONS, "Changes of state.", &transitions)?;
    let rejected = each(&|reading| Sample::Counter(reading.rejected));
    writer.family(names::BREAKER_REJECTED, "Requests refused, or in Shadow those that would have been.", &rejected)?;
    let ratios: Vec<_> = readings
        .iter()
        .filter_map(|reading| Some((reading.labels.clone(), Sample::Gauge(reading.statistics.failure_ratio?))))
        .collect();
    writer.family(names::BREAKER_FAILURE_RATIO, "Share of failures in the current window, 0 to 1.", &ratios)?;
    let probes = each(&|reading| Sample::Gauge(f64::from(reading.statistics.probes_in_flight)));
    writer.family(names::BREAKER_PROBES, "Probes under way.", &probes)
}

fn readings(snapshot: &Snapshot) -> Vec<Reading> {
    let now = Instant::now();
    snapshot
        .breakers
        .values()
        .map(|installed| {
            let steps = installed.series.transitions().steps;
            Reading {
                labels: labels_of(installed.series.labels()),
                statistics: installed.breaker.statistics(now),
                rejected: installed.series.rejected(),
                steps: steps.into_iter().map(|(step, count)| (step.from, step.to, step.reason, count)).collect(),
            }
        })
        .collect()
}

fn transition_samples(reading: &Reading) -> impl Iterator<Item = (Labels, Sample)> + '_ {
    reading.steps.iter().map(|(from, to, reason, count)| {
        let more = [("from", state_word(*from).into()), ("to", state_word(*to).into()), ("reason", (*reason).into())];
        (with(&reading.labels, more), Sample::Counter(*count))
    })
}

fn write_proxy(writer: &mut Writer<'_>, page: &Page, snapshot: &Snapshot) -> fmt::Result {
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
    let report = page.health.report();
    let degraded = [("config", &report.config), ("control", &report.control), ("listeners", &report.listeners)];
    let parts = degraded.map(|(part, component)| {
        let healthy = component.status == HealthStatus::Healthy;
        (vec![("component", part.into())], Sample::Gauge(if healthy { 1.0 } else { 0.0 }))
    });
    writer.family("fusebox_proxy_component_healthy", "Whether a part of the proxy is healthy.", &parts)?;
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

fn labels_of(labels: &SeriesLabels) -> Labels {
    let SeriesLabels { policy_namespace, policy, target_namespace, target, side, port, rule } = labels;
    let side = match side {
        Side::Client => "client",
        Side::Server => "server",
    };
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
