//! The families of the proxy itself: connections, configuration, health, and the process it runs in.
//!
//! They exist without any policy, so that a sidecar that has none yet can be seen.

use std::fmt;

use fusebox_policy::metrics as names;

use super::Page;
use super::writer::{Labels, Sample, Writer, number};
use crate::access_log::AccessLog;
use crate::health::HealthStatus;
use crate::process::ProcessUse;
use crate::snapshot::Snapshot;
use crate::state_file;

/// Writes what is of the proxy and of no rule.
pub(super) fn write_proxy(writer: &mut Writer<'_>, page: &Page, snapshot: &Snapshot) -> fmt::Result {
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

/// Writes what the kernel says of the process.
pub(super) fn write_process(writer: &mut Writer<'_>) -> fmt::Result {
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
