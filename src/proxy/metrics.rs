//! The metrics page, written from the state itself whenever it is read.
//!
//! It must not keep numbers of its own: gauges are read from the breakers and counters from the rules'
//! series, so a metric can't disagree with the state. Series come from the configuration alone.

mod circuit_breaker;
mod proxy;
mod rate_limit;
mod writer;

use std::fmt;
use std::sync::Arc;

use fusebox_policy::config::Side;
use fusebox_policy::metrics as names;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, text};
use prometheus_client::registry::Registry;

use self::circuit_breaker::{rows, write_breakers};
use self::proxy::{write_process, write_proxy};
use self::rate_limit::write_limits;
use self::writer::{Labels, Sample, Writer, with};
use crate::enforcer::Enforcer;
use crate::health::Health;
use crate::series::{Series, SeriesLabels};
use crate::snapshot::Snapshot;

/// The content type of the page.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the page is written from.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// What is in force.
    pub(crate) enforcer: Arc<Enforcer>,
    /// How the parts fare.
    pub(crate) health: Arc<Health>,
}

/// Rules of which all series are written; those nobody used come last.
const MAX_RULES_SHOWN: usize = 1_000;

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
