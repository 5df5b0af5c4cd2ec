//! What the operations API counts about itself.
//!
//! Labels are our own verbs and resources and HTTP's codes, so their number is bounded whatever is asked.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// The operations API's metrics; cheap to clone.
#[derive(Clone, Debug)]
pub struct OperationsMetrics {
    pub(crate) requests: IntCounterVec,
    pub(crate) connections_refused: IntCounter,
}

impl OperationsMetrics {
    /// Makes the metrics and registers them.
    ///
    /// # Errors
    /// When one of the names is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = Opts::new(
            "fusebox_operator_operations_requests_total",
            "Requests to the operations API, by what was asked for and the answer's code.",
        );
        let metrics = Self {
            requests: IntCounterVec::new(requests, &["resource", "verb", "code"])?,
            connections_refused: IntCounter::new(
                "fusebox_operator_operations_connections_refused_total",
                "Connections to the operations API that were closed because there were too many.",
            )?,
        };
        registry.register(Box::new(metrics.requests.clone()))?;
        registry.register(Box::new(metrics.connections_refused.clone()))?;
        Ok(metrics)
    }
}
