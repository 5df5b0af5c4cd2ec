//! What the webhooks count: requests by result, and how long they take.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 2.5, 10.0];

/// The webhooks' metrics; cheap to clone, one shared content.
#[derive(Clone, Debug)]
pub struct AdmissionMetrics {
    /// Requests, by webhook and result.
    pub requests: IntCounterVec,
    /// How long they took, by webhook.
    pub duration: HistogramVec,
}

impl AdmissionMetrics {
    /// All at zero, in this registry.
    ///
    /// # Errors
    /// When a name is taken.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let requests = Opts::new("fusebox_webhook_requests_total", "Admission reviews by webhook and result");
        let requests = IntCounterVec::new(requests, &["webhook", "result"])?;
        let duration = HistogramOpts::new("fusebox_webhook_duration_seconds", "Duration of admission reviews");
        let duration = HistogramVec::new(duration.buckets(SECONDS.to_vec()), &["webhook"])?;
        registry.register(Box::new(requests.clone()))?;
        registry.register(Box::new(duration.clone()))?;
        Ok(Self { requests, duration })
    }
}
