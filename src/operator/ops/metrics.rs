//! What the operations API counts about itself.
//!
//! Labels are our own verbs and resources and HTTP's codes, so their number is bounded whatever is asked.

use prometheus::{IntCounter, IntCounterVec, Registry};

use crate::metrics::Maker;

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
        let make = Maker(registry.clone());
        Ok(Self {
            requests: make.counters(
                "operations_requests_total",
                "Requests to the operations API, by what was asked for and the answer's code.",
                &["resource", "verb", "code"],
            )?,
            connections_refused: make.counter(
                "operations_connections_refused_total",
                "Connections to the operations API that were closed because there were too many.",
            )?,
        })
    }
}
