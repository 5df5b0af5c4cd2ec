//! What the control port counts about itself.
//!
//! Labels are the stable reasons of this module's own types, so their number is bounded.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Registry};

use crate::metrics::Maker;

/// The control port's metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct ControlMetrics {
    pub(crate) streams: StreamMetrics,
    pub(crate) told: ToldMetrics,
    pub(crate) reports_dropped: IntCounterVec,
}

/// Who is connected, and who was not let in.
#[derive(Clone, Debug)]
pub(crate) struct StreamMetrics {
    pub(crate) proxies_connected: IntGauge,
    pub(crate) peers_connected: IntGauge,
    pub(crate) refused: IntCounterVec,
    pub(crate) ended: IntCounterVec,
    pub(crate) connections_refused: IntCounter,
}

/// What sidecars were told.
#[derive(Clone, Debug)]
pub(crate) struct ToldMetrics {
    pub(crate) configurations: IntCounterVec,
    pub(crate) endpoints: IntCounter,
    pub(crate) endpoints_left_out: IntCounter,
    pub(crate) references: IntCounter,
    pub(crate) references_left_out: IntCounter,
}

impl ControlMetrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// When one of the names is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let make = Maker(registry.clone());
        Ok(Self {
            streams: StreamMetrics::make(&make)?,
            told: ToldMetrics::make(&make)?,
            reports_dropped: make.counters(
                "reports_dropped_total",
                "Reports of breakers and limits that were dropped, by reason.",
                &["reason"],
            )?,
        })
    }
}

impl StreamMetrics {
    fn make(make: &Maker) -> Result<Self, prometheus::Error> {
        Ok(Self {
            proxies_connected: make
                .gauge("proxies_connected", "Sidecars with a live control stream to this replica.")?,
            peers_connected: make
                .gauge("peers_connected", "Followers that forward their sidecars' reports to this replica.")?,
            refused: make.counters(
                "streams_refused_total",
                "Requests to the control port that were refused, by reason.",
                &["reason"],
            )?,
            ended: make.counters("streams_ended_total", "Control streams that ended, by reason.", &["reason"])?,
            connections_refused: make.counter(
                "connections_refused_total",
                "Connections to the control port that were closed because there were too many.",
            )?,
        })
    }
}

impl ToldMetrics {
    fn make(make: &Maker) -> Result<Self, prometheus::Error> {
        Ok(Self {
            configurations: make.counters(
                "proxy_configurations_total",
                "Configurations by what became of them: sent, acknowledged or refused.",
                &["result"],
            )?,
            endpoints: make
                .counter("endpoints_sent_total", "Messages to sidecars that say who stands behind Services.")?,
            endpoints_left_out: make.counter(
                "endpoints_left_out_total",
                "Service ports that such messages left out because they have too many endpoints.",
            )?,
            references: make.counter(
                "references_sent_total",
                "Messages to sidecars with the values that their configuration names.",
            )?,
            references_left_out: make.counter(
                "references_left_out_total",
                "Values that such messages left out because they would have been too long.",
            )?,
        })
    }
}
