//! What the control port counts about itself.
//!
//! Labels are the stable reasons of this module's own types, so their number is bounded.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// The control port's metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct ControlMetrics {
    pub(crate) proxies_connected: IntGauge,
    pub(crate) peers_connected: IntGauge,
    pub(crate) streams_refused: IntCounterVec,
    pub(crate) streams_ended: IntCounterVec,
    pub(crate) configurations: IntCounterVec,
    pub(crate) reports_dropped: IntCounterVec,
    pub(crate) connections_refused: IntCounter,
    pub(crate) endpoints_sent: IntCounter,
    pub(crate) endpoints_left_out: IntCounter,
    pub(crate) references_sent: IntCounter,
    pub(crate) references_left_out: IntCounter,
}

impl ControlMetrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// When one of the names is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, label: &str| IntCounterVec::new(Opts::new(name, help), &[label]);
        let metrics = Self {
            proxies_connected: IntGauge::new(
                "fusebox_operator_proxies_connected",
                "Sidecars with a live control stream to this replica.",
            )?,
            peers_connected: IntGauge::new(
                "fusebox_operator_peers_connected",
                "Followers that forward their sidecars' reports to this replica.",
            )?,
            streams_refused: counters(
                "fusebox_operator_streams_refused_total",
                "Requests to the control port that were refused, by reason.",
                "reason",
            )?,
            streams_ended: counters(
                "fusebox_operator_streams_ended_total",
                "Control streams that ended, by reason.",
                "reason",
            )?,
            configurations: counters(
                "fusebox_operator_proxy_configurations_total",
                "Configurations by what became of them: sent, acknowledged or refused.",
                "result",
            )?,
            reports_dropped: counters(
                "fusebox_operator_reports_dropped_total",
                "Reports of breakers and limits that were dropped, by reason.",
                "reason",
            )?,
            connections_refused: IntCounter::new(
                "fusebox_operator_connections_refused_total",
                "Connections to the control port that were closed because there were too many.",
            )?,
            endpoints_sent: IntCounter::new(
                "fusebox_operator_endpoints_sent_total",
                "Messages to sidecars that say who stands behind Services.",
            )?,
            endpoints_left_out: IntCounter::new(
                "fusebox_operator_endpoints_left_out_total",
                "Service ports that such messages left out because they have too many endpoints.",
            )?,
            references_sent: IntCounter::new(
                "fusebox_operator_references_sent_total",
                "Messages to sidecars with the values that their configuration names.",
            )?,
            references_left_out: IntCounter::new(
                "fusebox_operator_references_left_out_total",
                "Values that such messages left out because they would have been too long.",
            )?,
        };
        let Self {
            proxies_connected,
            peers_connected,
            streams_refused,
            streams_ended,
            configurations,
            reports_dropped,
            connections_refused,
            endpoints_sent,
            endpoints_left_out,
            references_sent,
            references_left_out,
        } = metrics.clone();
        registry.register(Box::new(proxies_connected))?;
        registry.register(Box::new(peers_connected))?;
        registry.register(Box::new(streams_refused))?;
        registry.register(Box::new(streams_ended))?;
        registry.register(Box::new(configurations))?;
        registry.register(Box::new(reports_dropped))?;
        registry.register(Box::new(connections_refused))?;
        registry.register(Box::new(endpoints_sent))?;
        registry.register(Box::new(endpoints_left_out))?;
        registry.register(Box::new(references_sent))?;
        registry.register(Box::new(references_left_out))?;
        Ok(metrics)
    }
}
